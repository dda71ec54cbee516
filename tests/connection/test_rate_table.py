"""Tests of :mod:`dig_gossip.connection.rate_table`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, SupportsBytes

import chia_rs
from chia_rs.sized_ints import uint16, uint64
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import constants as c
from dig_gossip.connection import handshake
from dig_gossip.connection.rate_table import (
    AGGREGATE,
    CHIA_V1,
    CHIA_V2,
    DEFAULT_ROW,
    DIG_ROWS,
    ENVELOPE_BYTES,
    SDK_V2,
    Row,
    max_frame_size,
    receive_rows,
    send_rows,
)
from dig_gossip.wire import dig, trees
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from tests.vectors import document

K = 1024
M = 1024 * 1024

Triple = tuple[int | None, int, int | None, bool]


def triple(row: Row) -> Triple:
    """The numbers of a row."""
    return (row.count, row.max_size, row.max_total, row.aggregate)


def expected(row: dict[str, Any]) -> Triple:
    """The numbers of a row of the vectors; rows without a flag are outside the aggregate."""
    if row.get("unlimited"):
        return (None, row["max_size"], None, False)
    total = row["max_total_size"]
    if total is None:
        total = row["frequency"] * row["max_size"]
    return (row["frequency"], row["max_size"], total, row.get("aggregate", False))


def table(*names: str) -> dict[int, Triple]:
    """Tables of the vectors, laid over each other."""
    vectors = document("rate_limits.json")
    return {int(n): expected(row) for name in names for n, row in vectors[name].items()}


def least(limits: tuple[int | None, ...]) -> int:
    """The narrowest of some limits, None being no limit."""
    return min(limit for limit in limits if limit is not None)


DIG = ("dig_rows_seed", "dig_rows_head_only", "dig_rows_ours_proposed")
#: The rows of opcodes that are ours alone.
OURS: dict[int, Triple] = {
    242: (600, 64, 600 * 64, False),
    243: (6000, 2 * K, 4 * M, False),
    244: (6000, 64, 6000 * 64, False),
    245: (6000, 64, 6000 * 64, False),
    241: (24_000, 33 * K, 400 * M, False),
}


class GoldenTables(SynchronousTestCase):
    """Every number, against the tables of other implementations."""

    def compare(self, rows: Mapping[int, Row], golden: dict[int, Triple]) -> None:
        self.assertEqual({opcode: triple(row) for opcode, row in rows.items()}, golden)

    def test_chia_v1_is_chias(self) -> None:
        """All 112 rows of Chia's first table, flags of the aggregate included.  CON-005"""
        self.compare(CHIA_V1, table("chia_blockchain_v1"))

    def test_chia_v2_is_chias(self) -> None:
        """All 112 rows of Chia's second table.  CON-005"""
        self.compare(CHIA_V2, table("chia_blockchain_v2"))

    def test_sdk_v2_is_the_sdks(self) -> None:
        """All 97 rows of the Rust SDK, and no others.  CON-005"""
        self.compare(SDK_V2, table("chia_sdk_client_v2"))

    def test_dig_rows_are_the_networks(self) -> None:
        """The rows from 200 up; the vectors lack trees with tags and chunks.  RL-101-X"""
        self.compare(DIG_ROWS, table(*DIG) | OURS)

    def test_default_and_aggregate_are_the_others(self) -> None:
        """The row of unlisted opcodes, and what aggregate rows share.  CON-005"""
        vectors = document("rate_limits.json")
        self.assertEqual(triple(DEFAULT_ROW), expected(vectors["chia_sdk_client_default"]))
        self.assertEqual(AGGREGATE.count, vectors["aggregate_non_tx"]["frequency"])
        self.assertEqual(AGGREGATE.max_total, vectors["aggregate_non_tx"]["max_total_size"])

    def test_rows_in_use_are_what_the_tables_say_for_all_opcodes(self) -> None:
        """For 0..255, who applies which row, worked out from the vectors alone.  CON-005"""
        default: Triple = (100, M, 100 * M, False)
        sdk, band = table("chia_sdk_client_v2"), table(*DIG) | OURS
        answers = {n: (*sdk[n][:3], False) for n in (27, 28, 30, 31)}
        for both_v2, name in ((False, "chia_blockchain_v1"), (True, "chia_blockchain_v2")):
            chia = table(name)
            for n in range(256):
                row = (chia | band).get(n, default)
                ours = (chia | answers | band).get(n, default)
                rust = (sdk | band).get(n, default)
                pairs = zip(ours, rust, strict=True)
                counts, sizes, totals, flags = (tuple(pair) for pair in pairs)
                narrow = (least(counts), least(sizes), least(totals), any(flags))
                cases = (
                    (receive_rows(is_chia=True, both_v2=both_v2), row),
                    (send_rows(both_v2=both_v2, is_rust=False), ours),
                    (send_rows(both_v2=both_v2), narrow),
                )
                for rows, wanted in cases:
                    self.assertEqual(triple(rows[n]), wanted, n)
                if both_v2:
                    for either in (False, True):
                        received = receive_rows(is_chia=False, both_v2=either)[n]
                        self.assertEqual(triple(received), ours, n)


