"""Whole networks whose nodes have trees with tags: cost, delay, coverage, repair."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from statistics import mean

from dig_gossip.gossip.values import PeerMode
from dig_gossip.testing.plumtree_network import NaiveFlood, PlumtreeNetwork
from dig_gossip.types.peer import PeerId
from tests.gossip.test_network import NetworkCase, payload
from tests.gossip.trees_case import TREES

_NODES = 30
_DEGREE = 6
_LATENCY = (0.01, 0.1)


class TreesNetworkCase(NetworkCase):
    """Words for networks in which the same few nodes send again and again."""

    def overlay(self, seed: int, *, of_trees: float = 1.0) -> PlumtreeNetwork:
        """Nodes with random links.

        :param of_trees: share of the links that know trees with tags.
        """
        network = PlumtreeNetwork(seed=seed)
        nodes = [network.add_node() for _ in range(_NODES)]
        for _ in range(_DEGREE // 2):
            ring = network.rng.sample(nodes, _NODES)
            for a, b in pairwise([*ring, ring[0]]):
                if b not in network.neighbors(a):
                    mode = TREES if network.rng.random() < of_trees else PeerMode.TREE
                    network.connect(a, b, network.rng.uniform(*_LATENCY), mode)
        network.run_for(1)  # until all round trips are known
        return network

    def recur(
        self, network: PlumtreeNetwork, origins: list[PeerId], numbers: range, gap: float = 0.3
    ) -> dict[int, PeerId]:
        """Let some nodes broadcast in turn; who broadcast what."""
        sent = {number: origins[number % len(origins)] for number in numbers}
        for number, origin in sent.items():
            network.broadcast(origin, payload(number))
            network.run_for(gap)
        network.run_for(5)
        return sent

    def total(self, network: PlumtreeNetwork, counter: str) -> int:
        """One counter of all living nodes."""
        return sum(each.counters[counter] for each in network.snapshots().values())

    def mean_delay(self, network: PlumtreeNetwork, numbers: range) -> float:
        """Seconds from a broadcast to a delivery."""
        return mean(d for number in numbers for d in network.delays(payload(number)).values())


#: Messages while the trees are opened, and afterwards.
_WARM, _LATER = range(60), range(60, 100)


@cache
def warm_network() -> tuple[PlumtreeNetwork, dict[int, PeerId], int, int]:
    """Five origins in turn; for tests that only look.

    Also: what they sent once warm, and the duplicates and pulls until then.
    """
    case = TreesNetworkCase()
    network = case.overlay(1)
    origins = sorted(network.engines)[:5]
    case.recur(network, origins, _WARM)
    duplicates, pulls = case.total(network, "duplicates"), case.total(network, "cache_hits")
    return network, case.recur(network, origins, _LATER), duplicates, pulls


class WarmNetworkTests(TreesNetworkCase):
    """Thirty nodes, of which five send in turn."""

    def test_everybody_gets_everything_once(self) -> None:
        """No node misses a message or is given it twice.  PLT-004"""
        network, sent, _, _ = warm_network()
        self.assert_once_each(network, sent)

    def test_no_copy_is_sent_twice(self) -> None:
        """Every node gets each message in full once, and nobody has to pull one.  PLT-004.1"""
        network, sent, duplicates, pulls = warm_network()
        self.assertEqual(self.total(network, "duplicates"), duplicates)
        self.assertEqual(self.total(network, "cache_hits"), pulls)
        self.assertGreater(len(sent), 0)

    def test_each_origin_has_a_tree_that_all_nodes_know(self) -> None:
        """Opened by itself: the five send often.  design D6"""
        network, _, _, _ = warm_network()
        opened = [s.counters["trees_opened"] for s in network.snapshots().values()]
        self.assertEqual(sorted(opened), [0] * (_NODES - 5) + [1] * 5)
        self.assertEqual({s.trees for s in network.snapshots().values()}, {5})

    def test_messages_are_as_fast_as_in_a_flood(self) -> None:
        """Within a fifth, in the mean of all nodes and messages.  PRF-005"""
        network, sent, _, _ = warm_network()
        flood = PlumtreeNetwork(seed=1, make_engine=lambda node: NaiveFlood())
        nodes = [flood.add_node() for _ in range(_NODES)]
        for node in nodes:
            for peer in network.neighbors(node):
                if node < peer:
                    flood.connect(node, peer, network._latency[node][peer])
        for number, origin in sent.items():
            flood.broadcast(origin, payload(number))
            flood.run_for(2)
        flooded = self.mean_delay(flood, _LATER)
        self.assertLess(self.mean_delay(network, _LATER), 1.2 * flooded)
        self.assertGreater(flooded, 0.05)

    def test_an_announcement_crosses_a_link_about_once(self) -> None:
        """One end speaks first, and the other stays silent.  PLT-003"""
        network, sent, _, _ = warm_network()
        before = self.total(network, "ihaves_sent")
        sent = self.recur(network, sorted(set(sent.values())), range(200, 240))
        links = sum(len(network.neighbors(node)) for node in network.engines) // 2
        per_message = (self.total(network, "ihaves_sent") - before) / len(sent)
        # All links but those of the tree.
        self.assertLess(per_message, 1.1 * (links - (_NODES - 1)))
        self.assertGreater(per_message, 0.9 * (links - (_NODES - 1)))

    def test_nobody_is_charged_and_nothing_piles_up(self) -> None:
        """Honest peers do nothing wrong.  PLT-106-X"""
        network, _, _, _ = warm_network()
        self.assertEqual(network.penalties, [])
        for snapshot in network.snapshots().values():
            self.assertEqual((snapshot.missing, snapshot.unannounced), (0, 0))
            self.assertEqual(snapshot.counters["announcers_distrusted"], 0)
            self.assertEqual(snapshot.counters["silences"], 0)


class RepairTests(TreesNetworkCase):
    """A third of the nodes dies."""

    def survive(self, seed: int, *, detected: bool) -> tuple[float, float]:
        """Kill ten of thirty; everything arrives. Mean delays before, and some messages after."""
        network = self.overlay(seed)
        origins = sorted(network.engines)[:5]
        self.recur(network, origins, _WARM)
        self.kill(network, 10, detected=detected)
        alive = [node for node in origins if node in network.snapshots()]
        sent = self.recur(network, alive, range(100, 140), 0.5)
        sent |= self.recur(network, alive, range(140, 160), 0.5)
        self.assert_once_each(network, sent)
        return self.mean_delay(network, _WARM[-20:]), self.mean_delay(network, range(140, 160))

    def test_silent_death(self) -> None:
        """Everything arrives; later messages do not wait for announcements.  PLT-005.1"""
        for seed in (1, 2, 3):
            before, after = self.survive(seed, detected=False)
            self.assertLess(after, 2 * before, seed)

    def test_death_that_is_noticed(self) -> None:
        """By the neighbors, at once.  PLT-006"""
        before, after = self.survive(4, detected=True)
        self.assertLess(after, 2 * before)

    def test_lost_frames_are_fetched(self) -> None:
        """A message that is lost on a live link comes from somebody else.  PLT-005.1"""
        network = self.overlay(5)
        origins = sorted(network.engines)[:5]
        self.recur(network, origins, _WARM)
        network.lose = lambda sender, receiver, message: (
            message.type == payload(0).type and network.rng.random() < 0.05
        )
        self.assert_once_each(network, self.recur(network, origins, range(100, 160)))


class MixedNetworkTests(TreesNetworkCase):
    """Some links know trees with tags, and some do not."""

    def test_everything_arrives_everywhere_once(self) -> None:
        """Whatever the share of the links that know them.  PLT-004"""
        for seed, of_trees in ((1, 0.5), (2, 0.2), (3, 0.9)):
            network = self.overlay(seed, of_trees=of_trees)
            origins = sorted(network.engines)[:5]
            sent = self.recur(network, origins, range(100))
            self.assert_once_each(network, sent)
            self.assertEqual(network.penalties, [])
            self.assertGreater(self.total(network, "trees_joined"), 0)

    def test_random_origins(self) -> None:
        """Nodes that send once use the tree of a near root, or the shared one.  PLT-004"""
        network = self.overlay(7)
        everybody = network.rng.sample(sorted(network.engines), _NODES)
        self.assert_once_each(network, self.recur(network, everybody, range(90)))
