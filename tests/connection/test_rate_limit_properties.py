"""Properties of :mod:`dig_gossip.connection.rate_limit`, against models that forget nothing."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.rate_limit import InboundLimiter, OutboundLimiter, Verdict
from dig_gossip.connection.rate_table import receive_rows, send_rows
from tests.connection import ManualTime
from tests.connection.test_rate_limit import (
    ACCEPT,
    APART,
    DROP,
    ENDLESS,
    FLOOD,
    OVERSIZE,
    PENALIZE,
    SHARED,
    SMALL,
    SMALL_AGGREGATE,
    SMALL_ROWS,
    SmallRows,
)

messages = st.tuples(
    st.one_of(st.just(0.0), st.floats(0, 20), st.sampled_from((4.999, 5.0, 59.9, 60.0, 65.0))),
    st.sampled_from((SHARED, FLOOD, APART, ENDLESS)),
    st.one_of(st.integers(0, 60), st.integers(0, 110)),
)


class InboundModel(SmallRows):
    """Against a model that keeps every message and knows nothing of usages."""

    def judge(self, log: list[tuple[int, int, int]], factor: float) -> Verdict:
        """What Chia's rules and our penalties make of the last entry of (slot, opcode, size)."""
        slot, opcode, size = log[-1]
        limits = SMALL[opcode]
        if size > limits.max_size:
            return OVERSIZE
        if limits.count is None or limits.max_total is None:
            return ACCEPT
        window = [(n, s) for k, n, s in log if k == slot]
        own = [s for n, s in window if n == opcode]
        shared = [(n, s) for n, s in window if SMALL[n].aggregate]
        chosen = [s for n, s in shared if n != FLOOD]
        assert SMALL_AGGREGATE.count is not None
        assert SMALL_AGGREGATE.max_total is not None

        def excess(sizes: list[int], count: int, total: int) -> float:
            return max(len(sizes) / math.floor(count * factor), sum(sizes) / (total * factor))

        worst = excess(own, limits.count, limits.max_total)
        abuse = worst
        if limits.aggregate:
            both = SMALL_AGGREGATE.count, SMALL_AGGREGATE.max_total
            worst = max(worst, excess([s for _, s in shared], *both))
            abuse = max(abuse, excess(chosen, *both))
        if worst <= 1:
            return ACCEPT
        return PENALIZE if abuse > 1.25 and opcode != FLOOD else DROP

    @given(st.lists(messages, max_size=60), st.sampled_from((0.5, 1.0)))
    def test_verdicts_are_the_models(
        self, script: list[tuple[float, int, int]], factor: float
    ) -> None:
        """Any traffic, rejected messages charged.  CON-005.1 RL-103-X RL-104-X"""
        time = ManualTime(0.0)
        limiter = InboundLimiter(SMALL_ROWS, now=time, factor=factor)
        log: list[tuple[int, int, int]] = []
        for gap, opcode, size in script:
            time.seconds += gap
            log.append((math.floor(time.seconds / 60), opcode, size))
            self.assertIs(limiter.admit(opcode, size), self.judge(log, factor))

    @given(st.lists(messages, max_size=60), st.sampled_from((0.5, 1.0)))
    def test_admitted_messages_are_the_models(
        self, script: list[tuple[float, int, int]], factor: float
    ) -> None:
        """Any traffic, rejected messages not charged.  CON-005.1"""
        time = ManualTime(0.0)
        limiter = InboundLimiter(SMALL_ROWS, now=time, factor=factor, charge_rejected=False)
        log: list[tuple[int, int, int]] = []
        for gap, opcode, size in script:
            time.seconds += gap
            log.append((math.floor(time.seconds / 60), opcode, size))
            wanted = self.judge(log, factor) is ACCEPT
            self.assertEqual(limiter.admit(opcode, size) is ACCEPT, wanted)
            if not wanted:
                log.pop()


