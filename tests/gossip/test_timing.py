"""Timers that learn."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.timing import GraftTimers
from dig_gossip.types.config import PlumtreeConfig


class LazyTimeoutTests(SynchronousTestCase):
    """Timer 1, from an announcement to a graft."""

    def settled(self, gap: float) -> GraftTimers:
        """Timers that have seen one gap again and again, for several windows."""
        timers = GraftTimers(PlumtreeConfig())
        for number in range(400):
            timers.sample(gap, number * 1.0)
        return timers

    def test_starts_at_the_configured_time(self) -> None:
        """Half a second, before anything is learned.  PLT-005"""
        self.assertEqual(GraftTimers(PlumtreeConfig()).lazy_timeout, 0.5)

    def test_fixed_timers_learn_nothing(self) -> None:
        """Without adaptive timers both stay as configured.  PLT-005"""
        timers = GraftTimers(PlumtreeConfig(adaptive_timers=False))
        timers.sample(1.5, 0.0)
        self.assertEqual(timers.lazy_timeout, 0.5)
        self.assertEqual(timers.retry_timeout(1.0), 0.25)

    def test_only_positive_gaps_count(self) -> None:
        """A message that came before its announcement says nothing.  PLT-005"""
        timers = GraftTimers(PlumtreeConfig())
        timers.sample(0.0, 0.0)
        timers.sample(-5.0, 0.0)
        self.assertEqual(timers.lazy_timeout, 0.5)

    def test_steady_gap_leaves_a_quarter_of_margin(self) -> None:
        """With no deviation the peak decides.  PLT-005"""
        self.assertAlmostEqual(self.settled(0.2).lazy_timeout, 0.25)

    def test_short_gaps_end_at_the_floor(self) -> None:
        """Never below the configured floor.  PLT-005"""
        self.assertEqual(self.settled(0.01).lazy_timeout, 0.06)

    def test_long_gaps_end_at_the_ceiling(self) -> None:
        """Never above the configured ceiling.  PLT-005"""
        self.assertEqual(self.settled(5.0).lazy_timeout, 2.0)

    def test_one_large_gap_raises_by_half_at_most(self) -> None:
        """One liar, or one repair elsewhere, does not stretch the timer to the ceiling.  PLT-005"""
        timers = self.settled(0.2)
        before = timers.lazy_timeout
        timers.sample(60.0, 400.0)
        self.assertGreater(timers.lazy_timeout, before)
        self.assertLessEqual(timers.lazy_timeout, 1.5625 * before + 1e-9)

    def test_rare_large_gap_is_remembered(self) -> None:
        """One slow origin among many keeps the timer above its gap.  PLT-005"""
        timers = GraftTimers(PlumtreeConfig())
        for number in range(1000):
            timers.sample(0.4 if number % 50 == 0 else 0.05, number * 0.1)
        self.assertGreaterEqual(timers.lazy_timeout, 0.5)

    def test_quiet_network_remembers_longer(self) -> None:
        """Where samples are rare, twenty seconds say too little.  PLT-005"""
        timers = GraftTimers(PlumtreeConfig())
        for number in range(50):
            timers.sample(0.4 if number == 10 else 0.05, number * 60.0)
        self.assertGreaterEqual(timers.lazy_timeout, 0.5)

    def test_messages_in_time_bring_it_down(self) -> None:
        """Slow announcements do not keep it where it began.  PLT-005"""
        timers = GraftTimers(PlumtreeConfig())
        for number in range(200):
            timers.on_time(number * 1.0)
        self.assertEqual(timers.lazy_timeout, 0.06)
        fixed = GraftTimers(PlumtreeConfig(adaptive_timers=False))
        fixed.on_time(0.0)
        self.assertEqual(fixed.lazy_timeout, 0.5)

    def test_messages_in_time_do_not_hide_a_late_one(self) -> None:
        """Nine in ten come in time, and the tenth is waited for.  PLT-005"""
        timers = GraftTimers(PlumtreeConfig())
        for number in range(400):
            if number % 10:
                timers.on_time(number * 0.1)
            else:
                timers.sample(0.3, number * 0.1)
        self.assertGreaterEqual(timers.lazy_timeout, 0.375)

    def test_old_peak_is_forgotten(self) -> None:
        """Two windows after the last large gap, forty seconds, the small ones decide.  PLT-005"""
        timers = self.settled(1.0)
        for number in range(80):
            timers.sample(0.2, 400.0 + number / 4)
        self.assertGreater(timers.lazy_timeout, 1.0)
        for number in range(80, 170):
            timers.sample(0.2, 400.0 + number / 4)
        self.assertAlmostEqual(timers.lazy_timeout, 0.25, places=2)


class RetryTimeoutTests(SynchronousTestCase):
    """Timer 2, from one announcer to the next."""

    def test_unknown_round_trip_takes_the_configured_time(self) -> None:
        """A quarter of a second.  PLT-005.1"""
        self.assertEqual(GraftTimers(PlumtreeConfig()).retry_timeout(None), 0.25)

    def test_known_round_trip_counts_twice_with_a_margin(self) -> None:
        """Two round trips, within floor and ceiling.  PLT-005.1"""
        timers = GraftTimers(PlumtreeConfig())
        self.assertAlmostEqual(timers.retry_timeout(0.2), 0.45)
        self.assertEqual(timers.retry_timeout(0.001), 0.06)
        self.assertEqual(timers.retry_timeout(10.0), 2.0)
