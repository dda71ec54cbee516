"""A validator decides what is delivered and passed on, and who is charged for nonsense."""

from __future__ import annotations

from pair import two_nodes
from twisted.internet.task import react

from dig_gossip import DigMessageType, Message, PeerId, PenaltyReason, Verdict

ATTESTATION = DigMessageType.NEW_ATTESTATION


def judge(peer_id: PeerId, message: Message) -> Verdict | PenaltyReason:
    if message.data.startswith(b"old"):
        return Verdict.IGNORE
    if message.data.startswith(b"forged"):
        return PenaltyReason.INVALID_ATTESTATION
    return Verdict.ACCEPT


async def main(reactor: object) -> None:
    async with two_nodes() as (alice, bob):
        bob.set_validator(ATTESTATION, judge)
        inbound = bob.inbound_receiver()
        for payload in (b"old news", b"forged", b"good"):
            await alice.broadcast(Message(ATTESTATION, None, payload))
        _, message = await inbound.get()
        (connection,) = await bob.connected_peers()
        points = connection.reputation.penalty_points
        print(f"{message.data.decode()} came through; the sender has {points} points")


if __name__ == "__main__":
    react(main)
