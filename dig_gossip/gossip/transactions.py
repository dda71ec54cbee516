"""The transactions that a node has heard of, and their announcements as long as they are news.

Engines row of the stage table; pure. Source: behaviour ERL-002.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from dig_gossip.constants import ERLAY_MAX_TRANSACTIONS, ERLAY_TRANSACTION_SECS
from dig_gossip.gossip.seen import Stage
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

_SPREAD = frozenset({Stage.LOCAL, Stage.REMOTE})


class Transaction:
    """One transaction.

    :ivar tx_id: 32 bytes.
    :ivar message: its ``NewTransaction`` as it first came.
    :ivar first_seen: monotonic seconds.
    :ivar aware: sessions that have announced it while the validator had it; otherwise None.
    """

    __slots__ = ("aware", "first_seen", "message", "stage", "tx_id")

    def __init__(self, tx_id: bytes, message: Message, stage: Stage, first_seen: float) -> None:
        self.tx_id = tx_id
        self.message = message
        self.stage = stage
        self.first_seen = first_seen
        self.aware: set[PeerId] | None = None


class Transactions:
    """The most recently first-seen transactions; the oldest goes first.

    Bounded: 50 000. After eviction an announcement counts as new, which is accepted.
    Cost: O(1).
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Transaction] = {}
        self._order: deque[bytes] = deque()
        #: ``get(tx_id)`` returns the transaction or None.
        self.get = self._known.get

    def __len__(self) -> int:
        return len(self._known)

    def add(self, transaction: Transaction) -> None:
        """Remember a transaction that is not here yet."""
        self._known[transaction.tx_id] = transaction
        self._order.append(transaction.tx_id)
        if len(self._order) > ERLAY_MAX_TRANSACTIONS:
            del self._known[self._order.popleft()]

    def since(self, start: float, most: int) -> list[bytes]:
        """Ids of those of the latest that came at ``start`` or later and spread, oldest first.

        :param most: how many to look at.
        """
        found: list[bytes] = []
        for tx_id in islice(reversed(self._order), most):
            transaction = self._known[tx_id]
            if transaction.first_seen < start:
                break
            if transaction.stage in _SPREAD:
                found.append(tx_id)
        return found[::-1]

    def announcement(self, tx_id: bytes, now: float) -> Message | None:
        """The message that announces a transaction; None if that is no news any more."""
        found = self._known.get(tx_id)
        if found is None or now - found.first_seen > ERLAY_TRANSACTION_SECS:
            return None
        return found.message
