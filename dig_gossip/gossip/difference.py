"""How large the difference of two sets of transactions will be, and so how large a sketch must be.

Engines row of the stage table; pure.
"""

from __future__ import annotations

import math
from typing import Final

from dig_gossip.constants import ERLAY_MAX_CAPACITY

_SHARED: Final = 0.25  # of the smaller set, as long as nothing is known
_FIRST: Final = 32  # of two sets as large as ours, likewise
_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_DEVIATIONS: Final = 4
_CHECK: Final = 1  # a syndrome that is never used up tells a wrong result from a right one


class DifferenceEstimate:
    """Chooses the capacity of one session's sketches.

    The first one is for a quarter of the set, or for 32 elements: when nothing is known, small sets
    may well have nothing in common. Each round that was decoded tells the true difference; from
    then on it is estimated as TCP estimates round trips: smoothed mean and four mean deviations. A
    round that failed counts as one with twice the difference that its sketch could carry.

    What was seen of small sets says little about large ones: of the elements by which a set exceeds
    the largest one compared of late, again a quarter is expected to differ. Otherwise the first
    rounds of a session, in which hardly anything is pending, would make the next ones fail. No
    sketch is between half of the largest and the largest, since it could not be extended, unless
    the minimum is.

    Divergence: ERL-101-X has the difference of the sizes and a quarter of the smaller set, in every
    round. With 250 transactions in each set it asks for 64 syndromes where the difference of nodes
    that hear of everything within a second is 10 to 20; and in a burst it has no memory of the
    failure before.

    :param minimum: the smallest difference that must fit, ``sketch_capacity`` of the configuration.
    Source: behaviour ERL-101-X; wire §13.3; RFC 6298 §2 (the estimator); BIP-330 (the q that
    adapts).
    """

    __slots__ = ("_deviation", "_mean", "_minimum", "_size")

    def __init__(self, minimum: int) -> None:
        self._minimum = minimum
        self._mean: float | None = None
        self._deviation = 0.0
        self._size = 0.0  # rises at once and falls as slowly as the mean

    def capacity(self, set_size: int) -> int:
        """Choose how many syndromes to send.

        :param set_size: how many transactions the sketch is of.
        :returns: 1 to 128.
        """
        if set_size == 0:
            return 1  # whatever the peer has is the difference; nothing has to be decoded
        if self._mean is None:
            expected = max(math.ceil(_SHARED * set_size) + 1, min(2 * set_size, _FIRST))
        else:
            beyond = _SHARED * max(0.0, set_size - self._size)
            expected = math.ceil(self._mean + _DEVIATIONS * self._deviation + beyond)
        wanted = max(self._minimum, expected) + _CHECK
        if wanted >= ERLAY_MAX_CAPACITY:
            return ERLAY_MAX_CAPACITY
        return min(wanted, max(ERLAY_MAX_CAPACITY // 2, self._minimum + _CHECK))

    def decoded(self, difference: int, set_size: int) -> None:
        """Learn how many elements only one of the sets had, if the peer tells the truth.

        :param set_size: how many transactions the sketch was of.
        """
        difference = min(difference, 2 * ERLAY_MAX_CAPACITY)
        self._size = max(float(set_size), self._size + _MEAN_GAIN * (set_size - self._size))
        if self._mean is None:
            self._mean = difference
            self._deviation = difference / 2
            return
        self._deviation += _DEVIATION_GAIN * (abs(self._mean - difference) - self._deviation)
        self._mean += _MEAN_GAIN * (difference - self._mean)

    def failed(self, capacity: int, set_size: int) -> None:
        """Learn that a capacity was too small for a set."""
        self.decoded(2 * capacity, set_size)
