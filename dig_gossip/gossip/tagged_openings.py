"""How many trees with tags are opened: by us, and by a peer.

Engines row of the stage table; pure. To open a tree costs everybody about as much as a message, so
traffic has to earn it: every node counts for itself, and all come to about the same. Source:
:doc:`/engines/trees`.
"""

from __future__ import annotations

from random import Random
from typing import Final

MAX_TREES: Final = 64
OPEN_BELOW: Final = MAX_TREES - 8  # what others open at the same moment has to fit in, too
MESSAGES_A_TREE: Final = 16
MAX_CREDIT: Final = 8.0  # trees; and the most debt, when several were opened at once
ORIGINS_AT_ONCE: Final = 20  # of so many that wish for a tree within the delay, each may open one
OPENINGS_A_PEER: Final = float(MAX_TREES)
OPENING_REFILL_SECS: Final = 5.0


class Openings:
    """When we may open a tree.

    If many nodes wish for one at once, they would all open theirs before they hear of each other;
    so a wish is granted by lot, to about four nodes a second. How many there are, our share of the
    traffic tells, without a word to anybody.

    Cost: O(1).
    """

    __slots__ = ("_credit", "_is_wished", "_messages", "_own", "_wished_at")

    def __init__(self) -> None:
        self._credit = 1.0
        self._messages = 0
        self._is_wished = False
        self._wished_at = 0  # messages before the wish
        self._own = 0  # our messages since then, the one that caused it included

    @property
    def is_wished(self) -> bool:
        """Whether we wish for a tree."""
        return self._is_wished

    @property
    def are_earned(self) -> bool:
        """Whether traffic has earned a tree that nobody has opened yet."""
        return self._credit >= 1

    def seen(self, count: int = 1) -> None:
        """Count messages, of others and of our own."""
        self._messages += count
        credit = self._credit + count / MESSAGES_A_TREE
        self._credit = MAX_CREDIT if credit > MAX_CREDIT else credit

    def opened(self) -> None:
        """Pay for a tree, ours or another one."""
        self._credit = max(-MAX_CREDIT, self._credit - 1)

    def wish(self) -> None:
        """Begin to wish for a tree; a message of our own, which is not counted yet, is why."""
        self._is_wished = True
        self._wished_at = self._messages
        self._own = 1

    def sent(self) -> None:
        """Count a message of our own while we wish."""
        self._own += 1

    def is_granted(self, rng: Random) -> bool:
        """End the wish, if there is one, and draw lots."""
        is_wished, self._is_wished = self._is_wished, False
        traffic = self._messages - self._wished_at
        return is_wished and rng.random() * traffic < ORIGINS_AT_ONCE * self._own


class Allowance:
    """How many new trees a peer may still tell of: 64 at once, then one in five seconds.

    :param now: monotonic seconds.
    """

    __slots__ = ("_at", "_left")

    def __init__(self, now: float) -> None:
        self._left = OPENINGS_A_PEER
        self._at = now

    def take(self, now: float) -> bool:
        """Use one up, if there is one."""
        self._left = min(OPENINGS_A_PEER, self._left + (now - self._at) / OPENING_REFILL_SECS)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
