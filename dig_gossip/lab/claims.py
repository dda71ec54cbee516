"""The page of results: what the project claims, what was measured, and where it loses.

A claim holds if the worst seed reaches the goal. What was not measured is said to be so. Every
counterpart is measured with the same ruler, in the same scenario, on the same overlays.

Programs row of the stage table. Source: design §6, behaviour PRF-005.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from dig_gossip.lab.aggregates import FIGURES, Kind, Spread, figures, phases, rows_of, show
from dig_gossip.lab.aggregates import total_bytes as bytes_of
from dig_gossip.lab.plots import Picture, is_healing, pictures
from dig_gossip.lab.results import Results, read_results, write_text
from dig_gossip.lab.tables import Table, count_of, figure_tables, spread_text
from dig_gossip.lab.values import WARMUP, RunResult

OURS: Final = "plumtree"
FLOOD: Final = "flood"
#: Flood as if every node could send all its copies at once: the soonest that anything can arrive.
FASTEST: Final = "flood-unlimited"
GOSSIPSUB: Final = ("gossipsub-1.1", "gossipsub-1.2")

PAGE: Final = "results.rst"
_IMAGES: Final = "images/results"
#: Pictures that the documentation shows; a result folder has them all.
_SHOWN: Final = ("propagation", "redundancy", "healing")

#: (all runs of a folder with one seed, by protocol; protocol) -> figure; None if there is no basis.
Measure = Callable[[Mapping[str, RunResult], str], float | None]


@attrs.frozen(kw_only=True)
class Claim:
    """A figure of ours that shall reach a goal.

    :ivar scenario: the name of the scenario in which it is measured.
    :ivar goal: what the figure must not exceed or, if more is better, fall below.
    :ivar is_strict: whether the goal itself is a miss.
    :ivar against: protocols that are measured likewise, and shown beside it.
    """

    text: str
    scenario: str
    kind: Kind
    goal: float
    measure: Measure
    is_strict: bool = False
    against: tuple[str, ...] = ()

    def reaches(self, figure: float) -> bool:
        """Whether a figure meets the goal."""
        if figure == self.goal:
            return not self.is_strict
        return figure > self.goal if self.kind.better == "high" else figure < self.goal

    def goal_text(self) -> str:
        """``≤ 1.1``, ``≥ 99.99 %``."""
        sign = {"high": "≥", "low": "<" if self.is_strict else "≤"}[self.kind.better]
        return f"{sign} {show(self.goal, self.kind.unit)}"

    def spread(self, results: Results, protocol: str) -> Spread | None:
        """The figure of a protocol over the seeds; None if any seed has no basis for it."""
        values = []
        for seed in results.seeds:
            runs = {run.protocol: run for run in results.runs if run.seed == seed}
            value = self.measure(runs, protocol) if protocol in runs else None
            if value is None:
                return None
            values.append(value)
        return Spread.of(values, self.kind)

    def verdict(self, spread: Spread) -> str:
        """``yes``, ``mean only`` or ``no``."""
        if self.reaches(spread.worst):
            return "yes"
        return "mean only" if self.reaches(spread.mean) else "no"


def _steady_phase(run: RunResult) -> str | None:
    return next((p for p in phases([run]) if p != WARMUP and not is_healing(p)), None)


def _healing_phase(run: RunResult) -> str | None:
    return next((phase for phase in phases([run]) if is_healing(phase)), None)


def _steady(name: str) -> Measure:
    """A figure of the phase that is measured in a network at peace."""

    def measure(runs: Mapping[str, RunResult], protocol: str) -> float | None:
        phase = _steady_phase(runs[protocol])
        return figures(runs[protocol], phase).get(name) if phase else None

    return measure


def _relative(name: str, counterpart: str) -> Measure:
    """A figure over the counterpart's, on the same overlay."""
    measure_one = _steady(name)

    def measure(runs: Mapping[str, RunResult], protocol: str) -> float | None:
        if counterpart not in runs:
            return None
        figure, other = measure_one(runs, protocol), measure_one(runs, counterpart)
        return _ratio(figure, other)

    return measure


def _bytes_over_flood(runs: Mapping[str, RunResult], protocol: str) -> float | None:
    if FLOOD not in runs:
        return None
    totals = []
    for name in (protocol, FLOOD):
        phase = _steady_phase(runs[name])
        totals.append(bytes_of(runs[name], phase) if phase else None)
    return _ratio(*totals)


def _ratio(figure: float | None, other: float | None) -> float | None:
    if figure is None or not other or math.isinf(other):
        return None
    return figure / other


