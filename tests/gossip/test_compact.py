"""The compact block engine: building, matching, asking, serving, and what hostile peers try."""

from __future__ import annotations

from hashlib import sha256
from random import Random
from unittest.mock import patch

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dig_gossip.effects import Arrived, Effect, Penalize, Reply, Request, Send, SetTimer
from dig_gossip.gossip import compact_building, compact_matching
from dig_gossip.gossip.compact import CompactBlocks
from dig_gossip.gossip.compact_provider import ICompactBlockProvider, SplitBlock
from dig_gossip.testing.blocks import PoolProvider, make_block, tx_id_of
from dig_gossip.types.config import CompactBlockConfig
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.compact import (
    NewCompactBlock,
    Prefilled,
    RequestBlockTransactions,
    RespondBlockTransactions,
    short_tx_id,
)
from dig_gossip.wire.dig import RequestStatus
from dig_gossip.wire.message import Message, message_hash
from tests.gossip.engine_case import A, B, C, D, peer_id

VIOLATION = PenaltyReason.PROTOCOL_VIOLATION


def transactions(count: int, size: int = 60, prefix: str = "tx") -> list[bytes]:
    """Distinct transactions."""
    return [f"{prefix} {number} ".encode().ljust(size, b".") for number in range(count)]


TXS = transactions(20)
BLOCK = make_block(7, TXS)


class CompactCase(SynchronousTestCase):
    """One engine, its provider, and a clock."""

    def setUp(self) -> None:
        self.time = 1000.0
        self.provider = PoolProvider()
        self.engine = self.make()

    def make(self, provider: PoolProvider | None = None, **config: object) -> CompactBlocks:
        """An engine with the sessions A, B and C."""
        engine = CompactBlocks(
            CompactBlockConfig(**config),  # type: ignore[arg-type]  # as in the tests
            provider or self.provider,
            now=lambda: self.time,
        )
        for peer in (A, B, C):
            engine.peer_up(peer)
        return engine

    def compact(self, block: Message = BLOCK, **config: object) -> Message:
        """What another node sends of a block."""
        (send,) = self.make(PoolProvider(), **config).outbound((A,), block)
        self.assertEqual(send.message.type, 240)
        return send.message

    def counter(self, name: str) -> int:
        return self.engine.snapshot().counters[name]

    def requests(self, effects: list[Effect]) -> list[tuple[int, ...]]:
        """The indices of each request; nothing else was done."""
        asked = []
        for effect in effects:
            assert isinstance(effect, Request), effect
            self.assertEqual(effect.timeout, 5)
            asked.append(RequestBlockTransactions.from_bytes(effect.message.data).missing_indices)
        return asked

    def answer(self, effect: Effect, *found: bytes, block: Message = BLOCK) -> list[Effect]:
        """Let a peer answer a request with these transactions."""
        assert isinstance(effect, Request)
        body = RespondBlockTransactions(self.header_hash(block), found)
        answer = Message(body.OPCODE, 1, bytes(body))
        return self.engine.answered(effect.peer, effect.key, answer)

    def header_hash(self, block: Message = BLOCK) -> bytes:
        split = self.provider.split(block)
        assert split is not None
        return split.header_hash


