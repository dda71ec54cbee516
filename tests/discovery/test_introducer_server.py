"""The introducer: real connections in memory, honest and otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.handshake import decode
from dig_gossip.errors import ClientError, ClientErrorKind, InvalidConfig, Io
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.testing.network import MemoryIntroducer
from dig_gossip.types.introducer import Encryption, IntroducerServerConfig
from dig_gossip.types.network import Network
from dig_gossip.types.peer import NodeType, PeerAddress
from dig_gossip.wire import registry
from dig_gossip.wire.dig import RequestPeersIntroducer
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from tests.discovery.introducer_case import IntroducerCase

CHIA_CAPABILITIES = (Capability.BASE, Capability.BLOCK_HEADERS, Capability.RATE_LIMITS_V2)


class MeetingTests(IntroducerCase):
    """Nodes that know an introducer and nothing else."""

    def test_nodes_hear_of_each_other(self) -> None:
        """Registered at the start, vetted at once, named to the others.  ISV-102-X, ISV-104-X"""
        introducer = self.introducer()
        nodes = [self.client(introducer.url) for _ in range(5)]
        self.network.start()
        self.network.advance(2)
        self.assertEqual(introducer.server.size.vetted, 5)
        for node in nodes:
            others = {other.host for other in nodes} - {node.host}
            self.assertEqual(self.hosts(node), others)

    def test_who_cannot_be_dialed_is_not_named(self) -> None:
        """A reflector would name anybody.  ISV-104-X, ISV-105-X"""
        introducer = self.introducer()
        liar = self.greeted(introducer)
        self.assertTrue(self.registered(liar))
        self.network.advance(5)
        self.assertEqual(introducer.server.size.vetted, 0)
        self.assertEqual(self.query(self.greeted(introducer)), set())

    def test_a_node_of_another_network_is_not_named(self) -> None:
        """A probe is a whole handshake.  ISV-104-X"""
        introducer = self.introducer()
        stranger = self.network.node(network=Network.CHIA_MAINNET)
        self.network.start()
        visitor = self.greeted(introducer, host=stranger.host)
        self.assertTrue(self.registered(visitor, stranger.address.port))
        self.network.advance(5)
        self.assertEqual(introducer.server.registry.counters["probed.failed"], 1)

    def test_the_introducer_itself_is_no_node(self) -> None:
        """Somebody on the same machine registers its port.  ISV-104-X"""
        introducer = self.introducer()
        visitor = self.greeted(introducer, host=introducer.host)
        self.assertTrue(self.registered(visitor, introducer.server.address.port))
        self.network.advance(5)
        self.assertEqual(introducer.server.registry.counters["probed.failed"], 1)

    def test_probes_do_not_show_the_introducer_s_certificate(self) -> None:
        """A node of Chia would close the connection on which it asks.  ISV-104-X"""
        introducer = self.introducer()
        self.client(introducer.url)
        with capturedLogs() as captured:
            self.network.start()
            self.network.advance(2)
        seen = [e["peer_id"] for e in captured if e.get("event") == "session_opened"]
        self.assertEqual(len(seen), 1)
        self.assertNotEqual(seen[0], introducer.server.peer_id.hex())

    def test_a_node_that_is_gone_is_forgotten(self) -> None:
        """Within its seven failures.  ISV-104-X"""
        introducer = self.introducer()
        node = self.client(introducer.url)
        self.network.start()
        self.network.advance(2)
        self.assertEqual(introducer.server.size.vetted, 1)
        self.network.kill(node)
        self.network.advance(600)
        self.assertEqual(introducer.server.size.vetted, 0)
        self.network.advance(7 * 600)
        self.assertEqual(introducer.server.size.nodes, 0)

    def test_a_silent_node_costs_a_probe_ten_seconds(self) -> None:
        """Three to connect, ten for all.  ISV-104-X"""
        introducer = self.introducer()
        sink = HostilePeer(self.network)
        address = sink.listen()
        self.registered(self.greeted(introducer, host=sink.host), address.port)
        self.assertEqual(introducer.server._probes, 1)
        self.network.advance(8)
        self.assertEqual(introducer.server._probes, 0)
        self.assertEqual(introducer.server.registry.counters["probed.failed"], 1)

    def test_probes_run_side_by_side_and_not_too_many(self) -> None:
        """Sixteen.  ISV-104-X"""
        introducer = self.introducer(vetting_total_secs=300)
        for _ in range(20):
            sink = HostilePeer(self.network)
            address = sink.listen()
            self.registered(self.greeted(introducer, host=sink.host), address.port)
            self.assertLessEqual(introducer.server._probes, 16)
        self.assertEqual(introducer.server._probes, 16)


class GreetingTests(IntroducerCase):
    """Who is who."""

    def said(self, visitor: HostilePeer) -> tuple[int, int]:
        """Node type and port that the introducer says it has."""
        body = decode(bytes(visitor.messages[0]))
        return body.node_type, body.server_port

    def test_chia_nodes_meet_an_introducer_others_a_full_node(self) -> None:
        """Chia takes 64 from type 5 only, Rust insists on 1.  ISV-101-X, wire §6"""
        introducer = self.introducer()
        chia = self.greeted(
            introducer, capabilities=CHIA_CAPABILITIES, software_version="2.7.1", server_port=8444
        )
        rust = self.greeted(
            introducer, capabilities=CHIA_CAPABILITIES, software_version="0.0.0", node_type=6
        )
        dig = self.greeted(introducer)
        self.assertEqual(self.said(chia), (NodeType.INTRODUCER, 9448))
        self.assertEqual(self.said(rust), (NodeType.FULL_NODE, 9448))
        self.assertEqual(self.said(dig), (NodeType.FULL_NODE, 9448))

    def test_full_nodes_farmers_and_wallets_may_ask(self) -> None:
        """Others are refused with 1008.  wire §9"""
        introducer = self.introducer()
        for node_type in (1, 3, 6):
            visitor = self.greeted(introducer, node_type=node_type)
            self.assertEqual(self.query(visitor), set(), node_type)
        for node_type in (2, 4, 5, 7, 8):
            visitor = self.greeted(introducer, node_type=node_type)
            assert visitor.closed is not None
            self.assertEqual((visitor.closed.code, visitor.messages), (1008, []), node_type)

    def test_another_network_is_refused_before_a_word(self) -> None:
        """1002 with Chia's number for it.  ISV-101-X, CON-003.2"""
        introducer = self.introducer()
        visitor = self.greeted(introducer, network_id="mainnet")
        assert visitor.closed is not None
        self.assertEqual((visitor.closed.code, visitor.closed.reason), (1002, "110"))
        self.assertEqual(visitor.messages, [])

    def test_answers_carry_the_id_of_the_question_or_none(self) -> None:
        """As the question did.  MSG-105-X"""
        visitor = self.greeted(self.introducer())
        for message_id in (None, 0, 0x8000):
            visitor.send_message(registry.encode(RequestPeersIntroducer(), message_id))
            self.network.settle()
            self.assertEqual(visitor.messages[-1].id, message_id)

    def test_times_are_not_told(self) -> None:
        """An answer does not say when a node was there.  ISV-105-X"""
        introducer = self.introducer()
        self.client(introducer.url)
        self.network.start()
        self.network.advance(2)
        visitor = self.greeted(introducer)
        self.query(visitor)
        (row,) = registry.decode(visitor.messages[-1]).peer_list
        self.assertEqual((row.port, row.timestamp), (9444, 0))


