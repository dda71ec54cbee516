"""Many runs: several protocols and seeds on all cores, or on the machines of a Dask scheduler.

A run that fails takes no other with it. If a worker process dies (out of memory, killed), the runs
that were under way are done again, one at a time; the one that dies again has failed. What was
simulated does not depend on where: results come in the order of the jobs.

Programs row of the stage table. Source: design §6, D17.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

import attrs

from dig_gossip.errors import GossipError
from dig_gossip.lab.run import run as simulate
from dig_gossip.lab.scenario import Scenario
from dig_gossip.lab.values import RunResult

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

#: ``(scenario, protocol, seed, progress)`` -> result; importable by its name, for other processes.
Run = Callable[[Scenario, str, int, Callable[[float], None] | None], RunResult]

#: Seconds after which a scheduler that does not answer is given up.
SCHEDULER_TIMEOUT_SECS: Final = 10.0
_REPORT_SECS: Final = 0.2  # between looks at how far the processes are


class SchedulerUnreachable(GossipError):
    """There is no Dask scheduler at an address, or it has no workers.

    :ivar address: as it was given.
    """

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        super().__init__(f"no Dask scheduler can be used at {address}: {reason}")


@attrs.frozen(kw_only=True)
class Job:
    """A protocol and a seed for a scenario."""

    scenario: Scenario
    protocol: str
    seed: int


@attrs.frozen(kw_only=True)
class Failure:
    """A run that gave no result.

    :ivar error: one line: what was raised, or that its process died.
    :ivar details: the traceback, if there was one; for the log.
    """

    scenario: str
    protocol: str
    seed: int
    error: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.scenario}, {self.protocol}, seed {self.seed}: {self.error}"


@attrs.frozen(kw_only=True)
class Progress:
    """How far a sweep is.

    :ivar done: runs that ended, failed ones included.
    :ivar total: all runs.
    :ivar share: 0..1, with the parts of runs that are under way, as far as they are known.
    :ivar failed: runs that failed so far.
    """

    done: int
    total: int
    share: float
    failed: int


@attrs.frozen(kw_only=True)
class Outcome:
    """What a sweep came to; both in the order of the jobs."""

    results: tuple[RunResult, ...]
    failures: tuple[Failure, ...]


def sweep(
    scenario: Scenario,
    protocols: Sequence[str],
    seeds: Iterable[int],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    finished: Callable[[RunResult], None] | None = None,
    besides: Collection[tuple[str, int]] = (),
    run: Run = simulate,
) -> Outcome:
    """Run every protocol with every seed.

    :param workers: processes; by default as many as this process may use cores, at most one a run.
        With 1, all happens in this process. Each needs the memory of a run.
    :param scheduler: address of a Dask scheduler, ``tcp://host:8786``, whose workers have this
        package installed; then ``workers`` has no meaning.
    :param progress: called now and then in this thread, and once at the end.
    :param finished: called in this thread with each result, in the order in which they come.
    :param besides: protocols and seeds that are left out.
    :param run: what a job is done with.
    :returns: results protocol by protocol, by seed within; whatever happened to single runs.
    :raises SchedulerUnreachable: see there.
    Cancellation: an exception from ``progress`` or ``finished``, or an interrupt, ends the
    processes that this call has started, or cancels what is with the scheduler, and passes through.
    """
    listed = list(dict.fromkeys(seeds))
    jobs = [
        Job(scenario=scenario, protocol=protocol, seed=seed)
        for protocol in dict.fromkeys(protocols)
        for seed in listed
        if (protocol, seed) not in besides
    ]
    tally = _Tally(len(jobs), progress, finished)
    if scheduler is not None:
        _on_dask(jobs, run, scheduler, tally)
    else:
        count = min(workers or available_cores(), len(jobs))
        if count <= 1:
            for index, job in enumerate(jobs):
                tally.ended(index, _attempt(job, run, tally.part_of(index)))
        else:
            _in_processes(jobs, run, count, tally)
    return tally.outcome()


def available_cores() -> int:
    """How many processors this process may use; at least 1."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # where processes are not bound to processors
        return os.cpu_count() or 1


class _Tally:
    """Collects what jobs came to, and says how far they are."""

    def __init__(
        self,
        total: int,
        progress: Callable[[Progress], None] | None,
        finished: Callable[[RunResult], None] | None,
    ) -> None:
        self._total = total
        self._progress = progress
        self._finished = finished
        self._parts: dict[int, float] = {}
        self._ended: dict[int, RunResult | Failure] = {}
        self._failed = 0

    def part_of(self, index: int) -> Callable[[float], None]:
        """A callback for the progress of one job."""

        def report(share: float) -> None:
            self.advanced(index, share)
            self.report()

        return report

    def advanced(self, index: int, share: float) -> None:
        """A job under way has come so far."""
        if index not in self._ended:
            self._parts[index] = min(max(share, 0.0), 1.0)

    def ended(self, index: int, result: RunResult | Failure) -> None:
        """A job is over."""
        self._parts.pop(index, None)
        self._ended[index] = result
        if isinstance(result, Failure):
            self._failed += 1
        elif self._finished is not None:
            self._finished(result)
        self.report()

    def report(self) -> None:
        """Tell the caller."""
        if self._progress is not None:
            done = len(self._ended)
            share = (done + sum(self._parts.values())) / self._total
            self._progress(Progress(done=done, total=self._total, share=share, failed=self._failed))

    def outcome(self) -> Outcome:
        """All that ended, in the order of the jobs."""
        ordered = [self._ended[index] for index in sorted(self._ended)]
        return Outcome(
            results=tuple(item for item in ordered if isinstance(item, RunResult)),
            failures=tuple(item for item in ordered if isinstance(item, Failure)),
        )


