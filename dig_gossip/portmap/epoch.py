"""Whether a gateway has forgotten its mappings: the age that it tells, against our own clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Takes the age told before, the age told now, and the seconds between by our clock.
Rule: TypeAlias = Callable[[int, int, float], bool]


def is_kept_natpmp(before: int, now: int, elapsed: float) -> bool:
    """Whether a NAT-PMP gateway still has its table.

    Source: RFC 6886 §3.6.
    """
    return now >= before + elapsed * 7 / 8 - 2


def is_kept_pcp(before: int, now: int, elapsed: float) -> bool:
    """Whether a PCP server still has its table.

    Source: RFC 6887 §8.5.
    """
    grown = now - before
    if grown < -1:
        return False
    return elapsed + 2 >= grown - grown / 16 and grown + 2 >= elapsed - elapsed / 16


class Epoch:
    """Follows the age that one gateway tells.

    :param rule: :func:`is_kept_natpmp` or :func:`is_kept_pcp`.
    :param now: monotonic seconds.
    """

    def __init__(self, rule: Rule, *, now: Callable[[], float]) -> None:
        self._rule = rule
        self._now = now
        self._last: tuple[int, float] | None = None

    def told(self, age: int) -> bool:
        """Take the age of a response.

        :param age: seconds, u32.
        :returns: False if the gateway has lost its table since the last response.
        """
        now = self._now()
        last, self._last = self._last, (age, now)
        return last is None or self._rule(last[0], age, now - last[1])
