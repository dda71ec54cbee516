"""How a TCP connection is made: the family, the time it may take, the address it comes from."""

from __future__ import annotations

from typing import Any

from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
)
from twisted.internet.interfaces import IStreamClientEndpoint

from dig_gossip.types.peer import PeerAddress


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
