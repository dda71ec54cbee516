"""A result folder as one HTML page that needs nothing else: no script, no file beside it.

Figures, pictures and the configuration; for a screen and a phone, on a light ground and on a dark
one. The page forbids itself to load anything. All text comes from results, which may be a
stranger's, and is escaped.

Programs row of the stage table. Source: design §6, D14.
"""

from __future__ import annotations

import html
import os
import tomllib
from collections.abc import Sequence
from typing import Final

from dig_gossip.lab.aggregates import aggregate, phases, show
from dig_gossip.lab.plots import COLORS, Picture, pictures
from dig_gossip.lab.results import SUMMARY_FILE, Results, write_results, write_text
from dig_gossip.lab.tables import (
    Table,
    by_protocol,
    byte_table,
    count_of,
    fact_table,
    figure_tables,
    phase_title,
    summary,
)
from dig_gossip.lab.values import WARMUP, RunResult

PAGE_FILE: Final = "index.html"
PLOTS_FOLDER: Final = "plots"

#: The colors of :data:`~dig_gossip.lab.plots.COLORS` for a dark ground.
_DARK_COLORS: Final = (
    "#5cc0ea", "#fb923c", "#a3d65c", "#c69bf7", "#f27fb2", "#e5bd4f", "#4fd1c5", "#a9b4c4",
)  # fmt: skip

_STYLE: Final = """\
:root { color-scheme: light dark; --ground: #fcfcfa; --card: #fff; --ink: #1f2430; --soft: #59606e;
  --rule: #dde0e6; --accent: #0b6e99;
  --sans: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; LIGHT }
@media (prefers-color-scheme: dark) { :root { --ground: #14171d; --card: #1b1f27; --ink: #e6e8ec;
  --soft: #9aa2b1; --rule: #343a46; --accent: #5cc0ea; DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 var(--sans); -webkit-text-size-adjust: 100%; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem; }
h1 { font-size: clamp(1.5rem, 5vw, 2.1rem); line-height: 1.2; margin: 1rem 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .8rem; padding-top: .8rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.lead, .note, figcaption { color: var(--soft); }
.note, figcaption { font-size: .87rem; }
a { color: var(--accent); }
.scroll { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px;
  background: var(--card); }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .7rem; text-align: right; }
td { min-width: 4.2rem; } td small { color: var(--soft); white-space: nowrap; }
thead th { color: var(--soft); font-weight: 500; border-bottom: 1px solid var(--rule);
  vertical-align: bottom; line-height: 1.3; }
tbody th { white-space: nowrap; }
@media (max-width: 40rem) { tbody th { white-space: normal; min-width: 6rem; }
  th, td { padding: .4rem .5rem; } figure { padding: .6rem; } }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card);
  font-weight: 600; }
.cards { display: grid; gap: .8rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.card { background: var(--card); border: 1px solid var(--rule); border-top: 3px solid;
  border-radius: 8px; padding: .7rem .9rem; }
.card b { display: block; margin-bottom: .3rem; }
.card dl { display: grid; grid-template-columns: 1fr auto; gap: .1rem .8rem; margin: 0;
  font-size: .9rem; font-variant-numeric: tabular-nums; }
.card dt { color: var(--soft); }
.card dd { margin: 0; text-align: right; }
.plots { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
figure { margin: 0; padding: .9rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; max-width: 40rem; }
figure h3 { margin: 0 0 .5rem; }
figure svg { display: block; width: 100%; height: auto; }
pre { overflow-x: auto; padding: 1rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; font: .84rem/1.5 var(--mono); }
del { color: #c0362c; text-decoration: none; } ins { color: #2c8a4b; text-decoration: none; }
@media print { details > * { display: block; } .card, figure { break-inside: avoid; } }
"""


