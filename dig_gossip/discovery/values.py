"""What the address book holds: addresses as they are offered, entries as they are kept.

Engines row of the stage table; pure. Named tuples because a full book has 80 000 of them: they
are cheap to make, and a snapshot of the book shares them with the book itself.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from dig_gossip.types.peer import PeerAddress

HOUR: Final = 3600
DAY: Final = 24 * HOUR

#: A try this recent may still be under way, so it condemns nobody.
RECENT_TRY_SECS: Final = 60
#: How far a clock may be ahead of ours.
MAX_FUTURE_SECS: Final = 600
HORIZON_DAYS: Final = 30
MAX_RETRIES: Final = 3
MIN_FAIL_DAYS: Final = 7
MAX_FAILURES: Final = 10
RESELECTION_SECS: Final = 600


class KnownAddress(NamedTuple):
    """An address and when somebody last heard of it.

    :ivar timestamp: Unix seconds as they were told, from 0; nothing is believed yet.
    """

    address: PeerAddress
    timestamp: int


class ExtendedPeerInfo(NamedTuple):
    """One entry of the address book. All times are Unix seconds; 0 means never.

    :ivar source: who told us first; its group decides where the entry may lie.
    :ivar timestamp: when the peer was last heard of, by anybody.
    :ivar last_success: when we last completed a handshake with it.
    :ivar last_try: when we last dialed it.
    :ivar num_attempts: failures since the last success that counted.
    :ivar last_count_attempt: when one last counted.
    :ivar slots: where it lies: one slot of the tried table, or 1 to 8 of the new table.

    Divergence: there is no ``random_pos``: slots are drawn from a list of the used ones, and a
    sample of the book needs no order that is kept up to date.
    Source: behaviour DSC-001, API-011.
    """

    address: PeerAddress
    source: PeerAddress
    timestamp: int
    last_success: int = 0
    last_try: int = 0
    num_attempts: int = 0
    last_count_attempt: int = 0
    is_tried: bool = False
    slots: tuple[int, ...] = ()

    @property
    def peer_info(self) -> PeerAddress:
        """The seed's name for :attr:`address`."""
        return self.address

    @property
    def src(self) -> PeerAddress:
        """The seed's name for :attr:`source`."""
        return self.source

    @property
    def ref_count(self) -> int:
        """Slots of the new table that hold the entry, 0 to 8; 0 in the tried table."""
        return 0 if self.is_tried else len(self.slots)

    def is_terrible(self, now: int) -> bool:
        """Whether the entry may go when another wants its place.

        Source: behaviour ADR-008.
        """
        if self.last_try and now - self.last_try <= RECENT_TRY_SECS:
            return False
        if not 0 <= now + MAX_FUTURE_SECS - self.timestamp <= HORIZON_DAYS * DAY + MAX_FUTURE_SECS:
            return True
        if self.num_attempts < MAX_RETRIES:
            return False
        return self.last_success == 0 or (
            now - self.last_success > MIN_FAIL_DAYS * DAY and self.num_attempts >= MAX_FAILURES
        )

    def selection_chance(self, now: int) -> float:
        """How willing we are to dial the peer, above 0 and up to 1.

        Source: behaviour ADR-009.
        """
        chance = 0.01 if now - self.last_try < RESELECTION_SECS else 1.0
        if self.num_attempts:
            chance *= 0.66 ** min(self.num_attempts, 8)
        return chance


class AddressBook(NamedTuple):
    """Everything an address manager remembers, as a value that never changes.

    :ivar key: 32 secret bytes that decide which slots an address gets.
    :ivar last_good: when a peer was last marked good, Unix seconds, from 1.
    :ivar entries: in no particular order.
    :ivar collisions: addresses that wait for the occupant of their tried slot to be tested.
    """

    key: bytes
    last_good: int
    entries: tuple[ExtendedPeerInfo, ...]
    collisions: tuple[PeerAddress, ...]
