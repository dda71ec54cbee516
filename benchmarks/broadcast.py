"""Processor time of a broadcast, for each copy that arrives: one node to 8 and to 32 peers.

One process has the sessions and broadcasts; another holds the peers (``_crowd.py``, the same for
every sender), counts every copy and says when all peers have got so many. What counts is the
processor time of the sender alone, all of it: encoding, hash, seen set and tree, queues, TLS, and
what it reads. The counterparts are chia-blockchain's ``send_to_all`` and, for orientation, plain
Autobahn in a loop, and what OpenSSL and the system alone take to send such a message.
"""

from __future__ import annotations

import statistics
import sys

import attrs
from _children import (
    AUTOBAHN,
    CHIA,
    DIG,
    OPENSSL,
    Certificates,
    Child,
    Pair,
    available,
    start,
    wait_for_sessions,
)
from common import (
    claim_at_most,
    describe_machine,
    median_ratio,
    number,
    options,
    print_table,
    progress,
)

SIZES = {"1 KiB": 1024, "64 KiB": 65_536}
PEERS = (8, 32)
OVER_CHIA = {"1 KiB": 1 / 10, "64 KiB": 1 / 3}
WINDOW_MESSAGES = 256
WINDOW_BYTES = 1024 * 1024


@attrs.frozen
class Workload:
    """A broadcast of one size to so many peers."""

    size: str
    peers: int

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.size} to {self.peers} peers"

    @property
    def window(self) -> int:
        """Messages on their way to each peer at most."""
        return max(4, min(WINDOW_MESSAGES, WINDOW_BYTES // SIZES[self.size]))


class Sender:
    """A process with sessions, and the crowd at their other ends."""

    def __init__(self, name: str, certificates: Certificates, peers: int) -> None:
        self.name = name
        self.peers = peers
        self._sender = start(name, certificates.leaf("acceptor"))
        self._crowd = Child(sys.executable, "_crowd.py", str(certificates.folder / "crowd.pem"))

    def connect(self) -> None:
        """Let all peers in."""
        where = {key: self._sender.hello[key] for key in ("port", "network")}
        self._crowd.ask("open", count=self.peers, **where)
        wait_for_sessions(self._sender, self.peers)

    def broadcast(self, workload: Workload, count: int) -> float:
        """Microseconds of processor time a copy, for ``count`` messages or a few more.

        :raises RuntimeError: a copy was lost, or came twice.
        """
        size, every = SIZES[workload.size], workload.window // 4
        count = max(2, -(-count // every)) * every
        answer = self._sender.hello.get("answer", 0)
        self._crowd.ask("count", size=size, every=every, answer=answer)
        sent = self._sender.ask(
            "send", count=count, size=size, window=workload.window, every=every, spread=True
        )
        got = self._crowd.ask("counts")["got"]
        if got != [count] * self.peers:
            raise RuntimeError(f"{self.name}: {count} messages were sent, {got} came")
        cpu: float = sent["cpu"] / count / self.peers * 1e6
        return cpu

    def close(self) -> None:
        """End both processes."""
        self._crowd.close()
        self._sender.close()


class Floor:
    """Nothing but OpenSSL over TCP in C, and one session: what a copy costs at least, or nearly.

    It encrypts and sends each message by itself; who gathers small ones can do with less.
    """

    name = OPENSSL

    def __init__(self, certificates: Certificates) -> None:
        self._pair = Pair(OPENSSL, certificates)

    def connect(self) -> None:
        """Open the session."""
        self._pair.connect()

    def broadcast(self, workload: Workload, count: int) -> float:
        """As :meth:`Sender.broadcast`."""
        every = workload.window // 4
        count = max(2, -(-count // every)) * every
        size = SIZES[workload.size]
        flow = self._pair.stream(count, size, workload.window, inward=False, spread=False)
        return flow.sender_cpu * 1e6

    def close(self) -> None:
        """End both processes."""
        self._pair.close()


Results = dict[Workload, dict[str, list[float]]]


def measure(
    names: list[str], copies: dict[str, int], peers: tuple[int, ...], rounds: int
) -> Results:
    """Measure in turns.

    :param copies: how many copies of each size a measurement has.
    """
    results: Results = {}
    with Certificates.temporary() as certificates:
        certificates.crowd(max(peers))
        for crowd in peers:
            senders: list[Sender | Floor] = []
            try:
                for name in names:
                    is_floor = name == OPENSSL
                    senders.append(
                        Floor(certificates) if is_floor else Sender(name, certificates, crowd)
                    )
                    senders[-1].connect()
                for turn in range(-1, rounds):
                    for size, count in copies.items():
                        workload = Workload(size, crowd)
                        each = results.setdefault(workload, {name: [] for name in names})
                        progress(f"round {max(turn, 0) + 1} of {rounds}: {workload.name}")
                        for sender in senders:
                            warm = turn < 0
                            cpu = sender.broadcast(workload, 1 if warm else count // crowd)
                            if not warm:
                                each[sender.name].append(cpu)
            finally:
                for sender in senders:
                    sender.close()
    progress("")
    return results


def main() -> int:
    """Run the benchmark."""
    chosen = options(__doc__, [AUTOBAHN, CHIA, OPENSSL]).parse_args()
    rounds = chosen.rounds or (1 if chosen.quick else 5)
    names = [DIG, *available(chosen.counterparts)]
    copies = {"1 KiB": 20_000, "64 KiB": 3000}
    peers: tuple[int, ...] = PEERS
    if chosen.quick:
        copies, peers = {"1 KiB": 512, "64 KiB": 64}, (8,)
    print(describe_machine(), end="\n\n")
    results = measure(names, copies, peers, rounds)
    others = names[1:]
    print_table(
        ["µs of the sender's processor a copy", *names, *(f"over {name}" for name in others)],
        (
            [
                workload.name,
                *(number(statistics.median(cpu[name])) for name in names),
                *(f"{median_ratio(cpu[DIG], cpu[name]):.3f}" for name in others),
            ]
            for workload, cpu in results.items()
        ),
    )
    if CHIA in names:
        for workload, cpu in results.items():
            claim_at_most(
                f"broadcast of {workload.name}: µs of processor a copy, over chia",
                cpu[DIG],
                cpu[CHIA],
                OVER_CHIA[workload.size],
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
