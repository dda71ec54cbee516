"""How often each source may do something."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.token_buckets import TokenBuckets, source_key


class SourceTests(SynchronousTestCase):
    """``source_key``."""

    def test_an_ipv4_address_is_a_source(self) -> None:
        """Each for itself.  ISV-106-X"""
        self.assertEqual(source_key("192.0.2.1"), "192.0.2.1")

    def test_an_ipv6_slash_64_is_a_source(self) -> None:
        """A subscriber has all of it.  ISV-106-X"""
        self.assertEqual(source_key("2001:db8::1"), source_key("2001:db8::ffff:1"))
        self.assertNotEqual(source_key("2001:db8::1"), source_key("2001:db8:0:1::1"))

    @given(st.text())
    def test_any_text_has_a_key(self, host: str) -> None:
        """What is no address stands for itself.  ISV-106-X"""
        self.assertIsInstance(source_key(host), str)


class BucketTests(SynchronousTestCase):
    """``TokenBuckets``."""

    def setUp(self) -> None:
        self.now = 0.0

    def buckets(self, per_minute: int, capacity: int = 100) -> TokenBuckets:
        """Buckets on this test's clock."""
        return TokenBuckets(per_minute, now=lambda: self.now, capacity=capacity)

    def test_a_minute_s_worth_passes_at_once_and_no_more(self) -> None:
        """n pass, n + 1 does not.  ISV-106-X"""
        buckets = self.buckets(4)
        self.assertEqual([buckets.take("a") for _ in range(5)], [True] * 4 + [False])

    def test_sources_do_not_share(self) -> None:
        """A loud one costs a quiet one nothing.  ISV-106-X"""
        buckets = self.buckets(1)
        self.assertTrue(buckets.take("a"))
        self.assertFalse(buckets.take("a"))
        self.assertTrue(buckets.take("b"))

    def test_tokens_drip_in_evenly(self) -> None:
        """Four a minute are one in 15 s, also for who tries all the time.  ISV-106-X"""
        buckets = self.buckets(4)
        for _ in range(4):
            buckets.take("a")
        passed = 0
        for _ in range(600):
            self.now += 0.1
            passed += buckets.take("a")
        self.assertIn(passed, (3, 4))

    def test_a_long_pause_fills_a_bucket_and_not_more(self) -> None:
        """Nothing is saved up beyond a minute.  ISV-106-X"""
        buckets = self.buckets(3)
        buckets.take("a")
        self.now += 3600
        self.assertEqual([buckets.take("a") for _ in range(4)], [True] * 3 + [False])

    def test_memory_is_bounded(self) -> None:
        """The source that was quiet for the longest is forgotten first.  ISV-106-X"""
        buckets = self.buckets(1, capacity=10)
        for number in range(1000):
            self.now += 0.001
            buckets.take(str(number))
        self.assertEqual(len(buckets), 10)
        self.assertFalse(buckets.take("999"))

    def test_full_buckets_are_not_kept(self) -> None:
        """A minute later every source is as good as new.  ISV-106-X"""
        buckets = self.buckets(1)
        for number in range(50):
            buckets.take(str(number))
        self.now += 61
        buckets.take("new")
        self.assertEqual(len(buckets), 1)
