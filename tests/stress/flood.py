"""Thousands of connections that lead to nothing, against a node whose peers want to talk.

``python -m tests.stress.flood [--attempts 10000]``; ``make stress``.

Three processes on loopback: a node with its default limits, twenty honest peers that exchange
messages through it, and an attacker that opens connections of five kinds (``attacker``). Shown are
the honest links lost, the p99 of what the honest peers' messages take before and during the attack,
and the node's resident memory before and after.

Loopback is exempt from the limit per IP, which is why every attempt counts: the attacker stands for
one who has as many addresses as it likes, and comes from as many of 127.0.0.0/8. What holds it
back is the number of handshakes under way, and their deadline.

The exit status is 1 if a link or a message is lost, or memory has grown by half, as it does with a
leak. Latency and the exact growth are only shown: machines differ, CI's are shared, and the heap
keeps what the handshakes of one moment once took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECS = 60
DEADLINE_SECS = 31  # of a handshake, and a little
LATENCY_RATIO, MEMORY_RATIO = 2.0, 1.2
LEAK_RATIO = 1.5


class Child:
    """A process of this folder that takes commands as lines of JSON and answers each with one."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._name = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.stress.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def tell(self, **command: object) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:  # Any: JSON
        """Wait for what it says next.

        :raises RuntimeError: it has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **command: object) -> dict[str, Any]:
        """Give a command and wait for the answer."""
        self.tell(**command)
        return self.answer()

    def close(self) -> None:
        """End it; it stops when its standard input ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def verdict(claim: str, figure: float, counterpart: float, goal: str, *, holds: bool) -> None:
    """Print one line of JSON, as the benchmarks do."""
    ratio = figure / counterpart if counterpart else figure
    row = {"claim": claim, "figure": round(figure, 3), "counterpart": round(counterpart, 3)}
    print(json.dumps({**row, "ratio": round(ratio, 3), "goal": goal, "holds": holds}), flush=True)


def flood(attempts: int, rate: float, honest: int, before: float, *, stay: bool) -> bool:
    """Run it.

    :param rate: attempts a second.
    :param before: seconds of peace to compare with.
    :param stay: whether some attackers stay until the node ends it.
    :returns: whether all links stayed and memory was given back.
    """
    node = Child("node")
    peers: Child | None = None
    attacker: Child | None = None
    try:
        where = node.answer()
        peers = Child("honest", where["port"], honest)
        peers.answer()
        peers.ask(do="talk", seconds=min(before, 3.0))  # warm
        calm = peers.ask(do="talk", seconds=before)
        start = node.ask(do="look")

        attacker = Child("attacker", where["port"], attempts, rate, int(stay))
        attacker.answer()
        began = time.monotonic()
        attacker.tell(do="attack")
        peers.tell(do="talk", seconds=attempts / rate)
        under_attack = peers.answer()
        attempted = attacker.answer()
        took = time.monotonic() - began

        end = node.ask(do="look")
        patience = time.monotonic() + DEADLINE_SECS
        while end["openings"] and time.monotonic() < patience:
            time.sleep(0.5)
            end = node.ask(do="look")
        print(f"{attempts} attempts in {took:.0f} s: {json.dumps(attempted)}")
        print(f"what the node has counted: {json.dumps(end['counters'])}")
        lost = honest - end["sessions"] + end["removed"] + under_attack["lost"]
        missing = calm["missing"] + under_attack["missing"]
        verdict("honest links lost", lost, honest, "== 0", holds=lost == 0)
        verdict("messages of honest peers lost", missing, calm["sent"], "== 0", holds=missing == 0)
        figure, counterpart = under_attack["p99"], calm["p99"]
        verdict(
            "p99 in ms of honest messages under attack, over that before",
            *(figure, counterpart, f"<= {LATENCY_RATIO:g}"),
            holds=figure <= LATENCY_RATIO * counterpart,
        )
        growth = end["resident"] / start["resident"]
        verdict(
            "MiB of the node after the attack, over that before",
            *(end["resident"] / 2**20, start["resident"] / 2**20, f"<= {MEMORY_RATIO:g}"),
            holds=growth <= MEMORY_RATIO,
        )
        return lost == 0 and missing == 0 and growth <= LEAK_RATIO and not end["openings"]
    finally:
        for child in (attacker, peers, node):
            if child is not None:
                child.close()


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--attempts", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100.0, help="attempts a second")
    parser.add_argument("--honest", type=int, default=20, help="peers")
    parser.add_argument("--before", type=float, default=20.0, help="seconds of peace")
    parser.add_argument(
        "--leave", action="store_true", help="no attacker stays until the node ends it: shorter"
    )
    options = parser.parse_args()
    fine = flood(
        options.attempts, options.rate, options.honest, options.before, stay=not options.leave
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
