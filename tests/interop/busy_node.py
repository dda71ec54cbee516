"""A DIG node on Chia's network with two hours of traffic, compressed into minutes.

``python -m tests.interop.busy_node HOST:PORT TEMPLATE`` listens, dials the full node at HOST:PORT,
waits for a second one to dial, and then announces peaks and transactions to both, asks each for
blocks, and answers their questions. Its clock runs thirty times as fast from then on: windows of
the rate limits, which keep their numbers, and every timer. Keepalive and request timeouts are set
thirty times as long, so that they last as long as ever.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from chia_rs import NewPeak, NewTransaction, RequestBlocks, RespondBlocks
from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint32, uint64, uint128
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import ILogObserver, LogLevel, eventAsText, formatEvent, globalLogBeginner
from zope.interface import implementer

from dig_gossip import GossipConfig, GossipService, Network
from dig_gossip.constants import PEER_TIMEOUT_SECS, PING_INTERVAL_SECS
from dig_gossip.service.gossip_handle import GossipHandle
from dig_gossip.types.peer import PeerId
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.interop.big_blocks import BLOCKS_AN_ANSWER, big_block
from tests.interop.time_lapse import (
    FULL_ANSWER_SECS,
    ONE_BLOCK_SECS,
    PEAK_SECS,
    SPEED,
    TRANSACTION_SECS,
    FastClock,
    repeat,
)

PATIENCE_SECS = 120.0


@implementer(IReactorTime)
class FastReactor:
    """The real one, with a fast clock."""

    def __init__(self, reactor: Any) -> None:  # Any: all interfaces
        self._reactor = reactor
        self.monotonic = FastClock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def unix(self) -> float:
        """What is shown and stored."""
        return time.time()

    def seconds(self) -> float:
        return self.monotonic()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002 - the interface's name
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        call: IDelayedCall = self._reactor.callLater(
            delay / self.monotonic.speed, callable, *args, **kw
        )
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        calls: list[IDelayedCall] = self._reactor.getDelayedCalls()
        return calls


class Traffic:
    """What this side sends, asks and answers."""

    def __init__(self, reactor: FastReactor, handle: GossipHandle, template: str) -> None:
        self._reactor = reactor
        self._handle = handle
        self._block = big_block(template)
        self.counts: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    async def listen(self) -> None:
        """Count what comes, answer what is asked."""
        async for peer, message in self._handle.inbound_receiver():
            self.received[f"{peer.hex()[:8]} {ChiaMessageType(message.type).name}"] += 1
            if message.type == ChiaMessageType.REQUEST_BLOCKS:
                question = RequestBlocks.from_bytes(message.data)
                count = question.end_height - question.start_height + 1
                answer = RespondBlocks(
                    question.start_height, question.end_height, [self._block] * count
                )
                await self._handle.respond(peer, message, answer)

    async def run(self, peers: list[PeerId]) -> None:
        """Two hours."""
        self._reactor.monotonic.go(SPEED)
        running = [
            self._repeat(PEAK_SECS, self._peak),
            self._repeat(TRANSACTION_SECS, self._transaction),
        ]
        for peer in peers:
            for gap, count in ((ONE_BLOCK_SECS, 1), (FULL_ANSWER_SECS, BLOCKS_AN_ANSWER)):
                running.append(self._repeat(gap, partial(self._ask, peer, count)))
        await gatherResults(running, consumeErrors=True)

    def _repeat(self, gap: float, do: Callable[[int], Any]) -> Deferred[int]:
        async def pause(seconds: float) -> None:
            await task.deferLater(self._reactor._reactor, seconds)

        return Deferred.fromCoroutine(repeat(self._reactor.monotonic, gap, pause, do))

    async def _peak(self, number: int) -> None:
        height = 5_000_000 + number
        body = NewPeak(
            bytes32(secrets.token_bytes(32)),
            uint32(height),
            uint128(height * 1000),
            uint32(height - 1),
            bytes32(secrets.token_bytes(32)),
        )
        self.counts["new_peak"] += await self._handle.broadcast_typed(body)

    async def _transaction(self, number: int) -> None:
        body = NewTransaction(bytes32(secrets.token_bytes(32)), uint64(10_000_000), uint64(number))
        self.counts["new_transaction"] += await self._handle.broadcast_typed(body)

    async def _ask(self, peer: PeerId, count: int, start: int) -> None:
        self.counts["asked"] += 1
        question = RequestBlocks(uint32(start), uint32(start + count - 1), True)
        answer = await self._handle.request(peer, question, timeout=PATIENCE_SECS * SPEED)
        if len(answer.blocks) == count:
            self.counts["answered"] += 1
            self.counts["largest"] = max(self.counts["largest"], len(bytes(answer)))


def report(event: str, **fields: object) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **fields}), flush=True)


def log(event: Any) -> None:  # Any: a log event
    """Show what ends a session, and errors."""
    if event.get("event") in ("session_closed", "peer_penalized", "opening_failed"):
        print(formatEvent(event), flush=True)
    elif event.get("log_level", LogLevel.info) >= LogLevel.warn:
        print(eventAsText(event), flush=True)


async def main(reactor: Any, full_node: str, template: str) -> None:  # Any: all interfaces
    """Connect, live through two hours, and tell."""
    globalLogBeginner.beginLoggingTo([cast(ILogObserver, log)], redirectStandardIO=False)
    fast = FastReactor(reactor)
    service = GossipService(
        GossipConfig(
            listen_addr="127.0.0.1:0",
            network=Network.CHIA_MAINNET,
            peers_file_path=None,
            keepalive_ping_interval_secs=PING_INTERVAL_SECS * SPEED,
            keepalive_peer_timeout_secs=PEER_TIMEOUT_SECS * SPEED,
            reactor=fast,
        )
    )
    handle = await service.start()
    traffic = Traffic(fast, handle, template)
    handled(Deferred.fromCoroutine(traffic.listen()))
    report("listening", address=str(service.listen_address), peer_id=service.peer_id.hex())
    await handle.connect_to(full_node)
    while await handle.peer_count() < 2:
        await task.deferLater(reactor, 0.05)
    report("connected")
    await traffic.run([peer.peer_id for peer in await handle.connected_peers()])
    report("lived", counts=traffic.counts)
    await task.deferLater(reactor, 1.0)
    stats = await handle.stats()
    report(
        "stats",
        peers=stats.connected_peers,
        received=traffic.received,
        extra={name: count for name, count in stats.extra.items() if count},
    )
    while await handle.peer_count():
        await task.deferLater(reactor, 0.1)
    await service.stop()


if __name__ == "__main__":
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:3])))
