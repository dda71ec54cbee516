"""Who is still to be told of which message, and when: the lazy half of Plumtree.

Engines row of the stage table; pure.

One log of recent messages serves all lazy peers; each of them has its own place in it. So a
message costs one append, however many lazy peers there are, and the work is done when a frame of
announcements is built::

    log       m1 m2 m3 | m4 m5 | m6 m7          | ends a batch: its first wave has gone
                       ^       ^     ^
              peer A --+       |     +-- next message goes here
              peer B ----------+         (A is next told of m4 and later, B of m6 and later)

First wave: ``announce_flush_ms`` after the first message of a batch, or at 64 messages, a few
random peers are told of the whole batch. Second wave: each remaining peer at a time of its own,
one to two ``second_wave_delay_ms`` later, is told what it is not known to have by then. Two lazy
neighbors draw different times, and the first to speak silences the other, so a message usually
crosses a lazy link as a hash once or not at all.

Every message is offered to every peer that was lazy when it came: a peer that becomes eager is
told at once of what it has not been told, and one that becomes lazy starts at the end of the log,
because it got everything before in full.

Source: behaviour PLT-003.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator
from random import Random
from typing import Final, NamedTuple, TypeAlias

from dig_gossip.constants import PLUMTREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.effects import Effect, Send, SetTimer, TimerKey
from dig_gossip.gossip.seen import Sighting
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import PlumtreeLazyAnnounce
from dig_gossip.wire.message import Message

ANNOUNCE_TIMER: Final[TimerKey] = ("announce", b"")
MAX_LOG: Final = 4096  # messages; beyond, the second wave does not wait


class _Place:
    """A lazy peer's place in the log: number of the next message, and when it is to be told."""

    __slots__ = ("due", "next")

    def __init__(self, at: int) -> None:
        self.next = at
        self.due = math.inf


class _Batch(NamedTuple):
    flushed_at: float
    end: int


#: An announcement's entry, encoded, the peers that are never to get it, and what it is about.
_Entry: TypeAlias = tuple[bytes, set[PeerId], Sighting]

_ANNOUNCE: Final = int(PlumtreeLazyAnnounce.OPCODE)  # a plain int makes a message faster
_OPCODE_BYTES = tuple(bytes((opcode,)) for opcode in range(256))