class BuildingTests(CompactCase):
    """The sending half."""

    def body(self, message: Message) -> NewCompactBlock:
        return NewCompactBlock.from_bytes(message.data)

    def test_only_those_who_can_get_it_compact(self) -> None:
        """The rest gets the block itself.  CBK-104-X"""
        sends = self.engine.outbound((A, D, B), BLOCK)
        self.assertEqual([send.peers for send in sends], [(A, B), (D,)])
        self.assertEqual([send.message.type for send in sends], [240, 27])
        self.assertIs(sends[1].message, BLOCK)
        self.assertEqual(self.engine.outbound((D,), BLOCK), [Send((D,), BLOCK)])

    def test_first_is_prefilled_and_the_rest_is_short(self) -> None:
        """In block order, under the key of the header hash.  CBK-001, CBK-006"""
        body = self.body(self.compact())
        self.assertIsNone(body.violation())
        self.assertEqual(body.prefilled_txs, (Prefilled(0, TXS[0]),))
        self.assertEqual(body.sip_hash_key, self.header_hash()[:16])
        self.assertEqual(body.height, 7)
        expected = tuple(short_tx_id(body.sip_hash_key, tx_id_of(tx)) for tx in TXS[1:])
        self.assertEqual(body.short_tx_ids, expected)
        self.assertEqual(self.compact(), self.compact())

    def test_what_collides_in_the_block_is_prefilled(self) -> None:
        """Twice the same transaction is the simplest collision.  CBK-001"""
        txs = [*TXS[:5], TXS[3]]
        body = self.body(self.compact(make_block(1, txs)))
        self.assertEqual([filled.index for filled in body.prefilled_txs], [0, 3, 5])

    def test_young_transactions_are_prefilled_for_two_seconds(self) -> None:
        """Others may not have heard of them.  CBK-001"""
        for age, indices in ((1.9, [0, 4]), (2.0, [0])):
            engine = self.make(PoolProvider())
            engine.transaction_heard(tx_id_of(TXS[4]))
            self.time += age
            engine.transaction_heard(tx_id_of(TXS[4]))  # hearing again makes nothing young
            (send,) = engine.outbound((A,), BLOCK)
            filled = self.body(send.message).prefilled_txs
            self.assertEqual([each.index for each in filled], indices)

    def test_what_we_had_to_fetch_is_prefilled(self) -> None:
        """Within the budget, before what is merely young; the first does not count.  CBK-001"""
        self.provider.add(*TXS[:10], *TXS[12:])
        for room, indices in ((10_000, [0, 4, 10, 11]), (120, [0, 10, 11]), (60, [0, 10])):
            self.engine = self.make(prefill_bytes=room)
            (request,) = self.engine.received(A, self.compact())
            self.answer(request, TXS[10], TXS[11])
            self.engine.transaction_heard(tx_id_of(TXS[4]))
            (send,) = self.engine.outbound((B,), BLOCK)
            filled = self.body(send.message).prefilled_txs
            self.assertEqual([each.index for each in filled], indices)

    def test_useless_guesses_are_not_repeated(self) -> None:
        """What came prefilled was here already: the next one will have it, too.  CBK-001"""
        self.provider.add(*TXS)
        self.engine = self.make(prefill_bytes=100)
        filled = []
        for height in range(9):
            block = make_block(height, TXS)
            sender = self.make(PoolProvider())
            if height == 1:
                for tx in TXS[1:5]:
                    sender.transaction_heard(tx_id_of(tx))
            self.engine.received(A, sender.outbound((A,), block)[0].message)
            self.engine.transaction_heard(tx_id_of(TXS[height + 1]))
            (send,) = self.engine.outbound((B,), block)
            filled.append(len(self.body(send.message).prefilled_txs) - 1)
            self.time += 2
        self.assertEqual(filled, [1, 0, 0, 0, 0, 0, 1, 1, 1])

    def test_wrong_guesses_show_in_what_others_ask_for(self) -> None:
        """They lack others than we did: prefilling ours helps nobody.  CBK-001"""
        self.engine = self.make(prefill_bytes=100)
        self.provider.add(*TXS[:10], *TXS[11:])
        for height, filled in ((1, [0, 10]), (2, [0])):
            block = make_block(height, TXS)
            (request,) = self.engine.received(A, self.compact(block))
            self.answer(request, TXS[10], block=block)
            (send,) = self.engine.outbound((B,), block)
            prefilled = self.body(send.message).prefilled_txs
            self.assertEqual([each.index for each in prefilled], filled)
            body = RequestBlockTransactions(self.header_hash(block), (3, 4, 5, 6))
            self.assertEqual(len(self.engine.received(B, Message(209, 1, bytes(body)))), 1)

    def test_what_cannot_be_put_together_again_goes_in_full(self) -> None:
        """A provider that loses a byte never costs a block.  CBK-103-X"""
        broken = PoolProvider()
        broken.join = lambda *_: Message(27, None, b"other")  # type: ignore[method-assign]
        unsplit = PoolProvider()
        unsplit.split = lambda message: None  # type: ignore[method-assign]
        for provider in (broken, unsplit):
            self.engine = self.make(provider)
            self.assertEqual(self.engine.outbound((A,), BLOCK), [Send((A,), BLOCK)])
            self.assertEqual(self.counter("compact_not_split"), 1)

    def test_what_saves_nothing_goes_in_full(self) -> None:
        """A block of tiny transactions.  CBK-001"""
        block = make_block(1, [bytes([n]) for n in range(5)])
        self.assertEqual(self.engine.outbound((A,), block), [Send((A,), block)])

    def test_bytes_are_counted(self) -> None:
        """What was sent and what it would have been.  STA-101-X"""
        self.engine.outbound((A, B), BLOCK)
        self.assertEqual(self.counter("compact_sent"), 2)
        self.assertEqual(self.counter("compact_full_bytes"), 2 * len(BLOCK))
        self.assertEqual(self.counter("compact_sent_bytes"), 2 * len(self.compact()))


