"""Runs about address books: who answers when a node dials, and what comes of an eclipse attack.

Programs row of the stage table. There are no links at the beginning: nodes find each other, from
what an introducer names and from what peers tell. A node that leaves keeps its book and its
anchors, and begins with them when it comes back. The attacker's nodes wait for the end of the
warm-up.
"""

from __future__ import annotations

from functools import cached_property, partial
from random import Random
from typing import Final, TypeAlias

from dig_gossip.effects import Effect
from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.address_plan import AddressPlan
from dig_gossip.lab.books import BookMachine, Call, EclipseMachine, Saved
from dig_gossip.lab.machine import Machine, as_peer
from dig_gossip.lab.overlay import Edge
from dig_gossip.lab.run import Experiment
from dig_gossip.lab.scenario import Adversary, Phase
from dig_gossip.lab.values import WARMUP
from dig_gossip.types.peer import PeerAddress

#: TCP, TLS, WebSocket and handshake take a round trip each.
_DIAL_TRIPS: Final = 8
_TIMEOUT_SECS: Final = 10.0  # for an address at which nobody is

_Node: TypeAlias = BookMachine | EclipseMachine


class BookExperiment(Experiment):
    """A network that finds itself.

    :ivar attacks: whether the attacker has begun.
    """

    attacks = False

    def _choose_adversaries(self) -> dict[int, Adversary]:
        name = self.scenario.name
        if any(phase.messages for phase in self.scenario.phases):
            raise InvalidConfig(f"{name}: {self.protocol} spreads no messages; there must be none")
        if any(adversary.kind != "eclipse" for adversary in self.scenario.adversaries):
            raise InvalidConfig(f"{name}: with {self.protocol} there is only the adversary eclipse")
        return super()._choose_adversaries()

    @cached_property
    def plan(self) -> AddressPlan:
        """Who is where."""
        nodes = self.scenario.overlay.nodes
        return AddressPlan(
            self.scenario.addresses, nodes, self.adversaries, self._random("addresses")
        )

    @cached_property
    def saved(self) -> dict[int, Saved]:
        """Of each node that has left, what it will come back with."""
        return {}

    def _node(self, node: int) -> _Node:
        machine = self.simulator.machines[node]
        assert isinstance(machine, BookMachine | EclipseMachine)
        return machine

    # --- nodes ------------------------------------------------------------------------------

    def _machine(self, node: int) -> Machine:
        self.lives[node] += 1
        self.simulator.on_other = self._wanted
        rng = self._random(f"node {node} {self.lives[node]}")
        simulator, plan, options = self.simulator, self.plan, self.scenario.addresses

        def now() -> float:
            return simulator.now

        if node in self.adversaries:
            victims = [address for address in plan.of if address not in plan.hostile]
            return EclipseMachine(
                kind=sorted(plan.hostile, key=str),
                victims=victims,
                dials=options.attacker_dials,
                now=now,
                rng=rng,
            )
        assert self.kind.manager is not None
        return BookMachine(
            self.scenario,
            self.kind.manager,
            own=plan.of[node],
            ask=partial(self._named, rng),
            saved=self.saved.pop(node, None),
            now=now,
            rng=rng,
        )

    def _named(self, rng: Random) -> list[PeerAddress]:
        """What an introducer says; the attacker's nodes register once the attack begins."""
        simulator = self.simulator
        there = [
            self.plan.of[node]
            for node in self.places.open
            if simulator.alive[node] and (self.attacks or node not in self.adversaries)
        ]
        return rng.sample(there, min(len(there), self.scenario.addresses.known))

    def _first_edges(self) -> list[Edge]:
        for node in range(self.scenario.overlay.nodes):
            if node not in self.adversaries:
                self.simulator.perform(node, self._node(node).start())
        return []

    def _begin(self, phase: Phase) -> None:
        super()._begin(phase)
        if phase.name != WARMUP and not self.attacks:
            self.attacks = True
            for node in self.adversaries:
                self.simulator.perform(node, self._node(node).start())

    def _silence(self, nodes: list[int]) -> None:
        for node in nodes:
            machine = self._node(node)
            if isinstance(machine, BookMachine):
                self.saved[node] = machine.save()
        super()._silence(nodes)

    def _return(self, node: int) -> None:
        super()._return(node)
        if node not in self.adversaries or self.attacks:
            self.simulator.perform(node, self._node(node).start())

    def _dial(self, node: int) -> None:
        """Nodes dial by themselves."""

    # --- calls ------------------------------------------------------------------------------

    def _wanted(self, node: int, effect: Effect) -> None:
        """Somebody is to be dialed."""
        call: object = effect
        if not isinstance(call, Call):
            return
        simulator = self.simulator
        other = self.plan.owner.get(call.address)
        there = other is not None and self._answers(other)
        if there:
            assert other is not None
            delay = _DIAL_TRIPS * (latency := self.places.latency(node, other))
        else:
            delay, latency = _TIMEOUT_SECS, 0.0
        life = self.lives[node]
        simulator.at(simulator.now + delay, partial(self._called, node, life, call, other, latency))

    def _answers(self, node: int) -> bool:
        is_there = node not in self.adversaries or self.attacks
        return is_there and bool(self.simulator.alive[node]) and not self.places.is_hidden[node]

    def _called(self, node: int, life: int, call: Call, other: int | None, latency: float) -> None:
        """A call has come to its end."""
        simulator = self.simulator
        if not simulator.alive[node] or self.lives[node] != life:
            return
        machine = self._node(node)
        was_there = bool(latency) and other is not None and self._answers(other)
        is_ours = other == node or (other is not None and other in simulator.links[node])
        if not was_there or is_ours or call.is_probe or other is None:
            effects = machine.called(call, was_there=was_there, is_ours=is_ours)
            simulator.perform(node, effects)
            return
        room = self._node(other).make_room(self.plan.of[node])
        if room is False:
            simulator.perform(node, machine.called(call, was_there=False))
            return
        if room is not True:
            simulator.disconnect(other, int(room))
        machine.expect(as_peer(other), call.address)
        self._node(other).expect(as_peer(node), self.plan.of[node])
        self._connect(node, other, latency)

    # --- figures ----------------------------------------------------------------------------

    def _honest(self) -> list[BookMachine]:
        alive = self.simulator.alive
        return [
            machine
            for node, machine in enumerate(self.simulator.machines)
            if isinstance(machine, BookMachine) and alive[node]
        ]

    def _shares(self) -> dict[str, float]:
        """What the attacker has of the nodes that are there."""
        hostile = self.plan.hostile
        sessions = captured = eclipsed = with_any = 0
        for machine in self._honest():
            outbound = machine.outbound()
            bad = sum(address in hostile for address in outbound)
            sessions += len(outbound)
            captured += bad
            with_any += bool(outbound)
            eclipsed += bool(outbound) and bad == len(outbound)
        return {
            "captured": captured / sessions if sessions else 0.0,
            "eclipsed": eclipsed / with_any if with_any else 0.0,
            "outbound": sessions / max(1, len(self._honest())),
        }

    def _sample(self) -> None:
        super()._sample()
        self.series[-1] |= {name: round(value, 6) for name, value in self._shares().items()}

    def _more_facts(self) -> dict[str, float]:
        hostile = self.plan.hostile
        counts = {False: [0, 0], True: [0, 0]}
        for machine in self._honest():
            for info in machine.book.snapshot().entries:
                counts[info.is_tried][0] += 1
                counts[info.is_tried][1] += info.address in hostile
        shares = self._shares()
        facts = {
            "books.outbound": shares["outbound"],
            "books.outbound_captured": shares["captured"],
            "books.nodes_captured": shares["eclipsed"],
            "books.most_nodes_captured": max(row["eclipsed"] for row in self.series),
            "books.entries": (counts[False][0] + counts[True][0]) / max(1, len(self._honest())),
        }
        for is_tried, name in ((True, "tried"), (False, "new")):
            total, bad = counts[is_tried]
            facts[f"books.{name}_captured"] = bad / total if total else 0.0
        return {name: round(value, 6) for name, value in facts.items()}
