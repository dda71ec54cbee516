"""Autonomous systems of addresses."""

from __future__ import annotations

import ipaddress
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dig_gossip.discovery.as_table import (
    MAX_AS_NUMBER,
    AsTable,
    load_as_table,
    parse_as_text,
    parse_asmap,
)
from dig_gossip.discovery.interfaces import IAsLookup
from dig_gossip.errors import InvalidConfig
from dig_gossip.types.peer import PeerAddress
from tests.discovery.asmap_encoder import encode

#: The map of Bitcoin Core's own tests: 250.0.0.0/8 is AS1000, 101.1.0.0/16 to 101.8.0.0/16 are
#: AS1 to AS8 (``src/test/data/asmap.raw``).
CORE_MAP = bytes.fromhex(
    "fb03ec0fb03fc0fe00fb03ec0fb03fc0fe00fb03ec0fb0fffffeffedb0ffd486e628290000400000400040990100"
    "80018004000005000600 1cf039".replace(" ", "")
)


def lookup(table: AsTable, host: str) -> int | None:
    """The AS number of a host."""
    return table.lookup(PeerAddress(host, 9444))


def naive(prefixes: dict[str, int], host: str) -> int | None:
    """The longest prefix by looking at all."""
    address = ipaddress.ip_address(host)
    nets = [
        (net.prefixlen, number)
        for net, number in ((ipaddress.ip_network(text), n) for text, n in prefixes.items())
        if net.version == address.version and address in net
    ]
    return max(nets)[1] or None if nets else None


def text(prefixes: dict[str, int]) -> list[bytes]:
    """The lines of a file."""
    return [f"{prefix} {number}\n".encode() for prefix, number in prefixes.items()]


numbers = st.integers(0, 5)
prefixes = st.one_of(
    st.tuples(st.integers(0, 7), st.integers(0, 3)).map(
        lambda c: str(ipaddress.ip_network((0x08080800 + (c[0] >> c[1] << c[1]), 32 - c[1])))
    ),
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
        lambda c: str(ipaddress.ip_network((c[0] >> 32 - c[1] << 32 - c[1], c[1])))
    ),
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 64)).map(
        lambda c: str(ipaddress.IPv6Network((c[0] >> 64 - c[1] << 128 - c[1], c[1])))
    ),
    st.sampled_from(["8.8.0.0/16", "8.8.8.0/24", "8.0.0.0/8", "0.0.0.0/0", "::/0", "2a00::/12"]),
)


