"""The peers of this node: the one place where sessions come and go::

    accept ─▶ refuse_accept ─▶ opening ─┐
                                        ├─▶ register ─▶ table ─▶ observer.peer_up
    dial ──▶ refuse_dial ───▶ opening ──┘
                      every end ─▶ session_ended ─▶ table ─▶ observer.peer_down

Between a check and the insertion that relies on it nothing waits: each method runs within one
reactor turn. Bounds: sessions ≤ ``max_connections``, openings ≤ ``max_inflight_handshakes``
accepted plus the dials under way.

Source: behaviour §4, §5 (CON-115-X for the order of removal), §9.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from twisted.logger import Logger

from dig_gossip.connection import handshake
from dig_gossip.connection.admission import (
    AcceptFacts,
    DialFacts,
    HostCounts,
    SessionFacts,
    count_hidden,
    is_from_onion,
    refuse_accept,
    refuse_dial,
    refuse_session,
)
from dig_gossip.connection.endpoints import TOR_PATIENCE, Routes
from dig_gossip.connection.eviction import MAX_CONTENDERS, Evictor, Kept, network_group
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.connection.observer import PeersObserver
from dig_gossip.connection.opening import Opening, Outcome
from dig_gossip.connection.peer_table import PeerTable, Refused, Resolution, Supersedes
from dig_gossip.connection.rate_limit import Verdict
from dig_gossip.connection.reputation import Reputations
from dig_gossip.connection.session import Session
from dig_gossip.connection.session_owner import CLOSE_CODES, NOBODY_LISTENS, RemovalReason
from dig_gossip.connection.totals import Totals
from dig_gossip.constants import (
    INBOUND_HANDSHAKE_TIMEOUT_SECS,
    OUTBOUND_HANDSHAKE_TIMEOUT_SECS,
    RTT_PENALTY_THRESHOLD_MS,
)
from dig_gossip.discovery.diversity import Diversity, Link
from dig_gossip.errors import (
    ChannelClosed,
    ClientError,
    ClientErrorKind,
    DuplicateConnection,
    GossipError,
    MaxConnectionsReached,
    PeerBanned,
    PeerNotConnected,
)
from dig_gossip.privacy.rotation import OwnIds
from dig_gossip.tls.identity import Identity
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind
from dig_gossip.types.reputation import PeerReputation, PenaltyReason
from dig_gossip.util.addresses import is_same_endpoint
from dig_gossip.util.clock import Clock
from dig_gossip.wire.opcodes import ChiaMessageType, opcode_name


class Peers:
    """Sessions, openings, bans, and the rules for who may come in.

    :ivar onion: the onion service that leads to this node, once there is one.
    :ivar mapped: the address of the gateway that leads to this node, once there is one.
    :ivar counters: events by name (``accept_refused.…``, ``opening_failed.…``, ``removed.…``).
    """

    _log = Logger()

    def __init__(
        self, config: GossipConfig, identity: Identity, clock: Clock, rng: random.Random
    ) -> None:
        self.network = config.handshake_string
        self.capabilities = handshake.offered_capabilities(config)  # of handshakes to come
        self.own_ids = OwnIds(identity.peer_id, now=clock.monotonic)
        self.table: PeerTable[Session] = PeerTable(now=clock.monotonic)
        self.diversity = Diversity(
            target=config.target_outbound_count, exempt=config.diversity_exempt_networks
        )
        self.reputations = Reputations(unix=clock.unix)
        self.counters: Counter[str] = Counter()
        self.totals = Totals()
        self.bound: PeerAddress | None = None
        self.onion: PeerAddress | None = None
        self.mapped: PeerAddress | None = None
        self.routes = Routes(clock, config.tor, rng)
        self.running = False
        self._config = config
        self._clock = clock
        self._rng = rng
        self._observer: PeersObserver | None = None
        self._openings: dict[Opening, None] = {}
        self._accepting = 0
        self._hosts = HostCounts()
        self._greeted: dict[PeerId, Opening] = {}
        #: what the table does not hold any more, and what still takes what is under way
        self._moving: set[Session] = set()
        self._evictor = Evictor(secret=rng.randbytes(32), now=clock.monotonic)

    def observe(self, observer: PeersObserver) -> None:
        """Say who is told about sessions; once, before anything starts."""
        self._observer = observer
        # What sessions say for every read goes straight there.
        self.messages_received = observer.messages_received
        self.read_began, self.read_done = observer.read_began, observer.read_done

    def get(self, peer_id: PeerId) -> Session:
        """The session of a peer.

        :raises PeerNotConnected: there is none.
        """
        session = self.table.get(peer_id)
        if session is None:
            raise PeerNotConnected(peer_id)
        return session

    def hold(self, peer_id: PeerId, holder: object) -> None:
        """Read nothing more from a peer, if it is there, until every holder has released it."""
        session = self.table.get(peer_id)
        if session is not None:
            session.hold(holder)

    def release(self, peer_id: PeerId, holder: object) -> None:
        """Undo :meth:`hold`."""
        session = self.table.get(peer_id)
        if session is not None:
            session.release(holder)

    def check_not_banned(self, peer_id: PeerId) -> None:
        """:raises PeerBanned: the peer is banned."""
        if self.reputations.is_banned(peer_id):
            raise PeerBanned(peer_id)

    def reputation(self, peer_id: PeerId) -> PeerReputation:
        """What is known about a peer's behavior and distance."""
        session = self.table.get(peer_id)
        if session is None:
            return self.reputations.get(peer_id)
        return self.reputations.get(
            peer_id,
            rtt_history=session.keepalive.rtt_history,
            avg_rtt_ms=session.keepalive.avg_rtt_ms,
        )

    def sum(self) -> Totals:
        """Everything that sessions have moved, those that are gone and those that live."""
        return self.totals.plus((*self.table, *self._moving))

    @property
    def openings(self) -> int:
        """Connections that are not registered yet, both directions."""
        return len(self._openings)

    def is_pinning(self) -> bool:
        """Whether a connection to one certain peer is being opened."""
        return any(opening.expected_id is not None for opening in self._openings)

    def accept(
        self,
        address: PeerAddress,
        expected_id: PeerId | None = None,
        ended: Callable[[Outcome], object] | None = None,
    ) -> Opening | None:
        """Decide about an incoming TCP connection before a byte is spent on it.

        :param expected_id: the only peer that it may be.
        :param ended: called once with the outcome.
        :returns: the opening that the connection belongs to, or None to close it at once.
        Source: behaviour CON-002.1, TOR-102-X.
        """
        hidden = is_from_onion(self._config, address, self.bound)
        transport = TransportKind.TOR if hidden else TransportKind.DIRECT
        refusal = refuse_accept(
            AcceptFacts(
                running=self.running,
                host_banned=not hidden and self.reputations.is_host_banned(address.host),
                connections_from_host=self._hosts[address.host],
                max_connections_per_ip=self._config.max_connections_per_ip,
                is_loopback=address.is_loopback,
                inbound_sessions=self.table.inbound_count,
                inbound_openings=self._accepting,
                max_inbound=self._config.max_inbound,
                total_sessions=len(self.table),
                max_connections=self._config.max_connections,
                max_inflight_handshakes=self._config.inflight_limit,
                max_contenders=MAX_CONTENDERS if self._evictor.is_ready else 0,
                through_onion=count_hidden(self.table, self._openings) if hidden else None,
            )
        )
        if refusal is not None:
            self.counters[f"accept_refused.{refusal}"] += 1
            return None
        return self.begin(address, ended, expected_id, is_outbound=False, transport=transport)

    def forget_silent(self, host: str) -> None:
        """Drop incoming connections over which nobody has identified himself yet.

        :param host: where they come from.
        """
        for opening in list(self._openings):
            if not opening.is_outbound and opening.peer_id is None and opening.host == host:
                opening.fail(ChannelClosed("its place is needed"))

    def check_dial(self, address: PeerAddress, dials: int) -> None:
        """Decide whether an address may be dialed.

        :param dials: dials under way.
        :raises GossipError: it may not; in the order of behaviour CON-001.1.
        """
        existing = self.table.at_address(address)
        is_kept = existing and existing.is_live and existing.own_id == self.own_ids.current
        error = refuse_dial(
            DialFacts(
                running=self.running,
                is_own_address=self._is_own(address),
                host_banned=self.reputations.is_host_banned(address.host),
                existing_peer_id=None if existing is None else existing.peer_id,
                existing_is_live=bool(is_kept),  # one under a former id of ours is as if dead
                sessions=len(self.table),
                dials=dials,
                max_connections=self._config.max_connections,
            )
        )
        if error is not None:
            raise error

    def begin(
        self,
        address: PeerAddress,
        ended: Callable[[Outcome], object] | None,
        expected_id: PeerId | None,
        *,
        is_outbound: bool,
        transport: TransportKind = TransportKind.DIRECT,
    ) -> Opening:
        """Begin a connection that :meth:`check_dial`, :meth:`accept` or whoever knows allowed.

        :param ended: called once with the outcome; None if nobody waits for it.
        """
        timeout = OUTBOUND_HANDSHAKE_TIMEOUT_SECS if is_outbound else INBOUND_HANDSHAKE_TIMEOUT_SECS
        patience = TOR_PATIENCE if transport is TransportKind.TOR else 1.0
        opening = Opening(
            self,
            self._clock,
            is_outbound=is_outbound,
            address=address,
            timeout=timeout * patience,
            ended=ended,
            expected_id=expected_id,
            transport=transport,
        )
        self._openings[opening] = None
        if not is_outbound:
            self._accepting += 1
            self._hosts.take(opening.host)
        return opening

    # -- the host of openings

    def own_handshake(self, network: str | None = None) -> bytes:
        """Our introduction, encoded.

        :param network: what to call the network, if not what peers call it.
        """
        name, way_in = network or self.network, self.mapped or self.bound
        return bytes(handshake.introduce(self._config, name, way_in, self.capabilities))

    def greet(self, opening: Opening) -> None:
        """Check the verified identity before a word is said to it.

        Two dials may lead to one peer, and both ends may dial at once; deciding before the
        greeting keeps the two ends from closing one connection each.

        :raises GossipError: in the order of behaviour CON-001.5.
        """
        peer_id = self._identified(opening)
        self._admit(opening, peer_id, greeted=False)
        opening.offered = self.capabilities
        self._greeted[peer_id] = opening

    def register(self, opening: Opening, remote: RemoteHandshake) -> Session:
        """Check the verified identity, answer an inbound handshake, insert the session.

        :raises GossipError: in the order of behaviour CON-001.5 and CON-002.5.
        """
        peer_id = self._identified(opening)
        websocket = opening.websocket
        assert websocket is not None
        try:
            resolution = self._admit(opening, peer_id, greeted=opening.is_outbound)
        except MaxConnectionsReached:
            if opening.is_outbound or not self._make_room(opening.address.host):
                raise
            resolution = self._admit(opening, peer_id, greeted=False)
        if not opening.is_outbound:
            opening.offered = self.capabilities
            opening.send_handshake()
        session = Session(
            self,
            websocket,
            self._clock,
            self._rng,
            peer_id=peer_id,
            address=opening.address,
            is_outbound=opening.is_outbound,
            remote=remote,
            offered=opening.offered,
            ping_interval=self._config.ping_interval,
            peer_timeout=self._config.peer_timeout,
            levels=self._config.backpressure,
            rate_limit_factor=self._config.peer_options.enforced_factor,
            transport=opening.transport,
            own_id=opening.own_id or self.own_ids.current,
        )
        old = resolution.old if isinstance(resolution, Supersedes) else None
        is_other = old is not None and old.own_id != session.own_id
        self.table.insert(session)
        self._hosts.take(session.host)
        if old and old.is_live and (is_other or old.transport is TransportKind.RELAY):
            self._moving.add(old)
            (old.retire if is_other else old.move_to)(session)
        elif old is not None:
            self._discard(old, RemovalReason.SUPERSEDED)
        self.totals.admitted += 1
        websocket.receiver = session
        websocket.registered(session)
        session.start()
        self._log.debug(
            "session with {peer_id} at {address} opened",
            event="session_opened",
            peer_id=peer_id.hex(),
            address=str(session.address),
            outbound=session.is_outbound,
            software=remote.software_version,
        )
        assert self._observer is not None
        self._observer.peer_up(session)
        return session

    def _identified(self, opening: Opening) -> PeerId:
        if opening.peer_id is None:
            raise ClientError(ClientErrorKind.TLS, "the peer has no identity")
        return opening.peer_id

    def _admit(self, opening: Opening, peer_id: PeerId, *, greeted: bool) -> Resolution[Session]:
        resolution = self.table.resolve(
            own_id=opening.own_id or self.own_ids.current,
            peer_id=peer_id,
            is_outbound=opening.is_outbound,
            transport=opening.transport,
            greeted=greeted,
        )
        if opening.is_outbound and self._greeted.get(peer_id, opening) is not opening:
            resolution = Refused()
        error = refuse_session(
            SessionFacts(
                peer_id=peer_id,
                is_own_id=peer_id in self.own_ids,
                is_banned=self.reputations.is_banned(peer_id)
                or self.reputations.is_host_banned(opening.host or ""),
                resolution=resolution,
                expected_id=opening.expected_id,
                is_outbound=opening.is_outbound,
                sessions=len(self.table),
                inbound_sessions=self.table.inbound_count,
                max_connections=self._config.max_connections,
                max_inbound=self._config.max_inbound,
                filtered=self._filtered(opening, resolution),
            )
        )
        if error is not None:
            raise error
        return resolution

    def _filtered(self, opening: Opening, resolution: Resolution[Session]) -> str | None:
        """What diversity says against a peer that we dialed (behaviour DIV-101-X)."""
        replaces = isinstance(resolution, Supersedes) and resolution.old.is_outbound
        if not opening.is_outbound or replaces:
            return None
        found = {s.peer_id: Link(s.address, s.transport) for s in self.table if s.is_outbound}
        for peer, other in self._greeted.items():  # in the place of its session, if it has one
            if other is not opening:
                found[peer] = Link(other.address, other.transport)
        return self.diversity.refuse(Link(opening.address, opening.transport), found.values())

    def _make_room(self, host: str) -> bool:
        """Evict an inbound peer for a newcomer, if there is one that nobody would miss."""
        candidates = [
            session.contender(self.reputation(session.peer_id).score)
            for session in self.table
            if not session.is_outbound
        ]
        victim = self._evictor.choose(candidates, network_group(host))
        if isinstance(victim, Kept):
            self.counters[f"eviction_refused.{victim.value}"] += 1
            return False
        self.session_ended(victim, RemovalReason.EVICTED)
        return True

    def delivered(self, peer_id: PeerId, opcode: int) -> None:
        """Credit a peer with a message that spreads and was new to us."""
        session = self.table.get(peer_id)
        if session is None:
            return
        # As good as the clock, and read already.
        if opcode == ChiaMessageType.NEW_TRANSACTION:
            session.last_transaction = session.keepalive.last_heard
        else:
            session.last_news = session.keepalive.last_heard

    def opening_ended(self, opening: Opening, outcome: Outcome) -> GossipError | None:
        """Release the permit, count the failure."""
        del self._openings[opening]
        if opening.peer_id is not None and self._greeted.get(opening.peer_id) is opening:
            del self._greeted[opening.peer_id]
        if not opening.is_outbound:
            self._accepting -= 1
            self._hosts.release(opening.host)
        if not isinstance(outcome, GossipError):
            return None
        error = outcome
        if (
            opening.is_outbound
            and opening.peer_id is not None
            and isinstance(error, ClientError)
            and self.table.get(opening.peer_id) is not None
        ):
            # They closed because they hold another connection with us: so do we.
            error = DuplicateConnection(opening.peer_id)
        what = error.kind.value if isinstance(error, ClientError) else type(error).__name__
        direction = "outbound" if opening.is_outbound else "inbound"
        self.counters[f"opening_failed.{direction}.{what}"] += 1
        self._log.debug(
            "{direction} connection with {address} failed: {error}",
            event="opening_failed",
            direction=direction,
            address=str(opening.address),
            error=str(error),
        )
        stranger = isinstance(error, ClientError) and (
            error.kind is ClientErrorKind.MISSING_HANDSHAKE
        )
        if stranger and opening.peer_id is not None and not opening.is_outbound:
            self._charge(opening.peer_id, PenaltyReason.PROTOCOL_VIOLATION, opening.host)
        return error

    # -- the owner of sessions

    def rtt_measured(self, session: Session, seconds: float) -> None:
        """Pass a round trip on; say once of a session that it is slow (PRF-001.1)."""
        if seconds * 1000 > RTT_PENALTY_THRESHOLD_MS and not session.is_slow:
            session.is_slow = True
            self.counters["slow_peers"] += 1
            self._log.debug(
                "{peer_id} took {seconds:.1f} s to answer a ping",
                event="slow_peer",
                peer_id=session.peer_id.hex(),
                seconds=seconds,
            )
        assert self._observer is not None
        self._observer.rtt_measured(session, seconds)

    def dig_tolerated(self, session: Session) -> None:
        """Pass the news on."""
        assert self._observer is not None
        self._observer.dig_tolerated(session)

    def size_refused(self, opcode: int) -> None:
        """Count a message that was refused at its header; the charge comes with the close."""
        self.counters[f"size_refused.{opcode_name(opcode)}"] += 1

    def limit_exceeded(self, session: Session, opcode: int, verdict: Verdict) -> None:
        """Count a dropped message; charge or drop a peer that goes too far (behaviour §8)."""
        why = "size_dropped" if verdict is Verdict.OVERSIZE else "rate_dropped"
        self.counters[f"{why}.{opcode_name(opcode)}"] += 1
        if verdict is Verdict.DISCONNECT:
            self.session_ended(session, RemovalReason.DISCONNECTED)
        elif verdict is not Verdict.DROP:
            self.misbehaved(session, PenaltyReason.RATE_LIMIT_EXCEEDED)

    def misbehaved(self, session: Session, reason: PenaltyReason) -> None:
        """Charge a session's peer."""
        self.penalize(session.peer_id, reason)

    def session_ended(self, session: Session, reason: RemovalReason) -> None:
        """Remove a session; the only way out, whatever the cause.

        A session that the table no longer holds was removed before (CON-106-X).
        """
        if self.table.remove(session):
            self._discard(session, reason)
        elif session in self._moving:
            self._moving.remove(session)
            self._close(session, reason)

    def _discard(self, session: Session, reason: RemovalReason) -> None:
        # The table no longer holds the session. The rest in the order of CON-115-X.
        shutdown = reason is RemovalReason.SHUTDOWN
        if session.predecessor is not None and not shutdown:
            self.session_ended(session.predecessor.old, reason)
        session.end(ChannelClosed() if shutdown else PeerNotConnected(session.peer_id))
        assert self._observer is not None
        self._observer.peer_down(session)
        self._close(session, reason)

    def _close(self, session: Session, reason: RemovalReason) -> None:
        """Undo what a session took; engines and pending requests know of it already."""
        session.end(PeerNotConnected(session.peer_id))
        self.totals.fold(session)
        self.counters[f"removed.{reason.value}"] += 1
        self._log.debug(
            "session with {peer_id} at {address} ended: {reason}",
            event="session_closed",
            peer_id=session.peer_id.hex(),
            address=str(session.address),
            reason=reason.value,
        )
        if reason in NOBODY_LISTENS:
            session.abort()
        else:
            session.close(CLOSE_CODES.get(reason, 1000))  # nothing, if it closes already
        self._hosts.release(session.host)

    # -- what the operator and the protocol do to peers

    def disconnect(self, peer_id: PeerId) -> None:
        """Close a session normally.

        :raises PeerNotConnected: there is none.
        """
        self.session_ended(self.get(peer_id), RemovalReason.DISCONNECTED)

    def penalize(self, peer_id: PeerId, reason: PenaltyReason) -> None:
        """Charge a peer, connected or not; ban and disconnect at the threshold.

        Source: behaviour CON-007, CON-007.2 (all within this turn).
        """
        session = self.table.get(peer_id)
        self._charge(peer_id, reason, None if session is None else session.host)

    def ban(self, peer_id: PeerId, reason: PenaltyReason | None = None) -> None:
        """Ban a peer and the address it uses, whatever its points."""
        session = self.table.get(peer_id)
        host = None if session is None else session.host
        self.reputations.ban(peer_id, host, reason)
        self._drop_banned(host)

    def cleanup(self) -> None:
        """Expire bans, remove sessions whose transport is provably closed."""
        for peer_id in self.reputations.expire():
            self._log.info(
                "the ban of {peer_id} has expired", event="ban_expired", peer_id=peer_id.hex()
            )
        for session in self.table:
            if not session.is_connected:
                self.session_ended(session, RemovalReason.REAPED)

    def shutdown(self) -> None:
        """Close everything, politely."""
        self.running = False
        for opening in list(self._openings):
            opening.fail(ChannelClosed())
        for session in (*self.table, *self._moving):
            self.session_ended(session, RemovalReason.SHUTDOWN)

    def _charge(self, peer_id: PeerId, reason: PenaltyReason, host: str | None) -> None:
        outcome = self.reputations.penalize(peer_id, reason, host)
        self.counters[f"penalty.{reason.value}"] += 1
        self._log.info(
            "{peer_id} charged for {reason}: {points} points",
            event="peer_penalized",
            peer_id=peer_id.hex(),
            reason=reason.value,
            points=outcome.points,
        )
        if outcome.newly_banned or outcome.ip_newly_banned:
            self._log.info("{peer_id} is banned", event="peer_banned", peer_id=peer_id.hex())
            self._drop_banned(host)

    def _drop_banned(self, host: str | None) -> None:
        for session in self.table:
            is_host = host is not None and self.reputations.is_host_banned(session.host or "")
            if is_host or self.reputations.is_banned(session.peer_id):
                self.session_ended(session, RemovalReason.BANNED)

    def _is_own(self, address: PeerAddress) -> bool:
        own = [self._config.listen_addr, self.bound, self._config.external_addr, self.mapped]
        return address == self.onion or any(is_same_endpoint(address, one) for one in own if one)
