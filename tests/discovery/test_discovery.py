"""Whole nodes that find each other, in memory and in simulated time."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from dig_gossip.discovery.anchor_file import AnchorFile
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.errors import ConnectionFiltered, Io
from dig_gossip.testing.network import MemoryNode
from dig_gossip.types.network import Network
from dig_gossip.types.peer import PeerAddress
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.chia import RespondPeers
from tests.discovery.fake_resolver import FakeResolver
from tests.network_case import NetworkCase

SEEDED = Network("test", b"\1" * 32, dns_introducers=("a.seed.test", "b.seed.test"))


class DiscoveryCase(NetworkCase):
    """Nodes that look for peers."""

    def setUp(self) -> None:
        super().setUp()
        self.resolver = FakeResolver()

    def seeker(self, **options: Any) -> MemoryNode:
        """A node that looks for peers; not started."""
        options = {
            "discovery": True,
            "network": SEEDED,
            "resolver": self.resolver,
            "target_outbound_count": 3,
            **options,
        }
        return self.network.node(**options)

    def seekers(self, count: int, **options: Any) -> list[MemoryNode]:
        """Nodes that look for peers, started; the seeds know the first."""
        nodes = [self.seeker(**options) for _ in range(count)]
        self.resolver.hosts = self.resolver.hosts or [nodes[0].host]
        self.network.start()
        return nodes

    def outbound(self, node: MemoryNode) -> int:
        """How many outbound sessions a node has."""
        return node.service.node.peers.table.outbound_count

    def known(self, node: MemoryNode) -> int:
        """The size of a node's book."""
        return self.network.run(node.handle.stats()).known_addresses

    def book(self, node: MemoryNode) -> Any:  # Any: a part of the node's inside
        """A node's address manager."""
        return node.service.node.discovery.book

    def teach(self, node: MemoryNode, *addresses: PeerAddress) -> None:
        """Put addresses into a node's book."""
        stamp = int(self.network.clock.unix())
        for address in addresses:
            self.book(node).add_to_new_table([KnownAddress(address, stamp)], address)


