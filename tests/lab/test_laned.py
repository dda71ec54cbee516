"""Lanes in the lab: what overtakes what on an uplink that is full."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Effect, TimerKey
from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.laned import NORMAL_DELAY_SECS, LanedSimulator, lane_facts
from dig_gossip.lab.machine import PAYLOAD, as_peer
from dig_gossip.lab.recorder import FRAMING_BYTES
from dig_gossip.lab.run import run
from dig_gossip.lab.scenario import parse
from dig_gossip.lab.simulator import Simulator
from dig_gossip.lab.values import RunResult
from dig_gossip.types.peer import PeerId
from dig_gossip.types.sections import BackpressureConfig
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.lab.test_run import digest_of

BUSY = """
[overlay]
nodes = 30
links = 4
[network]
uplink_mbit = 20
[[phase]]
name = "warmup"
messages = 20
[[phase]]
name = "measured"
messages = 20
[bulk]
share = 0.5
"""
CHURN = "[churn]\nper_minute = 3\nredial_secs = 1\n"
URGENT = Message(PAYLOAD, None, bytes(100))
NORMAL = Message(ChiaMessageType.NEW_TRANSACTION, None, bytes(48))
BULK = Message(ChiaMessageType.RESPOND_BLOCKS, 1, bytes(300_000))
UPLINK = 1_000_000.0  # bytes a second
LATENCY = 0.05


class Ear:
    """A machine that notes what arrives when."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.heard: list[tuple[int, float]] = []
        self._now = now

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A link begins."""
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A link ends."""
        return []

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Nothing depends on it."""
        return []

    def publish(self, message: Message) -> list[Effect]:
        """Nothing is spread."""
        return []

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Note it."""
        self.heard.append((message.type, round(self._now(), 6)))
        return []

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """No timer is ever set."""
        return []

    def tree_links(self) -> int:
        """Of no interest."""
        return 0


def simulate(protocol: str, extra: str = "") -> RunResult:
    """Run the scenario with full uplinks."""
    return run(parse(BUSY + extra), protocol, 1)


def digest() -> str:
    """Name everything that a run with churn gives."""
    return digest_of(simulate("plumtree-lanes", CHURN))


class RunTests(SynchronousTestCase):
    """Whole runs."""

    def test_urgent_messages_are_faster_and_bulk_no_slower(self) -> None:
        """Than with one queue.  PRI-001, design D9"""
        laned, plain = simulate("plumtree-lanes").facts, simulate("plumtree").facts
        self.assertEqual(laned["delivered_share"], 1.0)
        self.assertLess(laned["p99"], plain["p99"] / 2)
        self.assertGreater(plain["bulk.mbit_a_node"], 10.0)
        self.assertGreater(laned["bulk.mbit_a_node"], 0.95 * plain["bulk.mbit_a_node"])

    def test_bulk_is_in_no_count_of_bytes(self) -> None:
        """It is there to be in the way.  design §6"""
        for protocol in ("plumtree-lanes", "plumtree"):
            self.assertLess(simulate(protocol).facts["bytes"], 5_000_000)

    def test_churn(self) -> None:
        """Links that go take with them what waited.  design §6"""
        facts = simulate("plumtree-lanes", CHURN).facts
        self.assertEqual(facts["repeated_deliveries"], 0.0)
        self.assertGreater(facts["delivered_share"], 0.95)

    def test_only_what_means_something_is_simulated(self) -> None:
        """Lanes know no losses; bulk needs an uplink to fill.  design §6"""
        for text in (
            "[network]\nloss = 0.1\n",
            '[[adversary]]\nkind = "slow-drip"\n',
        ):
            with self.assertRaises(InvalidConfig):
                run(parse(text), "plumtree-lanes", 1)
        with self.assertRaises(InvalidConfig):
            parse("[bulk]\nshare = 0.5\n")


