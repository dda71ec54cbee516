"""Many messages as WebSocket frames, and frames as messages, in Python; pure.

The same is compiled where the package could be built with it, see :mod:`dig_gossip.wire.frames`.

What a client sends in one go is masked in one go: over the whole run of frames lies one repeated
key, and the key that stands in each frame's header is that one, turned to where the frame's payload
begins. So the work per frame is an exclusive-or of its header; one call of compiled code does the
rest, and a receiver that finds keys turned like that can take the mask off as quickly.

Source: RFC 6455 §5.2, §5.3; wire §4.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from dig_gossip.errors import ClientError
from dig_gossip.wire.masking import mask, mask_joined, unmask
from dig_gossip.wire.message import Message, set_data, set_id, set_type

FIN_BINARY: Final = 0x82
MASKED: Final = 0x80

# A frame's header and its message's envelope in one step. Short: payloads below 126 bytes; medium:
# below 64 KiB. Masked ones are packed as one number before the key, so that it can be masked too.
_SHORT_PLAIN = struct.Struct("!BBBBI")
_SHORT_WITH_ID = struct.Struct("!BBBBHI")
_MEDIUM_PLAIN = struct.Struct("!BBHBBI")
_MEDIUM_WITH_ID = struct.Struct("!BBHBBHI")
_MASKED_SHORT_PLAIN = struct.Struct("!HIBBI")
_MASKED_SHORT_WITH_ID = struct.Struct("!HIBBHI")
_MASKED_MEDIUM_PLAIN = struct.Struct("!IIBBI")
_MASKED_MEDIUM_WITH_ID = struct.Struct("!IIBBHI")
_ENVELOPE = struct.Struct("!BBI")

#: Payloads of this many bytes and more have a header that a run does not write.
LONG_FRAME_BYTES: Final = 65_536

#: A run whose pieces have so many bytes on average is not joined before it is encrypted.
_BULKY_PIECE: Final = 8192

_KEYS_AT_A_TIME: Final = 256
#: Masking keys that are drawn and not used yet.
new_keys: list[int] = []

#: How often, at most, the rest of a buffer is unmasked in one go for the sake of the next frames:
#: whoever changes the key with every other frame is not to make us do that each time.
_MAX_STREAMS: Final = 4

_new = object.__new__


class FrameRun:
    """Messages that leave together, as one run of unmasked frames.

    A message costs one ``struct`` call and two appends; its data is copied once at most, by
    :meth:`take`.

    :ivar size: bytes of the frames in it.
    Bounds: none of its own; the caller takes what it holds in time.
    """

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []
        self.size = 0

    def add(self, message: Message) -> None:
        """Add a message that is, envelope included, shorter than ``LONG_FRAME_BYTES``."""
        data = message.data
        parts = self._parts
        parts.append(self._head(message.type, message.id, len(data)))
        parts.append(data)

    def add_divided(self, opcode: int, begin: bytes, data: memoryview) -> None:
        """Add a message without an id, whose data is here in a short and a long piece.

        Bounded as in :meth:`add`.
        """
        self._parts += (self._head(opcode, None, len(begin) + len(data)) + begin, data)

    def take(self) -> list[bytes | memoryview]:
        """The frames as they are to be written; the run is empty afterwards.

        :returns: pieces, which the next call may overwrite.
        """
        parts, size = self._parts, self.size
        self._parts, self.size = [], 0
        return parts if size >= _BULKY_PIECE * len(parts) else [b"".join(parts)]

    def clear(self) -> None:
        """Forget what is in it."""
        self._parts, self.size = [], 0

    def _head(self, opcode: int, message_id: int | None, size: int) -> bytes:
        """Count a frame, and make what stands before its data."""
        if message_id is None:
            length = size + 6
            if length < 126:
                self.size += length + 2
                return _SHORT_PLAIN.pack(FIN_BINARY, length, opcode, 0, size)
            self.size += length + 4
            return _MEDIUM_PLAIN.pack(FIN_BINARY, 126, length, opcode, 0, size)
        length = size + 8
        if length < 126:
            self.size += length + 2
            return _SHORT_WITH_ID.pack(FIN_BINARY, length, opcode, 1, message_id, size)
        self.size += length + 4
        return _MEDIUM_WITH_ID.pack(FIN_BINARY, 126, length, opcode, 1, message_id, size)


class MaskedRun(FrameRun):
    """The same, masked; see the head of this module for how.

    What is added is what the mask over the whole run turns into frames: a header with the mask on
    already, and zeros for the key in it, of which the mask makes the key as it must be there.
    """

    __slots__ = ("_key", "_keys")

    def __init__(self) -> None:
        super().__init__()
        self._key = 0
        #: the key as a number, turned to each of the four places where a frame may begin
        self._keys: tuple[int, ...] = ()

    def take(self) -> list[bytes | memoryview]:
        parts, size = self._parts, self.size
        self._parts, self.size = [], 0
        key = self._key.to_bytes(4, "big")
        if size >= _BULKY_PIECE * len(parts):
            return [mask_joined(parts, size, key)]
        return [mask(b"".join(parts), key)]

    def _head(self, opcode: int, message_id: int | None, size: int) -> bytes:
        at = self.size
        if not at:
            self._key = key = new_key()
            twice = key << 32 | key
            self._keys = (
                key,
                twice >> 24 & 0xFFFFFFFF,
                twice >> 16 & 0xFFFFFFFF,
                twice >> 8 & 0xFFFFFFFF,
            )
        turned = self._keys[at & 3]
        length = size + (6 if message_id is None else 8)
        if length < 126:
            self.size = at + length + 6
            first = (0x8280 | length) ^ turned >> 16
            if message_id is None:
                return _MASKED_SHORT_PLAIN.pack(first, 0, opcode, 0, size)
            return _MASKED_SHORT_WITH_ID.pack(first, 0, opcode, 1, message_id, size)
        self.size = at + length + 8
        first = (0x82FE0000 | length) ^ turned
        if message_id is None:
            return _MASKED_MEDIUM_PLAIN.pack(first, 0, opcode, 0, size)
        return _MASKED_MEDIUM_WITH_ID.pack(first, 0, opcode, 1, message_id, size)


def new_key() -> int:
    """Draw the masking key of one run, a number of 32 bits."""
    # Asking the system for four bytes takes longer than everything else about a frame.
    if not new_keys:
        new_keys.extend(struct.unpack(f"!{_KEYS_AT_A_TIME}I", os.urandom(4 * _KEYS_AT_A_TIME)))
    return new_keys.pop()


def take_messages(
    data: bytes, at: int, is_masked: bool, into: list[Message | None]
) -> tuple[int, int]:
    """Take messages from the front of what came, as long as they come in whole ordinary frames.

    Ordinary is an unfragmented binary frame with a payload below 64 KiB, whose length is written
    as RFC 6455 demands, masked as its sender must. The first that is not, or is not complete,
    ends it; what that one means is for somebody else to find out.

    :param data: what came.
    :param at: where the first frame begins.
    :param is_masked: whether frames must be masked, else they must not be.
    :param into: gets the messages; None for a payload that is no message.
    :returns: where the first frame begins that was not taken; bytes of the payloads taken.
    Cost: O(bytes), however they are divided.
    """
    if is_masked:
        return _take_masked(data, at, into)
    # Everything local: this is the innermost loop of receiving.
    append, short, medium = into.append, _SHORT_PLAIN.unpack_from, _MEDIUM_PLAIN.unpack_from
    new, type_of, id_of, data_of, message_class = _new, set_type, set_id, set_data, Message
    end = len(data)
    last = end - 8  # where the last frame can begin that a read of `short` sees
    octets = 0
    while at <= last:
        head, length, opcode, tag, size = short(data, at)
        if length < 126:
            start = at + 8
        elif length == 126 and at + 2 <= last:
            head, _, length, opcode, tag, size = medium(data, at)
            if length < 126:
                break
            start = at + 10
        else:
            break
        stop = start + length - 6
        if stop > end or head != FIN_BINARY:
            break
        if tag == 0 and size == length - 6:
            message = new(message_class)
            type_of(message, opcode)
            id_of(message, None)
            data_of(message, data[start:stop])
            append(message)
        else:
            append(_decoded(data[start - 6 : stop]))
        octets += length
        at = stop
    return at, octets


def _take_masked(data: bytes, at: int, into: list[Message | None]) -> tuple[int, int]:
    append, envelope = into.append, _ENVELOPE.unpack_from
    new, type_of, id_of, data_of, message_class = _new, set_type, set_id, set_data, Message
    last = len(data) - 14  # where the last frame can begin whose header and envelope are complete
    end = len(data)
    octets = 0
    # `plain` is what follows `base` without its mask; of `turned` each payload in it has the key
    # that belongs to the place where it begins.
    plain, base, turned, streams = b"", 0, _NO_KEYS, _MAX_STREAMS
    while at <= last:
        length = data[at + 1] ^ MASKED
        if length < 126:
            start = at + 6
        elif length == 126:
            length = data[at + 2] << 8 | data[at + 3]
            if length < 126:
                break
            start = at + 8
        else:
            break
        stop = start + length
        if stop > end or data[at] != FIN_BINARY:
            break
        key = data[start - 4 : start]
        if key != turned[start - base & 3]:
            base = start
            if streams and _goes_on(data, start, stop, key):
                streams -= 1
                plain = mask(data[start:], key)
                turned = (key, key[1:] + key[:1], key[2:] + key[:2], key[3:] + key[:3])
            else:
                plain = mask(data[start:stop], key)
                turned = _NO_KEYS
        begin = start - base
        if length >= 6:
            opcode, tag, size = envelope(plain, begin)
        else:
            tag = -1
        if tag == 0 and size == length - 6:
            message = new(message_class)
            type_of(message, opcode)
            id_of(message, None)
            data_of(message, plain[begin + 6 : begin + length])
            append(message)
        else:
            append(_decoded(plain[begin : begin + length]))
        octets += length
        at = stop
    return at, octets


def take_from_view(
    memory: memoryview, at: int, end: int, is_masked: bool, into: list[Message | None]
) -> tuple[int, int]:
    """Do what :func:`take_messages` does, for large messages in memory that may be written to.

    The mask is taken off in place, and only the data of a message is copied.

    :param memory: bytes; ``at`` and ``end`` are where in it the first frame and the last byte are.
    Cost: O(bytes), and a call of compiled code for each masked frame.
    """
    octets = 0
    while end - at >= 4:
        head, length = memory[at], memory[at + 1]
        if is_masked:
            length ^= MASKED
        start = at + 2
        if length == 126:
            length = memory[at + 2] << 8 | memory[at + 3]
            if length < 126:
                break
            start = at + 4
        elif length > 126:
            break
        if is_masked:
            start += 4
        stop = start + length
        if stop > end or head != FIN_BINARY:
            break
        if is_masked:
            unmask(memory[start:stop], bytes(memory[start - 4 : start]))
        opcode, tag, size = _ENVELOPE.unpack_from(memory, start) if length >= 6 else (0, -1, 0)
        if tag == 0 and size == length - 6:
            message = _new(Message)
            set_type(message, opcode)
            set_id(message, None)
            set_data(message, bytes(memory[start + 6 : stop]))
            into.append(message)
        else:
            into.append(_decoded(bytes(memory[start:stop])))
        octets += length
        at = stop
    return at, octets


_NO_KEYS: Final = (b"", b"", b"", b"")


def _goes_on(data: bytes, start: int, stop: int, key: bytes) -> bool:
    """Whether the frame after this one has the key that it has in one run with this one."""
    if stop + 2 > len(data):
        return False
    following = stop + (6 if data[stop + 1] & 0x7F < 126 else 8)
    turn = following - start & 3
    return data[following - 4 : following] == key[turn:] + key[:turn]


def _decoded(payload: bytes) -> Message | None:
    try:
        return Message.from_bytes(payload)
    except ClientError:
        return None
