"""A peer that says exactly what its script says, in a network of well-behaved nodes::

    mallory = HostilePeer(network)
    mallory.connect(node.address)
    mallory.upgrade()
    mallory.greet(network_id="another network")
    network.settle()
    assert mallory.closed.code == 1002

It is an end of a connection and nothing more: it answers no ping, no close frame and no message by
itself. Whatever is called before the connection exists is sent as soon as it does, so that a
script needs no waiting. Everything that comes back is kept for the test to look at.

As a listener it is the same thing with the roles exchanged, and the script is a set of callbacks::

    mallory = HostilePeer(network)
    address = mallory.listen(on_request=lambda peer: peer.send(b"HTTP/1.1 404 No\\r\\n\\r\\n"))
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping
from types import EllipsisType
from typing import Any, TypeAlias, cast

import attrs
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHandshakeListener,
    IListeningPort,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dig_gossip.connection.handshake import DEFAULT_CAPABILITIES
from dig_gossip.constants import DEFAULT_P2P_PORT, PROTOCOL_VERSION
from dig_gossip.errors import ClientError
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.testing.network import MemoryNetwork
from dig_gossip.tls.identity import Identity
from dig_gossip.types.network import Network
from dig_gossip.types.peer import NodeType, PeerAddress, PeerId
from dig_gossip.wire.handshake import Handshake
from dig_gossip.wire.masking import mask
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType

#: Opcodes of WebSocket frames (RFC 6455 §11.8).
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

#: What RFC 6455 calls a close frame without a code.
NO_STATUS = 1005

Script: TypeAlias = Callable[["HostilePeer"], object]

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455 §1.3
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASKING_KEY = b"\x5a\xa5\x0f\xf0"
_END_OF_HEAD = b"\r\n\r\n"


@attrs.frozen
class Frame:
    """One WebSocket frame that came in; the payload is unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    masked: bool = False


@attrs.frozen
class Closed:
    """How the other end was done with us.

    :ivar code: of its close frame; 1005 for a close frame without a code, None for no close frame.
    :ivar reason: of its close frame.
    :ivar lost: how the transport ended, as Twisted names it; None while it is still there.
    """

    code: int | None = None
    reason: str = ""
    lost: type[BaseException] | None = None


