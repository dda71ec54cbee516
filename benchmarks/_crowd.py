"""Many peers in one process, each with an identity of its own: they dial, greet, and listen.

The same crowd fills every listener of ``memory.py`` and counts what every sender of
``broadcast.py`` sends, so that the listeners differ and nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from _flow import ACKNOWLEDGEMENT, End, tell
from _twisted_end import obey, reactor, run
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Cooperator
from twisted.protocols.tls import TLSMemoryBIOFactory

from dig_gossip.connection import handshake
from dig_gossip.tls.context import PeerTLS
from dig_gossip.tls.identity import Identity, PrivateKey
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType

#: Dials at a time.
WORKERS = 8


class _Peer(WebSocketClientProtocol):  # type: ignore[misc]
    """:ivar got: messages of the kind that is counted."""

    crowd: Crowd
    got = 0

    def onOpen(self) -> None:
        greeting = self.factory.greeting
        if greeting is None:
            self._ready()
        else:
            self.sendMessage(greeting, True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.factory.ready is not None:
            self._ready()
        else:
            self.crowd.counted(self, payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        ready = self.factory.ready
        if ready is not None:
            self.factory.ready = None
            ready.errback(RuntimeError(f"refused: {code} {reason}"))

    def _ready(self) -> None:
        ready, self.factory.ready = self.factory.ready, None
        if ready is not None:
            self.crowd.members.append(self)
            ready.callback(None)


class Crowd(End):
    """Opens sessions; each peer does so once.

    :param path: keys and certificates in PEM, one after the other.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        end = b"-----END CERTIFICATE-----\n"
        self._identities = [_identity(pem + end) for pem in path.read_bytes().split(end)[:-1]]
        self.members: list[_Peer] = []
        self._size = 0
        self._acknowledging = b""
        self._every = self._due = 0
        _Peer.crowd = self

    async def do_open(self, port: int, count: int, network: str | None) -> None:
        """Open ``count`` more sessions and wait until all are complete.

        :param network: what to greet with; None for no greeting.
        """
        mine, self._identities = self._identities[:count], self._identities[count:]
        greeting = None
        if network is not None:
            body = handshake.build(network_id=network, software_version="crowd", server_port=0)
            greeting = bytes(Message(ChiaMessageType.HANDSHAKE, None, bytes(body)))
        dials = (self._dial(identity, port, greeting) for identity in mine)
        cooperator = Cooperator()
        await gatherResults([cooperator.coiterate(dials) for _ in range(WORKERS)])

    async def do_count(self, size: int, every: int, answer: int) -> None:
        """Count messages whose body has ``size`` bytes; one peer tells when all got ``every`` more.

        :param answer: opcode of what it says then.
        """
        self._size, self._every, self._due = size + 6, every, every
        self._acknowledging = bytes(Message(answer, None, ACKNOWLEDGEMENT))
        for member in self.members:
            member.got = 0

    def counted(self, member: _Peer, payload: bytes) -> None:
        """A message came in; those that are no copies, such as a tree's own, have other sizes."""
        if len(payload) != self._size:
            return
        member.got += 1
        if member.got % self._every:
            return
        slowest = min(each.got for each in self.members)
        while slowest >= self._due:
            self._due += self._every
            self.members[0].sendMessage(self._acknowledging, True)

    async def do_counts(self) -> dict[str, list[int]]:
        """What each peer has counted."""
        return {"got": [member.got for member in self.members]}

    def _dial(self, identity: Identity, port: int, greeting: bytes | None) -> Deferred[None]:
        factory: Any = WebSocketClientFactory(f"wss://127.0.0.1:{port}/ws")
        factory.protocol = _Peer
        factory.greeting = greeting
        ready: Deferred[None] = Deferred()
        factory.ready = ready
        reactor.connectTCP("127.0.0.1", port, TLSMemoryBIOFactory(PeerTLS(identity), True, factory))
        return ready


def _identity(pem: bytes) -> Identity:
    key: PrivateKey = load_pem_private_key(pem, None)  # type: ignore[assignment]
    return Identity(x509.load_pem_x509_certificate(pem), key)


def main() -> None:
    """Obey until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    crowd = Crowd(parser.parse_args().path)

    async def begin() -> None:
        obey(crowd)
        tell({})

    reactor.callWhenRunning(run, begin())
    reactor.run()


if __name__ == "__main__":
    main()
