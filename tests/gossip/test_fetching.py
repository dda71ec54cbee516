"""Announced messages that do not come, and pulls by others."""

from __future__ import annotations

from dig_gossip.effects import Deliver, Send
from dig_gossip.gossip.fetching import MAX_FORESTALLED
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message
from tests.gossip.engine_case import (
    FLOOD,
    GRAFT,
    PRUNE,
    A,
    B,
    C,
    D,
    EngineCase,
    announce,
    attestation,
    graft,
    peer_id,
    pulled,
    request,
)

M = attestation("M")


class FetchingTests(EngineCase):
    """Timer 1, timer 2, and whom they ask."""

    def setUp(self) -> None:
        super().setUp()
        self.peer_up(A, B, C, D)
        self.make_lazy(B, C, D)

    def test_first_announcer_is_grafted_after_half_a_second(self) -> None:
        """It becomes eager and is sent one GRAFT, nothing else.  PLT-005.1"""
        self.assertEqual(self.control(B, announce(M)), [])
        self.assertEqual(self.advance(0.499), [])
        self.assertEqual(self.advance(0.001), [Send((B,), graft(M))])
        self.assert_roles({A, B}, {C, D})

    def test_timer_runs_from_the_first_announcement(self) -> None:
        """Later ones do not put it off.  PLT-005"""
        self.control(B, announce(M))
        self.advance(0.4)
        self.control(C, announce(M))
        self.assertEqual(self.advance(0.1), [Send((B,), graft(M))])

    def test_announcers_are_asked_in_turn(self) -> None:
        """Every quarter of a second the next one; none left, the search ends.  PLT-005.1"""
        for peer in (B, C, D):
            self.control(peer, announce(M))
        asked = [self.advance(seconds) for seconds in (0.5, 0.25, 0.25, 0.25)]
        self.assertEqual(asked, [[Send((peer,), graft(M))] for peer in (B, C, D)] + [[]])
        self.assertEqual(self.engine.counters.missing_gave_up, 1)
        self.assertEqual(self.advance(60), [])

    def test_new_announcement_begins_a_new_search(self) -> None:
        """After everybody had failed.  PLT-005.1"""
        self.control(B, announce(M))
        self.advance(1)
        self.control(C, announce(M))
        self.assertEqual(self.advance(0.5), [Send((C,), graft(M))])

    def test_known_round_trip_sets_the_second_timer(self) -> None:
        """Twice the announcer's round trip and 50 ms.  PLT-005.1"""
        self.rtt(B, 0.2)
        self.control(B, announce(M))
        self.control(C, announce(M))
        self.advance(0.5)
        self.assertEqual(self.advance(0.449), [])
        self.assertEqual(self.advance(0.002), [Send((C,), graft(M))])

    def test_message_that_comes_in_time_is_not_fetched(self) -> None:
        """Whoever sends it.  PLT-004"""
        self.peer_up(peer_id("flooded"), mode=FLOOD)
        for peer, message in ((A, M), (peer_id("flooded"), attestation("N"))):
            self.control(B, announce(message))
            self.advance(0.4)
            self.received(peer, message)
            self.assertEqual([e for e in self.advance(5) if graft(message) in e], [])

    def test_message_that_is_here_is_not_missing(self) -> None:
        """An announcement of it is ignored.  PLT-005"""
        own = attestation("own")
        self.received(A, M)
        self.broadcast(own)
        for seconds in (0, 5):
            self.advance(seconds)
            self.assertEqual(self.control(B, announce(M, own)), [])
            self.assertEqual(self.engine.snapshot().missing, 0)

    def test_wide_tree_pulls_without_promotion(self) -> None:
        """With twice the fan-out eager already, only the message is asked for.  PLT-005.1"""
        for eager, expected in ((3, graft(M)), (4, request(M))):
            self.build(fanout=2)
            peers = [peer_id(str(number)) for number in range(eager)]
            self.peer_up(*peers, A)
            for peer in peers[2:]:
                self.control(peer, GRAFT)
            self.control(A, announce(M))
            self.assertEqual(self.advance(0.5), [Send((A,), expected)])
            is_eager = A in self.engine.snapshot().eager
            self.assertEqual(is_eager, eager == 3)
            self.assertEqual(self.received(A, M)[0], Deliver(A, M))
            self.assertEqual(A in self.engine.snapshot().eager, is_eager)

    def test_wide_tree_still_grafts_an_eager_announcer(self) -> None:
        """It is in the tree already; perhaps it does not know.  PLT-005.1"""
        self.build(fanout=1)
        self.peer_up(A, B)
        self.control(B, GRAFT)
        self.control(A, announce(M))
        self.assertEqual(self.advance(0.5), [Send((A,), graft(M))])

    def test_lost_announcer_is_passed_over(self) -> None:
        """The next one is asked instead.  PLT-005.1"""
        self.control(B, announce(M))
        self.control(C, announce(M))
        self.peer_down(B)
        self.assertEqual(self.advance(0.5), [Send((C,), graft(M))])

    def test_early_timer_does_nothing(self) -> None:
        """It is set again.  PLT-005"""
        self.control(B, announce(M))
        self.timers.clear()
        self.time += 0.2
        self.assertEqual(self.done(self.engine.timer_fired(("missing", b""))), [])
        self.assertEqual(self.advance(0.3), [Send((B,), graft(M))])

    def test_open_announcements_of_a_peer_are_bounded(self) -> None:
        """The excess is counted and ignored.  PLT-005"""
        for first in range(0, 1024, 64):
            messages = [attestation(str(number)) for number in range(first, first + 64)]
            self.control(B, announce(*messages))
        self.assertEqual(self.engine.snapshot().missing, 1000)
        self.assertEqual(self.engine.counters.ihaves_ignored, 24)
        self.assertEqual(self.engine.counters.ihaves_received, 1024)


