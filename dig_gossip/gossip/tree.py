"""Who is eager and who is lazy, and every change of that.

Engines row of the stage table; pure. A change returns the effects that tell the peers concerned.
Source: behaviour PLT-001, PLT-002, PLT-006, PLT-101-X, PRF-003.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from typing import Final

from dig_gossip.effects import Effect, Send
from dig_gossip.gossip.announcements import Announcements
from dig_gossip.gossip.link import Link
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import PlumtreeGraft, PlumtreePrune
from dig_gossip.wire.message import Message

RTT_HYSTERESIS: Final = 1.25  # a link must be this much faster to replace another

_PRUNE = Message(PlumtreePrune.OPCODE, None, bytes(PlumtreePrune()))
_GRAFT = Message(PlumtreeGraft.OPCODE, None, bytes(PlumtreeGraft(None)))


class Tree:
    """The links of this node to its neighbors in the tree.

    Invariant: every link is either eager or lazy, and the lazy ones are those that get
    announcements. Bounded by the number of sessions.

    Cost: O(1) a look-up, O(eager peers) the first time after a change, O(links) a choice.

    :param fanout: how many sessions start eager, 1 and up.
    :param optimize_interval: least time between two swaps for the sake of round trips, seconds.
    """

    def __init__(
        self,
        fanout: int,
        optimize_interval: float,
        announcements: Announcements,
        counters: PlumtreeCounters,
    ) -> None:
        self.fanout = fanout
        self._optimize_interval = optimize_interval
        self._announcements = announcements
        self._counters = counters
        self._links: dict[PeerId, Link] = {}
        self.eager_count = 0
        self._order: tuple[PeerId, ...] | None = None
        self._order_without: dict[PeerId, tuple[PeerId, ...]] = {}
        #: links there have been; the number of the latest
        self.joined = 0
        self._optimized_at = -math.inf
        #: ``get(peer)`` returns the link or None.
        self.get = self._links.get

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[Link]:
        return iter(self._links.values())

    # --- members ----------------------------------------------------------------------------

    def add(self, peer: PeerId, score: float) -> None:
        """Add a peer: eager while the eager set is smaller than the fan-out.  PLT-001"""
        self.joined += 1
        is_eager = self.eager_count < self.fanout
        self._links[peer] = Link(peer, is_eager=is_eager, score=score, number=self.joined)
        if is_eager:
            self.eager_count += 1
            self._forget_order()
        else:
            self._announcements.join(peer)

    def remove(self, peer: PeerId) -> Link | None:
        """Remove a peer, if it is there."""
        link = self._links.pop(peer, None)
        if link is None:
            return None
        if link.is_eager:
            self.eager_count -= 1
            self._forget_order()
        else:
            self._announcements.forget(peer)
        return link

    def rate(self, link: Link, score: float) -> None:
        """Set a peer's score."""
        link.score = score
        self._forget_order()

    def eager(self) -> tuple[PeerId, ...]:
        """The eager peers, best score first.  PLT-002"""
        if self._order is None:
            links = [link for link in self if link.is_eager]
            links.sort(key=lambda link: link.score, reverse=True)
            self._order = tuple([link.peer for link in links])
        return self._order

    def eager_unaware(self, aware: set[PeerId]) -> tuple[PeerId, ...]:
        """The eager peers except those in ``aware``, best score first."""
        if len(aware) != 1:
            return tuple([peer for peer in self.eager() if peer not in aware])
        (sender,) = aware
        return self.eager_without(sender)

    def eager_without(self, sender: PeerId) -> tuple[PeerId, ...]:
        """The eager peers except one, best score first."""
        peers = self._order_without.get(sender)
        if peers is None:
            peers = tuple([peer for peer in self.eager() if peer != sender])
            self._order_without[sender] = peers
        return peers

    # --- roles ------------------------------------------------------------------------------

    def promote(self, link: Link, now: float) -> list[Effect]:
        """Make a peer eager, if it is not; the peer must know, or find out by itself."""
        if link.is_eager:
            return []
        self.eager_count += 1
        self._change_role(link, now)
        return self._announcements.leave(link.peer)

    def graft(self, link: Link, now: float) -> list[Effect]:
        """Make a lazy peer eager, and tell it so."""
        self._counters.grafts_sent += 1
        return [*self.promote(link, now), Send((link.peer,), _GRAFT)]

    def prune(self, link: Link, now: float) -> list[Effect]:
        """Make a peer lazy, if it is not, and tell it so in any case."""
        link.pruned_at = now
        self._counters.prunes_sent += 1
        return [Send((link.peer,), _PRUNE), *self.demote(link, now)]

    def demote(self, link: Link, now: float) -> list[Effect]:
        """Make a peer lazy, if it is not; the peer must know."""
        if not link.is_eager:
            return []
        self.eager_count -= 1
        self._change_role(link, now)
        self._announcements.join(link.peer)
        return self.refill(now, besides=link.peer)

    def refill(self, now: float, *, besides: PeerId | None = None) -> list[Effect]:
        """Never be without an eager peer as long as there is a candidate.  PLT-006

        The candidate is the lazy peer with the best score, a trusted one if there is any.
        """
        if self.eager_count:
            return []
        candidates = [link for link in self if link.peer != besides]
        if not candidates:
            return []
        best = max(candidates, key=lambda link: (not link.is_distrusted(now), link.score))
        return self.graft(best, now)

    def shortcut(self, new: Link, now: float) -> list[Effect]:
        """Add a fast link to the tree; whatever it makes slower than needed prunes itself.

        The new link closes a ring. The next message goes around it both ways, and where its two
        copies meet, the later one prunes its link. Pruning the slow link here and now could cut
        the tree in two: the fast one may lead to the same part of it.

        What was measured on the old tree is void, so the next one needs evidence of its own.
        PLT-101-X, PRF-003
        """
        self._counters.optimizations += 1
        for link in self:
            link.forget_leads()
        return self.graft(new, now)

    def is_eager(self, link: Link) -> bool:
        """Whether a link is one of the tree's."""
        return link.is_eager

    def may_gain(self, new: Link, old: Link) -> bool:
        """Whether a link that is faster than another one may be worth adding."""
        return not new.is_eager

    def lead_key(self, peer: PeerId) -> Hashable:
        """What a lead over a peer is counted under."""
        return peer

    def optimize(self, now: float) -> list[Effect]:
        """Take a lazy link that is much faster than the slowest eager one, now and then.  PRF-003

        Links whose role has just changed rest for an interval. Above the fan-out none is taken.
        """
        rested_since = now - self._optimize_interval
        if self._optimized_at > rested_since or self.eager_count > self.fanout:
            return []
        measured = [
            (link.rtt, link)
            for link in self
            if link.rtt is not None and link.role_changed <= rested_since
        ]
        lazy = [item for item in measured if not (item[1].is_eager or item[1].is_distrusted(now))]
        eager = [item for item in measured if item[1].is_eager]
        if not lazy or not eager:
            return []
        fast_rtt, fast = min(lazy, key=lambda item: item[0])
        slow_rtt = max(rtt for rtt, _ in eager)
        if fast_rtt * RTT_HYSTERESIS >= slow_rtt:
            return []
        self._optimized_at = now
        return self.shortcut(fast, now)

    def _change_role(self, link: Link, now: float) -> None:
        link.is_eager = not link.is_eager
        link.role_changed = now
        link.forget_leads()
        self._forget_order()

    def _forget_order(self) -> None:
        self._order = None
        self._order_without.clear()
