"""The stem engine: relays, edges, embargoes, bounds, and what hostile peers try."""

from __future__ import annotations

import math
from collections import Counter
from hashlib import sha256
from random import Random
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import (
    ClearTimer,
    Deliver,
    Effect,
    Penalize,
    Send,
    SetTimer,
    Spread,
    TimerKey,
)
from dig_gossip.privacy import dandelion
from dig_gossip.privacy.dandelion import Dandelion
from dig_gossip.types.config import DandelionConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.stem import StemTransaction
from tests.gossip.engine_case import A, B, C, D, E, peer_id


def stem(name: str, size: int = 100) -> StemTransaction:
    """A transaction on its stem."""
    payload = name.encode().ljust(size, b".")
    return StemTransaction(sha256(payload).digest() + bytes(16), payload)


def framed(body: StemTransaction) -> Message:
    """As it crosses a link."""
    return Message(213, None, bytes(body))


def announcement(body: StemTransaction) -> Message:
    """What ends a stem."""
    return Message(21, None, body.announcement)


def transaction(body: StemTransaction) -> Message:
    """What the application gets."""
    return Message(23, None, body.payload)


T = stem("T")


class DandelionCase(SynchronousTestCase):
    """One engine, a clock, and its timers."""

    def setUp(self) -> None:
        self.time = 1000.0
        self.timers: dict[TimerKey, float] = {}
        self.build()

    def build(
        self, *relays: PeerId, seed: int = 1, fluff_probability: float = 0.0, **config: float
    ) -> None:
        """Make the engine anew."""
        self.timers.clear()
        self.engine = Dandelion(
            DandelionConfig(fluff_probability=fluff_probability, **config),  # type: ignore[arg-type]
            now=lambda: self.time,
            rng=Random(seed),
        )
        for relay in relays:
            self.engine.peer_up(relay)

    def done(self, effects: list[Effect]) -> list[Effect]:
        """Keep the timers among some effects; return the others."""
        rest: list[Effect] = []
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timers[effect.key] = self.time + effect.delay
            elif isinstance(effect, ClearTimer):
                self.timers.pop(effect.key, None)
            else:
                rest.append(effect)
        return rest

    def advance(self, seconds: float = math.inf) -> list[Effect]:
        """Let time pass; what the timers did. Without a number: until none is left."""
        end = self.time + seconds
        effects = []
        while self.timers and min(self.timers.values()) <= end:
            key = min(self.timers, key=lambda key: self.timers[key])
            self.time = self.timers.pop(key)
            effects += self.done(self.engine.timer_fired(key))
        self.time = end if math.isfinite(end) else self.time
        return effects

    def submit(self, body: StemTransaction = T) -> list[Effect]:
        return self.done(self.engine.submit(body))

    def received(self, peer: PeerId, body: StemTransaction = T) -> list[Effect]:
        return self.done(self.engine.received(peer, framed(body)))

    def announced(self, body: StemTransaction = T) -> list[Effect]:
        return self.done(self.engine.announced(body.tx_id))

    def relay(self, effects: list[Effect]) -> PeerId:
        """To whom the only effect sends a stem."""
        (send,) = effects
        assert isinstance(send, Send), send
        self.assertEqual(send.message.type, 213)
        (peer,) = send.peers
        return peer

    def counter(self, name: str) -> int:
        return self.engine.snapshot().counters[name]

    def stems(self) -> int:
        return len(self.engine.snapshot().stems)


