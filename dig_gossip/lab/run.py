"""Run one scenario with one protocol and one seed.

Programs row of the stage table. Source: design D1, §6.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain, islice
from random import Random
from typing import Any, Final, cast

from dig_gossip.constants import PING_INTERVAL_SECS, PING_PAYLOAD_BYTES
from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.adversaries import SPEAKS, Watch, disguised, found_out
from dig_gossip.lab.figures import facts_of
from dig_gossip.lab.laned import BulkLoad, LanedSimulator, lane_facts
from dig_gossip.lab.machine import PAYLOAD, Machine, PlumtreeMachine, as_peer
from dig_gossip.lab.overlay import Edge, Places, Reach, build_edges
from dig_gossip.lab.protocols import KINDS_BY_PROTOCOL
from dig_gossip.lab.recorder import Record, distribution, histogram
from dig_gossip.lab.scenario import Adversary, Phase, Scenario
from dig_gossip.lab.shell import Counting
from dig_gossip.lab.simulator import Simulator
from dig_gossip.lab.values import WARMUP, RunResult, Tree
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

#: Somebody who leaves within this time of a message need not have got it.
PATIENCE_SECS: Final = 10.0
_MISSING_WINDOW_SECS: Final = 30.0  # messages older than this are given up in the series
_STEPS: Final = 200  # reports of progress


def run(
    scenario: Scenario,
    protocol: str,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> RunResult:
    """Simulate, and make figures of what happened.

    The same three arguments give the same result on every machine. Python's cyclic garbage
    collector rests meanwhile: it finds nothing here, and costs a third of the time.

    :param protocol: one of :data:`~dig_gossip.lab.scenario.PROTOCOLS`.
    :param seed: any whole number. Overlay, origins and times depend on it and on the scenario
        alone, so that protocols meet the same network.
    :param progress: called now and then with the share that is done, 0..1.
    :raises KeyError: there is no such protocol.
    :raises InvalidConfig: an adversary of the scenario does not speak it.
    Cost: about 100 µs a delivery with Plumtree, see :doc:`/lab`.
    """
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        experiment = _kind_of_experiment(protocol)(scenario, protocol, seed)
        experiment.play(progress)
        return experiment.result()
    finally:
        if was_collecting:
            gc.enable()


def _kind_of_experiment(protocol: str) -> type[Experiment]:
    """What plays a protocol's scenario."""
    if KINDS_BY_PROTOCOL[protocol].manager is None:
        return Experiment
    from dig_gossip.lab.book_run import BookExperiment

    return BookExperiment


