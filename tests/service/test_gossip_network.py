"""Whole nodes that gossip over real TLS and WebSocket, in memory."""

from __future__ import annotations

import random
from collections import Counter

from twisted.internet.defer import Deferred

from dig_gossip import GossipStats, Message, PeerOptions, PlumtreeRole, WrongDispatch
from dig_gossip.testing.network import MemoryNetwork, MemoryNode
from dig_gossip.types.config import PlumtreeConfig
from dig_gossip.util.deferreds import handled
from tests.network_case import NetworkCase


def random_links(count: int, degree: int, rng: random.Random) -> set[tuple[int, int]]:
    """A connected random graph; pairs (dialer, dialed)."""
    links = {(number, rng.randrange(number)) for number in range(1, count)}
    while len(links) < count * degree // 2:
        a, b = rng.sample(range(count), 2)
        if (a, b) not in links and (b, a) not in links:
            links.add((a, b))
    return links


class Recorder:
    """Counts what a node delivers."""

    def __init__(self, node: MemoryNode) -> None:
        self.node = node
        self.delivered: Counter[bytes] = Counter()
        self.done = Deferred.fromCoroutine(self._read())

    async def _read(self) -> None:
        async for _peer, message in self.node.handle.inbound_receiver():
            self.delivered[message.data] += 1


class HundredNodesTests(NetworkCase):
    """The issue's scenario: 100 nodes of degree 8, a fifth of them dies half-way."""

    def setUp(self) -> None:
        self.rng = random.Random(20)
        delays: dict[frozenset[str], float] = {}

        def latency(one: str, other: str) -> float:
            key = frozenset((one, other))
            if key not in delays:
                delays[key] = self.rng.uniform(0.01, 0.08)
            return delays[key]

        self.network = MemoryNetwork(seed=20, latency=latency)
        self.addCleanup(self._nothing_is_left)

    def test_survivors_deliver_everything_exactly_once(self) -> None:
        """Silent deaths, origins at random, one connected tree.  PLT-004, PLT-005, PRF-005"""
        nodes = self.nodes(
            100,
            peer_options=PeerOptions(enforce_rate_limits=False),
            plumtree=PlumtreeConfig(tagged_trees=False),
        )
        for dialer, dialed in random_links(100, 8, self.rng):
            # All at once: the network grows as a real one does.
            dialing = nodes[dialer].handle.connect_to(nodes[dialed].address)
            handled(dialing.addErrback(lambda _failure: None))
        self.network.advance(10)
        self.assertEqual(sum(len(self.peer_ids(node)) for node in nodes), 800)
        recorders = [Recorder(node) for node in nodes]

        self.send(nodes, 0, 100)
        duplicates, delivered = self.tally(nodes)
        dead = set(self.rng.sample(range(100), 20))
        for number in dead:
            self.network.kill(nodes[number])
        alive = [node for number, node in enumerate(nodes) if number not in dead]
        self.send(alive, 100, 200)
        self.network.advance(30)

        expected = {number.to_bytes(4, "big") for number in range(200)}
        for number, recorder in enumerate(recorders):
            if number in dead:
                continue
            own = self.origins.get(nodes[number].host, set())
            self.assertEqual(set(recorder.delivered), expected - own)
            self.assertEqual(set(recorder.delivered.values()), {1})
        self.assert_one_tree(alive)
        later_duplicates, later_delivered = self.tally(alive)
        before = self.baseline
        ratio = (later_duplicates - before[0]) / (later_delivered - before[1])
        self.assertLess(ratio, 0.15)
        self.assertGreater(duplicates, 0)
        self.assertGreater(delivered, 0)

    origins: dict[str, set[bytes]]
    baseline: tuple[int, int]

    def send(self, nodes: list[MemoryNode], first: int, last: int) -> None:
        if first == 0:
            self.origins = {}
        for number in range(first, last):
            if number == last - 50:  # warm by now
                self.baseline = self.tally(nodes)
            origin = self.rng.choice(nodes)
            data = number.to_bytes(4, "big")
            self.origins.setdefault(origin.host, set()).add(data)
            self.network.run(origin.handle.broadcast(Message(200, None, data)))
            self.network.advance(0.5)

    def tally(self, nodes: list[MemoryNode]) -> tuple[int, int]:
        stats: list[GossipStats] = [self.network.run(node.handle.stats()) for node in nodes]
        return (
            sum(s.extra["duplicates"] for s in stats),
            sum(s.extra["delivered"] for s in stats),
        )

    def assert_one_tree(self, nodes: list[MemoryNode]) -> None:
        """The eager links of the survivors join all of them, and both ends agree on each."""
        by_id = {bytes(node.peer_id): node for node in nodes}
        eager: dict[bytes, set[bytes]] = {}
        for node in nodes:
            connections = self.network.run(node.handle.connected_peers())
            eager[bytes(node.peer_id)] = {
                bytes(c.peer_id)
                for c in connections
                if c.plumtree is PlumtreeRole.EAGER and bytes(c.peer_id) in by_id
            }
        for one, others in eager.items():
            for other in others:
                self.assertIn(one, eager[other], "a link is eager at one end only")
        reached, frontier = set(), [next(iter(by_id))]
        while frontier:
            one = frontier.pop()
            if one not in reached:
                reached.add(one)
                frontier += eager[one]
        self.assertEqual(len(reached), len(nodes))


