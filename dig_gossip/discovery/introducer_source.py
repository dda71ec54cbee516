"""The introducer as a source of addresses for the discovery loop.

Source: behaviour DSC-004, DSC-006.
"""

from __future__ import annotations

from collections.abc import Iterable

from chia_rs import TimestampedPeerInfo
from twisted.internet.defer import Deferred
from zope.interface import implementer

from dig_gossip.discovery.introducer_client import IntroducerClient
from dig_gossip.discovery.peer_exchange import read_address
from dig_gossip.discovery.sources import IPeerSource
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.util.deferreds import returns_deferred


@implementer(IPeerSource)
class IntroducerSource:
    """Asks an introducer, which bounds the time itself."""

    name = "introducer"

    def __init__(self, client: IntroducerClient) -> None:
        self._client = client

    def fetch(self) -> Deferred[list[KnownAddress]]:
        """See :class:`IPeerSource`."""
        return self._fetch()

    @returns_deferred
    async def _fetch(self) -> list[KnownAddress]:
        return known_addresses(await self._client.query())


def known_addresses(rows: Iterable[TimestampedPeerInfo]) -> list[KnownAddress]:
    """What of an answer the address book may keep."""
    found = []
    for row in rows:
        address = read_address(row.host.encode("utf-8", "replace"), row.port)
        if address is not None:
            found.append(KnownAddress(address, row.timestamp))
    return found
