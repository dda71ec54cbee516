"""Autobahn, tamed: each rule of :mod:`dig_gossip.connection.websocket` by its failure."""

from __future__ import annotations

import configparser
import importlib.metadata
import inspect
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import txaio
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketServerFactory
from autobahn.websocket.xormasker import create_xor_masker
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from dig_gossip.connection import websocket
from dig_gossip.connection.websocket import (
    LARGEST_MESSAGE_BYTES,
    PeerServerProtocol,
    PeerWebSocket,
)
from dig_gossip.constants import (
    CLOSE_TIMEOUT_SECS,
    PRE_HANDSHAKE_MAX_MESSAGE_BYTES,
    WS_MAX_MESSAGE_BYTES,
)
from dig_gossip.errors import GossipError
from dig_gossip.testing.hostile import BINARY, CLOSE, PING, PONG, TEXT, HostilePeer, make_frame
from dig_gossip.testing.transport import MemoryTransport
from dig_gossip.wire import frames
from dig_gossip.wire.frames import OutboundFrame, frame_header
from dig_gossip.wire.masking import mask
from dig_gossip.wire.message import Message
from tests.connection.hostile_case import HostileCase
from tests.connection.websocket_case import Recorder, WebSocketCase


class OptionTests(WebSocketCase):
    """Nothing is left to Autobahn's defaults."""

    def test_the_version_is_recent_enough(self) -> None:
        """Earlier ones ship illegal instructions, or a decompression bomb.  CON-112-X"""
        installed = importlib.metadata.version("autobahn").split(".")
        self.assertGreaterEqual([int(part) for part in installed[:3]], [26, 10, 2])
        setup = configparser.ConfigParser()
        setup.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
        self.assertIn("autobahn >= 26.10.2", setup["options"]["install_requires"])

    def test_factories_make_our_protocols(self) -> None:
        """Autobahn's default protocol cannot be connected.  CON-002"""
        self.serve()
        self.assertIs(type(self.protocol), PeerServerProtocol)
        for factory in (self.servers, self.clients):
            self.assertTrue(issubclass(factory.protocol, PeerWebSocket))

    def test_limits_and_manners(self) -> None:
        """Sizes have limits, violations are answered with a close frame.  CON-112-X"""
        for factory in (self.servers, self.clients):
            self.assertEqual(factory.maxMessagePayloadSize, WS_MAX_MESSAGE_BYTES)
            self.assertEqual(factory.maxFramePayloadSize, WS_MAX_MESSAGE_BYTES)
            self.assertIs(factory.failByDrop, False)
            self.assertIs(factory.tcpNoDelay, True)
            self.assertIs(factory.utf8validateIncoming, True)
            self.assertEqual(factory.logFrames, False)
            self.assertEqual(factory.logOctets, False)
        self.assertIsNone(self.servers.server)
        self.assertIsNone(self.clients.useragent)
        self.assertIs(self.servers.requireMaskedClientFrames, True)
        self.assertIs(self.servers.maskServerFrames, False)
        self.assertIs(self.clients.maskClientFrames, True)
        self.assertIs(self.clients.acceptMaskedServerFrames, False)

    def test_autobahn_has_no_timers(self) -> None:
        """They run on the global reactor, and in whole seconds.  CON-001.2, CON-002.2"""
        for factory in (self.servers, self.clients):
            self.assertEqual(factory.openHandshakeTimeout, 0)
            self.assertEqual(factory.closeHandshakeTimeout, 0)
            self.assertEqual(factory.autoPingInterval, 0)
        self.assertEqual(self.clients.serverConnectionDropTimeout, 0)

    def test_nothing_is_scheduled_behind_our_back(self) -> None:
        """A whole life, opening to close, without a timer that our clock does not know.  CNC-002"""

        def unexpected(*_args: Any) -> None:
            raise AssertionError("Autobahn has set a timer of its own")

        for factory in (self.servers, self.clients):
            self.patch(factory._batched_timer, "call_later", unexpected)
        self.patch(txaio, "call_later", unexpected)
        self.serve()
        self.protocol.close(1000)
        self.network.settle()
        self.peer.send_close(1000)
        self.network.settle()
        self.assertEqual(self.events, ["opened", "closing", "lost"])
        self.receiver = Recorder()
        self.peer = HostilePeer(self.network, tls=False)
        self.dial()
        self.peer.send_close(1000)
        self.network.advance(CLOSE_TIMEOUT_SECS + 1)
        self.assertEqual(self.events, ["opened", "closing", "lost"])

    def test_autobahns_defaults_are_not_ours(self) -> None:
        """Otherwise none of these tests would prove that we set anything.  CON-112-X"""
        for make in (WebSocketServerFactory, WebSocketClientFactory):
            factory = make(reactor=self.reactor)
            self.assertEqual(factory.maxMessagePayloadSize, 0)
            self.assertTrue(factory.failByDrop)
            self.assertTrue(factory.openHandshakeTimeout)

    def test_nagle_is_off_at_both_ends(self) -> None:
        """Small messages do not wait for one another.  CON-112-X"""
        set_to: list[bool] = []
        self.patch(MemoryTransport, "setTcpNoDelay", lambda _self, on: set_to.append(on))
        self.serve()
        self.assertEqual(set_to, [True])
        self.peer.drop()
        self.peer = HostilePeer(self.network, tls=False)
        self.dial()
        self.assertEqual(set_to, [True, True])

    def test_callbacks_are_plain_methods(self) -> None:
        """Autobahn never awaits what ``onMessage`` returns.  MSG-101-X"""
        for factory in (self.servers, self.clients):
            for name in ("onConnect", "onOpen", "onMessage", "onClose", "onPing", "onPong"):
                method = getattr(factory.protocol, name)
                self.assertFalse(inspect.iscoroutinefunction(method), name)


