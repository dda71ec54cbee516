"""In-memory TCP: two ends, ordered bytes, latency, stalls, back-pressure, half-open peers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

if TYPE_CHECKING:
    from dig_gossip.testing.network import MemoryNetwork

#: Bytes that the sending side may have under way before its producer is paused: the socket
#: buffers of both ends and Twisted's own.
WINDOW = 262_144

#: Sums of floats may fall short of the moment they aim at.
_ROUNDING = 1e-9


@implementer(ITCPTransport)
class MemoryTransport:
    """One end of an in-memory connection."""

    disconnecting = False

    def __init__(
        self,
        network: MemoryNetwork,
        host: IPv4Address | IPv6Address,
        peer: IPv4Address | IPv6Address,
    ) -> None:
        self._network = network
        self._host = host
        self._peer = peer
        self.protocol: IProtocol | None = None
        self.other: MemoryTransport | None = None
        self.connected = True
        self.bytes_written = 0
        self._incoming: deque[tuple[float, bytes | None]] = deque()  # None is FIN
        self._in_flight = 0  # of what we wrote, not yet delivered
        self._last_arrival = 0.0
        self._reading = True
        self._pump_at: float | None = None
        self._producer: Any = None
        self._producer_paused = False

    # -- ITransport

    def write(self, data: bytes) -> None:
        if not self.connected or self.disconnecting or not data:
            return
        other = self.other
        assert other is not None
        self.bytes_written += len(data)
        self._in_flight += len(data)
        other._arrives(data)
        if self._in_flight > WINDOW and self._producer is not None and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.connected or self.disconnecting:
            return
        self.disconnecting = True
        self._reading = False
        if not self._producer_paused:
            self._finish()

    def abortConnection(self) -> None:
        if not self.connected:
            return
        self.disconnecting = True
        self._reading = False
        other = self.other
        self._network.clock.callLater(0, self._lose, ConnectionAborted())
        if other is not None and self._network.flows(self._host.host, self._peer.host):
            delay = self._network.latency(self._host.host, self._peer.host)
            self._network.clock.callLater(delay, other._lose, ConnectionLost())

    def getPeer(self) -> IPv4Address | IPv6Address:
        return self._peer

    def getHost(self) -> IPv4Address | IPv6Address:
        return self._host

    def getTcpKeepAlive(self) -> bool:
        return False

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def loseWriteConnection(self) -> None:
        self.loseConnection()

    # -- IConsumer and IPushProducer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        self._producer = producer
        self._producer_paused = False
        if not self.connected:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        self._producer = None
        self._producer_paused = False
        if self.connected and self.disconnecting:
            self._finish()

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self._reading = True
            self._wake()

    def stopProducing(self) -> None:
        self.loseConnection()

    # -- the wire

    def _finish(self) -> None:
        # Everything written is on its way; FIN follows it.
        if self.other is not None:
            self.other._arrives(None)
        self._network.clock.callLater(0, self._lose, ConnectionDone())

    def _arrives(self, data: bytes | None) -> None:
        if not self.connected:
            return
        network = self._network
        now = network.clock.seconds()
        delay = network.delay(self._peer.host, self._host.host)
        self._last_arrival = max(self._last_arrival, now + delay)
        self._incoming.append((self._last_arrival, data))
        self._wake()

    def _wake(self) -> None:
        if not self._incoming or not self._reading or not self.connected:
            return
        when = self._incoming[0][0]
        if self._pump_at is None or when < self._pump_at:
            self._pump_at = when
            delay = when - self._network.clock.seconds()
            self._network.clock.callLater(delay, self._pump)

    def _pump(self) -> None:
        self._pump_at = None
        network = self._network
        if not network.flows(self._peer.host, self._host.host):
            network.stalled.append(self)
            return
        while self._incoming and self._reading and self.connected:
            when, data = self._incoming[0]
            if when > network.clock.seconds() + _ROUNDING:
                break
            self._incoming.popleft()
            if data is None:
                self._lose(ConnectionDone())
                return
            if self.other is not None:
                self.other._delivered(len(data))
            assert self.protocol is not None
            self.protocol.dataReceived(data)
        self._wake()

    def _delivered(self, count: int) -> None:
        self._in_flight -= count
        if self._in_flight <= WINDOW // 4 and self._producer_paused and self.connected:
            self._producer_paused = False
            if self._producer is not None:
                self._network.clock.callLater(0, self._resume)

    def _resume(self) -> None:
        if self._producer is not None and not self._producer_paused and self.connected:
            self._producer.resumeProducing()

    def _lose(self, reason: Exception) -> None:
        if not self.connected:
            return
        if not self._network.is_alive(self._host.host):
            return
        self.connected = False
        self.disconnecting = True
        self._incoming.clear()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if self.protocol is not None:
            self.protocol.connectionLost(Failure(reason))
