"""Requests of engines in simulated networks: ids, and timers for answers that never come.

Programs row of the stage table. The test kit's network of transaction engines uses it, too.
"""

from __future__ import annotations

import itertools
from typing import Final

import attrs

from dig_gossip.effects import Request, SetTimer, TimerKey
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

#: The name of timers that :class:`Asking` wants set.
ASKED: Final = "lab.asked"
_FIRST_ID: Final = 0x4000
_IDS: Final = 0x4000
_ID_BYTES: Final = 2


class Asking:
    """Requests that wait for their answer: ids, and timers for those that never come.

    Answers are matched by peer and id; a late one is nobody's.
    """

    def __init__(self) -> None:
        self._ids = itertools.count()
        self._open: dict[tuple[PeerId, int], TimerKey] = {}

    def ask(self, request: Request) -> tuple[Message, SetTimer]:
        """Give a request its id.

        :returns: the message to be sent, and the timer after which nobody waits any more.
        """
        number = _FIRST_ID + next(self._ids) % _IDS
        self._open[request.peer, number] = request.key
        timer = SetTimer((ASKED, number.to_bytes(_ID_BYTES, "big") + request.peer), request.timeout)
        return attrs.evolve(request.message, id=number), timer

    def answered(self, peer: PeerId, message: Message) -> TimerKey | None:
        """Find the request that a message answers; it is open no more."""
        return None if message.id is None else self._open.pop((peer, message.id), None)

    def expired(self, key: TimerKey) -> tuple[PeerId, TimerKey] | None:
        """Find the request of a timer, if it is still open; it is open no more."""
        number, peer = int.from_bytes(key[1][:_ID_BYTES], "big"), PeerId(key[1][_ID_BYTES:])
        found = self._open.pop((peer, number), None)
        return None if found is None else (peer, found)

    def lost(self, peer: PeerId) -> list[TimerKey]:
        """Close all requests to a peer that is gone."""
        numbers = [number for other, number in self._open if other == peer]
        return [self._open.pop((peer, number)) for number in numbers]
