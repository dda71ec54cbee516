"""DNS over HTTPS against a real web server on loopback."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import dnslib
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as global_reactor
from twisted.internet import ssl
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.trial.unittest import TestCase
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from dig_gossip.discovery.dns_https import HttpsLookup
from dig_gossip.errors import DiscoveryError
from dig_gossip.util.clock import Clock
from tests.discovery.dns_server import Behavior, code, zone

reactor: Any = global_reactor


def self_signed() -> ssl.PrivateCertificate:
    """A certificate for localhost that its own issuer vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both: ssl.PrivateCertificate = ssl.PrivateCertificate.loadPEM(
        private + certificate.public_bytes(pem)
    )
    return both


class DnsResource(Resource):
    """Answers DNS questions; some names are answered by the web server's worse side."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, Behavior] = {}
        self.pages: dict[str, Callable[[Any], Any]] = {}
        self.requests: list[Any] = []

    def render_POST(self, request: Any) -> Any:
        self.requests.append(request)
        question = dnslib.DNSRecord.parse(request.content.read())
        name = str(question.q.qname).rstrip(".")
        request.setHeader("content-type", request.getHeader("accept"))
        if name in self.pages:
            return self.pages[name](request)
        answer = self.names[name](question, "https")
        assert isinstance(answer, dnslib.DNSRecord)
        return bytes(answer.pack())


class HttpsTests(TestCase):
    """RFC 8484 with treq."""

    timeout = 30

    def setUp(self) -> None:
        self.resource = DnsResource()
        self.site = Site(self.resource)
        self.clock = Clock(reactor)

    def listen(self, *, tls: bool = False) -> str:
        """Start the server; return its URL."""
        if tls:
            self.certificate = self_signed()
            port = reactor.listenSSL(
                0, self.site, self.certificate.options(), interface="127.0.0.1"
            )
        else:
            port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        host = "localhost" if tls else "127.0.0.1"
        return f"http{'s' if tls else ''}://{host}:{port.getHost().port}/dns-query"

    async def test_questions_and_answers_are_those_of_dns(self) -> None:
        """POST of the wire format, both families, CNAMEs.  DSC-003, RFC 8484"""
        self.resource.names["seed.test"] = zone(
            "seed.test 60 CNAME real.test",
            "real.test 60 A 192.0.2.1",
            "real.test 60 AAAA 2001:db8::1",
        )
        lookup = HttpsLookup(self.clock, self.listen())
        self.assertEqual(await lookup.addresses("seed.test"), ["2001:db8::1", "192.0.2.1"])
        self.assertEqual(len(self.resource.requests), 2)
        request = self.resource.requests[0]
        self.assertEqual(request.getHeader("content-type"), "application/dns-message")
        self.assertIsNone(request.getHeader("cookie"))

    async def test_tls_is_verified(self) -> None:
        """A certificate that nobody vouches for ends the look-up.  DSC-003"""
        url = self.listen(tls=True)
        self.resource.names["seed.test"] = zone("seed.test 60 A 192.0.2.1")
        with self.assertRaises(DiscoveryError):
            await HttpsLookup(self.clock, url).addresses("seed.test")
        self.assertEqual(self.resource.requests, [])
        root = ssl.Certificate(self.certificate.original)
        policy = BrowserLikePolicyForHTTPS(trustRoot=root)
        lookup = HttpsLookup(self.clock, url, policy=policy)
        self.assertEqual(await lookup.addresses("seed.test"), ["192.0.2.1"])

    async def test_it_goes_where_a_proxy_takes_it(self) -> None:
        """The connections are made by whoever is given.  PRV-010.1"""
        made = []

        @implementer(IAgentEndpointFactory)
        class Proxy:
            def endpointForURI(self, uri: Any) -> Any:
                made.append((uri.host, uri.port))
                return TCP4ClientEndpoint(reactor, "127.0.0.1", port)

        port = int(self.listen().rpartition(":")[2].partition("/")[0])
        self.resource.names["seed.test"] = zone("seed.test 60 A 192.0.2.1")
        lookup = HttpsLookup(self.clock, "http://dns.invalid:81/q", endpoints=Proxy())
        self.assertEqual(await lookup.addresses("seed.test"), ["192.0.2.1"])
        self.assertEqual(made, [(b"dns.invalid", 81)] * 2)

    async def test_what_is_no_answer_is_a_failure(self) -> None:
        """A status, a redirect, a page, a broken body, an error of DNS.  DSC-003"""

        def redirect(request: Any) -> bytes:
            request.redirect(b"http://127.0.0.1/elsewhere")
            return b""

        def missing(request: Any) -> bytes:
            request.setResponseCode(404)
            return b""

        def cut(request: Any) -> Any:
            request.setHeader("content-length", "100")
            request.write(b"x")
            request.loseConnection()
            return NOT_DONE_YET

        self.resource.pages.update(
            {
                "missing.test": missing,
                "redirect.test": redirect,
                "page.test": lambda _request: b"<p>",
                "empty.test": lambda _request: b"",
                "cut.test": cut,
            }
        )
        self.resource.names["refused.test"] = code("REFUSED")
        lookup = HttpsLookup(self.clock, self.listen())
        for name, text in {
            "missing.test": "status 404",
            "redirect.test": "status 302",
            "page.test": "no DNS message",
            "empty.test": "no DNS message",
            "cut.test": "cut off",
            "refused.test": "code 5",
        }.items():
            with self.assertRaises(DiscoveryError) as caught:
                await lookup.addresses(name)
            self.assertIn(text, str(caught.exception), name)

    async def test_an_endless_answer_is_cut(self) -> None:
        """No more than a DNS message can have is read.  DSC-003"""
        gone: list[Deferred[Any]] = []

        def endless(request: Any) -> Any:
            gone.append(request.notifyFinish().addErrback(lambda _: None))
            request.write(bytes(66_000))
            return NOT_DONE_YET

        self.resource.pages["endless.test"] = endless
        with self.assertRaises(DiscoveryError) as caught:
            await HttpsLookup(self.clock, self.listen()).addresses("endless.test")
        self.assertIn("too long", str(caught.exception))
        for finished in gone:
            await finished

    async def test_nobody_there_is_a_failure(self) -> None:
        """A refused connection.  DSC-003"""
        port = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        with self.assertRaises(DiscoveryError):
            await HttpsLookup(self.clock, f"http://127.0.0.1:{number}/").addresses("seed.test")

    async def test_cancelling_closes_the_connection(self) -> None:
        """Whether the answer has begun or not.  DSC-006.4"""
        for begun in (False, True):
            asked: Deferred[Any] = Deferred()
            gone: list[Deferred[Any]] = []

            def hang(
                request: Any,
                begun: bool = begun,
                asked: Deferred[Any] = asked,
                gone: list[Deferred[Any]] = gone,
            ) -> Any:
                gone.append(request.notifyFinish().addErrback(lambda _: None))
                if begun:
                    request.write(b"x")
                if len(gone) == 2:
                    reactor.callLater(0.05, asked.callback, None)
                return NOT_DONE_YET

            self.resource.pages["hang.test"] = hang
            finding = HttpsLookup(self.clock, self.listen()).addresses("hang.test")
            await asked
            finding.cancel()
            with self.assertRaises(CancelledError):
                await finding
            for finished in gone:
                await finished
