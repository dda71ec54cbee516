"""PCP's datagrams."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import ClientError
from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire import pcp

NONCE = bytes(range(12))
OURS = "192.168.1.2"
MAPPED = b"\0" * 10 + b"\xff\xff"
u32 = st.integers(0, 2**32 - 1)


def response(
    opcode: int = 1, result: int = 0, lifetime: int = 3600, epoch: int = 100, body: bytes = b""
) -> bytes:
    """A response, field by field as RFC 6887 §7.2 draws it."""
    return struct.pack("!BBBBII", 2, 0x80 | opcode, 0, result, lifetime, epoch) + bytes(12) + body


def mapping(
    nonce: bytes = NONCE, protocol: int = 6, port: int = 9444, external: str = "77.1.2.3:4096"
) -> bytes:
    """The part of MAP, as §11.1 draws it."""
    host, _, external_port = external.rpartition(":")
    packed = MAPPED + ipaddress.IPv4Address(host).packed
    head = nonce + bytes((protocol, 0, 0, 0))
    return head + struct.pack("!HH", port, int(external_port)) + packed


class RequestTests(SynchronousTestCase):
    """What is sent, byte by byte."""

    def test_a_mapping_is_asked_for_with_sixty_bytes(self) -> None:
        """Our address, nonce, TCP, both ports, address.  behaviour §29; RFC 6887 §11.1"""
        self.assertEqual(
            pcp.build_map(OURS, NONCE, 9444, PeerAddress("0.0.0.0", 9445), 7200),
            bytes.fromhex("0201 0000 00001c20")
            + MAPPED
            + bytes((192, 168, 1, 2))
            + NONCE
            + bytes.fromhex("06000000 24e4 24e5")
            + MAPPED
            + bytes(4),
        )

    def test_the_age_is_asked_for_with_a_header(self) -> None:
        """ANNOUNCE: 24 bytes.  behaviour §29; RFC 6887 §14.1"""
        self.assertEqual(
            pcp.build_announce(OURS),
            bytes.fromhex("0200 0000 00000000") + MAPPED + bytes((192, 168, 1, 2)),
        )


class ResponseTests(SynchronousTestCase):
    """What is read."""

    def read(self, datagram: bytes) -> pcp.Response:
        """Read it as an answer to our request."""
        return pcp.parse_response(datagram, NONCE, 9444)

    def test_a_mapping_is_read(self) -> None:
        """With or without options behind it.  behaviour §29; RFC 6887 §11.1"""
        expected = pcp.Response(
            opcode=1, result=0, lifetime=3600, epoch=100, external=PeerAddress("77.1.2.3", 4096)
        )
        for options in (b"", bytes(8)):
            self.assertEqual(self.read(response(body=mapping() + options)), expected)

    def test_an_announcement_is_read(self) -> None:
        """Only the age counts.  behaviour §29; RFC 6887 §14.1"""
        expected = pcp.Response(opcode=0, result=0, lifetime=0, epoch=7)
        self.assertEqual(self.read(response(opcode=0, lifetime=0, epoch=7)), expected)

    def test_a_refusal_grants_nothing(self) -> None:
        """Whether it repeats our request or not.  behaviour §29; RFC 6887 §7.4"""
        for body in (mapping(), b""):
            read = self.read(response(result=8, body=body))
            self.assertEqual((read.result, read.external), (8, None))

    def test_a_server_of_nat_pmp_alone_is_recognized(self) -> None:
        """It answers in its own version.  behaviour §29; RFC 6887 appendix A"""
        read = self.read(bytes.fromhex("0081 0001 00000064"))
        self.assertEqual((read.result, read.epoch), (pcp.UNSUPPORTED_VERSION, None))

    def test_only_our_nonce_protocol_and_port_are_ours(self) -> None:
        """Whoever does not know the nonce cannot answer, refusals included.  behaviour §29"""
        for other in (mapping(nonce=bytes(12)), mapping(protocol=17), mapping(port=9445)):
            for result in (0, 8):
                with self.assertRaises(ClientError):
                    self.read(response(result=result, body=other))

    def test_what_is_not_well_formed_is_refused(self) -> None:
        """Requests, lengths, addresses that are not IPv4.  behaviour §29; RFC 6887 §8.3"""
        good = response(body=mapping())
        for bad in (
            b"",
            good[:1] + b"\x01" + good[2:],
            good[:-4],
            good + b"\0",
            good + bytes(pcp.MAX_BYTES),
            response(opcode=0)[:20],
            response(body=mapping()[:-16] + bytes(15) + b"\1"),
        ):
            with self.assertRaises(ClientError):
                self.read(bad)

    @given(st.binary(max_size=pcp.MAX_BYTES + 8))
    def test_any_bytes_are_read_or_refused(self, datagram: bytes) -> None:
        """No other error.  behaviour §29"""
        try:
            self.read(datagram)
        except ClientError:
            pass

    @given(
        st.sampled_from([0, 1, 2, 127]),
        st.integers(0, 255),
        u32,
        u32,
        st.one_of(st.binary(max_size=80), st.binary(max_size=20).map(lambda more: NONCE + more)),
    )
    def test_nearly_right_bytes_are_read_or_refused(
        self, opcode: int, result: int, lifetime: int, epoch: int, body: bytes
    ) -> None:
        """The same beyond the header; a refusal never has an address.  behaviour §29"""
        try:
            read = self.read(response(opcode, result, lifetime, epoch, body))
        except ClientError:
            return
        self.assertEqual(
            (read.opcode, read.result, read.lifetime, read.epoch),
            (opcode, result, lifetime, epoch),
        )
        self.assertTrue(read.external is None or (opcode == 1 and result == 0))

    @given(st.integers(0, 2**32 - 1), st.integers(0, 65535), u32, u32)
    def test_a_mapping_survives_the_wire(
        self, host: int, port: int, lifetime: int, epoch: int
    ) -> None:
        """All values that fit come back.  behaviour §29"""
        address = PeerAddress(str(ipaddress.IPv4Address(host)), port)
        body = mapping(external=f"{address.host}:{port}")
        read = self.read(response(lifetime=lifetime, epoch=epoch, body=body))
        self.assertEqual((read.external, read.lifetime, read.epoch), (address, lifetime, epoch))
