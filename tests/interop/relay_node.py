"""A relay for the laboratories: ``python -m tests.interop.relay_node ADDRESS``, until killed."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from dig_gossip.relay.server import RelayServer
from dig_gossip.types.relay import RelayServerConfig
from dig_gossip.util.clock import Clock


def run(reactor: Any, address: str) -> Deferred[None]:
    """Serve."""
    config = RelayServerConfig(listen_addr=address, health_addr=None)
    server = RelayServer(config, Clock(reactor))
    server.startService()
    reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
    print(f"relay at {server.bound}", flush=True)
    return Deferred()


if __name__ == "__main__":
    react(run, sys.argv[1:])
