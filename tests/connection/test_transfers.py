"""Large messages in pieces."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.transfers import CHUNK_BYTES, MAX_TRANSFERS, Cut, Reassembly
from dig_gossip.errors import ClientError
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message


def chunk(transfer: int, total: int, offset: int, data: bytes) -> bytes:
    return struct.pack("!III", transfer, total, offset) + data


def split(frame: OutboundFrame, transfer: int) -> Iterator[OutboundFrame]:
    """All chunks of a message, one by one."""
    cut = Cut(frame, transfer)
    while not cut.is_done:
        yield cut.next_chunk()


class TransferTests(SynchronousTestCase):
    """``split`` and ``Reassembly``."""

    def setUp(self) -> None:
        self.reassembly = Reassembly(lambda _opcode: 10 * CHUNK_BYTES)

    @given(st.integers(0, 5 * CHUNK_BYTES), st.none() | st.integers(0, 65535))
    def test_what_is_split_comes_back(self, size: int, message_id: int | None) -> None:
        """For any size, id and opcode.  design D9"""
        message = Message(30, message_id, bytes(size))
        pieces = list(split(OutboundFrame(message), 7))
        results = [self.reassembly.received(piece.message.data) for piece in pieces]
        self.assertEqual(results[:-1], [None] * (len(pieces) - 1))
        self.assertEqual(results[-1], message)
        self.assertEqual((len(self.reassembly), self.reassembly.held), (0, 0))
        for piece in pieces:
            self.assertIsNone(piece.message.id)
            self.assertLessEqual(len(piece.message.data), 12 + CHUNK_BYTES)

    def test_transfers_interleave(self) -> None:
        """Up to four at a time; the fifth is refused, the others go on.  design D9"""
        messages = [Message(30, None, bytes([n]) * 2 * CHUNK_BYTES) for n in range(5)]
        pieces = [list(split(OutboundFrame(m), n)) for n, m in enumerate(messages)]
        for n in range(MAX_TRANSFERS):
            self.reassembly.received(pieces[n][0].message.data)
        self.assertRaises(ClientError, self.reassembly.received, pieces[4][0].message.data)
        for n in range(MAX_TRANSFERS):
            self.reassembly.received(pieces[n][1].message.data)
            whole = self.reassembly.received(pieces[n][2].message.data)
            self.assertEqual(whole, messages[n])

    def test_rules_that_can_be_broken(self) -> None:
        """Each is refused; nothing is left of the transfer.  design D9"""
        full = bytes([30]) * CHUNK_BYTES
        for bodies in (
            [b""],
            [bytes(12)],
            [chunk(1, 9, 0, bytes(CHUNK_BYTES + 1))],
            [chunk(1, 2 * CHUNK_BYTES, 5, full)],
            [chunk(1, 2 * CHUNK_BYTES, 0, full), chunk(1, 2 * CHUNK_BYTES, 0, full)],
            [chunk(1, 2 * CHUNK_BYTES, 0, full), chunk(1, 3 * CHUNK_BYTES, CHUNK_BYTES, full)],
            [chunk(1, CHUNK_BYTES + 1, 0, full), chunk(1, CHUNK_BYTES + 1, CHUNK_BYTES, full)],
            [chunk(1, CHUNK_BYTES, 0, b"\x1e")],
            [chunk(1, 10 * CHUNK_BYTES + 1, 0, full)],
            [chunk(1, 2 * CHUNK_BYTES, 0, bytes([241]) * CHUNK_BYTES)],
        ):
            *good, bad = bodies
            for body in good:
                self.assertIsNone(self.reassembly.received(body))
            self.assertRaises(ClientError, self.reassembly.received, bad)
            self.assertEqual(len(self.reassembly), 0)

    @given(st.lists(st.binary(max_size=80), max_size=20))
    def test_any_bytes_are_taken_or_refused(self, bodies: list[bytes]) -> None:
        """No other exception, bounded memory.  design D14"""
        reassembly = Reassembly(lambda _opcode: 100)
        for body in bodies:
            try:
                reassembly.received(body)
            except ClientError:
                pass
            self.assertLessEqual(len(reassembly), MAX_TRANSFERS)
            self.assertLessEqual(reassembly.held, 100 * MAX_TRANSFERS)
