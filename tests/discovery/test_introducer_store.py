"""The file of an introducer."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.introducer_store import decode, encode
from dig_gossip.types.introducer import VettedPeer
from dig_gossip.types.peer import PeerAddress, parse_peer_id

TIMES = st.floats(0, 1e12, allow_nan=False)
RECORDS = st.builds(
    VettedPeer,
    address=st.builds(
        PeerAddress, st.ip_addresses().map(str).map(str.lower), st.integers(1, 65535)
    ),
    vetted=st.integers(-7, 10_000),
    vetted_timestamp=TIMES,
    last_attempt=TIMES,
    time_added=TIMES,
    peer_id=st.none() | st.binary(min_size=32, max_size=32).map(parse_peer_id),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8),
    max_leaves=20,
)


def fields(records: list[VettedPeer]) -> list[tuple[object, ...]]:
    """All fields, also those that equality leaves out."""
    return [
        (r.address, r.vetted, r.vetted_timestamp, r.last_attempt, r.time_added, r.peer_id)
        for r in records
    ]


class StoreTests(SynchronousTestCase):
    """``encode`` and ``decode``."""

    @given(st.lists(RECORDS, max_size=5))
    def test_records_come_back_as_they_were(self, records: list[VettedPeer]) -> None:
        """Every field, in order.  ISV-106-X"""
        self.assertEqual(fields(decode(encode(tuple(records), "net"), "net")), fields(records))

    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, data: bytes) -> None:
        """With ValueError and nothing else.  ISV-106-X"""
        try:
            decode(data, "net")
        except ValueError:
            pass

    @given(st.lists(JSON, max_size=8))
    def test_any_row_is_read_or_refused(self, row: list[Any]) -> None:
        """The right frame around the wrong things.  ISV-106-X"""
        document = {"format": "dig-introducer nodes", "version": 1, "network": "net"}
        try:
            decode(json.dumps({**document, "nodes": [row]}).encode(), "net")
        except ValueError:
            pass

    def test_a_file_of_another_network_version_or_program_is_refused(self) -> None:
        """Nodes of one network are of no use to another.  ISV-106-X"""
        good = encode((), "net")
        self.assertEqual(decode(good, "net"), [])
        for data, why in (
            (good, "network"),
            (good.replace(b'"version": 1', b'"version": 2'), "version"),
            (good.replace(b"dig-introducer", b"something"), "introducer"),
            (good.replace(b"[", b"{").replace(b"]", b"}"), "nodes"),
            (b"[" * 100_000, "nested"),
        ):
            network = "other" if why == "network" else "net"
            with self.assertRaisesRegex(ValueError, why):
                decode(data, network)

    def test_absurd_values_are_refused(self) -> None:
        """One wrong row spoils the file: it is not ours.  ISV-106-X"""
        good = ["192.0.2.1", 9444, 1, 1.0, 1.0, 1.0, None]
        for index, wrong in (
            (0, 7), (0, "x" * 65), (1, "9444"), (1, 70000), (1, True), (2, 1.5), (2, 10**10),
            (3, -1), (4, 1e300), (5, True), (6, 7), (6, "ab"),
        ):  # fmt: skip
            row = [*good[:index], wrong, *good[index + 1 :]]
            document = {"format": "dig-introducer nodes", "version": 1, "network": "net"}
            data = json.dumps({**document, "nodes": [row]}).encode()
            self.assertRaises(ValueError, decode, data, "net")
