"""One budget of memory for everything that a node has received in part.

Each connection may hold a large message of which the rest is still to come, several even in
chunks. What all of them hold together is bounded here::

    total over the limit ─▶ nothing more is read from whoever holds most (``hold``)
    total below it again ─▶ reading goes on, with those first that hold least (``release``)

What a connection holds up to 64 KiB never stops it: small messages pass whatever the large ones
do. Whoever is stopped cannot finish, so it cannot make room either: after ``PATIENCE_SECS`` the
largest of them is given up (``abort``), and what it held is free.

Source: design D7.
"""

from __future__ import annotations

from typing import Final, Protocol

from dig_gossip.util.clock import Clock, Timer

#: What a connection may hold without being counted, bytes.
FREE_BYTES: Final = 65_536
PATIENCE_SECS: Final = 30.0


class Holder(Protocol):
    """A connection."""

    def hold(self, holder: object) -> None: ...
    def release(self, holder: object) -> None: ...
    def abort(self) -> None: ...


class ReceiveBudget:
    """What the connections of a node hold of unfinished messages.

    Invariants: ``total`` is the sum of what was last reported. While it exceeds the limit, whoever
    reports more is stopped or sees a larger one stopped, but for the last that is read from, the
    one that holds least: it may finish, and so make room.

    Bounds: one entry for each connection that holds more than 64 KiB. What is held exceeds the
    limit by what one connection may hold, and by 64 KiB for each that there is.
    Cost: O(1) a report below the limit, O(entries) beyond it.

    :param limit: bytes.
    :ivar total: bytes held, as far as they count.
    :ivar holds: how often reading from a connection was stopped.
    :ivar given_up: connections that were dropped because they held too much for too long.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self.total = 0
        self.holds = 0
        self.given_up = 0
        self._limit = limit
        self._clock = clock
        self._sizes: dict[Holder, int] = {}
        self._stopped: dict[Holder, None] = {}
        self._timer: Timer | None = None

    def report(self, holder: Holder, size: int) -> None:
        """A connection now holds so many bytes."""
        if size <= FREE_BYTES:
            size = 0
        before = self._sizes.get(holder, 0)
        if size == before:
            return
        if size:
            self._sizes[holder] = size
        else:
            del self._sizes[holder]
        self.total += size - before
        if self.total > self._limit:
            self._stop_largest()
        elif self._stopped:
            self._go_on()

    def forget(self, holder: Holder) -> None:
        """A connection is gone."""
        self._stopped.pop(holder, None)
        self.report(holder, 0)
        self._watch()

    def _stop_largest(self) -> None:
        reading = [holder for holder in self._sizes if holder not in self._stopped]
        if len(reading) > 1:
            largest = max(reading, key=self._sizes.__getitem__)
            self._stopped[largest] = None
            self.holds += 1
            largest.hold(self)
            self._watch()

    def _go_on(self) -> None:
        for holder in sorted(self._stopped, key=lambda one: self._sizes.get(one, 0)):
            del self._stopped[holder]
            holder.release(self)
        self._watch()

    def _watch(self) -> None:
        if self._stopped and self._timer is None:
            self._timer = self._clock.call_later(PATIENCE_SECS, self._lose_patience)
        elif not self._stopped and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _lose_patience(self) -> None:
        self._timer = None
        largest = max(self._stopped, key=lambda one: self._sizes.get(one, 0))
        self.given_up += 1
        largest.abort()
        self.forget(largest)
        self._watch()
