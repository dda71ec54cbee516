"""What a link begins with."""

from __future__ import annotations

from dig_gossip.effects import Effect, Send
from dig_gossip.gossip.recent import MAX_RECENT, RECENT_SECS
from dig_gossip.gossip.values import Verdict
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.trees import split_announcement
from tests.gossip.engine_case import (
    CHIA,
    FLOOD,
    A,
    B,
    C,
    E,
    EngineCase,
    announce,
    announced,
    attestation,
    graft,
    peak,
    pulled,
)
from tests.gossip.trees_case import TREES, TreesCase, pull, short, tell

M, N = attestation("M"), attestation("N")


class RecentTests(EngineCase):
    """Where there are no tags."""

    def told(self, effects: list[Effect]) -> list[bytes]:
        """The hashes in some announcements, in order."""
        found: list[bytes] = []
        for effect in effects:
            assert isinstance(effect, Send), effect
            found += announced(effect.message)
        return found

    def test_who_comes_is_told_of_what_has_just_passed(self) -> None:
        """Our own and those of others, whoever it is, oldest first.  PLT-003"""
        self.broadcast(N)
        self.peer_up(A)
        self.received(A, M)
        self.assertEqual(self.peer_up(B), [Send((B,), announce(N, M))])
        self.peer_down(A)
        self.assertEqual(self.peer_up(A), [Send((A,), announce(N, M))])
        self.assertEqual(self.engine.counters.ihaves_sent, 5)

    def test_what_was_lost_with_a_session_comes_through_the_next(self) -> None:
        """Pushed to nobody who got it; asked for and sent.  CON-105-X, PLT-005.2"""
        self.peer_up(A)
        self.assertEqual(self.broadcast(M).effects, [Send((A,), M)])
        self.peer_down(A)
        self.assertEqual(self.peer_up(A), [Send((A,), announce(M))])
        self.assertEqual(self.control(A, graft(M)), [pulled(A, M)])

    def test_other_mode_of_the_same_session_tells_again(self) -> None:
        """It has been outside the tree, where nobody is told of anything.  PLT-001"""
        self.peer_up(A, mode=FLOOD)
        self.broadcast(M)
        self.assertEqual(self.peer_up(A), [Send((A,), announce(M))])
        self.assertEqual(self.peer_up(A, score=2.0), [])

    def test_what_is_older_is_not_told(self) -> None:
        """Fifteen seconds; a message that is broadcast again is new again.  PLT-003, PLT-102-X"""
        for message in (M, N):
            self.broadcast(message)
        self.advance(RECENT_SECS)
        self.assertEqual(self.told(self.peer_up(A)), [message_hash(M), message_hash(N)])
        self.advance(0.001)
        self.assertEqual(self.peer_up(B), [])
        self.broadcast(M)
        self.assertEqual(self.told(self.peer_up(C)), [message_hash(M)])

    def test_who_cannot_ask_is_not_told(self) -> None:
        """Sessions outside the tree have no announcements.  D5"""
        self.broadcast(peak("M"))
        self.assertEqual(self.peer_up(A, mode=CHIA) + self.peer_up(B, mode=FLOOD), [])

    def test_what_must_not_spread_is_not_told(self) -> None:
        """Refused, not judged yet, or of a Chia session; accepted, it is.  PLT-104-X, D6"""
        self.peer_up(A)
        self.peer_up(E, mode=CHIA)
        self.received(E, peak("N"))
        for message in (M, N):
            self.received(A, message, needs_validation=True)
        self.validated(N, Verdict.REJECT)
        self.assertEqual(self.peer_up(B), [])
        self.validated(M, Verdict.ACCEPT)
        self.assertEqual(self.peer_up(C), [Send((C,), announce(M))])

    def test_what_is_not_kept_is_not_told(self) -> None:
        """Nobody could get it.  PLT-007"""
        self.build(cache_bytes=65_536)
        self.broadcast(attestation("x" * 65_536))
        self.assertEqual(self.peer_up(A), [])

    def test_number_is_bounded(self) -> None:
        """The latest, in frames that may be sent.  PLT-003"""
        self.assertGreater(PlumtreeConfig().cache_messages, MAX_RECENT)
        messages = [attestation(str(number)) for number in range(MAX_RECENT + 10)]
        for message in messages:
            self.broadcast(message)
        effects = self.peer_up(A)
        self.assertEqual(self.told(effects), [message_hash(m) for m in messages[10:]])
        self.assertEqual(len(effects), 4)


class RecentTaggedTests(TreesCase):
    """Where trees have tags."""

    def test_who_comes_is_told_by_short_hashes(self) -> None:
        """And gets what it asks for.  CON-105-X"""
        self.broadcast(M)
        self.received(A, N)
        self.assertEqual(self.peer_up(E, mode=TREES), [Send((E,), tell(M, N))])
        self.assertEqual(self.control(E, pull(M)), [pulled(E, M)])
        self.peer_down(B)
        self.assertEqual(self.peer_up(B, mode=TREES), [Send((B,), tell(M, N))])

    def test_who_has_no_tags_is_told_in_its_own_words(self) -> None:
        """Full hashes, with opcodes.  PLT-003"""
        self.broadcast(M)
        self.assertEqual(self.peer_up(E), [Send((E,), announce(M))])

    def test_number_is_bounded(self) -> None:
        """The latest, in frames that may be sent, and that are no alarms.  PLT-003"""
        messages = [attestation(str(number)) for number in range(MAX_RECENT + 1)]
        for message in messages:
            self.broadcast(message)
        frames: list[Message] = []
        for effect in self.peer_up(E, mode=TREES):
            assert isinstance(effect, Send)
            frames.append(effect.message)
        parts = [split_announcement(frame.data) for frame in frames]
        self.assertEqual([is_alarm for _, is_alarm in parts], [False, False])
        self.assertEqual(
            [each for shorts, _ in parts for each in shorts], [short(m) for m in messages[1:]]
        )
