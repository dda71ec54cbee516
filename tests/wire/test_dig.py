"""Bodies of the DIG band and of what chia_rs lacks."""

from __future__ import annotations

from typing import Any

from chia_rs import TimestampedPeerInfo
from chia_rs.sized_ints import uint16, uint64
from hypothesis import given
from hypothesis import strategies as st

from dig_gossip.wire import dig
from dig_gossip.wire.message import Message
from tests.vectors import load
from tests.wire import WireTestCase

#: Classes under test, by the vectors' names of them.
CLASSES: dict[str, Any] = {
    "PlumtreeLazyAnnounce": dig.PlumtreeLazyAnnounce,
    "PlumtreePrune": dig.PlumtreePrune,
    "PlumtreeGraft": dig.PlumtreeGraft,
    "PlumtreeRequestByHash": dig.PlumtreeRequestByHash,
    "RequestStatus": dig.RequestStatus,
    "RespondStatus": dig.RespondStatus,
    "RegisterPeer": dig.RegisterPeer,
    "RegisterAck": dig.RegisterAck,
    "RequestPeersIntroducer": dig.RequestPeersIntroducer,
    "RespondPeersIntroducer": dig.RespondPeersIntroducer,
    "ConfigureWindowSizes": dig.ConfigureWindowSizes,
    "Error": dig.ErrorMessage,
    "NoneResponse": dig.NoneResponse,
}
#: Vectors of later issues, or of bodies that have tests of their own.
LATER = {
    "NewCompactBlock",
    "RequestBlockTransactions",
    "RespondBlockTransactions",
    "ReconciliationSketch",
    "ReconciliationResponse",
    "StemTransaction",
    "StoreMelted",
    "StreamFrame",
    "ProfileRootRef",
    "ProfileBody",
    "DistributorAnnounce",
    "message_hash",
    "erlay_element",
}
OPAQUE: list[type[dig.OpaqueBody]] = [
    dig.NewAttestation,
    dig.NewCheckpointProposal,
    dig.NewCheckpointSignature,
    dig.RequestCheckpointSignatures,
    dig.RespondCheckpointSignatures,
    dig.NewCheckpointSubmission,
    dig.ValidatorAnnounce,
]

hashes = st.binary(min_size=32, max_size=32)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
u8, u16, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 64))
bodies = st.one_of(
    st.builds(dig.PlumtreePrune),
    st.builds(dig.PlumtreeGraft, st.none() | hashes),
    st.builds(dig.PlumtreeRequestByHash, hashes),
    st.builds(
        dig.PlumtreeLazyAnnounce,
        st.lists(st.tuples(hashes, u8), min_size=1, max_size=64).map(tuple),
    ),
    st.builds(dig.RequestStatus),
    st.builds(
        dig.RespondStatus,
        network_id=hashes,
        peak_hash=hashes,
        peak_height=u64,
        finalized_height=u64,
        epoch=u64,
        timestamp=u64,
    ),
    st.builds(dig.RegisterPeer, texts, u16, st.integers(1, 8)),
    st.builds(dig.RegisterAck, st.booleans()),
    st.builds(dig.RequestPeersIntroducer),
    st.builds(
        dig.RespondPeersIntroducer,
        st.lists(
            st.builds(TimestampedPeerInfo, texts, u16.map(uint16), u64.map(uint64)), max_size=5
        ).map(tuple),
    ),
    st.builds(dig.NoneResponse),
    st.builds(dig.ConfigureWindowSizes, st.lists(st.tuples(u8, u16), max_size=8).map(tuple)),
    st.builds(
        dig.ErrorMessage,
        st.integers(-(2**15), 2**15 - 1),
        texts,
        st.none() | st.binary(max_size=40),
    ),
    *(st.builds(cls, st.binary(max_size=40)) for cls in OPAQUE),
)


