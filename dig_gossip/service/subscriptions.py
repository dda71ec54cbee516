"""Independent, bounded queues between the node and the application.

What to do with a slow subscriber is the application's choice. By default its oldest messages go,
which is counted, and nobody else notices (API-002.3). A *lossless* subscription slows down the
peers instead: while it is full, nothing is read from whoever has sent it something (BP-104-X).

Source: behaviour API-002.3, BP-104-X.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Final, Protocol, TypeAlias

from twisted.internet.defer import Deferred, fail, succeed

from dig_gossip.constants import SUBSCRIPTION_BUFFER
from dig_gossip.errors import ChannelClosed
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

Item: TypeAlias = tuple[PeerId, Message]


#: More than all peers together have under way when the last of them is held.
MAX_LOSSLESS: Final = 65_536


class Sources(Protocol):
    """Where messages come from: the peers."""

    def hold(self, peer_id: PeerId, holder: object) -> None:
        """Read nothing more from a peer until the holder releases it."""

    def release(self, peer_id: PeerId, holder: object) -> None:
        """Undo it; harmless without."""


class Subscription:
    """Every message delivered since it was made, in order, at the application's own pace.

    Holds at most ``limit`` messages; when full the oldest goes and :attr:`lagged` counts it.
    Use ``await subscription.get()``, or ``async for peer_id, message in subscription``, which
    ends when the service stops or the subscription is closed.
    """

    def __init__(self, owner: Subscriptions, limit: int) -> None:
        self._owner = owner
        self._limit = limit
        self._items: deque[Item] = deque()
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
        if self._items and not self._waiters:
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
        self.wake()
        self._closed = True
        self._owner.forget(self)
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            waiter.errback(ChannelClosed())

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Item:
        if self._items and not self._waiters:
            return self._items.popleft()  # what get() does, without a Deferred
        try:
            return await self.get()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def push(self, peer: PeerId, messages: Sequence[Message]) -> None:
        """For the node: hand over messages of one peer; :meth:`wake` afterwards."""
        items = self._items
        if len(items) + len(messages) <= self._limit:
            items.extend(zip(repeat(peer), messages))
            return
        for message in messages:
            if len(items) >= self._limit:
                self.wake()  # whoever waits for messages gets the chance to fetch them
            if len(items) >= self._limit:
                items.popleft()
                self.lagged += 1
                self._owner.lagged += 1
            items.append((peer, message))

    def wake(self) -> None:
        """For the node: tell whoever waits; it may fetch everything before this returns."""
        while self._items and self._waiters:
            self._waiters.popleft().callback(self._items.popleft())


class LosslessSubscription(Subscription):
    """One that makes peers wait instead of losing messages.

    From ``limit`` messages on, every peer that has brought one more is not read from, until half of
    ``limit`` are left. What was read before that still comes: 64 KiB of each peer, or 256 KiB if it
    sends large messages. Only beyond 65 536 messages, which takes peers that come, fill it and go
    again and again, the oldest goes, and :attr:`lagged` counts it.
    """

    def __init__(self, owner: Subscriptions, limit: int) -> None:
        super().__init__(owner, MAX_LOSSLESS)
        self._full_at = limit
        self._held: set[PeerId] = set()

    def get(self) -> Deferred[Item]:
        """As :meth:`Subscription.get`; peers may go on when half of the messages are fetched."""
        result = super().get()
        self._ease()
        return result

    async def __anext__(self) -> Item:
        item = await super().__anext__()
        self._ease()
        return item

    def close(self) -> None:
        """Stop receiving; peers that waited for us go on."""
        super().close()
        self._release()

    def pushed(self, peer: PeerId) -> None:
        """For the node: a peer has brought something."""
        if len(self) >= self._full_at:
            self.wake()  # a reader that has only not been woken yet holds up nobody
        if len(self) >= self._full_at and peer not in self._held:
            self._held.add(peer)
            self._owner.holds += 1
            self._owner.sources.hold(peer, self)

    def _ease(self) -> None:
        if self._held and len(self) <= self._full_at // 2:
            self._release()

    def _release(self) -> None:
        held, self._held = self._held, set()
        for peer in held:
            self._owner.sources.release(peer, self)


class Subscriptions:
    """All subscriptions of a node.

    :param sources: what lossless subscriptions hold up.
    :ivar lagged: messages lost by all of them together.
    :ivar holds: how often a peer was not read from because a lossless one was full.
    """

    def __init__(self, sources: Sources, limit: int = SUBSCRIPTION_BUFFER) -> None:
        self.sources = sources
        self._limit = limit
        self._all: dict[Subscription, None] = {}
        self._lossless: dict[LosslessSubscription, None] = {}
        self._held = False
        self.lagged = 0
        self.holds = 0

    def __len__(self) -> int:
        return len(self._all)

    def subscribe(self, *, lossless: bool = False) -> Subscription:
        """Make one that sees every message from now on."""
        if not lossless:
            subscription = Subscription(self, self._limit)
        else:
            subscription = patient = LosslessSubscription(self, self._limit)
            self._lossless[patient] = None
        self._all[subscription] = None
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Drop one that was closed."""
        self._all.pop(subscription, None)
        if isinstance(subscription, LosslessSubscription):
            self._lossless.pop(subscription, None)

    def publish(self, peer: PeerId, messages: Sequence[Message]) -> None:
        """Give messages of one peer to everybody. A subscriber may do anything in its callback."""
        for subscription in tuple(self._all):
            subscription.push(peer, messages)
        if not self._held:
            self.wake()
        for lossless in tuple(self._lossless):
            lossless.pushed(peer)

    def hold(self) -> None:
        """More comes at once: wake nobody before :meth:`wake`, unless a queue is full.

        A subscriber that is woken for every message costs more than the message.
        """
        self._held = True

    def wake(self) -> None:
        """Wake whoever waits for what there is now."""
        self._held = False
        for subscription in tuple(self._all):
            if len(subscription):
                subscription.wake()

    def close(self) -> None:
        """End all of them."""
        for subscription in tuple(self._all):
            subscription.close()
