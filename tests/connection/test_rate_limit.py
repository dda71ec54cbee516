"""Tests of :mod:`dig_gossip.connection.rate_limit`."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection import rate_limit
from dig_gossip.connection.rate_limit import InboundLimiter, OutboundLimiter, Verdict
from dig_gossip.connection.rate_table import (
    AGGREGATE,
    CHIA_V1,
    CHIA_V2,
    DEFAULT_ROW,
    DIG_ROWS,
    SDK_V2,
    Row,
    receive_rows,
    send_rows,
)
from tests.connection import ManualTime
from tests.vectors import load

M = 1024 * 1024
ACCEPT, DROP, PENALIZE = Verdict.ACCEPT, Verdict.DROP, Verdict.PENALIZE
OVERSIZE, DISCONNECT = Verdict.OVERSIZE, Verdict.DISCONNECT

#: Opcodes of the tests' own small rows: two that share the aggregate, the second of the flood
#: class; one outside it; one without limits but of size.
SHARED, FLOOD, APART, ENDLESS = 26, 20, 22, 27


def row(count: int, max_size: int, max_total: int, aggregate: bool = False) -> Row:
    """A row with numbers only."""
    return Row(count=count, max_size=max_size, max_total=max_total, aggregate=aggregate)


SMALL = {
    SHARED: row(4, 100, 250, True),
    FLOOD: row(5, 100, 300, True),
    APART: row(8, 50, 200),
    ENDLESS: Row(count=None, max_size=70, max_total=None, aggregate=False),
}
SMALL_ROWS = tuple(SMALL.get(opcode, DEFAULT_ROW) for opcode in range(256))
SMALL_AGGREGATE = row(7, 400, 400)


class SmallRows(SynchronousTestCase):
    """Tests with limits that are reached soon."""

    def setUp(self) -> None:
        self.time = ManualTime(600.0)
        self.patch(rate_limit, "AGGREGATE", SMALL_AGGREGATE)


class GoldenTraces(SynchronousTestCase):
    """The two deployed algorithms, by the one implementation."""

    def limiter(self, vector: dict[str, Any], time: ManualTime) -> InboundLimiter:
        table = SDK_V2
        if vector["algorithm"] == "chia":
            table = CHIA_V2 if 3 in vector["capabilities"] else CHIA_V1
        rows = tuple({**table, **DIG_ROWS}.get(opcode, DEFAULT_ROW) for opcode in range(256))
        return InboundLimiter(
            rows, now=time, factor=vector["factor"], charge_rejected=vector["incoming"]
        )

    def test_chia_and_sdk_traces_are_reproduced(self) -> None:
        """Every verdict of every trace, both directions.  CON-005"""
        vectors = load("rate_limiter_sim.json")
        self.assertEqual(len(vectors), 14)
        for vector in vectors:
            time = ManualTime(0.0)
            limiter = self.limiter(vector, time)
            for step in vector["steps"]:
                time.seconds = step["t"]
                verdicts = [
                    limiter.admit(step["opcode"], step["size"]) is ACCEPT
                    for _ in range(step["repeat"])
                ]
                wanted = [allowed for allowed, run in step["allowed_runs"] for _ in range(run)]
                self.assertEqual(verdicts, wanted, vector["name"])

    def test_rows_in_use_judge_like_the_inbound_traces(self) -> None:
        """The rows that sessions get give the same verdicts as the bare tables.  CON-005"""
        for vector in load("rate_limiter_sim.json"):
            if not vector["incoming"]:
                continue
            time = ManualTime(0.0)
            rows = receive_rows(
                is_chia=vector["algorithm"] == "chia", both_v2=3 in vector["capabilities"]
            )
            limiter = InboundLimiter(rows, now=time, factor=vector["factor"])
            for step in vector["steps"]:
                time.seconds = step["t"]
                for allowed, run in step["allowed_runs"]:
                    for _ in range(run):
                        verdict = limiter.admit(step["opcode"], step["size"])
                        self.assertEqual(verdict is ACCEPT, allowed, vector["name"])


class InboundLimits(SmallRows):
    """What is accepted, dropped, charged to the peer."""

    def setUp(self) -> None:
        super().setUp()
        self.limiter = InboundLimiter(SMALL_ROWS, now=self.time)

    def run_of(self, opcode: int, size: int, times: int) -> list[Verdict]:
        """The verdicts on equal messages."""
        return [self.limiter.admit(opcode, size) for _ in range(times)]

    # -- each limit at n - 1, n, n + 1

    def test_count_is_accepted_up_to_the_row(self) -> None:
        """Eight of eight are accepted, the ninth is not.  CON-005"""
        self.assertEqual(self.run_of(APART, 0, 9), [ACCEPT] * 8 + [DROP])

    def test_total_is_accepted_up_to_the_row(self) -> None:
        """200 bytes of 200 are accepted, one more is not.  CON-005"""
        self.assertEqual(self.run_of(APART, 50, 4), [ACCEPT] * 4)
        self.assertIs(self.limiter.admit(APART, 1), DROP)

    def test_single_size_is_accepted_up_to_the_row(self) -> None:
        """49 and 50 bytes of 50 are accepted, 51 are an offense.  CON-005"""
        sizes = (49, 50, 51)
        self.assertEqual([self.limiter.admit(APART, n) for n in sizes], [ACCEPT, ACCEPT, OVERSIZE])

    def test_aggregate_count_is_shared(self) -> None:
        """Seven messages of two opcodes, neither of which reaches its own limit.  CON-005"""
        verdicts = self.run_of(SHARED, 0, 3) + self.run_of(FLOOD, 0, 4)
        self.assertEqual(verdicts, [ACCEPT] * 7)
        self.assertIs(self.limiter.admit(SHARED, 0), DROP)
        self.assertIs(self.limiter.admit(APART, 0), ACCEPT)

    def test_aggregate_total_is_shared(self) -> None:
        """400 bytes of two opcodes, then not one more.  CON-005"""
        verdicts = self.run_of(SHARED, 100, 2) + self.run_of(FLOOD, 100, 2)
        self.assertEqual(verdicts, [ACCEPT] * 4)
        self.assertIs(self.limiter.admit(SHARED, 0), ACCEPT)
        self.assertIs(self.limiter.admit(SHARED, 1), DROP)

    def test_endless_row_limits_single_sizes_only(self) -> None:
        """Any number passes, too large a one does not, and the aggregate knows of none.  CON-005"""
        self.assertEqual(self.run_of(ENDLESS, 70, 1000), [ACCEPT] * 1000)
        self.assertIs(self.limiter.admit(ENDLESS, 71), OVERSIZE)
        self.assertEqual(self.run_of(SHARED, 0, 4), [ACCEPT] * 4)

    def test_unlisted_opcode_has_the_default_row(self) -> None:
        """100 messages of 1 MiB pass; a larger one is an offense.  CON-005"""
        self.assertEqual(self.run_of(199, M, 101), [ACCEPT] * 100 + [DROP])
        self.assertIs(self.limiter.admit(198, M + 1), OVERSIZE)

    # -- charging

    def test_rejected_messages_use_up_the_row(self) -> None:
        """Eight that are too large leave room for none.  CON-005.1"""
        self.assertEqual(self.run_of(APART, 51, 8), [OVERSIZE] * 8)
        self.assertIsNot(self.limiter.admit(APART, 1), ACCEPT)

    def test_rejected_messages_use_up_the_aggregate(self) -> None:
        """What one opcode wastes, another lacks.  CON-005.1"""
        self.run_of(SHARED, 101, 7)
        self.assertIs(self.limiter.admit(FLOOD, 1), DROP)

    def test_outbound_side_of_the_deployed_limiters_charges_what_it_admits(self) -> None:
        """With ``charge_rejected`` off a rejected message leaves no trace.  CON-005.1"""
        self.limiter = InboundLimiter(SMALL_ROWS, now=self.time, charge_rejected=False)
        self.assertEqual(self.run_of(SHARED, 101, 20), [OVERSIZE] * 20)
        self.assertEqual(self.run_of(SHARED, 0, 20), [ACCEPT] * 4 + [DROP] * 16)
        self.assertEqual(self.run_of(FLOOD, 0, 3), [ACCEPT] * 3)

    # -- windows

    def test_window_begins_at_multiples_of_a_minute(self) -> None:
        """What was used at 659.999 s is free again at 660 s, whenever the first came.  CON-005"""
        self.time.seconds = 659.999
        self.assertEqual(self.run_of(SHARED, 0, 5), [ACCEPT] * 4 + [DROP])
        self.time.seconds = 660.0
        self.assertEqual(self.run_of(SHARED, 0, 5), [ACCEPT] * 4 + [DROP])
        self.time.seconds = 719.999
        self.assertIsNot(self.limiter.admit(SHARED, 0), ACCEPT)

    def test_aggregate_begins_again_with_the_window(self) -> None:
        """The shared budget is a minute's too.  CON-005"""
        self.run_of(FLOOD, 0, 7)
        self.assertIs(self.limiter.admit(SHARED, 0), DROP)
        self.time.seconds += 60
        self.assertIs(self.limiter.admit(SHARED, 0), ACCEPT)

    # -- penalties

    def test_excess_up_to_a_quarter_costs_nothing(self) -> None:
        """Nine and ten of eight are dropped, the eleventh is charged to the peer.  RL-103-X"""
        self.limiter = InboundLimiter(tuple(row(8, 50, 10_000) for _ in range(256)), now=self.time)
        self.assertEqual(self.run_of(43, 0, 11), [ACCEPT] * 8 + [DROP] * 2 + [PENALIZE])

    def test_excess_of_bytes_up_to_a_quarter_costs_nothing(self) -> None:
        """250 bytes of 200 are dropped, 251 are charged to the peer.  RL-103-X"""
        self.limiter = InboundLimiter(tuple(row(100, 200, 200) for _ in range(256)), now=self.time)
        self.assertEqual(
            [self.limiter.admit(43, n) for n in (200, 50, 1)], [ACCEPT, DROP, PENALIZE]
        )

    def test_excess_of_the_aggregate_up_to_a_quarter_costs_nothing(self) -> None:
        """Eight of seven are dropped, the ninth is charged to the peer.  RL-103-X"""
        rows = tuple(row(100, 100, 10_000, True) for _ in range(256))
        self.limiter = InboundLimiter(rows, now=self.time)
        verdicts = self.run_of(43, 0, 4) + self.run_of(26, 0, 5)
        self.assertEqual(verdicts, [ACCEPT] * 7 + [DROP, PENALIZE])

    def test_forwarded_messages_in_the_aggregate_are_not_held_against_the_peer(self) -> None:
        """However many peaks it forwards, its own request is only dropped.  RL-104-X"""
        rows = tuple(row(100, 100, 10_000, True) for _ in range(256))
        self.limiter = InboundLimiter(rows, now=self.time)
        self.run_of(FLOOD, 0, 50)
        self.assertEqual(self.run_of(43, 0, 9), [DROP] * 8 + [PENALIZE])

    def test_opcodes_outside_the_aggregate_do_not_count_towards_its_abuse(self) -> None:
        """A sum over the aggregate's own opcodes.  RL-103-X"""
        rows = tuple(row(100, 100, 10_000, opcode != 45) for opcode in range(256))
        self.limiter = InboundLimiter(rows, now=self.time)
        self.run_of(45, 0, 100)
        self.run_of(FLOOD, 0, 50)
        self.assertIs(self.limiter.admit(43, 0), DROP)

    def test_flood_and_transactions_are_never_charged_for_their_rate(self) -> None:
        """A peak, a new transaction, an attestation, a pushed block: any number.  RL-104-X"""
        rows = tuple(row(1, 100, 100) for _ in range(256))
        for opcode in (20, 21, 27, 32, 34, 92, 200, 201, 202, 207, 208, 240):
            self.limiter = InboundLimiter(rows, now=self.time)
            self.assertEqual(self.run_of(opcode, 1, 500), [ACCEPT] + [DROP] * 499, opcode)
        for opcode in (22, 23, 26, 30, 43, 199, 203, 211, 214, 218, 255):
            self.limiter = InboundLimiter(rows, now=self.time)
            self.assertEqual(self.run_of(opcode, 1, 3), [ACCEPT, PENALIZE, PENALIZE], opcode)

    def test_flood_is_charged_for_its_size(self) -> None:
        """Whoever forwards what is too large has not looked at it.  RL-104-X"""
        self.assertIs(self.limiter.admit(FLOOD, 101), OVERSIZE)
        self.run_of(FLOOD, 0, 100)
        self.assertIs(self.limiter.admit(FLOOD, 101), OVERSIZE)

    def violate(self, windows: int) -> list[Verdict]:
        """Flood too much in so many windows, one after the other; the last verdict of each."""
        verdicts = []
        for _ in range(windows):
            verdicts.append(self.run_of(FLOOD, 0, 7)[-1])
            self.time.seconds += 60
        return verdicts

    def test_fiftieth_window_of_flood_in_a_row_ends_the_session(self) -> None:
        """49 windows in violation are borne; from the 50th on it is enough.  RL-104-X"""
        self.assertEqual(self.violate(52), [DROP] * 49 + [DISCONNECT] * 3)

    def test_quiet_window_forgives_the_flood(self) -> None:
        """A window without an excess, or without anything, starts the count again.  RL-104-X"""
        self.violate(49)
        self.run_of(FLOOD, 0, 5)
        self.time.seconds += 60
        self.assertEqual(self.violate(49), [DROP] * 49)
        self.time.seconds += 60
        self.assertEqual(self.violate(50), [DROP] * 49 + [DISCONNECT])

    def test_windows_count_once(self) -> None:
        """Many excesses in one window are one violation.  RL-104-X"""
        self.assertEqual(set(self.run_of(FLOOD, 0, 1000)), {ACCEPT, DROP})

    def test_excess_of_requests_does_not_count_as_flood(self) -> None:
        """It is punished by itself.  RL-104-X"""
        for _ in range(60):
            self.assertIs(self.run_of(SHARED, 0, 5)[-1], DROP)
            self.time.seconds += 60

    # -- counters

    def test_drops_are_counted_by_opcode_and_kind(self) -> None:
        """For statistics; they outlive the windows.  STA-101-X"""
        self.run_of(APART, 0, 10)
        self.run_of(FLOOD, 101, 2)
        self.time.seconds += 60
        self.run_of(APART, 0, 9)
        self.assertEqual(self.limiter.dropped, {APART: 3})
        self.assertEqual(self.limiter.oversized, {FLOOD: 2})


