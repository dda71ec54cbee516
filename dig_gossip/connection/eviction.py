"""Who has to leave when the inbound slots are full and somebody new has finished its handshake.

Without eviction whoever comes first keeps the slots: an attacker fills them once and waits. So a
newcomer may take a slot, but only one whose holder nobody would miss. As in Bitcoin Core, those
who have something that an attacker cannot have cheaply are protected first, each rule among the
peers that the rules before it left over:

=====================  =======  ====================================================================
protected              of 42    because an attacker would need
=====================  =======  ====================================================================
request in flight      all      our own question; ending it would cost us the answer
network group          4        addresses in groups whose keyed hash is high; the key is secret
score                  8        to be near: nobody can answer a ping before it arrives
transactions           4        to bring transactions before all others do
messages               4        to bring blocks and other messages before all others do
uptime                 half     to have come first, and stayed: half of those that are left
=====================  =======  ====================================================================

Of those who are left, the youngest of the most crowded network group goes. If that would only
exchange one peer of a crowd for another, the newcomer is refused instead; and there is one
eviction a minute at most.

Half of the uptime places go to peers on loopback and private addresses first, for these are all
in a few groups: a local wallet, or whoever comes through a Tor service of this machine.

Divergence: CON-114-X evicts by the lowest score alone, and Core protects four *peers* by network
group, which may all be of one group; here it is the oldest peer of each of four groups. Core's
numbers are for 115 slots and absolute; here they are for 40 and scale down with fewer.

Pure. Source: behaviour CON-114-X; Bitcoin Core, ``node/eviction.cpp``.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import ipaddress
import math
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

import attrs

from dig_gossip.constants import EVICTION_INTERVAL_SECS
from dig_gossip.types.peer import canonical_host

K = TypeVar("K", bound=Hashable)

PROTECTED_GROUPS: Final = 4
PROTECTED_BY_SCORE: Final = 8
PROTECTED_BY_TRANSACTIONS: Final = 4
PROTECTED_BY_MESSAGES: Final = 4
#: With fewer inbound sessions than this the four numbers above shrink in proportion.
FULL_PROTECTION_FROM: Final = 40
#: So many connections may shake hands at a time in the hope of somebody's slot.
MAX_CONTENDERS: Final = 8

_LOOPBACK: Final = "loopback"


class Kept(enum.Enum):
    """Why nobody is evicted; the value is part of a counter's name."""

    TOO_SOON = "too_soon"  #: the last eviction is less than a minute ago
    ALL_PROTECTED = "all_protected"
    SAME_CROWD = "same_crowd"  #: it would exchange one peer of a crowd for another


@attrs.frozen(kw_only=True)
class Candidate(Generic[K]):
    """An inbound session.

    :ivar key: whatever names it.
    :ivar group: its network group, see :func:`network_group`.
    :ivar is_local: whether its address is loopback or private.
    :ivar opened_at: monotonic seconds of registration.
    :ivar score: trust over round trip time; higher is better, 0.0 before the first pong.
    :ivar last_transaction: monotonic seconds at which it last brought a transaction that was new
        to us; -inf for never.
    :ivar last_message: the same for any other message that spreads.
    :ivar has_request: whether a request of ours waits for its answer.
    """

    key: K
    group: str
    opened_at: float
    is_local: bool = False
    score: float = 0.0
    last_transaction: float = -math.inf
    last_message: float = -math.inf
    has_request: bool = False


@functools.lru_cache(maxsize=256)
def network_group(host: str) -> str:
    """Name the part of the Internet that an address belongs to.

    IPv4 by /16, IPv6 by /32, loopback as one, a host name by itself: what one party can have many
    addresses of.
    """
    text = canonical_host(host)
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return _LOOPBACK if text == "localhost" else text
    if ip.is_loopback:
        return _LOOPBACK
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ipaddress.IPv4Network((int(ip), 16), strict=False))
    return str(ipaddress.IPv6Network((int(ip), 32), strict=False))


