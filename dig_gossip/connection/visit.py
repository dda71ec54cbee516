"""Short connections that we dial: to an introducer, or to see whether a node is there.

A visit goes the way of every dial (TCP, TLS, WebSocket, handshake), but leads to no session: it
never enters the table of peers. The errand says what happens after the greeting; the limits for
connections that are not registered hold until the end: 64 KiB a message, 5 frames.

Source: behaviour DSC-004, ISV-104-X, INTR-102-X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.connection.endpoints import Routes
from dig_gossip.connection.errand import Ask, Done, Errand, Step
from dig_gossip.connection.fast_tls import FastTLSFactory
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.connection.opening import Opening, Outcome
from dig_gossip.connection.websocket import OpenTransports, PeerClientFactory, Receiver
from dig_gossip.errors import ChannelClosed, ClientError, ClientErrorKind, GossipError
from dig_gossip.tls.context import PeerTLS
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import handled
from dig_gossip.util.sanitize import sanitize_text
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Destination:
    """Where a visit goes.

    :ivar path: of the WebSocket, with its query if it has one.
    :ivar is_encrypted: ``wss``; otherwise plain ``ws``, and nobody has an id.
    """

    address: PeerAddress
    path: str = "/ws"
    is_encrypted: bool = True


@attrs.frozen
class Report(Generic[T]):
    """What a visit came to.

    :ivar peer_id: who was there; None without TLS.
    """

    result: T
    peer_id: PeerId | None


class Visits:
    """Makes visits.

    :param network: the network's name in handshakes, ours and theirs.
    :param greeting: our handshake body, encoded, as it is at the time of a visit.
    :param listening: where we listen, if anywhere.
    :param may_greet: raises a :class:`GossipError` if nothing is to be said to this peer.
    :param routes: how addresses are reached; directly unless told otherwise.
    Bounds: as many as are asked for; whoever asks keeps count.
    """

    def __init__(
        self,
        *,
        network: str,
        greeting: Callable[[], bytes],
        tls: PeerTLS,
        clock: Clock,
        transports: OpenTransports,
        listening: Callable[[], PeerAddress | None] = lambda: None,
        may_greet: Callable[[PeerId], object] = lambda peer_id: None,
        routes: Routes | None = None,
    ) -> None:
        self.network = network
        self.routes = routes or Routes(clock)
        self.may_greet = may_greet
        self.greeting = greeting
        self.tls = tls
        self.clock = clock
        self.listening = listening
        self.websockets = PeerClientFactory(clock, transports)
        self.under_way: set[_Visit[Any]] = set()

    def __len__(self) -> int:
        return len(self.under_way)

    def visit(
        self,
        destination: Destination,
        errand: Errand[T],
        *,
        connect_timeout: float,
        exchange_timeout: float,
    ) -> Deferred[Report[T]]:
        """Connect, greet, do the errand, leave.

        :param connect_timeout: seconds until TCP is there, the look-up of a name included.
        :param exchange_timeout: seconds from then on for everything else; both are three times as
            long through Tor.
        :returns: fires with the result, or fails with the reason.
        Cancellation: drops the connection.
        """
        patience = self.routes.patience(destination.address)
        return _Visit(self, destination, errand, connect_timeout, exchange_timeout, patience).result

    def stop(self) -> None:
        """Break off every visit."""
        for visit in list(self.under_way):
            visit.fail(ChannelClosed())


class _Visit(Generic[T]):
    """One visit: first the host of its opening, then the receiver of its connection."""

    def __init__(
        self,
        visits: Visits,
        destination: Destination,
        errand: Errand[T],
        connect_timeout: float,
        exchange_timeout: float,
        patience: float,
    ) -> None:
        self.network = visits.network
        self.result: Deferred[Report[T]] = Deferred(self._cancelled)
        self.exchange_timeout = exchange_timeout * patience
        self._visits = visits
        self._destination = destination
        self._errand = errand
        self._remote: RemoteHandshake | None = None
        self._finished = False
        visits.under_way.add(self)
        clock = visits.clock
        # Ours is the deadline that tells the two times apart; the opening's can only agree.
        self._deadline = clock.call_later(connect_timeout * patience, self._expired, "connecting")
        self._opening = Opening(
            self,
            clock,
            is_outbound=True,
            address=destination.address,
            timeout=(connect_timeout + exchange_timeout) * patience + 1,
            ended=self._opened,
            node_types=errand.node_types,
            is_encrypted=destination.is_encrypted,
        )
        self._connecting = self._connect(connect_timeout)

    def _connect(self, timeout: float) -> Deferred[Any]:
        reactor = self._visits.clock.reactor
        factory: Any = _OneVisit(self)
        if self._destination.is_encrypted:
            tls = _Named(self._visits.tls, self._destination.address)
            factory = FastTLSFactory(tls, True, factory, clock=cast(Any, reactor))
            factory.noisy = False
        connecting = self._visits.routes.endpoint(
            self._destination.address, timeout=timeout, listening=self._visits.listening()
        ).connect(factory)
        handled(connecting.addCallbacks(lambda _protocol: None, self._opening.not_connected))
        return connecting

    def connected(self) -> Any:  # Any: Autobahn has no types
        """TCP is there: make the protocol for it."""
        protocol = self._visits.websockets.make(self._destination.address, self._opening)
        protocol.resource = self._destination.path
        self._opening.attach(protocol)
        if not self._finished:
            self._deadline.cancel()
            self._deadline = self._visits.clock.call_later(
                self.exchange_timeout, self._expired, "waiting for an answer"
            )
        return protocol

    # -- the host of the opening

    def own_handshake(self) -> bytes:
        """Our introduction, encoded."""
        return self._visits.greeting()

    def greet(self, opening: Opening) -> None:
        """Ask whether this peer is to be greeted at all."""
        if opening.peer_id is not None:
            self._visits.may_greet(opening.peer_id)

    def register(self, opening: Opening, remote: RemoteHandshake) -> Receiver:
        """Take the connection over."""
        assert opening.websocket is not None
        self._remote = remote
        opening.websocket.receiver = self
        return self

    def opening_ended(self, opening: Opening, outcome: Outcome) -> None:
        """There is no truer error than the one at hand."""

    def _opened(self, outcome: Outcome) -> None:
        if isinstance(outcome, GossipError):
            self._end(Failure(outcome))
            return
        assert self._remote is not None
        self._do(self._errand.greeted(self._remote))

    # -- the receiver

    def secured(self, peer_id: PeerId) -> None:
        """Renegotiation is off, so this cannot happen."""

    def opened(self) -> None:
        """It was open before the greeting."""

    def heard(self) -> None:
        """Bytes keep nothing alive: the deadline rules."""

    def frame_received(self, payload: bytes) -> None:
        """Take one message to the errand."""
        if self._finished:
            return
        try:
            self._do(self._errand.received(Message.from_bytes(payload)))
        except GossipError as error:
            self.fail(error)

    def largest_frame(self, opcode: int) -> int | None:
        """The limit from before the greeting stays."""
        return None

    def text_received(self) -> None:
        """Nobody here speaks text."""
        self.fail(ClientError(ClientErrorKind.MALFORMED, "a text message"))

    def pong_received(self, payload: bytes) -> None:
        """No ping was sent."""

    def closing(self, code: int | None, by_us: bool) -> None:
        """The other end leaves first, or has broken the rules of WebSocket."""
        if self._finished:
            return
        websocket = self._opening.websocket
        assert websocket is not None
        if by_us:
            text = f"protocol error, closed with {code}"
        else:
            code, reason = websocket.remote_close
            text = f"closed by the peer: {code} {sanitize_text(reason)}".rstrip()
        self._end(Failure(ClientError(ClientErrorKind.WS, text)))

    def lost(self, reason: Failure) -> None:
        """The transport is gone."""
        if not self._finished:
            self._end(Failure(ClientError(ClientErrorKind.WS, "lost before the answer")))

    def broken(self, error: GossipError) -> None:
        """The certificate was read before the greeting."""

    # -- the end

    def fail(self, error: GossipError) -> None:
        """Break the visit off."""
        if self._finished:
            return
        if self._remote is None:
            self._opening.fail(error)  # which ends in _opened()
            self._connecting.cancel()
            return
        self._leave()
        self._end(Failure(error))

    def _do(self, step: Step[T]) -> None:
        websocket = self._opening.websocket
        assert websocket is not None
        if isinstance(step, Ask):
            websocket.writer.send(OutboundFrame(step.message))
        elif isinstance(step, Done):
            self._leave()
            self._end(Report(step.result, self._opening.peer_id))

    def _leave(self) -> None:
        websocket = self._opening.websocket
        assert websocket is not None
        self._finished = True  # before closing, which is reported back
        websocket.close(1000)

    def _end(self, outcome: Report[T] | Failure) -> None:
        self._finished = True
        self._deadline.cancel()
        if self not in self._visits.under_way:
            return
        self._visits.under_way.discard(self)
        if isinstance(outcome, Failure):
            self.result.errback(outcome)
        else:
            self.result.callback(outcome)

    def _expired(self, stage: str) -> None:
        websocket = self._opening.websocket
        error = ClientError(
            ClientErrorKind.TIMEOUT, f"{self._destination.address}: gave up {stage}"
        )
        self.fail(error)
        if websocket is not None:  # whoever took this long gets no polite close to be slow about
            websocket.abort()

    def _cancelled(self, _result: Deferred[Report[T]]) -> None:
        self.fail(ChannelClosed("the visit was cancelled"))


class _OneVisit(Factory):
    """Builds the protocol of one visit."""

    noisy = False

    def __init__(self, visit: _Visit[Any]) -> None:
        self._visit = visit

    def buildProtocol(self, addr: IAddress | None) -> Any:  # Any: Autobahn has no types
        return self._visit.connected()


@implementer(IOpenSSLClientConnectionCreator)
class _Named:
    """Tells the other end which name was dialed, for servers that sit behind a proxy (SNI)."""

    def __init__(self, tls: PeerTLS, address: PeerAddress) -> None:
        self._tls = tls
        self._address = address

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """Start the TLS side of the visit."""
        connection = self._tls.clientConnectionForTLS(tlsProtocol)
        if self._address.ip is None:
            connection.set_tlsext_host_name(self._address.host.encode("ascii"))
        return connection
