"""Whose transaction is it? What spies among the nodes can tell, with Dandelion++ and without.

A random overlay in memory; each node dials eight others, and a share of the nodes are spies that
pool what they see. Every honest node sends one transaction within one epoch, through the real
engines. An announcement spreads over links of 10 to 100 ms, each node passing it on at once.

Observers. *First spy* names the honest node from which any spy got the transaction first, be it on
its stem or by its announcement. *Graph* knows, besides, the two relays of every honest node, and
names the likeliest origin. *Links* also knows who is connected to whom, and how heralds are drawn.
*Matching* knows as much as graph, and gives every transaction another origin,
the likeliest pairs first: the strongest attack on precision, if everybody sends one transaction.
With *black holes*, spies swallow stems, and what they are the heralds of; then these three also use
who announced the transaction in
the end, and when; they know how embargoes are drawn. *Stem* is graph that makes nothing of the end
of a stem that it has seen: what no embargo, however drawn, can hide.

Precision: for each honest node 1/k if its own transaction is among the k that are ascribed to it,
else 0; the mean over nodes. Recall: the share of transactions ascribed to their origin. Nothing is
timed, so the figures depend on the seeds alone.
"""

from __future__ import annotations

import heapq
import statistics
import sys
from collections import Counter
from hashlib import sha256
from random import Random
from typing import Any, ClassVar

import attrs
import numpy as np
from common import ROOT, claim, options, print_table, progress

sys.path.insert(0, str(ROOT))

from dig_gossip.effects import Effect, Send, SetTimer, Spread
from dig_gossip.lab.observers import (
    MAX_HOPS,
    Floats,
    Sighting,
    StemGraph,
    first_spy,
    precision,
    recall,
)
from dig_gossip.privacy.dandelion import Dandelion
from dig_gossip.types.config import DandelionConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.stem import StemTransaction

_OUTBOUND = 8
_SHARES = (0.1, 0.2, 0.3)
_MAX_PRECISION = (0.05, 0.12, 0.19)
_MAX_RECALL_ABOVE_SHARE = 0.02
_FLUFF = 0.1
_CANDIDATES = 40  # of each transaction that the matching looks at


class PatientOrigin(Dandelion):
    """The origin's embargo has a longer mean than a relay's; not what the node does."""

    patience: ClassVar[float] = 1.0

    def _enter(self, tx_id: bytes, stem: Any) -> list[Effect]:
        effects = super()._enter(tx_id, stem)
        if stem.source is not None:
            return effects
        return [
            SetTimer(effect.key, effect.delay * self.patience)
            if isinstance(effect, SetTimer)
            else effect
            for effect in effects
        ]


class WithoutHeralds(PatientOrigin):
    """Whoever ends a stem tells everybody at once."""

    has_heralds: ClassVar[bool] = False


class FixedTimer(WithoutHeralds):
    """One relay, and a timer of a fixed length: what the Rust crate declares."""

    relays_per_epoch: ClassVar[int] = 1

    def _exponential(self, mean: float) -> float:
        return mean


