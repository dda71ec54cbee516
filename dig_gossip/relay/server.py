"""The relay as a Twisted service: sockets around :class:`~dig_gossip.relay.registry.Registry`.

Three ports at most: the relay itself (``ws``, or ``wss`` with an identity), a page with its health
as JSON, and a STUN responder on UDP.

Source: behaviour §28; design D13.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site

from dig_gossip._version import __version__
from dig_gossip.connection.fast_tls import FastTLSFactory
from dig_gossip.connection.websocket import OpenTransports
from dig_gossip.errors import GossipError, Io
from dig_gossip.relay.registry import HangUp, Registry, RelayEffect
from dig_gossip.relay.stun_responder import StunResponder
from dig_gossip.relay.websocket import RelayServerFactory, RelayServerProtocol, frame
from dig_gossip.tls.context import PeerTLS
from dig_gossip.tls.identity import Identity
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.types.relay import RelayLimits, RelayServerConfig
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled

TICK_SECS: Final = 1.0
STOP_TIMEOUT_SECS: Final = 5.0
LARGEST_FRAME_BYTES: Final = 67_108_864  # where the limit is lifted
_BACKLOG: Final = 512


class RelayServer(Service):
    """One relay.

    :param identity: what it shows, as a peer does; ``wss`` with one, ``ws`` without.
    :ivar bound: where it listens once it is started, with the port resolved.
    """

    _log = Logger()

    def __init__(
        self, config: RelayServerConfig, clock: Clock, identity: Identity | None = None
    ) -> None:
        self.bound: PeerAddress | None = None
        self.health_bound: PeerAddress | None = None
        self.stun_bound: PeerAddress | None = None
        self.registry = Registry(config.limits, now=clock.monotonic, unix=clock.unix)
        self.transports = OpenTransports()
        self._config = config
        self._clock = clock
        self._reactor = cast(Any, clock.reactor)  # Any: several reactor interfaces at once
        self._identity = identity
        self._stun = StunResponder(now=clock.monotonic)
        self._connections: dict[int, _Connection] = {}
        self._numbers = 0
        self._ports: list[IListeningPort] = []
        self._timer: Timer | None = None
        self._started_at = 0.0

    # -- life

    def startService(self) -> None:
        """Bind everything; :raises Io: an address cannot be bound."""
        config = self._config
        self._started_at = self._clock.monotonic()
        try:
            self.bound = self._listen(config.listen_addr, self._factory())
            if config.health_addr is not None:
                self.health_bound = self._listen(config.health_addr, _health_site(self))
            if config.stun_addr is not None:
                self.stun_bound = self._listen_udp(config.stun_addr)
        except BaseException:
            handled(self._stop_listening())
            raise
        super().startService()  # type: ignore[no-untyped-call]
        self._timer = self._clock.call_later(TICK_SECS, self._tick)
        self._log.info(
            "relay listens on {address} ({scheme})",
            event="relay_started",
            address=str(self.bound),
            scheme="ws" if self._identity is None else "wss",
        )

    def stopService(self) -> Deferred[None]:
        """Close every connection with 1001; fires when all are gone, 5 s later at most."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._timer is not None:
            self._timer.cancel()
        closing = self._stop_listening()
        for connection in list(self._connections.values()):
            connection.websocket.close(1001, "the relay stops")
        gone = self.transports.when_empty()
        deadline = self._clock.call_later(STOP_TIMEOUT_SECS, self.transports.abort)

        def done(_result: object) -> None:
            deadline.cancel()

        return DeferredList([closing, gone]).addBoth(done)

    # -- what is told

    def health(self) -> dict[str, Any]:  # Any: JSON
        """The health report: status, peers, uptime, version, and every counter."""
        return {
            "status": "ok",
            "connected_peers": self.registry.registered,
            "connections": len(self.registry),
            "uptime_secs": int(self._clock.monotonic() - self._started_at),
            "version": __version__,
            "queue_dropped": self.registry.counters["queue_dropped"],
            "stun_answered": self._stun.answered,
            "stun_ignored": self._stun.ignored,
            "counters": dict(sorted(self.registry.counters.items())),
        }

    # -- for connections

    def perform(self, effects: list[RelayEffect]) -> None:
        """Do what the registry wants done."""
        for effect in effects:
            if isinstance(effect, HangUp):
                connection = self._connections.get(effect.connection)
                if connection is not None:
                    connection.websocket.close(effect.code, effect.reason)
                continue
            encoded = frame(effect.data, as_client=False)
            for number in effect.connections:
                connection = self._connections.get(number)
                if connection is not None and not connection.websocket.outbox.send(encoded):
                    self.registry.counters["queue_dropped"] += 1

    def accept(self, address: PeerAddress) -> int | None:
        """Let a TCP connection in, or not."""
        if not self.running or not self.registry.may_connect(address.host):
            return None
        self._numbers += 1
        self.registry.connected(self._numbers, address)
        return self._numbers

    def attach(self, connection: _Connection) -> None:
        """The connection has its WebSocket."""
        self._connections[connection.number] = connection

    def lost(self, connection: _Connection) -> None:
        """The connection is gone."""
        self._connections.pop(connection.number, None)
        self.perform(self.registry.disconnected(connection.number))

    # -- inside

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK_SECS, self._tick)
        self.perform(self.registry.tick())

    def _factory(self) -> Factory:
        tls = None
        if self._identity is not None:
            tls = PeerTLS(self._identity, is_mutual=self._config.requires_certificate)
        return _Gate(self, tls, self._clock, self._config.limits)

    def _listen(self, address: PeerAddress, factory: Any) -> PeerAddress:  # Any: as listenTCP
        try:
            port = self._reactor.listenTCP(
                address.port, factory, backlog=_BACKLOG, interface=address.host
            )
        except Exception as error:
            raise _cannot_bind(address, error) from error
        self._ports.append(port)
        return PeerAddress(address.host, port.getHost().port)

    def _listen_udp(self, address: PeerAddress) -> PeerAddress:
        try:
            port = self._reactor.listenUDP(
                address.port, _StunProtocol(self._stun), interface=address.host
            )
        except Exception as error:
            raise _cannot_bind(address, error) from error
        self._ports.append(port)
        return PeerAddress(address.host, port.getHost().port)

    def _stop_listening(self) -> Deferred[Any]:  # Any: the results of the ports
        ports, self._ports = self._ports, []
        return DeferredList([port.stopListening() or succeed(None) for port in ports])