class EncryptionTests(IntroducerCase):
    """One port for both kinds of connections."""

    def works(self, introducer: MemoryIntroducer, *, tls: bool) -> bool:
        """Whether somebody gets an answer."""
        return self.query(self.greeted(introducer, tls=tls)) is not None

    def test_both_kinds_work_on_one_port(self) -> None:
        """The first byte tells.  ISV-101-X"""
        introducer = self.introducer()
        self.assertTrue(self.works(introducer, tls=True))
        self.assertTrue(self.works(introducer, tls=False))
        self.assertTrue(introducer.url.startswith("wss://"))

    def test_one_kind_can_be_all_there_is(self) -> None:
        """The other gets no answer.  ISV-101-X"""
        introducer = self.introducer(encryption="ws")
        self.assertTrue(introducer.url.startswith("ws://"))
        self.assertTrue(self.works(introducer, tls=False))
        self.assertFalse(self.works(introducer, tls=True))
        introducer = self.introducer(encryption="wss")
        self.assertTrue(self.works(introducer, tls=True))
        self.assertFalse(self.works(introducer, tls=False))

    def test_tls_without_a_certificate_is_refused(self) -> None:
        """Certificates on both sides.  ISV-101-X, CON-009"""
        introducer = self.introducer()
        visitor = self.greeted(introducer, identity=None)
        self.assertEqual(visitor.messages, [])
        self.assertIsNotNone(visitor.closed)

    def test_nobody_who_says_nothing_stays(self) -> None:
        """Before the first byte, and before the greeting.  ISV-101-X"""
        introducer = self.introducer()
        silent = self.visitor(introducer, tls=False)
        shy = self.visitor(introducer, tls=False)
        shy.upgrade()
        self.network.advance(29)
        self.assertEqual(len(introducer.server._openings), 2)
        self.network.advance(2)
        self.assertEqual(len(introducer.server._openings), 0)
        self.assertEqual([silent.is_connected, shy.is_connected], [False, False])

    def test_who_leaves_before_the_first_byte(self) -> None:
        """Gives back the place.  ISV-106-X"""
        introducer = self.introducer()
        visitor = self.visitor(introducer, tls=False)
        self.network.settle()
        self.assertEqual(len(introducer.server._openings), 1)
        visitor.drop()
        self.network.settle()
        self.assertEqual(len(introducer.server._openings), 0)


