"""Two connected nodes on loopback, for the other examples."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dig_gossip import GossipConfig, GossipHandle, GossipService


@asynccontextmanager
async def two_nodes() -> AsyncIterator[tuple[GossipHandle, GossipHandle]]:
    """Start two nodes, connect them, stop them at the end."""
    config = GossipConfig(listen_addr="127.0.0.1:0", peers_file_path="")
    alice, bob = GossipService(config), GossipService(config)
    await alice.start()
    await bob.start()
    try:
        await bob.handle.connect_to(alice.listen_address)
        yield alice.handle, bob.handle
    finally:
        await alice.stop()
        await bob.stop()
