"""Field codecs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dig_gossip.wire import streamable
from dig_gossip.wire.streamable import Reader
from tests.vectors import load
from tests.wire import WireTestCase

# Any: the values of all field types
Codec = tuple[Callable[[Reader], Any], Callable[[Any], bytes], int]


def codec(type_name: str) -> Codec:
    """How the fields of a vector's type are read and written, and their least size."""
    integer = re.fullmatch(r"([ui])(\d+)", type_name)
    if integer:
        size = int(integer[2]) // 8
        if integer[1] == "u":
            return lambda r: r.uint(size), lambda v: streamable.uint(v, size), size
        return lambda r: r.sint(size), lambda v: streamable.sint(v, size), size
    if wrapped := re.fullmatch(r"(Option|List)\[(.*)\]", type_name):
        read, write, least = codec(wrapped[2])
        if wrapped[1] == "Option":
            return (
                lambda r: r.optional(lambda: read(r)),
                lambda v: streamable.optional(v, write),
                1,
            )
        return (
            lambda r: list(r.items(lambda: read(r), least)),
            lambda v: streamable.items(v, write),
            4,
        )
    if pair := re.fullmatch(r"\((\w+),(\w+)\)", type_name):
        first, second = codec(pair[1]), codec(pair[2])
        return (
            lambda r: [first[0](r), second[0](r)],
            lambda v: first[1](v[0]) + second[1](v[1]),
            first[2] + second[2],
        )
    simple: dict[str, Codec] = {
        "bool": (Reader.flag, streamable.flag, 1),
        "String": (Reader.text, streamable.text, 4),
        "Bytes": (lambda r: r.blob().hex(), lambda v: streamable.blob(bytes.fromhex(v)), 4),
        "Bytes32": (
            lambda r: r.raw(32).hex(),
            lambda v: streamable.raw(bytes.fromhex(v), 32),
            32,
        ),
    }
    return simple[type_name]


def decode(type_name: str, data: bytes) -> Any:
    """Read one whole value."""
    reader = Reader(data)
    value = codec(type_name)[0](reader)
    reader.finish()
    return value


INTEGERS = ["u8", "u16", "u32", "u64", "u128", "i16", "i32", "i64"]
COMPOUNDS = ["Option[u16]", "Option[String]", "List[u32]", "List[Bytes]", "List[List[u16]]"]
NESTED = ["List[(u16,String)]", "Option[List[Bytes32]]"]
TYPES = [*INTEGERS, "bool", "String", "Bytes", "Bytes32", *COMPOUNDS, *NESTED]


class StreamableVectors(WireTestCase):
    """The golden vectors of the primitives."""

    def test_valid_vectors_decode_and_encode(self) -> None:
        """Every primitive has exactly the bytes that Chia gives it.  wire §3"""
        seen = set()
        for vector in load("streamable.json"):
            if vector.get("valid", True):
                data = bytes.fromhex(vector["hex"])
                seen.add(vector["type"])
                self.assertEqual(decode(vector["type"], data), vector["value"], vector["name"])
                encoded = codec(vector["type"])[1](vector["value"])
                self.assertEqual(encoded, data, vector["name"])
        self.assertEqual(seen, set(TYPES))

    def test_malformed_vectors_are_refused(self) -> None:
        """What Chia refuses is refused, as malformed and nothing else.  wire §3"""
        refused = 0
        for vector in load("streamable.json"):
            if not vector.get("valid", True):
                data = bytes.fromhex(vector["hex"])
                self.assert_malformed(decode, vector["type"], data, hint=vector["name"])
                refused += 1
        self.assertGreaterEqual(refused, 17)


class ReaderTests(WireTestCase):
    """Reading fields."""

    def test_list_count_beyond_input_allocates_nothing(self) -> None:
        """A count of 2^32-1 is refused before a single item is read.  wire §3"""
        calls: list[int] = []
        reader = Reader(b"\xff\xff\xff\xff" + bytes(64))
        self.assert_malformed(reader.items, lambda: calls.append(1), 1)
        self.assertEqual(calls, [])

    def test_list_count_that_just_fits_is_read(self) -> None:
        """The check of the count is exact: n fits, n + 1 does not.  wire §3"""
        reader = Reader(b"\x00\x00\x00\x02" + bytes(4))
        self.assertEqual(reader.items(lambda: reader.uint(2), 2), (0, 0))
        short = Reader(b"\x00\x00\x00\x02" + bytes(3))
        self.assert_malformed(short.items, lambda: short.uint(2), 2)

    def test_list_longer_than_allowed_is_refused(self) -> None:
        """A limit of n admits n items and not n + 1.  D14"""
        two, three = (Reader(bytes((0, 0, 0, count)) + bytes(count)) for count in (2, 3))
        self.assertEqual(two.items(lambda: two.uint(1), 1, max_count=2), (0, 0))
        self.assert_malformed(three.items, lambda: three.uint(1), 1, 2)

    def test_remaining_counts_down(self) -> None:
        """Remaining is what has not been read.  wire §3"""
        reader = Reader(b"abcde")
        self.assertEqual(reader.remaining, 5)
        self.assertEqual(reader.raw(2), b"ab")
        self.assertEqual(reader.remaining, 3)

    @given(st.sampled_from(TYPES), st.binary(max_size=80))
    def test_any_bytes_decode_or_are_malformed(self, type_name: str, data: bytes) -> None:
        """Arbitrary bytes decode to a value with these bytes, or are malformed.  wire §3"""

        class Value:
            def __init__(self, value: Any) -> None:
                self.value = value

            def __bytes__(self) -> bytes:
                return codec(type_name)[1](self.value)

        self.decodes_or_malformed(lambda raw: Value(decode(type_name, raw)), data)


class EncodeTests(WireTestCase):
    """Writing fields."""

    def test_values_without_an_encoding_are_refused(self) -> None:
        """What does not fit its field is malformed, not an arbitrary exception.  API-002.5"""
        for call in (
            lambda: streamable.uint(256, 1),
            lambda: streamable.uint(-1, 4),
            lambda: streamable.sint(32768, 2),
            lambda: streamable.sint(-32769, 2),
            lambda: streamable.raw(bytes(31), 32),
            lambda: streamable.raw(bytes(33), 32),
            lambda: streamable.text("\ud800"),
        ):
            self.assert_malformed(call)

    @given(st.text(max_size=40))
    def test_text_round_trips(self, text: str) -> None:
        """Any text that has an encoding comes back.  wire §3"""
        if any("\ud800" <= char <= "\udfff" for char in text):
            self.assert_malformed(streamable.text, text)
        else:
            self.assertEqual(decode("String", streamable.text(text)), text)

    def test_preview_cuts_long_data(self) -> None:
        """Megabytes of payload never reach a log line.  API-102-X"""
        self.assertEqual(streamable.preview(b"\x01" * 32), f"<{'01' * 32}>")
        self.assertEqual(streamable.preview(b"\x01" * 33), f"<{'01' * 32}… 33 bytes>")
