"""How long to wait: for a message that was announced, and for one that was asked for.

Engines row of the stage table; pure.
"""

from __future__ import annotations

from typing import Final

from dig_gossip.types.config import PlumtreeConfig

_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_DEVIATIONS: Final = 4
_PEAK_MARGIN: Final = 1.25
_PEAK_WINDOW_SECS: Final = 20.0  # the largest gap of one to two windows counts; a window has
_PEAK_WINDOW_SAMPLES: Final = 64  # at least so many samples
_GROWTH: Final = 1.25  # a gap counts as at most so many times the present timer
GRAFT_MARGIN_SECS: Final = 0.05  # an announcer's own work, added to the round trips


class GraftTimers:
    """Timer 1 (announcement to graft) and timer 2 (graft to the next announcer).

    Timer 1 starts at ``lazy_timeout_ms`` and then follows the gap between the first announcement
    of a message and its arrival along the tree: smoothed mean plus four mean deviations, as TCP
    does for its retransmission timer, and at least 1.25 times the largest recent gap (twenty
    seconds and 64 samples, up to twice that), because every origin has a gap of its own. Messages
    that arrive before any announcement say nothing about the gap and are not samples. Grafting
    too early makes late arrivals count as duplicates, so the caller also samples the arrivals
    that a graft forestalled. What is late because somebody else had to fetch it is sampled, too;
    therefore one sample raises the timer by half at most.

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
        self._peak = 0.0
        self._previous_peak = self.lazy_timeout / _PEAK_MARGIN
        self._window_began = 0.0
        self._window_samples = 0

    def on_time(self, now: float) -> None:
        """Learn from a message that came before anybody announced it.

        Only where announcements are so slow that this is the rule: there, the timer would otherwise
        stay where it began.

        :param now: monotonic seconds.
        """
        if self._adaptive:
            self._learn(0.0, now)

    def sample(self, gap: float, now: float) -> None:
        """Learn from one arrival.

        :param gap: seconds from the first announcement to the arrival; ignored unless positive.
        :param now: monotonic seconds.
        """
        if not self._adaptive or gap <= 0:
            return
        self._learn(min(gap, _GROWTH * self.lazy_timeout), now)

    def _learn(self, gap: float, now: float) -> None:
        mean = self._mean
        if mean is None:
            self._mean = mean = gap
            self._deviation = gap / 2
        else:
            self._deviation += _DEVIATION_GAIN * (abs(mean - gap) - self._deviation)
            self._mean = mean = mean + _MEAN_GAIN * (gap - mean)
        self._window_samples += 1
        if (
            self._window_samples > _PEAK_WINDOW_SAMPLES
            and now - self._window_began >= _PEAK_WINDOW_SECS
        ):
            self._previous_peak, self._peak = self._peak, 0.0
            self._window_began = now
            self._window_samples = 1
        peak = self._peak
        if gap > peak:
            self._peak = peak = gap
        # Comparisons instead of min and max: this is done for every message.
        timeout = mean + _DEVIATIONS * self._deviation
        margin = _PEAK_MARGIN * (peak if peak > self._previous_peak else self._previous_peak)
        timeout = margin if margin > timeout else timeout
        timeout = self._floor if timeout < self._floor else timeout
        self.lazy_timeout = self._ceiling if timeout > self._ceiling else timeout

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
