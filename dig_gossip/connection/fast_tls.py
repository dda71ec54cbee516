"""TLS with fewer and larger steps than Twisted's, and the same behavior.

Twisted's TLS transport moves data in pieces of a record or two, each through several calls and
copies of pyOpenSSL's, and has a timer for every connection that writes. Here

* all records of one read are decrypted into one buffer and delivered in one ``dataReceived``, and
  a read that is full of large messages makes the next one larger, up to 256 KiB;
* what is written in one turn of the reactor is encrypted in one go and is in the socket before the
  call returns, see :mod:`~dig_gossip.connection.tls_sending`.

The handshake, the shutdown, errors and producers remain Twisted's code. That code and pyOpenSSL are
used here from the inside, so both are examined at import; if they are not what we know, the class
is not used, see :mod:`~dig_gossip.connection.tls_inside`.

Differences from ``BufferingTLSTransport``: what was written before the connection began to close,
by either side, is never lost in a buffer; a write from ``handshakeCompleted`` does not overtake
those before it; of a read that ends in a broken record, the whole part is delivered first, when
answers can no longer be encrypted; what is written after ``abortConnection`` is dropped even while
a producer is registered; ``abortConnection`` and ``unregisterProducer`` may come after the loss.

Source: design §5.
"""

from __future__ import annotations

from errno import EWOULDBLOCK
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet import endpoints, tcp
from twisted.internet.interfaces import IProtocolFactory, IReactorTime
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementedBy

from dig_gossip.connection.tls_inside import FAST_TLS, SCRATCH_BYTES, USUAL_READ
from dig_gossip.connection.tls_sending import SendingTLS
from dig_gossip.util.turn import Turn

if FAST_TLS:
    from dig_gossip.connection.tls_inside import (
        WANT_READ,
        SSL_get_error,
        SSL_read,
        SSL_set_bio,
        from_buffer,
        rest_of,
        source_of,
    )

#: Room before a delivery, for what its receiver has kept of the one before, bytes.
_HEADROOM: Final = 66_560

#: What is read from a socket at a time, bytes, at most.
_LARGEST_READ: Final = 262_144


