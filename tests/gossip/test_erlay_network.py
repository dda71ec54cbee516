"""Whole networks of transaction engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.constants import ERLAY_SAFETY_NET
from dig_gossip.effects import Effect, Reply, Send, SetTimer, TimerKey
from dig_gossip.gossip.erlay import Erlay
from dig_gossip.gossip.values import PeerMode, Verdict
from dig_gossip.testing.erlay_network import (
    ErlayNetwork,
    FloodingRelay,
    TransactionEngine,
    announcement,
)
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.types.sections import ErlayConfig
from dig_gossip.wire.erlay import ReconciliationResponse, ReconciliationStatus
from dig_gossip.wire.message import Message


class Hostile(FloodingRelay):
    """A peer that answers sketches in its own way.

    :param answer: the status and the rest of every 212; None for silence.
    """

    def __init__(self, answer: Callable[[Message], Message | None]) -> None:
        super().__init__()
        self._answer = answer

    def requested(self, peer: PeerId, message: Message) -> list[Effect]:
        """Answer."""
        answer = self._answer(message)
        return [] if answer is None else [Reply(peer, answer)]


def lie(status: int, size: int = 5, missing: tuple[int, ...] = ()) -> Callable[[Message], Message]:
    """Always the same answer."""
    body = bytes(ReconciliationResponse(status=status, set_size=size, missing=missing))
    return lambda message: Message(ReconciliationResponse.OPCODE, message.id, body)


class NetworkCase(SynchronousTestCase):
    """Words for networks."""

    def assert_spread(
        self, network: ErlayNetwork, names: Iterable[PeerId], messages: Iterable[Message]
    ) -> None:
        """Require that every node but the origin was given everything, once."""
        for message in messages:
            copies = network.copies(message)
            self.assertEqual(set(copies.values()), {1})
            missing = set(names) - set(copies)
            self.assertLessEqual(len(missing), 1, "only the origin lacks it")

    def assert_invariants(self, network: ErlayNetwork) -> None:
        """Require what the engine's docstring promises."""
        for name, node in network.nodes.items():
            if isinstance(node.engine, Erlay):
                snapshot = node.engine.snapshot()
                sessions = set(network.neighbors(name))
                self.assertLessEqual(len(snapshot.flooded), 1)
                self.assertEqual(snapshot.flooded & set(snapshot.pending), frozenset())
                everybody = snapshot.flooded | set(snapshot.pending) | snapshot.outside
                self.assertEqual(everybody, sessions)

    def spread(
        self, network: ErlayNetwork, names: list[PeerId], count: int, first: int = 0,
        gap: float = 0.1,
    ) -> list[Message]:  # fmt: skip
        """Let random nodes spread transactions."""
        messages = [announcement(number) for number in range(first, first + count)]
        for message in messages:
            network.broadcast(network.rng.choice(names), message)
            network.run_for(gap)
            self.assert_invariants(network)
        return messages


