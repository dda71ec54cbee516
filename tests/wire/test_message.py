"""The envelope."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import DigMessageType
from tests.vectors import load
from tests.wire import WireTestCase

messages = st.builds(
    Message,
    st.integers(0, 255),
    st.none() | st.integers(0, 65535),
    st.binary(max_size=300),
)


class MessageVectors(WireTestCase):
    """The golden vectors of the envelope."""

    def test_valid_vectors_decode_and_encode(self) -> None:
        """Every opcode passes the envelope, known or not.  wire §4, API-009"""
        count = 0
        for vector in load("message_envelope.json"):
            if vector.get("valid", True):
                frame = bytes.fromhex(vector["hex"])
                fields = vector["fields"]
                expected = Message(fields["msg_type"], fields["id"], bytes.fromhex(fields["data"]))
                self.assertEqual(Message.from_bytes(frame), expected, vector["name"])
                self.assertEqual(bytes(expected), frame, vector["name"])
                self.assertEqual(len(expected), len(frame), vector["name"])
                count += 1
        self.assertEqual(count, 29)

    def test_malformed_vectors_are_refused(self) -> None:
        """Short, over-long and badly tagged envelopes are malformed.  wire §4, MSG-102-X"""
        count = 0
        for vector in load("message_envelope.json"):
            if not vector.get("valid", True):
                frame = bytes.fromhex(vector["hex"])
                self.assert_malformed(Message.from_bytes, frame, hint=vector["name"])
                count += 1
        self.assertEqual(count, 10)

    def test_upstream_envelopes_decode_and_encode(self) -> None:
        """The DIG band has the bytes of the Rust crate's golden tests.  wire §4"""
        count = 0
        for vector in load("dig_upstream.json"):
            if "message_hex" in vector:
                message = Message(
                    vector["opcode"], vector["message_id"], bytes.fromhex(vector["hex"])
                )
                frame = bytes.fromhex(vector["message_hex"])
                self.assertEqual(bytes(message), frame, vector["name"])
                self.assertEqual(Message.from_bytes(frame), message, vector["name"])
                count += 1
        self.assertEqual(count, 23)

    def test_message_hash_vectors(self) -> None:
        """A message is named by SHA-256 of its opcode byte and data.  wire §12"""
        count = 0
        for vector in load("dig_payloads_ours.json"):
            if vector["type"] == "message_hash":
                fields = vector["fields"]
                for message_id in (None, 7):
                    message = Message(fields["msg_type"], message_id, bytes.fromhex(fields["data"]))
                    self.assertEqual(message_hash(message).hex(), vector["hash"], vector["name"])
                count += 1
        self.assertEqual(count, 4)


