"""The folder that a run or a sweep leaves behind, written and read.

============= =====================================================================
file          content
============= =====================================================================
scenario.toml what was simulated, as it was given
runs.jsonl    one JSON object a line and run: :meth:`RunResult.to_json`, keys sorted,
              nine significant digits; runs.jsonl.gz in its place, if it was to be packed
summary.txt   the table of figures over the seeds
plots/\\*.svg   pictures
index.html    all of this as one page
============= =====================================================================

Only the first two are read again. Each file is whole or not there; the same runs make the same
bytes. What is read may have been damaged, or made by strangers: it is checked before it is used.

Programs row of the stage table. Source: design §6, D14.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import attrs

from dig_gossip.errors import GossipError
from dig_gossip.lab.values import RunResult
from dig_gossip.util.files import read_at_most, write_atomically

SCENARIO_FILE: Final = "scenario.toml"
RUNS_FILE: Final = "runs.jsonl"
PACKED_FILE: Final = "runs.jsonl.gz"
SUMMARY_FILE: Final = "summary.txt"

#: Largest files that are read, bytes: ten protocols, ten seeds, 2 000 messages are a tenth.
MAX_RUNS_BYTES: Final = 1024**3
MAX_SCENARIO_BYTES: Final = 1024**2

#: Figures beyond this are no measurement.
MAX_FIGURE: Final = 1e15
MAX_SEED: Final = 2**64

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.+()/ -]{0,79}", re.ASCII)
_DIGITS: Final = 9


class DamagedResults(GossipError):
    """A result folder cannot be read, or is not one.

    :ivar path: the file, or the folder.
    :ivar reason: what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")


@attrs.frozen(kw_only=True)
class Results:
    """What a folder holds.

    :ivar folder: where it was read from; only for messages.
    :ivar scenario_text: TOML.
    :ivar runs: at least one, all of one scenario, no two of one protocol and seed.
    """

    folder: str
    scenario_text: str
    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        """The scenario's name."""
        return self.runs[0].scenario

    @property
    def protocols(self) -> list[str]:
        """Protocols, in the order of the runs."""
        return list(dict.fromkeys(run.protocol for run in self.runs))

    @property
    def seeds(self) -> list[int]:
        """Seeds that any protocol ran with, rising."""
        return sorted({run.seed for run in self.runs})

    def of(self, protocol: str) -> list[RunResult]:
        """The runs of one protocol, by seed; empty if there are none."""
        return sorted(
            (run for run in self.runs if run.protocol == protocol), key=lambda run: run.seed
        )


def run_line(run: RunResult) -> str:
    """Write a run as one line of deterministic JSON, without the line's end.

    :raises ValueError: a figure is not finite; names the run and the figure.
    """
    data = RunResult.from_json(run.to_json()).to_json()  # 1 and 1.0 become one
    reason = _unfit(data)
    if reason:
        raise ValueError(f"{run.scenario}, {run.protocol}, seed {run.seed}: {reason}")
    return json.dumps(_rounded(data), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def parse_run(line: str) -> RunResult:
    """Read what :func:`run_line` wrote.

    :raises ValueError: the line is no such thing; says why, in one line.
    """
    try:
        data = json.loads(line, parse_constant=_refuse_constant)
        if not isinstance(data, dict):
            raise ValueError("not an object")
        run = RunResult.from_json(data)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at column {error.colno})") from None
    except KeyError as error:
        raise ValueError(f"no field {error}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"a field of another kind ({error})") from None
    reason = _unfit(run.to_json()) or _implausible(run)
    if reason:
        raise ValueError(reason)
    return run


def write_results(
    folder: str, scenario_text: str, runs: Sequence[RunResult], *, pack: bool = False
) -> None:
    """Write what :func:`read_results` reads: the scenario and the raw figures.

    :param folder: made if it is missing; files of the same names are replaced.
    :param runs: in the order in which they shall be read.
    :param pack: write them as :data:`PACKED_FILE`, a tenth of the size; else as :data:`RUNS_FILE`.
        The other one is removed.
    :raises ValueError: no runs, runs of several scenarios, or a figure that is not finite.
    :raises OSError: a file cannot be written.
    """
    reason = _inconsistent(runs)
    if reason:
        raise ValueError(reason)
    data = "".join(f"{run_line(run)}\n" for run in runs).encode("utf-8")
    written, other = (PACKED_FILE, RUNS_FILE) if pack else (RUNS_FILE, PACKED_FILE)
    write_text(os.path.join(folder, SCENARIO_FILE), scenario_text)
    write_atomically(
        os.path.join(folder, written), gzip.compress(data, mtime=0) if pack else data, mode=0o644
    )
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, other))


