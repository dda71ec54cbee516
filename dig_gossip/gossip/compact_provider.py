"""What an application supplies so that its blocks can travel without their transactions.

Engines row of the stage table; pure. The node knows no block format: it is told how to take a
block apart and put it together, and which transactions are at hand. Source: behaviour §23.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
from zope.interface import Attribute, Interface

from dig_gossip.wire.message import Message


@attrs.frozen(kw_only=True)
class SplitBlock:
    """A block taken apart.

    :ivar header_hash: 32 bytes, the hash that ``header_hash(header)`` gives.
    :ivar height: 0..2**32-1.
    :ivar header: everything but the transactions, in an encoding of the application's own.
    :ivar transactions: encodings, in block order, at most 65 535.
    :ivar tx_ids: 32 bytes for each of them.
    """

    header_hash: bytes
    height: int
    header: bytes
    transactions: Sequence[bytes]
    tx_ids: Sequence[bytes]


class ICompactBlockProvider(Interface):
    """Knows the application's blocks and transactions.

    Every method is called on the reactor's thread, must not wait, and must be cheap enough for
    it. An exception counts as None and is logged. What a peer sent reaches ``header_hash``,
    ``tx_id``, ``split`` and ``join`` unchecked.
    """

    opcodes: frozenset[int] = Attribute(
        "The opcodes of messages that hold a whole block, such as RESPOND_BLOCK. They are messages "
        "that are broadcast, or answers to ``block_request``."
    )

    def split(message: Message) -> SplitBlock | None:
        """Take a block apart; None if this message cannot be taken apart.

        ``join`` must give back the same message. A block for which it does not is sent in full.
        """

    def join(
        header_hash: bytes, height: int, header: bytes, txs: Sequence[bytes]
    ) -> Message | None:
        """Put a block together, byte for byte as it was.

        :returns: the message; None if these are not the transactions that the header commits to.
            Without such a check, a block of wrong transactions is found out by whoever validates.
        """

    def header_hash(header: bytes) -> bytes | None:
        """The hash of a header, 32 bytes; None if these bytes are no header."""

    def tx_id(transaction: bytes) -> bytes | None:
        """The id of a transaction, 32 bytes; None if these bytes are none."""

    def mempool() -> Iterable[bytes]:
        """The ids of all transactions that may be in the next blocks, in a snapshot.

        It is read over several turns of the reactor, so it must not change meanwhile.
        """

    def transaction(tx_id: bytes) -> bytes | None:
        """A transaction of the mempool as blocks carry it; None if it is gone."""

    def block_request(header_hash: bytes, height: int) -> Any:
        """The body of the application's own request for a whole block, such as ``RequestBlock``.

        The last resort with each peer. Its answer must be a message that ``split`` understands.
        None: there is no such request.
        """
