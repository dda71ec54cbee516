"""Independent, bounded queues between the node and the application.

Source: behaviour API-002.3.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from twisted.internet.defer import Deferred, fail, succeed

from dig_gossip.constants import SUBSCRIPTION_BUFFER
from dig_gossip.errors import ChannelClosed
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

Item: TypeAlias = tuple[PeerId, Message]


class Subscription:
    """Every message delivered since it was made, in order, at the application's own pace.

    Holds at most ``limit`` messages; when full the oldest goes and :attr:`lagged` counts it.
    Use ``await subscription.get()``, or ``async for peer_id, message in subscription``, which
    ends when the service stops or the subscription is closed.
    """

    def __init__(self, owner: Subscriptions, limit: int) -> None:
        self._owner = owner
        self._items: deque[Item] = deque(maxlen=limit)
        self._waiters: deque[Deferred[Item]] = deque()
        self._closed = False
        #: messages that were lost because nobody fetched them in time
        self.lagged = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self) -> Deferred[Item]:
        """The next message.

        :returns: fires with ``(peer_id, message)``; fails with ``ChannelClosed`` when the
            service has stopped and nothing is left.
        Cancellation: gives up the place in line; no message is lost.
        """
        if self._items:
            return succeed(self._items.popleft())
        if self._closed:
            return fail(ChannelClosed())
        waiter: Deferred[Item] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        return waiter

    def close(self) -> None:
        """Stop receiving; waiting ``get()`` calls fail with ``ChannelClosed``."""
        if self._closed:
            return
        self._closed = True
        self._owner.forget(self)
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            waiter.errback(ChannelClosed())

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Item:
        try:
            return await self.get()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def push(self, item: Item) -> None:
        """For the node: hand over one message."""
        if self._waiters:
            self._waiters.popleft().callback(item)
            return
        if len(self._items) == self._items.maxlen:
            self.lagged += 1
            self._owner.lagged += 1
        self._items.append(item)


class Subscriptions:
    """All subscriptions of a node.

    :ivar lagged: messages lost by all of them together.
    """

    def __init__(self, limit: int = SUBSCRIPTION_BUFFER) -> None:
        self._limit = limit
        self._all: dict[Subscription, None] = {}
        self.lagged = 0

    def __len__(self) -> int:
        return len(self._all)

    def subscribe(self) -> Subscription:
        """Make one that sees every message from now on."""
        subscription = Subscription(self, self._limit)
        self._all[subscription] = None
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Drop one that was closed."""
        self._all.pop(subscription, None)

    def publish(self, peer: PeerId, message: Message) -> None:
        """Give a message to everybody. A subscriber may do anything in its callback."""
        if not self._all:
            return
        item = (peer, message)
        for subscription in tuple(self._all):
            subscription.push(item)

    def close(self) -> None:
        """End all of them."""
        for subscription in tuple(self._all):
            subscription.close()
