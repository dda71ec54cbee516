"""What runs come to: figures of one run, and their mean and worst over seeds.

Everything here is computed from the rows, byte counts and distributions of the runs, phase by
phase, so that all protocols are measured with the same ruler. Pure.

Programs row of the stage table. Source: design §6.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from dig_gossip.lab.values import KINDS, WARMUP, Count, MessageRow, RunResult


@attrs.frozen
class Kind:
    """A figure: what it is, in which unit, and which way is better.

    :ivar better: "low", "high", or "" if neither.
    """

    title: str
    unit: str = ""
    better: str = ""

    def worst(self, values: Sequence[float]) -> float:
        """The value that speaks against it; the largest where neither way is better."""
        return min(values) if self.better == "high" else max(values)


#: Figures of a phase, in the order of tables.
FIGURES: Final[Mapping[str, Kind]] = {
    "messages": Kind("messages"),
    "delivered_share": Kind("delivered", "share", "high"),
    "bytes_over_ideal": Kind("bytes over ideal", better="low"),
    "copies": Kind("copies per delivery", better="low"),
    "announcement_bytes": Kind("announcements per delivery", "B", "low"),
    "control_bytes": Kind("control per delivery", "B", "low"),
    "p50": Kind("p50", "s", "low"),
    "p90": Kind("p90", "s", "low"),
    "p99": Kind("p99", "s", "low"),
    "max": Kind("slowest", "s", "low"),
}

#: What a frame of the ideal has around its payload: the envelope, and the framing that all frames
#: are charged with.
IDEAL_OVERHEAD: Final = 6 + 60

#: Facts that are figures of a phase, or of all: tables show the latter.
_REPEATED: Final = frozenset(
    {*FIGURES, "bytes", "deliveries", "payload_over_ideal", "redundancy"}
)  # fmt: skip
#: In a fact's last word, these say that more is better, or less; others have no direction.
_MORE_IS_BETTER: Final = ("delivered", "healed", "reached", "recovered")
_LESS_IS_BETTER: Final = (
    "over_ideal", "redundancy", "missing", "latency", "captured", "dropped", "lost", "wasted",
    "duplicates", "identified", "precision", "recall",
)  # fmt: skip


def fact_kind(name: str) -> Kind:
    """Guess from the name of a run's fact what it is.

    :param name: words joined by underscores, after phases and the like, each with a dot.
    """
    last = name.rpartition(".")[2]
    title = name.replace(".", ", ").replace("_", " ")
    if last in FIGURES:
        return attrs.evolve(FIGURES[last], title=title)
    if any(word in last for word in _MORE_IS_BETTER):
        return Kind(title, better="high")
    return Kind(title, better="low" if any(word in last for word in _LESS_IS_BETTER) else "")


def is_repeated(name: str, phases: Iterable[str]) -> bool:
    """Whether a fact is one of the figures that every phase has, or the same over all phases."""
    prefix, _, last = name.rpartition(".")
    return (prefix == "" or prefix in phases) and last.removeprefix("warmup_") in _REPEATED


@attrs.frozen(kw_only=True)
class Spread:
    """One figure over the seeds."""

    mean: float
    worst: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], kind: Kind) -> Spread:
        """Take the figures of at least one seed; ``inf`` stands for what never happened."""
        return cls(
            mean=math.fsum(values) / len(values) if math.inf not in values else math.inf,
            worst=kind.worst(values),
            least=min(values),
            most=max(values),
            count=len(values),
        )


def rows_of(run: RunResult, phase: str) -> list[MessageRow]:
    """The messages of a phase."""
    return [row for row in run.messages if row["phase"] == phase]


def phases(runs: Iterable[RunResult]) -> list[str]:
    """All phases that any run has, warm-up first, then in the order in which they came."""
    found: dict[str, None] = {}
    for run in runs:
        found |= dict.fromkeys(row["phase"] for row in run.messages)
        found |= dict.fromkeys(run.bytes)
    return sorted(found, key=lambda phase: phase != WARMUP)


def quantile(points: Sequence[tuple[float, float]], share: float) -> float:
    """Seconds after which a share of the due deliveries had happened.

    Between points it is interpolated; before the first, it is the first.

    :param points: (seconds, share), both rising.
    :param share: above 0, up to 1.
    :returns: seconds; ``inf`` if that share was never reached.
    """
    before = (0.0, 0.0)
    for seconds, reached in points:
        if reached >= share:
            if before == (0.0, 0.0):
                return seconds
            part = (share - before[1]) / (reached - before[1])
            return before[0] + part * (seconds - before[0])
        before = (seconds, reached)
    return math.inf


def total_bytes(run: RunResult, phase: str) -> int:
    """All bytes that were sent in a phase."""
    return sum(count["bytes"] for count in run.bytes.get(phase, {}).values())


def ideal_bytes(run: RunResult, phase: str) -> int:
    """What a phase's deliveries would have cost with one framed copy each, and nothing else."""
    return sum((row["size"] + IDEAL_OVERHEAD) * row["delivered"] for row in rows_of(run, phase))


