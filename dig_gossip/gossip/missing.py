"""Messages that peers announced and that have not come.

Engines row of the stage table; pure. Source: behaviour PLT-005, PLT-005.1.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

from dig_gossip.constants import (
    PLUMTREE_MAX_ANNOUNCERS,
    PLUMTREE_MAX_MISSING,
    PLUMTREE_MAX_MISSING_PER_PEER,
)
from dig_gossip.effects import Effect, SetTimer, TimerKey
from dig_gossip.types.peer import PeerId

MISSING_TIMER: Final[TimerKey] = ("missing", b"")
_EARLY_SECS: Final = 0.001  # a timer may fire this much before the deadline it was set for


class Missing:
    """One announced message that is not here.

    :ivar announced_at: who announced it, and when (monotonic seconds), in order; at most 8.
    :ivar untried: announcers that have not been asked for it, in order.
    :ivar asked: who is being asked; None while timer 1 runs.
    :ivar expected: when the answer should be here, monotonic seconds; inf if nobody is asked, or
        how far away that peer is has not been measured.
    :ivar deadline: when the next announcer is asked, monotonic seconds.
    """

    __slots__ = (
        "announced_at",
        "asked",
        "deadline",
        "digest",
        "expected",
        "first_announced",
        "untried",
    )

    def __init__(self, digest: bytes, now: float) -> None:
        self.digest = digest
        self.first_announced = now
        self.announced_at: dict[PeerId, float] = {}
        self.untried: deque[PeerId] = deque()
        self.asked: PeerId | None = None
        self.deadline = math.inf
        self.expected = math.inf


class MissingMessages:
    """The table of missing messages and their one timer.

    Bounded: 10 000 messages, 8 announcers each, 1000 messages a peer; the excess is refused, so
    that who came first cannot be pushed out. Deadlines that no longer count stay in the heap
    until they pass, or until they outnumber the others.

    One timer serves all hashes. Usually a message comes before its deadline, and then nothing has
    to be cancelled. Cost: O(log messages) an announcement, O(announcers) an arrival.
    """

    def __init__(self, timer: TimerKey = MISSING_TIMER) -> None:
        self._timer = timer
        self._missing: dict[bytes, Missing] = {}
        #: to look at: every message costs a look
        self.by_hash: Mapping[bytes, Missing] = self._missing
        self._by_peer: dict[PeerId, dict[bytes, None]] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        self._armed = math.inf

    def __len__(self) -> int:
        return len(self._missing)

    def __iter__(self) -> Iterator[Missing]:
        return iter(self._missing.values())

    @property
    def deadlines(self) -> int:
        """Deadlines in the heap, those that no longer count included."""
        return len(self._deadlines)

    def get(self, digest: bytes) -> Missing | None:
        """Look one up."""
        return self._missing.get(digest)

    def announced(self, digest: bytes, peer: PeerId, now: float) -> Missing | None:
        """Note an announcement.

        :returns: the message if it is newly missing, so that its timer must be started; None
            if it was missing already. See :meth:`refuses` for the caps.
        """
        missing = self._missing.get(digest)
        is_new = missing is None
        if missing is None:
            missing = self._missing[digest] = Missing(digest, now)
        if peer not in missing.announced_at:
            missing.announced_at[peer] = now
            missing.untried.append(peer)
            self._by_peer.setdefault(peer, {})[digest] = None
        return missing if is_new else None

    def refuses(self, digest: bytes, peer: PeerId) -> bool:
        """Whether a cap forbids to note an announcement."""
        missing = self._missing.get(digest)
        if missing is None:
            if len(self._missing) >= PLUMTREE_MAX_MISSING:
                return True
        elif len(missing.announced_at) >= PLUMTREE_MAX_ANNOUNCERS:
            return peer not in missing.announced_at
        return len(self._by_peer.get(peer, ())) >= PLUMTREE_MAX_MISSING_PER_PEER

    def pop(self, digest: bytes) -> Missing | None:
        """Take a message out: it came, or nobody would send it."""
        missing = self._missing.pop(digest, None)
        if missing is not None:
            for peer in missing.announced_at:
                self._forget_announcement(peer, digest)
        return missing

    def peer_down(self, peer: PeerId) -> list[Missing]:
        """Forget an announcer.

        :returns: the messages that it was being asked for.
        """
        orphans = []
        for digest in self._by_peer.pop(peer, ()):
            missing = self._missing[digest]
            del missing.announced_at[peer]
            if peer in missing.untried:
                missing.untried.remove(peer)
            elif missing.asked == peer:
                orphans.append(missing)
        return orphans

    def schedule(self, missing: Missing, deadline: float) -> None:
        """Set, or move, a message's deadline."""
        missing.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, missing.digest))
        if len(self._deadlines) > 2 * len(self._missing) + 64:
            self._deadlines = [(item.deadline, item.digest) for item in self]
            heapq.heapify(self._deadlines)

    def due(self, now: float) -> list[Missing]:
        """Take what has waited long enough, longest first."""
        due = []
        while self._deadlines and self._deadlines[0][0] <= now + _EARLY_SECS:
            deadline, digest = heapq.heappop(self._deadlines)
            missing = self._missing.get(digest)
            if missing is not None and missing.deadline == deadline:
                missing.deadline = math.inf
                due.append(missing)
        return due

    def arm(self, now: float, *, fired: bool = False) -> list[Effect]:
        """Set the timer for the nearest deadline, unless it is set early enough.

        :param fired: the timer has just fired.
        """
        if fired:
            self._armed = math.inf
        if not self._missing:
            return []
        nearest = self._deadlines[0][0]
        if nearest >= self._armed:
            return []
        self._armed = nearest
        return [SetTimer(self._timer, max(0.0, nearest - now))]

    def _forget_announcement(self, peer: PeerId, digest: bytes) -> None:
        digests = self._by_peer[peer]
        del digests[digest]
        if not digests:
            del self._by_peer[peer]
