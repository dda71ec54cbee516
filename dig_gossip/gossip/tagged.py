"""Trees with tags: for each part of the network that sends, a tree that is short from there.

Engines row of the stage table; pure: the part of :class:`~dig_gossip.gossip.plumtree.Plumtree` that
deals with sessions of capability 207. One shared tree cannot be short for every origin: a message
goes up to where the tree is thick before it comes down. Here a node that sends again and again is
the root of a tree of its own, and those near it that send now and then use it, too::

    root --- OPEN(tag, distance) --> everybody: the first to come is the parent,
         <-- GRAFT(tag) ------------ and is told so; OPEN goes on to all others
    root or a node near it --- message with tag --> along the tree, in full
                                                    to all others, as a short hash, see
                                                    :mod:`~dig_gossip.gossip.tagged_announcements`

The small frames run a race that no message has to run, and the ways that win are the shortest
there are. What is lost on the way is fetched as in the shared tree, and every fetch mends this one
tree: GRAFT(short hash). Duplicates prune one link of one tree: PRUNE(tag).

What a tag says of an origin: that it is the root or near it. Where the root is, no frame says: it
claims to be as far from the root as one of its neighbors is. The order in which the links get a
message of the origin says as much, with a tag or without. Transactions, whose origin has to stay
hidden, never carry one.

What hostile peers try, and what stops them:

=====================================  =========================================================
open tree after tree                   64 trees a peer at once, then one in 5 s; 64 in all, and
                                       one in use is not displaced
claim to be near, to be used           its own round trip counts in any case; a peer that then
                                       sends nothing on is found out by announcements
graft and prune, to renew trees        a tree for sixteen messages, however many links it loses
raise alarms, lose the way to a root   a round of pings in ten seconds; one more link in the trees
                                       that hang on it
send messages with tags nobody opened  they run in the shared tree once the table is full
=====================================  =========================================================

Source: :doc:`/engines/trees`; B. Nédelec et al. and T. Leitão et al. on one tree a sender.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Final

from dig_gossip.effects import Effect, Ping, Send, SetTimer, TimerKey
from dig_gossip.gossip.fetching import TaggedFetching
from dig_gossip.gossip.link import Link, Pull
from dig_gossip.gossip.seen import SeenSet, Sighting, Stage
from dig_gossip.gossip.silence import ALARM_AT, TREE_PING_TIMER, Silence
from dig_gossip.gossip.tagged_announcements import TREE_ANNOUNCE_TIMER, TaggedAnnouncements
from dig_gossip.gossip.tagged_openings import MAX_TREES, OPEN_BELOW, Allowance, Openings
from dig_gossip.gossip.tagged_tree import TaggedTree, prune
from dig_gossip.gossip.tree import Tree
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message
from dig_gossip.wire.trees import (
    MAX_DISTANCE_MS,
    MAX_TAG,
    MAY_HAVE_TAG,
    SHORT_HASH_BYTES,
    TreeAnnounce,
    TreeGraft,
    TreeOpen,
    TreePrune,
    split_announcement,
)

TREE_MISSING_TIMER: Final[TimerKey] = ("tree-missing", b"")
TREE_OPEN_TIMER: Final[TimerKey] = ("tree-open", b"")
TREE_TIMERS: Final = (TREE_ANNOUNCE_TIMER, TREE_MISSING_TIMER, TREE_OPEN_TIMER, TREE_PING_TIMER)

# Looked up for every frame; an enum member is a slow attribute, and compares slowly.
_ANNOUNCE, _OPEN = int(TreeAnnounce.OPCODE), int(TreeOpen.OPCODE)
_GRAFT, _PRUNE = int(TreeGraft.OPCODE), int(TreePrune.OPCODE)
_HELD = Stage.HELD
# A named tuple's own constructor costs more than the tuple.
_new = tuple.__new__

_FARTHEST: Final = MAX_DISTANCE_MS / 1000

MIN_LINKS: Final = 3  # with fewer the shared tree is as short
SETTLE_SECS: Final = 2.0  # from its opening until we send along a tree
OPEN_DELAY_SECS: Final = 5.0  # the race is not to run behind the messages that were sent with it
LIFETIME_SECS: Final = 600.0  # then its root opens a new one, if it is used
IDLE_SECS: Final = 60.0  # unused for so long, it may be displaced
PATIENCE_AFTER_ALARM: Final = 0.25  # of timer 1: others had to fetch it, too
OFTEN_SECS: Final = 30.0  # two messages of our own within this time are worth a tree
FAR_SECS: Final = 0.06  # a root farther than this is worth a tree, however rarely we send
LOST_INTERVAL_SECS: Final = 10.0  # between two times that we say of a tree that its root is lost
UNKNOWN_DELAY_SECS: Final = 0.05  # of a link whose round trip nobody has measured


class TaggedTrees:
    """The trees with tags of one node.

    Bounded: 64 trees of at most all sessions; missing messages and the log as in their classes.

    Cost: a message O(1) and a tuple for its eager peers; an opening O(sessions); a message of our
    own O(trees).

    :param links: the shared tree, which knows all links.
    :param serve: sends what a peer pulls, of (link, hash, now).
    """

    def __init__(
        self,
        config: PlumtreeConfig,
        *,
        links: Tree,
        seen: SeenSet,
        counters: PlumtreeCounters,
        serve: Callable[[Link, bytes, float], list[Effect]],
        rng: Random,
    ) -> None:
        self._links = links
        self._seen = seen
        self._counters = counters
        self._serve = serve
        self._rng = rng
        self._announcements = TaggedAnnouncements(config, counters)
        self._fetching = TaggedFetching(config, links, counters, TREE_MISSING_TIMER)
        #: what was announced and is not here, by short hash; every message costs a look
        self.missing = self._fetching.missing
        #: peers of capability 207
        self.peers: dict[PeerId, Allowance] = {}
        self._trees: dict[int, TaggedTree] = {}
        self._root: TaggedTree | None = None
        self._openings = Openings()
        self._sent_at = -math.inf
        self._lifetime = LIFETIME_SECS
        self._silence = Silence(self.peers, self._delay, counters)
        #: ``heard(peer)``: something came from a peer
        self.heard = self._silence.heard

    def __len__(self) -> int:
        """Trees known here."""
        return len(self._trees)

    @property
    def unannounced(self) -> int:
        """Messages of which somebody may still have to be told."""
        return len(self._announcements)

    @property
    def are_used(self) -> bool:
        """Whether messages of our own may get a tag."""
        return len(self.peers) >= MIN_LINKS

    def tag_of(self, peer: PeerId, message_id: int) -> int | None:
        """What the id of a message says: 0 is no tag, nor is anything from those without trees."""
        return message_id if message_id and peer in self.peers else None

    def get(self, tag: int | None) -> TaggedTree | None:
        """Look a tree up."""
        return None if tag is None else self._trees.get(tag)

    # --- sessions ---------------------------------------------------------------------------

    def peer_up(self, peer: PeerId, now: float, *, speaks_first: bool) -> list[Effect]:
        """Take a session in; it becomes eager where it is grafted.

        Its round trip is measured at once: how far a root is, is the sum of round trips.
        """
        self.peers[peer] = Allowance(now)
        self._announcements.join(peer, speaks_first=speaks_first)
        return [Ping(peer)]

    def peer_down(self, link: Link, now: float) -> list[Effect]:
        """Forget a session; where a tree hung on it alone, hang it on another one."""
        if self.peers.pop(link.peer, None) is None:
            return []
        self._announcements.leave(link.peer)
        self.heard(link.peer)
        effects = self._fetching.peer_down(link, now) + self._let_go(link.peer, now)
        for tree in self._trees.values():
            tree.forget(link.peer)
        return effects + self._fetching.arm(now)

    # --- silent peers -----------------------------------------------------------------------

    def _pongs_due(self, now: float) -> list[Effect]:
        """Who has not answered by now is silent: nothing may hang on it any more."""
        silent = self._silence.due(now)
        effects: list[Effect] = []
        for peer in silent:
            effects += self._let_go(peer, now)
        if silent and len(self._silence) >= ALARM_AT:
            self._lifetime = 0.0  # of a tree of ours: it was made for another network
        return effects + self._silence.spread(silent, now)

    def _let_go(self, peer: PeerId, now: float) -> list[Effect]:
        """Take a peer out of all trees, and hang those on others that hung on it."""
        effects: list[Effect] = []
        for tree in self._trees.values():
            if peer in tree.eager:
                tree.drop(peer)
                if tree.parent == peer or not tree.eager:
                    effects += self._hang(tree, now)
        return effects

    def _hang(self, tree: TaggedTree, now: float, besides: PeerId | None = None) -> list[Effect]:
        """Find a parent for a tree: the nearest of those that are nearer to the root than we are.

        They cannot hang on us. If there is none, we have no way to the root: whoever hangs on us
        has to find another one, and we hang on the nearest of all, who may find one.
        """
        tree.parent = None
        if tree is self._root:
            return []
        own = math.inf if tree.distance is None else tree.distance
        best: Link | None = None
        least = math.inf
        for peer in self.peers:
            link = self._links.get(peer)
            if peer == besides or peer in self._silence or link is None or link.is_distrusted(now):
                continue
            offer = tree.offers.get(peer, _FARTHEST)
            is_linked = peer in tree.eager
            if offer < own:
                offer += is_linked * _FARTHEST / 2  # its messages should have come
            elif is_linked:
                continue  # it may hang on us
            else:
                offer += _FARTHEST
            if offer + self._delay(peer) < least:
                best, least = link, offer + self._delay(peer)
        effects: list[Effect] = []
        if least >= _FARTHEST and tree.distance is not None:
            tree.distance = None
            if now - tree.lost_at >= LOST_INTERVAL_SECS:
                tree.lost_at = now
                effects += self._tell_of(tree, _FARTHEST)
        if best is None:
            return effects
        tree.parent = best.peer
        return effects if best.peer in tree.eager else effects + tree.graft(best)

    # --- messages of our own ----------------------------------------------------------------

    def choose(self, message: Message, now: float, effects: list[Effect]) -> int | None:
        """Choose the tree for a message of our own: the one whose root is nearest.

        :param effects: gets a timer, should we become a root.
        :returns: its tag; None for the shared tree.
        """
        if not MAY_HAVE_TAG[message.type] or not self.are_used:
            return None
        often = now - self._sent_at <= OFTEN_SECS
        self._sent_at = now
        best: TaggedTree | None = None
        nearest = math.inf
        for tree in self._trees.values():
            if (
                tree.distance is not None
                and tree.distance <= nearest
                and now - tree.opened_at >= SETTLE_SECS
                and tree.eager
            ):
                best, nearest = tree, tree.distance
        root = self._root  # a tree that has lost all its links is none any more
        is_root = root is not None and (root.eager or now - root.opened_at < SETTLE_SECS)
        if self._openings.is_wished:
            self._openings.sent()
        elif not is_root and (often or nearest > FAR_SECS) and self._openings.are_earned:
            self._openings.wish()
            effects.append(SetTimer(TREE_OPEN_TIMER, OPEN_DELAY_SECS))
        return None if best is None else best.tag

    def _delay(self, peer: PeerId) -> float:
        """Seconds to a peer, one way."""
        link = self._links.get(peer)
        rtt = None if link is None else link.rtt
        return UNKNOWN_DELAY_SECS if rtt is None else rtt / 2

    # --- messages ---------------------------------------------------------------------------

    def came(
        self,
        link: Link,
        tag: int,
        digest: bytes,
        pull: Pull | None,
        aware: set[PeerId],
        now: float,
    ) -> tuple[list[Effect], bool]:
        """Take note of the first copy of a message: its link is one of its tree's.

        :param pull: it answers this pull of ours.
        :param aware: gets those who announced it.
        :returns: effects, and whether we had to ask for it: the tree is torn somewhere.
        """
        tree = self._trees.get(tag)
        peer = link.peer
        self.heard(peer)
        was_eager = tree is not None and peer in tree.eager
        if tree is None:
            tree = self._learn(peer, tag, None, now)
        elif not was_eager and (pull is not None or tree.may_prune(link, now)):
            tree.add(peer)  # otherwise our PRUNE is on its way to it
        missing = self.missing and self._fetching.found(digest[:SHORT_HASH_BYTES])
        if not missing:
            self._fetching.on_time(now)
            return [], False
        aware.update(missing.announced_at)
        had_to_ask = missing.asked is not None
        if tree is None:
            return [], had_to_ask
        effects = self._fetching.arrived(
            missing, tree, link, now, was_eager=was_eager, is_answer=pull is not None
        )
        if pull is not None and tree.parent != link.peer:
            tree.parent = link.peer
            effects += self._silence.look_around(now)
        return effects, had_to_ask

    def came_elsewhere(self, digest: bytes, aware: set[PeerId] | None = None) -> None:
        """Stop looking for a message that came otherwise.

        :param aware: gets those who announced it.
        """
        missing = self.missing and self._fetching.found(digest[:SHORT_HASH_BYTES])
        if missing and aware is not None:
            aware.update(missing.announced_at)

    def forward(
        self,
        tree: TaggedTree,
        digest: bytes,
        message: Message,
        sighting: Sighting,
        aware: set[PeerId],
        now: float,
        effects: list[Effect],
        *,
        is_kept: bool,
    ) -> int:
        """Push a message along its tree, and have it announced on the other links.

        :param message: with the tree's tag, as it came, or without one.
        :param aware: gets those it is pushed to.
        :param is_kept: it is in the cache, so that it may be announced.
        :returns: how many peers are to be told of it.
        """
        tree.used_at = now
        tree.sampler.came(digest, now)
        self._openings.seen()
        peers = tree.unaware(aware)
        if peers:
            self._counters.pushed += len(peers)
            if message.id != tree.tag:
                message = Message(message.type, tree.tag, message.data)
            effects.append(_new(Send, (peers, message, False)))
        announced = 0
        if is_kept:
            aware.update(peers)
            announced = len(self.peers)
            for peer in aware:
                announced -= peer in self.peers
            effects += self._announcements.add(digest[:SHORT_HASH_BYTES], sighting, aware, now)
        if tree is self._root and (tree.is_thin or now - tree.opened_at >= self._lifetime):
            effects += self._open(now)
        return announced

    def passed(self, count: int) -> None:
        """Messages have come in the shared tree; they earn a tree as others do."""
        self._openings.seen(count)

    def duplicate(self, link: Link, tag: int, digest: bytes, now: float) -> list[Effect]:
        """Take in a second copy: one eager link too many in this tree."""
        tree = self._trees.get(tag)
        self.heard(link.peer)
        if tree is None:
            if not link.may_prune(now):
                return []
            link.pruned_at = now
            return prune(tag, link, self._counters)
        if tree.is_eager(link):
            self._fetching.late_copy(digest[:SHORT_HASH_BYTES], now)
            if len(tree.eager) == 1 or not tree.sampler.may_prune(digest, now):
                return []
        return tree.prune(link, now) if tree.may_prune(link, now) else []

    def superfluous(self, link: Link, tag: int, now: float) -> list[Effect]:
        """Take in the answer to a pull of ours, of a message that has come meanwhile.

        The link is eager at the other end only because we were impatient: it closes a ring, which
        several messages at once would cut in several places.
        """
        tree = self._trees.get(tag)
        self.heard(link.peer)
        if tree is None or tree.is_eager(link) or not tree.may_prune(link, now):
            return []
        return tree.prune(link, now)

    # --- control frames ---------------------------------------------------------------------

    def control_received(self, link: Link, message: Message, now: float) -> list[Effect]:
        """Take in a frame, opcodes 242 to 245.

        :raises ClientError: it is malformed.
        """
        if link.peer not in self.peers:
            return []
        self.heard(link.peer)
        opcode, data = message.type, message.data
        if opcode == _ANNOUNCE:
            return self._announced(link, data, now)
        if opcode == _OPEN:
            return self._opened(link, TreeOpen.from_bytes(data), now)
        if opcode == _GRAFT:
            return self._grafted(link, TreeGraft.from_bytes(data), now)
        if opcode == _PRUNE:
            return self._pruned(link, TreePrune.from_bytes(data).tag, now)
        return []

    def timer_fired(self, key: TimerKey, now: float) -> list[Effect]:
        """Do what is due."""
        if key == TREE_ANNOUNCE_TIMER:
            effects = self._announcements.timer_fired(now)
            return effects + self._silence.ping(self._announcements.mute, now)
        if key == TREE_OPEN_TIMER:
            return self._open(now) if self._openings.is_granted(self._rng) else []
        if key == TREE_PING_TIMER:
            return self._pongs_due(now)
        effects = self._fetching.timer_fired(now)
        if any(isinstance(effect, Send) for effect in effects):
            effects += self._silence.look_around(now)
        return effects

    def _announced(self, link: Link, data: bytes, now: float) -> list[Effect]:
        shorts, is_alarm = split_announcement(data)
        self._counters.ihaves_received += len(shorts)
        is_news = False
        effects: list[Effect] = []
        patience = PATIENCE_AFTER_ALARM if is_alarm else 1.0
        find, get, leads = self._seen.find, self._seen.get, link.leads_somebody
        peer, trees = link.peer, self._trees
        for short in shorts:
            digest = find(short)
            sighting = None if digest is None else get(digest)
            if sighting is None or sighting.stage is _HELD:
                self._fetching.announced(link, short, None, now, patience)
                effects += self._fetching.hurry(link, short, now)
                is_news = True
                continue
            aware = sighting.aware
            if aware is not None:
                aware.add(peer)
            if leads and (source := sighting.source) is not None:
                tag = sighting.tag
                link.lags(source if tag not in trees else trees[tag].lead_key(source))
        if is_news:
            effects += self._fetching.arm(now)
        return effects + self._silence.look_around(now) if is_alarm else effects

    def _grafted(self, link: Link, body: TreeGraft, now: float) -> list[Effect]:
        self._counters.grafts_received += 1
        if body.short_hash is None:
            tree = self.get(body.tag)
            if tree is not None:
                tree.add(link.peer)
            return []
        digest = self._seen.find(body.short_hash)
        if digest is None:
            self._counters.cache_misses += 1
            return []
        sighting = self._seen.get(digest)
        tree = None if sighting is None else self.get(sighting.tag)
        effects = self._serve(link, digest, now)
        if tree is None:
            return effects + self._links.promote(link, now)
        tree.add(link.peer)
        return self._silence.look_around(now) + [
            Send(send.peers, Message(send.message.type, tree.tag, send.message.data), True)
            if isinstance(send, Send)
            else send
            for send in effects
        ]

    def _pruned(self, link: Link, tag: int, now: float) -> list[Effect]:
        self._counters.prunes_received += 1
        tree = self._trees.get(tag)
        if tree is None or not tree.is_eager(link):
            return []
        tree.drop(link.peer)
        if tree.eager:
            return []
        return self._hang(tree, now, besides=link.peer)

    # --- opening trees ----------------------------------------------------------------------

    def _opened(self, link: Link, body: TreeOpen, now: float) -> list[Effect]:
        """A tree is told of: the first to do so is our parent."""
        distance = body.distance_ms / 1000 + self._delay(link.peer)
        tree = self._trees.get(body.tag)
        if tree is not None:
            tree.offers[link.peer] = body.distance_ms / 1000
            if body.distance_ms < MAX_DISTANCE_MS:
                if tree.distance is None:
                    tree.distance = distance
                if tree.parent is None:
                    return self._hang(tree, now)
            elif tree.parent == link.peer:
                return self._hang(tree, now, besides=link.peer)
            return []
        if body.distance_ms == MAX_DISTANCE_MS:
            return []  # nobody is to join who has not joined
        tree = self._learn(link.peer, body.tag, distance, now)
        if tree is None:
            return []
        self._openings.opened()
        self._counters.trees_joined += 1
        tree.offers[link.peer] = body.distance_ms / 1000
        return [*tree.graft(link), *self._tell_of(tree, distance, besides=link.peer)]

    def _open(self, now: float) -> list[Effect]:
        if not (self._openings.are_earned and self.are_used and self._has_room(now, OPEN_BELOW)):
            return []
        tag = self._rng.randrange(1, MAX_TAG + 1)
        if tag in self._trees:
            return []  # the next wish draws another one
        self._make_room()
        self._openings.opened()
        self._lifetime = LIFETIME_SECS
        self._counters.trees_opened += 1
        root = self._root = self._trees[tag] = TaggedTree(tag, 0.0, now, self._counters)
        claimed = self._delay(self._rng.choice(list(self.peers)))
        return self._tell_of(root, claimed)

    def _tell_of(
        self, tree: TaggedTree, distance: float, besides: PeerId | None = None
    ) -> list[Effect]:
        peers = tuple(
            [peer for peer in self.peers if peer != besides and peer not in self._silence]
        )
        if not peers:
            return []
        body = TreeOpen(tree.tag, min(MAX_DISTANCE_MS, round(distance * 1000)))
        return [Send(peers, Message(body.OPCODE, None, bytes(body)))]

    def _learn(
        self, peer: PeerId, tag: int, distance: float | None, now: float
    ) -> TaggedTree | None:
        """Take a tree into the table, with its first link, if both limits allow."""
        allowance = self.peers.get(peer)
        if allowance is None or not self._has_room(now, MAX_TREES) or not allowance.take(now):
            self._counters.trees_refused += 1
            return None
        self._make_room()
        tree = self._trees[tag] = TaggedTree(tag, distance, now, self._counters)
        tree.add(peer)
        tree.parent = peer
        return tree

    def _has_room(self, now: float, most: int) -> bool:
        """Whether fewer than ``most`` trees are in use; for the others, see :meth:`_make_room`."""
        if len(self._trees) < most:
            return True
        return sum(now - tree.used_at < IDLE_SECS for tree in self._trees.values()) < most

    def _make_room(self) -> None:
        if len(self._trees) >= MAX_TREES:
            oldest = min(self._trees.values(), key=lambda tree: tree.used_at)
            del self._trees[oldest.tag]
            if oldest is self._root:
                self._root = None