class Network:
    """Nodes, spies, links."""

    def __init__(self, seed: int, nodes: int, share: float, kind: str, *, holes: bool) -> None:
        self.rng = Random(seed)
        self.nodes = nodes
        self.holes = holes
        self.spies = set(self.rng.sample(range(nodes), round(share * nodes)))
        self.honest = [node for node in range(nodes) if node not in self.spies]
        self.dials = [
            self.rng.sample([n for n in range(nodes) if n != node], _OUTBOUND)
            for node in range(nodes)
        ]
        self.links: list[dict[int, float]] = [{} for _ in range(nodes)]
        for node, others in enumerate(self.dials):
            for other in others:
                delay = self.rng.uniform(0.01, 0.1)
                self.links[node][other] = self.links[other][node] = delay
        self.ids = [PeerId(sha256(f"{seed} {node}".encode()).digest()) for node in range(nodes)]
        self.numbers = {peer: node for node, peer in enumerate(self.ids)}
        # Embargoes that end in a second: those of an origin and of a relay.
        relay_rate = 1 / DandelionConfig().stem_timeout_secs
        self.rates = np.full(MAX_HOPS, relay_rate)
        if kind == "fixed":
            self.rates[1:] = 0.0  # the origin's always ends first
        else:
            self.rates[0] /= PatientOrigin.patience
        self.engines: dict[int, Dandelion] = {}
        if kind != "plain":
            make = {"fixed": FixedTimer, "bare": WithoutHeralds}.get(kind, PatientOrigin)
            for node in range(nodes):  # a spy that swallows nothing passes on as everybody does
                engine = make(
                    DandelionConfig(fluff_probability=_FLUFF),
                    now=lambda: 0.0,
                    rng=Random(self.rng.random()),
                )
                for other in self.dials[node]:
                    engine.peer_up(self.ids[other])
                self.engines[node] = engine

    def send(self, origin: int) -> Sighting:
        """Let a node send a transaction; what the spies see of it."""
        sighting = Sighting()
        if not self.engines:
            sighting.announcer = self.announce(origin)
            return sighting
        payload = f"{origin}".encode()
        body = StemTransaction(sha256(payload).digest() + bytes(16), payload)
        timers: list[tuple[float, int]] = []
        clock = 0.0
        holders = {origin}
        waiting: list[tuple[int, list[Effect]]] = [(origin, self.engines[origin].submit(body))]
        while True:
            while waiting:
                node, effects = waiting.pop(0)
                for effect in effects:
                    if isinstance(effect, SetTimer):
                        heapq.heappush(timers, (clock + effect.delay, node))
                    elif isinstance(effect, Spread):
                        self.end(body, holders)
                        sighting.announcer = self.announce(node)
                        sighting.delay = clock
                        return sighting
                    elif isinstance(effect, Send):
                        clock += 0.05
                        (peer,) = effect.peers
                        other = self.numbers[peer]
                        if effect.message.type == ChiaMessageType.NEW_TRANSACTION:
                            self.end(body, holders)
                            sighting.announcer = self.announce_by(other, node)
                            sighting.delay = clock
                            return sighting
                        if other in self.spies:
                            if sighting.stem is None and node not in self.spies:
                                sighting.stem = node
                            if self.holes:
                                continue
                        holders.add(other)
                        taken = self.engines[other].received(self.ids[node], effect.message)
                        waiting.append((other, taken))
            clock, node = heapq.heappop(timers)
            key = ("dandelion.embargo", body.tx_id)
            waiting.append((node, self.engines[node].timer_fired(key)))

    def announce_by(self, herald: int, node: int) -> int:
        """From whom a spy first has what a node has told a herald."""
        return node if herald in self.spies else self.announce(herald)

    def heralds(self, node: int) -> list[int]:
        """Whom a node may tell first; nobody, if it tells everybody."""
        engine = self.engines[node]
        if not engine.has_heralds:
            return []
        relays = {self.numbers[relay] for relay in engine.snapshot().relays}
        return [other for other in self.dials[node] if other not in relays]

    def learn_links(self) -> None:
        """What the links observer knows: ``seen[u][v]``, how often v's announcements seem u's."""
        self.seen: dict[int, Counter[int]] = {node: Counter() for node in self.honest}
        by_itself = {node: self.announce(node) for node in self.honest}
        for node in self.honest:
            heralds = self.heralds(node)
            for herald in heralds or [node]:
                source = node if herald in self.spies else by_itself[herald]
                if source in self.seen:
                    self.seen[source][node] += 1 / (len(heralds) or 1)  # type: ignore[assignment]
        right = sum(self.seen[node][node] for node in self.honest)
        self.accuracy = right / len(self.honest)

    def suspects(self, sighting: Sighting, *, knows_links: bool) -> Floats:
        """How likely what was announced would seem to come from where it seemed to, by node."""
        chances = np.full(len(self.index), 1e-9)  # nothing is certain
        source = -1 if sighting.announcer is None else sighting.announcer
        if source not in self.index:
            return chances
        if knows_links:
            for node, chance in self.seen[source].items():
                chances[self.index[node]] += chance
        else:
            chances += (1 - self.accuracy) / len(self.index)
            chances[self.index[source]] += self.accuracy
        return chances

    def end(self, body: StemTransaction, holders: set[int]) -> None:
        """Everybody hears the announcement, and forgets the stem."""
        for node in holders:
            self.engines[node].announced(body.tx_id)
            self.engines[node].timer_fired(("dandelion.embargo", body.tx_id))

    def announce(self, origin: int) -> int:
        """Spread an announcement; the honest node from which a spy has it first."""
        if origin in self.spies:
            return -1
        heap = [(0.0, origin, -1)]
        seen: set[int] = set()
        while heap:
            time, node, source = heapq.heappop(heap)
            if node in seen:
                continue
            seen.add(node)
            if node in self.spies:
                return source
            for other, delay in self.links[node].items():
                if other not in seen:
                    heapq.heappush(heap, (time + delay, other, node))
        return -1

    def learn_graph(self) -> None:
        """What the graph observer knows: the relays of every honest node, not their edges."""
        relays = {
            node: [self.numbers[relay] for relay in self.engines[node].snapshot().relays]
            for node in self.honest
        }
        graph = StemGraph(relays, _FLUFF)
        self.index, self.walks = graph.index, graph.walks
        # Whether it is anywhere after a hop or more: the origin does not toss the coin.
        self.reached = self.walks[1:].sum(axis=0)