class OwnTests(DandelionCase):
    """Transactions of our own."""

    def test_exactly_one_relay_gets_it(self) -> None:
        """And nobody else hears of it.  PRV-002"""
        self.build(A, B, C)
        (send,) = self.submit()
        assert isinstance(send, Send)
        self.assertEqual(send.message, framed(T))
        self.assertEqual(len(send.peers), 1)
        self.assertTrue(self.engine.is_stem_only(T.tx_id))

    def test_never_fluffed_by_its_origin(self) -> None:
        """The coin is for those who pass it on.  PRV-003"""
        self.build(A, fluff_probability=1.0)
        self.assertEqual(self.relay(self.submit()), A)

    def test_without_a_relay_it_is_announced(self) -> None:
        """A stem needs somebody.  PRV-005"""
        self.assertEqual(self.submit(), [Spread(announcement(T))])
        self.assertFalse(self.engine.is_stem_only(T.tx_id))
        self.assertEqual(self.timers, {})

    def test_submitting_again_changes_nothing(self) -> None:
        """On its stem it stays; once public it is announced again.  PRV-002"""
        self.build(A)
        self.submit()
        self.assertEqual(self.submit(), [])
        self.announced()
        self.advance()
        self.assertEqual(self.submit(), [Spread(announcement(T))])

    def test_embargo_announces_it(self) -> None:
        """A black hole delays a transaction, no more; the application has it.  PRV-004"""
        self.build(A)
        self.submit()
        self.assertEqual(self.advance(), [Spread(announcement(T))])
        self.assertEqual(self.counter("fluff_embargo"), 1)
        self.assertFalse(self.engine.is_stem_only(T.tx_id))
        self.assertEqual(self.engine.timer_fired(("dandelion.embargo", T.tx_id)), [])

    def test_embargo_is_exponential(self) -> None:
        """Mean stem_timeout_secs, the same whoever waits.  PRV-004, design D10"""
        self.build(A, stem_timeout_secs=30)
        delays = []
        for number in range(4000):
            self.submit(body := stem(f"{number}"))
            delays.append(self.timers[("dandelion.embargo", body.tx_id)] - self.time)
            self.announced(body)
            self.advance()
        self.assertLess(abs(sum(delays) / 4000 - 30), 1.5)
        beyond = sum(delay > 30 for delay in delays) / 4000
        self.assertLess(abs(beyond - math.exp(-1)), 0.03)

    def test_announcement_of_others_ends_the_embargo(self) -> None:
        """It rests for a moment, then nothing is left.  PRV-004"""
        self.build(A)
        self.submit()
        self.assertEqual(self.announced(), [])
        self.assertTrue(self.engine.is_stem_only(T.tx_id))
        self.assertEqual(self.announced(), [])
        self.assertEqual(self.advance(), [])
        self.assertFalse(self.engine.is_stem_only(T.tx_id))
        self.assertEqual(self.counter("stem_public"), 1)
        self.assertEqual((self.stems(), self.engine.snapshot().stem_bytes), (0, 0))

    def test_shutting_down_announces_our_own(self) -> None:
        """Nobody waits for them any more; others' are others' business.  behaviour §32"""
        self.build(A, B, D, E)
        self.submit()
        self.received(C, stem("foreign"))
        self.submit(stem("public"))
        self.announced(stem("public"))
        self.assertEqual(self.done(self.engine.shut_down()), [Spread(announcement(T))])


