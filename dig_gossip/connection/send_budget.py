"""One budget of memory for everything that a node has to send and cannot yet.

Each connection may hold 32 MiB of what nobody asked for, and as much of answers. What all of them
hold together is bounded here, where a message that waits for many peers counts once::

    no room ─▶ bulk that nobody asked for is refused
            ─▶ for anything else the connection that holds most is given up: one that takes nothing
               at present before one that does

so that critical messages and answers always find room, at the cost of those who read too slowly.

Source: behaviour §21 (BP-101-X, BP-102-X); design D9, D14.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message


class Queue(Protocol):
    """What waits for one connection."""

    @property
    def is_writable(self) -> bool: ...
    @property
    def queued_bytes(self) -> int: ...
    def give_up(self) -> None: ...


class SendBudget:
    """What the connections of a node hold of messages to be sent.

    Invariants: ``total`` is the size of all messages that wait anywhere, each once. After
    :meth:`make_room` it is within the limit, or nothing but one message waits.

    Bounds: one entry for each open connection, and one message. Cost: O(1) a message;
    O(connections) for each that is given up.

    :param limit: bytes.
    :ivar total: serialized bytes of the messages that wait.
    :ivar refused: messages that found no room.
    :ivar given_up: connections that were dropped because they held most.
    """

    def __init__(self, limit: int) -> None:
        self.total = 0
        self.refused = 0
        self.given_up = 0
        self._limit = limit
        self._queues: dict[Queue, None] = {}
        self._latest: OutboundFrame | None = None

    def share(self, message: Message, size: int) -> OutboundFrame | None:
        """Let a message wait in one more queue; the same frame for all that take it in a row.

        :param size: of the message, serialized.
        :returns: None if somebody would have to be given up for it.
        """
        frame = self._latest
        if frame is not None and frame.message is message and frame.queues:
            if self.total > self._limit:
                return None
        elif self.total + size > self._limit:
            return None
        else:
            frame = self._latest = OutboundFrame(message)
            self.total += size
        frame.queues += 1
        return frame

    def join(self, queue: Queue) -> None:
        """A connection is open."""
        self._queues[queue] = None

    def leave(self, queue: Queue) -> None:
        """It is not, and nothing waits for it any more."""
        self._queues.pop(queue, None)

    def has_room(self, frame: OutboundFrame) -> bool:
        """Whether a message may wait without anybody being given up for it."""
        return frame.queues > 0 or self.total + frame.size <= self._limit

    @property
    def is_within(self) -> bool:
        """Whether no more waits than may."""
        return self.total <= self._limit

    def take(self, frame: OutboundFrame) -> None:
        """A message waits in one more queue."""
        if not frame.queues:
            self.total += frame.size
        frame.queues += 1

    def give_back(self, frames: Iterable[OutboundFrame]) -> None:
        """They wait in one queue less."""
        for frame in frames:
            frame.queues -= 1
            if not frame.queues:
                self.total -= frame.size

    def make_room(self) -> None:
        """Give up whoever holds most, until the rest is within the limit."""
        while not self.is_within:
            held = [queue for queue in self._queues if queue.queued_bytes]
            if len(held) < 2:
                return  # a single connection has limits of its own
            largest = max(held, key=lambda queue: (not queue.is_writable, queue.queued_bytes))
            self.given_up += 1
            largest.give_up()
            self.leave(largest)
