"""What a peer with a session can do to a node, and what comes of it."""

from __future__ import annotations

import gc
import struct
import weakref

from dig_gossip.connection.websocket import PeerServerProtocol
from dig_gossip.constants import (
    CLOSE_TIMEOUT_SECS,
    MAX_FRAMES_PER_MESSAGE,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
    PING_INTERVAL_SECS,
    WS_MAX_MESSAGE_BYTES,
)
from dig_gossip.testing.hostile import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    HostilePeer,
)
from dig_gossip.testing.transport import WINDOW, MemoryTransport
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType
from tests.connection.hostile_case import HostileCase

#: A peer that takes part in gossip without the tree: everything broadcast is sent to it whole.
FLOODED = (Capability.BASE, Capability.DIG_OPCODES)
ATTESTATION = DigMessageType.NEW_ATTESTATION


class MessageTests(HostileCase):
    """Messages that are none, or that nobody asked for: the link survives."""

    def test_truncated_and_overlong_envelopes_are_dropped(self) -> None:
        """Charged, not delivered, and the link goes on.  MSG-102-X"""
        whole = bytes(Message(ATTESTATION, None, b"data"))
        for envelope in (b"", whole[:1], whole[:5], whole[:-1], whole + b"\x00", b"\xc8\x02" * 9):
            peer = self.joined()
            inbound = self.node.handle.inbound_receiver()
            charged = self.count("penalty.malformed_message")
            peer.send_frame(envelope)
            self.network.settle()
            self.assertEqual(self.points(peer), PenaltyReason.MALFORMED_MESSAGE.points)
            self.assertEqual(self.count("penalty.malformed_message"), charged + 1)
            self.assertEqual(len(inbound), 0)
            self.assert_link_works(peer)
            inbound.close()

    def test_five_malformed_messages_are_a_ban(self) -> None:
        """Closed with 1008, and the address is refused before TLS.  MSG-102-X, CON-007"""
        peer = self.joined()
        for _ in range(4):
            peer.send_frame(b"\x00")
        self.network.settle()
        self.assertTrue(self.has_session(peer))
        peer.send_frame(b"\x00")
        self.network.settle()
        self.assertFalse(self.has_session(peer))
        self.assert_closed(peer, 1008)
        self.assertEqual(self.count("removed.banned"), 1)
        self.assert_forgotten()

        peer.join(self.node.address)
        self.network.settle()
        self.assertFalse(peer.secured)
        self.assertEqual(peer.received, b"")
        self.assert_dropped(peer)
        self.assertEqual(self.count("accept_refused.ip_banned"), 1)
        self.assert_serves()

    def test_a_banned_id_from_another_address_is_closed_with_1008(self) -> None:
        """The id is banned as well, wherever it comes from.  CON-002.5, CON-007.1"""
        peer = self.joined()
        for _ in range(5):
            peer.send_frame(b"\x00")
        self.network.settle()
        elsewhere = self.hostile(identity=peer.identity)
        elsewhere.join(self.node.address)
        self.network.settle()
        self.assert_closed(elsewhere, 1008)
        self.assertEqual(elsewhere.messages, [])
        self.assertEqual(self.count("opening_failed.inbound.PeerBanned"), 1)
        self.assert_forgotten()

    def test_unknown_opcodes_are_delivered_as_they_are(self) -> None:
        """What we do not know may be known to the application.  MSG-102-X, API-009"""
        peer = self.joined()
        inbound = self.node.handle.inbound_receiver()
        sent = [Message(opcode, None, b"raw") for opcode in (0, 2, 4, 114, 150, 199, 230, 254)]
        for message in sent:
            peer.send_message(message)
        self.network.settle()
        received = [self.network.run(inbound.get()) for _ in sent]
        self.assertEqual(received, [(peer.peer_id, message) for message in sent])
        self.assert_charged(peer, None)
        self.assert_link_works(peer)

    def test_second_handshake_is_charged_and_ignored(self) -> None:
        """Who somebody is was settled once.  CON-003.5"""
        peer = self.joined(software_version="first")
        inbound = self.node.handle.inbound_receiver()
        answers = len(peer.messages)
        peer.greet(software_version="second")
        self.network.settle()
        self.assert_charged(peer, PenaltyReason.PROTOCOL_VIOLATION)
        self.assertEqual(len(inbound), 0)
        self.assertEqual(len(peer.messages), answers)
        [connection] = self.network.run(self.node.handle.connected_peers())
        self.assertEqual(connection.software_version, "first")
        self.assert_link_works(peer)

    def test_answer_to_nobody_is_application_data(self) -> None:
        """An id that nobody waits for is the peer's own business.  MSG-102-X"""
        peer = self.joined()
        inbound = self.node.handle.inbound_receiver()
        answers = [
            Message(ChiaMessageType.RESPOND_BLOCK, message_id, b"")
            for message_id in (0, 0x4000, 0x8000, 0xFFFF)
        ]
        for answer in answers:
            peer.send_message(answer)
        self.network.settle()
        received = [self.network.run(inbound.get())[1] for _ in answers]
        self.assertEqual(received, answers)
        self.assert_charged(peer, None)
        self.assert_link_works(peer)

    def test_right_id_with_the_wrong_type_answers_nothing(self) -> None:
        """The request goes on waiting for its own kind of answer.  MSG-104-X"""
        peer = self.joined()
        inbound = self.node.handle.inbound_receiver()
        answered = self.node.handle.request_peers_from(peer.peer_id)
        self.network.settle()
        request = peer.messages[-1]
        stray = Message(ChiaMessageType.RESPOND_BLOCK, request.id, b"")
        peer.send_message(stray)
        self.network.settle()
        self.assertEqual(self.network.run(inbound.get()), (peer.peer_id, stray))
        self.assertNoResult(answered)
        peer.send_message(Message(ChiaMessageType.RESPOND_PEERS, request.id, bytes(4)))
        self.network.settle()
        self.assertEqual(self.successResultOf(answered).peer_list, [])


