"""Result folders: what is written is read again, and what is damaged is said to be."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import stat
from pathlib import Path

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.lab import results as results_module
from dig_gossip.lab.results import (
    PACKED_FILE,
    RUNS_FILE,
    SCENARIO_FILE,
    DamagedResults,
    GrowingResults,
    parse_run,
    read_results,
    run_line,
    write_results,
)
from dig_gossip.lab.values import RunResult
from tests.lab.made_runs import make_run, make_runs

SCENARIO = 'title = "Small"\n'


class LineTests(SynchronousTestCase):
    """One run as one line."""

    def test_line_is_read_as_what_was_written(self) -> None:
        """Writing what was read gives the same bytes.  design §6"""
        run = make_run()
        line = run_line(run)
        self.assertEqual(run_line(parse_run(line)), line)
        self.assertNotIn("\n", line)
        self.assertEqual(parse_run(line).messages[3]["delivered"], run.messages[3]["delivered"])

    def test_floats_have_nine_digits_and_keys_are_sorted(self) -> None:
        """The text depends on the figures alone, not on last bits, order or kind.  design §6"""
        one = make_run(facts={"b": 1.0, "a": 0.1 + 0.2})
        two = make_run(facts={"a": 0.3, "b": 1})
        self.assertEqual(run_line(one), run_line(two))
        self.assertIn('"facts":{"a":0.3,"b":1.0}', run_line(one))

    def test_figures_that_are_none_are_not_written(self) -> None:
        """The error names the run and the figure.  design §6"""
        for value in (float("nan"), float("inf"), 1e16):
            run = make_run("flood", 7, facts={"speed": value})
            with self.assertRaises(ValueError) as caught:
                run_line(run)
            self.assertIn("flood, seed 7: facts.speed", str(caught.exception))

    def broken(self, **changes: object) -> str:
        """Why a line with other fields is refused."""
        data = json.loads(run_line(make_run()))
        for path, value in changes.items():
            *way, last = path.split("__")
            place = data
            for step in way:
                place = place[int(step) if step.isdigit() else step]
            if value is None:
                del place[last]
            else:
                place[last] = value
        with self.assertRaises(ValueError) as caught:
            parse_run(json.dumps(data))
        return str(caught.exception)

    def test_implausible_runs_are_refused(self) -> None:
        """What pages and pictures rely on is checked, and named.  design D14"""
        for changes, reason in (
            ({"seed": None}, "no field 'seed'"),
            ({"seed": 2**65}, "seed is beyond"),
            ({"bytes": []}, "of another kind"),
            ({"protocol": "<script>"}, "is no name"),
            ({"messages__0__phase": "\n"}, "is no name"),
            ({"messages__2__delivered": 50}, "message 2: 50 deliveries of 49"),
            ({"messages__2__p50": -1}, "message 2: a negative time"),
            ({"messages__2__payload_copies": -1}, "message 2: -1 copies"),
            ({"messages__2__size": float("inf")}, "Infinity is no figure"),
            ({"bytes__measured__payload": {"frames": 1, "bytes": -1}}, "measured, payload"),
            ({"cdf__measured": [[0.2, 0.5], [0.1, 0.6]]}, "not rising"),
            ({"cdf__measured": [[0.2, 1.5]]}, "beyond 1"),
            ({"tree__degree": {"many": 1}}, "tree, degree"),
            ({"facts__x": 10**400}, "of another kind"),
        ):
            self.assertIn(reason, self.broken(**changes), changes)

    def test_limits_are_inclusive(self) -> None:
        """The largest figure and the full share are no errors.  design D14"""
        run = attrs.evolve(make_run(facts={"x": 1e15}), seed=2**64)
        self.assertEqual(parse_run(run_line(run)).seed, 2**64)

    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        """No other exception than ValueError.  design D14"""
        try:
            run = parse_run(text)
        except ValueError:
            return
        self.assertIsInstance(run, RunResult)

    @given(st.data())
    def test_any_change_is_read_or_refused(self, data: st.DataObject) -> None:
        """A run with a field replaced by anything JSON can say raises nothing else.  design D14"""
        json_values = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, max_size=3)
            ),
            max_leaves=5,
        )
        place = json.loads(run_line(make_run(phases={"warmup": 1, "measured": 2})))
        whole = place
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            deeper = place[key]
            if not isinstance(deeper, dict | list) or not deeper or data.draw(st.booleans()):
                break
            place = deeper
        place[key] = data.draw(json_values)
        try:
            run = parse_run(json.dumps(whole))
        except ValueError:
            return
        self.assertEqual(run_line(parse_run(run_line(run))), run_line(run))


class FolderTests(SynchronousTestCase):
    """A folder of runs."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.runs = make_runs(2)

    def write(self) -> None:
        """Write the runs."""
        write_results(str(self.folder), SCENARIO, self.runs)

    def refused(self) -> DamagedResults:
        """Read what cannot be read."""
        error: DamagedResults = self.assertRaises(DamagedResults, read_results, str(self.folder))
        self.assertNotIn("\n", str(error))
        return error

    def test_folder_is_read_as_what_was_written(self) -> None:
        """Order of protocols and runs, the scenario's text.  design §6"""
        self.write()
        results = read_results(str(self.folder))
        self.assertEqual(results.scenario_text, SCENARIO)
        self.assertEqual(results.name, "small-50")
        self.assertEqual(results.protocols, ["plumtree", "flood", "gossipsub-1.1", "announce"])
        self.assertEqual(results.seeds, [1, 2])
        self.assertEqual([run.seed for run in results.of("flood")], [1, 2])
        self.assertEqual(results.of("nobody"), [])
        self.assertEqual([run_line(run) for run in results.runs], [*map(run_line, self.runs)])

    def test_files_are_for_everybody(self) -> None:
        """A page is made to be shown; the folder has nothing else in it.  design §6"""
        self.write()
        self.assertEqual(sorted(os.listdir(self.folder)), [RUNS_FILE, SCENARIO_FILE])
        for path in self.folder.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o644)

    def test_packed_runs_are_read_alike(self) -> None:
        """In place of the others, and those in place of these; the same bytes again.  design D14"""
        self.write()
        plain = (self.folder / RUNS_FILE).read_bytes()
        path = self.folder / PACKED_FILE
        packed = []
        for _ in range(2):
            write_results(str(self.folder), SCENARIO, self.runs, pack=True)
            self.assertEqual(sorted(os.listdir(self.folder)), [PACKED_FILE, SCENARIO_FILE])
            packed.append(path.read_bytes())
        self.assertEqual(packed[0], packed[1])
        self.assertEqual(gzip.decompress(packed[0]), plain)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o644)
        read = read_results(str(self.folder)).runs
        self.assertEqual([run_line(run) for run in read], [*map(run_line, self.runs)])
        self.write()
        self.assertEqual(sorted(os.listdir(self.folder)), [RUNS_FILE, SCENARIO_FILE])

    def test_damaged_packed_runs_are_refused(self) -> None:
        """Cut off, changed, no gzip, too large once unpacked, or beside plain ones.  design D14"""
        write_results(str(self.folder), SCENARIO, self.runs, pack=True)
        path = self.folder / PACKED_FILE
        whole = path.read_bytes()
        changed = whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]
        for data in (whole[:-1], whole[:40], changed, b"{}", whole + b"rest"):
            path.write_bytes(data)
            self.assertIn(f"{PACKED_FILE}: cannot be unpacked", str(self.refused()))
        path.write_bytes(b"")
        self.assertIn(f"{PACKED_FILE}: the file is cut off in line 1: no JSON", str(self.refused()))
        path.write_bytes(whole)
        self.patch(results_module, "MAX_RUNS_BYTES", 2 * len(whole))
        self.assertIn(f"larger than {2 * len(whole)} bytes, unpacked", str(self.refused()))
        (self.folder / RUNS_FILE).write_text("")
        self.assertIn(f"has {RUNS_FILE} and {PACKED_FILE}", str(self.refused()))

    def test_what_does_not_belong_together_is_not_written(self) -> None:
        """No run, a run twice, two scenarios: nothing is written.  design §6"""
        for runs, reason in (
            ([], "no runs"),
            ([make_run(), make_run()], "two runs of plumtree with seed 1"),
            ([make_run(), make_run("flood", scenario="other")], "two scenarios: small-50, other"),
        ):
            with self.assertRaises(ValueError) as caught:
                write_results(str(self.folder), SCENARIO, runs)
            self.assertIn(reason, str(caught.exception))
        self.assertFalse(self.folder.exists())

    def test_growing_folder_can_be_read_after_each_run(self) -> None:
        """In the order of the protocols and seeds, whichever order they came in.  design §6"""
        names = ["gossipsub-1.1", "flood"]
        growing = GrowingResults(str(self.folder), SCENARIO, names, keep=True)
        for count, run in enumerate(reversed(self.runs), start=1):
            growing.add(run)
            read = read_results(str(self.folder)).runs
            self.assertEqual((len(read), list(read)), (count, growing.in_order()))
        again = GrowingResults(str(self.folder), SCENARIO, names, keep=True)
        self.assertEqual(again.present, {(run.protocol, run.seed) for run in self.runs})
        self.assertEqual(again.in_order(), growing.in_order())
        packed = GrowingResults(str(self.folder), SCENARIO, names, keep=True, pack=True)
        packed.add(self.runs[0])
        self.assertEqual(sorted(os.listdir(self.folder)), [PACKED_FILE, SCENARIO_FILE])
        again = GrowingResults(str(self.folder), SCENARIO, names, keep=True)
        self.assertEqual(again.in_order(), growing.in_order())
        self.assertEqual(
            [(run.protocol, run.seed) for run in again.in_order()][:5],
            [
                ("gossipsub-1.1", 1),
                ("gossipsub-1.1", 2),
                ("flood", 1),
                ("flood", 2),
                ("announce", 1),
            ],
        )

    def test_growing_folder_keeps_or_replaces(self) -> None:
        """Of the same text only; what is not kept is there until the first run ends.  design §6"""
        self.write()
        with self.assertRaises(ValueError) as caught:
            GrowingResults(str(self.folder), SCENARIO + "\n", [], keep=True)
        self.assertIn("runs of another scenario", str(caught.exception))
        anew = GrowingResults(str(self.folder), SCENARIO, [], keep=False)
        self.assertEqual((anew.present, anew.in_order()), (frozenset(), []))
        self.assertEqual(len(read_results(str(self.folder)).runs), len(self.runs))
        anew.add(self.runs[0])
        self.assertEqual(len(read_results(str(self.folder)).runs), 1)
        (self.folder / RUNS_FILE).write_text("")
        self.assertRaises(
            DamagedResults, GrowingResults, str(self.folder), SCENARIO, [], keep=True
        )  # fmt: skip

    def test_what_is_missing_is_named(self) -> None:
        """A folder, then each of its files.  design D14"""
        self.assertIn("no such folder", str(self.refused()))
        self.write()
        for name in (RUNS_FILE, SCENARIO_FILE):
            (self.folder / name).unlink()
            self.assertIn(f"{name}: there is no such file", str(self.refused()))

    def test_a_damaged_line_is_named(self) -> None:
        """Whether it is broken or cut off; an empty file has no runs.  design D14"""
        self.write()
        path = self.folder / RUNS_FILE
        whole = path.read_text()
        lines = whole.splitlines()
        lines[2] = lines[2].replace('"seed"', '"sead"')
        for text, reason in (
            ("\n".join(lines) + "\n", "in line 3: no field 'seed'"),
            (whole[:-100], "cut off in line 8: no JSON"),
            (whole + lines[0] + "\n", "two runs of plumtree with seed 1"),
            ("", "line 1"),
        ):
            path.write_text(text)
            self.assertIn(reason, str(self.refused()))
        path.write_bytes(b"\xff")
        self.assertIn("byte 0 is not UTF-8", str(self.refused()))
        path.unlink()
        path.mkdir()
        self.assertIn("cannot be read", str(self.refused()))

    def test_a_file_that_is_too_large_is_not_read(self) -> None:
        """The limit is checked before anything is parsed.  design D14"""
        self.write()
        self.patch(results_module, "MAX_RUNS_BYTES", 1000)
        self.assertIn("larger than 1000 bytes", str(self.refused()))

    @given(st.binary(max_size=300), st.booleans())
    def test_any_packed_bytes_are_read_or_refused(self, data: bytes, append: bool) -> None:
        """Garbage alone, packed, or after what is packed.  design D14"""
        write_results(str(self.folder), SCENARIO, self.runs[:1], pack=True)
        path = self.folder / PACKED_FILE
        path.write_bytes(path.read_bytes() + data if append else data)
        with contextlib.suppress(DamagedResults):
            read_results(str(self.folder))
        path.write_bytes(gzip.compress(data))
        self.refused()

    @given(st.binary(max_size=300), st.booleans())
    def test_any_bytes_are_read_or_refused(self, data: bytes, append: bool) -> None:
        """Garbage alone or after good runs: DamagedResults or a result.  design D14"""
        self.write()
        path = self.folder / RUNS_FILE
        path.write_bytes((path.read_bytes() if append else b"") + data)
        try:
            results = read_results(str(self.folder))
        except DamagedResults:
            return
        self.assertEqual(len(results.runs), len(self.runs))
