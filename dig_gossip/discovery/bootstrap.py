"""Keeps the configured peers connected.

Every ``peer_connect_interval`` seconds, and as soon as a back-off ends, the bootstrap peers that
are not connected are dialed, up to the target number of outbound connections and a batch at a time.

Source: behaviour CON-102-X, DSC-006.1.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.dialer import Dialer
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.session import Session
from dig_gossip.constants import PARALLEL_CONNECT_BATCH_SIZE
from dig_gossip.errors import GossipError, SelfConnection
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled

_SOONEST_SECS = 0.25


class BootstrapDialer:
    """Dials the bootstrap peers and dials them again.

    Bounds: one record per configured address.
    """

    _log = Logger()

    def __init__(self, config: GossipConfig, peers: Peers, dialer: Dialer, clock: Clock) -> None:
        self._interval = config.peer_connect_interval
        self._target = config.target_outbound_count
        self._wanted = list(config.bootstrap_peers)
        self._found: dict[PeerAddress, PeerId] = {}
        self._peers = peers
        self._dialer = dialer
        self._clock = clock
        self._timer: Timer | None = None

    def start(self) -> None:
        """Begin with a round at once."""
        if self._wanted and self._target:
            self._timer = self._clock.call_later(0, self._round)

    def stop(self) -> None:
        """Dial no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _round(self) -> None:
        room = self._target - self._peers.table.outbound_count - self._dialer.dials
        room = min(room, PARALLEL_CONNECT_BATCH_SIZE)
        for address in self._missing():
            if room <= 0:
                break
            if self._dialer.backoff.may_dial(address):
                room -= 1
                self._dial(address)
        self._sleep()

    def _sleep(self) -> None:
        waits = [self._dialer.backoff.retry_in(address) for address in self._missing()]
        soonest = min((wait for wait in waits if wait > 0), default=self._interval)
        delay = max(_SOONEST_SECS, min(self._interval, soonest))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_later(delay, self._round)

    def _missing(self) -> list[PeerAddress]:
        return [a for a in self._wanted if not self._is_connected(a)]

    def _is_connected(self, address: PeerAddress) -> bool:
        if self._dialer.is_dialing(address):
            return True
        if self._peers.table.at_address(address) is not None:
            return True
        peer_id = self._found.get(address)
        return peer_id is not None and self._peers.table.get(peer_id) is not None

    def _dial(self, address: PeerAddress) -> None:
        try:
            dialing: Deferred[Session] = self._dialer.connect(address)
        except SelfConnection:
            self._wanted.remove(address)
            return
        except GossipError as error:
            self._not_connected(Failure(error), address)
            return
        handled(
            dialing.addCallbacks(self._connected, self._not_connected, (address,), {}, (address,))
        )

    def _connected(self, session: Session, address: PeerAddress) -> None:
        self._found[address] = session.peer_id

    def _not_connected(self, failure: Failure, address: PeerAddress) -> None:
        failure.trap(GossipError)
        peer_id = getattr(failure.value, "peer_id", None)
        if peer_id is not None:
            # Connected the other way round already; remember who lives there.
            self._found[address] = peer_id
        self._log.debug(
            "bootstrap peer {address} not connected: {error}",
            event="bootstrap_failed",
            address=str(address),
            error=str(failure.value),
        )
        if self._timer is not None and self._timer.active:
            self._sleep()
