"""Introducers and nodes of both kinds: chia-blockchain's own classes, over real sockets.

Run by ``make interop``. All of it is on Chia's test network, because on the main one Chia's
programs ask DNS servers whatever they are configured to do.
"""

from __future__ import annotations

import signal

from tests.interop.environment import CHIA_INTRODUCER, CHIA_NODE, chia_python
from tests.interop.processes import ProcessCase, Program, only_by_make_interop

NETWORK = "testnet11"
OURS = "chia-testnet11"
KNOWN = "127.7.7.7:4321"


class IntroducerCase(ProcessCase):
    """Starts Chia's programs and ours."""

    timeout = 300

    def setUp(self) -> None:
        only_by_make_interop()
        self.chia_python = chia_python()
        super().setUp()

    async def chia_node(self, name: str, *options: str) -> Program:
        """A full node of Chia that listens."""
        words = ("--root", str(self.folder / name), "--network", NETWORK, *options)
        node = self.start(Program(name), self.chia_python, CHIA_NODE, *words, ours=False)
        await node.when_event("listening")
        return node

    async def chia_introducer(self, *options: str) -> Program:
        """An introducer of Chia that listens."""
        words = ("--root", str(self.folder / "introducer"), "--network", NETWORK, *options)
        introducer = self.start(
            Program("chia introducer"), self.chia_python, CHIA_INTRODUCER, *words, ours=False
        )
        await introducer.when_event("listening")
        return introducer

    def where(self, program: Program) -> str:
        """Where a program of Chia listens."""
        return f"127.0.0.1:{program.events('listening')[0]['port']}"

    def embedded(self, endpoint: str) -> Program:
        """Start a node that registers and asks, and prints the answers."""
        return self.python("dig", "-m", "tests.interop.introduced_node", OURS, endpoint)


class ChiaIntroducerTests(IntroducerCase):
    """Chia's introducer, our node."""

    async def test_it_registers_and_answers_our_node(self) -> None:
        """By the greeting and with 64; it is never sent 218, and bans nobody.

        DSC-004.1, DSC-005, wire §9
        """
        introducer = await self.chia_introducer("--know", KNOWN)
        node = self.embedded(f"wss://{self.where(introducer)}")
        registered = await node.when_event("registered")
        self.assertTrue(registered["success"])
        answer = await node.when_event("discovered")
        self.assertEqual(answer["peers"], [KNOWN])
        host, _, port = node.events("listening")[0]["address"].rpartition(":")
        await introducer.when_event("registered", host=host, port=int(port), taken=True)

        node.send_signal(signal.SIGTERM)
        self.assertEqual(await node.when_ended(), 0)
        introducer.send_signal(signal.SIGTERM)
        self.assertEqual(await introducer.when_ended(), 0)
        received = {event["message"] for event in introducer.events("received")}
        self.assertEqual(received, {"handshake", "request_peers_introducer"})
        (summary,) = introducer.events("summary")
        self.assertEqual({"banned", "refused"} & set(summary["totals"]), set())

    async def test_it_vets_our_node_and_names_it_to_the_next(self) -> None:
        """Its own vetting, a minute later.  ISV-104-X, wire §9"""
        introducer = await self.chia_introducer()
        endpoint = f"wss://{self.where(introducer)}"
        first = self.embedded(endpoint)
        await first.when_event("registered")
        await introducer.when_line(lambda line: "Have vetted" in line, timeout=120)
        second = self.embedded(endpoint)
        answer = await second.when_event("discovered")
        self.assertEqual(answer["peers"], [first.events("listening")[0]["address"]])


class OurIntroducerTests(IntroducerCase):
    """Our introducer, Chia's full nodes."""

    async def test_a_full_node_finds_our_node_through_it(self) -> None:
        """Chia's discovery loop asks; the two nodes meet.  ISV-101-X, ISV-105-X"""
        introducer = await self.introducer("introducer", "--network", OURS)
        endpoint = f"wss://{introducer.address}"
        ours = await self.node("ours", "--network", OURS, "--introducer", endpoint)
        await ours.when_event("introducer_registered", accepted="accepted")
        chia = await self.chia_node("chia", "--introducer", introducer.address)
        met = await chia.when_event("connected", type="INTRODUCER")
        self.assertEqual(met["direction"], "outbound")
        # The introducer names each to the other, so either may be the first to dial.
        await chia.when_event("connected", type="FULL_NODE", peer_id=ours.peer_id)
        chia_id = chia.events("listening")[0]["peer_id"]
        await ours.when_event("session_opened", peer_id=chia_id)
        chia.send_signal(signal.SIGTERM)
        self.assertEqual(await chia.when_ended(), 0)
        (summary,) = chia.events("summary")
        self.assertEqual({"banned", "refused", "failure"} & set(summary["totals"]), set())

    async def test_a_full_node_is_registered_by_its_greeting(self) -> None:
        """It is vetted with a handshake, and named to the next node.  ISV-102-X, wire §9"""
        introducer = await self.introducer("introducer", "--network", OURS)
        chia = await self.chia_node("chia", "--introducer", introducer.address)
        await chia.when_event("connected", type="INTRODUCER")
        probe = await chia.when_event("connected", direction="inbound")
        self.assertEqual((probe["server_port"], probe["replaces"]), (0, False))
        await chia.when_event("closed", direction="inbound", by="peer", code=1000)
        node = self.embedded(f"ws://{introducer.address}")
        answer = await node.when_event("discovered")
        self.assertEqual(answer["peers"], [self.where(chia)])
