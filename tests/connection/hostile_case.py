"""Base class of tests in which a peer of a real node misbehaves."""

from __future__ import annotations

from typing import Any

from dig_gossip import PeerOptions
from dig_gossip.connection.session import Session
from dig_gossip.constants import CLOSE_TIMEOUT_SECS
from dig_gossip.service.gossip_service import Node
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.network_case import NetworkCase

#: Long enough for every close frame, and every refusal to answer one, to have its end.
AFTER_CLOSE = CLOSE_TIMEOUT_SECS + 1


class HostileCase(NetworkCase):
    """One node and whoever attacks it; afterwards the node still serves others."""

    def setUp(self) -> None:
        super().setUp()
        # Rates are limited elsewhere; here a peer may try as often as it likes.
        [self.node] = self.nodes(1, peer_options=PeerOptions(enforce_rate_limits=False))

    @property
    def parts(self) -> Node:
        """The insides of the node."""
        return self.node.service.node

    def hostile(self, **options: Any) -> HostilePeer:
        """A peer that does nothing yet."""
        return HostilePeer(self.network, **options)

    def upgraded(self, **options: Any) -> HostilePeer:
        """A peer whose WebSocket is open and that has not greeted."""
        peer = self.hostile(**options)
        peer.connect(self.node.address)
        peer.upgrade()
        self.network.settle()
        self.assertIn(b" 101 ", peer.http_response or b"")
        return peer

    def joined(self, **greeting: Any) -> HostilePeer:
        """A peer with a session."""
        peer = self.hostile()
        peer.join(self.node.address, **greeting)
        self.network.settle()
        self.assertTrue(self.has_session(peer), peer.closed)
        return peer

    def has_session(self, peer: HostilePeer) -> bool:
        """Whether the node holds a session with this peer."""
        return self.parts.peers.table.get(peer.peer_id) is not None

    def session_of(self, peer: HostilePeer) -> Session:
        """The node's session with this peer."""
        return self.parts.peers.get(peer.peer_id)

    def points(self, peer: HostilePeer) -> int:
        """What the node has charged this peer, connected or not."""
        return self.parts.peers.reputations.get(peer.peer_id).penalty_points

    def count(self, name: str) -> int:
        """One of the node's counters, as its operator sees it."""
        return self.counter(self.node, name)

    def assert_closed(self, peer: HostilePeer, code: int, reason: str | None = None) -> None:
        """The node has sent this peer a close frame."""
        assert peer.closed is not None, "the node has not closed"
        self.assertEqual(peer.closed.code, code, peer.closed)
        if reason is not None:
            self.assertEqual(peer.closed.reason, reason)

    def assert_dropped(self, peer: HostilePeer) -> None:
        """The transport is gone, and no close frame came before."""
        assert peer.closed is not None, "the node has not dropped the connection"
        self.assertIsNone(peer.closed.code)
        self.assertIsNotNone(peer.closed.lost)

    def assert_charged(self, peer: HostilePeer, reason: PenaltyReason | None) -> None:
        """The peer was charged once for this, or never for anything."""
        self.assertEqual(self.points(peer), 0 if reason is None else reason.points)
        if reason is not None:
            self.assertEqual(self.count(f"penalty.{reason.value}"), 1)

    def assert_link_works(self, peer: HostilePeer) -> None:
        """The session is there, and a correlated request still gets its answer."""
        self.assertTrue(self.has_session(peer))
        self.assertIsNone(peer.closed)
        request_under_way = self.node.handle.request_peers_from(peer.peer_id)
        self.network.settle()
        request = peer.messages[-1]
        peer.send_message(Message(ChiaMessageType.RESPOND_PEERS, request.id, bytes(4)))
        self.assertEqual(self.network.run(request_under_way, 5).peer_list, [])

    def assert_serves(self) -> None:
        """The next honest peer is served at once, and nothing of the last one is left."""
        openings, timers = self.parts.peers.openings, self.parts.clock.pending
        honest = self.network.node()
        self.network.start()
        started = self.network.clock.seconds()
        self.connect(honest, self.node)
        self.assertLess(self.network.clock.seconds() - started, 1.0)
        self.network.run(honest.service.stop())
        self.network.settle()
        self.assertEqual(self.parts.peers.openings, openings)
        self.assertLessEqual(self.parts.clock.pending, timers)

    def assert_forgotten(self, peers: int = 0) -> None:
        """After the last close has had its time, only this many peers are left."""
        self.network.advance(AFTER_CLOSE)
        self.assertEqual(self.parts.peers.openings, 0)
        self.assertEqual(len(self.parts.transports), peers)
        self.assertEqual(len(self.parts.peers.table), peers)
