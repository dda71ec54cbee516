"""A relay without limits, in a process of its own; says where it is and serves until killed."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from dig_gossip.relay.server import RelayServer
from dig_gossip.types.relay import RelayLimits, RelayServerConfig
from dig_gossip.util.clock import Clock


def serve(reactor: Any) -> Deferred[None]:
    """Serve."""
    lifted = {field.name: 0 for field in attrs.fields(RelayLimits)}
    config = RelayServerConfig(
        listen_addr="127.0.0.1:0", health_addr=None, limits=RelayLimits(**lifted)
    )
    server = RelayServer(config, Clock(reactor))
    server.startService()
    print(server.bound, flush=True)
    return Deferred()


if __name__ == "__main__":
    react(serve)
