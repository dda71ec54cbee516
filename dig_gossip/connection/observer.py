"""Who is told what happens to sessions."""

from __future__ import annotations

from typing import Protocol

from dig_gossip.connection.session import Session
from dig_gossip.types.peer import PeerId, PlumtreeRole
from dig_gossip.wire.message import Message


class PeersObserver(Protocol):
    """Who is told about sessions and their messages: the router."""

    def peer_up(self, session: Session) -> None: ...
    def peer_down(self, session: Session) -> None: ...
    def message_received(self, session: Session, message: Message) -> None: ...
    def rtt_measured(self, session: Session, seconds: float) -> None: ...
    def dig_tolerated(self, session: Session) -> None: ...
    def role(self, peer_id: PeerId) -> PlumtreeRole | None: ...
