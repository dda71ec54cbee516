"""Observers: one outcome, many waiters."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.util.deferreds import Observers, handled, returns_deferred


class ObserversTests(SynchronousTestCase):
    """Each waiter has a Deferred of its own."""

    def test_everybody_gets_the_result(self) -> None:
        """Also those who ask later.  style 6.1"""
        observers: Observers[int] = Observers()
        waiters = [observers.when(), observers.when()]
        handled(waiters[0].addCallback(lambda _value: None))
        observers.succeed(7)
        self.assertEqual(self.successResultOf(waiters[1]), 7)
        self.assertEqual(self.successResultOf(observers.when()), 7)

    def test_everybody_gets_the_failure(self) -> None:
        """Also those who ask later.  style 6.1"""
        observers: Observers[int] = Observers()
        waiting = observers.when()
        observers.fail(ValueError("no"))
        self.failureResultOf(waiting, ValueError)
        self.failureResultOf(observers.when(), ValueError)

    def test_the_first_outcome_counts(self) -> None:
        """A second one is ignored.  style 6.1"""
        observers: Observers[int] = Observers()
        observers.succeed(1)
        observers.succeed(2)
        observers.fail(ValueError())
        self.assertEqual(self.successResultOf(observers.when()), 1)

    def test_cancelling_removes_one_waiter_and_tells_when_none_is_left(self) -> None:
        """The work is given up with the last one who wanted it.  style 6.4"""
        abandoned: list[bool] = []
        observers: Observers[int] = Observers(lambda: abandoned.append(True))
        first, second = observers.when(), observers.when()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual((len(observers), abandoned), (1, []))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(abandoned, [True])


class ReturnsDeferredTests(SynchronousTestCase):
    """The decorator of public coroutines."""

    def test_it_starts_at_once_and_can_be_given_callbacks(self) -> None:
        """No await needed.  style 6.1"""
        steps: list[str] = []

        @returns_deferred
        async def work(value: int) -> int:
            steps.append("started")
            return value + 1

        deferred = work(1)
        self.assertEqual(steps, ["started"])
        self.assertEqual(self.successResultOf(deferred.addCallback(lambda v: v * 2)), 4)
