"""The address book, event by event."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable
from random import Random, SystemRandom

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.slots import NEW_SLOTS, TRIED_SLOTS
from dig_gossip.discovery.values import (
    DAY,
    HOUR,
    AddressBook,
    ExtendedPeerInfo,
    KnownAddress,
)
from dig_gossip.errors import AddressManagerStore
from dig_gossip.types.peer import PeerAddress
from tests.types.test_ip import ONION
from tests.vectors import load

NOW = 1_700_000_000
KEY = bytes(range(32))
SOURCE = PeerAddress("9.9.9.9", 9444)


def address(number: int, port: int = 9444) -> PeerAddress:
    """One of many routable addresses in many groups."""
    return PeerAddress(f"{20 + number % 50}.{number // 50 % 250}.{number // 12500}.1", port)


def onion(number: int) -> PeerAddress:
    """One of many onion services."""
    key = number.to_bytes(32, "big")
    checksum = hashlib.sha3_256(b".onion checksum" + key + b"\x03").digest()[:2]
    host = base64.b32encode(key + checksum + b"\x03").decode().lower()
    return PeerAddress(f"{host}.onion", 9444)


class ManagerCase(SynchronousTestCase):
    """A book with a fixed key, a seeded chance and a clock that stands still."""

    def setUp(self) -> None:
        self.now = NOW
        self.manager = self.make()

    def make(self, *, allow_private: bool = False, allow_onion: bool = False) -> AddressManager:
        """An empty book.  ADR-022-X: the key is pinned."""
        return AddressManager(
            rng=Random(5),
            unix=lambda: float(self.now),
            key=KEY,
            allow_private=allow_private,
            allow_onion=allow_onion,
            is_excluded=lambda address: address.host == "66.66.66.66",
        )

    def add(
        self,
        *addresses: PeerAddress,
        age: int = 0,
        source: PeerAddress | str = SOURCE,
        penalty: int = 0,
    ) -> int:
        """Somebody tells of addresses last heard of ``age`` seconds ago."""
        known = [KnownAddress(address, self.now - age) for address in addresses]
        return self.manager.add_to_new_table(known, source, penalty)

    def entry(self, address: PeerAddress) -> ExtendedPeerInfo:
        """An entry that must be there."""
        info = self.manager.get(address)
        assert info is not None, f"{address} is not in the book"
        return info

    def fail_often(self, address: PeerAddress, times: int) -> None:
        """Dials fail, each after a success with somebody else."""
        for _ in range(times):
            self.now += 1
            self.manager.mark_good(PeerAddress("4.4.4.4", 1))
            self.now += 1
            self.manager.attempt(address, count_failure=True)

    def rivals(self) -> tuple[PeerAddress, PeerAddress]:
        """Two addresses that want the same tried slot; both are in the new table."""
        found: dict[int, PeerAddress] = {}
        for number in range(1, 255):
            candidate = PeerAddress(f"8.8.8.{number}", 9444)
            slot = self.manager._tried_slot(candidate)
            if slot in found:
                self.add(found[slot], source=address(1))
                self.add(candidate, source=address(2))
                return found[slot], candidate
            found[slot] = candidate
        raise AssertionError("no collision among 254 addresses")


class AcceptingTests(ManagerCase):
    """What may enter at all."""

    def test_unacceptable_addresses_are_ignored(self) -> None:
        """Private, absurd, portless and excluded addresses, names and junk.  ADR-003"""
        for host in (
            "10.0.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "100.64.0.1",
            "169.254.1.1", "192.168.1.1", "::1", "fe80::1", "ff02::1", "2002:808:808::1",
            "::8.8.8.8", "seed.example.com", "localhost", "", "8.8.8", "08.8.8.8", "8.8.8.8.",
            "x" * 100_000, "٣.3.3.3", "8.8.8.8\n6.6.6.6", ONION, "66.66.66.66",
        ):  # fmt: skip
            self.assertEqual(self.add(PeerAddress(host, 9444)), 0, host)
        self.assertEqual(self.add(PeerAddress("8.8.8.8", 0)), 0)
        self.assertEqual(self.manager.size(), 0)

    def test_ports_from_1_to_65535_are_accepted(self) -> None:
        """Both ends of the range.  ADR-003"""
        self.assertEqual(self.add(address(1, 1), address(2, 65535)), 2)

    def test_private_addresses_enter_where_they_are_allowed(self) -> None:
        """Ports of one private host are independent; nonsense stays out.  ADR-003, ADR-004-X"""
        self.manager = self.make(allow_private=True)
        local = [PeerAddress("127.0.0.1", port) for port in (1, 2, 3)]
        nonsense = [PeerAddress(host, 1) for host in ("0.0.0.0", "::", "224.0.0.1", "ff02::1", "x")]
        self.assertEqual(self.add(*local, *nonsense), 3)

    def test_onion_addresses_enter_where_they_are_allowed(self) -> None:
        """One entry for each onion service, whatever the port.  ADR-003, TOR-103-X"""
        self.manager = self.make(allow_onion=True)
        broken = PeerAddress("3" + ONION[1:], 1)
        self.assertEqual(self.add(PeerAddress(ONION, 1), PeerAddress(ONION, 2), broken), 1)

    def test_known_address_is_not_counted_as_new(self) -> None:
        """The number returned is that of addresses not known before.  ADR-006"""
        self.assertEqual(self.add(address(1), address(2), address(1)), 2)
        self.assertEqual(self.add(address(1), address(3)), 1)

    def test_a_name_is_a_source_with_a_group_of_its_own(self) -> None:
        """What a seed tells lies in its share of the table.  ADR-007"""
        self.add(address(1), source="seed.example.com")
        self.assertEqual(self.entry(address(1)).source, PeerAddress("seed.example.com", 0))


class SecondPortTests(ManagerCase):
    """One routable host, one entry."""

    def test_second_port_is_ignored_while_the_first_is_in_good_standing(self) -> None:
        """Unlimited ports would let one host fill the book.  ADR-004-X"""
        self.assertEqual(self.add(address(1, 1)), 1)
        self.assertEqual(self.add(*(address(1, port) for port in range(2, 60))), 0)
        self.assertEqual(self.manager.size(), 1)

    def test_second_port_replaces_a_terrible_entry(self) -> None:
        """A host that moved to another port is found again.  ADR-004-X"""
        self.add(address(1, 1))
        self.now += 31 * DAY
        self.assertEqual(self.add(address(1, 2)), 1)
        self.assertIsNone(self.manager.get(address(1, 1)))
        self.assertEqual(self.manager.size(), 1)

    def test_the_host_itself_corrects_its_port(self) -> None:
        """A wrong port spread by others does not keep the right one out.  ADR-004-X"""
        self.add(address(1, 1))
        self.assertEqual(self.add(address(1, 2), source=address(1, 50_000)), 1)
        self.assertIsNone(self.manager.get(address(1, 1)))

    def test_nobody_replaces_a_port_that_we_have_reached(self) -> None:
        """Another process on the host cannot take over a peer's entry.  ADR-004-X"""
        self.add(address(1, 1))
        self.manager.mark_good(address(1, 1))
        self.assertEqual(self.add(address(1, 2), source=address(1, 50_000)), 0)

    def test_events_need_host_and_port(self) -> None:
        """A success at one port says nothing about another.  ADR-012, ADR-014, ADR-015"""
        self.add(address(1, 1))
        before = self.entry(address(1, 1))
        self.now += DAY
        self.manager.mark_good(address(1, 2))
        self.manager.attempt(address(1, 2), count_failure=True)
        self.manager.connect(address(1, 2))
        self.assertEqual(self.entry(address(1, 1)), before)