def _failure(job: Job, error: str, details: str = "") -> Failure:
    return Failure(
        scenario=job.scenario.name,
        protocol=job.protocol,
        seed=job.seed,
        error=error,
        details=details,
    )


def _attempt(job: Job, run: Run, progress: Callable[[float], None] | None) -> RunResult | Failure:
    """Do a job. What the simulation raises becomes a value: not every exception can be pickled."""
    stopped: list[BaseException] = []

    def report(share: float) -> None:
        try:
            if progress is not None:
                progress(share)
        except BaseException as error:
            stopped.append(error)  # the caller's, not the simulation's
            raise

    try:
        return run(job.scenario, job.protocol, job.seed, report)
    except Exception as error:
        if stopped:
            raise
        text = " ".join(str(error).split())
        return _failure(job, f"{type(error).__name__}: {text}", traceback.format_exc())


# --- processes of this machine ------------------------------------------------------------------

_reports: Queue[tuple[int, float]] | None = None  # in a worker: where its progress goes


def _begin_worker(reports: Queue[tuple[int, float]]) -> None:
    global _reports
    _reports = reports
    reports.cancel_join_thread()  # reports that nobody takes do not keep a process
    # An interrupt reaches the whole group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work(index: int, job: Job, run: Run) -> RunResult | Failure:
    def report(share: float) -> None:
        if _reports is not None:
            _reports.put((index, share))

    return _attempt(job, run, report)


def _in_processes(jobs: Sequence[Job], run: Run, count: int, tally: _Tally) -> None:
    waiting = deque(range(len(jobs)))
    while waiting:
        # Whose process died is known only of a job that was alone.
        for index in _in_one_pool(waiting, jobs, run, count, tally):
            if _in_one_pool(deque([index]), jobs, run, 1, tally):
                reason = "its process died, twice (killed, or out of memory?)"
                tally.ended(index, _failure(jobs[index], reason))


def _in_one_pool(
    waiting: deque[int], jobs: Sequence[Job], run: Run, count: int, tally: _Tally
) -> list[int]:
    """Do jobs until all are done, or a process dies.

    No more than ``count`` are handed out at a time, so that those that a death concerns are those
    that were under way.

    :param waiting: numbers of jobs; those that were begun are taken out.
    :returns: numbers of the jobs that a process's death has cut short.
    """
    # Forked copies of a process that may have threads and a reactor are not safe to use.
    context = multiprocessing.get_context("spawn")
    reports: Queue[tuple[int, float]] = context.Queue()
    under_way: dict[Future[RunResult | Failure], int] = {}
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        count, mp_context=context, initializer=_begin_worker, initargs=(reports,)
    ) as pool:
        try:
            while True:
                while waiting and len(under_way) < count:
                    index = waiting[0]
                    under_way[pool.submit(_work, index, jobs[index], run)] = index
                    waiting.popleft()
                if not under_way:
                    return []
                done, _ = wait(under_way, _REPORT_SECS, FIRST_COMPLETED)
                if _take_reports(reports, tally) and not done:
                    tally.report()
                for future in done:
                    result = future.result()
                    tally.ended(under_way.pop(future), result)
        except BrokenProcessPool:
            cut_short = []
            for future, index in under_way.items():
                if future.done() and future.exception() is None:
                    tally.ended(index, future.result())
                else:
                    cut_short.append(index)
            return cut_short
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # the pool sees them die, and gives its jobs up
            raise
        finally:
            reports.close()


def _take_reports(reports: Queue[tuple[int, float]], tally: _Tally) -> bool:
    took = False
    while True:
        try:
            index, share = reports.get_nowait()
        except Empty:
            return took
        tally.advanced(index, share)
        took = True


# --- Dask ---------------------------------------------------------------------------------------


def _on_dask(jobs: Sequence[Job], run: Run, address: str, tally: _Tally) -> None:
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout=SCHEDULER_TIMEOUT_SECS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SchedulerUnreachable(address, str(error)) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise SchedulerUnreachable(address, "it has no workers")
        # Not pure: a job is done anew even if the scheduler remembers its like.
        futures = {
            client.submit(_attempt, job, run, None, pure=False): index
            for index, job in enumerate(jobs)
        }
        try:
            for future in as_completed(list(futures), loop=client.loop):
                index = futures[future]
                tally.ended(index, _dask_result(jobs[index], future))
        except BaseException:
            client.cancel(list(futures))
            raise


def _dask_result(job: Job, future: Any) -> RunResult | Failure:  # Any: distributed.Future
    if future.status == "finished":
        result: RunResult | Failure = future.result()
        return result
    error = future.exception() if future.status == "error" else None
    text = " ".join(str(error).split()) if error else f"the scheduler {future.status} it"
    return _failure(job, f"{type(error).__name__}: {text}" if error else text)