class OutboundModel(SmallRows):
    """Against a model that keeps every message and its time."""

    factors = st.sampled_from((0.1, 0.6, 1.0))

    def drive(
        self, script: list[tuple[float, int, int]], factor: float, patient: bool
    ) -> list[tuple[float, int, int]]:
        """Send what may go, waiting for the rest or leaving it; return what went, and when."""
        time = ManualTime(0.0)
        limiter = OutboundLimiter(SMALL_ROWS, now=time, factor=factor)
        sent: list[tuple[float, int, int]] = []
        for gap, opcode, size in script:
            time.seconds += gap
            if not limiter.can_ever(opcode, size):
                continue
            delay = limiter.delay(opcode, size)
            if delay:
                self.assertTrue(self.is_full(sent, time.seconds, opcode, size, factor))
                if not patient:
                    continue
                self.assertLessEqual(delay, 65)
                ready = time.seconds + delay
                time.seconds = max(time.seconds, ready - 0.01)
                self.assertGreater(limiter.delay(opcode, size), 0)
                time.seconds = ready
                self.assertEqual(limiter.delay(opcode, size), 0)
            limiter.charge(opcode, size)
            sent.append((time.seconds, opcode, size))
        return sent

    def is_full(
        self,
        sent: list[tuple[float, int, int]],
        now: float,
        opcode: int,
        size: int,
        factor: float,
    ) -> bool:
        """Whether the last 65 s, of which the message would be part, hold too much for it."""
        recent = [(n, s) for at, n, s in sent if at > now - 65]
        limits = [([s for n, s in recent if n == opcode], SMALL[opcode])]
        if SMALL[opcode].aggregate:
            limits.append(([s for n, s in recent if SMALL[n].aggregate], SMALL_AGGREGATE))
        return any(
            sizes
            and (
                len(sizes) + 1 > (limit.count or math.inf) * factor
                or sum(sizes) + size > (limit.max_total or math.inf) * factor
            )
            for sizes, limit in limits
        )

    @given(st.lists(messages, max_size=60), factors, st.booleans())
    def test_no_sixty_seconds_hold_more_than_the_share(
        self, script: list[tuple[float, int, int]], factor: float, patient: bool
    ) -> None:
        """And what waits waits for a reason, as long as it has to, not longer.  RL-103-X"""
        sent = self.drive(script, factor, patient)
        for number, (at, opcode, _) in enumerate(sent):
            window = [(n, s) for when, n, s in sent[: number + 1] if when > at - 60]
            own = [s for n, s in window if n == opcode]
            shared = [s for n, s in window if SMALL[n].aggregate]
            for sizes, limit in ((own, SMALL[opcode]), (shared, SMALL_AGGREGATE)):
                if len(sizes) > 1:
                    self.assertLessEqual(len(sizes), (limit.count or math.inf) * factor)
                    self.assertLessEqual(sum(sizes), (limit.max_total or math.inf) * factor)

    @given(st.lists(messages, max_size=60), factors)
    def test_spending_is_asking_and_charging(
        self, script: list[tuple[float, int, int]], factor: float
    ) -> None:
        """In one step: nothing that must wait, and nearly all that may go.  RL-103-X"""
        clock = ManualTime(0.0)
        at_once = OutboundLimiter(SMALL_ROWS, now=clock, factor=factor)
        in_steps = OutboundLimiter(SMALL_ROWS, now=clock, factor=factor)
        for gap, opcode, size in script:
            clock.seconds += gap
            if not in_steps.can_ever(opcode, size) or in_steps.delay(opcode, size) > 0:
                self.assertFalse(at_once.spend(opcode, size))
            else:
                in_steps.charge(opcode, size)
                if not at_once.spend(opcode, size):
                    # What finds nothing spent may go, however small the share: by the long way.
                    self.assertEqual(at_once.delay(opcode, size), 0)
                    at_once.charge(opcode, size)

    @given(st.lists(messages, max_size=60), factors, st.booleans(), st.floats(0, 60))
    def test_receiver_with_fixed_windows_accepts_everything(
        self, script: list[tuple[float, int, int]], factor: float, patient: bool, phase: float
    ) -> None:
        """Chia's limiter at 1.0, wherever its windows begin.  RL-103-X"""
        clock = ManualTime()
        receiver = InboundLimiter(SMALL_ROWS, now=clock)
        for at, opcode, size in self.drive(script, factor, patient):
            clock.seconds = at + phase
            self.assertIs(receiver.admit(opcode, size), ACCEPT)


class BothEnds(SynchronousTestCase):
    """The tables as they are: our outbound limiter and a receiver's windows."""

    opcodes = (20, 21, 27, 30, 43, 44, 57, 62, 200, 201, 214, 218, 241, 199)

    @given(
        st.lists(
            st.tuples(
                st.floats(0, 40),
                st.sampled_from(opcodes),
                st.integers(1, 400),
                st.floats(0, 1),
            ),
            max_size=25,
        ),
        st.booleans(),
        st.booleans(),
        st.floats(0, 60),
    )
    def test_chia_and_dig_receivers_accept_everything(
        self,
        script: list[tuple[float, int, int, float]],
        both_v2: bool,
        is_chia: bool,
        phase: float,
    ) -> None:
        """Bursts of any size, with the default factor and with all of it.  RL-102-X RL-103-X"""
        for factor in (0.6, 1.0):
            time, clock = ManualTime(0.0), ManualTime()
            rows = send_rows(both_v2=both_v2, is_rust=False)
            sender = OutboundLimiter(rows, now=time, factor=factor)
            receiver = InboundLimiter(receive_rows(is_chia=is_chia, both_v2=both_v2), now=clock)
            for gap, opcode, burst, share in script:
                time.seconds += gap
                clock.seconds = time.seconds + phase
                size = int(rows[opcode].max_size * share)
                for _ in range(burst):
                    if sender.delay(opcode, size):
                        break
                    sender.charge(opcode, size)
                    self.assertIs(receiver.admit(opcode, size), ACCEPT)
