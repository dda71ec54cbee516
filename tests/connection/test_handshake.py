"""Whom we greet."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import errors
from dig_gossip.connection import handshake
from dig_gossip.connection.handshake import (
    DIALER_NODE_TYPES,
    LISTENER_NODE_TYPES,
    RemoteHandshake,
    protocol_version_compatible,
    sanitize_software_version,
)
from dig_gossip.errors import ClientError, ClientErrorKind, GossipError
from dig_gossip.wire.handshake import Capability, Handshake
from dig_gossip.wire.message import Message
from tests.vectors import load
from tests.wire.test_handshake import handshakes

NETWORK = "0a" * 32
GOOD = handshake.build(network_id=NETWORK, software_version="dig-gossip-py/1.0", server_port=9444)
RUST_CAPABILITIES = frozenset({1, 2, 3})


def remote(software_version: str = "x", capabilities: frozenset[int] = RUST_CAPABILITIES) -> Any:
    """An accepted handshake."""
    return RemoteHandshake(
        node_type=1,
        protocol_version="0.0.37",
        software_version=software_version,
        server_port=0,
        capabilities=capabilities,
    )


class HandshakeTestCase(SynchronousTestCase):
    """Assertions on refusals."""

    def refusal(
        self, body: Handshake, node_types: frozenset[int] = LISTENER_NODE_TYPES
    ) -> ClientError:
        """The error that validation ends in."""
        error = self.assertRaises(
            ClientError, handshake.validate, body, network_id=NETWORK, node_types=node_types
        )
        assert isinstance(error, ClientError)
        return error

    def refused(self, body: Handshake, node_types: frozenset[int] = LISTENER_NODE_TYPES) -> str:
        """The kind of error that validation ends in."""
        return self.refusal(body, node_types).kind.value

    def accepted(
        self, body: Handshake, node_types: frozenset[int] = LISTENER_NODE_TYPES
    ) -> RemoteHandshake:
        """The facts that validation ends in."""
        return handshake.validate(body, network_id=NETWORK, node_types=node_types)


class Rules(HandshakeTestCase):
    """The golden vectors of single rules."""

    def test_sanitize_vectors(self) -> None:
        """Control and format characters are stripped, everything else stays.  CON-008"""
        count = 0
        for vector in load("handshake_rules.json"):
            if vector["type"] == "sanitize_software_version":
                clean = sanitize_software_version(vector["fields"]["input"])
                self.assertEqual(clean, vector["output"], vector["name"])
                self.assertEqual(len(clean.encode()), vector["output_bytes"])
                self.assertEqual(sanitize_software_version(clean), clean)
                count += 1
        self.assertEqual(count, 9)

    def test_length_vectors(self) -> None:
        """128 bytes are counted after stripping, as upstream does.  CON-008"""
        count = 0
        for vector in load("handshake_rules.json"):
            if vector["type"] == "software_version_length":
                text = vector["fields"]["input"]
                if vector["upstream_ok"]:
                    sanitize_software_version(text)
                else:
                    error = self.assertRaises(ClientError, sanitize_software_version, text)
                    self.assertIs(error.kind, ClientErrorKind.BAD_VERSION)
                count += 1
        self.assertEqual(count, 6)

    def test_protocol_version_vectors(self) -> None:
        """Versions compare as three numbers.  CON-003.1"""
        count = 0
        for vector in load("handshake_rules.json"):
            if vector["type"] == "protocol_version_compatible":
                compatible = protocol_version_compatible(vector["fields"]["input"])
                self.assertEqual(compatible, vector["compatible"], vector["name"])
                count += 1
        self.assertEqual(count, 21)

    def test_raw_length_limit(self) -> None:
        """1024 bytes before stripping pass, 1025 do not, in letters or in bytes.  CON-008"""
        zero_width = "\u200b"  # three bytes
        self.assertEqual(sanitize_software_version("v" + zero_width * 341), "v")
        for text in ("vv" + zero_width * 341, "\n" * 1025, "v" * 1_000_000):
            self.assertRaises(ClientError, sanitize_software_version, text)
        self.assertEqual(sanitize_software_version("\n" * 1024), "")

    def test_hostile_versions_are_merely_incompatible(self) -> None:
        """Digits Python would choke on or misread are refused, not raised.  CON-003.1"""
        for text in (
            "9" * 60_000,
            "0.0.\u0663\u0667",
            "0.0.3\uff17",
            "1_0",
            "+1",
            "0x1",
            "0.0.37\0",
            "²",
        ):
            self.assertFalse(protocol_version_compatible(text), text[:20])
        self.assertTrue(protocol_version_compatible("0" * 60_000 + "1"))
        self.assertTrue(protocol_version_compatible("0.0.37." + "x" * 60_000))

    @given(st.text())
    def test_any_text_is_judged(self, text: str) -> None:
        """No text makes the rules raise anything of their own.  CON-003.1, CON-008"""
        protocol_version_compatible(text)
        try:
            clean = sanitize_software_version(text)
        except ClientError:
            return
        self.assertEqual(sanitize_software_version(clean), clean)


class Validate(HandshakeTestCase):
    """Judging a whole body."""

    def test_good_body_becomes_facts(self) -> None:
        """An accepted handshake yields what later code needs to know.  CON-003"""
        facts = self.accepted(GOOD)
        self.assertEqual(
            facts,
            RemoteHandshake(
                node_type=1,
                protocol_version="0.0.37",
                software_version="dig-gossip-py/1.0",
                server_port=9444,
                capabilities=frozenset({1, 2, 3, 6, 200, 201, 205}),
            ),
        )
        self.assertTrue(facts.has(Capability.DIG_PLUMTREE))
        self.assertFalse(facts.has(Capability.DIG_ERLAY))

    def test_network_must_be_equal(self) -> None:
        """Another network, no network and another spelling are refused for good.  CON-003"""
        for network in ("", "mainnet", NETWORK.upper(), NETWORK + " ", "0x" + NETWORK):
            body = attrs.evolve(GOOD, network_id=network)
            self.assertEqual(self.refused(body), "wrong_network", network)

    def test_versions_are_checked(self) -> None:
        """An old, empty or unreadable protocol version is refused.  CON-003.1"""
        for version in ("", "0.0.29", "abc"):
            body = attrs.evolve(GOOD, protocol_version=version)
            self.assertEqual(self.refused(body), "bad_version", version)

    def test_software_version_is_only_measured(self) -> None:
        """Any software version of bearable length is accepted.  CON-003.3, CON-008"""
        for version in ("", "0.0.0", "Gigachia 👩\u200d🌾"):
            self.accepted(attrs.evolve(GOOD, software_version=version))
        body = attrs.evolve(GOOD, software_version="v" * 129)
        self.assertEqual(self.refused(body), "bad_version")

    def test_node_types_by_direction(self) -> None:
        """Full nodes and wallets may dial us; we dial full nodes only.  CON-003.6, wire §5.3"""
        for node_type in range(1, 9):
            body = attrs.evolve(GOOD, node_type=node_type)
            if node_type in (1, 6):
                self.assertEqual(self.accepted(body).node_type, node_type)
            else:
                self.assertEqual(self.refused(body), "wrong_node_type")
            if node_type == 1:
                self.accepted(body, DIALER_NODE_TYPES)
            else:
                self.assertEqual(self.refused(body, DIALER_NODE_TYPES), "wrong_node_type")

    def test_first_broken_rule_is_reported(self) -> None:
        """Of several faults the first in the fixed order counts.  wire §5.3"""
        faults: list[tuple[str, dict[str, Any]]] = [
            ("wrong_node_type", {"node_type": 5}),
            ("bad_version", {"software_version": "v" * 129}),
            ("bad_version", {"protocol_version": "0.0.1"}),
            ("wrong_network", {"network_id": "other"}),
            ("bad_version", {"protocol_version": ""}),
            ("wrong_network", {"network_id": ""}),
        ]
        body = GOOD
        for kind, change in faults:
            body = attrs.evolve(body, **change)
            self.assertEqual(self.refused(body), kind, change)

    def test_order_within_a_kind(self) -> None:
        """The protocol version is judged before the software version.  wire §5.3"""
        body = attrs.evolve(GOOD, protocol_version="0.0.1", software_version="v" * 129)
        self.assertIn("0.0.1", str(self.refusal(body)))

    def test_only_enabled_capabilities_count(self) -> None:
        """A value other than "1" disables, unknown ids are kept, duplicates merge.  CON-003.4"""
        for vector in load("handshake.json"):
            if vector["name"] == "capability_disabled_and_unknown":
                body = Handshake.from_bytes(bytes.fromhex(vector["hex"]))
                body = attrs.evolve(body, network_id=NETWORK, node_type=1)
                self.assertEqual(self.accepted(body).capabilities, {1, 65535})
                return
        self.fail("the vector is missing")

    def test_texts_are_clean(self) -> None:
        """No text of the peer's keeps a line break or an escape.  CON-008, API-102-X"""
        body = attrs.evolve(
            GOOD,
            protocol_version="\n0.0.37.\nforged line" + "x" * 100,
            software_version="v\x1b[31m\n\u202e",
        )
        facts = self.accepted(body)
        self.assertEqual(facts.software_version, "v[31m")
        self.assertTrue(facts.protocol_version.startswith("0.0.37.forged line"))
        self.assertEqual(len(facts.protocol_version), 32)
        padded = attrs.evolve(GOOD, protocol_version=" 0.0.37 ")
        self.assertEqual(self.accepted(padded).protocol_version, "0.0.37")

    def test_errors_are_one_clean_line(self) -> None:
        """A refusal cannot forge a log line, and is short.  API-004, API-102-X"""
        changes: list[dict[str, Any]] = [
            {"network_id": "evil\nINFO forged" * 10_000},
            {"protocol_version": "evil\nINFO forged" * 10_000},
        ]
        for change in changes:
            error = self.refusal(attrs.evolve(GOOD, **change))
            self.assertNotIn("\n", str(error))
            self.assertLessEqual(len(str(error)), 256)

    def test_policy_refusals_are_not_retried(self) -> None:
        """Network, version and node type do not change by asking again.  API-004.1"""
        changes: list[dict[str, Any]] = [
            {"network_id": "x"},
            {"protocol_version": "0"},
            {"node_type": 2},
        ]
        for change in changes:
            error = self.refusal(attrs.evolve(GOOD, **change))
            self.assertFalse(error.retryable)

    @given(handshakes)
    def test_any_body_is_judged(self, body: Handshake) -> None:
        """Every body that decodes is accepted or refused with a client error.  CON-003"""
        try:
            facts = self.accepted(attrs.evolve(body, network_id=NETWORK))
        except ClientError:
            return
        self.assertIn(facts.node_type, LISTENER_NODE_TYPES)