def argument(name: str, value: Any) -> Any:
    """A field's value from a vector's."""
    if name == "entries":
        return tuple((bytes.fromhex(entry["hash"]), entry["msg_type"]) for entry in value)
    if name == "peer_list":
        return tuple(TimestampedPeerInfo(**row) for row in value)
    if name == "settings":
        return tuple(tuple(pair) for pair in value)
    if name in ("hash", "network_id", "peak_hash", "data") and value is not None:
        return bytes.fromhex(value)
    return value


class DigVectors(WireTestCase):
    """The golden vectors of these bodies."""

    def check_valid(self, name: str) -> int:
        """Decode and encode every valid vector of one file; how many there were."""
        count = 0
        for vector in load(name):
            if vector["type"] in LATER | {"opaque"} or not vector.get("valid", True):
                continue
            cls = CLASSES[vector["type"]]
            data = bytes.fromhex(vector["hex"])
            body = cls(**{key: argument(key, value) for key, value in vector["fields"].items()})
            self.assertEqual(cls.from_bytes(data), body, vector["name"])
            self.assertEqual(bytes(body), data, vector["name"])
            self.assertEqual(cls.OPCODE, vector["opcode"])
            self.assertEqual(
                bytes(Message(cls.OPCODE, vector["message_id"], bytes(body))).hex(),
                vector["message_hex"],
            )
            count += 1
        return count

    def check_malformed(self, name: str) -> int:
        """Refuse every malformed vector of one file; how many there were."""
        count = 0
        for vector in load(name):
            if vector["type"] not in LATER and not vector.get("valid", True):
                data = bytes.fromhex(vector["hex"])
                cls = CLASSES[vector["type"]]
                self.assert_malformed(cls.from_bytes, data, hint=vector["name"])
                count += 1
        return count

    def test_our_layouts(self) -> None:
        """Plumtree and status bodies have the proposed bytes.  wire §13.1, §13.5"""
        self.assertEqual(self.check_valid("dig_payloads_ours.json"), 8)

    def test_our_malformed_bodies(self) -> None:
        """Control frames that do not fit their layout are malformed.  wire §13.1, PLT-009"""
        self.assertEqual(self.check_malformed("dig_payloads_ours.json"), 8)

    def test_upstream_layouts(self) -> None:
        """Registration has the bytes of the Rust crate's golden tests.  wire §9"""
        self.assertEqual(self.check_valid("dig_upstream.json"), 6)

    def test_upstream_malformed_bodies(self) -> None:
        """What the Rust crate refuses of a registration is refused.  wire §9"""
        self.assertEqual(self.check_malformed("dig_upstream.json"), 6)

    def test_chias_bodies_without_a_class(self) -> None:
        """63, 64, 111 and 255 have Chia's bytes.  wire §7"""
        self.assertEqual(self.check_valid("chia_shared_messages.json"), 8)

    def test_opaque_payloads_travel_as_they_are(self) -> None:
        """Upstream's golden payloads pass the opaque bodies unchanged.  wire §12"""
        count = 0
        by_opcode = {cls.OPCODE: cls for cls in OPAQUE}
        for vector in load("dig_upstream.json"):
            cls = by_opcode.get(vector.get("opcode", -1))
            if vector["type"] == "opaque" and cls is not None:
                payload = bytes.fromhex(vector["fields"]["data"])
                self.assertEqual(bytes(cls(payload)), payload)
                self.assertEqual(cls.from_bytes(payload), cls(payload))
                count += 1
        self.assertEqual(count, 1)


