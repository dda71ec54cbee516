"""The other end of a TLS connection: well-behaved, hostile, or simply another library."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from OpenSSL import SSL
from twisted.internet import interfaces
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.test import iosim
from zope.interface import implementer

from dig_gossip.errors import ClientError
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.tls.context import peer_id_of
from dig_gossip.tls.identity import Identity
from dig_gossip.types.peer import PeerId

#: What a recorder's peer sends as soon as it believes the handshake to be complete.
GREETING = b"GET /ws HTTP/1.1\r\n\r\n"


@implementer(interfaces.IHandshakeListener)
class Recorder(Protocol):
    """The application's side of one connection: notes what happens, sends one greeting."""

    def __init__(self) -> None:
        self.peer_id: PeerId | ClientError | None = None
        self.early_peer_id: PeerId | ClientError | None = None
        self.handshakes = 0
        self.received = b""
        self.lost: Failure | None = None
        self.when_lost: Deferred[None] = Deferred()  # no canceller: the connection ends by itself
        self.when_received: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.early_peer_id = self.ask()

    def handshakeCompleted(self) -> None:
        self.handshakes += 1
        self.peer_id = self.ask()
        assert self.transport is not None
        self.transport.write(GREETING)

    def ask(self) -> PeerId | ClientError:
        try:
            return peer_id_of(self.transport)
        except ClientError as error:
            return error

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if not self.when_received.called:
            self.when_received.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.when_lost.callback(None)

    @property
    def tls(self) -> SSL.Connection:
        """The connection below, as pyOpenSSL knows it."""
        assert isinstance(self.transport, TLSMemoryBIOProtocol)
        return self.transport.getHandle()


def wrap(creator: Any, recorder: Recorder, *, is_client: bool) -> TLSMemoryBIOProtocol:
    """Put TLS under a recorder, as a listener or a dialer would.

    :param creator: a connection creator of either interface (Twisted's union has no name).
    """
    factory = TLSMemoryBIOFactory(creator, is_client, Factory.forProtocol(Recorder), Clock())
    factory.protocol = TLSMemoryBIOProtocol  # writes at once, so that no clock must be moved
    return TLSMemoryBIOProtocol(factory, recorder)


def connect(server: Any, client: Any) -> tuple[Recorder, Recorder, iosim.IOPump]:
    """Let two connection creators meet in memory until neither has anything to say."""
    ours, theirs = Recorder(), Recorder()
    below_server = wrap(server, ours, is_client=False)
    below_client = wrap(client, theirs, is_client=True)
    pump = iosim.connect(
        below_server,
        iosim.makeFakeServer(below_server),
        below_client,
        iosim.makeFakeClient(below_client),
    )
    pump.flush()
    return ours, theirs, pump


@implementer(interfaces.IOpenSSLServerConnectionCreator, interfaces.IOpenSSLClientConnectionCreator)
class Lenient:
    """A creator without any of our rules, for a peer that keeps none.

    :param identity: what to show; None for nothing.
    :param version: the only version spoken; None for all.
    :param chain: whose certificates follow.
    """

    def __init__(
        self,
        identity: Identity | None,
        *,
        version: int | None = None,
        ciphers: bytes = b"ALL:@SECLEVEL=0",
        chain: Sequence[Identity] = (),
    ) -> None:
        self.context = context = SSL.Context(SSL.TLS_METHOD)
        context.set_cipher_list(ciphers)
        if version is not None:
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
        if identity is not None:
            context.use_certificate(identity.certificate)
            context.use_privatekey(identity.private_key)
            for issuer in chain:
                context.add_extra_chain_cert(issuer.certificate)
        context.set_verify(SSL.VERIFY_PEER, lambda *_args: True)
        context.set_session_id(b"lenient")  # without it OpenSSL fails where it should resume

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self.context, None)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self.context, None)


class StdlibPeer:
    """The standard library's TLS at the other end of a connection of ours.

    :param creator: makes our side.
    :param context: theirs.
    :param is_client: whether they dial.
    """

    def __init__(
        self,
        creator: Any,
        context: ssl.SSLContext,
        *,
        is_client: bool = True,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.ours = Recorder()
        self.received = b""
        self.error: ssl.SSLError | None = None
        self._from_us, self._to_us = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._from_us, self._to_us, server_side=not is_client, session=session
        )
        self._protocol = wrap(creator, self.ours, is_client=not is_client)
        self._transport = StringTransport()
        self._protocol.makeConnection(self._transport)
        self._greeted = False
        while self._step():
            pass
        if self._transport.disconnecting:
            self._protocol.connectionLost(Failure(ConnectionDone()))

    def _step(self) -> bool:
        """Move bytes once; False when none moved."""
        if self.error is None:
            try:
                self.tls.do_handshake()
                if not self._greeted:
                    self._greeted = True
                    self.tls.write(GREETING)
                self.received += self.tls.read(65_536)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self.error = error
        to_us, from_us = self._to_us.read(), self._transport.value()
        self._transport.clear()
        self._from_us.write(from_us)
        if to_us and not self._transport.disconnecting:
            self._protocol.dataReceived(to_us)
        return bool(to_us or from_us)


def stdlib_context(
    pem_path: str | None,
    *,
    is_client: bool = True,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """A context of the standard library that speaks one version and trusts everybody.

    :param pem_path: a file with certificate and key to show; None for none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if is_client else ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if pem_path is not None:
        context.load_cert_chain(pem_path)
    return context


def stolen_pem(victim: Identity) -> bytes:
    """The victim's certificate with a key file that claims, wrongly, to hold its key.

    The file has the victim's public point beside another private scalar; OpenSSL compares only
    the public halves when it loads a pair.
    """
    assert isinstance(victim.private_key, ec.EllipticCurvePrivateKey)
    own = ec.generate_private_key(victim.private_key.curve)
    own_point, victims_point = (
        key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for key in (own, victim.private_key)
    )
    der = own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    der = der.replace(own_point, victims_point)
    return victim.certificate_pem + (
        b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"
    )


def throwaway_chain(length: int) -> list[Identity]:
    """A leaf, its issuer, the issuer's issuer and so on; each signature is right."""
    chain = [throwaway_identity("root")]
    while len(chain) < length:
        issuer = chain[0]
        key = ec.generate_private_key(ec.SECP256R1())
        assert isinstance(issuer.private_key, ec.EllipticCurvePrivateKey)
        name = x509.NameAttribute(x509.NameOID.COMMON_NAME, f"issued {len(chain)}")
        certificate = (
            x509.CertificateBuilder(issuer.certificate.subject, x509.Name([name]))
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(issuer.certificate.not_valid_before_utc)
            .not_valid_after(issuer.certificate.not_valid_after_utc)
            .sign(issuer.private_key, hashes.SHA256())
        )
        chain.insert(0, Identity(certificate, key))
    return chain
