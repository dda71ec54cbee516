"""Which messages may cut the tree."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.sampling import PruneSampler

LOW, HIGH = bytes(32), bytes([0xFF]) * 32


class PruneSamplerTests(SynchronousTestCase):
    """One message in two seconds, the same one at all nodes."""

    def sampler(self, *times: float) -> PruneSampler:
        """A sampler that has seen messages at these times."""
        sampler = PruneSampler()
        for time in times:
            sampler.message_seen(time)
        return sampler

    def test_lonely_message_may_cut(self) -> None:
        """Whatever its hash, when nothing else is in flight.  PLT-004.1"""
        self.assertTrue(self.sampler(100.0).may_prune(HIGH, 100.1))
        self.assertTrue(self.sampler().may_prune(HIGH, 100.0))

    def test_of_many_only_the_lowest_may_cut(self) -> None:
        """A low hash may, a high one may not.  PLT-004.1"""
        sampler = self.sampler(*(100 + 0.05 * number for number in range(20)))
        self.assertTrue(sampler.may_prune(LOW, 101.0))
        self.assertFalse(sampler.may_prune(HIGH, 101.0))

    def test_about_one_message_a_period_may_cut(self) -> None:
        """The share of hashes is one over the messages of two seconds.  PLT-004.1"""
        sampler = self.sampler(*(100 + 0.02 * number for number in range(200)))
        step = 1 << 22
        hashes = [(step * number).to_bytes(4, "big") + bytes(28) for number in range(1024)]
        allowed = sum(sampler.may_prune(digest, 103.98) for digest in hashes)
        self.assertEqual(allowed, 11)  # 1024 / 100, rounded up

    def test_nodes_that_see_more_choose_a_subset(self) -> None:
        """Estimates differ, choices nest.  PLT-004.1"""
        few, many = self.sampler(*[100.0] * 10), self.sampler(*[100.0] * 30)
        step = 1 << 22
        hashes = [(step * number).to_bytes(4, "big") + bytes(28) for number in range(1024)]
        by_few = {digest for digest in hashes if few.may_prune(digest, 100.0)}
        by_many = {digest for digest in hashes if many.may_prune(digest, 100.0)}
        self.assertLess(by_many, by_few)

    def test_rush_is_forgotten(self) -> None:
        """Two periods later every message may cut again.  PLT-004.1"""
        sampler = self.sampler(*[100.0] * 30)
        self.assertFalse(sampler.may_prune(HIGH, 101.9))
        self.assertFalse(sampler.may_prune(HIGH, 103.0))
        self.assertTrue(sampler.may_prune(HIGH, 104.1))

    def test_previous_period_fades(self) -> None:
        """What a message counts shrinks with its age.  PLT-004.1"""
        sampler = self.sampler(*[100.0] * 3, 102.0)
        quarter = (1 << 30).to_bytes(4, "big") + bytes(28)
        self.assertFalse(sampler.may_prune(quarter, 102.0))
        self.assertTrue(sampler.may_prune(quarter, 103.9))
