"""Bodies of the frames that build and use trees with tags, opcodes 242 to 245, capability 207.

A tag is a number that whoever opens a tree draws, 1..65535; two trees with one tag are one tree.
A message that runs in a tree carries the tag in the place of the correlation id, which gossip does
not use; its hash does not change by that. In announcements and pulls a message goes by the first
eight bytes of its hash: nobody can make a second message with these for somebody else's message
in the time that counts. Source: our own extension, :doc:`/wire`.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final

import attrs

from dig_gossip.constants import TREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.wire.opcodes import DigMessageType, RoutingClass, routing_class
from dig_gossip.wire.streamable import malformed

SHORT_HASH_BYTES: Final = 8
MAX_TAG: Final = 65_535
MAX_DISTANCE_MS: Final = 65_535

_OPEN = struct.Struct("!HH")
_TAG = struct.Struct("!H")
_ALARM: Final = b"\x01"
_MAX_ANNOUNCE_BYTES: Final = TREE_MAX_ANNOUNCE_ENTRIES * SHORT_HASH_BYTES

#: By opcode, whether a message may carry a tag: it is flooded, with an id as well as without, and
#: crosses every link in the same form.
MAY_HAVE_TAG: Final = tuple(
    routing_class(opcode, False) is routing_class(opcode, True) is RoutingClass.FLOOD
    and opcode != DigMessageType.NEW_COMPACT_BLOCK
    for opcode in range(256)
)

#: The same towards a peer that has no such trees.
NO_TAGS: Final = (False,) * 256


@attrs.frozen
class TreeOpen:
    """242: "here is a tree; graft yourself if you do not have it yet".

    :ivar tag: 1..65535.
    :ivar distance_ms: milliseconds from the root to the sender, as the sender believes, 0..65535.
    """

    OPCODE: ClassVar[int] = DigMessageType.TREE_OPEN

    tag: int
    distance_ms: int

    def __bytes__(self) -> bytes:
        return _OPEN.pack(self.tag, self.distance_ms)

    @classmethod
    def from_bytes(cls, data: bytes) -> TreeOpen:
        """Decode a body.

        :raises ClientError: (malformed) not exactly 4 bytes, or no tag.
        """
        if len(data) != _OPEN.size:
            raise malformed("the opening of a tree has 4 bytes")
        tag, distance = _OPEN.unpack(data)
        return cls(_checked_tag(tag), distance)


@attrs.frozen
class TreeAnnounce:
    """243: "I have these": 1..128 short hashes, 8 bytes each, without a count; or an alarm.

    :ivar is_alarm: somebody is silent. The one message in it did not come to the sender by itself,
        which had to ask for it; or there is none in it, and peers of the sender's are silent.
        In bytes, ``01`` at the end.
    """

    OPCODE: ClassVar[int] = DigMessageType.TREE_ANNOUNCE

    short_hashes: tuple[bytes, ...]
    is_alarm: bool = False

    def __bytes__(self) -> bytes:
        count = len(self.short_hashes)
        least, most = (0, 1) if self.is_alarm else (1, TREE_MAX_ANNOUNCE_ENTRIES)
        if not least <= count <= most:
            raise malformed(f"cannot announce {count} messages at once")
        if any(len(short) != SHORT_HASH_BYTES for short in self.short_hashes):
            raise malformed("a short hash has 8 bytes")
        return b"".join(self.short_hashes) + (_ALARM if self.is_alarm else b"")

    @classmethod
    def from_bytes(cls, data: bytes) -> TreeAnnounce:
        """Decode a body.

        :raises ClientError: (malformed) no entry and no alarm, too many, or part of one.
        """
        shorts, is_alarm = split_announcement(data)
        return cls(tuple(shorts), is_alarm)


def split_announcement(data: bytes) -> tuple[list[bytes], bool]:
    """Decode the body of a :class:`TreeAnnounce` without making one, for the hot path.

    :returns: short hashes, and whether it is an alarm.
    :raises ClientError: (malformed) no entry and no alarm, too many, or part of one.
    """
    size = len(data)
    if size == SHORT_HASH_BYTES:
        return [data], False
    if size % SHORT_HASH_BYTES == 0 and 0 < size <= _MAX_ANNOUNCE_BYTES:
        return [data[at : at + 8] for at in range(0, size, 8)], False
    if data.endswith(_ALARM) and size in (1, 1 + SHORT_HASH_BYTES):
        return [data[:-1]] if size > 1 else [], True
    raise malformed(f"{size} bytes are neither 1..128 short hashes of 8 nor an alarm")


@attrs.frozen
class TreePrune:
    """244: "send me nothing of this tree in full".

    :ivar tag: 1..65535.
    """

    OPCODE: ClassVar[int] = DigMessageType.TREE_PRUNE

    tag: int

    def __bytes__(self) -> bytes:
        return _TAG.pack(self.tag)

    @classmethod
    def from_bytes(cls, data: bytes) -> TreePrune:
        """Decode a body.

        :raises ClientError: (malformed) not exactly 2 bytes, or no tag.
        """
        if len(data) != _TAG.size:
            raise malformed("the pruning of a tree has 2 bytes")
        return cls(_checked_tag(_TAG.unpack(data)[0]))


@attrs.frozen
class TreeGraft:
    """245: "send me what runs in this tree": a tag of 2 bytes, or a message's short hash of 8.

    With a short hash it is the tree in which that message came, and the message is sent at once.

    :ivar tag: 1..65535, or None.
    :ivar short_hash: 8 bytes, or None; exactly one of the two is given.
    """

    OPCODE: ClassVar[int] = DigMessageType.TREE_GRAFT

    tag: int | None
    short_hash: bytes | None = None

    def __bytes__(self) -> bytes:
        if (self.tag is None) is (self.short_hash is None):
            raise malformed("a graft names a tag or a message")
        if self.tag is not None:
            return _TAG.pack(self.tag)
        assert self.short_hash is not None
        if len(self.short_hash) != SHORT_HASH_BYTES:
            raise malformed("a short hash has 8 bytes")
        return self.short_hash

    @classmethod
    def from_bytes(cls, data: bytes) -> TreeGraft:
        """Decode a body.

        :raises ClientError: (malformed) neither 2 bytes with a tag nor 8 bytes.
        """
        if len(data) == SHORT_HASH_BYTES:
            return cls(None, data)
        if len(data) != _TAG.size:
            raise malformed("a graft has 2 bytes or 8")
        return cls(_checked_tag(_TAG.unpack(data)[0]))


def _checked_tag(tag: int) -> int:
    if not tag:
        raise malformed("0 is no tag")
    return tag
