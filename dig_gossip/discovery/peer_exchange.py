"""What nodes tell each other about others: RequestPeers, RespondPeers, and who believes what.

Pure. One tick every ``EXCHANGE_TICK_SECS`` does what is due; nothing else has a time of its own.

::

    they dialed and ask ──▶ requested() ──▶ a sample of the book, once; later an empty list
    we dialed           ──▶ peer_up()   ──▶ RequestPeers, our own address
    a list comes        ──▶ received()  ──▶ caps ─▶ book
                                               └──▶ few and fresh: outboxes of two neighbors
    a seed's answer     ──▶ seeded()    ──▶ the same caps ─▶ book
    the clock           ──▶ tick()      ──▶ outboxes are sent

Source: behaviour §14; Bitcoin Core's ``net_processing.cpp`` for the token bucket, the relay's
choice and the trickle.
"""

from __future__ import annotations

import hashlib
import ipaddress
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from dig_gossip.constants import (
    ADDRESS_RELAY_FRESH_SECS,
    ADDRESS_THIRD_PARTY_PENALTY_SECS,
    MAX_PEERS_RECEIVED_PER_REQUEST,
    MAX_TOTAL_PEERS_RECEIVED,
)
from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.effects import Effect, Penalize, Send
from dig_gossip.errors import ClientError
from dig_gossip.types.ip import is_onion, is_routable_ip, is_unicast_ip, packed_ip
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from dig_gossip.wire.peers import build_peers, parse_peers

EXCHANGE_TICK_SECS: Final = 10.0
_DAY: Final = 86_400
_ASK_AGAIN_SECS: Final = 600
_ASK_AGAIN_BELOW: Final = 1000  # entries in the book
_ANSWER_LIMIT_SECS: Final = 120  # an answer that takes longer is one that nobody asked for
_TOKENS_PER_SEC: Final = 0.1
_MAX_TOKENS: Final = 1000.0
_MAX_UNSOLICITED_ROWS: Final = 10
_UNSOLICITED_INTERVAL_SECS: Final = 10 - 1  # a clock that is a little fast is no flood
_MAX_KNOWN: Final = 5000
_MAX_OUTBOX: Final = 100
_MAX_SOURCES: Final = 10_000
_MAX_ANSWERS: Final = 1000
_MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_MAX_HOST_CHARS: Final = 62
_MAX_IP_CHARS: Final = 45
EMPTY_LIST: Final = build_peers(())


@attrs.frozen(kw_only=True)
class Neighbor:
    """What the exchange needs to know about a session.

    :ivar address: what was dialed, or where the connection came from.
    :ivar listens_at: where others may dial the peer: the address with the port that it advertises;
        None if it advertises none or is no full node.
    :ivar takes_onions: whether it wants to hear of onion services: only peers that say so do.
    :ivar is_anonymous: whether the session goes through Tor.
    """

    peer_id: PeerId
    address: PeerAddress
    is_outbound: bool
    is_full_node: bool
    listens_at: PeerAddress | None
    takes_onions: bool = False
    is_anonymous: bool = False


@attrs.define(eq=False)
class _State:
    neighbor: Neighbor
    tokens: float
    tokens_at: float
    known_since: float
    asked_at: float | None = None
    is_answer_due: bool = False
    has_answered: bool = False
    unsolicited_at: float | None = None
    advertised_at: float | None = None
    known: set[bytes] = attrs.field(factory=set)
    outbox: dict[PeerAddress, int] = attrs.field(factory=dict)


