"""Figures of runs, computed by hand and by the code."""

from __future__ import annotations

import math

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.lab.aggregates import (
    FIGURES,
    Kind,
    Spread,
    aggregate,
    aggregate_bytes,
    aggregate_facts,
    fact_kind,
    figures,
    phases,
    quantile,
    show,
)
from dig_gossip.lab.run import run as simulate
from dig_gossip.lab.scenario import parse
from dig_gossip.lab.values import Count, MessageRow, RunResult, Tree
from tests.lab.made_runs import HEALING, make_run

NBSP = "\N{NO-BREAK SPACE}"


def row(phase: str, reachable: int, delivered: int, copies: int, slowest: float) -> MessageRow:
    """A message of 1 000 bytes."""
    return MessageRow(
        id=0, origin=0, size=1000, sent=0.0, phase=phase, reachable=reachable,
        delivered=delivered, p50=0.1, p90=0.2, p99=0.3, max=slowest, payload_copies=copies,
    )  # fmt: skip


def small_run() -> RunResult:
    """Two messages to ten nodes, and one that warms up."""
    return RunResult(
        scenario="s",
        protocol="p",
        seed=1,
        messages=[
            row("warmup", 10, 10, 70, 9.0),
            row("measured", 10, 10, 12, 0.5),
            row("measured", 10, 8, 6, 0.7),
        ],
        bytes={
            "warmup": {"payload": Count(frames=70, bytes=70_420)},
            "measured": {
                "payload": Count(frames=18, bytes=18_108),
                "announcements": Count(frames=9, bytes=360),
                "prunes": Count(frames=2, bytes=18),
                "framing": Count(frames=29, bytes=1740),
            },
        },
        cdf={"measured": [(0.1, 0.5), (0.3, 0.9)]},
        series=[],
        tree=Tree(degree={}, depth={}),
        facts={"measured.p50": 0.11, "p99": 1.0},
    )


class FigureTests(SynchronousTestCase):
    """What a phase comes to."""

    def test_figures_of_a_phase(self) -> None:
        """Sums over its messages, by hand; the warm-up is another phase.  design §6"""
        found = figures(small_run(), "measured")
        self.assertEqual(found["messages"], 2)
        self.assertAlmostEqual(found["delivered_share"], 18 / 20)
        self.assertAlmostEqual(found["copies"], 1.0)
        self.assertAlmostEqual(found["bytes_over_ideal"], (18_108 + 360 + 18 + 1740) / (18 * 1066))
        self.assertAlmostEqual(found["announcement_bytes"], 20)
        self.assertAlmostEqual(found["control_bytes"], 1)
        self.assertEqual(found["max"], 0.7)
        self.assertEqual(figures(small_run(), "warmup")["copies"], 7)
        self.assertEqual(list(found), [name for name in FIGURES if name in found])

    def test_quantiles_count_what_is_missing(self) -> None:
        """A share that was never reached took forever, whatever the run itself says.  design §6"""
        found = figures(small_run(), "measured")
        self.assertEqual(found["p50"], 0.1)
        self.assertAlmostEqual(found["p90"], 0.3)
        self.assertEqual(found["p99"], math.inf)

    def test_quantiles_are_the_run_s_own_if_nothing_is_missing(self) -> None:
        """Exact, not interpolated.  design §6"""
        run = attrs.evolve(small_run(), messages=[row("measured", 10, 10, 12, 0.5)])
        self.assertEqual(figures(run, "measured")["p50"], 0.11)

    def test_a_phase_without_messages_has_no_ratios(self) -> None:
        """Nothing is divided by nothing.  design §6"""
        self.assertEqual(figures(small_run(), "later"), {"messages": 0})

    def test_warm_up_comes_first(self) -> None:
        """Phases in the order in which they came.  design §6"""
        run = make_run(phases={"b": 1, "warmup": 1, "a": 1})
        self.assertEqual(phases([run]), ["warmup", "b", "a"])

    def test_figures_are_those_of_the_simulator(self) -> None:
        """A real run: what pages compute from rows is what the run says of itself.  design §6"""
        scenario = parse(
            '[overlay]\nnodes = 20\nlinks = 3\n[[phase]]\nname = "warmup"\nmessages = 5\n'
            '[[phase]]\nname = "measured"\nmessages = 10\n',
            "tiny",
        )
        for protocol in ("plumtree", "flood"):
            run = simulate(scenario, protocol, 3)
            found = figures(run, "measured")
            for name, fact in (
                ("bytes_over_ideal", "bytes_over_ideal"),
                ("copies", "redundancy"),
                ("delivered_share", "delivered_share"),
                ("p99", "p99"),
                ("max", "max"),
            ):
                self.assertAlmostEqual(found[name], run.facts[f"measured.{fact}"], 5, name)


