"""NAT-PMP's datagrams."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import ClientError
from dig_gossip.wire import natpmp

ports = st.integers(0, 65535)
u32 = st.integers(0, 2**32 - 1)


class RequestTests(SynchronousTestCase):
    """What is sent, byte by byte."""

    def test_the_address_is_asked_for_with_two_bytes(self) -> None:
        """Version 0, opcode 0.  behaviour §29; RFC 6886 §3.2"""
        self.assertEqual(natpmp.build_address_request(), b"\0\0")

    def test_a_tcp_port_is_asked_for_with_twelve_bytes(self) -> None:
        """Version, opcode 2, reserved, both ports, lifetime.  behaviour §29; RFC 6886 §3.3"""
        self.assertEqual(
            natpmp.build_map_request(9444, 9445, 7200),
            bytes.fromhex("0002 0000 24e4 24e5 00001c20"),
        )


class ResponseTests(SynchronousTestCase):
    """What is read."""

    def test_an_address_is_read(self) -> None:
        """Result, epoch, address.  behaviour §29; RFC 6886 §3.2"""
        datagram = bytes.fromhex("0080 0000 00000064 4d010203")
        self.assertEqual(
            natpmp.parse_address_response(datagram),
            natpmp.AddressResponse(result=0, epoch=100, host="77.1.2.3"),
        )

    def test_a_mapping_is_read(self) -> None:
        """Epoch, the port that was granted, for how long.  behaviour §29; RFC 6886 §3.3"""
        datagram = bytes.fromhex("0082 0000 00000064 24e4 1000 00000e10")
        self.assertEqual(
            natpmp.parse_map_response(datagram, 9444),
            natpmp.MapResponse(result=0, epoch=100, external_port=4096, lifetime=3600),
        )

    def test_a_refusal_may_be_short(self) -> None:
        """Servers answer what they do not know with as little as a header.  behaviour §29"""
        for size in (4, 8, 12, 16):
            datagram = (bytes.fromhex("0082 0002 00000064") + bytes(8))[:size]
            response = natpmp.parse_map_response(datagram, 9444)
            self.assertEqual((response.result, response.external_port), (2, 0))
            self.assertEqual(response.epoch, 100 if size >= 8 else None)

    def test_a_server_of_pcp_alone_is_recognized(self) -> None:
        """It answers in its own version.  behaviour §29; RFC 6887 appendix A"""
        datagram = bytes.fromhex("0280 0001 00000000 00000064") + bytes(12)
        response = natpmp.parse_address_response(datagram)
        self.assertEqual(response.result, natpmp.UNSUPPORTED_VERSION)

    def test_what_answers_something_else_is_refused(self) -> None:
        """Requests, other opcodes, other ports, wrong lengths.  behaviour §29"""
        mapping = bytes.fromhex("0082 0000 00000064 24e4 1000 00000e10")
        address = bytes.fromhex("0080 0000 00000064 4d010203")
        for bad in (
            b"",
            mapping[:15],
            mapping + b"\0",
            address,
            b"\0\2" + mapping[2:],
            mapping[:4],
        ):
            with self.assertRaises(ClientError):
                natpmp.parse_map_response(bad, 9444)
        with self.assertRaises(ClientError):
            natpmp.parse_map_response(mapping, 9445)
        for bad in (b"", address[:11], address + b"\0", mapping, b"\0\0" + address[2:]):
            with self.assertRaises(ClientError):
                natpmp.parse_address_response(bad)

    @given(st.binary(max_size=40), ports)
    def test_any_bytes_are_read_or_refused(self, datagram: bytes, port: int) -> None:
        """No other error, and nothing granted by a refusal.  behaviour §29"""
        try:
            response = natpmp.parse_map_response(datagram, port)
        except ClientError:
            pass
        else:
            self.assertTrue(not response.result or not response.external_port)
        try:
            address = natpmp.parse_address_response(datagram)
        except ClientError:
            pass
        else:
            self.assertEqual(bool(address.result), not address.host)

    @given(st.sampled_from([0x80, 0x82]), st.integers(0, 3), u32, st.binary(max_size=12))
    def test_nearly_right_bytes_are_read_or_refused(
        self, opcode: int, result: int, epoch: int, rest: bytes
    ) -> None:
        """The same for what gets beyond the header.  behaviour §29"""
        datagram = struct.pack("!BBHI", 0, opcode, result, epoch) + rest
        try:
            response = natpmp.parse_map_response(datagram, 9444)
        except ClientError:
            self.assertTrue(opcode != 0x82 or not result)
        else:
            self.assertEqual((response.result, response.epoch), (result, epoch))

    @given(ports, ports, u32, u32)
    def test_a_mapping_survives_the_wire(self, port: int, way: int, life: int, age: int) -> None:
        """All values that fit come back.  behaviour §29"""
        datagram = struct.pack("!BBHIHHI", 0, 0x82, 0, age, port, way, life)
        response = natpmp.parse_map_response(datagram, port)
        self.assertEqual(
            (response.external_port, response.lifetime, response.epoch), (way, life, age)
        )
