"""Who makes room when the inbound slots are full."""

from __future__ import annotations

import random
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.eviction import Candidate, Evictor, Kept, is_local, network_group
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.testing.network import MemoryNode
from dig_gossip.wire.message import Message
from tests.connection import ManualTime
from tests.network_case import NetworkCase

SLOTS = 42  # of a node with default values
NEVER = float("-inf")

times = st.floats(0, 1000)
merits = st.just(NEVER) | times
candidates = st.lists(
    st.builds(
        Candidate,
        key=st.integers(),
        group=st.sampled_from("abcdefgh"),
        opened_at=times,
        is_local=st.booleans(),
        score=st.floats(0, 1),
        last_transaction=merits,
        last_message=merits,
        has_request=st.booleans(),
    ),
    max_size=50,
    unique_by=lambda candidate: candidate.key,
)


class EvictionCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = ManualTime()
        self.evictor = self.made(b"secret of 16 byt")

    def made(self, secret: bytes) -> Evictor:
        return Evictor(secret=secret, now=self.time)

    def crowd(self, count: int, group: str = "crowd", **merit: Any) -> list[Candidate[str]]:
        """Peers of one group, the last the youngest."""
        return [
            Candidate(key=f"{group} {number}", group=group, opened_at=float(number), **merit)
            for number in range(count)
        ]


