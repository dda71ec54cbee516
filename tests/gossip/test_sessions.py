"""Sessions of three kinds, broadcasts, and validators."""

from __future__ import annotations

from dig_gossip.effects import Deliver, HoldReading, ReleaseReading, Send, Validate
from dig_gossip.gossip.outside import MAX_KNOWN_HASHES
from dig_gossip.gossip.validation import HOLD_AT, MAX_PENDING_PER_PEER
from dig_gossip.gossip.values import Verdict
from dig_gossip.wire.message import Message, message_hash
from tests.gossip.engine_case import (
    CHIA,
    FLOOD,
    PRUNE,
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
    peak,
    pulled,
    request,
)

M = peak("M")


class MixedCase(EngineCase):
    """Two tree peers, two flooded ones, two plain Chia ones."""

    def setUp(self) -> None:
        super().setUp()
        self.peer_up(A, B)
        self.peer_up(C, D, mode=FLOOD)
        self.peer_up(E, F, mode=CHIA)


class ModeTests(MixedCase):
    """Who gets what."""

    def test_broadcast_reaches_everybody(self) -> None:
        """In one effect, so that it is encoded once.  D6"""
        self.assertEqual(self.broadcast(M).effects, [Send((A, B, C, D, E, F), M)])

    def test_dig_messages_never_reach_chia(self) -> None:
        """Nor what a Chia node did not ask for.  D5"""
        for message in (attestation("M"), Message(27, None, b"block")):
            self.assertEqual(self.broadcast(message).effects, [Send((A, B, C, D), message)])

    def test_forwarding_reaches_dig_sessions_only(self) -> None:
        """From the tree, and from a flooded session.  D6"""
        self.assertEqual(self.received(A, M), [Deliver(A, M), Send((B, C, D), M)])
        other = peak("N")
        self.assertEqual(self.received(C, other), [Deliver(C, other), Send((A, B, D), other)])

    def test_message_of_a_chia_session_is_only_delivered(self) -> None:
        """It goes on when the application says so.  D6"""
        self.assertEqual(self.received(E, M), [Deliver(E, M)])
        self.assertEqual(self.broadcast(M).effects, [Send((A, B, C, D, F), M)])

    def test_message_of_two_chia_sessions_is_delivered_once(self) -> None:
        """And neither is sent it.  D6"""
        self.received(E, M)
        self.assertEqual(self.received(F, M), [])
        self.assertEqual(self.broadcast(M).effects, [Send((A, B, C, D), M)])

    def test_message_that_chia_sent_first_is_forwarded_for_the_tree(self) -> None:
        """But not delivered again.  D6"""
        for sender, expected in ((A, (B, C, D)), (C, (A, B, D))):
            message = peak(sender.hex())
            self.received(E, message)
            self.assertEqual(self.received(sender, message), [Send(expected, message)])
            self.assertEqual(self.received(F, message), [])

    def test_tree_copy_of_a_chia_message_counts_as_its_source(self) -> None:
        """A second tree copy shows a ring.  PLT-004.1"""
        self.received(E, M)
        self.received(A, M)
        self.assertEqual(self.received(B, M), [Send((B,), PRUNE)])

    def test_message_that_chia_sent_is_still_missing_in_the_tree(self) -> None:
        """Others depend on our copy from there.  D6"""
        self.make_lazy(B)
        self.received(E, M)
        self.control(B, announce(M))
        self.assertEqual(self.advance(0.5), [Send((B,), graft(M))])

    def test_nothing_is_sent_twice_outside_the_tree(self) -> None:
        """Neither to who sent it, nor to who got it before.  D6"""
        self.received(C, M)
        self.received(E, M)
        self.assertEqual(self.broadcast(M).effects, [Send((F,), M)])
        self.assertEqual(self.broadcast(M).effects, [])

    def test_duplicates_outside_the_tree_are_ignored(self) -> None:
        """No PRUNE goes there.  D5"""
        self.received(A, M)
        for peer in (C, D, E):
            self.assertEqual(self.received(peer, M), [])
        self.assertEqual(self.engine.counters.duplicates, 3)

    def test_no_control_frame_leaves_the_tree(self) -> None:
        """Announcements go to lazy tree peers only.  D5"""
        self.make_lazy(B)
        self.broadcast(M)
        self.assert_told(self.advance(2), {B: [M]})

    def test_control_frames_from_outside_are_ignored(self) -> None:
        """Pulls, too.  D5"""
        self.received(A, M)
        for peer in (C, E):
            for message in (request(M), graft(M), announce(attestation("N")), PRUNE):
                self.assertEqual(self.control(peer, message), [])
        self.assertEqual(self.engine.snapshot().missing, 0)

    def test_what_an_outsider_knows_is_bounded(self) -> None:
        """The oldest of more than 4096 messages may be sent again.  D6"""
        self.build(max_seen=10_000)
        self.peer_up(E, mode=CHIA)
        for number in range(MAX_KNOWN_HASHES + 1):
            self.received(E, peak(str(number)))
        self.assertEqual(self.broadcast(peak("1")).effects, [])
        self.assertEqual(self.broadcast(peak("0")).effects, [Send((E,), peak("0"))])

    def test_changed_mode_keeps_what_is_known(self) -> None:
        """A Chia session that turns out to tolerate DIG opcodes.  D5"""
        self.received(E, M)
        self.peer_up(E, mode=FLOOD)
        self.assertEqual(self.received(A, M), [Send((B, C, D), M)])


