"""One end of a session under test: what it sends, counts, acknowledges and times.

The same code drives every library, so that all of them do the same work and wait for the same
things. Nothing but the standard library is imported: the ends of chia-blockchain run in an
environment of their own.

Flow control is the application's: the sender has at most a window of messages that the receiver
has not counted, and the receiver says so after every quarter of a window, with a message of its
own over the same session. So no queue of any library overflows, and nothing may be lost.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

ACKNOWLEDGEMENT = b"ack"


class End:
    """Performs the commands that come in as lines of JSON, and answers each with one.

    A subclass says how its library sends, dials and hangs up, and calls ``receive`` with the body
    of every message; what ``receive`` returns is to be sent back.
    """

    def __init__(self) -> None:
        self.receive: Callable[[bytes], bytes | None] = self._ignore
        self._count = self._every = self._due = 0
        self._received = self._bytes = self._acknowledged = 0
        self._began = self._ended = self._cpu = 0.0
        self._waiter: Any = None  # Any: a Deferred or a Future
        self._payload = b""
        self._times: list[float] = []

    # -- what a library provides

    def send(self, data: bytes) -> Awaitable[object] | None:
        """Send one message to the one peer there is."""
        raise NotImplementedError

    def spread(self, data: bytes) -> Awaitable[object] | None:
        """Send one message to everybody, as the library does that."""
        return self.send(data)

    async def meet(self) -> None:
        """Look up the peer, before something is sent."""

    async def dial(self, port: int) -> None:
        """Open a session and wait until it is complete."""
        raise NotImplementedError

    async def hang_up(self) -> None:
        """Close the session and wait until it is gone."""
        raise NotImplementedError

    def sessions(self) -> int:
        """How many sessions there are."""
        raise NotImplementedError

    def waiter(self) -> Any:  # Any: see _waiter
        """Something to await."""
        raise NotImplementedError

    def wake(self, waiter: Any) -> None:
        """Let whoever awaits it go on."""
        raise NotImplementedError

    # -- the parent's side

    async def perform(self, line: bytes) -> None:
        """Carry out one command and print the answer.

        :param line: ``{"do": name, …}``; the other members are the arguments of ``do_name``.
        """
        command = json.loads(line)
        tell(await getattr(self, f"do_{command.pop('do')}")(**command) or {})

    async def do_dial(self, port: int) -> None:
        await self.dial(port)

    async def do_sessions(self) -> dict[str, int]:
        return {"sessions": self.sessions()}

    async def do_memory(self) -> dict[str, int]:
        """Resident bytes of this process, after a garbage collection (Linux)."""
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return {"resident": pages * os.sysconf("SC_PAGE_SIZE")}

    async def do_expect(self, count: int, every: int) -> None:
        """Count ``count`` messages and acknowledge every ``every``-th."""
        self._count, self._every, self._due = count, every, every
        self._received = self._bytes = 0
        self._cpu = time.process_time()
        self.receive = self._counted

    async def do_report(self) -> dict[str, float]:
        """What was counted; ``seconds`` is from the first message to the last."""
        return {
            "received": self._received,
            "bytes": self._bytes,
            "seconds": self._ended - self._began,
            "cpu": self._cpu,
        }

    async def do_send(
        self, count: int, size: int, window: int, every: int, spread: bool
    ) -> dict[str, float]:
        """Send ``count`` messages of ``size`` bytes and wait for the last acknowledgement."""
        await self.meet()
        send = self.spread if spread else self.send
        # Gossip drops what it has seen: each message is to be another.
        unique, filler = os.urandom(8), bytes(size - 16)
        self._acknowledged, self._every = 0, every
        self.receive = self._acknowledgement
        cpu = time.process_time()
        for number in range(count):
            while number - self._acknowledged >= window:
                await self._wait()
            sending = send(unique + number.to_bytes(8, "big") + filler)
            if sending is not None:
                await sending
        while self._acknowledged < count:
            await self._wait()
        return {"cpu": time.process_time() - cpu}

    async def do_echo(self) -> None:
        """Send back whatever comes."""
        self.receive = bytes

    async def do_ping(self, count: int, size: int) -> dict[str, list[float]]:
        """Send a message, wait for it to come back, and again; seconds of each round trip."""
        await self.meet()
        self._payload, self._count, self._times = bytes(size), count, []
        self.receive = self._pong
        self._began = time.perf_counter()
        sending = self.send(self._payload)
        if sending is not None:
            await sending
        await self._wait()
        return {"seconds": self._times}

    async def do_dials(self, port: int, count: int) -> dict[str, Any]:
        """Dial and hang up ``count`` times; seconds of each dial."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            await self.dial(port)
            times.append(time.perf_counter() - began)
            await self.hang_up()
        return {"seconds": times}

    async def do_cpu(self) -> dict[str, float]:
        return {"cpu": time.process_time()}

    # -- what a message means at the moment

    def _ignore(self, data: bytes) -> bytes | None:
        return None

    def _counted(self, data: bytes) -> bytes | None:
        self._bytes += len(data)
        received = self._received = self._received + 1
        if received == 1:
            self._began = time.perf_counter()
        if received != self._due:
            return None
        self._due += self._every
        if received == self._count:
            self._ended = time.perf_counter()
            self._cpu = time.process_time() - self._cpu
        return ACKNOWLEDGEMENT

    def _acknowledgement(self, data: bytes) -> bytes | None:
        self._acknowledged += self._every
        self._go_on()
        return None

    def _pong(self, data: bytes) -> bytes | None:
        now = time.perf_counter()
        self._times.append(now - self._began)
        if len(self._times) == self._count:
            self._go_on()
            return None
        self._began = now
        return self._payload

    async def _wait(self) -> None:
        self._waiter = self.waiter()
        await self._waiter

    def _go_on(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self.wake(waiter)


def tell(answer: dict[str, Any]) -> None:
    """Print one answer for the parent."""
    print(json.dumps(answer), file=_answers, flush=True)


# Whatever else is printed must not be taken for an answer.
_answers, sys.stdout = sys.stdout, sys.stderr
