"""One node asks, the other answers; and what happens when it does not."""

from __future__ import annotations

import time

from pair import two_nodes
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from dig_gossip import DigMessageType, GossipHandle, RequestTimeout
from dig_gossip.wire.dig import RequestCheckpointSignatures, RequestStatus, RespondStatus


async def answer(handle: GossipHandle) -> None:
    async for peer_id, message in handle.inbound_receiver():
        if message.type == DigMessageType.REQUEST_STATUS:
            status = RespondStatus(
                network_id=bytes(32),
                peak_hash=bytes(32),
                peak_height=1234,
                finalized_height=1200,
                epoch=7,
                timestamp=int(time.time()),
            )
            await handle.respond(peer_id, message, status)


async def main(reactor: object) -> None:
    async with two_nodes() as (alice, bob):
        answering = Deferred.fromCoroutine(answer(alice))
        (connection,) = await bob.connected_peers()
        status = await bob.request(connection.peer_id, RequestStatus())
        print(f"the peak is at {status.peak_height}")
        try:
            question = RequestCheckpointSignatures(b"which?")
            await bob.request(connection.peer_id, question, timeout=0.2)
        except RequestTimeout:
            print("no answer to the second question")
    await answering  # the subscription ends when the node stops


if __name__ == "__main__":
    react(main)
