"""Whole nodes that take another id, in memory, while messages flow."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any
from unittest import mock

from chia_rs.sized_ints import uint32

from dig_gossip import GossipConfig, GossipService, InvalidConfig, Message, PeerIdRotationConfig
from dig_gossip.connection import retirement
from dig_gossip.errors import Io, RequestRejected
from dig_gossip.service import rotating
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.testing.network import MemoryNode
from dig_gossip.tls.identity import Identity, load_identity
from dig_gossip.types.peer import PeerId
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.chia import RejectBlock, RequestBlock
from tests.discovery.introducer_case import IntroducerCase
from tests.network_case import NetworkCase
from tests.service.test_relaying import UNLIMITED, RelayCase

INTERVAL = 120.0
#: By then the first rotation, whatever its jitter, has begun.
BEGUN = 1.05 * INTERVAL


class RotatingCase(NetworkCase):
    """Generates identities faster than RSA can."""

    def setUp(self) -> None:
        super().setUp()
        self.made: list[Identity] = []
        patch = mock.patch.object(rotating, "generate_identity", self.generate)
        patch.start()
        self.addCleanup(patch.stop)

    def generate(self) -> Identity:
        self.made.append(throwaway_identity(f"{self.id()}/{len(self.made)}"))
        return self.made[-1]

    def rotation(self, **options: Any) -> PeerIdRotationConfig:
        """The configuration of a node that rotates."""
        return PeerIdRotationConfig(rotation_interval_secs=INTERVAL, **options)

    def until_rotated(self, node: MemoryNode, times: int = 1) -> None:
        """Let time pass until the node has another id."""
        while len(self.made) < times:
            self.network.advance(0.5)
        self.network.advance(0.05)
        self.assertEqual(node.peer_id, self.made[-1].peer_id)


class TrafficTests(RotatingCase):
    """A node with twenty peers, in a network that never falls silent."""

    def test_no_message_is_lost_and_no_window_opens(self) -> None:
        """20 peers, 12 dialed and 8 that dialed: each of 200 messages reaches each node once, and
        there are never fewer connections than target - 8.  PRV-007.1
        """
        network = self.network
        hub = network.node(
            target_outbound_count=20, peer_id_rotation=self.rotation(), peer_options=UNLIMITED
        )
        dialed = [network.node(peer_options=UNLIMITED) for _ in range(12)]
        dialing = [
            network.node(bootstrap_peers=[hub.address], peer_options=UNLIMITED) for _ in range(8)
        ]
        others = dialed + dialing
        network.start()
        former = hub.peer_id
        for node in dialed:
            network.run(hub.handle.connect_to(node.address))
        for node, following in zip(others, others[1:] + others[:1], strict=True):
            network.run(node.handle.connect_to(following.address))
        network.advance(5)
        self.assertEqual(len(self.peer_ids(hub)), 20)

        nodes = [hub, *others]
        inboxes = [node.handle.inbound_receiver() for node in nodes]
        got: list[Counter[bytes]] = [Counter() for _ in nodes]
        network.advance(0.9 * INTERVAL - 5)
        fewest, sent = 20, 0
        while not self.made:
            network.advance(0.5)
        rotated_at = network.clock.seconds()
        while sent < 200:
            source = network.rng.randrange(len(nodes))
            data = f"message {sent}".encode()
            got[source][data] += 1  # nobody delivers its own
            network.run(nodes[source].handle.broadcast(Message(200, None, data)))
            sent += 1
            for _ in range(5):
                network.advance(0.02)
                fewest = min(fewest, len(self.peer_ids(hub)))
            for inbox, counts in zip(inboxes, got, strict=True):
                while len(inbox):
                    _peer, message = network.run(inbox.get())
                    counts[message.data] += 1
        network.advance(30)
        for inbox, counts in zip(inboxes, got, strict=True):
            while len(inbox):
                _peer, message = network.run(inbox.get())
                counts[message.data] += 1

        self.assertGreater(network.clock.seconds() - rotated_at, 30)
        expected = {f"message {number}".encode(): 1 for number in range(200)}
        for counts in got:
            self.assertEqual(dict(counts), expected)
        self.assertGreaterEqual(fewest, 20 - 8)
        self.assertNotEqual(hub.peer_id, former)
        own = hub.service.node.peers
        self.assertEqual({s.own_id for s in own.table}, {hub.peer_id})
        self.assertEqual(len(self.peer_ids(hub)), 20)
        for node in others:
            self.assertIn(hub.peer_id, self.peer_ids(node))
            self.assertNotIn(former, self.peer_ids(node))


class RotatingTests(RotatingCase):
    """Each of the promises by itself."""

    def pair(self, **options: Any) -> tuple[MemoryNode, MemoryNode]:
        """A node that rotates and has dialed another."""
        node = self.network.node(peer_id_rotation=self.rotation(**options))
        other = self.network.node()
        self.network.start()
        self.connect(node, other)
        return node, other

    def test_a_dialed_session_is_replaced_before_it_ends(self) -> None:
        """The other end has both for a moment, then the new one.  PRV-007.1"""
        node, other = self.pair()
        former = node.peer_id
        self.until_rotated(node)
        self.network.advance(2)
        self.assertEqual(self.peer_ids(other), {former, node.peer_id})
        self.assertEqual(self.peer_ids(node), {other.peer_id})
        self.network.advance(10)
        self.assertEqual(self.peer_ids(other), {node.peer_id})
        self.assertEqual(self.counter(node, "removed.moved"), 1)

    def test_what_was_asked_before_is_answered_where_it_was_asked(self) -> None:
        """In both directions, although the ids of both sessions overlap.  PRV-007.1"""
        node, other = self.pair()
        former = node.peer_id
        inboxes = {n: n.handle.inbound_receiver() for n in (node, other)}
        self.network.advance(0.9 * INTERVAL)
        while not self.made:
            self.network.advance(0.5)
        early = other.handle.request(former, RequestBlock(uint32(1), True), timeout=60)
        self.network.advance(2)
        late = other.handle.request(node.peer_id, RequestBlock(uint32(2), True), timeout=60)
        self.network.advance(0.1)
        asked = [self.network.run(inboxes[node].get())[1] for _ in range(2)]
        self.assertEqual(asked[0].id, asked[1].id)
        # In the order that could confuse them: first the one that came last.
        self.network.run(node.handle.respond(other.peer_id, asked[1], RejectBlock(uint32(2))))
        self.network.run(node.handle.respond(other.peer_id, asked[0], RejectBlock(uint32(1))))
        for deferred, height in ((early, 1), (late, 2)):
            with self.assertRaises(RequestRejected) as caught:
                self.network.run(deferred)
            self.assertEqual(caught.exception.answer.height, height)

    def test_an_answer_may_come_long_after_the_session_has_an_heir(self) -> None:
        """The old session stays for what this node has asked on it.  PRV-007.1"""
        node, other = self.pair()
        former = node.peer_id
        inbox = other.handle.inbound_receiver()
        self.until_rotated(node)
        # While it is asking, the session is left alone for half a minute.
        asking = node.handle.request(other.peer_id, RequestBlock(uint32(7), True), timeout=90)
        self.network.advance(0.1)
        _peer, asked = self.network.run(inbox.get())
        self.network.advance(20)
        self.assertEqual(self.peer_ids(other), {former})
        while node.peer_id not in self.peer_ids(other):
            self.network.advance(0.5)
        self.network.advance(retirement.LEAST_SECS + 3)
        self.network.run(other.handle.respond(former, asked, RejectBlock(uint32(7))))
        with self.assertRaises(RequestRejected) as caught:
            self.network.run(asking)
        self.assertEqual(caught.exception.answer.height, 7)
        self.network.advance(5)
        self.assertEqual(self.peer_ids(other), {node.peer_id})

    def test_sessions_may_keep_the_old_id(self) -> None:
        """reconnect_on_rotation=False: new connections only.  PRV-007.1"""
        node, other = self.pair(reconnect_on_rotation=False)
        third = self.network.node()
        self.network.start()
        former = node.peer_id
        self.until_rotated(node)
        self.network.advance(60)
        self.assertEqual(self.peer_ids(other), {former})
        self.connect(node, third)
        self.assertEqual(self.peer_ids(third), {node.peer_id})

    def test_our_former_self_is_ourselves(self) -> None:
        """Whoever shows a former id of ours is not let in as somebody else.  PRV-007.2"""
        mine = throwaway_identity("mine")
        node = self.network.node(identity=mine, peer_id_rotation=self.rotation())
        copy = self.network.node(identity=mine)
        self.network.start()
        self.until_rotated(node)
        failed: list[Any] = []
        handled(copy.handle.connect_to(node.address).addErrback(failed.append))
        self.network.advance(5)
        self.assertEqual((self.peer_ids(node), len(failed)), (set(), 1))

    def test_the_embedder_is_told(self) -> None:
        """And may stop listening; its mistakes are its own.  ROT-102-X"""
        node, _other = self.pair()
        former = node.peer_id
        seen: list[tuple[PeerId, PeerId]] = []
        self.network.run(node.handle.observe_rotation(lambda *ids: 1 / 0))
        stop = self.network.run(node.handle.observe_rotation(lambda *ids: seen.append(ids)))
        self.until_rotated(node)
        self.assertEqual(seen, [(former, node.peer_id)])
        self.assertEqual(self.network.run(node.handle.local_peer_id()), node.peer_id)
        stop()
        self.network.advance(BEGUN)
        self.assertEqual((len(seen), len(self.made)), (1, 2))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(self.counter(node, "rotations"), 2)

    def test_failure_keeps_the_old_identity(self) -> None:
        """And the next interval tries again.  PRV-007"""
        node, other = self.pair()
        former = node.peer_id
        with mock.patch.object(rotating, "generate_identity", side_effect=Io("no entropy")):
            self.network.advance(BEGUN)
        self.assertEqual(self.counter(node, "rotations_failed"), 1)
        self.assertEqual((node.peer_id, self.peer_ids(other)), (former, {former}))
        self.network.advance(BEGUN)
        self.assertEqual(node.peer_id, self.made[0].peer_id)

    def test_the_new_identity_is_kept_before_it_is_shown(self) -> None:
        """A restart, also one without rotation, is the last id.  PRV-006, PRV-007"""
        folder = self.mktemp()
        paths = (os.path.join(folder, "node.crt"), os.path.join(folder, "node.key"))
        files: dict[str, Any] = dict(zip(("cert_path", "key_path"), paths, strict=True))
        node = self.network.node(**files, peer_id_rotation=self.rotation())
        self.network.start()
        self.until_rotated(node)
        self.assertEqual(load_identity(*paths).peer_id, node.peer_id)
        self.assertEqual(os.stat(paths[1]).st_mode & 0o777, 0o600)
        self.assertEqual(sorted(os.listdir(folder)), ["node.crt", "node.key"])
        again = GossipService(GossipConfig(**files))
        self.assertEqual(again.peer_id, node.peer_id)

    def test_switched_off_there_is_no_task(self) -> None:
        """None, enabled=False, interval 0: the certificate stays.  PRV-006, PRV-008"""
        for rotation in (
            None,
            PeerIdRotationConfig(enabled=False),
            PeerIdRotationConfig(rotation_interval_secs=0),
        ):
            node = self.network.node(peer_id_rotation=rotation)
            self.network.start()
            self.assertIsNone(node.service.node.rotating)

    def test_a_fixed_id_cannot_rotate(self) -> None:
        """Two wishes that exclude each other.  CFG-103-X"""
        identity = throwaway_identity()
        config = GossipConfig(peer_id=identity.peer_id, peer_id_rotation=PeerIdRotationConfig())
        error = self.assertRaises(InvalidConfig, GossipService, config, identity=identity)
        self.assertIn("peer_id_rotation", str(error))


class IntroducerTests(IntroducerCase, RotatingCase):
    """With an introducer."""

    def test_the_introducer_is_told_at_once(self) -> None:
        """Not after the half hour that is left of the last registration.  PRV-007.1"""
        introducer = self.introducer()
        node = self.client(introducer.url, peer_id_rotation=self.rotation())
        self.network.start()
        known = introducer.server.registry.counters
        self.network.advance(0.9 * INTERVAL)
        self.assertEqual((known["registered.refreshed"], self.made), (1, []))
        self.until_rotated(node)
        self.network.advance(2)
        self.assertEqual(known["registered.refreshed"], 2)


class RelayTests(RelayCase, RotatingCase):
    """Through a relay."""

    def test_the_relay_knows_the_new_id_and_sessions_return(self) -> None:
        """Unregistered, registered, tunneled again within seconds.  PRV-007.1, PRV-007.2"""
        one, two = self.hidden(peer_id_rotation=None)
        three = self.hidden(1, peer_id_rotation=self.rotation())[0]
        self.until(lambda: len(self.peer_ids(three)) == 2)
        former = three.peer_id
        self.until_rotated(three)
        self.assertNotEqual(three.peer_id, former)
        self.until(
            lambda: all(
                self.peer_ids(node) == {other.peer_id, three.peer_id}
                for node, other in ((one, two), (two, one))
            )
        )
