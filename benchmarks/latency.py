"""Round trips of a 100-byte message on a link that carries nothing else.

One process sends, the other sends back what it got, and the next message leaves when the last is
back: ``send_to`` → ``inbound_receiver`` → ``send_to`` → ``inbound_receiver``. The counterparts are
plain Autobahn and chia-blockchain's server, all with TCP_NODELAY.
"""

from __future__ import annotations

import statistics
import sys

from _children import AUTOBAHN, CHIA, DIG, pairs
from common import (
    claim_at_most,
    describe_machine,
    median_ratio,
    options,
    print_table,
    progress,
)

SIZE = 100
WARM_UP = 100
P50_OVER_CHIA = 0.6
P99_OVER_AUTOBAHN = 1.0

Percentiles = dict[str, list[float]]


def measure(names: list[str], rounds: int, count: int) -> tuple[Percentiles, Percentiles]:
    """Measure in turns; the p50 and the p99 of each round, in microseconds."""
    p50: Percentiles = {name: [] for name in names}
    p99: Percentiles = {name: [] for name in names}
    with pairs(names) as made:
        for pair in made:
            pair.connect()
            pair.acceptor.ask("echo")
        for turn in range(-1, rounds):
            progress(f"round {max(turn, 0) + 1} of {rounds}")
            for pair in made:
                trips = WARM_UP if turn < 0 else count
                times = pair.dialer.ask("ping", count=trips, size=SIZE)["seconds"]
                if turn >= 0:
                    cuts = statistics.quantiles(times, n=100, method="inclusive")
                    p50[pair.name].append(cuts[49] * 1e6)
                    p99[pair.name].append(cuts[98] * 1e6)
    progress("")
    return p50, p99


def main() -> int:
    """Run the benchmark."""
    chosen = options(__doc__, [AUTOBAHN, CHIA]).parse_args()
    rounds = chosen.rounds or (1 if chosen.quick else 9)
    names = [DIG, *chosen.counterparts]
    print(describe_machine(), end="\n\n")
    p50, p99 = measure(names, rounds, 200 if chosen.quick else 1500)
    print_table(
        ["round trip, µs", "p50", "p99", "p50 of ours over it", "p99 of ours over it"],
        (
            [
                name,
                f"{statistics.median(p50[name]):.0f}",
                f"{statistics.median(p99[name]):.0f}",
                f"{median_ratio(p50[DIG], p50[name]):.2f}",
                f"{median_ratio(p99[DIG], p99[name]):.2f}",
            ]
            for name in names
        ),
    )
    if CHIA in names:
        claim_at_most(
            "p50 round trip of 100 B in µs, over chia", p50[DIG], p50[CHIA], P50_OVER_CHIA
        )
    if AUTOBAHN in names:
        claim_at_most(
            "p99 round trip of 100 B in µs, over autobahn",
            p99[DIG],
            p99[AUTOBAHN],
            P99_OVER_AUTOBAHN,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
