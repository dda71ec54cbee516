"""Received bytes become messages without Autobahn's parser, where that changes nothing.

Nearly all that a node receives are complete, unfragmented binary frames. They are taken from the
buffer by position; neither what comes after them nor any object of the parser is touched. Once
the owner wants messages instead of payloads (``_takes_messages``), those below 64 KiB are decoded
in the same step, and delivered in one call for all that came together. A large
frame that takes many reads is kept as the pieces that came, and joined once. Everything else falls
through to Autobahn, whose state is as it would have been: control frames, fragments, text,
whatever breaks the protocol or exceeds a limit, and all that comes while the WebSocket is not open.

What a message may weigh is decided when its header and the first byte of its payload are in,
before more of it is kept (``_frame_limit``); what half-received messages weigh can be read at any
time (``half_received``).

Differences from Autobahn, none of which the peer can see: the streaming callbacks
(``onMessageBegin`` … ``onMessageEnd``) and ``on("message")`` do not happen for frames taken here;
what comes after the connection was dropped is forgotten instead of kept; pieces are joined before
the objects around them outweigh what they hold; who closes on the first of several messages that
are delivered together has got the others.

Source: design D7, §5.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from autobahn.websocket.protocol import WebSocketProtocol

from dig_gossip.wire.frames import LONG_FRAME_BYTES, take_from_view, take_messages
from dig_gossip.wire.masking import mask
from dig_gossip.wire.message import Message

_CLOSED: Final[int] = WebSocketProtocol.STATE_CLOSED
_CLOSING: Final[int] = WebSocketProtocol.STATE_CLOSING
_OPEN: Final[int] = WebSocketProtocol.STATE_OPEN

_FIN_BINARY: Final = 0x82
_MASKED: Final = 0x80
_unpack_length = struct.Struct("!Q").unpack_from

#: An incomplete frame of at most this many bytes waits in the buffer, header and all.
_SMALL_FRAME: Final = 16_384

#: Autobahn's parser copies all that is buffered for each frame, so it gets this much at a time.
_WINDOW: Final = 8192

#: Messages of so many bytes on average make a read bulky.
_BULKY: Final = 8192

#: More than these, and one for each 1024 bytes, are joined: a bytes object weighs 33 bytes itself.
_FREE_PIECES: Final = 64


class FastFrames:
    """Mixed in before Autobahn's protocol class; replaces how an open connection is read.

    Bounds: of an unfinished message no more is kept than ``maxMessagePayloadSize`` and
    ``_frame_limit`` allow, and no more than one read before these are known.

    :ivar half_received: bytes kept of what is not complete; correct after each read.
    :ivar is_bulky: whether the last read brought large messages, or parts of one.
    """

    half_received = 0
    is_bulky = False

    #: Messages of at most this many bytes are within every limit: ``_frame_limit`` is not asked.
    _always_fits = 0

    #: Whether small messages are decoded and go to ``_messages_received``; for an owner whose
    #: ``_always_fits`` and limits allow any of them.
    _takes_messages = False

    # An unfinished large frame: its header, what came of its payload (unmasked), what is missing.
    _header = b""
    _pieces: list[bytes]
    _taken = 0
    _missing = 0

    # A message in Autobahn's hands: bytes kept of it, and the first one if it is binary.
    _fragments = 0
    _first: int | None = None

    # Whether Autobahn's parser may be at work.
    _consuming = False

    # Whether we mask, and whether nothing is configured that only Autobahn's parser does.
    _mask_bit = 0
    _applicable: bool | None = None  # not yet known

    if TYPE_CHECKING:  # what Autobahn has, without types
        data: bytes
        state: int
        factory: Any
        current_frame: Any
        inside_message: bool
        failedByMe: bool
        trafficStats: Any
        maxMessagePayloadSize: int
        maxFramePayloadSize: int
        message_data_total_length: int
        message_is_binary: bool
        wasMaxMessagePayloadSizeExceeded: bool
        message_data: list[bytes]
        frame_data: list[bytes]

        def dataReceived(self, data: bytes) -> None: ...
        def _dataReceived(self, data: bytes) -> None: ...
        def processData(self) -> bool: ...
        def onMessage(self, payload: bytes, isBinary: bool) -> None: ...
        def _max_message_size_exceeded(self, size: int, limit: int, reason: str) -> None: ...

    # -- for the owner to override

    def _binary_message(self, payload: bytes) -> None:
        """Take a whole binary message that came in one frame."""
        self.onMessage(payload, True)

    def _messages_received(self, messages: list[Message | None], octets: int) -> None:
        """Take messages that came together, in order; only if ``_takes_messages``.

        :param messages: None stands for a payload that was no message.
        :param octets: bytes of their payloads.
        """
        raise NotImplementedError

    def _frame_limit(self, first: int, length: int) -> int | None:
        """Say how long a binary message may be.

        May be asked several times about one message: when it grows, and when it is refused.

        :param first: first byte of its payload, unmasked.
        :param length: bytes announced so far; more than ``_always_fits``.
        :returns: bytes, or None if only the connection's own limits hold.
        """
        return None

    # -- what FastTLS calls

    def plaintext_received(self, memory: memoryview, start: int, stop: int) -> None:
        """Take what came in where it is, instead of ``dataReceived``, while reads are bulky.

        :param memory: ours to change until the call returns; what stands before ``start``, too.
        """
        self.dataReceived(bytes(memory[start:stop]))

    def _take_view(self, memory: memoryview, start: int, stop: int) -> None:
        """The same as ``_dataReceived``, with fewer copies where messages come by the batch."""
        kept = self.data
        if not (
            self._takes_messages
            and self.state == _OPEN
            and not self._missing
            and len(kept) <= start
            and self._is_between()
        ):
            self._dataReceived(bytes(memory[start:stop]))
            return
        size, at = stop - start, start - len(kept)
        memory[at:start] = kept
        self.data = b""
        stats = self.trafficStats
        stats.incomingOctetsWireLevel += size
        messages: list[Message | None] = []
        at, octets = take_from_view(memory, at, stop, self._mask_bit > 0, messages)
        frames = len(messages)
        stats.incomingOctetsWebSocketLevel += octets
        stats.incomingOctetsAppLevel += octets
        stats.incomingWebSocketFrames += frames
        stats.incomingWebSocketMessages += frames
        # Before somebody else may write to that memory.
        self.data = rest = bytes(memory[at:stop])
        if frames:
            self._messages_received(messages, octets)
        if size >= LONG_FRAME_BYTES and self.state == _OPEN and _is_medium(rest, self._mask_bit):
            # It is not complete. Copied once more it costs less than this read has cost, which
            # of many small reads cannot be said.
            self.half_received = len(rest)
        else:
            self.consumeData()
        self.is_bulky = octets >= _BULKY * frames

    # -- what Autobahn calls

    def consumeData(self) -> None:
        """Process what is buffered."""
        if self.state in (_OPEN, _CLOSING):
            self._consuming = True
            try:
                while not self._take_frames() and self._step() and self.state != _CLOSED:
                    pass
            finally:
                self._consuming = False
        elif self.state != _CLOSED:
            super().consumeData()  # type: ignore[misc]
            return
        if self.state == _CLOSED:
            self._forget()
        self.half_received = self._taken + len(self.data) + self._fragments

    def dropConnection(self, abort: bool = False) -> None:
        super().dropConnection(abort)  # type: ignore[misc]
        if not self._consuming:
            self._forget()
            self.half_received = 0

    def onMessageBegin(self, isBinary: bool) -> None:
        super().onMessageBegin(isBinary)  # type: ignore[misc]
        self._fragments = 0
        self._first = None

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)  # type: ignore[misc]
        self._check_limit()

    def onMessageFrameData(self, payload: bytes) -> None:
        if self._first is None and payload and self.message_is_binary:
            self._first = payload[0]
            self._check_limit()
        super().onMessageFrameData(payload)  # type: ignore[misc]
        if not self.failedByMe:
            self._fragments += len(payload)
            _join_small(self.frame_data, self._fragments)

    def onMessageFrameEnd(self) -> None:
        super().onMessageFrameEnd()  # type: ignore[misc]
        if not self.failedByMe:
            _join_small(self.message_data, self._fragments)

    def onMessageEnd(self) -> None:
        super().onMessageEnd()  # type: ignore[misc]
        self._fragments = 0

    # -- inside

    def _take_frames(self) -> bool:
        """Take all whole frames from the front of the buffer.

        :returns: whether nothing is left to do; if not, Autobahn is to look at what comes next.
        """
        if self.state != _OPEN:
            if self._missing:
                self._give_back()
            return self.state == _CLOSED
        if self._applicable is None:
            self._applicable = _is_plain(self)
            self._mask_bit = _MASKED if self.factory.isServer else 0
        if not self._is_between():
            return False
        data = self.data
        end = len(data)
        at = frames = octets = 0
        mask_bit = self._mask_bit
        always_fits = self._always_fits
        try:
            if self._missing:
                at = octets = self._keep(data)
                if self._missing:
                    return True
                frames = 1
                payload = b"".join(self._pieces)
                self._drop_frame()
                self._binary_message(payload)
                if self.state != _OPEN:
                    return self.state == _CLOSED
            while end - at >= 2:
                if self._takes_messages:
                    messages: list[Message | None] = []
                    at, taken = take_messages(data, at, mask_bit > 0, messages)
                    if messages:
                        octets += taken
                        frames += len(messages)
                        self._messages_received(messages, taken)
                        if self.state != _OPEN:
                            return self.state == _CLOSED
                        if end - at < 2:
                            return True
                if data[at] != _FIN_BINARY:
                    return False
                length = data[at + 1] ^ mask_bit
                if length < 126:
                    start = at + 2
                elif length == 126:
                    if end - at < 4:
                        return True
                    length = data[at + 2] << 8 | data[at + 3]
                    if length < 126:
                        return False
                    start = at + 4
                elif length == 127:
                    if end - at < 10:
                        return True
                    (length,) = _unpack_length(data, at + 2)
                    if not 65_536 <= length < 1 << 63:
                        return False
                    start = at + 10
                else:  # masked, and must not be, or the other way round
                    return False
                if mask_bit:
                    start += 4
                stop = start + length
                if stop > end and start > end:
                    return True
                if 0 < self.maxMessagePayloadSize < length or 0 < self.maxFramePayloadSize < length:
                    return False
                if length > always_fits:
                    if start == end:
                        return True
                    first = data[start] ^ data[start - 4] if mask_bit else data[start]
                    limit = self._frame_limit(first, length)
                    if limit is not None and limit < length:
                        return False
                if stop > end:
                    if length > _SMALL_FRAME:
                        self._header = data[at:start]
                        self._pieces = []
                        self._missing = length
                        octets += self._keep(data[start:])
                        at = end
                    return True
                payload = data[start:stop]
                if mask_bit:
                    payload = mask(payload, data[start - 4 : start])
                at = stop
                octets += length
                frames += 1
                self._binary_message(payload)
                if self.state != _OPEN:
                    return self.state == _CLOSED
            # A single byte is enough for Autobahn to wait for the next.
            return True
        finally:
            self.data = data[at:]
            stats = self.trafficStats
            stats.incomingOctetsWebSocketLevel += octets
            stats.incomingOctetsAppLevel += octets
            stats.incomingWebSocketFrames += frames
            stats.incomingWebSocketMessages += frames
            self.is_bulky = octets >= _BULKY * frames

    def _is_between(self) -> bool:
        # Whether the next byte begins a message that we may take.
        return bool(
            self._applicable
            and self.state == _OPEN
            and self.current_frame is None
            and not self.inside_message
        )

    def _step(self) -> bool:
        """Let Autobahn's parser take a step, or several if much is buffered.

        :returns: whether to go on.
        """
        rest = self.data[_WINDOW:]
        if not rest:
            return self.processData()
        self.data = self.data[:_WINDOW]
        while self.processData() and self.state != _CLOSED:
            if self.data[:1] == b"\x82" and self._is_between():
                break
        self.data += rest
        return True

    def _keep(self, data: bytes) -> int:
        # Keep what of `data` belongs to the unfinished frame.
        piece = data[: self._missing]
        size = len(piece)
        if self._mask_bit:
            turn = self._taken & 3
            piece = mask(piece, (self._header[-4:] * 2)[turn : turn + 4])
        self._pieces.append(piece)
        self._taken += size
        self._missing -= size
        _join_small(self._pieces, self._taken)
        return size

    def _drop_frame(self) -> None:
        self._header, self._pieces, self._taken, self._missing = b"", [], 0, 0

    def _forget(self) -> None:
        self.data = b""
        self.message_data = self.frame_data = []
        self._fragments = 0
        self._drop_frame()

    def _give_back(self) -> None:
        # We have stopped taking frames in the middle of one: Autobahn gets all of it.
        content = b"".join(self._pieces)
        if self._mask_bit:
            content = mask(content, self._header[-4:])
        self.data = self._header + content + self.data
        self._drop_frame()

    def _check_limit(self) -> None:
        total = self.message_data_total_length
        if self._first is None or total <= self._always_fits or self.failedByMe:
            return
        limit = self._frame_limit(self._first, total)
        if limit is not None and limit < total:
            self.wasMaxMessagePayloadSizeExceeded = True
            self._max_message_size_exceeded(
                total, limit, f"received a message of {total} octets where {limit} are allowed"
            )


def _is_plain(protocol: Any) -> bool:  # Any: Autobahn has no types
    return not (
        protocol._perMessageCompress is not None
        or protocol.websocket_version == 0
        or not protocol.applyMask
        or protocol.autoPingInterval
        or protocol.trackTimings
        or protocol.logFrames
    )


def _is_medium(frame: bytes, mask_bit: int) -> bool:
    # Whether it begins as an ordinary binary frame of 126..65535 bytes does.
    return (
        len(frame) >= 4
        and frame[0] == _FIN_BINARY
        and frame[1] == mask_bit | 126
        and (frame[2] << 8 | frame[3]) >= 126
    )


def _join_small(pieces: list[bytes], size: int) -> None:
    if len(pieces) > _FREE_PIECES + (size >> 10):
        pieces[:] = [b"".join(pieces)]
