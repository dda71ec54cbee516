"""Compact blocks: a block travels as its header and six bytes a transaction.

Engines row of the stage table; pure: events in, effects out, no clock, no socket.

A block message is gossiped like any other. Only the form in which it crosses a link differs, if
both ends can: this engine sits at both ends of the link::

    Plumtree --Send(block)--> outbound() ---- 240 header, short ids ----> received()
                                 |                                          | search the mempool
                                 | <------- 209 these are missing --------- | (slices of 1000)
                                 | -------- 210 transactions -------------> |
                                 v                                          v
                              kept for 10 minutes            Arrived(block) --> Plumtree

So a message hash always is that of the full block, whichever way it came; duplicates, announcements
and pulls work as for every message, and what is pulled by its hash comes in full.

One block at the receiving node::

    MATCHING --nothing missing-----------------------------------------> ARRIVED
        |---few missing (by count, or by bytes)--> MISSING --answered---> ARRIVED
        '---many missing--> WHOLE <---no or wrong answer---'  (209 without indices)
                              |---answered-----------------------------> ARRIVED
                              '---no or wrong answer--> BLOCK (the application's own request)
                                      '---no or wrong answer--> WHOLE from the next announcer, ...
    ARRIVED --validator rejects, and a transaction came from the mempool--> WHOLE once more;
              the same bytes again: the sender is charged; others: they are a message of their own

Short ids collide, by chance or by design, so a block that does not hold together is never a reason
to blame anybody before all its transactions came from the same peer.

What hostile peers try, and what stops them:

=====================================  =========================================================
announce headers that are none         the provider hashes them first; charged
announce blocks that do not exist      3 at a time a peer, 32 in all; 5 s for each request, then
                                       the next announcer; Plumtree pulls it anyway
grind short ids that collide           treated as missing; then, at worst, the whole block is asked
answer with other transactions         each must have the short id of its place; charged
ask for old blocks, for all, again     only what the peer was sent, 10 blocks, 10 minutes, twice
                                       the block's bytes a peer
announce huge blocks                   the opcode's row: 2 MiB; 65 535 transactions
=====================================  =========================================================

Divergence: (a) wire §13.2 leaves the whole block to the application (opcode 26). Here 209 without
indices asks for all transactions, the application's own request is the last resort. (b) More than
64 transactions may be asked for in several requests at once, if that is cheaper (``plan``). (c)
CBK-103-X speaks of one identity by header hash; a block that is put together again byte for byte
has one by message hash, and nothing else has to know of compact blocks.

Source: behaviour §23; wire §13.2; BIP 152.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import attrs

from dig_gossip.constants import (
    COMPACT_MAX_ANNOUNCERS,
    COMPACT_MAX_KNOWN,
    COMPACT_MAX_REBUILDING,
    COMPACT_MAX_REBUILDING_PER_PEER,
    COMPACT_REQUEST_TIMEOUT_SECS,
)
from dig_gossip.effects import (
    Arrived,
    Effect,
    Penalize,
    Reply,
    Request,
    Send,
    SetTimer,
    TimerKey,
)
from dig_gossip.errors import GossipError
from dig_gossip.gossip.compact_building import (
    FreshTransactions,
    KeptBlock,
    KeptBlocks,
    Predictions,
    build,
)
from dig_gossip.gossip.compact_matching import Asking, Rebuilding, plan
from dig_gossip.gossip.compact_provider import ICompactBlockProvider, SplitBlock
from dig_gossip.gossip.compact_values import CompactCounters, CompactSnapshot
from dig_gossip.types.config import CompactBlockConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire import registry
from dig_gossip.wire.compact import (
    MAX_BLOCK_TRANSACTIONS,
    NewCompactBlock,
    RequestBlockTransactions,
    RespondBlockTransactions,
)
from dig_gossip.wire.message import Message, message_hash

#: A timer of no length: the rest of a search, one reactor turn later.
MATCH: Final = "compact.match"
#: A request; the key is the header hash and the number of the request.
ASK: Final = "compact.ask"
_HASH_BYTES: Final = 32

T = TypeVar("T")


class CompactBlocks:
    """The compact block engine of one node.

    Bounded: 32 blocks under way, 3 a peer, 8 announcers each; 10 kept blocks and 64 MiB; 1000
    header hashes; 4096 fresh transactions; 32 doubtful blocks, and the lacking indices of 32.

    Cost: sending and receiving O(transactions); searching O(mempool) in slices of 1000.

    Timers: ``("compact.match", header_hash)``. Requests: ``("compact.ask", header_hash + number)``.

    :param provider: must not raise; the router guards it.
    :param now: monotonic seconds.
    Source: behaviour CBK-001 to CBK-006, CBK-101-X to CBK-105-X.
    """

    names: Final = frozenset({MATCH, ASK})

    def __init__(
        self,
        config: CompactBlockConfig,
        provider: ICompactBlockProvider,
        *,
        now: Callable[[], float],
    ) -> None:
        self.provider = provider
        self.opcodes = frozenset(provider.opcodes)
        self.counters = CompactCounters()
        self._config = config
        self._peers: set[PeerId] = set()
        self._kept = KeptBlocks(now)
        self._fresh = FreshTransactions(now)
        self._active: dict[bytes, Rebuilding] = {}
        self._asked: Counter[PeerId] = Counter()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lacked: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._doubtful: OrderedDict[bytes, Rebuilding] = OrderedDict()
        self._predictions = Predictions()
        self._last: tuple[Message, SplitBlock | None] | None = None

    # --- sessions ---------------------------------------------------------------------------

    def peer_up(self, peer: PeerId) -> list[Effect]:
        """Take in a session of which both ends have capability 204."""
        self._peers.add(peer)
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a session; what was asked of it is asked of others."""
        self._peers.discard(peer)
        effects: list[Effect] = []
        for rebuilding in list(self._active.values()):
            if peer in rebuilding.announcers:
                rebuilding.announcers.remove(peer)
            if rebuilding.peer == peer and rebuilding.asking is not Asking.NOTHING:
                effects += self._next_announcer(rebuilding)
        return effects

    # --- sending ----------------------------------------------------------------------------

    def transaction_heard(self, tx_id: bytes) -> None:
        """Note that a transaction was announced: for a while others may lack it.  CBK-001"""
        self._fresh.heard(tx_id)

    def block_known(self, message: Message) -> None:
        """Note that the application has a block: it need not be put together any more."""
        split = self._split(message)
        if split is not None:
            self._finish(split.header_hash)

    def outbound(self, peers: tuple[PeerId, ...], message: Message) -> list[Send]:
        """Choose the form in which each peer gets a block.

        Source: behaviour CBK-001, CBK-104-X.
        """
        capable = tuple([peer for peer in peers if peer in self._peers])
        compact = self._compact(message) if capable else None
        if compact is None:
            return [Send(peers, message)]
        kept, form = compact
        for peer in capable:
            kept.served.setdefault(peer, 0)
        counters = self.counters
        counters.compact_sent += len(capable)
        counters.compact_sent_bytes += len(capable) * len(form)
        counters.compact_full_bytes += len(capable) * len(message)
        others = tuple([peer for peer in peers if peer not in self._peers])
        return [Send(capable, form), *([Send(others, message)] if others else [])]

    def _compact(self, message: Message) -> tuple[KeptBlock, Message] | None:
        """Find or make the compact form of a block; None if it must go in full."""
        split = self._split(message)
        if split is None:
            self.counters.compact_not_split += 1
            return None
        kept = self._kept.get(split.header_hash)
        if kept is None or kept.message != message:
            kept = self._kept.add(message, split)
        if kept.compact is None:
            body = build(split, self._prefilled(split))
            kept.compact = Message(body.OPCODE, None, bytes(body))
        if len(kept.compact) >= len(message):
            self.counters.compact_not_split += 1
            return None
        return kept, kept.compact

    def _split(self, message: Message) -> SplitBlock | None:
        """Take a block apart, if it can be put together again."""
        if self._last is not None and self._last[0] is message:
            return self._last[1]
        split = self.provider.split(message)
        if split is not None:
            again = self.provider.join(
                split.header_hash, split.height, split.header, split.transactions
            )
            if (
                again != message
                or len(split.tx_ids) != len(split.transactions)
                or len(split.transactions) > MAX_BLOCK_TRANSACTIONS
            ):
                split = None
        self._last = (message, split)
        return split

    def _prefilled(self, split: SplitBlock) -> list[int]:
        """What others will probably lack: what was not here either, and what is fresh.

        The first transaction is prefilled in any case.
        """
        room = self._config.prefill_bytes * self._predictions.usefulness
        lacked = self._lacked.get(split.header_hash, ())
        chosen = []
        fresh = [index for index, tx_id in enumerate(split.tx_ids) if tx_id in self._fresh]
        for index in dict.fromkeys((*lacked, *fresh)):
            if 0 < index < len(split.transactions) and len(split.transactions[index]) <= room:
                room -= len(split.transactions[index])
                chosen.append(index)
        return chosen

    # --- receiving --------------------------------------------------------------------------

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Take in 240 or 209.

        Source: behaviour CBK-101-X, CBK-102-X, CBK-103-X.
        """
        if peer not in self._peers:
            self.counters.compact_refused += 1
            return []
        try:
            if message.type == NewCompactBlock.OPCODE:
                return self._announced(peer, NewCompactBlock.from_bytes(message.data))
            if message.type == RequestBlockTransactions.OPCODE:
                body = RequestBlockTransactions.from_bytes(message.data)
                return self._requested(peer, message.id, body)
        except GossipError:
            return [Penalize(peer, PenaltyReason.MALFORMED_MESSAGE)]
        return []

    def _requested(
        self, peer: PeerId, message_id: int | None, body: RequestBlockTransactions
    ) -> list[Effect]:
        if body.violation() is not None:
            return [Penalize(peer, PenaltyReason.PROTOCOL_VIOLATION)]
        kept = self._kept.get(body.block_hash)
        answer = None if kept is None else kept.serve(peer, body)
        if answer is None:
            self.counters.compact_unserved += 1
            return []
        self.counters.compact_served += 1
        lacked = self._lacked.get(body.block_hash)
        if lacked:
            self._predictions.seen(
                len(body.missing_indices), sum(index in lacked for index in body.missing_indices)
            )
        return [Reply(peer, Message(answer.OPCODE, message_id, bytes(answer)))]

    def _announced(self, peer: PeerId, body: NewCompactBlock) -> list[Effect]:
        if body.violation() is not None:
            return [Penalize(peer, PenaltyReason.PROTOCOL_VIOLATION)]
        kept = self._kept.get(body.header_hash)
        if kept is not None:
            self.counters.compact_repeated += 1
            return [Arrived(peer, kept.message)]  # a duplicate, to Plumtree
        rebuilding = self._active.get(body.header_hash)
        if rebuilding is not None:
            self.counters.compact_repeated += 1
            known = (rebuilding.peer, *rebuilding.announcers)
            if peer not in known and len(known) <= COMPACT_MAX_ANNOUNCERS:
                rebuilding.announcers.append(peer)
            return []
        if body.header_hash in self._known:
            self.counters.compact_repeated += 1
            return []
        if (
            len(self._active) >= COMPACT_MAX_REBUILDING
            or self._asked[peer] >= COMPACT_MAX_REBUILDING_PER_PEER
        ):
            self.counters.compact_refused += 1
            return []
        if self.provider.header_hash(body.header) != body.header_hash:
            return [Penalize(peer, PenaltyReason.PROTOCOL_VIOLATION)]
        self.counters.compact_received += 1
        self.counters.compact_prefilled += len(body.prefilled_txs)
        rebuilding = Rebuilding(peer, body, self.provider.mempool() if body.short_tx_ids else ())
        self._active[body.header_hash] = rebuilding
        self._asked[peer] += 1
        return self._match(rebuilding)

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Go on with a search; unknown keys are harmless."""
        rebuilding = self._active.get(key[1])
        if rebuilding is None or rebuilding.asking is not Asking.NOTHING:
            return []
        return self._match(rebuilding)

    def _match(self, rebuilding: Rebuilding) -> list[Effect]:
        """CBK-003, CBK-005."""
        if not rebuilding.match():
            return [SetTimer((MATCH, rebuilding.header_hash), 0.0)]
        rebuilding.fill(self.provider.transaction)
        counters = self.counters
        counters.compact_matched += rebuilding.matched
        counters.compact_ambiguous += rebuilding.ambiguous
        missing = rebuilding.missing()
        counters.compact_missing += len(missing)
        unexpected = tuple(self._unexpected(rebuilding.compact))
        rebuilding.lacked = (*missing, *unexpected)
        optional = [each for each in rebuilding.compact.prefilled_txs if each.index]
        self._predictions.seen(len(optional), sum(index > 0 for index in unexpected))
        if not missing:
            return self._complete(rebuilding)
        if rebuilding.peer not in self._peers:
            return self._next_announcer(rebuilding)
        groups = plan(rebuilding, self._config)
        if not groups:
            return self._ask_whole(rebuilding)
        rebuilding.asking = Asking.MISSING
        return [self._ask(rebuilding, indices) for indices in groups]

    def _unexpected(self, compact: NewCompactBlock) -> Iterator[int]:
        """The prefilled transactions that are not in the mempool."""
        for filled in compact.prefilled_txs:
            tx_id = self.provider.tx_id(filled.transaction)
            if tx_id is not None and self.provider.transaction(tx_id) is None:
                yield filled.index

    # --- asking -----------------------------------------------------------------------------

    def _ask(self, rebuilding: Rebuilding, indices: tuple[int, ...]) -> Request:
        body = RequestBlockTransactions(rebuilding.header_hash, indices)
        return self._request(rebuilding, indices, Message(body.OPCODE, None, bytes(body)))

    def _request(
        self, rebuilding: Rebuilding, indices: tuple[int, ...], message: Message
    ) -> Request:
        number, rebuilding.requests = rebuilding.requests, rebuilding.requests + 1
        rebuilding.waiting[number] = indices
        key = (ASK, rebuilding.header_hash + number.to_bytes(4, "big"))
        return Request(rebuilding.peer, message, key, COMPACT_REQUEST_TIMEOUT_SECS)

    def _ask_whole(self, rebuilding: Rebuilding) -> list[Effect]:
        rebuilding.forget_transactions()
        rebuilding.asking = Asking.WHOLE
        return [self._ask(rebuilding, ())]

    def _ask_block(self, rebuilding: Rebuilding) -> list[Effect]:
        """Ask as the application would."""
        rebuilding.forget_transactions()
        rebuilding.asking = Asking.BLOCK
        body = self.provider.block_request(rebuilding.header_hash, rebuilding.compact.height)
        try:
            message = None if body is None else registry.encode(body)
        except GossipError:
            message = None
        if message is None:
            return self._next_announcer(rebuilding)
        return [self._request(rebuilding, (), message)]

    def _next_announcer(self, rebuilding: Rebuilding) -> list[Effect]:
        """Turn to another peer that has the block; give up if there is none.  CBK-004"""
        if rebuilding.announcers:
            self._release(rebuilding.peer)
            rebuilding.peer = rebuilding.announcers.pop(0)
            self._asked[rebuilding.peer] += 1
            return self._ask_whole(rebuilding)
        self._drop(rebuilding)
        self.counters.compact_gave_up += 1
        return []

    def _failed(self, rebuilding: Rebuilding) -> list[Effect]:
        """Take the next step down after no answer, or a wrong one."""
        if rebuilding.peer not in self._peers:
            return self._next_announcer(rebuilding)
        if rebuilding.asking is Asking.MISSING:
            return self._ask_whole(rebuilding)
        if rebuilding.asking is Asking.WHOLE:
            return self._ask_block(rebuilding)
        return self._next_announcer(rebuilding)

    def answered(self, peer: PeerId, key: TimerKey, answer: Message | None) -> list[Effect]:
        """Take in what a peer answered; None for nothing.

        Source: behaviour CBK-004.
        """
        header_hash, number = key[1][:_HASH_BYTES], int.from_bytes(key[1][_HASH_BYTES:], "big")
        rebuilding = self._active.get(header_hash)
        if rebuilding is None or rebuilding.peer != peer:
            return []
        indices = rebuilding.waiting.pop(number, None)
        if indices is None:
            return []
        if answer is None:
            return self._failed(rebuilding)
        if rebuilding.asking is Asking.BLOCK:
            return self._block_answered(rebuilding, answer)
        try:
            if answer.type != RespondBlockTransactions.OPCODE:
                return self._failed(rebuilding)  # Chia's error
            body = RespondBlockTransactions.from_bytes(answer.data)
        except GossipError:
            effects: list[Effect] = [Penalize(peer, PenaltyReason.MALFORMED_MESSAGE)]
            return effects + self._failed(rebuilding)
        if body.block_hash != header_hash or not self._placed(rebuilding, indices, body):
            effects = [Penalize(peer, PenaltyReason.PROTOCOL_VIOLATION)]
            return effects + self._failed(rebuilding)
        return [] if rebuilding.waiting else self._complete(rebuilding)

    def _placed(
        self, rebuilding: Rebuilding, indices: tuple[int, ...], body: RespondBlockTransactions
    ) -> bool:
        """Put transactions in their places, if they are what was asked for."""
        tx_id = self.provider.tx_id
        if rebuilding.asking is Asking.WHOLE:
            # Another announcer is not bound by the short ids of the first.
            if rebuilding.peer == rebuilding.sender and not rebuilding.agrees(
                body.transactions, tx_id
            ):
                return False
            rebuilding.slots = list(body.transactions)
            return True
        if len(body.transactions) != len(indices):
            return False
        wanted = set(indices)
        places = [place for place in rebuilding.short_ids() if place[0] in wanted]
        for (index, short), transaction in zip(places, body.transactions, strict=True):
            if not rebuilding.is_at(transaction, short, tx_id):
                return False
            rebuilding.slots[index] = transaction
        return True

    def _block_answered(self, rebuilding: Rebuilding, answer: Message) -> list[Effect]:
        """Take in the answer to the application's own request."""
        message = Message(answer.type, None, answer.data)
        split = self.provider.split(message) if message.type in self.opcodes else None
        if split is None or split.header_hash != rebuilding.header_hash:
            return self._next_announcer(rebuilding)
        self.counters.compact_fetched += 1
        return self._arrived(rebuilding, message)

    # --- done -------------------------------------------------------------------------------

    def _complete(self, rebuilding: Rebuilding) -> list[Effect]:
        """Put the block together."""
        compact = rebuilding.compact
        transactions = [slot for slot in rebuilding.slots if slot is not None]
        message = self.provider.join(
            rebuilding.header_hash, compact.height, compact.header, transactions
        )
        if message is None:
            if rebuilding.asking is not Asking.WHOLE:
                return self._ask_whole(rebuilding)
            effects: list[Effect] = []
            if rebuilding.peer == rebuilding.sender:
                # Everything is as that peer said, and it is no block.
                effects.append(Penalize(rebuilding.peer, PenaltyReason.PROTOCOL_VIOLATION))
            return effects + self._next_announcer(rebuilding)
        counters = self.counters
        if rebuilding.asking is Asking.NOTHING:
            counters.compact_complete += 1
        elif rebuilding.asking is Asking.MISSING:
            counters.compact_partial += 1
        else:
            counters.compact_whole += 1
        return self._arrived(rebuilding, message)

    def _arrived(self, rebuilding: Rebuilding, message: Message) -> list[Effect]:
        """Pass a complete block on; whoever else sent it sent a duplicate."""
        digest = message_hash(message)
        peer = rebuilding.peer
        if rebuilding.blame is not None and rebuilding.blame[0] == digest:
            self._finish(rebuilding.header_hash)
            return [Penalize(peer, rebuilding.blame[1])]
        if rebuilding.asking in (Asking.NOTHING, Asking.MISSING) and rebuilding.matched:
            _remember(self._doubtful, digest, rebuilding)
        _remember(self._lacked, rebuilding.header_hash, rebuilding.lacked)
        self._finish(rebuilding.header_hash)
        sources = [one for one in (peer, *rebuilding.announcers) if one in self._peers]
        rebuilding.forget_transactions()
        rebuilding.announcers = []
        return [Arrived(source, message) for source in sources]

    def rejected(self, digest: bytes, reason: PenaltyReason) -> list[Effect] | None:
        """Hear that the validator rejected a message.

        :returns: None if that is the sender's fault; otherwise the block is asked for once more,
            since a transaction of the mempool may only look like the one that was meant.
        Source: behaviour CBK-105-X.
        """
        rebuilding = self._doubtful.pop(digest, None)
        if rebuilding is None:
            return None
        self.counters.compact_doubted += 1
        header_hash = rebuilding.header_hash
        if rebuilding.sender not in self._peers or header_hash in self._active:
            return []
        rebuilding.blame = (digest, reason)
        self._known.pop(header_hash, None)
        self._active[header_hash] = rebuilding
        self._asked[rebuilding.sender] += 1
        return self._ask_whole(rebuilding)

    def _finish(self, header_hash: bytes) -> None:
        rebuilding = self._active.get(header_hash)
        if rebuilding is not None:
            self._drop(rebuilding)
        _remember(self._known, header_hash, None, COMPACT_MAX_KNOWN)

    def _drop(self, rebuilding: Rebuilding) -> None:
        del self._active[rebuilding.header_hash]
        self._release(rebuilding.peer)

    def _release(self, peer: PeerId) -> None:
        self._asked[peer] -= 1
        if not self._asked[peer]:
            del self._asked[peer]

    # --- for stats and tests ----------------------------------------------------------------

    def snapshot(self) -> CompactSnapshot:
        """Take one consistent picture."""
        return CompactSnapshot(
            rebuilding={header: each.peer for header, each in self._active.items()},
            kept=tuple(self._kept),
            kept_bytes=self._kept.size,
            known=len(self._known),
            recent=len(self._fresh),
            doubtful=len(self._doubtful),
            counters=attrs.asdict(self.counters),
        )


def _remember(
    table: OrderedDict[bytes, T], key: bytes, value: T, limit: int = COMPACT_MAX_REBUILDING
) -> None:
    table[key] = value
    if len(table) > limit:
        table.popitem(last=False)