def read_results(folder: str) -> Results:
    """Read a folder.

    :raises DamagedResults: it is not one, or a file is missing, damaged or too large; names the
        file and, where it has lines, the line.
    """
    if not os.path.isdir(folder):
        raise DamagedResults(folder, "there is no such folder")
    scenario_text = _read(os.path.join(folder, SCENARIO_FILE), MAX_SCENARIO_BYTES)
    path = _runs_path(folder)
    runs = []
    text = _read(path, MAX_RUNS_BYTES)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line and number > 1:
            continue
        try:
            runs.append(parse_run(line))
        except ValueError as error:
            where = "the file is cut off in" if _is_cut(text, number) else "in"
            raise DamagedResults(path, f"{where} line {number}: {error}") from None
    reason = _inconsistent(runs)
    if reason:
        raise DamagedResults(path, reason)
    return Results(folder=folder, scenario_text=scenario_text, runs=tuple(runs))


class GrowingResults:
    """A folder that is written anew with each run that ends: whatever happens, those are kept.

    Cost: a run more costs the writing of all of them.

    :param protocols: in the order in which their runs are to be read; others come behind.
    :param keep: go on with the runs that are there, if any are; else they are replaced when the
        first of ours ends.
    :param pack: see :func:`write_results`.
    :raises DamagedResults: what is to be kept cannot be read.
    :raises ValueError: it is of another scenario.
    """

    def __init__(
        self,
        folder: str,
        scenario_text: str,
        protocols: Iterable[str],
        *,
        keep: bool,
        pack: bool = False,
    ) -> None:
        self._folder = folder
        self._pack = pack
        self._scenario_text = scenario_text
        self._protocols = list(protocols)
        self._runs: dict[tuple[str, int], RunResult] = {}
        if keep and os.path.exists(_runs_path(folder)):
            results = read_results(folder)
            if results.scenario_text != scenario_text:
                raise ValueError(
                    f"{folder} has runs of another scenario, or of another state of it"
                )
            self._runs = {(run.protocol, run.seed): run for run in results.runs}

    @property
    def present(self) -> frozenset[tuple[str, int]]:
        """Protocols and seeds that need not run."""
        return frozenset(self._runs)

    def add(self, run: RunResult) -> None:
        """Take a run in, and write all.

        :raises OSError: a file cannot be written.
        :raises ValueError: it is a run of another scenario, or has a figure that is none.
        """
        self._runs[run.protocol, run.seed] = parse_run(run_line(run))  # as it will be read
        write_results(self._folder, self._scenario_text, self.in_order(), pack=self._pack)

    def in_order(self) -> list[RunResult]:
        """All runs, protocol by protocol, by seed within."""
        order = {name: place for place, name in enumerate(self._protocols)}
        for protocol, _ in self._runs:
            order.setdefault(protocol, len(order))
        return sorted(self._runs.values(), key=lambda run: (order[run.protocol], run.seed))


