"""Whole nodes that only a relay can bring together, in memory: tunnels, upgrades, lies."""

from __future__ import annotations

from typing import Any
from unittest import mock

from chia_rs.sized_ints import uint32
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from dig_gossip import Message, PeerOptions, RelayConfig
from dig_gossip.connection.session import RemovalReason
from dig_gossip.errors import PeerNotConnected
from dig_gossip.relay.client import RelayClient, RelayState
from dig_gossip.relay.registry import Transmit
from dig_gossip.relay.server import RelayServer
from dig_gossip.testing.network import MemoryNode
from dig_gossip.tls.identity import Identity
from dig_gossip.types.peer import PeerAddress, TransportKind
from dig_gossip.types.relay import RelayLimits, RelayServerConfig
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import handled
from dig_gossip.wire import relay as frames
from dig_gossip.wire.chia import RequestBlock, RespondPeers
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.network_case import NetworkCase

OPCODE = 230  # no engine has a use for it
UNLIMITED = PeerOptions(enforce_rate_limits=False)
#: The files are not read: the tests give the identity itself.
SECURE: dict[str, Any] = {"cert_path": "c", "key_path": "k", "requires_certificate": True}


class RelayCase(NetworkCase):
    """A relay at an address of its own, and nodes behind NATs."""

    #: What the relay shows, and demands of its clients: a certificate, or nothing.
    relay_identity: Identity | None = None

    def setUp(self) -> None:
        super().setUp()
        self.relay_host = self.network.host()
        self.relay = self.make_relay()

    def make_relay(self, **limits: Any) -> RelayServer:
        """Start a relay."""
        address = PeerAddress(self.relay_host, 9450)
        reactor: IReactorTime = self.network.reactor(self.relay_host)
        secure = {} if self.relay_identity is None else SECURE
        config = RelayServerConfig(
            listen_addr=address, health_addr=None, limits=RelayLimits(**limits), **secure
        )
        server = RelayServer(config, Clock(reactor), self.relay_identity)
        server.startService()
        self.addCleanup(server.stopService)
        return server

    @property
    def endpoint(self) -> str:
        """Where nodes find the relay."""
        scheme = "ws" if self.relay_identity is None else "wss"
        return f"{scheme}://{self.relay_host}:9450"

    def stop_relay(self) -> None:
        """Let the relay end in order."""
        stopping = self.relay.stopService()
        self.network.run(stopping)

    def hidden(self, count: int = 2, **options: Any) -> list[MemoryNode]:
        """Started nodes behind NATs, which know nothing but the relay."""
        relay = RelayConfig(endpoint=self.endpoint, reconnect_delay_secs=1, advertise=False)
        nodes = [self.network.node(**{"relay": relay, **options}) for _ in range(count)]
        for node in nodes:
            self.network.hide(node.host)
        self.network.start()
        return nodes

    def way(self, node: MemoryNode, peer: MemoryNode) -> TransportKind:
        """How a node reaches another."""
        return self.session(node, peer).transport

    def until(self, condition: Any, limit: float = 60.0) -> None:
        """Let time pass until something holds."""
        end = self.network.clock.seconds() + limit
        while not condition():
            self.assertLess(self.network.clock.seconds(), end, "it never came about")
            self.network.advance(0.01)

    def relayed(self, count: int = 2, **options: Any) -> list[MemoryNode]:
        """Nodes of which each pair has a relayed session."""
        nodes = self.hidden(count, **options)
        self.until(lambda: all(len(self.peer_ids(node)) == count - 1 for node in nodes))
        return nodes

    def direct(self, *nodes: MemoryNode) -> bool:
        """Whether all sessions of all nodes are direct."""
        return all(
            session.transport is TransportKind.DIRECT
            for node in nodes
            for session in node.service.node.peers.table
        )


