"""The table of routes."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.portmap import gateway_link
from dig_gossip.portmap.routes import ROUTE_FILE, default_gateway
from dig_gossip.portmap.values import MappingFailed

HEADER = (
    b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"
    b"                                                       \n"
)
LAN = b"eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"


def route(
    gateway: str = "0101A8C0", flags: str = "0003", metric: int = 0, mask: str = "00000000"
) -> bytes:
    """One line about the default route."""
    return f"eth0\t00000000\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n".encode()


class RouteTests(SynchronousTestCase):
    """Which gateway is the default one."""

    def test_the_default_route_is_found(self) -> None:
        """In the table of a little-endian machine, and of a big-endian one.  behaviour §29"""
        table = HEADER + LAN + route()
        self.assertEqual(default_gateway(table, "little"), "192.168.1.1")
        self.assertEqual(default_gateway(HEADER + route("C0A80101"), "big"), "192.168.1.1")

    def test_the_lowest_metric_wins(self) -> None:
        """A cable before the radio.  behaviour §29"""
        table = (
            HEADER
            + route("0102A8C0", metric=600)
            + route(metric=100)
            + route("0103A8C0", metric=700)
        )
        self.assertEqual(default_gateway(table, "little"), "192.168.1.1")

    def test_routes_without_a_gateway_do_not_count(self) -> None:
        """Point to point, down, rejected, or half of the internet (of some VPN).  behaviour §29"""
        for line in (
            LAN,
            route("00000000", "0001"),
            route(flags="0002"),
            route(flags="0203"),
            route(mask="00000080"),
        ):
            self.assertIsNone(default_gateway(HEADER + line, "little"), line)

    def test_an_empty_table_has_none(self) -> None:
        """With a header or without.  behaviour §29"""
        self.assertIsNone(default_gateway(b"", "little"))
        self.assertIsNone(default_gateway(HEADER, "little"))

    @given(st.binary(max_size=400))
    def test_any_bytes_give_an_address_or_nothing(self, table: bytes) -> None:
        """No error.  behaviour §29"""
        found = default_gateway(HEADER + table, "little")
        if found is not None:
            ipaddress.IPv4Address(found)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["eth0", "", "ü"]),
                *[st.text("0123456789abcdefX-", max_size=9)] * 7,
            ),
            max_size=4,
        )
    )
    def test_nearly_right_lines_give_an_address_or_nothing(
        self, lines: list[tuple[str, ...]]
    ) -> None:
        """Whatever the fields hold.  behaviour §29"""
        table = HEADER + "\n".join("\t".join(fields) for fields in lines).encode()
        found = default_gateway(table, "little")
        if found is not None:
            ipaddress.IPv4Address(found)


class FindTests(SynchronousTestCase):
    """What this machine says."""

    def table(self, content: bytes | None) -> None:
        """Let the system show another table, or none."""
        path = self.mktemp()
        if content is not None:
            Path(path).write_bytes(content)
        self.patch(gateway_link, "ROUTE_FILE", path)

    def test_the_gateway_is_found(self) -> None:
        """From the file that Linux shows.  behaviour §29"""
        shown = int.from_bytes(bytes((192, 168, 1, 1)), sys.byteorder)
        self.table(HEADER + LAN + route(f"{shown:08X}"))
        self.assertEqual(gateway_link.find_gateway(), "192.168.1.1")

    def test_no_gateway_and_no_table_are_told_apart(self) -> None:
        """Each with a sentence that says what is missing.  behaviour §29"""
        self.table(HEADER + LAN)
        error = self.assertRaises(MappingFailed, gateway_link.find_gateway)
        self.assertIn("no IPv4 route leads to a gateway", str(error))
        self.table(None)
        error = self.assertRaises(MappingFailed, gateway_link.find_gateway)
        self.assertIn("only Linux has it", str(error))

    def test_linux_has_the_file(self) -> None:
        """Its first line is the one that is skipped.  behaviour §29"""
        if sys.platform == "linux":
            self.assertTrue(Path(ROUTE_FILE).read_bytes().startswith(b"Iface\tDestination"))
