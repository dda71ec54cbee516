"""The only clock: monotonic for intervals, Unix for what is shown or stored, and timers.

``reactor.seconds()`` is wall time, and so is ``callLater``; a stepped system clock would fire
timers early. Every timer therefore compares the monotonic clock with its deadline when it fires
and goes back to sleep if it was woken too soon. Source: design D8, style §6.2.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

_EARLY = 1e-4  # seconds that rounding may cost


class Timer:
    """One pending call. Cancelling a timer that has fired, or was cancelled, is harmless."""

    __slots__ = ("_args", "_call", "_clock", "_function", "deadline")

    def __init__(
        self, clock: Clock, deadline: float, function: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        self._clock = clock
        self._function = function
        self._args = args
        self._call: IDelayedCall | None = None
        self.deadline = deadline

    @property
    def active(self) -> bool:
        """Whether the call is still to come."""
        return self._call is not None

    def cancel(self) -> None:
        """Make sure that the call never comes."""
        call, self._call = self._call, None
        if call is not None:
            self._clock._timers.discard(self)
            call.cancel()

    def _arm(self, delay: float) -> None:
        self._call = self._clock.reactor.callLater(delay, self._fire)
        self._clock._timers.add(self)

    def _fire(self) -> None:
        self._call = None
        self._clock._timers.discard(self)
        remaining = self.deadline - self._clock.monotonic()
        if remaining > _EARLY:
            self._arm(remaining)
        else:
            self._function(*self._args)


class Clock:
    """Tells time and keeps timers for one node.

    :param reactor: used for ``callLater`` only. A reactor that has ``monotonic`` and ``unix``
        methods of its own (the test kit's) is asked for the time as well.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self.reactor = reactor
        self.monotonic: Callable[[], float] = getattr(reactor, "monotonic", time.monotonic)
        self.unix: Callable[[], float] = getattr(reactor, "unix", time.time)
        self._timers: set[Timer] = set()

    def call_later(self, delay: float, function: Callable[..., object], *args: Any) -> Timer:
        """Call ``function(*args)`` once, ``delay`` seconds from now, never earlier."""
        timer = Timer(self, self.monotonic() + delay, function, args)
        timer._arm(max(0.0, delay))
        return timer

    @property
    def pending(self) -> int:
        """How many timers are waiting."""
        return len(self._timers)

    def cancel_all(self) -> None:
        """Cancel every timer: nothing of this node runs afterwards."""
        for timer in list(self._timers):
            timer.cancel()