class DispatchTests(NetworkCase):
    """What may be broadcast, and to whom it goes."""

    def test_only_messages_that_spread_can_be_broadcast(self) -> None:
        """Requests, answers, control frames and introducer messages are for one peer.  API-002.4"""
        one, _other = self.connected()
        for opcode in (1, 26, 43, 44, 203, 204, 205, 206, 209, 211, 214, 217, 218, 219, 230, 255):
            self.assertFires(WrongDispatch, one.handle.broadcast(Message(opcode, None, b"")))
        self.assertFires(WrongDispatch, one.handle.broadcast(Message(200, 7, b"")))
        self.assertEqual(self.network.run(one.handle.broadcast(Message(200, None, b""))), 1)

    def test_zero_peers_is_no_error(self) -> None:
        """Nobody there, nobody reached.  API-002.4"""
        (node,) = self.nodes(1)
        self.assertEqual(self.network.run(node.handle.broadcast(Message(200, None, b""))), 0)

    def test_a_forwarded_message_is_not_sent_again(self) -> None:
        """An application that re-broadcasts after validating gets 0.  PLT-102-X, PLT-103-X"""
        one, other = self.connected()
        third = self.nodes(1)[0]
        self.connect(other, third)
        message = Message(200, None, b"once")
        receiver = other.handle.inbound_receiver()
        self.network.run(one.handle.broadcast(message))
        self.network.run(receiver.get())
        self.network.advance(1)
        self.assertEqual(self.network.run(other.handle.broadcast(message)), 0)

    def test_excluded_peer_gets_nothing(self) -> None:
        """Origin exclusion.  API-002.4"""
        one, other = self.connected()
        receiver = other.handle.inbound_receiver()
        count = self.network.run(
            one.handle.broadcast(Message(200, None, b"x"), exclude_peer=other.peer_id)
        )
        self.network.advance(2)
        self.assertEqual((count, len(receiver)), (0, 0))

    def test_one_broken_peer_does_not_stop_the_others(self) -> None:
        """A failing peer never aborts the fan-out.  API-002.4, PLT-105-X"""
        hub = self.network.node(plumtree=PlumtreeConfig(tagged_trees=False))
        spokes = [self.network.node() for _ in range(4)]
        self.network.start()
        for spoke in spokes:
            self.connect(hub, spoke)
        receivers = [spoke.handle.inbound_receiver() for spoke in spokes]
        self.session(hub, spokes[0])._writer.close()  # breaks at the very moment
        count = self.network.run(hub.handle.broadcast(Message(200, None, b"x")))
        self.assertEqual(self.counter(hub, "unreachable"), 1)  # later, a tree is opened, too
        self.network.advance(1)
        self.assertEqual(count, 3)
        self.assertEqual([len(r) for r in receivers], [0, 1, 1, 1])


