"""A narrow link: a TCP proxy on loopback that passes so many bits a second and buffers little.

Each direction is a queue of packets of at most 1448 bytes. A packet leaves when the link has sent
those before it and itself, which is computed, not measured, so that the rate is exact even where
sleeping is not. When the queue is full nothing is read, and TCP stops the sender, as it does after
a loss. There is no loss, and no delay but that of the queue and of sending.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator

PACKET_BYTES = 1448


class Bottleneck:
    """One link; each connection through it has the whole rate (there is one at a time).

    :param target: port on loopback that it leads to.
    :param rate: bits a second.
    :param buffer: bytes that wait in front of it at most; a few KiB more wait in the kernel.
    :ivar port: where it begins.
    """

    def __init__(self, target: int, rate: float, buffer: int) -> None:
        self._target = target
        self._rate = rate / 8
        self._buffer = buffer
        self._open: list[socket.socket] = []
        self._listening = self._shaped()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(8)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut all connections."""
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _shaped(self) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Loopback's own packets would be larger than that.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, PACKET_BYTES)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = self._shaped()
                far.connect(("127.0.0.1", self._target))
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    queue = _Queue(self._buffer)
                    threading.Thread(target=_fill, args=(source, queue), daemon=True).start()
                    threading.Thread(
                        target=_drain, args=(queue, target, self._rate), daemon=True
                    ).start()


class _Queue:
    """Packets and when they came; an empty one is the end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._packets: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, packet: bytes) -> None:
        """Wait for room."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < self._limit)
            self._packets.append((time.monotonic(), packet))
            self._bytes += len(packet)
            self._changed.notify_all()

    def first(self) -> tuple[float, bytes]:
        """Wait for a packet; it stays where it is while the link sends it."""
        with self._changed:
            self._changed.wait_for(lambda: self._packets)
            return self._packets[0]

    def sent(self) -> None:
        """The first packet is gone."""
        with self._changed:
            self._bytes -= len(self._packets.popleft()[1])
            self._changed.notify_all()


def _fill(source: socket.socket, queue: _Queue) -> None:
    packet = b"."
    while packet:
        try:
            packet = source.recv(PACKET_BYTES)
        except OSError:
            packet = b""
        queue.put(packet)


def _drain(queue: _Queue, target: socket.socket, rate: float) -> None:
    free_at = 0.0
    with contextlib.suppress(OSError):
        while True:
            came_at, packet = queue.first()
            if not packet:
                break
            free_at = max(free_at, came_at) + len(packet) / rate
            time.sleep(max(0.0, free_at - time.monotonic()))
            target.sendall(packet)
            queue.sent()
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def bottleneck(target: int, rate: float, buffer: int) -> Iterator[int]:
    """A link for the time of a block; its port."""
    link = Bottleneck(target, rate, buffer)
    try:
        yield link.port
    finally:
        link.close()
