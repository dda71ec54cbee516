"""Peers that would have a node keep things for them: how much it keeps, and how each one ends.

A peer that stops reading: ``test_hostile_session``, and over real sockets ``test_loopback``.
"""

from __future__ import annotations

from dig_gossip.connection.transfers import CHUNK_BYTES, MAX_TRANSFERS
from dig_gossip.connection.websocket import PeerServerProtocol
from dig_gossip.constants import (
    INBOUND_HANDSHAKE_TIMEOUT_SECS,
    PEER_TIMEOUT_SECS,
    PRE_HANDSHAKE_MAX_MESSAGE_BYTES,
)
from dig_gossip.testing.hostile import BINARY, HostilePeer, make_frame
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType
from tests.connection.hostile_case import HostileCase
from tests.connection.test_hostile_session import held_by

GIB = 2**30


class HoardingTests(HostileCase):
    """One peer each."""

    def setUp(self) -> None:
        super().setUp()
        self.most = 0
        received = PeerServerProtocol.dataReceived

        def watched(protocol: PeerServerProtocol, data: bytes) -> None:
            received(protocol, data)
            self.most = max(self.most, held_by(protocol))

        self.patch(PeerServerProtocol, "dataReceived", watched)

    def test_a_byte_a_second_within_a_message_is_a_session_like_any_other(self) -> None:
        """It holds what it has sent, and nobody up; when it falls silent it is dead.  CON-004"""
        peer = self.joined()
        frame = make_frame(bytes(Message(254, None, bytes(900))), BINARY, True, True, 0, None)
        for byte in frame[:600]:
            peer.send(bytes((byte,)))
            self.network.advance(1)
        self.assertTrue(self.has_session(peer), "bytes are signs of life")
        self.assertLess(self.most, 2000)
        self.assert_serves()
        self.network.advance(PEER_TIMEOUT_SECS - 10)
        self.assertTrue(self.has_session(peer))
        self.network.advance(10)
        self.assertFalse(self.has_session(peer))
        self.assertEqual(self.count("removed.dead"), 1)
        self.assert_charged(peer, PenaltyReason.CONNECTION_ISSUE)
        self.assert_forgotten()

    def test_a_byte_a_second_instead_of_a_handshake_has_thirty_of_them(self) -> None:
        """The deadline counts from the connection, not from the last byte.  CON-002.2"""
        peer = self.upgraded()
        for _ in range(INBOUND_HANDSHAKE_TIMEOUT_SECS + 1):
            peer.send(b"\x82")
            self.network.advance(1)
        self.assertFalse(peer.is_connected)
        self.assertLess(self.most, 2000)
        self.assert_forgotten()

    def test_two_gib_are_refused_when_they_are_claimed(self) -> None:
        """At the header and the opcode, before and after the handshake.  CON-112-X, design D7"""
        before = self.upgraded()
        after = self.joined()
        for peer in (before, after):
            peer.send_frame(b"\x1e", length_override=2 * GIB)
            for _ in range(10):
                peer.send(bytes(PRE_HANDSHAKE_MAX_MESSAGE_BYTES))
                self.network.advance(0.1)
            self.assertFalse(peer.is_connected)
            self.assertLess(self.most, 2 * PRE_HANDSHAKE_MAX_MESSAGE_BYTES)
        self.assert_charged(after, PenaltyReason.SPAM)
        self.assertEqual(self.points(before), 0, "it has not said who it is")
        self.assert_serves()
        self.assert_forgotten()

    def begin_transfer(self, peer: HostilePeer, number: int) -> None:
        """The first piece of a message of 8 MiB."""
        head = number.to_bytes(4, "big") + (8 * 2**20).to_bytes(4, "big") + bytes(4)
        body = head + b"\x1e" + bytes(CHUNK_BYTES - 1)
        peer.send_message(Message(DigMessageType.MESSAGE_CHUNK, None, body))

    def test_a_thousand_transfers_end_with_the_sixth(self) -> None:
        """Four are allowed; two more are two violations, and those a ban.  design D9, CON-007"""
        peer = self.joined()
        session = self.session_of(peer)
        for number in range(1000):
            self.begin_transfer(peer, number)
            if number + 1 == MAX_TRANSFERS:
                self.network.settle()
                self.assert_charged(peer, None)
                self.assertEqual(session._reassembly.held, MAX_TRANSFERS * CHUNK_BYTES)
        self.network.settle()
        self.assertFalse(self.has_session(peer))
        self.assertEqual(self.count("removed.banned"), 1)
        self.assertEqual(self.points(peer), 2 * PenaltyReason.PROTOCOL_VIOLATION.points)
        self.assertLessEqual(session._reassembly.held, MAX_TRANSFERS * CHUNK_BYTES)
        self.assert_forgotten()

    def test_a_thousand_half_fragmented_messages_end_with_the_second(self) -> None:
        """Within a message there is no other.  RFC 6455 §5.4, MSG-102-X"""
        peer = self.joined()
        for _ in range(1000):
            peer.send_frame(b"\xfe" + bytes(1000), fin=False)
        self.network.settle()
        self.assert_closed(peer, 1002)
        self.assert_charged(peer, PenaltyReason.PROTOCOL_VIOLATION)
        self.assertLess(self.most, 10_000)
        self.assert_forgotten()

    def test_a_thousand_connections_with_half_a_handshake(self) -> None:
        """Those for whom there is room keep it for thirty seconds; the rest is refused.  CON-002.1

        What each may hold is a handshake's worth.
        """
        most_openings = self.node.service.config.max_connections
        peers = []
        for number in range(1000):
            peer = self.hostile(host=f"10.77.{number // 250}.{number % 250 + 1}")
            peer.connect(self.node.address)
            peer.upgrade()
            peer.send_frame(bytes(100), length_override=PRE_HANDSHAKE_MAX_MESSAGE_BYTES)
            peers.append(peer)
        self.network.settle()
        openings = self.parts.peers.openings
        self.assertTrue(0 < openings <= most_openings, openings)
        self.assertEqual(sum(peer.is_connected for peer in peers), openings)
        self.assertLess(self.most, 2000)
        self.network.advance(INBOUND_HANDSHAKE_TIMEOUT_SECS)
        self.assert_forgotten()
        self.assert_serves()
