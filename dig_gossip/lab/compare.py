"""Two result folders side by side: what changed from one to the other.

Protocols are compared by name; if the folders share none and each has one, those two. A difference
counts as clear if the figures of all seeds of one side lie on the same side of all of the other's.

Programs row of the stage table. Source: design §6.
"""

from __future__ import annotations

import difflib
import html
import math
from collections.abc import Sequence

import attrs

from dig_gossip.lab.aggregates import (
    FIGURES,
    Kind,
    Spread,
    aggregate,
    aggregate_facts,
    fact_kind,
    phases,
    show,
)
from dig_gossip.lab.page import document, figures_html
from dig_gossip.lab.plots import Picture, pictures
from dig_gossip.lab.results import Results, write_text
from dig_gossip.lab.tables import Table, count_of, phase_title, spread_text
from dig_gossip.lab.values import WARMUP, RunResult


@attrs.frozen(kw_only=True)
class Change:
    """One figure in both folders.

    :ivar a: in the first; None if it has none.
    :ivar b: in the second; None if it has none.
    """

    kind: Kind
    a: Spread | None
    b: Spread | None

    @property
    def ratio(self) -> float | None:
        """Mean of the second over the first; None where that says nothing."""
        if self.a is None or self.b is None or not self.a.mean or math.isinf(self.a.mean):
            return None
        return self.b.mean / self.a.mean

    @property
    def is_clear(self) -> bool:
        """Whether no seed of one side reaches into the range of the other; two each, at least."""
        a, b = self.a, self.b
        if a is None or b is None or min(a.count, b.count) < 2:
            return False
        return a.most < b.least or b.most < a.least

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``differs`` where neither way is better; "" if not clear."""
        if self.a is None or self.b is None or not self.is_clear:
            return ""
        if not self.kind.better:
            return "differs"
        is_higher = self.b.least > self.a.most
        return "better" if is_higher == (self.kind.better == "high") else "worse"

    def cells(self) -> list[str]:
        """Figure, both sides, difference of the means, ratio, verdict."""
        difference = "—"
        if self.a and self.b and math.isfinite(self.a.mean + self.b.mean):
            amount = self.b.mean - self.a.mean
            sign = "+" if amount > 0 else "-" if amount < 0 else ""
            # A difference of shares may be small: not floored, as shares themselves are.
            unit, factor = ("points", 100) if self.kind.unit == "share" else (self.kind.unit, 1)
            difference = sign + show(abs(amount) * factor, unit)
        return [
            self.kind.title,
            spread_text(self.a, self.kind) if self.a else "—",
            spread_text(self.b, self.kind) if self.b else "—",
            difference,
            f"{self.ratio:.3f}" if self.ratio is not None else "—",
            self.verdict,
        ]


@attrs.frozen(kw_only=True)
class Section:
    """The changes of one protocol in one phase, or of its facts."""

    title: str
    changes: tuple[Change, ...]


@attrs.frozen(kw_only=True)
class Comparison:
    """What two folders have in common, and what not.

    :ivar only_a: protocols of the first folder that were compared with nothing.
    :ivar only_b: likewise, of the second.
    """

    a: Results
    b: Results
    sections: tuple[Section, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def notes(self) -> list[str]:
        """What a reader must know before the figures."""
        notes = [
            f"A is {self.a.folder} ({self.a.name}, {count_of(len(self.a.seeds), 'seed')}), "
            f"B is {self.b.folder} ({self.b.name}, {count_of(len(self.b.seeds), 'seed')}).",
            "Mean over the seeds, in brackets the worst. «better» and «worse» are said of B where "
            "the seeds of A and B, two each at least, do not overlap.",
        ]
        for name, only in (("A", self.only_a), ("B", self.only_b)):
            if only:
                notes.append(f"Only in {name}: {', '.join(only)}.")
        if not self.sections:
            notes.append("The folders have no protocol in common.")
        elif self.a.seeds != self.b.seeds:
            notes.append("The seeds differ: so do the overlays.")
        return notes

    def tables(self) -> list[Table]:
        """A table a section."""
        return [
            Table(
                title=section.title,
                header=["figure", "A", "B", "B - A", "B / A", "B is"],
                rows=[change.cells() for change in section.changes],
            )
            for section in self.sections
        ]

    def scenario_changes(self) -> list[str]:
        """Lines of the configuration that differ, as a unified diff; empty if none do."""
        return list(
            difflib.unified_diff(
                self.a.scenario_text.splitlines(),
                self.b.scenario_text.splitlines(),
                "A",
                "B",
                lineterm="",
            )
        )

    def text(self) -> str:
        """For a terminal."""
        parts = ["\n".join(self.notes()) + "\n", *(table.text() for table in self.tables())]
        changed = self.scenario_changes()
        if changed:
            parts.append("\n".join(["Configuration", "", *changed]) + "\n")
        return "\n".join(parts)


def compare(a: Results, b: Results) -> Comparison:
    """Put two folders side by side."""
    pairs = [(protocol, protocol) for protocol in a.protocols if protocol in b.protocols]
    if not pairs and len(a.protocols) == len(b.protocols) == 1:
        pairs = [(a.protocols[0], b.protocols[0])]
    sections = []
    for first, second in pairs:
        sections += _sections(first, second, a.of(first), b.of(second))
    return Comparison(
        a=a,
        b=b,
        sections=tuple(sections),
        only_a=tuple(name for name in a.protocols if name not in [pair[0] for pair in pairs]),
        only_b=tuple(name for name in b.protocols if name not in [pair[1] for pair in pairs]),
    )


def _sections(
    first: str, second: str, a: Sequence[RunResult], b: Sequence[RunResult]
) -> list[Section]:
    title = first if first == second else f"{first} (A) and {second} (B)"
    found = []
    for phase in sorted(phases([*a, *b]), key=WARMUP.__eq__):  # the warm-up last
        spreads_a, spreads_b = aggregate(a, phase), aggregate(b, phase)
        found.append(
            Section(
                title=f"{title}: {phase_title(phase)}",
                changes=tuple(
                    Change(kind=kind, a=spreads_a.get(name), b=spreads_b.get(name))
                    for name, kind in FIGURES.items()
                    if name in spreads_a or name in spreads_b
                ),
            )
        )
    facts_a, facts_b = aggregate_facts(a), aggregate_facts(b)
    changes = tuple(
        Change(kind=fact_kind(name), a=facts_a.get(name), b=facts_b.get(name))
        for name in dict.fromkeys([*facts_a, *facts_b])
    )
    if changes:
        found.append(Section(title=f"{title}: facts", changes=changes))
    return found


def comparison_page(comparison: Comparison) -> str:
    """Make one HTML page: tables, pictures of both sides, the change of the configuration."""
    title = f"{comparison.a.name} and {comparison.b.name}"
    if comparison.a.name == comparison.b.name:
        title = f"{comparison.a.name}, twice"
    changed = comparison.scenario_changes()
    configuration = "".join(_diff_line(line) for line in changed) or "No difference.\n"
    parts = [
        f"<h1>{html.escape(title)}</h1>\n",
        *(f'<p class="lead">{html.escape(note)}</p>\n' for note in comparison.notes()),
        "<h2>Figures</h2>\n" if comparison.sections else "",
        *(table.html() for table in comparison.tables()),
        "<h2>Pictures</h2>\n",
        figures_html(_side_by_side(comparison)),
        "<h2>Configuration</h2>\n",
        f'<pre tabindex="0">{configuration}</pre>\n',
    ]
    return document(title, "".join(parts))


def write_page(comparison: Comparison, path: str) -> None:
    """Write :func:`comparison_page` to a file.

    :raises OSError: it cannot be written.
    Cost: a few seconds for the pictures.
    """
    write_text(path, comparison_page(comparison))


def _side_by_side(comparison: Comparison) -> list[Picture]:
    """Pictures of A and B in pairs."""
    sides = []
    for side, results in (("A", comparison.a), ("B", comparison.b)):
        # Ids must differ within a page, hence the other name.
        drawn = pictures(results.runs, prefix=f"{side.lower()}-")
        sides.append([attrs.evolve(picture, title=f"{side}: {picture.title}") for picture in drawn])
    names = [picture.name.partition("-")[2] for side in sides for picture in side]
    return [
        picture
        for name in dict.fromkeys(names)
        for side in sides
        for picture in side
        if picture.name.partition("-")[2] == name
    ]


def _diff_line(line: str) -> str:
    text = html.escape(line)
    if line.startswith("+"):
        return f"<ins>{text}</ins>\n"
    return f"<del>{text}</del>\n" if line.startswith("-") else f"{text}\n"
