"""NAT-PMP: asking the gateway for its external address and for a port of it.

Source: RFC 6886 §3.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import attrs

from dig_gossip.wire.streamable import malformed

#: UDP port of the gateway, for NAT-PMP and PCP alike.
SERVER_PORT: Final = 5351
#: UDP port of the hosts, to which gateways announce changes in :data:`ANNOUNCEMENT_GROUP`.
CLIENT_PORT: Final = 5350
ANNOUNCEMENT_GROUP: Final = "224.0.0.1"

SUCCESS: Final = 0
UNSUPPORTED_VERSION: Final = 1
RESULTS: Final = {
    UNSUPPORTED_VERSION: "unsupported version",
    2: "not authorized",
    3: "network failure",
    4: "out of resources",
    5: "unsupported opcode",
}

_VERSION: Final = 0
_ADDRESS: Final = 0
_MAP_TCP: Final = 2
_RESPONSE: Final = 0x80
_HEADER: Final = struct.Struct("!BBHI")
_SHORT_HEADER: Final = struct.Struct("!BBH")
_MAP: Final = struct.Struct("!HHI")


@attrs.frozen(kw_only=True)
class AddressResponse:
    """The gateway's external address.

    :ivar result: 0 for success; see :data:`RESULTS`.
    :ivar epoch: seconds since the gateway began to keep its table; None where a refusal lacks it.
    :ivar host: an IPv4 literal, whatever the gateway says; empty unless the result is success.
    """

    result: int
    epoch: int | None
    host: str = ""


@attrs.frozen(kw_only=True)
class MapResponse:
    """What became of a request for a port.

    :ivar result: 0 for success; see :data:`RESULTS`.
    :ivar epoch: as in :class:`AddressResponse`.
    :ivar external_port: 0 to 65535; 0 unless there is a mapping.
    :ivar lifetime: seconds, u32; 0 unless there is a mapping.
    """

    result: int
    epoch: int | None
    external_port: int = 0
    lifetime: int = 0


def build_address_request() -> bytes:
    """Make the request for the external address: 2 bytes."""
    return bytes((_VERSION, _ADDRESS))


def build_map_request(internal_port: int, external_port: int, lifetime: int) -> bytes:
    """Make a request of 12 bytes that maps a TCP port, renews the mapping, or removes it.

    :param internal_port: 1 to 65535.
    :param external_port: the one wished for; 0 for any, and for a removal.
    :param lifetime: seconds, u32; 0 removes.
    """
    return _SHORT_HEADER.pack(_VERSION, _MAP_TCP, 0) + _MAP.pack(
        internal_port, external_port, lifetime
    )


def parse_address_response(datagram: bytes) -> AddressResponse:
    """Read the answer to :func:`build_address_request`; announcements have the same form.

    :raises ClientError: it is something else, or not well-formed.
    """
    result, epoch = _header(datagram, _ADDRESS)
    if result != SUCCESS:
        return AddressResponse(result=result, epoch=epoch)
    if len(datagram) != _HEADER.size + 4:
        raise malformed("an address response has 12 bytes")
    host = str(ipaddress.IPv4Address(datagram[_HEADER.size :]))
    return AddressResponse(result=result, epoch=epoch, host=host)


def parse_map_response(datagram: bytes, internal_port: int) -> MapResponse:
    """Read the answer to :func:`build_map_request`.

    :param internal_port: that of our request.
    :raises ClientError: it is something else, about another port, or not well-formed.
    """
    result, epoch = _header(datagram, _MAP_TCP)
    if result != SUCCESS:
        return MapResponse(result=result, epoch=epoch)
    if len(datagram) != _HEADER.size + _MAP.size:
        raise malformed("a mapping response has 16 bytes")
    port, external_port, lifetime = _MAP.unpack_from(datagram, _HEADER.size)
    if port != internal_port:
        raise malformed("the response is about another port")
    return MapResponse(result=result, epoch=epoch, external_port=external_port, lifetime=lifetime)


def _header(datagram: bytes, opcode: int) -> tuple[int, int | None]:
    """The result and the epoch."""
    if len(datagram) < _SHORT_HEADER.size:
        raise malformed("shorter than a header")
    version, answered, result = _SHORT_HEADER.unpack_from(datagram)
    if not answered & _RESPONSE:
        raise malformed("this is no response")
    if version != _VERSION:
        # A server that speaks PCP only (RFC 6887 appendix A).
        return UNSUPPORTED_VERSION, None
    if answered != _RESPONSE | opcode:
        raise malformed("the response is to another request")
    if len(datagram) >= _HEADER.size:
        return result, _HEADER.unpack_from(datagram)[3]
    if result == SUCCESS:
        raise malformed("shorter than a header")
    return result, None
