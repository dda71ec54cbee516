"""Many complete nodes in one process: real TLS, WebSocket and handshakes over in-memory TCP::

    network = MemoryNetwork(seed=1, latency=0.05)
    alice, bob = network.node(), network.node()
    network.start()
    network.run(alice.handle.connect_to(bob.address))
    network.run(alice.handle.broadcast(Message(200, None, b"hello")))
    network.advance(1.0)

Nothing happens until time is advanced, and the same seed gives the same run. Each node has an
address of its own, so that links between two addresses can be slowed, stalled, cut or killed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeVar

import txaio
from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IProtocolFactory,
    IReactorTCP,
    IReactorTime,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.constants import DEFAULT_INTRODUCER_PORT
from dig_gossip.discovery.introducer_server import IntroducerServer
from dig_gossip.service.gossip_handle import GossipHandle
from dig_gossip.service.gossip_service import GossipService
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.testing.clock import SimulatedClock
from dig_gossip.testing.transport import MemoryTransport
from dig_gossip.tls.identity import Identity
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.introducer import IntroducerServerConfig
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.deferreds import handled

T = TypeVar("T")

#: How long a simulated NAT remembers that somebody behind it has dialed an address.
NAT_MEMORY_SECS = 60.0


class MemoryNode:
    """A node of a :class:`MemoryNetwork`."""

    def __init__(self, service: GossipService, reactor: MemoryReactor, address: PeerAddress):
        self.service = service
        self.reactor = reactor
        self.address = address
        self.host = address.host

    @property
    def handle(self) -> GossipHandle:
        """The node's handle."""
        return self.service.handle

    @property
    def peer_id(self) -> PeerId:
        """The node's id."""
        return self.service.peer_id


class MemoryIntroducer:
    """An introducer of a :class:`MemoryNetwork`."""

    def __init__(self, server: IntroducerServer, reactor: MemoryReactor) -> None:
        self.server = server
        self.reactor = reactor
        self.host = reactor.host

    @property
    def url(self) -> str:
        """Its endpoint, for a node's ``introducer=IntroducerConfig(endpoint=…)``."""
        return self.server.url