class ValidatorTests(NetworkCase):
    """Validators stand between a message and everybody else."""

    def line(self) -> tuple[MemoryNode, MemoryNode, MemoryNode]:
        one, other = self.connected()
        third = self.nodes(1)[0]
        self.connect(other, third)
        return one, other, third

    def test_accepted_is_delivered_and_forwarded(self) -> None:
        """PLT-104-X"""
        from dig_gossip import Verdict

        one, other, third = self.line()
        asked: list[bytes] = []

        def validator(_peer: bytes, message: Message) -> Verdict:
            asked.append(message.data)
            return Verdict.ACCEPT

        other.handle.set_validator(200, validator)
        receiver = third.handle.inbound_receiver()
        self.network.run(one.handle.broadcast(Message(200, None, b"good")))
        self.network.advance(1)
        self.assertEqual((asked, len(receiver)), ([b"good"], 1))

    def test_rejected_is_charged_and_goes_nowhere(self) -> None:
        """The reason is the validator's.  PLT-104-X"""
        from dig_gossip import PenaltyReason

        one, other, third = self.line()
        other.handle.set_validator(200, lambda _p, _m: PenaltyReason.INVALID_ATTESTATION)
        receivers = [other.handle.inbound_receiver(), third.handle.inbound_receiver()]
        self.network.run(one.handle.broadcast(Message(200, None, b"bad")))
        self.network.advance(1)
        self.assertEqual([len(r) for r in receivers], [0, 0])
        self.assertEqual(self.counter(other, "penalty.invalid_attestation"), 1)

    def test_slow_validator_counts_as_ignore(self) -> None:
        """Five seconds, then the frame is dropped without a charge.  PLT-104-X"""
        one, other, third = self.line()
        other.handle.set_validator(200, lambda _p, _m: Deferred())
        receivers = [other.handle.inbound_receiver(), third.handle.inbound_receiver()]
        self.network.run(one.handle.broadcast(Message(200, None, b"slow")))
        self.network.advance(6)
        self.assertEqual([len(r) for r in receivers], [0, 0])
        self.assertEqual(self.counter(other, "validator_timeouts_or_errors"), 1)
        self.assertEqual(self.counter(other, "penalty.protocol_violation"), 0)

    def test_failing_validator_is_our_bug_not_the_peers(self) -> None:
        """Logged, ignored, nobody charged.  CNC-103-X"""
        one, other, _third = self.line()

        def validator(_peer: bytes, _message: Message) -> PlumtreeRole:  # nonsense on purpose
            raise RuntimeError("broken on purpose")

        other.handle.set_validator(200, validator)  # type: ignore[arg-type]
        receiver = other.handle.inbound_receiver()
        self.network.run(one.handle.broadcast(Message(200, None, b"x")))
        self.network.advance(1)
        self.assertEqual(len(receiver), 0)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.peer_ids(other), {bytes(one.peer_id), bytes(_third.peer_id)})


class OneTurnTests(NetworkCase):
    """Much that is sent within one turn of the reactor."""

    def test_what_goes_to_all_and_what_goes_to_one_keep_their_order(self) -> None:
        """At every peer, over whole sessions.  PRI-003, design §5"""
        origin, *others = self.nodes(
            4,
            gossip_fanout=8,
            peer_options=PeerOptions(enforce_rate_limits=False),
            plumtree=PlumtreeConfig(tagged_trees=False),
        )
        for other in others:
            self.connect(origin, other)
        inbound = [other.handle.inbound_receiver() for other in others]
        self.network.run(origin.handle.broadcast(Message(200, None, b"warm")))
        expected: list[list[bytes]] = [[b"warm"] for _ in others]
        before = self.network.run(origin.handle.stats()).messages_sent
        for number in range(90):
            data = number.to_bytes(2, "big")
            if number % 20 == 19:  # to one of them only, and in between something large
                which = number // 20 % len(others)
                expected[which].append(data)
                handled(origin.handle.send_to(others[which].peer_id, Message(206, None, data)))
                continue
            data += bytes(100_000 if number % 30 == 29 else 500)
            for each in expected:
                each.append(data)
            sent = origin.handle.broadcast(Message(200, None, data))
            self.assertEqual(self.successResultOf(sent), len(others))
        after = self.network.run(origin.handle.stats()).messages_sent
        self.assertEqual(after - before, sum(map(len, expected)) - len(others))
        self.network.advance(5)
        for each, subscription in zip(expected, inbound, strict=True):
            got = [self.network.run(subscription.get())[1].data for _ in each]
            self.assertEqual(got, each)
