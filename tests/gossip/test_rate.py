"""How many messages there have been lately."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.rate import PERIOD_SECS, MessageRate


class MessageRateTests(SynchronousTestCase):
    """Two periods, the older of which fades."""

    def counted(self, *times: float) -> MessageRate:
        """A rate that has counted a message at each of these times."""
        rate = MessageRate()
        for time in times:
            rate.count(time)
        return rate

    def test_messages_of_the_period_count_in_full(self) -> None:
        """Before it is over.  PLT-004.1"""
        rate = self.counted(100.0, 100.2, 100.4)
        self.assertEqual(rate.recent(100.9), 3)

    def test_messages_of_the_period_before_fade(self) -> None:
        """By what is left of the second.  PLT-004.1"""
        rate = self.counted(100.0, 100.2, 100.4, 100.6)
        self.assertAlmostEqual(rate.recent(101.0), 4)
        self.assertAlmostEqual(rate.recent(101.5), 2)
        rate.count(101.5)
        self.assertAlmostEqual(rate.recent(101.5), 3)

    def test_long_silence_forgets_everything(self) -> None:
        """Two periods after the last one began.  PLT-004.1"""
        self.assertEqual(self.counted(100.0, 100.5).recent(102.0), 0)
        self.assertEqual(self.counted(100.0, 107.3).recent(107.5), 1)

    @given(st.lists(st.floats(0, 5), max_size=30), st.floats(0, 5))
    def test_it_is_never_negative_and_never_more_than_two_periods_hold(
        self, gaps: list[float], wait: float
    ) -> None:
        """Whenever messages come.  PLT-004.1"""
        now, times = 0.0, []
        rate = MessageRate()
        for gap in gaps:
            now += gap
            times.append(now)
            rate.count(now)
        now += wait
        within = sum(now - time <= 2 * PERIOD_SECS for time in times)
        certain = sum(now - time == 0 for time in times)
        self.assertTrue(certain <= rate.recent(now) <= within, (times, now))
