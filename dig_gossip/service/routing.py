"""What the router needs of those that it tells of sessions. Source: style §4, behaviour §31."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from dig_gossip.connection.session import Session
from dig_gossip.effects import Effect
from dig_gossip.types.peer import PeerId


class SessionWatcher(Protocol):
    """Who else is told when sessions begin and end."""

    def peer_up(self, session: Session) -> None:
        """A session has begun."""

    def peer_down(self, session: Session) -> None:
        """A session has ended."""


class DiscoveryEvents(Protocol):
    """Who deals with the addresses of peers."""

    def session_up(self, session: Session) -> Iterable[Effect]: ...
    def session_down(self, session: Session) -> Iterable[Effect]: ...
    def peers_requested(self, peer_id: PeerId) -> bytes: ...
    def peers_received(self, peer_id: PeerId, body: bytes) -> Iterable[Effect]: ...
