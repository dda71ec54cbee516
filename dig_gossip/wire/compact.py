"""Bodies of compact blocks, opcodes 240, 209 and 210.

A body that decodes may still break a rule between its fields; ``violation()`` says which. Source:
wire §13.2.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import ClassVar, Final

import attrs
from siphash24 import siphash24

from dig_gossip.constants import SHORT_TX_ID_BYTES
from dig_gossip.wire import streamable
from dig_gossip.wire.opcodes import DigMessageType
from dig_gossip.wire.streamable import Reader, malformed, preview

HASH_BYTES: Final = 32
KEY_BYTES: Final = 16
#: Indices are u16.
MAX_BLOCK_TRANSACTIONS: Final = 65_535
MAX_REQUESTED_TRANSACTIONS: Final = 64


def short_tx_id(key: bytes, tx_id: bytes) -> bytes:
    """The six bytes that stand for a transaction in one block.

    :param key: 16 bytes, the first of the block's header hash.
    :param tx_id: 32 bytes.
    Source: behaviour CBK-002; design D16 (SipHash-2-4 of the transaction id alone).
    """
    digest: bytes = siphash24(tx_id, key=key).digest()
    return digest[:SHORT_TX_ID_BYTES]


@attrs.frozen
class Prefilled:
    """A transaction that a compact block carries in full.

    :ivar index: its place in the block.
    """

    index: int
    transaction: bytes = attrs.field(repr=preview)


@attrs.frozen(kw_only=True)
class NewCompactBlock:
    """240: a block whose transactions are named by short ids.

    :ivar header_hash: 32 bytes.
    :ivar height: u32.
    :ivar short_tx_ids: 6 bytes each, in block order, without the prefilled ones.
    :ivar prefilled_txs: by absolute index, strictly increasing.
    :ivar sip_hash_key: 16 bytes, the first of the header hash.
    :ivar header: everything but the transactions, as the application encodes it.
    """

    OPCODE: ClassVar[int] = DigMessageType.NEW_COMPACT_BLOCK

    header_hash: bytes
    height: int
    short_tx_ids: tuple[bytes, ...]
    prefilled_txs: tuple[Prefilled, ...]
    sip_hash_key: bytes
    header: bytes = attrs.field(repr=preview)

    def __bytes__(self) -> bytes:
        return b"".join(
            (
                streamable.raw(self.header_hash, HASH_BYTES),
                streamable.uint(self.height, 4),
                streamable.items(
                    self.short_tx_ids, lambda short: streamable.raw(short, SHORT_TX_ID_BYTES)
                ),
                streamable.items(
                    self.prefilled_txs,
                    lambda filled: (
                        streamable.uint(filled.index, 2) + streamable.blob(filled.transaction)
                    ),
                ),
                streamable.raw(self.sip_hash_key, KEY_BYTES),
                streamable.blob(self.header),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> NewCompactBlock:
        """Decode a body.

        :raises ClientError: (malformed) also for more than 65 535 transactions.
        """
        reader = Reader(data)
        body = cls(
            header_hash=reader.raw(HASH_BYTES),
            height=reader.uint(4),
            short_tx_ids=_read_short_ids(reader),
            prefilled_txs=reader.items(
                lambda: Prefilled(reader.uint(2), reader.blob()), 6, MAX_BLOCK_TRANSACTIONS
            ),
            sip_hash_key=reader.raw(KEY_BYTES),
            header=reader.blob(),
        )
        reader.finish()
        return body

    @property
    def total(self) -> int:
        """Transactions of the block."""
        return len(self.short_tx_ids) + len(self.prefilled_txs)

    def violation(self) -> str | None:
        """Which rule between the fields is broken, if any.  CBK-006, CBK-102-X"""
        if self.sip_hash_key != self.header_hash[:KEY_BYTES]:
            return "sip_hash_key must be the beginning of header_hash"
        if self.total > MAX_BLOCK_TRANSACTIONS:
            return "a block has at most 65 535 transactions"
        if not _increases([filled.index for filled in self.prefilled_txs]):
            return "prefilled indices must be strictly increasing"
        if self.prefilled_txs and self.prefilled_txs[-1].index >= self.total:
            return "a prefilled index is beyond the block"
        return None


@attrs.frozen
class RequestBlockTransactions:
    """209: "send me these transactions of that block", 1..64 indices; none for all of them.

    Divergence: wire §13.2 has no use for an empty list. Here it asks for the whole block, so
    that the fall-back needs no help from the application.
    """

    OPCODE: ClassVar[int] = DigMessageType.REQUEST_BLOCK_TRANSACTIONS

    block_hash: bytes
    missing_indices: tuple[int, ...]

    def __bytes__(self) -> bytes:
        try:
            indices = struct.pack(f"!{len(self.missing_indices)}H", *self.missing_indices)
        except struct.error:
            raise malformed("an index is 0..65535") from None
        count = streamable.uint(len(self.missing_indices), 4)
        return streamable.raw(self.block_hash, HASH_BYTES) + count + indices

    @classmethod
    def from_bytes(cls, data: bytes) -> RequestBlockTransactions:
        """Decode a body.

        :raises ClientError: (malformed) anything else.
        """
        reader = Reader(data)
        body = cls(reader.raw(HASH_BYTES), reader.items(lambda: reader.uint(2), 2))
        reader.finish()
        return body

    def violation(self) -> str | None:
        """Which rule is broken, if any."""
        if len(self.missing_indices) > MAX_REQUESTED_TRANSACTIONS:
            return "at most 64 transactions may be asked for"
        if not _increases(self.missing_indices):
            return "indices must be strictly increasing"
        return None


@attrs.frozen
class RespondBlockTransactions:
    """210: the transactions that 209 asked for, in the same order."""

    OPCODE: ClassVar[int] = DigMessageType.RESPOND_BLOCK_TRANSACTIONS

    block_hash: bytes
    transactions: tuple[bytes, ...] = attrs.field(repr=lambda them: f"<{len(them)}>")

    def __bytes__(self) -> bytes:
        return streamable.raw(self.block_hash, HASH_BYTES) + streamable.items(
            self.transactions, streamable.blob
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> RespondBlockTransactions:
        """Decode a body.

        :raises ClientError: (malformed) anything else.
        """
        reader = Reader(data)
        body = cls(reader.raw(HASH_BYTES), reader.items(reader.blob, 4, MAX_BLOCK_TRANSACTIONS))
        reader.finish()
        return body


def _read_short_ids(reader: Reader) -> tuple[bytes, ...]:
    count = reader.uint(4)
    if count > MAX_BLOCK_TRANSACTIONS:
        raise malformed(f"{count} short ids, at most {MAX_BLOCK_TRANSACTIONS} are allowed")
    joined = reader.raw(count * SHORT_TX_ID_BYTES)
    step = SHORT_TX_ID_BYTES
    return tuple([joined[start : start + step] for start in range(0, len(joined), step)])


def _increases(indices: tuple[int, ...] | list[int]) -> bool:
    return all(low < high for low, high in pairwise(indices))
