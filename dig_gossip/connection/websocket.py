"""Autobahn's WebSocket protocols, tamed: bytes become frames for one receiver.

Every rule here was learned by experiment with Autobahn; each has a test that fails without it.
The protocol classes know nothing of messages or peers: they tell a :class:`Receiver`, which is
first the connection's opening and later its session.

Callbacks come in this order. Server: ``connectionMade``, ``handshakeCompleted`` (TLS),
``onConnect``, ``onOpen``, ``onMessage`` …, ``connectionLost``. Client: the same with
``onConnecting`` after ``connectionMade``. Nothing of ours is started before ``onOpen``.
"""

from __future__ import annotations

import socket
from typing import Any, Protocol, cast

import txaio
from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.types import ConnectingRequest, ConnectionDeny
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IHandshakeListener
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.connection.fast_frames import FastFrames
from dig_gossip.connection.quiet import quiet
from dig_gossip.connection.rate_table import CHIA_MAX_MESSAGE_BYTES, ENVELOPE_BYTES
from dig_gossip.connection.receive_budget import ReceiveBudget
from dig_gossip.connection.send_budget import SendBudget
from dig_gossip.connection.writer import Writer
from dig_gossip.constants import (
    CLOSE_TIMEOUT_SECS,
    MAX_FRAMES_PER_MESSAGE,
    PRE_HANDSHAKE_MAX_FRAMES,
    PRE_HANDSHAKE_MAX_MESSAGE_BYTES,
    PRE_OPEN_MAX_BYTES,
    UNSENT_MAX_BYTES,
    UNWRITTEN_MAX_BYTES,
    WS_MAX_MESSAGE_BYTES,
)
from dig_gossip.errors import GossipError
from dig_gossip.tls.context import peer_id_of
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import Observers
from dig_gossip.wire.message import Message

#: An answer that we asked for may be this large (design D7).
LARGEST_MESSAGE_BYTES = CHIA_MAX_MESSAGE_BYTES + ENVELOPE_BYTES
_PATHS = frozenset({"/ws", "/"})
#: Code and reason for whoever sends text.
TEXT_CLOSE = (1003, "binary messages only")


class Receiver(Protocol):
    """Who is told what a connection receives."""

    def secured(self, peer_id: PeerId) -> None:
        """TLS is done; this is who they are."""

    def opened(self) -> None:
        """The WebSocket is open: frames may be sent."""

    def heard(self) -> None:
        """Bytes came in, of whatever kind."""

    def frame_received(self, payload: bytes) -> None:
        """One binary message came in."""

    def largest_frame(self, opcode: int) -> int | None:
        """How many bytes a message that begins with this opcode may have; None: as any other.

        Asked before its body is buffered, if it is larger than 64 KiB (design D7).
        """

    def text_received(self) -> None:
        """A text message came in, which nobody here speaks; the connection closes next."""

    def pong_received(self, payload: bytes) -> None:
        """A ping was answered."""

    def closing(self, code: int | None, by_us: bool) -> None:
        """The WebSocket has begun to close: nothing more will be received or sent."""

    def lost(self, reason: Failure) -> None:
        """The transport is gone."""

    def broken(self, error: GossipError) -> None:
        """The other end cannot be identified."""


class BatchReceiver(Protocol):
    """A receiver that wants small messages by the batch."""

    def batch_received(self, messages: list[Message | None], octets: int) -> None:
        """Messages came in together; where they are below 64 KiB, instead of ``frame_received``.

        :param messages: in order; None stands for what was no message.
        :param octets: their serialized bytes.
        """

    def read_done(self) -> None:
        """All that came in together has been reported."""

    @property
    def held_bytes(self) -> int:
        """How much it keeps of messages that are not complete."""