class ErlayNetworkTests(NetworkCase):
    """Honest and less honest networks."""

    def test_everybody_gets_everything_once(self) -> None:
        """30 nodes, and far fewer bytes than flooding.  ERL-002, ERL-005, PRF-005"""
        network = ErlayNetwork(seed=1)
        names = network.random_overlay(30, degree=10)
        messages = self.spread(network, names, 60)
        network.run_for(20)
        self.assert_spread(network, names, messages)
        self.assertEqual(network.penalties, [])
        flood = ErlayNetwork(seed=1, make_engine=lambda name: FloodingRelay())
        others = flood.random_overlay(30, degree=10)
        for message in messages:
            flood.broadcast(flood.rng.choice(others), message)
            flood.run_for(0.1)
        self.assert_spread(flood, others, messages)
        self.assertLess(network.traffic.announcements, flood.traffic.announcements / 3)

    def test_reconciliation_alone_suffices(self) -> None:
        """No flooding at all.  ERL-008"""
        network = ErlayNetwork(seed=2, config=ErlayConfig(flood_peer_count=0))
        names = network.random_overlay(12, degree=4)
        messages = self.spread(network, names, 20)
        network.run_for(40)
        self.assert_spread(network, names, messages)
        # Each transaction is announced to each node once, or little more.
        self.assertLess(network.traffic.announcements, 1.6 * 20 * 11)

    @given(st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50)), st.integers(0, 1))
    def test_two_sets_become_their_union(self, a: set[int], b: set[int], flooded: int) -> None:
        """Any two sets, whoever dials.  ERL-005"""
        network = ErlayNetwork(config=ErlayConfig(flood_peer_count=flooded))
        left, right = network.add_node(), network.add_node()
        network.connect(left, right)
        for name, numbers in ((left, a), (right, b)):
            for number in numbers:
                network.broadcast(name, announcement(number))
        network.run_for(30)
        for number in a | b:
            copies = network.copies(announcement(number))
            self.assertEqual(copies[left], number not in a, number)
            self.assertEqual(copies[right], number not in b, number)

    def test_large_differences_fall_back(self) -> None:
        """400 transactions that only one side has, and 400 that only the other has.  ERL-102-X"""
        network = ErlayNetwork(config=ErlayConfig(flood_peer_count=0))
        left, right = network.add_node(), network.add_node()
        network.connect(left, right)
        for number in range(400):
            network.broadcast(left, announcement(number))
            network.broadcast(right, announcement(1000 + number))
        network.run_for(60)
        for number in range(400):
            self.assertEqual(network.copies(announcement(number)), {right: 1})
            self.assertEqual(network.copies(announcement(1000 + number)), {left: 1})
        self.assertEqual(network.counters()["rounds_failed"], 2)

    def test_lost_frames(self) -> None:
        """A tenth of all frames is lost: rounds time out, and what remains finds its way.  ERL-004

        Sessions do not lose frames in truth; what loses announcements is a full queue.
        """
        network = ErlayNetwork(seed=4)
        names = network.random_overlay(20, degree=8)
        network.lose = lambda sender, receiver, message: network.rng.random() < 0.1
        messages = self.spread(network, names, 30)
        network.run_for(60)
        self.assert_spread(network, names, messages)
        self.assertGreater(network.counters()["rounds_timed_out"], 0)

    def test_sessions_that_end_and_begin(self) -> None:
        """A tenth of all sessions is replaced while transactions spread.  ERL-006"""
        network = ErlayNetwork(seed=5)
        names = network.random_overlay(20, degree=8)
        messages: list[Message] = []
        for turn in range(6):
            messages += self.spread(network, names, 8, first=8 * turn)
            for name in network.rng.sample(names, 3):
                peer = network.rng.choice(network.neighbors(name))
                network.disconnect(name, peer)
                others = [o for o in names if o != name and o not in network.neighbors(name)]
                network.connect(name, network.rng.choice(others), 0.05)
        network.run_for(30)
        self.assert_spread(network, names, messages)

    def test_rotation(self) -> None:
        """Flood sets change every minute, and nothing is lost or repeated.  ERL-006"""
        network = ErlayNetwork(seed=6)
        names = network.random_overlay(15, degree=6)
        before = [self.flooded(network, name) for name in names]
        messages = self.spread(network, names, 130, gap=1.0)
        network.run_for(20)
        self.assert_spread(network, names, messages)
        after = [self.flooded(network, name) for name in names]
        self.assertNotEqual(before, after)

    def flooded(self, network: ErlayNetwork, name: PeerId) -> frozenset[PeerId]:
        """Whom a node floods."""
        engine = network.nodes[name].engine
        assert isinstance(engine, Erlay)
        return engine.snapshot().flooded

    def test_peers_without_erlay(self) -> None:
        """Old nodes flood and are flooded; nobody sends them a sketch.  ERL-104-X"""
        network = ErlayNetwork(seed=7)
        names = network.random_overlay(10, degree=4)
        network._make_engine = lambda name: FloodingRelay()
        old = [network.add_node() for _ in range(4)]
        for node in old:
            for peer in network.rng.sample(names, 2):
                network.connect(node, peer, has_erlay=False, mode=PeerMode.FLOOD)
        messages = self.spread(network, [*names, *old], 20)
        network.run_for(20)
        self.assert_spread(network, [*names, *old], messages)
        self.assertEqual(network.penalties, [])

    def test_refused_transactions_go_nowhere(self) -> None:
        """A validator at every node stops what it refuses.  PLT-104-X"""
        network = ErlayNetwork(seed=8)
        names = network.random_overlay(12, degree=6)
        bad = announcement(99)
        network.validator = lambda m: Verdict.IGNORE if m == bad else Verdict.ACCEPT
        network.broadcast(names[0], bad)
        messages = self.spread(network, names, 10)
        network.run_for(20)
        self.assert_spread(network, names, messages)
        self.assertEqual(network.copies(bad), {})

    def test_safety_net_finds_what_the_tree_lost(self) -> None:
        """Plumtree carries, lost announcements come by comparing sets.  behaviour §22"""
        config = ErlayConfig(policy=ERLAY_SAFETY_NET)
        network = ErlayNetwork(seed=9, config=config)
        names = network.random_overlay(15, degree=6)
        messages = self.spread(network, names, 15)
        network.run_for(10)
        self.assert_spread(network, names, messages)
        late = max(max(network.delays(message).values()) for message in messages)
        self.assertLess(late, 1.5)  # simulated: nobody waited for a round
        victim = names[3]
        # Neither Plumtree's copies nor its announcements reach the victim; only rounds do.
        lost = announcement(500)
        until = network.time + 0.4
        network.lose = lambda sender, receiver, message: (
            receiver == victim
            and (message.type in range(214, 218) or (message.type == 21 and network.time < until))
        )
        network.broadcast(names[0], lost)
        network.run_for(30)
        self.assertEqual(network.copies(lost)[victim], 1)


