"""A network of gossip engines in memory: no sockets, no reactor, time that a seed reproduces.

Part of the test kit. It drives the real :class:`~dig_gossip.gossip.plumtree.Plumtree`, or
:class:`NaiveFlood` as its counterpart, over links with latency, and counts every byte::

    network = PlumtreeNetwork(seed=1)
    nodes = network.random_overlay(50, degree=8)
    message = Message(DigMessageType.NEW_ATTESTATION, None, b"hello")
    network.broadcast(nodes[0], message)
    network.run_for(2.0)
    assert network.copies(message) == {node: 1 for node in nodes[1:]}

What it leaves out: bandwidth, frames lost on a link that lives, WebSocket and TLS overhead.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from random import Random
from typing import Protocol

import attrs

from dig_gossip.effects import Deliver, Effect, Penalize, Ping, Send, SetTimer, TimerKey, Validate
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import BroadcastResult, PeerMode, PlumtreeSnapshot, Verdict
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import PLUMTREE_CONTROL


class GossipEngine(Protocol):
    """What a simulated node runs; the events of :class:`~dig_gossip.gossip.plumtree.Plumtree`."""

    def peer_up(
        self, peer: PeerId, mode: PeerMode, score: float = 0.0, *, speaks_first: bool = True
    ) -> list[Effect]:
        """A session begins."""

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A session ends."""

    def broadcast(self, message: Message, exclude: PeerId | None = None) -> BroadcastResult:
        """The application spreads a message."""

    def received(self, peer: PeerId, message: Message, needs_validation: bool) -> list[Effect]:
        """A full message comes."""

    def validated(self, message_hash: bytes, verdict: Verdict) -> list[Effect]:
        """A validator has decided."""

    def control_received(self, peer: PeerId, message: Message) -> list[Effect]:
        """A control frame comes."""

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """A timer fires."""


class NaiveFlood:
    """The counterpart: whatever is new goes to every session but the one it came from."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, None] = {}
        self._seen: set[bytes] = set()

    def peer_up(
        self, peer: PeerId, mode: PeerMode, score: float = 0.0, *, speaks_first: bool = True
    ) -> list[Effect]:
        """Take a session in."""
        self._peers[peer] = None
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a session."""
        self._peers.pop(peer, None)
        return []

    def broadcast(self, message: Message, exclude: PeerId | None = None) -> BroadcastResult:
        """Send to everybody."""
        self._seen.add(message_hash(message))
        return BroadcastResult([Send(tuple(self._peers), message)], 0)

    def received(self, peer: PeerId, message: Message, needs_validation: bool) -> list[Effect]:
        """Deliver and send on what is new."""
        digest = message_hash(message)
        if digest in self._seen:
            return []
        self._seen.add(digest)
        others = tuple([other for other in self._peers if other != peer])
        return [Deliver(peer, message), Send(others, message)]

    def validated(self, message_hash: bytes, verdict: Verdict) -> list[Effect]:
        """Nothing is ever validated."""
        return []

    def control_received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Nothing is ever controlled."""
        return []

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """No timer is ever set."""
        return []


@attrs.frozen
class Traffic:
    """What crossed the links: bytes of serialized messages, envelopes included.

    :ivar payload_frames: full messages, and ``payload_bytes`` what they took.
    :ivar control_frames: announcements, PRUNE, GRAFT and requests, and ``control_bytes``.
    """

    payload_frames: int = 0
    payload_bytes: int = 0
    control_frames: int = 0
    control_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All bytes."""
        return self.payload_bytes + self.control_bytes


