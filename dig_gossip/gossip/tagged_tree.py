"""One tree with a tag, as one node knows it.

Engines row of the stage table; pure. Source: :doc:`/engines/trees`.
"""

from __future__ import annotations

import math
from typing import Final

from dig_gossip.effects import Effect, Send
from dig_gossip.gossip.link import PRUNE_INTERVAL_SECS, Link
from dig_gossip.gossip.sampling import CutSampler
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message
from dig_gossip.wire.trees import TreeGraft, TreePrune


class TaggedTree:
    """The links that carry the messages of one tag in full.

    Bounded by the number of sessions. Cost: O(1) a look-up, O(eager links) the first time after a
    change.

    :param distance: seconds from its root, None if unknown.
    :ivar parent: who is to bring us its messages, as far as we know.
    :ivar offers: of other peers, how far from the root they say they are, seconds. One that is
        nearer than we are does not hang on us, so that we may hang on it.
    :ivar eager: peers that get its messages in full; the others of the session table get
        announcements.
    :ivar opened_at: when it became known here, monotonic seconds.
    :ivar lost_at: when we last said that we have no way to its root.
    :ivar used_at: when a message last ran in it.
    """

    __slots__ = (
        "_counters",
        "_most",
        "_pruned_at",
        "_without",
        "distance",
        "eager",
        "lost_at",
        "offers",
        "opened_at",
        "parent",
        "sampler",
        "tag",
        "used_at",
    )

    def __init__(
        self, tag: int, distance: float | None, now: float, counters: PlumtreeCounters
    ) -> None:
        self.tag: Final = tag
        self.distance = distance
        self.opened_at = now
        self.used_at = now
        self.lost_at = -math.inf
        self.sampler = CutSampler()
        self.parent: PeerId | None = None
        self.offers: dict[PeerId, float] = {}
        self.eager: dict[PeerId, None] = {}
        self._most = 0  # eager peers at once, ever
        self._without: dict[PeerId, tuple[PeerId, ...]] = {}
        self._pruned_at: dict[PeerId, float] = {}
        self._counters = counters

    @property
    def is_thin(self) -> bool:
        """Whether it has lost more than half of its links: at its root, not what won the race."""
        return 2 * len(self.eager) < self._most

    def is_eager(self, link: Link) -> bool:
        """Whether a link carries its messages in full."""
        return link.peer in self.eager

    def unaware(self, aware: set[PeerId]) -> tuple[PeerId, ...]:
        """The eager peers except those in ``aware``."""
        if len(aware) != 1:
            return tuple([peer for peer in self.eager if peer not in aware])
        (sender,) = aware
        peers = self._without.get(sender)
        if peers is None:
            peers = tuple([peer for peer in self.eager if peer != sender])
            self._without[sender] = peers
        return peers

    def add(self, peer: PeerId) -> None:
        """Make a link eager; the peer must know, or find out by itself."""
        if peer not in self.eager:
            self.eager[peer] = None
            self._most = max(self._most, len(self.eager))
            self._without.clear()

    def drop(self, peer: PeerId) -> None:
        """Make a link lazy; the peer must know."""
        if peer in self.eager:
            del self.eager[peer]
            self._without.clear()

    def forget(self, peer: PeerId) -> None:
        """A session has ended."""
        self.drop(peer)
        if self.parent == peer:
            self.parent = None
        self.offers.pop(peer, None)
        self._pruned_at.pop(peer, None)

    def graft(self, link: Link) -> list[Effect]:
        """Make a link eager, and tell the peer so."""
        self._counters.grafts_sent += 1
        self.add(link.peer)
        body = TreeGraft(self.tag)
        return [Send((link.peer,), Message(body.OPCODE, None, bytes(body)))]

    def may_prune(self, link: Link, now: float) -> bool:
        """Whether the last PRUNE of this link and tree is long enough ago."""
        pruned_at = self._pruned_at.get(link.peer)
        return pruned_at is None or now - pruned_at >= PRUNE_INTERVAL_SECS

    def prune(self, link: Link, now: float) -> list[Effect]:
        """Make a link lazy, if it is not, and tell the peer so in any case."""
        self._pruned_at[link.peer] = now
        self.drop(link.peer)
        return prune(self.tag, link, self._counters)

    def may_gain(self, new: Link, old: Link) -> bool:
        """Whether a link may be a shorter way from the root than the one that messages come by.

        Messages come along the tree from others, too, and are late where they come down again.
        A link that is faster for those would close a ring, and their second copies could cut the
        ring where the root's messages come by.
        """
        return (
            old.peer == self.parent
            and new.peer not in self.eager
            and self._way(new) < self._way(old)
        )

    def _way(self, link: Link) -> float:
        """Seconds from the root by this link; inf if unknown."""
        return self.offers.get(link.peer, math.inf) + (
            math.inf if link.rtt is None else link.rtt / 2
        )

    def shortcut(self, new: Link, now: float) -> list[Effect]:
        """Add a fast link; the next message prunes the slow one of the ring that it closes."""
        self._counters.optimizations += 1
        return self.graft(new)

    def lead_key(self, peer: PeerId) -> tuple[int, PeerId]:
        """What a lead over a peer is counted under: that of one tree says nothing of another."""
        return self.tag, peer


def prune(tag: int, link: Link, counters: PlumtreeCounters) -> list[Effect]:
    """Tell a peer to send nothing in full that runs in a tree, known here or not."""
    counters.prunes_sent += 1
    body = TreePrune(tag)
    return [Send((link.peer,), Message(body.OPCODE, None, bytes(body)))]
