"""The addresses behind a DNS name, asked with ``twisted.names`` or with an injected resolver.

Source: behaviour DSC-003; RFC 1035 §4.2, RFC 7766.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.internet.protocol import connectionDone
from twisted.names import dns
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.constants import MAX_ADDRESSES_PER_DNS_NAME
from dig_gossip.discovery.dns_answers import find_addresses
from dig_gossip.errors import DiscoveryError
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import returns_deferred
from dig_gossip.util.sanitize import sanitize_text

DNS_PORT: Final = 53
RESOLV_CONF: Final = "/etc/resolv.conf"
_MAX_SERVERS: Final = 3  # as the C library
_MAX_CONFIG_BYTES: Final = 65_536
_UDP_WAITS: Final = (2.0, 4.0, 8.0)  # for an answer of each server, round after round
_TCP_TIMEOUT_SECS: Final = 10
#: Another server may know what this one does not want to, or cannot, tell.
_TRY_ANOTHER: Final = frozenset({dns.EFORMAT, dns.ESERVER, dns.ENOTIMP, dns.EREFUSED})


class Lookup(Protocol):
    """One way to find the addresses behind a name."""

    def addresses(self, name: str) -> Deferred[list[str]]:
        """Find the IPv6 and IPv4 addresses of a name.

        :returns: fires with at most 256 IP literals, or fails with :class:`DiscoveryError`.
        Cancellation: leaves neither a socket nor a timer. The time limit is the caller's.
        """


def system_servers(path: str = RESOLV_CONF) -> list[PeerAddress]:
    """The name servers that the system is configured with; this machine if there are none."""
    servers = []
    try:
        text = Path(path).read_bytes()[:_MAX_CONFIG_BYTES].decode("utf-8", "replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            address = PeerAddress(words[1], DNS_PORT)
            if address.ip is not None:
                servers.append(address)
    return servers[:_MAX_SERVERS] or [PeerAddress("127.0.0.1", DNS_PORT)]


class ServersLookup:
    """Asks DNS servers: by UDP, and by TCP when an answer did not fit.

    Each query has a socket, and so a port, of its own, which with the random id makes forging an
    answer from afar hard. Servers are asked in order, and again, with more patience.

    :param servers: empty for the system's, read anew for each look-up.
    :param waits: seconds to wait for each server, round after round.
    """

    def __init__(
        self,
        clock: Clock,
        servers: Sequence[PeerAddress] = (),
        waits: Sequence[float] = _UDP_WAITS,
    ) -> None:
        self._clock = clock
        self._servers = list(servers)
        self._waits = waits

    @returns_deferred
    async def addresses(self, name: str) -> list[str]:
        """See :class:`Lookup`."""
        servers = self._servers or system_servers()

        async def query(asked: bytes, kind: int) -> dns.Message:
            return await self._query(servers, dns.Query(asked, kind, dns.IN))

        return await find_addresses(query, name)

    async def _query(self, servers: list[PeerAddress], query: dns.Query) -> dns.Message:
        error: Exception | None = None
        unwilling: dns.Message | None = None
        for wait in self._waits:
            for server in servers:
                try:
                    message = await self._ask(server, query, wait)
                except CancelledError:
                    raise
                except Exception as caught:
                    error = caught
                    continue
                if message.rCode not in _TRY_ANOTHER:
                    return message
                unwilling = message
            if unwilling is not None:
                return unwilling
        text = sanitize_text(str(error)) or type(error).__name__
        raise DiscoveryError(f"no name server answers: {text}") from error

    async def _ask(self, server: PeerAddress, query: dns.Query, wait: float) -> dns.Message:
        message = await self._ask_udp(server, query, wait)
        if message.trunc:
            message = await self._ask_tcp(server, query)
        return message

    async def _ask_udp(self, server: PeerAddress, query: dns.Query, wait: float) -> dns.Message:
        reactor: Any = self._clock.reactor  # Any: several reactor interfaces at once
        timers = _Timers(self._clock)
        protocol = dns.DNSDatagramProtocol(_Nobody(), reactor=timers)
        interface = "::" if ":" in server.host else ""
        port = reactor.listenUDP(0, protocol, interface=interface, maxPacketSize=65_535)
        try:
            return await protocol.query((server.host, server.port), [query], wait)
        except dns.DNSQueryTimeoutError:
            raise DiscoveryError(f"no answer from {server} in {wait:g} s") from None
        finally:
            timers.cancel()
            await maybeDeferred(port.stopListening)

    async def _ask_tcp(self, server: PeerAddress, query: dns.Query) -> dns.Message:
        reactor: Any = self._clock.reactor  # Any: as above
        kind = TCP6ClientEndpoint if ":" in server.host else TCP4ClientEndpoint
        endpoint = kind(reactor, server.host, server.port, timeout=_TCP_TIMEOUT_SECS)
        protocol = _OneAnswer(query)
        await connectProtocol(endpoint, protocol)
        try:
            return await protocol.answer
        finally:
            protocol.abort()
            await protocol.gone


class _Timers:
    """The reactor as ``twisted.names`` sees it: whose timers can all be cancelled."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers: list[Timer] = []

    def callLater(self, delay: float, function: Any, *args: Any) -> Timer:
        timer = self._clock.call_later(delay, function, *args)
        self._timers.append(timer)
        return timer

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()