class PatienceTests(EngineCase):
    """Timer 1 learns how long the tree takes."""

    def setUp(self) -> None:
        super().setUp()
        self.peer_up(A, B, C)
        self.make_lazy(B)

    def timeout(self) -> float:
        """Timer 1."""
        return self.engine.snapshot().lazy_timeout

    def test_short_gaps_shorten_it(self) -> None:
        """A hundred messages that come 100 ms after their announcement.  PLT-005"""
        for number in range(100):
            message = attestation(str(number))
            self.control(B, announce(message))
            self.advance(0.09)
            self.received(A, message)
            self.advance(0.91)
        self.assertLess(self.timeout(), 0.2)

    def test_copy_that_overtakes_the_graft_lengthens_it(self) -> None:
        """The graft was premature: one more spurious graft, and more patience.  PLT-005"""
        self.control(B, announce(M))
        self.advance(0.6)
        self.assertEqual(self.received(A, M)[0], Deliver(A, M))
        self.assertEqual(self.engine.counters.spurious_grafts, 1)
        self.assertGreater(self.timeout(), 0.6)

    def test_late_copy_after_the_grafted_one_lengthens_it(self) -> None:
        """The duplicate shows how long the tree really takes.  PLT-005"""
        self.control(B, announce(M))
        self.advance(0.5)
        self.received(B, M)
        self.assertEqual((self.engine.counters.spurious_grafts, self.timeout()), (0, 0.5))
        self.advance(0.1)
        self.assertEqual(self.received(A, M), [Send((A,), PRUNE)])
        self.assertEqual(self.engine.counters.spurious_grafts, 1)
        self.assertGreater(self.timeout(), 0.6)

    def test_copy_five_seconds_later_teaches_nothing(self) -> None:
        """That is no slow tree but something else.  PLT-005"""
        self.control(B, announce(M))
        self.advance(0.5)
        self.received(B, M)
        self.advance(5.1)
        self.received(A, M)
        self.assertEqual((self.engine.counters.spurious_grafts, self.timeout()), (0, 0.5))

    def test_watched_copies_are_bounded(self) -> None:
        """Of more than 1024 forestalled copies the first is forgotten.  PLT-005"""
        self.build(max_seen=10_000)
        self.peer_up(A, B, C)
        self.make_lazy(B, C)
        messages = [attestation(str(number)) for number in range(MAX_FORESTALLED + 1)]
        for first in range(0, len(messages), 64):
            announcer = B if first < 896 else C
            self.control(announcer, announce(*messages[first : first + 64]))
        self.advance(0.5)
        for number, message in enumerate(messages):
            self.received(B if number < 896 else C, message)
        for message, spurious in ((messages[0], 0), (messages[1], 1)):
            self.assertEqual(self.received(A, message), [])
            self.assertEqual(self.engine.counters.spurious_grafts, spurious)


