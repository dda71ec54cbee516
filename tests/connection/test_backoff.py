"""Tests of :mod:`dig_gossip.connection.backoff`."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.backoff import DialBackoff
from dig_gossip.types.peer import PeerAddress
from tests.connection import ManualTime

ADDRESS = PeerAddress("192.0.2.1", 9444)
OTHER = PeerAddress("192.0.2.1", 9445)


class FixedRandom(random.Random):
    """Draws the same number every time."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self.value = value

    def random(self) -> float:
        return self.value


class DialBackoffTests(SynchronousTestCase):
    """Waiting times of addresses that failed."""

    def setUp(self) -> None:
        self.time = ManualTime()
        self.backoff = self.make()

    def make(self, jitter: float = 0.0, capacity: int = 10) -> DialBackoff:
        return DialBackoff(now=self.time, rng=FixedRandom(jitter), capacity=capacity)

    def failed(self, address: PeerAddress = ADDRESS, *, retryable: bool = True) -> float:
        """Note a failure; return the wait that follows."""
        self.backoff.failed(address, retryable=retryable)
        return self.backoff.retry_in(address)

    def test_unknown_address_may_be_dialed(self) -> None:
        """Who never failed does not wait.  CON-102-X"""
        self.assertTrue(self.backoff.may_dial(ADDRESS))
        self.assertEqual(self.backoff.retry_in(ADDRESS), 0.0)
        self.assertEqual(self.backoff.failures(ADDRESS), 0)

    def test_wait_doubles_up_to_the_cap(self) -> None:
        """5 s, 10 s, 20 s … and never more than 600 s.  CON-102-X"""
        waits = [self.failed() for _ in range(9)]
        self.assertEqual(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600])
        self.assertEqual(self.backoff.failures(ADDRESS), 9)

    def test_jitter_adds_up_to_half_and_respects_the_cap(self) -> None:
        """The full jitter is 50 % of the wait; the cap holds with it.  CON-102-X"""
        self.backoff = self.make(jitter=1.0)
        waits = [self.failed() for _ in range(9)]
        self.assertEqual(waits, [7.5, 15, 30, 60, 120, 240, 480, 600, 600])

    def test_thousands_of_failures_stay_at_the_cap(self) -> None:
        """No overflow, however often an address fails.  CON-102-X"""
        for _ in range(5000):
            self.assertLessEqual(self.failed(), 600)
        self.assertEqual(self.backoff.retry_in(ADDRESS), 600)

    def test_address_may_be_dialed_when_the_wait_is_over(self) -> None:
        """Not before, and from exactly then on.  CON-102-X"""
        self.failed()
        start = self.time.seconds
        for passed, expected in ((0.0, 5.0), (4.9, 0.1), (5.0, 0.0), (5.1, 0.0)):
            self.time.seconds = start + passed
            self.assertAlmostEqual(self.backoff.retry_in(ADDRESS), expected)
            self.assertIs(self.backoff.may_dial(ADDRESS), expected == 0.0)
        self.assertGreaterEqual(self.backoff.retry_in(ADDRESS), 0.0)

    def test_addresses_are_independent(self) -> None:
        """Another port is another address.  CON-102-X"""
        self.failed()
        self.assertTrue(self.backoff.may_dial(OTHER))
        self.assertEqual(self.failed(OTHER), 5)

    def test_success_forgets_the_address(self) -> None:
        """A session resets the count, for its address only.  CON-102-X"""
        self.failed()
        self.failed()
        self.failed(OTHER)
        self.backoff.succeeded(ADDRESS)
        self.backoff.succeeded(ADDRESS)
        self.assertTrue(self.backoff.may_dial(ADDRESS))
        self.assertFalse(self.backoff.may_dial(OTHER))
        self.assertEqual(self.failed(), 5)

    def test_hopeless_address_is_not_dialed_for_an_hour(self) -> None:
        """A failure that retrying cannot cure: 3600 s without jitter.  CON-001.7"""
        self.backoff = self.make(jitter=1.0)
        self.assertEqual(self.failed(retryable=False), 3600)
        self.assertEqual(self.backoff.failures(ADDRESS), 1)
        self.time.seconds += 3599
        self.assertFalse(self.backoff.may_dial(ADDRESS))
        self.time.seconds += 1
        self.assertTrue(self.backoff.may_dial(ADDRESS))

    def test_later_failure_does_not_shorten_the_hour(self) -> None:
        """A manual dial that fails otherwise leaves the do-not-dial list alone.  CON-001.7"""
        self.failed(retryable=False)
        self.time.seconds += 100
        self.assertEqual(self.failed(), 3500)
        self.assertEqual(self.failed(retryable=False), 3600)

    def test_map_is_bounded_and_drops_the_oldest_failure(self) -> None:
        """The address whose last failure is the oldest makes room.  CON-102-X"""
        self.backoff = self.make(capacity=3)
        addresses = [PeerAddress("192.0.2.1", port) for port in range(4)]
        for address in addresses[:3]:
            self.failed(address)
        self.assertEqual(len(self.backoff), 3)
        self.failed(addresses[0])
        self.failed(addresses[3])
        self.assertEqual(len(self.backoff), 3)
        self.assertEqual([self.backoff.failures(a) for a in addresses], [2, 0, 1, 1])

    def test_default_capacity_is_ten_thousand(self) -> None:
        """10 000 addresses are remembered, one more is not.  CON-102-X"""
        backoff = DialBackoff(now=self.time, rng=random.Random(1))
        for number in range(10_001):
            backoff.failed(PeerAddress(f"10.0.{number >> 8}.{number & 255}", 1), retryable=True)
        self.assertEqual(len(backoff), 10_000)
        self.assertEqual(backoff.failures(PeerAddress("10.0.0.0", 1)), 0)
        self.assertEqual(backoff.failures(PeerAddress("10.0.0.1", 1)), 1)

    def test_expire_forgets_addresses_left_alone_for_an_hour(self) -> None:
        """Cleanup drops what could have been dialed for an hour, nothing else.  CNC-006"""
        self.failed()
        self.failed(OTHER, retryable=False)
        self.time.seconds += 5 + 3599
        self.backoff.expire()
        self.assertEqual(self.backoff.failures(ADDRESS), 1)
        self.time.seconds += 1
        self.backoff.expire()
        self.assertEqual(self.backoff.failures(ADDRESS), 0)
        self.assertEqual(self.backoff.failures(OTHER), 1)
        self.time.seconds += 3600
        self.backoff.expire()
        self.assertEqual(len(self.backoff), 0)

    @given(st.integers(0, 2**32), st.integers(1, 30))
    def test_jitter_stays_within_its_bounds(self, seed: int, count: int) -> None:
        """The n-th wait is between 5·2^(n-1) and half more, at most 600 s.  CON-102-X"""
        self.backoff = DialBackoff(now=self.time, rng=random.Random(seed))
        for number in range(count):
            wait = self.failed()
            self.time.seconds += wait
            base = 5 * 2**number
            self.assertGreaterEqual(wait + 1e-6, min(600, base))
            self.assertLessEqual(wait, min(600, base * 1.5) + 1e-6)
