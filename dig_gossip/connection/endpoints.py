"""How a connection is made: directly or through Tor; the time it may take, where it comes from.

Whatever this node dials, it dials through a :class:`Routes`.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from dig_gossip.connection.socks import Credentials
from dig_gossip.connection.socks_endpoint import SocksEndpoint
from dig_gossip.errors import ConnectionFiltered
from dig_gossip.types.peer import PeerAddress, TransportKind
from dig_gossip.types.sections import TorConfig
from dig_gossip.util.clock import Clock

#: How much more time than others connections through Tor may take.
TOR_PATIENCE = 3.0


class Routes:
    """Decides how each address is reached, and makes the endpoint for it.

    * A name under ``.onion`` is reached through Tor. Where Tor is off it is not reached at all;
      it is never looked up.
    * With ``prefer_tor`` everything is, by its name, which Tor looks up. There is no way back
      to the open net when Tor fails.
    * Everything else is reached directly.

    Each destination has a user and a password of its own at the proxy, random and the same until
    :meth:`take_new_circuits`; so Tor gives no two destinations one circuit.

    Divergence: an address of the open net that does not answer is not tried through Tor
    unless ``prefer_tor`` says so. A peer that is down would otherwise be dialed twice, the second
    time by somebody else's exit.

    :param tor: None for no Tor.
    :param rng: draws the secret that the credentials derive from; unused without Tor.
    Source: behaviour PRV-009, PRV-010, PRV-010.1, TOR-101-X; RFC 7686 (``.onion`` is not looked
    up).
    """

    def __init__(
        self, clock: Clock, tor: TorConfig | None = None, rng: random.Random | None = None
    ) -> None:
        active = tor is not None and tor.is_active
        self._clock = clock
        self._proxy: PeerAddress | None = None
        self._rng = rng or random.SystemRandom()
        self._secret = b""
        if tor is not None and active:
            self._proxy = PeerAddress.parse(tor.socks5_proxy)
            self.take_new_circuits()
        #: Whether everything goes through Tor, and nothing of this node may be seen outside.
        self.is_tor_only = tor is not None and active and tor.prefer_tor

    def take_new_circuits(self) -> None:
        """Let nothing that is dialed from now on share a circuit with what was dialed before.

        Otherwise whoever is at the end of a circuit, an exit or a relay, would see this node leave
        it under one peer id and come out of it under another (TLS-102-X).
        """
        if self._proxy is not None:
            self._secret = self._rng.randbytes(32)

    def transport_to(self, address: PeerAddress) -> TransportKind:
        """How an address is reached, if it is."""
        if self.is_tor_only or is_onion_name(address.host):
            return TransportKind.TOR
        return TransportKind.DIRECT

    def patience(self, address: PeerAddress) -> float:
        """By what the usual time limits are multiplied."""
        return TOR_PATIENCE if self.transport_to(address) is TransportKind.TOR else 1.0

    def endpoint(
        self, address: PeerAddress, *, timeout: float, listening: PeerAddress | None = None
    ) -> IStreamClientEndpoint:
        """Make the endpoint for one address.

        Its ``connect`` fails with ``ConnectionFiltered`` if the address is not to be reached, with
        ``ProxyError`` if the proxy is at fault.

        :param timeout: seconds for TCP, and for all of the proxy's part: through Tor three times
            as many.
        :param listening: see :func:`client_endpoint`.
        """
        reactor = self._clock.reactor
        if self.transport_to(address) is TransportKind.DIRECT:
            return client_endpoint(reactor, address, timeout=timeout, listening=listening)
        if self._proxy is None:
            return _Unreachable("onion services are reached through Tor, which is off")
        timeout *= TOR_PATIENCE
        return SocksEndpoint(
            self._clock,
            client_endpoint(reactor, self._proxy, timeout=timeout),
            address,
            credentials=self._credentials(address),
            timeout=timeout,
        )

    def _credentials(self, address: PeerAddress) -> Credentials:
        digest = hashlib.blake2b(str(address).encode(), key=self._secret).hexdigest()
        return Credentials(digest[:64].encode(), digest[64:].encode())


def is_onion_name(host: str) -> bool:
    """Whether only Tor knows what the name means, be it valid or not."""
    return host.rstrip(".").endswith(".onion")


@implementer(IStreamClientEndpoint)
class _Unreachable:
    """Connects to nothing."""

    def __init__(self, why: str) -> None:
        self._why = why

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        return fail(ConnectionFiltered(self._why))


def client_endpoint(
    reactor: Any,  # Any: several reactor interfaces at once
    address: PeerAddress,
    *,
    timeout: float,
    listening: PeerAddress | None = None,
) -> IStreamClientEndpoint:
    """Make the endpoint for one address.

    :param timeout: seconds for TCP, per attempt where a name has several addresses.
    :param listening: where this node listens; connections come from there, if it is one address,
        so that peers see the address under which they can dial us.
    """
    ip = address.ip
    if ip is None:
        return HostnameEndpoint(reactor, address.host, address.port, timeout=timeout)
    endpoint = TCP4ClientEndpoint if ip.version == 4 else TCP6ClientEndpoint
    return endpoint(
        reactor,
        address.host,
        address.port,
        timeout=timeout,
        bindAddress=source_address(address, listening),
    )


def source_address(target: PeerAddress, listening: PeerAddress | None) -> tuple[str, int] | None:
    """The local address to connect from; None leaves it to the system.

    A loopback address reaches loopback only, and one family does not reach the other.
    """
    ours = None if listening is None else listening.ip
    theirs = target.ip
    if ours is None or theirs is None or ours.is_unspecified or ours.version != theirs.version:
        return None
    if ours.is_loopback != theirs.is_loopback:
        return None
    return str(ours), 0
