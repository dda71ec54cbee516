"""Full messages kept for a while, for peers that pull them.

Engines row of the stage table; pure. Source: behaviour PLT-005.2, PLT-007.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Final

from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

MAX_CACHED_MESSAGE_BYTES: Final = 8_388_608
SERVE_INTERVAL_SECS: Final = 1.0  # between two copies of one message for one peer
MAX_SERVINGS: Final = 3  # copies of one message for one peer
MAX_SERVED_PEERS: Final = 256  # remembered per message, the earliest goes first


class Miss(enum.Enum):
    """Why a pull is not served."""

    ABSENT = "absent"
    LIMITED = "limited"


class _Cached:
    __slots__ = ("expires", "message", "served")

    def __init__(self, message: Message, expires: float) -> None:
        self.message = message
        self.expires = expires
        #: (copies, monotonic seconds of the last one) by peer; made when first pulled
        self.served: dict[PeerId, tuple[int, float]] | None = None


class MessageCache:
    """Recent messages by hash, least recently used first out.

    Bounded by count, by bytes (serialized), and by age since insertion. A message above 8 MiB,
    or above the whole cache, is not kept. Who pulled what is remembered beside the message, for
    at most 256 peers, and goes when it goes.

    Cost: O(1), amortized; :meth:`purge` is O(entries).

    :param max_messages: 1 and up.
    :param max_bytes: bytes.
    :param ttl: seconds.
    """

    def __init__(self, max_messages: int, max_bytes: int, ttl: float) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_message_bytes = min(max_bytes, MAX_CACHED_MESSAGE_BYTES)
        self._ttl = ttl
        self._cached: OrderedDict[bytes, _Cached] = OrderedDict()
        #: serialized bytes of all that is kept
        self.size = 0

    def __len__(self) -> int:
        return len(self._cached)

    def put(self, digest: bytes, message: Message, now: float) -> bool:
        """Keep a message; one that is here already starts a new life.

        :returns: whether it can be pulled now: it is not too large.
        """
        cached = self._cached.get(digest)
        if cached is not None:
            cached.expires = now + self._ttl
            self._cached.move_to_end(digest)
            return True
        size = len(message)
        if size > self._max_message_bytes:
            return False
        self._cached[digest] = _Cached(message, now + self._ttl)
        self.size += size
        while len(self._cached) > self._max_messages or self.size > self._max_bytes:
            _, oldest = self._cached.popitem(last=False)
            self.size -= len(oldest.message)
        return True

    def serve(self, digest: bytes, peer: PeerId, now: float) -> Message | Miss:
        """Find the message that a peer pulls, within the limits per peer and message.

        At most one copy a second and three in all, so that a small pull repeated cannot be
        turned into a large answer repeated.
        """
        cached = self._cached.get(digest)
        if cached is None or cached.expires <= now:
            return Miss.ABSENT
        if cached.served is None:
            cached.served = {}
        served = cached.served
        copies, last = served.get(peer, (0, now - SERVE_INTERVAL_SECS))
        if copies >= MAX_SERVINGS or now - last < SERVE_INTERVAL_SECS:
            return Miss.LIMITED
        if not copies and len(served) >= MAX_SERVED_PEERS:
            del served[next(iter(served))]
        served[peer] = (copies + 1, now)
        self._cached.move_to_end(digest)
        return cached.message

    def purge(self, now: float) -> None:
        """Drop what has expired."""
        for digest in [key for key, cached in self._cached.items() if cached.expires <= now]:
            self.size -= len(self._cached.pop(digest).message)
