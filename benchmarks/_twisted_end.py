"""What the ends that run on Twisted have in common."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Awaitable, Coroutine
from pathlib import Path
from typing import Any

from _flow import End, tell
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from dig_gossip.tls.identity import Identity, load_or_create_identity
from dig_gossip.util.deferreds import handled

reactor: Any = global_reactor  # Any: several reactor interfaces at once


class TwistedEnd(End):
    """Deferreds to wait with, and standard input for commands.

    :param identity: shown in TLS.
    """

    def __init__(self, identity: Identity) -> None:
        super().__init__()
        self.identity = identity

    async def listen(self) -> dict[str, Any]:
        """Open a port on loopback; what the parent has to know about it."""
        raise NotImplementedError

    async def pause(self, seconds: float) -> None:
        await deferLater(reactor, seconds)

    def start(self, sending: Awaitable[object] | None) -> None:
        if sending is not None:
            run(_awaited(sending))

    def waiter(self) -> Deferred[None]:
        return Deferred()

    def wake(self, waiter: Deferred[None]) -> None:
        waiter.callback(None)


async def _awaited(sending: Awaitable[object]) -> None:
    await sending


class _Commands(LineReceiver):
    delimiter = b"\n"

    def __init__(self, end: End) -> None:
        self._end = end

    def lineReceived(self, line: bytes) -> None:
        run(self._end.perform(line))

    def connectionLost(self, reason: Failure | None = None) -> None:
        if reactor.running:
            reactor.stop()


def run(coroutine: Coroutine[Any, Any, object]) -> None:
    """Start a coroutine; its failure ends the program."""

    def failed(failure: Failure) -> None:
        traceback.print_exception(failure.value)
        sys.stderr.flush()
        reactor.stop()

    handled(Deferred.fromCoroutine(coroutine).addErrback(failed))


def obey(end: End) -> None:
    """Take commands from standard input; stop when it ends."""
    StandardIO(_Commands(end))


def main(end_class: type[TwistedEnd]) -> None:
    """Listen, say where, and obey until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate", type=Path, required=True)
    options = parser.parse_args()
    certificate = options.certificate
    end = end_class(load_or_create_identity(str(certificate), str(certificate.with_suffix(".key"))))

    async def begin() -> None:
        tell(await end.listen())
        obey(end)

    reactor.callWhenRunning(run, begin())
    reactor.run()
