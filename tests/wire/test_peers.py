"""Lists of addresses, against ``chia_rs`` and against arbitrary bytes."""

from __future__ import annotations

import hashlib

import chia_rs
from chia_rs import TimestampedPeerInfo
from chia_rs.sized_ints import uint16, uint64
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import ClientError
from dig_gossip.wire.peers import build_peers, parse_peers
from tests import vectors

ROWS = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=64),
        st.integers(0, 2**16 - 1),
        st.integers(0, 2**64 - 1),
    ),
    max_size=8,
)


class PeersTests(SynchronousTestCase):
    """``parse_peers`` and ``build_peers``."""

    @given(ROWS)
    def test_lists_are_those_of_chia(self, rows: list[tuple[str, int, int]]) -> None:
        """Both directions, byte for byte.  wire §8"""
        theirs = chia_rs.RespondPeers(
            [TimestampedPeerInfo(host, uint16(port), uint64(time)) for host, port, time in rows]
        )
        body = build_peers(rows)
        self.assertEqual(body, bytes(theirs))
        parsed = parse_peers(body, 1000)
        self.assertEqual(parsed.declared, len(rows))
        self.assertEqual([(h.decode(), p, t) for h, p, t in parsed.rows], rows)

    @given(st.binary(max_size=200))
    @example(b"\xff\xff\xff\xff" + bytes(60))
    @example(b"\0\0\0\1\xff\xff\xff\xff" + bytes(60))
    def test_arbitrary_bytes_decode_or_are_refused(self, data: bytes) -> None:
        """What decodes is what chia_rs decodes, unless a host is not UTF-8.  style §8.4"""
        try:
            parsed = parse_peers(data, 1000)
        except ClientError:
            self.assertRaises(ValueError, chia_rs.RespondPeers.from_bytes, data)
        else:
            self.assertLessEqual(len(parsed.rows), 1000)
            if all(_is_text(host) for host, _, _ in parsed.rows):
                theirs = chia_rs.RespondPeers.from_bytes(data)
                self.assertEqual(parsed.declared, len(theirs.peer_list))

    def test_rows_beyond_the_limit_are_not_looked_at(self) -> None:
        """The first are kept; what follows may be anything.  PEX-003"""
        rows = [(f"192.0.2.{n}", n, n) for n in range(5)]
        body = build_peers(rows)
        for limit in (4, 5, 6):
            parsed = parse_peers(body, limit)
            self.assertEqual((len(parsed.rows), parsed.declared), (min(limit, 5), 5))
        self.assertEqual(len(parse_peers(body[:-1] + b"xx", 4).rows), 4)
        self.assertRaises(ClientError, parse_peers, body + b"x", 5)
        self.assertRaises(ClientError, parse_peers, body[:-1], 5)

    def test_golden_vectors(self) -> None:
        """The reference's own bytes.  wire §8"""
        lists = [v for v in vectors.load("chia_messages.json") if v["type"] == "RespondPeers"]
        for vector in lists:
            if vector["hex"] is not None:
                expected = [
                    (row["host"].encode(), row["port"], row["timestamp"])
                    for row in vector["fields"]["peer_list"]
                ]
                self.assertEqual(parse_peers(bytes.fromhex(vector["hex"]), 1000).rows, expected)
                continue
            hosts = [f"10.{n % 7}.{n >> 8}.{n & 255}" for n in range(vector["fields"]["count"])]
            body = build_peers((host, 9444, 1_700_000_000 + n) for n, host in enumerate(hosts))
            self.assertEqual(hashlib.sha256(body).hexdigest(), vector["sha256"])
            self.assertEqual(len(parse_peers(body, 1000).rows), 1000)
        self.assertGreater(len(lists), 4)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
