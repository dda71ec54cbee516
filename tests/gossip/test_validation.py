"""Messages that await their verdict."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Validate
from dig_gossip.gossip.link import Link
from dig_gossip.gossip.seen import Sighting, Stage
from dig_gossip.gossip.validation import PendingMessages
from dig_gossip.wire.message import Message
from tests.gossip.engine_case import A, attestation

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
        self.assertEqual(effects, [Validate(A, message, DIGEST)])

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
