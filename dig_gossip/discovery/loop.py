"""The discovery loop: asks the planner, dials, asks the seeds, sends feelers, and never gives up.

::

            ┌──────────── a session ended · a dial ended · the book grew ───────────┐
            ▼                                                                       │
    world ─▶ plan ─▶ dials ──────────────────────────────────────────────▶ sessions ┘
               └───▶ nothing to dial ─▶ seeds: one after the other, until one has news

At most one round a second, at least one every ``peer_connect_interval``. Whatever fails is logged
and tried again later; nothing raises out of the loop.

Source: behaviour §13, §16.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.dialer import Dialer
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.session import Session
from dig_gossip.constants import FEELER_INTERVAL_SECS
from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.diversity import Link
from dig_gossip.discovery.peer_exchange import PeerExchange
from dig_gossip.discovery.planner import (
    COLLISION_TEST_INTERVAL_SECS,
    Dial,
    Planner,
    Purpose,
    World,
)
from dig_gossip.discovery.seeding import SeedingSchedule, feeler_delay
from dig_gossip.discovery.sources import IPeerSource
from dig_gossip.errors import (
    ChannelClosed,
    ConnectionFiltered,
    DuplicateConnection,
    GossipError,
    ProxyError,
    SelfConnection,
)
from dig_gossip.types.peer import NodeType, PeerAddress, PeerId, TransportKind
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.util.deferreds import handled
from dig_gossip.util.sanitize import sanitize_text

#: Makes a full, verified dial that leads to no session; fires with who was there.
Probe = Callable[[PeerAddress], Deferred[PeerId]]

_ROUND_SECS: Final = 1.0  # the least time between two rounds
_SOURCE_LIMIT_SECS: Final = 120.0  # for a source that does not keep its own time
_SHORT_SESSION_SECS: Final = 60.0
_MAX_OWN_ADDRESSES: Final = 100
_MAX_INHABITANTS: Final = 1000


def listening_address(session: Session) -> PeerAddress | None:
    """Where others may dial the peer of a session; None if nowhere, or it is no full node."""
    remote = session.remote
    if remote.node_type != NodeType.FULL_NODE or session.transport is TransportKind.RELAY:
        return None
    if session.is_outbound:
        return session.address
    if session.transport is TransportKind.TOR:
        return None  # it came through our onion service, from nowhere
    return PeerAddress(session.address.host, remote.server_port) if remote.server_port else None


class DiscoveryLoop:
    """Keeps the outbound sessions of one node up.

    Bounds: 8 dials, one feeler and one round of seeding at a time; 100 own addresses; 1000
    addresses whose inhabitant is connected under another one.

    :param sources: asked in this order.
    :param probe: for feelers and tests of occupants.
    :ivar counters: what happened, by name.
    """

    _log = Logger()

    def __init__(
        self,
        planner: Planner,
        book: AddressManager,
        exchange: PeerExchange,
        peers: Peers,
        dialer: Dialer,
        sources: Sequence[IPeerSource],
        probe: Probe,
        clock: Clock,
        rng: random.Random,
        *,
        interval: float,
        is_searching: bool,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.own_addresses: OrderedDict[PeerAddress, None] = OrderedDict()
        self._planner = planner
        self._book = book
        self._exchange = exchange
        self._peers = peers
        self._dialer = dialer
        self._sources = list(sources)
        self._probe = probe
        self._clock = clock
        self._rng = rng
        self._interval = interval
        self._is_searching = is_searching
        self._seeding = SeedingSchedule(now=clock.monotonic, rng=rng)
        self._fetching: Deferred[None] | None = None
        self._probing: tuple[PeerAddress, Deferred[PeerId]] | None = None
        self._inhabitants: OrderedDict[PeerAddress, PeerId] = OrderedDict()
        self._timer: Timer | None = None
        self._feeler_timer: Timer | None = None
        self._last_round = clock.monotonic() - _ROUND_SECS
        self._tested_at = clock.monotonic() - COLLISION_TEST_INTERVAL_SECS
        self._is_exhausted = False
        self._stopped = False

    def start(self) -> None:
        """Begin with a round at once."""
        if self._planner.has_anchors:
            self._seeding.postpone()
        self.wake()
        if self._is_searching:
            self._expect_feeler()

    def stop(self) -> None:
        """Dial no more, ask no more."""
        self._stopped = True
        for timer in (self._timer, self._feeler_timer):
            if timer is not None:
                timer.cancel()
        if self._fetching is not None:
            self._fetching.cancel()
        if self._probing is not None:
            self._probing[1].cancel()

    @property
    def is_alive(self) -> bool:
        """Whether a next round is due some time."""
        return self._timer is not None and self._timer.active

    def wake(self) -> None:
        """Look at the world soon: something has changed."""
        pause = self._last_round + _ROUND_SECS - self._clock.monotonic()
        self._sleep(max(0.0, pause))

    # -- rounds

    def _sleep(self, delay: float) -> None:
        if self._stopped:
            return
        if self._timer is not None and self._timer.active:
            if self._timer.deadline <= self._clock.monotonic() + delay:
                return
            self._timer.cancel()
        self._timer = self._clock.call_later(delay, self._round)

    def _round(self) -> None:
        self._last_round = self._clock.monotonic()
        delay = self._interval
        try:
            delay = self._plan()
        except Exception:
            self._mistake(Failure())
        self._sleep(max(_ROUND_SECS, delay))

    def _plan(self) -> float:
        """Do what is to be done now.

        :returns: seconds after which to look again even if nothing happens.
        """
        self._book.resolve_tried_collisions()
        world = self._world()
        plan = self._planner.plan(world)
        self._is_exhausted = plan.is_exhausted
        for dial in plan.dials:
            self._dial(dial)
        waits = [self._interval]
        retry = self._planner.retry_in(world)
        if retry is not None:
            waits.append(retry)
        if plan.is_exhausted and self._is_searching and self._sources:
            # While dials are under way they may yet fill the slots.
            if not self._book.size() or not self._dialer.dials:
                self._seed()
            if self._fetching is None:
                waits.append(self._seeding.due_in)
        self._test_an_occupant(world)
        return min(waits)

    def _world(self) -> World:
        table = self._peers.table
        outbound = []
        occupied: set[PeerAddress] = set()
        for session in table:
            if session.transport is not TransportKind.RELAY:
                occupied.add(session.address)
            where = listening_address(session)
            if where is not None:
                occupied.add(where)
            if session.is_outbound:
                outbound.append(Link(session.address, session.transport))
        for address, peer_id in self._inhabitants.items():
            if table.get(peer_id) is not None:
                occupied.add(address)
        if self._probing is not None:
            occupied.add(self._probing[0])
        return World(
            outbound=tuple(outbound),
            dialing=self._dialer.under_way,
            occupied=frozenset(occupied),
        )

    # -- dials

    def _dial(self, dial: Dial) -> None:
        self.counters[f"dials.{dial.purpose.value}"] += 1
        try:
            dialing = self._dialer.connect(dial.address)
        except GossipError as error:
            self.dial_failed(dial.address, error)
            self._not_connected(Failure(error), dial)
            return
        handled(
            dialing.addCallbacks(
                lambda session: self._connected(session, dial),
                lambda failure: self._not_connected(failure, dial),
            )
        )

    def _connected(self, session: Session, dial: Dial) -> None:
        self._live_at(dial.address, session.peer_id)
        self.wake()

    def _not_connected(self, failure: Failure, dial: Dial) -> None:
        error = failure.value
        if not isinstance(error, GossipError):
            self._mistake(failure)
            return
        if isinstance(error, DuplicateConnection) and error.peer_id is not None:
            # Connected under another address, or the other way round.
            self._live_at(dial.address, PeerId(error.peer_id))
        self._log_failure(dial, error)
        self.wake()

    def _log_failure(self, dial: Dial, error: GossipError) -> None:
        self._log.debug(
            "{purpose} {address} not connected: {error}",
            event="dial_failed",
            purpose=dial.purpose.value,
            address=str(dial.address),
            error=str(error),
        )

    def _mistake(self, failure: Failure) -> None:
        """Something raised that must not: the loop goes on."""
        self.counters["discovery_errors"] += 1
        self._log.failure("discovery went wrong; it goes on", failure, event="discovery_failed")

    def session_lost(self, session: Session) -> None:
        """Fill the slot soon, but not with a peer that leaves as soon as it has come."""
        is_short = self._clock.monotonic() - session.opened_at < _SHORT_SESSION_SECS
        if is_short and session.transport is not TransportKind.RELAY:
            self._dialer.backoff.failed(session.address, retryable=True)
        self.wake()

    def dial_failed(self, address: PeerAddress, error: GossipError) -> None:
        """Note in the book that a dial, whoever wanted it, led to no session.

        Source: behaviour CON-001.7.
        """
        if isinstance(error, ChannelClosed):
            return  # we gave it up ourselves
        if isinstance(error, SelfConnection):
            self._is_own(address)
        ours = DuplicateConnection | SelfConnection | ConnectionFiltered | ProxyError
        self._book.attempt(address, count_failure=not isinstance(error, ours))

    def _is_own(self, address: PeerAddress) -> None:
        self.own_addresses[address] = None
        if len(self.own_addresses) > _MAX_OWN_ADDRESSES:
            self.own_addresses.popitem(last=False)

    def _live_at(self, address: PeerAddress, peer_id: PeerId) -> None:
        self._inhabitants[address] = peer_id
        self._inhabitants.move_to_end(address)
        if len(self._inhabitants) > _MAX_INHABITANTS:
            self._inhabitants.popitem(last=False)

    # -- seeds

    def _seed(self) -> None:
        if self._fetching is not None or self._seeding.due_in > 0:
            return
        self._fetching = Deferred.fromCoroutine(self._fetch())
        handled(self._fetching.addErrback(self._fetch_failed).addBoth(self._fetched))

    async def _fetch(self) -> None:
        for source in self._sources:
            if await self._ask(source):
                self._seeding.succeeded()
                return
        self._seeding.failed()

    async def _ask(self, source: IPeerSource) -> int:
        """Ask one source.

        :returns: how many addresses are new.
        """
        self.counters[f"seeding.{source.name}"] += 1
        asking = maybeDeferred(source.fetch)
        timer = self._clock.call_later(_SOURCE_LIMIT_SECS, asking.cancel)
        try:
            found = await asking
        except CancelledError:
            if self._stopped:
                raise
            self._source_failed(source, f"no answer in {_SOURCE_LIMIT_SECS:g} s")
            return 0
        except Exception as error:
            self._source_failed(source, sanitize_text(str(error)) or type(error).__name__)
            return 0
        finally:
            timer.cancel()
        added = self._exchange.seeded(source.name, found)
        self._log.info(
            "{source} knows {found} addresses, {added} of them new",
            event="source_answered",
            source=source.name,
            found=len(found),
            added=added,
        )
        return added

    def _source_failed(self, source: IPeerSource, error: str) -> None:
        self.counters[f"seeding_failed.{source.name}"] += 1
        self._log.info(
            "{source} could not be asked: {error}",
            event="source_failed",
            source=source.name,
            error=error,
        )

    def _fetch_failed(self, failure: Failure) -> None:
        if self._stopped and failure.check(CancelledError):
            return
        self._seeding.failed()
        self._mistake(failure)

    def _fetched(self, _result: object) -> None:
        self._fetching = None
        self._sleep(max(_ROUND_SECS, self._seeding.due_in))
        if self._book.size():
            self.wake()

    # -- feelers

    def _expect_feeler(self) -> None:
        delay = feeler_delay(self._rng, FEELER_INTERVAL_SECS)
        self._feeler_timer = self._clock.call_later(delay, self._feel)

    def _feel(self) -> None:
        self._expect_feeler()
        world = self._world()
        if self._probing is not None:
            return
        if self._planner.missing(world) > 0 and not self._is_exhausted:
            return
        if not self._test_an_occupant(world):
            dial = self._planner.feeler(world)
            if dial is not None:
                self._try_out(dial)

    def _test_an_occupant(self, world: World) -> bool:
        """Test the occupant of a tried slot that is wanted, once a minute at most."""
        now = self._clock.monotonic()
        if now - self._tested_at < COLLISION_TEST_INTERVAL_SECS or self._probing is not None:
            return False
        if self._planner.missing(world) > 0 and not self._is_exhausted:
            return False
        dial = self._planner.collision_test(world)
        if dial is None:
            return False
        self._tested_at = now
        self._try_out(dial)
        return True

    def _try_out(self, dial: Dial) -> None:
        self.counters[f"dials.{dial.purpose.value}"] += 1
        probing = maybeDeferred(self._probe, dial.address)
        self._probing = dial.address, probing
        handled(
            probing.addCallbacks(
                lambda peer_id: self._found(peer_id, dial),
                lambda failure: self._not_found(failure, dial),
            )
        )

    def _found(self, peer_id: PeerId, dial: Dial) -> None:
        self._probing = None
        if peer_id in self._peers.own_ids:
            self._is_own(dial.address)
            return
        self._dialer.backoff.succeeded(dial.address)
        self._book.mark_good(dial.address)
        self.counters[f"found.{dial.purpose.value}"] += 1
        if dial.purpose is Purpose.COLLISION:
            self._book.resolve_tried_collisions()

    def _not_found(self, failure: Failure, dial: Dial) -> None:
        self._probing = None
        error = failure.value
        if self._stopped:
            return
        if not isinstance(error, GossipError):
            self._mistake(failure)
            return
        self.dial_failed(dial.address, error)
        self._dialer.note_failure(dial.address, error)
        self._log_failure(dial, error)
