"""A network of transaction engines in memory: no sockets, no reactor, reproducible time.

Part of the test kit. It drives the real :class:`~dig_gossip.gossip.erlay.Erlay`, or
:class:`FloodingRelay` as its counterpart, over links with latency, and counts every byte::

    network = ErlayNetwork(seed=1)
    nodes = network.random_overlay(50, degree=8)
    message = announcement(1)
    network.broadcast(nodes[0], message)
    network.run_for(20.0)
    assert network.copies(message) == {node: 1 for node in nodes[1:]}

What it leaves out: bandwidth, the queues and rate limits of sessions, WebSocket and TLS overhead.
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

from dig_gossip.constants import ERLAY_SAFETY_NET
from dig_gossip.effects import (
    ClearTimer,
    Deliver,
    Effect,
    Penalize,
    Reply,
    Request,
    Send,
    SetTimer,
    TimerKey,
    Validate,
)
from dig_gossip.gossip.erlay import Erlay
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import BroadcastResult, PeerMode, Verdict
from dig_gossip.lab.asking import ASKED, Asking
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.types.sections import ErlayConfig
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType


def announcement(number: int, fees: int = 1) -> Message:
    """The ``NewTransaction`` of a transaction that nobody has to know."""
    tx_id = sha256(b"transaction %d" % number).digest()
    body = tx_id + (1_000_000).to_bytes(8, "big") + fees.to_bytes(8, "big")
    return Message(ChiaMessageType.NEW_TRANSACTION, None, body)


class TransactionEngine(Protocol):
    """What a simulated node runs; the events of :class:`~dig_gossip.gossip.erlay.Erlay`."""

    def peer_up(
        self, peer: PeerId, mode: PeerMode, *, has_erlay: bool, is_outbound: bool
    ) -> list[Effect]:
        """A session begins."""

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A session ends."""

    def broadcast(self, message: Message, exclude: PeerId | None = None) -> BroadcastResult:
        """The application spreads an announcement."""

    def received(self, peer: PeerId, message: Message, needs_validation: bool) -> list[Effect]:
        """An announcement comes."""

    def validated(self, message_hash: bytes, verdict: Verdict) -> list[Effect]:
        """A validator has decided."""

    def requested(self, peer: PeerId, message: Message) -> list[Effect]:
        """A request comes."""

    def answered(self, peer: PeerId, key: TimerKey, answer: Message | None) -> list[Effect]:
        """An answer comes, or does not."""

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """A timer fires."""


class FloodingRelay:
    """The counterpart: what is new is announced to every session that is not known to have it."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, set[bytes]] = {}
        self._seen: set[bytes] = set()

    def peer_up(
        self, peer: PeerId, mode: PeerMode, *, has_erlay: bool, is_outbound: bool
    ) -> list[Effect]:
        """Take a session in."""
        self._peers.setdefault(peer, set())
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a session."""
        self._peers.pop(peer, None)
        return []

    def broadcast(self, message: Message, exclude: PeerId | None = None) -> BroadcastResult:
        """Announce to everybody."""
        self._seen.add(message.data)
        return BroadcastResult(self._announce(message), 0)

    def received(self, peer: PeerId, message: Message, needs_validation: bool) -> list[Effect]:
        """Deliver and announce what is new."""
        if peer in self._peers:
            self._peers[peer].add(message.data)
        if message.data in self._seen:
            return []
        self._seen.add(message.data)
        return [Deliver(peer, message), *self._announce(message)]

    def validated(self, message_hash: bytes, verdict: Verdict) -> list[Effect]:
        """Nothing is ever validated."""
        return []

    def requested(self, peer: PeerId, message: Message) -> list[Effect]:
        """Nothing is ever asked."""
        return []

    def answered(self, peer: PeerId, key: TimerKey, answer: Message | None) -> list[Effect]:
        """Nothing is ever answered."""
        return []

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """No timer is ever set."""
        return []

    def _announce(self, message: Message) -> list[Effect]:
        peers = tuple(peer for peer, known in self._peers.items() if message.data not in known)
        return [Send(peers, message)] if peers else []


