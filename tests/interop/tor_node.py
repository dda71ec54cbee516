"""A node for the tests of Tor: greets whoever it meets, and prints what happens.

Run as ``python -m tests.interop.tor_node NAME FIELDS``, with fields of the configuration as JSON.
It prints a JSON line for each thing that happens, until SIGTERM; SIGUSR1 has it take another id.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react
from twisted.logger import LogEvent, globalLogPublisher

from dig_gossip import DigMessageType, GossipService, Message
from dig_gossip.config_file import build_config
from dig_gossip.privacy.rotation import Generate
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.deferreds import handled

#: Attempts that must have been made before the silence of a capture says anything.
ATTEMPTS = ("introducer_failed", "relay_failed", "dial_failed", "seed_failed", "onion_failed")


def say(**fields: Any) -> None:
    """Print one JSON line."""
    print(json.dumps(fields), flush=True)


def observe(event: LogEvent) -> None:
    """Print what was attempted in vain."""
    if event.get("event") in ATTEMPTS:
        say(event=event["event"], error=str(event.get("error")))


async def run(reactor: Any, name: str, fields: str) -> None:
    """Run until the reactor stops."""
    globalLogPublisher.addObserver(cast(Any, observe))
    service = GossipService(build_config(json.loads(fields)))
    handle = await service.start()
    inbound = handle.inbound_receiver()
    reactor.addSystemEventTrigger("before", "shutdown", service.stop)
    say(event="started", peer_id=service.peer_id.hex(), address=str(service.listen_address))

    async def collect() -> None:
        while True:
            _peer, message = await inbound.get()
            say(event="delivered", text=message.data.decode("utf-8", "replace"))

    handled(Deferred.fromCoroutine(collect()).addErrback(lambda _failure: None))

    def rotate(*_signal: object) -> None:
        rotating = service.node.rotating
        assert rotating is not None
        reactor.callFromThread(rotating._perform, [Generate()])

    def rotated(_former: PeerId, current: PeerId) -> None:
        say(event="rotated", peer_id=current.hex())

    signal.signal(signal.SIGUSR1, rotate)
    await handle.observe_rotation(rotated)
    onion: PeerAddress | None = None
    seen: dict[str, str] = {}
    greeted: list[PeerId] = []
    while True:
        if service.node.peers.onion != onion:
            onion = service.node.peers.onion
            say(event="onion", address=str(onion))
        now = {s.peer_id.hex(): s.own_id.hex() for s in service.node.peers.table}
        if now != seen:
            seen = now
            say(event="sessions", own_ids=seen)
        if service.peer_id.hex() in seen.values() and service.peer_id not in greeted:
            for session in await handle.get_connections():
                say(
                    event="session",
                    peer_id=session.peer_id.hex(),
                    transport=session.transport.value,
                    address=str(session.address),
                    port=session.peer_server_port,
                )
            await deferLater(reactor, 1.0, lambda: None)
            text = f"greetings from {name}" + " again" * len(greeted)
            greeted.append(service.peer_id)
            await handle.broadcast(Message(DigMessageType.NEW_ATTESTATION, None, text.encode()))
        await deferLater(reactor, 0.2, lambda: None)


if __name__ == "__main__":
    react(run, sys.argv[1:])
