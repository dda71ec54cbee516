"""What goes into the gossip engine and comes out of it: modes, verdicts, counters, snapshots.

Engines row of the stage table; pure. Source: behaviour §19.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from dig_gossip.effects import Effect
from dig_gossip.types.peer import PeerId


class PeerMode(enum.Enum):
    """How a session takes part in gossip.

    ``TREE`` advertises capability 201 and speaks Plumtree; ``TREES`` capability 207, too, and has
    trees with tags. ``FLOOD`` tolerates DIG opcodes but
    has no Plumtree: it gets every message in full, forwarded ones included, and no control
    frame. ``CHIA`` is a plain Chia session: it gets only what the application broadcasts, and
    only opcodes that a Chia node accepts unasked.

    Source: design D5, D6; wire §4.2.
    """

    TREES = "trees"
    TREE = "tree"
    FLOOD = "flood"
    CHIA = "chia"


class Verdict(enum.Enum):
    """What a validator says about a message.

    ``ACCEPT`` delivers and forwards it; ``IGNORE`` does neither; ``REJECT`` does neither and
    lets the caller charge the sender.

    Source: behaviour PLT-104-X.
    """

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


class BroadcastResult(NamedTuple):
    """What one ``broadcast`` does.

    :ivar effects: to be performed; every accepted copy of the full message counts as reached.
    :ivar announced: peers that get, or are due to get, an announcement instead; they count too.
    Source: behaviour PLT-105-X.
    """

    effects: list[Effect]
    announced: int


@attrs.define(kw_only=True)
class PlumtreeCounters:
    """Running totals of one engine; they never decrease.

    :ivar delivered: messages handed to the application.
    :ivar duplicates: full frames of messages that were here already, from any session.
    :ivar pushed: full copies sent, one a peer; answers to pulls included.
    :ivar refused: messages that the validator ignored or rejected.
    :ivar validations_dropped: frames dropped because too many awaited their verdict.
    :ivar ihaves_sent: announced hashes, one an entry and a peer.
    :ivar ihaves_ignored: entries beyond a cap, of liars, or of opcodes that are not gossiped.
    :ivar requests_sent: pulls without promotion (RequestByHash).
    :ivar cache_misses: pulls for something that is not in the cache (any more).
    :ivar pulls_limited: pulls not served because of the limits per peer and hash.
    :ivar missing_gave_up: announced messages that no announcer would send.
    :ivar spurious_grafts: fetches that the tree would have made needless with more patience.
    :ivar announcers_distrusted: peers ignored for a while because their announcements were empty.
    :ivar optimizations: links added to a tree for the sake of speed.
    :ivar trees_opened: trees with tags of which we became the root.
    :ivar trees_joined: trees with tags that others opened.
    :ivar trees_refused: trees with tags that went beyond a limit.
    :ivar silences: peers that did not bring what they should, and answered no ping either.
    """

    delivered: int = 0
    duplicates: int = 0
    pushed: int = 0
    refused: int = 0
    validations_dropped: int = 0
    ihaves_sent: int = 0
    ihaves_received: int = 0
    ihaves_ignored: int = 0
    prunes_sent: int = 0
    prunes_received: int = 0
    grafts_sent: int = 0
    grafts_received: int = 0
    requests_sent: int = 0
    requests_received: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    pulls_limited: int = 0
    missing_gave_up: int = 0
    spurious_grafts: int = 0
    announcers_distrusted: int = 0
    optimizations: int = 0
    trees_opened: int = 0
    trees_joined: int = 0
    trees_refused: int = 0
    silences: int = 0


@attrs.frozen(kw_only=True)
class PlumtreeSnapshot:
    """One consistent picture of an engine.

    :ivar eager: peers that get full messages; disjoint from ``lazy``.
    :ivar lazy: peers that get announcements.
    :ivar flood: sessions without Plumtree that get everything in full.
    :ivar chia: plain Chia sessions.
    :ivar trees: trees with tags, each with links of its own; the two sets are the shared tree's.
    :ivar seen: remembered hashes.
    :ivar cached: messages kept for pulls, and ``cached_bytes`` what they take.
    :ivar missing: hashes announced and not here.
    :ivar pending: messages that await their verdict.
    :ivar unannounced: messages of which some lazy peer may still have to be told.
    :ivar lazy_timeout: seconds from an announcement to a graft, as adapted by now.
    :ivar counters: totals by name.
    """

    eager: frozenset[PeerId]
    lazy: frozenset[PeerId]
    flood: frozenset[PeerId]
    chia: frozenset[PeerId]
    trees: int
    seen: int
    cached: int
    cached_bytes: int
    missing: int
    pending: int
    unannounced: int
    lazy_timeout: float
    counters: Mapping[str, int]