class BroadcastTests(MixedCase):
    """What the application repeats."""

    def test_forwarded_message_goes_to_chia_only(self) -> None:
        """An application that broadcasts what it got reaches who lacks it.  D6"""
        self.received(A, M)
        result = self.broadcast(M)
        self.assertEqual((result.effects, result.announced), ([Send((E, F), M)], 0))
        self.assertEqual(self.broadcast(M).effects, [])

    def test_excluded_chia_session_gets_nothing(self) -> None:
        """It is where the message came from.  D6"""
        self.received(A, M)
        self.assertEqual(self.broadcast(M, exclude=E).effects, [Send((F,), M)])
        other = peak("N")
        self.assertEqual(self.broadcast(other, exclude=C).effects, [Send((A, B, D, E, F), other)])

    def test_repetition_with_exclude_reaches_nobody(self) -> None:
        """It has been disseminated.  PLT-102-X"""
        self.broadcast(M)
        result = self.broadcast(M, exclude=A)
        self.assertEqual((result.effects, result.announced), ([], 0))

    def test_repetition_is_announced(self) -> None:
        """In full to who joined since, as a hash to the others, both counted.  PLT-102-X"""
        self.make_lazy(B)
        self.broadcast(M)
        self.advance(1)
        new, flooded, plain = (D, F, C)
        for peer in (C, D, F):
            self.peer_down(peer)
        self.peer_up(new)
        self.peer_up(flooded, mode=FLOOD)
        self.peer_up(plain, mode=CHIA)
        result = self.broadcast(M)
        self.assertEqual(
            result.effects, [Send((new, flooded, plain), M), Send((A, B), announce(M))]
        )
        self.assertEqual(result.announced, 2)
        result = self.broadcast(M)
        self.assertEqual(result.effects, [Send((A, B, new), announce(M))])
        self.assertEqual(result.announced, 3)

    def test_repetition_can_be_pulled_again(self) -> None:
        """It is kept for another minute.  PLT-102-X"""
        self.broadcast(M)
        self.advance(50)
        self.broadcast(M)
        self.advance(50)
        self.assertEqual(self.control(A, request(M)), [pulled(A, M)])

    def test_first_broadcast_without_peers_poisons_nothing(self) -> None:
        """Whoever joins later gets it in full.  PLT-102-X"""
        self.build()
        self.assertEqual(self.broadcast(M).effects, [])
        self.peer_up(A)
        self.peer_up(E, mode=CHIA)
        result = self.broadcast(M)
        self.assertEqual((result.effects, result.announced), ([Send((A, E), M)], 0))

    def test_announcements_are_counted(self) -> None:
        """Lazy peers that are due to be told, now or in the second wave.  PLT-105-X"""
        self.make_lazy(B)
        self.control(B, announce(peak("N")))
        self.assertEqual(self.broadcast(M).announced, 1)
        self.assertEqual(self.broadcast(peak("N")).announced, 0)


