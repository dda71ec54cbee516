"""Sessions that take part in gossip but not in the tree.

Engines row of the stage table; pure. Source: design D5, D6.
"""

from __future__ import annotations

from typing import Final

from dig_gossip.gossip.seen import KnownHashes
from dig_gossip.gossip.values import PeerMode
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.opcodes import CHIA_UNSOLICITED

MAX_KNOWN_HASHES: Final = 4096  # per session


class Outsider:
    """A session without Plumtree.

    :ivar known: messages that it sent us or that we sent it.
    :ivar pending: its messages that await their verdict.
    """

    __slots__ = ("known", "mode", "pending")

    def __init__(self, mode: PeerMode) -> None:
        self.mode = mode
        self.known = KnownHashes(MAX_KNOWN_HASHES)
        self.pending = 0


class Outsiders:
    """All sessions outside the tree: those that are flooded, and plain Chia sessions.

    Bounded by the number of sessions, with 4096 known hashes each. Cost: O(sessions) a message.
    """

    def __init__(self) -> None:
        self.sessions: dict[PeerId, Outsider] = {}

    def modes(self) -> dict[PeerId, PeerMode]:
        """All sessions with their modes."""
        return {peer: other.mode for peer, other in self.sessions.items()}

    def add(self, peer: PeerId, mode: PeerMode) -> None:
        """Take a session in, or change its mode; what it knows it keeps knowing."""
        outsider = self.sessions.get(peer)
        if outsider is None:
            self.sessions[peer] = Outsider(mode)
        else:
            outsider.mode = mode

    def remove(self, peer: PeerId) -> None:
        """Forget a session, if it is there."""
        self.sessions.pop(peer, None)

    def owed(
        self, digest: bytes, *, flood: bool, chia: bool, exclude: PeerId | None = None
    ) -> tuple[PeerId, ...]:
        """Choose who is to get a message now; whoever is chosen counts as knowing it.

        :param flood: flooded sessions get it.
        :param chia: plain Chia sessions get it.
        """
        if not self.sessions:
            return ()
        modes = {PeerMode.FLOOD: flood, PeerMode.CHIA: chia}
        return tuple(
            [
                peer
                for peer, other in self.sessions.items()
                if modes[other.mode] and peer != exclude and other.known.add(digest)
            ]
        )


def may_reach_chia(opcode: int) -> bool:
    """Whether a Chia node accepts an opcode that it did not ask for."""
    return opcode in CHIA_UNSOLICITED
