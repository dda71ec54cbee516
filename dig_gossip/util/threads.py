"""Work that takes too long for the reactor's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorFromThreads, IReactorThreads
from twisted.internet.threads import deferToThreadPool

T = TypeVar("T")
P = ParamSpec("P")


def in_thread(
    reactor: Any,  # Any: whatever reactor the application runs
    function: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Deferred[T]:
    """Call a function in a thread of the reactor's pool; at once if it has no threads.

    Cancellation: the function runs to its end, its result is dropped.
    """
    if IReactorThreads.providedBy(reactor) and IReactorFromThreads.providedBy(reactor):
        return deferToThreadPool(reactor, reactor.getThreadPool(), function, *args, **kwargs)
    return execute(function, *args, **kwargs)
