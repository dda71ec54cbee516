"""The ``dig-gossip`` command."""

from __future__ import annotations

import io
import random
import sys
from contextlib import redirect_stderr, redirect_stdout

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from dig_gossip.cli.display import summary_lines
from dig_gossip.cli.localnet import is_connected, random_graph
from dig_gossip.cli.main import main
from dig_gossip.cli.summary import Summary


class ConnectedTests(SynchronousTestCase):
    """``is_connected``."""

    def test_a_network_is_connected_or_in_parts(self) -> None:
        """Messages begin when they can reach everybody.  design §4"""
        self.assertTrue(is_connected({0: set()}))
        self.assertFalse(is_connected({0: set(), 1: set()}))
        self.assertTrue(is_connected({0: {1}, 1: {0, 2}, 2: {1}}))
        self.assertFalse(is_connected({0: {1}, 1: {0}, 2: {3}, 3: {2}}))


class GraphTests(SynchronousTestCase):
    """``random_graph``."""

    @given(st.integers(2, 40), st.integers(1, 8), st.integers())
    def test_it_is_connected_and_of_the_degree_asked_for(
        self, nodes: int, degree: int, seed: int
    ) -> None:
        """Every node dials only earlier ones, and can be reached.  design §4"""
        graph = random_graph(nodes, degree, random.Random(seed))
        links = {(a, b) for a, dials in enumerate(graph) for b in dials}
        self.assertTrue(all(b < a for a, b in links))
        reached = {0}
        for a in range(1, nodes):  # each dials someone earlier, so one pass is enough
            self.assertTrue(graph[a] & reached)
            reached.add(a)
        self.assertLessEqual(len(links), max(nodes - 1, nodes * degree // 2))


class SummaryTests(SynchronousTestCase):
    """What a run comes to."""

    def summary(self, **changes: object) -> Summary:
        values: dict[str, object] = {
            "nodes": 4,
            "links": 4,
            "messages": 2,
            "deliveries": 6,
            "missing": 0,
            "repeated": 0,
            "duplicates": 3,
            "bytes_sent": 6600,
            "payload_size": 1000,
            "latencies": [0.001 * n for n in range(1, 101)],
        }
        values.update(changes)
        return Summary(**values)  # type: ignore[arg-type]

    def test_figures(self) -> None:
        """Duplicates and bytes are per delivery.  design 4"""
        text = "\n".join(summary_lines(self.summary()))
        self.assertIn("exactly once", text)
        self.assertIn("duplicates per delivery 0.500", text)
        self.assertIn("over payload size 1.10", text)
        self.assertIn("p50 51.0 ms, p99 100.0 ms", text)

    def test_incomplete_runs_say_so(self) -> None:
        """Missing and repeated deliveries are named.  design 4"""
        self.assertFalse(self.summary(missing=1).complete)
        self.assertFalse(self.summary(repeated=1).complete)
        self.assertIn("1 deliveries missing", summary_lines(self.summary(missing=1))[0])

    def test_an_empty_run_divides_by_nothing(self) -> None:
        """Stopped before the first message.  design 4"""
        empty = self.summary(deliveries=0, latencies=[], messages=0)
        self.assertEqual((empty.duplicates_per_delivery, empty.byte_ratio), (0.0, 0.0))
        self.assertEqual(empty.percentile(0.99), 0.0)


class CommandTests(TestCase):
    """The command as its users run it."""

    timeout = 120

    def test_help_and_version(self) -> None:
        """Asking costs nothing and exits 0.  design 4"""
        for argument in ("--help", "--version"):
            out = io.StringIO()
            with redirect_stdout(out), self.assertRaises(SystemExit) as caught:
                main([argument])
            self.assertEqual(caught.exception.code, 0)
            self.assertIn("dig-gossip", out.getvalue())

    def test_bad_numbers_are_refused_with_a_sentence(self) -> None:
        """One node is no network.  design 4"""
        err = io.StringIO()
        with redirect_stderr(err), self.assertRaises(SystemExit) as caught:
            main(["localnet", "--nodes", "1"])
        self.assertEqual(caught.exception.code, 2)
        self.assertIn("at least 2", err.getvalue())

    async def test_transactions_once_delivers_everything_exactly_once(self) -> None:
        """Real sockets; all three engines say what they did.  design §4"""
        arguments = ["localnet", "--transactions", "--once", "--nodes", "5", "--degree", "3"]
        arguments += ["--messages", "20", "--seed", "1"]
        result: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
            sys.executable, ["-m", "dig_gossip.cli.main", *arguments], None
        )
        out, err, status = await result
        self.assertEqual((status, err), (0, b""), out)
        self.assertIn(b"exactly once", out)
        for engine in (b"ERLAY: 20 transactions", b"compact blocks: ", b"Dandelion++: "):
            self.assertIn(engine, out)

    async def test_localnet_once_delivers_everything_exactly_once(self) -> None:
        """Real sockets and TLS on loopback; exit status 0.  design §4"""
        arguments = [
            "localnet",
            "--once",
            "--nodes",
            "5",
            "--degree",
            "3",
            "--messages",
            "20",
            "--seed",
            "1",
        ]
        result: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
            sys.executable, ["-m", "dig_gossip.cli.main", *arguments], None
        )
        out, err, status = await result
        self.assertEqual((status, err), (0, b""), out)
        self.assertIn(b"20 messages of 512 bytes: 80 deliveries", out)
        self.assertIn(b"exactly once", out)

    async def test_localnet_behind_nats_meets_at_a_relay(self) -> None:
        """First through the relay, then direct, and nothing is lost.  design §4, RLY-007"""
        arguments = ["localnet", "--nat", "--once", "--plain", "--nodes", "3", "--messages", "10"]
        result: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
            sys.executable, ["-m", "dig_gossip.cli.main", *arguments], None
        )
        out, err, status = await result
        self.assertEqual((status, err), (0, b""), out)
        self.assertIn(b"exactly once", out)
        self.assertIn(b"relay ws://127.0.0.1:", out)
