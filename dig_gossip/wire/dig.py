"""Bodies of the DIG band, and of the Chia messages that ``chia_rs`` has no class for.

The payloads of 200 to 204, 207 and 208 belong to the application: they are carried, limited,
counted and forwarded, never looked into. Source: wire §7, §9, §12, §13.1, §13.5.
"""

from __future__ import annotations

import struct
from typing import ClassVar, TypeVar

import attrs
import chia_rs

from dig_gossip.constants import PLUMTREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.wire import streamable
from dig_gossip.wire.handshake import read_node_type
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType
from dig_gossip.wire.streamable import Reader, malformed, preview

_HASH_BYTES = 32
_ENTRY = struct.Struct("!32sB")
_ENTRY_BYTES = _ENTRY.size
_pack_entry = _ENTRY.pack
_unpack_entries = _ENTRY.iter_unpack
_NO_HASH = b"\x00"
_SOME_HASH = b"\x01"

_Opaque = TypeVar("_Opaque", bound="OpaqueBody")
_Empty = TypeVar("_Empty", bound="EmptyBody")


@attrs.frozen
class OpaqueBody:
    """A payload that only the application understands."""

    OPCODE: ClassVar[int]

    data: bytes = attrs.field(repr=preview)

    def __bytes__(self) -> bytes:
        return self.data

    @classmethod
    def from_bytes(cls: type[_Opaque], data: bytes) -> _Opaque:
        """Take the payload as it is; nothing is malformed."""
        return cls(data)


@attrs.frozen
class EmptyBody:
    """A message without a payload."""

    OPCODE: ClassVar[int]

    def __bytes__(self) -> bytes:
        return b""

    @classmethod
    def from_bytes(cls: type[_Empty], data: bytes) -> _Empty:
        """Require that there is nothing.

        :raises ClientError: (malformed) there is something.
        """
        if data:
            raise malformed(f"{cls.__name__} has no payload")
        return cls()


class NewAttestation(OpaqueBody):
    """200: flood, critical."""

    __slots__ = ()
    OPCODE = DigMessageType.NEW_ATTESTATION


class NewCheckpointProposal(OpaqueBody):
    """201: flood, critical."""

    __slots__ = ()
    OPCODE = DigMessageType.NEW_CHECKPOINT_PROPOSAL


class NewCheckpointSignature(OpaqueBody):
    """202: flood, critical."""

    __slots__ = ()
    OPCODE = DigMessageType.NEW_CHECKPOINT_SIGNATURE


class RequestCheckpointSignatures(OpaqueBody):
    """203: request, answered by 204."""

    __slots__ = ()
    OPCODE = DigMessageType.REQUEST_CHECKPOINT_SIGNATURES


class RespondCheckpointSignatures(OpaqueBody):
    """204: answer to 203."""

    __slots__ = ()
    OPCODE = DigMessageType.RESPOND_CHECKPOINT_SIGNATURES


class RequestStatus(EmptyBody):
    """205: request, answered by 206. Applications may use a payload of their own instead."""

    __slots__ = ()
    OPCODE = DigMessageType.REQUEST_STATUS


