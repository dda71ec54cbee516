"""Stems between whole nodes."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint64
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from dig_gossip import (
    Backpressured,
    ClientError,
    DandelionConfig,
    Message,
    PenaltyReason,
    Verdict,
    WrongDispatch,
)
from dig_gossip.testing.blocks import announcement_of, tx_id_of
from dig_gossip.testing.network import MemoryNode
from dig_gossip.wire.chia import NewTransaction
from dig_gossip.wire.stem import StemTransaction
from tests.network_case import NetworkCase

TX = b"a transaction".ljust(300, b".")
TX_ID = tx_id_of(TX)
ANNOUNCEMENT = announcement_of(TX)
#: Never fluffed by the coin, so that tests decide.
STEMS = DandelionConfig(fluff_probability=0.0, stem_timeout_secs=30)


class StemNetworkCase(NetworkCase):
    """Nodes that have Dandelion++."""

    def line(self, count: int, dandelion: DandelionConfig | None = STEMS) -> list[MemoryNode]:
        """Nodes of which each dials the next."""
        nodes = self.nodes(count, dandelion=dandelion)
        for one, other in pairwise(nodes):
            self.connect(one, other)
        return nodes

    def submit(self, node: MemoryNode, tx: bytes = TX) -> None:
        announcement = announcement_of(tx).data
        self.network.run(node.handle.submit_transaction(tx_id_of(tx), tx, announcement))

    def stemming(self, nodes: list[MemoryNode]) -> list[bool]:
        return [node.handle.is_stem_only(TX_ID) for node in nodes]

    def got(self, node: MemoryNode, opcode: int) -> int:
        """How often the subscription of a node got the transaction."""
        receiver = self.receivers[node.host]
        items = [self.network.run(receiver.get()) for _ in range(len(receiver))]
        kept = self.kept.setdefault(node.host, [])
        kept += [message.type for _peer, message in items]
        return kept.count(opcode)

    def listen(self, nodes: list[MemoryNode]) -> None:
        self.receivers = {node.host: node.handle.inbound_receiver() for node in nodes}
        self.kept: dict[str, list[int]] = {}


class StemNetworkTests(StemNetworkCase):
    """From the origin to the announcement."""

    def test_one_hop_at_a_time_along_dialed_sessions(self) -> None:
        """The last node has nobody to pass it to and announces it; all get it.  PRV-002, PRV-005"""
        nodes = self.line(4)
        self.listen(nodes)
        self.submit(nodes[0])
        self.network.advance(0.015)
        self.assertEqual(self.stemming(nodes), [True, True, False, False])
        self.network.advance(0.01)
        self.assertEqual(self.stemming(nodes), [True, True, True, False])
        self.assertEqual([len(receiver) for receiver in self.receivers.values()], [0, 0, 0, 0])
        self.network.advance(1)
        self.assertEqual([self.got(node, 21) for node in nodes], [1, 1, 1, 0])
        self.network.advance(30)
        self.assertEqual([self.got(node, 23) for node in nodes], [0, 1, 1, 1])
        self.assertEqual(self.stemming(nodes), [False] * 4)

    def test_no_trace_while_it_is_on_its_stem(self) -> None:
        """Not in subscriptions, seen set, cache, statistics or logs.  PRV-002"""
        one, other = self.nodes(2, dandelion=STEMS)
        silent = self.network.node()  # cannot be a relay
        self.network.start()
        self.connect(one, other)
        self.connect(other, silent)
        self.connect(silent, one)
        self.listen([one, other, silent])
        # The relay has a relay of its own that swallows.
        hole = self.network.node(dandelion=STEMS)
        self.network.start()
        self.connect(other, hole)
        self.network.cut(other.host, hole.host)
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.submit(one)
        self.network.advance(0.5)
        self.assertEqual(self.stemming([one, other]), [True, True])
        for node in (one, other):
            stats = self.network.run(node.handle.stats())
            self.assertEqual(stats.seen_messages, 0)
            self.assertEqual(node.service.node.router.plumtree.snapshot().cached, 0)
            self.assertNotIn(TX_ID.hex(), str(stats))
            self.assertEqual(len(self.receivers[node.host]), 0)
        self.assertNotIn(TX_ID.hex(), str(events))
        self.assertNotIn(str(TX_ID), str(events))
        self.assertEqual(len(self.receivers[silent.host]), 0)

    def test_black_hole_delays_no_more(self) -> None:
        """The embargo announces it to everybody.  PRV-004"""
        one, hole = self.nodes(2, dandelion=STEMS)
        watcher = self.network.node()
        self.network.start()
        self.connect(one, hole)
        self.connect(watcher, one)
        self.listen([watcher])
        self.network.cut(one.host, hole.host)
        self.submit(one)
        self.network.advance(300)
        self.assertEqual(self.got(watcher, 21), 1)
        self.assertEqual(self.counter(one, "fluff_embargo"), 1)

    def fluffing(self) -> tuple[MemoryNode, MemoryNode, list[MemoryNode]]:
        """An origin, the node that ends its stem, and the three that this one has dialed, which
        are in a line; a stranger, the last, has dialed the node, too.
        """
        origin, node = self.nodes(2, dandelion=DandelionConfig(fluff_probability=1.0))
        others = self.nodes(3, dandelion=STEMS)
        (stranger,) = self.nodes(1)
        self.connect(origin, node)
        for other in others:
            self.connect(node, other)
        for one, other in pairwise(others):
            self.connect(one, other)
        self.connect(stranger, node)
        others.append(stranger)
        self.listen(others)
        return origin, node, others

    def test_one_peer_is_told_first(self) -> None:
        """The others when it has spread from there; the application may not be faster.  PRV-003"""
        origin, node, others = self.fluffing()
        self.submit(origin)
        self.network.advance(0.015)
        broadcast = node.handle.broadcast(Message(21, None, ANNOUNCEMENT.data))
        self.assertEqual(self.network.run(broadcast), 0)
        self.network.advance(0.01)
        told = [self.got(other, 21) for other in others]
        self.assertEqual((sum(told), told[-1]), (1, 0))
        self.network.advance(0.1)
        self.assertEqual([self.got(other, 21) for other in others], [1] * 4)
        self.assertEqual(self.counter(node, "fluff_heralded"), 1)
        self.network.advance(10)
        self.assertEqual(self.counter(node, "fluff_unheard"), 0)
        self.assertEqual([self.got(other, 21) for other in others], [1] * 4)

    def test_a_herald_that_swallows_costs_seconds(self) -> None:
        """Whoever is connected to us is told by us, then.  PRV-003"""
        origin, node, others = self.fluffing()
        stranger = others[-1]
        for other in others[:-1]:
            self.network.cut(node.host, other.host)
        self.submit(origin)
        self.network.advance(2)
        self.assertEqual([self.got(other, 21) for other in others], [0] * 4)
        self.network.advance(2.1)
        self.assertEqual(self.got(stranger, 21), 1)
        self.assertEqual(self.counter(node, "fluff_unheard"), 1)

    def test_relay_that_leaves_at_once_is_replaced(self) -> None:
        """Another one gets it within the second.  DAN-102-X"""
        one, first, second = self.nodes(3, dandelion=STEMS)
        for relay in (first, second):
            self.connect(one, relay)
        self.submit(one)
        dandelion = one.service.node.router.dandelion
        assert dandelion is not None
        (chosen,) = dandelion.snapshot().edges.values()
        self.network.run(one.handle.disconnect(chosen))
        self.network.advance(1)
        self.assertEqual(self.counter(one, "stem_resent"), 1)

    def test_sessions_without_the_feature_are_no_relays(self) -> None:
        """Off, not configured, or dialed by the other side.  DAN-104-X, wire §5.4"""
        one, off, without, dialer = (
            self.network.node(dandelion=STEMS),
            self.network.node(dandelion=DandelionConfig(enabled=False)),
            self.network.node(),
            self.network.node(dandelion=STEMS),
        )
        self.network.start()
        self.connect(one, off)
        self.connect(one, without)
        self.connect(dialer, one)
        self.listen([off, without, dialer])
        self.submit(one)
        self.network.advance(1)
        self.assertEqual(self.counter(one, "fluff_no_relay"), 1)
        for node in (off, without, dialer):
            self.assertEqual(self.got(node, 21), 1)
            self.assertEqual(self.got(node, 213), 0)

    def test_stem_from_a_session_without_the_feature_is_dropped(self) -> None:
        """It was never offered there.  DAN-104-X"""
        one, stranger = self.network.node(dandelion=STEMS), self.network.node()
        self.network.start()
        self.connect(stranger, one)
        body = StemTransaction(ANNOUNCEMENT.data, TX)
        self.network.run(stranger.handle.send_to(one.peer_id, body))
        self.network.advance(1)
        self.assertFalse(one.handle.is_stem_only(TX_ID))
        self.assertEqual(self.counter(one, "ignored.stem_transaction"), 1)

    def test_without_dandelion_it_is_announced_at_once(self) -> None:
        """The same call, no stem.  PRV-001"""
        for dandelion in (None, DandelionConfig(enabled=False)):
            one, other = self.line(2, dandelion)
            self.listen([other])
            self.submit(one)
            self.assertFalse(one.handle.is_stem_only(TX_ID))
            self.network.advance(1)
            self.assertEqual(self.got(other, 21), 1)

    def test_broadcast_of_an_announcement_is_public(self) -> None:
        """It never takes a stem, and ends the one there is.  PRV-002"""
        one, hole = self.line(2)
        watcher = self.network.node()
        self.network.start()
        self.connect(watcher, one)
        self.listen([watcher])
        self.network.cut(one.host, hole.host)
        self.submit(one)
        self.network.run(one.handle.broadcast(ANNOUNCEMENT))
        self.network.advance(300)
        self.assertEqual(self.got(watcher, 21), 1)
        self.assertEqual(self.counter(one, "fluff_embargo"), 0)
        self.assertFalse(one.handle.is_stem_only(TX_ID))

    def test_shutting_down_announces_our_own(self) -> None:
        """Before the sessions end.  behaviour §32"""
        one, hole = self.line(2)
        watcher = self.network.node()
        self.network.start()
        self.connect(watcher, one)
        self.listen([watcher])
        self.network.cut(one.host, hole.host)
        self.submit(one)
        self.network.advance(0.1)
        self.network.run(one.service.stop())
        self.network.advance(1)
        self.assertEqual(self.got(watcher, 21), 1)

    def test_what_cannot_be_submitted(self) -> None:
        """An announcement of something else; a transaction that no relay takes.  PRV-002"""
        one, _other = self.line(2)
        submit = one.handle.submit_transaction
        self.assertFires(ClientError, submit(bytes(32), TX, ANNOUNCEMENT.data))
        self.assertFires(ClientError, submit(TX_ID, TX, ANNOUNCEMENT.data[:-1]))
        large = bytes(2**20 - 51)
        announcement = announcement_of(large).data
        self.assertFires(Backpressured, submit(tx_id_of(large), large, announcement))
        largest = bytes(2**20 - 52)
        body = NewTransaction(bytes32(tx_id_of(largest)), uint64(1), uint64(1))
        self.network.run(submit(tx_id_of(largest), largest, body))
        self.assertTrue(one.handle.is_stem_only(tx_id_of(largest)))

    def test_validator_of_stems(self) -> None:
        """Asked before a stem is passed on; what it rejects is charged.  PLT-104-X"""
        nodes = self.line(3)
        asked: list[bytes] = []

        def judge(_peer: bytes, message: Message) -> Verdict | PenaltyReason:
            payload = StemTransaction.from_bytes(message.data).payload
            asked.append(payload)
            return Verdict.ACCEPT if payload == TX else PenaltyReason.SPAM

        nodes[1].handle.set_validator(213, judge)
        for tx in (TX, b"invalid"):
            self.submit(nodes[0], tx)
            self.network.advance(0.015)
        self.assertEqual(asked, [TX, b"invalid"])
        self.assertTrue(nodes[1].handle.is_stem_only(TX_ID))
        self.assertFalse(nodes[1].handle.is_stem_only(tx_id_of(b"invalid")))
        self.assertEqual(self.counter(nodes[1], "penalty.spam"), 1)
        with self.assertRaises(WrongDispatch):
            nodes[1].handle.set_validator(211, judge)
