"""Whole nodes that take another id while something goes wrong at the relay."""

from __future__ import annotations

from unittest import mock

from dig_gossip import PeerIdRotationConfig
from dig_gossip.errors import PeerNotConnected
from dig_gossip.relay.client import RelayClient, RelayState
from dig_gossip.service.relaying import FORMER_SECS
from dig_gossip.testing.network import MemoryNode
from tests.service.test_rotating_relayed import RelayedCase


class FailureTests(RelayedCase):
    """What can go wrong in the middle."""

    def assert_falls_back(self, node: MemoryNode, others: list[MemoryNode]) -> None:
        """One registration ends, and the next one and its sessions come, within seconds."""
        former = node.peer_id
        self.rotate(node)
        self.until(lambda: node.peer_id in self.registered(), 5)
        self.assertNotIn(former, self.registered())
        self.assertEqual(self.formers(node), 0)
        self.until(lambda: self.own_ids(node) == {node.peer_id}, 15)
        self.until(lambda: len(self.peer_ids(node)) == len(others), 15)

    def test_a_relay_that_registers_an_address_once(self) -> None:
        """The old registration makes room for the new one.  PRV-007.1, RLY-004"""
        self.stop_relay()
        self.relay = self.make_relay(registrations_per_host=1)
        node, others = self.network_of(2)
        self.assert_falls_back(node, others)
        self.assertEqual(self.relay.registry.counters["refused.rate_limited"], 1)

    def test_a_relay_without_room(self) -> None:
        """The same before TLS.  PRV-007.1, RLY-004"""
        self.stop_relay()
        self.relay = self.make_relay(max_connections=3)
        node, others = self.network_of(2)
        self.assert_falls_back(node, others)
        self.assertEqual(self.relay.registry.counters["refused.capacity"], 1)

    def test_the_relay_dies_in_the_middle(self) -> None:
        """Both registrations are lost; one is sought, and found when the relay is back.  RLY-004"""
        for moment in ("connecting", "registered", "opening", "moved"):
            with self.subTest(moment):
                node, others = self.network_of(2, others_open=False)
                self.rotate(node)
                former = self.reach(node, moment)
                self.stop_relay()
                self.network.advance(3)
                relaying = self.relaying(node)
                self.assertEqual((self.peer_ids(node), self.formers(node)), (set(), 0))
                self.assertIsNot(relaying.client.state, RelayState.CONNECTED)
                self.assertIs(former.state, RelayState.DISABLED)
                self.relay = self.make_relay()
                self.until(lambda n=node: len(self.peer_ids(n)) >= 2, 120)
                self.assertEqual(self.own_ids(node), {node.peer_id})
                for made in (node, *others):
                    self.network.run(made.service.stop())

    def test_the_node_stops_in_the_middle(self) -> None:
        """Both registrations end, and no timer, tunnel or waiter is left.  behaviour §32"""
        for moment in ("connecting", "registered", "opening", "moved"):
            with self.subTest(moment):
                node, others = self.network_of(2, others_open=False)
                relaying = self.relaying(node)
                self.rotate(node)
                self.reach(node, moment)
                self.assertEqual(self.formers(node), 1)
                stopping = node.service.stop()
                self.network.advance(1)
                self.assertEqual(self.registered(), {bytes(other.peer_id) for other in others})
                self.assertEqual((len(relaying._formers), relaying._redials), (0, {}))
                self.network.run(stopping)
                for other in others:
                    self.network.run(other.service.stop())

    def test_the_former_registration_alone_is_lost(self) -> None:
        """It does not come again; what it carried is met again under the new id.  RLY-004"""
        node, others = self.network_of(2)
        self.rotate(node)
        former = self.reach(node, "registered")
        assert former._socket is not None
        former._socket.abort()
        self.until(lambda: self.formers(node) == 0, 1)
        self.assertIs(former.state, RelayState.DISABLED)
        self.until(lambda: len(self.peer_ids(node)) == len(others), 15)
        self.assertEqual(self.own_ids(node), {node.peer_id})

    def reach(self, node: MemoryNode, moment: str) -> RelayClient:
        """Go on from a rotation to a certain moment; returns the former registration."""
        relaying = self.relaying(node)
        former = next(iter(relaying._formers._until))
        if moment == "connecting":
            return former
        self.watch([node], lambda: relaying.client.is_registered)
        if moment == "opening":
            self.watch([node], lambda: relaying.client.hub.is_opening)
        elif moment == "moved":
            self.watch([node], lambda: node.peer_id in self.own_ids(node))
        self.assertGreater(self.fewest, 0)
        return former

    def test_a_third_registration_that_is_refused_ends_the_first(self) -> None:
        """The second one has left with nothing to carry; the first carries on.  PRV-007.1"""
        node, others = self.network_of(2, others_open=False)
        self.rotate(node)
        relaying = self.relaying(node)
        self.watch([node], lambda: relaying.client.is_registered)
        self.assertEqual(len(relaying.client.hub), 0)
        hosts, answers = self.relay.registry._hosts, ("no room", *9 * [None])
        with mock.patch.object(hosts, "may_register", side_effect=answers):
            self.rotate(node)
            self.assertEqual(self.formers(node), 1)
            self.until(lambda: self.formers(node) == 0, 1)
            self.until(lambda: len(self.peer_ids(node)) == len(others), 15)
        self.assertEqual(self.own_ids(node), {node.peer_id})

    def test_the_new_registration_alone_is_lost(self) -> None:
        """What the former one carries goes on, and follows when the new one is back.  RLY-004"""
        node, others = self.network_of(2, others_open=False)
        self.rotate(node)
        self.reach(node, "registered")
        socket = self.relaying(node).client._socket
        assert socket is not None
        socket.abort()
        self.watch([node], lambda: not self.relaying(node).client.is_registered)
        self.watch([node, *others], lambda: self.own_ids(node) == {node.peer_id})
        self.assertEqual(self.fewest, 1)
        self.assertEqual(len(self.peer_ids(node)), 2)

    def test_an_opening_under_a_former_id_says_nothing_about_the_present_one(self) -> None:
        """It may end long after the next rotation.  PRV-007.1"""
        node, (other,) = self.network_of(1, others_open=False)
        relaying = self.relaying(node)
        with mock.patch.object(
            relaying._tunneled, "begin", wraps=relaying._tunneled.begin
        ) as begin:
            self.rotate(node)
            self.watch([node], lambda: begin.called)
            ended = begin.call_args.args[1]
            self.rotate(node)
            self.watch([node], lambda: other.peer_id in relaying._redials)
            ended(PeerNotConnected(other.peer_id))
            self.assertIn(other.peer_id, relaying._redials)
            self.watch([node], lambda: self.own_ids(node) == {node.peer_id})

    def test_a_node_that_opens_no_tunnels_is_alone_if_its_only_peer_has_enough(self) -> None:
        """With a target of 1, when the old registration leaves.  PRV-007.1, DIV-102-X"""
        (other,) = self.hidden(1, relay=self.config(), target_outbound_count=2)
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6)
        (node,) = self.hidden(
            1, relay=self.config(), target_outbound_count=1, peer_id_rotation=rotation
        )
        self.until(lambda: bool(self.peer_ids(node) and self.peer_ids(other)))
        former = node.peer_id
        self.rotate(node)
        self.watch_for([node], FORMER_SECS - 5)
        self.assertEqual((self.fewest, self.own_ids(node)), (1, {former}))
        self.watch_for([node], 6)
        self.assertEqual(self.fewest, 0)
        self.until(lambda: self.own_ids(node) == {node.peer_id}, 15)