class MemoryNetwork:
    """Addresses, links and one clock.

    :param seed: everything random in the network and its nodes derives from it.
    :param latency: one-way seconds between any two addresses, or a function of both.
    :param loss: share of writes, 0..1, that are delayed by a retransmission (0.2 s): TCP loses
        time, not bytes.
    """

    def __init__(
        self,
        seed: int = 0,
        latency: float | Callable[[str, str], float] = 0.01,
        loss: float = 0.0,
    ) -> None:
        self.clock = SimulatedClock()
        self.rng = random.Random(seed)
        self._seed = seed
        self.nodes: list[MemoryNode] = []
        self.introducers: list[MemoryIntroducer] = []
        self.stalled: list[MemoryTransport] = []
        self.loss = loss
        self._latency = latency
        self._ports: dict[tuple[str, int], _MemoryPort] = {}
        self._cut: set[frozenset[str]] = set()
        self._dead: set[str] = set()
        #: hosts behind a NAT, and when each last dialed whom
        self._dialed: dict[str, dict[str, float]] = {}
        self._next_host = 1
        txaio.use_twisted()
        # Autobahn asks the global reactor where nobody told it otherwise.
        txaio.config.loop = self.clock

    # -- building

    def host(self) -> str:
        """An address nobody has yet: 10.x.0.1 and on, each in a /16 of its own."""
        number, self._next_host = self._next_host, self._next_host + 1
        return f"{10 + number // 256}.{number % 256}.0.1"

    def reactor(self, host: str | None = None) -> MemoryReactor:
        """A reactor that listens and dials from one address."""
        return MemoryReactor(self, self.host() if host is None else host)

    def node(
        self,
        *,
        identity: Identity | None = None,
        host: str | None = None,
        port: int = 9444,
        **options: Any,  # Any: GossipConfig's own
    ) -> MemoryNode:
        """Make a complete node; it listens once started.

        :param options: fields of :class:`GossipConfig`. Unless they say otherwise, the node keeps
            everything in memory and does not look for peers by itself (``discovery=True`` does):
            who is connected to whom is the test's choice.
        """
        reactor = self.reactor(host)
        address = PeerAddress(reactor.host, port)
        config = GossipConfig(
            listen_addr=address,
            reactor=reactor,
            rng=random.Random(self.rng.random()),
            **{"peers_file_path": None, "discovery": False, **options},
        )
        if identity is None:
            identity = throwaway_identity(f"{self._seed}/{len(self.nodes)}")
        node = MemoryNode(GossipService(config, identity=identity), reactor, address)
        self.nodes.append(node)
        return node

    def introducer(
        self,
        *,
        host: str | None = None,
        port: int = DEFAULT_INTRODUCER_PORT,
        **options: Any,  # Any: IntroducerServerConfig's own
    ) -> MemoryIntroducer:
        """Make and start an introducer.

        :param options: fields of :class:`IntroducerServerConfig`.
        """
        reactor = self.reactor(host)
        config = IntroducerServerConfig(
            listen_addr=PeerAddress(reactor.host, port),
            reactor=reactor,
            rng=random.Random(self.rng.random()),
            **options,
        )
        name = f"{self._seed}/introducer/{len(self.introducers)}"
        server = IntroducerServer(
            config,
            identity=throwaway_identity(name),
            probe_identity=throwaway_identity(f"{name}/probe"),
        )
        made = MemoryIntroducer(server, reactor)
        made.server.startService()
        self.introducers.append(made)
        return made

    def start(self) -> None:
        """Start every node that rests."""
        for node in self.nodes:
            if node.service.lifecycle.value == "constructed":
                self.run(node.service.start())

    def stop(self) -> None:
        """Stop every introducer and every node; raises if one does not stop."""
        self.heal()
        for introducer in self.introducers:
            if introducer.host not in self._dead:
                self.run(introducer.server.stopService())
        for node in self.nodes:
            if node.host not in self._dead:
                self.run(node.service.stop())

    # -- time

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)

    def settle(self, limit: float = 1.0) -> None:
        """Let at most ``limit`` seconds pass: enough for what is under way to arrive."""
        self.clock.advance(limit)

    def run(self, deferred: Deferred[T], limit: float = 120.0) -> T:
        """Advance until a Deferred fires; return its result or raise its failure."""
        outcome: list[Any] = []
        handled(deferred.addBoth(outcome.append))
        end = self.clock.seconds() + limit
        while not outcome:
            due = self.clock.next_due
            if due is None or due > end:
                raise AssertionError(f"did not fire within {limit} s")
            self.clock.step()
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        result: T = outcome[0]
        return result

    # -- links

    def latency(self, source: str, target: str) -> float:
        """One-way seconds between two addresses."""
        return (
            self._latency
            if isinstance(self._latency, int | float)
            else (self._latency(source, target))
        )

    def delay(self, source: str, target: str) -> float:
        """One-way seconds of the next write."""
        delay = self.latency(source, target)
        if self.loss and self.rng.random() < self.loss:
            delay += 0.2
        return delay

    def cut(self, one: str, other: str) -> None:
        """Let nothing pass between two addresses, without telling either; see :meth:`heal`."""
        self._cut.add(frozenset((one, other)))

    def partition(self, group: set[str]) -> None:
        """Cut every link between the group and the other nodes."""
        hosts = {node.host for node in self.nodes}
        for one in group:
            for other in hosts - group:
                self.cut(one, other)

    def heal(self) -> None:
        """Undo every cut; what was written meanwhile arrives."""
        self._cut.clear()
        stalled, self.stalled = self.stalled, []
        for transport in stalled:
            transport._wake()

    def hide(self, host: str) -> None:
        """Put an address behind a NAT: whoever dials it is not answered, unless it has dialed that
        address itself within the last :data:`NAT_MEMORY_SECS`.
        """
        self._dialed.setdefault(host, {})

    def kill(self, node: MemoryNode | MemoryIntroducer) -> None:
        """Let a node, or an introducer, vanish: it neither sends, receives, nor closes anything."""
        self._dead.add(node.host)

    def is_alive(self, host: str) -> bool:
        """Whether nobody killed this address."""
        return host not in self._dead

    def flows(self, source: str, target: str) -> bool:
        """Whether bytes pass from one address to another at this moment."""
        if source in self._dead or target in self._dead:
            return False
        return frozenset((source, target)) not in self._cut

    # -- for reactors

    def _listen(self, port: _MemoryPort) -> None:
        key = (port.address.host, port.address.port)
        if key in self._ports:
            raise error.CannotListenError(port.address.host, port.address.port, OSError("in use"))
        self._ports[key] = port

    def _unlisten(self, port: _MemoryPort) -> None:
        self._ports.pop((port.address.host, port.address.port), None)

    def _dials(self, source: str, target: str) -> None:
        if source in self._dialed:
            self._dialed[source][target] = self.clock.seconds()

    def _connect(self, connector: _MemoryConnector) -> None:
        source, target = connector.source, connector.target
        if not self.flows(source.host, target.host):
            return  # nobody answers
        dialed = self._dialed.get(target.host)
        if dialed is not None:
            last = dialed.get(source.host)
            if last is None or self.clock.seconds() - last > NAT_MEMORY_SECS:
                return  # nobody answers
        port = self._ports.get((target.host, target.port))
        if port is None:
            connector.failed(error.ConnectionRefusedError())
            return
        ours = MemoryTransport(self, source, target)
        theirs = MemoryTransport(self, target, source)
        ours.other, theirs.other = theirs, ours
        client = connector.connected()
        if client is None:
            return
        ours.protocol = client
        server = port.factory.buildProtocol(source)
        client.makeConnection(ours)
        if server is None:
            theirs.abortConnection()
            return
        theirs.protocol = server
        server.makeConnection(theirs)


