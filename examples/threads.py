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
    stats = handle.blocking.stats()
    return int(stats.messages_sent)


async def main(reactor: object) -> None:
    async with two_nodes() as (alice, bob):
        inbound = bob.inbound_receiver()
        sent = await deferToThread(work, alice)
        for _ in range(3):
            _, message = await inbound.get()
            print(message.data.decode())
        print("sent more than three messages" if sent > 3 else "sent three messages")


if __name__ == "__main__":
    react(main)
