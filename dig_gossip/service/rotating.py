"""Takes another identity from time to time, and moves the sessions to it.

The shell around :mod:`dig_gossip.privacy.rotation`. Keys are made and written in a thread; the new
identity is adopted by everything in one turn of the reactor.

Source: behaviour §25.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.dialer import Dialer
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.session import RemovalReason, Session
from dig_gossip.errors import GossipError, PeerNotConnected
from dig_gossip.privacy.rotation import (
    Close,
    Generate,
    Link,
    Moved,
    Postponed,
    Redial,
    Rotation,
    RotationEffect,
)
from dig_gossip.service.relaying import Relaying
from dig_gossip.tls.identity import Identity, generate_identity, replace_identity
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind
from dig_gossip.types.sections import PeerIdRotationConfig
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled


class Rotating:
    """One node's rotation.

    :param relaying: the node's use of its relay, if it has one.
    :param relies_on_id: whether something goes on that needs the present id to the end.
    :param adopt: makes everything in the node use a new identity.
    """

    _log = Logger()

    def __init__(
        self,
        config: GossipConfig,
        rotation: PeerIdRotationConfig,
        peers: Peers,
        dialer: Dialer,
        clock: Clock,
        rng: Random,
        *,
        relaying: Relaying | None,
        relies_on_id: Callable[[], bool],
        adopt: Callable[[Identity], object],
    ) -> None:
        self._files = (config.cert_path, config.key_path)
        self._peers = peers
        self._dialer = dialer
        self._clock = clock
        self._relaying = relaying
        self._relies_on_id = relies_on_id
        self._adopt = adopt
        self._engine = Rotation(
            interval=rotation.rotation_interval_secs,
            moves=rotation.reconnect_on_rotation,
            target=config.target_outbound_count,
            now=clock.monotonic,
            rng=rng,
        )
        self._timer: Timer | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin to wait."""
        self._again()

    def stop(self) -> None:
        """Rotate no more; an identity that is being made is not adopted."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    # -- inside

    def _again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stopped:
            self._timer = self._clock.call_later(self._engine.next_delay, self._tick)

    def _tick(self) -> None:
        is_busy = self._peers.is_pinning() or self._relies_on_id()
        self._perform(self._engine.tick(is_busy=is_busy, links=self._links()))
        self._again()

    def _links(self) -> list[Link]:
        current = self._peers.own_ids.current
        relaying = self._relaying
        is_registered = relaying is not None and relaying.client.is_registered
        spare = 0 if relaying is None else relaying.spare
        links = []
        for session in self._peers.table:
            is_stale = session.own_id != current
            is_relayed = session.transport is TransportKind.RELAY
            is_dialable = session.is_outbound
            if is_stale and is_relayed and not is_dialable:
                # Through the relay either end can open what takes its place.
                is_dialable = spare > 0
                spare -= 1
            links.append(
                Link(
                    session.peer_id,
                    is_stale=is_stale,
                    is_dialable=is_dialable,
                    is_busy=session.has_requests or session.queued_messages > 0,
                    is_stuck=is_relayed and not is_registered,
                )
            )
        return links

    def _perform(self, effects: list[RotationEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Generate):
                self._generate()
            elif isinstance(effect, Redial):
                self._redial(effect.peer)
            elif isinstance(effect, Close):
                self._close(effect)
            elif isinstance(effect, Postponed):
                self._log.debug(
                    "the peer id is needed just now; it rotates in {delay} s",
                    event="rotation_postponed",
                    delay=effect.seconds,
                )
            elif isinstance(effect, Moved):
                self._log.info(
                    "the sessions have moved to the new peer id; {left} keep the former one",
                    event="rotation_moved",
                    left=effect.left,
                )

    # -- another identity

    def _generate(self) -> None:
        reactor = cast(Any, self._clock.reactor)  # Any: also IReactorThreads
        making: Deferred[Identity] = deferToThreadPool(reactor, reactor.getThreadPool(), self._make)
        handled(making.addCallbacks(self._made, self._not_made))

    def _make(self) -> Identity:
        """Runs in a thread."""
        identity = generate_identity()
        if self._files[0]:
            replace_identity(identity, *self._files)
        return identity

    def _made(self, identity: Identity) -> None:
        if self._stopped:
            return
        former = self._peers.own_ids.current
        self._adopt(identity)
        self._engine.generated(len(self._peers.table))
        self._peers.counters["rotations"] += 1
        self._log.info(
            "this node was {former}, and is {peer_id} from now on",
            event="rotated",
            former=former.hex(),
            peer_id=identity.peer_id.hex(),
        )
        self._again()

    def _not_made(self, failure: Failure) -> None:
        if self._stopped:
            return
        self._engine.failed()
        self._peers.counters["rotations_failed"] += 1
        self._log.info(
            "no new identity, the old one stays for another interval: {error}",
            event="rotation_failed",
            error=failure.getErrorMessage(),
        )
        self._again()

    # -- the sessions

    def _redial(self, peer: PeerId) -> None:
        session = self._peers.table.get(peer)
        if session is None:
            self._engine.redialed(peer, False)
            return
        try:
            dialing = self._dial_again(session)
        except GossipError:
            self._engine.redialed(peer, False)
            return
        handled(dialing.addCallbacks(self._redialed, self._not_redialed, (peer,), {}, (peer,)))

    def _dial_again(self, session: Session) -> Deferred[Session]:
        if session.transport is not TransportKind.RELAY:
            return self._dialer.connect(session.address, session.peer_id)
        if self._relaying is None:
            raise PeerNotConnected(session.peer_id)
        return self._relaying.redial(session.peer_id)

    def _redialed(self, _session: Session, peer: PeerId) -> None:
        self._engine.redialed(peer, True)

    def _not_redialed(self, failure: Failure, peer: PeerId) -> None:
        failure.trap(GossipError)
        self._engine.redialed(peer, False)

    def _close(self, effect: Close) -> None:
        session = self._peers.table.get(effect.peer)
        if session is None:
            return
        address = session.address
        self._peers.session_ended(session, RemovalReason.MOVED)
        if session.transport is TransportKind.RELAY:
            if self._relaying is not None:
                self._relaying.vacated(effect.peer)
        elif effect.dials:
            self._dial(address)

    def _dial(self, address: PeerAddress) -> None:
        try:
            dialing: Deferred[Session] = self._dialer.connect(address)
        except GossipError:
            return
        handled(dialing.addErrback(lambda failure: failure.trap(GossipError) and None))
