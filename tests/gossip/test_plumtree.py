"""The tree: members, pushes, duplicates, roles."""

from __future__ import annotations

from dig_gossip.effects import Deliver, Penalize, Send
from dig_gossip.types.peer import PlumtreeRole
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType
from tests.gossip.engine_case import (
    CHIA,
    FLOOD,
    GRAFT,
    PRUNE,
    TREE,
    A,
    B,
    C,
    D,
    E,
    EngineCase,
    F,
    announce,
    attestation,
    graft,
    peer_id,
    request,
    with_high_hash,
    with_low_hash,
)

M = attestation("M")


class MembershipTests(EngineCase):
    """Sessions come and go."""

    def test_sessions_join_eager_up_to_the_fanout(self) -> None:
        """The first ones become eager, the others lazy, none of them is told.  PLT-001"""
        self.build(fanout=2)
        self.assertEqual(self.peer_up(A, B, C), [])
        self.assert_roles({A, B}, {C})
        roles = [self.engine.role(peer) for peer in (A, C, D)]
        self.assertEqual(roles, [PlumtreeRole.EAGER, PlumtreeRole.LAZY, None])

    def test_eight_sessions_all_start_eager(self) -> None:
        """With the default fan-out.  PLT-001"""
        peers = {peer_id(str(number)) for number in range(8)}
        self.peer_up(*peers)
        self.assert_roles(peers, set())

    def test_session_that_is_in_already_keeps_its_role(self) -> None:
        """Only its score changes.  PLT-001"""
        self.peer_up(A, B)
        self.make_lazy(A)
        self.peer_up(A, score=2.0)
        self.assert_roles({B}, {A})

    def test_session_that_learns_plumtree_enters_the_tree(self) -> None:
        """And leaves it when it unlearns.  D5"""
        self.peer_up(A, mode=CHIA)
        self.peer_up(A, mode=FLOOD)
        self.assertEqual(self.engine.snapshot().flood, {A})
        self.peer_up(A)
        self.assert_roles({A}, set())
        self.assertEqual(self.engine.snapshot().flood, set())
        self.peer_up(A, mode=CHIA)
        self.assert_roles(set(), set())
        self.assertEqual(self.engine.snapshot().chia, {A})

    def test_lost_session_is_forgotten(self) -> None:
        """In whatever mode it was; a second loss is nothing.  PLT-006"""
        self.peer_up(A, B)
        self.peer_up(C, mode=FLOOD)
        for peer in (A, C, C, D):
            self.assertEqual(self.peer_down(peer), [])
        self.assert_roles({B}, set())
        self.assertEqual(self.engine.snapshot().flood, set())

    def test_reconciliation_adds_removes_and_changes(self) -> None:
        """Afterwards the sessions are those of the table.  PLT-107-X"""
        self.build(fanout=1)
        self.peer_up(A, B)
        self.peer_up(C, mode=CHIA)
        self.peer_up(D, mode=FLOOD)
        modes = {B: TREE, D: CHIA, E: TREE, F: FLOOD}
        table = {peer: (mode, False) for peer, mode in modes.items()}
        effects = self.engine.reconcile(table)
        self.assertEqual(effects, [Send((B,), GRAFT)])
        self.assert_roles({B}, {E})
        snapshot = self.engine.snapshot()
        self.assertEqual((snapshot.chia, snapshot.flood), ({D}, {F}))
        self.assertEqual(self.engine.reconcile(table), [])


