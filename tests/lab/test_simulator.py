"""The calendar of the simulator: what happens when, and in which order."""

from __future__ import annotations

import heapq
import itertools
from functools import partial
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.lab.simulator import Simulator

#: Seconds that meet on one page and on its edges, and some that are pages apart.
DELAYS = st.sampled_from([0.0, 0.0001, 0.0005, 0.001, 0.0011, 0.002, 0.3]) | st.floats(0, 2)
#: When things are planned from outside, each with what it plans itself once it happens.
PLANS = st.lists(st.tuples(DELAYS, st.lists(DELAYS, max_size=3)), max_size=12)


def expected(plans: list[tuple[list[tuple[float, list[float]]], float]]) -> list[tuple[float, int]]:
    """What happens when by one heap of everything, in the order in which it was planned."""
    numbers = itertools.count()
    heap: list[tuple[float, int, list[float]]] = []
    happened: list[tuple[float, int]] = []
    now = 0.0
    for planned, end in plans:
        for delay, later in planned:
            heapq.heappush(heap, (now + delay, next(numbers), later))
        while heap and heap[0][0] <= end:
            now, number, later = heapq.heappop(heap)
            happened.append((now, number))
            for delay in later:
                heapq.heappush(heap, (now + delay, next(numbers), []))
        now = end
    return happened


class CalendarTests(SynchronousTestCase):
    """Events happen in the order of their times, and of one time in that of their making."""

    @given(st.lists(st.tuples(PLANS, DELAYS), max_size=5))
    def test_order_is_that_of_a_heap(
        self, steps: list[tuple[list[tuple[float, list[float]]], float]]
    ) -> None:
        """Whatever is planned between runs and during them, on whichever page.  design D1"""
        ends = itertools.accumulate(step for _, step in steps)
        plans = [(planned, end) for (planned, _), end in zip(steps, ends, strict=True)]
        simulator = Simulator(nodes=0, kinds={}, rng=Random(1))
        numbers = itertools.count()
        happened: list[tuple[float, int]] = []

        def plan(delay: float, later: list[float]) -> None:
            simulator.at(simulator.now + delay, partial(happen, next(numbers), later))

        def happen(number: int, later: list[float]) -> None:
            happened.append((simulator.now, number))
            for delay in later:
                plan(delay, [])

        for planned, end in plans:
            for delay, later in planned:
                plan(delay, later)
            simulator.run_until(end)
            self.assertEqual(simulator.now, end)
        self.assertEqual(happened, expected(plans))
        self.assertEqual(simulator.events, len(happened))
