"""Bans as they are kept across restarts: values, and the text of the file.

One ban a line, so that an operator can read, search and cut it::

    dig-gossip bans 1
    peer <id, 64 hex digits> <ends, Unix seconds> <how many so far> <reason or -> <host or ->
    host <IPv4 address, IPv6 /64, or name> <ends, Unix seconds>
    end

A file that is not exactly that is spoiled as a whole: half of it would be a guess. Pure.

Source: behaviour REP-104-X.
"""

from __future__ import annotations

from typing import Final

import attrs

from dig_gossip.types.peer import PeerId, parse_peer_id
from dig_gossip.types.reputation import PenaltyReason

_TITLE: Final = "dig-gossip bans 1"
_END: Final = "end"  # what was cut off has none
_NOBODY: Final = "-"
#: More than any list that we write: 20 000 bans with names of 253 letters.
MAX_BAN_FILE_BYTES: Final = 16 * 1024 * 1024
_MAX_DIGITS: Final = 15  # of a number; whoever reads it cuts what makes no sense


@attrs.frozen(kw_only=True)
class PeerBan:
    """The ban of a peer id.

    :ivar expiry: Unix seconds of its end.
    :ivar count: bans of this peer so far, this one included; 1 and up.
    :ivar host: the host that was banned with it.
    """

    peer_id: PeerId
    expiry: int
    count: int = 1
    reason: PenaltyReason | None = None
    host: str | None = None


@attrs.frozen(kw_only=True)
class HostBan:
    """The ban of a host.

    :ivar host: as :func:`~dig_gossip.connection.reputation.host_key` names it.
    :ivar expiry: Unix seconds of its end.
    """

    host: str
    expiry: int


@attrs.frozen(kw_only=True)
class Bans:
    """Everybody who is banned."""

    peers: tuple[PeerBan, ...] = ()
    hosts: tuple[HostBan, ...] = ()

    def __bytes__(self) -> bytes:
        lines = [_TITLE]
        for peer in self.peers:
            reason = _NOBODY if peer.reason is None else peer.reason.value
            host = peer.host if peer.host is not None and _fits(peer.host) else _NOBODY
            lines.append(f"peer {peer.peer_id.hex()} {peer.expiry} {peer.count} {reason} {host}")
        lines += [f"host {ban.host} {ban.expiry}" for ban in self.hosts if _fits(ban.host)]
        return "".join(f"{line}\n" for line in (*lines, _END)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Bans:
        """Read a file.

        :raises ValueError: it is not one of ours, or not complete.
        """
        lines = data.decode("utf-8").split("\n")
        if len(lines) < 3 or lines[0] != _TITLE or lines[-2:] != [_END, ""]:
            raise ValueError("not a list of bans")
        peers, hosts = [], []
        for line in lines[1:-2]:
            match line.split(" "):
                case ["peer", peer_id, expiry, count, reason, host] if host:
                    peers.append(
                        PeerBan(
                            peer_id=parse_peer_id(peer_id),
                            expiry=_number(expiry),
                            count=_number(count),
                            reason=None if reason == _NOBODY else PenaltyReason(reason),
                            host=None if host == _NOBODY else host,
                        )
                    )
                case ["host", host, expiry] if host:
                    hosts.append(HostBan(host=host, expiry=_number(expiry)))
                case _:
                    raise ValueError("a line that is not a ban")
        return cls(peers=tuple(peers), hosts=tuple(hosts))


def _fits(host: str) -> bool:
    # A name with a space in it leads nowhere, so its ban keeps nobody out.
    return host not in ("", _NOBODY) and not any(map(str.isspace, host))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ValueError("not a number")
    return int(text)
