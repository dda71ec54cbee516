"""Transactions by ERLAY: the node's own engine, and an application that fetches what is announced.

Programs row of the stage table. As in Chia's nodes, an announcement says nothing but id, cost and
fees: the application asks the announcer for the transaction, and the next one if nothing has come
after five seconds. The engine waits for that as for any validator: a node announces only what it
has. Requests and answers are those of :mod:`~dig_gossip.lab.models.announce`, byte for byte.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from hashlib import sha256
from random import Random
from typing import Final

import attrs

from dig_gossip.constants import ERLAY_MAX_CAPACITY, ERLAY_RECONCILE, ERLAY_SAFETY_NET
from dig_gossip.effects import ClearTimer, Deliver, Effect, Send, SetTimer, TimerKey, Validate
from dig_gossip.gossip.erlay import Erlay
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import PeerMode, Verdict
from dig_gossip.lab.asking import ASKED
from dig_gossip.lab.machine import DIG_KINDS
from dig_gossip.lab.models.announce import ID_BYTES, REQUEST_BYTES, REQUEST_SECS
from dig_gossip.lab.models.frame import ModelFrame, frame, opened
from dig_gossip.lab.scenario import Scenario
from dig_gossip.lab.shell import Shell, node_of, peer_id
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import peer_score
from dig_gossip.wire.erlay import SALT_BYTES, ReconciliationSketch
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType

ANNOUNCE: Final = int(ChiaMessageType.NEW_TRANSACTION)
_REQUEST: Final = int(ChiaMessageType.REQUEST_TRANSACTION)
RESPOND: Final = int(ChiaMessageType.RESPOND_TRANSACTION)
_SKETCH: Final = int(DigMessageType.RECONCILIATION_SKETCH)
_RESPONSE: Final = int(DigMessageType.RECONCILIATION_RESPONSE)
_FETCH: Final = "lab.fetch"
_TX_ID_BYTES: Final = 32

KINDS: Final[Mapping[int, str]] = {
    **DIG_KINDS,
    ANNOUNCE: "announcements",
    _REQUEST: "control",
    RESPOND: "payload",
    _SKETCH: "control",
    _RESPONSE: "control",
}


def tx_id_of(payload: Message) -> bytes:
    """The id of the transaction that a simulated message stands for."""
    return sha256(payload.data).digest()


def announcement_of(payload: Message) -> Message:
    """Its ``NewTransaction``: it costs its bytes, and pays nothing."""
    cost = len(payload.data).to_bytes(8, "big")
    return Message(ANNOUNCE, None, tx_id_of(payload) + cost + bytes(8))


class _Fetch:
    """A transaction that was announced and is not here.

    :ivar digest: of the announcement, which awaits its verdict.
    :ivar others: announcers that were not asked yet.
    :ivar is_asked: whether an answer is awaited.
    """

    __slots__ = ("digest", "is_asked", "others")

    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.others: deque[PeerId] = deque()
        self.is_asked = False


class ErlayMachine(Shell):
    """One node. What it has is never forgotten.

    :param policy: of :class:`~dig_gossip.types.sections.ErlayConfig`.
    """

    def __init__(
        self, policy: str, scenario: Scenario, now: Callable[[], float], rng: Random
    ) -> None:
        super().__init__()
        self.carrier: Plumtree | None = None
        if policy == ERLAY_SAFETY_NET:
            self.carrier = Plumtree(
                scenario.plumtree,
                fanout=scenario.settings.fanout,
                max_seen=100_000,
                now=now,
                rng=rng,
            )
        config = attrs.evolve(scenario.erlay, policy=policy)
        self.engine = Erlay(config, carrier=self.carrier, now=now, rng=rng)
        self._have: dict[bytes, Message] = {}
        self._own: set[bytes] = set()
        self._fetches: dict[bytes, _Fetch] = {}

    # --- links ------------------------------------------------------------------------------

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """Take a link in, with ERLAY at both ends."""
        name = _id(peer)
        effects = self.engine.peer_up(name, PeerMode.TREE, has_erlay=True, is_outbound=dialed)
        if self.carrier is not None:
            effects += self.carrier.peer_up(name, PeerMode.TREE, 0.0)
        return self.done(effects)

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a link; what it was asked for is asked of others when the time is up."""
        name = _id(peer)
        effects = self.engine.peer_down(name)
        if self.carrier is not None:
            effects += self.carrier.peer_down(name)
        return self.asks_lost(name) + self.done(effects)

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Only a tree makes use of it."""
        if self.carrier is None:
            return []
        score = peer_score(0, rtt * 1000)
        return self.done(self.carrier.rtt_updated(_id(peer), rtt, score))

    # --- messages ---------------------------------------------------------------------------

    def publish(self, message: Message) -> list[Effect]:
        """Let the application spread a transaction of its own."""
        self.keep_own(message)
        return self.done(self.engine.broadcast(announcement_of(message)).effects)

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Route a frame as the service's router does."""
        name, kind = _id(peer), message.type
        if kind == ANNOUNCE:
            return self._announced(name, message)
        if kind == _SKETCH:
            return self.done(self.engine.requested(name, message))
        if kind == _RESPONSE:
            return self.answer_came(name, message)
        if kind == _REQUEST:
            found = self._have.get(opened(message).content)
            if found is None:
                return []
            return [Send((peer,), frame(RESPOND, len(found) + ID_BYTES, payload=found))]
        if kind == RESPOND:
            payload = opened(message).payload
            assert payload is not None
            return self._fetched(payload)
        if self.carrier is not None:
            return self.done(self.carrier.control_received(name, message))
        return []

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Route a timer."""
        name = key[0]
        if name == _FETCH:
            fetch = self._fetches.get(key[1])
            if fetch is None:
                return []
            fetch.is_asked = False
            return self._ask(key[1], fetch)
        if name == ASKED:
            return self.ask_expired(key)
        if name in self.engine.names or self.carrier is None:
            return self.done(self.engine.timer_fired(key))
        return self.done(self.carrier.timer_fired(key))

    def answered(self, peer: PeerId, key: TimerKey, answer: Message | None) -> list[Effect]:
        """All requests of engines are ERLAY's."""
        return self.engine.answered(peer, key, answer)

    def other(self, effect: Effect) -> list[Effect]:
        """Fetch what is to be validated, and deliver the transaction, not its announcement."""
        if isinstance(effect, Validate):
            return self._validate(effect)
        if isinstance(effect, Deliver):
            tx_id = effect.message.data[:_TX_ID_BYTES]
            if tx_id not in self._own:
                return [Deliver(node_of(effect.peer), self._have[tx_id])]
        return []

    def tells_of(self, message: Message) -> tuple[bytes, bool] | None:
        """An announcement tells of its transaction."""
        if message.type == ANNOUNCE:
            return message.data[:_TX_ID_BYTES], False
        return None

    # --- for figures ------------------------------------------------------------------------

    def tree_links(self) -> int:
        """Peers that are told at once."""
        if self.carrier is not None:
            return len(self.carrier.snapshot().eager)
        return len(self.engine.snapshot().flooded)

    def counters(self) -> dict[str, float]:
        """What the engines count."""
        found = {**self.engine.snapshot().counters, **self.charged()}
        if self.carrier is not None:
            found |= {f"tree_{k}": n for k, n in self.carrier.snapshot().counters.items()}
        return found

    # --- the application --------------------------------------------------------------------

    def keep_own(self, message: Message) -> None:
        """Have a transaction of our own at hand."""
        tx_id = tx_id_of(message)
        self._have[tx_id] = message
        self._own.add(tx_id)

    def _announced(self, peer: PeerId, message: Message) -> list[Effect]:
        effects = self.done(self.engine.received(peer, message, True))
        tx_id = message.data[:_TX_ID_BYTES]
        fetch = self._fetches.get(tx_id)
        if fetch is not None:
            fetch.others.append(peer)
            if not fetch.is_asked:
                effects += self._ask(tx_id, fetch)
        return effects

    def _validate(self, effect: Validate) -> list[Effect]:
        tx_id = effect.message.data[:_TX_ID_BYTES]
        if tx_id in self._have:
            return self.done(self.engine.validated(effect.message_hash, Verdict.ACCEPT))
        self._fetches[tx_id] = _Fetch(effect.message_hash)
        return []  # who announced it is asked next

    def _ask(self, tx_id: bytes, fetch: _Fetch) -> list[Effect]:
        """Ask the next announcer; if there is none, whoever announces it next."""
        if not fetch.others:
            return []
        fetch.is_asked = True
        peer = node_of(fetch.others.popleft())
        request = frame(_REQUEST, REQUEST_BYTES, tx_id)
        return [Send((peer,), request), SetTimer((_FETCH, tx_id), REQUEST_SECS)]

    def arrived(self, peer: PeerId, payload: Message) -> list[Effect]:
        """Take in a transaction that was not fetched, unless it is here already."""
        tx_id = tx_id_of(payload)
        if tx_id in self._have:
            return []
        if tx_id in self._fetches:
            return self._fetched(payload)
        self._have[tx_id] = payload
        return [Deliver(node_of(peer), payload)]

    def _fetched(self, payload: Message) -> list[Effect]:
        tx_id = tx_id_of(payload)
        fetch = self._fetches.pop(tx_id, None)
        if fetch is None:
            return []
        self._have[tx_id] = payload
        verdict = self.engine.validated(fetch.digest, Verdict.ACCEPT)
        return [ClearTimer((_FETCH, tx_id)), *self.done(verdict)]


