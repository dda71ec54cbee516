"""Messages with tags on real sessions: what is gossip, and what is never mistaken for an answer."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import Message, PlumtreeConfig, RequestTimeout, Verdict
from dig_gossip.connection.handshake import DEFAULT_CAPABILITIES
from dig_gossip.connection.session import Session
from dig_gossip.service.engines import speaks_first
from dig_gossip.testing.hostile import PING, PONG, HostilePeer
from dig_gossip.testing.network import MemoryNode
from dig_gossip.wire.dig import NewAttestation, RequestStatus
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.trees import TreeAnnounce, TreeGraft, TreeOpen
from tests.network_case import NetworkCase
from tests.service.test_gossip_network import Recorder

_WITH_TREES = (*DEFAULT_CAPABILITIES, Capability.DIG_TREES)
_CONTROL = range(242, 246)


class TaggedSessionCase(NetworkCase):
    """A node, and scripted peers with and without trees."""

    def setUp(self) -> None:
        super().setUp()
        (self.node,) = self.nodes(1)
        self.inbox = self.node.handle.inbound_receiver()

    def peer(self, *, trees: bool) -> HostilePeer:
        """A peer that dialed the node."""
        peer = HostilePeer(self.network)
        peer.join(self.node.address, capabilities=_WITH_TREES if trees else DEFAULT_CAPABILITIES)
        self.network.advance(1)
        self.addCleanup(peer.drop)
        return peer

    def session_with(self, peer: HostilePeer) -> Session:
        """The node's session with a peer."""
        return self.node.service.node.peers.get(peer.peer_id)

    def send(self, peer: HostilePeer, message: Message) -> None:
        """A peer sends a message."""
        peer.send_message(message)
        self.network.advance(0.1)

    def send_in_chunks(self, peer: HostilePeer, message: Message) -> None:
        """A peer sends a message as a transfer."""
        whole, size = bytes(message), 32 * 1024
        for offset in range(0, len(whole), size):
            head = struct.pack("!III", 1, len(whole), offset)
            peer.send_message(Message(241, None, head + whole[offset : offset + size]))
        self.network.advance(0.1)

    def delivered(self) -> list[tuple[int, int | None, bytes]]:
        """What the application got since."""
        got = []
        while len(self.inbox):
            _, message = self.network.run(self.inbox.get())
            got.append((message.type, message.id, message.data))
        return got

    def gossip(self, peer: HostilePeer) -> list[tuple[int, int | None, bytes]]:
        """The attestations that a peer got."""
        return [(m.type, m.id, m.data) for m in peer.messages if m.type == 200]


class TagsAndIdsTests(TaggedSessionCase):
    """An id is a tag between ends that both say so."""

    def test_id_from_a_peer_without_trees_is_the_applications(self) -> None:
        """It is delivered as it came, and not forwarded.  MSG-105-X"""
        sender, others = self.peer(trees=False), [self.peer(trees=False), self.peer(trees=True)]
        self.send(sender, Message(200, 7, b"for you"))
        self.assertEqual(self.delivered(), [(200, 7, b"for you")])
        self.network.advance(5)
        self.assertEqual([self.gossip(other) for other in others], [[], []])
        self.assertEqual(self.node.service.node.router.plumtree.snapshot().trees, 0)

    def test_id_from_a_peer_with_trees_is_a_tag(self) -> None:
        """The application gets no id, and others the message in their own way.  design D6"""
        sender, plain = self.peer(trees=True), self.peer(trees=False)
        grafted, lazy = self.peer(trees=True), self.peer(trees=True)
        self.send(sender, Message(TreeOpen.OPCODE, None, bytes(TreeOpen(7, 10))))
        self.assertEqual(
            [m.data for m in sender.messages if m.type == TreeGraft.OPCODE], [bytes(TreeGraft(7))]
        )
        self.assertEqual(len([m for m in lazy.messages if m.type == TreeOpen.OPCODE]), 1)
        self.send(grafted, Message(TreeGraft.OPCODE, None, bytes(TreeGraft(7))))
        self.send(sender, Message(200, 7, b"news"))
        self.assertEqual(self.delivered(), [(200, None, b"news")])
        self.network.advance(2)
        self.assertEqual(self.gossip(plain), [(200, None, b"news")])
        self.assertEqual(self.gossip(grafted), [(200, 7, b"news")])
        self.assertEqual(self.gossip(lazy) + self.gossip(sender), [])
        self.assertEqual(len([m for m in lazy.messages if m.type == TreeAnnounce.OPCODE]), 1)

    def test_peers_without_trees_get_no_frame_of_them(self) -> None:
        """Nor is one of theirs taken.  D5"""
        one, plain = self.peer(trees=True), self.peer(trees=False)
        for opcode in _CONTROL:
            self.send(plain, Message(opcode, None, b"\0\7\0\7"))
        self.send(one, Message(TreeOpen.OPCODE, None, bytes(TreeOpen(7, 10))))
        self.send(one, Message(200, 7, b"news"))
        self.network.run(self.node.handle.broadcast(Message(200, None, b"own")))
        self.network.advance(5)
        self.assertEqual([m for m in plain.messages if m.type in _CONTROL], [])
        points = self.node.service.node.peers.reputation(plain.peer_id).penalty_points
        self.assertEqual(points, 0)

    def test_trees_can_be_switched_off(self) -> None:
        """Then nobody is offered any, and an id is an id.  design D6"""
        self.node = self.network.node(plumtree=PlumtreeConfig(tagged_trees=False))
        self.node.service.startService()
        self.inbox = self.node.handle.inbound_receiver()
        peer = self.peer(trees=True)
        self.assertFalse(self.session_with(peer).shares(Capability.DIG_TREES))
        self.send(peer, Message(200, 7, b"for you"))
        self.assertEqual(self.delivered(), [(200, 7, b"for you")])

    def test_validator_is_asked_about_messages_with_tags(self) -> None:
        """It sees no tag, and can refuse them.  PLT-104-X"""
        asked = []

        def validator(_peer: object, message: Message) -> Verdict:
            asked.append((message.id, message.data))
            return Verdict.ACCEPT if message.data == b"good" else Verdict.IGNORE

        self.node.handle.set_validator(200, validator)
        peer = self.peer(trees=True)
        self.send(peer, Message(200, 7, b"good"))
        self.send(peer, Message(200, 7, b"bad"))
        self.assertEqual(asked, [(None, b"good"), (None, b"bad")])
        self.assertEqual(self.delivered(), [(200, None, b"good")])


