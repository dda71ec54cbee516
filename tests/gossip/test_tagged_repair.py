"""Trees with tags: what does not come, who is silent, and messages in other stages."""

from __future__ import annotations

from dig_gossip.constants import TREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.effects import Deliver, Effect, Send, Validate
from dig_gossip.gossip.link import FAILURE_COUNT
from dig_gossip.gossip.silence import LOOK_INTERVAL_SECS
from dig_gossip.gossip.tagged import OPEN_DELAY_SECS, SETTLE_SECS
from dig_gossip.gossip.tagged_openings import MESSAGES_A_TREE
from dig_gossip.gossip.values import Verdict
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.trees import TreeGraft
from tests.gossip.engine_case import (
    CHIA,
    FLOOD,
    PRUNE,
    A,
    B,
    C,
    D,
    E,
    F,
    attestation,
    pulled,
)
from tests.gossip.trees_case import (
    TAG,
    TREES,
    TreesCase,
    opening,
    pull,
    tagged,
    tell,
    tree_graft,
    tree_prune,
)

M, N = attestation("M"), attestation("N")


class FetchingTests(TreesCase):
    """What was announced and does not come is pulled, and the tree mended."""

    def setUp(self) -> None:
        super().setUp()
        self.hang_on(A)
        self.control(B, tree_graft())

    def test_announcer_is_asked_after_half_a_second(self) -> None:
        """By the short hash; the next one a round trip or two later.  PLT-005.1"""
        self.control(C, tell(M))
        self.advance(0.1)
        self.assertEqual(self.control(D, tell(M)), [])
        self.assertEqual(self.advance(0.399), [])
        self.assertEqual(self.advance(0.001), [Send((C,), pull(M))])
        self.answer(A, B, C, D)
        self.rtt(D, 0.08)
        self.assertEqual(self.advance(0.169), [])  # twice 60 ms, and 50
        self.assertEqual(self.advance(0.002), [Send((D,), pull(M))])
        self.assertEqual(self.control(C, tell(M)), [])  # which did not answer
        self.assertEqual(self.advance(60), [])
        self.assertEqual(self.engine.counters.missing_gave_up, 1)

    def test_nearest_announcer_is_asked_first(self) -> None:
        """Whoever announced first: it answers sooner.  PLT-005.1"""
        for peer in (D, B, C):
            self.control(peer, tell(M))
        self.assertEqual(self.advance(0.5), [Send((B,), pull(M))])
        for peer, rtt in ((A, 0.02), (B, 0.04), (C, 0.06), (D, 0.08)):
            self.rtt(peer, rtt)  # they are there
        self.assertEqual(self.advance(0.131), [Send((C,), pull(M))])
        self.assertEqual(self.advance(0.171), [Send((D,), pull(M))])

    def test_nearer_announcer_is_asked_too(self) -> None:
        """If its answer will be here 20 ms sooner; whichever comes first counts.  PLT-005.1"""
        self.control(D, tell(M))
        self.assertEqual(self.advance(0.5), [Send((D,), pull(M))])  # due 80 ms from now
        self.answer(A, B, C, D)
        self.rtt(C, 0.061)
        self.assertEqual(self.control(C, tell(M)), [])
        self.rtt(B, 0.059)
        self.assertEqual(self.control(B, tell(M)), [Send((B,), pull(M))])
        self.assertEqual(self.control(B, tell(M)), [])  # it was asked
        self.rtt(A, 0.040)
        self.assertEqual(self.control(A, tell(M)), [])  # of B's answer it would save 19 ms
        self.assertEqual(self.received(D, tagged(M))[0], Deliver(D, M))
        self.assertEqual(self.received(B, tagged(M)), [])
        self.assert_eager(A, B, D)

    def test_nearer_announcer_that_is_silent_is_passed_over(self) -> None:
        """It has two round trips, and 50 ms; then others are asked as before.  PLT-005.1"""
        for peer in (C, D):
            self.control(peer, tell(M))
        self.assertEqual(self.advance(0.5), [Send((C,), pull(M))])
        self.answer(A, B, C, D)
        self.rtt(D, 0.08)
        self.assertEqual(self.control(A, tell(M)), [Send((A,), pull(M))])
        self.assertEqual(self.advance(0.089), [])
        self.assertEqual(self.advance(0.002), [Send((D,), pull(M))])

    def test_nobody_is_asked_too_without_need(self) -> None:
        """Before somebody is asked, of unknown distance, or distrusted.  PLT-106-X"""
        self.control(D, tell(M))
        self.assertEqual(self.control(A, tell(M)), [])
        self.peer_up(E, mode=TREES)
        self.control(D, tell(N))
        self.assertEqual(self.advance(0.5), [Send((A,), pull(M)), Send((D,), pull(N))])
        self.assertEqual(self.control(E, tell(N)), [])
        link = self.engine._links.get(C)
        assert link is not None
        self.rtt(C, 0.07)
        self.assertEqual(self.control(C, tell(N)), [])
        self.rtt(C, 0.01)
        for number in range(FAILURE_COUNT):
            link.failed(bytes([number]) * 32, self.engine._now())
        self.assertEqual(self.control(C, tell(N)), [])

    def test_answer_that_comes_behind_the_message_is_pruned(self) -> None:
        """Else the link would stay eager at the other end, and close a ring.  PLT-004.1"""
        self.control(C, tell(M, N))
        self.advance(0.5)
        self.answer(A, B, C, D)
        for message, told in ((M, [Send((C,), tree_prune())]), (N, [])):  # once in some seconds
            self.assertEqual(self.received(A, tagged(message))[0], Deliver(A, message))
            self.assertEqual(self.received(C, tagged(message)), told)
            self.assert_eager(A, B)

    def test_answer_of_an_eager_link_prunes_nothing(self) -> None:
        """It may hang on us. Nor does one without a tag, or in another tree.  PLT-004.1"""
        self.hang_on(D, 99)
        for peer, answer in ((B, tagged(M)), (C, M), (C, tagged(M, 99))):
            self.control(peer, tell(M))
            self.advance(0.5)
            self.answer(A, B, C, D)
            self.received(A, tagged(M))
            self.assertEqual(self.received(peer, answer), [])
            self.setUp()
            self.hang_on(D, 99)

    def test_who_sends_it_becomes_the_parent(self) -> None:
        """All who are there are pinged, and those who lack it are alarmed at once.  PLT-005.1"""
        self.control(C, tell(M))
        self.advance(0.5)
        self.assertEqual(self.pinged, [A, B, C, D])
        self.answer(A, B, C, D)
        self.assertEqual(
            self.received(C, tagged(M)),
            [Deliver(C, M), Send((A, B), tagged(M)), Send((D,), tell(M, is_alarm=True))],
        )
        self.assert_eager(A, B, C)
        # So its loss is that of the parent; A is in the tree already, and has not sent it.
        self.control(D, opening(TAG, 5))
        self.assertEqual(self.peer_down(C), [Send((D,), tree_graft())])

    def test_lazy_parent_that_leaves_is_no_parent_any_more(self) -> None:
        """The next one that tells of a way to the root becomes it.  design D6"""
        self.control(A, tree_prune())
        self.assertEqual(self.peer_down(A), [])
        self.assert_eager(B)
        self.assertEqual(self.control(D, opening(TAG, 5)), [Send((D,), tree_graft())])

    def test_message_that_comes_in_time_is_not_fetched(self) -> None:
        """With its tag, without one, or from us.  PLT-004"""
        self.peer_up(F, mode=FLOOD)
        messages = [attestation(str(number)) for number in range(4)]
        self.control(C, tell(*messages))
        self.received(A, tagged(messages[0]))
        self.received(B, messages[1])
        self.received(F, messages[2])
        self.broadcast(messages[3])
        self.assertEqual(self.engine.snapshot().missing, 0)
        pulls = [e for e in self.advance(5) if isinstance(e, Send) and e.peers == (C,)]
        self.assertEqual([e for e in pulls if e.message.type == TreeGraft.OPCODE], [])

    def test_answer_without_a_tag_is_an_answer(self) -> None:
        """The peer has forgotten the tree; no link is cut for it.  PLT-004"""
        self.control(C, tell(M))
        self.advance(0.5)
        self.received(A, M)
        self.assertEqual(self.received(C, M), [])
        self.assert_roles({A, B, C, D}, set())

    def lead(self, leader: PeerId, sender: PeerId) -> list[Effect]:
        """Let a peer announce three messages long before the tree delivers them."""
        sent = []
        for number in range(3):
            message = attestation(f"{leader} {sender} {number}")
            self.control(leader, tell(message))
            self.advance(0.2)
            sent += self.received(sender, tagged(message))
            self.advance(0.5)
        return sent

    def test_fast_peer_is_added_after_it_has_led_three_times(self) -> None:
        """It announces long before the tree delivers, and is nearer to the root.  PLT-101-X"""
        self.start()
        self.hang_on(A, distance_ms=100)
        self.control(C, opening(TAG, 79))  # 100 and 10 ms from the root by A; 79 and 30 by C
        self.assertIn(Send((C,), tree_graft()), self.lead(C, A))
        self.assert_eager(A, C)
        self.assertEqual(self.engine.counters.optimizations, 1)

    def test_fast_peer_that_is_farther_from_the_root_is_not_added(self) -> None:
        """Nor one that says nothing, or leads another than the parent.  design D6"""
        for offer, leader, sender in ((81, C, A), (None, C, A), (0, C, B), (0, B, A)):
            self.start()
            self.hang_on(A, distance_ms=100)
            self.control(B, tree_graft())
            if offer is not None:
                self.control(leader, opening(TAG, offer))
            self.lead(leader, sender)
            self.assertEqual(self.engine.counters.optimizations, 0)

    def test_lead_in_one_tree_is_none_in_another(self) -> None:
        """Each has roots of its own.  PLT-101-X"""
        self.hang_on(A, TAG + 1)
        for number in range(4):
            message = attestation(str(number))
            self.control(C, tell(message))
            self.advance(0.2)
            self.received(A, tagged(message, TAG + number % 2))
            self.advance(0.5)
        self.assertEqual(self.engine.counters.optimizations, 0)

    def test_liar_is_not_believed_for_a_minute(self) -> None:
        """Ten announcements with nothing behind them; it stays in its trees.  PLT-106-X"""
        self.control(B, tell(*[attestation(str(number)) for number in range(10)]))
        self.advance(0.5)
        self.answer(A, B, C, D)
        self.advance(1.5)
        self.assertEqual(self.engine.counters.announcers_distrusted, 1)
        self.control(B, tell(M))
        self.assertEqual(self.engine.snapshot().missing, 0)
        self.assertEqual(self.engine.counters.ihaves_ignored, 1)
        self.assert_eager(A, B)
        self.control(A, tree_prune())
        self.control(B, tree_prune())
        self.assertNotIn(B, self.tree().eager)
        self.advance(60)
        self.control(B, tell(M))
        self.assertEqual(self.engine.snapshot().missing, 1)

    def test_lost_announcer_is_passed_over_at_once(self) -> None:
        """Any peer may have been the one to send it in full.  PLT-006"""
        self.control(C, tell(M))
        self.control(D, tell(M))
        self.assertEqual(self.peer_down(C), [Send((D,), pull(M))])

    def test_announcements_are_bounded(self) -> None:
        """1000 a peer; the rest is counted and ignored.  PLT-005"""
        for first in range(0, 1024, TREE_MAX_ANNOUNCE_ENTRIES):
            numbers = range(first, first + TREE_MAX_ANNOUNCE_ENTRIES)
            self.control(C, tell(*[attestation(str(number)) for number in numbers]))
        self.assertEqual(self.engine.snapshot().missing, 1000)
        self.assertEqual(self.engine.counters.ihaves_ignored, 24)

    def test_engine_that_forgot_the_tree_still_delivers(self) -> None:
        """An answer opens its tree anew.  design D6"""
        self.control(C, tell(M))
        self.advance(0.5)
        self.assertEqual(self.received(C, tagged(M, 5))[0], Deliver(C, M))
        self.assert_eager(C, tag=5)


