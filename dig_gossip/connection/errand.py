"""What a short connection is for: greet, perhaps ask one thing, leave.

Pure: a :class:`~dig_gossip.connection.visit.Visits` makes the connection and does what the errand
says. Source: style §4.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeAlias, TypeVar

import attrs

from dig_gossip.connection.handshake import DIALER_NODE_TYPES, RemoteHandshake
from dig_gossip.wire.message import Message

T = TypeVar("T")


@attrs.frozen
class Ask:
    """Send this; the answer comes as :meth:`Errand.received`."""

    message: Message


@attrs.frozen
class Done(Generic[T]):
    """The errand has its result: leave."""

    result: T


Step: TypeAlias = Ask | Done[T] | None


class Errand(Protocol[T]):
    """The purpose of one visit; an object serves once."""

    @property
    def node_types(self) -> frozenset[int]:
        """Who may be at the other end."""

    def greeted(self, remote: RemoteHandshake) -> Step[T]:
        """The other end has introduced itself."""

    def received(self, message: Message) -> Step[T]:
        """A message came in; None to go on waiting.

        :raises GossipError: the errand has failed.
        """


class Greeting:
    """See who is there. The result is what the other end says of itself."""

    node_types = DIALER_NODE_TYPES

    def greeted(self, remote: RemoteHandshake) -> Step[RemoteHandshake]:
        """That is all."""
        return Done(remote)

    def received(self, message: Message) -> Step[RemoteHandshake]:
        """Nothing was asked."""
        return None
