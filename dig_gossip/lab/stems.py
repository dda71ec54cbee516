"""Transactions by Dandelion++: the node's own engine before ERLAY, as the router drives both.

Programs row of the stage table. What is published goes on its stem; the relay that ends the stem
has ERLAY announce it. Whoever was on the stem fetches the transaction like everybody else once it
is announced, or is given it when the stem's rest is over.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from dig_gossip.constants import ERLAY_RECONCILE, ERLAY_SAFETY_NET
from dig_gossip.effects import Deliver, Effect, Spread, TimerKey
from dig_gossip.lab.models.frame import ModelFrame, frame, opened
from dig_gossip.lab.scenario import Scenario
from dig_gossip.lab.shell import node_of, peer_id
from dig_gossip.lab.transactions import ANNOUNCE, KINDS, RESPOND, ErlayMachine, announcement_of
from dig_gossip.lab.transactions import tx_id_of as id_of
from dig_gossip.privacy.dandelion import Dandelion
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message
from dig_gossip.wire.stem import TX_ID_BYTES, StemTransaction

_STEM: Final = int(StemTransaction.OPCODE)
STEM_KINDS: Final = {**KINDS, _STEM: "payload"}


class DandelionMachine(ErlayMachine):
    """One node.

    :ivar fluffed: ids of the transactions whose stem ended here.
    """

    def __init__(
        self, policy: str, scenario: Scenario, now: Callable[[], float], rng: Random
    ) -> None:
        super().__init__(policy, scenario, now, rng)
        self.dandelion = Dandelion(scenario.dandelion, now=now, rng=rng)
        self.fluffed: set[bytes] = set()
        #: what was on a stem here; the simulator knows transactions by these objects
        self._on_stems: dict[bytes, Message] = {}

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """Take a link in; those that we dialed may become relays."""
        effects = super().peer_up(peer, dialed=dialed, rtt=rtt)
        if dialed:
            effects += self.done(self.dandelion.peer_up(peer_id(peer)))
        return effects

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a link; stems that were sent along it just now take another."""
        stems = self.done(self.dandelion.peer_down(peer_id(peer)))
        return super().peer_down(peer) + stems

    def publish(self, message: Message) -> list[Effect]:
        """Send a transaction of our own on its stem."""
        self.keep_own(message)
        self._on_stems[id_of(message)] = message
        body = StemTransaction(announcement_of(message).data, message.data)
        return self.done(self.dandelion.submit(body))

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Route a frame; an announcement ends a stem."""
        if message.type == _STEM:
            got = opened(message)
            assert got.payload is not None
            self._on_stems[id_of(got.payload)] = got.payload
            return self.done(self.dandelion.received(peer_id(peer), got.content))
        if message.type == ANNOUNCE:
            rest = self.done(self.dandelion.announced(message.data[:TX_ID_BYTES]))
            return rest + super().received(peer, message)
        return super().received(peer, message)

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Route a timer."""
        if key[0] in self.dandelion.names:
            return self.done(self.dandelion.timer_fired(key))
        return super().timer_fired(key)

    def framed(self, message: Message) -> Message:
        """Let a transaction on its stem carry the object by which the simulator knows it."""
        if message.type != _STEM:
            return message
        payload = self._on_stems[message.data[:TX_ID_BYTES]]
        return frame(_STEM, len(message), message, payload)

    def other(self, effect: Effect) -> list[Effect]:
        """Announce what leaves its stem here, and take in what was on one."""
        if isinstance(effect, Spread):
            self.fluffed.add(effect.message.data[:TX_ID_BYTES])
            return self.done(self.engine.broadcast(effect.message).effects)
        if isinstance(effect, Deliver) and effect.message.type == RESPOND:
            payload = self._on_stems[id_of(effect.message)]
            return self.arrived(effect.peer, payload)
        return super().other(effect)

    def tells_of(self, message: Message) -> tuple[bytes, bool] | None:
        """A stem tells of a transaction, too."""
        if message.type == _STEM and isinstance(message, ModelFrame):
            assert message.payload is not None
            return id_of(message.payload), True
        return super().tells_of(message)

    def relays(self) -> list[int]:
        """The relays of this epoch, by their numbers; none before any was needed."""
        return [int(node_of(relay)) for relay in self.dandelion.snapshot().relays]

    def counters(self) -> dict[str, float]:
        """What the engines count."""
        return {**super().counters(), **self.dandelion.snapshot().counters}


def dandelion(
    scenario: Scenario, node: int, now: Callable[[], float], rng: Random
) -> DandelionMachine:
    """Dandelion++, then ERLAY."""
    return DandelionMachine(ERLAY_RECONCILE, scenario, now, rng)


def dandelion_tree(
    scenario: Scenario, node: int, now: Callable[[], float], rng: Random
) -> DandelionMachine:
    """Dandelion++, then Plumtree with ERLAY as its safety net."""
    return DandelionMachine(ERLAY_SAFETY_NET, scenario, now, rng)
