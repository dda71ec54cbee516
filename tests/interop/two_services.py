"""Run two services in one process under a chosen reactor, and check that nothing is left of them.

``python -m tests.interop.two_services --reactor epoll|select|asyncio`` installs the reactor, lets
two services connect over loopback, gossip, ask and stop, and prints one JSON object. The exit
status is 0 only if everything arrived and the reactor has no timer and no socket left.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from typing import Any

REACTORS = {
    "asyncio": "twisted.internet.asyncioreactor",
    "epoll": "twisted.internet.epollreactor",
    "select": "twisted.internet.selectreactor",
}
LIMIT_SECS = 60.0


async def gossip(reactor: Any) -> dict[str, object]:  # Any: every interface of a reactor
    """Do everything once; returns what was seen."""
    from dig_gossip import DigMessageType, GossipConfig, GossipService, Message

    one, two = (
        GossipService(GossipConfig(listen_addr="127.0.0.1:0", peers_file_path="")) for _ in range(2)
    )
    try:
        mine, yours = await one.start(), await two.start()
        inbound = yours.inbound_receiver()
        connected = await mine.connect_to(two.listen_address)
        # An answer proves that the other end has registered the session too.
        peers = await mine.request_peers_from(connected)
        sent = await mine.broadcast(Message(DigMessageType.NEW_ATTESTATION, None, b"everybody"))
        origin, message = await inbound.get()
        return {
            "connected": connected == two.peer_id,
            "sent": sent,
            "received": message.data.decode(),
            "from": origin == one.peer_id,
            "peers": len(peers.peer_list),
        }
    finally:
        await one.stop()
        await two.stop()


EXPECTED = {"connected": True, "sent": 1, "received": "everybody", "from": True, "peers": 0}


async def check(reactor: Any) -> None:  # Any: as above
    """Run, look for what is left, print, and end the program."""
    from twisted.internet.defer import Deferred
    from twisted.internet.task import deferLater

    await deferLater(reactor, 0)  # only now it runs, with readers of its own
    before = {*reactor.getReaders(), *reactor.getWriters()}
    watchdog = reactor.callLater(LIMIT_SECS, sys.exit, "no end")
    seen = await Deferred.fromCoroutine(gossip(reactor))
    watchdog.cancel()
    left = [str(call) for call in reactor.getDelayedCalls()]
    left += [repr(it) for it in {*reactor.getReaders(), *reactor.getWriters()} - before]
    print(json.dumps({"reactor": type(reactor).__name__, **seen, "left": left}), flush=True)
    if seen != EXPECTED or left:
        raise SystemExit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reactor", choices=sorted(REACTORS), required=True)
    options = parser.parse_args(arguments)
    import_module(REACTORS[options.reactor]).install()

    from twisted.internet import task

    task.react(check)


if __name__ == "__main__":
    main()