def figures(run: RunResult, phase: str) -> dict[str, float]:
    """Compute :data:`FIGURES` for one phase; those without any basis are left out.

    Quantiles are over the deliveries that were due: where some are missing, they may be ``inf``.
    They are the run's own if all happened, and interpolated between points of its distribution
    otherwise.
    """
    rows = rows_of(run, phase)
    due = sum(row["reachable"] for row in rows)
    delivered = sum(row["delivered"] for row in rows)
    found: dict[str, float] = {"messages": len(rows)}
    if due:
        found["delivered_share"] = delivered / due
    ideal = ideal_bytes(run, phase)
    sent = run.bytes.get(phase, {})
    if ideal and sent:
        found["bytes_over_ideal"] = total_bytes(run, phase) / ideal
    if delivered:
        found["copies"] = sum(row["payload_copies"] for row in rows) / delivered
        if sent:
            found["announcement_bytes"] = _bytes(sent, "announcements") / delivered
            others = ("grafts", "prunes", "control")
            found["control_bytes"] = sum(_bytes(sent, kind) for kind in others) / delivered
        found["max"] = max(row["max"] for row in rows)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        exact = run.facts.get(f"{phase}.{name}")
        if exact is not None and delivered == due:
            found[name] = exact
        elif run.cdf.get(phase):
            found[name] = quantile(run.cdf[phase], share)
    return {name: found[name] for name in FIGURES if name in found}


def _bytes(sent: Mapping[str, Count], kind: str) -> int:
    return sent[kind]["bytes"] if kind in sent else 0


def aggregate(runs: Sequence[RunResult], phase: str) -> dict[str, Spread]:
    """Figures of one protocol's runs in a phase, over the seeds; only those that all runs have."""
    return _spreads([figures(run, phase) for run in runs], FIGURES)


def aggregate_facts(runs: Sequence[RunResult]) -> dict[str, Spread]:
    """Facts of one protocol's runs over the seeds; only those that all have, and no figures."""
    known = phases(runs)
    names = dict.fromkeys(name for run in runs for name in run.facts)
    kinds = {name: fact_kind(name) for name in names if not is_repeated(name, known)}
    return _spreads([run.facts for run in runs], kinds)


def _spreads(tables: Sequence[Mapping[str, float]], kinds: Mapping[str, Kind]) -> dict[str, Spread]:
    return {
        name: Spread.of([table[name] for table in tables], kind)
        for name, kind in kinds.items()
        if all(name in table for table in tables)
    }


def aggregate_bytes(runs: Sequence[RunResult], phase: str) -> dict[str, tuple[float, float]]:
    """Kind -> (frames, bytes), means over the seeds, of what was sent in a phase."""
    names = dict.fromkeys([*KINDS, *(kind for run in runs for kind in run.bytes.get(phase, {}))])
    means = {}
    for kind in names:
        counts = [run.bytes[phase][kind] for run in runs if kind in run.bytes.get(phase, {})]
        if counts:
            means[kind] = (
                sum(count["frames"] for count in counts) / len(runs),
                sum(count["bytes"] for count in counts) / len(runs),
            )
    return means


_DIGITS: Final = 4
#: Between a number and its unit, and between thousands: such figures are not broken over lines.
_SPACE: Final = "\N{NO-BREAK SPACE}"


def show(value: float, unit: str = "") -> str:
    """Write a figure for people: four digits, thousands apart, seconds below one as ms.

    A share is written as percent, and never rounded up to all.
    """
    if math.isinf(value):
        return "never"
    if unit == "s":
        small = abs(value) < 1
        return f"{_plain(value * 1000 if small else value, 3)}{_SPACE}{'ms' if small else 's'}"
    if unit == "share":
        percent = math.floor(value * 1e6) / 1e4 if value < 1 else value * 100
        return f"{_plain(percent, 6)}{_SPACE}%"
    return f"{_plain(value, _DIGITS)}{_SPACE}{unit}" if unit else _plain(value, _DIGITS)


def _plain(value: float, digits: int) -> str:
    if value == int(value) or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace(",", _SPACE)
    if abs(value) < 1e-4:
        return f"{value:.2g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
