"""Whom a session tells what happens to it, and why it ends."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from dig_gossip.connection.rate_limit import Verdict
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message

if TYPE_CHECKING:
    from dig_gossip.connection.session import Session


class RemovalReason(enum.Enum):
    """Why a session ended; the value is the name in logs and counters."""

    DISCONNECTED = "disconnected"
    DEAD = "dead"
    BANNED = "banned"
    SUPERSEDED = "superseded"
    MOVED = "moved"  # to a better way to the same peer
    REAPED = "reaped"
    SHUTDOWN = "shutdown"
    ERROR = "error"
    STALLED = "stalled"  # it stopped reading
    EVICTED = "evicted"  # it made room for another peer


#: A close frame would wait for ever.
NOBODY_LISTENS = frozenset({RemovalReason.DEAD, RemovalReason.REAPED, RemovalReason.STALLED})
#: The others are 1000.
CLOSE_CODES = {
    RemovalReason.EVICTED: 1013,
    RemovalReason.BANNED: 1008,
    RemovalReason.SHUTDOWN: 1001,
}


class SessionOwner(Protocol):
    """Whom a session tells what happens to it."""

    def messages_received(self, session: Session, messages: list[Message]) -> None:
        """Messages that answer none of our requests, in the order in which they came.

        When one of them ends the session, those after it are not to be looked at.
        """

    def read_began(self) -> None:
        """More messages may follow at once: what they lead to may wait for ``read_done``."""

    def read_done(self) -> None:
        """All messages that came together have been reported."""

    def session_ended(self, session: Session, reason: RemovalReason) -> None:
        """Remove this session: its connection is closing, dead or gone."""

    def misbehaved(self, session: Session, reason: PenaltyReason) -> None:
        """Charge the peer."""

    def rtt_measured(self, session: Session, seconds: float) -> None:
        """A round trip was measured."""

    def dig_tolerated(self, session: Session) -> None:
        """The peer has shown that it knows DIG opcodes."""

    def size_refused(self, opcode: int) -> None:
        """A message was so large, or in so many fragments, that it was not even received."""

    def limit_exceeded(self, session: Session, opcode: int, verdict: Verdict) -> None:
        """A message was dropped because the peer sends too much, or too large ones."""
