"""Compact blocks against full blocks: bytes, round trips, and what a large mempool costs.

A chain of ten hops between the real engines, in memory. A block of 3000 transactions of 450 B goes
from one end to the other; every node's mempool lacks a share of them, *anyone* another share (drawn
for each node) or all *the same* (transactions that only the origin knows). Two blocks go before
the one that counts. Every byte of every message counts: the block in whichever form, requests and
answers. Nothing of this is timed.

The last row is: the longest turn that searching a mempool of 100 000 transactions takes.
"""

from __future__ import annotations

import statistics
import sys
import time
from random import Random

import attrs
from common import ROOT, claim, options, print_table, progress

sys.path.insert(0, str(ROOT))

from dig_gossip.effects import Arrived, Effect, Reply, Request, Send, SetTimer
from dig_gossip.gossip.compact import CompactBlocks
from dig_gossip.testing.blocks import PoolProvider, make_block, tx_id_of
from dig_gossip.types.config import CompactBlockConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

_HOPS = 10
_TX_BYTES = 450
_WARM_UP = 2  # blocks by which the nodes learn whether prefilling helps
_OVERLAPS = (1.0, 0.995, 0.98, 0.95, 0.9)
_GOALS = {0.995: 0.02, 0.95: 0.10}
_MAX_TURN_SECS = 0.010


@attrs.define
class Tally:
    """What one block cost on its way.

    :ivar crossed: bytes on all links.
    :ivar full: bytes that full blocks would have been.
    :ivar complete: hops that needed no round trip, of ``hops``.
    """

    crossed: int = 0
    full: int = 0
    complete: int = 0
    hops: int = 0


class Hop:
    """Two engines and the link between them."""

    def __init__(self, sender: CompactBlocks, receiver: CompactBlocks, ids: list[PeerId]) -> None:
        self.sender, self.receiver = sender, receiver
        self.sender_id, self.receiver_id = ids

    def cross(self, block: Message, tally: Tally) -> None:
        """Send a block over; fails unless it arrives."""
        (send,) = self.sender.outbound((self.receiver_id,), block)
        tally.crossed += len(send.message)
        tally.full += len(block)
        tally.hops += 1
        asked = False
        waiting: list[Effect] = list(self.receiver.received(self.sender_id, send.message))
        while waiting:
            effect = waiting.pop(0)
            if isinstance(effect, SetTimer):
                waiting += self.receiver.timer_fired(effect.key)
            elif isinstance(effect, Request):
                asked = True
                request = Message(effect.message.type, 1, effect.message.data)
                (reply,) = self.sender.received(self.receiver_id, request)
                assert isinstance(reply, Reply)
                tally.crossed += len(request) + len(reply.message)
                waiting += self.receiver.answered(self.sender_id, effect.key, reply.message)
            elif isinstance(effect, Arrived) and effect.message == block:
                tally.complete += not asked
                return
        raise RuntimeError("the block did not arrive")


def run(seed: int, count: int, overlap: float, *, same: bool, prefill: bool) -> Tally:
    """Let blocks go from end to end; what the last one cost."""
    rng = Random(seed)
    lacking = round((1 - overlap) * count)
    ids = [PeerId(rng.randbytes(32)) for _ in range(_HOPS + 1)]
    config = CompactBlockConfig() if prefill else CompactBlockConfig(prefill_bytes=0)
    pools = [PoolProvider() for _ in ids]
    engines = [CompactBlocks(config, pool, now=lambda: 0.0) for pool in pools]
    for engine in engines:
        for peer in ids:
            engine.peer_up(peer)
    for height in range(_WARM_UP + 1):
        transactions = [rng.randbytes(_TX_BYTES) for _ in range(count)]
        unknown = rng.sample(transactions, lacking)
        for place, pool in enumerate(pools):
            pool.pool.clear()
            pool.add(*transactions)
            if place:
                pool.remove(*(unknown if same else rng.sample(transactions, lacking)))
        block, tally = make_block(height, transactions), Tally()
        for place in range(_HOPS):
            hop = Hop(engines[place], engines[place + 1], ids[place : place + 2])
            hop.cross(block, tally)
    return tally


def longest_turn(pool_size: int, rounds: int) -> float:
    """Seconds of the longest reactor turn in which a large mempool is searched."""
    rng = Random(1)
    transactions = [rng.randbytes(_TX_BYTES) for _ in range(1000)]
    pool = PoolProvider()
    pool.add(*transactions)
    pool.pool.update((tx_id_of(rng.randbytes(32)), b"") for _ in range(pool_size))
    peer = PeerId(bytes(32))
    turns = []
    for height in range(rounds):
        sender = CompactBlocks(CompactBlockConfig(), PoolProvider(), now=lambda: 0.0)
        sender.peer_up(peer)
        (send,) = sender.outbound((peer,), make_block(height, transactions))
        assert isinstance(send, Send)
        receiver = CompactBlocks(CompactBlockConfig(), pool, now=lambda: 0.0)
        receiver.peer_up(peer)
        effects = receiver.received(peer, send.message)
        slices = []
        while isinstance(effect := effects[0], SetTimer):
            started = time.perf_counter()
            effects = receiver.timer_fired(effect.key)
            slices.append(time.perf_counter() - started)
        turns.append(statistics.median(slices))
    return max(turns)


def main() -> None:
    """Run all overlaps, and compare."""
    arguments = options(__doc__).parse_args()
    count = 300 if arguments.quick else 3000
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    print(f"{count} transactions of {_TX_BYTES} B, {_HOPS} hops, {rounds} blocks of each kind\n")
    rows = []
    shares: dict[float, list[Tally]] = {}
    for overlap in _OVERLAPS:
        for same in (False, True) if overlap < 1 else (False,):
            row = [f"{overlap:.1%}", "the same" if same else "anyone"]
            for prefill in (True, False):
                progress(f"{overlap:.1%}, {row[1]}, {prefill=}")
                tallies = [
                    run(seed, count, overlap, same=same, prefill=prefill) for seed in range(rounds)
                ]
                ratio = sum(t.crossed for t in tallies) / sum(t.full for t in tallies)
                complete = sum(t.complete for t in tallies) / sum(t.hops for t in tallies)
                row += [f"{ratio:.2%}", f"{complete:.0%}"]
                if prefill and not same:
                    shares[overlap] = tallies
            rows.append(row)
    progress("")
    header = ["overlap", "lacks", "bytes", "no round trip", "bytes, no prefill", "no round trip"]
    print_table(header, rows)
    turn = longest_turn(10_000 if arguments.quick else 100_000, rounds)
    print(f"median turn of a search in slices: {turn * 1000:.2f} ms\n")
    for overlap, goal in _GOALS.items():
        crossed = statistics.median(tally.crossed for tally in shares[overlap])
        full = statistics.median(tally.full for tally in shares[overlap])
        claim(
            f"bytes of a block over {_HOPS} hops at {overlap:.1%} overlap, over full blocks",
            crossed,
            full,
            crossed / full,
            f"<= {goal:g}",
            holds=crossed <= goal * full,
        )
    claim(
        "seconds of a turn that searches the mempool, over 10 ms",
        turn,
        _MAX_TURN_SECS,
        turn / _MAX_TURN_SECS,
        "<= 1",
        holds=turn <= _MAX_TURN_SECS,
    )


if __name__ == "__main__":
    main()
