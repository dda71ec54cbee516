"""What only real sockets can show."""

from __future__ import annotations

import socket
from typing import Any, cast
from unittest import skipUnless

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from dig_gossip import (
    GossipConfig,
    GossipService,
    Message,
    PeerIdRotationConfig,
    PeerNotConnected,
    PeerOptions,
    RelayConfig,
)
from dig_gossip.constants import MAX_QUEUED_BYTES, UNSENT_MAX_BYTES
from dig_gossip.privacy.rotation import Generate
from dig_gossip.relay.puncher import Puncher
from dig_gossip.relay.server import RelayServer
from dig_gossip.service import rotating
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.types.peer import PeerAddress
from dig_gossip.types.relay import RelayServerConfig
from dig_gossip.util.clock import Clock
from dig_gossip.wire.opcodes import ChiaMessageType


def turn() -> Deferred[None]:
    """Let the reactor do what is due."""
    from twisted.internet import reactor

    return deferLater(cast(Any, reactor), 0)


class SocketTests(TestCase):
    """Two nodes on loopback."""

    timeout = 60

    async def service(self, address: str) -> GossipService:
        config = GossipConfig(listen_addr=address, peers_file_path=None)
        service = GossipService(config, identity=throwaway_identity())
        await service.start()
        self.addCleanup(service.stop)
        return service

    @skipUnless(hasattr(socket, "TCP_NOTSENT_LOWAT"), "the platform has no TCP_NOTSENT_LOWAT")
    async def test_bytes_wait_above_the_socket_and_for_nobody(self) -> None:
        """Little is unsent in the kernel, and Nagle is off, at both ends.  design D9"""
        one, other = await self.service("127.0.0.1:0"), await self.service("127.0.0.1:0")
        await one.handle.connect_to(other.listen_address)
        for service in (one, other):
            (websocket,) = service.node.transports._open
            handle = cast(Any, websocket).transport.transport.getHandle()
            options = [
                handle.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_NOTSENT_LOWAT, socket.TCP_NODELAY)
            ]
            self.assertEqual(options, [UNSENT_MAX_BYTES, 1])

    @skipUnless(socket.has_ipv6, "the platform has no IPv6")
    async def test_an_ipv6_wildcard_takes_both_families(self) -> None:
        """V6ONLY is off, whatever the system's default; addresses are canonical.  CON-113-X"""
        try:
            both = await self.service("[::]:0")
        except OSError as error:
            self.skipTest(f"no IPv6 here: {error}")
        port = both.listen_address.port
        for host in ("127.0.0.1", "::1"):
            guest = await self.service("127.0.0.1:0")
            self.assertEqual(await guest.handle.connect_to((host, port)), both.peer_id)
        hosts = {connection.address.host for connection in await both.handle.connected_peers()}
        self.assertEqual(hosts, {"127.0.0.1", "::1"})

    async def test_a_peer_that_stops_reading_is_given_up(self) -> None:
        """Both kernels' buffers fill, then ours, which has an end; then it goes.  BP-101-X"""
        config = GossipConfig(
            listen_addr="127.0.0.1:0",
            peers_file_path=None,
            peer_options=PeerOptions(enforce_rate_limits=False),
        )
        service = GossipService(config, identity=throwaway_identity())
        handle = await service.start()
        self.addCleanup(service.stop)
        peer = HostilePeer(cast(Any, _RealNetwork()))
        peer.join(service.listen_address)
        self.addCleanup(peer.drop)
        while not peer.messages:  # its handshake is answered
            await turn()
        peer.stop_reading()
        session = service.node.peers.get(peer.peer_id)
        message = Message(ChiaMessageType.RESPOND_BLOCKS, None, bytes(1_000_000))
        most = 0
        for _ in range(200):
            try:
                await handle.send_to(peer.peer_id, message)
            except PeerNotConnected:
                break
            most = max(most, session.lanes.bytes)
            await turn()
        self.assertTrue(session.has_ended, "a peer that does not read has kept its session")
        self.assertGreater(most, MAX_QUEUED_BYTES - 2 * len(message))
        self.assertLessEqual(most, MAX_QUEUED_BYTES)
        self.assertEqual(session.lanes.bytes, 0)
        stats = await handle.stats()
        self.assertEqual(stats.extra["removed.stalled"], 1)
        self.assertEqual(stats.extra["penalty.connection_issue"], 1)


class RelayTests(TestCase):
    """A relay and two nodes that never leave it."""

    timeout = 60

    async def test_a_second_registration_beside_the_first(self) -> None:
        """Both connections cannot come from the port on which the node listens: the second one
        takes another; the session moves while it lives.  PRV-007.1, RLY-007.1
        """
        from twisted.internet import reactor

        relay_config = RelayServerConfig(listen_addr=PeerAddress("127.0.0.1", 0), health_addr=None)
        relay = RelayServer(relay_config, Clock(cast(Any, reactor)))
        relay.startService()
        self.addCleanup(relay.stopService)
        self.patch(Puncher, "punch", lambda *_arguments: None)
        endpoint = f"ws://{relay.bound}"
        services = []
        for _ in range(2):
            config = GossipConfig(
                listen_addr="127.0.0.1:0",
                peers_file_path=None,
                discovery=False,
                relay=RelayConfig(endpoint=endpoint, advertise=False),
                peer_id_rotation=PeerIdRotationConfig(),
            )
            service = GossipService(config, identity=throwaway_identity())
            await service.start()
            self.addCleanup(service.stop)
            services.append(service)
        table, other_table = (service.node.peers.table for service in services)
        while not (len(table) and len(other_table)):
            await turn()
        node = services[0].node
        assert node.relaying is not None
        assert node.rotating is not None
        first, port = node.relaying.client, services[0].listen_address.port
        assert first.local is not None
        self.assertEqual(first.local.port, port)
        new = throwaway_identity()
        self.patch(rotating, "generate_identity", lambda: new)
        node.rotating._perform([Generate()])
        while new.peer_id not in {session.own_id for session in table}:
            self.assertEqual((len(table), len(other_table) > 0), (1, True))
            await turn()
        second = node.relaying.client
        assert second.local is not None
        self.assertTrue(first.is_registered)
        self.assertEqual(first.local.port, port)
        self.assertNotEqual(second.local.port, port)


class _RealNetwork:
    """Lets a hostile peer use real sockets."""

    def reactor(self, host: str | None) -> Any:  # Any: all interfaces
        from twisted.internet import reactor

        return reactor
