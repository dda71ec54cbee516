"""Whole nodes that use Tor and take another id."""

from __future__ import annotations

from collections.abc import Callable

from dig_gossip import PeerIdRotationConfig, RelayConfig
from dig_gossip.privacy.rotation import Generate
from dig_gossip.testing.network import MemoryNode
from dig_gossip.types.config import IntroducerConfig
from dig_gossip.types.peer import PeerAddress, TransportKind
from tests.discovery.introducer_case import IntroducerCase
from tests.discovery.onions import onion
from tests.privacy.test_onion_service import ScriptedTor
from tests.service.test_relaying import RelayCase
from tests.service.test_rotating import RotatingCase
from tests.service.test_tor import TorCase

ROTATION = PeerIdRotationConfig(rotation_interval_secs=1e6)


class RotatingTorTests(TorCase, IntroducerCase, RelayCase, RotatingCase):
    """What goes through Tor, and what leads here."""

    def rotate(self, node: MemoryNode) -> None:
        """Let a node rotate now."""
        made = len(self.made)
        rotating = node.service.node.rotating
        assert rotating is not None
        rotating._perform([Generate()])
        while not (len(self.made) > made and node.peer_id == self.made[-1].peer_id):
            self.network.clock.step()

    def fewest(self, node: MemoryNode, until: Callable[[], bool], limit: float = 60.0) -> int:
        """Let time pass until something holds; the fewest sessions after any event."""
        end = self.network.clock.seconds() + limit
        fewest = len(self.peer_ids(node))
        while not until():
            self.assertLess(self.network.clock.seconds(), end, "it never came about")
            self.network.clock.step()
            fewest = min(fewest, len(self.peer_ids(node)))
        return fewest

    def has_moved(self, node: MemoryNode) -> bool:
        """Whether no session of a node is under a former id."""
        return {session.own_id for session in node.service.node.peers.table} == {node.peer_id}

    def circuits(self, host: str) -> list[bytes]:
        """With which names Tor was asked for a destination."""
        return [asked.user for asked in self.tor.asked if asked.host == host]

    def test_an_onion_service_keeps_its_address(self) -> None:
        """Whoever has dialed it comes again through the same address, and meets the new id.
        PRV-007.1, PRV-010.2
        """
        node, address = self.onion_node(only=True, peer_id_rotation=ROTATION)
        others = [self.node(bootstrap_peers=[address], discovery=True) for _ in range(3)]
        self.until(lambda: len(self.peer_ids(node)) == 3)
        self.rotate(node)
        self.assertGreaterEqual(self.fewest(node, lambda: self.has_moved(node), 120), 1)
        self.until(lambda: len(self.peer_ids(node)) == 3)
        self.network.advance(1)
        self.assertEqual(node.service.node.peers.onion, address)
        for other in others:
            session = self.session(other, node)
            self.assertEqual((session.address, session.transport), (address, TransportKind.TOR))

    def test_sessions_with_onion_services_move_to_new_circuits(self) -> None:
        """Make before break; nobody sees two ids leave one circuit.  PRV-007.1, PRV-010"""
        node = self.node(peer_id_rotation=ROTATION)
        hidden = [self.onion_node(number) for number in range(1, 4)]
        for _other, address in hidden:
            self.network.run(node.handle.connect_to(address))
        self.rotate(node)
        self.assertEqual(self.fewest(node, lambda: self.has_moved(node)), 3)
        for other, address in hidden:
            self.assertEqual(self.session(node, other).address, address)
            first, second = self.circuits(address.host)
            self.assertNotEqual(first, second)

    def test_the_relay_is_reached_through_another_circuit(self) -> None:
        """Two registrations, neither from here.  PRV-007.1, TOR-101-X"""
        relay = RelayConfig(endpoint=self.endpoint, reconnect_delay_secs=1)
        self.targets[self.relay_host] = (self.relay_host, 9450)
        (other,) = self.hidden(1)
        node = self.node(tor={"prefer_tor": True}, relay=relay, peer_id_rotation=ROTATION)
        self.until(lambda: len(self.peer_ids(node)) == 1)
        self.rotate(node)
        self.assertEqual(self.fewest(node, lambda: self.has_moved(node)), 1)
        self.assertIs(self.session(node, other).transport, TransportKind.RELAY)
        first, second = self.circuits(self.relay_host)
        self.assertNotEqual(first, second)
        self.assertEqual(self.left(node), {self.proxy.host})

    def test_the_introducer_is_told_through_another_circuit(self) -> None:
        """At once, of the same onion address; ours declines each.  DSC-005, TOR-101-X"""
        introducer = self.introducer()
        host = introducer.server.address.host
        self.targets[host] = (host, introducer.server.address.port)
        node, _address = self.onion_node(
            only=True,
            introducer=IntroducerConfig(endpoint=introducer.url),
            peer_id_rotation=ROTATION,
        )
        counters = introducer.server.registry.counters
        self.until(lambda: counters["registered.onion"] == 1)
        self.network.advance(1)
        asked = len(self.circuits(host))
        self.rotate(node)
        self.until(lambda: counters["registered.onion"] == 2, 5)
        before, after = self.circuits(host)[:asked], self.circuits(host)[asked:]
        self.assertFalse(set(before) & set(after))
        self.assertEqual(self.left(node), {self.proxy.host})

    def test_the_service_that_tor_was_asked_for_goes_on(self) -> None:
        """One request, one control connection, one key.  PRV-010.2"""
        control = ScriptedTor()
        reactor = self.network.reactor()
        reactor.listenTCP(9051, control)
        node = self.node(tor={"control_address": f"{reactor.host}:9051"}, peer_id_rotation=ROTATION)
        self.network.advance(2)
        self.rotate(node)
        self.network.advance(700)
        self.assertEqual((len(control.added), len(control.clients)), (1, 1))
        self.assertTrue(control.clients[0].transport.connected)
        self.assertEqual(node.service.node.peers.onion, PeerAddress(onion(1), 9444))