class OpenTransports:
    """The transports that exist, whether they belong to a session or not.

    Bounded by the gates: every transport begins as an opening.

    :param budget: for what all of them hold of unfinished messages; None for none.
    :param send_budget: for what waits to be sent; None for none.
    """

    def __init__(
        self, budget: ReceiveBudget | None = None, send_budget: SendBudget | None = None
    ) -> None:
        self.budget = budget
        self.send_budget = send_budget
        self._open: set[PeerWebSocket] = set()
        self._empty: Observers[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, websocket: PeerWebSocket) -> None:
        """A transport was made."""
        self._open.add(websocket)

    def discard(self, websocket: PeerWebSocket) -> None:
        """A transport is gone."""
        self._open.discard(websocket)
        if not self._open and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.succeed(None)

    def when_empty(self) -> Deferred[None]:
        """Fire when the last transport is gone; at once if there is none."""
        if not self._open:
            return succeed(None)
        if self._empty is None:
            self._empty = Observers()
        return self._empty.when()

    def abort(self) -> None:
        """Drop all of them."""
        for websocket in list(self._open):
            websocket.abort()


class PeerWebSocket:
    """What our server and client protocols share; mixed in before Autobahn's class."""

    # Autobahn logs what a hostile peer dictates, at levels up to error.
    log = txaio.make_logger(level="none")
    _log = Logger()

    # Autobahn looks for this before it copies the factory's options.
    tcpNoDelay = True

    #: Whether somebody overrides ``onMessage`` and wants text there.
    takes_text = False

    #: How many frames may come before :meth:`registered`.
    max_early_frames = PRE_HANDSHAKE_MAX_FRAMES

    #: Smaller messages are judged when they are decoded; larger ones at their header.
    _always_fits = 65_536

    receiver: Receiver
    clock: Clock
    transports: OpenTransports
    writer: Writer
    _frames = 0
    _early_frames = 0
    _is_registered = False
    _batches: BatchReceiver | None = None
    _takes_messages = False
    _holders: set[object]
    _deadline: Timer | None = None
    _close_code: int | None = None

    # -- what the owner does with a connection

    def registered(self, batches: BatchReceiver | None = None) -> None:
        """The peer has introduced itself: allow messages of full size.

        :param batches: gets the messages; the same object as :attr:`receiver`.
        """
        autobahn = cast(Any, self)  # Any: Autobahn has no types
        self._is_registered = True
        self._batches = batches
        self._takes_messages = batches is not None
        autobahn.maxMessagePayloadSize = autobahn.maxFramePayloadSize = LARGEST_MESSAGE_BYTES

    def close(self, code: int, reason: str = "") -> None:
        """Close with a WebSocket status code; abort if the peer does not play along in time.

        Before the WebSocket is open there is nothing to say, so the transport is aborted.
        """
        autobahn = cast(Any, self)
        if autobahn.state == autobahn.STATE_OPEN:
            self.writer.close()
            # sendClose() refuses the codes that we need (1001, 1002, 1008 …).
            self.sendCloseFrame(code, reason.encode("utf-8")[:123], False)
        elif autobahn.state in (autobahn.STATE_CONNECTING, autobahn.STATE_PROXY_CONNECTING):
            self.abort()

    def abort(self) -> None:
        """Drop the transport now."""
        cast(Any, self).transport.abortConnection()

    def hold(self, holder: object) -> None:
        """Read nothing more from the transport until every holder has released it.

        What was read already still comes in: 64 KiB at most. Nothing holds a connection that
        closes: its good-bye is to be read.
        """
        autobahn = cast(Any, self)
        if autobahn.state == autobahn.STATE_OPEN and holder not in self._holders:
            self._holders.add(holder)
            if len(self._holders) == 1:
                autobahn.transport.pauseProducing()

    def release(self, holder: object) -> None:
        """Undo :meth:`hold`; harmless without it."""
        if holder in self._holders:
            self._holders.discard(holder)
            if not self._holders:
                cast(Any, self).transport.resumeProducing()

    @property
    def is_held(self) -> bool:
        """Whether reading has stopped."""
        return bool(self._holders)

    @property
    def remote_close(self) -> tuple[int | None, str]:
        """Code and reason of the peer's close frame, if it sent one."""
        autobahn = cast(Any, self)
        return autobahn.remoteCloseCode, autobahn.remoteCloseReason or ""

    def send_ping(self, payload: bytes) -> None:
        """For the writer: put a ping on the wire."""
        cast(Any, self).sendPing(payload)

    def send_pong(self, payload: bytes) -> None:
        """For the writer: put a pong on the wire."""
        cast(Any, self).sendPong(payload)

    # -- what Twisted and Autobahn call

    def connectionMade(self) -> None:
        autobahn = cast(Any, self)
        # Set on the instance first: Autobahn keeps what it finds.
        autobahn.maxMessagePayloadSize = PRE_HANDSHAKE_MAX_MESSAGE_BYTES
        autobahn.maxFramePayloadSize = PRE_HANDSHAKE_MAX_MESSAGE_BYTES
        self._holders = set()
        self.writer = Writer(
            autobahn,
            as_client=not autobahn.factory.isServer,
            clock=self.clock,
            memory=self.transports.send_budget,
        )
        self.transports.add(self)
        super().connectionMade()  # type: ignore[misc]
        _limit_unsent(autobahn.transport)

    def dataReceived(self, data: bytes) -> None:
        autobahn = cast(Any, self)
        if autobahn.state == autobahn.STATE_CLOSED:
            return  # Autobahn would keep all of it until the transport is gone
        self.receiver.heard()
        try:
            autobahn._dataReceived(data)
        finally:
            self._read_done()
        # The HTTP part is buffered without limit and scanned again with every read.
        if autobahn.state == autobahn.STATE_CONNECTING and len(autobahn.data) > PRE_OPEN_MAX_BYTES:
            self.abort()

    def plaintext_received(self, memory: memoryview, start: int, stop: int) -> None:
        autobahn = cast(Any, self)
        if autobahn.state != autobahn.STATE_OPEN:
            self.dataReceived(bytes(memory[start:stop]))
            return
        self.receiver.heard()
        try:
            autobahn._take_view(memory, start, stop)
        finally:
            self._read_done()

    def handshakeCompleted(self) -> None:
        try:
            peer_id = peer_id_of(cast(Any, self).transport)
        except GossipError as error:
            self.receiver.broken(error)
        else:
            self.receiver.secured(peer_id)

    def onOpen(self) -> None:
        self._guarded(self._opened)

    def _onOpen(self) -> None:
        # Autobahn would ask the transport for channel ids and certificates again.
        self.onOpen()

    def onFrameBegin(self) -> None:
        super().onFrameBegin()  # type: ignore[misc]
        if not self._is_registered:
            self._count_early_frame()

    def _binary_message(self, payload: bytes) -> None:
        if not self._is_registered and not self._count_early_frame():
            return
        self._guarded(self.receiver.frame_received, payload)

    def _messages_received(self, messages: list[Message | None], octets: int) -> None:
        assert self._batches is not None
        self._guarded(self._batches.batch_received, messages, octets)

    def _frame_limit(self, first: int, length: int) -> int | None:
        return self.receiver.largest_frame(first)

    def onMessageBegin(self, isBinary: bool) -> None:
        self._frames = 0
        super().onMessageBegin(isBinary)  # type: ignore[misc]
        if not isBinary and not self.takes_text:
            # At the header: nothing of it is kept.
            self._guarded(self._text_received)

    def onMessageFrameData(self, payload: bytes) -> None:
        if cast(Any, self).state == WebSocketServerProtocol.STATE_OPEN:
            super().onMessageFrameData(payload)  # type: ignore[misc]

    def onMessageFrameBegin(self, length: int) -> None:
        self._frames += 1
        super().onMessageFrameBegin(length)  # type: ignore[misc]
        autobahn = cast(Any, self)
        if self._frames > MAX_FRAMES_PER_MESSAGE and not autobahn.failedByMe:
            # Empty continuation frames never reach a size limit.
            autobahn._max_message_size_exceeded(self._frames, MAX_FRAMES_PER_MESSAGE, "fragments")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        autobahn = cast(Any, self)
        if autobahn.state != autobahn.STATE_OPEN:
            return  # Autobahn goes on delivering after our own close frame
        self._guarded(self.receiver.frame_received, payload)

    def onPing(self, payload: bytes) -> None:
        self.writer.pong(payload)

    def onPong(self, payload: bytes) -> None:
        self._guarded(self.receiver.pong_received, payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        pass  # connectionLost says it, always and once

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        # Every way out of OPEN passes here, also Autobahn's own verdicts and replies.
        autobahn = cast(Any, self)
        if autobahn.state != autobahn.STATE_OPEN:
            return
        self.writer.flush()
        super().sendCloseFrame(code, reasonUtf8, isReply)  # type: ignore[misc]
        self._leaving(autobahn.remoteCloseCode if isReply else code, not isReply)

    def _fail_connection(self, code: int = 1002, reason: str = "") -> None:
        # Autobahn would read on, for the peer's close frame; but that only comes after the rest
        # of what was wrong, which may have no end.
        super()._fail_connection(code, reason)  # type: ignore[misc]
        self.dropConnection()

    def dropConnection(self, abort: bool = False) -> None:
        # A server aborts as soon as both close frames are exchanged. It takes a close frame that
        # it has just refused for the answer to its own, which the abort would then swallow.
        super().dropConnection(abort and not cast(Any, self).wasClean)  # type: ignore[misc]
        self._start_deadline()

    def connectionLost(self, reason: Failure) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self.writer.stopProducing()
        self._holders.clear()
        super().connectionLost(reason)  # type: ignore[misc]
        self.receiver.lost(reason)
        if self.transports.budget is not None:
            self.transports.budget.forget(self)
        self.transports.discard(self)

    # -- inside

    def _read_done(self) -> None:
        if self._batches is not None:
            self._batches.read_done()
        self._report_held()

    def _report_held(self) -> None:
        budget = self.transports.budget
        if budget is not None:
            held: int = cast(Any, self).half_received
            if self._batches is not None:
                held += self._batches.held_bytes
            budget.report(self, held)

    def _count_early_frame(self) -> bool:
        self._early_frames += 1
        if self._early_frames > self.max_early_frames:
            self._fail_connection(1008, "too many frames")
            return False
        return True

    def _opened(self) -> None:
        self.writer.open()
        self.receiver.opened()

    def _text_received(self) -> None:
        if cast(Any, self).state != WebSocketServerProtocol.STATE_OPEN:
            return
        # First who is to blame: closing ends the receiver's interest.
        self.receiver.text_received()
        self.close(*TEXT_CLOSE)

    def _leaving(self, code: int | None, by_us: bool) -> None:
        self.writer.close()
        self._start_deadline()
        for holder in list(self._holders):
            self.release(holder)
        self._guarded(self.receiver.closing, code, by_us)

    def _start_deadline(self) -> None:
        # With Autobahn's timers off nothing else ends a peer that never answers our close.
        if self._deadline is None:
            self._deadline = self.clock.call_later(CLOSE_TIMEOUT_SECS, self.abort)

    def _guarded(self, function: Any, *args: Any) -> None:  # Any: callbacks of any shape
        # An exception out of an Autobahn callback ends in an unhandled Deferred, or nowhere,
        # and leaves the connection as it was.
        try:
            function(*args)
        except Exception:
            self._log.failure(
                "a callback failed; the connection is closed", event="callback_failed"
            )
            self.close(1011)


@implementer(IHandshakeListener)
class PeerServerProtocol(PeerWebSocket, FastFrames, quiet(WebSocketServerProtocol)):  # type: ignore[misc]
    """The accepting end."""

    log = PeerWebSocket.log

    def onConnect(self, request: Any) -> None:
        if request.path not in _PATHS:
            raise ConnectionDeny(404, "not here")


@implementer(IHandshakeListener)
class PeerClientProtocol(PeerWebSocket, FastFrames, quiet(WebSocketClientProtocol)):  # type: ignore[misc]
    """The dialing end."""

    log = PeerWebSocket.log
    target: PeerAddress
    resource = "/ws"

    def onConnecting(self, transport_details: Any) -> ConnectingRequest:
        # Autobahn's own Host header is not valid for IPv6 literals.
        host = f"[{self.target.host}]" if ":" in self.target.host else self.target.host
        return ConnectingRequest(
            host=host, port=self.target.port, resource=self.resource, headers={}, protocols=[]
        )

    def onConnect(self, response: Any) -> None:
        pass

    def processHandshake(self) -> None:
        try:
            super().processHandshake()
        except UnicodeDecodeError:  # it wants to log the response
            self.failHandshake("the response is not text")


def _limit_unsent(transport: Any) -> None:  # Any: a TLS transport over whatever carries it
    """Keep what waits above the socket: the kernel buffers little that is not under way (D9)."""
    carrier: Any = getattr(transport, "transport", None)
    if hasattr(carrier, "bufferSize"):
        # Twisted pauses its producer, which is the writer, beyond this.
        carrier.bufferSize = UNWRITTEN_MAX_BYTES
    get_handle = getattr(carrier, "getHandle", None)
    handle = None if get_handle is None else get_handle()
    if isinstance(handle, socket.socket) and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        try:
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_MAX_BYTES)
        except OSError:
            pass  # not TCP, or gone already


