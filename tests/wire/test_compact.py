"""Bodies of compact blocks and of stems."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dig_gossip.wire.compact import (
    MAX_BLOCK_TRANSACTIONS,
    NewCompactBlock,
    Prefilled,
    RequestBlockTransactions,
    RespondBlockTransactions,
    short_tx_id,
)
from dig_gossip.wire.message import Message
from dig_gossip.wire.stem import StemTransaction, announced_tx_id, check_announcement
from tests.vectors import load
from tests.wire import WireTestCase

CLASSES: dict[str, Any] = {
    "NewCompactBlock": NewCompactBlock,
    "RequestBlockTransactions": RequestBlockTransactions,
    "RespondBlockTransactions": RespondBlockTransactions,
    "StemTransaction": StemTransaction,
}

hashes = st.binary(min_size=32, max_size=32)
u16 = st.integers(0, 2**16 - 1)
blobs = st.binary(max_size=40)
bodies = st.one_of(
    st.builds(
        NewCompactBlock,
        header_hash=hashes,
        height=st.integers(0, 2**32 - 1),
        short_tx_ids=st.lists(st.binary(min_size=6, max_size=6), max_size=5).map(tuple),
        prefilled_txs=st.lists(st.builds(Prefilled, u16, blobs), max_size=5).map(tuple),
        sip_hash_key=st.binary(min_size=16, max_size=16),
        header=blobs,
    ),
    st.builds(RequestBlockTransactions, hashes, st.lists(u16, max_size=9).map(tuple)),
    st.builds(RespondBlockTransactions, hashes, st.lists(blobs, max_size=5).map(tuple)),
    st.builds(StemTransaction, st.binary(min_size=48, max_size=48), blobs),
)


def from_vector(vector: dict[str, Any]) -> Any:
    """The body that a vector describes."""
    fields = vector["fields"]
    if vector["type"] == "StemTransaction":
        numbers = b"".join(fields[name].to_bytes(8, "big") for name in ("cost", "fees"))
        announcement = bytes.fromhex(fields["tx_id"]) + numbers
        return StemTransaction(announcement, bytes.fromhex(fields["payload"]))
    if vector["type"] == "RequestBlockTransactions":
        return RequestBlockTransactions(
            bytes.fromhex(fields["block_hash"]), tuple(fields["missing_indices"])
        )
    if vector["type"] == "RespondBlockTransactions":
        return RespondBlockTransactions(
            bytes.fromhex(fields["block_hash"]), tuple(map(bytes.fromhex, fields["transactions"]))
        )
    return NewCompactBlock(
        header_hash=bytes.fromhex(fields["header_hash"]),
        height=fields["height"],
        short_tx_ids=tuple(map(bytes.fromhex, fields["short_tx_ids"])),
        prefilled_txs=tuple(
            Prefilled(each["index"], bytes.fromhex(each["tx"])) for each in fields["prefilled_txs"]
        ),
        sip_hash_key=bytes.fromhex(fields["sip_hash_key"]),
        header=bytes.fromhex(fields["header"]),
    )


class CompactVectorTests(WireTestCase):
    """The golden vectors of these bodies."""

    def test_valid_bodies(self) -> None:
        """Every vector decodes to what it says, and back.  CBK-001, wire §13.2, §13.4"""
        count = 0
        for vector in load("dig_payloads_ours.json"):
            if vector["type"] not in CLASSES or not vector.get("valid", True):
                continue
            body = from_vector(vector)
            data = bytes.fromhex(vector["hex"])
            self.assertEqual(CLASSES[vector["type"]].from_bytes(data), body)
            message = Message(body.OPCODE, vector["message_id"], bytes(body))
            self.assertEqual(bytes(message).hex(), vector["message_hex"])
            count += 1
        self.assertEqual(count, 5)

    def test_invalid_bodies(self) -> None:
        """Those that are malformed, and those that break a rule.  CBK-006, wire §13.2"""
        malformed = broken = 0
        for vector in load("dig_payloads_ours.json"):
            if vector["type"] not in CLASSES or vector.get("valid", True):
                continue
            read = CLASSES[vector["type"]].from_bytes
            data = bytes.fromhex(vector["hex"])
            if vector.get("semantic"):
                self.assertIsNotNone(read(data).violation(), vector["name"])
                broken += 1
            else:
                self.assert_malformed(read, data, hint=vector["name"])
                malformed += 1
        self.assertEqual((malformed, broken), (3, 3))

    def test_short_ids(self) -> None:
        """SipHash-2-4 of the 32 bytes alone.  CBK-002, design D16"""
        vectors = load("siphash_short_ids.json")
        for vector in vectors:
            fields = vector["fields"]
            self.assertEqual(
                short_tx_id(
                    bytes.fromhex(fields["sip_hash_key"]), bytes.fromhex(fields["tx_id"])
                ).hex(),
                vector["spec_text"]["short_id"],
            )
        self.assertEqual(len(vectors), 6)


class CompactBodyTests(WireTestCase):
    """What holds for all of them."""

    @given(bodies)
    def test_round_trip(self, body: Any) -> None:
        """Decoding gives back what was encoded.  wire §13.2, §13.4"""
        self.assertEqual(type(body).from_bytes(bytes(body)), body)

    @given(st.binary(max_size=200))
    def test_arbitrary_bytes(self, data: bytes) -> None:
        """Any bytes decode, or are malformed.  MSG-102-X"""
        for cls in CLASSES.values():
            self.decodes_or_malformed(cls.from_bytes, data)

    def test_encoding_checks_lengths(self) -> None:
        """A body that nobody could read is not written.  wire §13.2"""
        good = NewCompactBlock(
            header_hash=bytes(32),
            height=0,
            short_tx_ids=(),
            prefilled_txs=(),
            sip_hash_key=bytes(16),
            header=b"",
        )
        self.assertIsNone(good.violation())
        for wrong in (
            RequestBlockTransactions(bytes(31), ()),
            RequestBlockTransactions(bytes(32), (65_536,)),
            StemTransaction(bytes(47), b""),
        ):
            self.assert_malformed(bytes, wrong)

    def test_request_rules(self) -> None:
        """At most 64 indices, each above the one before.  CBK-101-X"""
        for indices, ok in (
            ((), True),
            (tuple(range(64)), True),
            (tuple(range(65)), False),
            ((3, 3), False),
            ((4, 3), False),
        ):
            body = RequestBlockTransactions(bytes(32), indices)
            self.assertEqual(body.violation() is None, ok, indices)

    def test_too_many_transactions(self) -> None:
        """65 535 is the limit, prefilled ones included.  CBK-102-X"""
        count = MAX_BLOCK_TRANSACTIONS
        for shorts, filled, ok in ((count - 1, 1, True), (count, 1, False)):
            body = NewCompactBlock(
                header_hash=bytes(32),
                height=0,
                short_tx_ids=(bytes(6),) * shorts,
                prefilled_txs=(Prefilled(0, b""),) * filled,
                sip_hash_key=bytes(16),
                header=b"",
            )
            self.assertEqual(body.violation() is None, ok)
            self.assertEqual(NewCompactBlock.from_bytes(bytes(body)).total, shorts + filled)
        too_many = bytes(36) + (count + 1).to_bytes(4, "big") + bytes(6 * (count + 1) + 24)
        self.assert_malformed(NewCompactBlock.from_bytes, too_many)

    def test_announcements(self) -> None:
        """Only a NewTransaction of the right length announces a transaction.  PRV-002"""
        announcement = bytes(range(48))
        tx_id = announcement[:32]
        self.assertEqual(announced_tx_id(21, announcement), tx_id)
        self.assertIsNone(announced_tx_id(20, announcement))
        self.assertIsNone(announced_tx_id(21, announcement[:-1]))
        self.assertEqual(check_announcement(tx_id, announcement), announcement)
        self.assert_malformed(check_announcement, bytes(32), announcement)
        self.assert_malformed(check_announcement, tx_id, announcement + b"x")
