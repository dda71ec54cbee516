"""What compact blocks count, and the picture that tests and statistics take of the engine.

Engines row of the stage table; pure. Source: behaviour §23, STA-101-X.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.define(kw_only=True)
class CompactCounters:
    """Running totals of one engine; they never decrease.

    :ivar compact_sent: blocks sent compact, one a peer; ``compact_sent_bytes`` what that took and
        ``compact_full_bytes`` what the same blocks would have taken in full.
    :ivar compact_not_split: blocks that had to go in full: the provider could not take them apart
        and put them together again, or there was nothing to save.
    :ivar compact_received: blocks that began to be put together here.
    :ivar compact_complete: put together without asking for anything.
    :ivar compact_partial: put together after asking for transactions.
    :ivar compact_whole: put together from all transactions of the block, and
        ``compact_fetched`` got by the application's own request.
    :ivar compact_gave_up: nobody had what was missing; the block comes as any other message.
    :ivar compact_refused: compact blocks beyond the caps, or of peers that may not send any.
    :ivar compact_repeated: compact blocks that were here, or under way, already.
    :ivar compact_doubted: put together here and then refused by the validator: fetched once more.
    :ivar compact_matched: transactions taken from the mempool; ``compact_prefilled``,
        ``compact_missing`` those that came along, and those that were asked for.
    :ivar compact_ambiguous: short ids that two transactions share.
    :ivar compact_served: answers to 209, ``compact_unserved`` requests that got none.
    """

    compact_sent: int = 0
    compact_sent_bytes: int = 0
    compact_full_bytes: int = 0
    compact_not_split: int = 0
    compact_received: int = 0
    compact_complete: int = 0
    compact_partial: int = 0
    compact_whole: int = 0
    compact_fetched: int = 0
    compact_gave_up: int = 0
    compact_refused: int = 0
    compact_repeated: int = 0
    compact_doubted: int = 0
    compact_matched: int = 0
    compact_prefilled: int = 0
    compact_missing: int = 0
    compact_ambiguous: int = 0
    compact_served: int = 0
    compact_unserved: int = 0


@attrs.frozen(kw_only=True)
class CompactSnapshot:
    """One consistent picture of an engine.

    :ivar rebuilding: blocks that are being put together, by header hash, with the peer asked.
    :ivar kept: header hashes of the blocks for which 209 is answered, ``kept_bytes`` their size.
    :ivar known: header hashes remembered as done.
    :ivar recent: transactions remembered as fresh.
    :ivar doubtful: blocks that a validator may still send back.
    """

    rebuilding: Mapping[bytes, bytes]
    kept: tuple[bytes, ...]
    kept_bytes: int
    known: int
    recent: int
    doubtful: int
    counters: Mapping[str, int]
