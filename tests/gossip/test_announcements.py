"""Who is told of which message, and when."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Effect, Send, SetTimer
from dig_gossip.gossip.announcements import ANNOUNCE_TIMER, MAX_LOG, Announcements
from dig_gossip.gossip.seen import Sighting, Stage
from dig_gossip.gossip.values import PlumtreeCounters
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.dig import PlumtreeLazyAnnounce
from tests.gossip.engine_case import A, B, C, peer_id


class AnnouncementsCase(SynchronousTestCase):
    """Announcements, a clock, and a timer."""

    def setUp(self) -> None:
        self.time = 0.0
        self.due: float | None = None
        self.sightings: dict[int, Sighting] = {}
        self.build(A, B)

    def build(self, *peers: PeerId, **config: object) -> None:
        """Start anew with these lazy peers."""
        self.due = None
        self.counters = PlumtreeCounters()
        self.announcements = Announcements(
            PlumtreeConfig(**config),  # type: ignore[arg-type]  # as in the tests
            rng=Random(1),
            counters=self.counters,
        )
        for peer in peers:
            self.announcements.join(peer)

    def done(self, effects: list[Effect]) -> list[tuple[PeerId, list[int]]]:
        """Set the timer, and return who was told of what, frame by frame."""
        told = []
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.assertEqual(effect.key, ANNOUNCE_TIMER)
                self.due = self.time + effect.delay
                continue
            assert isinstance(effect, Send)
            entries = PlumtreeLazyAnnounce.from_bytes(effect.message.data).entries
            numbers = [int.from_bytes(digest, "big") for digest, opcode in entries]
            self.assertEqual({opcode for _, opcode in entries}, {200})
            told += [(peer, numbers) for peer in effect.peers]
        return told

    def add(self, number: int, *aware: PeerId) -> list[tuple[PeerId, list[int]]]:
        """A message was pushed."""
        sighting = self.sightings[number] = Sighting(Stage.REMOTE, self.time, None)
        digest = number.to_bytes(32, "big")
        return self.done(self.announcements.add(digest, 200, sighting, set(aware), self.time))

    def learn(self, number: int, peer: PeerId) -> None:
        """A peer turns out to have a message."""
        aware = self.sightings[number].aware
        assert aware is not None
        aware.add(peer)

    def advance(self, seconds: float) -> list[tuple[PeerId, list[int]]]:
        """Let time pass."""
        end = self.time + seconds
        told = []
        while self.due is not None and self.due <= end:
            self.time, self.due = self.due, None
            told += self.done(self.announcements.timer_fired(self.time))
        self.time = end
        return told


class OneWaveTests(AnnouncementsCase):
    """Everybody is told after 50 ms."""

    def setUp(self) -> None:
        super().setUp()
        self.build(A, B, two_wave_announce=False)

    def test_announcements_are_gathered_for_50_ms(self) -> None:
        """Nothing before, one frame a peer then, and no timer afterwards.  PLT-003"""
        self.assertEqual(self.add(1), [])
        self.assertEqual(self.advance(0.03), [])
        self.assertEqual(self.add(2), [])
        self.assertEqual(self.advance(0.0199), [])
        self.assertEqual(self.advance(0.0002), [(A, [1, 2]), (B, [1, 2])])
        self.assertIsNone(self.due)
        self.assertEqual(self.counters.ihaves_sent, 4)

    def test_sixty_four_entries_go_at_once(self) -> None:
        """A full frame does not wait.  PLT-003"""
        for number in range(63):
            self.assertEqual(self.add(number), [])
        self.assertEqual(self.add(63), [(A, list(range(64))), (B, list(range(64)))])
        self.assertEqual(self.advance(1), [])
        self.assertEqual(len(self.announcements), 0)

    def test_peer_that_has_the_message_is_not_told(self) -> None:
        """Neither its sender nor who got it meanwhile.  PLT-003"""
        self.add(1, A)
        self.add(2)
        self.learn(2, B)
        self.assertEqual(self.advance(0.1), [(A, [2]), (B, [1])])

    def test_without_lazy_peers_nothing_is_kept(self) -> None:
        """No log, no timer.  PLT-003"""
        self.build(two_wave_announce=False)
        self.assertEqual(self.add(1), [])
        self.assertIsNone(self.sightings[1].aware)
        self.assertIsNone(self.due)

    def test_lost_peer_is_not_told(self) -> None:
        """Its queue goes with it; when it was the last one, the log too.  PLT-006"""
        self.add(1)
        self.announcements.forget(A)
        self.assertEqual(len(self.announcements), 1)
        self.announcements.forget(B)
        self.assertEqual(len(self.announcements), 0)
        self.assertIsNone(self.sightings[1].aware)
        self.assertEqual(self.advance(1), [])
        self.assertIsNone(self.due)

    def test_peer_that_becomes_eager_is_told_at_once(self) -> None:
        """Of what it was still to be told, since no copy of that will come.  PLT-003"""
        self.add(1)
        self.add(2, A)
        self.assertEqual(self.done(self.announcements.leave(A)), [(A, [1])])
        self.assertEqual(self.advance(1), [(B, [1, 2])])

    def test_peer_that_becomes_lazy_is_not_told_of_earlier_messages(self) -> None:
        """It got them in full.  PLT-003"""
        self.add(1)
        self.announcements.join(C)
        self.add(2)
        self.assertEqual(self.advance(1), [(A, [1, 2]), (B, [1, 2]), (C, [2])])


class TwoWavesTests(AnnouncementsCase):
    """A few peers first, the rest when they still need it."""

    def build_crowd(self, count: int) -> list[PeerId]:
        """Many lazy peers."""
        peers = [peer_id(str(number)) for number in range(count)]
        self.build(*peers)
        return peers

    def test_first_wave_reaches_four_and_the_second_the_rest(self) -> None:
        """Four after 50 ms; the others 250 to 500 ms later, each once.  PLT-003"""
        peers = self.build_crowd(20)
        self.add(1)
        first = self.advance(0.051)
        self.assertEqual([numbers for _, numbers in first], [[1]] * 4)
        self.assertEqual(self.advance(0.2), [])
        second = self.advance(0.3)
        self.assertEqual(len(second), 16)
        self.assertEqual({peer for peer, _ in first + second}, set(peers))
        self.assertEqual(self.advance(10), [])
        self.assertIsNone(self.due)
        self.assertEqual(len(self.announcements), 0)

    def test_first_wave_is_random(self) -> None:
        """No peer is always first.  PLT-003"""
        peers = self.build_crowd(8)
        first: set[PeerId] = set()
        for number in range(30):
            self.add(number)
            first |= {peer for peer, _ in self.advance(0.051)}
            self.advance(1)
        self.assertEqual(first, set(peers))

    def test_first_wave_passes_over_peers_that_have_the_message(self) -> None:
        """Its places go to those who need it.  PLT-003"""
        peers = self.build_crowd(10)
        self.add(1, *peers[:6])
        self.assertEqual({peer for peer, _ in self.advance(0.051)}, set(peers[6:]))

    def test_second_wave_spares_who_has_the_message_by_then(self) -> None:
        """An announcement from the other end silences ours.  PLT-003"""
        peers = self.build_crowd(10)
        self.add(1)
        rest = set(peers) - {peer for peer, _ in self.advance(0.051)}
        for peer in rest:
            self.learn(1, peer)
        self.assertEqual(self.advance(10), [])

    def test_second_wave_times_differ(self) -> None:
        """Two ends of a link rarely speak at once.  PLT-003"""
        self.build_crowd(40)
        self.add(1)
        self.advance(0.051)
        moments = []
        for _ in range(60):
            if self.advance(0.01):
                moments.append(self.time)
        self.assertGreater(len(moments), 5)

    def test_few_wake_ups_under_load(self) -> None:
        """However many peers and messages, the timer fires 40 times a second at most.  PLT-003"""
        self.build_crowd(40)
        fired = 0
        for number in range(200):
            self.add(number)
            before = self.due
            self.advance(0.005)
            fired += self.due != before
        self.assertLessEqual(fired, 40)

    def test_messages_of_several_batches_share_a_frame(self) -> None:
        """The second wave takes whatever has waited long enough.  PLT-003"""
        self.build_crowd(12)
        told = []
        for number in range(12):
            self.add(number)
            told += self.advance(0.06)
        told += self.advance(2)
        self.assertEqual(sum(len(numbers) for _, numbers in told), 12 * 12)
        self.assertGreater(max(len(numbers) for _, numbers in told), 2)

    def test_long_backlog_is_cut_into_frames(self) -> None:
        """No frame has more than 64 entries.  PLT-003"""
        self.build_crowd(5)
        told = []
        for number in range(300):
            told += self.add(number)
        told += self.advance(2)
        self.assertEqual(max(len(numbers) for _, numbers in told), 64)
        self.assertEqual(sum(len(numbers) for _, numbers in told), 5 * 300)

    def test_late_joiner_is_due_like_the_others(self) -> None:
        """A peer that becomes lazy between two batches is told of the second only.  PLT-003"""
        self.build(A, first_wave_peers=1)
        self.add(1)
        self.advance(0.051)
        self.announcements.join(B)
        self.add(2)
        told = self.advance(2)
        self.assertEqual([numbers for peer, numbers in told if peer == B], [[2]])

    def test_peer_that_becomes_lazy_within_a_batch_gets_the_rest_of_it(self) -> None:
        """In the first wave as in the second.  PLT-003"""
        for first_wave_peers in (1, 2):
            self.build(A, first_wave_peers=first_wave_peers)
            self.add(1, A)
            self.announcements.join(B)
            self.add(2, A)
            self.assertEqual(self.advance(2), [(B, [2])])

    def test_full_log_does_not_wait(self) -> None:
        """At 4096 messages the second wave goes early, and nobody misses one.  PLT-003"""
        peers = self.build_crowd(6)
        told = []
        for number in range(MAX_LOG - 1):
            told += self.add(number)
        self.assertEqual(len(self.announcements), MAX_LOG - 1)
        told += self.add(MAX_LOG - 1)
        self.assertEqual(len(self.announcements), 0)
        for peer in peers:
            numbers = [number for other, part in told if other == peer for number in part]
            self.assertEqual(sorted(numbers), list(range(MAX_LOG)))
