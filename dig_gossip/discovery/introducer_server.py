"""An introducer: tells nodes of each other.

The shell around :class:`~dig_gossip.discovery.introducer_registry.Registry`: it takes connections
(TLS with certificates on both sides, plain WebSocket, or both on one port), greets, answers 63
and 218, and probes the nodes that it knows with real dials. It speaks to three kinds of visitors:

* DIG nodes, which ask and register;
* Chia's nodes, which ask, and are registered by their greeting. They take answers from an
  introducer only (node type 5), as which it therefore introduces itself to them;
* nodes of the Rust crate, which ask and register and insist on a full node (type 1).

Source: behaviour §18, wire §9, design D13.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Final

from chia_rs import TimestampedPeerInfo
from chia_rs.sized_ints import uint16, uint64
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip._version import __version__
from dig_gossip.connection import handshake
from dig_gossip.connection.errand import Greeting
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.connection.listener import Listener
from dig_gossip.connection.opening import Opening, Outcome
from dig_gossip.connection.visit import Destination, Report, Visits
from dig_gossip.connection.websocket import OpenTransports, PeerWebSocket, Receiver
from dig_gossip.constants import SHUTDOWN_TIMEOUT_SECS
from dig_gossip.discovery import introducer_store
from dig_gossip.discovery.introducer_registry import Registry, RegistrySize
from dig_gossip.discovery.token_buckets import source_key
from dig_gossip.errors import ChannelClosed, ClientError, GossipError, Io
from dig_gossip.tls.context import PeerTLS
from dig_gossip.tls.identity import Identity, generate_identity, load_or_create_identity
from dig_gossip.types.introducer import Encryption, IntroducerServerConfig
from dig_gossip.types.peer import NodeType, PeerAddress, PeerId
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import Observers, handled
from dig_gossip.util.files import quarantine, read_at_most, write_atomically
from dig_gossip.util.tasks import Tasks
from dig_gossip.wire import registry as bodies
from dig_gossip.wire.dig import (
    RegisterAck,
    RegisterPeer,
    RequestPeersIntroducer,
    RespondPeersIntroducer,
)
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType

#: Who may ask: Chia lets full nodes, farmers and wallets; nodes of the Rust crate say WALLET.
VISITOR_NODE_TYPES: Final[frozenset[int]] = frozenset(
    {NodeType.FULL_NODE, NodeType.FARMER, NodeType.WALLET}
)
_CAPABILITIES: Final = (Capability.BASE, Capability.RATE_LIMITS_V2, Capability.DIG_OPCODES)
_SAVE_INTERVAL_SECS: Final = 600
_STATUS_INTERVAL_SECS: Final = 60
#: Frames on a connection besides its requests: the handshake, pings, a close frame.
_OTHER_FRAMES: Final = 8
_TRY_AGAIN_LATER: Final = 1013
_POLICY: Final = 1008
_PROTOCOL_ERROR: Final = 1002


class IntroducerServer(Service):
    """One introducer.

    Constructing loads, or makes, the certificate. Starting binds the port, and raises if that
    fails; the nodes of an earlier run are read back. A file that cannot be understood is moved
    aside and never keeps the introducer from starting.

    Probes show another certificate than the introducer, a new one at every start: a node of Chia
    takes a connection of a key that it is already connected with for a replacement, and would
    close the one on which it is asking.

    Bounds: ``max_connections`` connections, each ``connection_secs`` long and with at most
    ``max_requests`` requests of 64 KiB; ``vetting_parallel`` probes; the registry's own.

    :raises InvalidConfig, Io, ClientError: the certificate cannot be read or written.
    """

    _log = Logger()

    def __init__(
        self,
        config: IntroducerServerConfig | None = None,
        *,
        identity: Identity | None = None,
        probe_identity: Identity | None = None,
    ) -> None:
        config = IntroducerServerConfig() if config is None else config
        self.config = config
        self.network = config.handshake_string
        self.counters: Counter[str] = Counter()
        self._identity = identity or load_or_create_identity(config.cert_path, config.key_path)
        self._probe_identity = probe_identity or generate_identity()
        self._reactor: Any = config.reactor  # Any: several reactor interfaces at once
        self._rng: random.Random = config.rng or random.SystemRandom()
        self._bound: PeerAddress | None = None
        self._openings: set[Opening] = set()
        self._visitors: set[_Visitor] = set()
        self._per_source: Counter[str] = Counter()
        self._probes = 0
        self._is_probing = False
        self._saving: Deferred[None] | None = None
        self._stopped: Observers[None] = Observers()

    # -- life

    def startService(self) -> None:
        if self._reactor is None:
            from twisted.internet import reactor as global_reactor

            self._reactor = global_reactor
        config = self.config
        tls = PeerTLS(self._identity)
        self.clock = Clock(self._reactor)
        self.transports = OpenTransports()
        self.registry = Registry(
            config, now=self.clock.monotonic, unix=self.clock.unix, rng=self._rng
        )
        self._tasks = Tasks(self.clock)
        self._visits = Visits(
            network=self.network,
            greeting=lambda: self._handshake(NodeType.FULL_NODE, server_port=0),
            tls=PeerTLS(self._probe_identity),
            clock=self.clock,
            transports=self.transports,
            listening=lambda: self._bound,
        )
        self._listener = Listener(
            self,
            None if config.encryption is Encryption.WS else tls,
            self.clock,
            self.transports,
            is_mixed=config.encryption is Encryption.BOTH,
        )
        self._load()
        self._bound = self._listener.start(config.listen_addr)
        super().startService()  # type: ignore[no-untyped-call]
        self._tasks.every("vetting", config.vetting_interval_secs, self._vet, now=True)
        self._tasks.every("status", _STATUS_INTERVAL_SECS, self._report)
        if config.nodes_path is not None:
            self._tasks.every("save", _SAVE_INTERVAL_SECS, self._save)
        self._log.info(
            "introducer of {network} listens on {address} ({encryption}); {nodes} nodes known",
            event="introducer_started",
            network=config.network.name,
            address=str(self._bound),
            encryption=config.encryption.value,
            nodes=self.size.nodes,
        )

    def stopService(self) -> Deferred[None]:
        waiting = self._stopped.when()
        if not self.running:
            self._stopped.succeed(None)
            return waiting
        super().stopService()  # type: ignore[no-untyped-call]
        handled(Deferred.fromCoroutine(self._stop()).addErrback(self._stop_failed))
        return waiting

    async def _stop(self) -> None:
        await self._listener.stop()
        await self._tasks.stop()
        self._visits.stop()
        for opening in list(self._openings):
            opening.fail(ChannelClosed())
        for visitor in list(self._visitors):
            visitor.close(1001)
        if self._saving is not None:
            await self._saving
        if self.config.nodes_path is not None and self.registry.is_changed:
            self._written(self._write_now())
        timer = self.clock.call_later(SHUTDOWN_TIMEOUT_SECS, self.transports.abort)
        await self.transports.when_empty()
        timer.cancel()
        self.clock.cancel_all()
        self._log.info("introducer stopped", event="introducer_stopped")
        self._stopped.succeed(None)

    def _stop_failed(self, failure: Failure) -> None:
        self._log.failure("stopping the introducer failed", failure, event="introducer_stop_failed")
        self._stopped.succeed(None)

    # -- questions

    @property
    def address(self) -> PeerAddress:
        """Where it listens, with the port resolved; only once it was started."""
        assert self._bound is not None
        return self._bound

    @property
    def url(self) -> str:
        """The endpoint for ``IntroducerConfig``: ``wss`` unless only ``ws`` is taken."""
        scheme = "ws" if self.config.encryption is Encryption.WS else "wss"
        return f"{scheme}://{self.address}"

    @property
    def peer_id(self) -> PeerId:
        """The id of its certificate."""
        return self._identity.peer_id

    @property
    def size(self) -> RegistrySize:
        """How many nodes it knows."""
        return self.registry.size()

    # -- the host of the listener and of openings

    def accept(self, address: PeerAddress) -> Opening | None:
        """Decide about a connection before a byte is spent on it.  ISV-106-X"""
        source = source_key(address.host)
        refusal = None
        if not self.running:
            refusal = "not_running"
        elif len(self._openings) + len(self._visitors) >= self.config.max_connections:
            refusal = "full"
        elif self._per_source[source] >= self.config.max_connections_per_ip:
            refusal = "per_ip"
        elif not self.registry.may_connect(address.host):
            refusal = "rate"
        if refusal is not None:
            self.counters[f"refused.{refusal}"] += 1
            return None
        opening = Opening(
            self,
            self.clock,
            is_outbound=False,
            address=address,
            timeout=self.config.connection_secs,
            ended=_ignore,
            node_types=VISITOR_NODE_TYPES,
        )
        self._openings.add(opening)
        self._per_source[source] += 1
        self.counters["accepted"] += 1
        return opening

    def own_handshake(self) -> bytes:
        """Openings do not ask: who answers depends on who greeted."""
        return self._handshake(NodeType.FULL_NODE)

    def greet(self, opening: Opening) -> None:
        """Nobody is dialed through an opening of ours."""

    def register(self, opening: Opening, remote: RemoteHandshake) -> Receiver:
        """Answer a greeting; it may be a registration at the same time."""
        websocket = opening.websocket
        assert websocket is not None
        visitor = _Visitor(self, opening, websocket, remote)
        self._visitors.add(visitor)
        websocket.receiver = visitor
        websocket.max_early_frames = self.config.max_requests + _OTHER_FRAMES
        is_dig = remote.tolerates_dig or remote.is_rust
        node_type = NodeType.FULL_NODE if is_dig else NodeType.INTRODUCER
        visitor.send(Message(ChiaMessageType.HANDSHAKE, None, self._handshake(node_type)))
        self.registry.greeted(opening.address.host, remote.node_type, remote.server_port)
        self._probe()
        return visitor

    def opening_ended(self, opening: Opening, outcome: Outcome) -> None:
        """Count a connection that came to nothing."""
        self._openings.discard(opening)
        if isinstance(outcome, GossipError):
            kind = outcome.kind.value if isinstance(outcome, ClientError) else "stopped"
            self.counters[f"opening_failed.{kind}"] += 1
            self._left(opening.address)

    def visitor_left(self, visitor: _Visitor) -> None:
        """A connection has ended."""
        if visitor in self._visitors:
            self._visitors.discard(visitor)
            self._left(visitor.address)

    def _left(self, address: PeerAddress) -> None:
        source = source_key(address.host)
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]

    def _handshake(self, node_type: NodeType, server_port: int | None = None) -> bytes:
        if server_port is None:
            server_port = self.address.port
        return bytes(
            handshake.build(
                network_id=self.network,
                software_version=f"dig-gossip-py/{__version__}",
                server_port=server_port,
                capabilities=_CAPABILITIES,
                node_type=node_type,
            )
        )

    # -- requests

    def asked(self, visitor: _Visitor, message: Message) -> None:
        """Answer one request.

        :raises ClientError: (malformed) it does not decode.
        """
        if message.type == ChiaMessageType.REQUEST_PEERS_INTRODUCER:
            RequestPeersIntroducer.from_bytes(message.data)
            self._answer_query(visitor, message)
        elif message.type == DigMessageType.REGISTER_PEER:
            body = RegisterPeer.from_bytes(message.data)
            accepted = self.registry.register(visitor.address.host, body)
            visitor.send(bodies.encode(RegisterAck(accepted), message.id))
            self._probe()
        else:
            self.counters["ignored"] += 1

    def _answer_query(self, visitor: _Visitor, message: Message) -> None:
        found = self.registry.query(
            visitor.address.host, visitor.remote.server_port, visitor.peer_id
        )
        if found is None:
            visitor.close(_TRY_AGAIN_LATER)
            return
        # Chia's introducers tell no time either: it would say when a node was here.
        rows = tuple(TimestampedPeerInfo(a.host, uint16(a.port), uint64(0)) for a in found)
        visitor.send(bodies.encode(RespondPeersIntroducer(rows), message.id))

    # -- vetting

    def _vet(self) -> None:
        self.registry.begin_round()
        self._probe()

    def _probe(self) -> None:
        if self._is_probing:  # a probe that failed at once
            return
        self._is_probing = True
        config = self.config
        while self.running and self._probes < config.vetting_parallel:
            address = self.registry.next_probe()
            if address is None:
                break
            self._probes += 1
            probe = self._visits.visit(
                Destination(address=address),
                Greeting(),
                connect_timeout=config.vetting_connect_secs,
                exchange_timeout=config.vetting_total_secs - config.vetting_connect_secs,
            )
            handled(
                probe.addCallbacks(
                    self._probe_succeeded, self._probe_failed, (address,), {}, (address,), {}
                )
            )
        self._is_probing = False

    def _probe_succeeded(self, report: Report[RemoteHandshake], address: PeerAddress) -> None:
        self._probes -= 1
        if report.peer_id == self.peer_id:  # somebody has registered our own port
            self.registry.probe_failed(address)
        else:
            self.registry.probe_succeeded(address, report.peer_id)
        self._probe()

    def _probe_failed(self, failure: Failure, address: PeerAddress) -> None:
        failure.trap(GossipError)
        self._probes -= 1
        if not failure.check(ChannelClosed):
            self.registry.probe_failed(address)
        self._probe()

    # -- what is kept

    def _load(self) -> None:
        path = self.config.nodes_path
        if path is None:
            return
        try:
            data = read_at_most(path, introducer_store.MAX_FILE_BYTES)
            records = [] if not data else introducer_store.decode(data, self.network)
        except OSError as error:
            raise Io(f"cannot read {path}: {error.strerror or error}") from error
        except ValueError as error:
            self._quarantine(path, str(error))
            return
        self.registry.restore(records)

    def _quarantine(self, path: str, why: str) -> None:
        try:
            moved = quarantine(path, self.clock.unix())
        except OSError as error:
            raise Io(f"cannot move the unusable {path} aside: {error.strerror}") from error
        self._log.warn(
            "{path} cannot be used ({why}); it is now {moved}",
            event="introducer_file_unusable",
            path=path,
            why=why,
            moved=moved,
        )

    def _save(self) -> Deferred[None]:
        if not self.registry.is_changed:
            return succeed(None)
        self.registry.is_changed = False
        records = self.registry.records()
        pool = self._reactor.getThreadPool()
        self._saving = deferToThreadPool(self._reactor, pool, self._write, records)
        return self._saving.addBoth(self._written)

    def _write(self, records: Any) -> None:  # Any: runs in a thread, on an immutable snapshot
        path = self.config.nodes_path
        assert path is not None
        write_atomically(path, introducer_store.encode(records, self.network))

    def _write_now(self) -> Failure | None:
        try:
            self._write(self.registry.records())
        except OSError:
            return Failure()
        return None

    def _written(self, result: Failure | None) -> None:
        self._saving = None
        if isinstance(result, Failure):
            self.registry.is_changed = True
            self._log.warn(
                "cannot write {path}: {error}",
                event="introducer_save_failed",
                path=self.config.nodes_path,
                error=result.getErrorMessage(),
            )

    def _report(self) -> None:
        size = self.size
        known = self.registry.counters
        self._log.info(
            "{nodes} nodes ({vetted} vetted, {new} new), {connections} connections; {queries} "
            "queries answered, {registrations} registrations, {declined} declined, {refused} "
            "connections refused",
            event="introducer_status",
            nodes=size.nodes,
            vetted=size.vetted,
            new=size.new,
            connections=len(self._visitors),
            queries=known["queried"],
            registrations=known["registered.new"] + known["registered.refreshed"],
            declined=sum(
                count
                for name, count in known.items()
                if name.startswith("registered.")
                and name not in ("registered.new", "registered.refreshed")
            ),
            refused=sum(n for name, n in self.counters.items() if name.startswith("refused.")),
        )


class _Visitor:
    """A connection that was greeted: takes requests until it ends."""

    def __init__(
        self,
        server: IntroducerServer,
        opening: Opening,
        websocket: PeerWebSocket,
        remote: RemoteHandshake,
    ) -> None:
        self.address = opening.address
        self.peer_id = opening.peer_id
        self.remote = remote
        self._server = server
        self._websocket = websocket
        self._requests = 0
        self._is_over = False
        # One deadline for the whole connection, as the opening has begun it.
        left = opening.deadline - server.clock.monotonic()
        self._deadline: Timer = server.clock.call_later(left, self._expired)

    def send(self, message: Message) -> None:
        """Send a message."""
        self._websocket.writer.send(OutboundFrame(message))

    def close(self, code: int) -> None:
        """Say good-bye."""
        self._over()
        self._websocket.close(code, "" if code in (1000, 1001) else "1")

    # -- the websocket's receiver

    def secured(self, peer_id: PeerId) -> None:
        """Renegotiation is off, so this cannot happen."""

    def opened(self) -> None:
        """It was open before the greeting."""

    def heard(self) -> None:
        """Bytes keep nothing alive: the deadline rules."""

    def frame_received(self, payload: bytes) -> None:
        """Take one request."""
        if self._is_over:
            return
        try:
            self._server.asked(self, Message.from_bytes(payload))
        except ClientError:
            self._server.counters["malformed"] += 1
            self.close(_PROTOCOL_ERROR)
            return
        self._requests += 1
        if self._requests >= self._server.config.max_requests and not self._is_over:
            self.close(1000)

    def largest_frame(self, opcode: int) -> int | None:
        """The limit from before the greeting stays."""
        return None

    def text_received(self) -> None:
        """Nobody here speaks text; the WebSocket closes next."""
        self._server.counters["malformed"] += 1

    def pong_received(self, payload: bytes) -> None:
        """No ping was sent."""

    def closing(self, code: int | None, by_us: bool) -> None:
        """The WebSocket closes, whoever began it."""
        self._over()

    def lost(self, reason: Failure) -> None:
        """The transport is gone: the place is free."""
        self._over()
        self._server.visitor_left(self)

    def broken(self, error: GossipError) -> None:
        """The certificate was read before the greeting."""

    # -- inside

    def _over(self) -> None:
        self._is_over = True
        self._deadline.cancel()

    def _expired(self) -> None:
        self._server.counters["expired"] += 1
        self.close(_POLICY)


def _ignore(_outcome: Outcome) -> None:
    """An accepted connection has nobody waiting for it."""
