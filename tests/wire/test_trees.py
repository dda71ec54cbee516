"""Bodies of the frames of trees with tags."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from dig_gossip.constants import TREE_MAX_ANNOUNCE_ENTRIES
from dig_gossip.wire import registry
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import (
    ChiaMessageType,
    DigMessageType,
    RoutingClass,
    routing_class,
    valid_replies,
)
from dig_gossip.wire.trees import (
    MAY_HAVE_TAG,
    TreeAnnounce,
    TreeGraft,
    TreeOpen,
    TreePrune,
)
from tests.wire import WireTestCase

CLASSES: Final[list[Any]] = [TreeOpen, TreeAnnounce, TreePrune, TreeGraft]

tags = st.integers(1, 65_535)
shorts = st.binary(min_size=8, max_size=8)
bodies = st.one_of(
    st.builds(TreeOpen, tags, st.integers(0, 65_535)),
    st.builds(TreeAnnounce, st.lists(shorts, min_size=1, max_size=128).map(tuple)),
    st.builds(TreeAnnounce, st.lists(shorts, max_size=1).map(tuple), st.just(True)),
    st.builds(TreePrune, tags),
    st.builds(TreeGraft, tags),
    st.builds(TreeGraft, st.none(), shorts),
)


class TreeBodies(WireTestCase):
    """Layouts, opcodes 242 to 245."""

    def test_golden_bytes(self) -> None:
        """Numbers are big-endian, and nothing has a count.  design D6"""
        for body, opcode, expected in (
            (TreeOpen(0x1234, 0x0056), 242, "12340056"),
            (TreeOpen(1, 65_535), 242, "0001ffff"),
            (TreeAnnounce((b"abcdefgh",)), 243, "6162636465666768"),
            (TreeAnnounce((bytes(8), b"\xff" * 8)), 243, "00" * 8 + "ff" * 8),
            (TreeAnnounce((b"abcdefgh",), is_alarm=True), 243, "616263646566676801"),
            (TreeAnnounce((), is_alarm=True), 243, "01"),
            (TreePrune(0xABCD), 244, "abcd"),
            (TreeGraft(0x0102), 245, "0102"),
            (TreeGraft(None, bytes(range(8))), 245, "0001020304050607"),
        ):
            self.assertEqual(bytes(body).hex(), expected)
            self.assertEqual(type(body).from_bytes(bytes.fromhex(expected)), body)
            self.assertEqual(body.OPCODE, opcode)
            message = registry.encode(body)
            self.assertEqual((message.type, message.id, message.data), (opcode, None, bytes(body)))
            self.assertEqual(registry.decode(message), body)

    def test_message_with_a_tag_has_it_in_the_place_of_the_id(self) -> None:
        """Two bytes more, and the same hash.  design D6"""
        plain = Message(200, None, b"data")
        tagged = Message(200, 0x1234, b"data")
        self.assertEqual(bytes(tagged).hex(), "c80112340000000464617461")
        self.assertEqual(message_hash(tagged), message_hash(plain))

    def test_wrong_lengths_and_no_tag_are_malformed(self) -> None:
        """Whatever does not fit is refused; 0 is no tag.  design D6"""
        for cls, sizes in (
            (TreeOpen, {4}),
            (TreePrune, {2}),
            (TreeGraft, {2, 8}),
            (TreeAnnounce, {8 * count for count in range(1, 129)}),
        ):
            for size in range(1040):
                if size not in sizes:
                    self.assert_malformed(cls.from_bytes, b"\2" * size, hint=(cls, size))
        for cls, data in (
            (TreeOpen, bytes((0, 0, 1, 1))),
            (TreePrune, bytes(2)),
            (TreeGraft, bytes(2)),
            (TreeAnnounce, b"\1" * 17),
        ):
            self.assert_malformed(cls.from_bytes, data, hint=cls)

    def test_what_would_be_malformed_is_not_encoded(self) -> None:
        """Empty or too long announcements, short hashes that are none, odd grafts.  design D6

        Capability 207
        """
        most = (bytes(8),) * TREE_MAX_ANNOUNCE_ENTRIES
        self.assertEqual(len(bytes(TreeAnnounce(most))), 1024)
        for body in (
            TreeAnnounce(()),
            TreeAnnounce((*most, bytes(8))),
            TreeAnnounce((bytes(7),)),
            TreeAnnounce((bytes(8), bytes(8)), is_alarm=True),
            TreeGraft(None),
            TreeGraft(1, bytes(8)),
            TreeGraft(None, bytes(32)),
        ):
            self.assert_malformed(body.__bytes__, hint=body)

    @given(bodies)
    def test_round_trip(self, body: Any) -> None:
        """Every body survives the wire.  design D6"""
        self.assertEqual(type(body).from_bytes(bytes(body)), body)

    @given(st.sampled_from(CLASSES), st.binary(max_size=1100))
    def test_any_bytes_decode_or_are_malformed(self, cls: Any, data: bytes) -> None:
        """Arbitrary bytes decode to a body with these bytes, or are malformed.  MSG-102-X"""
        self.decodes_or_malformed(cls.from_bytes, data)

    @given(bodies, st.data())
    def test_damaged_bodies_decode_or_are_malformed(self, body: Any, data: st.DataObject) -> None:
        """One changed byte never leads to another exception.  MSG-102-X"""
        raw = bytearray(bytes(body))
        where = data.draw(st.integers(0, len(raw) - 1))
        raw[where] = data.draw(st.integers(0, 255))
        self.decodes_or_malformed(type(body).from_bytes, bytes(raw))


class MayHaveTagTests(WireTestCase):
    """Which messages may run in a tree of their own."""

    def test_these_and_no_others(self) -> None:
        """Peaks, unfinished blocks by name, and five of the DIG band.  design D6"""
        tagged = {opcode for opcode in range(256) if MAY_HAVE_TAG[opcode]}
        self.assertEqual(tagged, {20, 32, 92, 200, 201, 202, 207, 208})
        self.assertEqual(len(MAY_HAVE_TAG), 256)

    def test_no_answer_has_a_tag(self) -> None:
        """Whatever may answer a request has a correlation id there.  MSG-104-X"""
        for request in range(256):
            for answer in valid_replies(request):
                self.assertFalse(MAY_HAVE_TAG[answer], (request, answer))

    def test_nothing_that_hides_its_origin_or_changes_its_form_has_one(self) -> None:
        """Neither transactions nor blocks, compact or whole.  PRV-002"""
        for opcode in (
            ChiaMessageType.NEW_TRANSACTION,
            ChiaMessageType.RESPOND_BLOCK,
            ChiaMessageType.ERROR,
            DigMessageType.NEW_COMPACT_BLOCK,
            DigMessageType.STEM_TRANSACTION,
            DigMessageType.MESSAGE_CHUNK,
        ):
            self.assertFalse(MAY_HAVE_TAG[opcode], opcode)

    def test_control_frames_are_none_of_the_applications(self) -> None:
        """With an id or without.  design D6"""
        for cls in CLASSES:
            for has_id in (False, True):
                self.assertIs(routing_class(cls.OPCODE, has_id), RoutingClass.CONTROL)
