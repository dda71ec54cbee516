"""Sketches, and both forms of their arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import SketchDecodeFailed, SketchError
from dig_gossip.gossip import sketch, sketch_pure
from dig_gossip.gossip.sketch import MAX_SKETCH_CAPACITY, Sketch
from tests.extensions import SKETCH, compiled
from tests.gossip import reference_sketch
from tests.vectors import load

Decoder = Callable[[bytes, int], "list[int] | None"]

elements = st.integers(1, 2**64 - 1) | st.integers(1, 20)
sets = st.sets(elements, max_size=12)


def decoders() -> dict[str, Decoder]:
    """Every implementation of decoding."""
    module = compiled(SKETCH)
    return {
        "pure": sketch_pure.decode,
        "compiled": module.decode,
        "portable": lambda data, limit: module.decode(data, limit, True),
    }


def encoders() -> dict[str, Callable[[list[int], int], bytes]]:
    """Every implementation of encoding."""
    module = compiled(SKETCH)
    return {
        "pure": sketch_pure.encode,
        "compiled": module.encode,
        "portable": lambda numbers, capacity: module.encode(numbers, capacity, True),
    }


def vectors(kind: str) -> list[dict[str, Any]]:  # Any: JSON
    """The 64-bit vectors of one kind; the wire has no other elements."""
    return [
        vector
        for vector in load("minisketch.json")
        if vector["type"] == kind and vector["fields"]["bits"] == 64
    ]


def numbers(texts: list[str] | None) -> list[int] | None:
    """The vectors' decimal strings."""
    return None if texts is None else sorted(map(int, texts))


class VectorTests(SynchronousTestCase):
    """What libminisketch made."""

    def check(self, name: str, data: str, limit: int, expected: list[str] | None) -> None:
        """Decode with every implementation."""
        for who, decode in decoders().items():
            self.assertEqual(decode(bytes.fromhex(data), limit), numbers(expected), (name, who))

    def test_sketches_have_minisketchs_bytes(self) -> None:
        """Sets of all sizes, duplicates, zero and the largest element.  ERL-003, wire §13.3"""
        for vector in vectors("minisketch"):
            fields = vector["fields"]
            for who, encode in encoders().items():
                encoded = encode([int(text) for text in fields["elements"]], fields["capacity"])
                self.assertEqual(encoded.hex(), vector["hex"], (vector["name"], who))
            self.check(vector["name"], vector["hex"], fields["capacity"], vector["decoded"])
        self.assertEqual(len(vectors("minisketch")), 11)

    def test_sums_decode_to_the_difference(self) -> None:
        """The sum of two sketches is the sketch of the symmetric difference.  ERL-003"""
        (vector,) = vectors("minisketch_merge")
        fields = vector["fields"]
        ours = Sketch(fields["capacity"], map(int, fields["a"]))
        theirs = Sketch.from_bytes(bytes.fromhex(vector["b_hex"]))
        self.assertEqual(bytes(ours).hex(), vector["a_hex"])
        self.assertEqual(bytes(ours ^ theirs).hex(), vector["hex"])
        self.assertEqual((ours ^ theirs).decode(), numbers(vector["decoded"]))

    def test_an_extension_completes_a_sketch(self) -> None:
        """The bytes of the larger sketch begin with those of the smaller one.  wire §13.3"""
        (vector,) = vectors("minisketch_extend")
        fields = vector["fields"]
        whole = Sketch(fields["capacity"], map(int, fields["elements"]))
        self.assertEqual(bytes(whole).hex(), vector["first_hex"] + vector["rest_hex"])
        first = whole.truncated(fields["first_capacity"])
        self.assertEqual(bytes(first).hex(), vector["first_hex"])
        self.assertRaises(SketchDecodeFailed, first.decode)
        self.assertEqual(whole.decode(), numbers(vector["decoded"]))


