"""Tests of :mod:`dig_gossip.connection.requests`."""

from __future__ import annotations

from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection import requests
from dig_gossip.connection.requests import ACCEPTOR_IDS, DIALER_IDS, PendingRequests
from dig_gossip.errors import Backpressured
from tests.connection import ManualTime

REPLIES = frozenset({44, 46})
ERROR = 255


class PendingRequestsTests(SynchronousTestCase):
    """Ids are handed out, matched and retired."""

    def setUp(self) -> None:
        self.time = ManualTime()
        self.requests: PendingRequests[str] = self.make(is_dialer=True)

    def make(self, *, is_dialer: bool) -> PendingRequests[str]:
        return PendingRequests(is_dialer=is_dialer, now=self.time)

    def make_small(self, count: int) -> PendingRequests[str]:
        """Pending requests with only ``count`` ids."""
        self.patch(requests, "DIALER_IDS", range(0x4000, 0x4000 + count))
        return self.make(is_dialer=True)

    def test_dialer_starts_at_0x4000(self) -> None:
        """The dialer counts up from 0x4000.  MSG-103-X"""
        ids = [self.requests.open("a", REPLIES) for _ in range(3)]
        self.assertEqual(ids, [0x4000, 0x4001, 0x4002])

    def test_acceptor_starts_at_0x8000(self) -> None:
        """The acceptor counts up from 0x8000.  MSG-103-X"""
        acceptor = self.make(is_dialer=False)
        ids = [acceptor.open("a", REPLIES) for _ in range(3)]
        self.assertEqual(ids, [0x8000, 0x8001, 0x8002])

    def test_every_id_pending_refuses_one_more(self) -> None:
        """All ids of the range can be pending, and not one more.  MSG-103-X"""
        for is_dialer, expected in ((True, DIALER_IDS), (False, ACCEPTOR_IDS)):
            pending = self.make(is_dialer=is_dialer)
            self.assertEqual([pending.open("a", REPLIES) for _ in expected], list(expected))
            self.assertEqual(len(pending), len(expected))
            self.assertRaises(Backpressured, pending.open, "b", REPLIES)
            self.assertEqual(pending.match(expected[7], 44), "a")
            self.assertEqual(pending.open("b", REPLIES), expected[7])
            self.assertRaises(Backpressured, pending.open, "b", REPLIES)

    def test_ranges_are_those_of_the_wire(self) -> None:
        """The halves do not overlap and end where 16 bits end.  MSG-103-X"""
        self.assertEqual((DIALER_IDS[0], DIALER_IDS[-1]), (0x4000, 0x7FFF))
        self.assertEqual((ACCEPTOR_IDS[0], ACCEPTOR_IDS[-1]), (0x8000, 0xFFFF))

    def test_finished_id_is_reused_last(self) -> None:
        """Ids wrap: one that is free again waits until the whole range was used.  MSG-103-X"""
        pending = self.make_small(3)
        first = pending.open("a", REPLIES)
        pending.match(first, 44)
        ids = [pending.open("b", REPLIES) for _ in range(3)]
        self.assertEqual(ids, [0x4001, 0x4002, 0x4000])

    def test_wrapping_skips_pending_ids(self) -> None:
        """An id that is pending is passed over, on this lap and on the next.  MSG-103-X"""
        pending = self.make_small(4)
        ids = [pending.open("a", REPLIES) for _ in range(4)]
        pending.match(ids[1], 44)
        pending.match(ids[3], 44)
        self.assertEqual(pending.open("b", REPLIES), ids[1])
        self.assertEqual(pending.open("b", REPLIES), ids[3])
        pending.match(ids[1], 44)
        self.assertEqual(pending.open("c", REPLIES), ids[1])

    def test_allowed_reply_finishes_the_request(self) -> None:
        """An allowed opcode with the id takes the waiter, once.  MSG-104-X"""
        message_id = self.requests.open("a", REPLIES)
        self.assertEqual(self.requests.match(message_id, 46), "a")
        self.assertEqual(len(self.requests), 0)
        self.assertIsNone(self.requests.match(message_id, 46))
        self.assertFalse(self.requests.is_late(message_id, 46))

    def test_error_opcode_finishes_any_request(self) -> None:
        """Chia's error message answers whatever was asked.  MSG-104-X"""
        message_id = self.requests.open("a", REPLIES)
        self.assertEqual(self.requests.match(message_id, ERROR), "a")

    def test_other_opcode_leaves_the_request_pending(self) -> None:
        """A message of the peer's own with a colliding id steals nothing.  MSG-104-X"""
        message_id = self.requests.open("a", REPLIES)
        self.assertIsNone(self.requests.match(message_id, 43))
        self.assertFalse(self.requests.is_late(message_id, 43))
        self.assertEqual(self.requests.match(message_id, 44), "a")

    def test_no_id_or_unknown_id_matches_nothing(self) -> None:
        """A message without an id, or with one nobody waits for, is no answer.  MSG-102-X"""
        message_id = self.requests.open("a", REPLIES)
        self.assertIsNone(self.requests.match(None, 44))
        self.assertIsNone(self.requests.match(message_id + 1, 44))
        self.assertIsNone(self.requests.match(7, ERROR))
        self.assertFalse(self.requests.is_late(None, 44))
        self.assertFalse(self.requests.is_late(message_id, 44))
        self.requests.timed_out(message_id)
        self.assertFalse(self.requests.is_late(None, 44))
        self.assertFalse(self.requests.is_late(message_id + 1, 44))
        self.assertEqual(len(self.requests), 0)

    def test_timed_out_reply_is_late_and_not_matched(self) -> None:
        """The answer to a timed-out request is recognized, to be dropped.  API-002.7"""
        message_id = self.requests.open("a", REPLIES)
        self.assertEqual(self.requests.timed_out(message_id), "a")
        self.assertIsNone(self.requests.match(message_id, 44))
        for opcode in (44, 44, 46, ERROR):
            self.assertTrue(self.requests.is_late(message_id, opcode))

    def test_other_opcode_with_timed_out_id_is_not_late(self) -> None:
        """The peer's own request with a quarantined id takes the normal path.  MSG-104-X"""
        message_id = self.requests.open("a", REPLIES)
        self.requests.timed_out(message_id)
        self.assertFalse(self.requests.is_late(message_id, 43))

    def test_cancelled_request_is_quarantined_too(self) -> None:
        """The answer to a cancelled request may still come.  MSG-103-X"""
        message_id = self.requests.open("a", REPLIES)
        self.assertEqual(self.requests.forget(message_id), "a")
        self.assertEqual(len(self.requests), 0)
        self.assertTrue(self.requests.is_late(message_id, 44))

    def test_giving_up_twice_is_harmless(self) -> None:
        """A timer that fires for a finished request finds nothing.  API-002.7"""
        message_id = self.requests.open("a", REPLIES)
        self.requests.match(message_id, 44)
        self.assertIsNone(self.requests.timed_out(message_id))
        self.assertIsNone(self.requests.forget(message_id))
        self.assertFalse(self.requests.is_late(message_id, 44))

    def test_quarantine_lasts_120_seconds(self) -> None:
        """An id is free 120 s after its time-out, not before.  MSG-103-X"""
        pending = self.make_small(1)
        message_id = pending.open("a", REPLIES)
        pending.timed_out(message_id)
        self.time.seconds += 119.9
        self.assertRaises(Backpressured, pending.open, "b", REPLIES)
        self.assertTrue(pending.is_late(message_id, 44))
        self.time.seconds += 0.1
        self.assertFalse(pending.is_late(message_id, 44))
        self.assertEqual(pending.open("b", REPLIES), message_id)
        self.assertFalse(pending.is_late(message_id, 44))

    def test_quarantine_ends_one_by_one(self) -> None:
        """Each id serves its own 120 s.  MSG-103-X"""
        pending = self.make_small(2)
        first, second = (pending.open(name, REPLIES) for name in "ab")
        pending.timed_out(second)
        self.time.seconds += 10
        pending.timed_out(first)
        self.time.seconds += 110
        self.assertEqual(pending.open("c", REPLIES), second)
        self.assertRaises(Backpressured, pending.open, "d", REPLIES)
        self.time.seconds += 10
        self.assertEqual(pending.open("d", REPLIES), first)

    def test_drain_returns_all_waiters_and_starts_over(self) -> None:
        """A lost session hands back every waiter and remembers nothing.  CON-115-X"""
        ids = [self.requests.open(name, REPLIES) for name in "abcd"]
        self.requests.match(ids[0], 44)
        self.requests.timed_out(ids[1])
        self.assertEqual(self.requests.drain(), ["c", "d"])
        self.assertEqual(len(self.requests), 0)
        self.assertEqual(self.requests.drain(), [])
        self.assertIsNone(self.requests.match(ids[2], 44))
        self.assertFalse(self.requests.is_late(ids[1], 44))
        self.assertIsNone(self.requests.timed_out(ids[3]))
        self.assertEqual(self.requests.open("e", REPLIES), 0x4000)

    def test_random_use_agrees_with_a_naive_model(self) -> None:
        """No two live requests share an id; late answers never reach anybody.  MSG-103-X"""
        run_state_machine_as_test(RequestsMachine)


