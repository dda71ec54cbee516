"""When may an address be dialed again?

Source: behaviour CON-102-X, CON-001.7.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

from dig_gossip.constants import (
    DIAL_BACKOFF_BASE_SECS,
    DIAL_BACKOFF_CAP_SECS,
    DO_NOT_DIAL_SECS,
    MAX_DIAL_RECORDS,
)
from dig_gossip.types.peer import PeerAddress

#: Enough to pass any cap, and no overflow however often an address fails.
_MAX_DOUBLINGS: Final = 16


@attrs.define
class _Record:
    failures: int
    retry_at: float


class DialBackoff:
    """Remembers the addresses that failed.

    The n-th failure in a row keeps an address waiting for 5 s · 2^(n-1), plus up to 50 %, 600 s at
    most; a failure that trying again cannot cure, for an hour. A success forgets the address.

    Bounds: ``capacity`` addresses; the one whose last failure is the oldest is dropped. Cost:
    O(1) per call, O(addresses) for :meth:`expire`.

    :param now: monotonic seconds.
    :param rng: the jitter.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        rng: random.Random,
        capacity: int = MAX_DIAL_RECORDS,
    ) -> None:
        self._now = now
        self._rng = rng
        self._capacity = capacity
        self._records: OrderedDict[PeerAddress, _Record] = OrderedDict()

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._records)

    def failed(self, address: PeerAddress, *, retryable: bool) -> None:
        """Note a failed dial.

        :param retryable: False puts the address on the do-not-dial list for an hour, which later
            failures may prolong and never shorten.
        """
        now = self._now()
        record = self._records.setdefault(address, _Record(0, now))
        self._records.move_to_end(address)
        if retryable:
            delay = DIAL_BACKOFF_BASE_SECS * 2.0 ** min(record.failures, _MAX_DOUBLINGS)
            delay = min(delay * (1 + self._rng.random() / 2), DIAL_BACKOFF_CAP_SECS)
        else:
            delay = DO_NOT_DIAL_SECS
        record.failures += 1
        record.retry_at = max(record.retry_at, now + delay)
        if len(self._records) > self._capacity:
            self._records.popitem(last=False)

    def succeeded(self, address: PeerAddress) -> None:
        """Note a dial that led to a session."""
        self._records.pop(address, None)

    def may_dial(self, address: PeerAddress) -> bool:
        """Whether the wait is over, or there is none."""
        return self.retry_in(address) <= 0

    def retry_in(self, address: PeerAddress) -> float:
        """Seconds until the address may be dialed; 0.0 for now."""
        record = self._records.get(address)
        return 0.0 if record is None else max(0.0, record.retry_at - self._now())

    def failures(self, address: PeerAddress) -> int:
        """Failures in a row.

        From ten on, only the address manager's own choice should lead to this address.
        """
        record = self._records.get(address)
        return 0 if record is None else record.failures

    def expire(self) -> None:
        """Forget addresses that could have been dialed for an hour and were not."""
        horizon = self._now() - DO_NOT_DIAL_SECS
        for address, record in list(self._records.items()):
            if record.retry_at <= horizon:
                del self._records[address]
