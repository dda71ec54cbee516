"""Compact blocks between whole nodes."""

from __future__ import annotations

import random
from itertools import pairwise
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from dig_gossip import (
    InvalidConfig,
    Message,
    PeerOptions,
    PenaltyReason,
    ServiceNotStarted,
    Verdict,
)
from dig_gossip.gossip import compact_matching
from dig_gossip.service.judging import Judgement
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.testing.blocks import PoolProvider, make_block, tx_id_of
from dig_gossip.testing.network import MemoryNode
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.compact import NewCompactBlock, short_tx_id
from tests.network_case import NetworkCase

TXS = [f"transaction {number} ".encode().ljust(450, b".") for number in range(100)]
BLOCK = make_block(1, TXS)


class CompactNetworkCase(NetworkCase):
    """Nodes with mempools."""

    def pools(self, count: int, **options: object) -> list[MemoryNode]:
        """Started nodes that have all transactions; each ``node.pool``."""
        nodes = self.nodes(count, **options)
        self.pool: dict[PeerId, PoolProvider] = {}
        for node in nodes:
            self.provide(node)
        return nodes

    def provide(self, node: MemoryNode, **options: bool) -> PoolProvider:
        pool = self.pool[node.peer_id] = PoolProvider(**options)
        pool.add(*TXS)
        node.handle.set_compact_block_provider(pool)
        return pool

    def broadcast(self, node: MemoryNode, message: Message = BLOCK) -> None:
        self.network.run(node.handle.broadcast(message))
        self.network.advance(2)

    def delivered(self, receiver: Subscription) -> list[tuple[bytes, Message]]:
        """What a subscription has got."""
        return [self.network.run(receiver.get()) for _ in range(len(receiver))]

    def bytes_received(self, node: MemoryNode) -> int:
        return self.network.run(node.handle.stats()).bytes_received


