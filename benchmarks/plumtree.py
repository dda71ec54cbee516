"""Plumtree against naive flooding: bytes, copies and delays on the same overlay, in memory.

Fifty nodes, each linked to about eight others over links of 10 to 100 ms, and a thousand messages
of random origins, twenty a second, from a cold start. Every byte of every frame counts, control
frames included; bandwidth, and what WebSocket, TLS and TCP add to a frame, are not simulated, but
a row estimates the latter at 60 bytes. Nothing is timed, so the figures depend on the seeds alone.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

import attrs
from common import ROOT, claim_at_most, number, options, print_table, progress

sys.path.insert(0, str(ROOT))

from dig_gossip.testing.plumtree_network import (
    NaiveFlood,
    PlumtreeNetwork,
    Traffic,
)
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType

_GAP = 0.05  # seconds between two messages
_GOAL = 0.2
_FRAME_OVERHEAD = 60  # bytes of WebSocket, TLS and TCP, about
_SIZES = (100, 1024, 16_384)
_CLAIMED_SIZE = 1024
_MARKER = 8  # bytes of payload in the simulation; other sizes follow by arithmetic


@attrs.frozen
class Run:
    """One network's thousand messages.

    :ivar messages: how many.
    :ivar deliveries: copies that applications were given.
    :ivar delays: seconds, of all deliveries in the second half.
    """

    traffic: Traffic
    messages: int
    deliveries: int
    delays: list[float]

    def bytes_per_message(self, size: int, overhead: int = 0) -> float:
        """All bytes on all links, for each message of ``size`` bytes of payload."""
        traffic = self.traffic
        payload = traffic.payload_bytes + traffic.payload_frames * (size - _MARKER)
        frames = traffic.payload_frames + traffic.control_frames
        return (payload + traffic.control_bytes + frames * overhead) / self.messages


def run(seed: int, nodes: int, degree: int, messages: int, *, flood: bool) -> Run:
    """Simulate one network, and check that every node got every message once."""
    network = PlumtreeNetwork(seed=seed, make_engine=(lambda _: NaiveFlood()) if flood else None)
    names = network.random_overlay(nodes, degree)
    sent = []
    for index in range(messages):
        data = index.to_bytes(_MARKER, "big")
        sent.append(Message(DigMessageType.NEW_ATTESTATION, None, data))
        network.broadcast(network.rng.choice(names), sent[-1])
        network.run_for(_GAP)
    network.run_for(10)
    for message in sent:
        if set(network.copies(message).values()) != {1} or len(network.copies(message)) < nodes - 1:
            raise RuntimeError(f"seed {seed}: a node missed a message, or got it twice")
    return Run(
        traffic=network.traffic,
        messages=messages,
        deliveries=messages * (nodes - 1),
        delays=[delay for each in sent[messages // 2 :] for delay in network.delays(each).values()],
    )


def describe(name: str, runs: Sequence[Run]) -> list[str]:
    """A row: what all runs of one kind have in common."""
    delays = statistics.quantiles([delay for each in runs for delay in each.delays], n=100)
    copies = statistics.median(each.traffic.payload_frames / each.deliveries for each in runs)
    sizes = [statistics.median(each.bytes_per_message(size) for each in runs) for size in _SIZES]
    framed = statistics.median(
        each.bytes_per_message(_CLAIMED_SIZE, _FRAME_OVERHEAD) for each in runs
    )
    return [
        name,
        f"{copies:.2f}",
        *[number(size / 1000) for size in (*sizes, framed)],
        f"{delays[49] * 1000:.0f}",
        f"{delays[98] * 1000:.0f}",
    ]


def main() -> None:
    """Run both on several overlays, and compare."""
    arguments = options(__doc__).parse_args()
    nodes, messages = (20, 50) if arguments.quick else (50, 1000)
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    degree = 8
    trees, floods = [], []
    for seed in range(1, rounds + 1):
        progress(f"overlay {seed} of {rounds}")
        trees.append(run(seed, nodes, degree, messages, flood=False))
        floods.append(run(seed, nodes, degree, messages, flood=True))
    progress("")
    print(f"{nodes} nodes, {degree} links each, {messages} messages, {rounds} overlays\n")
    header = ["", "copies a delivery", *[f"kB, {size} B" for size in _SIZES]]
    header += [f"kB, {_CLAIMED_SIZE} B framed", "p50 ms", "p99 ms"]
    rows = [describe("plumtree", trees), describe("flood", floods)]
    ratios = [
        statistics.median(
            tree.bytes_per_message(size, overhead) / flood.bytes_per_message(size, overhead)
            for tree, flood in zip(trees, floods, strict=True)
        )
        for size, overhead in (*[(size, 0) for size in _SIZES], (_CLAIMED_SIZE, _FRAME_OVERHEAD))
    ]
    rows.append(["ratio", "", *[f"{ratio:.3f}" for ratio in ratios], "", ""])
    print_table(header, rows)
    claim_at_most(
        f"bytes a message of {_CLAIMED_SIZE} B over naive flooding, control included",
        [tree.bytes_per_message(_CLAIMED_SIZE) for tree in trees],
        [flood.bytes_per_message(_CLAIMED_SIZE) for flood in floods],
        _GOAL,
    )


if __name__ == "__main__":
    main()
