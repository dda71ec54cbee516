"""What all sessions of a node have moved and lost, those that are gone included.

Source: behaviour CON-006.3, STA-101-X.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable

from dig_gossip.connection.lanes import Waits
from dig_gossip.connection.session import Session
from dig_gossip.wire.opcodes import MessagePriority


class Totals:
    """What sessions that are gone have moved; totals never decrease (CON-006.3)."""

    __slots__ = (
        "admitted",
        "budget_dropped",
        "bulk_dropped",
        "bytes_received",
        "bytes_sent",
        "late_answers",
        "left",
        "messages_received",
        "messages_sent",
        "normal_delayed",
        "tx_suppressed",
        "unsent",
        "waited",
    )

    def __init__(self) -> None:
        self.admitted = 0
        self.messages_sent = 0
        self.messages_received = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.budget_dropped = 0
        self.bulk_dropped = 0
        self.normal_delayed = 0
        self.tx_suppressed = 0
        self.late_answers = 0
        #: messages that were not sent, by ``<why>.<opcode>``
        self.unsent: Counter[str] = Counter()
        self.waited = [Waits() for _ in MessagePriority]
        self.left = [Waits() for _ in MessagePriority]

    def plus(self, sessions: Iterable[Session]) -> Totals:
        """The same with sessions that live."""
        total = copy.copy(self)
        total.waited = copy.deepcopy(self.waited)
        total.left = copy.deepcopy(self.left)
        total.unsent = self.unsent.copy()
        for session in sessions:
            total.fold(session)
        return total

    def fold(self, session: Session) -> None:
        """Add the counters of a session, at its end or for a sum."""
        self.messages_sent += session.messages_sent
        self.messages_received += session.messages_received
        self.bytes_sent += session.bytes_sent
        self.bytes_received += session.bytes_received
        lanes = session.lanes
        self.budget_dropped += lanes.counters.budget_dropped
        self.bulk_dropped += lanes.counters.bulk_dropped
        self.normal_delayed += lanes.counters.normal_delayed
        self.tx_suppressed += lanes.counters.tx_suppressed
        self.late_answers += session.late_answers
        self.unsent.update(session.unsent)
        for total, waited in zip(self.waited, lanes.waited, strict=True):
            total.merge(waited)
        for total, left in zip(self.left, lanes.left, strict=True):
            total.merge(left)
