"""How nodes find each other's one session: dials, glare, duplicates, replacement, removal."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from dig_gossip import (
    ClientError,
    ClientErrorKind,
    DuplicateConnection,
    MaxConnectionsReached,
    Message,
    PeerBanned,
    PeerId,
    PeerNotConnected,
    PeerOptions,
    PenaltyReason,
    SelfConnection,
    ServiceNotStarted,
)
from dig_gossip.gossip.recent import MAX_RECENT
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.testing.erlay_network import announcement
from dig_gossip.testing.network import MemoryNode
from dig_gossip.types.sections import ErlayConfig, PlumtreeConfig
from dig_gossip.util.deferreds import handled
from tests.network_case import NetworkCase


def outcome_of(deferred: Deferred[PeerId]) -> list[PeerId | Failure]:
    """What a Deferred came to, once it has fired."""
    outcome: list[PeerId | Failure] = []
    handled(deferred.addBoth(outcome.append))
    return outcome


class DialTests(NetworkCase):
    """``connect_to``."""

    def test_a_dial_registers_both_ends(self) -> None:
        """Both ends know each other by verified id.  CON-001, CON-002, API-002.8"""
        one, other = self.connected()
        (there,) = self.network.run(one.handle.connected_peers())
        (here,) = self.network.run(other.handle.connected_peers())
        self.assertEqual(there.peer_id, other.peer_id)
        self.assertEqual(here.peer_id, one.peer_id)
        self.assertTrue(there.is_outbound)
        self.assertFalse(here.is_outbound)
        self.assertEqual(here.peer_server_port, one.address.port)
        self.assertEqual(there.node_type, 1)

    def test_dialing_the_same_address_twice_at_once_shares_the_attempt(self) -> None:
        """Two callers, one connection.  CON-001.1"""
        one, other = self.nodes(2)
        first = one.handle.connect_to(other.address)
        second = one.handle.connect_to(other.address)
        self.assertEqual(one.service.node.dialer.dials, 1)
        self.assertEqual(self.network.run(first), other.peer_id)
        self.assertEqual(self.network.run(second), other.peer_id)
        stats = self.network.run(other.handle.stats())
        self.assertEqual(stats.total_connections, 1)

    def test_dialing_a_live_peer_again_is_a_duplicate(self) -> None:
        """A session that is proven live is not replaced by a dial.  CON-001.1"""
        one, other = self.connected()
        error = self.assertFires(DuplicateConnection, one.handle.connect_to(other.address))
        assert isinstance(error, DuplicateConnection)
        self.assertEqual(error.peer_id, other.peer_id)

    def test_two_addresses_of_one_peer_make_one_session(self) -> None:
        """Whoever is behind the second address is known already.  CON-105-X"""
        one, other = self.nodes(2)
        alias = self.network.host()
        port = self.network._ports[(other.host, 9444)]
        self.network._ports[(alias, 9444)] = port
        first = outcome_of(one.handle.connect_to(other.address))
        second = outcome_of(one.handle.connect_to((alias, 9444)))
        self.network.advance(5)
        outcomes = [*first, *second]
        self.assertEqual(outcomes.count(other.peer_id), 1)
        failures = [o for o in outcomes if isinstance(o, Failure)]
        self.assertEqual([f.type for f in failures], [DuplicateConnection])
        self.assertEqual(self.peer_ids(one), {bytes(other.peer_id)})
        self.assertEqual(self.peer_ids(other), {bytes(one.peer_id)})
        del self.network._ports[(alias, 9444)]

    def test_own_address_is_not_dialed(self) -> None:
        """The address check comes before any socket.  CON-001.1"""
        (node,) = self.nodes(1)
        self.assertFires(SelfConnection, node.handle.connect_to(node.address))

    def test_own_identity_behind_another_address_is_refused(self) -> None:
        """The verified id is compared with ours.  CON-001.5"""
        (node,) = self.nodes(1)
        alias = self.network.host()
        self.network._ports[(alias, 9444)] = self.network._ports[(node.host, 9444)]
        self.assertFires(SelfConnection, node.handle.connect_to((alias, 9444)))
        self.network.advance(1)
        self.assertEqual(self.peer_ids(node), set())
        del self.network._ports[(alias, 9444)]

    def test_nobody_listening_is_refused_and_retryable(self) -> None:
        """A host that is merely down may be tried again.  API-004.1"""
        (node,) = self.nodes(1)
        error = self.assertFires(ClientError, node.handle.connect_to(("10.9.9.9", 9444)))
        assert isinstance(error, ClientError)
        self.assertIs(error.kind, ClientErrorKind.REFUSED)
        self.assertTrue(error.retryable)

    def test_silence_ends_with_the_tcp_deadline(self) -> None:
        """An address that never answers costs ten seconds.  CON-001.2"""
        one, other = self.nodes(2)
        self.network.cut(one.host, other.host)
        outcome = outcome_of(one.handle.connect_to(other.address))
        self.network.advance(9.9)
        self.assertEqual(outcome, [])
        self.network.advance(0.2)
        (failure,) = outcome
        assert isinstance(failure, Failure)
        assert isinstance(failure.value, ClientError)
        self.assertIs(failure.value.kind, ClientErrorKind.TIMEOUT)

    def test_other_network_is_refused_for_good(self) -> None:
        """The refusal names the reason and is not retried.  CON-003, API-004.1"""
        one = self.network.node()
        other = self.network.node(network="chia-mainnet")
        self.network.start()
        error = self.assertFires(ClientError, one.handle.connect_to(other.address))
        assert isinstance(error, ClientError)
        self.assertIs(error.kind, ClientErrorKind.WRONG_NETWORK)
        self.assertFalse(error.retryable)
        self.assertFalse(one.service.node.dialer.backoff.may_dial(other.address))

    def test_full_node_refuses_inbound_but_keeps_outbound_slots(self) -> None:
        """Inbound peers never take the slots reserved for outbound.  CON-110-X"""
        hub = self.network.node(max_connections=3, target_outbound_count=2)
        others = [self.network.node() for _ in range(3)]
        self.network.start()
        self.connect(others[0], hub)
        self.assertFires(ClientError, others[1].handle.connect_to(hub.address))
        self.assertEqual(self.counter(hub, "eviction_refused.all_protected"), 1)
        self.connect(hub, others[1])
        self.connect(hub, others[2])
        self.assertEqual(len(self.peer_ids(hub)), 3)
        fourth = self.nodes(1)[0]
        self.assertFires(MaxConnectionsReached, hub.handle.connect_to(fourth.address))

    def test_cancelling_leaves_nothing(self) -> None:
        """At whatever moment the caller gives up, nothing stays behind.  style 6.4"""
        for moment in range(0, 130, 5):
            one, other = self.nodes(2)
            dialing = one.handle.connect_to(other.address)
            outcome = outcome_of(dialing)
            self.network.advance(moment / 1000)
            dialing.cancel()
            self.network.advance(10)
            parts = one.service.node
            if not self.peer_ids(one):
                self.assertEqual(parts.dialer.dials, 0)
                self.assertEqual(parts.peers.openings, 0)
                self.assertEqual(len(parts.transports), 0)
            self.assertEqual(self.peer_ids(one), self.peer_ids(other) and {bytes(other.peer_id)})
            self.assertEqual(len(outcome), 1)

    def test_calls_on_a_stopped_service_fail(self) -> None:
        """Before start and after stop.  API-002.1"""
        node = self.network.node()
        self.assertFires(ServiceNotStarted, node.handle.connect_to("10.0.0.9:1"))
        self.network.start()
        self.network.run(node.service.stop())
        self.assertFires(ServiceNotStarted, node.handle.connect_to("10.0.0.9:1"))


class GlareTests(NetworkCase):
    """Both ends dial at once, at every possible offset."""

    latency = 0.02

    def test_both_ends_keep_the_same_one_session(self) -> None:
        """The session of the smaller id's dial survives on both ends.  CON-105-X"""
        for offset in range(-240, 241, 8):
            one, other = self.nodes(2)
            early, late = (one, other) if offset >= 0 else (other, one)
            dials = [outcome_of(early.handle.connect_to(late.address))]
            self.network.advance(abs(offset) / 1000)
            dials.append(outcome_of(late.handle.connect_to(early.address)))
            self.network.advance(8)
            where = f"offset {offset} ms"
            self.assertEqual(self.peer_ids(one), {bytes(other.peer_id)}, where)
            self.assertEqual(self.peer_ids(other), {bytes(one.peer_id)}, where)
            a, b = self.session(one, other), self.session(other, one)
            self.assertNotEqual(a.is_outbound, b.is_outbound, where)
            self.assertTrue(a.is_connected and b.is_connected, where)
            for node in (one, other):
                self.assertEqual(len(node.service.node.transports), 1, where)
            for (result,) in dials:
                if isinstance(result, Failure):
                    self.assertIs(result.type, DuplicateConnection, where)
            self.assert_it_works(one, other)

    def test_the_loser_is_the_session_of_the_larger_id(self) -> None:
        """Dials in the very same turn.  CON-105-X"""
        for first in (0, 1):
            pair = self.nodes(2)
            smaller = min(pair, key=lambda node: bytes(node.peer_id))
            larger = max(pair, key=lambda node: bytes(node.peer_id))
            order = (smaller, larger) if first == 0 else (larger, smaller)
            for node in order:
                peer = larger if node is smaller else smaller
                outcome_of(node.handle.connect_to(peer.address))
            self.network.advance(8)
            self.assertTrue(self.session(smaller, larger).is_outbound)
            self.assertFalse(self.session(larger, smaller).is_outbound)

    def test_what_is_sent_meanwhile_arrives_once(self) -> None:
        """Along sessions that end at once, or before there are any.  CON-105-X, PLT-003"""
        for offset in range(0, 121, 12):
            nodes = self.nodes(2)
            self.assert_both_get_everything(nodes, offset, lambda data: Message(200, None, data))

    def test_transactions_sent_meanwhile_arrive_once(self) -> None:
        """Told of at once, or in the first round that there is.  CON-105-X, ERL-002"""
        for flooded in (0, 8):
            for offset in range(0, 121, 24):
                erlay = ErlayConfig(flood_peer_count=flooded)
                self.assert_both_get_everything(
                    self.nodes(2, erlay=erlay),
                    offset,
                    lambda data: announcement(int.from_bytes(data, "big")),
                )

    def test_who_comes_is_told_of_as_much_as_there_may_be(self) -> None:
        """In several frames right behind the handshake, with and without tags.  PLT-003"""
        for tagged in (False, True):
            plumtree = PlumtreeConfig(tagged_trees=tagged)
            limits = PeerOptions(enforce_rate_limits=False)  # 60 a minute, of these
            one, other = self.nodes(2, plumtree=plumtree, peer_options=limits)
            for number in range(MAX_RECENT):
                self.network.run(one.handle.broadcast(Message(200, None, b"%d" % number)))
            reader = other.handle.inbound_receiver()
            for dialer, dialed in ((one, other), (other, one)):
                self.connect(dialer, dialed)
                self.network.advance(10)
                self.assertEqual(self.peer_ids(one), {bytes(other.peer_id)})
                self.assertEqual(len(reader), MAX_RECENT)
                self.network.run(one.handle.disconnect(other.peer_id))
                self.network.advance(1)

    def assert_both_get_everything(
        self, nodes: list[MemoryNode], offset: int, message: Callable[[bytes], Message]
    ) -> None:
        """Let both dial, ``offset`` ms apart, and broadcast every 4 ms meanwhile."""
        moments = range(0, 240, 4)
        expected = [{message(bytes((n, at))).data for at in moments} for n in (1, 0)]
        readers = [node.handle.inbound_receiver() for node in nodes]
        outcome_of(nodes[0].handle.connect_to(nodes[1].address))
        for moment in moments:
            if moment == offset:
                outcome_of(nodes[1].handle.connect_to(nodes[0].address))
            for number, node in enumerate(nodes):
                self.network.run(node.handle.broadcast(message(bytes((number, moment)))))
            self.network.advance(0.004)
        self.network.advance(10)
        for reader, data in zip(readers, expected, strict=True):
            got = [self.network.run(reader.get())[1].data for _ in range(len(reader))]
            self.assertEqual((len(got), set(got)), (len(data), data), f"offset {offset} ms")

    def assert_it_works(self, one: MemoryNode, other: MemoryNode) -> None:
        received = other.handle.inbound_receiver()
        self.network.run(one.handle.broadcast(Message(200, None, b"x" + bytes(one.peer_id))))
        _peer, message = self.network.run(received.get())
        self.assertEqual(message.data, b"x" + bytes(one.peer_id))


