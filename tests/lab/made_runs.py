"""Runs that look like those of the simulator, made up: for tests of what is done with results."""

from __future__ import annotations

from random import Random

from dig_gossip.lab.values import Count, MessageRow, RunResult, Tree

#: Protocol -> full copies a delivery, median seconds to deliver.
CHARACTERS = {
    "plumtree": (1.02, 0.31),
    "flood": (7.1, 0.24),
    "gossipsub-1.1": (6.2, 0.29),
    "announce": (1.0, 0.62),
}

#: Phase -> messages.
STEADY = {"warmup": 20, "measured": 60}
HEALING = {"warmup": 20, "measured": 30, "after_failure": 30}


def make_run(
    protocol: str = "plumtree",
    seed: int = 1,
    *,
    scenario: str = "small-50",
    phases: dict[str, int] = STEADY,
    nodes: int = 50,
    copies: float | None = None,
    p99: float | None = None,
    lost: int = 0,
    facts: dict[str, float] | None = None,
) -> RunResult:
    """Make up a run.

    :param copies: full copies a delivery, after warm-up; the protocol's own by default.
    :param p99: seconds, of each message that is measured.
    :param lost: deliveries that the first message of the last phase lacks.
    """
    rng = Random(f"{protocol} {seed}")
    own, median = CHARACTERS.get(protocol, (2.0, 0.5))
    rows: list[MessageRow] = []
    counts: dict[str, dict[str, Count]] = {}
    cdf = {}
    now = 0.0
    last = list(phases)[-1] if phases else ""
    for phase, messages in phases.items():
        sent_copies = delivered_all = 0
        for index in range(messages):
            now += 0.5
            factor = own if copies is None or phase == "warmup" else copies
            if phase == "warmup":
                factor += 5 * (1 - index / messages)
            reachable = (nodes - 1) // 2 if phase == "after_failure" else nodes - 1
            missing = lost if phase == last and index == 0 else 0
            slow = 3 / (index + 1) if phase == "after_failure" else 0
            middle = median * rng.uniform(0.95, 1.05) + slow
            high = p99 if p99 is not None else middle * 1.8
            delivered = reachable - missing
            row = MessageRow(
                id=len(rows),
                origin=rng.randrange(nodes),
                size=1024,
                sent=now,
                phase=phase,
                reachable=reachable,
                delivered=delivered,
                p50=min(middle, high),
                p90=min(middle * 1.4, high),
                p99=high,
                max=high * 1.1,
                payload_copies=round(factor * delivered),
            )
            rows.append(row)
            sent_copies += row["payload_copies"]
            delivered_all += delivered
        cdf[phase] = _cdf(rows, phase)
        frames = {
            "payload": sent_copies,
            "announcements": 3 * delivered_all // 2,
            "grafts": delivered_all // 50,
            "prunes": delivered_all // 40,
            "control": delivered_all // 10,
        }
        sizes = {"payload": 1024, "announcements": 46, "grafts": 40, "prunes": 9, "control": 14}
        counts[phase] = {
            kind: Count(frames=number, bytes=number * sizes[kind])
            for kind, number in frames.items()
        }
        total = sum(frames.values())
        counts[phase]["framing"] = Count(frames=total, bytes=60 * total)
    series = [
        {"t": float(second), "live": float(nodes if second < now / 2 else nodes // 2)}
        for second in range(int(now))
    ]
    degree = {"2": nodes // 2, "3": nodes // 4, "5": nodes - nodes // 2 - nodes // 4}
    depth = {"0": 1, "1": 5, "2": 20, "3": nodes - 26}
    return RunResult(
        scenario=scenario,
        protocol=protocol,
        seed=seed,
        messages=rows,
        bytes=counts,
        cdf=cdf,
        series=series,
        tree=Tree(degree=degree, depth=depth),
        facts={"nodes": float(nodes)} if facts is None else facts,
    )


def _cdf(rows: list[MessageRow], phase: str) -> list[tuple[float, float]]:
    own = [row for row in rows if row["phase"] == phase]
    if not own:
        return []
    share = sum(row["delivered"] for row in own) / sum(row["reachable"] for row in own)
    median = sorted(row["p50"] for row in own)[len(own) // 2]
    high = max(row["p99"] for row in own)
    end = max(row["max"] for row in own)
    points = [(0.3 * median, 0.05), (0.7 * median, 0.2), (median, 0.5), (high, 0.99), (end, 1.0)]
    return [(seconds, part * share) for seconds, part in points]


def make_runs(
    seeds: int = 3,
    *,
    scenario: str = "small-50",
    phases: dict[str, int] = STEADY,
    protocols: tuple[str, ...] = tuple(CHARACTERS),
) -> list[RunResult]:
    """Make up a sweep, protocol by protocol."""
    return [
        make_run(protocol, seed, scenario=scenario, phases=phases)
        for protocol in protocols
        for seed in range(1, seeds + 1)
    ]
