"""Where messages wait for a peer that is slow, and what happens when it is too slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dig_gossip.connection.lanes import Offer
from dig_gossip.connection.writer import Writer
from dig_gossip.constants import MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES
from dig_gossip.testing.clock import SimulatedClock
from dig_gossip.testing.hostile import CLOSE, take_frame
from dig_gossip.util.clock import Clock
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from tests.connection.websocket_case import WebSocketCase

ENVELOPE = 6


def frame(data: bytes = b"") -> OutboundFrame:
    """A message on its way."""
    return OutboundFrame(Message(200, None, data))


class FakeOwner:
    """A WebSocket and its transport in one; notes what is written, and when to pause."""

    def __init__(self) -> None:
        self.transport: Any = self  # Any: of a transport only what a writer uses
        self.written: list[tuple[str, bytes]] = []
        self.producers: list[tuple[object, bool]] = []
        self.raw: list[bytes] = []
        self.room: int | None = None
        self.writer: Writer | None = None
        self.then: Callable[[], object] = lambda: None

    def registerProducer(self, producer: object, streaming: bool) -> None:
        self.producers.append((producer, streaming))

    def write(self, data: bytes) -> None:
        self.raw.append(data)
        messages = []
        while data:
            taken = take_frame(data)
            assert taken is not None, "not whole frames"
            messages.append(Message.from_bytes(taken[0].payload).data)
            data = data[taken[1] :]
        self._wrote("message", *messages)

    def send_ping(self, payload: bytes) -> None:
        self._wrote("ping", payload)

    def send_pong(self, payload: bytes) -> None:
        self._wrote("pong", payload)

    def _wrote(self, what: str, *data: bytes) -> None:
        self.written += [(what, one) for one in data]
        if self.room is not None:
            self.room -= 1
            if self.room <= 0 and self.writer is not None:
                self.writer.pauseProducing()
        self.then()

    @property
    def messages(self) -> list[bytes]:
        return [data for what, data in self.written if what == "message"]


class WriterCase(SynchronousTestCase):
    """An open writer."""

    def setUp(self) -> None:
        self.owner = FakeOwner()
        self.reactor = SimulatedClock()
        self.writer = Writer(self.owner, as_client=False, clock=Clock(self.reactor))
        self.owner.writer = self.writer
        self.overflows = 0
        self.writer.on_overflow(self.overflowed)
        self.writer.open()

    def overflowed(self) -> None:
        self.overflows += 1


class WriterTests(WriterCase):
    """One message after the other, as long as the transport takes them."""

    def test_writer_is_a_streaming_producer(self) -> None:
        """The transport says when it can take more.  BP-101-X"""
        self.assertTrue(verifyObject(IPushProducer, self.writer))
        self.assertEqual(self.owner.producers, [(self.writer, True)])

    def test_nothing_is_accepted_before_it_is_open(self) -> None:
        """And nothing of it turns up later.  BP-101-X"""
        writer = Writer(self.owner, as_client=False, clock=Clock(SimulatedClock()))
        self.assertFalse(writer.is_open or writer.is_writable)
        self.assertFalse(writer.send(frame()))
        self.assertFalse(writer.ping(b""))
        writer.pong(b"")
        writer.open()
        writer.resumeProducing()
        self.assertEqual(self.owner.written, [])

    def test_messages_are_written_at_once(self) -> None:
        """And counted when they are.  CON-006.1"""
        self.assertTrue(self.writer.send(frame(b"one")))
        self.assertEqual(self.owner.messages, [b"one"])
        self.assertEqual(self.writer.messages_sent, 1)
        self.assertEqual(self.writer.bytes_sent, ENVELOPE + 3)

    def test_a_client_masks_and_a_server_does_not(self) -> None:
        """As RFC 6455 demands.  wire §2"""
        for as_client in (True, False):
            writer = Writer(self.owner, as_client=as_client, clock=Clock(SimulatedClock()))
            writer.open()
            writer.send(frame(b"x"))
            self.assertEqual(bool(self.owner.raw[-1][1] & 0x80), as_client)

    def test_nothing_is_written_while_paused(self) -> None:
        """Messages wait; pings are for later; only one pong is remembered.  BP-101-X, CON-004.3"""
        self.writer.pauseProducing()
        self.assertTrue(self.writer.send(frame(b"one")))
        self.assertFalse(self.writer.ping(b"ping"))
        self.writer.pong(b"pong")
        self.assertEqual(self.owner.written, [])
        self.assertFalse(self.writer.is_writable)
        self.assertTrue(self.writer.is_open)
        self.assertEqual(self.writer.queued_messages, 1)
        self.assertEqual(self.writer.queued_bytes, ENVELOPE + 3)
        self.assertEqual(self.writer.messages_sent, 0)

    def test_the_wait_for_the_wire_lasts_until_the_transport_asks_for_more(self) -> None:
        """Or, if it does not say stop, until it has got the message.  STA-101-X"""
        clock = SimulatedClock()
        writer = self.owner.writer = Writer(self.owner, as_client=False, clock=Clock(clock))
        writer.open()
        writer.pauseProducing()
        writer.send(frame(b"1"))
        clock.advance(2)
        self.owner.room = 1
        writer.resumeProducing()
        clock.advance(3)
        self.assertEqual((writer.lanes.waited[0].total, writer.lanes.left[0].total), (1, 0))
        self.owner.room = None
        writer.resumeProducing()
        self.assertEqual(writer.lanes.left[0].total, 1)
        self.assertGreaterEqual(writer.lanes.left[0].percentile(0.5), 5)
        writer.pauseProducing()
        writer.send(frame(b"2"))
        clock.advance(0.001)
        writer.resumeProducing()
        self.assertEqual(writer.lanes.left[0].total, 2)
        self.assertLess(writer.lanes.left[0].percentile(0.5), 0.01)

    def test_a_message_that_has_left_does_not_wait_with_the_next_one(self) -> None:
        """Each time the transport asks for more, it has passed on what it had.  STA-101-X"""
        clock = SimulatedClock()
        writer = self.owner.writer = Writer(self.owner, as_client=False, clock=Clock(clock))
        writer.open()
        writer.pauseProducing()
        for data in (b"1", b"2"):
            writer.send(frame(data * 50_000))
        for left in (0, 1, 2):
            self.owner.room = 1
            writer.resumeProducing()
            self.assertEqual(writer.lanes.left[0].total, left)
            clock.advance(1)

    def test_what_waited_is_written_in_order(self) -> None:
        """Before anything that is sent later.  BP-101-X"""
        self.writer.pauseProducing()
        for data in (b"1", b"2", b"3"):
            self.writer.send(frame(data))
        self.writer.resumeProducing()
        self.writer.send(frame(b"4"))
        self.assertEqual(self.owner.messages, [b"1", b"2", b"3", b"4"])
        self.assertEqual(self.writer.queued_messages, 0)
        self.assertEqual(self.writer.queued_bytes, 0)
        self.assertEqual(self.writer.messages_sent, 4)

    def test_a_pause_in_the_middle_keeps_the_rest(self) -> None:
        """A transport may have room for two of five.  BP-101-X"""
        bodies = [b"%d" % number * 20_000 for number in range(6)]
        self.writer.pauseProducing()
        for body in bodies[:5]:
            self.writer.send(frame(body))
        self.owner.room = 1
        self.writer.resumeProducing()
        self.assertEqual(self.owner.messages, bodies[:2])
        self.assertEqual(self.writer.queued_bytes, 3 * (ENVELOPE + 20_000))
        self.writer.send(frame(bodies[5]))
        self.owner.room = None
        self.writer.resumeProducing()
        self.assertEqual(self.owner.messages, bodies)

    def test_an_overfull_transport_pauses_the_very_next_message(self) -> None:
        """Not the one after that.  BP-101-X"""
        self.owner.room = 1
        self.writer.send(frame(b"1"))
        self.writer.send(frame(b"2"))
        self.assertEqual(self.owner.messages, [b"1"])

    def test_what_is_sent_while_draining_comes_last(self) -> None:
        """A write may cause another message; it does not overtake the queue.  BP-101-X"""
        self.writer.pauseProducing()
        for data in (b"1", b"2", b"3"):
            self.writer.send(frame(data))
        late = iter([frame(b"late")])
        self.owner.then = lambda: [self.writer.send(message) for message in late]
        self.writer.resumeProducing()
        self.assertEqual(self.owner.messages, [b"1", b"2", b"3", b"late"])

    def test_the_transport_may_repeat_itself(self) -> None:
        """Twice paused is paused, twice resumed is resumed.  BP-101-X"""
        self.writer.pauseProducing()
        self.writer.pauseProducing()
        self.writer.send(frame(b"1"))
        self.writer.resumeProducing()
        self.writer.resumeProducing()
        self.assertEqual(self.owner.messages, [b"1"])


class PongTests(WriterCase):
    """Answers to pings."""

    def test_pong_is_written_at_once(self) -> None:
        """While the transport takes it.  wire §2"""
        self.writer.pong(b"a")
        self.writer.pong(b"b")
        self.assertEqual(self.owner.written, [("pong", b"a"), ("pong", b"b")])

    def test_only_the_latest_ping_is_answered_after_a_pause(self) -> None:
        """RFC 6455 allows it, and memory demands it.  BP-101-X"""
        self.writer.pauseProducing()
        self.writer.send(frame(b"message"))
        for number in range(1000):
            self.writer.pong(b"%d" % number)
        self.writer.resumeProducing()
        self.assertEqual(self.owner.written, [("pong", b"999"), ("message", b"message")])
        self.writer.pauseProducing()
        self.writer.resumeProducing()
        self.assertEqual(len(self.owner.written), 2, "it is answered once")

    def test_an_empty_pong_is_an_answer_too(self) -> None:
        """No payload is not no ping.  wire §2"""
        self.writer.pauseProducing()
        self.writer.pong(b"")
        self.writer.resumeProducing()
        self.assertEqual(self.owner.written, [("pong", b"")])

    def test_a_pong_that_fills_the_transport_leaves_the_messages_waiting(self) -> None:
        """Nothing is written while paused, whoever caused the pause.  BP-101-X"""
        self.writer.pauseProducing()
        self.writer.send(frame(b"message"))
        self.writer.pong(b"pong")
        self.owner.room = 1
        self.writer.resumeProducing()
        self.assertEqual(self.owner.written, [("pong", b"pong")])
        self.assertEqual(self.writer.queued_messages, 1)


class OverflowTests(WriterCase):
    """A peer that has stopped reading."""

    def setUp(self) -> None:
        super().setUp()
        self.writer.pauseProducing()

    def test_messages_up_to_the_limit_wait(self) -> None:
        """4095 and 4096 wait, 4097 are too many.  BP-101-X"""
        for number in range(1, MAX_QUEUED_MESSAGES + 1):
            self.assertTrue(self.writer.send(frame()))
            self.assertEqual(self.writer.queued_messages, number)
        self.assertEqual(self.overflows, 0)
        self.assertFalse(self.writer.send(frame()))
        self.assert_overflowed()

    def test_bytes_up_to_the_limit_wait(self) -> None:
        """32 MiB wait, whether one byte is missing or none; one more is too many.  BP-101-X"""
        for excess, fits in ((-1, True), (0, True), (1, False)):
            self.setUp()
            half = MAX_QUEUED_BYTES // 2
            self.assertTrue(self.writer.send(frame(bytes(half - ENVELOPE))))
            last = frame(bytes(MAX_QUEUED_BYTES - half - ENVELOPE + excess))
            self.assertEqual(bool(self.writer.send(last)), fits)
            if fits:
                self.assertEqual(self.writer.queued_bytes, MAX_QUEUED_BYTES + excess)
                self.assertEqual(self.overflows, 0)
            else:
                self.assert_overflowed()

    def test_drained_bytes_make_room(self) -> None:
        """What counts is what waits now.  BP-101-X"""
        for _ in range(3):
            self.assertTrue(self.writer.send(frame(bytes(MAX_QUEUED_BYTES - ENVELOPE))))
            self.writer.resumeProducing()
            self.writer.pauseProducing()
        self.assertEqual(self.overflows, 0)
        self.assertEqual(len(self.owner.messages), 3)

    def test_overflow_is_told_once(self) -> None:
        """Whatever is sent afterwards is refused in silence.  BP-101-X"""
        for _ in range(MAX_QUEUED_MESSAGES + 10):
            self.writer.send(frame())
        self.assert_overflowed()

    def test_overflow_closes_also_when_nobody_is_told(self) -> None:
        """Memory comes first.  BP-101-X"""
        writer = Writer(self.owner, as_client=True, clock=Clock(SimulatedClock()))
        writer.open()
        writer.pauseProducing()
        for _ in range(MAX_QUEUED_MESSAGES + 1):
            writer.send(frame())
        self.assertFalse(writer.is_open)
        self.assertEqual(writer.queued_messages, 0)

    def test_whoever_is_told_may_send(self) -> None:
        """The writer is closed before it tells anybody.  BP-101-X"""
        answers: list[Offer] = []
        self.writer.on_overflow(lambda: answers.append(self.writer.send(frame())))
        for _ in range(MAX_QUEUED_MESSAGES + 1):
            self.writer.send(frame())
        self.assertEqual(answers, [Offer.CLOSED])

    def assert_overflowed(self) -> None:
        self.assertEqual(self.overflows, 1)
        self.assertFalse(self.writer.is_open)
        self.assertEqual(self.writer.queued_messages, 0)
        self.assertEqual(self.writer.queued_bytes, 0)
        self.writer.resumeProducing()
        self.assertEqual(self.owner.written, [])
        self.assertFalse(self.writer.send(frame()))
        self.assertEqual(self.overflows, 1)


class CloseTests(WriterCase):
    """The end."""

    def test_close_forgets_what_waits(self) -> None:
        """Messages and pong; neither is written later.  CON-115-X"""
        self.writer.pauseProducing()
        self.writer.send(frame(b"1"))
        self.writer.pong(b"pong")
        self.writer.close()
        self.assertEqual(self.writer.queued_messages, 0)
        self.assertEqual(self.writer.queued_bytes, 0)
        self.writer.resumeProducing()
        self.assertEqual(self.owner.written, [])

    def test_nothing_is_accepted_after_close(self) -> None:
        """Neither messages nor pings nor pongs.  CON-115-X"""
        self.writer.close()
        self.assertFalse(self.writer.send(frame()))
        self.assertFalse(self.writer.ping(b""))
        self.writer.pong(b"")
        self.assertEqual(self.owner.written, [])
        self.assertFalse(self.writer.is_writable)

    def test_close_in_the_middle_of_draining(self) -> None:
        """A write may find out that the connection is gone.  CON-115-X"""
        self.writer.pauseProducing()
        for _ in range(3):
            self.writer.send(frame(bytes(50_000)))
        self.owner.then = self.writer.close
        self.writer.resumeProducing()
        self.assertEqual(len(self.owner.messages), 1)
        self.assertEqual(self.writer.queued_messages, 0)
        self.assertEqual(self.writer.queued_bytes, 0)

    def test_a_lost_transport_closes(self) -> None:
        """It says so with ``stopProducing``.  CON-115-X"""
        self.writer.stopProducing()
        self.assertFalse(self.writer.is_open)

    def test_counters_survive(self) -> None:
        """They are added to the node's totals afterwards.  CON-006.3"""
        self.writer.send(frame(b"1"))
        self.writer.close()
        self.assertEqual(self.writer.messages_sent, 1)
        self.assertEqual(self.writer.bytes_sent, ENVELOPE + 1)


