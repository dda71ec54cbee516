"""What ERLAY keeps of each session, and how much decoding it may do.

Engines row of the stage table; pure. Source: behaviour ERL-004, ERL-105-X.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from dig_gossip.constants import (
    ERLAY_DECODE_REST_SECS,
    ERLAY_DECODE_SHARE,
    ERLAY_MAX_PENDING,
)
from dig_gossip.gossip.rounds import Acceptor, Dialer
from dig_gossip.gossip.sketch import IS_COMPILED
from dig_gossip.types.peer import PeerId

#: Seconds for the square of a capacity, about; see ``benchmarks/sketch.py``.
_DECODE_SECS: Final = 0.25e-6 if IS_COMPILED else 10e-6
_BURST_SECS: Final = 0.5


class ErlayLink:
    """One session with a peer that speaks ERLAY.

    Bounded: 5000 pending transactions; beyond that the oldest is announced. 5000 in the backlog,
    which is filled from those only.

    :ivar pending: ids that the peer is not known to have, oldest first.
    :ivar backlog: ids that are to be announced when the peer can take more.
    :ivar is_flooded: the peer is told of everything at once, and nothing is pending.
    :ivar is_paused: no rounds for the time being.
    :ivar dialer: our end of rounds if we dialed the session, otherwise None.
    """

    __slots__ = (
        "acceptor", "backlog", "decode_after", "dialer", "is_flooded", "is_paused", "peer",
        "pending",
    )  # fmt: skip

    def __init__(self, peer: PeerId, dialer: Dialer | None) -> None:
        self.peer = peer
        self.dialer = dialer
        self.acceptor = Acceptor()
        self.pending: dict[bytes, None] = {}
        self.backlog: deque[bytes] = deque()
        self.is_flooded = False
        self.is_paused = False
        self.decode_after = 0.0

    def add(self, tx_id: bytes) -> bytes | None:
        """Note that the peer may lack a transaction.

        :returns: the oldest, if that is one too many; it is pending no more.
        """
        self.pending[tx_id] = None
        if len(self.pending) <= ERLAY_MAX_PENDING:
            return None
        oldest = next(iter(self.pending))
        del self.pending[oldest]
        return oldest

    def settle(self, tx_id: bytes) -> bool:
        """Note that the peer has a transaction, or is about to be told; whether it was pending."""
        if tx_id not in self.pending:
            return False
        del self.pending[tx_id]
        return True


class DecodeBudget:
    """Keeps decoding within one sketch a second and session, and a tenth of a processor in all.

    What a sketch takes is estimated from its capacity, so the budget needs no stopwatch. Idle
    time counts for half a second of work at most.

    Source: behaviour ERL-105-X.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seconds = _BURST_SECS
        self._updated = now()

    def allows(self, link: ErlayLink, capacity: int) -> bool:
        """Whether a session's next sketch may be decoded now."""
        now = self._now()
        earned = (now - self._updated) * ERLAY_DECODE_SHARE
        self._seconds = min(_BURST_SECS, self._seconds + earned)
        self._updated = now
        return now >= link.decode_after and self._seconds >= _cost(capacity)

    def spend(self, link: ErlayLink, capacity: int) -> None:
        """Account for one decoded sketch."""
        link.decode_after = self._now() + ERLAY_DECODE_REST_SECS
        self._seconds -= _cost(capacity)


def _cost(capacity: int) -> float:
    return _DECODE_SECS * capacity * capacity
