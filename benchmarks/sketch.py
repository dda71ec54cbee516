"""Sketch arithmetic: ours compiled and in Python, against textbook arithmetic in Python.

Each round encodes the same random set and decodes its sketch, which is full, with every
implementation in turn; what counts is processor time. The textbook multiplies bit by bit and has
its polynomials in lists (``tests/gossip/reference_sketch.py``); at large capacities it would take
minutes. libminisketch has no package on PyPI to compare with.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from random import Random

import attrs
from common import ROOT, claim, claim_at_most, describe_machine, number, options, print_table
from common import progress as tell

sys.path.insert(0, str(ROOT))

from dig_gossip.gossip import sketch_pure
from tests.extensions import SKETCH, compiled
from tests.gossip import reference_sketch

_CAPACITIES = (8, 16, 32, 64, 128)
_CLAIMED = 32
_PURE_GOAL_MS = 25.0
_COMPILED_GOAL_MS = 1.0
_TEXTBOOK_UP_TO = 32


@attrs.frozen
class Implementation:
    """One way to do the arithmetic."""

    name: str
    encode: Callable[[list[int], int], bytes]
    decode: Callable[[bytes, int], list[int] | None]
    largest: int = 1024


def implementations() -> list[Implementation]:
    """All of them, the textbook last."""
    module = compiled(SKETCH)
    made = [Implementation("pure Python", sketch_pure.encode, sketch_pure.decode)]
    made.append(Implementation("compiled", module.encode, module.decode))
    if module.CARRYLESS:
        made.append(
            Implementation(
                "compiled, portable",
                lambda elements, capacity: module.encode(elements, capacity, True),
                lambda data, limit: module.decode(data, limit, True),
            )
        )
    textbook = Implementation(
        "textbook", reference_sketch.encode, reference_sketch.decode, _TEXTBOOK_UP_TO
    )
    return [*made, textbook]


def timed(work: Callable[[], object], slowest: float = 0.02) -> float:
    """Processor time of one call in milliseconds; short ones are repeated."""
    calls, spent = 0, 0.0
    while calls == 0 or (spent < slowest and calls < 100):
        began = time.process_time()
        work()
        spent += time.process_time() - began
        calls += 1
    return 1000 * spent / calls


def main() -> None:
    """Measure every implementation at every capacity."""
    arguments = options(__doc__).parse_args()
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    capacities = (8, 32) if arguments.quick else _CAPACITIES
    largest = 8 if arguments.quick else _TEXTBOOK_UP_TO
    ways = implementations()
    times: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for turn in range(rounds):
        rng = Random(turn)
        for capacity in capacities:
            tell(f"round {turn + 1} of {rounds}, capacity {capacity}")
            elements = sorted(rng.getrandbits(64) for _ in range(capacity))
            expected = ways[0].encode(elements, capacity)
            for way in ways:
                if capacity > min(way.largest, largest if way.name == "textbook" else 1024):
                    continue
                if way.encode(elements, capacity) != expected:
                    raise RuntimeError(f"{way.name}: other bytes")
                if way.name != "textbook" and way.decode(expected, capacity) != elements:
                    raise RuntimeError(f"{way.name}: other elements")
                encoding = timed(partial(way.encode, elements, capacity))
                decoding = timed(partial(way.decode, expected, capacity))
                times.setdefault((way.name, capacity), []).append((encoding, decoding))
    tell("")
    print(describe_machine(), end="\n\n")
    for index, title in enumerate(("encoding, ms a set", "decoding, ms")):
        rows = []
        for way in ways:
            cells = [
                number(statistics.median(pair[index] for pair in times[way.name, capacity]))
                if (way.name, capacity) in times
                else "-"
                for capacity in capacities
            ]
            rows.append([way.name, *cells])
        print_table([title, *[f"capacity {capacity}" for capacity in capacities]], rows)
    for name, goal in (("pure Python", _PURE_GOAL_MS), ("compiled", _COMPILED_GOAL_MS)):
        figure = statistics.median(pair[1] for pair in times[name, _CLAIMED])
        claim(
            f"decoding at capacity {_CLAIMED}, {name}, milliseconds over the milliseconds allowed",
            figure,
            goal,
            figure / goal,
            "<= 1",
            holds=figure <= goal,
        )
    compared = min(largest, _CLAIMED)
    claim_at_most(
        f"decoding at capacity {compared}, pure Python over textbook",
        [pair[1] for pair in times["pure Python", compared]],
        [pair[1] for pair in times["textbook", compared]],
        0.1,
    )


if __name__ == "__main__":
    main()
