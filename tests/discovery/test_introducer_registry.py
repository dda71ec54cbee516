"""What an introducer knows."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.introducer_registry import Registry
from dig_gossip.types.introducer import IntroducerServerConfig, VettedPeer
from dig_gossip.types.peer import NodeType, PeerAddress, parse_peer_id
from dig_gossip.wire.dig import RegisterPeer

NODE = NodeType.FULL_NODE
SOME_ID = parse_peer_id(bytes(range(32)))


class RegistryCase(SynchronousTestCase):
    """A registry on a clock of the test's own."""

    def setUp(self) -> None:
        self.time = 1_000_000.0
        self.registry = self.make()

    def make(self, **options: Any) -> Registry:
        """A registry; what it knows of rates does not get in the way unless asked to."""
        options = {"registrations_per_minute": 1_000_000, "queries_per_minute": 1_000_000} | options
        return Registry(
            IntroducerServerConfig(**options),
            now=lambda: self.time,
            unix=lambda: self.time,
            rng=random.Random(1),
        )

    def fill(self, count: int, *, vetted: bool = True) -> list[PeerAddress]:
        """Register nodes, each at an address of its own."""
        made = []
        for number in range(count):
            address = PeerAddress(f"8.{number // 256}.{number % 256}.1", 9444)
            self.assertTrue(self.register(address.host, address.port))
            made.append(address)
        if vetted:
            self.probe_all()
        return made

    def register(self, host: str, port: int = 9444, ip: str = "") -> bool:
        """Register one node from its own address."""
        return self.registry.register(host, RegisterPeer(ip, port, NODE))

    def probe_all(self, succeed: bool = True) -> list[PeerAddress]:
        """Probe everybody who is due; returns who was."""
        probed = []
        while (address := self.registry.next_probe()) is not None or self.more():
            if address is None:
                continue
            probed.append(address)
            if succeed:
                self.registry.probe_succeeded(address, SOME_ID)
            else:
                self.registry.probe_failed(address)
        return probed

    def more(self) -> bool:
        """Begin another round while nodes have never been probed."""
        if not self.registry.size().new:
            return False
        self.registry.begin_round()
        return True

    def record(self, address: PeerAddress) -> VettedPeer:
        """What is kept of a node."""
        (found,) = [record for record in self.registry.records() if record.address == address]
        return found

    def asked(self, host: str = "9.9.9.9", port: int = 0, peer_id: Any = None) -> set[PeerAddress]:
        """What an answer holds."""
        answer = self.registry.query(host, port, peer_id)
        assert answer is not None
        self.assertEqual(len(set(answer)), len(answer))
        return set(answer)


class AddressTests(RegistryCase):
    """Under which address a node enters."""

    def published(self, host: str, ip: str, port: int = 9444) -> set[str]:
        """Hosts that are known after a registration in a registry of its own."""
        self.registry = self.make()
        self.register(host, port, ip)
        return {record.address.host for record in self.registry.records()}

    def test_the_source_is_what_is_published(self) -> None:
        """Whatever is claimed: nobody is registered by a third party.  ISV-102-X"""
        for claim in ("", "0.0.0.0", "::", "10.0.0.1", "1.2.3.4", "8.8.8.8", "bank.example", "\n"):
            self.assertEqual(self.published("8.8.8.8", claim), {"8.8.8.8"}, claim)

    def test_another_address_of_the_same_64_is_believed(self) -> None:
        """IPv6 hosts leave from one address and listen at another.  ISV-102-X"""
        self.assertEqual(self.published("2600::1", "2600::2"), {"2600::2"})
        self.assertEqual(self.published("2600::1", "2600:0:0:1::2"), {"2600::1"})
        self.assertEqual(self.published("2600::1", "8.8.8.8"), {"2600::1"})

    def test_private_sources_are_declined_on_a_public_introducer(self) -> None:
        """Nobody elsewhere could dial them.  ISV-102-X"""
        for host in ("127.0.0.1", "10.1.1.1", "fe80::1", "::1", "224.0.0.1", "100.64.0.1"):
            self.assertFalse(self.register(host), host)
        self.registry = self.make(allow_private_addresses=True)
        self.assertTrue(self.register("127.0.0.1"))

    def test_ports_node_types_and_onions(self) -> None:
        """A full node with a port; an onion address cannot be vetted here.  ISV-102-X"""
        self.assertFalse(self.register("8.8.8.8", 0))
        self.assertTrue(self.register("8.8.8.8", 1))
        self.assertTrue(self.register("8.8.8.8", 65535))
        self.assertFalse(self.registry.register("8.8.8.8", RegisterPeer("", 1, NodeType.WALLET)))
        self.assertFalse(self.register("8.8.8.8", 1, "a" * 56 + ".onion"))
        self.assertEqual(self.registry.size().nodes, 2)

    def test_a_greeting_registers_a_full_node_that_listens(self) -> None:
        """As Chia's introducers do it.  wire §9"""
        self.registry.greeted("8.8.8.8", NODE, 8444)
        self.registry.greeted("8.8.4.4", NODE, 0)
        self.registry.greeted("8.8.4.4", NodeType.WALLET, 8444)
        self.registry.greeted("127.0.0.1", NODE, 8444)
        known = [record.address for record in self.registry.records()]
        self.assertEqual(known, [PeerAddress("8.8.8.8", 8444)])

    @given(st.text(), st.integers(0, 65535), st.integers(1, 8), st.text())
    def test_any_claim_is_taken_or_declined(
        self, ip: str, port: int, node_type: int, host: str
    ) -> None:
        """And never published as it was claimed.  ISV-102-X"""
        self.registry = self.make()
        self.registry.register("8.8.8.8", RegisterPeer(ip, port, node_type))
        self.registry.register(host, RegisterPeer(ip, port, node_type))
        for record in self.registry.records():
            self.assertIn(record.address.host, {"8.8.8.8", PeerAddress(host, 1).host})


