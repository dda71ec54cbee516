"""What a node says to an introducer, and what it makes of the answers."""

from __future__ import annotations

import random
from typing import Any

from chia_rs import TimestampedPeerInfo
from chia_rs.sized_ints import uint16, uint64
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.errand import Ask, Done, Greeting
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.discovery.introducer_protocol import (
    Query,
    Registration,
    RegistrationPlan,
    endpoint_address,
)
from dig_gossip.errors import IntroducerError
from dig_gossip.types.peer import NodeType, PeerAddress
from dig_gossip.wire import registry
from dig_gossip.wire.dig import ErrorMessage, RegisterAck, RegisterPeer, RespondPeersIntroducer
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType

OURS = RegisterPeer("", 9444, NodeType.FULL_NODE)


def remote(node_type: NodeType, *capabilities: int) -> RemoteHandshake:
    """What an introducer says of itself."""
    return RemoteHandshake(
        node_type=node_type,
        protocol_version="0.0.37",
        software_version="2.7.1",
        server_port=9448,
        capabilities=frozenset(capabilities),
    )


DIG = remote(NodeType.FULL_NODE, Capability.DIG_OPCODES)
RUST = remote(NodeType.FULL_NODE)
CHIA = remote(NodeType.INTRODUCER)


def row(host: str, port: int = 9444) -> TimestampedPeerInfo:
    """One row of an answer."""
    return TimestampedPeerInfo(host, uint16(port), uint64(0))


def asked(errand: Any) -> Message:
    """What an errand asks a DIG introducer."""
    step = errand.greeted(DIG)
    assert isinstance(step, Ask)
    return step.message


def answer(errand: Any, body: object, message_id: int | None) -> Any:
    """What an errand makes of an answer: its result, or None while it waits."""
    step = errand.received(registry.encode(body, message_id))
    return step.result if isinstance(step, Done) else step


class EndpointTests(SynchronousTestCase):
    """``endpoint_address``."""

    def test_a_url_is_taken_apart(self) -> None:
        """``/ws`` is appended only where there is no path.  wire §9"""
        for url, host, path, is_encrypted in (
            ("ws://one.example:9448", "one.example", "/ws", False),
            ("wss://[2001:db8::1]:9448", "2001:db8::1", "/ws", True),
            ("wss://one.example:9448/", "one.example", "/", True),
            ("wss://one.example:9448/some/where?a=b", "one.example", "/some/where?a=b", True),
        ):
            expected = (PeerAddress(host, 9448), path, is_encrypted)
            self.assertEqual(endpoint_address(url), expected)


class QueryTests(SynchronousTestCase):
    """``Query``."""

    def test_the_question_is_empty_and_has_an_id(self) -> None:
        """Opcode 63, in the dialer's range of ids.  wire §9, MSG-103-X"""
        message = asked(Query())
        self.assertEqual((message.type, message.data), (63, b""))
        self.assertIn(message.id, range(0x4000, 0x8000))

    def test_every_introducer_is_asked(self) -> None:
        """Ours, Rust's and Chia's, whatever they say they are.  DSC-004.1"""
        self.assertEqual(Query.node_types, {NodeType.FULL_NODE, NodeType.INTRODUCER})
        for other in (DIG, RUST, CHIA):
            self.assertIsInstance(Query().greeted(other), Ask)

    def test_the_answer_may_lack_the_id(self) -> None:
        """Chia's nodes are not strict about it.  wire §9"""
        for with_id in (True, False):
            query = Query()
            message_id = asked(query).id if with_id else None
            result = answer(query, RespondPeersIntroducer((row("8.8.8.8"),)), message_id)
            self.assertEqual(result, [row("8.8.8.8")])

    def test_an_empty_answer_is_one(self) -> None:
        """Nobody is known: no failure.  DSC-004"""
        self.assertEqual(answer(Query(), RespondPeersIntroducer(()), None), [])

    def test_what_cannot_be_dialed_is_left_out(self) -> None:
        """Names, port 0, and hosts that carry text.  DSC-004, API-102-X"""
        rows = [
            row("8.8.8.8"), row("8.8.8.8", 0), row("bank.example"), row(""), row("1.2.3"),
            row("fe80::1%\x1b[31m"), row("9" * 46), row("2600::1"), row(" 8.8.8.8"),
        ]  # fmt: skip
        result = answer(Query(), RespondPeersIntroducer(tuple(rows)), None)
        self.assertEqual(result, [row("8.8.8.8"), row("2600::1")])

    def test_a_thousand_rows_are_taken(self) -> None:
        """The rest is ignored.  PEX-005"""
        for count, taken in ((999, 999), (1000, 1000), (1001, 1000)):
            rows = tuple(row("8.8.8.8", 1 + number) for number in range(count))
            self.assertEqual(len(answer(Query(), RespondPeersIntroducer(rows), None)), taken)

    def test_other_messages_are_no_answer(self) -> None:
        """What an introducer says besides is ignored.  DSC-004"""
        query = Query()
        message_id = asked(query).id
        for message in (
            Message(ChiaMessageType.NEW_PEAK, None, b"x"),
            Message(ChiaMessageType.RESPOND_PEERS, None, b""),
            Message(ChiaMessageType.RESPOND_PEERS_INTRODUCER, 0x4001, b"\0\0\0\0"),
            Message(ChiaMessageType.ERROR, None, b""),
        ):
            self.assertNotEqual(message.id, message_id)
            self.assertIsNone(query.received(message))

    def test_another_answer_is_a_failure(self) -> None:
        """Our id under something else; an error, with its text made harmless.  DSC-004.1"""
        query = Query()
        message_id = asked(query).id
        for body in (
            RegisterAck(True),
            ErrorMessage(-4, "no\nway", None),
        ):
            with self.assertRaises(IntroducerError) as caught:
                answer(query, body, message_id)
            self.assertNotIn("\n", str(caught.exception))
        for opcode in (ChiaMessageType.ERROR, ChiaMessageType.RESPOND_PEERS_INTRODUCER):
            self.assertRaises(IntroducerError, query.received, Message(opcode, message_id, b"x"))

    @given(st.integers(0, 255), st.sampled_from([None, 0x4000, 7]), st.binary(max_size=100))
    def test_anything_is_an_answer_a_failure_or_nothing(
        self, opcode: int, message_id: int | None, data: bytes
    ) -> None:
        """And raises nothing else.  DSC-004.1"""
        errands: list[Any] = [Query(), Registration(OURS), Greeting()]
        for errand in errands:
            try:
                step = errand.received(Message(opcode, message_id, data))
            except IntroducerError:
                continue
            self.assertTrue(step is None or isinstance(step, Done))


