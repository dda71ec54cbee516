"""Which of the peers that the relay lists are worth a connection, and by which way; pure.

A peer that says where it can be dialed is dialed, and reached through a tunnel only if that fails;
the others get a tunnel at once. When neither of two peers can be dialed the one with the smaller
id opens the tunnel, the other one only if nothing came of that.

Source: behaviour RLY-008, RLY-101-X, RLY-105-X, RLY-106-X, DIV-102-X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import attrs

from dig_gossip.relay.membership import MAX_PEERS
from dig_gossip.types.peer import PeerAddress, PeerId

PATIENCE_SECS: Final = 5.0  # that the larger id has with the smaller one
FIRST_RETRY_SECS: Final = 60.0
MAX_RETRY_SECS: Final = 600.0
DIRECT_SKIP_SECS: Final = 60.0  # for which an address that failed is not dialed again


class DialDirect(NamedTuple):
    """Dial a peer where it says that it listens; it must be this very peer."""

    peer: PeerId
    address: PeerAddress


class OpenTunnel(NamedTuple):
    """Ask a peer for a tunnel."""

    peer: PeerId


Action: TypeAlias = DialDirect | OpenTunnel


@attrs.define
class _Contact:
    addresses: tuple[PeerAddress, ...]
    not_before: float
    retry: float = FIRST_RETRY_SECS
    tried: int = 0  # addresses since the last tunnel
    direct_failed_at: float = float("-inf")
    is_busy: bool = False


class Contacts:
    """The peers of one relay.

    Bounded: as the relay's list, 1000 peers.

    :ivar own_id: ours; the smaller id leads.
    :param prefer_relay: tunnels even to peers that can be dialed.
    :param now: monotonic seconds.
    """

    def __init__(self, own_id: PeerId, *, prefer_relay: bool, now: Callable[[], float]) -> None:
        self.own_id = own_id
        self._prefer_relay = prefer_relay
        self._now = now
        self._contacts: dict[PeerId, _Contact] = {}

    def __len__(self) -> int:
        return len(self._contacts)

    def listed(self, peer: PeerId, addresses: tuple[PeerAddress, ...]) -> None:
        """The relay lists a peer, or lists it with other addresses."""
        known = self._contacts.get(peer)
        if known is not None:
            if known.addresses != addresses:
                known.addresses = addresses
                known.direct_failed_at = float("-inf")
            return
        if len(self._contacts) < MAX_PEERS:
            self._contacts[peer] = _Contact(addresses, self._now())
            contact = self._contacts[peer]
            if not self._can_dial(contact) and self.own_id > peer:
                contact.not_before += PATIENCE_SECS

    def left(self, peer: PeerId) -> None:
        """The relay does not list a peer any more."""
        self._contacts.pop(peer, None)

    def clear(self) -> None:
        """The relay is gone."""
        self._contacts.clear()

    def connected(self, peer: PeerId) -> None:
        """There is a session with a peer, by whatever way."""
        contact = self._contacts.get(peer)
        if contact is not None:
            contact.is_busy = False
            contact.retry = FIRST_RETRY_SECS
            contact.tried = 0
            contact.not_before = self._now()

    def failed(self, action: Action) -> None:
        """An attempt came to nothing."""
        contact = self._contacts.get(action.peer)
        if contact is None:
            return
        now = self._now()
        contact.is_busy = False
        if isinstance(action, DialDirect):
            contact.tried += 1
            if contact.tried >= len(contact.addresses):
                contact.direct_failed_at = now
                contact.tried = 0
            return  # the next address, or a tunnel, may follow at once
        contact.not_before = now + contact.retry
        contact.retry = min(2 * contact.retry, MAX_RETRY_SECS)

    def next_actions(
        self,
        *,
        wanted: int,
        tunnels: int,
        is_taken: Callable[[PeerId], bool],
    ) -> list[Action]:
        """What to do now; each action is to be followed by :meth:`connected` or :meth:`failed`.

        :param wanted: outbound sessions that are missing.
        :param tunnels: of these, how many may go through the relay.
        :param is_taken: whether there is a session with a peer already, or must not be one.
        """
        now = self._now()
        actions: list[Action] = []
        busy = [contact for contact in self._contacts.values() if contact.is_busy]
        wanted -= len(busy)
        for peer, contact in self._contacts.items():
            if wanted <= 0:
                break
            if contact.is_busy or contact.not_before > now or is_taken(peer):
                continue
            if self._can_dial(contact):
                action: Action = DialDirect(peer, contact.addresses[contact.tried])
            elif tunnels > 0:
                action = OpenTunnel(peer)
                tunnels -= 1
            else:
                continue
            contact.is_busy = True
            wanted -= 1
            actions.append(action)
        return actions

    def _can_dial(self, contact: _Contact) -> bool:
        return (
            bool(contact.addresses)
            and not self._prefer_relay
            and self._now() - contact.direct_failed_at >= DIRECT_SKIP_SECS
        )
