"""What waits to be sent to all peers together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import BackpressureConfig
from dig_gossip.connection.lanes import Lanes, Offer
from dig_gossip.connection.send_budget import SendBudget
from dig_gossip.connection.writer import Writer
from dig_gossip.testing.clock import SimulatedClock
from dig_gossip.util.clock import Clock
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from tests.connection.lane_run import take_small
from tests.connection.test_lanes import BULK, CRITICAL, NORMAL, frame
from tests.connection.test_writer import FakeOwner

LEVELS = BackpressureConfig(tx_dedup_threshold=2, bulk_drop_threshold=4, normal_delay_threshold=6)


def waiting_in(lanes: Lanes) -> set[OutboundFrame]:
    """Every message that is in a queue."""
    queues = [*lanes._lanes, *(queue for held in lanes._held for queue in held.values())]
    found = {waiting.frame for queue in queues for waiting in queue}
    return found | {delayed for delayed, _ in lanes._delayed}


class _Spent:
    """Rate limits that hold back one opcode."""

    def delay(self, opcode: int, size: int) -> float:
        return 5.0 if opcode == NORMAL else 0.0

    def charge(self, opcode: int, size: int) -> None: ...

    def spend(self, opcode: int, size: int) -> bool:
        return opcode != NORMAL

    def can_ever(self, opcode: int, size: int) -> bool:
        return True


_events = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 2), st.integers(0, 11), st.booleans()),
        st.tuples(st.just("take"), st.integers(0, 2)),
        st.tuples(st.just("clear"), st.integers(0, 2)),
        st.tuples(st.just("surrender"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("release"), st.integers(0, 2)),
    ),
    max_size=60,
)


class AccountTests(SynchronousTestCase):
    """What counts, and how often."""

    @given(_events)
    def test_each_message_that_waits_counts_once(self, events: list[tuple[object, ...]]) -> None:
        """However many queues it is in, and whichever way it leaves them.  BP-101-X, D14"""
        budget = SendBudget(2000)
        queues = [
            Lanes(LEVELS, budget=limits, cuts=cuts, now=lambda: 0.0)
            for limits, cuts in ((None, False), (_Spent(), False), (None, True))
        ]
        for queue in queues:
            queue.memory = budget
        large = OutboundFrame(Message(BULK, None, bytes(100_000)))
        frames = [frame((CRITICAL, NORMAL, BULK)[n % 3], n, 40 + n) for n in range(11)] + [large]
        for what, number, *rest in events:
            assert isinstance(number, int)
            queue = queues[number]
            match what, rest:
                case "offer", (int() as index, bool() as is_reply):
                    queue.offer(frames[index], is_reply=is_reply)
                case "take", _:
                    queue.take()
                case "clear", _:
                    queue.clear()
                case "release", _:
                    queue.release()
                case "surrender", (int() as to,):
                    for given_up in queue.surrender():
                        queues[to].offer(given_up, is_reply=True)
            waiting = set().union(*map(waiting_in, queues))
            self.assertEqual(budget.total, sum(one.size for one in waiting))
        for queue in queues:
            queue.clear()
        self.assertEqual((budget.total, [one.queues for one in frames]), (0, [0] * 12))

    def test_a_broadcast_counts_once(self) -> None:
        """Also when each queue takes it by itself, without a frame made for it.  D14"""
        budget = SendBudget(2000)
        queues = [Lanes(now=lambda: 0.0) for _ in range(3)]
        one, other = frame(BULK, 1).message, frame(BULK, 2).message
        for queue in queues:
            queue.memory = budget
        for message in (one, other):
            for queue in queues:
                self.assertTrue(queue.take_in(message))
        self.assertEqual(budget.total, len(one) + len(other))
        self.assertEqual([len(take_small(queue, 1000)) for queue in queues], [2, 2, 2])
        self.assertEqual(budget.total, 0)

    def test_sharing_keeps_to_the_limit(self) -> None:
        """The first copy needs room; and once there is too much, no queue more.  BP-101-X"""
        one, large = frame(BULK, 1), frame(CRITICAL, 2)
        for spare, finds_room in ((-1, False), (0, True)):
            budget = SendBudget(one.size + spare)
            self.assertEqual(budget.share(one.message, one.size) is not None, finds_room)
            self.assertEqual(budget.total, one.size * finds_room)
        self.assertIsNotNone(budget.share(one.message, one.size))
        budget.take(large)
        self.assertIsNone(budget.share(one.message, one.size))

    def test_what_has_gone_counts_again_when_it_comes_again(self) -> None:
        """The same message, after it has waited for nobody.  D14"""
        one = frame(BULK, 1)
        budget = SendBudget(2000)
        for _ in range(2):
            shared = budget.share(one.message, one.size)
            assert shared is not None
            self.assertEqual(budget.total, one.size)
            budget.give_back((shared,))
            self.assertEqual(budget.total, 0)

    def test_room_at_the_limit(self) -> None:
        """The last byte may be used, and one more may not.  BP-101-X"""
        one = frame(BULK)
        for spare, has_room in ((-1, False), (0, True), (1, True)):
            budget = SendBudget(2 * one.size + spare)
            budget.take(frame(BULK))
            self.assertEqual(budget.has_room(frame(BULK)), has_room)
        budget = SendBudget(one.size)
        budget.take(one)
        self.assertTrue(budget.has_room(one), "it takes no more in one queue more")


class WriterTests(SynchronousTestCase):
    """Connections that share a budget of 1000 bytes."""

    def setUp(self) -> None:
        self.budget = SendBudget(1000)
        self.clock = Clock(SimulatedClock())
        self.given_up: list[int] = []

    def writer(self, number: int, waiting: int, *, is_stuck: bool = True) -> Writer:
        """A connection for which messages of 100 bytes wait.

        :param is_stuck: its transport takes nothing; else its rate limits hold it up.
        """
        writer = Writer(FakeOwner(), as_client=False, clock=self.clock, memory=self.budget)
        writer.open()
        writer.on_overflow(lambda: self.given_up.append(number))
        limits = None if is_stuck else _Spent()
        lanes = Lanes(budget=limits, now=self.clock.monotonic)
        writer.configure(lanes, limits)  # type: ignore[arg-type]
        if is_stuck:
            writer.pauseProducing()
        for _ in range(waiting):
            self.assertIs(writer.send(frame(NORMAL, size=94)), Offer.QUEUED)
        return writer

    def test_bulk_that_nobody_asked_for_is_refused(self) -> None:
        """And counted; nobody is given up for it, an answer finds its room.  PRI-007, BP-102-X"""
        self.writer(1, 6)
        writer = self.writer(2, 4)
        self.assertIs(writer.send(frame(BULK)), Offer.NO_ROOM)
        self.assertEqual((self.budget.refused, self.given_up), (1, []))
        self.assertIs(writer.send(frame(BULK), is_reply=True), Offer.QUEUED)
        self.assertEqual(self.given_up, [1])

    def test_critical_messages_always_find_room(self) -> None:
        """The connection that holds most goes, and its memory with it.  BP-101-X"""
        self.writer(1, 3)
        self.writer(2, 5)
        writer = self.writer(3, 2)
        self.assertIs(writer.send(frame(CRITICAL)), Offer.QUEUED)
        self.assertEqual((self.given_up, self.budget.given_up), ([2], 1))
        self.assertEqual(self.budget.total, 3 * 100 + 2 * 100 + 46)

    def test_whoever_takes_nothing_goes_first(self) -> None:
        """Also if more waits for one that our own limits hold up.  BP-101-X"""
        self.writer(1, 6, is_stuck=False)
        self.writer(2, 4)
        writer = self.writer(3, 0)
        writer.send(frame(CRITICAL))
        self.assertEqual(self.given_up, [2])

    def test_the_largest_may_be_the_one_that_sends(self) -> None:
        """It learns at once that it is given up.  BP-101-X"""
        self.writer(1, 2)
        writer = self.writer(2, 8)
        self.assertIs(writer.send(frame(CRITICAL)), Offer.OVERFLOW)
        self.assertEqual((self.given_up, writer.is_open), ([2], False))

    def test_a_single_connection_is_left_alone(self) -> None:
        """Its own limits are enough.  BP-101-X"""
        writer = self.writer(1, 10)
        self.assertIs(writer.send(frame(CRITICAL)), Offer.QUEUED)
        self.assertEqual(self.given_up, [])

    def test_what_is_closed_holds_nothing(self) -> None:
        """Whatever the reason.  BP-101-X"""
        for end in (Writer.close, Writer.stopProducing):
            writer = self.writer(1, 5)
            end(writer)
            end(writer)
            self.assertEqual((self.budget.total, self.budget._queues), (0, {}))