class OpeningTests(WebSocketCase):
    """The HTTP part."""

    def test_response_says_nothing_superfluous(self) -> None:
        """No banner, no extension, no subprotocol.  wire §2"""
        self.serve()
        lines = (self.peer.http_response or b"").strip().split(b"\r\n")
        self.assertEqual(lines[0], b"HTTP/1.1 101 Switching Protocols")
        names = {line.partition(b":")[0].lower() for line in lines[1:]}
        self.assertEqual(names, {b"upgrade", b"connection", b"sec-websocket-accept"})

    def test_request_says_nothing_superfluous(self) -> None:
        """No user agent, no origin, no extension, no subprotocol; the path is ``/ws``.  wire §2"""
        self.dial()
        lines = (self.peer.http_request or b"").strip().split(b"\r\n")
        self.assertEqual(lines[0], b"GET /ws HTTP/1.1")
        names = {line.partition(b":")[0].lower() for line in lines[1:]}
        wanted = {b"host", b"upgrade", b"connection", b"pragma", b"cache-control"}
        wanted |= {b"sec-websocket-key", b"sec-websocket-version"}
        self.assertEqual(names, wanted)

    def test_ipv4_host_header(self) -> None:
        """As it was dialed.  wire §2"""
        self.dial()
        host = f"\r\nHost: {self.peer.host}:9444\r\n".encode()
        self.assertIn(host, self.peer.http_request or b"")

    def test_ipv6_host_header_has_brackets(self) -> None:
        """An address with colons is not a host and a port.  wire §2, CON-103-X"""
        self.peer = HostilePeer(self.network, tls=False, host="2001:db8::1")
        self.dial()
        self.assertIn(b"\r\nHost: [2001:db8::1]:9444\r\n", self.peer.http_request or b"")
        self.assertEqual(self.events, ["opened"])

    def test_there_is_no_page_to_look_at(self) -> None:
        """A browser gets a status line, no HTML, no version.  D12, wire §2"""
        self.listen()
        self.peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.network.settle()
        self.assertIn(b" 426 ", self.peer.received)
        for unwanted in (b"html", b"Autobahn", b"Server:"):
            self.assertNotIn(unwanted, self.peer.received)

    def test_compression_offers_are_ignored(self) -> None:
        """The upgrade succeeds without, and a compressed frame is a violation.  wire §2"""
        self.listen()
        self.peer.upgrade(
            extra_headers={
                "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits, x-other"
            }
        )
        self.network.settle()
        self.assertIn(b" 101 ", self.peer.http_response or b"")
        self.assertNotIn(b"xtension", self.peer.http_response or b"")
        self.peer.send_frame(b"\x00", rsv=4)
        self.network.settle()
        self.assertIn(("closing", 1002, True), self.receiver.events)

    def test_nothing_is_started_before_it_is_open(self) -> None:
        """No producer, no timer, and nothing that could be sent.  BP-101-X"""
        self.listen()
        frame = OutboundFrame(Message(1, None, b"early"))
        self.assertFalse(self.protocol.writer.send(frame))
        self.assertFalse(self.protocol.writer.ping(b"early"))
        self.protocol.writer.pong(b"early")
        self.assertIsNone(self.transport._producer)
        self.assertEqual(self.clock.pending, 0)
        self.assertEqual(self.transport.bytes_written, 0)
        self.peer.upgrade()
        self.network.settle()
        self.assertIs(self.transport._producer, self.protocol.writer)
        self.assertEqual(self.peer.frames, [], "what was too early is not sent later")

    def test_closing_before_it_is_open_aborts(self) -> None:
        """There is nobody to understand a close frame yet.  CON-002.2"""
        self.listen()
        self.protocol.close(1001)
        self.network.settle()
        self.assertEqual(self.peer.received, b"")
        self.assertEqual(self.events, ["lost"])

    def test_transports_count_from_the_first_moment(self) -> None:
        """Whoever waits for the last one waits for this one, too.  API-001.3"""
        self.listen()
        self.assertEqual(len(self.transports), 1)
        empty = self.transports.when_empty()
        self.assertNoResult(empty)
        self.peer.drop()
        self.network.settle()
        self.assertIsNone(self.successResultOf(empty))
        self.assertIsNone(self.successResultOf(self.transports.when_empty()))


