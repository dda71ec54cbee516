"""Who is told of which message of a tree with a tag, and when."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.constants import TREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.effects import Effect, Send, SetTimer
from dig_gossip.gossip.seen import Sighting, Stage
from dig_gossip.gossip.tagged_announcements import (
    MAX_LOG,
    TREE_ANNOUNCE_TIMER,
    TaggedAnnouncements,
)
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.trees import TreeAnnounce
from tests.gossip.engine_case import A, B, C, D

#: Who was told of which messages, frame by frame.
Told = list[tuple[PeerId, list[int]]]


class TaggedAnnouncementsCase(SynchronousTestCase):
    """The log, a clock, and a timer; A is told first, B second."""

    def setUp(self) -> None:
        self.time = 0.0
        self.due: float | None = None
        self.wakes = 0
        self.sightings: dict[int, Sighting] = {}
        self.build(first=(A,), second=(B,))

    def build(self, *, first: tuple[PeerId, ...], second: tuple[PeerId, ...]) -> None:
        """Start anew with these peers."""
        self.due = None
        self.counters = PlumtreeCounters()
        self.announcements = TaggedAnnouncements(PlumtreeConfig(), self.counters)
        for peer in first:
            self.announcements.join(peer, speaks_first=True)
        for peer in second:
            self.announcements.join(peer, speaks_first=False)

    def done(self, effects: list[Effect]) -> Told:
        """Set the timer, and return who was told of what."""
        told = []
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.assertEqual(effect.key, TREE_ANNOUNCE_TIMER)
                self.assertGreaterEqual(effect.delay, 0)
                self.due = self.time + effect.delay
                continue
            assert isinstance(effect, Send)
            shorts = TreeAnnounce.from_bytes(effect.message.data).short_hashes
            self.assertIsNone(effect.message.id)
            told += [(peer, [int.from_bytes(s, "big") for s in shorts]) for peer in effect.peers]
        return told

    def add(self, number: int, *aware: PeerId, is_late: bool = False) -> Told:
        """A message was pushed along its tree."""
        sighting = self.sightings[number] = Sighting(Stage.REMOTE, self.time, None)
        sighting.is_late = is_late
        short = number.to_bytes(8, "big")
        return self.done(self.announcements.add(short, sighting, set(aware), self.time))

    def numbers(self, told: Told, peer: PeerId) -> list[int]:
        """What a peer was told of, in all."""
        return [number for other, part in told if other == peer for number in part]

    def learn(self, number: int, peer: PeerId) -> None:
        """A peer turns out to have a message."""
        aware = self.sightings[number].aware
        assert aware is not None
        aware.add(peer)

    def advance(self, seconds: float) -> Told:
        """Let time pass."""
        end = self.time + seconds
        told = []
        while self.due is not None and self.due <= end:
            self.time, self.due = self.due, None
            self.wakes += 1
            told += self.done(self.announcements.timer_fired(self.time))
        self.time = end
        return told


class OrderTests(TaggedAnnouncementsCase):
    """First one end speaks, then the other, of what is left."""

    def test_first_after_50_ms_second_after_250_more(self) -> None:
        """Nothing earlier, nothing twice, and no timer afterwards.  PLT-003"""
        self.assertEqual(self.add(1), [])
        self.assertEqual(self.advance(0.049), [])
        self.assertEqual(self.advance(0.002), [(A, [1])])
        self.assertEqual(self.advance(0.248), [])
        self.assertEqual(self.advance(0.002), [(B, [1])])
        self.assertIsNone(self.due)
        self.assertEqual(self.counters.ihaves_sent, 2)
        self.assertEqual(self.advance(60), [])

    def test_messages_of_a_flush_share_a_frame(self) -> None:
        """The first of them sets the time.  PLT-003"""
        self.add(1)
        self.advance(0.03)
        self.assertEqual(self.add(2), [])
        self.assertEqual(self.advance(0.021), [(A, [1, 2])])
        # Each waits for its own time, give or take a quarter of a flush.
        self.assertEqual(self.advance(0.251), [(B, [1])])
        self.assertEqual(self.advance(0.03), [(B, [2])])

    def test_those_who_get_the_same_get_one_frame(self) -> None:
        """It is encoded once for all.  PLT-003"""
        self.build(first=(A, B, C), second=())
        self.add(1, C)
        (effect,) = self.announcements.timer_fired(self.time + 0.05)[:1]
        assert isinstance(effect, Send)
        self.assertEqual(effect.peers, (A, B))

    def test_what_a_peer_has_it_is_not_told(self) -> None:
        """Whether it was known at once, or turned out meanwhile, first or second.  PLT-003"""
        self.build(first=(A, C), second=(B, D))
        self.add(1, A, B)
        self.add(2)
        self.learn(2, C)
        self.learn(2, D)
        self.assertEqual(sorted(self.advance(0.06)), sorted([(A, [2]), (C, [1])]))
        self.assertEqual(sorted(self.advance(1)), sorted([(B, [2]), (D, [1])]))

    def test_peer_that_speaks_first_silences_us(self) -> None:
        """What it told us of by then, we do not tell it; the rest we do.  PLT-003"""
        self.add(1)
        self.add(2)
        self.advance(0.2)
        self.learn(1, B)
        self.assertEqual(self.advance(1), [(B, [2])])

    def test_mute_are_those_who_should_have_spoken(self) -> None:
        """Peers that had to be told second, until the timer fires again.  design D6"""
        self.add(1)
        self.advance(0.06)
        self.assertEqual(self.announcements.mute, [])
        self.advance(0.3)
        self.assertEqual(self.announcements.mute, [B])
        self.add(2, B)
        self.advance(1)
        self.assertEqual(self.announcements.mute, [])

    def test_late_message_is_told_at_once(self) -> None:
        """To both kinds, except those who have it; and it is not kept.  design D6"""
        self.build(first=(A, C), second=(B, D))
        self.assertEqual(self.add(1, A, D, is_late=True), [(C, [1]), (B, [1])])
        self.assertEqual(len(self.announcements), 0)
        self.assertIsNone(self.sightings[1].aware)
        self.assertEqual(self.advance(1), [])


class GatheringTests(TaggedAnnouncementsCase):
    """With many messages it is worth waiting for each other."""

    def busy(self) -> int:
        """Make the log see traffic; the next number."""
        for number in range(40):
            self.add(number, A, B)
            self.advance(0.025)
        self.advance(0.3)
        return 40

    def test_busy_log_gathers_for_250_ms(self) -> None:
        """16 messages a second and more.  PLT-003"""
        number = self.busy()
        self.add(number)
        self.assertEqual(self.advance(0.249), [])
        self.assertEqual(self.advance(0.002), [(A, [number])])
        self.assertEqual(self.advance(0.24), [])
        self.assertEqual(self.advance(0.011), [(B, [number])])

    def test_quiet_again_it_does_not_wait(self) -> None:
        """Two seconds later.  PLT-003"""
        number = self.busy()
        self.advance(2)
        self.add(number)
        self.assertEqual(self.advance(0.051), [(A, [number])])

    def test_gathered_messages_share_frames(self) -> None:
        """At 50 messages a second a frame has eight at least.  PLT-003"""
        told = []
        for number in range(200):
            told += self.add(number)
            told += self.advance(0.02)
        told += self.advance(2)
        for peer in (A, B):
            self.assertEqual(sorted(self.numbers(told, peer)), list(range(200)))
        self.assertLess(len([1 for peer, _ in told if peer == A]), 200 / 8)

    def test_few_wake_ups_under_load(self) -> None:
        """80 a second at most, whatever the traffic.  PLT-003"""
        for number in range(2000):
            self.add(number)
            self.advance(0.001)
        self.assertLessEqual(self.wakes, 160)


class BoundTests(TaggedAnnouncementsCase):
    """Nothing grows without end."""

    def test_full_frame_goes_at_once(self) -> None:
        """128 messages do not wait, and a frame has no more.  PLT-003"""
        for number in range(TREE_MAX_ANNOUNCE_ENTRIES - 1):
            self.assertEqual(self.add(number), [])
        whole = list(range(TREE_MAX_ANNOUNCE_ENTRIES))
        self.assertEqual(self.add(TREE_MAX_ANNOUNCE_ENTRIES - 1), [(A, whole)])
        self.assertEqual(self.numbers(self.advance(1), B), whole)

    def test_long_backlog_is_cut_into_frames(self) -> None:
        """No frame has more than 128 entries.  PLT-003"""
        told = []
        for number in range(300):
            told += self.add(number)
        told += self.advance(1)
        self.assertEqual(max(len(numbers) for peer, numbers in told if peer == B), 128)
        self.assertEqual(self.numbers(told, B), list(range(300)))

    def test_log_is_bounded_whatever_the_timer_does(self) -> None:
        """It has 4096 messages and less than a frame's worth; nobody misses one.  PLT-003"""
        told: Told = []
        count = 2 * MAX_LOG + 100
        for number in range(count):
            told += self.add(number)
            self.assertLess(len(self.announcements), MAX_LOG + TREE_MAX_ANNOUNCE_ENTRIES)
        self.assertLess(len(told), count / 32)
        told += self.advance(1)
        for peer in (A, B):
            self.assertEqual(self.numbers(told, peer), list(range(count)))
        self.assertEqual(len(self.announcements), 0)

    def test_log_without_links_is_empty(self) -> None:
        """The last to leave empties it, and lets go of what was remembered.  PLT-003"""
        self.add(1)
        self.add(2)
        self.announcements.leave(A)
        self.assertEqual(len(self.announcements), 2)
        self.announcements.leave(B)
        self.assertEqual(len(self.announcements), 0)
        self.assertIsNone(self.sightings[1].aware)
        self.assertEqual(self.advance(1), [])

    def test_log_works_again_after_it_was_emptied(self) -> None:
        """With the timer that was set before, or another one.  PLT-003"""
        self.add(1)
        self.announcements.leave(A)
        self.announcements.leave(B)
        self.announcements.join(A, speaks_first=True)
        self.add(2)
        self.assertEqual(self.advance(1), [(A, [2])])

    def test_what_was_told_is_forgotten(self) -> None:
        """And the seen set no longer remembers who has it.  PLT-003"""
        self.add(1)
        self.assertIsNotNone(self.sightings[1].aware)
        self.advance(1)
        self.assertEqual(len(self.announcements), 0)
        self.assertIsNone(self.sightings[1].aware)


class MemberTests(TaggedAnnouncementsCase):
    """Peers come and go."""

    def test_newcomer_is_told_of_later_messages_only(self) -> None:
        """Whichever end speaks first.  PLT-003"""
        self.add(1)
        self.announcements.join(C, speaks_first=True)
        self.announcements.join(D, speaks_first=False)
        self.add(2)
        told = self.advance(1)
        self.assertEqual([numbers for peer, numbers in told if peer == A], [[1, 2]])
        self.assertEqual([numbers for peer, numbers in told if peer in (C, D)], [[2], [2]])

    def test_who_left_is_told_nothing(self) -> None:
        """Before its turn or between the two.  PLT-003"""
        self.add(1)
        self.announcements.leave(A)
        self.assertEqual(self.advance(0.06), [])
        self.announcements.join(A, speaks_first=True)
        self.announcements.leave(B)
        self.assertEqual(self.advance(1), [])

    def test_peer_that_joins_again_changes_sides(self) -> None:
        """It is told once, in its new turn.  PLT-003"""
        self.announcements.join(A, speaks_first=False)
        self.add(1)
        self.assertEqual(self.advance(0.06), [])
        self.assertEqual(sorted(self.advance(1)), sorted([(A, [1]), (B, [1])]))
