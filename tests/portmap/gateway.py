"""A gateway in memory, with none of our code in it, and a reactor whose datagrams it answers."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed

from dig_gossip.testing.clock import SimulatedClock

OURS = "192.168.1.2"
LATENCY = 0.001


class Row(NamedTuple):
    """A mapping that the gateway has.

    :ivar owner: the nonce; empty for NAT-PMP, which has none.
    """

    host: str
    port: int
    owner: bytes
    ends: float


class SimulatedGateway:
    """Maps TCP ports, as RFC 6886 and RFC 6887 say.

    :ivar rows: what is mapped, by external port.
    :ivar speaks: ``pcp``, ``nat-pmp``; empty for one that answers nothing.
    :ivar refuses: a result to answer MAP requests with, instead of a mapping.
    :ivar lifetime: what is granted at most.
    :ivar lost: how many of the next requests get lost.
    :ivar requests: everything that came.
    """

    def __init__(self, clock: SimulatedClock, *speaks: str) -> None:
        self.host = "192.168.1.1"
        self.external = "77.1.2.3"
        self.speaks = set(speaks)
        self.rows: dict[int, Row] = {}
        self.refuses = 0
        self.lifetime = 3600
        self.lost = 0
        self.requests: list[bytes] = []
        self._clock = clock
        self._booted = clock.seconds() - 1000

    def restart(self) -> None:
        """Forget everything."""
        self.rows.clear()
        self._booted = self._clock.seconds()

    @property
    def mapped(self) -> dict[int, tuple[str, int]]:
        """What has not ended, by external port."""
        now = self._clock.seconds()
        return {way: (row.host, row.port) for way, row in self.rows.items() if row.ends > now}

    def answer(self, request: bytes, source: str) -> bytes | None:
        """The answer to a datagram."""
        self.requests.append(request)
        if self.lost:
            self.lost -= 1
            return None
        if request[0] == 2 and "pcp" in self.speaks:
            return self._pcp(request, source)
        if request[0] == 0 and "nat-pmp" in self.speaks:
            return self._natpmp(request, source)
        if self.speaks == {"nat-pmp"}:
            return struct.pack("!BBHI", 0, 0x80 | request[1], 1, self._age)
        if self.speaks == {"pcp"}:
            return struct.pack("!BBBBII12x", 2, 0x80 | request[1], 0, 1, 0, self._age)
        return None

    def address_response(self) -> bytes:
        """What NAT-PMP answers, and announces."""
        host = ipaddress.IPv4Address(self.external).packed
        return struct.pack("!BBHI", 0, 0x80, 0, self._age) + host

    def pcp_response(
        self, request: bytes, result: int, lifetime: int, way: int, *, host: str = ""
    ) -> bytes:
        """What PCP answers, and says unasked of a mapping."""
        head = struct.pack("!BBBBII12x", 2, 0x81, 0, result, lifetime, self._age)
        packed = bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(host or self.external).packed
        return head + request[24:42] + struct.pack("!H", way) + packed

    @property
    def _age(self) -> int:
        return int(self._clock.seconds() - self._booted)

    def _map(self, source: str, port: int, owner: bytes, wish: int, lifetime: int) -> int:
        """The external port; 0 after a removal."""
        now = self._clock.seconds()
        self.rows = {way: row for way, row in self.rows.items() if row.ends > now}
        own = [way for way, row in self.rows.items() if (row.host, row.port) == (source, port)]
        if not lifetime:
            for way in own:
                del self.rows[way]
            return 0
        way = own[0] if own else wish or 1024
        while not own and way in self.rows:
            way += 1
        self.rows[way] = Row(source, port, owner, now + min(lifetime, self.lifetime))
        return way

    def _natpmp(self, request: bytes, source: str) -> bytes:
        if request == b"\0\0":
            return self.address_response()
        _, opcode, _, port, wish, lifetime = struct.unpack("!BBHHHI", request)
        assert opcode == 2, "only TCP is asked for"
        if self.refuses:
            return struct.pack("!BBHI", 0, 0x82, self.refuses, self._age)
        way = self._map(source, port, b"", wish, lifetime)
        granted = min(lifetime, self.lifetime)
        return struct.pack("!BBHIHHI", 0, 0x82, 0, self._age, port, way, granted)

    def _pcp(self, request: bytes, source: str) -> bytes:
        _, opcode, lifetime, client = struct.unpack("!BBxxI16s", request[:24])
        assert client[12:] == ipaddress.IPv4Address(source).packed, "else ADDRESS_MISMATCH"
        if opcode == 0:
            return struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, self._age)
        nonce, protocol, port, wish = struct.unpack("!12sB3xHH", request[24:44])
        assert protocol == 6, "only TCP is asked for"
        if self.refuses:
            return self.pcp_response(request, self.refuses, 30, 0)
        way = self._map(source, port, nonce, wish, lifetime)
        return self.pcp_response(request, 0, min(lifetime, self.lifetime), way)


class UDPPort:
    """A datagram socket of the reactor below."""

    def __init__(self, reactor: GatewayReactor, port: int, protocol: Any) -> None:
        self.reactor = reactor
        self.protocol = protocol
        self.port = port
        self.peer: tuple[str, int] | None = None
        protocol.transport = self

    def connect(self, host: str, port: int) -> None:
        self.peer = (host, port)

    def getHost(self) -> IPv4Address:
        return IPv4Address("UDP", OURS if self.peer else "0.0.0.0", self.port)

    def write(self, datagram: bytes) -> None:
        gateway = self.reactor.gateway
        assert self.peer is not None
        if self.peer != (gateway.host, 5351):
            return
        if self.reactor.refuses:
            self.reactor.callLater(LATENCY, self.protocol.connectionRefused)
            return
        answer = gateway.answer(datagram, OURS)
        if answer is not None:
            self.reactor.callLater(LATENCY, self.say, answer)

    def say(self, datagram: bytes, source: tuple[str, int] | None = None) -> None:
        """Let a datagram come in, from the gateway unless it is said from where."""
        if self in self.reactor.sockets:
            self.protocol.datagramReceived(datagram, source or self.peer)

    def joinGroup(self, _group: str) -> Deferred[None]:
        return succeed(None)

    def stopListening(self) -> None:
        self.reactor.sockets.remove(self)


class GatewayReactor(SimulatedClock):
    """Time, and datagrams to one gateway.

    :ivar refuses: whether nothing listens on the gateway's port.
    :ivar sockets: those that are open.
    """

    def __init__(self, *speaks: str) -> None:
        super().__init__()
        self.gateway = SimulatedGateway(self, *speaks)
        self.refuses = False
        self.sockets: list[UDPPort] = []

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> UDPPort:
        made = UDPPort(self, port or 40_000, protocol)
        self.sockets.append(made)
        return made

    def listenMulticast(
        self, port: int, protocol: Any, maxPacketSize: int = 8192, listenMultiple: bool = False
    ) -> UDPPort:
        made = self.listenUDP(port, protocol)
        protocol.startProtocol()
        return made

    def socket(self) -> UDPPort:
        """The socket that talks to the gateway."""
        return next(socket for socket in self.sockets if socket.port != 5350)

    def announce(self, datagram: bytes, source: str | None = None) -> None:
        """Tell all hosts of the network something."""
        for socket in self.sockets:
            if socket.port == 5350:
                socket.say(datagram, (source or self.gateway.host, 5351))