class TimestampTests(ManagerCase):
    """When a peer was last heard of."""

    def test_gossip_never_lowers_a_time(self) -> None:
        """An old time for a known address changes nothing.  ADR-005"""
        self.add(address(1))
        for age in (1, HOUR, 29 * DAY, NOW - 1, NOW):
            self.add(address(1), age=age, source=address(7))
            self.assertEqual(self.entry(address(1)).timestamp, NOW)

    def test_fresh_time_counts_after_an_hour(self) -> None:
        """Stored times move when the offer is more than interval and penalty ahead.  ADR-005"""
        for penalty in (0, 7200):
            for ahead, moves in ((HOUR + penalty, False), (HOUR + penalty + 1, True)):
                self.setUp()
                self.add(address(1), age=2 * DAY)
                stored = self.entry(address(1)).timestamp
                self.now = stored + ahead
                self.add(address(1), penalty=penalty)
                expected = stored + ahead - penalty if moves else stored
                self.assertEqual(self.entry(address(1)).timestamp, expected)

    def test_stale_time_counts_after_a_day(self) -> None:
        """An offer that is itself older than a day must be a day ahead.  ADR-005"""
        for age, moves in ((4 * DAY, False), (4 * DAY - 1, True)):
            self.setUp()
            self.add(address(1), age=5 * DAY)
            self.add(address(1), age=age)
            self.assertEqual(self.entry(address(1)).timestamp == NOW - age, moves)

    def test_no_penalty_for_the_word_of_the_host_itself(self) -> None:
        """Who talks of itself was there; who talks of others was not.  ADR-005, PEX-003"""
        self.add(address(1), source=address(1), penalty=7200)
        self.add(address(2), source=address(1), penalty=7200)
        self.assertEqual(self.entry(address(1)).timestamp, NOW)
        self.assertEqual(self.entry(address(2)).timestamp, NOW - 7200)

    def test_unbelievable_times_count_as_five_days_old(self) -> None:
        """The future, zero, the seventies and absurdly large numbers.  ADR-007"""
        offers = [NOW + 601, 0, 99_999_999, 2**64 - 1, NOW + 600, 100_000_000]
        known = [KnownAddress(address(n), offer) for n, offer in enumerate(offers)]
        self.manager.add_to_new_table(known, SOURCE)
        times = [self.entry(address(n)).timestamp for n in range(len(offers))]
        self.assertEqual(times, [NOW - 5 * DAY] * 4 + [NOW + 600, 100_000_000])

    def test_a_live_session_refreshes_every_twenty_minutes(self) -> None:
        """Times do not tell a stranger to whom we are connected.  ADR-015"""
        self.add(address(1))
        for waited, moves in ((20 * 60, False), (20 * 60 + 1, True)):
            self.now = NOW + waited
            self.manager.connect(address(1))
            self.assertEqual(self.entry(address(1)).timestamp != NOW, moves)

    def test_success_does_not_show_in_the_time(self) -> None:
        """A handshake leaves the advertised time alone.  ADR-012"""
        self.add(address(1), age=DAY)
        self.manager.mark_good(address(1))
        self.assertEqual(self.entry(address(1)).timestamp, NOW - DAY)


