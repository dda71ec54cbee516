"""A private Tor network on loopback, real kernels, and nodes of which one may use nothing else.

Run by ``make interop``; needs Debian's ``tor``, and for the capture root and ``iproute2``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.internet.defer import Deferred
from twisted.protocols.portforward import ProxyFactory

from tests.discovery.onions import onion
from tests.interop.processes import Event, ProcessCase, Program, only_by_make_interop

PROJECT = Path(__file__).resolve().parents[2]
RIG = PROJECT.parent / "shared" / "rigs" / "private_tor.py"
TOR_SECS = 150.0

HERE, THERE = "10.231.77.1", "10.231.77.2"
HOP_BY_HOP, TCP, ICMPV6 = 0, 6, 58


def check_tor() -> None:
    """:raises SkipTest: this machine has no private Tor network; says what is missing."""
    only_by_make_interop()
    if not RIG.exists():
        raise SkipTest(f"the private Tor network is absent: {RIG}")
    if shutil.which("tor") is None or shutil.which("tor-gencert") is None:
        raise SkipTest("the private Tor network needs Debian's package tor")


def check_namespaces() -> None:
    """:raises SkipTest: no network namespace can be made here."""
    if shutil.which("ip") is None:
        raise SkipTest("the capture needs iproute2")
    if os.geteuid() != 0 or subprocess.run(["ip", "netns", "list"], capture_output=True).returncode:
        raise SkipTest("the capture needs root and network namespaces")


def ip(*words: str) -> None:
    """Run iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


def is_neighborly(flow: Event) -> bool:
    """Whether the kernel says that a link is up: ICMPv6 to everybody on the link.

    No program of a user's can have sent it; it has no ports.
    """
    return flow["protocol"] in (HOP_BY_HOP, ICMPV6) and flow["target"].startswith("ff02::")


class TorCase(ProcessCase):
    """Starts a Tor network and nodes."""

    timeout = 420

    def setUp(self) -> None:
        check_tor()
        super().setUp()

    async def tor(self) -> dict[str, Any]:
        """A network with two clients, so that who dials is not who publishes."""
        rig = self.start(
            Program("tor"), sys.executable, RIG, "--clients", "2", "--lifetime", "400", ours=False
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(self._ended(rig)))
        line = await rig.when_line(lambda text: text.startswith('{"'), timeout=TOR_SECS)
        described: dict[str, Any] = json.loads(line)
        return described

    async def _ended(self, rig: Program) -> None:
        """Let the network take itself down: killing it would leave its programs running."""
        rig.send_signal(signal.SIGTERM)
        await rig.when_ended()

    def peer(self, name: str, *prefix: str, **fields: Any) -> Program:
        """Start a node."""
        config = {"listen_addr": "127.0.0.1:0", "peers_file_path": "", **fields}
        module = (sys.executable, "-m", "tests.interop.tor_node", name, json.dumps(config))
        return self.start(Program(name), *prefix, *module)

    async def hidden(self, tor: dict[str, Any], **fields: Any) -> tuple[Program, str]:
        """A node that is nothing but an onion service of its own making, and its address."""
        node = self.peer(
            "hidden",
            discovery=False,
            cert_path=str(self.folder / "hidden.crt"),
            key_path=str(self.folder / "hidden.key"),
            tor={
                "enabled": True,
                "prefer_tor": True,
                "socks5_proxy": tor["socks"],
                "control_address": tor["control"],
            },
            **fields,
        )
        published = await node.when_event("onion", timeout=TOR_SECS)
        return node, published["address"]

    async def met(self, node: Program, hidden: Program, address: str) -> None:
        """Wait until two nodes have a session and have heard each other's greetings."""
        ours = await node.when_event("session", timeout=TOR_SECS)
        theirs = await hidden.when_event("session", timeout=TOR_SECS)
        self.assertEqual((ours["transport"], ours["address"]), ("tor", address))
        self.assertEqual((theirs["transport"], theirs["port"]), ("tor", 0))
        await hidden.when_event("delivered", text="greetings from dialer", timeout=TOR_SECS)
        await node.when_event("delivered", text="greetings from hidden", timeout=TOR_SECS)


