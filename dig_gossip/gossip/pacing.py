"""Announcements to one peer, no faster than its rate limits allow.

Engines row of the stage table; pure. Source: behaviour ERL-102-X.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dig_gossip.constants import ERLAY_MAX_BURST
from dig_gossip.effects import Effect, Send, SetTimer
from dig_gossip.gossip.erlay_links import ErlayLink
from dig_gossip.gossip.erlay_values import ErlayCounters
from dig_gossip.gossip.transactions import Transactions

PACE: Final = "erlay.pace"
#: With 100 at once that is 3000 a minute, of 5000 that a peer takes.
PACE_SECS: Final = 2.0


class Pacer:
    """Sends 100 announcements at once, and as many every two seconds until all are sent."""

    def __init__(
        self, transactions: Transactions, counters: ErlayCounters, now: Callable[[], float]
    ) -> None:
        self._transactions = transactions
        self._counters = counters
        self._now = now

    def announce(self, link: ErlayLink, tx_ids: Iterable[bytes]) -> list[Effect]:
        """Announce transactions that are no longer pending."""
        is_waiting = bool(link.backlog)
        link.backlog.extend(tx_ids)
        return [] if is_waiting else self.drain(link)

    def drain(self, link: ErlayLink) -> list[Effect]:
        """Announce what is next; what has expired meanwhile is left out."""
        now = self._now()
        effects: list[Effect] = []
        while link.backlog and len(effects) < ERLAY_MAX_BURST:
            message = self._transactions.announcement(link.backlog.popleft(), now)
            if message is not None:
                effects.append(Send((link.peer,), message))
        self._counters.transactions_reconciled += len(effects)
        if link.backlog:
            effects.append(SetTimer((PACE, link.peer), PACE_SECS))
        return effects
