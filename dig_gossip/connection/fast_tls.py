"""TLS with fewer and larger steps than Twisted's, and the same behavior.

Twisted's TLS transport moves data in pieces of a record or two, each through several calls and
copies of pyOpenSSL's, and has a timer for every connection that writes. Here

* all records of one read are decrypted into one buffer and delivered in one ``dataReceived``, and
  a read that is full of large messages makes the next one larger, up to 256 KiB;
* a write of any size is encrypted in one go and handed to the transport in one call;
* the first write of a reactor turn leaves at once; what else is written in that turn leaves
  together when the turn is over, or as soon as it is 64 KiB. One timer serves all connections;
* what is encrypted goes to the socket in the same breath, as long as that takes it. Twisted would
  keep it until the next turn, with two calls to the reactor and another copy. As soon as the socket
  does not take everything, the rest is Twisted's as ever, and the producer pauses until it is gone.

The handshake, the shutdown, errors and producers remain Twisted's code. That code and pyOpenSSL are
used here from the inside, so both are examined at import; if they are not what we know, the class
is not used and :data:`FAST_TLS` is False. Likewise :data:`DIRECT` says whether sockets are written
to at once.

Differences from ``BufferingTLSTransport``: what was written before the connection began to close,
by either side, is never lost in a buffer; a write from ``handshakeCompleted`` does not overtake
those before it; of a read that ends in a broken record, the whole part is delivered first, when
answers can no longer be encrypted; what is written after ``abortConnection`` is dropped even while
a producer is registered; ``abortConnection`` and ``unregisterProducer`` may come after the loss.

Source: design §5.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from errno import EWOULDBLOCK
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL
from twisted.internet import endpoints, tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IProtocolFactory, IReactorTime
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import (
    BufferingTLSTransport,
    TLSMemoryBIOFactory,
    TLSMemoryBIOProtocol,
)
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementedBy

from dig_gossip.util.turn import Turn

#: Plaintext that is encrypted before its records are taken out of OpenSSL's memory, bytes. OpenSSL
#: never gives such memory back before the connection ends. Three chunks with their headers.
_PIECE: Final = 98_560

#: What may be gathered in one turn before it is written, bytes.
_GATHERED: Final = 65_536

#: What one delivery or one reading of ciphertext may have, bytes.
_SCRATCH_BYTES: Final = 327_680

#: Room before a delivery, for what its receiver has kept of the one before, bytes.
_HEADROOM: Final = 66_560

#: What is read from a socket at a time, bytes; at first, and at most.
_READ: Final = 65_536
_LARGEST_READ: Final = 262_144

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
    :returns: ``SSL_read``, ``SSL_write``, ``SSL_set_bio``, ``BIO_read``, a function that makes the
        source of what OpenSSL reads of memory that stays where it is, one that copies what is left
        of such a source into another, ``SSL_get_error``, what it says when more has to be read,
        ``from_buffer``, a buffer, its content.
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
    if lib.SSL_get_error(connection._ssl, lib.SSL_read(connection._ssl, scratch, 1)) != (
        lib.SSL_ERROR_WANT_READ
    ):
        raise ValueError("pyOpenSSL's errors are not what they were")
    where = ffi.new("char **")

    def source(content: Any, size: int) -> Any:  # Any: objects of cffi
        bio = lib.BIO_new_mem_buf(content, size)
        if not bio:
            raise MemoryError
        lib.BIO_set_mem_eof_return(bio, -1)
        return bio

    def rest_of(bio: Any) -> Any:
        copy = lib.BIO_new(lib.BIO_s_mem())
        size = lib.BIO_get_mem_data(bio, where)
        if size > 0:
            lib.BIO_write(copy, where[0], size)
        return copy

    # The first byte of a record, and then what no record begins with.
    for data, said, left in ((b"\x16", openssl.WantReadError, 0), (b"\0\0\0\1?", openssl.Error, 1)):
        connection._into_ssl = source(ffi.from_buffer(data), len(data))
        lib.SSL_set_bio(connection._ssl, connection._into_ssl, connection._from_ssl)
        with contextlib.suppress(said):
            connection._raise_ssl_error(connection._ssl, lib.SSL_read(connection._ssl, scratch, 1))
            raise ValueError("pyOpenSSL does not say what it has met")
        if lib.BIO_get_mem_data(connection._into_ssl, where) != left:
            raise ValueError("pyOpenSSL does not take what was received")
    connection._into_ssl = rest_of(connection._into_ssl)
    lib.SSL_set_bio(connection._ssl, connection._into_ssl, connection._from_ssl)
    if lib.BIO_read(connection._into_ssl, scratch, 2) != 1 or content[:1] != b"?":
        raise ValueError("pyOpenSSL does not give back what was not read")
    for name in _TWISTED_METHODS:
        if not callable(getattr(twisted, name)):
            raise TypeError(name)
    for name in _TWISTED_FLAGS:
        if getattr(twisted, name):
            raise ValueError(name)
    if not _TWISTED_STATE.issubset(twisted.makeConnection.__code__.co_names):
        raise ValueError("Twisted keeps its state elsewhere")
    return (
        lib.SSL_read,
        lib.SSL_write,
        lib.SSL_set_bio,
        lib.BIO_read,
        source,
        rest_of,
        lib.SSL_get_error,
        lib.SSL_ERROR_WANT_READ,
        ffi.from_buffer,
        scratch,
        content,
    )


try:
    (
        _SSL_read,
        _SSL_write,
        _SSL_set_bio,
        _BIO_read,
        _source,
        _rest_of,
        _SSL_get_error,
        _WANT_READ,
        _from_buffer,
        _scratch,
        _content,
    ) = inside(SSL, TLSMemoryBIOProtocol)
    _view = memoryview(_content)
    #: Whether :class:`FastTLS` is used.
    FAST_TLS = True
except Exception:
    FAST_TLS = False


def can_be_direct(connection: Any) -> bool:  # Any: private parts of Twisted
    """Whether Twisted's TCP connections keep their state where we look for it.

    :param connection: ``twisted.internet.tcp.Connection``.
    """
    try:
        return bool(
            issubclass(connection, FileDescriptor)
            and callable(connection.writeSomeData)
            and connection.dataBuffer == b""
            and connection.bufferSize == _READ
            and not connection.connected
            and {"socket", "recv", "bufferSize", "_dataReceived"}.issubset(
                connection.doRead.__code__.co_names
            )
            and not connection._writeDisconnected
            and connection.producerPaused is False
            and connection.streamingProducer is False
            and connection.producer is None
            and "_tempDataLen" in FileDescriptor.write.__code__.co_names
            and {"_tempDataLen", "dataBuffer", "producerPaused", "resumeProducing"}.issubset(
                connection.doWrite.__code__.co_names
            )
        )
    except Exception:
        return False


#: Whether :class:`FastTLS` writes to sockets without waiting for the reactor.
DIRECT = can_be_direct(tcp.Connection)


if TYPE_CHECKING:  # Twisted has no types here; Any: private parts

    class _Stock:
        transport: Any
        wrappedProtocol: Any
        disconnecting: Any
        _aborted: bool
        _appSendBuffer: list[bytes]
        _handshakeDone: bool
        _lostTLSConnection: bool
        _producer: Any
        _tlsConnection: Any

        def makeConnection(self, transport: Any) -> None: ...
        def dataReceived(self, data: bytes) -> None: ...
        def connectionLost(self, reason: Failure) -> None: ...
        def _bufferedWrite(self, octets: bytes) -> None: ...
        def _shutdownTLS(self) -> None: ...
        def _tlsShutdownFinished(self, reason: Failure | None) -> None: ...

else:
    _Stock = TLSMemoryBIOProtocol


class FastTLS(_Stock):
    """A TLS transport around one protocol.

    Bounds: 64 KiB gathered, besides what the transport and OpenSSL hold.
    """

    factory: FastTLSFactory

    _wrote = False  # in this turn
    _gathered: list[bytes]
    _gathered_bytes = 0
    _broken: Failure | None = None  # what reading has met, and is not dealt with yet
    _is_direct = False  # the transport is a socket of Twisted's that can be written to at once
    _reads = False  # and read from, without its protocol
    _is_lent = False  # OpenSSL reads from memory that is not its own
    _is_starved = True  # it has read all of it

    def makeConnection(self, transport: Any) -> None:
        self._gathered = []
        self._is_direct = DIRECT and isinstance(transport, tcp.Connection)
        super().makeConnection(transport)

    # -- what the wrapped protocol calls

    def write(self, data: bytes) -> None:
        """Send bytes; they are dropped when the connection is closing and no producer is left."""
        data = data + b""  # raises TypeError at once, and copies what could change
        if not self._takes_writes():
            return
        if not self._wrote:
            self._wrote = True
            self.factory.turn.add(self)
            self._write(data)
            return
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= _GATHERED:
            self._write_gathered()

    def write_now(self, pieces: list[bytes | memoryview]) -> None:
        """Send bytes, and whatever was gathered before, without waiting for the turn to end.

        For a caller that gathers by itself.

        :param pieces: each becomes records of its own; they may change when the call returns.
        """
        if self._takes_writes():
            self._write_gathered()
            self._write_all(pieces)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send several pieces; much is not copied together first."""
        pieces = [piece + b"" for piece in iovec]
        if sum(map(len, pieces)) < _GATHERED:
            self.write(b"".join(pieces))
        elif self._takes_writes():
            self._write_gathered()
            self._write_all(pieces)

    # -- what Twisted calls

    def dataReceived(self, data: bytes) -> None:
        if self._is_direct:
            self._fit_reads(len(data))
        if self._handshakeDone and not self._appSendBuffer:
            if self._is_direct and not self._reads:
                self._read_directly()
            self._feed(_from_buffer(data), len(data))
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

    def _write(self, data: bytes | memoryview) -> None:
        self._write_all([data])

    def _write_all(self, pieces: Sequence[bytes | memoryview]) -> None:
        if self._lostTLSConnection:
            return
        connection = self._tlsConnection
        ssl = connection._ssl
        encrypted: list[bytes] = []
        done = at = within = 0
        try:
            # Once something waits for the end of the handshake, all that follows it does.
            while done < len(pieces) and not self._appSendBuffer:
                plain = _from_buffer(pieces[done])
                size = len(plain)
                at = 0
                while at < size:
                    room = _PIECE - within
                    if at == 0 and size <= room:  # nearly always
                        sent = _SSL_write(ssl, plain, size)
                    else:
                        sent = _SSL_write(ssl, plain + at, min(size - at, room))
                    if sent <= 0:
                        connection._raise_ssl_error(ssl, sent)
                    at += sent
                    within += sent
                    if within >= _PIECE:
                        self._take_encrypted(encrypted)
                        within = 0
                done += 1
            self._take_encrypted(encrypted)
        except SSL.WantReadError:
            self._take_encrypted(encrypted)
        except SSL.Error:
            failure = self._broken or Failure()
            self._hand_over(encrypted)
            self._tlsShutdownFinished(failure)
            return
        self._hand_over(encrypted)
        for piece in pieces[done:]:
            self._bufferedWrite(bytes(piece[at:]))
            at = 0

    def _take_encrypted(self, encrypted: list[bytes]) -> None:
        """Take from OpenSSL what there is, and send it if nothing is before it.

        :param encrypted: what could not be sent yet, in order.
        """
        # There is never more than a piece, or a flight of the handshake.
        size = _BIO_read(self._tlsConnection._from_ssl, _scratch, _SCRATCH_BYTES)
        if size <= 0:
            return
        sent = 0
        if self._is_direct and not encrypted:
            sock = self.transport
            if (
                sock.connected
                and not sock.dataBuffer
                and not sock._tempDataLen
                and not sock._writeDisconnected
            ):
                result = sock.writeSomeData(_view[:size])
                if isinstance(result, int):  # else the reactor will find out
                    sent = result
        if sent < size:
            encrypted.append(_content[sent:size])

    def _hand_over(self, encrypted: list[bytes]) -> None:
        # In one call, because the transport may answer with a callback that writes.
        if not encrypted:
            return
        if len(encrypted) == 1:
            self.transport.write(encrypted[0])
        else:
            self.transport.writeSequence(encrypted)
        if self._is_direct:
            # Twisted would pause at 64 KiB; but what waits here cannot be overtaken any more.
            sock = self.transport
            if sock.producer is not None and sock.streamingProducer and not sock.producerPaused:
                sock.producerPaused = True
                sock.producer.pauseProducing()

    def _fit_reads(self, size: int) -> None:
        """Read more at a time from who sends large messages, less from who does not."""
        sock = self.transport
        room = sock.bufferSize
        if not getattr(self.wrappedProtocol, "is_bulky", False):
            # After a read of small messages somebody may want no more of them, who has to take
            # all of the next one too.
            if room > _READ:
                sock.bufferSize = _READ
        elif size == room and room < _LARGEST_READ:
            sock.bufferSize = 2 * room

    def _flushSendBIO(self) -> None:
        if self._tlsConnection is not None:  # lost while its last bytes were delivered
            encrypted: list[bytes] = []
            self._take_encrypted(encrypted)
            self._hand_over(encrypted)

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
        source = _source(start, size)
        _SSL_set_bio(connection._ssl, source, connection._from_ssl)
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
            source = _rest_of(connection._into_ssl)
            _SSL_set_bio(connection._ssl, source, connection._from_ssl)
            connection._into_ssl = source

    def _flushReceiveBIO(self) -> None:
        memory = _outputs.pop() if _outputs else _Memory(_HEADROOM + _SCRATCH_BYTES)
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
            while size < _SCRATCH_BYTES:
                result = _SSL_read(ssl, start + size, _SCRATCH_BYTES - size)
                if result <= 0:
                    break
                size += result
            closed = False
            if result <= 0:
                error = _SSL_get_error(ssl, result)
                if error == _WANT_READ:
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
