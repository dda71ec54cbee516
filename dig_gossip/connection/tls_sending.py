"""The sending half of TLS with fewer and larger steps than Twisted's.

* a write of any size is encrypted in one go and handed to the transport in one call;
* the first write of a reactor turn leaves at once; what else is written in that turn leaves
  together when the turn is over, or as soon as it is 64 KiB. One timer serves all connections;
* what is encrypted goes to the socket in the same breath, as long as that takes it. Twisted would
  keep it until the next turn, with two calls to the reactor and another copy. As soon as the socket
  does not take everything, the rest is Twisted's as ever, and the producer pauses until it is gone.

Source: design §5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from dig_gossip.connection.tls_inside import DIRECT, FAST_TLS, SCRATCH_BYTES, Stock

if FAST_TLS:
    from dig_gossip.connection.tls_inside import (
        BIO_read,
        SSL_write,
        content,
        from_buffer,
        scratch,
        view,
    )

if TYPE_CHECKING:
    from dig_gossip.connection.fast_tls import FastTLSFactory

#: Plaintext that is encrypted before its records are taken out of OpenSSL's memory, bytes. OpenSSL
#: never gives such memory back before the connection ends. Three chunks with their headers.
_PIECE: Final = 98_560

#: What may be gathered in one turn before it is written, bytes.
_GATHERED: Final = 65_536


class SendingTLS(Stock):
    """The half of a TLS transport that encrypts.

    Bounds: 64 KiB gathered, besides what the transport and OpenSSL hold.
    """

    factory: FastTLSFactory

    _wrote = False  # in this turn
    _gathered: list[bytes]
    _gathered_bytes = 0
    _broken: Failure | None = None  # what reading has met, and is not dealt with yet
    _is_direct = False  # the transport is a socket of Twisted's that can be written to at once

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
                plain = from_buffer(pieces[done])
                size = len(plain)
                at = 0
                while at < size:
                    room = _PIECE - within
                    if at == 0 and size <= room:  # nearly always
                        sent = SSL_write(ssl, plain, size)
                    else:
                        sent = SSL_write(ssl, plain + at, min(size - at, room))
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
        size = BIO_read(self._tlsConnection._from_ssl, scratch, SCRATCH_BYTES)
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
                result = sock.writeSomeData(view[:size])
                if isinstance(result, int):  # else the reactor will find out
                    sent = result
        if sent < size:
            encrypted.append(content[sent:size])

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

    def _flushSendBIO(self) -> None:
        if self._tlsConnection is not None:  # lost while its last bytes were delivered
            encrypted: list[bytes] = []
            self._take_encrypted(encrypted)
            self._hand_over(encrypted)