class PushTests(EngineCase):
    """Full messages."""

    def test_broadcast_goes_to_eager_peers_best_first(self) -> None:
        """In the order of their scores, once for all.  PLT-002"""
        for peer, score in ((A, 1.0), (B, 3.0), (C, 2.0)):
            self.peer_up(peer, score=score)
        result = self.broadcast(M)
        self.assertEqual((result.effects, result.announced), ([Send((B, C, A), M)], 0))
        self.rtt(A, 0.1, score=9.0)
        self.assertEqual(self.broadcast(attestation("N")).effects[0].peers[0], A)  # type: ignore[union-attr]

    def test_excluded_peer_gets_nothing(self) -> None:
        """Neither the message nor an announcement of it.  PLT-002"""
        self.build(fanout=2)
        self.peer_up(A, B, C, D)
        self.assertEqual(self.broadcast(M, exclude=A).effects, [Send((B,), M)])
        result = self.broadcast(attestation("N"), exclude=C)
        self.assertEqual(result.announced, 1)
        told = self.advance(2)
        self.assertEqual([effect.peers for effect in told if C in effect.peers], [(C,)])  # type: ignore[union-attr]

    def test_message_is_delivered_and_pushed_on(self) -> None:
        """To everybody but its sender.  PLT-004"""
        self.peer_up(A, B, C)
        self.assertEqual(self.received(A, M), [Deliver(A, M), Send((B, C), M)])
        self.assertEqual(self.engine.seen_count, 1)

    def test_message_of_the_only_peer_is_just_delivered(self) -> None:
        """There is nobody to push it to.  PLT-004"""
        self.peer_up(A)
        self.assertEqual(self.received(A, M), [Deliver(A, M)])

    def test_message_from_nobody_is_ignored(self) -> None:
        """A frame that arrives after its session is gone leaves no trace.  PLT-004"""
        self.peer_up(B)
        self.assertEqual(self.received(A, M), [])
        self.assertEqual(self.engine.seen_count, 0)
        self.assertEqual(self.received(B, M), [Deliver(B, M)])

    def test_first_copy_from_a_lazy_peer_makes_it_eager(self) -> None:
        """It holds us eager, so we hold it eager.  PLT-004"""
        self.peer_up(A, B)
        self.make_lazy(A)
        self.assertEqual(self.received(A, M), [Deliver(A, M), Send((B,), M)])
        self.assert_roles({A, B}, set())

    def test_peer_that_announced_a_message_is_not_sent_it(self) -> None:
        """It has it.  PLT-004"""
        self.peer_up(A, B, C)
        self.control(B, announce(M))
        self.assertEqual(self.received(A, M), [Deliver(A, M), Send((C,), M)])

    def test_broadcast_of_a_missing_message_ends_the_search(self) -> None:
        """Who announced it is not sent it, nobody is asked for it.  PLT-005"""
        self.peer_up(A, B)
        self.control(A, announce(M))
        self.assertEqual(self.broadcast(M).effects, [Send((B,), M)])
        self.assertEqual(self.advance(5), [])

    def test_seen_set_is_bounded(self) -> None:
        """The oldest hash goes; its message counts as new again.  PLT-008"""
        self.build(max_seen=2)
        self.peer_up(A)
        for text in "MNO":
            self.received(A, attestation(text))
        self.assertEqual(self.engine.seen_count, 2)
        self.assertEqual(self.received(A, M), [Deliver(A, M)])