def _after(position: int, name: str) -> Measure:
    """``delivered_share`` or ``p99`` of a message after the failure, counted from 0."""

    def measure(runs: Mapping[str, RunResult], protocol: str) -> float | None:
        run = runs[protocol]
        phase = _healing_phase(run)
        rows = rows_of(run, phase) if phase else []
        if len(rows) <= position or not rows[position]["reachable"]:
            return None
        row = rows[position]
        if name == "delivered_share":
            return row["delivered"] / row["reachable"]
        return row["p99"] if row["delivered"] else math.inf

    return measure


def _third_over_before(runs: Mapping[str, RunResult], protocol: str) -> float | None:
    return _ratio(_after(2, "p99")(runs, protocol), _steady("p99")(runs, protocol))


_RATIO: Final = Kind("ratio", better="low")


def _steady_claims(origins: str, nodes: str, scenario: str) -> list[Claim]:
    recurring = origins == "recurring"
    where = f"{origins} origins, N = {nodes}"
    others = (FLOOD, "announce", *GOSSIPSUB, "plumtree-paper")
    claims = [
        Claim(
            text=f"Bytes over ideal, {where}",
            scenario=scenario,
            kind=FIGURES["bytes_over_ideal"],
            goal=1.10 if recurring else 1.20,
            measure=_steady("bytes_over_ideal"),
            against=others,
        ),
        Claim(
            text=f"p99 over that of flood with unlimited uplink, {where}",
            scenario=scenario,
            kind=_RATIO,
            goal=1.10 if recurring else 1.5,
            measure=_relative("p99", FASTEST),
            against=others,
        ),
    ]
    if recurring:
        claims += [
            Claim(
                text=f"p99 over that of {counterpart}, {where}",
                scenario=scenario,
                kind=_RATIO,
                goal=1.0,
                is_strict=True,
                measure=_relative("p99", counterpart),
            )
            for counterpart in GOSSIPSUB
        ]
    return claims


def _healing_claims(percent: int, seconds: float) -> list[Claim]:
    scenario = f"heal-{percent}"
    where = f"{percent} % died silently"
    others = (FLOOD, *GOSSIPSUB, "plumtree-paper")
    return [
        Claim(
            text=f"First message after {where}: share of what a flood would reach",
            scenario=scenario,
            kind=FIGURES["delivered_share"],
            goal=0.9999,
            measure=_after(0, "delivered_share"),
            against=others,
        ),
        Claim(
            text=f"First message after {where}: p99",
            scenario=scenario,
            kind=FIGURES["p99"],
            goal=seconds,
            measure=_after(0, "p99"),
            against=others,
        ),
        Claim(
            text=f"Third message after {where}: p99 over that before the failure",
            scenario=scenario,
            kind=_RATIO,
            goal=2.0,
            measure=_third_over_before,
            against=others,
        ),
    ]


CLAIMS: Final[Sequence[Claim]] = (
    *_steady_claims("recurring", "1 000", "recurring-1k"),
    *_steady_claims("uniform", "1 000", "uniform-1k"),
    *_steady_claims("recurring", "10 000", "recurring-10k"),
    *_steady_claims("uniform", "10 000", "uniform-10k"),
    *_healing_claims(10, 0.6),
    *_healing_claims(30, 1.0),
    *_healing_claims(50, 1.5),
    Claim(
        text="Bytes over flood's, 50 nodes, 1 000 messages",
        scenario="small-50",
        kind=_RATIO,
        goal=0.10,
        is_strict=True,
        measure=_bytes_over_flood,
        against=GOSSIPSUB,
    ),
)

_INTRODUCTION = """\
What the protocols cost and how fast they are, measured in the lab (:doc:`lab`) by the engines that
the node runs. ``make results`` makes this page anew; nothing on it was written by hand.

Counterparts are models, written from their specifications, on the same overlays with the same
origins. Figures are means over the seeds; in brackets is the worst seed, which decides whether a
claim holds. *Ideal* is one framed copy for each delivery: payload, envelope and 60 bytes of
framing, and nothing else. All bytes count: payload, announcements, grafts, prunes, control and
framing. Warm-up is left out of the claims, and its cost shown below.
"""


def claims_table(folders: Sequence[Results]) -> Table:
    """Every claim with its goal, what was measured, and the counterparts."""
    rows = []
    for claim in CLAIMS:
        results = _find(folders, claim.scenario)
        spread = claim.spread(results, OURS) if results else None
        if results is None or spread is None:
            rows.append([claim.text, claim.goal_text(), "—", "—", "not measured", ""])
            continue
        unit = claim.kind.unit
        others = []
        for protocol in claim.against:
            other = claim.spread(results, protocol)
            if other:
                others.append(f"{protocol} {spread_text(other, claim.kind)}")
        rows.append(
            [
                claim.text,
                claim.goal_text(),
                show(spread.mean, unit),
                show(spread.worst, unit),
                claim.verdict(spread),
                ", ".join(others),
            ]
        )
    header = ["Claim", "Goal", "Mean", "Worst", "Holds", "Counterparts, mean (worst)"]
    return Table(title="Claims", header=header, rows=rows)