class ReceivingTests(WebSocketCase):
    """What reaches a receiver, and in which order."""

    def test_messages_fragments_pings_and_pongs(self) -> None:
        """Messages whole, pongs as they are, pings answered.  wire §2"""
        self.serve()
        self.peer.send_frame(b"one")
        self.peer.send_frame(b"tw", fin=False)
        self.peer.send_frame(b"are you there", PING)
        self.peer.send_frame(b"o", 0)
        self.peer.send_frame(b"pong", PONG)
        self.network.settle()
        self.assertEqual(
            self.receiver.events[1:], [("frame", b"one"), ("frame", b"two"), ("pong", b"pong")]
        )
        self.assertEqual(
            [(f.opcode, f.payload) for f in self.peer.frames], [(PONG, b"are you there")]
        )

    def test_limit_before_and_after_registration(self) -> None:
        """64 KiB for a stranger, for a peer what its opcode allows.  RL-106-X, design D7"""
        self.serve()
        self.assertEqual(self.protocol.maxMessagePayloadSize, PRE_HANDSHAKE_MAX_MESSAGE_BYTES)
        self.assertEqual(self.protocol.maxFramePayloadSize, PRE_HANDSHAKE_MAX_MESSAGE_BYTES)
        self.protocol.registered()
        self.assertEqual(self.protocol.maxMessagePayloadSize, LARGEST_MESSAGE_BYTES)
        self.assertEqual(self.protocol.maxFramePayloadSize, LARGEST_MESSAGE_BYTES)
        self.peer.send_frame(bytes(100_000))
        self.network.settle()
        self.assertEqual(self.events, ["opened", "frame"])

    def test_messages_after_our_close_are_ignored(self) -> None:
        """Autobahn goes on delivering them.  CON-106-X"""
        self.serve()
        self.receiver.then = lambda: self.protocol.close(1000)
        # In one read, so that the close frame cannot stop the second.
        self.peer.send(make_frame(b"one") + make_frame(b"two") + make_frame(b"x", TEXT))
        self.network.settle()
        self.assertEqual(self.events, ["opened", "frame", "closing"])

    def test_text_is_closed_with_1003(self) -> None:
        """We only speak binary.  wire §2"""
        self.serve()
        self.peer.send_frame(b"text", TEXT)
        self.network.settle()
        assert self.peer.closed is not None
        self.assertEqual(self.peer.closed.code, 1003)
        self.assertIn("text", self.events)
        self.assertNotIn("frame", self.events)

    def test_exceptions_close_with_1011(self) -> None:
        """Autobahn would lose them, and leave the connection as it was.  MSG-101-X"""
        for name, say in {
            "opened": lambda peer: None,
            "frame": lambda peer: peer.send_frame(b"message"),
            "pong": lambda peer: peer.send_frame(b"pong", PONG),
        }.items():
            self.begin()
            self.receiver.fail_in = name
            self.listen()
            self.peer.upgrade()
            say(self.peer)
            self.network.settle()
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1, name)
            assert self.peer.closed is not None
            self.assertEqual(self.peer.closed.code, 1011, name)
            self.assertEqual(self.receiver.events[-1], ("closing", 1011, True), name)

    def test_exceptions_while_closing_do_not_stop_it(self) -> None:
        """The deadline was set before anybody was told.  CON-112-X"""
        self.serve()
        self.receiver.fail_in = "closing"
        self.protocol.close(1000)
        self.network.settle()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.network.advance(CLOSE_TIMEOUT_SECS)
        self.assertEqual(self.events[-1], "lost")

    def test_a_receiver_may_be_replaced_between_two_messages(self) -> None:
        """As when an opening becomes a session.  CON-002.4"""
        self.serve()
        second = Recorder()

        def replace() -> None:
            self.protocol.receiver = second

        self.receiver.then = replace
        self.peer.send(make_frame(b"one") + make_frame(b"two"))
        self.network.settle()
        self.assertEqual(self.events, ["opened", "frame"])
        self.assertEqual(second.events, [("frame", b"two")])


