"""A full node of chia-blockchain with two hours of traffic, compressed into minutes.

``python busy_chia.py --template HEX [--listen HOST:PORT | --dial HOST:PORT]``. As ``chia_node``,
whose options it has, and on top of it:

* the clock of its rate limiters, of both directions, runs thirty times as fast; nothing else does,
  and no limit is changed;
* its blockchain claims to have every block, and its store has one for every height, so that its own
  ``request_blocks`` answers with up to 50 MiB;
* once connected it announces peaks and transactions, asks the peer for blocks, and counts.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import chia_node
from big_blocks import BLOCKS_AN_ANSWER, big_block
from chia.full_node.full_node_api import FullNodeAPI
from chia.protocols.full_node_protocol import NewPeak, NewTransaction, RequestBlocks
from chia.protocols.outbound_message import make_msg
from chia.protocols.protocol_message_types import ProtocolMessageTypes
from chia.server.rate_limits import RateLimiter
from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint32, uint64, uint128
from time_lapse import (
    FULL_ANSWER_SECS,
    ONE_BLOCK_SECS,
    PEAK_SECS,
    SPEED,
    TRANSACTION_SECS,
    FastClock,
    repeat,
)

# chia-blockchain has no type stubs: its objects are Any throughout this module.

CLOCK = FastClock()
PATIENCE_SECS = 120


def quicken() -> None:
    """Give every rate limiter the fast clock."""
    RateLimiter.__init__.__kwdefaults__["get_time"] = CLOCK


def own_every_block(node: Any, block: bytes) -> None:
    """Let the node find the same block at every height."""
    full_node = node._node
    full_node.blockchain.contains_height = lambda height: True
    full_node.blockchain.height_to_hash = lambda height: bytes32(bytes(32))

    async def get_full_block_bytes(header_hash: bytes32) -> bytes:
        return block

    full_node.block_store.get_full_block_bytes = get_full_block_bytes


class Traffic:
    """What this side sends and asks."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Two hours."""
        CLOCK.go(SPEED)
        await asyncio.gather(
            repeat(CLOCK, PEAK_SECS, asyncio.sleep, self._peak),
            repeat(CLOCK, TRANSACTION_SECS, asyncio.sleep, self._transaction),
            repeat(CLOCK, ONE_BLOCK_SECS, asyncio.sleep, self._one_block),
            repeat(CLOCK, FULL_ANSWER_SECS, asyncio.sleep, self._full_answer),
        )

    async def _send(self, kind: ProtocolMessageTypes, body: Any) -> None:
        await self._connection.send_message(make_msg(kind, body))
        self.counts[kind.name] += 1

    async def _peak(self, number: int) -> None:
        height = 5_000_000 + number
        body = NewPeak(
            bytes32(secrets.token_bytes(32)),
            uint32(height),
            uint128(height * 1000),
            uint32(height - 1),
            bytes32(secrets.token_bytes(32)),
        )
        await self._send(ProtocolMessageTypes.new_peak, body)

    async def _transaction(self, number: int) -> None:
        body = NewTransaction(bytes32(secrets.token_bytes(32)), uint64(10_000_000), uint64(number))
        await self._send(ProtocolMessageTypes.new_transaction, body)

    async def _one_block(self, number: int) -> None:
        await self._ask(number, 1)

    async def _full_answer(self, number: int) -> None:
        await self._ask(number, BLOCKS_AN_ANSWER)

    async def _ask(self, start: int, count: int) -> None:
        self.counts["asked"] += 1
        question = RequestBlocks(uint32(start), uint32(start + count - 1), True)
        answer = await self._connection.call_api(
            FullNodeAPI.request_blocks, question, timeout=PATIENCE_SECS
        )
        if answer is not None and len(answer.blocks) == count:
            self.counts["answered"] += 1
            self.counts["largest"] = max(self.counts["largest"], len(bytes(answer)))


def leave_out_messages(journal: chia_node.Journal) -> None:
    """Thirty thousand lines about single messages would hide all others; they are counted."""
    event = journal.event

    def without_messages(name: str, **fields: Any) -> None:
        if name not in ("received", "sent"):
            event(name, **fields)

    journal.event = without_messages


async def serve(options: Any, journal: chia_node.Journal, root: Path) -> None:
    """Run the node, wait for the peer, live through two hours, and tell."""
    chia_node.stay_on_loopback(options.listen[0])
    chia_node.stop_sparing_loopback()
    quicken()
    leave_out_messages(journal)
    chia_node.Observer(journal).install()
    node = chia_node.Node(journal, root, options.network, options.listen[1])
    async with node.running():
        node.pretend_to_sync()
        own_every_block(node, bytes(big_block(options.template)))
        for target in options.dial:
            await node.dial(*target, feeler=False)
        while not (connections := node.server.get_connections()):
            await asyncio.sleep(0.05)
        traffic = Traffic(connections[0])
        await traffic.run()
        journal.event("lived", counts=traffic.counts)
        # The other side may still be living, and asking.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        journal.event(
            "summary",
            connections=node.connections(),
            counts=journal.counts,
            totals=dict(journal.totals),
        )


def with_template(parser: argparse.ArgumentParser) -> None:
    """One more option."""
    parser.add_argument("--template", required=True, help="any block, in hex")


if __name__ == "__main__":
    sys.exit(chia_node.main(serve, with_template))
