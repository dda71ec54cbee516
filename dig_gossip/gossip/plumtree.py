"""Plumtree: full messages along a tree, announcements along every other link.

Engines row of the stage table; pure: events in, effects out, no clock, no socket.

One message, seen from one node::

    eager parent ---- message ----> us ---- message ----> other eager peers   at once
                                     |----- hash -------> a few lazy peers    first wave
                                     '----- hash -------> the other lazy      second wave, unless
                                                          peers               they have it by then
    lazy peer ------- hash -------> us: not here; timer 1 -------. (the message comes: done)
    announcer 1 <---- GRAFT(hash) -- us: nobody sent it; timer 2 <'
    announcer 2 <---- GRAFT(hash) -- us: ... until one sends it, or none is left

A second copy means that one link too many is eager: PRUNE. A message that had to be fetched means
that one too few is: GRAFT. So the eager links of all nodes become one spanning tree, the copies
per node approach one, and every other link stands by.

The stages of a message at one node: :class:`~dig_gossip.gossip.seen.Stage`. The application gets a
message when it leaves *unseen* (or when its verdict comes) and never again; the tree gets it when
it enters REMOTE or LOCAL and never again: once each, whatever the interleaving of sessions of all
kinds. In which tree it runs, and to which sessions: :mod:`~dig_gossip.gossip.tagged`,
:mod:`~dig_gossip.gossip.shared_tree`.

Invariants, checked after every step by the tests: eager and lazy peers are disjoint and together
are the tree sessions; a link is eager at one end exactly if it is at the other, once the frames
in flight have arrived; no effect names a peer without a session; every table keeps its cap.

What hostile peers try, and what stops them:

=====================================  =========================================================
announce what they do not have         8 announcers a hash, 1000 open hashes a peer, 10 000 in
                                       all; ten unanswered pulls a minute and the peer's word
                                       counts for nothing for a minute, and it is lazy
pull the same large message for ever   one copy a second, three in all, per peer and message
send copies for ever                   one PRUNE a second; the session's rate limit does the rest
prune us out of the tree               an empty eager set is refilled; announcements still come
graft themselves in everywhere         harmless; it is what eager means
poison the seen set                    a hash is computed from the content, never taken from a
                                       peer; frames dropped for lack of room are not seen
keep the validator busy                no more is read from a peer with 1000 messages that wait;
                                       all of them together take no more than the cache's bytes
stretch timer 1 by early hashes        a sample raises it by half at most, and never above the
                                       ceiling
choose hashes that may cut the tree    nothing that a copy more would not do as well
=====================================  =========================================================

Source: behaviour §19, PRF-003, design D6, wire §13.1; J. Leitão, J. Pereira, L. Rodrigues,
"Epidemic Broadcast Trees", 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Final

import attrs

from dig_gossip.effects import Deliver, Effect, Penalize, Send, SetTimer, TimerKey
from dig_gossip.errors import ClientError
from dig_gossip.gossip.cache import MessageCache, Miss
from dig_gossip.gossip.first_copies import FirstCopies
from dig_gossip.gossip.link import Link
from dig_gossip.gossip.outside import Outsider, Outsiders, may_reach_chia
from dig_gossip.gossip.recent import announce, announce_recent
from dig_gossip.gossip.seen import SeenSet, Sighting, Stage
from dig_gossip.gossip.shared_tree import SHARED_TIMERS, SharedTree
from dig_gossip.gossip.tagged import TREE_TIMERS, TaggedTrees
from dig_gossip.gossip.validation import PendingMessages
from dig_gossip.gossip.values import (
    BroadcastResult,
    PeerMode,
    PlumtreeCounters,
    PlumtreeSnapshot,
    Verdict,
)
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId, PlumtreeRole
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.dig import PlumtreeRequestByHash
from dig_gossip.wire.message import Message, message_hash

PURGE_TIMER: Final[TimerKey] = ("purge", b"")
PURGE_INTERVAL_SECS: Final = 10.0

# Looked up for every frame; an enum member is a slow attribute.
_IN_TREE = frozenset({PeerMode.TREE, PeerMode.TREES})
_LAST_OF_SHARED = int(PlumtreeRequestByHash.OPCODE)
_new = tuple.__new__  # a named tuple's own constructor costs more than the tuple
_PENDING, _HELD, _REMOTE, _LOCAL = Stage.PENDING, Stage.HELD, Stage.REMOTE, Stage.LOCAL


class Plumtree(FirstCopies):
    """The gossip engine of one node.

    Feed it every event of flood-class gossip and perform the effects in order. It never raises on
    what peers send. Peers without a session are ignored, so late events are harmless.

    Bounded: seen hashes by ``max_seen``; the cache by ``cache_messages``, ``cache_bytes`` and
    ``cache_ttl_secs``; for announcements, missing and pending messages, links and sessions
    outside the tree see their classes.

    Cost: a frame or a broadcast is O(sessions) at most, usually O(1) plus one tuple for all
    eager peers; an announcement of n entries O(n); the loss of an eager peer O(missing messages).
    Timers have the names of :attr:`names`; each is set only while there is work for it.

    :param fanout: how many sessions start eager, 1 and up.
    :param max_seen: remembered hashes, 1 and up.
    :param now: monotonic seconds.
    :param rng: source of randomness; unpredictable to peers in production.
    Source: behaviour PLT-001 to PLT-009, PLT-101-X to PLT-107-X, PRF-003; design D6.
    """

    names: Final = frozenset(key[0] for key in (*SHARED_TIMERS, PURGE_TIMER, *TREE_TIMERS))

    def __init__(
        self,
        config: PlumtreeConfig,
        *,
        fanout: int,
        max_seen: int,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self._now = now
        self.counters = PlumtreeCounters()
        self._seen = SeenSet(max_seen)
        self._cache = MessageCache(config.cache_messages, config.cache_bytes, config.cache_ttl_secs)
        self._pending = PendingMessages(config.cache_bytes)
        self._shared = SharedTree(
            config,
            fanout=fanout,
            seen=self._seen,
            counters=self.counters,
            serve=self._serve,
            rng=rng,
        )
        self._links = self._shared.links
        self._tagged = TaggedTrees(
            config,
            links=self._links,
            seen=self._seen,
            counters=self.counters,
            serve=self._serve,
            rng=rng,
        )
        self.unasked = self._tagged.heard  # no ping has gone to a peer that is not read from
        #: opcodes that cross some links in another form, so that they have to do without a tag
        self.untagged: frozenset[int] = frozenset()
        self._outsiders = Outsiders()
        self._purging = False

    # --- sessions ---------------------------------------------------------------------------

    def peer_up(
        self, peer: PeerId, mode: PeerMode, score: float = 0.0, *, speaks_first: bool = True
    ) -> list[Effect]:
        """Take a session in; or change its mode or its score, if it is in already.

        :param score: higher is better; behaviour PRF-001.
        :param speaks_first: with trees with tags, whether this end announces first.
        Source: behaviour PLT-001.
        """
        link = self._links.get(peer)
        if mode not in _IN_TREE:
            effects = self.peer_down(peer) if link is not None else []
            self._outsiders.add(peer, mode)
            return effects
        effects = []
        if link is not None:
            if (mode is PeerMode.TREES) is (peer in self._tagged.peers):
                self._links.rate(link, score)
                return []
            effects = self.peer_down(peer)
        self._outsiders.remove(peer)
        self._links.add(peer, score)
        now, tagged = self._now(), mode is PeerMode.TREES
        if tagged:
            effects += self._tagged.peer_up(peer, now, speaks_first=speaks_first)
        return effects + announce_recent(peer, self._cache, now, self.counters, tagged=tagged)

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a session; if the tree hung on it, mend the tree at once.

        Source: behaviour PLT-006.
        """
        self._outsiders.remove(peer)
        effects = self._pending.forget(peer)
        link = self._links.remove(peer)
        if link is not None:
            now = self._now()
            effects += self._tagged.peer_down(link, now) + self._shared.peer_down(link, now)
        return effects

    def reconcile(self, peers: Mapping[PeerId, tuple[PeerMode, bool]]) -> list[Effect]:
        """Make the sessions equal to those of the peer table, with mode and who speaks first.

        Source: behaviour PLT-107-X.
        """
        tagged = self._tagged.peers
        modes = {
            link.peer: PeerMode.TREES if link.peer in tagged else PeerMode.TREE
            for link in self._links
        } | self._outsiders.modes()
        effects: list[Effect] = []
        for peer in modes:
            if peer not in peers:
                effects += self.peer_down(peer)
        for peer, (mode, is_first) in peers.items():
            if modes.get(peer) is not mode:
                effects += self.peer_up(peer, mode, speaks_first=is_first)
        return effects

    def rtt_updated(self, peer: PeerId, rtt_seconds: float, score: float) -> list[Effect]:
        """Note a peer's round trip time; perhaps take a faster link into the tree.

        :param rtt_seconds: the mean over the peer's window, as in behaviour PRF-001; above 0.
        Source: behaviour PRF-003.
        """
        link = self._links.get(peer)
        if link is None or not 0 < rtt_seconds < math.inf:
            return []
        link.rtt = rtt_seconds
        self._tagged.heard(peer)
        self._links.rate(link, score)
        return self._links.optimize(self._now())

    def role(self, peer: PeerId) -> PlumtreeRole | None:
        """What a session gets of a message; None outside the tree."""
        link = self._links.get(peer)
        if link is None:
            return None
        return PlumtreeRole.EAGER if link.is_eager else PlumtreeRole.LAZY

    # --- messages ---------------------------------------------------------------------------

    def broadcast(self, message: Message, exclude: PeerId | None = None) -> BroadcastResult:
        """Spread a message of the application's.

        New to the tree: to everybody. Forwarded already, or ``exclude`` given: only to those
        plain Chia sessions that lack it. Broadcast before, and no ``exclude``: in full to
        sessions that joined since, as an announcement to the rest.

        :param exclude: a session that is to get nothing, because the message is its own.
        Source: behaviour PLT-002, PLT-102-X, PLT-105-X; design D6.
        """
        if exclude is None and (first := self.sent_first(message)) is not None:
            pushes = [Send(first[0], message)] if first[0] else []
            return BroadcastResult([*pushes, *first[2]], first[1])
        now = self._now()
        digest = message_hash(message)
        sighting = self._seen.get(digest)
        to_chia = may_reach_chia(message.type)
        if sighting is None:
            sighting = Sighting(_LOCAL, now, None)
            self._seen.add(digest, sighting)
        elif sighting.stage is _LOCAL and exclude is None:
            return self._broadcast_again(digest, message, sighting, now)
        elif sighting.stage in (_LOCAL, _REMOTE):
            peers = self._outsiders.owed(digest, flood=False, chia=to_chia, exclude=exclude)
            return BroadcastResult(self._push(peers, message), 0)
        effects: list[Effect] = []
        if len(self._pending):
            self._pending.settle(digest)  # the application has given its verdict
            effects = self._pending.release()
        aware, sighting.aware = sighting.aware or set(), None
        self._shared.came_elsewhere(digest, aware)
        self._tagged.came_elsewhere(digest, aware)
        if exclude is not None and self._links.get(exclude) is not None:
            aware.add(exclude)
        sighting.stage = _LOCAL
        sighting.links = self._links.joined
        if message.type not in self.untagged:
            sighting.tag = self._tagged.choose(message, now, effects)
        announced = self._spread(
            digest, message, sighting, aware, now, effects, chia=to_chia, exclude=exclude
        )
        return BroadcastResult(effects, announced)

    def received(
        self, peer: PeerId, message: Message, needs_validation: bool, digest: bytes | None = None
    ) -> list[Effect]:
        """Take in a full message of the flood class.

        :param message: its id, if any, is a tag, or nothing that matters here.
        :param needs_validation: a validator is registered for the opcode: ``Validate`` is
            returned, and :meth:`validated` decides.
        :param digest: its hash, if that is known already.
        Source: behaviour PLT-004, PLT-004.1, PLT-103-X; design D6.
        """
        if digest is None:
            digest = message_hash(message)
        sighting = self._seen.get(digest)
        link, tag, framed = self._links.get(peer), message.id, message
        if tag is not None:
            message = Message(message.type, None, message.data)
            tag = self._tagged.tag_of(peer, tag)
        if link is None:
            return self._received_outside(peer, digest, message, sighting, needs_validation)
        now = self._now()
        pull = link.answered(digest, now) if link.pulls else None
        if sighting is not None and sighting.stage is not _HELD:
            return self._duplicate(link, digest, sighting, tag, now, is_answer=pull is not None)
        if needs_validation and sighting is None and not self._has_room(link, message):
            return []
        aware = {peer}
        if tag is None:
            self._tagged.came_elsewhere(digest, aware)
            effects, is_late = self._shared.came(link, digest, pull, aware, now), False
        else:
            effects, is_late = self._tagged.came(link, tag, digest, pull, aware, now)
            self._shared.came_elsewhere(digest, aware)
        if sighting is None:
            sighting = Sighting(_PENDING, now, peer)
            sighting.tag, sighting.is_late = tag, is_late
            self._seen.add(digest, sighting)
            if needs_validation:
                sighting.aware = aware
                return effects + self._pending.ask(link, peer, digest, message, sighting)
            self.counters.delivered += 1
            effects.append(_new(Deliver, (peer, message)))
        else:
            sighting.source, sighting.tag, sighting.is_late = peer, tag, is_late
        self._forward(digest, message, sighting, aware, now, effects, framed)
        return effects

    def carried_elsewhere(self, peer: PeerId | None, message: Message) -> None:
        """Note a message that another engine carries, so that nobody's announcement fetches it.

        Peers without that engine announce such messages, and send what is pulled.

        :param peer: who sent it; None for the application.
        Source: behaviour INT-001.
        """
        digest = message_hash(message)
        link = None if peer is None else self._links.get(peer)
        if link is not None and link.pulls:
            link.answered(digest, self._now())
        self._shared.came_elsewhere(digest)
        self._tagged.came_elsewhere(digest)
        if self._seen.get(digest) is None:
            self._seen.add(digest, Sighting(_REMOTE, self._now(), None))

    def validated(self, message_hash: bytes, verdict: Verdict) -> list[Effect]:
        """Deliver and forward a message, or drop it, as its validator says.

        A verdict that nobody waits for (any more) changes nothing.

        Source: behaviour PLT-104-X.
        """
        pending = self._pending.settle(message_hash)
        if pending is None:
            return []
        sighting = pending.sighting
        aware, sighting.aware = sighting.aware or set(), None
        if verdict is not Verdict.ACCEPT:
            sighting.stage = Stage.REFUSED
            self.counters.refused += 1
            return self._pending.release()
        self.counters.delivered += 1
        effects = [*self._pending.release(), Deliver(pending.peer, pending.message)]
        if sighting.stage is not _HELD:
            self._forward(message_hash, pending.message, sighting, aware, self._now(), effects)
        return effects

    def control_received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Take in a Plumtree frame, opcodes 214 to 217.

        Source: behaviour PLT-004.2, PLT-005, PLT-005.2, PLT-009.
        """
        link = self._links.get(peer)
        if link is None:
            return []
        part = self._tagged if message.type > _LAST_OF_SHARED else self._shared
        try:
            return part.control_received(link, message, self._now())
        except ClientError:
            return [Penalize(peer, PenaltyReason.MALFORMED_MESSAGE)]

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Do what is due; unknown keys and early firings are harmless."""
        now = self._now()
        if key in TREE_TIMERS:
            return self._tagged.timer_fired(key, now)
        if key in SHARED_TIMERS:
            return self._shared.timer_fired(key, now)
        if key == PURGE_TIMER:
            self._cache.purge(now)
            self._purging = len(self._cache) > 0
            return [SetTimer(PURGE_TIMER, PURGE_INTERVAL_SECS)] if self._purging else []
        return []

    # --- for stats and tests ----------------------------------------------------------------

    @property
    def seen_count(self) -> int:
        """Remembered hashes."""
        return len(self._seen)

    def snapshot(self) -> PlumtreeSnapshot:
        """Take one consistent picture. Cost: O(sessions)."""
        modes = self._outsiders.modes()
        return PlumtreeSnapshot(
            eager=frozenset(self._links.eager()),
            lazy=self._shared.lazy,
            flood=frozenset(peer for peer in modes if modes[peer] is PeerMode.FLOOD),
            chia=frozenset(peer for peer in modes if modes[peer] is PeerMode.CHIA),
            trees=len(self._tagged),
            seen=len(self._seen),
            cached=len(self._cache),
            cached_bytes=self._cache.size,
            missing=len(self._shared.missing) + len(self._tagged.missing),
            pending=len(self._pending),
            unannounced=self._shared.unannounced + self._tagged.unannounced,
            lazy_timeout=self._shared.lazy_timeout,
            counters=attrs.asdict(self.counters),
        )

    # --- full frames ------------------------------------------------------------------------

    def _received_outside(
        self,
        peer: PeerId,
        digest: bytes,
        message: Message,
        sighting: Sighting | None,
        needs_validation: bool,
    ) -> list[Effect]:
        """Take in a full frame from a session outside the tree, or from no session at all."""
        outsider = self._outsiders.sessions.get(peer)
        if outsider is None:
            return []
        outsider.known.add(digest)
        is_for_tree = outsider.mode is PeerMode.FLOOD
        if sighting is not None and not (is_for_tree and sighting.stage is _HELD):
            self.counters.duplicates += 1
            return []
        if needs_validation and sighting is None and not self._has_room(outsider, message):
            return []
        now = self._now()
        aware: set[PeerId] = set()
        if is_for_tree:
            self._shared.came_elsewhere(digest, aware)
            self._tagged.came_elsewhere(digest, aware)
        effects: list[Effect] = []
        if sighting is None:
            sighting = Sighting(_PENDING if is_for_tree else _HELD, now, None)
            self._seen.add(digest, sighting)
            if needs_validation:
                sighting.aware = aware
                return self._pending.ask(outsider, peer, digest, message, sighting)
            self.counters.delivered += 1
            effects.append(Deliver(peer, message))
        if is_for_tree:
            self._forward(digest, message, sighting, aware, now, effects)
        return effects

    def _forward(
        self,
        digest: bytes,
        message: Message,
        sighting: Sighting,
        aware: set[PeerId],
        now: float,
        effects: list[Effect],
        framed: Message | None = None,
    ) -> None:
        """Push a message to the DIG sessions that lack it, and have it announced to lazy ones.

        :param effects: gets what is to be done.
        :param framed: the message as it came, perhaps with its tag.
        """
        if sighting.stage is _HELD and digest in self._pending:
            sighting.stage = _PENDING  # the verdict will forward it
            sighting.aware = aware
            return
        sighting.stage = _REMOTE
        self._spread(digest, message, sighting, aware, now, effects, chia=False, framed=framed)

    def _spread(
        self,
        digest: bytes,
        message: Message,
        sighting: Sighting,
        aware: set[PeerId],
        now: float,
        effects: list[Effect],
        *,
        chia: bool,
        exclude: PeerId | None = None,
        framed: Message | None = None,
    ) -> int:
        """Push a message that is new here, in its tree and to those who have none.

        :param chia: plain Chia sessions get it, too.
        :returns: how many peers are to be told of it instead.
        """
        outside: tuple[PeerId, ...] = ()
        if self._outsiders.sessions:
            outside = self._outsiders.owed(digest, flood=True, chia=chia, exclude=exclude)
        is_kept = self._keep(digest, message, now, effects)
        tree = self._tagged.get(sighting.tag)
        if tree is None:
            self._tagged.passed(1)
            return self._shared.forward(
                digest, message, sighting, aware, now, effects, is_kept=is_kept, besides=outside
            )
        announced = 0
        if len(self._links) > len(self._tagged.peers):
            others = aware.union(self._tagged.peers)
            announced = self._shared.forward(
                digest, message, sighting, others, now, effects, is_kept=is_kept, besides=outside
            )
        elif outside:
            effects += self._push(outside, message)
        if framed is None:
            framed = message
        return announced + self._tagged.forward(
            tree, digest, framed, sighting, aware, now, effects, is_kept=is_kept
        )

    def _broadcast_again(
        self, digest: bytes, message: Message, sighting: Sighting, now: float
    ) -> BroadcastResult:
        """The application repeats itself: unchanged state, for those who missed it.  PLT-102-X"""
        joined = tuple([link.peer for link in self._links if link.number > sighting.links])
        others = tuple([link.peer for link in self._links if link.number <= sighting.links])
        if sighting.aware is None:  # perhaps not ours alone
            sighting = Sighting(_LOCAL, now, None)
            self._seen.replace(digest, sighting)
        sighting.links = self._links.joined
        to_chia = may_reach_chia(message.type)
        peers = joined + self._outsiders.owed(digest, flood=True, chia=to_chia)
        effects = self._push(peers, message)
        if not self._keep(digest, message, now, effects) or not others:
            return BroadcastResult(effects, 0)
        effects += announce(others, [(digest, message.type)], self.counters)
        return BroadcastResult(effects, len(others))

    def _duplicate(
        self,
        link: Link,
        digest: bytes,
        sighting: Sighting,
        tag: int | None,
        now: float,
        *,
        is_answer: bool,
    ) -> list[Effect]:
        """Take in a second copy: one eager link too many.  PLT-004.1"""
        self.counters.duplicates += 1
        if sighting.aware is not None:
            sighting.aware.add(link.peer)
        if sighting.tag != tag or (sighting.source is None and sighting.stage is not _LOCAL):
            return []  # it came first elsewhere, which says nothing about this tree
        if is_answer:
            return [] if tag is None else self._tagged.superfluous(link, tag, now)
        if tag is not None:
            return self._tagged.duplicate(link, tag, digest, now)
        return self._shared.duplicate(link, digest, now)

    def _has_room(self, session: Link | Outsider, message: Message) -> bool:
        """Whether the validator may be kept busy with one more message of this session.

        What finds no room is dropped unseen: otherwise a peer could fill its own quota, then pass
        on a good message, and make us refuse everybody's copy of it.
        """
        if self._pending.has_room(session, message):
            return True
        self.counters.validations_dropped += 1
        return False

    def _push(self, peers: tuple[PeerId, ...], message: Message) -> list[Effect]:
        self.counters.pushed += len(peers)
        return [Send(peers, message)] if peers else []

    def _keep(self, digest: bytes, message: Message, now: float, effects: list[Effect]) -> bool:
        """Cache a message; whether it may be announced, as what can be pulled is.  PLT-007"""
        if not self._cache.put(digest, message, now):
            return False
        if not self._purging:
            self._purging = True
            effects.append(SetTimer(PURGE_TIMER, PURGE_INTERVAL_SECS))
        return True

    def _serve(self, link: Link, digest: bytes, now: float) -> list[Effect]:
        """Send what a peer pulls, if it is here and the limits allow."""
        found = self._cache.serve(digest, link.peer, now)
        if isinstance(found, Message):
            self.counters.cache_hits += 1
            sighting = self._seen.get(digest)
            if sighting is not None and sighting.aware is not None:
                sighting.aware.add(link.peer)
            self.counters.pushed += 1
            return [Send((link.peer,), found, verbatim=True)]
        self.counters.cache_misses += found is Miss.ABSENT
        self.counters.pulls_limited += found is not Miss.ABSENT
        return []
