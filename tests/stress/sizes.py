"""How large everything is that a running node keeps: a walk over its objects.

No list of what there is: whatever collection an object of the package holds is found, also one
that somebody adds tomorrow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sized
from itertools import islice
from typing import Any

from dig_gossip import constants as c
from dig_gossip.connection.cast import FRAME_BYTES
from dig_gossip.connection.lanes import MAX_HELD, MAX_REMEMBERED_TRANSACTIONS
from dig_gossip.connection.writer import FLOWING_RUN_BYTES
from dig_gossip.gossip.fetching import MAX_FORESTALLED
from dig_gossip.gossip.tagged_announcements import MAX_LOG
from dig_gossip.gossip.tagged_openings import MAX_TREES
from dig_gossip.types.config import GossipConfig

Sizes = dict[str, int]

#: So many members of a collection are looked into: those of one are alike, and may be many.
LOOK_INTO = 50


def sizes(root: object) -> Sizes:
    """The length of every collection below ``root``, the largest of each ``Class.attribute``.

    Collections within collections count as ``Class.attribute[]``.
    """
    found: Sizes = {}
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", root)]
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict | list | set | deque):
            found[name] = max(found.get(name, 0), len(value))
            waiting += [(f"{name}[]", each) for each in _members(value)]
        elif isinstance(value, bytearray):
            found[name] = max(found.get(name, 0), len(value))
        elif isinstance(value, tuple):
            waiting += [(f"{name}[]", each) for each in value]
        elif type(value).__module__.startswith("dig_gossip"):
            if name == "SeenSet._kept":  # perhaps compiled, so that nothing of it is seen
                assert isinstance(value, Sized)
                found[name] = max(found.get(name, 0), len(value))
            waiting += list(_attributes(value))
    return found


def _members(value: Collection[Any]) -> Iterator[object]:  # Any: whatever is in it
    if isinstance(value, dict):
        yield from islice(value.values(), LOOK_INTO)
    yield from islice(value, LOOK_INTO)


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    name = type(value).__name__
    kept = dict(getattr(value, "__dict__", {}))
    for each in type(value).__mro__:
        slots = each.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            slot = f"_{each.__name__.lstrip('_')}{slot}" if slot.startswith("__") else slot
            if hasattr(value, slot):
                kept[slot] = getattr(value, slot)
    for attribute, inner in kept.items():
        yield f"{name}.{attribute}", inner


#: What may be large, and how large. Everything else is bounded by the sessions.
def caps(config: GossipConfig) -> Sizes:
    """The documented bound of every collection that may outgrow the number of sessions."""
    return {
        "SeenSet._kept": config.max_seen_messages,
        "PureSeenSet._sightings": config.max_seen_messages,
        "PureSeenSet._order": config.max_seen_messages,
        "PureSeenSet._digests": config.max_seen_messages,
        "MessageCache._cached": config.plumtree.cache_messages,
        "MessageCache._order": 2 * config.plumtree.cache_messages + 64,
        "MessageCache._outdated": config.plumtree.cache_messages,
        "MessageCache._served": config.plumtree.cache_messages,
        "Announcements._log": 4 * c.PLUMTREE_MAX_MISSING,
        "MissingMessages._missing": c.PLUMTREE_MAX_MISSING,
        "MissingMessages._deadlines": 2 * c.PLUMTREE_MAX_MISSING,
        "MissingMessages._by_peer[]": c.PLUMTREE_MAX_MISSING_PER_PEER,
        "Fetching._forestalled": MAX_FORESTALLED,
        "TaggedFetching._forestalled": MAX_FORESTALLED,
        "SharedTree.missing": c.PLUMTREE_MAX_MISSING,
        "TaggedTrees.missing": c.PLUMTREE_MAX_MISSING,
        "TaggedTrees._trees": MAX_TREES,
        "TaggedAnnouncements._log": MAX_LOG,
        "Link._failures": c.PLUMTREE_MAX_MISSING_PER_PEER,
        "_Ledger._charged": c.MAX_REPUTATIONS,
        "_Ledger._banned": c.MAX_REPUTATIONS,
        "DialBackoff._records": c.MAX_DIAL_RECORDS,
        "Cast._messages": FLOWING_RUN_BYTES // FRAME_BYTES,
        "Lanes._transactions": MAX_REMEMBERED_TRANSACTIONS,
        "Lanes._lanes[]": c.MAX_QUEUED_MESSAGES,
        "Lanes._delayed": c.MAX_QUEUED_MESSAGES,
        "Lanes._held[][]": MAX_HELD,
        "Subscription._items": c.SUBSCRIPTION_BUFFER,
        # The address book's tables are as large from the beginning: 1024 buckets of 64 slots.
        "SlotTable._nodes": 1024 * 64,
        "SlotTable._place": 1024 * 64,
        "SlotTable._homes": 1024 * 64,
    }


def excess(found: Sizes, allowed: Sizes, otherwise: int) -> Sizes:
    """What is larger than it may be.

    :param otherwise: the bound of everything that ``allowed`` does not name.
    """
    return {
        name: size
        for name, size in found.items()
        if not is_buffer(name) and size > allowed.get(name, otherwise)
    }


def is_buffer(name: str) -> bool:
    """Whether what has this name is counted in bytes: it has bounds of its own."""
    return name.endswith((".data", "._data", "_buffer"))
