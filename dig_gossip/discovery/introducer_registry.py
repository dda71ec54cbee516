"""What an introducer knows: which nodes there are, which of them answer, and who may hear of them.

Pure. A node enters under the address that it was seen to come from, never under one that it
claims: an introducer that repeats claims can be pointed at anybody. It is in answers only after a
probe has found a node there, and only while both the probe and the registration are recent::

    registered ──▶ new ──▶ probe ─success─▶ vetted ──▶ in answers
                    ▲        │                 │ after an hour
                    └────────┴─── turns ◀──────┘
                        7 failures in a row, or a day without a registration: forgotten

Divergence: behaviour ISV-104-X probes random nodes. Ours probes those whose last probe is the
longest ago, and gives new ones up to half of a round at least, so that nobody waits for luck.

Divergence: behaviour ISV-105-X tops short answers up from DNS names. Ours never does: what is not
vetted is not published, and whoever asks knows the same names.

Divergence: an onion address (ISV-102-X) is declined, because an introducer without Tor cannot vet
it, and what is not vetted is never published.

Source: behaviour §18, wire §9.
"""

from __future__ import annotations

import enum
import ipaddress
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from dig_gossip.discovery.token_buckets import TokenBuckets, source_key
from dig_gossip.types.introducer import IntroducerServerConfig, VettedPeer
from dig_gossip.types.peer import NodeType, PeerAddress, PeerId, canonical_host
from dig_gossip.wire.dig import RegisterPeer

#: A node whose last probe failed and that comes back is probed again, after this many seconds: its
#: port may have been opened meanwhile.
_RETRY_SECS: Final = 60
#: A node is forgotten after more than this many failures in a row.
_MAX_FAILURES: Final = 6
#: How many of the oldest records are looked at for one to give up when there is no room.
_EVICTION_LOOK: Final = 64
#: How many more records than wanted are looked at for an answer.
_SAMPLE_FACTOR: Final = 4


class Refusal(enum.Enum):
    """Why a node is not registered; the value is the name of a counter."""

    NODE_TYPE = "node_type"
    PORT = "port"
    ONION = "onion"
    PRIVATE = "private"
    RATE = "rate"
    PER_IP = "per_ip"
    FULL = "full"


@attrs.frozen(kw_only=True)
class RegistrySize:
    """How much is known: nodes, those that answered their last probe, those never probed."""

    nodes: int
    vetted: int
    new: int


