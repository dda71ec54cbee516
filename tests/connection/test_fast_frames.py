"""The fast reading of frames beside Autobahn's parser: same bytes in, same everything out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.connection.frame_streams import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    TEXT,
    BatchClient,
    BatchServer,
    FastClient,
    FastServer,
    StockClient,
    StockIgnoringClient,
    StockIgnoringServer,
    StockServer,
    ViewClient,
    ViewServer,
    any_envelope,
    any_payload,
    batch_circumstances,
    circumstances,
    cut,
    feed,
    frame,
    make,
    seeds,
    streams,
)


class SameAsAutobahnTests(SynchronousTestCase):
    """Stock protocols and ours, given the same bytes in the same chunks."""

    def compare(self, fast: Any, stock: Any, stream: bytes, seed: int, how: Any) -> None:
        """Check that both tell the same to the application, to the peer and about themselves."""
        react, closing, options = how
        outcomes = []
        for protocol in (fast, stock):
            websocket = make(protocol, **options)
            websocket.react = react
            outcomes.append(feed(websocket, cut(stream, seed), closing))
        self.assertEqual(*outcomes)

    def test_every_place_to_cut(self) -> None:
        """Wherever the first read ends, awkward headers are judged alike and in time.  D4"""
        for key, fast, stock in (
            (b"keys", FastServer, StockServer),
            (None, FastClient, StockClient),
        ):
            odd = [
                frame(bytes(200), key=key),
                frame(bytes(20_000), key=key),
                frame(bytes(70_000), key=key),
                frame(bytes(5), key=key, width=2),
                frame(bytes(200), key=key, width=8),
                frame(b"abc", key=key, claimed=1 << 63),
                frame(b"abc", key=key, claimed=(1 << 63) - 1),
                frame(b"abc", key=None if key else b"keys"),
                frame(b"", key=key) + frame(b"", key=key, opcode=PING),
                frame(b"ab", key=key, fin=False) + frame(b"cd", key=key),
            ]
            for stream in odd:
                for at in range(min(len(stream), 25)):
                    outcomes = []
                    for protocol in (fast, stock):
                        websocket = make(protocol)
                        first = self.view(websocket, stream[:at])
                        outcomes.append((first, feed(websocket, [stream[at:]])))
                    self.assertEqual(*outcomes)

    def view(self, websocket: Any, chunk: bytes) -> list[Any]:
        """What is known after a chunk."""
        websocket.dataReceived(chunk)
        return [list(websocket.events), websocket.state, websocket.localCloseCode]

    def test_close_in_the_middle(self) -> None:
        """A large frame that is half there when we close is Autobahn's to finish.  D4"""
        for key, *protocols in (
            (b"keys", FastServer, StockServer),
            (None, FastClient, StockClient),
        ):
            stream = frame(bytes(50_000), key=key) + frame(b"\x03\xe8", key=key, opcode=CLOSE)
            for at in (10_001, 30_002, 49_999):
                chunks = [stream[:5000], stream[5000:at], stream[at:]]
                outcomes = [feed(make(protocol), chunks, 2) for protocol in protocols]
                self.assertEqual(*outcomes)
                self.assertTrue(outcomes[0][-2])  # closed cleanly: the close frame was found

    def test_receiver_that_closes(self) -> None:
        """What follows is read as of a closing connection, or not at all.  D4"""
        end = frame(b"more", key=b"keys")
        for size in (5, 50_000):
            stream = frame(bytes(size), key=b"keys") + end
            for method, argument in (("sendCloseFrame", 1000), ("dropConnection", True)):

                def react(protocol: Any, _: int, name: str = method, value: Any = argument) -> None:
                    getattr(protocol, name)(value)

                for chunks in ([stream], [stream[:30_000], stream[30_000:]]):
                    outcomes = []
                    for protocol in (FastServer, StockServer):
                        websocket = make(protocol)
                        websocket.react = react
                        outcomes.append(feed(websocket, chunks))
                    self.assertEqual(*outcomes)

    @given(streams(masked=True), seeds, circumstances)
    def test_any_stream_at_a_server(self, stream: bytes, seed: int, how: Any) -> None:
        """Masked frames: messages, answers, close codes and state are Autobahn's.  D4"""
        self.compare(FastServer, StockServer, stream, seed, how)

    @given(streams(masked=True, payloads=any_envelope), seeds, batch_circumstances)
    def test_any_stream_of_messages_at_a_server(self, stream: bytes, seed: int, how: Any) -> None:
        """Taken by the batch they are the same messages, in the same order.  D4, design §5"""
        self.compare(BatchServer, StockIgnoringServer, stream, seed, how)
        self.compare(ViewServer, StockIgnoringServer, stream, seed, how)

    @given(streams(masked=False, payloads=any_envelope), seeds, batch_circumstances)
    def test_any_stream_of_messages_at_a_client(self, stream: bytes, seed: int, how: Any) -> None:
        """Taken by the batch they are the same messages, in the same order.  D4, design §5"""
        self.compare(BatchClient, StockIgnoringClient, stream, seed, how)
        self.compare(ViewClient, StockIgnoringClient, stream, seed, how)

    @given(streams(masked=False), seeds, circumstances)
    def test_any_stream_at_a_client(self, stream: bytes, seed: int, how: Any) -> None:
        """Unmasked frames: messages, answers, close codes and state are Autobahn's.  D4"""
        self.compare(FastClient, StockClient, stream, seed, how)

    @given(st.binary(max_size=400), seeds, batch_circumstances)
    def test_any_bytes_in_shared_memory(self, stream: bytes, seed: int, how: Any) -> None:
        """Noise is noise there, too.  D4, D14"""
        for begin in (b"", b"\x82", b"\x82\xfe\x00"):
            self.compare(ViewServer, StockIgnoringServer, begin + stream, seed, how)
            self.compare(ViewClient, StockIgnoringClient, begin + stream, seed, how)

    @given(st.binary(max_size=400), seeds, circumstances)
    def test_any_bytes(self, stream: bytes, seed: int, how: Any) -> None:
        """Noise is treated as Autobahn treats it.  D4, D14"""
        self.compare(FastServer, StockServer, stream, seed, how)
        self.compare(FastClient, StockClient, stream, seed, how)

    @given(st.lists(any_payload, max_size=6), st.booleans(), seeds)
    def test_traffic_is_counted_alike(
        self, payloads: list[bytes], at_server: bool, seed: int
    ) -> None:
        """Autobahn's own statistics do not notice the difference.  D4"""
        key = b"keys" if at_server else None
        stream = b"".join(frame(payload, key=key) for payload in payloads)
        stream += frame(b"ping", key=key, opcode=PING)
        counted = []
        for protocol in (FastServer, StockServer) if at_server else (FastClient, StockClient):
            websocket = make(protocol)
            feed(websocket, cut(stream, seed))
            counted.append(websocket.trafficStats.__json__())
        self.assertEqual(*counted)