def document(title: str, body: str) -> str:
    """Wrap what a page shows into HTML with the common look.

    :param title: text.
    :param body: HTML.
    """
    light, dark = (
        " ".join(f"--c{index}: {color};" for index, color in enumerate(colors))
        for colors in (COLORS, _DARK_COLORS)
    )
    style = _STYLE.replace("LIGHT", light).replace("DARK", dark)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def page(results: Results, drawn: Sequence[Picture]) -> str:
    """Make the page of a folder.

    :param drawn: what :func:`~dig_gossip.lab.plots.pictures` drew of the same runs.
    """
    runs = results.runs
    title, about = _about(results)
    seeds = results.seeds
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"{count_of(len(seeds), 'seed')}"
    lead = f"{count_of(len(results.protocols), 'protocol')}, {which}"
    parts = [
        f"<h1>{html.escape(title)}</h1>\n",
        f'<p class="lead">{html.escape(results.name)}: {lead}.</p>\n',
        f"<p>{html.escape(about)}</p>\n" if about else "",
        _cards(runs),
        "<h2>Figures</h2>\n",
        *(table.html() for table in figure_tables(runs)),
        "<h2>Pictures</h2>\n",
        figures_html(drawn),
        "<h2>Where the bytes went</h2>\n",
        *(table.html() for table in _byte_tables(runs)),
        _facts(runs),
        "<h2>Configuration</h2>\n",
        f'<pre tabindex="0">{html.escape(results.scenario_text)}</pre>\n',
        f'<p class="note">Seeds: {", ".join(str(seed) for seed in seeds)}. The same scenario, '
        "protocol and seed give the same figures on every machine.</p>\n",
    ]
    return document(title, "".join(parts))


def write_folder(
    folder: str, scenario_text: str, runs: Sequence[RunResult], *, pack: bool = False
) -> None:
    """Write a result folder: raw figures, summary, pictures, page.

    :param folder: made if it is missing; files of the same names are replaced.
    :param scenario_text: TOML.
    :param runs: at least one, all of one scenario, in the order in which they are to be shown.
    :param pack: the raw figures with gzip.
    :raises ValueError: runs of several scenarios, or a figure that is not finite.
    :raises OSError: a file cannot be written.
    Cost: about two seconds for the pictures.
    """
    write_results(folder, scenario_text, runs, pack=pack)
    write_text(os.path.join(folder, SUMMARY_FILE), summary(runs))
    drawn = pictures(runs)
    for picture in drawn:
        write_text(os.path.join(folder, PLOTS_FOLDER, f"{picture.name}.svg"), picture.file)
    results = Results(folder=folder, scenario_text=scenario_text, runs=tuple(runs))
    write_text(os.path.join(folder, PAGE_FILE), page(results, drawn))


def figures_html(drawn: Sequence[Picture]) -> str:
    """Pictures side by side, each with its title and how to read it."""
    shown = "".join(
        f"<figure><h3>{html.escape(picture.title)}</h3>\n{picture.inline}"
        f"<figcaption>{html.escape(picture.text)}</figcaption></figure>\n"
        for picture in drawn
    )
    return f'<div class="plots">\n{shown}</div>\n'


def _about(results: Results) -> tuple[str, str]:
    """Title and description of a scenario; the name and "" if its text does not say."""
    try:
        data = tomllib.loads(results.scenario_text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return results.name, ""
    # Either at the top or in a table of their own.
    tables = [data, data.get("scenario")]
    found = {
        key: table[key]
        for table in reversed(tables)
        if isinstance(table, dict)
        for key in ("title", "description", "about")
        if isinstance(table.get(key), str)
    }
    about = found.get("description", found.get("about", ""))
    return found.get("title", results.name), " ".join(about.split())


def _cards(runs: Sequence[RunResult]) -> str:
    """A card a protocol with the figures that are asked for first, in the phase that counts."""
    phase = next((name for name in phases(runs) if name != WARMUP), None)
    if phase is None:
        return ""
    cards = []
    for index, (protocol, own) in enumerate(by_protocol(runs).items()):
        spreads = aggregate(own, phase)
        rows = [
            (label, show(spreads[name].mean, unit))
            for name, label, unit in (
                ("bytes_over_ideal", "bytes over ideal", ""),
                ("p99", "p99 delivery", "s"),
                ("delivered_share", "delivered", "share"),
            )
            if name in spreads
        ]
        listed = "".join(f"<dt>{label}</dt><dd>{value}</dd>" for label, value in rows)
        cards.append(
            f'<div class="card" style="border-top-color: var(--c{index % len(COLORS)})">'
            f"<b>{html.escape(protocol)}</b><dl>{listed}</dl></div>\n"
        )
    return f'<div class="cards">\n{"".join(cards)}</div>\n<p class="note">Phase: ' + (
        f"{html.escape(phase_title(phase))}. Means over the seeds.</p>\n"
    )


def _byte_tables(runs: Sequence[RunResult]) -> list[Table]:
    tables = [byte_table(runs, phase) for phase in sorted(phases(runs), key=WARMUP.__eq__)]
    return [table for table in tables if table]


def _facts(runs: Sequence[RunResult]) -> str:
    table = fact_table(runs)
    return f"<h2>Facts</h2>\n{table.html()}" if table else ""
