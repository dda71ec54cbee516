"""Tests of :mod:`dig_gossip.privacy.rotation`."""

from __future__ import annotations

import random

from chia_rs.sized_bytes import bytes32
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.privacy.rotation import (
    BATCH,
    BUSY_SECS,
    MAX_OWN_IDS,
    MAX_POSTPONED,
    MOVING_SECS,
    OWN_ID_SECS,
    POSTPONE_SECS,
    RETURN_SECS,
    Close,
    Generate,
    Link,
    Moved,
    OwnIds,
    Postponed,
    Redial,
    Rotation,
)
from dig_gossip.types.peer import PeerId

INTERVAL = 3600.0


def peer(number: int) -> PeerId:
    """An id."""
    return bytes32(number.to_bytes(32, "big"))


def link(number: int, *, stale: bool = True, dialable: bool = True, busy: bool = False) -> Link:
    """A session."""
    return Link(peer(number), stale, dialable, busy)


class Case(SynchronousTestCase):
    """Keeps a clock."""

    now = 1000.0

    def rotation(self, *, moves: bool = True, target: int = 20, seed: int = 1) -> Rotation:
        """An engine that was just started."""
        return Rotation(
            interval=INTERVAL,
            moves=moves,
            target=target,
            now=lambda: self.now,
            rng=random.Random(seed),
        )

    def rotated(self, links: int, *, target: int = 20) -> Rotation:
        """An engine whose node has just taken another id."""
        engine = self.rotation(target=target)
        self.now += engine.next_delay
        self.assertEqual(engine.tick(is_busy=False, links=[]), [Generate()])
        engine.generated(links)
        return engine


class OwnIdsTests(Case):
    """Who we are and were."""

    def test_former_ids_are_known_for_a_day(self) -> None:
        """An address that leads to our former self leads to ourselves.  PRV-007.2"""
        ids = OwnIds(peer(1), now=lambda: self.now)
        ids.become(peer(2))
        self.assertEqual((ids.current, ids.all()), (peer(2), {peer(1), peer(2)}))
        self.now += OWN_ID_SECS - 1
        self.assertIn(peer(1), ids)
        self.now += 1
        self.assertNotIn(peer(1), ids)
        self.assertIn(peer(2), ids)
        ids.become(peer(2))
        self.assertEqual(ids.all(), {peer(2)})

    def test_eight_are_kept(self) -> None:
        """The oldest goes first.  PRV-007.2"""
        ids = OwnIds(peer(0), now=lambda: self.now)
        for number in range(1, 20):
            ids.become(peer(number))
            self.assertLessEqual(len(ids.all()), MAX_OWN_IDS)
        self.assertEqual(ids.all(), {peer(number) for number in range(12, 20)})


class ScheduleTests(Case):
    """When."""

    def test_every_interval_give_or_take_a_twentieth(self) -> None:
        """Nodes that started together do not rotate together.  PRV-007"""
        delays = {self.rotation(seed=seed).next_delay for seed in range(50)}
        self.assertGreater(len(delays), 40)
        self.assertTrue(all(0.95 * INTERVAL <= delay <= 1.05 * INTERVAL for delay in delays))

    def test_nothing_happens_before_its_time(self) -> None:
        """And once it has, the next one is an interval away.  PRV-007"""
        engine = self.rotation(moves=False)
        self.now += engine.next_delay - 1
        self.assertEqual(engine.tick(is_busy=False, links=[link(1)]), [])
        self.now += 1
        self.assertEqual(engine.tick(is_busy=False, links=[link(1)]), [Generate()])
        self.assertEqual(engine.tick(is_busy=False, links=[link(1)]), [])
        engine.generated(1)
        self.assertFalse(engine.is_moving)
        self.assertGreater(engine.next_delay, 0.9 * INTERVAL)

    def test_failure_waits_for_another_interval(self) -> None:
        """No loop of failures.  PRV-007"""
        engine = self.rotation()
        self.now += engine.next_delay
        engine.tick(is_busy=False, links=[])
        engine.failed()
        self.assertGreater(engine.next_delay, 0.9 * INTERVAL)
        self.assertFalse(engine.is_moving)

    def test_postponed_ten_times_and_no_more(self) -> None:
        """Whoever keeps us busy does not keep our id for ever.  ROT-101-X"""
        engine = self.rotation()
        self.now += engine.next_delay
        for _ in range(MAX_POSTPONED):
            self.assertEqual(engine.tick(is_busy=True, links=[]), [Postponed(POSTPONE_SECS)])
            self.assertEqual(engine.next_delay, POSTPONE_SECS)
            self.assertEqual(engine.tick(is_busy=False, links=[]), [])
            self.now += POSTPONE_SECS
        self.assertEqual(engine.tick(is_busy=True, links=[]), [Generate()])
        engine.failed()
        self.now += engine.next_delay
        self.assertEqual(engine.tick(is_busy=True, links=[]), [Postponed(POSTPONE_SECS)])