class TorTests(TorCase):
    """Real Tor."""

    def test_onion_service_and_nothing_outside_of_tor(self) -> Deferred[None]:
        """Gossip with an onion service; every packet is Tor's.  PRV-010, PRV-010.2, TOR-101-X"""
        return Deferred.fromCoroutine(self._nothing_outside())

    async def _nothing_outside(self) -> None:
        check_namespaces()
        tor = await self.tor()
        hidden, address = await self.hidden(tor)
        self.assertTrue((self.folder / "hidden.key.onion").exists())
        self.wire()
        port = self.forward(tor["clients"][1]["socks"])
        inside = ("ip", "netns", "exec", self.namespace)
        wishes: dict[str, Any] = {
            "listen_addr": "0.0.0.0:0",
            "bootstrap_peers": [address, "peer.example.com:9444", "11.22.33.44:9444"],
            "introducer": {"endpoint": "ws://introducer.example.com:9448"},
            "relay": {"endpoint": "ws://relay.example.com:9450"},
            "dns_over_https": "https://doh.example.com/dns-query",
            "dns_servers": ["9.9.9.9"],
            "peer_connect_interval": 2,
        }
        capture = self.start(
            Program("capture"), *inside, sys.executable, "-m", "tests.interop.capture"
        )
        await capture.when_event("capturing")
        node = self.peer(
            "dialer",
            *inside,
            **wishes,
            tor={
                "enabled": True,
                "prefer_tor": True,
                "socks5_proxy": f"{HERE}:{port}",
                "onion_address": onion(1),  # leads nowhere; with it there is something to register
            },
        )
        await self.met(node, hidden, address)
        # That everything was tried makes the silence worth something.
        for event in ("introducer_failed", "relay_failed"):
            await node.when_event(event, timeout=TOR_SECS)
        flows = capture.events("flow")
        self.assertTrue(flows)
        strange = [f for f in flows if not (self.is_socks(f, port) or is_neighborly(f))]
        self.assertEqual(strange, [])
        # And the same wishes without Tor are seen: the capture misses nothing.
        since = len(capture.lines)
        self.peer("in the open", *inside, **wishes)
        await capture.when_event("flow", since=since, target="11.22.33.44", target_port=9444)

    def test_nodes_take_other_ids(self) -> Deferred[None]:
        """Whoever dials, and whoever is an onion service, which keeps its address; neither is ever
        without a session.  PRV-007.1, PRV-010.2
        """
        return Deferred.fromCoroutine(self._other_ids())

    async def _other_ids(self) -> None:
        tor = await self.tor()
        rotates = {"peer_id_rotation": {"rotation_interval_secs": 86_400}}
        hidden, address = await self.hidden(tor, **rotates)
        key = (self.folder / "hidden.key.onion").read_bytes()
        dials: dict[str, Any] = {
            "bootstrap_peers": [address],
            "peer_connect_interval": 2,
            "tor": {
                "enabled": True,
                "prefer_tor": True,
                "socks5_proxy": tor["clients"][1]["socks"],
            },
        }
        dialer = self.peer("dialer", **rotates, **dials)
        await self.met(dialer, hidden, address)

        # Who dials: a second session, the same onion service.
        new = await self.rotate(dialer)
        await hidden.when_event("delivered", text="greetings from dialer again", timeout=TOR_SECS)
        service = await hidden.when_event("started")
        only = {service["peer_id"]: new}
        await dialer.when_event("sessions", own_ids=only, timeout=TOR_SECS)
        turned = {new: service["peer_id"]}  # the first one has retired there, too
        await hidden.when_event("sessions", own_ids=turned, timeout=TOR_SECS)
        self.assertTrue(all(event["own_ids"] for event in dialer.events("sessions")))

        # Who is dialed: its only session stays until there is another, then it comes again.
        new = await self.rotate(hidden)
        other = self.peer("other", **dials)
        await other.when_event("started")
        for node in (other, dialer):
            await self.until_met(node, new)
        session = await other.when_event("session", peer_id=new)
        self.assertEqual((session["transport"], session["address"]), ("tor", address))
        await hidden.when_event("delivered", text="greetings from other", timeout=TOR_SECS)
        await other.when_event("delivered", text="greetings from hidden again", timeout=TOR_SECS)
        self.assertEqual([event["address"] for event in hidden.events("onion")], [address])
        self.assertEqual((self.folder / "hidden.key.onion").read_bytes(), key)
        for node in (hidden, other):
            self.assertTrue(all(event["own_ids"] for event in node.events("sessions")))

    async def rotate(self, node: Program) -> str:
        """Let a node take another id, and return that."""
        since = len(node.lines)
        node.send_signal(signal.SIGUSR1)
        rotated = await node.when_event("rotated", since=since, timeout=TOR_SECS)
        return str(rotated["peer_id"])

    async def until_met(self, node: Program, peer_id: str) -> None:
        """Wait until a node has a session with a peer and nobody else."""
        own_id = (node.events("rotated") or node.events("started"))[-1]["peer_id"]
        await node.when_event("sessions", own_ids={peer_id: own_id}, timeout=TOR_SECS)

    def is_socks(self, flow: Event, port: int) -> bool:
        """Whether a flow is one of the node with the SOCKS port."""
        ends = {(flow["source"], flow["source_port"]), (flow["target"], flow["target_port"])}
        hosts = {flow["source"], flow["target"]}
        return flow["protocol"] == TCP and (HERE, port) in ends and hosts == {HERE, THERE}

    def forward(self, socks: str) -> int:
        """Let the namespace reach the SOCKS port, and return where."""
        from twisted.internet import reactor as installed

        reactor: Any = installed
        host, _, port = socks.partition(":")
        factory: Any = ProxyFactory(host, int(port))
        factory.noisy = False
        listening = reactor.listenTCP(0, factory, interface=HERE)
        self.addCleanup(listening.stopListening)
        return int(listening.getHost().port)

    def wire(self) -> None:
        """Make a namespace whose only way out leads here."""
        self.namespace = f"digtor{os.getpid()}"
        self.addCleanup(subprocess.run, ["ip", "netns", "del", self.namespace], capture_output=True)
        inside = ("-n", self.namespace)
        ends = (f"dt{os.getpid() % 100_000}a", f"dt{os.getpid() % 100_000}b")
        ip("netns", "add", self.namespace)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1], "netns", self.namespace)
        self.addCleanup(subprocess.run, ["ip", "link", "del", ends[0]], capture_output=True)
        ip("addr", "add", f"{HERE}/30", "dev", ends[0])
        ip("link", "set", ends[0], "up")
        ip(*inside, "addr", "add", f"{THERE}/30", "dev", ends[1])
        ip(*inside, "link", "set", "lo", "up")
        ip(*inside, "link", "set", ends[1], "up")
        ip(*inside, "route", "add", "default", "via", HERE)