class Experiment:
    """The script of a run: when messages are sent, nodes die, leave and come back.

    Whatever the script draws comes from generators of its own, so that it is the same for every
    protocol.
    """

    def __init__(self, scenario: Scenario, protocol: str, seed: int) -> None:
        self.scenario = scenario
        self.protocol = protocol
        self.seed = seed
        self.kind = KINDS_BY_PROTOCOL[protocol]
        overlay, network = scenario.overlay, scenario.network
        nodes = range(overlay.nodes)
        self.places = Places(overlay, network, self._random("places"))
        self.rng = self._random("script")
        self.ping_rng = self._random("pings")
        self.lives = [0] * overlay.nodes
        self.reach = Reach()
        self.records: list[Record] = []
        self.left: list[tuple[float, int]] = []
        self.dialed: list[dict[int, None]] = [{} for _ in nodes]
        self.series: list[dict[str, float]] = []
        self._sampled = (0, 0)
        self.simulator = self._make_simulator()
        self.bulk = BulkLoad(self.simulator, scenario.bulk, self._random("bulk"))
        self.simulator.on_ping = self._measure
        self.watch = Watch()
        #: node -> what it is instead of honest
        self.adversaries = self._choose_adversaries()
        #: of each node, whether it lives and passes messages on
        self.passes = bytearray(b"\x01" * overlay.nodes)
        for node, adversary in self.adversaries.items():
            if adversary.kind == "black-hole":
                self.passes[node] = 0
            if adversary.kind == "slow-drip":
                self.simulator.delays[node] = adversary.delay_secs
        self.simulator.machines += [self._machine(node) for node in nodes]
        #: nodes in the order in which they are chosen as recurring origins
        self.favorites = [
            node
            for node in self._random("origins").sample(nodes, overlay.nodes)
            if node not in self.adversaries
        ]
        for edge in self._first_edges():
            self._connect(*edge)
        self.end = self._write_script()

    def _make_simulator(self) -> Simulator:
        """What nodes are connected by."""
        network = self.scenario.network
        options: dict[str, Any] = {  # Any: of several types
            "nodes": self.scenario.overlay.nodes,
            "kinds": self.kind.kinds,
            "uplinks": None if self.kind.unlimited else self.places.uplink,
            "loss": network.loss,
            "retransmit": network.retransmit_ms / 1000,
            "rng": self._random("loss"),
        }
        if not self.kind.laned:
            return Simulator(**options)
        if network.loss or any(item.kind == "slow-drip" for item in self.scenario.adversaries):
            raise InvalidConfig(
                f"{self.scenario.name}: {self.protocol} knows neither losses nor slow-drip"
            )
        return LanedSimulator(levels=self.scenario.backpressure, **options)

    def _first_edges(self) -> list[Edge]:
        """The links that there are at the beginning."""
        return build_edges(self.scenario.overlay, self.places, self._random("overlay"))

    def play(self, progress: Callable[[float], None] | None) -> None:
        """Let it all happen."""
        for step in range(1, _STEPS + 1):
            self.simulator.run_until(self.end * step / _STEPS)
            if progress is not None:
                progress(step / _STEPS)

    def result(self) -> RunResult:
        """Make the figures."""
        simulator = self.simulator
        rows = [record.row(self.left, PATIENCE_SECS) for record in self.records]
        traffic = simulator.traffic.counts()
        cdf = {}
        for phase in self.scenario.phases:
            due = sum(row["reachable"] for row in rows if row["phase"] == phase.name)
            cdf[phase.name] = distribution(self._delays(phase.name), due)
        alive = [node for node, lives in enumerate(simulator.alive) if lives]
        facts = facts_of(rows, traffic, self._delays)
        facts["repeated_deliveries"] = float(sum(record.repeated for record in self.records))
        facts["events"] = float(simulator.events)
        facts["links"] = sum(map(len, simulator.links)) / 2
        facts |= self._counters() | self._more_facts()
        if self.adversaries:
            facts["adversary.nodes"] = float(len(self.adversaries))
        if any(adversary.kind == "spy" for adversary in self.adversaries.values()):
            measured = [record for record in self.records if record.phase != WARMUP]
            found = found_out(
                measured,
                self.watch,
                simulator.machines,
                self.scenario.dandelion.fluff_probability,
            )
            facts |= {f"adversary.{name}": value for name, value in found.items()}
        return RunResult(
            scenario=self.scenario.name,
            protocol=self.protocol,
            seed=self.seed,
            messages=rows,
            bytes=traffic,
            cdf=cdf,
            series=self.series,
            tree=Tree(
                degree=histogram(simulator.machines[node].tree_links() for node in alive),
                depth=histogram(self.records[-1].depth.values() if self.records else ()),
            ),
            facts=facts,
        )

    def _counters(self) -> dict[str, float]:
        """The engines' own totals, over the honest nodes, if this protocol is the node's."""
        totals: Counter[str] = Counter()
        for machine in self.simulator.machines:
            if isinstance(machine, PlumtreeMachine):
                totals.update(machine.engine.snapshot().counters)
            elif isinstance(machine, Counting):
                totals.update(machine.counters())
        return {f"engine.{name}": float(count) for name, count in sorted(totals.items())}

    def _more_facts(self) -> dict[str, float]:
        """Facts of uplinks; and of another kind of experiment."""
        facts = self.bulk.facts() if self.bulk.nodes else {}
        if isinstance(self.simulator, LanedSimulator):
            facts |= lane_facts(self.simulator)
        return facts

    def _delays(self, phase: str) -> list[float]:
        """Of all deliveries of the messages of a phase, in rising order."""
        records = [record for record in self.records if record.phase == phase]
        return sorted(chain.from_iterable(record.delays for record in records))

    # --- nodes and links --------------------------------------------------------------------

    def _random(self, purpose: str) -> Random:
        return Random(f"{self.seed} {purpose}")

    def _machine(self, node: int) -> Machine:
        self.lives[node] += 1
        rng = self._random(f"node {node} {self.lives[node]}")
        simulator = self.simulator
        machine = self.kind.build(self.scenario, node, lambda: simulator.now, rng)
        adversary = self.adversaries.get(node)
        if adversary is None:
            return machine
        return disguised(
            adversary.kind, machine, interval=adversary.delay_secs, rng=rng, watch=self.watch
        )

    def _choose_adversaries(self) -> dict[int, Adversary]:
        nodes = self.scenario.overlay.nodes
        order = self._random("adversaries").sample(range(nodes), nodes)
        chosen: dict[int, Adversary] = {}
        for adversary in self.scenario.adversaries:
            spoken = SPEAKS.get(adversary.kind)
            if spoken is not None and self.protocol not in spoken:
                raise InvalidConfig(
                    f"{self.scenario.name}: a {adversary.kind} speaks "
                    f"{' or '.join(sorted(spoken))}, not {self.protocol}"
                )
            for _ in range(round(adversary.share * nodes)):
                chosen[order.pop()] = adversary
        return chosen

    def _connect(self, dialer: int, dialed: int, latency: float) -> None:
        self.reach.forget()
        self.dialed[dialer][dialed] = None
        self.simulator.connect(dialer, dialed, latency)
        if self.scenario.network.pings and self.kind.pings:
            for node, peer in ((dialer, dialed), (dialed, dialer)):
                self._ping_after(
                    PING_INTERVAL_SECS * self.ping_rng.uniform(0.9, 1.1), node, peer, latency
                )

    def _ping_after(self, delay: float, node: int, peer: int, latency: float) -> None:
        simulator = self.simulator
        simulator.at(simulator.now + delay, partial(self._ping, node, peer, latency))

    def _ping(self, node: int, peer: int, latency: float) -> None:
        """A link's round trip is measured; probe and answer do not wait behind other frames."""
        simulator = self.simulator
        if simulator.links[node].get(peer) != latency or not simulator.alive[node]:
            return  # the link is gone; one that was opened anew has pings of its own
        self._measure(node, as_peer(peer))
        self._ping_after(PING_INTERVAL_SECS, node, peer, latency)

    def _measure(self, node: int, peer_id: PeerId) -> None:
        simulator = self.simulator
        peer = cast(int, peer_id)
        latency = simulator.links[node].get(peer)
        if latency is None:
            return
        answers = simulator.alive[peer]
        simulator.count("control", 1 + answers, PING_PAYLOAD_BYTES)
        if answers:
            simulator.at(simulator.now + 2 * latency, partial(self._pong, node, peer, latency))

    def _pong(self, node: int, peer: int, latency: float) -> None:
        simulator = self.simulator
        if simulator.links[node].get(peer) == latency and simulator.alive[node]:
            effects = simulator.machines[node].measured(as_peer(peer), 2 * latency)
            simulator.perform(node, effects)

    def _dial(self, node: int) -> None:
        """Replace a peer that was dialed."""
        simulator, candidates = self.simulator, self.places.open
        if not simulator.alive[node] or len(self.dialed[node]) >= self.scenario.overlay.links:
            return
        for _ in range(20):
            peer = self.rng.choice(candidates)
            if simulator.alive[peer] and peer != node and peer not in simulator.links[node]:
                self._connect(node, peer, self.places.latency(node, peer))
                return

    def _lose(self, node: int) -> None:
        """Let the peers of a node that is gone notice, and replace it."""
        self.reach.forget()
        simulator = self.simulator
        for peer in list(simulator.links[node]):
            simulator.disconnect(node, peer)
            had_dialed = self.dialed[peer].pop(node, "") is None
            self.dialed[node].pop(peer, None)
            if had_dialed and self.scenario.overlay.kind == "dials" and self.places.open:
                delay = self.scenario.churn.redial_secs
                simulator.at(simulator.now + delay, partial(self._dial, peer))

    def _silence(self, nodes: list[int]) -> None:
        self.reach.forget()
        for node in nodes:
            self.passes[node] = 0
            self.simulator.silence(node)
            self.left.append((self.simulator.now, node))

    # --- the script -------------------------------------------------------------------------

    def _write_script(self) -> float:
        """Put everything that the scenario asks for on the calendar.

        :returns: when it is over.
        """
        simulator, time = self.simulator, 0.0
        calm_until = 0.0
        for phase in self.scenario.phases:
            simulator.at(time, partial(self._begin, phase))
            time += phase.lead_secs
            last = phase is self.scenario.phases[-1]
            for number in range(phase.messages):
                is_last = last and number == phase.messages - 1
                simulator.at(time, partial(self._publish, phase, is_last))
                if number < phase.messages - 1:
                    time += self._gap(phase)
            time += phase.quiet_secs
            if phase.name == WARMUP:
                calm_until = time
        if self.scenario.churn.per_minute:
            simulator.at(calm_until, self._churn_later)
        simulator.at(0.0, self._sample)
        if self.scenario.bulk.share:
            simulator.at(0.0, self.bulk.start)
        return time

    def _gap(self, phase: Phase) -> float:
        if phase.arrivals == "burst":
            return 0.0
        return 1 / phase.rate if phase.arrivals == "regular" else self.rng.expovariate(phase.rate)

    def _begin(self, phase: Phase) -> None:
        simulator = self.simulator
        simulator.traffic.enter(phase.name)
        if not phase.kill:
            return
        living = [node for node, lives in enumerate(simulator.alive) if lives]
        doomed = self.rng.sample(living, round(phase.kill * len(living)))
        self._silence(doomed)

        def detect() -> None:
            for node in doomed:
                self._lose(node)

        simulator.at(simulator.now + phase.detect_secs, detect)

    def _publish(self, phase: Phase, is_last: bool) -> None:
        simulator = self.simulator
        alive = simulator.alive
        candidates = (node for node in self.favorites if alive[node])
        origins = list(islice(candidates, phase.origins or None))
        if not origins:
            return
        origin = self.rng.choice(origins)
        number = len(self.records)
        data = number.to_bytes(8, "big").ljust(self.rng.choice(phase.sizes), b"\0")
        record = Record(
            number,
            Message(PAYLOAD, None, data),
            origin,
            simulator.now,
            phase.name,
            self.reach.component(origin, simulator.links, self.passes),
            len(alive),
        )
        if is_last:
            record.depth[origin] = 0
        self.records.append(record)
        simulator.publish(record)

    def _churn_later(self) -> None:
        simulator, churn = self.simulator, self.scenario.churn
        rate = churn.per_minute * self.scenario.overlay.nodes / 60
        simulator.at(simulator.now + self.rng.expovariate(rate), self._churn)

    def _churn(self) -> None:
        """Somebody leaves, and will come back."""
        simulator, churn = self.simulator, self.scenario.churn
        self._churn_later()
        node = self.rng.randrange(len(simulator.alive))
        is_silent = self.rng.random() < churn.silent
        away = self.rng.expovariate(1 / churn.away_secs)
        if not simulator.alive[node]:
            return
        self._silence([node])
        if is_silent:
            simulator.at(simulator.now + min(churn.detect_secs, away), partial(self._lose, node))
        else:
            self._lose(node)
        simulator.at(simulator.now + away, partial(self._return, node))

    def _return(self, node: int) -> None:
        simulator = self.simulator
        self._lose(node)
        simulator.revive(node, self._machine(node))
        adversary = self.adversaries.get(node)
        self.passes[node] = adversary is None or adversary.kind != "black-hole"
        self.reach.forget()
        for _ in range(self.scenario.overlay.links):
            self._dial(node)

    def _sample(self) -> None:
        """Write a point of the series down."""
        simulator = self.simulator
        deliveries, copies = simulator.deliveries, simulator.payload_frames
        delivered = deliveries - self._sampled[0]
        sent = copies - self._sampled[1]
        self._sampled = (deliveries, copies)
        missing = 0
        for record in reversed(self.records):
            if simulator.now - record.sent > _MISSING_WINDOW_SECS:
                break
            missing += max(0, len(record.reach) - 1 - len(record.delays))
        self.series.append(
            {
                "t": round(simulator.now, 6),
                "live": float(sum(simulator.alive)),
                "delivered": float(delivered),
                "redundancy": round(sent / delivered, 6) if delivered else 0.0,
                "missing": float(missing),
            }
        )
        simulator.at(simulator.now + self.scenario.settings.sample_secs, self._sample)
