"""Which listed peers are dialed or tunneled to; and when a lost relay is tried again."""

from __future__ import annotations

from random import Random

from chia_rs.sized_bytes import bytes32
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.admission import inbound_tunnels, outbound_tunnels
from dig_gossip.relay.contacts import (
    Action,
    Contacts,
    DialDirect,
    OpenTunnel,
)
from dig_gossip.relay.membership import MAX_PEERS
from dig_gossip.relay.reconnection import Reconnection
from dig_gossip.types.peer import PeerAddress, PeerId

OWN = bytes32(b"\5" * 32)
SMALL, LARGE = bytes32(b"\1" * 32), bytes32(b"\7" * 32)
ONE, TWO = PeerAddress("198.51.100.1", 1), PeerAddress("198.51.100.1", 2)


class ContactsTests(SynchronousTestCase):
    """The choice of a way."""

    def setUp(self) -> None:
        self.time = 0.0
        self.taken: set[PeerId] = set()
        self.contacts = self.make()

    def make(self, prefer_relay: bool = False) -> Contacts:
        """Contacts of a node in the middle of all ids."""
        return Contacts(OWN, prefer_relay=prefer_relay, now=lambda: self.time)

    def actions(self, wanted: int = 8, tunnels: int = 6) -> list[Action]:
        """What is to be done now."""
        return self.contacts.next_actions(
            wanted=wanted, tunnels=tunnels, is_taken=self.taken.__contains__
        )

    def test_whoever_can_be_dialed_is_dialed(self) -> None:
        """All its addresses in turn, then a tunnel; the address again a minute later.  RLY-008"""
        self.contacts.listed(SMALL, (ONE, TWO))
        for expected in (DialDirect(SMALL, ONE), DialDirect(SMALL, TWO), OpenTunnel(SMALL)):
            self.assertEqual(self.actions(), [expected])
            self.assertEqual(self.actions(), [])
            self.contacts.failed(expected)
        self.assertEqual(self.actions(), [])
        self.time = 60
        self.assertEqual(self.actions(), [DialDirect(SMALL, ONE)])

    def test_the_smaller_id_leads(self) -> None:
        """The larger one waits five seconds, then asks itself.  RLY-101-X"""
        self.contacts.listed(SMALL, ())
        self.contacts.listed(LARGE, ())
        self.assertEqual(self.actions(), [OpenTunnel(LARGE)])
        self.time = 4.9
        self.assertEqual(self.actions(), [])
        self.time = 5
        self.assertEqual(self.actions(), [OpenTunnel(SMALL)])

    def test_prefer_relay_reverses_the_order(self) -> None:
        """Tunnels even where dialing would do.  RLY-008"""
        self.contacts = self.make(prefer_relay=True)
        self.contacts.listed(LARGE, (ONE,))
        self.assertEqual(self.actions(), [OpenTunnel(LARGE)])

    def test_only_what_is_missing_is_made(self) -> None:
        """Attempts under way count, and so do the two caps.  RLY-106-X, DIV-102-X"""
        peers = [bytes32(bytes([200, number]) + bytes(30)) for number in range(12)]
        for peer in peers:
            self.contacts.listed(peer, ())
        self.assertEqual(len(self.actions(wanted=3, tunnels=2)), 2)
        self.assertEqual(len(self.actions(wanted=3, tunnels=2)), 1)
        self.assertEqual(self.actions(wanted=3, tunnels=2), [])
        self.assertEqual(self.actions(wanted=8, tunnels=0), [])
        self.assertEqual([outbound_tunnels(n) for n in (0, 1, 2, 3, 8)], [0, 0, 1, 2, 6])
        self.assertEqual([inbound_tunnels(n) for n in (1, 4, 50)], [0, 3, 38])

    def test_a_peer_with_a_session_is_left_alone(self) -> None:
        """And so is one that the relay no longer lists.  RLY-008"""
        self.contacts.listed(LARGE, ())
        self.taken.add(LARGE)
        self.assertEqual(self.actions(), [])
        self.taken.clear()
        self.contacts.left(LARGE)
        self.assertEqual(self.actions(), [])

    def test_failing_tunnels_are_tried_ever_less_often(self) -> None:
        """After 60 s, 120 s, … 600 s; success forgives.  RLY-008"""
        self.contacts.listed(LARGE, ())
        for delay in (60, 120, 240, 480, 600, 600):
            self.assertEqual(self.actions(), [OpenTunnel(LARGE)])
            self.contacts.failed(OpenTunnel(LARGE))
            self.time += delay - 0.1
            self.assertEqual(self.actions(), [])
            self.time += 0.1
        self.actions()
        self.contacts.connected(LARGE)
        self.assertEqual(self.actions(), [OpenTunnel(LARGE)])
        self.contacts.failed(OpenTunnel(LARGE))
        self.time += 60
        self.assertEqual(self.actions(), [OpenTunnel(LARGE)])

    def test_new_addresses_are_tried_at_once(self) -> None:
        """Whatever became of the old ones.  RLY-105-X"""
        self.contacts.listed(LARGE, (ONE,))
        self.contacts.failed(self.actions()[0])
        self.contacts.listed(LARGE, (TWO,))
        self.assertEqual(self.actions(), [DialDirect(LARGE, TWO)])

    def test_contacts_are_bounded(self) -> None:
        """As the relay's list is.  RLY-005"""
        for number in range(MAX_PEERS + 10):
            self.contacts.listed(bytes32(number.to_bytes(32, "big")), ())
        self.assertEqual(len(self.contacts), MAX_PEERS)
        self.contacts.clear()
        self.assertEqual(len(self.contacts), 0)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["listed", "left", "actions", "failed", "connected", "wait"]),
                st.integers(0, 5),
                st.integers(0, 2),
            ),
            max_size=60,
        )
    )
    def test_no_peer_is_approached_twice_at_once(self, steps: list[tuple[str, int, int]]) -> None:
        """Whatever happens in whatever order.  RLY-008"""
        self.time = 0.0
        self.contacts = self.make()
        under_way: dict[PeerId, Action] = {}
        for what, which, count in steps:
            peer = bytes32(bytes([which * 2]) + bytes(31))
            if what == "listed":
                self.contacts.listed(peer, (ONE, TWO)[:count])
            elif what == "left":
                self.contacts.left(peer)
                under_way.pop(peer, None)
            elif what == "actions":
                for action in self.actions(wanted=count + len(under_way)):
                    self.assertNotIn(action.peer, under_way)
                    under_way[action.peer] = action
            elif what == "failed" and peer in under_way:
                self.contacts.failed(under_way.pop(peer))
            elif what == "connected":
                self.contacts.connected(peer)
                under_way.pop(peer, None)
            elif what == "wait":
                self.time += 40


