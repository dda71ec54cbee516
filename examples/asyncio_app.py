"""The node beside asyncio code: install the asyncio reactor first, convert at the border."""

from __future__ import annotations

import asyncio

from twisted.internet import asyncioreactor
from twisted.internet.defer import Deferred

from dig_gossip import DigMessageType, GossipHandle, Message


async def application(alice: GossipHandle, bob: GossipHandle) -> None:
    """Plain asyncio: tasks, queues, timeouts. ``asFuture`` makes a Deferred awaitable here."""
    loop = asyncio.get_running_loop()
    inbound = bob.inbound_receiver()
    async with asyncio.timeout(10):
        message = Message(DigMessageType.NEW_ATTESTATION, None, b"hello")
        await alice.broadcast(message).asFuture(loop)
        _, received = await inbound.get().asFuture(loop)
        await asyncio.sleep(0)
    print(received.data.decode())


async def main(reactor: object) -> None:
    """Twisted's side: ``fromFuture`` makes asyncio code awaitable here."""
    from pair import two_nodes

    async with two_nodes() as (alice, bob):
        await Deferred.fromFuture(asyncio.ensure_future(application(alice, bob)))


if __name__ == "__main__":
    asyncioreactor.install()  # before anything imports twisted.internet.reactor
    from twisted.internet.task import react

    react(main)