def missed(folders: Sequence[Results]) -> list[str]:
    """A sentence a claim that does not hold with every seed."""
    found = []
    for claim in CLAIMS:
        results = _find(folders, claim.scenario)
        spread = claim.spread(results, OURS) if results else None
        if spread and claim.verdict(spread) != "yes":
            in_mean = claim.reaches(spread.mean)
            how = "reached in the mean, but not with every seed" if in_mean else "not reached"
            found.append(
                f"{claim.text}: the goal {claim.goal_text()} is {how}: "
                f"{spread_text(spread, claim.kind)}."
            )
    return found


def losses(results: Results) -> list[str]:
    """A sentence for each figure in which a counterpart beats us in the mean."""
    found = []
    for phase in phases(results.runs):
        tables = {
            protocol: [figures(run, phase) for run in results.of(protocol)]
            for protocol in results.protocols
        }
        for name in ("delivered_share", "bytes_over_ideal", "p50", "p99"):
            kind = FIGURES[name]
            means = {
                protocol: math.fsum(table[name] for table in own) / len(own)
                for protocol, own in tables.items()
                if own and all(name in table for table in own)
            }
            ours = means.pop(OURS, None)
            if ours is None:
                continue
            better = [
                f"{protocol} {show(mean, kind.unit)}"
                for protocol, mean in means.items()
                if (mean > ours if kind.better == "high" else mean < ours)
            ]
            if better:
                found.append(
                    f"{phase.replace('_', ' ')}, {kind.title}: "
                    f"ours {show(ours, kind.unit)}, {', '.join(better)}."
                )
    return found


def results_page(folders: Sequence[Results], drawn: Mapping[str, Sequence[Picture]]) -> str:
    """Make the page, as reStructuredText.

    :param folders: what was measured, a folder a scenario, in the order of the page.
    :param drawn: scenario -> pictures that lie beside the page in ``images/results``.
    """
    lines = [*_heading("Results", "="), _INTRODUCTION]
    lines += [*_heading("Claims", "-"), claims_table(folders).rst()]
    failed = missed(folders)
    if failed:
        lines += [*_heading("Goals that were missed", "-"), *(f"* {text}" for text in failed), ""]
    for results in folders:
        lines += _scenario_lines(results, drawn.get(results.name, ()))
    return "\n".join(lines).rstrip() + "\n"


def _scenario_lines(results: Results, drawn: Sequence[Picture]) -> list[str]:
    seeds = results.seeds
    lines = [
        *_heading(f"Scenario {results.name}", "-"),
        f"{count_of(len(seeds), 'seed').capitalize()}: {', '.join(map(str, seeds))}.",
        "",
    ]
    for table in figure_tables(results.runs):
        lines += [f"**{table.title}**", "", table.rst()]
    lost = losses(results)
    if lost:
        lines += ["Counterparts that are better than Plumtree in the mean:", ""]
        lines += [*(f"* {text}" for text in lost), ""]
    for picture in drawn:
        lines += [
            f".. figure:: {_IMAGES}/{results.name}-{picture.name}.svg",
            f"   :alt: {picture.title}",
            "   :width: 100%",
            "",
            f"   {picture.title}. {picture.text}",
            "",
        ]
    return lines


def write_results_docs(folders: Sequence[str], docs: str) -> None:
    """Write the page and its pictures into the documentation's folder.

    :param folders: result folders, one a scenario, in the order of the page.
    :param docs: where ``results.rst`` and ``images/results`` go.
    :raises DamagedResults: a folder cannot be read.
    :raises OSError: a file cannot be written.
    """
    read = [read_results(folder) for folder in folders]
    drawn = {
        results.name: [
            picture for picture in pictures(results.runs) if picture.name.startswith(_SHOWN)
        ]
        for results in read
    }
    for name, shown in drawn.items():
        for picture in shown:
            path = os.path.join(docs, _IMAGES, f"{name}-{picture.name}.svg")
            write_text(path, picture.file)
    write_text(os.path.join(docs, PAGE), results_page(read, drawn))


def _find(folders: Sequence[Results], scenario: str) -> Results | None:
    return next((results for results in folders if results.name == scenario), None)


def _heading(text: str, rule: str) -> list[str]:
    return [text, rule * len(text), ""]
