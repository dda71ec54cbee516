"""The frames of a tunnel: a byte stream between two peers inside a relay's messages.

Each frame is ``00 01 kind tunnel_id(u64)`` and a body. The first two bytes tell it from whatever
else a relay may deliver, see :func:`classify`.

Source: wire §14.4, §15.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, TypeAlias

import attrs

from dig_gossip.wire.streamable import malformed

#: What one DATA frame may carry.
MAX_DATA_BYTES: Final = 49_152

_HEADER: Final = struct.Struct("!BBBQ")
_U32: Final = struct.Struct("!I")
_OPEN, _ACCEPT, _DATA, _ACK, _CLOSE = range(1, 6)


class CloseReason(enum.IntEnum):
    """Why a tunnel ends; unknown numbers stay ``int``."""

    NORMAL = 0
    REFUSED = 1
    BUSY = 2
    GAP = 3
    IDLE = 4
    PROTOCOL = 5


@attrs.frozen
class Open:
    """The initiator asks for a tunnel and names it."""

    tunnel_id: int

    def __bytes__(self) -> bytes:
        return _HEADER.pack(0, 1, _OPEN, self.tunnel_id)


@attrs.frozen
class Accept:
    """The responder agrees."""

    tunnel_id: int

    def __bytes__(self) -> bytes:
        return _HEADER.pack(0, 1, _ACCEPT, self.tunnel_id)


@attrs.frozen
class Data:
    """A piece of the stream; ``seq`` counts from 0 in each direction."""

    tunnel_id: int
    seq: int
    data: bytes

    def __bytes__(self) -> bytes:
        return b"".join((_HEADER.pack(0, 1, _DATA, self.tunnel_id), _U32.pack(self.seq), self.data))


@attrs.frozen
class Ack:
    """Everything below ``next_seq`` is consumed."""

    tunnel_id: int
    next_seq: int

    def __bytes__(self) -> bytes:
        return _HEADER.pack(0, 1, _ACK, self.tunnel_id) + _U32.pack(self.next_seq)


@attrs.frozen
class Close:
    """The tunnel is over; see :class:`CloseReason`."""

    tunnel_id: int
    reason: int

    def __bytes__(self) -> bytes:
        return _HEADER.pack(0, 1, _CLOSE, self.tunnel_id) + bytes([self.reason])


TunnelFrame: TypeAlias = Open | Accept | Data | Ack | Close


def decode(payload: bytes) -> TunnelFrame:
    """Read a frame.

    :raises ClientError: of kind ``malformed``: it is none.
    """
    if len(payload) < _HEADER.size:
        raise malformed("a tunnel frame has 11 bytes at least")
    zero, version, kind, tunnel_id = _HEADER.unpack_from(payload)
    if zero != 0 or version != 1:
        raise malformed("this is no tunnel frame of version 1")
    body = payload[_HEADER.size :]
    if kind == _DATA:
        if not 4 <= len(body) <= 4 + MAX_DATA_BYTES:
            raise malformed("the length of a DATA frame")
        return Data(tunnel_id, _U32.unpack_from(body)[0], body[4:])
    if kind == _ACK and len(body) == 4:
        return Ack(tunnel_id, _U32.unpack(body)[0])
    if kind == _OPEN and not body:
        return Open(tunnel_id)
    if kind == _ACCEPT and not body:
        return Accept(tunnel_id)
    if kind == _CLOSE and len(body) == 1:
        return Close(tunnel_id, body[0])
    raise malformed("an unknown kind of tunnel frame, or its length is wrong")


class PayloadClass(enum.Enum):
    """What a relay's payload is."""

    TUNNEL = "tunnel"
    TLS_RECORD = "tls_record"  # of another implementation's tunnel
    ENVELOPE = "envelope"  # one whole message, which nobody vouches for
    INVALID = "invalid"


_TLS_CONTENT_TYPES: Final = range(0x14, 0x18)


def classify(payload: bytes) -> PayloadClass:
    """Tell what a payload is from its first two bytes."""
    if len(payload) < 2:
        return PayloadClass.INVALID
    first, second = payload[0], payload[1]
    if first == 0 and second == 1:
        return PayloadClass.TUNNEL
    if first in _TLS_CONTENT_TYPES and second == 3:
        return PayloadClass.TLS_RECORD
    return PayloadClass.ENVELOPE if second in (0, 1) else PayloadClass.INVALID
