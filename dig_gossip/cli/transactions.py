"""``dig-gossip localnet --transactions``: ERLAY, Dandelion++ and compact blocks at work."""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from dig_gossip.cli.display import Display, NodeRow
from dig_gossip.cli.localnet import random_graph
from dig_gossip.cli.summary import Summary
from dig_gossip.service.gossip_service import GossipService
from dig_gossip.testing.ledger import Ledger
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PlumtreeRole
from dig_gossip.types.sections import DandelionConfig, ErlayConfig, PeerOptions

#: An announcement in its envelope.
_ANNOUNCEMENT_BYTES: Final = 54
_TRANSACTIONS_PER_BLOCK: Final = 10
_CONNECT_LIMIT_SECS: Final = 30.0
_DELIVERY_LIMIT_SECS: Final = 120.0
#: Short, because somebody watches.
_STEM_TIMEOUT_SECS: Final = 5.0


class TransactionNet:
    """Nodes with mempools; a transaction at every step, and a block after every ten."""

    def __init__(self, options: argparse.Namespace, reactor: Any) -> None:
        self._options = options
        self._reactor = reactor
        self._rng = random.Random(options.seed)
        self._ledgers: list[Ledger] = []
        self._transactions: set[bytes] = set()
        self._sent: Counter[int] = Counter()
        self._links = 0
        self._blocks = 0

    async def start(self, display: Display, is_over: Callable[[], bool]) -> None:
        """Start the nodes and wait until all links are up, or until it ``is_over``."""
        graph = random_graph(self._options.nodes, self._options.degree, self._rng)
        self._links = sum(len(dials) for dials in graph)
        for number, dials in enumerate(graph):
            display.say(f"starting node {number + 1} of {len(graph)}")
            service = GossipService(
                GossipConfig(
                    listen_addr="127.0.0.1:0",
                    bootstrap_peers=[
                        self._ledgers[n].service.listen_address for n in sorted(dials)
                    ],
                    target_outbound_count=max(1, len(dials)),
                    max_connections=max(50, 2 * self._options.degree),
                    peers_file_path=None,
                    peer_options=PeerOptions(enforce_rate_limits=False),
                    erlay=ErlayConfig(),
                    dandelion=DandelionConfig(stem_timeout_secs=_STEM_TIMEOUT_SECS),
                    reactor=self._reactor,
                )
            )
            await service.start()
            rng = random.Random(self._rng.random())
            ledger = Ledger(service, rng, size=self._options.size)
            ledger.start()
            self._ledgers.append(ledger)
        deadline = time.monotonic() + _CONNECT_LIMIT_SECS
        while not is_over() and self._sessions() < 2 * self._links and time.monotonic() < deadline:
            display.say(self.state())
            await self._sleep(0.05)

    def state(self) -> str:
        """How much of the network is there, in words."""
        return f"{self._sessions() // 2} of {self._links} links are up"

    async def send(self) -> None:
        """Let a random node send a transaction; after every tenth one makes a block."""
        number = self._rng.randrange(len(self._ledgers))
        ledger = self._ledgers[number]
        before = set(ledger.transactions)
        ledger.submit(ledger.make_transaction())
        self._transactions |= set(ledger.transactions) - before
        self._sent[number] += 1
        if len(self._transactions) % _TRANSACTIONS_PER_BLOCK == 0:
            self._make_block()

    def _make_block(self) -> None:
        self._rng.choice(self._ledgers).make_block()
        self._blocks += 1

    async def wait_until_delivered(self) -> None:
        """Wait until everything has arrived everywhere, or for long enough; then a last block."""
        await self._arrived()
        if self._transactions:
            self._make_block()
            await self._arrived()
        await self._sleep(0.5)  # what must not arrive twice would do so by now

    async def _arrived(self) -> None:
        deadline = time.monotonic() + _DELIVERY_LIMIT_SECS
        while self._missing() and time.monotonic() < deadline:
            await self._sleep(0.05)

    async def summary(self) -> Summary:
        """The figures so far."""
        counted: Counter[str] = Counter()
        sent = 0
        for ledger in self._ledgers:
            stats = await ledger.service.handle.stats()
            counted.update(stats.extra)
            sent += stats.bytes_sent
        nodes, messages = len(self._ledgers), len(self._transactions) + self._blocks
        return Summary(
            nodes=nodes,
            links=self._links,
            messages=messages,
            deliveries=messages * (nodes - 1) - self._missing(),
            missing=self._missing(),
            repeated=sum(
                sum(seen.values()) - len(seen)
                for ledger in self._ledgers
                for seen in (ledger.blocks, ledger.announced)
            ),
            duplicates=counted["transactions_repeated"] + counted["duplicates"],
            bytes_sent=sent,
            payload_size=self._options.size,
            latencies=[],
            notes=self._notes(counted),
        )

    def _notes(self, counted: Counter[str]) -> list[str]:
        """What each of the three has done."""
        announced = sum(
            counted[f"transactions_{how}"] for how in ("flooded", "reconciled", "overflowed")
        )
        control = sum(counted[f"asked_bytes.reconciliation_{name}"] for name in _SKETCHES)
        count = max(1, len(self._transactions))
        # A flood takes every link in both directions, except that by which a node was told.
        flood = _ANNOUNCEMENT_BYTES * (2 * self._links - (len(self._ledgers) - 1))
        spent = (announced * _ANNOUNCEMENT_BYTES + control) / count
        rebuilt = [counted[f"compact_{name}"] for name in ("complete", "partial", "whole")]
        matched, missing = counted["compact_matched"], counted["compact_missing"]
        full = max(1, counted["compact_full_bytes"])
        return [
            f"ERLAY: {len(self._transactions)} transactions announced for {spent:.0f} bytes each "
            f"({control / count:.0f} of them sketches), flooding {flood}; "
            f"{counted['rounds_decoded']} sketches decoded, {counted['rounds_failed']} not",
            f"compact blocks: {counted['compact_sent']} sent in "
            f"{counted['compact_sent_bytes'] / full:.0%} of their bytes; {rebuilt[0]} complete at "
            f"once, {rebuilt[1]} after a question, {rebuilt[2]} whole; "
            f"{matched / max(1, matched + missing):.1%} of transactions were here",
            f"Dandelion++: {counted['stem_forwarded']} hops of stems; "
            f"{counted['fluffed']} fluffed by the coin, {counted['fluff_embargo']} after an "
            f"embargo, {counted['fluff_no_relay']} for want of a relay",
        ]

    async def rows(self) -> list[NodeRow]:
        """What the table shows."""
        rows = []
        for number, ledger in enumerate(self._ledgers):
            stats = await ledger.service.handle.stats()
            connections = await ledger.service.handle.connected_peers()
            eager = sum(1 for c in connections if c.plumtree is PlumtreeRole.EAGER)
            rows.append(
                NodeRow(
                    number=number,
                    peer_id=ledger.service.peer_id.hex(),
                    address=str(ledger.service.listen_address),
                    peers=stats.connected_peers,
                    known=stats.known_addresses,
                    eager=eager,
                    lazy=len(connections) - eager,
                    sent=self._sent[number],
                    delivered=len(ledger.transactions) + len(ledger.blocks),
                    duplicates=stats.extra.get("transactions_repeated", 0)
                    + stats.extra.get("duplicates", 0),
                    bytes_sent=stats.bytes_sent,
                )
            )
        return rows

    async def stop(self) -> None:
        """Stop every node."""
        await DeferredList([ledger.service.stop() for ledger in self._ledgers])

    def _missing(self) -> int:
        """Transactions and blocks that some node still lacks."""
        return sum(
            len(self._transactions - set(ledger.transactions)) + self._blocks - len(ledger.blocks)
            for ledger in self._ledgers
        )

    def _sessions(self) -> int:
        return sum(len(ledger.service.node.peers.table) for ledger in self._ledgers)

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds, lambda: None)


_SKETCHES: Final = ("sketch", "response")
