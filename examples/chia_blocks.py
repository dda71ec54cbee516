"""Compact blocks of Chia's own: a provider for ``FullBlock`` and ``SpendBundle`` of ``chia_rs``.

A block of Chia's holds one program, the generator, that lists the coin spends of all its
transactions. Where it is a plain list, ``(q . ((spend spend …)))``, it can be cut into the spends
and put together again. So what compact blocks call a transaction is one coin spend here; those of
the mempool come from its spend bundles. Generators that are compressed (with back-references), or
that refer to earlier blocks, are programs of another form: such blocks travel in full.

Use it like this, and keep it up to date with your mempool::

    blocks = ChiaBlockProvider()
    handle.set_compact_block_provider(blocks)
    blocks.add(spend_bundle)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from chia_rs import FullBlock, Program, SpendBundle, solution_generator
from chia_rs.sized_ints import uint32
from zope.interface import implementer

from dig_gossip import ChiaMessageType, ICompactBlockProvider, Message, SplitBlock
from dig_gossip.wire.chia import RequestBlock, RespondBlock

# (q . (spends)): a pair, the quote, a pair whose first is the list of spends and whose rest is nil.
_BEGIN = b"\xff\x01\xff"
_PAIR, _NIL = b"\xff", b"\x80"


def spends_of(bundle: SpendBundle) -> list[bytes]:
    """The coin spends of a bundle as a generator lists them."""
    return [
        solution_generator([(spend.coin, bytes(spend.puzzle_reveal), bytes(spend.solution))])[
            len(_BEGIN + _PAIR) : -len(_NIL + _NIL)
        ]
        for spend in bundle.coin_spends
    ]


def generator_of(spends: Iterable[bytes]) -> bytes:
    """The generator that lists these coin spends."""
    return _BEGIN + b"".join(_PAIR + spend for spend in spends) + _NIL + _NIL


def cut(generator: bytes) -> list[bytes] | None:
    """The coin spends that a generator lists; None if it is of another form."""
    if not generator.startswith(_BEGIN):
        return None
    spends = []
    position = len(_BEGIN)
    while generator[position : position + 1] == _PAIR:
        try:
            _, length = Program.parse_rust(generator[position + 1 :], trusted=False)
        except ValueError:
            return None
        spends.append(generator[position + 1 : position + 1 + length])
        position += 1 + length
    return spends if generator_of(spends) == generator else None


@implementer(ICompactBlockProvider)
class ChiaBlockProvider:
    """The coin spends of the mempool, and how blocks are cut into coin spends."""

    opcodes = frozenset({int(ChiaMessageType.RESPOND_BLOCK)})

    def __init__(self) -> None:
        self._spends: dict[bytes, bytes] = {}

    def add(self, bundle: SpendBundle) -> None:
        """A transaction has entered the mempool."""
        self._spends.update((self.tx_id(spend), spend) for spend in spends_of(bundle))

    def remove(self, bundle: SpendBundle) -> None:
        """A transaction has left the mempool."""
        for spend in spends_of(bundle):
            self._spends.pop(self.tx_id(spend), None)

    def split(self, message: Message) -> SplitBlock | None:
        block = RespondBlock.from_bytes(message.data).block
        if block.transactions_generator is None or block.transactions_generator_ref_list:
            return None
        spends = cut(bytes(block.transactions_generator))
        if spends is None:
            return None
        return SplitBlock(
            header_hash=block.header_hash,
            height=block.height,
            header=bytes(block.replace(transactions_generator=None)),
            transactions=spends,
            tx_ids=[self.tx_id(spend) for spend in spends],
        )

    def join(
        self, header_hash: bytes, height: int, header: bytes, txs: Sequence[bytes]
    ) -> Message | None:
        block = FullBlock.from_bytes(header)
        generator = generator_of(txs)
        info = block.transactions_info
        if info is None or info.generator_root != sha256(generator).digest():
            return None
        block = block.replace(transactions_generator=Program.from_bytes(generator))
        return Message(ChiaMessageType.RESPOND_BLOCK, None, bytes(RespondBlock(block)))

    def header_hash(self, header: bytes) -> bytes | None:
        # A real node checks here, too, whether this header can be a block at all.
        return FullBlock.from_bytes(header).header_hash

    def tx_id(self, transaction: bytes) -> bytes:
        return sha256(transaction).digest()

    def mempool(self) -> Iterable[bytes]:
        return self._spends.keys()

    def transaction(self, tx_id: bytes) -> bytes | None:
        return self._spends.get(tx_id)

    def block_request(self, header_hash: bytes, height: int) -> RequestBlock:
        return RequestBlock(uint32(height), True)
