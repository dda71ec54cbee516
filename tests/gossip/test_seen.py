"""Which messages have been here."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.seen import KnownHashes, SeenSet, Sighting, Stage


def _digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


class SeenSetTests(SynchronousTestCase):
    """The most recently first-seen messages."""

    def filled(self, capacity: int, count: int) -> SeenSet:
        """A set that has taken ``count`` messages."""
        seen = SeenSet(capacity)
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
        seen = SeenSet(2)
        digests = [bytes([number]) * 32 for number in range(3)]
        for digest in digests:
            seen.add(digest, Sighting(Stage.REMOTE, 0.0, None))
        self.assertEqual([seen.find(d[:8]) for d in digests], [None, *digests[1:]])
        self.assertIsNone(seen.find(digests[1][:7]))

    def test_of_two_hashes_that_begin_alike_the_later_is_found(self) -> None:
        """The earlier one's end does not take it away.  design D6"""
        seen = SeenSet(2)
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
