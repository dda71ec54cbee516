"""ERLAY against flooding: bytes of announcing transactions, in memory.

130 nodes over links of 10 to 100 ms, each with about as many connections as a row says, half of
them dialed; transactions of random origins, 20 a second. Every byte of every frame counts, sketches
and answers included; what WebSocket, TLS and TCP add to a frame is not simulated. The engines warm
up, then they are measured; in the end every node must have been given every transaction once.
Nothing is timed, so the figures depend on the seeds alone.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Sequence

import attrs
from common import ROOT, claim, claim_at_most, number, options, print_table, progress

sys.path.insert(0, str(ROOT))

from dig_gossip.constants import ERLAY_RECONCILE, ERLAY_SAFETY_NET
from dig_gossip.testing.erlay_network import ErlayNetwork, FloodingRelay, announcement
from dig_gossip.types.sections import ErlayConfig

FLOOD = "flooding"
_DEGREES = (8, 16, 32, 50, 64, 125)
_CLAIMED_DEGREE = 50
_RATE = 20.0
_RATES = (1.0, 5.0, 100.0)
_SHARE_OF_FLOOD = 0.2
_GROWTH = 1.35
_DECODED = 0.995


@attrs.frozen
class Run:
    """What was measured on one network.

    :ivar bytes: per transaction and node, and ``control`` those that were no announcements.
    :ivar copies: announcements per transaction and node.
    :ivar delays: seconds from the origin to each delivery.
    :ivar rounds: what the engines have counted of their rounds.
    """

    bytes: float
    control: float
    copies: float
    delays: list[float]
    rounds: Counter[str]

    @property
    def decoded(self) -> float:
        """The share of sketches that could be decoded, at once or after an extension."""
        decoded, failed = self.rounds["rounds_decoded"], self.rounds["rounds_failed"]
        return decoded / max(1, decoded + failed)

    @property
    def extended(self) -> float:
        """The share of rounds that needed an extension."""
        return self.rounds["rounds_extended"] / max(1, self.rounds["rounds_decoded"])


def run(
    seed: int, policy: str, nodes: int, degree: int, rate: float, warm: float, window: float
) -> Run:
    """Simulate one network, and check that every node got every transaction once."""
    if policy == FLOOD:
        network = ErlayNetwork(seed=seed, make_engine=lambda _: FloodingRelay())
        warm, window = 0.0, min(window, 2.0)  # every transaction costs the same
    else:
        network = ErlayNetwork(seed=seed, config=ErlayConfig(policy=policy))
    names = network.random_overlay(nodes, degree)
    sent = []

    def spread(seconds: float) -> int:
        count = max(1, round(rate * seconds)) if seconds else 0
        for _ in range(count):
            sent.append(announcement(len(sent)))
            network.broadcast(network.rng.choice(names), sent[-1])
            network.run_for(1 / rate)
        return count

    spread(warm)
    before = network.traffic
    counted = spread(window)
    if policy == FLOOD:
        network.run_for(1.0)
    traffic = network.traffic.since(before)
    network.run_for(30.0)
    for message in sent:
        copies = network.copies(message)
        if set(copies.values()) != {1} or len(copies) < nodes - 1:
            raise RuntimeError(f"seed {seed}: a node missed a transaction, or got it twice")
    share = counted * nodes
    return Run(
        bytes=traffic.total_bytes / share,
        control=traffic.control_bytes / share,
        copies=traffic.announcements / share,
        delays=[delay for message in sent for delay in network.delays(message).values()],
        rounds=network.counters(),
    )


def describe(name: str, runs: Sequence[Run], floods: Sequence[Run]) -> list[str]:
    """A row: the medians of what the networks of one kind have in common."""
    delays = statistics.quantiles([delay for each in runs for delay in each.delays], n=100)
    ratio = statistics.median(a.bytes / b.bytes for a, b in zip(runs, floods, strict=True))
    has_rounds = any(each.rounds["rounds_decoded"] for each in runs)
    return [
        name,
        number(statistics.median(each.bytes for each in runs)),
        number(statistics.median(each.control for each in runs)),
        f"{statistics.median(each.copies for each in runs):.2f}",
        f"{ratio:.3f}",
        f"{delays[49]:.2f}",
        f"{delays[98]:.2f}",
        f"{100 * statistics.median(1 - each.decoded for each in runs):.2f}" if has_rounds else "-",
        f"{100 * statistics.median(each.extended for each in runs):.1f}" if has_rounds else "-",
    ]


def main() -> None:
    """Run every kind of network, and compare."""
    arguments = options(__doc__).parse_args()
    quick = arguments.quick
    seeds = range(1, (arguments.rounds or (1 if quick else 3)) + 1)
    degrees = (8, 14) if quick else _DEGREES
    claimed = degrees[-1] if quick else _CLAIMED_DEGREE
    nodes, warm, window = (16, 3.0, 3.0) if quick else (130, 8.0, 8.0)
    kinds = [(policy, degree, _RATE) for degree in degrees for policy in (FLOOD, ERLAY_RECONCILE)]
    if not quick:
        kinds += [(ERLAY_SAFETY_NET, degree, _RATE) for degree in (8, claimed)]
        kinds += [(ERLAY_RECONCILE, claimed, rate) for rate in _RATES]
    results: dict[tuple[str, int, float], list[Run]] = {}
    for policy, degree, rate in kinds:
        for seed in seeds:
            progress(f"{policy}, {degree} connections, {rate:g} a second, overlay {seed}")
            # Few transactions take longer to count, many are counted soon.
            seconds = max(window * min(1.0, _RATE / rate), 8 / rate)
            done = run(seed, policy, nodes, degree, rate, warm, seconds)
            results.setdefault((policy, degree, rate), []).append(done)
    progress("")
    print(f"{nodes} nodes, {len(seeds)} overlays\n")
    header = ["bytes a transaction and node", "all", "control", "copies", "of flooding"]
    header += ["p50 s", "p99 s", "failed %", "extended %"]
    print_table(
        header,
        [
            describe(f"{degree}, {policy}, {rate:g}/s", runs, results[FLOOD, degree, _RATE])
            for (policy, degree, rate), runs in results.items()
        ],
    )
    ours = [each.bytes for each in results[ERLAY_RECONCILE, claimed, _RATE]]
    theirs = [each.bytes for each in results[FLOOD, claimed, _RATE]]
    claim_at_most(
        f"announcement bytes a transaction and node at {claimed} connections over flooding",
        ours,
        theirs,
        _SHARE_OF_FLOOD,
    )
    fewest = [each.bytes for each in results[ERLAY_RECONCILE, degrees[0], _RATE]]
    most = [each.bytes for each in results[ERLAY_RECONCILE, degrees[-1], _RATE]]
    claim_at_most(
        f"the same at {degrees[-1]} connections over {degrees[0]} connections",
        most,
        fewest,
        _GROWTH,
    )
    kinds_of_rounds = {
        (policy, degree, rate): _rounds(runs)
        for (policy, degree, rate), runs in results.items()
        if policy != FLOOD
    }
    usual = [tried for (*_, rate), tried in kinds_of_rounds.items() if rate == _RATE]
    everything = [sum(column) for column in zip(*kinds_of_rounds.values(), strict=True)]
    for name, (decoded, tried) in (
        ("of all that had to be", everything),
        (f"in the worst row of {_RATE:g} a second", min(usual, key=lambda row: row[0] / row[1])),
    ):
        claim(
            f"sketches that could be decoded, {name}",
            decoded,
            tried,
            decoded / tried,
            f">= {_DECODED:g}",
            holds=decoded / tried >= _DECODED,
        )


def _rounds(runs: Sequence[Run]) -> tuple[int, int]:
    """How many sketches were decoded, and of how many."""
    decoded = sum(each.rounds["rounds_decoded"] for each in runs)
    return decoded, decoded + sum(each.rounds["rounds_failed"] for each in runs)


if __name__ == "__main__":
    main()