class Registry:
    """The nodes an introducer knows.

    Bounds: ``max_nodes`` records, ``max_nodes_per_ip`` of one IPv4 address or IPv6 /64; when there
    is no room, a record that was not refreshed for long and is not vetted gives way, or the new
    one is declined. Rates per source are token buckets, bounded themselves.

    Cost: O(1) for each event, O(answer) for a query, O(batch) for a round.

    :param now: monotonic seconds, for rates.
    :param unix: Unix seconds, for everything that is kept.
    """

    def __init__(
        self,
        config: IntroducerServerConfig,
        *,
        now: Callable[[], float],
        unix: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._config = config
        self._unix = unix
        self._rng = rng
        self._connections = TokenBuckets(config.connections_per_minute, now=now)
        self._queries = TokenBuckets(config.queries_per_minute, now=now)
        self._registrations = TokenBuckets(config.registrations_per_minute, now=now)
        # In the order of their last registration.
        self._nodes: OrderedDict[PeerAddress, VettedPeer] = OrderedDict()
        self._per_source: Counter[str] = Counter()
        self._vetted = _Sample()
        # Never probed, in the order of arrival; and all others, in the order of their last probe.
        self._new: OrderedDict[PeerAddress, None] = OrderedDict()
        self._turns: OrderedDict[PeerAddress, None] = OrderedDict()
        self._probes_left = config.vetting_batch
        self.is_changed = False

    # -- who comes

    def may_connect(self, host: str) -> bool:
        """Whether a source may open another connection."""
        return self._connections.take(source_key(host))

    def greeted(self, host: str, node_type: int, port: int) -> None:
        """A dialer has introduced itself: a full node that listens is registered by that.

        Refreshing a record is free; a new one counts as a registration.
        Source: wire §9 (Chia's way).
        """
        if node_type != NodeType.FULL_NODE or not port:
            return
        address = PeerAddress(host, port)
        if address in self._nodes:
            self._refresh(address)
            return
        if self._registrations.take(source_key(host)):
            refusal = self._refuse(address)
        else:
            refusal = Refusal.RATE
        self._decided(address, refusal, "greeted")

    def register(self, host: str, body: RegisterPeer) -> bool:
        """A registration came in.

        :param host: where it came from, canonical.
        :returns: whether the node is registered now.
        Source: behaviour ISV-102-X.
        """
        refusal = self._refuse_claim(host, body)
        if refusal is not None:
            self.counters[f"registered.{refusal.value}"] += 1
            return False
        address = PeerAddress(_observed(body.ip, host), body.port)
        if address in self._nodes:
            self._refresh(address)
            self.counters["registered.refreshed"] += 1
            return True
        refusal = self._refuse(address)
        self._decided(address, refusal, "registered")
        return refusal is None

    def query(self, host: str, port: int, peer_id: PeerId | None) -> tuple[PeerAddress, ...] | None:
        """Somebody asks for nodes.

        :param port: where the requester says it listens; 0 for nowhere.
        :param peer_id: who it is; None without TLS.
        :returns: random vetted nodes, the requester not among them; None if it asks too often.
        Source: behaviour ISV-105-X, ISV-106-X.
        """
        if not self._queries.take(source_key(host)):
            self.counters["queried.rate"] += 1
            return None
        self.counters["queried"] += 1
        wanted = self._config.answer_nodes
        oldest = self._unix() - self._config.recent_secs
        chosen: list[PeerAddress] = []
        for address in self._vetted.draw(_SAMPLE_FACTOR * wanted, self._rng):
            node = self._nodes[address]
            is_requester = (port == address.port and host == address.host) or (
                peer_id is not None and node.peer_id == peer_id
            )
            if not is_requester and node.time_added >= oldest and self._is_vetted(node):
                chosen.append(address)
                if len(chosen) == wanted:
                    break
        return tuple(chosen)

    # -- vetting

    def begin_round(self) -> None:
        """A round of probes begins: forget who stayed away too long, allow another batch."""
        self._probes_left = self._config.vetting_batch
        horizon = self._unix() - self._config.expire_secs
        while self._nodes:
            address, node = next(iter(self._nodes.items()))
            if node.time_added >= horizon:
                break
            self._forget(address)
            self.counters["expired"] += 1

    def next_probe(self) -> PeerAddress | None:
        """Whom to probe next; None when the round is used up or nobody is due.

        Counts as an attempt right away, so that nobody is probed twice at a time.
        Source: behaviour ISV-104-X.
        """
        if not self._probes_left:
            return None
        address = None
        is_half_used = 2 * self._probes_left <= self._config.vetting_batch
        if self._new and not (is_half_used and self._is_somebody_due()):
            address = next(iter(self._new))
        elif self._is_somebody_due():
            address = next(iter(self._turns))
        if address is None:
            return None
        self._probes_left -= 1
        self._new.pop(address, None)
        self._turns[address] = None
        self._turns.move_to_end(address)
        node = attrs.evolve(self._nodes[address], last_attempt=self._unix())
        self._put(node if self._is_vetted(node) else attrs.evolve(node, vetted=min(node.vetted, 0)))
        return address

    def probe_succeeded(self, address: PeerAddress, peer_id: PeerId | None) -> None:
        """A probe has found a node of our network."""
        self.counters["probed.succeeded"] += 1
        node = self._nodes.get(address)
        if node is not None:
            self._put(node.succeeded(self._unix(), peer_id))

    def probe_failed(self, address: PeerAddress) -> None:
        """A probe has found nobody, or a stranger."""
        self.counters["probed.failed"] += 1
        node = self._nodes.get(address)
        if node is None:
            return
        node = node.failed(self._unix())
        if node.vetted < -_MAX_FAILURES:
            self._forget(address)
            self.counters["removed"] += 1
        else:
            self._put(node)

    # -- what is kept

    def records(self) -> tuple[VettedPeer, ...]:
        """Everything that is known, the longest not registered first."""
        return tuple(self._nodes.values())

    def restore(self, records: Iterable[VettedPeer]) -> int:
        """Take back what was kept; what breaks a bound or a rule is left out.

        :returns: how many records were taken.
        """
        taken = 0
        now = self._unix()
        for record in sorted(records, key=lambda record: record.time_added):
            address = record.address
            # A clock that was wrong once must not keep a node for years.
            record = attrs.evolve(record, time_added=min(record.time_added, now))
            if (
                address not in self._nodes
                and len(self._nodes) < self._config.max_nodes
                and self._refuse(address) is None
            ):
                self._insert(record)
                taken += 1
        for address in sorted(self._turns, key=lambda address: self._nodes[address].last_attempt):
            self._turns.move_to_end(address)
        self.is_changed = False
        return taken

    def size(self) -> RegistrySize:
        """How much is known."""
        return RegistrySize(nodes=len(self._nodes), vetted=len(self._vetted), new=len(self._new))

    # -- inside

    def _refuse_claim(self, host: str, body: RegisterPeer) -> Refusal | None:
        if not self._registrations.take(source_key(host)):
            return Refusal.RATE
        if body.node_type != NodeType.FULL_NODE:
            return Refusal.NODE_TYPE
        if not body.port:
            return Refusal.PORT
        if body.ip.lower().endswith(".onion"):
            return Refusal.ONION
        return None

    def _refuse(self, address: PeerAddress) -> Refusal | None:
        ip = address.ip
        if ip is None or ip.is_unspecified or ip.is_multicast:
            return Refusal.PRIVATE
        if not ip.is_global and not self._config.allows_private_addresses:
            return Refusal.PRIVATE
        if self._per_source[source_key(address.host)] >= self._config.max_nodes_per_ip:
            return Refusal.PER_IP
        if len(self._nodes) >= self._config.max_nodes and not self._make_room():
            return Refusal.FULL
        return None

    def _decided(self, address: PeerAddress, refusal: Refusal | None, how: str) -> None:
        self.counters[f"{how}.{'new' if refusal is None else refusal.value}"] += 1
        if refusal is None:
            self._insert(VettedPeer(address=address, time_added=self._unix()))

    def _insert(self, node: VettedPeer) -> None:
        address = node.address
        self._per_source[source_key(address.host)] += 1
        (self._turns if node.last_attempt else self._new)[address] = None
        self._put(node)

    def _put(self, node: VettedPeer) -> None:
        self._nodes[node.address] = node
        self.is_changed = True
        if node.vetted > 0:
            self._vetted.add(node.address)
        else:
            self._vetted.discard(node.address)

    def _refresh(self, address: PeerAddress) -> None:
        node = self._nodes[address]
        self._put(attrs.evolve(node, time_added=self._unix()))
        self._nodes.move_to_end(address)
        if node.vetted < 0 and self._unix() - node.last_attempt >= _RETRY_SECS:
            self._turns.pop(address, None)
            self._new[address] = None

    def _forget(self, address: PeerAddress) -> None:
        del self._nodes[address]
        self._new.pop(address, None)
        self._turns.pop(address, None)
        self._vetted.discard(address)
        self.is_changed = True
        source = source_key(address.host)
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]

    def _make_room(self) -> bool:
        for _, (address, node) in zip(range(_EVICTION_LOOK), self._nodes.items(), strict=False):
            if node.vetted <= 0:
                self._forget(address)
                self.counters["evicted"] += 1
                return True
        return False

    def _is_vetted(self, node: VettedPeer) -> bool:
        age = self._unix() - node.vetted_timestamp
        return node.vetted > 0 and age <= self._config.vetted_secs

    def _is_somebody_due(self) -> bool:
        address = next(iter(self._turns), None)
        if address is None:
            return False
        age = self._unix() - self._nodes[address].last_attempt
        # A clock that was set back must not stop the probes.
        return not 0 <= age < self._config.vetting_pause_secs


class _Sample:
    """A set that can be drawn from at random, in any number, without being copied."""

    def __init__(self) -> None:
        self._items: list[PeerAddress] = []
        self._index: dict[PeerAddress, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: PeerAddress) -> None:
        if item not in self._index:
            self._index[item] = len(self._items)
            self._items.append(item)

    def discard(self, item: PeerAddress) -> None:
        index = self._index.pop(item, None)
        if index is None:
            return
        last = self._items.pop()
        if last != item:
            self._items[index] = last
            self._index[last] = index

    def draw(self, count: int, rng: random.Random) -> list[PeerAddress]:
        """Distinct items in random order, at most ``count``."""
        return rng.sample(self._items, min(count, len(self._items)))


def _observed(claimed: str, source: str) -> str:
    """The host to publish: what was seen, unless the claim is another address of the same /64."""
    host = canonical_host(claimed)
    try:
        is_ipv6 = ipaddress.ip_address(host).version == 6
    except ValueError:
        return source
    return host if is_ipv6 and source_key(host) == source_key(source) else source
