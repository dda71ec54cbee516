"""The application's validators: who is asked about what, and what becomes of the answers.

Source: behaviour PLT-104-X, CNC-103-X.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from inspect import iscoroutine
from typing import Final, TypeAlias

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.constants import VALIDATOR_TIMEOUT_SECS
from dig_gossip.gossip.values import Verdict
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.message import Message

#: What a validator may say: a verdict, or the reason for which the sender is to be charged.
Judgement: TypeAlias = Verdict | PenaltyReason
Validator: TypeAlias = Callable[[PeerId, Message], "Judgement | Deferred[Judgement]"]

#: For those who ask outside of an engine that counts for itself.
MAX_OPEN_QUESTIONS: Final = 1000


class Validators:
    """One validator an opcode, and the questions that are open.

    :param counters: gets ``validator_timeouts_or_errors``.
    """

    _log = Logger()

    def __init__(self, clock: Clock, counters: Counter[str]) -> None:
        self._clock = clock
        self._counters = counters
        self._validators: dict[int, Validator] = {}
        self._open: set[Deferred[Judgement]] = set()

    def __contains__(self, opcode: int) -> bool:
        return opcode in self._validators

    @property
    def is_busy(self) -> bool:
        """Whether as many questions are open as may be."""
        return len(self._open) >= MAX_OPEN_QUESTIONS

    def set(self, opcode: int, validator: Validator | None) -> None:
        """Ask this one about messages of an opcode; None asks nobody."""
        if validator is None:
            self._validators.pop(opcode, None)
        else:
            self._validators[opcode] = validator

    def ask(self, peer: PeerId, message: Message, judged: Callable[[Judgement], None]) -> None:
        """Call ``judged`` with the answer, at once or within 5 s; IGNORE if there is none."""
        validator = self._validators.get(message.type)
        if validator is None:  # removed meanwhile
            judged(Verdict.ACCEPT)
            return
        try:
            answer = validator(peer, message)
        except Exception:
            self._log.failure("a validator failed", event="validator_failed")
            judged(Verdict.IGNORE)
            return
        if iscoroutine(answer):
            answer = Deferred.fromCoroutine(answer)
        if not isinstance(answer, Deferred):
            judged(answer)
            return
        handled(answer.addTimeout(VALIDATOR_TIMEOUT_SECS, self._clock.reactor))
        self._open.add(answer)

        def done(result: Judgement | Failure) -> None:
            self._open.discard(answer)
            if isinstance(result, Failure):
                self._counters["validator_timeouts_or_errors"] += 1
                result = Verdict.IGNORE
            judged(result)

        handled(answer.addBoth(done))

    def stop(self) -> None:
        """Give up every open question."""
        for answer in list(self._open):
            answer.cancel()


def blames(judgement: Judgement) -> bool:
    """Whether the sender is to be charged."""
    return isinstance(judgement, PenaltyReason) or judgement is Verdict.REJECT


def reason_of(judgement: Judgement) -> PenaltyReason:
    """What a judgement that blames the sender charges it with."""
    if isinstance(judgement, PenaltyReason):
        return judgement
    return PenaltyReason.PROTOCOL_VIOLATION