class LiarTests(EngineCase):
    """Announcements with nothing behind them."""

    def setUp(self) -> None:
        super().setUp()
        self.peer_up(A, B, C)
        self.make_lazy(B, C)

    def lie(self, peer: PeerId, count: int) -> list[object]:
        """Announce, and do not send; what happens in the second after."""
        messages = [attestation(f"{self.time} {number}") for number in range(count)]
        self.control(peer, announce(*messages))
        return [*self.advance(1)]

    def test_tenth_failure_makes_it_lazy_and_ignored(self) -> None:
        """For a minute its word counts for nothing.  PLT-106-X"""
        self.assertEqual(len(self.lie(B, 9)), 9)
        self.assert_roles({A, B}, {C})
        self.assertEqual(self.lie(B, 1)[-1], Send((B,), PRUNE))
        self.assert_roles({A}, {B, C})
        self.assertEqual(self.lie(B, 3), [])
        self.assertEqual(self.engine.counters.announcers_distrusted, 1)
        self.assertEqual(self.engine.counters.ihaves_ignored, 3)
        self.advance(59)
        self.assertEqual(len(self.lie(B, 1)), 1)

    def test_liar_that_is_lazy_already_is_not_pruned_again(self) -> None:
        """It pruned us while it was being asked.  PLT-106-X"""
        messages = [attestation(str(number)) for number in range(10)]
        self.control(B, announce(*messages))
        self.advance(0.5)
        self.make_lazy(B)
        self.assertEqual(self.advance(1), [])
        self.assertEqual(self.engine.counters.announcers_distrusted, 1)

    def test_liar_is_not_asked_for_what_it_announced_before(self) -> None:
        """The next announcer is.  PLT-106-X"""
        self.control(B, announce(*[attestation(str(number)) for number in range(10)]))
        self.advance(0.4)
        self.control(B, announce(M))
        self.control(C, announce(M))
        self.assertIn(Send((C,), graft(M)), self.advance(0.6))

    def test_peer_that_left_is_no_liar(self) -> None:
        """Another session under the same id starts with a clean record.  PLT-106-X"""
        messages = [attestation(str(number)) for number in range(10)]
        self.control(B, announce(*messages))
        self.control(C, announce(*messages))
        self.advance(0.5)
        self.peer_down(B)
        self.peer_up(B)
        self.advance(0.2)
        self.assertEqual(self.engine.counters.announcers_distrusted, 0)

    def test_honest_peer_replaces_a_liar_as_parent(self) -> None:
        """A lazy peer that is trusted is promoted before one that is not.  PLT-106-X"""
        self.peer_up(B, score=9.0)
        self.lie(B, 10)
        self.assertEqual(self.peer_down(A), [Send((C,), GRAFT)])

    def test_liar_is_no_fast_link(self) -> None:
        """However short its round trip.  PRF-003"""
        self.lie(B, 10)
        self.advance(10)
        self.rtt(A, 0.1)
        self.assertEqual(self.rtt(B, 0.001), [])
        self.assertEqual(self.rtt(C, 0.01), [Send((C,), GRAFT)])


