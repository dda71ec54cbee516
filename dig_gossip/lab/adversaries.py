"""Nodes that do not what they should: machines around machines.

Programs row of the stage table. An adversary runs the protocol like everybody else, and something
besides or instead. None of them is an origin. What they send is counted like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

from dig_gossip.constants import PLUMTREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.effects import Deliver, Effect, Send, SetTimer, TimerKey
from dig_gossip.lab import observers
from dig_gossip.lab.machine import PAYLOAD, Machine
from dig_gossip.lab.observers import Sighting
from dig_gossip.lab.recorder import Record
from dig_gossip.lab.scenario import BOOKS
from dig_gossip.lab.shell import Telling
from dig_gossip.lab.stems import DandelionMachine
from dig_gossip.lab.transactions import bomb, is_round, new_salt, tx_id_of
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import PlumtreeLazyAnnounce, PlumtreePrune
from dig_gossip.wire.message import Message

#: Adversaries that speak frames of one engine, and therefore need nodes that do.
SPEAKS: Final[Mapping[str, frozenset[str]]] = {
    "prune-storm": frozenset({"plumtree", "plumtree-lanes"}),
    "liar": frozenset({"plumtree", "plumtree-lanes"}),
    "sketch-bomb": frozenset({"erlay", "erlay-safety-net", "dandelion", "dandelion-safety-net"}),
    "eclipse": BOOKS,
}
_ACT: Final[TimerKey] = ("adversary", b"")


class Around:
    """A machine that does what the one inside it does."""

    def __init__(self, inner: Machine) -> None:
        self.inner = inner

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A link begins."""
        return self.inner.peer_up(peer, dialed=dialed, rtt=rtt)

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A link ends."""
        return self.inner.peer_down(peer)

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """A ping came back."""
        return self.inner.measured(peer, rtt)

    def publish(self, message: Message) -> list[Effect]:
        """The application spreads a message."""
        return self.inner.publish(message)

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """A frame arrives."""
        return self.inner.received(peer, message)

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """A timer is due."""
        return self.inner.timer_fired(key)

    def tree_links(self) -> int:
        """As the machine inside."""
        return self.inner.tree_links()


class Watch:
    """What all spies together have seen: of each message, who sent it to one of them first.

    Spies share one clock and all that they know. Of a transaction, what counts is the first frame
    that tells of it; a stem says more than any announcement.
    """

    def __init__(self) -> None:
        self._sightings: dict[int | bytes, Sighting] = {}

    def saw(self, key: int | bytes, sender: PeerId, *, on_stem: bool = False) -> None:
        """Note who sent it, if nobody did so before.

        :param key: the ``id()`` of a message's data, or a transaction's id.
        """
        sighting = self._sightings.setdefault(key, Sighting())
        node = int(sender)
        if on_stem and sighting.stem is None:
            sighting.stem = node
        elif not on_stem and sighting.announcer is None:
            sighting.announcer = node

    def of(self, message: Message) -> Sighting:
        """What was seen of a message."""
        found = self._sightings.get(id(message.data)) or self._sightings.get(tx_id_of(message))
        return found or Sighting()


class Spy(Around):
    """Takes part, and remembers who sent it what first."""

    def __init__(self, inner: Machine, watch: Watch) -> None:
        super().__init__(inner)
        self._watch = watch
        self._telling = inner if isinstance(inner, Telling) else None

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Look at what arrives, and behave."""
        effects = self.inner.received(peer, message)
        if self._telling is not None:
            told = self._telling.tells_of(message)
            if told is not None:
                self._watch.saw(told[0], peer, on_stem=told[1])
            return effects
        for effect in effects:
            if isinstance(effect, Deliver):
                self._watch.saw(id(effect.message.data), effect.peer)
        return effects


def found_out(
    records: Sequence[Record], watch: Watch, machines: Sequence[Machine], fluff: float
) -> dict[str, float]:
    """What spies make of what they saw; see :mod:`~dig_gossip.lab.observers`.

    :param records: messages whose origins they guess.
    :param machines: of all nodes.
    :param fluff: probability that a relay ends a stem, 0..1.
    :returns: ``guessed_share``, which is the recall of the first spy, its precision, and those of
        the graph observer if there are stems.
    """
    sightings = {record.number: watch.of(record.message) for record in records}
    origins = {record.number: record.origin for record in records}
    guesses = {number: observers.first_spy(seen) for number, seen in sightings.items()}
    facts = {
        "guessed_share": observers.recall(origins, guesses),
        "first_spy_precision": observers.precision(origins, guesses),
    }
    stems = {
        node: machine
        for node, machine in enumerate(machines)
        if isinstance(machine, DandelionMachine)
    }
    if stems:
        graph = observers.StemGraph(
            {node: machine.relays() for node, machine in stems.items()},
            fluff,
        )
        seen_right = [
            tx_id_of(record.message) in stems[announcer].fluffed
            for record in records
            if (announcer := sightings[record.number].announcer) in stems
        ]
        accuracy = sum(seen_right) / len(seen_right) if seen_right else 0.0
        best = {n: graph.guess(graph.likely(seen, accuracy)) for n, seen in sightings.items()}
        facts["announcer_seen_share"] = accuracy
        facts["graph_recall"] = observers.recall(origins, best)
        facts["graph_precision"] = observers.precision(origins, best)
    return {name: round(value, 6) for name, value in facts.items()}


