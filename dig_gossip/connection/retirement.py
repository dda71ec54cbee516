"""A session under a former id of ours, which finishes its work while another takes its place.

For the other end the two are with different peers. So each answers what was asked on it, and what
waits for the old connection leaves there; it closes when nothing is left to do.

Source: behaviour PRV-007.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from dig_gossip.connection.lanes import Offer
from dig_gossip.util.clock import Clock
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message

if TYPE_CHECKING:
    from dig_gossip.connection.session import Session

#: How long it lives at least, and at most.
LEAST_SECS: Final = 5.0
MOST_SECS: Final = 30.0


class Retirement:
    """What links a retired session with its heir.

    Bounds: as many ids as there are, 65 536.

    :ivar asked: ids of the peer's requests on the heir that are not answered yet.
    """

    def __init__(
        self, old: Session, heir: Session, clock: Clock, close: Callable[[], object]
    ) -> None:
        self.old = old
        self.asked: set[int] = set()
        self._heir = heir
        self._clock = clock
        self._close = close
        self._send = heir.send
        # The application answers a peer, not a session; the hot path has no if for it.
        heir.send = self._answer_where_asked  # type: ignore[method-assign]
        heir.post = _declines
        heir.predecessor = self
        self._timer = clock.call_later(LEAST_SECS, self._check, LEAST_SECS)

    def stop(self) -> None:
        """The old session has ended."""
        self._timer.cancel()
        self._heir.predecessor = None
        if self._heir.send == self._answer_where_asked:  # unless it has moved on itself
            del self._heir.send
            self._heir.allow_posts()

    def _check(self, elapsed: float) -> None:
        old = self.old
        is_done = not (old.has_requests or old.queued_messages)
        if is_done or elapsed >= MOST_SECS or not old.is_connected:
            self._close()
        else:
            self._timer = self._clock.call_later(1.0, self._check, elapsed + 1.0)

    def _answer_where_asked(self, frame: OutboundFrame, *, is_reply: bool = False) -> Offer:
        request_id = frame.message.id
        if is_reply and request_id is not None:
            if request_id not in self.asked:
                return self.old.send(frame, is_reply=True)
            self.asked.discard(request_id)
        return self._send(frame, is_reply=is_reply)


def _declines(message: Message) -> bool:
    """For the short form of ``send``: nothing takes it."""
    return False
