"""What the parts of port mapping tell each other."""

from __future__ import annotations

from typing import Final, Protocol

import attrs

from dig_gossip.errors import GossipError
from dig_gossip.types.peer import PeerAddress

#: What we ask for. Gateways may grant less; RFC 6886 §3.3 recommends two hours.
LIFETIME_SECS: Final = 7200
#: More is not believed.
MAX_LIFETIME_SECS: Final = 86_400
#: A mapping is not renewed more often than that (RFC 6887 §11.2.1).
MIN_RENEWAL_SECS: Final = 4.0


class MappingFailed(GossipError):
    """There is no mapping; the text says why. It never leaves this package."""


@attrs.frozen(kw_only=True)
class Mapping:
    """A port of the gateway that leads to ours.

    :ivar method: ``pcp``, ``nat-pmp`` or ``upnp``.
    :ivar external: an IPv4 literal and a port.
    :ivar lifetime: seconds until it ends unless it is renewed, above 0.
    """

    method: str
    external: PeerAddress
    lifetime: float


class Method(Protocol):
    """One way to ask for a mapping; used for one thing at a time."""

    name: str

    async def map(self) -> Mapping:
        """Make the mapping, or renew it.

        :raises MappingFailed: there is none.
        """

    async def is_intact(self) -> bool:
        """Ask whether the mapping is what it was.

        :raises MappingFailed: nobody answers.
        """

    async def release(self) -> None:
        """Remove the mapping, if there may be one.

        :raises MappingFailed: nobody answers, or says no.
        """


def bounded_lifetime(seconds: int) -> float:
    """What to make of a lifetime that a gateway grants.

    :raises MappingFailed: it is 0.
    """
    if seconds <= 0:
        raise MappingFailed("the gateway grants no time")
    return float(min(seconds, MAX_LIFETIME_SECS))
