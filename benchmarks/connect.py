"""Complete dials a second: TCP, mutual TLS, WebSocket, handshake, admission, both ends.

One process dials another, hangs up, waits until the connection is gone, and dials again; only the
dials are timed. Nothing overlaps, so a dial takes as long as the work of both ends together. The
counterpart is chia-blockchain's server. Plain Autobahn, which has no handshake of its own and no
admission, is shown for orientation.
"""

from __future__ import annotations

import statistics
import sys

from _children import AUTOBAHN, CHIA, DIG, pairs
from common import (
    claim_at_least,
    describe_machine,
    median_ratio,
    number,
    options,
    print_table,
    progress,
)

WARM_UP = 3
OVER_CHIA = 1.4


def main() -> int:
    """Run the benchmark."""
    chosen = options(__doc__, [AUTOBAHN, CHIA]).parse_args()
    rounds = chosen.rounds or (1 if chosen.quick else 9)
    count = 10 if chosen.quick else 60
    names = [DIG, *chosen.counterparts]
    rates: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    print(describe_machine(), end="\n\n")
    with pairs(names) as made:
        for turn in range(-1, rounds):
            progress(f"round {max(turn, 0) + 1} of {rounds}")
            for pair in made:
                dials = WARM_UP if turn < 0 else count
                ends = (pair.acceptor, pair.dialer)
                before = sum(end.ask("cpu")["cpu"] for end in ends)
                port = pair.acceptor.hello["port"]
                times = pair.dialer.ask("dials", port=port, count=dials)["seconds"]
                after = sum(end.ask("cpu")["cpu"] for end in ends)
                if turn >= 0:
                    rates[pair.name].append(dials / sum(times))
                    cpu[pair.name].append((after - before) / dials * 1e3)
    progress("")
    print_table(
        ["dials", "a second", "ms of processor, dial and close, both ends", "ours over it"],
        (
            [
                name,
                number(statistics.median(rates[name])),
                f"{statistics.median(cpu[name]):.1f}",
                f"{median_ratio(rates[DIG], rates[name]):.2f}",
            ]
            for name in names
        ),
    )
    if CHIA in names:
        claim_at_least("dials a second over chia", rates[DIG], rates[CHIA], OVER_CHIA)
    return 0


if __name__ == "__main__":
    sys.exit(main())
