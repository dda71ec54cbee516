"""Real nodes on real sockets, with a real DNS server, that know nothing but a name."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from dig_gossip import GossipConfig, GossipService, Network
from dig_gossip.connection.session import Session
from dig_gossip.testing.certificates import throwaway_identity
from tests.discovery.dns_server import SeedServer, truncated, zone

NODES = 6
TARGET = 2


class LoopbackDiscoveryTests(TestCase):
    """Addresses in 127.0.0.0/8 are of different groups, so every rule holds as on the internet."""

    timeout = 90

    async def service(self, host: str, port: int, **options: Any) -> GossipService:
        """A started node."""
        config = GossipConfig(
            listen_addr=(host, port),
            network=Network("loop", b"\2" * 32, "loop", port or 9444, ("seed.test",)),
            dns_servers=[self.server.address],
            diversity_exempt_networks=(),
            peers_file_path="",
            **options,
        )
        service = GossipService(config, identity=throwaway_identity(host))
        await service.start()
        self.addCleanup(service.stop)
        return service

    def when_connected(self, services: list[GossipService]) -> Deferred[None]:
        """Fires when each has as many outbound sessions as it wants and can get."""
        done: Deferred[None] = Deferred()

        def check() -> None:
            tables = [service.node.peers.table for service in services]
            # Whom everybody else has dialed has nobody left to dial.
            settled = [t.outbound_count >= TARGET or len(t) == NODES for t in tables]
            if not done.called and all(settled):
                reactor.callLater(0, done.callback, None)

        for service in services:
            discovery = service.node.discovery
            session_up = discovery.session_up

            def watched(session: Session, session_up: Any = session_up) -> Any:
                effects = session_up(session)
                check()
                return effects

            self.patch(discovery, "session_up", watched)
        check()
        return done

    async def test_nodes_find_each_other_through_a_name(self) -> None:
        """DNS over UDP and TCP, dials, exchange of addresses, more dials.  INT-008, PRF-004"""
        self.server = SeedServer()
        self.addCleanup(self.server.stop)
        first = await self.service("127.1.0.1", 0, target_outbound_count=0)
        port = first.listen_address.port
        self.server.names["seed.test"] = truncated(zone("seed.test 60 A 127.1.0.1"))
        services = [
            await self.service(f"127.{n}.0.1", port, target_outbound_count=TARGET)
            for n in range(2, 2 + NODES)
        ]
        await self.when_connected(services)
        for service in services:
            outbound = await service.handle.get_connections(outbound_only=True)
            groups = {connection.address.get_group() for connection in outbound}
            self.assertEqual(len(groups), len(outbound))
        self.assertIn(("seed.test", "A", "tcp"), self.server.asked)
