"""A relay under thousands of clients, some of which break every limit it has.

``python -m tests.stress.crowd [--clients 2000]``; part of ``make stress``.

A relay with its default limits runs in a process of its own. Two honest clients exchange numbered
payloads through it all the time: alone, while the crowd registers, and while clients of each of the
bad kinds come again and again. Shown are the payloads that were lost or came twice, the worst
round trip of each part, and the relay's resident memory per client.

The crowd is spread over networks of 250 clients: every newcomer of a network is announced to all of
it. It comes from as many addresses of 127.0.0.0/8 as the limit per address demands.

The exit status is 1 if an honest payload is lost or repeated, an honest client is cut off, or the
relay's memory exceeds what is allowed. Times are only shown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure

from dig_gossip.connection.websocket import OpenTransports
from dig_gossip.relay.websocket import RelayClientFactory, RelayClientProtocol
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import handled
from dig_gossip.wire import relay

ROOT: Final = Path(__file__).resolve().parents[2]
NETWORK_SIZE: Final = 250
PER_HOST: Final = 10
AT_ONCE: Final = 40
KIB_PER_CLIENT: Final = 160
KIB_BASE: Final = 40_000
PATIENCE_SECS: Final = 120.0


class Client:
    """One connection to the relay; what it says is up to whoever made it."""

    def __init__(self, peer_id: str, network: str) -> None:
        self.peer_id = peer_id
        self.network = network
        self.registered: Deferred[bool] = Deferred()
        self.is_open = False
        self.socket: RelayClientProtocol | None = None
        self.heard_frames = 0

    # -- the websocket's receiver

    def secured(self, peer_id: object) -> None:
        """There is no TLS here."""

    def broken(self, error: object) -> None:
        """Nor a certificate."""

    def heard(self) -> None:
        """Bytes came."""

    def pong_received(self, payload: bytes) -> None:
        """Nobody pings."""

    def opened(self) -> None:
        """Register."""
        self.is_open = True
        self.say(relay.Register(peer_id=self.peer_id, network_id=self.network, binary=True))

    def relayed(self, data: bytes, is_binary: bool) -> None:
        """Take one message."""
        self.heard_frames += 1
        if is_binary:
            self.payload(*relay.parse_binary_message(data))
        elif not self.registered.called:
            frame = relay.decode(data)
            if isinstance(frame, relay.RegisterAck):
                self.registered.callback(frame.success)

    def closing(self, code: int | None, by_us: bool) -> None:
        """The relay ends it."""
        self.is_open = False

    def lost(self, reason: Failure) -> None:
        """It has ended."""
        self.is_open = False
        if not self.registered.called:
            self.registered.callback(False)

    # -- what it does

    def say(self, frame: relay.RelayFrame | bytes) -> None:
        """Send a frame."""
        if self.socket is not None and self.is_open:
            self.socket.say(frame if isinstance(frame, bytes) else frame.encode())

    def payload(self, peer: bytes, seq: int, data: bytes) -> None:
        """A payload came."""


class Echo(Client):
    """Sends back what it gets."""

    def payload(self, peer: bytes, seq: int, data: bytes) -> None:
        self.say(relay.binary_message(peer, seq, data))


class Asker(Client):
    """Sends a number, waits for it to come back, sends the next one."""

    def __init__(self, peer_id: str, network: str, other: str) -> None:
        super().__init__(peer_id, network)
        self.trips: list[float] = []
        self.got: Counter[int] = Counter()
        self.sent = 0
        self._other = bytes.fromhex(other)
        self._at = 0.0

    def ask(self) -> None:
        """Send the next number."""
        self.sent += 1
        self._at = time.perf_counter()
        data = self.sent.to_bytes(8, "big") + bytes(1000)
        self.say(relay.binary_message(self._other, self.sent, data))

    def payload(self, peer: bytes, seq: int, data: bytes) -> None:
        self.got[int.from_bytes(data[:8], "big")] += 1
        self.trips.append(time.perf_counter() - self._at)


class _Connection(Factory):
    noisy = False

    def __init__(self, websockets: RelayClientFactory, target: PeerAddress, client: Any) -> None:
        self._websockets = websockets
        self._target = target
        self._client = client

    def buildProtocol(self, addr: IAddress | None) -> Any:
        protocol: Any = self._websockets.make(self._target, self._client)
        protocol.frame_bytes = 4_194_304
        self._client.socket = protocol
        return protocol


class _Silent(Factory):
    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return Protocol()


class Crowd:
    """Everybody who connects."""

    def __init__(self, reactor: Any, target: PeerAddress, pid: int) -> None:
        self._reactor = reactor
        self._target = target
        self._pid = pid
        self._websockets = RelayClientFactory(Clock(reactor), OpenTransports())
        self._hosts = 0
        self.clients: list[Client] = []

    def host(self, number: int, count: int) -> str:
        """A loopback address for each so many clients; neighbors have different ones."""
        index = number % -(-count // PER_HOST)
        return f"127.1.{index // 200}.{index % 200 + 1}"

    async def connect(self, client: Client, host: str) -> bool:
        """Connect and register one client."""
        endpoint = TCP4ClientEndpoint(
            self._reactor, self._target.host, self._target.port, 30, bindAddress=(host, 0)
        )
        try:
            await endpoint.connect(_Connection(self._websockets, self._target, client))
        except Exception:
            return False
        return await client.registered.addTimeout(PATIENCE_SECS, self._reactor, lambda *_: False)

    async def pause(self, seconds: float) -> None:
        """Let time pass."""
        await deferLater(self._reactor, seconds, lambda: None)

    def memory_kib(self) -> int:
        """The relay's resident memory."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    async def gather(self, count: int) -> int:
        """Register a crowd; how many were taken in."""
        taken = 0
        for first in range(0, count, AT_ONCE):
            waiting = []
            for number in range(first, min(first + AT_ONCE, count)):
                client = Client(f"{number:064x}", f"network {number // NETWORK_SIZE}")
                self.clients.append(client)
                joining = self.connect(client, self.host(number, count))
                waiting.append(Deferred.fromCoroutine(joining))
            for one in waiting:
                taken += await one
            print(f"{taken} clients, {self.memory_kib() // 1024} MiB", flush=True)
            # Ten registrations a second and address is what the relay allows.
            await self.pause(0.5)
        return taken

    async def misbehave(self, rounds: int) -> None:
        """Break one limit after the other, from an address for each."""
        for number in range(rounds):
            host = f"127.2.{number // 200}.{number % 200 + 1}"
            kind = number % 6
            client = Client(f"{0xBAD0000 + number:064x}", "bad")
            if kind == 0:  # connects and says nothing
                endpoint = TCP4ClientEndpoint(
                    self._reactor, self._target.host, self._target.port, 30, bindAddress=(host, 0)
                )
                handled(endpoint.connect(_Silent()).addErrback(lambda _: None))
            elif await self.connect(client, host):
                if kind == 1:
                    client.say(b"\xff" * 300_000)  # above the size of a frame
                elif kind == 2:
                    for _ in range(400):
                        client.say(relay.Ping(timestamp=1))
                elif kind == 3:
                    for _ in range(40):
                        client.say(relay.Broadcast(sender="", payload=bytes(15_000)))
                elif kind == 4:
                    thief = Client(client.peer_id, "bad")
                    await self.connect(thief, host)
                elif kind == 5:
                    for _ in range(60):
                        handled(
                            Deferred.fromCoroutine(
                                self.connect(Client(f"{number:060x}dead", "bad"), host)
                            ).addErrback(lambda _: None)
                        )
            await self.pause(0.02)