class QuantileTests(SynchronousTestCase):
    """Points of a distribution, read backwards."""

    def test_between_points_it_is_interpolated(self) -> None:
        """At a point it is the point; beyond the last, never.  design §6"""
        points = [(1.0, 0.2), (2.0, 0.4), (4.0, 0.8)]
        for share, seconds in ((0.1, 1), (0.2, 1), (0.3, 1.5), (0.4, 2), (0.6, 3), (0.8, 4)):
            self.assertAlmostEqual(quantile(points, share), seconds)
        self.assertEqual(quantile(points, 0.81), math.inf)
        self.assertEqual(quantile([], 0.5), math.inf)

    @given(
        st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1)), min_size=1, max_size=9),
        st.floats(0.001, 1),
    )
    def test_it_lies_within_the_points(
        self, pairs: list[tuple[float, float]], share: float
    ) -> None:
        """Never before the first nor after the last, and no division by nothing.  design §6"""
        seconds = sorted(pair[0] for pair in pairs)
        shares = sorted(pair[1] for pair in pairs)
        found = quantile(list(zip(seconds, shares, strict=True)), share)
        if shares[-1] < share:
            self.assertEqual(found, math.inf)
        else:
            self.assertLessEqual(seconds[0], found)
            self.assertLessEqual(found, seconds[-1] * (1 + 1e-9))


class SpreadTests(SynchronousTestCase):
    """Mean and worst over the seeds."""

    def test_worst_is_what_speaks_against_it(self) -> None:
        """The least share, the greatest delay.  design §6"""
        self.assertEqual(Spread.of([0.9, 1.0], Kind("", better="high")).worst, 0.9)
        self.assertEqual(Spread.of([0.9, 1.0], Kind("", better="low")).worst, 1.0)
        spread = Spread.of([1.0, 2.0, 6.0], Kind(""))
        self.assertEqual((spread.mean, spread.least, spread.most, spread.count), (3, 1, 6, 3))

    def test_never_is_not_averaged_away(self) -> None:
        """One seed that never got there makes the mean never.  design §6"""
        self.assertEqual(Spread.of([0.1, math.inf], FIGURES["p99"]).mean, math.inf)

    def test_seeds_are_put_together(self) -> None:
        """Figures that one seed lacks are left out.  design §6"""
        runs = [make_run(seed=seed, copies=copies) for seed, copies in ((1, 1.0), (2, 2.0))]
        self.assertAlmostEqual(aggregate(runs, "measured")["copies"].mean, 1.5)
        self.assertEqual(aggregate(runs, "measured")["copies"].worst, 2.0)
        without = [runs[0], attrs.evolve(runs[1], cdf={})]
        self.assertNotIn("p99", aggregate(without, "measured"))
        self.assertEqual(aggregate_bytes(runs, "measured")["payload"][0], 49 * 60 * 1.5)
        self.assertEqual(aggregate_bytes(runs, "later"), {})

    def test_facts_that_are_figures_are_not_shown_twice(self) -> None:
        """Others are, with the direction that their name tells.  design §6"""
        facts = {
            "p99": 1.0, "warmup_bytes": 2.0, "after_failure.copies": 1.0, "measured.p50": 1.0,
            "after_failure.first.p99": 0.4, "spy_precision": 0.2, "events": 5.0,
        }  # fmt: skip
        found = aggregate_facts([make_run(phases=HEALING, facts=facts)])
        self.assertEqual(list(found), ["after_failure.first.p99", "spy_precision", "events"])
        kind = fact_kind("after_failure.first.p99")
        self.assertEqual(
            (kind.title, kind.unit, kind.better), ("after failure, first, p99", "s", "low")
        )
        self.assertEqual(fact_kind("spy_precision").better, "low")
        self.assertEqual(fact_kind("delivered_share").better, "high")
        self.assertEqual(fact_kind("events").better, "")


class ShowTests(SynchronousTestCase):
    """Figures for people."""

    def test_figures_are_short_and_whole(self) -> None:
        """Digits, units, thousands; never broken over lines.  design §6"""
        for value, unit, text in (
            (0.0, "", "0"),
            (1.0, "", "1"),
            (1.10449, "", "1.104"),
            (11.5, "", "11.5"),
            (1234567.4, "", "1 234 567"),
            (0.00001234, "", "1.2e-05"),
            (0.2341, "s", "234 ms"),
            (0.0041234, "s", "4.12 ms"),
            (1.2345, "s", "1.23 s"),
            (69.0, "B", "69 B"),
            (-0.5, "s", "-500 ms"),
            (math.inf, "s", "never"),
        ):
            self.assertEqual(show(value, unit).replace(NBSP, " "), text)
            self.assertNotIn(" ", show(value, unit))

    def test_a_share_is_never_rounded_up_to_all(self) -> None:
        """One delivery of two million missing is not 100 %.  design §6"""
        self.assertEqual(show(1.0, "share"), f"100{NBSP}%")
        self.assertEqual(show(1 - 1 / 2_000_000, "share"), f"99.9999{NBSP}%")
        self.assertEqual(show(0.5, "share"), f"50{NBSP}%")
