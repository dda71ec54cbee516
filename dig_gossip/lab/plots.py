"""Pictures of results, as SVG: propagation, redundancy, healing, degree and depth of the tree.

Matplotlib draws, without its global state and without a display. Text stays text. Each picture is
one figure with two looks: :attr:`Picture.file` has a white ground and colors of its own,
:attr:`Picture.inline` takes colors and fonts from the page around it, so that it is readable on a
light ground and on a dark one. The same runs give the same bytes with the same Matplotlib.

Programs row of the stage table. Source: design §6, D17.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs

from dig_gossip.lab.aggregates import phases, rows_of
from dig_gossip.lab.tables import by_protocol, phase_title
from dig_gossip.lab.values import WARMUP, MessageRow, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: One color a protocol, in the order in which they come; told apart also by those who see few
#: colors. The page has a lighter set for its dark ground, in the same order.
COLORS: Final = (
    "#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#b4236a", "#8a6100", "#0f766e", "#475569",
)  # fmt: skip
DASHES: Final = ("-", "--", "-.", ":")

_INK: Final = "#1f2430"
_GRID: Final = "#d5d9e0"
_WIDTH, _HEIGHT = 5.2, 3.3  # inches: a phone shows them at about their own size
#: Points of redundancy over time.
_BINS: Final = 60

#: Draws into an empty figure; says whether there was anything to draw.
_Draw: TypeAlias = "Callable[[Figure, Sequence[RunResult]], bool]"


@attrs.frozen(kw_only=True)
class Picture:
    """A picture of results.

    :ivar name: of its file, without the end.
    :ivar title: one line.
    :ivar text: a sentence or two that say how to read it.
    :ivar file: a complete SVG file.
    :ivar inline: an ``svg`` element for a page that defines ``--ink``, ``--rule`` and ``--c0`` …
        ``--c7``.
    """

    name: str
    title: str
    text: str
    file: str
    inline: str


def pictures(runs: Sequence[RunResult], *, prefix: str = "") -> list[Picture]:
    """Draw all that there is something to draw of.

    :param runs: of one scenario.
    :param prefix: for the names, so that a page can have several sets.
    """
    drawings = [
        *_DRAWINGS[:2],
        *(
            (f"healing-{phase}", f"Healing: {phase_title(phase)}", _HEALING_TEXT, _healing(phase))
            for phase in phases(runs)
            if is_healing(phase)
        ),
        *_DRAWINGS[2:],
    ]
    drawn = []
    for name, title, text, draw in drawings:
        picture = _picture(_file_name(prefix + name), title, text, draw, runs)
        drawn += [picture] if picture else []
    return drawn


def _file_name(name: str) -> str:
    """A phase may be called anything; a file, and an element of a page, may not."""
    return re.sub(r"[^\w-]", "-", name, flags=re.ASCII).replace("_", "-")


def _picture(
    name: str,
    title: str,
    text: str,
    draw: _Draw,
    runs: Sequence[RunResult],
) -> Picture | None:
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {  # Any: Matplotlib's type lists three hundred literals
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"],
        "font.size": 10.5,
        "axes.facecolor": "none",
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.7,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        if not draw(figure, runs):
            return None
        return Picture(
            name=name,
            title=title,
            text=text,
            file=_svg(figure, "white"),
            inline=_for_page(_svg(figure, "none"), name, title),
        )


def _svg(figure: Figure, ground: str) -> str:
    out = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Type": None, "Format": None}
    figure.savefig(out, format="svg", facecolor=ground, metadata=nothing)
    return out.getvalue()


def _for_page(svg: str, name: str, title: str) -> str:
    """Cut an SVG file down to its element, with colors of the page and ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: var(--sans)")
    for index, color in enumerate(COLORS):
        svg = svg.replace(color, f"var(--c{index})")
    return svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--rule)").strip() + "\n"


def _styles(runs: Sequence[RunResult]) -> dict[str, tuple[str, str]]:
    """Color and dashes of each protocol."""
    return {
        protocol: (COLORS[index % len(COLORS)], DASHES[index % len(DASHES)])
        for index, protocol in enumerate(by_protocol(runs))
    }


def _measured(runs: Sequence[RunResult]) -> str | None:
    """The phase that steady figures are taken from: the first that is no warm-up."""
    return next((phase for phase in phases(runs) if phase != WARMUP), None)


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="small", handlelength=2.6)