class LimitTests(IntroducerCase):
    """Each limit, and that others do not feel it."""

    def assert_others_are_served(self, introducer: MemoryIntroducer) -> None:
        """Somebody at another address gets answers."""
        other = self.greeted(introducer)
        self.assertIsNotNone(self.query(other))
        self.assertTrue(self.registered(other))

    def test_a_connection_has_ten_requests(self) -> None:
        """The tenth is answered, then it is closed.  ISV-101-X"""
        introducer = self.introducer(queries_per_minute=100)
        visitor = self.greeted(introducer)
        for _ in range(9):
            self.assertIsNotNone(self.query(visitor))
        self.assertIsNone(visitor.closed)
        self.assertIsNotNone(self.query(visitor))
        assert visitor.closed is not None
        self.assertEqual(visitor.closed.code, 1000)
        self.assert_others_are_served(introducer)

    def test_requests_that_nobody_knows_count(self) -> None:
        """Silence is no reason to stay.  ISV-101-X"""
        introducer = self.introducer()
        visitor = self.greeted(introducer)
        for _ in range(10):
            visitor.send_message(Message(200, None, b"x"))
        self.network.settle()
        self.assertEqual([message.type for message in visitor.messages], [1])
        self.assertIsNotNone(visitor.closed)
        self.assert_others_are_served(introducer)

    def test_a_connection_lasts_thirty_seconds(self) -> None:
        """From its first byte on, whatever it does.  ISV-101-X"""
        introducer = self.introducer()
        visitor = self.greeted(introducer)
        self.network.advance(15)
        self.assertIsNotNone(self.query(visitor))
        self.network.advance(12)
        self.assertTrue(visitor.is_connected)
        self.network.advance(3)
        assert visitor.closed is not None
        self.assertEqual(visitor.closed.code, 1008)
        self.network.advance(6)
        self.assertEqual(len(introducer.server._visitors), 0)

    def test_greeting_late_buys_no_time(self) -> None:
        """The thirty seconds began with the connection.  ISV-101-X"""
        visitor = self.visitor(self.introducer())
        visitor.upgrade()
        self.network.advance(20)
        visitor.greet()
        self.network.advance(9)
        self.assertIsNone(visitor.closed)
        self.network.advance(2)
        self.assertIsNotNone(visitor.closed)

    def test_connections_of_one_address(self) -> None:
        """Eight at a time; a closed one makes room.  ISV-106-X"""
        introducer = self.introducer()
        host = self.network.host()
        visitors = [self.greeted(introducer, host=host) for _ in range(9)]
        self.assertEqual([v.secured for v in visitors], [True] * 8 + [False])
        self.assertEqual(introducer.server.counters["refused.per_ip"], 1)
        self.assert_others_are_served(introducer)
        visitors[0].drop()
        self.network.settle()
        self.assertTrue(self.greeted(introducer, host=host).secured)

    def test_connections_of_all(self) -> None:
        """The bound of memory; it is full for everybody then.  ISV-106-X"""
        introducer = self.introducer(max_connections=3)
        visitors = [self.greeted(introducer) for _ in range(4)]
        self.assertEqual([v.secured for v in visitors], [True] * 3 + [False])
        self.network.advance(40)
        self.assert_others_are_served(introducer)

    def test_connections_a_minute(self) -> None:
        """Thirty from one address; the next one costs us no TLS.  ISV-106-X"""
        introducer = self.introducer()
        host = self.network.host()
        secured = []
        for _ in range(31):
            visitor = self.visitor(introducer, host=host)
            self.network.advance(0.1)
            secured.append(visitor.secured)
            visitor.drop()
            self.network.advance(0.1)
        self.assertEqual(introducer.server.counters["refused.rate"], 31 - sum(secured))
        self.assertGreaterEqual(sum(secured), 30)
        self.assert_others_are_served(introducer)

    def test_queries_a_minute(self) -> None:
        """The eleventh is closed with "try again later", not lied to.  ISV-106-X"""
        introducer = self.introducer(max_requests=100)
        visitor = self.greeted(introducer)
        for _ in range(10):
            visitor.send_message(registry.encode(RequestPeersIntroducer(), 1))
        self.network.settle()
        self.assertEqual(len(visitor.messages), 11)
        self.assertIsNone(self.query(visitor))
        assert visitor.closed is not None
        self.assertEqual(visitor.closed.code, 1013)
        self.assert_others_are_served(introducer)

    def test_registrations_a_minute(self) -> None:
        """The fifth is declined.  ISV-106-X"""
        introducer = self.introducer()
        visitor = self.greeted(introducer)
        for port in (1, 2, 3, 4):
            self.assertTrue(self.registered(visitor, port))
        self.assertFalse(self.registered(visitor, 5))
        self.assert_others_are_served(introducer)

    def test_large_messages(self) -> None:
        """Nothing above 64 KiB is buffered.  ISV-101-X, CON-112-X"""
        introducer = self.introducer()
        for size, code in ((65_536 - 6, 1002), (65_536 - 5, 1009)):
            visitor = self.greeted(introducer)
            visitor.send_message(Message(63, None, bytes(size)))
            self.network.settle()
            assert visitor.closed is not None
            self.assertEqual(visitor.closed.code, code)
        self.assert_others_are_served(introducer)

    def test_noise(self) -> None:
        """Malformed messages, text, junk instead of anything.  ISV-101-X"""
        introducer = self.introducer()
        for frame in (b"", b"\x3f", bytes(Message(63, 1, b"x")), bytes(Message(218, 1, b"x"))):
            visitor = self.greeted(introducer)
            visitor.send_frame(frame)
            self.network.settle()
            assert visitor.closed is not None
            self.assertEqual(visitor.closed.code, 1002, frame)
        for junk in (b"\x16" + bytes(500), b"GET / HTTP/9\r\n\r\n", b"\x00" * 20_000, b"\n" * 99):
            visitor = self.visitor(introducer, tls=False)
            visitor.send(junk)
            self.network.advance(31)
            self.assertFalse(visitor.is_connected)
            self.assertEqual(visitor.messages, [])
        self.assert_others_are_served(introducer)

    def test_a_crowd_that_floods(self) -> None:
        """A hundred addresses do everything at once; others are served.  ISV-106-X"""
        introducer = self.introducer()
        for _ in range(100):
            visitor = self.visitor(introducer, tls=False)
            visitor.upgrade()
            visitor.greet(server_port=1)
            for port in range(1, 40):
                visitor.send_message(Message(218, 1, b"\0\0\0\0" + port.to_bytes(2, "big") + b"\1"))
                visitor.send_message(registry.encode(RequestPeersIntroducer(), 1))
        self.network.advance(3)
        self.assertLessEqual(introducer.server.size.nodes, 400)
        self.assertLessEqual(introducer.server._probes, 16)
        self.assert_others_are_served(introducer)
        self.network.advance(40)
        self.assertEqual(len(introducer.server._visitors), 0)


