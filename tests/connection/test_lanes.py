"""Lanes and backpressure: what goes next, what is thrown away."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import BackpressureConfig
from dig_gossip.connection.lanes import MAX_HELD, Lanes, Offer, Waits
from dig_gossip.connection.rate_limit import OutboundLimiter
from dig_gossip.connection.rate_table import send_rows
from dig_gossip.constants import MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import MessagePriority
from tests.connection.lane_run import take_small

CRITICAL, NORMAL, BULK = 20, 32, 30
TRANSACTION = 21
CHUNK = 241
LEVELS = BackpressureConfig(
    tx_dedup_threshold=25, bulk_drop_threshold=50, normal_delay_threshold=100
)


def frame(opcode: int, number: int = 0, size: int = 40) -> OutboundFrame:
    return OutboundFrame(Message(opcode, None, number.to_bytes(8, "big") + bytes(size - 8)))


def number_of(taken: OutboundFrame) -> int:
    return int.from_bytes(taken.message.data[:8], "big")


class LanesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = 0.0

    def make(self, levels: BackpressureConfig | None = None, budget: object = None) -> Lanes:
        return Lanes(levels, budget, now=lambda: self.time)  # type: ignore[arg-type]

    def drain(self, lanes: Lanes) -> list[OutboundFrame]:
        taken = []
        while (one := lanes.take()) is not None:
            taken.append(one)
        return taken


class OrderTests(LanesCase):
    """Which lane goes next."""

    def test_critical_then_normal_then_bulk(self) -> None:
        """Whatever the order of arrival.  PRI-003"""
        lanes = self.make()
        for opcode in (BULK, NORMAL, CRITICAL):
            self.assertIs(lanes.offer(frame(opcode)), Offer.QUEUED)
        self.assertEqual([f.message.type for f in self.drain(lanes)], [CRITICAL, NORMAL, BULK])

    def test_one_bulk_after_sixteen_others(self) -> None:
        """Bulk is not starved, and gets no more than its share.  PRI-004"""
        lanes = self.make()
        for number in range(40):
            lanes.offer(frame(CRITICAL if number % 2 else NORMAL, number))
        for number in range(5):
            lanes.offer(frame(BULK, number))
        places = [n for n, f in enumerate(self.drain(lanes)) if f.message.type == BULK]
        self.assertEqual(places[:2], [16, 33])

    def test_a_late_bulk_does_not_profit_from_an_idle_counter(self) -> None:
        """Without bulk waiting the counter rests at zero.  PRI-004"""
        lanes = self.make()
        for number in range(100):
            lanes.offer(frame(CRITICAL, number))
            lanes.take()
        lanes.offer(frame(CRITICAL))
        lanes.offer(frame(BULK))
        self.assertEqual([f.message.type for f in self.drain(lanes)], [CRITICAL, BULK])

    def test_one_normal_after_sixty_four_critical(self) -> None:
        """Normal is not starved by critical.  PRI-101-X"""
        lanes = self.make()
        for number in range(130):
            lanes.offer(frame(CRITICAL, number))
        lanes.offer(frame(NORMAL))
        places = [n for n, f in enumerate(self.drain(lanes)) if f.message.type == NORMAL]
        self.assertEqual(places, [64])

    def test_turns_of_bulk_do_not_cost_normal_its_own(self) -> None:
        """Of critical without end normal and bulk both get their share.  PRI-004, PRI-101-X"""
        lanes = self.make()
        for number in range(400):
            lanes.offer(frame(CRITICAL, number))
        for number in range(40):
            lanes.offer(frame(BULK, number))
        for number in range(2):
            lanes.offer(frame(NORMAL, number))
        places = [n for n, f in enumerate(self.drain(lanes)) if f.message.type == NORMAL]
        self.assertEqual(places, [64 + 4, 2 * (64 + 4) + 1])

    @given(st.lists(st.sampled_from([CRITICAL, NORMAL, BULK, None])))
    def test_order_in_a_lane_is_kept_and_nothing_lost_or_doubled(
        self, steps: list[int | None]
    ) -> None:
        """For any interleaving of offers and takes.  PRI-003"""
        lanes = self.make()
        taken: list[OutboundFrame] = []
        offered = 0
        for step in steps:
            if step is None:
                one = lanes.take()
                taken += [] if one is None else [one]
            else:
                lanes.offer(frame(step, offered))
                offered += 1
        taken += self.drain(lanes)
        self.assertEqual(sorted(map(number_of, taken)), list(range(offered)))
        for opcode in (CRITICAL, NORMAL, BULK):
            numbers = [number_of(f) for f in taken if f.message.type == opcode]
            self.assertEqual(numbers, sorted(numbers))
        self.assertEqual((len(lanes), lanes.bytes), (0, 0))


class LevelTests(LanesCase):
    """Backpressure by depth."""

    def fill(self, lanes: Lanes, count: int) -> None:
        for number in range(count):
            lanes.offer(frame(CRITICAL, number))

    def test_bulk_is_dropped_at_its_threshold(self) -> None:
        """One below, at it; replies never.  PRI-005, PRI-007, BP-102-X"""
        lanes = self.make(LEVELS)
        self.fill(lanes, 49)
        self.assertIs(lanes.offer(frame(BULK)), Offer.QUEUED)
        self.assertIs(lanes.offer(frame(BULK)), Offer.DROPPED)
        self.assertIs(lanes.offer(frame(BULK), is_reply=True), Offer.QUEUED)
        self.assertEqual(lanes.counters.bulk_dropped, 1)

    def test_normal_is_put_aside_at_its_threshold_and_keeps_its_order(self) -> None:
        """Later normal messages do not overtake; critical goes on.  PRI-008"""
        lanes = self.make(LEVELS)
        self.fill(lanes, 99)
        self.assertIs(lanes.offer(frame(NORMAL, 1)), Offer.QUEUED)
        self.assertIs(lanes.offer(frame(NORMAL, 2)), Offer.DELAYED)
        self.assertIs(lanes.offer(frame(CRITICAL)), Offer.QUEUED)
        self.assertEqual(lanes.delayed, 1)
        for _ in range(3):
            lanes.take()
        self.assertEqual(lanes.delayed, 0)  # shallow again
        lanes.offer(frame(NORMAL, 3))
        normal = [number_of(f) for f in self.drain(lanes) if f.message.type == NORMAL]
        self.assertEqual(normal, [1, 2, 3])

    def test_release_ends_the_delay(self) -> None:
        """Every 500 ms the writer lets them go, however deep the queue is.  PRI-008"""
        lanes = self.make(LEVELS)
        self.fill(lanes, 200)
        lanes.offer(frame(NORMAL))
        self.assertEqual((lanes.delayed, lanes.length(MessagePriority.NORMAL)), (1, 0))
        lanes.release()
        self.assertEqual((lanes.delayed, lanes.length(MessagePriority.NORMAL)), (0, 1))

    def test_a_transaction_is_announced_once_an_episode(self) -> None:
        """From the threshold on, until the queue is shallow again.  PRI-006"""
        lanes = self.make(LEVELS)
        self.fill(lanes, 24)
        one = frame(TRANSACTION, 7, 48)
        self.assertEqual(
            [lanes.offer(one) for _ in range(3)], [Offer.QUEUED, Offer.QUEUED, Offer.SUPPRESSED]
        )
        self.assertIs(lanes.offer(frame(TRANSACTION, 8, 48)), Offer.QUEUED)
        self.drain(lanes)
        self.fill(lanes, 25)
        self.assertIs(lanes.offer(one), Offer.QUEUED)
        self.assertEqual(lanes.counters.tx_suppressed, 1)

    def test_without_levels_only_the_hard_cap_holds(self) -> None:
        """``backpressure=None``.  PRI-005, BP-101-X"""
        lanes = self.make(None)
        for number in range(MAX_QUEUED_MESSAGES):
            self.assertIs(lanes.offer(frame(BULK, number)), Offer.QUEUED)
        self.assertIs(lanes.offer(frame(CRITICAL)), Offer.OVERFLOW)
        self.assertEqual(len(lanes), MAX_QUEUED_MESSAGES)

    def test_the_hard_cap_counts_bytes_too(self) -> None:
        """One byte below, at, and beyond.  BP-101-X"""
        for size, offer in ((-1, Offer.QUEUED), (0, Offer.QUEUED), (1, Offer.OVERFLOW)):
            lanes = self.make()
            first = OutboundFrame(Message(30, None, bytes(MAX_QUEUED_BYTES // 2)))
            lanes.offer(first)
            rest = MAX_QUEUED_BYTES - first.size - 6 + size
            self.assertIs(lanes.offer(OutboundFrame(Message(30, None, bytes(rest)))), offer)

    def test_an_answer_may_be_larger_than_the_cap(self) -> None:
        """Chia lets it have 50 MiB; what waits beside it is not to blame.  BP-101-X, design D7"""
        lanes = self.make()
        answer = OutboundFrame(Message(30, 1, bytes(MAX_QUEUED_BYTES + 1)))
        self.assertIs(lanes.offer(answer), Offer.OVERFLOW)
        self.assertIs(lanes.offer(answer, is_reply=True), Offer.QUEUED)
        self.assertIs(lanes.offer(frame(30), is_reply=True), Offer.OVERFLOW)
        self.assertIs(lanes.offer(frame(30, 1)), Offer.QUEUED)
        self.assertIs(lanes.offer(OutboundFrame(answer.message)), Offer.OVERFLOW)
        self.assertEqual(self.drain(lanes)[0], answer)
        self.assertIs(lanes.offer(answer, is_reply=True), Offer.QUEUED)
        lanes.clear()
        self.assertIs(lanes.offer(frame(30), is_reply=True), Offer.QUEUED)

    def test_clear_forgets_everything(self) -> None:
        """The session is over.  PRI-008"""
        lanes = self.make(LEVELS)
        self.fill(lanes, 150)
        lanes.offer(frame(NORMAL))
        lanes.clear()
        self.assertEqual((len(lanes), lanes.bytes, lanes.take()), (0, 0, None))


class FixedBudget:
    """Says for each opcode how long it must wait."""

    def __init__(self) -> None:
        self.waits: dict[int, float] = {}
        self.charged: list[tuple[int, int]] = []

    def delay(self, opcode: int, size: int) -> float:
        return self.waits.get(opcode, 0.0)

    def spend(self, opcode: int, size: int) -> bool:
        may_go = self.delay(opcode, size) == 0
        if may_go:
            self.charge(opcode, size)
        return may_go

    def charge(self, opcode: int, size: int) -> None:
        self.charged.append((opcode, size))


class BudgetTests(LanesCase):
    """Outbound rate limits."""

    def test_a_spent_budget_holds_up_its_opcode_only(self) -> None:
        """In order, until the budget returns; nothing is lost, others pass.  CON-005.3"""
        budget = FixedBudget()
        lanes = self.make(None, budget)
        budget.waits[NORMAL] = 3.0
        for number, opcode in enumerate((NORMAL, 33, NORMAL, CRITICAL, BULK)):
            lanes.offer(frame(opcode, number))
        self.assertEqual([f.message.type for f in self.drain(lanes)], [CRITICAL, 33, BULK])
        self.assertEqual(
            (lanes.blocked_for, len(lanes), lanes.length(MessagePriority.NORMAL)), (3.0, 2, 2)
        )
        lanes.offer(frame(NORMAL, 9))
        budget.waits.clear()
        self.assertEqual([number_of(f) for f in self.drain(lanes)], [0, 2, 9])
        self.assertEqual((len(lanes), lanes.bytes), (0, 0))
        self.assertIsNone(lanes.blocked_for)
        self.assertEqual(budget.charged[0], (CRITICAL, 40))

    def test_what_waited_for_its_budget_has_its_turn_again(self) -> None:
        """Bulk, and normal, that was held back is starved no more than other.  PRI-004"""
        for opcode, place in ((BULK, 16), (NORMAL, 64)):
            budget = FixedBudget()
            lanes = self.make(None, budget)
            budget.waits[opcode] = 3.0
            lanes.offer(frame(opcode))
            self.assertIsNone(lanes.take())
            for number in range(100):
                lanes.offer(frame(CRITICAL, number))
            budget.waits.clear()
            places = [n for n, f in enumerate(self.drain(lanes)) if f.message.type == opcode]
            self.assertEqual(places, [place])

    def test_pieces_that_waited_for_their_budget_stay_one_message_at_a_time(self) -> None:
        """However many large messages were held back: peers take four at a time.  design D9"""
        budget = FixedBudget()
        lanes = Lanes(None, budget, cuts=True, now=lambda: self.time)
        budget.waits[CHUNK] = 3.0
        for number in range(6):
            lanes.offer(frame(BULK, number, 100_000))
        self.assertIsNone(lanes.take())
        budget.waits.clear()
        transfers = [f.message.data[:4] for f in self.drain(lanes)]
        self.assertEqual(transfers, [n.to_bytes(4, "big") for n in range(6) for _ in range(4)])

    def test_several_at_once_overtake_nobody(self) -> None:
        """Only where nothing waits elsewhere, not even what was held back before.  CON-005.3"""
        budget = FixedBudget()
        lanes = self.make(None, budget)
        for number in range(3):
            lanes.offer(frame(NORMAL, number))
        self.assertEqual([number_of(f) for f in take_small(lanes, 47)], [0, 1])
        budget.waits[NORMAL] = 3.0
        lanes.offer(frame(33, 3))
        self.assertEqual(take_small(lanes, 1000), [])
        self.assertEqual([number_of(f) for f in self.drain(lanes)], [3])
        lanes.offer(frame(NORMAL, 4))
        budget.waits.clear()
        self.assertEqual(take_small(lanes, 1000), [])
        self.assertEqual([number_of(f) for f in self.drain(lanes)], [2, 4])
        lanes.offer(frame(NORMAL, 5))
        lanes.offer(frame(CRITICAL, 6))
        self.assertEqual(take_small(lanes, 1000), [])
        self.assertEqual([number_of(f) for f in self.drain(lanes)], [6, 5])
        lanes.offer(frame(BULK, 7, 70_000))
        self.assertEqual(take_small(lanes, 1000), [])

    def test_answers_that_left_together_make_no_room_for_others(self) -> None:
        """What nobody asked for keeps to its own bound.  BP-101-X"""
        lanes = self.make()
        for number in range(9):
            lanes.offer(frame(BULK, number, 60_000), is_reply=True)
        self.assertEqual(len(take_small(lanes, 1_000_000)), 9)
        for number in range(2):
            half = frame(BULK, number, MAX_QUEUED_BYTES // 2 - 6)
            self.assertIs(lanes.offer(half), Offer.QUEUED)
        self.assertIs(lanes.offer(frame(BULK)), Offer.OVERFLOW)

    def test_who_is_to_be_told_is_told(self) -> None:
        """A message that has somebody to call when it goes goes by itself.  design D9"""
        lanes = self.make()
        told = OutboundFrame(frame(NORMAL, 1).message, lambda: None)
        for one in (frame(NORMAL, 0), told, frame(NORMAL, 2)):
            lanes.offer(one)
        self.assertEqual([number_of(f) for f in take_small(lanes, 1000)], [0])
        self.assertEqual(take_small(lanes, 1000), [])
        self.assertIs(lanes.take(), told)
        self.assertEqual([number_of(f) for f in take_small(lanes, 1000)], [2])

    def test_what_waits_for_its_budget_is_bounded(self) -> None:
        """Beyond 1024 of an opcode new ones are refused, and only they.  CON-005.3"""
        budget = FixedBudget()
        lanes = self.make(None, budget)
        budget.waits[NORMAL] = 3.0
        for number in range(MAX_HELD):
            self.assertIs(lanes.offer(frame(NORMAL, number)), Offer.QUEUED)
            self.assertIsNone(lanes.take())
        self.assertIs(lanes.offer(frame(NORMAL)), Offer.OVER_BUDGET)
        self.assertIs(lanes.offer(frame(33)), Offer.QUEUED)
        self.assertEqual((lanes.counters.budget_dropped, len(lanes)), (1, MAX_HELD + 1))
        lanes.clear()
        self.assertEqual((len(lanes), lanes.bytes, lanes.take()), (0, 0, None))


class TakeInTests(LanesCase):
    """The short form of an offer."""

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("in"), st.sampled_from([CRITICAL, NORMAL, BULK, TRANSACTION])),
                st.tuples(st.just("take"), st.just(0)),
                st.tuples(st.just("small"), st.sampled_from([40, 100, 1000])),
                st.tuples(st.just("wait"), st.just(5)),
            ),
            max_size=150,
        ),
        st.booleans(),
        st.booleans(),
    )
    def test_it_does_what_offer_does(
        self, events: list[tuple[str, int]], has_levels: bool, is_limited: bool
    ) -> None:
        """Or nothing; whatever the levels and the limits say.  PRI-005, PRI-007, CON-005.3"""
        levels = BackpressureConfig(
            tx_dedup_threshold=3, bulk_drop_threshold=6, normal_delay_threshold=9
        )
        time = [0.0]
        made = []
        for _ in range(2):
            limits = OutboundLimiter(
                send_rows(both_v2=True, is_rust=False), now=lambda: time[0], factor=0.05
            )
            made.append(
                Lanes(
                    levels if has_levels else None,
                    limits if is_limited else None,
                    now=lambda: time[0],
                )
            )
        short, long = made
        for number, (what, value) in enumerate(events):
            if what == "in":
                one = frame(value, number % 7)
                if not short.take_in(one.message):
                    short.offer(one)
                long.offer(one)
            elif what == "take":
                taken = [lanes.take() for lanes in made]
                self.assertEqual(*[one and one.message for one in taken])
            elif what == "small":
                runs = [take_small(lanes, value) for lanes in made]
                self.assertEqual(*[[one.message for one in run] for run in runs])
            else:
                time[0] += value
            self.assertEqual(len(short), len(long))
            self.assertEqual((short.bytes, short.delayed), (long.bytes, long.delayed))
            self.assertEqual(*[vars_of(lanes.counters) for lanes in made])
        self.assertEqual(*[[one.counts for one in lanes.waited] for lanes in made])

    def test_waits_are_counted(self) -> None:
        """A second is a second, however many leave at once.  PRI-102-X"""
        lanes = self.make()
        for number in range(3):
            lanes.take_in(frame(NORMAL, number).message)
        self.time = 1.0
        self.assertEqual(len(take_small(lanes, 1000)), 3)
        self.time = 3.0
        lanes.passed_on()
        for waits, total, seconds in ((lanes.waited[1], 3, 1.0), (lanes.left[1], 1, 3.0)):
            self.assertEqual(waits.total, total)
            self.assertTrue(seconds <= waits.percentile(0.01) < 2.5 * seconds)

    def test_more_than_may_be_held_back(self) -> None:
        """What waits behind its rate limit is for an offer to judge.  CON-005.3"""
        lanes = self.make(budget=Spent())
        lanes.offer(frame(NORMAL))
        self.assertIsNone(lanes.take())
        self.assertFalse(lanes.take_in(frame(NORMAL).message))

    def test_the_last_place(self) -> None:
        """Nothing is taken in where an offer would overflow.  BP-101-X"""
        lanes = self.make()
        for number in range(MAX_QUEUED_MESSAGES):
            self.assertTrue(lanes.take_in(frame(CRITICAL, number).message))
        self.assertFalse(lanes.take_in(frame(CRITICAL).message))
        lanes = self.make()
        lanes.offer(OutboundFrame(Message(CRITICAL, None, bytes(MAX_QUEUED_BYTES - 52))))
        self.assertFalse(lanes.take_in(frame(CRITICAL, size=41).message))
        self.assertTrue(lanes.take_in(frame(CRITICAL).message))


class Spent:
    """Rate limits that let nothing pass."""

    def delay(self, opcode: int, size: int) -> float:
        return 1.0

    def charge(self, opcode: int, size: int) -> None: ...

    def spend(self, opcode: int, size: int) -> bool:
        return False


def vars_of(counters: object) -> list[int]:
    """What was counted."""
    return [getattr(counters, name) for name in type(counters).__slots__]  # type: ignore[attr-defined]


class WaitsTests(LanesCase):
    """Percentiles of waiting."""

    def test_percentiles_bound_the_waits_from_above_within_a_factor_of_two(self) -> None:
        """So that an operator sees who holds up whom.  STA-101-X"""

        def check(seconds: float) -> Callable[[], float]:
            waits = Waits()
            for _ in range(10):
                waits.add(seconds)
            return lambda: waits.percentile(0.99)

        self.assertEqual(Waits().percentile(0.5), 0.0)
        for seconds in (0.0002, 0.05, 1.0, 100.0):
            self.assertGreaterEqual(check(seconds)(), seconds)
            self.assertLessEqual(check(seconds)(), 2.01 * seconds)
        self.assertLess(check(1e9)(), 1e4)

    def test_taking_counts_the_wait_of_the_lane(self) -> None:
        """From the offer to the take.  STA-101-X"""
        lanes = self.make()
        lanes.offer(frame(BULK))
        self.time = 1.0
        lanes.take()
        self.assertGreaterEqual(lanes.waited[MessagePriority.BULK].percentile(0.5), 1.0)
        self.assertEqual(lanes.waited[MessagePriority.NORMAL].percentile(0.5), 0.0)

    def test_the_wait_for_the_wire_ends_when_the_transport_has_passed_it_on(self) -> None:
        """Of each lane the first that went since the last time counts.  STA-101-X"""
        lanes = self.make()
        for number in range(3):
            lanes.offer(frame(CRITICAL, number))
        lanes.offer(frame(BULK))
        self.time = 1.0
        self.drain(lanes)
        self.time = 5.0
        lanes.passed_on()
        lanes.passed_on()
        left = [lanes.left[lane] for lane in MessagePriority]
        self.assertEqual([waits.total for waits in left], [1, 0, 1])
        self.assertGreaterEqual(left[MessagePriority.CRITICAL].percentile(0.99), 5.0)
        self.assertLess(lanes.waited[MessagePriority.CRITICAL].percentile(0.99), 2.1)

    def test_the_oldest_wait_is_that_of_any_lane(self) -> None:
        """Also of what waits for its rate budget.  API-005"""
        lanes = self.make()
        self.assertEqual(lanes.oldest_wait, 0.0)
        lanes.offer(frame(BULK))
        self.time = 2.0
        lanes.offer(frame(CRITICAL))
        self.time = 3.0
        self.assertEqual(lanes.oldest_wait, 3.0)
        lanes.take()
        self.assertEqual(lanes.oldest_wait, 3.0)
        lanes.take()
        self.assertEqual(lanes.oldest_wait, 0.0)


class SurrenderTests(SynchronousTestCase):
    """What a session hands over to its successor."""

    def test_everything_is_given_in_order_but_what_is_being_cut(self) -> None:
        """A message of which a chunk is out already stays.  RLY-007.2"""
        lanes = Lanes(BackpressureConfig(), now=lambda: 0.0, cuts=True)
        large = OutboundFrame(Message(BULK, None, bytes(200_000)))
        lanes.offer(large, is_reply=True)
        piece = lanes.take()
        assert piece is not None
        for number in range(3):
            lanes.offer(frame(BULK, number), is_reply=True)
        for number in range(120):
            lanes.offer(frame(NORMAL, number))
        lanes.offer(frame(CRITICAL))
        self.assertGreater(lanes.delayed, 0)
        given = lanes.surrender()
        self.assertEqual(
            [one.message.type for one in given], [CRITICAL] + [NORMAL] * 120 + [BULK] * 3
        )
        normal = [one.message.data for one in given if one.message.type == NORMAL]
        self.assertEqual(normal, [frame(NORMAL, number).message.data for number in range(120)])
        self.assertEqual(len(lanes), 1)
        rest = 0
        while lanes.take() is not None:
            rest += 1
        self.assertGreater(rest, 3)
        self.assertEqual((lanes.bytes, len(lanes)), (0, 0))
