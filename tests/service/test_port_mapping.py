"""Whole nodes whose gateway maps ports: what they tell others."""

from __future__ import annotations

from typing import Any

from dig_gossip.errors import SelfConnection
from dig_gossip.portmap import igd, mapper
from dig_gossip.portmap.mapper import CHECK_SECS
from dig_gossip.service.gossip_service import GossipService
from dig_gossip.testing.network import MemoryNode, MemoryReactor
from dig_gossip.types.config import GossipConfig, IntroducerConfig, RelayConfig, TorConfig
from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire.dig import RegisterPeer
from tests.discovery.introducer_case import IntroducerCase
from tests.discovery.test_introducer_client import Scripted
from tests.network_case import NetworkCase
from tests.portmap.gateway import Row, SimulatedGateway, UDPPort
from tests.service.test_relaying import RelayCase

MAPPED = PeerAddress("77.1.2.3", 9445)


class MappedCase(NetworkCase):
    """Every node that asks has the same gateway, on which port 9444 is taken."""

    def setUp(self) -> None:
        for name in ("listenUDP", "gateway", "sockets", "refuses"):
            self.addCleanup(delattr, MemoryReactor, name)  # after the nodes have stopped
        super().setUp()
        self.gateway = SimulatedGateway(self.network.clock, "pcp", "nat-pmp")
        self.gateway.rows[9444] = Row("192.168.1.7", 9444, b"", 1e9)
        self.sockets: list[UDPPort] = []
        self.patch(mapper, "find_gateway", lambda: self.gateway.host)
        self.patch(igd, "has_miniupnpc", lambda: False)

        def listen(reactor: Any, port: int, protocol: Any, **_options: Any) -> UDPPort:
            made = UDPPort(reactor, 40_000, protocol)
            self.sockets.append(made)
            return made

        parts = {
            "listenUDP": listen,
            "gateway": self.gateway,
            "sockets": self.sockets,
            "refuses": False,
        }
        for name, part in parts.items():
            setattr(MemoryReactor, name, part)

    def mapped(self, method: str = "auto", **options: Any) -> MemoryNode:
        """A started node that asks for a port."""
        node = self.network.node(port_mapping=method, **options)
        self.network.start()
        self.network.advance(0.1)
        return node