class ServingTests(CompactCase):
    """Answers to 209."""

    def setUp(self) -> None:
        super().setUp()
        self.engine.outbound((A,), BLOCK)

    def ask(self, peer: PeerId, *indices: int, block: Message = BLOCK) -> list[Effect]:
        body = RequestBlockTransactions(self.header_hash(block), indices)
        return self.engine.received(peer, Message(body.OPCODE, 99, bytes(body)))

    def test_asked_for_in_order(self) -> None:
        """With the id of the request.  CBK-004, MSG-105-X"""
        (reply,) = self.ask(A, 2, 5)
        assert isinstance(reply, Reply)
        self.assertEqual((reply.peer, reply.message.type, reply.message.id), (A, 210, 99))
        body = RespondBlockTransactions.from_bytes(reply.message.data)
        expected = RespondBlockTransactions(self.header_hash(), (TXS[2], TXS[5]))
        self.assertEqual(body, expected)

    def test_no_indices_ask_for_all(self) -> None:
        """The whole block, less its header.  CBK-005"""
        (reply,) = self.ask(A)
        assert isinstance(reply, Reply)
        body = RespondBlockTransactions.from_bytes(reply.message.data)
        self.assertEqual(body.transactions, tuple(TXS))

    def test_only_what_was_announced_and_only_to_whom(self) -> None:
        """Unknown blocks, other peers, and indices beyond get nothing.  CBK-101-X"""
        self.assertEqual(self.ask(B, 1), [])
        self.assertEqual(self.ask(A, 1, block=make_block(8, TXS)), [])
        self.assertEqual(self.ask(A, 20), [])
        self.assertEqual(len(self.ask(A, 19)), 1)
        self.assertEqual(self.counter("compact_unserved"), 3)

    def test_twice_the_block_and_no_more(self) -> None:
        """A peer cannot turn small requests into endless answers.  CBK-101-X"""
        self.assertEqual([len(self.ask(A)) for _ in range(3)], [1, 1, 0])
        self.assertEqual([len(self.ask(A, 1)) for _ in range(60)].count(0) > 0, True)

    def test_ten_minutes_and_ten_blocks(self) -> None:
        """Old blocks are history, which is another request.  CBK-101-X"""
        self.time += 599.9
        self.assertEqual(len(self.ask(A, 1)), 1)
        self.time += 0.1
        self.assertEqual(self.ask(A, 1), [])
        blocks = [make_block(height, TXS) for height in range(11)]
        for block in blocks:
            self.engine.outbound((A,), block)
        self.assertEqual(len(self.engine.snapshot().kept), 10)
        self.assertEqual(self.ask(A, 1, block=blocks[0]), [])
        self.assertEqual(len(self.ask(A, 1, block=blocks[1])), 1)

    def test_kept_bytes_are_bounded(self) -> None:
        """The latest block is kept in any case.  CBK-101-X"""
        with patch.object(compact_building, "COMPACT_KEPT_BYTES", 3 * len(BLOCK)):
            for height in range(6):
                self.engine.outbound((A,), make_block(height, TXS))
        snapshot = self.engine.snapshot()
        self.assertEqual((len(snapshot.kept), snapshot.kept_bytes), (3, 3 * len(BLOCK)))

    def test_broken_rules_are_charged(self) -> None:
        """More than 64 indices; what does not decode; a stranger to compact.  CBK-101-X"""
        self.assertEqual(self.ask(A, *range(65)), [Penalize(A, VIOLATION)])
        self.assertEqual(
            self.engine.received(A, Message(209, 1, b"x")),
            [Penalize(A, PenaltyReason.MALFORMED_MESSAGE)],
        )
        self.assertEqual(self.ask(D, 1), [])


