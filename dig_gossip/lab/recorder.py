"""What is written down while a simulation runs, and the figures made of it.

Programs row of the stage table; pure.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from dig_gossip.lab.values import KINDS, WARMUP, Count, MessageRow
from dig_gossip.wire.message import Message

FRAMING_BYTES: Final = 60  # WebSocket, TLS and TCP around each frame, about
MAX_POINTS: Final = 50  # of a cumulated distribution


class Record:
    """One message on its way.

    :ivar got: of each node, 0 or in which of its lives it was delivered there.
    :ivar delays: seconds from sending to each delivery, in the order of deliveries.
    :ivar depth: hops from the origin of each node that has it, kept for few messages; else empty.
    """

    __slots__ = (
        "copies",
        "delays",
        "depth",
        "got",
        "message",
        "number",
        "origin",
        "phase",
        "reach",
        "repeated",
        "sent",
        "size",
    )

    def __init__(
        self,
        number: int,
        message: Message,
        origin: int,
        sent: float,
        phase: str,
        reach: frozenset[int],
        nodes: int,
    ) -> None:
        self.number = number
        self.message = message
        self.origin = origin
        self.size = len(message.data)
        self.sent = sent
        self.phase = phase
        self.reach = reach
        self.got = bytearray(nodes)
        self.got[origin] = 1
        self.delays = array("d")
        self.copies = 0
        self.repeated = 0
        self.depth: dict[int, int] = {}

    def due(self, left: Sequence[tuple[float, int]], patience: float) -> int:
        """How many nodes should have got it: those in reach that lived long enough.

        :param left: who died or left when, simulated seconds, in order.
        :param patience: seconds that a node must have lived on to be expected to have it.
        """
        begin = bisect_left(left, (self.sent, -1))
        end = bisect_left(left, (self.sent + patience, -1))
        gone = {node for _, node in left[begin:end]}
        return len(self.reach) - 1 - sum(not self.got[node] for node in gone & self.reach)

    @property
    def delivered(self) -> int:
        """How many nodes in reach, but the origin, got it."""
        got = self.got
        return sum([got[node] > 0 for node in self.reach]) - 1

    def row(self, left: Sequence[tuple[float, int]], patience: float) -> MessageRow:
        """Make the row of the result."""
        delays = sorted(self.delays)
        return MessageRow(
            id=self.number,
            origin=self.origin,
            size=self.size,
            sent=round(self.sent, 6),
            phase=self.phase,
            reachable=self.due(left, patience),
            delivered=self.delivered,
            p50=quantile(delays, 0.5),
            p90=quantile(delays, 0.9),
            p99=quantile(delays, 0.99),
            max=quantile(delays, 1.0),
            payload_copies=self.copies,
        )


class Traffic:
    """Frames and bytes by phase and kind. The simulator counts into :attr:`current` itself.

    :ivar current: kind -> [frames, bytes without framing] of the present phase.
    """

    def __init__(self) -> None:
        self._phases: dict[str, dict[str, list[int]]] = {}
        self.current: dict[str, list[int]] = {}
        self.enter(WARMUP)

    def enter(self, phase: str) -> None:
        """Count into a phase from now on."""
        self.current = self._phases.setdefault(phase, {kind: [0, 0] for kind in KINDS[:-1]})

    def counts(self) -> dict[str, dict[str, Count]]:
        """All phases in which anything was sent, framing included as a kind of its own."""
        result = {}
        for phase, kinds in self._phases.items():
            frames = sum(count[0] for count in kinds.values())
            if frames:
                result[phase] = {
                    kind: Count(frames=count[0], bytes=count[1]) for kind, count in kinds.items()
                }
                result[phase]["framing"] = Count(frames=frames, bytes=frames * FRAMING_BYTES)
        return result


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least value that at least ``share`` (0..1) of an ordered list do not exceed; 0 of none.

    Rounded to microseconds, so that results can be written shortly.
    """
    if not ordered:
        return 0.0
    index = max(0, -int(-share * len(ordered) // 1) - 1)
    return round(ordered[min(index, len(ordered) - 1)], 6)


def distribution(delays: Iterable[float], due: int) -> list[tuple[float, float]]:
    """Make at most :data:`MAX_POINTS` points of (seconds, share of the deliveries due).

    :param due: how many there should be, usually at least as many as there are. The medians, the
        ninth deciles and the 99th percentiles of those are among the points.
    """
    ordered = sorted(delays)
    count = len(ordered)
    if not count:
        return []
    points = min(MAX_POINTS, count)
    even = {round(i * (count - 1) / max(1, points - 4)) for i in range(points - 3)}
    exact = {math.ceil(share * due) - 1 for share in (0.5, 0.9, 0.99)}
    indices = sorted(index for index in even | exact if 0 <= index < count)
    return [(round(ordered[i], 6), round((i + 1) / max(due, count), 6)) for i in indices]


def histogram(values: Iterable[int]) -> dict[str, int]:
    """Count values, in rising order."""
    counts = Counter(values)
    return {str(value): counts[value] for value in sorted(counts)}