class PeerExchange:
    """Answers, asks, believes within limits, and passes on.

    What a peer may put into the book:

    * rows come out of a bucket of tokens, one for each 10 s and 1000 for each list we ask for;
    * an answer counts up to its 1000th row, an unasked list up to 10 rows, one for each 10 s;
    * one host (an IPv6 /64) gets 3000 rows in 24 hours, whatever sessions it makes; so does a
      seed.

    What a node tells: whoever dialed it gets one sample of the book a session, the same for its
    host for a day; whoever it dialed gets none. A fresh address goes to two neighbors, a new
    inbound peer's own to one; which ones is fixed for a day, so that repeating an address
    does not spread it further. Addresses wait for the next tick: nobody can tell from the time of
    a list what was heard when.

    Divergence: behaviour PEX-006 relays an address only if it came alone. Addresses that wait
    travel together, so each of a list of up to ten is relayed, as in Bitcoin Core.

    Bounds: a state a session, with 5000 known addresses (forgotten after a day, or when full) and
    100 waiting ones; 10 000 sources, the least recent goes first; 1000 cached answers of 8 MiB
    together, the oldest goes first. Cost: O(rows) a list, O(sessions) an address that is relayed.

    Onion services are told only to peers that take them. Over a session through Tor the node does
    not say where it is outside of it. All that comes through our onion service has one host, and
    so shares one budget and one answer a day.

    :param own_address: the address to advertise now; None if there is none that others can dial.
    :param own_onion: the same for an onion service.
    :ivar counters: what happened, by name.
    """

    def __init__(
        self,
        book: AddressManager,
        *,
        now: Callable[[], float],
        unix: Callable[[], float],
        rng: random.Random,
        own_address: Callable[[], PeerAddress | None],
        own_onion: Callable[[], PeerAddress | None] = lambda: None,
        allow_private: bool = False,
        allow_onion: bool = False,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._book = book
        self._now = now
        self._unix = unix
        self._rng = rng
        self._own_address = own_address
        self._own_onion = own_onion
        self._allow_private = allow_private
        self._allow_onion = allow_onion
        self._secret = rng.randbytes(16)
        self._states: dict[PeerId, _State] = {}
        self._sources: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._answers: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._answer_bytes = 0

    # -- sessions

    def peer_up(self, neighbor: Neighbor) -> list[Effect]:
        """A session begins. An inbound peer's own address is remembered and passed on.

        Source: behaviour CON-002.6, PEX-001, PEX-006, PEX-007.
        """
        now = self._now()
        state = _State(neighbor, 1.0, now, now)
        self._states[neighbor.peer_id] = state
        if not neighbor.is_outbound:
            where = neighbor.listens_at
            if where is not None and self._is_acceptable(where):
                stamp = int(self._unix())
                self._book.add_to_new_table([KnownAddress(where, stamp)], where, 0)
                self._know(state, where)
                outbound = [s for s in self._states.values() if s.neighbor.is_outbound]
                self._relay(where, stamp, outbound, 1)
            return []
        if not neighbor.is_full_node:
            return []
        self._know(state, neighbor.address)
        self._advertise(state)
        return [self._ask(state)]

    def peer_down(self, peer_id: PeerId) -> None:
        """A session has ended."""
        self._states.pop(peer_id, None)

    def tick(self) -> list[Effect]:
        """Send what waits, ask again where that is due; every ``EXCHANGE_TICK_SECS``."""
        now = self._now()
        effects: list[Effect] = []
        for state in self._states.values():
            if now - state.known_since >= _DAY:
                state.known.clear()
                state.known_since = now
            if state.neighbor.is_outbound and state.neighbor.is_full_node:
                if state.advertised_at is None or now - state.advertised_at >= _DAY:
                    self._advertise(state)
                if self._is_asking_due(state):
                    effects.append(self._ask(state))
            if state.outbox:
                effects.append(self._flush(state))
        return effects

    # -- what we tell

    def requested(self, peer_id: PeerId) -> bytes:
        """Make the answer to a RequestPeers: there always is one.

        :returns: the body of a RespondPeers.
        Source: behaviour PEX-002, CON-004.2.
        """
        state = self._states.get(peer_id)
        if state is None or state.neighbor.is_outbound or state.has_answered:
            self.counters["exchange_answered_empty"] += 1
            return EMPTY_LIST
        state.has_answered = True
        self.counters["exchange_answered"] += 1
        takes_onions = state.neighbor.takes_onions
        host = source_key(state.neighbor.address) + (" and onions" if takes_onions else "")
        cached = self._answers.get(host)
        if cached is not None and cached[0] > self._now():
            return cached[1]
        known = self._book.get_peers(MAX_PEERS_RECEIVED_PER_REQUEST)
        body = _encode(k for k in known if takes_onions or not is_onion(k.address.host))
        # A node that knows nobody yet must not go on saying so for a day.
        if body != EMPTY_LIST:
            self._cache(host, body)
        return body

    def asked(self, peer_id: PeerId) -> None:
        """We have asked a peer for its list: the next one is wanted."""
        state = self._states.get(peer_id)
        if state is not None:
            state.asked_at = self._now()
            state.is_answer_due = True
            self._refill(state)
            state.tokens += MAX_PEERS_RECEIVED_PER_REQUEST

    # -- what we believe

    def received(self, peer_id: PeerId, body: bytes) -> list[Effect]:
        """Take a RespondPeers, asked for or not, into the book.

        Source: behaviour PEX-003, PEX-004, PEX-006.
        """
        state = self._states.get(peer_id)
        if state is None:
            return []
        try:
            rows, declared = parse_peers(body, MAX_PEERS_RECEIVED_PER_REQUEST)
        except ClientError:
            return [Penalize(peer_id, PenaltyReason.MALFORMED_MESSAGE)]
        if not self._take_answer(state) and not self._is_tolerable(state, declared):
            return []
        is_small = declared <= _MAX_UNSOLICITED_ROWS
        admitted = self._admit(source_key(state.neighbor.address), rows, state)
        own = state.neighbor.listens_at
        for known in admitted:
            self._know(state, known.address)
        theirs = [known for known in admitted if known.address == own]
        others = [known for known in admitted if known.address != own]
        source = own or state.neighbor.address
        added = 0
        if theirs:
            added += self._book.add_to_new_table(theirs, source, 0)
        if others:
            added += self._book.add_to_new_table(others, source, ADDRESS_THIRD_PARTY_PENALTY_SECS)
        self.counters["exchange_added"] += added
        if is_small:
            unix = self._unix()
            for known in admitted:
                if abs(unix - known.timestamp) < ADDRESS_RELAY_FRESH_SECS:
                    self._relay(known.address, known.timestamp, self._others(peer_id), 2)
        return []

    def seeded(self, name: str, found: Iterable[KnownAddress]) -> int:
        """Take what a seed, an introducer or a relay says, under the same caps.

        :param name: whose budget it counts against; stands for it in the book, too.
        :returns: how many addresses are new.
        Source: behaviour PEX-005.
        """
        wanted: list[KnownAddress] = []
        for known in found:
            if len(wanted) == MAX_PEERS_RECEIVED_PER_REQUEST:
                self.counters["exchange_over_limit"] += 1
                break
            if self._is_acceptable(known.address):
                wanted.append(known)
        budget = self._budget(name)
        taken = wanted[:budget]
        self._spend(name, len(taken))
        self.counters["exchange_over_budget"] += len(wanted) - len(taken)
        added = self._book.add_to_new_table(taken, name)
        self.counters["exchange_added"] += added
        return added

    # -- inside

    def _take_answer(self, state: _State) -> bool:
        was_due = state.is_answer_due
        state.is_answer_due = False
        assert not was_due or state.asked_at is not None
        return was_due and self._now() - (state.asked_at or 0.0) <= _ANSWER_LIMIT_SECS

    def _is_tolerable(self, state: _State, declared: int) -> bool:
        """Whether a list that nobody asked for is looked at."""
        if not declared:
            return False
        if declared > _MAX_UNSOLICITED_ROWS:
            self.counters["exchange_unsolicited"] += 1
            return False
        now, last = self._now(), state.unsolicited_at
        if last is not None and now - last < _UNSOLICITED_INTERVAL_SECS:
            self.counters["exchange_too_often"] += 1
            return False
        state.unsolicited_at = now
        return True

    def _admit(
        self, key: str, rows: list[tuple[bytes, int, int]], state: _State
    ) -> list[KnownAddress]:
        """The rows that a node may be at and that the peer has tokens for.

        Which rows of a list that is too long are kept is chance, not the sender's choice.
        """
        self._refill(state)
        budget = min(int(state.tokens), self._budget(key))
        if len(rows) > budget:
            self.counters["exchange_over_budget"] += len(rows) - budget
            rows = self._rng.sample(rows, budget)
        state.tokens -= len(rows)
        self._spend(key, len(rows))
        own = (self._own_address(), self._own_onion())
        admitted = []
        for host, port, timestamp in rows:
            address = read_address(host, port)
            if address is not None and address not in own and self._is_acceptable(address):
                admitted.append(KnownAddress(address, timestamp))
        self.counters["exchange_unacceptable"] += len(rows) - len(admitted)
        return admitted

    def _refill(self, state: _State) -> None:
        now = self._now()
        if state.tokens < _MAX_TOKENS:
            earned = (now - state.tokens_at) * _TOKENS_PER_SEC
            state.tokens = min(_MAX_TOKENS, state.tokens + earned)
        state.tokens_at = now

    def _budget(self, key: str) -> int:
        """Rows that a source may still tell in its day."""
        since, told = self._sources.get(key, (0.0, 0))
        if self._now() - since >= _DAY:
            return MAX_TOTAL_PEERS_RECEIVED
        return MAX_TOTAL_PEERS_RECEIVED - told

    def _spend(self, key: str, rows: int) -> None:
        now = self._now()
        since, told = self._sources.get(key, (now, 0))
        if now - since >= _DAY:
            since, told = now, 0
        self._sources[key] = since, told + rows
        self._sources.move_to_end(key)
        if len(self._sources) > _MAX_SOURCES:
            self._sources.popitem(last=False)

    def _cache(self, host: str, body: bytes) -> None:
        old = self._answers.pop(host, None)
        if old is not None:
            self._answer_bytes -= len(old[1])
        self._answers[host] = self._now() + _DAY, body
        self._answer_bytes += len(body)
        while len(self._answers) > _MAX_ANSWERS or self._answer_bytes > _MAX_ANSWER_BYTES:
            self._answer_bytes -= len(self._answers.popitem(last=False)[1][1])

    def _ask(self, state: _State) -> Send:
        self.asked(state.neighbor.peer_id)
        request = Message(ChiaMessageType.REQUEST_PEERS, None, b"")
        return Send((state.neighbor.peer_id,), request)

    def _is_asking_due(self, state: _State) -> bool:
        if self._book.size() >= _ASK_AGAIN_BELOW:
            return False
        return state.asked_at is None or self._now() - state.asked_at >= _ASK_AGAIN_SECS

    def _advertise(self, state: _State) -> None:
        neighbor = state.neighbor
        own = None if neighbor.is_anonymous else self._own_address()
        onion = self._own_onion() if neighbor.takes_onions else None
        for address in (own, onion):
            if address is not None:
                state.advertised_at = self._now()
                state.outbox[address] = int(self._unix())

    def advertise_again(self) -> None:
        """Our addresses are others: tell every neighbor at the next tick."""
        for state in self._states.values():
            state.advertised_at = None

    def _others(self, peer_id: PeerId) -> list[_State]:
        return [
            state
            for state in self._states.values()
            if state.neighbor.peer_id != peer_id and state.neighbor.is_full_node
        ]

    def _relay(self, address: PeerAddress, timestamp: int, among: list[_State], count: int) -> None:
        """Put an address into the outboxes of the day's ``count`` neighbors for it.

        Source: behaviour PEX-006 (deterministic per address, day and secret).
        """
        key = self._hash(address)
        # Not every address changes its neighbors at midnight.
        day = int(self._unix() + int.from_bytes(key[:4], "big") % _DAY) // _DAY
        salt = key + day.to_bytes(8, "big")
        if is_onion(address.host):
            among = [state for state in among if state.neighbor.takes_onions]
        among.sort(key=lambda state: hashlib.blake2b(salt + state.neighbor.peer_id).digest())
        for state in among[:count]:
            is_theirs = address in (state.neighbor.listens_at, state.neighbor.address)
            if is_theirs or key in state.known or len(state.outbox) >= _MAX_OUTBOX:
                continue
            state.outbox[address] = timestamp
            self._know(state, address)
            self.counters["exchange_relayed"] += 1

    def _flush(self, state: _State) -> Send:
        rows = list(state.outbox.items())[:_MAX_UNSOLICITED_ROWS]
        for address, _timestamp in rows:
            del state.outbox[address]
        body = _encode(rows)
        message = Message(ChiaMessageType.RESPOND_PEERS, None, body)
        return Send((state.neighbor.peer_id,), message)

    def _is_acceptable(self, address: PeerAddress) -> bool:
        packed = packed_ip(address.host)
        if packed is None:
            return self._allow_onion and is_onion(address.host)
        return is_routable_ip(packed) or (self._allow_private and is_unicast_ip(packed))

    def _know(self, state: _State, address: PeerAddress) -> None:
        if len(state.known) >= _MAX_KNOWN:
            state.known.clear()
        state.known.add(self._hash(address))

    def _hash(self, address: PeerAddress) -> bytes:
        text = f"{address.host} {address.port}".encode()
        return hashlib.blake2b(text, key=self._secret, digest_size=8).digest()


def read_address(host: bytes, port: int) -> PeerAddress | None:
    """Make an address of what a stranger says; None if no node can be there.

    Source: behaviour ADR-003 (an IP literal of at most 45 characters, or an onion service).
    """
    if not port or len(host) > _MAX_HOST_CHARS:
        return None
    try:
        text = host.decode("ascii")
    except ValueError:
        return None
    if is_onion(text):
        return PeerAddress(text, port)
    is_ip = packed_ip(text) is not None and "%" not in text and len(text) <= _MAX_IP_CHARS
    return PeerAddress(text, port) if is_ip else None


def _encode(addresses: Iterable[tuple[PeerAddress, int]]) -> bytes:
    return build_peers((address.host, address.port, time) for address, time in addresses)


def source_key(address: PeerAddress) -> str:
    """What counts as one source: a host, or an IPv6 /64, which one customer gets whole."""
    ip = address.ip
    if ip is not None and ip.version == 6:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return address.host
