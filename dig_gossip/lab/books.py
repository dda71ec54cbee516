"""Finding peers: the node's own address manager, peer exchange, planner and evictor.

Programs row of the stage table. One machine drives them as the discovery loop of the node does, and
says whom it wants to dial (:class:`Call`); who answers is the experiment's business
(:mod:`dig_gossip.lab.book_run`). Nothing is gossiped here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Final, NamedTuple

import attrs

from dig_gossip.connection.backoff import DialBackoff
from dig_gossip.connection.eviction import Candidate, Evictor, Kept, network_group
from dig_gossip.constants import DEFAULT_PEER_CONNECT_INTERVAL_SECS, FEELER_INTERVAL_SECS
from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.anchors import choose_anchors
from dig_gossip.discovery.diversity import Diversity, Link
from dig_gossip.discovery.networks import Networks
from dig_gossip.discovery.peer_exchange import EXCHANGE_TICK_SECS, Neighbor, PeerExchange
from dig_gossip.discovery.planner import (
    COLLISION_TEST_INTERVAL_SECS,
    Dial,
    Planner,
    World,
)
from dig_gossip.discovery.seeding import SeedingSchedule, feeler_delay
from dig_gossip.discovery.values import AddressBook, KnownAddress
from dig_gossip.effects import Effect, Send, SetTimer, TimerKey
from dig_gossip.lab.scenario import Scenario
from dig_gossip.lab.shell import Shell, node_of, peer_id
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.types.reputation import peer_score
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.peers import build_peers

_REQUEST: Final = int(ChiaMessageType.REQUEST_PEERS)
_RESPOND: Final = int(ChiaMessageType.RESPOND_PEERS)
#: Addresses are announcements; that is all there is.
KINDS: Final = {_REQUEST: "control", _RESPOND: "announcements"}

START_UNIX: Final = 1_700_000_000
_ROUND: Final[TimerKey] = ("books.round", b"")
_TICK: Final[TimerKey] = ("books.tick", b"")
_FEELER: Final[TimerKey] = ("books.feeler", b"")
_SOON_SECS: Final = 1.0  # the least time between two rounds
_POISON_SECS: Final = 10.0  # as often as a peer looks at a list that it did not ask for
_POISON_ROWS: Final = 10  # and as many as it looks at
_ANSWER_ROWS: Final = 1000


class Call(NamedTuple):
    """What a machine wants besides effects: that somebody be dialed.

    :ivar is_probe: hang up as soon as it is known who is there.
    """

    address: PeerAddress
    is_probe: bool


class UniformNetworks(Networks):
    """All addresses are in one network: draws are uniform over the slots."""

    def of(self, address: PeerAddress, group: bytes, packed: bytes | None) -> bytes:
        return b""


class UniformAddressManager(AddressManager):
    """Draws as Chia and Core do: whoever has more addresses is drawn more often."""

    # Any: as the base class takes them
    def __init__(self, **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(**options)
        self._networks = UniformNetworks()


@attrs.frozen
class Saved:
    """What survives a restart."""

    book: AddressBook
    anchors: tuple[PeerAddress, ...]


@attrs.frozen
class _Session:
    address: PeerAddress
    is_outbound: bool
    opened_at: float
    score: float


class BookMachine(Shell):
    """One honest node that looks for peers.

    Divergence from the node: refreshing a book entry of a session that lasts is left out, and a
    peer's score is known at once.

    :param own: where it is.
    :param ask: an introducer: some living nodes.
    :param saved: of its life before.
    """

    def __init__(
        self,
        scenario: Scenario,
        manager: type[AddressManager],
        *,
        own: PeerAddress,
        ask: Callable[[], list[PeerAddress]],
        saved: Saved | None,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        super().__init__()
        self._now, self._rng, self._ask = now, rng, ask
        self._slots = scenario.addresses.inbound
        if saved is None:
            self.book = manager(rng=rng, unix=self._unix, is_excluded=own.__eq__)
        else:
            self.book = manager.restore(
                saved.book, rng=rng, unix=self._unix, is_excluded=own.__eq__
            )
        self.exchange = PeerExchange(
            self.book, now=now, unix=self._unix, rng=rng, own_address=lambda: own
        )
        target = scenario.overlay.links
        self._backoff = DialBackoff(now=now, rng=rng)
        self._planner = Planner(
            self.book,
            Diversity(target=target),
            self._backoff,
            target=target,
            bootstrap=(),
            is_excluded=own.__eq__,
            unix=self._unix,
            rng=rng,
        )
        self._seeding = SeedingSchedule(now=now, rng=rng)
        if saved is not None:
            self._planner.come_back_to(saved.anchors)
            self._seeding.postpone()
        self._anchors = saved.anchors if saved is not None else ()
        self._evictor = Evictor(secret=rng.randbytes(16), now=now)
        self._sessions: dict[PeerId, _Session] = {}
        self._met: dict[PeerId, PeerAddress] = {}
        self._dialing: dict[PeerAddress, None] = {}
        self._probing: PeerAddress | None = None
        self._tested_at = now() - COLLISION_TEST_INTERVAL_SECS
        self._is_exhausted = False
        self._counters: Counter[str] = Counter()

    def _unix(self) -> float:
        return START_UNIX + self._now()

    def start(self) -> list[Effect]:
        """Begin to look for peers."""
        return [
            SetTimer(_ROUND, self._rng.random()),
            SetTimer(_TICK, EXCHANGE_TICK_SECS * self._rng.random()),
            SetTimer(_FEELER, feeler_delay(self._rng, FEELER_INTERVAL_SECS)),
        ]

    def save(self) -> Saved:
        """What a node writes down when it stops."""
        sessions = [(s.opened_at, s.address) for s in self._sessions.values() if s.is_outbound]
        return Saved(self.book.snapshot(), choose_anchors(sessions, self._anchors))

    # --- sessions ---------------------------------------------------------------------------

    def expect(self, peer: PeerId, address: PeerAddress) -> None:
        """Say where the peer of the next link is."""
        self._met[peer_id(peer)] = address

    def make_room(self, address: PeerAddress) -> PeerId | bool:
        """Decide about somebody who dialed us.

        :returns: whether there is a slot; or who has to leave for it.
        """
        inbound = {peer: s for peer, s in self._sessions.items() if not s.is_outbound}
        if len(inbound) < self._slots:
            return True
        candidates = [
            Candidate(
                key=peer,
                group=network_group(session.address.host),
                opened_at=session.opened_at,
                score=session.score,
            )
            for peer, session in inbound.items()
        ]
        chosen = self._evictor.choose(candidates, network_group(address.host))
        if isinstance(chosen, Kept):
            self._counters[f"eviction_{chosen.value}"] += 1
            return False
        self._counters["evicted"] += 1
        return node_of(chosen)

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A session begins."""
        name = peer_id(peer)
        address = self._met.pop(name)
        score = peer_score(0, rtt * 1000)
        self._sessions[name] = _Session(address, dialed, self._now(), score)
        if dialed:
            self._dialing.pop(address, None)
            self._backoff.succeeded(address)
            self.book.add_to_new_table([KnownAddress(address, int(self._unix()))], address)
            self.book.mark_good(address)
            self.book.connect(address)
            self._planner.score_known(address, score)
        neighbor = Neighbor(
            peer_id=name,
            address=address,
            is_outbound=dialed,
            is_full_node=True,
            listens_at=address,
        )
        return [*self.done(self.exchange.peer_up(neighbor)), self._wake()]

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A session ends; its slot is filled soon."""
        name = peer_id(peer)
        self._sessions.pop(name, None)
        self.exchange.peer_down(name)
        return [self._wake()]

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Nothing depends on it."""
        return []

    def called(self, call: Call, *, was_there: bool, is_ours: bool = False) -> list[Effect]:
        """What became of a call that led to no session.

        :param was_there: somebody answered.
        :param is_ours: it is no fault of the address: there is a session with it already.
        """
        if call.is_probe:
            self._probing = None
        else:
            self._dialing.pop(call.address, None)
        if was_there and call.is_probe:
            self._backoff.succeeded(call.address)
            self.book.mark_good(call.address)
            self.book.resolve_tried_collisions()
            self._counters["found"] += 1
        else:
            self.book.attempt(call.address, count_failure=not is_ours)
            self._backoff.failed(call.address, retryable=True)
        return [self._wake()]

    # --- events -----------------------------------------------------------------------------

    def publish(self, message: Message) -> list[Effect]:
        """Nothing is spread here."""
        return []

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Answer, or believe within limits."""
        name = peer_id(peer)
        if message.type == _REQUEST:
            return [Send((peer,), Message(_RESPOND, None, self.exchange.requested(name)))]
        return self.done(self.exchange.received(name, message.data))

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Do what is due, as the discovery loop does."""
        if key == _TICK:
            return [*self.done(self.exchange.tick()), SetTimer(_TICK, EXCHANGE_TICK_SECS)]
        if key == _FEELER:
            later = SetTimer(_FEELER, feeler_delay(self._rng, FEELER_INTERVAL_SECS))
            return [*self._feel(), later]
        return [*self._look_around(), SetTimer(_ROUND, DEFAULT_PEER_CONNECT_INTERVAL_SECS)]

    def _wake(self) -> Effect:
        return SetTimer(_ROUND, _SOON_SECS)

    def _world(self) -> World:
        occupied = {session.address for session in self._sessions.values()}
        if self._probing is not None:
            occupied.add(self._probing)
        outbound = [s.address for s in self._sessions.values() if s.is_outbound]
        return World(
            outbound=tuple(map(Link, outbound)),
            dialing=frozenset(self._dialing),
            occupied=frozenset(occupied),
        )

    def _look_around(self) -> list[Effect]:
        self.book.resolve_tried_collisions()
        world = self._world()
        plan = self._planner.plan(world)
        self._is_exhausted = plan.is_exhausted
        self._dialing |= dict.fromkeys(dial.address for dial in plan.dials)
        effects = [self._call(dial, is_probe=False) for dial in plan.dials]
        if plan.is_exhausted and not self._dialing and self._seeding.due_in <= 0:
            self._seed()
        return effects + self._test_an_occupant(world)

    def _seed(self) -> None:
        unix = int(self._unix())
        found = [KnownAddress(address, unix) for address in self._ask()]
        self._counters["seeded"] += 1
        if self.exchange.seeded("introducer", found):
            self._seeding.succeeded()
        else:
            self._seeding.failed()

    def _feel(self) -> list[Effect]:
        world = self._world()
        if self._probing is not None or self._is_short(world):
            return []
        tested = self._test_an_occupant(world)
        dial = None if tested else self._planner.feeler(world)
        if dial is None:
            return tested
        self._probing = dial.address
        return [self._call(dial, is_probe=True)]

    def _is_short(self, world: World) -> bool:
        return self._planner.missing(world) > 0 and not self._is_exhausted

    def _test_an_occupant(self, world: World) -> list[Effect]:
        since = self._now() - self._tested_at
        busy = self._probing is not None or self._is_short(world)
        if since < COLLISION_TEST_INTERVAL_SECS or busy:
            return []
        dial = self._planner.collision_test(world)
        if dial is None:
            return []
        self._tested_at = self._now()
        self._probing = dial.address
        return [self._call(dial, is_probe=True)]

    def _call(self, dial: Dial, *, is_probe: bool) -> Effect:
        self._counters[f"dials_{dial.purpose.value}"] += 1
        return Call(dial.address, is_probe)  # type: ignore[return-value]

    # --- for figures ------------------------------------------------------------------------

    def outbound(self) -> list[PeerAddress]:
        """Whom it has dialed."""
        return [s.address for s in self._sessions.values() if s.is_outbound]

    def tree_links(self) -> int:
        """Outbound sessions."""
        return len(self.outbound())

    def counters(self) -> dict[str, float]:
        """What the engines count."""
        return {**self.exchange.counters, **self._counters, **self.charged()}


