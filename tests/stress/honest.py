"""Honest peers: each is a node, connected to the one under attack and to nobody else.

They broadcast in turn; every message goes through the node to all others, and says when it left.
"""

from __future__ import annotations

import statistics
import struct
import sys
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from dig_gossip import GossipConfig, GossipService, Message
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.util.deferreds import handled
from tests.stress.obeying import Answer, obey, run, say

NEW_TRANSACTION = 21  # of all opcodes the one that may be sent most often
GAP_SECS = 0.05
_HEAD = struct.Struct("!QdI")


class Peers:
    """All of them."""

    def __init__(self, reactor: Any) -> None:  # Any: all interfaces
        self._reactor = reactor
        self._services: list[GossipService] = []
        self._ages: list[float] = []
        self._talk = 0

    async def connect(self, port: int, count: int) -> None:
        """Let ``count`` peers in."""
        for number in range(count):
            config = GossipConfig(
                listen_addr="127.0.0.1:0", peers_file_path=None, target_outbound_count=1
            )
            service = GossipService(config, identity=throwaway_identity(f"honest {number}"))
            handle = await service.start()
            await handle.connect_to(("127.0.0.1", port))
            handled(self._listen(handle.inbound_receiver()))
            self._services.append(service)

    def _listen(self, inbound: Subscription) -> Deferred[None]:
        async def listen() -> None:
            async for _, message in inbound:
                talk, left_at, _number = _HEAD.unpack_from(message.data)
                if talk == self._talk:
                    self._ages.append(time.monotonic() - left_at)

        return Deferred.fromCoroutine(listen())

    async def perform(self, do: str, seconds: float) -> Answer:
        """Talk for so long; how old messages were on arrival, in ms, and what did not arrive."""
        self._talk += 1
        self._ages = []
        end = time.monotonic() + seconds
        sent = 0
        while time.monotonic() < end:
            service = self._services[sent % len(self._services)]
            body = _HEAD.pack(self._talk, time.monotonic(), sent)
            await service.handle.broadcast(Message(NEW_TRANSACTION, None, body + bytes(28)))
            sent += 1
            await deferLater(self._reactor, GAP_SECS)
        expected = sent * (len(self._services) - 1)
        patience = time.monotonic() + 30
        while len(self._ages) < expected and time.monotonic() < patience:
            await deferLater(self._reactor, 0.05)
        return {
            "sent": sent,
            "missing": expected - len(self._ages),
            # Not all of them: standard output is a pipe that does not block.
            "p99": statistics.quantiles(self._ages, n=100, method="inclusive")[98] * 1e3,
            "lost": sum(len(service.node.peers.table) != 1 for service in self._services),
        }

    async def stop(self) -> None:
        """Go."""
        for service in self._services:
            await service.stop()


async def main(reactor: Any) -> None:  # Any: all interfaces
    """Connect, talk when told to."""
    port, count = map(int, sys.argv[1:3])
    peers = Peers(reactor)
    await peers.connect(port, count)
    say(connected=count)
    await obey(peers.perform)
    await peers.stop()


if __name__ == "__main__":
    run(main)