class ModelTests(SynchronousTestCase):
    """Any sequence of events against the simplest possible idea of a writer."""

    @given(
        st.lists(
            st.sampled_from(["send", "send", "ping", "pong", "pause", "resume", "room", "close"]),
            max_size=60,
        )
    )
    def test_writer_agrees_with_its_model(self, events: list[str]) -> None:
        """Order is kept, nothing is written while paused or closed, nothing is lost.  BP-101-X"""
        owner = FakeOwner()
        reactor = SimulatedClock()
        writer = owner.writer = Writer(owner, as_client=True, clock=Clock(reactor))
        writer.open()
        accepted: list[bytes] = []
        is_paused = is_closed = False
        for number, event in enumerate(events):
            data = b"%d" % number
            before = len(owner.written)
            if event == "send":
                if writer.send(frame(data)):
                    accepted.append(data)
                self.assertEqual(accepted[-1:] == [data], not is_closed)
            elif event == "ping":
                self.assertEqual(writer.ping(data), not (is_paused or is_closed))
            elif event == "pong":
                writer.pong(data)
            elif event == "pause":
                writer.pauseProducing()
                is_paused = True
            elif event == "resume":
                owner.room = None
                is_paused = False
                writer.resumeProducing()
            elif event == "room":
                owner.room = 2
            else:
                writer.close()
                is_closed = True
            reactor.advance(0)
            if is_closed or (is_paused and event != "resume"):
                self.assertEqual(len(owner.written), before)
            is_paused = is_paused or (owner.room is not None and owner.room <= 0)
            self.assertEqual(owner.messages, accepted[: len(owner.messages)])
            waiting = accepted[len(owner.messages) :]
            self.assertEqual(writer.queued_messages, 0 if is_closed else len(waiting))
            self.assertEqual(
                writer.queued_bytes,
                0 if is_closed else sum(ENVELOPE + len(data) for data in waiting),
            )
            self.assertEqual(writer.is_writable, not (is_paused or is_closed))


