"""Questions about IP addresses that only the operating system can answer."""

from __future__ import annotations

import ipaddress
import socket

from dig_gossip.types.peer import PeerAddress

#: The address at which this machine reaches what is bound to everything.
LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}
WILDCARDS = frozenset(LOOPBACK_OF)


def is_local_ip(host: str) -> bool:
    """Whether this machine owns the IP address: binding to it is the proof."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def is_same_endpoint(address: PeerAddress, bound: PeerAddress) -> bool:
    """Whether dialing ``address`` would reach the socket bound to ``bound``.

    Source: behaviour CON-001.1 (any local interface with our port counts).
    """
    if address.port != bound.port:
        return False
    if bound.host in WILDCARDS:
        return address.host in WILDCARDS or is_local_ip(address.host)
    return address.host == bound.host
