"""Which addresses to dial next, and whether the book has anything left to offer.

Pure. The loop says how the world looks, the planner what to do about it; nothing is remembered
between two questions but what no look at the world can tell.

Source: behaviour §13, §16, ADR-011.
"""

from __future__ import annotations

import enum
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from dig_gossip.connection.backoff import DialBackoff
from dig_gossip.constants import PARALLEL_CONNECT_BATCH_SIZE
from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.diversity import Diversity, Link
from dig_gossip.types.peer import PeerAddress

COLLISION_TEST_INTERVAL_SECS: Final = 60.0
_FAILED_LATELY_SECS: Final = 30 * 60
_CANDIDATES_PER_SLOT: Final = 4
_MAX_SCORES: Final = 10_000
_VERDICT_SECS: Final = 120


class Purpose(enum.Enum):
    """Why an address is dialed; the value is the name in logs and counters."""

    ANCHOR = "anchor"
    BOOTSTRAP = "bootstrap"
    BOOK = "book"
    FEELER = "feeler"
    COLLISION = "collision"


@attrs.frozen
class Dial:
    """One address to dial now."""

    address: PeerAddress
    purpose: Purpose


@attrs.frozen(kw_only=True)
class World:
    """What is there at this moment.

    :ivar outbound: the outbound sessions.
    :ivar dialing: addresses that are being dialed for a session.
    :ivar occupied: where peers with a session are, or listen; and what feelers are dialing.
    """

    outbound: tuple[Link, ...]
    dialing: frozenset[PeerAddress]
    occupied: frozenset[PeerAddress]


@attrs.frozen
class Plan:
    """What to do now.

    :ivar dials: at most eight, of different groups.
    :ivar is_exhausted: whether no fresh address could be found for a free slot.
    """

    dials: tuple[Dial, ...]
    is_exhausted: bool


