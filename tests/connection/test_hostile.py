"""What a dialer can do to a node before it has a session, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL

from dig_gossip.connection.websocket import PeerServerProtocol
from dig_gossip.constants import (
    CLOSE_TIMEOUT_SECS,
    INBOUND_HANDSHAKE_TIMEOUT_SECS,
    PRE_HANDSHAKE_MAX_FRAMES,
    PRE_HANDSHAKE_MAX_MESSAGE_BYTES,
    PRE_OPEN_MAX_BYTES,
)
from dig_gossip.testing.hostile import CONTINUATION, PING, TEXT, HostilePeer
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.connection.hostile_case import HostileCase

#: The largest piece in which TLS hands over what it has decrypted.
ONE_READ = 2**15


def client_hello() -> bytes:
    """The first flight of a TLS client."""
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    connection.set_connect_state()
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return bytes(connection.bio_read(65536))
    raise AssertionError("no server, and yet a handshake")


class BufferWatch:
    """Notes how many received bytes the node's WebSockets hold at most."""

    def __init__(self, case: HostileCase) -> None:
        self.most = 0
        self.after: list[int] = []
        received = PeerServerProtocol.dataReceived

        def watched(protocol: Any, data: bytes) -> None:  # Any: Autobahn has no types
            received(protocol, data)
            self.most = max(self.most, len(protocol.data))

        case.patch(PeerServerProtocol, "dataReceived", watched)


class BeforeTheWebSocketTests(HostileCase):
    """TCP, TLS and HTTP from somebody who means no good."""

    def test_without_a_certificate_tls_fails(self) -> None:
        """No certificate, no peer, and not one byte of WebSocket.  CON-002, TLS-101-X"""
        peer = self.hostile(identity=None)
        peer.join(self.node.address)
        self.network.settle()
        self.assert_dropped(peer)
        self.assertEqual(peer.received, b"")
        self.assertEqual(self.count("opening_failed.inbound.tls"), 1)
        self.assert_serves()
        self.assert_forgotten()

    def test_plain_bytes_fail_tls(self) -> None:
        """Whatever is no TLS is at an end at once.  CON-002"""
        peer = self.hostile(tls=False)
        peer.connect(self.node.address)
        peer.send(b"\x00" * 100)
        self.network.settle()
        self.assert_dropped(peer)
        self.assertEqual(self.count("opening_failed.inbound.tls"), 1)
        self.assert_serves()
        self.assert_forgotten()

    def test_plain_websocket_fails_tls(self) -> None:
        """The port does not speak ``ws://``.  CON-002"""
        peer = self.hostile(tls=False)
        peer.join(self.node.address)
        self.network.settle()
        self.assert_dropped(peer)
        self.assertIsNone(peer.http_response)
        self.assertEqual(self.count("opening_failed.inbound.tls"), 1)
        self.assert_serves()
        self.assert_forgotten()

    def test_http_garbage_is_refused_as_http(self) -> None:
        """A request that is none is told so, and the connection ends.  CON-002"""
        for request, status in (
            (b"nonsense", b"400"),
            (b"\xff\xfe nonsense \x00", b"405"),
            (b"POST /ws HTTP/1.1", b"405"),
            (b"GET /ws HTTP/1.0", b"505"),
            (b"GET /ws HTTP/1.1", b"400"),
            (b"GET /ws HTTP/1.1\r\nHost: node", b"426"),
        ):
            peer = self.hostile()
            peer.connect(self.node.address)
            peer.send(request + b"\r\n\r\n")
            self.network.settle()
            status_line = (peer.http_response or b"").partition(b"\r\n")[0]
            self.assertEqual(status_line.split(b" ")[:2], [b"HTTP/1.1", status])
            self.network.advance(CLOSE_TIMEOUT_SECS)
            self.assertFalse(peer.is_connected)
        self.assertEqual(self.count("opening_failed.inbound.ws"), 6)
        self.assert_serves()
        self.assert_forgotten()

    def test_wrong_path_is_answered_with_404(self) -> None:
        """Only ``/ws`` and ``/`` exist.  CON-002"""
        for path in ("/other", "/ws/", "/WS"):
            peer = self.hostile()
            peer.connect(self.node.address)
            peer.upgrade(path)
            self.network.settle()
            self.assertIn(b" 404 ", peer.http_response or b"", path)
        self.network.advance(CLOSE_TIMEOUT_SECS)
        self.assertEqual(self.count("opening_failed.inbound.ws"), 3)
        self.assert_serves()
        self.assert_forgotten()

    def test_both_paths_are_served(self) -> None:
        """Rust peers ask for ``/``.  CON-002"""
        for path in ("/", "/ws"):
            peer = self.hostile()
            peer.connect(self.node.address)
            peer.upgrade(path)
            peer.greet()
            self.network.settle()
            self.assertTrue(self.has_session(peer), path)

    def test_endless_headers_are_cut_off(self) -> None:
        """Ten megabytes of request take up no more than the limit and one read.  CON-112-X"""
        watch = BufferWatch(self)
        peer = self.hostile()
        peer.connect(self.node.address)
        peer.send(b"GET /ws HTTP/1.1\r\n" + b"X: y\r\n" * 1_700_000)
        self.network.settle()
        self.assert_dropped(peer)
        self.assertGreater(watch.most, PRE_OPEN_MAX_BYTES)
        self.assertLessEqual(watch.most, PRE_OPEN_MAX_BYTES + ONE_READ)
        self.assertEqual(self.count("opening_failed.inbound.ws"), 1)
        self.assert_serves()
        self.assert_forgotten()

    def test_headers_of_exactly_the_limit_may_go_on(self) -> None:
        """The last byte within the limit is read, the next one is too much.  CON-112-X"""
        for excess, survives in ((-1, True), (0, True), (1, False)):
            peer = self.hostile()
            peer.connect(self.node.address)
            peer.send(b"G" * (PRE_OPEN_MAX_BYTES + excess))
            self.network.settle()
            self.assertEqual(peer.is_connected, survives, excess)

    def test_bytes_after_a_refusal_are_not_kept(self) -> None:
        """Who was refused may go on sending until the abort, but not fill our memory.  CON-112-X"""
        watch = BufferWatch(self)
        peer = self.hostile()
        peer.connect(self.node.address)
        self.network.settle()
        peer.stop_reading()  # so that it does not learn of its refusal
        peer.upgrade("/other")
        for _ in range(10):
            self.network.advance(0.1)
            peer.send(b"x" * 20_000)
        self.network.advance(0.1)
        self.assertEqual(self.parts.peers.openings, 1)
        self.assertLessEqual(watch.most, PRE_OPEN_MAX_BYTES + ONE_READ)
        self.assert_forgotten()

    def test_a_flood_does_not_cost_the_next_peer_its_place(self) -> None:
        """Hundreds of failures leave every permit where it was.  CON-002.2"""
        for number in range(120):
            peer = self.hostile(tls=number % 2 == 0)
            peer.connect(self.node.address)
            peer.send(b"junk\r\n\r\n")
            self.network.advance(0.1)
        self.assert_serves()
        self.assert_forgotten()


