"""The simulated network of gossip engines."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.values import PeerMode, Verdict
from dig_gossip.testing.plumtree_network import NaiveFlood, PlumtreeNetwork, Traffic
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType

M = Message(DigMessageType.NEW_ATTESTATION, None, b"hello")


class PlumtreeNetworkTests(SynchronousTestCase):
    """Three nodes in a row."""

    def setUp(self) -> None:
        self.network = PlumtreeNetwork(seed=1)
        self.a, self.b, self.c = (self.network.add_node() for _ in range(3))
        self.network.connect(self.a, self.b, 0.1)
        self.network.connect(self.b, self.c, 0.2)

    def test_message_travels_at_the_links_speed(self) -> None:
        """Delays add up, copies and bytes are counted.  STR-005"""
        self.assertEqual(self.network.broadcast(self.a, M), 1)
        self.network.run_for(0.29)
        self.assertEqual(self.network.delays(M), {self.b: 0.1})
        self.network.run_for(1)
        self.assertEqual(self.network.copies(M), {self.b: 1, self.c: 1})
        self.assertAlmostEqual(self.network.delays(M)[self.c], 0.3)
        self.assertEqual(self.network.traffic, Traffic(2, 2 * len(M), 0, 0))
        self.assertEqual(self.network.traffic.total_bytes, 2 * len(M))

    def test_unknown_message_has_no_copies(self) -> None:
        """Nor delays.  STR-005"""
        self.assertEqual((self.network.copies(M), self.network.delays(M)), ({}, {}))

    def test_dead_node_is_silent(self) -> None:
        """Its neighbors do not notice before they are told.  STR-005"""
        self.network.kill(self.b)
        self.network.broadcast(self.a, M)
        self.network.run_for(5)
        self.assertEqual(self.network.copies(M), {})
        self.assertEqual(set(self.network.snapshots()), {self.a, self.c})
        self.assertEqual(self.network.snapshots()[self.a].eager, {self.b})
        self.network.detect(self.b)
        self.assertEqual(self.network.snapshots()[self.a].eager, set())
        self.assertEqual(self.network.neighbors(self.a), [])

    def test_timer_of_a_dead_node_does_not_fire(self) -> None:
        """The dead do nothing.  STR-005"""
        self.network.broadcast(self.a, M)
        self.network.kill(self.a)
        self.network.run_for(100)
        self.assertEqual(self.network.traffic.control_frames, 0)

    def test_frames_on_a_closed_link_are_lost(self) -> None:
        """As on a real one.  STR-005"""
        self.network.broadcast(self.a, M)
        self.network.disconnect(self.a, self.b)
        self.network.run_for(1)
        self.assertEqual(self.network.copies(M), {})

    def test_scenario_can_lose_frames(self) -> None:
        """They count as sent.  STR-005"""
        self.network.lose = lambda sender, receiver, message: receiver == self.c
        self.network.broadcast(self.a, M)
        self.network.run_for(1)
        self.assertEqual(self.network.copies(M), {self.b: 1})
        self.assertEqual(self.network.traffic.payload_frames, 2)

    def test_validator_decides_at_every_node(self) -> None:
        """What it rejects goes nowhere.  STR-005"""
        for verdict, reached in ((Verdict.REJECT, 0), (Verdict.ACCEPT, 2)):
            message = Message(DigMessageType.NEW_ATTESTATION, None, verdict.value.encode())
            self.network.validator = lambda _, verdict=verdict: verdict
            self.network.broadcast(self.a, message)
            self.network.run_for(1)
            self.assertEqual(len(self.network.copies(message)), reached)

    def test_charges_are_recorded(self) -> None:
        """Who was charged, and for what.  STR-005"""
        rogue = self.network.add_node()
        self.network.connect(rogue, self.a, 0.1)
        malformed = Message(DigMessageType.PLUMTREE_GRAFT, None, b"")
        self.network.send(rogue, self.a, malformed)
        self.network.run_for(1)
        self.assertEqual(self.network.penalties, [(rogue, PenaltyReason.MALFORMED_MESSAGE)])

    def test_frame_to_a_stranger_goes_nowhere(self) -> None:
        """There is no link to carry it.  STR-005"""
        self.network.send(self.a, self.c, M)
        self.assertEqual(self.network.traffic, Traffic())

    def test_waiting_for_silence(self) -> None:
        """It ends when nothing is in flight and no timer is set, or fails.  STR-005"""
        self.network.broadcast(self.a, M)
        self.assertRaises(AssertionError, self.network.run_until_idle, 0.1)
        self.network.run_until_idle()
        self.assertEqual(len(self.network.copies(M)), 2)

    def test_links_of_several_kinds(self) -> None:
        """A flooded session carries no announcement.  STR-005"""
        self.network.connect(self.a, self.c, 0.1, PeerMode.FLOOD)
        self.assertEqual(self.network.snapshots()[self.a].flood, {self.c})


class NaiveFloodTests(SynchronousTestCase):
    """The counterpart."""

    def overlay(self, flood: bool) -> tuple[PlumtreeNetwork, list[PeerId]]:
        """Twenty nodes."""
        make_engine = (lambda node: NaiveFlood()) if flood else None
        network = PlumtreeNetwork(seed=5, make_engine=make_engine)
        return network, network.random_overlay(20, degree=4)

    def test_flood_crosses_every_link_but_the_first_ones_back(self) -> None:
        """Each node sends to all its neighbors except where the message came from.  PRF-005"""
        network, nodes = self.overlay(flood=True)
        ends = sum(len(network.neighbors(node)) for node in nodes)
        self.assertEqual(network.broadcast(nodes[0], M), len(network.neighbors(nodes[0])))
        network.run_until_idle()
        self.assertEqual(network.copies(M), dict.fromkeys(nodes[1:], 1))
        self.assertEqual(network.traffic, Traffic(ends - 19, (ends - 19) * len(M), 0, 0))
        self.assertEqual(network.snapshots(), {})

    def test_same_seed_gives_the_same_overlay(self) -> None:
        """Whatever runs on it.  PRF-005"""
        (flood, nodes), (tree, others) = self.overlay(True), self.overlay(False)
        self.assertEqual(nodes, others)
        for node in nodes:
            self.assertEqual(flood.neighbors(node), tree.neighbors(node))
        for network in (flood, tree):
            network.broadcast(nodes[0], M)
            network.run_for(2)
        self.assertEqual(flood.delays(M), tree.delays(M))

    def test_flood_has_no_other_events(self) -> None:
        """A lost peer gets nothing; validators, control frames and timers do not exist.  PRF-005"""
        flood = NaiveFlood()
        network = PlumtreeNetwork()
        peer = network.add_node()
        flood.peer_up(peer, PeerMode.TREE)
        flood.peer_down(peer)
        self.assertEqual(flood.validated(bytes(32), Verdict.ACCEPT), [])
        self.assertEqual(flood.control_received(peer, M), [])
        self.assertEqual(flood.timer_fired(("any", b"")), [])
        (effect,) = flood.broadcast(M).effects
        self.assertEqual(effect[0], ())
