"""A client of a relay, against the real registry and against a relay that lies."""

from __future__ import annotations

from chia_rs.sized_bytes import bytes32
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.relay import membership as module
from dig_gossip.relay.membership import (
    Coordinate,
    Failed,
    Membership,
    MembershipEffect,
    PeerArrived,
    PeerLeft,
    Registered,
    Say,
    Stage,
    Tunneled,
    Unvouched,
)
from dig_gossip.relay.registry import HangUp, Registry, Transmit
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.types.relay import RelayLimits
from dig_gossip.wire import relay
from dig_gossip.wire.tunnel import Open

A, B, C = (bytes32(bytes([number]) * 32) for number in (1, 2, 3))
TUNNEL = bytes(Open(7))
ADDRESS = PeerAddress("198.51.100.1", 9444)


class Client:
    """A membership and everything that came of it."""

    def __init__(self, own_id: PeerId, network: str = "N") -> None:
        self.own_id = own_id
        self.time = 0.0
        self.membership = Membership(
            network, own_ids=lambda: frozenset({own_id}), ping_interval=30, now=lambda: self.time
        )
        self.said: list[str | bytes] = []
        self.effects: list[MembershipEffect] = []

    def perform(self, effects: list[MembershipEffect]) -> None:
        """Note what a client would do."""
        for effect in effects:
            if isinstance(effect, Say):
                self.said.append(effect.data)
            else:
                self.effects.append(effect)

    def hear(self, frame: relay.RelayFrame | bytes, is_binary: bool = False) -> None:
        """The relay sends a frame."""
        data = frame if isinstance(frame, bytes) else frame.encode().encode()
        self.perform(self.membership.received(data, is_binary))

    def registered(self, binary: bool = False) -> None:
        """Get through the registration."""
        self.perform(self.membership.begin(self.own_id, ()))
        self.hear(relay.RegisterAck(success=True, message="", connected_peers=1, binary=binary))
        self.said.clear()
        self.effects.clear()

    def take(self) -> list[MembershipEffect]:
        """What happened since the last call."""
        effects, self.effects = self.effects, []
        return effects

    def take_said(self) -> list[relay.RelayFrame | bytes]:
        """What was said since the last call."""
        said, self.said = self.said, []
        frames: list[relay.RelayFrame | bytes] = []
        for data in said:
            if isinstance(data, bytes):
                frames.append(data)
            else:
                frame = relay.decode(data.encode())
                assert not isinstance(frame, relay.Unsupported)
                frames.append(frame)
        return frames


def record(peer: PeerId, network: str = "N", *addresses: PeerAddress) -> relay.PeerRecord:
    """What a relay tells of a peer."""
    return relay.PeerRecord(
        peer_id=peer.hex(), network_id=network, protocol_version=1, connected_at=0, last_seen=0,
        addresses=addresses,
    )  # fmt: skip


def from_peer(
    peer: PeerId, seq: int, to: PeerId = A, payload: bytes = TUNNEL
) -> relay.RelayMessage:
    """A message as the relay delivers it."""
    return relay.RelayMessage(sender=peer.hex(), recipient=to.hex(), payload=payload, seq=seq)


class AgainstTheRegistry(SynchronousTestCase):
    """Two real halves of the protocol."""

    def setUp(self) -> None:
        self.registry = Registry(RelayLimits(), now=lambda: 0.0, unix=lambda: 0.0)
        self.clients = {1: Client(A), 2: Client(B), 3: Client(C, network="M")}
        self.hung_up: list[int] = []
        for number, client in self.clients.items():
            self.registry.connected(number, PeerAddress(f"198.51.100.{number}", 4000))
            client.perform(client.membership.begin(client.own_id, (ADDRESS,)))
            self.settle()

    def settle(self) -> None:
        """Carry everything that is said, both ways."""
        while any(client.said for client in self.clients.values()):
            for number, client in self.clients.items():
                said, client.said = client.said, []
                for data in said:
                    raw = data if isinstance(data, bytes) else data.encode()
                    for effect in self.registry.received(number, raw, isinstance(data, bytes)):
                        if isinstance(effect, HangUp):
                            self.hung_up.append(effect.connection)
                            continue
                        assert isinstance(effect, Transmit)
                        answer = effect.data
                        for to in effect.connections:
                            self.clients[to].hear(
                                answer if isinstance(answer, bytes) else answer.encode(),
                                isinstance(answer, bytes),
                            )

    def test_members_of_one_network_find_each_other(self) -> None:
        """With the addresses that the relay vouches for, and never oneself.  RLY-001, RLY-005"""
        a, b, c = self.clients.values()
        self.assertEqual(a.membership.peers, {B: (PeerAddress("198.51.100.2", 9444),)})
        self.assertEqual(b.membership.peers, {A: (ADDRESS,)})
        self.assertEqual(c.membership.peers, {})
        self.assertIn(Registered(PeerAddress("198.51.100.1", 4000)), a.effects)

    def test_payloads_arrive_in_binary(self) -> None:
        """What one sends the other gets, with the sender's verified name.  RLY-002"""
        a, b, _c = self.clients.values()
        a.perform(a.membership.message(B, TUNNEL))
        self.assertIsInstance(a.said[0], bytes)
        self.settle()
        self.assertIn(Tunneled(A, TUNNEL), b.effects)

    def test_whoever_is_not_there_is_left(self) -> None:
        """The relay's error names the peer that a tunnel leads to.  wire §15"""
        a, _b, _c = self.clients.values()
        a.take()
        a.perform(a.membership.message(C, TUNNEL))
        self.settle()
        self.assertEqual(a.take(), [PeerLeft(C)])

    def test_leaving_ends_the_connection(self) -> None:
        """Goodbye is said and heard.  RLY-001"""
        a, b, _c = self.clients.values()
        a.perform(a.membership.leave())
        self.settle()
        self.assertEqual(self.hung_up, [1])
        for effect in self.registry.disconnected(1):
            assert isinstance(effect, Transmit)
            assert isinstance(effect.data, str)
            b.hear(effect.data.encode())
        self.assertIn(PeerLeft(A), b.effects)


