"""Everything that finds and keeps peers, wired: book, exchange, loop, files.

The router tells it about sessions and lists of addresses, and performs what it answers; the node
starts, ticks and stops it. Until the book is loaded, which happens in a thread, nothing is
believed, told or dialed; what happened meanwhile is caught up with.

Source: behaviour §12 to §16, §32.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.connection.dialer import Dialer
from dig_gossip.connection.endpoints import Routes
from dig_gossip.connection.peers import Peers
from dig_gossip.connection.session import Session
from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.anchor_file import AnchorFile
from dig_gossip.discovery.anchors import choose_anchors
from dig_gossip.discovery.as_table_file import AsTableFile
from dig_gossip.discovery.book_file import BookFile
from dig_gossip.discovery.dns_https import HttpsLookup
from dig_gossip.discovery.dns_lookup import Lookup, ResolverLookup, ServersLookup
from dig_gossip.discovery.dns_seeds import DnsSeeds
from dig_gossip.discovery.loop import DiscoveryLoop, Probe, listening_address
from dig_gossip.discovery.peer_exchange import EMPTY_LIST, Neighbor, PeerExchange
from dig_gossip.discovery.planner import Planner
from dig_gossip.discovery.sources import IPeerSource
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.effects import Effect, Send
from dig_gossip.errors import Io
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.ip import is_routable_ip, packed_ip
from dig_gossip.types.peer import NodeType, PeerAddress, PeerId, TransportKind
from dig_gossip.util.addresses import WILDCARDS
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import handled, returns_deferred
from dig_gossip.util.threads import in_thread
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType

_REFRESH_SECS = 600  # CNC-005
#: Entries that follow a new AS table in one tick: about 20 ms. A full book takes seven minutes.
_REGROUPED_AT_ONCE = 2000
_CLEANUP_SECS = 30 * 60
_CLEANUP_PEERS = 3
_SAVE_SECS = (15 * 60, 30 * 60)
_EARLY_TRIED = 8  # so many new acquaintances are worth a save of their own


class _Parts:
    """What exists once the book is there."""

    def __init__(
        self, book: AddressManager, exchange: PeerExchange, planner: Planner, loop: DiscoveryLoop
    ) -> None:
        self.book = book
        self.exchange = exchange
        self.planner = planner
        self.loop = loop


class Discovery:
    """Finds peers for one node.

    Bounds: those of its parts; one time a session.

    :param sources: asked in this order when the book has nothing to offer.
    :param perform: does what the exchange wants done.
    """

    _log = Logger()

    def __init__(
        self,
        config: GossipConfig,
        peers: Peers,
        dialer: Dialer,
        sources: Sequence[IPeerSource],
        probe: Probe,
        clock: Clock,
        rng: random.Random,
        perform: Callable[[Iterable[Effect]], object],
    ) -> None:
        self._config = config
        self._peers = peers
        self._dialer = dialer
        self._sources = sources
        self._probe = probe
        self._clock = clock
        self._rng = rng
        self._perform = perform
        self._is_open = config.discovery
        self._file = BookFile(
            (config.peers_file_path or "") if config.discovery else "",
            clock,
            rng,
            allow_private=config.allows_private_addresses,
            allow_onion=config.used_tor is not None,
            is_excluded=self.is_excluded,
        )
        self._as_table = AsTableFile(config.as_table_path or "", clock, peers.diversity)
        self._anchors = AnchorFile(config.anchor_file_path)
        self._parts: _Parts | None = None
        self._starting: Deferred[None] | None = None
        self._refreshed: dict[PeerId, float] = {}
        self._cleaned_at = clock.monotonic()
        self._save_at = clock.monotonic() + rng.uniform(*_SAVE_SECS)
        self._saved_tried = 0
        self._stopped = False

    # -- life

    def open(self) -> None:
        """Take possession of the files; before anything else starts.

        :raises Io: another node has the book, or a file may not be read.
        """
        self._as_table.check()
        self._file.open()

    def start(self) -> None:
        """Read the files, then begin to dial."""
        self._starting = Deferred.fromCoroutine(self._start())
        handled(self._starting.addErrback(self._start_failed))

    async def _start(self) -> None:
        await self._as_table.refresh()
        book = await self._file.load()
        book.follow_as_table(self._peers.diversity.as_lookup)
        await in_thread(self._clock.reactor, book.regroup)
        if not self._stopped:
            self._begin(book)

    def _begin(self, book: AddressManager) -> None:
        config, clock = self._config, self._clock
        exchange = PeerExchange(
            book,
            now=clock.monotonic,
            unix=clock.unix,
            rng=self._rng,
            own_address=self.own_address,
            own_onion=lambda: self._peers.onion,
            allow_private=config.allows_private_addresses,
            allow_onion=config.used_tor is not None,
        )
        planner = Planner(
            book,
            self._peers.diversity,
            self._dialer.backoff,
            target=config.target_outbound_count,
            bootstrap=config.bootstrap_peers,
            is_excluded=self.is_excluded,
            unix=clock.unix,
            rng=self._rng,
            use_book=config.discovery,
        )
        if self._is_open:
            planner.come_back_to(self._anchors.load())
        loop = DiscoveryLoop(
            planner,
            book,
            exchange,
            self._peers,
            self._dialer,
            self._sources,
            self._probe,
            clock,
            self._rng,
            interval=config.peer_connect_interval,
            is_searching=config.discovery and config.target_outbound_count > 0,
        )
        self._parts = _Parts(book, exchange, planner, loop)
        self._saved_tried = book.size_tried
        self._dialer.when_failed = loop.dial_failed
        for session in self._peers.table:
            self._perform(self.session_up(session))
        loop.start()

    def _start_failed(self, failure: Failure) -> None:
        if not (self._stopped and failure.check(CancelledError)):
            self._log.failure("discovery did not start", failure, event="discovery_start_failed")

    def stop(self) -> None:
        """Dial no more; remember the anchors, while there still are sessions."""
        self._stopped = True
        if self._starting is not None:
            self._starting.cancel()
        if self._parts is not None:
            self._parts.loop.stop()
            self._choose_anchors()

    @returns_deferred
    async def close(self) -> None:
        """Save the book, give the files back."""
        if self._parts is not None:
            await self._save()
        self._file.close()

    def abandon(self) -> None:
        """Give the files back unread: the node could not start."""
        self._file.close()

    @property
    def is_alive(self) -> bool:
        """Whether the loop runs, or will when the book is loaded."""
        if self._parts is not None:
            return self._parts.loop.is_alive
        return self._starting is not None and not self._starting.called

    @property
    def book(self) -> AddressManager:
        """The address book.

        :raises Io: it is not loaded yet.
        """
        if self._parts is None:
            raise Io("the address book is not loaded yet")
        return self._parts.book

    @property
    def known_addresses(self) -> int:
        """The size of the book."""
        return 0 if self._parts is None else self._parts.book.size()

    @property
    def counters(self) -> Counter[str]:
        """What happened, by name."""
        if self._parts is None:
            return Counter()
        parts = self._parts
        sizes = {"book_new": parts.book.size_new, "book_tried": parts.book.size_tried}
        return Counter({**parts.exchange.counters, **parts.loop.counters, **sizes})

    # -- what is ours, what is excluded

    def own_address(self) -> PeerAddress | None:
        """The address to advertise; None while there is none that others can dial.

        Source: behaviour PEX-007, TOR-101-X.
        """
        config = self._config
        if config.is_tor_only:
            return None
        address = config.external_addr or self._peers.mapped or self._peers.bound
        if address is None or address.host in WILDCARDS:
            return None
        packed = packed_ip(address.host)
        routable = packed is not None and is_routable_ip(packed)
        return address if routable or config.allows_private_addresses else None

    def own_address_changed(self) -> None:
        """Tell the neighbors at the next opportunity where we can be reached now."""
        if self._parts is not None:
            self._parts.exchange.advertise_again()

    def is_excluded(self, address: PeerAddress) -> bool:
        """Whether an address is our own or banned: neither dialed, kept nor told."""
        peers = self._peers
        if address in (
            self._config.external_addr,
            self._config.listen_addr,
            peers.bound,
            peers.onion,
            peers.mapped,
        ):
            return True
        if self._parts is not None and address in self._parts.loop.own_addresses:
            return True
        return self._peers.reputations.is_host_banned(address.host)

    # -- what the router tells

    def session_up(self, session: Session) -> list[Effect]:
        """A session begins. An outbound one proves its address.

        Source: behaviour CON-001.6, DSC-103-X.
        """
        where = listening_address(session)
        is_full_node = session.remote.node_type == NodeType.FULL_NODE
        if self._parts is None or not self._is_open:
            # Some listeners insist that this is the first message (wire §5.2).
            return [_ask(session)] if session.is_outbound else []
        if session.is_outbound and where is not None:
            book = self._parts.book
            book.add_to_new_table([KnownAddress(where, int(self._clock.unix()))], where)
            book.mark_good(where)
            book.connect(where)
        neighbor = Neighbor(
            peer_id=session.peer_id,
            address=session.address,
            is_outbound=session.is_outbound,
            is_full_node=is_full_node,
            listens_at=where,
            takes_onions=session.remote.has(Capability.DIG_ONION),
            is_anonymous=session.transport is TransportKind.TOR,
        )
        return self._parts.exchange.peer_up(neighbor)

    def session_down(self, session: Session) -> list[Effect]:
        """A session has ended; its slot is to be filled soon."""
        self._refreshed.pop(session.peer_id, None)
        if self._parts is not None:
            self._parts.exchange.peer_down(session.peer_id)
            if session.is_outbound:
                self._remember_score(session)
                self._parts.loop.session_lost(session)
        return []

    def peers_requested(self, peer_id: PeerId) -> bytes:
        """Make the body of the answer to a RequestPeers."""
        if self._parts is None or not self._is_open:
            return EMPTY_LIST
        return self._parts.exchange.requested(peer_id)

    def peers_asked(self, peer_id: PeerId) -> None:
        """The application asks a peer for its list."""
        if self._parts is not None and self._is_open:
            self._parts.exchange.asked(peer_id)

    def peers_received(self, peer_id: PeerId, body: bytes) -> list[Effect]:
        """Take a RespondPeers."""
        if self._parts is None or not self._is_open:
            return []
        size = self._parts.book.size()
        effects = self._parts.exchange.received(peer_id, body)
        if self._parts.book.size() > size:
            self._parts.loop.wake()
        return effects

    def relay_told(self, addresses: Iterable[PeerAddress], relay: PeerAddress) -> None:
        """Take addresses that a relay tells of, under the caps of a seed (behaviour PEX-005)."""
        self.seeded(f"relay {relay}", [KnownAddress(address, 0) for address in addresses])

    def seeded(self, source: str, found: Iterable[KnownAddress]) -> None:
        """Take addresses that somebody tells of who is no peer, under the caps of a seed.

        Source: behaviour DSC-004, PEX-005.
        """
        if self._parts is None or not self._is_open:
            return
        if self._parts.exchange.seeded(source, found):
            self._parts.loop.wake()

    # -- what is done from time to time

    def tick(self) -> None:
        """Let the exchange, and the book after a new AS table, do what is due; every
        ``EXCHANGE_TICK_SECS``."""
        if self._parts is not None:
            self._parts.book.regroup(_REGROUPED_AT_ONCE)
            self._perform(self._parts.exchange.tick())

    @returns_deferred
    async def keep(self) -> None:
        """Keep book, anchors and AS table up to date; every 30 s.

        Source: behaviour CNC-005, ADR-019, DSC-002.3.
        """
        await self._as_table.refresh()
        if self._parts is None:
            return
        book, now = self._parts.book, self._clock.monotonic()
        book.follow_as_table(self._peers.diversity.as_lookup)
        for session in self._peers.table:
            if session.is_outbound:
                self._refresh(session, now)
        if now - self._cleaned_at >= _CLEANUP_SECS:
            self._cleaned_at = now
            if len(self._peers.table) >= _CLEANUP_PEERS:
                book.cleanup()
        self._choose_anchors()
        if now >= self._save_at or book.size_tried - self._saved_tried >= _EARLY_TRIED:
            await self._save()

    async def _save(self) -> None:
        assert self._parts is not None
        book = self._parts.book
        self._saved_tried = book.size_tried
        self._save_at = self._clock.monotonic() + self._rng.uniform(*_SAVE_SECS)
        await self._file.save(book)

    def _refresh(self, session: Session, now: float) -> None:
        assert self._parts is not None
        heard = now - (self._clock.unix() - session.last_message_time)
        last = self._refreshed.get(session.peer_id, session.opened_at)
        if heard > last and now - last >= _REFRESH_SECS:
            self._refreshed[session.peer_id] = now
            self._parts.book.connect(session.address)
            self._remember_score(session)

    def _remember_score(self, session: Session) -> None:
        assert self._parts is not None
        rtts = session.keepalive
        reputation = self._peers.reputations.get(
            session.peer_id, rtt_history=rtts.rtt_history, avg_rtt_ms=rtts.avg_rtt_ms
        )
        self._parts.planner.score_known(session.address, reputation.score)

    def _choose_anchors(self) -> None:
        sessions = [
            (session.opened_at, session.address)
            for session in self._peers.table
            if session.is_outbound
            and session.transport is not TransportKind.RELAY
            and session.remote.node_type == NodeType.FULL_NODE
        ]
        self._anchors.save(choose_anchors(sessions, self._anchors.anchors))


def make_dns_sources(
    config: GossipConfig, clock: Clock, rng: random.Random, routes: Routes
) -> list[IPeerSource]:
    """The DNS names of the network as a source; none if there are none, or no way to ask."""
    sources: list[IPeerSource] = []
    lookup = make_lookup(config, clock, routes)
    names = config.network.dns_introducers
    if names and lookup is not None:
        sources.append(
            DnsSeeds(
                names,
                config.network.default_port,
                lookup,
                clock,
                rng,
                batch_size=config.dns_seed_batch_size,
                timeout=config.dns_seed_timeout,
            )
        )
    return sources


def make_lookup(config: GossipConfig, clock: Clock, routes: Routes) -> Lookup | None:
    """How DNS names are looked up; None if they must not be.

    Source: behaviour PRV-010.1: with ``prefer_tor`` nothing is resolved but through Tor.
    """
    if routes.is_tor_only:
        if not config.dns_over_https:
            return None
        from dig_gossip.discovery.routed_https import RoutedHttps

        return HttpsLookup(clock, config.dns_over_https, endpoints=RoutedHttps(routes))
    if config.resolver is not None:
        return ResolverLookup(config.resolver)
    if config.dns_over_https:
        return HttpsLookup(clock, config.dns_over_https)
    return ServersLookup(clock, config.dns_servers)


def _ask(session: Session) -> Send:
    return Send((session.peer_id,), Message(ChiaMessageType.REQUEST_PEERS, None, b""))