def covers(receiver: Row, sender: Row) -> bool:
    """Whether whoever keeps the sender's row keeps the receiver's too."""

    def holds(outer: int | None, inner: int | None) -> bool:
        return outer is None or (inner is not None and inner <= outer)

    return (
        holds(receiver.count, sender.count)
        and holds(receiver.max_size, sender.max_size)
        and holds(receiver.max_total, sender.max_total)
        and (sender.aggregate or not receiver.aggregate)
    )


class RowsTests(SynchronousTestCase):
    """What the rows mean for each other; no vectors needed."""

    def test_every_set_has_a_row_for_each_opcode_and_is_made_once(self) -> None:
        """256 rows; sessions share them.  CON-005"""
        for one, other in itertools.product((False, True), repeat=2):
            for rows in (
                receive_rows(is_chia=one, both_v2=other),
                send_rows(both_v2=one, is_rust=other),
            ):
                self.assertEqual(len(rows), 256)
            self.assertIs(
                receive_rows(is_chia=one, both_v2=other), receive_rows(is_chia=one, both_v2=other)
            )
            self.assertIs(
                send_rows(both_v2=one, is_rust=other), send_rows(both_v2=one, is_rust=other)
            )

    def test_a_total_holds_one_message_of_the_largest_size(self) -> None:
        """So a single message within its size never breaks a limit, nor the aggregate.  CON-005"""
        rows = (DEFAULT_ROW, *CHIA_V1.values(), *CHIA_V2.values(), *SDK_V2.values())
        for row in (*rows, *DIG_ROWS.values()):
            self.assertTrue(row.max_total is None or row.max_total >= row.max_size, row)
            self.assertTrue(not row.aggregate or row.max_size <= (AGGREGATE.max_total or 0), row)

    def test_what_we_send_is_accepted_by_whoever_gets_it(self) -> None:
        """For all 256 opcodes: Chia nodes, our own, and Rust nodes with their table.  RL-102-X"""
        rust = tuple({**SDK_V2, **DIG_ROWS}.get(n, DEFAULT_ROW) for n in range(256))
        for both_v2 in (False, True):
            chia = receive_rows(is_chia=True, both_v2=both_v2)
            ours = receive_rows(is_chia=False, both_v2=both_v2)
            for receiver, sender in (
                (chia, send_rows(both_v2=both_v2, is_rust=False)),
                (ours, send_rows(both_v2=both_v2, is_rust=False)),
                (chia, send_rows(both_v2=both_v2)),
                (ours, send_rows(both_v2=both_v2)),
                (rust, send_rows(both_v2=both_v2)),
            ):
                for n in range(256):
                    self.assertTrue(covers(receiver[n], sender[n]), (both_v2, n))

    def test_block_answers_spend_the_aggregate_only_where_the_receiver_counts_them(self) -> None:
        """Rust nodes do, Chia nodes and our own do not.  CON-005"""
        for opcode in (27, 28, 30, 31):
            self.assertFalse(send_rows(both_v2=True, is_rust=False)[opcode].aggregate)
            self.assertTrue(send_rows(both_v2=True)[opcode].aggregate)

    def test_narrowing_keeps_both_rows(self) -> None:
        """The lesser of each limit, in whichever row it is; no limit is the widest.  CON-005"""
        endless = Row(count=None, max_size=9, max_total=None, aggregate=False)
        finite = Row(count=3, max_size=10, max_total=30, aggregate=True)
        both = Row(count=3, max_size=9, max_total=30, aggregate=True)
        self.assertEqual(endless.narrowed(finite), both)
        self.assertEqual(finite.narrowed(endless), both)
        self.assertEqual(endless.narrowed(endless), endless)
        other = Row(count=2, max_size=11, max_total=31, aggregate=False)
        narrow = Row(count=2, max_size=10, max_total=30, aggregate=True)
        self.assertEqual(finite.narrowed(other), narrow)
        self.assertEqual(other.narrowed(finite), narrow)