class BlackHole(Around):
    """Takes everything in and sends nothing, not even a PRUNE."""

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A link begins."""
        return _silenced(super().peer_up(peer, dialed=dialed, rtt=rtt))

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A link ends."""
        return _silenced(super().peer_down(peer))

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """A ping came back."""
        return _silenced(super().measured(peer, rtt))

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """A frame arrives."""
        return _silenced(super().received(peer, message))

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """A timer is due."""
        return _silenced(super().timer_fired(key))


class _Noisy(Around):
    """Sends something to every peer, again and again."""

    def __init__(self, inner: Machine, interval: float, rng: Random) -> None:
        super().__init__(inner)
        self._interval = interval
        self._rng = rng
        self._peers: dict[PeerId, None] = {}

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A link begins; the first one begins the noise."""
        effects = super().peer_up(peer, dialed=dialed, rtt=rtt)
        if not self._peers:
            effects = [*effects, SetTimer(_ACT, self._interval * self._rng.random())]
        self._peers[peer] = None
        return effects

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A link ends."""
        self._peers.pop(peer, None)
        return super().peer_down(peer)

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Make noise, when it is time for that."""
        if key != _ACT:
            return super().timer_fired(key)
        return [Send(tuple(self._peers), self._noise()), SetTimer(_ACT, self._interval)]

    def _noise(self) -> Message:
        raise NotImplementedError


class PruneStorm(_Noisy):
    """Prunes every peer all the time."""

    def _noise(self) -> Message:
        return Message(PlumtreePrune.OPCODE, None, bytes(PlumtreePrune()))


class Liar(_Noisy):
    """Announces messages that do not exist, as many as fit into a frame."""

    def _noise(self) -> Message:
        entries = tuple(
            (self._rng.randbytes(32), PAYLOAD) for _ in range(PLUMTREE_MAX_ANNOUNCE_ENTRIES)
        )
        body = PlumtreeLazyAnnounce(entries)
        return Message(body.OPCODE, None, bytes(body))


class SketchBomb(Around):
    """Begins rounds of ERLAY with sketches of no set, on every link that it dialed.

    Each costs the other end the most that a sketch can cost, if it is decoded. Rounds of its own
    it holds none: two salts on one link would be charged.
    """

    def __init__(self, inner: Machine, interval: float, rng: Random) -> None:
        super().__init__(inner)
        self._interval = interval
        self._rng = rng
        self._salts: dict[PeerId, bytes] = {}

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A link begins; the first one that was dialed begins the bombing."""
        effects = super().peer_up(peer, dialed=dialed, rtt=rtt)
        if dialed:
            if not self._salts:
                effects.append(SetTimer(_ACT, self._interval * self._rng.random()))
            self._salts[peer] = new_salt(self._rng)
        return effects

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A link ends."""
        self._salts.pop(peer, None)
        return super().peer_down(peer)

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Bomb everybody, when it is time for that."""
        if key != _ACT:
            return [effect for effect in super().timer_fired(key) if not is_round(effect)]
        if not self._salts:
            return []  # the next link begins anew
        bombs = [Send((peer,), bomb(salt, self._rng)) for peer, salt in self._salts.items()]
        return [*bombs, SetTimer(_ACT, self._interval)]


def disguised(kind: str, inner: Machine, *, interval: float, rng: Random, watch: Watch) -> Machine:
    """Make an adversary of a machine.

    :param kind: one of :data:`~dig_gossip.lab.scenario.ADVERSARIES`; ``slow-drip`` is nothing but
        late, which is the simulator's business, and ``eclipse`` is a machine of its own.
    :param interval: seconds between two actions of the noisy ones.
    """
    makers: dict[str, Callable[[], Machine]] = {
        "spy": lambda: Spy(inner, watch),
        "black-hole": lambda: BlackHole(inner),
        "prune-storm": lambda: PruneStorm(inner, interval, rng),
        "liar": lambda: Liar(inner, interval, rng),
        "slow-drip": lambda: inner,
        "sketch-bomb": lambda: SketchBomb(inner, interval, rng),
        "eclipse": lambda: inner,
    }
    return makers[kind]()


def _silenced(effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if not isinstance(effect, Send | Deliver)]
