"""Kill processes with SIGKILL while they save an address book, and look at what is left.

``python -m tests.discovery.kill_saves 1000`` kills a thousand (``make kill-saves``). A child saves
one book after the other, numbered, and says so on a pipe after each. The book that is found after
its death must be the last one that it told of, or the next one: the old or the new, never neither.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
from collections import Counter
from random import Random
from time import monotonic

from dig_gossip.discovery.address_store import FileAddressStore
from dig_gossip.discovery.values import AddressBook, ExtendedPeerInfo
from dig_gossip.types.peer import PeerAddress

ENTRIES = 300


def book(number: int) -> AddressBook:
    """A book that differs from every other in every entry."""
    source = PeerAddress("9.9.9.9", 9444)
    return AddressBook(
        bytes(32),
        number,
        tuple(
            ExtendedPeerInfo(PeerAddress(f"8.{n >> 8}.{n & 255}.1", 1), source, number, slots=(n,))
            for n in range(ENTRIES)
        ),
        (),
    )


def save_forever(path: str, first: int, pipe: int) -> None:
    """What the child does until it dies."""
    store = FileAddressStore(path, lambda: 0.0)
    store.open()
    number = first
    while True:
        store.save(book(number))
        os.write(pipe, b".")
        number += 1


def kill_one(path: str, first: int, delay: float) -> tuple[int, int, bool]:
    """Start a child, kill it while it saves.

    :returns: the last number told of, the number found, whether a half-written file was left.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        save_forever(path, first, writing)
    os.close(writing)
    os.read(reading, 1)  # it works
    select.select([], [], [], delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = first
    while chunk := os.read(reading, 65536):
        told += len(chunk)
    os.close(reading)
    leftovers = sum(name.startswith(".") for name in os.listdir(os.path.dirname(path)))
    store = FileAddressStore(path, lambda: 0.0)
    store.open()
    found = store.load()
    store.close()
    return told, -1 if found is None else found.last_good, bool(leftovers)


def main(kills: int, seed: int = 1) -> int:
    """Kill so many; the exit status is that of the check."""
    rng = Random(seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "peers.dat")
        store = FileAddressStore(path, lambda: 0.0)
        began = monotonic()
        for number in range(1, 6):
            store.save(book(number))
        duration = (monotonic() - began) / 5
        number = 1
        for _ in range(kills):
            told, found, was_writing = kill_one(path, number, rng.uniform(0, 2 * duration))
            outcomes["old" if found == told else "new" if found == told + 1 else "NEITHER"] += 1
            outcomes["with a half-written file beside it"] += was_writing
            number = told + 2
        strays = sorted(set(os.listdir(folder)) - {"peers.dat", "peers.dat.lock"})
    print(f"{kills} kills: {dict(outcomes)}; strays {strays}")
    return 1 if outcomes["NEITHER"] or strays else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
