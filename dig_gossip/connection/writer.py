"""The one place from which the messages of a connection leave.

What waits, waits here, above the socket, where it can still be counted, bounded and thrown away::

    send() ──▶ transport            while the transport takes data
    send() ──▶ queue ──▶ transport  while it does not (``pauseProducing`` … ``resumeProducing``)

Invariants: nothing is written while paused, except one close frame; order is kept; the queue
never holds more than ``MAX_QUEUED_MESSAGES`` messages or ``MAX_QUEUED_BYTES`` bytes: beyond that
the peer has stopped reading, and ``overflowed`` is called once. A peer that pings and does not
read gets at most one pong, the answer to its latest ping (RFC 6455 §5.5.3 allows that).

Source: behaviour BP-101-X, style §5.5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IPushProducer, ITransport
from zope.interface import implementer

from dig_gossip.constants import MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES
from dig_gossip.wire.frames import OutboundFrame


class WriterOwner(Protocol):
    """What a writer needs from its WebSocket protocol."""

    transport: ITransport

    def send_ping(self, payload: bytes) -> None: ...
    def send_pong(self, payload: bytes) -> None: ...


@implementer(IPushProducer)
class Writer:
    """Queue of one connection; a streaming producer for its transport.

    :param as_client: whether our frames must be masked.
    """

    __slots__ = (
        "_as_client",
        "_open",
        "_overflowed",
        "_owner",
        "_paused",
        "_pong",
        "_queue",
        "bytes_sent",
        "messages_sent",
        "queued_bytes",
    )

    def __init__(self, owner: WriterOwner, *, as_client: bool) -> None:
        self._owner = owner
        self._as_client = as_client
        self._queue: deque[OutboundFrame] = deque()
        self._pong: bytes | None = None
        self._paused = False
        self._open = False
        self._overflowed: Callable[[], None] | None = None
        self.queued_bytes = 0
        self.messages_sent = 0
        self.bytes_sent = 0

    @property
    def is_writable(self) -> bool:
        """Whether the transport takes data at this moment."""
        return self._open and not self._paused

    @property
    def is_open(self) -> bool:
        """Whether messages are accepted."""
        return self._open

    @property
    def queued_messages(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    def open(self) -> None:
        """Begin: from now on the transport says when it can take more."""
        self._open = True
        self._owner.transport.registerProducer(self, True)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Accept nothing more and forget what waits. The transport forgets us on its own."""
        self._open = False
        self._queue.clear()
        self.queued_bytes = 0
        self._pong = None

    def on_overflow(self, overflowed: Callable[[], None]) -> None:
        """Say whom to call, once, when the peer has stopped reading."""
        self._overflowed = overflowed

    def send(self, frame: OutboundFrame) -> bool:
        """Send a message now or as soon as the transport takes it.

        :returns: False when the connection is closed or the queue is full.
        """
        if not self._open:
            return False
        if self._paused or self._queue:
            return self._enqueue(frame)
        self._write(frame)
        return True

    def ping(self, payload: bytes) -> bool:
        """Send a ping, unless the transport is busy: a probe must not wait in a queue."""
        if not self.is_writable:
            return False
        self._owner.send_ping(payload)
        return True

    def pong(self, payload: bytes) -> None:
        """Answer a ping now, or, when the transport is busy, only the latest one later."""
        if self.is_writable:
            self._owner.send_pong(payload)
        elif self._open:
            self._pong = payload

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._drain()

    def stopProducing(self) -> None:
        self.close()

    def _write(self, frame: OutboundFrame) -> None:
        self.messages_sent += 1
        self.bytes_sent += frame.size
        self._owner.transport.write(frame.encoded(self._as_client))

    def _enqueue(self, frame: OutboundFrame) -> bool:
        self._queue.append(frame)
        self.queued_bytes += frame.size
        if len(self._queue) <= MAX_QUEUED_MESSAGES and self.queued_bytes <= MAX_QUEUED_BYTES:
            return True
        self.close()
        overflowed, self._overflowed = self._overflowed, None
        if overflowed is not None:
            overflowed()
        return False

    def _drain(self) -> None:
        if self._pong is not None and self.is_writable:
            pong, self._pong = self._pong, None
            self._owner.send_pong(pong)
        while self._queue and self.is_writable:
            frame = self._queue.popleft()
            self.queued_bytes -= frame.size
            self._write(frame)
