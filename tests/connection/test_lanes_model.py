"""The lanes against a naive model: any mix of offers, takes, budgets and large messages."""

from __future__ import annotations

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import BackpressureConfig
from dig_gossip.connection.lanes import NORMAL_STARVATION_RATIO, Lanes, Offer
from dig_gossip.connection.transfers import Reassembly
from dig_gossip.constants import PRIORITY_STARVATION_RATIO
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType, MessagePriority
from tests.connection.lane_run import take_small

CRITICAL, NORMAL, BULK = MessagePriority.CRITICAL, MessagePriority.NORMAL, MessagePriority.BULK
CHUNK = int(DigMessageType.MESSAGE_CHUNK)
TRANSACTION = 21
SMALL = (20, 28, TRANSACTION, 203, 30)
LARGE = (32, 29)  # no budget limits them but that of their pieces
LEVELS = BackpressureConfig(tx_dedup_threshold=4, bulk_drop_threshold=8, normal_delay_threshold=12)


@attrs.define(eq=False)
class Entry:
    """A message that was taken in and has not come out completely.

    :ivar kind: the opcode on the wire, which is that of its pieces if it is cut.
    """

    number: int
    lane: MessagePriority
    kind: int
    size: int
    is_delayed: bool = False


class ModelBudget:
    """So many messages of an opcode, until somebody gives more; without an entry no limit."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}

    def delay(self, opcode: int, size: int) -> float:
        return 0.0 if self.left.get(opcode, 1) > 0 else 1.0

    def spend(self, opcode: int, size: int) -> bool:
        may_go = self.delay(opcode, size) == 0
        if may_go:
            self.charge(opcode, size)
        return may_go

    def charge(self, opcode: int, size: int) -> None:
        assert self.left.get(opcode, 1) > 0, "charged beyond the budget"
        if opcode in self.left:
            self.left[opcode] -= 1


class LanesMachine(RuleBasedStateMachine):
    """Offers and takes in any order; the model is one list in order of arrival."""

    @initialize(levels=st.booleans(), limited=st.booleans(), cuts=st.booleans())
    def start(self, levels: bool, limited: bool, cuts: bool) -> None:
        self.levels = LEVELS if levels else None
        self.budget = ModelBudget() if limited else None
        self.cuts = cuts
        self.lanes = Lanes(self.levels, self.budget, cuts=cuts, now=lambda: 0.0)
        self.waiting: list[Entry] = []
        self.announced: set[int] = set()
        self.offered = 0
        self.reassembly = Reassembly(lambda opcode: 2**31)
        self.transfers: dict[bytes, Entry] = {}
        self.passed_over = {NORMAL: 0, BULK: 0}
        self.critical_since_normal = self.others_since_bulk = 0

    @rule(opcode=st.sampled_from(SMALL), is_reply=st.booleans(), count=st.integers(1, 40))
    def offer(self, opcode: int, is_reply: bool, count: int) -> None:
        for _ in range(count):
            self.offer_one(opcode, 40, is_reply)

    @rule(opcode=st.sampled_from(LARGE), count=st.integers(1, 6))
    def offer_large(self, opcode: int, count: int) -> None:
        for _ in range(count):
            self.offer_one(opcode, 70_000, True)

    def offer_one(self, opcode: int, size: int, is_reply: bool) -> None:
        number = self.offered
        self.offered += 1
        name = number % 5 if opcode == TRANSACTION else number
        data = name.to_bytes(32, "big") + number.to_bytes(8, "big") + bytes(size - 40)
        frame = OutboundFrame(Message(opcode, None, data))
        expected = self.expected(opcode, name, is_reply)
        assert self.lanes.offer(frame, is_reply=is_reply) is expected
        if expected:
            lane = MessagePriority.of(opcode)
            kind = CHUNK if self.cuts and opcode in LARGE else opcode
            self.waiting.append(Entry(number, lane, kind, frame.size, expected is Offer.DELAYED))

    def expected(self, opcode: int, name: int, is_reply: bool) -> Offer:
        if self.levels is None:
            return Offer.QUEUED
        depth, lane = len(self.waiting), MessagePriority.of(opcode)
        if opcode == TRANSACTION and depth >= LEVELS.tx_dedup_threshold:
            if name in self.announced:
                return Offer.SUPPRESSED
            self.announced.add(name)
        if lane is BULK and depth >= LEVELS.bulk_drop_threshold and not is_reply:
            return Offer.DROPPED
        is_deep = depth >= LEVELS.normal_delay_threshold
        if lane is NORMAL and (is_deep or any(each.is_delayed for each in self.waiting)):
            return Offer.DELAYED
        return Offer.QUEUED

    @rule(opcode=st.sampled_from((*SMALL, CHUNK)), left=st.integers(0, 5))
    def refill(self, opcode: int, left: int) -> None:
        if self.budget is not None:
            self.budget.left[opcode] = left

    @rule()
    def lift(self) -> None:
        if self.budget is not None:
            self.budget.left.clear()

    @rule()
    def release(self) -> None:
        self.lanes.release()
        self.undelay()

    def undelay(self) -> None:
        # They join their lane behind what is in it already.
        late = [each for each in self.waiting if each.is_delayed]
        self.waiting = [each for each in self.waiting if not each.is_delayed] + late
        for each in late:
            each.is_delayed = False

    @rule(count=st.integers(1, 100))
    def take(self, count: int) -> None:
        for _ in range(count):
            self.take_one()

    @rule(room=st.sampled_from([1, 100, 5000]))
    def take_small(self, room: int) -> None:
        budget = self.budget
        before = {} if budget is None else dict(budget.left)
        taken = take_small(self.lanes, room)
        if budget is not None:
            # All are paid for by now; the model follows them one by one.
            after, budget.left = budget.left, before
        for frame in taken:
            ready = self.ready()
            entry = self.recognized(frame)
            assert entry in ready, f"{entry} went before {ready}"
            if budget is not None:
                budget.charge(entry.kind, entry.size)
            self.check_share(entry.lane, {each.lane for each in ready})
            assert room > 0
            room -= frame.size
        if budget is not None:
            assert budget.left == after, "paid for something else"
        if self.levels is not None and len(self.waiting) < LEVELS.tx_dedup_threshold:
            self.announced.clear()

    def take_one(self) -> None:
        ready = self.ready()
        frame = self.lanes.take()
        if frame is None:
            assert not ready, f"{ready} could have gone"
            in_lanes = [each for each in self.waiting if not each.is_delayed]
            assert (self.lanes.blocked_for is not None) == bool(in_lanes)
            return
        entry = self.recognized(frame)
        assert entry in ready, f"{entry} went before {ready}"
        self.check_share(entry.lane, {each.lane for each in ready})
        if self.levels is not None:
            if len(self.waiting) < LEVELS.normal_delay_threshold:
                self.undelay()
            if len(self.waiting) < LEVELS.tx_dedup_threshold:
                self.announced.clear()

    def ready(self) -> list[Entry]:
        """Of each lane the first of each kind that has budget; without budgets just the first."""
        first: dict[tuple[MessagePriority, int], Entry] = {}
        for each in self.waiting:
            if not each.is_delayed:
                first.setdefault((each.lane, 0 if self.budget is None else each.kind), each)
        budget = self.budget
        return [e for e in first.values() if budget is None or not budget.delay(e.kind, 0)]

    def recognized(self, frame: OutboundFrame) -> Entry:
        """Find the entry of a frame that came out; forget it with its last piece."""
        message = frame.message
        if message.type != CHUNK:
            return self.forget(message.data)
        transfer, offset, data = message.data[:4], message.data[8:12], message.data[12:]
        if offset == bytes(4):
            self.transfers[transfer] = self.find(data[len(Message(0, None, b"")) :])
        entry = self.transfers[transfer]
        if self.reassembly.received(message.data) is not None:  # raises if a rule is broken
            del self.transfers[transfer]
            self.waiting.remove(entry)
        return entry

    def find(self, data: bytes) -> Entry:
        number = int.from_bytes(data[32:40], "big")
        (entry,) = (each for each in self.waiting if each.number == number)
        return entry

    def forget(self, data: bytes) -> Entry:
        entry = self.find(data)
        self.waiting.remove(entry)
        return entry

    def check_share(self, took: MessagePriority, ready: set[MessagePriority]) -> None:
        """The most urgent goes first, but who could go is not passed over for ever."""
        if took is NORMAL and CRITICAL in ready:
            assert self.critical_since_normal >= NORMAL_STARVATION_RATIO
        if took is BULK and len(ready) > 1:
            assert self.others_since_bulk >= PRIORITY_STARVATION_RATIO
        for lane in (NORMAL, BULK):
            is_passed_over = lane in ready and took is not lane
            self.passed_over[lane] = self.passed_over[lane] + 1 if is_passed_over else 0
        assert self.passed_over[BULK] <= PRIORITY_STARVATION_RATIO
        turns_of_bulk = NORMAL_STARVATION_RATIO // PRIORITY_STARVATION_RATIO + 1
        assert self.passed_over[NORMAL] <= NORMAL_STARVATION_RATIO + turns_of_bulk
        if took is BULK:
            self.others_since_bulk = 0
        else:
            self.others_since_bulk += 1
        if took is NORMAL:
            self.critical_since_normal = 0
        elif took is CRITICAL:
            self.critical_since_normal += 1

    @invariant()
    def agrees(self) -> None:
        assert len(self.lanes) == len(self.waiting)
        assert self.lanes.bytes == sum(each.size for each in self.waiting)
        assert self.lanes.delayed == sum(each.is_delayed for each in self.waiting)
        assert len(self.reassembly) <= 2, "one for each lane that is cut"


class LanesModelTests(SynchronousTestCase):
    """The whole queue of a session."""

    def test_any_use_agrees_with_a_naive_model(self) -> None:
        """Order, levels, shares, budgets, pieces.  PRI-003 to PRI-008, CON-005.3, design D9"""
        run_state_machine_as_test(LanesMachine, settings=settings(stateful_step_count=30))