class FirstFrame(HandshakeTestCase):
    """Reading the first frame."""

    def test_handshake_frame_decodes(self) -> None:
        """A handshake is read, with or without an id.  CON-002.3"""
        for message_id in (None, 0):
            frame = bytes(Message(1, message_id, bytes(GOOD)))
            self.assertEqual(handshake.decode(frame), GOOD)

    def test_anything_else_is_a_missing_handshake(self) -> None:
        """Other opcodes and broken frames are all the same fault.  CON-002.3, wire §5.3"""
        good = bytes(Message(1, None, bytes(GOOD)))
        crowd = attrs.evolve(GOOD, capabilities=((1, "1"),) * 65)
        for frame in (
            b"",
            b"\x01",
            good[:-1],
            good + b"\x00",
            bytes(Message(43, None, b"")),
            bytes(Message(200, None, bytes(GOOD))),
            bytes(Message(1, None, b"")),
            bytes(Message(1, None, bytes(crowd))),
        ):
            error = self.assertRaises(ClientError, handshake.decode, frame)
            self.assertIs(error.kind, ClientErrorKind.MISSING_HANDSHAKE, frame)
            self.assertTrue(error.retryable)

    @given(st.binary(max_size=64))
    def test_any_frame_decodes_or_is_missing(self, frame: bytes) -> None:
        """Arbitrary first frames end in a body or in this one error.  CON-002.3"""
        try:
            body = handshake.decode(frame)
        except ClientError as error:
            self.assertIs(error.kind, ClientErrorKind.MISSING_HANDSHAKE)
        else:
            self.assertIsInstance(body, Handshake)


