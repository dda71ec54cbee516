"""Twenty real nodes on loopback, each in a network group of its own, and an introducer."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from dig_gossip import (
    GossipConfig,
    GossipService,
    IntroducerConfig,
    IntroducerServer,
    IntroducerServerConfig,
    Message,
    PeerAddress,
    PeerId,
)
from dig_gossip.connection.session import Session
from dig_gossip.testing.certificates import throwaway_identity

NODES = 20
TARGET = 3


class Crowd:
    """The nodes that run, and who waits for what they come to."""

    def __init__(self, folder: Path) -> None:
        self.services: dict[int, GossipService] = {}
        self._folder = folder
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    async def start(self, number: int, introducer: str, *, port: int = 0) -> GossipService:
        """Start a node in 127.x, which is a group of its own; number 0 keeps files."""
        service = GossipService(
            GossipConfig(
                listen_addr=PeerAddress(f"127.{10 + number}.0.1", port),
                introducer=IntroducerConfig(endpoint=introducer),
                target_outbound_count=TARGET,
                peers_file_path=None if number else str(self._folder / "peers.dat"),
                diversity_exempt_networks=(),
            ),
            identity=throwaway_identity(f"twenty/{number}"),
        )
        await service.start()
        router = service.node.router
        up, down = router.peer_up, router.peer_down

        def peer_up(session: Session) -> None:
            up(session)
            self._changed()

        def peer_down(session: Session) -> None:
            down(session)
            self._changed()

        router.peer_up = peer_up  # type: ignore[method-assign]
        router.peer_down = peer_down  # type: ignore[method-assign]
        self.services[number] = service
        return service

    async def kill(self, *numbers: int) -> None:
        """Let nodes vanish: nobody is told anything."""
        gone = [self.services.pop(number) for number in numbers]
        for service in gone:
            service.node.transports.abort()
        await gatherResults([service.stop() for service in gone])

    def when(self, predicate: Callable[[], bool]) -> Deferred[None]:
        """Fire when something has become true; looked at when sessions begin and end."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append((predicate, waiting))
        self._changed()
        return waiting

    def is_full(self) -> bool:
        """Whether every node has the outbound sessions it wants, all of them with nodes that live.

        A node that is connected with everybody else has nobody left to dial.
        """
        alive = {service.peer_id for service in self.services.values()}
        for service in self.services.values():
            peers = {session.peer_id: session for session in service.node.peers.table}
            outbound = [s for s in peers.values() if s.is_outbound and s.peer_id in alive]
            if len(outbound) < TARGET and not alive - {service.peer_id} <= set(peers):
                return False
        return True

    def _changed(self) -> None:
        for waiting in list(self._waiting):
            if waiting[0]():
                self._waiting.remove(waiting)
                waiting[1].callback(None)


class TwentyNodesTests(TestCase):
    """From an introducer alone to a network that needs none."""

    timeout = 300

    def setUp(self) -> None:
        try:
            with socket.socket() as probe:
                probe.bind(("127.10.0.1", 0))
        except OSError:
            raise SkipTest("this system has one loopback address only") from None
        folder = Path(self.mktemp())
        folder.mkdir()
        self.crowd = Crowd(folder)
        self.introducer = IntroducerServer(
            IntroducerServerConfig(
                listen_addr=PeerAddress("127.1.0.1", 0),
                # A machine that is busy must not make nodes look dead.
                vetting_connect_secs=30,
                vetting_total_secs=60,
            ),
            identity=throwaway_identity("twenty/introducer"),
            probe_identity=throwaway_identity("twenty/probe"),
        )
        self.addCleanup(self._stop)

    async def _stop(self) -> None:
        await gatherResults([service.stop() for service in self.crowd.services.values()])
        await self.introducer.stopService()

    async def assert_messages_reach_everybody(self, payload: bytes) -> None:
        """A broadcast of any node is delivered by all others."""
        first, *others = self.crowd.services.values()
        inboxes = [service.handle.inbound_receiver() for service in others]
        await first.handle.broadcast(Message(200, None, payload))
        received = await gatherResults([inbox.get() for inbox in inboxes])
        self.assertEqual({message.data for _, message in received}, {payload})

    def groups(self, service: GossipService) -> list[str]:
        """The network groups of a node's outbound sessions."""
        return [
            session.address.host.rpartition(".0.1")[0]
            for session in service.node.peers.table
            if session.is_outbound
        ]

    async def test_nodes_find_each_other_lose_half_and_need_nobody(self) -> None:
        """Outbound target, refilling, no introducer, and a restart from the anchors.

        DSC-006, DSC-006.2, DSC-011, INT-008, INTR-101-X
        """
        self.introducer.startService()
        for number in range(NODES):
            await self.crowd.start(number, self.introducer.url)
        await self.crowd.when(self.crowd.is_full)
        for service in self.crowd.services.values():
            self.assertEqual(len(set(self.groups(service))), len(self.groups(service)))
        await self.assert_messages_reach_everybody(b"all twenty")

        await self.crowd.kill(*range(NODES // 2, NODES))
        await self.crowd.when(self.crowd.is_full)
        await self.assert_messages_reach_everybody(b"those who are left")

        await self.introducer.stopService()
        await self.assert_messages_reach_everybody(b"without an introducer")
        for service in self.crowd.services.values():
            await service.handle.health_check()

        old = self.crowd.services.pop(0)
        port = old.listen_address.port
        outbound = {s.peer_id for s in old.node.peers.table if s.is_outbound}
        await old.stop()
        new = await self.crowd.start(0, self.introducer.url, port=port)
        await self.crowd.when(lambda: len(self._dialed(new)) >= TARGET)
        counters = (await new.handle.stats()).extra
        self.assertEqual(counters["dials.anchor"], 2)
        self.assertGreaterEqual(len(self._dialed(new) & outbound), 2)
        self.assertEqual([name for name in counters if name.startswith("seeding")], [])

    def _dialed(self, service: GossipService) -> set[PeerId]:
        return {session.peer_id for session in service.node.peers.table if session.is_outbound}
