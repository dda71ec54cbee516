"""Hold the compiled seen set against that in Python, on more than the test suite has.

``python -m tests.seen_check`` does the same to both, at random. With ``--sanitize``, which ``make
sanitize`` runs, the extension is built with AddressSanitizer and UndefinedBehaviorSanitizer, and
gets wrong arguments, too.

Exit status 0 if all is well; 1, with a sentence, if not.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path
from random import Random
from types import ModuleType

from dig_gossip.gossip.seen import PureSeenSet, Sighting, Stage
from tests.extensions import SEEN, build, load, sanitized

_CAPACITIES = (1, 2, 3, 15, 16, 17, 33, 100)


class Failure(Exception):
    """Two results differ; the text says which."""


def check(module: ModuleType, count: int, seed: int) -> None:
    """Do the same to sets of both forms.

    Hashes begin with one of a few numbers, so that many begin alike.
    """
    rng = Random(seed)
    for _ in range(count):
        capacity = rng.choice(_CAPACITIES)
        begins = [rng.randbytes(8) for _ in range(rng.choice((1, 5, 300)))]
        pure, compiled = PureSeenSet(capacity), module.Seen(capacity, rng.randbytes(16))
        known: list[bytes] = []
        for number in range(rng.randrange(4 * capacity)):
            digest = rng.choice(begins) + number.to_bytes(24, "big")
            known.append(digest)
            sighting = Sighting(Stage.REMOTE, float(number), None)
            pure.add(digest, sighting)
            compiled.add(digest, sighting)
            other = rng.choice(known)
            if rng.random() < 0.2:
                another = Sighting(Stage.LOCAL, float(number), None)
                pure.replace(other, another)
                compiled.replace(other, another)
            compare(pure, compiled, other)
        for digest in known:
            compare(pure, compiled, digest)


def compare(pure: PureSeenSet, compiled: PureSeenSet, digest: bytes) -> None:
    """Ask both what they know of a hash."""
    if len(pure) != len(compiled):
        raise Failure(f"{len(pure)} and {len(compiled)} messages")
    if pure.get(digest) is not compiled.get(digest):
        raise Failure(f"{digest.hex()}: other sightings")
    if pure.find(digest[:8]) != compiled.find(digest[:8]):
        raise Failure(f"{digest[:8].hex()}: other hashes")


def check_arguments(module: ModuleType) -> None:
    """Pass what makes no sense, add what is there, and drop what refers to itself."""
    values: tuple[object, ...] = (None, -1, 0, 1, 2**31, 2**70, b"", bytes(8), bytes(16), bytes(32))
    made = module.Seen(2, bytes(16))
    for first in values:
        for second in values:
            for function in (module.Seen, made.add, made.replace):
                _try(function, first, second)
        for function in (module.Seen, made.add, made.replace, made.get, made.find):
            _try(function, first)
    made.add(bytes(32), made)
    made.add(b"x" * 32, [made])
    made.add(b"y" * 32, made.get)
    del made, function
    gc.collect()


def _try(function: object, *arguments: object) -> None:
    assert callable(function)
    try:
        function(*arguments)
    except (TypeError, ValueError, OverflowError):
        pass


def main() -> int:
    """Run the check; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--sets", type=int, default=2000, help="how many random sets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", type=Path, help="an extension built already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dig-gossip-seen-") as folder:
        if options.sanitize:
            arguments = ["--sets", str(options.sets), "--seed", str(options.seed)]
            return sanitized(SEEN, Path(folder), "tests.seen_check", arguments)
        module = load(options.module or build(SEEN, Path(folder)))
        try:
            check(module, options.sets, options.seed)
        except Failure as failure:
            print(f"seen-check: {failure}", file=sys.stderr)
            return 1
        check_arguments(module)
    print(f"{options.sets} sets: both forms agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
