"""Whole nodes and Tor: who is reached through it, and what nobody learns."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.web.client import URI

from dig_gossip.discovery.routed_https import RoutedHttps
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.errors import (
    ClientError,
    ConnectionFiltered,
    IntroducerError,
    InvalidConfig,
    ProxyError,
)
from dig_gossip.service.gossip_service import GossipService
from dig_gossip.testing.network import MemoryNode, MemoryReactor
from dig_gossip.types.config import GossipConfig, IntroducerConfig, RelayConfig, TorConfig
from dig_gossip.types.peer import PeerAddress, TransportKind
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from tests.connection.socks_server import SocksServer
from tests.discovery.onions import onion
from tests.network_case import NetworkCase

PUBLIC = PeerAddress("77.1.2.3", 9444)


class TorCase(NetworkCase):
    """A network with a Tor, of which a scripted SOCKS server is all that nodes see."""

    def setUp(self) -> None:
        super().setUp()
        self.targets: dict[str, tuple[str, int] | int] = {}
        reactor = self.network.reactor()
        self.proxy = PeerAddress(reactor.host, 9050)
        self.tor = SocksServer(self.network.reactor, self.targets)
        self.port = reactor.listenTCP(9050, self.tor)
        self.dialed: list[tuple[str, str]] = []
        connect = MemoryReactor.connectTCP

        def recorded(reactor: MemoryReactor, host: str, *args: Any, **kw: Any) -> Any:
            self.dialed.append((reactor.host, host))
            return connect(reactor, host, *args, **kw)

        self.patch(MemoryReactor, "connectTCP", recorded)

    def node(self, *, tor: dict[str, Any] | None = None, **options: Any) -> MemoryNode:
        """A started node that uses Tor."""
        config = TorConfig(enabled=True, socks5_proxy=str(self.proxy), **(tor or {}))
        node = self.network.node(tor=config, **options)
        self.network.start()
        return node

    def onion_node(
        self, number: int = 1, *, only: bool = False, **options: Any
    ) -> tuple[MemoryNode, PeerAddress]:
        """A started node with an onion service, and the address of that."""
        host = onion(number)
        node = self.node(tor={"onion_address": host, "prefer_tor": only}, **options)
        self.targets[host] = (node.host, 9444)
        return node, PeerAddress(host, 9444)

    def left(self, node: MemoryNode) -> set[str]:
        """Where a node has dialed."""
        return {target for source, target in self.dialed if source == node.host}

    def asked(self) -> list[str]:
        """What Tor was asked for."""
        return [request.host for request in self.tor.asked]


class OnionTests(TorCase):
    """Peers that are onion services."""

    def test_an_onion_peer_is_a_session_like_any_other(self) -> None:
        """TLS, greeting and gossip, through the proxy.  PRV-010, PRV-010.1"""
        (node, (other, address)) = (self.node(), self.onion_node())
        peer_id = self.network.run(node.handle.connect_to(address))
        self.network.advance(1)
        self.assertEqual(peer_id, other.peer_id)
        session, theirs = self.session(node, other), self.session(other, node)
        self.assertEqual((session.address, session.transport), (address, TransportKind.TOR))
        self.assertIs(theirs.transport, TransportKind.TOR)
        self.assertEqual((session.host, theirs.host), (address.host, None))
        self.assertEqual(self.left(node), {self.proxy.host})
        received = theirs.messages_received
        self.network.run(node.handle.broadcast(Message(200, None, b"hello")))
        self.network.advance(1)
        self.assertGreater(theirs.messages_received, received)

    def test_without_tor_onions_are_not_reached(self) -> None:
        """Nor is any name under .onion ever looked up.  PRV-009, PRV-010.1"""
        plain = self.network.node()
        off = self.network.node(tor=TorConfig(enabled=False))
        no_proxy = self.network.node(tor=TorConfig(enabled=True, socks5_proxy=""))
        self.network.start()
        for node in (plain, off, no_proxy):
            for host in (onion(1), "broken.onion", "sub.broken.onion."):
                error = self.assertFires(
                    ConnectionFiltered, node.handle.connect_to(PeerAddress(host, 9444))
                )
                self.assertTrue(str(error).startswith("onion"))
        self.assertEqual(self.dialed, [])

    def test_every_destination_has_a_circuit_of_its_own(self) -> None:
        """Credentials are random, and the same for the same destination.  PRV-010"""
        node, one = self.node(), self.onion_node(1)
        two = self.onion_node(2)
        for address in (one[1], two[1]):
            self.network.run(node.handle.connect_to(address))
        self.network.run(node.handle.disconnect(one[0].peer_id))
        self.network.advance(1)
        self.network.run(node.handle.connect_to(one[1]))
        again = self.node()
        self.network.run(again.handle.connect_to(one[1]))
        first, second, third, stranger = [(a.user, a.password) for a in self.tor.asked]
        self.assertEqual(first, third)
        self.assertEqual(len({first, second, stranger}), 3)

    def test_a_broken_proxy_is_no_fault_of_the_peer(self) -> None:
        """The book does not count it, and nobody is dialed directly.  PRV-010"""
        node = self.node(discovery=True, target_outbound_count=0)
        self.network.advance(1)
        book = node.service.node.discovery.book
        address = PeerAddress(onion(7), 9444)
        book.add_to_new_table([KnownAddress(address, int(self.network.clock.unix()))], address)
        self.targets[address.host] = 1
        self.assertFires(ProxyError, node.handle.connect_to(address))
        self.port.stopListening()
        self.assertFires(ProxyError, node.handle.connect_to(address))
        entry = book.get(address)
        assert entry is not None
        self.assertEqual(entry.num_attempts, 0)
        self.assertGreater(entry.last_try, 0)
        self.assertEqual(self.left(node), {self.proxy.host})

    def test_an_unreachable_onion_is_an_ordinary_failure(self) -> None:
        """The proxy says so of the destination.  PRV-010"""
        node = self.node()
        self.assertFires(ClientError, node.handle.connect_to(PeerAddress(onion(9), 9444)))

    def test_a_silent_proxy_ends_in_time(self) -> None:
        """Three times as late as a direct dial.  PRV-010"""
        node = self.node()
        self.patch(self.tor, "buildProtocol", lambda addr: Protocol())
        waiting = node.handle.connect_to(PeerAddress(onion(9), 9444))
        self.network.advance(29)
        self.assertNoResult(waiting)
        self.network.advance(2)
        self.failureResultOf(waiting, ProxyError)

    def test_inbound_through_onion_services_is_limited_together(self) -> None:
        """Half the slots, whatever the limit for one IP says; never banned by IP.  TOR-102-X"""
        other, address = self.onion_node(
            max_connections=12, target_outbound_count=1, max_connections_per_ip=2
        )
        came: list[object] = []
        for _ in range(8):
            node = self.node()
            dialing = node.handle.connect_to(address)
            handled(dialing.addCallbacks(came.append, lambda _failure: None))
            self.network.advance(2)
        self.assertEqual(came, 6 * [other.peer_id])
        self.assertEqual(len(self.peer_ids(other)), 6)
        self.assertEqual(self.counter(other, "accept_refused.onion_full"), 2)

    def test_a_ban_does_not_hit_the_other_hidden_peers(self) -> None:
        """They all come from the same address.  TOR-102-X"""
        other, address = self.onion_node()
        one, two = self.node(), self.node()
        for node in (one, two):
            self.network.run(node.handle.connect_to(address))
        self.network.advance(1)
        self.network.run(other.handle.ban_peer(one.peer_id, PenaltyReason.SPAM, force=True))
        self.network.advance(1)
        self.assertEqual(self.peer_ids(other), {bytes(two.peer_id)})
        third = self.node()
        self.network.run(third.handle.connect_to(address))

    def test_who_takes_onions_says_so(self) -> None:
        """Capability 206, only with Tor.  wire §8"""
        node, (other, address) = self.node(), self.onion_node()
        plain = self.network.node()
        self.network.start()
        self.network.run(node.handle.connect_to(address))
        self.network.run(node.handle.connect_to(plain.address))
        self.network.advance(1)
        self.assertTrue(self.session(node, other).remote.has(Capability.DIG_ONION))
        self.assertFalse(self.session(node, plain).remote.has(Capability.DIG_ONION))
        self.assertIs(self.session(node, plain).transport, TransportKind.DIRECT)

    def test_onion_addresses_spread_among_those_who_take_them(self) -> None:
        """A node learns of an onion service from a third and reaches it.  TOR-103-X, PEX-007"""
        other, address = self.onion_node(only=True, discovery=True)
        middle = self.node(discovery=True, target_outbound_count=0)
        self.targets[middle.host] = (middle.host, 9444)
        self.network.run(other.handle.connect_to(middle.address))
        self.network.advance(30)
        self.assertIsNotNone(middle.service.node.discovery.book.get(address))
        late = self.node(discovery=True, bootstrap_peers=[middle.address])
        self.network.advance(300)
        self.assertIn(bytes(other.peer_id), self.peer_ids(late))
        self.assertIs(self.session(late, other).transport, TransportKind.TOR)


class OnlyTests(TorCase):
    """``prefer_tor``: nothing but Tor."""

    def only(self, **options: Any) -> MemoryNode:
        """A started node that uses nothing else."""
        tor = {"prefer_tor": True, **options.pop("tor", {})}
        return self.node(tor=tor, **options)

    def test_everything_goes_through_tor(self) -> None:
        """Peers, names, feelers, introducer and relay.  PRV-010.1, TOR-101-X"""
        plain = self.network.node()
        self.network.start()
        self.targets[plain.host] = (plain.host, 9444)
        self.targets["seed.example"] = (plain.host, 9444)
        node = self.only(
            discovery=True,
            bootstrap_peers=["seed.example:9444", plain.address, PUBLIC],
            introducer=IntroducerConfig(endpoint="ws://introducer.example:9448"),
            relay=RelayConfig(endpoint="wss://relay.example:9450"),
            external_addr=PUBLIC,
        )
        self.network.advance(400)
        self.assertEqual(self.left(node), {self.proxy.host})
        names = {"seed.example", plain.host, "introducer.example", "relay.example"}
        self.assertLessEqual(names, set(self.asked()))
        self.assertIn(bytes(plain.peer_id), self.peer_ids(node))
        remote = self.session(plain, node).remote
        self.assertEqual(remote.server_port, 0)

    def test_no_way_back_when_tor_fails(self) -> None:
        """A peer that could be dialed directly is not.  TOR-101-X"""
        plain = self.network.node()
        self.network.start()
        node = self.only(discovery=True, bootstrap_peers=[plain.address])
        self.port.stopListening()
        self.tor.drop()
        self.network.advance(1200)
        self.assertEqual(self.left(node), {self.proxy.host})
        self.assertEqual(self.peer_ids(node), set())

    def test_the_clearnet_address_is_not_told(self) -> None:
        """Neither to peers nor to introducers.  TOR-101-X, DSC-005"""
        node = self.only(external_addr=PUBLIC)
        parts = node.service.node
        self.assertIsNone(parts.discovery.own_address())
        self.assertRaises(IntroducerError, parts._advertised)
        hidden = self.only(external_addr=PUBLIC, tor={"onion_address": onion(3)})
        body = hidden.service.node._advertised()
        self.assertEqual((body.ip, body.port), (onion(3), 9444))

    def test_a_hybrid_node_tells_both(self) -> None:
        """Without ``prefer_tor`` an onion service is one more way.  PRV-010.2, DSC-005"""
        node, _ = self.onion_node(external_addr=PUBLIC)
        parts = node.service.node
        self.assertEqual(parts.discovery.own_address(), PUBLIC)
        self.assertEqual(parts._advertised().ip, PUBLIC.host)
        unnamed, address = self.onion_node(2)
        self.assertEqual(unnamed.service.node._advertised().ip, address.host)

    def test_a_wildcard_becomes_loopback(self) -> None:
        """Only Tor is to find the port.  PRV-010.2"""
        tor = TorConfig(enabled=True, prefer_tor=True)
        for listen, bound in (
            ("0.0.0.0:9444", "127.0.0.1:9444"),
            ("[::]:9444", "[::1]:9444"),
            ("192.168.1.2:9444", "192.168.1.2:9444"),
        ):
            config = GossipConfig(listen_addr=listen, tor=tor)
            self.assertEqual(str(config.bind_addr), bound)
        hybrid = GossipConfig(tor=TorConfig(enabled=True, onion_address=onion(1)))
        self.assertEqual(hybrid.bind_addr, hybrid.listen_addr)

    def test_nothing_is_looked_up_but_through_tor(self) -> None:
        """Seeds over HTTPS ask for the server by its name.  PRV-010.1"""
        node = self.only()
        endpoints = RoutedHttps(node.service.node.peers.routes)
        endpoint = endpoints.endpointForURI(URI.fromBytes(b"https://doh.example/dns-query"))
        self.assertFires(ClientError, endpoint.connect(Factory.forProtocol(Protocol)))
        self.assertEqual([(a.host, a.port) for a in self.tor.asked], [("doh.example", 443)])

    def test_contradictions_are_refused(self) -> None:
        """Whoever wants only Tor does not silently get none.  TOR-101-X"""
        for tor in (
            TorConfig(prefer_tor=True),
            TorConfig(enabled=True, socks5_proxy="", prefer_tor=True),
        ):
            self.assertRaises(InvalidConfig, GossipService, GossipConfig(tor=tor))
