"""The WebSocket between a node and its relay: text and binary messages, both ways.

The same tamed Autobahn protocols as between peers, with two differences: text is welcome, and
what is sent is not messages in lanes but whole frames in one bounded queue, the outbox.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.connection.websocket import (
    PeerClientFactory,
    PeerClientProtocol,
    PeerServerFactory,
    PeerServerProtocol,
    PeerWebSocket,
)
from dig_gossip.errors import GossipError
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.frames import frame_header
from dig_gossip.wire.masking import mask

_MASKED = 0x80
_BINARY_TO_TEXT = 0x03  # what tells the first byte of a text frame, 0x81, from 0x82


class RelayReceiver(Protocol):
    """Who is told what comes over a relay's WebSocket."""

    def secured(self, peer_id: PeerId) -> None:
        """TLS is done, and the other end has shown a certificate."""

    def broken(self, error: GossipError) -> None:
        """TLS is done, and the other end has none."""

    def opened(self) -> None:
        """The WebSocket is open."""

    def heard(self) -> None:
        """Bytes came in, of whatever kind."""

    def relayed(self, data: bytes, is_binary: bool) -> None:
        """One message came in."""

    def pong_received(self, payload: bytes) -> None:
        """A ping was answered."""

    def closing(self, code: int | None, by_us: bool) -> None:
        """The WebSocket has begun to close."""

    def lost(self, reason: Failure) -> None:
        """The transport is gone."""


def frame(data: str | bytes, *, as_client: bool) -> bytes:
    """Make one WebSocket message: text of ``str``, binary of ``bytes``."""
    payload = data.encode() if isinstance(data, str) else data
    header = frame_header(len(payload), _MASKED if as_client else 0)
    if isinstance(data, str):
        header = bytes([header[0] ^ _BINARY_TO_TEXT]) + header[1:]
    if not as_client:
        return header + payload
    key = os.urandom(4)
    return header + key + mask(payload, key)


@implementer(IPushProducer)
class Outbox:
    """Frames that wait for a transport that has enough; in the place of a peer link's writer.

    Bounds: ``limit`` frames; what exceeds it is dropped and counted.

    :param limit: 0 for none.
    :ivar on_room: called when the transport takes more and nothing waits any more.
    """

    def __init__(self, owner: Any, limit: int) -> None:  # Any: an Autobahn protocol
        self.dropped = 0
        self.on_room: Callable[[], None] | None = None
        self._owner = owner
        self._limit = limit
        self._waiting: deque[bytes] = deque()
        self._open = False
        self._paused = False
        self._pong: bytes | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_writable(self) -> bool:
        """Whether what is sent now leaves at once."""
        return self._open and not self._paused

    def open(self) -> None:
        """Begin: from now on the transport says when it can take more."""
        self._open = True
        self._owner.transport.registerProducer(self, True)

    def close(self) -> None:
        """Forget what waits and accept nothing more."""
        self._open = False
        self._waiting.clear()
        self._pong = None
        self.on_room = None

    def send(self, encoded: bytes) -> bool:
        """Send one encoded frame, now or later.

        :returns: whether it will be sent.
        """
        if not self._open:
            return False
        if not self._paused:
            self._owner.transport.write(encoded)
            return True
        if self._limit and len(self._waiting) >= self._limit:
            self.dropped += 1
            return False
        self._waiting.append(encoded)
        return True

    def flush(self) -> None:
        """Nothing that was sent is kept back, other than by the transport."""

    def pong(self, payload: bytes) -> None:
        """Answer a ping now, or only the latest one later."""
        if self.is_writable:
            self._owner.send_pong(payload)
        elif self._open:
            self._pong = payload

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self._owner.send_pong(pong)
        while self._waiting and self.is_writable:
            self._owner.transport.write(self._waiting.popleft())
        if self.is_writable and self.on_room is not None:
            self.on_room()

    def stopProducing(self) -> None:
        self.close()


class _RelayWebSocket(PeerWebSocket):
    """Mixed in before a peer's protocol class.

    :ivar frame_bytes: the largest message that is taken.
    :ivar queue_frames: bound of the outbox.
    """

    frame_bytes: int
    queue_frames = 0
    takes_text = True
    outbox: Outbox

    def connectionMade(self) -> None:
        super().connectionMade()
        autobahn = cast(Any, self)
        limit = self.frame_bytes
        autobahn.maxMessagePayloadSize = autobahn.maxFramePayloadSize = limit
        self._is_registered = True  # other limits than a peer's hold before the first message
        self.outbox = Outbox(autobahn, self.queue_frames)
        self.writer = cast(Any, self.outbox)

    def _binary_message(self, payload: bytes) -> None:
        self._guarded(cast(RelayReceiver, self.receiver).relayed, payload, True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        autobahn = cast(Any, self)
        if autobahn.state == autobahn.STATE_OPEN:
            self._guarded(cast(RelayReceiver, self.receiver).relayed, payload, isBinary)

    def _frame_limit(self, first: int, length: int) -> int | None:
        return None

    def say(self, data: str | bytes) -> bool:
        """Send one message; see :meth:`Outbox.send`."""
        as_client = not cast(Any, self).factory.isServer
        return self.outbox.send(frame(data, as_client=as_client))


@implementer(IHandshakeListener)
class RelayServerProtocol(_RelayWebSocket, PeerServerProtocol):
    """The relay's end."""

    log = PeerWebSocket.log

    def onConnect(self, request: Any) -> None:
        pass  # any path will do


@implementer(IHandshakeListener)
class RelayClientProtocol(_RelayWebSocket, PeerClientProtocol):
    """The node's end."""

    log = PeerWebSocket.log


class RelayServerFactory(PeerServerFactory):
    """Makes the relay's protocols."""

    protocol = RelayServerProtocol


class RelayClientFactory(PeerClientFactory):
    """Makes the node's protocols."""

    protocol = RelayClientProtocol
