"""An introducer over real sockets: what it keeps, and what it finds spoiled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from dig_gossip import GossipConfig, GossipService, IntroducerConfig, Io, Network
from dig_gossip.discovery.introducer_server import IntroducerServer
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.types.introducer import IntroducerServerConfig


class SocketCase(TestCase):
    """Introducers and nodes on loopback."""

    timeout = 60

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "data" / "nodes.json"

    def introducer(self, **options: Any) -> IntroducerServer:
        """A running introducer that keeps what it knows."""
        config = IntroducerServerConfig(
            listen_addr="127.0.0.1:0",
            nodes_path=str(self.path),
            **options,
        )
        server = IntroducerServer(
            config,
            identity=throwaway_identity("introducer"),
            probe_identity=throwaway_identity("probe"),
        )
        server.startService()
        self.addCleanup(server.stopService)
        return server

    async def node(self, endpoint: str, name: str) -> GossipService:
        """A running node that knows the introducer."""
        service = GossipService(
            GossipConfig(
                listen_addr="127.0.0.1:0",
                introducer=IntroducerConfig(endpoint=endpoint),
                peers_file_path=None,
            ),
            identity=throwaway_identity(name),
        )
        self.addCleanup(service.stop)
        await service.start()
        return service

    async def when_vetted(self, server: IntroducerServer, count: int) -> None:
        """Wait until probes have found so many nodes."""
        registry = server.registry
        succeeded = registry.probe_succeeded
        waiting: Deferred[None] = Deferred()

        def found(address: Any, peer_id: Any) -> None:
            succeeded(address, peer_id)
            if registry.size().vetted == count and not waiting.called:
                waiting.callback(None)

        if registry.size().vetted < count:
            self.patch(registry, "probe_succeeded", found)
            await waiting


class MemoryTests(SocketCase):
    """What is kept."""

    async def test_nodes_are_known_after_a_restart(self) -> None:
        """With what probes found.  ISV-106-X"""
        first = self.introducer()
        node = await self.node(first.url, "one")
        await node.handle.register_with_introducer()
        await self.when_vetted(first, 1)
        await first.stopService()
        second = self.introducer()
        self.assertEqual(second.size.vetted, 1)
        other = await self.node(second.url.replace("wss:", "ws:"), "two")
        rows = await other.handle.discover_from_introducer()
        self.assertEqual([row.port for row in rows], [node.listen_address.port])

    async def test_it_is_written_while_it_runs_and_only_when_it_has_changed(self) -> None:
        """In a thread, on a copy.  ISV-106-X"""
        server = self.introducer()
        await server._save()
        self.assertFalse(self.path.exists())
        node = await self.node(server.url, "one")
        await node.handle.register_with_introducer()
        await server._save()
        rows = json.loads(self.path.read_text())["nodes"]
        self.assertEqual([row[:2] for row in rows], [["127.0.0.1", node.listen_address.port]])

    async def test_a_file_that_cannot_be_written_is_reported(self) -> None:
        """And tried again; the introducer goes on.  ISV-106-X"""
        server = self.introducer()
        node = await self.node(server.url, "one")
        await node.handle.register_with_introducer()
        self.path.parent.parent.mkdir(exist_ok=True)
        self.path.parent.write_text("in the way")
        with capturedLogs() as captured:
            await server._save()
        self.assertIn("introducer_save_failed", [event.get("event") for event in captured])
        self.path.parent.unlink()
        await server._save()
        self.assertTrue(self.path.exists())

    async def test_an_introducer_may_have_a_name(self) -> None:
        """It is looked up, and said in TLS.  DSC-004, CON-104-X"""
        server = self.introducer()
        for scheme in ("wss", "ws"):
            node = await self.node(f"{scheme}://localhost:{server.address.port}", scheme)
            await node.handle.register_with_introducer()
        self.assertEqual(server.size.nodes, 2)


class SpoiledTests(SocketCase):
    """What is found at the start."""

    def quarantined(self) -> list[str]:
        """Files that were moved aside."""
        return [name for name in os.listdir(self.path.parent) if ".corrupt-" in name]

    def test_a_spoiled_file_is_moved_aside(self) -> None:
        """It never keeps the introducer from starting.  ISV-106-X"""
        self.path.parent.mkdir(parents=True)
        self.path.write_text("{")
        with capturedLogs() as captured:
            server = self.introducer()
        self.assertEqual(server.size.nodes, 0)
        self.assertIn("introducer_file_unusable", [event.get("event") for event in captured])
        self.assertEqual(len(self.quarantined()), 1)

    async def test_a_file_of_another_network_is_moved_aside(self) -> None:
        """Its nodes are of no use here.  ISV-106-X"""
        server = self.introducer(network=Network.CHIA_MAINNET)
        server.registry.is_changed = True
        await server.stopService()
        self.introducer()
        self.assertEqual(len(self.quarantined()), 1)

    def test_an_empty_file_is_no_file(self) -> None:
        """A crash before the first write leaves one.  ISV-106-X"""
        self.path.parent.mkdir(parents=True)
        self.path.touch()
        self.introducer()
        self.assertEqual(self.quarantined(), [])

    def test_a_file_that_cannot_be_read_ends_the_start(self) -> None:
        """Starting empty would overwrite it.  ISV-106-X"""
        self.path.mkdir(parents=True)
        with self.assertRaises(Io):
            self.introducer()
