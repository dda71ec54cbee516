"""Tables, pictures, pages, comparisons: what they say, and that they are self-contained."""

from __future__ import annotations

import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.lab.aggregates import FIGURES, Spread
from dig_gossip.lab.compare import Change, compare, comparison_page, write_page
from dig_gossip.lab.page import page, write_folder
from dig_gossip.lab.plots import COLORS, pictures
from dig_gossip.lab.results import Results, read_results
from dig_gossip.lab.tables import Table, byte_table, fact_table, figure_tables, summary
from dig_gossip.lab.values import RunResult, Tree
from tests.lab.made_runs import HEALING, make_run, make_runs

SCENARIO = 'title = "A & B <b>"\ndescription = """\nTwo\nlines."""\n'
#: Elements of HTML and SVG that have no end tag in HTML.
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page as a browser does: elements are closed in order, ids are unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src", "srcset", "data"):
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note an element without content."""
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        assert self.open.pop() == tag, tag


def results_of(runs: list[RunResult], folder: str = "A", text: str = SCENARIO) -> Results:
    """Results as if they had been read."""
    return Results(folder=folder, scenario_text=text, runs=tuple(runs))


class PageCase(SynchronousTestCase):
    """Checks a page."""

    def check(self, text: str) -> Page:
        """It needs nothing from elsewhere, runs nothing, and is well-formed."""
        read = Page(text)
        self.assertEqual(len(read.ids), len(set(read.ids)))
        for link in read.links:
            self.assertTrue(link.startswith("#"), link)
            self.assertIn(link[1:], read.ids)
        for target in re.findall(r"url\(#([^)]+)\)", text):
            self.assertIn(target, read.ids)
        self.assertEqual(read.tags & {"script", "iframe", "object", "embed", "link", "img"}, set())
        self.assertNotIn("@import", text)
        self.assertIn("default-src 'none'", text)
        self.assertIn("width=device-width", text)
        self.assertIn("prefers-color-scheme: dark", text)
        return read


class TableTests(SynchronousTestCase):
    """Tables for people."""

    def test_a_table_has_three_layouts(self) -> None:
        """For a terminal, a page, and the documentation; markup in names is shown.  design §6"""
        table = Table(title="T", header=["a", "b"], rows=[["<x>", "1 (2)"]], note="n & m")
        self.assertEqual(table.text(), "T\n\na        b\n----------\n<x>  1 (2)\n\nn & m\n")
        self.assertIn('<th scope="row">&lt;x&gt;</th><td>1 <small>(2)</small></td>', table.html())
        self.assertIn("n &amp; m", table.html())
        self.assertIn("   * - a\n     - b\n   * - <x>\n     - 1 (2)\n\nn & m\n", table.rst())

    def test_figures_come_with_their_worst(self) -> None:
        """Mean and, where seeds differ, the worst; the warm-up is a table apart.  design §6"""
        runs = [make_run(seed=seed, copies=copies) for seed, copies in ((1, 1.0), (2, 2.0))]
        measured, warmup = figure_tables(runs)
        column = list(measured.header).index("copies per delivery")
        self.assertEqual(measured.rows[0][column], "1.5 (2)")
        self.assertEqual((measured.title, warmup.title), ("Figures: measured", "Figures: warm-up"))
        self.assertIn("in no other table", warmup.note)
        (only, _) = figure_tables(runs[:1])
        self.assertEqual(only.rows[0][column], "1")
        self.assertEqual(only.note, "Seed 1.")

    def test_protocols_with_fewer_seeds_are_named(self) -> None:
        """Their means are not those of the same networks.  design §6"""
        runs = [make_run(name, seed=seed) for name in ("plumtree", "flood") for seed in (1, 2)]
        notes = [figure_tables(runs[:count])[0].note for count in (4, 3)]
        note = "Mean over 2 seeds, in brackets the worst"
        self.assertEqual(notes, [f"{note}.", f"{note}; flood over 1 only."])

    def test_bytes_add_up(self) -> None:
        """Kinds of a protocol and their sum; nothing if nothing was counted.  design §6"""
        run = make_run()
        table = byte_table([run], "measured")
        assert table is not None
        sent = sum(count["bytes"] for count in run.bytes["measured"].values())
        self.assertEqual(table.rows[0][-1], f"{sent / 1e6:.3f}")
        self.assertIsNone(byte_table([run], "later"))

    def test_protocols_without_a_fact_have_a_dash(self) -> None:
        """A table of facts is for all protocols; without facts there is none.  design §6"""
        runs = [make_run(facts={"x": 1.0}), make_run("flood", facts={})]
        table = fact_table(runs)
        assert table is not None
        self.assertEqual(table.rows, [["x", "1", "—"]])
        self.assertIsNone(fact_table(runs[1:]))

    def test_summary_has_every_protocol_and_phase(self) -> None:
        """What the terminal shows.  design §6"""
        text = summary(make_runs(2, phases=HEALING))
        for part in ("small-50: 2 seeds", "Figures: after failure", "gossipsub-1.1", "Megabytes"):
            self.assertIn(part, text)


class PictureTests(SynchronousTestCase):
    """Pictures."""

    def test_pictures_are_drawn_of_what_there_is(self) -> None:
        """Healing for a phase after a failure only; nothing at all of an empty run.  design §6"""
        names = [picture.name for picture in pictures(make_runs(1))]
        self.assertEqual(names, ["propagation", "redundancy", "degree", "depth"])
        names = [picture.name for picture in pictures(make_runs(2, phases=HEALING), prefix="a-")]
        self.assertIn("a-healing-after-failure", names)
        empty = attrs.evolve(
            make_run(phases={}), bytes={}, cdf={}, series=[], tree=Tree(degree={}, depth={})
        )
        self.assertEqual(pictures([empty]), [])

    def test_files_are_svg_with_text_and_the_figures(self) -> None:
        """Text is text, a protocol has its color, the same runs give the same bytes.  design §6"""
        runs = make_runs(2)
        drawn, again = pictures(runs), pictures(runs)
        for picture, other in zip(drawn, again, strict=True):
            root = ElementTree.fromstring(picture.file)
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
            words = " ".join(root.itertext())
            for index, protocol in enumerate(("plumtree", "flood", "gossipsub-1.1", "announce")):
                self.assertIn(protocol, words)
                self.assertIn(COLORS[index], picture.file)
            self.assertEqual((picture.file, picture.inline), (other.file, other.inline))

    def test_curves_follow_the_runs(self) -> None:
        """Other figures make another picture.  design §6"""
        one = {p.name: p.file for p in pictures([make_run(lost=0, phases=HEALING)])}
        two = {p.name: p.file for p in pictures([make_run(lost=9, phases=HEALING)])}
        self.assertNotEqual(one["healing-after-failure"], two["healing-after-failure"])
        self.assertNotEqual(one["propagation"], pictures([make_run(p99=2.0)])[0].file)
        self.assertEqual(one["degree"], two["degree"])

    def test_inline_pictures_take_the_page_s_colors(self) -> None:
        """No color of their own is left, so that they are readable on a dark ground.  design §6"""
        for picture in pictures(make_runs(2, phases=HEALING)):
            colors = set(re.findall(r"#[0-9a-f]{6}\b", picture.inline))
            self.assertEqual(colors, set(), picture.name)
            self.assertIn("var(--c0)", picture.inline)
            self.assertTrue(picture.inline.startswith("<svg "))

    def test_extreme_figures_are_drawn(self) -> None:
        """What a result file may say is no reason to fail.  design D14"""
        run = make_run()
        rows = [row.copy() for row in run.messages[:3]]
        for index, row in enumerate(rows):
            row["sent"], row["payload_copies"], row["p99"] = 1e15 * index, 10**15, 1e15
        strange = attrs.evolve(
            run,
            protocol="$x_{$",
            messages=rows,
            cdf={"measured": [(0.0, 0.0), (1e15, 0.0), (1e15, 1.0)]},
            tree=Tree(degree={"0": 0, "999999999": 1}, depth={"5": 0}),
        )
        names = [picture.name for picture in pictures([strange])]
        self.assertEqual(names, ["propagation", "redundancy", "degree"])


class FolderPageTests(PageCase):
    """``index.html``."""

    def test_page_is_self_contained(self) -> None:
        """With the text escaped: a scenario may be a stranger's.  design D14"""
        results = results_of(make_runs(2, phases=HEALING))
        text = page(results, pictures(results.runs))
        read = self.check(text)
        self.assertIn("<h1>A &amp; B &lt;b&gt;</h1>", text)
        self.assertIn("<p>Two lines.</p>", text)
        self.assertIn("title = &quot;A &amp; B &lt;b&gt;&quot;", text)
        self.assertIn("4 protocols, 2 seeds", text)
        self.assertIn("svg", read.tags)
        self.assertNotIn("<b>&", text)

    def test_scenario_that_is_no_toml_is_shown(self) -> None:
        """The configuration is there to be read, whatever it is; no title, no text.  design D14"""
        for text in ("[[[", "a = " + "[" * 20_000, 'title = 5\nscenario = "x"'):
            results = results_of(make_runs(1), text=text)
            self.assertIn("<h1>small-50</h1>", page(results, []))

    def test_a_run_of_warm_up_only_has_a_page(self) -> None:
        """No cards, no measured phase, no facts.  design §6"""
        results = results_of([make_run(phases={"warmup": 3}, facts={})])
        self.check(page(results, pictures(results.runs)))

    def test_folder_is_complete_and_deterministic(self) -> None:
        """Raw figures, table, pictures and page; the same bytes from the same runs.  design §6"""
        folders = [self.mktemp(), self.mktemp()]
        for folder in folders:
            write_folder(folder, SCENARIO, make_runs(2))
        names = [
            "index.html", "plots/degree.svg", "plots/depth.svg", "plots/propagation.svg",
            "plots/redundancy.svg", "runs.jsonl", "scenario.toml", "summary.txt",
        ]  # fmt: skip
        for folder in folders:
            found = sorted(
                str(Path(place, name).relative_to(folder))
                for place, _, files in os.walk(folder)
                for name in files
            )
            self.assertEqual(found, names)
        for name in names:
            one, two = (Path(folder, name).read_bytes() for folder in folders)
            self.assertEqual(one, two, name)
        again = read_results(folders[0])
        write_folder(folders[1], again.scenario_text, again.runs)
        for name in ("runs.jsonl", "scenario.toml"):
            one, two = (Path(folder, name).read_bytes() for folder in folders)
            self.assertEqual(one, two, name)