async def exchange(crowd: Crowd, asker: Asker, stop: list[bool]) -> None:
    """Let the honest pair talk, 20 times a second."""
    while not stop:
        asker.ask()
        await crowd.pause(0.05)


async def run(reactor: Any, clients: int, bad: int) -> None:
    """Everything, in order."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.interop.relay_node", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        target = PeerAddress.parse(process.stdout.readline().split()[-1])
        try:
            await measure(Crowd(reactor, target, process.pid), clients, bad)
        finally:
            process.kill()


async def measure(crowd: Crowd, clients: int, bad: int) -> None:
    """Run the three parts and print the verdicts."""
    echo = Echo("e" * 64, "honest")
    asker = Asker("a" * 64, "honest", echo.peer_id)
    for client in (echo, asker):
        if not await crowd.connect(client, "127.3.0.1"):
            raise RuntimeError("the relay refuses honest clients")
    stop: list[bool] = []
    talking = Deferred.fromCoroutine(exchange(crowd, asker, stop))
    parts: dict[str, float] = {}

    def part(name: str) -> None:
        trips, asker.trips = asker.trips, []
        parts[name] = max(trips, default=0.0)

    await crowd.pause(2)
    part("alone")
    base = crowd.memory_kib()
    taken = await crowd.gather(clients)
    part("crowd arrives")
    await crowd.misbehave(bad)
    await crowd.pause(2)
    part("limits broken")
    stop.append(True)
    await talking
    await crowd.pause(2)
    missing = asker.sent - len(asker.got)
    twice = sum(count > 1 for count in asker.got.values())
    left = sum(client.is_open for client in crowd.clients)
    memory = crowd.memory_kib()
    print(json.dumps({"worst round trip, s": {k: round(v, 3) for k, v in parts.items()}}))
    print(json.dumps({"relay": {"KiB alone": base, "KiB now": memory, "clients": taken}}))
    allowed = base + KIB_BASE + KIB_PER_CLIENT * clients
    verdicts = {
        "all of the crowd was taken in and stayed": taken == clients == left,
        "no honest payload was lost or came twice": (missing, twice) == (0, 0),
        "the honest clients stayed": echo.is_open and asker.is_open,
        f"the relay's memory stayed below {allowed} KiB": memory <= allowed,
    }
    for text, holds in verdicts.items():
        print(json.dumps({"claim": text, "holds": holds}))
    if not all(verdicts.values()):
        raise SystemExit(1)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--bad", type=int, default=120, help="clients that break limits")
    options = parser.parse_args()
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, options.clients, options.bad)))


if __name__ == "__main__":
    main()