class SeedingTests(DiscoveryCase):
    """From nothing to a network."""

    def test_two_nodes_and_a_seed_end_connected(self) -> None:
        """The loop is really started.  INT-008"""
        one, two = self.seekers(2)
        self.network.advance(5)
        self.assertEqual(self.peer_ids(two), {bytes(one.peer_id)})
        self.assertEqual(self.peer_ids(one), {bytes(two.peer_id)})
        self.assertIsNotNone(self.book(one).get(two.address))

    def test_a_network_grows_from_one_seed(self) -> None:
        """Ten nodes know one address and reach their target in seconds.  PRF-004, DSC-006"""
        nodes = self.seekers(10)
        self.network.advance(60)
        # The first is known to all, and so has nobody left to dial.
        self.assertEqual([self.outbound(node) for node in nodes[1:]], [3] * 9)
        self.assertEqual(len(self.peer_ids(nodes[0])), 9)
        self.assertTrue(all(self.known(node) >= 4 for node in nodes))

    def test_addresses_spread_through_a_chain(self) -> None:
        """The far end hears of the near one, hop by hop.  PEX-006"""
        quiet = {"target_outbound_count": 0, "max_connections": 20, "network": "dig-mainnet"}
        nodes = [self.seeker(**quiet) for _ in range(5)]
        self.network.start()
        for one, other in itertools.pairwise(nodes):
            self.connect(one, other)
        self.network.advance(120)
        late = self.seeker(**quiet)
        self.network.start()
        self.connect(late, nodes[0])
        self.network.advance(120)
        self.assertIsNotNone(self.book(nodes[4]).get(late.address))

    def test_seeds_are_asked_less_and_less_while_they_know_nothing(self) -> None:
        """1 s, 2 s, 4 s … 300 s.  DSC-006.3"""
        self.resolver.hosts = []
        node = self.seeker()
        self.network.start()
        self.network.advance(70)
        early = len(self.resolver.asked)
        self.assertTrue(10 <= early <= 16, early)  # two names a round
        self.network.advance(3000)
        self.assertTrue(16 <= len(self.resolver.asked) - early <= 36, self.resolver.asked)
        self.assertEqual(self.peer_ids(node), set())

    def test_a_book_of_dead_addresses_asks_the_seeds(self) -> None:
        """Not only an empty one.  DSC-006"""
        alive = self.network.node(network=SEEDED)
        node = self.seeker()
        self.network.start()
        self.resolver.hosts = []
        self.teach(node, *(PeerAddress(f"10.{n}.0.1", 9444) for n in range(200, 220)))
        self.network.advance(60)
        self.resolver.hosts = [alive.host]
        self.network.advance(120)
        self.assertEqual(self.peer_ids(node), {bytes(alive.peer_id)})

    def test_a_resolver_that_hangs_holds_up_nothing(self) -> None:
        """Bootstrap peers are dialed at once; stopping does not wait.  DSC-006.1, DSC-006.4"""
        self.resolver.hangs = True
        hub = self.network.node(network=SEEDED)
        node = self.seeker(bootstrap_peers=[hub.address])
        self.network.start()
        self.network.advance(1)
        self.assertEqual(self.peer_ids(node), {bytes(hub.peer_id)})
        self.network.advance(200)
        self.assertGreater(self.counter(node, "seeding.dns"), 1)
        self.assertGreater(self.resolver.cancelled, 2)

    def test_private_addresses_of_a_seed_are_refused_on_a_public_network(self) -> None:
        """Whatever DNS says.  ADR-003"""
        self.resolver.hosts = ["10.0.0.1", "127.0.0.1", "224.0.0.1"]
        node = self.seeker(allow_private_addresses=False)
        self.network.start()
        self.network.advance(30)
        self.assertEqual(self.known(node), 0)
        self.assertEqual(self.counter(node, "dials.book"), 0)

    def test_a_node_that_must_not_dial_does_not(self) -> None:
        """A target of 0 leaves dialing to the application.  behaviour §2"""
        one = self.seeker(target_outbound_count=0)
        self.resolver.hosts = [one.host]
        two = self.seeker(target_outbound_count=0)
        self.network.start()
        self.network.advance(600)
        self.assertEqual(self.peer_ids(two), set())
        self.assertEqual(self.resolver.asked, [])

    def test_a_node_without_discovery_keeps_to_what_it_was_told(self) -> None:
        """It neither tells nor believes.  CFG-103-X"""
        hub, told, other = (self.network.node(network=SEEDED) for _ in range(3))
        self.network.start()
        self.connect(told, hub)
        self.connect(other, hub)
        answer = self.network.run(told.handle.request_peers_from(hub.peer_id))
        self.assertEqual(answer, RespondPeers([]))
        self.network.advance(300)
        self.assertEqual(len(self.peer_ids(told)), 1)
        self.assertEqual(self.known(hub), 0)


