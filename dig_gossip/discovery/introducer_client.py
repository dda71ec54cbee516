"""Asks an introducer for peers, and registers with it again and again.

The shell around :mod:`dig_gossip.discovery.introducer_protocol`. Each attempt is a connection of
its own, with the certificate of the moment, bounded by two timeouts: one until TCP is there, one
for everything else. An introducer that is down, lies, hangs or floods costs an attempt.

Source: behaviour §17 (DSC-004, DSC-005, INTR-101-X, INTR-102-X), DSC-006.3.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Generic, TypeVar

from chia_rs import TimestampedPeerInfo
from twisted.internet.defer import Deferred, DeferredLock, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.errand import Errand
from dig_gossip.connection.visit import Destination, Report, Visits
from dig_gossip.discovery.introducer_protocol import (
    Query,
    Registration,
    RegistrationPlan,
    endpoint_address,
)
from dig_gossip.errors import ChannelClosed, GossipError, IntroducerError
from dig_gossip.types.sections import IntroducerConfig
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import Observers, handled
from dig_gossip.wire.dig import RegisterAck, RegisterPeer

T = TypeVar("T")


class IntroducerClient:
    """One node's dealings with one introducer.

    Bounds: one query and one registration at a time; whoever asks meanwhile shares it. They take
    turns: a server of Chia's takes a second connection of the same key for a replacement of the
    first, and closes that.

    :param advertised: what to register, as it is at the time; raises IntroducerError for nothing.
    """

    _log = Logger()

    def __init__(
        self,
        config: IntroducerConfig,
        visits: Visits,
        clock: Clock,
        rng: random.Random,
        advertised: Callable[[], RegisterPeer],
    ) -> None:
        self.endpoint = config.endpoint
        self._config = config
        address, path, is_encrypted = endpoint_address(config.endpoint)
        self._destination = Destination(address=address, path=path, is_encrypted=is_encrypted)
        self._visits = visits
        self._clock = clock
        self._advertised = advertised
        self._plan = RegistrationPlan(rng=rng)
        self._turn = DeferredLock()
        self._queries: _Shared[list[TimestampedPeerInfo]] = _Shared()
        self._registrations: _Shared[RegisterAck] = _Shared()
        self._stopped = False
        self._timer: Timer | None = None
        self._automatic: Deferred[None] | None = None
        self._is_outdated = False  # what is being registered at this moment

    def query(self) -> Deferred[list[TimestampedPeerInfo]]:
        """Ask for peers.

        :returns: fires with at most 1000 rows that can be dialed, possibly none.
        :raises IntroducerError: the introducer could not be reached or understood, or took too
            long.
        Cancellation: the attempt is dropped when its last waiter cancels.
        """
        return self._queries.share(lambda: self._turn.run(self._visit, Query()))

    def register(self) -> Deferred[RegisterAck]:
        """Register this node.

        :returns: fires with the introducer's answer; that it declines is a normal one.
        :raises IntroducerError: as :meth:`query`.
        Cancellation: as :meth:`query`.
        """
        return self._registrations.share(lambda: self._turn.run(self._register_now))

    @property
    def is_registering(self) -> bool:
        """Whether this node registers by itself."""
        return self._timer is not None

    def start(self) -> None:
        """Register now, and from now on every half hour."""
        self._timer = self._clock.call_later(0, self._register)

    def register_soon(self) -> None:
        """Register now: our address or our certificate is another one."""
        if self._timer is None:
            return
        if self._automatic is not None:
            self._is_outdated = True
            return
        self._timer.cancel()
        self.start()

    def stop(self) -> None:
        """Break off what is under way, and register no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._stopped = True
        self._visits.stop()

    def _register_now(self) -> Deferred[RegisterAck]:
        try:
            body = self._advertised()
        except IntroducerError:
            return fail()
        return self._visit(Registration(body))

    def _visit(self, errand: Errand[T]) -> Deferred[T]:
        if self._stopped:  # while we waited for our turn
            return fail(ChannelClosed())
        visit = self._visits.visit(
            self._destination,
            errand,
            connect_timeout=self._config.connection_timeout_secs,
            exchange_timeout=self._config.request_timeout_secs,
        )
        return visit.addCallbacks(_result, self._explain)

    def _explain(self, failure: Failure) -> Failure:
        failure.trap(GossipError)
        if failure.check(ChannelClosed):
            return failure
        return Failure(IntroducerError(f"{self.endpoint}: {failure.value}"))

    def _register(self) -> None:
        registering = self.register()
        self._automatic = registering.addCallbacks(self._registered, self._not_registered)

    def _registered(self, answer: RegisterAck) -> None:
        self._log.info(
            "{endpoint} has answered our registration: {accepted}",
            event="introducer_registered",
            endpoint=self.endpoint,
            accepted="accepted" if answer.success else "declined",
        )
        self._again(self._plan.answered())

    def _not_registered(self, failure: Failure) -> None:
        failure.trap(GossipError)
        delay = self._plan.failed()
        if not failure.check(ChannelClosed):
            self._log.warn(
                "cannot register: {error}; {failures} failures in a row, next attempt in "
                "{delay:.0f} s",
                event="introducer_failed",
                error=str(failure.value),
                failures=self._plan.failures,
                delay=delay,
            )
        self._again(delay)

    def _again(self, delay: float) -> None:
        self._automatic = None
        if self._is_outdated:
            self._is_outdated, delay = False, 0.0
        if self._timer is not None:
            self._timer = self._clock.call_later(delay, self._register)


class _Shared(Generic[T]):
    """One thing at a time, for everybody who wants it."""

    def __init__(self) -> None:
        self._waiters: Observers[T] | None = None
        self._running: Deferred[T] | None = None

    def share(self, begin: Callable[[], Deferred[T]]) -> Deferred[T]:
        """Begin, or join what has begun."""
        if self._waiters is None:
            waiters = self._waiters = Observers(self._abandoned)
            waiting = waiters.when()
            self._running = begin()
            handled(
                self._running.addCallbacks(
                    self._succeeded, self._failed, (waiters,), {}, (waiters,), {}
                )
            )
            return waiting
        return self._waiters.when()

    def _succeeded(self, result: T, waiters: Observers[T]) -> None:
        self._over(waiters)
        waiters.succeed(result)

    def _failed(self, failure: Failure, waiters: Observers[T]) -> None:
        self._over(waiters)
        assert failure.value is not None
        waiters.fail(failure.value)

    def _over(self, waiters: Observers[T]) -> None:
        if self._waiters is waiters:
            self._waiters = None

    def _abandoned(self) -> None:
        if self._running is not None:
            self._running.cancel()


def _result(report: Report[T]) -> T:
    return report.result
