"""Memory of one idle session, in a process that holds 500.

Each listener starts in a process of its own, is warmed up with 50 sessions, and then gets 500 more
from the same crowd of peers (``_crowd.py``), each with its own certificate. The growth of its
resident memory, divided by 500, is the cost of a session. The counterparts are plain Autobahn over
the same TLS and chia-blockchain's server. Linux only.
"""

from __future__ import annotations

import statistics
import sys
import time

from _children import AUTOBAHN, CHIA, DIG, Certificates, Child, start, wait_for_sessions
from common import (
    claim_at_most,
    describe_machine,
    median_ratio,
    options,
    print_table,
    progress,
)

SESSIONS = 500
WARM_UP = 50
#: The end of a handshake leaves things behind that go with the next turns of the loop.
SETTLE_SECS = 0.3

OVER_AUTOBAHN = 1.3
OVER_CHIA = 0.25


def measure(name: str, certificates: Certificates, warm_up: int, sessions: int) -> float:
    """Resident KiB that each of ``sessions`` sessions adds to a listener that has ``warm_up``."""
    listener = start(name, certificates.leaf("acceptor"))
    crowd = Child(sys.executable, "_crowd.py", str(certificates.folder / "crowd.pem"))
    try:
        where = {key: listener.hello[key] for key in ("port", "network")}
        resident: list[int] = []
        for more, all_of_them in ((warm_up, warm_up), (sessions, warm_up + sessions)):
            crowd.ask("open", count=more, **where)
            wait_for_sessions(listener, all_of_them)
            time.sleep(SETTLE_SECS)
            resident.append(listener.ask("memory")["resident"])
        if listener.ask("sessions")["sessions"] != warm_up + sessions:
            raise RuntimeError(f"{name}: sessions were lost meanwhile")
    finally:
        crowd.close()
        listener.close()
    growth: float = (resident[1] - resident[0]) / sessions / 1024
    return growth


def main() -> int:
    """Run the benchmark."""
    chosen = options(__doc__, [AUTOBAHN, CHIA]).parse_args()
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    warm_up, sessions = (10, 20) if chosen.quick else (WARM_UP, SESSIONS)
    names = [DIG, *chosen.counterparts]
    kib: dict[str, list[float]] = {name: [] for name in names}
    print(describe_machine(), end="\n\n")
    with Certificates.temporary() as certificates:
        certificates.crowd(warm_up + sessions)
        for turn in range(rounds):
            for name in names:
                progress(f"round {turn + 1} of {rounds}: {name}")
                kib[name].append(measure(name, certificates, warm_up, sessions))
    progress("")
    print_table(
        ["idle session", "KiB", "of each round", "ours over it"],
        (
            [
                name,
                f"{statistics.median(kib[name]):.1f}",
                " ".join(f"{figure:.1f}" for figure in kib[name]),
                f"{median_ratio(kib[DIG], kib[name]):.2f}",
            ]
            for name in names
        ),
    )
    goals = {AUTOBAHN: OVER_AUTOBAHN, CHIA: OVER_CHIA}
    for name in names[1:]:
        claim_at_most(f"KiB of an idle session, over {name}", kib[DIG], kib[name], goals[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
