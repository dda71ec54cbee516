"""What a node does with its relay: whom it reaches through it, and how it leaves it again.

The shell around :mod:`dig_gossip.relay.contacts`, which chooses, and
:mod:`dig_gossip.relay.punching`, which upgrades; the relay's client, the dialer and the puncher
do the rest. A relayed session is one like any other for everybody else.

When the node takes another id a second client registers under it, and the first one carries its
sessions on until each has been replaced (:mod:`dig_gossip.relay.former`). If the relay does not
take the second one in, the first one makes room for it.

Source: behaviour §27, §29, PRV-007.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.dialer import Dialer
from dig_gossip.connection.opening import Opening, Outcome
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.retirement import MOST_SECS
from dig_gossip.connection.session import Session
from dig_gossip.connection.stack import PeerStack
from dig_gossip.connection.tunneled import TunneledConnections
from dig_gossip.connection.websocket import OpenTransports
from dig_gossip.errors import ClientError, GossipError, PeerNotConnected, RelayError
from dig_gossip.privacy.rotation import MOVING_SECS, OWN_ID_SECS
from dig_gossip.relay.client import RelayClient
from dig_gossip.relay.contacts import Action, Contacts, DialDirect, OpenTunnel
from dig_gossip.relay.former import FormerRegistrations
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
#: How long a registration under a former id lasts at most. Where sessions do not follow they keep
#: it while that id is known as ours.
FORMER_SECS: Final = MOVING_SECS + MOST_SECS
UNMOVED_SECS: Final = OWN_ID_SECS - 60.0


class Relaying:
    """One node's use of one relay.

    :param learned: takes the addresses that the relay tells of, with the relay's own.
    :param unvouched: takes a message whose sender nobody vouches for.
    :ivar client: the registration under the present id.
    Bounds: those of :class:`Contacts`, :class:`Punching`, :class:`FormerRegistrations` and the
    clients; of second tunnels, one for each session.
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
        self._rng = rng
        self._transports = transports
        self._learned = learned
        self._unvouched = unvouched
        self._contacts = Contacts(own_id, prefer_relay=relay.prefer_relay, now=clock.monotonic)
        self._punching = Punching(own_id, now=clock.monotonic, rng=rng)
        self._puncher = Puncher(peers, stack, clock, bound=lambda: peers.bound)
        self.client = self._make_client()
        self._formers = FormerRegistrations(
            lives=FORMER_SECS if _moves(config) else UNMOVED_SECS,
            unvouched=self._unvouched_before,
            now=clock.monotonic,
        )
        self._redials: dict[PeerId, Deferred[Session]] = {}
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
        self._formers.stop()
        self.client.stop()

    def stats(self) -> RelayStats | None:
        """The counters of the registration under the present id, while there is one."""
        return self.client.stats()

    def counters(self) -> dict[str, int]:
        """Upgrades of relayed sessions, for statistics."""
        return {"punches_ok": self._punching.succeeded, "punches_failed": self._punching.failed}

    @property
    def relies_on_id(self) -> bool:
        """Whether somebody is on the way to us who expects the present id (ROT-101-X)."""
        return self._puncher.is_dialing or self.client.hub.is_opening

    # -- another id

    def rotated(self) -> None:
        """The node has another id: register under it, beside the old one if that has sessions."""
        self._contacts.own_id = self._punching.own_id = self._stack.tls.identity.peer_id
        self._perform(self._punching.forget())
        for peer in list(self._redials):
            self._redial_failed(peer)
        if self.client.is_registered and len(self.client.hub):
            self._formers.add(self.client)
        else:
            self.client.stop()
        self._contacts.clear()  # the next client lists them anew
        self.client = self._make_client()
        self.client.start()

    @property
    def spare(self) -> int:
        """How many sessions that peers have opened through the relay may become our own."""
        return min(self._wanted(), self._tunnel_room())

    def redial(self, peer: PeerId) -> Deferred[Session]:
        """Open a second tunnel to a peer, under the present id, beside a session that lives.

        :returns: fires with the session, which is not relayed if another way was shorter; fails
            with ``PeerNotConnected`` if none came about, ``RelayError`` if there may be none.
        Cancellation: the tunnel stays.
        """
        existing = self._peers.table.get(peer)
        if existing is not None and existing.own_id == self._peers.own_ids.current:
            return succeed(existing)
        hub = self.client.hub
        may = self.client.is_registered and self._tunneled.is_allowed(peer, is_outbound=True)
        if may and peer not in self._redials:
            hub.open(peer)  # unless the peer was faster
        if not may or peer in self._redials or peer not in hub:
            return fail(RelayError(f"there may be no tunnel to {peer.hex()}"))

        def cancelled(_deferred: Deferred[Session]) -> None:
            del self._redials[peer]

        deferred: Deferred[Session] = Deferred(cancelled)
        self._redials[peer] = deferred
        return deferred

    def vacated(self, peer: PeerId) -> None:
        """A session was closed so that another takes its place: the peer is welcome at once."""
        self._contacts.connected(peer)

    def _redial_failed(self, peer: PeerId) -> None:
        deferred = self._redials.pop(peer, None)
        if deferred is not None:
            deferred.errback(PeerNotConnected(peer))

    def _unvouched_before(self, payload: bytes) -> None:
        if not self.client.is_registered:  # which hears the same
            self.relay_message(payload)

    def take(self, source: PeerAddress) -> object:
        """See :meth:`Puncher.take`."""
        return self._puncher.take(source)

    # -- what happens to sessions

    def peer_up(self, session: Session) -> None:
        """A session has begun, by whatever way."""
        peer = session.peer_id
        self._contacts.connected(peer)
        is_current = session.own_id == self._peers.own_ids.current
        if session.transport is not TransportKind.RELAY:
            self._perform(self._punching.direct(peer))
        elif is_current and self._relay.hole_punching and not self._peers.routes.is_tor_only:
            self._punching.relayed(peer)
        if is_current and peer in self._redials:
            self._redials.pop(peer).callback(session)

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

    def relay_failed(self) -> None:
        """If it was to be one beside another: one at a time, then."""
        if len(self._formers):
            self._formers.stop()
            self.client.reconnect()

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
        client = self.client

        def ended(outcome: Outcome) -> None:
            if client is self.client:  # not one under a former id
                self._tunnel_ended(peer, outcome, is_outbound)

        return self._tunneled.begin(peer, ended, is_outbound=is_outbound)

    def tunnel_failed(self, peer: PeerId) -> None:
        """A tunnel did not come about, or ended before there was a connection in it."""
        self._contacts.failed(OpenTunnel(peer))
        if peer not in self.client.hub:  # both wanted one, and the peer's counts
            self._redial_failed(peer)

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

    def _make_client(self) -> RelayClient:
        peers, relay = self._peers, self._relay
        return RelayClient(
            relay,
            self,
            self._stack,
            self._clock,
            self._rng,
            self._transports,
            network_id=self._config.handshake_string,
            own_ids=peers.own_ids.all,
            listen_addrs=self._listen_addrs,
            bound=lambda: peers.bound if relay.hole_punching else None,
            routes=peers.routes,
        )

    def _tick(self) -> None:
        self._timer = self._clock.call_later(TICK_SECS, self._tick)
        self._formers.tick()
        if self.client.is_registered:
            for action in self._contacts.next_actions(
                wanted=self._wanted(),
                tunnels=self._tunnel_room(),
                is_taken=self._is_taken,
            ):
                self._act(action)
        self._perform(self._punching.tick())

    def _wanted(self) -> int:
        wanted = self._config.target_outbound_count - self._peers.table.outbound_count
        return wanted - self._turning()

    def _tunnel_room(self) -> int:
        return self._tunneled.room(is_outbound=True) - self._turning()

    def _turning(self) -> int:
        """How many sessions that peers have opened are about to become our own."""
        turning = [self._peers.table.get(peer) for peer in self._redials]
        return sum(session is not None and not session.is_outbound for session in turning)

    def _is_taken(self, peer: PeerId) -> bool:
        return (
            self._peers.table.get(peer) is not None
            or peer in self.client.hub  # the peer was faster
            or self._peers.reputations.is_banned(peer)
        )

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
        if not isinstance(outcome, Session):
            if is_outbound:
                self._contacts.failed(OpenTunnel(peer))
            self._redial_failed(peer)

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


def _moves(config: GossipConfig) -> bool:
    """Whether sessions follow a change of the id."""
    rotation = config.peer_id_rotation
    return rotation is None or rotation.reconnect_on_rotation