class OutboundLimits(SmallRows):
    """When a message may go."""

    def setUp(self) -> None:
        super().setUp()
        self.limiter = self.make(1.0)

    def make(self, factor: float) -> OutboundLimiter:
        return OutboundLimiter(SMALL_ROWS, now=self.time, factor=factor)

    def send(self, opcode: int, size: int, limit: int = 100) -> int:
        """Send equal messages until one has to wait; how many went."""
        sent = 0
        while sent < limit and self.limiter.delay(opcode, size) == 0:
            self.limiter.charge(opcode, size)
            sent += 1
        return sent

    def test_count_goes_up_to_the_row(self) -> None:
        """Eight of eight.  CON-005.3"""
        self.assertEqual(self.send(APART, 0), 8)

    def test_total_goes_up_to_the_row(self) -> None:
        """200 bytes of 200, then not one.  CON-005.3"""
        self.assertEqual(self.send(APART, 50), 4)
        self.assertGreater(self.limiter.delay(APART, 1), 0)
        self.assertEqual(self.limiter.delay(APART, 0), 0)

    def test_factor_scales_count_and_total(self) -> None:
        """Six tenths of eight messages are four, of 200 bytes 120.  RL-103-X"""
        self.limiter = self.make(0.6)
        self.assertEqual(self.send(APART, 0), 4)
        self.limiter = self.make(0.6)
        self.assertEqual(self.send(APART, 40), 3)
        self.assertGreater(self.limiter.delay(APART, 1), 0)

    def test_factor_scales_the_aggregate(self) -> None:
        """Six tenths of seven messages are four, whichever they are.  RL-103-X"""
        self.limiter = self.make(0.6)
        self.assertEqual(self.send(SHARED, 0, 2) + self.send(FLOOD, 0), 4)
        self.assertGreater(self.limiter.delay(SHARED, 0), 0)
        self.assertEqual(self.limiter.delay(APART, 0), 0)

    def test_aggregate_total_is_shared(self) -> None:
        """400 bytes of two opcodes; the third's row has nothing to do with it.  CON-005"""
        self.assertEqual(self.send(SHARED, 100, 2) + self.send(FLOOD, 100, 2), 4)
        self.assertGreater(self.limiter.delay(FLOOD, 1), 0)
        self.assertEqual(self.limiter.delay(FLOOD, 0), 0)

    def test_single_size_is_not_scaled(self) -> None:
        """49 and 50 bytes of 50 can be sent at any factor, 51 never.  CON-005.3"""
        limiter = self.make(0.01)
        self.assertEqual([limiter.can_ever(APART, n) for n in (49, 50, 51)], [True, True, False])
        self.assertTrue(limiter.can_ever(199, M))
        self.assertFalse(limiter.can_ever(199, M + 1))

    def test_tiny_factor_lets_one_message_go(self) -> None:
        """A share of less than one message is one, alone in its minute.  CON-005.3"""
        self.limiter = self.make(0.01)
        self.assertEqual(self.send(SHARED, 100), 1)
        self.assertGreater(self.limiter.delay(FLOOD, 0), 0)
        self.time.seconds += 60
        self.assertGreater(self.limiter.delay(SHARED, 100), 0)
        self.time.seconds += 5
        self.assertEqual(self.send(SHARED, 100), 1)

    def test_endless_row_is_free(self) -> None:
        """Any number goes, at any factor.  CON-005"""
        self.limiter = self.make(0.01)
        self.assertEqual(self.send(ENDLESS, 70, 5000), 5000)

    def test_message_counts_until_its_bucket_is_a_minute_old(self) -> None:
        """Sent at 602 s, in the bucket that ends at 605, it is free again at 665.  RL-103-X"""
        self.time.seconds = 602.0
        self.send(APART, 0)
        self.time.seconds = 664.999
        self.assertGreater(self.limiter.delay(APART, 0), 0)
        self.time.seconds = 665.0
        self.assertEqual(self.limiter.delay(APART, 0), 0)

    def test_delay_is_the_time_until_enough_is_free(self) -> None:
        """A large message waits for more buckets than a small one.  CON-005.3"""
        for self.time.seconds in (600.0, 610.0, 620.0):
            self.assertEqual(self.send(APART, 50, 1), 1)
        self.limiter.charge(APART, 40)
        self.assertEqual(self.limiter.delay(APART, 10), 0)
        for size, at in ((11, 665), (50, 665)):
            self.assertEqual(self.limiter.delay(APART, size), at - 620)
        self.limiter.charge(APART, 10)
        self.assertEqual(self.limiter.delay(APART, 50), 665 - 620)
        self.limiter.charge(APART, 50)  # a reply that could not wait
        self.assertEqual(self.limiter.delay(APART, 50), 675 - 620)

    def test_buckets_return_what_was_spent_in_them(self) -> None:
        """50 bytes every 5 s; a minute later they come back in the same steps.  RL-103-X"""
        for start, limit in ((600.0, 1), (665.0, 2)):
            for step in range(4):
                self.time.seconds = start + 5 * step
                self.assertEqual(self.send(APART, 50, limit), 1)
            self.assertEqual(self.send(APART, 1), 0)

    def test_delay_waits_for_the_open_bucket_if_it_must(self) -> None:
        """Everything was spent just now.  CON-005.3"""
        self.send(APART, 50)
        self.assertEqual(self.limiter.delay(APART, 50), 65)

    def test_delay_waits_for_row_and_aggregate(self) -> None:
        """The later of the two.  CON-005.3"""
        self.send(SHARED, 0, 4)
        self.time.seconds += 30
        self.send(FLOOD, 0)
        self.assertEqual(self.limiter.delay(SHARED, 0), 35)
        self.assertEqual(self.limiter.delay(FLOOD, 100), 35)
        self.assertEqual(self.limiter.delay(199, 0), 0)

    def test_charge_without_asking_is_charged(self) -> None:
        """Also when it is the first of its opcode or of its bucket.  CON-005.1"""
        for _ in range(8):
            self.limiter.charge(APART, 0)
        self.assertGreater(self.limiter.delay(APART, 0), 0)
        self.time.seconds += 10
        self.limiter.charge(SHARED, 0)
        self.time.seconds += 55
        self.assertEqual(self.limiter.delay(APART, 0), 0)

    def test_asking_spends_nothing(self) -> None:
        """A question is free, a hundred are.  CON-005.1"""
        for _ in range(100):
            self.assertEqual(self.limiter.delay(APART, 50), 0)

    def test_greedy_sender_reaches_most_of_its_share_and_no_more(self) -> None:
        """Whatever goes, at steps of a third of a second: 60/65 of the row.  RL-103-X"""
        sent: list[float] = []
        while self.time.seconds < 600 + 1300:
            sent += [self.time.seconds] * self.send(APART, 0)
            self.time.seconds += 1 / 3
        for start in sent:
            self.assertLessEqual(sum(start <= at < start + 60 for at in sent), 8)
        self.assertEqual(len(sent), 8 * 1300 / 65)


