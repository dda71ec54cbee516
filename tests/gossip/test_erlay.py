"""The transaction engine, event by event."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from unittest import mock

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.constants import ERLAY_MAX_PENDING, ERLAY_MAX_TRANSACTIONS
from dig_gossip.effects import (
    ClearTimer,
    Deliver,
    Effect,
    Penalize,
    Reply,
    Request,
    Send,
    SetTimer,
    Validate,
)
from dig_gossip.errors import ClientError
from dig_gossip.gossip import erlay, erlay_links
from dig_gossip.gossip.erlay import ROUND, Erlay, transaction_id
from dig_gossip.gossip.erlay_links import DecodeBudget, ErlayLink
from dig_gossip.gossip.flood_set import ROTATE
from dig_gossip.gossip.pacing import PACE
from dig_gossip.gossip.rounds import Dialer
from dig_gossip.gossip.seen import Stage
from dig_gossip.gossip.transactions import Transaction, Transactions
from dig_gossip.gossip.values import PeerMode, Verdict
from dig_gossip.testing.erlay_network import announcement
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.types.sections import ErlayConfig
from dig_gossip.wire.erlay import (
    ReconciliationResponse,
    ReconciliationSketch,
    ReconciliationStatus,
)
from dig_gossip.wire.message import Message, message_hash
from tests.gossip.engine_case import A, B, C, D, E, F, peer_id

VIOLATION = PenaltyReason.PROTOCOL_VIOLATION
SALT = bytes(16)


def tx_id(number: int) -> bytes:
    """The id of an announcement."""
    return announcement(number).data[:32]


class ErlayCase(SynchronousTestCase):
    """One engine, a clock, and words for what happens to it."""

    def setUp(self) -> None:
        """Make an engine with the defaults."""
        self.time = 100.0
        self.engine = self.make()

    def make(self, **options: object) -> Erlay:
        """Make an engine."""
        config = attrs.evolve(ErlayConfig(), **options)  # type: ignore[arg-type]
        return Erlay(config, now=lambda: self.time, rng=Random(1))

    def up(
        self, peers: Iterable[PeerId], *, outbound: bool = False, has_erlay: bool = True,
        mode: PeerMode = PeerMode.TREE,
    ) -> list[Effect]:  # fmt: skip
        """Let sessions begin."""
        effects: list[Effect] = []
        for peer in peers:
            effects += self.engine.peer_up(peer, mode, has_erlay=has_erlay, is_outbound=outbound)
        return effects

    def told(self, effects: Iterable[Effect]) -> dict[PeerId, list[Message]]:
        """What each peer is sent."""
        told: dict[PeerId, list[Message]] = {}
        for effect in effects:
            if isinstance(effect, Send):
                for peer in effect.peers:
                    told.setdefault(peer, []).append(effect.message)
        return told

    def delivered(self, effects: Iterable[Effect]) -> list[Message]:
        """What the application gets."""
        return [effect.message for effect in effects if isinstance(effect, Deliver)]

    def sketch(
        self, number: int | None = 1, *, capacity: int = 9, salt: bytes = SALT, offset: int = 0
    ) -> Message:
        """211 of nothing."""
        body = ReconciliationSketch(
            sketch=bytes(8 * (capacity - offset)), sketch_capacity=capacity, sketch_offset=offset,
            set_size=1, salt=salt,
        )  # fmt: skip
        return Message(body.OPCODE, number, bytes(body))

    def status(self, effects: list[Effect]) -> int:
        """What the engine answers."""
        (reply,) = (effect for effect in effects if isinstance(effect, Reply))
        return ReconciliationResponse.from_bytes(reply.message.data).status

    def answer(self, status: int, size: int = 0, missing: tuple[int, ...] = ()) -> Message:
        """212."""
        body = ReconciliationResponse(status=status, set_size=size, missing=missing)
        return Message(body.OPCODE, 7, bytes(body))


class FloodTests(ErlayCase):
    """Who is told at once."""

    def test_one_outbound_peer_is_flooded_and_all_others_wait(self) -> None:
        """The rest is pending until sets are compared.  ERL-001, ERL-002, ERL-007"""
        self.up([A, B, C], outbound=True)
        self.up([D, E])
        (flooded,) = self.engine.snapshot().flooded
        self.assertIn(flooded, (A, B, C))
        result = self.engine.broadcast(announcement(1))
        self.assertEqual(self.told(result.effects), {flooded: [announcement(1)]})
        self.assertEqual(result.announced, 0)
        pending = self.engine.snapshot().pending
        self.assertEqual(set(pending.values()), {1})
        self.assertEqual(set(pending), {A, B, C, D, E} - {flooded})

    def test_flood_peer_count(self) -> None:
        """None, some, or all outbound peers; never one that dialed us.  ERL-001, ERL-008"""
        for count, expected in ((0, 0), (2, 2), (256, 3)):
            self.engine = self.make(flood_peer_count=count)
            effects = self.up([A, B, C], outbound=True)
            self.up([D, E])
            flooded = self.engine.snapshot().flooded
            self.assertEqual(len(flooded), expected)
            for _ in range(10):
                self.assertLessEqual(flooded, {A, B, C})
                self.engine.timer_fired((ROTATE, b""))
                flooded = self.engine.snapshot().flooded
            timers = {effect.key[0] for effect in effects if isinstance(effect, SetTimer)}
            self.assertEqual(ROTATE in timers, count > 0)

    def test_first_receipt_goes_on_and_repetition_does_not(self) -> None:
        """Delivered once, never back to where it came from.  ERL-002"""
        self.up([A], outbound=True)
        self.up([B, C])
        effects = self.engine.received(B, announcement(1), False)
        self.assertEqual(self.delivered(effects), [announcement(1)])
        self.assertEqual(self.told(effects), {A: [announcement(1)]})
        self.assertFalse(self.engine.is_pending(B, tx_id(1)))
        self.assertTrue(self.engine.is_pending(C, tx_id(1)))
        self.assertEqual(self.engine.received(C, announcement(1), False), [])
        self.assertFalse(self.engine.is_pending(C, tx_id(1)))  # it has announced it
        self.assertEqual(self.engine.received(A, announcement(1), False), [])
        self.assertEqual(self.engine.counters.transactions_repeated, 2)
        self.assertEqual(self.told(self.engine.received(A, announcement(2), False)), {})

    def test_repeated_broadcast_reaches_only_who_lacks_it(self) -> None:
        """The application may broadcast again what went on already.  design D6"""
        self.up([A], outbound=True)
        self.up([B], mode=PeerMode.CHIA, has_erlay=False)
        effects = self.engine.received(A, announcement(1), False)
        self.assertEqual(self.told(effects), {})  # Chia nodes hear only from the application
        result = self.engine.broadcast(announcement(1))
        self.assertEqual(self.told(result.effects), {B: [announcement(1)]})
        self.assertEqual(self.engine.broadcast(announcement(1)).effects, [])

    def test_peers_without_erlay_are_flooded(self) -> None:
        """Capability 202 missing: every transaction at once, no round ever.  ERL-104-X"""
        effects = self.up([A, B], outbound=True, has_erlay=False)
        self.assertEqual(effects, [])
        self.up([C], outbound=True)
        told = self.told(self.engine.received(C, announcement(1), False))
        self.assertEqual(told, {A: [announcement(1)], B: [announcement(1)]})
        self.assertEqual(self.engine.requested(A, self.sketch()), [])
        self.assertEqual(self.engine.timer_fired((ROUND, A)), [])
        self.assertEqual(self.engine.snapshot().outside, {A, B})

    def test_chia_sessions_deliver_only(self) -> None:
        """What a Chia node announces goes on when the application says so.  design D6"""
        self.up([A], mode=PeerMode.CHIA, has_erlay=False)
        self.up([B], outbound=True)
        self.up([C])
        effects = self.engine.received(A, announcement(1), False)
        self.assertEqual((self.delivered(effects), self.told(effects)), ([announcement(1)], {}))
        result = self.engine.broadcast(announcement(1))
        self.assertEqual(self.told(result.effects), {B: [announcement(1)]})
        self.assertTrue(self.engine.is_pending(C, tx_id(1)))
        self.engine.received(A, announcement(2), False)
        effects = self.engine.received(C, announcement(2), False)  # now from a DIG node as well
        self.assertEqual(
            (self.delivered(effects), self.told(effects)), ([], {B: [announcement(2)]})
        )

    def test_a_session_can_learn_erlay_is_absent_or_present(self) -> None:
        """peer_up again changes what a session can do.  wire §4.2"""
        self.up([A], has_erlay=False, mode=PeerMode.CHIA)
        self.up([A], has_erlay=True)
        self.assertEqual(set(self.engine.snapshot().pending), {A})
        self.assertEqual(self.up([A]), [])
        self.up([A], has_erlay=False, mode=PeerMode.FLOOD)
        self.assertEqual(self.engine.snapshot().outside, {A})

    def test_who_comes_may_lack_what_has_just_passed(self) -> None:
        """It is pending for the new peer, if it spreads and is not old.  ERL-002, CON-105-X"""
        self.up([A], mode=PeerMode.CHIA, has_erlay=False)
        self.up([B])
        self.engine.broadcast(announcement(1))
        self.time += 1
        self.engine.received(A, announcement(2), False)  # held: the application has the word
        self.engine.received(B, announcement(3), True)  # nor is there a verdict on this one
        self.engine.received(B, announcement(4), False)
        for time, expected in ((115.0, {1, 4}), (115.1, {4}), (116.1, set())):
            self.time = time
            self.engine.peer_down(C)
            self.up([C])
            pending = {n for n in range(1, 5) if self.engine.is_pending(C, tx_id(n))}
            self.assertEqual(pending, expected)

    def test_who_is_flooded_from_the_beginning_is_told_of_it(self) -> None:
        """Nothing stays pending for a flooded peer.  ERL-001, ERL-006"""
        self.engine.broadcast(announcement(1))
        self.assertEqual(self.told(self.up([A], outbound=True)), {A: [announcement(1)]})
        self.assertEqual(self.engine.snapshot().flooded, {A})
        self.assertFalse(self.engine.is_pending(A, tx_id(1)))

    def test_rotation_flushes_and_starts_empty(self) -> None:
        """New in the set: told what was pending. Out of it: an empty set.  ERL-006"""
        self.up([A, B], outbound=True)
        (first,) = self.engine.snapshot().flooded
        (other,) = {A, B} - {first}
        self.engine.broadcast(announcement(1))
        for _ in range(20):
            effects = self.engine.timer_fired((ROTATE, b""))
            self.assertIn(SetTimer((ROTATE, b""), 60), effects)
            if self.engine.snapshot().flooded == {other}:
                break
        self.assertEqual(self.told(effects), {other: [announcement(1)]})
        self.assertEqual(self.engine.snapshot().pending, {first: 0})

    def test_a_lost_flood_peer_is_replaced(self) -> None:
        """At once, and the new one is told what was pending.  ERL-006"""
        self.up([A, B], outbound=True)
        (first,) = self.engine.snapshot().flooded
        (other,) = {A, B} - {first}
        self.engine.broadcast(announcement(1))
        effects = self.engine.peer_down(first)
        self.assertIn(ClearTimer((ROUND, first)), effects)
        self.assertEqual(self.told(effects), {other: [announcement(1)]})
        self.assertEqual(self.engine.snapshot().flooded, {other})
        self.engine.peer_down(other)
        self.assertEqual(self.engine.timer_fired((ROTATE, b"")), [])  # nobody left to rotate
        self.assertIn(SetTimer((ROTATE, b""), 60), self.up([C], outbound=True))

    def test_reconciling_the_peers(self) -> None:
        """The peer table decides who has a session.  CON-116-X"""
        self.up([A, B], outbound=True)
        self.up([C], has_erlay=False)
        self.engine.reconcile_peers(
            {A: (PeerMode.TREE, True, True), D: (PeerMode.FLOOD, False, False)}
        )
        snapshot = self.engine.snapshot()
        self.assertEqual((snapshot.flooded, snapshot.outside), ({A}, {D}))
        self.assertEqual(snapshot.pending, {})

    def test_announcements_of_nothing(self) -> None:
        """48 bytes, or the sender is charged and the application refused.  wire §13.4"""
        self.up([A])
        for size in (0, 47, 49):
            message = Message(21, None, bytes(size))
            self.assertIsNone(transaction_id(message))
            expected = [Penalize(A, PenaltyReason.MALFORMED_MESSAGE)]
            self.assertEqual(self.engine.received(A, message, False), expected)
            self.assertRaises(ClientError, self.engine.broadcast, message)
        self.assertIsNone(transaction_id(Message(20, None, bytes(48))))
        self.assertEqual(self.engine.received(B, announcement(1), False), [])  # no session


class ValidationTests(ErlayCase):
    """Transactions that a validator has to accept first."""

    def test_verdicts(self) -> None:
        """Accepted: delivered and spread. Otherwise neither, ever.  PLT-104-X"""
        self.up([A, B, C])
        for number, verdict in enumerate(Verdict):
            message = announcement(number)
            digest = message_hash(message)
            effects = self.engine.received(A, message, True)
            self.assertEqual(effects, [Validate(A, message, digest)])
            self.assertEqual(self.engine.received(B, message, True), [])
            effects = self.engine.validated(digest, verdict)
            is_good = verdict is Verdict.ACCEPT
            self.assertEqual(self.delivered(effects), [message] if is_good else [])
            self.assertFalse(self.engine.is_pending(B, tx_id(number)))  # it has announced it
            self.assertEqual(self.engine.is_pending(C, tx_id(number)), is_good)
            self.assertEqual(self.engine.received(C, message, True), [])
            self.assertEqual(self.engine.validated(digest, Verdict.ACCEPT), [])
        self.assertEqual(self.engine.counters.transactions_refused, 2)

    def test_the_application_overrules(self) -> None:
        """Who broadcasts has judged.  design D6"""
        self.up([A, B])
        self.engine.received(A, announcement(1), True)
        self.engine.broadcast(announcement(1))
        self.assertTrue(self.engine.is_pending(B, tx_id(1)))
        self.assertEqual(self.engine.validated(message_hash(announcement(1)), Verdict.REJECT), [])
        self.assertEqual(self.engine.snapshot().unjudged, 0)

    def test_a_chia_session_s_transaction_is_judged_and_held(self) -> None:
        """Accepted, it is delivered and goes no further.  design D6"""
        self.up([A], has_erlay=False, mode=PeerMode.CHIA)
        self.up([B])
        self.engine.received(A, announcement(1), True)
        effects = self.engine.validated(message_hash(announcement(1)), Verdict.ACCEPT)
        self.assertEqual(effects, [Deliver(A, announcement(1))])
        self.assertFalse(self.engine.is_pending(B, tx_id(1)))

    def test_only_so_many_wait_for_a_verdict(self) -> None:
        """1000 a session; what does not fit is as if it had not come.  style §4"""
        self.up([A, B])
        with mock.patch.object(erlay, "MAX_UNJUDGED_PER_PEER", 3):
            for number in range(3):
                self.assertEqual(len(self.engine.received(A, announcement(number), True)), 1)
            self.assertEqual(self.engine.received(A, announcement(3), True), [])
            self.assertEqual(len(self.engine.received(B, announcement(3), True)), 1)
            self.engine.validated(message_hash(announcement(0)), Verdict.IGNORE)
            self.assertEqual(len(self.engine.received(A, announcement(4), True)), 1)


class DialedRoundTests(ErlayCase):
    """Rounds that we begin."""

    def setUp(self) -> None:
        """One dialed session that is not flooded, with a pending transaction."""
        super().setUp()
        self.engine = self.make(flood_peer_count=0)
        self.effects = self.up([A], outbound=True)
        self.engine.broadcast(announcement(1))

    def begin(self) -> ReconciliationSketch:
        """Let the timer fire; the request."""
        effects = self.engine.timer_fired((ROUND, A))
        (request,) = (effect for effect in effects if isinstance(effect, Request))
        self.assertEqual((request.peer, request.key, request.timeout), (A, (ROUND, A), 10))
        self.assertIsNone(request.message.id)
        return ReconciliationSketch.from_bytes(request.message.data)

    def test_timers(self) -> None:
        """Two seconds, ten percent more or less; the first one sooner.  ERL-004"""
        (first,) = (effect for effect in self.effects if isinstance(effect, SetTimer))
        self.assertEqual(first.key, (ROUND, A))
        self.assertLess(first.delay, 2.2)
        delays = set()
        for _ in range(50):
            effects = self.engine.timer_fired((ROUND, A))
            delays |= {effect.delay for effect in effects if isinstance(effect, SetTimer)}
        self.assertTrue(all(1.8 <= delay <= 2.2 for delay in delays), delays)
        self.assertGreater(max(delays) - min(delays), 0.2)

    def test_many_peers_share_the_interval(self) -> None:
        """No more than so many rounds begin in it; a very short one is stretched.  ERL-004"""
        self.up([peer_id(f"peer {n}") for n in range(15)], outbound=True)  # 16 in all
        (timer,) = self.engine.timer_fired((ROUND, A))[:1]
        assert isinstance(timer, SetTimer)
        self.assertTrue(4 * 1.8 <= timer.delay <= 4 * 2.2, timer)
        self.engine = self.make(reconciliation_interval_ms=100, flood_peer_count=0)
        self.up([A], outbound=True)
        (timer,) = self.engine.timer_fired((ROUND, A))[:1]
        assert isinstance(timer, SetTimer)
        self.assertGreater(timer.delay, 1.1)

    def test_one_round_at_a_time(self) -> None:
        """The next one waits for the end of this one.  ERL-004"""
        self.assertEqual(self.begin().set_size, 1)
        (timer,) = self.engine.timer_fired((ROUND, A))
        self.assertIsInstance(timer, SetTimer)
        self.assertEqual(self.engine.snapshot().busy, {A})
        self.engine.answered(A, (ROUND, A), None)
        self.assertEqual(self.engine.counters.rounds_timed_out, 1)
        self.assertTrue(self.engine.is_pending(A, tx_id(1)))  # nothing is lost
        self.assertEqual(self.begin().set_size, 1)

    def test_exactly_the_snapshot_is_settled(self) -> None:
        """What came during the round stays pending.  ERL-005"""
        self.begin()
        self.engine.broadcast(announcement(2))
        effects = self.engine.answered(A, (ROUND, A), self.answer(ReconciliationStatus.FAILED, 3))
        self.assertEqual(self.told(effects), {A: [announcement(1)]})
        self.assertFalse(self.engine.is_pending(A, tx_id(1)))
        self.assertTrue(self.engine.is_pending(A, tx_id(2)))

    def test_what_the_peer_announced_meanwhile_is_not_announced(self) -> None:
        """It has been settled already.  ERL-002"""
        self.begin()
        self.engine.received(A, announcement(1), False)
        effects = self.engine.answered(A, (ROUND, A), self.answer(ReconciliationStatus.FAILED, 3))
        self.assertEqual(self.told(effects), {})

    def test_expired_announcements_are_skipped(self) -> None:
        """Ten minutes after it was first seen a transaction is no news.  ERL-002, ERL-005"""
        self.engine.broadcast(announcement(2))
        self.time += 300
        self.engine.broadcast(announcement(3))
        self.time += 300.1
        self.begin()
        effects = self.engine.answered(A, (ROUND, A), self.answer(ReconciliationStatus.FAILED, 3))
        self.assertEqual(self.told(effects), {A: [announcement(3)]})

    def test_extension(self) -> None:
        """The answer asks for more, the engine sends it.  ERL-101-X"""
        self.begin()
        effects = self.engine.answered(A, (ROUND, A), self.answer(ReconciliationStatus.EXTEND, 30))
        (request,) = effects
        assert isinstance(request, Request)
        self.assertEqual(ReconciliationSketch.from_bytes(request.message.data).sketch_offset, 9)
        self.engine.answered(A, (ROUND, A), self.answer(ReconciliationStatus.DECODED, 30))
        self.assertEqual(self.engine.counters.rounds_extended, 1)
        self.assertEqual(self.engine.snapshot().pending, {A: 0})

    def test_hostile_answers(self) -> None:
        """They are charged, and everything stays pending.  wire §13.3"""
        malformed = Message(212, 7, b"\x00")
        for answer, reason in (
            (malformed, PenaltyReason.MALFORMED_MESSAGE),
            (self.answer(9), VIOLATION),
            (self.answer(ReconciliationStatus.DECODED, 9, (1, 2)), VIOLATION),
        ):
            self.begin()
            effects = self.engine.answered(A, (ROUND, A), answer)
            self.assertEqual(effects, [Penalize(A, reason)])
            self.assertTrue(self.engine.is_pending(A, tx_id(1)))
            self.assertEqual(self.engine.snapshot().busy, set())

    def test_answers_that_nobody_waits_for(self) -> None:
        """Late, of strangers, or of another kind: nothing happens.  ERL-004"""
        self.assertEqual(self.engine.answered(A, (ROUND, A), self.answer(0)), [])
        self.assertEqual(self.engine.answered(B, (ROUND, B), self.answer(0)), [])
        self.begin()
        self.assertEqual(self.engine.answered(A, (ROUND, A), Message(255, 7, b"")), [])
        self.assertEqual(self.engine.counters.rounds_timed_out, 1)

    def test_paused_sessions_begin_no_round(self) -> None:
        """BulkDrop: the queue is long enough as it is.  ERL-004"""
        self.engine.pause(A)
        self.assertEqual(self.engine.snapshot().paused, {A})
        (timer,) = self.engine.timer_fired((ROUND, A))
        self.assertIsInstance(timer, SetTimer)
        self.engine.resume(A)
        self.begin()
        self.assertEqual(self.engine.pause(F) + self.engine.resume(F), [])

    def test_flooded_sessions_are_asked_for_what_they_have(self) -> None:
        """They have been told of ours, but never tell of theirs by themselves.  ERL-004"""
        self.engine = self.make()
        self.up([A], outbound=True)
        self.engine.broadcast(announcement(1))
        request = self.begin()
        self.assertEqual((request.set_size, request.sketch_capacity), (0, 1))

    def test_unknown_timers(self) -> None:
        """Of sessions that are gone, or of nobody.  style §4"""
        for key in ((ROUND, B), (PACE, B), ("other", A), (ROUND, b"short")):
            self.assertEqual(self.engine.timer_fired(key), [])

    def test_salts_differ(self) -> None:
        """Each session has its own.  ERL-103-X"""
        self.up([B], outbound=True)
        salt = self.begin().salt
        self.assertEqual(self.begin_again().salt, salt)
        (_, request) = self.engine.timer_fired((ROUND, B))
        assert isinstance(request, Request)
        self.assertNotEqual(ReconciliationSketch.from_bytes(request.message.data).salt, salt)

    def begin_again(self) -> ReconciliationSketch:
        """Begin another round on the same session."""
        self.engine.answered(A, (ROUND, A), None)
        return self.begin()

    def test_large_sets_are_announced_at_a_pace(self) -> None:
        """A hundred at once, and a hundred every two seconds.  ERL-102-X"""
        for number in range(2, 251):
            self.engine.broadcast(announcement(number))
        self.begin()
        effects = self.engine.answered(A, (ROUND, A), self.answer(ReconciliationStatus.FAILED, 3))
        sent = self.told(effects)[A]
        self.assertEqual(len(sent), 100)
        self.assertEqual(effects[-1], SetTimer((PACE, A), 2.0))
        self.assertEqual(self.engine.snapshot().backlog, 150)
        for count in (100, 50):
            effects = self.engine.timer_fired((PACE, A))
            sent += self.told(effects)[A]
            self.assertEqual(len(self.told(effects)[A]), count)
        self.assertEqual({message.data for message in sent}, {
            announcement(number).data for number in range(1, 251)
        })  # fmt: skip
        self.assertNotIn(SetTimer((PACE, A), 2.0), effects)

    def test_a_session_that_ends_takes_its_timers_along(self) -> None:
        """Nothing fires for a peer that is gone.  style §4"""
        for number in range(2, 250):
            self.engine.broadcast(announcement(number))
        self.begin()
        self.engine.answered(A, (ROUND, A), self.answer(ReconciliationStatus.FAILED, 3))
        effects = self.engine.peer_down(A)
        self.assertEqual(effects, [ClearTimer((ROUND, A)), ClearTimer((PACE, A))])
        self.assertEqual(self.engine.peer_down(A), [])

    def test_one_sketch_holds_the_newest(self) -> None:
        """2000 transactions are compared at once; older ones wait.  style §4"""
        for number in range(2, 2050):
            self.engine.broadcast(announcement(number))
        self.assertEqual(self.begin().set_size, 2000)

    def test_too_many_pending_are_announced(self) -> None:
        """5000 wait for a peer that never answers; then the oldest goes.  behaviour §22"""
        for number in range(2, ERLAY_MAX_PENDING + 1):
            self.assertEqual(self.engine.broadcast(announcement(number)).effects, [])
        effects = self.engine.broadcast(announcement(ERLAY_MAX_PENDING + 1)).effects
        self.assertEqual(self.told(effects), {A: [announcement(1)]})
        self.assertEqual(self.engine.snapshot().pending, {A: ERLAY_MAX_PENDING})
        self.assertEqual(self.engine.counters.transactions_overflowed, 1)
        self.time += 1000
        effects = self.engine.broadcast(announcement(ERLAY_MAX_PENDING + 2)).effects
        self.assertEqual(effects, [])  # the oldest is no news


class AcceptedRoundTests(ErlayCase):
    """Rounds that others begin."""

    def setUp(self) -> None:
        """One session that was dialed by the peer, with a pending transaction."""
        super().setUp()
        self.up([A])
        self.engine.broadcast(announcement(1))

    def test_answer_and_announcements(self) -> None:
        """The reply has the request's id, then comes what only we have.  ERL-005"""
        peer = Dialer(SALT, 8)
        request, _ = peer.begin([tx_id(2)])
        message = Message(request.OPCODE, 77, bytes(request))
        reply, send = self.engine.requested(A, message)
        assert isinstance(reply, Reply)
        self.assertEqual((reply.peer, reply.message.type, reply.message.id), (A, 212, 77))
        self.assertEqual(send, Send((A,), announcement(1)))
        outcome = peer.answered(ReconciliationResponse.from_bytes(reply.message.data))
        self.assertEqual(outcome.announce, (tx_id(2),))
        self.assertEqual(self.engine.snapshot().pending, {A: 0})

    def test_one_sketch_a_second(self) -> None:
        """A replay within the second is declined and changes nothing.  ERL-105-X"""
        self.engine.requested(A, self.sketch())
        self.engine.broadcast(announcement(2))
        self.time += 0.9
        effects = self.engine.requested(A, self.sketch())
        self.assertEqual(self.status(effects), ReconciliationStatus.DECLINED)
        self.assertEqual(self.told(effects), {})
        self.assertTrue(self.engine.is_pending(A, tx_id(2)))
        self.time += 0.2
        effects = self.engine.requested(A, self.sketch())
        self.assertNotEqual(self.status(effects), ReconciliationStatus.DECLINED)

    def test_decoding_has_a_budget(self) -> None:
        """A tenth of a processor for all sessions together.  ERL-105-X"""
        with mock.patch.object(erlay_links, "_DECODE_SECS", 0.25 / 81):
            self.up([B, C, D])
            self.engine.broadcast(announcement(2))
            statuses = [
                self.status(self.engine.requested(peer, self.sketch())) for peer in (A, B, C)
            ]
            self.assertEqual([s == ReconciliationStatus.DECLINED for s in statuses], [0, 0, 1])
            self.time += 2.6  # 0.26 s of work
            status = self.status(self.engine.requested(D, self.sketch()))
            self.assertNotEqual(status, ReconciliationStatus.DECLINED)

    def test_idle_time_is_not_saved_up(self) -> None:
        """Half a second of work at most.  ERL-105-X"""
        with mock.patch.object(erlay_links, "_DECODE_SECS", 0.3):
            budget = DecodeBudget(lambda: self.time)
            self.time += 1000
            links = [ErlayLink(peer, None) for peer in (A, B)]
            self.assertTrue(budget.allows(links[0], 1))
            budget.spend(links[0], 1)
            self.assertFalse(budget.allows(links[1], 1))

    def test_paused_sessions_are_declined(self) -> None:
        """BulkDrop: not even an easy answer, which would be announcements.  ERL-004"""
        self.engine.pause(A)
        effects = self.engine.requested(A, self.sketch())
        self.assertEqual(self.status(effects), ReconciliationStatus.DECLINED)
        self.assertEqual(self.told(effects), {})

    def test_hostile_requests(self) -> None:
        """Broken, oversized, without an id, with another salt: charged.  wire §13.3"""
        broken = attrs.evolve(self.sketch(), data=self.sketch().data[:-1])
        oversized = self.sketch(capacity=129)
        self.engine.requested(A, self.sketch())
        for message, reason in (
            (broken, PenaltyReason.MALFORMED_MESSAGE),
            (oversized, VIOLATION),
            (self.sketch(None), VIOLATION),
            (self.sketch(salt=b"another salt    "), VIOLATION),
        ):
            self.assertEqual(self.engine.requested(A, message), [Penalize(A, reason)])

    def test_only_the_dialer_begins(self) -> None:
        """A peer that we dialed has nothing to ask.  ERL-004"""
        self.up([B], outbound=True)
        self.assertEqual(self.engine.requested(B, self.sketch()), [Penalize(B, VIOLATION)])
        self.assertEqual(self.engine.requested(F, self.sketch()), [])  # no session

    def test_extensions_out_of_the_blue_are_declined(self) -> None:
        """There is nothing to extend.  wire §13.3"""
        effects = self.engine.requested(A, self.sketch(capacity=18, offset=9))
        self.assertEqual(self.status(effects), ReconciliationStatus.DECLINED)


