"""Whom a node may dial besides those it is connected to, so that no one network surrounds it.

Pure. Occupancy is a question about the sessions of this moment, asked anew each time: a set kept
beside them would drift.

Source: behaviour §15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import attrs

from dig_gossip.types.ip import is_onion
from dig_gossip.types.options import IPNetwork
from dig_gossip.types.peer import PeerAddress, TransportKind

#: Tells the autonomous system of an IP address; None where it is not known.
AsLookup: TypeAlias = Callable[[PeerAddress], int | None]


@attrs.frozen
class Link:
    """A session, or a dial on its way to become one, as far as diversity is concerned."""

    address: PeerAddress
    transport: TransportKind = TransportKind.DIRECT


class Diversity:
    """The rules of who may be dialed next to whom.

    * At most one outbound session in a group: an IPv4 /16, an IPv6 /32.
    * At most one in an autonomous system, where a table tells it.
    * All onion services are one group, of at most half the target.
    * Relayed sessions have the relay's address, so they neither take a group nor need one; at
      most three quarters of the target are relayed.

    Networks that are exempt (loopback, unless configured otherwise) are free of the first two.
    Cost: O(sessions) a question; no state of its own.

    :param target: outbound sessions that the node wants.
    :param exempt: networks in which any number may be dialed.
    :ivar as_lookup: may be replaced at any time; None when there is no table.
    Source: behaviour DSC-010, DSC-011, DIV-101-X to DIV-104-X.
    """

    def __init__(
        self, *, target: int, exempt: Iterable[IPNetwork] = (), as_lookup: AsLookup | None = None
    ) -> None:
        self.as_lookup = as_lookup
        self.max_onion = max(1, target // 2)
        self.max_relayed = target - max(target // 4, 1)
        self._exempt = tuple(exempt)

    def refuse(self, candidate: Link, others: Iterable[Link]) -> str | None:
        """Decide whether an outbound session may exist beside others.

        :param others: the other outbound sessions, and the dials that may become ones.
        :returns: None if it may, or the reason, which begins with the id of the rule.
        """
        if candidate.transport is TransportKind.RELAY:
            relayed = sum(link.transport is TransportKind.RELAY for link in others)
            if relayed >= self.max_relayed:
                return f"INT-006a {relayed} relayed sessions are enough"
            return None
        others = [link for link in others if link.transport is not TransportKind.RELAY]
        address = candidate.address
        if is_onion(address.host):
            onions = sum(is_onion(link.address.host) for link in others)
            if onions >= self.max_onion:
                return f"INT-006 {onions} onion services are enough"
            return None
        if self.is_exempt(address):
            return None
        group = address.get_group()
        others = [link for link in others if not self._is_unruled(link.address)]
        if any(link.address.get_group() == group for link in others):
            return "INT-006 there is a session with this network group already"
        number = self._as_number(address)
        if number is not None and any(self._as_number(link.address) == number for link in others):
            return f"INT-007 there is a session with AS{number} already"
        return None

    def is_exempt(self, address: PeerAddress) -> bool:
        """Whether the address lies in a network where any number of peers may be dialed."""
        ip = address.ip
        return ip is not None and any(ip in network for network in self._exempt)

    def _is_unruled(self, address: PeerAddress) -> bool:
        return is_onion(address.host) or self.is_exempt(address)

    def groups(self, links: Iterable[Link]) -> int:
        """Count the different groups among sessions."""
        return len({link.address.get_group() for link in links})

    def _as_number(self, address: PeerAddress) -> int | None:
        if self.as_lookup is None or address.ip is None:
            return None
        return self.as_lookup(address)


def max_inbound_relayed(max_connections: int) -> int:
    """How many inbound sessions may come through relays: whoever runs one could invent them all.

    Source: behaviour DIV-102-X.
    """
    return max_connections - max(max_connections // 4, 1)
