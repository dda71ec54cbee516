"""ERLAY in the lab: the engine, the application around it, and bombs."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Deliver, Effect, Request, Send, SetTimer
from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.asking import Asking
from dig_gossip.lab.machine import PAYLOAD, as_peer
from dig_gossip.lab.models.announce import REQUEST_SECS
from dig_gossip.lab.models.frame import ModelFrame, frame
from dig_gossip.lab.run import run
from dig_gossip.lab.scenario import parse
from dig_gossip.lab.shell import peer_id
from dig_gossip.lab.transactions import announcement_of, erlay, tx_id_of
from dig_gossip.lab.values import RunResult
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType

BUSY = """
[overlay]
nodes = 30
links = 6
[[phase]]
name = "warmup"
messages = 40
rate = 20
[[phase]]
name = "measured"
messages = 60
rate = 20
sizes = [300]
quiet_secs = 20
"""
BOMBS = '[[adversary]]\nkind = "sketch-bomb"\nshare = 0.2\ndelay_secs = 0.2\n'
TRANSACTION = Message(PAYLOAD, None, bytes(range(100)))


def simulate(protocol: str, extra: str = "") -> RunResult:
    """Run the busy scenario."""
    return run(parse(BUSY + extra), protocol, 1)


class TransactionTests(SynchronousTestCase):
    """What a transaction costs, and what bombs change."""

    def test_every_transaction_is_fetched_once(self) -> None:
        """However it was announced.  ERL-002"""
        for protocol in ("erlay", "erlay-safety-net"):
            facts = simulate(protocol).facts
            self.assertEqual(facts["delivered_share"], 1.0, protocol)
            self.assertEqual((facts["redundancy"], facts["repeated_deliveries"]), (1.0, 0.0))

    def test_fewer_announcements_than_to_everybody(self) -> None:
        """That is what ERLAY is for.  ERL-001"""
        sent = {
            protocol: simulate(protocol).bytes["measured"]["announcements"]["frames"]
            for protocol in ("erlay", "announce")
        }
        self.assertLess(sent["erlay"], sent["announce"] / 2)

    def test_bombs_cost_bytes_and_nothing_else(self) -> None:
        """Sketches beyond one a second are declined, and everything arrives.  ERL-105-X"""
        calm, bombed = simulate("erlay"), simulate("erlay", BOMBS)
        self.assertEqual(calm.facts["engine.rounds_declined"], 0.0)
        self.assertGreater(bombed.facts["engine.rounds_declined"], 0.0)
        self.assertGreater(bombed.facts["engine.rounds_failed"], calm.facts["engine.rounds_failed"])
        self.assertEqual(bombed.facts["engine.rounds_violated"], 0.0)
        self.assertEqual(bombed.facts["delivered_share"], 1.0)
        self.assertEqual(bombed.facts["adversary.nodes"], 6.0)

    def test_churn(self) -> None:
        """Requests that nobody answers are given up, and others are asked.  ERL-004"""
        churn = "[churn]\nper_minute = 4\nsilent = 1\ndetect_secs = 20\naway_secs = 20\n"
        facts = simulate("erlay", churn).facts
        self.assertGreater(facts["engine.rounds_timed_out"], 0.0)
        self.assertGreater(facts["delivered_share"], 0.9)
        self.assertEqual(facts["repeated_deliveries"], 0.0)

    def test_bombs_speak_erlay_only(self) -> None:
        """Nothing is simulated that means nothing.  design §6"""
        for protocol, kind in (("plumtree", "sketch-bomb"), ("erlay", "liar")):
            with self.assertRaises(InvalidConfig):
                simulate(protocol, f'[[adversary]]\nkind = "{kind}"\n')

    def test_policy_is_the_protocols(self) -> None:
        """A key that would do nothing is refused.  CFG-102-X"""
        with self.assertRaisesRegex(InvalidConfig, "erlay.policy"):
            parse('[erlay]\npolicy = "safety_net"\n')


class ApplicationTests(SynchronousTestCase):
    """Fetching what was announced."""

    def setUp(self) -> None:
        self.machine = erlay(parse(""), 0, lambda: 0.0, Random(1))
        for peer in (1, 2):
            self.machine.peer_up(as_peer(peer), dialed=False, rtt=0.1)

    def announced_by(self, peer: int) -> list[Effect]:
        """Let a peer announce the transaction."""
        return self.machine.received(as_peer(peer), announcement_of(TRANSACTION))

    def test_the_next_announcer_is_asked(self) -> None:
        """When the first does not answer, and no sooner.  design §6"""
        first = self.announced_by(1)
        assert isinstance(first[0], Send)
        assert isinstance(first[1], SetTimer)
        self.assertEqual((first[0].peers, first[1].delay), ((1,), REQUEST_SECS))
        self.assertEqual(self.announced_by(2), [])
        second = self.machine.timer_fired(first[1].key)
        assert isinstance(second[0], Send)
        self.assertEqual(second[0].peers, (2,))

    def test_whoever_announces_later_is_asked_then(self) -> None:
        """If nobody was left.  design §6"""
        timer = self.announced_by(1)[1]
        assert isinstance(timer, SetTimer)
        self.assertEqual(self.machine.timer_fired(timer.key), [])
        again = self.announced_by(2)[0]
        assert isinstance(again, Send)
        self.assertEqual(again.peers, (2,))

    def test_only_what_is_here_is_announced_and_answered_for(self) -> None:
        """The engine waits for the transaction as for a validator.  PLT-104-X"""
        request = frame(int(ChiaMessageType.REQUEST_TRANSACTION), 40, tx_id_of(TRANSACTION))
        self.announced_by(1)
        self.assertEqual(self.machine.received(as_peer(2), request), [])
        self.assertFalse(self.machine.engine.is_pending(peer_id(2), tx_id_of(TRANSACTION)))
        answer = frame(int(ChiaMessageType.RESPOND_TRANSACTION), 100, payload=TRANSACTION)
        effects = self.machine.received(as_peer(1), answer)
        self.assertIn(Deliver(as_peer(1), TRANSACTION), effects)
        self.assertTrue(self.machine.engine.is_pending(peer_id(2), tx_id_of(TRANSACTION)))
        served = self.machine.received(as_peer(2), request)[0]
        assert isinstance(served, Send)
        assert isinstance(served.message, ModelFrame)
        self.assertIs(served.message.payload, TRANSACTION)


class AskingTests(SynchronousTestCase):
    """Requests and answers."""

    def setUp(self) -> None:
        self.asking = Asking()
        self.peer = peer_id(1)
        request = Request(self.peer, Message(211, None, b""), ("round", b"key"), 10.0)
        self.message, self.timer = self.asking.ask(request)

    def test_an_answer_is_taken_once_from_whom_was_asked(self) -> None:
        """Late ones, and those of others, are nobody's.  MSG-103-X"""
        self.assertIsNone(self.asking.answered(peer_id(2), self.message))
        self.assertIsNone(self.asking.answered(self.peer, Message(212, None, b"")))
        self.assertEqual(self.asking.answered(self.peer, self.message), ("round", b"key"))
        self.assertIsNone(self.asking.answered(self.peer, self.message))
        self.assertIsNone(self.asking.expired(self.timer.key))

    def test_no_answer_comes_in_time(self) -> None:
        """The timer says for which request.  MSG-103-X"""
        self.assertEqual(self.timer.delay, 10.0)
        self.assertEqual(self.asking.expired(self.timer.key), (self.peer, ("round", b"key")))
        self.assertIsNone(self.asking.answered(self.peer, self.message))

    def test_the_peer_is_gone(self) -> None:
        """Nothing of it is awaited any more.  MSG-103-X"""
        self.assertEqual(self.asking.lost(peer_id(2)), [])
        self.assertEqual(self.asking.lost(self.peer), [("round", b"key")])
        self.assertIsNone(self.asking.expired(self.timer.key))
