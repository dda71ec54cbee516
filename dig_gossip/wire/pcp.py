"""PCP, the Port Control Protocol: asking for a port of whatever translates our addresses.

Only what that takes: the opcodes ANNOUNCE and MAP, for TCP over IPv4, without options; options of
responses are skipped. A gateway that only speaks NAT-PMP answers on the same port, and is
recognized.

Source: RFC 6887 §7 (formats), §11.1 (MAP), §14.1 (ANNOUNCE), appendix A (NAT-PMP).
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from typing import Final

import attrs

from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire.streamable import malformed

NONCE_BYTES: Final = 12
MAX_BYTES: Final = 1100

SUCCESS: Final = 0
UNSUPPORTED_VERSION: Final = 1
RESULTS: Final = {
    UNSUPPORTED_VERSION: "unsupported version",
    2: "not authorized",
    3: "malformed request",
    4: "unsupported opcode",
    5: "unsupported option",
    6: "malformed option",
    7: "network failure",
    8: "no resources",
    9: "unsupported protocol",
    10: "user exceeds quota",
    11: "cannot provide external address",
    12: "address mismatch",
    13: "excessive remote peers",
}


class Opcode(enum.IntEnum):
    """What a request is for."""

    ANNOUNCE = 0
    MAP = 1


_VERSION: Final = 2
_RESPONSE: Final = 0x80
_TCP: Final = 6
_REQUEST_HEADER: Final = struct.Struct("!BBHI16s")
_RESPONSE_HEADER: Final = struct.Struct("!BBxBII12x")
_MAP: Final = struct.Struct("!12sB3xHH16s")


@attrs.frozen(kw_only=True)
class Response:
    """An answer, or what a gateway says unasked.

    :ivar result: 0 for success; see :data:`RESULTS`.
    :ivar lifetime: seconds, u32: of the mapping; after a refusal, how long it will hold.
    :ivar epoch: seconds since the gateway began to keep its table; None if it speaks NAT-PMP.
    :ivar external: where the mapping leads from, as the gateway says; None unless the opcode is
        MAP and the result is success.
    """

    opcode: int
    result: int
    lifetime: int
    epoch: int | None
    external: PeerAddress | None = None


def build_announce(client: str) -> bytes:
    """Ask a gateway how long it has been up: 24 bytes.

    :param client: our IPv4 address, as the gateway sees it.
    """
    return _header(Opcode.ANNOUNCE, 0, client)


def build_map(
    client: str, nonce: bytes, internal_port: int, suggested: PeerAddress, lifetime: int
) -> bytes:
    """Make a request of 60 bytes that maps a TCP port, renews the mapping, or removes it.

    :param client: our IPv4 address, as the gateway sees it.
    :param nonce: 12 random bytes, the same for all requests about one mapping.
    :param suggested: the external IPv4 address and port wished for; 0.0.0.0 and 0 for any.
    :param lifetime: seconds, u32; 0 removes.
    """
    host = _packed(suggested.host)
    body = _MAP.pack(nonce, _TCP, internal_port, suggested.port, host)
    return _header(Opcode.MAP, lifetime, client) + body


def parse_response(datagram: bytes, nonce: bytes, internal_port: int) -> Response:
    """Read a response, asked for or not.

    :param nonce: that of our mapping.
    :param internal_port: that of our mapping.
    :raises ClientError: it is no response, not well-formed, or about another mapping.
    """
    if len(datagram) < 4 or not datagram[1] & _RESPONSE:
        raise malformed("this is no response")
    opcode = datagram[1] & ~_RESPONSE
    if datagram[0] != _VERSION:
        return Response(opcode=opcode, result=UNSUPPORTED_VERSION, lifetime=0, epoch=None)
    if len(datagram) % 4 or not _RESPONSE_HEADER.size <= len(datagram) <= MAX_BYTES:
        raise malformed("a response has 24 to 1100 bytes, a multiple of 4")
    _, _, result, lifetime, epoch = _RESPONSE_HEADER.unpack_from(datagram)
    external = None
    if opcode == Opcode.MAP:
        external = _mapping(datagram, nonce, internal_port, is_refusal=result != SUCCESS)
    return Response(opcode=opcode, result=result, lifetime=lifetime, epoch=epoch, external=external)


def _mapping(
    datagram: bytes, nonce: bytes, internal_port: int, *, is_refusal: bool
) -> PeerAddress | None:
    """The external address of a mapping that is ours."""
    if len(datagram) < _RESPONSE_HEADER.size + _MAP.size:
        if is_refusal:  # of somebody who does not know the opcode, or not this version of it
            return None
        raise malformed("a MAP response has at least 60 bytes")
    found, protocol, internal, port, host = _MAP.unpack_from(datagram, _RESPONSE_HEADER.size)
    if (found, protocol, internal) != (nonce, _TCP, internal_port):
        raise malformed("the response is about another mapping")
    if is_refusal:
        return None
    ip = ipaddress.IPv6Address(host).ipv4_mapped
    if ip is None:
        raise malformed("the external address is not an IPv4 address")
    return PeerAddress(str(ip), port)


def _header(opcode: Opcode, lifetime: int, client: str) -> bytes:
    return _REQUEST_HEADER.pack(_VERSION, opcode, 0, lifetime, _packed(client))


def _packed(host: str) -> bytes:
    return bytes(10) + b"\xff\xff" + ipaddress.IPv4Address(host).packed
