"""Keeps one port of the gateway open for as long as the node runs::

    obtain: PCP, NAT-PMP, UPnP in turn ──▶ hold: look every minute, renew at half of the lifetime
       ▲         all fail                        │ three failures in a row, or the time is over
       └──── wait 1, 2, 4 … 30 minutes ◀─────────┘ (or another gateway)

Nothing that happens here disturbs the node. Source: RFC 6886 §3.3, §3.7; RFC 6887 §11.2.1.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.errors import InvalidConfig
from dig_gossip.portmap.gateway_link import Announcements, GatewayLink, find_gateway
from dig_gossip.portmap.igd import MISSING, Igd, has_miniupnpc
from dig_gossip.portmap.methods import NatPmp, Pcp
from dig_gossip.portmap.values import MIN_RENEWAL_SECS, Mapping, MappingFailed, Method
from dig_gossip.types.ip import is_routable_ip, is_unicast_ip, packed_ip
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.addresses import WILDCARDS
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.pcp import NONCE_BYTES

CHECK_SECS: Final = 60.0
FIRST_RETRY_SECS: Final = 60.0
MAX_RETRY_SECS: Final = 1800.0
#: After an announcement all hosts of the network come at once; each waits up to that long.
MAX_HASTE_SECS: Final = 5.0
MAX_FAILURES: Final = 3
STOP_SECS: Final = 3.0


class PortMapper:
    """One node's port mapping.

    :param method: ``auto``, ``pcp``, ``nat-pmp`` or ``upnp``.
    :param allows_private: whether an external address that only a local network reaches will do.
    :param changed: told the external address whenever it is another one, None while there is none.
    :raises InvalidConfig: ``upnp`` without miniupnpc.
    :ivar mapping: what holds at this moment.
    :ivar counters: ``obtained``, ``renewed``, ``lost``, ``failed`` (all methods in a row), for
        statistics.
    """

    _log = Logger()

    def __init__(
        self,
        method: str,
        clock: Clock,
        rng: random.Random,
        changed: Callable[[PeerAddress | None], object],
        *,
        allows_private: bool = False,
    ) -> None:
        if method == Igd.name and not has_miniupnpc():
            raise InvalidConfig(f"port_mapping: upnp {MISSING}")
        self.mapping: Mapping | None = None
        self.counters: Counter[str] = Counter()
        self._wanted = method
        self._clock = clock
        self._rng = rng
        self._changed = changed
        self._allows_private = allows_private
        self._bound: PeerAddress | None = None
        self._suggested = 0
        self._gateway: str | None = None
        self._link: GatewayLink | None = None
        self._method: Method | None = None
        self._announcements: Announcements | None = None
        self._running: Deferred[None] | None = None
        self._sleeper: Deferred[None] | None = None
        self._timer: Timer | None = None
        self._is_woken = False
        self._renewed_at = 0.0
        self._stopped = False

    def start(self, bound: PeerAddress, suggested: int) -> None:
        """Begin.

        :param bound: where the node listens.
        :param suggested: the external port wished for.
        """
        reason = _why_not(bound)
        if reason:
            self._log.warn("no port mapping: {error}", event="port_mapping_useless", error=reason)
            return
        self._bound = bound
        self._suggested = suggested
        self._announcements = Announcements(self._clock, self._is_gateway, self._wake)
        self._running = Deferred.fromCoroutine(self._run())
        handled(self._running.addErrback(self._crashed))

    def stats(self) -> dict[str, int]:
        """What happened, and the external port that leads here at this moment, or 0."""
        port = 0 if self.mapping is None else self.mapping.external.port
        counted = {f"port_mapping.{what}": count for what, count in self.counters.items()}
        return {"port_mapping.external_port": port, **counted}

    def stop(self) -> Deferred[None]:
        """Remove the mapping; fires when that is done, at most 3 s later."""
        self._stopped = True
        self.mapping = None
        if self._announcements is not None:
            self._announcements.close()
        running = self._running
        if running is None:
            return succeed(None)
        running.cancel()
        leaving = Deferred.fromCoroutine(self._leave())
        limit = self._clock.call_later(STOP_SECS, leaving.cancel)

        def done(_result: object) -> Deferred[None]:
            limit.cancel()
            return Deferred.fromCoroutine(self._unlink())

        return leaving.addBoth(done)

    # -- the coroutine

    async def _run(self) -> None:
        delay = FIRST_RETRY_SECS
        while not self._stopped:
            try:
                mapping = await self._obtain()
            except MappingFailed as error:
                self.counters["failed"] += 1
                self._log.warn(
                    "no port mapping: {error}; next attempt in {delay:.0f} s",
                    event="port_mapping_failed",
                    error=str(error),
                    delay=delay,
                )
                await self._unlink()
                await self._sleep(delay)
                delay = min(2 * delay, MAX_RETRY_SECS)
                continue
            delay = FIRST_RETRY_SECS
            self.counters["obtained"] += 1
            self._set(mapping)
            await self._hold(mapping)
            self.counters["lost"] += 1
            self._set(None)
            await self._leave()
            await self._unlink()

    async def _obtain(self) -> Mapping:
        """Try every method in turn.

        :raises MappingFailed: with what each of them says.
        """
        said = []
        try:
            self._gateway = find_gateway()
            self._link = self._open_link(self._gateway)
        except MappingFailed as error:
            said.append(str(error))
        else:
            self._check_need(self._link.host)
        for method in self._methods():
            self._method = method
            try:
                mapping = await method.map()
                self._check(mapping.external)
                return mapping
            except MappingFailed as error:
                said.append(f"{method.name}: {error}")
                await self._leave()
        raise MappingFailed("; ".join(said))

    def _methods(self) -> Iterator[Method]:
        assert self._bound is not None
        port, now, link = self._bound.port, self._clock.monotonic, self._link
        if link is not None and self._wanted in ("auto", Pcp.name):
            nonce = self._rng.randbytes(NONCE_BYTES)
            yield Pcp(link, port, self._suggested, nonce, now=now)
        if link is not None and self._wanted in ("auto", NatPmp.name):
            yield NatPmp(link, port, self._suggested, now=now)
        if self._wanted in ("auto", Igd.name):
            host = link.host if link is not None else ""
            reactor = self._clock.reactor
            yield Igd(reactor, self._gateway, host, port, self._suggested, self._rng)

    async def _hold(self, mapping: Mapping) -> None:
        """Look after a mapping; returns when there is none any more."""
        assert self._method is not None
        failures = 0
        while failures < MAX_FAILURES:
            left = self._renewed_at + mapping.lifetime - self._clock.monotonic()
            if left <= 0:
                return
            due = left / 2 if failures else left - mapping.lifetime / 2
            await self._sleep(min(max(due, MIN_RENEWAL_SECS), CHECK_SECS))
            if self._is_elsewhere():
                return
            is_asked, self._is_woken = self._is_woken, False
            left = self._renewed_at + mapping.lifetime - self._clock.monotonic()
            try:
                if left <= mapping.lifetime / 2 or is_asked or not await self._method.is_intact():
                    renewed = await self._method.map()
                    self._check(renewed.external)
                    mapping = renewed
                    self.counters["renewed"] += 1
                    self._set(mapping)
                failures = 0
            except MappingFailed as error:
                failures += 1
                self._log.debug(
                    "the port mapping cannot be renewed: {error}",
                    event="port_mapping_shaky",
                    error=str(error),
                )

    async def _leave(self) -> None:
        """Remove what the present method has made, if it can still be reached."""
        method, self._method = self._method, None
        if method is None:
            return
        try:
            await method.release()
        except MappingFailed as error:
            self._log.debug(
                "the port mapping cannot be removed: {error}",
                event="port_mapping_left",
                error=str(error),
            )

    async def _unlink(self) -> None:
        self._method = None
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not long once the gateway has news."""
        sleeper: Deferred[None] = Deferred()
        self._sleeper = sleeper
        self._timer = self._clock.call_later(self._haste(seconds), sleeper.callback, None)
        try:
            await sleeper
        finally:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        """The gateway has news: see what became of the mapping, in a moment."""
        if self._is_woken:
            return
        self._is_woken = True
        if self._timer is not None and self._timer.active:
            left = self._timer.deadline - self._clock.monotonic()
            self._timer.cancel()
            assert self._sleeper is not None
            self._timer = self._clock.call_later(self._haste(left), self._sleeper.callback, None)

    def _haste(self, seconds: float) -> float:
        if not self._is_woken:
            return seconds
        too_soon = self._renewed_at + MIN_RENEWAL_SECS - self._clock.monotonic()
        return min(seconds, max(too_soon, self._rng.uniform(0, MAX_HASTE_SECS)))

    # -- inside

    def _set(self, mapping: Mapping | None) -> None:
        """Take over what holds now, and tell what that changes."""
        before = None if self.mapping is None else self.mapping.external
        after = None if mapping is None else mapping.external
        self.mapping = mapping
        self._renewed_at = self._clock.monotonic()
        if before == after:
            return
        if mapping is None:
            self._log.warn(
                "{address} does not lead here any more",
                event="port_mapping_lost",
                address=str(before),
            )
        else:
            self._log.info(
                "{address} leads here, by {method}",
                event="port_mapped",
                address=str(after),
                method=mapping.method,
            )
        self._changed(after)

    def _check_need(self, host: str) -> None:
        """:raises MappingFailed: there is nothing to map."""
        packed = packed_ip(host)
        if packed is not None and is_routable_ip(packed):
            raise MappingFailed(f"{host} is a public address, there is no NAT")

    def _check(self, external: PeerAddress) -> None:
        """:raises MappingFailed: an address that does not help anybody to reach us."""
        packed = packed_ip(external.host)
        usable = is_unicast_ip if self._allows_private else is_routable_ip
        if packed is None or not usable(packed):
            raise MappingFailed(f"the external address {external.host} is not a public one")

    def _open_link(self, gateway: str) -> GatewayLink:
        assert self._bound is not None
        interface = "" if self._bound.host in WILDCARDS else self._bound.host
        return GatewayLink(gateway, self._clock, interface=interface, unasked=self._unasked)

    def _is_elsewhere(self) -> bool:
        """Whether this machine has another gateway than the one that was asked."""
        if self._link is None:
            return False
        try:
            return find_gateway() != self._link.gateway
        except MappingFailed:
            return False  # perhaps in a moment

    def _is_gateway(self, host: str) -> bool:
        return host == self._gateway

    def _unasked(self, datagram: bytes) -> None:
        if isinstance(self._method, Pcp) and self._method.is_news(datagram):
            self._wake()

    def _crashed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("port mapping has failed", failure, event="port_mapping_crashed")


def _why_not(bound: PeerAddress) -> str:
    """Why there is nothing to map for this address; empty if there is."""
    if bound.host in WILDCARDS:
        return ""
    if bound.ip is None or bound.ip.version != 4:
        return f"the node listens on {bound}, which is not IPv4"
    return f"the node listens on {bound} only" if bound.ip.is_loopback else ""
