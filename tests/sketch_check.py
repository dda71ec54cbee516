"""Check the compiled sketch arithmetic for longer than the test suite does.

``make sketch-check`` runs ``python -m tests.sketch_check``: 100 000 random sets are encoded by the
Python, the compiled and the portable compiled arithmetic, which must give the same bytes, and
decoded by the compiled ones, and every tenth by Python, too.

``make sanitize`` builds the extension with AddressSanitizer and UndefinedBehaviorSanitizer, and
feeds it sets, garbage and wrong arguments; whatever they find ends the run.

Exit status 0 if all is well; 1, with a sentence, if not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from types import ModuleType

from dig_gossip.gossip import sketch_pure
from tests.gossip.compiled import build, load

_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g")
_CAPACITIES = (1, 2, 3, 4, 5, 6, 8, 8, 9, 9, 12, 16, 18, 24, 32, 36)
_LARGE = (64, 127, 128, 129, 255)  # around the size up to which there are tables


class Failure(Exception):
    """Two results differ; the text says which."""


def check_sets(module: ModuleType, count: int, seed: int) -> None:
    """Compare the three implementations on random sets, a twentieth of them too large.

    One in 200 has up to 255 elements; of these only the compiled decoders are compared.
    """
    rng = Random(seed)
    for number in range(count):
        is_large = number % 200 == 7
        capacity = rng.choice(_LARGE if is_large else _CAPACITIES)
        size = rng.randint(0, capacity) if rng.random() < 0.95 else capacity + rng.randint(1, 9)
        if is_large:
            size = capacity - number % 3
        bits = 64 if rng.random() < 0.9 else 8
        chosen = sorted({rng.getrandbits(bits) for _ in range(size)} - {0})
        data = module.encode(chosen, capacity)
        if (
            not data
            == module.encode(chosen, capacity, True)
            == sketch_pure.encode(chosen, capacity)
        ):
            raise Failure(f"sketches of capacity {capacity} of {chosen} differ")
        check_decoding(module, data, capacity, with_pure=number % 10 == 0)
        if len(chosen) <= capacity and module.decode(data, capacity) != chosen:
            raise Failure(f"capacity {capacity}: {chosen} were decoded as something else")


def check_decoding(module: ModuleType, data: bytes, limit: int, *, with_pure: bool) -> None:
    """Compare the answers of the decoders."""
    answer = module.decode(data, limit)
    if answer != module.decode(data, limit, True):
        raise Failure(f"{data.hex()}: the compiled decoders differ")
    if with_pure and answer != sketch_pure.decode(data, limit):
        raise Failure(f"{data.hex()}: the compiled decoder differs from that in Python")


def check_garbage(module: ModuleType, count: int, seed: int) -> None:
    """Decode what is no sketch of a small set, and pass arguments that make no sense."""
    rng = Random(seed)
    for number in range(count):
        capacity = rng.choice((1, 2, 3, 8, 16, 64, 256))
        data = bytearray(rng.randbytes(8 * capacity))
        if rng.random() < 0.5:  # mostly zeros: long runs without a discrepancy
            data = bytearray(8 * capacity)
            for _ in range(rng.randint(0, 3)):
                data[rng.randrange(len(data))] = rng.getrandbits(8)
        check_decoding(module, bytes(data), rng.randint(0, capacity), with_pure=number % 20 == 0)
    arguments = (-1, 0, 1, 8, 1025, 2**64, None, "x", b"x", b"12345678", [1, -1], [2**64], ["x"])
    for function in (module.encode, module.decode):
        for first in arguments:
            for second in arguments:
                for extra in ((), (True,), (1, 2)):
                    try:
                        function(first, second, *extra)
                    except (TypeError, ValueError, OverflowError):
                        pass


def sanitized(folder: Path, arguments: list[str]) -> int:
    """Build the extension with the sanitizers, and run this again with it; the exit status."""
    path = build(folder, *_SANITIZERS)
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    environment = {
        **os.environ,
        "CC": "gcc",
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaves much behind
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-m", "tests.sketch_check", "--module", str(path), *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def main() -> int:
    """Run the check; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--sets", type=int, help="how many random sets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", type=Path, help="an extension built already")
    options = parser.parse_args()
    sets = options.sets or (5_000 if options.sanitize else 100_000)
    with tempfile.TemporaryDirectory(prefix="dig-gossip-sketch-") as folder:
        if options.sanitize:
            return sanitized(Path(folder), ["--sets", str(sets), "--seed", str(options.seed)])
        module = load(options.module or build(Path(folder)))
        garbage = min(sets // 10, 500)
        try:
            check_sets(module, sets, options.seed)
            check_garbage(module, garbage, options.seed)
        except Failure as failure:
            print(f"sketch-check: {failure}", file=sys.stderr)
            return 1
    print(f"{sets} sets and {garbage} pieces of garbage: all implementations agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
