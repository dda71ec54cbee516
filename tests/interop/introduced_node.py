"""A node inside a program that registers with an introducer, asks it, and stays until SIGTERM.

``python -m tests.interop.introduced_node NETWORK ENDPOINT``; output is one JSON object a line.
"""

from __future__ import annotations

import argparse
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred

from dig_gossip import GossipConfig, GossipService, IntroducerConfig, Network, PeerAddress
from tests.interop.dig_node import report


async def main(reactor: Any, network: str, endpoint: str) -> None:  # Any: a whole reactor
    """Register and ask, then stay until the reactor is asked to stop."""
    service = GossipService(
        GossipConfig(
            listen_addr=PeerAddress("127.0.0.1", 0),
            network=Network.by_name(network),
            introducer=IntroducerConfig(endpoint=endpoint),
            peers_file_path=None,
        )
    )
    reactor.addSystemEventTrigger("before", "shutdown", service.stop)
    handle = await service.start()
    report("listening", address=str(service.listen_address))
    answer = await handle.register_with_introducer()
    report("registered", success=answer.success)
    rows = await handle.discover_from_introducer()
    report("discovered", peers=[f"{row.host}:{row.port}" for row in rows])
    await Deferred()  # for ever


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("network")
    parser.add_argument("endpoint")
    options = parser.parse_args()
    task.react(
        lambda reactor: Deferred.fromCoroutine(main(reactor, options.network, options.endpoint))
    )
