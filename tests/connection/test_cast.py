"""What goes to the same sessions within a turn is the same as if each had got it by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.cast import Cast
from dig_gossip.connection.lanes import Lanes, Offer
from dig_gossip.connection.rate_limit import OutboundLimiter
from dig_gossip.connection.rate_table import send_rows
from dig_gossip.connection.writer import MAX_DRAINED_BYTES, RUN_BYTES, Writer
from dig_gossip.testing.clock import SimulatedClock
from dig_gossip.types.peer import PeerId
from dig_gossip.util.clock import Clock
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.connection.test_writer import FakeOwner

PEERS = tuple(PeerId(bytes([number]) * 32) for number in range(4))
#: The same objects each time, as an engine's are.
GROUPS = (PEERS[:3], PEERS[1:], PEERS[:1], PEERS)


def message(data: bytes, tag: int | None = None) -> Message:
    """One of an opcode that is gossiped."""
    return Message(200, tag, data)


class FakeSession:
    """A session's part in sending, its writer, and what it has written."""

    def __init__(self, reactor: SimulatedClock) -> None:
        self.owner = FakeOwner()
        self.writer = Writer(self.owner, as_client=False, clock=Clock(reactor))
        self.owner.writer = self.writer
        self.post: Callable[[Message], bool] = self.writer.post
        self.writer.open()

    def send(self, frame: OutboundFrame, *, is_reply: bool = False) -> Offer:
        return self.writer.send(frame, is_reply=is_reply)

    @property
    def sent(self) -> list[bytes]:
        """The data of what has been written."""
        return self.owner.messages


class OneByOne:
    """What a cast is measured by: each session gets each message, at once."""

    def __init__(
        self, session_of: Callable[[PeerId], FakeSession | None], counters: Counter[str]
    ) -> None:
        self.session_of = session_of
        self.counters = counters

    def send(self, peers: tuple[PeerId, ...], message: Message) -> int:
        """Send to all."""
        accepted = 0
        for peer in peers:
            session = self.session_of(peer)
            offer = Offer.CLOSED if session is None else session.send(OutboundFrame(message))
            accepted += bool(offer)
            self.counters["unreachable"] += offer is Offer.CLOSED
        return accepted


class Side:
    """Four sessions, and what sends to them."""

    def __init__(self, kind: type[Cast] | type[OneByOne]) -> None:
        self.reactor = SimulatedClock()
        self.sessions = {peer: FakeSession(self.reactor) for peer in PEERS}
        self.counters: Counter[str] = Counter()
        self.cast: Cast | OneByOne = kind(self.sessions.get, self.counters)
        self.count = 0

    def data(self, size: int) -> bytes:
        """Of a message like no other."""
        self.count += 1
        return self.count.to_bytes(4, "big") + bytes(size)

    def do(self, what: str, which: int, size: int) -> object:
        """Do something to one session, or send to a group; what there is to see at once."""
        session = self.sessions.get(PEERS[which])
        if what == "cast":
            return self.cast.send(GROUPS[which], message(self.data(size), size % 3 or None))
        if what == "turn":
            self.reactor.advance(0)
        elif session is None:
            return None
        elif what == "send":
            return session.send(OutboundFrame(message(self.data(size))))
        elif what == "post":
            return session.post(message(self.data(size)))
        elif what == "pause":
            session.writer.pauseProducing()
        elif what == "resume":
            session.writer.resumeProducing()
        elif what == "narrow":
            session.owner.room = which + 1  # the transport pauses us after so many writes
        elif what in ("close", "gone"):
            session.writer.close()
            if what == "gone":
                del self.sessions[PEERS[which]]
        writers = [session.writer for session in self.sessions.values()]
        return [
            (one.messages_sent, one.bytes_sent, one.queued_messages, one.queued_bytes)
            for one in writers
        ]


Step: TypeAlias = tuple[str, int, int]

#: Casts most of all; some that fill a run, some that do not fit into one.
steps = st.tuples(
    st.sampled_from(
        ["cast"] * 12
        + ["turn", "turn", "send", "post", "pause", "resume", "narrow", "close", "gone"]
    ),
    st.sampled_from([0, 0, 0, 1, 2, 3]),
    st.sampled_from([0, 1, 2, 100, 9000, 20_000, 70_000]),
)


class PropertyTests(SynchronousTestCase):
    """Any mixture of events."""

    @settings(max_examples=300)
    @given(st.lists(steps, max_size=60))
    @example(
        [  # a run that has grown by a message of its own is full sooner
            ("cast", 0, 0),
            ("cast", 0, 0),
            ("cast", 2, 20_000),
            ("narrow", 0, 0),
            ("cast", 0, 20_000),
            ("cast", 0, 0),
            ("pause", 0, 0),
        ]
    )
    def test_every_session_gets_what_it_would_have_got(self, script: list[Step]) -> None:
        """The same messages in the same order, and the same answers meanwhile.  PRI-003"""
        one, other = Side(Cast), Side(OneByOne)
        everybody = dict(one.sessions), dict(other.sessions)
        for step in script:
            self.assertEqual(one.do(*step), other.do(*step), step)
        for side, sessions in zip((one, other), everybody, strict=True):
            side.reactor.advance(0)
            for session in sessions.values():
                session.owner.room = None
                session.writer.resumeProducing()
            side.reactor.advance(0)
        for peer in PEERS:
            self.assertEqual(everybody[0][peer].sent, everybody[1][peer].sent)
        self.assertEqual(one.counters["unreachable"], other.counters["unreachable"])