class BoundTests(RegistryCase):
    """How much is kept, and how often somebody may ask."""

    def test_eight_nodes_of_one_address(self) -> None:
        """Seven, eight, and not nine.  ISV-106-X"""
        taken = [self.register("8.8.8.8", port) for port in range(1, 11)]
        self.assertEqual(taken, [True] * 8 + [False] * 2)
        self.assertTrue(self.register("8.8.8.8", 1))  # known already
        self.assertTrue(self.register("8.8.8.9", 9))

    def test_eight_nodes_of_one_ipv6_64(self) -> None:
        """However many addresses it has.  ISV-106-X"""
        taken = [self.register(f"2600::{number:x}") for number in range(1, 11)]
        self.assertEqual(taken, [True] * 8 + [False] * 2)

    def test_a_full_registry_gives_up_unvetted_nodes_only(self) -> None:
        """A flood of registrations does not push out what answers.  ISV-106-X"""
        self.registry = self.make(max_nodes=10)
        vetted = self.fill(10)
        self.assertFalse(self.register("9.0.0.1"))
        self.assertEqual(self.registry.counters["registered.full"], 1)
        self.time += 500
        self.registry.begin_round()
        address = self.registry.next_probe()
        assert address is not None
        self.registry.probe_failed(address)
        self.assertTrue(self.register("9.0.0.1"))
        known = {record.address for record in self.registry.records()}
        self.assertEqual(known, (set(vetted) - {address}) | {PeerAddress("9.0.0.1", 9444)})

    def test_registrations_are_limited_for_each_source(self) -> None:
        """Four a minute.  ISV-106-X"""
        self.registry = self.make(registrations_per_minute=4)
        taken = [self.register("8.8.8.8", 1) for _ in range(6)]
        self.assertEqual(taken, [True] * 4 + [False] * 2)
        self.assertTrue(self.register("8.8.8.9"))

    def test_greetings_cannot_go_around_that_limit(self) -> None:
        """A new port is a registration, a known one is not.  ISV-106-X"""
        self.registry = self.make(registrations_per_minute=4)
        for _ in range(10):
            self.registry.greeted("8.8.8.8", NODE, 1)
        for port in range(2, 9):
            self.registry.greeted("8.8.8.8", NODE, port)
        self.assertEqual(self.registry.size().nodes, 4)

    def test_queries_are_limited_for_each_source(self) -> None:
        """Ten a minute.  ISV-106-X"""
        self.registry = self.make(queries_per_minute=10)
        answers = [self.registry.query("8.8.8.8", 0, None) for _ in range(12)]
        self.assertEqual([answer is None for answer in answers], [False] * 10 + [True] * 2)
        self.assertIsNotNone(self.registry.query("8.8.8.9", 0, None))

    def test_connections_are_limited_for_each_source(self) -> None:
        """Thirty a minute: TLS costs us more than them.  ISV-106-X"""
        taken = [self.registry.may_connect("8.8.8.8") for _ in range(32)]
        self.assertEqual(taken, [True] * 30 + [False] * 2)

    def test_who_does_not_come_back_is_forgotten(self) -> None:
        """After a day, and not before.  ISV-106-X"""
        (gone, back) = self.fill(2)
        self.time += 86_400 - 10
        self.register(back.host, back.port)
        self.registry.begin_round()
        self.assertEqual(self.registry.size().nodes, 2)
        self.time += 20
        self.registry.begin_round()
        self.assertEqual([r.address for r in self.registry.records()], [back])
        self.assertTrue(self.register(gone.host))
        self.assertEqual(self.registry.size().nodes, 2)