@attrs.frozen
class Traffic:
    """What crossed the links: bytes of serialized messages, envelopes included.

    :ivar announcements: ``NewTransaction`` frames, and ``announcement_bytes`` what they took.
    :ivar controls: all other frames, and ``control_bytes``.
    """

    announcements: int = 0
    announcement_bytes: int = 0
    controls: int = 0
    control_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All bytes."""
        return self.announcement_bytes + self.control_bytes

    def since(self, earlier: Traffic) -> Traffic:
        """What was added after another reading."""
        return Traffic(
            *(
                new - old
                for new, old in zip(attrs.astuple(self), attrs.astuple(earlier), strict=True)
            )
        )


@attrs.define
class Node:
    """One simulated node.

    :ivar carrier: carries transactions, under the policy ``safety_net``.
    """

    engine: TransactionEngine
    carrier: Plumtree | None = None
    asking: Asking = attrs.Factory(Asking)


class ErlayNetwork:
    """Nodes, links, and the events between them, in the order of a simulated clock.

    :param seed: of everything random.
    :param config: of every engine.
    :param make_engine: builds something else than ERLAY for a node, for example
        ``lambda node: FloodingRelay()``.
    :ivar time: simulated seconds.
    :ivar rng: of the overlay, and for the scenario's own choices; engines have their own.
    :ivar penalties: what engines charged: by whom, whom, and why.
    :ivar validator: asked at once for every announcement, if set.
    :ivar lose: decides for every frame (sender, receiver, message) whether it is lost.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        config: ErlayConfig | None = None,
        make_engine: Callable[[PeerId], TransactionEngine] | None = None,
    ) -> None:
        self.time = 0.0
        self.rng = Random(seed)
        self.nodes: dict[PeerId, Node] = {}
        self.penalties: list[tuple[PeerId, PeerId, PenaltyReason]] = []
        self.validator: Callable[[Message], Verdict] | None = None
        self.lose: Callable[[PeerId, PeerId, Message], bool] | None = None
        self._seed = seed
        self._config = config or ErlayConfig()
        self._make_engine = make_engine
        self._latency: dict[PeerId, dict[PeerId, float]] = {}
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
        name = PeerId(sha256(b"node %d" % len(self.nodes)).digest())
        self.nodes[name] = self._make_node(name)
        self._latency[name] = {}
        return name

    def connect(
        self,
        dialer: PeerId,
        acceptor: PeerId,
        latency: float = 0.05,
        *,
        has_erlay: bool = True,
        mode: PeerMode = PeerMode.TREE,
    ) -> None:
        """Open a session between two nodes.

        :param latency: one way, seconds.
        :param has_erlay: both advertise capability 202.
        :param mode: how each of the two sees the other.
        """
        for name, peer, is_outbound in ((dialer, acceptor, True), (acceptor, dialer, False)):
            self._latency[name][peer] = latency
            node = self.nodes[name]
            if node.carrier is not None:
                self.perform(name, node.carrier.peer_up(peer, mode))
            self.perform(
                name,
                node.engine.peer_up(peer, mode, has_erlay=has_erlay, is_outbound=is_outbound),
            )

    def disconnect(self, a: PeerId, b: PeerId) -> None:
        """Close a session; both ends notice, frames in flight are lost."""
        for name, peer in ((a, b), (b, a)):
            self._latency[name].pop(peer, None)
            node = self.nodes[name]
            for key in node.asking.lost(peer):
                self.perform(name, node.engine.answered(peer, key, None))
            if node.carrier is not None:
                self.perform(name, node.carrier.peer_down(peer))
            self.perform(name, node.engine.peer_down(peer))

    def random_overlay(
        self, nodes: int, degree: int, latency: tuple[float, float] = (0.01, 0.1)
    ) -> list[PeerId]:
        """Add nodes of which each dials ``degree / 2`` others, so that it has about ``degree``.

        :param degree: even or odd, below ``nodes``; odd: every second node dials one more.
        :param latency: range of the links' one-way latencies, seconds.
        """
        added = [self.add_node() for _ in range(nodes)]
        for index, name in enumerate(added):
            wanted = degree // 2 + (degree % 2 and index % 2)
            others = [other for other in added if other != name]
            self.rng.shuffle(others)
            for other in others:
                if wanted == 0:
                    break
                if other not in self._latency[name]:
                    self.connect(name, other, self.rng.uniform(*latency))
                    wanted -= 1
        return added

    def neighbors(self, name: PeerId) -> list[PeerId]:
        """The peers a node has sessions with."""
        return list(self._latency[name])

    # --- running ----------------------------------------------------------------------------

    def broadcast(self, name: PeerId, message: Message) -> int:
        """Let a node's application spread a transaction.

        :returns: what ``broadcast`` of the handle would return.
        """
        self._sent_at.setdefault(message.data, self.time)
        result = self.nodes[name].engine.broadcast(message)
        self.perform(name, result.effects)
        sends = [effect for effect in result.effects if isinstance(effect, Send)]
        return result.announced + sum(len(effect.peers) for effect in sends)

    def send(self, name: PeerId, peer: PeerId, message: Message) -> None:
        """Put a frame on a link, as if an engine had sent it."""
        latency = self._latency[name].get(peer)
        if latency is None:
            return
        column = 0 if message.type == ChiaMessageType.NEW_TRANSACTION else 2
        self._traffic[column] += 1
        self._traffic[column + 1] += len(message)
        if self.lose is None or not self.lose(name, peer, message):
            self._at(self.time + latency, lambda: self._arrive(name, peer, message))

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        end = self.time + seconds
        while self._events and self._events[0][0] <= end:
            self.time, _, happen = heapq.heappop(self._events)
            happen()
        self.time = end

    def perform(self, name: PeerId, effects: list[Effect]) -> None:
        """Do what an engine wants done."""
        for effect in effects:
            match effect:
                case Send(peers, message):
                    for peer in peers:
                        self.send(name, peer, message)
                case Request(peer):
                    message, timer = self.nodes[name].asking.ask(effect)
                    self.send(name, peer, message)
                    self._set_timer(name, timer.key, timer.delay)
                case Reply(peer, message):
                    self.send(name, peer, message)
                case Deliver(_, message):
                    self._copies.setdefault(message.data, Counter())[name] += 1
                    delay = self.time - self._sent_at.get(message.data, self.time)
                    self._delays.setdefault(message.data, {}).setdefault(name, delay)
                case SetTimer(key, delay):
                    self._set_timer(name, key, delay)
                case ClearTimer(key):
                    self._timers.pop((name, key), None)
                case Validate(_, message, digest) if self.validator is not None:
                    verdict = self.validator(message)
                    self.perform(name, self.nodes[name].engine.validated(digest, verdict))
                case Penalize(peer, reason):
                    self.penalties.append((name, peer, reason))

    # --- results ----------------------------------------------------------------------------

    def copies(self, message: Message) -> Counter[PeerId]:
        """How often each node's application was given a transaction."""
        return self._copies.get(message.data, Counter())

    def delays(self, message: Message) -> dict[PeerId, float]:
        """Seconds from the first broadcast of a transaction to each delivery."""
        return self._delays.get(message.data, {})

    @property
    def traffic(self) -> Traffic:
        """All that was sent so far."""
        return Traffic(*self._traffic)

    def counters(self) -> Counter[str]:
        """What all ERLAY engines have counted, together."""
        total: Counter[str] = Counter()
        for node in self.nodes.values():
            if isinstance(node.engine, Erlay):
                total.update(attrs.asdict(node.engine.counters))
        return total

    # --- internals --------------------------------------------------------------------------

    def _make_node(self, name: PeerId) -> Node:
        if self._make_engine is not None:
            return Node(self._make_engine(name))

        def now() -> float:
            return self.time

        rng = Random(f"{self._seed} {name.hex()}")
        carrier = None
        if self._config.policy == ERLAY_SAFETY_NET:
            carrier = Plumtree(PlumtreeConfig(), fanout=8, max_seen=100_000, now=now, rng=rng)
        return Node(Erlay(self._config, carrier=carrier, now=now, rng=rng), carrier)

    def _at(self, time: float, happen: Callable[[], None]) -> int:
        number = next(self._sequence)
        heapq.heappush(self._events, (time, number, happen))
        return number

    def _arrive(self, sender: PeerId, name: PeerId, message: Message) -> None:
        if sender not in self._latency[name]:
            return
        node = self.nodes[name]
        if message.type == DigMessageType.RECONCILIATION_RESPONSE:
            key = node.asking.answered(sender, message)
            if key is not None:
                self.perform(name, node.engine.answered(sender, key, message))
        elif message.type == DigMessageType.RECONCILIATION_SKETCH:
            self.perform(name, node.engine.requested(sender, message))
        elif message.type == ChiaMessageType.NEW_TRANSACTION:
            needs_validation = self.validator is not None
            self.perform(name, node.engine.received(sender, message, needs_validation))
        elif node.carrier is not None:
            self.perform(name, node.carrier.control_received(sender, message))

    def _set_timer(self, name: PeerId, key: TimerKey, delay: float) -> None:
        def fire() -> None:
            if self._timers.get((name, key)) == number:
                del self._timers[name, key]
                node = self.nodes[name]
                engine = node.engine
                if key[0] == ASKED:
                    expired = node.asking.expired(key)
                    if expired is not None:
                        self.perform(name, engine.answered(*expired, None))
                elif node.carrier is not None and not key[0].startswith("erlay."):
                    self.perform(name, node.carrier.timer_fired(key))
                else:
                    self.perform(name, engine.timer_fired(key))

        number = self._at(self.time + delay, fire)
        self._timers[name, key] = number
