"""Sweeps: in this process, in processes, on Dask."""

from __future__ import annotations

import multiprocessing
import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.lab import sweep as sweep_module
from dig_gossip.lab.results import run_line
from dig_gossip.lab.scenario import Scenario, parse
from dig_gossip.lab.sweep import (
    Outcome,
    Progress,
    SchedulerUnreachable,
    available_cores,
    sweep,
)
from dig_gossip.lab.values import RunResult
from tests.lab.sweep_jobs import job

TINY = (
    '[overlay]\nnodes = 12\nlinks = 3\n[[phase]]\nname = "warmup"\nmessages = 3\n'
    '[[phase]]\nname = "measured"\nmessages = 5\n'
)


def scenario(name: str = "tiny") -> Scenario:
    """A scenario of a second."""
    return parse(TINY, name)


class Stopped(Exception):
    """What the caller's progress raises."""


class SweepCase(SynchronousTestCase):
    """Collects progress."""

    def setUp(self) -> None:
        self.progress: list[Progress] = []

    def lines(self, outcome: Outcome) -> list[str]:
        """The results, as they would be written."""
        self.assertEqual(outcome.failures, ())
        return [run_line(run) for run in outcome.results]

    def check_progress(self, total: int) -> None:
        """It rises, and ends at all."""
        self.assertEqual({item.total for item in self.progress}, {total})
        for name in ("done", "failed"):
            values = [getattr(item, name) for item in self.progress]
            self.assertEqual(values, sorted(values))
        self.assertEqual((self.progress[-1].done, self.progress[-1].share), (total, 1.0))


class LocalTests(SweepCase):
    """On this machine."""

    def test_results_do_not_depend_on_the_number_of_processes(self) -> None:
        """Real runs: same bytes, in the order of the jobs, doubles left out.  design §6"""
        protocols, seeds = ("plumtree", "flood", "plumtree"), (5, 1, 5)
        alone = sweep(scenario(), protocols, seeds, workers=1)
        together = sweep(scenario(), protocols, seeds, workers=2, progress=self.progress.append)
        self.assertEqual(self.lines(alone), self.lines(together))
        self.assertEqual(
            [(run.protocol, run.seed) for run in alone.results],
            [("plumtree", 5), ("plumtree", 1), ("flood", 5), ("flood", 1)],
        )
        self.check_progress(4)
        self.assertEqual(multiprocessing.active_children(), [])

    def test_a_run_that_fails_names_itself_and_stops_no_other(self) -> None:
        """In this process and in others, whatever it raises.  design §6"""
        for workers in (1, 2):
            self.progress.clear()
            outcome = sweep(
                scenario(), ["plumtree", "raises"], [1, 2, 3], workers=workers, run=job,
                progress=self.progress.append,
            )  # fmt: skip
            self.assertEqual(
                [str(failure) for failure in outcome.failures],
                ["tiny, raises, seed 2: Unpicklable: no route"],
            )
            self.assertIn("sweep_jobs.py", outcome.failures[0].details)
            self.assertEqual([run.seed for run in outcome.results], [1, 2, 3, 1, 3])
            self.check_progress(6)
            self.assertEqual(self.progress[-1].failed, 1)

    def test_a_process_that_dies_fails_its_own_run(self) -> None:
        """What ran beside it is done again, alone; nothing else is lost.  design §6"""
        outcome = sweep(scenario(), ["dies"], [1, 2, 3, 4], workers=2, run=job)
        self.assertEqual(
            [str(failure) for failure in outcome.failures],
            ["tiny, dies, seed 2: its process died, twice (killed, or out of memory?)"],
        )
        self.assertEqual([run.seed for run in outcome.results], [1, 3, 4])

    def test_a_process_that_dies_once_costs_nothing(self) -> None:
        """Somebody may have killed it; the run is done again.  design §6"""
        name = os.path.abspath(self.mktemp())
        outcome = sweep(scenario(name), ["dies-once"], [1, 2], workers=2, run=job)
        self.assertEqual([run.seed for run in outcome.results], [1, 2])
        self.assertTrue(os.path.exists(name))

    def test_an_interrupt_ends_the_processes(self) -> None:
        """What the caller's progress raises passes through; nobody is left working.  design §6"""

        def stop(progress: Progress) -> None:
            # Of a run that is half done: the parts of runs are told, too.
            self.assertEqual(progress.done, 0)
            self.assertIn(progress.share, (0.5 / 3, 1.0 / 3))
            raise Stopped

        for workers, protocol in ((1, "plumtree"), (2, "waits")):
            with self.assertRaises(Stopped):
                sweep(scenario(), [protocol], [1, 2, 3], workers=workers, run=job, progress=stop)
            self.assertEqual(multiprocessing.active_children(), [])

    def test_results_come_one_by_one_and_some_need_not(self) -> None:
        """Each when it ends, failures not; what is there is left out.  design §6"""
        for workers in (1, 2):
            came: list[RunResult] = []
            self.progress.clear()
            outcome = sweep(
                scenario(), ["raises", "plumtree"], [1, 2, 3], workers=workers, run=job,
                finished=came.append,
                besides={("plumtree", 2), ("raises", 1)}, progress=self.progress.append,
            )  # fmt: skip
            self.assertEqual([run.seed for run in outcome.results], [3, 1, 3])
            self.assertEqual(sorted(run.seed for run in came), [1, 3, 3])
            self.assertEqual([failure.seed for failure in outcome.failures], [2])
            self.check_progress(4)

    def test_no_jobs_are_no_work(self) -> None:
        """Neither protocols nor seeds.  design §6"""
        self.assertEqual(sweep(scenario(), [], [1]), Outcome(results=(), failures=()))
        self.assertEqual(sweep(scenario(), ["plumtree"], []), Outcome(results=(), failures=()))

    def test_cores_are_those_of_this_process(self) -> None:
        """At least one; where there is no affinity, those of the machine.  design §6"""
        self.assertGreaterEqual(available_cores(), 1)
        self.patch(os, "sched_getaffinity", lambda _: {3, 5, 8})
        self.assertEqual(available_cores(), 3)

        def absent(_: int) -> set[int]:
            raise AttributeError

        self.patch(os, "sched_getaffinity", absent)
        self.assertEqual(available_cores(), os.cpu_count())


