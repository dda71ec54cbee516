"""Who may come in: three decisions, each from a snapshot of facts, each in a fixed order.

The shell fills in the facts, and acts on the answer within the same reactor turn.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import attrs

from dig_gossip.connection.peer_table import Refused, Resolution, Slot, Supersedes
from dig_gossip.errors import (
    ClientError,
    ClientErrorKind,
    ConnectionFiltered,
    DuplicateConnection,
    GossipError,
    MaxConnectionsReached,
    PeerBanned,
    SelfConnection,
    ServiceNotStarted,
)
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind


@attrs.frozen(kw_only=True)
class AcceptFacts:
    """What is known when a TCP connection comes in. All counts are without it.

    :ivar running: whether the service is.
    :ivar host_banned: whether the source IP is banned.
    :ivar is_loopback: whether it is this machine's own; the limit per IP is then not applied.
    :ivar connections_from_host: sessions and unfinished handshakes with this IP.
    :ivar inbound_sessions: registered sessions that peers opened.
    :ivar inbound_openings: accepted connections that are not registered yet.
    :ivar max_inbound: slots that are not reserved for outbound sessions, 1 or more (CON-110-X).
    :ivar total_sessions: registered sessions of both directions.
    :ivar max_contenders: connections beyond the free slots that may shake hands in the hope of
        somebody else's; 0 while nobody can be evicted.
    :ivar through_onion: inbound sessions and openings that came through our onion service, if this
        one does; None if it does not.
    """

    running: bool
    host_banned: bool
    is_loopback: bool
    connections_from_host: int
    max_connections_per_ip: int
    inbound_sessions: int
    inbound_openings: int
    max_inbound: int
    total_sessions: int
    max_connections: int
    max_inflight_handshakes: int
    max_contenders: int = 0
    through_onion: int | None = None


@attrs.frozen(kw_only=True)
class DialFacts:
    """What is known before an address is dialed. All counts are without this dial.

    :ivar running: whether the service is.
    :ivar is_own_address: whether the address is one that this node listens on.
    :ivar host_banned: whether the IP is banned.
    :ivar existing_peer_id: whom a session at exactly this address belongs to, if there is one.
    :ivar existing_is_live: whether that session is live; if not, the dial is to replace it.
    :ivar sessions: registered sessions of both directions.
    :ivar dials: dials under way.
    """

    running: bool
    is_own_address: bool
    host_banned: bool
    existing_peer_id: PeerId | None
    existing_is_live: bool
    sessions: int
    dials: int
    max_connections: int


@attrs.frozen(kw_only=True)
class SessionFacts:
    """What is known when the peer's id is verified. All counts are without the new session.

    :ivar is_own_id: whether the peer has our current or our previous id.
    :ivar is_banned: whether the id, or the address, is banned.
    :ivar resolution: what the peer table says; ``Refused`` also while another dial of ours has
        greeted the same peer and waits for its answer.
    :ivar expected_id: who must be there, on a pinned dial.
    :ivar filtered: what diversity says against it; None for nothing.
    :ivar sessions: registered sessions of both directions.
    :ivar inbound_sessions: registered sessions that peers opened.
    :ivar max_inbound: slots that are not reserved for outbound sessions, 1 or more (CON-110-X).
    """

    peer_id: PeerId
    is_own_id: bool
    is_banned: bool
    resolution: Resolution[Slot]
    expected_id: PeerId | None
    is_outbound: bool
    sessions: int
    inbound_sessions: int
    max_connections: int
    max_inbound: int
    filtered: str | None = None


def refuse_accept(facts: AcceptFacts) -> str | None:
    """Decide whether an incoming connection is closed before TLS, without a byte.

    With every slot taken a few go on all the same, as contenders: when their handshake is done,
    one of them may take the slot of a peer that nobody would miss. Only hosts that have no
    connection yet contend; so a handful of silent connections does not keep others from it.

    :returns: None to go on, or the reason in snake_case, fit for the name of a counter.
    Source: behaviour CON-002.1, CON-110-X, CON-111-X, CON-114-X, TOR-102-X.
    """
    if not facts.running:
        return "not_running"
    if facts.host_banned:
        return "ip_banned"
    if not facts.is_loopback and facts.connections_from_host >= facts.max_connections_per_ip:
        return "ip_limit"
    if facts.through_onion is not None and facts.through_onion >= max(
        1, facts.max_connections // 2
    ):
        return "onion_full"
    may_contend = facts.is_loopback or not facts.connections_from_host
    extra = facts.max_contenders if may_contend else 0
    if facts.inbound_sessions + facts.inbound_openings >= facts.max_inbound + extra:
        return "inbound_full"
    # Outbound sessions may fill more than what is reserved for them.
    if facts.total_sessions + facts.inbound_openings >= facts.max_connections + extra:
        return "all_full"
    if facts.inbound_openings >= facts.max_inflight_handshakes:
        return "handshakes_full"
    return None


def refuse_dial(facts: DialFacts) -> GossipError | None:
    """Decide whether an address may be dialed.

    A dial that is to replace a session that has gone silent needs no free slot: charging it would
    strand a peer behind its own stale session.

    :returns: None to go on, or the error to fail with.
    Source: behaviour CON-001.1, CON-101-X.
    """
    if not facts.running:
        return ServiceNotStarted()
    if facts.is_own_address:
        return SelfConnection("the address is this node's own")
    if facts.host_banned:
        return PeerBanned(None, "the address is banned")
    if facts.existing_is_live:
        return DuplicateConnection(facts.existing_peer_id)
    if facts.existing_peer_id is None and facts.sessions + facts.dials >= facts.max_connections:
        return MaxConnectionsReached(facts.max_connections)
    return None


def refuse_session(facts: SessionFacts) -> GossipError | None:
    """Decide whether a verified peer gets a session, whoever dialed.

    A session that replaces another needs no free slot. Divergence: an inbound one in the place of
    an outbound one does need one of the slots for inbound sessions; otherwise peers that dial back
    would eat the reserve of outbound slots.

    :returns: None to insert it, or the error to close it with.
    Source: behaviour CON-001.5, CON-002.5, CON-110-X, CON-111-X.
    """
    if facts.is_own_id:
        return SelfConnection()
    if facts.is_banned:
        return PeerBanned(facts.peer_id)
    if isinstance(facts.resolution, Refused):
        return DuplicateConnection(facts.peer_id)
    if facts.expected_id is not None and facts.expected_id != facts.peer_id:
        return ClientError(
            ClientErrorKind.TLS,
            f"expected {facts.expected_id.hex()}, found {facts.peer_id.hex()}",
        )
    if facts.filtered is not None:
        return ConnectionFiltered(facts.filtered)
    old = facts.resolution.old if isinstance(facts.resolution, Supersedes) else None
    if old is None and facts.sessions >= facts.max_connections:
        return MaxConnectionsReached(facts.max_connections)
    adds_inbound = not facts.is_outbound and (old is None or old.is_outbound)
    if adds_inbound and facts.inbound_sessions >= facts.max_inbound:
        return MaxConnectionsReached(facts.max_inbound)
    return None


def outbound_tunnels(target: int) -> int:
    """How many of the outbound sessions may be relayed (DIV-102-X)."""
    return max(0, target - max(target // 4, 1))


def inbound_tunnels(max_connections: int) -> int:
    """How many relayed sessions others may open (DIV-102-X)."""
    return max(0, max_connections - max(max_connections // 4, 1))


class HostCounts:
    """How many connections and sessions each host has; hosts that cannot be known do not count.

    Bounded by the connections themselves.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __getitem__(self, host: str) -> int:
        return self._counts[host]

    def take(self, host: str | None) -> None:
        """One more."""
        if host is not None:
            self._counts[host] += 1

    def release(self, host: str | None) -> None:
        """One less."""
        if host is None:
            return
        self._counts[host] -= 1
        if self._counts[host] <= 0:
            del self._counts[host]


def is_from_onion(config: GossipConfig, source: PeerAddress, bound: PeerAddress | None) -> bool:
    """Whether an incoming connection may be one of our onion service.

    Tor's come from this machine, as those of its users do, so nobody can tell them apart.

    :param bound: where we listen.
    Source: behaviour TOR-102-X.
    """
    tor = config.used_tor
    is_local = source.is_loopback or (bound is not None and source.host == bound.host)
    return is_local and tor is not None and tor.has_onion


class Connection(Protocol):
    """A session, or what may become one."""

    is_outbound: bool

    @property
    def transport(self) -> TransportKind: ...


def count_hidden(*connections: Iterable[Connection]) -> int:
    """How many came through our onion service."""
    return sum(
        connection.transport is TransportKind.TOR and not connection.is_outbound
        for connection in itertools.chain(*connections)
    )
