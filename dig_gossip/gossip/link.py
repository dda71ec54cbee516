"""One link of the tree, and what is remembered of the peer at its other end.

Engines row of the stage table; pure. Source: behaviour PLT-004.1, PLT-101-X, PLT-106-X.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import Final

from dig_gossip.types.peer import PeerId

PULL_WINDOW_SECS: Final = 5.0  # an answer to a pull is recognized for this long
PRUNE_INTERVAL_SECS: Final = 1.0  # between two PRUNEs to one peer
LEAD_COUNT: Final = 3  # messages by which a lazy peer must beat an eager one ...
LEAD_WINDOW_SECS: Final = 60.0  # ... within this time
FAILURE_COUNT: Final = 10  # unanswered pulls that make a liar ...
FAILURE_WINDOW_SECS: Final = 60.0  # ... within this time
DISTRUST_SECS: Final = 60.0
MAX_PULLS: Final = 1024  # remembered per link, the oldest goes first
MAX_LEADS: Final = 64  # eager peers a lazy one is compared with, the earliest goes first


class Pull(enum.Enum):
    """How we asked a peer for a message: with or without making it eager."""

    GRAFT = "graft"
    REQUEST = "request"


class Link:
    """One peer of the tree, and what is remembered of it.

    Bounded: 1024 open pulls, 10 failures, three times for each of 64 eager peers it beat.

    :ivar is_eager: it gets full messages, and we expect it to send us full ones.
    :ivar score: trust over round trip time, higher is better.
    :ivar rtt: mean round trip, seconds; None if unknown.
    :ivar number: links of this node are numbered in the order in which they came.
    :ivar pending: its messages that await their verdict.
    :ivar role_changed: monotonic seconds; minus infinity before the first change.
    :ivar distrusted_until: monotonic seconds; its announcements do not count before.
    """

    __slots__ = (
        "_failures",
        "_leads",
        "_pulls",
        "distrusted_until",
        "is_eager",
        "number",
        "peer",
        "pending",
        "pruned_at",
        "role_changed",
        "rtt",
        "score",
    )

    def __init__(self, peer: PeerId, *, is_eager: bool, score: float, number: int) -> None:
        self.peer = peer
        self.is_eager = is_eager
        self.score = score
        self.rtt: float | None = None
        self.number = number
        self.pending = 0
        self.role_changed = -math.inf
        self.pruned_at = -math.inf
        self.distrusted_until = -math.inf
        #: hash -> (monotonic seconds, how)
        self._pulls: dict[bytes, tuple[float, Pull]] = {}
        #: hash of an unanswered pull -> monotonic seconds
        self._failures: dict[bytes, float] = {}
        #: eager peer -> when this one's announcement beat that one's message
        self._leads: dict[PeerId, deque[float]] = {}

    def may_prune(self, now: float) -> bool:
        """Whether the last PRUNE to it is long enough ago."""
        return now - self.pruned_at >= PRUNE_INTERVAL_SECS

    def pulled(self, digest: bytes, how: Pull, now: float) -> None:
        """Remember that we asked it for a message."""
        pulls = self._pulls
        while pulls:
            oldest = next(iter(pulls))
            if len(pulls) < MAX_PULLS and now - pulls[oldest][0] <= PULL_WINDOW_SECS:
                break
            del pulls[oldest]
        pulls[digest] = (now, how)

    def answered(self, digest: bytes, now: float) -> Pull | None:
        """Recognize a full frame as the answer to a pull; only the first one is.

        An answer that comes after we lost patience also clears the peer of that failure.

        :returns: how we had pulled; None if the frame is no answer.
        """
        pull = self._pulls.pop(digest, None) if self._pulls else None
        if pull is None:
            return None
        self._failures.pop(digest, None)
        at, how = pull
        return how if now - at <= PULL_WINDOW_SECS else None

    def failed(self, digest: bytes, now: float) -> bool:
        """Note that a pull was not answered in time.

        :returns: whether that makes ten within a minute.
        """
        failures = self._failures
        failures[digest] = now
        if len(failures) < FAILURE_COUNT:
            return False
        oldest = next(iter(failures))
        if now - failures[oldest] > FAILURE_WINDOW_SECS:
            del failures[oldest]
            return False
        failures.clear()
        return True

    def leads(self, eager: PeerId, now: float) -> bool:
        """Note that its announcement came well before the message came from an eager peer.

        :returns: whether that makes three within a minute.
        """
        times = self._leads.get(eager)
        if times is None:
            if len(self._leads) >= MAX_LEADS:
                del self._leads[next(iter(self._leads))]
            times = self._leads[eager] = deque(maxlen=LEAD_COUNT)
        times.append(now)
        return len(times) == LEAD_COUNT and now - times[0] <= LEAD_WINDOW_SECS

    def forget_leads(self) -> None:
        """Start over: the tree has changed, and what was measured on the old one is void."""
        self._leads.clear()