class FrameTests(HostileCase):
    """Frames that RFC 6455, or our limits, do not allow: the link ends."""

    def ends(
        self, peer: HostilePeer, code: int, charged: PenaltyReason, counter: str = "error"
    ) -> None:
        self.network.settle()
        self.assertFalse(self.has_session(peer))
        self.assert_closed(peer, code)
        self.assert_charged(peer, charged)
        self.assertEqual(self.count(f"removed.{counter}"), 1)
        self.assert_serves()
        self.assert_forgotten()
        self.assertFalse(peer.is_connected)

    def test_text_is_closed_with_1003(self) -> None:
        """Nobody here speaks text.  MSG-102-X"""
        peer = self.joined()
        peer.send_frame(b"hello", TEXT)
        self.ends(peer, 1003, PenaltyReason.MALFORMED_MESSAGE)

    def test_text_is_judged_at_its_header(self) -> None:
        """Whatever it would say, and however long it would be.  MSG-102-X, design D7"""
        for length in (None, 5_000_000):
            peer = self.joined()
            peer.send_frame(b"\xff", TEXT, length_override=length)
            self.network.settle()
            self.assertFalse(self.has_session(peer))
        self.assertEqual(self.count(f"penalty.{PenaltyReason.MALFORMED_MESSAGE.value}"), 2)

    def test_too_large_a_message_is_closed_with_1009(self) -> None:
        """One byte more than 8 MiB, refused when its opcode is known.  CON-112-X, design D7"""
        peer = self.joined()
        peer.send_frame(b"\x1e", length_override=WS_MAX_MESSAGE_BYTES + 1)
        self.network.settle()
        self.assertFalse(peer.is_connected, "its answer would be part of the message")
        self.ends(peer, 1009, PenaltyReason.SPAM)

    def test_the_largest_message_is_read(self) -> None:
        """8 MiB to the byte are delivered.  CON-112-X"""
        peer = self.joined()
        inbound = self.node.handle.inbound_receiver()
        message = Message(254, None, bytes(WS_MAX_MESSAGE_BYTES - 6))
        peer.send_message(message)
        self.network.settle()
        self.assertEqual(self.network.run(inbound.get(), 5), (peer.peer_id, message))
        self.assert_link_works(peer)

    def test_what_is_too_large_is_not_kept(self) -> None:
        """The rest of a refused message is thrown away as it arrives.  CON-112-X"""
        most = 0
        received = PeerServerProtocol.dataReceived

        def watched(protocol: PeerServerProtocol, data: bytes) -> None:
            nonlocal most
            received(protocol, data)
            most = max(most, held_by(protocol))

        self.patch(PeerServerProtocol, "dataReceived", watched)
        for opcode in (BINARY, PING):
            peer = self.joined()
            peer.stop_reading()
            peer.send_frame(b"", opcode, length_override=2**40)
            for _ in range(20):
                peer.send(bytes(50_000))
                self.network.advance(0.1)
            self.assertFalse(self.has_session(peer))
            self.assertLess(most, 100_000, opcode)
            self.assert_forgotten()

    def test_endless_empty_fragments_are_closed_with_1009(self) -> None:
        """They never reach a size, so they are counted.  CON-112-X"""
        peer = self.joined()
        peer.send_frame(b"", fin=False)
        for _ in range(MAX_FRAMES_PER_MESSAGE):
            peer.send_frame(b"", CONTINUATION, fin=False)
        self.ends(peer, 1009, PenaltyReason.SPAM)

    def test_a_message_of_the_most_fragments_is_read(self) -> None:
        """As many as are allowed, pings in between.  CON-112-X"""
        peer = self.joined()
        inbound = self.node.handle.inbound_receiver()
        data = bytes(Message(254, None, bytes(MAX_FRAMES_PER_MESSAGE - 6)))
        peer.send_frame(data[:1], fin=False)
        for at in range(1, MAX_FRAMES_PER_MESSAGE - 1):
            peer.send_frame(data[at : at + 1], CONTINUATION, fin=False)
        peer.send_frame(b"still here?", PING)
        peer.send_frame(data[-1:], CONTINUATION)
        self.network.settle()
        self.assertEqual(bytes(self.network.run(inbound.get())[1]), data)
        self.assertEqual(peer.frames[-1].opcode, PONG)
        self.assert_charged(peer, None)

    def test_violations_of_the_protocol_are_closed_with_1002(self) -> None:
        """Each of them, with a peer of its own.  CON-112-X, MSG-102-X"""
        for name, say in {
            "not masked": lambda peer: peer.send_frame(b"\x00", masked=False),
            "reserved bit": lambda peer: peer.send_frame(b"\x00", rsv=4),
            "reserved opcode": lambda peer: peer.send_frame(b"\x00", 3),
            "reserved control opcode": lambda peer: peer.send_frame(b"", 11),
            "fragmented ping": lambda peer: peer.send_frame(b"", PING, fin=False),
            "long ping": lambda peer: peer.send_frame(bytes(126), PING),
            "nothing to continue": lambda peer: peer.send_frame(b"", CONTINUATION),
            "close of one byte": lambda peer: peer.send_frame(b"\x03", CLOSE),
            "impossible close code": lambda peer: peer.send_close(1005),
            "length not minimal": lambda peer: peer.send(b"\x82\xfe\x00\x05" + bytes(9)),
            "negative length": lambda peer: peer.send(b"\x82\xff" + b"\xff" * 12),
        }.items():
            peer = self.joined()
            say(peer)
            self.network.settle()
            self.assertFalse(self.has_session(peer), name)
            self.assertIsNotNone(peer.closed, name)
            self.assert_closed(peer, 1002)
            self.assertEqual(self.points(peer), PenaltyReason.PROTOCOL_VIOLATION.points, name)
        self.assertEqual(self.count("penalty.protocol_violation"), 11)
        self.assertEqual(self.count("removed.error"), 11)
        self.assert_serves()
        self.assert_forgotten()

    def test_close_reason_that_is_not_utf8_is_closed_with_1007(self) -> None:
        """Even a farewell has to be text.  CON-112-X"""
        peer = self.joined()
        peer.send_frame(struct.pack("!H", 1000) + b"\xff\xfe", CLOSE)
        self.ends(peer, 1007, PenaltyReason.PROTOCOL_VIOLATION)

    def test_closing_politely_costs_nothing(self) -> None:
        """A normal end: answered, removed, not charged.  CON-115-X"""
        peer = self.joined()
        peer.send_close(1000, "good bye \x1b[31m")
        self.network.settle()
        self.assert_closed(peer, 1000)
        self.assertEqual(self.points(peer), 0)
        self.assertEqual(self.count("removed.disconnected"), 1)
        self.assert_serves()
        self.assert_forgotten()

    def test_unsolicited_pongs_mean_nothing(self) -> None:
        """Signs of life, but no round trips.  CON-004.1"""
        peer = self.joined()
        for _ in range(100):
            peer.send_frame(b"whatever", PONG)
        self.network.settle()
        self.assertEqual(self.session_of(peer).keepalive.rtt_history, ())
        self.assert_charged(peer, None)
        self.assert_link_works(peer)


