"""Messages a second through a relay's tunnel, against the direct path between the same processes.

Three processes: two nodes, and a relay that both are registered at, with its limits lifted as the
rate limits of the nodes are. The session is an ordinary one, mutual TLS end to end, in the tunnel's
frames, in the relay's WebSocket. The counterpart is the same program with a direct session, in
turns, 16 KiB a message.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from _children import DIG, RELAYED, Flow, Pair, pairs
from common import (
    claim_at_least,
    describe_machine,
    median_ratio,
    number,
    options,
    print_table,
    progress,
)

HERE = Path(__file__).resolve().parent
SIZE = 16_384
WINDOW = 256
GOAL = 0.5


def measure(rounds: int, count: int) -> dict[str, dict[bool, list[Flow]]]:
    """Flows by pair and direction, in turns."""
    flows: dict[str, dict[bool, list[Flow]]] = defaultdict(lambda: defaultdict(list))
    with subprocess.Popen(
        [sys.executable, str(HERE / "_relay.py")], stdout=subprocess.PIPE, text=True
    ) as relay:
        assert relay.stdout is not None
        os.environ["DIG_BENCHMARK_RELAY"] = f"ws://{relay.stdout.readline().strip()}"
        try:
            with pairs([DIG, RELAYED]) as made:
                for pair in made:
                    pair.connect()
                    stream(pair, WINDOW, inward=True)
                for turn in range(rounds):
                    for inward in (True, False):
                        for pair in made:
                            progress(f"round {turn + 1} of {rounds}: {pair.name}")
                            flows[pair.name][inward].append(stream(pair, count, inward=inward))
        finally:
            relay.kill()
    progress("")
    return flows


def stream(pair: Pair, count: int, *, inward: bool) -> Flow:
    """One measurement."""
    return pair.stream(count, SIZE, WINDOW, inward=inward, spread=False)


def main() -> int:
    """Run the benchmark."""
    chosen = options(__doc__).parse_args()
    rounds = chosen.rounds or (1 if chosen.quick else 7)
    print(describe_machine(), end="\n\n")
    flows = measure(rounds, WINDOW if chosen.quick else 8 * WINDOW)
    rows = []
    ratios = {}
    for inward in (True, False):
        direct = [flow.rate for flow in flows[DIG][inward]]
        relayed = [flow.rate for flow in flows[RELAYED][inward]]
        ratios[inward] = median_ratio(relayed, direct)
        way = "dialer → acceptor" if inward else "acceptor → dialer"
        rows.append(
            [way, number(sorted(direct)[rounds // 2]), number(sorted(relayed)[rounds // 2]),
             f"{ratios[inward]:.2f}"]
        )  # fmt: skip
    print_table(["16 KiB messages a second", "direct", "relayed", "relayed / direct"], rows)
    worst = min(ratios, key=lambda inward: ratios[inward])
    claim_at_least(
        "16 KiB messages a second through a relay, over the direct path",
        [flow.rate for flow in flows[RELAYED][worst]],
        [flow.rate for flow in flows[DIG][worst]],
        GOAL,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
