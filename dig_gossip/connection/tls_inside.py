"""What :mod:`~dig_gossip.connection.fast_tls` uses of the inside of pyOpenSSL and Twisted.

Both are examined and tried out at import. If they are not what we know, :data:`FAST_TLS` is False,
and Twisted's own TLS transport does the work. Likewise :data:`DIRECT` says whether sockets are read
and written to without the reactor.

Source: design §5.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

#: What one delivery or one reading of ciphertext may have, bytes.
SCRATCH_BYTES: Final = 327_680

#: What Twisted reads from a socket at a time, bytes.
USUAL_READ: Final = 65_536

TWISTED_METHODS: Final = (
    "_bufferedWrite",
    "_flushReceiveBIO",
    "_flushSendBIO",
    "_shutdownTLS",
    "_tlsShutdownFinished",
    "_unbufferPendingWrites",
    "_write",
)
TWISTED_FLAGS: Final = ("_aborted", "_handshakeDone", "_lostTLSConnection", "_producer")
TWISTED_STATE: Final = {"_appSendBuffer", "_creatorCallable", "_tlsConnection"}


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
    scratch = ffi.new("char[]", SCRATCH_BYTES)
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
    hello = lib.BIO_read(connection._from_ssl, scratch, SCRATCH_BYTES)
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
    for name in TWISTED_METHODS:
        if not callable(getattr(twisted, name)):
            raise TypeError(name)
    for name in TWISTED_FLAGS:
        if getattr(twisted, name):
            raise ValueError(name)
    if not TWISTED_STATE.issubset(twisted.makeConnection.__code__.co_names):
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
        SSL_read,
        SSL_write,
        SSL_set_bio,
        BIO_read,
        source_of,
        rest_of,
        SSL_get_error,
        WANT_READ,
        from_buffer,
        scratch,
        content,
    ) = inside(SSL, TLSMemoryBIOProtocol)
    view = memoryview(content)
    #: Whether the fast class is used.
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
            and connection.bufferSize == USUAL_READ
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


#: Whether sockets are read and written to without waiting for the reactor.
DIRECT = can_be_direct(tcp.Connection)


if TYPE_CHECKING:  # Twisted has no types here; Any: private parts

    class Stock:
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
    Stock = TLSMemoryBIOProtocol