class ForeignTests(DandelionCase):
    """Transactions of others."""

    def test_passed_on_to_somebody_else(self) -> None:
        """Never back, not even if there is nobody else.  PRV-002.1"""
        for seed in range(20):
            self.build(A, B, seed=seed)
            self.assertEqual(self.relay(self.received(A)), B)
        self.build(A)
        self.assertEqual(self.received(A), [Deliver(A, transaction(T)), Spread(announcement(T))])
        self.assertEqual(self.counter("fluff_no_relay"), 1)

    def test_fluffed_by_the_coin(self) -> None:
        """Given to the application first, then announced.  PRV-003"""
        self.build(C, fluff_probability=1.0)
        self.assertEqual(self.received(C), [Deliver(C, transaction(T)), Spread(announcement(T))])
        self.assertEqual((self.counter("fluffed"), self.timers), (1, {}))

    def test_coin_is_tossed_for_each(self) -> None:
        """A tenth, by default.  PRV-003"""
        self.build(A, B, fluff_probability=0.1)
        fluffed = 0
        for number in range(3000):
            effects = self.received(C, body := stem(f"{number}"))
            fluffed += isinstance(effects[0], Deliver)
            self.announced(body)
            self.advance()
        self.assertLess(abs(fluffed / 3000 - 0.1), 0.02)

    def test_here_already_or_public_is_ignored(self) -> None:
        """Silently: an answer would tell that it has been here.  PRV-002.1"""
        self.build(A, B)
        self.received(C)
        for peer in (A, B, C, D):
            self.assertEqual(self.received(peer), [])
        self.announced()
        self.assertEqual(self.received(D), [])
        self.advance()
        self.assertEqual(self.received(D), [])
        self.assertEqual(self.counter("stem_ignored"), 6)

    def test_our_own_that_comes_back_is_ignored(self) -> None:
        """A loop looks like any transaction that is passed on.  PRV-002.1"""
        self.build(A, B, fluff_probability=1.0)
        self.submit()
        self.assertEqual(self.received(C), [])
        self.assertEqual(self.stems(), 1)

    def test_embargo_gives_it_to_the_application(self) -> None:
        """Before others ask.  PRV-004"""
        self.build(A)
        self.received(C)
        self.assertEqual(self.advance(), [Deliver(C, transaction(T)), Spread(announcement(T))])

    def test_announced_by_others_it_is_delivered_a_moment_later(self) -> None:
        """A relay may announce what it swallowed; then only stems have it.  PRV-004"""
        self.build(A)
        self.received(C)
        self.assertEqual(self.announced(), [])
        self.assertTrue(self.engine.is_stem_only(T.tx_id))
        self.assertEqual(self.advance(), [Deliver(C, transaction(T))])
        self.assertFalse(self.engine.is_stem_only(T.tx_id))

    def test_undecodable(self) -> None:
        """Is charged.  MSG-102-X"""
        effects = self.engine.received(A, Message(213, None, b"?"))
        self.assertEqual(effects, [Penalize(A, PenaltyReason.MALFORMED_MESSAGE)])


class HeraldTests(DandelionCase):
    """Who ends a stem tells one peer first."""

    def heralded(self, *peers: PeerId) -> PeerId:
        """End the stem of T, which came from A, and return the only one who was told."""
        self.build(A, *peers, fluff_probability=1.0)
        delivery, send = self.received(A)
        self.assertEqual(delivery, Deliver(A, transaction(T)))
        assert isinstance(send, Send), send
        self.assertEqual(send.message, announcement(T))
        (herald,) = send.peers
        return herald

    def test_everybody_is_told_when_others_announce_it(self) -> None:
        """As all nodes do that hear of a transaction; once.  PRV-003"""
        self.heralded(B, C)
        self.assertTrue(self.engine.is_heralded(T.tx_id))
        self.assertFalse(self.engine.is_stem_only(T.tx_id))
        self.assertEqual(self.announced(), [Spread(announcement(T))])
        self.assertFalse(self.engine.is_heralded(T.tx_id))
        self.assertEqual((self.announced(), self.advance(), self.timers), ([], [], {}))
        self.assertEqual((self.counter("fluff_heralded"), self.counter("fluff_unheard")), (1, 0))

    def test_a_herald_that_says_nothing_is_not_waited_for(self) -> None:
        """Two to four seconds.  PRV-003"""
        self.heralded(B, C)
        self.assertEqual(self.advance(2.0), [])
        self.assertEqual(self.advance(2.0), [Spread(announcement(T))])
        self.assertEqual((self.counter("fluff_unheard"), self.announced()), (1, []))
        self.assertEqual(self.done(self.engine.timer_fired((dandelion.HERALD, T.tx_id))), [])

    def test_heralds_are_drawn_for_each_transaction(self) -> None:
        """Never who sent it.  PRV-003"""
        self.build(A, B, C, D, fluff_probability=1.0)
        drawn: Counter[PeerId] = Counter()
        for number in range(300):
            _delivery, send = self.received(A, stem(f"{number}"))
            assert isinstance(send, Send), send
            drawn[send.peers[0]] += 1
        self.assertEqual(set(drawn), {B, C, D})
        self.assertGreater(min(drawn.values()), 60)

    def test_a_relay_is_no_herald(self) -> None:
        """It may be what swallowed the transaction.  PRV-003, PRV-004"""
        for seed in range(20):
            self.build(A, B, C, seed=seed)
            relay = self.relay(self.submit())
            relays = self.engine.snapshot().relays
            self.assertIn(relay, relays)
            (send,) = self.done(self.engine.timer_fired(("dandelion.embargo", T.tx_id)))
            assert isinstance(send, Send), send
            self.assertEqual({send.peers[0], *relays}, {A, B, C})

    def test_without_anybody_else_everybody_is_told(self) -> None:
        """Only who sent it is there.  PRV-003"""
        self.build(A, fluff_probability=1.0)
        self.assertEqual(self.received(A), [Deliver(A, transaction(T)), Spread(announcement(T))])

    def test_here_already(self) -> None:
        """Submitted again, or received again: the herald knows it, nobody else is told.  PRV-002"""
        self.heralded(B, C)
        self.assertEqual((self.submit(), self.received(B)), ([], []))

    def test_shutting_down_tells_everybody(self) -> None:
        """Nobody is here later to do it.  behaviour §32"""
        self.heralded(B, C)
        other = stem("own")
        self.submit(other)
        effects = self.done(self.engine.shut_down())
        spread = [effect for effect in effects if isinstance(effect, Spread)]
        self.assertEqual(
            {effect.message.data for effect in spread}, {T.announcement, other.announcement}
        )
        self.assertEqual(self.timers, {})

    def test_a_thousand_at_most(self) -> None:
        """What is beyond is announced to everybody at once.  D14"""
        self.build(A, B, fluff_probability=1.0)
        for number in range(1000):
            self.received(A, stem(f"{number}"))
        self.assertEqual(self.received(A)[1:], [Spread(announcement(T))])