class RequestsMachine(RuleBasedStateMachine):
    """Eight ids, compared with a list of everything that ever happened to each."""

    ids = range(0x8000, 0x8008)

    @initialize()
    def start(self) -> None:
        self.time = ManualTime()
        with mock.patch.object(requests, "ACCEPTOR_IDS", self.ids):
            self.requests: PendingRequests[int] = PendingRequests(is_dialer=False, now=self.time)
        self.count = 0
        self.live: dict[int, tuple[int, frozenset[int]]] = {}
        self.retired: dict[int, tuple[float, frozenset[int]]] = {}

    def quarantined(self, message_id: int) -> frozenset[int]:
        until, replies = self.retired.get(message_id, (0.0, frozenset[int]()))
        return replies if self.time() < until else frozenset()

    @rule(replies=st.frozensets(st.sampled_from([1, 2, 3]), min_size=1))
    def open(self, replies: frozenset[int]) -> None:
        self.count += 1
        free = [i for i in self.ids if i not in self.live and not self.quarantined(i)]
        try:
            message_id = self.requests.open(self.count, replies)
        except Backpressured:
            assert not free
        else:
            assert message_id in free
            self.live[message_id] = (self.count, replies)

    @rule(message_id=st.sampled_from([None, 1, *ids]), opcode=st.sampled_from([1, 2, 3, 4, ERROR]))
    def receive(self, message_id: int | None, opcode: int) -> None:
        waiter, replies = self.live.get(message_id or 0, (None, frozenset[int]()))
        is_answer = waiter is not None and (opcode in replies or opcode == ERROR)
        late_replies = self.quarantined(message_id or 0)
        is_late = bool(late_replies) and (opcode in late_replies or opcode == ERROR)
        assert self.requests.is_late(message_id, opcode) == is_late
        assert self.requests.match(message_id, opcode) == (waiter if is_answer else None)
        if is_answer:
            del self.live[message_id or 0]

    @rule(message_id=st.sampled_from(ids), cancelled=st.booleans())
    def give_up(self, message_id: int, cancelled: bool) -> None:
        entry = self.live.pop(message_id, None)
        call = self.requests.forget if cancelled else self.requests.timed_out
        if entry is None:
            assert call(message_id) is None
        else:
            assert call(message_id) == entry[0]
            self.retired[message_id] = (self.time() + 120, entry[1])

    @rule(seconds=st.sampled_from([0.5, 30, 60, 119, 120]))
    def wait(self, seconds: float) -> None:
        self.time.seconds += seconds

    @rule()
    def drain(self) -> None:
        assert self.requests.drain() == [waiter for waiter, _ in self.live.values()]
        self.live.clear()
        self.retired.clear()

    @invariant()
    def length_is_that_of_the_model(self) -> None:
        assert len(self.requests) == len(self.live)