class ArithmeticTests(SynchronousTestCase):
    """All implementations agree, with one another and with the textbook."""

    @given(st.lists(elements | st.just(0), max_size=20), st.integers(1, 20))
    def test_same_bytes_as_the_textbook(self, numbers: list[int], capacity: int) -> None:
        """Any list of elements has the same sketch everywhere.  ERL-003, design D11"""
        expected = reference_sketch.encode(numbers, capacity)
        for who, encode in encoders().items():
            self.assertEqual(encode(numbers, capacity), expected, who)

    @given(st.sets(elements, max_size=4), st.integers(1, 4))
    def test_same_answers_as_the_textbook(self, chosen: set[int], capacity: int) -> None:
        """Fitting and overfull sketches alike.  ERL-003"""
        data = reference_sketch.encode(chosen, capacity)
        expected = reference_sketch.decode(data, capacity)
        for who, decode in decoders().items():
            self.assertEqual(decode(data, capacity), expected, who)

    @given(st.binary(min_size=1, max_size=12 * 8), st.integers(0, 12))
    def test_any_bytes_decode_to_themselves_or_not_at_all(self, data: bytes, limit: int) -> None:
        """What is decoded has the very sketch, and all decoders agree.  ERL-003"""
        data = data[: len(data) // 8 * 8] or bytes(8)
        limit = min(limit, len(data) // 8)
        answers = [decode(data, limit) for decode in decoders().values()]
        self.assertEqual(answers, [answers[0]] * len(answers))
        if answers[0] is not None:
            self.assertLessEqual(len(answers[0]), limit)
            self.assertEqual(answers[0], sorted(set(answers[0]) - {0}))
            self.assertEqual(sketch_pure.encode(answers[0], len(data) // 8), data)

    def test_random_sets(self) -> None:
        """Sets up to the capacity come back, larger ones do not.  ERL-003, design D11

        ``make sketch-check`` does this with 100 000 sets.
        """
        rng = Random(3)
        for _ in range(60):
            capacity = rng.choice((1, 2, 3, 5, 8, 13, 21, 34))
            chosen = sorted(rng.getrandbits(64) for _ in range(rng.randint(0, capacity)))
            data = {who: encode(chosen, capacity) for who, encode in encoders().items()}
            self.assertEqual(len(set(data.values())), 1, chosen)
            for who, decode in decoders().items():
                self.assertEqual(decode(data["pure"], capacity), chosen, who)
                if len(chosen) > 1:
                    self.assertIsNone(decode(data["pure"], len(chosen) - 1), who)

    def test_the_largest_sketch_is_decoded(self) -> None:
        """256 differences.  ERL-003"""
        rng = Random(5)
        chosen = sorted(rng.getrandbits(64) for _ in range(MAX_SKETCH_CAPACITY))
        data = compiled(SKETCH).encode(chosen, MAX_SKETCH_CAPACITY)
        self.assertEqual(sketch_pure.encode(chosen, MAX_SKETCH_CAPACITY), data)
        for who, decode in decoders().items():
            self.assertEqual(decode(data, MAX_SKETCH_CAPACITY), chosen, who)

    def test_elements_close_to_one_another_are_told_apart(self) -> None:
        """Elements that differ in few bits are no harder to find than others.  ERL-003"""
        chosen = [1 << bit for bit in range(24)]
        data = sketch_pure.encode(chosen, 24)
        for who, decode in decoders().items():
            self.assertEqual(decode(data, 24), chosen, who)

    def test_compiled_functions_refuse_what_they_cannot_do(self) -> None:
        """Whatever is passed, nothing is read that is not there.  ERL-003"""
        module = compiled(SKETCH)
        for capacity in (0, -1, 1025):
            self.assertRaises(ValueError, module.encode, [], capacity)
        for bad in (-1, 2**64):
            self.assertRaises(OverflowError, module.encode, [1, bad], 4)
        self.assertRaises(TypeError, module.encode, ["1"], 4)
        self.assertRaises(TypeError, module.encode, None, 4)
        for data, limit in ((b"", 0), (bytes(7), 0), (bytes(8), 2), (bytes(8), -1)):
            self.assertRaises(ValueError, module.decode, data, limit)
        self.assertRaises(ValueError, module.decode, bytes(8 * 1025), 1)
        self.assertEqual(module.decode(bytes(8 * 1024), 1024), [])


class SketchTests(SynchronousTestCase):
    """The class that others use, with whichever arithmetic there is."""

    @given(sets, sets, st.integers(1, 16))
    def test_differences_up_to_the_capacity_are_found(
        self, ours: set[int], theirs: set[int], capacity: int
    ) -> None:
        """The sum of two sketches yields what only one set has, if it fits.  ERL-003"""
        merged = Sketch(capacity, ours) ^ Sketch(capacity, theirs)
        self.assertEqual(merged, Sketch(capacity, ours ^ theirs))
        if len(ours ^ theirs) <= capacity:
            self.assertEqual(merged.decode(), sorted(ours ^ theirs))
        else:  # with one syndrome to spare nothing else is ever found instead
            self.assertRaises(SketchDecodeFailed, merged.decode, capacity - 1)

    @given(sets, st.integers(1, 16), st.integers(1, 16))
    def test_a_sketch_begins_with_every_smaller_one(
        self, chosen: set[int], capacity: int, smaller: int
    ) -> None:
        """So it can be extended without being sent again.  wire §13.3"""
        whole = Sketch(capacity, chosen)
        if smaller > capacity:
            self.assertRaises(SketchError, whole.truncated, smaller)
            return
        self.assertEqual(whole.truncated(smaller), Sketch(smaller, chosen))
        self.assertEqual(bytes(whole)[: 8 * smaller], bytes(Sketch(smaller, chosen)))
        self.assertEqual((whole ^ Sketch(smaller)).capacity, smaller)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_sketch_or_an_error(self, data: bytes) -> None:
        """Only the length can be wrong.  ERL-003"""
        if len(data) % 8 or not data:
            self.assertRaises(SketchError, Sketch.from_bytes, data)
            return
        self.assertEqual(bytes(Sketch.from_bytes(data)), data)

    def test_adding_twice_removes(self) -> None:
        """As minisketch does; 0 leaves no trace.  wire §13.3"""
        made = Sketch(4, [7])
        made.add(9)
        made.add(7)
        made.add(0)
        self.assertEqual(made.decode(), [9])
        made.update([])
        self.assertEqual(made, Sketch(4, [9]))

    def test_limits(self) -> None:
        """Capacities 1 to 256, elements below 2^64, no more elements than asked for.  ERL-003"""
        for capacity in (0, 257, -1):
            self.assertRaises(SketchError, Sketch, capacity)
        for capacity in (1, 256):
            self.assertEqual(Sketch(capacity).capacity, capacity)
        made = Sketch(3, [1, 2, 3])
        for element in (-1, 2**64):
            self.assertRaises(SketchError, made.update, [5, element])
        self.assertRaises(SketchError, Sketch.from_bytes, bytes(8 * 257))
        self.assertRaises(SketchDecodeFailed, made.decode, 2)
        for limit in (-1, 4):
            self.assertRaises(SketchError, made.decode, limit)
        self.assertEqual(made.decode(3), [1, 2, 3])

    def test_a_sketch_shows_what_it_is(self) -> None:
        """Its repr makes it again; it equals sketches only, and has no hash.  ERL-003"""
        made = Sketch(1, [42])
        self.assertEqual(repr(made), "Sketch.from_bytes(bytes.fromhex('2a00000000000000'))")
        self.assertNotEqual(made, bytes(made))
        self.assertNotEqual(made, Sketch(2, [42]))
        self.assertRaises(TypeError, hash, made)

    def test_compiled_form_is_used_where_it_exists(self) -> None:
        """The package falls back to Python without a word.  design D11"""
        try:
            from dig_gossip.gossip import _sketch
        except ImportError:
            self.assertFalse(sketch.IS_COMPILED)
            self.assertIs(sketch._decode, sketch_pure.decode)
        else:
            self.assertTrue(sketch.IS_COMPILED)
            self.assertIs(sketch._decode, _sketch.decode)
