"""Base class of tests that run whole nodes in memory."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.session import Session
from dig_gossip.errors import GossipError
from dig_gossip.testing.network import MemoryNetwork, MemoryNode


class NetworkCase(SynchronousTestCase):
    """Makes a network; in the end stops it and checks that nothing is left."""

    latency = 0.01

    def setUp(self) -> None:
        self.network = MemoryNetwork(seed=1, latency=self.latency)
        self.addCleanup(self._nothing_is_left)

    def _nothing_is_left(self) -> None:
        self.network.stop()
        self.network.advance(20)
        for node in self.network.nodes:
            if self.network.is_alive(node.host) and node.service._node is not None:
                parts = node.service._node
                self.assertEqual(parts.clock.pending, 0, "timers are left")
                self.assertEqual(len(parts.transports), 0, "transports are left")
                self.assertEqual(parts.peers.openings, 0, "openings are left")
                self.assertEqual(parts.dialer.dials, 0, "dials are left")

    def nodes(self, count: int, **options: Any) -> list[MemoryNode]:
        """Started nodes."""
        made = [self.network.node(**options) for _ in range(count)]
        self.network.start()
        return made

    def connected(self, **options: Any) -> tuple[MemoryNode, MemoryNode]:
        """Two nodes of which the first has dialed the second."""
        one, other = self.nodes(2, **options)
        self.connect(one, other)
        return one, other

    def connect(self, one: MemoryNode, other: MemoryNode) -> None:
        """Let one node dial another and wait until both know it."""
        self.network.run(one.handle.connect_to(other.address))
        self.network.advance(10 * self.latency)

    def session(self, node: MemoryNode, peer: MemoryNode) -> Session:
        """The session that a node has with another."""
        return node.service.node.peers.get(peer.peer_id)

    def counter(self, node: MemoryNode, name: str) -> int:
        """One of a node's counters."""
        return self.network.run(node.handle.stats()).extra.get(name, 0)

    def peer_ids(self, node: MemoryNode) -> set[bytes]:
        """Whom a node is connected to."""
        return {bytes(s.peer_id) for s in node.service.node.peers.table}

    def assertFires(self, error: type[GossipError], deferred: Any) -> GossipError:
        """The Deferred fails with this error; returns it."""
        with self.assertRaises(error) as caught:
            self.network.run(deferred)
        raised: GossipError = caught.exception
        return raised
