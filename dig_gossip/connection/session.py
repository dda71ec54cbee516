"""A session: one admitted, identified peer, from registration to removal.

It receives frames from its WebSocket and turns them into messages for the node; it sends messages
through the writer; it keeps the peer's pulse and its pending requests. What a message *means* is
the router's business, who may be here is :class:`~dig_gossip.connection.peers.Peers`'s.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from dig_gossip.connection.etiquette import Etiquette
from dig_gossip.connection.eviction import Candidate, is_local, network_group
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.connection.keepalive import Dead, Keepalive, Probe
from dig_gossip.connection.lanes import Lanes, Offer
from dig_gossip.connection.passing import PASSES, PASSES_CHIA
from dig_gossip.connection.rate_limit import InboundLimiter, OutboundLimiter, Verdict
from dig_gossip.connection.rate_table import max_frame_size, receive_rows, send_rows
from dig_gossip.connection.requests import PendingRequests
from dig_gossip.connection.retirement import Retirement
from dig_gossip.connection.session_owner import RemovalReason, SessionOwner
from dig_gossip.connection.transfers import Reassembly
from dig_gossip.connection.waiter import Waiter
from dig_gossip.connection.websocket import PeerWebSocket
from dig_gossip.constants import WS_MAX_MESSAGE_BYTES
from dig_gossip.errors import (
    Backpressured,
    ClientError,
    GossipError,
    PeerNotConnected,
    RequestTimeout,
    WrongDispatch,
)
from dig_gossip.types.peer import (
    LaneWaits,
    PeerAddress,
    PeerConnection,
    PeerId,
    PlumtreeRole,
    TransportKind,
    shown_host,
)
from dig_gossip.types.reputation import PeerReputation, PenaltyReason
from dig_gossip.types.sections import BackpressureConfig
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType, is_dig, opcode_name
from dig_gossip.wire.trees import MAY_HAVE_TAG, NO_TAGS

#: How long a session that has a successor still takes what is under way.
MOVE_SECS: Final = 5.0

__all__ = ["RemovalReason", "Session", "SessionOwner"]

_ACCEPT = Verdict.ACCEPT
_CHUNK = int(DigMessageType.MESSAGE_CHUNK)


def _never_post(_message: Message) -> bool:
    """For a peer that may not take everything."""
    return False


class Session:
    """One registered peer.

    :param offered: the capabilities that our own handshake named.
    :param levels: thresholds of backpressure; None for none.
    :param rate_limit_factor: share of the peer's limits that we use; None switches the rate
        limits off, in both directions.
    :ivar opened_at: monotonic seconds of registration.
    :ivar last_transaction: monotonic seconds at which the peer last brought a transaction that was
        new to us; -inf for never.
    :ivar last_news: the same for any other message that spreads.
    :ivar unsent: messages that were not sent, by ``<why>.<opcode>``; why is an :class:`Offer`.
    :ivar late_answers: answers that came when nobody waited for them any more, and were dropped.
    :ivar is_slow: whether a round trip has taken more than five seconds.
    :ivar tolerates_dig: whether opcodes 200..254 may be sent (wire §4.2); can become true later.
    Bounds: at most 16 384 pending requests (half the id space of our role).
    """

    def __init__(
        self,
        owner: SessionOwner,
        websocket: PeerWebSocket,
        clock: Clock,
        rng: random.Random,
        *,
        peer_id: PeerId,
        address: PeerAddress,
        is_outbound: bool,
        remote: RemoteHandshake,
        offered: frozenset[int],
        ping_interval: float,
        peer_timeout: float,
        levels: BackpressureConfig | None = None,
        rate_limit_factor: float | None = None,
        transport: TransportKind = TransportKind.DIRECT,
        own_id: PeerId,
    ) -> None:
        self.peer_id = peer_id
        self.own_id = own_id
        self.address = address
        self.is_outbound = is_outbound
        self.remote = remote
        self._offered = offered
        #: by opcode, whether the id of a message is the tag of a tree
        self._may_have_tag = MAY_HAVE_TAG if self.shares(Capability.DIG_TREES) else NO_TAGS
        self.transport = transport
        self.tolerates_dig = remote.tolerates_dig
        #: Sends or queues a small message if no rule is in its way, and says so; else `send` can.
        self.post: Callable[[Message], bool]
        is_plain = not remote.tolerates_dig and not remote.is_rust
        self._etiquette = Etiquette(remote) if is_plain else None
        self.opened_at = clock.monotonic()
        self.creation_time = self.last_message_time = clock.unix()
        self.messages_received = 0
        self.bytes_received = 0
        self.unsent: Counter[str] = Counter()
        self.late_answers = 0
        self.is_slow = False
        self.last_transaction = self.last_news = -math.inf
        self._owner = owner
        self._websocket = websocket
        self._writer = websocket.writer
        self._clock = clock
        self._requests: PendingRequests[Waiter] = PendingRequests(
            is_dialer=is_outbound, now=clock.monotonic
        )
        self.keepalive = Keepalive(
            ping_interval=ping_interval, peer_timeout=peer_timeout, now=clock.monotonic, rng=rng
        )
        self._limiter: InboundLimiter | None = None
        budget: OutboundLimiter | None = None
        both_v2 = remote.has(Capability.RATE_LIMITS_V2)
        rows = receive_rows(is_chia=not remote.tolerates_dig, both_v2=both_v2)
        self._largest = rows if rate_limit_factor is not None else None
        self._reassembly = Reassembly(self.largest_frame)
        if rate_limit_factor is not None:
            self._limiter = InboundLimiter(rows, now=clock.monotonic)
            budget = OutboundLimiter(
                send_rows(both_v2=both_v2, is_rust=remote.is_rust),
                now=clock.monotonic,
                factor=rate_limit_factor,
            )
        cuts = remote.has(Capability.DIG_CHUNK)
        self._writer.configure(Lanes(levels, budget, cuts=cuts, now=clock.monotonic), budget)
        self.allow_posts()
        self.read_done = owner.read_done  # the hot path calls this for every read
        self._judged = 0  # opcode of the last message that was large enough to be asked about
        self._pulse: Timer | None = None
        self._successor: Session | None = None
        self._retirement: Retirement | None = None
        self.predecessor: Retirement | None = None  # of the session in whose place this one is
        self._ended = False

    def start(self) -> None:
        """Begin the keepalive; the session is in the table."""
        self._writer.on_overflow(self._overflowed)
        self._pulse = self._clock.call_later(self.keepalive.first_delay(), self._tick)

    @property
    def host(self) -> str | None:
        """The peer's host; None if the connection shows another one's: a relay's, our Tor's."""
        return shown_host(self.address, self.transport, is_outbound=self.is_outbound)

    # -- sending

    @property
    def is_live(self) -> bool:
        """Whether the transport is open and the peer was heard within the last ping interval."""
        return not self._ended and self._writer.is_open and self.keepalive.is_live

    @property
    def has_ended(self) -> bool:
        """Whether the session has been removed."""
        return self._ended

    @property
    def is_connected(self) -> bool:
        """Whether the WebSocket is open."""
        return self._writer.is_open

    @property
    def speaks_plumtree(self) -> bool:
        """Whether the peer takes part in the tree (capability 201)."""
        return self.remote.has(Capability.DIG_PLUMTREE)

    def shares(self, capability: int) -> bool:
        """Whether both ends have named a capability: only then is the feature used."""
        return capability in self._offered and self.remote.has(capability)

    @property
    def has_requests(self) -> bool:
        """Whether requests of ours wait for their answers."""
        return len(self._requests) > 0

    @property
    def messages_sent(self) -> int:
        """Messages handed to the transport."""
        return self._writer.messages_sent

    @property
    def bytes_sent(self) -> int:
        """Serialized bytes of the messages handed to the transport."""
        return self._writer.bytes_sent

    @property
    def lanes(self) -> Lanes:
        """What waits for the transport."""
        return self._writer.lanes

    @property
    def queued_messages(self) -> int:
        """Messages that wait for the transport."""
        return self._writer.queued_messages

    def send(self, frame: OutboundFrame, *, is_reply: bool = False) -> Offer:
        """Send a message, or queue it.

        :param is_reply: it answers the peer; backpressure then never drops it.
        :returns: what became of it; true if it was sent or will be.
        """
        message = frame.message
        if (is_dig(message.type) and not self.tolerates_dig) or (
            self._etiquette is not None and not self._etiquette.may_send(message.type, message.id)
        ):
            self.unsent[f"{Offer.REFUSED.value}.{opcode_name(message.type)}"] += 1
            return Offer.REFUSED
        offer = self._writer.send(frame, is_reply=is_reply)
        if not offer:
            self.unsent[f"{offer.value}.{opcode_name(message.type)}"] += 1
        return offer

    def allow_posts(self) -> None:
        """Let :attr:`post` send; a peer that may not take everything gets nothing from it."""
        self.post = self._writer.post if self.tolerates_dig else _never_post

    def request(
        self, opcode: int, data: bytes, replies: frozenset[int], timeout: float
    ) -> Deferred[Message]:
        """Send a correlated request.

        :param replies: opcodes that may answer; 255 (Chia's error) always may.
        :param timeout: seconds from the moment it is written until ``RequestTimeout``.
        :returns: fires with the answer, or fails with ``RequestTimeout``, ``PeerNotConnected``
            (the peer was lost) or ``Backpressured`` (no free id, or its queue is too full).
        Cancellation: frees the waiter; a late answer is dropped.
        """
        if not self.remote.accepts_correlated_requests and opcode != ChiaMessageType.REQUEST_PEERS:
            raise WrongDispatch("this peer drops the link on correlated requests")
        if is_dig(opcode) and not self.tolerates_dig:
            raise WrongDispatch("this peer does not know DIG opcodes")
        if self._etiquette is not None and not self._etiquette.may_send(opcode, 0):
            raise WrongDispatch(f"this peer drops the link on a {opcode_name(opcode)} of ours")

        def cancelled(_deferred: Deferred[Message]) -> None:
            self._requests.forget(request_id)
            if waiter.timer is not None:
                waiter.timer.cancel()

        def written() -> None:
            # Waiting in our own queue is not the peer's fault (PRI-103-X).
            waiter.timer = self._clock.call_later(timeout, self._timed_out, request_id)

        waiter = Waiter(Deferred(cancelled))
        request_id = self._requests.open(waiter, replies)
        offer = self.send(OutboundFrame(Message(opcode, request_id, data), written))
        if not offer and self._requests.forget(request_id) is not None:
            waiter.deferred.errback(self.refusal(offer))
        return waiter.deferred

    def refusal(self, offer: Offer) -> GossipError:
        """The error that says why a message was not taken."""
        if offer is Offer.REFUSED:
            return WrongDispatch(f"{self.peer_id.hex()} would drop the link on such a message")
        if offer in (Offer.DROPPED, Offer.OVER_BUDGET, Offer.NO_ROOM, Offer.TOO_LARGE):
            return Backpressured(f"{self.peer_id.hex()}: {offer.value}")
        return PeerNotConnected(self.peer_id)

    def hold(self, holder: object) -> None:
        """Read nothing more from the peer until every holder has released it (BP-104-X)."""
        self._websocket.hold(holder)

    def release(self, holder: object) -> None:
        """Undo :meth:`hold`."""
        self._websocket.release(holder)

    @property
    def held_bytes(self) -> int:
        """How much is kept of messages that come in chunks and are not complete."""
        return self._reassembly.held

    @property
    def is_held(self) -> bool:
        """Whether reading from the peer has stopped, because we cannot keep up with it."""
        return self._websocket.is_held

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection with a WebSocket status code."""
        self._websocket.close(code, reason)

    def abort(self) -> None:
        """Drop the transport."""
        self._websocket.abort()

    def end(self, error: GossipError) -> None:
        """Undo what the session started: timers stop, pending requests fail with ``error``.

        For :class:`~dig_gossip.connection.peers.Peers`, after it removed the session.
        """
        if self._ended:
            return
        self._ended = True
        self._reassembly.clear()
        if self._pulse is not None:
            self._pulse.cancel()
        if self._retirement is not None:
            self._retirement.stop()
        if self._successor is not None:
            return  # whose requests these are now
        for waiter in self._requests.drain():
            if waiter.timer is not None:
                waiter.timer.cancel()
            waiter.deferred.errback(error)

    def move_to(self, successor: Session) -> None:
        """Let another session with the same peer go on where this one stops.

        What waits leaves through ``successor``, and pending requests are answered there; what is
        under way to us is still taken, for :data:`MOVE_SECS`, after which this session closes.
        The peer does the same, so nothing is lost, and nothing is sent twice.

        Source: behaviour RLY-007.2.
        """
        self._successor = successor
        successor._requests = self._requests  # at both ends, so that their ids remain apart
        # The hot path has no if for it.
        self.send = successor.send  # type: ignore[method-assign]
        self.post = successor.post
        for frame in self._writer.surrender():
            successor.send(frame, is_reply=True)  # it was taken once: it is not dropped now
        if self._pulse is not None:
            self._pulse.cancel()
        self._pulse = self._clock.call_later(MOVE_SECS, self._moved)

    def _moved(self) -> None:
        self._owner.session_ended(self, RemovalReason.MOVED)

    def retire(self, heir: Session) -> None:
        """Let a session under another id of ours take the place of this one."""
        if self._pulse is not None:
            self._pulse.cancel()
        self._retirement = Retirement(self, heir, self._clock, self._moved)

    # -- receiving: the websocket's Receiver

    def secured(self, peer_id: PeerId) -> None:
        """Never: renegotiation is off."""

    def opened(self) -> None:
        """The WebSocket was open before the session began."""

    def heard(self) -> None:
        """Note a sign of life."""
        self.keepalive.heard()
        self._owner.read_began()

    def frame_received(self, payload: bytes) -> None:
        """Take one message through decode, count, correlate, and on to the node.

        Source: behaviour MSG-101-X.
        """
        try:
            message = Message.from_bytes(payload)
        except ClientError:
            self.batch_received([None], 0)
        else:
            self.batch_received([message], len(payload))

    def batch_received(self, messages: Sequence[Message | None], octets: int) -> None:
        """The same for messages that came together.

        Runs of messages that are nothing special to a session are passed on in one call each.

        :param messages: None stands for a payload that was no message.
        :param octets: serialized bytes of all of them.
        """
        if self._ended:
            return
        self.messages_received += len(messages)
        self.bytes_received += octets
        self.last_message_time = self._clock.unix()
        limiter, owner, verdict = self._limiter, self._owner, _ACCEPT
        passes = PASSES if self.tolerates_dig else PASSES_CHIA
        has_tag = self._may_have_tag
        passed: list[Message] = []
        for message in messages:
            if message is not None:
                if limiter is not None:
                    verdict = limiter.admit(message.type, len(message.data))
                is_plain = message.id is None or has_tag[message.type]
                if is_plain and passes[message.type] and verdict is _ACCEPT:
                    passed.append(message)
                    continue
            if passed:
                owner.messages_received(self, passed)
                passed = []
                if self._ended:
                    return
            if message is None:
                owner.misbehaved(self, PenaltyReason.MALFORMED_MESSAGE)
            elif verdict is not _ACCEPT:
                owner.limit_exceeded(self, message.type, verdict)
            elif message.type == _CHUNK:
                self._chunk_received(message)
            else:
                self._special_received(message)
                passes = PASSES if self.tolerates_dig else PASSES_CHIA
            if self._ended:
                return
        if passed:
            owner.messages_received(self, passed)

    def _special_received(self, message: Message) -> None:
        opcode = message.type
        if message.id is not None and not self._may_have_tag[opcode]:
            if self._answered(message):
                return
            if self._etiquette is not None:
                self._etiquette.asked(message.id)
            if self.predecessor is not None:
                self.predecessor.asked.add(message.id)
        if not self.tolerates_dig and is_dig(opcode):
            self.tolerates_dig = True
            if self._successor is None and self.predecessor is None:
                self.allow_posts()
            self._etiquette = None
            self._owner.dig_tolerated(self)
        if opcode == ChiaMessageType.HANDSHAKE:
            self._owner.misbehaved(self, PenaltyReason.PROTOCOL_VIOLATION)
            return
        self._owner.messages_received(self, [message])

    def largest_frame(self, opcode: int) -> int:
        """How many bytes a message of this opcode may have, envelope included.

        Source: design D7.
        """
        self._judged = opcode
        if self._largest is None:
            return WS_MAX_MESSAGE_BYTES
        return max_frame_size(opcode, solicited=self._requests.expects(opcode), rows=self._largest)

    def _chunk_received(self, chunk: Message) -> None:
        try:
            message = self._reassembly.received(chunk.data)
            if message is not None:
                self._whole_received(message)
        except ClientError:
            self._owner.misbehaved(self, PenaltyReason.PROTOCOL_VIOLATION)

    def _whole_received(self, message: Message) -> None:
        # It came in chunks; the limits of its own row hold, too.
        if self._limiter is not None:
            verdict = self._limiter.admit(message.type, len(message.data))
            if verdict is not _ACCEPT:
                self._owner.limit_exceeded(self, message.type, verdict)
                return
        self._special_received(message)

    def text_received(self) -> None:
        """Charge the peer; the WebSocket closes next."""
        if not self._ended:
            self._owner.misbehaved(self, PenaltyReason.MALFORMED_MESSAGE)

    def pong_received(self, payload: bytes) -> None:
        """Measure the round trip if this answers our probe."""
        seconds = None if self._ended else self.keepalive.pong(payload)
        if seconds is not None:
            self._owner.rtt_measured(self, seconds)

    def ping(self) -> bool:
        """Measure the round trip now, if that can be; say if anything is read from the peer."""
        can_send = not self._ended and not self.is_held and self._writer.is_writable
        payload = self.keepalive.probe() if can_send else None
        if payload is not None:
            self._writer.ping(payload)
        return not self.is_held

    def closing(self, code: int | None, by_us: bool) -> None:
        """Leave the table at once: nothing can be sent any more.

        A close that Autobahn began on our behalf is the peer's fault.
        """
        if self._ended:
            return
        if by_us and code == 1009:
            self._owner.size_refused(self._judged)
            self._owner.misbehaved(self, PenaltyReason.SPAM)
        elif by_us and code in (1002, 1007):
            self._owner.misbehaved(self, PenaltyReason.PROTOCOL_VIOLATION)
        reason = RemovalReason.ERROR if by_us else RemovalReason.DISCONNECTED
        self._owner.session_ended(self, reason)

    def lost(self, reason: Failure) -> None:
        """Leave the table: the transport is gone."""
        self._owner.session_ended(self, RemovalReason.DISCONNECTED)

    def broken(self, error: GossipError) -> None:
        """The certificate was read before the session began."""

    def contender(self, score: float) -> Candidate[Session]:
        """What speaks for keeping this session when somebody has to leave."""
        return Candidate(
            key=self,
            group=network_group(self.address.host),
            is_local=is_local(self.address.host),
            opened_at=self.opened_at,
            score=score,
            last_transaction=self.last_transaction,
            last_message=self.last_news,
            has_request=self.has_requests,
        )

    def snapshot(self, reputation: PeerReputation, role: PlumtreeRole | None) -> PeerConnection:
        """Describe the session as it is now."""
        return PeerConnection(
            peer_id=self.peer_id,
            address=self.address,
            is_outbound=self.is_outbound,
            node_type=self.remote.node_type,
            protocol_version=self.remote.protocol_version,
            software_version=self.remote.software_version,
            peer_server_port=self.remote.server_port,
            capabilities=self.remote.capabilities,
            creation_time=self.creation_time,
            last_message_time=self.last_message_time,
            messages_sent=self.messages_sent,
            messages_received=self.messages_received,
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            reputation=reputation,
            transport=self.transport,
            plumtree=role,
            queued_messages=self.queued_messages,
            queued_bytes=self._writer.queued_bytes,
            oldest_wait=self.lanes.oldest_wait,
            queue_wait_p99=LaneWaits(*(w.percentile(0.99) for w in self.lanes.waited)),
            wire_wait_p99=LaneWaits(*(w.percentile(0.99) for w in self.lanes.left)),
            is_held=self.is_held,
        )

    def _answered(self, message: Message) -> bool:
        waiter = self._requests.match(message.id, message.type)
        if waiter is None:
            # A late answer must not be mistaken for a request of the peer's own.
            is_late = self._requests.is_late(message.id, message.type)
            self.late_answers += is_late
            return is_late
        if waiter.timer is not None:
            waiter.timer.cancel()
        waiter.deferred.callback(message)
        return True

    def _timed_out(self, request_id: int) -> None:
        waiter = self._requests.timed_out(request_id)
        if waiter is not None:
            waiter.deferred.errback(RequestTimeout(f"no answer from {self.peer_id.hex()}"))

    def _tick(self) -> None:
        is_held = self.is_held
        if is_held:
            # Its pong is not read, so its silence is our doing; but writing shows whether it is
            # still there at all.
            self._writer.ping(b"")
        action = self.keepalive.tick(can_send=self._writer.is_writable and not is_held)
        if isinstance(action, Dead):
            self._owner.misbehaved(self, PenaltyReason.CONNECTION_ISSUE)
            self._owner.session_ended(self, RemovalReason.DEAD)
            return
        if isinstance(action, Probe):
            self._writer.ping(action.payload)
        self._pulse = self._clock.call_later(action.next_delay, self._tick)

    def _overflowed(self) -> None:
        if not self._ended:
            self._owner.misbehaved(self, PenaltyReason.CONNECTION_ISSUE)
            self._owner.session_ended(self, RemovalReason.STALLED)
