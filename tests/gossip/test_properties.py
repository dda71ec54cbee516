"""Several engines under arbitrary interleavings, losses and repetitions; arbitrary bytes."""

from __future__ import annotations

from collections import Counter, deque
from itertools import combinations, pairwise
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

from dig_gossip.effects import Deliver, Effect, Penalize, Ping, Send, SetTimer, TimerKey, Validate
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.tagged_openings import MAX_TREES
from dig_gossip.gossip.values import PeerMode, Verdict
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message, message_hash
from tests.gossip.engine_case import (
    TREE,
    A,
    B,
    C,
    D,
    E,
    EngineCase,
    F,
    attestation,
    peak,
    peer_id,
)
from tests.gossip.trees_case import TREES, opening, pull, tagged, tell, tree_graft, tree_prune

_NODES = tuple(peer_id(f"node {number}") for number in range(5))
_MAX_SEEN, _MAX_CACHED = 1000, 4
_LIVE = PlumtreeConfig(cache_messages=_MAX_CACHED, first_wave_peers=1)

nodes = st.sampled_from(_NODES)
pairs = st.tuples(nodes, nodes).filter(lambda pair: pair[0] != pair[1])
modes = st.sampled_from([TREE, TREE, TREES, TREES, PeerMode.FLOOD, PeerMode.CHIA])
_IN_TREE = (TREE, TREES)
_TIMERS = sorted(Plumtree.names)
#: What peers with trees may say of any of three tags and three messages.
_tags = st.integers(1, 3)
_few = st.integers(0, 2).map(lambda number: number_th(number))
tree_frames = st.one_of(
    st.builds(opening, _tags, st.sampled_from([0, 20, 65_535])),
    st.builds(tree_prune, _tags),
    st.builds(tree_graft, _tags),
    st.builds(pull, _few),
    st.builds(tell, _few),
    st.builds(tagged, _few, _tags),
)


def number_th(number: int) -> Message:
    """One of the messages that applications broadcast."""
    return peak(str(number)) if number % 2 else attestation(str(number))


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
        self.pinged: set[tuple[PeerId, PeerId]] = set()
        self.is_strange = False

    # --- the shell --------------------------------------------------------------------------

    def perform(self, node: PeerId, effects: list[Effect]) -> None:
        """Do what an engine wants, and check that it may want it."""
        for effect in effects:
            match effect:
                case Send(peers, message):
                    assert len(set(peers)) == len(peers) > 0
                    for peer in peers:
                        mode = self.sessions[node][peer]  # no effect names a stranger
                        assert message.type < 214 or mode in _IN_TREE
                        assert (message.type < 242 and message.id is None) or mode is TREES
                        assert message.id != 0
                        self.links[node, peer].append(message)
                case Deliver(_, message):
                    assert message.id is None
                    self.delivered[node, message_hash(message)] += 1
                case SetTimer(key, delay):
                    assert delay >= 0
                    self.timers[node, key] = self.time + delay
                case Validate(_, _, digest):
                    self.pending.append((node, digest))
                case Ping(peer):
                    assert self.sessions[node][peer] is TREES
                    self.pinged.add((node, peer))
                case Penalize():
                    raise AssertionError("an honest peer was charged")

    def arrive(self, sender: PeerId, node: PeerId, message: Message) -> None:
        """Hand a frame to an engine."""
        engine = self.engines[node]
        if message.type >= 214:
            self.perform(node, engine.control_received(sender, message))
        else:
            self.perform(node, engine.received(sender, message, node in self.validating))

    def settle(self) -> None:
        """Let everything arrive, and eight seconds pass."""
        for _ in range(400):
            for (sender, node), frames in sorted(self.links.items()):
                while frames:
                    self.arrive(sender, node, frames.popleft())
            self.wait(0.02)

    def open(self, a: PeerId, b: PeerId, mode: PeerMode) -> None:
        """Open a session at both ends."""
        for node, peer in ((a, b), (b, a)):
            self.sessions[node][peer] = mode
            self.links[node, peer] = deque()
            effects = self.engines[node].peer_up(peer, mode, speaks_first=node < peer)
            self.perform(node, effects)

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
        message = number_th(number)
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

    @rule(node=nodes, key=st.sampled_from([*_TIMERS, "nonsense"]))
    def stray_timer(self, node: PeerId, key: str) -> None:
        """A timer fires that nobody set, or early."""
        self.perform(node, self.engines[node].timer_fired((key, b"")))

    @rule(pair=pairs, rtt=st.floats(0.001, 1.0), score=st.floats(0, 10))
    def measure(self, pair: tuple[PeerId, PeerId], rtt: float, score: float) -> None:
        """A round trip was measured."""
        self.perform(pair[0], self.engines[pair[0]].rtt_updated(pair[1], rtt, score))

    @precondition(lambda self: self.pinged)
    @rule(data=st.data(), lives=st.booleans(), rtt=st.floats(0.001, 1.0))
    def pong(self, data: st.DataObject, lives: bool, rtt: float) -> None:
        """A ping is answered, or never."""
        node, peer = data.draw(st.sampled_from(sorted(self.pinged)))
        self.pinged.remove((node, peer))
        if lives:
            self.perform(node, self.engines[node].rtt_updated(peer, rtt, 0.0))

    @rule(pair=pairs, frame=tree_frames)
    def strange_frame(self, pair: tuple[PeerId, PeerId], frame: Message) -> None:
        """A peer says what it has no reason to say."""
        if self.sessions[pair[0]].get(pair[1]) is TREES:
            self.is_strange = True
            self.links[pair].append(frame)

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
        table = {peer: (mode, True) for peer, mode in self.sessions[node].items()}
        assert self.engines[node].reconcile(table) == []

    # --- what must hold ---------------------------------------------------------------------

    @invariant()
    def sets_are_disjoint_and_complete(self) -> None:
        """Eager and lazy peers are the tree sessions, others are in neither set."""
        for node, engine in self.engines.items():
            snapshot = engine.snapshot()
            modes = self.sessions[node]
            assert not snapshot.eager & snapshot.lazy
            assert snapshot.eager | snapshot.lazy == {p for p in modes if modes[p] in _IN_TREE}
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
            assert snapshot.missing <= 2 * 6  # by the hash, and by the short one
            assert snapshot.unannounced <= 2 * 6
            assert snapshot.trees <= MAX_TREES
            assert 0.1 <= snapshot.lazy_timeout <= 2.0

    @invariant()
    def trees_lead_to_peers(self) -> None:
        """Nobody is eager, asked, silent or listed in a tree who has no trees."""
        for node, engine in self.engines.items():
            tagged, modes = engine._tagged, self.sessions[node]
            peers = {peer for peer in modes if modes[peer] is TREES}
            assert set(tagged.peers) == peers
            assert tagged._silence._silent | set(tagged._silence._asked) <= peers
            for tree in tagged._trees.values():
                assert set(tree.eager) | set(tree.offers) <= peers

    def teardown(self) -> None:
        """Whatever happened: in a healed network new messages reach everybody, once.

        And both ends of a link agree on it, unless copies from outside the tree came first, or
        messages ran in other trees. What is still under way arrives first: it could push new ones
        out of caches that hold four.
        """
        self.validating.clear()
        for a, b in pairwise(_NODES):
            if self.sessions[a].get(b) not in _IN_TREE:
                self.disconnect((a, b))
                self.open(a, b, TREE)
        self.settle()
        for number in range(4):
            message = attestation(f"after all {number}")
            origin = _NODES[number % len(_NODES)]
            self.perform(origin, self.engines[origin].broadcast(message).effects)
            self.settle()
            for node in _NODES:
                expected = 0 if node == origin else 1
                assert self.delivered[node, message_hash(message)] == expected
        snapshots = {node: engine.snapshot() for node, engine in self.engines.items()}
        if self.is_strange or any(each.flood or each.trees for each in snapshots.values()):
            return
        eager = {(node, peer) for node in _NODES for peer in snapshots[node].eager}
        assert eager == {(peer, node) for node, peer in eager}