class TextTableTests(SynchronousTestCase):
    """A prefix and a number a line."""

    def test_longest_prefix_counts(self) -> None:
        """Whatever the order; the gap after an inner prefix is the outer one's.  DSC-010"""
        lines = text({"8.8.8.0/24": 3, "8.0.0.0/8": 1, "8.8.0.0/16": 2, "2a00:1450::/32": 4})
        for ordered in (lines, lines[::-1]):
            table = parse_as_text(ordered)
            found = [
                lookup(table, host)
                for host in ("8.0.0.0", "8.8.7.255", "8.8.8.0", "8.8.8.255", "8.8.9.0", "8.9.0.0",
                             "8.255.255.255", "9.0.0.0", "7.255.255.255", "2a00:1450::1",
                             "2a00:1451::", "seed.example.com")
            ]  # fmt: skip
            self.assertEqual(found, [1, 2, 3, 3, 2, 1, 1, None, None, 4, None, None])
        self.assertTrue(verifyObject(IAsLookup, table))

    def test_mapped_addresses_are_their_ipv4_selves(self) -> None:
        """Another spelling is no other network.  DSC-010, CON-103-X"""
        table = parse_as_text(text({"8.8.8.0/24": 3}))
        self.assertEqual(lookup(table, "::ffff:8.8.8.8"), 3)

    def test_forms_of_a_line(self) -> None:
        """Comments, blank lines, tabs, AS before the number, a hole.  DSC-010"""
        table = parse_as_text(
            [b"# made today\n", b"\n", b"8.8.0.0/16\tAS15169 # Google\n", b"8.8.8.0/24 0\r\n",
             b"0.0.0.0/0 4294967295"]
        )  # fmt: skip
        found = [lookup(table, host) for host in ("8.8.7.7", "8.8.8.8", "1.1.1.1")]
        self.assertEqual(found, [15169, None, MAX_AS_NUMBER])

    def test_malformed_lines_are_named(self) -> None:
        """The error says which line; nothing of the file is used.  DSC-010"""
        for line in (
            b"8.8.8.8", b"8.8.8.8 1", b"8.8.8.8/33 1", b"8.8.8.8/24 1", b"8.8.8.0/24", b"x/8 1",
            b"8.8.8.0/24 1 2", b"8.8.8.0/24 -1", b"8.8.8.0/24 4294967296", b"8.8.8.0/x 1",
            b"2a00::/65 1", b"2a00::1/64 1", b"8.8.8.0/24 ASX", b"08.8.8.0/24 1", b"\xff\xfe",
            b"8.8.8.0/ 1", b"8.8.8.0/24 \xd9\xa3", b"1" * 600, b"8.8.8.0/24 1" + b" " * 600,
        ):  # fmt: skip
            error = self.assertRaises(InvalidConfig, parse_as_text, [b"1.0.0.0/8 1\n", line])
            self.assertIn("line 2", str(error), line)

    @given(st.dictionaries(prefixes, numbers, max_size=12), st.randoms(use_true_random=False))
    def test_table_agrees_with_looking_at_all_prefixes(
        self, chosen: dict[str, int], rng: Random
    ) -> None:
        """At the edges of every prefix, and just outside.  DSC-010"""
        table = parse_as_text(text(chosen))
        hosts = {"8.8.8.8", "2a00::1", "255.255.255.255", "0.0.0.0"}
        for prefix in chosen:
            net = ipaddress.ip_network(prefix)
            for edge in (int(net[0]), int(net[-1]), int(net[0]) - 1, int(net[-1]) + 1):
                if 0 <= edge < 2**net.max_prefixlen:
                    hosts.add(str(type(net[0])(edge)))
        for host in hosts:
            if not host.startswith("::"):  # the mapped and the compatible are not IPv6 here
                self.assertEqual(lookup(table, host), naive(chosen, host), host)

    @given(st.lists(st.binary(max_size=40), max_size=5))
    def test_any_lines_are_read_or_refused(self, lines: list[bytes]) -> None:
        """A table, or the one error.  DSC-010"""
        try:
            parse_as_text(lines)
        except InvalidConfig:
            pass

    def test_more_than_one_step_of_sorting(self) -> None:
        """Many prefixes in wild order are sorted piecewise.  DSC-010"""
        rng = Random(3)
        networks = list(range(50_000))
        rng.shuffle(networks)
        table = parse_as_text(
            f"{20 + n // 65536}.{n // 256 % 256}.{n % 256}.0/24 {n + 1}".encode() for n in networks
        )
        self.assertEqual(len(table), 50_001)
        for n in (0, 1, 777, 49_999):
            self.assertEqual(lookup(table, f"20.{n // 256}.{n % 256}.9"), n + 1)
        self.assertIsNone(lookup(table, "20.195.80.0"))


