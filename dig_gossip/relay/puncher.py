"""Dials through NATs: both peers at once, each from the port that it listens on.

A NAT lets in what looks like an answer. So both ends send to each other, from the port whose
outside address each knows of the other, and whichever SYN arrives first meets a hole::

    both SYNs cross        one connection, opened by both (RFC 9293 §3.5, simultaneous open)
    one arrives later      it meets the other end's listener, as if it had dialed

Either way the peer with the smaller id is client of TLS and WebSocket and greets first, also when
the connection came in through its listener (:meth:`Puncher.take`); the other one is server, also
when it was its own SYN that arrived.

Source: behaviour RLY-007.1; wire §16; B. Ford, P. Srisuresh, D. Kegel, "Peer-to-Peer Communication
Across Network Address Translators", 2005.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.tcp import makeBinding
from twisted.python.failure import Failure

from dig_gossip.connection.opening import Opening, Outcome
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.session import Session
from dig_gossip.connection.stack import PeerStack
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled

#: For how long SYNs are sent. The system repeats them after 1 and 3 s by itself.
BURST_SECS: Final = 5.0
#: After a refusal the next one follows so soon: the other end may just not have begun.
AGAIN_SECS: Final = 0.5


def shared_endpoint(
    reactor: Any,  # Any: several reactor interfaces at once
    address: PeerAddress,
    *,
    timeout: float,
    bound: PeerAddress | None,
) -> IStreamClientEndpoint:
    """Make an endpoint that connects from the port on which we listen.

    :param bound: where we listen, with a port that may be shared; None for any port.
    """
    binding: Any = None  # Any: Twisted's Binding
    if bound is not None:
        ip = bound.ip
        interface = "" if ip is None or ip.is_unspecified else bound.host
        binding = makeBinding(interface, bound.port, reuseAddress=True, reusePort=True)
    ip = address.ip
    if ip is None:
        return HostnameEndpoint(
            reactor, address.host, address.port, timeout=timeout, bindAddress=binding
        )
    endpoint = TCP4ClientEndpoint if ip.version == 4 else TCP6ClientEndpoint
    return endpoint(reactor, address.host, address.port, timeout=timeout, bindAddress=binding)


@attrs.define(eq=False)
class _Attempt:
    peer: PeerId
    address: PeerAddress
    leads: bool
    until: float
    opening: Opening | None = None
    connecting: Deferred[Any] | None = None
    timer: Timer | None = None
    is_attached: bool = False


class Puncher:
    """The dials of all hole punches; the outcome shows in the table of peers.

    :param bound: where this node listens, asked at each dial.
    Bounds: one attempt for each peer, as many as are asked for.
    """

    def __init__(
        self,
        peers: Peers,
        stack: PeerStack,
        clock: Clock,
        *,
        bound: Callable[[], PeerAddress | None],
    ) -> None:
        self._peers = peers
        self._stack = stack
        self._clock = clock
        self._bound = bound
        self._attempts: dict[PeerId, _Attempt] = {}

    def punch(self, peer: PeerId, address: PeerAddress) -> None:
        """Begin to dial a peer that dials us now."""
        self.give_up(peer)
        leads = self._stack.tls.identity.peer_id < peer
        attempt = _Attempt(peer, address, leads, self._clock.monotonic() + BURST_SECS)
        self._attempts[peer] = attempt
        if leads:
            # The peer may have heard of us first, and have met our listener: where both ends are
            # servers now, and wait. It will come again. A symmetric NAT gives it another port
            # than the one that we were told.
            self._peers.forget_silent(address.host)
        self._connect(attempt)

    def give_up(self, peer: PeerId) -> None:
        """Stop dialing; what has become a session stays one."""
        attempt = self._attempts.pop(peer, None)
        if attempt is None:
            return
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.connecting is not None:
            attempt.connecting.cancel()

    @property
    def is_dialing(self) -> bool:
        """Whether a punch is under way."""
        return bool(self._attempts)

    def stop(self) -> None:
        """Stop dialing everybody."""
        for peer in list(self._attempts):
            self.give_up(peer)

    def take(self, source: PeerAddress) -> Any:  # Any: as FastTLSFactory
        """Say who is to serve a connection that came in through our listener.

        :returns: None: it is like any other. Otherwise it is a punching peer's, and we lead.
        """
        for attempt in self._attempts.values():
            if attempt.leads and not attempt.is_attached and attempt.address.host == source.host:
                return self._factory(attempt)
        return None

    # -- inside

    def _connect(self, attempt: _Attempt) -> None:
        attempt.timer = None
        bound = self._bound()
        left = attempt.until - self._clock.monotonic()
        if bound is None or left <= 0:
            return
        endpoint = shared_endpoint(
            cast(Any, self._clock.reactor), attempt.address, timeout=left, bound=bound
        )
        attempt.connecting = endpoint.connect(_Late(self, attempt))
        handled(
            attempt.connecting.addCallbacks(
                self._connected, self._refused, (attempt,), {}, (attempt,)
            )
        )

    def _connected(self, _protocol: object, attempt: _Attempt) -> None:
        attempt.connecting = None

    def _refused(self, _failure: Failure, attempt: _Attempt) -> None:
        attempt.connecting = None
        if not attempt.is_attached:
            self._again(attempt)

    def _again(self, attempt: _Attempt) -> None:
        if self._attempts.get(attempt.peer) is attempt and attempt.timer is None:
            attempt.timer = self._clock.call_later(AGAIN_SECS, self._connect, attempt)

    def _factory(self, attempt: _Attempt) -> Any:  # Any: as FastTLSFactory
        """The protocol stack of the one connection that an attempt may have."""
        if attempt.is_attached:
            return None

        def ended(outcome: Outcome) -> None:
            # Of a session the table's observer hears.
            if not isinstance(outcome, Session):
                attempt.is_attached = False
                self._again(attempt)

        if attempt.leads:
            opening: Opening | None = self._peers.begin(
                attempt.address, ended, attempt.peer, is_outbound=True
            )
        else:
            opening = self._peers.accept(attempt.address, attempt.peer, ended)
        if opening is None:
            return None
        attempt.is_attached = True
        attempt.opening = opening
        return self._stack.factory(opening)


class _Late(Factory):
    """Decides what serves a connection when there is one: until then there may be another."""

    noisy = False

    def __init__(self, puncher: Puncher, attempt: _Attempt) -> None:
        self._puncher = puncher
        self._attempt = attempt

    def buildProtocol(self, addr: IAddress | None) -> Any:  # Any: Autobahn has no types
        factory = self._puncher._factory(self._attempt)
        return None if factory is None else factory.buildProtocol(cast(Any, addr))
