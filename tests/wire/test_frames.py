"""Many messages as frames, and frames as many messages."""

from __future__ import annotations

import contextlib
from types import ModuleType
from typing import TypeAlias
from unittest import SkipTest, mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.wire import frames, frames_pure
from dig_gossip.wire.masking import mask
from dig_gossip.wire.message import COMPILED, Message, message_hash, message_hash_pure
from tests.connection.frame_streams import BINARY, PING, StockClient, StockServer, frame, make
from tests.extensions import FRAMES, compiled
from tests.frames_check import both_runs, compare_taking

#: Messages, position, and bytes of payload.
Taken: TypeAlias = tuple[list[Message | None], int, int]

bodies = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([111, 112, 117, 118, 119, 120, 121, 300, 16_384, 65_000]).map(bytes),
)
messages = st.builds(Message, st.integers(0, 255), st.none() | st.integers(0, 65_535), bodies)


class Form:
    """One of the forms in which frames are made and read."""

    def __init__(self, module: ModuleType | None) -> None:
        self._module = module

    def run_of(self, content: list[Message], as_client: bool) -> bytes:
        """One run of frames."""
        run: frames.Run
        if self._module is not None:
            run = self._module.Run(frames_pure.new_key if as_client else None)
        else:
            run = frames_pure.MaskedRun() if as_client else frames_pure.FrameRun()
        for message in content:
            run.add(message)
        size = run.size
        data = b"".join(run.take())
        assert len(data) == size
        assert run.size == 0
        return data

    def taken(self, data: bytes, is_masked: bool) -> Taken:
        """Messages, position, and bytes of payload."""
        into: list[Message | None] = []
        if self._module is not None:
            at, octets = self._module.take(data, 0, len(data), is_masked, into)
        else:
            at, octets = frames_pure.take_messages(data, 0, is_masked, into)
        return into, at, octets

    def taken_from_view(self, data: bytes, is_masked: bool) -> Taken:
        """The same from memory that is written to, and used again."""
        into: list[Message | None] = []
        memory = bytearray(b"x" + data + b"\x82\0yz")
        take = frames_pure.take_from_view if self._module is None else self._module.take
        at, octets = take(memoryview(memory), 1, len(data) + 1, is_masked, into)
        assert memory[at:] == data[at - 1 :] + b"\x82\0yz"
        memory[:] = bytes(len(memory))
        return into, at - 1, octets


class FormCase(SynchronousTestCase):
    """Each test goes through the forms that there are: Python's, and the compiled one."""

    def setUp(self) -> None:
        self.forms = [Form(None)]
        with contextlib.suppress(SkipTest):
            module = compiled(FRAMES)
            module.prepare(Message)
            self.forms.append(Form(module))
        self.takes = [take for form in self.forms for take in (form.taken, form.taken_from_view)]


class FrameRunTests(FormCase):
    """What leaves together."""

    @given(st.lists(messages, max_size=8))
    def test_any_run_is_read_by_autobahn(self, content: list[Message]) -> None:
        """Masked or not, each frame is one that a stock WebSocket takes.  design §5, RFC 6455"""
        for as_client, protocol in ((True, StockServer), (False, StockClient)):
            for form in self.forms:
                websocket = make(protocol)
                websocket.dataReceived(form.run_of(content, as_client))
                self.assertEqual([bytes(one) for one in content], [e[1] for e in websocket.events])
                self.assertIsNone(websocket.localCloseCode)

    @given(st.lists(messages, max_size=8), st.booleans())
    def test_any_run_comes_back(self, content: list[Message], as_client: bool) -> None:
        """What is sent in one go is read in one go.  design §5"""
        for form in self.forms:
            data = form.run_of(content, as_client)
            self.assertEqual(
                form.taken_from_view(data, as_client), (content, len(data), sum(map(len, content)))
            )
            into, at, octets = form.taken(data, as_client)
            # The last one may be too short to be looked at in the fast way.
            self.assertEqual(into, content[: len(into)])
            self.assertGreaterEqual(len(into), len(content) - 1)
            self.assertEqual(octets, sum(map(len, content[: len(into)])))
            self.assertEqual(at, len(form.run_of(content[: len(into)], as_client)))

    def test_each_run_has_another_key(self) -> None:
        """And it comes from the system.  wire §2, RFC 6455 §5.3"""
        content = [Message(1, None, bytes(200))]
        for form in self.forms:
            with mock.patch.object(frames_pure, "new_keys", []):
                keys = {form.run_of(content, True)[4:8] for _ in range(300)}
            self.assertEqual(len(keys), 300)