class RelayTests(DandelionCase):
    """Who is a relay, for whom, for how long."""

    def send(self, source: PeerId | None, name: str) -> PeerId:
        body = stem(name)
        return self.relay(self.submit(body) if source is None else self.received(source, body))

    def test_two_relays_and_one_for_each_edge(self) -> None:
        """For a whole epoch, whatever comes along the edge.  PRV-005, design D10"""
        relays = [peer_id(f"relay {number}") for number in range(8)]
        self.build(*relays)
        sources = [None, *(peer_id(f"source {number}") for number in range(30))]
        used: dict[PeerId | None, set[PeerId]] = {source: set() for source in sources}
        self.time += 600  # the first epoch is cut short at random
        for turn in range(5):
            for number, source in enumerate(sources):
                used[source].add(self.send(source, f"{turn} {number}"))
        self.assertEqual({len(peers) for peers in used.values()}, {1})
        self.assertEqual(len(set.union(*used.values())), 2)
        self.assertEqual(len(self.engine.snapshot().edges), 31)

    def test_our_own_transactions_travel_among_others(self) -> None:
        """The first inbound edge shares our relay, then they take turns.  design D10"""
        for seed in range(20):
            self.build(*(peer_id(f"relay {number}") for number in range(8)), seed=seed)
            others = [self.send(peer_id(f"{number}"), f"{number}") for number in range(6)]
            own = self.send(None, "own")
            self.assertEqual([relay == own for relay in others], [True, False] * 3)

    def test_epoch_ends(self) -> None:
        """Then relays and edges are drawn anew; the first one ends at a random time.  PRV-005"""
        relays = [peer_id(f"relay {number}") for number in range(8)]
        ends = set()
        for seed in range(20):
            self.time = 1000.0
            self.build(*relays, seed=seed)
            self.send(None, "first")
            before = self.engine.snapshot().relays
            while self.engine.snapshot().relays == before:
                self.time += 10
                self.send(None, f"{self.time}")
            ends.add(self.time)
            self.assertLessEqual(self.time, 1000 + 3 * 600)
        self.assertGreater(len(ends), 10)

    def test_long_silence_skips_epochs(self) -> None:
        """And the next one still is a whole one.  PRV-005"""
        self.build(*(peer_id(f"relay {number}") for number in range(8)))
        self.time += 1e6
        self.send(None, "x")
        relays = self.engine.snapshot().relays
        for number in range(100):
            self.send(peer_id(f"{number}"), f"{number}")
        self.assertEqual(self.engine.snapshot().relays, relays)

    def test_all_candidates_are_drawn(self) -> None:
        """Evenly.  PRV-005"""
        relays = [peer_id(f"relay {number}") for number in range(4)]
        drawn: Counter[PeerId] = Counter()
        for seed in range(400):
            self.build(*relays, seed=seed)
            drawn[self.send(None, "x")] += 1
        self.assertEqual(set(drawn), set(relays))
        self.assertLess(max(drawn.values()), 140)

    def test_lost_relay_is_replaced(self) -> None:
        """In the middle of an epoch; the other one stays.  PRV-005"""
        self.build(A, B, C)
        self.send(None, "x")
        self.send(D, "y")
        first, second = self.engine.snapshot().relays
        self.done(self.engine.peer_down(first))
        for number in range(20):
            self.send(peer_id(f"{number}"), f"{number}")
        self.assertIn(second, self.engine.snapshot().relays)
        self.assertNotIn(first, self.engine.snapshot().edges.values())

    def test_relay_lost_at_once_gets_a_substitute_once(self) -> None:
        """Within a second it may have forwarded nothing; later the embargo rules.  DAN-102-X"""
        self.build(A, B, C)
        first = self.send(None, "T")
        second = self.relay(self.done(self.engine.peer_down(first)))
        self.assertNotEqual(first, second)
        (fluff,) = self.done(self.engine.peer_down(second))
        self.assertEqual(fluff, Spread(announcement(stem("T"))))
        self.build(A, B, C)
        first = self.send(None, "T")
        self.time += 1.01
        self.assertEqual(self.done(self.engine.peer_down(first)), [])
        self.assertEqual(self.stems(), 1)

    def test_last_relay_lost_at_once(self) -> None:
        """There is nobody left to send it to.  DAN-102-X"""
        self.build(A)
        self.send(None, "T")
        effects = self.done(self.engine.peer_down(A))
        self.assertEqual(effects, [Spread(announcement(stem("T")))])

    def test_other_sessions_may_come_and_go(self) -> None:
        """Only relays matter.  PRV-005"""
        self.build(A)
        self.send(None, "T")
        self.received(E, stem("other"))
        self.assertEqual(self.done(self.engine.peer_down(E)), [])
        self.assertNotIn(E, self.engine.snapshot().edges)
        self.assertEqual(self.done(self.engine.peer_down(D)), [])


