"""What runs on a simulated node: events in, effects out.

Programs row of the stage table. The node's engines are wrapped, the counterparts are written to
this; nothing here knows the simulator. Peers are numbers: engines only compare and look them up,
and a number costs the simulator no look-up of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from random import Random
from typing import Final, Protocol, cast

import attrs

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.effects import Effect, TimerKey
from dig_gossip.gossip.plumtree import Plumtree
from dig_gossip.gossip.values import PeerMode
from dig_gossip.lab.scenario import Scenario
from dig_gossip.types.peer import PeerId
from dig_gossip.types.reputation import peer_score
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import PLUMTREE_CONTROL, DigMessageType

#: Opcode of every message that is spread; what the node gossips most.
PAYLOAD: Final = int(DigMessageType.NEW_ATTESTATION)

_GOLDEN: Final = (5**0.5 - 1) / 2
_LAZY_ANNOUNCE = int(DigMessageType.PLUMTREE_LAZY_ANNOUNCE)
_REQUEST_BY_HASH = int(DigMessageType.PLUMTREE_REQUEST_BY_HASH)

#: The kind of each opcode, see :data:`dig_gossip.lab.values.KINDS`.
DIG_KINDS: Final[Mapping[int, str]] = {
    PAYLOAD: "payload",
    _LAZY_ANNOUNCE: "announcements",
    int(DigMessageType.PLUMTREE_PRUNE): "prunes",
    int(DigMessageType.PLUMTREE_GRAFT): "grafts",
    _REQUEST_BY_HASH: "control",
    int(DigMessageType.TREE_OPEN): "control",
    int(DigMessageType.TREE_ANNOUNCE): "announcements",
    int(DigMessageType.TREE_PRUNE): "prunes",
    int(DigMessageType.TREE_GRAFT): "grafts",
}


def as_peer(node: int) -> PeerId:
    """A node's number in the place of its id."""
    return cast(PeerId, node)


class Machine(Protocol):
    """One node's protocol.

    Effects other than Send, Deliver, SetTimer and ClearTimer are ignored.
    """

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """A link begins; ``dialed`` by us; ``rtt`` in seconds, should we measure it."""

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """A link ends."""

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """A ping came back after ``rtt`` seconds."""

    def publish(self, message: Message) -> list[Effect]:
        """The application spreads a message."""

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """A frame arrives."""

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """A timer that was set is due."""

    def tree_links(self) -> int:
        """Along how many links a message goes on in full."""


@attrs.frozen(kw_only=True)
class Kind:
    """A protocol that can be simulated.

    :ivar build: makes the machine of one node, of (scenario, node, now, rng).
    :ivar kinds: what the frames of an opcode are counted as.
    :ivar pings: whether it makes use of measured round trips, and so pays for pings.
    :ivar unlimited: whether uplinks are unlimited for it.
    :ivar laned: whether sessions have the node's lanes, or one queue a node.
    :ivar manager: what keeps its address books, if it is about those; then ``build`` is not used.
    """

    build: Callable[[Scenario, int, Callable[[], float], Random], Machine]
    kinds: Mapping[int, str]
    pings: bool = False
    unlimited: bool = False
    laned: bool = False
    manager: type[AddressManager] | None = None


def _is_among(node: int, share: float) -> bool:
    """Whether a node is one of a share of all, evenly spread and the same in every run."""
    return node * _GOLDEN % 1.0 < share


@lru_cache(maxsize=4096)
def _digest(opcode: int, data: bytes) -> bytes:
    """Hash a message once for all nodes, which then share the hash as they share its bytes."""
    return message_hash(Message(opcode, None, data))


class PlumtreeMachine:
    """The node's own engine, as the router of the service drives it."""

    def __init__(
        self, scenario: Scenario, node: int, now: Callable[[], float], rng: Random
    ) -> None:
        self.engine = Plumtree(
            scenario.plumtree,
            fanout=scenario.settings.fanout,
            max_seen=100_000,
            now=now,
            rng=rng,
        )
        self._node = node
        self._treeless = scenario.overlay.treeless if scenario.plumtree.tagged_trees else 1.0
        self._payload = self.engine.received
        self._control = self.engine.control_received
        self.peer_down = self.engine.peer_down
        self.timer_fired = self.engine.timer_fired

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """Take a link into the tree; nothing has been measured on it."""
        node, other = self._node, cast(int, peer)
        if _is_among(node, self._treeless) or _is_among(other, self._treeless):
            return self.engine.peer_up(peer, PeerMode.TREE, 0.0)
        first = (node < other) == ((node + other) % 2 == 0)
        return self.engine.peer_up(peer, PeerMode.TREES, 0.0, speaks_first=first)

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Pass a round trip on, with the score that the node would give the peer."""
        return self.engine.rtt_updated(peer, rtt, peer_score(0, rtt * 1000))

    def publish(self, message: Message) -> list[Effect]:
        """Broadcast."""
        return self.engine.broadcast(message).effects

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Route a frame as the service's router does; there is no validator."""
        if message.type in PLUMTREE_CONTROL:
            return self._control(peer, message)
        return self._payload(peer, message, False, _digest(message.type, message.data))

    def tree_links(self) -> int:
        """Eager peers."""
        return len(self.engine.snapshot().eager)
