"""How much one relay gives to everybody, to one address and to one connection.

Source: behaviour RSV-109-X, RSV-110-X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from dig_gossip.types.peer import host_prefix
from dig_gossip.types.relay import RelayLimits

STRIKES: Final = 20  # of one address within STRIKE_WINDOW_SECS
STRIKE_WINDOW_SECS: Final = 60.0
REFUSAL_SECS: Final = 300.0
MAX_TRACKED_HOSTS: Final = 65_536


class Bucket:
    """A token bucket.

    :param rate: tokens a second; 0 for no limit.
    :param capacity: tokens that it holds; by default one second's worth.
    """

    __slots__ = ("_at", "_capacity", "_left", "_rate")

    def __init__(self, rate: float, now: float, capacity: float | None = None) -> None:
        self._rate = rate
        self._capacity = rate if capacity is None else capacity
        self._left = self._capacity
        self._at = now

    def take(self, amount: float, now: float) -> bool:
        """Take ``amount`` tokens if there are any at all.

        An amount above the capacity passes once the bucket is full, and leaves a debt.
        """
        if not self._rate:
            return True
        self._refill(now)
        if self._left < min(amount, self._capacity):
            return False
        self._left -= amount
        return True

    def charge(self, amount: float, now: float) -> None:
        """Take what was spent already, even into debt."""
        if self._rate:
            self._refill(now)
            self._left -= amount

    def wait(self, now: float) -> float:
        """Seconds until there is a token again; 0.0 if there is one."""
        if not self._rate:
            return 0.0
        self._refill(now)
        return max(0.0, (1 - self._left) / self._rate)

    def is_full(self, now: float) -> bool:
        """Whether nothing was taken lately."""
        self._refill(now)
        return self._left >= self._capacity

    def _refill(self, now: float) -> None:
        self._left = min(self._capacity, self._left + (now - self._at) * self._rate)
        self._at = now


@attrs.define(eq=False)
class _Host:
    registrations: Bucket
    connections: int = 0
    registered: int = 0
    strikes: list[float] = attrs.field(factory=list)
    refused_until: float = 0.0


class Hosts:
    """What each source address holds and has done wrong; IPv6 counts by /64.

    Bounded: 65 536 addresses; idle ones go first, oldest first. Addresses with connections are
    bounded by the connections themselves.

    :param now: monotonic seconds.
    """

    def __init__(self, limits: RelayLimits, *, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._hosts: dict[str, _Host] = {}

    def __len__(self) -> int:
        return len(self._hosts)

    def may_connect(self, host: str) -> str | None:
        """Why a connection is refused; None if it is not."""
        entry = self._hosts.get(host_prefix(host))
        if entry is None:
            return None
        if self._now() < entry.refused_until:
            return "struck_out"
        limit = self._limits.connections_per_host
        if limit and entry.connections >= limit:
            return "host_connections"
        return None

    def connected(self, host: str) -> None:
        """A connection was let in."""
        self._entry(host).connections += 1

    def disconnected(self, host: str) -> None:
        """A connection has ended."""
        self._entry(host).connections -= 1

    def may_register(self, host: str) -> str | None:
        """Charge a registration; say why it is refused, if it is."""
        entry = self._entry(host)
        if not entry.registrations.take(1, self._now()):
            return "registration rate limit exceeded for your address"
        limit = self._limits.registrations_per_host
        if limit and entry.registered >= limit:
            return "too many registrations from your address"
        return None

    def registered(self, host: str) -> None:
        """A peer was registered."""
        self._entry(host).registered += 1

    def unregistered(self, host: str) -> None:
        """A registration has ended."""
        self._entry(host).registered -= 1

    def strike(self, host: str) -> None:
        """A limit was broken; the twentieth time in a minute the address stays out a while."""
        now = self._now()
        entry = self._entry(host)
        recent = [at for at in entry.strikes if now - at < STRIKE_WINDOW_SECS]
        entry.strikes = [*recent, now]
        if len(entry.strikes) >= STRIKES:
            entry.refused_until = now + REFUSAL_SECS
            entry.strikes = []

    def expire(self) -> None:
        """Forget addresses about which there is nothing to say."""
        now = self._now()
        self._hosts = {
            key: entry for key, entry in self._hosts.items() if self._matters(entry, now)
        }

    def _matters(self, entry: _Host, now: float) -> bool:
        return (
            entry.connections > 0
            or entry.refused_until > now
            or not entry.registrations.is_full(now)
            or any(now - at < STRIKE_WINDOW_SECS for at in entry.strikes)
        )

    def _entry(self, host: str) -> _Host:
        key = host_prefix(host)
        entry = self._hosts.get(key)
        if entry is None:
            if len(self._hosts) >= MAX_TRACKED_HOSTS:
                self._make_room()
            entry = _Host(Bucket(self._limits.registrations_per_second, self._now()))
            self._hosts[key] = entry
        return entry

    def _make_room(self) -> None:
        idle = next((key for key, entry in self._hosts.items() if not entry.connections), None)
        if idle is not None:
            del self._hosts[idle]