class HostilePeer:
    """A scriptable peer at an address of its own.

    One connection at a time: a new one, dialed or accepted, starts the records anew.

    :param identity: the certificate to show; by default one of its own, None for none at all.
    :param tls: whether to speak TLS, or plain TCP.
    :param host: where it lives, by default an address that nobody has.

    :ivar received: every byte that came in, after decryption.
    :ivar http_request: (listener) the head of the upgrade request, when complete.
    :ivar http_response: (dialer) the head of the upgrade response, when complete.
    :ivar frames: every complete frame after the upgrade.
    :ivar messages: those of the frames that are whole messages.
    :ivar closed: how the connection was ended; None while nothing ended it.
    :ivar secured: whether TLS was completed, as far as we can tell.
    :ivar connections: how many connections there have been.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        *,
        identity: Identity | EllipsisType | None = ...,
        tls: bool = True,
        host: str | None = None,
    ) -> None:
        self.identity = throwaway_identity() if identity is ... else identity
        self.connections = 0
        self._reactor = network.reactor(host)
        self._tls = tls
        self._is_listener = False
        self._on_connect: Script | None = None
        self._on_request: Script | None = None
        self._on_message: Script | None = None
        self._begin()

    def _begin(self) -> None:
        self.received = bytearray()
        self.http_request: bytes | None = None
        self.http_response: bytes | None = None
        self.frames: list[Frame] = []
        self.messages: list[Message] = []
        self.closed: Closed | None = None
        self.secured = False
        self._wire: _Wire | None = None
        self._unsent: list[bytes] = []
        self._rest = bytearray()

    @property
    def host(self) -> str:
        """The address of this peer."""
        return self._reactor.host

    @property
    def peer_id(self) -> PeerId:
        """The id that its certificate proves."""
        if self.identity is None:
            raise ValueError("without a certificate there is no id")
        return self.identity.peer_id

    @property
    def is_connected(self) -> bool:
        """Whether the transport is up."""
        return self._wire is not None and (self.closed is None or self.closed.lost is None)

    # -- beginning and ending

    def connect(self, address: PeerAddress) -> None:
        """Dial a node; with ``tls`` the TLS handshake follows by itself."""
        self._is_listener = False
        self._begin()
        factory = _Factory(self)
        self._reactor.connectTCP(address.host, address.port, self._wrapped(factory, True))

    def listen(
        self,
        port: int = DEFAULT_P2P_PORT,
        *,
        on_connect: Script | None = None,
        on_request: Script | None = None,
        on_message: Script | None = None,
    ) -> PeerAddress:
        """Wait to be dialed.

        :param on_connect: called with this peer when TCP, or with ``tls`` TLS, is done.
        :param on_request: called when the upgrade request is complete.
        :param on_message: called for each message; it is the last of ``messages``.
        :returns: where.
        """
        self._is_listener = True
        self._on_connect, self._on_request, self._on_message = on_connect, on_request, on_message
        self._port: IListeningPort = self._reactor.listenTCP(
            port, self._wrapped(_Factory(self), False)
        )
        return PeerAddress(self.host, port)

    def stop_listening(self) -> None:
        """Refuse new connections."""
        self._port.stopListening()

    def drop(self) -> None:
        """Abort the connection, as a machine does that fails."""
        if self._wire is not None and self.is_connected:
            cast(Any, self._wire.transport).abortConnection()

    def hang_up(self) -> None:
        """Close the transport in good order."""
        if self._wire is not None:
            cast(Any, self._wire.transport).loseConnection()

    def stop_reading(self) -> None:
        """Leave everything where it is: in the other end's buffers."""
        if self._wire is not None:
            cast(Any, self._wire.transport).pauseProducing()

    def resume_reading(self) -> None:
        """Undo :meth:`stop_reading`."""
        if self._wire is not None:
            cast(Any, self._wire.transport).resumeProducing()

    # -- speaking

    def send(self, data: bytes) -> None:
        """Send bytes as they are (within TLS, if this peer speaks TLS)."""
        if self._wire is None:
            self._unsent.append(data)
        else:
            cast(Any, self._wire.transport).write(data)

    def upgrade(self, path: str = "/ws", extra_headers: Mapping[str, str] | None = None) -> None:
        """Ask for the WebSocket.

        :param extra_headers: added to those that are needed, or in their place.
        """
        headers = {
            "Host": "node",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": _KEY,
            "Sec-WebSocket-Version": "13",
        }
        headers.update(extra_headers or {})
        self.send(_head(f"GET {path} HTTP/1.1", headers))

    def accept_upgrade(self, extra_headers: Mapping[str, str] | None = None) -> None:
        """(Listener) Answer the upgrade request as it should be answered."""
        key = _header(self.http_request or b"", b"sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1(key + _MAGIC).digest()).decode()
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": accept,
        }
        headers.update(extra_headers or {})
        self.send(_head("HTTP/1.1 101 Switching Protocols", headers))

    def send_frame(
        self,
        payload: bytes,
        opcode: int = BINARY,
        *,
        fin: bool = True,
        masked: bool | None = None,
        rsv: int = 0,
        length_override: int | None = None,
    ) -> None:
        """Send one frame.

        :param masked: by default as RFC 6455 demands: dialers mask, listeners do not.
        :param rsv: the three reserved bits, 0..7.
        :param length_override: the length to announce instead of the payload's.
        """
        if masked is None:
            masked = not self._is_listener
        self.send(make_frame(payload, opcode, fin, masked, rsv, length_override))

    def send_message(self, message: Message) -> None:
        """Send a message as one frame."""
        self.send_frame(bytes(message))

    def send_close(self, code: int | None = None, reason: str = "") -> None:
        """Send a close frame; the transport stays up."""
        payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
        self.send_frame(payload, CLOSE)

    def greet(
        self,
        network_id: str = Network.DIG_MAINNET.handshake,
        *,
        protocol_version: str = PROTOCOL_VERSION,
        software_version: str = "hostile",
        server_port: int = 0,
        node_type: int = NodeType.FULL_NODE,
        capabilities: Iterable[int] = DEFAULT_CAPABILITIES,
    ) -> None:
        """Send a handshake; by default one that is accepted."""
        body = Handshake(
            network_id=network_id,
            protocol_version=protocol_version,
            software_version=software_version,
            server_port=server_port,
            node_type=node_type,
            capabilities=tuple((int(capability), "1") for capability in capabilities),
        )
        self.send_message(Message(ChiaMessageType.HANDSHAKE, None, bytes(body)))

    def join(self, address: PeerAddress, **greeting: Any) -> None:
        """Connect, upgrade and greet: everything up to a session.

        :param greeting: for :meth:`greet`.
        """
        self.connect(address)
        self.upgrade()
        self.greet(**greeting)

    # -- from the connection

    def _connected(self, wire: _Wire) -> None:
        if self._is_listener:
            self._begin()
        self._wire = wire
        self.connections += 1
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            self.send(data)
        if not self._tls and self._on_connect is not None and self._is_listener:
            self._on_connect(self)

    def _secured(self) -> None:
        self.secured = True
        if self._on_connect is not None and self._is_listener:
            self._on_connect(self)

    def _received(self, data: bytes) -> None:
        self.received += data
        self._rest += data
        head = self.http_request if self._is_listener else self.http_response
        if head is None and not self._take_head():
            return
        while (taken := take_frame(self._rest)) is not None:
            frame, length = taken
            del self._rest[:length]
            self._take_frame(frame)

    def _take_head(self) -> bool:
        length = self._rest.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        if length < len(_END_OF_HEAD):
            return False
        head = bytes(self._rest[:length])
        del self._rest[:length]
        if not self._is_listener:
            self.http_response = head
            return True
        self.http_request = head
        if self._on_request is not None:
            self._on_request(self)
        return True

    def _take_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        if frame.opcode == CLOSE:
            code = struct.unpack_from("!H", frame.payload)[0] if frame.payload else NO_STATUS
            self.closed = Closed(code, frame.payload[2:].decode("utf-8", "replace"))
        elif frame.opcode == BINARY and frame.fin:
            try:
                self.messages.append(Message.from_bytes(frame.payload))
            except ClientError:
                return
            if self._on_message is not None and self._is_listener:
                self._on_message(self)

    def _lost(self, reason: Failure) -> None:
        closed = self.closed or Closed()
        self.closed = attrs.evolve(closed, lost=type(reason.value or ConnectionDone()))

    def _wrapped(self, factory: ClientFactory, is_client: bool) -> Any:  # Any: either factory
        if not self._tls:
            return factory
        tls = TLSMemoryBIOFactory(
            _AnyTLS(self.identity), is_client, factory, clock=cast(Any, self._reactor)
        )
        tls.noisy = False
        return tls


