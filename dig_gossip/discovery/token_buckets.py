"""How often each source may do something.

Pure. A source that has used nothing for a while may use a minute's worth at once; from then on it
gets what drips in.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

_MINUTE: Final = 60.0


def source_key(host: str) -> str:
    """Name the party behind an address: an IPv4 address, or an IPv6 /64, which is one subscriber's.

    :param host: canonical; anything that is no IP address stands for itself.
    """
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    if ip.version == 4:
        return host
    return str(ipaddress.ip_network((ip, 64), strict=False))


@attrs.define
class _Bucket:
    tokens: float
    at: float


class TokenBuckets:
    """One bucket for each source.

    Bounds: ``capacity`` buckets. The one that was used the longest ago is dropped, and is full
    again when its source comes back; after a minute it would have been anyhow.

    :param per_minute: tokens that drip in, and that a bucket holds.
    :param now: monotonic seconds.
    Cost: O(1) amortized.
    """

    def __init__(
        self, per_minute: int, *, now: Callable[[], float], capacity: int = 100_000
    ) -> None:
        self._per_minute = per_minute
        self._now = now
        self._capacity = capacity
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._buckets)

    def take(self, source: str) -> bool:
        """Use a token of a source, if it has one."""
        now = self._now()
        bucket = self._buckets.get(source)
        if bucket is None:
            bucket = self._buckets[source] = _Bucket(self._per_minute, now)
            self._forget(now)
        else:
            self._buckets.move_to_end(source)
        dripped = (now - bucket.at) * self._per_minute / _MINUTE
        bucket.tokens = min(float(self._per_minute), bucket.tokens + dripped)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _forget(self, now: float) -> None:
        while self._buckets:
            oldest = next(iter(self._buckets))
            is_full = self._buckets[oldest].at <= now - _MINUTE
            if not is_full and len(self._buckets) <= self._capacity:
                return
            del self._buckets[oldest]
