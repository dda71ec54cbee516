"""What only real sockets can show."""

from __future__ import annotations

import socket
from typing import Any, cast
from unittest import skipUnless

from twisted.trial.unittest import TestCase

from dig_gossip import GossipConfig, GossipService
from dig_gossip.constants import UNSENT_MAX_BYTES
from dig_gossip.testing.certificates import throwaway_identity


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
