"""Compact blocks: the node's own engine around Plumtree, and mempools that lack something.

Programs row of the stage table. What is published stands for a block of as many transactions as
fit into its size, made from its number. How transactions reach mempools is not simulated: when a
node hears of a block, its mempool has all of the block's transactions but a share, and some that
are in no block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from random import Random
from typing import Final

from dig_gossip.effects import Arrived, Deliver, Effect, Reply, Request, Send, TimerKey
from dig_gossip.gossip.compact import CompactBlocks
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import PeerMode
from dig_gossip.lab.asking import ASKED
from dig_gossip.lab.engine_options import Mempools
from dig_gossip.lab.machine import DIG_KINDS
from dig_gossip.lab.models.frame import ModelFrame, frame
from dig_gossip.lab.scenario import Scenario
from dig_gossip.lab.shell import Shell, node_of, peer_id
from dig_gossip.testing.blocks import PoolProvider, make_block, tx_id_of
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import peer_score
from dig_gossip.wire.compact import (
    NewCompactBlock,
    RequestBlockTransactions,
    RespondBlockTransactions,
)
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType

_BLOCK: Final = int(ChiaMessageType.RESPOND_BLOCK)
_COMPACT: Final = int(NewCompactBlock.OPCODE)
_REQUEST: Final = int(RequestBlockTransactions.OPCODE)
_RESPOND: Final = int(RespondBlockTransactions.OPCODE)

#: Answers with transactions count as control: they are no copies.
KINDS: Final[Mapping[int, str]] = {
    **DIG_KINDS,
    _BLOCK: "payload",
    _COMPACT: "payload",
    _REQUEST: "control",
    _RESPOND: "control",
}
#: A block without transactions, and what is around each of them.
_EMPTY_BYTES: Final = len(make_block(0, []).data)
_AROUND_BYTES: Final = 4
_NUMBER_BYTES: Final = 8  # of a payload
_HEIGHT: Final = slice(4, 8)  # of a block's data, and ...
_COMPACT_HEIGHT: Final = slice(32, 36)  # ... of its compact form's


@lru_cache(maxsize=32)
def transactions_of(height: int, count: int, size: int) -> tuple[bytes, ...]:
    """The transactions of a block, the same in every run."""
    rng = Random(f"block {height}")
    return tuple(rng.randbytes(size) for _ in range(count))


@lru_cache(maxsize=32)
def _ids_of(height: int, count: int, size: int) -> tuple[bytes, ...]:
    return tuple(map(tx_id_of, transactions_of(height, count, size)))


def count_of(size: int, options: Mempools) -> int:
    """How many transactions a block of so many bytes has; what is left fills its header."""
    return max(0, (size - _EMPTY_BYTES) // (options.transaction_bytes + _AROUND_BYTES))


def block_of(payload: Message, options: Mempools) -> Message:
    """The block that a simulated message stands for, of the same size but for very small ones."""
    size, count = len(payload.data), count_of(len(payload.data), options)
    transactions = transactions_of(_number(payload), count, options.transaction_bytes)
    filling = size - _EMPTY_BYTES - count * (options.transaction_bytes + _AROUND_BYTES)
    return make_block(_number(payload), transactions, bytes(max(0, filling)))


class Mempool(PoolProvider):
    """What one node has of the blocks that are under way."""

    def __init__(self, options: Mempools, rng: Random) -> None:
        super().__init__()
        self._options = options
        self._seed = rng.random()
        self._expected: dict[int, tuple[bytes, ...]] = {}
        self.pool.update((rng.randbytes(32), b"") for _ in range(options.others))

    def expect(self, height: int, count: int) -> None:
        """Have what this node has of a block's transactions, before the block is here."""
        if height in self._expected:
            return
        options = self._options
        size = options.transaction_bytes
        seed = f"{height}" if options.same else f"{self._seed} {height}"
        lacking = set(Random(seed).sample(range(count), round(options.lacking * count)))
        pairs = zip(_ids_of(height, count, size), transactions_of(height, count, size), strict=True)
        found = {tx_id: tx for place, (tx_id, tx) in enumerate(pairs) if place not in lacking}
        self._expected[height] = tuple(found)
        self.pool.update(found)

    def confirmed(self, height: int) -> None:
        """Drop what a block that is here has confirmed."""
        for tx_id in self._expected.get(height, ()):
            self.pool.pop(tx_id, None)
        self._expected[height] = ()


