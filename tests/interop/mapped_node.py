"""Both ends of the port mapping laboratory's tests.

``python -m tests.interop.mapped_node serve METHOD`` is a node that asks its gateway for a port. It
prints, as one JSON object a line, what it logs of that; SIGTERM stops it.

``python -m tests.interop.mapped_node dial HOST:PORT`` is a node outside: it connects there, says
whom it found, and at which port that one says it can be dialed, and ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import ILogObserver, globalLogBeginner
from zope.interface import implementer

from dig_gossip import GossipConfig, GossipService

#: What it logs and the tests read.
EVENTS = {
    "port_mapped": ("address", "method"),
    "port_mapping_lost": ("address",),
    "port_mapping_failed": ("error",),
    "port_mapping_shaky": ("error",),
    "port_mapping_left": ("error",),
    "node_stopped": (),
}


def say(**fields: Any) -> None:
    """Print one JSON line."""
    print(json.dumps(fields), flush=True)


@implementer(ILogObserver)
def observe(event: dict[str, Any]) -> None:
    """Print a log record, if a test reads it; complain about those that tell of a mistake."""
    name = event.get("event", "")
    if event["log_level"].name in ("critical", "error"):
        say(event="mistake", text=str(event.get("log_failure", event["log_format"])))
    elif name in EVENTS:
        say(event=name, **{field: event[field] for field in EVENTS[name]})


def make(**options: Any) -> GossipService:
    """A node that keeps nothing and looks for nobody."""
    return GossipService(
        GossipConfig(
            listen_addr="0.0.0.0:9444", peers_file_path="", target_outbound_count=0, **options
        )
    )


def serve(reactor: Any, method: str) -> Deferred[None]:
    """Run until SIGTERM."""
    service = make(port_mapping=method)
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stop)
    return Deferred()


async def dial(_reactor: Any, address: str) -> None:
    """Connect once."""
    service = make()
    handle = await service.start()
    peer_id = await handle.connect_to(address)
    (session,) = service.node.peers.table
    say(event="found", peer_id=peer_id.hex(), server_port=session.remote.server_port)
    await service.stop()


if __name__ == "__main__":
    globalLogBeginner.beginLoggingTo([observe], redirectStandardIO=False)
    react(serve if sys.argv[1] == "serve" else dial, sys.argv[2:])