class ClosingTests(WebSocketCase):
    """Every way out, in both roles."""

    def test_every_code_reaches_the_peer(self) -> None:
        """Autobahn's own ``sendClose`` refuses most of them.  wire §2"""
        for code in (1000, 1001, 1002, 1003, 1008, 1009, 1011, 1013):
            self.begin()
            self.serve()
            self.protocol.close(code, "-6")
            self.network.settle()
            assert self.peer.closed is not None
            self.assertEqual((self.peer.closed.code, self.peer.closed.reason), (code, "-6"))
            self.assertEqual(self.receiver.events[-1], ("closing", code, True))

    def test_close_is_said_once(self) -> None:
        """Neither a second close nor a ping nor a message follows.  CON-112-X"""
        self.serve()
        self.protocol.close(1000)
        self.protocol.close(1008)
        self.assertFalse(self.protocol.writer.send(OutboundFrame(Message(1, None, b""))))
        self.peer.send_frame(b"", PING)
        self.network.settle()
        self.assertEqual([frame.opcode for frame in self.peer.frames], [CLOSE])
        self.assertEqual(self.events.count("closing"), 1)

    def test_a_long_reason_is_cut(self) -> None:
        """A control frame has 125 bytes.  wire §2"""
        self.serve()
        self.protocol.close(1000, "x" * 1000)
        self.network.settle()
        self.assertEqual(len(self.peer.frames[-1].payload), 125)

    def test_server_drops_a_peer_that_never_answers(self) -> None:
        """Five seconds after our close frame.  CON-112-X"""
        self.serve()
        self.assert_dropped_after(lambda: self.protocol.close(1000))

    def test_client_drops_a_peer_that_never_answers(self) -> None:
        """Five seconds after our close frame.  CON-112-X"""
        self.dial()
        self.assert_dropped_after(lambda: self.protocol.close(1000))

    def test_client_drops_a_server_that_closes_and_stays(self) -> None:
        """It is the server's part to end TCP; with Autobahn's timers off, ours.  CON-112-X"""
        self.dial()

        def closed_by_peer() -> None:
            self.peer.send_close(1001, "restarting")
            self.network.advance(self.network.latency("", ""))

        self.assert_dropped_after(closed_by_peer)
        self.assertIn(("closing", 1001, False), self.receiver.events)

    def test_violation_is_dropped_when_the_peer_stays(self) -> None:
        """What follows a violation is not waited for: it may have no end.  CON-112-X"""
        self.serve()

        def violation() -> None:
            self.peer.send_frame(b"", 3)
            self.network.advance(self.network.latency("", ""))

        violation()
        self.assertEqual(self.events[-2:], ["closing", "lost"])
        self.assertIn(("closing", 1002, True), self.receiver.events)
        self.network.settle()
        self.assertFalse(self.peer.is_connected)

    def assert_dropped_after(self, begin: Callable[[], object]) -> None:
        begin()
        self.assertEqual(self.events[-1], "closing")
        self.network.advance(CLOSE_TIMEOUT_SECS - 0.1)
        self.assertNotIn("lost", self.events)
        self.network.advance(0.2)
        self.assertEqual(self.events[-1], "lost")
        self.network.settle()
        self.assertFalse(self.peer.is_connected)

    def test_lost_is_told_once_and_when_it_is_true(self) -> None:
        """Autobahn's ``is_closed`` fires when it begins to drop.  CON-115-X"""
        self.serve()
        self.protocol.dropConnection(abort=True)
        self.assertNotIn("lost", self.events)
        self.assertEqual(len(self.transports), 1)
        self.network.settle()
        self.assertEqual(self.events.count("lost"), 1)
        self.assertEqual(len(self.transports), 0)

    def test_the_peers_code_and_reason_are_kept(self) -> None:
        """For the error that comes of it.  API-004.1"""
        self.serve()
        self.assertEqual(self.protocol.remote_close, (None, ""))
        self.peer.send_close(1002, "110")
        self.network.settle()
        self.assertEqual(self.protocol.remote_close, (1002, "110"))
        self.assertIn(("closing", 1002, False), self.receiver.events)

    def test_the_peers_close_is_answered(self) -> None:
        """And the connection ends at once.  wire §2"""
        self.serve()
        self.peer.send_close(1000)
        self.network.settle()
        self.assertEqual([frame.opcode for frame in self.peer.frames], [CLOSE])
        self.assertFalse(self.peer.is_connected)
        self.assertEqual(self.events, ["opened", "closing", "lost"])


