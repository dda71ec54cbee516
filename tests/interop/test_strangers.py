"""Strangers at a node's door: clients that share no code with us, and visitors that misbehave.

Everything goes over real sockets to a ``twistd`` process. Visitors come from loopback addresses of
their own where the platform has them (Linux), so that no penalty for one disturbs the next.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Callable
from typing import NamedTuple

from twisted.internet.threads import deferToThread

from tests.interop.environment import PERMISSION, RAW_CLIENT, SDK_CLIENT, sdk_python
from tests.interop.processes import ProcessCase, Program, read_event
from tests.interop.raw_cases import cases
from tests.interop.raw_link import (
    BINARY,
    HANDSHAKE,
    REQUEST_PEERS,
    TEXT,
    Link,
    Target,
    build_frame,
    pack_handshake,
    pack_message,
    tls_context,
)

NOT_YET = ("oversize_for_its_opcode",)
"""Cases for which a node has no rule so far."""

SLOW = ("length_top_bit",)
"""Cases that last as long as a node's patience with a close that is not answered, 5 s."""

NETWORK = "chia-mainnet"
"""What nodes here run; strangers greet with its handshake string, ``mainnet``."""

FULL_NODE, FARMER = 1, 3


class ForeignClientTests(ProcessCase):
    """Clients written by others."""

    async def test_framing_cases_end_as_they_should(self) -> None:
        """Frames valid and invalid, byte by byte, over TLS.  wire §2, RFC 6455"""
        node = await self.node("node", "--network", NETWORK)
        skipped = NOT_YET if os.environ.get(PERMISSION) else NOT_YET + SLOW
        options = [word for name in skipped for word in ("--skip", name)]
        client = self.python("cases", "-m", RAW_CLIENT, node.address, "--cases", *options)
        status = await client.when_ended()
        summary = read_event(client.lines[-1])
        self.assertEqual((summary["failed"], status), ([], 0))
        self.assertEqual(summary["cases"], len(cases()) - len(skipped))
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


Visit = Callable[[Target, int], str]
"""What a visitor does; says what it saw. The number picks the address that it comes from."""


class Rude(NamedTuple):
    """One misbehaving visitor, what it must see, and what the node must note about it."""

    visit: Visit
    seen: str
    noted: str


class RudeVisitorTests(ProcessCase):
    """Whoever does not speak the protocol is sent away, and the next one is served."""

    async def test_rude_visitors_are_sent_away_and_the_next_is_served(self) -> None:
        """Each has its consequence, is noted, and disturbs nobody.  CON-002, CON-003, CON-009"""
        folder = self.folder / "data"
        node = await self.node("node", "--network", NETWORK, "--data-dir", folder)
        host, _, port = node.address.rpartition(":")
        target = Target(host, int(port), network="mainnet", node_type=FULL_NODE, timeout=30.0)
        twin = target._replace(certificate=folder / "node.crt", key=folder / "node.key")
        for _ in range(5):
            silent = await deferToThread(connect, target, 0)
            self.addCleanup(silent.close)
        visitors = {
            **RUDE,
            "own identity": Rude(
                lambda _, number: greets(pack_handshake("mainnet", FULL_NODE))(twin, number),
                "closed 1002",
                "the other end is this node",
            ),
        }
        for number, (name, rude) in enumerate(visitors.items(), 1):
            since = len(node.lines)
            self.assertEqual(await deferToThread(rude.visit, target, number), rude.seen, name)
            event = await node.when_event("opening_failed", since=since, direction="inbound")
            self.assertIn(rude.noted, event["error"], name)
            self.assertEqual(await deferToThread(honest, target, 100 + number), "open", name)
        await self.greeted(node)
        self.assertEqual(len(node.events("opening_failed")), len(visitors))
        await self.stopped(node)


# -- what visitors do


def connect(target: Target, number: int) -> socket.socket:
    """Open a TCP connection from an address of its own."""
    source = (f"127.8.0.{number}", 0) if sys.platform == "linux" else None
    return socket.create_connection((target.host, target.port), target.timeout, source)


