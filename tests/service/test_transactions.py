"""Many nodes with mempools, transactions and blocks: everything arrives everywhere, once."""

from __future__ import annotations

import os
import random
from typing import Any

from dig_gossip import DandelionConfig, ErlayConfig, PeerOptions
from dig_gossip.testing.ledger import Ledger
from dig_gossip.testing.network import MemoryNetwork
from dig_gossip.util.deferreds import handled
from tests.network_case import NetworkCase
from tests.service.test_gossip_network import random_links

#: Set by ``make transactions``: the scenario in full.
FULL = bool(os.environ.get("DIG_GOSSIP_TRANSACTIONS"))
NODES = 30 if FULL else 8
RATE = 50 if FULL else 5  # transactions a second
SECONDS = 60 if FULL else 20
BLOCK_EVERY = 10 if FULL else 5


class TransactionCase(NetworkCase):
    """A network of ledgers."""

    def setUp(self) -> None:
        self.network = MemoryNetwork(seed=5, latency=0.03)
        self.addCleanup(self._nothing_is_left)
        self.rng = random.Random(5)

    def build(self, *options: dict[str, object]) -> list[Ledger]:
        """A connected network; the nodes take their options in turns."""
        self.made = []
        for number in range(NODES):
            own: dict[str, Any] = dict(options[number % len(options)])
            own.pop("compact", None)
            limits = PeerOptions(enforce_rate_limits=False)
            self.made.append(self.network.node(peer_options=limits, target_outbound_count=0, **own))
        self.network.start()
        ledgers = []
        for number, node in enumerate(self.made):
            compact = bool(options[number % len(options)].get("compact", True))
            ledger = Ledger(node.service, random.Random(number), compact=compact)
            ledger.start()
            ledgers.append(ledger)
        self.links = sorted(random_links(NODES, min(8, NODES - 2), self.rng))
        for one, other in self.links:
            handled(self.made[one].handle.connect_to(self.made[other].address))
        self.network.advance(3)
        return ledgers

    def live(self, ledgers: list[Ledger], loss: float = 0.0) -> tuple[set[bytes], set[bytes]]:
        """Transactions and blocks at their rates; all ids of both.

        :param loss: share of connections that are lost under way.
        """
        transactions: set[bytes] = set()
        blocks = 0
        lost = self.rng.sample(self.links, round(loss * len(self.links)))
        moments = sorted(self.rng.uniform(0.2, 0.8) * SECONDS for _ in lost)
        for turn in range(RATE * SECONDS):
            origin = self.rng.choice(ledgers)
            transaction = origin.make_transaction()
            origin.submit(transaction)
            transactions |= set(origin.transactions)
            if turn % (RATE * BLOCK_EVERY) == RATE * BLOCK_EVERY - 1:
                self.rng.choice(ledgers).make_block()
                blocks += 1
            self.mischief(turn)
            while moments and turn >= moments[0] * RATE:
                moments.pop(0)
                one, other = lost.pop()
                self.drop(one, other)
            self.network.advance(1 / RATE)
        self.network.advance(240)
        every_block = {block for ledger in ledgers for block in ledger.blocks}
        self.assertEqual(len(every_block), blocks)
        return transactions, every_block

    def mischief(self, turn: int) -> None:
        """What others do meanwhile."""

    def drop(self, one: int, other: int) -> None:
        """Let a connection break, and everything that is on its way."""
        node, peer = self.made[one], self.made[other].peer_id
        session = node.service.node.peers.table.get(peer)
        if session is not None:
            session.abort()

    def check(self, ledgers: list[Ledger], transactions: set[bytes], blocks: set[bytes]) -> None:
        for ledger in ledgers:
            self.assertEqual(set(ledger.transactions) ^ transactions, set())
            self.assertEqual(set(ledger.blocks), blocks)
            self.assertEqual(set(ledger.blocks.values()), {1}, "a block came twice")
            self.assertLessEqual(set(ledger.announced.values()), {1}, "announced twice")

    def total(self, name: str) -> int:
        return sum(self.counter(node, name) for node in self.made)


class TransactionTests(TransactionCase):
    """All features at once."""

    def test_everything_arrives_once(self) -> None:
        """The same transactions and blocks at every node.  PRV-003, CBK-103-X, PLT-004"""
        ledgers = self.build({"dandelion": DandelionConfig(), "erlay": ErlayConfig()})
        self.check(ledgers, *self.live(ledgers))
        self.assertGreater(self.total("stem_forwarded"), 0)
        # Whatever a block's maker has heard in its last second is new to some of the others.
        self.assertGreater(self.total("compact_complete") + self.total("compact_partial"), 0)
        self.assertGreater(self.total("compact_matched"), self.total("compact_missing"))
        self.assertGreater(self.total("rounds_decoded"), 0)
        self.assertEqual(self.total("engine_errors"), 0)

    def test_everything_arrives_although_connections_break(self) -> None:
        """A tenth of them, under way.  PRV-004, PLT-006, CBK-004"""
        ledgers = self.build(
            {"dandelion": DandelionConfig(stem_timeout_secs=10), "erlay": ErlayConfig()}
        )
        self.check(ledgers, *self.live(ledgers, loss=0.1))
        self.assertEqual(self.total("engine_errors"), 0)

    def test_everything_arrives_in_a_mixed_network(self) -> None:
        """Nodes with one feature, with another, with none.  wire §5.4, CBK-104-X, DAN-104-X"""
        ledgers = self.build(
            {"dandelion": DandelionConfig(), "erlay": ErlayConfig()},
            {"compact": False},
            {"dandelion": DandelionConfig(), "compact": False},
            {"erlay": ErlayConfig(policy="safety_net")},
            {},
        )
        self.check(ledgers, *self.live(ledgers))
        self.assertEqual(self.total("engine_errors"), 0)
