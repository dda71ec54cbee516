"""Whole networks of engines: cost, coverage, repair."""

from __future__ import annotations

from functools import cache

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.values import PeerMode
from dig_gossip.testing.plumtree_network import NaiveFlood, PlumtreeNetwork, Traffic
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType
from tests.gossip.engine_case import PRUNE

#: One way through a tree of these networks, generously; seconds.
_SPREAD = 2.0


def payload(number: int) -> Message:
    """A message of one kilobyte."""
    return Message(DigMessageType.NEW_ATTESTATION, None, number.to_bytes(4, "big") + bytes(996))


class NetworkCase(SynchronousTestCase):
    """Words for what a network must do."""

    def spread(self, network: PlumtreeNetwork, numbers: range, gap: float) -> dict[int, PeerId]:
        """Let random nodes that live broadcast one message each; who did."""
        origins = {}
        for number in numbers:
            origins[number] = network.rng.choice(sorted(network.snapshots()))
            network.broadcast(origins[number], payload(number))
            network.run_for(gap)
        network.run_for(_SPREAD + 8)
        return origins

    def assert_once_each(self, network: PlumtreeNetwork, origins: dict[int, PeerId]) -> None:
        """Require that every living node got every message exactly once."""
        alive = set(network.snapshots())
        for number, origin in origins.items():
            copies = network.copies(payload(number))
            expected = dict.fromkeys(alive - {origin}, 1)
            self.assertEqual({node: copies[node] for node in copies if node in alive}, expected)

    def assert_symmetric(self, network: PlumtreeNetwork) -> set[tuple[PeerId, PeerId]]:
        """Require that links are eager at both ends or at none; the eager ones, both ways."""
        snapshots = network.snapshots()
        eager = {
            (node, peer) for node in snapshots for peer in snapshots[node].eager & set(snapshots)
        }
        self.assertEqual(eager, {(peer, node) for node, peer in eager})
        return eager

    def assert_connected(self, network: PlumtreeNetwork, eager: set[tuple[PeerId, PeerId]]) -> None:
        """Require that the eager links reach every living node from every other."""
        self.assertTrue(_is_connected(set(network.snapshots()), eager))

    def duplicates(self, network: PlumtreeNetwork) -> int:
        """Duplicates of all nodes."""
        return sum(each.counters["duplicates"] for each in network.snapshots().values())

    def kill(self, network: PlumtreeNetwork, count: int, *, detected: bool) -> None:
        """Let random nodes die, so that the others are still connected with each other."""
        nodes = sorted(network.engines)
        links = {(node, peer) for node in nodes for peer in network.neighbors(node)}
        while True:
            victims = network.rng.sample(nodes, count)
            if _is_connected(set(nodes) - set(victims), links):
                break
        for node in victims:
            network.kill(node)
            if detected:
                network.detect(node)


def _is_connected(nodes: set[PeerId], links: set[tuple[PeerId, PeerId]]) -> bool:
    """Whether links among these nodes lead from each to every other."""
    reached: set[PeerId] = set()
    frontier = {min(nodes)}
    while frontier:
        reached |= frontier
        frontier = {b for a, b in links if a in frontier and b in nodes} - reached
    return reached == nodes


@cache
def busy_network() -> tuple[PlumtreeNetwork, dict[int, PeerId], int, Traffic]:
    """Fifty nodes and a thousand messages, twenty a second; for tests that only look.

    Also: the duplicates of the first half, and the traffic of a flood on the same overlay.
    """
    case = NetworkCase()
    network = PlumtreeNetwork(seed=3)
    network.random_overlay(50, degree=8)
    origins = case.spread(network, range(500), 0.05)
    duplicates = case.duplicates(network)
    origins |= case.spread(network, range(500, 1000), 0.05)

    flood = PlumtreeNetwork(seed=3, make_engine=lambda node: NaiveFlood())
    nodes = flood.random_overlay(50, degree=8)
    for number in range(10):
        flood.broadcast(nodes[number], payload(number))
        flood.run_for(_SPREAD)
        assert len(flood.copies(payload(number))) == 49
    return network, origins, duplicates, flood.traffic


class BusyNetworkTests(NetworkCase):
    """Fifty nodes with eight links each, a thousand messages of random origins, from cold."""

    def test_everybody_gets_everything_once(self) -> None:
        """No node misses a message or is given it twice.  PLT-004"""
        network, origins, _, _ = busy_network()
        self.assert_once_each(network, origins)

    def test_bytes_are_less_than_a_fifth_of_a_flood(self) -> None:
        """All control frames and the cold start included.  PRF-005"""
        network, origins, _, flood = busy_network()
        per_message = network.traffic.total_bytes / len(origins)
        self.assertLess(per_message, 0.2 * flood.total_bytes / 10)

    def test_duplicates_vanish(self) -> None:
        """In the second half there are next to none.  PLT-004.1"""
        network, _, before, _ = busy_network()
        self.assertLess(self.duplicates(network) - before, 0.02 * 500 * 49)

    def test_eager_links_span_the_network(self) -> None:
        """One connected component, the same seen from both ends.  PLT-004.1"""
        network, _, _, _ = busy_network()
        self.assert_connected(network, self.assert_symmetric(network))

    def test_hash_crosses_a_lazy_link_about_once(self) -> None:
        """The first of two lazy neighbors to speak silences the other.  PLT-003"""
        network, origins, _, _ = busy_network()
        snapshots = network.snapshots().values()
        lazy_links = sum(len(snapshot.lazy) for snapshot in snapshots) / 2
        announced = sum(snapshot.counters["ihaves_sent"] for snapshot in snapshots)
        self.assertLess(announced / len(origins), 1.5 * lazy_links)

    def test_nobody_is_charged_and_tables_are_empty(self) -> None:
        """Honest peers do nothing wrong, and nothing piles up.  PLT-106-X"""
        network, _, _, _ = busy_network()
        self.assertEqual(network.penalties, [])
        for snapshot in network.snapshots().values():
            self.assertEqual((snapshot.missing, snapshot.unannounced), (0, 0))
            self.assertEqual(snapshot.counters["announcers_distrusted"], 0)


