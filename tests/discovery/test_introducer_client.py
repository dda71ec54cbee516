"""A node and its introducer: honest, down, hostile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chia_rs import TimestampedPeerInfo
from chia_rs.sized_ints import uint16, uint64
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from dig_gossip import IntroducerConfig
from dig_gossip.connection.handshake import decode
from dig_gossip.errors import (
    ChannelClosed,
    IntroducerError,
    IntroducerNotConfigured,
    InvalidConfig,
    ServiceNotStarted,
)
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.testing.network import MemoryNode
from dig_gossip.types.network import Network
from dig_gossip.wire import registry
from dig_gossip.wire.dig import RegisterAck, RegisterPeer, RespondPeersIntroducer
from dig_gossip.wire.message import Message
from tests.discovery.introducer_case import IntroducerCase

Script = Callable[[HostilePeer], object]


class HonestTests(IntroducerCase):
    """An introducer that does what it should."""

    def test_a_node_asks_and_registers(self) -> None:
        """Over TLS and without, by hand.  DSC-004, DSC-005, API-002.12"""
        introducer = self.introducer()
        for url in (introducer.url, introducer.url.replace("wss:", "ws:")):
            node = self.client(url)
            self.network.start()
            self.assertNotIn(node.host, self.hosts(node))
            answer = self.network.run(node.handle.register_with_introducer())
            self.assertEqual(answer, RegisterAck(True))

    def test_the_address_book_takes_the_answer(self) -> None:
        """Whoever asked; not beyond the budget of a source.  DSC-004, PEX-005"""
        rows = tuple(
            TimestampedPeerInfo(f"10.{number}.0.9", uint16(1), uint64(0)) for number in range(100)
        )
        answer = registry.encode(RespondPeersIntroducer(rows), 0x4000)
        node = self.quiet(
            Scripted(self, answers={63: answer}).url, discovery=True, target_outbound_count=0
        )
        self.network.settle()
        self.assertEqual(len(self.hosts(node)), 100)
        stats = self.network.run(node.handle.stats())
        self.assertGreater(stats.known_addresses, 50)
        for _ in range(40):
            self.hosts(node)
        stats = self.network.run(node.handle.stats())
        self.assertEqual(stats.extra["exchange_over_budget"], 41 * 100 - 3000)

    def test_nodes_find_each_other_through_it(self) -> None:
        """They know the introducer and nothing else.  INT-008"""
        introducer = self.introducer()
        nodes = [
            self.client(introducer.url, discovery=True, target_outbound_count=2) for _ in range(6)
        ]
        self.network.start()
        self.network.advance(20)
        for node in nodes:
            table = node.service.node.peers.table
            # Whom all others have dialed has nobody left to dial.
            self.assertTrue(table.outbound_count == 2 or len(table) == 5, len(table))

    def test_a_node_registers_at_its_start_and_every_half_hour(self) -> None:
        """Without anybody asking.  DSC-005.1"""
        introducer = self.introducer()
        self.client(introducer.url)
        self.network.start()
        self.network.advance(1)
        known = introducer.server.registry.counters
        self.assertEqual(known["registered.refreshed"], 1)
        self.network.advance(0.8 * 1800 - 5)
        self.assertEqual(known["registered.refreshed"], 1)
        self.network.advance(0.4 * 1800 + 10)
        self.assertEqual(known["registered.refreshed"], 2)

    def test_the_external_address_is_what_is_registered(self) -> None:
        """An introducer decides what it believes; the port is that of the address.  DSC-005"""
        sinks = [Scripted(self), Scripted(self)]
        self.client(sinks[0].url, external_addr="8.8.8.8:1234")
        self.client(sinks[1].url)
        self.network.start()
        self.network.advance(2)
        heard = [message for sink in sinks for message in sink.heard]
        bodies = [RegisterPeer.from_bytes(m.data) for m in heard if m.type == 218]
        self.assertEqual(
            {(body.ip, body.port, body.node_type) for body in bodies},
            {("8.8.8.8", 1234, 1), ("", 9444, 1)},
        )

    def test_a_name_of_its_own_for_the_network(self) -> None:
        """Only on this link, and only if it is set.  CFG-103-X"""
        sink = Scripted(self, network_id="elsewhere")
        node = self.client(sink.url, network_id="elsewhere")
        self.network.start()
        self.network.advance(2)
        self.assertEqual(decode(bytes(sink.heard[0])).network_id, "elsewhere")
        self.assertEqual(node.service.node.peers.network, Network.DIG_MAINNET.handshake)

    def test_the_path_of_the_url_is_what_is_asked_for(self) -> None:
        """An introducer may live behind a proxy.  wire §9"""
        sink = Scripted(self)
        self.client(f"{sink.url}/some/where?a=b")
        self.network.start()
        self.network.advance(1)
        assert sink.peer.http_request is not None
        self.assertIn(b"GET /some/where?a=b HTTP/1.1", sink.peer.http_request)

    def test_a_declined_registration_is_an_answer(self) -> None:
        """And no reason to try again sooner.  API-002.12"""
        sink = Scripted(self, answers={218: registry.encode(RegisterAck(False), 0x4000)})
        node = self.client(sink.url)
        self.network.start()
        answer = self.network.run(node.handle.register_with_introducer())
        self.assertEqual(answer, RegisterAck(False))
        self.network.advance(0.8 * 1800 - 10)
        self.assertEqual(sink.peer.connections, 1)

    def test_every_attempt_has_a_connection_of_its_own(self) -> None:
        """And says good-bye when it is done.  INTR-102-X"""
        introducer = self.introducer()
        node = self.client(introducer.url)
        self.network.start()
        self.network.advance(1)
        for count in (2, 3, 4):
            self.hosts(node)
            self.network.settle()
            self.assertEqual(introducer.server.counters["accepted"], count)
            self.assertEqual(len(introducer.server._visitors), 0)

    def test_whoever_asks_meanwhile_shares_the_answer(self) -> None:
        """One query at a time; each gets a Deferred of its own.  INTR-101-X"""
        introducer = self.introducer()
        node = self.client(introducer.url)
        self.network.start()
        self.network.advance(1)
        asking = [node.handle.discover_from_introducer() for _ in range(3)]
        answers = [self.network.run(deferred) for deferred in asking]
        self.assertEqual(answers, [[], [], []])
        self.assertEqual(introducer.server.counters["accepted"], 2)

    def test_a_query_and_a_registration_take_turns(self) -> None:
        """Chia's server closes the first of two connections of one key.  INTR-101-X"""
        introducer = self.introducer()
        node = self.client(introducer.url)
        self.network.start()
        asking: list[Deferred[Any]] = [
            node.handle.discover_from_introducer(),
            node.handle.register_with_introducer(),
        ]
        client = node.service.node.introducer
        assert client is not None
        most = 0
        while not all(deferred.called for deferred in asking):
            self.network.advance(0.001)
            most = max(most, len(client._visits))
        self.assertEqual((most, introducer.server.counters["accepted"]), (1, 2))

    def test_a_node_without_an_introducer_says_so(self) -> None:
        """No socket is opened for it.  API-002.12"""
        node = self.network.node()
        empty = self.network.node(introducer=IntroducerConfig())
        self.network.start()
        for verb in ("discover_from_introducer", "register_with_introducer"):
            self.assertFires(IntroducerNotConfigured, getattr(node.handle, verb)())
            self.assertFires(InvalidConfig, getattr(empty.handle, verb)())


