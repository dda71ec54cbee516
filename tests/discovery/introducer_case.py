"""Base class of tests with introducers in memory."""

from __future__ import annotations

from typing import Any

from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.testing.network import MemoryIntroducer, MemoryNode
from dig_gossip.types.peer import NodeType, PeerAddress
from dig_gossip.types.sections import IntroducerConfig
from dig_gossip.wire import registry
from dig_gossip.wire.dig import RegisterPeer, RequestPeersIntroducer
from tests.network_case import NetworkCase


class IntroducerCase(NetworkCase):
    """Makes introducers and whoever talks to them."""

    def introducer(self, **options: Any) -> MemoryIntroducer:
        """A running introducer; in the end nothing of it may be left."""
        made = self.network.introducer(**options)
        self.addCleanup(self.check_is_gone, made)
        return made

    def check_is_gone(self, introducer: MemoryIntroducer) -> None:
        """Nothing of a stopped introducer is left."""
        server = introducer.server
        if not self.network.is_alive(introducer.host):
            return
        self.network.run(server.stopService())
        self.network.advance(20)
        self.assertEqual(server.clock.pending, 0, "timers are left")
        self.assertEqual(len(server.transports), 0, "transports are left")
        self.assertEqual(len(server._openings), 0, "openings are left")
        self.assertEqual(len(server._visitors), 0, "visitors are left")
        self.assertEqual(dict(server._per_source), {}, "sources are left")
        self.assertEqual(server._probes, 0, "probes are left")

    def client(self, endpoint: str, **options: Any) -> MemoryNode:
        """A node, not started, that knows an introducer and nothing else."""
        timeouts = {
            name: options.pop(name)
            for name in ("connection_timeout_secs", "request_timeout_secs", "network_id")
            if name in options
        }
        return self.network.node(
            introducer=IntroducerConfig(endpoint=endpoint, **timeouts), **options
        )

    def quiet(self, url: str, **options: Any) -> MemoryNode:
        """A running node that does not register by itself: a script has one listener."""
        node = self.client(url, **options)
        self.network.start()
        introducer = node.service.node.introducer
        assert introducer is not None
        assert introducer._timer is not None
        introducer._timer.cancel()
        return node

    def hosts(self, node: MemoryNode) -> set[str]:
        """Whom the introducer names to a node."""
        rows = self.network.run(node.handle.discover_from_introducer())
        return {row.host for row in rows}

    def visitor(self, introducer: MemoryIntroducer, **options: Any) -> HostilePeer:
        """Somebody who has connected to an introducer and said nothing yet."""
        made = HostilePeer(self.network, **options)
        made.connect(introducer.server.address)
        return made

    def greeted(self, introducer: MemoryIntroducer, **options: Any) -> HostilePeer:
        """Somebody who has also greeted."""
        own = {name: options.pop(name) for name in ("host", "tls", "identity") if name in options}
        made = self.visitor(introducer, **own)
        made.upgrade()
        made.greet(**{"server_port": 0, **options})
        self.network.settle()
        return made

    def query(self, visitor: HostilePeer) -> set[PeerAddress] | None:
        """Ask for nodes by hand; None if there is no answer."""
        before = len(visitor.messages)
        visitor.send_message(registry.encode(RequestPeersIntroducer(), 7))
        self.network.settle()
        for message in visitor.messages[before:]:
            if (message.type, message.id) == (64, 7):
                return {PeerAddress(r.host, r.port) for r in registry.decode(message).peer_list}
        return None

    def registered(
        self, visitor: HostilePeer, port: int = 9444, ip: str = "", node_type: int = 1
    ) -> bool | None:
        """Register by hand; None if there is no answer."""
        before = len(visitor.messages)
        visitor.send_message(registry.encode(RegisterPeer(ip, port, NodeType(node_type)), 8))
        self.network.settle()
        for message in visitor.messages[before:]:
            if (message.type, message.id) == (219, 8):
                return bool(registry.decode(message).success)
        return None
