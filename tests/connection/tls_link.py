"""A TLS connection whose bytes move when the test says so, and the applications at its ends."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

import attrs
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.tls import (
    BufferingTLSTransport,
    TLSMemoryBIOFactory,
    TLSMemoryBIOProtocol,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.connection.fast_tls import FastTLSFactory
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.tls.context import PeerTLS

CLIENT, SERVER = 0, 1
CREATORS = [PeerTLS(throwaway_identity(name)) for name in ("client", "server")]


class Unbuffered(TLSMemoryBIOFactory):
    """Twisted's transport, which writes at once whatever it is given."""

    protocol = TLSMemoryBIOProtocol


class Buffered(TLSMemoryBIOFactory):
    """Twisted's transport as it is by default."""

    protocol = BufferingTLSTransport


class FakeTCP:
    """One end of a TCP connection whose bytes move when the test says so."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.peer: FakeTCP
        self.protocol: Any
        self.outgoing = bytearray()
        self.writes: list[int] = []  # sizes
        self.connected = True
        self.disconnecting = False
        self.reading = True
        self.producer: Any = None

    def write(self, data: bytes) -> None:
        if self.connected:
            self.writes.append(len(data))
            self.outgoing += data

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        self.disconnecting = True
        self.reading = False

    def abortConnection(self) -> None:
        if self.connected:
            self.disconnecting = True
            self.clock.callLater(0, self.lose, ConnectionAborted())
            self.clock.callLater(0, self.peer.lose, ConnectionLost())

    def loseWriteConnection(self) -> None:
        self.clock.callLater(0, self.peer.lose, ConnectionDone())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("already registered")
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = not self.disconnecting

    def lose(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            self.outgoing.clear()
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(Failure(reason))

    def move(self, limit: int) -> bool:
        """Deliver up to so many bytes; then close if that is due.  Whether anything happened."""
        data = bytes(self.outgoing[:limit])
        if data and self.peer.connected:
            if self.peer.disconnecting:
                del self.outgoing[:]
                return True
            if self.peer.reading:
                del self.outgoing[:limit]
                self.peer.protocol.dataReceived(data)
                return True
            return False
        if self.disconnecting and self.connected:
            self.lose(ConnectionDone())
            self.peer.lose(ConnectionDone())
            return True
        return False


@implementer(IPushProducer)
class Producer:
    """Notes what it is told, in its application's log."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.left = 3

    def pauseProducing(self) -> None:
        self.app.note("pause")

    def resumeProducing(self) -> None:
        self.app.note("resume")
        if self.left:  # what a pull producer does
            self.left -= 1
            self.app.write(1000)
        else:
            self.app.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.app.note("stop")


class Quiet(Producer):
    """A producer that leaves writing to the script."""

    def resumeProducing(self) -> None:
        self.app.note("resume")


@implementer(IHandshakeListener)
class App(Protocol):
    """The application: sends known bytes, keeps a log."""

    transport: Any

    def __init__(self, react: str = "") -> None:
        self.log: list[Any] = []
        self.sent = random.Random(7)
        self.written = bytearray()
        self.received = bytearray()
        self.deliveries = 0
        self.react = react
        self.aborted = False

    def note(self, event: Any) -> None:
        self.log.append(event)

    def content(self, size: int) -> bytes:
        data = self.sent.randbytes(size)
        self.written += data
        return data

    def write(self, size: int) -> None:
        self.transport.write(self.content(size))

    def connectionMade(self) -> None:
        self.note("made")
        if "early" in self.react:
            self.write(100)
            self.write(40_000)

    def handshakeCompleted(self) -> None:
        self.note("handshake")
        if "greet" in self.react:
            self.write(200)
            self.write(300)

    def dataReceived(self, data: bytes) -> None:
        first = not self.received
        self.received += data
        self.deliveries += 1
        if self.log[-1] != "data":
            self.note("data")
        if first and "reply" in self.react:
            self.write(300)
            self.write(400)
        if first and "close" in self.react:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.note(type(reason.value).__name__)


@attrs.define
class Link:
    """Both ends of a connection."""

    clock: Clock
    apps: list[App]
    tls: list[Any]
    tcp: list[FakeTCP]

    def turn(self) -> None:
        """Let a reactor turn pass."""
        self.clock.advance(0)

    def settle(self, rng: random.Random | None = None) -> None:
        """Let turns pass and bytes move until nothing happens any more."""
        busy = True
        while busy:
            self.turn()
            limits = [rng.choice([1, 300, 20_000, 65_536]) if rng else 65_536 for _ in self.tcp]
            moved = [tcp.move(limit) for tcp, limit in zip(self.tcp, limits, strict=True)]
            busy = any(moved) or bool(self.clock.getDelayedCalls())

    def perform(self, operation: str, side: int, sizes: list[int]) -> None:
        """Carry out one line of a script."""
        app, tls, tcp = self.apps[side], self.tls[side], self.tcp[side]
        if tls._aborted and tls._producer is not None:
            return  # where we differ: Twisted goes on encrypting, and fails
        if not tcp.connected and operation not in ("write", "sequence", "lose"):
            return  # another difference: Twisted looks for TLS that is gone
        if operation == "write":
            for size in sizes:
                app.write(size)
        elif operation == "sequence":
            tls.writeSequence([app.content(size) for size in sizes])
        elif operation == "lose":
            tls.loseConnection()
        elif operation == "abort":
            tls.abortConnection()
        elif operation == "half":
            tls.loseWriteConnection()
        elif operation == "cut":
            tcp.lose(ConnectionLost())
            tcp.peer.lose(ConnectionLost())
        elif operation == "producer":
            if tls._producer is None:
                tls.registerProducer(Quiet(app), True)
        elif operation == "unregister":
            tls.unregisterProducer()
        elif operation == "full" and tcp.producer is not None:
            tcp.producer.pauseProducing()
        elif operation == "empty" and tcp.producer is not None:
            tcp.producer.resumeProducing()
        elif operation == "stall":
            tls.pauseProducing()
        elif operation == "read":
            tls.resumeProducing()

    def outcome(self) -> list[Any]:
        """What both applications have seen."""
        return [(app.log, len(app.received), sha256(app.received).hexdigest()) for app in self.apps]


Factories = Sequence[type[TLSMemoryBIOFactory]]
FAST: Factories = [FastTLSFactory, FastTLSFactory]


def _itself(app: App) -> App:
    return app


def connect(
    factories: Factories, *reacts: str, creators: list[Any] = CREATORS, clock: Clock | None = None
) -> Link:
    """Make a connection of which no byte has moved."""
    clock = clock or Clock()
    apps = [App(react) for react in (reacts or ("", ""))]
    tcp = [FakeTCP(clock) for _ in apps]
    tls = []
    for side, app in enumerate(apps):
        wrapped = Factory.forProtocol(partial(_itself, app))
        factory = factories[side](creators[side], side == CLIENT, wrapped, clock)
        tcp[side].protocol = factory.buildProtocol(None)
        tcp[side].peer = tcp[1 - side]
        tls.append(tcp[side].protocol)
    for end in tcp:
        end.protocol.makeConnection(end)
    return Link(clock, apps, tls, tcp)


def established(factories: Factories, *reacts: str, **options: Any) -> Link:
    """Make a connection whose handshake is complete, with clean notes."""
    link = connect(factories, *reacts, **options)
    link.settle()
    for end in link.tcp:
        end.writes.clear()
    return link
