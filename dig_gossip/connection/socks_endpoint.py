"""Connections through a SOCKS5 proxy.

Source: behaviour PRV-010; RFC 1928.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.connection.socks import Credentials, SocksClient, SocksStage
from dig_gossip.errors import ChannelClosed, ClientError, ClientErrorKind, GossipError, ProxyError
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import handled


@implementer(IStreamClientEndpoint)
class SocksEndpoint:
    """Reaches one address through a proxy.

    What is connected is the application's own protocol, directly on the transport: once the proxy
    has answered it costs nothing.

    :param proxy: how the proxy itself is reached.
    :param timeout: seconds for everything until the destination is there.
    """

    def __init__(
        self,
        clock: Clock,
        proxy: IStreamClientEndpoint,
        address: PeerAddress,
        *,
        credentials: Credentials | None,
        timeout: float,
    ) -> None:
        self.clock = clock
        self.proxy = proxy
        self.address = address
        self.credentials = credentials
        self.timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Connect.

        :returns: fires with the factory's protocol.
        :raises ProxyError: the proxy cannot be used; says nothing about the destination.
        :raises ClientError: (refused, timeout) the destination cannot be reached.
        Cancellation: drops the connection.
        """
        return _Attempt(self, protocolFactory).result


class _Attempt(Factory):
    """One connection: the factory of its first protocol, the negotiation.

    :ivar is_over: whether nothing the proxy says matters any more.
    """

    noisy = False

    def __init__(self, endpoint: SocksEndpoint, inner: IProtocolFactory) -> None:
        self.result: Deferred[Any] = Deferred(self._cancelled)
        self._endpoint = endpoint
        self._inner = inner
        self._negotiation: _Negotiation | None = None
        self._connecting: Deferred[Any] | None = None
        self.is_over = False
        self._timer = endpoint.clock.call_later(endpoint.timeout, self._expired)
        try:
            self.client = SocksClient(endpoint.address, endpoint.credentials)
        except GossipError as error:
            self.fail(error)
            return
        self._connecting = endpoint.proxy.connect(self)
        handled(self._connecting.addCallbacks(lambda _protocol: None, self._no_proxy))

    def buildProtocol(self, addr: IAddress | None) -> TwistedProtocol:
        self._negotiation = _Negotiation(self)
        return self._negotiation

    def switch(self, transport: Any) -> None:  # Any: a transport whose protocol can be replaced
        """The destination is there: hand the connection over."""
        self.is_over = True
        self._timer.cancel()
        protocol: Any = self._inner.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.abortConnection()
            self.result.errback(Failure(ChannelClosed("nobody wants the connection")))
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.result.callback(protocol)
        if self.client.surplus:
            protocol.dataReceived(self.client.surplus)

    def fail(self, error: GossipError) -> None:
        """Give up."""
        if self.is_over:
            return
        self._drop()
        self.result.errback(Failure(error))

    def _drop(self) -> None:
        self.is_over = True  # before dropping, which is reported back
        self._timer.cancel()
        if self._negotiation is not None:
            self._negotiation.drop()
        elif self._connecting is not None:
            self._connecting.cancel()

    def _no_proxy(self, failure: Failure) -> None:
        self.fail(ProxyError(f"the proxy cannot be reached: {failure.getErrorMessage()}"))

    def _expired(self) -> None:
        where = self._endpoint.address
        if self._negotiation is not None and self.client.stage is SocksStage.REPLY:
            self.fail(ClientError(ClientErrorKind.TIMEOUT, f"{where}: gave up connecting"))
        else:
            self.fail(ProxyError("the proxy does not answer"))

    def _cancelled(self, _result: Deferred[Any]) -> None:
        self._drop()  # the Deferred fails by itself


class _Negotiation(TwistedProtocol):
    """Talks to the proxy and makes way."""

    def __init__(self, attempt: _Attempt) -> None:
        self._attempt = attempt

    def connectionMade(self) -> None:
        if self._attempt.is_over:
            self.drop()
        else:
            self._write(self._attempt.client.begin())

    def dataReceived(self, data: bytes) -> None:
        attempt = self._attempt
        if attempt.is_over:
            return
        try:
            self._write(attempt.client.received(data))
        except GossipError as error:
            attempt.fail(error)
            return
        if attempt.client.is_connected:
            attempt.switch(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._attempt.fail(ProxyError("the proxy has closed the connection"))

    def drop(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            cast(Any, self.transport).abortConnection()

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        if data:
            self.transport.write(data)
