"""Datagrams to the gateway and back, for NAT-PMP and PCP; and what it announces to everybody.

Only what comes from the gateway's address and port is read: the socket is connected, so that the
system drops the rest, and the source is compared once more here.

Source: RFC 6886 §3.1 (retransmission), §3.2.1 (announcements); RFC 6887 §8.1, §14.1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure

from dig_gossip.errors import ClientError
from dig_gossip.portmap.routes import MAX_ROUTE_BYTES, ROUTE_FILE, default_gateway
from dig_gossip.portmap.values import MappingFailed
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.natpmp import ANNOUNCEMENT_GROUP, CLIENT_PORT, SERVER_PORT
from dig_gossip.wire.pcp import MAX_BYTES

T = TypeVar("T")

_FIRST_WAIT_SECS: Final = 0.25  # doubled each time
#: Requests that are sent before a gateway counts as silent, 7.75 s after the first.
ATTEMPTS: Final = 5


def find_gateway() -> str:
    """The default gateway of this machine.

    :raises MappingFailed: there is none, or this system does not tell.
    """
    try:
        with open(ROUTE_FILE, "rb") as file:
            table = file.read(MAX_ROUTE_BYTES)
    except OSError:
        raise MappingFailed(
            f"the default gateway is unknown: {ROUTE_FILE} cannot be read, and only Linux has it"
        ) from None
    gateway = default_gateway(table, sys.byteorder)
    if gateway is None:
        raise MappingFailed("no IPv4 route leads to a gateway")
    return gateway


class GatewayLink(DatagramProtocol):
    """A socket that talks to one gateway, one question at a time.

    :param interface: the address to send from; empty for the system's choice.
    :param unasked: takes what the gateway says while nothing is asked.
    :raises MappingFailed: there is no way to it.
    """

    def __init__(
        self,
        gateway: str,
        clock: Clock,
        *,
        interface: str = "",
        port: int = SERVER_PORT,
        unasked: Callable[[bytes], object] = lambda datagram: None,
    ) -> None:
        self.gateway = gateway
        self._peer = (gateway, port)
        self._clock = clock
        self._unasked = unasked
        self._interface = interface
        self._question: _Question[Any] | None = None
        self._port: Any = None
        self.host = self._open()

    def _open(self) -> str:
        """Open the socket; returns the address that it sends from."""
        reactor: Any = self._clock.reactor  # Any: with IReactorUDP
        try:
            # One byte more than any response has: what is longer is seen to be.
            self._port = reactor.listenUDP(
                0, self, interface=self._interface, maxPacketSize=MAX_BYTES + 1
            )
        except Exception as error:  # CannotListenError; AttributeError of a reactor without UDP
            raise MappingFailed(f"no UDP socket: {error}") from error
        try:
            self.transport.connect(*self._peer)  # type: ignore[union-attr]
            return str(self._port.getHost().host)
        except Exception as error:  # no route to it
            handled(self.close())
            raise MappingFailed(f"no way to the gateway {self.gateway}: {error}") from error

    def close(self) -> Deferred[None]:
        """Close the socket; what is asked fails."""
        if self._question is not None:
            self._question.fail(MappingFailed("the socket is closed"))
        port, self._port = self._port, None
        closing = None if port is None else port.stopListening()
        return closing if isinstance(closing, Deferred) else succeed(None)

    def ask(
        self, request: bytes, read: Callable[[bytes], T], *, attempts: int = ATTEMPTS
    ) -> Deferred[T]:
        """Send a request until something answers it.

        :param read: makes the result of a datagram; raises ClientError if that is no answer to
            this request, which is then ignored.
        :returns: fires with what ``read`` makes of the answer.
        :raises MappingFailed: nobody answers, or ``read`` raised it.
        Cancellation: nothing is sent any more.
        """
        assert self._question is None, "one question at a time"
        if self._port is None:
            self.host = self._open()
        question: _Question[T] = _Question(self, request, read, attempts)
        self._question = question
        question.send()
        return question.answer

    # -- of the question

    def send(self, request: bytes) -> None:
        """Send a datagram; one that cannot be sent counts as lost."""
        try:
            self.transport.write(request)  # type: ignore[union-attr,call-arg]
        except OSError:
            pass

    def call_later(self, delay: float, function: Callable[[], object]) -> Timer:
        """Set a timer."""
        return self._clock.call_later(delay, function)

    def over(self) -> None:
        """The question has its answer, or will have none."""
        self._question = None

    # -- Twisted's names

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if addr[:2] != self._peer:
            return
        if self._question is None or not self._question.take(datagram):
            self._unasked(datagram)

    def connectionRefused(self) -> None:
        if self._question is not None:
            self._question.fail(MappingFailed("nothing listens there"))

    def stopProtocol(self) -> None:
        # Some reactors, epoll's among them, close a socket whose peer's port is closed.
        if self._port is not None:
            self._port = None
            self.connectionRefused()


class _Question(Generic[T]):
    """A request under way."""

    def __init__(
        self, link: GatewayLink, request: bytes, read: Callable[[bytes], T], attempts: int
    ) -> None:
        self.answer: Deferred[T] = Deferred(self._cancelled)
        self._link = link
        self._request = request
        self._read = read
        self._left = attempts
        self._wait = _FIRST_WAIT_SECS
        self._timer: Timer | None = None

    def send(self) -> None:
        """Send it, for the first time or once more."""
        if not self._left:
            self.fail(MappingFailed("no answer"))
            return
        self._left -= 1
        self._timer = self._link.call_later(self._wait, self.send)
        self._wait *= 2
        self._link.send(self._request)

    def take(self, datagram: bytes) -> bool:
        """Take what may be the answer; False if it is something else."""
        try:
            result = self._read(datagram)
        except ClientError:
            return False
        except MappingFailed as error:
            self.fail(error)
        else:
            self._over()
            self.answer.callback(result)
        return True

    def fail(self, error: MappingFailed) -> None:
        """There will be no answer."""
        self._over()
        self.answer.errback(error)

    def _cancelled(self, _answer: Deferred[T]) -> None:
        self._over()

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._link.over()


class Announcements(DatagramProtocol):
    """Hears what the gateway announces to all hosts: that it is new, or has another address.

    Many sockets of a machine may listen there. Without it changes are noticed, too, only later.

    :param is_gateway: whether an address is the gateway's.
    :param heard: called for each datagram from there, with no regard to what it says: it only
        makes us ask.
    """

    def __init__(
        self, clock: Clock, is_gateway: Callable[[str], bool], heard: Callable[[], object]
    ) -> None:
        self._is_gateway = is_gateway
        self._heard = heard
        self._port: Any = None
        reactor: Any = clock.reactor  # Any: with IReactorMulticast, or not
        try:
            self._port = reactor.listenMulticast(
                CLIENT_PORT, self, listenMultiple=True, maxPacketSize=MAX_BYTES
            )
        except Exception:
            return  # a reactor without multicast; a port that another program has for itself

    def close(self) -> None:
        """Close the socket."""
        port, self._port = self._port, None
        if port is not None:
            port.stopListening()

    # -- Twisted's names

    def startProtocol(self) -> None:
        joining: Deferred[None] = self.transport.joinGroup(ANNOUNCEMENT_GROUP)  # type: ignore[union-attr]
        handled(joining.addErrback(self._not_joined))

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if self._is_gateway(addr[0]):
            self._heard()

    def _not_joined(self, _failure: Failure) -> None:
        """This machine has no multicast."""