@functools.lru_cache(maxsize=256)
def is_local(host: str) -> bool:
    """Whether an address is loopback or private: it says nothing about who is there."""
    text = canonical_host(host)
    try:
        return ipaddress.ip_address(text).is_private
    except ValueError:
        return text == "localhost"


class Evictor:
    """Chooses the inbound session that makes room for a newcomer.

    :param secret: keys the hash of network groups, so that nobody outside knows which of them are
        protected; 16 to 64 bytes, of this node alone.
    :param now: monotonic seconds.
    Bounds: keeps nothing but the time of the last eviction. Cost of a choice: O(n log n).
    """

    def __init__(self, *, secret: bytes, now: Callable[[], float]) -> None:
        self._secret = secret
        self._now = now
        self._last = -math.inf

    @property
    def is_ready(self) -> bool:
        """Whether the last eviction was long enough ago for another one."""
        return self._now() - self._last >= EVICTION_INTERVAL_SECS

    def choose(self, inbound: Iterable[Candidate[K]], newcomer_group: str) -> K | Kept:
        """Choose who is to leave for a newcomer that has finished its handshake.

        Whoever is named is taken to be evicted: the minute begins.

        :param inbound: all inbound sessions, the newcomer not among them.
        :returns: the key of a candidate, or why the newcomer has to be refused.
        """
        if not self.is_ready:
            return Kept.TOO_SOON
        left = self.unprotected(inbound)
        if not left:
            return Kept.ALL_PROTECTED
        crowds: dict[str, list[Candidate[K]]] = {}
        for candidate in left:
            crowds.setdefault(candidate.group, []).append(candidate)
        # Of equally crowded groups, the one with the youngest peer.
        crowd = max(crowds.values(), key=lambda peers: (len(peers), max(map(_opened_at, peers))))
        if newcomer_group in crowds and len(crowds[newcomer_group]) + 1 >= len(crowd):
            return Kept.SAME_CROWD
        self._last = self._now()
        return max(crowd, key=_opened_at).key

    def unprotected(self, inbound: Iterable[Candidate[K]]) -> list[Candidate[K]]:
        """Those whom no rule protects."""
        left = list(inbound)
        share = min(1.0, len(left) / FULL_PROTECTION_FROM)
        left = [candidate for candidate in left if not candidate.has_request]
        left = self._without_groups(left, math.ceil(share * PROTECTED_GROUPS))
        rules: tuple[tuple[int, Callable[[Candidate[K]], float], float], ...] = (
            (PROTECTED_BY_SCORE, lambda candidate: candidate.score, 0.0),
            (PROTECTED_BY_TRANSACTIONS, lambda candidate: candidate.last_transaction, -math.inf),
            (PROTECTED_BY_MESSAGES, lambda candidate: candidate.last_message, -math.inf),
        )
        for limit, merit, nothing in rules:
            deserving = [candidate for candidate in left if merit(candidate) > nothing]
            deserving.sort(key=lambda candidate: (-merit(candidate), candidate.opened_at))
            left = _without(left, deserving[: math.ceil(share * limit)])
        oldest = sorted(left, key=_opened_at)
        places = len(left) // 2
        left = _without(left, [peer for peer in oldest if peer.is_local][: places // 2])
        places -= len(oldest) - len(left)
        return _without(left, sorted(left, key=_opened_at)[:places])

    def _without_groups(self, left: list[Candidate[K]], limit: int) -> list[Candidate[K]]:
        oldest: dict[str, Candidate[K]] = {}
        for candidate in sorted(left, key=_opened_at):
            oldest.setdefault(candidate.group, candidate)
        chosen = sorted(oldest, key=self._keyed, reverse=True)[:limit]
        return _without(left, [oldest[group] for group in chosen])

    def _keyed(self, group: str) -> bytes:
        return hashlib.blake2b(group.encode(), key=self._secret, digest_size=8).digest()


def _opened_at(candidate: Candidate[K]) -> float:
    return candidate.opened_at


def _without(left: list[Candidate[K]], protected: list[Candidate[K]]) -> list[Candidate[K]]:
    keys = {candidate.key for candidate in protected}
    return [candidate for candidate in left if candidate.key not in keys]
