"""The tables of the address book: which slot an address gets, and who lies in which slot.

A slot is a number: its bucket times 64 plus its position. Engines row of the stage table; pure.
Source: behaviour ADR-002, wire §17.2; Bitcoin Core ``addrman``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random
from struct import Struct
from typing import Final, Generic, TypeAlias, TypeVar

BUCKET_SIZE: Final = 64
NEW_BUCKET_COUNT: Final = 1024
TRIED_BUCKET_COUNT: Final = 256
NEW_BUCKETS_PER_SOURCE_GROUP: Final = 64
TRIED_BUCKETS_PER_GROUP: Final = 8
NEW_SLOTS: Final = NEW_BUCKET_COUNT * BUCKET_SIZE
TRIED_SLOTS: Final = TRIED_BUCKET_COUNT * BUCKET_SIZE

KEY_BYTES: Final = 32

_WORDS = Struct("<128Q")

Node = TypeVar("Node")

#: Stands for a network: the number of an autonomous system, or the bytes of a group.
NetworkKey: TypeAlias = int | bytes


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


class Network(Generic[Node]):
    """What lies in one network, as far as one table is concerned.

    :ivar lying: who lies in each of its slots, at least one; to be read only.
    """

    __slots__ = ("key", "lying", "place", "slots")

    def __init__(self, key: NetworkKey, place: int) -> None:
        self.key = key
        self.place = place
        self.slots: list[int] = []
        self.lying: list[Node] = []


class SlotTable(Generic[Node]):
    """Who lies where, with the used slots listed by network so that drawing a network, and then
    one of its slots, needs no search.

    Bounded: ``size`` slots, and no network without one. Cost: O(1) for everything but
    :meth:`used`.

    :ivar networks: all that have a used slot, in no particular order; to be read only.
    """

    def __init__(self, size: int) -> None:
        self._nodes: list[Node | None] = [None] * size
        self._homes: list[Network[Node] | None] = [None] * size
        self._place = [0] * size
        self._count = 0
        self._by_key: dict[NetworkKey, Network[Node]] = {}
        self.networks: list[Network[Node]] = []

    def __len__(self) -> int:
        """How many slots are used."""
        return self._count

    def get(self, slot: int) -> Node | None:
        """Who lies in a slot."""
        return self._nodes[slot]

    def put(self, slot: int, node: Node, key: NetworkKey) -> None:
        """Fill a slot that is free with a node of a network."""
        if self._nodes[slot] is not None:
            raise ValueError(f"slot {slot} is taken")
        network = self._by_key.get(key)
        if network is None:
            network = self._by_key[key] = Network(key, len(self.networks))
            self.networks.append(network)
        self._nodes[slot] = node
        self._homes[slot] = network
        self._place[slot] = len(network.slots)
        network.slots.append(slot)
        network.lying.append(node)
        self._count += 1

    def clear(self, slot: int) -> None:
        """Empty a slot that is used."""
        network = self._homes[slot]
        if network is None:
            raise ValueError(f"slot {slot} is free")
        self._nodes[slot] = self._homes[slot] = None
        self._count -= 1
        place, last, node = self._place[slot], network.slots.pop(), network.lying.pop()
        if last != slot:
            network.slots[place] = last
            network.lying[place] = node
            self._place[last] = place
        elif not network.slots:
            self._forget(network)

    def _forget(self, network: Network[Node]) -> None:
        del self._by_key[network.key]
        last = self.networks.pop()
        if last is not network:
            self.networks[network.place] = last
            last.place = network.place

    def used(self) -> list[int]:
        """The used slots, in no particular order."""
        return [slot for network in self.networks for slot in network.slots]


class RandomWords:
    """Random numbers of 64 bits, fetched 128 at a time: a system call each would cost more than
    everything else in a selection.

    Bounded: 128 numbers.
    """

    def __init__(self, rng: Random) -> None:
        #: The next number, 0 to 2**64 - 1. The method of a generator: no call costs less.
        self.next: Callable[[], int] = _endless(rng).__next__

    def below(self, limit: int) -> int:
        """A number from 0 to ``limit - 1``; ``limit`` is at most 2**32."""
        return self.next() * limit >> 64


def _endless(rng: Random) -> Iterator[int]:
    while True:
        yield from _WORDS.unpack(rng.randbytes(_WORDS.size))
