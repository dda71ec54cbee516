"""A thread uses the node: each call waits for its result."""

from __future__ import annotations

from pair import two_nodes
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from dig_gossip import DigMessageType, GossipHandle, Message


def work(handle: GossipHandle) -> int:
    for number in range(3):
        payload = f"message {number}".encode()
        handle.blocking.broadcast(Message(DigMessageType.NEW_ATTESTATION, None, payload))
    seen: int = handle.blocking.stats().seen_messages
    return seen


async def main(reactor: object) -> None:
    async with two_nodes() as (alice, bob):
        inbound = bob.inbound_receiver()
        seen = await deferToThread(work, alice)
        for _ in range(3):
            _, message = await inbound.get()
            print(message.data.decode())
        print(f"the thread has counted {seen}")


if __name__ == "__main__":
    react(main)
