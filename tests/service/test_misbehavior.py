"""Penalties and bans as whole nodes apply them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

from dig_gossip import Message, PeerBanned, PenaltyReason
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.testing.network import MemoryNode
from dig_gossip.types.config import PlumtreeConfig
from tests.network_case import NetworkCase

GARBAGE = b"\x14\x07"  # no envelope: 20 points
MALFORMED = PenaltyReason.MALFORMED_MESSAGE


class MisbehaviorCase(NetworkCase):
    """A node, and peers that send garbage."""

    def setUp(self) -> None:
        super().setUp()
        (self.node,) = self.nodes(1)

    def stranger(self, host: str | None = None, **options: object) -> HostilePeer:
        peer = HostilePeer(self.network, host=host, **options)  # type: ignore[arg-type]
        self.addCleanup(peer.drop)
        self.join(peer)
        return peer

    def join(self, peer: HostilePeer) -> None:
        peer.join(self.node.address)
        self.network.advance(1)

    def misbehave(self, peer: HostilePeer, times: int) -> None:
        for _ in range(times):
            peer.send_frame(GARBAGE)
        self.network.advance(1)

    def points(self, peer: HostilePeer) -> int:
        return self.node.service.node.peers.reputation(peer.peer_id).penalty_points

    def is_in(self, peer: HostilePeer) -> bool:
        return bytes(peer.peer_id) in self.peer_ids(self.node)


class PointsTests(MisbehaviorCase):
    """What a peer has on its account."""

    def test_points_outlive_the_connection(self) -> None:
        """Five times twenty, in two sessions and from two addresses.  REP-101-X, CON-007"""
        peer = self.stranger("198.51.100.1")
        self.misbehave(peer, 2)
        self.assertEqual(self.points(peer), 40)
        peer.drop()
        self.network.advance(1)
        again = self.stranger("198.51.100.2", identity=peer.identity)
        self.misbehave(again, 2)
        self.assertEqual((self.points(again), self.is_in(again)), (80, True))
        self.misbehave(again, 1)
        assert again.closed is not None
        self.assertEqual((again.closed.code, self.is_in(again)), (1008, False))

    def test_points_do_not_decay_and_end_with_the_ban(self) -> None:
        """A day later they are still there; an hour after the ban they are not.  CON-007"""
        peer = self.stranger()
        self.misbehave(peer, 4)
        peer.drop()
        self.network.advance(86_400)
        self.join(peer)
        self.misbehave(peer, 1)
        self.assertFalse(self.is_in(peer))
        self.assertEqual(self.counter(self.node, "bans_active"), 1)
        self.assertEqual(self.counter(self.node, "host_bans_active"), 1)
        self.network.advance(3590)
        self.join(peer)
        self.assertFalse(self.is_in(peer))
        self.network.advance(10)
        self.join(peer)
        self.assertEqual((self.is_in(peer), self.points(peer)), (True, 0))
        reputation = self.node.service.node.peers.reputation(peer.peer_id)
        self.assertEqual((reputation.ban_count, reputation.ban_expiry), (1, None))
        self.assertEqual(reputation.last_penalty_reason, MALFORMED)

    def test_penalties_are_counted_by_reason(self) -> None:
        """Applied ones only.  REP-103-X"""
        peer = self.stranger()
        self.misbehave(peer, 2)
        peer.send_message(Message(1, None, b""))
        self.network.advance(1)
        self.assertEqual(self.counter(self.node, "penalty.malformed_message"), 2)
        self.assertEqual(self.counter(self.node, "penalty.protocol_violation"), 1)

    def test_one_read_is_not_charged_after_the_ban(self) -> None:
        """What was under way when the session ended is not looked at.  CON-007.2"""
        peer = self.stranger()
        self.misbehave(peer, 50)
        self.assertEqual(self.counter(self.node, "penalty.malformed_message"), 5)


class HostTests(MisbehaviorCase):
    """Addresses have accounts of their own."""

    def test_ids_of_one_host_share_its_account(self) -> None:
        """Two ids with 60 points each: the host is banned, before TLS.  REP-102-X, CON-007.1"""
        one, other = self.stranger("198.51.100.1"), self.stranger("198.51.100.1")
        self.misbehave(one, 3)
        self.assertTrue(self.is_in(other))
        self.misbehave(other, 2)
        self.assertEqual((self.is_in(one), self.is_in(other)), (False, False))
        third = self.stranger("198.51.100.1")
        self.assertFalse(third.secured)
        self.assertEqual(self.counter(self.node, "accept_refused.ip_banned"), 1)
        self.assertTrue(self.is_in(self.stranger("198.51.100.2")))

    def test_an_ipv6_host_is_its_64(self) -> None:
        """What one customer gets.  REP-102-X"""
        culprit = self.stranger("2001:db8:1:2::1")
        neighbor = self.stranger("2001:db8:1:3::1")
        self.misbehave(culprit, 5)
        self.assertFalse(self.stranger("2001:db8:1:2:ffff::9").secured)
        self.assertTrue(self.is_in(neighbor))

    def test_loopback_is_never_banned(self) -> None:
        """The id is, and everybody else on this machine stays.  CON-007.1, RL-105-X"""
        culprit, other = self.stranger("127.0.0.1"), self.stranger("127.0.0.1")
        self.misbehave(culprit, 5)
        self.assertEqual((self.is_in(culprit), self.is_in(other)), (False, True))
        self.join(culprit)
        assert culprit.closed is not None
        self.assertEqual((culprit.secured, culprit.closed.code), (True, 1008))
        self.assertTrue(self.is_in(self.stranger("127.0.0.1")))
        self.assertEqual(self.counter(self.node, "host_bans_active"), 0)

    def test_a_banned_host_is_not_dialed(self) -> None:
        """Nor is the id, behind another address.  CON-007.1, CON-001.1"""
        identity = throwaway_identity("banned")
        peer: MemoryNode = self.network.node(identity=identity)
        self.network.start()
        self.network.run(self.node.handle.connect_to(peer.address))
        self.network.run(self.node.handle.ban_peer(peer.peer_id, PenaltyReason.INVALID_BLOCK))
        self.network.advance(1)
        self.assertFires(PeerBanned, self.node.handle.connect_to(peer.address))
        self.network.run(peer.service.stop())
        moved = self.network.node(identity=identity)
        self.network.start()
        self.assertFires(PeerBanned, self.node.handle.connect_to(moved.address))
        self.assertFires(
            PeerBanned, self.node.handle.send_to(peer.peer_id, Message(200, None, b""))
        )


class ScoreTests(MisbehaviorCase):
    """Trust over round trip time."""

    def test_points_and_distance_lower_the_score(self) -> None:
        """0.05 s each way; 40 points; no pong, no score.  PRF-001, API-006"""
        other = self.network.node(plumtree=PlumtreeConfig(tagged_trees=False))  # not pinged at once
        self.network.start()
        self.connect(self.node, other)
        self.assertEqual(self.snapshot(other).score, 0.0)
        self.network.advance(40)
        near = self.snapshot(other)
        assert near.avg_rtt_ms is not None
        self.assertAlmostEqual(near.score, 1 / near.avg_rtt_ms)
        for _ in range(2):
            self.network.run(self.node.handle.penalize_peer(other.peer_id, MALFORMED))
        self.assertAlmostEqual(self.snapshot(other).score, 0.6 / near.avg_rtt_ms)

    def test_a_very_slow_peer_is_noted_once(self) -> None:
        """And nothing else happens to it.  PRF-001.1"""
        other = self.network.node(plumtree=PlumtreeConfig(tagged_trees=False))  # not pinged at once
        self.network.start()
        self.connect(self.node, other)
        self.network._latency = 3.0
        self.network.advance(120)
        self.assertEqual(self.counter(self.node, "slow_peers"), 1)
        reputation = self.snapshot(other)
        assert reputation.avg_rtt_ms is not None
        self.assertGreater(reputation.avg_rtt_ms, 5000)
        self.assertEqual(reputation.penalty_points, 0)

    def snapshot(self, other: MemoryNode):  # type: ignore[no-untyped-def]
        (connection,) = self.network.run(self.node.handle.connected_peers())
        return connection.reputation


class CounterTests(MisbehaviorCase):
    """``stats().extra``."""

    def test_every_counter_is_explained(self) -> None:
        """The page for operators names all of them, by their patterns.  STA-101-X"""
        page = Path(__file__).resolve().parents[2].joinpath("docs", "operating.rst").read_text()
        rows = page.partition("Counters\n---")[2].partition("Limits\n---")[0]
        cells = " ".join(re.findall(r"^   \* - (.+?)(?=^     -)", rows, re.MULTILINE | re.DOTALL))
        named = {re.sub(r"<[a-z]+>", "*", name) for name in re.findall(r"``([^`]+)``", cells)}
        peer = self.stranger()
        self.misbehave(peer, 5)
        self.join(peer)
        counted = self.network.run(self.node.handle.stats()).extra
        unknown = [
            name for name in counted if not any(fnmatchcase(name, pattern) for pattern in named)
        ]
        self.assertEqual(unknown, [])
        self.assertIn("accept_refused.ip_banned", counted)

    def test_statistics_cost_no_more_with_time(self) -> None:
        """Names are bounded by reasons and opcodes, not by messages or peers.  STA-102-X"""

        def names() -> set[str]:
            for _ in range(3):
                peer = self.stranger()
                self.misbehave(peer, 5)
            return set(self.network.run(self.node.handle.stats()).extra)

        self.assertEqual(names(), names())
