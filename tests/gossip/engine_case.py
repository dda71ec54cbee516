"""One engine with a clock, and words for what happens to it."""

from __future__ import annotations

from hashlib import sha256
from random import Random

from chia_rs.sized_bytes import bytes32
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Deliver, Effect, Send, SetTimer, TimerKey
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import BroadcastResult, PeerMode, Verdict
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import (
    PlumtreeGraft,
    PlumtreeLazyAnnounce,
    PlumtreePrune,
    PlumtreeRequestByHash,
)
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType


def peer_id(name: str) -> PeerId:
    """A peer id that is the same in every run."""
    return bytes32(sha256(name.encode()).digest())


A, B, C, D, E, F = (peer_id(name) for name in "ABCDEF")
TREE, FLOOD, CHIA = PeerMode.TREE, PeerMode.FLOOD, PeerMode.CHIA


def attestation(text: str) -> Message:
    """A message of the DIG band that is flooded."""
    return Message(DigMessageType.NEW_ATTESTATION, None, text.encode())


def peak(text: str) -> Message:
    """A message that a Chia node accepts unasked."""
    return Message(ChiaMessageType.NEW_PEAK, None, text.encode())


def with_low_hash(text: str) -> Message:
    """A message that may cut the tree even at a rate of 100 a second."""
    candidates = (attestation(f"{text} {number}") for number in range(100_000))
    return next(message for message in candidates if not message_hash(message)[0])


def with_high_hash(text: str) -> Message:
    """A message that may cut the tree only if it is alone."""
    candidates = (attestation(f"{text} {number}") for number in range(100_000))
    return next(message for message in candidates if message_hash(message)[0] >= 0xF0)


def announce(*messages: Message) -> Message:
    """An announcement of these messages."""
    entries = tuple((message_hash(message), message.type) for message in messages)
    return Message(PlumtreeLazyAnnounce.OPCODE, None, bytes(PlumtreeLazyAnnounce(entries)))


def announced(message: Message) -> list[bytes]:
    """The hashes in an announcement."""
    return [digest for digest, _ in PlumtreeLazyAnnounce.from_bytes(message.data).entries]


PRUNE = Message(PlumtreePrune.OPCODE, None, bytes(PlumtreePrune()))
GRAFT = Message(PlumtreeGraft.OPCODE, None, bytes(PlumtreeGraft(None)))


def graft(message: Message) -> Message:
    """A GRAFT that pulls a message."""
    return Message(PlumtreeGraft.OPCODE, None, bytes(PlumtreeGraft(message_hash(message))))


def pulled(peer: PeerId, message: Message) -> Send:
    """What answers a pull: the message as it is, in no other form."""
    return Send((peer,), message, verbatim=True)


def request(message: Message) -> Message:
    """A pull without promotion."""
    body = PlumtreeRequestByHash(message_hash(message))
    return Message(PlumtreeRequestByHash.OPCODE, None, bytes(body))


class EngineCase(SynchronousTestCase):
    """An engine, and the smallest shell that can drive it.

    Methods named like the engine's events return its effects without the timers, which
    :meth:`advance` fires when they are due.
    """

    def setUp(self) -> None:
        self.time = 1000.0
        self.timers: dict[TimerKey, float] = {}
        self.build()

    def build(self, *, fanout: int = 8, max_seen: int = 1000, **config: object) -> None:
        """Make the engine anew."""
        self.timers.clear()
        self.engine = Plumtree(
            PlumtreeConfig(**config),  # type: ignore[arg-type]  # as in the tests
            fanout=fanout,
            max_seen=max_seen,
            now=lambda: self.time,
            rng=Random(1),
        )

    def done(self, effects: list[Effect]) -> list[Effect]:
        """Set the timers among some effects, and return the others."""
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timers[effect.key] = self.time + effect.delay
        return [effect for effect in effects if not isinstance(effect, SetTimer)]

    def advance(self, seconds: float) -> list[Effect]:
        """Let time pass; what the timers did meanwhile."""
        end = self.time + seconds
        effects = []
        while self.timers and min(self.timers.values()) <= end:
            key = min(self.timers, key=lambda key: self.timers[key])
            self.time = max(self.time, self.timers.pop(key))
            effects += self.done(self.engine.timer_fired(key))
        self.time = end
        return effects

    # --- events -----------------------------------------------------------------------------

    def peer_up(self, *peers: PeerId, mode: PeerMode = TREE, score: float = 0.0) -> list[Effect]:
        """Sessions begin."""
        return [e for peer in peers for e in self.done(self.engine.peer_up(peer, mode, score))]

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A session ends."""
        return self.done(self.engine.peer_down(peer))

    def received(
        self, peer: PeerId, message: Message, needs_validation: bool = False
    ) -> list[Effect]:
        """A full message comes."""
        return self.done(self.engine.received(peer, message, needs_validation))

    def validated(self, message: Message, verdict: Verdict) -> list[Effect]:
        """A verdict comes."""
        return self.done(self.engine.validated(message_hash(message), verdict))

    def control(self, peer: PeerId, message: Message) -> list[Effect]:
        """A control frame comes."""
        return self.done(self.engine.control_received(peer, message))

    def broadcast(self, message: Message, exclude: PeerId | None = None) -> BroadcastResult:
        """The application broadcasts."""
        result = self.engine.broadcast(message, exclude)
        return BroadcastResult(self.done(result.effects), result.announced)

    def rtt(self, peer: PeerId, seconds: float, score: float = 0.0) -> list[Effect]:
        """A round trip was measured."""
        return self.done(self.engine.rtt_updated(peer, seconds, score))

    def make_lazy(self, *peers: PeerId) -> None:
        """Let peers prune us."""
        for peer in peers:
            self.control(peer, PRUNE)

    # --- assertions -------------------------------------------------------------------------

    def assert_roles(self, eager: set[PeerId], lazy: set[PeerId]) -> None:
        """Compare both sets."""
        snapshot = self.engine.snapshot()
        self.assertEqual((snapshot.eager, snapshot.lazy), (eager, lazy))

    def assert_told(self, effects: list[Effect], expected: dict[PeerId, list[Message]]) -> None:
        """Require that all effects are announcements, and just these, whatever the framing."""
        told: dict[PeerId, list[bytes]] = {}
        for effect in effects:
            assert isinstance(effect, Send), effect
            for peer in effect.peers:
                told.setdefault(peer, []).extend(announced(effect.message))
        self.assertEqual(
            told, {peer: [message_hash(m) for m in messages] for peer, messages in expected.items()}
        )

    def assert_delivered(self, effects: list[Effect], peer: PeerId, message: Message) -> None:
        """Require that a message is delivered, and that this comes first."""
        self.assertEqual(effects[0], Deliver(peer, message))
