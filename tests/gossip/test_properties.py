"""Several engines under arbitrary interleavings, losses and repetitions; arbitrary bytes."""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise
from random import Random
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Deliver, Effect, Penalize, Send, SetTimer, TimerKey, Validate
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import PeerMode, Verdict
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message, message_hash
from tests.gossip.engine_case import TREE, A, B, C, D, EngineCase, attestation, peak, peer_id

_NODES = tuple(peer_id(f"node {number}") for number in range(5))
_MAX_SEEN, _MAX_CACHED = 1000, 4
_LIVE = PlumtreeConfig(cache_messages=_MAX_CACHED, first_wave_peers=1)

nodes = st.sampled_from(_NODES)
pairs = st.tuples(nodes, nodes).filter(lambda pair: pair[0] != pair[1])
modes = st.sampled_from([TREE, TREE, TREE, PeerMode.FLOOD, PeerMode.CHIA])


class PlumtreeMachine(RuleBasedStateMachine):
    """Five engines, and links on which frames wait until the machine decides their fate."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.engines = {
            node: Plumtree(
                _LIVE, fanout=2, max_seen=_MAX_SEEN, now=lambda: self.time, rng=Random(number)
            )
            for number, node in enumerate(_NODES)
        }
        self.sessions: dict[PeerId, dict[PeerId, PeerMode]] = {node: {} for node in _NODES}
        self.links: dict[tuple[PeerId, PeerId], deque[Message]] = {}
        self.timers: dict[tuple[PeerId, TimerKey], float] = {}
        self.validating: set[PeerId] = set()
        self.pending: list[tuple[PeerId, bytes]] = []
        self.delivered: Counter[tuple[PeerId, bytes]] = Counter()

    # --- the shell --------------------------------------------------------------------------

    def perform(self, node: PeerId, effects: list[Effect]) -> None:
        """Do what an engine wants, and check that it may want it."""
        for effect in effects:
            match effect:
                case Send(peers, message):
                    assert len(set(peers)) == len(peers) > 0
                    for peer in peers:
                        mode = self.sessions[node][peer]  # no effect names a stranger
                        assert message.type < 214 or mode is TREE
                        self.links[node, peer].append(message)
                case Deliver(_, message):
                    self.delivered[node, message_hash(message)] += 1
                case SetTimer(key, delay):
                    assert delay >= 0
                    self.timers[node, key] = self.time + delay
                case Validate(_, _, digest):
                    self.pending.append((node, digest))
                case Penalize():
                    raise AssertionError("an honest peer was charged")

    def arrive(self, sender: PeerId, node: PeerId, message: Message) -> None:
        """Hand a frame to an engine."""
        engine = self.engines[node]
        if message.type >= 214:
            self.perform(node, engine.control_received(sender, message))
        else:
            self.perform(node, engine.received(sender, message, node in self.validating))

    def open(self, a: PeerId, b: PeerId, mode: PeerMode) -> None:
        """Open a session at both ends."""
        for node, peer in ((a, b), (b, a)):
            self.sessions[node][peer] = mode
            self.links[node, peer] = deque()
            self.perform(node, self.engines[node].peer_up(peer, mode))

    # --- events -----------------------------------------------------------------------------

    @initialize(mode=modes)
    def begin(self, mode: PeerMode) -> None:
        """A ring, one link of which is of any kind."""
        for a, b in pairwise(_NODES):
            self.open(a, b, TREE)
        self.open(_NODES[-1], _NODES[0], mode)

    @rule(pair=pairs, mode=modes)
    def connect(self, pair: tuple[PeerId, PeerId], mode: PeerMode) -> None:
        """A session begins."""
        if pair[1] not in self.sessions[pair[0]]:
            self.open(*pair, mode)

    @rule(pair=pairs)
    def disconnect(self, pair: tuple[PeerId, PeerId]) -> None:
        """A session ends; what is in flight is lost."""
        for node, peer in (pair, pair[::-1]):
            if self.sessions[node].pop(peer, None) is not None:
                del self.links[node, peer]
                self.perform(node, self.engines[node].peer_down(peer))

    @rule(node=nodes, number=st.integers(0, 5), exclude=st.none() | nodes)
    def broadcast(self, node: PeerId, number: int, exclude: PeerId | None) -> None:
        """An application broadcasts, perhaps what others have broadcast."""
        message = peak(str(number)) if number % 2 else attestation(str(number))
        result = self.engines[node].broadcast(message, exclude)
        assert 0 <= result.announced <= len(self.sessions[node])
        self.perform(node, result.effects)

    @precondition(lambda self: any(self.links.values()))
    @rule(data=st.data(), fate=st.sampled_from(["arrive", "arrive", "arrive", "lose", "repeat"]))
    def frame(self, data: st.DataObject, fate: str) -> None:
        """The first frame of some link arrives, is lost, or arrives and stays."""
        busy = sorted(link for link, frames in self.links.items() if frames)
        sender, node = data.draw(st.sampled_from(busy))
        frames = self.links[sender, node]
        message = frames[0] if fate == "repeat" else frames.popleft()
        if fate != "lose":
            self.arrive(sender, node, message)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.6, 3.0, 61.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; timers fire late, which they may."""
        self.time += seconds
        for node, key in sorted(k for k, due in self.timers.items() if due <= self.time):
            del self.timers[node, key]
            self.perform(node, self.engines[node].timer_fired(key))

    @rule(node=nodes, key=st.sampled_from(["announce", "missing", "purge", "nonsense"]))
    def stray_timer(self, node: PeerId, key: str) -> None:
        """A timer fires that nobody set, or early."""
        self.perform(node, self.engines[node].timer_fired((key, b"")))

    @rule(pair=pairs, rtt=st.floats(0.001, 1.0), score=st.floats(0, 10))
    def measure(self, pair: tuple[PeerId, PeerId], rtt: float, score: float) -> None:
        """A round trip was measured."""
        self.perform(pair[0], self.engines[pair[0]].rtt_updated(pair[1], rtt, score))

    @rule(node=nodes)
    def toggle_validator(self, node: PeerId) -> None:
        """A validator is set, or removed."""
        self.validating ^= {node}

    @precondition(lambda self: self.pending)
    @rule(index=st.integers(0, 1000), verdict=st.sampled_from(Verdict))
    def decide(self, index: int, verdict: Verdict) -> None:
        """A validator decides, in any order."""
        node, digest = self.pending.pop(index % len(self.pending))
        self.perform(node, self.engines[node].validated(digest, verdict))

    @rule(node=nodes)
    def reconcile(self, node: PeerId) -> None:
        """The table and the engine agree already."""
        assert self.engines[node].reconcile(self.sessions[node]) == []

    # --- what must hold ---------------------------------------------------------------------

    @invariant()
    def sets_are_disjoint_and_complete(self) -> None:
        """Eager and lazy peers are the tree sessions, others are in neither set."""
        for node, engine in self.engines.items():
            snapshot = engine.snapshot()
            modes = self.sessions[node]
            assert not snapshot.eager & snapshot.lazy
            assert snapshot.eager | snapshot.lazy == {p for p in modes if modes[p] is TREE}
            assert snapshot.flood == {p for p in modes if modes[p] is PeerMode.FLOOD}
            assert snapshot.chia == {p for p in modes if modes[p] is PeerMode.CHIA}

    @invariant()
    def nothing_is_delivered_twice(self) -> None:
        """By no node, whatever sessions it came from."""
        assert all(count == 1 for count in self.delivered.values())

    @invariant()
    def tables_are_bounded(self) -> None:
        """Every table keeps its cap."""
        for engine in self.engines.values():
            snapshot = engine.snapshot()
            assert snapshot.cached <= _MAX_CACHED
            assert snapshot.seen <= _MAX_SEEN
            assert snapshot.missing <= 6
            assert snapshot.unannounced <= 6
            assert 0.1 <= snapshot.lazy_timeout <= 2.0

    def teardown(self) -> None:
        """Whatever happened: in a healed network new messages reach everybody, once.

        And both ends of a link agree on it, unless copies from outside the tree came first.
        """
        self.validating.clear()
        for a, b in pairwise(_NODES):
            if self.sessions[a].get(b) is not TREE:
                self.disconnect((a, b))
                self.open(a, b, TREE)
        for number in range(4):
            message = attestation(f"after all {number}")
            origin = _NODES[number % len(_NODES)]
            self.perform(origin, self.engines[origin].broadcast(message).effects)
            for _ in range(400):
                for (sender, node), frames in sorted(self.links.items()):
                    while frames:
                        self.arrive(sender, node, frames.popleft())
                self.wait(0.02)
            for node in _NODES:
                expected = 0 if node == origin else 1
                assert self.delivered[node, message_hash(message)] == expected
        snapshots = {node: engine.snapshot() for node, engine in self.engines.items()}
        if not any(snapshot.flood for snapshot in snapshots.values()):
            eager = {(node, peer) for node in _NODES for peer in snapshots[node].eager}
            assert eager == {(peer, node) for node, peer in eager}


