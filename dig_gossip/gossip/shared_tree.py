"""The tree that all links share: for messages without a tag, and for peers without such trees.

Engines row of the stage table; pure: the part of :class:`~dig_gossip.gossip.plumtree.Plumtree` that
deals with frames 214 to 217.

Divergence: (a) PLT-004.1 prunes eager senders only. Any tree peer whose copy is a duplicate is
pruned here, or else a link that we hold lazy and the peer holds eager would carry duplicates for
ever; and while the limit forbids a PRUNE, nobody is demoted silently either. (b) With many
messages in flight not every duplicate cuts the tree, see :mod:`dig_gossip.gossip.sampling`. (c) A
duplicate of what came first from a session outside the tree says nothing about the tree and
prunes nobody; nor is the only link a node has ever pruned. (d) PRF-003 and PLT-101-X swap two
links at once, which cuts the tree in two whenever the new link leads to the same part of it. Here
the faster link is added, and the next message prunes the slowest link of the ring that it closes;
above the fan-out (PLT-001) PRF-003 adds none.

Source: behaviour §19, PRF-003; wire §13.1.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from dig_gossip.effects import Effect, Send, TimerKey
from dig_gossip.gossip.announcements import ANNOUNCE_TIMER, Announcements
from dig_gossip.gossip.fetching import Fetching
from dig_gossip.gossip.link import Link, Pull
from dig_gossip.gossip.missing import MISSING_TIMER
from dig_gossip.gossip.sampling import PruneSampler
from dig_gossip.gossip.seen import SeenSet, Sighting, Stage
from dig_gossip.gossip.tree import Tree
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import (
    PlumtreeGraft,
    PlumtreeLazyAnnounce,
    PlumtreePrune,
    PlumtreeRequestByHash,
)
from dig_gossip.wire.message import Message

SHARED_TIMERS = (ANNOUNCE_TIMER, MISSING_TIMER)

_HELD = Stage.HELD


class SharedTree:
    """The shared tree, what is announced beside it, and what is missing.

    Bounded, cost: as its parts.

    :param serve: sends what a peer pulls, of (link, hash, now).
    :ivar links: all links there are; they know whether they are eager in this tree.
    """

    def __init__(
        self,
        config: PlumtreeConfig,
        *,
        fanout: int,
        seen: SeenSet,
        counters: PlumtreeCounters,
        serve: Callable[[Link, bytes, float], list[Effect]],
        rng: Random,
    ) -> None:
        self._seen = seen
        self._counters = counters
        self._serve = serve
        self.announcements = Announcements(config, rng=rng, counters=counters)
        self.links = Tree(fanout, config.optimize_interval_secs, self.announcements, counters)
        self._fetching = Fetching(config, self.links, counters)
        self.sampler = PruneSampler()
        #: what was announced and is not here, by hash; to look at: every message costs a look
        self.missing = self._fetching.missing

    @property
    def lazy(self) -> frozenset[PeerId]:
        """The peers that get announcements."""
        return frozenset(self.announcements.peers)

    @property
    def unannounced(self) -> int:
        """Messages of which somebody may still have to be told."""
        return len(self.announcements)

    @property
    def lazy_timeout(self) -> float:
        """Seconds from an announcement to a graft, as adapted by now."""
        return self._fetching.lazy_timeout

    def peer_down(self, link: Link, now: float) -> list[Effect]:
        """A link has ended; if the tree hung on it, mend the tree at once.  PLT-006"""
        return [
            *self._fetching.peer_down(link, now),
            *self.links.refill(now),
            *self._fetching.arm(now),
        ]

    # --- messages ---------------------------------------------------------------------------

    def came(
        self, link: Link, digest: bytes, pull: Pull | None, aware: set[PeerId], now: float
    ) -> list[Effect]:
        """Take note of the first copy of a message: its link is one of the tree's.

        :param pull: it answers this pull of ours.
        :param aware: gets those who announced it.
        """
        was_eager = link.is_eager
        effects: list[Effect] = []
        if not was_eager and pull is not Pull.REQUEST:
            effects += self.links.promote(link, now)
        missing = self._fetching.found(digest) if self.missing else None
        if missing is not None:
            aware.update(missing.announced_at)
            effects += self._fetching.arrived(
                missing, self.links, link, now, was_eager=was_eager, is_answer=pull is not None
            )
        return effects

    def came_elsewhere(self, digest: bytes, aware: set[PeerId] | None = None) -> None:
        """Stop looking for a message that came otherwise.

        :param aware: gets those who announced it.
        """
        missing = self._fetching.found(digest) if self.missing else None
        if missing is not None and aware is not None:
            aware.update(missing.announced_at)

    def forward(
        self,
        digest: bytes,
        message: Message,
        sighting: Sighting,
        aware: set[PeerId],
        now: float,
        effects: list[Effect],
        *,
        is_kept: bool,
        besides: tuple[PeerId, ...],
    ) -> int:
        """Push a message to the eager peers, and have it announced to the lazy ones.

        :param is_kept: it is in the cache, so that it may be announced.
        :param besides: others that get it in full.
        :returns: how many peers are to be told of it.
        """
        self.sampler.message_seen(now)
        peers = (self.links.eager_unaware(aware) if aware else self.links.eager()) + besides
        if peers:
            self._counters.pushed += len(peers)
            effects.append(Send(peers, message))
        if not is_kept or not self.announcements.peers:
            return 0
        told = sum(peer not in aware for peer in self.announcements.peers)
        effects += self.announcements.add(digest, message.type, sighting, aware, now)
        return told

    def duplicate(self, link: Link, digest: bytes, now: float) -> list[Effect]:
        """Take in a second copy: one eager link too many.  PLT-004.1"""
        if link.is_eager:
            self._fetching.late_copy(digest, now)
            if len(self.links) == 1 or not self.sampler.may_prune(digest, now):
                return []
        return self.links.prune(link, now) if link.may_prune(now) else []

    # --- control frames ---------------------------------------------------------------------

    def control_received(self, link: Link, message: Message, now: float) -> list[Effect]:
        """Take in a frame, opcodes 214 to 217.

        :raises ClientError: it is malformed.
        Source: behaviour PLT-004.2, PLT-005, PLT-005.2, PLT-009.
        """
        opcode, data = message.type, message.data
        if opcode == PlumtreeLazyAnnounce.OPCODE:
            return self._announced(link, PlumtreeLazyAnnounce.from_bytes(data), now)
        if opcode == PlumtreePrune.OPCODE:
            PlumtreePrune.from_bytes(data)
            self._counters.prunes_received += 1
            return self.links.demote(link, now)
        if opcode == PlumtreeGraft.OPCODE:
            return self._grafted(link, PlumtreeGraft.from_bytes(data).hash, now)
        if opcode == PlumtreeRequestByHash.OPCODE:
            digest = PlumtreeRequestByHash.from_bytes(data).hash
            self._counters.requests_received += 1
            return self._serve(link, digest, now)
        return []

    def timer_fired(self, key: TimerKey, now: float) -> list[Effect]:
        """Do what is due."""
        if key == ANNOUNCE_TIMER:
            return self.announcements.timer_fired(now)
        return self._fetching.timer_fired(now)

    def _announced(self, link: Link, body: PlumtreeLazyAnnounce, now: float) -> list[Effect]:
        """PLT-005."""
        self._counters.ihaves_received += len(body.entries)
        is_news = False
        for digest, opcode in body.entries:
            sighting = self._seen.get(digest)
            if sighting is None or sighting.stage is _HELD:
                self._fetching.announced(link, digest, opcode, now)
                is_news = True
                continue
            if sighting.aware is not None:
                sighting.aware.add(link.peer)
            if sighting.source is not None:
                link.lags(sighting.source)
        return self._fetching.arm(now) if is_news else []

    def _grafted(self, link: Link, digest: bytes | None, now: float) -> list[Effect]:
        """PLT-005.2."""
        self._counters.grafts_received += 1
        effects = [] if digest is None else self._serve(link, digest, now)
        effects += self.links.promote(link, now)
        effects += self.links.optimize(now)
        return effects
