"""Which messages may cut the tree."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.rate import PERIOD_SECS as PERIOD
from dig_gossip.gossip.sampling import CutSampler, PruneSampler

LOW, HIGH = bytes(32), bytes([0xFF]) * 32
#: 1024 hashes, spread evenly.
SPREAD = [(number << 22).to_bytes(4, "big") + bytes(28) for number in range(1024)]


class PruneSamplerTests(SynchronousTestCase):
    """One message a period, the same one at all nodes."""

    def sampler(self, *periods: float) -> PruneSampler:
        """A sampler that has seen messages at these times, in periods."""
        sampler = PruneSampler()
        for time in periods:
            sampler.message_seen(time * PERIOD)
        return sampler

    def may_prune(self, sampler: PruneSampler, digest: bytes, periods: float) -> bool:
        """Whether a message may cut at this time, in periods."""
        return sampler.may_prune(digest, periods * PERIOD)

    def test_lonely_message_may_cut(self) -> None:
        """Whatever its hash, when nothing else is in flight.  PLT-004.1"""
        self.assertTrue(self.may_prune(self.sampler(100.0), HIGH, 100.1))
        self.assertTrue(self.may_prune(self.sampler(), HIGH, 100.0))

    def test_one_message_a_period_may_always_cut(self) -> None:
        """That slow, they do not meet.  PLT-004.1"""
        sampler = self.sampler(100.0, 101.0, 102.0, 103.0)
        self.assertTrue(self.may_prune(sampler, HIGH, 103.1))

    def test_of_many_only_the_lowest_may_cut(self) -> None:
        """A low hash may, a high one may not.  PLT-004.1"""
        sampler = self.sampler(*(100 + number / 40 for number in range(20)))
        self.assertTrue(self.may_prune(sampler, LOW, 100.5))
        self.assertFalse(self.may_prune(sampler, HIGH, 100.5))

    def test_about_one_message_a_period_may_cut(self) -> None:
        """The share of hashes is one over the messages of a period.  PLT-004.1"""
        sampler = self.sampler(*(100 + number / 100 for number in range(200)))
        allowed = sum(self.may_prune(sampler, digest, 101.99) for digest in SPREAD)
        self.assertEqual(allowed, 11)  # 1024 / 100, rounded up

    def test_nodes_that_see_more_choose_a_subset(self) -> None:
        """Estimates differ, choices nest.  PLT-004.1"""
        few, many = self.sampler(*[100.0] * 10), self.sampler(*[100.0] * 30)
        by_few = {digest for digest in SPREAD if self.may_prune(few, digest, 100.0)}
        by_many = {digest for digest in SPREAD if self.may_prune(many, digest, 100.0)}
        self.assertLess(by_many, by_few)

    def test_rush_is_forgotten(self) -> None:
        """A period later every message may cut again.  PLT-004.1"""
        sampler = self.sampler(*[100.0] * 30)
        self.assertFalse(self.may_prune(sampler, HIGH, 100.9))
        self.assertTrue(self.may_prune(sampler, HIGH, 101.1))

    def test_previous_period_fades(self) -> None:
        """What a message counts shrinks with its age.  PLT-004.1"""
        quarter = (1 << 30).to_bytes(4, "big") + bytes(28)
        for after, may in ((0.02, False), (0.9, True)):
            sampler = self.sampler(*[100.0] * 4, 101.0, 101.01)
            self.assertIs(self.may_prune(sampler, quarter, 101 + after), may)

    def test_rush_of_long_ago_does_not_count(self) -> None:
        """Only the period just before does.  PLT-004.1"""
        quarter = (1 << 30).to_bytes(4, "big") + bytes(28)
        for began, may in ((104.0, True), (101.5, False)):
            sampler = self.sampler(*[100.0] * 30, *[began] * 3)
            self.assertIs(self.may_prune(sampler, quarter, began + 0.1), may)

    def test_count_goes_on_without_new_messages(self) -> None:
        """Also a look turns the period.  PLT-004.1"""
        eighth = (1 << 29).to_bytes(4, "big") + bytes(28)
        sampler = self.sampler(*[100.0] * 30, 100.9, 100.9)
        self.assertFalse(self.may_prune(sampler, eighth, 101.2))
        self.assertTrue(self.may_prune(sampler, eighth, 101.85))


class CutSamplerTests(SynchronousTestCase):
    """Cuts are a period apart."""

    def setUp(self) -> None:
        self.sampler = CutSampler()

    def came(self, digest: bytes, periods: float) -> None:
        """A message is new to the tree."""
        self.sampler.came(digest, periods * PERIOD)

    def may_prune(self, digest: bytes, periods: float) -> bool:
        """Whether a duplicate of it may prune at that time."""
        return self.sampler.may_prune(digest, periods * PERIOD)

    def test_of_two_that_may_cut_the_first_does(self) -> None:
        """Whichever it is.  PLT-004.1"""
        self.came(SPREAD[2], 100.0)
        self.came(LOW, 100.5)
        self.assertTrue(self.may_prune(SPREAD[2], 100.9))
        self.assertFalse(self.may_prune(LOW, 100.9))
        self.came(SPREAD[1], 101.0)
        self.assertTrue(self.may_prune(SPREAD[1], 101.5))
        self.assertFalse(self.may_prune(LOW, 101.5))

    def test_message_that_may_not_cut_takes_nobody_s_turn(self) -> None:
        """Of many only the lowest are chosen from.  PLT-004.1"""
        for number in range(20):
            self.came(HIGH, 100 + number / 100)
        self.came(HIGH, 101.1)
        self.came(LOW, 101.2)
        self.assertTrue(self.may_prune(LOW, 101.3))
        self.assertFalse(self.may_prune(HIGH, 101.3))

    def test_lonely_messages_cut_each(self) -> None:
        """Nothing else is in flight.  PLT-004.1"""
        for period in (100.0, 101.0, 102.5):
            self.came(HIGH, period)
            self.assertTrue(self.may_prune(HIGH, period + 0.5))

    def test_message_whose_verdict_is_due_may_cut_if_no_other_does(self) -> None:
        """It has not come into the tree yet, but its copies have.  PLT-104-X"""
        self.assertTrue(self.may_prune(LOW, 100.0))
        self.came(SPREAD[1], 100.0)
        self.assertFalse(self.may_prune(LOW, 100.5))
        self.assertTrue(self.may_prune(LOW, 101.0))
