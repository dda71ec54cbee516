"""Blocks and transactions of the simplest kind, for tests and simulations of an application.

Part of the test kit. A block is a ``RespondBlock`` message whose data is a header (height, the hash
of all transactions, filling) and the transactions, each after its length::

    pool = PoolProvider()
    pool.add(b"a transaction")
    handle.set_compact_block_provider(pool)
    await handle.broadcast(make_block(7, [b"a transaction", b"another one"]))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from random import Random

from chia_rs import Coin, CoinSpend, G2Element, Program, SpendBundle
from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint64
from zope.interface import implementer

from dig_gossip.errors import ClientError
from dig_gossip.gossip.compact_provider import ICompactBlockProvider, SplitBlock
from dig_gossip.wire import streamable
from dig_gossip.wire.chia import NewTransaction
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.streamable import Reader

_HASH = 32


def make_transaction(rng: Random, size: int = 450) -> bytes:
    """A transaction that nobody has made before: an encoded ``SpendBundle`` of one spend.

    :param size: bytes, about; 250 and up.
    """
    filling = bytes(rng.randrange(1, 128) for _ in range(32)).ljust(max(64, size - 186), b".")
    atom = bytes((0xC0 | len(filling) >> 8, len(filling) & 0xFF)) + filling
    coin = Coin(bytes32(rng.randbytes(32)), bytes32(rng.randbytes(32)), uint64(1))
    spend = CoinSpend(coin, Program.from_bytes(b"\x01"), Program.from_bytes(atom))
    return bytes(SpendBundle([spend], G2Element()))


def tx_id_of(transaction: bytes) -> bytes:
    """The id of a transaction: its SHA-256."""
    return sha256(transaction).digest()


def announcement_of(transaction: bytes) -> Message:
    """The ``NewTransaction`` of a transaction: it costs its length, and pays nothing."""
    cost = uint64(len(transaction))
    body = NewTransaction(bytes32(tx_id_of(transaction)), cost, uint64(0))
    return Message(ChiaMessageType.NEW_TRANSACTION, None, bytes(body))


def make_block(height: int, transactions: Sequence[bytes], filling: bytes = b"") -> Message:
    """A block that holds these transactions.

    :param filling: makes the header longer.
    """
    root = sha256(b"".join(map(tx_id_of, transactions))).digest()
    header = streamable.uint(height, 4) + root + streamable.blob(filling)
    return _encode(header, transactions)


def _encode(header: bytes, transactions: Sequence[bytes]) -> Message:
    data = streamable.blob(header) + streamable.items(transactions, streamable.blob)
    return Message(ChiaMessageType.RESPOND_BLOCK, None, data)


@implementer(ICompactBlockProvider)
class PoolProvider:
    """A mempool, and the blocks of :func:`make_block`.

    :ivar pool: transactions by id.
    :ivar checks_root: whether ``join`` compares the transactions with the header.
    :ivar request: what ``block_request`` answers.
    """

    opcodes = frozenset({int(ChiaMessageType.RESPOND_BLOCK)})

    def __init__(self, *, checks_root: bool = True) -> None:
        self.pool: dict[bytes, bytes] = {}
        self.checks_root = checks_root
        self.request: object = None

    def add(self, *transactions: bytes) -> None:
        """Put transactions into the mempool."""
        self.pool.update((tx_id_of(transaction), transaction) for transaction in transactions)

    def remove(self, *transactions: bytes) -> None:
        """Take transactions out of it."""
        for transaction in transactions:
            self.pool.pop(tx_id_of(transaction), None)

    def split(self, message: Message) -> SplitBlock | None:
        try:
            reader = Reader(message.data)
            header = reader.blob()
            transactions = reader.items(reader.blob, 4)
            reader.finish()
            height = Reader(header).uint(4)
        except ClientError:
            return None
        return SplitBlock(
            header_hash=sha256(header).digest(),
            height=height,
            header=header,
            transactions=transactions,
            tx_ids=tuple(map(tx_id_of, transactions)),
        )

    def join(
        self, header_hash: bytes, height: int, header: bytes, txs: Sequence[bytes]
    ) -> Message | None:
        root = sha256(b"".join(map(tx_id_of, txs))).digest()
        if self.checks_root and root != header[4 : 4 + _HASH]:
            return None
        return _encode(header, txs)

    def header_hash(self, header: bytes) -> bytes | None:
        return sha256(header).digest() if len(header) >= 4 + _HASH else None

    def tx_id(self, transaction: bytes) -> bytes | None:
        return tx_id_of(transaction)

    def mempool(self) -> Iterable[bytes]:
        return tuple(self.pool)

    def transaction(self, tx_id: bytes) -> bytes | None:
        return self.pool.get(tx_id)

    def block_request(self, header_hash: bytes, height: int) -> object:
        return self.request
