"""Both ends of a round, by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any
from unittest import mock

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip import rounds
from dig_gossip.gossip.difference import DifferenceEstimate
from dig_gossip.gossip.rounds import Acceptor, Dialer, Ending, Outcome, Snapshot
from dig_gossip.gossip.sketch import Sketch
from dig_gossip.wire.erlay import (
    ReconciliationResponse,
    ReconciliationSketch,
    ReconciliationStatus,
    element_of,
)

SALT = bytes(range(16))


def ids(*numbers: int) -> set[bytes]:
    """Transaction ids."""
    return {sha256(b"%d" % number).digest() for number in numbers}


def response(status: int, set_size: int = 0, missing: tuple[int, ...] = ()) -> Any:
    """212."""
    return ReconciliationResponse(status=status, set_size=set_size, missing=missing)


def calm_dialer() -> Dialer:
    """A dialer that has seen no difference so far, and so sends small sketches."""
    dialer = Dialer(SALT, 8)
    dialer.begin(ids(1))
    dialer.answered(response(ReconciliationStatus.DECODED, 1))
    return dialer


def run(ours: Iterable[bytes], theirs: Iterable[bytes]) -> tuple[Outcome, Outcome, int]:
    """Hold one round to its end: the outcome at each end, and how many requests it took."""
    dialer, acceptor = Dialer(SALT, 8), Acceptor()
    request, _ = dialer.begin(ours)
    asked = 1
    while True:
        there = acceptor.requested(request, theirs, now=0.0)
        assert there.response is not None
        here = dialer.answered(there.response)
        if here.ask is None:
            return here, there, asked
        request, asked = here.ask, asked + 1


class RoundTests(SynchronousTestCase):
    """Honest ends."""

    @given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
    def test_both_ends_know_the_union(self, ours: set[int], theirs: set[int]) -> None:
        """Whatever the sets: each end announces what the other one lacks.  ERL-005"""
        a, b = ids(*ours), ids(*theirs)
        here, there, asked = run(a, b)
        self.assertLessEqual(asked, 2)
        self.assertEqual(b | set(here.announce), a | b)
        self.assertEqual(a | set(there.announce), a | b)
        self.assertEqual((set(here.settled), set(there.settled)), (a, b))
        if here.ending is Ending.DECODED:
            self.assertEqual((set(here.announce), set(there.announce)), (a - b, b - a))

    def test_a_small_difference_of_large_sets_takes_one_sketch(self) -> None:
        """The sketch grows with the difference, not with the sets.  ERL-101-X"""
        common = ids(*range(1000))
        dialer = Dialer(SALT, 8)
        for _ in range(40):  # the estimate follows what is seen
            request, _ = dialer.begin(common | ids(5000))
            there = Acceptor().requested(request, common | ids(6000, 6001), now=0.0)
            assert there.response is not None
            self.assertEqual(dialer.answered(there.response).ending, Ending.DECODED)
        self.assertEqual(request.sketch_capacity, 9)

    def test_extension_sends_only_what_is_new(self) -> None:
        """Syndromes that were sent are not sent again.  ERL-101-X, wire §13.3"""
        dialer, acceptor = calm_dialer(), Acceptor()
        first, _ = dialer.begin(ids(*range(12)))
        there = acceptor.requested(first, ids(*range(4, 18)), now=0.0)
        self.assertEqual(there.ending, Ending.EXTENDING)
        self.assertEqual(there.response, response(ReconciliationStatus.EXTEND, 14))
        here = dialer.answered(response(ReconciliationStatus.EXTEND, 14))
        assert here.ask is not None
        self.assertEqual((here.ask.sketch_capacity, here.ask.sketch_offset), (18, 9))
        self.assertEqual(len(here.ask.sketch), 72)
        self.assertTrue(dialer.is_busy)
        there = acceptor.requested(here.ask, [], now=9.0)  # the snapshot is that of the first
        self.assertEqual(set(there.announce), ids(*range(12, 18)))
        assert there.response is not None
        self.assertEqual(set(dialer.answered(there.response).announce), ids(*range(4)))
        self.assertFalse(dialer.is_busy)

    def test_failure_announces_everything(self) -> None:
        """A difference beyond the extension is announced by both.  ERL-102-X"""
        a, b = ids(*range(300)), ids(*range(1000, 1300))
        here, there, asked = run(a, b)
        self.assertEqual((here.ending, there.ending), (Ending.FAILED, Ending.FAILED))
        self.assertEqual((set(here.announce), set(there.announce)), (a, b))
        self.assertLessEqual(asked, 2)

    def test_hopeless_sizes_are_not_decoded(self) -> None:
        """If the sizes alone exceed the capacity, nothing is computed.  ERL-105-X"""
        request, _ = Dialer(SALT, 8).begin(ids(*range(3)))
        with mock.patch.object(Sketch, "decode", side_effect=AssertionError):
            there = Acceptor().requested(request, ids(*range(100, 300)), now=0.0)
        self.assertEqual(there.ending, Ending.FAILED)

    def test_an_empty_set_needs_no_sketch(self) -> None:
        """One syndrome asks, everything is announced; both empty is quick, too.  ERL-004"""
        request, _ = Dialer(SALT, 8).begin([])
        self.assertEqual((request.sketch_capacity, request.set_size), (1, 0))
        here, there, _ = run([], ids(1, 2))
        self.assertEqual((here.ending, there.ending), (Ending.ONE_SIDED, Ending.ONE_SIDED))
        self.assertEqual((set(here.announce), set(there.announce)), (set(), ids(1, 2)))
        here, there, _ = run(ids(1, 2), [])
        self.assertEqual((here.ending, there.ending), (Ending.ONE_SIDED, Ending.ONE_SIDED))
        self.assertEqual((set(here.announce), set(there.announce)), (ids(1, 2), set()))
        here, there, _ = run([], [])
        self.assertEqual((here.announce, there.announce), ((), ()))

    def test_colliding_transactions_stay_out_of_the_sketch(self) -> None:
        """Transactions that share a number are announced directly.  ERL-103-X"""

        def few_numbers(salt: bytes, tx_id: bytes) -> int:
            return element_of(salt, tx_id) % 40 + 1

        with mock.patch.object(rounds, "element_of", few_numbers):
            mine = ids(*range(40))
            snapshot = Snapshot(SALT, mine)
            self.assertTrue(snapshot.colliding)
            self.assertEqual(set(snapshot.colliding) | set(snapshot.tx_ids), mine)
            self.assertEqual(set(snapshot.colliding) & set(snapshot.tx_ids), set())
            request, colliding = Dialer(SALT, 8).begin(mine)
            self.assertEqual(
                (set(colliding), request.set_size), (set(snapshot.colliding), len(snapshot))
            )
            there = Acceptor().requested(request, mine, now=0.0)
            self.assertEqual(set(there.announce), set(colliding))

    def test_one_salt_for_a_session(self) -> None:
        """A salt that changes is a violation.  ERL-103-X"""
        acceptor = Acceptor()
        request, _ = Dialer(SALT, 8).begin([])
        self.assertIsNotNone(acceptor.requested(request, [], now=0.0).response)
        other = attrs.evolve(request, salt=bytes(16))
        self.assertEqual(acceptor.requested(other, [], now=1.0).ending, Ending.VIOLATED)


class HostileRoundTests(SynchronousTestCase):
    """Ends that lie."""

    def extendable(self) -> tuple[Acceptor, ReconciliationSketch, ReconciliationSketch]:
        """An acceptor that waits for an extension; the first request and the extension."""
        dialer, acceptor = calm_dialer(), Acceptor()
        first, _ = dialer.begin(ids(*range(12)))
        acceptor.requested(first, ids(*range(4, 18)), now=0.0)
        extension = dialer.answered(response(ReconciliationStatus.EXTEND, 14)).ask
        assert extension is not None
        return acceptor, first, extension

    def test_extensions_of_nothing_are_declined(self) -> None:
        """Too late, twice, or without a first part.  wire §13.3"""
        acceptor, _, extension = self.extendable()
        self.assertEqual(acceptor.requested(extension, [], now=10.1).ending, Ending.DECLINED)
        acceptor, _, extension = self.extendable()
        self.assertEqual(acceptor.requested(extension, [], now=10.0).ending, Ending.DECODED)
        self.assertEqual(acceptor.requested(extension, [], now=10.0).ending, Ending.DECLINED)

    def test_extensions_must_fit(self) -> None:
        """Twice the capacity, from where the first part ended, of the same set.  wire §13.3"""
        for change in (
            {"set_size": 11},
            {"sketch_capacity": 19, "sketch": bytes(80)},
            {"sketch_offset": 10, "sketch": bytes(64)},
        ):
            acceptor, _, extension = self.extendable()
            wrong = attrs.evolve(extension, **change)
            self.assertEqual(acceptor.requested(wrong, [], now=1.0).ending, Ending.VIOLATED)

    def test_a_new_round_forgets_the_extension(self) -> None:
        """One retained sketch a session.  wire §13.3"""
        acceptor, first, extension = self.extendable()
        self.assertEqual(acceptor.requested(first, [], now=1.0).ending, Ending.ONE_SIDED)
        self.assertEqual(acceptor.requested(extension, [], now=1.0).ending, Ending.DECLINED)

    def test_garbage_fails_and_is_not_believed(self) -> None:
        """Undecodable bytes end in an exchange of everything.  ERL-102-X"""
        for seed in range(20):
            noise = b"".join(sha256(b"%d %d" % (seed, n)).digest() for n in range(3))[:72]
            request = ReconciliationSketch(
                sketch=noise, sketch_capacity=9, sketch_offset=0, set_size=7, salt=SALT
            )
            outcome = Acceptor().requested(request, ids(1, 2, 3), now=0.0)
            self.assertIn(outcome.ending, (Ending.EXTENDING, Ending.FAILED))

    def test_sizes_must_agree_with_the_difference(self) -> None:
        """A decoded difference that does not fit the sizes is none.  ERL-003"""
        request, _ = Dialer(SALT, 8).begin(ids(1, 2, 3))
        lying = attrs.evolve(request, set_size=4)
        outcome = Acceptor().requested(lying, ids(1, 2), now=0.0)
        self.assertEqual(outcome.ending, Ending.EXTENDING)

    def test_paused_and_busy_ends_decline(self) -> None:
        """A declined round settles nothing; a busy end still answers what is easy.  wire §13.3"""
        request, _ = Dialer(SALT, 8).begin(ids(1))
        for outcome in (
            Acceptor().requested(request, ids(2), now=0.0, is_paused=True),
            Acceptor().requested(request, ids(2), now=0.0, may_decode=False),
        ):
            self.assertEqual(outcome.response, response(ReconciliationStatus.DECLINED))
            self.assertEqual((outcome.announce, outcome.settled), ((), ()))
        easy = Acceptor().requested(request, [], now=0.0, may_decode=False)
        self.assertEqual(easy.ending, Ending.ONE_SIDED)

    def test_impossible_answers(self) -> None:
        """They end the round, and nothing is settled.  wire §13.3"""
        for wrong in (
            response(4),
            response(ReconciliationStatus.DECODED, 5, (2, 1)),
            response(ReconciliationStatus.FAILED, 5, (1,)),
            response(ReconciliationStatus.DECODED, 5, (1, 2, 3, 4)),  # of three
        ):
            dialer = Dialer(SALT, 8)
            dialer.begin(ids(1, 2, 3))
            outcome = dialer.answered(wrong)
            self.assertEqual((outcome.ending, outcome.settled), (Ending.VIOLATED, ()))
            self.assertFalse(dialer.is_busy)

    def test_no_second_extension(self) -> None:
        """Nor one beyond 128 syndromes.  ERL-101-X"""
        dialer = calm_dialer()
        dialer.begin(ids(*range(12)))
        self.assertIsNotNone(dialer.answered(response(ReconciliationStatus.EXTEND, 3)).ask)
        again = dialer.answered(response(ReconciliationStatus.EXTEND, 3))
        self.assertEqual(again.ending, Ending.VIOLATED)
        dialer = Dialer(SALT, 100)
        dialer.begin(ids(1))
        large = dialer.answered(response(ReconciliationStatus.EXTEND, 3))
        self.assertEqual(large.ending, Ending.VIOLATED)

    def test_unknown_numbers_are_ignored(self) -> None:
        """A peer can ask only for what it was offered.  ERL-005"""
        dialer = Dialer(SALT, 8)
        (mine,) = ids(1)
        dialer.begin([mine])
        element = element_of(SALT, mine)
        outcome = dialer.answered(response(ReconciliationStatus.DECODED, 3, (element ^ 1,)))
        self.assertEqual((outcome.announce, outcome.settled), ((), (mine,)))

    def test_abandoned_rounds_settle_nothing(self) -> None:
        """After a time-out everything is still pending.  ERL-004"""
        dialer = Dialer(SALT, 8)
        dialer.begin(ids(1))
        dialer.abandon()
        self.assertFalse(dialer.is_busy)

    def test_python_decodes_the_beginning_of_a_large_sketch(self) -> None:
        """Without compiled code larger differences fail, but small ones do not.  ERL-105-X"""
        with mock.patch.object(rounds, "MAX_DECODED_CAPACITY", 16):
            request, _ = Dialer(SALT, 40).begin(ids(*range(30)))
            self.assertEqual(request.sketch_capacity, 41)
            near = Acceptor().requested(request, ids(*range(5, 30)), now=0.0)
            self.assertEqual(near.ending, Ending.DECODED)
            far = Acceptor().requested(request, ids(*range(20, 45)), now=0.0)
            self.assertEqual(far.ending, Ending.FAILED)


class EstimateTests(SynchronousTestCase):
    """How large sketches are."""

    def test_first_sketch_follows_the_formula(self) -> None:
        """A quarter of the set or 32, 8 to 127, and one to check.  ERL-101-X"""
        for size, capacity in ((0, 1), (1, 9), (7, 15), (50, 33), (200, 52), (600, 128)):
            self.assertEqual(DifferenceEstimate(8).capacity(size), capacity, size)

    def test_estimate_follows_the_difference(self) -> None:
        """Steady differences need little more than they are; a burst is remembered.  ERL-101-X"""
        estimate = DifferenceEstimate(8)
        for _ in range(60):
            estimate.decoded(20, 500)
        self.assertIn(estimate.capacity(500), (21, 22))
        estimate.failed(21, 500)
        self.assertGreater(estimate.capacity(500), 42)
        for _ in range(60):
            estimate.decoded(2, 500)
        self.assertEqual(estimate.capacity(500), 9)

    def test_small_sets_say_little_about_large_ones(self) -> None:
        """What a set has beyond those compared before counts a quarter.  ERL-101-X"""
        estimate = DifferenceEstimate(8)
        estimate.decoded(0, 10)
        for size, capacity in ((10, 9), (50, 11), (210, 51), (2000, 128)):
            self.assertEqual(estimate.capacity(size), capacity, size)
        estimate.decoded(4, 210)
        self.assertLess(estimate.capacity(210), 51 // 2)

    def test_sketches_can_be_extended_or_are_the_largest(self) -> None:
        """Between half of the largest and the largest only what is configured.  ERL-101-X"""
        for difference, capacity in ((21, 64), (24, 64), (42, 64), (43, 128), (256, 128)):
            estimate = DifferenceEstimate(8)
            estimate.decoded(difference, 500)
            self.assertEqual(estimate.capacity(500), capacity, difference)
        self.assertEqual(DifferenceEstimate(100).capacity(1), 101)

    def test_large_sets_are_forgotten_as_slowly_as_differences(self) -> None:
        """A small set in between changes little, many do.  ERL-101-X"""
        estimate = DifferenceEstimate(8)
        estimate.decoded(0, 208)
        estimate.decoded(0, 0)
        self.assertEqual(estimate.capacity(208), 9)
        for _ in range(60):
            estimate.decoded(0, 0)
        self.assertEqual(estimate.capacity(208), 53)

    def test_rounds_tell_how_large_the_sets_were(self) -> None:
        """A dialer that has compared little expects more of much.  ERL-101-X"""
        dialer = calm_dialer()
        request, _ = dialer.begin(ids(*range(201)))
        self.assertEqual(request.sketch_capacity, 51)
        dialer.answered(response(ReconciliationStatus.DECODED, 201))
        request, _ = dialer.begin(ids(*range(201)))
        self.assertEqual(request.sketch_capacity, 9)

    def test_lies_are_soon_forgotten(self) -> None:
        """An impossible difference counts as twice the largest sketch.  ERL-101-X"""
        estimate = DifferenceEstimate(8)
        estimate.decoded(2**32, 10)
        self.assertEqual(estimate.capacity(10), 128)
        for _ in range(60):
            estimate.decoded(3, 10)
        self.assertEqual(estimate.capacity(10), 9)
