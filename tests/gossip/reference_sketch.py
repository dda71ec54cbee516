"""Sketch arithmetic as in a textbook: short, slow, and independent of ours.

Elements are multiplied bit by bit, polynomials are lists of elements, the constant first. It shows
that the fast arithmetic is right, and is what ``benchmarks/sketch.py`` compares with.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

_MODULUS = (1 << 64) | 0b11011


def multiply(a: int, b: int) -> int:
    """Multiply two elements of GF(2^64)."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a >> 64:
            a ^= _MODULUS
        b >>= 1
    return product


def invert(a: int) -> int:
    """Raise an element to the power 2^64 - 2."""
    result = 1
    for _ in range(63):
        a = multiply(a, a)
        result = multiply(result, a)
    return result


def encode(elements: Iterable[int], capacity: int) -> bytes:
    """Sum up the odd powers."""
    sums = [0] * capacity
    for element in elements:
        power, squared = element, multiply(element, element)
        for index in range(capacity):
            sums[index] ^= power
            power = multiply(power, squared)
    return b"".join(value.to_bytes(8, "little") for value in sums)


def decode(data: bytes, max_elements: int) -> list[int] | None:
    """Find the elements, in rising order; None if they are more than ``max_elements``."""
    odd = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    syndromes: list[int] = []
    for index in range(2 * len(odd)):
        half = syndromes[index // 2] if index % 2 else 0
        syndromes.append(multiply(half, half) if index % 2 else odd[index // 2])
    locator = _berlekamp_massey(syndromes)
    degree = len(locator) - 1
    if degree > max_elements or not locator[-1]:
        return None
    locator = _monic(locator[::-1])
    if degree > 1:
        power = [0, 1]
        for _ in range(64):
            power = _square_modulo(power, locator)
        if power != [0, 1]:  # not all roots are in the field, or two are the same
            return None
    return sorted(_roots(locator, Random(1))) if degree else []


def _berlekamp_massey(syndromes: list[int]) -> list[int]:
    current, previous, size, shift, last = [1], [1], 0, 1, 1
    for index in range(len(syndromes)):
        found = syndromes[index]
        for back in range(1, size + 1):
            if back < len(current):
                found ^= multiply(current[back], syndromes[index - back])
        if not found:
            shift += 1
            continue
        factor = multiply(found, invert(last))
        correction = [0] * shift + [multiply(factor, value) for value in previous]
        updated = [
            (current[at] if at < len(current) else 0)
            ^ (correction[at] if at < len(correction) else 0)
            for at in range(max(len(current), len(correction)))
        ]
        if 2 * size <= index:
            previous, last, size, shift = current, found, index + 1 - size, 1
        else:
            shift += 1
        current = updated
    return (current + [0] * (size + 1))[: max(size + 1, len(_trim(current)))]


def _trim(polynomial: list[int]) -> list[int]:
    end = len(polynomial)
    while end and not polynomial[end - 1]:
        end -= 1
    return polynomial[:end]


def _monic(polynomial: list[int]) -> list[int]:
    inverse = invert(polynomial[-1])
    return [multiply(value, inverse) for value in polynomial]


def _divide(a: list[int], b: list[int]) -> tuple[list[int], list[int]]:
    """Divide by a monic polynomial: quotient and remainder."""
    a = a[:]
    degree = len(b) - 1
    quotient = [0] * max(0, len(a) - degree)
    for at in range(len(a) - 1 - degree, -1, -1):
        top = quotient[at] = a[at + degree]
        for index in range(degree + 1):
            a[at + index] ^= multiply(top, b[index])
    return quotient, _trim(a[:degree])


def _square_modulo(a: list[int], modulus: list[int]) -> list[int]:
    squares = [0] * (2 * len(a))
    for index, value in enumerate(a):
        squares[2 * index] = multiply(value, value)
    return _divide(squares, modulus)[1]


def _gcd(a: list[int], b: list[int]) -> list[int]:
    while b:
        b = _monic(b)
        a, b = b, _divide(a, b)[1]
    return a


def _roots(polynomial: list[int], rng: Random) -> list[int]:
    """Factor a monic polynomial, all of whose roots are different and in the field."""
    if len(polynomial) == 2:
        return [polynomial[0]]
    while True:
        term = [0, rng.getrandbits(64)]
        trace: list[int] = []
        for _ in range(64):
            length = max(len(trace), len(term))
            trace = [
                (trace[at] if at < len(trace) else 0) ^ (term[at] if at < len(term) else 0)
                for at in range(length)
            ]
            term = _square_modulo(term, polynomial)
        part = _gcd(polynomial, _trim(_divide(trace, polynomial)[1]))
        if 1 < len(part) < len(polynomial):
            return _roots(part, rng) + _roots(_divide(polynomial, part)[0], rng)
