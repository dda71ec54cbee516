"""The client of SOCKS5: bytes against bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.socks import Credentials, SocksClient, SocksStage
from dig_gossip.errors import ClientError, ClientErrorKind, GossipError, ProxyError
from dig_gossip.types.peer import PeerAddress

NAME = PeerAddress("peer.example", 9444)
CONNECTED = bytes.fromhex("050000017f0000010050")


def fed(client: SocksClient, data: bytes) -> bytes:
    """What a client answers to bytes that come one by one."""
    client.begin()
    return b"".join(client.received(bytes((byte,))) for byte in data)


class SocksTests(SynchronousTestCase):
    """One conversation."""

    def test_without_credentials_only_no_authentication_is_offered(self) -> None:
        """The greeting of RFC 1928.  PRV-010"""
        self.assertEqual(SocksClient(NAME).begin().hex(), "050100")

    def test_a_name_goes_to_the_proxy_as_it_is(self) -> None:
        """Nothing is looked up here.  PRV-010"""
        client = SocksClient(NAME)
        self.assertEqual(client.begin(), b"\x05\x01\x00")
        request = client.received(b"\x05\x00")
        self.assertEqual(request, b"\x05\x01\x00\x03\x0cpeer.example\x24\xe4")
        self.assertEqual(client.received(CONNECTED), b"")
        self.assertTrue(client.is_connected)

    def test_user_and_password(self) -> None:
        """RFC 1929, where the proxy chooses it.  PRV-010"""
        client = SocksClient(NAME, Credentials(b"alice", b"secret"))
        self.assertEqual(client.begin().hex(), "05020002")
        self.assertEqual(client.received(b"\x05\x02"), b"\x01\x05alice\x06secret")
        self.assertEqual(client.received(b"\x01\x00")[:4], b"\x05\x01\x00\x03")

    def test_a_proxy_may_do_without_the_password(self) -> None:
        """The proxy chooses.  PRV-010"""
        client = SocksClient(NAME, Credentials(b"alice", b"secret"))
        self.assertEqual(client.received(b"\x05\x00")[:4], b"\x05\x01\x00\x03")

    def test_addresses_go_as_addresses(self) -> None:
        """IPv4 and IPv6 have types of their own.  PRV-010"""
        for host, expected in (
            ("192.0.2.1", "05010001c000020124e4"),
            ("2001:db8::1", "0501000420010db800000000000000000000000124e4"),
        ):
            client = SocksClient(PeerAddress(host, 9444))
            self.assertEqual(client.received(b"\x05\x00").hex(), expected)

    def test_the_first_bytes_of_the_destination_are_kept(self) -> None:
        """They may come with the proxy's last answer.  PRV-010"""
        for bound in ("0500000103020100000a", "05000003036162630050", "0500000400" + "00" * 17):
            client = SocksClient(NAME)
            client.received(b"\x05\x00" + bytes.fromhex(bound) + b"hello")
            self.assertTrue(client.is_connected)
            client.received(b", world")
            self.assertEqual(client.surplus, b"hello, world")

    def test_bytes_may_come_one_by_one(self) -> None:
        """TCP has no messages.  PRV-010"""
        client = SocksClient(NAME, Credentials(b"u", b"p"))
        answers = fed(client, b"\x05\x02\x01\x00" + CONNECTED + b"hi")
        self.assertEqual(answers, b"\x01\x01u\x01p" + client._request)
        self.assertEqual((client.is_connected, client.surplus), (True, b"hi"))

    def test_every_reply_code(self) -> None:
        """What says something about the peer, and what only about the proxy.  PRV-010"""
        timeouts = {6, 0xF7}
        refusals = {3, 4, 5, *range(0xF0, 0xF7)}
        for code in range(1, 256):
            client = SocksClient(NAME)
            client.received(b"\x05\x00")
            with self.assertRaises(GossipError) as caught:
                client.received(bytes((5, code)))
            error = caught.exception
            if code in timeouts | refusals:
                assert isinstance(error, ClientError)
                kind = ClientErrorKind.TIMEOUT if code in timeouts else ClientErrorKind.REFUSED
                self.assertIs(error.kind, kind)
                self.assertTrue(error.retryable)
            else:
                self.assertIsInstance(error, ProxyError)

    def test_what_is_no_proxy(self) -> None:
        """An answer of something else is recognized by its first byte.  PRV-010"""
        for data in (b"HTTP/1.1 400 Bad Request", b"\x04\x5a", b"\x16\x03\x01"):
            self.assertRaises(ProxyError, SocksClient(NAME).received, data)

    def test_methods_that_were_not_offered(self) -> None:
        """Also 255, which says that none is acceptable.  PRV-010"""
        for method in (1, 2, 3, 0x80, 255):
            self.assertRaises(ProxyError, SocksClient(NAME).received, bytes((5, method)))

    def test_a_refused_password(self) -> None:
        """It is the proxy's fault, or ours.  PRV-010"""
        client = SocksClient(NAME, Credentials(b"u", b"p"))
        client.received(b"\x05\x02")
        self.assertRaises(ProxyError, client.received, b"\x01\x01")

    def test_an_unknown_type_of_address(self) -> None:
        """Its length cannot be known.  PRV-010"""
        client = SocksClient(NAME)
        self.assertRaises(ProxyError, client.received, b"\x05\x00\x05\x00\x00\x02\x00\x00")

    def test_names_that_socks_cannot_carry(self) -> None:
        """They are refused before anything is sent.  PRV-010"""
        for host in ("n" * 256, "bücher.example"):
            self.assertRaises(ProxyError, SocksClient, PeerAddress(host, 1))

    def test_credentials_have_bounds(self) -> None:
        """One byte counts their length.  PRV-010"""
        for user, password in ((b"", b"p"), (b"u", b""), (b"u" * 256, b"p"), (b"u", b"p" * 256)):
            self.assertRaises(ValueError, Credentials, user, password)
        self.assertNotIn("hush", repr(Credentials(b"u", b"hush")))

    @given(st.lists(st.binary(max_size=300), max_size=6), st.booleans())
    def test_any_bytes(self, chunks: list[bytes], with_password: bool) -> None:
        """A proxy may say anything, in any pieces: no other error, and little is kept.  PRV-010"""
        client = SocksClient(NAME, Credentials(b"u", b"p") if with_password else None)
        try:
            for chunk in chunks:
                client.received(chunk)
                self.assertLessEqual(len(client._buffer), 262)
        except (ProxyError, ClientError):
            self.assertFalse(client.is_connected)

    @given(st.binary(min_size=1, max_size=400), st.integers(0, 400))
    def test_pieces_do_not_matter(self, tail: bytes, cut: int) -> None:
        """The same bytes lead to the same end however they are cut.  PRV-010"""

        def outcome(*pieces: bytes) -> tuple[SocksStage, bytes, str]:
            client = SocksClient(NAME)
            try:
                for piece in pieces:
                    client.received(piece)
            except (ProxyError, ClientError) as error:
                return client.stage, b"", str(error)
            return client.stage, client.surplus, ""

        data = b"\x05\x00\x05\x00\x00\x03" + tail
        self.assertEqual(outcome(data), outcome(data[:cut], data[cut:]))
