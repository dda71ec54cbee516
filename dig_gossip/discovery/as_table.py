"""Which autonomous system announces an address: a table in memory, asked before every dial.

Two kinds of files are read: text, a prefix and an AS number a line, and Bitcoin Core's compressed
asmap (:mod:`dig_gossip.discovery.asmap`). Both are flattened to ranges that do not overlap, so
that a look-up is one binary search whatever the file was.

Engines row of the stage table; pure but for :func:`load_as_table`, which reads a file and belongs
in a thread.

Source: behaviour DSC-010, §15; style §7.3.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Final, NamedTuple

from zope.interface import implementer

from dig_gossip.discovery.asmap import MAX_ASMAP_BYTES, walk_asmap
from dig_gossip.discovery.interfaces import IAsLookup
from dig_gossip.errors import InvalidConfig
from dig_gossip.types.ip import packed_ip
from dig_gossip.types.peer import PeerAddress

MAX_PREFIXES: Final = 4_000_000
MAX_LINE_CHARS: Final = 512
MAX_AS_NUMBER: Final = 2**32 - 1

#: Longer IPv6 prefixes than /64 are not announced, and a table of 64-bit numbers is compact.
IPV6_BITS: Final = 64

#: So many numbers are sorted in one call: a call cannot be interrupted, and the reactor waits.
_SORTED_AT_ONCE: Final = 20_000


class Prefix(NamedTuple):
    """A network and who announces it; 0 means nobody.

    :ivar start: its first address as a number of 32 bits (IPv4) or 64 (the first half of IPv6).
    :ivar length: leading bits that count, 0 to 32 or 0 to 64.
    """

    start: int
    length: int
    number: int


class _Ranges:
    """Disjoint ranges of addresses; made once, then only read.

    Bounded: two numbers for each prefix and each gap.
    """

    def __init__(self, bits: int, prefixes: Iterable[Prefix]) -> None:
        """Flatten prefixes that come in order of start, then of length."""
        self._starts = array("I" if bits == 32 else "Q")
        self._numbers = array("I")
        outer: list[tuple[int, int]] = []  # where each surrounding prefix ends, and its number
        for start, length, number in prefixes:
            while outer and outer[-1][0] <= start:
                self._leave(outer)
            outer.append((start + (1 << bits - length), number))
            self._mark(start, number)
        while outer and outer[-1][0] < 1 << bits:
            self._leave(outer)

    def _leave(self, outer: list[tuple[int, int]]) -> None:
        end, _ = outer.pop()
        self._mark(end, outer[-1][1] if outer else 0)

    def _mark(self, start: int, number: int) -> None:
        starts, numbers = self._starts, self._numbers
        if starts and starts[-1] == start:
            numbers[-1] = number
        elif number != (numbers[-1] if numbers else 0):
            starts.append(start)
            numbers.append(number)

    def __len__(self) -> int:
        return len(self._starts)

    def lookup(self, address: int) -> int | None:
        index = bisect_right(self._starts, address) - 1
        return self._numbers[index] or None if index >= 0 else None


@implementer(IAsLookup)
class AsTable:
    """AS numbers of IP addresses by longest prefix.

    Bounded: :data:`MAX_PREFIXES`; 8 bytes for each range of IPv4 addresses, 12 for IPv6.
    Cost: a few microseconds a look-up; making one is O(n log n), seconds for a million prefixes.

    :param ipv4: prefixes in order of start, then of length; of two alike the last one counts.
    :param ipv6: the same.
    """

    def __init__(self, ipv4: Iterable[Prefix], ipv6: Iterable[Prefix]) -> None:
        self._ipv4 = _Ranges(32, ipv4)
        self._ipv6 = _Ranges(IPV6_BITS, ipv6)

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self._ipv4) + len(self._ipv6)

    def lookup(self, address: PeerAddress) -> int | None:
        """The AS number of an IP address; None if it is not known, and for names.

        Source: behaviour DSC-010.
        """
        packed = packed_ip(address.host)
        if packed is None:
            return None
        if len(packed) == 4:
            return self._ipv4.lookup(int.from_bytes(packed, "big"))
        return self._ipv6.lookup(int.from_bytes(packed[:8], "big"))


def load_as_table(path: str) -> AsTable:
    """Read a table from a file; which kind it is shows by its content.

    :raises InvalidConfig: the file is malformed; nothing of it is used.
    :raises OSError: it cannot be read.
    Cost: seconds for a million prefixes: call it in a thread.
    """
    with open(path, "rb") as file:
        head = file.read(4096)
        if not _is_text(head):
            data = head + file.read(MAX_ASMAP_BYTES + 1 - len(head))
            return parse_asmap(data)
        file.seek(0)
        return parse_as_text(iter(lambda: file.readline(MAX_LINE_CHARS + 1), b""))


def _is_text(head: bytes) -> bool:
    return head.startswith(b"#") or (head.isascii() and b"\x00" not in head)


def parse_asmap(data: bytes) -> AsTable:
    """Make a table of Bitcoin Core's compressed form.

    :raises InvalidConfig: it is malformed.
    """
    ipv4: list[Prefix] = []
    ipv6: list[Prefix] = []
    for start, length, number in walk_asmap(data):
        if length >= 96 and start >> 32 == 0xFFFF:
            ipv4.append(Prefix(start & 0xFFFF_FFFF, length - 96, number))
            continue
        if length < 96 and start <= 0xFFFF << 32 < start + (1 << 128 - length):
            # Everything around the IPv4 addresses is what they have unless told otherwise.
            ipv4.append(Prefix(0, 0, number))
        if length <= IPV6_BITS:
            ipv6.append(Prefix(start >> IPV6_BITS, length, number))
        elif start >> IPV6_BITS:
            raise InvalidConfig(f"as_table_path: an IPv6 prefix of {length} bits, longer than 64")
    return AsTable(ipv4, ipv6)


def parse_as_text(lines: Iterable[bytes]) -> AsTable:
    """Make a table of lines, each a prefix and an AS number: ``8.8.8.0/24 15169``.

    The number may be written ``AS15169``; 0 says that nobody announces the prefix. Empty lines and
    what follows ``#`` do not count.

    :raises InvalidConfig: a line is malformed, with its number; or there are too many.
    """
    packed: dict[int, _Sorter] = {4: _Sorter(), 16: _Sorter()}
    for count, line in enumerate(lines, 1):
        try:
            row = _parse_line(line)
        except ValueError as error:
            raise InvalidConfig(f"as_table_path: line {count}: {error}") from None
        if row is None:
            continue
        if count > MAX_PREFIXES:
            raise InvalidConfig(f"as_table_path: more than {MAX_PREFIXES} lines")
        size, start, length, number = row
        packed[size].add((start << 7 | length) << 32 | number)
    return AsTable(packed[4].prefixes(), packed[16].prefixes())


def _parse_line(line: bytes) -> tuple[int, int, int, int] | None:
    if len(line) > MAX_LINE_CHARS:
        raise ValueError(f"longer than {MAX_LINE_CHARS} characters")
    fields = line.partition(b"#")[0].decode("ascii", "replace").split()
    if not fields:
        return None
    if len(fields) != 2:
        raise ValueError("it is a prefix and an AS number")
    host, slash, length_text = fields[0].partition("/")
    packed = packed_ip(host)
    number_text = fields[1].removeprefix("AS")
    if packed is None or not slash:
        raise ValueError("it does not begin with a prefix such as 8.8.8.0/24")
    if not number_text.isdigit() or len(number_text) > 10 or int(number_text) > MAX_AS_NUMBER:
        raise ValueError("it does not end with an AS number")
    bits = 32 if len(packed) == 4 else IPV6_BITS
    if not length_text.isdigit() or len(length_text) > 3 or int(length_text) > bits:
        raise ValueError(f"the length of the prefix is not 0 to {bits}")
    start, length = int.from_bytes(packed, "big"), int(length_text)
    if start & ((1 << 8 * len(packed) - length) - 1):
        raise ValueError("the address has bits beyond the length of the prefix")
    return len(packed), start >> (0 if bits == 32 else IPV6_BITS), length, int(number_text)


class _Sorter:
    """Sorts many numbers in small steps."""

    def __init__(self) -> None:
        self._chunks: list[list[int]] = []
        self._chunk: list[int] = []

    def add(self, value: int) -> None:
        self._chunk.append(value)
        if len(self._chunk) == _SORTED_AT_ONCE:
            self._finish()

    def _finish(self) -> None:
        self._chunk.sort()
        self._chunks.append(self._chunk)
        self._chunk = []

    def prefixes(self) -> Iterator[Prefix]:
        self._finish()
        for value in merge(*self._chunks):
            yield Prefix(value >> 39, value >> 32 & 0x7F, value & MAX_AS_NUMBER)
