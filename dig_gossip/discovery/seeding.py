"""When to ask the seeds again.

Pure. Source: behaviour DSC-006.2, DSC-006.3.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

AFTER_SUCCESS_SECS: Final = 5.0
_FIRST_BACKOFF_SECS: Final = 1.0
_MAX_BACKOFF_SECS: Final = 300.0
_JITTER: Final = 0.2
_MAX_DOUBLINGS: Final = 16


class SeedingSchedule:
    """Rounds of asking, ever farther apart while they yield nothing new.

    :param now: monotonic seconds.
    """

    def __init__(self, *, now: Callable[[], float], rng: random.Random) -> None:
        self._now = now
        self._rng = rng
        self._failures = 0
        self._due_at = now()

    @property
    def due_in(self) -> float:
        """Seconds until the next round may begin; 0.0 for now."""
        return max(0.0, self._due_at - self._now())

    def postpone(self) -> None:
        """There are anchors to dial: give them time before anybody is asked."""
        self._due_at = self._now() + AFTER_SUCCESS_SECS

    def succeeded(self) -> None:
        """A round has found at least one new address: give it time to be dialed."""
        self._failures = 0
        self._due_at = self._now() + AFTER_SUCCESS_SECS

    def failed(self) -> None:
        """A round has found nothing new: 1 s, 2 s, 4 s … 300 s, give or take a fifth."""
        delay = _FIRST_BACKOFF_SECS * 2.0 ** min(self._failures, _MAX_DOUBLINGS)
        self._failures += 1
        jitter = 1 + self._rng.uniform(-_JITTER, _JITTER)
        self._due_at = self._now() + min(delay, _MAX_BACKOFF_SECS) * jitter


def feeler_delay(rng: random.Random, mean: float) -> float:
    """Draw the seconds until the next feeler, exponentially distributed.

    Nobody who watches can foresee it. Clamped to 0.1 s and ten times the mean.
    Source: behaviour DSC-008.
    """
    # 1 - random() is never 0, of which there is no logarithm.
    return min(max(rng.expovariate(1 / mean), 0.1), 10 * mean)
