"""Tests of :mod:`dig_gossip.connection.keepalive`."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.keepalive import Dead, Keepalive, Probe, Skip
from tests.connection import ManualTime


class KeepaliveTests(SynchronousTestCase):
    """One session's pulse, with an interval of 30 s and a time-out of 90 s."""

    def setUp(self) -> None:
        self.time = ManualTime(0.0)
        self.keepalive = self.make()

    def make(self, seed: int = 1, ping_interval: float = 30, peer_timeout: float = 90) -> Keepalive:
        return Keepalive(
            ping_interval=ping_interval,
            peer_timeout=peer_timeout,
            now=self.time,
            rng=random.Random(seed),
        )

    def at(self, seconds: float, can_send: bool = True) -> Probe | Skip | Dead:
        """Tick at a moment."""
        self.time.seconds = seconds
        return self.keepalive.tick(can_send)

    def probe(self, seconds: float) -> bytes:
        """Tick at a moment at which a probe must be the answer; return its payload."""
        action = self.at(seconds)
        assert isinstance(action, Probe), action
        return action.payload

    # -- when

    def test_first_delay_is_an_interval_give_or_take_a_tenth(self) -> None:
        """The first probe comes after 27 to 33 s, not always the same.  CON-004"""
        delays = [self.make(seed).first_delay() for seed in range(200)]
        self.assertTrue(all(27 <= delay <= 33 for delay in delays))
        self.assertTrue(min(delays) < 28 and max(delays) > 32)

    def test_first_probe_is_due_when_the_first_delay_is_over(self) -> None:
        """A tick before that sends nothing, a tick at that time does.  CON-004"""
        delay = self.keepalive.first_delay()
        early = self.at(delay - 1)
        assert isinstance(early, Skip)
        self.assertAlmostEqual(early.next_delay, 1)
        self.assertIsInstance(self.at(delay), Probe)

    def test_rounding_of_the_timer_is_forgiven(self) -> None:
        """A timer that fires a fraction of a millisecond early does not cost a turn.  CON-004"""
        self.assertIsInstance(self.at(29.9995), Probe)
        self.assertIsInstance(self.at(59.99), Skip)

    def test_answering_peer_is_probed_every_interval(self) -> None:
        """While the peer answers, probes are 30 s apart.  CON-004"""
        for round_number in range(1, 20):
            action = self.at(30.0 * round_number)
            assert isinstance(action, Probe)
            self.assertEqual(action.next_delay, 30)
            self.keepalive.heard()

    def test_payloads_are_eight_bytes_and_differ(self) -> None:
        """Probes carry 8 random bytes.  CON-004.1"""
        payloads = []
        for round_number in range(1, 20):
            payloads.append(self.probe(30.0 * round_number))
            self.keepalive.heard()
        self.assertEqual({len(payload) for payload in payloads}, {8})
        self.assertEqual(len(set(payloads)), len(payloads))

    # -- besides the regular probes

    def test_probe_besides_is_measured_like_the_others(self) -> None:
        """From when it was asked for to its pong.  design D6"""
        self.time.seconds = 5.0
        payload = self.keepalive.probe()
        assert payload is not None
        self.assertEqual(len(payload), 8)
        self.time.seconds = 5.25
        self.assertEqual(self.keepalive.pong(payload), 0.25)
        self.assertEqual(self.keepalive.rtt_history, (0.25,))

    def test_no_second_probe_while_one_is_under_way(self) -> None:
        """Neither after a regular one nor after one of these.  design D6"""
        regular = self.probe(30.0)
        self.assertIsNone(self.keepalive.probe())
        self.keepalive.pong(regular)
        besides = self.keepalive.probe()
        assert besides is not None
        self.assertIsNone(self.keepalive.probe())
        self.assertIsNone(self.keepalive.pong(regular))
        self.assertIsNone(self.keepalive.probe())
        self.keepalive.pong(besides)
        self.assertIsNotNone(self.keepalive.probe())

    def test_regular_probes_go_on_as_if_there_were_no_others(self) -> None:
        """An unanswered one is replaced when the regular one is due.  CON-004"""
        self.time.seconds = 10.0
        besides = self.keepalive.probe()
        self.assertIsInstance(self.at(29.0), Skip)
        regular = self.probe(30.0)
        self.assertNotEqual(regular, besides)
        self.assertIsNone(self.keepalive.pong(besides or b""))
        self.time.seconds = 30.5
        self.assertEqual(self.keepalive.pong(regular), 0.5)

    # -- dead or alive

    def test_silence_ends_at_the_timeout(self) -> None:
        """Silent for 89.99 s lives, for 90 s is dead.  CON-004"""
        for seconds, expected in ((89.99, Probe), (90.0, Dead), (90.01, Dead)):
            self.time.seconds = 0.0
            self.keepalive = self.make()
            self.assertIsInstance(self.at(seconds), expected)

    def test_death_is_noticed_at_the_timeout_and_not_a_round_later(self) -> None:
        """Following the delays, the peer dies exactly when it has been silent for 90 s.  CON-004"""
        for seed in range(20):
            self.time.seconds = 0.0
            self.keepalive = self.make(seed)
            action: Probe | Skip | Dead = Skip(self.keepalive.first_delay())
            probes = 0
            while not isinstance(action, Dead):
                action = self.at(self.time.seconds + action.next_delay)
                probes += isinstance(action, Probe)
            self.assertAlmostEqual(self.time.seconds, 90.0)
            self.assertIn(probes, (2, 3))

    def test_wake_up_for_a_timeout_that_was_averted_sends_no_probe(self) -> None:
        """Waking early, to notice a death, does not make probes more frequent.  CON-004"""
        self.time.seconds = 10.0
        self.keepalive.heard()
        self.probe(30.0)
        self.probe(60.0)
        action = self.at(90.0)
        assert isinstance(action, Probe)
        self.assertEqual(action.next_delay, 10.0)
        self.time.seconds = 99.0
        self.keepalive.heard()
        self.assertEqual(self.at(100.0), Skip(20.0))
        self.assertIsInstance(self.at(120.0), Probe)

    def test_anything_heard_restarts_the_silence(self) -> None:
        """Any bytes keep the peer alive, answered probes or not.  CON-004.4"""
        for round_number in range(1, 10):
            self.assertIsInstance(self.at(80.0 * round_number), Probe)
            self.keepalive.heard()
        self.assertIsInstance(self.at(720.0 + 90.0), Dead)

    def test_interval_above_the_timeout_still_notices_death(self) -> None:
        """Odd settings do not postpone the verdict.  CON-004"""
        self.keepalive = self.make(ping_interval=300, peer_timeout=90)
        self.assertEqual(self.keepalive.first_delay(), 90)
        self.assertIsInstance(self.at(90.0), Dead)

    # -- when we cannot ask

    def test_probe_that_cannot_be_sent_is_skipped(self) -> None:
        """A saturated queue costs a round.  CON-004.3"""
        self.assertEqual(self.at(30.0, can_send=False), Skip(30.0))
        self.assertIsInstance(self.at(60.0), Probe)

    def test_rounds_without_a_probe_do_not_count_against_the_peer(self) -> None:
        """However long our queue is stuck, the peer is not dead.  CON-004.3"""
        for round_number in range(1, 100):
            self.assertEqual(self.at(30.0 * round_number, can_send=False), Skip(30.0))

    def test_silence_goes_on_where_it_stood_once_a_probe_is_sent(self) -> None:
        """Skipping stops the clock of silence, it does not reset it.  CON-004.3"""
        self.probe(30.0)
        self.assertEqual(self.at(60.0, can_send=False), Skip(30.0))
        self.assertEqual(self.at(90.0, can_send=False), Skip(30.0))
        # 60 s of silence so far, the other 60 s were ours.
        action = self.at(120.0)
        assert isinstance(action, Probe)
        self.assertEqual(action.next_delay, 30)
        self.assertIsInstance(self.at(149.9), Skip)
        self.assertIsInstance(self.at(150.0), Dead)

    def test_timeout_reached_before_a_skip_is_still_a_death(self) -> None:
        """A queue that saturates at the last moment does not save the peer.  CON-004.3"""
        self.probe(30.0)
        self.probe(60.0)
        self.assertIsInstance(self.at(90.0, can_send=False), Dead)

    def test_heard_while_the_clock_is_stopped_counts_in_full(self) -> None:
        """What arrives during skipped rounds clears the silence from before.  CON-004.3"""
        self.probe(30.0)
        self.at(60.0, can_send=False)
        self.time.seconds = 70.0
        self.keepalive.heard()
        self.probe(90.0)
        # Silence begins at 90 s, when the peer was asked again.
        self.probe(120.0)
        self.probe(150.0)
        self.assertIsInstance(self.at(179.9), Skip)
        self.assertIsInstance(self.at(180.0), Dead)

    def test_heard_after_the_clock_went_on_counts_in_full(self) -> None:
        """Excused time is not added to silence that begins later.  CON-004.3"""
        self.at(30.0, can_send=False)
        self.probe(60.0)
        self.time.seconds = 75.0
        self.keepalive.heard()
        self.probe(90.0)
        self.probe(120.0)
        self.probe(150.0)
        self.assertIsInstance(self.at(164.9), Skip)
        self.assertIsInstance(self.at(165.0), Dead)

    def test_early_wake_up_while_stopped_waits_for_the_next_probe(self) -> None:
        """While the clock stands, only the next probe is worth waking for.  CON-004.3"""
        self.at(85.0, can_send=False)
        self.assertEqual(self.at(95.0), Skip(20.0))
        action = self.at(115.0)
        assert isinstance(action, Probe)
        self.assertAlmostEqual(action.next_delay, 5.0)

    @given(
        st.lists(
            st.tuples(st.booleans(), st.floats(0, 1, exclude_max=True), st.booleans()), max_size=40
        )
    )
    def test_death_needs_the_full_timeout_of_silence_under_question(
        self, rounds: list[tuple[bool, float, bool]]
    ) -> None:
        """Dead exactly when 90 s passed unheard, skipped rounds left out.  CON-004.3"""
        self.time.seconds = 0.0
        self.keepalive = self.make()
        silence, stopped, delay = 0.0, False, self.keepalive.first_delay()
        for can_send, fraction, speaks in rounds:
            if speaks:  # somewhere between two ticks
                self.time.seconds += delay * fraction
                delay -= delay * fraction
                self.keepalive.heard()
                silence = 0.0
            self.time.seconds += delay
            if not stopped:
                silence += delay
            action = self.keepalive.tick(can_send)
            if isinstance(action, Dead):
                self.assertLess(abs(silence - 90.0), 0.01)  # trial ignores delta
                return
            self.assertLess(silence, 90.0)
            if isinstance(action, Probe):
                stopped = False
            elif not can_send:
                # Either a probe was due and skipped, or the clock ran on until the next tick.
                stopped = stopped or action.next_delay > 29.99
            delay = action.next_delay
            self.assertGreater(delay, 0)
            self.assertLessEqual(delay, 30.0 + 1e-6)

    # -- liveness

    def test_live_within_one_interval(self) -> None:
        """Heard 30 s ago is live, longer ago is suspect.  CON-101-X"""
        for seconds, expected in ((0.0, True), (29.9, True), (30.0, True), (30.1, False)):
            self.time.seconds = seconds
            self.assertIs(self.keepalive.is_live, expected)
        self.keepalive.heard()
        self.assertIs(self.keepalive.is_live, True)
        self.assertEqual(self.keepalive.last_heard, 30.1)

    # -- round trips

    def test_matching_pong_yields_the_round_trip(self) -> None:
        """RTT is pong minus ping, once.  CON-004.1"""
        payload = self.probe(30.0)
        self.time.seconds = 30.25
        self.assertEqual(self.keepalive.pong(payload), 0.25)
        self.assertIsNone(self.keepalive.pong(payload))
        self.assertEqual(self.keepalive.rtt_history, (0.25,))
        self.assertEqual(self.keepalive.avg_rtt_ms, 250)

    def test_unsolicited_pong_is_only_a_sign_of_life(self) -> None:
        """A pong that nobody asked for yields no RTT and refreshes liveness.  CON-004.1"""
        self.time.seconds = 20.0
        self.assertIsNone(self.keepalive.pong(b""))
        payload = self.probe(30.0)
        self.time.seconds = 31.0
        self.assertIsNone(self.keepalive.pong(payload[::-1]))
        self.assertEqual(self.keepalive.last_heard, 31.0)
        self.assertEqual(self.keepalive.rtt_history, ())
        self.assertEqual(self.keepalive.pong(payload), 1.0)

    def test_pong_to_an_older_probe_yields_nothing(self) -> None:
        """Only the latest probe can be answered.  CON-004.1"""
        old = self.probe(30.0)
        new = self.probe(60.0)
        self.assertIsNone(self.keepalive.pong(old))
        self.assertEqual(self.keepalive.pong(new), 0.0)

    def test_history_keeps_ten_samples(self) -> None:
        """The eleventh round trip pushes out the first.  PRF-001"""
        for number in range(1, 12):
            payload = self.probe(30.0 * number)
            self.time.seconds += number / 8
            self.keepalive.pong(payload)
            if number == 10:
                self.assertEqual(len(self.keepalive.rtt_history), 10)
                self.assertEqual(self.keepalive.rtt_history[0], 0.125)
        self.assertEqual(self.keepalive.rtt_history, tuple(n / 8 for n in range(2, 12)))
        self.assertEqual(self.keepalive.avg_rtt_ms, 812)  # 812.5 rounded down

    def test_average_is_at_least_one_millisecond(self) -> None:
        """No samples: None; an immeasurably short trip: 1 ms.  PRF-001"""
        self.assertIsNone(self.keepalive.avg_rtt_ms)
        self.keepalive.pong(self.probe(30.0))
        self.assertEqual(self.keepalive.avg_rtt_ms, 1)

    def test_average_does_not_lose_a_millisecond_to_rounding(self) -> None:
        """Two milliseconds measured as 1.9999999 are two milliseconds.  PRF-001"""
        payload = self.probe(30.0)
        self.time.seconds = 30.002
        self.assertLess(self.keepalive.pong(payload) or 0.0, 0.002)
        self.assertEqual(self.keepalive.avg_rtt_ms, 2)

    def test_very_long_round_trip_is_recorded(self) -> None:
        """Above 5000 ms is a sample like any other.  PRF-001.1"""
        payload = self.probe(30.0)
        self.time.seconds = 36.0
        self.assertEqual(self.keepalive.pong(payload), 6.0)
        self.assertEqual(self.keepalive.avg_rtt_ms, 6000)