class ServingTests(TreesCase):
    """Pulls by others."""

    def setUp(self) -> None:
        super().setUp()
        self.hang_on(A)
        self.received(A, tagged(M))

    def test_pull_is_served_with_the_tag_and_makes_eager(self) -> None:
        """Verbatim, in no other form; somebody may be silent.  PLT-005.2"""
        self.assertEqual(self.control(C, pull(M)), [Send((C,), tagged(M), verbatim=True)])
        self.assert_eager(A, C)
        self.assertEqual(set(self.pinged), {A, B, C, D})
        self.answer(A, B, C, D)
        self.assertNotIn(C, [p for e in self.advance(1) if isinstance(e, Send) for p in e.peers])

    def test_pull_of_something_unknown_is_nothing(self) -> None:
        """No error, no link.  PLT-005.2"""
        self.assertEqual(self.control(C, pull(N)), [])
        self.assert_eager(A)
        self.assertEqual(self.engine.counters.cache_misses, 1)
        self.assertEqual(self.pinged, [])

    def test_pull_of_a_message_of_the_shared_tree_mends_that(self) -> None:
        """It has no tag.  PLT-005.2"""
        self.control(C, PRUNE)
        self.received(B, N)
        self.assertEqual(self.control(C, pull(N))[0], pulled(C, N))
        self.assert_roles({A, B, C, D}, set())
        self.assert_eager(A)

    def test_repeated_pulls_are_limited(self) -> None:
        """Once a second, three times in all.  PLT-005.2"""
        served = []
        for seconds in (0, 0.5, 0.5, 1, 1):
            self.advance(seconds)
            served.append(len(self.control(C, pull(M))))
        self.assertEqual(served, [1, 0, 1, 1, 0])

    def test_graft_by_tag_makes_eager(self) -> None:
        """In a known tree.  PLT-005.2"""
        self.assertEqual(self.control(C, tree_graft()) + self.control(D, tree_graft(9)), [])
        self.assert_eager(A, C)
        self.assertEqual(self.engine.snapshot().trees, 1)


