"""``dig-gossip localnet``: a network on loopback, real sockets and TLS, in one process.

An introducer, and nodes that know it and nothing else; or, with ``--nat``, a relay instead.
"""

from __future__ import annotations

import argparse
import random
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Set
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from dig_gossip.cli.display import Display, NodeRow, make_display
from dig_gossip.cli.places import AtIntroducer, AtRelay, Place
from dig_gossip.cli.summary import Summary
from dig_gossip.errors import GossipError
from dig_gossip.service.gossip_service import GossipService
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerAddress, PlumtreeRole
from dig_gossip.types.sections import PeerOptions
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType

_STAMP = struct.Struct("!QQ")  # serial number, origin
_REFRESH_SECS = 0.25
_CONNECT_LIMIT_SECS = 60.0
_DELIVERY_LIMIT_SECS = 30.0


def is_connected(links: Mapping[int, Set[int]]) -> bool:
    """Whether a message can get from every node to every other.

    :param links: for each node, those it has a session with.
    """
    reached: set[int] = set()
    waiting = set(list(links)[:1])
    while waiting:
        node = waiting.pop()
        reached.add(node)
        waiting |= links[node] - reached
    return len(reached) == len(links)


def random_graph(nodes: int, degree: int, rng: random.Random) -> list[set[int]]:
    """A connected random graph in which every node dials only nodes of a lower number.

    :returns: for each node the numbers that it dials; on average ``degree / 2`` of them.
    """
    dials: list[set[int]] = [set() for _ in range(nodes)]
    links = Counter[int]()
    for number in range(1, nodes):  # a random tree first: connected
        other = rng.randrange(number)
        dials[number].add(other)
        links.update((number, other))
    wanted = nodes * min(degree, nodes - 1) // 2 - (nodes - 1)
    free = [(a, b) for a in range(nodes) for b in range(a) if b not in dials[a]]
    rng.shuffle(free)
    free.sort(key=lambda pair: max(links[pair[0]], links[pair[1]]))
    for a, b in free:
        if wanted <= 0:
            break
        if links[a] < degree and links[b] < degree:
            dials[a].add(b)
            links.update((a, b))
            wanted -= 1
    return dials


class _Member:
    """One node and what it delivered."""

    def __init__(self, service: GossipService) -> None:
        self.service = service
        self.delivered: Counter[int] = Counter()
        self.sent: set[int] = set()
        self.subscription: Subscription | None = None


