"""Full messages kept for pulls."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip.cache import MAX_CACHED_MESSAGE_BYTES, MessageCache, Miss
from dig_gossip.wire.message import Message
from tests.gossip.engine_case import A, B, peer_id


def _digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _message(size: int) -> Message:
    """A message of ``size`` serialized bytes."""
    return Message(200, None, bytes(size - 6))


class MessageCacheTests(SynchronousTestCase):
    """Bounds by count, bytes and age."""

    def has(self, cache: MessageCache, number: int, now: float = 0.0) -> bool:
        """Whether a message can be pulled, by a peer of its own."""
        return cache.serve(_digest(number), peer_id(f"{number} {now}"), now) is not Miss.ABSENT

    def test_count_is_bounded(self) -> None:
        """The least recently used message makes room.  PLT-007"""
        for count in (2, 3, 4):
            cache = MessageCache(3, 1000, 60)
            for number in range(count):
                self.assertTrue(cache.put(_digest(number), _message(10), 0.0))
            self.assertEqual(len(cache), min(count, 3))
            self.assertEqual(self.has(cache, 0), count <= 3)

    def test_bytes_are_bounded(self) -> None:
        """Messages go until the bytes fit.  PLT-007"""
        cache = MessageCache(1000, 100, 60)
        for number in range(10):
            cache.put(_digest(number), _message(10), 0.0)
        self.assertEqual((len(cache), cache.size), (10, 100))
        cache.put(_digest(10), _message(11), 0.0)
        self.assertEqual((len(cache), cache.size), (9, 91))
        self.assertFalse(self.has(cache, 1))
        self.assertTrue(self.has(cache, 2))

    def test_pulled_message_is_used(self) -> None:
        """A pull postpones eviction.  PLT-007"""
        cache = MessageCache(2, 1000, 60)
        cache.put(_digest(0), _message(10), 0.0)
        cache.put(_digest(1), _message(10), 0.0)
        self.assertTrue(self.has(cache, 0))
        cache.put(_digest(2), _message(10), 0.0)
        self.assertTrue(self.has(cache, 0))
        self.assertFalse(self.has(cache, 1))

    def test_oversized_message_is_not_kept(self) -> None:
        """8 MiB is kept, one byte more is not, nor what exceeds the whole cache.  PLT-007"""
        cache = MessageCache(10, 1 << 30, 60)
        self.assertTrue(cache.put(_digest(0), _message(MAX_CACHED_MESSAGE_BYTES), 0.0))
        self.assertFalse(cache.put(_digest(1), _message(MAX_CACHED_MESSAGE_BYTES + 1), 0.0))
        self.assertEqual(len(cache), 1)
        self.assertFalse(MessageCache(10, 100, 60).put(_digest(0), _message(101), 0.0))

    def test_message_expires_by_insertion(self) -> None:
        """A minute after insertion it cannot be pulled, even if it was used.  PLT-007"""
        cache = MessageCache(10, 1000, 60)
        cache.put(_digest(0), _message(10), 0.0)
        self.assertTrue(self.has(cache, 0, 59.9))
        self.assertFalse(self.has(cache, 0, 60.0))

    def test_purge_drops_what_has_expired(self) -> None:
        """Expired messages leave, others stay.  PLT-007"""
        cache = MessageCache(10, 1000, 60)
        cache.put(_digest(0), _message(10), 0.0)
        cache.put(_digest(1), _message(20), 30.0)
        cache.purge(60.0)
        self.assertEqual((len(cache), cache.size), (1, 20))

    def test_repeated_message_starts_a_new_life(self) -> None:
        """Putting it again counts once and lasts longer.  PLT-007"""
        cache = MessageCache(10, 1000, 60)
        cache.put(_digest(0), _message(10), 0.0)
        cache.put(_digest(0), _message(10), 50.0)
        self.assertEqual((len(cache), cache.size), (1, 10))
        self.assertTrue(self.has(cache, 0, 100.0))

    def test_repeated_message_is_used(self) -> None:
        """Putting it again postpones eviction.  PLT-007"""
        cache = MessageCache(2, 1000, 60)
        for number in (0, 1, 0, 2):
            cache.put(_digest(number), _message(10), 0.0)
        self.assertTrue(self.has(cache, 0))
        self.assertFalse(self.has(cache, 1))

    def test_latest_are_found(self) -> None:
        """Since a moment, included; of many the latest; a pull changes nothing.  PLT-003"""
        cache = MessageCache(10, 1000, 60)
        for number in range(5):
            cache.put(_digest(number), _message(10), float(number))
        self.assertTrue(self.has(cache, 2, 5.0))
        cache.put(_digest(1), _message(10), 6.0)

        def found(start: float, most: int = 10) -> list[tuple[bytes, int]]:
            return cache.since(start, most)

        self.assertEqual(found(2.0), [(_digest(number), 200) for number in (2, 3, 4, 1)])
        self.assertEqual(found(2.0, 2), [(_digest(number), 200) for number in (4, 1)])
        self.assertEqual(found(6.1), [])
        cache.purge(63.5)
        self.assertEqual(found(0.0), [(_digest(number), 200) for number in (4, 1)])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["put"] * 4 + ["serve"] * 8 + ["purge"]),
                st.integers(0, 6),
                st.sampled_from([10, 10, 10, 20, 90]),
            ),
            min_size=20,
            max_size=100,
        )
    )
    def test_least_recently_used_goes_first(self, events: list[tuple[str, int, int]]) -> None:
        """Whatever is put, put again, pulled and expires: as in an ordered dictionary.  PLT-007"""
        cache, now = MessageCache(4, 150, 200), 0.0
        kept: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        for event, number, size in events:
            now += 2
            digest = _digest(number)
            if event == "put":
                if digest in kept:
                    size = kept[digest][0]  # the same hash is the same message
                self.assertTrue(cache.put(digest, _message(size), now))
                kept[digest] = size, now + 200
                kept.move_to_end(digest)
                while len(kept) > 4 or sum(each[0] for each in kept.values()) > 150:
                    kept.popitem(last=False)
            elif event == "purge":
                now += 5 * number
                cache.purge(now)
                for key in [key for key, each in kept.items() if each[1] <= now]:
                    del kept[key]
            elif self.has(cache, number, now):
                self.assertIn(digest, kept)
                kept.move_to_end(digest)
            else:
                self.assertLessEqual(kept.get(digest, (0, 0.0))[1], now)
            self.assertEqual(len(cache), len(kept))
            self.assertEqual(cache.size, sum(each[0] for each in kept.values()))
        self.assertEqual([digest for digest in kept if digest not in cache._cached], [])

    def test_pulls_without_end_take_no_room(self) -> None:
        """Places that no longer count are not collected for ever.  PLT-007"""
        cache = MessageCache(5, 1000, 60)
        for number in range(5):
            cache.put(_digest(number), _message(10), 0.0)
        for number in range(1000):
            self.assertTrue(self.has(cache, number % 3, number / 1000))
        self.assertLess(len(cache._order), 80)
        self.assertLessEqual(len(cache._outdated), 5)
        for number in range(5, 8):
            cache.put(_digest(number), _message(10), 1.0)
        self.assertEqual([self.has(cache, number, 1.0) for number in range(5)][3:], [False, False])


class ServeLimitTests(SynchronousTestCase):
    """How often one peer gets one message."""

    def setUp(self) -> None:
        self.cache = MessageCache(10, 10_000, 60)
        self.message = _message(10)
        self.cache.put(_digest(0), self.message, 0.0)

    def test_one_copy_a_second_and_three_in_all(self) -> None:
        """Repeated pulls are not served.  PLT-005.2"""
        answers = [self.cache.serve(_digest(0), A, now) for now in (0, 0.99, 1, 2, 3, 50)]
        served, limited = self.message, Miss.LIMITED
        self.assertEqual(answers, [served, limited, served, served, limited, limited])

    def test_limits_are_per_peer(self) -> None:
        """Another peer gets its own copies.  PLT-005.2"""
        self.cache.serve(_digest(0), A, 0.0)
        self.assertIs(self.cache.serve(_digest(0), B, 0.0), self.message)

    def test_limits_outlive_a_repetition(self) -> None:
        """A message that is put again cannot be pulled three times more.  PLT-005.2"""
        for now in (0, 1, 2):
            self.cache.serve(_digest(0), A, now)
        self.cache.put(_digest(0), self.message, 3.0)
        self.assertIs(self.cache.serve(_digest(0), A, 4.0), Miss.LIMITED)

    def test_remembered_peers_are_bounded(self) -> None:
        """The first of more than 256 pullers is forgotten.  PLT-005.2"""
        pullers = [peer_id(str(number)) for number in range(257)]
        for puller in pullers[:256]:
            self.cache.serve(_digest(0), puller, 0.0)
        self.assertIs(self.cache.serve(_digest(0), pullers[0], 0.0), Miss.LIMITED)
        self.cache.serve(_digest(0), pullers[256], 0.0)
        self.assertIs(self.cache.serve(_digest(0), pullers[1], 0.0), Miss.LIMITED)
        self.assertIs(self.cache.serve(_digest(0), pullers[0], 0.0), self.message)

    def test_what_was_served_is_forgotten_with_the_message(self) -> None:
        """No memory is kept for messages that are gone.  PLT-005.2"""
        self.cache.serve(_digest(0), A, 0.0)
        self.cache.purge(60.0)
        self.cache.put(_digest(0), self.message, 60.0)
        self.assertIs(self.cache.serve(_digest(0), A, 60.0), self.message)
