"""Addresses: spelling, and whether they are our own."""

from __future__ import annotations

import ipaddress

from chia_rs.sized_ints import uint16
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.types.peer import PeerAddress, canonical_host, parse_peer_id
from dig_gossip.util.addresses import is_local_ip, is_same_endpoint


class PeerAddressTests(SynchronousTestCase):
    """``PeerAddress.parse``."""

    def test_every_spelling(self) -> None:
        """Text, bracketed IPv6, tuples, names, a default port.  design 3"""
        for value, expected in (
            ("1.2.3.4:5", ("1.2.3.4", 5)),
            ("[::1]:9444", ("::1", 9444)),
            ("::1", ("::1", 9444)),
            ("Example.ORG", ("example.org", 9444)),
            (("::ffff:1.2.3.4", 80), ("1.2.3.4", 80)),
            ("[fe80::1%eth0]:1", ("fe80::1", 1)),
        ):
            address = PeerAddress.parse(value, 9444)
            self.assertEqual((address.host, address.port), expected)
            self.assertEqual(PeerAddress.parse(str(address)), address)

    def test_nonsense_is_refused(self) -> None:
        """With a ValueError and nothing else.  CFG-102-X"""
        for value in (
            "",
            ":1",
            "host:",
            "host:x",
            "host:65536",
            "[::1",
            "[::1]x",
            ("h", -1),
            ("h", True),
            ("", 1),
            7,
            "host:²",
        ):
            self.assertRaises(ValueError, PeerAddress.parse, value)

    def test_a_port_may_be_a_number_of_chia_rs(self) -> None:
        """As rows of peer lists carry it; it is the same address.  design D2"""
        address = PeerAddress("1.2.3.4", uint16(5))
        self.assertEqual(address, PeerAddress("1.2.3.4", 5))
        self.assertEqual(
            (str(address), hash(address)), ("1.2.3.4:5", hash(PeerAddress("1.2.3.4", 5)))
        )

    @given(st.text())
    def test_any_text_parses_or_is_a_value_error(self, text: str) -> None:
        """Arbitrary input never does anything else.  design D14"""
        try:
            PeerAddress.parse(text, 1)
        except ValueError:
            pass

    @given(st.ip_addresses())
    def test_spellings_of_an_address_are_one(
        self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> None:
        """Exploded, mapped and bracketed forms compare equal.  CON-103-X"""
        self.assertEqual(canonical_host(ip.exploded), canonical_host(str(ip)))
        if isinstance(ip, ipaddress.IPv4Address):
            self.assertEqual(canonical_host(f"::ffff:{ip}"), str(ip))

    def test_peer_ids_are_read_from_any_spelling(self) -> None:
        """Upper case, prefix, bytes; anything else is refused.  API-007"""
        raw = bytes(range(32))
        for spelling in (raw, raw.hex(), raw.hex().upper(), "0x" + raw.hex(), "0X" + raw.hex()):
            self.assertEqual(parse_peer_id(spelling), raw)
        self.assertEqual(str(parse_peer_id(raw)), raw.hex())
        for bad in (raw[1:], raw.hex()[1:], "zz" * 32, ""):
            self.assertRaises(ValueError, parse_peer_id, bad)


class OwnAddressTests(SynchronousTestCase):
    """``is_same_endpoint``."""

    def test_wildcards_mean_every_address_of_this_machine(self) -> None:
        """Any local interface with our port counts.  CON-001.1"""
        wildcard = PeerAddress("0.0.0.0", 9444)
        self.assertTrue(is_same_endpoint(PeerAddress("127.0.0.1", 9444), wildcard))
        self.assertFalse(is_same_endpoint(PeerAddress("127.0.0.1", 9445), wildcard))
        self.assertFalse(is_same_endpoint(PeerAddress("192.0.2.1", 9444), wildcard))

    def test_one_address_means_itself(self) -> None:
        """Another address of this machine may be another node.  CON-001.1"""
        bound = PeerAddress("127.0.0.1", 9444)
        self.assertTrue(is_same_endpoint(bound, bound))
        self.assertFalse(is_same_endpoint(PeerAddress("127.0.0.2", 9444), bound))

    def test_names_are_nobodys_ip(self) -> None:
        """Only literals can be compared.  CON-001.1"""
        self.assertFalse(is_local_ip("localhost"))