class ComparisonTests(PageCase):
    """Two folders side by side."""

    def spread(self, *values: float) -> Spread:
        """A delay of several seeds."""
        return Spread.of(values, FIGURES["p99"])

    def change(self, a: Spread | None, b: Spread | None, name: str = "p99") -> Change:
        """Of a figure."""
        return Change(kind=FIGURES[name], a=a, b=b)

    def test_a_change_is_clear_if_no_seeds_overlap(self) -> None:
        """Better or worse by the figure's direction; one seed proves nothing.  design §6"""
        low, high = self.spread(1.0, 2.0), self.spread(2.5, 3.0)
        self.assertEqual(self.change(low, high).verdict, "worse")
        self.assertEqual(self.change(high, low).verdict, "better")
        self.assertEqual(self.change(low, high, "delivered_share").verdict, "better")
        self.assertEqual(self.change(low, high, "messages").verdict, "differs")
        self.assertEqual(self.change(low, self.spread(2.0, 3.0)).verdict, "")
        self.assertEqual(self.change(self.spread(1.0), self.spread(9.0)).verdict, "")
        self.assertEqual(self.change(None, low).verdict, "")

    def test_a_change_has_difference_and_ratio(self) -> None:
        """Where both say something.  design §6"""
        cells = self.change(self.spread(1.0), self.spread(1.5)).cells()
        self.assertEqual([cell.replace("\xa0", " ") for cell in cells],
                         ["p99", "1 s", "1.5 s", "+500 ms", "1.500", ""])  # fmt: skip
        never = self.spread(math.inf)
        self.assertEqual(self.change(self.spread(1.0), never).cells()[3:5], ["—", "inf"])
        self.assertEqual(self.change(never, self.spread(1.0)).cells()[3:5], ["—", "—"])
        self.assertEqual(self.change(self.spread(0.0), self.spread(1.0)).cells()[4], "—")
        share = self.change(self.spread(1.0), self.spread(0.99999), "delivered_share").cells()
        self.assertEqual(share[3].replace("\xa0", " "), "-0.001 points")

    def test_folders_are_compared_by_protocol(self) -> None:
        """Those that only one has are named; changes of the configuration are shown.  design §6"""
        a = results_of(make_runs(2))
        b = results_of(
            [make_run(seed=seed, p99=9.0) for seed in (1, 2)], "B", SCENARIO + "nodes = 5\n"
        )
        text = compare(a, b).text().replace("\xa0", " ")
        self.assertIn("Only in A: flood, gossipsub-1.1, announce.", text)
        self.assertRegex(text, r"(?m)^p99 .* 9 s .* worse$")
        self.assertIn("\n+nodes = 5", text)
        self.assertNotIn("seeds differ", text)
        self.assertEqual(compare(a, a).scenario_changes(), [])

    def test_two_protocols_alone_are_compared_with_each_other(self) -> None:
        """Folders of one protocol each.  design §6"""
        a, b = results_of([make_run()]), results_of([make_run("flood", 2)])
        comparison = compare(a, b)
        self.assertEqual(comparison.sections[0].title, "plumtree (A) and flood (B): measured")
        self.assertEqual((comparison.only_a, comparison.only_b), ((), ()))
        self.assertIn("The seeds differ", " ".join(comparison.notes()))

    def test_folders_with_nothing_in_common_are_said_to_be(self) -> None:
        """No table, and a page nevertheless.  design §6"""
        comparison = compare(
            results_of([make_run("flood"), make_run("announce")]), results_of([make_run()])
        )
        self.assertIn("no protocol in common", comparison.text())
        self.check(comparison_page(comparison))

    def test_page_shows_both_sides(self) -> None:
        """Pictures in pairs, the diff escaped, nothing from elsewhere.  design D14"""
        path = os.path.join(self.mktemp(), "comparison.html")
        a = results_of(make_runs(2, protocols=("plumtree",)))
        b = results_of(make_runs(2, protocols=("plumtree",)), "B", "<i>\n")
        write_page(compare(a, b), path)
        text = Path(path).read_text(encoding="utf-8")
        self.check(text)
        self.assertIn("<ins>+&lt;i&gt;</ins>", text)
        titles = re.findall(r"<figure><h3>(.*?)</h3>", text)
        self.assertEqual(titles[:2], ["A: Propagation", "B: Propagation"])


class EnginePictureTests(SynchronousTestCase):
    """Pictures that only runs of some engines have."""

    def names(self, runs: list[RunResult]) -> list[str]:
        """What is drawn."""
        return [picture.name for picture in pictures(runs)]

    def test_what_spies_find_out(self) -> None:
        """Bars for each protocol that was spied on.  design §6"""
        plain = make_run("flood")
        self.assertNotIn("found-out", self.names([plain]))
        facts = {"adversary.guessed_share": 0.5, "adversary.first_spy_precision": 0.4}
        spied = [make_run("announce", facts=facts), plain]
        self.assertIn("found-out", self.names(spied))

    def test_captured_sessions(self) -> None:
        """A line over time.  design §6"""
        run = make_run("flood")
        self.assertNotIn("captured", self.names([run]))
        series = [{"t": 60.0 * step, "captured": 0.1 * step} for step in range(5)]
        self.assertIn("captured", self.names([attrs.evolve(run, series=series)]))