class Announcements:
    """Queues of announcements for all lazy peers.

    Bounded: the log by 4096 messages and a batch, in practice by what arrives in two second-wave
    delays; one place a lazy peer. The log is empty while there is no lazy peer.

    Cost: :meth:`add` O(1), but for the first and the last message of a batch; a wave O(lazy peers
    + entries looked at); amortized, a message costs one set look-up a lazy peer.

    Divergence: behaviour PLT-003 announces to all lazy peers after 50 ms. So does
    ``two_wave_announce=False``. Two waves halve the announcements and still reach everybody
    when half of the network falls silent; a first wave alone does not.
    """

    def __init__(
        self,
        config: PlumtreeConfig,
        *,
        rng: Random,
        counters: PlumtreeCounters,
    ) -> None:
        self._flush = config.announce_flush_ms / 1000
        self._two_waves = config.two_wave_announce
        self._first_wave_peers = config.first_wave_peers
        self._delay = config.second_wave_delay_ms / 1000
        self._rng = rng
        self._counters = counters
        self._places: dict[PeerId, _Place] = {}
        #: the lazy peers; every message costs a look
        self.peers: Collection[PeerId] = self._places.keys()
        self._log: list[_Entry] = []
        self._start = 0  # number of the first message in the log
        self._batches: deque[_Batch] = deque()
        self._flushed = 0  # messages below this number have had their first wave
        self._first_wave_due = math.inf
        self._armed = math.inf

    def __len__(self) -> int:
        """Messages in the log."""
        return len(self._log)

    def join(self, peer: PeerId) -> None:
        """Begin to tell a peer that just became lazy; earlier messages are not its business."""
        self._places[peer] = _Place(self._start + len(self._log))

    def forget(self, peer: PeerId) -> None:
        """Stop telling a peer that is gone."""
        self._places.pop(peer, None)
        if not self._places:
            self._clear()

    def leave(self, peer: PeerId) -> list[Effect]:
        """Stop telling a peer that becomes eager, after telling it what it still has to know."""
        place = self._places[peer]
        backlog = self._unaware(peer, place.next, self._start + len(self._log))
        self.forget(peer)
        return self._frames([(peer, backlog)])

    def add(
        self, digest: bytes, opcode: int, sighting: Sighting, aware: set[PeerId], now: float
    ) -> list[Effect]:
        """Take up a message that was just pushed to all eager peers.

        :param aware: peers never to be told; ``sighting.aware`` while the message is in the log,
            so that whoever turns out to have it can be added.
        """
        if not self._places:
            return []
        sighting.aware = aware
        self._log.append((digest + _OPCODE_BYTES[opcode], aware, sighting))
        if self._start + len(self._log) - self._flushed >= PLUMTREE_MAX_ANNOUNCE_ENTRIES:
            return self._first_wave(now) + self._arm(now)
        if self._first_wave_due != math.inf:
            return []
        self._first_wave_due = now + self._flush
        return self._arm(now)

    def timer_fired(self, now: float) -> list[Effect]:
        """Send the waves that are due."""
        self._armed = math.inf
        if not self._places:
            return []
        # Whoever is due within half a flush is told now: fewer wake-ups, fuller frames.
        soon = now + self._flush / 2
        effects = self._first_wave(now) if self._first_wave_due <= soon else []
        due = [item for item in self._places.items() if item[1].due <= soon]
        if due:
            effects += self._second_wave(due, soon)
        return effects + self._arm(now)

    def _first_wave(self, now: float) -> list[Effect]:
        """Close the batch and tell the first few peers of it."""
        begin, end = self._flushed, self._start + len(self._log)
        self._flushed = end
        self._first_wave_due = math.inf
        self._batches.append(_Batch(now, end))
        frames: list[tuple[PeerId, list[_Entry]]] = []
        if self._two_waves:
            for peer in self._random_peers():
                entries = self._unaware(peer, max(begin, self._places[peer].next), end)
                if entries:
                    for _, aware, _ in entries:
                        aware.add(peer)
                    frames.append((peer, entries))
                    if len(frames) == self._first_wave_peers:
                        break
        effects = self._frames(frames)
        if not self._two_waves or len(self._log) >= MAX_LOG:
            return effects + self._second_wave(list(self._places.items()), math.inf)
        for place in self._places.values():
            if place.due == math.inf:
                place.due = self._draw(now)
        return effects

    def _second_wave(self, places: list[tuple[PeerId, _Place]], soon: float) -> list[Effect]:
        """Tell each of these peers what has waited for the delay."""
        frames = []
        for peer, place in places:
            begin = place.next
            place.due = math.inf
            for flushed_at, end in self._batches:
                if flushed_at + self._delay > soon:
                    place.due = self._draw(flushed_at)
                    break
                place.next = end
            if place.next > begin:
                entries = self._unaware(peer, begin, place.next)
                if entries:
                    frames.append((peer, entries))
        effects = self._frames(frames) if frames else []
        self._trim()
        return effects

    def _draw(self, flushed_at: float) -> float:
        return flushed_at + self._delay * (1 + self._rng.random())

    def _unaware(self, peer: PeerId, begin: int, end: int) -> list[_Entry]:
        """The entries of a range of the log that a peer is not known to have."""
        start = self._start
        return [entry for entry in self._log[begin - start : end - start] if peer not in entry[1]]

    def _frames(self, told: list[tuple[PeerId, list[_Entry]]]) -> list[Effect]:
        """Build the frames, each once for all the peers that get the same.

        The layout has no count, so entries that are encoded once are just put together.
        """
        peers_by_body: dict[bytes, list[PeerId]] = {}
        for peer, entries in told:
            self._counters.ihaves_sent += len(entries)
            if len(entries) == 1:
                peers_by_body.setdefault(entries[0][0], []).append(peer)
                continue
            for first in range(0, len(entries), PLUMTREE_MAX_ANNOUNCE_ENTRIES):
                part = entries[first : first + PLUMTREE_MAX_ANNOUNCE_ENTRIES]
                body = b"".join([entry[0] for entry in part])
                peers_by_body.setdefault(body, []).append(peer)
        return [
            Send(tuple(peers), Message(_ANNOUNCE, None, body))
            for body, peers in peers_by_body.items()
        ]

    def _random_peers(self) -> Iterator[PeerId]:
        """All lazy peers in random order, drawn as they are needed."""
        peers = list(self._places)
        while peers:
            index = self._rng.randrange(len(peers))
            peers[index], peers[-1] = peers[-1], peers[index]
            yield peers.pop()

    def _arm(self, now: float) -> list[Effect]:
        """Set the timer for what is due next, unless it is set early enough."""
        due = self._first_wave_due
        for place in self._places.values():
            if place.due < due:
                due = place.due
        if due >= self._armed:
            return []
        self._armed = due
        return [SetTimer(ANNOUNCE_TIMER, max(0.0, due - now))]

    def _trim(self) -> None:
        """Forget what every lazy peer has been told."""
        done = min([place.next for place in self._places.values()])
        if done == self._start:
            return
        for _, _, sighting in self._log[: done - self._start]:
            sighting.aware = None
        del self._log[: done - self._start]
        self._start = done
        while self._batches and self._batches[0].end <= done:
            self._batches.popleft()

    def _clear(self) -> None:
        for _, _, sighting in self._log:
            sighting.aware = None
        self._start += len(self._log)
        self._flushed = self._start
        self._log.clear()
        self._batches.clear()
        self._first_wave_due = math.inf
