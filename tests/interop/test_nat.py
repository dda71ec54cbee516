"""Two nodes behind NATs of each kind, a relay between them: network namespaces, real kernels."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from tests.interop.processes import only_by_make_interop

PROJECT = Path(__file__).resolve().parents[2]
RIG = PROJECT.parent / "shared" / "rigs" / "nat_lab.py"
RELAY = "11.1.0.1:9450"
MESSAGES = 10_000

#: Every pair of kinds, and whether its NATs can be crossed.
PAIRS = {
    ("full-cone", "full-cone"): True,
    ("full-cone", "port-restricted"): True,
    ("full-cone", "symmetric"): True,
    ("port-restricted", "port-restricted"): True,
    ("port-restricted", "symmetric"): False,
    ("symmetric", "symmetric"): False,
}


@cache
def check_laboratory() -> None:
    """:raises SkipTest: this machine has no laboratory; says what is missing."""
    if not RIG.exists():
        raise SkipTest(f"the NAT laboratory is absent: {RIG}")
    done = subprocess.run(
        [sys.executable, str(RIG), "--check"], capture_output=True, text=True, timeout=60
    )
    found = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    needed = ("root", "ip", "nft", "namespaces, veth, bridge, nft nat")
    missing = [name for name in needed if not found.get(name)]
    if missing:
        raise SkipTest(f"the NAT laboratory needs {', '.join(missing)}: {done.stderr.strip()}")


def laboratory(nat_a: str, nat_b: str, *options: str) -> list[dict[str, Any]]:
    """Run a relay and two nodes; return what the nodes said."""
    check_laboratory()
    inside = f"cd {PROJECT} && exec {sys.executable} -m tests.interop"
    node = f"{inside}.nat_node ws://{RELAY} {MESSAGES}"
    done = subprocess.run(
        [
            sys.executable, str(RIG), "--nat-a", nat_a, "--nat-b", nat_b, *options,
            "--run", f"p1={inside}.relay_node {RELAY}", "--run", f"a={node}", "--run", f"b={node}",
            "--wait", "a,b", "--timeout", "150",
        ],
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    said = []
    decoder = json.JSONDecoder()
    for line in done.stdout.splitlines():
        while line.startswith("{"):  # two nodes may share a line
            fields, end = decoder.raw_decode(line)
            line = line[end:]
            if "event" in fields:
                said.append(fields)
    if sum(fields["event"] == "result" for fields in said) != 2:
        raise AssertionError(f"{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return said


class NatTests(TestCase):
    """What becomes of a relayed session depends on the NATs; what it carries does not."""

    timeout = 300

    async def pair(self, nat_a: str, nat_b: str) -> None:
        """Run one pair and check everything about it."""
        only_by_make_interop()
        running: Deferred[list[dict[str, Any]]] = deferToThread(laboratory, nat_a, nat_b)
        said = await running
        ways = [fields for fields in said if fields["event"] == "ways" and fields["ways"]]
        results = [fields for fields in said if fields["event"] == "result"]
        crossed = PAIRS[nat_a, nat_b]
        self.assertEqual([fields["ways"] for fields in ways[:2]], [["relay"], ["relay"]])
        for result in results:
            self.assertEqual((result["missing"], result["twice"], result["lagged"]), (0, 0, 0))
            self.assertEqual(result["punches_ok"], int(crossed))
        last = ["direct"] if crossed else ["relay"]
        self.assertEqual([fields["ways"] for fields in ways[-2:]], [last, last])

    def test_full_cone_and_full_cone(self) -> Deferred[None]:
        """Relayed, then direct, each of 10 000 messages once.  RLY-007"""
        return Deferred.fromCoroutine(self.pair("full-cone", "full-cone"))

    def test_full_cone_and_port_restricted(self) -> Deferred[None]:
        """Relayed, then direct.  RLY-007.1"""
        return Deferred.fromCoroutine(self.pair("full-cone", "port-restricted"))

    def test_full_cone_and_symmetric(self) -> Deferred[None]:
        """Relayed, then direct: one end is found wherever it comes from.  RLY-007.1"""
        return Deferred.fromCoroutine(self.pair("full-cone", "symmetric"))

    def test_port_restricted_and_port_restricted(self) -> Deferred[None]:
        """Relayed, then direct by a simultaneous open.  RLY-007.1"""
        return Deferred.fromCoroutine(self.pair("port-restricted", "port-restricted"))

    def test_port_restricted_and_symmetric(self) -> Deferred[None]:
        """Nothing can be punched; the relayed session stays, and loses nothing.  RLY-007.3"""
        return Deferred.fromCoroutine(self.pair("port-restricted", "symmetric"))

    def test_symmetric_and_symmetric(self) -> Deferred[None]:
        """Nothing can be punched.  RLY-007.3"""
        return Deferred.fromCoroutine(self.pair("symmetric", "symmetric"))
