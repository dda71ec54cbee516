"""ERLAY: transactions announced to few peers, and found at all others by comparing sets.

Engines row of the stage table; pure: events in, effects out, no clock, no socket.

Flooding announces each transaction once or twice on every link, and nearly all of that is news to
nobody. Here a node tells a few peers at once. For every other peer it keeps the set of transactions
that the peer is not known to have, and every two seconds the two ends compare their sets with a
sketch (:mod:`dig_gossip.gossip.sketch`) whose size depends on what *differs*, not on what is in the
sets. How a round goes is in :mod:`dig_gossip.gossip.rounds`.

Two policies (``ErlayConfig.policy``):

``reconcile``
    This engine alone carries transactions. It delivers each one once, tells ``flood_peer_count``
    outbound peers, drawn again every 60 s, and reconciles with all. Sessions without ERLAY are
    told of everything, plain Chia sessions only of what the application broadcasts.
``safety_net``
    Plumtree, the ``carrier``, carries transactions as it does everything else; this engine hands
    it all events, notes who has what, and reconciles on top. What got lost on the tree is found.

The service's router calls:

===========================================  ===================================================
``peer_up``, ``peer_down``                   a session begins, changes (DIG opcodes tolerated), or
                                             ends; ``reconcile_peers`` now and then, to be safe
``broadcast``                                the application, or the end of a stem, spreads a
                                             ``NewTransaction``. **Never for one that is on its
                                             stem**: what enters here is public
``received``                                 a ``NewTransaction`` without id came; with
                                             ``needs_validation`` a ``Validate`` effect comes
                                             back, whose verdict goes to ``validated``
``requested``                                211 came; returns ``Reply`` with 212
``answered``                                 what became of a ``Request`` of this engine, whose
                                             key begins with one of :attr:`Erlay.names`
``timer_fired``                              likewise for timers
``pause``, ``resume``                        the session's queue is in BulkDrop, or no longer
===========================================  ===================================================

Effects: ``Send`` (announcements; one effect for all flooded peers, one a transaction for others),
``Request`` (211; the router gives it an id and has 212, or None, come back), ``Reply`` (212 with
the id of its 211), ``Deliver``, ``Validate``, ``SetTimer``, ``ClearTimer``, ``Penalize``; with the
``carrier`` also those of the carrier.

Invariants, checked after every step by the tests: nothing is pending for a flooded peer; no
transaction is pending for the peer that announced it; flooded peers are outbound and no more than
``flood_peer_count``; no effect names a peer without a session; every table keeps its cap.

What hostile peers try, and what stops them:

=====================================  =========================================================
send sketches without end              one is decoded a second; all sessions together get a tenth
                                       of a processor; the rest is declined
send sketches that cannot be decoded   both sides announce what they have, once, at 50 a second;
                                       an honest one has to do as much
send oversized or broken sketches      refused before anything is computed, and charged
begin rounds though they were dialed   charged; so is a salt that changes within a session
replay a sketch                        compared with what is pending by then: nothing, or news
claim to have nothing, or everything   only what they are told, or tell us, gets worse for it
ask for what was not offered           unknown numbers are ignored
never answer                           10 s, then the round is void; nothing is lost, and when
                                       5000 transactions wait they are announced one by one
grind transactions that share numbers  numbers depend on a salt that only the two ends know
be our only flooded peer               the choice is ours, among peers that we dialed, for 60 s
=====================================  =========================================================

Divergence: (a) ERL-004 has a round every 2 s with every peer. With many peers that is many rounds
that find nothing, so a node begins four in that time at most, in turn. (b) ERL-004 has no rounds
with flooded peers. As such a peer never floods who dialed it, a node whose only session that is
would hear of nothing. So there are rounds, in which we have nothing, and it announces what it did
not hear from us. (c) ERL-105-X wants decoding beyond 50 ms in a thread. A thread would still hold
the interpreter. Compiled, the largest sketch takes 2 ms; in Python only the first 64 syndromes are
used, which takes 30 ms, and larger differences go the way of failed sketches. (d) ERL-002 lets
50 000 ids wait for a peer; 5000 here, as many as would be announced after a failure.

Source: behaviour §22, wire §13.3; G. Naumenko, G. Maxwell, P. Wuille, S. Fedorova, I. Beschastnikh,
"Erlay: Efficient Transaction Relay for Bitcoin", 2019; BIP-330.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from random import Random
from typing import Final, Protocol

import attrs

from dig_gossip import constants as c
from dig_gossip.effects import (
    ClearTimer,
    Deliver,
    Effect,
    Penalize,
    Reply,
    Request,
    Send,
    SetTimer,
    TimerKey,
    Validate,
)
from dig_gossip.errors import ClientError
from dig_gossip.gossip.erlay_links import DecodeBudget, ErlayLink
from dig_gossip.gossip.erlay_values import ErlayCounters, ErlaySnapshot
from dig_gossip.gossip.flood_set import ROTATE, ROTATE_TIMER, FloodSet
from dig_gossip.gossip.outside import Outsiders
from dig_gossip.gossip.pacing import PACE, Pacer
from dig_gossip.gossip.recent import MAX_RECENT, RECENT_SECS
from dig_gossip.gossip.rounds import Dialer, Ending, Outcome
from dig_gossip.gossip.seen import Stage
from dig_gossip.gossip.transactions import Transaction, Transactions
from dig_gossip.gossip.values import BroadcastResult, PeerMode, Verdict
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.types.sections import ErlayConfig
from dig_gossip.wire.erlay import SALT_BYTES, ReconciliationResponse, ReconciliationSketch
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.streamable import malformed

ROUND: Final = "erlay.round"

MAX_UNJUDGED_PER_PEER: Final = 1000
_JITTER: Final = 0.1
_TX_ID_BYTES: Final = 32
_ANNOUNCEMENT_BYTES: Final = 48


class TransactionCarrier(Protocol):
    """What carries transactions under the policy ``safety_net``; Plumtree does."""

    def broadcast(self, message: Message, exclude: PeerId | None = None) -> BroadcastResult:
        """The application spreads a message."""

    def received(self, peer: PeerId, message: Message, needs_validation: bool) -> list[Effect]:
        """A full message comes."""

    def validated(self, message_hash: bytes, verdict: Verdict) -> list[Effect]:
        """A validator has decided."""


def transaction_id(message: Message) -> bytes | None:
    """The transaction that a message announces; None if it is no announcement."""
    if message.type != ChiaMessageType.NEW_TRANSACTION or len(message.data) != _ANNOUNCEMENT_BYTES:
        return None
    return message.data[:_TX_ID_BYTES]


class Erlay:
    """The transaction engine of one node.

    It never raises on what peers send. Peers without a session are ignored, so late events are
    harmless.

    Bounded: 50 000 transactions, announced for 10 minutes after they were first seen; per session
    see :class:`~dig_gossip.gossip.erlay_links.ErlayLink`; 1000 unjudged announcements a session;
    2000 transactions in a sketch, the newest.

    Cost: a new transaction O(sessions); a round O(pending) plus the sketch.

    Timers: ``("erlay.round", peer)`` for each session that we dialed, ``("erlay.pace", peer)``
    while announcements are held back, ``("erlay.rotate", b"")`` while there are sessions that we
    dialed. Requests have the key ``("erlay.round", peer)``, too.

    :param carrier: carries transactions under the policy ``safety_net``; unused otherwise.
    :param now: monotonic seconds.
    :param rng: source of randomness; unpredictable to peers in production.
    Source: behaviour ERL-001 to ERL-008, ERL-101-X to ERL-105-X, INT-001, INT-004; design D5, D6.
    """

    #: First parts of the keys of timers and requests.
    names: Final = frozenset({ROUND, PACE, ROTATE})

    def __init__(
        self,
        config: ErlayConfig,
        *,
        carrier: TransactionCarrier | None = None,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self.counters = ErlayCounters()
        self._carrier = carrier if config.policy == c.ERLAY_SAFETY_NET else None
        self._minimum = min(config.sketch_capacity, c.ERLAY_MAX_CAPACITY - 1)
        self._interval = max(config.reconciliation_interval_ms / 1000, c.ERLAY_MIN_INTERVAL_SECS)
        self._now = now
        self._rng = rng
        self._links: dict[PeerId, ErlayLink] = {}
        self._dialed = 0
        self._outsiders = Outsiders()
        self._transactions = Transactions()
        self._unjudged: dict[bytes, tuple[PeerId, Transaction]] = {}
        self._unjudged_of: Counter[PeerId] = Counter()
        self._budget = DecodeBudget(now)
        flooded = 0 if self._carrier is not None else config.flood_peer_count
        self._flood_set = FloodSet(flooded, rng)
        self._pacer = Pacer(self._transactions, self.counters, now)

    # --- sessions ---------------------------------------------------------------------------

    def peer_up(
        self, peer: PeerId, mode: PeerMode, *, has_erlay: bool, is_outbound: bool
    ) -> list[Effect]:
        """Take a session in, or change what it can do.

        A peer that has come may lack the transactions of the last seconds.

        :param mode: how the session takes part in gossip.
        :param has_erlay: both sides advertise capability 202.
        :param is_outbound: we dialed it.
        Source: behaviour ERL-001, ERL-007, ERL-104-X.
        """
        link = self._links.get(peer)
        if not has_erlay or mode is PeerMode.CHIA:
            effects = self.peer_down(peer) if link is not None else []
            self._outsiders.add(peer, mode if mode is PeerMode.CHIA else PeerMode.FLOOD)
            return effects
        if link is not None:
            return []
        self._outsiders.remove(peer)
        dialer = None
        if is_outbound:
            salt = self._rng.getrandbits(8 * SALT_BYTES).to_bytes(SALT_BYTES, "little")
            dialer = Dialer(salt, self._minimum)
        link = self._links[peer] = ErlayLink(peer, dialer)
        recent = self._transactions.since(self._now() - RECENT_SECS, MAX_RECENT)
        link.pending = dict.fromkeys(recent)
        if dialer is None:
            return []
        self._dialed += 1
        effects = [SetTimer((ROUND, peer), self._rng.random() * self._next_delay())]
        return effects + self._drawn(self._flood_set.fill(self._links.values()))

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a session; if it was flooded, another one takes its place.

        Source: behaviour ERL-006.
        """
        self._outsiders.remove(peer)
        link = self._links.pop(peer, None)
        if link is None:
            return []
        effects: list[Effect] = []
        if link.dialer is not None:
            self._dialed -= 1
            effects.append(ClearTimer((ROUND, peer)))
        if link.backlog:
            effects.append(ClearTimer((PACE, peer)))
        if link.is_flooded:
            effects += self._drawn(self._flood_set.fill(self._links.values()))
        return effects

    def reconcile_peers(self, peers: Mapping[PeerId, tuple[PeerMode, bool, bool]]) -> list[Effect]:
        """Make the sessions equal to those of the peer table, whatever went wrong before.

        :param peers: mode, ``has_erlay`` and ``is_outbound`` by peer.
        Source: behaviour CON-116-X.
        """
        effects: list[Effect] = []
        for peer in [*self._links, *self._outsiders.sessions]:
            if peer not in peers:
                effects += self.peer_down(peer)
        for peer, (mode, has_erlay, is_outbound) in peers.items():
            effects += self.peer_up(peer, mode, has_erlay=has_erlay, is_outbound=is_outbound)
        return effects

    def pause(self, peer: PeerId) -> list[Effect]:
        """Hold no rounds with a peer whose queue is too long.

        Source: behaviour ERL-004, BP-003.
        """
        if (link := self._links.get(peer)) is not None:
            link.is_paused = True
        return []

    def resume(self, peer: PeerId) -> list[Effect]:
        """Hold rounds again."""
        if (link := self._links.get(peer)) is not None:
            link.is_paused = False
        return []

    # --- transactions -----------------------------------------------------------------------

    def broadcast(self, message: Message, exclude: PeerId | None = None) -> BroadcastResult:
        """Spread an announcement of the application's.

        New here: to flooded peers, to every session without ERLAY, and into the sets of all
        others. Known already: only to those plain Chia sessions that lack it.

        :param exclude: a session that is to get nothing, because the transaction is its own.
        :returns: what to do; each announcement counts as a peer reached, sets do not.
        :raises ClientError: (malformed) it announces no transaction.
        Source: behaviour ERL-002; design D6.
        """
        tx_id = transaction_id(message)
        if tx_id is None:
            raise malformed("the body of NewTransaction has 48 bytes")
        if self._carrier is not None:
            result = self._carrier.broadcast(message, exclude)
            self._note_carried(tx_id, message, exclude, result.effects)
            return result
        known = self._transactions.get(tx_id)
        if known is None:
            known = Transaction(tx_id, message, Stage.LOCAL, self._now())
            self._transactions.add(known)
        elif known.stage in (Stage.LOCAL, Stage.REMOTE):
            known.stage = Stage.LOCAL
            peers = self._outsiders.owed(tx_id, flood=True, chia=True, exclude=exclude)
            return BroadcastResult(self._flood(peers, known.message), 0)
        self._settle_verdict(message_hash(known.message))  # the application has given its own
        known.stage = Stage.LOCAL
        return BroadcastResult(self._spread(known, exclude, chia=True), 0)

    def received(self, peer: PeerId, message: Message, needs_validation: bool) -> list[Effect]:
        """Take in a ``NewTransaction`` without a correlation id.

        :param needs_validation: a validator is registered for it: ``Validate`` is returned, and
            :meth:`validated` decides.
        Source: behaviour ERL-002; design D6.
        """
        link, outsider = self._links.get(peer), self._outsiders.sessions.get(peer)
        if link is None and outsider is None:
            return []
        tx_id = transaction_id(message)
        if tx_id is None:
            return [Penalize(peer, PenaltyReason.MALFORMED_MESSAGE)]
        if link is not None:
            link.settle(tx_id)
        elif outsider is not None:
            outsider.known.add(tx_id)
        if self._carrier is not None:
            effects = self._carrier.received(peer, message, needs_validation)
            self._note_delivered(effects)
            return effects
        is_chia = outsider is not None and outsider.mode is PeerMode.CHIA
        known = self._transactions.get(tx_id)
        if known is None:
            return self._received_first(peer, tx_id, message, is_chia, needs_validation)
        if known.stage is Stage.HELD and not is_chia:
            known.stage = Stage.REMOTE
            return self._spread(known, peer, chia=False)
        self.counters.transactions_repeated += 1
        if known.aware is not None:
            known.aware.add(peer)
        return []

    def validated(self, message_hash: bytes, verdict: Verdict) -> list[Effect]:
        """Deliver and spread a transaction, or drop it, as its validator says.

        A verdict that nobody waits for (any more) changes nothing.

        Source: behaviour PLT-104-X.
        """
        if self._carrier is not None:
            effects = self._carrier.validated(message_hash, verdict)
            self._note_delivered(effects)
            return effects
        settled = self._settle_verdict(message_hash)
        if settled is None:
            return []
        peer, transaction = settled
        if verdict is not Verdict.ACCEPT:
            transaction.stage, transaction.aware = Stage.REFUSED, None
            self.counters.transactions_refused += 1
            return []
        self.counters.transactions_delivered += 1
        effects = [Deliver(peer, transaction.message)]
        if transaction.stage is Stage.PENDING:
            transaction.stage = Stage.REMOTE
            effects += self._spread(transaction, peer, chia=False)
        transaction.aware = None
        return effects

    # --- rounds -----------------------------------------------------------------------------

    def requested(self, peer: PeerId, message: Message) -> list[Effect]:
        """Take in 211, which only peers that dialed us may send.

        Source: behaviour ERL-003 to ERL-005; wire §13.3.
        """
        link = self._links.get(peer)
        if link is None:
            return []
        if link.dialer is not None or message.id is None:
            return self._violated(peer)
        try:
            request = ReconciliationSketch.from_bytes(message.data)
        except ClientError:
            return [Penalize(peer, PenaltyReason.MALFORMED_MESSAGE)]
        capacity = request.sketch_capacity
        outcome = link.acceptor.requested(
            request,
            _newest(link.pending),
            self._now(),
            is_paused=link.is_paused,
            may_decode=self._budget.allows(link, capacity),
        )
        if outcome.response is None:
            return self._violated(peer)
        if outcome.ending in (Ending.DECODED, Ending.EXTENDING, Ending.FAILED):
            self._budget.spend(link, capacity)
        self.counters.rounds_answered += request.sketch_offset == 0
        reply = Message(ReconciliationResponse.OPCODE, message.id, bytes(outcome.response))
        return [Reply(peer, reply), *self._conclude(link, outcome)]

    def answered(self, peer: PeerId, key: TimerKey, answer: Message | None) -> list[Effect]:
        """Take in 212, or learn that none will come.

        Source: behaviour ERL-004, ERL-005; wire §13.3.
        """
        link = self._links.get(peer)
        dialer = link.dialer if link is not None else None
        if link is None or dialer is None or not dialer.is_busy:
            return []
        if answer is None or answer.type != ReconciliationResponse.OPCODE:
            dialer.abandon()
            self.counters.rounds_timed_out += 1
            return []
        try:
            response = ReconciliationResponse.from_bytes(answer.data)
        except ClientError:
            dialer.abandon()
            return [Penalize(peer, PenaltyReason.MALFORMED_MESSAGE)]
        outcome = dialer.answered(response)
        if outcome.ending is Ending.VIOLATED:
            return self._violated(peer)
        effects = self._conclude(link, outcome)
        if outcome.ask is not None:
            effects.append(self._ask(peer, outcome.ask))
        return effects

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Do what is due; unknown keys are harmless."""
        if key == ROTATE_TIMER:
            return self._drawn(self._flood_set.rotate(self._links.values()))
        name, peer_bytes = key
        link = self._links.get(PeerId(peer_bytes)) if len(peer_bytes) == 32 else None
        if link is None:
            return []
        if name == PACE:
            return self._pacer.drain(link)
        if name != ROUND or link.dialer is None:
            return []
        effects: list[Effect] = [SetTimer(key, self._next_delay())]
        if not (link.dialer.is_busy or link.is_paused):
            self.counters.rounds_begun += 1
            request, colliding = link.dialer.begin(_newest(link.pending))
            effects += self._pacer.announce(link, [tx for tx in colliding if link.settle(tx)])
            effects.append(self._ask(link.peer, request))
        return effects

    # --- for stats and tests ----------------------------------------------------------------

    def snapshot(self) -> ErlaySnapshot:
        """Take one consistent picture. Cost: O(sessions)."""
        links = self._links.values()
        return ErlaySnapshot(
            flooded=frozenset(link.peer for link in links if link.is_flooded),
            pending={link.peer: len(link.pending) for link in links if not link.is_flooded},
            outside=frozenset(self._outsiders.sessions),
            busy=frozenset(link.peer for link in links if link.dialer and link.dialer.is_busy),
            paused=frozenset(link.peer for link in links if link.is_paused),
            known=len(self._transactions),
            unjudged=len(self._unjudged),
            backlog=sum(len(link.backlog) for link in links),
            counters=attrs.asdict(self.counters),
        )

    def is_pending(self, peer: PeerId, tx_id: bytes) -> bool:
        """Whether a peer may lack a transaction and will be asked about it."""
        link = self._links.get(peer)
        return link is not None and tx_id in link.pending

    # --- internals: transactions ------------------------------------------------------------

    def _received_first(
        self, peer: PeerId, tx_id: bytes, message: Message, is_chia: bool, needs_validation: bool
    ) -> list[Effect]:
        if needs_validation and self._unjudged_of[peer] >= MAX_UNJUDGED_PER_PEER:
            return []
        stage = Stage.HELD if is_chia else Stage.PENDING if needs_validation else Stage.REMOTE
        transaction = Transaction(tx_id, message, stage, self._now())
        self._transactions.add(transaction)
        if needs_validation:
            transaction.aware = {peer}
            digest = message_hash(message)
            self._unjudged[digest] = (peer, transaction)
            self._unjudged_of[peer] += 1
            return [Validate(peer, message, digest)]
        self.counters.transactions_delivered += 1
        effects: list[Effect] = [Deliver(peer, message)]
        if not is_chia:
            effects += self._spread(transaction, peer, chia=False)
        return effects

    def _settle_verdict(self, digest: bytes) -> tuple[PeerId, Transaction] | None:
        settled = self._unjudged.pop(digest, None)
        if settled is not None:
            self._unjudged_of[settled[0]] -= 1
            if not self._unjudged_of[settled[0]]:
                del self._unjudged_of[settled[0]]
        return settled

    def _spread(
        self, transaction: Transaction, source: PeerId | None, *, chia: bool
    ) -> list[Effect]:
        """Tell flooded peers and sessions without ERLAY; put it into the sets of all others."""
        tx_id = transaction.tx_id
        aware = transaction.aware or set()
        peers = self._outsiders.owed(tx_id, flood=True, chia=chia, exclude=source)
        effects: list[Effect] = []
        flooded = []
        for peer, link in self._links.items():
            if peer == source or peer in aware:
                continue
            if link.is_flooded:
                flooded.append(peer)
            else:
                effects += self._add(link, tx_id)
        return self._flood((*flooded, *peers), transaction.message) + effects

    def _flood(self, peers: tuple[PeerId, ...], message: Message) -> list[Effect]:
        self.counters.transactions_flooded += len(peers)
        return [Send(peers, message)] if peers else []

    def _add(self, link: ErlayLink, tx_id: bytes) -> list[Effect]:
        oldest = link.add(tx_id)
        if oldest is None:
            return []
        self.counters.transactions_overflowed += 1
        message = self._transactions.announcement(oldest, self._now())
        return [Send((link.peer,), message)] if message is not None else []

    def _note_delivered(self, effects: Iterable[Effect]) -> None:
        """Look for a transaction that the carrier has just accepted."""
        for effect in effects:
            if isinstance(effect, Deliver):
                tx_id = transaction_id(effect.message)
                if tx_id is not None and effect.peer not in self._chia():
                    self._note_carried(tx_id, effect.message, effect.peer, effects)

    def _note_carried(
        self, tx_id: bytes, message: Message, source: PeerId | None, effects: Iterable[Effect]
    ) -> None:
        """Put a transaction of the carrier's into the sets of those that it does not send it to."""
        if self._transactions.get(tx_id) is not None:
            return
        self._transactions.add(Transaction(tx_id, message, Stage.REMOTE, self._now()))
        told = {source}
        for effect in effects:
            if isinstance(effect, Send) and effect.message.type == message.type:
                told.update(effect.peers)
        for peer, link in self._links.items():
            if peer not in told:
                link.add(tx_id)

    def _chia(self) -> set[PeerId]:
        modes = self._outsiders.modes()
        return {peer for peer, mode in modes.items() if mode is PeerMode.CHIA}

    # --- internals: rounds ------------------------------------------------------------------

    def _ask(self, peer: PeerId, request: ReconciliationSketch) -> Request:
        message = Message(request.OPCODE, None, bytes(request))
        return Request(peer, message, (ROUND, peer), c.ERLAY_ROUND_TIMEOUT_SECS)

    def _conclude(self, link: ErlayLink, outcome: Outcome) -> list[Effect]:
        """Count an outcome, announce, and settle exactly what was compared."""
        name = outcome.ending.value
        setattr(self.counters, name, getattr(self.counters, name) + 1)
        # What the peer has announced since is pending no more.
        wanted = [tx_id for tx_id in outcome.announce if link.settle(tx_id)]
        for tx_id in outcome.settled:
            link.settle(tx_id)
        return self._pacer.announce(link, wanted)

    def _violated(self, peer: PeerId) -> list[Effect]:
        self.counters.rounds_violated += 1
        return [Penalize(peer, PenaltyReason.PROTOCOL_VIOLATION)]

    def _next_delay(self) -> float:
        """Seconds between two rounds with one peer."""
        stretch = max(1.0, self._dialed / c.ERLAY_ROUNDS_PER_INTERVAL)
        return self._interval * stretch * self._rng.uniform(1 - _JITTER, 1 + _JITTER)

    def _drawn(self, drawing: tuple[list[ErlayLink], list[Effect]]) -> list[Effect]:
        """Tell peers that are flooded from now on what they may lack."""
        new, effects = drawing
        for link in new:
            waiting, link.pending = list(link.pending), {}
            effects += self._pacer.announce(link, waiting)
        return effects


def _newest(pending: dict[bytes, None]) -> Iterable[bytes]:
    """The newest transactions, as many as go into one sketch."""
    return islice(reversed(pending), c.ERLAY_MAX_SNAPSHOT)
