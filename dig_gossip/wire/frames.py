"""One message as a WebSocket frame, made once for all the sessions that get it.

A server sends frames unmasked, a client must mask them (RFC 6455 §5.3). A masking key chosen per
message serves every session on which we are the client: its purpose is that a page in a browser
cannot choose what bytes appear on the wire, not secrecy.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from dig_gossip.wire.masking import mask
from dig_gossip.wire.message import Message

_FIN_BINARY = 0x82
_MASKED = 0x80
_SHORT = struct.Struct("!BB")
_MEDIUM = struct.Struct("!BBH")
_LONG = struct.Struct("!BBQ")


def frame_header(length: int, mask_bit: int = 0) -> bytes:
    """The header of an unfragmented binary frame, without the masking key.

    :param length: payload bytes.
    :param mask_bit: 0x80 when a key follows.
    """
    if length < 126:
        return _SHORT.pack(_FIN_BINARY, mask_bit | length)
    if length < 65536:
        return _MEDIUM.pack(_FIN_BINARY, mask_bit | 126, length)
    return _LONG.pack(_FIN_BINARY, mask_bit | 127, length)


class OutboundFrame:
    """A message on its way out: encoded when first asked for, once per role."""

    __slots__ = ("_as_client", "_as_server", "message", "size", "written")

    def __init__(self, message: Message, written: Callable[[], None] | None = None) -> None:
        self.message = message
        #: called when it is handed to the transport; for a message to one session only
        self.written = written
        #: serialized message, bytes; what queues and counters count
        self.size = len(message)
        self._as_server: bytes | None = None
        self._as_client: bytes | None = None

    def encoded(self, as_client: bool) -> bytes:
        """The complete frame for a session on which we are the client, or the server."""
        if as_client:
            frame = self._as_client
            if frame is None:
                key = os.urandom(4)
                header = frame_header(self.size, _MASKED)
                frame = self._as_client = header + key + mask(bytes(self.message), key)
            return frame
        frame = self._as_server
        if frame is None:
            frame = self._as_server = frame_header(self.size) + bytes(self.message)
        return frame
