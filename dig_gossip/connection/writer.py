"""The one place from which the messages of a connection leave.

What waits, waits here, above the socket, where it can still be overtaken, counted, bounded and
thrown away::

    send() ──▶ run ──▶ transport            while nothing waits and the transport takes data
    send() ──▶ lanes ──▶ run ──▶ transport  while it does not (``pauseProducing`` …
                                            ``resumeProducing``), or while a rate budget is spent
                                            (until a timer says it is not)

The first message of a reactor turn leaves at once, for the sake of latency; what else is sent in
that turn is a run of frames that leaves together when the turn is over, or as soon as it has
``RUN_BYTES``, for the sake of speed: one write, one encryption, one system call for hundreds of
messages. What several connections are to get alike may be collected until then, see
:mod:`~dig_gossip.connection.cast`. A message in the run counts as sent: nothing overtakes it. Runs
are twice as long while the transport takes everything at once, because then nothing of them waits
anywhere.

Invariants: nothing is written while paused, except one close frame and what the run holds before
it; a message never overtakes another of its lane; the lanes hold at most ``MAX_QUEUED_MESSAGES``
messages and ``MAX_QUEUED_BYTES`` bytes: beyond that a peer that has stopped reading is given up
(``overflowed`` is called, once), while for one that our own rate limits hold up new messages are
refused. The run is empty while anything waits in the lanes, so a critical message that waits
is behind one run and what the transport did not get rid of, 64 KiB or one frame each. A large
message for a peer that agrees to it leaves in chunks of 32 KiB, and a chunk is a message to these
rules. A peer that pings and does not read gets at most one pong, the answer to its latest ping
(RFC 6455 §5.5.3 allows that). One connection writes at most ``MAX_DRAINED_BYTES`` in a turn of
what waited, then others have their turn.

Source: behaviour §20, §21; design D9, §5; style §5.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IPushProducer, ITransport
from zope.interface import implementer

from dig_gossip.connection.lanes import Lanes, Offer
from dig_gossip.connection.rate_limit import OutboundLimiter
from dig_gossip.connection.send_budget import SendBudget
from dig_gossip.constants import NORMAL_DELAY_FLUSH_INTERVAL_MS
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.turn import Turn
from dig_gossip.wire.frames import LONG_FRAME_BYTES, OutboundFrame, new_run
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType

RUN_BYTES: Final = 32_768
_DRAINED_RUN_BYTES: Final = 40_000  # of what waited: two chunks, or more than this
FLOWING_RUN_BYTES: Final = 66_000  # while the transport takes everything: three chunks
_FLOWING_BYTES: Final = 524_288  # of which it has taken so much without pausing us
MAX_DRAINED_BYTES: Final = 1_048_576

#: Data of fewer bytes certainly makes a message that fits into a run, and is never cut.
SMALL_BYTES: Final = LONG_FRAME_BYTES - 8

_CHUNK: Final = int(DigMessageType.MESSAGE_CHUNK)
_NORMAL_DELAY_SECS = NORMAL_DELAY_FLUSH_INTERVAL_MS / 1000
_SOONEST_SECS = 0.001


class WriterOwner(Protocol):
    """What a writer needs from its WebSocket protocol."""

    transport: ITransport

    def send_ping(self, payload: bytes) -> None: ...
    def send_pong(self, payload: bytes) -> None: ...


class Collection(Protocol):
    """What this writer is to send together with others, see :mod:`~dig_gossip.connection.cast`."""

    @property
    def pending(self) -> tuple[int, int]: ...
    def spill(self) -> None: ...
    def interrupt(self) -> None: ...
    def end(self) -> None: ...


@implementer(IPushProducer)
class Writer:
    """Queue of one connection; a streaming producer for its transport.

    :param as_client: whether our frames must be masked.
    :param memory: what all writers of the node may hold together.
    Cost: O(1) a message; a message that has not to wait costs no object but the bytes it becomes.
    """

    __slots__ = (
        "_as_client",
        "_budget",
        "_bytes_sent",
        "_cast",
        "_clock",
        "_flowed",
        "_in_turn",
        "_is_clear",
        "_memory",
        "_messages_sent",
        "_open",
        "_overflowed",
        "_owner",
        "_paused",
        "_pong",
        "_rests",
        "_retry",
        "_run",
        "_run_bytes",
        "_turn",
        "lanes",
    )

    def __init__(
        self,
        owner: WriterOwner,
        *,
        as_client: bool,
        clock: Clock,
        memory: SendBudget | None = None,
    ) -> None:
        self.lanes = Lanes(now=clock.monotonic)
        self.lanes.memory = self._memory = memory
        self._messages_sent = 0
        self._bytes_sent = 0
        self._owner = owner
        self._as_client = as_client
        self._clock = clock
        self._budget: OutboundLimiter | None = None
        self._pong: bytes | None = None
        self._paused = False
        self._open = False
        self._retry: Timer | None = None
        self._overflowed: Callable[[], None] | None = None
        self._run = new_run(as_client)
        self._cast: Collection | None = None
        self._turn = Turn.of(clock.reactor)
        self._in_turn = False
        self._rests = False  # it has written its share of this turn
        self._flowed = 0  # bytes written since the transport has paused us
        self._run_bytes = RUN_BYTES
        # Open, not paused, and nothing waits: what `post` has to know, in one look.
        self._is_clear = False

    @property
    def is_writable(self) -> bool:
        """Whether the transport takes data at this moment."""
        return self._open and not self._paused

    @property
    def is_open(self) -> bool:
        """Whether messages are accepted."""
        return self._open

    @property
    def messages_sent(self) -> int:
        """How many messages were sent."""
        return self._messages_sent + (self._cast.pending[0] if self._cast is not None else 0)

    @property
    def bytes_sent(self) -> int:
        """How many serialized bytes were sent."""
        return self._bytes_sent + (self._cast.pending[1] if self._cast is not None else 0)

    @property
    def queued_messages(self) -> int:
        """How many messages wait."""
        return len(self.lanes)

    @property
    def queued_bytes(self) -> int:
        """How many serialized bytes wait."""
        return self.lanes.bytes

    def open(self) -> None:
        """Begin: from now on the transport says when it can take more."""
        self._open = True
        if self._memory is not None:
            self._memory.join(self)
        self._look()
        self._owner.transport.registerProducer(self, True)  # type: ignore[attr-defined]

    def configure(self, lanes: Lanes, budget: OutboundLimiter | None = None) -> None:
        """Apply what the peer's handshake has settled; before anything waits.

        :param lanes: the queue to use from now on, with its levels and the same ``budget``.
        :param budget: outbound rate limits.
        """
        if self._cast is not None:
            self._cast.end()
        self.lanes = lanes
        lanes.memory = self._memory
        self._budget = budget
        self._look()

    def close(self) -> None:
        """Accept nothing more and forget what waits. The transport forgets us on its own.

        What was sent already, in the run of this turn, still goes.
        """
        if self._cast is not None:
            self._cast.end()
        if self._open:
            self.flush()
        self._open = self._is_clear = False
        self.lanes.clear()
        if self._memory is not None:
            self._memory.leave(self)
        self._run.clear()
        self._turn.discard(self)
        self._pong = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def on_overflow(self, overflowed: Callable[[], None]) -> None:
        """Say whom to call, once, when the peer has stopped reading."""
        self._overflowed = overflowed

    def send(self, frame: OutboundFrame, *, is_reply: bool = False) -> Offer:
        """Send a message now or as soon as the transport and the limits allow.

        :param is_reply: it answers the peer, so that backpressure never drops it.
        :returns: what became of it; true if it was sent or will be.
        """
        if self._cast is not None:
            self._cast.spill()
        if frame.written is None and self._is_clear and self.post(frame.message):
            return Offer.SENT
        if not self._open:
            return Offer.CLOSED
        opcode, size = frame.message.type, len(frame.message.data)
        budget = self._budget
        if budget is not None and not budget.can_ever(opcode, size):
            return Offer.TOO_LARGE
        lanes = self.lanes
        if not self._is_clear or lanes.must_be_cut(frame) or not lanes.may_go(frame):
            return self._enqueue(frame, is_reply)
        self._write(frame)
        self.flush()
        return Offer.SENT

    def post(self, message: Message) -> bool:
        """Send a small message now, or queue it, if nothing but the transport is in its way.

        What :meth:`send` does for nearly every message; without an object for it, if it has not to
        wait.

        :returns: whether it was sent or will be; if not, :meth:`send` says what becomes of it.
        """
        if self._cast is not None:
            self._cast.spill()
        size = len(message.data)
        if not self._is_clear or size >= SMALL_BYTES:
            return (
                self._paused
                and self._open
                and size < SMALL_BYTES
                and message.id is None
                and (self._budget is None or self._budget.can_ever(message.type, size))
                and self.lanes.take_in(message)
            )
        budget = self._budget
        if budget is not None and not budget.spend(message.type, size):
            return False
        self._messages_sent += 1
        self._bytes_sent += size + (6 if message.id is None else 8)
        run = self._run
        run.add(message)
        if not self._in_turn:
            self._in_turn = True
            self._turn.add(self)
            self.flush()
        elif run.size >= self._run_bytes:
            self.flush()
        return True

    # -- what it sends together with others

    @property
    def may_join(self) -> bool:
        """Whether small messages may be collected for it until the turn is over."""
        return self._is_clear and self._in_turn and self._budget is None

    @property
    def room(self) -> int:
        """Bytes of frames until the run should leave."""
        return self._run_bytes - self._run.size

    def join(self, cast: Collection) -> None:
        """What ``cast`` collects goes before everything that is sent from now on."""
        if self._cast is not None:
            self._cast.end()
        self._cast = cast

    def leave(self, cast: Collection) -> None:
        """Undo :meth:`join`."""
        if self._cast is cast:
            self._cast = None

    def post_all(self, messages: Sequence[Message], octets: int) -> None:
        """Put small messages into the run, in whose way nothing is: :attr:`may_join`.

        The run may then be full: see :meth:`flush_full`.

        :param octets: their serialized bytes.
        """
        self._messages_sent += len(messages)
        self._bytes_sent += octets
        add = self._run.add
        for message in messages:
            add(message)

    def flush_full(self) -> None:
        """Write the run, if it should leave."""
        if self._run.size >= self._run_bytes:
            self.flush()

    def surrender(self) -> list[OutboundFrame]:
        """Give up what waits, for another writer."""
        if self._cast is not None:
            self._cast.end()
        return self.lanes.surrender()

    # -- the end

    def give_up(self) -> None:
        """Forget what waits, and say so, once: the peer reads too little of it."""
        self.close()
        overflowed, self._overflowed = self._overflowed, None
        if overflowed is not None:
            overflowed()

    def ping(self, payload: bytes) -> bool:
        """Send a ping, unless the transport is busy: a probe must not wait in a queue."""
        if not self.is_writable:
            return False
        self._owner.send_ping(payload)
        return True

    def pong(self, payload: bytes) -> None:
        """Answer a ping now, or, when the transport is busy, only the latest one later."""
        if self.is_writable:
            self._owner.send_pong(payload)
        elif self._open:
            self._pong = payload

    def flush(self) -> None:
        """Hand what is sent and not written yet to the transport."""
        if self._cast is not None:
            self._cast.spill()
        if self._run.size:
            self._flowed += self._run.size
            if self._flowed >= _FLOWING_BYTES:
                self._run_bytes = FLOWING_RUN_BYTES
            self._write_out(self._run.take())

    def turn_over(self) -> None:
        """For :class:`~dig_gossip.util.turn.Turn`."""
        self._in_turn = self._rests = False
        if self._cast is not None:
            self._cast.end()
        if not self._paused:
            self._drain()

    def pauseProducing(self) -> None:
        if self._cast is not None:
            self._cast.interrupt()
        self._paused = True
        self._flowed = 0
        self._run_bytes = RUN_BYTES
        self._is_clear = False

    def resumeProducing(self) -> None:
        self._paused = False
        self.lanes.passed_on()
        self._drain()

    def stopProducing(self) -> None:
        if self._cast is not None:
            self._cast.end()
        self._run.clear()  # there is nowhere to go
        self.close()

    # -- inside

    def _look(self) -> None:
        self._is_clear = self._open and not self._paused and not len(self.lanes)
        if not self._is_clear and self._cast is not None:
            self._cast.interrupt()

    def _write(self, frame: OutboundFrame) -> None:
        self._messages_sent += 1
        self._bytes_sent += frame.size
        if frame.written is not None:
            frame.written()
        if frame.size < LONG_FRAME_BYTES:
            self._run.add(frame.message)
        else:
            self.flush()
            self._write_out([frame.encoded(self._as_client)])

    def _write_out(self, pieces: list[bytes | memoryview]) -> None:
        transport: Any = self._owner.transport  # Any: ours has a method more
        write_now = getattr(transport, "write_now", None)
        if write_now is not None:
            write_now(pieces)
        else:
            transport.write(b"".join(pieces))

    def _enqueue(self, frame: OutboundFrame, is_reply: bool) -> Offer:
        offer = self.lanes.offer(frame, is_reply=is_reply)
        if offer is Offer.OVERFLOW and not self._paused:
            return Offer.OVER_BUDGET  # the peer reads; it is our own limits that hold it up
        if offer is Offer.OVERFLOW:
            self.give_up()
            return offer
        if offer and self._memory is not None and not self._memory.is_within:
            self._memory.make_room()
            if not self._open:
                return Offer.OVERFLOW  # it was the largest itself
        if not self._paused:
            if not self._rests:
                self._drain()  # it waits for its budget, or is to be cut
        elif offer is Offer.DELAYED:
            self._wake_in(_NORMAL_DELAY_SECS)
        return offer

    def _drain(self) -> None:
        """Write what the transport takes of what waits."""
        if not self.is_writable:
            return
        self.flush()  # sent before the transport paused
        if self._pong is not None and not self._paused:
            pong, self._pong = self._pong, None
            self._owner.send_pong(pong)
        run, left, is_cutting = self._run, MAX_DRAINED_BYTES, False
        while self._open and not self._paused and not self._rests:
            count = octets = 0
            room = max(self._run_bytes, _DRAINED_RUN_BYTES)
            if is_cutting:
                count, octets = self.lanes.take_chunks(run, room)
            if not count:
                count, octets = self.lanes.take_small(run, room - run.size)
            self._messages_sent += count
            self._bytes_sent += octets
            left -= octets
            if not count:
                frame = self.lanes.take()
                if frame is None:
                    break
                self._write(frame)
                left -= frame.size
                is_cutting = frame.message.type == _CHUNK
            if run.size >= room:
                self.flush()
            if left <= 0 and len(self.lanes):
                self._rests = True
                self._turn.add(self)
        self.flush()
        if self.is_writable:
            self.lanes.passed_on()
        wait = self.lanes.blocked_for
        if self._open and not self._paused and wait is not None:
            self._wake_in(max(wait, _SOONEST_SECS))
        self._look()

    def _wake_in(self, seconds: float) -> None:
        if self._retry is None or not self._retry.active:
            self._retry = self._clock.call_later(seconds, self._wake)

    def _wake(self) -> None:
        self.lanes.release()
        self._drain()
        if self.lanes.delayed:
            self._wake_in(_NORMAL_DELAY_SECS)
