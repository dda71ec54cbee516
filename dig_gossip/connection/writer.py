"""The one place from which the messages of a connection leave.

What waits, waits here, above the socket, where it can still be overtaken, counted, bounded and
thrown away::

    send() ──▶ transport            while nothing waits and the transport takes data
    send() ──▶ lanes ──▶ transport  while it does not (``pauseProducing`` … ``resumeProducing``),
                                    or while a rate budget is spent (until a timer says it is not)

Invariants: nothing is written while paused, except one close frame; a message never overtakes
another of its lane; the lanes hold at most ``MAX_QUEUED_MESSAGES`` messages and
``MAX_QUEUED_BYTES`` bytes: beyond that a peer that has stopped reading is given up
(``overflowed`` is called, once), while for one that our own rate limits hold up new messages are
refused. A large message for a peer that agrees to it leaves in chunks, so that a critical one
waits for one chunk at most. A peer that pings and does not read gets at most one pong, the answer
to its latest ping (RFC 6455 §5.5.3 allows that).

Source: behaviour §20, §21; design D9; style §5.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IPushProducer, ITransport
from zope.interface import implementer

from dig_gossip.connection.lanes import Lanes, Offer
from dig_gossip.connection.rate_limit import OutboundLimiter
from dig_gossip.constants import NORMAL_DELAY_FLUSH_INTERVAL_MS
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.wire.frames import OutboundFrame

_NORMAL_DELAY_SECS = NORMAL_DELAY_FLUSH_INTERVAL_MS / 1000
_SOONEST_SECS = 0.001


class WriterOwner(Protocol):
    """What a writer needs from its WebSocket protocol."""

    transport: ITransport

    def send_ping(self, payload: bytes) -> None: ...
    def send_pong(self, payload: bytes) -> None: ...


@implementer(IPushProducer)
class Writer:
    """Queue of one connection; a streaming producer for its transport.

    :param as_client: whether our frames must be masked.
    """

    __slots__ = (
        "_as_client",
        "_budget",
        "_clock",
        "_open",
        "_overflowed",
        "_owner",
        "_paused",
        "_pong",
        "_retry",
        "bytes_sent",
        "lanes",
        "messages_sent",
    )

    def __init__(self, owner: WriterOwner, *, as_client: bool, clock: Clock) -> None:
        self.lanes = Lanes(now=clock.monotonic)
        self.messages_sent = 0
        self.bytes_sent = 0
        self._owner = owner
        self._as_client = as_client
        self._clock = clock
        self._budget: OutboundLimiter | None = None
        self._pong: bytes | None = None
        self._paused = False
        self._open = False
        self._retry: Timer | None = None
        self._overflowed: Callable[[], None] | None = None

    @property
    def is_writable(self) -> bool:
        """Whether the transport takes data at this moment."""
        return self._open and not self._paused

    @property
    def is_open(self) -> bool:
        """Whether messages are accepted."""
        return self._open

    @property
    def queued_messages(self) -> int:
        """How many messages wait."""
        return len(self.lanes)

    @property
    def queued_bytes(self) -> int:
        """How many serialized bytes wait."""
        return self.lanes.bytes

    def open(self) -> None:
        """Begin: from now on the transport says when it can take more."""
        self._open = True
        self._owner.transport.registerProducer(self, True)  # type: ignore[attr-defined]

    def configure(self, lanes: Lanes, budget: OutboundLimiter | None = None) -> None:
        """Apply what the peer's handshake has settled; before anything waits.

        :param lanes: the queue to use from now on, with its levels and the same ``budget``.
        :param budget: outbound rate limits.
        """
        self.lanes = lanes
        self._budget = budget

    def close(self) -> None:
        """Accept nothing more and forget what waits. The transport forgets us on its own."""
        self._open = False
        self.lanes.clear()
        self._pong = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def on_overflow(self, overflowed: Callable[[], None]) -> None:
        """Say whom to call, once, when the peer has stopped reading."""
        self._overflowed = overflowed

    def send(self, frame: OutboundFrame, *, is_reply: bool = False) -> Offer:
        """Send a message now or as soon as the transport and the limits allow.

        :param is_reply: it answers the peer, so that backpressure never drops it.
        :returns: what became of it; true if it was sent or will be.
        """
        if not self._open:
            return Offer.CLOSED
        opcode, size = frame.message.type, len(frame.message.data)
        budget = self._budget
        if budget is not None and not budget.can_ever(opcode, size):
            return Offer.TOO_LARGE
        lanes = self.lanes
        if self._paused or len(lanes) or lanes.must_be_cut(frame) or not lanes.may_go(frame):
            return self._enqueue(frame, is_reply)
        self._write(frame)
        return Offer.SENT

    def ping(self, payload: bytes) -> bool:
        """Send a ping, unless the transport is busy: a probe must not wait in a queue."""
        if not self.is_writable:
            return False
        self._owner.send_ping(payload)
        return True

    def pong(self, payload: bytes) -> None:
        """Answer a ping now, or, when the transport is busy, only the latest one later."""
        if self.is_writable:
            self._owner.send_pong(payload)
        elif self._open:
            self._pong = payload

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self.lanes.passed_on()
        self._drain()

    def stopProducing(self) -> None:
        self.close()

    # -- inside

    def _write(self, frame: OutboundFrame) -> None:
        self.messages_sent += 1
        self.bytes_sent += frame.size
        if frame.written is not None:
            frame.written()
        self._owner.transport.write(frame.encoded(self._as_client))

    def _enqueue(self, frame: OutboundFrame, is_reply: bool) -> Offer:
        offer = self.lanes.offer(frame, is_reply=is_reply)
        if offer is Offer.OVERFLOW and not self._paused:
            return Offer.OVER_BUDGET  # the peer reads; it is our own limits that hold it up
        if offer is Offer.OVERFLOW:
            self.close()
            overflowed, self._overflowed = self._overflowed, None
            if overflowed is not None:
                overflowed()
        elif not self._paused:
            self._drain()  # it waits for its budget, or is to be cut
        elif offer is Offer.DELAYED:
            self._wake_in(_NORMAL_DELAY_SECS)
        return offer

    def _drain(self) -> None:
        if self._pong is not None and self.is_writable:
            pong, self._pong = self._pong, None
            self._owner.send_pong(pong)
        while self.is_writable:
            frame = self.lanes.take()
            if frame is None:
                break
            self._write(frame)
        if self.is_writable:
            self.lanes.passed_on()
        wait = self.lanes.blocked_for
        if self._open and not self._paused and wait is not None:
            self._wake_in(max(wait, _SOONEST_SECS))

    def _wake_in(self, seconds: float) -> None:
        if self._retry is None or not self._retry.active:
            self._retry = self._clock.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self.lanes.release()
        self._drain()
        if self.lanes.delayed:
            self._wake_in(_NORMAL_DELAY_SECS)
