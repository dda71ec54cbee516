"""From bodies to messages and back; Chia's classes go through here too."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, ClassVar

from chia_rs.sized_ints import uint16, uint32, uint64
from hypothesis import given
from hypothesis import strategies as st

from dig_gossip.wire import chia, compact, dig, registry, stem
from dig_gossip.wire.handshake import Handshake
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType
from tests.vectors import load
from tests.wire import WireTestCase
from tests.wire.test_dig import bodies
from tests.wire.test_handshake import handshakes

KNOWN = [opcode for opcode in range(256) if registry.body_class(opcode) is not None]


def agrees(actual: Any, value: Any) -> bool:
    """Whether a value of chia_rs is what a vector says, as far as the vector says it."""
    if isinstance(value, dict):
        if "hex" in value:
            return bool(bytes(actual).hex() == value["hex"])
        return all(agrees(getattr(actual, name), part) for name, part in value.items())
    if isinstance(value, list):
        return len(actual) == len(value) and all(map(agrees, actual, value))
    if isinstance(value, str) and not isinstance(actual, str):
        return bool(bytes(actual).hex() == value)
    return bool(actual == value)


class ChiaVectors(WireTestCase):
    """The golden vectors of Chia's messages, through the registry."""

    def test_messages_decode_and_encode(self) -> None:
        """Chia's bodies decode to the vectors' values, and back to their bytes.  wire §7"""
        count = 0
        for vector in load("chia_messages.json"):
            if vector["opcode"] is None or vector["hex"] is None:
                continue
            frame = bytes.fromhex(vector["message_hex"])
            message = Message.from_bytes(frame)
            self.assertEqual(message.type, vector["opcode"])
            body = registry.decode(message)
            self.assertEqual(type(body).__name__, vector["type"])
            self.assertTrue(agrees(body, vector["fields"]), vector["name"])
            self.assertEqual(registry.opcode_of(body), vector["opcode"])
            self.assertEqual(bytes(registry.encode(body, vector["message_id"])), frame)
            count += 1
        self.assertEqual(count, 43)

    def test_rows_of_peers_decode(self) -> None:
        """A row of a peer list has Chia's bytes.  wire §7"""
        for vector in load("chia_messages.json"):
            if vector["opcode"] is None:
                row = chia.TimestampedPeerInfo.from_bytes(bytes.fromhex(vector["hex"]))
                self.assertTrue(agrees(row, vector["fields"]), vector["name"])

    def test_thousand_and_one_peers(self) -> None:
        """A peer list beyond the usual size still has the right bytes.  wire §8"""
        (vector,) = (v for v in load("chia_messages.json") if v["name"] == "respond_peers_1001")
        rows = [
            chia.TimestampedPeerInfo(
                f"10.{i % 7}.{i >> 8}.{i & 255}", uint16(9444), uint64(1700000000 + i)
            )
            for i in range(1001)
        ]
        message = registry.encode(chia.RespondPeers(rows))
        self.assertEqual(len(message.data), vector["length"])
        self.assertEqual(sha256(message.data).hexdigest(), vector["sha256"])

    def test_malformed_bodies_are_refused(self) -> None:
        """What chia_rs refuses comes out as malformed.  wire §3, MSG-102-X"""
        count = 0
        for vector in load("chia_malformed.json"):
            opcode = registry.opcode_of_class(getattr(chia, vector["type"]))
            message = Message(opcode, None, bytes.fromhex(vector["hex"]))
            self.assert_malformed(registry.decode, message, hint=vector["name"])
            count += 1
        self.assertEqual(count, 20)