class DuplicateTests(EngineCase):
    """A second copy means one eager link too many."""

    def setUp(self) -> None:
        super().setUp()
        self.peer_up(A, B, C)

    def test_duplicate_prunes_its_sender(self) -> None:
        """The sender becomes lazy and is told; nothing is delivered.  PLT-004.1"""
        self.received(A, M)
        self.assertEqual(self.received(B, M), [Send((B,), PRUNE)])
        self.assert_roles({A, C}, {B})
        counters = self.engine.counters
        self.assertEqual((counters.delivered, counters.duplicates, counters.prunes_sent), (1, 1, 1))

    def test_duplicate_of_our_own_message_prunes(self) -> None:
        """It went around a ring.  PLT-004.1"""
        self.broadcast(M)
        self.assertEqual(self.received(B, M), [Send((B,), PRUNE)])

    def test_duplicate_from_a_lazy_peer_prunes_too(self) -> None:
        """It still holds us eager, and must learn that we do not.  PLT-004.1"""
        self.received(A, M)
        self.received(B, M)
        self.advance(1)
        self.assertEqual(self.received(B, M), [Send((B,), PRUNE)])

    def test_one_prune_a_second(self) -> None:
        """And while it is forbidden, an eager sender stays eager.  PLT-004.1"""
        first, second = with_low_hash("first"), with_low_hash("second")
        self.received(A, first)
        self.received(B, first)
        self.control(B, GRAFT)
        self.received(A, second)
        self.advance(0.9)
        self.assertEqual(self.received(B, second), [])
        self.assert_roles({A, B, C}, set())
        self.advance(0.1)
        self.assertEqual(self.received(B, second), [Send((B,), PRUNE)])
        self.assert_roles({A, C}, {B})

    def test_only_link_is_never_pruned(self) -> None:
        """It would cut this node off.  PLT-004.1"""
        self.peer_down(B)
        self.peer_down(C)
        self.broadcast(M)
        self.assertEqual(self.received(A, M), [])
        self.assert_roles({A}, set())

    def test_pruning_the_last_eager_peer_promotes_another(self) -> None:
        """The eager set is never empty while there is a candidate.  PLT-006"""
        self.make_lazy(B, C)
        self.broadcast(M)
        self.advance(1)
        self.assertEqual(self.received(A, M), [Send((A,), PRUNE), Send((B,), GRAFT)])
        self.assert_roles({B}, {A, C})

    def test_among_many_messages_only_low_hashes_prune(self) -> None:
        """Otherwise each message in flight would cut the same ring elsewhere.  PLT-004.1"""
        low, high = with_low_hash("low"), with_high_hash("high")
        for number in range(20):
            self.received(A, attestation(str(number)))
        self.received(A, low)
        self.received(A, high)
        self.assertEqual(self.received(B, high), [])
        self.assert_roles({A, B, C}, set())
        self.assertEqual(self.received(B, low), [Send((B,), PRUNE)])

    def test_own_messages_count_among_the_many(self) -> None:
        """They are in flight like any other.  PLT-004.1"""
        for number in range(20):
            self.broadcast(attestation(str(number)))
        high = with_high_hash("high")
        self.received(A, high)
        self.assertEqual(self.received(B, high), [])

    def test_answer_to_our_graft_does_not_prune(self) -> None:
        """A copy that we pulled is no proof of a ring; the next one is.  PLT-004.1"""
        self.make_lazy(B)
        self.control(B, announce(M))
        self.advance(0.5)
        self.received(A, M)
        self.assertEqual(self.received(B, M), [])
        self.assert_roles({A, B, C}, set())
        self.advance(2)
        self.assertEqual(self.received(B, M), [Send((B,), PRUNE)])

    def test_answer_after_five_seconds_is_a_duplicate(self) -> None:
        """The pull is forgotten by then.  PLT-004.1"""
        self.make_lazy(B)
        self.control(B, announce(M))
        self.advance(0.5)
        self.received(A, M)
        self.advance(5.1)
        self.assertEqual(self.received(B, M), [Send((B,), PRUNE)])

    def test_copies_from_outside_the_tree_prune_nobody(self) -> None:
        """What a flooded session sent first says nothing about the tree.  PLT-004.1"""
        self.peer_up(D, mode=FLOOD)
        self.received(D, M)
        self.assertEqual(self.received(A, M), [])
        self.assert_roles({A, B, C}, set())


class PruneTests(EngineCase):
    """A peer wants announcements only."""

    def test_pruning_peer_becomes_lazy(self) -> None:
        """From now on it gets hashes.  PLT-004.2"""
        self.peer_up(A, B)
        self.assertEqual(self.control(A, PRUNE), [])
        self.assert_roles({B}, {A})
        result = self.broadcast(M)
        self.assertEqual((result.effects, result.announced), ([Send((B,), M)], 1))
        self.assert_told(self.advance(1), {A: [M]})

    def test_next_message_respects_the_change(self) -> None:
        """Whoever it comes from.  PLT-004.2"""
        self.peer_up(A, B, C)
        self.received(A, M)
        self.make_lazy(C)
        other = attestation("N")
        self.assertEqual(self.received(A, other), [Deliver(A, other), Send((B,), other)])

    def test_lazy_peer_stays_lazy(self) -> None:
        """A repetition changes nothing.  PLT-004.2"""
        self.peer_up(A, B)
        self.make_lazy(A, A)
        self.assert_roles({B}, {A})

    def test_stranger_is_ignored(self) -> None:
        """Also one that floods.  PLT-004.2"""
        self.peer_up(B, mode=FLOOD)
        self.assertEqual(self.control(A, PRUNE), [])
        self.assertEqual(self.control(B, PRUNE), [])

    def test_last_eager_peer_is_replaced_by_the_best_other(self) -> None:
        """By score, but not by the one that has just pruned us.  PLT-006"""
        for peer, score in ((A, 1.0), (B, 2.0), (C, 3.0)):
            self.peer_up(peer, score=score)
        self.make_lazy(A, B)
        self.assertEqual(self.control(C, PRUNE), [Send((B,), GRAFT)])
        self.assert_roles({B}, {A, C})

    def test_only_peer_may_prune_us(self) -> None:
        """Announcements still connect us.  PLT-004.2"""
        self.peer_up(A)
        self.assertEqual(self.control(A, PRUNE), [])
        self.assert_roles(set(), {A})


