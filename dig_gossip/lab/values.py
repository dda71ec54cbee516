"""What one run of the lab gives: plain figures that can be written, read, and compared.

Programs row of the stage table. Source: design D1, §6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict

import attrs

#: Phases that a run spends on getting ready are left out of its figures.
WARMUP: Final = "warmup"

#: What bytes are counted as. ``framing`` is 60 bytes for every frame of the other kinds.
KINDS: Final = ("payload", "announcements", "grafts", "prunes", "control", "framing")


class Count(TypedDict):
    """Frames that were sent and the bytes in them; for ``framing``, the bytes around them."""

    frames: int
    bytes: int


class MessageRow(TypedDict):
    """What became of one message.

    ``id`` numbers the messages of a run from 0, ``origin`` is a node's number, ``size`` the
    payload's bytes, ``sent`` simulated seconds from the start. ``reachable`` are the nodes that a
    flood would have reached, the origin left out; ``delivered`` those of them that got it.
    ``p50``, ``p90``, ``p99`` and ``max`` are seconds from sending to delivery, over those that got
    it; 0 if nobody did. ``payload_copies`` are full copies sent, by everybody.
    """

    id: int
    origin: int
    size: int
    sent: float
    phase: str
    reachable: int
    delivered: int
    p50: float
    p90: float
    p99: float
    max: float
    payload_copies: int


class Tree(TypedDict):
    """The links along which payload travels at the end of a run.

    ``degree``: eager links of a node -> nodes. ``depth``: hops of a node from the origin of the
    last message, as that message went -> nodes.
    """

    degree: dict[str, int]
    depth: dict[str, int]


@attrs.frozen(kw_only=True)
class RunResult:
    """One scenario, one protocol, one seed.

    :ivar messages: a row a message, in the order in which they were sent.
    :ivar bytes: phase -> kind of :data:`KINDS` -> frames and bytes sent in that phase.
    :ivar cdf: phase -> at most 50 points (seconds since sending, share 0..1 of all deliveries that
        were due in that phase), both rising; the last share is below 1 if deliveries are missing.
    :ivar series: rows of ``t`` (simulated seconds) and values by name, at equal distances.
    :ivar facts: single figures by name, see :doc:`/lab`.
    """

    scenario: str
    protocol: str
    seed: int
    messages: Sequence[MessageRow]
    bytes: Mapping[str, Mapping[str, Count]]
    cdf: Mapping[str, Sequence[tuple[float, float]]]
    series: Sequence[Mapping[str, float]]
    tree: Tree
    facts: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:  # Any: JSON
        """Make what ``json.dumps`` takes."""
        return {
            "scenario": self.scenario,
            "protocol": self.protocol,
            "seed": self.seed,
            "messages": [dict(row) for row in self.messages],
            "bytes": {
                phase: {kind: dict(count) for kind, count in kinds.items()}
                for phase, kinds in self.bytes.items()
            },
            "cdf": {phase: [list(point) for point in points] for phase, points in self.cdf.items()},
            "series": [dict(row) for row in self.series],
            "tree": {name: dict(histogram) for name, histogram in self.tree.items()},  # type: ignore[call-overload]
            "facts": dict(self.facts),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunResult:  # Any: JSON
        """Undo :meth:`to_json`.

        :raises KeyError, TypeError, ValueError: something is missing, or of another shape.
        """
        return cls(
            scenario=str(data["scenario"]),
            protocol=str(data["protocol"]),
            seed=int(data["seed"]),
            messages=[_message_row(row) for row in data["messages"]],
            bytes={
                phase: {
                    kind: Count(frames=int(count["frames"]), bytes=int(count["bytes"]))
                    for kind, count in kinds.items()
                }
                for phase, kinds in data["bytes"].items()
            },
            cdf={
                phase: [(float(seconds), float(share)) for seconds, share in points]
                for phase, points in data["cdf"].items()
            },
            series=[{name: float(value) for name, value in row.items()} for row in data["series"]],
            tree=Tree(
                degree={key: int(count) for key, count in data["tree"]["degree"].items()},
                depth={key: int(count) for key, count in data["tree"]["depth"].items()},
            ),
            facts={name: float(value) for name, value in data["facts"].items()},
        )


def _message_row(row: Mapping[str, Any]) -> MessageRow:  # Any: JSON
    return MessageRow(
        id=int(row["id"]),
        origin=int(row["origin"]),
        size=int(row["size"]),
        sent=float(row["sent"]),
        phase=str(row["phase"]),
        reachable=int(row["reachable"]),
        delivered=int(row["delivered"]),
        p50=float(row["p50"]),
        p90=float(row["p90"]),
        p99=float(row["p99"]),
        max=float(row["max"]),
        payload_copies=int(row["payload_copies"]),
    )
