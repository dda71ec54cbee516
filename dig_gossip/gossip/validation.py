"""Messages that await their validator's verdict.

Engines row of the stage table; pure. Source: behaviour PLT-104-X.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dig_gossip.effects import Effect, Validate
from dig_gossip.gossip.link import Link
from dig_gossip.gossip.outside import Outsider
from dig_gossip.gossip.seen import Sighting
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

MAX_PENDING_PER_PEER: Final = 1000


class Pending(NamedTuple):
    """One message, who sent it first, and what is remembered of it."""

    session: Link | Outsider
    peer: PeerId
    message: Message
    sighting: Sighting


class PendingMessages:
    """Messages neither delivered nor forwarded yet.

    Bounded: 1000 a session; ``max_bytes`` in all, but for a single message of any size.
    Cost: O(1).
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pending: dict[bytes, Pending] = {}

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
        return [Validate(peer, message, digest)]

    def settle(self, digest: bytes) -> Pending | None:
        """Stop waiting, if anybody does."""
        pending = self._pending.pop(digest, None)
        if pending is not None:
            self._bytes -= len(pending.message)
            pending.session.pending -= 1
        return pending