@attrs.frozen(kw_only=True)
class RespondStatus:
    """206: answer to 205, a proposal that applications may replace by their own.

    :ivar network_id: 32 bytes.
    :ivar peak_hash: 32 bytes.
    :ivar timestamp: Unix seconds.
    """

    OPCODE: ClassVar[int] = DigMessageType.RESPOND_STATUS

    network_id: bytes
    peak_hash: bytes
    peak_height: int
    finalized_height: int
    epoch: int
    timestamp: int

    def __bytes__(self) -> bytes:
        return b"".join(
            (
                streamable.raw(self.network_id, 32),
                streamable.raw(self.peak_hash, 32),
                streamable.uint(self.peak_height, 8),
                streamable.uint(self.finalized_height, 8),
                streamable.uint(self.epoch, 8),
                streamable.uint(self.timestamp, 8),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> RespondStatus:
        """Decode a body.

        :raises ClientError: (malformed) not exactly 96 bytes.
        """
        reader = Reader(data)
        body = cls(
            network_id=reader.raw(32),
            peak_hash=reader.raw(32),
            peak_height=reader.uint(8),
            finalized_height=reader.uint(8),
            epoch=reader.uint(8),
            timestamp=reader.uint(8),
        )
        reader.finish()
        return body


class NewCheckpointSubmission(OpaqueBody):
    """207: flood, normal."""

    __slots__ = ()
    OPCODE = DigMessageType.NEW_CHECKPOINT_SUBMISSION


class ValidatorAnnounce(OpaqueBody):
    """208: flood, bulk."""

    __slots__ = ()
    OPCODE = DigMessageType.VALIDATOR_ANNOUNCE


@attrs.frozen
class PlumtreeLazyAnnounce:
    """214: "I have these": 1..64 pairs of message hash (32 bytes) and opcode.

    Without a count, so that a single entry has upstream's bytes. Source: wire §13.1.
    """

    OPCODE: ClassVar[int] = DigMessageType.PLUMTREE_LAZY_ANNOUNCE

    entries: tuple[tuple[bytes, int], ...]

    def __bytes__(self) -> bytes:
        if not 1 <= len(self.entries) <= PLUMTREE_MAX_ANNOUNCE_ENTRIES:
            raise malformed(f"cannot announce {len(self.entries)} messages at once")
        try:
            # struct would pad or cut a hash of another length.
            parts = [_pack_entry(h, t) for h, t in self.entries if len(h) == _HASH_BYTES]
        except struct.error:
            raise malformed("an opcode is 0..255") from None
        if len(parts) != len(self.entries):
            raise malformed("a message hash has 32 bytes")
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> PlumtreeLazyAnnounce:
        """Decode a body.

        :raises ClientError: (malformed) no entry, too many, or part of one.
        """
        count, rest = divmod(len(data), _ENTRY_BYTES)
        if rest or not 1 <= count <= PLUMTREE_MAX_ANNOUNCE_ENTRIES:
            raise malformed(f"{len(data)} bytes are not 1..64 entries of 33")
        return cls(tuple(_unpack_entries(data)))


class PlumtreePrune(EmptyBody):
    """215: "send me only announcements"."""

    __slots__ = ()
    OPCODE = DigMessageType.PLUMTREE_PRUNE


@attrs.frozen
class PlumtreeGraft:
    """216: "send me full messages again", and first the one of this hash (32 bytes), if any."""

    OPCODE: ClassVar[int] = DigMessageType.PLUMTREE_GRAFT

    hash: bytes | None = None

    def __bytes__(self) -> bytes:
        if self.hash is None:
            return _NO_HASH
        return _SOME_HASH + streamable.raw(self.hash, _HASH_BYTES)

    @classmethod
    def from_bytes(cls, data: bytes) -> PlumtreeGraft:
        """Decode a body.

        :raises ClientError: (malformed) neither 0 alone nor 1 and a hash.
        """
        if data == _NO_HASH:
            return cls(None)
        if len(data) != 1 + _HASH_BYTES or data[:1] != _SOME_HASH:
            raise malformed("not an optional hash")
        return cls(data[1:])


@attrs.frozen
class PlumtreeRequestByHash:
    """217: "send me this one", a hash of 32 bytes, and nothing else changes."""

    OPCODE: ClassVar[int] = DigMessageType.PLUMTREE_REQUEST_BY_HASH

    hash: bytes

    def __bytes__(self) -> bytes:
        return streamable.raw(self.hash, _HASH_BYTES)

    @classmethod
    def from_bytes(cls, data: bytes) -> PlumtreeRequestByHash:
        """Decode a body.

        :raises ClientError: (malformed) not exactly 32 bytes.
        """
        return cls(streamable.raw(data, _HASH_BYTES))


@attrs.frozen
class RegisterPeer:
    """218: ask an introducer to remember us; answered by 219.

    :ivar ip: an IP literal; empty for "where this connection comes from".
    :ivar port: where we listen, 0..65535.
    :ivar node_type: 1..8.
    Source: wire §9.
    """

    OPCODE: ClassVar[int] = DigMessageType.REGISTER_PEER

    ip: str
    port: int
    node_type: int

    def __bytes__(self) -> bytes:
        return (
            streamable.text(self.ip)
            + streamable.uint(self.port, 2)
            + streamable.uint(self.node_type, 1)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> RegisterPeer:
        """Decode a body.

        :raises ClientError: (malformed) also for a node type outside 1..8.
        """
        reader = Reader(data)
        body = cls(ip=reader.text(), port=reader.uint(2), node_type=read_node_type(reader))
        reader.finish()
        return body


@attrs.frozen
class RegisterAck:
    """219: an introducer's answer to 218."""

    OPCODE: ClassVar[int] = DigMessageType.REGISTER_ACK

    success: bool

    def __bytes__(self) -> bytes:
        return streamable.flag(self.success)

    @classmethod
    def from_bytes(cls, data: bytes) -> RegisterAck:
        """Decode a body.

        :raises ClientError: (malformed) not exactly one byte, 0 or 1.
        """
        reader = Reader(data)
        body = cls(reader.flag())
        reader.finish()
        return body


class RequestPeersIntroducer(EmptyBody):
    """63: ask an introducer for peers; answered by 64."""

    __slots__ = ()
    OPCODE = ChiaMessageType.REQUEST_PEERS_INTRODUCER


@attrs.frozen
class RespondPeersIntroducer:
    """64: an introducer's answer to 63; the layout is that of ``RespondPeers``."""

    OPCODE: ClassVar[int] = ChiaMessageType.RESPOND_PEERS_INTRODUCER

    peer_list: tuple[chia_rs.TimestampedPeerInfo, ...]

    def __bytes__(self) -> bytes:
        return bytes(chia_rs.RespondPeers(list(self.peer_list)))

    @classmethod
    def from_bytes(cls, data: bytes) -> RespondPeersIntroducer:
        """Decode a body.

        :raises ClientError: (malformed) not a list of peers.
        """
        try:
            return cls(tuple(chia_rs.RespondPeers.from_bytes(data).peer_list))
        except ValueError as error:
            raise malformed(f"RespondPeersIntroducer: {error}") from None


class NoneResponse(EmptyBody):
    """91: "nothing", an answer that only peers with capability 4 understand."""

    __slots__ = ()
    OPCODE = ChiaMessageType.NONE_RESPONSE


@attrs.frozen
class ConfigureWindowSizes:
    """111: how many requests of each type may be open; pairs of opcode and u16, 0 for unlimited."""

    OPCODE: ClassVar[int] = ChiaMessageType.CONFIGURE_WINDOW_SIZES

    settings: tuple[tuple[int, int], ...]

    def __bytes__(self) -> bytes:
        return streamable.items(
            self.settings,
            lambda pair: streamable.uint(pair[0], 1) + streamable.uint(pair[1], 2),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> ConfigureWindowSizes:
        """Decode a body.

        :raises ClientError: (malformed) not a list of pairs.
        """
        reader = Reader(data)
        body = cls(reader.items(lambda: (reader.uint(1), reader.uint(2)), min_size=3))
        reader.finish()
        return body


@attrs.frozen
class ErrorMessage:
    """255: Chia's answer to a request that raised an error.

    :ivar code: Chia's ``Err``, i16.
    :ivar message: text of the peer's choosing; sanitize it before it is shown.
    """

    OPCODE: ClassVar[int] = ChiaMessageType.ERROR

    code: int
    message: str
    data: bytes | None = None

    def __bytes__(self) -> bytes:
        return (
            streamable.sint(self.code, 2)
            + streamable.text(self.message)
            + streamable.optional(self.data, streamable.blob)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> ErrorMessage:
        """Decode a body.

        :raises ClientError: (malformed) anything else.
        """
        reader = Reader(data)
        body = cls(reader.sint(2), reader.text(), reader.optional(reader.blob))
        reader.finish()
        return body
