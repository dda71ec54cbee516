"""How the processes of a stress run take commands: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from dig_gossip.util.deferreds import handled

Answer = dict[str, Any]  # Any: JSON

# Whatever else is printed must not be taken for an answer.
_answers, sys.stdout = sys.stdout, sys.stderr


def say(**answer: object) -> None:
    """Print one line."""
    print(json.dumps(answer), file=_answers, flush=True)


class _Commands(LineReceiver):
    delimiter = b"\n"

    def __init__(self, perform: Callable[..., Awaitable[Answer]], over: Deferred[None]) -> None:
        self._perform = perform
        self._over = over

    def lineReceived(self, line: bytes) -> None:
        command = json.loads(line)

        async def perform() -> None:
            say(**await self._perform(**command))

        handled(Deferred.fromCoroutine(perform()).addErrback(self._failed))

    def connectionLost(self, reason: Failure | None = None) -> None:
        if not self._over.called:
            self._over.callback(None)

    def _failed(self, failure: Failure) -> None:
        if not self._over.called:
            self._over.errback(failure)


async def obey(perform: Callable[..., Awaitable[Answer]]) -> None:
    """Carry out commands until standard input ends; a failure ends the program."""
    over: Deferred[None] = Deferred()
    StandardIO(_Commands(perform, over))
    await over


def run(main: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run a program."""
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))


def resident() -> int:
    """Resident bytes of this process (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