class Limited(FastServer):
    """Knows a limit for each first byte, and notes what it is asked."""

    _always_fits = 10

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []

    def _frame_limit(self, first: int, length: int) -> int | None:
        self.asked.append((first, length))
        return {1: 20, 2: 40_000}.get(first)


def whole(first: int, length: int, **options: Any) -> bytes:
    """A masked binary frame that begins with this byte."""
    payload = (bytes([first]) + bytes(length))[:length]
    return frame(payload, **{"key": b"keys", **options})


class FrameLimitTests(SynchronousTestCase):
    """What a message may weigh depends on its first byte."""

    def outcome(self, *chunks: bytes) -> tuple[list[int], int | None]:
        """Lengths of the messages delivered, and the code of our close frame."""
        self.websocket = make(Limited)
        for chunk in chunks:
            self.websocket.dataReceived(chunk)
        lengths = [len(event[1]) for event in self.websocket.events if event[0] == "message"]
        return lengths, self.websocket.localCloseCode

    def test_each_limit(self) -> None:
        """One byte less, as many, and one more, in one chunk, in two, and byte by byte.  D7"""
        for first, limit in ((1, 20), (2, 40_000)):
            for length in (limit - 1, limit, limit + 1):
                data = whole(first, length)
                expected = ([length], None) if length <= limit else ([], 1009)
                self.assertEqual(self.outcome(data), expected)
                self.assertEqual(self.outcome(data[:15], data[15:]), expected)
                bytewise = [data[at : at + 1] for at in range(30)]
                self.assertEqual(self.outcome(*bytewise, data[30:]), expected)

    def test_other_messages_have_none(self) -> None:
        """Where no limit is known the connection's own holds.  D7"""
        self.assertEqual(self.outcome(whole(3, 100_000)), ([100_000], None))

    def test_refusal_comes_with_the_first_byte(self) -> None:
        """Nothing of the body is waited for, and nothing is said before.  D7"""
        head = whole(2, 50_000)[:8]
        self.assertEqual(self.outcome(head), ([], None))
        self.assertEqual(self.websocket.asked, [])
        self.assertEqual(self.outcome(head, b"\x02"), ([], None))  # another byte, unmasked
        self.assertEqual(self.outcome(head, bytes([2 ^ b"keys"[0]])), ([], 1009))
        self.assertTrue(self.websocket.wasMaxMessagePayloadSizeExceeded)

    def test_small_messages_are_not_asked_about(self) -> None:
        """What always fits costs no call.  D7"""
        self.outcome(whole(1, 10), whole(1, 11), whole(2, 0))
        self.assertEqual(self.websocket.asked, [(1, 11)])

    def test_fragments_are_added_up(self) -> None:
        """A limit holds for the message, however it is divided.  D7"""
        for sizes in ((10, 11), (0, 15, 6), (5, 6, 10), (1, 0, 20), (21, 0)):
            self.assertEqual(self.outcome(*self.fragments(1, sizes)), ([], 1009), sizes)
        for sizes in ((10, 10), (0, 15, 5), (20, 0)):
            self.assertEqual(self.outcome(*self.fragments(1, sizes)), ([20], None), sizes)
        free = list(self.fragments(3, (10, 100_000)))
        self.assertEqual(self.outcome(*free), ([100_010], None))
        self.assertEqual(self.outcome(*free, *self.fragments(1, (11, 10))), ([100_010], 1009))

    def test_fragment_of_another_limit(self) -> None:
        """The connection's own limits hold too, and are noticed first.  D7"""
        self.websocket = make(Limited, maxMessagePayloadSize=15)
        self.websocket.dataReceived(b"".join(self.fragments(1, (10, 11))))
        self.assertEqual(self.websocket.localCloseCode, 1009)
        self.assertEqual(self.websocket.asked, [])

    def test_text_has_no_opcode(self) -> None:
        """Only binary messages are asked about.  D7"""
        self.assertEqual(self.outcome(frame(b"\x01" * 50, key=b"keys", opcode=TEXT)), ([50], None))
        self.assertEqual(self.websocket.asked, [])

    def fragments(self, first: int, sizes: tuple[int, ...]) -> Iterator[bytes]:
        """A message in parts of these sizes."""
        payload = bytes([first]) + bytes(sum(sizes))
        for number, size in enumerate(sizes):
            yield frame(
                payload[:size],
                key=b"keys",
                opcode=CONTINUATION if number else BINARY,
                fin=number == len(sizes) - 1,
            )
            payload = payload[size:]