class HostilePeerTests(NetworkCase):
    """Networks with peers that refuse, lie and stall."""

    def network_with(self, hostile: Callable[[], TransactionEngine]) -> ErlayNetwork:
        """Ten honest nodes; every one of them dials the hostile one, and some of the others."""
        network = ErlayNetwork(seed=11)
        names = network.random_overlay(10, degree=4)
        network._make_engine = lambda name: hostile()
        villain = network.add_node()
        for name in names:
            network.connect(name, villain)
        self.names = names
        return network

    def check(self, hostile: Callable[[], TransactionEngine]) -> ErlayNetwork:
        """Spread transactions in spite of the hostile node."""
        network = self.network_with(hostile)
        messages = self.spread(network, self.names, 20)
        network.run_for(40)
        self.assert_spread(network, self.names, messages)
        return network

    def test_silence(self) -> None:
        """Rounds with it time out; nobody else notices.  ERL-004"""
        network = self.check(lambda: Hostile(lambda message: None))
        self.assertGreater(network.counters()["rounds_timed_out"], 0)

    def test_refusal(self) -> None:
        """It declines for ever.  wire §13.3"""
        network = self.check(lambda: Hostile(lie(ReconciliationStatus.DECLINED, 0)))
        self.assertEqual(network.penalties, [])

    def test_lies(self) -> None:
        """It claims failure, success, endless extension, or nonsense.  wire §13.3"""
        for status, size, is_charged in (
            (ReconciliationStatus.FAILED, 4_000_000_000, False),
            (ReconciliationStatus.DECODED, 0, False),
            (ReconciliationStatus.EXTEND, 5, True),
            (77, 5, True),
        ):
            network = self.check(lambda s=status, n=size: Hostile(lie(s, n)))  # type: ignore[misc]
            reasons = {reason for _, _, reason in network.penalties}
            self.assertEqual(reasons, {PenaltyReason.PROTOCOL_VIOLATION} if is_charged else set())

    def test_garbage(self) -> None:
        """What cannot be read is charged as malformed.  wire §13.3"""
        network = self.check(lambda: Hostile(lambda m: Message(212, m.id, b"garbage")))
        reasons = {reason for _, _, reason in network.penalties}
        self.assertEqual(reasons, {PenaltyReason.MALFORMED_MESSAGE})

    def test_stolen_and_replayed_sketches(self) -> None:
        """A node that dials and sends noise, then the same again and again.  ERL-105-X"""
        network = ErlayNetwork(seed=12)
        names = network.random_overlay(8, degree=4)
        network._make_engine = lambda name: FloodingRelay()
        villain = network.add_node()
        for name in names:
            network.connect(villain, name)
        honest = ErlayNetwork(seed=13, config=ErlayConfig(flood_peer_count=0))
        pair = honest.random_overlay(2, degree=2)
        stolen: list[Message] = []

        def listen(sender: PeerId, receiver: PeerId, message: Message) -> bool:
            if message.type == 211:
                stolen.append(message)
            return False

        honest.lose = listen
        for number in range(30):
            honest.broadcast(pair[0], announcement(3000 + number))
        honest.run_for(10)
        messages = []
        for turn in range(40):
            for name in names:
                network.send(villain, name, stolen[0])
                network.send(villain, name, stolen[-1])
            if turn % 2:
                messages += self.spread(network, names, 1, first=turn)
            network.run_for(0.2)
        network.run_for(30)
        self.assert_spread(network, names, messages)
        counters = network.counters()
        self.assertGreater(counters["rounds_declined"], 0)
        # 8 nodes, about 40 s, one a second
        self.assertLess(counters["rounds_failed"] + counters["rounds_extended"], 8 * 45)


class KitTests(NetworkCase):
    """The network itself."""

    def test_same_seed_same_run(self) -> None:
        """Everything depends on the seed alone.  style §8.5"""
        runs = []
        for seed in (1, 1, 2):
            network = ErlayNetwork(seed=seed)
            names = network.random_overlay(8, degree=5)
            self.spread(network, names, 10)
            network.run_for(5)
            runs.append((network.traffic, network.counters()))
        self.assertEqual(runs[0], runs[1])
        self.assertNotEqual(runs[0], runs[2])

    def test_traffic_since(self) -> None:
        """Readings can be subtracted.  design §6"""
        network = ErlayNetwork(make_engine=lambda name: FloodingRelay())
        names = network.random_overlay(3, degree=2)
        self.assertEqual(network.broadcast(names[0], announcement(1)), 2)
        before = network.traffic
        network.run_for(1)
        self.assertEqual(network.broadcast(names[0], announcement(2)), 2)
        after = network.traffic.since(before)
        self.assertGreaterEqual(after.announcements, 2)
        self.assertEqual(after.total_bytes, 54 * after.announcements)

    def test_timers_are_replaced_and_cleared(self) -> None:
        """Only the last timer of a name fires.  style §4"""
        fired: list[TimerKey] = []

        class Engine(FloodingRelay):
            def timer_fired(self, key: TimerKey) -> list[Effect]:
                fired.append(key)
                return []

        network = ErlayNetwork(make_engine=lambda name: Engine())
        name = network.add_node()
        network.perform(name, [SetTimer(("x", b""), 1), SetTimer(("x", b""), 2)])
        network.perform(name, [Send((), announcement(1))])
        network.run_for(1.5)
        self.assertEqual(fired, [])
        network.run_for(1)
        self.assertEqual(fired, [("x", b"")])
