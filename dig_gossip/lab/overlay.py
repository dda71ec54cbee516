"""Who is linked to whom, and how far apart they are.

Programs row of the stage table; pure, and random only through the generator it is given.
"""

from __future__ import annotations

from itertools import accumulate
from random import Random
from typing import NamedTuple

import attrs

from dig_gossip.lab.scenario import Network, Overlay


class Edge(NamedTuple):
    """A link: who dialed, who was dialed, and its one-way latency in seconds."""

    dialer: int
    dialed: int
    latency: float


class Places:
    """Where nodes are, and what follows from it: latencies, uplinks, and who can be dialed.

    :param rng: of this object alone; it is drawn from for every node and every link, in order.
    :ivar region: of each node, 0 if the scenario has none.
    :ivar uplink: of each node, bytes a second; 0.0 if unlimited.
    :ivar is_hidden: of each node, whether nobody can dial it.
    """

    def __init__(self, overlay: Overlay, network: Network, rng: Random) -> None:
        self._rng = rng
        nodes = overlay.nodes
        self._low, self._high = (ms / 1000 for ms in network.latency_ms)
        self._between = [[ms / 1000 for ms in row] for row in network.between_ms]
        regions = range(len(network.regions))
        weights = list(accumulate(network.shares))
        self.region: list[int] = (
            rng.choices(regions, cum_weights=weights, k=nodes) if regions else [0] * nodes
        )
        fast = network.uplink_mbit * 125_000
        slow = network.slow_uplink_mbit * 125_000
        self.uplink = [slow if rng.random() < network.slow_share else fast for _ in range(nodes)]
        self.is_hidden = [rng.random() < overlay.nat for _ in range(nodes)]
        self.open = [node for node in range(nodes) if not self.is_hidden[node]]

    def latency(self, a: int, b: int) -> float:
        """Draw the one-way latency of a new link, seconds."""
        drawn = self._rng.uniform(self._low, self._high)
        return drawn + (self._between[self.region[a]][self.region[b]] if self._between else 0.0)


def build_edges(overlay: Overlay, places: Places, rng: Random) -> list[Edge]:
    """Draw the links that there are at the beginning, in the order in which they are made.

    Not necessarily connected, though with a few links a node it hardly ever is not; figures speak
    of the nodes that a flood would reach.
    """
    pairs: dict[tuple[int, int], None] = {}

    def add(a: int, b: int) -> bool:
        if a == b or (a, b) in pairs or (b, a) in pairs:
            return False
        pairs[a, b] = None
        return True

    nodes = list(range(overlay.nodes))
    if overlay.kind == "full":
        for a in nodes:
            for b in range(a):
                add(a, b)
    elif overlay.kind == "rings":
        for _ in range(overlay.links // 2):
            ring = rng.sample(nodes, len(nodes))
            for a, b in zip(ring, [*ring[1:], ring[0]], strict=True):
                add(a, b)
    else:
        for a in nodes:
            made = tries = 0
            while made < overlay.links and tries < 20 * overlay.links and places.open:
                made += add(a, rng.choice(places.open))
                tries += 1
        # Nodes come up in any order, so that nobody's links are all older than his neighbor's.
        order = list(pairs)
        rng.shuffle(order)
        pairs = dict.fromkeys(order)
    return [Edge(a, b, places.latency(a, b)) for a, b in pairs]


@attrs.define
class Reach:
    """The nodes that a flood reaches, found anew only when links or nodes have changed."""

    _cache: dict[int, frozenset[int]] = attrs.field(factory=dict)

    def forget(self) -> None:
        """Links or nodes have changed."""
        self._cache.clear()

    def component(
        self, origin: int, links: list[dict[int, float]], passes: bytearray
    ) -> frozenset[int]:
        """The nodes connected to an origin through others like it, itself included.

        :param passes: of each node, whether it lives and passes messages on.
        Cost: O(links), or O(1) if nothing has changed.
        """
        found = self._cache.get(origin)
        if found is None:
            reached = {origin}
            waiting = [origin]
            while waiting:
                for peer in links[waiting.pop()]:
                    if passes[peer] and peer not in reached:
                        reached.add(peer)
                        waiting.append(peer)
            found = frozenset(reached)
            for node in reached:
                self._cache[node] = found
        return found
