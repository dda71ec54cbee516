"""ERLAY between whole nodes, and next to nodes without it."""

from __future__ import annotations

from itertools import pairwise

from dig_gossip import (
    BackpressureConfig,
    ErlayConfig,
    Message,
    PeerOptions,
    PenaltyReason,
    Verdict,
)
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.testing.blocks import announcement_of
from dig_gossip.testing.network import MemoryNode
from tests.network_case import NetworkCase

#: Nobody is told at once, so that whatever arrives was found by comparing sets.
SETS = ErlayConfig(flood_peer_count=0)
TXS = [announcement_of(f"transaction {number}".encode()) for number in range(40)]


class ErlayNetworkTests(NetworkCase):
    """Transactions are found."""

    def received(self, receiver: Subscription) -> list[bytes]:
        """The transactions that a subscription has got."""
        items = [self.network.run(receiver.get()) for _ in range(len(receiver))]
        return sorted(message.data for _peer, message in items)

    def expect(self, node: MemoryNode, receiver: Subscription, own: list[Message]) -> None:
        """All transactions but its own, each once."""
        expected = sorted(tx.data for tx in TXS if tx not in own)
        self.assertEqual(self.received(receiver), expected, node.host)

    def spread(self, nodes: list[MemoryNode]) -> None:
        """Let the nodes broadcast in turns, and check that all get everything."""
        receivers = [node.handle.inbound_receiver() for node in nodes]
        for number, tx in enumerate(TXS):
            self.network.run(nodes[number % len(nodes)].handle.broadcast(tx))
            self.network.advance(0.1)
        self.network.advance(30)
        for number, (node, receiver) in enumerate(zip(nodes, receivers, strict=True)):
            self.expect(node, receiver, TXS[number :: len(nodes)])

    def test_sets_are_compared_both_ways(self) -> None:
        """What either end has reaches the other, within a few rounds.  ERL-003, ERL-005"""
        one, other = self.nodes(2, erlay=SETS)
        self.connect(one, other)
        self.spread([one, other])
        self.assertGreater(self.counter(one, "rounds_decoded"), 0)
        self.assertEqual(self.counter(one, "transactions_flooded"), 0)
        self.assertEqual(self.counter(one, "rounds_answered"), 0, "the dialer begins rounds")
        self.assertEqual(self.counter(other, "rounds_begun"), 0)

    def test_chain_of_nodes(self) -> None:
        """From end to end.  ERL-002"""
        nodes = self.nodes(4, erlay=ErlayConfig())
        for one, other in pairwise(nodes):
            self.connect(one, other)
        self.spread(nodes)

    def test_nodes_without_it(self) -> None:
        """They are told of everything, and what they announce is fetched once.  ERL-104-X"""
        nodes = [
            self.network.node(erlay=ErlayConfig() if number % 2 else None) for number in range(4)
        ]
        self.network.start()
        for one in range(4):
            for other in range(one):
                self.connect(nodes[one], nodes[other])
        self.spread(nodes)
        for node in nodes:
            self.assertEqual(self.counter(node, "missing_gave_up"), 0)
            self.assertEqual(self.counter(node, "announcers_distrusted"), 0)
            self.assertEqual(self.counter(node, "engine_errors"), 0)

    def test_safety_net(self) -> None:
        """The tree carries transactions, sets are compared besides.  ERL-001"""
        nodes = self.nodes(3, erlay=ErlayConfig(policy="safety_net"))
        for one in range(3):
            for other in range(one):
                self.connect(nodes[one], nodes[other])
        self.spread(nodes)
        self.assertGreater(self.counter(nodes[2], "rounds_begun"), 0)
        self.assertGreater(sum(self.counter(node, "pushed") for node in nodes), 0)

    def test_validator_judges_transactions(self) -> None:
        """ACCEPT passes it on; a reason charges whoever announced it.  PLT-104-X"""
        nodes = self.nodes(3, erlay=SETS)
        self.connect(nodes[0], nodes[1])
        self.connect(nodes[1], nodes[2])
        good, bad = TXS[:2]
        nodes[1].handle.set_validator(
            21, lambda _peer, tx: Verdict.ACCEPT if tx == good else PenaltyReason.SPAM
        )
        receiver = nodes[2].handle.inbound_receiver()
        for tx in (good, bad):
            self.network.run(nodes[0].handle.broadcast(tx))
        self.network.advance(15)
        self.assertEqual(self.received(receiver), [good.data])
        self.assertEqual(self.counter(nodes[1], "penalty.spam"), 1)

    def test_capability_is_offered_if_configured(self) -> None:
        """And a sketch from whom it was not offered to is charged, or ignored.  wire §5.4"""
        one, other = self.network.node(erlay=ErlayConfig()), self.network.node()
        self.network.start()
        self.connect(one, other)
        self.assertFalse(self.session(one, other).shares(202))
        self.assertIn(202, self.session(other, one).remote.capabilities)
        self.network.run(one.handle.send_to(other.peer_id, Message(211, 7, b"?")))
        self.network.run(other.handle.send_to(one.peer_id, Message(211, 7, b"?")))
        self.network.advance(1)
        self.assertEqual(self.counter(other, "ignored.reconciliation_sketch"), 1)
        self.assertEqual(self.peer_ids(one), {bytes(other.peer_id)})

    def test_no_rounds_while_bulk_is_dropped(self) -> None:
        """A queue that is too long is not made longer.  ERL-004, BP-103-X"""
        levels = BackpressureConfig(bulk_drop_threshold=30)
        one, other = self.nodes(
            2,
            erlay=SETS,
            backpressure=levels,
            peer_options=PeerOptions(enforce_rate_limits=False),
        )
        self.connect(one, other)
        self.network.cut(one.host, other.host)
        for number in range(300):
            self.network.run(
                one.handle.send_to(other.peer_id, Message(200, None, bytes([number % 251]) * 4000))
            )
        self.assertGreater(self.session(one, other).queued_messages, 30)
        begun = self.counter(one, "rounds_begun")
        self.network.advance(8)
        self.assertEqual(self.counter(one, "rounds_begun"), begun)
        self.network.heal()
        self.network.advance(8)
        self.assertGreater(self.counter(one, "rounds_begun"), begun)
