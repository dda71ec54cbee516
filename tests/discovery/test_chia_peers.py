"""Books of Chia and of upstream."""

from __future__ import annotations

import base64
import zlib
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.chia_peers import build_chia_book, parse_foreign_book
from dig_gossip.discovery.values import ExtendedPeerInfo, KnownAddress
from dig_gossip.errors import AddressManagerStore
from dig_gossip.types.peer import PeerAddress
from tests.types.test_ip import ONION
from tests.vectors import load

NOW = 1_700_000_000


def content(vector: dict[str, Any]) -> bytes:  # Any: JSON
    """The bytes of a vector."""
    if vector["hex"] is None:
        return zlib.decompress(base64.b64decode(vector["zlib_base64"]))
    return bytes.fromhex(vector["hex"])


def vector(name: str) -> bytes:
    """The bytes of one vector."""
    return next(content(v) for v in load("peers_dat.json") if v["name"] == name)


class ForeignBookTests(SynchronousTestCase):
    """Reading."""

    def test_current_form(self) -> None:
        """New and tried rows with their sources; an empty book too.  wire §17.3"""
        rows = parse_foreign_book(vector("chia_v2_two_new_one_tried"))
        source = PeerAddress("198.51.100.1", 9444)
        self.assertEqual(
            [(str(row.known.address), row.known.timestamp, row.is_tried) for row in rows],
            [
                ("8.8.8.8:9444", 1700000000, False),
                ("[2a00:1450::5]:8444", 1700000100, False),
                ("9.9.9.9:9444", 1700000200, True),
            ],
        )
        self.assertEqual({row.source for row in rows}, {source})
        self.assertEqual(parse_foreign_book(vector("chia_v2_empty")), [])

    def test_legacy_form_and_upstream(self) -> None:
        """The older Streamable layout, and the bincode of the Rust node.  wire §17.3"""
        for name in ("chia_v1_legacy", "upstream_bincode_one_new_one_tried"):
            rows = parse_foreign_book(vector(name))
            self.assertEqual(
                [(str(row.known.address), row.known.timestamp, row.is_tried) for row in rows],
                [("8.8.8.8:9444", 1700000000, False), ("9.9.9.9:9444", 1700000200, True)],
                name,
            )

    def test_broken_files_are_refused(self) -> None:
        """Truncated in the key or in a table, a kind of address that does not exist.  wire §17.3"""
        broken = [
            content(v) for v in load("peers_dat.json") if v.get("chia_deserialize_bytes_raises")
        ]
        self.assertEqual(len(broken), 2)
        kind = bytearray(vector("chia_v2_two_new_one_tried"))
        kind[32 + 8 + 4 + 32] = 2
        for data in (*broken, bytes(kind)):
            self.assertRaises(AddressManagerStore, parse_foreign_book, data)
        self.assertRaises(AddressManagerStore, parse_foreign_book, b"")

    def test_every_truncation_is_refused_or_shorter(self) -> None:
        """A file that ends early never yields a row that was not in it.  wire §17.3"""
        for name in ("chia_v2_two_new_one_tried", "chia_v1_legacy"):
            data = vector(name)
            whole = parse_foreign_book(data)
            for size in range(len(data)):
                try:
                    rows = parse_foreign_book(data[:size])
                except AddressManagerStore:
                    continue
                self.assertEqual(rows, whole[: len(rows)])

    @given(
        st.one_of(
            st.binary(max_size=400),
            st.tuples(
                st.sampled_from(
                    ["chia_v2_two_new_one_tried", "chia_v1_legacy",
                     "upstream_bincode_one_new_one_tried"]
                ),
                st.integers(0, 300), st.binary(min_size=1, max_size=8),
            ).map(lambda c: vector(c[0])[: c[1]] + c[2] + vector(c[0])[c[1] + len(c[2]) : 2000]),
        )
    )  # fmt: skip
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        """Rows that an address manager takes or ignores, or the one error.  wire §17.3"""
        try:
            rows = parse_foreign_book(data)
        except AddressManagerStore:
            return
        manager = AddressManager(rng=Random(1), unix=lambda: NOW)
        for row in rows:
            manager.add_to_new_table([row.known], row.source)


class ChiaBookTests(SynchronousTestCase):
    """Writing."""

    def test_what_is_written_is_read_again(self) -> None:
        """New entries first, then tried ones; sources too.  wire §17.3"""
        source = PeerAddress("198.51.100.1", 9444)
        entries = [
            ExtendedPeerInfo(PeerAddress("9.9.9.9", 9444), source, 1700000200, is_tried=True,
                             slots=(1,)),
            ExtendedPeerInfo(PeerAddress("8.8.8.8", 9444), source, 1700000000, slots=(1, 2)),
            ExtendedPeerInfo(PeerAddress("2a00:1450::5", 8444), PeerAddress("seed.example", 0),
                             1700000100, slots=(3,)),
            ExtendedPeerInfo(PeerAddress(ONION, 8444), source, 1700000100, slots=(4,)),
        ]  # fmt: skip
        rows = parse_foreign_book(build_chia_book(entries, bytes(range(32))))
        self.assertEqual(
            rows,
            [
                (KnownAddress(entries[1].address, 1700000000), source, False),
                (KnownAddress(entries[2].address, 1700000100), entries[2].address, False),
                (KnownAddress(entries[0].address, 1700000200), source, True),
            ],
        )

    def test_golden_vector(self) -> None:
        """The bytes are those of chia-blockchain, bucket numbers included.  wire §17.2, §17.3"""
        data = vector("chia_v2_two_new_one_tried")
        rows = parse_foreign_book(data)
        entries = [
            ExtendedPeerInfo(
                row.known.address, row.source, row.known.timestamp, is_tried=row.is_tried,
                slots=(1,),
            )
            for row in rows
        ]  # fmt: skip
        self.assertEqual(build_chia_book(entries, data[:32]), data)
