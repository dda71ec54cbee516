"""The network's DNS names as a source of addresses.

Source: behaviour DSC-003.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger
from zope.interface import implementer

from dig_gossip.discovery.dns_lookup import Lookup
from dig_gossip.discovery.sources import IPeerSource
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.errors import GossipError
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import returns_deferred


@implementer(IPeerSource)
class DnsSeeds:
    """Asks some of the names each time, in an order that is random and then stays.

    :param names: DNS names, at most 64.
    :param port: the port of whatever is found: DNS tells none.
    :param batch_size: names of one round, asked at the same time.
    :param timeout: seconds for each name.
    """

    name = "dns"
    _log = Logger()

    def __init__(
        self,
        names: Sequence[str],
        port: int,
        lookup: Lookup,
        clock: Clock,
        rng: random.Random,
        *,
        batch_size: int,
        timeout: float,
    ) -> None:
        self._names = list(names)
        rng.shuffle(self._names)
        self._next = 0
        self._port = port
        self._lookup = lookup
        self._clock = clock
        self._batch_size = batch_size
        self._timeout = timeout

    @returns_deferred
    async def fetch(self) -> list[KnownAddress]:
        """Ask the next names; see :class:`IPeerSource`."""
        asked = [self._ask(name) for name in self._batch()]
        outcomes: list[tuple[bool, Any]] = await DeferredList(asked, consumeErrors=True)
        found: dict[PeerAddress, None] = {}
        for succeeded, outcome in outcomes:
            if succeeded:
                found.update(dict.fromkeys(outcome))
            elif outcome.check(CancelledError):
                outcome.raiseException()
        return [KnownAddress(address, 0) for address in found]

    def _batch(self) -> list[str]:
        count = min(self._batch_size, len(self._names))
        batch = [self._names[(self._next + n) % len(self._names)] for n in range(count)]
        self._next = (self._next + count) % max(1, len(self._names))
        return batch

    @returns_deferred
    async def _ask(self, name: str) -> list[PeerAddress]:
        asking: Deferred[list[str]] = self._lookup.addresses(name)
        timer = self._clock.call_later(self._timeout, asking.cancel)
        try:
            hosts = await asking
        except (CancelledError, DeferredTimeoutError):
            if timer.active:
                raise  # it is not the time that was up
            self._failed(name, f"no answer in {self._timeout:g} s")
            return []
        except GossipError as error:
            self._failed(name, str(error))
            return []
        finally:
            timer.cancel()
        self._log.debug(
            "{name} has {count} addresses", event="dns_seed_answered", name=name, count=len(hosts)
        )
        return [PeerAddress(host, self._port) for host in hosts]

    def _failed(self, name: str, error: str) -> None:
        self._log.debug(
            "{name} could not be looked up: {error}",
            event="dns_seed_failed",
            name=name,
            error=error,
        )
