"""Many messages as frames, and frames as many messages."""

from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.wire import frames
from dig_gossip.wire.frames import FrameRun, MaskedRun, take_from_view, take_messages
from dig_gossip.wire.masking import mask
from dig_gossip.wire.message import Message
from tests.connection.frame_streams import BINARY, PING, StockClient, StockServer, frame, make

bodies = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([111, 112, 117, 118, 119, 120, 121, 300, 16_384, 65_000]).map(bytes),
)
messages = st.builds(Message, st.integers(0, 255), st.none() | st.integers(0, 65_535), bodies)


def run_of(content: list[Message], as_client: bool) -> bytes:
    """One run of frames."""
    run = MaskedRun() if as_client else FrameRun()
    for message in content:
        run.add(message)
    size = run.size
    data = b"".join(run.take())
    assert len(data) == size
    assert run.size == 0
    return data


def taken(data: bytes, is_masked: bool) -> tuple[list[Message | None], int, int]:
    """Messages, position, and bytes of payload."""
    into: list[Message | None] = []
    at, octets = take_messages(data, 0, is_masked, into)
    return into, at, octets


def taken_from_view(data: bytes, is_masked: bool) -> tuple[list[Message | None], int, int]:
    """The same from memory that is written to, and used again."""
    into: list[Message | None] = []
    memory = bytearray(b"x" + data + b"\x82\0yz")
    at, octets = take_from_view(memoryview(memory), 1, len(data) + 1, is_masked, into)
    assert memory[at:] == data[at - 1 :] + b"\x82\0yz"
    memory[:] = bytes(len(memory))
    return into, at - 1, octets


class FrameRunTests(SynchronousTestCase):
    """What leaves together."""

    @given(st.lists(messages, max_size=8))
    def test_any_run_is_read_by_autobahn(self, content: list[Message]) -> None:
        """Masked or not, each frame is one that a stock WebSocket takes.  design §5, RFC 6455"""
        for as_client, protocol in ((True, StockServer), (False, StockClient)):
            websocket = make(protocol)
            websocket.dataReceived(run_of(content, as_client))
            self.assertEqual([bytes(one) for one in content], [e[1] for e in websocket.events])
            self.assertIsNone(websocket.localCloseCode)

    @given(st.lists(messages, max_size=8), st.booleans())
    def test_any_run_comes_back(self, content: list[Message], as_client: bool) -> None:
        """What is sent in one go is read in one go.  design §5"""
        data = run_of(content, as_client)
        self.assertEqual(
            taken_from_view(data, as_client), (content, len(data), sum(map(len, content)))
        )
        into, at, octets = taken(data, as_client)
        # The last one may be too short to be looked at in the fast way.
        self.assertEqual(into, content[: len(into)])
        self.assertGreaterEqual(len(into), len(content) - 1)
        self.assertEqual(octets, sum(map(len, content[: len(into)])))
        self.assertEqual(at, len(run_of(content[: len(into)], as_client)))

    def test_each_run_has_another_key(self) -> None:
        """And it comes from the system.  wire §2, RFC 6455 §5.3"""
        content = [Message(1, None, bytes(200))]
        with mock.patch.object(frames, "_keys", []):
            keys = {run_of(content, True)[4:8] for _ in range(300)}
        self.assertEqual(len(keys), 300)


class TakeMessagesTests(SynchronousTestCase):
    """What comes together."""

    def test_frames_with_keys_of_their_own(self) -> None:
        """Other clients choose a key for each frame.  wire §2, RFC 6455 §5.3"""
        content = [Message(n, None, bytes([n]) * 50 * n) for n in range(10)]
        for keys in (
            [bytes([n, 1, 2, 3]) for n in range(10)],
            [b"same"] * 10,
            [b"one.", b"one.", b"two.", b"two."] * 3,
        ):
            data = b"".join(
                frame(bytes(one), key=key) for one, key in zip(content, keys, strict=False)
            )
            for take in (taken, taken_from_view):
                self.assertEqual(take(data, True)[0], content[: len(keys)])

    def test_unmasking_ahead_is_bounded(self) -> None:
        """Nobody makes us unmask the rest of the buffer for every other frame.  design D14"""

        def pair(key: bytes) -> bytes:
            message = Message(1, None, bytes(10))  # 22 bytes of frame, so the key turns by two
            turned = key[2:] + key[:2]
            return frame(bytes(message), key=key) + frame(bytes(message), key=turned)

        data = b"".join(pair(bytes([n, 255 - n, 7, 9])) for n in range(100))
        with mock.patch.object(frames, "mask", side_effect=mask) as masker:
            self.assertEqual(len(taken(data, True)[0]), 200)
        work = sum(len(call.args[0]) for call in masker.call_args_list)
        self.assertLess(work, 6 * len(data))

    def test_what_ends_it(self) -> None:
        """Whatever is not an ordinary frame is left where it is.  design §5"""
        good = Message(3, None, b"body")
        for is_masked, key in ((True, b"keys"), (False, None)):
            first = frame(bytes(good), key=key)
            for odd in (
                frame(bytes(good), key=key, fin=False),
                frame(bytes(good), key=key, rsv=4),
                frame(bytes(good), key=key, opcode=PING),
                frame(bytes(good), key=None if key else b"keys"),
                frame(bytes(good) + bytes(200), key=key, width=8),
                frame(bytes(good), key=key, width=2),
                frame(bytes(70_000), key=key),
                frame(bytes(good) + bytes(200), key=key)[:-1],
                b"\x82",
                b"",
            ):
                for take in (taken, taken_from_view):
                    self.assertEqual(
                        take(first + odd, is_masked), ([good], len(first), 10), odd[:20]
                    )

    def test_payloads_that_are_no_messages(self) -> None:
        """Each is a hole in the list, and the next is found.  MSG-101-X"""
        good = Message(3, None, bytes(30))
        for is_masked, key in ((True, b"keys"), (False, None)):
            for payload in (b"", b"\1", bytes(5), b"\1\0\0\0\0\1", b"\1\2" + bytes(4), bytes(300)):
                data = frame(payload, key=key) + frame(bytes(good), key=key)
                expected = ([None, good], len(data), len(payload) + len(good))
                for take in (taken, taken_from_view):
                    self.assertEqual(take(data, is_masked), expected, payload)

    @given(st.binary(max_size=100), st.booleans())
    def test_any_bytes(self, data: bytes, is_masked: bool) -> None:
        """No exception, and nothing is read twice.  design D14"""
        for begin in (b"", bytes([0x80 | BINARY])):
            for take in (taken, taken_from_view):
                into, at, octets = take(begin + data, is_masked)
                self.assertLessEqual(at, len(begin + data))
                self.assertLessEqual(octets, at)
                self.assertLessEqual(len(into) * 2, at)
