"""Naive flooding: whatever is new goes to every peer but the one it came from.

A model, in the programs row of the stage table. Known property: on an overlay of N nodes and E
links, without losses and failures, a message takes 2E - N + 1 frames, whatever the latencies:
the origin sends on all its links, every other node on all but one.
"""

from __future__ import annotations

from dig_gossip.effects import Deliver, Effect, Send, TimerKey
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message


class Flood:
    """One node. Seen messages are never forgotten."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, None] = {}
        self._seen: set[bytes] = set()

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """Take a link in."""
        self._peers[peer] = None
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a link."""
        self._peers.pop(peer, None)
        return []

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Nothing depends on it."""
        return []

    def publish(self, message: Message) -> list[Effect]:
        """Send to everybody."""
        self._seen.add(message.data)
        return [Send(tuple(self._peers), message)]

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Deliver and send on what is new."""
        if message.data in self._seen:
            return []
        self._seen.add(message.data)
        others = tuple([other for other in self._peers if other != peer])
        return [Deliver(peer, message), Send(others, message)]

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """No timer is ever set."""
        return []

    def tree_links(self) -> int:
        """All of them."""
        return len(self._peers)
