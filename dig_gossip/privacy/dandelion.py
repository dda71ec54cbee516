"""Dandelion++: a transaction travels a stem of single hops before anybody announces it.

Engines row of the stage table; pure: events in, effects out, no clock, no socket.

A transaction, from hop to hop::

    origin ---- 213 ----> relay ---- 213 ----> relay ---- 213 ----> relay
      |                     |                    |                    | coin: fluff
      | embargo             | embargo            | embargo            v
      '---------------------'--------------------'--------- NewTransaction, to everybody
        cancelled by the announcement; else each of them would fluff in its turn

Who looks on sees the announcement spread from the last relay, and knows nothing of the stem unless
a relay on it is the observer's own; then it knows one neighbour on the stem, not how far the origin
is from there.

* Two relays an epoch, drawn from the outbound sessions that can; each inbound edge, and our own
  transactions, map to one of them for the whole epoch. So an observer who sees many transactions
  of one node sees one edge, not a fingerprint (the paper's 4-regular line graph). The first
  inbound edge shares the relay of our own, the next gets the other, and so on in turns: whoever
  is that relay sees our transactions among others' whenever there is any cover at all.
* The embargo is exponential: of k nodes that wait, each is as likely to fire first. A fixed timer
  would fire first at the origin whenever a relay swallows a transaction, and reveal it.
* Whoever ends a stem announces the transaction to one peer first, its *herald*, drawn for each from
  the outbound sessions that are no relays of ours; and to everybody else when it hears of it from
  others, as all nodes do, or 2 to 4 s later. So the announcement seems to come from the herald: who
  knows the stem graph does not see in which hop's patience, or coin, it has begun.
* A loop (a transaction that comes back) is not forwarded again and nothing is said about it: an
  answer of any kind would tell whoever probes that the transaction has been here.

* A transaction that others have announced rests for a moment longer, about as long as everybody
  needs to fetch it: who could answer for it at once would show that it was on the stem. Then the
  application gets it, since an announcement may be all that there is: a relay may announce what it
  swallowed, so that nobody but the origin could serve it.

What stays here of a stem transaction: its entry in the stem buffer and one timer. It is in no
seen set, no cache, no reconciliation set, no subscription, no log and no statistic by name, until
it is fluffed or announced by others.

What hostile peers try, and what stops them:

=====================================  =========================================================
swallow stems                          the embargoes of all earlier hops; a relay that is lost
                                       within a second is replaced, once, then we fluff
send endless stems                     100 a peer wait here, 1000 and 16 MiB in all; more are
                                       dropped, and never push one of ours out of its stem
send our own stem back to us           ignored, as if it had been forwarded
ask for a transaction                  nothing here answers; ``is_stem_only`` tells the application
become every relay                     only sessions that we dialed are relays
=====================================  =========================================================

Divergence: (a) PRV-004's embargo is uniform over once to twice the timeout; design D10 makes it
exponential with ``stem_timeout_secs`` as its mean. (b) PRV-005 has one relay; D10 two, to
which edges are drawn at random. In turns, beginning with our own relay, a first-spy observer is
right less often (``benchmarks/dandelion.py``). (c) On overflow DAN-101-X fluffs the oldest of our
own; a peer could so force our transactions out, so others' are dropped first, and ours are fluffed
only among themselves. (d) PRV-003 has the end of a stem announced like any other transaction; here
a herald comes first.

Source: behaviour §24, design D10; wire §13.4; G. Fanti et al., "Dandelion++", 2018.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from random import Random
from typing import ClassVar, Final

import attrs

from dig_gossip.constants import (
    DANDELION_HERALD_SECS,
    DANDELION_MAX_PUBLIC,
    DANDELION_MAX_STEM_BYTES,
    DANDELION_MAX_STEMS,
    DANDELION_MAX_STEMS_PER_PEER,
    DANDELION_RELAYS,
    DANDELION_RESEND_SECS,
    DANDELION_REST_SECS,
)
from dig_gossip.effects import (
    ClearTimer,
    Deliver,
    Effect,
    Penalize,
    Send,
    SetTimer,
    Spread,
    TimerKey,
)
from dig_gossip.errors import GossipError
from dig_gossip.types.config import DandelionConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.stem import STEM_OVERHEAD_BYTES, StemTransaction

EMBARGO: Final = "dandelion.embargo"
HERALD: Final = "dandelion.herald"


@attrs.define(kw_only=True)
class DandelionCounters:
    """Running totals of one engine; they never decrease, and name no transaction.

    :ivar stem_submitted: transactions of our own that began a stem.
    :ivar stem_received: those of others that were taken in; ``stem_ignored`` were here, looped,
        or public already; ``stem_dropped`` found no room.
    :ivar stem_forwarded: hops that we sent, of our own and others'; ``stem_resent`` of them
        because a relay was lost.
    :ivar fluffed: stems that ended here: by the coin, ``fluff_embargo`` by the embargo,
        ``fluff_no_relay`` for want of a relay, ``fluff_overflow`` for want of room.
    :ivar fluff_heralded: of those, how many were announced to one peer first; ``fluff_unheard``
        of these were not heard of again in time.
    :ivar stem_public: stems that ended elsewhere: somebody announced the transaction.
    """

    stem_submitted: int = 0
    stem_received: int = 0
    stem_ignored: int = 0
    stem_dropped: int = 0
    stem_forwarded: int = 0
    stem_resent: int = 0
    stem_public: int = 0
    fluffed: int = 0
    fluff_embargo: int = 0
    fluff_no_relay: int = 0
    fluff_overflow: int = 0
    fluff_heralded: int = 0
    fluff_unheard: int = 0


@attrs.frozen(kw_only=True)
class DandelionSnapshot:
    """One consistent picture of an engine; for tests, not for statistics.

    :ivar relays: of this epoch, at most two; drawn when first needed.
    :ivar edges: the relay of each inbound edge; None stands for our own transactions.
    :ivar stems: transactions in the buffer, and ``stem_bytes`` what they take.
    :ivar public: transactions remembered as announced.
    """

    relays: tuple[PeerId, ...]
    edges: Mapping[PeerId | None, PeerId]
    stems: frozenset[bytes]
    stem_bytes: int
    public: int
    counters: Mapping[str, int]


class _Stem:
    """A transaction that waits to become public.

    :ivar source: the peer that sent it; None for our own.
    :ivar relay: where it went; ``sent_at`` when, monotonic seconds.
    :ivar is_public: others have announced it.
    """

    __slots__ = ("body", "is_public", "relay", "resent", "sent_at", "size", "source")

    def __init__(self, body: StemTransaction, source: PeerId | None) -> None:
        self.body = body
        self.source = source
        self.size = STEM_OVERHEAD_BYTES + len(body.payload)
        self.relay: PeerId | None = None
        self.sent_at = -math.inf
        self.resent = False
        self.is_public = False


class Dandelion:
    """The stem engine of one node.

    Bounded: 1000 stems, 16 MiB, 100 a peer; 1000 transactions with a herald, 20 000 public ones; an
    edge a session.

    Cost: O(1) an event; the loss of a relay O(stems).

    Timers: ``("dandelion.embargo", tx_id)``, one a stem, and ``("dandelion.herald", tx_id)``, one
    for each transaction that only a herald was told of. The epoch needs none: it is looked at
    when a relay is needed.

    :param now: monotonic seconds.
    :param rng: source of randomness; unpredictable to peers in production.
    Source: behaviour PRV-001 to PRV-005, DAN-101-X to DAN-104-X; design D10.
    """

    names: Final = frozenset({EMBARGO, HERALD})
    relays_per_epoch: ClassVar[int] = DANDELION_RELAYS
    has_heralds: ClassVar[bool] = True

    def __init__(self, config: DandelionConfig, *, now: Callable[[], float], rng: Random) -> None:
        self.counters = DandelionCounters()
        self._config = config
        self._now = now
        self._rng = rng
        self._candidates: dict[PeerId, None] = {}
        self._relays: list[PeerId] = []
        self._edges: dict[PeerId | None, PeerId] = {}
        self._epoch_ends = now() + rng.random() * config.epoch_secs
        self._stems: OrderedDict[bytes, _Stem] = OrderedDict()
        self._size = 0
        self._of_peer: Counter[PeerId] = Counter()
        self._public: OrderedDict[bytes, None] = OrderedDict()
        self._heralded: dict[bytes, Message] = {}  # what is still to be announced to everybody

    # --- sessions ---------------------------------------------------------------------------

    def peer_up(self, peer: PeerId) -> list[Effect]:
        """Take in a possible relay: a direct session that we dialed, with capability 203."""
        self._candidates[peer] = None
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a session; draw another relay if it was one.

        Source: behaviour PRV-005, DAN-102-X.
        """
        self._candidates.pop(peer, None)
        self._edges.pop(peer, None)
        if peer not in self._relays:
            return []
        self._relays.remove(peer)
        self._edges = {source: relay for source, relay in self._edges.items() if relay != peer}
        since = self._now() - DANDELION_RESEND_SECS
        lost = [
            (tx_id, stem)
            for tx_id, stem in self._stems.items()
            if stem.relay == peer and stem.sent_at >= since and not stem.is_public
        ]
        effects: list[Effect] = []
        for tx_id, stem in lost:
            if stem.resent:
                self.counters.fluff_no_relay += 1
                effects += self._fluff(tx_id)
                continue
            stem.resent = True
            self.counters.stem_resent += 1
            effects += self._forward(tx_id, stem)
        return effects

    # --- transactions -----------------------------------------------------------------------

    def submit(self, body: StemTransaction) -> list[Effect]:
        """Send a transaction of our own on its stem.

        One that is on its way already stays there; one that is public is announced again.

        Source: behaviour PRV-002.
        """
        tx_id = body.tx_id
        if tx_id in self._stems or tx_id in self._heralded:
            return []
        if tx_id in self._public:
            return [Spread(Message(ChiaMessageType.NEW_TRANSACTION, None, body.announcement))]
        self.counters.stem_submitted += 1
        stem = _Stem(body, None)
        return [*self._make_room(stem.size), *self._enter(tx_id, stem)]

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Take in 213.

        Source: behaviour PRV-002.1, PRV-003, DAN-101-X.
        """
        try:
            body = StemTransaction.from_bytes(message.data)
        except GossipError:
            return [Penalize(peer, PenaltyReason.MALFORMED_MESSAGE)]
        tx_id = body.tx_id
        if tx_id in self._stems or tx_id in self._public:
            self.counters.stem_ignored += 1
            return []
        stem = _Stem(body, peer)
        if (
            len(self._stems) >= DANDELION_MAX_STEMS
            or self._size + stem.size > DANDELION_MAX_STEM_BYTES
            or self._of_peer[peer] >= DANDELION_MAX_STEMS_PER_PEER
        ):
            self.counters.stem_dropped += 1
            return []
        self.counters.stem_received += 1
        if self._rng.random() < self._config.fluff_probability:
            self.counters.fluffed += 1
            return self._end(tx_id, stem)
        return self._enter(tx_id, stem)

    def announced(self, tx_id: bytes) -> list[Effect]:
        """Note that a transaction is public: whoever announced it.  PRV-004"""
        self._note_public(tx_id)
        if tx_id in self._heralded:
            return self._spread_heralded(tx_id)
        stem = self._stems.get(tx_id)
        if stem is None or stem.is_public:
            return []
        self.counters.stem_public += 1
        stem.is_public = True
        return [SetTimer((EMBARGO, tx_id), self._exponential(DANDELION_REST_SECS))]

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """An embargo is over: nobody announced the transaction, so we do. Or its rest is.

        Or nobody has heard of it from its herald.
        """
        name, tx_id = key
        if name == HERALD:
            if tx_id not in self._heralded:
                return []
            self.counters.fluff_unheard += 1
            return self._spread_heralded(tx_id)
        stem = self._stems.get(tx_id)
        if stem is None:
            return []
        if stem.is_public:
            self._remove(tx_id)
            return self._delivery(stem)
        self.counters.fluff_embargo += 1
        return self._fluff(tx_id)

    def shut_down(self) -> list[Effect]:
        """Fluff our own transactions, and whatever only a herald knows: there is nobody here any
        more who could do it later.  behaviour §32
        """
        own = [
            tx_id
            for tx_id, stem in self._stems.items()
            if stem.source is None and not stem.is_public
        ]
        effects = [effect for tx_id in own for effect in self._fluff(tx_id, at_once=True)]
        for tx_id in list(self._heralded):
            effects += self._spread_heralded(tx_id)
        return effects

    def is_stem_only(self, tx_id: bytes) -> bool:
        """Whether nobody but its stem knows a transaction, so that nobody may be told of it."""
        return tx_id in self._stems

    def is_heralded(self, tx_id: bytes) -> bool:
        """Whether a transaction is announced to everybody as soon as others do so, by ourselves."""
        return tx_id in self._heralded

    def snapshot(self) -> DandelionSnapshot:
        """Take one consistent picture. Cost: O(stems)."""
        return DandelionSnapshot(
            relays=tuple(self._relays),
            edges=dict(self._edges),
            stems=frozenset(self._stems),
            stem_bytes=self._size,
            public=len(self._public),
            counters=attrs.asdict(self.counters),
        )

    # --- the buffer -------------------------------------------------------------------------

    def _enter(self, tx_id: bytes, stem: _Stem) -> list[Effect]:
        """Keep a transaction under embargo and send it one hop further."""
        self._stems[tx_id] = stem
        self._size += stem.size
        if stem.source is not None:
            self._of_peer[stem.source] += 1
        embargo = self._exponential(self._config.stem_timeout_secs)
        return [SetTimer((EMBARGO, tx_id), embargo), *self._forward(tx_id, stem)]

    def _exponential(self, mean: float) -> float:
        return -math.log(1.0 - self._rng.random()) * mean  # 1 - random() is above 0

    def _remove(self, tx_id: bytes) -> _Stem:
        stem = self._stems.pop(tx_id)
        self._size -= stem.size
        if stem.source is not None:
            self._of_peer[stem.source] -= 1
            if not self._of_peer[stem.source]:
                del self._of_peer[stem.source]
        return stem

    def _make_room(self, size: int) -> list[Effect]:
        """Make room for one of ours: others' first, since other hops still wait for those."""
        effects: list[Effect] = []
        while self._stems and (
            len(self._stems) >= DANDELION_MAX_STEMS or self._size + size > DANDELION_MAX_STEM_BYTES
        ):
            foreign = (tx_id for tx_id, stem in self._stems.items() if stem.source is not None)
            tx_id = next(foreign, None)
            if tx_id is not None:
                self.counters.stem_dropped += 1
                self._remove(tx_id)
                effects.append(ClearTimer((EMBARGO, tx_id)))
                continue
            self.counters.fluff_overflow += 1
            effects += self._fluff(next(iter(self._stems)))
        return effects

    def _fluff(self, tx_id: bytes, *, at_once: bool = False) -> list[Effect]:
        stem = self._remove(tx_id)
        return [ClearTimer((EMBARGO, tx_id)), *self._end(tx_id, stem, at_once=at_once)]

    def _end(self, tx_id: bytes, stem: _Stem, *, at_once: bool = False) -> list[Effect]:
        """Make a transaction public, by way of a herald if there is one.  PRV-003"""
        self._note_public(tx_id)
        announcement = Message(ChiaMessageType.NEW_TRANSACTION, None, stem.body.announcement)
        # The application must have it when others ask for it.
        delivery = self._delivery(stem)
        heralds = [
            peer
            for peer in self._candidates
            if peer not in self._relays and peer not in (stem.source, stem.relay)
        ]
        is_full = len(self._heralded) >= DANDELION_MAX_STEMS
        if at_once or is_full or not (self.has_heralds and heralds):
            return [*delivery, Spread(announcement)]
        self.counters.fluff_heralded += 1
        self._heralded[tx_id] = announcement
        patience = DANDELION_HERALD_SECS * (1 + self._rng.random())
        return [
            *delivery,
            SetTimer((HERALD, tx_id), patience),
            Send((self._rng.choice(heralds),), announcement),
        ]

    def _spread_heralded(self, tx_id: bytes) -> list[Effect]:
        return [ClearTimer((HERALD, tx_id)), Spread(self._heralded.pop(tx_id))]

    def _delivery(self, stem: _Stem) -> list[Effect]:
        """Give a transaction to the application, unless it came from there."""
        if stem.source is None:
            return []
        transaction = Message(ChiaMessageType.RESPOND_TRANSACTION, None, stem.body.payload)
        return [Deliver(stem.source, transaction)]

    def _note_public(self, tx_id: bytes) -> None:
        self._public[tx_id] = None
        if len(self._public) > DANDELION_MAX_PUBLIC:
            self._public.popitem(last=False)

    # --- relays -----------------------------------------------------------------------------

    def _forward(self, tx_id: bytes, stem: _Stem) -> list[Effect]:
        """Send a transaction to the relay of the edge that it came by; fluff if there is none."""
        relay = self._relay_for(stem.source)
        if relay is None:
            self.counters.fluff_no_relay += 1
            return self._fluff(tx_id)
        stem.relay = relay
        stem.sent_at = self._now()
        self.counters.stem_forwarded += 1
        return [Send((relay,), Message(StemTransaction.OPCODE, None, bytes(stem.body)))]

    def _relay_for(self, source: PeerId | None) -> PeerId | None:
        """The relay of an inbound edge; never the peer at its other end.  PRV-005, design D10"""
        now = self._now()
        if now >= self._epoch_ends:
            epoch = self._config.epoch_secs
            self._epoch_ends += epoch * (1 + (now - self._epoch_ends) // epoch)
            self._relays.clear()
            self._edges.clear()
        while len(self._relays) < self.relays_per_epoch:
            others = [peer for peer in self._candidates if peer not in self._relays]
            if not others:
                break
            self._relays.append(self._rng.choice(others))
        if self._relays and None not in self._edges:
            self._edges[None] = self._rng.choice(self._relays)
        relay = self._edges.get(source)
        if relay is None:
            own = self._edges.get(None)
            edges = Counter(to for edge, to in self._edges.items() if edge is not None)
            usable = [peer for peer in self._relays if peer != source]
            if not usable:
                return None
            relay = min(usable, key=lambda peer: (edges[peer], peer != own))
            self._edges[source] = relay
        return relay