class UplinkTests(SynchronousTestCase):
    """Node 0 sends to nodes 1 and 2."""

    def make(self, kind: Callable[..., Simulator], **options: BackpressureConfig) -> Simulator:
        """A star."""
        kinds = {PAYLOAD: "payload", int(NORMAL.type): "announcements"}
        simulator = kind(nodes=3, kinds=kinds, uplinks=[UPLINK] * 3, rng=Random(1), **options)
        self.ears = [Ear(lambda: simulator.now) for _ in range(3)]
        simulator.machines += self.ears
        for peer in (1, 2):
            simulator.connect(0, peer, LATENCY)
        self.done: list[float] = []
        return simulator

    def laned(self, levels: BackpressureConfig | None = None) -> LanedSimulator:
        """With lanes."""
        simulator = self.make(LanedSimulator, levels=levels or BackpressureConfig())
        assert isinstance(simulator, LanedSimulator)
        return simulator

    def seconds(self, size: int, frames: int = 1) -> float:
        """How long an uplink takes to send bytes in frames."""
        return (size + frames * FRAMING_BYTES) / UPLINK

    def test_one_queue_lets_nothing_overtake(self) -> None:
        """All of the bulk goes first.  design §6"""
        simulator = self.make(Simulator)
        simulator.occupy(0, 1, BULK, lambda: self.done.append(simulator.now))
        simulator.send(0, (as_peer(2),), URGENT)
        simulator.run_until(2.0)
        bulk = self.seconds(len(BULK))
        self.assertAlmostEqual(self.done[0], bulk + LATENCY)
        ((_, heard),) = self.ears[2].heard
        self.assertAlmostEqual(heard, bulk + self.seconds(len(URGENT)) + LATENCY)

    def test_an_urgent_message_waits_for_a_chunk_at_most(self) -> None:
        """To another peer; to the same one, for what the transport holds.  design D9"""
        for peer, most in ((2, 2 * 33_000), (1, 65_536 + 2 * 33_000)):
            simulator = self.laned()
            simulator.occupy(0, 1, BULK, lambda: self.done.append(0.0))
            simulator.send(0, (as_peer(peer),), URGENT)
            simulator.run_until(2.0)
            ((kind, heard),) = self.ears[peer].heard
            self.assertEqual(kind, PAYLOAD)
            self.assertLess(heard, LATENCY + most / UPLINK)
            self.assertEqual(self.done, [0.0])

    def test_bulk_arrives_whole(self) -> None:
        """In ten chunks, when the last of them is there.  design D9"""
        simulator = self.laned()
        simulator.occupy(0, 1, BULK, lambda: self.done.append(simulator.now))
        simulator.run_until(2.0)
        head = 10 * (12 + 6)
        expected = self.seconds(len(BULK) + head, frames=10) + LATENCY
        self.assertAlmostEqual(self.done[0], expected, places=6)

    def test_normal_messages_are_put_aside_and_come_later(self) -> None:
        """When the queue is deep, until it is not, or half a second is over.  PRI-008, BP-103-X"""
        levels = BackpressureConfig(
            tx_dedup_threshold=0, bulk_drop_threshold=0, normal_delay_threshold=0
        )
        simulator = self.laned(levels)
        simulator.send(0, (as_peer(1),), NORMAL)
        simulator.run_until(2.0)
        self.assertEqual(simulator.outcomes["delayed"], 1)
        ((_, heard),) = self.ears[1].heard
        self.assertAlmostEqual(heard, NORMAL_DELAY_SECS + self.seconds(len(NORMAL)) + LATENCY)
        self.assertEqual(lane_facts(simulator)["lanes.delayed"], 1.0)

    def test_what_waits_for_a_link_goes_with_it(self) -> None:
        """And holds up nobody else.  design §6"""
        simulator = self.laned()
        simulator.occupy(0, 1, BULK, lambda: self.done.append(0.0))
        simulator.disconnect(0, 1)
        simulator.send(0, (as_peer(1), as_peer(2)), URGENT)
        simulator.run_until(2.0)
        self.assertEqual((self.done, self.ears[1].heard), ([], []))
        self.assertEqual(len(self.ears[2].heard), 1)
        self.assertLess(self.ears[2].heard[0][1], LATENCY + 34_000 / UPLINK)
