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
        for seed in (2, 1):
            program = [
                sys.executable,
                str(ROOT / "tests" / "lab" / "on_pypy.py"),
                "small-50",
                "flood",
            ]
            subprocess.run([*program, str(seed), "--out", folder], check=True, capture_output=True)
        found = read_results(f"{folder}/small-50").runs
        self.assertEqual([result.seed for result in found], [1, 2])
        self.assertEqual(run_line(found[0]), run_line(run(shipped("small-50"), "flood", 1)))
