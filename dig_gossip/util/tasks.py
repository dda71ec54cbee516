"""Background work that must go on: named, logged, restarted, stoppable.

Source: behaviour API-101-X, CNC-002, CNC-006.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled

_RESTART_FIRST = 1.0
_RESTART_CAP = 60.0
_UNHEALTHY_AFTER = 3  # consecutive failures


class _Task:
    def __init__(self, name: str, interval: float, function: Callable[[], Any]) -> None:
        self.name = name
        self.interval = interval
        self.function = function
        self.failures = 0
        self.timer: Timer | None = None
        self.running: Deferred[Any] | None = None


class Tasks:
    """The periodic tasks of one node.

    A task that fails is logged and tried again after 1 s, 2 s, 4 s … 60 s; after three failures
    in a row it is reported by :meth:`unhealthy`.
    """

    _log = Logger()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: dict[str, _Task] = {}
        self._stopped = False

    def every(
        self, name: str, interval: float, function: Callable[[], Any], *, now: bool = False
    ) -> None:
        """Run ``function`` every ``interval`` seconds, counted from the end of the last run.

        :param function: may return a Deferred; the next run waits for it.
        :param now: make the first run at once instead of after one interval.
        """
        task = _Task(name, interval, function)
        self._tasks[name] = task
        if now:
            self._run(task)
        else:
            task.timer = self._clock.call_later(interval, self._run, task)

    def names(self) -> list[str]:
        """The tasks that exist."""
        return list(self._tasks)

    def unhealthy(self) -> list[str]:
        """The tasks that failed three times in a row."""
        return [t.name for t in self._tasks.values() if t.failures >= _UNHEALTHY_AFTER]

    def stop(self) -> Deferred[Any]:
        """Cancel everything; fires when nothing runs any more."""
        self._stopped = True
        running = []
        for task in self._tasks.values():
            if task.timer is not None:
                task.timer.cancel()
            if task.running is not None:
                running.append(task.running)
                task.running.cancel()
        return DeferredList(running, consumeErrors=True)

    def _run(self, task: _Task) -> None:
        task.timer = None
        task.running = maybeDeferred(task.function)
        handled(task.running.addCallbacks(self._succeeded, self._failed, (task,), {}, (task,), {}))

    def _succeeded(self, _result: object, task: _Task) -> None:
        task.failures = 0
        self._again(task, task.interval)

    def _failed(self, failure: Failure, task: _Task) -> None:
        if self._stopped and failure.check(CancelledError):
            task.running = None
            return
        task.failures += 1
        self._log.failure(
            "task {task} failed ({failures} in a row)",
            failure,
            event="task_failed",
            task=task.name,
            failures=task.failures,
        )
        self._again(task, min(_RESTART_CAP, _RESTART_FIRST * 2.0 ** (task.failures - 1)))

    def _again(self, task: _Task, delay: float) -> None:
        task.running = None
        if not self._stopped:
            task.timer = self._clock.call_later(delay, self._run, task)