class Planner:
    """Chooses addresses.

    Anchors first, once, and besides the target, as in Bitcoin Core: honest sessions come and go, so
    the oldest ones, which become anchors, tend to be an attacker's, and would save him two draws.
    Then the bootstrap peers; then the book: up to four usable candidates are drawn for a slot, and
    the one that was the fastest when we last knew it is taken.

    A candidate is usable unless it is, or is about to be, connected; excluded (our own, banned);
    waiting after a failure; or refused by the rules of diversity beside the sessions, dials and
    candidates there are. One that failed in the last half hour is taken only if no other is left.

    Divergence: behaviour DSC-101-X never takes what was tried in the last half hour, unless there
    is no outbound session. A small network could then not mend itself for half an hour after an
    outage; the pauses after failures, of up to ten minutes, protect dead hosts well enough.

    Bounds: 10 000 scores, the least recent goes first. Cost: at most 50 draws a plan, each
    O(sessions).

    :param bootstrap: peers to stay connected to.
    :param use_book: False for nothing but the bootstrap peers.
    """

    def __init__(
        self,
        book: AddressManager,
        diversity: Diversity,
        backoff: DialBackoff,
        *,
        target: int,
        bootstrap: Iterable[PeerAddress],
        is_excluded: Callable[[PeerAddress], bool],
        unix: Callable[[], float],
        rng: random.Random,
        use_book: bool = True,
    ) -> None:
        self.bootstrap = list(bootstrap)
        self._anchors: list[PeerAddress] = []
        self._beside: frozenset[PeerAddress] = frozenset()
        self._book = book
        self._diversity = diversity
        self._backoff = backoff
        self._target = target
        self._is_excluded = is_excluded
        self._unix = unix
        self._rng = rng
        self._use_book = use_book
        self._scores: OrderedDict[PeerAddress, float] = OrderedDict()

    def come_back_to(self, anchors: Iterable[PeerAddress]) -> None:
        """Dial these first; once, at the start. They take none of the slots of the target."""
        self._anchors = list(anchors) if self._target > 0 else []
        self._beside = frozenset(self._anchors)

    @property
    def has_anchors(self) -> bool:
        """Whether anchors are still to be dialed."""
        return bool(self._anchors)

    def missing(self, world: World) -> int:
        """How many outbound sessions are wanted besides those there are."""
        return self._target - self._count(link.address for link in world.outbound)

    def plan(self, world: World) -> Plan:
        """Choose what to dial for the slots that are free.

        Source: behaviour DSC-006, DSC-006.1, DSC-009, DSC-101-X, DSC-102-X.
        """
        room = self.missing(world) - self._count(world.dialing)
        most = PARALLEL_CONNECT_BATCH_SIZE - len(world.dialing)
        dials: list[Dial] = []
        links = [*world.outbound, *map(Link, world.dialing)]
        is_exhausted = False
        while len(dials) < most:
            dial = self._anchor(world, links)
            if dial is None and self._count(dial.address for dial in dials) < room:
                dial = self._bootstrap(world, links, dials)
                if dial is None and self._use_book:
                    dial, is_exhausted = self._from_book(world, links, dials)
            if dial is None:
                break
            dials.append(dial)
            links.append(Link(dial.address))
        return Plan(tuple(dials), is_exhausted)

    def feeler(self, world: World) -> Dial | None:
        """Choose an address of the new table to try out; None if there is none.

        Source: behaviour DSC-008, DSC-008.1.
        """
        entry = self._book.select_peer(new_only=True)
        if entry is None or not self._is_free(entry.address, world):
            return None
        return Dial(entry.address, Purpose.FEELER)

    def collision_test(self, world: World) -> Dial | None:
        """Choose the occupant of a tried slot that another address waits for.

        Source: behaviour DSC-102-X, FEE-101-X.
        """
        entry = self._book.select_tried_collision()
        if entry is None or not self._is_free(entry.address, world):
            return None
        if self._unix() - entry.last_try < _VERDICT_SECS:
            return None  # it has just been tested; the book decides a minute later
        return Dial(entry.address, Purpose.COLLISION)

    def retry_in(self, world: World) -> float | None:
        """Seconds until the next bootstrap peer that is missing may be dialed; None for none."""
        waits = [
            self._backoff.retry_in(address)
            for address in self.bootstrap
            if address not in world.occupied and address not in world.dialing
        ]
        return min((wait for wait in waits if wait > 0), default=None)

    def score_known(self, address: PeerAddress, score: float) -> None:
        """Remember how well a peer did at an address (behaviour PRF-001)."""
        self._scores[address] = score
        self._scores.move_to_end(address)
        if len(self._scores) > _MAX_SCORES:
            self._scores.popitem(last=False)

    # -- inside

    def _count(self, addresses: Iterable[PeerAddress]) -> int:
        """How many count against the target."""
        return sum(address not in self._beside for address in addresses)

    def _anchor(self, world: World, links: list[Link]) -> Dial | None:
        while self._anchors:
            address = self._anchors.pop(0)
            if self._is_usable(address, world, links):
                return Dial(address, Purpose.ANCHOR)
        return None

    def _bootstrap(self, world: World, links: list[Link], dials: list[Dial]) -> Dial | None:
        chosen = {dial.address for dial in dials}
        for address in self.bootstrap:
            if address not in chosen and self._is_usable(address, world, links):
                return Dial(address, Purpose.BOOTSTRAP)
        return None

    def _from_book(
        self, world: World, links: list[Link], dials: list[Dial]
    ) -> tuple[Dial | None, bool]:
        """Choose a candidate from the book.

        :returns: the dial, if there is one, and whether better ones would be welcome.
        """
        chosen = {dial.address for dial in dials}
        candidates: dict[PeerAddress, None] = {}
        failed_lately: dict[PeerAddress, None] = {}
        for _ in range(self._patience(world)):
            entry = self._book.select_peer()
            if entry is None:
                break
            address = entry.address
            if address in chosen or not self._is_usable(address, world, links):
                continue
            if entry.last_try > entry.last_success and (
                self._unix() - entry.last_try < _FAILED_LATELY_SECS
            ):
                failed_lately[address] = None
                continue
            candidates[address] = None
            if len(candidates) == _CANDIDATES_PER_SLOT:
                break
        if candidates:
            return Dial(self._best(list(candidates)), Purpose.BOOK), False
        if failed_lately:
            return Dial(next(iter(failed_lately)), Purpose.BOOK), True
        return None, True

    def _best(self, candidates: list[PeerAddress]) -> PeerAddress:
        scores = [self._scores.get(address, 0.0) for address in candidates]
        if not any(scores):
            return candidates[0]
        best = [a for a, score in zip(candidates, scores, strict=True) if score == max(scores)]
        return self._rng.choice(best)

    def _patience(self, world: World) -> int:
        """How many draws may fail: the fewer groups we see, the sooner seeds are asked."""
        groups = self._diversity.groups(world.outbound)
        return 10 if groups < 3 else 25 if groups <= 5 else 50

    def _is_free(self, address: PeerAddress, world: World) -> bool:
        return (
            address not in world.occupied
            and address not in world.dialing
            and self._backoff.may_dial(address)
            and not self._is_excluded(address)
        )

    def _is_usable(self, address: PeerAddress, world: World, links: list[Link]) -> bool:
        return (
            self._is_free(address, world) and self._diversity.refuse(Link(address), links) is None
        )