class Scripted:
    """An introducer that answers each opcode with one message, or does as it is told."""

    def __init__(
        self,
        case: IntroducerCase,
        *,
        answers: dict[int, Message] | None = None,
        on_connect: Script | None = None,
        on_request: Script | None = None,
        on_message: Script | None = None,
        **greeting: object,
    ) -> None:
        self.answers = answers or {}
        self.heard: list[Message] = []
        self._greeting = greeting
        self.peer = HostilePeer(case.network)
        address = self.peer.listen(
            on_connect=on_connect,
            on_request=on_request or (lambda peer: peer.accept_upgrade()),
            on_message=on_message or self.answer,
        )
        self.url = f"wss://{address}"

    def answer(self, peer: HostilePeer) -> None:
        """Greet, then answer."""
        message = peer.messages[-1]
        self.heard.append(message)
        if message.type == 1:
            peer.greet(**self._greeting)  # type: ignore[arg-type]
        elif message.type in self.answers:
            peer.send_message(self.answers[message.type])


class HostileTests(IntroducerCase):
    """An introducer that is down, lies, hangs or floods."""

    def fails(self, url: str, **options: Any) -> tuple[MemoryNode, str]:
        """A query must fail with IntroducerError, and leave the node well."""
        node = self.quiet(url, **options)
        error = self.assertFires(IntroducerError, node.handle.discover_from_introducer())
        self.network.run(node.handle.health_check())
        self.network.advance(10)
        return node, str(error)

    def test_nobody_there(self) -> None:
        """A refused connection.  INTR-101-X"""
        _, error = self.fails(f"wss://{self.network.host()}:9448")
        self.assertIn("refused", error)

    def test_nobody_answers(self) -> None:
        """Connecting has its own timeout.  DSC-004"""
        introducer = self.introducer()
        self.network.kill(introducer)
        node = self.quiet(introducer.url, connection_timeout_secs=4)
        before = self.network.clock.seconds()
        error = self.assertFires(IntroducerError, node.handle.discover_from_introducer())
        self.assertAlmostEqual(self.network.clock.seconds() - before, 4, places=3)
        self.assertIn("timeout", str(error))

    def test_an_introducer_that_hangs(self) -> None:
        """At every step; the exchange has its own timeout.  DSC-004"""
        quiet: Script = lambda peer: None  # noqa: E731 - one of several
        for scripted in (
            Scripted(self, on_request=quiet),
            Scripted(self, on_message=quiet),
            Scripted(self),
        ):
            before = self.network.clock.seconds()
            node, error = self.fails(scripted.url, request_timeout_secs=7)
            self.assertIn("timeout", error)
            self.assertLess(self.network.clock.seconds() - before, 7 + 10 + 1)
            self.assertFalse(scripted.peer.is_connected)
            self.network.run(node.service.stop())

    def test_an_introducer_without_tls(self) -> None:
        """Where TLS was expected.  DSC-004"""
        introducer = self.introducer(encryption="ws")
        self.fails(introducer.url.replace("ws:", "wss:"))

    def test_an_introducer_of_another_network(self) -> None:
        """Its addresses are of no use.  DSC-004.1"""
        _, error = self.fails(Scripted(self, network_id="mainnet").url)
        self.assertIn("wrong_network", error)

    def test_something_else_than_an_introducer(self) -> None:
        """Neither a full node nor an introducer by its own word.  DSC-004.1"""
        _, error = self.fails(Scripted(self, node_type=6).url)
        self.assertIn("wrong_node_type", error)

    def test_answers_that_are_none(self) -> None:
        """Another opcode under our id, a body that does not decode, an error, a close.

        DSC-004.1
        """
        for answer, why in (
            (Message(44, 0x4000, b"\0\0\0\0"), "answered with"),
            (Message(64, 0x4000, b"\0\0\0\1"), "RespondPeersIntroducer"),
            (Message(255, 0x4000, b""), "error"),
        ):
            _, error = self.fails(Scripted(self, answers={63: answer}).url)
            self.assertIn(why, error)
        closing = Scripted(
            self,
            on_message=lambda peer: (
                peer.greet()
                if peer.messages[-1].type == 1
                else peer.send_close(1008, "go\n\x1baway")
            ),
        )
        _, error = self.fails(closing.url)
        self.assertIn("1008 goaway", error)

    def test_an_introducer_that_floods(self) -> None:
        """Five frames are all it gets to say, of 64 KiB at most.  DSC-004"""

        def many(peer: HostilePeer) -> None:
            peer.greet()
            for _ in range(10_000):
                peer.send_message(Message(20, None, b"x" * 88))

        def large(peer: HostilePeer) -> None:
            peer.greet()
            peer.send_message(Message(64, None, bytes(65_536)))

        def endless(peer: HostilePeer) -> None:
            peer.greet()
            for _ in range(100):
                peer.send_frame(bytes(1000), fin=False)

        def headers(peer: HostilePeer) -> None:
            peer.send(b"HTTP/1.1 101 Yes\r\nX: " + b"x" * 100_000)

        for script in (many, large, endless):
            _, error = self.fails(Scripted(self, on_message=script).url)
            self.assertIn("closed with 100", error)
        self.fails(Scripted(self, on_request=headers).url)

    def test_an_answer_before_the_question(self) -> None:
        """Is an answer: what it says is no more true afterwards.  DSC-004"""

        def eager(peer: HostilePeer) -> None:
            if peer.messages[-1].type == 1:
                peer.greet()
                peer.send_message(Message(64, None, b"\0\0\0\0"))

        node = self.quiet(Scripted(self, on_message=eager).url)
        self.assertEqual(self.hosts(node), set())

    def test_it_is_tried_again_with_growing_pauses(self) -> None:
        """1 s, 2 s, 4 s …; each failure is said once.  DSC-005.1, DSC-006.3"""
        captured = self.enterContext(capturedLogs())
        self.client(f"wss://{self.network.host()}:9448")
        self.network.start()
        self.network.advance(100)
        events = [event for event in captured if event.get("event") == "introducer_failed"]
        self.assertEqual([event["failures"] for event in events], list(range(1, len(events) + 1)))
        self.assertIn(len(events), (6, 7, 8))

    def test_an_introducer_that_comes_up_later(self) -> None:
        """Finds the node registered soon.  DSC-005.1"""
        host = self.network.host()
        self.client(f"wss://{host}:9448")
        self.network.start()
        self.network.advance(20)
        introducer = self.introducer(host=host)
        self.network.advance(40)
        self.assertEqual(introducer.server.size.vetted, 1)


