"""Whole nodes that are reached through a relay only, and take another id."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint32

from dig_gossip import Message, PeerIdRotationConfig, RelayConfig
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.connection.opening import Opening
from dig_gossip.connection.session import Session
from dig_gossip.errors import MaxConnectionsReached, RequestRejected
from dig_gossip.privacy.rotation import Generate
from dig_gossip.relay.former import MAX_FORMERS
from dig_gossip.relay.registry import Transmit
from dig_gossip.service.relaying import FORMER_SECS, Relaying
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.testing.network import MemoryNode
from dig_gossip.types.peer import PeerId, TransportKind
from dig_gossip.wire import relay as frames
from dig_gossip.wire.chia import RejectBlock, RequestBlock
from tests.service.test_relaying import OPCODE, UNLIMITED, RelayCase
from tests.service.test_rotating import RotatingCase


class RelayedCase(RelayCase, RotatingCase):
    """A relay, and nodes that never leave it."""

    fewest: int

    def config(self, **options: Any) -> RelayConfig:
        """A node's relay."""
        options = {"reconnect_delay_secs": 1, "advertise": False, **options}
        return RelayConfig(endpoint=self.endpoint, hole_punching=False, **options)

    def network_of(
        self, others: int, *, others_open: bool = True, **options: Any
    ) -> tuple[MemoryNode, list[MemoryNode]]:
        """A node with a relayed session to each of the others; :meth:`rotate` works with all.

        :param others_open: whether the others open tunnels, too.
        :param options: the node's own.
        """
        common: dict[str, Any] = {
            "relay": self.config(),
            "peer_options": UNLIMITED,
            "peer_id_rotation": PeerIdRotationConfig(rotation_interval_secs=1e6),
        }
        theirs = {} if others_open else {"target_outbound_count": 0}
        others_made = self.hidden(others, **common, **theirs)
        if others > 1:  # some open the tunnel, and to some it is opened
            first, *_, last = sorted(other.peer_id for other in others_made)
            named = (throwaway_identity(f"node {number}") for number in itertools.count())
            common["identity"] = next(i for i in named if first < i.peer_id < last)
        (node,) = self.hidden(1, **{**common, **options})
        self.until(
            lambda: (
                len(self.peer_ids(node)) == others
                and all(node.peer_id in self.peer_ids(other) for other in others_made)
            )
        )
        return node, others_made

    def relaying(self, node: MemoryNode) -> Relaying:
        """A node's use of the relay."""
        relaying = node.service.node.relaying
        assert relaying is not None
        return relaying

    def formers(self, node: MemoryNode) -> int:
        """How many registrations under former ids a node has."""
        return len(self.relaying(node)._formers)

    def registered(self) -> set[bytes]:
        """Who is registered at the relay."""
        networks = self.relay.registry._networks.values()
        return {bytes.fromhex(peer_id) for network in networks for peer_id in network}

    def watch(
        self, nodes: list[MemoryNode], until: Callable[[], object], limit: float = 60.0
    ) -> None:
        """Let time pass until something holds; after each event, note the fewest sessions."""
        end = self.network.clock.seconds() + limit
        self.fewest = min(len(self.peer_ids(node)) for node in nodes)
        while not until():
            self.assertLess(self.network.clock.seconds(), end, "it never came about")
            self.network.clock.step()
            self.fewest = min(self.fewest, *(len(self.peer_ids(node)) for node in nodes))

    def watch_for(self, nodes: list[MemoryNode], seconds: float) -> None:
        """The same for a while."""
        end = self.network.clock.seconds() + seconds
        self.watch(nodes, lambda: self.network.clock.seconds() >= end, 2 * seconds)

    def until_made(self, times: int = 1) -> None:
        """Let time pass until there is another identity, which nobody has seen yet."""
        while len(self.made) < times:
            self.network.clock.step()

    def rotate(self, node: MemoryNode) -> None:
        """Let a node rotate now."""
        rotating = node.service.node.rotating
        assert rotating is not None
        made = len(self.made)
        rotating._perform([Generate()])
        self.until_made(made + 1)
        self.watch([node], lambda: node.peer_id == self.made[-1].peer_id)

    def own_ids(self, node: MemoryNode) -> set[PeerId]:
        """Who a node is on its sessions."""
        return {session.own_id for session in node.service.node.peers.table}


