"""What a link begins with: an announcement of what has passed here in the last seconds.

A message is pushed once. If all sessions that it went out on end before it arrives, because both
ends dialed each other at once and keep one session of two, or because connections break, its hash
would be announced to nobody any more. So whoever comes, or comes back, is told of it at once, as if
it had been a lazy peer all the time; it asks for what it lacks, and nearly always lacks nothing.

Divergence: behaviour PLT-001 lets a session begin with nothing.

Engines row of the stage table; pure. Source: behaviour PLT-003, CON-105-X.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dig_gossip.constants import PLUMTREE_MAX_ANNOUNCE_ENTRIES, TREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.effects import Effect, Send
from dig_gossip.gossip.cache import MessageCache
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import PlumtreeLazyAnnounce
from dig_gossip.wire.message import Message
from dig_gossip.wire.trees import SHORT_HASH_BYTES, TreeAnnounce

#: How long ago a message may have come: the first redial after a loss takes up to 7.5 s.
RECENT_SECS: Final = 15.0
#: Messages that a link begins with, at most: 8 KiB, or 2 KiB where trees have tags.
MAX_RECENT: Final = 256


def announce_recent(
    peer: PeerId, cache: MessageCache, now: float, counters: PlumtreeCounters, *, tagged: bool
) -> list[Effect]:
    """Tell a peer that has just come of what it may have missed."""
    return announce((peer,), cache.since(now - RECENT_SECS, MAX_RECENT), counters, tagged=tagged)


def announce(
    peers: tuple[PeerId, ...],
    messages: Sequence[tuple[bytes, int]],
    counters: PlumtreeCounters,
    *,
    tagged: bool = False,
) -> list[Effect]:
    """Tell peers of messages at once.

    :param messages: hashes and opcodes, oldest first.
    :param tagged: the peers have trees with tags, and know messages by their short hashes, too.
    """
    counters.ihaves_sent += len(peers) * len(messages)
    most = TREE_MAX_ANNOUNCE_ENTRIES if tagged else PLUMTREE_MAX_ANNOUNCE_ENTRIES
    effects: list[Effect] = []
    for first in range(0, len(messages), most):
        entries = tuple(messages[first : first + most])
        body: TreeAnnounce | PlumtreeLazyAnnounce = (
            TreeAnnounce(tuple([digest[:SHORT_HASH_BYTES] for digest, _ in entries]))
            if tagged
            else PlumtreeLazyAnnounce(entries)
        )
        effects.append(Send(peers, Message(body.OPCODE, None, bytes(body))))
    return effects
