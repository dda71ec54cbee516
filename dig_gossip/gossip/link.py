"""One link of the tree, and what is remembered of the peer at its other end.

Engines row of the stage table; pure. Source: behaviour PLT-004.1, PLT-101-X, PLT-106-X.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable
from typing import Final

from dig_gossip.gossip.seen import Sighting
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.trees import SHORT_HASH_BYTES

PULL_WINDOW_SECS: Final = 5.0  # an answer to a pull is recognized for this long
PRUNE_INTERVAL_SECS: Final = 1.0  # between two PRUNEs to one peer
LEAD_BALANCE: Final = 3  # leads minus lags by which a lazy peer beats an eager one ...
LEAD_WINDOW_SECS: Final = 60.0  # ... within this time
MAX_LAG: Final = 16  # lags beyond are not counted
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

    Bounded: 1024 open pulls, 10 failures, a balance for each of 64 eager peers.

    :ivar is_eager: it gets full messages, and we expect it to send us full ones.
    :ivar score: trust over round trip time, higher is better.
    :ivar rtt: mean round trip, seconds; None if unknown.
    :ivar number: links of this node are numbered in the order in which they came.
    :ivar pending: its messages that await their verdict.
    :ivar brought: what is remembered of each message that it brought first and that nobody has to
        be told of: one object for all of them.
    :ivar role_changed: monotonic seconds; minus infinity before the first change.
    """

    __slots__ = (
        "_distrusted_until",
        "_failures",
        "_leads",
        "brought",
        "is_eager",
        "number",
        "peer",
        "pending",
        "pruned_at",
        "pulls",
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
        self.brought: Sighting | None = None
        self.role_changed = -math.inf
        self.pruned_at = -math.inf
        self._distrusted_until = -math.inf
        #: messages we have asked it for: hash or short hash -> (monotonic seconds, how)
        self.pulls: dict[bytes, tuple[float, Pull]] = {}
        #: hash of an unanswered pull -> monotonic seconds
        self._failures: dict[bytes, float] = {}
        #: (tree and) eager peer -> (leads minus lags, monotonic seconds of the first lead)
        self._leads: dict[Hashable, tuple[int, float]] = {}

    def may_prune(self, now: float) -> bool:
        """Whether the last PRUNE to it is long enough ago."""
        return now - self.pruned_at >= PRUNE_INTERVAL_SECS

    def is_distrusted(self, now: float) -> bool:
        """Whether its announcements do not count at present."""
        return now < self._distrusted_until

    def pulled(self, digest: bytes, how: Pull, now: float) -> None:
        """Remember that we asked it for a message."""
        pulls = self.pulls
        while pulls:
            oldest = next(iter(pulls))
            if len(pulls) < MAX_PULLS and now - pulls[oldest][0] <= PULL_WINDOW_SECS:
                break
            del pulls[oldest]
        pulls[digest] = (now, how)

    def answered(self, digest: bytes, now: float) -> Pull | None:
        """Recognize a full frame as the answer to a pull; only the first one is.

        An answer that comes after we lost patience also clears the peer of that failure. It may
        have been pulled by its short hash, and come without a tag.

        :returns: how we had pulled; None if the frame is no answer.
        """
        name = digest if digest in self.pulls else digest[:SHORT_HASH_BYTES]
        pull = self.pulls.pop(name, None)
        if pull is None:
            return None
        self._failures.pop(name, None)
        at, how = pull
        return how if now - at <= PULL_WINDOW_SECS else None

    def failed(self, digest: bytes, now: float) -> bool:
        """Note that a pull was not answered in time.

        :returns: whether that makes ten within a minute; then it is distrusted for a minute.
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
        self._distrusted_until = now + DISTRUST_SECS
        return True

    def leads(self, eager: Hashable, now: float) -> bool:
        """Note that its announcement came well before the message came from an eager peer.

        :returns: whether it now leads by three within a minute.
        """
        balance, since = self._leads.get(eager, (0, now))
        if now - since > LEAD_WINDOW_SECS:
            balance, since = 0, now
        elif len(self._leads) >= MAX_LEADS and eager not in self._leads:
            del self._leads[next(iter(self._leads))]
        self._leads[eager] = (balance + 1, since)
        return balance + 1 >= LEAD_BALANCE

    @property
    def leads_somebody(self) -> bool:
        """Whether it has come before anybody lately, so that lags count."""
        return bool(self._leads)

    def lags(self, eager: Hashable) -> None:
        """Note that its announcement came after the message had come from an eager peer."""
        if self._leads and (lead := self._leads.get(eager)) is not None:
            self._leads[eager] = (max(lead[0] - 1, -MAX_LAG), lead[1])

    def forget_leads(self) -> None:
        """Start over: the tree has changed, and what was measured on the old one is void."""
        self._leads.clear()