@implementer(IReactorTCP, IReactorTime)
class MemoryReactor:
    """What a node at one address sees of the world."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self.network = network
        self.host = host
        self._ports = 40000

    def seconds(self) -> float:
        return self.network.clock.seconds()

    def monotonic(self) -> float:
        """For :class:`~dig_gossip.util.clock.Clock`."""
        return self.network.clock.seconds()

    def unix(self) -> float:
        """For :class:`~dig_gossip.util.clock.Clock`."""
        return self.network.clock.unix()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002 - the interface's name
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        return self.network.clock.callLater(delay, self._run, callable, args, kw)

    def _run(self, function: Callable[..., Any], args: Any, kw: Any) -> None:
        if self.network.is_alive(self.host):
            function(*args, **kw)

    def getDelayedCalls(self) -> list[IDelayedCall]:
        return list(self.network.clock.getDelayedCalls())

    def callFromThread(self, function: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Run soon."""
        self.callLater(0, function, *args, **kw)

    def getThreadPool(self) -> _SameThread:
        """What blocks happens at once, and its result comes in a later turn."""
        return _SameThread()

    def listenTCP(
        self, port: Any, factory: IProtocolFactory, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        number = port if isinstance(port, int) else port._port  # or Twisted's Binding
        listening = _MemoryPort(self, number or self._port(), factory)
        listening.startListening()
        return listening

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,
    ) -> Any:
        # Only Twisted's Binding may share a port that is in use.
        ours = getattr(bindAddress, "_port", 0) or self._port()
        connector = _MemoryConnector(
            self, _address(self.host, ours), _address(host, port), factory, timeout
        )
        connector.connect()
        return connector

    def _port(self) -> int:
        self._ports += 1
        return self._ports


class _SameThread:
    """A thread pool without threads: the same seed gives the same run."""

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, Any], object],
        func: Callable[..., Any],
        *args: Any,
        **kw: Any,
    ) -> None:
        try:
            result = func(*args, **kw)
        except Exception:
            onResult(False, Failure())
        else:
            onResult(True, result)


@implementer(IListeningPort)
class _MemoryPort:
    def __init__(self, reactor: MemoryReactor, port: int, factory: IProtocolFactory) -> None:
        self._network = reactor.network
        self.address = _address(reactor.host, port)
        self.factory = factory

    def startListening(self) -> None:
        self._network._listen(self)
        self.factory.doStart()

    def stopListening(self) -> Deferred[None]:
        self._network._unlisten(self)
        self.factory.doStop()
        return succeed(None)

    def getHost(self) -> IPv4Address | IPv6Address:
        return self.address


class _MemoryConnector:
    """One attempt: a round trip, then a connection, a refusal, or silence until the timeout."""

    def __init__(
        self,
        reactor: MemoryReactor,
        source: IPv4Address | IPv6Address,
        target: IPv4Address | IPv6Address,
        factory: Any,
        timeout: float,
    ) -> None:
        self._reactor = reactor
        self.source = source
        self.target = target
        self._factory = factory
        self._timeout = timeout
        self._pending: list[IDelayedCall] = []

    def connect(self) -> None:
        network = self._reactor.network
        trip = 2 * network.latency(self.source.host, self.target.host)
        network._dials(self.source.host, self.target.host)
        self._factory.doStart()
        self._factory.startedConnecting(self)
        self._pending = [
            self._reactor.callLater(trip, network._connect, self),
            self._reactor.callLater(self._timeout, self.failed, error.TimeoutError()),
        ]

    def connected(self) -> Any:
        self._stop()
        return self._factory.buildProtocol(self.target)

    def failed(self, reason: Exception) -> None:
        self._stop()
        self._factory.clientConnectionFailed(self, Failure(reason))
        self._factory.doStop()

    def stopConnecting(self) -> None:
        self.failed(error.UserError())

    def disconnect(self) -> None:
        self.stopConnecting()

    def getDestination(self) -> IPv4Address | IPv6Address:
        return self.target

    def _stop(self) -> None:
        for call in self._pending:
            if call.active():
                call.cancel()


def _address(host: str, port: int) -> IPv4Address | IPv6Address:
    kind = IPv6Address if ":" in host else IPv4Address
    return kind("TCP", host, port)
