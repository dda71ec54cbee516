"""The single figures of a run.

Programs row of the stage table; pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import merge
from typing import Final

from dig_gossip.lab.recorder import FRAMING_BYTES, quantile
from dig_gossip.lab.values import WARMUP, Count, MessageRow

_ENVELOPE_BYTES: Final = 6


def facts_of(
    rows: Sequence[MessageRow],
    traffic: Mapping[str, Mapping[str, Count]],
    delays: Callable[[str], list[float]],
) -> dict[str, float]:
    """Make the figures of all phases but the warm-up together, and of each phase.

    ``bytes_over_ideal``: all bytes sent over the bytes of one framed copy for each delivery;
    ``payload_over_ideal``: the same for payload frames and their framing alone; ``redundancy``:
    payload frames for each delivery. Figures of a phase have its name and a dot before them, those
    of its first and third message also ``first.`` and ``third.``; those of the warm-up begin with
    ``warmup_``.

    :param delays: phase -> seconds of all its deliveries, in rising order.
    """
    facts: dict[str, float] = {}
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    measured = [phase for phase in phases if phase != WARMUP]
    sorted_delays = {phase: delays(phase) for phase in phases}
    groups = [("", measured), *[(f"{phase}.", [phase]) for phase in measured]]
    if WARMUP in phases:
        groups.append(("warmup_", [WARMUP]))
    for prefix, members in groups:
        if not members:
            continue
        chosen = [row for row in rows if row["phase"] in members]
        facts |= _figures(prefix, chosen, [traffic.get(name, {}) for name in members])
        _quantiles(prefix, list(merge(*[sorted_delays[name] for name in members])), facts)
    for phase in measured:
        chosen = [row for row in rows if row["phase"] == phase]
        for name, index in (("first", 0), ("third", 2)):
            if index < len(chosen):
                row = chosen[index]
                facts[f"{phase}.{name}.p99"] = row["p99"]
                facts[f"{phase}.{name}.delivered_share"] = _share([row])
    return facts


def _figures(
    prefix: str, rows: Sequence[MessageRow], traffic: Sequence[Mapping[str, Count]]
) -> dict[str, float]:
    overhead = _ENVELOPE_BYTES + FRAMING_BYTES
    ideal = sum(row["delivered"] * (row["size"] + overhead) for row in rows)
    delivered = sum(row["delivered"] for row in rows)
    total = sum(count["bytes"] for kinds in traffic for count in kinds.values())
    payload = [kinds["payload"] for kinds in traffic if kinds]
    payload_frames = sum(count["frames"] for count in payload)
    payload_bytes = sum(count["bytes"] for count in payload) + payload_frames * FRAMING_BYTES
    return {
        f"{prefix}messages": float(len(rows)),
        f"{prefix}deliveries": float(delivered),
        f"{prefix}delivered_share": _share(rows),
        f"{prefix}bytes": float(total),
        f"{prefix}bytes_over_ideal": _ratio(total, ideal),
        f"{prefix}payload_over_ideal": _ratio(payload_bytes, ideal),
        f"{prefix}redundancy": _ratio(payload_frames, delivered),
    }


def _quantiles(prefix: str, ordered: Sequence[float], facts: dict[str, float]) -> None:
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
        facts[prefix + name] = quantile(ordered, share)


def _share(rows: Sequence[MessageRow]) -> float:
    due = sum(row["reachable"] for row in rows)
    # Floored, so that 1.0 means all of them.
    return sum(row["delivered"] for row in rows) * 10**9 // due / 10**9 if due else 1.0


def _ratio(a: float, b: float) -> float:
    return round(a / b, 6) if b else 0.0