class ReplacementTests(NetworkCase):
    """A session that has gone stale never blocks its peer."""

    def test_a_restarted_peer_that_dials_in_replaces_its_old_session(self) -> None:
        """Newest wins on the verified identity, the old one ends as superseded.  CON-105-X"""
        identity = throwaway_identity()
        hub = self.network.node()
        old = self.network.node(identity=identity)
        self.network.start()
        self.connect(old, hub)
        self.network.advance(31)
        self.network.kill(old)
        new = self.network.node(identity=identity)
        self.network.start()
        self.connect(new, hub)
        self.assertEqual(len(self.peer_ids(hub)), 1)
        self.assertEqual(self.session(hub, new).address.host, new.host)
        self.assertEqual(self.counter(hub, "removed.superseded"), 1)

    def test_a_dial_to_a_silent_session_replaces_it(self) -> None:
        """A slot's mere existence never blocks reconnection.  CON-101-X"""
        one, other = self.connected()
        self.network.cut(one.host, other.host)
        self.network.advance(40)  # longer than a ping interval: suspect
        self.network.stalled.clear()
        self.network._cut.clear()
        old = self.session(one, other)
        self.assertFalse(old.is_live)
        self.assertEqual(self.network.run(one.handle.connect_to(other.address)), other.peer_id)
        self.assertIsNot(self.session(one, other), old)
        self.network.advance(1)
        self.assertTrue(self.session(other, one).is_connected)

    def test_penalties_carry_over_to_the_new_session(self) -> None:
        """Reconnecting washes nothing off.  CON-105-X, REP-101-X"""
        one, other = self.connected()
        self.network.run(other.handle.penalize_peer(one.peer_id, PenaltyReason.SPAM))
        self.network.run(one.handle.disconnect(other.peer_id))
        self.network.advance(1)
        self.connect(one, other)
        (here,) = self.network.run(other.handle.connected_peers())
        self.assertEqual(here.reputation.penalty_points, 25)

    def test_pending_requests_of_the_old_session_fail_at_once(self) -> None:
        """Nobody waits for an answer that cannot come.  CON-105-X, API-002.7"""
        identity = throwaway_identity()
        hub = self.network.node()
        old = self.network.node(identity=identity)
        self.network.start()
        self.connect(old, hub)
        self.network.advance(31)
        self.network.kill(old)
        waiting = outcome_of(hub.handle.request_peers_from(old.peer_id))  # type: ignore[arg-type]
        new = self.network.node(identity=identity)
        self.network.start()
        self.connect(new, hub)
        (failure,) = waiting
        assert isinstance(failure, Failure)
        self.assertIs(failure.type, PeerNotConnected)


