"""The age that a gateway tells."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.portmap.epoch import Epoch, is_kept_natpmp, is_kept_pcp


class EpochTests(SynchronousTestCase):
    """A gateway that has started anew is younger than it should be."""

    def setUp(self) -> None:
        self.time = 1000.0

    def epoch(self, rule: object) -> Epoch:
        """One that lives by our clock."""
        return Epoch(rule, now=lambda: self.time)  # type: ignore[arg-type]

    def test_the_first_age_is_believed(self) -> None:
        """There is nothing to compare it with.  behaviour §29; RFC 6886 §3.6, RFC 6887 §8.5"""
        for rule in (is_kept_natpmp, is_kept_pcp):
            self.assertTrue(self.epoch(rule).told(0))

    def test_a_restart_is_seen_once(self) -> None:
        """Afterwards the new age is what counts.  behaviour §29; RFC 6886 §3.6, RFC 6887 §8.5"""
        for rule in (is_kept_natpmp, is_kept_pcp):
            epoch = self.epoch(rule)
            epoch.told(5000)
            self.time += 60
            self.assertTrue(epoch.told(5060))
            self.time += 60
            self.assertFalse(epoch.told(3))
            self.time += 60
            self.assertTrue(epoch.told(63))

    def test_the_limits_of_nat_pmp(self) -> None:
        """Seven eighths of the time, less two seconds.  behaviour §29; RFC 6886 §3.6"""
        self.assertTrue(is_kept_natpmp(100, 100 + 70 - 2, 80.0))
        self.assertFalse(is_kept_natpmp(100, 100 + 70 - 3, 80.0))
        self.assertTrue(is_kept_natpmp(100, 100_000, 80.0))

    def test_the_limits_of_pcp(self) -> None:
        """A sixteenth and two seconds, both ways; one second backwards.  behaviour §29"""
        self.assertTrue(is_kept_pcp(100, 99, 0.0))
        self.assertFalse(is_kept_pcp(100, 98, 0.0))
        self.assertTrue(is_kept_pcp(100, 100 + 148, 160.0))
        self.assertFalse(is_kept_pcp(100, 100 + 147, 160.0))
        self.assertTrue(is_kept_pcp(100, 100 + 160, 148.0))
        self.assertFalse(is_kept_pcp(100, 100 + 160, 147.0))

    @given(st.integers(0, 2**31), st.floats(0, 1e6), st.floats(-0.06, 0.06))
    def test_an_honest_clock_is_never_a_restart(
        self, before: int, elapsed: float, drift: float
    ) -> None:
        """One that goes up to 6 % wrong and counts whole seconds.  behaviour §29"""
        now = before + int(elapsed * (1 + drift))
        self.assertTrue(is_kept_natpmp(before, now, elapsed))
        if drift > -0.058:
            self.assertTrue(is_kept_pcp(before, now, elapsed))