class ClosingTests(HostileCase):
    """The end that we chose, and a peer that does not play along."""

    def test_messages_after_our_close_are_ignored(self) -> None:
        """Neither delivered nor charged, whatever they are.  CON-106-X"""
        peer = self.joined()
        inbound = self.node.handle.inbound_receiver()
        self.network.run(self.node.handle.disconnect(peer.peer_id))
        peer.send_message(Message(254, None, b"too late"))
        peer.send_frame(b"malformed")
        peer.send_frame(b"text", TEXT)
        peer.greet()
        self.network.settle()
        self.assert_closed(peer, 1000)
        self.assertEqual(len(inbound), 0)
        self.assert_charged(peer, None)
        self.assert_forgotten()

    def test_peer_that_never_answers_our_close_is_dropped(self) -> None:
        """Five seconds, not more and not less.  CON-112-X"""
        peer = self.joined()
        self.network.run(self.node.handle.disconnect(peer.peer_id))
        self.assertFalse(self.has_session(peer))
        self.network.advance(CLOSE_TIMEOUT_SECS - 0.1)
        self.assert_closed(peer, 1000)
        self.assertTrue(peer.is_connected)
        self.network.advance(0.2)
        self.assertFalse(peer.is_connected)
        self.assertEqual(len(self.parts.transports), 0)
        self.assert_serves()

    def test_peer_that_talks_on_after_our_close_is_dropped_as_well(self) -> None:
        """Bytes do not put off the end.  CON-112-X"""
        peer = self.joined()
        self.network.run(self.node.handle.disconnect(peer.peer_id))
        for _ in range(10):
            peer.send_message(Message(254, None, b"and another thing"))
            peer.send_frame(b"", PING)
            self.network.advance(0.5)
        self.network.advance(0.2)
        self.assertFalse(peer.is_connected)
        self.assertEqual(peer.frames[-1].opcode, CLOSE, "nothing follows our close frame")

    def test_peer_that_answers_our_close_is_gone_at_once(self) -> None:
        """Nobody waits for a deadline when everything was said.  CON-112-X"""
        peer = self.joined()
        self.network.run(self.node.handle.disconnect(peer.peer_id))
        self.network.advance(0.1)
        peer.send_close(1000)
        self.network.advance(0.5)
        self.assertFalse(peer.is_connected)
        self.assertEqual(len(self.parts.transports), 0)


