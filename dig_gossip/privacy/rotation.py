"""When a node takes another id, and how its sessions follow; pure.

::

    waiting ──due──▶ generating ──made──▶ moving ──nothing is left, or 10 minutes──▶ waiting
       ▲  ▲            │ failed
       │  └── postponed, 60 s, at most 10 times: something relies on the old id just now
       └───────────────┘

Sessions move in batches. One that we dialed is dialed again under the new id while it lives, and
is replaced: the other end sees two peers, so neither closes anything before both are there. One
that the peer dialed can only be closed, so that the peer comes again; so is one whose second
connection is not let in. Those closings never leave fewer connections than the floor.

Source: behaviour §25 (PRV-007, PRV-007.1, PRV-007.2, ROT-101-X).
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, NamedTuple, TypeAlias

from dig_gossip.types.peer import PeerId

#: Share of the interval by which a rotation comes earlier or later.
JITTER: Final = 0.05
POSTPONE_SECS: Final = 60.0
MAX_POSTPONED: Final = 10
BATCH: Final = 8
BATCH_SECS: Final = 1.0
#: For how long a session with a request under way, or with something to send, is left alone.
BUSY_SECS: Final = 30.0
#: For how long those who were closed are waited for before more are.
RETURN_SECS: Final = 30.0
#: After this the sessions that are left keep the old id until they end.
MOVING_SECS: Final = 600.0
OWN_ID_SECS: Final = 86_400.0
MAX_OWN_IDS: Final = 8


class OwnIds:
    """The ids that are, or lately were, this node's.

    Bounded: :data:`MAX_OWN_IDS`, the current one included; a former one is kept for a day.

    :ivar current: what new connections show.
    Source: behaviour PRV-007.2.
    """

    def __init__(self, current: PeerId, *, now: Callable[[], float]) -> None:
        self.current = current
        self._now = now
        self._former: OrderedDict[PeerId, float] = OrderedDict()

    def __contains__(self, peer_id: PeerId) -> bool:
        return peer_id in self.all()

    def all(self) -> frozenset[PeerId]:
        """Every one of them."""
        now = self._now()
        while self._former and next(iter(self._former.values())) <= now:
            self._former.popitem(last=False)
        return frozenset((self.current, *self._former))

    def become(self, new: PeerId) -> None:
        """Take another id."""
        if new == self.current:
            return
        self._former.pop(new, None)
        self._former[self.current] = self._now() + OWN_ID_SECS
        self.current = new
        while len(self._former) >= MAX_OWN_IDS:
            self._former.popitem(last=False)


class Link(NamedTuple):
    """A session, as far as it matters here.

    :ivar is_stale: it is under a former id of ours.
    :ivar is_dialable: we dialed it, and can do so again.
    :ivar is_busy: a request of ours waits for its answer, or a message for the transport.
    :ivar is_stuck: it is relayed, and the relay does not know our present id yet.
    """

    peer: PeerId
    is_stale: bool
    is_dialable: bool
    is_busy: bool
    is_stuck: bool = False


class Generate(NamedTuple):
    """Make a new identity and keep it; answer with ``generated`` or ``failed``."""


class Redial(NamedTuple):
    """Dial a peer a second time; answer with ``redialed``."""

    peer: PeerId


class Close(NamedTuple):
    """Close a session.

    :ivar dials: dial the peer right afterwards.
    """

    peer: PeerId
    dials: bool


class Postponed(NamedTuple):
    """The rotation was due, and is put off."""

    seconds: float


class Moved(NamedTuple):
    """The sessions have moved.

    :ivar left: how many keep a former id until they end.
    """

    left: int


RotationEffect: TypeAlias = Generate | Redial | Close | Postponed | Moved


class _State(enum.Enum):
    WAITING = enum.auto()
    GENERATING = enum.auto()


class Rotation:
    """The clock of the rotation, and the order in which sessions follow it.

    Bounded: it remembers the sessions of one batch and those whose second dial failed, which are
    sessions of the node.

    :param interval: seconds between two rotations, without the jitter; more than 0.
    :param moves: whether sessions follow at all.
    :param target: outbound sessions that the node wants.
    :param now: monotonic seconds.
    """

    def __init__(
        self,
        *,
        interval: float,
        moves: bool,
        target: int,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self._interval = interval
        self._moves = moves
        self._least = max(1, target - BATCH)
        self._now = now
        self._rng = rng
        self._state = _State.WAITING
        self._postponed = 0
        self._began: float | None = None  # when the sessions began to move
        self._level = 0
        self._waiting_since = 0.0
        self._dialing: set[PeerId] = set()
        self._undialable: set[PeerId] = set()
        self._due = 0.0
        self._schedule()

    @property
    def is_moving(self) -> bool:
        """Whether sessions are on their way to the present id."""
        return self._began is not None

    @property
    def next_delay(self) -> float:
        """Seconds until the next :meth:`tick`."""
        if self.is_moving:
            return BATCH_SECS
        if self._state is _State.GENERATING:
            return POSTPONE_SECS  # the answer comes of itself
        return max(0.0, self._due - self._now())

    def tick(self, *, is_busy: bool, links: Sequence[Link]) -> list[RotationEffect]:
        """See what is to be done now.

        :param is_busy: whether something relies on the present id: a handshake through the relay,
            a hole punch, a dial to one certain peer.
        :param links: all sessions.
        """
        if self._state is _State.WAITING and self._now() >= self._due:
            if is_busy and self._postponed < MAX_POSTPONED:
                self._postponed += 1
                self._due = self._now() + POSTPONE_SECS
                return [Postponed(POSTPONE_SECS)]
            self._state = _State.GENERATING
            return [Generate()]
        return self._batch(links) if self.is_moving else []

    def generated(self, links: int) -> None:
        """The node has another id now.

        :param links: its sessions.
        """
        self._schedule()
        self._dialing.clear()
        self._undialable.clear()
        if self._moves:
            self._began = self._waiting_since = self._now()
            self._level = links

    def failed(self) -> None:
        """There is no new identity; the old one stays for another interval."""
        self._schedule()

    def redialed(self, peer: PeerId, success: bool) -> None:
        """A second dial has ended."""
        if peer in self._dialing:
            self._dialing.remove(peer)
            if not success:
                self._undialable.add(peer)

    # -- inside

    def _schedule(self) -> None:
        spread = self._rng.uniform(1 - JITTER, 1 + JITTER)
        self._due = self._now() + self._interval * spread
        self._state = _State.WAITING
        self._postponed = 0

    def _batch(self, links: Sequence[Link]) -> list[RotationEffect]:
        assert self._began is not None
        elapsed = self._now() - self._began
        stale = [link for link in links if link.is_stale]
        if not stale or elapsed >= MOVING_SECS:
            self._began = None
            return [Moved(len(stale))]
        if self._dialing:
            return []
        ready = [
            link
            for link in stale
            if not link.is_stuck and (elapsed >= BUSY_SECS or not link.is_busy)
        ]
        dialable = [
            link.peer for link in ready if link.is_dialable and link.peer not in self._undialable
        ]
        if dialable:
            self._dialing.update(dialable[:BATCH])
            return [Redial(peer) for peer in dialable[:BATCH]]
        closing = ready[: max(0, min(BATCH, self._room(len(links))))]
        if closing:
            self._waiting_since = self._now()
        return [Close(link.peer, link.is_dialable) for link in closing]

    def _room(self, count: int) -> int:
        """How many may be closed now."""
        room = count - max(self._least, self._level - BATCH)
        if room <= 0 and self._now() - self._waiting_since >= RETURN_SECS:
            # Who has not come again by now will not.
            self._level = count
            room = count - max(self._least, count - BATCH)
        return room
