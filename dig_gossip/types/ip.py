"""Which IP and onion addresses a stranger may hand us, decided from the bytes alone.

The table is our own because ``ipaddress.is_global`` differs between Python releases and calls
multicast global. Source: behaviour ADR-001, ADR-003; IANA special-purpose address registries;
Tor ``rend-spec-v3`` [ONIONADDRESS].
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from bisect import bisect_right

#: Never the address of one reachable machine: "this network", multicast, reserved, broadcast.
_NOWHERE = ("0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")

#: Machines, but not ones that the whole internet reaches.
_LOCAL = (
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
)

#: Inside 2000::/3, the only global unicast space. Teredo and 6to4 embed an IPv4 address, so they
#: would give the owner of one a network of its own.
_LOCAL_V6 = ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#: The one way to write an IPv4 address; four times as fast as asking ``ipaddress``.
is_canonical_ipv4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}").fullmatch


def _ranges(networks: tuple[str, ...]) -> tuple[list[bytes], list[bytes]]:
    parsed = sorted(
        (network[0].packed, network[-1].packed) for network in map(ipaddress.ip_network, networks)
    )
    return [first for first, _ in parsed], [last for _, last in parsed]


_UNROUTABLE = {4: _ranges(_NOWHERE + _LOCAL), 16: _ranges(_LOCAL_V6)}


def packed_ip(host: str) -> bytes | None:
    """The 4 or 16 bytes of an IP literal; None for a name."""
    if is_canonical_ipv4(host):
        return bytes(map(int, host.split(".")))
    try:
        return ipaddress.IPv6Address(host).packed
    except ValueError:
        return None


def is_routable_ip(packed: bytes) -> bool:
    """Whether the whole internet may reach this address.

    :param packed: 4 or 16 bytes, IPv4-mapped addresses as IPv4.
    Divergence: Teredo, 6to4 and everything outside 2000::/3 count as unroutable, although
    ``ipaddress.is_global`` accepts them: each is a way around the limit of a group.
    """
    if len(packed) == 16 and packed[0] >> 5 != 1:
        return False
    firsts, lasts = _UNROUTABLE[len(packed)]
    index = bisect_right(firsts, packed) - 1
    return index < 0 or packed > lasts[index]


def is_unicast_ip(packed: bytes) -> bool:
    """Whether this can be the address of one machine at all, private or not."""
    if len(packed) == 16:
        return packed[0] != 0xFF and any(packed)
    return 0 < packed[0] < 224


def is_onion(host: str) -> bool:
    """Whether the host is a valid version 3 onion address in lower case, its checksum included."""
    if len(host) != 62 or not host.endswith(".onion"):
        return False
    try:
        decoded = base64.b32decode(host[:56].upper())
    except ValueError:
        return False
    key, checksum, version = decoded[:32], decoded[32:34], decoded[34:]
    expected = hashlib.sha3_256(b".onion checksum" + key + version).digest()[:2]
    return version == b"\x03" and checksum == expected and host.islower()
