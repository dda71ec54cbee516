"""A DIG node inside a program, which gossips next to a full node of Chia until SIGTERM.

``python -m tests.interop.dig_node HOST:PORT`` runs two services on Chia's network. The first
connects to the second and to the full node at HOST:PORT, then broadcasts a message that only DIG
nodes know and one that every full node knows, and asks the full node for peers. Output is one
JSON object a line.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from chia_rs import NewTransaction
from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint64
from twisted.internet import task
from twisted.internet.defer import Deferred

from dig_gossip import (
    DigMessageType,
    GossipConfig,
    GossipService,
    Message,
    Network,
    WrongDispatch,
)

PING_SECS = 0.5
"""Short, so that the full node's answers to pings mark the passing of time."""


def report(event: str, **fields: object) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **fields}), flush=True)


def make_service() -> GossipService:
    """A node of Chia's network on a free port."""
    return GossipService(
        GossipConfig(
            listen_addr="127.0.0.1:0",
            network=Network.CHIA_MAINNET,
            peers_file_path=None,
            keepalive_ping_interval_secs=PING_SECS,
        )
    )


async def gossip(first: GossipService, second: GossipService, full_node: str) -> None:
    """Connect, broadcast, ask; report each step."""
    here, there = await first.start(), await second.start()
    inbound = there.inbound_receiver()
    dig_peer = await here.connect_to(second.listen_address)
    await here.request_peers_from(dig_peer)  # once answered, the other end is ready too
    chia_peer = await here.connect_to(full_node)
    report("connected", peer_id=first.peer_id.hex(), chia=chia_peer.hex(), dig=dig_peer.hex())

    attestation = Message(DigMessageType.NEW_ATTESTATION, None, b"for DIG nodes")
    report("broadcast", message=attestation.type, sent=await here.broadcast(attestation))
    _, message = await inbound.get()
    report("delivered", message=message.type, data=message.data.decode())
    try:
        await here.send_to(chia_peer, attestation)
    except WrongDispatch as error:
        report("refused", error=str(error))

    transaction = NewTransaction(bytes32(b"\x01" * 32), uint64(10_000_000), uint64(1_000_000))
    report("broadcast", message=21, sent=await here.broadcast_typed(transaction))
    answer = await here.request_peers_from(chia_peer)
    report("answered", peers=len(answer.peer_list))


async def main(reactor: Any, full_node: str) -> None:  # Any: every interface of a reactor
    """Gossip, then stay until the reactor is asked to stop."""
    first, second = make_service(), make_service()

    async def stop() -> None:
        connected = await first.handle.connected_peers()
        report("stopping", peers=[peer.peer_id.hex() for peer in connected])
        await first.stop()
        await second.stop()
        report("stopped")

    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    await gossip(first, second, full_node)
    await Deferred()  # for ever


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("full_node", metavar="HOST:PORT")
    options = parser.parse_args()
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, options.full_node)))