class CloseFrameTests(WebSocketCase):
    """The one thing that is written whatever the transport says."""

    def test_only_the_close_frame_is_written_while_paused(self) -> None:
        """A peer that has stopped reading is told nevertheless; what waited is not.  BP-101-X"""
        self.serve()
        self.protocol.writer.pauseProducing()
        self.protocol.writer.send(frame(b"waits"))
        self.peer.send_frame(b"ping", 9)
        self.network.settle()
        self.assertEqual(self.peer.frames, [])
        self.protocol.close(1001)
        self.protocol.writer.resumeProducing()
        self.network.settle()
        self.assertEqual([f.opcode for f in self.peer.frames], [CLOSE])

    def test_the_autobahn_way_out_clears_the_queue_as_well(self) -> None:
        """A violation, or the peer's close, ends the writer in the same turn.  CON-115-X"""
        for say in (
            lambda: self.peer.send_frame(b"", 3),
            lambda: self.peer.send_close(1000),
            lambda: self.peer.drop(),
        ):
            self.begin()
            self.serve()
            self.protocol.writer.pauseProducing()
            self.protocol.writer.send(frame(b"waits"))
            say()
            self.network.settle()
            self.assertFalse(self.protocol.writer.is_open)
            self.assertEqual(self.protocol.writer.queued_messages, 0)
