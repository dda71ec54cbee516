"""Messages that await their validator's verdict.

A peer that has many of them, or that sends more when all of them together take much memory, is not
read from until most have been decided; TCP then slows it down. What was read before that still
comes in, so there is room for it: nothing is lost unless a peer is read from regardless.

Engines row of the stage table; pure. Source: behaviour PLT-104-X, BP-104-X.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from dig_gossip.effects import Effect, HoldReading, ReleaseReading, Validate
from dig_gossip.gossip.link import Link
from dig_gossip.gossip.outside import Outsider
from dig_gossip.gossip.seen import Sighting
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

#: A peer with so many is not read from until no more than half as many are left.
HOLD_AT: Final = 1000
RELEASE_AT: Final = HOLD_AT // 2
#: A peer may have so many: one read holds no more messages of the smallest size than the rest.
MAX_PENDING_PER_PEER: Final = HOLD_AT + 8192


class Pending(NamedTuple):
    """One message, who sent it first, and what is remembered of it."""

    session: Link | Outsider
    peer: PeerId
    message: Message
    sighting: Sighting


class PendingMessages:
    """Messages neither delivered nor forwarded yet.

    Bounded: 9192 a session; ``max_bytes`` in all, but for a single message of any size. Reading is
    held from 1000 a session on, or when half of ``max_bytes`` is used.
    Cost: O(1); O(held sessions) for a verdict while any session is held.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pending: dict[bytes, Pending] = {}
        #: to look at: every message costs a look
        self.by_hash: Mapping[bytes, Pending] = self._pending
        self._held: dict[PeerId, Link | Outsider] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._pending

    def has_room(self, session: Link | Outsider, message: Message) -> bool:
        """Whether one more message of this session may wait."""
        return session.pending < MAX_PENDING_PER_PEER and (
            not self._pending or self._bytes + len(message) <= self._max_bytes
        )

    def ask(
        self,
        session: Link | Outsider,
        peer: PeerId,
        digest: bytes,
        message: Message,
        sighting: Sighting,
    ) -> list[Effect]:
        """Ask for a verdict."""
        self.settle(digest)  # asked already, if the seen set has forgotten it meanwhile
        self._pending[digest] = Pending(session, peer, message, sighting)
        self._bytes += len(message)
        session.pending += 1
        effects: list[Effect] = []
        if (session.pending >= HOLD_AT or self._bytes * 2 > self._max_bytes) and self._held.get(
            peer
        ) is not session:
            # First, because the verdict may come at once.
            self._held[peer] = session
            effects.append(HoldReading(peer))
        effects.append(Validate(peer, message, digest))
        return effects

    def settle(self, digest: bytes) -> Pending | None:
        """Stop waiting, if anybody does."""
        pending = self._pending.pop(digest, None)
        if pending is not None:
            self._bytes -= len(pending.message)
            pending.session.pending -= 1
        return pending

    def release(self) -> list[Effect]:
        """After verdicts: read on from whoever has few enough messages left."""
        if not self._held or self._bytes * 4 > self._max_bytes:
            return []
        free = [peer for peer, session in self._held.items() if session.pending <= RELEASE_AT]
        for peer in free:
            del self._held[peer]
        return [ReleaseReading(peer) for peer in free]

    def forget(self, peer: PeerId) -> list[Effect]:
        """The peer is gone, or takes part in another way: do not hold it any longer."""
        return [] if self._held.pop(peer, None) is None else [ReleaseReading(peer)]
