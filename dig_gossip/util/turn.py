"""Calls at the end of the present reactor turn, one timer for all who want one."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class TurnListener(Protocol):
    """Who has something to do when the turn is over."""

    def turn_over(self) -> None: ...


class Turn:
    """Those who wait for the end of the present turn of one reactor.

    Bounds: whoever is added is there once, and forgotten at the end of the turn.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = weakref.ref(reactor)
        self._waiting: dict[TurnListener, None] = {}
        self._call: IDelayedCall | None = None

    @classmethod
    def of(cls, reactor: IReactorTime) -> Turn:
        """The one of this reactor."""
        turn = _turns.get(reactor)
        if turn is None:
            turn = _turns[reactor] = cls(reactor)
        return turn

    def add(self, listener: TurnListener) -> None:
        """Call ``listener.turn_over()`` when the turn is over."""
        self._waiting[listener] = None
        if self._call is None:
            reactor = self._reactor()
            assert reactor is not None
            self._call = reactor.callLater(0, self._over)

    def discard(self, listener: TurnListener) -> None:
        """Forget somebody; the timer goes with the last one."""
        self._waiting.pop(listener, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _over(self) -> None:
        self._call = None
        waiting, self._waiting = self._waiting, {}
        for listener in waiting:
            try:
                listener.turn_over()
            except Exception:
                self._log.failure("writing failed", event="turn_failed")


#: One for each reactor; several only in tests.
_turns: weakref.WeakKeyDictionary[Any, Turn] = weakref.WeakKeyDictionary()