class ServingTests(EngineCase):
    """Pulls by others."""

    def setUp(self) -> None:
        super().setUp()
        self.peer_up(A, B, C)
        self.make_lazy(B, C)
        self.received(A, M)

    def test_graft_promotes_and_sends(self) -> None:
        """The message itself, verbatim.  PLT-005.2"""
        self.assertEqual(self.control(B, graft(M)), [pulled(B, M)])
        self.assert_roles({A, B}, {C})

    def test_graft_without_hash_only_promotes(self) -> None:
        """Above the fan-out, too; a repetition changes nothing.  PLT-001"""
        self.build(fanout=1)
        self.peer_up(A, B)
        self.assertEqual(self.control(B, GRAFT) + self.control(B, GRAFT), [])
        self.assert_roles({A, B}, set())

    def test_graft_for_something_else_only_promotes(self) -> None:
        """No error, no message.  PLT-005.2"""
        self.advance(1)
        self.assertEqual(self.control(B, graft(attestation("N"))), [])
        self.assert_roles({A, B}, {C})
        self.assertEqual(self.engine.counters.cache_misses, 1)

    def test_request_sends_and_does_not_promote(self) -> None:
        """A pull without a link.  PLT-005.2"""
        self.assertEqual(self.control(B, request(M)), [pulled(B, M)])
        self.assertEqual(self.control(B, request(attestation("N"))), [])
        self.assert_roles({A}, {B, C})

    def test_repeated_pulls_are_limited(self) -> None:
        """Once a second, three times in all, by either kind.  PLT-005.2"""
        served = []
        for seconds in (0, 0.5, 0.5, 1, 1, 1):
            self.advance(seconds)
            served.append(len(self.control(B, request(M))))
        self.assertEqual(served, [1, 0, 1, 1, 0, 0])
        self.assertEqual(self.engine.counters.pulls_limited, 3)
        self.assertEqual(self.engine.counters.cache_hits, 3)

    def test_what_was_pulled_is_not_announced(self) -> None:
        """The puller has it.  PLT-003"""
        self.control(B, request(M))
        self.assert_told(self.advance(1), {C: [M]})

    def test_promoted_peer_is_told_what_it_may_have_missed(self) -> None:
        """What was pushed while it was lazy and not announced yet.  PLT-003"""
        other = attestation("N")
        self.received(A, other)
        sent, told = self.control(B, graft(M))
        self.assertEqual(sent, pulled(B, M))
        self.assert_told([told], {B: [other]})

    def test_own_and_forwarded_messages_can_be_pulled_for_a_minute(self) -> None:
        """Every message that is pushed is kept.  PLT-007"""
        own = attestation("own")
        self.broadcast(own)
        for message in (M, own):
            self.assertEqual(self.control(C, request(message)), [pulled(C, message)])
        self.advance(60)
        self.assertEqual(self.control(B, request(M)), [])
        self.advance(11)
        self.assertEqual(self.engine.snapshot().cached, 0)

    def test_pull_after_the_seen_set_forgot_is_served(self) -> None:
        """The cache stands alone.  PLT-007"""
        self.build(max_seen=1)
        self.peer_up(A, B)
        self.received(A, M)
        self.received(A, attestation("N"))
        self.assertEqual(self.control(B, request(M)), [pulled(B, M)])

    def test_message_that_cannot_be_kept_is_not_announced(self) -> None:
        """An announcement would promise what a pull cannot get.  PLT-007"""
        self.build(cache_bytes=65_536)
        self.peer_up(A, B, C)
        self.make_lazy(C)
        large = Message(200, None, bytes(65_536))
        self.assertEqual(self.received(A, large), [Deliver(A, large), Send((B,), large)])
        self.assertEqual(self.advance(5), [])
        result = self.broadcast(Message(201, None, bytes(65_536)))
        self.assertEqual(result.announced, 0)