class LossTests(EngineCase):
    """The tree loses a link."""

    def test_loss_of_the_last_eager_peer_promotes_the_best_lazy_one(self) -> None:
        """At once.  PLT-006"""
        for peer, score in ((A, 9.0), (B, 1.0), (C, 2.0)):
            self.peer_up(peer, score=score)
        self.make_lazy(B, C)
        self.assertEqual(self.peer_down(A), [Send((C,), GRAFT)])
        self.assert_roles({C}, {B})

    def test_loss_of_an_eager_peer_fetches_what_is_missing(self) -> None:
        """Without waiting for the timer.  PLT-006"""
        self.peer_up(A, B, C)
        self.make_lazy(B)
        self.control(B, announce(M))
        self.assertEqual(self.peer_down(A), [Send((B,), graft(M))])
        self.assert_roles({B, C}, set())
        self.assertEqual(self.received(B, M), [Deliver(B, M), Send((C,), M)])

    def test_loss_of_an_eager_peer_leaves_running_pulls_alone(self) -> None:
        """Who is being asked already is not replaced.  PLT-006"""
        self.peer_up(A, B, C)
        self.make_lazy(B, C)
        self.control(B, announce(M))
        self.control(C, announce(M))
        self.assertEqual(self.advance(0.5), [Send((B,), graft(M))])
        self.assertEqual(self.peer_down(A), [])

    def test_loss_of_the_peer_that_is_asked_turns_to_the_next(self) -> None:
        """At once, whether it was eager or not.  PLT-006"""
        self.peer_up(A, B, C)
        self.make_lazy(B, C)
        self.control(B, announce(M))
        self.control(C, announce(M))
        self.advance(0.5)
        self.assertEqual(self.peer_down(B), [Send((C,), graft(M))])

    def test_loss_of_a_lazy_peer_that_is_asked_turns_to_the_next(self) -> None:
        """It was asked without being promoted.  PLT-006"""
        self.build(fanout=1)
        self.peer_up(A, B, C, D)
        self.control(D, GRAFT)
        self.control(B, announce(M))
        self.control(C, announce(M))
        self.assertEqual(self.advance(0.5), [Send((B,), request(M))])
        self.assertEqual(self.peer_down(B), [Send((C,), request(M))])

    def test_loss_of_the_only_announcer_ends_the_search(self) -> None:
        """Its announcements go with it.  PLT-006"""
        self.peer_up(A, B)
        self.make_lazy(B)
        self.control(B, announce(M))
        self.peer_down(B)
        self.assertEqual(self.advance(5), [])
        self.assertEqual(self.engine.counters.missing_gave_up, 1)
        self.assertEqual(self.engine.snapshot().missing, 0)


