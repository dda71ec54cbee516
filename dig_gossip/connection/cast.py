"""Messages to many sessions; what the same ones get within a turn is looked at once for all.

Shells row of the stage table. A message to one session after the other costs a look at each
session's rules, and touches all of its objects. Who sends many messages in one turn, to the same
sessions, sends them here together::

    first, second message ──▶ each session's post(), and a look whether nothing is in the way
    the others            ──▶ the cast ──▶ every session's run, all at once: when it is full, when
                                           the turn is over, or before anything else goes to one
                                           of these sessions

So every session gets the same messages in the same order as if each had been posted to it, and a
run is as long at most. Only sessions without rate budgets take part, and only while nothing waits
for them: when one of them is paused, all runs get what is collected, and that was it for this turn.

Source: design §5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from dig_gossip.connection.lanes import Offer
from dig_gossip.connection.writer import SMALL_BYTES, Writer
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message

#: Header and masking key of a small frame, at most.
FRAME_BYTES: Final = 8


class Recipient(Protocol):
    """What is needed of a session."""

    post: Callable[[Message], bool]

    def send(self, frame: OutboundFrame, *, is_reply: bool = False) -> Offer: ...


class Cast:
    """Sends messages to many sessions.

    Bounds: what is collected is no more than the emptiest run has room for, and gone when the turn
    is over. Cost: a message O(sessions), of which all but two a turn cost each session no more
    than a place in its run.

    :param session_of: looks a session up.
    :param counters: ``unreachable`` counts what was to go to nobody.
    """

    __slots__ = (
        "_counters",
        "_last",
        "_members",
        "_messages",
        "_octets",
        "_peers",
        "_room",
        "_session_of",
    )

    def __init__(
        self, session_of: Callable[[PeerId], Recipient | None], counters: Counter[str]
    ) -> None:
        self._session_of = session_of
        self._counters = counters
        self._last: tuple[PeerId, ...] | None = None  # who got the last message
        self._peers: tuple[PeerId, ...] | None = None  # who gets what is collected
        self._members: list[Writer] = []
        self._messages: list[Message] = []
        self._octets = 0  # of them, serialized
        self._room = 0

    @property
    def pending(self) -> tuple[int, int]:
        """Messages that every member is still to get, and their serialized bytes."""
        return len(self._messages), self._octets

    def send(self, peers: tuple[PeerId, ...], message: Message) -> int:
        """Send a message, or have it sent when the turn is over at the latest.

        :param peers: for what goes to the same sessions the same object.
        :returns: how many sessions took it.
        """
        if peers is self._peers and len(message.data) < SMALL_BYTES:
            count = len(self._members)  # before writing, which may end all this
            size = len(message.data) + (6 if message.id is None else 8)
            self._messages.append(message)
            self._octets += size
            self._room -= size + FRAME_BYTES
            if self._room <= 0:
                self.spill()
                self._look_for_room()
            return count
        session_of = self._session_of
        frame: OutboundFrame | None = None
        accepted = 0
        is_free = True
        for peer in peers:
            session = session_of(peer)
            if session is not None and session.post(message):
                accepted += 1  # nearly always: nothing was in its way
                continue
            is_free = False
            if frame is None:
                frame = OutboundFrame(message)
            offer = Offer.CLOSED if session is None else session.send(frame)
            if offer:
                accepted += 1
            elif offer is Offer.CLOSED:  # the session counts everything else
                self._counters["unreachable"] += 1
        if is_free and accepted:
            if peers is self._last:
                self._begin(peers)
            self._last = peers
        return accepted

    def spill(self) -> None:
        """Something else is about to go to a member: give away what is collected."""
        self._room = 0  # how much there will be behind it, the next message finds out
        if not self._messages:
            return
        # All runs first, because writing may call us again.
        self._hand_out()
        for writer in self._members:
            writer.flush_full()

    def interrupt(self) -> None:
        """From now on messages wait for a member: give away what is collected, and collect no more.

        Nothing is written: a transport that pauses somebody is in the midst of it. There is room in
        every run.
        """
        self._hand_out()
        self._disband()

    def end(self) -> None:
        """The turn is over: give away what is collected, and collect nothing more."""
        self.spill()
        self._disband()

    def _hand_out(self) -> None:
        """Put what is collected into all runs."""
        messages, octets = self._messages, self._octets
        self._messages, self._octets = [], 0
        for writer in self._members:
            writer.post_all(messages, octets)

    def _disband(self) -> None:
        self._peers = self._last = None
        for writer in self._members:
            writer.leave(self)
        self._members = []

    def _begin(self, peers: tuple[PeerId, ...]) -> None:
        """Collect what comes next for these peers, if nothing is in the way of any of them."""
        members: list[Writer] = []
        for peer in peers:
            session = self._session_of(peer)
            # A post that is a writer's own has no rule of the session in its way.
            writer = None if session is None else getattr(session.post, "__self__", None)
            if not isinstance(writer, Writer) or not writer.may_join:
                return
            members.append(writer)
        if self._peers is not None:
            self.end()
        self._peers, self._members = peers, members
        for writer in members:
            writer.join(self)
        self._look_for_room()

    def _look_for_room(self) -> None:
        self._room = min((writer.room for writer in self._members), default=0)
