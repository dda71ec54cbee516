"""The program that makes long runs under PyPy, here by whatever runs the tests."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.lab.results import read_results, run_line
from dig_gossip.lab.run import run
from dig_gossip.lab.scenario import shipped
from tests.lab.on_pypy import ROOT


class OnPyPyTests(SynchronousTestCase):
    """Stand-ins for compiled packages."""

    def test_a_run_is_the_same_and_is_added_to_its_folder(self) -> None:
        """To what is there, byte by byte.  design D1"""
        folder = self.mktemp()
        program = [sys.executable, str(ROOT / "tests" / "lab" / "on_pypy.py"), "small-50"]
        for run_of in (["flood", "2"], ["plumtree", "1"]):
            subprocess.run([*program, *run_of, "--out", folder], check=True, capture_output=True)
        ours, flood = read_results(f"{folder}/small-50").runs
        self.assertEqual((flood.protocol, flood.seed), ("flood", 2))
        self.assertEqual(run_line(ours), run_line(run(shipped("small-50"), "plumtree", 1)))
