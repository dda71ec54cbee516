"""The receiving half of compact blocks: one block that is being put together.

Engines row of the stage table; pure. Source: behaviour CBK-003, CBK-005.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from dig_gossip.constants import COMPACT_MATCH_SLICE, COMPACT_MAX_REQUESTS
from dig_gossip.types.config import CompactBlockConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.compact import (
    MAX_REQUESTED_TRANSACTIONS,
    NewCompactBlock,
    short_tx_id,
)

#: Bytes of request and answer around up to 64 transactions, and around each transaction.
_ROUND_BYTES: Final = 36 + 8 + 36 + 8 + 4
_EACH_BYTES: Final = 4 + 2
_GUESSED_TX_BYTES: Final = 256  # where not a single transaction is known
#: An answer must stay clear of the 2 MiB that one message may have.
_ANSWER_BYTES: Final = 1_048_576


class Asking(enum.Enum):
    """What was asked of the current peer."""

    NOTHING = "nothing"  # the mempool is being searched
    MISSING = "missing"  # the transactions that are not in the mempool
    WHOLE = "whole"  # all transactions
    BLOCK = "block"  # the application's own request


class Rebuilding:
    """One block on its way from short ids to bytes.

    :ivar peer: the peer that is asked; at first the sender of ``compact``.
    :ivar announcers: other peers that have sent the same block, at most 8.
    :ivar slots: the transactions, None for those that are not here.
    :ivar waiting: indices of each request under way, by its number.
    :ivar matched: transactions that were taken from the mempool.
    :ivar lacked: indices of transactions that were not in the mempool: others may lack them too.
    :ivar blame: hash of the message that was put together first and that the validator rejected,
        with the reason; the sender is charged if the whole block is the same.
    """

    __slots__ = (
        "_candidates",
        "_found",
        "_wanted",
        "ambiguous",
        "announcers",
        "asking",
        "blame",
        "compact",
        "lacked",
        "matched",
        "peer",
        "requests",
        "sender",
        "slots",
        "waiting",
    )

    def __init__(self, peer: PeerId, compact: NewCompactBlock, mempool: Iterable[bytes]) -> None:
        self.peer = self.sender = peer
        self.compact = compact
        self.announcers: list[PeerId] = []
        self.asking = Asking.NOTHING
        self.slots: list[bytes | None] = [None] * compact.total
        self.waiting: dict[int, tuple[int, ...]] = {}
        self.requests = 0
        self.matched = 0
        self.ambiguous = 0
        self.lacked: tuple[int, ...] = ()
        self.blame: tuple[bytes, PenaltyReason] | None = None
        for filled in compact.prefilled_txs:
            self.slots[filled.index] = filled.transaction
        #: index of each short id; -1 where the block itself repeats one
        self._wanted: dict[bytes, int] = {}
        for index, short in self.short_ids():
            if short in self._wanted:
                self.ambiguous += 1
                index = -1
            self._wanted[short] = index
        #: the transaction of the mempool for an index; None where two answer to its short id
        self._found: dict[int, bytes | None] = {}
        self._candidates: Iterator[bytes] = iter(mempool)

    @property
    def header_hash(self) -> bytes:
        """Names the block."""
        return self.compact.header_hash

    def short_ids(self) -> Iterator[tuple[int, bytes]]:
        """The places that are not prefilled, with their short ids, in block order."""
        filled = {each.index for each in self.compact.prefilled_txs}
        places = (index for index in range(self.compact.total) if index not in filled)
        return zip(places, self.compact.short_tx_ids, strict=True)

    def match(self) -> bool:
        """Search a slice of the mempool.

        :returns: whether the search is over.
        Cost: 1000 hashes, a few milliseconds.
        """
        if not self._wanted:
            return True
        key, wanted, found = self.compact.sip_hash_key, self._wanted, self._found
        count = 0
        for tx_id in islice(self._candidates, COMPACT_MATCH_SLICE):
            count += 1
            index = wanted.get(short_tx_id(key, tx_id), -1)
            if index < 0:
                continue
            if found.setdefault(index, tx_id) != tx_id:
                self.ambiguous += 1
                found[index] = None
        return count < COMPACT_MATCH_SLICE

    def fill(self, transaction: Callable[[bytes], bytes | None]) -> None:
        """Put what the search found in its place."""
        for index, tx_id in self._found.items():
            found = None if tx_id is None else transaction(tx_id)
            if found is not None:
                self.slots[index] = found
                self.matched += 1
        self._found, self._wanted, self._candidates = {}, {}, iter(())

    def missing(self) -> tuple[int, ...]:
        """The indices that are not here, in increasing order."""
        return tuple([index for index, slot in enumerate(self.slots) if slot is None])

    def forget_transactions(self) -> None:
        """Give the memory back; what can still be done is to ask for all of them."""
        self.slots = [None] * self.compact.total
        self.waiting.clear()

    def agrees(self, transactions: Sequence[bytes], tx_id: Callable[[bytes], bytes | None]) -> bool:
        """Whether a list of all transactions is the one that the short ids announced."""
        if len(transactions) != self.compact.total:
            return False
        return all(
            filled.transaction == transactions[filled.index]
            for filled in self.compact.prefilled_txs
        ) and all(
            self.is_at(transactions[index], short, tx_id) for index, short in self.short_ids()
        )

    def is_at(
        self, transaction: bytes, short: bytes, tx_id: Callable[[bytes], bytes | None]
    ) -> bool:
        """Whether a transaction has the short id of its place."""
        found = tx_id(transaction)
        return found is not None and short_tx_id(self.compact.sip_hash_key, found) == short


def plan(rebuilding: Rebuilding, config: CompactBlockConfig) -> list[tuple[int, ...]]:
    """Decide what to ask for.

    Two rules. By count: up to ``max_missing_transactions`` are asked for, beyond that the whole
    block. By bytes, if ``fetch_by_bytes``: the missing transactions, as long as that takes fewer
    bytes than the whole block, requests and answers included, and no more than 32 requests.

    :returns: the indices of each request, at most 64; nothing for the whole block.
    Source: behaviour CBK-005.
    """
    missing = rebuilding.missing()
    known = [len(slot) for slot in rebuilding.slots if slot is not None]
    mean = sum(known) / len(known) if known else _GUESSED_TX_BYTES
    each = max(1, min(MAX_REQUESTED_TRANSACTIONS, int(_ANSWER_BYTES // (mean + 1))))
    groups = [missing[start : start + each] for start in range(0, len(missing), each)]
    if len(missing) <= config.max_missing_transactions:
        return groups
    if not config.fetch_by_bytes or len(groups) > COMPACT_MAX_REQUESTS:
        return []
    parts = len(groups) * _ROUND_BYTES + len(missing) * (mean + _EACH_BYTES)
    whole = _ROUND_BYTES + len(rebuilding.slots) * (mean + 4)
    return groups if parts < whole else []
