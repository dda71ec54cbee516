"""Messages as WebSocket frames, one or many at a time; pure.

A server sends frames unmasked, a client must mask them (RFC 6455 §5.3). The key's purpose is that a
page in a browser cannot choose what bytes appear on the wire, not secrecy; each run of frames has
another, from the system's source of randomness.

Runs are made and taken apart by compiled code where the package could be built with it, and
otherwise in Python (:mod:`dig_gossip.wire.frames_pure`), with the same results.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Protocol

from dig_gossip.wire import frames_pure
from dig_gossip.wire.frames_pure import FIN_BINARY, LONG_FRAME_BYTES, MASKED, new_key
from dig_gossip.wire.masking import mask
from dig_gossip.wire.message import COMPILED, Message

__all__ = [
    "LONG_FRAME_BYTES",
    "OutboundFrame",
    "Run",
    "frame_header",
    "new_run",
    "take_from_view",
    "take_messages",
]

_SHORT = struct.Struct("!BB")
_MEDIUM = struct.Struct("!BBH")
_LONG = struct.Struct("!BBQ")


def frame_header(length: int, mask_bit: int = 0) -> bytes:
    """The header of an unfragmented binary frame, without the masking key.

    :param length: payload bytes.
    :param mask_bit: 0x80 when a key follows.
    """
    if length < 126:
        return _SHORT.pack(FIN_BINARY, mask_bit | length)
    if length < LONG_FRAME_BYTES:
        return _MEDIUM.pack(FIN_BINARY, mask_bit | 126, length)
    return _LONG.pack(FIN_BINARY, mask_bit | 127, length)


class OutboundFrame:
    """A message on its way out: encoded when first asked for, once per role."""

    __slots__ = ("_as_client", "_as_server", "message", "queues", "size", "written")

    def __init__(self, message: Message, written: Callable[[], None] | None = None) -> None:
        self.message = message
        #: called when it is handed to the transport; for a message to one session only
        self.written = written
        #: serialized message, bytes; what queues and counters count
        self.size = len(message.data) + (6 if message.id is None else 8)
        #: in how many queues it waits
        self.queues = 0
        self._as_server: bytes | None = None
        self._as_client: bytes | None = None

    def encoded(self, as_client: bool) -> bytes:
        """The complete frame for a session on which we are the client, or the server."""
        if as_client:
            frame = self._as_client
            if frame is None:
                key = os.urandom(4)
                header = frame_header(self.size, MASKED)
                frame = self._as_client = header + key + mask(bytes(self.message), key)
            return frame
        frame = self._as_server
        if frame is None:
            message = self.message
            parts = frame_header(self.size), message.head, message.data
            frame = self._as_server = b"".join(parts)
        return frame


class Run(Protocol):
    """Messages that leave together, as one run of frames.

    Bounds: none of its own; the caller takes what it holds in time.
    """

    @property
    def size(self) -> int:
        """Bytes of the frames in it."""

    def add(self, message: Message, /) -> None:
        """Add a message that is, envelope included, shorter than ``LONG_FRAME_BYTES``."""

    def add_divided(self, opcode: int, begin: bytes, data: memoryview, /) -> None:
        """Add a message without an id, whose data is here in a short and a long piece.

        Bounded as in :meth:`add`.
        """

    def take(self) -> list[bytes | memoryview]:
        """The frames as they are to be written; the run is empty afterwards.

        :returns: pieces, which the next call may overwrite.
        """

    def clear(self) -> None:
        """Forget what is in it."""


if COMPILED is None:
    _take = None
    take_from_view = frames_pure.take_from_view

    def _new_run(as_client: bool) -> Run:
        return frames_pure.MaskedRun() if as_client else frames_pure.FrameRun()

else:
    _compiled_run: Callable[[Callable[[], int] | None], Run] = COMPILED.Run
    _take = take_from_view = COMPILED.take

    def _new_run(as_client: bool) -> Run:
        return _compiled_run(new_key if as_client else None)


def new_run(as_client: bool) -> Run:
    """Make an empty run.

    :param as_client: its frames are masked.
    """
    return _new_run(as_client)


def take_messages(
    data: bytes, at: int, is_masked: bool, into: list[Message | None]
) -> tuple[int, int]:
    """Take messages from the front of what came; see :func:`.frames_pure.take_messages`.

    Of the last ones, those with less than 14 bytes of frame may be left over or not.
    """
    if _take is None:
        return frames_pure.take_messages(data, at, is_masked, into)
    taken: tuple[int, int] = _take(data, at, len(data), is_masked, into)
    return taken
