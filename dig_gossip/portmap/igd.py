"""UPnP Internet Gateway Devices, through miniupnpc, each call in a thread.

Source: UPnP Forum, ``WANIPConnection:1`` §2.4.16 (AddPortMapping) and its errors.
"""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError

from dig_gossip.portmap.values import LIFETIME_SECS, Mapping, MappingFailed
from dig_gossip.types.ip import is_canonical_ipv4
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.threads import in_thread

T = TypeVar("T")

MISSING: Final = "needs miniupnpc: install dig-gossip[upnp]"

_DISCOVER_MS: Final = 2000
_DESCRIPTION: Final = "dig-gossip"
_OTHER_PORTS: Final = 5
_CONFLICT: Final = "ConflictInMappingEntry"
_ONLY_PERMANENT: Final = "OnlyPermanentLeasesSupported"


def has_miniupnpc() -> bool:
    """Whether the extra ``upnp`` is installed."""
    return find_spec("miniupnpc") is not None


def _make_upnp() -> Any:  # Any: miniupnpc has no types
    if not has_miniupnpc():
        raise MappingFailed(MISSING)
    import miniupnpc

    upnp = miniupnpc.UPnP()
    upnp.discoverdelay = _DISCOVER_MS
    return upnp


class Igd:
    """Mappings by UPnP.

    A device is used only if it is the default gateway, where that is known: anybody in the local
    network can claim to be one.

    :param reactor: whose threads are used.
    :param gateway: an IPv4 literal; None if it is not known.
    :param host: our own IPv4 address; empty for what miniupnpc finds.
    :param port: where we listen.
    :param suggested: the external port wished for; another one if somebody has it.
    """

    name = "upnp"

    def __init__(
        self,
        reactor: Any,  # Any: whatever reactor the application runs
        gateway: str | None,
        host: str,
        port: int,
        suggested: int,
        rng: random.Random,
    ) -> None:
        self._reactor = reactor
        self._gateway = gateway
        self._host = host
        self._port = port
        self._wish = suggested
        self._rng = rng
        self._external: PeerAddress | None = None
        # Of the thread. One that outlives a cancelled call must not meet the next one.
        self._turn = threading.Lock()
        self._upnp: Any = None
        self._is_stale = True
        self._added: int | None = None

    async def map(self) -> Mapping:
        """See :class:`Method`; at first, and after a failure, devices are looked for."""
        external = await self._call(self._map)
        self._external, self._wish = external, external.port
        return Mapping(method=self.name, external=external, lifetime=LIFETIME_SECS)

    async def is_intact(self) -> bool:
        """See :class:`Method`."""
        return await self._call(self._look)

    async def release(self) -> None:
        """See :class:`Method`."""
        await self._call(self._delete)

    async def _call(self, function: Callable[[], T]) -> T:
        def locked() -> T:
            with self._turn:
                return function()

        try:
            return await in_thread(self._reactor, locked)
        except (MappingFailed, CancelledError):
            raise
        except Exception as error:  # miniupnpc raises nothing else
            raise MappingFailed(f"the gateway says: {error}") from error

    # -- in a thread, one at a time

    def _map(self) -> PeerAddress:
        if self._is_stale:
            self._upnp = self._discover()
        self._is_stale = True  # until all has gone well: the device may have another URL by now
        port = self._add()
        external = PeerAddress(self._external_host(), port)
        self._is_stale = False
        return external

    def _discover(self) -> Any:
        upnp = _make_upnp()
        try:
            found = upnp.discover()
        except Exception:  # with texts such as "Success", if nobody answers
            found = 0
        if not found:
            raise MappingFailed("no device answers")
        url = str(upnp.selectigd())
        device = urlsplit(url).hostname
        if self._gateway is not None and device != self._gateway:
            raise MappingFailed(f"the device at {device} is not the gateway {self._gateway}")
        return upnp

    def _add(self) -> int:
        wish = self._wish
        for _ in range(_OTHER_PORTS):
            try:
                self._add_port(wish, LIFETIME_SECS)
                return wish
            except Exception as error:
                if str(error) == _ONLY_PERMANENT:
                    self._add_port(wish, 0)
                    return wish
                if str(error) != _CONFLICT:
                    raise
                self._added = None  # somebody else's
            wish = self._rng.randrange(1024, 65536)
        raise MappingFailed("the ports that we asked for are taken")

    def _add_port(self, port: int, lifetime: int) -> None:
        if self._added is not None and self._added != port:
            self._delete()
        self._added = port
        self._upnp.addportmapping(
            port, "TCP", self._own_host(), self._port, _DESCRIPTION, "", lifetime
        )

    def _look(self) -> bool:
        assert self._external is not None
        if self._external_host() != self._external.host:
            return False
        found = self._upnp.getspecificportmapping(self._external.port, "TCP")
        return found is not None and (found[0], int(found[1])) == (self._own_host(), self._port)

    def _delete(self) -> None:
        port, self._added = self._added, None
        if port is not None:
            self._upnp.deleteportmapping(port, "TCP")

    def _own_host(self) -> str:
        return self._host or str(self._upnp.lanaddr)

    def _external_host(self) -> str:
        host = str(self._upnp.externalipaddress())
        if not is_canonical_ipv4(host):
            raise MappingFailed(f"the external address is no IPv4 address: {host}")
        return str(ipaddress.IPv4Address(host))
