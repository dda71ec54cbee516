"""When a tree may be opened."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.tagged_openings import (
    MAX_CREDIT,
    MESSAGES_A_TREE,
    ORIGINS_AT_ONCE,
    Openings,
)


class OpeningsTests(SynchronousTestCase):
    """Traffic earns trees; lots are drawn when many want one."""

    def earned(self, openings: Openings) -> int:
        """How many trees are earned; they are paid for."""
        number = 0
        while openings.are_earned:
            openings.opened()
            number += 1
        return number

    def test_one_tree_is_free_and_sixteen_messages_earn_another(self) -> None:
        """The first origin need not wait.  design D6"""
        openings = Openings()
        self.assertEqual(self.earned(openings), 1)
        openings.seen(MESSAGES_A_TREE - 1)
        self.assertEqual(self.earned(openings), 0)
        openings.seen()
        self.assertEqual(self.earned(openings), 1)

    def test_no_more_than_eight_are_saved_up(self) -> None:
        """However long nobody wanted one.  D14"""
        openings = Openings()
        for _ in range(100 * MESSAGES_A_TREE):
            openings.seen()
        self.assertEqual(self.earned(openings), MAX_CREDIT)

    def test_debt_is_worked_off(self) -> None:
        """Eight trees of it at most: who opens very many stops nobody for long.  D14"""
        openings = Openings()
        for _ in range(100):
            openings.opened()
        openings.seen(int(MAX_CREDIT + 1) * MESSAGES_A_TREE - 1)
        self.assertFalse(openings.are_earned)
        openings.seen()
        self.assertTrue(openings.are_earned)

    def granted(self, others: int, own: int = 1, wishes: int = 2000) -> float:
        """The share of wishes that are granted with so many messages in the time."""
        rng = Random(5)
        openings = Openings()
        granted = 0
        for _ in range(wishes):
            openings.wish()
            for _ in range(own - 1):
                openings.sent()
            openings.seen(others + own)
            granted += openings.is_granted(rng)
        return granted / wishes

    def test_few_origins_all_open(self) -> None:
        """Each of eight sends as often as the others.  design D6"""
        for own in (1, 50):
            self.assertEqual(self.granted(7 * own, own), 1)
        self.assertEqual(self.granted(0), 1)

    def test_of_many_a_few_open(self) -> None:
        """Whatever the traffic, about twenty in the time that each of them waits.  design D6"""
        for origins, own in ((200, 1), (200, 5), (2000, 1)):
            share = self.granted((origins - 1) * own, own)
            self.assertApproximates(share * origins / ORIGINS_AT_ONCE, 1, 0.35)

    def test_wish_ends_however_the_lot_falls(self) -> None:
        """There is one timer for it, and no wish without.  design D6"""
        openings = Openings()
        self.assertFalse(openings.is_wished)
        self.assertFalse(openings.is_granted(Random(1)))
        for traffic, granted in ((1, True), (10**9, False)):
            openings.wish()
            self.assertTrue(openings.is_wished)
            openings.seen(traffic)
            self.assertIs(openings.is_granted(Random(1)), granted)
            self.assertFalse(openings.is_wished)
            self.assertFalse(openings.is_granted(Random(1)))