class ControlTests(EngineCase):
    """Plumtree's own frames."""

    def test_malformed_frames_are_charged(self) -> None:
        """Each of the four kinds, and nothing else happens.  PLT-009"""
        self.peer_up(A)
        for opcode, data in ((214, b""), (214, bytes(34)), (215, b"\0"), (216, b""), (217, b"x")):
            effects = self.control(A, Message(opcode, None, data))
            self.assertEqual(effects, [Penalize(A, PenaltyReason.MALFORMED_MESSAGE)])
        self.assert_roles({A}, set())
        self.assertEqual(self.engine.counters.prunes_received, 0)

    def test_other_opcodes_are_none_of_its_business(self) -> None:
        """The router would have to err for that.  PLT-009"""
        self.peer_up(A)
        self.assertEqual(self.control(A, M), [])

    def test_control_frames_are_neither_seen_nor_cached(self) -> None:
        """Nor delivered.  PLT-009"""
        self.peer_up(A, B)
        for message in (announce(M), GRAFT, PRUNE, request(M)):
            self.assertEqual(self.control(A, message), [])
        snapshot = self.engine.snapshot()
        self.assertEqual((snapshot.seen, snapshot.cached), (0, 0))

    def test_unknown_timers_are_ignored(self) -> None:
        """A late firing of something else does no harm.  PLT-009"""
        self.assertEqual(self.engine.timer_fired(("other", b"")), [])

    def test_idle_engine_has_no_timer(self) -> None:
        """Everything it sets comes to an end.  PRF-101-X"""
        self.peer_up(A, B, C)
        self.make_lazy(C)
        self.broadcast(M)
        self.control(B, announce(attestation("never")))
        self.advance(120)
        self.assertEqual(self.timers, {})
        snapshot = self.engine.snapshot()
        self.assertEqual((snapshot.cached, snapshot.missing, snapshot.unannounced), (0, 0, 0))

    def test_snapshot_names_the_counters(self) -> None:
        """Totals and sizes in one frozen value.  STA-101-X"""
        self.peer_up(A, B)
        self.received(A, M)
        snapshot = self.engine.snapshot()
        self.assertEqual(snapshot.counters["delivered"], 1)
        self.assertEqual((snapshot.cached, snapshot.cached_bytes), (1, len(M)))
        self.assertEqual((snapshot.pending, snapshot.lazy_timeout), (0, 0.5))


class OptimizationTests(EngineCase):
    """Faster links join the tree."""

    def test_much_faster_lazy_link_joins(self) -> None:
        """If it is more than a quarter faster than the slowest eager one.  PRF-003"""
        for fast, expected in ((0.081, []), (0.08, []), (0.079, [Send((B,), GRAFT)])):
            self.build()
            self.peer_up(A, B, C)
            self.make_lazy(B)
            self.advance(10)
            self.assertEqual(self.rtt(A, 0.1) + self.rtt(C, 0.01) + self.rtt(B, fast), expected)

    def test_ring_is_cut_by_the_next_message(self) -> None:
        """The slow link's copy comes second and is pruned: nothing is lost meanwhile.  PRF-003"""
        self.peer_up(A, B)
        self.make_lazy(B)
        self.advance(10)
        self.rtt(A, 0.1)
        self.rtt(B, 0.01)
        self.received(B, M)
        self.assertEqual(self.received(A, M), [Send((A,), PRUNE)])
        self.assert_roles({B}, {A})

    def test_without_data_nothing_is_changed(self) -> None:
        """Both round trips must be known, and make sense.  PRF-003"""
        self.peer_up(A, B)
        self.make_lazy(B)
        self.advance(10)
        for rtt in (float("nan"), float("inf"), 0.0, -1.0):
            self.assertEqual(self.rtt(A, rtt), [])
        self.assertEqual(self.rtt(B, 0.01), [])
        self.assertEqual(self.rtt(C, 0.01), [])
        self.assertEqual(self.control(B, GRAFT), [])

    def test_one_change_in_ten_seconds(self) -> None:
        """Also the links that changed rest that long.  PRF-003"""
        self.peer_up(A, B, C)
        self.make_lazy(B, C)
        self.advance(10)
        self.rtt(A, 0.1)
        self.rtt(B, 0.01)
        self.assertEqual(self.rtt(C, 0.01), [])
        self.advance(9.9)
        self.assertEqual(self.rtt(C, 0.01), [])
        self.advance(0.1)
        self.assertEqual(self.rtt(C, 0.01), [Send((C,), GRAFT)])

    def test_link_that_just_changed_rests(self) -> None:
        """A pruned link is not taken back at once.  PRF-003"""
        self.peer_up(A, B)
        self.rtt(A, 0.1)
        self.rtt(B, 0.01)
        self.make_lazy(B)
        self.advance(9.9)
        self.assertEqual(self.rtt(B, 0.01), [])
        self.advance(0.1)
        self.assertEqual(self.rtt(B, 0.01), [Send((B,), GRAFT)])

    def test_above_the_fanout_none_is_added(self) -> None:
        """Promotions by others may exceed it, our own do not.  PLT-001"""
        self.build(fanout=1)
        self.peer_up(A, B, C)
        self.control(B, GRAFT)
        self.advance(10)
        self.rtt(A, 0.1)
        self.assertEqual(self.rtt(C, 0.01), [])

    def test_graft_is_an_occasion(self) -> None:
        """Optimization follows a GRAFT as well as a round trip.  PRF-003"""
        self.build(fanout=3)
        self.peer_up(A, B, C)
        self.make_lazy(B, C)
        self.rtt(A, 0.1)
        self.rtt(B, 0.01)
        self.advance(10)
        self.assertEqual(self.control(C, GRAFT), [Send((B,), GRAFT)])