class MappedTests(MappedCase):
    """What a node makes of its mapping."""

    def test_the_external_address_is_the_node_s_own(self) -> None:
        """It is told, shown and counted, and never dialed.  behaviour §29, PEX-007, DSC-005"""
        for method in ("auto", "nat-pmp"):
            node = self.mapped(method)
            parts = node.service.node
            self.assertEqual(node.service.external_address, MAPPED)
            self.assertEqual(parts.discovery.own_address(), MAPPED)
            body = parts._advertised()
            self.assertEqual((body.ip, body.port), (MAPPED.host, MAPPED.port))
            self.assertTrue(parts.discovery.is_excluded(MAPPED))
            self.assertFires(SelfConnection, node.handle.connect_to(MAPPED))
            self.assertEqual(self.counter(node, "port_mapping.external_port"), MAPPED.port)
            self.assertEqual(self.counter(node, "port_mapping.obtained"), 1)
            self.network.run(node.service.stop())
            self.assertEqual(list(self.gateway.mapped), [9444])

    def test_peers_learn_the_external_port(self) -> None:
        """What a handshake says is where the node can be dialed.  CON-001.3"""
        node, other = self.mapped(), self.network.node()
        self.network.start()
        self.connect(node, other)
        self.assertEqual(self.session(other, node).remote.server_port, MAPPED.port)

    def test_a_configured_address_goes_first(self) -> None:
        """Its port is the one that is wished for.  behaviour §29"""
        known = PeerAddress("88.1.2.3", 7777)
        node = self.mapped(external_addr=known)
        self.assertEqual(self.gateway.mapped[7777][1], 9444)
        self.assertEqual(node.service.external_address, known)
        self.assertEqual(node.service.node.discovery.own_address(), known)

    def test_a_lost_mapping_is_told_to_nobody(self) -> None:
        """As if there had never been one.  behaviour §29"""
        node = self.mapped()
        self.gateway.speaks = set()
        self.network.advance(3 * (CHECK_SECS + 8))
        self.assertIsNone(node.service.external_address)
        self.assertEqual(node.service.node._advertised().ip, "")

    def test_a_gateway_that_gives_nothing_disturbs_nobody(self) -> None:
        """The node starts, connects and stops as ever.  behaviour §29"""
        self.gateway.speaks = set()
        node, other = self.mapped(), self.network.node()
        self.network.start()
        self.connect(node, other)
        self.network.advance(60)
        self.assertEqual(self.peer_ids(node), {bytes(other.peer_id)})
        self.assertEqual(self.counter(node, "port_mapping.failed"), 1)
        self.assertIsNone(node.service.external_address)

    def test_a_reactor_without_datagrams_disturbs_nobody(self) -> None:
        """Nor a machine that is out of sockets.  behaviour §29"""

        def listen(*_args: Any, **_options: Any) -> None:
            raise OSError("no more sockets")

        self.patch(MemoryReactor, "listenUDP", listen)
        node = self.mapped()
        self.assertEqual(self.counter(node, "port_mapping.failed"), 1)

    def test_nothing_is_asked_unless_it_is_wanted(self) -> None:
        """Nor where only Tor may lead.  TOR-101-X, NAT-102-X"""
        self.assertEqual(GossipConfig().port_mapping, "off")
        self.mapped("off")
        only = TorConfig(enabled=True, prefer_tor=True)
        node = self.mapped("auto", tor=only)
        self.network.advance(60)
        self.assertEqual((self.sockets, self.gateway.requests), ([], []))
        self.assertIsNone(node.service.node.port_mapper)
        self.assertIsNone(node.service.external_address)

    def test_a_configured_address_is_not_told_with_tor_alone(self) -> None:
        """Also not to the application.  TOR-101-X"""
        only = TorConfig(enabled=True, prefer_tor=True)
        node = self.mapped("auto", tor=only, external_addr="88.1.2.3:7777")
        self.assertIsNone(node.service.external_address)

    def test_a_method_that_cannot_work_ends_the_start(self) -> None:
        """With a sentence that says what is missing.  design D17"""
        self.patch(mapper, "has_miniupnpc", lambda: False)
        service = GossipService(GossipConfig(listen_addr="127.0.0.1:0", port_mapping="upnp"))
        with self.assertRaisesRegex(Exception, "port_mapping: upnp needs miniupnpc"):
            service.startService()


class MappedRelayTests(RelayCase, MappedCase):
    """A node with a relay and a mapping."""

    def test_the_relay_tells_where_the_node_can_be_dialed(self) -> None:
        """It replaces the host by what it sees, and believes the port.  RSV-106-X, RLY-007"""
        relay = RelayConfig(endpoint=f"ws://{self.relay_host}:9450")
        node = self.mapped(relay=relay)
        other = self.network.node(relay=relay, target_outbound_count=0)
        self.network.start()
        self.network.advance(3)
        assert other.service.node.relaying is not None
        assert node.service.node.relaying is not None
        told = other.service.node.relaying.client.peers()[node.peer_id]
        self.assertEqual(told, (PeerAddress(node.host, MAPPED.port),))
        self.assertEqual(node.service.node.relaying._external(), MAPPED)


class MappedIntroducerTests(IntroducerCase, MappedCase):
    """A node with an introducer and a mapping."""

    def test_the_introducer_is_told_at_once(self) -> None:
        """Of each address that the gateway gets.  DSC-005, DSC-005.1"""
        sink = Scripted(self)
        self.mapped(introducer=IntroducerConfig(endpoint=sink.url))
        self.network.advance(5)
        self.gateway.external = "77.4.5.6"
        self.network.advance(2 * CHECK_SECS)
        self.gateway.restart()  # with PCP the address is seen when the mapping is made anew
        self.network.advance(2 * CHECK_SECS)
        bodies = [RegisterPeer.from_bytes(m.data) for m in sink.heard if m.type == 218]
        self.assertEqual((bodies[-1].ip, bodies[-1].port), ("77.4.5.6", MAPPED.port))