class DaskTests(SweepCase):
    """On a Dask cluster: of this machine, in two processes."""

    def cluster(self, workers: int) -> str:
        """Start one; where its scheduler is."""
        from distributed import LocalCluster

        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, host="127.0.0.1",
            silence_logs=50,
        )  # fmt: skip
        self.addCleanup(cluster.close)
        address: str = cluster.scheduler_address
        return address

    def test_two_workers_do_what_one_process_does(self) -> None:
        """Same bytes, same order; failures named; a worker that dies fails its run.  design §6"""
        import dask
        import distributed  # noqa: F401 - before the setting, whose end would take its defaults too

        with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
            address = self.cluster(2)
        remote = sweep(
            scenario(), ["plumtree", "flood"], [1, 2], scheduler=address,
            progress=self.progress.append,
        )  # fmt: skip
        self.assertEqual(
            self.lines(remote),
            self.lines(sweep(scenario(), ["plumtree", "flood"], [1, 2], workers=1)),
        )
        self.check_progress(4)

        outcome = sweep(scenario(), ["raises"], [1, 2, 3], scheduler=address, run=job)
        self.assertEqual(
            [str(failure) for failure in outcome.failures],
            ["tiny, raises, seed 2: Unpicklable: no route"],
        )
        self.assertEqual([run.seed for run in outcome.results], [1, 3])

        outcome = sweep(scenario(), ["dies"], [2], scheduler=address, run=job)
        self.assertRegex(str(outcome.failures[0]), "tiny, dies, seed 2: KilledWorker: .*")

        def stop(_: Progress) -> None:
            raise Stopped

        with self.assertRaises(Stopped):
            sweep(scenario(), ["plumtree"], [1, 2], scheduler=address, run=job, progress=stop)

    def test_a_scheduler_that_is_not_there_is_named(self) -> None:
        """Nobody listens, it is no address, or nobody works for it.  design §6"""
        idle = self.cluster(0)
        error: SchedulerUnreachable = self.assertRaises(
            SchedulerUnreachable, sweep, scenario(), ["flood"], [1], scheduler=idle
        )
        self.assertIn("no workers", str(error))
        self.patch(sweep_module, "SCHEDULER_TIMEOUT_SECS", 0.5)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))  # taken, and nobody listens
            address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
            for wrong in (address, "carrier-pigeon://x"):
                error = self.assertRaises(
                    SchedulerUnreachable, sweep, scenario(), ["flood"], [1], scheduler=wrong
                )
                self.assertIn(f"no Dask scheduler can be used at {wrong}", str(error))
                self.assertEqual(error.address, wrong)
