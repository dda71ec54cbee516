"""Arithmetic in GF(2^64), of elements and of rows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.gossip import field
from tests.gossip.reference_sketch import multiply

elements = st.integers(0, 2**64 - 1)
rows = st.lists(elements, min_size=1, max_size=9)


class ElementTests(SynchronousTestCase):
    """One element at a time."""

    @given(elements, elements)
    def test_products_and_squares(self, a: int, b: int) -> None:
        """They are those of the textbook.  wire §13.3"""
        self.assertEqual(field.multiply(a, b), multiply(a, b))
        self.assertEqual(field.square(a), multiply(a, a))

    @given(st.integers(1, 2**64 - 1))
    def test_inverses(self, a: int) -> None:
        """An element times its inverse is 1.  wire §13.3"""
        self.assertEqual(multiply(a, field.invert(a)), 1)

    @given(elements)
    def test_quadratic_equations(self, y: int) -> None:
        """y² + y = a is solved for the a for which it can be.  wire §13.3"""
        image = multiply(y, y) ^ y
        solution = field.solve_quadratic(image)
        self.assertIn(solution, (y, y ^ 1))
        # Half of all elements have no solution; adding one such element changes sides.
        unsolvable = next(1 << bit for bit in range(64) if field.solve_quadratic(1 << bit) is None)
        self.assertIsNone(field.solve_quadratic(image ^ unsolvable))


class RowTests(SynchronousTestCase):
    """Many elements at once."""

    @given(rows, elements)
    def test_scaling(self, numbers: list[int], factor: int) -> None:
        """Each lane is multiplied, none disturbs another.  wire §13.3"""
        expected = field.pack([multiply(number, factor) for number in numbers])
        self.assertEqual(field.scale(field.pack(numbers), factor), expected)

    @given(rows, elements, rows, elements)
    def test_combining(self, a: list[int], a_factor: int, b: list[int], b_factor: int) -> None:
        """The sum of two multiples, also of rows of different lengths.  wire §13.3"""
        expected = field.scale(field.pack(a), a_factor) ^ field.scale(field.pack(b), b_factor)
        combined = field.combine(field.pack(a), a_factor, field.pack(b), b_factor)
        self.assertEqual(combined, expected)

    @given(rows)
    def test_spreading_squares_a_polynomial(self, numbers: list[int]) -> None:
        """Element i, squared, is in lane 2i.  wire §13.3"""
        spread = field.spread(field.pack(numbers), len(numbers))
        squares = field.reduce(int.from_bytes(spread, "little"))
        for index, number in enumerate(numbers):
            self.assertEqual(field.lane(squares, 2 * index), multiply(number, number))
            self.assertEqual(field.lane(squares, 2 * index + 1), 0)

    @given(rows)
    def test_packing(self, numbers: list[int]) -> None:
        """Rows are read and written, with and without room.  wire §13.3"""
        row = field.pack(numbers)
        dense = field.pack_dense(row, len(numbers))
        self.assertEqual(dense, b"".join(number.to_bytes(8, "little") for number in numbers))
        self.assertEqual(field.unpack_dense(dense), row)
        used = max((index + 1 for index, number in enumerate(numbers) if number), default=0)
        self.assertEqual(field.length(row), used)
