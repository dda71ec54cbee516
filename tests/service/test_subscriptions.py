"""Queues between the node and the application."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import ChannelClosed
from dig_gossip.service.subscriptions import Item, Subscription, Subscriptions
from dig_gossip.types.peer import PeerId
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.message import Message

PEER = PeerId(bytes(32))


def messages(*numbers: int) -> list[Message]:
    """Messages that can be told apart."""
    return [Message(number, None, b"") for number in numbers]


class NoSources:
    """Peers that need not be slowed down."""

    def __init__(self) -> None:
        self.held: list[PeerId] = []

    def hold(self, peer_id: PeerId, holder: object) -> None:
        self.held.append(peer_id)

    def release(self, peer_id: PeerId, holder: object) -> None:
        self.held.remove(peer_id)


class SubscriptionTests(SynchronousTestCase):
    """One node, several subscribers."""

    def setUp(self) -> None:
        self.subscriptions = Subscriptions(NoSources(), limit=4)
        self.woken: list[list[int]] = []

    def reader(self, *, lossless: bool = False) -> Subscription:
        """A subscriber that fetches whatever there is as soon as it is woken."""
        subscription = self.subscriptions.subscribe(lossless=lossless)

        async def read() -> None:
            batch: list[int] = []
            async for _, message in subscription:
                if not batch:
                    self.woken.append(batch)
                batch.append(message.type)
                if not len(subscription):
                    batch = []

        handled(Deferred.fromCoroutine(read()))
        return subscription

    def test_reader_is_woken_at_once(self) -> None:
        """Outside of a read nothing is waited for.  API-002.3"""
        self.reader()
        for number in (1, 2):
            self.subscriptions.publish(PEER, messages(number))
        self.assertEqual(self.woken, [[1], [2]])

    def test_reader_is_woken_once_for_all_that_came_together(self) -> None:
        """In order, and when all of it is there.  API-002.3, design §5"""
        self.reader()
        self.subscriptions.hold()
        self.subscriptions.publish(PEER, messages(1))
        self.subscriptions.publish(PEER, messages(2, 3))
        self.assertEqual(self.woken, [])
        self.subscriptions.wake()
        self.assertEqual(self.woken, [[1, 2, 3]])
        self.subscriptions.publish(PEER, messages(4))
        self.assertEqual(self.woken, [[1, 2, 3], [4]])

    def test_more_than_the_queue_holds_comes_together(self) -> None:
        """A reader that keeps up loses nothing, however much one read brings.  API-002.3"""
        subscription = self.reader()
        self.subscriptions.hold()
        self.subscriptions.publish(PEER, messages(*range(10)))
        self.subscriptions.wake()
        self.assertEqual([number for batch in self.woken for number in batch], list(range(10)))
        self.assertEqual((subscription.lagged, self.subscriptions.lagged), (0, 0))

    def test_a_reader_that_keeps_up_holds_nobody_up(self) -> None:
        """However much one read brings, if it has only not been woken yet.  BP-104-X"""
        self.reader(lossless=True)
        self.subscriptions.hold()
        for number in range(10):
            self.subscriptions.publish(PEER, messages(number))
        self.subscriptions.wake()
        self.assertEqual(self.subscriptions.holds, 0)
        self.assertEqual([number for batch in self.woken for number in batch], list(range(10)))

    def test_who_does_not_read_loses_the_oldest(self) -> None:
        """And it is counted.  API-002.3"""
        slow = self.subscriptions.subscribe()
        self.subscriptions.publish(PEER, messages(1, 2, 3, 4))
        self.assertEqual((len(slow), slow.lagged), (4, 0))
        self.subscriptions.publish(PEER, messages(5, 6))
        self.assertEqual((len(slow), slow.lagged, self.subscriptions.lagged), (4, 2, 2))
        self.assertEqual(self.successResultOf(slow.get())[1].type, 3)

    def test_waiters_are_served_in_order(self) -> None:
        """Nobody overtakes who waits, not even while waking is put off.  API-002.3"""
        subscription = self.subscriptions.subscribe()
        first = subscription.get()
        self.subscriptions.hold()
        self.subscriptions.publish(PEER, messages(1, 2))
        second = subscription.get()
        self.assertNoResult(first)
        self.subscriptions.wake()
        self.assertEqual(self.type_of(first), 1)
        self.assertEqual(self.type_of(second), 2)

    def test_closing_in_the_middle_of_a_read(self) -> None:
        """Who waits still gets what came; whoever is left over learns of the end.  API-002.3"""
        subscription = self.subscriptions.subscribe()
        first, second = subscription.get(), subscription.get()
        self.subscriptions.hold()
        self.subscriptions.publish(PEER, messages(1))
        self.subscriptions.close()
        self.assertEqual(self.type_of(first), 1)
        self.failureResultOf(second, ChannelClosed)

    def type_of(self, waiting: Deferred[Item]) -> int:
        return self.successResultOf(waiting)[1].type