class ReconnectionTests(SynchronousTestCase):
    """Coming back to a relay."""

    def delays(self, reconnection: Reconnection, count: int) -> list[float | None]:
        """The next delays."""
        return [reconnection.next_delay() for _ in range(count)]

    def test_delays_double_up_to_five_minutes(self) -> None:
        """Each times 0.5 to 1.5.  RLY-004"""
        for seed in range(20):
            found = self.delays(Reconnection(5, 9, Random(seed)), 10)
            self.assertIsNone(found[-1])
            for delay, mean in zip(found, (5, 10, 20, 40, 80, 160, 300, 300, 300), strict=False):
                assert delay is not None
                self.assertTrue(0.5 * mean <= delay <= 1.5 * mean)

    def test_zero_means_one_attempt(self) -> None:
        """And no other.  behaviour §2"""
        self.assertEqual(self.delays(Reconnection(5, 0, Random(1)), 1), [None])

    def test_a_lasting_session_forgives(self) -> None:
        """60 s do, less do not; asking for another try does, too.  RLY-004"""
        reconnection = Reconnection(5, 2, Random(1))
        self.delays(reconnection, 2)
        reconnection.lost_after(59.9)
        self.assertEqual(reconnection.failures, 2)
        reconnection.lost_after(60)
        self.assertEqual(reconnection.failures, 0)
        self.assertIsNone(self.delays(reconnection, 3)[-1])
        reconnection.restart()
        self.assertIsNotNone(reconnection.next_delay())