class ReceivingTests(CompactCase):
    """The receiving half."""

    def test_nothing_missing(self) -> None:
        """The block, byte for byte, from whoever sent it.  CBK-003, CBK-005, CBK-103-X"""
        self.provider.add(*TXS)
        self.assertEqual(self.engine.received(A, self.compact()), [Arrived(A, BLOCK)])
        self.assertEqual(self.counter("compact_complete"), 1)
        self.assertEqual(self.counter("compact_matched"), 19)

    def test_header_only(self) -> None:
        """A block without transactions is legal.  CBK-001"""
        block = make_block(1, [], bytes(100))
        body = compact_building.build(self.split(block), ())
        message = Message(240, None, bytes(body))
        self.assertEqual(self.engine.received(A, message), [Arrived(A, block)])

    def split(self, block: Message) -> SplitBlock:
        split = self.provider.split(block)
        assert split is not None
        return split

    def test_some_missing(self) -> None:
        """Asked for, checked, put in their places.  CBK-004, CBK-005"""
        self.provider.add(*TXS[:3], *TXS[5:])
        effects = self.engine.received(A, self.compact())
        self.assertEqual(self.requests(effects), [(3, 4)])
        self.assertEqual(self.answer(effects[0], TXS[3], TXS[4]), [Arrived(A, BLOCK)])
        self.assertEqual(self.counter("compact_partial"), 1)
        self.assertEqual(self.engine.snapshot().rebuilding, {})

    def test_rule_by_count(self) -> None:
        """Five are asked for, six mean the whole block.  CBK-005"""
        for missing, whole in ((5, False), (6, True)):
            self.engine = self.make(fetch_by_bytes=False)
            self.provider.pool.clear()
            self.provider.add(*TXS[: 20 - missing])
            (asked,) = self.requests(self.engine.received(A, self.compact()))
            self.assertEqual(asked == (), whole)

    def test_rule_by_bytes(self) -> None:
        """As long as it is cheaper, in requests of 64.  CBK-005"""
        txs = transactions(300)
        block = make_block(1, txs)
        compact = self.compact(block)
        for known, sizes in ((299, [1]), (240, [60]), (150, [64, 64, 22]), (1, [0])):
            self.engine = self.make()
            self.provider.pool.clear()
            self.provider.add(*txs[:known])
            asked = self.requests(self.engine.received(A, compact))
            self.assertEqual([len(indices) for indices in asked], sizes, known)

    def test_more_requests_than_may_be(self) -> None:
        """Then the whole block after all.  CBK-005"""
        self.provider.add(*TXS[:10])
        with patch.object(compact_matching, "COMPACT_MAX_REQUESTS", 0):
            self.assertEqual(self.requests(self.engine.received(A, self.compact())), [()])

    def test_several_answers_in_any_order(self) -> None:
        """The last one completes the block.  CBK-004"""
        txs = transactions(300)
        block = make_block(1, txs)
        self.provider.add(*txs[:150])
        effects = self.engine.received(A, self.compact(block))
        results = []
        for effect, indices in reversed(list(zip(effects, self.requests(effects), strict=True))):
            found = [txs[index] for index in indices]
            results.append(self.answer(effect, *found, block=block))
        self.assertEqual(results, [[], [], [Arrived(A, block)]])

    def test_large_mempool_is_searched_in_slices(self) -> None:
        """A reactor turn never hashes more than 1000 ids.  CBK-003"""
        self.provider.add(*transactions(4500, prefix="other"), *TXS)
        effects = self.engine.received(A, self.compact())
        turns = 0
        with patch.object(compact_matching, "short_tx_id", wraps=short_tx_id) as hashing:
            while isinstance(effects[0], SetTimer):
                self.assertEqual(effects[0].delay, 0)
                hashing.reset_mock()
                effects = self.engine.timer_fired(effects[0].key)
                self.assertLessEqual(hashing.call_count, 1000)
                turns += 1
        self.assertEqual((turns, effects), (4, [Arrived(A, BLOCK)]))

    def test_ambiguous_transactions_count_as_missing(self) -> None:
        """Two of the mempool with the short id of one place: neither is taken.  CBK-003"""
        twin = b"the twin"
        self.provider.add(*TXS, twin)
        key = self.header_hash()[:16]
        same = short_tx_id(key, tx_id_of(TXS[9]))

        def colliding(key: bytes, tx_id: bytes) -> bytes:
            return same if tx_id == tx_id_of(twin) else short_tx_id(key, tx_id)

        with patch.object(compact_matching, "short_tx_id", colliding):
            effects = self.engine.received(A, self.compact())
        self.assertEqual(self.requests(effects), [(9,)])
        self.assertEqual(self.answer(effects[0], TXS[9]), [Arrived(A, BLOCK)])
        self.assertEqual(self.counter("compact_ambiguous"), 1)

    def test_short_ids_that_the_block_repeats_count_as_missing(self) -> None:
        """An honest sender prefills them; nothing breaks if it does not.  CBK-003"""
        txs = [*TXS[:5], TXS[3]]
        block = make_block(1, txs)
        self.provider.add(*TXS)
        split = self.split(block)
        body = NewCompactBlock(
            header_hash=split.header_hash,
            height=1,
            short_tx_ids=tuple(short_tx_id(split.header_hash[:16], i) for i in split.tx_ids),
            prefilled_txs=(),
            sip_hash_key=split.header_hash[:16],
            header=split.header,
        )
        effects = self.engine.received(A, Message(240, None, bytes(body)))
        self.assertEqual(self.requests(effects), [(3, 5)])
        self.assertEqual(self.answer(effects[0], TXS[3], TXS[3], block=block), [Arrived(A, block)])

    def test_transaction_that_left_the_mempool_meanwhile(self) -> None:
        """It is missing, like any other.  CBK-003"""
        self.provider.add(*TXS)
        self.provider.transaction = lambda tx_id: None  # type: ignore[method-assign]
        asked = self.requests(self.engine.received(A, self.compact()))
        self.assertEqual(asked, [tuple(range(1, 20))])

    def test_other_senders_of_a_block_are_duplicates(self) -> None:
        """While it is put together and when it is done: Plumtree prunes them.  CBK-103-X"""
        self.provider.add(*TXS[:19])
        compact = self.compact()
        (request,) = self.engine.received(A, compact)
        self.assertEqual(self.engine.received(B, compact), [])
        self.assertEqual(self.engine.received(A, compact), [])
        done = self.answer(request, TXS[19])
        self.assertEqual(done, [Arrived(A, BLOCK), Arrived(B, BLOCK)])
        self.assertEqual(self.engine.received(C, compact), [])  # known, not kept
        self.engine.outbound((B,), BLOCK)
        self.assertEqual(self.engine.received(C, compact), [Arrived(C, BLOCK)])

    def test_block_that_came_in_full_is_not_put_together(self) -> None:
        """Whatever is under way ends.  CBK-103-X"""
        (request,) = self.engine.received(A, self.compact())
        self.engine.block_known(BLOCK)
        self.assertEqual(self.engine.snapshot().rebuilding, {})
        self.assertEqual(self.answer(request, *TXS[1:]), [])
        self.assertEqual(self.engine.received(B, self.compact()), [])


