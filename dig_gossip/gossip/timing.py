"""How long to wait: for a message that was announced, and for one that was asked for.

Engines row of the stage table; pure.
"""

from __future__ import annotations

from typing import Final

from dig_gossip.types.config import PlumtreeConfig

_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_DEVIATIONS: Final = 4
GRAFT_MARGIN_SECS: Final = 0.05  # an announcer's own work, added to the round trips


class GraftTimers:
    """Timer 1 (announcement to graft) and timer 2 (graft to the next announcer).

    Timer 1 starts at ``lazy_timeout_ms`` and then follows the gap between the first announcement
    of a message and its arrival along the tree: smoothed mean plus four mean deviations, as TCP
    does for its retransmission timer. Messages that arrive before any announcement say nothing
    about the gap and are not samples. Grafting too early makes late arrivals count as
    duplicates, so the caller also samples the arrivals that a graft forestalled.

    Timer 2 is two round trips to the announcer and a margin, or ``graft_retry_ms`` as long as
    its round trip is unknown.

    Divergence: behaviour PLT-005 has fixed 500 ms and 250 ms; that is what
    ``adaptive_timers=False`` gives. Fixed timers are too short across oceans, where every graft
    is spurious, and needlessly long within a city.

    Source: behaviour PLT-005, PLT-005.1; RFC 6298 §2 (the estimator).
    """

    def __init__(self, config: PlumtreeConfig) -> None:
        self._adaptive = config.adaptive_timers
        self._floor = config.graft_timeout_floor_ms / 1000
        self._ceiling = config.graft_timeout_ceiling_ms / 1000
        self._retry = config.graft_retry_ms / 1000
        self._mean: float | None = None
        self._deviation = 0.0
        #: seconds from the first announcement to the graft
        self.lazy_timeout = config.lazy_timeout_ms / 1000

    def sample(self, gap: float) -> None:
        """Learn from one arrival.

        :param gap: seconds from the first announcement to the arrival; ignored unless positive.
        """
        if not self._adaptive or gap <= 0:
            return
        gap = min(gap, self._ceiling)  # one liar's hour must not linger in the mean
        if self._mean is None:
            self._mean = gap
            self._deviation = gap / 2
        else:
            self._deviation += _DEVIATION_GAIN * (abs(self._mean - gap) - self._deviation)
            self._mean += _MEAN_GAIN * (gap - self._mean)
        self.lazy_timeout = self._clamp(self._mean + _DEVIATIONS * self._deviation)

    def retry_timeout(self, rtt: float | None) -> float:
        """Choose how long one announcer may take to answer.

        :param rtt: its mean round trip in seconds, None if unknown.
        :returns: seconds.
        """
        if rtt is None or not self._adaptive:
            return self._retry
        return self._clamp(2 * rtt + GRAFT_MARGIN_SECS)

    def _clamp(self, timeout: float) -> float:
        return min(max(timeout, self._floor), self._ceiling)
