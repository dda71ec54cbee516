"""Messages that await their verdict."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import HoldReading, ReleaseReading, Validate
from dig_gossip.gossip.link import Link
from dig_gossip.gossip.seen import Sighting, Stage
from dig_gossip.gossip.validation import PendingMessages
from dig_gossip.wire.message import Message
from tests.gossip.engine_case import A, B, attestation

DIGEST = bytes(32)


class PendingMessagesTests(SynchronousTestCase):
    """The book of open questions."""

    def setUp(self) -> None:
        self.pending = PendingMessages(100)
        self.link = Link(A, is_eager=True, score=0.0, number=1)
        self.sighting = Sighting(Stage.PENDING, 0.0, A)

    def ask(self, message: Message) -> None:
        """Ask about a message."""
        effects = self.pending.ask(self.link, A, DIGEST, message, self.sighting)
        self.assertEqual(effects[-1], Validate(A, message, DIGEST))

    def test_question_is_settled_once(self) -> None:
        """The second verdict finds nothing.  PLT-104-X"""
        message = attestation("M")
        self.ask(message)
        self.assertIn(DIGEST, self.pending)
        settled = self.pending.settle(DIGEST)
        assert settled is not None
        self.assertEqual((settled.peer, settled.message), (A, message))
        self.assertIsNone(self.pending.settle(DIGEST))
        self.assertNotIn(DIGEST, self.pending)

    def test_repeated_question_counts_once(self) -> None:
        """Against the session and against the bytes.  PLT-104-X"""
        self.ask(attestation("x" * 50))
        self.ask(attestation("x" * 50))
        self.assertEqual((self.link.pending, len(self.pending)), (1, 1))
        self.assertTrue(self.pending.has_room(self.link, attestation("x" * 38)))
        self.assertFalse(self.pending.has_room(self.link, attestation("x" * 39)))
        self.pending.settle(DIGEST)
        self.assertEqual((self.link.pending, len(self.pending)), (0, 0))

    def test_much_memory_holds_whoever_asks_for_more(self) -> None:
        """From half of the bytes on, until a quarter is used.  BP-104-X"""
        half = attestation("x" * 44)  # 50 bytes
        ask = self.pending.ask
        self.assertEqual(len(ask(self.link, A, b"1", half, self.sighting)), 1)
        other = Link(B, is_eager=True, score=0.0, number=2)
        self.assertEqual(ask(other, B, b"2", attestation("y"), self.sighting)[0], HoldReading(B))
        self.assertEqual(ask(other, B, b"3", attestation("z"), self.sighting)[:-1], [])
        self.assertEqual(self.pending.release(), [])
        self.pending.settle(b"1")
        self.assertEqual(self.pending.release(), [ReleaseReading(B)])
        self.assertEqual(self.pending.release(), [])
