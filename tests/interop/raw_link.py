"""Messages, certificates and WebSocket frames of ``raw_client``, packed by hand.

Nothing here comes from the package under test: ``struct``, ``ssl``, ``socket`` and a certificate
made with ``cryptography``.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import os
import select
import socket
import ssl
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HANDSHAKE, NEW_PEAK, RESPOND_BLOCKS, MEMPOOL, REQUEST_PEERS, RESPOND_PEERS = 1, 20, 30, 39, 43, 44
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""What RFC 6455 1.3 appends to the key of the opening request."""


class Unexpected(Exception):
    """The node did something that ends the conversation; the text says what."""


class Target(NamedTuple):
    """Whom to talk to, and how.

    ``certificate`` and ``key`` are PEM files; without them each connection makes an identity of
    its own. ``timeout`` is in seconds, for any one step.
    """

    host: str
    port: int
    network: str
    node_type: int
    timeout: float
    certificate: Path | None = None
    key: Path | None = None


class Message(NamedTuple):
    """One decoded envelope."""

    type: int
    id: int | None
    data: bytes


def pack_message(kind: int, ident: int | None = None, data: bytes = b"") -> bytes:
    """Encode an envelope: type, optional id, length-prefixed data."""
    tag = b"\0" if ident is None else struct.pack("!BH", 1, ident)
    return struct.pack("!B", kind) + tag + struct.pack("!I", len(data)) + data


def unpack_message(raw: bytes) -> Message:
    """Decode an envelope; every byte must be accounted for."""
    try:
        kind, tag = raw[0], raw[1]
        ident = struct.unpack_from("!H", raw, 2)[0] if tag else None
        start = 4 if tag else 2
        (length,) = struct.unpack_from("!I", raw, start)
    except (IndexError, struct.error) as error:
        raise Unexpected(f"malformed message {raw[:32].hex()}") from error
    data = raw[start + 4 :]
    if tag > 1 or len(data) != length:
        raise Unexpected(f"malformed message {raw[:32].hex()}")
    return Message(kind, ident, data)


def pack_text(text: str) -> bytes:
    """Encode a string: length, UTF-8."""
    raw = text.encode()
    return struct.pack("!I", len(raw)) + raw


def pack_handshake(network: str, node_type: int) -> bytes:
    """Encode a greeting that advertises capabilities 1, 2 and 3 and no listening port."""
    capabilities = ((1, "1"), (2, "1"), (3, "1"))
    body = pack_text(network) + pack_text("0.0.37") + pack_text("raw-client/1")
    body += struct.pack("!HBI", 0, node_type, len(capabilities))
    for code, value in capabilities:
        body += struct.pack("!H", code) + pack_text(value)
    return pack_message(HANDSHAKE, None, body)


class Reader:
    """Take fields off the front of a body."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """Read so many bytes."""
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise Unexpected("truncated body")
        self._at += count
        return piece

    def number(self, size: int) -> int:
        """Read an unsigned big-endian integer."""
        return int.from_bytes(self.take(size), "big")

    def text(self) -> str:
        """Read a string."""
        return self.take(self.number(4)).decode()


def describe_handshake(data: bytes) -> dict[str, object]:
    """Decode the fields of a greeting."""
    body = Reader(data)
    return {
        "network_id": body.text(),
        "protocol_version": body.text(),
        "software_version": body.text(),
        "server_port": body.number(2),
        "node_type": body.number(1),
        "capabilities": [[body.number(2), body.text()] for _ in range(body.number(4))],
    }


def describe_peers(data: bytes) -> list[dict[str, object]]:
    """Decode the rows of a list of peers."""
    body = Reader(data)
    return [
        {"host": body.text(), "port": body.number(2), "timestamp": body.number(8)}
        for _ in range(body.number(4))
    ]


def make_certificate() -> tuple[bytes, bytes]:
    """Make a self-signed P-256 certificate; return it and its key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem), secret


def tls_context(target: Target) -> ssl.SSLContext:
    """A context that presents a certificate and accepts any; identity is the key alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if target.certificate is not None:
        context.load_cert_chain(target.certificate, target.key)
        return context
    with tempfile.TemporaryDirectory(prefix="raw-client-") as folder:
        files = Path(folder, "cert.pem"), Path(folder, "key.pem")
        for path, content in zip(files, make_certificate(), strict=True):
            path.write_bytes(content)
        context.load_cert_chain(*files)
    return context


def spki_id(certificate: bytes) -> str:
    """SHA-256 of the public key's DER, in hex: what the node calls its PeerId."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


class Frame(NamedTuple):
    """One frame received."""

    fin: bool
    opcode: int
    payload: bytes