class LogTests(HostileCase):
    """A hostile peer writes nothing into our log."""

    def test_nothing_of_autobahn_is_logged(self) -> None:
        """Its lines carry what a peer dictates, up to the level of an error.  API-102-X"""
        events: list[LogEvent] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            events.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for say in (
            lambda peer: peer.send(b"GET \x1b[31m evil\r\n\r\n"),
            lambda peer: peer.upgrade("/other"),
            lambda peer: (peer.upgrade(), peer.send_frame(b"", 3)),
            lambda peer: (peer.upgrade(), peer.send_frame(b"", length_override=2**62)),
            lambda peer: (peer.upgrade(), peer.send_close(1006, "evil\nline")),
            lambda peer: (peer.upgrade(), peer.greet()),
        ):
            peer = self.hostile()
            peer.connect(self.node.address)
            say(peer)
            self.network.settle()
            peer.drop()
            self.assert_forgotten()
        anonymous = self.hostile(identity=None)
        anonymous.join(self.node.address)
        listening = self.hostile()
        address = listening.listen(on_request=lambda peer: peer.send(b"HTTP/1.1 evil\r\n\r\n"))
        self.assertFires(GossipError, self.node.handle.connect_to(address))
        self.assert_forgotten()
        self.assertGreater(len(events), 6, "our own lines are there")
        for logged in events:
            self.assertTrue(logged["log_namespace"].startswith("dig_gossip."), logged)
            self.assertIn("event", logged)


