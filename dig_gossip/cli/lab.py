"""``dig-gossip lab``: simulate scenarios, and look at what came of it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dig_gossip.errors import GossipError
from dig_gossip.util.sanitize import sanitize_text

if TYPE_CHECKING:
    from dig_gossip.lab.scenario import Scenario
    from dig_gossip.lab.sweep import Progress

_LINE_EVERY_SECS = 5.0
_MISSING = "this needs the extra «lab»: pip install 'dig-gossip[lab]' ({name} is missing)"


def add_verb(verbs: Any) -> None:  # Any: argparse's action for subparsers is private
    """Teach the command its verb."""
    lab = verbs.add_parser(
        "lab",
        help="simulate thousands of nodes",
        description="The node's own engines, and models of other protocols, in a simulated "
        "network. The same scenario and seed give the same figures everywhere.",
    )
    actions = lab.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="the scenarios that come with the program")
    listing.set_defaults(action=_list)

    show = actions.add_parser("show", help="print a scenario, to start one's own from")
    show.add_argument("scenario", metavar="SCENARIO", help="a file, or a name from «lab list»")
    show.set_defaults(action=_show)

    running = actions.add_parser("run", help="run a scenario and write a folder of results")
    running.add_argument("scenario", metavar="SCENARIO", help="a file, or a name from «lab list»")
    running.add_argument(
        "--protocol",
        action="append",
        metavar="NAME",
        help="instead of those that the scenario names; may be given several times",
    )
    running.add_argument("--seeds", type=_seeds, default=[1], help="1-10, or 3,5,8 (default 1)")
    running.add_argument("--out", metavar="FOLDER", help="where to (default lab-results/NAME)")
    running.add_argument(
        "--keep",
        action="store_true",
        help="go on with what the folder has: only runs that it lacks, of the same scenario",
    )
    running.add_argument(
        "--pack", action="store_true", help="raw figures as runs.jsonl.gz, a tenth of the size"
    )
    running.add_argument("--workers", type=int, help="processes (default: one a core)")
    running.add_argument("--scheduler", metavar="ADDRESS", help="of Dask, tcp://host:8786")
    running.add_argument("--plain", action="store_true", help="lines instead of a progress bar")
    running.set_defaults(action=_run)

    comparing = actions.add_parser("compare", help="put two folders of results side by side")
    comparing.add_argument("a", metavar="A", help="a folder that «lab run» wrote")
    comparing.add_argument("b", metavar="B", help="another one")
    comparing.add_argument("--page", metavar="FILE", help="also write one HTML page")
    comparing.set_defaults(action=_compare)

    tracing = actions.add_parser(
        "trace",
        help="write down what one node is told and wants",
        description="What comes of it can be played again with «lab replay», as a regression test. "
        "Without --node it is the node whose engine raises.",
    )
    tracing.add_argument("scenario", metavar="SCENARIO", help="a file, or a name from «lab list»")
    tracing.add_argument("--protocol", metavar="NAME", help="default: the first of the scenario's")
    tracing.add_argument("--seed", type=int, default=1, help="default 1")
    tracing.add_argument("--node", type=int, help="its number, from 0")
    tracing.add_argument("--out", metavar="FILE", help="default NAME-PROTOCOL-SEED.trace")
    tracing.set_defaults(action=_trace)

    replaying = actions.add_parser("replay", help="play such a trace again, and compare")
    replaying.add_argument("trace", metavar="FILE", help="what «lab trace» wrote")
    replaying.set_defaults(action=_replay)

    for action in (listing, show, running, comparing, tracing, replaying):
        action.set_defaults(run=_guarded)


def _guarded(options: argparse.Namespace) -> int:
    try:
        for line in options.action(options):
            print(line)
    except BrokenPipeError:
        # The reader has seen enough (head); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    except ImportError as error:
        name = sanitize_text(str(error.name))
        print(f"dig-gossip lab: {_MISSING.format(name=name)}", file=sys.stderr)
        return 1
    except (GossipError, OSError, ValueError) as error:
        print(f"dig-gossip lab: {sanitize_text(str(error))}", file=sys.stderr)
        return 1
    return 0


def _find(name: str) -> Scenario:
    from dig_gossip.lab.scenario import load, shipped

    if name.endswith(".toml") or os.sep in name:
        return load(name)
    return shipped(name)


def _list(_: argparse.Namespace) -> Iterable[str]:
    from dig_gossip.lab.scenario import shipped, shipped_names

    names = shipped_names()
    width = max(map(len, names))
    for name in names:
        yield f"{name:{width}}  {shipped(name).title}"


def _show(options: argparse.Namespace) -> Iterable[str]:
    yield _find(options.scenario).text.rstrip("\n")


def _run(options: argparse.Namespace) -> Iterable[str]:
    from dig_gossip.lab.page import write_folder
    from dig_gossip.lab.results import GrowingResults
    from dig_gossip.lab.sweep import sweep
    from dig_gossip.lab.tables import summary

    scenario = _find(options.scenario)
    protocols = options.protocol or scenario.protocols
    for protocol in protocols:
        _check_protocol(protocol)
    folder = options.out or os.path.join("lab-results", scenario.name)
    results = GrowingResults(
        folder,
        scenario.text,
        (*scenario.protocols, *protocols),
        keep=options.keep,
        pack=options.pack,
    )
    before = len(results.present)
    try:
        with _shown(scenario.title, plain=options.plain) as progress:
            outcome = sweep(
                scenario,
                protocols,
                options.seeds,
                workers=options.workers,
                scheduler=options.scheduler,
                progress=progress,
                finished=results.add,
                besides=results.present,
            )
    except KeyboardInterrupt:
        if len(results.present) > before:
            print(f"what is done is in {folder}; --keep goes on from there", file=sys.stderr)
        raise
    if runs := results.in_order():
        write_folder(folder, scenario.text, runs, pack=options.pack)
        yield summary(runs).rstrip("\n")
        yield f"results are in {folder}; open {os.path.join(folder, 'index.html')}"
    if outcome.failures:
        raise ValueError("; ".join(map(str, outcome.failures)))


def _compare(options: argparse.Namespace) -> Iterable[str]:
    from dig_gossip.lab.compare import compare, write_page
    from dig_gossip.lab.results import read_results

    comparison = compare(read_results(options.a), read_results(options.b))
    yield comparison.text().rstrip("\n")
    if options.page:
        write_page(comparison, options.page)


def _check_protocol(name: str) -> None:
    from dig_gossip.lab.scenario import PROTOCOLS

    if name not in PROTOCOLS:
        raise ValueError(f"no protocol is called {name}; there are {', '.join(PROTOCOLS)}")


def _trace(options: argparse.Namespace) -> Iterable[str]:
    from dig_gossip.lab.traces import record, write

    scenario = _find(options.scenario)
    protocol = options.protocol or scenario.protocols[0]
    _check_protocol(protocol)
    text = record(scenario, protocol, options.seed, options.node)
    path = options.out or f"{scenario.name}-{protocol}-{options.seed}.trace"
    write(path, text)
    yield f"the trace is in {path}; play it with «dig-gossip lab replay {path}»"


def _replay(options: argparse.Namespace) -> Iterable[str]:
    from dig_gossip.lab.traces import replay

    replayed = replay(options.trace)
    if replayed.raised:
        raise ValueError(f"the engine raises {replayed.raised}")
    if replayed.difference:
        raise ValueError(replayed.difference)
    yield f"{replayed.events} events came out as they were recorded"


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = int(first)
        high = int(last) if dash else low
        if not 0 <= low <= high < low + 10_000:
            raise argparse.ArgumentTypeError(f"no seeds: {part}")
        seeds += range(low, high + 1)
    return list(dict.fromkeys(seeds))


_seeds.__name__ = "list of seeds"


@contextmanager
def _shown(title: str, *, plain: bool) -> Iterator[Callable[[Progress], None]]:
    """Show how far a sweep is: a bar where rich and a terminal are there, else lines."""
    if not plain and sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars
        except ImportError:
            pass
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f} %  {task.fields[runs]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            with Bars(*columns, console=Console(stderr=True)) as bars:
                task = bars.add_task(title, total=1.0, runs="")

                def move(progress: Progress) -> None:
                    bars.update(task, completed=progress.share, runs=_words(progress))

                yield move
            return
    latest = -_LINE_EVERY_SECS

    def tell(progress: Progress) -> None:
        nonlocal latest
        if time.monotonic() - latest >= _LINE_EVERY_SECS or progress.share >= 1:
            latest = time.monotonic()
            print(f"{progress.share:4.0%}  {_words(progress)}", file=sys.stderr, flush=True)

    yield tell


def _words(progress: Progress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.done} of {progress.total} runs{failed}"