def _cannot_bind(address: PeerAddress, error: Exception) -> Io:
    cause = getattr(error, "socketError", error)
    return Io(f"cannot listen on {address}: {cause}")


class _Gate(Factory):
    """Refuses before a byte is spent on TLS."""

    noisy = False

    def __init__(
        self, server: RelayServer, tls: PeerTLS | None, clock: Clock, limits: RelayLimits
    ) -> None:
        self._server = server
        self._inner = _Inner(server, RelayServerFactory(clock, server.transports), limits)
        self._outer: Any = self._inner  # Any: either factory
        if tls is not None:
            self._outer = FastTLSFactory(tls, False, self._inner, clock=cast(Any, clock.reactor))
            self._outer.noisy = False

    def buildProtocol(self, addr: IAddress | None) -> TwistedProtocol | None:
        host = cast(Any, addr)
        number = self._server.accept(PeerAddress(host.host, host.port))
        if number is None:
            return None
        self._inner.number = number
        return cast(TwistedProtocol, self._outer.buildProtocol(cast(Any, addr)))


class _Inner(Factory):
    """Hands the number of the connection at hand to its protocol."""

    noisy = False
    number = 0

    def __init__(
        self, server: RelayServer, websockets: RelayServerFactory, limits: RelayLimits
    ) -> None:
        self._server = server
        self._websockets = websockets
        self._limits = limits

    def buildProtocol(self, addr: IAddress | None) -> RelayServerProtocol:
        assert addr is not None
        connection = _Connection(self._server, self.number)
        protocol = cast(RelayServerProtocol, self._websockets.make(addr, cast(Any, connection)))
        protocol.frame_bytes = self._limits.frame_bytes or LARGEST_FRAME_BYTES
        protocol.queue_frames = self._limits.queue_frames
        connection.websocket = protocol
        self._server.attach(connection)
        return protocol


class _Connection:
    """One client's WebSocket, known by its number."""

    websocket: RelayServerProtocol

    def __init__(self, server: RelayServer, number: int) -> None:
        self.number = number
        self._server = server

    def secured(self, peer_id: PeerId) -> None:
        """Its certificate decides its id."""
        self._server.registry.identified(self.number, peer_id)

    def broken(self, error: GossipError) -> None:
        """It has no certificate, where none is needed."""

    def opened(self) -> None:
        """It has ten seconds to register."""

    def heard(self) -> None:
        """Only whole messages keep it alive."""

    def relayed(self, data: bytes, is_binary: bool) -> None:
        """Give a message to the registry."""
        server = self._server
        server.perform(server.registry.received(self.number, data, is_binary))

    def pong_received(self, payload: bytes) -> None:
        """We never ping."""

    def closing(self, code: int | None, by_us: bool) -> None:
        """A frame above the limit is a strike."""
        if by_us and code == 1009:
            self._server.registry.too_large(self.number)

    def lost(self, reason: Failure) -> None:
        """It is gone."""
        self._server.lost(self)


class _StunProtocol(DatagramProtocol):
    noisy = False

    def __init__(self, responder: StunResponder) -> None:
        self._responder = responder

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        host, port = addr[0], addr[1]
        answer = self._responder.answer(datagram, PeerAddress(host, port))
        if answer is not None:
            cast(Any, self.transport).write(answer, addr)


class _Health(Resource):
    isLeaf = True

    def __init__(self, server: RelayServer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._server = server

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        return json.dumps(self._server.health()).encode() + b"\n"


def _health_site(server: RelayServer) -> Site:
    root = Resource()
    root.putChild(b"health", _Health(server))
    site = Site(root)
    site.noisy = False
    return site