def make_frame(
    payload: bytes,
    opcode: int = BINARY,
    fin: bool = True,
    masked: bool = True,
    rsv: int = 0,
    length_override: int | None = None,
) -> bytes:
    """Encode one frame, whatever RFC 6455 thinks of it.

    :param length_override: the length to announce instead of the payload's.
    """
    length = len(payload) if length_override is None else length_override
    first = (0x80 if fin else 0) | (rsv << 4) | opcode
    bit = 0x80 if masked else 0
    if length < 126:
        header = struct.pack("!BB", first, bit | length)
    elif length < 65536:
        header = struct.pack("!BBH", first, bit | 126, length)
    else:
        header = struct.pack("!BBQ", first, bit | 127, length)
    if not masked:
        return header + payload
    return header + _MASKING_KEY + mask(payload, _MASKING_KEY)


def take_frame(data: bytes | bytearray) -> tuple[Frame, int] | None:
    """Read the first frame of a stream.

    :returns: the frame and how many bytes it took; None while it is incomplete.
    """
    if len(data) < 2:
        return None
    first, second = data[0], data[1]
    length, at = second & 0x7F, 2
    for marker, layout in ((126, "!H"), (127, "!Q")):
        if length == marker:
            at = 2 + struct.calcsize(layout)
            if len(data) < at:
                return None
            (length,) = struct.unpack_from(layout, data, 2)
            break
    key = bytes(data[at : at + 4]) if second & 0x80 else b""
    end = at + len(key) + length
    if len(data) < end or (second & 0x80 and len(key) < 4):
        return None
    payload = bytes(data[end - length : end])
    if key:
        payload = mask(payload, key)
    frame = Frame(
        first & 0x0F, payload, bool(first & 0x80), (first >> 4) & 7, masked=bool(second & 0x80)
    )
    return frame, end


def _head(first_line: str, headers: Mapping[str, str]) -> bytes:
    lines = [first_line, *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("utf-8") + _END_OF_HEAD


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        field, _, value = line.partition(b":")
        if field.strip().lower() == name:
            return value.strip()
    return b""


@implementer(IHandshakeListener)
class _Wire(Protocol):
    """Tells a peer what happens to one of its connections."""

    def __init__(self, peer: HostilePeer) -> None:
        self._peer = peer

    def connectionMade(self) -> None:
        self._peer._connected(self)

    def handshakeCompleted(self) -> None:
        self._peer._secured()

    def dataReceived(self, data: bytes) -> None:
        if self._peer._wire is self:
            self._peer._received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._peer._wire is self:
            self._peer._lost(reason)


class _Factory(ClientFactory):
    noisy = False

    def __init__(self, peer: HostilePeer) -> None:
        self._peer = peer

    def buildProtocol(self, addr: IAddress | None) -> _Wire:
        return _Wire(self._peer)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._peer._lost(reason)


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class _AnyTLS:
    """TLS with whoever wants it; asks for no certificate, shows one if there is one."""

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context(SSL.TLS_SERVER_METHOD), None)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context(SSL.TLS_CLIENT_METHOD), None)

    def _context(self, method: int) -> SSL.Context:
        context = SSL.Context(method)
        if self._identity is not None:
            context.use_certificate(self._identity.certificate)
            context.use_privatekey(self._identity.private_key)
        return context