def erlay(scenario: Scenario, node: int, now: Callable[[], float], rng: Random) -> ErlayMachine:
    """ERLAY alone."""
    return ErlayMachine(ERLAY_RECONCILE, scenario, now, rng)


def safety_net(
    scenario: Scenario, node: int, now: Callable[[], float], rng: Random
) -> ErlayMachine:
    """Plumtree, and ERLAY for what it loses."""
    return ErlayMachine(ERLAY_SAFETY_NET, scenario, now, rng)


def bomb(salt: bytes, rng: Random) -> Message:
    """A sketch of the largest size that is of no set at all; its id nobody waits for."""
    body = ReconciliationSketch(
        sketch=rng.randbytes(8 * ERLAY_MAX_CAPACITY),
        sketch_capacity=ERLAY_MAX_CAPACITY,
        sketch_offset=0,
        set_size=ERLAY_MAX_CAPACITY // 2,
        salt=salt,
    )
    return Message(body.OPCODE, 1, bytes(body))


def is_round(effect: Effect) -> bool:
    """Whether an effect is a round of ERLAY's that begins or goes on."""
    if not isinstance(effect, Send) or isinstance(effect.message, ModelFrame):
        return False
    return effect.message.type == _SKETCH


def new_salt(rng: Random) -> bytes:
    """Of one link of a bomber's."""
    return rng.randbytes(SALT_BYTES)


def _id(peer: PeerId) -> PeerId:
    return peer_id(peer)
