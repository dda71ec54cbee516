"""Lists of addresses as peers exchange them: the body of ``RespondPeers``, read row by row.

``chia_rs`` decodes the same bytes, but reading a thousand rows through its attributes takes longer
than all the rest, and it decodes every row of a list of which we keep the first thousand.

Layout: u32 count, then for each row u32 length and UTF-8 host, u16 port, u64 timestamp.
Source: wire §8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from dig_gossip.wire import streamable
from dig_gossip.wire.streamable import malformed

_LENGTH = struct.Struct(">I")
_REST = struct.Struct(">HQ")


class PeerRows(NamedTuple):
    """The rows that were kept, and how many the message says that it has."""

    rows: list[tuple[bytes, int, int]]
    declared: int


def parse_peers(data: bytes, limit: int) -> PeerRows:
    """Read the first ``limit`` rows of a list; the others are not even looked at.

    :returns: rows of host, port and timestamp; hosts are not judged here.
    :raises ClientError: it is no such list.
    Cost: O(min(rows, limit)).
    """
    size = len(data)
    if size < 4:
        raise malformed("unexpected end of input")
    (declared,) = _LENGTH.unpack_from(data)
    if declared * (4 + _REST.size) > size - 4:
        raise malformed(f"{declared} list items do not fit in {size} bytes")
    rows = []
    position = 4
    for _ in range(min(declared, limit)):
        if position + 4 > size:
            raise malformed("unexpected end of input")
        (length,) = _LENGTH.unpack_from(data, position)
        end = position + 4 + length
        if end + _REST.size > size:
            raise malformed("unexpected end of input")
        port, timestamp = _REST.unpack_from(data, end)
        rows.append((data[position + 4 : end], port, timestamp))
        position = end + _REST.size
    if declared <= limit and position != size:
        raise malformed(f"{size - position} bytes too many")
    return PeerRows(rows, declared)


def build_peers(rows: Iterable[tuple[str, int, int]]) -> bytes:
    """Encode a list of hosts, ports and timestamps."""
    return streamable.items(rows, _build_row)


def _build_row(row: tuple[str, int, int]) -> bytes:
    host, port, timestamp = row
    return streamable.text(host) + _REST.pack(port, timestamp)
