"""Periodic tasks."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.testing.clock import SimulatedClock
from dig_gossip.util.clock import Clock
from dig_gossip.util.tasks import Tasks


class TasksTests(SynchronousTestCase):
    """Named, restarted, stoppable."""

    def setUp(self) -> None:
        self.time = SimulatedClock()
        self.tasks = Tasks(Clock(self.time))
        self.runs: list[float] = []

    def test_runs_at_its_interval(self) -> None:
        """Counted from the end of the last run.  CNC-006"""
        self.tasks.every("tick", 10, lambda: self.runs.append(self.time.seconds()))
        self.time.advance(35)
        self.assertEqual(self.runs, [10, 20, 30])

    def test_waits_for_a_run_that_takes_long(self) -> None:
        """A task never overlaps itself.  CNC-002"""
        running: list[Deferred[None]] = []

        def slow() -> Deferred[None]:
            running.append(Deferred())
            return running[-1]

        self.tasks.every("slow", 1, slow, now=True)
        self.time.advance(100)
        self.assertEqual(len(running), 1)
        running[0].callback(None)
        self.time.advance(1)
        self.assertEqual(len(running), 2)

    def test_failures_are_logged_and_retried_with_doubling_delays(self) -> None:
        """1 s, 2 s, 4 s … and health after the third.  API-101-X"""

        def broken() -> None:
            self.runs.append(self.time.seconds())
            if len(self.runs) < 6:
                raise ValueError("broken on purpose")

        self.tasks.every("broken", 500, broken, now=True)
        self.time.advance(2.9)
        self.assertEqual(self.tasks.unhealthy(), [])
        self.time.advance(0.2)
        self.assertEqual(self.tasks.unhealthy(), ["broken"])
        self.time.advance(100)
        self.assertEqual(self.runs, [0, 1, 3, 7, 15, 31])
        self.assertEqual(self.tasks.unhealthy(), [])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 5)

    def test_the_delay_is_capped_at_a_minute(self) -> None:
        """However long it fails.  API-101-X"""

        def broken() -> None:
            self.runs.append(self.time.seconds())
            raise ValueError("broken on purpose")

        self.tasks.every("broken", 500, broken, now=True)
        self.time.advance(1000)
        gaps = {round(b - a) for a, b in zip(self.runs[-4:], self.runs[-3:], strict=False)}
        self.assertEqual(gaps, {60})
        self.flushLoggedErrors(ValueError)

    def test_stop_cancels_what_waits_and_what_runs(self) -> None:
        """Cancelled work is no failure.  API-101-X, CNC-004"""
        self.tasks.every("tick", 10, lambda: self.runs.append(0))
        self.tasks.every("slow", 10, Deferred, now=True)
        self.assertEqual(self.tasks.names(), ["tick", "slow"])
        self.successResultOf(self.tasks.stop())
        self.time.advance(100)
        self.assertEqual((self.runs, self.tasks.unhealthy()), ([], []))