def stem_posteriors(network: Network, sighting: Sighting, suspects: Floats) -> Floats:
    """How likely each honest node is the origin, by the stem if it was seen.

    :param suspects: see :meth:`Network.suspects`.
    """
    walks, index = network.walks, network.index
    if sighting.stem is not None:
        weights = walks[:, :, index[sighting.stem]].sum(axis=0)
    else:
        weights = network.reached @ suspects
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def posteriors(network: Network, sighting: Sighting, suspects: Floats) -> Floats:
    """The same, by the stem and by how it ended.

    The likelihood that after ``d`` hops node ``i`` of the stem announced the transaction when it
    did: its rate, and that nobody did before.
    """
    if sighting.stem is None or not network.holes:
        return stem_posteriors(network, sighting, suspects)
    walks, rates = network.walks, network.rates
    arrivals = walks[:, :, network.index[sighting.stem]]
    nobody = np.exp(-np.cumsum(rates) * sighting.delay)
    base = suspects.min()
    weights = base * ((np.cumsum(rates) * nobody) @ arrivals)
    for node in np.flatnonzero(suspects > base):
        rest = arrivals[:, node]
        relays = [
            rate * (rest[: MAX_HOPS - before] @ nobody[before:])
            for before, rate in enumerate(rates)
        ]
        weights = weights + (suspects[node] - base) * (np.array(relays) @ walks[:, :, node])
    total = weights.sum()
    return np.asarray(weights / total if total else weights, dtype=np.float64)


def matched(network: Network, likely: dict[int, Floats]) -> dict[int, int | None]:
    """Give every transaction another origin, the likeliest pairs first."""
    pairs = [
        (float(weights[place]), network.rng.random(), transaction, network.honest[place])
        for transaction, weights in likely.items()
        for place in np.argsort(weights)[-_CANDIDATES:]
    ]
    guesses: dict[int, int | None] = {}
    taken: set[int] = set()
    for _weight, _tie, transaction, node in sorted(pairs, reverse=True):
        if transaction not in guesses and node not in taken:
            guesses[transaction] = node
            taken.add(node)
    return guesses


@attrs.frozen
class Result:
    """One network's figures."""

    first_precision: float
    first_recall: float
    graph_precision: float
    graph_recall: float
    links_precision: float
    links_recall: float
    matching: float
    stem_precision: float
    stem_recall: float
    delay: float


