"""Plain Chia sessions: what they get, what they never get (design D5, D6)."""

from __future__ import annotations

from typing import Any

from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint32

from dig_gossip import Message, NodeType, WrongDispatch
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.testing.network import MemoryNode
from dig_gossip.wire.chia import RejectBlock, RequestBlock, RequestPuzzleSolution
from tests.network_case import NetworkCase

NEW_PEAK = 20
NEW_TRANSACTION = 21


def _greet_once(peer: HostilePeer) -> None:
    if len(peer.messages) == 1:
        peer.greet()


class PlainChiaTests(NetworkCase):
    """A peer that advertises only Chia's capabilities."""

    def setUp(self) -> None:
        super().setUp()
        self.node, self.other = self.connected()

    def chia(self, node: MemoryNode, **greeting: Any) -> HostilePeer:
        """A plain Chia peer that dialed ``node``."""
        peer = HostilePeer(self.network)
        greeting.setdefault("capabilities", (1, 2, 3, 5))
        peer.join(node.address, **greeting)
        self.network.advance(1)
        self.addCleanup(peer.drop)
        return peer

    def opcodes(self, peer: HostilePeer) -> list[int]:
        """What the peer got after its handshake."""
        return [message.type for message in peer.messages if message.type != 1]

    def test_nothing_from_200_up_is_ever_sent(self) -> None:
        """Chia bans for an unknown opcode.  design D5, wire 4.2"""
        peer = self.chia(self.node)
        count = self.network.run(self.node.handle.broadcast(Message(200, None, b"dig")))
        self.network.run(self.other.handle.broadcast(Message(201, None, b"forwarded")))
        self.assertFires(
            WrongDispatch, self.node.handle.send_to(peer.peer_id, Message(205, 1, b""))
        )
        self.network.advance(80)
        self.assertEqual(count, 1)
        self.assertEqual(self.opcodes(peer), [])

    def test_only_what_chia_accepts_unasked_is_broadcast_to_it(self) -> None:
        """A block that nobody asked for would be a ban.  wire 7"""
        peer = self.chia(self.node)
        self.network.run(self.node.handle.broadcast(Message(NEW_PEAK, None, bytes(88))))
        self.network.run(self.node.handle.broadcast(Message(27, None, b"block")))
        self.network.advance(1)
        self.assertEqual(self.opcodes(peer), [NEW_PEAK])

    def test_the_application_cannot_send_what_costs_the_link(self) -> None:
        """It is told, and the peer hears nothing.  design D5, wire 6, wire 7"""
        peer = self.chia(self.node)
        send_to = self.node.handle.send_to
        for opcode in (27, 30, 45, 50, 63, 111, 150):  # unasked, or another kind of node's
            for message_id in (None, 7):
                message = Message(opcode, message_id, b"")
                self.assertFires(WrongDispatch, send_to(peer.peer_id, message))
        request = RequestPuzzleSolution(bytes32(bytes(32)), uint32(1))
        self.assertFires(WrongDispatch, self.node.handle.request(peer.peer_id, request))
        self.network.advance(5)
        self.assertEqual(self.opcodes(peer), [])

    def test_an_answer_goes_to_whoever_asked_once(self) -> None:
        """A second one would be unasked.  wire 7, MSG-105-X"""
        peer, other = self.chia(self.node), self.chia(self.node)
        receiver = self.node.handle.inbound_receiver()
        peer.send_message(Message(26, 9, bytes(RequestBlock(uint32(1), False))))
        _, request = self.network.run(receiver.get())
        reject = RejectBlock(uint32(1))
        self.assertFires(WrongDispatch, self.node.handle.respond(other.peer_id, request, reject))
        self.network.run(self.node.handle.respond(peer.peer_id, request, reject))
        self.assertFires(WrongDispatch, self.node.handle.respond(peer.peer_id, request, reject))
        self.network.advance(1)
        self.assertEqual([(m.type, m.id) for m in peer.messages[1:]], [(28, 9)])
        self.assertEqual(self.opcodes(other), [])

    def test_a_wallet_is_left_out_of_a_broadcast(self) -> None:
        """It would drop the link on a full node's gossip; a Rust dialer would not.  wire 7"""
        wallet = self.chia(self.node, node_type=NodeType.WALLET, software_version="2.7.5")
        rust = self.chia(
            self.node, node_type=NodeType.WALLET, software_version="0.0.0", capabilities=(1,)
        )
        count = self.network.run(self.node.handle.broadcast(Message(NEW_PEAK, None, bytes(88))))
        self.network.run(self.node.handle.send_to(wallet.peer_id, Message(50, None, bytes(76))))
        self.network.advance(1)
        self.assertEqual((self.opcodes(wallet), self.opcodes(rust)), ([50], [NEW_PEAK]))
        self.assertEqual(count, 2)
        self.assertEqual(self.counter(self.node, "unsent.refused.new_peak"), 1)

    def test_who_speaks_dig_is_not_held_to_chias_manners(self) -> None:
        """Once the peer has sent a DIG opcode.  design D5"""
        peer = self.chia(self.node)
        peer.send_message(Message(208, None, b"announce"))
        self.network.advance(1)
        self.network.run(self.node.handle.send_to(peer.peer_id, Message(27, None, b"block")))
        self.network.advance(1)
        self.assertEqual(self.opcodes(peer), [27])

    def test_forwarding_leaves_chia_sessions_to_the_application(self) -> None:
        """What a DIG peer gossips goes on to Chia peers only when the application says so.  D6"""
        peer = self.chia(self.node)
        message = Message(NEW_TRANSACTION, None, bytes(48))
        receiver = self.node.handle.inbound_receiver()
        self.network.run(self.other.handle.broadcast(message))
        self.network.run(receiver.get())
        self.network.advance(1)
        self.assertEqual(self.opcodes(peer), [])
        self.assertEqual(self.network.run(self.node.handle.broadcast(message)), 1)
        self.network.advance(1)
        self.assertEqual(self.opcodes(peer), [NEW_TRANSACTION])

    def test_what_a_chia_peer_says_is_delivered_but_not_forwarded(self) -> None:
        """Until the application broadcasts it, to DIG and Chia sessions alike.  D6"""
        peer, second = self.chia(self.node), self.chia(self.node)
        mine = self.node.handle.inbound_receiver()
        theirs = self.other.handle.inbound_receiver()
        message = Message(NEW_TRANSACTION, None, bytes(48))
        peer.send_message(message)
        peer_id, received = self.network.run(mine.get())
        self.network.advance(1)
        self.assertEqual((peer_id, received), (peer.peer_id, message))
        self.assertEqual(len(theirs), 0)
        self.assertEqual(self.opcodes(second), [])
        self.assertEqual(self.network.run(self.node.handle.broadcast(message)), 2)
        self.network.advance(1)
        self.assertEqual(len(theirs), 1)
        self.assertEqual(self.opcodes(second), [NEW_TRANSACTION])
        self.assertEqual(self.opcodes(peer), [])

    def test_a_peer_that_sends_a_dig_opcode_is_taken_at_its_word(self) -> None:
        """The third kind of evidence.  wire 4.2"""
        peer = self.chia(self.node)
        peer.send_message(Message(208, None, b"announce"))
        self.network.advance(1)
        self.network.run(self.node.handle.broadcast(Message(200, None, b"now")))
        self.network.advance(5)
        self.assertEqual(self.opcodes(peer), [200])

    def test_tolerant_rust_peer_gets_everything_in_full_and_no_control_frames(self) -> None:
        """Without capability 201 there is no Plumtree with it.  wire 5.4"""
        peer = self.chia(self.node, capabilities=(1, 2), software_version="dig-gossip/0.28.0")
        for number in range(5):
            data = bytes([number])
            self.network.run(self.other.handle.broadcast(Message(200, None, data)))
            self.network.advance(2)
        self.assertEqual(self.opcodes(peer), [200] * 5)

    def test_early_rust_peer_gets_no_correlated_request(self) -> None:
        """It would drop the link; ``RequestPeers`` is the exception.  wire 4.1"""
        peer = self.chia(self.node, capabilities=(1,), software_version="dig-gossip/0.1.0")
        self.assertFires(
            WrongDispatch, self.node.handle.request(peer.peer_id, RequestBlock(uint32(1), False))
        )
        asking = self.node.handle.request_peers_from(peer.peer_id)
        self.network.advance(0.1)
        (request,) = [m for m in peer.messages if m.type == 43]
        peer.send_message(Message(44, request.id, bytes(4)))
        self.assertEqual(list(self.network.run(asking).peer_list), [])

    def test_request_peers_is_answered_with_the_same_id_or_none(self) -> None:
        """Rust uses it as its probe.  CON-004.2, MSG-105-X"""
        peer = self.chia(self.node)
        for request_id in (None, 7, 0):
            peer.send_message(Message(43, request_id, b""))
        self.network.advance(1)
        answers = [(m.type, m.id, m.data) for m in peer.messages if m.type == 44]
        self.assertEqual(answers, [(44, None, bytes(4)), (44, 7, bytes(4)), (44, 0, bytes(4))])

    def test_request_peers_comes_first_on_a_dialed_session(self) -> None:
        """Rust listeners swallow anything else.  wire 5.2"""
        peer = HostilePeer(self.network)
        address = peer.listen(on_request=HostilePeer.accept_upgrade, on_message=_greet_once)
        self.addCleanup(peer.stop_listening)
        dialing = self.node.handle.connect_to(address)
        self.network.run(dialing)
        self.network.run(self.node.handle.broadcast(Message(NEW_PEAK, None, bytes(88))))
        self.network.advance(1)
        self.assertEqual(self.opcodes(peer)[0], 43)
        self.assertIsNone(peer.messages[1].id)
