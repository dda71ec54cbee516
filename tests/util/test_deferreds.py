"""Observers: one outcome, many waiters."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.util.deferreds import Fired, Observers, handled, returns_deferred


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


class FiredTests(SynchronousTestCase):
    """A Deferred like any that has fired, only cheaper."""

    def test_result_arrives_however_it_is_asked_for(self) -> None:
        """Awaited, by callback, as the result of another, more than once.  style 6.1"""
        for result in (None, 7):
            direct: Deferred[int | None] = Fired(result)
            self.assertEqual(self.successResultOf(direct), result)

            async def waits(result: int | None = result) -> list[int | None]:
                deferred = Fired(result)
                return [await deferred, await deferred]

            self.assertEqual(
                self.successResultOf(Deferred.fromCoroutine(waits())), [result, result]
            )
            fired = Fired(result)
            outer: Deferred[Any] = succeed(1).addCallback(lambda _: fired)  # noqa: B023
            self.assertEqual(self.successResultOf(outer), result)

    def test_callbacks_are_a_chain(self) -> None:
        """Each gets what the one before it returned, and so does who awaits it.  style 6.1"""
        deferred = Fired(1)
        results: list[int] = []
        handled(deferred.addCallback(lambda value: value + 1).addCallback(results.append))
        self.assertEqual(results, [2])
        later = Fired(1).addCallback(lambda value: value + 1)
        self.assertEqual(self.successResultOf(returns_deferred(_awaited)(later)), 2)

    def test_failing_callback(self) -> None:
        """Its exception comes out where it is awaited.  style 6.1"""

        def fail(value: int) -> int:
            raise ZeroDivisionError

        failing = Fired(1).addCallback(fail)
        self.failureResultOf(returns_deferred(_awaited)(failing), ZeroDivisionError)

    def test_callback_that_has_to_wait(self) -> None:
        """It then waits as any Deferred does.  style 6.1"""
        inner: Deferred[int] = Deferred()
        waiting = returns_deferred(_awaited)(Fired(1).addCallback(lambda _: inner))
        self.assertNoResult(waiting)
        inner.callback(5)
        self.assertEqual(self.successResultOf(waiting), 5)

    def test_cancelling_is_too_late(self) -> None:
        """As for any that has fired.  style 6.4"""
        deferred: Deferred[int] = Fired(1)
        deferred.cancel()
        self.assertEqual(self.successResultOf(deferred), 1)
        self.assertRaises(AttributeError, getattr, deferred, "nothing")
        self.assertIn("current result: 1", str(Fired(1)))


async def _awaited(deferred: Deferred[int]) -> int:
    return await deferred
