"""When to come back to a relay that was lost; pure.

Source: behaviour RLY-004.
"""

from __future__ import annotations

from random import Random
from typing import Final

MAX_DELAY_SECS: Final = 300.0
LASTING_SECS: Final = 60.0  # a session that lasted this long forgives the failures before it


class Reconnection:
    """Counts failures in a row and chooses delays: doubled, capped, spread by a random factor.

    :param first_delay: seconds.
    :param max_attempts: failures in a row after which it is given up; 0: after the first.
    :ivar failures: in a row.
    """

    def __init__(self, first_delay: float, max_attempts: int, rng: Random) -> None:
        self.failures = 0
        self._first_delay = first_delay
        self._max_attempts = max_attempts
        self._rng = rng

    def lost_after(self, seconds: float) -> None:
        """A registered session has ended after so long."""
        if seconds >= LASTING_SECS:
            self.failures = 0

    def next_delay(self) -> float | None:
        """Count a failure; seconds until the next attempt, or None if there is to be none."""
        self.failures += 1
        if self.failures > self._max_attempts:
            return None
        delay = min(self._first_delay * 2.0 ** min(self.failures - 1, 32), MAX_DELAY_SECS)
        return delay * self._rng.uniform(0.5, 1.5)

    def restart(self) -> None:
        """Forget all failures: somebody has asked for another try."""
        self.failures = 0
