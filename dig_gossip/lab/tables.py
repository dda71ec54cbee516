"""Tables of figures, once for the terminal, the page and the documentation. Pure.

Programs row of the stage table. Source: design §6.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from dig_gossip.lab.aggregates import (
    FIGURES,
    Kind,
    Spread,
    aggregate,
    aggregate_bytes,
    aggregate_facts,
    fact_kind,
    phases,
    show,
)
from dig_gossip.lab.values import WARMUP, RunResult


@attrs.frozen(kw_only=True)
class Table:
    """Rows of text under a header.

    :ivar title: one line.
    :ivar header: a name a column; the first column names the rows.
    :ivar rows: as many cells each as the header has.
    :ivar note: a sentence below; "" for none.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def text(self) -> str:
        """Lay out for a terminal: columns as wide as needed, figures to the right."""
        lines = [list(self.header), *(list(row) for row in self.rows)]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.header))]
        shown = [
            "  ".join(
                cell.rjust(width) if index else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        body = [self.title, "", shown[0], rule, *shown[1:]]
        return "\n".join([*body, *(["", self.note] if self.note else [])]) + "\n"

    def html(self) -> str:
        """Lay out as an HTML table in a box of its own that scrolls if it is too wide."""
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in self.header)
        body = "\n".join(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        return (
            f"<h3>{html.escape(self.title)}</h3>\n"
            f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>\n{note}"
        )

    def rst(self) -> str:
        """Lay out as a list table of reStructuredText, without the title."""
        lines = [".. list-table::", "   :header-rows: 1", ""]
        for row in (self.header, *self.rows):
            for index, cell in enumerate(row):
                lines.append(f"   {'* -' if index == 0 else '  -'} {cell}".rstrip())
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])


def _cell(text: str) -> str:
    """A cell as HTML: what is in brackets, the worst, is smaller."""
    text = html.escape(text)
    first, bracket, rest = text.partition(" (")
    return f"{first} <small>({rest}</small>" if bracket else text


def spread_text(spread: Spread, kind: Kind) -> str:
    """``1.05 (1.07)``: the mean over the seeds and the worst, or the only value there is."""
    mean = show(spread.mean, kind.unit)
    if spread.count == 1 or spread.least == spread.most:
        return mean
    return f"{mean} ({show(spread.worst, kind.unit)})"


def by_protocol(runs: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """Runs of each protocol, in the order in which protocols come."""
    found: dict[str, list[RunResult]] = {}
    for run in runs:
        found.setdefault(run.protocol, []).append(run)
    return found


def phase_title(phase: str) -> str:
    """``after_failure`` is «after failure»."""
    return "warm-up" if phase == WARMUP else phase.replace("_", " ")


def figure_tables(runs: Sequence[RunResult]) -> list[Table]:
    """A table of figures a phase, the warm-up's last: it is shown, and counted nowhere else."""
    found = phases(runs)
    ordered = [phase for phase in found if phase != WARMUP]
    tables = [_figure_table(runs, phase) for phase in ordered]
    if WARMUP in found:
        tables.append(_figure_table(runs, WARMUP))
    return [table for table in tables if table.rows]


def _figure_table(runs: Sequence[RunResult], phase: str) -> Table:
    spreads = {
        protocol: aggregate(own, phase)
        for protocol, own in by_protocol(runs).items()
        if any(row["phase"] == phase for run in own for row in run.messages)
        or any(phase in run.bytes for run in own)
    }
    note = _seeds_note(runs) if phase != WARMUP else "Its bytes are in no other table."
    return _spread_table(f"Figures: {phase_title(phase)}", spreads, FIGURES, note)


def fact_table(runs: Sequence[RunResult]) -> Table | None:
    """Facts of the runs, one a row, protocols side by side; None if no run has any."""
    spreads = {protocol: aggregate_facts(own) for protocol, own in by_protocol(runs).items()}
    names = dict.fromkeys(name for table in spreads.values() for name in table)
    if not names:
        return None
    rows = []
    for name in names:
        kind = fact_kind(name)
        cells = [
            spread_text(table[name], kind) if name in table else "—" for table in spreads.values()
        ]
        rows.append([kind.title, *cells])
    return Table(title="Facts", header=["fact", *spreads], rows=rows, note=_seeds_note(runs))


def byte_table(runs: Sequence[RunResult], phase: str) -> Table | None:
    """Bytes sent in a phase by kind, means over the seeds; None if nothing was counted."""
    counts = {
        protocol: aggregate_bytes(own, phase)
        for protocol, own in by_protocol(runs).items()
        if any(phase in run.bytes for run in own)
    }
    kinds = list(dict.fromkeys(kind for table in counts.values() for kind in table))
    rows = []
    for protocol, table in counts.items():
        cells = [_megabytes(table[kind][1]) if kind in table else "—" for kind in kinds]
        total = sum(sent for _, sent in table.values())
        rows.append([protocol, *cells, _megabytes(total)])
    if not kinds:
        return None
    return Table(
        title=f"Megabytes sent: {phase_title(phase)}",
        header=["protocol", *kinds, "all"],
        rows=rows,
        note="Means over the seeds; framing is 60 bytes a frame.",
    )


def summary(runs: Sequence[RunResult]) -> str:
    """What a terminal shows after a run, and ``summary.txt`` holds.

    :param runs: of one scenario; at least one.
    """
    seeds = sorted({run.seed for run in runs})
    head = f"{runs[0].scenario}: {count_of(len(seeds), 'seed')}\n"
    tables = [*figure_tables(runs)]
    for phase in phases(runs):
        table = byte_table(runs, phase)
        tables += [table] if table else []
    facts = fact_table(runs)
    tables += [facts] if facts else []
    return "\n".join([head, *(table.text() for table in tables)])


def count_of(count: int, noun: str) -> str:
    """``1 seed``, ``10 seeds``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _megabytes(sent: float) -> str:
    return show(sent / 1e6)


def _seeds_note(runs: Sequence[RunResult]) -> str:
    seeds = {run.seed for run in runs}
    if len(seeds) == 1:
        return f"Seed {min(seeds)}."
    counts = Counter(run.protocol for run in runs)
    fewer = [f"{name} over {count}" for name, count in counts.items() if count < len(seeds)]
    others = f"; {', '.join(fewer)} only" if fewer else ""
    return f"Mean over {count_of(len(seeds), 'seed')}, in brackets the worst{others}."


def _spread_table(
    title: str,
    spreads: Mapping[str, Mapping[str, Spread]],
    kinds: Mapping[str, Kind],
    note: str,
) -> Table:
    names = [name for name in kinds if any(name in table for table in spreads.values())]
    rows = [
        [
            protocol,
            *(spread_text(table[name], kinds[name]) if name in table else "—" for name in names),
        ]
        for protocol, table in spreads.items()
    ]
    header = ["protocol", *(kinds[name].title for name in names)]
    return Table(title=title, header=header, rows=rows, note=note)
