"""Bodies of ERLAY, opcodes 211 and 212, and the numbers that stand for transactions in them.

A body that decodes may still break a rule between its fields; ``violation()`` says which. Source:
wire §13.3.
"""

from __future__ import annotations

import enum
from hashlib import sha256
from itertools import pairwise
from typing import ClassVar, Final

import attrs

from dig_gossip.constants import ERLAY_MAX_CAPACITY
from dig_gossip.wire import streamable
from dig_gossip.wire.opcodes import DigMessageType
from dig_gossip.wire.streamable import Reader, preview

SALT_BYTES: Final = 16
ELEMENT_BYTES: Final = 8


def element_of(salt: bytes, tx_id: bytes) -> int:
    """The number that stands for a transaction on one session.

    :param salt: 16 bytes of the session's initiator, so that nobody can look for transactions
        that share a number.
    :param tx_id: 32 bytes.
    :returns: 1 to 2^64 - 1.
    """
    return int.from_bytes(sha256(salt + tx_id).digest()[:ELEMENT_BYTES], "little") or 1


class ReconciliationStatus(enum.IntEnum):
    """What became of a sketch."""

    DECODED = 0
    EXTEND = 1
    FAILED = 2
    DECLINED = 3


@attrs.frozen(kw_only=True)
class ReconciliationSketch:
    """211: what the dialer has to offer; answered by 212.

    :ivar sketch: 8 bytes a syndrome, those from ``sketch_offset`` on.
    :ivar sketch_capacity: 1 to 128.
    :ivar sketch_offset: 0 at first; in the extension the number of syndromes sent before.
    :ivar set_size: how many transactions the sketch is of, u32.
    :ivar salt: 16 bytes, the same for the whole session.
    """

    OPCODE: ClassVar[int] = DigMessageType.RECONCILIATION_SKETCH

    sketch: bytes = attrs.field(repr=preview)
    sketch_capacity: int
    sketch_offset: int
    set_size: int
    salt: bytes

    def __bytes__(self) -> bytes:
        return b"".join(
            (
                streamable.blob(self.sketch),
                streamable.uint(self.sketch_capacity, 4),
                streamable.uint(self.sketch_offset, 4),
                streamable.uint(self.set_size, 4),
                streamable.raw(self.salt, SALT_BYTES),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> ReconciliationSketch:
        """Decode a body.

        :raises ClientError: (malformed) anything else.
        """
        reader = Reader(data)
        body = cls(
            sketch=reader.blob(),
            sketch_capacity=reader.uint(4),
            sketch_offset=reader.uint(4),
            set_size=reader.uint(4),
            salt=reader.raw(SALT_BYTES),
        )
        reader.finish()
        return body

    def violation(self) -> str | None:
        """Say which rule between the fields is broken."""
        if not 1 <= self.sketch_capacity <= ERLAY_MAX_CAPACITY:
            return f"a capacity of {self.sketch_capacity}"
        if self.sketch_offset >= self.sketch_capacity:
            return "an offset beyond the capacity"
        if len(self.sketch) != ELEMENT_BYTES * (self.sketch_capacity - self.sketch_offset):
            return "a sketch of another length than its capacity says"
        return None


@attrs.frozen(kw_only=True)
class ReconciliationResponse:
    """212: the answer to 211.

    :ivar status: a :class:`ReconciliationStatus`, u8.
    :ivar set_size: how many transactions the answering side has, u32; 0 when it declines.
    :ivar missing: elements that only the asking side has, rising; empty unless decoded.
    """

    OPCODE: ClassVar[int] = DigMessageType.RECONCILIATION_RESPONSE

    status: int
    set_size: int
    missing: tuple[int, ...] = ()

    def __bytes__(self) -> bytes:
        return b"".join(
            (
                streamable.uint(self.status, 1),
                streamable.uint(self.set_size, 4),
                streamable.items(
                    self.missing, lambda element: streamable.uint(element, ELEMENT_BYTES)
                ),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> ReconciliationResponse:
        """Decode a body.

        :raises ClientError: (malformed) anything else.
        """
        reader = Reader(data)
        body = cls(
            status=reader.uint(1),
            set_size=reader.uint(4),
            missing=reader.items(lambda: reader.uint(ELEMENT_BYTES), ELEMENT_BYTES),
        )
        reader.finish()
        return body

    def violation(self) -> str | None:
        """Say which rule between the fields is broken."""
        if self.status > max(ReconciliationStatus):
            return f"a status of {self.status}"
        if self.missing and self.status != ReconciliationStatus.DECODED:
            return "missing elements without a decoded sketch"
        if any(one >= next_one for one, next_one in pairwise(self.missing)):
            return "missing elements that do not rise"
        return None
