"""Three lanes of messages that wait for the transport: critical, normal, bulk.

What comes out next, and what is thrown away under load, is decided here; pure::

    critical ─▶ first, always; never delayed, never dropped
    normal ───▶ when no critical waits; at least one after 64 critical in a row
    bulk ─────▶ when nothing else waits; at least one after 16 others in a row

Depth is everything that waits, all lanes and the delayed messages together. It sets the level:
at ``tx_dedup_threshold`` a transaction announcement that this peer got, or is due to get, since
the queue was last shallow is suppressed; at ``bulk_drop_threshold`` bulk that answers nobody is
dropped; at ``normal_delay_threshold`` normal messages are put aside, and join their lane, in
order, when the delay is over or the depth has fallen.

Invariants: order within a lane is kept, except that a message whose rate budget is spent is held
back, with all of its opcode behind it, and overtaken by others; nothing is lost but what a level
drops, or what exceeds 1024 held messages of an opcode, and that is counted; depth and bytes never
exceed the hard cap, at which ``offer`` says OVERFLOW.

Divergence: CON-005.3 keeps the order of the whole lane. A flood of attestations, of which peers
admit a hundred a minute, would then hold up every peak and block.

Source: behaviour PRI-001 to PRI-004, PRI-101-X, PRI-005 to PRI-008, BP-101-X to BP-103-X,
CON-005.3; design D9.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

from dig_gossip.connection.send_budget import SendBudget
from dig_gossip.connection.transfers import CHUNK_THRESHOLD_BYTES, Cut
from dig_gossip.constants import (
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
    PRIORITY_STARVATION_RATIO,
)
from dig_gossip.types.sections import BackpressureConfig
from dig_gossip.wire.frames import LONG_FRAME_BYTES, OutboundFrame, Run
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType, MessagePriority

NORMAL_STARVATION_RATIO: Final = 64  # critical messages in a row while a normal one waits
MAX_REMEMBERED_TRANSACTIONS: Final = 10_000
MAX_HELD: Final = 1024  # messages of one opcode that wait for its rate budget

_CRITICAL, _NORMAL, _BULK = MessagePriority.CRITICAL, MessagePriority.NORMAL, MessagePriority.BULK
_LANE_OF: Final = tuple(int(MessagePriority.of(opcode)) for opcode in range(256))
_CHUNK: Final = int(DigMessageType.MESSAGE_CHUNK)
_TRANSACTION: Final = int(ChiaMessageType.NEW_TRANSACTION)
_TRANSACTION_ID_BYTES: Final = 32
_KEEPALIVE_ANSWER: Final = int(ChiaMessageType.RESPOND_PEERS)
_HEAD_BYTES: Final = 6  # of an envelope without an id
# A named tuple's own constructor costs more than the tuple.
_new = tuple.__new__


class Offer(enum.Enum):
    """What became of a message; true if it was sent or will be."""

    SENT = "sent"
    QUEUED = "queued"
    DELAYED = "delayed"
    SUPPRESSED = "suppressed"
    DROPPED = "dropped"
    OVER_BUDGET = "over_budget"  #: more than our rate limits let out waits already
    NO_ROOM = "no_room"  #: what waits for all peers together takes too much memory
    OVERFLOW = "overflow"
    TOO_LARGE = "too_large"  #: no limit of the peer's would ever let it pass
    CLOSED = "closed"  #: there is no connection (any more)
    REFUSED = "refused"  #: this peer must not be sent such a message

    def __bool__(self) -> bool:
        return self in _ACCEPTED


_ACCEPTED = frozenset({Offer.SENT, Offer.QUEUED, Offer.DELAYED})


class Budget(Protocol):
    """The outbound rate limits of a session."""

    def delay(self, opcode: int, size: int) -> float:
        """Seconds until a message of this opcode and size may go; 0.0 for now."""

    def charge(self, opcode: int, size: int) -> None:
        """It goes."""

    def spend(self, opcode: int, size: int) -> bool:
        """Charge it if it may go now, and say whether."""


class LaneCounters:
    """What happened to the messages of one session."""

    __slots__ = ("budget_dropped", "bulk_dropped", "normal_delayed", "tx_suppressed")

    def __init__(self) -> None:
        self.budget_dropped = 0
        self.bulk_dropped = 0
        self.normal_delayed = 0
        self.tx_suppressed = 0


class Lanes:
    """The outbound queue of one session.

    :param levels: thresholds of backpressure; None switches the levels off, not the hard cap.
    :param budget: outbound rate limits; None for none.
    :param cuts: whether large messages leave in chunks; each chunk is a message to the rules.
    :ivar memory: what all queues of the node may hold together; None for any amount.
    Bounds: 4096 messages; 32 MiB of what nobody asked for, and 32 MiB of answers, the last of which
    may exceed that, since an answer may have 50 MiB; 10 000 remembered transaction ids.
    Cost: O(1) per message.
    """

    def __init__(
        self,
        levels: BackpressureConfig | None = None,
        budget: Budget | None = None,
        *,
        cuts: bool = False,
        now: Callable[[], float],
    ) -> None:
        self.counters = LaneCounters()
        self.memory: SendBudget | None = None
        self.bytes = 0
        self._answer_bytes = 0
        self._levels = levels
        #: below it no level has an effect
        self._free_depth = MAX_QUEUED_MESSAGES
        if levels is not None:
            self._free_depth = min(
                levels.tx_dedup_threshold,
                levels.bulk_drop_threshold,
                levels.normal_delay_threshold,
                MAX_QUEUED_MESSAGES,
            )
        self._budget = budget
        self._now = now
        self._lanes: tuple[deque[_Waiting], ...] = (deque(), deque(), deque())
        #: per lane and opcode what waits for its rate budget
        self._held: tuple[dict[int, deque[_Waiting]], ...] = ({}, {}, {})
        self._cuts = cuts
        self._next_transfer = 0
        self._delayed: deque[tuple[OutboundFrame, bool]] = deque()
        self._transactions: dict[bytes, None] = {}
        self._in_a_row = 0  # critical and normal since the last bulk, while bulk waits
        self._critical_in_a_row = 0  # since the last normal, while normal waits
        #: seconds until a lane that waits for its budget may go on; None if none does
        self.blocked_for: float | None = None
        #: per lane, from being queued to being handed to the transport
        self.waited = [Waits(), Waits(), Waits()]
        #: per lane, from being queued to having left the transport; see :meth:`passed_on`
        self.left = [Waits(), Waits(), Waits()]
        self._handed: list[float | None] = [None, None, None]

    def __len__(self) -> int:
        critical, normal, bulk = self._lanes
        waiting = len(critical) + len(normal) + len(bulk) + len(self._delayed)
        if any(self._held):
            waiting += sum(len(queue) for held in self._held for queue in held.values())
        return waiting

    def length(self, lane: MessagePriority) -> int:
        """How many messages wait in a lane, delayed ones not counted."""
        return len(self._lanes[lane]) + sum(map(len, self._held[lane].values()))

    @property
    def oldest_wait(self) -> float:
        """Seconds for which the first message of any lane has waited; 0.0 if none waits."""
        queues = (*self._lanes, *(queue for held in self._held for queue in held.values()))
        since = min((queue[0].since for queue in queues if queue), default=None)
        return 0.0 if since is None else self._now() - since

    @property
    def delayed(self) -> int:
        """How many normal messages are put aside."""
        return len(self._delayed)

    def offer(self, frame: OutboundFrame, *, is_reply: bool = False) -> Offer:
        """Take a message in.

        :param is_reply: it answers the peer, so it is never dropped (BP-102-X).
        """
        depth = len(self)
        if depth >= MAX_QUEUED_MESSAGES or self._is_full(frame, is_reply):
            return Offer.OVERFLOW
        opcode = frame.message.type
        lane = _LANE_OF[opcode]
        held = self._held[lane].get(opcode)
        if held is not None and len(held) >= MAX_HELD:
            self.counters.budget_dropped += 1
            return Offer.OVER_BUDGET
        memory = self.memory
        if memory is not None and lane == _BULK and not is_reply and not memory.has_room(frame):
            memory.refused += 1
            return Offer.NO_ROOM
        levels = self._levels
        if levels is not None:
            if opcode == _TRANSACTION and self._is_known_transaction(frame, depth, levels):
                self.counters.tx_suppressed += 1
                return Offer.SUPPRESSED
            if lane == _BULK and depth >= levels.bulk_drop_threshold and not is_reply:
                self.counters.bulk_dropped += 1
                return Offer.DROPPED
            # What is put aside already must not be overtaken.
            if lane == _NORMAL and (self._delayed or depth >= levels.normal_delay_threshold):
                self.counters.normal_delayed += 1
                self._count(frame, is_reply)
                self._delayed.append((frame, is_reply))
                return Offer.DELAYED
        self._count(frame, is_reply)
        self._lanes[lane].append(_Waiting(frame, self._now(), is_reply, None))
        return Offer.QUEUED

    def take_in(self, message: Message) -> bool:
        """Take in a message below 64 KiB without an id, if no rule has anything to say about it.

        What :meth:`offer` does for nearly every message while the transport is busy.

        :returns: whether it waits; if not, :meth:`offer` says what becomes of it.
        """
        lane = _LANE_OF[message.type]
        critical, normal, bulk = lanes = self._lanes
        depth = len(critical) + len(normal) + len(bulk)
        held = self._held
        if held[_CRITICAL] or held[_NORMAL] or held[_BULK] or self._delayed:
            if held[lane]:
                return False
            depth = len(self)
        size = len(message.data) + _HEAD_BYTES
        octets = self.bytes + size
        if depth >= self._free_depth or octets - self._answer_bytes > MAX_QUEUED_BYTES:
            return False
        memory = self.memory
        frame = OutboundFrame(message) if memory is None else memory.share(message, size)
        if frame is None:
            return False
        self.bytes = octets
        lanes[lane].append(_new(_Waiting, (frame, self._now(), False, None)))
        return True

    def _is_full(self, frame: OutboundFrame, is_reply: bool) -> bool:
        if is_reply:
            return self._answer_bytes > MAX_QUEUED_BYTES
        return self.bytes - self._answer_bytes + frame.size > MAX_QUEUED_BYTES

    def _count(self, frame: OutboundFrame, is_reply: bool) -> None:
        self.bytes += frame.size
        if is_reply:
            self._answer_bytes += frame.size
        if self.memory is not None:
            self.memory.take(frame)

    def _uncount(self, waiting: _Waiting) -> None:
        self.bytes -= waiting.frame.size
        if waiting.is_reply:
            self._answer_bytes -= waiting.frame.size
        if self.memory is not None:
            self.memory.give_back((waiting.frame,))

    def must_be_cut(self, frame: OutboundFrame) -> bool:
        """Whether a message leaves in chunks: it is large, and the peer has agreed to it."""
        return (
            self._cuts
            and frame.size > CHUNK_THRESHOLD_BYTES
            and _LANE_OF[frame.message.type] != _CRITICAL
        )

    def release(self) -> None:
        """Let the delayed messages join their lane; the delay is over."""
        now = self._now()
        normal = self._lanes[_NORMAL]
        while self._delayed:
            frame, is_reply = self._delayed.popleft()
            normal.append(_Waiting(frame, now, is_reply, None))

    def take(self) -> OutboundFrame | None:
        """The message that goes next; None if nothing may go now (see :attr:`blocked_for`)."""
        self.blocked_for = None
        for lane in self._order():
            waiting = self._next_of(lane)
            if waiting is None:
                continue
            if waiting.cut is None:
                frame = waiting.frame
                self._went(lane, waiting)
            else:
                frame = waiting.cut.next_chunk()
                if waiting.cut.is_done:
                    self._went(lane, waiting)
                else:
                    # Among other large messages that were held back it goes on first: a lane cuts
                    # one message at a time, and a peer takes no more than four.
                    (self._held[lane].get(_CHUNK) or self._lanes[lane]).appendleft(waiting)
            self._took(lane)
            return frame
        return None

    def passed_on(self) -> None:
        """The transport has room: what it was handed, it has passed on to the system.

        Of each lane, the message that was handed over first since the last time counts.
        """
        for lane, since in enumerate(self._handed):
            if since is not None:
                self._handed[lane] = None
                self.left[lane].add(self._now() - since)

    def take_chunks(self, run: Run, room: int) -> tuple[int, int]:
        """Take more chunks of one message at once, if nothing else waits that could go between.

        :param run: gets them.
        :param room: bytes of the run at which to stop.
        :returns: how many messages, chunks that is, and their serialized bytes.
        """
        lane = self._only_lane()
        if lane is None:
            return 0, 0
        waiting = self._lanes[lane][0]
        if waiting.cut is None:
            return 0, 0
        taken = waiting.cut.fill(run, room, self._may_go)
        if waiting.cut.is_done:
            self._lanes[lane].popleft()
            self._went(lane, waiting)
            self._took(lane)
        return taken

    def take_small(self, run: Run, room: int) -> tuple[int, int]:
        """Take what :meth:`take` would give next, one after the other, if only one lane has any.

        :param run: gets them.
        :param room: bytes with which to stop.
        :returns: how many messages, below 64 KiB all, and their serialized bytes; 0 if the next one
            is larger, cannot go, or somebody is to be told when it goes.
        """
        lane = self._only_lane()
        if lane is None:
            return 0, 0
        queue, is_limited = self._lanes[lane], self._budget is not None
        now, add = self._now(), run.add
        first = queue[0].since
        taken: list[OutboundFrame] = []
        waits: list[float] = []
        octets = answers = 0
        while queue and octets < room:
            frame, since, is_reply, _ = queue[0]
            size = frame.size
            if (
                size >= LONG_FRAME_BYTES
                or frame.written is not None
                or (is_limited and not self.may_go(frame))
            ):
                break
            queue.popleft()
            taken.append(frame)
            octets += size
            if is_reply:
                answers += size
            waits.append(now - since)
            add(frame.message)
        if taken:
            self.bytes -= octets
            self._answer_bytes -= answers
            if self.memory is not None:
                self.memory.give_back(taken)
            self.waited[lane].add_all(waits)
            if self._handed[lane] is None:
                self._handed[lane] = first
            self._took(lane)
        return len(taken), octets

    def _only_lane(self) -> int | None:
        """The lane in which something waits, if nothing does in the others or aside."""
        if self._delayed or any(self._held):
            return None
        lanes = [lane for lane in (_CRITICAL, _NORMAL, _BULK) if self._lanes[lane]]
        return lanes[0] if len(lanes) == 1 else None

    def _went(self, lane: int, waiting: _Waiting) -> None:
        self._uncount(waiting)
        self.waited[lane].add(self._now() - waiting.since)
        if self._handed[lane] is None:
            self._handed[lane] = waiting.since

    def _next_of(self, lane: int) -> _Waiting | None:
        """Take out the first message of a lane that may go, and hold back what is before it."""
        held = self._held[lane]
        for opcode, queue in held.items():
            queue[0], is_ready = self._readied(queue[0])
            if is_ready:
                waiting = queue.popleft()
                if not queue:
                    del held[opcode]
                return waiting
        lane_queue = self._lanes[lane]
        while lane_queue:
            waiting = lane_queue.popleft()
            if waiting.opcode not in held:
                waiting, is_ready = self._readied(waiting)
                if is_ready:
                    return waiting
            held.setdefault(waiting.opcode, deque()).append(waiting)
        return None

    def _readied(self, waiting: _Waiting) -> tuple[_Waiting, bool]:
        """Begin to cut a message, if it is its turn and it must be, and say whether it may go."""
        if waiting.cut is None:
            if not self.may_go(waiting.frame):
                return waiting, False
            if not self.must_be_cut(waiting.frame):
                return waiting, True
            waiting = waiting._replace(cut=Cut(waiting.frame, self._next_transfer))
            self._next_transfer = (self._next_transfer + 1) % 2**32
        assert waiting.cut is not None
        return waiting, self._may_go(_CHUNK, waiting.cut.next_size)

    def may_go(self, frame: OutboundFrame) -> bool:
        """Charge the budget for a message, or note how long it must wait."""
        return self._may_go(frame.message.type, len(frame.message.data))

    def _may_go(self, opcode: int, size: int) -> bool:
        budget = self._budget
        if budget is None or budget.spend(opcode, size):
            return True
        delay = budget.delay(opcode, size)
        # Some peers drop the link when this answer is late (CON-004.2). It cannot be too much:
        # what we admit of the requests is no more than what they admit of the answers.
        if delay > 0 and opcode != _KEEPALIVE_ANSWER:
            if self.blocked_for is None or delay < self.blocked_for:
                self.blocked_for = delay
            return False
        budget.charge(opcode, size)
        return True

    def surrender(self) -> list[OutboundFrame]:
        """Give up everything of which nothing was sent yet, in the order of the lanes.

        What is being cut stays: its pieces are of use only to whoever got the first one.
        """
        self.release()
        given: list[OutboundFrame] = []
        for lane, held in zip(self._lanes, self._held, strict=True):
            for queue in (*held.values(), lane):
                kept = deque(waiting for waiting in queue if waiting.cut is not None)
                for waiting in queue:
                    if waiting.cut is None:
                        given.append(waiting.frame)
                        self._uncount(waiting)
                queue.clear()
                queue.extend(kept)
            for opcode in [opcode for opcode, queue in held.items() if not queue]:
                del held[opcode]
        return given

    def clear(self) -> None:
        """Forget everything; the session is over."""
        self.release()
        for lane, held in zip(self._lanes, self._held, strict=True):
            for queue in (*held.values(), lane):
                for waiting in queue:
                    self._uncount(waiting)
            lane.clear()
            held.clear()
        self._transactions.clear()
        self.bytes = self._answer_bytes = 0

    def _order(self) -> tuple[int, int, int]:
        if self._in_a_row >= PRIORITY_STARVATION_RATIO:
            return (_BULK, _CRITICAL, _NORMAL)
        if self._critical_in_a_row >= NORMAL_STARVATION_RATIO:
            return (_NORMAL, _CRITICAL, _BULK)
        return (_CRITICAL, _NORMAL, _BULK)

    def _took(self, lane: int) -> None:
        # What is held back counts as waiting: its turn is due as soon as its budget returns.
        if lane == _BULK or not (self._lanes[_BULK] or self._held[_BULK]):
            self._in_a_row = 0
        else:
            self._in_a_row += 1
        if lane == _NORMAL or not (self._lanes[_NORMAL] or self._held[_NORMAL]):
            self._critical_in_a_row = 0
        elif lane == _CRITICAL:
            self._critical_in_a_row += 1
        levels = self._levels
        if levels is not None:
            depth = len(self)
            if self._delayed and depth < levels.normal_delay_threshold:
                self.release()
            if self._transactions and depth < levels.tx_dedup_threshold:
                self._transactions.clear()

    def _is_known_transaction(
        self, frame: OutboundFrame, depth: int, levels: BackpressureConfig
    ) -> bool:
        if depth < levels.tx_dedup_threshold:
            return False
        transaction = frame.message.data[:_TRANSACTION_ID_BYTES]
        if transaction in self._transactions:
            return True
        if len(self._transactions) >= MAX_REMEMBERED_TRANSACTIONS:
            del self._transactions[next(iter(self._transactions))]
        self._transactions[transaction] = None
        return False


class _Waiting(NamedTuple):
    """A message in its lane, since a time in monotonic seconds.

    :ivar cut: its chunks, once the first of them is due.
    """

    frame: OutboundFrame
    since: float
    is_reply: bool
    cut: Cut | None

    @property
    def opcode(self) -> int:
        """Of what goes next, the message or a chunk of it."""
        return self.frame.message.type if self.cut is None else _CHUNK


class Waits:
    """How long the messages of a lane waited, in buckets that double from 0.1 ms.

    :ivar counts: messages per bucket; bucket n holds waits below ``0.0001 * 2**n`` seconds.
    """

    __slots__ = ("counts",)
    BUCKETS: Final = 24
    FIRST: Final = 0.0001

    def __init__(self) -> None:
        self.counts = [0] * self.BUCKETS

    def add(self, seconds: float) -> None:
        """Count one message."""
        self.add_all((seconds,))

    def add_all(self, waits: Iterable[float]) -> None:
        """Count one message for each wait."""
        counts, first, last = self.counts, self.FIRST, self.BUCKETS - 1
        for seconds in waits:
            steps = int(seconds / first).bit_length()
            counts[steps if steps < last else last] += 1

    def merge(self, other: Waits) -> None:
        """Add what another one has counted."""
        self.counts = [one + two for one, two in zip(self.counts, other.counts, strict=True)]

    @property
    def total(self) -> int:
        """How many messages were counted."""
        return sum(self.counts)

    def percentile(self, share: float) -> float:
        """Seconds within which a share, 0..1, of the messages went; 0.0 without any."""
        total = sum(self.counts)
        if not total:
            return 0.0
        bucket, passed = 0, self.counts[0]
        while passed < share * total:
            bucket += 1
            passed += self.counts[bucket]
        return float(self.FIRST * 2**bucket)
