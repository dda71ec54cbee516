"""The node as a Twisted service: what starts, in which order it stops.

Life: constructed → running → stopping → stopped, one way; a start that fails leaves it constructed.
Source: behaviour §1, §31, §32; style §6.5.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.ban_file import BanFile
from dig_gossip.connection.dialer import Dialer
from dig_gossip.connection.errand import Greeting
from dig_gossip.connection.listener import Listener
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.receive_budget import ReceiveBudget
from dig_gossip.connection.stack import PeerStack
from dig_gossip.connection.visit import Destination, Visits
from dig_gossip.connection.websocket import OpenTransports
from dig_gossip.constants import (
    CLEANUP_INTERVAL_SECS,
    OUTBOUND_HANDSHAKE_TIMEOUT_SECS,
    SHUTDOWN_TIMEOUT_SECS,
    TCP_CONNECT_TIMEOUT_SECS,
)
from dig_gossip.discovery.discovery import Discovery, make_dns_sources
from dig_gossip.discovery.introducer_client import IntroducerClient
from dig_gossip.discovery.introducer_source import IntroducerSource
from dig_gossip.discovery.peer_exchange import EXCHANGE_TICK_SECS
from dig_gossip.discovery.sources import IPeerSource
from dig_gossip.errors import (
    AlreadyStarted,
    DuplicateConnection,
    IntroducerError,
    InvalidConfig,
    SelfConnection,
    ServiceNotStarted,
)
from dig_gossip.portmap.mapper import PortMapper
from dig_gossip.privacy.onion_service import OnionService
from dig_gossip.service.gossip_handle import GossipHandle
from dig_gossip.service.relaying import Relaying
from dig_gossip.service.rotating import Rotating
from dig_gossip.service.router import Router
from dig_gossip.service.subscriptions import Subscriptions
from dig_gossip.tls.context import PeerTLS
from dig_gossip.tls.identity import Identity, load_or_create_identity
from dig_gossip.types.config import GossipConfig, check_available
from dig_gossip.types.peer import NodeType, PeerAddress, PeerId
from dig_gossip.util.addresses import LOOPBACK_OF
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import Observers, handled, returns_deferred
from dig_gossip.util.tasks import Tasks
from dig_gossip.wire.dig import RegisterPeer

#: Is told the former id and the present one.
RotationObserver: TypeAlias = Callable[[PeerId, PeerId], object]


class Lifecycle(enum.Enum):
    """Where a service is in its life."""

    CONSTRUCTED = "constructed"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class GossipService(MultiService):
    """One node.

    Constructing validates the configuration and loads, or creates, the TLS identity. It opens no
    socket and starts no timer.

    Use it alone (``handle = await service.start()`` … ``await service.stop()``) or as a child of
    an application (``service.setServiceParent(app)``, then ``service.handle``).

    :param identity: use this one instead of that of the configured files.
    :raises InvalidConfig: a value cannot be used.
    :raises Io, ClientError: the identity cannot be read or written.
    """

    _log = Logger()

    def __init__(
        self, config: GossipConfig | None = None, *, identity: Identity | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        config = GossipConfig() if config is None else config
        check_available(config)
        self.config = config
        self._identity = identity or load_or_create_identity(config.cert_path, config.key_path)
        if config.peer_id is not None and config.peer_id != self._identity.peer_id:
            raise InvalidConfig(
                f"peer_id: the certificate's id is {self._identity.peer_id.hex()}; "
                "leave peer_id out to use it"
            )
        if config.peer_id is not None and _rotates(config):
            raise InvalidConfig("peer_id: cannot be fixed while peer_id_rotation changes it")
        self._life = Lifecycle.CONSTRUCTED
        self._stopped: Observers[None] = Observers()
        self._node: Node | None = None
        self._rotation_observers: list[RotationObserver] = []

    @property
    def peer_id(self) -> PeerId:
        """This node's id, at this moment."""
        return self._identity.peer_id

    def observe_rotation(self, observer: RotationObserver) -> Callable[[], None]:
        """Call ``observer(former, current)`` whenever the node has taken another peer id.

        By then every new connection shows the new id, and no session has moved yet. What the
        observer raises is logged.

        :returns: call it to observe no longer.
        Source: behaviour ROT-102-X.
        """
        self._rotation_observers.append(observer)

        def stop() -> None:
            if observer in self._rotation_observers:
                self._rotation_observers.remove(observer)

        return stop

    def _become(self, identity: Identity) -> None:
        former, self._identity = self._identity.peer_id, identity
        for observer in list(self._rotation_observers):
            try:
                observer(former, identity.peer_id)
            except Exception:
                self._log.failure("an observer of rotations failed", event="observer_failed")

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the service is in its life."""
        return self._life

    @property
    def node(self) -> Node:
        """The running parts; for the handle.

        :raises ServiceNotStarted: outside of running.
        """
        if self._life is not Lifecycle.RUNNING or self._node is None:
            raise ServiceNotStarted
        return self._node

    @property
    def handle(self) -> GossipHandle:
        """A handle on this service; its methods fail with ``ServiceNotStarted`` while it rests."""
        return GossipHandle(self)

    @property
    def listen_address(self) -> PeerAddress:
        """Where the node listens, with the port resolved.

        :raises ServiceNotStarted: outside of running.
        """
        bound = self.node.peers.bound
        assert bound is not None
        return bound

    @property
    def external_address(self) -> PeerAddress | None:
        """Where others can dial the node from outside of its local network, as far as it knows:
        ``external_addr``, or the port that the gateway has mapped. Not with Tor alone.

        :raises ServiceNotStarted: outside of running.
        """
        known = self.config.external_addr or self.node.peers.mapped
        return None if self.config.is_tor_only else known

    # -- the seed's names

    @returns_deferred
    async def start(self) -> GossipHandle:
        """Bind the listener, start the background tasks.

        :returns: fires with a handle.
        :raises AlreadyStarted: the service is running.
        :raises InvalidConfig: it was stopped; make a new one.
        :raises Io: the address cannot be bound; the service may be started again.
        """
        self.startService()
        return self.handle

    def stop(self) -> Deferred[None]:
        """Disconnect everybody, stop everything; fires when nothing is left, at most 10 s later.

        May be called at any time, from anywhere, as often as one likes.
        """
        return self.stopService()

    # -- Twisted's names

    def startService(self) -> None:
        self._start()

    def stopService(self) -> Deferred[None]:
        waiting = self._stopped.when()
        self._stop()
        return waiting

    # -- inside

    def _start(self) -> None:
        if self._life is Lifecycle.RUNNING:
            raise AlreadyStarted
        if self._life is not Lifecycle.CONSTRUCTED:
            raise InvalidConfig("a stopped service cannot be restarted: make a new one")
        node = Node(self)
        node.start()
        self._node = node
        self._life = Lifecycle.RUNNING
        super().startService()  # type: ignore[no-untyped-call]
        self._log.info(
            "node {peer_id} listens on {address}",
            event="node_started",
            peer_id=self.peer_id.hex(),
            address=str(node.peers.bound),
        )

    def _stop(self) -> None:
        if self._life is Lifecycle.CONSTRUCTED:
            self._life = Lifecycle.STOPPED
            self._stopped.succeed(None)
        if self._life is not Lifecycle.RUNNING:
            return
        self._life = Lifecycle.STOPPING
        node = self._node
        assert node is not None
        stopping = Deferred.fromCoroutine(node.stop())
        handled(stopping.addErrback(self._stop_failed).addBoth(self._has_stopped))

    def _stop_failed(self, failure: Failure) -> None:
        self._log.failure("stopping failed", failure, event="stop_failed")

    def _has_stopped(self, _result: object) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._life = Lifecycle.STOPPED
        self._log.info("node stopped", event="node_stopped")
        self._stopped.succeed(None)


class Node:
    """The parts of a running node, wired."""

    _log = Logger()

    def __init__(self, service: GossipService) -> None:
        config = service.config
        identity = service._identity
        reactor: Any = config.reactor  # Any: whatever reactor the application runs
        if reactor is None:
            from twisted.internet import reactor as global_reactor

            reactor = global_reactor
        rng: random.Random = config.rng or random.SystemRandom()
        tls = PeerTLS(identity)
        self._service = service
        self._tls = tls
        self.config = config
        self.reactor = reactor
        self.clock = Clock(cast(IReactorTime, reactor))
        self.receive_budget = ReceiveBudget(config.peer_options.receive_budget_bytes, self.clock)
        transports = OpenTransports(self.receive_budget)
        self.transports = transports
        self.peers = Peers(config, identity, self.clock, rng)
        self.ban_file = BanFile(config.ban_file_path, self.peers.reputations, self.clock)
        self.subscriptions = Subscriptions(self.peers)
        stack = PeerStack(tls, self.clock, transports)
        self.dialer = Dialer(self.peers, stack, self.clock, rng)
        self.introducer = self._introducer(tls, rng)
        self.probes = self._visits(tls, self.peers.network, self._check_visit)
        self.discovery = Discovery(
            config,
            self.peers,
            self.dialer,
            self._sources(rng),
            self._probe,
            self.clock,
            rng,
            lambda effects: self.router.perform(effects),
        )
        self.router = Router(
            config, self.peers, self.clock, rng, self.subscriptions, self.discovery
        )
        self.peers.observe(self.router)
        relay = config.used_relay
        self.listener = Listener(
            self.peers,
            tls,
            self.clock,
            transports,
            shares_port=relay is not None and relay.hole_punching,
        )
        self.relaying: Relaying | None = None
        if relay is not None:
            self.relaying = Relaying(
                config,
                relay,
                self.peers,
                self.dialer,
                stack,
                self.clock,
                rng,
                transports,
                learned=self.discovery.relay_told,
                unvouched=self.router.unvouched,
            )
            self.router.watchers.append(self.relaying)
            self.listener.gate.take = self.relaying.take
        self.onion = self._onion()
        self.port_mapper = self._port_mapper(rng)
        self.tasks = Tasks(self.clock)
        self.rotating: Rotating | None = None
        if config.peer_id_rotation is not None and _rotates(config):
            self.rotating = Rotating(
                config,
                config.peer_id_rotation,
                self.peers,
                self.dialer,
                self.clock,
                rng,
                relaying=self.relaying,
                relies_on_id=lambda: self.relaying is not None and self.relaying.relies_on_id,
                adopt=self._adopt,
            )

    def _adopt(self, identity: Identity) -> None:
        """Be somebody else from the next connection on, wherever it leads (TLS-102-X)."""
        self._tls.become(identity)
        self.peers.own_ids.become(identity.peer_id)
        if self.relaying is not None:
            self.relaying.rotated()
        if self.introducer is not None:
            self.introducer.register_soon()
        self._service._become(identity)

    def _introducer(self, tls: PeerTLS, rng: random.Random) -> IntroducerClient | None:
        introducer = self.config.introducer
        if introducer is None or not introducer.endpoint:
            return None
        network = introducer.network_name or self.config.handshake_string
        visits = self._visits(tls, network)
        return IntroducerClient(introducer, visits, self.clock, rng, self._advertised)

    def _onion(self) -> OnionService | None:
        tor = self.config.used_tor
        if tor is None or tor.onion_address is not None or tor.control_address is None:
            return None
        return OnionService(
            tor.control_address,
            tor.control_password,
            f"{self.config.key_path}.onion" if self.config.key_path else "",
            self.clock,
            self._onion_changed,
        )

    def _onion_changed(self, host: str | None) -> None:
        """The way here through Tor is there, or is not any more."""
        bound, tor = self.peers.bound, self.config.used_tor
        assert bound is not None
        assert tor is not None
        port = tor.onion_port or bound.port
        self.peers.onion = None if host is None else PeerAddress(host, port)
        if host is not None:
            self.discovery.own_address_changed()
            self._register()

    def _port_mapper(self, rng: random.Random) -> PortMapper | None:
        method = self.config.used_port_mapping
        if method is None:
            return None
        allows_private = self.config.allows_private_addresses
        return PortMapper(method, self.clock, rng, self._mapped, allows_private=allows_private)

    def _mapped(self, external: PeerAddress | None) -> None:
        """The gateway leads here from another address than before, or from none any more.

        The relay is told at the next registration: one for this alone would end its tunnels.
        """
        self.peers.mapped = external
        if external is not None:
            self.discovery.own_address_changed()
        self._register()

    def _register(self) -> None:
        """Tell the introducer where we are, from now on, if that may be told."""
        if self.introducer is None:
            return
        if self.introducer.is_registering:
            self.introducer.register_soon()
        elif self.peers.onion is not None or not self.config.is_tor_only:
            self.introducer.start()

    def _visits(
        self,
        tls: PeerTLS,
        network: str,
        may_greet: Callable[[PeerId], object] = lambda peer_id: None,
    ) -> Visits:
        return Visits(
            network=network,
            greeting=lambda: self.peers.own_handshake(network),
            tls=tls,
            clock=self.clock,
            transports=self.transports,
            listening=lambda: self.peers.bound,
            may_greet=may_greet,
            routes=self.peers.routes,
        )

    def _sources(self, rng: random.Random) -> list[IPeerSource]:
        """Whom to ask for addresses, in this order (behaviour DSC-006)."""
        sources = make_dns_sources(self.config, self.clock, rng, self.peers.routes)
        if self.introducer is not None:
            sources.append(IntroducerSource(self.introducer))
        return sources

    def _check_visit(self, peer_id: PeerId) -> None:
        """Decide whether a peer is greeted by a dial that leads to no session.

        One that has a session is not: it would take the visit for that session's replacement.

        :raises GossipError: it is not.
        """
        if peer_id in self.peers.own_ids:
            raise SelfConnection
        self.peers.check_not_banned(peer_id)
        if self.peers.table.get(peer_id) is not None:
            raise DuplicateConnection(peer_id)

    @returns_deferred
    async def _probe(self, address: PeerAddress) -> PeerId:
        """See who is there, and leave (behaviour DSC-008.1)."""
        report = await self.probes.visit(
            Destination(address=address),
            Greeting(),
            connect_timeout=TCP_CONNECT_TIMEOUT_SECS,
            exchange_timeout=OUTBOUND_HANDSHAKE_TIMEOUT_SECS - TCP_CONNECT_TIMEOUT_SECS,
        )
        assert report.peer_id is not None  # there always is TLS
        return report.peer_id

    def _advertised(self) -> RegisterPeer:
        """What an introducer is to tell others; without a host it takes the one that it sees.

        :raises IntroducerError: nothing may be told.
        Source: behaviour DSC-005, TOR-101-X.
        """
        known = self.peers.onion
        if not self.config.is_tor_only:
            known = self.config.external_addr or self.peers.mapped or known
        if known is not None:
            return RegisterPeer(known.host, known.port, NodeType.FULL_NODE)
        if self.config.is_tor_only:
            raise IntroducerError("nobody can dial this node: it has no onion service")
        assert self.peers.bound is not None
        return RegisterPeer("", self.peers.bound.port, NodeType.FULL_NODE)

    def start(self) -> None:
        """Bind first; only then start what runs in the background.

        :raises Io: the address cannot be bound, or a file is in use or may not be read.
        """
        self.discovery.open()
        self.ban_file.load()
        self.peers.running = True
        try:
            self.peers.bound = self.listener.start(self.config.bind_addr)
        except BaseException:
            self.peers.running = False
            self.discovery.abandon()
            raise
        self.tasks.every("cleanup", CLEANUP_INTERVAL_SECS, self._clean_up)
        if self.config.discovery:
            self.tasks.every("exchange", EXCHANGE_TICK_SECS, self.discovery.tick)
            self.tasks.every("address_book", CLEANUP_INTERVAL_SECS, self.discovery.keep)
        if self.port_mapper is not None:
            suggested = self.config.external_addr or self.peers.bound
            self.port_mapper.start(self.peers.bound, suggested.port)
        self.discovery.start()
        if self.relaying is not None:
            self.relaying.start()
        tor = self.config.used_tor
        if tor is not None and tor.onion_address is not None:
            self._onion_changed(tor.onion_address)
        else:
            self._register()
        if self.onion is not None and tor is not None:
            bound = self.peers.bound
            target = LOOPBACK_OF.get(bound.host, bound.host)
            self.onion.start(tor.onion_port or bound.port, PeerAddress(target, bound.port))
        if self.rotating is not None:
            self.rotating.start()

    async def stop(self) -> None:
        """Take everything down in the order of behaviour §32; a failing step stops no other."""
        await self._step("listener", self.listener.stop)
        if self.port_mapper is not None:
            await self._step("port mapping", self.port_mapper.stop)
        if self.onion is not None:
            await self._step("onion service", self.onion.stop)
        await self._step("tasks", self.tasks.stop)
        await self._step("discovery", self.discovery.stop)
        await self._step("probes", self.probes.stop)
        if self.rotating is not None:
            await self._step("rotation", self.rotating.stop)
        if self.introducer is not None:
            await self._step("introducer", self.introducer.stop)
        await self._step("dials", self.dialer.stop)
        await self._step("stems", self.router.end_stems)
        if self.relaying is not None:
            await self._step("relay", self.relaying.stop)
        await self._step("sessions", self.peers.shutdown)
        await self._step("bans", self.ban_file.save)
        await self._step("address book", self.discovery.close)
        await self._step("router", self.router.stop)
        await self._step("subscriptions", self.subscriptions.close)
        await self._step("transports", self._wait_for_transports)
        self.clock.cancel_all()

    def _clean_up(self) -> None:
        self.peers.cleanup()
        self.ban_file.save()
        self.dialer.backoff.expire()
        self.router.reconcile()

    async def _step(self, name: str, function: Any) -> None:  # Any: sync or Deferred
        try:
            result = function()
            if isinstance(result, Deferred):
                await result
        except Exception:
            self._log.failure("could not stop {part}", event="stop_step_failed", part=name)

    def _wait_for_transports(self) -> Deferred[None]:
        if not len(self.transports):
            return succeed(None)
        gone = self.transports.when_empty()
        timer = self.clock.call_later(SHUTDOWN_TIMEOUT_SECS, self.transports.abort)

        def done(result: None) -> None:
            timer.cancel()

        return gone.addCallback(done)


def _rotates(config: GossipConfig) -> bool:
    rotation = config.peer_id_rotation
    return rotation is not None and rotation.is_active
