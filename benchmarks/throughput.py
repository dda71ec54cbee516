"""Messages a second between two processes over mutual TLS on loopback, one peer each.

Unicast is ``send_to`` → ``inbound_receiver``, gossip is ``broadcast`` → hash, seen set, Plumtree →
``inbound_receiver``; both in both directions, because a dialer has to mask what it sends and an
acceptor has not. The counterparts are plain Autobahn and chia-blockchain's server. All are driven
by the same program (``_flow.py``), in turns, with the same window of unacknowledged messages.

For orientation, without a goal: nothing but OpenSSL over TCP in C, which is what the machine can
do. It needs a compiler and OpenSSL's headers, and is left out without them.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict

import attrs
from _children import AUTOBAHN, CHIA, DIG, OPENSSL, Flow, Pair, available, pairs
from common import (
    claim_at_least,
    describe_machine,
    median_ratio,
    number,
    options,
    print_table,
    progress,
)

SIZES = {"100 B": 100, "1 KiB": 1024, "16 KiB": 16_384, "256 KiB": 262_144, "2 MiB": 2_097_152}
GOSSIP_SIZES = ("100 B", "1 KiB")
OVER_CHIA = {"100 B": 15.0, "1 KiB": 12.0, "16 KiB": 4.0, "256 KiB": 4.0, "2 MiB": 2.5}
GOSSIP_OVER_CHIA = 8.0
OVER_AUTOBAHN = 1.0

WINDOW_MESSAGES = 1024
WINDOW_BYTES = 8 * 1024 * 1024


@attrs.frozen
class Workload:
    """One kind of traffic.

    :ivar size: name of the body's size.
    :ivar inward: from the dialer to the acceptor.
    """

    size: str
    inward: bool
    gossip: bool

    @property
    def name(self) -> str:
        """For the table."""
        kind = "gossip" if self.gossip else "unicast"
        way = "dialer → acceptor" if self.inward else "acceptor → dialer"
        return f"{kind} {self.size}, {way}"

    @property
    def window(self) -> int:
        """Messages on their way at most: 1024 or 8 MiB, whichever is less."""
        return max(4, min(WINDOW_MESSAGES, WINDOW_BYTES // SIZES[self.size]))

    def run(self, pair: Pair, count: int) -> Flow:
        """Measure ``count`` messages, rounded up to what the window asks for."""
        every = self.window // 4
        rounded = max(2, -(-count // every)) * every
        return pair.stream(
            rounded, SIZES[self.size], self.window, inward=self.inward, spread=self.gossip
        )

    def measure(self, pair: Pair, seconds: float) -> Flow:
        """Find out how many messages take about ``seconds``, and measure that many."""
        probe = self.run(pair, self.window)
        return self.run(pair, int(probe.rate * seconds))


def workloads(unicast: list[str], gossip: list[str]) -> list[Workload]:
    """Both directions of every size."""
    return [
        Workload(size, inward, is_gossip)
        for is_gossip, sizes in ((False, unicast), (True, gossip))
        for size in sizes
        for inward in (True, False)
    ]


Results = dict[Workload, dict[str, list[Flow]]]


def measure(names: list[str], work: list[Workload], rounds: int, seconds: float) -> Results:
    """Run every workload on every pair, in turns."""
    results: Results = defaultdict(lambda: defaultdict(list))
    with pairs(names) as made:
        for pair in made:
            pair.connect()
        for turn in range(rounds):
            for workload in work:
                progress(f"round {turn + 1} of {rounds}: {workload.name}")
                for pair in made:
                    results[workload][pair.name].append(workload.measure(pair, seconds))
    progress("")
    return results


def rates(flows: list[Flow]) -> list[float]:
    """The rates of the rounds."""
    return [flow.rate for flow in flows]


def report(results: Results, names: list[str]) -> None:
    """Print what was measured."""
    others = names[1:]
    header = ["messages a second", *names, *(f"over {name}" for name in others)]
    print_table(
        header,
        (
            [
                workload.name,
                *(number(statistics.median(rates(flows[name]))) for name in names),
                *(f"{median_ratio(rates(flows[DIG]), rates(flows[name])):.2f}" for name in others),
            ]
            for workload, flows in results.items()
        ),
    )
    print_table(
        ["µs of processor a message, sender + receiver", *names],
        (
            [workload.name]
            + [
                f"{statistics.median(f.sender_cpu for f in flows[name]) * 1e6:.1f}"
                f" + {statistics.median(f.receiver_cpu for f in flows[name]) * 1e6:.1f}"
                for name in names
            ]
            for workload, flows in results.items()
        ),
    )


def conclude(results: Results, names: list[str]) -> None:
    """Print a verdict for each size and counterpart, in the direction that is worse for us."""
    kinds = dict.fromkeys((workload.size, workload.gossip) for workload in results)
    for name in (name for name in names if name in (AUTOBAHN, CHIA)):
        for size, gossip in kinds:
            if gossip and name != CHIA:
                continue  # nothing is promised
            goal = OVER_AUTOBAHN if name == AUTOBAHN else OVER_CHIA[size]
            if gossip:
                goal = GOSSIP_OVER_CHIA
            worst, flows = min(
                (
                    (workload, flows)
                    for workload, flows in results.items()
                    if (workload.size, workload.gossip) == (size, gossip)
                ),
                key=lambda item: median_ratio(rates(item[1][DIG]), rates(item[1][name])),
            )
            claim_at_least(
                f"{worst.name}: messages a second over {name}",
                rates(flows[DIG]),
                rates(flows[name]),
                goal,
            )


def main() -> int:
    """Run the benchmark."""
    parser = options(__doc__, [AUTOBAHN, CHIA, OPENSSL])
    parser.add_argument("--seconds", type=float, help="length of one measurement")
    chosen = parser.parse_args()
    unicast, gossip = list(SIZES), list(GOSSIP_SIZES)
    if chosen.quick:
        unicast, gossip = ["100 B", "256 KiB"], ["100 B"]
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    seconds = chosen.seconds or (0.03 if chosen.quick else 0.4)
    print(describe_machine(), end="\n\n")
    names = [DIG, *available(chosen.counterparts)]
    results = measure(names, workloads(unicast, gossip), rounds, seconds)
    report(results, names)
    conclude(results, names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
