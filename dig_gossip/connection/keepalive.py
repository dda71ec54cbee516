"""Is the peer still there, and how far away is it?

Pure: the session calls :meth:`Keepalive.tick` when it said it wants to be woken, sends what it is
told, and reports what arrives. Probes are WebSocket pings, which consume no correlation id.

Source: behaviour §7, PRF-001; wire §10.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from dig_gossip.constants import PING_PAYLOAD_BYTES, RTT_WINDOW_SIZE

#: Seconds by which a timer may wake us too early and still be on time.
_SLACK: Final = 0.001


class Probe(NamedTuple):
    """Send a WebSocket ping with ``payload``; call ``tick`` again in ``next_delay`` seconds."""

    payload: bytes
    next_delay: float


class Skip(NamedTuple):
    """Send nothing; call ``tick`` again in ``next_delay`` seconds."""

    next_delay: float


class Dead(NamedTuple):
    """The peer has been silent for too long: remove the session."""


Action: TypeAlias = Probe | Skip | Dead


class Keepalive:
    """The pulse of one session.

    Every ``ping_interval`` seconds a probe is due. The peer is dead when its clock of silence
    reaches ``peer_timeout``. Hearing anything sets that clock to zero. A probe that is due but
    cannot be sent, because our own queue is saturated or we read nothing from the peer, is skipped
    and *stops* the clock where it stands, until a probe goes out again: a peer that was not asked
    owes no answer. What it owed before still counts. (A peer that never drains our queue is not
    this class's business: the queue has a hard cap.)

    Bounds: ten round trips. Cost of each call: O(1).

    :param ping_interval: seconds, above 0 and below ``peer_timeout``.
    :param peer_timeout: seconds of silence that end a session.
    :param now: monotonic seconds.
    :param rng: chooses payloads and the first delay.
    :ivar last_heard: monotonic seconds of the last byte from the peer; at first, of registration.
    Source: behaviour CON-004 to CON-004.4.
    """

    __slots__ = (
        "_next_probe",
        "_now",
        "_outstanding",
        "_peer_timeout",
        "_ping_interval",
        "_rng",
        "_rtts",
        "_sent_at",
        "_silent_since",
        "_stopped_at",
        "last_heard",
    )

    def __init__(
        self,
        *,
        ping_interval: float,
        peer_timeout: float,
        now: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._ping_interval = ping_interval
        self._peer_timeout = peer_timeout
        self._now = now
        self._rng = rng
        self._rtts: deque[float] = deque(maxlen=RTT_WINDOW_SIZE)
        self._outstanding: bytes | None = None
        self._sent_at = 0.0
        self.last_heard = now()
        self._next_probe = self.last_heard + ping_interval
        # Where silence begins: the last byte heard, moved forward by what is not held against
        # the peer.
        self._silent_since = self.last_heard
        self._stopped_at: float | None = None

    def first_delay(self) -> float:
        """Choose when to call :meth:`tick` for the first time.

        :returns: one ping interval ± 10 %, in seconds, so that sessions do not tick in step.
        """
        now = self._now()
        self._next_probe = now + self._ping_interval * self._rng.uniform(0.9, 1.1)
        return self._delay(now)

    def heard(self) -> None:
        """Note that bytes of any kind arrived from the peer; for the hot path."""
        self.last_heard = self._now()

    def tick(self, can_send: bool) -> Action:
        """Decide what to do now.

        :param can_send: whether a ping would leave now, rather than wait in our own queue, and its
            answer would be read.
        :returns: ``Probe`` (a new payload replaces an unanswered one), ``Skip`` (it is too early
            for a probe, or it cannot be sent), or ``Dead``. The next wake-up is never later than
            the moment at which the peer would be dead.
        """
        now = self._now()
        self._account(now)
        if now + _SLACK >= self._silent_since + self._peer_timeout:
            return Dead()
        if now + _SLACK < self._next_probe:
            return Skip(self._delay(now))
        self._next_probe = now + self._ping_interval
        if not can_send:
            self._stopped_at = now
            return Skip(self._delay(now))
        self._stopped_at = None
        self._outstanding = self._rng.randbytes(PING_PAYLOAD_BYTES)
        self._sent_at = now
        return Probe(self._outstanding, self._delay(now))

    def probe(self) -> bytes | None:
        """Measure now, besides the regular probes.

        :returns: the payload to send; None while a probe is under way.
        """
        if self._outstanding is not None:
            return None
        self._outstanding = self._rng.randbytes(PING_PAYLOAD_BYTES)
        self._sent_at = self._now()
        return self._outstanding

    def pong(self, payload: bytes) -> float | None:
        """Take a pong; any pong is a sign of life.

        :returns: the round trip in seconds if the payload is that of the probe under way, else
            None.
        """
        now = self._now()
        self.last_heard = now
        if payload != self._outstanding:
            return None
        self._outstanding = None
        rtt = now - self._sent_at
        self._rtts.append(rtt)
        return rtt

    @property
    def is_live(self) -> bool:
        """Whether the peer was heard within the last ping interval."""
        return self._now() - self.last_heard <= self._ping_interval

    @property
    def rtt_history(self) -> tuple[float, ...]:
        """The last round trips in seconds, at most ten, oldest first."""
        return tuple(self._rtts)

    @property
    def avg_rtt_ms(self) -> int | None:
        """Mean of :attr:`rtt_history` in whole milliseconds, rounded down, at least 1."""
        if not self._rtts:
            return None
        # A nanosecond more, so that rounding of floats does not cost a millisecond.
        return max(1, int(sum(self._rtts) / len(self._rtts) * 1000 + 1e-6))

    def _account(self, now: float) -> None:
        since = max(self._silent_since, self.last_heard)
        if self._stopped_at is not None:
            since += now - max(self._stopped_at, since)
            self._stopped_at = now
        self._silent_since = since

    def _delay(self, now: float) -> float:
        wake = self._next_probe
        if self._stopped_at is None:
            wake = min(wake, self._silent_since + self._peer_timeout)
        return wake - now
