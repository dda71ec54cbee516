"""Addresses that strangers may name, and the groups that they count to."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.types.ip import (
    is_canonical_ipv4,
    is_onion,
    is_routable_ip,
    is_unicast_ip,
    packed_ip,
)
from dig_gossip.types.peer import PeerAddress, canonical_host
from tests.vectors import load

#: The address of the Tor Project's own site.
ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"


class GroupTests(SynchronousTestCase):
    """Groups and keys of addresses."""

    def test_golden_vectors(self) -> None:
        """Group and key are those of the Rust implementation.  ADR-001, API-007"""
        vectors = load("address_groups.json")
        for vector in vectors:
            address = PeerAddress(vector["fields"]["host"], vector["fields"]["port"])
            self.assertEqual(
                (address.get_group().hex(), address.get_key().hex()),
                (vector["upstream"]["get_group"], vector["upstream"]["get_key"]),
                vector["name"],
            )
            self.assertEqual(packed_ip(address.host) is not None, vector["is_ip_literal"])
        self.assertGreaterEqual(len(vectors), 22)

    def test_mapped_address_is_in_the_group_of_its_ipv4_address(self) -> None:
        """Writing an IPv4 address as IPv6 opens no second group.  ADR-001"""
        mapped, plain = PeerAddress("::ffff:8.8.4.4", 1), PeerAddress("8.8.4.4", 1)
        self.assertEqual(mapped, plain)
        self.assertEqual(mapped.get_group(), b"\x08\x08")


class RoutableTests(SynchronousTestCase):
    """Which addresses the whole internet reaches."""

    def check(self, expected: bool, *hosts: str) -> None:
        """All of them, or none, are routable."""
        for host in hosts:
            packed = packed_ip(host)
            assert packed is not None
            self.assertIs(is_routable_ip(packed), expected, host)

    def test_first_and_last_of_each_local_range(self) -> None:
        """Each limit at n-1, n and n+1.  ADR-003"""
        for network in (
            "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.168.0.0/16", "198.18.0.0/15", "203.0.113.0/24",
        ):  # fmt: skip
            block = ipaddress.ip_network(network)
            self.check(False, str(block[0]), str(block[-1]))
            self.check(True, str(block[0] - 1), str(block[-1] + 1))
        self.check(True, "1.0.0.0", "223.255.255.255")
        self.check(False, "0.255.255.255", "224.0.0.0", "255.255.255.255")

    def test_ipv6(self) -> None:
        """Global unicast only, and no way around an IPv4 group.  ADR-003"""
        self.check(True, "2001:200::", "2a00:1450::5", "2003::", "3ffe::1")
        self.check(
            False, "::", "::1", "::8.8.8.8", "fe80::1", "fc00::1", "ff02::1", "64:ff9b::808:808",
            "1fff::", "4000::", "2001::1", "2001:1ff::1", "2001:db8::1", "2002:808:808::1",
        )  # fmt: skip

    @given(st.binary(min_size=4, max_size=4))
    def test_nothing_is_routable_that_python_calls_private(self, packed: bytes) -> None:
        """The table is at least as strict as the standard library.  ADR-003"""
        if is_routable_ip(packed):
            self.assertTrue(ipaddress.ip_address(packed).is_global)
            self.assertTrue(is_unicast_ip(packed))

    @given(st.binary(min_size=16, max_size=16))
    def test_the_same_for_ipv6(self, packed: bytes) -> None:
        """The table is at least as strict as the standard library.  ADR-003"""
        for candidate in (packed, b"\x20" + packed[1:], b"\x20\x01" + packed[2:]):
            if is_routable_ip(candidate):
                self.assertTrue(ipaddress.ip_address(candidate).is_global)
                self.assertTrue(is_unicast_ip(candidate))

    def test_private_machines_are_machines(self) -> None:
        """What is allowed on a private network, and what is no address of a machine.  ADR-003"""
        for host, expected in {
            "127.0.0.1": True, "10.1.2.3": True, "::1": True, "fd00::1": True, "0.0.0.0": False,
            "224.0.0.1": False, "255.255.255.255": False, "::": False, "ff02::1": False,
        }.items():  # fmt: skip
            packed = packed_ip(host)
            assert packed is not None
            self.assertIs(is_unicast_ip(packed), expected, host)


class SpellingTests(SynchronousTestCase):
    """IPv4 literals without ``ipaddress``."""

    @given(
        st.one_of(
            st.text(alphabet="0123456789.:af٣", max_size=16),
            st.ip_addresses(v=4).map(str),
            st.text(max_size=70),
        )
    )
    def test_pattern_agrees_with_the_standard_library(self, text: str) -> None:
        """A string is an IPv4 address for both or for neither, with the same bytes.  CON-103-X"""
        try:
            expected = ipaddress.IPv4Address(text).packed
        except ValueError:
            self.assertFalse(is_canonical_ipv4(text))
        else:
            self.assertTrue(is_canonical_ipv4(text))
            self.assertEqual(packed_ip(text), expected)
            self.assertEqual(canonical_host(text), text)


class OnionTests(SynchronousTestCase):
    """Version 3 onion addresses."""

    def test_real_address_passes(self) -> None:
        """The checksum is right, the version is 3.  ADR-003, TOR-103-X"""
        self.assertTrue(is_onion(ONION))

    def test_anything_else_is_refused(self) -> None:
        """One letter off, another version, upper case, a subdomain, other lengths.  ADR-003"""
        for host in (
            "3" + ONION[1:], ONION[:55] + "a.onion", ONION.upper(), "www." + ONION, ONION[1:],
            ONION[:56], "expyuzz4wqqyqhjn.onion", "a" * 56 + ".onion", "é" * 56 + ".onion", "",
            "=" * 56 + ".onion",
        ):  # fmt: skip
            self.assertFalse(is_onion(host), host)

    @given(st.text(max_size=80))
    def test_no_text_raises(self, text: str) -> None:
        """Any text is an onion address or is not.  ADR-003"""
        self.assertFalse(is_onion(text))
        self.assertFalse(is_onion(text[:56] + ".onion"))