class HalfReceivedTests(SynchronousTestCase):
    """What unfinished messages weigh."""

    @given(streams(masked=True), seeds)
    def test_any_stream_is_accounted_for(self, stream: bytes, seed: int) -> None:
        """The figure is never less than what is kept, nor more than what came.  D7"""
        websocket = make(FastServer)
        messages = received = 0

        def came(protocol: Any, count: int) -> None:
            nonlocal messages
            messages += len(protocol.events[-1][1])

        websocket.react = came
        for chunk in cut(stream, seed):
            if not websocket.transport.connected:
                break
            websocket.dataReceived(chunk)
            received += len(chunk)
            kept = len(websocket.data)
            if websocket.inside_message:
                kept += sum(map(len, websocket.message_data))
                kept += sum(map(len, websocket.frame_data or []))
            kept += sum(map(len, getattr(websocket, "_pieces", [])))
            self.assertEqual(websocket.half_received, kept)
            self.assertLessEqual(kept, received - messages)

    def test_large_frame(self) -> None:
        """A large frame is counted while it grows, and not afterwards.  D7"""
        websocket = make(FastServer)
        data = whole(1, 100_000)
        websocket.dataReceived(data[:50_014])
        self.assertEqual(websocket.half_received, 50_000)
        websocket.dataReceived(data[50_014:])
        self.assertEqual(websocket.half_received, 0)

    def test_fragments(self) -> None:
        """So is a message in fragments.  D7"""
        websocket = make(FastServer)
        websocket.dataReceived(whole(1, 30_000, fin=False))
        self.assertEqual(websocket.half_received, 30_000)
        websocket.dataReceived(whole(1, 5, opcode=CONTINUATION))
        self.assertEqual(websocket.half_received, 0)

    def test_dropped_connection_keeps_nothing(self) -> None:
        """What still arrives after the end is forgotten, and what had arrived.  D14"""
        for data in (whole(1, 100_000), whole(1, 100, fin=False) + b"x", whole(1, 50)):
            websocket = make(FastServer)
            websocket.dataReceived(data[:40])
            websocket.dropConnection(abort=True)
            self.assertEqual(websocket.half_received, 0)
            self.assertEqual((websocket.data, websocket.message_data), (b"", []))
            websocket.dataReceived(data[40:] * 5)
            self.assertEqual(websocket.half_received, 0)
            self.assertEqual((websocket.data, websocket._pieces), (b"", []))

    def test_single_bytes_do_not_pile_up(self) -> None:
        """A peer that sends byte by byte pays for one object, not for thousands.  D14"""
        count = 2000
        for options in ({}, {"fin": False}, {"opcode": TEXT}):
            websocket = make(FastServer)
            data = whole(1, 100_000, **options)
            for at in range(count):
                websocket.dataReceived(data[at : at + 1])
            pieces = [*getattr(websocket, "_pieces", [])]
            if websocket.current_frame is not None:
                pieces += websocket.frame_data
            self.assertLessEqual(len(pieces), 67)
            self.assertEqual(sum(map(len, pieces)), count - 14)

    def test_small_fragments_do_not_pile_up(self) -> None:
        """Nor do fragments of a byte.  D14"""
        websocket = make(FastServer)
        websocket.dataReceived(whole(1, 1, fin=False))
        for _ in range(1000):
            websocket.dataReceived(whole(1, 1, fin=False, opcode=CONTINUATION))
        self.assertLessEqual(len(websocket.message_data), 66)
        self.assertEqual(websocket.half_received, 1001)


