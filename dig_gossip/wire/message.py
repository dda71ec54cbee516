"""The envelope around every body: opcode, optional correlation id, data.

Own code because ``chia_rs.Message`` refuses opcodes it does not know. Source: wire §4.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Sequence
from hashlib import sha256
from types import ModuleType

import attrs

from dig_gossip.wire.streamable import malformed, preview

_PLAIN = struct.Struct("!BBI")
_WITH_ID = struct.Struct("!BBHI")
_unpack_plain = _PLAIN.unpack_from
_unpack_with_id = _WITH_ID.unpack_from
_pack_plain = _PLAIN.pack
_pack_with_id = _WITH_ID.pack
_new = object.__new__

#: The preimage of a message hash begins with the opcode's byte.
_OPCODE_BYTES = tuple(bytes((opcode,)) for opcode in range(256))
#: Data up to this many bytes is cheaper to copy than to hash in a second step.
_COPY_LIMIT = 4096


@attrs.frozen(slots=True, init=False, repr=False)
class Message:
    """One message of the wire protocol.

    One object is shared by every session, cache and subscription that handles the message, so it
    really is immutable. The initializer checks; :meth:`from_bytes` knows that its values fit and
    fills the slots directly, which is what the hot path can afford.

    :ivar type: opcode, 0..255; numbers nobody knows are fine.
    :ivar id: correlation id, 0..65535, or None.
    :ivar data: the encoded body.
    """

    type: int
    id: int | None
    data: bytes

    def __init__(self, type: int, id: int | None, data: bytes) -> None:  # noqa: A002
        """Build a message to send.

        :raises ValueError: a number is out of range.
        :raises TypeError: a number is not an integer, or the data is not bytes.
        """
        if (
            id is not None
            or type.__class__ is not int
            or data.__class__ is not bytes
            or not 0 <= type <= 255
        ):
            type, id, data = _checked(type, id, data)  # noqa: A001
        set_type(self, type)
        set_id(self, id)
        set_data(self, data)

    def __bytes__(self) -> bytes:
        return self.head + self.data

    @property
    def head(self) -> bytes:
        """What stands before the data when it is serialized; 6 or 8 bytes."""
        if self.id is None:
            return _pack_plain(self.type, 0, len(self.data))
        return _pack_with_id(self.type, 1, self.id, len(self.data))

    def __len__(self) -> int:
        """Serialized length in bytes."""
        return len(self.data) + (6 if self.id is None else 8)

    def __repr__(self) -> str:
        return f"Message(type={self.type}, id={self.id}, data={preview(self.data)})"

    @classmethod
    def from_bytes(cls, frame: bytes) -> Message:
        """Decode one whole frame.

        :raises ClientError: (malformed) short, over-long, or an id tag other than 0 and 1.
        """
        opcode, message_id, start = _read_head(frame, len(frame))
        self = _new(cls)
        set_type(self, opcode)
        set_id(self, message_id)
        set_data(self, frame[start:])
        return self

    @classmethod
    def from_pieces(cls, pieces: Sequence[bytes | memoryview]) -> Message:
        """Decode one whole frame that came in pieces, without joining more than the data.

        :param pieces: at least one; the first has 8 bytes, or it is the only one.
        :raises ClientError: as :meth:`from_bytes`.
        """
        first = pieces[0]
        opcode, message_id, start = _read_head(first, sum(map(len, pieces)))
        self = _new(cls)
        set_type(self, opcode)
        set_id(self, message_id)
        set_data(self, b"".join((first[start:], *pieces[1:])))
        return self


def _read_head(frame: bytes | memoryview, size: int) -> tuple[int, int | None, int]:
    """Read opcode and id, check everything, and say where the data begins."""
    try:
        opcode, tag, length = _unpack_plain(frame)
        if tag == 0:
            message_id = None
            start = 6
        elif tag == 1:
            opcode, tag, message_id, length = _unpack_with_id(frame)
            start = 8
        else:
            raise malformed("tag of the id is neither 0 nor 1")
    except struct.error:
        raise malformed("envelope is truncated") from None
    if size - start != length:
        raise malformed("length of data does not match")
    return opcode, message_id, start


# A slot's own setter is not stopped by the frozen __setattr__. For code that makes messages by the
# hundred thousand, of values that fit.
set_type, set_id, set_data = (Message.__dict__[name].__set__ for name in ("type", "id", "data"))


def _checked(opcode: int, message_id: int | None, data: bytes) -> tuple[int, int | None, bytes]:
    if not 0 <= (opcode := operator.index(opcode)) <= 255:
        raise ValueError(f"type must be 0..255, not {opcode}")
    message_id = None if message_id is None else operator.index(message_id)
    if message_id is not None and not 0 <= message_id <= 65535:
        raise ValueError(f"id must be 0..65535 or None, not {message_id}")
    if data.__class__ is not bytes:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, not {data.__class__.__name__}")
        data = bytes(data)
    return opcode, message_id, data


def message_hash_pure(message: Message) -> bytes:
    """Name a message for gossip: SHA-256 of opcode and data, 32 bytes; the id does not count.

    Source: wire §12, last paragraph.
    """
    data = message.data
    if len(data) <= _COPY_LIMIT:
        return sha256(_OPCODE_BYTES[message.type] + data).digest()
    state = sha256(_OPCODE_BYTES[message.type])
    state.update(data)
    return state.digest()


def _compiled() -> ModuleType | None:
    """The compiled form of what is done for every message, if it is there and does the same."""
    try:
        from dig_gossip.wire import _frames

        _frames.prepare(Message)
        into: list[Message | None] = []
        run = _frames.Run(None)
        run.add(Message(7, 8, b"abc"))
        (frame,) = run.take()
        _frames.take(frame, 0, len(frame), False, into)
        if into != [Message(7, 8, b"abc")]:
            return None
        _frames.speed_up()
        return _frames
    except (
        AttributeError,
        ImportError,
        TypeError,
    ):  # not built; or attrs keeps values in another way
        return None


#: ``_frames``, or None where Python has to do its work.
COMPILED = _compiled()

#: :func:`message_hash_pure`, or the same by the processor's own instructions for it.
message_hash: Callable[[Message], bytes] = getattr(COMPILED, "message_hash", message_hash_pure)
