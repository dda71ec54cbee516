"""Where a message goes: to an engine, to the application, or nowhere.

The router is the only performer of effects. Engines decide, the router sends, sets timers,
delivers and charges; a peer that vanished meanwhile makes an effect a no-op. An exception out of
an engine is our bug: it is logged and counted, and the node runs on.

Two tables say whose a message is: one for messages without a correlation id, one for those with
one, each with a handler for every opcode, or None where the application gets it as it is (what one
read delivers is published together). One table says whose a timer or a request is: each engine has
names of its own. Plumtree is always there; other engines are made when they are configured and told
of those sessions only that share their capability.

Source: behaviour MSG-101-X, MSG-105-X, MSG-106-X, PLT-104-X; wire §5.4; style §4.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from twisted.logger import Logger

from dig_gossip.connection.cast import Cast
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.rate_table import send_rows
from dig_gossip.connection.session import Session
from dig_gossip.effects import (
    Arrived,
    ClearTimer,
    Deliver,
    Effect,
    HoldReading,
    Penalize,
    Ping,
    ReleaseReading,
    Reply,
    Request,
    Send,
    SetTimer,
    Spread,
    TimerKey,
    Validate,
)
from dig_gossip.errors import (
    Backpressured,
    WrongDispatch,
)
from dig_gossip.gossip.compact import CompactBlocks
from dig_gossip.gossip.compact_provider import ICompactBlockProvider
from dig_gossip.gossip.erlay import Erlay
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import Verdict
from dig_gossip.service.engines import Engines, Event
from dig_gossip.service.judging import Judgement, Validator, Validators, blames, reason_of
from dig_gossip.service.routing import DiscoveryEvents, SessionWatcher
from dig_gossip.service.spreading import GOSSIPED, largest_broadcasts, refuse_broadcast
from dig_gossip.service.subscriptions import Subscriptions
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerId, PlumtreeRole
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import (
    PLUMTREE_CONTROL,
    ChiaMessageType,
    DigMessageType,
    RoutingClass,
    opcode_name,
    routing_class,
    valid_replies,
)
from dig_gossip.wire.stem import StemTransaction, announced_tx_id, check_announcement
from dig_gossip.wire.trees import MAY_HAVE_TAG

#: In whose name messages come that nobody vouches for; no key has this hash.
RELAY_PEER: Final = PeerId(bytes(32))

#: Takes in one message of one session.
_Handler: TypeAlias = Callable[[Session, Message], None]
_NEW_TRANSACTION: Final = int(ChiaMessageType.NEW_TRANSACTION)


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
        self.engines = Engines(config, clock, rng)
        self.plumtree = self.engines.plumtree
        self.dandelion = self.engines.dandelion
        self.erlay = self.engines.erlay
        self.counters: Counter[str] = Counter()
        self._send = Cast(peers.table.get, self.counters).send
        self.watchers: list[SessionWatcher] = []
        self._config = config
        self._peers = peers
        self._clock = clock
        limited = config.peer_options.enforce_rate_limits
        self._rows = send_rows(both_v2=True, is_rust=False) if limited else None
        #: by opcode, how much data a message that is broadcast may have; -1 where none may be
        self._spreads = largest_broadcasts(limited=limited)
        self._subscriptions = subscriptions
        self._timers: dict[TimerKey, Timer] = {}
        self._validators = Validators(clock, self.counters)
        self._discovery = discovery
        #: opcodes of blocks that may cross a link in another form
        self._blocks: frozenset[int] = frozenset()
        self._stopped = False
        #: what the read that is being routed delivers, and whose it is
        self._batch: list[Message] = []
        self._batch_peer = RELAY_PEER
        self._wire()

    @property
    def compact(self) -> CompactBlocks | None:
        """The engine of compact blocks, once there is a provider."""
        return self.engines.compact

    def _wire(self) -> None:
        """Say whose each message is."""
        plain = [self._handler(opcode, has_id=False) for opcode in range(256)]
        with_id = [self._handler(opcode, has_id=True) for opcode in range(256)]
        if self.erlay is not None:
            for handlers in (plain, with_id):
                handlers[DigMessageType.RECONCILIATION_SKETCH] = self._sketch_received
        if self.dandelion is not None:
            plain[DigMessageType.STEM_TRANSACTION] = self._stem_received
        if self.compact is not None:
            plain[DigMessageType.NEW_COMPACT_BLOCK] = self._compact_received
            with_id[DigMessageType.NEW_COMPACT_BLOCK] = self._ignored
            for handlers in (plain, with_id):
                handlers[DigMessageType.REQUEST_BLOCK_TRANSACTIONS] = self._compact_received
        if self.dandelion is not None or self.compact is not None or self.erlay is not None:
            plain[ChiaMessageType.NEW_TRANSACTION] = self._transaction_received
        self._plain, self._with_id = tuple(plain), tuple(with_id)
        gossip = self._gossip_received
        self._simple = tuple(
            plain[opcode] == gossip
            and opcode not in self._validators
            and opcode not in self._blocks
            for opcode in range(256)
        )

    def _handler(self, opcode: int, *, has_id: bool) -> _Handler | None:
        """What Plumtree and the application have to do with an opcode."""
        routing = routing_class(opcode, has_id)
        if routing in GOSSIPED and not has_id:
            return self._gossip_received
        if has_id and MAY_HAVE_TAG[opcode]:
            return self._tagged_received
        if opcode == ChiaMessageType.REQUEST_PEERS:
            return self._peers_requested
        if opcode == ChiaMessageType.RESPOND_PEERS:
            return self._peers_received
        if opcode in PLUMTREE_CONTROL:
            return self._control_received
        if routing is RoutingClass.CONTROL:
            return self._ignored
        return None

    # -- what the application asks for

    def broadcast(self, message: Message, exclude: PeerId | None) -> int:
        """Spread a message.

        :returns: sessions for which it, or its announcement, was queued.
        :raises WrongDispatch: the opcode is not one that spreads.
        :raises ClientError: the message is too large.
        :raises Backpressured: it is larger than its opcode may be.
        """
        opcode = message.type
        if message.id is not None or len(message.data) > self._spreads[opcode]:
            refuse_broadcast(message)
        engine: Plumtree | Erlay = self.plumtree
        if opcode == _NEW_TRANSACTION:
            if self.dandelion is not None and self.dandelion.is_heralded(message.data[:32]):
                return 0  # the application does not know that it is too early
            self._heard(message)
            self.engines.transaction_passes(None, message)
            engine = self.engines.of_transactions
        elif exclude is None and (first := self.plumtree.sent_first(message)) is not None:
            peers, told, effects = first
            told += (self._spread if opcode in self._blocks else self._send)(peers, message)
            return told + self._perform(effects) if effects else told
        result = engine.broadcast(message, exclude)
        return result.announced + self._perform(result.effects)

    def perform(self, effects: Iterable[Effect]) -> None:
        """Do what an engine outside of the router wants done."""
        self._guarded(lambda: effects)

    def submit_transaction(self, tx_id: bytes, payload: bytes, announcement: bytes) -> None:
        """Send a transaction on its stem; announce it at once if there is no Dandelion++.

        :param announcement: the body of its ``NewTransaction``.
        :raises ClientError: that is the announcement of something else.
        :raises Backpressured: no relay takes a transaction this large.
        Source: behaviour PRV-002.
        """
        body = StemTransaction(check_announcement(tx_id, announcement), payload)
        if self.dandelion is None:
            self.broadcast(Message(ChiaMessageType.NEW_TRANSACTION, None, announcement), None)
            return
        if self._rows and len(bytes(body)) > self._rows[StemTransaction.OPCODE].max_size:
            raise Backpressured("no peer takes a transaction this large")
        self._perform(self.dandelion.submit(body))

    def is_stem_only(self, tx_id: bytes) -> bool:
        """Whether a transaction must not be given to anybody yet."""
        return self.dandelion is not None and self.dandelion.is_stem_only(tx_id)

    def set_compact_block_provider(self, provider: ICompactBlockProvider) -> None:
        """Send and take compact blocks, in all sessions that are opened from now on.

        :raises InvalidConfig: it is no provider, or there is one already.
        """
        self._blocks = self.plumtree.untagged = self.engines.add_compact(provider).opcodes
        self._peers.capabilities |= {Capability.DIG_COMPACT}
        self._wire()

    def set_validator(self, opcode: int, validator: Validator | None) -> None:
        """Ask ``validator`` about every gossiped message of this opcode; None asks nobody."""
        spreads = routing_class(opcode, False) in GOSSIPED
        if not spreads and opcode != DigMessageType.STEM_TRANSACTION:
            raise WrongDispatch(f"{opcode_name(opcode)} is not a message that spreads")
        self._validators.set(opcode, validator)
        self._wire()

    def counted(self) -> dict[str, int]:
        """What all engines and the router have counted, by name."""
        return {**self.engines.counted(), **self.counters}

    def reconcile(self) -> None:
        """Make the engine's peers those of the table, should they ever differ.  PLT-107-X"""
        self._all_guarded(self.engines.reconcile(self._peers.table))

    def end_stems(self) -> None:
        """Announce our own transactions that are still on their stems; the sessions end next."""
        if self.dandelion is not None:
            self._guarded(self.dandelion.shut_down)

    def stop(self) -> None:
        """Drop timers and pending verdicts."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._validators.stop()

    # -- the observer of peers

    def peer_up(self, session: Session) -> None:
        """A session begins: it joins gossip, and we ask a peer that we dialed for others."""
        self._guarded(lambda: self._discovery.session_up(session))
        score = self._peers.reputation(session.peer_id).score
        self._all_guarded(self.engines.peer_up(session, score))
        for watcher in self.watchers:
            watcher.peer_up(session)

    def peer_down(self, session: Session) -> None:
        """A session has ended."""
        self._all_guarded(self.engines.peer_down(session.peer_id))
        self._guarded(lambda: self._discovery.session_down(session))
        for watcher in self.watchers:
            watcher.peer_down(session)

    def unvouched(self, message: Message) -> None:
        """Take a message that came through a relay and that nobody vouches for.

        It is delivered like that of a plain Chia session, in the name of nobody: not forwarded,
        not answered, and nobody is charged for it.  RLY-102-X
        """
        routing = routing_class(message.type, message.id is not None)
        if message.id is not None or routing not in GOSSIPED:
            return
        asks = message.type in self._validators
        self._all_guarded(self.engines.visited(RELAY_PEER, message, asks))

    def dig_tolerated(self, session: Session) -> None:
        """A plain session turns out to know DIG opcodes."""
        score = self._peers.reputation(session.peer_id).score
        self._all_guarded(self.engines.peer_up(session, score))

    def rtt_measured(self, session: Session, seconds: float) -> None:
        """A round trip was measured: the tree may improve."""
        score = self._peers.reputation(session.peer_id).score
        self._guarded(lambda: self.plumtree.rtt_updated(session.peer_id, seconds, score))

    def role(self, peer_id: PeerId) -> PlumtreeRole | None:
        """The session's place in the tree."""
        return self.plumtree.role(peer_id)

    def read_began(self) -> None:
        """More messages may follow at once: subscribers are woken when they are all there."""
        self._subscriptions.hold()

    def read_done(self) -> None:
        """Wake the subscribers that have got something."""
        self._subscriptions.wake()

    def messages_received(self, session: Session, messages: list[Message]) -> None:
        """Route messages that answer none of our requests; no more once the session has ended."""
        plain, with_id = self._plain, self._with_id
        self._batch, self._batch_peer = [], session.peer_id
        at, end = 0, len(messages)
        while at < end and not session.has_ended:
            message = messages[at]
            opcode, has_id = message.type, message.id is not None
            if (
                not has_id
                and self._simple[opcode]
                and (taken := self._run_received(session, messages, at))
            ):
                at += taken
                continue
            at += 1
            handler = with_id[opcode] if has_id else plain[opcode]
            if handler is None:
                self._batch.append(message)
            else:
                handler(session, message)
        self._publish_batch()

    def _run_received(self, session: Session, messages: list[Message], at: int) -> int:
        """Let Plumtree take as many messages at once as it can.

        :returns: how many.
        """
        peer, batch = session.peer_id, self._batch
        before, taken = len(batch), 0
        try:
            effects = self.plumtree.received_run(peer, messages, at, batch)
            taken = len(batch) - before
            if taken:
                self._peers.delivered(peer, messages[at].type)
            if effects:
                self._perform(effects)
        except Exception:
            self._engine_failed()
        return taken

    def _publish_batch(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._subscriptions.publish(self._batch_peer, batch)

    # -- whose a message is

    def _gossip_received(self, session: Session, message: Message) -> None:
        peer, opcode = session.peer_id, message.type
        try:
            effects = self.plumtree.received(peer, message, opcode in self._validators)
            if effects and effects[0].__class__ is Deliver and opcode not in self._blocks:
                # New, and delivered first of all: nearly always.
                self._peers.delivered(peer, opcode)
                self._batch.append(effects[0].message)
                del effects[0]
            if effects:
                self._perform(effects)
        except Exception:
            self._engine_failed()

    def _tagged_received(self, session: Session, message: Message) -> None:
        if session.shares(Capability.DIG_TREES):
            self._gossip_received(session, message)
        else:
            self._batch.append(message)

    def _transaction_received(self, session: Session, message: Message) -> None:
        self._heard(message)
        peer, asks = session.peer_id, message.type in self._validators
        self.engines.transaction_passes(peer, message)
        engine = self.engines.of_transactions
        self._guarded(lambda: engine.received(peer, message, asks))

    def _sketch_received(self, session: Session, message: Message) -> None:
        erlay = self.erlay
        assert erlay is not None
        self.engines.weigh(session)
        self._guarded(lambda: erlay.requested(session.peer_id, message))

    def _control_received(self, session: Session, message: Message) -> None:
        self._guarded(lambda: self.plumtree.control_received(session.peer_id, message))

    def _compact_received(self, session: Session, message: Message) -> None:
        compact = self.compact
        assert compact is not None
        self._guarded(lambda: compact.received(session.peer_id, message))

    def _stem_received(self, session: Session, message: Message) -> None:
        dandelion, peer = self.dandelion, session.peer_id
        assert dandelion is not None
        if not session.shares(Capability.DIG_STEM):
            self._ignored(session, message)
            return

        def judged(judgement: Judgement) -> None:
            if self._charged(peer, judgement) is Verdict.ACCEPT:
                self._guarded(lambda: dandelion.received(peer, message))

        if message.type not in self._validators:
            judged(Verdict.ACCEPT)
        elif not self._validators.is_busy:
            self._validators.ask(peer, message, judged)

    def _peers_requested(self, session: Session, message: Message) -> None:
        # Some peers drop the link when this goes unanswered (CON-004.2).
        answer = self._discovery.peers_requested(session.peer_id)
        answering = Message(ChiaMessageType.RESPOND_PEERS, message.id, answer)
        session.send(OutboundFrame(answering), is_reply=True)

    def _peers_received(self, session: Session, message: Message) -> None:
        self._guarded(lambda: self._discovery.peers_received(session.peer_id, message.data))

    def _ignored(self, session: Session, message: Message) -> None:
        self.counters[f"ignored.{opcode_name(message.type)}"] += 1

    def _heard(self, message: Message) -> None:
        """Tell those whom it concerns that a transaction is public."""
        tx_id = announced_tx_id(message.type, message.data)
        if tx_id is None:
            return
        if self.compact is not None:
            self.compact.transaction_heard(tx_id)
        if self.dandelion is not None:
            self._perform(self.dandelion.announced(tx_id))

    # -- the performer

    def _guarded(self, event: Callable[[], Iterable[Effect]]) -> None:
        try:
            self._perform(event())
        except Exception:
            self._engine_failed()

    def _engine_failed(self) -> None:
        self.counters["engine_errors"] += 1
        self._log.failure("an engine failed; the node goes on", event="engine_failed")

    def _all_guarded(self, events: Iterable[Event]) -> None:
        for event in events:
            self._guarded(event)

    def _perform(self, effects: Iterable[Effect]) -> int:
        accepted = 0
        for effect in effects:
            if isinstance(effect, Send):
                peers, message, verbatim = effect
                accepted += (self._send if verbatim else self._spread)(peers, message)
            elif isinstance(effect, Deliver):
                self._peers.delivered(effect.peer, effect.message.type)
                if effect.message.type in self._blocks:
                    assert self.compact is not None
                    self.compact.block_known(effect.message)
                self._publish_batch()
                self._subscriptions.publish(effect.peer, (effect.message,))
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
            else:
                accepted += self._perform_rare(effect)
        return accepted

    def _perform_rare(self, effect: Arrived | Spread | Ping | Reply | Request) -> int:
        if isinstance(effect, Arrived):
            asks = effect.message.type in self._validators
            return self._perform(self.plumtree.received(effect.peer, effect.message, asks))
        if isinstance(effect, Spread):
            return self.broadcast(effect.message, None)
        if isinstance(effect, Ping):
            session = self._peers.table.get(effect.peer)
            if session is not None and not session.ping():
                self.plumtree.unasked(effect.peer)
            return 0
        self.counters[f"asked_bytes.{opcode_name(effect.message.type)}"] += len(effect.message)
        if isinstance(effect, Request):
            self._request(effect)
            return 0
        session = self._peers.table.get(effect.peer)
        if session is None:
            return 0
        return 1 if session.send(OutboundFrame(effect.message), is_reply=True) else 0

    def _spread(self, peers: tuple[PeerId, ...], message: Message) -> int:
        """Send a message, or what stands for it; but a block in a tree of its own as it is."""
        if message.type not in self._blocks or message.id is not None:
            return self._send(peers, message)
        assert self.compact is not None
        sends = self.compact.outbound(peers, message)
        return sum(self._send(send.peers, send.message) for send in sends)

    def _clear_timer(self, key: TimerKey) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def _timer_fired(self, key: TimerKey) -> None:
        self._timers.pop(key, None)
        if (peer := self.engines.begins_round(key)) is not None:
            self.engines.weigh(self._peers.table.get(peer))
        self._guarded(lambda: self.engines.timed[key[0]].timer_fired(key))

    def _request(self, effect: Request) -> None:
        session = self._peers.table.get(effect.peer)

        def answered(answer: Any) -> None:  # Any: a Failure stands for no answer
            message = answer if isinstance(answer, Message) else None
            if not self._stopped:
                engine = self.engines.asked[effect.key[0]]
                self._guarded(lambda: engine.answered(effect.peer, effect.key, message))

        if session is None:
            answered(None)
            return
        opcode, data = effect.message.type, effect.message.data
        try:
            waiting = session.request(opcode, data, valid_replies(opcode), effect.timeout)
        except WrongDispatch:
            answered(None)
            return
        handled(waiting.addBoth(answered))

    # -- validators

    def _validate(self, effect: Validate) -> None:
        def judged(judgement: Judgement) -> None:
            self._judged(judgement, effect)

        self._validators.ask(effect.peer, effect.message, judged)

    def _judged(self, judgement: Judgement, effect: Validate) -> None:
        if effect.message.type in self._blocks and blames(judgement):
            compact = self.compact
            assert compact is not None
            doubted = compact.rejected(effect.message_hash, reason_of(judgement))
            if doubted is not None:
                self._guarded(lambda: doubted)
                judgement = Verdict.IGNORE
        verdict = self._charged(effect.peer, judgement)
        is_transaction = effect.message.type == ChiaMessageType.NEW_TRANSACTION
        engine = self.engines.of_transactions if is_transaction else self.plumtree
        self._guarded(lambda: engine.validated(effect.message_hash, verdict))

    def _charged(self, peer: PeerId, judgement: Judgement) -> Verdict:
        """Charge a peer if the judgement says so; what is to become of its message."""
        if not blames(judgement):
            assert isinstance(judgement, Verdict)
            return judgement
        if peer != RELAY_PEER:
            self._peers.penalize(peer, reason_of(judgement))
        return Verdict.REJECT