class KeepingTests(DiscoveryCase):
    """Losses, outages, recoveries."""

    def test_a_lost_peer_is_replaced_within_one_interval(self) -> None:
        """A second after the loss is noticed.  DSC-006, DSC-006"""
        nodes = self.seekers(12)
        self.network.advance(60)
        node = nodes[5]
        lost = next(s.peer_id for s in node.service.node.peers.table if s.is_outbound)
        self.network.run(node.handle.disconnect(lost))
        self.network.advance(3)
        self.assertEqual(self.outbound(node), 3)

    def test_half_the_network_dies(self) -> None:
        """The rest refills, from what it knows.  DSC-006"""
        nodes = self.seekers(16, target_outbound_count=2)
        self.network.advance(120)
        self.resolver.hosts = ["10.222.0.1"]
        for node in nodes[:8]:
            self.network.kill(node)
        self.network.advance(600)
        self.assertEqual([self.outbound(node) for node in nodes[8:]], [2] * 8)

    def test_a_total_outage_ends_by_itself(self) -> None:
        """All peers gone, all sources failing; then the world comes back.  DSC-006"""
        nodes = self.seekers(6)
        self.network.advance(60)
        cut = nodes[0]
        self.network.partition({cut.host})
        self.resolver.hangs = True
        self.network.advance(1800)
        self.assertEqual(self.peer_ids(cut), set())
        self.assertEqual(self.network.run(cut.handle.health_check()), None)
        self.network.heal()
        self.network.advance(700)
        self.assertGreaterEqual(len(self.peer_ids(cut)), 3)
        self.assertGreater(self.outbound(cut), 0)

    def test_an_outage_condemns_nobody(self) -> None:
        """Our own failures count once against each.  ADR-014"""
        nodes = self.seekers(6)
        self.network.advance(60)
        cut = nodes[0]
        self.network.partition({cut.host})
        self.network.advance(7200)
        for other in nodes[1:]:
            entry = self.book(cut).get(other.address)
            self.assertLessEqual(entry.num_attempts, 1)

    def test_only_a_verified_handshake_makes_an_address_good(self) -> None:
        """A node of another network is tried, and not believed.  DSC-103-X"""
        stranger = self.network.node(network="chia-mainnet")
        node = self.seeker()
        self.network.start()
        self.teach(node, stranger.address)
        self.network.advance(60)
        entry = self.book(node).get(stranger.address)
        self.assertFalse(entry.is_tried)
        self.assertEqual(entry.last_success, 0)
        self.assertGreater(entry.last_try, 0)

    def test_a_dial_of_the_application_counts_too(self) -> None:
        """Its address is proven, and known from now on.  CON-001.6"""
        hub = self.network.node(network=SEEDED)
        node = self.seeker(target_outbound_count=0)
        self.network.start()
        self.connect(node, hub)
        self.assertTrue(self.book(node).get(hub.address).is_tried)
        self.assertEqual(self.counter(node, "book_tried"), 1)

    def test_the_time_of_a_living_peer_is_refreshed(self) -> None:
        """Every twenty minutes, for outbound peers only.  CNC-005, ADR-015"""
        hub = self.seeker(target_outbound_count=0)
        node = self.seeker(target_outbound_count=1)
        self.resolver.hosts = [hub.host]
        self.network.start()
        self.network.advance(10)
        began = self.book(node).get(hub.address).timestamp
        self.network.advance(3600)
        self.assertGreater(self.book(node).get(hub.address).timestamp, began + 1800)
        inbound = self.book(hub).get(node.address).timestamp
        self.assertLess(inbound, began + 60)

    def test_a_banned_host_is_neither_dialed_nor_told(self) -> None:
        """CON-007.1"""
        nodes = self.seekers(4)
        self.network.advance(60)
        node, bad = nodes[3], nodes[0]
        self.network.run(node.handle.ban_peer(bad.peer_id, PenaltyReason.SPAM, force=True))
        self.network.advance(600)
        self.assertNotIn(bytes(bad.peer_id), self.peer_ids(node))
        self.assertNotIn(bad.address, [known.address for known in self.book(node).get_peers()])

    def test_two_nodes_that_name_each_other_stop_dialing(self) -> None:
        """Connected once is connected.  CON-105-X"""
        hosts = [self.network.host(), self.network.host()]
        pair = [self.seeker(host=hosts[n], bootstrap_peers=[(hosts[1 - n], 9444)]) for n in (0, 1)]
        self.network.start()
        self.network.advance(300)
        for node in pair:
            stats = self.network.run(node.handle.stats())
            self.assertEqual(stats.connected_peers, 1)
            self.assertLessEqual(stats.total_connections, 2)

    def test_a_node_finds_out_its_own_address(self) -> None:
        """And leaves it alone from then on.  DSC-101-X"""
        node = self.seeker(target_outbound_count=1)
        self.network.start()
        self.book(node).add_to_new_table([KnownAddress(node.address, 0)], "liar")
        self.assertIsNone(self.book(node).get(node.address))
        # Under another address, behind a NAT that lets it reach itself.
        disguise = PeerAddress("10.250.0.1", 9444)
        self.network._ports[(disguise.host, 9444)] = self.network._ports[(node.host, 9444)]
        self.teach(node, disguise)
        self.network.advance(3600)
        self.assertEqual(self.counter(node, "opening_failed.outbound.SelfConnection"), 1)
        self.assertEqual(self.counter(node, "dials.book"), 1)
        del self.network._ports[(disguise.host, 9444)]


