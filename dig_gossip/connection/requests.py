"""Correlation ids of the requests that one session has under way.

Pure: the session keeps the timers and says what happened. The peer may number its own requests as
it likes (Chia and Rust count from 0), so an id alone proves nothing; id and opcode together do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from dig_gossip.constants import REQUEST_ID_QUARANTINE_SECS
from dig_gossip.errors import Backpressured

W = TypeVar("W")

#: Ids that the dialer of a connection allocates. They stay in Chia's half for dialers, above the
#: low numbers that both ends of a Rust link reuse.
DIALER_IDS: Final = range(0x4000, 0x8000)
ACCEPTOR_IDS: Final = range(0x8000, 0x1_0000)

#: Chia's ``error`` message may answer any request.
_CHIA_ERROR: Final = 255


class PendingRequests(Generic[W]):
    """Who waits for which id.

    A finished id goes to the back of the line: ids are handed out in rising order and reused only
    after the whole range has been, so that a second answer does not meet a new request. An id
    whose request was abandoned is not reused for 120 s, because the answer may still come.

    Bounds: an id is free, pending or in quarantine, so there are at most 16 384 (dialer) or 32 768
    (acceptor) entries, plus one byte for each id ever used; when every id is taken, new requests
    are refused. Cost of each call: O(1) amortized; where most ids are taken, a new one is found
    with ``memchr`` over those bytes.

    :param is_dialer: whether this node dialed the connection, which decides the range of ids.
    :param now: monotonic seconds.
    Source: behaviour MSG-103-X, MSG-104-X; wire §4.1.
    """

    __slots__ = ("_ids", "_next", "_now", "_pending", "_quarantine", "_taken")

    def __init__(self, *, is_dialer: bool, now: Callable[[], float]) -> None:
        self._ids = DIALER_IDS if is_dialer else ACCEPTOR_IDS
        self._now = now
        self._pending: dict[int, tuple[W, frozenset[int]]] = {}
        # Times out in the order of insertion, since every stay is equally long.
        self._quarantine: dict[int, tuple[float, frozenset[int]]] = {}
        # A byte for each id of the range that was used at least once: 1 while it is not free.
        self._taken = bytearray()
        self._next = 0

    def __len__(self) -> int:
        """How many requests are waiting for an answer."""
        return len(self._pending)

    def open(self, waiter: W, replies: frozenset[int]) -> int:
        """Begin a request.

        :param waiter: whatever :meth:`match` is to hand back; not None.
        :param replies: the opcodes that may answer; Chia's error 255 always may.
        :returns: the correlation id to send, in :data:`DIALER_IDS` or :data:`ACCEPTOR_IDS`.
        :raises Backpressured: every id is pending or in quarantine.
        """
        self._release()
        taken = self._taken
        offset = taken.find(0, self._next)
        if offset < 0 and len(taken) < len(self._ids):
            offset = len(taken)
            taken.append(0)
        elif offset < 0:
            offset = taken.find(0)
            if offset < 0:
                raise Backpressured(f"all {len(taken)} correlation ids of this session are taken")
        taken[offset] = 1
        self._next = offset + 1
        message_id = self._ids[offset]
        self._pending[message_id] = (waiter, replies)
        return message_id

    def match(self, message_id: int | None, opcode: int) -> W | None:
        """Take the waiter that a message answers.

        :param message_id: correlation id of the message, if it has one.
        :returns: the waiter, whose request is finished with that; or None when the message is no
            answer, even if its id is pending (it is then a request of the peer's own).
        """
        if message_id is None:
            return None
        entry = self._pending.get(message_id)
        if entry is None:
            return None
        waiter, replies = entry
        if opcode not in replies and opcode != _CHIA_ERROR:
            return None
        del self._pending[message_id]
        self._taken[message_id - self._ids.start] = 0
        return waiter

    def expects(self, opcode: int) -> bool:
        """Whether a pending request may be answered with this opcode.  Cost: O(pending)."""
        return any(opcode in replies for _, replies in self._pending.values())

    def is_late(self, message_id: int | None, opcode: int) -> bool:
        """Whether a message answers a request that nobody waits for any more: drop it.

        The id stays in quarantine: a second late answer is no better than the first.
        """
        if message_id is None or not self._quarantine:
            return False
        self._release()
        entry = self._quarantine.get(message_id)
        return entry is not None and (opcode in entry[1] or opcode == _CHIA_ERROR)

    def timed_out(self, message_id: int) -> W | None:
        """Give up a request; its id goes into quarantine.

        :returns: the waiter, or None when the request is not pending (any more).
        """
        entry = self._pending.pop(message_id, None)
        if entry is None:
            return None
        waiter, replies = entry
        self._quarantine[message_id] = (self._now() + REQUEST_ID_QUARANTINE_SECS, replies)
        return waiter

    def forget(self, message_id: int) -> W | None:
        """Drop a request that its caller cancelled; the answer may still come, as after a time-out.

        :returns: the waiter, or None when the request is not pending (any more).
        """
        return self.timed_out(message_id)

    def drain(self) -> list[W]:
        """Forget everything, because the session is over.

        :returns: the waiters, oldest request first.
        """
        waiters = [waiter for waiter, _ in self._pending.values()]
        self._pending.clear()
        self._quarantine.clear()
        self._taken.clear()
        return waiters

    def _release(self) -> None:
        quarantine = self._quarantine
        if not quarantine:
            return
        now = self._now()
        while quarantine:
            message_id = next(iter(quarantine))
            if quarantine[message_id][0] > now:
                return
            del quarantine[message_id]
            self._taken[message_id - self._ids.start] = 0