class BlockMachine(Shell):
    """One node."""

    def __init__(
        self, scenario: Scenario, node: int, now: Callable[[], float], rng: Random
    ) -> None:
        super().__init__()
        self._options = scenario.mempools
        self.tree = Plumtree(
            scenario.plumtree,
            fanout=scenario.settings.fanout,
            max_seen=100_000,
            now=now,
            rng=rng,
        )
        self.pool = Mempool(scenario.mempools, rng)
        self.compact = CompactBlocks(scenario.compact_blocks, self.pool, now=now)
        #: the objects by which the simulator knows blocks, by height
        self._payloads: dict[int, Message] = {}

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """Take a link in, with compact blocks at both ends."""
        name = peer_id(peer)
        return self.done(
            [*self.compact.peer_up(name), *self.tree.peer_up(name, PeerMode.TREE, 0.0)]
        )

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a link; what was asked of it is asked of others."""
        name = peer_id(peer)
        lost = self.asks_lost(name)
        return lost + self.done([*self.compact.peer_down(name), *self.tree.peer_down(name)])

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Pass a round trip on, with the score that the node would give the peer."""
        return self.done(self.tree.rtt_updated(peer_id(peer), rtt, peer_score(0, rtt * 1000)))

    def publish(self, message: Message) -> list[Effect]:
        """Broadcast a block; its maker has all of its transactions."""
        block = block_of(message, self._options)
        self._payloads[_number(message)] = message
        self.compact.block_known(block)
        return self.done(self.tree.broadcast(block).effects)

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Route a frame as the service's router does; there is no validator."""
        name, content = peer_id(peer), message
        if isinstance(message, ModelFrame):
            content = message.content
            assert message.payload is not None
            height = _number(message.payload)
            if height not in self._payloads:
                self._payloads[height] = message.payload
                self.pool.expect(height, count_of(len(message.payload.data), self._options))
        kind = content.type
        if kind == _BLOCK:
            return self.done(self.tree.received(name, content, False))
        if kind in (_COMPACT, _REQUEST):
            return self.done(self.compact.received(name, content))
        if kind == _RESPOND:
            return self.answer_came(name, content)
        return self.done(self.tree.control_received(name, content))

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Route a timer."""
        if key[0] == ASKED:
            return self.ask_expired(key)
        engine = self.compact if key[0] in self.compact.names else self.tree
        return self.done(engine.timer_fired(key))

    def answered(self, peer: PeerId, key: TimerKey, answer: Message | None) -> list[Effect]:
        """All requests of engines are those of compact blocks."""
        return self.compact.answered(peer, key, answer)

    def done(self, effects: list[Effect]) -> list[Effect]:
        """Choose the form in which each peer gets a block, then as every machine."""
        chosen: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send) and effect.message.type == _BLOCK and not effect.verbatim:
                chosen += self.compact.outbound(effect.peers, effect.message)
            else:
                chosen.append(effect)
        return super().done(chosen)

    def framed(self, message: Message) -> Message:
        """Let a block in either form carry the object by which the simulator knows it."""
        if message.type == _BLOCK:
            height = message.data[_HEIGHT]
        elif message.type == _COMPACT:
            height = message.data[_COMPACT_HEIGHT]
        else:
            return message
        payload = self._payloads[int.from_bytes(height, "big")]
        return frame(message.type, len(message), message, payload)

    def other(self, effect: Effect) -> list[Effect]:
        """Pass a block that was put together to the tree, and one that is new to nobody else."""
        if isinstance(effect, Arrived):
            return self.done(self.tree.received(effect.peer, effect.message, False))
        if isinstance(effect, Deliver):
            height = int.from_bytes(effect.message.data[_HEIGHT], "big")
            self.compact.block_known(effect.message)
            self.pool.confirmed(height)
            return [Deliver(node_of(effect.peer), self._payloads[height])]
        assert not isinstance(effect, Reply | Request)
        return []

    def tree_links(self) -> int:
        """Eager peers."""
        return len(self.tree.snapshot().eager)

    def counters(self) -> dict[str, float]:
        """What the engines count."""
        tree = {f"tree_{name}": count for name, count in self.tree.snapshot().counters.items()}
        return {**self.compact.snapshot().counters, **tree, **self.charged()}


def _number(payload: Message) -> int:
    return int.from_bytes(payload.data[:_NUMBER_BYTES], "big")