class DiversityTests(DiscoveryCase):
    """No network may surround a node."""

    def test_the_rule_holds_for_dials_of_the_application(self) -> None:
        """One outbound session in a /16, whoever wants it.  INT-006, CON-001.5"""
        one = self.network.node(host="10.99.0.1")
        two = self.network.node(host="10.99.7.1")
        node = self.network.node()
        self.network.start()
        self.connect(node, one)
        error = self.assertFires(ConnectionFiltered, node.handle.connect_to(two.address))
        self.assertIn("INT-006", str(error))
        self.assertEqual(self.peer_ids(two), set())

    def test_two_dials_at_once_leave_one_session(self) -> None:
        """Those under way count.  DIV-101-X"""
        one = self.network.node(host="10.99.0.1")
        two = self.network.node(host="10.99.7.1")
        node = self.network.node()
        self.network.start()
        dials = [node.handle.connect_to(other.address) for other in (one, two)]
        outcomes = []
        for dial in dials:
            try:
                outcomes.append(bytes(self.network.run(dial)))
            except ConnectionFiltered:
                outcomes.append(b"filtered")
        self.assertEqual(outcomes.count(b"filtered"), 1)
        self.network.advance(1)
        self.assertEqual(len(self.peer_ids(node)), 1)
        self.assertEqual(sum(len(self.peer_ids(other)) for other in (one, two)), 1)

    def test_the_other_direction_is_free(self) -> None:
        """Inbound sessions neither count nor are counted.  DIV-104-X"""
        hosts = [self.network.node(host=f"10.99.{n}.1") for n in range(3)]
        node = self.network.node()
        self.network.start()
        for other in hosts[:2]:
            self.connect(other, node)
        self.connect(node, hosts[2])
        self.assertEqual(len(self.peer_ids(node)), 3)

    def test_a_reconnect_is_exempt(self) -> None:
        """A silent session does not block its own replacement.  DIV-101-X, CON-101-X"""
        one, other = self.connected()
        self.network.cut(one.host, other.host)
        self.network.advance(40)
        self.network.stalled.clear()
        self.network._cut.clear()
        again = self.network.run(one.handle.connect_to(other.address))
        self.assertEqual(again, other.peer_id)

    def test_exempt_networks_have_no_rule(self) -> None:
        """As configured.  CFG-101-X"""
        one = self.network.node(host="10.99.0.1")
        two = self.network.node(host="10.99.7.1")
        node = self.network.node(diversity_exempt_networks=["10.99.0.0/16"])
        self.network.start()
        self.connect(node, one)
        self.connect(node, two)
        self.assertEqual(len(self.peer_ids(node)), 2)

    def test_no_automatic_dial_breaks_the_rule(self) -> None:
        """A crowd in one /16 gets one slot of three.  INT-006"""
        crowd = [self.network.node(host=f"10.99.{n}.1", network=SEEDED) for n in range(6)]
        rest = [self.network.node(network=SEEDED) for _ in range(2)]
        node = self.seeker()
        self.network.start()
        self.teach(node, *(n.address for n in crowd + rest))
        self.network.advance(120)
        self.assertEqual(self.outbound(node), 3)
        held = {bytes(n.peer_id) for n in crowd} & self.peer_ids(node)
        self.assertEqual(len(held), 1)


