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
from collections.abc import Callable, Iterator
from typing import Final

from dig_gossip.errors import ClientError, ClientErrorKind
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType

CHUNK_BYTES: Final = 32_768
CHUNK_THRESHOLD_BYTES: Final = 65_536
MAX_TRANSFERS: Final = 4

_HEAD: Final = struct.Struct("!III")
_CHUNK: Final = int(DigMessageType.MESSAGE_CHUNK)


def split(frame: OutboundFrame, transfer_id: int) -> Iterator[OutboundFrame]:
    """Cut a message into chunk messages, in order.

    :param transfer_id: 0..2^32 - 1, not in use by another transfer of this session.
    """
    envelope = bytes(frame.message)
    for offset in range(0, len(envelope), CHUNK_BYTES):
        head = _HEAD.pack(transfer_id, len(envelope), offset)
        yield OutboundFrame(Message(_CHUNK, None, head + envelope[offset : offset + CHUNK_BYTES]))


class _Transfer:
    __slots__ = ("data", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.data = bytearray()


class Reassembly:
    """The transfers that a session is receiving.

    Memory is spent only on bytes that have arrived, at most ``limit_of`` the opcode per transfer.

    :param limit_of: the largest envelope, in bytes, that may come with an opcode.
    Bounds: 4 transfers.
    """

    def __init__(self, limit_of: Callable[[int], int]) -> None:
        self._limit_of = limit_of
        self._transfers: dict[int, _Transfer] = {}

    def __len__(self) -> int:
        return len(self._transfers)

    @property
    def held(self) -> int:
        """How much of unfinished messages is held."""
        return sum(len(transfer.data) for transfer in self._transfers.values())

    def received(self, body: bytes) -> bytes | None:
        """Take in the body of one chunk message.

        :returns: the complete envelope with the last piece, else None.
        :raises ClientError: (malformed) a piece out of order, of no transfer, too many
            transfers, a transfer within a transfer, or larger than its opcode may be.
        """
        if len(body) <= _HEAD.size or len(body) > _HEAD.size + CHUNK_BYTES:
            raise _broken("a chunk of an impossible size")
        transfer_id, total, offset = _HEAD.unpack_from(body)
        data = body[_HEAD.size :]
        transfer = self._transfers.get(transfer_id)
        if transfer is None:
            if offset:
                raise _broken("a chunk of no transfer")
            if len(self._transfers) >= MAX_TRANSFERS:
                raise _broken("too many transfers at a time")
            if data[0] == _CHUNK or total > self._limit_of(data[0]):
                raise _broken("a transfer larger than its message may be")
            transfer = self._transfers[transfer_id] = _Transfer(total)
        if (
            offset != len(transfer.data)
            or total != transfer.total
            or offset + len(data) > total
            or (len(data) < CHUNK_BYTES and offset + len(data) != total)
        ):
            del self._transfers[transfer_id]
            raise _broken("a chunk out of order")
        transfer.data += data
        if len(transfer.data) < total:
            return None
        del self._transfers[transfer_id]
        return bytes(transfer.data)


def _broken(text: str) -> ClientError:
    return ClientError(ClientErrorKind.MALFORMED, text)