class Tolerance(HandshakeTestCase):
    """What may be sent to which peer."""

    def test_dig_opcodes_need_evidence(self) -> None:
        """Capability 200 or a Rust crate from 0.23 on; nothing else is evidence.  wire §4.2"""
        self.assertTrue(remote("x", frozenset({200})).tolerates_dig)
        for version in (
            "dig-gossip/0.23",
            "dig-gossip/0.23.0",
            "dig-gossip/1.0",
            "dig-gossip/0.100",
        ):
            self.assertTrue(remote(version).tolerates_dig, version)
        for version in (
            "",
            "0.0.0",
            "2.7.1",
            "dig-gossip/0.22.9",
            "dig-gossip/0.1.0",
            "dig-gossip/0.3",
            "dig-gossip/",
            "dig-gossip/1",
            "dig-gossip/x.y",
            "dig-gossip/0.9999999999",
            "my-dig-gossip/1.0",
            "dig-gossip-py/1.0",
            "Dig-Gossip/1.0",
        ):
            self.assertFalse(remote(version).tolerates_dig, version)

    def test_correlated_requests_spare_early_rust(self) -> None:
        """Early Rust drops the link on ids it does not know; others do not.  wire §4.1"""
        for version in ("2.7.1", "", "dig-gossip-py/0.1.0", "dig-gossip/0.23.0", "dig-gossip/0.28"):
            self.assertTrue(remote(version).accepts_correlated_requests, version)
        for version in ("0.0.0", "dig-gossip/0.1.0", "dig-gossip/0.22.99", "dig-gossip/?"):
            self.assertFalse(remote(version).accepts_correlated_requests, version)
            modern = remote(version, frozenset({200}))
            self.assertTrue(modern.accepts_correlated_requests, version)

    def test_deployed_peers_are_recognized(self) -> None:
        """The hellos of the vectors lead to the right treatment.  wire §18"""
        expected = {
            "chia_full_node_mainnet": (False, True),
            "chia_full_node_v3_hf2": (False, True),
            "rust_dialer_hello_seed": (False, False),
            "rust_listener_reply": (True, True),
            "ours_full_node_hello": (True, True),
        }
        seen = set()
        for vector in load("handshake.json"):
            if vector["name"] in expected:
                body = Handshake.from_bytes(bytes.fromhex(vector["hex"]))
                facts = handshake.validate(
                    body, network_id=body.network_id, node_types=LISTENER_NODE_TYPES
                )
                treatment = (facts.tolerates_dig, facts.accepts_correlated_requests)
                self.assertEqual(treatment, expected[vector["name"]], vector["name"])
                seen.add(vector["name"])
        self.assertEqual(seen, set(expected))


