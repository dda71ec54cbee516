"""A node among full nodes of Chia: chia-blockchain's own server, over real sockets.

Run by ``make interop``. Loopback is no exception here: Chia's nodes limit and ban it like any other
address, so a node that breaks their rules is thrown out.
"""

from __future__ import annotations

import signal

from dig_gossip.connection.etiquette import TO_FULL_NODE, TO_WALLET
from tests.interop.big_blocks import ANSWER_BYTES
from tests.interop.environment import BUSY_CHIA, CHIA_NODE, chia_python
from tests.interop.processes import Event, ProcessCase, Program, only_by_make_interop
from tests.interop.time_lapse import (
    FULL_ANSWER_SECS,
    ONE_BLOCK_SECS,
    PEAK_SECS,
    TRANSACTION_SECS,
)
from tests.vectors import load

IDLE_SECS = 200
"""Longer than every timer that may end an idle session on either side."""

SETTLING_SECS = 20
"""From the start of a process to the session, generously."""

NEW_TRANSACTION, NEW_ATTESTATION = 21, 200


class ChiaCase(ProcessCase):
    """Starts full nodes of Chia."""

    timeout = IDLE_SECS + 300

    def setUp(self) -> None:
        only_by_make_interop()
        self.chia_python = chia_python()
        super().setUp()

    def chia(self, name: str, *options: str) -> Program:
        """Start a full node of Chia, with its files in the test's own folder."""
        options = ("--root", str(self.folder / name), *options)
        return self.start(Program(name), self.chia_python, CHIA_NODE, *options, ours=False)

    async def listening(self, chia: Program) -> str:
        """Where a full node of Chia listens."""
        return f"127.0.0.1:{(await chia.when_event('listening'))['port']}"

    def assert_peaceful(self, summary: Event) -> None:
        """Nobody was closed, banned, refused or limited."""
        troubles = {"closed", "banned", "refused", "held_back", "failure"} & set(summary["totals"])
        self.assertEqual(troubles, set())

    def received(self, chia: Program) -> set[str]:
        """The names of the messages that a full node has received; numbers if it has none."""
        return {str(event["message"]) for event in chia.events("received")}


