"""Hours of a full node's traffic in minutes: who sends what, how often, on both sides.

Only the standard library: chia-blockchain's environment runs it as well as ours.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

HOURS = 2.0
SPEED = 30.0
"""So many seconds of the rate limits' windows pass in one."""

PEAK_SECS = 18.75
"""Chia's mainnet has 4608 blocks a day."""

TRANSACTION_SECS = 1.0
ONE_BLOCK_SECS = 60.0
FULL_ANSWER_SECS = 1800.0


class FastClock:
    """Monotonic seconds that pass ``speed`` times as fast from the moment of :meth:`go`."""

    def __init__(self) -> None:
        self._real = self._shown = time.monotonic()
        self.speed = 1.0

    def go(self, speed: float) -> None:
        """From now on."""
        self._shown, self._real = self(), time.monotonic()
        self.speed = speed

    def __call__(self) -> float:
        return self._shown + (time.monotonic() - self._real) * self.speed


async def repeat(
    clock: FastClock,
    gap: float,
    pause: Callable[[float], Awaitable[object]],
    do: Callable[[int], Awaitable[object]],
) -> int:
    """Do something every ``gap`` seconds of the fast clock for two hours; how often it was done.

    What is late is made up for, as far as the machine allows.
    """
    began = clock()
    count = int(HOURS * 3600 / gap)
    for number in range(count):
        wait = began + (number + 1) * gap - clock()
        if wait > 0:
            await pause(wait / clock.speed)
        await do(number)
    return count
