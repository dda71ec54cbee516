"""The field GF(2^64), and whole rows of its elements at once, in the integers of Python.

Engines row of the stage table; pure. Elements are integers below 2^64, a bit a coefficient, modulo
x^64 + x^4 + x^3 + x + 1. A *row* is one integer with an element in every 128 bits, lowest first:
room enough for a product before it is reduced. So an operation of the interpreter works on a whole
polynomial, and multiplying a row by an element costs some fifty of them, however long the row.

Source: wire §13.3.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

BITS: Final = 64
ONES: Final = (1 << BITS) - 1
LANE_BITS: Final = 2 * BITS
LANE_BYTES: Final = LANE_BITS // 8
_MODULUS: Final = (1 << BITS) | 0b11011
#: Rows of sketches with 256 syndromes, and what decoding them takes.
_MAX_LANES: Final = 1024
#: The lower half of every lane; ``&`` takes no longer for the lanes that are not there.
_LOWER: Final = int.from_bytes((b"\xff" * 8 + b"\x00" * 8) * _MAX_LANES, "little")
_DIGITS: Final = bytes(48) + bytes(range(8)) + bytes(200)  # of b"01234567"


# --- elements -----------------------------------------------------------------------------------


def multiply(a: int, b: int) -> int:
    """Multiply two elements."""
    return scale(a, b)


def square(a: int) -> int:
    """Square an element."""
    tables = _SQUARES
    result = 0
    for table, byte in zip(tables, a.to_bytes(8, "little"), strict=True):
        result ^= table[byte]
    return result


def invert(a: int) -> int:
    """Find the inverse of an element other than 0, with Euclid's algorithm."""
    u, v = a, _MODULUS
    s, t = 1, 0
    while u != 1:
        shift = u.bit_length() - v.bit_length()
        if shift < 0:
            u, v, s, t = v, u, t, s
            shift = -shift
        u ^= v << shift
        s ^= t << shift
    return s


def solve_quadratic(a: int) -> int | None:
    """Find one y with y² + y = a; the other one is y + 1. None if there is none."""
    y = 0
    for table, byte in zip(_HALVES, a.to_bytes(8, "little"), strict=True):
        y ^= table[byte]
    return y if square(y) ^ y == a else None


# --- rows ---------------------------------------------------------------------------------------


def lane(row: int, index: int) -> int:
    """Take one element of a row."""
    return (row >> LANE_BITS * index) & ONES


def length(row: int) -> int:
    """Count the lanes up to the last that is not 0."""
    return (row.bit_length() + LANE_BITS - 1) // LANE_BITS


def pack(elements: Iterable[int]) -> int:
    """Make a row."""
    data = b"".join([element.to_bytes(LANE_BYTES, "little") for element in elements])
    return int.from_bytes(data, "little")


def unpack_dense(data: bytes) -> int:
    """Make a row of elements of 8 bytes each, little-endian."""
    words = array("Q", bytes(2 * len(data)))
    words[::2] = array("Q", data)
    return int.from_bytes(words.tobytes(), "little")


def pack_dense(row: int, lanes: int) -> bytes:
    """Write a row as 8 bytes an element, little-endian."""
    return array("Q", row.to_bytes(LANE_BYTES * lanes, "little"))[::2].tobytes()


def reduce(row: int) -> int:
    """Reduce the product in each lane, which has 127 bits at most."""
    upper = (row >> 64) & _LOWER
    upper ^= upper << 1  # (x + 1)(x^3 + 1) = x^4 + x^3 + x + 1
    row = (row & _LOWER) ^ upper ^ (upper << 3)
    upper = (row >> 64) & _LOWER
    if upper:
        upper ^= upper << 1
        row = (row & _LOWER) ^ upper ^ (upper << 3)
    return row


def multiples(row: int) -> tuple[int, ...]:
    """Multiply a row by each polynomial of three bits; nothing is reduced."""
    double = row << 1
    fourfold = row << 2
    three = double ^ row
    return (
        0, row, double, three, fourfold, fourfold ^ row, fourfold ^ double, fourfold ^ three,
    )  # fmt: skip


def scale(row: int, factor: int) -> int:
    """Multiply each element of a row by one element."""
    return scale_table(multiples(row), factor)


def scale_table(table: Sequence[int], factor: int) -> int:
    """Do as :func:`scale` does with a row of which the :func:`multiples` are known."""
    product = 0
    for digit in (b"%o" % factor).translate(_DIGITS):
        product = (product << 3) ^ table[digit]
    return reduce(product)


def combine(row: int, factor: int, other: int, other_factor: int) -> int:
    """Add the multiples of two rows."""
    table, other_table = multiples(row), multiples(other)
    product = 0
    for digit, other_digit in zip(
        (b"%022o" % factor).translate(_DIGITS),
        (b"%022o" % other_factor).translate(_DIGITS),
        strict=True,
    ):
        product = (product << 3) ^ table[digit] ^ other_table[other_digit]
    return reduce(product)


def spread(row: int, lanes: int) -> bytes:
    """Square the polynomial that a row is: element i, squared but not reduced, is in lane 2i.

    :returns: 32 bytes a lane of ``row``.
    """
    data = row.to_bytes(LANE_BYTES * lanes, "little")
    squares = bytearray(2 * len(data))
    squares[::2] = data.translate(_SPREAD_LOWER)
    squares[1::2] = data.translate(_SPREAD_UPPER)
    return bytes(squares)


# --- tables -------------------------------------------------------------------------------------


def _spread_nibble(nibble: int) -> int:
    return sum(((nibble >> bit) & 1) << 2 * bit for bit in range(4))


_SPREAD_LOWER: Final = bytes(_spread_nibble(byte & 15) for byte in range(256))
_SPREAD_UPPER: Final = bytes(_spread_nibble(byte >> 4) for byte in range(256))


def linear_table(images: Sequence[int]) -> list[int]:
    """Extend a linear map of the powers of two to all numbers: 2^len(images) values."""
    table = [0]
    for image in images:
        table += [image ^ value for value in table]
    return table


def _byte_tables(images: Sequence[int]) -> tuple[list[int], ...]:
    """Tables of a linear map of elements, one for each byte of an element."""
    return tuple(linear_table(images[first : first + 8]) for first in range(0, BITS, 8))


_SQUARES: Final = _byte_tables([reduce(1 << 2 * bit) for bit in range(BITS)])


def _quadratic_solutions() -> list[int]:
    """For each power of two a y with y² + y equal to it, up to one fixed element of trace 1."""
    # Eliminate on the images of y -> y² + y, a space of dimension 63.
    basis: dict[int, tuple[int, int]] = {}  # highest bit: (image, y)
    for bit in range(1, BITS):
        y = 1 << bit
        image = square(y) ^ y
        while image and image.bit_length() in basis:
            other, other_y = basis[image.bit_length()]
            image ^= other
            y ^= other_y
        basis[image.bit_length()] = (image, y)
    solutions = []
    for bit in range(BITS):
        image, solution = 1 << bit, 0
        for top in range(BITS, 0, -1):
            if image >> (top - 1) & 1 and top in basis:
                other, other_y = basis[top]
                image ^= other
                solution ^= other_y
        solutions.append(solution)
    return solutions


_HALVES: Final = _byte_tables(_quadratic_solutions())
