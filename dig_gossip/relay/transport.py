"""A tunnel as a Twisted transport: TLS and WebSocket run over it as over TCP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.types.peer import PeerAddress, PeerId


class TunnelOwner(Protocol):
    """What a transport needs of the relay's client."""

    def tunnel_write(self, peer: PeerId, data: bytes) -> bool:
        """Queue bytes; returns whether the writer may go on."""

    def tunnel_waiting(self, peer: PeerId) -> int:
        """Bytes that wait to be sent."""

    def tunnel_consumed(self, peer: PeerId, size: int) -> None:
        """Received bytes are dealt with."""

    def tunnel_close(self, peer: PeerId) -> None:
        """End the tunnel; ``ended`` of the transport follows."""


def _twisted_address(address: PeerAddress) -> IPv4Address | IPv6Address:
    kind = IPv6Address if ":" in address.host else IPv4Address
    return kind("TCP", address.host, address.port)


@implementer(ITCPTransport)
class TunnelTransport:
    """One end of a tunnel.

    :param address: the relay's: there is no other that could be told.
    Bounds: what is received while reading is paused is limited by the tunnel's window.
    """

    disconnecting = False

    def __init__(self, owner: TunnelOwner, peer: PeerId, address: PeerAddress) -> None:
        self.protocol: IProtocol | None = None
        self.connected = True
        self._owner = owner
        self._peer = peer
        self._address = _twisted_address(address)
        self._held: list[bytes] = []
        self._reading = True
        self._aborted = False
        self._producer: Any = None  # Any: push or pull
        self._producer_paused = False

    # -- for the client

    def received(self, data: bytes) -> None:
        """Bytes came out of the tunnel."""
        if not self._reading:
            self._held.append(data)
            return
        self._deliver(data)

    def drained(self) -> None:
        """The tunnel takes more."""
        if self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()

    def flushed(self) -> None:
        """Nothing waits any more: a close that was asked for can happen."""
        if self.disconnecting and self.connected and not self._owner.tunnel_waiting(self._peer):
            self._owner.tunnel_close(self._peer)

    def ended(self, is_clean: bool) -> None:
        """The tunnel is over."""
        if not self.connected:
            return
        self.connected = False
        self._held.clear()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        reason: Exception = ConnectionAborted() if self._aborted else ConnectionLost()
        if is_clean and not self._aborted:
            reason = ConnectionDone()
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(reason))

    # -- ITransport

    def write(self, data: bytes) -> None:
        if not self.connected or self.disconnecting or not data:
            return
        goes_on = self._owner.tunnel_write(self._peer, data)
        if not goes_on and self._producer is not None and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.connected or self.disconnecting:
            return
        self.disconnecting = True
        self.flushed()

    def abortConnection(self) -> None:
        if not self.connected:
            return
        self.disconnecting = True
        self._aborted = True
        self._owner.tunnel_close(self._peer)

    def loseWriteConnection(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address | IPv6Address:
        return self._address

    def getHost(self) -> IPv4Address | IPv6Address:
        return self._address

    def getTcpKeepAlive(self) -> bool:
        return False

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    # -- IConsumer and IPushProducer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if not self.connected:
            producer.stopProducing()
            return
        self._producer = producer
        self._producer_paused = False

    def unregisterProducer(self) -> None:
        self._producer = None
        self._producer_paused = False

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        self._reading = True
        held, self._held = self._held, []
        for position, data in enumerate(held):
            if not self._reading:  # paused again meanwhile
                self._held = held[position:]
                return
            self._deliver(data)

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- inside

    def _deliver(self, data: bytes) -> None:
        if self.protocol is not None:
            self.protocol.dataReceived(data)
        self._owner.tunnel_consumed(self._peer, len(data))