class AnchorTests(DiscoveryCase):
    """Two peers to come back to."""

    def restarted(self, node: MemoryNode, path: str) -> MemoryNode:
        """The same node, stopped and made again."""
        self.network.run(node.service.stop())
        return self.seeker(host=node.host, peers_file_path=path)

    def test_anchors_are_dialed_first_after_a_restart(self) -> None:
        """In one round trip, and without asking anybody.  DSC-006"""
        path = self.mktemp()
        nodes = self.seekers(8)
        node = self.seeker(peers_file_path=path)
        self.network.start()
        self.network.advance(120)
        oldest = [s.peer_id for s in node.service.node.peers.table if s.is_outbound][:2]
        again = self.restarted(node, path)
        for other in nodes:
            self.assertNotIn(bytes(node.peer_id), self.peer_ids(other))
        self.resolver.hangs = True
        asked = len(self.resolver.asked)
        self.network.start()
        self.network.advance(15 * self.latency)
        self.assertLessEqual({bytes(peer) for peer in oldest}, self.peer_ids(again))
        self.assertEqual(len(self.resolver.asked), asked)
        self.assertEqual(self.counter(again, "dials.anchor"), 2)

    def test_a_crash_keeps_them(self) -> None:
        """They are on disk within half a minute.  DSC-006"""
        path = self.mktemp()
        self.seekers(3)
        node = self.seeker(peers_file_path=path)
        self.network.start()
        self.network.advance(40)
        peers = node.service.node.peers.table
        expected = sorted((s.opened_at, s.address) for s in peers if s.is_outbound)[:2]
        self.assertEqual(
            AnchorFile(f"{path}.anchors").load(), tuple(address for _, address in expected)
        )

    def test_an_outage_keeps_them(self) -> None:
        """Stopping without a session forgets nobody.  DSC-006"""
        path = self.mktemp()
        self.seekers(3)
        node = self.seeker(peers_file_path=path)
        self.network.start()
        self.network.advance(60)
        before = AnchorFile(f"{path}.anchors").load()
        self.assertTrue(before)  # one, or two, by who dialed whom first
        self.network.partition({node.host})
        self.network.advance(300)
        self.network.run(node.service.stop())
        self.assertEqual(AnchorFile(f"{path}.anchors").load(), before)


class StoppingTests(DiscoveryCase):
    """Whatever is under way ends with the node."""

    def test_stopping_while_dials_and_questions_are_under_way(self) -> None:
        """Nothing is left, and nothing is held against anybody.  DSC-006.4, CNC-004"""
        self.resolver.hangs = True
        node = self.seeker(bootstrap_peers=["10.222.0.1:9444"])
        self.network.cut(node.host, "10.222.0.1")
        self.network.start()
        self.network.advance(0.5)
        self.assertEqual(node.service.node.dialer.dials, 1)
        self.network.run(node.service.stop())
        self.assertEqual(self.resolver.cancelled, 2)

    def test_a_node_that_cannot_bind_gives_its_files_back(self) -> None:
        """And may be started again.  API-001.1"""
        other = self.network.node()
        self.network.start()
        node = self.seeker(host=other.host, peers_file_path=self.mktemp())
        self.assertFires(Io, node.service.start())
        self.network.run(other.service.stop())
        self.network.start()
        self.network.advance(1)
        self.assertEqual(self.known(node), 0)


