"""Trees with tags: who opens one, who hangs on whom, and what runs in them."""

from __future__ import annotations

from dig_gossip.effects import Deliver, Effect, Penalize, Send
from dig_gossip.gossip.tagged import (
    FAR_SECS,
    IDLE_SECS,
    LIFETIME_SECS,
    OPEN_DELAY_SECS,
    SETTLE_SECS,
)
from dig_gossip.gossip.tagged_openings import (
    MAX_CREDIT,
    MAX_TREES,
    MESSAGES_A_TREE,
    OPEN_BELOW,
    OPENING_REFILL_SECS,
)
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.trees import MAX_DISTANCE_MS, TreeAnnounce, TreeGraft, TreeOpen, TreePrune
from tests.gossip.engine_case import (
    CHIA,
    FLOOD,
    PRUNE,
    TREE,
    A,
    B,
    C,
    D,
    E,
    F,
    attestation,
    graft,
    peak,
    peer_id,
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
NO_WAY = opening(TAG, MAX_DISTANCE_MS)


def openings(effects: list[Effect]) -> dict[PeerId, TreeOpen]:
    """Who is told of a tree, and what."""
    return {
        peer: TreeOpen.from_bytes(effect.message.data)
        for effect in effects
        if isinstance(effect, Send) and effect.message.type == TreeOpen.OPCODE
        for peer in effect.peers
    }


class RootTests(TreesCase):
    """A node that sends again and again opens a tree."""

    def opened(self) -> TreeOpen:
        """Broadcast once from cold; what the timer tells of."""
        self.broadcast(attestation("first"))
        told = openings(self.advance(OPEN_DELAY_SECS))
        self.assertEqual(set(told), {A, B, C, D})
        (body,) = set(told.values())
        return body

    def test_first_message_opens_a_tree_and_runs_without_it(self) -> None:
        """Nobody is near: a tree is worth its price; the race takes its time.  design D6"""
        self.assertEqual(self.broadcast(M).effects, [Send((A, B, C, D), M)])
        self.assertEqual(openings(self.advance(OPEN_DELAY_SECS - 0.1)), {})
        self.broadcast(N)  # does not put it off
        self.assertEqual(set(openings(self.advance(0.1))), {A, B, C, D})
        self.assertEqual(openings(self.advance(OPEN_DELAY_SECS)), {})
        self.assertEqual(self.engine.counters.trees_opened, 1)
        self.assertEqual(self.engine.snapshot().trees, 1)

    def test_root_claims_to_be_as_far_as_a_neighbor(self) -> None:
        """Never to be at distance 0, which would say who the root is.  design D6"""
        claims = set()
        for number in range(12):
            self.start()
            self.engine._tagged._rng.seed(number)
            claims.add(self.opened().distance_ms)
        self.assertEqual(claims, {10, 20, 30, 40})

    def test_own_messages_run_in_the_tree_once_it_has_settled(self) -> None:
        """Not before two seconds, and only to those who grafted themselves.  design D6"""
        tag = self.opened().tag
        for peer in (A, B):
            self.assertEqual(self.control(peer, tree_graft(tag)), [])
        self.advance(SETTLE_SECS - 0.1)
        self.assertEqual(self.broadcast(M).effects, [Send((A, B, C, D), M)])
        self.advance(0.2)
        self.assertEqual(self.broadcast(N), ([Send((A, B), tagged(N, tag))], 2))
        (told,) = self.advance(0.06)
        self.assertEqual(told, Send((C, D), tell(N)))

    def test_tree_without_links_is_not_used(self) -> None:
        """Nobody has grafted itself.  design D6"""
        self.opened()
        self.advance(SETTLE_SECS)
        self.assertEqual(self.broadcast(M).effects, [Send((A, B, C, D), M)])

    def test_few_links_need_no_tree(self) -> None:
        """With two the shared one is as short.  design D6"""
        self.build()
        self.peer_up(A, B, mode=TREES)
        self.peer_up(C, D)
        self.hang_on(A)
        for number in range(40):
            message = attestation(str(number))
            self.assertEqual(self.broadcast(message).effects, [Send((A, B, C, D), message)])
            self.assertEqual(openings(self.advance(OPEN_DELAY_SECS)), {})

    def test_trees_have_to_be_earned(self) -> None:
        """One for sixteen messages seen; joining one costs as much.  design D6"""
        self.hang_on(A)
        for number in range(MESSAGES_A_TREE):
            self.broadcast(attestation(f"own {number}"))
            self.assertEqual(openings(self.advance(OPEN_DELAY_SECS)), {})
        self.broadcast(attestation("one more"))
        self.assertEqual(len(openings(self.advance(OPEN_DELAY_SECS))), 4)

    def test_lots_are_drawn_when_many_send(self) -> None:
        """Two hundred others in the five seconds: about one in ten opens.  design D6"""
        for own, few, many in ((1, 1, 15), (20, 60, 60)):
            opened = 0
            for number in range(60):
                self.start()
                self.engine._tagged._rng.seed(number)
                for sent in range(own):
                    self.broadcast(attestation(f"own {sent}"))
                for sent in range(200):
                    self.received(A, attestation(str(sent)))
                opened += bool(openings(self.advance(OPEN_DELAY_SECS)))
            self.assertTrue(few <= opened <= many, opened)

    def test_first_tree_of_our_own_is_paid_for(self) -> None:
        """Another one, because nobody hangs on it, has to be earned.  design D6"""
        self.opened()
        self.advance(SETTLE_SECS)
        for number in range(MESSAGES_A_TREE - 1):
            self.broadcast(attestation(str(number)))
            self.assertEqual(openings(self.advance(OPEN_DELAY_SECS)), {})
        self.broadcast(M)
        self.assertEqual(len(openings(self.advance(OPEN_DELAY_SECS))), 4)

    def test_near_root_serves_who_sends_rarely(self) -> None:
        """However many messages there are; a far one does not.  design D6"""
        far = round(FAR_SECS * 1000) - 10  # and 10 ms to A
        for distance, opens in ((far - 1, 0), (far + 1, 4)):
            self.start()
            self.hang_on(A, distance_ms=distance)
            for number in range(MESSAGES_A_TREE):
                self.received(A, tagged(attestation(str(number))))
            self.advance(OPEN_DELAY_SECS)
            self.broadcast(M)
            self.assertEqual(len(openings(self.advance(OPEN_DELAY_SECS))), opens)

    def test_used_tree_is_renewed_by_its_root(self) -> None:
        """After ten minutes; the old one is used until the new one has settled.  design D6"""
        old = self.opened().tag
        self.control(A, tree_graft(old))
        for number in range(MESSAGES_A_TREE):
            self.received(A, attestation(str(number)))
        self.advance(LIFETIME_SECS - 1)
        self.assertEqual(openings(self.broadcast(attestation("early")).effects), {})
        self.advance(2)
        told = openings(self.broadcast(attestation("renews")).effects)
        self.assertEqual(set(told), {A, B, C, D})
        new = told[A].tag
        self.assertNotEqual(new, old)
        self.control(A, tree_graft(new))
        self.assertIn(Send((A,), tagged(M, old)), self.broadcast(M).effects)
        self.advance(SETTLE_SECS)
        self.assertIn(Send((A,), tagged(N, new)), self.broadcast(N).effects)

    def test_root_that_nobody_hangs_on_opens_another_tree(self) -> None:
        """All that hung on it have gone, and it sends again.  design D6"""
        old = self.opened().tag
        self.control(A, tree_graft(old))
        for number in range(MESSAGES_A_TREE):
            self.received(A, attestation(str(number)))
        self.advance(SETTLE_SECS)
        self.broadcast(attestation("along the tree"))
        self.assertEqual(openings(self.advance(OPEN_DELAY_SECS)), {})
        self.control(A, tree_prune(old))
        self.broadcast(attestation("along none"))
        told = openings(self.advance(OPEN_DELAY_SECS))
        self.assertEqual(set(told), {A, B, C, D})
        self.assertNotEqual(told[A].tag, old)

    def test_root_that_lost_most_links_opens_another_tree(self) -> None:
        """Second copies of others' messages have cut what had won the race.  design D6"""
        old = self.opened().tag
        for peer in (A, B, C, D):
            self.control(peer, tree_graft(old))
        for number in range(MESSAGES_A_TREE):
            self.received(A, attestation(str(number)))
        self.advance(SETTLE_SECS)
        for peer, opens in ((A, 0), (B, 0), (C, 4)):
            self.control(peer, tree_prune(old))
            told = openings(self.broadcast(attestation(f"without {peer}")).effects)
            self.assertEqual(len(told), opens)

    def test_root_hangs_on_nobody(self) -> None:
        """Its last link prunes itself, or is gone.  design D6"""
        tag = self.opened().tag
        for peer in (A, B):
            self.control(peer, tree_graft(tag))
        self.assertEqual(self.control(A, tree_prune(tag)), [])
        self.assertEqual(self.peer_down(B), [])
        self.assert_eager(tag=tag)


class JoinTests(TreesCase):
    """The first to tell of a tree is the parent."""

    def test_first_to_tell_is_grafted_and_the_others_are_told(self) -> None:
        """With our distance: that of the parent and half of its round trip.  design D6"""
        for peer, distance, own in ((A, 0, 10), (B, 100, 120), (D, 65_530, 65_535)):
            self.start()
            first, second = self.control(peer, opening(TAG, distance))
            self.assertEqual(first, Send((peer,), tree_graft()))
            others = {other: TreeOpen(TAG, own) for other in (A, B, C, D) if other != peer}
            self.assertEqual(openings([second]), others)
            self.assertEqual(self.engine.counters.trees_joined, 1)
            self.assert_eager(peer)

    def test_unmeasured_link_counts_50_ms(self) -> None:
        """Until its ping is answered.  design D6"""
        self.peer_up(E, mode=TREES)
        self.assertEqual(self.pinged, [E])
        self.assertEqual(openings(self.control(E, opening()))[A].distance_ms, 50)

    def test_later_ones_are_ignored(self) -> None:
        """The race is over, even if they claim to be nearer.  design D6"""
        self.control(C, opening(TAG, 100))
        self.assertEqual(self.control(A, opening(TAG, 0)), [])
        self.assertEqual(self.control(C, opening(TAG, 0)), [])
        self.assert_eager(C)
        self.assertEqual(self.engine.snapshot().trees, 1)

    def test_message_with_an_unknown_tag_opens_its_tree(self) -> None:
        """It came by that link; nobody is told of a distance.  design D6"""
        self.assertEqual(self.received(B, tagged(M)), [Deliver(B, M)])
        self.assert_eager(B)
        self.advance(SETTLE_SECS)
        self.assertIn(Send((A, B, C, D), N), self.broadcast(N).effects)  # it may be anywhere
        self.assertEqual(self.control(A, opening()), [])
        self.assertEqual(self.broadcast(peak("P")).effects, [Send((B,), tagged(peak("P")))])

    def test_own_messages_take_the_tree_of_the_nearest_root(self) -> None:
        """Of those that have settled.  design D6"""
        self.control(A, opening(1, 50))
        self.control(B, opening(2, 20))
        self.control(C, opening(3, 40))
        self.advance(SETTLE_SECS)
        self.control(D, opening(4, 0))
        self.assertEqual(self.broadcast(M).effects, [Send((B,), tagged(M, 2))])

    def test_what_must_hide_or_change_its_form_has_no_tag(self) -> None:
        """Transactions; and opcodes that cross some links in another form.  PRV-002"""
        self.hang_on(A)
        self.engine.untagged = frozenset({M.type})
        for message in (
            Message(ChiaMessageType.NEW_TRANSACTION, None, bytes(48)),
            Message(ChiaMessageType.RESPOND_BLOCK, None, b"block"),
            M,
        ):
            self.assertEqual(self.broadcast(message).effects, [Send((A, B, C, D), message)])
        self.engine.untagged = frozenset()
        self.assertEqual(self.broadcast(N).effects, [Send((A,), tagged(N))])


class LimitTests(TreesCase):
    """Nobody can fill the table with trees, nor empty it."""

    def fill(self) -> None:
        """64 trees, of one peer."""
        for tag in range(1, MAX_TREES + 1):
            self.control(A, opening(tag))
        self.assertEqual(self.engine.snapshot().trees, MAX_TREES)

    def test_full_table_takes_no_tree_while_all_are_used(self) -> None:
        """Messages of further ones run in the shared tree, without a tag.  D14"""
        self.fill()
        self.advance(IDLE_SECS - 1)
        self.assertEqual(self.control(B, opening(999)), [])
        self.assertEqual(self.received(B, tagged(M, 999)), [Deliver(B, M), Send((A, C, D), M)])
        self.assertEqual(self.engine.snapshot().trees, MAX_TREES)
        self.assertEqual(self.engine.counters.trees_refused, 2)

    def test_idle_tree_gives_way(self) -> None:
        """The one that has not been used for longest, and none in use.  D14"""
        self.fill()
        self.advance(IDLE_SECS - 1)
        self.received(A, tagged(M, 1))
        self.advance(1)
        self.assertEqual(len(self.control(B, opening(999))), 2)
        self.assertEqual(self.engine.snapshot().trees, MAX_TREES)
        self.assertIsNone(self.engine._tagged.get(2))
        self.assert_eager(A, tag=1)
        self.assert_eager(B, tag=999)

    def test_peer_may_tell_of_one_tree_in_five_seconds(self) -> None:
        """After the first 64; what it tells of beyond displaces nothing.  D14"""
        self.fill()
        self.advance(IDLE_SECS + 1)
        accepted = [tag for tag in range(1000, 1020) if self.control(A, opening(tag))]
        self.assertEqual(accepted, list(range(1000, 1000 + int(IDLE_SECS / OPENING_REFILL_SECS))))
        self.assertEqual(self.engine.snapshot().trees, MAX_TREES)
        self.assertEqual(self.engine.counters.trees_refused, 8)
        self.assertEqual(len(self.control(B, opening(2000))), 2)

    def test_messages_with_new_tags_count_as_well(self) -> None:
        """A tag a message is no way around the limit.  D14"""
        for number in range(3 * MAX_TREES):
            self.received(A, tagged(attestation(str(number)), 1 + number))
        self.assertEqual(self.engine.snapshot().trees, MAX_TREES)
        self.assertEqual(self.engine.counters.delivered, 3 * MAX_TREES)

    def test_we_open_none_when_the_table_is_nearly_full(self) -> None:
        """What others open at the same moment, eight of them, still fits in.  D14"""
        self.assertEqual(MAX_TREES - OPEN_BELOW, 8)
        for number, opens in ((OPEN_BELOW - 1, 4), (OPEN_BELOW, 0)):
            self.start()
            for tag in range(1, number + 1):
                self.control(A, opening(tag, 500))
            for sent in range((1 + int(MAX_CREDIT)) * MESSAGES_A_TREE):
                self.received(A, tagged(attestation(str(sent)), 1 + sent % number))
            self.advance(SETTLE_SECS)
            self.broadcast(N)
            self.assertEqual(len(openings(self.advance(OPEN_DELAY_SECS))), opens)

    def test_one_idle_tree_makes_room_for_one(self) -> None:
        """It counts no more; a new one does, whoever opens it.  D14"""
        for others, opens in ((0, 4), (1, 0)):
            self.start()
            for tag in range(1, OPEN_BELOW + 1):
                self.control(A, opening(tag, 500))
            self.advance(IDLE_SECS)
            for sent in range((1 + int(MAX_CREDIT) + others) * MESSAGES_A_TREE):
                self.received(A, tagged(attestation(str(sent)), 2 + sent % (OPEN_BELOW - 1)))
            for tag in range(1000, 1000 + others):
                self.control(B, opening(tag, 500))
            self.advance(SETTLE_SECS)
            self.broadcast(N)
            self.assertEqual(len(openings(self.advance(OPEN_DELAY_SECS))), opens)

    def test_what_others_opened_at_once_is_paid_for(self) -> None:
        """Eight trees of debt at most, a hundred and forty-four messages.  D14"""
        for trees, debt in ((4, 3), (40, MAX_CREDIT)):
            self.start()
            for tag in range(1, trees + 1):
                self.control(A, opening(tag, 500))
            self.advance(SETTLE_SECS)
            for number in range(int(1 + debt) * MESSAGES_A_TREE):
                self.received(A, tagged(attestation(str(number)), 1 + number % trees))
                if number % MESSAGES_A_TREE == 0:
                    self.broadcast(attestation(f"own {number}"))
                    self.assertEqual(openings(self.advance(OPEN_DELAY_SECS)), {})
            self.broadcast(N)
            self.assertEqual(len(openings(self.advance(OPEN_DELAY_SECS))), 4)

    def test_displaced_tree_of_our_own_is_opened_anew(self) -> None:
        """It was idle, and is worth another one when we send again.  D14"""
        self.broadcast(M)
        self.advance(IDLE_SECS + 1)
        for tag in range(1, MAX_TREES + 1):
            self.control(A, opening(tag, 500))
        self.assertEqual(self.engine.snapshot().trees, MAX_TREES)
        for number in range((1 + int(MAX_CREDIT)) * MESSAGES_A_TREE):
            self.received(A, tagged(attestation(str(number)), 1 + number % MAX_TREES))
        self.advance(IDLE_SECS + 1)
        self.broadcast(N)
        self.assertEqual(len(openings(self.advance(OPEN_DELAY_SECS))), 4)


class ForwardingTests(TreesCase):
    """A message runs along its tree, and is announced beside it."""

    def setUp(self) -> None:
        super().setUp()
        self.hang_on(A)
        for peer in (B, C):
            self.control(peer, tree_graft())

    def test_message_goes_to_the_trees_links_and_is_announced_to_the_rest(self) -> None:
        """With its tag, but delivered without one.  design D6"""
        self.assertEqual(self.received(A, tagged(M)), [Deliver(A, M), Send((B, C), tagged(M))])
        self.assertEqual(self.advance(0.06), [Send((D,), tell(M))])

    def test_those_who_announced_it_get_nothing(self) -> None:
        """They have it.  PLT-003"""
        self.control(B, tell(M))
        self.assertEqual(self.received(A, tagged(M)), [Deliver(A, M), Send((C,), tagged(M))])
        self.received(A, tagged(N))
        self.control(D, tell(N))
        # M came by itself, if late: no alarm.
        self.assertEqual(self.advance(1), [Send((D,), tell(M))])

    def test_other_sessions_get_it_without_a_tag(self) -> None:
        """Tree and flood sessions; plain Chia sessions only what we broadcast.  D6"""
        plain = peer_id("plain")
        self.peer_up(E)
        self.peer_up(F, mode=FLOOD)
        self.peer_up(plain, mode=CHIA)
        self.assertEqual(
            self.received(A, tagged(peak("P"))),
            [
                Deliver(A, peak("P")),
                Send((E, F), peak("P")),
                Send((B, C), tagged(peak("P"))),
            ],
        )
        effects = self.broadcast(peak("Q")).effects
        self.assertEqual(
            effects, [Send((E, F, plain), peak("Q")), Send((A, B, C), tagged(peak("Q")))]
        )

    def test_lazy_tree_session_is_told_in_its_own_way(self) -> None:
        """By a whole hash, and it pulls the message without a tag.  PLT-005.2"""
        self.peer_up(E)
        self.control(E, PRUNE)
        self.received(A, tagged(M))
        told = {e.peers: e.message.type for e in self.advance(1) if isinstance(e, Send)}
        self.assertEqual(told, {(D,): TreeAnnounce.OPCODE, (E,): 214})
        self.assertEqual(self.control(E, graft(M)), [pulled(E, M)])

    def test_message_without_a_tag_runs_in_the_shared_tree(self) -> None:
        """From whomever it comes, to all of its links, with no tag.  PLT-004"""
        self.peer_up(E)
        self.assertEqual(self.received(B, M), [Deliver(B, M), Send((A, C, D, E), M)])
        self.assertEqual(self.received(E, N), [Deliver(E, N), Send((A, B, C, D), N)])

    def test_excluded_peer_gets_nothing(self) -> None:
        """Neither the message nor its announcement.  PLT-105-X"""
        self.assertEqual(self.broadcast(M, A).effects, [Send((B, C), tagged(M))])
        self.assertEqual(self.advance(1), [Send((D,), tell(M))])

    def test_message_comes_once_however_it_comes(self) -> None:
        """In its tree, in another one, in none.  PLT-004"""
        self.received(A, tagged(M))
        for peer, copy in ((B, tagged(M)), (C, tagged(M, 5)), (D, M), (A, tagged(M))):
            effects = self.received(peer, copy)
            self.assertEqual([e for e in effects if isinstance(e, Deliver)], [])
        self.assertEqual(self.engine.counters.delivered, 1)
        self.assertEqual(self.engine.counters.duplicates, 4)

    def test_repeated_broadcast_is_not_forwarded_again(self) -> None:
        """The tree has had it; plain Chia sessions have not.  D6"""
        self.peer_up(F, mode=CHIA)
        self.received(A, tagged(peak("P")))
        self.assertEqual(self.broadcast(peak("P")).effects, [Send((F,), peak("P"))])

    def test_id_of_a_peer_without_trees_is_no_tag(self) -> None:
        """Nor is 0, which no frame could name.  design D6"""
        self.peer_up(E)
        self.peer_up(F, mode=FLOOD)
        for peer, copy in ((E, tagged(M)), (F, tagged(N)), (A, tagged(attestation("O"), 0))):
            plain = Message(copy.type, None, copy.data)
            deliver, send = self.received(peer, copy)
            self.assertEqual(deliver, Deliver(peer, plain))
            assert isinstance(send, Send)
            self.assertEqual(send.message, plain)
        self.assert_eager(A, B, C)
        self.assertEqual(self.engine.snapshot().trees, 1)


class PruningTests(TreesCase):
    """A second copy cuts one link of one tree."""

    def setUp(self) -> None:
        super().setUp()
        for tag in (TAG, TAG + 1):
            self.hang_on(A, tag)
            self.control(B, tree_graft(tag))

    def test_second_copy_prunes_its_link_in_this_tree_only(self) -> None:
        """Neither in the other nor in the shared one.  PLT-004.1"""
        self.received(A, tagged(M))
        self.assertEqual(self.received(B, tagged(M)), [Send((B,), tree_prune())])
        self.assert_eager(A)
        self.assert_eager(A, B, tag=TAG + 1)
        self.assert_roles({A, B, C, D}, set())

    def test_copy_that_came_in_another_tree_prunes_nobody(self) -> None:
        """It says nothing about this one.  design D6"""
        self.received(A, tagged(M))
        for copy in (tagged(M, TAG + 1), M):
            self.assertEqual(self.received(B, copy), [])
        self.received(A, N)
        self.assertEqual(self.received(B, tagged(N)), [])
        self.assert_eager(A, B)
        self.assert_roles({A, B, C, D}, set())

    def test_copy_from_a_lazy_peer_prunes_once_a_second(self) -> None:
        """It believes the link to be eager.  PLT-004.1"""
        self.received(A, tagged(M))
        sent = []
        for seconds in (0, 0.9, 0.2):
            self.advance(seconds)
            sent.append(self.received(C, tagged(M)))
        self.assertEqual(sent, [[Send((C,), tree_prune())], [], [Send((C,), tree_prune())]])
        # The limit is one a tree.
        self.received(A, tagged(N, TAG + 1))
        self.assertEqual(self.received(C, tagged(N, TAG + 1)), [Send((C,), tree_prune(TAG + 1))])

    def test_link_that_our_prune_is_on_its_way_on_is_none_of_the_tree(self) -> None:
        """What crosses the PRUNE closes no ring again, and cuts no other link.  PLT-004.1"""
        self.control(C, tree_graft())
        self.received(A, tagged(M))
        self.assertEqual(self.received(B, tagged(M)), [Send((B,), tree_prune())])
        self.assertEqual(self.received(B, tagged(N)), [Deliver(B, N), Send((A, C), tagged(N))])
        self.assert_eager(A, C)
        self.assertEqual(self.received(A, tagged(N)), [])
        self.assert_eager(A, C)

    def test_first_copy_by_a_pruned_link_brings_it_back_a_second_later(self) -> None:
        """The PRUNE has come by then: the peer has changed its mind.  PLT-004"""
        self.received(A, tagged(M))
        self.received(B, tagged(M))
        self.advance(1)
        self.assertEqual(self.received(B, tagged(N)), [Deliver(B, N), Send((A,), tagged(N))])
        self.assert_eager(A, B)

    def test_answer_to_a_pull_says_that_the_link_is_eager(self) -> None:
        """The pull has overtaken nothing: it was sent after the PRUNE.  PLT-005.2"""
        self.received(A, tagged(M))
        self.received(B, tagged(M))
        self.control(B, tell(N))
        self.assertIn(Send((B,), pull(N)), self.advance(0.6))
        self.answer(A, B, C, D)
        effects = self.received(B, tagged(N))
        self.assertEqual(effects[:2], [Deliver(B, N), Send((A,), tagged(N))])
        self.assertNotIn(Send((B,), tree_graft()), effects)
        self.assert_eager(A, B)

    def test_one_message_cuts_at_a_time(self) -> None:
        """Two in flight would cut each ring in two places.  PLT-004.1"""
        messages = map(attestation, map(str, range(99)))
        one, other = [m for m in messages if message_hash(m)[0] < 0x40][:2]  # by hash, both may
        self.control(C, tree_graft())
        self.received(A, tagged(one))
        self.received(A, tagged(other))
        self.assertEqual(self.received(B, tagged(other)), [])
        self.assertEqual(self.received(B, tagged(one)), [Send((B,), tree_prune())])
        self.assert_eager(A, C)

    def test_only_link_is_never_pruned(self) -> None:
        """Or nothing would come any more.  PLT-004.1"""
        self.control(B, tree_prune())
        self.broadcast(M)
        self.assertEqual(self.received(A, tagged(M)), [])
        self.assert_eager(A)

    def test_copy_of_our_own_message_prunes(self) -> None:
        """It came back around a ring.  PLT-004.1"""
        self.assertIn(Send((A, B), tagged(M, TAG + 1)), self.broadcast(M).effects)
        self.assertEqual(self.received(B, tagged(M, TAG + 1)), [Send((B,), tree_prune(TAG + 1))])

    def test_copy_in_a_tree_that_was_refused_is_pruned(self) -> None:
        """The table is full; the sender need not send it in that tree.  PLT-004.1"""
        for tag in range(1000, 1000 + MAX_TREES):
            self.control(C, opening(tag))
        self.received(A, tagged(M, 9))
        self.assertEqual(self.received(B, tagged(M, 9)), [Send((B,), tree_prune(9))])

    def test_prune_makes_the_link_lazy(self) -> None:
        """In this tree; one for an unknown tree or a lazy link is nothing.  PLT-004.2"""
        self.assertEqual(self.control(B, tree_prune()), [])
        self.assertEqual(self.control(B, tree_prune()), [])
        self.assertEqual(self.control(B, tree_prune(9)), [])
        self.assertEqual(self.received(A, tagged(M)), [Deliver(A, M)])
        self.assert_eager(A, B, tag=TAG + 1)
        self.assertEqual(self.engine.counters.prunes_received, 3)


class HangingTests(TreesCase):
    """A tree whose last link is gone hangs on another one."""

    def setUp(self) -> None:
        super().setUp()
        self.hang_on(A, distance_ms=100)  # which makes 110 ms from here

    def test_it_hangs_on_a_peer_that_is_nearer_to_the_root(self) -> None:
        """That one cannot hang on us, however much farther it is than others.  design D6"""
        self.control(B, opening(TAG, 110))
        self.control(D, opening(TAG, 109))
        self.assertEqual(self.control(A, tree_prune()), [Send((D,), tree_graft())])
        self.assert_eager(D)

    def test_without_one_it_hangs_on_the_nearest(self) -> None:
        """Of those who told of it; else of all. Never on the one that left.  design D6"""
        self.control(C, opening(TAG, 110))
        self.assertEqual(self.control(A, tree_prune())[1:], [Send((C,), tree_graft())])
        self.assertEqual(self.peer_down(C), [Send((A,), tree_graft())])
        self.assertEqual(self.control(A, tree_prune()), [Send((B,), tree_graft())])

    def test_who_has_no_way_to_the_root_says_so_once(self) -> None:
        """Whoever hangs on it has to know; a graft does not take it back.  PLT-006"""
        self.control(B, tree_graft())
        self.control(C, opening(TAG, 200))
        self.assertEqual(self.peer_down(A), [Send((B, C, D), NO_WAY), Send((C,), tree_graft())])
        self.assertEqual(self.peer_down(C), [Send((D,), tree_graft())])

    def test_nobody_joins_a_tree_at_one_who_has_no_way(self) -> None:
        """It may not have heard of the tree before.  PLT-006"""
        self.assertEqual(self.control(B, opening(9, MAX_DISTANCE_MS)), [])
        self.assertIsNone(self.engine._tagged.get(9))

    def test_no_way_is_said_once_in_ten_seconds(self) -> None:
        """However often it is found and lost.  D14"""
        said = 0
        for _ in range(4):
            self.control(B, opening(TAG, 50))
            for _ in range(4):
                parent = self.tree().parent
                if parent is None:
                    break
                effects = self.control(parent, NO_WAY)
                said += any(isinstance(e, Send) and e.message == NO_WAY for e in effects)
            self.advance(4)
        self.assertEqual(said, 2)

    def test_who_hangs_on_one_without_a_way_hangs_on_another_one(self) -> None:
        """Both links stay: the first one may need us.  PLT-006"""
        self.control(D, opening(TAG, 90))
        self.assertEqual(self.control(B, NO_WAY), [])  # we do not hang on it
        self.assertEqual(self.control(A, NO_WAY), [Send((D,), tree_graft())])
        self.assert_eager(A, D)
        self.assertEqual(self.control(A, NO_WAY), [])

    def test_no_way_is_passed_on_by_who_has_no_other(self) -> None:
        """All in a part of the tree that is cut off look for a way.  PLT-006"""
        self.assertEqual(
            self.control(A, NO_WAY), [Send((A, B, C, D), NO_WAY), Send((B,), tree_graft())]
        )
        self.broadcast(M)
        self.assertEqual(self.engine._seen.get(message_hash(M)).tag, None)  # type: ignore[union-attr]

    def test_way_that_is_found_again_counts(self) -> None:
        """The next opening of the tree says how far it is.  design D6"""
        self.control(A, NO_WAY)
        self.control(C, opening(TAG, 50))
        self.broadcast(M)
        self.assertEqual(self.engine._seen.get(message_hash(M)).tag, TAG)  # type: ignore[union-attr]

    def test_lost_parent_is_replaced_though_others_hang_on_us(self) -> None:
        """They expect messages from us, not we from them.  PLT-006"""
        self.control(B, tree_graft())
        self.control(C, opening(TAG, 50))
        self.assertEqual(self.peer_down(A), [Send((C,), tree_graft())])
        self.assert_eager(B, C)

    def test_lost_child_is_not_replaced(self) -> None:
        """The parent is there.  PLT-006"""
        self.control(B, tree_graft())
        self.assertEqual(self.peer_down(B), [])
        self.assert_eager(A)

    def test_last_peer_leaves_a_tree_that_hangs_on_nobody(self) -> None:
        """Whoever comes next may take part in it.  PLT-006"""
        for peer in (B, C, D, A):
            self.peer_down(peer)
        self.assert_eager()
        self.peer_up(E, mode=TREES)
        self.assertEqual(self.received(E, tagged(M)), [Deliver(E, M)])
        self.assert_eager(E)

    def test_other_mode_is_another_session(self) -> None:
        """A peer that turns out not to have trees leaves them.  D5"""
        table = {peer: (TREE if peer == A else TREES, True) for peer in (A, B, C, D)}
        self.assertEqual(
            self.engine.reconcile(table)[:2],
            [Send((B, C, D), NO_WAY), Send((B,), tree_graft())],
        )
        self.assert_eager(B)
        self.assertEqual(self.control(A, tree_graft()), [])
        self.assert_eager(B)

    def test_session_that_was_missing_is_told_first_or_second(self) -> None:
        """As both its ends have found out.  PLT-107-X, design D6"""
        self.hang_on(A)
        self.done(self.engine.reconcile({peer: (TREES, peer != E) for peer in (A, B, C, D, E)}))
        self.received(A, tagged(M))
        self.assertEqual(self.advance(0.05), [Send((B, C, D), tell(M))])
        self.assertEqual(self.advance(0.25), [Send((E,), tell(M))])


class ControlTests(TreesCase):
    """Frames that do not fit, and frames from strangers."""

    def test_malformed_frames_are_charged(self) -> None:
        """Whatever the opcode.  PLT-009"""
        charge = [Penalize(A, PenaltyReason.MALFORMED_MESSAGE)]
        for cls, data in (
            (TreeOpen, b"\0\0\0\1"),
            (TreeOpen, b"\0\1\0"),
            (TreeAnnounce, bytes(7)),
            (TreeAnnounce, bytes(8 * 129)),
            (TreePrune, bytes(2)),
            (TreePrune, bytes(8)),
            (TreeGraft, bytes(2)),
            (TreeGraft, bytes(32)),
        ):
            self.assertEqual(self.control(A, Message(cls.OPCODE, None, data)), charge)

    def test_frames_of_peers_without_trees_are_ignored(self) -> None:
        """They are not charged either: they cannot know.  D5"""
        self.hang_on(A)
        self.received(A, tagged(M))
        self.peer_up(E)
        self.peer_up(F, mode=FLOOD)
        for peer in (E, F, peer_id("stranger")):
            for frame in (
                opening(5),
                tell(N),
                tree_graft(),
                tree_prune(),
                pull(M),
                Message(TreeOpen.OPCODE, None, b""),
            ):
                self.assertEqual(self.control(peer, frame), [])
        self.assert_eager(A)
        snapshot = self.engine.snapshot()
        self.assertEqual((snapshot.trees, snapshot.missing), (1, 0))

    def test_unknown_frames_are_ignored(self) -> None:
        """Between ours and whatever comes.  MSG-102-X"""
        for opcode in (218, 246, 254):
            self.assertEqual(self.control(A, Message(opcode, None, bytes(8))), [])
