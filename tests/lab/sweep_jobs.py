"""Stand-ins for the simulation, importable by worker processes; the protocol says what happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from dig_gossip.lab.scenario import Scenario
from dig_gossip.lab.values import RunResult
from tests.lab.made_runs import make_run


class Unpicklable(Exception):
    """An error that cannot be sent to another process as it is."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.lock = threading.Lock()
        self.second = second


def job(
    scenario: Scenario,
    protocol: str,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> RunResult:
    """Make a result up, or fail; ``scenario.text`` is where a crash leaves its trace."""
    if progress is not None:
        progress(0.5)
    if protocol == "raises" and seed == 2:
        raise Unpicklable("no\nroute", "")
    if protocol == "dies" and seed == 2:
        os._exit(1)
    if protocol == "dies-once" and seed == 2:
        trace = Path(scenario.name)
        if not trace.exists():
            trace.touch()
            os._exit(1)
    if protocol == "waits":
        threading.Event().wait()
    return make_run("plumtree", seed, scenario=scenario.name)