class ConformingSenders(SynchronousTestCase):
    """A node that keeps the protocol stays within the rows even at its largest and busiest."""

    def sizes(self) -> dict[int, int]:
        """Bytes of the largest body of each kind whose size the protocol bounds."""
        onion = "a" * 56 + ".onion"
        digest = b"\xff" * 32
        peer = chia_rs.TimestampedPeerInfo(onion, uint16(65535), uint64(2**64 - 1))
        bodies: dict[int, SupportsBytes] = {
            1: handshake.build(
                network_id="f" * 64,
                software_version="v" * c.MAX_SOFTWARE_VERSION_BYTES,
                server_port=65535,
                capabilities=Capability,
            ),
            44: chia_rs.RespondPeers([peer] * c.MAX_PEERS_RECEIVED_PER_REQUEST),
            64: dig.RespondPeersIntroducer((peer,) * c.MAX_PEERS_RECEIVED_PER_REQUEST),
            214: dig.PlumtreeLazyAnnounce(((digest, 255),) * c.PLUMTREE_MAX_ANNOUNCE_ENTRIES),
            215: dig.PlumtreePrune(),
            216: dig.PlumtreeGraft(digest),
            217: dig.PlumtreeRequestByHash(digest),
            218: dig.RegisterPeer(ip=onion, port=65535, node_type=1),
            219: dig.RegisterAck(True),
            242: trees.TreeOpen(trees.MAX_TAG, trees.MAX_DISTANCE_MS),
            243: trees.TreeAnnounce((digest[:8],) * c.TREE_MAX_ANNOUNCE_ENTRIES),
            244: trees.TreePrune(trees.MAX_TAG),
            245: trees.TreeGraft(None, digest[:8]),
        }
        fixed = {
            20: 88, 21: 48, 22: 32, 32: 32, 33: 32, 92: 65, 93: 65,
            43: 0, 63: 0, 205: 0, 206: 96,
            209: 32 + 4 + 2 * 64,
            211: 4 + 8 * 128 + 4 + 4 + 4 + 16,
            212: 1 + 4 + 4 + 8 * 127,
            241: 3 * 4 + 32 * K,
        }  # fmt: skip
        return fixed | {opcode: len(bytes(body)) for opcode, body in bodies.items()}

    def test_largest_bodies_fit_what_we_send_and_what_we_accept(self) -> None:
        """Every body that the protocol bounds, against every set of rows.  RL-102-X"""
        for one, other in itertools.product((False, True), repeat=2):
            for rows in (
                send_rows(both_v2=one, is_rust=other),
                receive_rows(is_chia=one, both_v2=other),
            ):
                for opcode, size in self.sizes().items():
                    self.assertLessEqual(size, rows[opcode].max_size, opcode)

    def test_plumtree_fits_the_share_that_we_use(self) -> None:
        """An announcement at every flush, and a prune a second, at a factor of 0.6.  RL-102-X"""
        rows = send_rows(both_v2=True)
        flushes = 60_000 / c.PLUMTREE_ANNOUNCE_FLUSH_MS
        for opcode, count in ((214, flushes), (215, 60), (216, flushes), (217, flushes)):
            self.assertLessEqual(count, (rows[opcode].count or 0) * 0.6)

    def test_unknown_opcodes_have_the_default_row(self) -> None:
        """What no table lists, in the DIG band and below it.  CON-005"""
        for opcode in (0, 2, 4, 114, 199, 220, 227, 239, 246, 254):
            for rows in (receive_rows(is_chia=True, both_v2=True), send_rows(both_v2=False)):
                self.assertEqual(rows[opcode], DEFAULT_ROW)


class FrameSizes(SynchronousTestCase):
    """The size gate at the frame header."""

    rows = receive_rows(is_chia=True, both_v2=True)

    def limit(self, opcode: int, solicited: bool = False) -> int:
        return max_frame_size(opcode, solicited=solicited, rows=self.rows)

    def test_limit_is_the_row_and_the_envelope(self) -> None:
        """A peak, a transaction, a pushed block, an unknown opcode; asked for or not.  D7"""
        for opcode, size in ((20, 512), (23, M), (27, 2 * M), (34, 2 * M), (220, M), (0, M)):
            for solicited in (False, True):
                self.assertEqual(self.limit(opcode, solicited), size + 8)

    def test_envelope_is_that_of_a_message_with_an_id(self) -> None:
        """The largest answer that its row allows passes with its id.  D7"""
        self.assertEqual(len(Message(28, 7, b"x" * 100)), self.limit(28, True))

    def test_what_nobody_asked_for_is_capped(self) -> None:
        """``RespondBlocks`` has its 50 MiB only when requested, 8 MiB otherwise.  D7"""
        for opcode in (30, 25):
            self.assertEqual(self.limit(opcode, True), 50 * M + ENVELOPE_BYTES)
            self.assertEqual(self.limit(opcode, False), 8 * M)
        # Also what is no answer: plots, coin states, subscriptions.
        for opcode in (58, 67, 69, 72, 79):
            self.assertEqual(self.limit(opcode, False), 8 * M)
        self.assertEqual(max(self.limit(opcode) for opcode in range(256)), 8 * M)

    def test_cap_leaves_small_answers_alone(self) -> None:
        """An unsolicited answer with a small row keeps that.  D7"""
        self.assertEqual(self.limit(28, False), 108)

    def test_nothing_is_larger_than_chias_messages(self) -> None:
        """Rows of 100 MiB end at the 50 MiB that a Chia node takes.  D7"""
        self.assertEqual(self.limit(58, True), 50 * M + ENVELOPE_BYTES)
        self.assertEqual(max(self.limit(op, True) for op in range(256)), 50 * M + ENVELOPE_BYTES)

    def test_narrower_rows_narrow_the_gate(self) -> None:
        """The rows of the session decide.  D7"""
        first = receive_rows(is_chia=True, both_v2=False)
        self.assertEqual(max_frame_size(57, solicited=False, rows=first), M + ENVELOPE_BYTES)
