"""What waits for the end of a reactor turn."""

from __future__ import annotations

import gc
import weakref

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.util.turn import Turn


class Listener:
    """Counts its turns."""

    def __init__(self) -> None:
        self.turns = 0

    def turn_over(self) -> None:
        self.turns += 1


class Broken(Listener):
    def turn_over(self) -> None:
        raise ZeroDivisionError


class TurnTests(SynchronousTestCase):
    """One timer for everybody."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.turn = Turn.of(self.clock)

    def test_each_reactor_has_one(self) -> None:
        """The same for all who ask, and it does not keep the reactor alive.  style §5"""
        self.assertIs(Turn.of(self.clock), self.turn)
        other = Clock()
        self.assertIsNot(Turn.of(other), self.turn)
        gone = weakref.ref(other)
        del other
        gc.collect()
        self.assertIsNone(gone())

    def test_everybody_is_called_once(self) -> None:
        """However often it was added; and not again in the next turn.  style §5"""
        one, two = Listener(), Listener()
        for listener in (one, two, one):
            self.turn.add(listener)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual(one.turns, 0)
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual((one.turns, two.turns), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_timer_goes_with_the_last_one(self) -> None:
        """Whoever is gone is not called.  style §6.2"""
        one, two = Listener(), Listener()
        self.turn.add(one)
        self.turn.add(two)
        self.turn.discard(one)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.turn.discard(two)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.turn.discard(two)
        self.assertEqual((one.turns, two.turns), (0, 0))

    def test_a_failure_stops_nobody_else(self) -> None:
        """It is logged.  design D14"""
        one = Listener()
        self.turn.add(Broken())
        self.turn.add(one)
        self.clock.advance(0)
        self.assertEqual(one.turns, 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
