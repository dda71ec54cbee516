"""Mutual TLS in which the key is the identity.

Every certificate is welcome, whoever signed it and whatever it says, because sessions are with a
key and not with a name. What TLS itself proves is all that counts: the other end holds the private
half of the key in the certificate it showed.

What the settings do, and against what:

========================  ==========================================================================
TLS 1.2 and 1.3, AEAD     nothing weaker can be negotiated; Chia listeners insist on 1.3
certificate required      a peer without one fails in the handshake, before any WebSocket byte
no resumption             a resumed session shows no certificate (no tickets, no session cache)
no renegotiation          the identity of a session cannot change, nor a peer make us sign for ever
security level 2          RSA below 2048 bits and curves below 224 bits prove nothing: refused
chain depth 0             of a chain only the leaf is looked at; OpenSSL refuses more than 100 KiB
no SNI, ALPN, CA names    nothing to tell nodes apart by; a CA list makes clients withhold theirs
========================  ==========================================================================

pyOpenSSL has no call for the number of TLS 1.3 tickets, so a server still sends its two. They name
a session that was never stored, and whoever offers one gets a full handshake.

Divergence: wire §1.1 takes the library's cipher list; ours is its AEAD part, which is what rustls
and every Chia node offer too.

Source: behaviour CON-009, CON-009.2, TLS-101-X, wire §1.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from dig_gossip.errors import ClientError, ClientErrorKind
from dig_gossip.tls.identity import Identity, peer_id_from_certificate
from dig_gossip.types.peer import PeerId

if TYPE_CHECKING:
    from twisted.protocols.tls import TLSMemoryBIOProtocol

#: For TLS 1.2; the suites of TLS 1.3 are all AEAD with forward secrecy. No order is forced on
#: clients: they know whether their processor prefers AES or ChaCha20.
_TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"

_OPTIONS = SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION

#: OpenSSL's SSL_MODE_ENABLE_PARTIAL_WRITE, which pyOpenSSL sets. It is of use to sockets only.
_PARTIAL_WRITE = 1

#: OpenSSL's X509_V_ERR_EE_KEY_TOO_SMALL.
_KEY_TOO_SMALL = 66

#: What OpenSSL calls the state in which both sides have proved and confirmed everything.
_ESTABLISHED = b"SSL negotiation finished successfully"


def _accept(
    _connection: SSL.Connection, _certificate: object, error: int, _depth: int, _ok: int
) -> bool:
    """Accept any certificate about a key that only its holder can use.

    Called by OpenSSL for each complaint about the chain. That the peer holds the key is checked
    elsewhere in the handshake, and no callback can waive it.
    """
    return error != _KEY_TOO_SMALL


def _context(method: int, identity: Identity, *, is_mutual: bool = True) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_options(_OPTIONS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # 32 KiB less for every idle connection
    context.clear_mode(_PARTIAL_WRITE)  # else one call would encrypt one record
    required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if is_mutual else 0
    context.set_verify(SSL.VERIFY_PEER | required, _accept)
    context.set_verify_depth(0)
    context.use_certificate(identity.certificate)
    context.use_privatekey(identity.private_key)
    return context


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class PeerTLS:
    """Make the TLS side of peer connections, accepted and dialed, for one identity.

    For ``TLSMemoryBIOFactory`` and everything else in Twisted that takes a connection creator.
    The two contexts are made once and shared by all connections. Everything in a node that speaks
    TLS has the same ``PeerTLS``, so that all take another identity at once (TLS-102-X).

    :param identity: shown to every peer.
    :param is_mutual: whether who connects to us has to show a certificate, too. Peers have to; at
        a relay it is a matter of configuration.
    """

    def __init__(self, identity: Identity, *, is_mutual: bool = True) -> None:
        self._is_mutual = is_mutual
        self.become(identity)

    def become(self, identity: Identity) -> None:
        """Show another identity from the next connection on; those that exist are not touched."""
        self._server = _context(SSL.TLS_SERVER_METHOD, identity, is_mutual=self._is_mutual)
        self._client = _context(SSL.TLS_CLIENT_METHOD, identity)
        self.identity = identity

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Start the TLS side of an accepted connection."""
        return SSL.Connection(self._server, None)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Start the TLS side of a dialed connection."""
        return SSL.Connection(self._client, None)


def peer_id_of(transport: Any) -> PeerId:  # Any: no interface of Twisted's names getHandle's result
    """Read who the other end has proved to be.

    Call it once, in ``handshakeCompleted``, and keep the answer: before there is no proof, and
    after the loss of the connection there is no TLS to ask. On a client of TLS 1.3 the handshake
    completes before the server has judged the client's certificate.

    :param transport: a Twisted TLS transport, or a ``Connection`` of pyOpenSSL.
    :raises ClientError: kind ``TLS``, the handshake is not complete, the connection is over, or
        the certificate cannot be parsed. There is no other way to an id.
    Source: behaviour CON-009.1, TLS-103-X.
    """
    connection = transport
    if not isinstance(connection, SSL.Connection):
        connection = getattr(transport, "getHandle", lambda: None)()
    if not isinstance(connection, SSL.Connection) or connection.get_state_string() != _ESTABLISHED:
        raise ClientError(ClientErrorKind.TLS, "no completed handshake")
    try:
        certificate = connection.get_peer_certificate(as_cryptography=True)
    except Exception as exc:  # OpenSSL reads some certificates that cryptography does not
        raise ClientError(ClientErrorKind.TLS, f"not a certificate: {exc}") from exc
    if certificate is None:
        raise ClientError(ClientErrorKind.TLS, "the peer showed no certificate")
    return peer_id_from_certificate(certificate)
