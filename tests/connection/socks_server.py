"""A SOCKS5 server for tests: says what it is told to, remembers what it was asked.

Nothing of ours is in it but Twisted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from dig_gossip.util.deferreds import handled


class Asked(NamedTuple):
    """One request: where to, and who asks."""

    host: str
    port: int
    user: bytes
    password: bytes


class SocksServer(Factory):
    """Serves requests from a table.

    :param reactor_at: the reactor that connects to a host: the Tor of an onion service is there.
    :param targets: where ``host`` is to lead: an address to connect to, or the code of a refusal.
    :param wants_password: whether only users with a password are served.
    :ivar asked: all requests, in order.
    :ivar clients: the open connections.
    """

    noisy = False

    def __init__(
        self,
        reactor_at: Callable[[str], Any],
        targets: Mapping[str, tuple[str, int] | int],
        *,
        wants_password: bool = True,
        accepts: Callable[[bytes, bytes], bool] = lambda user, password: True,
    ) -> None:
        self.reactor_at = reactor_at
        self.targets = targets
        self.wants_password = wants_password
        self.accepts = accepts
        self.asked: list[Asked] = []
        self.clients: set[Any] = set()

    def buildProtocol(self, addr: object) -> Protocol:
        client = _Client(self)
        self.clients.add(client)
        return client

    def drop(self) -> None:
        """Close all connections."""
        for client in list(self.clients):
            client.transport.abortConnection()


class _Client(Protocol):
    def __init__(self, server: SocksServer) -> None:
        self.server = server
        self.buffer = b""
        self.stage = self.greeting
        self.user = self.password = b""
        self.other: Any = None

    def write(self, data: bytes) -> None:
        cast(Any, self.transport).write(data)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)
            return
        self.buffer += data
        while self.stage():
            pass

    def greeting(self) -> bool:
        if len(self.buffer) < 2 or len(self.buffer) < 2 + self.buffer[1]:
            return False
        methods = self.buffer[2 : 2 + self.buffer[1]]
        self.buffer = self.buffer[2 + len(methods) :]
        method = 2 if self.server.wants_password and 2 in methods else 0
        self.write(bytes((5, method)))
        self.stage = self.authentication if method else self.request
        return True

    def authentication(self) -> bool:
        if len(self.buffer) < 2 or len(self.buffer) < 3 + self.buffer[1]:
            return False
        size = self.buffer[1]
        end = 3 + size + self.buffer[2 + size]
        if len(self.buffer) < end:
            return False
        self.user, self.password = self.buffer[2 : 2 + size], self.buffer[3 + size : end]
        self.buffer = self.buffer[end:]
        accepted = self.server.accepts(self.user, self.password)
        self.write(bytes((1, 0 if accepted else 1)))
        self.stage = self.request
        return True

    def request(self) -> bool:
        if len(self.buffer) < 5:
            return False
        kind = self.buffer[3]
        size = {1: 4, 4: 16}.get(kind, 1 + self.buffer[4])
        end = 4 + size + 2
        if len(self.buffer) < end:
            return False
        raw = self.buffer[4 : 4 + size]
        host = raw[1:].decode() if kind == 3 else ".".join(map(str, raw))
        (port,) = struct.unpack("!H", self.buffer[end - 2 : end])
        self.buffer = self.buffer[end:]
        self.server.asked.append(Asked(host, port, self.user, self.password))
        target = self.server.targets.get(host, 4)
        self.stage = self.nothing
        if isinstance(target, int):
            self.refuse(target)
        else:
            endpoint = TCP4ClientEndpoint(self.server.reactor_at(target[0]), *target, timeout=10)
            factory = Factory.forProtocol(_Outside)
            factory.noisy = False
            connecting = endpoint.connect(factory)
            handled(connecting.addCallbacks(self.reached, lambda _f: self.refuse(5)))
        return False

    def nothing(self) -> bool:
        return False

    def refuse(self, code: int) -> None:
        if self.transport is not None:
            self.write(bytes((5, code, 0, 1)) + bytes(6))
            cast(Any, self.transport).loseConnection()

    def reached(self, outside: Any) -> None:
        self.other, outside.other = outside, self
        self.write(bytes((5, 0, 0, 1)) + bytes(6))
        outside.transport.write(self.buffer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.clients.discard(self)
        if self.other is not None:
            self.other.transport.loseConnection()


class _Outside(Protocol):
    other: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.other is not None:
            self.other.transport.loseConnection()