class CorrelationTests(TaggedSessionCase):
    """A tag that equals the id of a request answers nothing."""

    def ask(self, peer: HostilePeer, timeout: float = 30.0) -> tuple[Deferred[Any], int]:
        """Request something to which an attestation would be an answer, too; and the id."""
        waiting = self.node.handle.request(
            peer.peer_id, RequestStatus(), response_type=NewAttestation, timeout=timeout
        )
        self.network.advance(0.1)
        (message_id,) = [m.id for m in peer.messages if m.type == RequestStatus.OPCODE]
        assert message_id is not None
        return waiting, message_id

    def test_tag_of_an_open_request_is_a_tag(self) -> None:
        """In a frame of its own, and in chunks.  MSG-104-X"""
        peer = self.peer(trees=True)
        waiting, message_id = self.ask(peer)
        self.send(peer, Message(200, message_id, b"news"))
        self.send_in_chunks(peer, Message(200, message_id, b"large"))
        self.assertNoResult(waiting)
        self.assertEqual(self.delivered(), [(200, None, b"news"), (200, None, b"large")])
        self.send(peer, Message(255, message_id, bytes(8)))  # Chia's error answers anything
        self.failureResultOf(waiting)

    def test_without_trees_it_is_an_answer(self) -> None:
        """As ever.  MSG-104-X"""
        peer = self.peer(trees=False)
        waiting, message_id = self.ask(peer)
        self.send(peer, Message(200, message_id, b"answer"))
        self.assertEqual(self.successResultOf(waiting), NewAttestation(b"answer"))
        self.assertEqual(self.delivered(), [])

    def test_tag_of_a_request_that_timed_out_is_no_late_answer(self) -> None:
        """It is not dropped.  API-002.7"""
        for trees, late in ((True, 0), (False, 2)):
            peer = self.peer(trees=trees)
            waiting, message_id = self.ask(peer, timeout=2)
            self.network.advance(2)
            self.failureResultOf(waiting, RequestTimeout)
            self.send(peer, Message(200, message_id, b"news %d" % trees))
            self.send_in_chunks(peer, Message(200, message_id, b"large %d" % trees))
            self.assertEqual(self.session_with(peer).late_answers, late)
            self.assertEqual(len(self.delivered()), 2 - late)

    def test_tag_is_no_request_that_a_retired_session_may_have_to_answer(self) -> None:
        """What the peer asked on the new one is remembered; a tag asks nothing.  PRV-007.1"""
        for trees, asked in ((True, {9}), (False, {7, 8, 9})):
            peer = self.peer(trees=trees)
            session = self.session_with(peer)
            retirement = session.predecessor = cast(Any, mock.Mock(asked=set()))
            self.send(peer, Message(200, 7, b"news"))
            self.send_in_chunks(peer, Message(200, 8, b"large"))
            self.send(peer, Message(RequestStatus.OPCODE, 9, b""))
            session.predecessor = None
            self.assertEqual(retirement.asked, asked)

    def test_large_message_keeps_its_tag(self) -> None:
        """It is gossip as the small ones are, and runs in its tree.  D9"""
        sender, other = self.peer(trees=True), self.peer(trees=True)
        self.send(other, Message(TreeOpen.OPCODE, None, bytes(TreeOpen(7, 10))))
        data = bytes(65_536)
        self.send_in_chunks(sender, Message(207, 7, data))
        self.assertEqual(self.delivered(), [(207, None, data)])
        whole = b"".join(m.data[12:] for m in other.messages if m.type == 241)
        self.assertEqual(Message.from_bytes(whole), Message(207, 7, data))