def write_text(path: str, text: str) -> None:
    """Write a text file in one step, readable by everybody: results are made to be shown."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_atomically(path, text.encode("utf-8"), mode=0o644)


def _runs_path(folder: str) -> str:
    """Where a folder's runs are, or would be.

    :raises DamagedResults: both forms are there: writing was stopped between the two.
    """
    plain, packed = os.path.join(folder, RUNS_FILE), os.path.join(folder, PACKED_FILE)
    if not os.path.exists(packed):
        return plain
    if os.path.exists(plain):
        raise DamagedResults(folder, f"has {RUNS_FILE} and {PACKED_FILE}; remove the older one")
    return packed


def _read(path: str, limit: int) -> str:
    try:
        data = read_at_most(path, limit)
        if data is None:
            raise DamagedResults(path, "there is no such file")
        if path.endswith(".gz"):
            data = _unpack(data, limit)
        return data.decode("utf-8")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedResults(path, f"cannot be unpacked ({error})") from None
    except OSError as error:
        raise DamagedResults(path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DamagedResults(path, f"no text: byte {error.start} is not UTF-8") from None
    except ValueError as error:
        raise DamagedResults(path, str(error)) from None


def _unpack(data: bytes, limit: int) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        unpacked = file.read(limit + 1)
    if len(unpacked) > limit:
        raise ValueError(f"larger than {limit} bytes, unpacked")
    return unpacked


def _is_cut(text: str, number: int) -> bool:
    """Whether a line is the last one and has no end: writing was stopped, or a copy was."""
    return not text.endswith("\n") and number == text.count("\n") + 1


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no figure")


def _rounded(value: Any) -> Any:  # Any: JSON
    """Floats with as many digits as every machine agrees about."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _unfit(value: Any, where: str = "") -> str:  # Any: JSON
    """Why a figure in some JSON is none; "" if all are."""
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            return f"{where.lstrip('.')} is {value}"
        limit = MAX_SEED if where == ".seed" else MAX_FIGURE
        return f"{where.lstrip('.')} is beyond {limit:.0e}" if abs(value) > limit else ""
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        items = ((f"{where}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        items = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    for name, item in items:
        reason = _unfit(item, name)
        if reason:
            return reason
    return ""


def _implausible(run: RunResult) -> str:
    """Why a run cannot have happened, as far as the pages rely on it; "" if it can."""
    for name in _names(run):
        if not _NAME.fullmatch(name):
            return f"{name[:80]!r} is no name"
    for row in run.messages:
        if not 0 <= row["delivered"] <= row["reachable"] or row["size"] < 0:
            return f"message {row['id']}: {row['delivered']} deliveries of {row['reachable']}"
        if min(row["p50"], row["p90"], row["p99"], row["max"], row["sent"]) < 0:
            return f"message {row['id']}: a negative time"
        if row["payload_copies"] < 0:
            return f"message {row['id']}: {row['payload_copies']} copies"
    for phase, kinds in run.bytes.items():
        for kind, count in kinds.items():
            if min(count["frames"], count["bytes"]) < 0:
                return f"bytes of {phase}, {kind}: negative"
    for phase, points in run.cdf.items():
        before = (0.0, 0.0)
        for point in points:
            if not (before[0] <= point[0] and before[1] <= point[1] <= 1):
                return f"cdf of {phase}: not rising, or beyond 1"
            before = point
    for name, histogram in run.tree.items():
        assert isinstance(histogram, dict)  # which a TypedDict's items() does not say
        for key, count in histogram.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and count >= 0):
                return f"tree, {name}: {key[:20]!r} -> {count}"
    return ""


def _names(run: RunResult) -> Iterator[str]:
    """All that a run names, which pages and pictures show."""
    yield run.scenario
    yield run.protocol
    yield from dict.fromkeys(row["phase"] for row in run.messages)
    for phase, kinds in run.bytes.items():
        yield phase
        yield from kinds
    yield from run.cdf
    yield from dict.fromkeys(name for row in run.series for name in row)
    yield from run.facts


def _inconsistent(runs: Sequence[RunResult]) -> str:
    """Why runs do not belong into one folder; "" if they do."""
    if not runs:
        return "there are no runs"
    seen = set()
    for run in runs:
        if run.scenario != runs[0].scenario:
            return f"runs of two scenarios: {runs[0].scenario}, {run.scenario}"
        if (run.protocol, run.seed) in seen:
            return f"two runs of {run.protocol} with seed {run.seed}"
        seen.add((run.protocol, run.seed))
    return ""
