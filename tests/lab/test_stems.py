"""Dandelion++ in the lab, and what observers make of what they see."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Deliver, Effect, Send, SetTimer
from dig_gossip.lab.adversaries import Watch
from dig_gossip.lab.machine import PAYLOAD, as_peer
from dig_gossip.lab.models.frame import ModelFrame
from dig_gossip.lab.observers import MAX_HOPS, Sighting, StemGraph, first_spy, precision, recall
from dig_gossip.lab.run import run
from dig_gossip.lab.scenario import parse
from dig_gossip.lab.shell import peer_id
from dig_gossip.lab.stems import DandelionMachine, dandelion
from dig_gossip.lab.transactions import announcement_of, tx_id_of
from dig_gossip.lab.values import RunResult
from dig_gossip.privacy.dandelion import EMBARGO
from dig_gossip.wire.message import Message

SPIED = """
[overlay]
nodes = 40
links = 5
[dandelion]
epoch_secs = 86400
[[adversary]]
kind = "spy"
share = 0.2
[[phase]]
messages = 60
rate = 5
sizes = [300]
quiet_secs = 60
"""
TRANSACTION = Message(PAYLOAD, None, bytes(range(100)))


def simulate(protocol: str, extra: str = "") -> RunResult:
    """Run the scenario with spies."""
    return run(parse(SPIED + extra), protocol, 1)


class StemTests(SynchronousTestCase):
    """Whole runs."""

    def test_stems_hide_origins(self) -> None:
        """Spies are right less often than without stems, and everybody gets all.  PRV-002"""
        plain, hidden = simulate("erlay").facts, simulate("dandelion").facts
        self.assertEqual(hidden["delivered_share"], 1.0)
        self.assertEqual(hidden["repeated_deliveries"], 0.0)
        for figure in ("guessed_share", "first_spy_precision"):
            name = f"adversary.{figure}"
            self.assertLess(hidden[name], plain[name] / 2, figure)
        self.assertIn("adversary.graph_precision", hidden)
        self.assertNotIn("adversary.graph_precision", plain)

    def test_hops_of_the_stem_count_as_copies(self) -> None:
        """A stem carries the transaction itself.  PRV-002"""
        facts = simulate("dandelion").facts
        hops = facts["engine.stem_forwarded"]
        self.assertGreater(hops, 60)
        self.assertGreater(facts["redundancy"], 1.0)

    def test_swallowed_stems_end_by_embargo(self) -> None:
        """Black holes delay a transaction and do not stop it.  PRV-004"""
        extra = '[[adversary]]\nkind = "black-hole"\nshare = 0.2\n'
        scenario = SPIED.replace("quiet_secs = 60", "quiet_secs = 300")
        facts = run(parse(scenario + extra), "dandelion", 1).facts
        self.assertGreater(facts["engine.fluff_embargo"], 0)
        self.assertEqual(facts["delivered_share"], 1.0)


class MachineTests(SynchronousTestCase):
    """One node, with relay 1 that it dialed and peer 2 that dialed it."""

    def setUp(self) -> None:
        self.machine = self.make("")
        self.transaction = tx_id_of(TRANSACTION)

    def make(self, extra: str) -> DandelionMachine:
        """A machine with two links."""
        machine = dandelion(parse(extra), 0, lambda: 0.0, Random(1))
        machine.peer_up(as_peer(1), dialed=True, rtt=0.1)
        machine.peer_up(as_peer(2), dialed=False, rtt=0.1)
        return machine

    def sends(self, effects: list[Effect]) -> list[Send]:
        """What is sent."""
        return [effect for effect in effects if isinstance(effect, Send)]

    def test_a_stem_goes_to_one_relay_and_nobody_else(self) -> None:
        """Nothing is announced until the embargo is over.  PRV-002, PRV-004"""
        effects = self.machine.publish(TRANSACTION)
        (stem,) = self.sends(effects)
        assert isinstance(stem.message, ModelFrame)
        self.assertEqual((stem.peers, stem.message.payload), ((1,), TRANSACTION))
        self.assertFalse(self.machine.engine.is_pending(peer_id(2), self.transaction))
        self.assertIn((EMBARGO, self.transaction), [e.key for e in effects if type(e) is SetTimer])
        self.machine.timer_fired((EMBARGO, self.transaction))
        self.assertEqual(self.machine.fluffed, {self.transaction})
        self.assertTrue(self.machine.engine.is_pending(peer_id(2), self.transaction))

    def test_who_ends_a_stem_is_given_the_transaction_once(self) -> None:
        """And does not fetch it when others announce it.  PRV-003"""
        (stem,) = self.sends(self.machine.publish(TRANSACTION))
        relay = self.make("[dandelion]\nfluff_probability = 1\n")
        effects = relay.received(as_peer(2), stem.message)
        self.assertIn(Deliver(as_peer(2), TRANSACTION), effects)
        (told,) = self.sends(effects)
        self.assertEqual((told.peers, relay.fluffed), ((1,), set()))  # a herald, and nobody else
        later = relay.received(as_peer(1), announcement_of(TRANSACTION))
        self.assertEqual(relay.fluffed, {self.transaction})
        self.assertEqual([e for e in later if type(e) is Deliver], [])
        kinds = {send.message.type for send in self.sends(later)}
        self.assertLessEqual(kinds, {announcement_of(TRANSACTION).type})

    def test_relays_are_told_by_their_numbers(self) -> None:
        """Those that were needed.  design D10"""
        self.assertEqual(self.machine.relays(), [])
        self.machine.publish(TRANSACTION)
        self.assertEqual(self.machine.relays(), [1])


class ObserverTests(SynchronousTestCase):
    """Guesses and their scores."""

    def test_watch_keeps_the_first_of_each_kind(self) -> None:
        """A stem says more than an announcement.  PRV-001"""
        watch = Watch()
        transaction = tx_id_of(TRANSACTION)
        self.assertIsNone(first_spy(watch.of(TRANSACTION)))
        watch.saw(transaction, as_peer(1))
        watch.saw(transaction, as_peer(2))
        self.assertEqual(first_spy(watch.of(TRANSACTION)), 1)
        watch.saw(transaction, as_peer(3), on_stem=True)
        watch.saw(transaction, as_peer(4), on_stem=True)
        self.assertEqual(watch.of(TRANSACTION), Sighting(stem=3, announcer=1))

    def test_precision_and_recall(self) -> None:
        """By hand: node 1 sent two, node 2 and 3 one each.  PRV-001"""
        origins = {"a": 1, "b": 1, "c": 2, "d": 3}
        guesses = {"a": 1, "b": 2, "c": 2, "d": None}
        self.assertEqual(recall(origins, guesses), 0.5)
        self.assertEqual(precision(origins, guesses), (1 / 1 + 1 / 2 + 0) / 3)
        self.assertEqual((precision({}, {}), recall({}, {})), (0.0, 0.0))

    def test_the_graph_tells_who_may_have_sent_it(self) -> None:
        """On a line 1 - 2 - 3 - spy, nearer nodes are likelier.  PRV-001"""
        graph = StemGraph({1: [2], 2: [3], 3: [9], 4: [9]}, fluff=0.1)
        likely = graph.likely(Sighting(stem=3), accuracy=1.0)
        self.assertAlmostEqual(likely.sum(), 1.0)
        expected = [0.81, 0.9, 1.0, 0.0]
        self.assertEqual([round(each / likely[2], 3) for each in likely], expected)
        self.assertEqual(graph.guess(likely), 3)
        self.assertIsNone(graph.guess(graph.likely(Sighting(), accuracy=1.0)))

    def test_the_announcer_was_given_it(self) -> None:
        """A relay that ends a stem is not its origin.  PRV-003"""
        graph = StemGraph({1: [2], 2: [3], 3: [9]}, fluff=0.1)
        self.assertEqual(graph.guess(graph.likely(Sighting(announcer=2), accuracy=1.0)), 1)

    def test_who_waited_longest(self) -> None:
        """With swallowed stems the announcer was on them.  PRV-004"""
        graph = StemGraph({1: [2], 2: [3], 3: [9], 4: [3]}, fluff=0.1)
        sighting = Sighting(stem=3, announcer=2, delay=10.0)
        likely = graph.likely(sighting, accuracy=1.0, rates=[1 / 30] * MAX_HOPS)
        self.assertEqual(likely[3], 0.0)
        self.assertGreater(likely[1], likely[0])
