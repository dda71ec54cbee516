"""What an engine wants done: plain values, performed by the service's router and nobody else.

Engines return effects in the order in which they must happen. Named tuples because one is made
for every message on the hot path, and a named tuple is the cheapest immutable value there is.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message

#: Names one timer of one engine: what it is for, and the hash or peer id it belongs to.
TimerKey: TypeAlias = tuple[str, bytes]


class Send(NamedTuple):
    """Queue one message for each of ``peers``; it is encoded once for all of them.

    ``verbatim``: it was pulled by its hash, so that no other form of it will do.
    """

    peers: tuple[PeerId, ...]
    message: Message
    verbatim: bool = False


class Reply(NamedTuple):
    """Answer a peer's request; the message carries the request's correlation id.

    Backpressure never drops it.
    """

    peer: PeerId
    message: Message


class Request(NamedTuple):
    """Send a correlated request, then call ``answered(peer, key, answer)``.

    The message has no id yet. ``answer`` is None after ``timeout`` seconds, and at once when the
    peer is gone or nothing can be sent to it. Keys share their names with timers.
    """

    peer: PeerId
    message: Message
    key: TimerKey
    timeout: float


class Arrived(NamedTuple):
    """Treat a message as one that the peer sent in full."""

    peer: PeerId
    message: Message


class Spread(NamedTuple):
    """Broadcast a message as if the application had asked for it."""

    message: Message


class SetTimer(NamedTuple):
    """Call ``timer_fired(key)`` after ``delay`` seconds; the same key replaces."""

    key: TimerKey
    delay: float


class ClearTimer(NamedTuple):
    """Forget a timer; unknown keys are fine."""

    key: TimerKey


class Deliver(NamedTuple):
    """Hand a message to the application's subscriptions."""

    peer: PeerId
    message: Message


class Validate(NamedTuple):
    """Ask the registered validator, then call ``validated(message_hash, verdict)``."""

    peer: PeerId
    message: Message
    message_hash: bytes


class Penalize(NamedTuple):
    """Charge a peer for misbehavior."""

    peer: PeerId
    reason: PenaltyReason


class Ping(NamedTuple):
    """Measure a peer's round trip now; ``rtt_updated`` tells, if the peer answers."""

    peer: PeerId


class HoldReading(NamedTuple):
    """Read nothing more from a peer: what it sent already waits for the validator."""

    peer: PeerId


class ReleaseReading(NamedTuple):
    """Undo :class:`HoldReading`; harmless without one."""

    peer: PeerId


Effect: TypeAlias = (
    Send
    | Reply
    | Request
    | Arrived
    | Spread
    | SetTimer
    | ClearTimer
    | Deliver
    | Validate
    | Penalize
    | Ping
    | HoldReading
    | ReleaseReading
)
