"""What is said to plain Chia peers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.etiquette import MAX_ASKED, Etiquette
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.types.peer import NodeType
from dig_gossip.wire.opcodes import CHIA_UNSOLICITED, RoutingClass, routing_class
from tests import vectors

FULL_NODE, WALLET = int(NodeType.FULL_NODE), int(NodeType.WALLET)
BLOCKS = (27, 28, 30, 31)
ANSWERS = [op for op in range(256) if routing_class(op, True) is RoutingClass.RESPONSE]


def etiquette(node_type: int = FULL_NODE, capabilities: tuple[int, ...] = (1, 2, 3)) -> Etiquette:
    """Manners towards a peer of a kind."""
    return Etiquette(
        RemoteHandshake(
            node_type=node_type,
            protocol_version="0.0.37",
            software_version="2.7.5",
            server_port=8444,
            capabilities=frozenset(capabilities),
        )
    )


class EtiquetteTests(SynchronousTestCase):
    """``Etiquette``."""

    def allowed(self, manners: Etiquette, message_id: int | None = None) -> set[int]:
        return {opcode for opcode in range(256) if manners.may_send(opcode, message_id)}

    def test_blocks_that_nobody_asked_for_are_never_sent(self) -> None:
        """Nor refusals of blocks: each is a ban of 300 s.  wire 7, design D5"""
        manners = etiquette()
        for opcode in BLOCKS:
            self.assertFalse(manners.may_send(opcode, None))
            self.assertFalse(manners.may_send(opcode, 7))

    def test_an_answer_is_sent_once(self) -> None:
        """With the id of the request, whatever the answer is.  MSG-105-X, wire 7"""
        for opcode in (*BLOCKS, 23, 255):
            manners = etiquette()
            manners.asked(7)
            self.assertFalse(manners.may_send(opcode, 8))
            self.assertTrue(manners.may_send(opcode, 7))
            self.assertFalse(manners.may_send(opcode, 7))

    def test_what_a_full_node_takes(self) -> None:
        """Gossip, requests of full nodes, answers to requests without an id.  wire 6"""
        expected = {*range(20, 45), 92, 93}
        self.assertEqual(self.allowed(etiquette()), expected - set(BLOCKS))
        self.assertEqual(self.allowed(etiquette(), 7), expected - set(ANSWERS))
        self.assertLessEqual(CHIA_UNSOLICITED, self.allowed(etiquette()))

    def test_what_a_wallet_takes(self) -> None:
        """News for wallets; it has no handler for a full node's requests and gossip.  wire 7"""
        self.assertEqual(self.allowed(etiquette(WALLET)), {44, 49, 50, 69})
        self.assertEqual(self.allowed(etiquette(WALLET, (1, 5))), {44, 49, 50, 69, 104, 105})
        manners = etiquette(WALLET)
        manners.asked(7)
        self.assertTrue(manners.may_send(46, 7))

    def test_nothing_is_sent_that_a_full_node_may_not_send(self) -> None:
        """Chia takes the sender's kind from the handshake, and ours says full node.  wire 6"""
        rows = {
            row["opcode"]: row.get("allowed_senders", ())
            for row in vectors.load("message_types.json")
        }
        for manners in (etiquette(), etiquette(WALLET, (1, 5))):
            for opcode in self.allowed(manners) | self.allowed(manners, 7):
                self.assertIn(FULL_NODE, rows[opcode])
        self.assertFalse(any(etiquette().may_send(op, None) for op in range(114, 255)))

    @given(st.lists(st.tuples(st.integers(0, 2000), st.booleans()), max_size=200))
    def test_requests_are_remembered(self, script: list[tuple[int, bool]]) -> None:
        """An answer is sent exactly if its request is open.  MSG-105-X"""
        manners = etiquette()
        asked: set[int] = set()
        for message_id, is_request in script:
            if is_request:
                manners.asked(message_id)
                asked.add(message_id)
            else:
                self.assertEqual(manners.may_send(27, message_id), message_id in asked)
                asked.discard(message_id)

    def test_a_peer_that_only_asks_is_bounded(self) -> None:
        """The oldest requests go first; asking again counts as new.  design D14"""
        manners = etiquette()
        manners.asked(0)
        for message_id in range(1, MAX_ASKED):
            manners.asked(message_id)
        manners.asked(0)
        manners.asked(60_000)
        self.assertFalse(manners.may_send(27, 1))
        self.assertTrue(manners.may_send(27, 0))
        self.assertEqual(len(manners._asked), MAX_ASKED - 1)