class SilenceTests(TreesCase):
    """A message was late: somebody may be silent, and what hangs on it has to hang elsewhere."""

    def setUp(self) -> None:
        super().setUp()
        for tag, parent in ((1, A), (2, A), (3, B)):
            self.hang_on(parent, tag, 100)
        self.control(C, opening(1, 50))
        self.control(D, opening(2, 50))
        self.control(D, tree_graft(3))
        self.peer_up(E, mode=TREES)
        self.pinged.clear()

    def be_late(self, message: Message) -> None:
        """Have a message pulled from us."""
        self.broadcast(message)
        self.control(E, pull(message))
        self.answer(E)

    def test_trees_of_a_silent_peer_hang_on_others(self) -> None:
        """On one nearer to the root; one and a half round trips and 100 ms later.  design D6"""
        self.be_late(M)
        self.assertEqual(set(self.pinged), {A, B, C, D, E})
        self.answer(B, C, D)
        self.assertEqual(self.grafts(self.advance(0.128)), {})
        self.assertEqual(self.grafts(self.advance(0.002)), {1: C, 2: D})
        self.assertEqual(self.engine.counters.silences, 1)
        self.assert_eager(C, tag=1)
        self.assertIn(B, self.tree(3).eager)

    def grafts(self, effects: list[Effect]) -> dict[int, PeerId]:
        """Who is grafted in which tree."""
        return {
            int.from_bytes(effect.message.data, "big"): effect.peers[0]
            for effect in effects
            if isinstance(effect, Send) and effect.message.type == TreeGraft.OPCODE
        }

    def test_whoever_answers_or_says_anything_is_not_silent(self) -> None:
        """A pong, a message, a frame.  design D6"""
        self.be_late(M)
        self.received(A, tagged(N, 1))
        self.control(B, tell(N))
        self.answer(C, D)
        self.assertEqual(self.grafts(self.advance(1)), {})
        self.assertEqual(self.engine.counters.silences, 0)

    def test_silent_peer_is_no_parent_until_it_is_heard(self) -> None:
        """Afterwards it may be again.  design D6"""
        self.be_late(M)
        self.answer(B, C, D)
        self.advance(1)
        self.control(A, opening(1, 0))  # heard again
        self.assertEqual(self.grafts(self.control(C, tree_prune(1))), {1: A})

    def test_silent_peer_is_passed_over(self) -> None:
        """Even if it is the nearest of all.  design D6"""
        self.control(A, opening(3, 0))
        self.be_late(M)
        self.answer(B, C, D)
        self.advance(1)
        self.control(B, tree_prune(3))
        self.assertEqual(self.grafts(self.control(D, tree_prune(3))), {3: B})

    def test_silent_peer_is_not_pinged_again(self) -> None:
        """It is silent as long as nothing comes from it.  design D6"""
        self.be_late(M)
        self.answer(B, C, D)
        self.advance(LOOK_INTERVAL_SECS)
        self.pinged.clear()
        self.be_late(N)
        self.assertEqual(set(self.pinged), {B, C, D, E})

    def test_we_look_around_once_in_ten_seconds(self) -> None:
        """However many messages are late.  D14"""
        for number in range(5):
            self.be_late(attestation(str(number)))
            self.answer(A, B, C, D)
            self.advance(1)
        self.assertEqual(len(self.pinged), 5)

    def test_timer_that_is_late_is_set_again_for_now(self) -> None:
        """Pings that are due already do not make a timer negative.  design D6"""
        self.be_late(M)
        self.time += LOOK_INTERVAL_SECS + 1
        self.be_late(N)
        self.advance(0)
        self.assertEqual(self.engine.counters.silences, 4)

    def test_lost_peer_is_not_silent(self) -> None:
        """It left while it was asked; its next session begins anew.  design D6"""
        self.be_late(M)
        self.peer_down(A)
        self.answer(B, C, D)
        self.advance(1)
        self.assertEqual(self.engine.counters.silences, 0)

    def test_peer_that_should_have_spoken_first_is_pinged(self) -> None:
        """We had to tell it, so it may lack the message, or be silent.  design D6"""
        self.done(self.engine.peer_up(F, TREES, speaks_first=False))
        self.answer(F)
        self.pinged.clear()
        self.received(A, tagged(M, 1))
        self.advance(0.2)
        self.assertEqual(self.pinged, [])
        self.advance(0.2)
        self.assertEqual(self.pinged, [F])