class Localnet:
    """The nodes, the messages among them, and the figures."""

    def __init__(self, options: argparse.Namespace, reactor: Any) -> None:
        self._options = options
        self._reactor = reactor
        self._rng = random.Random(options.seed)
        self._members: list[_Member] = []
        self._sent_at: list[float] = []
        self._latencies: list[float] = []
        self._baseline = (0, 0)
        self._place: Place = AtRelay(reactor) if options.nat else AtIntroducer(reactor)

    async def start(self, display: Display, is_over: Callable[[], bool]) -> None:
        """Open the place and start the nodes; wait until these have found each other.

        :param is_over: whether to wait no longer.
        """
        self._place.start()
        # Each dials half of its links, the others come in.
        target = min(max(1, self._options.degree // 2), self._options.nodes - 1)
        for _ in range(self._options.nodes):
            config = GossipConfig(
                listen_addr=PeerAddress("127.0.0.1", 0),
                target_outbound_count=target,
                max_connections=max(50, 2 * self._options.degree),
                peers_file_path=None,
                # A network of our own, which may be asked for more than peers would stand.
                peer_options=PeerOptions(enforce_rate_limits=False),
                reactor=self._reactor,
                **self._place.options(),
            )
            member = _Member(GossipService(config))
            await member.service.start()
            self._members.append(member)
            # Subscribed here, so that nothing is missed before the reading begins.
            member.subscription = member.service.handle.inbound_receiver()
            _watch(Deferred.fromCoroutine(self._read(member, member.subscription)))
            await self._sleep(0)  # the others go on finding each other
            display.show(await self.rows(), await self.summary(), self.state())
        deadline = time.monotonic() + _CONNECT_LIMIT_SECS
        while not (is_over() or self._is_ready(target)) and time.monotonic() < deadline:
            await self._sleep(0.05)
            display.show(await self.rows(), await self.summary(), self.state())
        self._baseline = await self._traffic()

    def state(self) -> str:
        """How the place is where the nodes find each other, in words."""
        return self._place.state(self._services())

    def _services(self) -> list[GossipService]:
        return [member.service for member in self._members]

    def _is_ready(self, target: int) -> bool:
        """Whether every node has the peers it wants, and messages reach everybody."""
        numbers = {member.service.peer_id: n for n, member in enumerate(self._members)}
        links = {
            number: {
                numbers[session.peer_id]
                for session in member.service.node.peers.table
                if session.peer_id in numbers  # the introducer looks in, too
            }
            for number, member in enumerate(self._members)
        }
        return (
            all(len(peers) >= target for peers in links.values())
            and is_connected(links)
            and self._place.is_settled(self._services())
        )

    async def _read(self, member: _Member, subscription: Subscription) -> None:
        async for _peer, message in subscription:
            if message.type != DigMessageType.NEW_ATTESTATION:
                continue
            serial, _origin = _STAMP.unpack_from(message.data)
            member.delivered[serial] += 1
            self._latencies.append(time.perf_counter() - self._sent_at[serial])

    async def send(self) -> None:
        """Let a random node broadcast one message."""
        origin = self._rng.randrange(len(self._members))
        serial = len(self._sent_at)
        stamp = _STAMP.pack(serial, origin)
        payload = stamp + self._rng.randbytes(self._options.size - len(stamp))
        self._sent_at.append(time.perf_counter())
        member = self._members[origin]
        member.sent.add(serial)
        await member.service.handle.broadcast(
            Message(DigMessageType.NEW_ATTESTATION, None, payload)
        )

    async def wait_until_delivered(self) -> None:
        """Wait until everything has arrived everywhere, or for long enough."""
        deadline = time.monotonic() + _DELIVERY_LIMIT_SECS
        while self._missing() and time.monotonic() < deadline:
            await self._sleep(0.05)
        await self._sleep(0.5)  # what must not arrive twice would do so by now

    async def summary(self) -> Summary:
        """The figures so far, without what building the links cost."""
        duplicates, sent = await self._traffic()
        return Summary(
            nodes=len(self._members),
            links=self._sessions() // 2,
            messages=len(self._sent_at),
            deliveries=sum(len(m.delivered) for m in self._members),
            missing=self._missing(),
            repeated=sum(sum(m.delivered.values()) - len(m.delivered) for m in self._members),
            duplicates=duplicates - self._baseline[0],
            bytes_sent=sent - self._baseline[1],
            payload_size=self._options.size,
            latencies=self._latencies,
        )

    async def rows(self) -> list[NodeRow]:
        """What the table shows."""
        rows = []
        for number, member in enumerate(self._members):
            stats = await member.service.handle.stats()
            connections = await member.service.handle.connected_peers()
            eager = sum(1 for c in connections if c.plumtree is PlumtreeRole.EAGER)
            rows.append(
                NodeRow(
                    number=number,
                    peer_id=member.service.peer_id.hex(),
                    address=str(member.service.listen_address),
                    peers=stats.connected_peers,
                    known=stats.known_addresses,
                    eager=eager,
                    lazy=sum(1 for c in connections if c.plumtree is PlumtreeRole.LAZY),
                    sent=len(member.sent),
                    delivered=sum(member.delivered.values()),
                    duplicates=stats.extra.get("duplicates", 0),
                    bytes_sent=stats.bytes_sent,
                )
            )
        return rows

    async def stop(self) -> None:
        """Stop everything."""
        stopping = [member.service.stop() for member in self._members]
        await DeferredList([*stopping, self._place.stop()])

    def _missing(self) -> int:
        return sum(len(self._sent_at) - len(m.sent) - len(m.delivered) for m in self._members)

    def _sessions(self) -> int:
        return sum(len(m.service.node.peers.table) for m in self._members)

    async def _traffic(self) -> tuple[int, int]:
        all_stats = [await member.service.handle.stats() for member in self._members]
        return (
            sum(stats.extra.get("duplicates", 0) for stats in all_stats),
            sum(stats.bytes_sent for stats in all_stats),
        )

    def _sleep(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds, lambda: None)


class Net(Protocol):
    """What can be run and shown."""

    async def start(self, display: Display, is_over: Callable[[], bool]) -> None: ...
    async def send(self) -> None: ...
    async def wait_until_delivered(self) -> None: ...
    async def summary(self) -> Summary: ...
    async def rows(self) -> list[NodeRow]: ...
    async def stop(self) -> None: ...
    def state(self) -> str: ...


def run(
    options: argparse.Namespace,
    make_net: Callable[[argparse.Namespace, Any], Net] = Localnet,
) -> int:
    """Run the verb: ``options`` as parsed by the command line.

    :returns: 0; with ``--once`` 1 unless every node delivered every message exactly once.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed  # Any: the module is typed as an interface it only gains at run time
    display = make_display(plain=options.plain)
    net = make_net(options, reactor)
    status = 1
    interrupted = False

    def interrupt(_signal: int, _frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        reactor.wakeUp()

    async def session() -> None:
        nonlocal status
        try:
            await net.start(display, lambda: interrupted)
            started = next_message = time.monotonic()
            sent = 0
            while not interrupted:
                now = time.monotonic()
                if options.once and sent >= options.messages:
                    break
                if options.seconds is not None and now - started >= options.seconds:
                    break
                if options.once or now >= next_message:
                    next_message += options.interval
                    sent += 1
                    await net.send()
                display.show(await net.rows(), await net.summary(), net.state())
                pause = 0.02 if options.once else min(_REFRESH_SECS, options.interval)
                await deferLater(reactor, pause, lambda: None)
            await net.wait_until_delivered()
            summary = await net.summary()
            display.show(await net.rows(), summary, net.state())
            display.finish(summary)
            status = 0 if summary.complete or not options.once else 1
        except GossipError as error:
            display.close()
            print(f"dig-gossip localnet: {error}", file=sys.stderr)
        finally:
            display.close()
            await net.stop()

    def ended(result: object) -> None:
        if isinstance(result, Failure):
            result.printTraceback(file=sys.stderr)
        reactor.stop()

    def begin() -> None:
        handled(Deferred.fromCoroutine(session()).addBoth(ended))

    # Ctrl-C ends with the summary instead of with the reactor.
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    return status


def _watch(deferred: Deferred[None]) -> None:
    def failed(failure: Failure) -> None:
        failure.printTraceback(file=sys.stderr)

    handled(deferred.addErrback(failed))