class IdleTests(ChiaCase):
    """Sessions that nobody uses."""

    async def test_both_directions_stay_registered_while_nothing_happens(self) -> None:
        """Neither side drops an idle session, whoever dialed.  CON-004, CON-005, design D15"""
        seconds = str(IDLE_SECS + SETTLING_SECS)
        dialed = self.chia("dialed", "--listen", "127.0.0.1:0", "--seconds", seconds)
        target = await self.listening(dialed)
        dialing_us = await self.node("dialed by chia", "--network", "chia-mainnet")
        dialing = self.chia("dialing", "--dial", dialing_us.address, "--seconds", seconds)
        our_dial = await self.node(
            "dials chia",
            *("--network", "chia-mainnet", "--peer", target),
            *("--data-dir", self.folder / "dials chia"),
        )

        for chia, node, direction in (
            (dialed, our_dial, "inbound"),
            (dialing, dialing_us, "outbound"),
        ):
            there = await chia.when_event("connected", peer_id=node.peer_id)
            self.assertEqual((there["direction"], there["type"]), (direction, "FULL_NODE"))
            introduction = await chia.when_event("listening")
            here = await node.when_event("session_opened", peer_id=introduction["peer_id"])
            self.assertEqual(here["outbound"], direction == "inbound")

        for chia, node in ((dialed, our_dial), (dialing, dialing_us)):
            summary = await chia.when_event("summary", timeout=self.timeout)
            (connection,) = summary["connections"]
            self.assertGreater(connection["age"], IDLE_SECS)
            self.assert_peaceful(summary)
            # Our pings keep Chia's own, due after 60 s without a frame, from being sent.
            self.assertGreaterEqual(summary["totals"]["ping_answered"], IDLE_SECS // 30)
            self.assertNotIn("ping_sent", summary["totals"])
            self.assertLessEqual(
                self.received(chia), {"handshake", "request_peers", "respond_peers"}
            )
            # Until Chia's node stops, just after its summary, ours has lost nothing either.
            self.assertEqual(len(node.events("session_opened")), 1)
            self.assertEqual({event["peers"] for event in node.events("progress")}, {1})
            self.assertGreaterEqual(len(node.events("progress")), 3)
            await node.when_event("session_closed", reason="disconnected")
        await self.stopped(dialing_us, our_dial)


class BusyTests(ChiaCase):
    """Two hours of a full node's traffic within four minutes; the rate limits' clocks run along."""

    timeout = 900

    async def test_two_hours_of_traffic_cost_nobody_anything(self) -> None:
        """Peaks, transactions, blocks, answers of 50 MiB, both ways, whoever dialed.

        CON-005, RL-103-X, design D7, D15
        """
        template = next(
            vector["fields"]["block"]["hex"]
            for vector in load("chia_messages.json")
            if vector["name"] == "respond_block_minimal"
        )
        dialed = self.busy_chia("dialed", template)
        target = await self.listening(dialed)
        node = self.python("dig", "-m", "tests.interop.busy_node", target, template)
        address = (await node.when_event("listening"))["address"]
        dialing = self.busy_chia("dialing", template, "--dial", address)

        ours = (await node.when_event("lived", timeout=800))["counts"]
        peaks, transactions = int(7200 / PEAK_SECS), int(7200 / TRANSACTION_SECS)
        asked = int(7200 / ONE_BLOCK_SECS) + int(7200 / FULL_ANSWER_SECS)
        self.assertEqual(ours["new_peak"], 2 * peaks)
        self.assertEqual(ours["new_transaction"], 2 * transactions)
        self.assertEqual((ours["asked"], ours["answered"]), (2 * asked, 2 * asked))
        self.assertGreater(ours["largest"], ANSWER_BYTES - 2048)
        for chia in (dialed, dialing):
            theirs = (await chia.when_event("lived", timeout=300))["counts"]
            self.assertEqual((theirs["new_peak"], theirs["new_transaction"]), (peaks, transactions))
            self.assertEqual((theirs["asked"], theirs["answered"]), (asked, asked))
            self.assertGreater(theirs["largest"], ANSWER_BYTES - 2048)

        stats = await node.when_event("stats")
        self.assertEqual(stats["peers"], 2)
        bad = ("removed.", "penalty.", "rate_dropped", "budget_dropped", "bulk_dropped", "lagged")
        self.assertEqual([name for name in stats["extra"] if name.startswith(bad)], [])
        received = {name.partition(" ")[2]: 0 for name in stats["received"]}
        for name, count in stats["received"].items():
            received[name.partition(" ")[2]] += count
        self.assertEqual(received["NEW_PEAK"], 2 * peaks)
        self.assertEqual(received["NEW_TRANSACTION"], 2 * transactions)
        for chia in (dialed, dialing):
            chia.close_input()
            summary = await chia.when_event("summary")
            got = summary["counts"]["received"]
            self.assertEqual(got["new_peak"], peaks)
            self.assertEqual(got["new_transaction"], transactions)
            self.assert_peaceful(summary)
            self.assertEqual(len(summary["connections"]), 1)
        self.assertEqual(await node.when_ended(), 0)

    def busy_chia(self, name: str, template: str, *options: str) -> Program:
        """Start a full node of Chia that lives through the two hours."""
        options = ("--root", str(self.folder / name), "--template", template, *options)
        return self.start(Program(name), self.chia_python, BUSY_CHIA, *options, ours=False)


class TableTests(ChiaCase):
    """What Chia's code says about its messages, and what ours believes."""

    async def test_what_we_say_is_what_a_chia_node_takes(self) -> None:
        """Handlers and permitted senders, from its own tables.  design D5, wire §6"""
        script = CHIA_NODE.with_name("chia_tables.py")
        tables = self.start(Program("tables"), self.chia_python, script, ours=False)
        said = await tables.when_event("tables")
        self.assertEqual(set(said["full_node"]), TO_FULL_NODE)
        self.assertLessEqual(TO_WALLET, set(said["wallet"]))
        self.assertEqual(await tables.when_ended(), 0)


class OtherNetworkTests(ChiaCase):
    """A full node of another network."""

    async def test_we_refuse_a_node_of_another_network(self) -> None:
        """It dials; we close with 1002 and Chia's error 110.  CON-003.6, wire §5.3"""
        node = await self.node("node", "--network", "chia-mainnet")
        chia = self.chia("chia", "--network", "testnet11", "--dial", node.address)
        closed = await chia.when_event("closed", direction="outbound")
        self.assertEqual((closed["by"], closed["code"], closed["reason"]), ("peer", 1002, "110"))
        failed = await node.when_event("opening_failed", direction="inbound")
        self.assertEqual(failed["error"], "wrong_network: the peer is on testnet11")
        self.assertEqual(chia.events("connected"), [])
        self.assertEqual(node.events("session_opened"), [])

    async def test_a_node_of_another_network_refuses_us(self) -> None:
        """We dial; its 1002 with 110 is understood as what it means.  CON-003.6, wire §2"""
        chia = self.chia("chia", "--network", "testnet11")
        target = await self.listening(chia)
        node = await self.node("node", "--network", "chia-mainnet", "--peer", target)
        closed = await chia.when_event("closed", direction="inbound")
        self.assertEqual((closed["by"], closed["code"]), ("us", 1002))
        self.assertTrue(closed["reason"].startswith("110 "))
        failed = await node.when_event("opening_failed", direction="outbound")
        self.assertIn("wrong_network: closed by the peer: 1002 110", failed["error"])
        self.assertEqual(node.events("session_opened"), [])


class EtiquetteTests(ChiaCase):
    """What a full node of Chia gets to hear from a node that also speaks DIG."""

    async def test_dig_messages_never_reach_a_full_node(self) -> None:
        """It gets Chia's messages, nothing from 200 up, and bans nobody.  design D5, MSG-105-X"""
        chia = self.chia("chia", "--listen", "127.0.0.1:0")
        target = await self.listening(chia)
        node = self.python("dig", "-m", "tests.interop.dig_node", target)
        await node.when_event("answered")
        connected = await chia.when_event("connected", direction="inbound")
        self.assertEqual(connected["peer_id"], node.events("connected")[0]["peer_id"])
        self.assertEqual(
            [(event["message"], event["sent"]) for event in node.events("broadcast")],
            [(NEW_ATTESTATION, 1), (NEW_TRANSACTION, 2)],
        )
        self.assertEqual([e["data"] for e in node.events("delivered")], ["for DIG nodes"])
        self.assertEqual(len(node.events("refused")), 1)

        await chia.when_event("received", message="new_transaction")
        for _ in range(3):  # announcements that wait for company would have come meanwhile
            await chia.when_event("ping_answered", since=len(chia.lines))
        self.assertLessEqual(
            self.received(chia),
            {"handshake", "request_peers", "respond_peers", "new_transaction"},
        )

        node.send_signal(signal.SIGTERM)
        self.assertEqual(await node.when_ended(), 0)
        self.assertEqual([len(event["peers"]) for event in node.events("stopping")], [2])
        closed = await chia.when_event("closed")
        self.assertEqual((closed["by"], closed["code"]), ("peer", 1001))
        chia.send_signal(signal.SIGTERM)
        self.assertEqual(await chia.when_ended(), 0)
        (summary,) = chia.events("summary")
        self.assertEqual({"banned", "refused", "failure"} & set(summary["totals"]), set())
