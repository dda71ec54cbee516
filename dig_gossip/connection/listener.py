"""The accept path: a listening port, a gate in front of TLS, an opening for who passes.

Source: behaviour CON-002, CON-002.1, CON-113-X.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.tcp import makeBinding
from twisted.python.failure import Failure

from dig_gossip.connection.fast_tls import FastTLSFactory
from dig_gossip.connection.opening import Opening
from dig_gossip.connection.websocket import OpenTransports, PeerServerFactory, PeerServerProtocol
from dig_gossip.errors import Io
from dig_gossip.tls.context import PeerTLS
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock

_BACKLOG = 128

#: The first byte of a TLS connection; that of a request in plain HTTP is a letter.
_TLS_HANDSHAKE = 0x16


class Host(Protocol):
    """Who decides about incoming connections: the table of peers, an introducer."""

    def accept(self, address: PeerAddress) -> Opening | None:
        """The opening that a connection belongs to, or None to close it at once."""


class Gate(Factory):
    """Refuses who may not come in before a byte is spent on TLS.

    It stands around the TLS factory because that one must never be told "no": it wraps whatever
    its own wrapped factory builds.
    """

    noisy = False

    def __init__(
        self,
        host: Host,
        tls: PeerTLS | None,
        clock: Clock,
        transports: OpenTransports,
        *,
        is_mixed: bool = False,
    ) -> None:
        #: who may take a connection for another purpose than to accept a peer
        self.take: Callable[[PeerAddress], Any] = _nobody  # Any: a factory, or None
        self._host = host
        self._is_mixed = is_mixed
        self._inner = _Inner(PeerServerFactory(clock, transports), tls)
        self._tls = None
        if tls is not None:
            self._tls = FastTLSFactory(tls, False, self._inner, clock=cast(Any, clock.reactor))

    def buildProtocol(self, addr: IAddress | None) -> TwistedProtocol | None:
        host = cast(Any, addr)
        source = PeerAddress(host.host, host.port)
        taken = self.take(source)
        if taken is not None:
            return cast(TwistedProtocol, taken.buildProtocol(addr))
        opening = self._host.accept(source)
        if opening is None:
            return None
        if self._is_mixed:
            return _FirstByte(self, opening, host)
        return self.build(opening, host, is_encrypted=self._tls is not None)

    def build(self, opening: Opening, addr: IAddress, *, is_encrypted: bool) -> TwistedProtocol:
        """Make the protocol of a connection that was let in."""
        opening.is_encrypted = is_encrypted
        self._inner.opening = opening
        factory = cast(Any, self._tls if is_encrypted else self._inner)
        return cast(TwistedProtocol, factory.buildProtocol(addr))


class _FirstByte(TwistedProtocol):
    """Waits for the first byte, which tells TLS from plain HTTP, and makes way."""

    def __init__(self, gate: Gate, opening: Opening, addr: IAddress) -> None:
        self._gate = gate
        self._opening = opening
        self._addr = addr

    def connectionMade(self) -> None:
        self._opening.carried_by(cast(Any, self.transport))

    def dataReceived(self, data: bytes) -> None:
        transport = cast(Any, self.transport)
        is_encrypted = data[0] == _TLS_HANDSHAKE
        protocol = self._gate.build(self._opening, self._addr, is_encrypted=is_encrypted)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._opening.lost(reason)


def _nobody(_source: PeerAddress) -> None:
    """Every connection is a peer's that dialed us."""


class _Inner(Factory):
    """Hands the opening of the connection at hand to its protocol."""

    noisy = False
    opening: Opening

    def __init__(self, websockets: PeerServerFactory, tls: PeerTLS | None) -> None:
        self._websockets = websockets
        self._tls = tls

    def buildProtocol(self, addr: IAddress | None) -> PeerServerProtocol:
        assert addr is not None
        protocol = self._websockets.make(addr, self.opening)
        self.opening.attach(protocol, None if self._tls is None else self._tls.identity.peer_id)
        return protocol


class Listener:
    """The listening port of a node, or of an introducer.

    Binding happens in :meth:`start`, synchronously, so that a failure can end the program.

    :param tls: None for plain WebSocket.
    :param is_mixed: take plain WebSocket as well, on the same port.
    :param shares_port: whether connections of ours are to come from the same port, as hole
        punching needs it.
    :ivar gate: decides about each connection.
    """

    def __init__(
        self,
        host: Host,
        tls: PeerTLS | None,
        clock: Clock,
        transports: OpenTransports,
        *,
        is_mixed: bool = False,
        shares_port: bool = False,
    ) -> None:
        self.gate = Gate(host, tls, clock, transports, is_mixed=is_mixed)
        self._shares_port = shares_port
        self._reactor = cast(Any, clock.reactor)  # Any: also IReactorTCP and IReactorSocket
        self._port: IListeningPort | None = None

    @property
    def is_listening(self) -> bool:
        """Whether the port is open."""
        return self._port is not None

    def start(self, address: PeerAddress) -> PeerAddress:
        """Bind and accept.

        :param address: an IP literal and a port; port 0 lets the system choose.
        :returns: the address bound, with the port resolved.
        :raises Io: the address cannot be bound.
        """
        try:
            if address.host == "::":
                port = self._listen_dual_stack(address.port)
            else:
                port = self._listen(address)
        except OSError as error:  # CannotListenError is none, its cause is
            raise _cannot_bind(address, error) from error
        except Exception as error:
            raise _cannot_bind(address, error) from error
        self._port = port
        return PeerAddress(address.host, cast(Any, port.getHost()).port)

    def stop(self) -> Deferred[None]:
        """Stop accepting; what was accepted goes on."""
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        return port.stopListening() or succeed(None)

    def _listen(self, address: PeerAddress) -> IListeningPort:
        if not self._shares_port:
            port = self._reactor.listenTCP(
                address.port, self.gate, backlog=_BACKLOG, interface=address.host
            )
        else:
            binding = makeBinding(address.host, address.port, reuseAddress=True, reusePort=True)
            port = self._reactor.listenTCP(
                binding, self.gate, backlog=_BACKLOG, interface=address.host
            )
        return cast(IListeningPort, port)

    def _listen_dual_stack(self, port: int) -> IListeningPort:
        # Twisted leaves IPV6_V6ONLY to the system's default; we want IPv4 on the same socket.
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as listening:
            listening.setblocking(False)
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if self._shares_port:
                    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listening.bind((str(ipaddress.IPv6Address(0)), port))
            listening.listen(_BACKLOG)
            adopted = self._reactor.adoptStreamPort(listening.fileno(), socket.AF_INET6, self.gate)
        return cast(IListeningPort, adopted)


def _cannot_bind(address: PeerAddress, error: Exception) -> Io:
    cause = getattr(error, "socketError", error)
    return Io(
        f"cannot listen on {address}: {cause}. Is another node running there? "
        "Choose another address with listen_addr (--listen)."
    )
