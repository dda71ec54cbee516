"""The address book: which peers exist, as far as anybody has told us, and which we have met.

Engines row of the stage table; pure.

Two tables. *New* holds what others say; *tried* holds peers with whom we completed a handshake.
Where an address may lie follows from a secret key, its own group, and, in the new table, the
group of whoever told us:

=================================  ================================================================
An attacker who wants to           meets
=================================  ================================================================
fill the new table                 64 of 1024 buckets for each group he speaks from; entries in
                                   good standing are not replaced, unless they lie in several slots
fill the tried table               8 of 256 buckets for each group he owns; only real handshakes
                                   count; the occupant is tested before it goes
choose whom he displaces           a key of 256 random bits
be drawn often, with many hosts    each network has the same chance, however many addresses it has
own many entries with one host     one entry per routable host, whatever the port
make us forget honest peers        a timestamp is only ever raised by gossip
look fresh for ever                times from the future count as five days old
read the book                      at most 23 % of it, 1000 entries, in one answer
block honest peers by a wrong      a host's own word replaces an entry that we never reached
port for their host
=================================  ================================================================

Invariants, checked after every step of a property test: an entry is in the tried table with one
slot or in the new table with 1 to 8; every used slot leads to an entry that names it; a routable
host has one entry.

Divergence: (a) A draw chooses a network first, all alike, and then one of its used slots (ADR-010
draws from all slots alike): whoever rents 5 000 addresses in 20 networks would be drawn more often
than 3 500 honest peers in 600. The price: peers in small networks are dialed, and tested, more
often than those in large ones. (b) When a collision ends in favor of the newcomer, it is moved
without claiming a success at that moment (ADR-016). (c) An entry that never succeeded gives way to
another port that the host itself, as the source, names (ADR-004-X): otherwise anybody who spreads
a wrong port keeps the right one out for a month. (d) Addresses that ``is_excluded`` names are not
taken in either.

Source: behaviour §12, wire §17.1, §17.2; Bitcoin Core ``src/addrman.cpp``; E. Heilman et al.,
"Eclipse Attacks on Bitcoin's Peer-to-Peer Network", 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from dig_gossip.discovery.diversity import AsLookup
from dig_gossip.discovery.networks import Networks, Node
from dig_gossip.discovery.slots import (
    KEY_BYTES,
    NEW_SLOTS,
    TRIED_SLOTS,
    Placement,
    RandomWords,
    SlotTable,
)
from dig_gossip.discovery.values import (
    DAY,
    HOUR,
    MAX_FAILURES,
    MAX_FUTURE_SECS,
    AddressBook,
    ExtendedPeerInfo,
    KnownAddress,
)
from dig_gossip.errors import AddressManagerStore
from dig_gossip.types.ip import is_onion, is_routable_ip, is_unicast_ip, packed_ip
from dig_gossip.types.peer import PeerAddress, group_and_key

NEW_BUCKETS_PER_ADDRESS: Final = 8
TRIED_COLLISION_SIZE: Final = 10
MAX_PEERS_PER_ANSWER: Final = 1000
ANSWER_SHARE: Final = 0.23
#: Draws for one answer: with most of the book terrible, an answer is short instead of slow.
MAX_ANSWER_DRAWS: Final = 5000
MAX_SELECTION_DRAWS: Final = 10_000
MAX_HOST_CHARS: Final = 62

_OLDEST_BELIEVABLE: Final = 100_000_000
_UNBELIEVABLE_AGE: Final = 5 * DAY
_ONLINE_REFRESH: Final = HOUR
_OFFLINE_REFRESH: Final = DAY
_CONNECTED_REFRESH: Final = 20 * 60
_REPLACEMENT: Final = 4 * HOUR
_TEST_SECS: Final = 60
_TEST_WINDOW: Final = 40 * 60
_STALE_AGE: Final = 14 * DAY
_LOW: Final = 2**32 - 1
_WORD: Final = 2.0**64
#: By what a selection chance grows with each draw; from a point on whatever may be dialed is taken.
_FACTORS: Final = tuple(1.2 ** min(draw, 1000) for draw in range(MAX_SELECTION_DRAWS))


class AddressManager:
    """The address book of one node.

    Bounded: 65 536 slots of new and 16 384 of tried entries, so at most 81 920 entries; 10 tried
    collisions; hosts of 62 characters.

    Cost: O(1) for one address, O(n) for :meth:`cleanup` and :meth:`snapshot`.

    :param rng: unpredictable to peers in production.
    :param unix: Unix seconds.
    :param key: 32 secret bytes; made when not given. Keep it: another key moves every entry.
    :param allow_private: whether addresses that are not globally routable are peers.
    :param allow_onion: whether version 3 onion addresses are (Tor is on).
    :param is_excluded: names our own addresses and banned ones: neither taken in nor given out.
    """

    def __init__(
        self,
        *,
        rng: Random,
        unix: Callable[[], float],
        key: bytes | None = None,
        allow_private: bool = False,
        allow_onion: bool = False,
        is_excluded: Callable[[PeerAddress], bool] | None = None,
    ) -> None:
        self._rng = rng
        self._words = RandomWords(rng)
        self._unix = unix
        self._placement = Placement(rng.randbytes(KEY_BYTES) if key is None else key)
        self._allow_private = allow_private
        self._allow_onion = allow_onion
        self._is_excluded = is_excluded
        self._nodes: dict[PeerAddress, Node] = {}
        self._hosts: dict[str, Node] = {}
        self._new: SlotTable[Node] = SlotTable(NEW_SLOTS)
        self._tried: SlotTable[Node] = SlotTable(TRIED_SLOTS)
        self._collisions: list[PeerAddress] = []
        self._last_good = 1
        self._networks = Networks()

    # --- what is there ------------------------------------------------------------------------

    def size(self) -> int:
        """How many addresses are known."""
        return len(self._nodes)

    @property
    def size_new(self) -> int:
        """How many of them only others have met."""
        return len(self._nodes) - len(self._tried)

    @property
    def size_tried(self) -> int:
        """How many of them we have met."""
        return len(self._tried)

    @property
    def collision_count(self) -> int:
        """How many addresses wait for an occupant to be tested, 0 to 10."""
        return len(self._collisions)

    def get(self, address: PeerAddress) -> ExtendedPeerInfo | None:
        """The entry of exactly this host and port."""
        node = self._nodes.get(address)
        return None if node is None else node.info

    # --- what others tell -----------------------------------------------------------------------

    def add_to_new_table(
        self, addresses: Iterable[KnownAddress], source: PeerAddress | str, penalty: float = 0.0
    ) -> int:
        """Note addresses that somebody told us.

        :param source: the peer that told us; or the name of a seed, an introducer or a relay,
            which has a group of its own.
        :param penalty: seconds by which the times are taken back, because the source has not
            been there itself; 0 is used for the source's own address.
        :returns: how many were not known before.
        Source: behaviour ADR-003 to ADR-007.
        """
        if isinstance(source, str):
            source = PeerAddress(source, 0)
        group = source.get_group()
        now = int(self._unix())
        taken_back = max(0, int(penalty))
        return sum(self._add(known, source, group, taken_back, now) for known in addresses)

    def _add(
        self, known: KnownAddress, source: PeerAddress, source_group: bytes, penalty: int, now: int
    ) -> bool:
        address, offered = known
        if not _OLDEST_BELIEVABLE <= offered <= now + MAX_FUTURE_SECS:
            offered = now - _UNBELIEVABLE_AGE
        if address == source:
            penalty = 0
        node = self._nodes.get(address)
        if node is not None:
            self._hear_again(node, offered, source_group, penalty, now)
            return False
        host = address.host
        if not address.port or len(host) > MAX_HOST_CHARS:
            return False
        packed = packed_ip(host)
        routable = packed is not None and is_routable_ip(packed)
        if not routable and not self._is_welcome(host, packed):
            return False
        if self._is_excluded is not None and self._is_excluded(address):
            return False
        rival = self._hosts.get(host)
        if rival is not None and not _gives_way(rival.info, source, now):
            return False
        group, key = group_and_key(address, packed)
        slot = self._placement.new_slot(group, key, source_group)
        occupant = self._new.get(slot)
        if occupant is not None and occupant is not rival:
            there = occupant.info
            if len(there.slots) == 1 and not there.is_terrible(now):
                return False
        if rival is not None:
            self._remove(rival)
        self._clear_new(slot)
        info = ExtendedPeerInfo(address, source, max(0, offered - penalty), slots=(slot,))
        node = Node(info, self._networks.of(address, group, packed))
        self._nodes[address] = node
        if packed is None or routable:
            self._hosts[host] = node
        self._new.put(slot, node, node.network)
        return True

    def _is_welcome(self, host: str, packed: bytes | None) -> bool:
        """Whether a host that is not a routable IP address counts as a peer's here."""
        if packed is None:
            return self._allow_onion and is_onion(host)
        return self._allow_private and is_unicast_ip(packed)

    def _hear_again(
        self, node: Node, offered: int, source_group: bytes, penalty: int, now: int
    ) -> None:
        """Raise the time of a known entry, and perhaps give it one more slot.

        Source: behaviour ADR-005.
        """
        info = node.info
        refresh = _ONLINE_REFRESH if now - offered < DAY else _OFFLINE_REFRESH
        if info.timestamp < offered - refresh - penalty:
            info = node.info = info._replace(timestamp=offered - penalty)
        if offered <= info.timestamp or info.is_tried:
            return
        count = len(info.slots)
        # Each further slot is twice as hard to get as the one before.
        if count == NEW_BUCKETS_PER_ADDRESS or self._words.next() & ((1 << count) - 1):
            return
        slot = self._new_slot(info.address, source_group)
        occupant = self._new.get(slot)
        if occupant is not None and (occupant is node or not occupant.info.is_terrible(now)):
            return
        self._clear_new(slot)
        self._new.put(slot, node, node.network)
        node.info = info._replace(slots=(*info.slots, slot))

    # --- what we find out ourselves -------------------------------------------------------------

    def mark_good(self, address: PeerAddress, test_before_evict: bool = True) -> None:
        """Note a completed handshake; the peer belongs in the tried table.

        If its place there is taken, and unless 10 others wait already, it waits until the
        occupant has been tested.

        :param test_before_evict: False takes the place at once.
        Source: behaviour ADR-012.
        """
        now = int(self._unix())
        self._last_good = now
        node = self._nodes.get(address)
        if node is None:
            return
        # The timestamp stays: it would show to whom we are connected.
        node.info = node.info._replace(last_success=now, last_try=now, num_attempts=0)
        if node.info.is_tried:
            return
        slot = self._tried_slot(address)
        if not test_before_evict or self._tried.get(slot) is None:
            self._make_tried(node, slot)
        elif address not in self._collisions and len(self._collisions) < TRIED_COLLISION_SIZE:
            self._collisions.append(address)

    def attempt(self, address: PeerAddress, count_failure: bool) -> None:
        """Note that we dialed a peer and did not reach it.

        :param count_failure: whether it is held against the peer; never more than once between
            two successes with anybody, so that an outage of our own condemns nobody.
        Source: behaviour ADR-014.
        """
        node = self._nodes.get(address)
        if node is None:
            return
        now = int(self._unix())
        info = node.info._replace(last_try=now)
        if count_failure and info.last_count_attempt < self._last_good:
            info = info._replace(last_count_attempt=now, num_attempts=info.num_attempts + 1)
        node.info = info

    def connect(self, address: PeerAddress) -> None:
        """Note that a session is alive; only every 20 minutes, so that times tell little.

        Source: behaviour ADR-015.
        """
        node = self._nodes.get(address)
        now = int(self._unix())
        if node is not None and now - node.info.timestamp > _CONNECTED_REFRESH:
            node.info = node.info._replace(timestamp=now)

    # --- choosing -------------------------------------------------------------------------------

    def select_peer(self, new_only: bool = False) -> ExtendedPeerInfo | None:
        """Draw an entry to dial.

        Both tables have the same chance, each network of a table too, and each slot of a network;
        entries that failed or were tried just now are passed over more often than not.

        :param new_only: for feelers.
        :returns: None if there is none that may be dialed.
        Cost: O(1) usually, 10 000 draws at most.
        Source: behaviour ADR-010.
        """
        next_word = self._words.next
        new, tried = self._new.networks, self._tried.networks
        if new and tried and not new_only:
            networks = new if next_word() & 1 else tried
        else:
            networks = new if new_only or new else tried
        if not networks:
            return None
        count = len(networks)
        is_excluded = self._is_excluded
        now: int | None = None
        last: ExtendedPeerInfo | None = None
        for factor in _FACTORS:
            word = next_word()  # half of it draws the network, half of it the slot
            lying = networks[(word & _LOW) * count >> 32].lying
            info = lying[(word >> 32) * len(lying) >> 32].info
            if is_excluded is not None and is_excluded(info.address):
                continue
            if not info.last_try:
                return info
            if now is None:
                now = int(self._unix())
            chance = factor * info.selection_chance(now)
            if chance >= 1.0 or next_word() < chance * _WORD:
                return info
            last = info
        return last

    def get_peers(self, maximum: int = MAX_PEERS_PER_ANSWER) -> list[KnownAddress]:
        """A random sample of entries in good standing, to tell a peer.

        :param maximum: 0 to 1000.
        :returns: at most 23 % of the book.
        Cost: O(n) to copy a list, then 5000 draws at most.
        Source: behaviour ADR-018.
        """
        nodes = list(self._nodes.values())
        wanted = min(maximum, MAX_PEERS_PER_ANSWER, math.ceil(ANSWER_SHARE * len(nodes)))
        now = int(self._unix())
        sample: list[KnownAddress] = []
        for count in range(min(len(nodes), MAX_ANSWER_DRAWS)):
            if len(sample) >= wanted:
                break
            rest = len(nodes) - count
            index = self._words.below(rest)
            info = nodes[index].info
            nodes[index] = nodes[rest - 1]
            if info.is_terrible(now):
                continue
            if self._is_excluded is None or not self._is_excluded(info.address):
                sample.append(KnownAddress(info.address, info.timestamp))
        return sample

    # --- collisions in the tried table ----------------------------------------------------------

    def resolve_tried_collisions(self) -> None:
        """Decide, for each address that waits, whether the occupant stays.

        Source: behaviour ADR-016.
        """
        now = int(self._unix())
        waiting = self._collisions
        self._collisions = []
        for address in waiting:
            node = self._nodes.get(address)
            if node is None or node.info.is_tried:
                continue
            slot = self._tried_slot(address)
            occupant = self._tried.get(slot)
            if occupant is None:
                self._make_tried(node, slot)
                continue
            old = occupant.info
            if now - old.last_success < _REPLACEMENT:
                continue
            if now - old.last_try < _REPLACEMENT:
                is_due = now - old.last_try > _TEST_SECS
            else:
                # Nobody came round to testing the occupant in all that time.
                is_due = now - node.info.last_success > _TEST_WINDOW
            if is_due:
                self._make_tried(node, slot)
            else:
                self._collisions.append(address)

    def select_tried_collision(self) -> ExtendedPeerInfo | None:
        """The occupant of a slot that somebody waits for: the entry to test.

        Source: behaviour ADR-017.
        """
        if not self._collisions:
            return None
        address = self._collisions[self._words.below(len(self._collisions))]
        occupant = self._tried.get(self._tried_slot(address))
        return None if occupant is None else occupant.info

    def cleanup(self) -> int:
        """Empty the slots of new entries that are two weeks old and failed ten times.

        :returns: how many entries went.
        Cost: O(n).
        Source: behaviour ADR-019.
        """
        oldest = int(self._unix()) - _STALE_AGE
        gone = [
            node
            for node in self._nodes.values()
            if node.info.num_attempts >= MAX_FAILURES
            and node.info.timestamp < oldest
            and not node.info.is_tried
        ]
        for node in gone:
            self._remove(node)
        return len(gone)

    # --- keeping --------------------------------------------------------------------------------

    def snapshot(self) -> AddressBook:
        """Everything, as a value that another thread may write to disk.

        Cost: O(n) pointers, a few milliseconds for a full book.
        Source: behaviour DSC-002.3.
        """
        return AddressBook(
            key=self._placement.key,
            last_good=self._last_good,
            entries=tuple([node.info for node in self._nodes.values()]),
            collisions=tuple(self._collisions),
        )

    @classmethod
    def restore(
        cls,
        book: AddressBook,
        *,
        rng: Random,
        unix: Callable[[], float],
        allow_private: bool = False,
        allow_onion: bool = False,
        is_excluded: Callable[[PeerAddress], bool] | None = None,
    ) -> AddressManager:
        """Make a manager that continues where a snapshot ends.

        Entries that may not be taken in any more (private addresses or onions, after a change
        of configuration) are left out. Nothing belongs to a thread: call it in one, a full book
        takes a second.

        :raises AddressManagerStore: the book breaks an invariant.
        Source: behaviour DSC-002.1, DSC-002.2.
        """
        if len(book.key) != KEY_BYTES:
            raise AddressManagerStore(f"a key has {KEY_BYTES} bytes, not {len(book.key)}")
        manager = cls(
            rng=rng,
            unix=unix,
            key=book.key,
            allow_private=allow_private,
            allow_onion=allow_onion,
            is_excluded=is_excluded,
        )
        manager._last_good = max(1, book.last_good)
        for info in book.entries:
            manager._restore_entry(info)
        kept = [a for a in dict.fromkeys(book.collisions) if a in manager._nodes]
        manager._collisions = kept[:TRIED_COLLISION_SIZE]
        return manager

    def _restore_entry(self, info: ExtendedPeerInfo) -> None:
        address = info.address
        packed = packed_ip(address.host)
        routable = packed is not None and is_routable_ip(packed)
        if not info.slots or not address.port:
            return
        if not routable and not self._is_welcome(address.host, packed):
            return
        if address in self._nodes or address.host in self._hosts:
            raise AddressManagerStore(f"{address} has two entries")
        if info.is_tried:
            table = self._tried
            if info.slots != (self._tried_slot(address),):
                raise AddressManagerStore(f"{address} is in the wrong tried slot")
        else:
            table = self._new
            if len(info.slots) > NEW_BUCKETS_PER_ADDRESS:
                raise AddressManagerStore(f"{address} has {len(info.slots)} slots")
        group, _ = group_and_key(address, packed)
        node = Node(info, self._networks.of(address, group, packed))
        for slot in info.slots:
            if not 0 <= slot < (TRIED_SLOTS if info.is_tried else NEW_SLOTS):
                raise AddressManagerStore(f"{address} is in slot {slot}, which does not exist")
            if table.get(slot) is not None:
                raise AddressManagerStore(f"slot {slot} has two entries")
            table.put(slot, node, node.network)
        self._nodes[address] = node
        if packed is None or routable:
            self._hosts[address.host] = node

    # --- networks -------------------------------------------------------------------------------

    def follow_as_table(self, lookup: AsLookup | None) -> None:
        """Take a network to be an autonomous system, where this tells it; otherwise a group.

        Holds for what is added from now on; :meth:`regroup` is for what is there already, O(n).

        :param lookup: None when there is no table.
        """
        self._networks.follow(lookup, self._nodes.values())

    def regroup(self, limit: int | None = None) -> None:
        """Have entries follow the AS table that is followed now.

        :param limit: look at so many at most, about ten microseconds each; None for all: in a
            thread, as with :meth:`restore`, if nobody else has the book yet.
        """
        for node, network in self._networks.moved(limit):
            if self._nodes.get(node.info.address) is node:
                node.network = network
                table = self._tried if node.info.is_tried else self._new
                for slot in node.info.slots:
                    table.clear(slot)
                    table.put(slot, node, network)

    # --- tables ---------------------------------------------------------------------------------

    def _new_slot(self, address: PeerAddress, source_group: bytes) -> int:
        group, key = group_and_key(address, packed_ip(address.host))
        return self._placement.new_slot(group, key, source_group)

    def _tried_slot(self, address: PeerAddress) -> int:
        return self._placement.tried_slot(*group_and_key(address, packed_ip(address.host)))

    def _clear_new(self, slot: int) -> None:
        """Empty a slot; an entry that lies nowhere any more is forgotten."""
        node = self._new.get(slot)
        if node is None:
            return
        slots = tuple(other for other in node.info.slots if other != slot)
        if slots:
            self._new.clear(slot)
            node.info = node.info._replace(slots=slots)
        else:
            self._remove(node)

    def _remove(self, node: Node) -> None:
        table = self._tried if node.info.is_tried else self._new
        for slot in node.info.slots:
            table.clear(slot)
        address = node.info.address
        del self._nodes[address]
        if address in self._collisions:
            self._collisions.remove(address)
        if self._hosts.get(address.host) is node:
            del self._hosts[address.host]

    def _make_tried(self, node: Node, slot: int) -> None:
        """Move an entry to its tried slot; who lies there goes back to the new table.

        Source: behaviour ADR-013.
        """
        for old_slot in node.info.slots:
            self._new.clear(old_slot)
        occupant = self._tried.get(slot)
        if occupant is not None:
            self._tried.clear(slot)
            old = occupant.info
            home = self._new_slot(old.address, old.source.get_group())
            self._clear_new(home)
            self._new.put(home, occupant, occupant.network)
            occupant.info = old._replace(is_tried=False, slots=(home,))
        self._tried.put(slot, node, node.network)
        node.info = node.info._replace(is_tried=True, slots=(slot,))


def _gives_way(info: ExtendedPeerInfo, source: PeerAddress, now: int) -> bool:
    """Whether an entry may be replaced by another port of its host."""
    if info.is_terrible(now):
        return True
    return info.last_success == 0 and source.host == info.address.host
