"""Real sockets and TLS: a node with every feature meets one with some, and one with none."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from dig_gossip import (
    CompactBlockConfig,
    DandelionConfig,
    ErlayConfig,
    GossipConfig,
    GossipService,
)
from dig_gossip.testing.ledger import Ledger

#: Short, so that no test waits long: real time passes here.
STEMS = DandelionConfig(stem_timeout_secs=1, fluff_probability=0.5)
SETS = ErlayConfig(reconciliation_interval_ms=100)


class FeatureMixTests(TestCase):
    """Everything arrives between any two kinds of nodes."""

    timeout = 90

    async def pair(self, one: dict[str, Any], other: dict[str, Any]) -> list[Ledger]:
        """Two nodes of which the first dials the second, their ledgers started."""
        from twisted.internet import reactor

        self.reactor: Any = reactor
        ledgers = []
        for number, options in enumerate((one, other)):
            own = dict(options)
            compact = own.pop("compact", False)
            service = GossipService(
                GossipConfig(
                    listen_addr="127.0.0.1:0",
                    target_outbound_count=0,
                    peers_file_path=None,
                    **own,
                )
            )
            await service.start()
            self.addCleanup(service.stop)
            ledger = Ledger(service, random.Random(number), compact=compact)
            ledger.start()
            ledgers.append(ledger)
        await ledgers[0].service.handle.connect_to(ledgers[1].service.listen_address)
        return ledgers

    async def exchange(self, one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, int]]:
        """Transactions and blocks from both ends; what the nodes have counted."""
        ledgers = await self.pair(one, other)
        for _ in range(5):
            for ledger in ledgers:
                ledger.submit(ledger.make_transaction())
        await self.until(lambda: all(len(ledger.transactions) == 10 for ledger in ledgers))
        await self.until(
            lambda: (
                not any(
                    ledger.service.handle.is_stem_only(tx)
                    for ledger in ledgers
                    for tx in ledger.transactions
                )
            )
        )
        for ledger in ledgers:
            extra = ledger.make_transaction()
            ledger.pool.add(extra)  # nobody else has it
            ledger.make_block()
            await self.until(lambda: all(sum(each.blocks.values()) for each in ledgers))
        await self.until(lambda: all(len(each.blocks) == 2 for each in ledgers))
        for ledger in ledgers:
            self.assertEqual(set(ledger.blocks.values()), {1})
            self.assertLessEqual(set(ledger.announced.values()), {1})
        stats = [await ledger.service.handle.stats() for ledger in ledgers]
        return [dict(each.extra) for each in stats]

    async def until(self, holds: Any) -> None:
        """Wait until a condition holds; the test's timeout ends it."""
        while not holds():
            await deferLater(self.reactor, 0.01, lambda: None)

    async def test_both_have_everything(self) -> None:
        """And use it.  wire §5.4"""
        full = {"dandelion": STEMS, "erlay": SETS, "compact": True}
        one, other = await self.exchange(full, full)
        self.assertGreater(one["stem_forwarded"], 0)
        self.assertGreater(one["rounds_begun"], 0)
        self.assertGreater(one["compact_sent"], 0)
        self.assertEqual(other["compact_received"], 1)

    async def test_one_has_everything_the_other_nothing(self) -> None:
        """The features rest.  wire §5.4, CBK-104-X, DAN-104-X, ERL-104-X"""
        full = {"dandelion": STEMS, "erlay": SETS, "compact": True}
        nothing: dict[str, Any] = {}
        for order in ((full, nothing), (nothing, full)):
            one, other = await self.exchange(*order)
            counted = one if order[0] else other
            self.assertEqual(counted["stem_forwarded"], 0)
            self.assertEqual(counted["rounds_begun"], 0)
            self.assertEqual(counted["compact_sent"], 0)

    async def test_other_settings_of_the_same_features(self) -> None:
        """The seed's: flooding as well, five missing at most, nothing prefilled.  wire §5.4"""
        full = {"dandelion": STEMS, "erlay": SETS, "compact": True}
        older = {
            "erlay": ErlayConfig(policy="safety_net", flood_peer_count=8, sketch_capacity=1),
            "compact": True,
            "compact_blocks": CompactBlockConfig(fetch_by_bytes=False, prefill_bytes=0),
        }
        for order in ((full, older), (older, full)):
            one, _other = await self.exchange(*order)
            self.assertGreater(one["compact_sent"], 0)
