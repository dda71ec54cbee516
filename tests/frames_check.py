"""Hold the compiled frames and hashes against those in Python, on more than the test suite has.

``python -m tests.frames_check`` compares runs of frames, what is read of them whole, cut and
damaged, and hashes. With ``--sanitize``, which ``make sanitize`` runs, the extension is built with
AddressSanitizer and UndefinedBehaviorSanitizer, and gets wrong arguments, too.

Exit status 0 if all is well; 1, with a sentence, if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from random import Random
from types import ModuleType

from dig_gossip.wire import frames_pure
from dig_gossip.wire.message import Message, message_hash_pure
from tests.extensions import FRAMES, build, load, sanitized

_SIZES = (0, 1, 2, 5, 54, 55, 56, 63, 64, 100, 111, 112, 117, 118, 119, 120, 300, 5000, 65_527)


class Failure(Exception):
    """Two results differ; the text says which."""


def random_messages(rng: Random) -> list[Message]:
    """A few messages of sizes at which something changes."""
    return [
        Message(
            rng.randrange(256),
            rng.choice((None, rng.randrange(65_536))),
            rng.randbytes(rng.choice(_SIZES)),
        )
        for _ in range(rng.randrange(6))
    ]


def both_runs(module: ModuleType, messages: list[Message], key: int | None) -> tuple[bytes, bytes]:
    """The frames of both forms, with one masking key, or without."""
    if key is None:
        pure = frames_pure.FrameRun()
        compiled = module.Run(None)
    else:
        frames_pure.new_keys[:] = [key]
        pure = frames_pure.MaskedRun()
        compiled = module.Run(lambda: key)
    for message in messages:
        if message.id is None and len(message.data) > 3 and message.type % 2:
            pieces = message.data[:3], memoryview(message.data)[3:]
            pure.add_divided(message.type, *pieces)
            compiled.add_divided(message.type, *pieces)
        else:
            pure.add(message)
            compiled.add(message)
        if pure.size != compiled.size:
            raise Failure(f"runs of {messages} have {pure.size} and {compiled.size} bytes")
    return b"".join(pure.take()), b"".join(compiled.take())


def damaged(rng: Random, data: bytes) -> bytes:
    """Cut, with a few bytes changed, or as it is."""
    changed = bytearray(data)
    if changed and rng.random() < 0.5:
        for _ in range(rng.randrange(4)):
            changed[rng.randrange(min(len(changed), 400))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.3 else changed)


def compare_taking(module: ModuleType, data: bytes, is_masked: bool) -> None:
    """Read the same bytes with both forms."""
    ours: list[Message | None] = []
    theirs: list[Message | None] = []
    at = module.take(data, 0, len(data), is_masked, ours)
    if at != frames_pure.take_from_view(
        memoryview(bytearray(data)), 0, len(data), is_masked, theirs
    ):
        raise Failure(f"{data.hex()}: {at} is not where frames end")
    if ours != theirs:
        raise Failure(f"{data.hex()}: other messages")


def check(module: ModuleType, count: int, seed: int) -> None:
    """Compare the two forms on random messages."""
    rng = Random(seed)
    for _ in range(count):
        messages = random_messages(rng)
        for key in (None, rng.getrandbits(32)):
            pure, compiled = both_runs(module, messages, key)
            if pure != compiled:
                raise Failure(f"frames of {messages} with key {key} differ")
            compare_taking(module, damaged(rng, compiled), key is not None)
        compare_taking(module, rng.randbytes(rng.randrange(60)), rng.random() < 0.5)
        if hasattr(module, "message_hash"):
            for message in messages:
                if module.message_hash(message) != message_hash_pure(message):
                    raise Failure(f"hashes of {message} differ")


def check_arguments(module: ModuleType) -> None:
    """Pass what makes no sense."""
    empty = object.__new__(Message)
    values: tuple[object, ...] = (
        None,
        -1,
        0,
        300,
        2**70,
        b"",
        b"x" * 70_000,
        "x",
        [],
        empty,
        Message(1, None, b"x"),
    )
    module.speed_up()
    run = module.Run(None)
    broken = module.Run(lambda: None)
    large = module.Run(lambda: 2**40)
    for first in values:
        for function in (
            run.add,
            broken.add,
            large.add,
            module.Run,
            getattr(module, "message_hash", run.add),
        ):
            _try(function, first)
        for second in values:
            for third in values:
                _try(run.add_divided, first, second, third)
                _try(module.take, first, second, third, True, [])
                _try(module.take, b"\x82\x06abcdef", second, third, False, first)
            _try(Message, first, second, b"x")
            _try(Message, first, None, second)
            _try(Message, first, second)
    _try(run.add, Message(1, None, bytes(65_530)))
    _try(module.prepare, int)
    _try(module.prepare, 3)
    run.take()
    run.clear()
    module.prepare(Message)


def _try(function: object, *arguments: object) -> None:
    assert callable(function)
    try:
        function(*arguments)
    except (AttributeError, TypeError, ValueError, OverflowError):
        pass


def main() -> int:
    """Run the check; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sanitize", action="store_true", help="with ASan and UBSan")
    parser.add_argument("--runs", type=int, default=3000, help="how many random runs of frames")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", type=Path, help="an extension built already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dig-gossip-frames-") as folder:
        if options.sanitize:
            arguments = ["--runs", str(options.runs), "--seed", str(options.seed)]
            return sanitized(FRAMES, Path(folder), "tests.frames_check", arguments)
        module = load(options.module or build(FRAMES, Path(folder)))
        module.prepare(Message)
        try:
            check(module, options.runs, options.seed)
        except Failure as failure:
            print(f"frames-check: {failure}", file=sys.stderr)
            return 1
        check_arguments(module)
    print(f"{options.runs} runs of frames: both forms agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
