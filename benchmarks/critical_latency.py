"""How long a new peak takes while answers of 2 MiB saturate a link of 20 Mbit/s.

Two processes, mutual TLS, and between them a proxy that lets 20 Mbit/s pass and buffers 32 KiB
(``_bottleneck.py``). One end keeps four ``RequestBlocks`` unanswered, the other answers each with
2 MiB and now and then broadcasts a ``NewPeak`` with the time in it. What is added is the difference
to the same link without the answers, percentile by percentile. The counterparts: the same node with
one queue for everything, chia-blockchain's connection and plain Autobahn, which have one too.

A second measurement keeps the link busy with urgent messages as well, and counts the pieces of the
answers that get through among them.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import attrs
from _bottleneck import bottleneck
from _children import AUTOBAHN, CHIA, DIG, FIFO, Pair, pairs
from common import claim, describe_machine, options, print_table, progress

RATE = 20_000_000  # bits a second
SMOKE_RATE = 200_000_000
BUFFER = 32_768
BULK_BYTES = 2 * 1024 * 1024
OUTSTANDING = 4
GAP_SECS = 0.05
ADDED_MS = 50.0

#: In the second measurement: bytes of an answer, and of what competes with it.
SMALLER_BYTES, FILLING_BYTES = 256 * 1024, 1024
WINDOW = 512
SHARE = 1 / 16
#: The sixteen at either end of the measurement are not all counted.
NEARLY = 0.99


@attrs.frozen
class Peaks:
    """How old the peaks of one phase were on arrival, in ms."""

    p50: float
    p99: float
    asked: int = 0
    answered: int = 0

    @classmethod
    def of(cls, report: dict[str, Any], sent: int, name: str) -> Peaks:
        """Read what the receiving end says.

        :raises RuntimeError: a peak was lost, or came twice.
        """
        ages = report["seconds"]
        if len(ages) != sent:
            raise RuntimeError(f"{name}: {sent} peaks were sent, {len(ages)} came")
        cuts = statistics.quantiles(ages, n=100, method="inclusive")
        return cls(cuts[49] * 1e3, cuts[98] * 1e3, report["asked"], report["answered"])


def peaks(pair: Pair, outstanding: int, count: int) -> Peaks:
    """Send peaks, among answers or alone."""
    pair.acceptor.ask("serve", size=BULK_BYTES)
    pair.dialer.ask("demand", outstanding=outstanding, every=WINDOW // 4)
    pair.acceptor.ask("urgent", count=count, gap=GAP_SECS)
    return Peaks.of(pair.dialer.ask("enough", urgent=count), count, pair.name)


def share(pair: Pair, count: int) -> float:
    """Pieces of answers for each message that competes with them."""
    pair.acceptor.ask("serve", size=SMALLER_BYTES)
    pair.dialer.ask("demand", outstanding=OUTSTANDING * 2, every=WINDOW // 4)
    frames: int = pair.acceptor.ask("fill", count=count, size=FILLING_BYTES, window=WINDOW)[
        "frames"
    ]
    pair.dialer.ask("enough", urgent=0)
    return (frames - count) / count


def measure(
    name: str, rate: float, outstanding: int, count: int, filling: int
) -> tuple[Peaks, Peaks, float | None]:
    """One pair: without answers, with them, and the share of the answers."""
    with pairs([name]) as (pair,), bottleneck(pair.acceptor.hello["port"], rate, BUFFER) as port:
        pair.connect(port)
        idle = peaks(pair, 0, count)
        busy = peaks(pair, outstanding, count)
        return idle, busy, share(pair, filling) if name == DIG else None


def main() -> int:
    """Run the benchmark."""
    chosen = options(__doc__, [FIFO, AUTOBAHN, CHIA]).parse_args()
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    outstanding, count, filling = (1, 10, 1024) if chosen.quick else (OUTSTANDING, 200, 4096)
    rate = SMOKE_RATE if chosen.quick else RATE
    names = [DIG, *chosen.counterparts]
    idle: dict[str, list[Peaks]] = {name: [] for name in names}
    busy: dict[str, list[Peaks]] = {name: [] for name in names}
    shares = []
    print(describe_machine(), end="\n\n")
    for turn in range(rounds):
        for name in names:
            progress(f"round {turn + 1} of {rounds}: {name}")
            one, other, bulk = measure(name, rate, outstanding, count, filling)
            idle[name].append(one)
            busy[name].append(other)
            if bulk is not None:
                shares.append(bulk)
    progress("")
    added = {
        name: [b.p99 - i.p99 for i, b in zip(idle[name], busy[name], strict=True)] for name in names
    }
    print_table(
        ["age of a peak, ms", "idle p50", "idle p99", "busy p50", "busy p99", "added p99"],
        (
            [
                name,
                *(
                    f"{statistics.median(values):.1f}"
                    for values in (
                        [phase.p50 for phase in idle[name]],
                        [phase.p99 for phase in idle[name]],
                        [phase.p50 for phase in busy[name]],
                        [phase.p99 for phase in busy[name]],
                        added[name],
                    )
                ),
            ]
            for name in names
        ),
    )
    ours = statistics.median(added[DIG])
    for name in names[1:]:
        theirs = statistics.median(added[name])
        claim(
            f"ms that bulk adds to the p99 of a peak, over {name}",
            ours,
            theirs,
            ours / theirs,
            f"{ADDED_MS:g} ms or less",
            holds=ours <= ADDED_MS,
        )
    kept = statistics.median(shares)
    claim(
        "pieces of bulk for each other message, when all lanes are full",
        kept,
        SHARE,
        kept / SHARE,
        f">= {NEARLY:g}",
        holds=kept >= NEARLY * SHARE,
    )
    asked, answered = (
        sum(getattr(phase, what) for phase in busy[DIG]) for what in ("asked", "answered")
    )
    claim(
        "answers that came, of those asked for",
        answered,
        asked,
        answered / asked,
        ">= 1",
        holds=answered == asked,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
