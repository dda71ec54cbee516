"""Which network an entry of the address book counts to, when one is drawn to be dialed.

Engines row of the stage table; pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from dig_gossip.discovery.diversity import AsLookup
from dig_gossip.discovery.slots import NetworkKey
from dig_gossip.discovery.values import ExtendedPeerInfo
from dig_gossip.types.ip import packed_ip
from dig_gossip.types.peer import PeerAddress, group_and_key

#: Onion addresses cost nothing, so all of them together count as one network.
_ONIONS: Final = b"onion"


class Node:
    """The place where the current state of one entry is found, and the network it counts to."""

    __slots__ = ("info", "network")

    def __init__(self, info: ExtendedPeerInfo, network: NetworkKey) -> None:
        self.info = info
        self.network = network


class Networks:
    """Tells networks: the autonomous system where a table tells it, otherwise the group.

    Bounded: the entries of the book at the moment of a new table.
    """

    def __init__(self) -> None:
        self._lookup: AsLookup | None = None
        self._strays: list[Node] = []

    def of(self, address: PeerAddress, group: bytes, packed: bytes | None) -> NetworkKey:
        """What an address shares its chance to be drawn with."""
        if packed is None:
            return _ONIONS
        number = None if self._lookup is None else self._lookup(address)
        return group if number is None else number

    def follow(self, lookup: AsLookup | None, nodes: Iterable[Node]) -> None:
        """Go by another table, or by none.

        :param nodes: to look at again, if it is not the table that there is.
        """
        if lookup != self._lookup:
            self._lookup = lookup
            self._strays = list(nodes)

    def moved(self, limit: int | None) -> Iterator[tuple[Node, NetworkKey]]:
        """Look at nodes again: those that are now in another network, and in which.

        :param limit: look at so many at most; None for all.
        """
        strays = self._strays
        for _ in range(len(strays) if limit is None else min(limit, len(strays))):
            node = strays.pop()
            address = node.info.address
            packed = packed_ip(address.host)
            network = self.of(address, group_and_key(address, packed)[0], packed)
            if network != node.network:
                yield node, network
