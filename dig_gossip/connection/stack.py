"""What stands on a byte stream to a peer: TLS, WebSocket, and the opening that they belong to.

The same for TCP connections that we dial, for tunnels through a relay, and for punched holes; who
is client of TLS is client of the WebSocket and greets first.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from dig_gossip.connection.fast_tls import FastTLSFactory
from dig_gossip.connection.opening import Opening
from dig_gossip.connection.websocket import OpenTransports, PeerClientFactory, PeerServerFactory
from dig_gossip.tls.context import PeerTLS
from dig_gossip.util.clock import Clock


class PeerStack:
    """Makes factories that serve one connection each.

    :param tls: our side of TLS.
    """

    def __init__(self, tls: PeerTLS, clock: Clock, transports: OpenTransports) -> None:
        self.tls = tls
        self._clock = clock
        self._clients = PeerClientFactory(clock, transports)
        self._servers = PeerServerFactory(clock, transports)

    def factory(self, opening: Opening) -> FastTLSFactory:
        """Make the factory of an opening's connection; outbound openings are clients."""
        is_client = opening.is_outbound
        websockets = self._clients if is_client else self._servers
        inner = _OneConnection(websockets, opening, self.tls)
        factory = FastTLSFactory(self.tls, is_client, inner, clock=cast(Any, self._clock.reactor))
        factory.noisy = False
        return factory


class _OneConnection(Factory):
    """Hands the opening to its WebSocket."""

    noisy = False

    def __init__(
        self, websockets: PeerClientFactory | PeerServerFactory, opening: Opening, tls: PeerTLS
    ) -> None:
        self._websockets = websockets
        self._opening = opening
        self._tls = tls

    def buildProtocol(self, addr: IAddress | None) -> Any:  # Any: Autobahn has no types
        if isinstance(self._websockets, PeerClientFactory):
            protocol: Any = self._websockets.make(self._opening.address, self._opening)
        else:
            protocol = self._websockets.make(cast(IAddress, addr), self._opening)
        self._opening.attach(protocol, self._tls.identity.peer_id)  # TLS begins in this turn
        return protocol
