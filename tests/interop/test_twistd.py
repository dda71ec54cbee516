"""Nodes as operators run them: ``twistd`` processes, data directories, signals, a file."""

from __future__ import annotations

import re
import signal
import ssl
import stat
import sys
from pathlib import Path

from dig_gossip import Network
from tests.interop.processes import STOP_LIMIT_SECS, TWISTD, Node, ProcessCase, only_by_make_interop
from tests.interop.raw_link import spki_id

INTRODUCTION = re.compile(
    r"PeerId (?P<peer_id>[0-9a-f]{64}), listening on (?P<address>127\.0\.0\.1:[0-9]+), "
    r"network (?P<network>[a-z0-9-]+) \((?P<network_id>[0-9a-f]{64})\)"
)
"""What an operator reads first."""


class TwoNodesTests(ProcessCase):
    """Two processes with nothing in common but an address."""

    async def test_two_nodes_meet_serve_a_stranger_and_stop(self) -> None:
        """Both register the session, answer a stranger, stop in time.  design §4, API-001.4"""
        folders = self.folder / "one", self.folder / "two"
        one = await self.node("one", "--data-dir", folders[0])
        two = await self.node("two", "--data-dir", folders[1], "--peer", one.address)
        await one.when_event("session_opened", peer_id=two.peer_id, outbound=False)
        await two.when_event("session_opened", peer_id=one.peer_id, outbound=True)
        await self.greeted(one, "--network", Network.DIG_MAINNET.handshake)
        await self.greeted(two, "--network", Network.DIG_MAINNET.handshake)
        await self.stopped(one, two)
        self.assert_complete(folders[0], one)
        self.assert_complete(folders[1], two)

    def assert_complete(self, folder: Path, node: Node) -> None:
        """The folder holds the identity of the node, its address book, and nothing half-written."""
        certificate, key = folder / "node.crt", folder / "node.key"
        names = {path.name for path in folder.iterdir()}
        needed = {"node.crt", "node.key", "peers.dat"}
        beside = {f"peers.dat.{kind}" for kind in ("lock", "anchors", "bans")}
        self.assertEqual((needed - names, names - needed - beside), (set(), set()))
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        ssl.create_default_context().load_cert_chain(certificate, key)  # raises if no pair
        self.assertEqual(spki_id(ssl.PEM_cert_to_DER_cert(certificate.read_text())), node.peer_id)


class IntroducedTests(ProcessCase):
    """Processes that know an introducer and nothing else."""

    async def test_two_nodes_meet_through_an_introducer(self) -> None:
        """``twistd dig-introducer`` keeps what it knows; the nodes keep each other.  design D13"""
        folder = self.folder / "introducer"
        introducer = await self.introducer("introducer", "--data-dir", folder)
        one, two = [
            await self.node(
                scheme,
                *("--data-dir", self.folder / scheme),
                *("--introducer", f"{scheme}://{introducer.address}"),
            )
            for scheme in ("ws", "wss")
        ]
        await one.when_event("session_opened", peer_id=two.peer_id)
        await two.when_event("session_opened", peer_id=one.peer_id)
        introducer.send_signal(signal.SIGTERM)
        self.assertEqual(await introducer.when_ended(STOP_LIMIT_SECS), -signal.SIGTERM)
        self.assertEqual(len(introducer.events("introducer_stopped")), 1)
        names = sorted(path.name for path in folder.iterdir())
        self.assertEqual(names, ["introducer.crt", "introducer.key", "nodes.json"])
        for node in (one, two):
            self.assertIn(node.address.rpartition(":")[2], (folder / "nodes.json").read_text())
        await self.when_one_session(one, two)
        await self.when_one_session(two, one)
        await self.stopped(one, two)

    async def when_one_session(self, node: Node, other: Node) -> None:
        """A feeler of either may be there for a moment, and be the first that was seen."""
        while self.sessions(node, other) != 1:
            await node.when_line(lambda _: True, since=len(node.lines))

    def sessions(self, node: Node, other: Node) -> int:
        """How many sessions a node has with another."""
        opened, closed = (
            [event for event in node.events(name) if event["peer_id"] == other.peer_id]
            for name in ("session_opened", "session_closed")
        )
        return len(opened) - len(closed)


class RestartTests(ProcessCase):
    """A node that goes and comes back."""

    async def test_a_node_comes_back_as_itself_and_is_found_again(self) -> None:
        """A restart keeps the identity, and the other end dials again.  CON-009.3, CON-102-X"""
        only_by_make_interop()  # half a minute: nobody dials a lost peer at once
        first = await self.node("first", "--data-dir", self.folder / "node")
        faithful = await self.node("faithful", "--peer", first.address)
        await faithful.when_event("session_opened", peer_id=first.peer_id)
        await self.stopped(first)
        await faithful.when_event("session_closed", peer_id=first.peer_id)
        since = len(faithful.lines)
        second = await self.node(
            "second", "--data-dir", self.folder / "node", "--listen", first.address
        )
        self.assertEqual(second.peer_id, first.peer_id)
        await faithful.when_event("session_opened", since=since, peer_id=second.peer_id)


class ConfigurationTests(ProcessCase):
    """A node that is told by a file what to do."""

    async def test_a_file_and_an_option_make_a_node_that_says_what_it_is(self) -> None:
        """The file counts, the command line wins, the first lines tell.  design §4, style §6.5"""
        file = self.folder / "node.toml"
        file.write_text('network = "chia-mainnet"\nlisten_addr = "127.0.0.1:1"\n')
        command = ("-c", TWISTD, "-n", "--pidfile=", "dig-gossip", "--config", file.name)
        node = self.python("node", *command, "--listen", "127.0.0.1:0")
        line = await node.when_line(lambda line: "PeerId" in line)
        said = INTRODUCTION.search(line)
        assert said is not None, line
        self.assertEqual(said["network"], "chia-mainnet")
        self.assertEqual(said["network_id"], Network.CHIA_MAINNET.network_id.hex())
        self.assertIn("temporary identity", line)
        self.assertIn("off: introducer, relay", line)

        client = self.python("client", "-m", "tests.interop.raw_client", said["address"])
        self.assertEqual(await client.when_ended(), 0)
        (tls,) = client.events("tls")
        self.assertEqual(tls["peer_id"], said["peer_id"])

        node.send_signal(signal.SIGTERM)
        self.assertEqual(await node.when_ended(STOP_LIMIT_SECS), -signal.SIGTERM)

    async def test_twist_runs_the_node_too(self) -> None:
        """The other runner of Twisted starts and stops it as well.  design §4"""
        twist = self.start(
            Node("twist"),
            *(sys.executable, "-m", "twisted", "dig-gossip", "--listen", "127.0.0.1:0"),
        )
        await twist.introduce()  # twist logs events by itself where no terminal is
        await self.stopped(twist)