class Bounds(SynchronousTestCase):
    """Traffic of every opcode, for hours, takes no more memory than for minutes."""

    def growth(self, minute: Callable[[], None]) -> int:
        """Bytes that ten minutes more add once three minutes have passed."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        sizes = []
        for minutes in (3, 10):
            for _ in range(minutes):
                minute()
            sizes.append(tracemalloc.get_traced_memory()[0])
        return sizes[1] - sizes[0]

    def test_inbound_limiter_forgets_with_the_window(self) -> None:
        """256 opcodes, all of them too large.  D14"""
        time = ManualTime()
        limiter = InboundLimiter(receive_rows(is_chia=True, both_v2=True), now=time)

        def minute() -> None:
            time.seconds += 60
            for opcode in range(256):
                limiter.admit(opcode, 200 * M)

        self.assertLess(self.growth(minute), 20_000)

    def test_outbound_limiter_forgets_old_buckets(self) -> None:
        """256 opcodes, spent in every bucket.  D14"""
        time = ManualTime()
        limiter = OutboundLimiter(send_rows(both_v2=True), now=time, factor=1.0)

        def minute() -> None:
            for _ in range(12):
                time.seconds += 5
                for opcode in range(256):
                    limiter.charge(opcode, 300)

        self.assertLess(self.growth(minute), 20_000)


class RealTables(SynchronousTestCase):
    """The rows as sessions get them."""

    def test_rust_sender_across_two_of_our_windows_is_not_charged(self) -> None:
        """Its windows at 0.6 put 1.2 of a row into one of ours: no penalty.  RL-103-X"""
        theirs, ours = ManualTime(0.0), ManualTime(0.0)
        sender = InboundLimiter(
            tuple({**SDK_V2, **DIG_ROWS}.get(n, DEFAULT_ROW) for n in range(256)),
            now=theirs,
            factor=0.6,
            charge_rejected=False,
        )
        receiver = InboundLimiter(receive_rows(is_chia=False, both_v2=True), now=ours)
        verdicts = []
        for theirs.seconds in (59.0, 60.0):
            ours.seconds = theirs.seconds + 30
            for _ in range(300):
                if sender.admit(26, 1) is ACCEPT:
                    verdicts.append(receiver.admit(26, 1))
        self.assertEqual(verdicts, [ACCEPT] * 200 + [DROP] * 40)

    def test_aggregate_of_the_tables_is_a_thousand_messages(self) -> None:
        """1000 pass between opcodes that are far from their own limits; not the next.  CON-005"""
        limiter = InboundLimiter(receive_rows(is_chia=True, both_v2=True), now=ManualTime())
        for opcode in (69, 70, 71, 72):
            for _ in range(250):
                self.assertIs(limiter.admit(opcode, 0), ACCEPT)
        self.assertIs(limiter.admit(73, 0), DROP)
        self.assertEqual(AGGREGATE.count, 1000)
