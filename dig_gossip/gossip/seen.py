"""Which messages have been here, and how far each has come.

Engines row of the stage table; pure. Source: behaviour PLT-008, design D6.

Stages of a message at one node::

                 tree or flood session
    (unseen) --------------------------------> REMOTE     delivered, pushed, announced
        |  '---------> PENDING ---ACCEPT-------> REMOTE
        |                 '--IGNORE, REJECT----> REFUSED   neither delivered nor forwarded
        |---Chia session---> HELD               delivered; unknown to the tree
        |                      '--tree, flood--> REMOTE    pushed, announced, not delivered again
        '---broadcast---> LOCAL                 from HELD, PENDING and REFUSED, too
"""

from __future__ import annotations

import enum
import os
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from dig_gossip.types.peer import PeerId
from dig_gossip.wire.trees import SHORT_HASH_BYTES


class Stage(enum.Enum):
    """How far a message has come at this node.

    ``PENDING``: the validator has it. ``REFUSED``: the validator did not accept it. ``HELD``:
    plain Chia sessions sent it, the application has it or is about to, the tree has not.
    ``REMOTE``: others sent it, it was forwarded. ``LOCAL``: the application broadcast it.
    """

    PENDING = "pending"
    REFUSED = "refused"
    HELD = "held"
    REMOTE = "remote"
    LOCAL = "local"


class Sighting:
    """What is remembered of one message, or of many that came the same way.

    One that is shared, see :mod:`~dig_gossip.gossip.first_copies`, never changes: its stage is
    REMOTE or LOCAL, and nobody is aware.

    :ivar first_seen: monotonic seconds; of the first one.
    :ivar source: the tree peer that sent the first copy; None if it came otherwise.
    :ivar aware: tree peers known to have the message or to have been told of it, kept while its
        verdict or announcements of it may be due; otherwise None.
    :ivar links: number of the latest link when the message was last broadcast here; links with
        a higher number joined later.
    :ivar is_late: we had to ask for it, so that the tree is torn somewhere.
    :ivar tag: of the tree in which it runs; None for the shared one.
    """

    __slots__ = ("aware", "first_seen", "is_late", "links", "source", "stage", "tag")

    def __init__(self, stage: Stage, first_seen: float, source: PeerId | None) -> None:
        self.stage = stage
        self.first_seen = first_seen
        self.source = source
        self.aware: set[PeerId] | None = None
        self.links = 0
        self.is_late = False
        self.tag: int | None = None


class Kept(Protocol):
    """What a seen set consists of, in either form."""

    @property
    def get(self) -> Callable[[bytes], Sighting | None]: ...

    def find(self, short: bytes, /) -> bytes | None: ...

    def replace(self, digest: bytes, sighting: Sighting, /) -> None: ...

    def add(self, digest: bytes, sighting: Sighting, /) -> None: ...

    def __len__(self) -> int: ...


class SeenSet:
    """The most recently first-seen messages, at most ``capacity``; the oldest goes first.

    A look-up does not refresh. After eviction a replay counts as new, which is accepted. Where the
    package could be built with a C compiler, what is kept is kept by ``_seen.c``: in a third of the
    memory, most of which a message leaves alone.

    :param capacity: messages, 1..10 000 000.
    Cost: O(1) each way.
    Source: behaviour PLT-008.
    """

    __slots__ = ("_kept", "add", "find", "get", "replace")

    def __init__(self, capacity: int) -> None:
        self._kept = kept = _new_set(capacity)
        #: ``get(digest)`` returns the sighting or None.
        self.get = kept.get
        #: ``find(short)`` returns the latest hash that begins with these eight bytes, or None.
        self.find = kept.find
        #: ``replace(digest, sighting)`` remembers something else of a message that is here.
        self.replace = kept.replace
        #: ``add(digest, sighting)`` remembers a message that is not here yet.
        self.add = kept.add

    def __len__(self) -> int:
        return len(self._kept)


class PureSeenSet:
    """The same in Python.

    Cost: O(1) each way. (The order is kept beside the dictionary because finding the first key
    of a dictionary that only loses its first keys takes longer and longer.) The index by the first
    bytes is brought up to date when somebody looks something up in it: O(1) for each message since.
    Source: behaviour PLT-008.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._sightings: dict[bytes, Sighting] = {}
        self._order: deque[bytes] = deque()
        self._forgotten = 0
        # By their first bytes: of all that there ever were as many as this, unless forgotten.
        self._digests: dict[bytes, bytes] = {}
        self._indexed = 0
        #: ``get(digest)`` returns the sighting or None.
        self.get = self._sightings.get

    def __len__(self) -> int:
        """How many messages there are."""
        return len(self._sightings)

    def find(self, short: bytes) -> bytes | None:
        """The latest hash that begins with these eight bytes."""
        order, digests = self._order, self._digests
        added = self._forgotten + len(order)
        if self._indexed < added:
            behind = min(len(order), added - self._indexed)
            for digest in reversed(list(islice(reversed(order), behind))):
                digests[digest[:SHORT_HASH_BYTES]] = digest
            self._indexed = added
        return digests.get(short)

    def replace(self, digest: bytes, sighting: Sighting) -> None:
        """Remember something else of a message that is here."""
        if digest in self._sightings:
            self._sightings[digest] = sighting

    def add(self, digest: bytes, sighting: Sighting) -> None:
        """Remember a message that is not here yet."""
        sightings, order = self._sightings, self._order
        sightings[digest] = sighting
        order.append(digest)
        if len(order) > self._capacity:
            oldest = order.popleft()
            del sightings[oldest]
            self._forgotten += 1
            if self._digests:
                short = oldest[:SHORT_HASH_BYTES]
                if self._digests.get(short) is oldest:
                    del self._digests[short]


def _compiled() -> Callable[[int], Kept] | None:
    try:
        from dig_gossip.gossip._seen import Seen
    except ImportError:  # not built
        return None
    key = os.urandom(16)  # so that nobody can choose messages that are hard to find
    return lambda capacity: Seen(capacity, key)


_new_set: Callable[[int], Kept] = _compiled() or PureSeenSet


class KnownHashes:
    """The messages a session outside the tree is known to have; least recently used goes first."""

    __slots__ = ("_capacity", "_hashes")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._hashes: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, digest: bytes) -> bool:
        """Note that the session has a message.

        :returns: whether that is news.
        """
        hashes = self._hashes
        if digest in hashes:
            hashes.move_to_end(digest)
            return False
        hashes[digest] = None
        if len(hashes) > self._capacity:
            hashes.popitem(last=False)
        return True
