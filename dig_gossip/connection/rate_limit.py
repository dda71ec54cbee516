"""What a session may receive and send in a minute.

Inbound, windows are fixed, as Chia's are: they begin at multiples of 60 s. Outbound, the window
slides, because nobody knows where the peer's windows begin. Both are pure: they are told of each
message and answer what to do with it::

    inbound   up to 1.0 of a limit   ACCEPT
              up to 1.25             DROP: clocks differ, and so do windows
              beyond                 PENALIZE; DROP for what the peer merely forwards
    outbound  up to factor (0.6)     now
              beyond                 wait, in the lane

Source: behaviour §8; wire §11. The limits themselves: :mod:`dig_gossip.connection.rate_table`.
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Callable
from typing import Final

from dig_gossip.connection.rate_table import AGGREGATE, Row
from dig_gossip.wire.opcodes import RoutingClass, routing_class

WINDOW_SECS: Final = 60
#: Up to this multiple of a limit an excess is dropped without penalty (RL-103-X).
TOLERANCE: Final = 1.25
#: After so many windows in a row with an excess of forwarded messages the peer goes (RL-104-X).
MAX_VIOLATED_WINDOWS: Final = 50

_BUCKET_SECS: Final = 5
#: Any 60 seconds touch at most so many buckets of five.
_BUCKETS: Final = WINDOW_SECS // _BUCKET_SECS + 1

#: Opcodes whose sender may be a forwarder. Without an id, pushed blocks are among them.
_FORWARDED: Final = tuple(
    routing_class(opcode, False) in (RoutingClass.FLOOD, RoutingClass.TX) for opcode in range(256)
)


class Verdict(enum.Enum):
    """What to do with a message that came in. All but ACCEPT mean: drop it."""

    ACCEPT = "accept"
    DROP = "drop"  #: too many, which is not charged
    PENALIZE = "penalize"  #: far too many: ``RATE_LIMIT_EXCEEDED``
    OVERSIZE = "oversize"  #: larger than its row allows: ``RATE_LIMIT_EXCEEDED``
    DISCONNECT = "disconnect"  #: too many for too long: end the session, without a ban


#: Looking a member up on its enumeration takes as long as the rest of the decision.
_ACCEPT: Final = Verdict.ACCEPT


class _Usage:
    """What one opcode, or the aggregate, has used of its limits."""

    __slots__ = ("aggregate", "count", "max_count", "max_size", "max_total", "total")

    def __init__(self, row: Row, factor: float, aggregate: _Usage | None) -> None:
        self.count = 0
        self.total = 0
        self.max_size = row.max_size
        self.max_count = _scaled(row.count, factor)
        self.max_total = _scaled(row.max_total, factor)
        self.aggregate = aggregate

    def charge(self, count: int, size: int) -> None:
        self.count += count
        self.total += size
        if self.aggregate is not None:
            self.aggregate.charge(count, size)


def _scaled(limit: int | None, factor: float) -> int:
    # What is compared with it is an integer, so the fraction makes no difference.
    return sys.maxsize if limit is None else math.floor(limit * factor)


class InboundLimiter:
    """Judges what a peer sends, in fixed windows of 60 s.

    With the defaults: our rules. ``admit(...) is Verdict.ACCEPT`` also is the verdict of Chia's and
    the SDK's limiters, with their rows, factor and clock (Unix time for the SDK), and with
    ``charge_rejected=False`` for their outbound side.

    An excess of what the peer may only have forwarded (flood and transaction announcements, pushed
    blocks) is dropped without penalty, until it has gone on for 50 windows in a row: DISCONNECT.
    Such messages fill the aggregate too, but its 1.25 are reached only by what the peer itself
    chose to send.

    Bounds: 256 entries, forgotten with each window; two counters per opcode.
    Cost of each call: O(1); O(256) for an excess of the aggregate beyond 1.25.

    :param rows: 256 rows, see :func:`~dig_gossip.connection.rate_table.receive_rows`.
    :param now: monotonic seconds.
    :param factor: share of each limit, above 0.
    :param charge_rejected: rejected messages use up limits too (CON-005.1).
    :ivar dropped: messages dropped for their number, by opcode.
    :ivar oversized: messages dropped for their size, by opcode.
    Source: behaviour CON-005, CON-005.1, CON-005.2, RL-103-X, RL-104-X; wire §11.1.
    """

    __slots__ = (
        "_aggregate",
        "_charge_rejected",
        "_ends",
        "_factor",
        "_now",
        "_rows",
        "_slot",
        "_usages",
        "_violated_slot",
        "_violated_windows",
        "dropped",
        "oversized",
    )

    def __init__(
        self,
        rows: tuple[Row, ...],
        *,
        now: Callable[[], float],
        factor: float = 1.0,
        charge_rejected: bool = True,
    ) -> None:
        self._rows = rows
        self._now = now
        self._factor = factor
        self._charge_rejected = charge_rejected
        self._usages: dict[int, _Usage] = {}
        self._aggregate = _Usage(AGGREGATE, factor, None)
        self._ends = -math.inf
        self._slot = -1
        self._violated_slot = -1
        self._violated_windows = 0
        self.dropped: dict[int, int] = {}
        self.oversized: dict[int, int] = {}

    def admit(self, opcode: int, size: int) -> Verdict:
        """Judge a message and charge it.

        :param opcode: 0..255.
        :param size: bytes of the body, envelope excluded.
        """
        if (now := self._now()) >= self._ends:
            self._turn(now)
        try:
            usage = self._usages[opcode]
        except KeyError:
            usage = self._begin(opcode)
        usage.count = count = usage.count + 1
        usage.total = total = usage.total + size
        aggregate = usage.aggregate
        if aggregate is None:
            if count <= usage.max_count and total <= usage.max_total and size <= usage.max_size:
                return _ACCEPT
        else:
            aggregate.count = all_count = aggregate.count + 1
            aggregate.total = all_total = aggregate.total + size
            if (
                count <= usage.max_count
                and total <= usage.max_total
                and size <= usage.max_size
                and all_count <= aggregate.max_count
                and all_total <= aggregate.max_total
            ):
                return _ACCEPT
        return self._rejected(opcode, usage, size)

    def _turn(self, now: float) -> None:
        self._slot = int(now // WINDOW_SECS)
        self._ends = (self._slot + 1) * WINDOW_SECS
        self._usages.clear()
        self._aggregate = _Usage(AGGREGATE, self._factor, None)

    def _begin(self, opcode: int) -> _Usage:
        row = self._rows[opcode]
        usage = _Usage(row, self._factor, self._aggregate if row.aggregate else None)
        self._usages[opcode] = usage
        return usage

    def _rejected(self, opcode: int, usage: _Usage, size: int) -> Verdict:
        if not self._charge_rejected:
            usage.charge(-1, -size)
        if size > usage.max_size:
            self.oversized[opcode] = self.oversized.get(opcode, 0) + 1
            return Verdict.OVERSIZE
        self.dropped[opcode] = self.dropped.get(opcode, 0) + 1
        if _FORWARDED[opcode]:
            return self._violated()
        if _is_far_beyond(usage, usage.count, usage.total) or self._is_abusing(usage.aggregate):
            return Verdict.PENALIZE
        return Verdict.DROP

    def _violated(self) -> Verdict:
        if self._violated_slot != self._slot:
            follows = self._violated_slot == self._slot - 1
            self._violated_windows = self._violated_windows + 1 if follows else 1
            self._violated_slot = self._slot
        if self._violated_windows < MAX_VIOLATED_WINDOWS:
            return Verdict.DROP
        return Verdict.DISCONNECT

    def _is_abusing(self, aggregate: _Usage | None) -> bool:
        if aggregate is None or not _is_far_beyond(aggregate, aggregate.count, aggregate.total):
            return False
        own = [
            usage
            for opcode, usage in self._usages.items()
            if usage.aggregate is not None and not _FORWARDED[opcode]
        ]
        count, total = sum(usage.count for usage in own), sum(usage.total for usage in own)
        return _is_far_beyond(aggregate, count, total)


def _is_far_beyond(usage: _Usage, count: int, total: int) -> bool:
    return count > usage.max_count * TOLERANCE or total > usage.max_total * TOLERANCE


class _Spending(_Usage):
    """What one opcode, or the aggregate, has spent in the buckets that still count.

    ``count`` and ``total`` are the sums over all of them; ``past`` holds those that are over, as
    (number, count, total), oldest first, and ``closed_…`` their sums. The rest is the bucket that
    is open.
    """

    __slots__ = ("closed_count", "closed_total", "past")

    aggregate: _Spending | None

    def __init__(self, row: Row, factor: float, aggregate: _Spending | None) -> None:
        super().__init__(row, factor, aggregate)
        self.past: list[tuple[int, int, int]] = []  # a deque takes ten times the memory
        self.closed_count = 0
        self.closed_total = 0

    def turn(self, closed: int, opened: int) -> bool:
        """End the bucket ``closed``, forget what no longer counts in ``opened``.

        :returns: whether anything is left.
        """
        count, total = self.count - self.closed_count, self.total - self.closed_total
        past = self.past
        if count:
            past.append((closed, count, total))
        while past and past[0][0] <= opened - _BUCKETS:
            _, count, total = past.pop(0)
            self.count -= count
            self.total -= total
        self.closed_count, self.closed_total = self.count, self.total
        return bool(past)

    def free_at(self, size: int, bucket: int) -> float:
        """When a message of this size may go: the start of a bucket; -inf for now.

        A message that finds nothing spent may always go, however small the factor: single sizes
        are not scaled, and the whole row holds it.
        """
        count, total = self.count, self.total
        if not count or (count < self.max_count and total + size <= self.max_total):
            return -math.inf
        for number, spent_count, spent_total in self.past:
            count -= spent_count
            total -= spent_total
            if not count or (count < self.max_count and total + size <= self.max_total):
                return (number + _BUCKETS) * _BUCKET_SECS
        return (bucket + _BUCKETS) * _BUCKET_SECS


class OutboundLimiter:
    """Says when a message may go, so that no 60 seconds ever hold more than ``factor`` of a row.

    Spending is kept in buckets of 5 s. A message counts until the bucket in which it went has been
    over for 60 s, so it may count for up to 65 s and never for less than 60. That is the error: a
    sender that always has something to send reaches at least 60/65 = 92 % of its limit.

    Bounds: 12 past buckets for each of at most 256 opcodes, only while they hold anything.
    Cost of each call: O(1); O(opcodes in use) once every 5 s, O(12) when the answer is to wait.

    :param rows: 256 rows, see :func:`~dig_gossip.connection.rate_table.send_rows`.
    :param now: monotonic seconds.
    :param factor: share of each limit that we use, above 0; ``rate_limit_factor``.
    Source: behaviour CON-005.3, RL-103-X.
    """

    __slots__ = ("_aggregate", "_bucket", "_ends", "_factor", "_now", "_rows", "_spendings")

    def __init__(self, rows: tuple[Row, ...], *, now: Callable[[], float], factor: float) -> None:
        self._rows = rows
        self._now = now
        self._factor = factor
        self._spendings: dict[int, _Spending] = {}
        self._aggregate = _Spending(AGGREGATE, factor, None)
        self._bucket = -1
        self._ends = -math.inf

    def can_ever(self, opcode: int, size: int) -> bool:
        """Whether a message of this size may be sent at all, at whatever time.

        :param opcode: 0..255.
        :param size: bytes of the body, envelope excluded.
        """
        return size <= self._rows[opcode].max_size

    def delay(self, opcode: int, size: int) -> float:
        """Seconds until this message may go, if nothing else goes before; 0.0 for now.

        :param opcode: 0..255.
        :param size: bytes of the body, no more than :meth:`can_ever` allows.
        """
        if (now := self._now()) >= self._ends:
            self._turn(now)
        try:
            spending = self._spendings[opcode]
        except KeyError:
            spending = self._begin(opcode)
        if spending.count < spending.max_count and spending.total + size <= spending.max_total:
            aggregate = spending.aggregate
            if aggregate is None or (
                aggregate.count < aggregate.max_count
                and aggregate.total + size <= aggregate.max_total
            ):
                return 0.0
        return self._wait(spending, size, now)

    def charge(self, opcode: int, size: int) -> None:
        """A message goes now.

        :param opcode: 0..255.
        :param size: bytes of the body, envelope excluded.
        """
        if (now := self._now()) >= self._ends:
            self._turn(now)
        try:
            spending = self._spendings[opcode]
        except KeyError:
            spending = self._begin(opcode)
        spending.count += 1
        spending.total += size
        aggregate = spending.aggregate
        if aggregate is not None:
            aggregate.count += 1
            aggregate.total += size

    def spend(self, opcode: int, size: int) -> bool:
        """Charge a message if it may go now; all three questions in one, for the hot path.

        :param opcode: 0..255.
        :param size: bytes of the body, of whatever size.
        :returns: whether it goes; if not, nothing was charged.
        """
        if (now := self._now()) >= self._ends:
            self._turn(now)
        try:
            spending = self._spendings[opcode]
        except KeyError:
            spending = self._begin(opcode)
        count, total = spending.count + 1, spending.total + size
        if count > spending.max_count or total > spending.max_total or size > spending.max_size:
            return False
        aggregate = spending.aggregate
        if aggregate is not None:
            all_count, all_total = aggregate.count + 1, aggregate.total + size
            if all_count > aggregate.max_count or all_total > aggregate.max_total:
                return False
            aggregate.count, aggregate.total = all_count, all_total
        spending.count, spending.total = count, total
        return True

    def _turn(self, now: float) -> None:
        closed, opened = self._bucket, int(now // _BUCKET_SECS)
        self._bucket = opened
        self._ends = (opened + 1) * _BUCKET_SECS
        self._aggregate.turn(closed, opened)
        for opcode, spending in list(self._spendings.items()):
            if not spending.turn(closed, opened):
                del self._spendings[opcode]

    def _begin(self, opcode: int) -> _Spending:
        row = self._rows[opcode]
        spending = _Spending(row, self._factor, self._aggregate if row.aggregate else None)
        self._spendings[opcode] = spending
        return spending

    def _wait(self, spending: _Spending, size: int, now: float) -> float:
        free_at = spending.free_at(size, self._bucket)
        if spending.aggregate is not None:
            free_at = max(free_at, spending.aggregate.free_at(size, self._bucket))
        return max(0.0, free_at - now)
