"""Tests of :mod:`dig_gossip.tls.context`."""

from __future__ import annotations

import base64
import ssl
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.test import iosim
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from dig_gossip.errors import ClientError, ClientErrorKind
from dig_gossip.testing.certificates import chia_identity, expired_identity, throwaway_identity
from dig_gossip.tls import context as context_module
from dig_gossip.tls.context import PeerTLS, peer_id_of
from dig_gossip.tls.identity import Identity
from tests.tls.peers import (
    GREETING,
    Lenient,
    Recorder,
    StdlibPeer,
    connect,
    stdlib_context,
    stolen_pem,
    throwaway_chain,
    wrap,
)

A, B = throwaway_identity("a"), throwaway_identity("b")
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class _Case(SynchronousTestCase):
    def write_pem(self, content: bytes) -> str:
        path: str = self.mktemp()
        with open(path, "wb") as file:
            file.write(content)
        return path

    def assert_refused(self, recorder: Recorder, reason: str) -> None:
        """The connection ended in the handshake, and the application saw nothing of it."""
        self.assertEqual((recorder.handshakes, recorder.received), (0, b""))
        self.assertIsNone(recorder.peer_id)
        assert recorder.lost is not None
        self.assertIsInstance(recorder.lost.value, SSL.Error)
        self.assertIn(reason, str(recorder.lost.value))

    def assert_met(self, recorder: Recorder, peer: Identity) -> None:
        """The handshake completed with this peer, and data came through."""
        self.assertEqual((recorder.handshakes, recorder.peer_id), (1, peer.peer_id))
        self.assertEqual(recorder.received, GREETING)


class PeerTLSTests(_Case):
    """Two nodes of ours, or one and any other implementation."""

    def test_both_interfaces_are_provided(self) -> None:
        """One object serves listeners and dialers.  TLS-102-X"""
        tls = PeerTLS(A)
        verifyObject(IOpenSSLServerConnectionCreator, tls)
        verifyObject(IOpenSSLClientConnectionCreator, tls)
        self.assertIs(tls.identity, A)

    def test_both_sides_learn_each_others_id(self) -> None:
        """Each side derives the other's id from what it received, over TLS 1.3.  CON-009.1"""
        server, client, _ = connect(PeerTLS(A), PeerTLS(B))
        self.assert_met(server, B)
        self.assert_met(client, A)
        self.assertEqual(server.tls.get_protocol_version_name(), "TLSv1.3")

    def test_other_library_meets_us_over_each_version(self) -> None:
        """Python's ssl, dialing or accepting, completes TLS 1.2 and 1.3 with us.  CON-009"""
        pem = self.write_pem(B.certificate_pem + B.key_pem)
        for version in VERSIONS:
            for is_client in (True, False):
                context = stdlib_context(pem, is_client=is_client, version=version)
                if not is_client:
                    context.verify_mode = ssl.CERT_OPTIONAL  # asks, and trusts nobody
                    context.load_verify_locations(cadata=A.certificate_pem.decode())
                peer = StdlibPeer(PeerTLS(A), context, is_client=is_client)
                self.assertEqual(peer.error, None)
                self.assert_met(peer.ours, B)
                self.assertEqual(peer.received, GREETING)
                self.assertEqual(
                    peer.tls.getpeercert(True), A.certificate.public_bytes(Encoding.DER)
                )

    def test_certificates_of_every_origin_are_accepted(self) -> None:
        """Self-signed, expired and Chia-CA-signed leaves are peers, both ways.  CON-009.2"""
        for identity in (A, expired_identity(), chia_identity()):
            server, client, _ = connect(PeerTLS(identity), PeerTLS(B))
            self.assert_met(client, identity)
            self.assert_met(server, B)
            server, client, _ = connect(PeerTLS(B), PeerTLS(identity))
            self.assert_met(server, identity)
            self.assert_met(client, B)

    def test_chain_behind_the_leaf_is_accepted(self) -> None:
        """What follows the leaf in a peer's chain changes nothing.  CON-009.2"""
        server, _, _ = connect(PeerTLS(A), Lenient(B, chain=[A, B, A]))
        self.assert_met(server, B)

    def test_of_a_chain_only_the_leaf_is_examined(self) -> None:
        """Nobody makes us check a long chain of signatures that we do not care about.  CON-009.2"""
        depths: list[int] = []

        def accept(_connection: object, _cert: object, _error: int, depth: int, _ok: int) -> bool:
            depths.append(depth)
            return True

        leaf, *issuers = throwaway_chain(5)
        with mock.patch.object(context_module, "_accept", accept):
            ours = PeerTLS(A)
        server, _, _ = connect(ours, Lenient(leaf, chain=issuers))
        self.assert_met(server, leaf)
        self.assertEqual(max(depths), 1)  # where it notices that there is more

    def test_certificate_authorities_are_not_named(self) -> None:
        """No list of CAs tempts a client to withhold its certificate.  TLS-101-X"""
        _, client, _ = connect(PeerTLS(A), PeerTLS(B))
        self.assertEqual(client.tls.get_client_ca_list(), [])

    def test_names_and_protocols_are_not_sent(self) -> None:
        """A dial tells a bystander neither a name (SNI) nor a protocol (ALPN).  CON-009"""
        server, _, _ = connect(PeerTLS(A), PeerTLS(B))
        self.assertIsNone(server.tls.get_servername())
        self.assertEqual(server.tls.get_alpn_proto_negotiated(), b"")


