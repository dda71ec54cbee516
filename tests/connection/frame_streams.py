"""Open WebSockets, stock and fast, and streams of frames to feed them with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import txaio
from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.xormasker import create_xor_masker
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure

from dig_gossip.connection.fast_frames import FastFrames
from dig_gossip.errors import ClientError
from dig_gossip.wire.message import Message

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Transport(StringTransportWithDisconnection):
    """Keeps what is written; closes when told to."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol

    def unregisterProducer(self) -> None:
        pass


class Recorder:
    """Notes what the application of a WebSocket is told, and reacts as a test says."""

    log = txaio.make_logger(level="none")

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.react: Callable[[Any, int], None] = lambda protocol, count: None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.events.append(("message", payload, isBinary))
        self.react(self, len(self.events))

    def onPing(self, payload: bytes) -> None:
        self.events.append(("ping", payload))
        super().onPing(payload)  # type: ignore[misc]

    def onPong(self, payload: bytes) -> None:
        self.events.append(("pong", payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.events.append(("close", wasClean, code, reason))


class StockServer(Recorder, WebSocketServerProtocol):  # type: ignore[misc]
    log = Recorder.log


class StockClient(Recorder, WebSocketClientProtocol):  # type: ignore[misc]
    log = Recorder.log


class FastServer(Recorder, FastFrames, WebSocketServerProtocol):  # type: ignore[misc]
    log = Recorder.log


class FastClient(Recorder, FastFrames, WebSocketClientProtocol):  # type: ignore[misc]
    log = Recorder.log


class Ignoring(Recorder):
    """As :class:`PeerWebSocket` does: nothing counts once we have begun to close.

    What is no message is noted as None, because that is all that is known of it where messages
    are taken by the batch.
    """

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state == self.STATE_OPEN:  # type: ignore[attr-defined]
            super().onMessage(_message_or_none(payload) if isBinary else payload, isBinary)  # type: ignore[arg-type]


class _Batches(Ignoring):
    _takes_messages = True
    _always_fits = 65_536

    def _messages_received(self, messages: list[Message | None], octets: int) -> None:
        for message in messages:
            self.onMessage(b"" if message is None else bytes(message), True)


class StockIgnoringServer(Ignoring, WebSocketServerProtocol):  # type: ignore[misc]
    log = Recorder.log


class StockIgnoringClient(Ignoring, WebSocketClientProtocol):  # type: ignore[misc]
    log = Recorder.log


class BatchServer(_Batches, FastFrames, WebSocketServerProtocol):  # type: ignore[misc]
    log = Recorder.log


class BatchClient(_Batches, FastFrames, WebSocketClientProtocol):  # type: ignore[misc]
    log = Recorder.log


class _Views(_Batches):
    """Is given what came in memory that somebody else uses again."""

    _rooms = [0, 3, 70_000]

    def dataReceived(self, data: bytes) -> None:
        room = self._rooms[len(data) % 3]
        memory = bytearray(room) + data + b"\x82\x05more."
        self._take_view(memoryview(memory), room, room + len(data))  # type: ignore[attr-defined]
        memory[:] = b"\xff" * len(memory)


class ViewServer(_Views, FastFrames, WebSocketServerProtocol):  # type: ignore[misc]
    log = Recorder.log


class ViewClient(_Views, FastFrames, WebSocketClientProtocol):  # type: ignore[misc]
    log = Recorder.log


def _message_or_none(payload: bytes) -> bytes | None:
    try:
        return bytes(Message.from_bytes(payload))
    except ClientError:
        return None


def make(protocol: type[Any], **options: Any) -> Any:
    """An open WebSocket of this class."""
    if issubclass(protocol, WebSocketServerProtocol):
        factory = WebSocketServerFactory(reactor=Clock())
    else:
        factory = WebSocketClientFactory(reactor=Clock())
        # Random keys would make what is sent different each time.
        options.setdefault("maskClientFrames", False)
        options.setdefault("serverConnectionDropTimeout", 0)
    factory.log = Recorder.log
    factory.protocol = protocol
    factory.setProtocolOptions(
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
        autoPingInterval=0,
        **{"failByDrop": False, **options},
    )
    websocket = factory.buildProtocol(None)
    websocket.startHandshake = lambda: None  # a client would send its request
    websocket.makeConnection(Transport(websocket))
    websocket.state = websocket.STATE_OPEN
    websocket.websocket_version = 13
    websocket.inside_message = False
    websocket.current_frame = None
    return websocket


def frame(
    payload: bytes,
    *,
    key: bytes | None,
    opcode: int = BINARY,
    fin: bool = True,
    rsv: int = 0,
    width: int | None = None,
    claimed: int | None = None,
) -> bytes:
    """Encode a frame.

    :param key: masks the payload.
    :param width: bytes of the extended length (0, 2 or 8) instead of the fewest.
    :param claimed: length in the header instead of the payload's.
    """
    length = len(payload) if claimed is None else claimed
    if width is None:
        width = 0 if length < 126 else 2 if length < 65_536 else 8
    short = {0: length & 0x7F, 2: 126, 8: 127}[width]
    head = bytes([fin << 7 | rsv << 4 | opcode, (key is not None) << 7 | short])
    if width:
        head += length.to_bytes(8, "big")[-width:]
    if key is None:
        return head + payload
    return head + key + (create_xor_masker(key, len(payload)).process(payload) if payload else b"")


def feed(websocket: Any, chunks: list[bytes], closing: int | None = None) -> list[Any]:
    """Deliver bytes as Twisted would, until the transport is gone.

    :param closing: number of the chunk before which we close the WebSocket ourselves.
    :returns: everything that can be seen from outside.
    """
    for number, chunk in enumerate(chunks):
        if number == closing:
            websocket.sendCloseFrame(1000, b"", False)
        if not websocket.transport.connected:
            break
        websocket.dataReceived(chunk)
    if websocket.transport.connected:
        state = websocket.state
        websocket.transport.connected = False
        websocket.connectionLost(Failure(ConnectionDone()))
    else:
        state = None
    return [
        websocket.events,
        websocket.transport.value(),
        state,
        websocket.failedByMe,
        websocket.wasMaxMessagePayloadSizeExceeded,
        websocket.wasMaxFramePayloadSizeExceeded,
        websocket.localCloseCode,
        websocket.localCloseReason,
        websocket.remoteCloseCode,
        websocket.remoteCloseReason,
        websocket.wasClean,
        websocket.droppedByMe,
    ]


def cut(data: bytes, seed: int) -> list[bytes]:
    """Divide bytes into chunks, small and large."""
    rng = random.Random(seed)
    most = rng.choice([1, 3, 20, 1000, 30_000, 200_000])
    if len(data) > 3000:
        most = max(most, 100)
    chunks = []
    while data:
        size = rng.randint(1, most)
        chunks.append(data[:size])
        data = data[size:]
    return chunks


_small = st.binary(max_size=140)
any_payload = st.one_of(
    _small,
    _small,
    st.builds(
        lambda size, seed: random.Random(seed).randbytes(size),
        st.sampled_from([125, 126, 127, 1000, 16_384, 16_385, 65_535, 65_536, 100_000]),
        st.integers(0, 255),
    ),
)


any_envelope = st.one_of(
    st.builds(
        lambda opcode, message_id, body: bytes(Message(opcode, message_id, body)),
        st.integers(0, 255),
        st.none() | st.integers(0, 65_535),
        any_payload,
    ),
    any_payload,
)


@st.composite
def streams(draw: Any, masked: bool, payloads: Any = any_payload) -> bytes:
    """Frames as a peer would send them, good ones mostly."""
    stream = b""
    inside = False
    for kind in draw(
        st.lists(
            st.sampled_from(
                ["whole"] * 6 + ["ping", "pong", "text", "first", "more", "last"] + ["odd", "close"]
            ),
            max_size=12,
        )
    ):
        options: dict[str, Any] = {"key": draw(st.binary(min_size=4, max_size=4))}
        if not masked:
            options["key"] = None
        payload = draw(payloads)
        if kind == "odd":
            options["opcode"] = draw(st.integers(0, 15))
            options["fin"] = draw(st.booleans())
            options["rsv"] = draw(st.sampled_from([0, 0, 0, 1, 4, 7]))
            options["width"] = draw(st.sampled_from([None, None, 0, 2, 8]))
            options["claimed"] = draw(
                st.sampled_from([None, None, 0, 1, 300, 1 << 20, 1 << 40, 1 << 63, (1 << 64) - 1])
            )
            if draw(st.integers(0, 5)) == 0:
                options["key"] = b"keys" if options["key"] is None else None
        elif kind in ("ping", "pong"):
            options["opcode"] = PING if kind == "ping" else PONG
            payload = payload[:125]
        elif kind == "close":
            options["opcode"] = CLOSE
            code = draw(st.sampled_from([b"", b"\x03\xe8", b"\x03\xeabye", b"\x0f\xff", b"x"]))
            payload = code
        elif kind == "text":
            options["opcode"] = CONTINUATION if inside else TEXT
            payload = draw(st.sampled_from([b"", b"text", "ä".encode(), b"\xc3", b"\xff"]))
            inside = False
        elif kind == "whole" and inside:
            options["opcode"] = PONG
            payload = payload[:125]
        elif kind in ("first", "more"):
            options["opcode"] = CONTINUATION if inside else BINARY
            options["fin"] = False
            inside = True
        elif kind == "last":
            options["opcode"] = CONTINUATION if inside else BINARY
            inside = False
        stream += frame(payload, **options)
    if draw(st.integers(0, 4)) == 0:
        stream = stream[: draw(st.integers(0, len(stream)))]
    return stream


def _raise_limits(protocol: Any, count: int) -> None:
    # As after our handshake.
    protocol.maxMessagePayloadSize = protocol.maxFramePayloadSize = 90_000


def _lower_limits(protocol: Any, count: int) -> None:
    protocol.maxMessagePayloadSize = 50


def _close_second(protocol: Any, count: int) -> None:
    if count == 2:
        protocol.sendCloseFrame(1000, b"enough", False)


def _drop_second(protocol: Any, count: int) -> None:
    if count == 2:
        protocol.dropConnection(abort=True)


_reactions = st.sampled_from(
    [lambda protocol, count: None] * 3 + [_raise_limits, _lower_limits, _close_second, _drop_second]
)
_options = st.fixed_dictionaries(
    {
        "failByDrop": st.booleans(),
        "maxMessagePayloadSize": st.sampled_from([0, 0, 0, 70_000, 130, 5]),
        "maxFramePayloadSize": st.sampled_from([0, 0, 0, 70_000, 130, 5]),
        "echoCloseCodeReason": st.booleans(),
    }
)
#: For whoever takes messages by the batch: no limit below 64 KiB, now or later.
batch_circumstances = st.tuples(
    st.sampled_from([lambda protocol, count: None] * 3 + [_close_second, _drop_second]),
    st.sampled_from([None, None, 1, 2, 5]),
    st.fixed_dictionaries(
        {"maxMessagePayloadSize": st.sampled_from([0, 70_000]), "failByDrop": st.booleans()}
    ),
)
seeds = st.integers(0, 2**32)
circumstances = st.tuples(_reactions, st.sampled_from([None, None, 1, 2, 5]), _options)