class SettlingTests(NetworkCase):
    """A larger network from cold."""

    def test_hundred_nodes_settle_within_a_hundred_messages(self) -> None:
        """Afterwards less than 0.15 duplicates a delivery.  PLT-004.1"""
        network = PlumtreeNetwork(seed=1)
        network.random_overlay(100, degree=8)
        origins = self.spread(network, range(100), 0.2)
        before = self.duplicates(network)
        origins |= self.spread(network, range(100, 200), 0.2)
        self.assert_once_each(network, origins)
        self.assertLess(self.duplicates(network) - before, 0.15 * 100 * 99)
        self.assert_connected(network, self.assert_symmetric(network))

    def test_same_seed_gives_the_same_run(self) -> None:
        """A failure can be reproduced.  STR-005"""
        runs = []
        for _ in range(2):
            network = PlumtreeNetwork(seed=7)
            network.random_overlay(20, degree=4)
            self.spread(network, range(30), 0.05)
            runs.append((network.traffic, network.time))
        self.assertEqual(runs[0], runs[1])

    def test_idle_network_has_no_timers(self) -> None:
        """A minute after the last message nothing is left to do.  PRF-101-X"""
        network = PlumtreeNetwork(seed=1)
        network.random_overlay(20, degree=6)
        self.spread(network, range(20), 0.1)
        network.run_until_idle(100)
        before = network.traffic
        network.run_for(1000)
        self.assertEqual(network.traffic, before)

    def test_flooded_sessions_and_tree_sessions_share_messages(self) -> None:
        """Half of the links without Plumtree: everybody gets everything once.  D6"""
        network = PlumtreeNetwork(seed=2)
        nodes = [network.add_node() for _ in range(20)]
        for index, node in enumerate(nodes):
            network.connect(node, nodes[index - 1], 0.02)
            network.connect(node, nodes[index - 5], 0.03, PeerMode.FLOOD)
        self.assert_once_each(network, self.spread(network, range(50), 0.1))


class FailureTests(NetworkCase):
    """Nodes die."""

    def survive(self, *, config: PlumtreeConfig | None = None, dead: int, detected: bool) -> float:
        """Fifty nodes settle, some die, all messages still reach the others once.

        :returns: the longest delay of any delivery afterwards, seconds.
        """
        network = PlumtreeNetwork(seed=4, config=config)
        network.random_overlay(50, degree=8)
        self.spread(network, range(60), 0.1)
        self.kill(network, dead, detected=detected)
        origins = self.spread(network, range(60, 120), 0.1)
        self.assert_once_each(network, origins)
        return max(max(network.delays(payload(number)).values()) for number in origins)

    def test_a_fifth_of_the_nodes_falls_silent(self) -> None:
        """Nobody notices, everybody left still gets every message once.  PLT-005.1"""
        self.survive(dead=10, detected=False)

    def test_a_fifth_of_the_nodes_is_seen_to_die(self) -> None:
        """The tree is mended within about one lazy timeout.  PLT-006"""
        self.assertLess(self.survive(dead=10, detected=True), 1.5)

    def test_half_of_the_nodes_falls_silent(self) -> None:
        """With both waves of announcements.  PLT-003"""
        self.survive(dead=25, detected=False)

    def test_half_of_the_nodes_falls_silent_with_one_wave(self) -> None:
        """And with a single one.  PLT-003"""
        one_wave = PlumtreeConfig(two_wave_announce=False)
        self.survive(config=one_wave, dead=25, detected=False)

    def test_lost_frames_are_fetched(self) -> None:
        """A full message lost on a live link comes from somebody else.  PLT-005.1"""
        network = PlumtreeNetwork(seed=5)
        network.random_overlay(30, degree=8)
        self.spread(network, range(20), 0.1)
        network.lose = lambda sender, receiver, message: (
            message.type == DigMessageType.NEW_ATTESTATION and network.rng.random() < 0.05
        )
        self.assert_once_each(network, self.spread(network, range(20, 80), 0.1))


class ShortcutTests(NetworkCase):
    """The tree finds the fast way."""

    def test_fast_lazy_link_replaces_a_slow_eager_one(self) -> None:
        """Mean delay falls, and the slow link ends up lazy.  PLT-101-X"""
        network = PlumtreeNetwork(seed=1)
        origin, slow, fast, leaf = (network.add_node() for _ in range(4))
        network.connect(origin, slow, 0.01)
        network.connect(slow, leaf, 0.35)
        network.connect(origin, fast, 0.01)
        network.connect(fast, leaf, 0.01)
        for node, peer in ((fast, leaf), (leaf, fast)):
            network.engines[node].control_received(peer, PRUNE)
        delays = []
        for number in range(12):
            network.broadcast(origin, payload(number))
            network.run_for(1)
            delays.append(network.delays(payload(number))[leaf])
        self.assertAlmostEqual(delays[0], 0.36, places=3)
        self.assertAlmostEqual(delays[-1], 0.02, places=3)
        self.assertEqual(network.snapshots()[leaf].eager, {fast})
        self.assert_symmetric(network)
