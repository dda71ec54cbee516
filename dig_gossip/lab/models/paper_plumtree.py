"""Plumtree as in the paper: every link starts eager, timers are fixed, rounds are counted.

A model, in the programs row of the stage table, beside the engine of the node. Announcements are
sent at once, one a frame, which the paper leaves open; their sizes are those of our frames, with
four bytes for the round. Timers are those of behaviour PLT-005: 500 ms from an announcement to a
graft, 250 ms to the next one. The tree is optimized as in the paper, with a threshold of 3 hops.

Known property: when messages of one origin follow each other without losses and failures, and one
at a time, each takes N - 1 full copies once the tree has formed.

Source: J. Leitão, J. Pereira, L. Rodrigues, "Epidemic Broadcast Trees", 2007, algorithms 1 to 4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from dig_gossip.effects import ClearTimer, Deliver, Effect, Send, SetTimer, TimerKey
from dig_gossip.lab.models.frame import frame, opened
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

TIMEOUT_1_SECS: Final = 0.5
TIMEOUT_2_SECS: Final = 0.25
THRESHOLD: Final = 3  # hops that an announcement must save

_GOSSIP, _IHAVE, _PRUNE, _GRAFT = range(1, 5)
_ENVELOPE: Final = 6
_ROUND_BYTES: Final = 4
KINDS: Final[Mapping[int, str]] = {
    _GOSSIP: "payload",
    _IHAVE: "announcements",
    _PRUNE: "prunes",
    _GRAFT: "grafts",
}
_PRUNE_FRAME = frame(_PRUNE, _ENVELOPE)
_JUST_GRAFT = frame(_GRAFT, _ENVELOPE + 1)


class PaperPlumtree:
    """One node. What it has received is never forgotten."""

    def __init__(self) -> None:
        self.eager: dict[PeerId, None] = {}
        self.lazy: dict[PeerId, None] = {}
        #: id -> the message and how many hops it came
        self._received: dict[bytes, tuple[Message, int]] = {}
        #: id -> announcements (peer, hops) that were not followed
        self._missing: dict[bytes, deque[tuple[PeerId, int]]] = {}

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A new neighbor is eager."""
        self.eager[peer] = None
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a neighbor and what it announced."""
        self.eager.pop(peer, None)
        self.lazy.pop(peer, None)
        for digest, announced in self._missing.items():
            self._missing[digest] = deque(item for item in announced if item[0] != peer)
        return []

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Nothing depends on it."""
        return []

    def publish(self, message: Message) -> list[Effect]:
        """Broadcast."""
        self._received[message.data] = (message, 0)
        return self._spread(message, 0, None)

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Take a frame in."""
        got = opened(message)
        if peer not in self.eager and peer not in self.lazy:
            return []
        if got.type == _GOSSIP:
            assert got.payload is not None
            return self._arrived(peer, got.payload, got.content)
        if got.type == _IHAVE:
            return self._announced(peer, *got.content)
        if got.type == _PRUNE:
            self._make_lazy(peer)
            return []
        self._make_eager(peer)
        found = None if got.content is None else self._received.get(got.content)
        return [] if found is None else [Send((peer,), self._gossip(*found))]

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """A message that was announced has not come."""
        digest = key[1]
        announced = self._missing.get(digest)
        if not announced:
            self._missing.pop(digest, None)
            return []
        peer, _ = announced.popleft()
        self._make_eager(peer)
        graft = frame(_GRAFT, _ENVELOPE + 1 + 32 + _ROUND_BYTES, digest)
        return [SetTimer(key, TIMEOUT_2_SECS), Send((peer,), graft)]

    def tree_links(self) -> int:
        """Eager links."""
        return len(self.eager)

    def _make_eager(self, peer: PeerId) -> None:
        if self.lazy.pop(peer, "") is None:
            self.eager[peer] = None

    def _make_lazy(self, peer: PeerId) -> None:
        if self.eager.pop(peer, "") is None:
            self.lazy[peer] = None

    def _announced(self, peer: PeerId, digest: bytes, hops: int) -> list[Effect]:
        if digest in self._received:
            return []
        announced = self._missing.get(digest)
        if announced is not None:
            announced.append((peer, hops))
            return []
        self._missing[digest] = deque([(peer, hops)])
        return [SetTimer(("missing", digest), TIMEOUT_1_SECS)]

    def _arrived(self, peer: PeerId, message: Message, hops: int) -> list[Effect]:
        digest = message.data
        if digest in self._received:
            self._make_lazy(peer)
            return [Send((peer,), _PRUNE_FRAME)]
        self._received[digest] = (message, hops)
        effects: list[Effect] = [Deliver(peer, message)]
        announced = self._missing.pop(digest, None)
        if announced is not None:
            effects.append(ClearTimer(("missing", digest)))
        self._make_eager(peer)
        effects += self._spread(message, hops, peer)
        for announcer, theirs in announced or ():
            if hops - theirs >= THRESHOLD and announcer in self.lazy:
                self._make_eager(announcer)
                self._make_lazy(peer)
                effects += [Send((announcer,), _JUST_GRAFT), Send((peer,), _PRUNE_FRAME)]
                break
        return effects

    def _spread(self, message: Message, hops: int, source: PeerId | None) -> list[Effect]:
        """Push to eager peers and announce to lazy ones; ``hops`` is how far it came to us."""
        effects: list[Effect] = []
        eager = tuple([peer for peer in self.eager if peer != source])
        lazy = tuple([peer for peer in self.lazy if peer != source])
        if eager:
            effects.append(Send(eager, self._gossip(message, hops)))
        if lazy:
            size = _ENVELOPE + 33 + _ROUND_BYTES
            effects.append(Send(lazy, frame(_IHAVE, size, (message.data, hops + 1))))
        return effects

    @staticmethod
    def _gossip(message: Message, hops: int) -> Message:
        return frame(_GOSSIP, len(message) + _ROUND_BYTES, hops + 1, payload=message)