class CompactNetworkTests(CompactNetworkCase):
    """Two ends that can."""

    def test_block_crosses_the_link_without_its_transactions(self) -> None:
        """And is delivered as the block that it is, once, with its sender.  CBK-103-X"""
        one, other = self.pools(2)
        self.connect(one, other)
        receiver = other.handle.inbound_receiver()
        before = self.bytes_received(other)
        self.broadcast(one)
        self.assertEqual(self.delivered(receiver), [(one.peer_id, BLOCK)])
        self.assertLess(self.bytes_received(other) - before, len(BLOCK) / 20)
        self.assertEqual(self.counter(other, "compact_complete"), 1)

    def test_missing_transactions_are_fetched_and_go_along_next_time(self) -> None:
        """Along a line of nodes of which none has them: asked for once.  CBK-004, CBK-001"""
        nodes = self.pools(4)
        for one, other in pairwise(nodes):
            self.connect(one, other)
        for node in nodes[1:]:
            self.pool[node.peer_id].remove(TXS[40], TXS[41])
        receivers = [node.handle.inbound_receiver() for node in nodes]
        self.broadcast(nodes[0])
        self.assertEqual([len(receiver) for receiver in receivers], [0, 1, 1, 1])
        self.assertEqual(self.delivered(receivers[3]), [(nodes[2].peer_id, BLOCK)])
        rounds = [self.counter(node, "compact_partial") for node in nodes]
        self.assertEqual(rounds, [0, 1, 0, 0])

    def test_ring_of_nodes_delivers_once_and_prunes(self) -> None:
        """A second compact block is a duplicate like any other.  CBK-103-X, PLT-004.1"""
        nodes = self.pools(3)
        for one, other in ((0, 1), (1, 2), (2, 0)):
            self.connect(nodes[one], nodes[other])
        receivers = [node.handle.inbound_receiver() for node in nodes]
        for height in range(4):
            self.broadcast(nodes[0], make_block(height, TXS))
        self.assertEqual([len(receiver) for receiver in receivers], [0, 4, 4])
        self.assertGreater(sum(self.counter(node, "prunes_sent") for node in nodes), 0)

    def test_ends_that_cannot_get_the_block_in_full(self) -> None:
        """No provider at an end, or set after the session began.  CBK-104-X, wire §5.4"""
        one, without, late = self.nodes(3)
        self.pool = {}
        self.provide(one)
        self.connect(one, without)
        self.connect(one, late)
        self.provide(late)
        receivers = [node.handle.inbound_receiver() for node in (without, late, one)]
        self.broadcast(one)
        self.broadcast(late, make_block(2, TXS))
        self.broadcast(without, make_block(3, TXS))
        self.assertEqual([len(receiver) for receiver in receivers], [2, 2, 2])
        for node in (one, without, late):
            self.assertEqual(self.counter(node, "compact_sent"), 0)
        late_session = self.session(late, one)
        self.assertFalse(late_session.shares(204))
        self.assertFalse(self.session(one, late).shares(204))

    def test_capability_is_offered_with_a_provider_only(self) -> None:
        """Towards everybody from then on.  wire §5.4"""
        one, other = self.pools(2)
        plain = self.network.node()
        self.network.start()
        self.connect(one, other)
        self.connect(one, plain)
        offered = [
            204 in connection.capabilities
            for connection in self.network.run(one.handle.connected_peers())
        ]
        self.assertEqual(offered, [True, False])

    def test_pulled_block_comes_verbatim(self) -> None:
        """Whoever asks by hash gets the bytes of that hash.  wire §13.1"""
        one, other = self.pools(2)
        receiver = other.handle.inbound_receiver()
        self.network.run(one.handle.broadcast(BLOCK))
        self.connect(one, other)  # too late for the push
        self.network.run(one.handle.broadcast(BLOCK))
        self.network.advance(3)
        self.assertEqual(len(receiver), 1)

    def test_provider_is_checked(self) -> None:
        """What is none is refused, and a second one.  CBK-103-X"""
        (one,) = self.nodes(1)
        with self.assertRaises(InvalidConfig):
            one.handle.set_compact_block_provider(object())  # type: ignore[arg-type]
        wrong = PoolProvider()
        wrong.opcodes = frozenset({22})
        with self.assertRaises(InvalidConfig):
            one.handle.set_compact_block_provider(wrong)
        one.handle.set_compact_block_provider(PoolProvider())
        with self.assertRaises(InvalidConfig):
            one.handle.set_compact_block_provider(PoolProvider())
        self.network.run(one.service.stop())
        with self.assertRaises(ServiceNotStarted):
            one.handle.set_compact_block_provider(PoolProvider())

    def test_provider_that_fails_is_our_bug_not_the_peers(self) -> None:
        """Logged; the block comes in full, nobody is charged.  CNC-103-X"""
        one, other = self.pools(2)
        self.connect(one, other)
        receiver = other.handle.inbound_receiver()

        def broken(*_arguments: object) -> None:
            raise RuntimeError("broken on purpose")

        with patch.object(self.pool[one.peer_id], "split", broken):
            self.broadcast(one)
        with patch.object(self.pool[other.peer_id], "mempool", broken):
            self.broadcast(one, make_block(2, TXS))
        self.assertEqual(len(receiver), 2)
        self.assertGreater(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.peer_ids(one), {bytes(other.peer_id)})