class AlarmTests(TreesCase):
    """Peers say that somebody is silent."""

    def setUp(self) -> None:
        super().setUp()
        self.hang_on(A)

    def test_alarm_makes_us_look_around(self) -> None:
        """With a message that we have, or with none; once in ten seconds.  design D6"""
        self.received(A, tagged(M))
        self.advance(1)
        for alarm in (tell(M, is_alarm=True), tell(is_alarm=True)):
            self.pinged.clear()
            self.assertEqual(self.control(B, alarm), [])
            self.assertEqual(self.pinged, [A, B, C, D])
            self.control(C, alarm)
            self.assertEqual(len(self.pinged), 4)
            self.answer(A, B, C, D)
            self.advance(LOOK_INTERVAL_SECS)

    def test_message_that_was_late_elsewhere_is_fetched_sooner(self) -> None:
        """After a quarter of timer 1: what keeps it away does so here, too.  PLT-005.1"""
        self.control(C, tell(M, is_alarm=True))
        self.answer(A, B, C, D)
        self.assertEqual(self.advance(0.124), [])
        self.assertEqual(self.advance(0.002), [Send((C,), pull(M))])

    def test_several_silent_peers_are_an_alarm(self) -> None:
        """To those who are not; one that is silent is none.  design D6"""
        for silent, told in (((D,), ()), ((C, D), (A, B))):
            self.start()
            self.hang_on(A)
            self.control(B, tell(is_alarm=True))
            self.answer(*{A, B, C, D}.difference(silent))
            alarms = [e for e in self.advance(1) if isinstance(e, Send)]
            self.assertEqual(alarms, [Send(told, tell(is_alarm=True))] if told else [])
            self.assertEqual(self.engine.counters.silences, len(silent))

    def test_alarms_are_bounded(self) -> None:
        """One in ten seconds, however many fall silent one after the other.  D14"""
        alarms = 0
        for peer in (E, F):
            self.peer_up(peer, mode=TREES)
        for silent in ({D}, {C, D}, {B, C, D}, {A, B, C, D}):
            self.control(E, tell(is_alarm=True))
            self.answer(*{A, B, C, D, E, F} - silent)
            alarms += sum(
                isinstance(e, Send) and e.message == tell(is_alarm=True) for e in self.advance(5)
            )
            self.advance(5)
        self.assertEqual(alarms, 2)  # the third time, C's answer was due 30 ms less than 10 s ago

    def test_root_opens_another_tree_when_several_are_silent(self) -> None:
        """The network has become another one.  design D6"""
        for number in range(2 * MESSAGES_A_TREE):
            self.received(A, tagged(attestation(str(number))))
        for message in (M, N):
            self.broadcast(message)
        self.advance(OPEN_DELAY_SECS)
        self.advance(SETTLE_SECS)
        root = self.engine._tagged._root
        assert root is not None
        self.control(A, tree_graft(root.tag))
        self.broadcast(attestation("old"))
        self.assertEqual(self.engine.counters.trees_opened, 1)
        self.control(A, tell(is_alarm=True))
        self.answer(A, B)
        self.advance(1)
        self.broadcast(attestation("new"))
        self.assertEqual(self.engine.counters.trees_opened, 2)