class _Nobody:
    """Is told about messages that answer nothing."""

    def messageReceived(self, message: dns.Message, protocol: Any, address: Any = None) -> None:
        pass


class _OneAnswer(Int16StringReceiver):
    """Asks one question over TCP."""

    def __init__(self, query: dns.Query) -> None:
        self.answer: Deferred[dns.Message] = Deferred()
        self.gone: Deferred[None] = Deferred()
        self._question = dns.Message(dns.randomSource(), recDes=1)
        self._question.queries = [query]

    def abort(self) -> None:
        """Close the connection at once; :attr:`gone` fires when it is."""
        transport: Any = self.transport  # Any: a TCP transport
        transport.abortConnection()

    def connectionMade(self) -> None:
        self.sendString(self._question.toStr())  # type: ignore[no-untyped-call]

    def stringReceived(self, data: bytes) -> None:
        message = dns.Message()
        try:
            message.fromStr(data)
        except (EOFError, ValueError):
            self._failed("the answer is no DNS message")
            return
        if message.id != self._question.id:
            self._failed("the answer has another id")
        elif not self.answer.called:
            self.answer.callback(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._failed("the connection was lost")
        self.gone.callback(None)

    def _failed(self, text: str) -> None:
        if not self.answer.called:
            self.answer.errback(DiscoveryError(text))


class ResolverLookup:
    """Asks a resolver of Twisted's own kind: what an application injects, or the reactor's."""

    def __init__(self, resolver: Any) -> None:  # Any: IHostnameResolver, a zope interface
        self._resolver = resolver

    def addresses(self, name: str) -> Deferred[list[str]]:
        """See :class:`Lookup`."""
        receiver = _Receiver()
        try:
            self._resolver.resolveHostName(
                receiver, name, addressTypes=[IPv6Address, IPv4Address], transportSemantics="TCP"
            )
        except Exception as error:
            receiver.failed(f"the resolver failed: {sanitize_text(str(error))}")
        return receiver.found


@implementer(IResolutionReceiver)
class _Receiver:
    """Collects what a resolver finds."""

    def __init__(self) -> None:
        self.found: Deferred[list[str]] = Deferred(self._cancelled)
        self._addresses: dict[str, None] = {}
        self._resolution: IHostResolution | None = None

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self._resolution = resolutionInProgress

    def addressResolved(self, address: IAddress) -> None:
        host = getattr(address, "host", None)
        if isinstance(host, str) and len(self._addresses) < MAX_ADDRESSES_PER_DNS_NAME:
            try:
                self._addresses[str(ipaddress.ip_address(host.partition("%")[0]))] = None
            except ValueError:
                pass

    def resolutionComplete(self) -> None:
        if not self.found.called:
            self.found.callback(list(self._addresses))

    def failed(self, text: str) -> None:
        """The resolver could not even begin."""
        if not self.found.called:
            self.found.errback(DiscoveryError(text))

    def _cancelled(self, _deferred: Deferred[list[str]]) -> None:
        cancel = getattr(self._resolution, "cancel", None)
        if cancel is not None:
            try:
                cancel()
            except NotImplementedError:  # the reactor's own: a thread that nobody can stop
                pass