class MovingTests(Case):
    """How sessions follow."""

    def test_dialed_sessions_are_dialed_again_in_batches(self) -> None:
        """Eight at a time, the next ones when these are done.  PRV-007.1"""
        engine = self.rotated(20)
        links = [link(number) for number in range(20)]
        first = engine.tick(is_busy=False, links=links)
        self.assertEqual(first, [Redial(peer(number)) for number in range(BATCH)])
        self.assertEqual(engine.next_delay, 1.0)
        self.now += 1
        self.assertEqual(engine.tick(is_busy=False, links=links), [])
        for number in range(BATCH):
            links[number] = link(number, stale=False)
            engine.redialed(peer(number), True)
        second = engine.tick(is_busy=False, links=links)
        self.assertEqual(second, [Redial(peer(number)) for number in range(BATCH, 2 * BATCH)])

    def test_failed_second_dial_becomes_a_close_and_a_dial(self) -> None:
        """Perhaps the peer had no room for two of us.  PRV-007.1"""
        engine = self.rotated(20)
        links = [link(number, stale=number < 1) for number in range(20)]
        self.assertEqual(engine.tick(is_busy=False, links=links), [Redial(peer(0))])
        engine.redialed(peer(0), False)
        self.assertEqual(engine.tick(is_busy=False, links=links), [Close(peer(0), True)])

    def test_accepted_sessions_are_closed_down_to_the_floor(self) -> None:
        """Until they come again, or have had their time.  PRV-007.1"""
        engine = self.rotated(20, target=8)
        links = [link(number, dialable=False) for number in range(20)]
        closed = engine.tick(is_busy=False, links=links)
        self.assertEqual(closed, [Close(peer(number), False) for number in range(BATCH)])
        links = links[BATCH:]
        self.now += RETURN_SECS - 1
        self.assertEqual(engine.tick(is_busy=False, links=links), [])
        links += [link(100, stale=False)]
        self.assertEqual(engine.tick(is_busy=False, links=links), [Close(peer(BATCH), False)])
        links = [other for other in links if other.peer != peer(BATCH)]
        self.now += RETURN_SECS
        self.assertEqual(len(engine.tick(is_busy=False, links=links)), BATCH)

    def test_the_last_connection_is_never_closed(self) -> None:
        """It keeps the old id until it ends.  PRV-007.1"""
        engine = self.rotated(1, target=8)
        for _ in range(int(MOVING_SECS)):
            self.assertEqual(engine.tick(is_busy=False, links=[link(1, dialable=False)]), [])
            self.now += 1
        last = engine.tick(is_busy=False, links=[link(1, dialable=False)])
        self.assertEqual(last, [Moved(1)])
        self.assertFalse(engine.is_moving)

    def test_busy_sessions_wait_for_half_a_minute(self) -> None:
        """A request under way is finished, an endless one is not.  PRV-007.1"""
        engine = self.rotated(20)
        links = [link(1, busy=True), *(link(n, stale=False) for n in range(2, 20))]
        self.assertEqual(engine.tick(is_busy=False, links=links), [])
        self.now += BUSY_SECS
        self.assertEqual(engine.tick(is_busy=False, links=links), [Redial(peer(1))])

    def test_stuck_sessions_wait_for_the_relay(self) -> None:
        """However long it takes; the movement is not over before.  PRV-007.1"""
        engine = self.rotated(2)
        links = [link(n)._replace(is_stuck=True) for n in range(2)]
        for _ in range(3):
            self.assertEqual(engine.tick(is_busy=False, links=links), [])
            self.now += BUSY_SECS
        links[1] = link(1)
        self.assertEqual(engine.tick(is_busy=False, links=links), [Redial(peer(1))])
        self.now += MOVING_SECS
        self.assertEqual(engine.tick(is_busy=False, links=links), [Moved(2)])

    def test_the_end_is_reported(self) -> None:
        """When no session is under a former id.  PRV-007.1"""
        engine = self.rotated(1)
        self.assertEqual(engine.tick(is_busy=False, links=[link(1, stale=False)]), [Moved(0)])
        self.assertEqual(engine.tick(is_busy=False, links=[link(1)]), [])

    @given(
        st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60),
        st.integers(0, 30),
        st.randoms(use_true_random=False),
    )
    def test_any_node_keeps_its_floor(
        self, kinds: list[tuple[bool, bool]], target: int, rng: random.Random
    ) -> None:
        """Whoever comes again or not: never below target - 8, never to zero.  PRV-007.1"""
        engine = self.rotated(len(kinds), target=target)
        links = {
            peer(n): link(n, dialable=dialable, busy=busy)
            for n, (dialable, busy) in enumerate(kinds)
        }
        floor = min(len(links), max(1, target - BATCH))
        gone: list[Link] = []
        for _ in range(int(MOVING_SECS) // 10 + 2):
            effects = engine.tick(is_busy=False, links=list(links.values()))
            self.assertLessEqual(len(effects), BATCH)
            for effect in effects:
                if isinstance(effect, Close):
                    gone.append(links.pop(effect.peer)._replace(is_stale=False))
                elif isinstance(effect, Redial):
                    success = rng.random() < 0.5
                    if success:
                        links[effect.peer] = links[effect.peer]._replace(is_stale=False)
                    engine.redialed(effect.peer, success)
            self.assertGreaterEqual(len(links), floor)
            if not engine.is_moving:
                break
            if gone and rng.random() < 0.3:
                back = gone.pop()
                links[back.peer] = back
            self.now += 10
        self.assertFalse(engine.is_moving)
