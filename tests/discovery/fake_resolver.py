"""A resolver of Twisted's kind that finds what it is told to."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHostnameResolver
from zope.interface import implementer


@implementer(IHostnameResolver)
class FakeResolver:
    """Finds ``hosts``, whatever the name; ``broken.test`` makes it raise.

    :ivar asked: the names, in order.
    """

    def __init__(self, *hosts: str, hangs: bool = False) -> None:
        self.hosts = list(hosts)
        self.hangs = hangs
        self.asked: list[str] = []
        self.cancelled = 0

    def resolveHostName(self, resolutionReceiver: Any, hostName: str, *args: Any, **kw: Any) -> Any:
        self.asked.append(hostName)
        if hostName == "broken.test":
            raise RuntimeError("broken")
        resolutionReceiver.resolutionBegan(self)
        for host in self.hosts:
            kind = IPv6Address if ":" in host else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", host, 0))
        if not self.hangs:
            resolutionReceiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """As IHostResolution has it."""
        self.cancelled += 1
