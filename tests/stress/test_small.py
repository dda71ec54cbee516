"""The long runs in small, so that they keep working; each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import GossipConfig, GossipService
from dig_gossip.service.gossip_service import Node
from dig_gossip.testing.certificates import throwaway_identity
from tests.stress.sizes import caps, sizes

_ROOT = Path(__file__).resolve().parents[2]


class SmallTests(SynchronousTestCase):
    """A few seconds of what ``make stress`` and ``make soak`` do for minutes."""

    def lines(self, module: str, *arguments: object) -> list[str]:
        """Run a module that must succeed; what it prints."""
        command = [sys.executable, "-m", f"tests.stress.{module}", *map(str, arguments)]
        ran = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, timeout=150, check=False
        )
        if ran.returncode:
            raise AssertionError(f"{module} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        return ran.stdout.splitlines()

    def test_soak_leaves_nothing(self) -> None:
        """Churn and faults: no error, no growth, no timer, descriptor or node left.  style 8.5"""
        lines = self.lines("soak", "--seconds", 3, "--seed", 5, "--rest", 1)
        self.assertEqual(lines[-1], "nothing is left; seed 5")
        self.assertIn("broadcast", " ".join(lines))

    def test_the_walk_finds_what_a_node_keeps(self) -> None:
        """Every collection with a bound by name exists, and is found under it.  style §4"""
        service = GossipService(GossipConfig(), identity=throwaway_identity("walk"))
        found = sizes(Node(service))
        for name in ("SeenSet._kept", "MessageCache._cached", "_Ledger._banned"):
            self.assertIn(name, found)
        text = "".join(path.read_text() for path in (_ROOT / "dig_gossip").rglob("*.py"))
        for name in caps(service.config):
            of, _, attribute = name.rstrip("[]").partition(".")
            self.assertRegex(text, rf"class {of}\b")
            self.assertIn(f"self.{attribute}", text)

    def test_flood_costs_no_honest_link(self) -> None:
        """Connections of five kinds that lead to nothing, among honest ones.  CON-002, CON-111-X"""
        lines = self.lines(
            "flood", "--attempts", 100, "--rate", 100, "--honest", 3, "--before", 1, "--leave"
        )
        verdicts: list[dict[str, Any]] = [json.loads(line) for line in lines[-4:]]
        links, messages, _latency, _memory = verdicts
        self.assertTrue(links["holds"], lines)
        self.assertTrue(messages["holds"], lines)
        counted = json.loads(lines[-5].partition(": ")[2])
        self.assertGreater(counted["opening_failed.inbound.tls"], 0, "the attack did not arrive")

    def test_crowd_costs_no_honest_client_of_a_relay(self) -> None:
        """Clients by the dozen, and some that break each limit.  RSV-109-X, RSV-110-X"""
        lines = self.lines("crowd", "--clients", 40, "--bad", 6)
        for verdict in map(json.loads, lines[-4:]):
            self.assertTrue(verdict["holds"], lines)