class MembershipTests(SynchronousTestCase):
    """A client on its own."""

    def setUp(self) -> None:
        self.client = Client(A)

    def test_a_refusal_and_a_wrong_answer_fail(self) -> None:
        """The relay's text is cleaned, whatever it holds.  RLY-001, API-102-X"""
        refusal = relay.RegisterAck(success=False, message="no\n\u202e!", connected_peers=0)
        for answer, said in ((refusal, "the relay refused us: no!"), (relay.Pong(timestamp=1), "")):
            client = Client(A)
            client.perform(client.membership.begin(A, ()))
            client.hear(answer)
            (failed,) = client.take()
            assert isinstance(failed, Failed)
            self.assertIn(said, str(failed.error))
            self.assertFalse(failed.is_final)

    def test_errors_that_end_a_session(self) -> None:
        """1, 4, 5, 7 back off; 6 is a fault of the configuration; 2 changes nothing.  RLY-004"""
        for code, count, is_final in ((1, 1, False), (4, 1, False), (5, 1, False), (6, 1, True),
                                      (7, 1, False), (2, 0, False), (99, 0, False)):  # fmt: skip
            client = Client(A)
            client.registered()
            client.hear(relay.RelayFault(code=code, message="x"))
            failed = client.take()
            self.assertEqual(len(failed), count, code)
            for effect in failed:
                assert isinstance(effect, Failed)
                self.assertEqual(effect.is_final, is_final)

    def test_silence_ends_a_session(self) -> None:
        """90 s without any frame; pings go out meanwhile.  RLY-006"""
        self.client.registered()
        self.client.time = 30
        self.client.perform(self.client.membership.tick())
        self.assertEqual(self.client.take_said(), [relay.Ping(timestamp=30_000)])
        self.client.time = 60
        self.client.perform(self.client.membership.tick())
        self.assertEqual(
            self.client.take_said(), [relay.Ping(timestamp=60_000), relay.GetPeers(network_id="N")]
        )
        self.client.time = 89.9
        self.client.perform(self.client.membership.tick())
        self.assertEqual(self.client.take(), [])
        self.client.time = 90
        self.client.perform(self.client.membership.tick())
        (failed,) = self.client.take()
        self.assertIsInstance(failed, Failed)

    def test_who_is_on_the_way_out_asks_for_no_list(self) -> None:
        """It still pings, and still notices silence.  RLY-005, RLY-006"""
        self.client.registered()
        self.client.membership.list_no_more()
        self.client.time = 60
        self.client.perform(self.client.membership.tick())
        self.assertEqual(self.client.take_said(), [relay.Ping(timestamp=60_000)])
        self.client.time = 90
        self.client.perform(self.client.membership.tick())
        self.assertIsInstance(self.client.take()[0], Failed)

    def test_latency_is_measured_with_our_own_clock(self) -> None:
        """A stamp from the future or of ages ago says nothing.  RLY-006"""
        self.client.registered()
        self.client.time = 10.5
        self.client.hear(relay.Pong(timestamp=10_400))
        self.assertEqual(self.client.membership.latency_ms, 100)
        for stamp in (2**64 - 1, 10_501):
            self.client.hear(relay.Pong(timestamp=stamp))
        self.assertEqual(self.client.membership.latency_ms, 100)

    def test_what_is_repeated_is_dropped(self) -> None:
        """A number at or below the last is; gaps are fine.  RLY-002"""
        self.client.registered()
        for seq in (1, 2, 2, 1, 9):
            self.client.hear(from_peer(B, seq))
        self.assertEqual(self.client.take(), [Tunneled(B, TUNNEL)] * 3)
        self.assertEqual(self.client.membership.dropped, 2)

    def test_a_peer_that_started_over_is_heard(self) -> None:
        """After it registered again, or after a minute of silence.  RLY-002"""
        self.client.registered()
        self.client.hear(from_peer(B, 50))
        self.client.hear(from_peer(B, 1))
        self.assertEqual(len(self.client.take()), 1)
        self.client.hear(relay.PeerConnected(peer=record(B)))
        self.client.hear(from_peer(B, 1))
        self.client.hear(from_peer(B, 1))
        self.assertEqual(self.client.take(), [PeerArrived(B, ()), Tunneled(B, TUNNEL)])
        self.client.time = 60
        self.client.hear(from_peer(B, 1))
        self.assertEqual(self.client.take(), [Tunneled(B, TUNNEL)])

    def test_our_numbers_go_on_across_connections(self) -> None:
        """Peers that saw no restart would drop what starts over.  RLY-002"""
        self.client.registered()
        self.client.perform(self.client.membership.message(B, TUNNEL))
        self.client.perform(self.client.membership.lost())
        self.client.registered()
        self.client.perform(self.client.membership.message(B, TUNNEL))
        (message,) = self.client.take_said()
        assert isinstance(message, relay.RelayMessage)
        self.assertEqual(message.seq, 2)

    def test_messages_for_others_and_from_ourselves_are_dropped(self) -> None:
        """A relay that misdelivers achieves nothing.  RLY-002"""
        self.client.registered()
        self.client.hear(from_peer(B, 1, to=C))
        self.client.hear(from_peer(A, 1))
        self.client.hear(relay.binary_message(A, 1, TUNNEL), is_binary=True)
        self.assertEqual((self.client.take(), self.client.membership.dropped), ([], 3))

    def test_payloads_are_told_apart(self) -> None:
        """Tunnel frames, whole messages that nobody vouches for, and the rest.  RLY-102-X"""
        self.client.registered()
        envelope = bytes.fromhex("140000000000")
        for seq, payload in enumerate((TUNNEL, envelope, b"\x16\3\1", b"", b"\x14\7"), 1):
            self.client.hear(from_peer(B, seq, payload=payload))
        self.client.hear(relay.Broadcast(sender=B.hex(), payload=envelope))
        self.client.hear(relay.Broadcast(sender=B.hex(), payload=TUNNEL))
        self.assertEqual(
            self.client.take(), [Tunneled(B, TUNNEL), Unvouched(envelope), Unvouched(envelope)]
        )

    def test_the_list_of_peers_is_ours_and_bounded(self) -> None:
        """Other networks, ourselves and whoever exceeds 1000 stay out.  RLY-005"""
        self.client.registered()
        many = [bytes32(number.to_bytes(32, "big")) for number in range(1, 1100)]
        self.client.hear(relay.Peers(peers=(record(A), record(B, "M"), *map(record, many))))
        self.assertLessEqual(len(self.client.membership.peers), module.MAX_PEERS)
        self.assertNotIn(A, self.client.membership.peers)
        self.assertNotIn(B, self.client.membership.peers)
        self.client.hear(relay.PeerConnected(peer=record(C)))
        self.assertLessEqual(len(self.client.membership.peers), module.MAX_PEERS)

    def test_a_list_replaces_what_was_known(self) -> None:
        """Whoever is not on it has left; new addresses are told.  RLY-005"""
        self.client.registered()
        self.client.hear(relay.Peers(peers=(record(B), record(C))))
        self.client.take()
        self.client.hear(relay.Peers(peers=(record(C, "N", ADDRESS),)))
        self.assertEqual(self.client.take(), [PeerLeft(B), PeerArrived(C, (ADDRESS,))])
        self.client.perform(self.client.membership.lost())
        self.assertEqual(self.client.take(), [PeerLeft(C)])

    def test_coordinates_come_from_known_peers_and_not_too_often(self) -> None:
        """Strangers are ignored, and more than ten a minute.  NAT-101-X"""
        self.client.registered()
        wish = relay.HolePunchCoordinate(peer_id=B.hex(), external_addr=ADDRESS)
        self.client.hear(wish)
        self.assertEqual(self.client.take(), [])
        self.client.hear(relay.PeerConnected(peer=record(B)))
        self.client.take()
        for _ in range(11):
            self.client.hear(wish)
        self.assertEqual(self.client.take(), [Coordinate(B, ADDRESS)] * 10)
        self.client.time = 60
        self.client.hear(wish)
        self.assertEqual(len(self.client.take()), 1)

    def test_nothing_is_said_before_the_registration(self) -> None:
        """Neither messages, punches nor pings.  RLY-001"""
        membership = self.client.membership
        for effects in (
            membership.message(B, TUNNEL),
            membership.request_punch(B, ADDRESS),
            membership.report_punch(B, True),
            membership.tick(),
            membership.leave(),
        ):
            self.assertEqual(effects, [])
        self.assertIs(membership.stage, Stage.IDLE)

    @given(st.lists(st.tuples(st.binary(max_size=60), st.booleans()), max_size=8), st.booleans())
    def test_any_bytes_are_taken_without_harm(
        self, messages: list[tuple[bytes, bool]], registered: bool
    ) -> None:
        """No exception, whatever a relay sends.  style §4"""
        client = Client(A)
        if registered:
            client.registered(binary=True)
        else:
            client.perform(client.membership.begin(A, ()))
        for data, is_binary in messages:
            client.perform(client.membership.received(data, is_binary))
