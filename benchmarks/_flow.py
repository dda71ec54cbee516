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
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

ACKNOWLEDGEMENT = b"ack"

#: What the first byte of a body says, where several kinds share a session.
URGENT, BULK, FILLING, QUESTION = b"u", b"b", b"f", b"?"


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
        self._asked_for = self._answered = 0
        self._demanding = False

    # -- what a library provides

    def send(self, data: bytes) -> Awaitable[object] | None:
        """Send one message to the one peer there is."""
        raise NotImplementedError

    def spread(self, data: bytes) -> Awaitable[object] | None:
        """Send one message to everybody, as the library does that."""
        return self.send(data)

    def send_urgent(self, data: bytes) -> Awaitable[object] | None:
        """Send a short message that should overtake everything."""
        return self.send(data)

    def send_bulk(self, data: bytes) -> Awaitable[object] | None:
        """Send the large answer to the question that is being received."""
        return self.send(data)

    def ask(self, data: bytes) -> Awaitable[object] | None:
        """Ask for a large answer, which goes to :meth:`answered`."""
        return self.send(data)

    def frames(self) -> int:
        """How many frames were written, those of control not counted."""
        raise NotImplementedError

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
        if not spread:
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

    # -- an urgent message now and then, among large answers

    async def do_serve(self, size: int) -> None:
        """Answer every question with ``size`` bytes."""
        await self.meet()
        self._payload = BULK + bytes(size - 1)
        self.receive = self._asked

    async def do_urgent(self, count: int, gap: float) -> None:
        """Send ``count`` urgent messages, each with the time, ``gap`` seconds apart."""
        for number in range(count):
            await self.pause(gap)
            stamp = struct.pack("!dI", time.monotonic(), number)
            sending = self.send_urgent(URGENT + stamp + os.urandom(59))
            if sending is not None:
                await sending

    async def do_fill(self, count: int, size: int, window: int) -> dict[str, int]:
        """Send ``count`` messages that are no bulk, ``window`` of them unacknowledged.

        ``frames`` is how many frames left meanwhile, pieces of large messages included.
        """
        self._acknowledged, self._every = 0, window // 4
        frames = self.frames()
        for number in range(count):
            while number - self._acknowledged >= window:
                await self._wait()
            sending = self.spread(
                FILLING + os.urandom(8) + number.to_bytes(8, "big") + bytes(size - 17)
            )
            if sending is not None:
                await sending
        while self._acknowledged < count:
            await self._wait()
        return {"frames": self.frames() - frames}

    async def do_demand(self, outstanding: int, every: int) -> None:
        """Keep ``outstanding`` questions unanswered, and note when urgent messages come.

        :param every: acknowledge other messages after so many.
        """
        await self.meet()
        self._asked_for = self._answered = self._received = self._bytes = 0
        self._times, self._every, self._demanding = [], every, True
        self.receive = self._taken
        for _ in range(outstanding):
            self._ask_again()

    async def do_enough(self, urgent: int) -> dict[str, Any]:
        """Ask no more, wait for every answer and for so many urgent messages.

        ``seconds`` are the ages of the urgent messages, ``others`` how many others came.
        """
        self._demanding = False
        while self._answered < self._asked_for or len(self._times) < urgent:
            await self._wait()
        return {
            "seconds": self._times,
            "asked": self._asked_for,
            "answered": self._answered,
            "bytes": self._bytes,
            "others": self._received,
        }

    def _ask_again(self) -> None:
        self._asked_for += 1
        self.start(self.ask(QUESTION + self._asked_for.to_bytes(8, "big")))

    def answered(self, data: bytes) -> None:
        """A large answer came."""
        self._answered += 1
        self._bytes += len(data)
        if self._demanding:
            self._ask_again()
        else:
            self._go_on()

    def _asked(self, data: bytes) -> bytes | None:
        if data == ACKNOWLEDGEMENT:
            return self._acknowledgement(data)
        if data[:1] == QUESTION:
            self.start(self.send_bulk(self._payload))
        return None

    def _taken(self, data: bytes) -> bytes | None:
        kind = data[:1]
        if kind == URGENT:
            self._times.append(time.monotonic() - struct.unpack_from("!d", data, 1)[0])
            self._go_on()
        elif kind == BULK:
            self.answered(data)
        elif kind == FILLING:
            self._received += 1
            if self._received % self._every == 0:
                return ACKNOWLEDGEMENT
        return None

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        raise NotImplementedError

    def start(self, sending: Awaitable[object] | None) -> None:
        """Let something go on by itself; its failure ends the program."""
        raise NotImplementedError

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
