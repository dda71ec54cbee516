"""Which peers are silent: their sessions are there, and nothing comes from them.

Engines row of the stage table; pure. Nobody is asked as long as messages are on time. When one is
late, somebody on its way did not pass it on; then all peers are pinged, and who does not answer is
silent. If several are, something has happened to the network, and the others are told to look
around, too: what hangs on silent peers is to hang on others before the next message of each tree is
late to find that out. Source: :doc:`/engines/trees`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from dig_gossip.effects import Effect, Ping, Send, SetTimer, TimerKey
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message
from dig_gossip.wire.trees import TreeAnnounce

TREE_PING_TIMER: Final[TimerKey] = ("tree-ping", b"")

LOOK_INTERVAL_SECS: Final = 10.0  # between two pings to everybody, and between two alarms
PONG_SECS: Final = 0.1  # beyond one and a half round trips: who does not answer by then is silent
ALARM_AT: Final = 2  # silent peers at once: more than one that left without a word
_EARLY_SECS: Final = 0.001  # a timer may fire this much early

_ALARM: Final = TreeAnnounce((), is_alarm=True)


class Silence:
    """The silent peers of one node, and those that were asked whether they are.

    Bounded by the number of sessions; one round of pings, and one alarm to all, in ten seconds.

    :param peers: whom we may ask.
    :param delay: seconds to a peer, one way.
    """

    def __init__(
        self,
        peers: Iterable[PeerId],
        delay: Callable[[PeerId], float],
        counters: PlumtreeCounters,
    ) -> None:
        self._peers = peers
        self._delay = delay
        self._counters = counters
        #: peers that were sent a ping, and when they are silent if nothing comes
        self._asked: dict[PeerId, float] = {}
        self._silent: set[PeerId] = set()
        self._looked_at = self._alarmed_at = -math.inf

    def __len__(self) -> int:
        return len(self._silent)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._silent

    def heard(self, peer: PeerId) -> None:
        """Something came from a peer, or it is gone: it is not silent."""
        if self._asked:
            self._asked.pop(peer, None)
        self._silent.discard(peer)

    def look_around(self, now: float) -> list[Effect]:
        """See who is still there: a message was late, here or elsewhere."""
        if now - self._looked_at < LOOK_INTERVAL_SECS:
            return []
        self._looked_at = now
        return self.ping(self._peers, now)

    def ping(self, peers: Iterable[PeerId], now: float) -> list[Effect]:
        """See whether peers are there, of which we do not know it."""
        asked = [peer for peer in peers if peer not in self._asked and peer not in self._silent]
        if not asked:
            return []
        for peer in asked:
            self._asked[peer] = now + PONG_SECS + 3 * self._delay(peer)
        pings: list[Effect] = [Ping(peer) for peer in asked]
        return [*pings, self._until_pong(now)]

    def due(self, now: float) -> list[PeerId]:
        """Give those that are found to be silent by now."""
        silent = [peer for peer, due in self._asked.items() if due <= now + _EARLY_SECS]
        for peer in silent:
            del self._asked[peer]
        self._silent.update(silent)
        self._counters.silences += len(silent)
        return silent

    def spread(self, silent: list[PeerId], now: float) -> list[Effect]:
        """Look for more, tell the others if there are several, and wait for who was asked.

        :param silent: who was just found to be.
        """
        effects: list[Effect] = []
        if silent:
            effects += self.look_around(now)
            if len(self._silent) >= ALARM_AT and now - self._alarmed_at >= LOOK_INTERVAL_SECS:
                self._alarmed_at = now
                peers = tuple([peer for peer in self._peers if peer not in self._silent])
                if peers:
                    effects.append(Send(peers, Message(_ALARM.OPCODE, None, bytes(_ALARM))))
        return [*effects, self._until_pong(now)] if self._asked else effects

    def _until_pong(self, now: float) -> SetTimer:
        return SetTimer(TREE_PING_TIMER, max(0.0, min(self._asked.values()) - now))
