"""Bitcoin Core's compressed asmap: a program that turns an address into an AS number.

The program reads the 128 bits of an IPv6 address, IPv4 in its mapped form, one after the other::

    RETURN    0    number       the answer
    JUMP      10   distance     next bit 1: go on ``distance`` bits further; 0: go on here
    MATCH     110  pattern      the next 1 to 8 bits must be these; else the default is the answer
    DEFAULT   111  number       from here on, the default is this

Bits are taken from each byte lowest first. A number is a class in unary and then as many bits as
the class has, highest first.

Instead of interpreting it for each address, which takes a hundred steps, it is walked once,
along all branches; what comes out is prefixes. A sane program is a tree in prefix order: each
instruction is reached in exactly one way, which is also what Core checks before it uses one.

Engines row of the stage table; pure. Source: Bitcoin Core ``src/util/asmap.cpp``,
``contrib/asmap``; behaviour §15.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dig_gossip.errors import InvalidConfig

MAX_ASMAP_BYTES: Final = 8 * 1024 * 1024
ADDRESS_BITS: Final = 128

_RETURN, _JUMP, _MATCH, _DEFAULT = range(4)

#: For each kind of number: the smallest, and the bits of each class.
_KIND: Final = (0, (0, 0, 1))
_NUMBER: Final = (1, tuple(range(15, 25)))
_DISTANCE: Final = (17, tuple(range(5, 31)))
_PATTERN: Final = (2, tuple(range(1, 9)))

#: So many bytes are turned into bits in one call, which cannot be interrupted.
_BYTES_AT_ONCE: Final = 65_536


def malformed(text: str) -> InvalidConfig:
    """Make the error of this module."""
    return InvalidConfig(f"as_table_path: no sane asmap: {text}")


class _Program:
    """The bits, as the characters 0 and 1."""

    def __init__(self, data: bytes) -> None:
        chunks = [
            data[start : start + _BYTES_AT_ONCE] for start in range(0, len(data), _BYTES_AT_ONCE)
        ]
        self.bits = "".join(map(_bits, chunks))
        self.position = 0

    def read(self, kind: tuple[int, tuple[int, ...]]) -> int:
        """The next number of a kind."""
        value, classes = kind
        for index, size in enumerate(classes):
            is_last = index == len(classes) - 1
            if not is_last and self._take(1) == "1":
                value += 1 << size
                continue
            return value + (int(self._take(size), 2) if size else 0)
        raise malformed("a kind of number without classes")  # pragma: no cover

    def _take(self, size: int) -> str:
        start, end = self.position, self.position + size
        if end > len(self.bits):
            raise malformed("it is cut off")
        self.position = end
        return self.bits[start:end]


def _bits(data: bytes) -> str:
    return f"{int.from_bytes(data, 'little'):0{8 * len(data)}b}"[::-1]


def walk_asmap(data: bytes) -> Iterator[tuple[int, int, int]]:
    """All prefixes that the program tells apart, each before those inside it.

    :returns: first address as a number of 128 bits, length of the prefix, AS number or 0 for none;
        in order of address, then of length.
    :raises InvalidConfig: the program is not sane, found out on the way.
    Cost: O(bits); a real map of 1.5 MB takes some seconds.
    Source: Bitcoin Core ``SanityCheckASMap``.
    """
    if len(data) > MAX_ASMAP_BYTES:
        raise malformed(f"larger than {MAX_ASMAP_BYTES} bytes")
    program = _Program(data)
    # Where the other branches begin, and the prefix and the default with which they do.
    branches: list[tuple[int, int, int, int]] = []
    start = length = default = 0
    previous = _JUMP
    has_short_match = False
    while True:
        if branches and program.position >= branches[-1][0]:
            raise malformed("a branch begins inside an instruction")
        kind = program.read(_KIND)
        if kind == _RETURN:
            if previous == _DEFAULT:
                raise malformed("a default that nothing uses")
            yield start, length, program.read(_NUMBER)
            if not branches:
                break
            begins, start, length, default = branches.pop()
            if program.position != begins:
                raise malformed("bits that no address reaches")
            kind = _JUMP
        elif kind == _JUMP:
            target = program.read(_DISTANCE) + program.position
            if target >= len(program.bits) or (branches and target >= branches[-1][0]):
                raise malformed("branches that cross")
            if length == ADDRESS_BITS:
                raise malformed("more bits than an address has")
            length += 1
            branches.append((target, start | 1 << ADDRESS_BITS - length, length, default))
        elif kind == _MATCH:
            pattern = program.read(_PATTERN)
            size = pattern.bit_length() - 1
            if previous != _MATCH:
                has_short_match = False
            if size < 8 and has_short_match:
                raise malformed("two short matches in a row")
            has_short_match = size < 8
            if length + size > ADDRESS_BITS:
                raise malformed("more bits than an address has")
            yield start, length, default
            length += size
            start |= (pattern ^ 1 << size) << ADDRESS_BITS - length
        else:
            if previous == _DEFAULT:
                raise malformed("a default that nothing uses")
            default = program.read(_NUMBER)
        previous = kind
    rest = program.bits[program.position :]
    if len(rest) > 7 or "1" in rest:
        raise malformed("something follows the end")
