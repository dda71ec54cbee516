"""Fetching what was announced and did not come; every fetch mends the tree.

Engines row of the stage table; pure. Source: behaviour PLT-005, PLT-005.1, PLT-101-X, PLT-106-X.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final, Protocol

from dig_gossip.effects import Effect, Send, TimerKey
from dig_gossip.gossip.link import PULL_WINDOW_SECS, Link, Pull
from dig_gossip.gossip.missing import MISSING_TIMER, Missing, MissingMessages
from dig_gossip.gossip.timing import GraftTimers
from dig_gossip.gossip.tree import Tree
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import PlumtreeGraft, PlumtreeRequestByHash
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import RoutingClass, routing_class
from dig_gossip.wire.trees import TreeGraft

MIN_LEAD_SECS: Final = 0.1  # by which an announcement must precede the eager copy
WORTHWHILE_SECS: Final = 0.02  # that a second request must save
MAX_FORESTALLED: Final = 1024  # pulled messages whose copy along the tree may still come

_GOSSIPED = frozenset(
    opcode
    for opcode in range(256)
    if routing_class(opcode, False) in (RoutingClass.FLOOD, RoutingClass.TX)
)


class Improvable(Protocol):
    """A tree that takes a faster link when it is shown one."""

    def may_gain(self, new: Link, old: Link) -> bool: ...
    def lead_key(self, peer: PeerId) -> Hashable: ...
    def shortcut(self, new: Link, now: float) -> list[Effect]: ...


class Fetching:
    """Asks announcers, one after the other, for messages that stay away.

    Timer 1 runs from the first announcement. Then the first announcer is made eager and sent
    GRAFT(hash); timer 2 passes on to the next one. With twice the fan-out eager already, the
    message alone is asked for (RequestByHash).

    Bounded: the table of missing messages by its own caps; 1024 pulled messages are watched for
    the copy that the tree would have brought.

    Cost: O(1) an announcement, but for the deadline's O(log missing); O(8) an arrival.
    """

    def __init__(
        self,
        config: PlumtreeConfig,
        tree: Tree,
        counters: PlumtreeCounters,
        timer: TimerKey = MISSING_TIMER,
    ) -> None:
        self._tree = tree
        self._counters = counters
        self._missing = MissingMessages(timer)
        #: ``found(digest)``: stop looking for a message, it is here; returns what was known of it
        self.found = self._missing.pop
        #: what is missing; empty means that there is no need to ask ``found``
        self.missing = self._missing.by_hash
        self._timers = GraftTimers(config)
        #: hash -> (first announced, pulled copy came), monotonic seconds
        self._forestalled: dict[bytes, tuple[float, float]] = {}

    def __len__(self) -> int:
        """Missing messages."""
        return len(self._missing)

    @property
    def lazy_timeout(self) -> float:
        """Seconds from an announcement to a graft, as adapted by now."""
        return self._timers.lazy_timeout

    # --- events -----------------------------------------------------------------------------

    def announced(
        self, link: Link, digest: bytes, opcode: int | None, now: float, patience: float = 1.0
    ) -> None:
        """Note an announcement of a message that is not here; :meth:`arm` afterwards.  PLT-005

        :param opcode: None if the announcement does not say.
        :param patience: how much of timer 1 to wait, up to 1.
        """
        if (
            link.is_distrusted(now)
            or (opcode is not None and opcode not in _GOSSIPED)
            or self._missing.refuses(digest, link.peer)
        ):
            self._counters.ihaves_ignored += 1
            return
        missing = self._missing.announced(digest, link.peer, now)
        if missing is not None:
            self._missing.schedule(missing, now + patience * self._timers.lazy_timeout)

    def arm(self, now: float) -> list[Effect]:
        """Set the timer, if need be."""
        return self._missing.arm(now)

    def arrived(
        self,
        missing: Missing,
        tree: Improvable,
        link: Link,
        now: float,
        *,
        was_eager: bool,
        is_answer: bool,
    ) -> list[Effect]:
        """Learn from the first copy of an announced message.

        How long the tree took sets timer 1. A lazy peer that announces long before the eager
        peer delivers, again and again, joins the tree.  PLT-101-X

        :param tree: the one in which it came.
        :param was_eager: the sender's role when the frame came.
        :param is_answer: we had pulled it from the sender.
        """
        if is_answer:
            while len(self._forestalled) >= MAX_FORESTALLED:
                del self._forestalled[next(iter(self._forestalled))]
            self._forestalled[missing.digest] = (missing.first_announced, now)
            return []
        self._timers.sample(now - missing.first_announced, now)
        if missing.asked is not None:
            self._counters.spurious_grafts += 1
        if not was_eager:
            return []
        for peer, announced_at in missing.announced_at.items():
            announcer = self._tree.get(peer)
            if (
                now - announced_at >= MIN_LEAD_SECS
                and announcer is not None
                and tree.may_gain(announcer, link)
                and announcer.leads(tree.lead_key(link.peer), now)
            ):
                return tree.shortcut(announcer, now)
        return []

    def on_time(self, now: float) -> None:
        """Learn from a message that came before anybody announced it."""
        self._timers.on_time(now)

    def late_copy(self, digest: bytes, now: float) -> None:
        """Learn from a copy that came along the tree after we had pulled one: too early."""
        forestalled = self._forestalled.pop(digest, None) if self._forestalled else None
        if forestalled is not None and now - forestalled[1] <= PULL_WINDOW_SECS:
            self._counters.spurious_grafts += 1
            self._timers.sample(now - forestalled[0], now)

    def peer_down(self, link: Link, now: float) -> list[Effect]:
        """Ask others for what a lost peer was asked for, or would have pushed.  PLT-006"""
        orphans = self._missing.peer_down(link.peer)
        if self._may_have_pushed(link):
            orphans = [item for item in self._missing if item.asked in (None, link.peer)]
        effects: list[Effect] = []
        for missing in orphans:
            effects += self._ask_next(missing, now)
        return effects

    def timer_fired(self, now: float) -> list[Effect]:
        """Fetch what has stayed away too long.  PLT-005.1"""
        effects: list[Effect] = []
        for missing in self._missing.due(now):
            if missing.asked is not None:
                effects += self._unanswered(missing.asked, missing.digest, now)
            effects += self._ask_next(missing, now)
        return effects + self._missing.arm(now, fired=True)

    # --- asking -----------------------------------------------------------------------------

    def _ask_next(self, missing: Missing, now: float) -> list[Effect]:
        """Pull a message from the next announcer; give up when there is none."""
        while missing.untried:
            link = self._tree.get(self._next(missing))
            if link is not None and not link.is_distrusted(now):
                return self._ask(missing, link, now)
        self._missing.pop(missing.digest)
        self._counters.missing_gave_up += 1
        return []

    def _ask(self, missing: Missing, link: Link, now: float) -> list[Effect]:
        missing.asked = link.peer
        missing.expected = math.inf if link.rtt is None else now + link.rtt
        self._missing.schedule(missing, now + self._timers.retry_timeout(link.rtt))
        return self._pull(link, missing.digest, now)

    def _next(self, missing: Missing) -> PeerId:
        """Take the next announcer to ask."""
        return missing.untried.popleft()

    def _may_have_pushed(self, link: Link) -> bool:
        """Whether a peer that is gone would have sent missing messages in full."""
        return link.is_eager

    def _pull(self, link: Link, digest: bytes, now: float) -> list[Effect]:
        if not link.is_eager and self._tree.eager_count >= 2 * self._tree.fanout:
            link.pulled(digest, Pull.REQUEST, now)
            self._counters.requests_sent += 1
            request = PlumtreeRequestByHash(digest)
            return [Send((link.peer,), Message(request.OPCODE, None, bytes(request)))]
        link.pulled(digest, Pull.GRAFT, now)
        self._counters.grafts_sent += 1
        effects = self._tree.promote(link, now)
        graft = PlumtreeGraft(digest)
        effects.append(Send((link.peer,), Message(graft.OPCODE, None, bytes(graft))))
        return effects

    def _unanswered(self, peer: PeerId, digest: bytes, now: float) -> list[Effect]:
        """An announcer did not send what it announced.  PLT-106-X"""
        link = self._tree.get(peer)
        if link is None or not link.failed(digest, now):
            return []
        self._counters.announcers_distrusted += 1
        return self._cut_off(link, now)

    def _cut_off(self, link: Link, now: float) -> list[Effect]:
        """Take a liar out of the tree."""
        return self._tree.prune(link, now) if link.is_eager else []


class TaggedFetching(Fetching):
    """Fetches what was announced by its short hash; the answer tells in which tree it runs."""

    def hurry(self, link: Link, digest: bytes, now: float) -> list[Effect]:
        """Ask who has just announced a message, too, if it will be here sooner.

        When a tree is torn, it is the far side of the tear that announces first.
        """
        missing = self.missing.get(digest)
        if missing is None or missing.asked is None or link.peer not in missing.untried:
            return []
        if link.rtt is None or now + link.rtt > missing.expected - WORTHWHILE_SECS:
            return []
        if link.is_distrusted(now):
            return []
        missing.untried.remove(link.peer)
        return self._ask(missing, link, now)

    def _next(self, missing: Missing) -> PeerId:
        """Take the nearest one: it answers first, whoever announced first."""
        nearest = min(missing.untried, key=self._round_trip)
        missing.untried.remove(nearest)
        return nearest

    def _round_trip(self, peer: PeerId) -> float:
        link = self._tree.get(peer)
        return math.inf if link is None or link.rtt is None else link.rtt

    def _may_have_pushed(self, link: Link) -> bool:
        return True  # in one tree or another

    def _pull(self, link: Link, digest: bytes, now: float) -> list[Effect]:
        link.pulled(digest, Pull.GRAFT, now)
        self._counters.grafts_sent += 1
        body = TreeGraft(None, digest)
        return [Send((link.peer,), Message(body.OPCODE, None, bytes(body)))]

    def _cut_off(self, link: Link, now: float) -> list[Effect]:
        return []  # its announcements no longer count; it is in each tree for reasons of its own