class TunnelTests(RelayCase):
    """Sessions through the relay."""

    def test_hidden_nodes_meet_through_the_relay(self) -> None:
        """Within seconds, with verified ids, and gossip flows.  RLY-101-X, RLY-008"""
        nodes = self.hidden(3)
        self.network.advance(10 * self.latency + 8)
        self.assertTrue(all(len(self.peer_ids(node)) == 2 for node in nodes))
        inbound = nodes[2].handle.inbound_receiver()
        self.network.run(nodes[0].handle.broadcast(Message(200, None, b"hello")))
        peer, message = self.network.run(inbound.get())
        self.assertEqual((len(peer), message.data), (32, b"hello"))

    def test_the_application_sees_no_difference(self) -> None:
        """Requests, unicast of megabytes, statistics: only the way differs.  RLY-008"""
        one, two = self.relayed(peer_options=UNLIMITED)
        connection = self.network.run(one.handle.connected_peers())[0]
        self.assertEqual(connection.transport, TransportKind.RELAY)
        self.assertEqual(connection.address, PeerAddress(self.relay_host, 9450))
        self.assertEqual(
            self.network.run(one.handle.request_peers_from(two.peer_id)), RespondPeers([])
        )
        inbound = two.handle.inbound_receiver()
        self.network.run(one.handle.send_to(two.peer_id, Message(OPCODE, None, bytes(3_000_000))))
        _peer, message = self.network.run(inbound.get())
        self.assertEqual(len(message.data), 3_000_000)
        stats = self.network.run(one.handle.stats())
        self.assertTrue(stats.relay_connected)
        self.assertEqual(stats.relay_peer_count, 1)
        relay = self.network.run(one.handle.relay_stats())
        assert relay is not None
        self.assertGreater(relay.bytes_sent, 3_000_000)

    def test_nobody_is_charged_for_the_relays_address(self) -> None:
        """A ban covers the peer, not the relay that all use.  CON-007.1, REP-102-X"""
        one, two, three = self.relayed(3)
        self.network.run(one.handle.ban_peer(two.peer_id, PenaltyReason.INVALID_BLOCK))
        self.network.advance(1)
        self.assertEqual(self.peer_ids(one), {bytes(three.peer_id)})
        self.network.advance(90)
        self.assertEqual(self.peer_ids(one), {bytes(three.peer_id)})
        self.assertFalse(one.service.node.peers.reputations.is_host_banned(self.relay_host))

    def test_when_the_relay_dies_its_sessions_end_and_it_is_sought(self) -> None:
        """And found again when it is back, without help.  RLY-004"""
        one, two = self.relayed()
        self.network.cut(one.host, two.host)
        self.stop_relay()
        self.network.advance(1)
        self.assertEqual((self.peer_ids(one), self.peer_ids(two)), (set(), set()))
        self.assertIsNone(self.network.run(one.handle.relay_stats()))
        self.network.advance(20)
        self.relay = self.make_relay()
        self.until(lambda: self.peer_ids(one) and self.peer_ids(two), 120)

    def test_a_silent_relay_is_noticed(self) -> None:
        """90 s without a frame, and it is lost.  RLY-006"""
        one, two = self.relayed()
        for node in (one, two):
            self.network.cut(node.host, self.relay_host)
        self.network.advance(100)
        for node in (one, two):
            relaying = node.service.node.relaying
            assert relaying is not None
            self.assertIsNot(relaying.client.state, RelayState.CONNECTED)

    def test_attempts_end_and_can_be_asked_for(self) -> None:
        """After max_reconnect_attempts; ``reconnect`` tries again.  RLY-004"""
        self.stop_relay()
        relay = RelayConfig(
            endpoint=f"ws://{self.relay_host}:9450",
            reconnect_delay_secs=1,
            advertise=False,
            max_reconnect_attempts=2,
        )
        (node,) = self.hidden(1, relay=relay)
        relaying = node.service.node.relaying
        assert relaying is not None
        self.network.advance(60)
        self.assertIs(relaying.client.state, RelayState.EXHAUSTED)
        self.relay = self.make_relay()
        relaying.client.reconnect()
        self.network.advance(1)
        self.assertIs(relaying.client.state, RelayState.CONNECTED)

    def test_an_attempt_that_takes_too_long_fails_once(self) -> None:
        """However long TCP, or a proxy before it, stays undecided.  RLY-004"""
        endpoint = mock.Mock()
        endpoint.connect.side_effect = lambda factory: Deferred()
        with mock.patch.object(RelayClient, "_make_endpoint", return_value=endpoint):
            (node,) = self.hidden(1, relay=RelayConfig(endpoint=self.endpoint))
            relaying = node.service.node.relaying
            assert relaying is not None
            self.until(lambda: relaying.client.state is RelayState.BACKOFF)
            self.assertEqual(relaying.client._reconnection.failures, 1)
            self.until(lambda: relaying.client.state is RelayState.CONNECTING)
            self.network.advance(10)
            self.assertEqual(endpoint.connect.call_count, 2)

    def test_a_node_without_a_relay_has_no_timer_of_it(self) -> None:
        """Off is off: also when it is configured and disabled.  STR-001"""
        for relay in (None, RelayConfig(endpoint="ws://relay.example:1", enabled=False)):
            node = self.network.node(relay=relay)
            self.network.start()
            self.assertIsNone(node.service.node.relaying)
            self.assertIsNone(self.network.run(node.handle.relay_stats()))


