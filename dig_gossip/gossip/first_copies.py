"""The short way of nearly every message: new, from the tree or from here, and nothing special.

What :class:`~dig_gossip.gossip.plumtree.Plumtree` decides about any message, it decides here for
those of which there may be a hundred thousand a second, in fewer steps: a run of messages that came
together is taken in one call, the clock is read once for it, and what is remembered of a message
that nobody has to be told of is one object for all that came the same way. Whatever else a message
may need (a validator, a pull that it answers, a session outside the tree, a second copy, a role to
change) makes it go the long way, with the same outcome.

Engines row of the stage table; pure. Source: behaviour PLT-002, PLT-003, PLT-004.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from dig_gossip.effects import Effect, Send
from dig_gossip.gossip.cache import MessageCache
from dig_gossip.gossip.outside import Outsiders
from dig_gossip.gossip.seen import SeenSet, Sighting, Stage
from dig_gossip.gossip.shared_tree import SharedTree
from dig_gossip.gossip.tagged import MIN_LINKS, TaggedTrees
from dig_gossip.gossip.validation import PendingMessages
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message, message_hash

_LOCAL, _REMOTE = Stage.LOCAL, Stage.REMOTE

_NOTHING: Final[tuple[Effect, ...]] = ()

#: Who is to get a message, how many are to be told of it, and what else there is to do. Not a named
#: tuple, because one is made for every message and taken apart at once.
FirstCopy: TypeAlias = tuple[tuple[PeerId, ...], int, Sequence[Effect]]

# A named tuple's own constructor costs more than the tuple.
_new = tuple.__new__


class FirstCopies:
    """The part of the engine that takes messages the short way; what it works on is the engine's.

    Bounds: none of its own. Cost: O(1) a message, besides what is sent.
    """

    counters: PlumtreeCounters
    _now: Callable[[], float]
    _seen: SeenSet
    _cache: MessageCache
    _shared: SharedTree
    _tagged: TaggedTrees
    _outsiders: Outsiders
    _pending: PendingMessages
    _purging: bool

    #: what is remembered of our own messages of which nobody has to be told
    _local = Sighting(_LOCAL, 0.0, None)

    def sent_first(self, message: Message) -> FirstCopy | None:
        """Spread a message of the application's that is new here.

        ``broadcast`` without ``exclude`` does the same, in its own words.

        :returns: who is to get it in full, how many are to be told of it, and what else is to be
            done after it is sent; None, and nothing is done, if it has to go the long way.
        """
        shared, tagged = self._shared, self._tagged
        if (
            not self._purging
            or self._outsiders.sessions
            or self._pending.by_hash
            or shared.missing
            or tagged.missing
            or len(tagged.peers) >= MIN_LINKS
        ):
            return None
        digest = message_hash(message)
        if self._seen.get(digest) is not None:
            return None
        now = self._now()
        peers = shared.links.eager()
        self.counters.pushed += len(peers)
        shared.sampler.messages_seen(1, now)
        tagged.passed(1)
        announcements, links = shared.announcements, shared.links.joined
        sighting = self._local
        if self._cache.put(digest, message, now) and announcements.peers:
            sighting = Sighting(_LOCAL, now, None)
            sighting.links = links
            self._seen.add(digest, sighting)
            told = len(announcements.peers)
            return peers, told, announcements.add(digest, message.type, sighting, set(), now)
        if sighting.links != links:
            sighting = self._local = Sighting(_LOCAL, now, None)
            sighting.links = links
        self._seen.add(digest, sighting)
        return peers, 0, _NOTHING

    def received_run(
        self, peer: PeerId, messages: Sequence[Message], at: int, delivered: list[Message]
    ) -> list[Effect]:
        """Take in messages of one opcode, as long as they need nothing special.

        The next one, whatever it is, is for ``received``.

        :param messages: as they came.
        :param at: where to begin; the opcode of that one is of the flood class and has no
            validator.
        :param delivered: gets those that were taken, instead of effects that say so.
        """
        link = self._shared.links.get(peer)
        effects: list[Effect] = []
        if (
            link is None
            or not (link.is_eager and self._purging)
            or link.pulls
            or self._shared.missing
            or self._tagged.missing
            or self._outsiders.sessions
        ):
            return effects
        find, remember, keep = self._seen.get, self._seen.add, self._cache.put
        now, before = self._now(), len(delivered)
        eager = self._shared.links.eager_without(peer)
        shared = link.brought
        if shared is None:
            shared = link.brought = Sighting(_REMOTE, now, peer)
        announcements = self._shared.announcements
        lazy, announce = announcements.peers, announcements.add
        opcode = messages[at].type
        for message in messages[at:] if at else messages:
            if message.type != opcode or message.id is not None:
                break
            digest = message_hash(message)
            if find(digest) is not None:
                break
            delivered.append(message)
            if eager:
                effects.append(_new(Send, (eager, message, False)))
            if keep(digest, message, now) and lazy:
                sighting = Sighting(_REMOTE, now, peer)
                remember(digest, sighting)
                effects += announce(digest, opcode, sighting, {peer}, now)
            else:
                remember(digest, shared)
        count = len(delivered) - before
        if count:
            self.counters.delivered += count
            self.counters.pushed += count * len(eager)
            self._shared.sampler.messages_seen(count, now)
            self._tagged.passed(count)
        return effects