class VettingTests(RegistryCase):
    """Who answers."""

    def test_successes_and_failures_are_counted_in_a_row(self) -> None:
        """Up from 0, down from 0, and from one to the other at once.  ISV-103-X, DSC-012"""
        peer = VettedPeer(address=PeerAddress("8.8.8.8", 1))
        up = peer.succeeded(10.0, SOME_ID).succeeded(20.0, SOME_ID)
        self.assertEqual((up.vetted, up.vetted_timestamp, up.last_attempt), (2, 20.0, 20.0))
        down = up.failed(30.0)
        self.assertEqual((down.vetted, down.vetted_timestamp, down.last_attempt), (-1, 20.0, 30.0))
        self.assertEqual(down.failed(40.0).vetted, -2)
        self.assertEqual(down.failed(40.0).succeeded(50.0, None).vetted, 1)

    def test_a_record_is_its_address(self) -> None:
        """Equal and hashed by host and port alone.  API-011"""
        peer = VettedPeer(address=PeerAddress("8.8.8.8", 1))
        self.assertEqual(peer, peer.succeeded(1.0, SOME_ID))
        self.assertEqual(len({peer, peer.failed(1.0)}), 1)
        self.assertNotEqual(peer, VettedPeer(address=PeerAddress("8.8.8.8", 2)))

    def test_registering_again_keeps_what_is_known(self) -> None:
        """Only the time is a new one.  ISV-103-X"""
        (address,) = self.fill(1)
        self.time += 100
        self.register(address.host)
        record = self.record(address)
        self.assertEqual((record.vetted, record.time_added), (1, self.time))
        self.assertEqual(record.vetted_timestamp, self.time - 100)

    def test_a_new_node_is_probed_at_once_and_then_after_a_pause(self) -> None:
        """500 s.  ISV-104-X"""
        (address,) = self.fill(1, vetted=False)
        self.assertEqual(self.registry.next_probe(), address)
        self.assertIsNone(self.registry.next_probe())
        self.time += 499
        self.registry.begin_round()
        self.assertIsNone(self.registry.next_probe())
        self.time += 1
        self.assertEqual(self.registry.next_probe(), address)

    def test_a_round_has_a_hundred_probes(self) -> None:
        """However many wait.  ISV-104-X"""
        self.fill(150, vetted=False)
        self.registry.begin_round()
        probed = [self.registry.next_probe() for _ in range(101)]
        self.assertEqual(probed.count(None), 1)
        self.registry.begin_round()
        rest = [self.registry.next_probe() for _ in range(51)]
        self.assertEqual(rest.count(None), 1)
        self.assertEqual(len({*probed, *rest} - {None}), 150)

    def test_new_nodes_do_not_keep_old_ones_from_their_turn(self) -> None:
        """A flood of registrations gets half of a round.  ISV-104-X"""
        old = self.fill(60)
        self.time += 500
        for number in range(200):
            self.register(f"9.0.{number}.1")
        self.registry.begin_round()
        probed = {self.registry.next_probe() for _ in range(100)}
        self.assertEqual(len(probed & set(old)), 50)

    def test_everybody_gets_a_turn(self) -> None:
        """Whose probe is the longest ago comes next.  ISV-104-X"""
        nodes = set(self.fill(250))
        for _ in range(3):
            self.time += 500
            seen = set()
            for _ in range(3):
                self.registry.begin_round()
                while (address := self.registry.next_probe()) is not None:
                    seen.add(address)
                    self.registry.probe_succeeded(address, None)
            self.assertEqual(seen, nodes)

    def test_a_node_that_comes_back_is_probed_sooner(self) -> None:
        """A minute after a failure: its port may be open by now.  ISV-104-X"""
        (address,) = self.fill(1, vetted=False)
        self.probe_all(succeed=False)
        for seconds, probed in ((59, None), (1, address)):
            self.time += seconds
            self.registry.greeted(address.host, NODE, address.port)
            self.assertEqual(self.registry.next_probe(), probed)
        self.registry.probe_succeeded(address, None)
        self.time += 100
        self.register(address.host)
        self.assertIsNone(self.registry.next_probe())

    def test_seven_failures_in_a_row_are_the_end(self) -> None:
        """Six are not.  ISV-104-X"""
        self.fill(1, vetted=False)
        for _ in range(6):
            self.assertEqual(len(self.probe_all(succeed=False)), 1)
            self.assertEqual(self.registry.size().nodes, 1)
            self.time += 500
            self.registry.begin_round()
        self.probe_all(succeed=False)
        self.assertEqual(self.registry.size().nodes, 0)

    def test_a_success_counts_for_an_hour(self) -> None:
        """Then the node is unknown again until it is probed.  ISV-104-X"""
        (address,) = self.fill(1)
        self.time += 3600
        self.assertEqual(self.asked(), {address})
        self.time += 1
        self.assertEqual(self.asked(), set())
        self.registry.begin_round()
        self.registry.next_probe()
        self.assertEqual(self.record(address).vetted, 0)

    def test_a_probe_that_ends_after_its_node_was_forgotten(self) -> None:
        """Changes nothing.  ISV-104-X"""
        self.registry.probe_succeeded(PeerAddress("8.8.8.8", 1), None)
        self.registry.probe_failed(PeerAddress("8.8.8.8", 1))
        self.assertEqual(self.registry.size().nodes, 0)

    def test_a_clock_that_is_set_back_stops_nothing(self) -> None:
        """Unix time is not monotonic.  ISV-104-X"""
        (address,) = self.fill(1)
        self.time -= 86_400 * 365
        self.registry.begin_round()
        self.assertEqual(self.registry.next_probe(), address)


