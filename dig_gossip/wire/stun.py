"""STUN Binding messages: how a node learns the address that the world sees.

Only what that takes: requests without attributes, and success responses with the address.

Source: wire §16; RFC 5389 §6, §15.1, §15.2.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire.streamable import malformed

TRANSACTION_ID_BYTES: Final = 12

_COOKIE: Final = 0x2112A442
_HEADER: Final = struct.Struct("!HHI12s")
_REQUEST: Final = 0x0001
_SUCCESS: Final = 0x0101
_MAPPED_ADDRESS: Final = 0x0001
_XOR_MAPPED_ADDRESS: Final = 0x0020
_FAMILIES: Final = {1: 4, 2: 16}  # to the bytes of an address


def build_request(transaction_id: bytes) -> bytes:
    """Make a Binding request of 20 bytes.

    :param transaction_id: 12 random bytes.
    """
    return _HEADER.pack(_REQUEST, 0, _COOKIE, transaction_id)


def parse_request(datagram: bytes) -> bytes:
    """Read a Binding request; attributes are skipped.

    :returns: its transaction id.
    :raises ClientError: it is none, or not well-formed.
    """
    kind, transaction_id, attributes = _split(datagram)
    if kind != _REQUEST:
        raise malformed("this is no Binding request")
    _attributes(attributes)
    return transaction_id


def build_response(transaction_id: bytes, address: PeerAddress) -> bytes:
    """Make a success response with one XOR-MAPPED-ADDRESS.

    :param address: an IP literal and the port of whoever asked.
    """
    ip = ipaddress.ip_address(address.host)
    family = 1 if ip.version == 4 else 2
    body = struct.pack("!xBH", family, address.port ^ (_COOKIE >> 16))
    body += _xor(ip.packed, transaction_id)
    attribute = struct.pack("!HH", _XOR_MAPPED_ADDRESS, len(body)) + body
    return _HEADER.pack(_SUCCESS, len(attribute), _COOKIE, transaction_id) + attribute


def parse_response(datagram: bytes, transaction_id: bytes) -> PeerAddress:
    """Read the address out of a success response.

    :param transaction_id: that of our request.
    :raises ClientError: it answers something else, is not well-formed, or names an address
        that nobody can have as their own.
    """
    kind, answered, raw = _split(datagram)
    if kind != _SUCCESS or answered != transaction_id:
        raise malformed("this is not the answer to our request")
    attributes = _attributes(raw)
    if _XOR_MAPPED_ADDRESS in attributes:
        return _address(attributes[_XOR_MAPPED_ADDRESS], transaction_id)
    if _MAPPED_ADDRESS in attributes:
        return _address(attributes[_MAPPED_ADDRESS], None)
    raise malformed("the response has no address")


def _split(datagram: bytes) -> tuple[int, bytes, bytes]:
    if len(datagram) < _HEADER.size:
        raise malformed("shorter than the header")
    kind, length, cookie, transaction_id = _HEADER.unpack_from(datagram)
    if cookie != _COOKIE or length % 4 or _HEADER.size + length != len(datagram):
        raise malformed("this is not STUN")
    return kind, transaction_id, datagram[_HEADER.size :]


def _attributes(data: bytes) -> dict[int, bytes]:
    """The first value of each type."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        kind, length = struct.unpack_from("!HH", data, position)  # all is a multiple of 4
        value = data[position + 4 : position + 4 + length]
        if len(value) != length:
            raise malformed("an attribute overruns the message")
        found.setdefault(kind, value)
        position += 4 + (length + 3) // 4 * 4
    return found


def _address(value: bytes, transaction_id: bytes | None) -> PeerAddress:
    if len(value) < 4 or len(value) != 4 + _FAMILIES.get(value[1], 0) or value[1] not in _FAMILIES:
        raise malformed("unknown family or length of an address")
    port = int.from_bytes(value[2:4], "big")
    packed = value[4:]
    if transaction_id is not None:
        port ^= _COOKIE >> 16
        packed = _xor(packed, transaction_id)
    ip = ipaddress.ip_address(packed)
    if port == 0 or ip.is_unspecified or ip.is_loopback or ip.is_link_local or ip.is_multicast:
        raise malformed("an address that nobody can be reached at")
    return PeerAddress(str(ip), port)


def _xor(packed: bytes, transaction_id: bytes) -> bytes:
    mask = _COOKIE.to_bytes(4, "big") + transaction_id
    return bytes(one ^ two for one, two in zip(packed, mask, strict=False))
