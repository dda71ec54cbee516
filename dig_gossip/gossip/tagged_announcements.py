"""Who is still to be told of which message that runs in a tagged tree, and when.

Engines row of the stage table; pure.

One end of each link speaks first: both ends know which, because it follows from the two ids. The
messages of some time are told together, so that a frame has several. The other end speaks of a
message only if it has not heard of it by then, so that of two neighbors who both have a message
one tells the other, in one frame, once; and if the first to speak has it not, it still gets to know
of it::

    message ----> log ---- flush -----------------> links on which we speak first
                   '------ flush + second wave ---> the others, what they did not tell us of

The flush follows the traffic: the more messages there are, the more they save by waiting for each
other, and with few of them there is nothing to wait for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from dig_gossip.constants import TREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.effects import Effect, Send, SetTimer, TimerKey
from dig_gossip.gossip.rate import MessageRate
from dig_gossip.gossip.seen import Sighting
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message
from dig_gossip.wire.trees import TreeAnnounce

TREE_ANNOUNCE_TIMER: Final[TimerKey] = ("tree-announce", b"")
MAX_LOG: Final = 4096  # messages; beyond, those who speak second do not wait

GATHER_AT: Final = 4  # messages that come in the longer time: for these it is worth waiting

_ANNOUNCE: Final = int(TreeAnnounce.OPCODE)

# A named tuple's own constructor costs more than the tuple.
_new = tuple.__new__


class _Entry(NamedTuple):
    """A message: its short hash, who is never to be told of it, what it is, and when others are."""

    short: bytes
    aware: set[PeerId]
    sighting: Sighting
    due: float


class TaggedAnnouncements:
    """One log of recent messages for all links, read by those who are told first and second.

    Bounded: the log by 4096 messages and a frame's worth. It is empty while there is no link.

    :ivar mute: peers that should have spoken first and had to be told, when the timer last fired.

    Cost: a message one append, and one set look-up a link.
    """

    def __init__(self, config: PlumtreeConfig, counters: PlumtreeCounters) -> None:
        self._flush = config.announce_flush_ms / 1000
        self._long_flush = config.announce_gather_ms / 1000
        self._gather_at = GATHER_AT / self._long_flush
        self._delay = config.second_wave_delay_ms / 1000
        self._counters = counters
        self._rate = MessageRate()
        self._first: dict[PeerId, None] = {}
        self._second: dict[PeerId, None] = {}
        self._log: deque[_Entry] = deque()
        self._untold = 0  # how many entries at its end nobody has been told of
        self._due = math.inf  # of those told first
        self._armed = math.inf
        self.mute: list[PeerId] = []

    def __len__(self) -> int:
        """Messages in the log."""
        return len(self._log)

    def join(self, peer: PeerId, *, speaks_first: bool) -> None:
        """Begin to tell a peer of messages that come from now on.

        :param speaks_first: this end of the link does; the other end must think the opposite.
        """
        self.leave(peer)
        (self._first if speaks_first else self._second)[peer] = None
        for entry in self._log:
            entry.aware.add(peer)

    def leave(self, peer: PeerId) -> None:
        """Stop telling a peer that is gone."""
        self._first.pop(peer, None)
        self._second.pop(peer, None)
        if not self._first and not self._second:
            while self._log:
                self._forget_oldest()
            self._untold = 0
            self._due = math.inf

    def add(self, short: bytes, sighting: Sighting, aware: set[PeerId], now: float) -> list[Effect]:
        """Take up a message that was just pushed along its tree.

        One that we had to ask for is likely to be late with others: they are told at once.

        :param aware: peers never to be told, the pushed ones among them; ``sighting.aware`` while
            the message is in the log, so that whoever turns out to have it can be added.
        """
        rate = self._rate
        rate.count(now)
        if sighting.is_late:
            return self._tell_all(short, aware)
        sighting.aware = aware
        flush = self._long_flush if rate.recent(now) >= self._gather_at else self._flush
        self._log.append(_new(_Entry, (short, aware, sighting, now + flush + self._delay)))
        self._untold += 1
        if self._untold >= TREE_MAX_ANNOUNCE_ENTRIES:
            told = self._tell_first()
            if len(self._log) > MAX_LOG:
                told += self._tell_second(now)
            return [*told, *self._arm(now)]
        if self._due != math.inf:
            return []
        self._due = now + flush
        return self._arm(now)

    def timer_fired(self, now: float) -> list[Effect]:
        """Tell of what is due."""
        self._armed = math.inf
        effects: list[Effect] = []
        soon = now + self._flush / 4
        if self._due <= soon:
            effects += self._tell_first()
        told = self._tell_second(soon)
        self.mute = [peer for send in told for peer in send.peers]
        return [*effects, *told, *self._arm(now)]

    def _tell_all(self, short: bytes, aware: set[PeerId]) -> list[Effect]:
        """Tell everybody at once of a message that we had to ask for, and that we had to."""
        peers = tuple([peer for peer in (*self._first, *self._second) if peer not in aware])
        if not peers:
            return []
        self._counters.ihaves_sent += len(peers)
        return [Send(peers, Message(_ANNOUNCE, None, bytes(TreeAnnounce((short,), is_alarm=True))))]

    def _tell_first(self) -> list[Send]:
        """Tell of all that nobody was told of."""
        log = self._log
        entries = [log[-1]] if self._untold == 1 else list(log)[len(log) - self._untold :]
        self._untold = 0
        self._due = math.inf
        return self._frames(self._first, entries)

    def _tell_second(self, soon: float) -> list[Send]:
        """Tell of what has waited long enough, and forget it."""
        entries: list[_Entry] = []
        log = self._log
        while log and (len(log) > MAX_LOG or log[0].due <= soon):
            if self._untold >= len(log):
                break  # it waits for those who are told first
            entries.append(log[0])
            self._forget_oldest()
        return self._frames(self._second, entries) if entries else []

    def _forget_oldest(self) -> None:
        self._log.popleft().sighting.aware = None

    def _frames(self, peers: Iterable[PeerId], entries: list[_Entry]) -> list[Send]:
        """Build the frames, each once for all the peers that get the same."""
        if len(entries) == 1:
            short, aware, _, _ = entries[0]
            untold = tuple([peer for peer in peers if peer not in aware])
            if not untold:
                return []
            self._counters.ihaves_sent += len(untold)
            return [Send(untold, Message(_ANNOUNCE, None, short))]
        peers_by_body: dict[bytes, list[PeerId]] = {}
        for peer in peers:
            shorts = [short for short, aware, _, _ in entries if peer not in aware]
            if not shorts:
                continue
            self._counters.ihaves_sent += len(shorts)
            for first in range(0, len(shorts), TREE_MAX_ANNOUNCE_ENTRIES):
                body = b"".join(shorts[first : first + TREE_MAX_ANNOUNCE_ENTRIES])
                peers_by_body.setdefault(body, []).append(peer)
        return [
            Send(tuple(told), Message(_ANNOUNCE, None, body))
            for body, told in peers_by_body.items()
        ]

    def _arm(self, now: float) -> list[Effect]:
        """Set the timer for what is due next, unless it is set early enough."""
        due = self._due
        if self._untold < len(self._log):
            due = min(due, self._log[0].due)
        if due >= self._armed:
            return []
        self._armed = due
        return [SetTimer(TREE_ANNOUNCE_TIMER, max(0.0, due - now))]