class UpgradeTests(RelayCase):
    """From the relay to a direct connection."""

    def test_hidden_nodes_leave_the_relay(self) -> None:
        """Both dial at once; one direct session takes the place of the relayed one.  RLY-007"""
        one, two = self.relayed()
        self.assertIs(self.way(one, two), TransportKind.RELAY)
        self.until(lambda: self.direct(one, two))
        self.assertEqual((self.counter(one, "punches_ok"), self.counter(two, "punches_ok")), (1, 1))
        self.network.advance(10)
        self.assertEqual((len(self.peer_ids(one)), len(self.peer_ids(two))), (1, 1))
        for node in (one, two):
            relaying = node.service.node.relaying
            assert relaying is not None
            self.assertEqual(len(relaying.client.hub), 0)

    def test_nothing_is_lost_or_doubled_on_the_way(self) -> None:
        """Numbered messages both ways, before, during and after the move.  RLY-007.2"""
        one, two = self.relayed(peer_options=UNLIMITED)
        inbounds = {node: node.handle.inbound_receiver() for node in (one, two)}
        got: dict[MemoryNode, list[int]] = {one: [], two: []}
        sent = 0
        moved_at = 0
        while sent < 3000:
            for sender, receiver in ((one, two), (two, one)):
                for number in range(sent, sent + 5):
                    data = number.to_bytes(4, "big") + bytes(2000)
                    message = Message(OPCODE, None, data)
                    self.network.run(sender.handle.send_to(receiver.peer_id, message))
            sent += 5
            self.network.advance(0.01)
            if not moved_at and self.direct(one, two):
                moved_at = sent
            for node, inbound in inbounds.items():
                while len(inbound):
                    got[node].append(
                        int.from_bytes(self.network.run(inbound.get())[1].data[:4], "big")
                    )
        self.network.advance(10)
        for node, inbound in inbounds.items():
            while len(inbound):
                got[node].append(int.from_bytes(self.network.run(inbound.get())[1].data[:4], "big"))
            self.assertEqual(sorted(got[node]), list(range(sent)))
        self.assertTrue(0 < moved_at < sent, "the move was to be in between")

    def test_a_request_under_way_is_answered_after_the_move(self) -> None:
        """Asked through the relay, answered directly.  RLY-007.2, MSG-103-X"""
        one, two = self.relayed()
        inbound = two.handle.inbound_receiver()
        asking = one.handle.request(two.peer_id, RequestBlock(uint32(7), False), timeout=60)
        peer, request = self.network.run(inbound.get())
        self.until(lambda: self.direct(one, two))
        self.network.advance(6)
        rejection = Message(ChiaMessageType.REJECT_BLOCK, request.id, request.data[:4])
        self.network.run(two.handle.send_to(peer, rejection))
        failure: list[Any] = []
        handled(asking.addErrback(failure.append))
        self.network.advance(1)
        self.assertEqual(type(failure[0].value).__name__, "RequestRejected")

    def test_a_node_that_cannot_be_punched_stays_on_the_relay(self) -> None:
        """And the attempt is repeated after five minutes.  RLY-007.3"""
        one, two = self.relayed()
        self.network.cut(one.host, two.host)
        self.network.advance(30)
        self.assertIs(self.way(one, two), TransportKind.RELAY)
        self.assertEqual(self.counter(one, "punches_failed"), 1)
        self.network.heal()
        self.network.advance(330)
        self.assertIs(self.way(one, two), TransportKind.DIRECT)

    def test_a_lost_direct_session_falls_back_to_the_relay(self) -> None:
        """At once: the relay still lists the peer.  RLY-007.3"""
        one, two = self.relayed()
        self.until(lambda: self.direct(one, two))
        self.network.advance(10)
        self.network.cut(one.host, two.host)
        peers = one.service.node.peers
        peers.session_ended(self.session(one, two), RemovalReason.ERROR)
        two.service.node.peers.session_ended(self.session(two, one), RemovalReason.ERROR)
        self.until(lambda: self.peer_ids(one) and self.peer_ids(two))
        self.assertIs(self.way(one, two), TransportKind.RELAY)

    def test_whoever_can_be_dialed_is_dialed(self) -> None:
        """A public node is reached directly, and pinned by its id.  RLY-008, RLY-105-X"""
        relay = RelayConfig(endpoint=f"ws://{self.relay_host}:9450")
        public = self.network.node(relay=relay, target_outbound_count=0)
        (hidden,) = self.hidden(1)
        self.until(lambda: bool(self.peer_ids(hidden)))
        self.assertIs(self.way(hidden, public), TransportKind.DIRECT)