class TakeMessagesTests(FormCase):
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
            for take in self.takes:
                self.assertEqual(take(data, True)[0], content[: len(keys)])

    def test_unmasking_ahead_is_bounded(self) -> None:
        """Nobody makes us unmask the rest of the buffer for every other frame.  design D14"""

        def pair(key: bytes) -> bytes:
            message = Message(1, None, bytes(10))  # 22 bytes of frame, so the key turns by two
            turned = key[2:] + key[:2]
            return frame(bytes(message), key=key) + frame(bytes(message), key=turned)

        data = b"".join(pair(bytes([n, 255 - n, 7, 9])) for n in range(100))
        with mock.patch.object(frames_pure, "mask", side_effect=mask) as masker:
            self.assertEqual(len(Form(None).taken(data, True)[0]), 200)
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
                for take in self.takes:
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
                for take in self.takes:
                    self.assertEqual(take(data, is_masked), expected, payload)

    @given(st.binary(max_size=100), st.booleans())
    def test_any_bytes(self, data: bytes, is_masked: bool) -> None:
        """No exception, and nothing is read twice.  design D14"""
        for begin in (b"", bytes([0x80 | BINARY])):
            for take in self.takes:
                into, at, octets = take(begin + data, is_masked)
                self.assertLessEqual(at, len(begin + data))
                self.assertLessEqual(octets, at)
                self.assertLessEqual(len(into) * 2, at)


class BothFormsTests(SynchronousTestCase):
    """What is compiled does what is done in Python."""

    def setUp(self) -> None:
        self.module = compiled(FRAMES)
        self.module.prepare(Message)

    @given(st.lists(messages, max_size=6), st.none() | st.integers(0, 2**32 - 1))
    def test_frames_are_the_same_bytes(self, content: list[Message], key: int | None) -> None:
        """Masked with one key, or not at all; in one piece or in two.  design §5"""
        pure, other = both_runs(self.module, content, key)
        self.assertEqual(pure, other)

    @given(
        st.lists(messages, max_size=6),
        st.booleans(),
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
        st.integers(0, 400),
    )
    def test_damaged_frames_are_read_the_same_way(
        self, content: list[Message], is_masked: bool, changes: list[tuple[int, int]], cut: int
    ) -> None:
        """Up to the same place, to the same messages.  design §5, D14"""
        data = bytearray(Form(None).run_of(content, is_masked))
        for at, value in changes:
            if at < len(data):
                data[at] = value
        compare_taking(self.module, bytes(data[: len(data) - cut]), is_masked)

    @given(st.binary(max_size=60), st.booleans())
    def test_any_bytes_are_read_the_same_way(self, data: bytes, is_masked: bool) -> None:
        """Also after a beginning that makes sense.  design §5, D14"""
        compare_taking(self.module, data, is_masked)
        compare_taking(self.module, b"\x82" + data, is_masked)

    @given(st.integers(0, 255), bodies | st.binary(max_size=200))
    def test_hashes_are_the_same(self, opcode: int, data: bytes) -> None:
        """Whatever instructions the processor has.  wire §12"""
        if not hasattr(self.module, "message_hash"):
            raise SkipTest("the processor has no instructions for it")
        message = Message(opcode, 7, data)
        self.assertEqual(self.module.message_hash(message), message_hash_pure(message))

    def test_wrong_arguments_are_refused(self) -> None:
        """Nothing is done to what is no message, or out of range.  design D14"""
        run = self.module.Run(None)
        for wrong in (None, b"", object.__new__(Message), 7):
            self.assertRaises(TypeError, run.add, wrong)
        self.assertRaises(ValueError, run.add, Message(1, None, bytes(65_530)))
        self.assertRaises(ValueError, run.add_divided, 256, b"", b"")
        self.assertRaises(ValueError, self.module.take, b"\x82\0", 0, 3, False, [])
        self.assertRaises(ValueError, self.module.take, b"\x82\0", -1, 2, False, [])
        self.assertRaises(AttributeError, self.module.prepare, Form)
        self.assertEqual((run.size, run.take()), (0, []))

    def test_compiled_form_is_used_where_it_exists(self) -> None:
        """A node that could be built with it does not do without.  design §5"""
        run = frames.new_run(True)
        if COMPILED is None:
            self.assertIsInstance(run, frames_pure.MaskedRun)
            self.assertIs(message_hash, message_hash_pure)
        else:
            self.assertIsInstance(run, COMPILED.Run)
