"""Where a message goes: to an engine, to the application, or nowhere.

The router is the only performer of effects. Engines decide, the router sends, sets timers,
delivers and charges; a peer that vanished meanwhile makes an effect a no-op. An exception out of
an engine is our bug: it is logged and counted, and the node runs on.

Source: behaviour MSG-101-X, MSG-105-X, MSG-106-X, PLT-104-X; style §4.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from inspect import iscoroutine
from typing import Final, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.lanes import Offer
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.rate_table import send_rows
from dig_gossip.connection.session import Session
from dig_gossip.connection.websocket import LARGEST_MESSAGE_BYTES
from dig_gossip.constants import VALIDATOR_TIMEOUT_SECS, WS_MAX_MESSAGE_BYTES
from dig_gossip.effects import (
    ClearTimer,
    Deliver,
    Effect,
    HoldReading,
    Penalize,
    ReleaseReading,
    Send,
    SetTimer,
    TimerKey,
    Validate,
)
from dig_gossip.errors import Backpressured, ClientError, ClientErrorKind, WrongDispatch
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import PeerMode, Verdict
from dig_gossip.service.subscriptions import Subscriptions
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerId, PlumtreeRole
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import (
    ChiaMessageType,
    DigMessageType,
    RoutingClass,
    opcode_name,
    routing_class,
)

#: What a validator may say: a verdict, or the reason for which the sender is to be charged.
Judgement: TypeAlias = Verdict | PenaltyReason
Validator: TypeAlias = Callable[[PeerId, Message], "Judgement | Deferred[Judgement]"]

#: In whose name messages come that nobody vouches for; no key has this hash.
RELAY_PEER: Final = PeerId(bytes(32))

_PLUMTREE_CONTROL = frozenset(
    {
        DigMessageType.PLUMTREE_LAZY_ANNOUNCE,
        DigMessageType.PLUMTREE_PRUNE,
        DigMessageType.PLUMTREE_GRAFT,
        DigMessageType.PLUMTREE_REQUEST_BY_HASH,
    }
)
_GOSSIPED = frozenset({RoutingClass.FLOOD, RoutingClass.TX})


def mode_of(session: Session) -> PeerMode:
    """How a session takes part in gossip (design D5)."""
    if not session.tolerates_dig:
        return PeerMode.CHIA
    return PeerMode.TREE if session.speaks_plumtree else PeerMode.FLOOD


class SessionWatcher(Protocol):
    """Who else is told when sessions begin and end."""

    def peer_up(self, session: Session) -> None:
        """A session has begun."""

    def peer_down(self, session: Session) -> None:
        """A session has ended."""


class DiscoveryEvents(Protocol):
    """Who deals with the addresses of peers."""

    def session_up(self, session: Session) -> Iterable[Effect]: ...
    def session_down(self, session: Session) -> Iterable[Effect]: ...
    def peers_requested(self, peer_id: PeerId) -> bytes: ...
    def peers_received(self, peer_id: PeerId, body: bytes) -> Iterable[Effect]: ...


class Router:
    """Routes messages between sessions, engines and subscriptions.

    :ivar watchers: told of sessions after the engines.
    """

    _log = Logger()

    def __init__(
        self,
        config: GossipConfig,
        peers: Peers,
        clock: Clock,
        rng: random.Random,
        subscriptions: Subscriptions,
        discovery: DiscoveryEvents,
    ) -> None:
        self.plumtree = Plumtree(
            config.plumtree,
            fanout=config.gossip_fanout,
            max_seen=config.max_seen_messages,
            now=clock.monotonic,
            rng=rng,
        )
        self.counters: Counter[str] = Counter()
        self.watchers: list[SessionWatcher] = []
        self._peers = peers
        self._clock = clock
        limited = config.peer_options.enforce_rate_limits
        self._rows = send_rows(both_v2=True, is_rust=False) if limited else None
        self._subscriptions = subscriptions
        self._timers: dict[TimerKey, Timer] = {}
        self._validators: dict[int, Validator] = {}
        self._validating: set[Deferred[Judgement]] = set()
        self._discovery = discovery

    # -- what the application asks for

    def broadcast(self, message: Message, exclude: PeerId | None) -> int:
        """Spread a message.

        :returns: sessions for which it, or its announcement, was queued.
        :raises WrongDispatch: the opcode is not one that spreads.
        :raises ClientError: the message is too large.
        :raises Backpressured: it is larger than its opcode may be.
        """
        if routing_class(message.type, message.id is not None) not in _GOSSIPED:
            raise WrongDispatch(f"{opcode_name(message.type)} is not a message that spreads")
        if message.id is not None:
            raise WrongDispatch("a message with a correlation id is for one peer")
        check_size(message)
        if self._rows is not None and len(message.data) > self._rows[message.type].max_size:
            raise Backpressured(f"no peer takes a {opcode_name(message.type)} this large")
        result = self.plumtree.broadcast(message, exclude)
        return self._perform(result.effects) + result.announced

    def perform(self, effects: Iterable[Effect]) -> None:
        """Do what an engine outside of the router wants done."""
        self._guarded(lambda: effects)

    def set_validator(self, opcode: int, validator: Validator | None) -> None:
        """Ask ``validator`` about every gossiped message of this opcode; None asks nobody."""
        if routing_class(opcode, False) not in _GOSSIPED:
            raise WrongDispatch(f"{opcode_name(opcode)} is not a message that spreads")
        if validator is None:
            self._validators.pop(opcode, None)
        else:
            self._validators[opcode] = validator

    def reconcile(self) -> None:
        """Make the engine's peers those of the table, should they ever differ.  PLT-107-X"""
        modes = {session.peer_id: mode_of(session) for session in self._peers.table}
        self._guarded(lambda: self.plumtree.reconcile(modes))

    def stop(self) -> None:
        """Drop timers and pending verdicts."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for verdict in list(self._validating):
            verdict.cancel()

    # -- the observer of peers

    def peer_up(self, session: Session) -> None:
        """A session begins: it joins gossip, and we ask a peer that we dialed for others."""
        self._guarded(lambda: self._discovery.session_up(session))
        score = self._peers.reputation(session.peer_id).score
        self._guarded(lambda: self.plumtree.peer_up(session.peer_id, mode_of(session), score))
        for watcher in self.watchers:
            watcher.peer_up(session)

    def peer_down(self, session: Session) -> None:
        """A session has ended."""
        self._guarded(lambda: self.plumtree.peer_down(session.peer_id))
        self._guarded(lambda: self._discovery.session_down(session))
        for watcher in self.watchers:
            watcher.peer_down(session)

    def unvouched(self, message: Message) -> None:
        """Take a message that came through a relay and that nobody vouches for.

        It is delivered like that of a plain Chia session, in the name of nobody: not forwarded,
        not answered, and nobody is charged for it.  RLY-102-X
        """
        routing = routing_class(message.type, message.id is not None)
        if message.id is not None or routing not in _GOSSIPED:
            return
        engine, asks = self.plumtree, message.type in self._validators
        self._guarded(lambda: engine.peer_up(RELAY_PEER, PeerMode.CHIA))
        self._guarded(lambda: engine.received(RELAY_PEER, message, asks))
        self._guarded(lambda: engine.peer_down(RELAY_PEER))

    def dig_tolerated(self, session: Session) -> None:
        """A plain session turns out to know DIG opcodes."""
        score = self._peers.reputation(session.peer_id).score
        self._guarded(lambda: self.plumtree.peer_up(session.peer_id, mode_of(session), score))

    def rtt_measured(self, session: Session, seconds: float) -> None:
        """A round trip was measured: the tree may improve."""
        score = self._peers.reputation(session.peer_id).score
        self._guarded(lambda: self.plumtree.rtt_updated(session.peer_id, seconds, score))

    def role(self, peer_id: PeerId) -> PlumtreeRole | None:
        """The session's place in the tree."""
        return self.plumtree.role(peer_id)

    def message_received(self, session: Session, message: Message) -> None:
        """Route one message that answers none of our requests."""
        opcode = message.type
        if message.id is None:
            routing = routing_class(opcode, False)
            if routing in _GOSSIPED:
                peer, asks = session.peer_id, opcode in self._validators
                self._guarded(lambda: self.plumtree.received(peer, message, asks))
                return
        else:
            routing = routing_class(opcode, True)
        if opcode == ChiaMessageType.REQUEST_PEERS:
            # Some peers drop the link when this goes unanswered (CON-004.2).
            answer = self._discovery.peers_requested(session.peer_id)
            answering = Message(ChiaMessageType.RESPOND_PEERS, message.id, answer)
            session.send(OutboundFrame(answering), is_reply=True)
        elif opcode == ChiaMessageType.RESPOND_PEERS:
            self._guarded(lambda: self._discovery.peers_received(session.peer_id, message.data))
        elif opcode in _PLUMTREE_CONTROL:
            self._guarded(lambda: self.plumtree.control_received(session.peer_id, message))
        elif routing is RoutingClass.CONTROL:
            self.counters[f"ignored.{opcode_name(opcode)}"] += 1
        else:
            self._subscriptions.publish(session.peer_id, message)

    # -- the performer

    def _guarded(self, event: Callable[[], Iterable[Effect]]) -> None:
        try:
            self._perform(event())
        except Exception:
            self.counters["engine_errors"] += 1
            self._log.failure("an engine failed; the node goes on", event="engine_failed")

    def _perform(self, effects: Iterable[Effect]) -> int:
        accepted = 0
        for effect in effects:
            if isinstance(effect, Send):
                accepted += self._send(effect)
            elif isinstance(effect, Deliver):
                self._peers.delivered(effect.peer, effect.message.type)
                self._subscriptions.publish(effect.peer, effect.message)
            elif isinstance(effect, SetTimer):
                self._clear_timer(effect.key)
                self._timers[effect.key] = self._clock.call_later(
                    effect.delay, self._timer_fired, effect.key
                )
            elif isinstance(effect, ClearTimer):
                self._clear_timer(effect.key)
            elif isinstance(effect, Validate):
                self._validate(effect)
            elif isinstance(effect, Penalize):
                self._peers.penalize(effect.peer, effect.reason)
            elif isinstance(effect, HoldReading):
                self.counters["reading_held.validator"] += 1
                self._peers.hold(effect.peer, self)
            elif isinstance(effect, ReleaseReading):
                self._peers.release(effect.peer, self)
        return accepted

    def _send(self, effect: Send) -> int:
        frame = OutboundFrame(effect.message)
        table = self._peers.table
        accepted = 0
        for peer in effect.peers:
            session = table.get(peer)
            offer = Offer.CLOSED if session is None else session.send(frame)
            if offer:
                accepted += 1
            elif offer is Offer.CLOSED:  # the session counts everything else
                self.counters["unreachable"] += 1
        return accepted

    def _clear_timer(self, key: TimerKey) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _timer_fired(self, key: TimerKey) -> None:
        self._timers.pop(key, None)
        self._guarded(lambda: self.plumtree.timer_fired(key))

    # -- validators

    def _validate(self, effect: Validate) -> None:
        validator = self._validators.get(effect.message.type)
        if validator is None:  # removed meanwhile
            self._judged(Verdict.ACCEPT, effect)
            return
        try:
            answer = validator(effect.peer, effect.message)
        except Exception:
            self._log.failure("a validator failed", event="validator_failed")
            self._judged(Verdict.IGNORE, effect)
            return
        if iscoroutine(answer):
            answer = Deferred.fromCoroutine(answer)
        if not isinstance(answer, Deferred):
            self._judged(answer, effect)
            return
        handled(answer.addTimeout(VALIDATOR_TIMEOUT_SECS, self._clock.reactor))
        self._validating.add(answer)

        def done(result: Judgement | Failure) -> None:
            self._validating.discard(answer)
            if isinstance(result, Failure):
                self.counters["validator_timeouts_or_errors"] += 1
                result = Verdict.IGNORE
            self._judged(result, effect)

        handled(answer.addBoth(done))

    def _judged(self, judgement: Judgement, effect: Validate) -> None:
        if effect.peer == RELAY_PEER:
            judgement = Verdict.REJECT if isinstance(judgement, PenaltyReason) else judgement
        elif isinstance(judgement, PenaltyReason):
            self._peers.penalize(effect.peer, judgement)
            judgement = Verdict.REJECT
        elif judgement is Verdict.REJECT:
            self._peers.penalize(effect.peer, PenaltyReason.PROTOCOL_VIOLATION)
        self._guarded(lambda: self.plumtree.validated(effect.message_hash, judgement))


def check_size(message: Message, *, is_answer: bool = False) -> None:
    """:raises ClientError: no peer would take a message this large.

    :param is_answer: the peer has asked for it, and takes more (design D7).
    """
    limit = LARGEST_MESSAGE_BYTES if is_answer else WS_MAX_MESSAGE_BYTES
    if len(message) > limit:
        raise ClientError(
            ClientErrorKind.MALFORMED,
            f"{len(message)} bytes are more than the {limit} a message may have",
            retryable=False,
        )