class FallbackTests(CompactCase):
    """Down the chain: missing, whole, the application's request, the next announcer."""

    def setUp(self) -> None:
        super().setUp()
        self.provider.add(*TXS[:15])

    def begin(self, *announcers: PeerId) -> Request:
        (request,) = self.engine.received(A, self.compact())
        for peer in announcers:
            self.engine.received(peer, self.compact())
        assert isinstance(request, Request)
        return request

    def only(self, effects: list[Effect], peer: PeerId) -> Request:
        """A request for the whole block."""
        (request,) = effects
        assert isinstance(request, Request)
        self.assertEqual((request.peer, self.requests(effects)), (peer, [()]))
        return request

    def unanswered(self, request: Request) -> list[Effect]:
        return self.engine.answered(request.peer, request.key, None)

    def test_whole_block_then_the_next_announcer(self) -> None:
        """Silence never blames and never stalls.  CBK-004"""
        first = self.begin(B, C)
        whole = self.only(self.unanswered(first), A)
        of_b = self.only(self.unanswered(whole), B)
        of_c = self.only(self.unanswered(of_b), C)
        self.assertEqual(self.answer(of_c, *TXS), [Arrived(C, BLOCK)])
        self.assertEqual(self.counter("compact_whole"), 1)

    def test_nobody_answers(self) -> None:
        """The block is given up, and may begin again.  CBK-004"""
        whole = self.only(self.unanswered(self.begin()), A)
        self.assertEqual(self.unanswered(whole), [])
        self.assertEqual(self.counter("compact_gave_up"), 1)
        self.assertEqual(len(self.engine.received(B, self.compact())), 1)

    def test_application_is_the_last_resort_with_each_peer(self) -> None:
        """Its request, its answer, its block.  CBK-005"""
        self.provider.request = RequestStatus()
        whole = self.only(self.unanswered(self.begin(B)), A)
        (asked,) = self.unanswered(whole)
        assert isinstance(asked, Request)
        self.assertEqual((asked.peer, asked.message.type), (A, 205))
        other = make_block(8, TXS)
        effects = self.engine.answered(A, asked.key, Message(27, 5, other.data))
        whole = self.only(effects, B)
        (asked,) = self.unanswered(whole)
        assert isinstance(asked, Request)
        effects = self.engine.answered(B, asked.key, Message(27, 5, BLOCK.data))
        self.assertEqual(effects, [Arrived(B, BLOCK)])
        self.assertEqual(self.counter("compact_fetched"), 1)

    def test_request_that_cannot_be_encoded(self) -> None:
        """Is none.  CBK-005"""
        self.provider.request = object()
        whole = self.only(self.unanswered(self.begin(B)), A)
        self.only(self.unanswered(whole), B)

    def test_wrong_answers_are_charged(self) -> None:
        """Other transactions, too few, too many, of another block, undecodable.  CBK-004"""
        wrong = RespondBlockTransactions(bytes(32), tuple(TXS[15:]))
        cases: list[tuple[Message, PenaltyReason]] = [
            (Message(210, 1, bytes(wrong)), VIOLATION),
            (Message(210, 1, b"?"), PenaltyReason.MALFORMED_MESSAGE),
        ]
        for found in ((TXS[15],), (*TXS[15:], b"x"), (*TXS[16:], TXS[15]), (*TXS[15:19], b"x")):
            body = RespondBlockTransactions(self.header_hash(), tuple(found))
            cases.append((Message(210, 1, bytes(body)), VIOLATION))
        for answer, reason in cases:
            self.engine = self.make()
            request = self.begin()
            penalty, *rest = self.engine.answered(A, request.key, answer)
            self.assertEqual(penalty, Penalize(A, reason))
            self.only(rest, A)

    def test_error_message_is_no_answer(self) -> None:
        """Chia's 255 answers anything.  CBK-004"""
        request = self.begin()
        self.only(self.engine.answered(A, request.key, Message(255, 1, b"")), A)

    def test_whole_block_must_be_the_announced_one(self) -> None:
        """A sender is bound by its own short ids; others are bound by the header.  CBK-004"""
        liar = [*TXS[:19], b"a lie"]
        whole = self.only(self.unanswered(self.begin(B)), A)
        penalty, *rest = self.answer(whole, *liar)
        self.assertEqual(penalty, Penalize(A, VIOLATION))
        of_b = self.only(rest, B)
        self.assertEqual(self.answer(of_b, *liar), [])
        self.assertEqual(self.counter("compact_gave_up"), 1)

    def test_block_that_holds_together_nowhere_is_charged(self) -> None:
        """A header with transactions that it does not commit to.  CBK-105-X"""
        split = self.provider.split(BLOCK)
        assert split is not None
        lie = SplitBlock(
            header_hash=split.header_hash,
            height=split.height,
            header=split.header,
            transactions=TXS[:15],
            tx_ids=split.tx_ids[:15],
        )
        message = Message(240, None, bytes(compact_building.build(lie, ())))
        whole = self.only(self.engine.received(A, message), A)
        self.assertEqual(self.answer(whole, *TXS[:15]), [Penalize(A, VIOLATION)])

    def test_peer_that_leaves(self) -> None:
        """The next announcer at once; without one the block is given up.  CBK-004"""
        self.begin(B)
        of_b = self.only(self.engine.peer_down(A), B)
        self.assertEqual(self.engine.peer_down(B), [])
        self.assertEqual(self.unanswered(of_b), [])
        self.assertEqual(self.engine.snapshot().rebuilding, {})

    def test_announcer_that_leaves_is_not_asked(self) -> None:
        """Only sessions are.  CBK-004"""
        request = self.begin(B, C)
        self.engine.peer_down(B)
        self.only(self.unanswered(self.only(self.unanswered(request), A)), C)

    def test_sender_that_leaves_during_the_search(self) -> None:
        """Its block is put together all the same, if others have it.  CBK-003"""
        self.provider.add(*transactions(1500, prefix="other"), *TXS)
        (timer,) = self.engine.received(A, self.compact())
        self.engine.received(B, self.compact())
        self.engine.peer_down(A)
        assert isinstance(timer, SetTimer)
        self.assertEqual(self.engine.timer_fired(timer.key), [Arrived(B, BLOCK)])

    def test_late_and_foreign_answers_change_nothing(self) -> None:
        """Only the peer that is asked answers, and only what is asked now.  CBK-004"""
        request = self.begin()
        body = RespondBlockTransactions(self.header_hash(), tuple(TXS[15:]))
        answer = Message(210, 1, bytes(body))
        self.assertEqual(self.engine.answered(B, request.key, answer), [])
        self.unanswered(request)
        self.assertEqual(self.engine.answered(A, request.key, answer), [])
        self.assertEqual(self.engine.timer_fired(("compact.match", self.header_hash())), [])
        self.assertEqual(self.engine.timer_fired(("compact.match", b"unknown")), [])