class ValidationTests(MixedCase):
    """A validator is asked first."""

    def test_pending_message_goes_nowhere(self) -> None:
        """Neither to the application nor to a peer; it counts as seen.  PLT-104-X"""
        self.assertEqual(self.received(A, M, True), [Validate(A, M, message_hash(M))])
        self.assertEqual(self.advance(2), [])
        self.assertEqual(self.engine.snapshot().pending, 1)
        self.assertEqual(self.control(B, request(M)), [])
        self.assertEqual(self.received(C, M, True), [])

    def test_accepted_message_is_delivered_and_forwarded(self) -> None:
        """To all who are not known to have it by then.  PLT-104-X"""
        self.received(A, M, True)
        self.received(C, M, True)
        self.control(B, announce(M))
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [Deliver(A, M), Send((D,), M)])
        self.assertEqual(self.engine.snapshot().pending, 0)

    def test_refused_message_goes_nowhere(self) -> None:
        """Not now, not from somebody else, and it cannot be pulled.  PLT-104-X"""
        self.make_lazy(B)
        for verdict in (Verdict.IGNORE, Verdict.REJECT):
            message = peak(verdict.value)
            self.received(A, message, True)
            self.assertEqual(self.validated(message, verdict), [])
            self.assertEqual(self.advance(2), [])
            self.assertEqual(self.received(C, message, True), [])
            self.assertEqual(self.control(B, request(message)), [])
        self.assertEqual(self.engine.counters.refused, 2)

    def test_late_verdict_changes_nothing(self) -> None:
        """Nor one that nobody asked for.  PLT-104-X"""
        self.received(A, M, True)
        self.validated(M, Verdict.IGNORE)
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [])
        self.assertEqual(self.validated(peak("N"), Verdict.ACCEPT), [])

    def test_sender_is_promoted_at_once(self) -> None:
        """The link does not depend on the verdict.  PLT-104-X"""
        self.make_lazy(B)
        self.received(B, M, True)
        self.assert_roles({A, B}, set())

    def test_duplicate_prunes_while_pending(self) -> None:
        """The ring is there, whatever the verdict.  PLT-104-X"""
        self.received(A, M, True)
        self.assertEqual(self.received(B, M, True), [Send((B,), PRUNE)])

    def test_accepted_chia_message_is_only_delivered(self) -> None:
        """As without a validator.  D6"""
        self.assertEqual(self.received(E, M, True), [Validate(E, M, message_hash(M))])
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [Deliver(E, M)])
        self.assertEqual(self.received(A, M, True), [Send((B, C, D), M)])

    def test_chia_message_that_comes_by_the_tree_while_pending(self) -> None:
        """One verdict, one delivery, and it is forwarded.  D6"""
        for sender, others in ((A, (B, C, D)), (C, (A, B, D))):
            message = peak(sender.hex())
            self.received(E, message, True)
            self.assertEqual(self.received(sender, message, True), [])
            effects = self.validated(message, Verdict.ACCEPT)
            self.assertEqual(effects, [Deliver(E, message), Send(others, message)])

    def test_broadcast_is_a_verdict(self) -> None:
        """An application that broadcasts a message accepts it, and has it.  PLT-104-X"""
        self.received(A, M, True)
        self.assertEqual(self.broadcast(M).effects, [Send((B, C, D, E, F), M)])
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [])
        self.assertEqual(self.engine.snapshot().pending, 0)

    def test_refused_message_can_still_be_broadcast(self) -> None:
        """The application knows better than its validator.  PLT-104-X"""
        self.received(A, M, True)
        self.validated(M, Verdict.IGNORE)
        self.assertEqual(self.broadcast(M).effects, [Send((A, B, C, D, E, F), M)])

    def test_pending_messages_of_a_session_are_bounded(self) -> None:
        """The excess is dropped unseen: others can still bring it.  PLT-104-X"""
        for peer, other in ((A, B), (C, D), (E, F)):
            texts = [f"{peer.hex()} {number}" for number in range(MAX_PENDING_PER_PEER)]
            effects = [self.received(peer, peak(text), True)[-1] for text in texts]
            self.assertTrue(all(isinstance(effect, Validate) for effect in effects))
            self.assertEqual(self.received(peer, peak(peer.hex()), True), [])
            self.assertEqual(len(self.received(other, peak(peer.hex()), True)), 1)
            for text in texts:
                self.validated(peak(text), Verdict.ACCEPT)
            self.assertEqual(len(self.received(peer, peak("again" + peer.hex()), True)), 1)
        self.assertEqual(self.engine.counters.validations_dropped, 3)

    def test_reading_from_a_busy_session_is_held(self) -> None:
        """From 1000 messages that wait, until 500 are left; once each way.  BP-104-X"""
        for peer in (A, C, E):
            texts = [f"{peer.hex()} {number}" for number in range(HOLD_AT + 5)]
            effects = [effect for text in texts for effect in self.received(peer, peak(text), True)]
            holds = [effect for effect in effects if isinstance(effect, HoldReading)]
            self.assertEqual(holds, [HoldReading(peer)])
            self.assertEqual(effects.index(holds[0]), HOLD_AT - 1)
            released = []
            for number, text in enumerate(texts):
                for effect in self.validated(peak(text), list(Verdict)[number % 3]):
                    if isinstance(effect, ReleaseReading):
                        released.append((number, effect))
            self.assertEqual(released, [(504, ReleaseReading(peer))])

    def test_a_session_that_changes_or_ends_is_not_held_for_ever(self) -> None:
        """Nor is a session that follows it.  BP-104-X"""
        for peer in (A, C, E):
            for number in range(HOLD_AT):
                self.received(peer, peak(f"{peer.hex()} {number}"), True)
            self.assertIn(ReleaseReading(peer), self.peer_down(peer))
            self.assertNotIn(ReleaseReading(peer), self.peer_down(peer))

    def test_broadcasting_what_waits_releases_too(self) -> None:
        """It is a verdict as any other.  BP-104-X"""
        for number in range(HOLD_AT):
            self.received(A, peak(f"{number}"), True)
        effects = [e for n in range(500) for e in self.broadcast(peak(f"{n}")).effects]
        self.assertEqual(effects.count(ReleaseReading(A)), 1)

    def test_pending_bytes_are_bounded(self) -> None:
        """All together take no more than the cache, but for a single message.  PLT-104-X"""
        self.build(cache_bytes=65_536)
        self.peer_up(A)
        first = Message(200, None, bytes(100_000))
        hold, validate = self.received(A, first, True)
        self.assertEqual(hold, HoldReading(A))
        self.assertIsInstance(validate, Validate)
        self.assertEqual(self.received(A, M, True), [])
        self.assertEqual(self.validated(first, Verdict.REJECT), [ReleaseReading(A)])
        self.assertEqual(len(self.received(A, M, True)), 1)

    def test_message_forgotten_while_pending_is_asked_for_once_more(self) -> None:
        """A seen set that is too small costs work, not memory.  PLT-104-X"""
        self.build(max_seen=1)
        self.peer_up(A)
        self.received(A, M, True)
        self.received(A, peak("N"), True)
        self.received(A, M, True)
        self.assertEqual(self.engine.snapshot().pending, 2)
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [Deliver(A, M)])
        self.assertEqual(self.validated(M, Verdict.ACCEPT), [])
