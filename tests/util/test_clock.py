"""The clock and its timers."""

from __future__ import annotations

from twisted.internet.task import Clock as FakeReactor
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.util.clock import Clock


class TwoClocks(FakeReactor):
    """A reactor whose wall clock can be stepped apart from the monotonic one."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0.0

    def monotonic(self) -> float:
        return self.seconds() + self.step

    def unix(self) -> float:
        return 1_000_000 + self.seconds()


class TimerTests(SynchronousTestCase):
    """``call_later``."""

    def setUp(self) -> None:
        self.reactor = TwoClocks()
        self.clock = Clock(self.reactor)
        self.calls: list[object] = []

    def test_a_timer_fires_once_and_in_time(self) -> None:
        """Not before, and only once.  style 6.2"""
        timer = self.clock.call_later(2, self.calls.append, "x")
        self.reactor.advance(1.99)
        self.assertEqual((self.calls, timer.active, self.clock.pending), ([], True, 1))
        self.reactor.advance(0.02)
        self.reactor.advance(10)
        self.assertEqual((self.calls, timer.active, self.clock.pending), (["x"], False, 0))

    def test_a_wall_clock_stepped_forward_does_not_fire_it_early(self) -> None:
        """The reactor's timers run on wall time; ours go back to sleep.  design D8"""
        self.clock.call_later(10, self.calls.append, "x")
        self.reactor.step = -8  # the wall clock jumps ahead of the monotonic one
        self.reactor.advance(10)
        self.assertEqual(self.calls, [])
        self.reactor.advance(7.9)
        self.assertEqual(self.calls, [])
        self.reactor.advance(0.2)
        self.assertEqual(self.calls, ["x"])

    def test_cancelling_is_harmless_at_any_time(self) -> None:
        """Before, twice, and after it has fired.  CNC-101-X"""
        timer = self.clock.call_later(1, self.calls.append, "x")
        timer.cancel()
        timer.cancel()
        fired = self.clock.call_later(1, self.calls.append, "y")
        self.reactor.advance(2)
        fired.cancel()
        self.assertEqual(self.calls, ["y"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_cancel_all_leaves_nothing(self) -> None:
        """The reactor is clean afterwards.  CNC-004"""
        for delay in range(5):
            self.clock.call_later(delay, self.calls.append, delay)
        self.clock.cancel_all()
        self.reactor.advance(10)
        self.assertEqual((self.calls, self.reactor.getDelayedCalls()), ([], []))

    def test_real_reactors_give_real_clocks(self) -> None:
        """Monotonic is not the reactor's wall time.  design D8"""
        import time

        clock = Clock(FakeReactor())
        self.assertIs(clock.monotonic, time.monotonic)
        self.assertIs(clock.unix, time.time)