class DoubtTests(CompactCase):
    """A validator rejects what was put together here."""

    def setUp(self) -> None:
        super().setUp()
        # Without a root to check, wrong transactions are found out by the validator only.
        self.provider = PoolProvider(checks_root=False)
        self.engine = self.make()

    def collide(self) -> Message:
        """A block in which a transaction of ours stands in for another."""
        twin = b"the twin".ljust(60)
        self.provider.add(*TXS[:9], *TXS[10:], twin)
        same = short_tx_id(self.header_hash()[:16], tx_id_of(TXS[9]))

        def colliding(key: bytes, tx_id: bytes) -> bytes:
            return same if tx_id == tx_id_of(twin) else short_tx_id(key, tx_id)

        with patch.object(compact_matching, "short_tx_id", colliding):
            (arrived,) = self.engine.received(A, self.compact())
        assert isinstance(arrived, Arrived)
        self.assertNotEqual(arrived.message, BLOCK)
        return arrived.message

    def test_collision_blames_nobody(self) -> None:
        """The whole block is fetched once, and is another message.  CBK-105-X"""
        wrong = self.collide()
        effects = self.engine.rejected(message_hash(wrong), PenaltyReason.INVALID_BLOCK)
        assert effects is not None
        self.assertEqual(self.requests(effects), [()])
        self.assertEqual(self.answer(effects[0], *TXS), [Arrived(A, BLOCK)])
        self.assertIsNone(self.engine.rejected(message_hash(wrong), PenaltyReason.SPAM))

    def test_invalid_block_is_charged_when_it_is_certain(self) -> None:
        """The same bytes again: it was not us.  CBK-105-X"""
        self.provider.add(*TXS)
        self.engine.received(A, self.compact())
        effects = self.engine.rejected(message_hash(BLOCK), PenaltyReason.INVALID_BLOCK)
        assert effects is not None
        self.assertEqual(self.answer(effects[0], *TXS), [Penalize(A, PenaltyReason.INVALID_BLOCK)])

    def test_no_doubt_where_nothing_was_guessed(self) -> None:
        """All transactions came from the peer.  CBK-105-X"""
        (request,) = self.engine.received(A, self.compact())
        self.assertEqual(self.answer(request, *TXS[1:]), [Arrived(A, BLOCK)])
        self.assertIsNone(self.engine.rejected(message_hash(BLOCK), PenaltyReason.INVALID_BLOCK))

    def test_sender_that_is_gone(self) -> None:
        """Nobody is charged, nothing is asked.  CBK-105-X"""
        wrong = self.collide()
        self.engine.peer_down(A)
        self.assertEqual(self.engine.rejected(message_hash(wrong), PenaltyReason.SPAM), [])