class BoundTests(DandelionCase):
    """Nothing grows without end, and no peer pushes ours out."""

    def test_a_hundred_of_one_peer(self) -> None:
        """Endless stems end; others are served.  DAN-101-X"""
        self.build(A, B)
        sent = [self.received(C, stem(f"{number}")) for number in range(101)]
        self.assertEqual((len(sent[99]), sent[100]), (1, []))
        self.assertEqual(self.counter("stem_dropped"), 1)
        self.assertEqual(len(self.received(D, stem("other"))), 1)
        self.announced(stem("0"))
        self.advance(100)
        self.assertEqual(len(self.received(C, stem("room again"))), 1)

    def test_a_thousand_in_all(self) -> None:
        """Others' are dropped.  DAN-101-X"""
        self.build(A, B)
        for number in range(1001):
            self.received(peer_id(f"{number // 100}"), stem(f"{number}"))
        self.assertEqual((self.stems(), self.counter("stem_dropped")), (1000, 1))

    def test_sixteen_mebibytes_in_all(self) -> None:
        """However few.  DAN-101-X"""
        self.build(A, B)
        for number in range(20):
            self.received(C, stem(f"{number}", 1_000_000))
        self.assertEqual(self.stems(), 16)
        self.assertLessEqual(self.engine.snapshot().stem_bytes, 16 * 2**20)

    def test_others_make_room_for_ours(self) -> None:
        """A peer that fills the buffer learns nothing about ours.  DAN-101-X"""
        self.build(A, B)
        self.submit(stem("own"))
        for number in range(1000):
            self.received(peer_id(f"{number // 100}"), stem(f"{number}"))
        self.assertEqual(self.stems(), 1000)
        self.relay(self.submit(stem("another own")))
        self.assertEqual(self.stems(), 1000)
        self.assertTrue(self.engine.is_stem_only(stem("own").tx_id))
        self.assertFalse(self.engine.is_stem_only(stem("0").tx_id))
        self.assertEqual(len(self.timers), 1000)

    def test_ours_alone_make_room_by_being_announced(self) -> None:
        """The oldest first.  DAN-101-X"""
        self.build(A, B)
        with patch.object(dandelion, "DANDELION_MAX_STEMS", 3):
            for number in range(3):
                self.relay(self.submit(stem(f"{number}")))
            fluff, send = self.submit(stem("3"))
        self.assertEqual(fluff, Spread(announcement(stem("0"))))
        self.assertIsInstance(send, Send)
        self.assertEqual(self.counter("fluff_overflow"), 1)

    def test_public_ids_are_bounded(self) -> None:
        """The earliest are forgotten.  DAN-101-X"""
        with patch.object(dandelion, "DANDELION_MAX_PUBLIC", 100):
            for number in range(150):
                self.announced(stem(f"{number}"))
        self.assertEqual(self.engine.snapshot().public, 100)

    @given(st.data())
    def test_whatever_happens_each_transaction_is_announced_at_most_once(
        self, data: st.DataObject
    ) -> None:
        """Once by us, or by others; and every one that is ours, in the end.  PRV-003, PRV-004"""
        self.time = 1000.0
        self.build(seed=data.draw(st.integers(0, 2**32)), fluff_probability=0.3)
        peers = [A, B, C, D]
        bodies = [stem(f"{number}") for number in range(6)]
        own: set[bytes] = set()
        public: set[bytes] = set()
        spread: Counter[bytes] = Counter()
        steps = data.draw(
            st.lists(
                st.tuples(
                    st.sampled_from(["up", "down", "submit", "receive", "announce", "wait"]),
                    st.integers(0, 3),
                    st.integers(0, 5),
                ),
                max_size=40,
            )
        )
        for what, peer, which in steps:
            body = bodies[which]
            effects: list[Effect] = []
            if what == "up":
                effects = self.engine.peer_up(peers[peer])
            elif what == "down":
                effects = self.engine.peer_down(peers[peer])
            elif what == "submit" and body.tx_id not in own:
                own.add(body.tx_id)
                effects = self.engine.submit(body)
                if body.tx_id in public:
                    effects = []  # announced again, as asked
            elif what == "receive":
                effects = self.engine.received(peers[peer], framed(body))
            elif what == "announce":
                public.add(body.tx_id)
                effects = self.engine.announced(body.tx_id)
            else:
                self.count(self.advance(10.0 * (which + 1)), spread, public)
            self.count(self.done(effects), spread, public)
            snapshot = self.engine.snapshot()
            heralded = {b.tx_id for b in bodies if self.engine.is_heralded(b.tx_id)}
            waiting = set(snapshot.stems) | heralded
            self.assertEqual({key[1] for key in self.timers}, waiting, "a timer for each")
            self.assertLessEqual(len(snapshot.relays), 2)
            self.assertLessEqual(set(snapshot.edges.values()), set(snapshot.relays))
            self.assertTrue(all(source != relay for source, relay in snapshot.edges.items()))
        self.count(self.advance(), spread, public)
        self.assertLessEqual(set(spread.values()), {1})
        self.assertLessEqual(own, public)
        self.assertEqual(self.stems(), 0)

    def count(self, effects: list[Effect], spread: Counter[bytes], public: set[bytes]) -> None:
        for effect in effects:
            if isinstance(effect, Spread):
                spread[effect.message.data[:32]] += 1
                public.add(effect.message.data[:32])
