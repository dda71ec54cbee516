"""Sketch arithmetic without compiled code: encoding, and decoding by Berlekamp's algorithms.

Engines row of the stage table; pure. What makes it fast in Python is
:mod:`dig_gossip.gossip.field`: polynomials are rows, worked on as a whole, and what is multiplied
often has tables.

A sketch's syndromes are the odd power sums of its elements; the even ones are their squares. The
elements' *locator*, the polynomial with the elements as its roots, follows from them by the
Berlekamp-Massey algorithm. Its roots follow by Berlekamp's trace algorithm: half of the field's
elements have trace 0, so gcd(f(x), trace(b·x)) splits f for about every second b.

Source: wire §13.3; J. Massey, "Shift-register synthesis and BCH decoding", 1969; E. Berlekamp,
"Factoring polynomials over large finite fields", 1970; Y. Dodis, R. Ostrovsky, L. Reyzin, A. Smith,
"Fuzzy extractors", 2008 (PinSketch).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce as fold
from hashlib import sha256
from operator import getitem, xor
from typing import Final

from dig_gossip.gossip import field
from dig_gossip.gossip.field import LANE_BITS, lane, length, scale, square

_HEX_DIGITS: Final = bytes(
    int(chr(code), 16) if chr(code) in "0123456789abcdef" else 0 for code in range(256)
)
#: Two elements that no trace of so many has told apart: happens once in 2^128 times.
_MAX_TRACES: Final = 128


def encode(elements: Iterable[int], capacity: int) -> bytes:
    """Add up the syndromes of elements.

    Cost: some O(capacity) 64-bit operations an element, in about 60 log(capacity) steps.

    :param elements: 0 to 2^64 - 1.
    :returns: ``8 * capacity`` bytes.
    """
    total = 0
    for element in elements:
        row, lanes, power = element, 1, square(element)
        # x, x^3, ..., and as many again, times x^2, x^4, x^8, ...
        while lanes < capacity:
            row |= scale(row, power) << LANE_BITS * lanes
            lanes *= 2
            power = square(power)
        total ^= row
    total &= (1 << LANE_BITS * capacity) - 1
    return field.pack_dense(total, capacity)


def decode(data: bytes, max_elements: int) -> list[int] | None:
    """Find the elements of a sketch.

    :param data: 8 bytes a syndrome.
    :returns: the elements in rising order; None if they are more than ``max_elements``, or more
        than the syndromes tell.
    """
    capacity = len(data) // 8
    row = field.unpack_dense(data)
    locator = _find_locator([lane(row, index) for index in range(capacity)], max_elements)
    if locator is None:
        return None
    degree = length(locator) - 1
    if degree == 0:
        return []
    roots = _small_roots(locator, degree) if degree <= 2 else _roots(locator, degree, data)
    return None if roots is None else sorted(roots)


def _find_locator(odd: list[int], max_elements: int) -> int | None:
    """Run the Berlekamp-Massey algorithm, of which every second step changes nothing.

    No element is inverted: all of the connection polynomial may be a multiple of what it should be.
    Its product with the syndromes, from which the next discrepancy is read, is kept up to date
    with it, in the upper lanes of the same row.

    :returns: the monic polynomial with the elements as roots, or None.
    """
    capacity = len(odd)
    syndromes = [0] * (2 * capacity)
    syndromes[::2] = odd
    for index in range(1, 2 * capacity, 2):
        syndromes[index] = square(syndromes[index // 2])
    base = capacity + 1  # the first lane of the product
    mask = (1 << LANE_BITS * (base + 2 * capacity)) - 1
    current = 1 | field.pack(syndromes) << LANE_BITS * base
    previous, discrepancy, size, shift = current, 1, 0, 1
    for index in range(0, 2 * capacity, 2):
        found = lane(current, base + index)
        if found:
            grown = 2 * size <= index
            if grown and index + 1 - size > max_elements:
                return None
            updated = field.combine(
                current, discrepancy, previous << LANE_BITS * shift & mask, found
            )
            if grown:
                previous, discrepancy, size, shift = current, found, index + 1 - size, 0
            current = updated
        shift += 2
    connection = current & ((1 << LANE_BITS * base) - 1)
    if length(connection) != size + 1:
        return None
    # Elements are the inverses of its roots.
    reverse = field.pack([lane(connection, size - index) for index in range(size + 1)])
    return scale(reverse, field.invert(lane(reverse, size)))


def _small_roots(locator: int, degree: int) -> list[int] | None:
    """Solve a monic equation of degree 1 or 2 whose constant is not 0.

    :returns: its distinct roots, or None if it has fewer than ``degree``.
    """
    if degree == 1:
        return [lane(locator, 0)]
    constant, linear = lane(locator, 0), lane(locator, 1)
    if linear == 0:
        return None  # twice the same
    # x = linear * y turns it into y^2 + y = constant / linear^2
    inverse = field.invert(linear)
    quotient = field.multiply(constant, square(inverse))
    y = field.solve_quadratic(quotient)
    if y is None:
        return None
    root = field.multiply(linear, y)
    return [root, root ^ linear]


def _roots(locator: int, degree: int, seed: bytes) -> list[int] | None:
    """Find all roots of a monic polynomial of degree 3 or more; None if not all are in the field.

    :param seed: chooses the order in which the factors fall apart.
    """
    powers = _frobenius_powers(locator, degree)
    if powers is None:
        return None
    roots: list[int] = []
    waiting: list[tuple[_Modulo, int]] = [(_Locator(locator, powers, seed), 0)]
    while waiting:
        factor, index = waiting.pop()
        degree = length(factor.row) - 1
        if degree <= 2:
            found = _small_roots(factor.row, degree)
            if found is None:
                return None
            roots += found
        elif index == _MAX_TRACES:
            return None
        else:
            part = _gcd(factor.row, factor.trace(index))
            part_degree = length(part) - 1
            if 0 < part_degree < degree:
                part = scale(part, field.invert(lane(part, part_degree)))
                rest, _ = _divide(factor.row, part)
                waiting += (_Factor(part, factor), index + 1), (_Factor(rest, factor), index + 1)
            else:
                waiting.append((factor, index + 1))
    return roots


def _frobenius_powers(locator: int, degree: int) -> list[int] | None:
    """Compute x^(2^i) modulo a monic polynomial for i = 0 to 63.

    :returns: the 64 rows; None if x^(2^64) is not x, that is if not all roots are in the field,
        or two are the same.
    """
    below = (1 << LANE_BITS * degree) - 1
    # Squaring is linear: element i of a polynomial, squared, times x^(2i). Where 2i reaches the
    # degree, that is a fixed row, times all bytes there are in a table.
    lower = locator & below
    lower_multiples = field.multiples(lower)
    tables = []
    row = lower
    for exponent in range(degree, 2 * degree - 1):
        if exponent % 2 == 0:
            tables.append(field.linear_table([row << bit for bit in range(8)]))
        top = row >> LANE_BITS * (degree - 1)
        row = row << LANE_BITS & below ^ field.scale_table(lower_multiples, top)
    first = 16 * (degree % 2)
    power = 1 << LANE_BITS
    powers = []
    for _ in range(64):
        powers.append(power)
        squares = field.reduce(int.from_bytes(field.spread(power, degree), "little"))
        upper = (squares >> LANE_BITS * degree).to_bytes(16 * degree, "little")
        rest = 0
        for byte in range(first + 7, first - 1, -1):
            rest = fold(xor, map(getitem, tables, upper[byte::32]), rest << 8)
        power = squares & below ^ field.reduce(rest)
    return powers if power == 1 << LANE_BITS else None


class _Modulo:
    """A monic polynomial, and trace(b·x) modulo it for a sequence of random b.

    Each remainder is made once, from that of the polynomial of which this one is a factor.
    """

    def __init__(self, row: int) -> None:
        self.row = row
        self._traces: dict[int, int] = {}

    def trace(self, index: int) -> int:
        """The row for the ``index``-th b."""
        known = self._traces.get(index)
        if known is None:
            known = self._traces[index] = self._make(index)
        return known

    def _make(self, index: int) -> int:
        raise NotImplementedError


class _Locator(_Modulo):
    """The polynomial to be factored; trace(b·x) is the sum of all b^(2^i) · x^(2^i)."""

    def __init__(self, row: int, powers: list[int], seed: bytes) -> None:
        super().__init__(row)
        self._tables = [field.linear_table([row << bit for bit in range(4)]) for row in powers]
        self._seed = seed

    def _make(self, index: int) -> int:
        # Elements that no b tells apart could be chosen if all b were known beforehand.
        digest = sha256(self._seed + index.to_bytes(2, "little")).digest()
        b = int.from_bytes(digest[:8], "little")
        factors = []
        for _ in range(64):
            factors.append(b)
            b = square(b)
        digits = (b"%016x" * 64 % tuple(factors)).translate(_HEX_DIGITS)
        row = 0
        for digit in range(16):
            row = fold(xor, map(getitem, self._tables, digits[digit::16]), row << 4)
        return field.reduce(row)


class _Factor(_Modulo):
    """A factor of another polynomial."""

    def __init__(self, row: int, multiple: _Modulo) -> None:
        super().__init__(row)
        self._multiple = multiple

    def _make(self, index: int) -> int:
        _, remainder = _divide(self._multiple.trace(index), self.row)
        return remainder


def _gcd(a: int, b: int) -> int:
    """Find the greatest common divisor of two polynomials, up to a factor."""
    while b:
        degree = length(b) - 1
        top = lane(b, degree)
        while (excess := length(a) - 1 - degree) >= 0:
            a = field.combine(a, top, b << LANE_BITS * excess, lane(a, degree + excess))
        a, b = b, a
    return a


def _divide(a: int, b: int) -> tuple[int, int]:
    """Divide a polynomial by a monic one; quotient and remainder."""
    degree = length(b) - 1
    table = field.multiples(b)
    quotient = 0
    for index in range(length(a) - 1 - degree, -1, -1):
        top = lane(a, degree + index)
        if top:
            quotient |= top << LANE_BITS * index
            a ^= field.scale_table(table, top) << LANE_BITS * index
    return quotient, a
