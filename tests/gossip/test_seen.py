"""Which messages have been here."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.seen import Kept, KnownHashes, PureSeenSet, SeenSet, Sighting, Stage
from tests.extensions import SEEN, compiled
from tests.seen_check import check


def _digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


class SeenSetTests(SynchronousTestCase):
    """The most recently first-seen messages."""

    def new(self, capacity: int) -> Kept:
        """An empty set."""
        return SeenSet(capacity)

    def filled(self, capacity: int, count: int) -> Kept:
        """A set that has taken ``count`` messages."""
        seen = self.new(capacity)
        for number in range(count):
            seen.add(_digest(number), Sighting(Stage.REMOTE, float(number), None))
        return seen

    def test_what_is_added_is_found_with_flag_and_time(self) -> None:
        """Origin and first-seen time are kept.  PLT-008"""
        seen = self.filled(10, 3)
        sighting = seen.get(_digest(2))
        assert sighting is not None
        self.assertEqual((sighting.stage, sighting.first_seen), (Stage.REMOTE, 2.0))
        self.assertIsNone(seen.get(_digest(3)))

    def test_full_set_drops_the_oldest(self) -> None:
        """At the capacity nothing is lost, one more loses the first.  PLT-008"""
        for count, first_is_there in ((9, True), (10, True), (11, False)):
            seen = self.filled(10, count)
            self.assertEqual(len(seen), min(count, 10))
            self.assertEqual(seen.get(_digest(0)) is not None, first_is_there)
            self.assertIsNotNone(seen.get(_digest(count - 1)))

    def test_look_up_does_not_refresh(self) -> None:
        """A message that is asked for all the time still goes in its turn.  PLT-008"""
        seen = self.filled(10, 10)
        seen.get(_digest(0))
        seen.add(_digest(10), Sighting(Stage.LOCAL, 10.0, None))
        self.assertIsNone(seen.get(_digest(0)))

    def test_hash_is_found_by_its_beginning_as_long_as_it_is_there(self) -> None:
        """Eight bytes do; what has gone is not found.  design D6"""
        seen = self.new(2)
        digests = [bytes([number]) * 32 for number in range(3)]
        for digest in digests:
            seen.add(digest, Sighting(Stage.REMOTE, 0.0, None))
        self.assertEqual([seen.find(d[:8]) for d in digests], [None, *digests[1:]])
        self.assertIsNone(seen.find(digests[1][:7]))

    def test_of_two_hashes_that_begin_alike_the_later_is_found(self) -> None:
        """The earlier one's end does not take it away.  design D6"""
        seen = self.new(2)
        earlier, later, third = (b"short..." + bytes([n]) * 24 for n in range(3))
        other = bytes(32)
        seen.add(earlier, Sighting(Stage.REMOTE, 0.0, None))
        seen.add(later, Sighting(Stage.REMOTE, 0.0, None))
        self.assertEqual(seen.find(b"short..."), later)
        seen.add(other, Sighting(Stage.REMOTE, 0.0, None))
        self.assertIsNone(seen.get(earlier))
        self.assertEqual(seen.find(b"short..."), later)
        seen.add(third, Sighting(Stage.REMOTE, 0.0, None))
        self.assertEqual(seen.find(b"short..."), third)


class PureSeenSetTests(SeenSetTests):
    """The same where nothing could be compiled."""

    def new(self, capacity: int) -> Kept:
        """An empty set."""
        return PureSeenSet(capacity)


class BothSeenSetsTests(SynchronousTestCase):
    """What is compiled does what is done in Python."""

    @given(st.integers(0, 2**32))
    def test_both_know_the_same(self, seed: int) -> None:
        """Whatever is added, replaced and asked for, however alike hashes begin.  PLT-008"""
        check(compiled(SEEN), 3, seed)

    def test_many_messages_come_and_go(self) -> None:
        """Thousands, so that the table is made larger, and is full of what has gone.  PLT-008"""
        rng, module = Random(3), compiled(SEEN)
        pure, other = PureSeenSet(1000), module.Seen(1000, bytes(16))
        sightings = [Sighting(Stage.REMOTE, float(number), None) for number in range(5000)]
        digests = [rng.randbytes(32) for _ in sightings]
        for digest, sighting in zip(digests, sightings, strict=True):
            pure.add(digest, sighting)
            other.add(digest, sighting)
        self.assertEqual([pure.get(each) for each in digests], [other.get(e) for e in digests])
        self.assertEqual([other.find(each[:8]) for each in digests[-1000:]], digests[-1000:])

    def test_wrong_arguments_are_refused(self) -> None:
        """Nothing is added that is no hash, and a look-up finds nothing.  D4"""
        module = compiled(SEEN)
        for capacity, key in ((0, bytes(16)), (2**30, bytes(16)), (5, bytes(15))):
            self.assertRaises(ValueError, module.Seen, capacity, key)
        seen = module.Seen(5, bytes(16))
        for wrong in (b"", bytes(31), "x" * 32, None):
            self.assertRaises(TypeError, seen.add, wrong, None)
            seen.replace(wrong, None)
            self.assertIsNone(seen.get(wrong))
            self.assertIsNone(seen.find(wrong))
        self.assertEqual(len(seen), 0)


class KnownHashesTests(SynchronousTestCase):
    """What one session is known to have."""

    def test_adding_tells_whether_it_is_news(self) -> None:
        """The second time is no news.  D6"""
        known = KnownHashes(10)
        self.assertTrue(known.add(_digest(1)))
        self.assertFalse(known.add(_digest(1)))

    def test_full_list_drops_the_least_recently_used(self) -> None:
        """A hash that is used again outlives its neighbors.  D6"""
        known = KnownHashes(3)
        for number in (0, 1, 2, 0, 3):
            known.add(_digest(number))
        self.assertEqual(len(known), 3)
        self.assertFalse(known.add(_digest(0)))
        self.assertTrue(known.add(_digest(1)))