class HostileTests(CompactCase):
    """Bounds, and bodies that break the rules."""

    def test_broken_bodies(self) -> None:
        """Wrong key, wrong header, undecodable; strangers.  CBK-006, CBK-102-X"""
        good = NewCompactBlock.from_bytes(self.compact().data)
        other_hash = sha256(b"other").digest()

        def changed(**fields: object) -> Message:
            body = attrs.evolve(good, **fields)  # type: ignore[arg-type]  # as below
            return Message(240, None, bytes(body))

        key = changed(sip_hash_key=bytes(16))
        header = changed(header_hash=other_hash, sip_hash_key=other_hash[:16])
        for message in (key, header, changed(header=b"none")):
            self.assertEqual(self.engine.received(A, message), [Penalize(A, VIOLATION)])
        self.assertEqual(
            self.engine.received(A, Message(240, None, b"?")),
            [Penalize(A, PenaltyReason.MALFORMED_MESSAGE)],
        )
        self.assertEqual(self.engine.received(D, self.compact()), [])
        self.assertEqual(self.engine.received(A, Message(200, None, b"")), [])
        self.assertEqual(self.engine.snapshot().rebuilding, {})

    def test_three_blocks_a_peer(self) -> None:
        """The fourth is refused until one of them is done.  CBK-102-X"""
        blocks = [make_block(height, TXS) for height in range(4)]
        asked = [self.engine.received(A, self.compact(block)) for block in blocks]
        self.assertEqual([len(effects) for effects in asked], [1, 1, 1, 0])
        self.answer(asked[0][0], *TXS[1:], block=blocks[0])
        self.assertEqual(len(self.engine.received(A, self.compact(blocks[3]))), 1)

    def test_thirty_two_blocks_in_all(self) -> None:
        """Whoever sends them.  CBK-102-X"""
        for number in range(40):
            peer = peer_id(f"peer {number}")
            self.engine.peer_up(peer)
            self.engine.received(peer, self.compact(make_block(number, TXS)))
        self.assertEqual(len(self.engine.snapshot().rebuilding), 32)
        self.assertEqual(self.counter("compact_refused"), 8)

    def test_eight_announcers(self) -> None:
        """More are not remembered.  CBK-004"""
        (request,) = self.engine.received(A, self.compact())
        for number in range(20):
            peer = peer_id(f"peer {number}")
            self.engine.peer_up(peer)
            self.engine.received(peer, self.compact())
        self.assertEqual(len(self.answer(request, *TXS[1:])), 9)

    def test_tables_keep_their_caps(self) -> None:
        """Header hashes, fresh transactions, doubtful blocks.  CBK-102-X"""
        self.provider.add(*TXS)
        for number in range(1100):
            self.engine.received(A, self.compact(make_block(number, TXS[:3])))
            for one in range(4):
                self.engine.transaction_heard(tx_id_of(f"{number} {one}".encode()))
        snapshot = self.engine.snapshot()
        self.assertEqual((snapshot.known, snapshot.recent, snapshot.doubtful), (1000, 4096, 32))

    @given(st.data())
    def test_any_overlap_and_any_answers_end_well(self, data: st.DataObject) -> None:
        """Whatever is missing and whoever lies: the block, or nothing; never a stall.  CBK-004"""
        rng = Random(data.draw(st.integers()))
        self.provider.pool.clear()
        self.engine = self.make()
        self.provider.add(*rng.sample(TXS, rng.randrange(21)))
        waiting = self.engine.received(A, self.compact())
        waiting += self.engine.received(B, self.compact())
        steps = 0
        done: list[Effect] = []
        while waiting:
            effect = waiting.pop(rng.randrange(len(waiting)))
            if not isinstance(effect, Request):
                done.append(effect)
                continue
            steps += 1
            asked = RequestBlockTransactions.from_bytes(effect.message.data).missing_indices
            found = [TXS[index] for index in asked or range(20)]
            if rng.random() < 0.3:
                found[rng.randrange(len(found))] = b"a lie"
            if rng.random() < 0.2:
                waiting += self.engine.answered(effect.peer, effect.key, None)
            else:
                waiting += self.answer(effect, *found)
        self.assertLessEqual(steps, 8)
        self.assertEqual(self.engine.snapshot().rebuilding, {})
        for effect in done:
            self.assertIn(type(effect), (Arrived, Penalize))
            if isinstance(effect, Arrived):
                self.assertEqual(effect.message, BLOCK)

    def test_kit_provider_keeps_the_contract(self) -> None:
        """What the kit offers is what an application has to write.  CBK-103-X"""
        self.assertTrue(verifyObject(ICompactBlockProvider, self.provider))
        self.assertIsNone(self.provider.split(Message(27, None, b"?")))
