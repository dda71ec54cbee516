"""The body of a transaction on its stem, opcode 213, and of the announcement that ends the stem.

Source: wire §13.4.
"""

from __future__ import annotations

from typing import ClassVar, Final

import attrs

from dig_gossip.wire import streamable
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType
from dig_gossip.wire.streamable import Reader, malformed, preview

#: The body of ``NewTransaction``: transaction id B32, cost u64, fees u64.
ANNOUNCEMENT_BYTES: Final = 48
TX_ID_BYTES: Final = 32
#: Around the payload: the announcement and a length.
STEM_OVERHEAD_BYTES: Final = ANNOUNCEMENT_BYTES + 4


@attrs.frozen
class StemTransaction:
    """213: a transaction that is not to be announced yet.

    :ivar announcement: 48 bytes, the body of the ``NewTransaction`` that ends the stem: id, cost,
        fees.
    :ivar payload: the encoded transaction.
    """

    OPCODE: ClassVar[int] = DigMessageType.STEM_TRANSACTION

    announcement: bytes = attrs.field(repr=preview)
    payload: bytes = attrs.field(repr=preview)

    @property
    def tx_id(self) -> bytes:
        """32 bytes."""
        return self.announcement[:TX_ID_BYTES]

    def __bytes__(self) -> bytes:
        return streamable.raw(self.announcement, ANNOUNCEMENT_BYTES) + streamable.blob(self.payload)

    @classmethod
    def from_bytes(cls, data: bytes) -> StemTransaction:
        """Decode a body.

        :raises ClientError: (malformed) anything else.
        """
        reader = Reader(data)
        body = cls(reader.raw(ANNOUNCEMENT_BYTES), reader.blob())
        reader.finish()
        return body


def announced_tx_id(opcode: int, data: bytes) -> bytes | None:
    """The transaction that a message announces; None if it announces none."""
    if opcode != ChiaMessageType.NEW_TRANSACTION or len(data) != ANNOUNCEMENT_BYTES:
        return None
    return data[:TX_ID_BYTES]


def check_announcement(tx_id: bytes, data: bytes) -> bytes:
    """Require that a body of ``NewTransaction`` announces this transaction.

    :raises ClientError: (malformed) it does not.
    """
    if len(data) != ANNOUNCEMENT_BYTES or data[:TX_ID_BYTES] != tx_id:
        raise malformed("announce is not the NewTransaction of this transaction")
    return data