class QualityTests(ManagerCase):
    """Which entries may go, and which are worth a dial."""

    def test_golden_vectors(self) -> None:
        """Terrible or not, and the chance to be chosen.  ADR-008, ADR-009"""
        seen = 0
        for vector in load("address_buckets.json"):
            if vector["type"] != "peer_quality":
                continue
            info = ExtendedPeerInfo(address(1), SOURCE, **vector["fields"])
            self.assertEqual(info.is_terrible(vector["now"]), vector["is_terrible"], vector["name"])
            chance = info.selection_chance(vector["now"])
            self.assertAlmostEqual(chance, vector["selection_chance"], msg=vector["name"])
            seen += 1
        self.assertGreaterEqual(seen, 13)

    def test_clock_set_back_makes_nothing_negative(self) -> None:
        """A try in the future counts as one just now.  ADR-009"""
        info = ExtendedPeerInfo(address(1), SOURCE, NOW, last_try=NOW + DAY)
        self.assertEqual(info.selection_chance(NOW), 0.01)
        self.assertFalse(info.is_terrible(NOW))

    def test_our_own_outage_is_held_against_nobody(self) -> None:
        """Without a success in between, a second failure does not count.  ADR-014"""
        self.add(address(1))
        self.manager.mark_good(PeerAddress("4.4.4.4", 1))
        for _ in range(5):
            self.now += HOUR
            self.manager.attempt(address(1), count_failure=True)
        self.assertEqual(self.entry(address(1)).num_attempts, 1)
        self.assertEqual(self.entry(address(1)).last_try, self.now)
        self.manager.mark_good(PeerAddress("4.4.4.4", 1))
        self.manager.attempt(address(1), count_failure=False)
        self.assertEqual(self.entry(address(1)).num_attempts, 1)

    def test_cleanup_takes_what_is_old_and_failed_often(self) -> None:
        """Both, not one of them; tried entries stay.  ADR-019"""
        old, failed, both, met = (address(n) for n in range(4))
        self.add(old, both, met)
        self.manager.mark_good(met)
        self.now += 14 * DAY
        self.add(failed)
        for peer in (failed, both, met):
            self.fail_often(peer, 10)
        self.assertEqual(self.manager.cleanup(), 1)
        self.assertIsNone(self.manager.get(both))
        self.assertEqual(self.manager.size(), 3)