def fate(sock: socket.socket) -> str:
    """Read to the end; say the status of an HTTP answer, or ``dropped``."""
    received = b""
    try:
        while len(received) < 65536 and (data := sock.recv(4096)):
            received += data
    except TimeoutError:
        return "open"
    except OSError:  # a reset, or an alert of TLS
        pass
    return received[9:12].decode() if received.startswith(b"HTTP/1.1 ") else "dropped"


def says(data: bytes, times: int = 1) -> Visit:
    """Send bytes without TLS."""

    def visit(target: Target, number: int) -> str:
        with connect(target, number) as sock:
            return flood(sock, data, times)

    return visit


def says_in_tls(data: bytes, times: int = 1) -> Visit:
    """Send bytes, with a certificate shown, that should have been a request for a WebSocket."""

    def visit(target: Target, number: int) -> str:
        with tls_context(target).wrap_socket(connect(target, number)) as sock:
            return flood(sock, data, times)

    return visit


def flood(sock: socket.socket, data: bytes, times: int) -> str:
    """Send the same bytes again and again, as long as they are taken."""
    try:
        for _ in range(times):
            sock.sendall(data)
    except OSError:
        pass
    return fate(sock)


def shows_no_certificate(target: Target, number: int) -> str:
    """Do TLS like a browser."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(connect(target, number)) as sock:
        return flood(sock, UPGRADE, 1)


def opens(*frames: bytes) -> Visit:
    """Open a WebSocket and send frames."""

    def visit(target: Target, number: int) -> str:
        link = Link(target, number)
        try:
            link.upgrade()
            link.send(b"".join(frames))
            return link.ending()
        finally:
            link.close()

    return visit


def greets(message: bytes) -> Visit:
    """Open a WebSocket and send a first message."""
    return opens(build_frame(BINARY, message))


def leaves_unasked(target: Target, number: int) -> str:
    """Open a WebSocket and hang up."""
    link = Link(target, number)
    status, _ = link.upgrade()
    link.close()
    return str(status)


def honest(target: Target, number: int) -> str:
    """Greet, ask and be answered."""
    link = Link(target, number)
    try:
        link.upgrade()
        link.greet()
        return link.alive()
    finally:
        link.close()


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
HANDSHAKE_BODY = pack_handshake("mainnet", FULL_NODE)

RUDE = {
    "noise without TLS": Rude(says(bytes(range(256))), "dropped", "tls: "),
    "WebSocket without TLS": Rude(says(UPGRADE + b"\r\n"), "dropped", "tls: http request"),
    "no certificate": Rude(
        shows_no_certificate, "dropped", "tls: peer did not return a certificate"
    ),
    "noise in TLS": Rude(says_in_tls(bytes(range(128, 192)) + b"\r\n\r\n"), "400", "ws: "),
    "other path": Rude(says_in_tls(UPGRADE.replace(b"/ws", b"/rpc") + b"\r\n"), "404", "ws: "),
    "no WebSocket": Rude(says_in_tls(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"), "426", "ws: "),
    "10 MB of headers": Rude(
        says_in_tls(UPGRADE + b"X-Header: value\r\n" * 600, times=1000), "dropped", "ws: "
    ),
    "hangs up": Rude(leaves_unasked, "101", "ws: connection lost before the handshake"),
    "text first": Rude(opens(build_frame(TEXT, b"hello")), "closed 1003", ""),
    "question first": Rude(
        greets(pack_message(REQUEST_PEERS, 1)), "closed 1002", "missing_handshake"
    ),
    "truncated handshake": Rude(greets(HANDSHAKE_BODY[:-1]), "closed 1002", "missing_handshake"),
    "handshake and more": Rude(greets(HANDSHAKE_BODY + b"x"), "closed 1002", "missing_handshake"),
    "handshake of 1 MiB": Rude(
        greets(pack_message(HANDSHAKE, None, bytes(1 << 20))), "closed 1009", "ws: "
    ),
    "other network": Rude(
        greets(pack_handshake("testnet11", FULL_NODE)),
        "closed 1002",
        "wrong_network: the peer is on testnet11",
    ),
    "old version": Rude(
        greets(HANDSHAKE_BODY.replace(b"0.0.37", b"0.0.01")), "closed 1002", "bad_version"
    ),
    "farmer": Rude(greets(pack_handshake("mainnet", FARMER)), "closed 1008", "wrong_node_type"),
}
"""Visitors by what is wrong with them."""
