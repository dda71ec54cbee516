"""Which peers are told of every transaction at once.

Engines row of the stage table; pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Final

from dig_gossip.constants import ERLAY_FLOOD_SET_ROTATION_SECS
from dig_gossip.effects import Effect, SetTimer, TimerKey
from dig_gossip.gossip.erlay_links import ErlayLink

ROTATE: Final = "erlay.rotate"
ROTATE_TIMER: Final[TimerKey] = (ROTATE, b"")


class FloodSet:
    """A few random peers, all dialed by us so that nobody can push himself into the set.

    Source: behaviour ERL-001, ERL-006, ERL-007.

    :param size: how many; fewer if there are not as many.
    """

    def __init__(self, size: int, rng: Random) -> None:
        self._size = size
        self._rng = rng
        self._is_rotating = False

    def rotate(self, links: Iterable[ErlayLink]) -> tuple[list[ErlayLink], list[Effect]]:
        """Draw anew, because the timer has fired."""
        self._is_rotating = False
        return self._draw(links, [])

    def fill(self, links: Iterable[ErlayLink]) -> tuple[list[ErlayLink], list[Effect]]:
        """Fill the places that are free, because sessions have come or gone.

        :returns: the links that are new in the set, and a timer to be set.
        """
        links = list(links)
        return self._draw(links, [link for link in links if link.is_flooded])

    def _draw(
        self, links: Iterable[ErlayLink], chosen: list[ErlayLink]
    ) -> tuple[list[ErlayLink], list[Effect]]:
        dialed = [link for link in links if link.dialer is not None]
        others = [link for link in dialed if link not in chosen]
        count = max(0, min(self._size - len(chosen), len(others)))
        chosen = chosen + self._rng.sample(others, count)
        new = [link for link in chosen if not link.is_flooded]
        for link in dialed:
            link.is_flooded = link in chosen
        if not dialed or not self._size or self._is_rotating:
            return new, []
        self._is_rotating = True
        return new, [SetTimer(ROTATE_TIMER, ERLAY_FLOOD_SET_ROTATION_SECS)]
