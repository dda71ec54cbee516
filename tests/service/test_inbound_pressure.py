"""What happens to peers when this node cannot keep up with them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from dig_gossip import Message, PeerOptions
from dig_gossip.gossip.validation import HOLD_AT, RELEASE_AT
from dig_gossip.gossip.values import Verdict
from dig_gossip.service.judging import Judgement
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.testing.hostile import BINARY, CLOSE, PING, HostilePeer, make_frame
from tests.network_case import NetworkCase

NEW_TRANSACTION = 21
UNLIMITED = PeerOptions(enforce_rate_limits=False)


class PressureCase(NetworkCase):
    """A node without rate limits, and a peer that has much to say."""

    options: dict[str, Any] = {}  # Any: fields of GossipConfig
    one_read = 65_536 // 56 + 1  # messages

    def setUp(self) -> None:
        super().setUp()
        (self.node,) = self.nodes(1, peer_options=UNLIMITED, **self.options)
        self.peer = HostilePeer(self.network)
        self.peer.join(self.node.address)
        self.network.advance(1)
        self.addCleanup(self.peer.drop)

    @property
    def held(self) -> bool:
        return self.node.service.node.peers.get(self.peer.peer_id).is_held

    def say(self, first: int, count: int) -> None:
        """Transactions, gathered in writes of some kilobytes, as a socket would."""
        for start in range(first, first + count, 100):
            numbers = range(start, min(start + 100, first + count))
            self.peer.send(b"".join(_transaction(number) for number in numbers))


def _transaction(number: int) -> bytes:
    data = number.to_bytes(4, "big") + bytes(44)
    return make_frame(bytes(Message(NEW_TRANSACTION, None, data)), BINARY, True, True, 0, None)


class ValidatorTests(PressureCase):
    """A validator that takes its time."""

    def setUp(self) -> None:
        super().setUp()
        self.asked: list[Deferred[Judgement]] = []
        self.node.handle.set_validator(NEW_TRANSACTION, self.validate)
        self.receiver = self.node.handle.inbound_receiver()
        self.numbers: list[int] = []

    def validate(self, _peer: object, _message: Message) -> Deferred[Judgement]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def decide(self, count: int) -> None:
        asked, self.asked = self.asked[:count], self.asked[count:]
        for verdict in asked:
            verdict.callback(Verdict.ACCEPT)
            while len(self.receiver):
                _, message = self.network.run(self.receiver.get())
                self.numbers.append(int.from_bytes(message.data[:4], "big"))

    def test_reading_stops_and_nothing_is_lost(self) -> None:
        """From a thousand undecided messages on; every one is decided in the end.  BP-104-X"""
        self.say(0, 3000)
        self.network.advance(1)
        self.assertTrue(self.held)
        self.assertLess(len(self.asked), HOLD_AT + self.one_read)
        while len(self.numbers) < 3000:
            self.decide(HOLD_AT - RELEASE_AT - 1)
            self.network.advance(0.1)
            self.assertLess(len(self.asked), HOLD_AT + self.one_read)
            self.decide(1)
            self.network.advance(0.1)
        self.assertFalse(self.held)
        self.assertEqual(self.numbers, list(range(3000)))
        self.assertEqual(self.counter(self.node, "validations_dropped"), 0)
        self.assertGreaterEqual(self.counter(self.node, "reading_held.validator"), 2)
        (snapshot,) = self.network.run(self.node.handle.connected_peers())
        self.assertEqual(snapshot.reputation.penalty_points, 0)

    def test_a_validator_that_never_answers_holds_nobody_for_long(self) -> None:
        """Its time is up after five seconds.  BP-104-X, PLT-104-X"""
        self.say(0, 1500)
        self.network.advance(4.9)
        self.assertTrue(self.held)
        self.network.advance(6)
        self.assertFalse(self.held)
        self.assertEqual(len(self.asked), 1500)

    def test_others_are_read_from_meanwhile(self) -> None:
        """One busy peer does not hold up the rest.  BP-104-X"""
        other = HostilePeer(self.network)
        other.join(self.node.address)
        self.addCleanup(other.drop)
        self.network.advance(1)
        self.say(0, 1500)
        self.network.advance(1)
        other.send_message(Message(208, None, b"hello"))
        self.network.advance(0.1)
        self.assertEqual(self.network.run(self.receiver.get())[0], other.peer_id)


class SubscriptionTests(PressureCase):
    """An application that takes its time."""

    def setUp(self) -> None:
        super().setUp()
        self.numbers: list[int] = []

    def fetch(self, receiver: Subscription, count: int) -> None:
        for _ in range(count):
            _, message = self.network.run(receiver.get())
            self.numbers.append(int.from_bytes(message.data[:4], "big"))

    def test_a_lossless_subscriber_gets_everything(self) -> None:
        """In order, at its own pace; the peer waits meanwhile.  BP-104-X"""
        receiver = self.node.handle.inbound_receiver(lossless=True)
        self.say(0, 5000)
        self.network.advance(5)
        self.assertTrue(self.held)
        while len(self.numbers) < 5000:
            self.assertLess(len(receiver), 256 + self.one_read)
            self.assertEqual(self.counter(self.node, "sessions_held"), 1 if self.held else 0)
            self.fetch(receiver, min(100, 5000 - len(self.numbers)))
            self.network.advance(0.1)
        self.assertEqual(self.numbers, list(range(5000)))
        self.assertEqual((receiver.lagged, self.held), (0, False))
        self.assertGreater(self.counter(self.node, "reading_held.subscription"), 1)

    def test_async_for_releases_as_get_does(self) -> None:
        """Both ways of fetching are the same.  BP-104-X"""
        receiver = self.node.handle.inbound_receiver(lossless=True)

        async def fetch() -> None:
            async for _peer, message in receiver:
                self.numbers.append(int.from_bytes(message.data[:4], "big"))

        self.say(0, 3000)
        self.network.advance(1)
        self.assertTrue(self.held)
        fetching = Deferred.fromCoroutine(fetch())
        self.network.advance(5)
        receiver.close()
        self.successResultOf(fetching)
        self.assertEqual((self.numbers, self.held), (list(range(3000)), False))

    def test_any_other_subscriber_loses_and_counts(self) -> None:
        """The default: nobody waits, the oldest go.  API-002.3"""
        receiver = self.node.handle.inbound_receiver()
        self.say(0, 1000)
        self.network.advance(1)
        self.assertEqual((receiver.lagged, len(receiver), self.held), (744, 256, False))
        self.fetch(receiver, 256)
        self.assertEqual(self.numbers, list(range(744, 1000)))
        self.assertEqual(self.counter(self.node, "lagged"), 744)

    def test_closing_a_full_one_lets_the_peer_go_on(self) -> None:
        """Another one may still hold it.  BP-104-X"""
        one, other = (self.node.handle.inbound_receiver(lossless=True) for _ in range(2))
        self.say(0, 1000)
        self.network.advance(1)
        one.close()
        self.assertTrue(self.held)
        other.close()
        self.assertFalse(self.held)

    def test_only_those_who_fill_it_wait(self) -> None:
        """Whoever says nothing new is heard.  BP-104-X"""
        self.node.handle.inbound_receiver(lossless=True)
        other = HostilePeer(self.network)
        other.join(self.node.address)
        self.addCleanup(other.drop)
        self.say(0, 1000)
        self.network.advance(1)
        other.send_message(Message(43, None, b""))
        self.network.advance(1)
        self.assertIn(44, [message.type for message in other.messages])


class HeldSessionTests(PressureCase):
    """A session that is not read from."""

    def ours(self) -> Any:
        return self.node.service.node.peers.get(self.peer.peer_id)

    def test_silence_of_our_own_making_is_no_death(self) -> None:
        """Its pongs wait in the socket; afterwards silence counts again.  BP-104-X, CON-004.3"""
        self.ours().hold("test")
        self.network.advance(600)
        self.assertIn(self.peer.peer_id, self.peer_ids(self.node))
        self.assertEqual(self.counter(self.node, "penalty.connection_issue"), 0)
        self.ours().release("test")
        self.network.advance(130)
        self.assertEqual(self.peer_ids(self.node), set())
        self.assertEqual(self.counter(self.node, "removed.dead"), 1)

    def test_it_is_still_pinged(self) -> None:
        """So that the system finds out if the peer is gone.  BP-104-X"""
        self.ours().hold("test")
        before = sum(frame.opcode == PING for frame in self.peer.frames)
        self.network.advance(65)
        after = sum(frame.opcode == PING for frame in self.peer.frames)
        self.assertEqual(after - before, 2)

    def test_reading_goes_on_when_the_last_holder_is_gone(self) -> None:
        """Several may have their reasons.  BP-104-X"""
        receiver = self.node.handle.inbound_receiver()
        session = self.ours()
        for holder in ("one", "two", "one"):
            session.hold(holder)
        self.peer.send_message(Message(208, None, b"hello"))
        for holder in ("one", "three"):
            session.release(holder)
            self.network.advance(1)
            self.assertTrue(session.is_held)
            self.assertEqual(len(receiver), 0)
        session.release("two")
        self.network.advance(1)
        self.assertEqual(len(receiver), 1)

    def test_a_held_session_can_be_closed(self) -> None:
        """In good order: the peer's answer is read.  BP-104-X"""
        self.ours().hold("test")
        self.network.run(self.node.handle.disconnect(self.peer.peer_id))
        self.network.advance(0.1)
        self.peer.send_close(1000)
        self.network.advance(1)
        assert self.peer.closed is not None
        self.assertEqual((self.peer.closed.code, len(self.node.service.node.transports)), (1000, 0))
        self.assertTrue(any(frame.opcode == CLOSE for frame in self.peer.frames))

    def test_a_held_session_that_is_lost_leaves_nothing(self) -> None:
        """Releasing it afterwards is harmless.  BP-104-X"""
        session = self.ours()
        session.hold("test")
        self.peer.drop()
        self.network.advance(1)
        self.assertEqual(self.peer_ids(self.node), set())
        session.release("test")
        session.hold("test")
        self.assertFalse(session.is_held)
