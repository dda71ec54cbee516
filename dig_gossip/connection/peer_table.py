"""The sessions of this node, one for each peer id, and which of two is to stay.

Source: behaviour CON-105-X, CON-106-X, CON-101-X.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeAlias, TypeVar

import attrs

from dig_gossip.constants import GLARE_WINDOW_SECS
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind


class Slot(Protocol):
    """What the table needs to know of a session; nothing but ``is_live`` ever changes."""

    @property
    def peer_id(self) -> PeerId:
        """The verified id of the peer."""

    @property
    def address(self) -> PeerAddress:
        """What was dialed, or where the connection came from."""

    @property
    def is_outbound(self) -> bool:
        """Whether this node dialed."""

    @property
    def opened_at(self) -> float:
        """Monotonic seconds of registration."""

    @property
    def is_live(self) -> bool:
        """Whether the transport is open and the peer was heard within the last ping interval."""

    @property
    def transport(self) -> TransportKind:
        """How the session reaches its peer."""

    @property
    def own_id(self) -> PeerId:
        """Who this node is on the session."""


S = TypeVar("S", bound=Slot)
S_co = TypeVar("S_co", bound=Slot, covariant=True)


@attrs.frozen
class Vacant:
    """There is no session with this peer."""


@attrs.frozen
class Supersedes(Generic[S_co]):
    """The new session is to take the place of ``old``."""

    old: S_co


@attrs.frozen
class Refused:
    """The session that exists stays; the new one is a duplicate."""


Resolution: TypeAlias = Vacant | Supersedes[S_co] | Refused


class PeerTable(Generic[S]):
    """At most one session for each peer id.

    Invariants: every session is found under its own id and, unless relayed, at its own address;
    inbound plus outbound is the length. Bound: none of its own, admission checks the number first.
    Cost: O(1) per call; iteration copies.

    :param now: monotonic seconds.
    """

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._slots: dict[PeerId, S] = {}
        self._at: dict[PeerAddress, dict[PeerId, S]] = {}
        self._outbound = 0
        #: ``get(peer_id)`` returns the session with a peer, or None.
        self.get = self._slots.get

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[S]:
        """All sessions, oldest first; the table may change meanwhile."""
        return iter(list(self._slots.values()))

    @property
    def inbound_count(self) -> int:
        """Sessions that peers opened."""
        return len(self._slots) - self._outbound

    @property
    def outbound_count(self) -> int:
        """Sessions that this node opened."""
        return self._outbound

    def at_address(self, address: PeerAddress) -> S | None:
        """A session at exactly this address, a live one if there is any.

        Relayed sessions do not count: their address is the relay's.
        """
        slots = self._at.get(address)
        if slots is None:
            return None
        return next((slot for slot in slots.values() if slot.is_live), next(iter(slots.values())))

    def holds(self, session: S) -> bool:
        """Whether the table holds this very object."""
        return self._slots.get(session.peer_id) is session

    def insert(self, session: S) -> None:
        """Put a session in, in the place of any other with the same peer."""
        old = self._slots.get(session.peer_id)
        if old is not None:
            self.remove(old)
        self._slots[session.peer_id] = session
        self._outbound += session.is_outbound
        if session.transport is not TransportKind.RELAY:
            self._at.setdefault(session.address, {})[session.peer_id] = session

    def remove(self, session: S) -> bool:
        """Take a session out if the table still holds this very object.

        :returns: whether it did. False is normal: a superseded session reports its end later.
        """
        if not self.holds(session):
            return False
        del self._slots[session.peer_id]
        self._outbound -= session.is_outbound
        if session.transport is not TransportKind.RELAY:
            slots = self._at[session.address]
            del slots[session.peer_id]
            if not slots:
                del self._at[session.address]
        return True

    def resolve(
        self,
        *,
        own_id: PeerId,
        peer_id: PeerId,
        is_outbound: bool,
        transport: TransportKind,
        greeted: bool = False,
    ) -> Resolution[S]:
        """Decide between a new session with a verified peer and the one that may exist.

        The acceptor decides before it answers, the dialer after the answer, and they cannot
        confer. So that they never close one session each, a dialer should ask twice: when the
        peer's id is verified and nothing was sent yet, and again, with ``greeted``, when the
        answer is there and the acceptor has replaced its session already.

        In this order:

        1. Direct against relayed: direct wins, unless it is a silent session that a relayed one
           replaces.
        2. We have another id on the new one: it wins. For the other end they are two peers.
        3. Opposite directions, the old one younger than 30 s: both ends dialed at once, and the
           session whose dialer has the smaller id wins.
        4. The new one is outbound and the old one live: the old one stays.
        5. The newest wins.

        Divergence: the first rule also lets a direct session replace a live relayed one, and also
        holds when both ends dialed at once; otherwise no upgrade from the relay would be possible,
        and two ends that see the sessions in different orders would keep one each. A session over
        Tor counts as direct, because its acceptor cannot tell.

        :param own_id: our id on the new session.
        :param transport: that of the new session.
        :param greeted: the acceptor has admitted the new session, and this method did so earlier.
        Source: behaviour CON-105-X, RLY-007.2, PRV-007.1.
        """
        old = self._slots.get(peer_id)
        if old is None:
            return Vacant()
        at_once = old.is_outbound != is_outbound and self._now() - old.opened_at < GLARE_WINDOW_SECS
        relayed = transport is TransportKind.RELAY
        if relayed != (old.transport is TransportKind.RELAY):
            wins = not relayed or not (at_once or (old.is_live and not greeted))
        elif old.own_id != own_id:
            wins = True
        elif at_once:
            wins = (own_id < peer_id) == is_outbound
        else:
            wins = greeted or not (is_outbound and old.is_live)
        return Supersedes(old) if wins else Refused()