class TransactionsTests(SynchronousTestCase):
    """What is remembered of transactions."""

    def test_the_oldest_goes_first(self) -> None:
        """50 000 are remembered.  ERL-002"""
        known = Transactions()
        message = announcement(0)
        for number in range(ERLAY_MAX_TRANSACTIONS + 1):
            name = number.to_bytes(32, "big")
            known.add(Transaction(name, message, Stage.REMOTE, 0.0))
        self.assertEqual(len(known), ERLAY_MAX_TRANSACTIONS)
        self.assertIsNone(known.get(bytes(32)))
        self.assertIsNotNone(known.get((1).to_bytes(32, "big")))
        self.assertIsNone(known.announcement(bytes(32), 0.0))

    def test_latest_that_spread(self) -> None:
        """Of the latest, however many there are, those that may be told of.  ERL-002"""
        known = Transactions()
        names = [bytes((number,)) for number in range(8)]
        for number, name in enumerate(names):
            stage = Stage.HELD if number == 5 else Stage.REMOTE
            known.add(Transaction(name, announcement(number), stage, float(number)))
        self.assertEqual(known.since(3.0, 10), [names[n] for n in (3, 4, 6, 7)])
        self.assertEqual(known.since(0.0, 4), [names[n] for n in (4, 6, 7)])
        self.assertEqual(known.since(7.5, 4), [])
