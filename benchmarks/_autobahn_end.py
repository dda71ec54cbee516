"""An end that is plain Autobahn: ``sendMessage`` and ``onMessage`` over the same mutual TLS.

TLS is Twisted's, with the contexts of this package; no envelope is made or read, but the messages
are as long as if there were one.
"""

from __future__ import annotations

from typing import Any

from _twisted_end import TwistedEnd, main, reactor
from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from twisted.internet.defer import Deferred
from twisted.protocols.tls import TLSMemoryBIOFactory

from dig_gossip.tls.context import PeerTLS
from dig_gossip.tls.identity import Identity

ENVELOPE = bytes(6)


class _Plain:
    """What both roles do. :ivar end: set on the class, for all connections."""

    end: AutobahnEnd

    def onOpen(self) -> None:
        self.end.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        answer = self.end.receive(payload[6:])
        if answer is not None:
            self.sendMessage(ENVELOPE + answer, True)  # type: ignore[attr-defined]

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.end.closed(self)


class _Server(_Plain, WebSocketServerProtocol):  # type: ignore[misc]
    pass


class _Client(_Plain, WebSocketClientProtocol):  # type: ignore[misc]
    pass


class AutobahnEnd(TwistedEnd):
    """A WebSocket server and client, with the options as they are by default."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self._tls = PeerTLS(identity)
        self._sessions: set[Any] = set()  # Any: Autobahn has no types
        self._opening: Deferred[None] | None = None
        self._closing: Deferred[None] | None = None
        _Plain.end = self

    async def listen(self) -> dict[str, Any]:
        factory = WebSocketServerFactory()
        factory.protocol = _Server
        port = reactor.listenTCP(
            0, TLSMemoryBIOFactory(self._tls, False, factory), interface="127.0.0.1"
        )
        return {"port": port.getHost().port, "network": None}

    def opened(self, session: Any) -> None:
        self._sessions.add(session)
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.callback(None)

    def closed(self, session: Any) -> None:
        self._sessions.discard(session)
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.callback(None)

    def send(self, data: bytes) -> None:
        self._peer.sendMessage(ENVELOPE + data, True)

    def spread(self, data: bytes) -> None:
        for session in self._sessions:
            session.sendMessage(ENVELOPE + data, True)

    async def meet(self) -> None:
        (self._peer,) = self._sessions

    async def dial(self, port: int) -> None:
        factory = WebSocketClientFactory(f"wss://127.0.0.1:{port}/ws")
        factory.protocol = _Client
        opening: Deferred[None] = Deferred()
        self._opening = opening
        reactor.connectTCP("127.0.0.1", port, TLSMemoryBIOFactory(self._tls, True, factory))
        await opening

    async def hang_up(self) -> None:
        (session,) = self._sessions
        closing: Deferred[None] = Deferred()
        self._closing = closing
        session.sendClose()
        await closing

    def sessions(self) -> int:
        return len(self._sessions)


if __name__ == "__main__":
    main(AutobahnEnd)