class PingTests(TaggedSessionCase):
    """The round trip is measured when an engine wants to know it."""

    def pings(self, peer: HostilePeer) -> list[bytes]:
        """The payloads of the pings that a peer got."""
        return [frame.payload for frame in peer.frames if frame.opcode == PING]

    def test_new_session_with_trees_is_measured_at_once(self) -> None:
        """Others when it is their turn.  design D6"""
        one, plain = self.peer(trees=True), self.peer(trees=False)
        (payload,) = self.pings(one)
        self.assertEqual(self.pings(plain), [])
        one.send_frame(payload, PONG)
        self.network.advance(0.1)
        self.assertEqual(len(self.session_with(one).keepalive.rtt_history), 1)

    def test_one_ping_at_a_time(self) -> None:
        """Until it is answered.  design D6"""
        peer = self.peer(trees=True)
        session = self.session_with(peer)
        session.ping()
        self.network.advance(0.1)
        (payload,) = self.pings(peer)
        peer.send_frame(payload, PONG)
        self.network.advance(0.1)
        session.ping()
        session.ping()
        self.network.advance(0.1)
        self.assertEqual(len(self.pings(peer)), 2)

    def test_no_ping_whose_answer_would_not_be_read(self) -> None:
        """Nor after the end.  BP-104-X"""
        peer = self.peer(trees=False)
        session = self.session_with(peer)
        session.hold(self)
        session.ping()
        session.release(self)
        self.network.advance(0.1)
        self.assertEqual(self.pings(peer), [])
        self.network.run(self.node.handle.disconnect(peer.peer_id))
        session.ping()
        self.network.advance(0.1)
        self.assertEqual(self.pings(peer), [])

    def test_who_is_not_read_from_is_not_silent(self) -> None:
        """Nobody knows what it says.  BP-104-X, design D6"""
        deaf, other = self.peer(trees=True), self.peer(trees=True)
        self.session_with(deaf).hold(self)
        counters = self.node.service.node.router.plumtree.counters
        self.network.advance(20)  # since the sessions were measured
        before = counters.silences
        self.send(other, Message(TreeAnnounce.OPCODE, None, b"\x01"))
        self.network.advance(2)
        self.assertEqual(counters.silences - before, 1)


class SpeaksFirstTests(SynchronousTestCase):
    """Which end of a link announces first."""

    def first(self, own: bytes, peer: bytes) -> bool:
        """Whether the end with the first of these ids does."""
        return speaks_first(cast(Session, SimpleNamespace(own_id=own, peer_id=peer)))

    @given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
    def test_both_ends_find_the_same_one(self, one: bytes, other: bytes) -> None:
        """Whatever their ids.  design D6"""
        if one != other:
            self.assertNotEqual(self.first(one, other), self.first(other, one))

    def test_nobody_speaks_first_on_all_links(self) -> None:
        """Neither the smallest id nor the largest: everybody does on about half.  design D6"""
        ids = [bytes([number]) * 32 for number in range(256)]
        for own in ids:
            share = sum(self.first(own, peer) for peer in ids if peer != own)
            self.assertTrue(120 <= share <= 136, (own[0], share))


class MixedNodesTests(NetworkCase):
    """Whole nodes, one of which has its trees switched off."""

    def graph(self) -> list[MemoryNode]:
        """Six nodes, each connected with each."""
        nodes = [
            self.network.node(plumtree=PlumtreeConfig(tagged_trees=number != 0))
            for number in range(6)
        ]
        self.network.start()
        for number, node in enumerate(nodes):
            for other in nodes[:number]:
                self.connect(node, other)
        return nodes

    def test_everything_arrives_everywhere_once(self) -> None:
        """With the tags of those who have trees, and without.  PLT-004"""
        nodes = self.graph()
        recorders = [Recorder(node) for node in nodes]
        sent: list[tuple[int, bytes]] = []
        for number in range(40):
            # The first two send often, everybody sends now and then.
            origin = number % 6 if number % 4 == 3 else number % 2
            data = b"message %d" % number
            self.network.run(nodes[origin].handle.broadcast(Message(200, None, data)))
            sent.append((origin, data))
            self.network.advance(1)
        self.network.advance(10)
        for number, recorder in enumerate(recorders):
            expected = {data: 1 for origin, data in sent if origin != number}
            self.assertEqual(dict(recorder.delivered), expected)
        self.assertEqual(self.counter(nodes[0], "trees_opened"), 0)
        self.assertEqual(self.counter(nodes[0], "trees_joined"), 0)
        self.assertGreaterEqual(self.counter(nodes[1], "trees_opened"), 1)
        for node in nodes[2:]:
            self.assertGreaterEqual(self.counter(node, "trees_joined"), 1)
        session = self.session(nodes[1], nodes[0])
        self.assertFalse(session.shares(Capability.DIG_TREES))
        self.assertTrue(self.session(nodes[1], nodes[2]).shares(Capability.DIG_TREES))

    def test_both_ends_agree_who_speaks_first(self) -> None:
        """On every link.  design D6"""
        nodes = self.graph()
        for node in nodes:
            for other in nodes:
                if other is not node:
                    self.assertNotEqual(
                        speaks_first(self.session(node, other)),
                        speaks_first(self.session(other, node)),
                    )