class CastTests(SynchronousTestCase):
    """What leaves when."""

    def setUp(self) -> None:
        self.side = Side(Cast)
        self.first = self.side.sessions[PEERS[0]]

    def cast(self, data: bytes, group: int = 0) -> int:
        """Send to a group."""
        return self.side.cast.send(GROUPS[group], message(data))

    def limit(self, writer: Writer) -> None:
        """Give a session rate budgets."""
        budget = OutboundLimiter(
            send_rows(both_v2=True, is_rust=False), now=lambda: 0.0, factor=1.0
        )
        writer.configure(Lanes(budget=budget, now=lambda: 0.0), budget)

    @property
    def pending(self) -> tuple[int, int]:
        """What is collected: messages and bytes."""
        assert isinstance(self.side.cast, Cast)
        return self.side.cast.pending

    def test_two_messages_go_at_once_and_the_others_together(self) -> None:
        """The first of a turn is written at once; the end of the turn writes all.  design §5"""
        for number in range(5):
            self.assertEqual(self.cast(b"%d" % number), 3)
        self.assertEqual(self.first.sent, [b"0"])
        self.assertEqual(self.first.writer.room, RUN_BYTES - 9)  # «1», in a frame
        self.assertEqual((self.first.writer.messages_sent, self.first.writer.bytes_sent), (5, 35))
        self.side.reactor.advance(0)
        self.assertEqual(self.first.sent, [b"0", b"1", b"2", b"3", b"4"])
        self.assertEqual(
            [len(session.owner.raw) for session in self.side.sessions.values()], [2, 2, 2, 0]
        )

    def test_nothing_is_collected_when_the_turn_is_over(self) -> None:
        """The first message of the next one leaves at once again.  design §5"""
        for number in range(3):
            self.cast(b"%d" % number)
        self.side.reactor.advance(0)
        self.cast(b"3")
        self.assertEqual(self.first.sent, [b"0", b"1", b"2", b"3"])
        self.cast(b"4")
        self.assertEqual(self.pending, (0, 0))

    def test_who_has_left_counts_no_more(self) -> None:
        """What is collected for others is not sent to a member of the turn before.  design §5"""
        for number in range(3):
            self.cast(b"%d" % number)
        self.side.reactor.advance(0)
        for number in range(3):
            self.cast(b"%d" % number, 1)
        self.assertEqual(self.pending, (1, 7))
        last = self.side.sessions[PEERS[3]]
        self.assertEqual((self.first.writer.messages_sent, last.writer.messages_sent), (3, 3))

    def test_collecting_goes_on_behind_a_full_run(self) -> None:
        """For as much as the next one has room for.  design §5"""
        for _ in range(8):
            self.cast(bytes(10_000))
        self.assertEqual(len(self.first.sent), 5)
        self.assertEqual(self.pending, (3, 3 * 10_006))

    def test_a_full_run_leaves(self) -> None:
        """As soon as it has 32 KiB, whoever is being served.  design §5"""
        for _ in range(5):
            self.cast(bytes(10_000))
        self.assertEqual(len(self.first.sent), 5)  # one at once, four together
        self.assertEqual(len(self.first.owner.raw), 2)

    def test_what_a_session_gets_by_itself_comes_behind(self) -> None:
        """However it is sent, and for all that were collected for.  PRI-003"""
        sends: list[Callable[[FakeSession], object]] = [
            lambda session: session.post(message(b"x")),
            lambda session: session.send(OutboundFrame(message(b"x"))),
            lambda session: session.send(OutboundFrame(message(b"x"), lambda: None)),
            lambda session: session.send(OutboundFrame(message(b"x" + bytes(70_000)))),
        ]
        for send in sends:
            self.setUp()
            for number in range(4):
                self.cast(b"%d" % number)
            send(self.first)
            self.cast(b"4")
            self.side.reactor.advance(0)
            self.assertEqual(
                [one[:1] for one in self.first.sent], [b"0", b"1", b"2", b"3", b"x", b"4"]
            )
            other = self.side.sessions[PEERS[1]]
            self.assertEqual(other.sent, [b"0", b"1", b"2", b"3", b"4"])

    def test_what_is_large_comes_behind(self) -> None:
        """It is not collected, and overtakes nothing.  PRI-003"""
        for data in (b"0", b"1", b"2", b"3" + bytes(70_000), b"4"):
            self.cast(data)
        self.side.reactor.advance(0)
        self.assertEqual([one[:1] for one in self.first.sent], [b"0", b"1", b"2", b"3", b"4"])

    def test_nothing_is_collected_while_a_large_message_leaves_in_chunks(self) -> None:
        """More of them than a turn may write: the next message waits behind them.  PRI-003"""
        writer = self.first.writer
        writer.configure(Lanes(cuts=True, now=lambda: 0.0))
        for number in range(3):
            self.cast(b"%d" % number)
        bulk = int(ChiaMessageType.RESPOND_BLOCKS)
        self.first.send(OutboundFrame(Message(bulk, None, bytes(3 * MAX_DRAINED_BYTES))))
        self.assertTrue(writer.queued_messages)
        self.side.cast.send(GROUPS[0], Message(bulk, None, b"3"))
        while writer.queued_messages:
            self.side.reactor.advance(0)
        self.assertEqual(self.first.sent[-1], b"3")

    def test_a_rate_budget_is_asked_for_every_message(self) -> None:
        """Nothing is collected for a session that has one.  CON-005"""
        writer = self.first.writer
        self.limit(writer)
        for number in range(150):
            self.cast(b"%d" % number)
        self.assertTrue(writer.queued_messages)
        self.side.reactor.advance(0)
        self.assertEqual(len(self.first.sent) + writer.queued_messages, 150)

    def test_a_session_whose_rules_look_at_every_message_takes_no_part(self) -> None:
        """Its post is not its writer's.  CON-005"""
        self.first.post = lambda message: False
        for number in range(4):
            self.cast(b"%d" % number)
        for peer in PEERS[:3]:  # all but the first message are in the runs, not collected
            self.assertEqual(self.side.sessions[peer].writer.room, RUN_BYTES - 3 * 9)

    def test_nothing_is_collected_for_a_paused_session(self) -> None:
        """It waits in its lanes; what was collected before goes with the run.  BP-101-X"""
        for number in range(3):
            self.cast(b"%d" % number)
        self.first.writer.pauseProducing()
        self.cast(b"3")
        self.side.reactor.advance(0)
        self.assertEqual((self.first.sent, self.first.writer.queued_messages), ([b"0"], 1))
        self.assertEqual(self.side.sessions[PEERS[1]].sent, [b"0", b"1", b"2", b"3"])
        self.first.writer.resumeProducing()
        self.assertEqual(self.first.sent, [b"0", b"1", b"2", b"3"])

    def test_a_session_that_moves_takes_along_what_was_collected_before(self) -> None:
        """Later messages go where its post says.  RLY-007.2"""
        heir = FakeSession(self.side.reactor)
        for number in range(3):
            self.cast(b"%d" % number)
        waiting = self.first.writer.surrender()
        self.first.post = heir.writer.post
        self.cast(b"3")
        self.side.reactor.advance(0)
        self.assertEqual((waiting, self.first.sent), ([], [b"0", b"1", b"2"]))
        self.assertEqual(heir.sent, [b"3"])

    def test_closing_a_paused_session_writes_what_was_sent(self) -> None:
        """Before it was paused, and nothing that waited.  CON-006"""
        for number in range(4):
            self.cast(b"%d" % number)
        self.first.writer.pauseProducing()
        self.cast(b"waits")
        self.first.writer.close()
        self.assertEqual(self.first.sent, [b"0", b"1", b"2", b"3"])
        self.assertEqual(self.first.writer.messages_sent, 4)

    def test_a_budget_ends_it(self) -> None:
        """Nothing that comes later goes without.  CON-005"""
        for number in range(3):
            self.cast(b"%d" % number)
        writer = self.first.writer
        self.limit(writer)
        for number in range(150):
            self.cast(b"%d" % number)
        self.assertTrue(writer.queued_messages)

    def test_closing_writes_what_was_sent(self) -> None:
        """As for a message in a run.  CON-006"""
        for number in range(4):
            self.cast(b"%d" % number)
        self.first.writer.close()
        self.assertEqual(self.first.sent, [b"0", b"1", b"2", b"3"])

    def test_nothing_is_written_when_the_transport_is_gone(self) -> None:
        """What was collected for it is forgotten; the others get it.  BP-101-X"""
        for number in range(4):
            self.cast(b"%d" % number)
        self.first.writer.stopProducing()
        self.side.reactor.advance(0)
        self.assertEqual(self.first.sent, [b"0"])
        self.assertEqual(self.side.sessions[PEERS[1]].sent, [b"0", b"1", b"2", b"3"])

    def test_who_has_no_session_is_counted(self) -> None:
        """Each message that was for it.  design §6"""
        del self.side.sessions[PEERS[0]]
        self.assertEqual([self.cast(b"0"), self.cast(b"1"), self.cast(b"2")], [2, 2, 2])
        self.assertEqual(self.side.counters["unreachable"], 3)
