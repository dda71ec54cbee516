"""The tables of the address book: which slot an address gets, and who lies in which slot.

A slot is a number: its bucket times 64 plus its position. Engines row of the stage table; pure.
Source: behaviour ADR-002, wire §17.2; Bitcoin Core ``addrman``.
"""

from __future__ import annotations

from hashlib import sha256
from random import Random
from struct import Struct
from typing import Final, Generic, TypeVar

BUCKET_SIZE: Final = 64
NEW_BUCKET_COUNT: Final = 1024
TRIED_BUCKET_COUNT: Final = 256
NEW_BUCKETS_PER_SOURCE_GROUP: Final = 64
TRIED_BUCKETS_PER_GROUP: Final = 8
NEW_SLOTS: Final = NEW_BUCKET_COUNT * BUCKET_SIZE
TRIED_SLOTS: Final = TRIED_BUCKET_COUNT * BUCKET_SIZE

KEY_BYTES: Final = 32

_WORDS = Struct("<256I")

Node = TypeVar("Node")


class Placement:
    """Maps addresses to slots in a way that only the holder of the key can foresee.

    :param key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self.key = key

    def new_slot(self, group: bytes, address_key: bytes, source_group: bytes) -> int:
        """The slot of the new table for an address from one source.

        All that one source group tells lies in 64 of the 1024 buckets.
        """
        key = self.key
        choice = _number(key + group + source_group) % NEW_BUCKETS_PER_SOURCE_GROUP
        bucket = _number(key + source_group + _BYTES[choice]) % NEW_BUCKET_COUNT
        return self._slot(b"N", bucket, address_key)

    def tried_slot(self, group: bytes, address_key: bytes) -> int:
        """The one slot of the tried table that an address can have.

        All addresses of one group lie in 8 of the 256 buckets.
        """
        key = self.key
        choice = _number(key + address_key) % TRIED_BUCKETS_PER_GROUP
        bucket = _number(key + group + _BYTES[choice]) % TRIED_BUCKET_COUNT
        return self._slot(b"K", bucket, address_key)

    def _slot(self, table: bytes, bucket: int, address_key: bytes) -> int:
        position = _number(self.key + table + bucket.to_bytes(3, "big") + address_key)
        return bucket * BUCKET_SIZE + position % BUCKET_SIZE


_BYTES = [bytes((number,)) for number in range(NEW_BUCKETS_PER_SOURCE_GROUP)]


def _number(data: bytes) -> int:
    """The last 16 of the first 64 bits of the hash: all that a modulus up to 65 536 looks at."""
    digest = sha256(data).digest()
    return digest[6] << 8 | digest[7]


class SlotTable(Generic[Node]):
    """Who lies where, with a list of the used slots so that drawing one needs no search.

    Bounded: ``size`` slots. Cost: O(1) for everything.
    """

    def __init__(self, size: int) -> None:
        self._nodes: list[Node | None] = [None] * size
        self._used: list[int] = []
        self._place = [0] * size

    def __len__(self) -> int:
        """How many slots are used."""
        return len(self._used)

    def get(self, slot: int) -> Node | None:
        """Who lies in a slot."""
        return self._nodes[slot]

    def put(self, slot: int, node: Node) -> None:
        """Fill a slot that is free."""
        if self._nodes[slot] is not None:
            raise ValueError(f"slot {slot} is taken")
        self._nodes[slot] = node
        self._place[slot] = len(self._used)
        self._used.append(slot)

    def clear(self, slot: int) -> None:
        """Empty a slot that is used."""
        if self._nodes[slot] is None:
            raise ValueError(f"slot {slot} is free")
        self._nodes[slot] = None
        place, last = self._place[slot], self._used.pop()
        if last != slot:
            self._used[place] = last
            self._place[last] = place

    def used(self) -> list[int]:
        """The used slots, in no particular order."""
        return list(self._used)

    def draw(self, word: int) -> Node:
        """A used slot's node, each with the same chance.

        :param word: 32 random bits. The table must not be empty.
        """
        node = self._nodes[self._used[word * len(self._used) >> 32]]
        if node is None:  # pragma: no cover - put and clear keep both lists in step
            raise RuntimeError("a used slot is empty")
        return node


class RandomWords:
    """Random numbers of 32 bits, fetched 256 at a time: a system call each would cost more than
    everything else in a selection.

    Bounded: 256 numbers.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._words: list[int] = []

    def next(self) -> int:
        """The next number, 0 to 2**32 - 1."""
        if not self._words:
            self._words = list(_WORDS.unpack(self._rng.randbytes(_WORDS.size)))
        return self._words.pop()