class AnswerTests(RegistryCase):
    """Who hears of whom."""

    def test_only_vetted_nodes_are_named(self) -> None:
        """What was registered and never found is not published.  ISV-105-X"""
        good = self.fill(3)
        self.register("9.0.0.1")
        bad = self.registry.next_probe()
        assert bad is not None
        self.registry.probe_failed(bad)
        self.register("9.0.0.2")
        self.assertEqual(self.asked(), set(good))

    def test_an_answer_has_at_most_twenty_random_nodes(self) -> None:
        """Not always the same.  ISV-105-X"""
        nodes = self.fill(60)
        answers = [self.asked() for _ in range(5)]
        self.assertEqual({len(answer) for answer in answers}, {20})
        self.assertGreater(len(set(map(frozenset, answers))), 1)
        self.assertTrue(all(answer <= set(nodes) for answer in answers))

    def test_the_requester_is_not_told_of_itself(self) -> None:
        """By its address, or by its key.  ISV-105-X"""
        one, other = self.fill(2)
        self.registry.probe_succeeded(other, parse_peer_id(b"\x07" * 32))
        self.assertEqual(self.asked(one.host, one.port), {other})
        self.assertEqual(self.asked(one.host, 1), {one, other})
        self.assertEqual(self.asked("9.9.9.9", 0, SOME_ID), {other})

    def test_only_those_who_registered_recently_are_named(self) -> None:
        """Within six hours.  ISV-105-X"""
        (address,) = self.fill(1)
        self.time += 21_600
        self.registry.probe_succeeded(address, None)
        self.assertEqual(self.asked(), {address})
        self.time += 1
        self.assertEqual(self.asked(), set())
        self.register(address.host)
        self.assertEqual(self.asked(), {address})


class RestoreTests(RegistryCase):
    """What comes back after a restart."""

    def test_everything_comes_back(self) -> None:
        """State and order.  ISV-106-X"""
        nodes = self.fill(30)
        kept = self.registry.records()
        self.registry = self.make()
        self.assertEqual(self.registry.restore(kept), 30)
        self.assertEqual(self.registry.records(), kept)
        self.assertEqual(self.asked() - set(nodes), set())
        self.assertEqual(self.registry.size().vetted, 30)
        self.time += 500
        self.assertEqual(len(self.probe_all()), 30)

    def test_the_bounds_hold_for_what_comes_back(self) -> None:
        """A file may be of another configuration.  ISV-106-X"""
        many = [VettedPeer(address=PeerAddress("8.8.8.8", n), time_added=1.0) for n in range(1, 20)]
        private = VettedPeer(address=PeerAddress("10.0.0.1", 1), time_added=1.0)
        name = VettedPeer(address=PeerAddress("bank.example", 1), time_added=1.0)
        self.assertEqual(self.registry.restore([*many, *many, private, name]), 8)
        self.registry = self.make(max_nodes=3)
        self.assertEqual(self.registry.restore(many), 3)

    def test_times_from_the_future_are_cut(self) -> None:
        """A node must not stay for years because a clock was wrong.  ISV-106-X"""
        record = VettedPeer(address=PeerAddress("8.8.8.8", 1), time_added=self.time * 2)
        self.registry.restore([record])
        self.time += 86_401
        self.registry.begin_round()
        self.assertEqual(self.registry.size().nodes, 0)