class RegistryTests(WireTestCase):
    """Which class belongs to which opcode."""

    def test_every_class_of_chia_rs_is_registered(self) -> None:
        """No message class of chia_rs is left without its opcode.  design D2"""
        for row in load("message_types.json"):
            if row["band"] == "chia":
                name = "".join(word.capitalize() for word in row["name"].split("_"))
                if name in chia.__all__:
                    self.assertIs(registry.body_class(row["opcode"]), getattr(chia, name))
        messages = chia.__all__[: chia.__all__.index("ClassgroupElement")]
        opcodes = {registry.opcode_of_class(getattr(chia, name)) for name in messages}
        self.assertEqual(len(opcodes), len(messages))
        self.assertEqual(len(messages), 74)

    def test_names_that_differ_in_chia_rs(self) -> None:
        """VDF is spelled in capitals, and SES hashes are called info.  design D2"""
        self.assertIs(registry.body_class(42), chia.NewCompactVDF)
        self.assertIs(registry.body_class(76), chia.RequestSesInfo)
        self.assertIs(registry.body_class(77), chia.RespondSesInfo)

    def test_own_classes_have_the_opcode_they_name(self) -> None:
        """Every class with an opcode is registered under it.  wire §12"""
        modules = (dig, compact, stem)
        found = (value for module in modules for value in vars(module).values())
        classes = {c for c in found if isinstance(c, type) and hasattr(c, "OPCODE")}
        self.assertEqual(len(classes), 24)
        for cls in classes:
            self.assertIs(registry.body_class(cls.OPCODE), cls)
            self.assertEqual(registry.opcode_of_class(cls), cls.OPCODE)

    def test_both_handshake_classes_have_opcode_one(self) -> None:
        """Chia's class can be sent; ours is what comes in.  wire §5"""
        body = chia.ChiaHandshake("n", "v", "s", uint16(1), 1, [])
        self.assertEqual(registry.opcode_of(body), 1)
        decoded = registry.decode(registry.encode(body))
        self.assertIsInstance(decoded, Handshake)

    def test_opcodes_without_a_class(self) -> None:
        """Bodies nobody here understands have no class, and decoding says so.  MSG-102-X"""
        for opcode in (0, 3, 8, 68, 108, 113, 199, 220, 241, 254):
            self.assertIsNone(registry.body_class(opcode), opcode)
            self.assert_malformed(registry.decode, Message(opcode, None, b""), hint=opcode)

    def test_opcodes_are_plain_integers(self) -> None:
        """A message made from a body shows its opcode as a number.  design §3"""
        self.assertIs(type(registry.opcode_of(dig.PlumtreePrune())), int)
        self.assertIs(type(registry.encode(chia.RequestPeers()).type), int)

    def test_encode_keeps_the_id(self) -> None:
        """A message carries the id it was given, 0 included, or none.  MSG-105-X"""
        for message_id in (None, 0, 65535):
            message = registry.encode(chia.RequestPeers(), message_id)
            self.assertEqual(message, Message(43, message_id, b""))

    def test_foreign_objects_are_refused(self) -> None:
        """Something that is no body is refused when encoded.  API-002.5"""
        for foreign in (b"bytes", 5, None, object(), Message(43, None, b""), chia.RequestPeers):
            self.assert_malformed(registry.encode, foreign, hint=foreign)
        self.assert_malformed(registry.natural_replies, int)

    def test_bodies_that_cannot_be_encoded_are_refused(self) -> None:
        """A body with impossible fields is malformed, whatever Python thinks.  API-002.5"""
        wrong: Any
        for wrong in (
            dig.RegisterPeer("", 65536, 1),
            dig.NewAttestation("text"),  # type: ignore[arg-type]
            dig.RegisterPeer(None, 1, 1),  # type: ignore[arg-type]
        ):
            self.assert_malformed(registry.encode, wrong, hint=wrong)

    def test_natural_replies(self) -> None:
        """A request's class tells what answers it; what is no request has no answer.  API-002.7"""
        self.assertEqual(registry.natural_replies(chia.RequestBlock), {27, 28})
        self.assertEqual(registry.natural_replies(dig.RequestStatus), {206})
        self.assertEqual(registry.natural_replies(chia.NewPeak), frozenset())

    def test_rejections(self) -> None:
        """A rejection is known by its opcode.  API-002.7"""
        rejected = registry.encode(chia.RejectBlock(uint32(1)))
        self.assertTrue(registry.is_rejection(rejected.type))
        self.assertFalse(registry.is_rejection(ChiaMessageType.RESPOND_BLOCK))
        self.assertFalse(registry.is_rejection(DigMessageType.RESPOND_STATUS))

    @given(bodies | handshakes)
    def test_round_trip(self, body: Any) -> None:
        """Every body of ours survives encode and decode.  wire §13"""
        self.assertEqual(registry.decode(registry.encode(body)), body)

    @given(st.sampled_from(KNOWN), st.binary(max_size=200))
    def test_any_bytes_decode_or_are_malformed(self, opcode: int, data: bytes) -> None:
        """Arbitrary data under any opcode decodes to its bytes, or is malformed.  MSG-102-X"""
        self.decodes_or_malformed(lambda raw: registry.decode(Message(opcode, None, raw)), data)


class DamagedChiaVectors(WireTestCase):
    """chia_rs against damaged input."""

    samples: ClassVar[list[Message]] = []

    def setUp(self) -> None:
        """Collect the valid messages once."""
        if not self.samples:
            self.samples.extend(
                Message.from_bytes(bytes.fromhex(vector["message_hex"]))
                for vector in load("chia_messages.json")
                if vector.get("message_hex")
            )

    @given(st.data())
    def test_changed_bytes_decode_or_are_malformed(self, data: st.DataObject) -> None:
        """Valid messages with bytes changed, cut or added never raise anything else.  MSG-102-X"""
        message = data.draw(st.sampled_from(self.samples))
        raw = bytearray(message.data)
        for where in data.draw(st.lists(st.integers(0, max(0, len(raw) - 1)), max_size=3)):
            raw[where : where + 1] = data.draw(st.binary(max_size=2))
        self.decodes_or_malformed(
            lambda body: registry.decode(Message(message.type, None, body)), bytes(raw)
        )
