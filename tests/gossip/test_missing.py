"""The table of announced messages that have not come."""

from __future__ import annotations

import math

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.constants import (
    PLUMTREE_MAX_ANNOUNCERS,
    PLUMTREE_MAX_MISSING,
    PLUMTREE_MAX_MISSING_PER_PEER,
)
from dig_gossip.effects import SetTimer
from dig_gossip.gossip.missing import MISSING_TIMER, MissingMessages
from tests.gossip.engine_case import A, B, peer_id


def _digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


class MissingMessagesTests(SynchronousTestCase):
    """Caps, deadlines, and the one timer."""

    def setUp(self) -> None:
        self.missing = MissingMessages()

    def note(self, number: int, *peers: bytes, deadline: float = 1.0) -> None:
        """Announcements come, unless they are refused."""
        for peer in peers:
            if not self.missing.refuses(_digest(number), peer_id(repr(peer))):
                new = self.missing.announced(_digest(number), peer_id(repr(peer)), 0.0)
                if new is not None:
                    self.missing.schedule(new, deadline)

    def test_announcers_of_one_message_are_bounded(self) -> None:
        """The ninth announcer is refused, a repetition is not news.  PLT-005"""
        peers = [bytes([number]) for number in range(9)]
        self.note(0, *peers, *peers[:3])
        missing = self.missing.pop(_digest(0))
        assert missing is not None
        self.assertEqual(len(missing.announced_at), PLUMTREE_MAX_ANNOUNCERS)
        self.assertEqual(list(missing.untried), list(missing.announced_at))

    def test_repetition_by_one_of_eight_is_not_refused(self) -> None:
        """It neither counts nor hurts.  PLT-005"""
        self.note(0, *[bytes([number]) for number in range(8)])
        self.assertFalse(self.missing.refuses(_digest(0), peer_id(repr(b"\0"))))

    def test_messages_of_one_peer_are_bounded(self) -> None:
        """A peer has at most a thousand open announcements; others are unaffected.  PLT-005"""
        for number in range(PLUMTREE_MAX_MISSING_PER_PEER):
            self.note(number, b"liar")
        self.assertTrue(self.missing.refuses(_digest(5000), peer_id(repr(b"liar"))))
        self.assertFalse(self.missing.refuses(_digest(5000), A))
        self.missing.pop(_digest(0))
        self.assertFalse(self.missing.refuses(_digest(5000), peer_id(repr(b"liar"))))

    def test_messages_in_all_are_bounded(self) -> None:
        """Ten thousand, then only more announcers of these are welcome.  PLT-005"""
        for number in range(PLUMTREE_MAX_MISSING):
            self.note(number, bytes([number // PLUMTREE_MAX_MISSING_PER_PEER]))
        self.assertEqual(len(self.missing), PLUMTREE_MAX_MISSING)
        self.assertTrue(self.missing.refuses(_digest(PLUMTREE_MAX_MISSING), A))
        self.assertFalse(self.missing.refuses(_digest(0), A))

    def test_due_messages_come_in_order_of_their_deadlines(self) -> None:
        """Only what is due, each once.  PLT-005"""
        for number, deadline in ((0, 3.0), (1, 1.0), (2, 2.0)):
            self.note(number, b"x", deadline=deadline)
        self.assertEqual([item.digest for item in self.missing.due(2.0)], [_digest(1), _digest(2)])
        self.assertEqual(self.missing.due(2.0), [])

    def test_moved_deadline_replaces_the_old_one(self) -> None:
        """The earlier entry in the heap no longer counts.  PLT-005.1"""
        self.note(0, b"x", deadline=1.0)
        (missing,) = self.missing
        self.missing.schedule(missing, 5.0)
        self.assertEqual(self.missing.due(4.0), [])
        self.assertEqual(self.missing.due(5.0), [missing])

    def test_timer_may_fire_a_little_early(self) -> None:
        """Rounding of floats does not cost a second firing.  PLT-005"""
        self.note(0, b"x", deadline=1.0)
        self.assertEqual(len(self.missing.due(0.9999)), 1)

    def test_timer_is_set_for_the_nearest_deadline_only(self) -> None:
        """Later deadlines do not set it again, earlier ones do, nothing sets nothing.  PLT-005"""
        self.assertEqual(self.missing.arm(0.0), [])
        self.note(0, b"x", deadline=2.0)
        self.assertEqual(self.missing.arm(0.0), [SetTimer(MISSING_TIMER, 2.0)])
        self.note(1, b"x", deadline=3.0)
        self.assertEqual(self.missing.arm(0.0), [])
        self.note(2, b"x", deadline=1.0)
        self.assertEqual(self.missing.arm(0.5), [SetTimer(MISSING_TIMER, 0.5)])
        for number in range(3):
            self.missing.pop(_digest(number))
        self.assertEqual(self.missing.arm(1.0, fired=True), [])

    def test_stale_deadlines_do_not_pile_up(self) -> None:
        """Messages that come before their deadline leave nothing behind for long.  PLT-005"""
        self.note(0, b"x", deadline=math.inf)
        for number in range(1, 500):
            self.note(number, b"x", deadline=1000.0)
            self.missing.pop(_digest(number))
            self.assertLessEqual(self.missing.deadlines, 2 * len(self.missing) + 66)

    def test_lost_announcer_is_forgotten(self) -> None:
        """What it was asked for is handed back, what it was not is not.  PLT-006"""
        for number in range(2):
            missing = self.missing.announced(_digest(number), A, 0.0)
            assert missing is not None
            self.missing.schedule(missing, 1.0)
            self.missing.announced(_digest(number), B, 0.0)
        asked = self.missing.get(_digest(1))
        assert asked is not None
        asked.asked = asked.untried.popleft()
        self.assertEqual(self.missing.peer_down(A), [asked])
        self.assertEqual([list(item.announced_at) for item in self.missing], [[B], [B]])
        self.assertEqual(self.missing.peer_down(A), [])

    def test_announcer_that_failed_is_no_orphan(self) -> None:
        """Only who is being asked right now leaves a gap.  PLT-006"""
        missing = self.missing.announced(_digest(0), A, 0.0)
        assert missing is not None
        self.missing.announced(_digest(0), B, 0.0)
        missing.untried.clear()
        missing.asked = B
        self.assertEqual(self.missing.peer_down(A), [])