class FeelerTests(DiscoveryCase):
    """Dials that lead to no session."""

    def full(self, **options: Any) -> tuple[MemoryNode, MemoryNode]:
        """A node at its target, and another node that it knows of."""
        hub = self.network.node(network=SEEDED)
        other = self.network.node(network=SEEDED)
        node = self.seeker(target_outbound_count=1, bootstrap_peers=[hub.address], **options)
        self.network.start()
        self.network.advance(1)
        self.teach(node, other.address)
        return node, other

    def test_a_feeler_proves_an_address_and_leaves(self) -> None:
        """No session, no slot, no question, no count.  DSC-008, DSC-008.1, API-008"""
        node, other = self.full()
        self.network.advance(2400)
        self.assertGreaterEqual(self.counter(node, "found.feeler"), 1)
        self.assertTrue(self.book(node).get(other.address).is_tried)
        self.assertEqual(len(self.peer_ids(node)), 1)
        self.assertEqual(self.peer_ids(other), set())
        stats = self.network.run(node.handle.stats())
        self.assertEqual(stats.total_connections, 1)
        there = self.network.run(other.handle.stats())
        self.assertEqual(there.messages_received, 0)
        self.assertEqual(there.extra.get("removed.disconnected"), there.total_connections)

    def test_feelers_wait_until_the_slots_are_full(self) -> None:
        """Candidates are dialed for good first.  DSC-008"""
        nodes = self.seekers(6)
        self.network.advance(10)
        self.assertEqual(sum(self.counter(node, "dials.feeler") for node in nodes), 0)

    def test_a_feeler_that_finds_nobody_counts_as_an_attempt(self) -> None:
        """And makes nobody good.  DSC-008"""
        node, _ = self.full()
        dead = PeerAddress("10.222.0.1", 9444)
        self.teach(node, dead)
        self.network.advance(7200)
        entry = self.book(node).get(dead)
        self.assertEqual(entry.last_success, 0)
        self.assertGreater(entry.num_attempts, 0)
        self.assertGreater(entry.last_try, 0)

    def test_a_stranger_is_not_made_good(self) -> None:
        """A feeler is a verified handshake on our network.  DSC-103-X"""
        node, _ = self.full()
        stranger = self.network.node(network="chia-mainnet")
        self.network.start()
        self.teach(node, stranger.address)
        self.network.advance(3600)
        self.assertFalse(self.book(node).get(stranger.address).is_tried)

    def test_a_connected_peer_is_not_disturbed(self) -> None:
        """Under another address it is recognized before anything is said.  DSC-008.1"""
        node, other = self.full()
        self.connect(other, node)
        session = self.session(node, other)
        disguise = PeerAddress("10.250.0.1", 9444)
        self.network._ports[(disguise.host, 9444)] = self.network._ports[(other.host, 9444)]
        self.teach(node, disguise)
        self.network.advance(3600)
        self.assertGreater(self.counter(node, "dials.feeler"), 0)
        self.assertFalse(self.book(node).get(disguise).is_tried)
        self.assertIs(self.session(node, other), session)
        del self.network._ports[(disguise.host, 9444)]

    def test_the_occupant_of_a_wanted_slot_is_tested(self) -> None:
        """It answers, and keeps the slot; it is dead, and loses it.  FEE-101-X, ADR-016"""
        for is_alive in (True, False):
            node, other = self.full()
            if not is_alive:
                other = MemoryNode(other.service, other.reactor, PeerAddress("10.222.0.1", 9444))
                self.teach(node, other.address)
            book = self.book(node)
            book.mark_good(other.address)
            self.network.advance(5 * 3600)  # long ago enough to be doubted
            rival = self.rival(book, other.address)
            self.network.advance(300)
            self.assertGreaterEqual(self.counter(node, "dials.collision"), 1)
            self.assertEqual(book.get(other.address).is_tried, is_alive)
            self.assertEqual(book.get(rival).is_tried, not is_alive)

    def rival(self, book: Any, occupant: PeerAddress) -> PeerAddress:
        """An address that wants the very slot of another."""
        stamp = int(self.network.clock.unix())
        slot = book.get(occupant).slots[0]
        for n in range(200_000):
            rival = PeerAddress(f"{60 + n % 30}.{n // 30 % 250}.{n // 7500}.1", 9444)
            if book._tried_slot(rival) == slot:
                book.add_to_new_table([KnownAddress(rival, stamp)], rival)
                book.mark_good(rival)
                return rival
        raise AssertionError("no rival found")

    def test_stopping_breaks_a_feeler_off(self) -> None:
        """Nothing is left of it.  CNC-004"""
        node, other = self.full()
        self.network.cut(node.host, other.host)
        for _ in range(4000):
            self.network.advance(1)
            if len(node.service.node.probes):
                break
        self.assertEqual(len(node.service.node.probes), 1)
        probes, book = node.service.node.probes, self.book(node)
        self.network.run(node.service.stop())
        self.assertEqual(len(probes), 0)
        self.assertEqual(book.get(other.address).num_attempts, 0)


