"""Whom a node may dial besides those it is connected to."""

from __future__ import annotations

import ipaddress

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.diversity import Diversity, Link, max_inbound_relayed
from dig_gossip.types.ip import is_onion
from dig_gossip.types.peer import PeerAddress, TransportKind
from tests.discovery.onions import onion

LOOPBACK = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "::1/128")))


def links(*hosts: str) -> list[Link]:
    """Direct sessions with these hosts."""
    return [Link(PeerAddress(host, 9444)) for host in hosts]


class DiversityCase(SynchronousTestCase):
    """Asks for eight outbound sessions."""

    def setUp(self) -> None:
        self.diversity = Diversity(target=8, exempt=LOOPBACK)

    def reason(self, host: str, *others: str) -> str | None:
        """What speaks against dialing a host."""
        return self.diversity.refuse(Link(PeerAddress(host, 9444)), links(*others))


class GroupTests(DiversityCase):
    """One session for each part of the network."""

    def test_one_session_in_an_ipv4_16(self) -> None:
        """The first two octets are the group.  DSC-011, INT-006"""
        self.assertIn("INT-006", self.reason("192.0.2.1", "192.0.9.9") or "")
        self.assertIsNone(self.reason("192.0.2.1", "192.1.2.1", "10.0.2.1", "2001:db8::1"))

    def test_one_session_in_an_ipv6_32(self) -> None:
        """The first four octets are the group.  DSC-011, INT-006"""
        self.assertIn("INT-006", self.reason("2001:db8:1::1", "2001:db8:2::1") or "")
        self.assertIsNone(self.reason("2001:db8::1", "2001:db9::1"))

    def test_mapped_ipv4_is_ipv4(self) -> None:
        """Another spelling is no way around the rule.  CON-103-X"""
        self.assertIn("INT-006", self.reason("::ffff:192.0.2.1", "192.0.2.2") or "")

    def test_exempt_networks_neither_take_a_group_nor_need_one(self) -> None:
        """Loopback clusters are not blocked by themselves.  CFG-101-X"""
        self.assertIsNone(self.reason("127.0.0.1", "127.0.0.1", "127.0.0.2"))
        self.assertIsNone(self.reason("::1", "::1"))
        narrow = Diversity(target=8, exempt=[ipaddress.ip_network("10.0.1.0/24")])
        self.assertIsNone(narrow.refuse(links("10.0.2.1")[0], links("10.0.1.1")))
        self.assertIsNotNone(narrow.refuse(links("10.0.2.1")[0], links("10.0.3.1")))

    def test_names_are_groups_of_their_own(self) -> None:
        """A host name counts for itself.  ADR-001"""
        self.assertIsNone(self.reason("node.example", "other.example", "192.0.2.1"))
        self.assertIn("INT-006", self.reason("node.example", "node.example") or "")

    def test_groups_are_counted(self) -> None:
        """For the loop's patience.  DSC-006"""
        self.assertEqual(self.diversity.groups(links("192.0.2.1", "192.0.3.1", "192.1.2.1")), 2)


class AsTests(DiversityCase):
    """One session for each autonomous system."""

    def setUp(self) -> None:
        super().setUp()
        numbers = {"192.0.2.1": 7, "198.51.100.1": 7, "203.0.113.1": 8, "2001:db8::1": 7}
        self.diversity.as_lookup = lambda address: numbers.get(address.host)

    def test_two_groups_of_one_system_are_one_too_many(self) -> None:
        """Of both families.  DSC-010, INT-007"""
        self.assertIn("INT-007", self.reason("192.0.2.1", "198.51.100.1") or "")
        self.assertIn("INT-007", self.reason("2001:db8::1", "198.51.100.1") or "")
        self.assertIsNone(self.reason("192.0.2.1", "203.0.113.1"))

    def test_what_the_table_does_not_know_is_allowed(self) -> None:
        """Unknown systems are not one system.  DSC-010"""
        self.assertIsNone(self.reason("11.0.0.1", "12.0.0.1"))
        self.assertIsNone(self.reason("node.example", "198.51.100.1"))

    def test_a_new_table_counts_at_once(self) -> None:
        """It is replaced without a restart.  DSC-010"""
        self.diversity.as_lookup = None
        self.assertIsNone(self.reason("192.0.2.1", "198.51.100.1"))


class TransportTests(DiversityCase):
    """Sessions that have no address of their own."""

    def relayed(self, count: int) -> list[Link]:
        """Sessions through one relay."""
        return [Link(PeerAddress("192.0.2.1", 9450), TransportKind.RELAY)] * count

    def test_relayed_sessions_take_no_group(self) -> None:
        """Their address is the relay's.  DIV-102-X"""
        candidate = Link(PeerAddress("192.0.2.7", 9444))
        self.assertIsNone(self.diversity.refuse(candidate, self.relayed(5)))
        self.assertIsNone(self.diversity.refuse(self.relayed(1)[0], links("192.0.2.9")))

    def test_relayed_sessions_leave_room_for_direct_ones(self) -> None:
        """Six of eight.  DIV-102-X, INT-006a"""
        relayed = self.relayed(1)[0]
        self.assertIsNone(self.diversity.refuse(relayed, self.relayed(5) + links("11.0.0.1")))
        self.assertIn("INT-006a", self.diversity.refuse(relayed, self.relayed(6)) or "")

    def test_small_targets_and_many_inbound_sessions(self) -> None:
        """The arithmetic at its ends.  DIV-102-X, DIV-103-X"""
        for target, relayed, onions in ((1, 0, 1), (2, 1, 1), (4, 3, 2), (8, 6, 4), (9, 7, 4)):
            diversity = Diversity(target=target)
            self.assertEqual((diversity.max_relayed, diversity.max_onion), (relayed, onions))
        self.assertEqual([max_inbound_relayed(n) for n in (1, 2, 4, 50)], [0, 1, 3, 38])

    def test_onion_services_are_one_group_of_half_the_target(self) -> None:
        """Making them costs nothing.  DIV-103-X"""
        names = [onion(n) for n in range(5)]
        self.assertTrue(all(map(is_onion, names)))
        self.assertIsNone(self.reason(names[4], *names[:3], "192.0.2.1"))
        self.assertIn("INT-006", self.reason(names[4], *names[:4]) or "")
        self.assertIsNone(self.reason("192.0.2.1", *names))