class PlacementTests(ManagerCase):
    """Who gets a slot of the new table."""

    def crowd(self) -> tuple[PeerAddress, PeerAddress]:
        """Two addresses that want the same new slot when SOURCE tells of them."""
        found: dict[int, PeerAddress] = {}
        for number in range(1, 255):
            candidate = PeerAddress(f"8.8.8.{number}", 9444)
            slot = self.manager._new_slot(candidate, SOURCE.get_group())
            if slot in found:
                return found[slot], candidate
            found[slot] = candidate
        raise AssertionError("no collision among 254 addresses")

    def test_entry_in_good_standing_keeps_its_slot(self) -> None:
        """A newcomer without another slot is forgotten.  ADR-006"""
        first, second = self.crowd()
        self.assertEqual((self.add(first), self.add(second)), (1, 0))
        self.assertIsNone(self.manager.get(second))

    def test_terrible_entry_loses_its_slot(self) -> None:
        """And is forgotten when it was its last.  ADR-006"""
        first, second = self.crowd()
        self.add(first)
        self.fail_often(first, 3)
        self.now += 120
        self.assertEqual(self.add(second), 1)
        self.assertIsNone(self.manager.get(first))
        self.assertEqual(self.manager.size(), 1)

    def test_entry_with_other_slots_makes_room(self) -> None:
        """A slot matters less to whom has several.  ADR-006"""
        first, second = self.crowd()
        self.add(first)
        for number in range(2000):
            self.now += 1
            self.add(first, source=address(number))
        slots = len(self.entry(first).slots)
        self.assertGreater(slots, 1)
        self.assertEqual(self.add(second), 1)
        self.assertEqual(len(self.entry(first).slots), slots - 1)

    def test_never_more_than_eight_slots(self) -> None:
        """However many sources tell of an address, and however often.  ADR-005, ADR-021-X"""
        self.add(address(1))
        most = 0
        for number in range(30_000):
            self.now += 1
            self.add(address(1), source=address(number % 9000))
            most = max(most, len(self.entry(address(1)).slots))
        self.assertEqual(most, 8)
        self.assertEqual(len(self.manager._new), 8)


