"""The engines of one node: which there are, what all of them are told, whose a timer is.

Plumtree is always there; the others are made when they are configured, and told of those sessions
only that share their capability. Nothing here performs an effect. Source: wire §5.4; design D5.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, TypeAlias

import attrs

from dig_gossip.connection.session import Session
from dig_gossip.constants import ERLAY_RECONCILE
from dig_gossip.effects import Effect, TimerKey
from dig_gossip.errors import InvalidConfig
from dig_gossip.gossip.compact import CompactBlocks
from dig_gossip.gossip.compact_provider import ICompactBlockProvider
from dig_gossip.gossip.erlay import ROUND, Erlay
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import PeerMode
from dig_gossip.privacy.dandelion import Dandelion
from dig_gossip.service.guarded_provider import GuardedProvider
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import PeerId, TransportKind
from dig_gossip.util.clock import Clock
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType

#: What an engine is to be told; calling it gives the effects.
Event: TypeAlias = Callable[[], Iterable[Effect]]


class Timed(Protocol):
    """An engine that sets timers."""

    def timer_fired(self, key: TimerKey) -> Iterable[Effect]: ...


class Answered(Protocol):
    """An engine that asks peers."""

    def answered(self, peer: PeerId, key: TimerKey, answer: Message | None) -> Iterable[Effect]: ...


def mode_of(session: Session) -> PeerMode:
    """How a session takes part in gossip (design D5)."""
    if not session.tolerates_dig:
        return PeerMode.CHIA
    if not session.speaks_plumtree:
        return PeerMode.FLOOD
    return PeerMode.TREES if session.shares(Capability.DIG_TREES) else PeerMode.TREE


def speaks_first(session: Session) -> bool:
    """Which end of a link announces first: both find the same one, each in half of the cases."""
    own, peer = session.own_id, session.peer_id
    return (own < peer) is ((own[0] ^ peer[0]) & 1 == 0)


class Engines:
    """Plumtree, and those of ERLAY, Dandelion++ and compact blocks that are configured.

    :ivar timed: the engine of each name of a timer.
    :ivar asked: the engine of each name of a request.
    """

    def __init__(self, config: GossipConfig, clock: Clock, rng: random.Random) -> None:
        self.plumtree = Plumtree(
            config.plumtree,
            fanout=config.gossip_fanout,
            max_seen=config.max_seen_messages,
            now=clock.monotonic,
            rng=rng,
        )
        self.timed: dict[str, Timed] = dict.fromkeys(self.plumtree.names, self.plumtree)
        self.asked: dict[str, Answered] = {}
        self.erlay: Erlay | None = None
        if config.erlay is not None:
            self.erlay = Erlay(config.erlay, carrier=self.plumtree, now=clock.monotonic, rng=rng)
            self.timed.update(dict.fromkeys(self.erlay.names, self.erlay))
            self.asked.update(dict.fromkeys(self.erlay.names, self.erlay))
        self.dandelion: Dandelion | None = None
        if config.dandelion is not None and config.dandelion.enabled:
            self.dandelion = Dandelion(config.dandelion, now=clock.monotonic, rng=rng)
            self.timed.update(dict.fromkeys(self.dandelion.names, self.dandelion))
        self.compact: CompactBlocks | None = None
        self._config = config
        self._clock = clock
        #: whether transactions go past Plumtree
        self._reconciles = config.erlay is not None and config.erlay.policy == ERLAY_RECONCILE

    def add_compact(self, provider: ICompactBlockProvider) -> CompactBlocks:
        """Make the engine of compact blocks.

        :raises InvalidConfig: it is no provider, or there is one already.
        """
        if self.compact is not None:
            raise InvalidConfig("provider: there is one already")
        self.compact = CompactBlocks(
            self._config.compact_blocks, GuardedProvider(provider), now=self._clock.monotonic
        )
        self.timed.update(dict.fromkeys(self.compact.names, self.compact))
        self.asked.update(dict.fromkeys(self.compact.names, self.compact))
        return self.compact

    @property
    def of_transactions(self) -> Plumtree | Erlay:
        """The engine that spreads announcements of transactions.  INT-001"""
        return self.plumtree if self.erlay is None else self.erlay

    # -- what happens to sessions

    def peer_up(self, session: Session, score: float) -> list[Event]:
        """A session begins, or turns out to be able to do more."""
        peer, mode = session.peer_id, mode_of(session)
        first = speaks_first(session)
        events: list[Event] = [
            partial(self.plumtree.peer_up, peer, mode, score, speaks_first=first)
        ]
        if self.erlay is not None:
            has_erlay, dialed = session.shares(Capability.DIG_ERLAY), session.is_outbound
            events.append(
                partial(self.erlay.peer_up, peer, mode, has_erlay=has_erlay, is_outbound=dialed)
            )
        if self.compact is not None and session.shares(Capability.DIG_COMPACT):
            events.append(partial(self.compact.peer_up, peer))
        if (
            self.dandelion is not None
            and session.is_outbound  # whoever dials us cannot make itself our relay
            and session.transport is TransportKind.DIRECT
            and session.shares(Capability.DIG_STEM)
        ):
            events.append(partial(self.dandelion.peer_up, peer))
        return events

    def peer_down(self, peer: PeerId) -> list[Event]:
        """A session has ended."""
        engines = (self.plumtree, self.erlay, self.compact, self.dandelion)
        return [partial(engine.peer_down, peer) for engine in engines if engine is not None]

    def reconcile(self, sessions: Iterable[Session]) -> list[Event]:
        """Make the engines' peers those of the table, should they ever differ.  PLT-107-X"""
        by_peer = {session.peer_id: session for session in sessions}
        ends = {
            peer: (mode_of(session), speaks_first(session)) for peer, session in by_peer.items()
        }
        events: list[Event] = [partial(self.plumtree.reconcile, ends)]
        if self.erlay is not None:
            facts = {
                peer: (mode_of(session), session.shares(Capability.DIG_ERLAY), session.is_outbound)
                for peer, session in by_peer.items()
            }
            events.append(partial(self.erlay.reconcile_peers, facts))
        return events

    def visited(self, nobody: PeerId, message: Message, asks: bool) -> list[Event]:
        """A message came from no session: like that of a plain Chia session, for a moment."""
        if self._reconciles and message.type == ChiaMessageType.NEW_TRANSACTION:
            engine = self.of_transactions
            assert isinstance(engine, Erlay)
            up = partial(engine.peer_up, nobody, PeerMode.CHIA, has_erlay=False, is_outbound=False)
            return [
                up,
                partial(engine.received, nobody, message, asks),
                partial(engine.peer_down, nobody),
            ]
        return [
            partial(self.plumtree.peer_up, nobody, PeerMode.CHIA),
            partial(self.plumtree.received, nobody, message, asks),
            partial(self.plumtree.peer_down, nobody),
        ]

    # -- what happens to transactions

    def transaction_passes(self, peer: PeerId | None, message: Message) -> None:
        """Note an announcement that ERLAY carries: Plumtree must not fetch it once more."""
        if self._reconciles:
            self.plumtree.carried_elsewhere(peer, message)

    def weigh(self, session: Session | None) -> None:
        """Hold no rounds with a peer whose queue is so long that bulk is dropped.  ERL-004"""
        levels = self._config.backpressure
        if self.erlay is None or levels is None or session is None:
            return
        if session.queued_messages >= levels.bulk_drop_threshold:
            self.erlay.pause(session.peer_id)
        else:
            self.erlay.resume(session.peer_id)

    def begins_round(self, key: TimerKey) -> PeerId | None:
        """The peer with which a timer begins a round, if it does."""
        return PeerId(key[1]) if self.erlay is not None and key[0] == ROUND else None

    def counted(self) -> dict[str, int]:
        """What all engines have counted, by name."""
        engines = (self.plumtree, self.erlay, self.dandelion, self.compact)
        counted: dict[str, int] = {}
        for engine in engines:
            if engine is not None:
                counted.update(attrs.asdict(engine.counters))
        return counted
