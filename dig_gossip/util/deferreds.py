"""Small pieces between coroutines, Deferreds and callbacks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

T = TypeVar("T")
P = ParamSpec("P")


def returns_deferred(
    function: Callable[P, Coroutine[Deferred[Any], Any, T]],
) -> Callable[P, Deferred[T]]:
    """Turn an ``async def`` into a function that starts at once and returns a Deferred.

    The result can be awaited, also when it has fired already, and takes callbacks.
    """

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(function(*args, **kwargs))

    return wrapper


class Fired(Deferred[T]):
    """A Deferred that has fired with a result, for a fifth of what ``succeed`` costs.

    One is made for every message that is sent, and nearly all are awaited at once or thrown away:
    so what callbacks need is only there once somebody asks for it. In all else it is a Deferred.

    :param result: not a Failure, and not a Deferred.
    """

    called = True
    _canceller = None
    _has_callbacks = False

    def __init__(self, result: T) -> None:
        self.result = result

    def __getattr__(self, name: str) -> Any:  # Any: Twisted's list of callbacks
        if name == "_callbacks":
            callbacks: list[Any] = []
            self._callbacks = callbacks
            self._has_callbacks = True
            return callbacks
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __await__(self) -> Generator[Deferred[T], None, T]:
        if self._has_callbacks:
            return (yield from super().__await__())
        result: Any = self.result  # Any: Twisted allows for a failure
        return result  # type: ignore[no-any-return]


def handled(_deferred: Deferred[Any]) -> None:
    """Say that nobody waits for this Deferred: its own callbacks deal with every outcome."""


class Observers(Generic[T]):
    """Many waiters for one outcome, each with a Deferred of its own.

    A Deferred has one consumer; sharing one hands the second waiter whatever the first callback
    returned. Cancelling a waiter only removes that waiter.

    :param abandoned: called when the last waiter was cancelled before there was an outcome.
    """

    def __init__(self, abandoned: Callable[[], object] | None = None) -> None:
        self._abandoned = abandoned
        self._waiters: list[Deferred[T]] = []
        self._outcome: tuple[T] | Failure | None = None

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def fired(self) -> bool:
        """Whether the outcome is known."""
        return self._outcome is not None

    def when(self) -> Deferred[T]:
        """A fresh Deferred that fires with the outcome."""
        if isinstance(self._outcome, Failure):
            return fail(self._outcome)
        if self._outcome is not None:
            return succeed(self._outcome[0])
        waiter: Deferred[T] = Deferred(self._cancelled)
        self._waiters.append(waiter)
        return waiter

    def _cancelled(self, waiter: Deferred[T]) -> None:
        self._waiters.remove(waiter)
        if not self._waiters and self._abandoned is not None:
            self._abandoned()

    def succeed(self, value: T) -> None:
        """Tell everybody the result; a second outcome is ignored."""
        if self._outcome is None:
            self._outcome = (value,)
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(value)

    def fail(self, error: BaseException) -> None:
        """Tell everybody the failure; a second outcome is ignored."""
        if self._outcome is None:
            self._outcome = Failure(error)
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.errback(error)