#: Everything explicit: the defaults are unlimited sizes, an HTML page and a version banner, and
#: timers on the global reactor with whole-second rounding.
_OPTIONS: dict[str, Any] = {  # Any: Autobahn's options
    "maxFramePayloadSize": WS_MAX_MESSAGE_BYTES,
    "maxMessagePayloadSize": WS_MAX_MESSAGE_BYTES,
    "failByDrop": False,
    "openHandshakeTimeout": 0,
    "closeHandshakeTimeout": 0,
    "autoPingInterval": 0,
    "tcpNoDelay": True,
    "utf8validateIncoming": True,
}


def _refuse_compression(_offers: Any) -> None:
    return None


class PeerServerFactory(WebSocketServerFactory):  # type: ignore[misc]
    """Makes accepting protocols; the caller gives each its receiver."""

    log = PeerWebSocket.log
    protocol = PeerServerProtocol
    noisy = False

    def __init__(self, clock: Clock, transports: OpenTransports) -> None:
        super().__init__(server=None, reactor=clock.reactor)
        self._clock = clock
        self._transports = transports
        self.setProtocolOptions(
            webStatus=False, perMessageCompressionAccept=_refuse_compression, **_OPTIONS
        )

    def make(self, address: IAddress, receiver: Receiver) -> PeerServerProtocol:
        """Build the protocol of one accepted connection."""
        protocol = cast(PeerServerProtocol, super().buildProtocol(address))
        protocol.clock = self._clock
        protocol.transports = self._transports
        protocol.receiver = receiver
        return protocol


class PeerClientFactory(WebSocketClientFactory):  # type: ignore[misc]
    """Makes dialing protocols; one factory serves every dial."""

    log = PeerWebSocket.log
    protocol = PeerClientProtocol
    noisy = False

    def __init__(self, clock: Clock, transports: OpenTransports) -> None:
        super().__init__(useragent=None, reactor=clock.reactor)
        self._clock = clock
        self._transports = transports
        self.setProtocolOptions(
            serverConnectionDropTimeout=0, perMessageCompressionOffers=[], **_OPTIONS
        )

    def make(self, target: PeerAddress, receiver: Receiver) -> PeerClientProtocol:
        """Build the protocol of one dial."""
        protocol = cast(PeerClientProtocol, super().buildProtocol(None))
        protocol.clock = self._clock
        protocol.transports = self._transports
        protocol.receiver = receiver
        protocol.target = target
        return protocol