class ShortcutTests(EngineCase):
    """A lazy peer that announces long before the eager one delivers."""

    def setUp(self) -> None:
        super().setUp()
        self.peer_up(A, B, C)
        self.make_lazy(B)

    def lead(self, number: int, seconds: float = 0.1) -> list[object]:
        """B announces, and later A delivers; what that does besides the usual."""
        message = attestation(f"lead {number}")
        self.control(B, announce(message))
        self.advance(seconds)
        effects = self.received(A, message)
        self.assertEqual(effects[-2:], [Deliver(A, message), Send((C,), message)])
        return [*effects[:-2]]

    def test_third_lead_takes_the_link_into_the_tree(self) -> None:
        """Two do nothing, the third does.  PLT-101-X"""
        self.assertEqual([self.lead(number) for number in range(2)], [[], []])
        self.assertEqual(self.lead(2), [Send((B,), GRAFT)])
        self.assert_roles({A, B, C}, set())
        self.assertEqual(self.engine.counters.optimizations, 1)

    def test_measurements_end_with_the_tree_they_were_made_on(self) -> None:
        """After one link joined, the next needs three leads of its own.  PLT-101-X"""
        self.peer_up(D)
        self.make_lazy(D)
        for number in range(5):
            message = attestation(f"both {number}")
            self.control(B, announce(message))
            self.control(D, announce(message))
            self.advance(0.2)
            self.received(A, message)
            self.assertEqual(B in self.engine.snapshot().eager, number >= 2)
            self.assertNotIn(D, self.engine.snapshot().eager)
        self.assertEqual(self.engine.counters.optimizations, 1)

    def test_short_leads_do_not_count(self) -> None:
        """Less than 100 ms are noise.  PLT-101-X"""
        self.assertEqual([self.lead(number, 0.099) for number in range(9)], [[]] * 9)

    def test_lags_count_against_it(self) -> None:
        """Announcements of what A has delivered already.  PLT-101-X"""
        for number in range(9):
            self.assertEqual(self.lead(number), [])
            late = attestation(f"lag {number}")
            self.received(A, late)
            self.control(B, announce(late))

    def test_old_leads_do_not_count(self) -> None:
        """Three in more than a minute are not enough.  PLT-101-X"""
        self.lead(0)
        self.lead(1)
        self.advance(60)
        self.assertEqual(self.lead(2), [])

    def test_lost_announcer_and_eager_announcer_take_no_part(self) -> None:
        """Only a lazy link can join.  PLT-101-X"""
        for number in range(4):
            message = attestation(str(number))
            self.control(C, announce(message))
            self.advance(0.2)
            self.received(A, message)
        self.assertEqual(self.engine.counters.optimizations, 0)

    def test_nothing_is_learned_from_lazy_senders(self) -> None:
        """They are not part of the tree that is to be improved.  PLT-101-X"""
        for number in range(4):
            self.make_lazy(A)
            message = attestation(str(number))
            self.control(B, announce(message))
            self.advance(0.2)
            self.assertEqual(self.received(A, message)[-2], Deliver(A, message))
        self.assertEqual(self.engine.counters.optimizations, 0)


class OpcodeTests(EngineCase):
    """Announcements of what is not gossiped."""

    def test_only_gossiped_opcodes_are_fetched(self) -> None:
        """Control frames and answers cannot be announced.  PLT-009"""
        self.peer_up(A)
        for opcode in (DigMessageType.PLUMTREE_GRAFT, DigMessageType.RESPOND_STATUS, 199):
            self.control(A, announce(Message(opcode, None, b"")))
        self.assertEqual(self.engine.snapshot().missing, 0)
        self.assertEqual(self.engine.counters.ihaves_ignored, 3)
