"""TLS with fewer and larger steps than Twisted's, and the same behavior.

Twisted's TLS transport moves data in pieces of a record or two, each through several calls and
copies of pyOpenSSL's, and has a timer for every connection that writes. Here

* all records of one read are decrypted into one buffer and delivered in one ``dataReceived``;
* a write of any size is encrypted in one go and handed to the transport in one call;
* the first write of a reactor turn leaves at once; what else is written in that turn leaves
  together when the turn is over, or as soon as it is 64 KiB. One timer serves all connections.

The handshake, the shutdown, errors and producers remain Twisted's code. That code and pyOpenSSL are
used here from the inside, so both are examined at import; if they are not what we know, the class
is not used and :data:`FAST_TLS` is False.

Differences from ``BufferingTLSTransport``: what was written before the connection began to close,
by either side, is never lost in a buffer; a write from ``handshakeCompleted`` does not overtake
those before it; of a read that ends in a broken record, the whole part is delivered first, when
answers can no longer be encrypted; what is written after ``abortConnection`` is dropped even while
a producer is registered; ``abortConnection`` and ``unregisterProducer`` may come after the loss.

Source: design §5.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import (
    BufferingTLSTransport,
    TLSMemoryBIOFactory,
    TLSMemoryBIOProtocol,
)
from twisted.python.failure import Failure

#: Plaintext that is encrypted before its records are taken out of OpenSSL's memory, bytes. OpenSSL
#: never gives such memory back before the connection ends.
_PIECE: Final = 65_536

#: What may be gathered in one turn before it is written, bytes.
_GATHERED: Final = 65_536

#: What one delivery or one reading of ciphertext may have, bytes.
_SCRATCH_BYTES: Final = 327_680


_TWISTED_METHODS: Final = (
    "_bufferedWrite",
    "_flushReceiveBIO",
    "_flushSendBIO",
    "_shutdownTLS",
    "_tlsShutdownFinished",
    "_unbufferPendingWrites",
    "_write",
)
_TWISTED_FLAGS: Final = ("_aborted", "_handshakeDone", "_lostTLSConnection", "_producer")
_TWISTED_STATE: Final = {"_appSendBuffer", "_creatorCallable", "_tlsConnection"}


def inside(openssl: Any, twisted: Any) -> tuple[Any, ...]:  # Any: private parts of both
    """Find what is used of pyOpenSSL and Twisted, and try it out.

    :param openssl: ``OpenSSL.SSL``.
    :param twisted: ``TLSMemoryBIOProtocol``.
    :returns: ``SSL_read``, ``SSL_write``, ``BIO_read``, ``from_buffer``, a buffer, its content.
    :raises Exception: of any kind, if they are not what we know.
    """
    lib, ffi = openssl._lib, openssl._ffi
    scratch = ffi.new("char[]", _SCRATCH_BYTES)
    content = ffi.buffer(scratch)
    connection = openssl.Connection(openssl.Context(openssl.TLS_CLIENT_METHOD), None)
    connection.set_connect_state()
    for attempt in (
        connection.do_handshake,
        lambda: connection._raise_ssl_error(
            connection._ssl, lib.SSL_read(connection._ssl, scratch, 1)
        ),
        lambda: connection._raise_ssl_error(
            connection._ssl, lib.SSL_write(connection._ssl, ffi.from_buffer(b"x") + 0, 1)
        ),
    ):
        try:
            attempt()
        except openssl.WantReadError:
            continue
        raise ValueError("pyOpenSSL does not want to read")
    hello = lib.BIO_read(connection._from_ssl, scratch, _SCRATCH_BYTES)
    if hello <= 0 or content[:1] != b"\x16" or lib.BIO_read(connection._from_ssl, scratch, 1) > 0:
        raise ValueError("pyOpenSSL's memory is not what it was")
    for name in _TWISTED_METHODS:
        if not callable(getattr(twisted, name)):
            raise TypeError(name)
    for name in _TWISTED_FLAGS:
        if getattr(twisted, name):
            raise ValueError(name)
    if not _TWISTED_STATE.issubset(twisted.makeConnection.__code__.co_names):
        raise ValueError("Twisted keeps its state elsewhere")
    return lib.SSL_read, lib.SSL_write, lib.BIO_read, ffi.from_buffer, scratch, content


try:
    _SSL_read, _SSL_write, _BIO_read, _from_buffer, _scratch, _content = inside(
        SSL, TLSMemoryBIOProtocol
    )
    #: Whether :class:`FastTLS` is used.
    FAST_TLS = True
except Exception:
    FAST_TLS = False


if TYPE_CHECKING:  # Twisted has no types here; Any: private parts

    class _Stock:
        transport: Any
        wrappedProtocol: Any
        disconnecting: Any
        _aborted: bool
        _appSendBuffer: list[bytes]
        _lostTLSConnection: bool
        _producer: Any
        _tlsConnection: Any

        def makeConnection(self, transport: Any) -> None: ...
        def connectionLost(self, reason: Failure) -> None: ...
        def _bufferedWrite(self, octets: bytes) -> None: ...
        def _shutdownTLS(self) -> None: ...
        def _tlsShutdownFinished(self, reason: Failure | None) -> None: ...

else:
    _Stock = TLSMemoryBIOProtocol


class Turn:
    """The connections that have written in the present turn of one reactor."""

    _log = Logger()

    def __init__(self) -> None:
        self._connections: dict[FastTLS, None] = {}
        self._call: IDelayedCall | None = None

    def add(self, connection: FastTLS, clock: IReactorTime) -> None:
        """Call ``turn_over`` of this connection when the turn is over."""
        self._connections[connection] = None
        if self._call is None:
            self._call = clock.callLater(0, self._over)

    def discard(self, connection: FastTLS) -> None:
        """Forget a connection that is gone."""
        self._connections.pop(connection, None)
        if not self._connections and self._call is not None:
            self._call.cancel()
            self._call = None

    def _over(self) -> None:
        self._call = None
        connections, self._connections = self._connections, {}
        for connection in connections:
            try:
                connection.turn_over()
            except Exception:
                self._log.failure("writing failed", event="tls_write_failed")


#: One for each reactor; several only in tests.
_turns: weakref.WeakKeyDictionary[Any, Turn] = weakref.WeakKeyDictionary()


class FastTLS(_Stock):
    """A TLS transport around one protocol.

    Bounds: 64 KiB gathered, besides what the transport and OpenSSL hold.
    """

    factory: FastTLSFactory

    _wrote = False  # in this turn
    _gathered: list[bytes]
    _gathered_bytes = 0
    _broken: Failure | None = None  # what reading has met, and is not dealt with yet

    def makeConnection(self, transport: Any) -> None:
        self._gathered = []
        super().makeConnection(transport)

    # -- what the wrapped protocol calls

    def write(self, data: bytes) -> None:
        """Send bytes; they are dropped when the connection is closing and no producer is left."""
        data = data + b""  # raises TypeError at once, and copies what could change
        if not self._takes_writes():
            return
        if not self._wrote:
            self._wrote = True
            self.factory.turn.add(self, self.factory._clock)
            self._write(data)
            return
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= _GATHERED:
            self._write_gathered()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send several pieces; much is not copied together first."""
        pieces = [piece + b"" for piece in iovec]
        if sum(map(len, pieces)) < _GATHERED:
            self.write(b"".join(pieces))
        elif self._takes_writes():
            self._write_gathered()
            self._write_all(pieces)

    # -- what Twisted calls

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._forget_gathered()
        self.factory.turn.discard(self)

    def turn_over(self) -> None:
        """For :class:`Turn`: write what was gathered."""
        self._wrote = False
        self._write_gathered()

    # -- inside; some are Twisted's own methods, replaced

    def _takes_writes(self) -> bool:
        if self._lostTLSConnection or self._aborted:
            return False
        return not self.disconnecting or self._producer is not None

    def _write_gathered(self) -> None:
        if self._gathered:
            gathered = b"".join(self._gathered)
            self._forget_gathered()
            self._write(gathered)

    def _forget_gathered(self) -> None:
        self._gathered = []
        self._gathered_bytes = 0

    def _shutdownTLS(self) -> None:
        if self._tlsConnection is not None:  # else the connection is gone
            # Nothing can be written after the alert that says so.
            self._write_gathered()
            super()._shutdownTLS()

    def _write(self, data: bytes) -> None:
        self._write_all([data])

    def _write_all(self, pieces: list[bytes]) -> None:
        if self._lostTLSConnection:
            return
        connection = self._tlsConnection
        ssl = connection._ssl
        encrypted: list[bytes] = []
        done = at = 0
        try:
            # Once something waits for the end of the handshake, all that follows it does.
            while done < len(pieces) and not self._appSendBuffer:
                plain = _from_buffer(pieces[done])
                size = len(plain)
                at = 0
                while at < size:
                    stop = min(size, at + _PIECE)
                    while at < stop:
                        sent = _SSL_write(ssl, plain + at, stop - at)
                        if sent <= 0:
                            connection._raise_ssl_error(ssl, sent)
                        at += sent
                    _take_encrypted(connection, encrypted)
                done += 1
        except SSL.WantReadError:
            _take_encrypted(connection, encrypted)
        except SSL.Error:
            failure = self._broken or Failure()
            self._hand_over(encrypted)
            self._tlsShutdownFinished(failure)
            return
        self._hand_over(encrypted)
        for piece in pieces[done:]:
            self._bufferedWrite(piece[at:])
            at = 0

    def _hand_over(self, encrypted: list[bytes]) -> None:
        # In one call, because the transport may answer with a callback that writes.
        if len(encrypted) == 1:
            self.transport.write(encrypted[0])
        elif encrypted:
            self.transport.writeSequence(encrypted)

    def _flushSendBIO(self) -> None:
        if self._tlsConnection is not None:  # lost while its last bytes were delivered
            encrypted: list[bytes] = []
            _take_encrypted(self._tlsConnection, encrypted)
            self._hand_over(encrypted)

    def _flushReceiveBIO(self) -> None:
        while not self._lostTLSConnection:
            connection = self._tlsConnection
            ssl = connection._ssl
            size = 0
            result = 1
            while size < _SCRATCH_BYTES and result > 0:
                result = _SSL_read(ssl, _scratch + size, _SCRATCH_BYTES - size)
                if result > 0:
                    size += result
            more, closed = result > 0, False
            if not more:
                try:
                    connection._raise_ssl_error(ssl, result)
                except SSL.WantReadError:
                    pass
                except SSL.ZeroReturnError:
                    closed = True
                except SSL.Error:
                    self._broken = Failure()
            if size and not self._aborted:
                self.wrappedProtocol.dataReceived(_content[:size])
            if self._lostTLSConnection:
                break
            if closed:
                self._shutdownTLS()
                self._tlsShutdownFinished(None)
            elif self._broken is not None:
                self._tlsShutdownFinished(self._broken)
            elif not more:
                break
        # Reading may have produced something to send, and may have met a write that waits.
        self._flushSendBIO()


def _take_encrypted(connection: Any, encrypted: list[bytes]) -> None:  # Any: pyOpenSSL's
    # There is never more than a piece, or a flight of the handshake.
    size = _BIO_read(connection._from_ssl, _scratch, _SCRATCH_BYTES)
    if size > 0:
        encrypted.append(_content[:size])


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
        self.turn = _turns.setdefault(self._clock, Turn())