def run(seed: int, nodes: int, share: float, kind: str, *, holes: bool) -> Result:
    """Simulate one network."""
    network = Network(seed, nodes, share, kind, holes=holes)
    order = network.honest[:]
    network.rng.shuffle(order)
    sightings = {node: network.send(node) for node in order}
    origins = {node: node for node in network.honest}  # one transaction each, named after it
    guesses = {node: first_spy(sighting) for node, sighting in sightings.items()}
    first = precision(origins, guesses), recall(origins, guesses)
    delay = statistics.mean(sighting.delay for sighting in sightings.values())
    if not network.engines:
        return Result(*first, *first, *first, first[0], *first, delay)
    network.learn_graph()
    network.learn_links()
    likely: dict[str, dict[int, Floats]] = {"graph": {}, "links": {}, "stem": {}}
    for node, sighting in sightings.items():
        graph = network.suspects(sighting, knows_links=False)
        links = network.suspects(sighting, knows_links=True)
        likely["graph"][node] = posteriors(network, sighting, graph)
        likely["links"][node] = posteriors(network, sighting, links)
        likely["stem"][node] = stem_posteriors(network, sighting, graph)
    figures: dict[str, tuple[float, float]] = {}
    for name, each in likely.items():
        best: dict[int, int | None] = {
            node: network.honest[int(np.argmax(weights))] for node, weights in each.items()
        }
        figures[name] = precision(origins, best), recall(origins, best)
    matching = precision(origins, matched(network, likely["graph"]))
    return Result(*first, *figures["graph"], *figures["links"], matching, *figures["stem"], delay)


_KINDS = {
    "plain": "plain gossip",
    "fixed": "one relay, fixed timer",
    "bare": "no heralds",
    "ours": "Dandelion++",
}


def main() -> None:
    """Run all kinds, and compare."""
    parser = options(__doc__)
    parser.add_argument(
        "--patience", type=float, default=1.0, help="mean of an origin's embargo over a relay's"
    )
    parser.add_argument("--nodes", type=int, help="of each network")
    arguments = parser.parse_args()
    PatientOrigin.patience = arguments.patience
    nodes = arguments.nodes or (100 if arguments.quick else 1000)
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    print(f"{nodes} nodes, {_OUTBOUND} dials each, one transaction a node, {rounds} networks\n")
    rows: list[list[str]] = []
    means: dict[tuple[str, float, bool], list[float]] = {}
    for share in _SHARES:
        for kind, name in _KINDS.items():
            for holes in (False, True) if kind != "plain" else (False,):
                progress(f"{share:.0%} spies, {name}")
                results = [
                    run(seed, nodes, share, kind, holes=holes) for seed in range(1, rounds + 1)
                ]
                figures = [
                    statistics.mean(getattr(result, field.name) for result in results)
                    for field in attrs.fields(Result)
                ]
                means[kind, share, holes] = figures
                black = "yes" if holes else "no"
                cells = [*(f"{each:.3f}" for each in figures[:-1]), f"{figures[-1]:.1f}"]
                rows.append([f"{name}, {share:.0%}", black, *cells])
    progress("")
    header = ["", "black holes", "first spy: precision", "recall", "graph: precision", "recall"]
    header += [
        "links: precision",
        "recall",
        "matching: precision",
        "stem: precision",
        "recall",
        "delay s",
    ]
    print_table(header, rows)
    for place, name in ((0, "first spy"), (2, "graph")):
        for share, goal in zip(_SHARES, _MAX_PRECISION, strict=True):
            for what, column, limit in (
                ("precision", place, goal),
                ("recall", place + 1, share + _MAX_RECALL_ABOVE_SHARE),
            ):
                ours = max(means["ours", share, holes][column] for holes in (False, True))
                plain = means["plain", share, False][column]
                claim(
                    f"{what} of {share:.0%} spies ({name}) at worst, over plain gossip",
                    ours,
                    plain,
                    ours / plain,
                    f"figure <= {limit:g}",
                    holds=ours <= limit,
                )


if __name__ == "__main__":
    main()
