"""What is remembered of one peer."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.link import MAX_LEADS, MAX_PULLS, Link, Pull
from tests.gossip.engine_case import A, B, peer_id


def _digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


class LinkCase(SynchronousTestCase):
    """A lazy link."""

    def setUp(self) -> None:
        self.link = Link(A, is_eager=False, score=0.0, number=1)


class PullTests(LinkCase):
    """Answers to our own pulls."""

    def test_first_frame_within_five_seconds_is_the_answer(self) -> None:
        """The next one is not, nor a late one.  PLT-004.1"""
        self.link.pulled(_digest(1), Pull.GRAFT, 0.0)
        self.link.pulled(_digest(2), Pull.REQUEST, 0.0)
        self.link.pulled(_digest(3), Pull.GRAFT, 0.0)
        self.assertIs(self.link.answered(_digest(1), 1.0), Pull.GRAFT)
        self.assertIsNone(self.link.answered(_digest(1), 1.0))
        self.assertIs(self.link.answered(_digest(2), 5.0), Pull.REQUEST)
        self.assertIsNone(self.link.answered(_digest(3), 5.1))

    def test_open_pulls_are_bounded(self) -> None:
        """Old ones expire, and of more than 1024 the oldest goes.  PLT-004.1"""
        for number in range(MAX_PULLS + 1):
            self.link.pulled(_digest(number), Pull.GRAFT, 0.0)
        self.assertEqual(len(self.link.pulls), MAX_PULLS)
        self.assertIsNone(self.link.answered(_digest(0), 0.0))
        self.link.pulled(_digest(0), Pull.GRAFT, 5.1)
        self.assertEqual(len(self.link.pulls), 1)


class FailureTests(LinkCase):
    """Announcements with nothing behind them."""

    def test_ten_failures_within_a_minute_make_a_liar(self) -> None:
        """Nine do not; a minute later it is trusted again.  PLT-106-X"""
        failed = [self.link.failed(_digest(number), float(number)) for number in range(10)]
        self.assertEqual(failed, [False] * 9 + [True])
        self.assertTrue(self.link.is_distrusted(68.9))
        self.assertFalse(self.link.is_distrusted(69.0))

    def test_failures_over_more_than_a_minute_do_not(self) -> None:
        """The oldest no longer counts.  PLT-106-X"""
        self.link.failed(_digest(0), 0.0)
        failed = [self.link.failed(_digest(number), 60.1) for number in range(1, 10)]
        self.assertEqual(failed, [False] * 9)
        self.assertTrue(self.link.failed(_digest(10), 60.1))

    def test_late_answer_takes_a_failure_back(self) -> None:
        """A slow peer is no liar.  PLT-106-X"""
        for number in range(9):
            self.link.failed(_digest(number), 0.0)
        self.link.pulled(_digest(0), Pull.GRAFT, 0.0)
        self.link.answered(_digest(0), 20.0)
        self.assertFalse(self.link.failed(_digest(9), 20.0))


class LeadTests(LinkCase):
    """A lazy peer that would be faster than an eager one."""

    def test_three_leads_within_a_minute_are_enough(self) -> None:
        """Two are not.  PLT-101-X"""
        self.assertEqual([self.link.leads(B, now) for now in (0, 30, 60)], [False, False, True])

    def test_three_leads_over_more_than_a_minute_are_not(self) -> None:
        """After a minute the count begins anew.  PLT-101-X"""
        self.assertEqual([self.link.leads(B, now) for now in (0, 30, 61)], [False] * 3)
        self.assertEqual([self.link.leads(B, now) for now in (62, 63)], [False, True])

    def test_lags_count_against_leads(self) -> None:
        """Faster half of the time is not faster.  PLT-101-X"""
        for _ in range(20):
            self.assertFalse(self.link.leads(B, 0.0))
            self.link.lags(B)

    def test_lags_beyond_sixteen_are_not_counted(self) -> None:
        """However slow it was, 19 leads in a row make up for it.  PLT-101-X"""
        self.link.leads(B, 0.0)
        for _ in range(100):
            self.link.lags(B)
        led = [self.link.leads(B, 0.0) for _ in range(19)]
        self.assertEqual(led, [False] * 18 + [True])

    def test_lag_without_a_lead_is_nothing(self) -> None:
        """No memory is spent on peers that never lead.  PLT-101-X"""
        self.link.lags(B)
        self.assertEqual([self.link.leads(B, 0.0) for _ in range(3)], [False, False, True])

    def test_compared_peers_are_bounded(self) -> None:
        """Of more than 64 the first is forgotten; all, when the tree changes.  PLT-101-X"""
        rivals = [peer_id(str(number)) for number in range(MAX_LEADS + 1)]
        for rival in rivals:
            self.link.leads(rival, 0.0)
            self.link.leads(rival, 0.0)
        self.assertTrue(self.link.leads(rivals[1], 0.0))
        self.assertFalse(self.link.leads(rivals[0], 0.0))
        self.link.forget_leads()
        self.assertFalse(self.link.leads(rivals[2], 0.0))
