"""How many messages there have been lately.

Engines row of the stage table; pure.
"""

from __future__ import annotations

from typing import Final

PERIOD_SECS: Final = 1.0


class MessageRate:
    """Counts the messages of the last second, the second before it weighed by what is left of it.

    Cost: O(1), no state per message.
    """

    __slots__ = ("_began", "_current", "_previous")

    def __init__(self) -> None:
        self._began = 0.0
        self._current = 0
        self._previous = 0

    def count(self, now: float, messages: int = 1) -> None:
        """Count messages.

        :param now: monotonic seconds.
        """
        if now - self._began >= PERIOD_SECS:
            self._turn(now)
        self._current += messages

    def recent(self, now: float) -> float:
        """Messages in the last second."""
        if now - self._began >= PERIOD_SECS:
            self._turn(now)
        remaining = 1 - (now - self._began) / PERIOD_SECS
        return self._current + self._previous * remaining

    def _turn(self, now: float) -> None:
        if now - self._began < 2 * PERIOD_SECS:
            self._previous = self._current
            self._began += PERIOD_SECS
        else:
            self._previous = 0
            self._began = now
        self._current = 0