class FastTLS(SendingTLS):
    """A TLS transport around one protocol.

    Bounds: as its sending half.
    """

    _reads = False  # from the socket, without its protocol
    _is_lent = False  # OpenSSL reads from memory that is not its own
    _is_starved = True  # it has read all of it

    # -- what Twisted calls

    def dataReceived(self, data: bytes) -> None:
        if self._is_direct:
            self._fit_reads(len(data))
        if self._handshakeDone and not self._appSendBuffer:
            if self._is_direct and not self._reads:
                self._read_directly()
            self._feed(from_buffer(data), len(data))
        else:
            if self._is_lent:
                self._own_input()
            super().dataReceived(data)

    def read(self) -> Exception | None:
        """For the reactor, instead of the socket's own ``doRead``: it needs no ``bytes``."""
        sock = self.transport
        if not self._handshakeDone or self._appSendBuffer:
            return type(sock).doRead(sock)  # type: ignore[no-any-return]
        memory = _inputs.pop() if _inputs else _Memory(_LARGEST_READ)
        try:
            try:
                size = sock.socket.recv_into(memory.view, sock.bufferSize)
            except OSError as error:
                return None if error.args[0] == EWOULDBLOCK else CONNECTION_LOST
            if not size:
                return CONNECTION_DONE
            self._fit_reads(size)
            self._feed(memory.start, size)
        finally:
            _inputs.append(memory)
        return None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reads:
            self.transport.__dict__.pop("doRead", None)  # a cycle
        super().connectionLost(reason)

    # -- inside; some are Twisted's own methods, replaced

    def _fit_reads(self, size: int) -> None:
        """Read more at a time from who sends large messages, less from who does not."""
        sock = self.transport
        room = sock.bufferSize
        if not getattr(self.wrappedProtocol, "is_bulky", False):
            # After a read of small messages somebody may want no more of them, who has to take
            # all of the next one too.
            if room > USUAL_READ:
                sock.bufferSize = USUAL_READ
        elif size == room and room < _LARGEST_READ:
            sock.bufferSize = 2 * room

    def _read_directly(self) -> None:
        """Read from the socket ourselves, if nobody is between."""
        self._reads = True  # or has tried to
        sock = self.transport
        protocol = sock.protocol
        if type(protocol) is endpoints._WrappingProtocol:
            protocol = protocol._wrappedProtocol
        if protocol is self and type(sock).doRead is tcp.Connection.doRead:
            sock.doRead = self.read

    def _feed(self, start: Any, size: int) -> None:  # Any: an object of cffi
        """Let OpenSSL read from memory where it is."""
        connection = self._tlsConnection
        if connection is None:
            return
        if not self._is_starved:  # something went wrong in between
            connection.bio_write(SSL._ffi.buffer(start, size)[:])
            self._flushReceiveBIO()
            return
        source = source_of(start, size)
        SSL_set_bio(connection._ssl, source, connection._from_ssl)
        connection._into_ssl = source
        self._is_lent, self._is_starved = True, False
        try:
            self._flushReceiveBIO()
        finally:
            if not self._is_starved:
                self._own_input()

    def _own_input(self) -> None:
        """Give OpenSSL memory of its own, and what it has not read of ours."""
        connection = self._tlsConnection
        self._is_lent = False
        if connection is not None:
            source = rest_of(connection._into_ssl)
            SSL_set_bio(connection._ssl, source, connection._from_ssl)
            connection._into_ssl = source

    def _flushReceiveBIO(self) -> None:
        memory = _outputs.pop() if _outputs else _Memory(_HEADROOM + SCRATCH_BYTES)
        try:
            self._deliver(memory)
        finally:
            _outputs.append(memory)
        # Reading may have produced something to send, and may have met a write that waits.
        self._flushSendBIO()

    def _deliver(self, memory: _Memory) -> None:
        start = memory.start + _HEADROOM
        while not self._lostTLSConnection:
            connection = self._tlsConnection
            ssl = connection._ssl
            size = 0
            while size < SCRATCH_BYTES:
                result = SSL_read(ssl, start + size, SCRATCH_BYTES - size)
                if result <= 0:
                    break
                size += result
            closed = False
            if result <= 0:
                error = SSL_get_error(ssl, result)
                if error == WANT_READ:
                    self._is_starved = True
                else:
                    try:
                        connection._raise_ssl_error(ssl, result)
                    except SSL.ZeroReturnError:
                        closed = True
                    except SSL.Error:
                        self._broken = Failure()
            if size and not self._aborted:
                protocol = self.wrappedProtocol
                if getattr(protocol, "is_bulky", False):
                    protocol.plaintext_received(memory.view, _HEADROOM, _HEADROOM + size)
                else:
                    protocol.dataReceived(memory.content[_HEADROOM : _HEADROOM + size])
            if self._lostTLSConnection:
                break
            if closed:
                self._shutdownTLS()
                self._tlsShutdownFinished(None)
            elif self._broken is not None:
                self._tlsShutdownFinished(self._broken)
            elif result <= 0:
                break


class _Memory:
    """Memory that OpenSSL and Python see, used again and again."""

    __slots__ = ("content", "start", "view")

    def __init__(self, size: int) -> None:
        self.start: Any = SSL._ffi.new("char[]", size)
        self.content: Any = SSL._ffi.buffer(self.start)
        self.view = memoryview(self.content)


#: What is not in use. There is one of each, unless reading leads to reading.
_inputs: list[_Memory] = []
_outputs: list[_Memory] = []


def _declarations() -> list[FastTLS]:
    """Transports that provide what those around sockets do.

    For each connection Twisted declares that, one interface after the other. As long as somebody
    provides the same, that is a look into a dictionary and no computation.
    """
    kept = []
    for kind in (tcp.Server, tcp.Client):
        provided = implementedBy(kind)  # type: ignore[no-untyped-call]
        for each in (provided, *provided):
            one = FastTLS.__new__(FastTLS)
            directlyProvides(one, each)
            kept.append(one)
    return kept


_kept: Final = _declarations()


class FastTLSFactory(TLSMemoryBIOFactory):
    """Drop-in for ``TLSMemoryBIOFactory``.

    :ivar turn: shared by all connections on the same clock.
    """

    protocol: Any = FastTLS if FAST_TLS else BufferingTLSTransport

    def __init__(
        self,
        contextFactory: Any,  # Any: one of several interfaces, see Twisted
        isClient: bool,
        wrappedFactory: IProtocolFactory,
        clock: IReactorTime | None = None,
    ) -> None:
        super().__init__(contextFactory, isClient, wrappedFactory, clock)
        self.turn = Turn.of(self._clock)
