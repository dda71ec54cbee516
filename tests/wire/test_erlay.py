"""Bodies of ERLAY, and the numbers that stand for transactions."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dig_gossip.wire import registry
from dig_gossip.wire.erlay import (
    ReconciliationResponse,
    ReconciliationSketch,
    ReconciliationStatus,
    element_of,
)
from dig_gossip.wire.message import Message
from tests.vectors import load
from tests.wire import WireTestCase

CLASSES: dict[str, Any] = {
    "ReconciliationSketch": ReconciliationSketch,
    "ReconciliationResponse": ReconciliationResponse,
}

u32, u64 = (st.integers(0, 2**bits - 1) for bits in (32, 64))
bodies = st.one_of(
    st.builds(
        ReconciliationSketch,
        sketch=st.binary(max_size=80),
        sketch_capacity=u32,
        sketch_offset=u32,
        set_size=u32,
        salt=st.binary(min_size=16, max_size=16),
    ),
    st.builds(
        ReconciliationResponse,
        status=st.integers(0, 255),
        set_size=u32,
        missing=st.lists(u64, max_size=9).map(tuple),
    ),
)


def from_vector(vector: dict[str, Any]) -> Any:
    """The body that a vector describes."""
    fields = dict(vector["fields"])
    for name in ("sketch", "salt"):
        if name in fields:
            fields[name] = bytes.fromhex(fields[name])
    if "missing" in fields:
        fields["missing"] = tuple(map(int, fields["missing"]))
    return CLASSES[vector["type"]](**fields)


class ErlayBodyTests(WireTestCase):
    """211 and 212."""

    def vectors(self) -> list[dict[str, Any]]:
        """All of these bodies."""
        return [v for v in load("dig_payloads_ours.json") if v["type"] in CLASSES]

    def test_layouts(self) -> None:
        """The bodies have the proposed bytes, and break no rule.  wire §13.3"""
        count = 0
        for vector in self.vectors():
            if vector.get("valid", True):
                body = from_vector(vector)
                self.assertEqual(bytes(body).hex(), vector["hex"], vector["name"])
                self.assertEqual(type(body).from_bytes(bytes(body)), body)
                message = registry.encode(body, vector["message_id"])
                self.assertEqual(bytes(message).hex(), vector["message_hex"])
                self.assertEqual(registry.decode(message), body)
                self.assertIsNone(body.violation())
                count += 1
        self.assertEqual(count, 6)

    def test_malformed_bodies(self) -> None:
        """What does not fit the layout is malformed; broken rules are found later.  MSG-102-X"""
        malformed, broken = 0, 0
        for vector in self.vectors():
            if vector.get("valid", True):
                continue
            cls, data = CLASSES[vector["type"]], bytes.fromhex(vector["hex"])
            if vector.get("semantic"):
                self.assertIsNotNone(cls.from_bytes(data).violation(), vector["name"])
                broken += 1
            else:
                self.assert_malformed(cls.from_bytes, data, hint=vector["name"])
                malformed += 1
        self.assertEqual((malformed, broken), (3, 5))

    def test_limits_of_the_rules(self) -> None:
        """Capacity 1 to 128, offset below it, sketch as long as both say.  wire §13.3"""
        for capacity, offset, size, is_sound in (
            (1, 0, 8, True), (128, 0, 1024, True), (128, 64, 512, True), (0, 0, 0, False),
            (129, 0, 1032, False), (8, 8, 0, False), (8, 0, 56, False), (8, 0, 72, False),
        ):  # fmt: skip
            body = ReconciliationSketch(
                sketch=bytes(size), sketch_capacity=capacity, sketch_offset=offset, set_size=1,
                salt=bytes(16),
            )  # fmt: skip
            self.assertEqual(body.violation() is None, is_sound, (capacity, offset, size))
        for status, missing, is_sound in (
            (0, (1, 2), True), (0, (), True), (0, (2, 2), False), (1, (), True), (1, (1,), False),
            (2, (1,), False), (3, (), True), (4, (), False),
        ):  # fmt: skip
            answer = ReconciliationResponse(status=status, set_size=1, missing=missing)
            self.assertEqual(answer.violation() is None, is_sound, (status, missing))

    @given(bodies)
    def test_round_trip(self, body: Any) -> None:
        """Every body survives the wire.  wire §13.3"""
        self.assertEqual(type(body).from_bytes(bytes(body)), body)

    @given(st.sampled_from([*CLASSES.values()]), st.binary(max_size=140))
    def test_any_bytes_decode_or_are_malformed(self, cls: Any, data: bytes) -> None:
        """Arbitrary bytes decode to a body with these bytes, or are malformed.  MSG-102-X"""
        self.decodes_or_malformed(cls.from_bytes, data)

    def test_salt_has_sixteen_bytes(self) -> None:
        """No other length can be encoded.  wire §13.3"""
        for size in (15, 17):
            body = ReconciliationSketch(
                sketch=b"", sketch_capacity=1, sketch_offset=0, set_size=0, salt=bytes(size)
            )
            self.assert_malformed(bytes, body)


class ElementTests(WireTestCase):
    """Numbers for transactions."""

    def test_numbers_depend_on_the_salt(self) -> None:
        """They are the first eight bytes of a hash, little-endian.  wire §13.3, ERL-103-X"""
        count = 0
        for vector in load("dig_payloads_ours.json"):
            if vector["type"] == "erlay_element":
                fields = {name: bytes.fromhex(text) for name, text in vector["fields"].items()}
                element = element_of(fields["salt"], fields["tx_id"])
                self.assertEqual(element, int(vector["element"]))
                self.assertEqual(element.to_bytes(8, "big").hex(), vector["hex"])
                count += 1
        self.assertEqual(count, 4)

    def test_opcodes(self) -> None:
        """211 asks, 212 answers.  wire §12"""
        self.assertEqual(registry.natural_replies(ReconciliationSketch), frozenset({212}))
        self.assertEqual(list(ReconciliationStatus), [0, 1, 2, 3])
        self.assert_malformed(registry.decode, Message(211, 1, b""))
