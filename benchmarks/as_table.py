"""An AS table of a million prefixes: loading in a thread, and looking up.

The file is made up, in the proportions of a routing table: 4 prefixes in 5 are IPv4 between /8 and
/24, the rest IPv6 between /20 and /48, in random order, which is the worst case for sorting. The
counterpart of a look-up is a dictionary of prefixes asked from the longest to the shortest, the
usual way without a library; both in processor time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from common import claim, describe_machine, number, options, print_table

from dig_gossip.discovery.as_table import AsTable, load_as_table
from dig_gossip.types.ip import packed_ip
from dig_gossip.types.peer import PeerAddress

MAX_LOOKUP_US = 20.0


def write_table(path: Path, count: int, rng: Random) -> dict[tuple[int, int, int], int]:
    """Write a file; what it says, by bits of the address, length and start."""
    import ipaddress

    known: dict[tuple[int, int, int], int] = {}
    with open(path, "w") as file:
        for _ in range(count):
            if rng.random() < 0.8:
                length = rng.choice((*range(8, 25), 24, 24, 24, 24, 22, 23))
                start = rng.getrandbits(length) << 32 - length
                text = str(ipaddress.IPv4Address(start))
                bits = 32
            else:
                length = rng.choice((*range(20, 49), 48, 48, 32))
                start = (1 << 125 | rng.getrandbits(length) << 128 - length) >> 128 - length
                start <<= 128 - length
                text = str(ipaddress.IPv6Address(start))
                bits = 128
            as_number = rng.randrange(1, 400_000)
            known[bits, length, start] = max(as_number, known.get((bits, length, start), 0))
            file.write(f"{text}/{length} {as_number}\n")
    return known


def naive(known: dict[tuple[int, int, int], int], address: PeerAddress) -> int | None:
    """The longest prefix, length by length."""
    packed = packed_ip(address.host) or b""
    value, bits = int.from_bytes(packed, "big"), 8 * len(packed)
    for length in range(bits, -1, -1):
        shift = bits - length
        found = known.get((bits, length, value >> shift << shift))
        if found is not None:
            return found
    return None


def load(path: Path) -> tuple[AsTable, float, float]:
    """Load in a thread beside a ticking reactor.

    :returns: the table, seconds, the longest pause of the reactor in ms, both of the processor.
    """
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.task import LoopingCall
    from twisted.internet.threads import deferToThread

    loop: Any = reactor
    results: list[tuple[AsTable, float, float]] = []

    async def run() -> None:
        ticks = [time.process_time()]
        ticking = LoopingCall(lambda: ticks.append(time.process_time()))
        ticked = ticking.start(0.001)
        began = time.process_time()
        table = await deferToThread(load_as_table, str(path))
        seconds = time.process_time() - began
        ticking.stop()
        await ticked
        results.append((table, seconds, 1000 * max(b - a for a, b in pairwise(ticks))))

    loop.callWhenRunning(
        lambda: Deferred.fromCoroutine(run()).addBoth(
            lambda failed: (print(failed or ""), loop.stop())
        )
    )
    loop.run()
    return results[0]


def main() -> int:
    """Run the benchmark."""
    chosen = options(__doc__).parse_args()
    count, lookups = (20_000, 500) if chosen.quick else (1_000_000, 20_000)
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    rng = Random(1)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "as.txt"
        known = write_table(path, count, rng)
        table, seconds, pause = load(path)
        size = path.stat().st_size
    print_table(
        ["", ""],
        [
            ["prefixes", count],
            ["file, MB", number(size / 1e6)],
            ["ranges", len(table)],
            ["load, s", number(seconds)],
            ["longest pause of the reactor, ms", number(pause)],
        ],
    )
    addresses = [
        PeerAddress(".".join(map(str, rng.randbytes(4))), 1)
        if n % 5
        else PeerAddress(f"2{rng.getrandbits(12):03x}:{rng.getrandbits(16):x}::1", 1)
        for n in range(lookups)
    ]
    ours, theirs = [], []
    for _ in range(rounds):
        began = time.process_time()
        found = [table.lookup(address) for address in addresses]
        ours.append((time.process_time() - began) / lookups * 1e6)
        began = time.process_time()
        expected = [naive(known, address) for address in addresses]
        theirs.append((time.process_time() - began) / lookups * 1e6)
        if found != expected:
            raise SystemExit("the table and the dictionary disagree")
    figure, counterpart = statistics.median(ours), statistics.median(theirs)
    claim(
        f"AS look-up among {count} prefixes, µs",
        figure,
        counterpart,
        figure / counterpart,
        f"figure <= {MAX_LOOKUP_US:g}",
        holds=figure <= MAX_LOOKUP_US,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