class FastFramesTests(SynchronousTestCase):
    """Which way bytes take."""

    def test_half_a_frame_waits_for_the_next_read(self) -> None:
        """After a large read in one piece, else in pieces; it is counted either way.  design §5"""
        for key, protocol in ((b"keys", ViewServer), (None, ViewClient)):
            message = frame(b"\1\0" + (40_000).to_bytes(4, "big") + bytes(40_000), key=key)
            for size, waits in ((66_000, True), (50_000, False), (60_000, False)):
                websocket = make(protocol)
                websocket.dataReceived(frame(b"", key=key))
                data = message * 3
                websocket.dataReceived(data[:size])
                rest = size - len(message)
                self.assertEqual(len(websocket.data), rest if waits else 0)
                head = 8 if key else 4
                self.assertEqual(websocket.half_received, rest if waits else rest - head)
                self.assertTrue(websocket.is_bulky)
                websocket.dataReceived(data[size:])
                self.assertEqual(len(websocket.events), 4)
                self.assertEqual(websocket.half_received, 0)

    def test_small_messages_end_bulky_reading(self) -> None:
        """They go the way that is made for them.  design §5"""
        websocket = make(ViewServer)
        small = frame(bytes([1, 0, 0, 0, 0, 5]) + bytes(5), key=b"keys")
        websocket.dataReceived(small)
        self.assertFalse(websocket.is_bulky)
        websocket.dataReceived(small * 10 + whole(1, 30_000))
        self.assertFalse(websocket.is_bulky)
        websocket.dataReceived(small + whole(1, 30_000))
        self.assertTrue(websocket.is_bulky)

    def test_whole_frames_do_not_meet_the_parser(self) -> None:
        """That is what makes them fast.  D4"""
        websocket = make(FastServer)
        websocket.processData = None
        data = whole(1, 5) + whole(2, 300) + whole(3, 100_000) + whole(4, 0)
        websocket.dataReceived(data)
        for at in range(0, len(data), 7000):
            websocket.dataReceived(data[at : at + 7000])
        lengths = [len(event[1]) for event in websocket.events]
        self.assertEqual(lengths, [5, 300, 100_000, 0] * 2)

    def test_large_messages_make_a_read_bulky(self) -> None:
        """Complete or not, alone or not; small ones do not, however many.  design §5"""
        websocket = make(FastServer)
        for data, is_bulky in (
            (whole(1, 5) * 5000, False),
            (whole(1, 100_000)[:50_000], True),
            (whole(1, 100_000)[50_000:] + whole(1, 5) * 3, True),
            (whole(1, 8192) * 3, True),
            (whole(1, 8191) * 3, False),
        ):
            websocket.dataReceived(data)
            self.assertEqual(websocket.is_bulky, is_bulky)

    def test_parser_gets_a_little_at_a_time(self) -> None:
        """Autobahn copies all it has for each frame, so it never has much.  D14"""
        websocket = make(FastServer, utf8validateIncoming=False)
        seen = []
        stock = websocket.processData

        def process_data() -> bool:
            seen.append(len(websocket.data))
            result: bool = stock()
            return result

        websocket.processData = process_data
        taken: list[bytes] = []
        self.patch(websocket, "_binary_message", taken.append)
        ping = frame(b"", key=b"keys", opcode=PING)
        text = frame(b"\x82" * 300, key=b"\0\0\0\0", opcode=TEXT)
        websocket.dataReceived(ping * 5000 + whole(1, 5) + text * 100 + whole(1, 5) + ping)
        self.assertEqual(len(websocket.events), 5101)
        self.assertEqual(taken, [b"\1\0\0\0\0"] * 2)
        self.assertLessEqual(max(seen), 8192)
        self.assertLess(len(seen), 11_000)

    def test_configurations_that_only_the_parser_knows(self) -> None:
        """Where Autobahn does more than reading frames, it does the reading.  D4"""
        for name, value in (
            ("_perMessageCompress", object()),
            ("websocket_version", 0),
            ("applyMask", False),
            ("autoPingInterval", 5),
            ("trackTimings", True),
            ("logFrames", True),
        ):
            websocket = make(FastServer)
            setattr(websocket, name, value)
            self.patch(websocket, "_binary_message", None)
            websocket.dataReceived(whole(1, 50))
            self.assertEqual(len(websocket.events), 1, name)

    def test_failing_receiver_loses_no_frame(self) -> None:
        """The exception comes out, and what follows is still there.  D14"""
        websocket = make(FastServer)

        def fail(protocol: Any, count: int) -> None:
            if count == 1:
                raise ZeroDivisionError

        websocket.react = fail
        data = whole(1, 5) + whole(2, 6)
        self.assertRaises(ZeroDivisionError, websocket.dataReceived, data)
        websocket.dataReceived(b"")
        self.assertEqual([len(event[1]) for event in websocket.events], [5, 6])

    def test_from_the_handshake_on(self) -> None:
        """A real opening, with frames behind it in the same chunk, is read alike.  D4"""
        server, client = make(FastServer), make(FastClient)
        for websocket in (server, client):
            websocket.state = websocket.STATE_CONNECTING
            del websocket.inside_message
            del websocket.current_frame
        del client.startHandshake
        client.factory.setSessionParameters(url="ws://localhost/ws")
        client.startHandshake()
        server.dataReceived(client.transport.value() + whole(1, 5))
        self.assertEqual([len(event[1]) for event in server.events], [5])
        client.dataReceived(server.transport.value() + frame(b"\1abc", key=None))
        self.assertEqual([event[1] for event in client.events], [b"\1abc"])