class PlumtreeMachineTests(SynchronousTestCase):
    """The machine, as a test."""

    def test_any_interleaving_keeps_the_invariants(self) -> None:
        """Sets, tables, one delivery, and recovery.  PLT-004"""
        run_state_machine_as_test(PlumtreeMachine, settings=settings(stateful_step_count=40))


class HostileBytesTests(EngineCase):
    """Whatever a peer sends, the engine returns effects."""

    opcodes: ClassVar = st.integers(214, 217)

    def prepare(self) -> None:
        """An engine with some state."""
        self.build(fanout=2)
        self.peer_up(A, B, C)
        self.peer_up(D, mode=PeerMode.FLOOD)
        self.received(A, attestation("M"))

    @given(st.lists(st.tuples(st.sampled_from([A, B, C, D]), opcodes, st.binary(max_size=140))))
    def test_arbitrary_control_payloads_never_raise(
        self, frames: list[tuple[PeerId, int, bytes]]
    ) -> None:
        """They are done, ignored or charged.  PLT-009"""
        self.prepare()
        for peer, opcode, data in frames:
            for effect in self.control(peer, Message(opcode, None, data)):
                self.assertIsInstance(effect, (Send, Penalize))
            self.advance(0.3)
        self.assertEqual(self.engine.snapshot().flood, {D})

    @given(
        st.lists(st.tuples(st.sampled_from([A, B, D]), st.integers(0, 255), st.binary(max_size=9)))
    )
    def test_arbitrary_messages_are_delivered_at_most_once(
        self, frames: list[tuple[PeerId, int, bytes]]
    ) -> None:
        """Whatever opcode the router lets through.  PLT-004"""
        self.prepare()
        delivered: Counter[tuple[int, bytes]] = Counter()
        for peer, opcode, data in frames:
            for effect in self.received(peer, Message(opcode, None, data)):
                if isinstance(effect, Deliver):
                    delivered[effect.message.type, effect.message.data] += 1
        self.assertEqual(set(delivered.values()) - {1}, set())
