"""A connection on its way to becoming something: TCP, TLS, WebSocket, handshake, admission.

Accepted and dialed connections take the same road; only who speaks first differs. One deadline
covers all of it. An opening ends exactly once, with what takes the connection over (a session of
the node; a visit; a visitor of an introducer) or with an error.

Source: behaviour CON-001.2, CON-002.2, CON-002.3; wire §5.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from OpenSSL import SSL
from twisted.internet import error as tcp_errors
from twisted.python.failure import Failure

from dig_gossip.connection import handshake
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.connection.websocket import TEXT_CLOSE, PeerWebSocket, Receiver
from dig_gossip.errors import ClientError, ClientErrorKind, GossipError
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind, shown_host
from dig_gossip.util.clock import Clock
from dig_gossip.util.sanitize import sanitize_text
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType

#: Chia writes the number of its error into the close reason.
_CHIA_CLOSE_REASONS = {"110": ClientErrorKind.WRONG_NETWORK}

#: Who receives from now on, or why nobody does.
Outcome: TypeAlias = Receiver | GossipError


class Abortable(Protocol):
    """What carries a connection before it is known what that is."""

    def abortConnection(self) -> None:
        """Drop it."""


class OpeningHost(Protocol):
    """Who decides about an opening: the table of peers, a visit, an introducer."""

    network: str

    def own_handshake(self) -> bytes:
        """Our handshake body, encoded."""

    def greet(self, opening: Opening) -> None:
        """Decide whether a verified peer that we dialed is greeted at all.

        :raises GossipError: it is not; nothing was said to it yet.
        """

    def register(self, opening: Opening, remote: RemoteHandshake) -> Receiver:
        """Admit the peer, answer it if it dialed, and make it the receiver of the connection.

        :raises GossipError: the peer may not come in.
        """

    def opening_ended(self, opening: Opening, outcome: Outcome) -> GossipError | None:
        """Give back what the opening held; may replace the error by a truer one."""


def _nobody_waits(_outcome: Outcome) -> None:
    """As for most accepted connections."""


class Opening:
    """One connection until it is registered.

    :param address: what was dialed, or where the connection came from.
    :param expected_id: who must be at the other end; None for whoever is there.
    :param transport: how the connection reaches the peer; ``address`` is a relay's if through one.
    :param timeout: seconds from now to the end of the opening.
    :param ended: called once with the outcome.
    :param node_types: who may be at the other end; by default who may be a session.
    :param is_encrypted: whether TLS is used, and the peer therefore has an id.
    """

    def __init__(
        self,
        host: OpeningHost,
        clock: Clock,
        *,
        is_outbound: bool,
        address: PeerAddress,
        timeout: float,
        ended: Callable[[Outcome], object] | None,
        expected_id: PeerId | None = None,
        transport: TransportKind = TransportKind.DIRECT,
        node_types: frozenset[int] | None = None,
        is_encrypted: bool = True,
    ) -> None:
        self.is_outbound = is_outbound
        self.is_encrypted = is_encrypted
        self.address = address
        self.transport = transport
        self.expected_id = expected_id
        self.peer_id: PeerId | None = None
        self.own_id: PeerId | None = None
        self.websocket: PeerWebSocket | None = None
        self._carrier: Abortable | None = None
        self._node_types = node_types or (
            handshake.DIALER_NODE_TYPES if is_outbound else handshake.LISTENER_NODE_TYPES
        )
        self._host = host
        self._clock = clock
        self._ended = ended or _nobody_waits
        #: the capabilities that our handshake names, noted by a host that cares
        self.offered: frozenset[int] = frozenset()
        self._is_open = False
        self._finished = False
        self._deadline = clock.call_later(timeout, self._expired)

    @property
    def host(self) -> str | None:
        """The peer's host; None if the connection shows another one's: a relay's, our Tor's."""
        return shown_host(self.address, self.transport, is_outbound=self.is_outbound)

    def attach(self, websocket: PeerWebSocket, own_id: PeerId | None = None) -> None:
        """Say which WebSocket this is about, once TCP is there.

        :param own_id: whom our certificate says that we are, at this moment.
        """
        self.websocket = websocket
        self.own_id = own_id
        if self._finished:  # given up while TCP was being connected
            self._clock.call_later(0, websocket.abort)

    @property
    def deadline(self) -> float:
        """When it ends at the latest, in monotonic seconds."""
        return self._deadline.deadline

    def carried_by(self, transport: Abortable) -> None:
        """Say what to drop while there is no WebSocket."""
        self._carrier = transport

    def fail(self, error: GossipError, close: tuple[int, str] | None = None) -> None:
        """Give up: close what there is and report ``error``.

        :param close: WebSocket code and reason, by default those that go with the error.
        """
        if self._finished:
            return
        self._finished = True
        self._deadline.cancel()
        if self.websocket is not None:
            if self._is_open:
                self.websocket.close(*(close or handshake.close_code_and_reason(error)))
            else:
                self.websocket.abort()
        elif self._carrier is not None:
            self._carrier.abortConnection()
        self._ended(self._host.opening_ended(self, error) or error)

    def not_connected(self, failure: Failure) -> None:
        """The TCP connection could not be made."""
        if isinstance(failure.value, GossipError):  # a proxy or a rule says why
            self.fail(failure.value)
            return
        kind = ClientErrorKind.REFUSED
        if failure.check(tcp_errors.TimeoutError):
            kind = ClientErrorKind.TIMEOUT
        self.fail(ClientError(kind, f"{self.address}: {failure.getErrorMessage()}"))

    # -- the websocket's Receiver

    def heard(self) -> None:
        """Bytes keep nothing alive before registration: the deadline rules."""

    def secured(self, peer_id: PeerId) -> None:
        """Remember who is there."""
        self.peer_id = peer_id

    def broken(self, error: GossipError) -> None:
        """Without an identity there is no peer, and no other identity to fall back to."""
        self.fail(error)

    def opened(self) -> None:
        """Greet first if we dialed."""
        self._is_open = True
        if not self.is_outbound or self._finished:
            return
        try:
            self._host.greet(self)
        except GossipError as error:
            self.fail(error)
        else:
            self.send_handshake()

    def send_handshake(self) -> None:
        """Introduce ourselves."""
        assert self.websocket is not None
        body = self._host.own_handshake()
        self.websocket.writer.send(OutboundFrame(Message(ChiaMessageType.HANDSHAKE, None, body)))

    def frame_received(self, payload: bytes) -> None:
        """Take the peer's handshake; the first frame must be one."""
        if self._finished:
            return
        try:
            body = handshake.decode(payload)
            remote = handshake.validate(
                body, network_id=self._host.network, node_types=self._node_types
            )
            receiver = self._host.register(self, remote)
        except GossipError as error:
            self.fail(error)
            return
        self._finished = True
        self._deadline.cancel()
        self._host.opening_ended(self, receiver)
        self._ended(receiver)

    def largest_frame(self, opcode: int) -> int | None:
        """Before registration one limit holds for all."""
        return None

    def text_received(self) -> None:
        """Nobody here speaks text."""
        error = ClientError(ClientErrorKind.MISSING_HANDSHAKE, "a text message came first")
        self.fail(error, TEXT_CLOSE)

    def pong_received(self, payload: bytes) -> None:
        """Nothing was asked yet."""

    def closing(self, code: int | None, by_us: bool) -> None:
        """The WebSocket closes before there was a session."""
        if self._finished:
            return
        assert self.websocket is not None
        if by_us:
            self.fail(ClientError(ClientErrorKind.WS, f"protocol error, closed with {code}"))
            return
        code, reason = self.websocket.remote_close
        kind = _CHIA_CLOSE_REASONS.get(reason, ClientErrorKind.REFUSED)
        self.fail(ClientError(kind, f"closed by the peer: {code} {sanitize_text(reason)}".rstrip()))

    def lost(self, reason: Failure) -> None:
        """The transport is gone before there was a session."""
        if isinstance(reason.value, SSL.Error):
            errors = reason.value.args[0] if reason.value.args else []
            # What the system reports is a number and a text instead.
            detail = "; ".join(part[-1] for part in errors) if isinstance(errors, list) else ""
            self.fail(ClientError(ClientErrorKind.TLS, detail or "TLS failed"))
        elif self.peer_id is None and self.is_encrypted:
            self.fail(ClientError(ClientErrorKind.TLS, "connection lost before TLS was done"))
        else:
            self.fail(ClientError(ClientErrorKind.WS, "connection lost before the handshake"))

    def _expired(self) -> None:
        if self.websocket is None:
            stage = "connecting"
        elif self.peer_id is None and self.is_encrypted:
            stage = "waiting for TLS"
        elif not self._is_open:
            stage = "waiting for the WebSocket"
        else:
            stage = "waiting for the handshake"
        # Whoever took this long does not get a polite close to be slow about.
        self._is_open = False
        self.fail(ClientError(ClientErrorKind.TIMEOUT, f"{self.address}: gave up {stage}"))