def build_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"",
    form: int | None = None,
    declared: int | None = None,
) -> bytes:
    """Build a client frame, as wrong as asked.

    :param rsv: the three reserved bits, 0..7.
    :param mask: four bytes; empty for a random key, None for an unmasked frame.
    :param form: 7, 16 or 64 bits for the length; None for the shortest that fits.
    :param declared: length written into the header, if not the payload's own.
    """
    length = len(payload) if declared is None else declared
    if form is None:
        form = 7 if length < 126 else 16 if length < 65536 else 64
    flag = 0 if mask is None else 0x80
    head = struct.pack("!B", fin << 7 | rsv << 4 | opcode)
    if form == 7:
        head += struct.pack("!B", flag | length)
    elif form == 16:
        head += struct.pack("!BH", flag | 126, length)
    else:
        head += struct.pack("!BQ", flag | 127, length)
    if mask is None:
        return head + payload
    key = mask or os.urandom(4)
    stream = (key * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")
    return head + key + masked.to_bytes(len(payload), "big")


class Link:
    """One TLS connection to the node and the frames on it.

    :param number: picks the loopback address that the connection comes from.
    """

    def __init__(self, target: Target, number: int) -> None:
        self._target = target
        self._buffer = b""
        self._answer = 0
        source = None
        if target.host == "127.0.0.1" and sys.platform == "linux":
            source = (f"127.9.{number >> 8}.{number & 255}", 0)
        plain = socket.create_connection((target.host, target.port), target.timeout, source)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = tls_context(target).wrap_socket(plain)

    def close(self) -> None:
        """Drop the connection."""
        self._socket.close()

    def upgrade(self, path: str = "/ws", *extra: str) -> tuple[int, dict[str, str]]:
        """Ask for a WebSocket; return the status and the headers of the answer."""
        key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {self._target.host}:{self._target.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
            *extra,
        ]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        end = self.patience()
        while b"\r\n\r\n" not in self._buffer:
            self._fill(end)
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        first, *rest = head.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in rest)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        status = int(first.split()[1])
        accept = base64.b64encode(hashlib.sha1(key + ACCEPT_GUID).digest()).decode()
        if status == 101 and headers.get("sec-websocket-accept") != accept:
            raise Unexpected("wrong Sec-WebSocket-Accept")
        return status, headers

    def greet(self) -> None:
        """Exchange handshakes."""
        self.send(build_frame(BINARY, pack_handshake(self._target.network, self._target.node_type)))
        answer = self.message()
        if answer.type != HANDSHAKE:
            raise Unexpected(f"first message has type {answer.type}")

    def send(self, data: bytes) -> None:
        """Send bytes; a connection that the node has dropped shows when reading."""
        try:
            self._socket.sendall(data)
        except (ConnectionError, ssl.SSLError):
            pass

    def readable(self) -> bool:
        """Tell whether the node has sent something that is not read yet."""
        if self._buffer or self._socket.pending():
            return True
        return bool(select.select([self._socket], [], [], 0)[0])

    def patience(self) -> float:
        """The moment at which to stop waiting for something that begins now."""
        return time.monotonic() + self._target.timeout

    def frame(self, end: float) -> Frame:
        """Read one frame, which must be well formed.

        :raises Unexpected: none came in time, the connection ended, or it is malformed.
        """
        first, second = self._take(2, end)
        length = second & 127
        if length > 125:
            length = int.from_bytes(self._take(2 if length == 126 else 8, end), "big")
        if second & 128:
            raise Unexpected("masked server frame")
        if first & 0x70 or first & 15 not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Unexpected(f"server frame begins with {first:#04x}")
        return Frame(bool(first & 128), first & 15, self._take(length, end))

    def until(self, *opcodes: int, end: float | None = None) -> Frame:
        """Read to the first frame of these opcodes, answering pings on the way."""
        end = self.patience() if end is None else end
        while True:
            frame = self.frame(end)
            if frame.opcode in opcodes:
                return frame
            if frame.opcode == CLOSE:
                raise Unexpected(self._goodbye(frame))
            if frame.opcode == PING:
                self.send(build_frame(PONG, frame.payload))

    def message(self, end: float | None = None) -> Message:
        """Read the next message."""
        frame = self.until(BINARY, end=end)
        if not frame.fin:
            raise Unexpected("fragmented answer")
        return unpack_message(frame.payload)

    def question(self) -> bytes:
        """A request for peers with an id of its own."""
        self._answer += 1
        return pack_message(REQUEST_PEERS, self._answer)

    def answered(self) -> str:
        """Wait for the answer to the latest question; say ``answered`` or what came instead."""
        end = self.patience()
        try:
            while True:
                message = self.message(end)
                if (message.type, message.id) == (RESPOND_PEERS, self._answer):
                    return "answered"
        except Unexpected as what:
            return str(what)

    def alive(self) -> str:
        """Ask an honest question; say ``open`` if it is answered, or what came instead."""
        self.send(build_frame(BINARY, self.question()))
        outcome = self.answered()
        return "open" if outcome == "answered" else outcome

    def ending(self) -> str:
        """Wait for the end; say ``closed CODE``, ``closed`` (no code), ``dropped`` or ``open``."""
        try:
            return self._goodbye(self.until(CLOSE))
        except Unexpected as what:
            return "open" if str(what) == "silence" else str(what)

    def _goodbye(self, frame: Frame) -> str:
        """Answer a close frame and wait for the node to close the socket, as RFC 6455 7.1.1."""
        code = int.from_bytes(frame.payload[:2], "big") if frame.payload else None
        outcome = "closed" if code is None else f"closed {code}"
        self.send(build_frame(CLOSE, frame.payload[:2]))
        end = self.patience()
        try:
            while True:
                self._fill(end)
        except Unexpected as what:
            return outcome if str(what) == "dropped" else f"{outcome}, socket left open"

    def _take(self, count: int, end: float) -> bytes:
        while len(self._buffer) < count:
            self._fill(end)
        piece, self._buffer = self._buffer[:count], self._buffer[count:]
        return piece

    def _fill(self, end: float) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise Unexpected("silence")
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(65536)
        except TimeoutError as error:
            raise Unexpected("silence") from error
        except (ConnectionError, ssl.SSLError) as error:
            raise Unexpected("dropped") from error
        if not data:
            raise Unexpected("dropped")
        self._buffer += data
