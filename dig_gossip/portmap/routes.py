"""Who the default gateway is, read from Linux's table of IPv4 routes.

Source: Linux ``net/ipv4/fib_trie.c``, ``fib_route_seq_show``.
"""

from __future__ import annotations

import ipaddress
from typing import Final

#: Where Linux shows its table, and how many bytes of it are looked at.
ROUTE_FILE: Final = "/proc/net/route"
MAX_ROUTE_BYTES: Final = 1_048_576

_UP: Final = 0x0001
_GATEWAY: Final = 0x0002
_REJECT: Final = 0x0200


def default_gateway(table: bytes, byteorder: str) -> str | None:
    """Find the gateway of the default route; of several, that with the lowest metric.

    :param table: the content of :data:`ROUTE_FILE`; lines that make no sense are skipped.
    :param byteorder: ``sys.byteorder`` of the machine: addresses are shown as its integers.
    :returns: an IPv4 literal, or None if no route leads to a gateway.
    Cost: O(bytes).
    """
    best: tuple[int, str] | None = None
    for line in table.splitlines()[1:]:
        found = _default_route(line, byteorder)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    return None if best is None else best[1]


def _default_route(line: bytes, byteorder: str) -> tuple[int, str] | None:
    """The metric and the gateway, if this is a default route that leads to one."""
    fields = line.split()
    if len(fields) < 8:
        return None
    try:
        destination, gateway, flags, mask = (int(fields[at], 16) for at in (1, 2, 3, 7))
        metric = int(fields[6])
        packed = gateway.to_bytes(4, "little" if byteorder == "little" else "big")
    except (ValueError, OverflowError):
        return None
    if destination or mask or not gateway or flags & (_UP | _GATEWAY | _REJECT) != _UP | _GATEWAY:
        return None
    return metric, str(ipaddress.IPv4Address(packed))
