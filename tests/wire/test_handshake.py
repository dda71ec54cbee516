"""The body of the handshake."""

from __future__ import annotations

from typing import Any

import attrs
import chia_rs
from hypothesis import given
from hypothesis import strategies as st

from dig_gossip.wire.handshake import Capability, Handshake
from dig_gossip.wire.message import Message
from tests.vectors import document, load
from tests.wire import WireTestCase

EMPTY = Handshake(
    network_id="",
    protocol_version="",
    software_version="",
    server_port=0,
    node_type=1,
    capabilities=(),
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
handshakes = st.builds(
    Handshake,
    network_id=texts,
    protocol_version=texts,
    software_version=texts,
    server_port=st.integers(0, 65535),
    node_type=st.integers(1, 8),
    capabilities=st.lists(st.tuples(st.integers(0, 65535), texts), max_size=8).map(tuple),
)


def from_fields(fields: dict[str, Any]) -> Handshake:
    """A body from a vector's fields."""
    pairs = tuple((code, value) for code, value in fields["capabilities"])
    return Handshake(**{**fields, "capabilities": pairs})


class HandshakeVectors(WireTestCase):
    """The golden vectors of opcode 1."""

    def test_valid_vectors_decode_and_encode(self) -> None:
        """What Chia, Rust and ours say has these bytes.  wire §5.1"""
        count = 0
        for vector in load("handshake.json"):
            if vector.get("valid", True):
                data = bytes.fromhex(vector["hex"])
                body = from_fields(vector["fields"])
                self.assertEqual(Handshake.from_bytes(data), body, vector["name"])
                self.assertEqual(bytes(body), data, vector["name"])
                frame = Message.from_bytes(bytes.fromhex(vector["message_hex"]))
                self.assertEqual(frame, Message(1, vector["message_id"], data), vector["name"])
                count += 1
        self.assertEqual(count, 9)

    def test_malformed_vectors_are_refused(self) -> None:
        """What does not decode is malformed; only a solver decodes here.  wire §5.1"""
        count = 0
        for vector in load("handshake.json"):
            if vector.get("valid", True):
                continue
            data = bytes.fromhex(vector["hex"])
            if vector["name"] == "node_type_8_solver":
                self.assertEqual(Handshake.from_bytes(data).node_type, 8)
            else:
                self.assert_malformed(Handshake.from_bytes, data, hint=vector["name"])
            count += 1
        self.assertEqual(count, 8)

    def test_capability_numbers_are_chias(self) -> None:
        """Capabilities below 200 have Chia's names and numbers.  wire §5.4"""
        chia = {c.name: c.value for c in Capability if c < 200}
        self.assertEqual(chia, document("message_types.json")["capabilities"])
        ours = {c.value for c in Capability if c >= 200}
        self.assertEqual(ours, {200, 201, 202, 203, 204, 205, 206, 207})


class HandshakeTests(WireTestCase):
    """The codec."""

    @given(handshakes)
    def test_round_trip(self, body: Handshake) -> None:
        """Every handshake survives the wire.  wire §5.1"""
        self.assertEqual(Handshake.from_bytes(bytes(body)), body)

    @given(st.binary(max_size=60) | handshakes.map(bytes).map(lambda data: data[:-1] + b"\x02"))
    def test_any_bytes_decode_or_are_malformed(self, data: bytes) -> None:
        """Arbitrary bytes decode to a body with these bytes, or are malformed.  MSG-102-X"""
        self.decodes_or_malformed(Handshake.from_bytes, data)

    @given(handshakes.filter(lambda body: body.node_type < 8))
    def test_chia_reads_the_same(self, body: Handshake) -> None:
        """chia_rs decodes our bytes to the same values.  wire §5.1"""
        theirs = chia_rs.Handshake.from_bytes(bytes(body))
        self.assertEqual(theirs.network_id, body.network_id)
        self.assertEqual(theirs.server_port, body.server_port)
        self.assertEqual(theirs.node_type, body.node_type)
        self.assertEqual(tuple(theirs.capabilities), body.capabilities)
        self.assertEqual(bytes(theirs), bytes(body))

    def test_node_types_one_to_eight_decode(self) -> None:
        """The node type is Chia's enumeration, solver included, and nothing else.  wire §5.1"""
        data = bytearray(bytes(EMPTY))
        where = len(data) - 5
        for node_type in range(256):
            data[where] = node_type
            if 1 <= node_type <= 8:
                self.assertEqual(Handshake.from_bytes(bytes(data)).node_type, node_type)
            else:
                self.assert_malformed(Handshake.from_bytes, bytes(data), hint=node_type)

    def test_sixty_four_capabilities_are_the_limit(self) -> None:
        """63 and 64 capabilities decode, 65 do not.  CON-003.4"""
        for count, value in ((63, "1"), (64, "1"), (64, ""), (65, "")):
            body = attrs.evolve(EMPTY, capabilities=((1, value),) * count)
            if count <= 64:
                self.assertEqual(Handshake.from_bytes(bytes(body)), body)
            else:
                self.assert_malformed(Handshake.from_bytes, bytes(body))

    def test_impossible_fields_are_refused_when_encoded(self) -> None:
        """A port, type or capability that has no encoding is malformed.  API-002.5"""
        for change in (
            {"server_port": 65536},
            {"node_type": 256},
            {"capabilities": ((65536, "1"),)},
            {"network_id": "\udcff"},
        ):
            self.assert_malformed(bytes, attrs.evolve(EMPTY, **change), hint=change)
