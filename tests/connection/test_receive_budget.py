"""One budget for everything that was received in part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.receive_budget import FREE_BYTES, PATIENCE_SECS, ReceiveBudget
from dig_gossip.testing.clock import SimulatedClock
from dig_gossip.util.clock import Clock
from tests.connection.websocket_case import WebSocketCase

MB = 1_000_000


class FakeConnection:
    """Notes what it is told."""

    def __init__(self, budget: ReceiveBudget) -> None:
        self.budget = budget
        self.is_held = False
        self.aborted = False

    def hold(self, holder: object) -> None:
        assert not self.is_held
        self.is_held = True

    def release(self, holder: object) -> None:
        assert self.is_held
        self.is_held = False

    def abort(self) -> None:
        self.aborted = True


class ReceiveBudgetTests(SynchronousTestCase):
    """Ten megabytes for everybody."""

    def setUp(self) -> None:
        self.reactor = SimulatedClock()
        self.clock = Clock(self.reactor)
        self.budget = ReceiveBudget(10 * MB, self.clock)
        self.a, self.b, self.c = (FakeConnection(self.budget) for _ in range(3))

    def held(self) -> list[bool]:
        """Who is not read from."""
        return [self.a.is_held, self.b.is_held, self.c.is_held]

    def test_nobody_is_stopped_within_the_limit(self) -> None:
        """Not at it, either.  D7"""
        self.budget.report(self.a, 4 * MB)
        self.budget.report(self.b, 6 * MB)
        self.assertEqual((self.budget.total, self.held()), (10 * MB, [False] * 3))

    def test_beyond_it_the_largest_is_stopped(self) -> None:
        """Whoever reported, and until there is room.  D7"""
        self.budget.report(self.a, 6 * MB)
        self.budget.report(self.b, 4 * MB + 1)
        self.assertEqual(self.held(), [True, False, False])
        self.budget.report(self.c, MB)
        self.assertEqual(self.held(), [True, True, False])
        self.budget.report(self.c, 2 * MB)
        self.assertEqual(self.held(), [True, True, False], "the last one may make room")
        self.budget.report(self.c, 0)
        self.assertEqual(self.held(), [True, True, False], "that was not enough")
        self.budget.forget(self.a)
        self.assertEqual((self.held(), self.budget.holds), ([True, False, False], 2))
        self.assertEqual(self.budget.total, 4 * MB + 1)

    def test_one_alone_is_not_stopped(self) -> None:
        """Its own limits are smaller, and nobody else could make room.  D7"""
        self.budget.report(self.a, 50 * MB)
        self.assertEqual(self.held(), [False] * 3)

    def test_small_ones_are_free(self) -> None:
        """Large messages of others never stop small ones.  D7"""
        self.budget.report(self.a, 50 * MB)
        self.budget.report(self.b, FREE_BYTES)
        self.assertEqual((self.held(), self.budget.total), ([False] * 3, 50 * MB))
        self.budget.report(self.b, FREE_BYTES + 1)
        self.assertEqual(self.held(), [True, False, False])

    def test_who_stays_stopped_is_given_up(self) -> None:
        """Nobody who does not finish keeps the memory of all.  D7, D14"""
        self.budget.report(self.a, 8 * MB)
        self.budget.report(self.b, 3 * MB)
        self.reactor.advance(PATIENCE_SECS - 1)
        self.assertFalse(self.a.aborted)
        self.reactor.advance(1)
        self.assertTrue(self.a.aborted)
        self.assertEqual((self.budget.total, self.budget.given_up), (3 * MB, 1))
        self.budget.forget(self.a)
        self.budget.forget(self.b)
        self.assertEqual((self.budget.total, self.clock.pending), (0, 0))

    @given(
        st.lists(
            st.tuples(st.integers(0, 4), st.integers(0, 6 * MB), st.sampled_from([0, 0, 0, 7])),
            max_size=60,
        )
    )
    def test_any_reports(self, reports: list[tuple[int, int, int]]) -> None:
        """The sum is right, and beyond the limit one that counts is read from at least.  D7"""
        self.setUp()
        sizes = dict.fromkeys(range(5), 0)
        connections = {number: FakeConnection(self.budget) for number in sizes}
        for number, size, seconds in reports:
            connection = connections[number]
            if connection.aborted:
                continue
            if not connection.is_held or size < sizes[number]:
                sizes[number] = size if size > FREE_BYTES else 0
                self.budget.report(connection, size)
            self.reactor.advance(seconds)
            for gone in [n for n in sizes if connections[n].aborted]:
                sizes[gone] = 0
            self.assertEqual(self.budget.total, sum(sizes.values()))
            counted = [connections[n] for n in sizes if sizes[n]]
            if self.budget.total <= 10 * MB:
                self.assertFalse(any(one.is_held and not one.aborted for one in counted))
            elif counted:
                self.assertTrue(any(not one.is_held for one in counted))
        for connection in connections.values():
            self.budget.forget(connection)
        self.assertEqual((self.budget.total, self.clock.pending), (0, 0))


class WebSocketTests(WebSocketCase):
    """What a connection reports."""

    def begin(self) -> None:
        super().begin()
        self.budget = self.transports.budget = ReceiveBudget(10 * MB, self.clock)

    def test_half_of_a_message_counts_until_the_end(self) -> None:
        """Of the message, or of the connection.  D7"""
        self.serve()
        self.protocol.registered()
        message = b"\x82\xff" + (1 << 20).to_bytes(8, "big") + bytes(4) + bytes(1 << 20)
        self.peer.send(message[:500_000])
        self.network.settle()
        self.assertEqual(self.budget.total, 500_000 - 14)
        self.peer.send(message[500_000:] + message[:300_000])
        self.network.settle()
        self.assertEqual(self.budget.total, 300_000 - 14)
        self.peer.drop()
        self.network.settle()
        self.assertEqual(self.budget.total, 0)

    def test_text_is_refused_at_its_header(self) -> None:
        """Nothing of it is kept, whatever its size.  D7, wire §2"""
        self.serve()
        self.protocol.registered()
        text = b"\x81\xff" + (1 << 20).to_bytes(8, "big") + bytes(4) + bytes(1 << 20)
        self.peer.send(text[:200_000])
        self.network.settle()
        self.assertEqual(self.events[1:3], ["text", "closing"])
        self.assertEqual(self.protocol.localCloseCode, 1003)
        self.assertEqual(self.budget.total, 0)
        self.assertLess(sum(map(len, self.protocol.message_data)), 1000)
