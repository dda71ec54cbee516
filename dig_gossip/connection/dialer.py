"""The dial path: the only one, whoever wants the connection.

Source: behaviour CON-001, CON-102-X, CON-104-X.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from dig_gossip.connection.backoff import DialBackoff
from dig_gossip.connection.opening import Opening, Outcome
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.session import Session
from dig_gossip.connection.stack import PeerStack
from dig_gossip.constants import TCP_CONNECT_TIMEOUT_SECS
from dig_gossip.errors import (
    ChannelClosed,
    ClientError,
    ConnectionFiltered,
    DuplicateConnection,
    GossipError,
    SelfConnection,
)
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import Observers, handled


@attrs.define(eq=False)
class _Dial:
    """One attempt under way and everybody who waits for it."""

    address: PeerAddress
    waiters: Observers[Session]
    opening: Opening | None = None
    connecting: Deferred[Any] | None = None


class Dialer:
    """Opens connections, one attempt per address at a time.

    :ivar backoff: what automatic dialing should respect; :meth:`connect` itself does not.
    :ivar when_failed: told about each dial that led to no session.
    Bounds: attempts count against ``max_connections``.
    """

    def __init__(
        self,
        peers: Peers,
        stack: PeerStack,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.backoff = DialBackoff(now=clock.monotonic, rng=rng)
        self.when_failed: Callable[[PeerAddress, GossipError], object] = _ignore
        self._peers = peers
        self._stack = stack
        self._clock = clock
        self._dials: dict[PeerAddress, _Dial] = {}

    @property
    def dials(self) -> int:
        """How many attempts are under way."""
        return len(self._dials)

    @property
    def under_way(self) -> frozenset[PeerAddress]:
        """The addresses that are being dialed."""
        return frozenset(self._dials)

    def connect(self, address: PeerAddress, expected_id: PeerId | None = None) -> Deferred[Session]:
        """Dial an address and take it all the way to a registered session.

        Whoever asks for an address that is being dialed shares that attempt.

        :param expected_id: the peer id that must be found there.
        :returns: fires with the session, or fails with the reason (behaviour CON-001.1 to .5).
        Cancellation: the attempt is dropped when its last waiter cancels.
        """
        dial = self._dials.get(address)
        if dial is None:
            self._peers.check_dial(address, len(self._dials))
            dial = _Dial(address, Observers(lambda: self._drop(address)))
            self._dials[address] = dial
            waiting = dial.waiters.when()
            self._start(dial, expected_id)
            return waiting
        return dial.waiters.when()

    def stop(self) -> None:
        """Drop every attempt."""
        for address in list(self._dials):
            self._drop(address)

    def _start(self, dial: _Dial, expected_id: PeerId | None) -> None:
        opening = self._peers.begin(
            dial.address,
            lambda end: self._ended(dial, end),
            expected_id,
            is_outbound=True,
            transport=self._peers.routes.transport_to(dial.address),
        )
        dial.opening = opening
        dial.connecting = self._peers.routes.endpoint(
            dial.address, timeout=TCP_CONNECT_TIMEOUT_SECS, listening=self._peers.bound
        ).connect(self._stack.factory(opening))
        handled(
            dial.connecting.addCallbacks(
                lambda _protocol: None, self._not_connected, (), {}, (opening,)
            )
        )

    def _not_connected(self, failure: Failure, opening: Opening) -> None:
        opening.not_connected(failure)

    def _ended(self, dial: _Dial, outcome: Outcome) -> None:
        if self._dials.get(dial.address) is dial:
            del self._dials[dial.address]
        if dial.connecting is not None:
            dial.connecting.cancel()
        if isinstance(outcome, Session):
            self.backoff.succeeded(dial.address)
            dial.waiters.succeed(outcome)
            return
        assert isinstance(outcome, GossipError)
        error = outcome
        self.note_failure(dial.address, error)
        self.when_failed(dial.address, error)
        dial.waiters.fail(error)

    def note_failure(self, address: PeerAddress, error: GossipError) -> None:
        """Let automatic dialing wait before it tries an address again."""
        if not isinstance(error, DuplicateConnection | ChannelClosed | ConnectionFiltered):
            hopeless = isinstance(error, SelfConnection) or (
                isinstance(error, ClientError) and not error.retryable
            )
            self.backoff.failed(address, retryable=not hopeless)

    def _drop(self, address: PeerAddress) -> None:
        dial = self._dials.get(address)
        if dial is not None and dial.opening is not None:
            dial.opening.fail(ChannelClosed("the dial was cancelled"))


def _ignore(_address: PeerAddress, _error: GossipError) -> None:
    """Nobody keeps a book."""