class EclipseMachine(Shell):
    """One node of an attacker's: it takes everybody in, and tells of nobody but its own kind.

    It dials honest nodes to sit in their inbound slots, and tells each peer of as many addresses of
    the attacker's as that will look at.

    :param kind: all addresses of the attacker's.
    :param victims: all honest addresses.
    :param dials: sessions that it keeps to them.
    """

    def __init__(
        self,
        *,
        kind: Iterable[PeerAddress],
        victims: Iterable[PeerAddress],
        dials: int,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        super().__init__()
        self._kind, self._victims, self._dials = list(kind), list(victims), dials
        self._now, self._rng = now, rng
        self._peers: dict[PeerId, bool] = {}
        self._is_active = False

    def start(self) -> list[Effect]:
        """Begin the attack."""
        self._is_active = True
        return [SetTimer(_ROUND, _POISON_SECS * self._rng.random())]

    def expect(self, peer: PeerId, address: PeerAddress) -> None:
        """It does not matter where a peer is."""

    def make_room(self, address: PeerAddress) -> PeerId | bool:
        """Everybody is welcome, once the attack has begun."""
        return self._is_active

    def called(self, call: Call, *, was_there: bool, is_ours: bool = False) -> list[Effect]:
        """There are others."""
        return []

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A session begins."""
        self._peers[peer] = dialed
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A session ends."""
        self._peers.pop(peer, None)
        return []

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Nothing depends on it."""
        return []

    def publish(self, message: Message) -> list[Effect]:
        """Nothing is spread here."""
        return []

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Answer with the attacker's own."""
        if message.type != _REQUEST:
            return []
        return [Send((peer,), self._list(min(_ANSWER_ROWS, len(self._kind))))]

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """Tell everybody of some more, and dial who is missing."""
        effects: list[Effect] = [
            Send((peer,), self._list(min(_POISON_ROWS, len(self._kind)))) for peer in self._peers
        ]
        missing = self._dials - sum(self._peers.values())
        for address in self._rng.sample(self._victims, max(0, min(missing, len(self._victims)))):
            effects.append(Call(address, is_probe=False))  # type: ignore[arg-type]
        return [*effects, SetTimer(_ROUND, _POISON_SECS)]

    def _list(self, count: int) -> Message:
        unix = int(START_UNIX + self._now())
        rows = [(a.host, a.port, unix) for a in self._rng.sample(self._kind, count)]
        return Message(_RESPOND, None, build_peers(rows))

    def tree_links(self) -> int:
        """Of no interest."""
        return 0