class RemovalTests(NetworkCase):
    """Every way out leads through one door."""

    def test_disconnect_removes_both_ends_and_charges_nobody(self) -> None:
        """A normal close.  API-002.9"""
        one, other = self.connected()
        self.network.run(one.handle.disconnect(other.peer_id))
        self.assertEqual(self.peer_ids(one), set())
        self.network.advance(1)
        self.assertEqual(self.peer_ids(other), set())
        self.assertEqual(self.counter(other, "removed.disconnected"), 1)
        self.assertEqual(self.counter(other, "penalty.connection_issue"), 0)
        self.assertFires(PeerNotConnected, one.handle.disconnect(other.peer_id))

    def test_a_silent_peer_is_dead_after_the_timeout(self) -> None:
        """90 s without a byte, and a charge of 10 points.  CON-004"""
        one, other = self.connected()
        self.network.kill(other)
        self.network.advance(85)
        self.assertEqual(len(self.peer_ids(one)), 1)
        self.network.advance(6)
        self.assertEqual(self.peer_ids(one), set())
        self.assertEqual(self.counter(one, "removed.dead"), 1)
        self.assertEqual(self.counter(one, "penalty.connection_issue"), 1)

    def test_idle_peers_stay_and_measure_their_round_trip(self) -> None:
        """Pings keep an idle link alive.  CON-004.1, PRF-001"""
        one, other = self.connected()
        self.network.advance(3600)
        (there,) = self.network.run(one.handle.connected_peers())
        self.assertEqual(there.peer_id, other.peer_id)
        self.assertEqual(len(there.reputation.rtt_history), 10)
        self.assertEqual(there.reputation.avg_rtt_ms, 20)
        self.assertGreater(there.reputation.score, 0)

    def test_a_ban_disconnects_and_keeps_out_by_id_and_address(self) -> None:
        """100 points close with 1008; the address is refused before TLS.  CON-007, CON-007.1"""
        one, other = self.connected()
        self.network.run(other.handle.ban_peer(one.peer_id, PenaltyReason.INVALID_BLOCK))
        self.assertEqual(self.peer_ids(other), set())
        self.network.advance(1)
        self.assertEqual(self.peer_ids(one), set())
        self.assertFires(ClientError, one.handle.connect_to(other.address))
        self.assertEqual(self.counter(other, "accept_refused.ip_banned"), 1)
        self.assertFires(PeerBanned, other.handle.connect_to(one.address))
        self.assertFires(PeerBanned, other.handle.send_to(one.peer_id, Message(200, None, b"")))
        self.network.advance(3601)
        self.connect(one, other)

    def test_below_the_threshold_nobody_is_banned(self) -> None:
        """``ban_peer`` applies the reason's points.  API-002.10"""
        one, other = self.connected()
        self.network.run(other.handle.ban_peer(one.peer_id, PenaltyReason.SPAM))
        self.assertEqual(len(self.peer_ids(other)), 1)
        self.network.run(other.handle.ban_peer(one.peer_id, PenaltyReason.SPAM, force=True))
        self.assertEqual(self.peer_ids(other), set())

    def test_totals_never_decrease(self) -> None:
        """What a closed session moved stays counted.  CON-006.3, API-008"""
        one, other = self.connected()
        self.network.run(one.handle.send_to(other.peer_id, Message(250, None, b"x" * 100)))
        self.network.advance(1)
        before = self.network.run(one.handle.stats())
        self.network.run(one.handle.disconnect(other.peer_id))
        after = self.network.run(one.handle.stats())
        self.assertEqual(after.messages_sent, before.messages_sent)
        self.assertEqual(after.bytes_sent, before.bytes_sent)
        self.assertEqual(after.total_connections, 1)
        self.assertEqual(after.connected_peers, 0)
