"""What the router does around engines, for a simulated node: names of peers, requests, answers.

Programs row of the stage table. The simulator knows nodes by their numbers and links that carry
frames; engines know peers by 32 bytes, and requests that are answered. What lies between is here,
for every machine that is made of engines of the node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Protocol, runtime_checkable

from dig_gossip.effects import (
    ClearTimer,
    Effect,
    Penalize,
    Reply,
    Request,
    Send,
    SetTimer,
    TimerKey,
)
from dig_gossip.lab.asking import Asking
from dig_gossip.lab.machine import as_peer
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

_numbers: dict[PeerId, int] = {}


@cache
def peer_id(node: int) -> PeerId:
    """The id of a node, the same in every run."""
    name = PeerId(sha256(b"node %d" % node).digest())
    _numbers[name] = node
    return name


def node_of(peer: PeerId) -> PeerId:
    """Undo :func:`peer_id`; the number in the place of a peer, as the simulator wants it."""
    return as_peer(_numbers[peer])


@runtime_checkable
class Counting(Protocol):
    """A machine whose engines count."""

    def counters(self) -> Mapping[str, float]:
        """Totals of this node by name; those of all nodes are added up."""


@runtime_checkable
class Telling(Protocol):
    """A machine whose frames an observer understands before anything is delivered."""

    def tells_of(self, message: Message) -> tuple[bytes, bool] | None:
        """Which transaction a frame tells of, and whether that one is on its stem."""


class Shell:
    """A machine made of engines. Subclasses route frames, and do what is not common to all.

    What engines want is done by :meth:`done`, which gives the simulator effects that it knows.

    :ivar penalties: how often honest engines charged anybody, by reason.
    """

    def __init__(self) -> None:
        self.penalties: Counter[str] = Counter()
        self._asking = Asking()

    def answered(self, peer: PeerId, key: TimerKey, answer: Message | None) -> list[Effect]:
        """What becomes of a request that an engine made; effects of engines."""
        raise NotImplementedError

    def framed(self, message: Message) -> Message:
        """Give a message the form in which the simulator carries it."""
        return message

    def other(self, effect: Effect) -> list[Effect]:
        """Do what is not common to all machines; returns effects of the simulator's."""
        return []

    def done(self, effects: list[Effect]) -> list[Effect]:
        """Turn what engines want into what the simulator does."""
        found: list[Effect] = []
        for effect in effects:
            kind = effect.__class__
            if kind is Send:
                assert isinstance(effect, Send)
                found.append(Send(tuple(map(node_of, effect.peers)), self.framed(effect.message)))
            elif kind is SetTimer or kind is ClearTimer:
                found.append(effect)
            elif isinstance(effect, Reply):
                found.append(Send((node_of(effect.peer),), effect.message))
            elif isinstance(effect, Request):
                message, timer = self._asking.ask(effect)
                found += [Send((node_of(effect.peer),), message), timer]
            elif isinstance(effect, Penalize):
                self.penalties[effect.reason.value] += 1
            else:
                found += self.other(effect)
        return found

    def answer_came(self, peer: PeerId, message: Message) -> list[Effect]:
        """Take in a frame that can only be an answer."""
        key = self._asking.answered(peer, message)
        return [] if key is None else self.done(self.answered(peer, key, message))

    def ask_expired(self, key: TimerKey) -> list[Effect]:
        """A timer of :class:`Asking` is due."""
        found = self._asking.expired(key)
        return [] if found is None else self.done(self.answered(*found, None))

    def asks_lost(self, peer: PeerId) -> list[Effect]:
        """Tell the engines that a peer which is gone will answer nothing."""
        effects: list[Effect] = []
        for key in self._asking.lost(peer):
            effects += self.answered(peer, key, None)
        return self.done(effects)

    def charged(self) -> dict[str, float]:
        """Penalties as counters."""
        return {f"charged_{reason}": float(n) for reason, n in self.penalties.items()}