class TriedTests(ManagerCase):
    """Peers with whom we had a handshake."""

    def test_handshake_moves_to_the_tried_table(self) -> None:
        """From new to tried; a second time changes the times only.  ADR-012, ADR-013"""
        self.add(address(1))
        for _ in range(2):
            self.now += HOUR
            self.manager.mark_good(address(1))
            info = self.entry(address(1))
            self.assertTrue(info.is_tried)
            self.assertEqual((info.last_success, info.last_try), (self.now, self.now))
            self.assertEqual((self.manager.size_new, self.manager.size_tried), (0, 1))
        self.add(address(1), source=address(9))
        self.assertEqual(self.entry(address(1)).ref_count, 0)

    def test_unknown_address_is_no_entry_but_a_success(self) -> None:
        """A handshake shows that our network works, whoever it was with.  ADR-012"""
        self.manager.mark_good(address(1))
        self.assertEqual(self.manager.size(), 0)
        self.assertEqual(self.manager.snapshot().last_good, NOW)

    def test_occupant_stays_until_it_is_tested(self) -> None:
        """A newcomer waits in the new table.  ADR-012"""
        first, second = self.rivals()
        self.manager.mark_good(first)
        self.manager.mark_good(second)
        self.assertTrue(self.entry(first).is_tried)
        self.assertFalse(self.entry(second).is_tried)
        self.assertEqual(self.manager.select_tried_collision(), self.entry(first))
        self.manager.mark_good(second)
        self.assertEqual(self.manager.collision_count, 1)

    def test_without_a_test_the_occupant_goes_back_to_the_new_table(self) -> None:
        """It is demoted, not forgotten.  ADR-013"""
        first, second = self.rivals()
        self.manager.mark_good(first)
        self.manager.mark_good(second, test_before_evict=False)
        self.assertTrue(self.entry(second).is_tried)
        self.assertEqual(self.entry(first).ref_count, 1)

    def test_full_list_of_collisions_evicts_nobody(self) -> None:
        """Ten may wait; the eleventh changes nothing.  ADR-012"""
        crowds: dict[int, list[PeerAddress]] = {}
        for number in range(1, 255):
            for group in (8, 9, 10):
                candidate = PeerAddress(f"8.{group}.8.{number}", 9444)
                crowds.setdefault(self.manager._tried_slot(candidate), []).append(candidate)
        pairs = [crowd[:2] for crowd in crowds.values() if len(crowd) > 1]
        waiting = 0
        for number, (first, second) in enumerate(pairs):
            self.add(first, second, source=address(number))
            if not (self.manager.get(first) and self.manager.get(second)):
                continue
            self.manager.mark_good(first)
            self.manager.mark_good(second)
            waiting += 1
            self.assertEqual(self.manager.collision_count, min(waiting, 10))
            self.assertTrue(self.entry(first).is_tried)
            self.assertFalse(self.entry(second).is_tried)
        self.assertGreater(waiting, 10)

    def resolve(self, *events: tuple[int, str]) -> tuple[bool, int]:
        """Make a collision, let things happen, decide.

        :param events: seconds to wait, then what becomes of the test of the occupant.
        :returns: whether the newcomer has the slot, and how many still wait.
        """
        self.setUp()
        first, second = self.rivals()
        self.manager.mark_good(first)
        self.now += 5 * HOUR
        self.manager.mark_good(second)
        for seconds, event in events:
            self.now += seconds
            if event == "success":
                self.manager.mark_good(first)
            elif event == "failure":
                self.manager.attempt(first, count_failure=True)
        self.manager.resolve_tried_collisions()
        self.assertNotEqual(self.entry(first).is_tried, self.entry(second).is_tried)
        return self.entry(second).is_tried, self.manager.collision_count

    def test_collisions_are_decided_by_the_test(self) -> None:
        """Success keeps the slot, failure loses it after a minute.  ADR-016"""
        self.assertEqual(self.resolve((0, "success")), (False, 0))
        self.assertEqual(self.resolve((0, "failure"), (60, "")), (False, 1))
        self.assertEqual(self.resolve((0, "failure"), (61, "")), (True, 0))

    def test_untested_occupant_goes_in_the_end(self) -> None:
        """A newcomer whose success is 40 minutes old has waited long enough.  ADR-016"""
        self.assertEqual(self.resolve((40 * 60, "")), (False, 1))
        self.assertEqual(self.resolve((40 * 60 + 1, "")), (True, 0))

    def test_free_slot_is_taken_at_once(self) -> None:
        """The occupant has gone meanwhile.  ADR-016, ADR-017"""
        first, second = self.rivals()
        self.manager.mark_good(first)
        self.manager.mark_good(second)
        self.manager._remove(self.manager._nodes[first])
        self.assertIsNone(self.manager.select_tried_collision())
        self.manager.resolve_tried_collisions()
        self.assertTrue(self.entry(second).is_tried)
        self.assertIsNone(self.manager.select_tried_collision())

    def test_newcomer_that_vanishes_waits_no_more(self) -> None:
        """A collision ends with its entry.  ADR-017"""
        first, second = self.rivals()
        self.manager.mark_good(first)
        self.manager.mark_good(second)
        self.manager._remove(self.manager._nodes[second])
        self.assertEqual(self.manager.collision_count, 0)


