"""The address book as bytes: what a node keeps of it between two runs.

Engines row of the stage table; pure. All integers are big-endian::

    header   magic 8 · version u16 · key 32 · last_good u64
             number of sources u32 · of entries u32 · of collisions u8
    source   address
    entry    flags u8 (1: tried, 2: has a history) · address · timestamp u32 · source u32
             history, if any: last_success u32 · last_try u32 · last_count_attempt u32
                              num_attempts u32
             number of slots u8 · slot u16 each
    collision  number of the entry u32
    trailer  SHA-256 of everything before it

    address  kind u8 (4, 6: IP; 0: name) · 4 or 16 bytes, or length u8 and UTF-8 · port u16

Times are Unix seconds, so the format ends in 2106. An IPv4 entry that was never dialed takes 19
bytes, with a history 35; Chia's takes 22, and 16 more for each slot of the new table.

Source: behaviour DSC-002.1, DSC-002.2, wire §17.3.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv6Address
from struct import Struct
from struct import error as StructError
from typing import Any, Final

from dig_gossip.discovery.slots import KEY_BYTES, NEW_SLOTS, TRIED_SLOTS
from dig_gossip.discovery.values import AddressBook, ExtendedPeerInfo
from dig_gossip.errors import AddressManagerStore
from dig_gossip.types.ip import packed_ip
from dig_gossip.types.peer import PeerAddress

MAGIC: Final = b"DIGPEERS"
VERSION: Final = 1
MAX_ENTRIES: Final = NEW_SLOTS + TRIED_SLOTS
CHECKSUM_BYTES: Final = 32

_HEADER: Final = Struct(f">8sH{KEY_BYTES}sQIIB")
_ENTRY: Final = Struct(">II")
_HISTORY: Final = Struct(">IIII")
_NUMBER: Final = Struct(">I")
_PORT: Final = Struct(">H")
_SLOTS: Final = [Struct(f">B{count}H") for count in range(256)]

_TRIED: Final = 1
_HISTORIC: Final = 2
_NAME: Final = 0
_IP_BYTES: Final = {4: 4, 6: 16}


def build_address_book(book: AddressBook) -> bytes:
    """Encode a book, checksum included.

    Cost: O(n), about a quarter of a second for a full book: call it in a thread.
    """
    sources: dict[PeerAddress, int] = {}
    numbers: dict[PeerAddress, int] = {}
    rows: list[bytes] = []
    for number, info in enumerate(book.entries):
        numbers[info.address] = number
        source = sources.setdefault(info.source, len(sources))
        history = info[3:7]
        flags = (_TRIED if info.is_tried else 0) | (_HISTORIC if any(history) else 0)
        rows.append(bytes((flags,)))
        rows.append(_build_address(info.address))
        rows.append(_ENTRY.pack(info.timestamp, source))
        if flags & _HISTORIC:
            last_success, last_try, num_attempts, last_count = history
            rows.append(_HISTORY.pack(last_success, last_try, last_count, num_attempts))
        rows.append(_SLOTS[len(info.slots)].pack(len(info.slots), *info.slots))
    collisions = [numbers[address] for address in book.collisions if address in numbers]
    header = _HEADER.pack(
        MAGIC, VERSION, book.key, book.last_good, len(sources), len(book.entries), len(collisions)
    )
    body = b"".join([header, *map(_build_address, sources), *rows, *map(_NUMBER.pack, collisions)])
    return body + hashlib.sha256(body).digest()


def parse_address_book(data: bytes) -> AddressBook:
    """Decode a book. Whether its entries fit together is for the manager to say.

    :raises AddressManagerStore: anything that :func:`build_address_book` would not have made.
    Cost: O(n), about a third of a second for a full book: call it in a thread.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise AddressManagerStore("this is no address book")
    if len(data) < _HEADER.size + CHECKSUM_BYTES:
        raise AddressManagerStore("the file is cut off")
    version = int.from_bytes(data[8:10], "big")
    if version != VERSION:
        raise AddressManagerStore(f"format {version} is not known here, only {VERSION}")
    body = data[:-CHECKSUM_BYTES]
    if hashlib.sha256(body).digest() != data[-CHECKSUM_BYTES:]:
        raise AddressManagerStore("the checksum is wrong")
    try:
        return _Parser(body).book()
    except (IndexError, StructError, ValueError) as error:
        raise AddressManagerStore(f"the file is malformed: {error}") from error


def _build_address(address: PeerAddress) -> bytes:
    packed = packed_ip(address.host)
    port = _PORT.pack(address.port)
    if packed is not None:
        return (b"\x04" if len(packed) == 4 else b"\x06") + packed + port
    name = address.host.encode("utf-8", "replace")[:255]
    return bytes((_NAME, len(name))) + name + port


class _Parser:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    def book(self) -> AddressBook:
        _, _, key, last_good, sources, entries, collisions = self._fields(_HEADER)
        if entries > MAX_ENTRIES or sources > entries:
            raise ValueError(f"{entries} entries of {sources} sources")
        origins = [self._address() for _ in range(sources)]
        infos = tuple([self._entry(origins) for _ in range(entries)])
        waiting = tuple([infos[self._fields(_NUMBER)[0]].address for _ in range(collisions)])
        if self._position != len(self._body):
            raise ValueError(f"{len(self._body) - self._position} bytes too many")
        return AddressBook(key, last_good, infos, waiting)

    def _fields(self, struct: Struct) -> tuple[Any, ...]:  # Any: what the struct says
        fields = struct.unpack_from(self._body, self._position)
        self._position += struct.size
        return fields

    def _bytes(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._body):
            raise ValueError("unexpected end")
        taken = self._body[self._position : end]
        self._position = end
        return taken

    def _byte(self) -> int:
        value = self._body[self._position]
        self._position += 1
        return value

    def _address(self) -> PeerAddress:
        kind = self._byte()
        if kind == _NAME:
            host = self._bytes(self._byte()).decode("utf-8", "replace")
        elif kind == 4:
            host = ".".join(map(str, self._bytes(4)))
        elif kind == 6:
            host = str(IPv6Address(self._bytes(16)))
        else:
            raise ValueError(f"address of kind {kind}")
        return PeerAddress(host, self._fields(_PORT)[0])

    def _entry(self, sources: list[PeerAddress]) -> ExtendedPeerInfo:
        flags = self._byte()
        if flags & ~(_TRIED | _HISTORIC):
            raise ValueError(f"flags {flags}")
        address = self._address()
        timestamp, source = self._fields(_ENTRY)
        last_success = last_try = last_count = num_attempts = 0
        if flags & _HISTORIC:
            last_success, last_try, last_count, num_attempts = self._fields(_HISTORY)
        _, *slots = self._fields(_SLOTS[self._body[self._position]])
        return ExtendedPeerInfo(
            address,
            sources[source],
            timestamp,
            last_success,
            last_try,
            num_attempts,
            last_count,
            bool(flags & _TRIED),
            tuple(slots),
        )
