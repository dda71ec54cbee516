"""How ``localnet`` shows itself: a live table where rich and a terminal are there, else lines."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

import attrs

from dig_gossip.cli.summary import Summary

_LINE_EVERY_SECS = 2.0


@attrs.frozen(kw_only=True)
class NodeRow:
    """One node as the table shows it."""

    number: int
    peer_id: str
    address: str
    peers: int
    known: int
    eager: int
    lazy: int
    sent: int
    delivered: int
    duplicates: int
    bytes_sent: int


class Display(Protocol):
    """Shows a run while it lasts and what it came to."""

    def say(self, text: str) -> None: ...
    def show(self, rows: list[NodeRow], summary: Summary, state: str) -> None: ...
    def finish(self, summary: Summary) -> None: ...
    def close(self) -> None: ...


def make_display(*, plain: bool) -> Display:
    """The best display for this terminal."""
    if not plain and sys.stdout.isatty():
        try:
            return _RichDisplay()
        except ImportError:
            pass
    return _PlainDisplay()


def summary_lines(summary: Summary) -> list[str]:
    """The summary in words."""
    verdict = (
        "every node delivered every message exactly once"
        if summary.complete
        else f"{summary.missing} deliveries missing, {summary.repeated} repeated"
    )
    lines = [
        f"{summary.nodes} nodes, {summary.links} links, {summary.messages} messages of "
        f"{summary.payload_size} bytes: {summary.deliveries} deliveries; {verdict}",
        f"duplicates per delivery {summary.duplicates_per_delivery:.3f}",
        f"bytes per delivery over payload size {summary.byte_ratio:.2f}",
    ]
    if summary.latencies:
        lines.append(
            f"latency p50 {summary.percentile(0.5) * 1000:.1f} ms, "
            f"p99 {summary.percentile(0.99) * 1000:.1f} ms"
        )
    return lines + summary.notes


class _PlainDisplay:
    def __init__(self) -> None:
        self._last = 0.0

    def say(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last >= _LINE_EVERY_SECS:
            self._last = now
            print(text, flush=True)

    def show(self, rows: list[NodeRow], summary: Summary, state: str) -> None:
        if not summary.messages:
            peers = ", ".join(str(row.peers) for row in rows)
            self.say(f"{state}; peers of each node: {peers}")
            return
        eager = sum(row.eager for row in rows)
        lazy = sum(row.lazy for row in rows)
        self.say(
            f"{summary.messages} messages, {summary.deliveries} deliveries, "
            f"{summary.duplicates} duplicates; {eager} eager and {lazy} lazy link ends"
        )

    def finish(self, summary: Summary) -> None:
        for line in summary_lines(summary):
            print(line)

    def close(self) -> None:
        pass


class _RichDisplay:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live: Any = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()
        self._open = True

    def say(self, text: str) -> None:
        from rich.text import Text

        self._live.update(Text(text, style="dim"), refresh=True)

    def show(self, rows: list[NodeRow], summary: Summary, state: str) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title="dig-gossip localnet (Ctrl-C ends it)", title_style="bold", expand=False
        )
        table.add_column("node", justify="right")
        table.add_column("peer id", style="cyan")
        table.add_column("address", style="dim")
        for name, style in (
            ("peers", ""),
            ("known", "dim"),
            ("eager", "green"),
            ("lazy", "yellow"),
            ("sent", ""),
            ("delivered", "bold"),
            ("duplicates", "red"),
            ("KiB out", ""),
        ):
            table.add_column(name, justify="right", style=style)
        for row in rows:
            table.add_row(
                str(row.number + 1),
                row.peer_id[:12],
                row.address,
                str(row.peers),
                str(row.known),
                str(row.eager),
                str(row.lazy),
                str(row.sent),
                str(row.delivered),
                str(row.duplicates),
                f"{row.bytes_sent / 1024:.1f}",
            )
        foot = Text(
            f"{summary.messages} messages   {summary.deliveries} deliveries   "
            f"{summary.duplicates_per_delivery:.3f} duplicates each   "
            f"{summary.byte_ratio:.2f}x the payload's bytes   "
            f"p50 {summary.percentile(0.5) * 1000:.1f} ms   "
            f"p99 {summary.percentile(0.99) * 1000:.1f} ms"
        )
        notes = [Text(note) for note in summary.notes]
        self._live.update(Group(table, foot, *notes, Text(state, style="dim")), refresh=True)

    def finish(self, summary: Summary) -> None:
        self.close()
        for line in summary_lines(summary):
            self._console.print(line, highlight=False)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._live.stop()
