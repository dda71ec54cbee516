"""``dig-gossip lab`` as a user calls it."""

from __future__ import annotations

import gzip
import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.cli.main import main
from dig_gossip.lab.results import GrowingResults
from dig_gossip.lab.scenario import shipped_names
from dig_gossip.lab.values import RunResult

SMALL = 'protocols = ["flood"]\n[overlay]\nnodes = 10\nlinks = 2\n[[phase]]\nmessages = 3\n'


class LabTests(SynchronousTestCase):
    """The verbs."""

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, output and error output of the command."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            status = main(["lab", *arguments])
        return status, out.getvalue(), err.getvalue()

    def test_list_names_every_scenario(self) -> None:
        """One line each.  design §4"""
        status, out, _ = self.call("list")
        self.assertEqual((status, len(out.splitlines())), (0, len(shipped_names())))

    def test_same_run_writes_same_bytes(self) -> None:
        """And what it wrote can be compared.  design D1"""
        path = Path(self.mktemp() + ".toml")
        path.write_text(SMALL)
        folders = [self.mktemp(), self.mktemp()]
        for folder in folders:
            status, out, _ = self.call(
                "run", str(path), "--seeds", "1,2", "--workers", "1", "--out", folder
            )
            self.assertEqual(status, 0)
            self.assertIn("flood", out)
            self.assertTrue((Path(folder) / "index.html").exists())
        a, b = [(Path(folder) / "runs.jsonl").read_bytes() for folder in folders]
        self.assertEqual(a, b)
        self.assertEqual(self.call("compare", *folders)[0], 0)

    def test_kept_runs_are_not_done_again(self) -> None:
        """An interrupted run is gone on with, and ends as one that was not.  design D1"""
        path = Path(self.mktemp() + ".toml")
        path.write_text(SMALL)
        whole, parts = self.mktemp(), self.mktemp()
        run = ("run", str(path), "--workers", "1", "--plain", "--seeds", "1-3", "--out")
        self.assertEqual(self.call(*run, whole)[0], 0)

        add = GrowingResults.add

        def add_and_stop(results: GrowingResults, result: RunResult) -> None:
            add(results, result)
            raise KeyboardInterrupt

        with self.subTest("interrupted"):
            self.patch(GrowingResults, "add", add_and_stop)
            status, out, err = self.call(*run, parts)
            self.assertEqual((status, out), (130, ""))
            self.assertIn(f"what is done is in {parts}; --keep goes on from there", err)
            self.patch(GrowingResults, "add", add)
        with self.subTest("gone on with"):
            status, _, err = self.call(*run, parts, "--keep")
            self.assertEqual(status, 0)
            self.assertIn("2 of 2 runs", err)
        with self.subTest("nothing left to do"):
            self.assertEqual(self.call(*run, parts, "--keep"), self.call(*run, parts, "--keep"))
        for name in ("runs.jsonl", "scenario.toml", "summary.txt", "index.html"):
            a, b = [(Path(folder) / name).read_text() for folder in (whole, parts)]
            self.assertEqual(a, b.replace(parts, whole), name)
        with self.subTest("packed"):
            self.assertEqual(self.call(*run, parts, "--keep", "--pack")[0], 0)
            with gzip.open(Path(parts) / "runs.jsonl.gz", "rt") as file:
                self.assertEqual(file.read(), (Path(whole) / "runs.jsonl").read_text())
            self.assertFalse((Path(parts) / "runs.jsonl").exists())
        with self.subTest("another scenario"):
            path.write_text(SMALL.replace("10", "12"))
            status, out, err = self.call(*run, parts, "--keep")
            self.assertEqual((status, out), (1, ""))
            self.assertIn(f"{parts} has runs of another scenario", err)
        with self.subTest("replaced"):
            self.assertEqual(self.call(*run, parts)[0], 0)

    def test_mistakes_end_with_a_line(self) -> None:
        """Not with a traceback.  design §4"""
        for arguments in (("run", "nothing"), ("run", "no/file.toml"), ("compare", "a", "b")):
            status, out, err = self.call(*arguments)
            self.assertEqual((status, out, err.count("\n")), (1, "", 1))
        path = self.mktemp() + ".toml"
        Path(path).write_text(SMALL)
        self.assertEqual(self.call("run", path, "--protocol", "pigeon")[0], 1)

    def test_trace_and_replay(self) -> None:
        """What one node was told and wanted is played again.  design D1"""
        path, trace = self.mktemp() + ".toml", self.mktemp()
        Path(path).write_text(SMALL)
        status, out, _ = self.call("trace", path, "--node", "3", "--out", trace)
        self.assertEqual((status, trace in out), (0, True))
        status, out, _ = self.call("replay", trace)
        self.assertEqual((status, "as they were recorded" in out), (0, True))
        text = Path(trace).read_text()
        Path(trace).write_text(text.replace('"Deliver"', '"Discard"'))
        status, out, err = self.call("replay", trace)
        self.assertEqual((status, out, "Discard" in err), (1, "", True))
        self.assertEqual(self.call("trace", path, "--out", trace)[0], 1)
        self.assertEqual(self.call("replay", path)[0], 1)
