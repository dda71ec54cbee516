"""Address books of other programs: Chia's ``peers.dat`` in both forms, upstream's in bincode.

Engines row of the stage table; pure. What is read is a list of rows, to be told to our own address
manager one by one: where an address lies in somebody else's tables says nothing about ours, and
that somebody else has met a peer does not mean that we have.

Writing is for Chia's current form only, so that operators can share a book. It gets a fresh key:
ours decides where an attacker's addresses go.

Source: wire §17.1 to §17.3; chia-blockchain ``address_manager.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from dig_gossip.discovery.slots import BUCKET_SIZE, KEY_BYTES, Placement
from dig_gossip.discovery.values import ExtendedPeerInfo, KnownAddress
from dig_gossip.errors import AddressManagerStore, ClientError
from dig_gossip.types.ip import packed_ip
from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire.streamable import Reader

#: More than any of these programs keeps.
MAX_ROWS: Final = 200_000

_MAX_METADATA: Final = 64
_BINCODE_VERSION: Final = 1


class ForeignRow(NamedTuple):
    """One address of a foreign book.

    :ivar is_tried: whether its owner had met the peer.
    """

    known: KnownAddress
    source: PeerAddress
    is_tried: bool


def parse_foreign_book(data: bytes) -> list[ForeignRow]:
    """Read a book of another program; which one it is shows by which form fits.

    :raises AddressManagerStore: none does.
    Cost: O(bytes).
    """
    if not data:
        raise AddressManagerStore("the file is empty")
    for parse in (_parse_legacy, _parse_upstream, _parse_current):
        try:
            return parse(Reader(data))
        except (ClientError, ValueError):
            continue
    raise AddressManagerStore("neither Chia's peers.dat, in either form, nor upstream's")


def build_chia_book(entries: Iterable[ExtendedPeerInfo], key: bytes) -> bytes:
    """Write Chia's current form.

    Onion services cannot be written and are left out. Chia knows no names as sources; such an
    entry becomes its own source, as in Chia.

    :param key: 32 fresh random bytes, not those of the book.
    """
    rows = [info for info in entries if packed_ip(info.address.host) is not None]
    new = [info for info in rows if not info.is_tried]
    placement = Placement(key)
    slots = sorted(
        (
            placement.new_slot(
                *_chia_group_and_key(info.address), _chia_group_and_key(_ip_source(info))[0]
            ),
            number,
        )
        for number, info in enumerate(new)
    )
    table = b"".join(
        number.to_bytes(8, "big") + (slot // BUCKET_SIZE).to_bytes(8, "big")
        for slot, number in slots
    )
    nodes = bytearray()
    for info in [*new, *(info for info in rows if info.is_tried)]:
        nodes += _build_ip(info.address) + info.timestamp.to_bytes(8, "big")
        nodes += _build_ip(_ip_source(info))
    count = len(new)
    return key + count.to_bytes(8, "big") + count.to_bytes(4, "big") + table + bytes(nodes)


def _ip_source(info: ExtendedPeerInfo) -> PeerAddress:
    return info.address if packed_ip(info.source.host) is None else info.source


def _chia_group_and_key(address: PeerAddress) -> tuple[bytes, bytes]:
    packed = packed_ip(address.host) or b""
    port = address.port.to_bytes(2, "big")
    if len(packed) == 4:
        return b"\x01" + packed[:2], b"\x20\x02" + packed + bytes(10) + port
    return b"\x00" + packed[:4], packed + port


def _build_ip(address: PeerAddress) -> bytes:
    packed = packed_ip(address.host) or b""
    return (b"\x00" if len(packed) == 4 else b"\x01") + packed + address.port.to_bytes(2, "big")


# --- Chia's current form ---------------------------------------------------------------------


def _parse_current(reader: Reader) -> list[ForeignRow]:
    reader.raw(KEY_BYTES)
    new_count = reader.uint(8)
    table_rows = reader.uint(4)
    reader.raw(16 * table_rows)
    rows: list[ForeignRow] = []
    while reader.remaining:
        if len(rows) == MAX_ROWS:
            raise ValueError("too many rows")
        address = _read_ip(reader)
        timestamp = reader.uint(8)
        source = _read_ip(reader)
        rows.append(ForeignRow(KnownAddress(address, timestamp), source, len(rows) >= new_count))
    return rows


def _read_ip(reader: Reader) -> PeerAddress:
    if reader.flag("kind of address"):
        host = str(IPv6Address(reader.raw(16)))
    else:
        host = str(IPv4Address(reader.raw(4)))
    return PeerAddress(host, reader.uint(2))


# --- Chia's legacy form ------------------------------------------------------------------------


def _parse_legacy(reader: Reader) -> list[ForeignRow]:
    metadata = dict(
        reader.items(lambda: (reader.text(), reader.text()), min_size=8, max_count=_MAX_METADATA)
    )
    nodes = reader.items(lambda: (reader.uint(8), reader.text()), min_size=12, max_count=MAX_ROWS)
    table = reader.items(lambda: (reader.uint(8), reader.uint(8)), min_size=16)
    reader.finish()
    if "key" not in metadata:
        raise ValueError("no key")
    in_new_table = {number for number, _ in table}
    rows = []
    for number, text in nodes:
        host, port, timestamp, source_host, source_port = text.split(" ")
        rows.append(
            ForeignRow(
                KnownAddress(PeerAddress(host, _decimal(port)), _decimal(timestamp)),
                PeerAddress(source_host, _decimal(source_port)),
                number not in in_new_table,
            )
        )
    return rows


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise ValueError(f"no number: {text[:20]}")
    return int(text)


# --- upstream's bincode: little-endian, u64 lengths --------------------------------------------


def _parse_upstream(reader: Reader) -> list[ForeignRow]:
    if _little(reader, 4) != _BINCODE_VERSION:
        raise ValueError("another version")
    reader.raw(KEY_BYTES)
    count = _little(reader, 8)
    if count > MAX_ROWS:
        raise ValueError("too many rows")
    reader.raw(4 * count)
    if _little(reader, 8) != count:
        raise ValueError("as many entries as ids")
    return [_read_bincode_entry(reader) for _ in range(count)]


def _read_bincode_entry(reader: Reader) -> ForeignRow:
    address = _read_bincode_address(reader)
    timestamp = _little(reader, 8)
    source = _read_bincode_address(reader)
    if reader.flag("tag of random_pos"):
        reader.raw(8)
    is_tried = reader.flag("is_tried")
    # ref_count u32, last_success u64, last_try u64, num_attempts u32, last_count_attempt u64
    reader.raw(32)
    return ForeignRow(KnownAddress(address, timestamp), source, is_tried)


def _read_bincode_address(reader: Reader) -> PeerAddress:
    host = reader.raw(_little(reader, 8)).decode("utf-8")
    return PeerAddress(host, _little(reader, 2))


def _little(reader: Reader, size: int) -> int:
    return int.from_bytes(reader.raw(size), "little")
