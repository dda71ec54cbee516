"""A small application on top of a node: a mempool, blocks, and answers for peers that ask.

Part of the test kit. It does what a full node does with transactions and blocks, without validating
anything: it fetches what is announced, answers who asks (not for what is on a stem only), keeps the
transactions that no block has taken, and makes blocks of them::

    ledger = Ledger(service, random.Random(1))
    ledger.start()                          # in the turn in which the service was started
    ledger.submit(ledger.make_transaction())
    ledger.make_block()
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final

from chia_rs import SpendBundle
from chia_rs.sized_bytes import bytes32
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from dig_gossip.errors import ChannelClosed, GossipError, ServiceNotStarted
from dig_gossip.gossip.values import Verdict
from dig_gossip.service.gossip_service import GossipService
from dig_gossip.testing.blocks import (
    PoolProvider,
    announcement_of,
    make_block,
    make_transaction,
    tx_id_of,
)
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.chia import RequestTransaction, RespondTransaction
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType
from dig_gossip.wire.stem import StemTransaction, announced_tx_id

_FETCH_TIMEOUT_SECS: Final = 3.0
_FETCH_ROUNDS: Final = 20


class Ledger:
    """The application of one node.

    :param compact: whether to supply the provider of compact blocks.
    :param stems: whether transactions of this node are submitted, or announced at once.
    :ivar pool: transactions that no block has taken yet.
    :ivar transactions: all that were ever here, by id.
    :ivar announced: how often each transaction id was delivered as an announcement.
    :ivar blocks: how often each block, by message hash, was delivered; own ones count once.
    :ivar gave_up: announced transactions that no peer would give.
    Unbounded: made for runs that end.
    """

    def __init__(
        self,
        service: GossipService,
        rng: random.Random,
        *,
        compact: bool = True,
        stems: bool = True,
        size: int = 450,
    ) -> None:
        self.service = service
        self.pool = PoolProvider()
        self.transactions: dict[bytes, bytes] = {}
        self.announced: Counter[bytes] = Counter()
        self.blocks: Counter[bytes] = Counter()
        self.gave_up = 0
        self._rng = rng
        self._compact = compact
        self._stems = stems
        self._size = size
        self._fetching: set[bytes] = set()

    def start(self) -> None:
        """Begin to take part; the service has just been started."""
        if self._compact:
            self.service.handle.set_compact_block_provider(self.pool)
        self.service.handle.set_validator(DigMessageType.STEM_TRANSACTION, self._judge_stem)
        self._spawn(self._read())

    def make_transaction(self) -> bytes:
        """A new transaction."""
        return make_transaction(self._rng, self._size)

    def submit(self, transaction: bytes) -> None:
        """Enter a transaction of our own."""
        self._accept(transaction)
        announcement = announcement_of(transaction)
        handle = self.service.handle
        if self._stems:
            tx_id = tx_id_of(transaction)
            handled(handle.submit_transaction(tx_id, transaction, announcement.data))
        else:
            handled(handle.broadcast(announcement))

    def make_block(self, limit: int = 3000) -> Message:
        """Make a block of the mempool, and broadcast it.

        Transactions on a stem only are left out: the block would show who had them first.
        """
        handle = self.service.handle
        chosen = [tx for tx_id, tx in self.pool.pool.items() if not handle.is_stem_only(tx_id)]
        block = make_block(self._rng.randrange(2**32), chosen[:limit])
        self._block_received(block)
        handled(handle.broadcast(block))
        return block

    async def _read(self) -> None:
        async for peer, message in self.service.handle.inbound_receiver():
            self._received(peer, message)

    def _received(self, peer: PeerId, message: Message) -> None:
        tx_id = announced_tx_id(message.type, message.data)
        if tx_id is not None:
            self.announced[tx_id] += 1
            if tx_id not in self.transactions and tx_id not in self._fetching:
                self._fetching.add(tx_id)
                self._spawn(self._fetch(peer, tx_id))
        elif message.type == ChiaMessageType.REQUEST_TRANSACTION:
            self._spawn(self._answer(peer, message))
        elif message.type == ChiaMessageType.RESPOND_TRANSACTION:
            self._accept(message.data)
        elif message.type == ChiaMessageType.RESPOND_BLOCK and message.id is None:
            self._block_received(message)

    def _judge_stem(self, _peer: PeerId, message: Message) -> Verdict | PenaltyReason:
        try:
            stem = StemTransaction.from_bytes(message.data)
            SpendBundle.from_bytes(stem.payload)
        except (GossipError, ValueError):
            return PenaltyReason.MALFORMED_MESSAGE
        return Verdict.ACCEPT if tx_id_of(stem.payload) == stem.tx_id else PenaltyReason.SPAM

    def _accept(self, transaction: bytes) -> None:
        tx_id = tx_id_of(transaction)
        if tx_id not in self.transactions:
            self.transactions[tx_id] = transaction
            self.pool.add(transaction)

    def _block_received(self, block: Message) -> None:
        self.blocks[message_hash(block)] += 1
        split = self.pool.split(block)
        if split is None:
            return
        for transaction in split.transactions:
            self._accept(transaction)
        self.pool.remove(*split.transactions)

    async def _answer(self, peer: PeerId, request: Message) -> None:
        handle = self.service.handle
        transaction = self.transactions.get(request.data)
        if transaction is not None and not handle.is_stem_only(request.data):
            answer = Message(ChiaMessageType.RESPOND_TRANSACTION, request.id, transaction)
            await handle.send_to(peer, answer)

    async def _fetch(self, peer: PeerId, tx_id: bytes) -> None:
        """Ask whoever announced a transaction, then anybody."""
        handle = self.service.handle
        try:
            for _ in range(_FETCH_ROUNDS):
                if tx_id in self.transactions:
                    return
                try:
                    answer: RespondTransaction = await handle.request(
                        peer, RequestTransaction(bytes32(tx_id)), timeout=_FETCH_TIMEOUT_SECS
                    )
                except (ServiceNotStarted, ChannelClosed):
                    return
                except GossipError:
                    others = [c.peer_id for c in await handle.connected_peers()]
                    if others:
                        peer = self._rng.choice(others)
                    else:
                        await deferLater(self.service.node.reactor, 1, lambda: None)
                else:
                    transaction = bytes(answer.transaction)
                    if tx_id_of(transaction) == tx_id:
                        self._accept(transaction)
                        return
                    await handle.penalize_peer(peer, PenaltyReason.SPAM)
            self.gave_up += 1
        except ServiceNotStarted:
            return
        finally:
            self._fetching.discard(tx_id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run; a peer that has gone meanwhile, or a service that has stopped, ends it."""

        def failed(failure: Any) -> None:
            failure.trap(GossipError)

        handled(Deferred.fromCoroutine(work).addErrback(failed))