class AnyRequestTests(IntroducerCase):
    """Whatever a visitor says."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.introducer(queries_per_minute=1_000_000).server
        self.answers: list[Message] = []
        self.closes: list[int] = []
        self.visitor_stub: Any = SimpleNamespace(
            address=PeerAddress("10.9.9.9", 1),
            remote=SimpleNamespace(server_port=0),
            peer_id=None,
            send=self.answers.append,
            close=self.closes.append,
        )

    @given(st.integers(0, 255), st.none() | st.integers(0, 65535), st.binary(max_size=80))
    @example(63, None, b"")
    @example(218, 7, b"\0\0\0\0\0\1\1")
    def test_any_request_is_answered_ignored_or_malformed(
        self, opcode: int, message_id: int | None, data: bytes
    ) -> None:
        """And nothing else happens.  ISV-101-X"""
        self.answers.clear()
        try:
            self.server.asked(self.visitor_stub, Message(opcode, message_id, data))
        except ClientError as error:
            self.assertEqual(error.kind, ClientErrorKind.MALFORMED)
        expected = {63: [(64, message_id)], 218: [(219, message_id)]}.get(opcode, [])
        self.assertIn([(m.type, m.id) for m in self.answers], ([], expected))
        self.assertEqual(self.closes, [])

    @given(st.binary(max_size=120))
    def test_any_handshake_is_taken_or_refused(self, body: bytes) -> None:
        """Bytes that claim to be one.  CON-003.2"""
        frame = bytes(Message(1, None, body))
        try:
            decode(frame)
        except ClientError as error:
            self.assertEqual(error.kind, ClientErrorKind.MISSING_HANDSHAKE)


class LifeTests(IntroducerCase):
    """Starting and stopping."""

    def test_visitors_are_told_when_it_stops(self) -> None:
        """With 1001; openings and probes end too.  CNC-004"""
        introducer = self.introducer()
        sink = HostilePeer(self.network)
        visitor = self.greeted(introducer, host=sink.host)
        self.registered(visitor, sink.listen().port)
        silent = self.visitor(introducer, tls=False)
        self.network.settle()
        self.assertEqual(introducer.server._probes, 1)
        self.network.run(introducer.server.stopService())
        self.network.settle()
        assert visitor.closed is not None
        self.assertEqual(visitor.closed.code, 1001)
        self.assertFalse(silent.is_connected)
        self.assertEqual(introducer.server._probes, 0)

    def test_a_port_that_is_taken(self) -> None:
        """Ends the start with the reason.  CNC-101-X"""
        introducer = self.introducer()
        with self.assertRaises(Io):
            self.network.introducer(host=introducer.host)

    def test_stopping_twice_and_before_the_start(self) -> None:
        """Is harmless.  API-001.3"""
        introducer = self.introducer()
        self.network.run(introducer.server.stopService())
        self.network.run(introducer.server.stopService())


class ConfigTests(SynchronousTestCase):
    """``IntroducerServerConfig``."""

    def test_the_default_is_startable_and_public(self) -> None:
        """Port 9448 everywhere, both kinds, nothing kept.  ISV-101-X"""
        config = IntroducerServerConfig()
        self.assertEqual(config.listen_addr, PeerAddress("0.0.0.0", 9448))
        self.assertEqual(config.encryption, Encryption.BOTH)
        self.assertFalse(config.allows_private_addresses)
        self.assertEqual(config.handshake_string, Network.DIG_MAINNET.handshake)
        self.assertIsNone(config.nodes_path)

    def test_private_addresses_follow_the_address_listened_on(self) -> None:
        """Unless it is said.  CFG-101-X"""
        private = IntroducerServerConfig(listen_addr="10.0.0.1:1")
        self.assertTrue(private.allows_private_addresses)
        public = IntroducerServerConfig(listen_addr="8.8.8.8:1")
        self.assertFalse(public.allows_private_addresses)
        said = IntroducerServerConfig(listen_addr="10.0.0.1:1", allow_private_addresses=False)
        self.assertFalse(said.allows_private_addresses)

    def test_bad_values_are_refused_by_name(self) -> None:
        """The sentence names the option.  API-004"""
        for field, value in (
            ("encryption", "tls"),
            ("encryption", 7),
            ("listen_addr", "localhost:1"),
            ("network", "atlantis"),
            ("max_nodes", 0),
            ("cert_path", "x"),
            ("vetting_connect_secs", 11),
        ):
            with self.assertRaisesRegex(InvalidConfig, field if field != "cert_path" else "key"):
                IntroducerServerConfig(**{field: value})  # type: ignore[arg-type]