class SlowReaderTests(HostileCase):
    """A peer that takes nothing from us any more."""

    def stalled(self) -> HostilePeer:
        """A session whose peer has stopped reading, and whose buffers are full."""
        peer = self.joined(capabilities=FLOODED)
        peer.stop_reading()
        writer = self.session_of(peer)._writer
        number = 0
        while writer.is_writable:
            self.broadcast(b"fill" + number.to_bytes(4, "big") + bytes(60_000))
            self.network.advance(0.01)
            number += 1
        self.assertEqual(writer.queued_messages, 0)
        return peer

    def broadcast(self, data: bytes) -> int:
        return self.network.run(self.node.handle.broadcast(Message(ATTESTATION, None, data)))

    def assert_removed_for_stalling(self, peer: HostilePeer) -> None:
        self.assertFalse(self.has_session(peer))
        self.assert_charged(peer, PenaltyReason.CONNECTION_ISSUE)
        self.assertEqual(self.count("queued_messages"), 0)
        self.assertEqual(self.count("removed.stalled"), 1)
        self.network.advance(0.1)
        self.assertEqual(len(self.parts.transports), 0, "there is nobody to be polite to")
        self.assert_serves()

    def test_too_many_messages(self) -> None:
        """4096 messages wait, the next one ends it, and the memory is free.  BP-101-X"""
        peer = self.stalled()
        session = self.session_of(peer)
        for number in range(MAX_QUEUED_MESSAGES):
            self.assertEqual(self.broadcast(number.to_bytes(4, "big")), 1)
        self.assertTrue(self.has_session(peer))
        self.assertEqual(session.queued_messages, MAX_QUEUED_MESSAGES)
        self.assertEqual(self.broadcast(b"one too many"), 0)
        self.assertEqual(session.queued_messages, 0)
        self.assert_removed_for_stalling(peer)

    def test_too_many_bytes(self) -> None:
        """32 MiB wait, one byte more ends it.  BP-101-X"""
        peer = self.stalled()
        session = self.session_of(peer)
        header = len(Message(254, None, b""))
        largest = Message(254, None, bytes(WS_MAX_MESSAGE_BYTES - header))
        for _ in range(MAX_QUEUED_BYTES // WS_MAX_MESSAGE_BYTES):
            self.network.run(self.node.handle.send_to(peer.peer_id, largest))
        self.assertTrue(self.has_session(peer))
        self.assertEqual(session._writer.queued_bytes, MAX_QUEUED_BYTES)
        self.assertEqual(self.broadcast(b""), 0)
        self.assertEqual(session._writer.queued_bytes, 0)
        self.assert_removed_for_stalling(peer)

    def test_nothing_refers_to_a_removed_session(self) -> None:
        """Its queue is freed with it, not with the next collection of somebody's list.  BP-101-X"""
        session = weakref.ref(self.session_of(self.stalled()))
        for number in range(MAX_QUEUED_MESSAGES + 1):
            self.broadcast(number.to_bytes(4, "big"))
        self.assert_serves()
        gc.collect()
        self.assertIsNone(session())

    def test_others_get_everything_meanwhile(self) -> None:
        """A peer that does not read costs nobody else a message.  BP-101-X, API-002.4"""
        self.stalled()
        reader = self.joined(capabilities=FLOODED)
        for number in range(100):
            self.broadcast(b"for all" + bytes((number,)))
        self.network.settle()
        received = [m.data for m in reader.messages if m.data.startswith(b"for all")]
        self.assertEqual(received, [b"for all" + bytes((number,)) for number in range(100)])

    def test_a_peer_that_reads_again_gets_everything_in_order(self) -> None:
        """Waiting is no loss.  BP-101-X"""
        peer = self.stalled()
        for number in range(1000):
            self.broadcast(b"queued" + number.to_bytes(4, "big"))
        self.assertEqual(self.count("queued_messages"), 1000)
        peer.resume_reading()
        self.network.settle()
        received = [m.data for m in peer.messages if m.data.startswith(b"queued")]
        expected = [b"queued" + number.to_bytes(4, "big") for number in range(1000)]
        self.assertEqual(received, expected)
        self.assertEqual(self.count("queued_messages"), 0)

    def test_pongs_do_not_pile_up(self) -> None:
        """A million pings nobody reads the answer of leave one pong.  BP-101-X"""
        peer = self.stalled()
        transport = self.transport_to(peer)
        before = transport.bytes_written
        for number in range(10_000):
            peer.send_frame(number.to_bytes(4, "big"), PING)
        self.network.settle()
        self.assertEqual(transport.bytes_written, before)
        self.assertEqual(self.session_of(peer).queued_messages, 0)
        peer.resume_reading()
        self.network.settle()
        pongs = [frame.payload for frame in peer.frames if frame.opcode == PONG]
        self.assertEqual(pongs, [(9_999).to_bytes(4, "big")])

    def test_a_ping_flood_fills_the_window_and_no_more(self) -> None:
        """Pongs stop when the transport has enough.  BP-101-X"""
        peer = self.joined()
        peer.stop_reading()
        transport = self.transport_to(peer)
        for _ in range(60):
            for _ in range(100):
                peer.send_frame(bytes(125), PING)
            self.network.advance(0.02)
        self.assertGreater(transport.bytes_written, WINDOW)
        self.assertLess(transport.bytes_written, WINDOW + 70_000)
        self.assertTrue(self.has_session(peer))

    def test_silent_and_stalled_is_no_reason_to_ping(self) -> None:
        """A probe that cannot leave is not held against the peer, until it can.  CON-004.3"""
        peer = self.stalled()
        self.network.advance(4 * PING_INTERVAL_SECS)
        self.assertTrue(self.has_session(peer))
        self.assertEqual(self.points(peer), 0)

    def transport_to(self, peer: HostilePeer) -> MemoryTransport:
        """The node's end of the connection, below TLS."""
        transport = peer._wire.transport.transport.other  # type: ignore[union-attr]
        assert isinstance(transport, MemoryTransport)
        return transport


def held_by(protocol: PeerServerProtocol) -> int:
    """Received bytes that Autobahn keeps for a connection."""
    parts = [protocol.data]
    for name in ("control_frame_data", "frame_data", "message_data"):
        parts.extend(getattr(protocol, name, None) or [])
    return sum(map(len, parts))
