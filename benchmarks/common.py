"""What the benchmarks share: options, medians, tables, verdicts.

A figure means nothing by itself: machines differ, and so do two minutes of one machine. So every
claim is a ratio to a counterpart measured in the same run, in turns with ours, and what is reported
is the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def options(doc: str | None, counterparts: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The options that every benchmark has.

    :param doc: the module's docstring; its first line is the description.
    :param counterparts: names to choose from; none for a benchmark that needs no other program.
    """
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a smoke run of a few seconds; its figures mean nothing",
    )
    parser.add_argument("--rounds", type=int, help="measurements of each kind")
    if counterparts:
        parser.add_argument(
            "--counterparts",
            type=lambda text: _chosen(text, counterparts),
            default=list(counterparts),
            metavar="NAME,…",
            help=f"compare with these only; any of {', '.join(counterparts)}, or none",
        )
    return parser


def _chosen(text: str, known: Sequence[str]) -> list[str]:
    names = [] if text in ("", "none") else text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return names


def describe_machine() -> str:
    """The processor, its cores, and the versions that matter, in one line."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    packages = " ".join(
        f"{name} {version(name)}" for name in ("twisted", "autobahn", "pyopenssl", "cryptography")
    )
    return f"{model}, {platform.system()}, CPython {platform.python_version()}, {packages}"


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of ours divided by theirs."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print columns, the first aligned left, the others right."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join((first, *others)).rstrip())
    print()


def number(value: float) -> str:
    """A figure with three digits that count."""
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def claim(
    text: str, figure: float, counterpart: float, ratio: float, goal: str, *, holds: bool
) -> None:
    """Print one verdict as a line of JSON.

    :param figure: ours.
    :param counterpart: theirs, in the same unit.
    :param ratio: figure over counterpart, the median of the rounds.
    :param goal: what the ratio has to be, for example ``>= 4``.
    """
    verdict = {
        "claim": text,
        "figure": float(f"{figure:.4g}"),
        "counterpart": float(f"{counterpart:.4g}"),
        "ratio": float(f"{ratio:.4g}"),
        "goal": goal,
        "holds": holds,
    }
    print(json.dumps(verdict, ensure_ascii=False))


def claim_at_least(text: str, ours: Sequence[float], theirs: Sequence[float], goal: float) -> None:
    """Claim that ours, by the median of the rounds, is at least ``goal`` times theirs."""
    ratio = median_ratio(ours, theirs)
    figure, counterpart = statistics.median(ours), statistics.median(theirs)
    claim(text, figure, counterpart, ratio, f">= {goal:g}", holds=ratio >= goal)


def claim_at_most(text: str, ours: Sequence[float], theirs: Sequence[float], goal: float) -> None:
    """Claim that ours, by the median of the rounds, is at most ``goal`` times theirs."""
    ratio = median_ratio(ours, theirs)
    figure, counterpart = statistics.median(ours), statistics.median(theirs)
    claim(text, figure, counterpart, ratio, f"<= {goal:g}", holds=ratio <= goal)


def progress(text: str) -> None:
    """Tell whoever waits how far the run is; nothing when nobody watches."""
    if sys.stderr.isatty():
        print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)