class MoveTests(RelayedCase):
    """Make before break."""

    def test_nothing_is_lost_and_nobody_is_alone(self) -> None:
        """Numbered messages to and from each of five peers and broadcasts, all the time; after each
        event all five sessions are there, at both ends; then the relay forgets the old id.
        PRV-007.1
        """
        node, others = self.network_of(5, peer_id_rotation=self.rotation())
        self.network.advance(2)
        former = node.peer_id
        sessions = list(node.service.node.peers.table)
        self.assertEqual({s.is_outbound for s in sessions}, {True, False})
        self.assertEqual({s.transport for s in sessions}, {TransportKind.RELAY})
        everybody = [node, *others]
        inboxes = {n: n.handle.inbound_receiver() for n in everybody}
        expected: dict[MemoryNode, Counter[bytes]] = {n: Counter() for n in everybody}
        got: dict[MemoryNode, Counter[bytes]] = {n: Counter() for n in everybody}

        def send(source: MemoryNode, target: MemoryNode, data: bytes) -> None:
            peer = target.peer_id if target.peer_id in self.peer_ids(source) else former
            self.network.run(source.handle.send_to(peer, Message(OPCODE, None, data)))
            expected[target][data] += 1

        def collect() -> None:
            for receiver, inbox in inboxes.items():
                while len(inbox):
                    got[receiver][self.network.run(inbox.get())[1].data] += 1

        self.until_made()
        number, under_both, alone = 0, False, 0
        end = self.network.clock.seconds() + 40
        while self.network.clock.seconds() < end:
            for other in others:
                send(node, other, b"to %d" % number)
                send(other, node, b"from %d of " % number + other.peer_id)
            data = b"all %d" % number
            source = everybody[number % len(everybody)]
            self.network.run(source.handle.broadcast(Message(200, None, data)))
            for receiver in everybody:
                expected[receiver][data] += receiver is not source
            number += 1
            until = self.network.clock.seconds() + 0.2
            while self.network.clock.seconds() < until:
                self.network.clock.step()
                ours = {bytes(former), bytes(node.peer_id)}
                alone += len(self.peer_ids(node)) < 5
                alone += not all(ours & self.peer_ids(other) for other in others)
                under_both = under_both or (len(ours) == 2 and ours <= self.registered())
            collect()
        self.network.advance(5)
        collect()
        for receiver in everybody:
            self.assertEqual(got[receiver], +expected[receiver])
        self.assertEqual(alone, 0)
        self.assertTrue(under_both)
        self.assertEqual(self.own_ids(node), {node.peer_id})
        self.assertEqual(len(self.peer_ids(node)), 5)
        self.assertEqual(self.registered(), {bytes(n.peer_id) for n in everybody})
        self.assertEqual(self.formers(node), 0)
        for other in others:
            self.assertIn(node.peer_id, self.peer_ids(other))
            self.assertNotIn(former, self.peer_ids(other))

    def test_an_only_session_is_replaced_whoever_opened_it(self) -> None:
        """Two nodes, each of which rotates in its turn.  PRV-007.1"""
        node, (other,) = self.network_of(1)
        opened = set()
        for turning in (node, other, node):
            former = turning.peer_id
            opened.add(next(iter(turning.service.node.peers.table)).is_outbound)
            self.rotate(turning)
            self.watch([node, other], lambda gone=former: gone not in self.registered())  # type: ignore[misc]
            self.assertEqual(self.fewest, 1)
            self.assertEqual(self.own_ids(turning), {turning.peer_id})
        self.assertEqual(opened, {True, False})

    def test_what_a_peer_has_opened_is_replaced_though_it_wants_no_more(self) -> None:
        """A peer that may open one tunnel has opened it to us: now we open one.  PRV-007.1"""
        two = sorted((throwaway_identity("a"), throwaway_identity("b")), key=lambda i: i.peer_id)
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6)
        (other,) = self.hidden(
            1, identity=two[0], relay=self.config(), target_outbound_count=2
        )  # the smaller id opens it
        (node,) = self.hidden(1, identity=two[1], relay=self.config(), peer_id_rotation=rotation)
        self.until(lambda: bool(self.peer_ids(node) and self.peer_ids(other)))
        self.assertFalse(self.session(node, other).is_outbound)
        self.assertEqual(self.relaying(other)._tunneled.room(is_outbound=True), 0)
        self.rotate(node)
        self.watch([node, other], lambda: self.own_ids(node) == {node.peer_id}, 5)
        self.assertEqual(self.fewest, 1)
        self.assertTrue(self.session(node, other).is_outbound)

    def test_as_many_are_replaced_at_once_as_there_may_be(self) -> None:
        """Three that we have opened and three that peers have: six of eight.  DIV-102-X"""
        named = [throwaway_identity(f"peer {number}") for number in range(7)]
        named.sort(key=lambda identity: identity.peer_id)
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6)
        common: dict[str, Any] = {"relay": self.config(), "target_outbound_count": 8}
        (node,) = self.hidden(1, identity=named[6], peer_id_rotation=rotation, **common)
        for number, identity in enumerate(named[:6]):
            # The smaller id opens the tunnel, if it has one left.
            common["target_outbound_count"] = 2 if number < 3 else 0
            self.hidden(1, identity=identity, **common)
            self.until(lambda: identity.peer_id in self.peer_ids(node), 10)  # noqa: B023
        outbound = [session.is_outbound for session in node.service.node.peers.table]
        self.assertEqual(outbound, 3 * [False] + 3 * [True])
        self.rotate(node)
        self.watch([node], lambda: self.own_ids(node) == {node.peer_id}, 5)
        self.assertEqual(self.fewest, 6)
        self.assertEqual(node.service.node.peers.table.outbound_count, 6)

    def test_a_hole_is_punched_under_the_new_id_only(self) -> None:
        """The upgrade of a session that has moved begins anew.  RLY-007, TLS-102-X"""
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6)
        one, two = self.relayed(peer_id_rotation=rotation)
        relaying = self.relaying(one)
        self.network.cut(one.host, two.host)
        self.until(lambda: self.counter(one, "punches_failed") == 1)
        self.network.heal()
        self.rotate(one)
        self.assertEqual((len(relaying._punching), len(relaying._contacts)), (0, 0))
        self.until(lambda: self.own_ids(one) == {one.peer_id}, 10)
        self.assertIs(self.way(one, two), TransportKind.RELAY)
        self.until(lambda: self.direct(one), 30)
        self.assertEqual(self.own_ids(one), {one.peer_id})
        self.until(lambda: self.formers(one) == 0)

    def test_nothing_moves_before_the_relay_knows_the_new_id(self) -> None:
        """A slow registration costs time, but no session.  PRV-007.1"""
        node, others = self.network_of(3, others_open=False)
        former = node.peer_id
        register = self.relay.registry._register
        with mock.patch.object(self.relay.registry, "_register", return_value=[]) as late:
            self.rotate(node)
            self.watch_for([node, *others], 5)
            self.assertEqual((self.fewest, self.own_ids(node)), (1, {former}))
            self.assertEqual(len(self.peer_ids(node)), 3)
        late.assert_called_once()
        self.relay.perform(register(*late.call_args.args))
        self.watch([node], lambda: self.own_ids(node) == {node.peer_id}, 5)
        self.assertEqual(self.fewest, 3)

    def let_go_first(self, refuse: Callable[[MemoryNode, Callable[[], bool]], Any]) -> None:
        """One of three peers refuses a second session; the first one makes room for it.

        :param refuse: patches a node, so that it lets nobody in while a function says so.
        """
        node, (one, *_) = self.network_of(3, others_open=False)
        former = node.peer_id
        with (
            refuse(one, lambda: former in self.peer_ids(one)),
            mock.patch.object(node.service.node.dialer, "connect") as dial,
        ):
            self.rotate(node)
            self.watch([node], lambda: self.own_ids(node) == {node.peer_id}, 20)
            self.assertEqual(self.fewest, 2)
            self.until(lambda: len(self.peer_ids(node)) == 3, 5)
            dial.assert_not_called()  # the address is the relay's

    def test_whoever_takes_no_second_tunnel_is_let_go_first(self) -> None:
        """And met again at once.  PRV-007.1"""

        def refuse(node: MemoryNode, is_twice: Callable[[], bool]) -> Any:
            relaying = self.relaying(node)
            accept = relaying.may_accept_tunnel

            def may_accept(peer: PeerId) -> bool:
                return not is_twice() and accept(peer)

            return mock.patch.object(relaying, "may_accept_tunnel", may_accept)

        self.let_go_first(refuse)

    def test_whoever_takes_no_second_session_is_let_go_first(self) -> None:
        """The tunnel was open by then.  PRV-007.1"""

        def refuse(node: MemoryNode, is_twice: Callable[[], bool]) -> Any:
            register = node.service.node.peers.register

            def registered(opening: Opening, remote: RemoteHandshake) -> Session:
                if is_twice():
                    raise MaxConnectionsReached(1)
                return register(opening, remote)

            return mock.patch.object(node.service.node.peers, "register", registered)

        self.let_go_first(refuse)

    def test_when_both_open_a_tunnel_at_once_there_is_one(self) -> None:
        """The smaller id's counts, and the larger one knows that it has come.  wire §15"""
        new = throwaway_identity(f"{self.id()}/0").peer_id
        named = [throwaway_identity(f"peer {number}") for number in range(12)]
        smaller = next(identity for identity in named if identity.peer_id < new)
        larger = next(identity for identity in named if identity.peer_id > new)
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6)
        for identity in (smaller, larger):
            self.made.clear()
            (other,) = self.hidden(1, relay=self.config(), identity=identity)
            (node,) = self.hidden(1, relay=self.config(), peer_id_rotation=rotation)
            self.until(lambda n=node, o=other: self.peer_ids(n) and self.peer_ids(o))
            self.rotate(node)
            self.assertEqual(node.peer_id, new)
            ours, theirs = self.relaying(node), self.relaying(other)
            self.watch([node], lambda client=theirs.client: new in client.peers())  # type: ignore[misc]
            opened = ours.redial(other.peer_id)
            theirs.client.hub.open(new)
            self.assertTrue(theirs._is_taken(new))
            session = self.network.run(opened, 5)
            self.assertEqual((session.own_id, session.peer_id), (new, other.peer_id))
            self.assertEqual(session.is_outbound, new < other.peer_id)
            self.network.advance(1)
            self.assertEqual(len(ours.client.hub), 1)
            for made in (node, other):
                self.network.run(made.service.stop())

    def test_a_tunnel_that_was_only_asked_for_is_given_up(self) -> None:
        """Its peer would find another id in it than it has asked for.  ROT-101-X"""
        node, (other,) = self.network_of(1)
        hub = self.relaying(node).client.hub
        hub.open(bytes32(bytes(32)))
        self.rotate(node)
        self.assertFalse(hub.is_opening)
        self.assertIn(other.peer_id, hub)

    def test_two_former_registrations_are_kept(self) -> None:
        """Where sessions do not follow, the oldest leaves for the third.  D14"""
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6, reconnect_on_rotation=False)
        node, _others = self.network_of(1, others_open=False, peer_id_rotation=rotation)
        ids = [node.peer_id]
        for count in (1, 2, 2):
            self.rotate(node)
            ids.append(node.peer_id)
            self.hidden(1, relay=self.config(), target_outbound_count=0)
            self.until(lambda: node.peer_id in self.own_ids(node), 10)
            self.assertEqual(self.formers(node), count)
        self.assertEqual(self.own_ids(node), set(ids[1:]))
        self.assertEqual(self.registered() & set(ids), set(ids[1:]))

    def test_a_node_without_tunnels_hears_its_peers_under_the_new_id(self) -> None:
        """What they send to it is numbered from 1 again.  RLY-002"""
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6)
        one, two = self.relayed(peer_id_rotation=rotation)
        self.until(lambda: self.direct(one, two))
        self.until(lambda: not len(self.relaying(one).client.hub), 10)
        former = one.peer_id
        self.rotate(one)
        self.assertEqual(self.formers(one), 0)
        theirs = self.relaying(two).client
        self.until(lambda: one.peer_id in theirs.peers() and former not in theirs.peers(), 1)
        hub = self.relaying(one).client.hub
        theirs.hub.open(one.peer_id)
        self.until(lambda: two.peer_id in hub, 1)

    def test_both_ends_may_rotate_at_once(self) -> None:
        """Neither can reach the other's former id any more; both find the new one.  PRV-007.1"""
        node, (other,) = self.network_of(1)
        self.rotate(node)
        self.rotate(other)
        current = {bytes(node.peer_id), bytes(other.peer_id)}
        self.watch([node, other], lambda: self.registered() == current)
        self.assertEqual(self.fewest, 1)
        self.assertEqual(self.peer_ids(node), {bytes(other.peer_id)})
        self.assertEqual(self.peer_ids(other), {bytes(node.peer_id)})

    def test_a_full_node_has_room_for_those_that_it_has(self) -> None:
        """Three of four outbound sessions relayed, as many as may be: each moves.  DIV-102-X"""
        node, _others = self.network_of(3, others_open=False, target_outbound_count=4)
        self.assertEqual(self.relaying(node)._tunneled.room(is_outbound=True), 0)
        self.rotate(node)
        self.watch_for([node], 45)
        self.assertEqual(self.fewest, 3)
        self.assertEqual(self.own_ids(node), {node.peer_id})

    def test_what_was_asked_before_is_answered_where_it_was_asked(self) -> None:
        """A request under the former id, answered after the move.  PRV-007.1"""
        node, (other,) = self.network_of(1)
        former = node.peer_id
        inbox = node.handle.inbound_receiver()
        asking = other.handle.request(former, RequestBlock(uint32(1), True), timeout=60)
        asked = self.network.run(inbox.get())[1]
        self.rotate(node)
        self.watch([node], lambda: self.own_ids(node) == {node.peer_id})
        self.network.run(node.handle.respond(other.peer_id, asked, RejectBlock(uint32(1))))
        self.assertFires(RequestRejected, asking)

    def test_the_former_registration_takes_nobody_in(self) -> None:
        """Who seeks the former id is refused; nobody tunnels to himself.  PRV-007.2"""
        node, (other,) = self.network_of(1)
        former = node.peer_id
        self.rotate(node)
        self.watch([node], lambda: self.relaying(node).client.is_registered)
        (late,) = self.hidden(1, relay=self.config())
        self.watch([node], lambda: bool(self.peer_ids(late)))
        hub = self.relaying(late).client.hub
        self.watch([node], lambda: former in self.relaying(late).client.peers(), 1.0)
        hub.open(former)
        self.assertIn(former, hub)
        retired = next(iter(self.relaying(node)._formers._until)).hub
        while former in hub:
            self.network.clock.step()
            self.assertNotIn(late.peer_id, retired)
        self.assertEqual(self.formers(node), 1)
        self.watch([node], lambda: former not in self.registered())
        self.network.advance(0.1)
        self.assertNotIn(former, self.peer_ids(late))
        for client in (self.relaying(node).client, self.relaying(other).client):
            self.assertNotIn(former, client.peers())
        reached = self.peer_ids(node) | self.relaying(node).client.peers().keys()
        self.assertEqual(reached & {former, node.peer_id}, set())

    def test_a_second_rotation_may_come_before_the_first_is_over(self) -> None:
        """Three registrations at most; the sessions end up under the last id.  PRV-007.1"""
        node, others = self.network_of(3, others_open=False)
        ids = [node.peer_id]
        most = 0
        for moment in ("registered", "opening", "moved", "registered"):
            self.rotate(node)
            ids.append(node.peer_id)
            if moment != "moved":
                self.watch([node], lambda: self.relaying(node).client.is_registered)
            if moment == "opening":
                self.watch([node], lambda: self.relaying(node).client.hub.is_opening)
            if moment == "moved":
                self.watch([node], lambda: node.peer_id in self.own_ids(node))
            self.assertGreater(self.fewest, 0)
            most = max(most, self.formers(node))
        self.assertEqual(most, MAX_FORMERS)
        self.watch([node, *others], lambda: not self.registered() & set(ids[:-1]))
        self.assertGreater(self.fewest, 0)
        self.assertEqual(self.own_ids(node), {node.peer_id})
        self.assertEqual(len(self.peer_ids(node)), 3)

    def test_the_one_statistic_is_of_the_present_registration(self) -> None:
        """None while there is none; what moves through the new one counts.  API-005"""
        node, _others = self.network_of(1)
        before = self.network.run(node.handle.relay_stats())
        self.rotate(node)
        self.assertIsNone(self.network.run(node.handle.relay_stats()))
        self.watch([node], lambda: self.relaying(node).client.is_registered)
        after = self.network.run(node.handle.relay_stats())
        assert before is not None
        assert after is not None
        self.assertGreater(before.messages_sent, after.messages_sent)
        self.assertEqual(after.relay_peer_count, 0)
        self.watch_for([node], 1)
        after = self.network.run(node.handle.relay_stats())
        assert after is not None
        self.assertEqual(after.relay_peer_count, 1)

    def test_messages_that_nobody_vouches_for_come_once(self) -> None:
        """Both registrations hear them; none is missed before the second is there.  RLY-102-X"""
        node, _others = self.network_of(1)
        inbox = node.handle.inbound_receiver()
        for number in range(2):
            if number:
                self.watch([node], lambda: self.relaying(node).client.is_registered)
                self.assertEqual(self.formers(node), 1)
            else:
                self.rotate(node)
            message = bytes(Message(200, None, b"%d" % number))
            frame = frames.Broadcast(sender="ff" * 32, payload=message).encode()
            everybody = tuple(self.relay._connections)
            self.relay.perform([Transmit(everybody, frame)])
            self.network.advance(0.02)
            got = [self.network.run(inbox.get())[1].data for _ in range(len(inbox))]
            self.assertEqual(got, [b"%d" % number])

    def test_sessions_that_do_not_follow_keep_their_registration(self) -> None:
        """reconnect_on_rotation=False: until they end, and then it leaves.  PRV-007.1"""
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6, reconnect_on_rotation=False)
        node, (one, two) = self.network_of(2, others_open=False, peer_id_rotation=rotation)
        former = node.peer_id
        self.rotate(node)
        self.network.advance(2 * FORMER_SECS)
        self.assertEqual(self.own_ids(node), {former})
        self.assertTrue({bytes(former), bytes(node.peer_id)} <= self.registered())
        inbox = one.handle.inbound_receiver()
        self.network.run(node.handle.send_to(one.peer_id, Message(OPCODE, None, b"still here")))
        self.assertEqual(self.network.run(inbox.get())[1].data, b"still here")
        for other in (one, two):
            self.network.run(node.handle.disconnect(other.peer_id))
        self.until(lambda: former not in self.registered(), 10)

    def test_whom_the_peers_do_not_let_in_twice_keeps_the_former_id_for_ten_minutes(self) -> None:
        """Then that registration ends, and the peer is met again.  PRV-007.1"""
        node, (other,) = self.network_of(1, others_open=False)
        former = node.peer_id
        with mock.patch.object(self.relaying(other), "may_accept_tunnel", return_value=False):
            self.rotate(node)
            self.watch([node], lambda: self.relaying(node).client.is_registered)
            self.watch_for([node], FORMER_SECS - 5)
            self.assertEqual((self.fewest, self.own_ids(node)), (1, {former}))
            self.watch_for([node], 10)
            self.assertEqual(self.peer_ids(node), set())
        self.assertEqual(self.registered(), {bytes(node.peer_id), bytes(other.peer_id)})
        self.until(lambda: self.own_ids(node) == {node.peer_id}, 600)

    def test_a_node_that_opens_no_tunnels_is_met_under_its_new_id(self) -> None:
        """Of at most one outbound session none may be relayed; its peers open the second ones,
        and the first ones are closed when those are there.  PRV-007.1, DIV-102-X
        """
        for target in (0, 1):
            with self.subTest(target):
                node, others = self.network_of(2, target_outbound_count=target)
                self.assertEqual(self.relaying(node).spare, 0)
                self.rotate(node)
                self.watch([node, *others], lambda n=node: self.own_ids(n) == {n.peer_id})  # type: ignore[misc]
                self.assertEqual(self.fewest, 2)
                for made in (node, *others):
                    self.network.run(made.service.stop())

    def test_strangers_take_no_place_that_a_session_is_about_to_take(self) -> None:
        """Six of eight outbound sessions may be relayed, those that turn included.  DIV-102-X"""
        named = [throwaway_identity(f"peer {number}") for number in range(8)]
        named.sort(key=lambda identity: identity.peer_id)
        rotation = PeerIdRotationConfig(rotation_interval_secs=1e6)
        common: dict[str, Any] = {"relay": self.config()}
        node = self.hidden(
            1, identity=named[7], target_outbound_count=8, peer_id_rotation=rotation, **common
        )[0]
        peers = []
        for identity in named[:4]:
            peers += self.hidden(1, identity=identity, target_outbound_count=2, **common)
            self.until(lambda: identity.peer_id in self.peer_ids(node), 10)  # noqa: B023
        table, relaying = node.service.node.peers.table, self.relaying(node)
        self.assertEqual(table.inbound_count, 4)
        self.rotate(node)
        self.watch([node], lambda: relaying.client.is_registered)
        for peer in peers:  # their answers take long
            self.network.cut(peer.host, self.relay_host)
        self.watch([node], lambda: len(relaying._redials) == 4)
        self.assertEqual(relaying.spare, 2)
        self.hidden(6, target_outbound_count=0, **common)
        self.watch_for([node], 8)
        self.assertEqual((len(relaying._redials), table.outbound_count), (4, 2))


class SecureRelayTests(RelayedCase):
    """A relay that speaks TLS and asks for certificates."""

    relay_identity = throwaway_identity("relay")

    def test_the_second_registration_shows_the_new_certificate(self) -> None:
        """The relay refuses an id that is not the certificate's; the first connection stays.
        PRV-007.1, TLS-102-X
        """
        node, others = self.network_of(3, others_open=False)
        former = node.peer_id
        self.rotate(node)
        self.watch([node], lambda: self.relaying(node).client.is_registered)
        self.assertTrue({bytes(former), bytes(node.peer_id)} <= self.registered())
        verified = {client.verified for client in self.relay.registry._clients.values()}
        self.assertEqual(verified, {former, *(n.peer_id for n in (node, *others))})
        self.watch([node, *others], lambda: former not in self.registered())
        self.assertEqual(self.fewest, 1)
        self.assertEqual(self.own_ids(node), {node.peer_id})
        self.assertEqual(len(self.peer_ids(node)), 3)
        self.assertEqual(self.relay.registry.counters["refused.identity_mismatch"], 0)