class SelectingTests(ManagerCase):
    """Whom to dial, and whom to tell of."""

    def drawn(self, count: int, new_only: bool = False) -> list[PeerAddress]:
        """A number of selections."""
        found = [self.manager.select_peer(new_only) for _ in range(count)]
        return [info.address for info in found if info is not None]

    def test_empty_book_offers_nobody(self) -> None:
        """None, not an endless search.  ADR-010"""
        self.assertIsNone(self.manager.select_peer())
        self.add(address(1))
        self.manager.mark_good(address(1))
        self.assertIsNone(self.manager.select_peer(new_only=True))
        self.assertEqual(self.drawn(1), [address(1)])

    def test_both_tables_have_the_same_chance(self) -> None:
        """One tried peer weighs as much as a hundred others.  ADR-010"""
        self.add(*(address(n) for n in range(100)))
        self.manager.mark_good(address(0))
        self.now += HOUR
        share = self.drawn(2000).count(address(0)) / 2000
        self.assertTrue(0.45 < share < 0.55, share)
        self.assertNotIn(address(0), self.drawn(200, new_only=True))
        self.assertGreater(len(set(self.drawn(2000))), 95)

    def crowd_and_loner(self) -> PeerAddress:
        """A hundred addresses of one group, and one of another."""
        loner = PeerAddress("99.7.1.1", 9444)
        self.add(loner)
        for n in range(1, 101):
            self.add(PeerAddress(f"8.8.8.{n}", 9444), source=address(n))
        self.assertGreater(self.manager.size(), 70)
        return loner

    def test_each_network_has_the_same_chance(self) -> None:
        """Many addresses in one group are drawn no more often than a single one.  ADR-010"""
        loner = self.crowd_and_loner()
        for new_only in (False, True):
            drawn = self.drawn(2000, new_only)
            self.assertTrue(0.45 < drawn.count(loner) / 2000 < 0.55, drawn.count(loner))
            self.assertGreater(len(set(drawn)), 65)
        for n in range(1, 101):
            self.manager.mark_good(PeerAddress(f"8.8.8.{n}", 9444))
        self.manager.mark_good(loner)
        self.now += HOUR
        self.assertEqual({info.address for info in self.tried()} & {loner}, {loner})
        share = self.drawn(4000).count(loner) / 4000
        self.assertGreater(share, 0.25)  # half of the draws of the tried table

    def tried(self) -> list[ExtendedPeerInfo]:
        """Entries of the tried table."""
        return [info for info in self.manager.snapshot().entries if info.is_tried]

    def test_networks_are_what_the_as_table_says(self) -> None:
        """Groups of one AS share a chance; entries follow a new table, a few at a time.  DSC-010"""
        loner = self.crowd_and_loner()
        other = PeerAddress("66.6.6.6", 9444)
        self.manager.follow_as_table(lambda _: 7)
        self.add(other)
        self.assertTrue(0.28 < self.drawn(2000).count(other) / 2000 < 0.39)
        self.manager.regroup()
        self.assertLess(self.drawn(2000).count(other), 100)
        self.manager.follow_as_table({loner: 1, other: 2}.get)
        size = self.manager.size()
        self.manager.regroup(size - 1)
        self.assertIn(7, {network.key for network in self.manager._new.networks})
        self.manager.follow_as_table({loner: 1, other: 2}.get)
        self.manager.regroup(size)
        self.assertEqual({n.key for n in self.manager._new.networks}, {1, 2, b"\x08\x08"})
        self.manager.follow_as_table(None)
        self.manager._remove(self.manager._nodes[other])
        self.manager.regroup()
        self.assertEqual({n.key for n in self.manager._new.networks}, {b"c\x07", b"\x08\x08"})

    def test_a_restored_book_draws_by_network_too(self) -> None:
        """As before the restart, with the table once it is there.  ADR-010, DSC-002"""
        loner = self.crowd_and_loner()
        self.manager = AddressManager.restore(
            self.manager.snapshot(), rng=Random(3), unix=lambda: self.now
        )
        self.assertTrue(0.45 < self.drawn(2000).count(loner) / 2000 < 0.55)
        self.manager.follow_as_table(lambda _: 7)
        self.manager.regroup()
        self.assertLess(self.drawn(2000).count(loner), 100)

    def test_all_onions_are_one_network(self) -> None:
        """They cost nothing, so their number must not count.  ADR-010, DIV-101-X"""
        self.manager = self.make(allow_onion=True)
        self.add(*map(onion, range(50)), address(1))
        self.assertGreater(self.manager.size(), 40)
        self.assertTrue(0.45 < self.drawn(2000).count(address(1)) / 2000 < 0.55)

    def test_failures_and_fresh_tries_are_passed_over(self) -> None:
        """As often as their chance says.  ADR-009, ADR-010"""
        self.add(*(address(n) for n in range(10)))
        for n in range(5):
            self.manager.attempt(address(n), count_failure=False)
        drawn = self.drawn(3000)
        recent = sum(drawn.count(address(n)) for n in range(5)) / len(drawn)
        self.assertTrue(0.004 < recent < 0.04, recent)

    def test_only_hopeless_entries_are_offered_in_the_end(self) -> None:
        """The chance grows with every rejection.  ADR-010"""
        self.add(address(1))
        self.fail_often(address(1), 9)
        self.assertEqual(self.drawn(20), [address(1)] * 20)

    def test_excluded_addresses_are_never_offered(self) -> None:
        """A ban that comes after the entry counts too; the search ends.  ADR-010, ADR-018"""
        banned: set[PeerAddress] = set()
        self.manager = AddressManager(
            rng=Random(5), unix=lambda: self.now, key=KEY, is_excluded=banned.__contains__
        )
        self.add(address(1), address(2))
        banned.add(address(1))
        self.assertEqual(set(self.drawn(50)), {address(2)})
        banned.add(address(2))
        self.assertIsNone(self.manager.select_peer())
        self.assertEqual(self.manager.get_peers(), [])

    def test_answer_is_a_bounded_share(self) -> None:
        """23 % rounded up, 1000 at most, or fewer if asked.  ADR-018"""
        self.assertEqual(self.manager.get_peers(), [])
        for count in (1, 4, 5, 100):
            self.manager = self.make()
            self.add(*(address(n) for n in range(count)))
            sample = self.manager.get_peers()
            self.assertEqual(len(sample), -(-23 * self.manager.size() // 100))
            self.assertEqual(len(set(sample)), len(sample))
        self.assertEqual(len(self.manager.get_peers(maximum=7)), 7)
        for n in range(6000):
            self.add(address(n), source=address(n))
        self.assertGreater(self.manager.size(), 4500)
        self.assertEqual(len(self.manager.get_peers(maximum=5000)), 1000)

    def test_answer_leaves_out_the_terrible(self) -> None:
        """And gets shorter instead of slow when most are.  ADR-018"""
        self.add(*(address(n) for n in range(100)))
        self.now += 30 * DAY + 1
        self.add(address(200))
        self.assertLessEqual(set(self.manager.get_peers()), {KnownAddress(address(200), self.now)})


class HostileListTests(ManagerCase):
    """Lists made to fill, to blind or to slow down."""

    def flood(self, sources: Iterable[PeerAddress], each: int) -> None:
        """Every source tells of many addresses."""
        rng = Random(8)
        for source in sources:
            self.manager.add_to_new_table(
                (
                    KnownAddress(PeerAddress(str_ip(rng.getrandbits(32)), 9444), self.now)
                    for _ in range(each)
                ),
                source,
            )

    def test_one_peer_reaches_a_sixteenth_of_the_table(self) -> None:
        """40 000 addresses from one group end in 64 buckets of 64 slots.  ADR-002"""
        self.flood([SOURCE], 40_000)
        self.assertLessEqual(self.manager.size(), 64 * 64)
        self.assertGreater(self.manager.size(), 3000)

    def test_a_hundred_peers_of_one_network_reach_no_more(self) -> None:
        """The group counts, not the peer.  ADR-002"""
        self.flood([PeerAddress(f"9.9.9.{n}", 9444) for n in range(100)], 200)
        self.assertLessEqual(self.manager.size(), 64 * 64)

    def test_a_hundred_networks_do_not_displace_honest_entries(self) -> None:
        """A full table keeps what is in good standing.  ADR-006, D14"""
        honest = [address(n) for n in range(2000)]
        for n, peer in enumerate(honest):
            self.add(peer, source=address(n % 300))
        there = [peer for peer in honest if self.manager.get(peer)]
        self.flood([PeerAddress(f"{n + 20}.77.1.1", 1) for n in range(100)], 400)
        self.assertEqual([peer for peer in there if not self.manager.get(peer)], [])
        self.assertLessEqual(self.manager.size(), NEW_SLOTS + TRIED_SLOTS)
        self.assertGreater(self.manager.size(), 15_000)


def str_ip(number: int) -> str:
    """Dotted decimal."""
    return ".".join(str(byte) for byte in number.to_bytes(4, "big"))


class KeepingTests(ManagerCase):
    """Snapshots."""

    def book(self) -> AddressBook:
        """A book with something of everything."""
        first, second = self.rivals()
        self.add(*(address(n) for n in range(50)))
        self.manager.mark_good(first)
        self.manager.mark_good(second)
        self.manager.attempt(address(3), count_failure=True)
        return self.manager.snapshot()

    def restore(self, book: AddressBook) -> AddressManager:
        """A manager that continues."""
        return AddressManager.restore(book, rng=Random(6), unix=lambda: self.now)

    def test_restored_manager_continues_exactly(self) -> None:
        """Every field, count and pending collision.  DSC-002.2"""
        book = self.book()
        manager = self.restore(book)
        self.assertEqual(manager.snapshot(), book)
        self.assertEqual(manager.size_tried, 1)
        self.assertEqual(manager.collision_count, 1)
        self.assertEqual(len(manager._new), manager.size_new)

    def test_snapshot_does_not_change_with_the_book(self) -> None:
        """Another thread may read it meanwhile.  DSC-002.3"""
        book = self.book()
        copy = AddressBook(book.key, book.last_good, tuple(book.entries), book.collisions)
        self.now += HOUR
        self.fail_often(address(3), 5)
        self.manager.mark_good(address(4))
        self.assertEqual(book, copy)
        self.assertNotEqual(self.manager.snapshot(), book)

    def test_broken_invariants_are_refused(self) -> None:
        """Doubled addresses, hosts and slots, slots that do not exist, bad keys.  DSC-002.1"""
        book = self.book()
        new = next(info for info in book.entries if not info.is_tried)
        tried = next(info for info in book.entries if info.is_tried)
        free = sorted(set(range(20)) - {s for info in book.entries for s in info.slots})
        for entries in (
            [*book.entries, new],
            [*book.entries, new._replace(address=PeerAddress(new.address.host, 7), slots=(1,))],
            [*book.entries, new._replace(address=address(3000))],
            [*book.entries, new._replace(address=address(3000), slots=(NEW_SLOTS,))],
            [*book.entries, new._replace(address=address(3000), slots=(-1,))],
            [*book.entries, new._replace(address=address(3000), slots=(free[0], free[0]))],
            [*book.entries, new._replace(address=address(3000), slots=tuple(free[:9]))],
            [tried._replace(slots=((tried.slots[0] + 1) % TRIED_SLOTS,))],
            [tried._replace(slots=(*tried.slots, 1))],
        ):
            broken = book._replace(entries=tuple(entries))
            self.assertRaises(AddressManagerStore, self.restore, broken)
        self.assertRaises(AddressManagerStore, self.restore, book._replace(key=bytes(31)))

    def test_entries_in_no_slot_are_dropped(self) -> None:
        """With them the collisions that wait for them.  DSC-002.2"""
        book = self.book()
        entries = tuple(
            info._replace(slots=()) if info.address in book.collisions else info
            for info in book.entries
        )
        manager = self.restore(book._replace(entries=entries))
        self.assertEqual(manager.size(), len(entries) - 1)
        self.assertEqual(manager.collision_count, 0)

    def test_what_may_not_enter_any_more_is_left_out(self) -> None:
        """Private addresses go when the option is turned off.  ADR-003"""
        self.manager = self.make(allow_private=True)
        self.add(address(1), PeerAddress("10.0.0.1", 1))
        self.assertEqual(self.restore(self.manager.snapshot()).size(), 1)

    def test_without_a_key_each_book_makes_its_own(self) -> None:
        """Nobody can compute our buckets from those of another node.  DSC-001"""
        keys = {AddressManager(rng=SystemRandom(), unix=time.time).snapshot().key for _ in range(4)}
        self.assertEqual([len(key) for key in keys], [32] * 4)