class FrameTests(WebSocketCase):
    """Our frames are what Autobahn's parser takes for whole messages, in both roles."""

    @given(
        st.one_of(
            st.integers(0, 300),
            st.sampled_from([125, 126, 127, 65_534, 65_535, 65_536, 65_537]),
        ),
        st.sampled_from([None, 0, 0xFFFF]),
        st.integers(0, 255),
    )
    def test_a_frame_is_read_as_the_message_it_is(
        self, length: int, message_id: int | None, opcode: int
    ) -> None:
        """Round trip through the parser of the other role, sizes around every limit.  wire §2"""
        header = 6 if message_id is None else 8
        message = Message(opcode, message_id, bytes(range(256)) * 257)
        message = Message(opcode, message_id, message.data[: max(0, length - header)])
        frame = OutboundFrame(message)
        self.assertEqual(frame.size, len(bytes(message)))
        for as_client, open_parser in ((True, self.serve), (False, self.dial)):
            self.begin()
            open_parser()
            self.protocol.registered()
            encoded = frame.encoded(as_client)
            self.protocol.dataReceived(encoded)
            is_read = self.receiver.events[1:] == [("frame", bytes(message))]
            self.assertTrue(is_read, "or a long wait for a diff")
            self.assertEqual(bool(encoded[1] & 0x80), as_client)

    @given(st.integers(0, 70_000), st.sampled_from([0, 0x80]))
    @example(125, 0)
    @example(126, 0)
    @example(65_535, 0x80)
    @example(65_536, 0x80)
    def test_the_header_announces_the_length_in_the_shortest_way(
        self, length: int, mask_bit: int
    ) -> None:
        """Any other way is a violation.  wire §2"""
        header = frame_header(length, mask_bit)
        self.assertEqual(header[0], 0x80 | BINARY)
        self.assertEqual(header[1] & 0x80, mask_bit)
        short = header[1] & 0x7F
        layouts = {126: "!H", 127: "!Q"}
        announced = struct.unpack(layouts[short], header[2:])[0] if short in layouts else short
        self.assertEqual(announced, length)
        self.assertEqual(len(header), 2 if length < 126 else 4 if length < 65_536 else 10)

    @given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
    def test_masking_is_autobahns(self, payload: bytes, key: bytes) -> None:
        """And masking twice is not masking.  wire §2"""
        masked = mask(payload, key)
        if payload:
            self.assertEqual(masked, create_xor_masker(key, len(payload)).process(payload))
        self.assertEqual(mask(masked, key), payload)

    def test_a_message_is_encoded_once_for_each_role(self) -> None:
        """However many sessions it goes to.  API-002.4"""
        masked: list[bytes] = []

        def counting(payload: bytes, key: bytes) -> bytes:
            masked.append(key)
            return mask(payload, key)

        self.patch(frames, "mask", counting)
        frame = OutboundFrame(Message(200, None, b"payload"))
        as_client, as_server = frame.encoded(True), frame.encoded(False)
        self.assertIs(frame.encoded(True), as_client)
        self.assertIs(frame.encoded(False), as_server)
        self.assertEqual(len(masked), 1)
        OutboundFrame(frame.message).encoded(True)
        self.assertNotEqual(masked[0], masked[1], "a key for each message")

    def test_module_uses_no_framework_neutral_protocol(self) -> None:
        """Every protocol class of ours silences Autobahn's log.  API-102-X"""
        for name in ("PeerServerProtocol", "PeerClientProtocol", "PeerServerFactory"):
            self.assertIs(getattr(websocket, name).log, PeerWebSocket.log)
        self.assertIs(websocket.PeerClientFactory.log, PeerWebSocket.log)
