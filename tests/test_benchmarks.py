"""The benchmarks run; what they measure is nobody's business here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
_VERDICT = {"claim", "figure", "counterpart", "ratio", "goal", "holds"}


def _smoke_run(script: str, *arguments: str) -> list[str]:
    """Make a smoke run; the lines that it prints."""
    command = [sys.executable, str(_BENCHMARKS / script), "--quick", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if ran.returncode:
        raise AssertionError(f"{script} ended with {ran.returncode}:\n{ran.stderr}")
    return ran.stdout.splitlines()


class BenchmarksTests(SynchronousTestCase):
    """Smoke runs, without the counterparts that need an environment of their own."""

    def assert_verdicts(self, lines: list[str], count: int) -> None:
        """Check that the last ``count`` lines are verdicts about something measured."""
        verdicts: list[dict[str, Any]] = [json.loads(line) for line in lines[-count:]]
        for verdict in verdicts:
            self.assertEqual(set(verdict), _VERDICT)
            self.assertGreater(verdict["figure"], 0)
            self.assertGreater(verdict["counterpart"], 0)
            self.assertGreater(verdict["ratio"], 0)
            self.assertIsInstance(verdict["holds"], bool)

    def test_throughput_loses_nothing_and_gives_verdicts(self) -> None:
        """What is sent is counted at the other end, both ways and as gossip.  design §6"""
        self.assert_verdicts(_smoke_run("throughput.py", "--counterparts", "autobahn"), 2)

    def test_memory_fills_a_listener(self) -> None:
        """A crowd opens sessions, all of which are there when memory is read.  design §6"""
        lines = _smoke_run("memory.py", "--counterparts", "none")
        (row,) = (line.split() for line in lines if line.startswith("dig_gossip"))
        self.assertGreater(float(row[1]), 0)

    def test_relay_carries_as_much_as_it_is_given(self) -> None:
        """The same messages, counted, through a tunnel and without one.  design §6"""
        self.assert_verdicts(_smoke_run("relay.py"), 1)

    def test_sketch_gives_verdicts(self) -> None:
        """Every implementation decodes the same sketches.  design §6"""
        self.assert_verdicts(_smoke_run("sketch.py"), 3)

    def test_broadcast_reaches_everybody(self) -> None:
        """Every peer counts every message, once.  design §6"""
        lines = _smoke_run("broadcast.py", "--counterparts", "autobahn")
        rows = [line.split() for line in lines if " to 8 peers " in line]
        self.assertEqual([row[:2] for row in rows], [["1", "KiB"], ["64", "KiB"]])
        self.assertTrue(all(float(row[5]) > 0 for row in rows), rows)

    def test_critical_latency_loses_no_answer(self) -> None:
        """Peaks arrive among answers, and every question has its answer.  design §6, PRI-004"""
        lines = _smoke_run("critical_latency.py", "--counterparts", "one queue")
        self.assert_verdicts(lines, 2)
        added, share, answers = map(json.loads, lines[-3:])
        # A difference of two latencies: on a busy machine it may come out on either side of 0.
        self.assertEqual(set(added), _VERDICT)
        self.assertTrue(math.isfinite(added["figure"]))
        self.assertTrue(answers["holds"], answers)
        self.assertGreater(share["ratio"], 0.9)

    def test_erlay_gives_verdicts(self) -> None:
        """Comparing sets is compared with flooding on the same overlay.  design §6, PRF-005"""
        self.assert_verdicts(_smoke_run("erlay.py"), 4)

    def test_plumtree_gives_a_verdict(self) -> None:
        """The tree is compared with a flood on the same overlay.  design §6"""
        self.assert_verdicts(_smoke_run("plumtree.py"), 1)

    def test_address_manager_measures_pauses(self) -> None:
        """A real reactor ticks while a thread saves and loads.  design §6, DSC-002.3"""
        self.assert_verdicts(_smoke_run("address_manager.py", "--counterparts", "none"), 2)

    def test_eclipse_gives_a_verdict_for_each_counterpart(self) -> None:
        """Two counterparts, from books that were really poisoned.  design §6"""
        self.assert_verdicts(_smoke_run("eclipse.py", "--attacker", "5000"), 2)

    def test_compact_blocks_arrive_and_give_verdicts(self) -> None:
        """Ten hops, every overlap.  design §6"""
        self.assert_verdicts(_smoke_run("compact_blocks.py"), 3)

    def test_dandelion_gives_verdicts(self) -> None:
        """Spies of each kind, on each network.  design §6"""
        self.assert_verdicts(_smoke_run("dandelion.py"), 12)
