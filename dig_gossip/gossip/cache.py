"""Full messages kept for a while, for peers that pull them.

Engines row of the stage table; pure. Source: behaviour PLT-005.2, PLT-007.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from typing import Final, TypeAlias

from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

MAX_CACHED_MESSAGE_BYTES: Final = 8_388_608
SERVE_INTERVAL_SECS: Final = 1.0  # between two copies of one message for one peer
MAX_SERVINGS: Final = 3  # copies of one message for one peer
MAX_SERVED_PEERS: Final = 256  # remembered per message, the earliest goes first


#: Places in the order that no longer count: so many, and one for each message, are no matter.
_TOLERATED: Final = 64

_NOTHING: Final = (None, 0.0, 0)


class Miss(enum.Enum):
    """Why a pull is not served."""

    ABSENT = "absent"
    LIMITED = "limited"


#: A message, since when it is here (monotonic seconds), and its serialized size in bytes.
_Cached: TypeAlias = tuple[Message, float, int]


class MessageCache:
    """Recent messages by hash, least recently used first out.

    Bounded by count, by bytes (serialized), and by age since insertion. A message above 8 MiB,
    or above the whole cache, is not kept. Who pulled what is remembered beside the message, for
    at most 256 peers, and goes when it goes.

    Cost: O(1), amortized; :meth:`purge` is O(entries). (An ``OrderedDict`` would do the same, but
    takes twice as long for a message that comes, is not pulled, and goes, as nearly all do.)

    :param max_messages: 1 and up.
    :param max_bytes: bytes.
    :param ttl: seconds.
    """

    def __init__(self, max_messages: int, max_bytes: int, ttl: float) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_message_bytes = min(max_bytes, MAX_CACHED_MESSAGE_BYTES)
        self._ttl = ttl
        self._cached: dict[bytes, _Cached] = {}  # in the order in which they were put
        # Least recently used first. One that was used again stands there again, and how often it
        # does before the place that counts is noted.
        self._order: deque[bytes] = deque()
        self._outdated: dict[bytes, int] = {}
        #: by hash, for what was pulled: (copies, monotonic seconds of the last one) by peer
        self._served: dict[bytes, dict[PeerId, tuple[int, float]]] = {}
        #: serialized bytes of all that is kept
        self.size = 0

    def __len__(self) -> int:
        return len(self._cached)

    def put(self, digest: bytes, message: Message, now: float) -> bool:
        """Keep a message; one that is here already starts a new life.

        :returns: whether it can be pulled now: it is not too large.
        """
        size = len(message.data) + (6 if message.id is None else 8)
        if size > self._max_message_bytes:
            return False
        cached, order = self._cached, self._order
        before = len(cached)
        cached[digest] = (message, now, size)
        if len(cached) == before:
            cached[digest] = cached.pop(digest)  # the latest again
            self._use(digest)
            return True
        order.append(digest)
        total = self.size + size
        # A full cache loses one for each that comes; rarely, more for the sake of bytes.
        while len(cached) > self._max_messages or total > self._max_bytes:
            oldest = order.popleft()
            if self._outdated and self._is_outdated(oldest):
                continue
            total -= cached.pop(oldest)[2]
            if self._served:
                self._served.pop(oldest, None)
        self.size = total
        return True

    def serve(self, digest: bytes, peer: PeerId, now: float) -> Message | Miss:
        """Find the message that a peer pulls, within the limits per peer and message.

        At most one copy a second and three in all, so that a small pull repeated cannot be
        turned into a large answer repeated.
        """
        message, since, _ = self._cached.get(digest, _NOTHING)
        if message is None or since + self._ttl <= now:
            return Miss.ABSENT
        served = self._served.setdefault(digest, {})
        copies, last = served.get(peer, (0, -math.inf))
        if copies >= MAX_SERVINGS or now - last < SERVE_INTERVAL_SECS:
            return Miss.LIMITED
        if not copies and len(served) >= MAX_SERVED_PEERS:
            del served[next(iter(served))]
        served[peer] = (copies + 1, now)
        self._use(digest)
        return message

    def since(self, start: float, most: int) -> list[tuple[bytes, int]]:
        """Hashes and opcodes of the messages put at ``start`` or later, oldest first.

        :param most: of more than that, the latest.
        """
        found: list[tuple[bytes, int]] = []
        for digest, (message, since, _) in reversed(self._cached.items()):
            if since < start or len(found) >= most:
                break
            found.append((digest, message.type))
        return found[::-1]

    def purge(self, now: float) -> None:
        """Drop what has expired."""
        ttl = self._ttl
        for digest in [key for key, cached in self._cached.items() if cached[1] + ttl <= now]:
            self.size -= self._cached.pop(digest)[2]
            self._served.pop(digest, None)
        self._tidy()

    def _use(self, digest: bytes) -> None:
        """Put a message that is here at the end."""
        self._outdated[digest] = self._outdated.get(digest, 0) + 1
        self._order.append(digest)
        if len(self._order) > 2 * len(self._cached) + _TOLERATED:
            self._tidy()

    def _is_outdated(self, digest: bytes) -> bool:
        """Whether this place of a message, the first that is left, is not the one that counts."""
        times = self._outdated.pop(digest, 0)
        if times > 1:
            self._outdated[digest] = times - 1
        return times > 0

    def _tidy(self) -> None:
        """Keep only the places that count."""
        self._order = deque(
            [
                digest
                for digest in self._order
                if not self._is_outdated(digest) and digest in self._cached
            ]
        )
