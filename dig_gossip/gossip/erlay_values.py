"""What ERLAY counts, and what it shows of itself.

Engines row of the stage table; pure.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from dig_gossip.types.peer import PeerId


@attrs.define(kw_only=True)
class ErlayCounters:
    """Running totals of one engine; they never decrease.

    :ivar transactions_delivered: announcements handed to the application.
    :ivar transactions_repeated: announcements of transactions that were known already.
    :ivar transactions_refused: by the validator.
    :ivar transactions_flooded: announcements sent at once, one a peer.
    :ivar transactions_reconciled: announcements sent because sets were compared, one a peer.
    :ivar transactions_overflowed: announcements sent because too many waited for one peer.
    :ivar rounds_begun: by us.
    :ivar rounds_answered: for others.
    :ivar rounds_decoded: rounds, at either end, whose difference was decoded.
    :ivar rounds_one_sided: rounds in which one set was empty, so that nothing had to be decoded.
    :ivar rounds_extended: rounds that needed a second, larger sketch.
    :ivar rounds_failed: rounds after which both sides announced all they had.
    :ivar rounds_declined: rounds put off because one side was busy or paused.
    :ivar rounds_violated: rounds that ended because the peer broke a rule.
    :ivar rounds_timed_out: rounds that the peer did not answer.
    """

    transactions_delivered: int = 0
    transactions_repeated: int = 0
    transactions_refused: int = 0
    transactions_flooded: int = 0
    transactions_reconciled: int = 0
    transactions_overflowed: int = 0
    rounds_begun: int = 0
    rounds_answered: int = 0
    rounds_decoded: int = 0
    rounds_one_sided: int = 0
    rounds_extended: int = 0
    rounds_failed: int = 0
    rounds_declined: int = 0
    rounds_violated: int = 0
    rounds_timed_out: int = 0


@attrs.frozen(kw_only=True)
class ErlaySnapshot:
    """One consistent picture of an engine.

    :ivar flooded: peers with ERLAY that are told of everything at once.
    :ivar pending: for each other peer with ERLAY how many transactions it may lack.
    :ivar outside: sessions without ERLAY.
    :ivar busy: peers with which a round of ours is under way.
    :ivar paused: peers with which no rounds are held for the time being.
    :ivar known: remembered transactions.
    :ivar unjudged: transactions that await their verdict.
    :ivar backlog: announcements held back so as not to overrun a peer.
    :ivar counters: totals by name.
    """

    flooded: frozenset[PeerId]
    pending: Mapping[PeerId, int]
    outside: frozenset[PeerId]
    busy: frozenset[PeerId]
    paused: frozenset[PeerId]
    known: int
    unjudged: int
    backlog: int
    counters: Mapping[str, int]