class AsmapTests(SynchronousTestCase):
    """Bitcoin Core's compressed form."""

    def test_map_of_bitcoin_core(self) -> None:
        """The answers are those that Core's own tests expect.  DSC-010"""
        table = parse_asmap(CORE_MAP)
        for host, expected in {
            "250.1.1.1": 1000, "250.255.255.255": 1000, "101.1.1.1": 1, "101.2.0.0": 2,
            "101.3.9.9": 3, "101.4.1.1": 4, "101.5.255.255": 5, "101.6.1.1": 6, "101.7.1.1": 7,
            "101.8.1.1": 8, "1.1.1.1": None, "2a00::1": None,
        }.items():  # fmt: skip
            self.assertEqual(lookup(table, host), expected, host)

    @given(
        st.dictionaries(
            # In an asmap, what surrounds the mapped addresses is theirs too.
            prefixes.filter(lambda prefix: not prefix.startswith("::/")),
            st.integers(1, 2**24),
            min_size=1,
            max_size=8,
        )
    )
    def test_both_forms_of_one_table_agree(self, chosen: dict[str, int]) -> None:
        """What our own encoder in the tests compresses answers like the text.  DSC-010"""
        expected = parse_as_text(text(chosen))
        table = parse_asmap(encode(chosen))
        for prefix in [*chosen, "8.8.8.8/32", "2a00::/128"]:
            net = ipaddress.ip_network(prefix)
            for edge in (int(net[0]), int(net[-1]), int(net[0]) - 1, int(net[-1]) + 1):
                if 0 <= edge < 2**net.max_prefixlen:
                    host = str(type(net[0])(edge))
                    if not host.startswith("::"):
                        self.assertEqual(lookup(table, host), lookup(expected, host), host)

    def test_every_truncation_is_refused(self) -> None:
        """A map that ends early is not used in part.  DSC-010"""
        for size in range(len(CORE_MAP)):
            self.assertRaises(InvalidConfig, parse_asmap, CORE_MAP[:size])

    def test_anything_after_the_end_is_refused(self) -> None:
        """Up to 7 zero bits of padding, nothing else.  DSC-010"""
        for tail in (b"\x00", b"\x01", CORE_MAP):
            self.assertRaises(InvalidConfig, parse_asmap, CORE_MAP + tail)

    def bits(self, text: str) -> bytes:
        """Bytes of bits in the order in which they are read."""
        padded = text.replace(" ", "")
        padded += "0" * (-len(padded) % 8)
        return bytes(int(padded[i : i + 8][::-1], 2) for i in range(0, len(padded), 8))

    def test_insane_programs_are_refused(self) -> None:
        """Each rule of Core's check.  DSC-010"""
        one, two = "0" + "0" * 15, "0" + "0" * 14 + "1"  # AS1, AS2
        jump = "10 0 "
        sane = jump + "00000" + "0" + one + "0" + two
        self.assertEqual(lookup(parse_asmap(self.bits(sane)), "128.0.0.1"), 1)
        for program in (
            "",
            "111 " + one + " 0 " + two,  # a default that nothing uses
            "111 " + one + " 111 " + two + " 110 000 0 " + one,  # two defaults
            jump + "11111" + "0" + one + "0" + two,  # a branch beyond the end
            jump + "00001" + "0" + one + "0" + two,  # unreachable bits
            jump + "00000" + "111" + one + "0" + two,  # a branch into an instruction
            "110 0 1 110 0 1 0" + one,  # two short matches in a row
            "110 11111110 00000001 " * 16 + "110 0 0 0" + one,  # more than 128 bits
            "0 1111111111",  # a number that is cut off
            sane + "1",
        ):
            self.assertRaises(InvalidConfig, parse_asmap, self.bits(program))

    @given(
        st.one_of(
            st.binary(max_size=120),
            st.tuples(st.integers(0, 58), st.integers(0, 255)).map(
                lambda c: CORE_MAP[: c[0]] + bytes([c[1]]) + CORE_MAP[c[0] + 1 :]
            ),
        )
    )
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        """A table, or the one error.  DSC-010"""
        try:
            table = parse_asmap(data)
        except InvalidConfig:
            return
        self.assertLessEqual(len(table), 16 * len(data) + 4)


class LoadingTests(SynchronousTestCase):
    """Files."""

    def written(self, data: bytes) -> str:
        """A file with some content."""
        path: str = self.mktemp()
        with open(path, "wb") as file:
            file.write(data)
        return path

    def test_kind_of_file_shows_by_its_content(self) -> None:
        """Nobody has to say which form it has.  DSC-010"""
        self.assertEqual(lookup(load_as_table(self.written(CORE_MAP)), "250.1.1.1"), 1000)
        lines = b"".join(text({"8.8.8.0/24": 3}))
        self.assertEqual(lookup(load_as_table(self.written(lines)), "8.8.8.8"), 3)
        accents = "# Übersicht\n".encode() + lines
        self.assertEqual(lookup(load_as_table(self.written(accents)), "8.8.8.8"), 3)

    def test_empty_file_knows_nothing(self) -> None:
        """And is no error: an operator may begin with one.  DSC-010"""
        self.assertIsNone(lookup(load_as_table(self.written(b"")), "8.8.8.8"))

    def test_file_that_cannot_be_used_is_an_error(self) -> None:
        """Junk, an endless line, a map that is too large, no file.  DSC-010"""
        for junk in (b"\x00" * 100, b"8" * 100_000, b"\xff" * (8 * 1024 * 1024 + 1)):
            self.assertRaises(InvalidConfig, load_as_table, self.written(junk))
        self.assertRaises(OSError, load_as_table, self.mktemp())