class PlumtreeNetwork:
    """Nodes, links, and the events between them, in the order of a simulated clock.

    :param seed: of everything random.
    :param config: of every engine.
    :param fanout: of every engine.
    :param make_engine: builds something else than Plumtree for a node, for example
        ``lambda node: NaiveFlood()``.
    :ivar time: simulated seconds.
    :ivar rng: of the overlay, and for the scenario's own choices; engines have their own, so that
        two networks with one seed and different engines are alike.
    :ivar penalties: what engines charged, and whom.
    :ivar validator: asked at once for every message, if set.
    :ivar lose: decides for every frame (sender, receiver, message) whether it is lost.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        config: PlumtreeConfig | None = None,
        fanout: int = 8,
        make_engine: Callable[[PeerId], GossipEngine] | None = None,
    ) -> None:
        self.time = 0.0
        self.rng = Random(seed)
        self._seed = seed
        self.penalties: list[tuple[PeerId, PenaltyReason]] = []
        self.validator: Callable[[Message], Verdict] | None = None
        self.lose: Callable[[PeerId, PeerId, Message], bool] | None = None
        self.engines: dict[PeerId, GossipEngine] = {}
        self._config = config or PlumtreeConfig()
        self._fanout = fanout
        self._make_engine = make_engine or self._make_plumtree
        self._latency: dict[PeerId, dict[PeerId, float]] = {}
        self._dead: set[PeerId] = set()
        self._sequence = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._timers: dict[tuple[PeerId, TimerKey], int] = {}
        self._copies: dict[bytes, Counter[PeerId]] = {}
        self._sent_at: dict[bytes, float] = {}
        self._delays: dict[bytes, dict[PeerId, float]] = {}
        self._traffic = [0, 0, 0, 0]

    # --- the overlay ------------------------------------------------------------------------

    def add_node(self) -> PeerId:
        """Add a node without links."""
        number = len(self.engines)
        node = PeerId(sha256(b"node %d" % number).digest())
        self.engines[node] = self._make_engine(node)
        self._latency[node] = {}
        return node

    def connect(self, a: PeerId, b: PeerId, latency: float, mode: PeerMode = PeerMode.TREE) -> None:
        """Open a session between two nodes.

        :param latency: one way, seconds.
        :param mode: how each of the two sees the other.
        """
        for node, peer in ((a, b), (b, a)):
            self._latency[node][peer] = latency
            effects = self.engines[node].peer_up(peer, mode, speaks_first=node < peer)
            self._perform(node, effects)

    def disconnect(self, a: PeerId, b: PeerId) -> None:
        """Close a session; both ends notice, frames in flight are lost."""
        for node, peer in ((a, b), (b, a)):
            del self._latency[node][peer]
            if node not in self._dead:
                self._perform(node, self.engines[node].peer_down(peer))

    def random_overlay(
        self,
        nodes: int,
        degree: int,
        latency: tuple[float, float] = (0.01, 0.1),
        mode: PeerMode = PeerMode.TREE,
    ) -> list[PeerId]:
        """Add nodes with about ``degree`` links each: a connected sum of random rings.

        :param degree: even, 2 and up; less where two rings share a link.
        :param latency: range of the links' one-way latencies, seconds.
        :param mode: how each sees the others.
        """
        added = [self.add_node() for _ in range(nodes)]
        for _ in range(degree // 2):
            ring = self.rng.sample(added, nodes)
            for a, b in zip(ring, [*ring[1:], ring[0]], strict=True):
                if b not in self._latency[a]:
                    self.connect(a, b, self.rng.uniform(*latency), mode)
        return added

    def neighbors(self, node: PeerId) -> list[PeerId]:
        """The peers a node has sessions with, dead ones included."""
        return list(self._latency[node])

    def kill(self, node: PeerId) -> None:
        """Let a node fall silent; its neighbors do not notice."""
        self._dead.add(node)

    def detect(self, node: PeerId) -> None:
        """Let the neighbors of a dead node notice."""
        for peer in self.neighbors(node):
            self.disconnect(node, peer)

    # --- running ----------------------------------------------------------------------------

    def broadcast(self, node: PeerId, message: Message) -> int:
        """Let a node's application broadcast.

        :returns: what ``broadcast`` of the handle would return.
        """
        self._sent_at.setdefault(message_hash(message), self.time)
        result = self.engines[node].broadcast(message)
        self._perform(node, result.effects)
        reached = result.announced
        for effect in result.effects:
            if isinstance(effect, Send) and effect.message.data is message.data:
                reached += len(effect.peers)
        return reached

    def send(self, node: PeerId, peer: PeerId, message: Message) -> None:
        """Put a frame on a link, as if an engine had sent it."""
        latency = self._latency[node].get(peer)
        if latency is None:
            return
        column = 2 if message.type in PLUMTREE_CONTROL else 0
        self._traffic[column] += 1
        self._traffic[column + 1] += len(message)
        if self.lose is None or not self.lose(node, peer, message):
            self._at(self.time + latency, lambda: self._arrive(node, peer, message))

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        end = self.time + seconds
        while self._events and self._events[0][0] <= end:
            self.time, _, happen = heapq.heappop(self._events)
            happen()
        self.time = end

    def run_until_idle(self, limit: float = 600.0) -> None:
        """Let time pass until nothing is in flight and no timer is set.

        :raises AssertionError: that takes longer than ``limit`` seconds.
        """
        end = self.time + limit
        while self._events:
            if self._events[0][0] > end:
                raise AssertionError(f"still busy after {limit} s")
            self.run_for(self._events[0][0] - self.time)

    # --- results ----------------------------------------------------------------------------

    def copies(self, message: Message) -> Counter[PeerId]:
        """How often each node's application was given a message."""
        return self._copies.get(message_hash(message), Counter())

    def delays(self, message: Message) -> dict[PeerId, float]:
        """Seconds from the first broadcast of a message to each delivery."""
        return self._delays.get(message_hash(message), {})

    @property
    def traffic(self) -> Traffic:
        """All that was sent so far."""
        return Traffic(*self._traffic)

    def snapshots(self) -> dict[PeerId, PlumtreeSnapshot]:
        """The state of every living Plumtree engine."""
        return {
            node: engine.snapshot()
            for node, engine in self.engines.items()
            if isinstance(engine, Plumtree) and node not in self._dead
        }

    # --- internals --------------------------------------------------------------------------

    def _make_plumtree(self, node: PeerId) -> Plumtree:
        return Plumtree(
            self._config,
            fanout=self._fanout,
            max_seen=100_000,
            now=lambda: self.time,
            rng=Random(f"{self._seed} {node.hex()}"),
        )

    def _at(self, time: float, happen: Callable[[], None]) -> int:
        number = next(self._sequence)
        heapq.heappush(self._events, (time, number, happen))
        return number

    def _perform(self, node: PeerId, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peers, message):
                    for peer in peers:
                        self.send(node, peer, message)
                case Deliver(_, message):
                    digest = message_hash(message)
                    self._copies.setdefault(digest, Counter())[node] += 1
                    delay = self.time - self._sent_at.get(digest, self.time)
                    self._delays.setdefault(digest, {}).setdefault(node, delay)
                case SetTimer(key, delay):
                    self._set_timer(node, key, delay)
                case Validate(_, message, digest) if self.validator is not None:
                    verdict = self.validator(message)
                    self._perform(node, self.engines[node].validated(digest, verdict))
                case Penalize(peer, reason):
                    self.penalties.append((peer, reason))
                case Ping(peer):
                    self._ping(node, peer)

    def _ping(self, node: PeerId, peer: PeerId) -> None:
        """Measure a round trip, if the peer lives."""
        latency = self._latency[node].get(peer)
        if latency is None or peer in self._dead:
            return

        def pong() -> None:
            engine = self.engines[node]
            if isinstance(engine, Plumtree) and node not in self._dead:
                self._perform(node, engine.rtt_updated(peer, 2 * latency, 0.0))

        self._at(self.time + 2 * latency, pong)

    def _arrive(self, sender: PeerId, node: PeerId, message: Message) -> None:
        if node in self._dead or sender not in self._latency[node]:
            return
        engine = self.engines[node]
        if message.type in PLUMTREE_CONTROL:
            effects = engine.control_received(sender, message)
        else:
            effects = engine.received(sender, message, self.validator is not None)
        self._perform(node, effects)

    def _set_timer(self, node: PeerId, key: TimerKey, delay: float) -> None:
        def fire() -> None:
            if self._timers.get((node, key)) == number and node not in self._dead:
                del self._timers[node, key]
                self._perform(node, self.engines[node].timer_fired(key))

        number = self._at(self.time + delay, fire)
        self._timers[node, key] = number