class ProtectionTests(EvictionCase):
    """Every rule, beside a crowd that deserves nothing."""

    def survivors(self, *others: Candidate[str]) -> set[str]:
        """Which of these are protected, in the best place to be evicted otherwise."""
        young = [attrs.evolve(other, opened_at=999.0) for other in others]
        left = {c.key for c in self.evictor.unprotected(self.crowd(SLOTS) + young)}
        return {other.key for other in others} - left

    def one(self, key: str, **merit: Any) -> Candidate[str]:
        return Candidate(key=key, group="crowd", opened_at=0.0, **merit)

    def test_a_request_in_flight_protects(self) -> None:
        """Whoever owes us an answer stays.  CON-114-X"""
        one, other = self.one("asked", has_request=True), self.one("other")
        self.assertEqual(self.survivors(one, other), {"asked"})

    def test_the_eight_best_scores_are_protected(self) -> None:
        """Nearness cannot be faked, and no pong is no merit.  CON-114-X, PRF-001"""
        peers = [self.one(f"{n}", score=n / 100) for n in range(12)]
        self.assertEqual(self.survivors(*peers), {f"{n}" for n in range(4, 12)})
        self.assertEqual(self.survivors(*(self.one(f"{n}") for n in range(12))), set())

    def test_the_four_last_to_bring_transactions_are_protected(self) -> None:
        """New ones; and as many for other messages that spread.  CON-114-X"""
        peers = [self.one(f"tx {n}", last_transaction=float(n)) for n in range(6)]
        peers += [self.one(f"news {n}", last_message=float(n)) for n in range(6)]
        self.assertEqual(
            self.survivors(*peers), {f"{kind} {n}" for kind in ("tx", "news") for n in range(2, 6)}
        )

    def test_one_of_each_of_four_groups_is_protected(self) -> None:
        """Which groups, only the node knows.  CON-114-X"""
        peers = [c for group in "abcdefgh" for c in self.crowd(10, group)]
        chosen = set()
        for number in range(20):
            left = self.made(bytes([number] * 16))._without_groups(peers, 4)
            protected = {peer.key for peer in peers} - {peer.key for peer in left}
            self.assertEqual((len(protected), {key[2:] for key in protected}), (4, {"0"}))
            chosen.add(frozenset(protected))
        self.assertGreater(len(chosen), 10)

    def test_the_older_half_of_the_rest_is_protected(self) -> None:
        """Of 40 in one group, one by its group, then 19 of 39.  CON-114-X"""
        left = self.evictor.unprotected(self.crowd(40))
        self.assertEqual([c.opened_at for c in left], [float(n) for n in range(20, 40)])

    def test_local_peers_have_half_of_these_places(self) -> None:
        """A Tor service's peers all come from loopback, and are no crowd.  CON-114-X"""
        local = [attrs.evolve(c, opened_at=500.0 + c.opened_at) for c in self.crowd(20, "local")]
        local = [attrs.evolve(c, is_local=True) for c in local]
        left = self.evictor.unprotected(self.crowd(20) + local)
        protected = {c.key for c in local} - {c.key for c in left}
        self.assertEqual(len(protected), 10)  # by group one, by uptime nine of nineteen
        self.assertEqual(protected, {f"local {n}" for n in range(10)})

    def test_few_slots_have_fewer_protected(self) -> None:
        """Of eight, one or two by each rule; somebody can always go.  CON-114-X"""
        peers = [
            Candidate(
                key=n, group="g", opened_at=n, score=n + 1, last_transaction=n, last_message=n
            )
            for n in range(8)
        ]
        self.assertEqual(len(self.evictor.unprotected(peers)), 2)
        self.assertEqual(self.evictor.unprotected(peers[:1]), [])

    @given(candidates, st.binary(min_size=16, max_size=64))
    def test_whoever_is_left_is_the_worse_of_any_pair(
        self, peers: list[Candidate[int]], secret: bytes
    ) -> None:
        """By no rule is somebody protected while a better one is not.  CON-114-X"""
        left = self.made(secret).unprotected(peers)
        keys = {c.key for c in left}
        protected = [c for c in peers if c.key not in keys]
        self.assertFalse(any(c.has_request for c in left))
        free = [c for c in peers if not c.has_request]
        rules = (("score", 8), ("last_transaction", 4), ("last_message", 4))
        for rule, most in rules:
            best = max((getattr(c, rule) for c in left), default=NEVER)
            better = [c for c in free if getattr(c, rule) > best]
            self.assertTrue(all(c in protected for c in better))
            if left and best > (0 if rule == "score" else NEVER):
                share = -(-min(len(peers), 40) * most // 40)
                others = [c for c in free if getattr(c, rule) >= best and c not in left]
                self.assertGreaterEqual(len(others), min(share, 1))
        # What is left is no more than half of what the uptime rule found, rounded up.
        self.assertLessEqual(len(left), -(-len(free) // 2))


class ChoiceTests(EvictionCase):
    """Who of those that nothing protects."""

    def test_the_youngest_of_the_most_crowded_group_goes(self) -> None:
        """Not the youngest of all.  CON-114-X"""
        peers = self.crowd(30) + [
            Candidate(key=f"single {n}", group=f"{n}", opened_at=900.0 + n) for n in range(10)
        ]
        self.assertEqual(self.evictor.choose(peers, "new"), "crowd 29")

    def test_of_equal_groups_the_one_with_the_youngest_peer(self) -> None:
        """Where everybody has a group of its own, the youngest goes.  CON-114-X"""
        peers = [Candidate(key=n, group=f"{n}", opened_at=float(n)) for n in range(SLOTS)]
        self.assertEqual(self.evictor.choose(peers, "new"), SLOTS - 1)

    def test_one_a_minute(self) -> None:
        """A flood of newcomers does not churn the peers.  CON-114-X"""
        peers = self.crowd(SLOTS)
        self.assertTrue(self.evictor.is_ready)
        self.assertEqual(self.evictor.choose(peers, "new"), "crowd 41")
        self.time.seconds += 59.9
        self.assertIs(self.evictor.choose(peers, "new"), Kept.TOO_SOON)
        self.assertFalse(self.evictor.is_ready)
        self.time.seconds += 0.1
        self.assertEqual(self.evictor.choose(peers, "new"), "crowd 41")

    def test_nobody_goes_for_one_more_of_the_same_crowd(self) -> None:
        """The newcomer is dropped; and that costs nobody the minute.  CON-114-X"""
        peers = self.crowd(SLOTS)
        self.assertIs(self.evictor.choose(peers, "crowd"), Kept.SAME_CROWD)
        self.assertTrue(self.evictor.is_ready)

    def test_a_small_group_may_grow_at_the_cost_of_a_large_one(self) -> None:
        """As long as it stays the smaller.  CON-114-X"""
        large, small = self.crowd(39), self.crowd(3, "small")
        young = [attrs.evolve(peer, opened_at=500.0) for peer in small]
        self.assertEqual(self.evictor.choose(large + young, "small"), "crowd 38")

    def test_if_all_are_protected_the_newcomer_is_dropped(self) -> None:
        """The new one is the one to drop when in doubt.  CON-114-X"""
        peers = self.crowd(SLOTS, has_request=True)
        self.assertIs(self.evictor.choose(peers, "new"), Kept.ALL_PROTECTED)
        self.assertIs(self.evictor.choose(list[Candidate[int]](), "new"), Kept.ALL_PROTECTED)

    @given(candidates, st.sampled_from("abcz"))
    def test_whoever_goes_was_not_protected_and_stands_in_the_largest_crowd(
        self, peers: list[Candidate[int]], newcomer: str
    ) -> None:
        """Whatever the peers are like.  CON-114-X"""
        evictor = self.made(bytes(16))
        left = evictor.unprotected(peers)
        victim = evictor.choose(peers, newcomer)
        crowds = {group: [c for c in left if c.group == group] for group in "abcdefgh"}
        largest = max(map(len, crowds.values()))
        if isinstance(victim, Kept):
            crowd = crowds.get(newcomer, [])
            self.assertTrue(not left or (crowd and len(crowd) + 1 >= largest))
            return
        (chosen,) = [c for c in left if c.key == victim]
        self.assertEqual(len(crowds[chosen.group]), largest)
        self.assertEqual(chosen.opened_at, max(c.opened_at for c in crowds[chosen.group]))


class AttackTests(EvictionCase):
    """An attacker with many connections and few networks against a full node."""

    @settings(max_examples=25)
    @given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 25), st.integers(16, 64))
    def test_who_is_useful_near_or_old_stays(
        self, seed: int, networks: int, ordinary: int, secret_length: int
    ) -> None:
        """Whatever the attacker does, and for however long.  CON-114-X"""
        rng = random.Random(seed)
        evictor = self.made(rng.randbytes(secret_length))
        honest: list[Candidate[str]] = [
            *(self.peer(f"near {n}", n, score=0.1 + n / 100) for n in range(8)),
            *(self.peer(f"tx {n}", 10 + n, last_transaction=1e9) for n in range(4)),
            *(self.peer(f"news {n}", 20 + n, last_message=1e9) for n in range(4)),
            *(self.peer(f"plain {n}", 30 + n) for n in range(ordinary)),
        ]
        kept = {peer.key for peer in honest[:16]}
        attackers: list[Candidate[str]] = []
        for number in range(120):
            self.time.seconds += 60
            newcomer = Candidate(
                key=f"bad {number}",
                group=f"bad {rng.randrange(networks)}",
                opened_at=self.time.seconds,
                score=rng.random() * 0.1,  # pings can be late, not early
                last_transaction=self.time.seconds,
                last_message=NEVER,
            )
            if len(honest) + len(attackers) < SLOTS:
                attackers.append(newcomer)
                continue
            victim = evictor.choose(honest + attackers, newcomer.group)
            if isinstance(victim, Kept):
                continue
            self.assertNotIn(victim, kept)
            honest = [peer for peer in honest if peer.key != victim]
            attackers = [peer for peer in attackers if peer.key != victim] + [newcomer]
        if ordinary <= 12:
            # The attacker's peers are crowds: they cost nobody else a slot, and make room.
            self.assertEqual(len(honest), 16 + ordinary)
            self.time.seconds += 60
            self.assertIn("bad", str(evictor.choose(honest + attackers, "new")))

    def peer(self, key: str, number: int, **merit: Any) -> Candidate[str]:
        return Candidate(key=key, group=f"honest {key}", opened_at=float(number), **merit)


class GroupTests(SynchronousTestCase):
    """Networks of addresses."""

    def test_groups(self) -> None:
        """IPv4 by /16, IPv6 by /32, mapped addresses as IPv4, loopback as one.  CON-114-X"""
        for host, group in (
            ("192.0.2.1", "192.0.0.0/16"),
            ("::ffff:192.0.2.1", "192.0.0.0/16"),
            ("2001:db8:1::1", "2001:db8::/32"),
            ("::5", "::/32"),
            ("127.8.0.1", "loopback"),
            ("::1", "loopback"),
            ("localhost", "loopback"),
            ("Node.Example", "node.example"),
        ):
            self.assertEqual(network_group(host), group)

    def test_local_addresses(self) -> None:
        """Loopback and private ones.  CON-114-X"""
        for host, local in (
            ("127.0.0.1", True),
            ("10.1.2.3", True),
            ("fd00::1", True),
            ("localhost", True),
            ("8.8.8.8", False),
            ("2600::1", False),
            ("node.example", False),
        ):
            self.assertIs(is_local(host), local)


class NodeTests(NetworkCase):
    """A whole node with eight inbound slots."""

    def setUp(self) -> None:
        super().setUp()
        self.node = self.network.node(max_connections=8, target_outbound_count=0)
        self.network.start()

    def stranger(self, host: str) -> HostilePeer:
        peer = HostilePeer(self.network, host=host)
        self.addCleanup(peer.drop)
        peer.join(self.node.address)
        self.network.advance(1)
        return peer

    def fill(self) -> list[HostilePeer]:
        """Eight peers of one network, the last the youngest."""
        return [self.stranger(f"203.0.113.{n}") for n in range(1, 9)]

    def test_a_newcomer_gets_the_slot_of_the_youngest_in_the_crowd(self) -> None:
        """When it has finished its handshake; the one that goes is told.  CON-114-X"""
        crowd = self.fill()
        newcomer = self.stranger("198.51.100.1")
        self.assertIn(newcomer.peer_id, self.peer_ids(self.node))
        self.assertEqual(len(self.peer_ids(self.node)), 8)
        self.assertNotIn(crowd[7].peer_id, self.peer_ids(self.node))
        assert crowd[7].closed is not None
        self.assertEqual(crowd[7].closed.code, 1013)
        self.assertEqual(self.counter(self.node, "removed.evicted"), 1)

    def test_the_next_one_is_refused_before_tls_for_a_minute(self) -> None:
        """As without eviction.  CON-114-X, CON-002.1"""
        self.fill()
        self.stranger("198.51.100.1")
        for host in ("192.0.2.1", "100.64.0.1"):
            self.assertFalse(self.stranger(host).secured)
        self.assertEqual(self.counter(self.node, "accept_refused.inbound_full"), 2)
        self.network.advance(60)
        self.assertTrue(self.stranger("100.65.0.1").secured)
        self.assertEqual(self.counter(self.node, "removed.evicted"), 2)

    def test_without_a_handshake_nobody_has_to_go(self) -> None:
        """Silence and half a handshake evict nobody, and eight of them are the most.  CON-114-X"""
        crowd = self.fill()
        silent = [HostilePeer(self.network, host=f"198.51.{n}.1") for n in range(12)]
        for peer in silent:
            peer.connect(self.node.address)
            peer.upgrade()
            self.addCleanup(peer.drop)
        self.network.advance(20)
        self.assertEqual(self.counter(self.node, "accept_refused.inbound_full"), 4)
        self.network.advance(20)
        self.assertEqual(self.peer_ids(self.node), {bytes(peer.peer_id) for peer in crowd})
        self.assertEqual(self.counter(self.node, "removed.evicted"), 0)

    def test_who_has_a_connection_does_not_contend_for_a_second(self) -> None:
        """Refused before TLS.  CON-114-X"""
        self.fill()
        second = self.stranger("203.0.113.1")
        self.assertFalse(second.secured)
        self.assertEqual(self.counter(self.node, "accept_refused.inbound_full"), 1)

    def test_a_crowd_does_not_churn(self) -> None:
        """One more of the same network is refused after its handshake.  CON-114-X"""
        crowd = self.fill()
        newcomer = self.stranger("203.0.113.9")
        assert newcomer.closed is not None
        self.assertEqual(newcomer.closed.code, 1013)
        self.assertEqual(self.peer_ids(self.node), {bytes(peer.peer_id) for peer in crowd})
        self.assertEqual(self.counter(self.node, "eviction_refused.same_crowd"), 1)

    def test_who_brings_news_or_owes_an_answer_stays(self) -> None:
        """Messages that were new to us count, copies do not.  CON-114-X"""
        crowd = self.fill()
        news, copy, transaction, asked = crowd[4], crowd[5], crowd[6], crowd[7]
        news.send_message(Message(200, None, b"news"))
        self.network.advance(0.1)
        copy.send_message(Message(200, None, b"news"))
        transaction.send_message(Message(21, None, bytes(48)))
        self.network.advance(0.1)
        waiting = self.node.handle.request_peers_from(asked.peer_id)
        self.stranger("198.51.100.1")
        left = self.peer_ids(self.node)
        self.assertNotIn(copy.peer_id, left)
        self.assertTrue({news.peer_id, transaction.peer_id, asked.peer_id} <= left)
        asked.drop()
        self.network.advance(1)
        self.failureResultOf(waiting)

    def test_outbound_sessions_are_never_evicted(self) -> None:
        """Nor do they need anybody's slot.  CON-110-X, CON-114-X"""
        hub = self.network.node(max_connections=3, target_outbound_count=2, host="192.0.2.9")
        others: list[MemoryNode] = [self.network.node(host=f"198.{n}.0.1") for n in range(3)]
        self.network.start()
        self.connect(hub, others[0])
        self.connect(hub, others[1])
        self.connect(others[2], hub)
        late = HostilePeer(self.network, host="203.0.113.1")
        self.addCleanup(late.drop)
        late.join(hub.address)
        self.network.advance(1)
        self.assertEqual(self.peer_ids(hub), {bytes(other.peer_id) for other in others})
        self.assertEqual(self.counter(hub, "eviction_refused.all_protected"), 1)
