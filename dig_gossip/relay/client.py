"""The node's connection to its relay::

    TCP ─ TLS? ─ WebSocket ─ Membership ─┬─ who is there, coordinates ─▶ RelayHost
                                         └─ frames of tunnels ─────────▶ TunnelHub

One long connection serves for everything. When it is lost it is made again, after a growing delay;
that the relay is down never keeps the node from running. Only while the node's id changes there
are two: see :mod:`dig_gossip.relay.former`.

Source: behaviour §27; wire §14.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from random import Random
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

from twisted.internet import error as tcp_errors
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.endpoints import Routes
from dig_gossip.connection.fast_tls import FastTLSFactory
from dig_gossip.connection.stack import PeerStack
from dig_gossip.connection.websocket import OpenTransports
from dig_gossip.constants import DEFAULT_RELAY_PORT
from dig_gossip.errors import GossipError, RelayError
from dig_gossip.relay.hub import TunnelHost, TunnelHub
from dig_gossip.relay.membership import (
    Coordinate,
    Failed,
    Membership,
    MembershipEffect,
    PeerArrived,
    PeerLeft,
    Registered,
    Say,
    Stage,
    Tunneled,
    Unvouched,
)
from dig_gossip.relay.puncher import shared_endpoint
from dig_gossip.relay.reconnection import Reconnection
from dig_gossip.relay.websocket import RelayClientFactory, RelayClientProtocol
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind
from dig_gossip.types.sections import RelayConfig
from dig_gossip.types.stats import RelayStats
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled

TICK_SECS: Final = 1.0
#: The largest frame that is taken from a relay: 1000 peers with eight addresses each fit.
FRAME_BYTES: Final = 1_048_576


class RelayState(enum.Enum):
    """Where the client is."""

    DISABLED = "disabled"
    CONNECTING = "connecting"
    REGISTERING = "registering"
    CONNECTED = "connected"
    BACKOFF = "backoff"
    EXHAUSTED = "exhausted"


class RelayHost(TunnelHost, Protocol):
    """The node, as its relay's client sees it."""

    def relay_registered(self, observed: PeerAddress | None) -> None:
        """The relay has taken us in; ``observed`` is where it sees us."""

    def relay_lost(self) -> None:
        """The relay is not there any more, nor is anybody that was reached through it.

        The client comes again unless it is stopped here.
        """

    def relay_failed(self) -> None:
        """An attempt to register came to nothing; the client comes again later, or has given up."""

    def relay_peer(self, peer: PeerId, addresses: tuple[PeerAddress, ...]) -> None:
        """Somebody can be reached through the relay."""

    def relay_peer_left(self, peer: PeerId) -> None:
        """Somebody cannot any more."""

    def relay_message(self, payload: bytes) -> None:
        """A whole message came that nobody vouches for."""

    def relay_coordinate(self, peer: PeerId, address: PeerAddress) -> None:
        """Dial an address now: the peer does the same."""


def relay_address(endpoint: str) -> tuple[PeerAddress, bool]:
    """Where a configured relay is, and whether with TLS.

    :param endpoint: a URL that the configuration has checked.
    """
    parts = urlsplit(endpoint)
    secure = parts.scheme == "wss"
    return PeerAddress(parts.hostname or "", parts.port or DEFAULT_RELAY_PORT), secure


