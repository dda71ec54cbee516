"""One run of the lab under PyPy, in half to two thirds of the time, where that takes hours.

::

    pypy3 tests/lab/on_pypy.py uniform-10k plumtree 3

The run is added to ``docs/measured``, as ``make results`` would add it; several can be made at
once, each by a process of its own. The result is that of CPython, byte by byte. Pure packages are
taken from the project's virtual environment, which must be there, and of the same version of
Python; compiled ones have stand-ins that scenarios of blocks and transactions cannot do with.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

ROOT: Final = Path(__file__).resolve().parents[2]

#: Bytes in use at which garbage is collected; the lab has told the collector to rest.
COLLECT_AT: Final = 9_000_000_000
GROWTH: Final = 5_000_000_000  # from what is left until it is done again


class StandIn(ModuleType):
    """A compiled library whose classes are there, and are never used."""

    def __getattr__(self, name: str) -> Any:  # Any: whatever the library has
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Bytes32(bytes):
    """``chia_rs`` has its own, in Rust."""


class NumberedSeen:
    """What ``_seen.c`` keeps: messages are numbered once for all nodes, so a node needs a list."""

    _numbers: ClassVar[dict[bytes, int]] = {}
    _digests: ClassVar[dict[bytes, bytes]] = {}  # by their first eight bytes

    def __init__(self, capacity: int, key: bytes) -> None:
        self._capacity = capacity
        self._at: list[object] = []
        self._count = 0

    def get(self, digest: bytes) -> object:
        """What is remembered of a message, or None."""
        number = self._numbers.get(digest)
        return None if number is None or number >= len(self._at) else self._at[number]

    def find(self, short: bytes) -> bytes | None:
        """The hash that begins so, of a message that was here."""
        digest = self._digests.get(short)
        return None if digest is None or self.get(digest) is None else digest

    def replace(self, digest: bytes, sighting: object) -> None:
        """Remember something else."""
        if self.get(digest) is not None:
            self._at[self._numbers[digest]] = sighting

    def add(self, digest: bytes, sighting: object) -> None:
        """Remember a message that is not here yet; nothing is forgotten."""
        number = self._numbers.setdefault(digest, len(self._numbers))
        if self._digests.setdefault(digest[:8], digest) != digest:
            raise NotImplementedError("two messages whose hashes begin alike")
        self._at += [None] * (number + 1 - len(self._at))
        self._at[number] = sighting
        self._count += 1
        if self._count > self._capacity:
            raise NotImplementedError(f"more than {self._capacity} messages")

    def __len__(self) -> int:
        """How many messages there are."""
        return self._count


def prepare() -> None:
    """Let the lab be imported, without what PyPy cannot load."""
    sys.dont_write_bytecode = True  # by another interpreter than the environment's
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = ROOT / ".venv" / "lib" / version / "site-packages"
    if "PyPy" in sys.version and not packages.is_dir():
        sys.exit(f"this PyPy is {version}, of which .venv is not; or there is none («make test»)")
    sys.path.append(str(packages))
    for name in ("chia_rs", "chia_rs.sized_bytes", "chia_rs.sized_ints", "siphash24"):
        sys.modules[name] = StandIn(name)
    sys.modules["chia_rs.sized_bytes"].bytes32 = Bytes32  # type: ignore[attr-defined]
    # The package itself would import the whole node.
    package = ModuleType("dig_gossip")
    package.__path__ = [str(ROOT / "dig_gossip")]
    sys.modules["dig_gossip"] = package
    seen = sys.modules["dig_gossip.gossip._seen"] = ModuleType("dig_gossip.gossip._seen")
    seen.Seen = NumberedSeen  # type: ignore[attr-defined]


def progress_that_collects(say: Callable[[str], None]) -> Callable[[float], None]:
    """Make a ``progress`` for a run, which keeps memory bounded."""
    limit = COLLECT_AT

    def progress(share: float) -> None:
        nonlocal limit
        if _used() < limit:
            return
        gc.collect()
        limit = max(COLLECT_AT, _used() + GROWTH)
        say(f"{share:.0%}: collected, {_used() / 1e9:.1f} GB left")

    return progress


def _used() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Run, and add the run to its folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scenario", help="a name from «dig-gossip lab list»")
    parser.add_argument("protocol")
    parser.add_argument("seed", type=int)
    parser.add_argument("--out", default=str(ROOT / "docs" / "measured"), metavar="FOLDER")
    options = parser.parse_args()
    prepare()
    from dig_gossip.lab.results import GrowingResults
    from dig_gossip.lab.run import run
    from dig_gossip.lab.scenario import shipped

    name = f"{options.scenario}, {options.protocol}, seed {options.seed}"

    def say(text: str) -> None:
        print(f"{name}: {text}", flush=True)

    scenario = shipped(options.scenario)
    folder = os.path.join(options.out, scenario.name)
    start = time.process_time()
    result = run(scenario, options.protocol, options.seed, progress_that_collects(say))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        GrowingResults(folder, scenario.text, scenario.protocols, keep=True, pack=True).add(result)
    say(f"{time.process_time() - start:.0f} s of processor time, {peak:.1f} GB")


if __name__ == "__main__":
    main()
