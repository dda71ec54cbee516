"""What a node does with its relay: whom it reaches through it, and how it leaves it again.

The shell around :mod:`dig_gossip.relay.contacts`, which chooses, and
:mod:`dig_gossip.relay.punching`, which upgrades; the relay's client, the dialer and the puncher
do the rest. A relayed session is one like any other for everybody else.

Source: behaviour §27, §29.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.dialer import Dialer
from dig_gossip.connection.opening import Opening, Outcome
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.session import Session
from dig_gossip.connection.stack import PeerStack
from dig_gossip.connection.tunneled import TunneledConnections
from dig_gossip.connection.websocket import OpenTransports
from dig_gossip.errors import ClientError, GossipError
from dig_gossip.relay.client import RelayClient
from dig_gossip.relay.contacts import Action, Contacts, DialDirect, OpenTunnel
from dig_gossip.relay.limits import Bucket
from dig_gossip.relay.puncher import Puncher
from dig_gossip.relay.punching import GiveUp, Punch, PunchEffect, Punching, Report, Request
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.ip import is_routable_ip, is_unicast_ip, packed_ip
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind
from dig_gossip.types.sections import RelayConfig
from dig_gossip.types.stats import RelayStats
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.message import Message

TICK_SECS: Final = 1.0
UNVOUCHED_PER_MINUTE: Final = 100


class Relaying:
    """One node's use of one relay.

    :param learned: takes the addresses that the relay tells of, with the relay's own.
    :param unvouched: takes a message whose sender nobody vouches for.
    Bounds: those of :class:`Contacts`, :class:`Punching` and the client.
    """

    _log = Logger()

    def __init__(
        self,
        config: GossipConfig,
        relay: RelayConfig,
        peers: Peers,
        dialer: Dialer,
        stack: PeerStack,
        clock: Clock,
        rng: Random,
        transports: OpenTransports,
        *,
        learned: Callable[[Iterable[PeerAddress], PeerAddress], object],
        unvouched: Callable[[Message], object],
    ) -> None:
        own_id = stack.tls.identity.peer_id
        self._stack = stack
        self._config = config
        self._relay = relay
        self._peers = peers
        self._dialer = dialer
        self._clock = clock
        self._learned = learned
        self._unvouched = unvouched
        self._contacts = Contacts(own_id, prefer_relay=relay.prefer_relay, now=clock.monotonic)
        self._punching = Punching(own_id, now=clock.monotonic, rng=rng)
        self._puncher = Puncher(peers, stack, clock, bound=lambda: peers.bound)
        self.client = RelayClient(
            relay,
            self,
            stack,
            clock,
            rng,
            transports,
            network_id=config.handshake_string,
            own_ids=peers.own_ids.all,
            listen_addrs=self._listen_addrs,
            bound=lambda: peers.bound if relay.hole_punching else None,
            routes=peers.routes,
        )
        self._tunneled = TunneledConnections(config, peers, self.client.address)
        self._observed: PeerAddress | None = None
        self._messages = Bucket(UNVOUCHED_PER_MINUTE / 60, clock.monotonic(), UNVOUCHED_PER_MINUTE)
        self._timer: Timer | None = None

    # -- life

    def start(self) -> None:
        """Begin; the listening port is bound."""
        self._timer = self._clock.call_later(TICK_SECS, self._tick)
        self.client.start()

    def stop(self) -> None:
        """Leave the relay; sessions through it end with it."""
        if self._timer is not None:
            self._timer.cancel()
        self._puncher.stop()
        self.client.stop()

    def stats(self) -> RelayStats | None:
        """The relay session's counters, while there is one."""
        return self.client.stats()

    def counters(self) -> dict[str, int]:
        """Upgrades of relayed sessions, for statistics."""
        return {"punches_ok": self._punching.succeeded, "punches_failed": self._punching.failed}

    @property
    def relies_on_id(self) -> bool:
        """Whether somebody is on the way to us who expects the present id (ROT-101-X)."""
        return self._puncher.is_dialing or self.client.hub.is_opening

    def rotated(self) -> None:
        """The node has another id: register under it."""
        self._contacts.own_id = self._punching.own_id = self._stack.tls.identity.peer_id
        self.client.rotated()

    def take(self, source: PeerAddress) -> object:
        """See :meth:`Puncher.take`."""
        return self._puncher.take(source)

    # -- what happens to sessions

    def peer_up(self, session: Session) -> None:
        """A session has begun, by whatever way."""
        self._contacts.connected(session.peer_id)
        if session.transport is TransportKind.RELAY:
            if self._relay.hole_punching and not self._peers.routes.is_tor_only:
                self._punching.relayed(session.peer_id)
        else:
            self._perform(self._punching.direct(session.peer_id))

    def peer_down(self, session: Session) -> None:
        """A session has ended, and none took its place."""
        self._perform(self._punching.lost(session.peer_id))

    # -- the client's host

    def relay_registered(self, observed: PeerAddress | None) -> None:
        """Remember where the relay sees us."""
        self._observed = observed

    def relay_lost(self) -> None:
        """Nobody is there any more."""
        self._observed = None

    def relay_peer(self, peer: PeerId, addresses: tuple[PeerAddress, ...]) -> None:
        """Somebody is there."""
        usable = tuple(address for address in addresses if self._may_dial(address))
        self._contacts.listed(peer, usable)
        if usable:
            self._learned(usable, self.client.address)

    def relay_peer_left(self, peer: PeerId) -> None:
        """Somebody is not there any more."""
        self._contacts.left(peer)

    def may_accept_tunnel(self, peer: PeerId) -> bool:
        """Whether a peer may reach us through the relay."""
        return self._tunneled.is_allowed(peer, is_outbound=False)

    def tunnel_opening(self, peer: PeerId, is_outbound: bool) -> Opening | None:
        """Make the opening of a tunnel's connection."""
        return self._tunneled.begin(
            peer,
            lambda outcome: self._tunnel_ended(peer, outcome, is_outbound),
            is_outbound=is_outbound,
        )

    def tunnel_failed(self, peer: PeerId) -> None:
        """A tunnel did not come about, or ended before there was a connection in it."""
        self._contacts.failed(OpenTunnel(peer))

    def relay_message(self, payload: bytes) -> None:
        """Take a message that nobody vouches for, a hundred a minute at most (RLY-102-X)."""
        if not self._messages.take(1, self._clock.monotonic()):
            return
        try:
            message = Message.from_bytes(payload)
        except ClientError:
            return
        self._unvouched(message)

    def relay_coordinate(self, peer: PeerId, address: PeerAddress) -> None:
        """A peer dials us now."""
        if self._may_dial(address) and not self._peers.routes.is_tor_only:
            self._perform(self._punching.coordinate(peer, address))

    # -- inside

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK_SECS, self._tick)
        if self.client.is_registered:
            for action in self._contacts.next_actions(
                wanted=self._wanted(),
                tunnels=self._tunneled.room(is_outbound=True),
                is_taken=self._is_taken,
            ):
                self._act(action)
        self._perform(self._punching.tick())

    def _wanted(self) -> int:
        return self._config.target_outbound_count - self._peers.table.outbound_count

    def _is_taken(self, peer: PeerId) -> bool:
        return self._peers.table.get(peer) is not None or self._peers.reputations.is_banned(peer)

    def _act(self, action: Action) -> None:
        if isinstance(action, OpenTunnel):
            if self._tunneled.is_allowed(action.peer, is_outbound=True):
                self.client.hub.open(action.peer)
            else:
                self._contacts.failed(action)
            return
        try:
            dialing: Deferred[Session] = self._dialer.connect(action.address, action.peer)
        except GossipError:
            self._contacts.failed(action)
            return
        handled(dialing.addCallbacks(lambda _session: None, self._not_dialed, (), {}, (action,)))

    def _not_dialed(self, failure: Failure, action: DialDirect) -> None:
        failure.trap(GossipError)
        self._contacts.failed(action)

    def _tunnel_ended(self, peer: PeerId, outcome: Outcome, is_outbound: bool) -> None:
        if is_outbound and not isinstance(outcome, Session):
            self._contacts.failed(OpenTunnel(peer))

    def _perform(self, effects: list[PunchEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Request):
                external = self._external()
                if external is not None:
                    self.client.request_punch(effect.peer, external)
            elif isinstance(effect, Punch):
                self._log.debug(
                    "dialing {peer_id} at {address} to leave the relay",
                    event="punching",
                    peer_id=effect.peer.hex(),
                    address=str(effect.address),
                )
                self._puncher.punch(effect.peer, effect.address)
            elif isinstance(effect, GiveUp):
                self._puncher.give_up(effect.peer)
            elif isinstance(effect, Report):
                self.client.report_punch(effect.peer, effect.success)

    def _external(self) -> PeerAddress | None:
        """Where the world sees our listening port: its connection to the relay says so.

        Source: behaviour TOR-101-X: nowhere, where only Tor may lead.
        """
        if self._peers.routes.is_tor_only:
            return None
        known = self._config.external_addr or self._peers.mapped
        if known is not None:
            return known
        bound = self._peers.bound
        if self._observed is None or bound is None:
            return None
        local = self.client.local
        if local is not None and local.port == bound.port:
            return self._observed
        return PeerAddress(self._observed.host, bound.port)

    def _listen_addrs(self) -> tuple[PeerAddress, ...]:
        """Where others can dial us: an address that is configured, or the gateway's that leads
        here, or our own if it is a public one."""
        if not self._relay.advertise or self._peers.routes.is_tor_only:
            return ()
        known = self._config.external_addr or self._peers.mapped
        if known is not None:
            return (known,)
        bound, local = self._peers.bound, self.client.local
        if bound is None or local is None:
            return ()
        address = PeerAddress(local.host, bound.port)
        return (address,) if self._may_dial(address) else ()

    def _may_dial(self, address: PeerAddress) -> bool:
        packed = packed_ip(address.host)
        if packed is None or not address.port:
            return False
        if self._config.allows_private_addresses:
            return is_unicast_ip(packed)
        return is_routable_ip(packed)