class DigTests(WireTestCase):
    """The codecs."""

    @given(bodies)
    def test_round_trip(self, body: Any) -> None:
        """Every body survives the wire.  wire §13"""
        self.assertEqual(type(body).from_bytes(bytes(body)), body)

    @given(st.sampled_from([*CLASSES.values(), *OPAQUE]), st.binary(max_size=140))
    def test_any_bytes_decode_or_are_malformed(self, cls: Any, data: bytes) -> None:
        """Arbitrary bytes decode to a body with these bytes, or are malformed.  MSG-102-X"""
        self.decodes_or_malformed(cls.from_bytes, data)

    @given(bodies, st.data())
    def test_damaged_bodies_decode_or_are_malformed(self, body: Any, data: st.DataObject) -> None:
        """One changed byte never leads to another exception.  MSG-102-X"""
        raw = bytearray(bytes(body))
        if raw:
            where = data.draw(st.integers(0, len(raw) - 1))
            raw[where] = data.draw(st.integers(0, 255))
        self.decodes_or_malformed(type(body).from_bytes, bytes(raw))

    @given(bodies.filter(lambda body: not isinstance(body, dig.OpaqueBody)))
    def test_trailing_bytes_are_malformed(self, body: Any) -> None:
        """Nothing may follow a body that has an end.  wire §3"""
        self.assert_malformed(type(body).from_bytes, bytes(body) + b"\x00", hint=body)

    def test_announce_limits(self) -> None:
        """1 and 64 entries pass in both directions, 0 and 65 in none.  wire §13.1"""
        entry = (bytes(32), 20)
        for count in (0, 1, 64, 65):
            announce = dig.PlumtreeLazyAnnounce((entry,) * count)
            raw = (bytes(32) + b"\x14") * count
            if 1 <= count <= 64:
                self.assertEqual(bytes(announce), raw)
                self.assertEqual(dig.PlumtreeLazyAnnounce.from_bytes(raw), announce)
            else:
                self.assert_malformed(bytes, announce, hint=count)
                self.assert_malformed(dig.PlumtreeLazyAnnounce.from_bytes, raw, hint=count)

    def test_single_entry_has_upstreams_bytes(self) -> None:
        """One entry is a plain hash and u8, as upstream's struct would be.  wire §13.1"""
        announce = dig.PlumtreeLazyAnnounce(((b"\xaa" * 32, 255),))
        self.assertEqual(bytes(announce), b"\xaa" * 32 + b"\xff")

    def test_wrong_hashes_are_refused_when_encoded(self) -> None:
        """A hash of another length is neither padded nor cut.  wire §13.1"""
        for size in (0, 31, 33):
            wrong = bytes(size)
            for body in (
                dig.PlumtreeLazyAnnounce(((bytes(32), 1), (wrong, 1))),
                dig.PlumtreeGraft(wrong),
                dig.PlumtreeRequestByHash(wrong),
            ):
                self.assert_malformed(bytes, body, hint=body)
        self.assert_malformed(bytes, dig.PlumtreeLazyAnnounce(((bytes(32), 256),)))

    def test_registration_of_unassigned_node_types_is_malformed(self) -> None:
        """Node types 1 to 8 register, 0 and 9 do not.  wire §9"""
        for node_type in (0, 1, 8, 9):
            raw = bytes(dig.RegisterPeer("", 9444, node_type))
            if node_type in (1, 8):
                self.assertEqual(dig.RegisterPeer.from_bytes(raw).node_type, node_type)
            else:
                self.assert_malformed(dig.RegisterPeer.from_bytes, raw, hint=node_type)

    def test_opaque_bodies_of_other_opcodes_differ(self) -> None:
        """The same payload under another opcode is another body.  wire §12"""
        self.assertNotEqual(dig.NewAttestation(b"x"), dig.ValidatorAnnounce(b"x"))
        self.assertNotEqual(dig.PlumtreePrune(), dig.RequestStatus())
        self.assertEqual([cls.OPCODE for cls in OPAQUE], [200, 201, 202, 203, 204, 207, 208])

    def test_bodies_have_no_room_for_other_attributes(self) -> None:
        """Bodies are frozen values.  style §7.1"""
        for body in (dig.NewAttestation(b"x"), dig.PlumtreePrune(), dig.PlumtreeGraft(None)):
            with self.assertRaises(AttributeError):
                body.extra = 1  # type: ignore[union-attr]

    def test_opaque_repr_is_short(self) -> None:
        """A megabyte of payload shows as a few bytes.  API-102-X"""
        self.assertLess(len(repr(dig.NewAttestation(bytes(1_000_000)))), 150)
