"""Which messages may cut the tree when many are in flight at once.

Engines row of the stage table; pure.
"""

from __future__ import annotations

import math
from typing import Final

from dig_gossip.gossip.rate import PERIOD_SECS, MessageRate

_HASH_SPACE: Final = 1 << 32


class PruneSampler(MessageRate):
    """Lets about one message a second cut rings of eager links.

    A message that travels around a ring of eager links both ways meets itself somewhere, and the
    duplicate there prunes one link: the ring is open. Several messages of different origins in
    flight at once meet at different places, and each would cut the same ring: then the tree falls
    apart, every message of the next half second has to be fetched, the fetching closes new rings,
    and so on for ever. So a message may cut only if it is the only one of the last second,
    or if its hash is among the lowest ones: all nodes agree on which messages these are without
    a word, and a single message's first copies make a spanning tree by themselves.

    Nodes that estimate different rates choose nested sets, so they hardly disagree.

    Divergence: in behaviour PLT-004.1, as in the paper, every duplicate prunes. With 50 nodes in
    turn sending 20 messages a second that never settles: 0.4 duplicates a delivery instead of
    none.

    Cost: O(1), no state per message.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last = -math.inf
        self._last_but_one = -math.inf

    def message_seen(self, now: float) -> None:
        """Count a message that is new to the tree."""
        self.messages_seen(1, now)

    def messages_seen(self, count: int, now: float) -> None:
        """The same for messages that came together, one or more."""
        if now - self._began >= PERIOD_SECS:  # what count() does; for every message
            self._turn(now)
        self._current += count
        self._last_but_one = self._last if count == 1 else now
        self._last = now

    def may_prune(self, digest: bytes, now: float) -> bool:
        """Whether a duplicate of this message is reason enough to cut.

        :param digest: the message's hash, 32 bytes.
        """
        if now - self._last_but_one >= PERIOD_SECS:
            return True
        return int.from_bytes(digest[:4], "big") * self.recent(now) < _HASH_SPACE


class CutSampler(PruneSampler):
    """The same for a tree with a tag: cuts are a second apart.

    The hashes that may cut come at random, often within the time that a message takes. In a tree
    with many rings two such messages cut many of them twice; among ten thousand nodes, fetching
    what that tears off closed as many new ones, and so on for ever. So of the messages that may
    cut, the first to be seen here does for a second; where the others were first, that is the
    same one, but for those that set out at nearly the same time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._cutter = b""
        self._cutter_at = -math.inf

    def came(self, digest: bytes, now: float) -> None:
        """Count a message that is new to the tree; perhaps it is the one that may cut."""
        self.messages_seen(1, now)
        if now - self._cutter_at >= PERIOD_SECS and super().may_prune(digest, now):
            self._cutter, self._cutter_at = digest, now

    def may_prune(self, digest: bytes, now: float) -> bool:
        """Whether a duplicate of this message is reason enough to cut."""
        if digest != self._cutter and now - self._cutter_at < PERIOD_SECS:
            return False
        return super().may_prune(digest, now)