class RelayClient:
    """Keeps a node registered at one relay.

    One client serves for one id of the node: peers count what they send to each.

    :param network_id: the network's name, as relays know it.
    :param own_ids: all ids that are, or lately were, this node's.
    :param listen_addrs: where the node can be dialed, asked at each registration.
    :param bound: where the node listens, with a port that can be shared. The connection comes from
        that port, too, so that the relay sees what a NAT makes of it.
    :param routes: how addresses are reached; through Tor the connection has no port of ours.
    :ivar hub: the tunnels.
    """

    _log = Logger()

    def __init__(
        self,
        config: RelayConfig,
        host: RelayHost,
        stack: PeerStack,
        clock: Clock,
        rng: Random,
        transports: OpenTransports,
        *,
        network_id: str,
        own_ids: Callable[[], frozenset[PeerId]],
        listen_addrs: Callable[[], tuple[PeerAddress, ...]],
        bound: Callable[[], PeerAddress | None] = lambda: None,
        routes: Routes | None = None,
    ) -> None:
        self.state = RelayState.DISABLED
        self.address, self._is_secure = relay_address(config.endpoint)
        self._config = config
        self._host = host
        self._tls = stack.tls
        self._clock = clock
        self._routes = routes or Routes(clock)
        self._listen_addrs = listen_addrs
        self._membership = Membership(
            network_id,
            own_ids=own_ids,
            ping_interval=config.ping_interval_secs,
            now=clock.monotonic,
        )
        self._reconnection = Reconnection(
            config.reconnect_delay_secs, config.max_reconnect_attempts, rng
        )
        self._factory = RelayClientFactory(clock, transports)
        self._bound = bound
        self._shares_port = True
        self._connecting: Deferred[Any] | None = None
        self._socket: RelayClientProtocol | None = None
        self._timer: Timer | None = None
        self._retry: Timer | None = None
        self._deadline: Timer | None = None
        self._registered_at = 0.0
        self._messages_sent = self._messages_received = 0
        self._bytes_sent = self._bytes_received = 0
        self._failures_before = 0
        self._last_connected_at: int | None = None
        self.hub = TunnelHub(
            host,
            self,
            stack,
            clock,
            rng,
            address=self.address,
            is_paced=config.is_paced,
        )

    # -- life

    def start(self) -> None:
        """Begin to connect; never waits."""
        if self._config.enabled and self.state is RelayState.DISABLED:
            self._timer = self._clock.call_later(TICK_SECS, self._tick)
            self._connect()

    def stop(self) -> None:
        """Say goodbye and connect no more."""
        self.state = RelayState.DISABLED
        for timer in (self._timer, self._retry, self._deadline):
            if timer is not None:
                timer.cancel()
        self._perform(self._membership.leave())
        self._drop(RelayError("the node stops"), is_failure=False)

    def retire(self, host: RelayHost) -> None:
        """Carry the sessions that there are, under an id that is not ours any more.

        :param host: is told instead of the node, and stops the client when the relay is lost.
        """
        self._host = host
        self._membership.list_no_more()
        self.hub.retire(host)

    def reconnect(self) -> None:
        """Try again at once, also after it was given up."""
        if self.state in (RelayState.BACKOFF, RelayState.EXHAUSTED):
            self._reconnection.restart()
            if self._retry is not None:
                self._retry.cancel()
            self._connect()

    # -- questions

    @property
    def is_registered(self) -> bool:
        """Whether the relay has taken us in."""
        return self.state is RelayState.CONNECTED

    @property
    def local(self) -> PeerAddress | None:
        """Where the connection to the relay comes from, as this machine sees it."""
        if self._socket is None:
            return None
        host = cast(Any, self._socket).transport.getHost()
        return PeerAddress(host.host, host.port)

    def peers(self) -> dict[PeerId, tuple[PeerAddress, ...]]:
        """Who can be reached, and where each says it can be dialed."""
        return self._membership.peers

    def stats(self) -> RelayStats | None:
        """The counters, while we are registered."""
        if not self.is_registered:
            return None
        return RelayStats(
            connected=True,
            messages_sent=self._messages_sent,
            messages_received=self._messages_received,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            reconnect_attempts=self._failures_before,
            last_connected_at=self._last_connected_at,
            relay_peer_count=len(self._membership.peers),
            latency_ms=self._membership.latency_ms,
        )

    # -- hole punching

    def request_punch(self, peer: PeerId, external: PeerAddress) -> None:
        """Ask, through the relay, that a peer dials us."""
        self._perform(self._membership.request_punch(peer, external))

    def report_punch(self, peer: PeerId, success: bool) -> None:
        """Tell the peer how it went."""
        self._perform(self._membership.report_punch(peer, success))

    # -- the hub's carrier

    @property
    def is_writable(self) -> bool:
        """Whether what is sent now leaves at once."""
        return self._socket is not None and self.is_registered and self._socket.outbox.is_writable

    @property
    def is_binary(self) -> bool:
        """Whether payloads travel as they are."""
        return self._membership.is_binary

    def carry(self, peer: PeerId, payload: bytes) -> None:
        """Send a payload to a peer."""
        self._messages_sent += 1
        self._bytes_sent += len(payload)
        self._perform(self._membership.message(peer, payload))

    # -- the websocket's receiver

    def secured(self, peer_id: PeerId) -> None:
        """Whoever the relay is: it is not trusted anyway."""

    def broken(self, error: GossipError) -> None:
        """A relay need not have a certificate that we can read."""

    def heard(self) -> None:
        """Only whole messages count."""

    def opened(self) -> None:
        """Register first of all."""
        assert self._socket is not None
        self.state = RelayState.REGISTERING
        self._socket.outbox.on_room = self.hub.pump
        self.hub.begin()
        own_id = self._tls.identity.peer_id
        self._perform(self._membership.begin(own_id, self._listen_addrs()))

    def relayed(self, data: bytes, is_binary: bool) -> None:
        """One message came in."""
        self._perform(self._membership.received(data, is_binary))

    def pong_received(self, payload: bytes) -> None:
        """We never ping at this level: it does not count for relays."""

    def closing(self, code: int | None, by_us: bool) -> None:
        """The relay, or Autobahn on our behalf, ends it."""
        self._drop(RelayError(f"closed with {code}"))

    def lost(self, reason: Failure) -> None:
        """The transport is gone."""
        self._drop(RelayError("the connection was lost"))

    # -- inside

    def _connect(self) -> None:
        self.state = RelayState.CONNECTING
        timeout = self._config.connection_timeout_secs
        patience = self._routes.patience(self.address)
        self._deadline = self._clock.call_later(2 * timeout * patience, self._too_late)
        factory: Any = _OneSocket(self._factory, self)
        if self._is_secure:
            factory = FastTLSFactory(self._tls, True, factory, clock=cast(Any, self._clock.reactor))
            factory.noisy = False
        connecting: Deferred[Any] = self._make_endpoint().connect(factory)
        self._connecting = connecting
        handled(connecting.addCallbacks(self._connected, self._not_connected))

    def _make_endpoint(self) -> IStreamClientEndpoint:
        if self._routes.transport_to(self.address) is TransportKind.TOR:
            return self._routes.endpoint(self.address, timeout=self._config.connection_timeout_secs)
        return shared_endpoint(
            cast(Any, self._clock.reactor),
            self.address,
            timeout=self._config.connection_timeout_secs,
            bound=self._bound() if self._shares_port else None,
        )

    def _connected(self, _protocol: object) -> None:
        self._connecting = None

    def _not_connected(self, failure: Failure) -> None:
        if self._connecting is None:
            return  # it was given up
        self._connecting = None
        if self.state is not RelayState.CONNECTING or self._socket is not None:
            return
        if self._shares_port and _is_port_taken(failure):
            # The last connection from our port to the relay is not over yet for the system.
            self._shares_port = False
            self._drop_deadline()
            self._connect()
        else:
            self._failed(RelayError(failure.getErrorMessage()))
            self._host.relay_failed()

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _too_late(self) -> None:
        self._drop(RelayError("no registration in time"))

    def attached(self, socket: RelayClientProtocol) -> None:
        """TCP is there."""
        self._socket = socket

    def _perform(self, effects: list[MembershipEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Say):
                if self._socket is not None:
                    self._socket.say(effect.data)
            elif isinstance(effect, Tunneled):
                self._messages_received += 1
                self._bytes_received += len(effect.payload)
                self.hub.received(effect.peer, effect.payload)
            elif isinstance(effect, PeerArrived):
                self._host.relay_peer(effect.peer, effect.addresses)
            elif isinstance(effect, PeerLeft):
                self.hub.peer_gone(effect.peer)
                self._host.relay_peer_left(effect.peer)
            elif isinstance(effect, Coordinate):
                self._host.relay_coordinate(effect.peer, effect.address)
            elif isinstance(effect, Unvouched):
                self._host.relay_message(effect.payload)
            elif isinstance(effect, Registered):
                self._registered(effect.observed)
            elif isinstance(effect, Failed):
                self._drop(effect.error, is_final=effect.is_final)
                return

    def _registered(self, observed: PeerAddress | None) -> None:
        self.state = RelayState.CONNECTED
        self._drop_deadline()
        self._shares_port = True
        self._registered_at = self._clock.monotonic()
        self._last_connected_at = int(self._clock.unix())
        self._failures_before = self._reconnection.failures
        self._log.info(
            "registered at the relay {address}",
            event="relay_registered",
            address=str(self.address),
        )
        self._host.relay_registered(observed)

    def _drop(self, error: RelayError, *, is_failure: bool = True, is_final: bool = False) -> None:
        """End what there is of a connection, whatever stage it is in."""
        self._drop_deadline()
        connecting, self._connecting = self._connecting, None
        socket, self._socket = self._socket, None
        was_registered = self._membership.stage is Stage.REGISTERED
        if socket is None and connecting is None:
            return
        effects = self._membership.lost()
        self.hub.relay_lost()
        if socket is not None:
            socket.receiver = cast(Any, _NOBODY)
            socket.close(1000)
        elif connecting is not None:
            connecting.cancel()
        for effect in effects:
            if isinstance(effect, PeerLeft):
                self._host.relay_peer_left(effect.peer)
        if was_registered:
            self._reconnection.lost_after(self._clock.monotonic() - self._registered_at)
            self._host.relay_lost()
        if is_failure and self.state is not RelayState.DISABLED:
            self._failed(error, is_final=is_final)
            if not was_registered:
                self._host.relay_failed()

    def _failed(self, error: RelayError, *, is_final: bool = False) -> None:
        self._drop_deadline()
        delay = None if is_final else self._reconnection.next_delay()
        if delay is None:
            self.state = RelayState.EXHAUSTED
            self._log.info(
                "the relay {address} is given up: {error}",
                event="relay_exhausted",
                address=str(self.address),
                error=str(error),
            )
            return
        self.state = RelayState.BACKOFF
        self._log.info(
            "no relay at {address}: {error}; again in {delay} s",
            event="relay_failed",
            address=str(self.address),
            error=str(error),
            delay=round(delay, 1),
        )
        self._retry = self._clock.call_later(delay, self._connect)

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK_SECS, self._tick)
        self._perform(self._membership.tick())
        self.hub.tick()


def _is_port_taken(failure: Failure) -> bool:
    taken = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
    return (
        failure.check(tcp_errors.ConnectBindError) is not None
        or getattr(failure.value, "osError", None) in taken
    )


class _Nobody:
    """Takes what a connection says that we have given up."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args: None


_NOBODY: Final = _Nobody()


class _OneSocket(Factory):
    """Builds the WebSocket of one connection to the relay."""

    noisy = False

    def __init__(self, websockets: RelayClientFactory, client: RelayClient) -> None:
        self._websockets = websockets
        self._client = client

    def buildProtocol(self, addr: IAddress | None) -> Any:  # Any: Autobahn has no types
        client = self._client
        protocol = cast(
            RelayClientProtocol, self._websockets.make(client.address, cast(Any, client))
        )
        protocol.frame_bytes = FRAME_BYTES
        client.attached(protocol)
        return protocol
