"""Large messages in pieces, so that nothing urgent waits for more than one piece; pure.

A message above 64 KiB, between sessions that both advertise capability 205, travels as
``MessageChunk`` frames (opcode 241, no id)::

    transfer_id u32 | total_length u32 | offset u32 | data, at most 32 KiB

which reassemble to the complete envelope. Several transfers may be under way; within one the
pieces come in order. What breaks a rule is a violation of the protocol: the transfer is forgotten.

Source: design D9.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from dig_gossip.errors import ClientError, ClientErrorKind
from dig_gossip.wire.frames import OutboundFrame, Run
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType

CHUNK_BYTES: Final = 32_768
CHUNK_THRESHOLD_BYTES: Final = 65_536
MAX_TRANSFERS: Final = 4

#: Of a chunk message: opcode, no id, length.
ENVELOPE_BYTES: Final = 6

_HEAD: Final = struct.Struct("!III")
_CHUNK: Final = int(DigMessageType.MESSAGE_CHUNK)


class Cut:
    """A message on its way out in chunks.

    :param frame: the message.
    :param transfer_id: 0..2^32 - 1, not in use by another transfer of this session.
    """

    __slots__ = ("_at", "_data", "_frame", "_head", "_id")

    def __init__(self, frame: OutboundFrame, transfer_id: int) -> None:
        self._frame = frame
        self._head = frame.message.head
        self._data = memoryview(frame.message.data)
        self._id = transfer_id
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self._at >= self._frame.size

    @property
    def next_size(self) -> int:
        """Bytes of the next chunk message's body."""
        return _HEAD.size + min(CHUNK_BYTES, self._frame.size - self._at)

    def next_chunk(self) -> OutboundFrame:
        """Cut off one chunk; the first one bears the message's ``written``."""
        at, head = self._at, b"" if self._at else self._head
        begin = at - len(self._head)
        self._at = min(at + CHUNK_BYTES, self._frame.size)
        data = self._data[max(0, begin) : begin + CHUNK_BYTES]
        body = b"".join((_HEAD.pack(self._id, self._frame.size, at), head, data))
        return OutboundFrame(Message(_CHUNK, None, body), None if at else self._frame.written)

    def fill(self, run: Run, room: int, may_go: Callable[[int, int], bool]) -> tuple[int, int]:
        """Cut off chunks, but not the first one, straight into a run: what they hold is not copied.

        :param room: stop at the first chunk with which the run is at least so large, bytes.
        :param may_go: charges for a chunk's opcode and size, or says no.
        :returns: how many, and the serialized bytes of their messages.
        """
        count, octets, total, at, data = 0, 0, self._frame.size, self._at, self._data
        begins = len(self._head)
        while at < total and run.size < room:
            stop = min(at + CHUNK_BYTES, total)
            size = _HEAD.size + stop - at
            if not may_go(_CHUNK, size):
                break
            head = _HEAD.pack(self._id, total, at)
            run.add_divided(_CHUNK, head, data[at - begins : stop - begins])
            count += 1
            octets += size
            at = stop
        self._at = at
        return count, octets + count * ENVELOPE_BYTES


class _Transfer:
    __slots__ = ("held", "pieces", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.held = 0
        self.pieces: list[memoryview] = []


class Reassembly:
    """The transfers that a session is receiving.

    Memory is spent only on bytes that have arrived, at most ``limit_of`` the opcode per transfer.
    They stay in the chunks in which they came and are copied once, when all are there.

    :param limit_of: the largest envelope, in bytes, that may come with an opcode.
    :ivar held: how much of unfinished messages is held, bytes.
    Bounds: 4 transfers.
    """

    def __init__(self, limit_of: Callable[[int], int]) -> None:
        self._limit_of = limit_of
        self._transfers: dict[int, _Transfer] = {}
        self.held = 0

    def __len__(self) -> int:
        return len(self._transfers)

    def received(self, body: bytes) -> Message | None:
        """Take in the body of one chunk message.

        :returns: the complete message with the last piece, else None.
        :raises ClientError: (malformed) a piece out of order, of no transfer, too many
            transfers, a transfer within a transfer, one larger than its opcode may be, or of
            something that is no message.
        """
        size = len(body) - _HEAD.size
        if not 0 < size <= CHUNK_BYTES:
            raise _broken("a chunk of an impossible size")
        transfer_id, total, offset = _HEAD.unpack_from(body)
        transfer = self._transfers.get(transfer_id)
        if transfer is None:
            opcode = body[_HEAD.size]
            if offset:
                raise _broken("a chunk of no transfer")
            if len(self._transfers) >= MAX_TRANSFERS:
                raise _broken("too many transfers at a time")
            if opcode == _CHUNK or total > self._limit_of(opcode):
                raise _broken("a transfer larger than its message may be")
            transfer = self._transfers[transfer_id] = _Transfer(total)
        end = offset + size
        if (
            offset != transfer.held
            or total != transfer.total
            or end > total
            or (size < CHUNK_BYTES and end != total)
        ):
            self._forget(transfer_id)
            raise _broken("a chunk out of order")
        transfer.pieces.append(memoryview(body)[_HEAD.size :])
        transfer.held = end
        self.held += size
        if end < total:
            return None
        self._forget(transfer_id)
        return Message.from_pieces(transfer.pieces)

    def clear(self) -> None:
        """Forget everything; the session is over."""
        self._transfers.clear()
        self.held = 0

    def _forget(self, transfer_id: int) -> None:
        self.held -= self._transfers.pop(transfer_id).held


def _broken(text: str) -> ClientError:
    return ClientError(ClientErrorKind.MALFORMED, text)