class SilenceTests(HostileCase):
    """Whoever says nothing more is dropped when thirty seconds are over."""

    def assert_dropped_at_the_deadline(self, peer: HostilePeer, gone_at: float) -> None:
        began = self.network.clock.seconds()
        self.network.advance(gone_at - began - 0.2)
        self.assertTrue(peer.is_connected, "too early")
        self.assertEqual(self.parts.peers.openings, 1)
        self.network.advance(0.4)
        self.assert_dropped(peer)
        self.assertEqual(self.count("opening_failed.inbound.timeout"), 1)
        self.assertEqual(self.parts.peers.openings, 0)
        self.assert_serves()
        self.assert_forgotten()

    def deadline(self) -> float:
        """When a connection that is dialed now is to be dropped."""
        accepted = self.network.clock.seconds() + 2 * self.latency
        return accepted + INBOUND_HANDSHAKE_TIMEOUT_SECS

    def test_silence_after_tcp(self) -> None:
        """Not one byte.  CON-002.2"""
        gone_at = self.deadline()
        peer = self.hostile(tls=False)
        peer.connect(self.node.address)
        self.network.settle()
        self.assert_dropped_at_the_deadline(peer, gone_at)

    def test_silence_within_tls(self) -> None:
        """Half a ClientHello.  CON-002.2"""
        gone_at = self.deadline()
        peer = self.hostile(tls=False)
        peer.connect(self.node.address)
        hello = client_hello()
        peer.send(hello[: len(hello) // 2])
        self.network.settle()
        self.assert_dropped_at_the_deadline(peer, gone_at)

    def test_silence_after_the_first_flight(self) -> None:
        """A whole ClientHello, and no answer to ours.  CON-002.2"""
        gone_at = self.deadline()
        peer = self.hostile(tls=False)
        peer.connect(self.node.address)
        peer.send(client_hello())
        self.network.settle()
        self.assertGreater(len(peer.received), 100)
        self.assert_dropped_at_the_deadline(peer, gone_at)

    def test_silence_after_tls(self) -> None:
        """A certificate, and nothing to say.  CON-002.2"""
        gone_at = self.deadline()
        peer = self.hostile()
        peer.connect(self.node.address)
        self.network.settle()
        self.assertTrue(peer.secured)
        self.assert_dropped_at_the_deadline(peer, gone_at)

    def test_silence_after_the_upgrade(self) -> None:
        """A WebSocket, and no handshake.  CON-002.2"""
        gone_at = self.deadline()
        peer = self.upgraded()
        self.assert_dropped_at_the_deadline(peer, gone_at)
        self.assert_charged(peer, None)

    def test_half_a_handshake(self) -> None:
        """A frame that never ends.  CON-002.2"""
        gone_at = self.deadline()
        peer = self.upgraded()
        peer.send_frame(b"\x01\x00\x00", length_override=100)
        self.assert_dropped_at_the_deadline(peer, gone_at)

    def test_slow_bytes_do_not_move_the_deadline(self) -> None:
        """One byte a second of a perfect request buys no second.  CON-002.2"""
        gone_at = self.deadline()
        request = b"GET /ws HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\n"
        peer = self.hostile()
        peer.connect(self.node.address)
        for byte in request[:28]:
            peer.send(bytes((byte,)))
            self.network.advance(1)
        self.assert_dropped_at_the_deadline(peer, gone_at)

    def test_pings_do_not_move_the_deadline(self) -> None:
        """Control frames are no handshake.  CON-002.2"""
        gone_at = self.deadline()
        peer = self.upgraded()
        for _ in range(4):
            self.network.advance(6)
            peer.send_frame(b"", PING)
        self.assert_dropped_at_the_deadline(peer, gone_at)


class GreetingTests(HostileCase):
    """The first message, and what is wrong with it."""

    def refused(
        self,
        say: Callable[[HostilePeer], object],
        *,
        code: int,
        reason: str | None,
        counter: str,
        charged: PenaltyReason | None = None,
        **options: Any,
    ) -> None:
        """Say something instead of a good handshake; check everything that follows."""
        peer = self.upgraded(**options)
        say(peer)
        self.network.settle()
        self.assert_closed(peer, code, reason)
        self.assertEqual(peer.messages, [], "our handshake is not for strangers")
        self.assertEqual(self.count(f"opening_failed.inbound.{counter}"), 1)
        self.assertEqual(self.parts.peers.openings, 0)
        self.assert_charged(peer, charged)
        self.assert_serves()
        self.assert_forgotten()
        self.assertFalse(peer.is_connected)

    def test_other_message_first(self) -> None:
        """Whoever does not greet is closed and charged.  CON-002.3"""
        self.refused(
            lambda peer: peer.send_message(Message(ChiaMessageType.REQUEST_PEERS, None, b"")),
            code=1002,
            reason="-6",
            counter="missing_handshake",
            charged=PenaltyReason.PROTOCOL_VIOLATION,
        )

    def test_no_message_first(self) -> None:
        """A frame that is no message is no handshake.  CON-002.3"""
        self.refused(
            lambda peer: peer.send_frame(b""),
            code=1002,
            reason="-6",
            counter="missing_handshake",
            charged=PenaltyReason.PROTOCOL_VIOLATION,
        )

    def test_undecodable_handshake(self) -> None:
        """The right opcode around nonsense.  CON-002.3"""
        body = b"\xff\xff\xff\xff nonsense"
        self.refused(
            lambda peer: peer.send_message(Message(ChiaMessageType.HANDSHAKE, None, body)),
            code=1002,
            reason="-6",
            counter="missing_handshake",
            charged=PenaltyReason.PROTOCOL_VIOLATION,
        )

    def test_wrong_network(self) -> None:
        """Told so in Chia's way, and not charged: it is lost, not hostile.  CON-003"""
        self.refused(
            lambda peer: peer.greet("mainnet"), code=1002, reason="110", counter="wrong_network"
        )

    def test_no_network(self) -> None:
        """An empty name is nobody's network.  CON-003"""
        self.refused(lambda peer: peer.greet(""), code=1002, reason="110", counter="wrong_network")

    def test_old_version(self) -> None:
        """Versions are numbers: 0.0.4 is older than 0.0.30.  CON-003.1"""
        self.refused(
            lambda peer: peer.greet(protocol_version="0.0.4"),
            code=1002,
            reason="-6",
            counter="bad_version",
        )

    def test_no_version(self) -> None:
        """What is no number is no version.  CON-003.1"""
        self.refused(
            lambda peer: peer.greet(protocol_version="latest\r\n"),
            code=1002,
            reason="-6",
            counter="bad_version",
        )

    def test_long_software_version(self) -> None:
        """A name of a kilobyte is no name.  CON-008"""
        self.refused(
            lambda peer: peer.greet(software_version="x" * 1025),
            code=1002,
            reason="-6",
            counter="bad_version",
        )

    def test_wrong_node_type(self) -> None:
        """Full nodes and wallets only.  CON-003.6"""
        self.refused(
            lambda peer: peer.greet(node_type=3), code=1008, reason="-6", counter="wrong_node_type"
        )

    def test_own_identity(self) -> None:
        """A connection to ourselves, whatever way it took.  CON-002.5"""
        self.refused(
            lambda peer: peer.greet(),
            code=1002,
            reason="-5",
            counter="SelfConnection",
            identity=self.node.service._identity,
        )

    def test_text_first(self) -> None:
        """Text is not for us; nor is a peer whose first message is text.  CON-002.3, MSG-102-X"""
        self.refused(
            lambda peer: peer.send_frame(b"hello", TEXT),
            code=1003,
            reason=None,
            counter="missing_handshake",
            charged=PenaltyReason.PROTOCOL_VIOLATION,
        )

    def test_more_than_the_limit_is_closed_at_the_frame_header(self) -> None:
        """One byte more than 64 KiB is refused before it arrives.  RL-106-X, CON-112-X"""
        self.refused(
            lambda peer: peer.send_frame(b"", length_override=PRE_HANDSHAKE_MAX_MESSAGE_BYTES + 1),
            code=1009,
            reason=None,
            counter="ws",
        )

    def test_the_limit_itself_is_read(self) -> None:
        """64 KiB to the byte are judged by what they say.  RL-106-X"""
        self.refused(
            lambda peer: peer.send_frame(bytes(PRE_HANDSHAKE_MAX_MESSAGE_BYTES)),
            code=1002,
            reason="-6",
            counter="missing_handshake",
            charged=PenaltyReason.PROTOCOL_VIOLATION,
        )

    def test_fragments_count_together(self) -> None:
        """Two frames below the limit are a message above it.  RL-106-X"""

        def say(peer: HostilePeer) -> None:
            peer.send_frame(bytes(40_000), fin=False)
            peer.send_frame(b"", CONTINUATION, length_override=40_000)

        self.refused(say, code=1009, reason=None, counter="ws")

    def test_handshake_of_the_most_frames(self) -> None:
        """As many frames as are allowed before registration.  RL-106-X"""
        peer = self.upgraded()
        for _ in range(PRE_HANDSHAKE_MAX_FRAMES - 1):
            peer.send_frame(b"", PING)
        peer.greet()
        self.network.settle()
        self.assertTrue(self.has_session(peer))

    def test_more_frames_than_allowed_before_the_handshake(self) -> None:
        """Frames are counted, whatever they are: a ping too many ends it.  RL-106-X"""
        peer = self.upgraded()
        for _ in range(PRE_HANDSHAKE_MAX_FRAMES):
            peer.send_frame(b"", PING)
        peer.greet()
        self.network.settle()
        self.assertFalse(self.has_session(peer))
        self.assert_forgotten()

    def test_closing_instead_of_greeting(self) -> None:
        """A peer may change its mind; nobody is charged.  CON-002"""
        peer = self.upgraded()
        peer.send_close(1000, "changed my mind")
        self.network.settle()
        self.assert_closed(peer, 1000)
        self.assertEqual(self.count("opening_failed.inbound.refused"), 1)
        self.assert_charged(peer, None)
        self.assert_forgotten()

    def test_vanishing_at_each_stage(self) -> None:
        """A connection that is lost gives its permit back at once.  CON-002.2"""
        for stage, counter in (("tcp", "tls"), ("tls", "ws"), ("upgrade", "ws")):
            failed = self.count(f"opening_failed.inbound.{counter}")
            peer = self.hostile(tls=stage != "tcp")
            peer.connect(self.node.address)
            if stage == "upgrade":
                peer.upgrade()
            self.network.settle()
            self.assertEqual(self.parts.peers.openings, 1, stage)
            peer.drop()
            self.network.advance(0.1)
            self.assertEqual(self.parts.peers.openings, 0, stage)
            self.assertEqual(self.count(f"opening_failed.inbound.{counter}"), failed + 1, stage)
        self.assert_serves()
