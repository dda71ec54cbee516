"""The sending half of compact blocks: what is built, what is kept, what is served.

Engines row of the stage table; pure. Source: behaviour CBK-001, CBK-006, CBK-101-X.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from dig_gossip.constants import (
    COMPACT_FRESH_SECS,
    COMPACT_KEPT_BLOCKS,
    COMPACT_KEPT_BYTES,
    COMPACT_KEPT_SECS,
    COMPACT_MAX_FRESH,
)
from dig_gossip.gossip.compact_provider import SplitBlock
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.compact import (
    KEY_BYTES,
    NewCompactBlock,
    Prefilled,
    RequestBlockTransactions,
    RespondBlockTransactions,
    short_tx_id,
)
from dig_gossip.wire.message import Message

#: A peer gets no more than this many times a block's bytes for its requests: all transactions
#: once in parts, once as a whole.
SERVED_COPIES: Final = 2


def build(split: SplitBlock, prefilled: Iterable[int]) -> NewCompactBlock:
    """Make a compact block.

    Index 0, and transactions whose short ids collide within the block, are prefilled in any case.

    :param prefilled: further indices to prefill.
    Cost: O(transactions), about 2 µs each.
    """
    key = split.header_hash[:KEY_BYTES]
    shorts = [short_tx_id(key, tx_id) for tx_id in split.tx_ids]
    counts = Counter(shorts)
    chosen = {index for index, short in enumerate(shorts) if not index or counts[short] > 1}
    chosen.update(prefilled)
    return NewCompactBlock(
        header_hash=split.header_hash,
        height=split.height,
        short_tx_ids=tuple([short for i, short in enumerate(shorts) if i not in chosen]),
        prefilled_txs=tuple([Prefilled(i, split.transactions[i]) for i in sorted(chosen)]),
        sip_hash_key=key,
        header=split.header,
    )


class FreshTransactions:
    """Transactions heard of within the last two seconds: others may not have them yet.

    Bounded: 4096, the earliest goes first.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._heard: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard)

    def __contains__(self, tx_id: bytes) -> bool:
        return self._now() - self._heard.get(tx_id, -COMPACT_FRESH_SECS) < COMPACT_FRESH_SECS

    def heard(self, tx_id: bytes) -> None:
        """Note a transaction, unless it is noted already."""
        if tx_id in self._heard:
            return
        self._heard[tx_id] = self._now()
        if len(self._heard) > COMPACT_MAX_FRESH:
            self._heard.popitem(last=False)


class Predictions:
    """How well what one node lacked tells what the next one lacks.

    Where mempools differ by chance it tells nothing, and prefilling is a waste. Two things show
    which it is: how much of what came prefilled was lacking here, and how much of what others ask
    of us we had lacked, too. The latest blocks count most; after some that showed nothing it is
    given another try.
    """

    _DECAY: Final = 0.5
    _PRIOR: Final = 0.25  # of a transaction that was useful

    def __init__(self) -> None:
        self._seen = 0.0
        self._useful = 0.0

    @property
    def usefulness(self) -> float:
        """Between 0 and 1; 1 while nothing is known."""
        return (self._useful + self._PRIOR) / (self._seen + self._PRIOR)

    def seen(self, count: int, useful: int) -> None:
        """Note a block: transactions that were guessed, or asked for, and the right guesses."""
        self._seen = self._seen * self._DECAY + count
        self._useful = self._useful * self._DECAY + useful


class KeptBlock:
    """A block that was sent, or is about to be.

    :ivar message: in full.
    :ivar compact: the message that stands for it.
    :ivar served: bytes given to each peer that was sent the compact form.
    """

    __slots__ = ("compact", "kept_at", "message", "served", "split")

    def __init__(self, message: Message, split: SplitBlock, kept_at: float) -> None:
        self.message = message
        self.split = split
        self.kept_at = kept_at
        self.compact: Message | None = None
        self.served: dict[PeerId, int] = {}

    def serve(
        self, peer: PeerId, request: RequestBlockTransactions
    ) -> RespondBlockTransactions | None:
        """Answer a request for transactions of this block; None if the peer is owed nothing.

        A peer that was not sent the compact form is owed nothing, nor is one that has had what it
        can need. Source: behaviour CBK-101-X.
        """
        served = self.served.get(peer)
        transactions = self.split.transactions
        indices = request.missing_indices
        if served is None or (indices and indices[-1] >= len(transactions)):
            return None
        chosen = tuple([transactions[i] for i in indices]) if indices else tuple(transactions)
        size = sum(map(len, chosen)) + len(chosen)
        if served + size > SERVED_COPIES * (len(self.message) + len(transactions)):
            return None
        self.served[peer] = served + size
        return RespondBlockTransactions(request.block_hash, chosen)


class KeptBlocks:
    """The latest blocks, for peers that lack transactions of them.

    Bounded: 10 blocks, 64 MiB (twice: in full and in parts), 10 minutes; the earliest goes first.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._blocks: OrderedDict[bytes, KeptBlock] = OrderedDict()
        #: serialized bytes of the blocks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._blocks)

    def get(self, header_hash: bytes) -> KeptBlock | None:
        """A block that is still kept."""
        kept = self._blocks.get(header_hash)
        if kept is None or self._now() - kept.kept_at >= COMPACT_KEPT_SECS:
            return None
        return kept

    def add(self, message: Message, split: SplitBlock) -> KeptBlock:
        """Keep a block that is not kept yet."""
        self.remove(split.header_hash)
        kept = KeptBlock(message, split, self._now())
        self._blocks[split.header_hash] = kept
        self.size += len(message)
        while len(self._blocks) > 1 and (
            len(self._blocks) > COMPACT_KEPT_BLOCKS or self.size > COMPACT_KEPT_BYTES
        ):
            self.remove(next(iter(self._blocks)))
        return kept

    def remove(self, header_hash: bytes) -> None:
        """Forget a block, if it is kept."""
        kept = self._blocks.pop(header_hash, None)
        if kept is not None:
            self.size -= len(kept.message)
