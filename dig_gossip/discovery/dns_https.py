"""DNS over HTTPS: the same questions and answers, where plain DNS is blocked, watched or forbidden.

Source: RFC 8484; behaviour DSC-003, PRV-010.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.names import dns
from twisted.python.failure import Failure

from dig_gossip.discovery.dns_answers import find_addresses
from dig_gossip.errors import DiscoveryError, GossipError
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import returns_deferred
from dig_gossip.util.sanitize import sanitize_text

if TYPE_CHECKING:
    from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS

_CONTENT_TYPE: Final = "application/dns-message"
_MAX_BODY_BYTES: Final = 65_535  # the most that a DNS message can have
_CONNECT_TIMEOUT_SECS: Final = 10


class HttpsLookup:
    """Asks a DNS-over-HTTPS server.

    Redirects are not followed, cookies not kept, and no more than 64 KiB read.

    :param url: of the server, ``https://host/dns-query``.
    :param endpoints: makes the connections, if they are to go through a proxy.
    :param policy: whose certificates are trusted; by default those that the system trusts.
    """

    def __init__(
        self,
        clock: Clock,
        url: str,
        *,
        endpoints: IAgentEndpointFactory | None = None,
        policy: IPolicyForHTTPS | None = None,
    ) -> None:
        self._clock = clock
        self._url = url
        self._endpoints = endpoints
        self._policy = policy

    @returns_deferred
    async def addresses(self, name: str) -> list[str]:
        """See :class:`~dig_gossip.discovery.dns_lookup.Lookup`."""
        return await find_addresses(self._query, name)

    async def _query(self, name: bytes, kind: int) -> dns.Message:
        # Imported here: most nodes never need an HTTP client.
        import treq
        from twisted.web.client import Agent, HTTPConnectionPool
        from twisted.web.http_headers import Headers

        reactor: Any = self._clock.reactor  # Any: several reactor interfaces at once
        connections: list[Any] = []  # Any: twisted.web's own protocol

        class Connections(HTTPConnectionPool):
            """Remembers connections, because a response that hangs can only be cut there."""

            def getConnection(self, key: Any, endpoint: Any) -> Any:
                return super().getConnection(key, endpoint).addCallback(opened)

        def opened(connection: Any) -> Any:
            connections.append(connection)
            return connection

        pool = Connections(reactor, persistent=False)  # type: ignore[no-untyped-call]
        if self._endpoints is not None:
            agent = Agent.usingEndpointFactory(reactor, self._endpoints, pool)
        else:
            policy = {} if self._policy is None else {"contextFactory": self._policy}
            agent = Agent(reactor, connectTimeout=_CONNECT_TIMEOUT_SECS, pool=pool, **policy)
        question = dns.Message(0, recDes=1)  # always 0, so that answers can be cached
        question.queries = [dns.Query(name, kind, dns.IN)]
        try:
            response = await treq.client.HTTPClient(agent).post(
                self._url,
                data=question.toStr(),
                headers=Headers({"accept": [_CONTENT_TYPE], "content-type": [_CONTENT_TYPE]}),
                allow_redirects=False,
                unbuffered=True,
            )
            if response.code != 200:
                raise DiscoveryError(f"the DNS server answers with status {response.code}")
            body = _Body()
            response.deliverBody(body)
            return _parse(await body.whole)
        except (CancelledError, GossipError):
            raise
        except Exception as error:
            if any(reason.check(CancelledError) for reason in getattr(error, "reasons", ())):
                raise CancelledError from None  # twisted.web wraps it
            text = sanitize_text(str(error)) or type(error).__name__
            raise DiscoveryError(f"DNS over HTTPS failed: {text}") from error
        finally:
            for connection in connections:
                if connection.transport is not None:
                    connection.transport.abortConnection()


def _parse(data: bytes) -> dns.Message:
    message = dns.Message()
    try:
        message.fromStr(data)
    except (EOFError, ValueError):
        raise DiscoveryError("the answer is no DNS message") from None
    return message


class _Body(Protocol):
    """Reads a body of limited size."""

    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred()
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= _MAX_BODY_BYTES:
            self._parts.append(data)
        elif not self.whole.called:
            self._parts.clear()
            self.whole.errback(DiscoveryError("the answer is too long for DNS"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        from twisted.web.client import ResponseDone

        if self.whole.called:
            return
        if reason.check(ResponseDone):
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(DiscoveryError("the answer was cut off"))
