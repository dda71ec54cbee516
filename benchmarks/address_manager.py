"""The address book: adding, selecting, saving and loading, against chia-blockchain's class.

50 000 addresses from 100 sources are added, 10 000 peers are selected, 50 addresses are marked
good, the book is saved and loaded. The counterpart is given the same rows, in its own
environment and process, in turns with ours. Addresses come as text, as they do from the wire, and
both sides make their own objects of them: ours while it is timed, chia's before. Times are of the
processor.

The pause that a reactor sees is measured beside it: a real reactor ticks every millisecond while a
thread saves and loads a book of 70 000 entries.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from common import (
    ROOT,
    claim,
    claim_at_least,
    claim_at_most,
    describe_machine,
    number,
    options,
    print_table,
    progress,
)

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.address_store import FileAddressStore, load_address_manager
from dig_gossip.discovery.book_bytes import build_address_book
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.types.ip import is_routable_ip
from dig_gossip.types.peer import PeerAddress

SOURCES = 100
OVER_CHIA = 5.0
MAX_PAUSE_MS = 50.0
PORT = 8444


def workload(rng: Random, addresses: int, good: int, selections: int) -> dict[str, Any]:
    """The rows, as both sides get them."""
    now = int(time.time())
    hosts = [_host(rng) for _ in range(addresses)]
    each = addresses // SOURCES
    return {
        "batches": [
            {
                "source": _host(rng),
                "rows": [
                    (host, now - rng.randrange(3 * 86_400))
                    for host in hosts[batch * each : (batch + 1) * each]
                ],
            }
            for batch in range(SOURCES)
        ],
        "good": rng.sample(hosts, good),
        "selections": selections,
    }


def _host(rng: Random) -> str:
    while True:
        packed = rng.randbytes(4)
        if is_routable_ip(packed):
            return ".".join(map(str, packed))


def measure(work: dict[str, Any]) -> dict[str, float]:
    """Ours: add, select, save, load."""
    manager = AddressManager(rng=SystemRandom(), unix=time.time)
    with tempfile.TemporaryDirectory() as folder:
        store = FileAddressStore(os.path.join(folder, "peers.dat"), time.time)
        began = time.process_time()
        for batch in work["batches"]:
            manager.add_to_new_table(
                [KnownAddress(PeerAddress(host, PORT), when) for host, when in batch["rows"]],
                PeerAddress(batch["source"], PORT),
            )
        added = time.process_time()
        for _ in range(work["selections"]):
            manager.select_peer()
        selected = time.process_time()
        for host in work["good"]:
            manager.mark_good(PeerAddress(host, PORT))
        marked = time.process_time()
        data = build_address_book(manager.snapshot())
        saved = time.process_time()
        store.save(manager.snapshot())
        before_load = time.process_time()
        load_address_manager(store, rng=SystemRandom(), unix=time.time)
        loaded = time.process_time()
    return {
        "add": added - began,
        "select": selected - added,
        "mark_good": marked - selected,
        "save": saved - marked,
        "load": loaded - before_load,
        "bytes": len(data),
        "entries": manager.size(),
    }


def measure_chia(python: Path, work: dict[str, Any]) -> dict[str, float]:
    """Theirs, in a process of its own."""
    done = subprocess.run(
        [str(python), str(Path(__file__).with_name("_chia_addresses.py"))],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def measure_floods(rows: int) -> list[list[object]]:
    """Rows of a table: a million made-up addresses, from one peer, from a hundred.

    Every source has a network of its own, which is the best that a hundred peers can do.
    """
    table: list[list[object]] = []
    for peers in (1, 100):
        rng = Random(peers)
        now = int(time.time())
        manager = AddressManager(rng=rng, unix=time.time)
        spent = 0.0
        for _ in range(peers):
            source = PeerAddress(_host(rng), PORT)
            for _ in range(rows // peers // 1000):
                known = [KnownAddress(PeerAddress(_host(rng), PORT), now) for _ in range(1000)]
                began = time.process_time()
                manager.add_to_new_table(known, source)
                spent += time.process_time() - began
        table.append([f"from {peers}", manager.size(), number(spent / rows * 1e6)])
    return table


def full_book(rng: Random, entries: int) -> AddressManager:
    """A book as full as it gets in reasonable time."""
    manager = AddressManager(rng=rng, unix=time.time)
    now = int(time.time())
    while manager.size() < entries:
        hosts = [_host(rng) for _ in range(1000)]
        source = PeerAddress(_host(rng), PORT)
        known = [KnownAddress(PeerAddress(host, PORT), now) for host in hosts]
        manager.add_to_new_table(known, source)
        for host in hosts[:150]:
            manager.mark_good(PeerAddress(host, PORT))
    return manager


def measure_pauses(entries: int, rounds: int) -> dict[str, list[float]]:
    """The longest gap between two turns of a reactor that should tick every millisecond, in ms.

    Three kinds of rounds: nothing else going on, a save in a thread, a load in a thread. A gap is
    the processor time that this process used between the turns, so what other programs do to an
    idle reactor is no pause of ours.
    """
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.task import LoopingCall
    from twisted.internet.threads import deferToThread

    manager = full_book(Random(7), entries)
    pauses: dict[str, list[float]] = {"idle": [], "save": [], "load": []}
    loop: Any = reactor

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = FileAddressStore(os.path.join(folder, "peers.dat"), time.time)

            def idle() -> Deferred[None]:
                waiting: Deferred[None] = Deferred()
                loop.callLater(0.5, waiting.callback, None)
                return waiting

            def save() -> Deferred[None]:
                return deferToThread(store.save, manager.snapshot())

            def load() -> Deferred[Any]:
                return deferToThread(
                    load_address_manager, store, rng=SystemRandom(), unix=time.time
                )

            for _ in range(rounds):
                for name, work in (("idle", idle), ("save", save), ("load", load)):
                    gaps = [time.process_time()]

                    def tick(gaps: list[float] = gaps) -> None:
                        gaps.append(time.process_time())

                    ticking = LoopingCall(tick)
                    ticked = ticking.start(0.001)
                    await work()
                    ticking.stop()
                    await ticked
                    gaps.append(time.process_time())
                    longest = max(b - a for a, b in pairwise(gaps))
                    pauses[name].append(longest * 1000)

    def begin() -> None:
        Deferred.fromCoroutine(run()).addBoth(lambda result: (print_failure(result), loop.stop()))

    loop.callWhenRunning(begin)
    loop.run()
    return pauses


def print_failure(result: object) -> None:
    """Say what went wrong in the reactor, if anything."""
    if result is not None:
        print(result, file=sys.stderr)


def main() -> int:
    """Run the benchmark."""
    parser = options(__doc__, ["chia"])
    chosen = parser.parse_args()
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    addresses, good, selections = (2000, 20, 500) if chosen.quick else (50_000, 50, 10_000)
    python = None
    if "chia" in chosen.counterparts:
        sys.path.insert(0, str(ROOT))
        from tests.interop.environment import CHIA_REQUIREMENTS, create

        python = create("chia", CHIA_REQUIREMENTS)
    print(describe_machine())
    print(
        f"{addresses} addresses of {SOURCES} sources, {selections} selections, {good} marked good"
    )
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    rng = Random(1)
    for round_number in range(rounds):
        progress(f"round {round_number + 1} of {rounds}")
        work = workload(rng, addresses, good, selections)
        ours.append(measure(work))
        if python is not None:
            theirs.append(measure_chia(python, work))
    per = {"add": addresses, "mark_good": good, "select": selections}
    rows = []
    for name in ("add", "select", "mark_good", "save", "load", "bytes", "entries"):
        scale = 1e6 / per[name] if name in per else 1e3 if name in ("save", "load") else 1
        unit = "µs each" if name in per else "ms" if name in ("save", "load") else ""
        row: list[object] = [f"{name} {unit}".strip()]
        for results in (ours, theirs):
            if results:
                row.append(number(statistics.median(result[name] for result in results) * scale))
        rows.append(row)
    print_table(["", "dig_gossip", *(["chia"] if theirs else [])], rows)
    flood = 100_000 if chosen.quick else 1_000_000
    flooded = measure_floods(flood)
    print_table([f"{flood} addresses", "entries", "µs an address"], flooded)
    pauses = measure_pauses(2000 if chosen.quick else 70_000, rounds)
    print_table(
        ["longest pause, ms", "median", "worst"],
        [
            [name, number(statistics.median(values)), number(max(values))]
            for name, values in pauses.items()
        ],
    )
    if theirs:
        for name in ("add", "select"):
            claim_at_least(
                f"{name}, rate",
                [1 / result[name] for result in ours],
                [1 / result[name] for result in theirs],
                OVER_CHIA,
            )
        claim_at_most(
            "bytes of the file",
            [result["bytes"] / result["entries"] for result in ours],
            [result["bytes"] / result["entries"] for result in theirs],
            1.0,
        )
    for name in ("save", "load"):
        worst = max(pauses[name])
        idle = max(pauses["idle"])
        claim(
            f"longest pause of the reactor during a {name}, ms",
            worst,
            idle,
            worst / idle,
            f"figure <= {MAX_PAUSE_MS:g}",
            holds=worst <= MAX_PAUSE_MS,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
