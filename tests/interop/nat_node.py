"""One end of the NAT laboratory's test: a node that only knows a relay, and counts.

Run as ``python -m tests.interop.nat_node RELAY_URL MESSAGES``. It waits for its one peer, sends it
so many numbered messages, some of them before, some while and some after the session leaves the
relay, and prints a JSON line for each thing that happens, and a last one with the result.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from dig_gossip import (
    GossipConfig,
    GossipHandle,
    GossipService,
    Message,
    PeerOptions,
    RelayConfig,
)
from dig_gossip.types.peer import PeerId
from dig_gossip.util.deferreds import handled

#: No engine has a use for it: it is delivered as often as it arrives.
OPCODE = 230
PER_TURN = 20
TURN_SECS = 0.02
PATIENCE_SECS = 25.0
PADDING = bytes(90)


def say(**fields: Any) -> None:
    """Print one JSON line."""
    print(json.dumps(fields), flush=True)


async def peer_of(reactor: Any, handle: GossipHandle) -> PeerId:
    """Wait for the one peer."""
    while True:
        connections = await handle.connected_peers()
        if connections:
            return connections[0].peer_id
        await deferLater(reactor, 0.1, lambda: None)


async def watch(reactor: Any, handle: GossipHandle, until: list[bool]) -> None:
    """Say by which way the peer is reached, whenever it changes."""
    last = None
    started = reactor.seconds()
    while not until:
        ways = [connection.transport.value for connection in await handle.connected_peers()]
        if ways != last:
            say(event="ways", ways=ways, seconds=round(reactor.seconds() - started, 2))
            last = ways
        await deferLater(reactor, 0.05, lambda: None)


async def send(reactor: Any, handle: GossipHandle, peer: PeerId, count: int) -> None:
    """Send the numbers 1 to ``count``."""
    for first in range(1, count + 1, PER_TURN):
        for number in range(first, min(first + PER_TURN, count + 1)):
            await handle.send_to(peer, Message(OPCODE, None, number.to_bytes(4, "big") + PADDING))
        await deferLater(reactor, TURN_SECS, lambda: None)
    await handle.send_to(peer, Message(OPCODE, None, bytes(4)))


async def run(reactor: Any, url: str, messages: str) -> None:
    """Run until both numbers and patience are exhausted."""
    count = int(messages)
    service = GossipService(
        GossipConfig(
            listen_addr="0.0.0.0:9444",
            peers_file_path="",
            relay=RelayConfig(endpoint=url),
            peer_options=PeerOptions(enforce_rate_limits=False),
        )
    )
    handle = await service.start()
    inbound = handle.inbound_receiver()
    done: list[bool] = []
    got: Counter[int] = Counter()
    watching = Deferred.fromCoroutine(watch(reactor, handle, done))
    peer = await peer_of(reactor, handle)
    say(event="peer", peer=peer.hex())
    sending = Deferred.fromCoroutine(send(reactor, handle, peer, count))

    async def collect() -> None:
        while sum(got.values()) < count + 1:
            _peer, message = await inbound.get()
            if message.type == OPCODE:
                got[int.from_bytes(message.data[:4], "big")] += 1

    collecting = Deferred.fromCoroutine(collect())
    handled(collecting.addErrback(lambda failure: None))
    await sending
    handled(collecting.addTimeout(PATIENCE_SECS, reactor, onTimeoutCancel=lambda *_: None))
    await collecting
    # What would be delivered twice gets the time to come.
    await deferLater(reactor, 8.0, lambda: None)
    while len(inbound):
        _peer, message = await inbound.get()
        got[int.from_bytes(message.data[:4], "big")] += 1
    stats = await handle.stats()
    ways = [connection.transport.value for connection in await handle.connected_peers()]
    done.append(True)
    await watching
    say(
        event="result",
        ways=ways,
        missing=sum(number not in got for number in range(count + 1)),
        twice=sum(times > 1 for times in got.values()),
        lagged=inbound.lagged,
        punches_ok=stats.extra.get("punches_ok", 0),
        moved=stats.extra.get("removed.moved", 0),
    )
    await service.stop()


if __name__ == "__main__":
    react(run, sys.argv[1:])
