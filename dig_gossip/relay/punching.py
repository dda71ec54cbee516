"""From a relayed session to a direct one: who asks, when both dial, when to try again; pure.

::

    relayed ─▶ IDLE ──request (smaller id)──▶ REQUESTED ──coordinate──▶ DIALING ─┬─▶ direct: done
                 ▲        coordinate ───── own request, once ──────────────▲     │
                 └── 300 s ── FAILED ◀── nobody answered, 10 s ◀── nobody there, 15 s

The relay tells an address only to the peer that is named in a request, so whoever gets one without
having asked answers with a request of its own. The relayed session stays until there is a direct
one, and after a failure as if nothing had been.

Source: behaviour RLY-007, RLY-007.0 to .3, NAT-101-X; wire §16.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from random import Random
from typing import Final, NamedTuple, TypeAlias

import attrs

from dig_gossip.types.peer import PeerAddress, PeerId

FIRST_REQUEST_SECS: Final = 1.0  # after the relayed session began
ANSWER_TIMEOUT_SECS: Final = 10.0
DIAL_TIMEOUT_SECS: Final = 15.0
RETRY_SECS: Final = 300.0
RETRY_JITTER: Final = 0.1
MAX_PUNCHES: Final = 4
REQUEST_INTERVAL_SECS: Final = 10.0


class PunchState(enum.Enum):
    """Where the upgrade of one session is."""

    IDLE = "idle"
    REQUESTED = "requested"
    DIALING = "dialing"
    FAILED = "failed"


class Request(NamedTuple):
    """Ask, through the relay, that the peer dials us."""

    peer: PeerId


class Punch(NamedTuple):
    """Dial an address from our listening port, again and again for 5 s."""

    peer: PeerId
    address: PeerAddress


class GiveUp(NamedTuple):
    """Stop dialing."""

    peer: PeerId


class Report(NamedTuple):
    """Tell the peer how it went."""

    peer: PeerId
    success: bool


PunchEffect: TypeAlias = Request | Punch | GiveUp | Report


@attrs.define
class _Upgrade:
    state: PunchState
    until: float
    asked_at: float = float("-inf")


class Punching:
    """The upgrades of all relayed sessions.

    Bounded: one for each relayed session; 4 under way at once.

    :ivar own_id: ours; the smaller id asks first.
    :param now: monotonic seconds.
    :ivar succeeded: upgrades, ever.
    :ivar failed: attempts that came to nothing, ever.
    """

    def __init__(self, own_id: PeerId, *, now: Callable[[], float], rng: Random) -> None:
        self.succeeded = 0
        self.failed = 0
        self.own_id = own_id
        self._now = now
        self._rng = rng
        self._upgrades: dict[PeerId, _Upgrade] = {}

    def __len__(self) -> int:
        return len(self._upgrades)

    def state(self, peer: PeerId) -> PunchState | None:
        """Where the upgrade of a session is; None if it is not relayed."""
        upgrade = self._upgrades.get(peer)
        return None if upgrade is None else upgrade.state

    @property
    def under_way(self) -> int:
        """How many are neither idle nor failed."""
        return sum(
            upgrade.state in (PunchState.REQUESTED, PunchState.DIALING)
            for upgrade in self._upgrades.values()
        )

    def relayed(self, peer: PeerId) -> None:
        """A relayed session has begun."""
        self._upgrades[peer] = _Upgrade(PunchState.IDLE, self._now() + FIRST_REQUEST_SECS)

    def lost(self, peer: PeerId) -> list[PunchEffect]:
        """The relayed session has ended, and no direct one took its place."""
        upgrade = self._upgrades.pop(peer, None)
        if upgrade is not None and upgrade.state is PunchState.DIALING:
            return [GiveUp(peer)]
        return []

    def forget(self) -> list[PunchEffect]:
        """We have another id: whoever has a relayed session with us expects the former one."""
        return [effect for peer in list(self._upgrades) for effect in self.lost(peer)]

    def direct(self, peer: PeerId) -> list[PunchEffect]:
        """There is a direct session in the place of the relayed one."""
        upgrade = self._upgrades.pop(peer, None)
        if upgrade is None:
            return []
        self.succeeded += 1
        effects: list[PunchEffect] = [Report(peer, True)]
        if upgrade.state is PunchState.DIALING:
            effects.insert(0, GiveUp(peer))
        return effects

    def coordinate(self, peer: PeerId, address: PeerAddress) -> list[PunchEffect]:
        """The relay says that the peer dials us now, and where it is.

        Source: behaviour RLY-007.0.
        """
        upgrade = self._upgrades.get(peer)
        if upgrade is None or upgrade.state is PunchState.DIALING:
            return []
        now = self._now()
        if upgrade.state is not PunchState.REQUESTED and self.under_way >= MAX_PUNCHES:
            return []
        effects: list[PunchEffect] = []
        if now - upgrade.asked_at >= REQUEST_INTERVAL_SECS:
            upgrade.asked_at = now
            effects.append(Request(peer))
        upgrade.state = PunchState.DIALING
        upgrade.until = now + DIAL_TIMEOUT_SECS
        return [*effects, Punch(peer, address)]

    def tick(self) -> list[PunchEffect]:
        """Ask, give up, come again; every second or so."""
        now = self._now()
        effects: list[PunchEffect] = []
        for peer, upgrade in self._upgrades.items():
            if now < upgrade.until:
                continue
            if upgrade.state in (PunchState.IDLE, PunchState.FAILED):
                if self.own_id < peer and self.under_way < MAX_PUNCHES:
                    upgrade.state = PunchState.REQUESTED
                    upgrade.until = now + ANSWER_TIMEOUT_SECS
                    upgrade.asked_at = now
                    effects.append(Request(peer))
                continue
            if upgrade.state is PunchState.DIALING:
                effects += [GiveUp(peer), Report(peer, False)]
            self.failed += 1
            upgrade.state = PunchState.FAILED
            spread = self._rng.uniform(1 - RETRY_JITTER, 1 + RETRY_JITTER)
            upgrade.until = now + RETRY_SECS * spread
        return effects
