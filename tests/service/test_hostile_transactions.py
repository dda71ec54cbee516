"""Honest nodes among hostile ones: the same transactions and blocks, once each, all the same."""

from __future__ import annotations

from collections.abc import Callable

from dig_gossip import DandelionConfig, ErlayConfig, Message
from dig_gossip.connection.session import Session
from dig_gossip.testing.blocks import announcement_of, make_block, make_transaction, tx_id_of
from dig_gossip.testing.ledger import Ledger
from dig_gossip.testing.network import MemoryNode
from dig_gossip.wire.compact import (
    NewCompactBlock,
    RequestBlockTransactions,
    RespondBlockTransactions,
)
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.stem import StemTransaction
from tests.service.test_transactions import NODES, TransactionCase

_HOSTILE = 2
_OPTIONS: dict[str, object] = {
    "dandelion": DandelionConfig(stem_timeout_secs=5),
    "erlay": ErlayConfig(),
}


def take_over(node: MemoryNode, opcode: int, handler: Callable[[Session, Message], None]) -> None:
    """Let a hostile node do something else with an opcode."""
    router = node.service.node.router
    for name in ("_plain", "_with_id"):
        handlers = list(getattr(router, name))
        handlers[opcode] = handler
        setattr(router, name, tuple(handlers))


class HostileTransactionTests(TransactionCase):
    """Two of the nodes are hostile, and everybody has sessions with both."""

    def play(self, mischief: Callable[[MemoryNode, Session, int], None]) -> None:
        """Let hostile nodes do something to each of their sessions, twice a second."""
        self.spam: set[bytes] = set()
        ledgers = self.build(_OPTIONS)
        honest = ledgers[:-_HOSTILE]
        self.hostile = self.made[-_HOSTILE:]
        for node in self.hostile:
            for other in self.made[:-_HOSTILE]:
                if bytes(other.peer_id) not in self.peer_ids(node):
                    self.network.run(node.handle.connect_to(other.address))
        self._mischief = mischief
        self.links = []
        transactions, blocks = self.live(honest)
        wanted = transactions - self.spam
        self.assertGreater(len(wanted), 50)
        for ledger in honest:
            lacking = len(wanted - set(ledger.transactions))
            self.assertEqual((lacking, len(blocks - set(ledger.blocks))), (0, 0))
            self.assertEqual(set(ledger.blocks.values()), {1}, "a block came twice")
            self.assertLessEqual(set(ledger.announced.values()), {1}, "announced twice")
        for node in self.made[:-_HOSTILE]:
            self.assertEqual(self.counter(node, "engine_errors"), 0)
            others = {bytes(n.peer_id) for n in self.made[:-_HOSTILE]}
            self.assertTrue(self.peer_ids(node) & others, "honest nodes banned each other")

    def build(self, *options: dict[str, object]) -> list[Ledger]:
        self.ledgers = super().build(*options)
        return self.ledgers

    def mischief(self, turn: int) -> None:
        if turn % 3:
            return
        for node in self.hostile:
            for session in node.service.node.peers.table:
                self._mischief(node, session, turn)

    def send(self, session: Session, opcode: int, data: bytes, message_id: int | None) -> None:
        session.send(OutboundFrame(Message(opcode, message_id, data)))

    def test_silence(self) -> None:
        """Questions that nobody answers, stems that are swallowed.  CBK-004, PRV-004"""

        def silent(node: MemoryNode, _session: Session, _turn: int) -> None:
            for opcode in (209, 211, 213, 22):
                take_over(node, opcode, lambda _session, _message: None)

        self.play(silent)

    def test_noise(self) -> None:
        """Undecodable, oversized and replayed sketches; answers to nothing.  ERL-003, MSG-102-X"""
        good: list[bytes] = []

        def noisy(_node: MemoryNode, session: Session, turn: int) -> None:
            if not good:
                good.append(bytes(8 * 9) + (9).to_bytes(4, "big") + bytes(4 + 4) + bytes(16))
            junk = self.rng.randbytes(self.rng.randrange(200))
            self.send(session, 211, junk if turn % 2 else good[0], turn % 1000)
            self.send(session, 211, bytes(8000), turn % 1000)
            self.send(session, 212, junk, turn % 1000)
            self.send(session, 210, junk, None)

        self.play(noisy)

    def test_lies(self) -> None:
        """Wrong transactions, blocks that are none, colliding ids.  CBK-004, CBK-105-X"""

        def lie(node: MemoryNode, session: Session, turn: int) -> None:
            def wrong(asker: Session, message: Message) -> None:
                body = RequestBlockTransactions.from_bytes(message.data)
                found = tuple(b"a lie" for _ in body.missing_indices or (0,))
                answer = RespondBlockTransactions(body.block_hash, found)
                asker.send(OutboundFrame(Message(210, message.id, bytes(answer))), is_reply=True)

            take_over(node, 209, wrong)
            split = self.ledgers[0].pool.split(make_block(turn, [b"x" * 400]))
            assert split is not None
            body = NewCompactBlock(
                header_hash=split.header_hash,
                height=turn,
                short_tx_ids=(bytes(6),) * 50,
                prefilled_txs=(),
                sip_hash_key=split.header_hash[:16],
                header=split.header,
            )
            self.send(session, 240, bytes(body), None)

        self.play(lie)

    def test_endless_stems(self) -> None:
        """Valid ones, so that nobody is charged: more than may wait of a peer.  DAN-101-X"""

        stems: dict[int, list[bytes]] = {}

        def stem(_node: MemoryNode, session: Session, turn: int) -> None:
            if turn not in (12, 42):
                return
            for payload in stems.setdefault(turn, [make_transaction(self.rng) for _ in range(105)]):
                self.spam.add(tx_id_of(payload))
                body = StemTransaction(announcement_of(payload).data, payload)
                self.send(session, 213, bytes(body), None)

        self.play(stem)
        for node in self.made[:-_HOSTILE]:
            dandelion = node.service.node.router.dandelion
            assert dandelion is not None
            self.assertEqual(dandelion.snapshot().stem_bytes, 0)
        self.assertGreater(self.total("stem_ignored"), 0)

    def test_there_are_honest_nodes(self) -> None:
        """Else the rest shows nothing.  style §8.6"""
        self.assertGreater(NODES, 2 * _HOSTILE)