class StageTests(TreesCase):
    """Validators, plain Chia sessions, and messages that others know otherwise."""

    def setUp(self) -> None:
        super().setUp()
        self.hang_on(A)
        self.control(B, tree_graft())

    def test_accepted_message_runs_in_its_tree(self) -> None:
        """The validator sees no tag; whoever has it meanwhile gets nothing.  PLT-104-X"""
        self.control(C, tree_graft())
        self.assertEqual(self.received(A, tagged(M), True), [Validate(A, M, message_hash(M))])
        self.control(C, tell(M))
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [Deliver(A, M), Send((B,), tagged(M))])
        self.assertEqual(self.advance(1), [Send((D,), tell(M))])

    def test_refused_message_goes_nowhere(self) -> None:
        """And a pull of it gets nothing.  PLT-104-X"""
        for message, verdict in ((M, Verdict.REJECT), (N, Verdict.IGNORE)):
            self.received(A, tagged(message), True)
            self.assertEqual(self.validated(message, verdict), [])
            self.assertEqual(self.control(C, pull(message)), [])
            self.assertEqual(self.control(C, tell(message)), [])
        self.assertEqual(self.engine.snapshot().missing, 0)

    def test_second_copy_prunes_while_the_verdict_is_due(self) -> None:
        """The tree does not wait for it.  PLT-004.1"""
        self.received(A, tagged(M), True)
        self.assertEqual(self.received(B, tagged(M), True), [Send((B,), tree_prune())])
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [Deliver(A, M)])

    def test_message_that_chia_sent_runs_in_a_tree_when_the_tree_brings_it(self) -> None:
        """It is not delivered again; until then it counts as missing.  D6"""
        self.peer_up(F, mode=CHIA)
        self.assertEqual(self.received(F, M), [Deliver(F, M)])
        self.control(C, tell(M))
        self.assertEqual(self.engine.snapshot().missing, 1)
        self.assertEqual(self.received(A, tagged(M))[0], Send((B,), tagged(M)))
        self.assertEqual(self.engine.counters.delivered, 1)
        self.assertEqual(self.engine.snapshot().missing, 0)

    def test_message_that_chia_sent_and_the_validator_has(self) -> None:
        """Its verdict forwards it in the tree that brought it meanwhile.  D6"""
        self.peer_up(F, mode=CHIA)
        self.received(F, M, True)
        self.assertEqual(self.received(A, tagged(M), True), [])
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [Deliver(F, M), Send((B,), tagged(M))])

    def test_own_broadcast_of_a_pending_message_chooses_its_own_tree(self) -> None:
        """The application has given its verdict.  PLT-104-X"""
        self.received(A, tagged(M, 5), True)
        self.assertEqual(self.broadcast(M).effects, [Send((B,), tagged(M))])
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [])
