"""Subscriptions are independent: a slow one loses its oldest messages, and nobody else's."""

from __future__ import annotations

from pair import two_nodes
from twisted.internet.task import react

from dig_gossip import ChiaMessageType, Message


async def main(reactor: object) -> None:
    async with two_nodes() as (alice, bob):
        slow, fast = bob.inbound_receiver(), bob.inbound_receiver()
        for number in range(300):
            payload = number.to_bytes(2, "big")
            await alice.broadcast(Message(ChiaMessageType.NEW_TRANSACTION, None, payload))
            await fast.get()
        _, oldest = await slow.get()
        first = int.from_bytes(oldest.data, "big")
        print(f"the slow subscription lost {slow.lagged} messages and goes on with {first}")
        fast.close()
        slow.close()


if __name__ == "__main__":
    react(main)
