"""One comparison of two sets of transactions, seen from either end.

Engines row of the stage table; pure. Neither end touches the set of pending transactions: it is
told what is in it, and says what is to be announced and what is settled::

    dialer                                                acceptor
    sketch of a transactions -------- 211 --------------> added to the sketch of its own b
                                                            difference decoded:
    announces what is missing <------ 212 DECODED -------   announces what only it has
                                                            not decoded, first time:
    the second half of a sketch <---- 212 EXTEND --------
    twice as large ------------------ 211 --------------> decoded as above, or:
    announces all a <---------------- 212 FAILED --------   announces all b
                                                            busy, paused, nothing to extend:
    keeps everything for next time <- 212 DECLINED ------   keeps everything, too

If one of the sets is empty nothing has to be decoded: the other side announces all it has. An empty
set is sent as one syndrome; to an empty set the answer is FAILED.

Source: behaviour ERL-003 to ERL-005, ERL-101-X to ERL-103-X; wire §13.3.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

import attrs

from dig_gossip.constants import ERLAY_MAX_CAPACITY, ERLAY_ROUND_TIMEOUT_SECS
from dig_gossip.errors import SketchDecodeFailed
from dig_gossip.gossip.difference import DifferenceEstimate
from dig_gossip.gossip.sketch import IS_COMPILED, Sketch
from dig_gossip.wire.erlay import (
    ELEMENT_BYTES,
    ReconciliationResponse,
    ReconciliationSketch,
    ReconciliationStatus,
    element_of,
)

#: Decoding more than this takes Python longer than a reactor turn may take (50 ms, ERL-105-X).
MAX_DECODED_CAPACITY: Final = ERLAY_MAX_CAPACITY if IS_COMPILED else 64


class Ending(enum.Enum):
    """What became of a round; the value is the name of its counter."""

    DECODED = "rounds_decoded"
    EXTENDING = "rounds_extended"
    ONE_SIDED = "rounds_one_sided"
    FAILED = "rounds_failed"
    DECLINED = "rounds_declined"
    VIOLATED = "rounds_violated"


@attrs.frozen(kw_only=True)
class Outcome:
    """What one end has to do.

    :ivar ask: the next request, if the round goes on.
    :ivar response: the answer to give, if one is due.
    :ivar announce: ids of transactions that the peer lacks, unless it has announced them meanwhile.
    :ivar settled: ids that are pending no more.
    """

    ending: Ending
    ask: ReconciliationSketch | None = None
    response: ReconciliationResponse | None = None
    announce: tuple[bytes, ...] = ()
    settled: tuple[bytes, ...] = ()


class Snapshot:
    """The transactions of one side at one moment, by the numbers that stand for them.

    :ivar by_element: ids.
    :ivar colliding: ids that share a number with another; they are announced without a sketch.
    """

    __slots__ = ("by_element", "colliding")

    def __init__(self, salt: bytes, tx_ids: Iterable[bytes]) -> None:
        self.by_element: dict[int, bytes] = {}
        shared: dict[int, list[bytes]] = {}
        for tx_id in tx_ids:
            element = element_of(salt, tx_id)
            other = self.by_element.setdefault(element, tx_id)
            if other != tx_id:
                shared.setdefault(element, [other]).append(tx_id)
        for element in shared:
            del self.by_element[element]
        self.colliding = tuple([tx_id for ids in shared.values() for tx_id in ids])

    def __len__(self) -> int:
        return len(self.by_element)

    @property
    def tx_ids(self) -> tuple[bytes, ...]:
        """All that are in the sketch."""
        return tuple(self.by_element.values())

    def sketch(self, capacity: int) -> Sketch:
        """Make the sketch."""
        return Sketch(capacity, self.by_element)

    def named(self, elements: Iterable[int]) -> tuple[bytes, ...]:
        """The ids of those elements that are ours."""
        return tuple([self.by_element[e] for e in elements if e in self.by_element])


class Dialer:
    """The end that begins rounds, one at a time.

    :param salt: 16 bytes, random.
    :param minimum: the least difference that a sketch must carry.
    """

    __slots__ = ("_capacity", "_estimate", "_extended", "_salt", "_snapshot")

    def __init__(self, salt: bytes, minimum: int) -> None:
        self._salt = salt
        self._estimate = DifferenceEstimate(minimum)
        self._snapshot: Snapshot | None = None
        self._capacity = 0
        self._extended = False

    @property
    def is_busy(self) -> bool:
        """Whether a round is under way."""
        return self._snapshot is not None

    def begin(self, tx_ids: Iterable[bytes]) -> tuple[ReconciliationSketch, tuple[bytes, ...]]:
        """Begin a round.

        :param tx_ids: what the peer may lack.
        :returns: the request, and the ids that are to be announced now because they collide.
        """
        snapshot = self._snapshot = Snapshot(self._salt, tx_ids)
        self._capacity = self._estimate.capacity(len(snapshot))
        self._extended = False
        return self._request(snapshot, offset=0), snapshot.colliding

    def answered(self, response: ReconciliationResponse) -> Outcome:
        """Take the answer to the last request; the round must be under way."""
        snapshot = self._snapshot
        assert snapshot is not None
        status = response.status
        if response.violation() or len(response.missing) > min(len(snapshot), self._capacity):
            return self._end(Outcome(ending=Ending.VIOLATED))
        if status == ReconciliationStatus.DECLINED:
            return self._end(Outcome(ending=Ending.DECLINED))
        if status == ReconciliationStatus.EXTEND:
            self._estimate.failed(self._capacity, len(snapshot))
            if self._extended or 2 * self._capacity > ERLAY_MAX_CAPACITY:
                return self._end(Outcome(ending=Ending.VIOLATED))
            offset, self._capacity, self._extended = self._capacity, 2 * self._capacity, True
            return Outcome(ending=Ending.EXTENDING, ask=self._request(snapshot, offset))
        ours = snapshot.tx_ids
        if status == ReconciliationStatus.FAILED:
            if response.set_size and ours:
                self._estimate.failed(self._capacity, len(snapshot))
                ending = Ending.FAILED
            else:
                ending = Ending.ONE_SIDED
            return self._end(Outcome(ending=ending, announce=ours, settled=ours))
        # What both have is what we have without what is missing.
        difference = response.set_size - len(ours) + 2 * len(response.missing)
        if ours and not self._extended and difference >= 0:
            self._estimate.decoded(difference, len(ours))
        return self._end(
            Outcome(
                ending=Ending.DECODED if ours else Ending.ONE_SIDED,
                announce=snapshot.named(response.missing),
                settled=ours,
            )
        )

    def abandon(self) -> None:
        """Give the round up; nothing is settled."""
        self._snapshot = None

    def _end(self, outcome: Outcome) -> Outcome:
        self._snapshot = None
        return outcome

    def _request(self, snapshot: Snapshot, offset: int) -> ReconciliationSketch:
        sketch = bytes(snapshot.sketch(self._capacity))
        return ReconciliationSketch(
            sketch=sketch[ELEMENT_BYTES * offset :],
            sketch_capacity=self._capacity,
            sketch_offset=offset,
            set_size=len(snapshot),
            salt=self._salt,
        )


@attrs.frozen
class _Retained:
    """The first part of a round that is to be extended."""

    request: ReconciliationSketch
    snapshot: Snapshot
    until: float


class Acceptor:
    """The end that answers.

    It keeps one sketch for an extension, for 10 s.
    """

    __slots__ = ("_retained", "_salt")

    def __init__(self) -> None:
        self._salt: bytes | None = None
        self._retained: _Retained | None = None

    def requested(
        self,
        request: ReconciliationSketch,
        tx_ids: Iterable[bytes],
        now: float,
        *,
        is_paused: bool = False,
        may_decode: bool = True,
    ) -> Outcome:
        """Answer a request.

        :param tx_ids: what the peer may lack.
        :param now: monotonic seconds.
        :param is_paused: decline whatever comes.
        :param may_decode: decline only what would have to be decoded; an extension is the second
            half of a request that was not declined.
        """
        if request.violation() or (self._salt is not None and request.salt != self._salt):
            return Outcome(ending=Ending.VIOLATED)
        self._salt = request.salt
        retained, self._retained = self._retained, None
        if is_paused:
            return _declined()
        if request.sketch_offset == 0:
            return self._first(request, Snapshot(request.salt, tx_ids), now, may_decode)
        if retained is None or now > retained.until:
            return _declined()
        first = retained.request
        expected = (2 * first.sketch_capacity, first.sketch_capacity, first.set_size)
        if (request.sketch_capacity, request.sketch_offset, request.set_size) != expected:
            return Outcome(ending=Ending.VIOLATED)
        whole = attrs.evolve(request, sketch=first.sketch + request.sketch, sketch_offset=0)
        outcome = _compare(whole, retained.snapshot)
        return outcome or _given_up(retained.snapshot)

    def _first(
        self, request: ReconciliationSketch, snapshot: Snapshot, now: float, may_decode: bool
    ) -> Outcome:
        if not request.set_size or not snapshot:
            # One side has nothing: the other one announces all.
            return _settled(
                snapshot,
                ending=Ending.ONE_SIDED,
                announce=snapshot.tx_ids,
                status=ReconciliationStatus.FAILED
                if request.set_size
                else ReconciliationStatus.DECODED,
            )
        if not may_decode:
            return _declined()
        outcome = _compare(request, snapshot)
        if outcome is not None:
            return outcome
        capacity = request.sketch_capacity
        if 2 * capacity > MAX_DECODED_CAPACITY or not _may_fit(request, snapshot, 2 * capacity):
            return _given_up(snapshot)
        self._retained = _Retained(request, snapshot, now + ERLAY_ROUND_TIMEOUT_SECS)
        return Outcome(
            ending=Ending.EXTENDING,
            response=ReconciliationResponse(
                status=ReconciliationStatus.EXTEND, set_size=len(snapshot)
            ),
            announce=snapshot.colliding,
            settled=snapshot.colliding,
        )


def _may_fit(request: ReconciliationSketch, snapshot: Snapshot, capacity: int) -> bool:
    """Whether the sizes alone leave a chance; a syndrome always remains to check with."""
    return abs(request.set_size - len(snapshot)) < capacity


def _compare(request: ReconciliationSketch, snapshot: Snapshot) -> Outcome | None:
    """Decode the difference; None if that fails."""
    capacity = min(request.sketch_capacity, MAX_DECODED_CAPACITY)
    if not _may_fit(request, snapshot, capacity):
        return None
    try:
        theirs = Sketch.from_bytes(request.sketch).truncated(capacity)
        difference = (theirs ^ snapshot.sketch(capacity)).decode(capacity - 1)
    except SketchDecodeFailed:
        return None
    missing = tuple([element for element in difference if element not in snapshot.by_element])
    only_ours = snapshot.named(difference)
    if request.set_size - len(missing) != len(snapshot) - len(only_ours):
        return None  # what both have is the same for both: this is not the difference
    return _settled(
        snapshot,
        ending=Ending.DECODED,
        announce=only_ours,
        status=ReconciliationStatus.DECODED,
        missing=missing,
    )


def _settled(
    snapshot: Snapshot,
    *,
    ending: Ending,
    announce: tuple[bytes, ...],
    status: ReconciliationStatus,
    missing: tuple[int, ...] = (),
) -> Outcome:
    return Outcome(
        ending=ending,
        response=ReconciliationResponse(status=status, set_size=len(snapshot), missing=missing),
        announce=announce + snapshot.colliding,
        settled=snapshot.tx_ids + snapshot.colliding,
    )


def _given_up(snapshot: Snapshot) -> Outcome:
    return _settled(
        snapshot,
        ending=Ending.FAILED,
        announce=snapshot.tx_ids,
        status=ReconciliationStatus.FAILED,
    )


def _declined() -> Outcome:
    return Outcome(
        ending=Ending.DECLINED,
        response=ReconciliationResponse(status=ReconciliationStatus.DECLINED, set_size=0),
    )
