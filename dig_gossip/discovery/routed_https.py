"""HTTPS connections that go the way of everything else this node dials.

Imported only where such a connection is made: it brings in an HTTP client.
Source: behaviour PRV-010.1.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import URI, BrowserLikePolicyForHTTPS
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from dig_gossip.connection.endpoints import Routes
from dig_gossip.types.peer import PeerAddress

_CONNECT_TIMEOUT_SECS: Final = 10.0


@implementer(IAgentEndpointFactory)
class RoutedHttps:
    """Makes the endpoints of an HTTP agent.

    :param policy: whose certificates are trusted; by default those that the system trusts.
    """

    def __init__(self, routes: Routes, policy: IPolicyForHTTPS | None = None) -> None:
        self._routes = routes
        default: Any = BrowserLikePolicyForHTTPS  # Any: Twisted's own is not typed
        self._policy = policy or default()

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        address = PeerAddress(uri.host.decode("ascii"), uri.port)
        endpoint = self._routes.endpoint(address, timeout=_CONNECT_TIMEOUT_SECS)
        return wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
