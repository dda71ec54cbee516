"""Registrations under ids that were the node's: they carry their sessions until others are there.

A registration is retired when the id changes and sessions go through it. It opens and takes no
tunnel any more, is not made again when it is lost, and leaves the relay with its last session, or
when its time is over.

Divergence: behaviour RLY-001.1 has one registration at a time. Here there are two while the id
changes, so that no relayed session ends before the one that takes its place is there (PRV-007.1).

Source: behaviour PRV-007.1, RLY-001.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dig_gossip.connection.opening import Opening
from dig_gossip.relay.client import RelayClient
from dig_gossip.types.peer import PeerAddress, PeerId

#: The relay counts them, too.
MAX_FORMERS: Final = 2


class FormerRegistrations:
    """The clients that are on their way out.

    Bounded: :data:`MAX_FORMERS`; the oldest leaves for another.

    :param lives: seconds after which a client leaves with sessions and all.
    :param unvouched: takes what came outside of any tunnel.
    :param now: monotonic seconds.
    """

    def __init__(
        self, *, lives: float, unvouched: Callable[[bytes], object], now: Callable[[], float]
    ) -> None:
        self.unvouched = unvouched
        self._lives = lives
        self._now = now
        self._until: dict[RelayClient, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def add(self, client: RelayClient) -> None:
        """Retire a registered client."""
        while len(self._until) >= MAX_FORMERS:
            self.end(next(iter(self._until)))
        self._until[client] = self._now() + self._lives
        client.retire(_Nobody(self, client))

    def tick(self) -> None:
        """Let those leave that have nothing left to do; every second or so."""
        now = self._now()
        for client, until in list(self._until.items()):
            if not len(client.hub) or now >= until:
                self.end(client)

    def stop(self) -> None:
        """Let all leave; the sessions through them end."""
        for client in list(self._until):
            self.end(client)

    def end(self, client: RelayClient) -> None:
        """Let one leave, or forget one that is lost."""
        if self._until.pop(client, None) is not None:
            client.stop()


class _Nobody:
    """The host of a retired client: it wants nobody."""

    def __init__(self, formers: FormerRegistrations, client: RelayClient) -> None:
        self._formers = formers
        self._client = client

    def relay_registered(self, observed: PeerAddress | None) -> None:
        """It was registered before."""

    def relay_failed(self) -> None:
        """It does not come again."""

    def relay_lost(self) -> None:
        """There is no coming back under this id."""
        self._formers.end(self._client)

    def relay_peer(self, peer: PeerId, addresses: tuple[PeerAddress, ...]) -> None:
        """The registration under the present id says so, too."""

    def relay_peer_left(self, peer: PeerId) -> None:
        """As before."""

    def relay_message(self, payload: bytes) -> None:
        """Pass it on: the present registration may not be there yet."""
        self._formers.unvouched(payload)

    def relay_coordinate(self, peer: PeerId, address: PeerAddress) -> None:
        """Whoever dials us expects an id that new connections do not show any more."""

    def may_accept_tunnel(self, peer: PeerId) -> bool:
        """Nobody may."""
        return False

    def tunnel_opening(self, peer: PeerId, is_outbound: bool) -> Opening | None:
        """There is no new tunnel."""
        return None

    def tunnel_failed(self, peer: PeerId) -> None:
        """It was given up."""