class TreesMachine(PlumtreeMachine):
    """Everybody has trees with everybody, so that the engines open some."""

    @initialize(mode=modes)
    def begin(self, mode: PeerMode) -> None:
        """A complete graph, but for one link, which is of any kind."""
        links = list(combinations(_NODES, 2))
        for a, b in links[1:]:
            self.open(a, b, TREES)
        self.open(*links[0], mode)


class PlumtreeMachineTests(SynchronousTestCase):
    """The machines, as tests."""

    def test_any_interleaving_keeps_the_invariants(self) -> None:
        """Sets, tables, one delivery, and recovery.  PLT-004"""
        run_state_machine_as_test(PlumtreeMachine, settings=settings(stateful_step_count=40))

    def test_any_interleaving_among_nodes_with_trees_keeps_the_invariants(self) -> None:
        """The same, and no tree leads to a stranger.  design D6"""
        run_state_machine_as_test(TreesMachine, settings=settings(stateful_step_count=40))


class HostileBytesTests(EngineCase):
    """Whatever a peer sends, the engine returns effects."""

    opcodes: ClassVar = st.integers(214, 217) | st.integers(242, 245)
    peers: ClassVar = st.sampled_from([A, B, C, D, E, F])
    ids: ClassVar = st.none() | st.integers(0, 65_535)

    def prepare(self) -> None:
        """An engine with some state."""
        self.build(fanout=2)
        self.peer_up(A, B, C)
        self.peer_up(D, mode=PeerMode.FLOOD)
        self.peer_up(E, F, mode=TREES)
        self.received(A, attestation("M"))
        self.received(E, tagged(attestation("N"), 1))

    @given(st.lists(st.tuples(peers, opcodes, st.binary(max_size=140))))
    def test_arbitrary_control_payloads_never_raise(
        self, frames: list[tuple[PeerId, int, bytes]]
    ) -> None:
        """They are done, ignored or charged.  PLT-009"""
        self.prepare()
        for peer, opcode, data in frames:
            for effect in self.control(peer, Message(opcode, None, data)):
                self.assertIsInstance(effect, (Send, Penalize, Ping))
            self.advance(0.3)
        self.assertEqual(self.engine.snapshot().flood, {D})

    @given(st.lists(st.tuples(peers, st.integers(0, 255), ids, st.binary(max_size=9))))
    def test_arbitrary_messages_are_delivered_at_most_once(
        self, frames: list[tuple[PeerId, int, int | None, bytes]]
    ) -> None:
        """Whatever opcode and id the router lets through.  PLT-004"""
        self.prepare()
        delivered: Counter[tuple[int, bytes]] = Counter()
        for peer, opcode, tag, data in frames:
            for effect in self.received(peer, Message(opcode, tag, data)):
                if isinstance(effect, Send) and effect.message.id is not None:
                    self.assertLessEqual(set(effect.peers), {E, F})
                if isinstance(effect, Deliver):
                    self.assertIsNone(effect.message.id)
                    delivered[effect.message.type, effect.message.data] += 1
        self.assertEqual(set(delivered.values()) - {1}, set())