class EndTests(IntroducerCase):
    """Cancelling and stopping, at every stage."""

    STAGES = (0.0, 0.005, 0.03, 0.05, 0.07, 0.09, 0.2)

    def test_cancelling_leaves_nothing(self) -> None:
        """No timer and no socket, whatever was under way.  style §6.4"""
        for stage in self.STAGES:
            node = self.quiet(Scripted(self).url)
            pending = node.service.node.clock.pending
            asking = node.handle.discover_from_introducer()
            self.network.advance(stage)
            asking.cancel()
            self.assertFires(CancelledError, asking)  # type: ignore[arg-type]
            self.network.advance(10)
            self.assertEqual(node.service.node.clock.pending, pending)
            self.assertEqual(len(node.service.node.transports), 0)
            self.network.run(node.service.stop())

    def test_cancelling_one_of_two_leaves_the_other(self) -> None:
        """Each has a Deferred of its own.  style §6.1"""
        node = self.client(self.introducer().url)
        self.network.start()
        one, other = (node.handle.discover_from_introducer() for _ in range(2))
        one.cancel()
        self.assertFires(CancelledError, one)  # type: ignore[arg-type]
        self.assertEqual(self.network.run(other), [])

    def test_stopping_the_node_ends_what_waits_for_its_turn(self) -> None:
        """Without another connection.  CNC-004"""
        sink = Scripted(self)
        node = self.quiet(sink.url)
        asking = node.handle.discover_from_introducer()
        registering = node.handle.register_with_introducer()
        self.network.advance(1)
        stopping = node.service.stop()
        for waiting in (asking, registering):
            self.assertFires(ChannelClosed, waiting)
        self.network.run(stopping)
        self.assertEqual(sink.peer.connections, 1)

    def test_stopping_the_node_ends_what_is_under_way(self) -> None:
        """At once, with ChannelClosed.  CNC-004"""
        for stage in self.STAGES:
            node = self.quiet(Scripted(self).url)
            asking = node.handle.discover_from_introducer()
            self.network.advance(stage)
            stopping = node.service.stop()
            self.assertFires(ChannelClosed, asking)
            self.network.run(stopping)
            self.assertFires(ServiceNotStarted, node.handle.discover_from_introducer())