class DoubtNetworkTests(CompactNetworkCase):
    """Validators, collisions, liars."""

    def pair(self) -> tuple[MemoryNode, MemoryNode, Subscription]:
        one, other = self.nodes(2)
        self.pool = {}
        for node in (one, other):
            self.provide(node, checks_root=False)
        self.connect(one, other)
        return one, other, other.handle.inbound_receiver()

    def validate(self, node: MemoryNode, valid: Message) -> None:
        """Let a node know that only this block is valid."""
        node.handle.set_validator(
            27,
            lambda _peer, block: Verdict.ACCEPT if block == valid else PenaltyReason.INVALID_BLOCK,
        )

    def test_collision_costs_a_round_trip_and_no_ban(self) -> None:
        """The wrong block is refused, the right one delivered.  CBK-105-X"""
        one, other, receiver = self.pair()
        self.validate(other, BLOCK)
        twin = b"the twin".ljust(450)
        self.pool[other.peer_id].remove(TXS[9])
        self.pool[other.peer_id].add(twin)
        split = self.pool[one.peer_id].split(BLOCK)
        assert split is not None
        same = short_tx_id(split.header_hash[:16], tx_id_of(TXS[9]))

        def colliding(key: bytes, tx_id: bytes) -> bytes:
            return same if tx_id == tx_id_of(twin) else short_tx_id(key, tx_id)

        with patch.object(compact_matching, "short_tx_id", colliding):
            self.broadcast(one)
        self.assertEqual(self.delivered(receiver), [(one.peer_id, BLOCK)])
        self.assertEqual(self.counter(other, "penalty.invalid_block"), 0)
        self.assertEqual(self.counter(other, "compact_doubted"), 1)
        self.assertEqual(self.counter(other, "compact_whole"), 1)

    def test_invalid_block_is_charged_after_a_second_look(self) -> None:
        """The same bytes from its sender: banned.  CBK-105-X"""
        one, other, receiver = self.pair()
        self.validate(other, make_block(2, TXS))
        self.broadcast(one)
        self.assertEqual(len(receiver), 0)
        self.assertEqual(self.counter(other, "penalty.invalid_block"), 1)
        self.assertEqual(self.peer_ids(other), set())

    def test_asynchronous_verdict(self) -> None:
        """ACCEPT after a while delivers and forwards in compact form.  PLT-104-X"""
        nodes = self.pools(3)
        self.connect(nodes[0], nodes[1])
        self.connect(nodes[1], nodes[2])

        def slowly(_peer: PeerId, _block: Message) -> Deferred[Judgement]:
            return deferLater(self.network.clock, 1, lambda: Verdict.ACCEPT)

        nodes[1].handle.set_validator(27, slowly)
        receiver = nodes[2].handle.inbound_receiver()
        self.broadcast(nodes[0])
        self.assertEqual(self.delivered(receiver), [(nodes[1].peer_id, BLOCK)])
        self.assertEqual(self.counter(nodes[1], "compact_sent"), 1)

    def test_liar_does_not_stop_the_block(self) -> None:
        """A compact block of which the sender gives nothing; another one has it.  CBK-004"""
        good, other, liar = self.pools(3)
        self.connect(liar, other)
        self.connect(good, other)
        receiver = other.handle.inbound_receiver()
        split = self.pool[good.peer_id].split(BLOCK)
        assert split is not None
        key = split.header_hash[:16]
        body = NewCompactBlock(
            header_hash=split.header_hash,
            height=1,
            short_tx_ids=tuple(bytes([n]) * 6 for n in range(100)),
            prefilled_txs=(),
            sip_hash_key=key,
            header=split.header,
        )
        self.network.run(liar.handle.send_to(other.peer_id, body))
        self.network.advance(0.1)
        self.broadcast(good)
        self.network.advance(20)
        self.assertEqual(self.delivered(receiver), [(good.peer_id, BLOCK)])

    def test_arbitrary_frames_do_no_harm(self) -> None:
        """Noise in all three opcodes, with and without ids: charged at most.  MSG-102-X"""
        one, other = self.pools(2, peer_options=PeerOptions(enforce_rate_limits=False))
        rng = random.Random(5)
        for number in range(60):
            if bytes(other.peer_id) not in self.peer_ids(one):
                other.service.node.peers.reputations.unban(one.peer_id)
                self.connect(one, other)
            noise = rng.randbytes(rng.randrange(120))
            message = Message(rng.choice((209, 210, 240)), rng.choice((None, number)), noise)
            self.network.run(one.handle.send_to(other.peer_id, message))
            self.network.advance(1)
        self.assertEqual(self.counter(other, "engine_errors"), 0)
        if bytes(other.peer_id) not in self.peer_ids(one):
            other.service.node.peers.reputations.unban(one.peer_id)
            self.connect(one, other)
        receiver = other.handle.inbound_receiver()
        self.broadcast(one)
        self.assertEqual(len(receiver), 1)