class LyingRelay(RelayCase):
    """The relay forges, drops, repeats and invents."""

    def lie(self, lie: Any) -> None:
        """Pass everything that the relay sends through a function; None drops it."""
        perform = self.relay.perform

        def lying(effects: list[Any]) -> None:
            told = []
            for effect in effects:
                data = lie(effect.data) if isinstance(effect, Transmit) else None
                if not isinstance(effect, Transmit):
                    told.append(effect)
                elif data is not None:
                    told.append(effect._replace(data=data))
            perform(told)

        self.relay.perform = lying  # type: ignore[method-assign]

    def test_corrupted_bytes_end_the_tunnel_and_nothing_else(self) -> None:
        """TLS sees it; nothing wrong is ever accepted as a peer's.  RLY-101-X"""
        one, two = self.relayed()
        self.network.cut(one.host, two.host)
        inbound = two.handle.inbound_receiver()
        corrupted: list[int] = []

        def lie(data: str | bytes) -> str | bytes:
            if isinstance(data, bytes) and len(data) > 200:
                corrupted.append(len(data))
                return data[:150] + bytes([data[150] ^ 1]) + data[151:]
            return data

        self.lie(lie)
        self.network.run(one.handle.broadcast(Message(200, None, b"x" * 300)))
        self.network.advance(3)
        self.assertTrue(corrupted)
        self.assertEqual(len(inbound), 0)
        self.relay.perform = type(self.relay).perform.__get__(self.relay)  # type: ignore[method-assign]
        self.until(lambda: self.peer_ids(one) and self.peer_ids(two), 300)

    def test_a_forged_sender_gets_nowhere(self) -> None:
        """The id inside is the one that counts.  RLY-101-X"""
        one, two, three = self.hidden(3)
        swapped = {
            bytes(two.peer_id): bytes(three.peer_id),
            bytes(three.peer_id): bytes(two.peer_id),
        }

        def lie(data: str | bytes) -> str | bytes:
            if isinstance(data, bytes) and data[1:33] in swapped:
                return data[:1] + swapped[data[1:33]] + data[33:]
            return data

        self.lie(lie)
        self.network.advance(60)
        # TLS finds another key than the relay has named, at both ends.
        for node in (one, two, three):
            self.assertEqual(self.peer_ids(node) & {bytes(one.peer_id)}, set())
        self.assertEqual(self.peer_ids(one), set())

    def test_dropped_and_repeated_frames_end_a_tunnel_which_comes_back(self) -> None:
        """No message arrives twice, whatever the relay repeats.  RLY-002, wire §15"""
        one, two = self.relayed()
        self.network.cut(one.host, two.host)
        inbound = two.handle.inbound_receiver()
        count = [0]

        def lie(data: str | bytes) -> str | bytes | None:
            count[0] += 1
            return None if isinstance(data, bytes) and count[0] % 7 == 0 else data

        self.lie(lie)
        for number in range(20):
            try:
                self.network.run(
                    one.handle.send_to(two.peer_id, Message(OPCODE, None, bytes([number])))
                )
            except PeerNotConnected:
                pass
            self.network.advance(20)
        got = []
        while len(inbound):
            got.append(self.network.run(inbound.get())[1].data)
        self.assertEqual(len(got), len(set(got)))
        self.assertTrue(got)

    def test_oversized_and_absurd_frames_are_survived(self) -> None:
        """A frame above what we take ends the connection, garbage does not.  RLY-101-X"""
        one, _two = self.relayed()
        relaying = one.service.node.relaying
        assert relaying is not None
        server = self.relay
        number = next(iter(server._connections))
        for data in ("{", "[]", '{"type":"new"}', b"\x02short", b"\xff", "null"):
            server.perform([Transmit((number,), data)])
        self.network.advance(1)
        self.assertEqual(len(self.peer_ids(one)), 1)
        before = server.registry.counters["registrations"]
        for connection in list(server._connections):
            server.perform([Transmit((connection,), " " * 1_100_000)])
        self.until(lambda: server.registry.counters["registrations"] == before + 2)
        self.network.advance(1)  # until the last answer has arrived
        self.assertIs(relaying.client.state, RelayState.CONNECTED)

    def test_messages_that_nobody_vouches_for(self) -> None:
        """Delivered in nobody's name, once, a hundred a minute; requests are not.  RLY-102-X"""
        (node,) = self.hidden(1)
        self.network.advance(2)
        inbound = node.handle.inbound_receiver()
        for number in range(150):
            payload = bytes(Message(200, None, bytes([number])))
            frame = frames.Broadcast(sender="ff" * 32, payload=payload)
            for _ in range(2 if number < 10 else 1):
                self.relay.perform([Transmit((1,), frame.encode())])
        request = bytes(Message(ChiaMessageType.REQUEST_BLOCK, 1, bytes(5)))
        self.relay.perform(
            [Transmit((1,), frames.Broadcast(sender="ff" * 32, payload=request).encode())]
        )
        self.network.advance(1)
        got = [self.network.run(inbound.get()) for _ in range(len(inbound))]
        self.assertEqual({bytes(peer) for peer, _ in got}, {bytes(32)})
        self.assertEqual(len(got), len({message.data for _, message in got}))
        self.assertTrue(80 <= len(got) <= 100, len(got))