class RefusalTests(_Case):
    """Who does not get in."""

    def test_client_without_certificate_is_refused(self) -> None:
        """No certificate, no handshake, and nothing it sent arrives.  TLS-101-X"""
        for version in VERSIONS:
            peer = StdlibPeer(PeerTLS(A), stdlib_context(None, version=version))
            self.assert_refused(peer.ours, "peer did not return a certificate")
            self.assertEqual(peer.received, b"")
            assert peer.error is not None  # in TLS 1.3 it comes after their part is done
            self.assertIn("ALERT", str(peer.error))

    def test_server_that_does_not_ask_for_ours_still_shows_its_own(self) -> None:
        """A server that wants no certificate can be dialed; its own is our concern.  CON-009"""
        context = stdlib_context(self.write_pem(B.certificate_pem + B.key_pem), is_client=False)
        self.assert_met(StdlibPeer(PeerTLS(A), context, is_client=False).ours, B)

    def test_certificate_without_its_key_is_refused(self) -> None:
        """Showing a stolen certificate proves nothing, on either side.  CON-009.2"""
        pem = self.write_pem(stolen_pem(B))
        for version in VERSIONS:
            for is_client in (True, False):
                context = stdlib_context(pem, is_client=is_client, version=version)
                peer = StdlibPeer(PeerTLS(A), context, is_client=is_client)
                self.assert_refused(peer.ours, "bad signature")

    def test_small_rsa_key_is_refused(self) -> None:
        """A key that others can compute is no identity, on either side.  CON-009.2"""
        key = rsa.generate_private_key(65537, 1024)
        certificate = (
            x509.CertificateBuilder(A.certificate.subject, A.certificate.subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(A.certificate.not_valid_before_utc)
            .not_valid_after(A.certificate.not_valid_after_utc)
            .sign(key, hashes.SHA256())
        )
        weak = Lenient(None)
        weak.context.use_certificate(certificate)
        weak.context.use_privatekey(key)
        server, _, _ = connect(PeerTLS(A), weak)
        self.assert_refused(server, "certificate verify failed")
        _, client, _ = connect(weak, PeerTLS(A))
        self.assert_refused(client, "certificate verify failed")

    def test_old_version_is_refused(self) -> None:
        """TLS 1.1 is not spoken, dialed or accepted.  CON-009"""
        old = Lenient(B, version=SSL.TLS1_1_VERSION)
        met, _, _ = connect(old, old)
        self.assert_met(met, B)  # the peer could, with another
        server, _, _ = connect(PeerTLS(A), old)
        self.assert_refused(server, "unsupported protocol")
        _, client, _ = connect(old, PeerTLS(A))
        self.assert_refused(client, "protocol version")

    def test_weak_cipher_is_refused(self) -> None:
        """Ciphers without authentication of every record, or forward secrecy, are out.  CON-009"""
        for name in (b"ECDHE-RSA-AES128-SHA256", b"AES128-GCM-SHA256"):
            weak = Lenient(
                chia_identity(), version=SSL.TLS1_2_VERSION, ciphers=name + b":@SECLEVEL=0"
            )
            met, _, _ = connect(weak, weak)
            self.assertEqual(met.tls.get_cipher_name(), name.decode())
            server, _, _ = connect(PeerTLS(chia_identity()), weak)
            self.assert_refused(server, "no shared cipher")
            _, client, _ = connect(weak, PeerTLS(chia_identity()))
            self.assert_refused(client, "handshake failure")

    def test_endless_chain_is_refused(self) -> None:
        """More than 100 KiB of certificates are refused before they are stored.  CON-009"""
        server, _, _ = connect(PeerTLS(A), Lenient(B, chain=[A] * 500))
        self.assert_refused(server, "excessive message size")

    def test_plain_text_ends_the_connection(self) -> None:
        """HTTP, WebSocket or noise in the clear gets nothing but a closed connection.  CON-009"""
        for noise in (GREETING, b"\x16\x03\x01" + b"\xff" * 600, b"\0" * 64):
            recorder, stranger = Recorder(), Protocol()
            below = wrap(PeerTLS(A), recorder, is_client=False)
            pump = iosim.connect(
                below, iosim.makeFakeServer(below), stranger, iosim.makeFakeClient(stranger)
            )
            assert stranger.transport is not None
            stranger.transport.write(noise)
            pump.flush()
            self.assert_refused(recorder, "")


class SessionTests(_Case):
    """What a finished handshake does not allow later."""

    def test_session_is_not_resumed(self) -> None:
        """A client that offers its last session gets a full handshake.  TLS-101-X"""
        pem = self.write_pem(B.certificate_pem + B.key_pem)
        for version in VERSIONS:
            tls, context = PeerTLS(A), stdlib_context(pem, version=version)
            first = StdlibPeer(tls, context)
            session = first.tls.session
            assert session is not None
            self.assertEqual(session.has_ticket, version is ssl.TLSVersion.TLSv1_3)
            again = StdlibPeer(tls, context, session=session)
            self.assertEqual(again.error, None)
            self.assertFalse(again.tls.session_reused)
            self.assert_met(again.ours, B)

    def test_we_offer_no_session(self) -> None:
        """A second dial is a full handshake even where the server would resume.  TLS-101-X"""
        pem = self.write_pem(B.certificate_pem + B.key_pem)
        for version in VERSIONS:
            tls, context = PeerTLS(A), stdlib_context(pem, is_client=False, version=version)
            for _ in range(2):
                peer = StdlibPeer(tls, context, is_client=False)
                self.assertFalse(peer.tls.session_reused)
                self.assert_met(peer.ours, B)

    def test_renegotiation_is_refused(self) -> None:
        """A server cannot draw us into a second handshake under TLS 1.2.  CON-009.1"""
        hostile = Lenient(B, version=SSL.TLS1_2_VERSION)
        for dialer, outcome in ((Lenient(A), "None"), (PeerTLS(A), "no renegotiation")):
            server, client, pump = connect(hostile, dialer)
            self.assert_met(client, B)
            self.assertTrue(server.tls.renegotiate())
            for recorder in (server, client):  # whatever is sent next carries the request along
                assert recorder.transport is not None
                recorder.transport.write(b"!")
                pump.flush()
            self.assertIn(outcome, str(server.lost and server.lost.value))


class PeerIdOfTests(_Case):
    """Reading the id from a connection."""

    def assert_tls_error(self, outcome: object, text: str) -> None:
        assert isinstance(outcome, ClientError)
        self.assertEqual(outcome.kind, ClientErrorKind.TLS)
        self.assertIn(text, str(outcome))

    def test_before_the_handshake_is_an_error(self) -> None:
        """No id is given before the peer has proved its key.  CON-009.2"""
        server, client, _ = connect(PeerTLS(A), PeerTLS(B))
        for recorder in (server, client):
            self.assert_tls_error(recorder.early_peer_id, "no completed handshake")

    def test_halfway_through_the_handshake_is_an_error(self) -> None:
        """A certificate that is here but not yet proved gives no id.  CON-009.2"""
        # In TLS 1.2 the server's certificate is known long before its Finished.
        server = SSL.Connection(Lenient(B, version=SSL.TLS1_2_VERSION).context, None)
        client = PeerTLS(A).clientConnectionForTLS(wrap(PeerTLS(A), Recorder(), is_client=True))
        server.set_accept_state()
        client.set_connect_state()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        server.bio_write(client.bio_read(65_536))
        self.assertRaises(SSL.WantReadError, server.do_handshake)
        client.bio_write(server.bio_read(65_536))
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        self.assertIsNotNone(client.get_peer_certificate(as_cryptography=True))
        self.assert_tls_error(self.assertRaises(ClientError, peer_id_of, client), "no completed")

    def test_after_the_loss_is_an_error(self) -> None:
        """A lost connection has no id to give any more.  TLS-103-X"""
        server, client, pump = connect(PeerTLS(A), PeerTLS(B))
        assert client.transport is not None
        client.transport.loseConnection()
        pump.flush()
        self.assertIsNotNone(server.lost)
        self.assert_tls_error(server.ask(), "no completed handshake")

    def test_connection_of_pyopenssl_is_accepted(self) -> None:
        """The id can be read from the connection below the transport too.  CON-009.1"""
        server, _, _ = connect(PeerTLS(A), PeerTLS(B))
        self.assertEqual(peer_id_of(server.tls), B.peer_id)

    def test_peer_without_certificate_is_an_error(self) -> None:
        """Where a handshake without certificate was possible, there is still no id.  TLS-103-X"""
        server, _, _ = connect(Lenient(A), Lenient(None))
        self.assertEqual(server.handshakes, 1)
        self.assert_tls_error(server.peer_id, "showed no certificate")

    def test_transport_without_tls_is_an_error(self) -> None:
        """A plain connection has no id.  TLS-103-X"""
        transport = iosim.FakeTransport(Protocol(), isServer=True)
        self.assert_tls_error(self.assertRaises(ClientError, peer_id_of, transport), "no completed")

    def test_certificate_that_cannot_be_parsed_is_an_error(self) -> None:
        """A certificate of a version that does not exist yields no id.  CON-009.1"""
        der = B.certificate.public_bytes(Encoding.DER)
        strange = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"))
        self.assertNotEqual(strange, der)
        pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n%s" % (
            base64.encodebytes(strange),
            B.key_pem,
        )
        peer = StdlibPeer(PeerTLS(A), stdlib_context(self.write_pem(pem)))
        self.assertEqual(peer.ours.handshakes, 1)  # OpenSSL does not mind
        self.assert_tls_error(peer.ours.peer_id, "not a certificate")


class LoopbackTests(TestCase):
    """The same over real sockets."""

    timeout = 30

    async def test_both_sides_learn_each_others_id(self) -> None:
        """Two nodes meet through the operating system.  CON-009"""
        from twisted.internet import reactor

        accepted, dialed = Recorder(), Recorder()
        listening = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        factory = Factory()
        factory.protocol = lambda: accepted
        port = await listening.listen(TLSMemoryBIOFactory(PeerTLS(A), False, factory))
        self.addCleanup(port.stopListening)
        dialing = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        client = Factory()
        client.protocol = lambda: dialed
        await dialing.connect(TLSMemoryBIOFactory(PeerTLS(chia_identity()), True, client))
        await accepted.when_received
        await dialed.when_received
        self.assertEqual(accepted.peer_id, chia_identity().peer_id)
        self.assertEqual(dialed.peer_id, A.peer_id)
        assert dialed.transport is not None
        dialed.transport.loseConnection()
        await accepted.when_lost
        await dialed.when_lost