class RegistrationTests(SynchronousTestCase):
    """``Registration``."""

    def test_dig_and_rust_introducers_are_told(self) -> None:
        """Opcode 218 with an id.  DSC-005, wire §9"""
        for other in (DIG, RUST, remote(NodeType.INTRODUCER, Capability.DIG_OPCODES)):
            step = Registration(OURS).greeted(other)
            assert isinstance(step, Ask)
            self.assertEqual(step.message.type, DigMessageType.REGISTER_PEER)
            self.assertEqual(RegisterPeer.from_bytes(step.message.data), OURS)
            self.assertIsNotNone(step.message.id)

    def test_chia_introducers_never_see_218(self) -> None:
        """They ban for it, and have registered us already.  wire §9"""
        self.assertEqual(Registration(OURS).greeted(CHIA), Done(RegisterAck(True)))

    def test_a_declined_registration_is_a_result(self) -> None:
        """Not a failure.  API-002.12"""
        for accepted in (True, False):
            registration = Registration(OURS)
            result = answer(registration, RegisterAck(accepted), asked(registration).id)
            self.assertEqual(result, RegisterAck(accepted))

    def test_another_answer_is_a_failure(self) -> None:
        """Our id under something else, or under nonsense.  DSC-004.1"""
        registration = Registration(OURS)
        message_id = asked(registration).id
        for message in (
            Message(ChiaMessageType.RESPOND_PEERS_INTRODUCER, message_id, b"\0\0\0\0"),
            Message(DigMessageType.REGISTER_ACK, message_id, b"\2"),
        ):
            self.assertRaises(IntroducerError, registration.received, message)


class PlanTests(SynchronousTestCase):
    """``RegistrationPlan``."""

    def setUp(self) -> None:
        self.plan = RegistrationPlan(rng=random.Random(1))

    def test_half_an_hour_more_or_less(self) -> None:
        """30 minutes, 20 % either way, not always the same.  DSC-005.1"""
        delays = [self.plan.answered() for _ in range(200)]
        self.assertGreaterEqual(min(delays), 0.8 * 1800)
        self.assertLessEqual(max(delays), 1.2 * 1800)
        self.assertGreater(max(delays) - min(delays), 500)

    def test_failures_wait_ever_longer_up_to_five_minutes(self) -> None:
        """1 s, 2 s, 4 s … 300 s, 20 % either way; a success begins anew.  DSC-006.3"""
        for number in range(2000):
            nominal = min(300.0, 2.0 ** min(number, 20))
            delay = self.plan.failed()
            self.assertGreaterEqual(delay, 0.8 * nominal)
            self.assertLessEqual(delay, 1.2 * nominal)
        self.plan.answered()
        self.assertEqual(self.plan.failures, 0)
        self.assertLessEqual(self.plan.failed(), 1.2)
