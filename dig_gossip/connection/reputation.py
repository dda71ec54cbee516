"""What peers and hosts have on their account, and who is banned.

Pure; penalizing, dropping the session and logging happen in one turn of the shell (CON-007.2).
Ban times are Unix seconds, since they are shown and stored.

Source: behaviour §9, API-002.10, API-006.
"""

from __future__ import annotations

import functools
import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

import attrs

from dig_gossip.connection.ban_list import Bans, HostBan, PeerBan
from dig_gossip.constants import BAN_DURATION_SECS, MAX_REPUTATIONS, PENALTY_BAN_THRESHOLD
from dig_gossip.types.peer import PeerId, canonical_host
from dig_gossip.types.reputation import PeerReputation, PenaltyReason

K = TypeVar("K", bound=Hashable)

_IPV6_PREFIX_BITS = 64  # what one customer gets: everything in it is one host


class PenaltyOutcome(NamedTuple):
    """What a penalty led to.

    :ivar points: the peer's total.
    :ivar newly_banned: whether the peer is banned because of it.
    :ivar ip_newly_banned: whether the host is banned because of it.
    """

    points: int
    newly_banned: bool
    ip_newly_banned: bool


@attrs.define
class _Account:
    """Invariant: ``ban_expiry`` is set exactly while the account is in the table of bans."""

    points: int = 0
    ban_expiry: int | None = None
    ban_count: int = 0
    last_reason: PenaltyReason | None = None
    #: The host that was banned along with a peer.
    banned_host: str | None = None


class _Ledger(Generic[K]):
    """Accounts of peers, or of hosts: the charged ones and the banned ones.

    Bounds: ``capacity`` charged accounts, of which the least recently charged goes first, and
    ``capacity`` banned ones, of which the soonest to expire goes first: since all bans are equally
    long, that is the first in the table (unless the system's clock was set back).

    :param keeps_history: whether an account outlives its ban, for the number of bans.
    """

    def __init__(
        self, capacity: int, threshold: int, ban_seconds: float, *, keeps_history: bool
    ) -> None:
        self._capacity = capacity
        self._threshold = threshold
        self._ban_seconds = ban_seconds
        self._keeps_history = keeps_history
        self._charged: OrderedDict[K, _Account] = OrderedDict()
        self._banned: OrderedDict[K, _Account] = OrderedDict()
        #: bans that began, began again, or ended
        self.changes = 0

    def __len__(self) -> int:
        return len(self._charged) + len(self._banned)

    def find(self, key: K) -> _Account | None:
        return self._banned.get(key) or self._charged.get(key)

    def is_banned(self, key: K, unix: float) -> bool:
        account = self._banned.get(key)
        return account is not None and not _is_over(account, unix)

    def active(self, unix: float) -> list[tuple[K, _Account]]:
        return [(key, acct) for key, acct in self._banned.items() if not _is_over(acct, unix)]

    def restore(self, accounts: list[tuple[K, _Account]], unix: float) -> int:
        """Continue bans of an earlier life, none longer than a new one; say how many."""
        latest = math.ceil(unix + self._ban_seconds)
        restored = 0
        for key, account in sorted(accounts, key=lambda item: item[1].ban_expiry or 0):
            account.ban_expiry = min(account.ban_expiry or 0, latest)
            if _is_over(account, unix) or key in self._banned:
                continue
            self._charged.pop(key, None)
            self._banned[key] = account
            restored += 1
            if len(self._banned) > self._capacity:
                self.pardon(next(iter(self._banned)))
        return min(restored, self._capacity)

    def charge(self, key: K, reason: PenaltyReason, unix: float) -> tuple[_Account, bool]:
        """Add points; say whether that led to a ban. A running ban is not prolonged."""
        self._pardon_if_over(key, unix)
        account = self._banned.get(key)
        is_banned = account is not None
        if account is None:
            account = self._touch(key, self._charged.get(key) or _Account())
        account.points += reason.points
        account.last_reason = reason
        if is_banned or account.points < self._threshold:
            return account, False
        self.ban(key, unix)
        return account, True

    def ban(self, key: K, unix: float) -> _Account:
        """Begin a ban, or begin a running one again."""
        self._pardon_if_over(key, unix)
        account = self._banned.get(key)
        if account is None:
            account = self._charged.pop(key, None) or _Account()
            account.ban_count += 1
            self._banned[key] = account
        self._banned.move_to_end(key)
        self.changes += 1
        account.ban_expiry = math.ceil(unix + self._ban_seconds)
        if len(self._banned) > self._capacity:
            self.pardon(next(iter(self._banned)))
        return account

    def pardon(self, key: K) -> None:
        """End a ban, if there is one: the points are gone."""
        account = self._banned.pop(key, None)
        if account is None:
            return
        self.changes += 1
        if self._keeps_history:
            account.points = 0
            account.ban_expiry = None
            self._touch(key, account)

    def expire(self, unix: float) -> list[K]:
        """End every ban whose time has come."""
        over = [key for key, account in self._banned.items() if _is_over(account, unix)]
        for key in over:
            self.pardon(key)
        return over

    def _pardon_if_over(self, key: K, unix: float) -> None:
        account = self._banned.get(key)
        if account is not None and _is_over(account, unix):
            self.pardon(key)

    def _touch(self, key: K, account: _Account) -> _Account:
        self._charged[key] = account
        self._charged.move_to_end(key)
        if len(self._charged) > self._capacity:
            self._charged.popitem(last=False)
        return account