class FileTests(DiscoveryCase):
    """What a node remembers while it does not run."""

    def test_the_book_survives_a_restart(self) -> None:
        """Nobody has to be asked.  DSC-002.3, CNC-004.1"""
        path = self.mktemp()
        self.seekers(5)
        node = self.seeker(peers_file_path=path)
        self.network.start()
        self.network.advance(120)
        known, tried = self.known(node), self.counter(node, "book_tried")
        self.network.run(node.service.stop())
        again = self.seeker(host=node.host, peers_file_path=path, target_outbound_count=0)
        self.network.start()
        self.assertEqual((self.known(again), self.counter(again, "book_tried")), (known, tried))
        self.assertGreater(tried, 0)

    def test_the_book_is_saved_from_time_to_time(self) -> None:
        """After the first eight acquaintances, and every half hour.  DSC-002.3"""
        path = self.mktemp()
        node = self.seeker(peers_file_path=path, target_outbound_count=0)
        self.network.start()
        self.network.advance(60)
        self.assertFalse(os.path.exists(path))
        others = [PeerAddress(f"10.{n}.0.1", 9444) for n in range(100, 120)]
        self.teach(node, *others)
        for other in others[:8]:
            self.book(node).mark_good(other)
        self.network.advance(31)
        written = Path(path).read_bytes()
        self.teach(node, PeerAddress("10.130.0.1", 9444))
        self.network.advance(600)
        self.assertEqual(Path(path).read_bytes(), written)
        self.network.advance(1300)
        self.assertNotEqual(Path(path).read_bytes(), written)

    def test_two_nodes_do_not_share_a_book(self) -> None:
        """The second does not start, and may later.  DSC-002.4"""
        path = self.mktemp()
        one = self.seeker(peers_file_path=path)
        self.network.start()
        two = self.seeker(peers_file_path=path)
        self.assertIn("in use", str(self.assertFires(Io, two.service.start())))
        self.network.run(one.service.stop())
        self.network.start()
        self.network.run(two.handle.health_check())

    def test_an_as_table_counts_and_may_change(self) -> None:
        """Two groups of one system are one too many, until the file says otherwise.  INT-007"""
        path = Path(self.mktemp())
        path.write_text("10.0.0.0/8 7\n")
        one, two = (self.network.node(network=SEEDED) for _ in range(2))
        node = self.seeker(as_table_path=path, target_outbound_count=0)
        self.network.start()
        self.connect(node, one)
        book = self.book(node)
        self.teach(node, one.address, two.address)
        self.assertEqual({network.key for network in book._new.networks}, {7})
        error = self.assertFires(ConnectionFiltered, node.handle.connect_to(two.address))
        self.assertIn("INT-007", str(error))
        path.write_text(f"10.0.0.0/8 7\n{two.host}/32 8\n")
        self.network.advance(45)
        networks = [*book._new.networks, *book._tried.networks]
        self.assertEqual({network.key for network in networks}, {7, 8})
        self.connect(node, two)
        self.assertEqual(len(self.peer_ids(node)), 2)