class Build(HandshakeTestCase):
    """Our own handshake."""

    def test_default_is_a_full_node(self) -> None:
        """We say protocol 0.0.37, full node, our port and what we can do.  CON-003.1, wire §5.1"""
        self.assertEqual(
            GOOD,
            Handshake(
                network_id=NETWORK,
                protocol_version="0.0.37",
                software_version="dig-gossip-py/1.0",
                server_port=9444,
                node_type=1,
                capabilities=tuple((code, "1") for code in (1, 2, 3, 6, 200, 201, 205)),
            ),
        )

    def test_recommended_hello(self) -> None:
        """With every feature on, our hello is the recommended one.  wire §5.4"""
        (vector,) = (v for v in load("handshake.json") if v["name"] == "ours_full_node_hello")
        body = handshake.build(
            network_id=vector["fields"]["network_id"],
            software_version=vector["fields"]["software_version"],
            server_port=9444,
            capabilities=[*handshake.DEFAULT_CAPABILITIES[:-1], 202, 203, 204],
        )
        self.assertEqual(bytes(body).hex(), vector["hex"])

    def test_windowed_limits_are_not_advertised(self) -> None:
        """Capability 7 obliges to what is not implemented, and is echoed idly.  wire §5.4"""
        self.assertNotIn((Capability.RATE_LIMITS_V3, "1"), GOOD.capabilities)


class Closing(HandshakeTestCase):
    """How a refusal ends."""

    def test_client_errors_close_with_chias_number(self) -> None:
        """Faults of a handshake close 1002, a node type 1008, with Chia's number.  wire §2"""
        expected = {
            ClientErrorKind.WRONG_NETWORK: (1002, "110"),
            ClientErrorKind.WRONG_NODE_TYPE: (1008, "-6"),
            ClientErrorKind.BAD_VERSION: (1002, "-6"),
            ClientErrorKind.MISSING_HANDSHAKE: (1002, "-6"),
            ClientErrorKind.MALFORMED: (1002, "-4"),
            ClientErrorKind.INVALID_RESPONSE: (1002, "-4"),
            ClientErrorKind.TIMEOUT: (1002, "-6"),
        }
        for kind, close in expected.items():
            self.assertEqual(handshake.close_code_and_reason(ClientError(kind)), close, kind)

    def test_admission_errors_close_with_their_code(self) -> None:
        """Own id, ban, capacity and the rest have the codes of the texts.  CON-002.5"""
        expected: list[tuple[GossipError, tuple[int, str]]] = [
            (errors.SelfConnection(), (1002, "-5")),
            (errors.PeerBanned(bytes(32)), (1008, "1")),
            (errors.ConnectionFiltered("same /16"), (1008, "1")),
            (errors.MaxConnectionsReached(8), (1013, "1")),
            (errors.DuplicateConnection(bytes(32)), (1000, "1")),
            (errors.ServiceNotStarted(), (1001, "1")),
            (errors.ChannelClosed(), (1001, "1")),
            (errors.Io("disk"), (1011, "125")),
        ]
        for error, close in expected:
            self.assertEqual(handshake.close_code_and_reason(error), close, repr(error))

    def test_every_close_can_be_sent(self) -> None:
        """Codes are legal in a close frame and reasons are decimal numbers.  wire §2"""
        for kind in ClientErrorKind:
            code, reason = handshake.close_code_and_reason(ClientError(kind))
            self.assertIn(code, (1000, 1001, 1002, 1008, 1011, 1013))
            self.assertRegex(reason, r"\A-?[0-9]{1,3}\Z")
