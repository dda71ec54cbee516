"""Which addresses are dialed next."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.backoff import DialBackoff
from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.anchors import choose_anchors, decode_anchors, encode_anchors
from dig_gossip.discovery.diversity import Diversity, Link
from dig_gossip.discovery.planner import Plan, Planner, Purpose, World
from dig_gossip.discovery.seeding import SeedingSchedule, feeler_delay
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.types.peer import PeerAddress

EPOCH = 1_767_225_600.0


def address(number: int, host: int = 1) -> PeerAddress:
    """An address in the group of this number."""
    return PeerAddress(f"{20 + number // 256}.{number % 256}.0.{host}", 9444)


class PlannerCase(SynchronousTestCase):
    """A planner with a book that can be filled, and a world that can be changed."""

    def setUp(self) -> None:
        self.time = 10_000.0
        self.rng = random.Random(7)
        self.excluded: set[PeerAddress] = set()
        self.backoff = DialBackoff(now=lambda: self.time, rng=self.rng)
        self.book = AddressManager(rng=self.rng, unix=self.unix, key=bytes(32))
        self.diversity = Diversity(target=8)
        self.outbound: list[PeerAddress] = []
        self.dialing: set[PeerAddress] = set()
        self.occupied: set[PeerAddress] = set()
        self.planner = self.make()

    def unix(self) -> float:
        """Simulated Unix time."""
        return EPOCH + self.time

    def make(self, **options: Any) -> Planner:
        """A planner."""
        settings: dict[str, Any] = {
            "target": 8,
            "bootstrap": (),
            "is_excluded": self.excluded.__contains__,
            "unix": self.unix,
            "rng": self.rng,
            **options,
        }
        return Planner(self.book, self.diversity, self.backoff, **settings)

    def know(self, *addresses: PeerAddress) -> None:
        """Put addresses into the book, each from a source of its own."""
        for where in addresses:
            self.book.add_to_new_table([KnownAddress(where, int(self.unix()))], where)

    def world(self) -> World:
        """How things are."""
        return World(
            outbound=tuple(map(Link, self.outbound)),
            dialing=frozenset(self.dialing),
            occupied=frozenset(self.occupied) | frozenset(self.outbound),
        )

    def plan(self) -> Plan:
        """What to do now."""
        return self.planner.plan(self.world())

    def chosen(self) -> list[PeerAddress]:
        """Whom to dial now."""
        return [dial.address for dial in self.plan().dials]


class BookTests(PlannerCase):
    """Candidates from the book."""

    def test_a_cold_start_dials_eight_at_once(self) -> None:
        """Of different groups, each once.  DSC-009, PRF-004"""
        self.know(*(address(n, host) for n in range(40) for host in (1, 2)))
        plan = self.plan()
        hosts = [dial.address for dial in plan.dials]
        self.assertEqual(len(hosts), 8)
        self.assertEqual(len({host.get_group() for host in hosts}), 8)
        self.assertEqual({dial.purpose for dial in plan.dials}, {Purpose.BOOK})
        self.assertFalse(plan.is_exhausted)

    def test_no_more_than_what_is_missing(self) -> None:
        """Sessions and dials count, and eight are under way at most.  DSC-009, DSC-102-X"""
        self.know(*map(address, range(200)))
        self.outbound = [address(300 + n) for n in range(5)]
        self.assertEqual(len(self.chosen()), 3)
        self.dialing = {address(400), address(401)}
        self.assertEqual(len(self.chosen()), 1)
        self.dialing |= {address(402)}
        self.assertEqual(self.plan(), Plan((), False))
        self.planner = self.make(target=30)
        self.assertEqual(len(self.chosen()), 5)
        self.planner = self.make(target=0)
        self.assertEqual(self.plan(), Plan((), False))

    def test_groups_of_sessions_and_dials_are_taken(self) -> None:
        """No automatic path is free of the rules.  INT-006, DIV-101-X"""
        self.know(address(1), address(2), address(3))
        self.outbound, self.dialing = [address(1, 9)], {address(2, 9)}
        self.assertEqual({a for _ in range(20) for a in self.chosen()}, {address(3)})

    def test_what_is_occupied_excluded_or_waiting_is_left_alone(self) -> None:
        """Connected, our own or banned, failed a moment ago.  DSC-101-X"""
        self.know(*map(address, range(1, 5)))
        self.occupied = {address(1)}
        self.excluded.add(address(2))
        self.backoff.failed(address(3), retryable=True)
        self.assertEqual({a for _ in range(20) for a in self.chosen()}, {address(4)})

    def test_what_failed_lately_is_the_last_choice(self) -> None:
        """For half an hour; and it sends us to the seeds.  DSC-101-X"""
        self.know(address(1), address(2))
        self.planner = self.make(target=1)
        self.book.attempt(address(1), count_failure=True)
        self.time += 1799
        self.assertEqual({self.chosen()[0] for _ in range(20)}, {address(2)})
        self.occupied = {address(2)}
        plans = [self.plan() for _ in range(20)]
        self.assertEqual({d.address for plan in plans for d in plan.dials}, {address(1)})
        self.assertTrue(all(plan.is_exhausted for plan in plans))
        self.time += 1
        self.assertFalse(any(plan.is_exhausted and plan.dials for plan in [self.plan()] * 20))

    def test_what_was_good_lately_may_be_dialed_again(self) -> None:
        """A try that succeeded is no failure.  DSC-101-X"""
        self.know(address(1))
        self.book.mark_good(address(1))
        self.planner = self.make(target=1)
        self.assertEqual(self.plan().is_exhausted, False)
        self.assertEqual(self.chosen(), [address(1)])

    def test_an_empty_or_useless_book_is_exhausted(self) -> None:
        """Then the seeds are asked.  DSC-006"""
        self.assertEqual(self.plan(), Plan((), True))
        self.know(address(1))
        self.assertEqual((len(self.plan().dials), self.plan().is_exhausted), (1, True))
        self.occupied = {address(1)}
        self.assertEqual(self.plan(), Plan((), True))

    def test_patience_grows_with_the_groups_that_are_connected(self) -> None:
        """10 draws, 25, 50.  DSC-006"""
        draws: list[None] = []
        select = self.book.select_peer

        def counting() -> object:
            draws.append(None)
            return select()

        self.patch(self.book, "select_peer", counting)
        self.know(address(1))
        self.occupied = {address(1)}
        for groups, patience in ((0, 10), (2, 10), (3, 25), (5, 25), (6, 50)):
            draws.clear()
            self.outbound = [address(100 + n) for n in range(groups)]
            self.plan()
            self.assertEqual(len(draws), patience)

    def test_the_fastest_known_candidate_is_preferred(self) -> None:
        """Among four; unknown ones are left to chance.  ADR-011"""
        self.know(address(1), address(2))
        self.planner = self.make(target=1)
        self.planner.score_known(address(1), 0.5)
        self.planner.score_known(address(2), 0.1)
        picks = [self.chosen()[0] for _ in range(100)]
        self.assertGreater(picks.count(address(1)), 80)
        self.planner = self.make(target=1)
        picks = [self.chosen()[0] for _ in range(100)]
        self.assertTrue(20 < picks.count(address(1)) < 80, picks.count(address(1)))

    def test_ten_thousand_scores_are_remembered(self) -> None:
        """The least recent goes.  ADR-011"""
        for n in range(10_001):
            self.planner.score_known(address(n % 50_000, n // 50_000 + 1), 1.0)
        self.assertEqual(len(self.planner._scores), 10_000)
        self.assertNotIn(address(0), self.planner._scores)


class FixedTests(PlannerCase):
    """Anchors and bootstrap peers."""

    def test_anchors_come_first_and_once(self) -> None:
        """Before anything else, at a restart.  DSC-006"""
        self.know(*map(address, range(20)))
        self.planner = self.make(bootstrap=[address(50)])
        self.planner.come_back_to([address(60), address(61)])
        plan = self.plan()
        self.assertEqual(
            [(dial.address, dial.purpose) for dial in plan.dials[:3]],
            [
                (address(60), Purpose.ANCHOR),
                (address(61), Purpose.ANCHOR),
                (address(50), Purpose.BOOTSTRAP),
            ],
        )
        self.assertEqual(len(plan.dials), 8)
        self.assertNotIn(address(60), self.chosen())

    def test_anchors_take_none_of_the_slots(self) -> None:
        """Whoever has become an anchor does not save himself two of the draws.  DSC-006"""
        self.know(*map(address, range(200)))
        self.planner.come_back_to([address(300), address(301)])
        first = self.chosen()
        self.assertEqual((first[:2], len(first)), ([address(300), address(301)], 8))
        self.dialing = set(first)
        self.assertEqual(self.chosen(), [])  # eight at a time
        self.dialing, self.outbound = set(), list(first)
        self.assertEqual(self.planner.missing(self.world()), 2)
        second = self.chosen()
        self.assertEqual(len(second), 2)
        self.outbound += second
        self.assertEqual((self.chosen(), self.planner.missing(self.world())), ([], 0))
        self.outbound.remove(address(300))  # nobody comes in the place of an anchor
        self.assertEqual(self.chosen(), [])
        self.outbound.remove(second[0])
        self.assertEqual(len(self.chosen()), 1)

    def test_without_a_target_anchors_are_left_alone(self) -> None:
        """The application dials.  CFG-101-X"""
        self.planner = self.make(target=0)
        self.planner.come_back_to([address(60)])
        self.assertFalse(self.planner.has_anchors)
        self.assertEqual(self.plan(), Plan((), False))

    def test_bootstrap_peers_come_again(self) -> None:
        """Whenever one is missing and its pause is over.  DSC-006.1"""
        self.planner = self.make(bootstrap=[address(1), address(2)])
        self.assertEqual(self.chosen(), [address(1), address(2)])
        self.outbound = [address(1)]
        self.backoff.failed(address(2), retryable=True)
        self.assertEqual(self.chosen(), [])
        wait = self.planner.retry_in(self.world())
        assert wait is not None
        self.time += wait
        self.assertEqual(self.chosen(), [address(2)])
        self.assertIsNone(self.planner.retry_in(self.world()))

    def test_bootstrap_peers_pass_the_rules_of_diversity(self) -> None:
        """The first one meets no rule.  DSC-006.1"""
        self.planner = self.make(bootstrap=[address(1, 1), address(1, 2), address(2)])
        self.assertEqual(self.chosen(), [address(1, 1), address(2)])
        self.diversity = Diversity(target=8, exempt=[ipaddress.ip_network("20.1.0.0/16")])
        self.planner = self.make(bootstrap=[address(1, 1), address(1, 2), address(2)])
        self.assertEqual(len(self.chosen()), 3)

    def test_without_a_book_nothing_else_is_dialed(self) -> None:
        """Nor is anything missed.  CFG-101-X"""
        self.know(*map(address, range(20)))
        self.planner = self.make(bootstrap=[address(50)], use_book=False)
        self.assertEqual(self.chosen(), [address(50)])
        self.assertFalse(self.plan().is_exhausted)


class TestDialTests(PlannerCase):
    """Feelers and tests of occupants."""

    def test_a_feeler_tries_out_what_only_others_have_met(self) -> None:
        """The new table, never the tried one.  DSC-008"""
        self.assertIsNone(self.planner.feeler(self.world()))
        self.know(address(1), address(2))
        self.book.mark_good(address(2))
        dials = {self.planner.feeler(self.world()) for _ in range(20)}
        self.assertEqual(
            {(d.address, d.purpose) for d in dials if d}, {(address(1), Purpose.FEELER)}
        )

    def test_a_feeler_leaves_sessions_and_dials_alone(self) -> None:
        """And what failed a moment ago.  DSC-008.1"""
        self.know(address(1))
        self.occupied = {address(1)}
        self.assertIsNone(self.planner.feeler(self.world()))
        self.occupied, self.dialing = set(), {address(1)}
        self.assertIsNone(self.planner.feeler(self.world()))
        self.dialing = set()
        self.backoff.failed(address(1), retryable=False)
        self.assertIsNone(self.planner.feeler(self.world()))

    def test_the_occupant_of_a_wanted_slot_is_tested(self) -> None:
        """If there is one.  FEE-101-X, DSC-102-X"""
        self.assertIsNone(self.planner.collision_test(self.world()))
        tried: list[PeerAddress] = []
        for n in range(6000):
            self.know(address(n))
            self.book.mark_good(address(n))
            if self.book.collision_count:
                break
            tried.append(address(n))
        self.time += 120
        dial = self.planner.collision_test(self.world())
        assert dial is not None
        self.assertEqual(dial.purpose, Purpose.COLLISION)
        self.assertIn(dial.address, tried)
        self.book.attempt(dial.address, count_failure=True)
        self.time += 119
        self.assertIsNone(self.planner.collision_test(self.world()))
        self.time += 1
        self.assertIsNotNone(self.planner.collision_test(self.world()))
        self.occupied = {dial.address}
        self.assertIsNone(self.planner.collision_test(self.world()))


class ScheduleTests(SynchronousTestCase):
    """When seeds are asked, and when feelers go out."""

    def setUp(self) -> None:
        self.time = 5.0
        self.schedule = SeedingSchedule(now=lambda: self.time, rng=random.Random(1))

    def test_rounds_without_news_grow_rare(self) -> None:
        """1 s, 2 s, 4 s … 300 s, give or take a fifth.  DSC-006.3"""
        self.assertEqual(self.schedule.due_in, 0.0)
        for n in range(40):
            self.schedule.failed()
            expected = min(2.0**n, 300)
            self.assertTrue(0.8 * expected <= self.schedule.due_in <= 1.2 * expected)
            self.time += self.schedule.due_in
            self.assertEqual(self.schedule.due_in, 0.0)

    def test_news_begin_anew(self) -> None:
        """Five seconds to dial them, then as at the start.  DSC-006.2, DSC-006.3"""
        for _ in range(9):
            self.schedule.failed()
        self.schedule.succeeded()
        self.assertEqual(self.schedule.due_in, 5.0)
        self.schedule.failed()
        self.assertLessEqual(self.schedule.due_in, 1.2)

    def test_feelers_come_when_nobody_expects_them(self) -> None:
        """Exponential, with the mean of 240 s, clamped.  DSC-008"""
        rng = random.Random(1)
        delays = [feeler_delay(rng, 240) for _ in range(20_000)]
        self.assertTrue(234 < sum(delays) / len(delays) < 246)
        self.assertTrue(all(0.1 <= delay <= 2400 for delay in delays))
        self.assertTrue(0.36 < sum(d > 240 for d in delays) / len(delays) < 0.375)

        class Extreme(random.Random):
            value = 0.0

            def random(self) -> float:
                return self.value

        extreme = Extreme()
        self.assertEqual(feeler_delay(extreme, 240), 0.1)
        extreme.value = 1 - 2**-53
        self.assertEqual(feeler_delay(extreme, 240), 2400)


class AnchorTests(SynchronousTestCase):
    """The two peers that a node comes back to."""

    def test_the_two_oldest_sessions_are_chosen(self) -> None:
        """Old anchors fill up what an outage leaves empty.  DSC-006"""
        a, b, c, d = map(address, range(4))
        self.assertEqual(choose_anchors([(3.0, a), (1.0, b), (2.0, c)], [d]), (b, c))
        self.assertEqual(choose_anchors([(3.0, a)], [d, c]), (a, d))
        self.assertEqual(choose_anchors([(3.0, d)], [d, c]), (d, c))
        self.assertEqual(choose_anchors([], [d, c]), (d, c))
        self.assertEqual(choose_anchors([], []), ())

    def test_a_file_holds_them(self) -> None:
        """Round trip, IPv6 and names included.  DSC-006"""
        for anchors in (
            (),
            (address(1),),
            (PeerAddress("2001:db8::1", 1), PeerAddress("node.example", 65535)),
        ):
            self.assertEqual(decode_anchors(encode_anchors(anchors)), anchors)

    def test_other_files_are_refused(self) -> None:
        """Another version, too many, no addresses.  DSC-006"""
        for bad in (
            b"", b"null", b"[]", b"{}", b'{"version": 2, "anchors": []}', b'{"version": 1}',
            b'{"version": 1, "anchors": ["1.2.3.4:1", "1.2.3.4:2", "1.2.3.4:3"]}',
            b'{"version": 1, "anchors": ["1.2.3.4:0"]}', b'{"version": 1, "anchors": [1]}',
            b'{"version": 1, "anchors": [["1.2.3.4"]]}', b"[" * 100_000, b"\xff",
        ):  # fmt: skip
            self.assertRaises(ValueError, decode_anchors, bad)

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        """They decode or are refused.  style §8.4"""
        try:
            decode_anchors(data)
        except ValueError:
            pass