def _propagation(figure: Figure, runs: Sequence[RunResult]) -> bool:
    phase = _measured(runs)
    if phase is None or not any(run.cdf.get(phase) for run in runs):
        return False
    axes = figure.subplots()
    styles = _styles(runs)
    for protocol, own in by_protocol(runs).items():
        color, dashes = styles[protocol]
        label: str | None = protocol
        for run in own:
            points = [(0.0, 0.0), *run.cdf.get(phase, ())]
            axes.plot(
                [seconds for seconds, _ in points],
                [100 * share for _, share in points],
                dashes,
                color=color,
                label=label,
                linewidth=1.8 if len(own) == 1 else 1.1,
                alpha=1 if len(own) == 1 else 0.75,
            )
            label = None
    axes.set_xlabel("seconds since the origin sent it")
    axes.set_ylabel("deliveries, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 101)
    _legend(axes)
    return True


def _binned(points: Iterable[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """Times and ratios of (time, part, whole) in at most :data:`_BINS` equal spans of time."""
    ordered = sorted(points)
    if not ordered:
        return []
    start, end = ordered[0][0], ordered[-1][0]
    width = (end - start) / _BINS or 1.0
    sums: dict[int, tuple[float, float]] = {}
    for seconds, part, whole in ordered:
        index = min(int((seconds - start) / width), _BINS - 1)
        parts, wholes = sums.get(index, (0.0, 0.0))
        sums[index] = (parts + part, wholes + whole)
    return [
        (start + (index + 0.5) * width, part / whole)
        for index, (part, whole) in sums.items()
        if whole
    ]


def _redundancy(figure: Figure, runs: Sequence[RunResult]) -> bool:
    from matplotlib.ticker import FuncFormatter

    axes = figure.subplots()
    styles = _styles(runs)
    drawn = False
    for protocol, own in by_protocol(runs).items():
        color, dashes = styles[protocol]
        points = _binned(
            (row["sent"], row["payload_copies"], row["delivered"])
            for run in own
            for row in run.messages
        )
        if points:
            drawn = True
            axes.plot(
                [seconds for seconds, _ in points],
                # A protocol may deliver with less than a copy each, by sketches or compact blocks.
                [max(ratio - 1, 0) for _, ratio in points],
                dashes,
                color=color,
                label=protocol,
            )
    axes.set_xlabel("simulated seconds")
    axes.set_ylabel("needless full copies a delivery")
    axes.set_yscale("symlog", linthresh=1, linscale=0.6)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _shade_warmup(axes, runs)
    _legend(axes)
    return drawn


def _shade_warmup(axes: Axes, runs: Sequence[RunResult]) -> None:
    end = max((row["sent"] for run in runs for row in rows_of(run, WARMUP)), default=None)
    if end is not None:
        axes.axvspan(0, end, color=_GRID, alpha=0.45, linewidth=0)
        axes.set_xlim(left=0)
        axes.annotate(
            "warm-up", (0, 1), xytext=(3, -2), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize="small",
        )  # fmt: skip


def is_healing(phase: str) -> bool:
    """Whether a phase follows a failure: its name says so."""
    return phase.startswith("after") or "fail" in phase or "heal" in phase


def _healing(phase: str) -> _Draw:
    """Share delivered and p99 of the first messages of a phase."""

    def draw(figure: Figure, runs: Sequence[RunResult]) -> bool:
        return _draw_healing(figure, runs, phase)

    return draw


def _draw_healing(figure: Figure, runs: Sequence[RunResult], phase: str) -> bool:
    shares, delays = figure.subplots(2, 1, sharex=True)
    styles = _styles(runs)
    drawn = False
    for protocol, own in by_protocol(runs).items():
        color, dashes = styles[protocol]
        tables = [rows_of(run, phase) for run in own]
        length = min(_HEALING_MESSAGES, min(len(rows) for rows in tables))
        if not length:
            continue
        drawn = True
        numbers = range(1, length + 1)
        for axes, value in ((shares, _percent_delivered), (delays, _p99)):
            columns = [[value(rows[index]) for rows in tables] for index in range(length)]
            means = [sum(column) / len(column) for column in columns]
            axes.plot(numbers, means, dashes, color=color, label=protocol, marker="o", markersize=3)
            least = [min(column) for column in columns]
            most = [max(column) for column in columns]
            axes.fill_between(numbers, least, most, color=color, alpha=0.15, linewidth=0)
    shares.set_ylabel("delivered, %")
    shares.set_ylim(top=101)
    delays.set_ylabel("p99, s")
    delays.set_ylim(bottom=0)
    delays.set_xlabel("messages since the failure")
    _whole_numbers(delays)
    _legend(delays)
    return drawn


def _percent_delivered(row: MessageRow) -> float:
    return 100 * row["delivered"] / max(row["reachable"], 1)


def _p99(row: MessageRow) -> float:
    return row["p99"]


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


#: Messages after a failure that the healing curve shows.
_HEALING_MESSAGES: Final = 40


def _histogram(name: str, label: str) -> _Draw:
    def draw(figure: Figure, runs: Sequence[RunResult]) -> bool:
        axes = figure.subplots()
        styles = _styles(runs)
        drawn = False
        for protocol, own in by_protocol(runs).items():
            shares = _mean_shares([_histogram_of(run, name) for run in own])
            if shares:
                drawn = True
                color, dashes = styles[protocol]
                axes.plot(
                    list(shares), [100 * share for share in shares.values()], dashes,
                    color=color, label=protocol, marker="o", markersize=3.5,
                )  # fmt: skip
        axes.set_xlabel(label)
        axes.set_ylabel("nodes, %")
        axes.set_ylim(bottom=0)
        _whole_numbers(axes)
        _legend(axes)
        return drawn

    return draw


def _histogram_of(run: RunResult, name: str) -> Mapping[str, int]:
    return run.tree["degree"] if name == "degree" else run.tree["depth"]


def _mean_shares(histograms: Sequence[Mapping[str, int]]) -> dict[int, float]:
    """Value -> share of the nodes, over all seeds together, by value."""
    total = sum(sum(histogram.values()) for histogram in histograms)
    counts: dict[int, int] = {}
    for histogram in histograms:
        for value, count in histogram.items():
            counts[int(value)] = counts.get(int(value), 0) + count
    return {value: counts[value] / total for value in sorted(counts)} if total else {}


def _captured(figure: Figure, runs: Sequence[RunResult]) -> bool:
    if not any("captured" in row for run in runs for row in run.series):
        return False
    axes = figure.subplots()
    styles = _styles(runs)
    for protocol, own in by_protocol(runs).items():
        color, dashes = styles[protocol]
        label: str | None = protocol
        for run in own:
            rows = [row for row in run.series if "captured" in row]
            axes.plot(
                [row["t"] / 60 for row in rows],
                [100 * row["captured"] for row in rows],
                dashes,
                color=color,
                label=label,
            )
            label = None
    axes.set_xlabel("minutes")
    axes.set_ylabel("outbound sessions, %")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 101)
    _legend(axes)
    return True


#: Facts about what spies find out, and what to call them.
_FOUND_OUT: Final[Mapping[str, str]] = {
    "adversary.guessed_share": "first spy,\nrecall",
    "adversary.first_spy_precision": "first spy,\nprecision",
    "adversary.graph_recall": "graph,\nrecall",
    "adversary.graph_precision": "graph,\nprecision",
}


def _found_out(figure: Figure, runs: Sequence[RunResult]) -> bool:
    names = [name for name in _FOUND_OUT if any(name in run.facts for run in runs)]
    if not names:
        return False
    axes = figure.subplots()
    styles = _styles(runs)
    protocols = by_protocol(runs)
    width = 0.8 / len(protocols)
    for place, (protocol, own) in enumerate(protocols.items()):
        shown = [index for index, name in enumerate(names) if name in own[0].facts]
        means = [sum(run.facts.get(names[index], 0.0) for run in own) / len(own) for index in shown]
        at = [index + (place + 0.5) * width - 0.4 for index in shown]
        color = styles[protocol][0]
        axes.bar(at, [100 * mean for mean in means], width, color=color, label=protocol)
    axes.set_xticks(range(len(names)), [_FOUND_OUT[name] for name in names])
    axes.set_ylabel("%")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return True


_HEALING_TEXT: Final = (
    "The first messages after the failure: how many of the deliveries that a flood would have made "
    "happened, and how long they took; mean over the seeds, in a band from least to most."
)

_DRAWINGS: Final[Sequence[tuple[str, str, str, _Draw]]] = (
    (
        "propagation",
        "Propagation",
        "Share of the due deliveries that had happened so many seconds after the origin sent the "
        "message; one line a seed. A line that ends below 100\N{NO-BREAK SPACE}% has deliveries "
        "missing.",
        _propagation,
    ),
    (
        "redundancy",
        "Redundancy over time",
        "Full copies beyond the one that each delivery needs, over all seeds; linear up to one, "
        "logarithmic above.",
        _redundancy,
    ),
    (
        "degree",
        "Degree of the tree",
        "Links of a node along which full messages travel, at the end of the runs.",
        _histogram("degree", "eager links of a node"),
    ),
    (
        "depth",
        "Depth of the tree",
        "Hops from the origin, as the last message of each run went.",
        _histogram("depth", "hops from the origin"),
    ),
    (
        "found-out",
        "What spies find out",
        "How often they are right about who sent a message, and how much of what they ascribe to a "
        "node is its own; means over the seeds.",
        _found_out,
    ),
    (
        "captured",
        "Captured sessions",
        "The share of honest nodes' outbound sessions that lead to an attacker; one line a seed.",
        _captured,
    ),
)
