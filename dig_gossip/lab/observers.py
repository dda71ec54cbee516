"""Whose transaction is it? What spies can make of what they saw.

Programs row of the stage table; pure, but for numpy. *First spy* names the honest node from which
any spy got a transaction first, be it on its stem or by its announcement. *Graph* knows, besides,
the stem relays of every honest node, and names the likeliest origin.

Precision: of each origin the share of its own transactions among those that are ascribed to it, 0
if there are none; the mean over origins. Recall: the share of transactions ascribed to their
origin. If every honest node sends one transaction, these are the figures of the paper.

Source: G. Fanti et al., "Dandelion++", 2018, section 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import attrs

if TYPE_CHECKING:
    import numpy as np

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"  # Any: any shape
K = TypeVar("K", bound=Hashable)

MAX_HOPS: Final = 25  # a stem of more is a rarity


@attrs.define
class Sighting:
    """What the spies know of one transaction.

    :ivar stem: the honest node that gave it to the first spy on its stem.
    :ivar announcer: the honest node from which a spy first got the announcement.
    :ivar delay: seconds from the submission to the announcement.
    """

    stem: int | None = None
    announcer: int | None = None
    delay: float = 0.0


def first_spy(sighting: Sighting) -> int | None:
    """The observer's guess."""
    return sighting.announcer if sighting.stem is None else sighting.stem


def precision(origins: Mapping[K, int], guesses: Mapping[K, int | None]) -> float:
    """Of all origins, 0..1.

    :param origins: transaction -> who sent it.
    :param guesses: transaction -> whom it is ascribed to.
    """
    ascribed = Counter(guesses.values())
    hits = Counter(node for key, node in origins.items() if guesses.get(key) == node)
    senders = set(origins.values())
    return sum(hits[node] / ascribed[node] for node in hits) / len(senders) if senders else 0.0


def recall(origins: Mapping[K, int], guesses: Mapping[K, int | None]) -> float:
    """Of all transactions, 0..1."""
    right = sum(guesses.get(key) == node for key, node in origins.items())
    return right / len(origins) if origins else 0.0


class StemGraph:
    """What the graph observer knows: the relays of every honest node, not their edges.

    ``walks[d, u, v]`` is the probability that a transaction of the u-th node is at the v-th after d
    hops, all of them honest and none of them announcing it.

    Bounded: 100 bytes for each pair of honest nodes. Cost: O(nodes³).

    :param relays: of each honest node; those of nodes that never needed any are missing, or empty.
    :param fluff: probability that a relay announces, 0..1.
    """

    def __init__(self, relays: Mapping[int, Sequence[int]], fluff: float) -> None:
        import numpy as np

        self.honest = list(relays)
        self.index = {node: place for place, node in enumerate(self.honest)}
        count = len(self.honest)
        step = np.zeros((count, count))
        for node, chosen in relays.items():
            for relay in chosen:
                if relay in self.index:
                    step[self.index[node], self.index[relay]] = (1 - fluff) / len(chosen)
        walk = np.identity(count)
        self.walks = np.empty((MAX_HOPS, count, count), dtype=np.float32)
        for hops in range(MAX_HOPS):
            self.walks[hops] = walk
            walk = walk @ step

    def likely(
        self, sighting: Sighting, accuracy: float, rates: Sequence[float] | None = None
    ) -> Floats:
        """How likely each honest node is the origin; all zero if nothing is known.

        With the rates of embargoes, how the stem ended counts, too: the likelihood that after ``d``
        hops node ``i`` of the stem announced the transaction when it did is its rate, and that
        nobody did before.

        :param accuracy: how often the announcer is who it seems to be, 0..1.
        :param rates: if spies swallow stems: of the origin and of each relay after it, how many
            embargoes end in a second; :data:`MAX_HOPS` of them.
        :returns: in the order of :attr:`honest`.
        """
        import numpy as np

        walks, index = self.walks, self.index
        announcer = None if sighting.announcer is None else index.get(sighting.announcer)
        if sighting.stem is None:
            if announcer is None:
                return np.zeros(len(index))
            weights = accuracy * walks[1:, :, announcer].sum(axis=0) + (1 - accuracy) / len(index)
            return _normal(weights)
        arrivals = walks[:, :, index[sighting.stem]]
        if rates is None:
            return _normal(arrivals.sum(axis=0))
        nobody = np.exp(-np.cumsum(rates) * sighting.delay)
        weights = (1 - accuracy) / len(index) * ((np.cumsum(rates) * nobody) @ arrivals)
        if announcer is not None:
            rest = arrivals[:, announcer]
            relays = [
                rate * (rest[: MAX_HOPS - before] @ nobody[before:])
                for before, rate in enumerate(rates)
            ]
            weights = weights + accuracy * (np.array(relays) @ walks[:, :, announcer])
        return _normal(weights)

    def guess(self, likely: Floats) -> int | None:
        """The likeliest node; None if nothing is known."""
        return self.honest[int(likely.argmax())] if likely.any() else None


def _normal(weights: Floats) -> Floats:
    import numpy as np

    total = weights.sum()
    return np.asarray(weights / total if total else weights, dtype=np.float64)
