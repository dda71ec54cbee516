"""How a TCP connection is made."""

from __future__ import annotations

from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.endpoints import client_endpoint, source_address
from dig_gossip.types.peer import PeerAddress


class SourceTests(SynchronousTestCase):
    """``source_address``."""

    def source(self, target: str, listening: str) -> tuple[str, int] | None:
        """Where a connection comes from."""
        return source_address(PeerAddress(target, 1), PeerAddress(listening, 9444))

    def test_connections_come_from_the_address_that_is_listened_on(self) -> None:
        """So that peers see what they can dial.  ISV-102-X"""
        self.assertEqual(self.source("8.8.8.8", "9.9.9.9"), ("9.9.9.9", 0))
        self.assertEqual(self.source("2600::1", "2600::2"), ("2600::2", 0))
        self.assertEqual(self.source("127.5.5.5", "127.1.2.3"), ("127.1.2.3", 0))

    def test_the_system_chooses_where_ours_does_not_lead(self) -> None:
        """Every interface, another family, loopback and the world, a name.  CON-104-X"""
        for target, listening in (
            ("8.8.8.8", "0.0.0.0"),
            ("2600::1", "::"),
            ("8.8.8.8", "2600::2"),
            ("8.8.8.8", "127.0.0.1"),
            ("127.0.0.1", "9.9.9.9"),
            ("node.example", "9.9.9.9"),
        ):
            self.assertIsNone(self.source(target, listening), (target, listening))
        self.assertIsNone(source_address(PeerAddress("8.8.8.8", 1), None))


class EndpointTests(SynchronousTestCase):
    """``client_endpoint``."""

    def test_the_host_decides_the_kind(self) -> None:
        """IPv6 literals are no names.  CON-103-X, CON-104-X"""
        for host, kind in (
            ("8.8.8.8", TCP4ClientEndpoint),
            ("2600::1", TCP6ClientEndpoint),
            ("node.example", HostnameEndpoint),
        ):
            endpoint = client_endpoint(MemoryReactorClock(), PeerAddress(host, 1), timeout=1)
            self.assertIsInstance(endpoint, kind)