def _is_over(account: _Account, unix: float) -> bool:
    return account.ban_expiry is not None and unix >= account.ban_expiry


@functools.lru_cache(maxsize=256)
def host_key(host: str) -> str | None:
    """Name the account of a host: an IPv4 address, an IPv6 /64, a name; None for loopback.

    Source: behaviour REP-102-X, CON-007.1.
    """
    text = canonical_host(host)
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None if text == "localhost" else text
    if ip.is_loopback:
        return None
    if ip.version == 4:
        return text
    return str(ipaddress.ip_network((int(ip), _IPV6_PREFIX_BITS), strict=False))


class Reputations:
    """Penalty points and bans, by peer id and by host; they survive disconnects.

    Points add up and do not decay; at ``threshold`` a ban follows, which covers the id and the
    host it came from. The end of a ban sets the points to 0. Because identities cost nothing,
    hosts (IPv6: the /64) have accounts of their own, with the same threshold. Loopback has none.

    Bounds: ``capacity`` accounts and ``capacity`` bans of peers, and as many of hosts. Cost: O(1)
    per call; O(bans) for :meth:`expire` and :attr:`active_bans`.

    :param unix: Unix seconds.
    :param threshold: points that lead to a ban, inclusive.
    :param ban_seconds: how long a ban lasts; it is over when its last second is (inclusive).
    :ivar penalties_by_reason: how often each reason was applied.
    Source: behaviour CON-007, REP-101-X, REP-102-X, REP-103-X.
    """

    def __init__(
        self,
        *,
        unix: Callable[[], float],
        capacity: int = MAX_REPUTATIONS,
        threshold: int = PENALTY_BAN_THRESHOLD,
        ban_seconds: float = BAN_DURATION_SECS,
    ) -> None:
        self._unix = unix
        self._threshold = threshold
        self._peers: _Ledger[PeerId] = _Ledger(capacity, threshold, ban_seconds, keeps_history=True)
        self._hosts: _Ledger[str] = _Ledger(capacity, threshold, ban_seconds, keeps_history=False)
        self.penalties_by_reason: dict[PenaltyReason, int] = dict.fromkeys(PenaltyReason, 0)

    def __len__(self) -> int:
        """How many accounts of peers and of hosts are kept."""
        return len(self._peers) + len(self._hosts)

    @property
    def active_bans(self) -> int:
        """How many peer ids are banned now."""
        return len(self._peers.active(self._unix()))

    @property
    def active_host_bans(self) -> int:
        """How many hosts are banned now."""
        return len(self._hosts.active(self._unix()))

    @property
    def ban_changes(self) -> int:
        """Rises whenever a ban begins or ends: what was stored before is out of date."""
        return self._peers.changes + self._hosts.changes

    def bans(self) -> Bans:
        """Everybody who is banned now, to be stored."""
        unix = self._unix()
        return Bans(
            peers=tuple(
                PeerBan(
                    peer_id=peer_id,
                    expiry=account.ban_expiry or 0,
                    count=account.ban_count,
                    reason=account.last_reason,
                    host=account.banned_host,
                )
                for peer_id, account in self._peers.active(unix)
            ),
            hosts=tuple(
                HostBan(host=host, expiry=account.ban_expiry or 0)
                for host, account in self._hosts.active(unix)
            ),
        )

    def restore(self, bans: Bans) -> int:
        """Continue bans of an earlier life of this node, where they are not over.

        None lasts longer than a new one would: the system's clock may have been wrong then, or
        the file was written by somebody else. Loopback stays free.

        :returns: how many of them are in force, of peers and of hosts.
        Source: behaviour REP-104-X.
        """
        unix = self._unix()
        peers = [
            (
                ban.peer_id,
                _Account(
                    points=self._threshold,
                    ban_expiry=ban.expiry,
                    ban_count=max(1, ban.count),
                    last_reason=ban.reason,
                    banned_host=None if ban.host is None else host_key(ban.host),
                ),
            )
            for ban in bans.peers
        ]
        hosts = [
            (key, _Account(points=self._threshold, ban_expiry=ban.expiry, ban_count=1))
            for ban in bans.hosts
            if (key := host_key(ban.host)) is not None
        ]
        return self._peers.restore(peers, unix) + self._hosts.restore(hosts, unix)

    def penalize(
        self,
        peer_id: PeerId,
        reason: PenaltyReason,
        host: str | None = None,
        *,
        ip_exempt: bool = False,
    ) -> PenaltyOutcome:
        """Charge a peer, connected or not, and the host it comes from.

        Charging a banned peer adds points and changes nothing else: its ban is neither counted
        again nor prolonged.

        :param host: where the peer is connected from, if it is.
        :param ip_exempt: the host is shared by strangers, as a relay is: leave it alone.
        :returns: the total, and which bans the shell has to enforce now.
        Source: behaviour CON-007, CON-007.1, API-002.10.
        """
        unix = self._unix()
        self.penalties_by_reason[reason] += 1
        account, newly_banned = self._peers.charge(peer_id, reason, unix)
        key = None if host is None or ip_exempt else host_key(host)
        ip_newly_banned = False
        if newly_banned:
            account.banned_host = key
        if key is not None:
            _, ip_newly_banned = self._hosts.charge(key, reason, unix)
            if newly_banned and not self._hosts.is_banned(key, unix):
                self._hosts.ban(key, unix)
                ip_newly_banned = True
        return PenaltyOutcome(account.points, newly_banned, ip_newly_banned)

    def ban(
        self, peer_id: PeerId, host: str | None = None, reason: PenaltyReason | None = None
    ) -> None:
        """Ban a peer, and its host, whatever the points; a running ban begins again.

        :param host: also ban this host; None where it is shared, as a relay is.
        :param reason: charge this first.
        """
        if reason is not None:
            self.penalize(peer_id, reason, host)
        unix = self._unix()
        account = self._peers.ban(peer_id, unix)
        account.banned_host = None if host is None else host_key(host)
        if account.banned_host is not None:
            self._hosts.ban(account.banned_host, unix)

    def unban(self, peer_id: PeerId) -> bool:
        """End the ban of a peer, and of the host that was banned with it.

        :returns: whether the peer was banned.
        """
        account = self._peers.find(peer_id)
        if account is None or not self.is_banned(peer_id):
            return False
        self._peers.pardon(peer_id)
        if account.banned_host is not None:
            self._hosts.pardon(account.banned_host)
        return True

    def is_banned(self, peer_id: PeerId) -> bool:
        """Whether a peer is banned now."""
        return self._peers.is_banned(peer_id, self._unix())

    def is_host_banned(self, host: str) -> bool:
        """Whether a host is banned now, in whatever spelling; never for loopback."""
        key = host_key(host)
        return key is not None and self._hosts.is_banned(key, self._unix())

    def get(
        self,
        peer_id: PeerId,
        *,
        rtt_history: tuple[float, ...] = (),
        avg_rtt_ms: int | None = None,
    ) -> PeerReputation:
        """Describe a peer as it stands now; an unknown one has a clean slate.

        :param rtt_history: the session's round trips in seconds.
        :param avg_rtt_ms: their mean in milliseconds.
        """
        account = self._peers.find(peer_id) or _Account()
        over = _is_over(account, self._unix())
        return PeerReputation(
            penalty_points=0 if over else account.points,
            is_banned=account.ban_expiry is not None and not over,
            ban_expiry=None if over else account.ban_expiry,
            ban_count=account.ban_count,
            last_penalty_reason=account.last_reason,
            avg_rtt_ms=avg_rtt_ms,
            rtt_history=rtt_history,
        )

    def expire(self) -> list[PeerId]:
        """End every ban whose time has come.

        :returns: the peers that are free again.
        Source: behaviour CON-007.3.
        """
        unix = self._unix()
        self._hosts.expire(unix)
        return self._peers.expire(unix)
