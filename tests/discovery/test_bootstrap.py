"""The bootstrap peers stay connected."""

from __future__ import annotations

from tests.network_case import NetworkCase


class BootstrapTests(NetworkCase):
    """Dial, dial again, with growing pauses."""

    def test_bootstrap_peers_are_dialed_at_start(self) -> None:
        """Without anybody asking.  DSC-006.1"""
        hub = self.network.node()
        node = self.network.node(bootstrap_peers=[hub.address])
        self.network.start()
        self.network.advance(1)
        self.assertEqual(self.peer_ids(node), {bytes(hub.peer_id)})

    def test_a_lost_peer_is_dialed_again(self) -> None:
        """Within one interval.  DSC-006.1"""
        hub = self.network.node()
        node = self.network.node(bootstrap_peers=[hub.address], peer_connect_interval=30)
        self.network.start()
        self.network.advance(1)
        self.network.run(hub.handle.disconnect(node.peer_id))
        self.network.advance(1)
        self.assertEqual(self.peer_ids(node), set())
        self.network.advance(31)
        self.assertEqual(self.peer_ids(node), {bytes(hub.peer_id)})

    def test_a_peer_that_is_down_is_tried_with_growing_pauses(self) -> None:
        """5 s, 10 s, 20 s … with jitter, never hammering.  CON-102-X"""
        node = self.network.node(
            bootstrap_peers=["10.200.0.1:9444"], peer_connect_interval=1, port=9444
        )
        self.network.start()
        self.network.advance(150)
        tries = self.counter(node, "opening_failed.outbound.refused")
        self.assertGreaterEqual(tries, 4)
        self.assertLessEqual(tries, 6)

    def test_a_peer_that_comes_up_later_is_found(self) -> None:
        """The pause ends the waiting, not the trying.  CON-102-X"""
        host = self.network.host()
        node = self.network.node(bootstrap_peers=[(host, 9444)])
        self.network.start()
        self.network.advance(12)
        late = self.network.node(host=host)
        self.network.start()
        self.network.advance(40)
        self.assertEqual(self.peer_ids(node), {bytes(late.peer_id)})

    def test_no_more_than_the_target_is_dialed(self) -> None:
        """The rest stays in reserve.  behaviour 2"""
        hubs = self.nodes(4)
        node = self.network.node(
            bootstrap_peers=[hub.address for hub in hubs], target_outbound_count=2
        )
        self.network.start()
        self.network.advance(100)
        self.assertEqual(len(self.peer_ids(node)), 2)

    def test_two_nodes_that_name_each_other_share_one_session(self) -> None:
        """And stop dialing once they have it.  CON-105-X"""
        hosts = [self.network.host(), self.network.host()]
        pair = [
            self.network.node(host=hosts[n], bootstrap_peers=[(hosts[1 - n], 9444)]) for n in (0, 1)
        ]
        self.network.start()
        self.network.advance(200)
        for node in pair:
            stats = self.network.run(node.handle.stats())
            self.assertEqual(stats.connected_peers, 1)
            self.assertLessEqual(stats.total_connections, 2)
            self.assertEqual(node.service.node.dialer.dials, 0)

    def test_a_node_that_names_itself_goes_on(self) -> None:
        """Its own address is dropped from the list.  CON-001.1"""
        host = self.network.host()
        hub = self.network.node()
        node = self.network.node(host=host, bootstrap_peers=[(host, 9444), hub.address])
        self.network.start()
        self.network.advance(1)
        self.assertEqual(self.peer_ids(node), {bytes(hub.peer_id)})

    def test_another_network_is_not_dialed_again_for_an_hour(self) -> None:
        """Retrying cannot help.  CON-001.7"""
        other = self.network.node(network="chia-mainnet")
        node = self.network.node(bootstrap_peers=[other.address], peer_connect_interval=1)
        self.network.start()
        self.network.advance(3000)
        self.assertEqual(self.counter(node, "opening_failed.outbound.wrong_network"), 1)
        self.network.advance(700)
        self.assertEqual(self.counter(node, "opening_failed.outbound.wrong_network"), 2)