class MessageTests(WireTestCase):
    """The envelope as a value."""

    @given(messages)
    def test_round_trip(self, message: Message) -> None:
        """Every message survives the wire, and knows its length there.  wire §4"""
        frame = bytes(message)
        self.assertEqual(Message.from_bytes(frame), message)
        self.assertEqual(len(message), len(frame))

    @given(st.binary(max_size=24))
    def test_any_bytes_decode_or_are_malformed(self, frame: bytes) -> None:
        """Arbitrary frames decode to a message with these bytes, or are malformed.  MSG-102-X"""
        self.decodes_or_malformed(Message.from_bytes, frame)

    @given(messages, st.integers(0, 400))
    def test_cut_and_padded_frames_are_malformed(self, message: Message, where: int) -> None:
        """No prefix of a frame is a frame, nor a frame with a byte more.  wire §4"""
        frame = bytes(message)
        self.assert_malformed(Message.from_bytes, frame[: where % len(frame)])
        self.assert_malformed(Message.from_bytes, frame + b"\x00")

    def test_equality_and_hash(self) -> None:
        """Messages are equal by value; no id is not id 0.  wire §4"""
        message = Message(43, None, b"x")
        self.assertEqual(message, Message.from_bytes(bytes(message)))
        self.assertEqual(hash(message), hash(Message.from_bytes(bytes(message))))
        for other in (Message(44, None, b"x"), Message(43, 0, b"x"), Message(43, None, b"y")):
            self.assertNotEqual(message, other)
        self.assertNotEqual(message, (43, None, b"x"))

    def test_fields_cannot_be_assigned(self) -> None:
        """A message that sessions and caches share cannot be changed, however made.  API-002.3"""
        message = Message(43, None, b"x")
        for each in (message, Message.from_bytes(bytes(message))):
            with self.assertRaises(attrs.exceptions.FrozenInstanceError):
                each.data = b"y"  # type: ignore[misc]
            with self.assertRaises(AttributeError):
                each.__dict__  # noqa: B018

    def test_copies_are_equal(self) -> None:
        """Copying and pickling give an equal message.  design §3"""
        message = Message(43, 7, b"x")
        copied: Any = copy.deepcopy(message)
        self.assertEqual(copied, message)
        self.assertEqual(pickle.loads(pickle.dumps(message)), message)
        self.assertEqual(attrs.evolve(message, id=None), Message(43, None, b"x"))

    @given(
        st.integers(-2, 258)
        | st.sampled_from([True, None, 7.0, 2**70, DigMessageType.REQUEST_STATUS]),
        st.none() | st.integers(-2, 2) | st.sampled_from([65535, 65536, "x"]),
        st.sampled_from([b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), "abc", None]),
        st.booleans(),
    )
    def test_calling_the_class_does_what_its_initializer_does(
        self, opcode: Any, message_id: Any, data: Any, by_name: bool
    ) -> None:
        """In one step or in two, with values of all kinds: the same, or the same error.  D4"""

        def of(make: Callable[..., Message]) -> object:
            try:
                if by_name:
                    made = make(opcode, data=data, id=message_id)
                else:
                    made = make(opcode, message_id, data)
            except (TypeError, ValueError) as error:
                return type(error), str(error)
            return type(made), made, type(made.type), type(made.data)

        def in_two_steps(*args: Any, **named: Any) -> Message:
            made = object.__new__(Message)
            Message.__init__(made, *args, **named)
            return made

        self.assertEqual(of(Message), of(in_two_steps))
        for wrong in ((), (1, None), (1, None, b"", b"")):
            self.assertRaises(TypeError, Message, *wrong)

    def test_numbers_out_of_range_are_refused(self) -> None:
        """What the envelope cannot carry is refused at once, not in a send queue.  API-002.5"""
        for opcode in (-1, 256):
            with self.assertRaises(ValueError):
                Message(opcode, None, b"")
        for message_id in (-1, 65536):
            with self.assertRaises(ValueError):
                Message(43, message_id, b"")
        self.assertEqual(bytes(Message(255, 65535, b"")).hex(), "ff01ffff00000000")

    def test_values_of_wrong_type_are_refused(self) -> None:
        """Neither a float opcode nor an integer as data pass.  API-002.5"""
        wrong: Any
        for wrong in ((43.0, None, b""), (43, "7", b""), (43, None, 5), (43, None, "text")):
            with self.assertRaises(TypeError):
                Message(*wrong)

    def test_buffers_become_bytes(self) -> None:
        """Mutable data is copied, so that a later change does not show.  API-002.3"""
        buffer = bytearray(b"abc")
        message = Message(43, None, buffer)  # type: ignore[arg-type]
        buffer[0] = 0
        self.assertEqual(message.data, b"abc")
        self.assertIs(type(message.data), bytes)

    def test_repr_is_short(self) -> None:
        """The text form names opcode and id and not a megabyte of payload.  API-102-X"""
        self.assertEqual(repr(Message(43, None, b"\x01")), "Message(type=43, id=None, data=<01>)")
        self.assertLess(len(repr(Message(43, 7, bytes(1_000_000)))), 150)

    def test_message_hash_of_long_data(self) -> None:
        """The hash does not depend on how much data there is.  wire §12"""
        for size in (4096, 4097, 100_000):
            data = bytes(size)
            expected = sha256(b"\x1e" + data).digest()
            self.assertEqual(message_hash(Message(30, None, data)), expected)
