"""Strangers at a node's door: clients that share no code with us, and visitors that misbehave.

Everything goes over real sockets to a ``twistd`` process. Visitors come from loopback addresses of
their own where the platform has them (Linux), so that no penalty for one disturbs the next.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from twisted.internet.threads import deferToThread

from tests.interop.environment import RAW_CLIENT, SDK_CLIENT, sdk_python
from tests.interop.processes import Node, ProcessCase, Program
from tests.interop.raw_link import (
    BINARY,
    CLOSE,
    HANDSHAKE,
    REQUEST_PEERS,
    TEXT,
    Link,
    Target,
    Unexpected,
    build_frame,
    pack_handshake,
    pack_message,
)

NOT_YET = ("oversize_for_its_opcode",)
"""Cases for which a node has no rule so far."""

NETWORK = "chia-mainnet"
"""What nodes here run; strangers greet with its handshake string, ``mainnet``."""

FARMER = 2


class ForeignClientTests(ProcessCase):
    """Clients written by others."""

    async def test_framing_cases_end_as_they_should(self) -> None:
        """Frames valid and invalid, byte by byte, over TLS.  wire §2, RFC 6455"""
        node = await self.node("node", "--network", NETWORK)
        skips = [word for name in NOT_YET for word in ("--skip", name)]
        client = self.python("cases", "-m", RAW_CLIENT, node.address, "--cases", *skips)
        status = await client.when_ended()
        wrong = [line for line in client.lines if '"ok": false' in line]
        self.assertEqual((status, wrong), (0, []))
        self.assertIn('"cases": 85, "failed": []', client.lines[-1])
        await self.greeted(node)

    async def test_a_wallet_of_chia_is_greeted_and_stays(self) -> None:
        """chia-wallet-sdk's client in Rust completes the handshake.  wire §5.2, CON-003.6"""
        node = await self.node("node", "--network", NETWORK)
        wallet = self.start(
            Program("wallet"),
            *(sdk_python(), SDK_CLIENT, node.address),
            *("--expect", "silent", "--timeout", "1", "--stay", "1"),
        )
        opened = await node.when_event("session_opened", outbound=False)
        self.assertEqual(await wallet.when_ended(), 0)
        (summary,) = wallet.events("summary")
        self.assertEqual((summary["lost"], summary["outcomes"]), (False, ["silent", "silent"]))
        await node.when_event("session_closed", peer_id=opened["peer_id"])


class Visit(NamedTuple):
    """One misbehaving visitor.

    ``run`` says what it saw; ``seen`` is what it must see, and ``logged`` what the node must say
    about the connection.
    """

    run: Callable[[Target, int], str]
    seen: str
    logged: str


class RudeVisitorTests(ProcessCase):
    """Whoever does not speak the protocol is sent away, and the next one is served."""

    async def test_rude_visitors_are_sent_away_and_the_next_is_served(self) -> None:
        """Each has its consequence, is noted, and disturbs nobody.  CON-002, CON-003, CON-009"""
        node = await self.node("node", "--network", NETWORK, "--data-dir", self.folder / "data")
        target = target_of(node)
        silent = [await deferToThread(connect, target, 0) for _ in range(5)]
        for sock in silent:
            self.addCleanup(sock.close)
        own = self.folder / "data" / "node.crt", self.folder / "data" / "node.key"
        visits = {**VISITS, "own identity": Visit(with_identity(*own), "closed 1002", "")}
        for number, (name, visit) in enumerate(visits.items(), 1):
            since = len(node.lines)
            seen = await deferToThread(visit.run, target, number)
            self.assertEqual(seen, visit.seen, name)
            event = await node.when_event("opening_failed", since=since, direction="inbound")
            self.assertIn(visit.logged, event["error"], name)
            self.assertEqual(await deferToThread(honest, target, 100 + number), "open", name)
        await self.greeted(node)
        self.assertEqual(len(node.events("opening_failed")), len(visits))
        await self.stopped(node)
