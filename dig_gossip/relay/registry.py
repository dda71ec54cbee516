"""The relay itself, without sockets: who is registered, and who gets what.

A connection is a number that the server made up. It begins with :meth:`Registry.connected`, says
``register`` first, and may then send to the peers of its network; nobody else ever hears of it::

    TCP ─▶ may_connect ─▶ connected ─▶ register ─▶ registered ─▶ relay_message, broadcast, …
              │                            │ 10 s      │ 120 s of silence
              └─ refused                   └───────────┴──────────▶ closed

The payload is opaque: the relay cannot read it, and what it says about the sender is the sender's
registered id. The table of limits is :class:`~dig_gossip.relay.limits.RelayLimits`; whoever breaks
one gets a strike, twenty strikes in a minute keep an address out for five minutes.

Source: wire §14.3; behaviour §28.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeAlias

import attrs

from dig_gossip.errors import ClientError
from dig_gossip.relay.limits import Bucket, Hosts
from dig_gossip.types.peer import PeerAddress, PeerId, host_prefix
from dig_gossip.types.relay import RelayLimits
from dig_gossip.wire import relay
from dig_gossip.wire.relay import PeerRecord, RelayFault

REGISTER_TIMEOUT_SECS: Final = 10.0
SILENCE_SECS: Final = 90.0  # after which somebody else may take the id
IDLE_TIMEOUT_SECS: Final = 120.0
SWEEP_INTERVAL_SECS: Final = 30.0
PUNCH_MERGE_SECS: Final = 10.0
MAX_PUNCHES: Final = 65_536
MAX_RECORDS: Final = 1000  # in one answer to get_peers; clients keep no more
RECORDS_TTL_SECS: Final = 1.0
_MAX_ID_CHARS: Final = 128
_MAX_NETWORK_CHARS: Final = 128


class RelayErrorCode(enum.IntEnum):
    """Numbers of the protocol's errors; unknown ones stay ``int``."""

    NOT_REGISTERED = 1
    BAD_MESSAGE = 2
    PEER_NOT_FOUND = 3
    CAPACITY = 4
    ID_IN_USE = 5
    IDENTITY_MISMATCH = 6
    RATE_LIMITED = 7


class Transmit(NamedTuple):
    """Queue one WebSocket message for each connection: text as ``str``, binary as ``bytes``."""

    connections: tuple[int, ...]
    data: str | bytes


class HangUp(NamedTuple):
    """Close a connection with a WebSocket code; what was queued before leaves first."""

    connection: int
    code: int
    reason: str


RelayEffect: TypeAlias = Transmit | HangUp


@attrs.define(eq=False)
class _Client:
    """One connection.

    :ivar verified: the id of its certificate, where TLS has asked for one.
    :ivar record: what others are told of it, once it is registered.
    """

    number: int
    address: PeerAddress
    verified: PeerId | None
    since: float
    heard: float
    frames: Bucket
    bytes: Bucket
    received: int = 0
    record: PeerRecord | None = None
    is_binary: bool = False
    is_leaving: bool = False


class Registry:
    """All connections of one relay.

    Bounded: connections by ``max_connections``, addresses by
    :class:`~dig_gossip.relay.limits.Hosts`, pairs of punching peers by 65 536. Cost: O(1) a frame,
    but O(peers of the network) for a broadcast, a registration and an end; a list of peers is
    made once a second at most.

    :param now: monotonic seconds.
    :param unix: Unix seconds, for what is told to clients only.
    :ivar counters: what happened, by name; part of the health report.
    """

    def __init__(
        self, limits: RelayLimits, *, now: Callable[[], float], unix: Callable[[], float]
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._limits = limits
        self._now = now
        self._unix = unix
        self._hosts = Hosts(limits, now=now)
        self._clients: dict[int, _Client] = {}
        self._networks: dict[str, dict[str, _Client]] = {}
        self._lists: dict[str | None, tuple[float, str]] = {}
        #: requester, target and address told: when
        self._punches: dict[tuple[str, str, PeerAddress], float] = {}
        self._next_sweep = now() + SWEEP_INTERVAL_SECS

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def registered(self) -> int:
        """How many peers are registered, in all networks."""
        return sum(map(len, self._networks.values()))

    # -- connections

    def may_connect(self, host: str) -> bool:
        """Decide about a connection before a byte is spent on it."""
        limit = self._limits.max_connections
        refusal = "capacity" if limit and len(self._clients) >= limit else None
        refusal = refusal or self._hosts.may_connect(host)
        if refusal is not None:
            self.counters[f"refused.{refusal}"] += 1
        return refusal is None

    def connected(self, number: int, address: PeerAddress) -> None:
        """A connection was let in."""
        now = self._now()
        limits = self._limits
        self._hosts.connected(address.host)
        self._clients[number] = _Client(
            number,
            address,
            None,
            now,
            now,
            Bucket(limits.frames_per_second, now),
            Bucket(limits.bytes_per_second, now),
        )

    def identified(self, number: int, peer_id: PeerId) -> None:
        """TLS has verified who is at the other end."""
        client = self._clients.get(number)
        if client is not None:
            client.verified = peer_id

    def disconnected(self, number: int) -> list[RelayEffect]:
        """A connection is gone; its network is told."""
        client = self._clients.pop(number, None)
        if client is None:
            return []
        effects = self._unregister(client)
        self._hosts.disconnected(client.address.host)
        return effects

    def too_large(self, number: int) -> None:
        """A connection was closed because of a frame above ``frame_bytes``."""
        client = self._clients.get(number)
        if client is not None:
            self._tripped(client, "frame_bytes")

    def tick(self) -> list[RelayEffect]:
        """Close who is late or silent; call it every second or so."""
        now = self._now()
        effects: list[RelayEffect] = []
        for client in self._clients.values():
            if client.is_leaving:
                continue
            if client.record is None and now - client.since >= REGISTER_TIMEOUT_SECS:
                effects += self._fault(client, RelayErrorCode.NOT_REGISTERED, "too late")
                effects.append(self._hang_up(client, 1008, "no registration"))
            elif now - client.heard >= IDLE_TIMEOUT_SECS:
                effects.append(self._hang_up(client, 1001, "silent"))
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL_SECS
            self._hosts.expire()
            self._punches = {
                pair: at for pair, at in self._punches.items() if now - at < PUNCH_MERGE_SECS
            }
        return effects

    # -- frames

    def received(self, number: int, data: bytes, is_binary: bool) -> list[RelayEffect]:
        """Take one WebSocket message of a client.

        JSON is taken from text and binary messages alike; a binary message that begins with 02
        is a relay message in its binary form.
        """
        client = self._clients.get(number)
        if client is None or client.is_leaving:
            return []
        now = self._now()
        client.heard = now
        client.received += len(data)
        limits = self._limits
        if not client.frames.take(1, now):
            return self._limited(client, "frames_per_second")
        if not client.bytes.take(len(data), now):
            return self._limited(client, "bytes_per_second")
        if limits.bytes_per_connection and client.received > limits.bytes_per_connection:
            self.counters["bytes_per_connection"] += 1
            return [self._hang_up(client, 1001, "come again")]
        if is_binary and data[:1] == b"\x02":
            return self._binary(client, data)
        try:
            frame = relay.decode(data)
        except ClientError as error:
            return self._bad(client, f"invalid relay JSON: {error.text}")
        if isinstance(frame, relay.Register):
            return self._register(client, frame)
        if isinstance(frame, relay.GetPeers):
            return self._get_peers(client, frame)
        if isinstance(frame, relay.Ping):
            return [_to(client, relay.Pong(timestamp=frame.timestamp))]
        if isinstance(frame, relay.Unsupported):
            return self._bad(client, "unknown type")
        if client.record is None:
            text = "register before sending other messages"
            return self._fault(client, RelayErrorCode.NOT_REGISTERED, text)
        if isinstance(frame, relay.RelayMessage):
            return self._relay(client, frame.recipient, frame.seq, frame.payload)
        if isinstance(frame, relay.Broadcast):
            return self._broadcast(client, frame)
        if isinstance(frame, relay.Unregister):
            return [self._hang_up(client, 1000, "bye")]
        if isinstance(frame, relay.HolePunchRequest):
            return self._punch(client, client.record, frame)
        if isinstance(frame, relay.HolePunchResult):
            return self._punched(client.record, frame)
        return []  # what only relays say is ignored

    # -- registration

    def _register(self, client: _Client, frame: relay.Register) -> list[RelayEffect]:
        if client.record is not None:
            return self._bad(client, "registered already")
        if not frame.peer_id or len(frame.peer_id) > _MAX_ID_CHARS:
            return self._bad(client, "this is no peer id")
        if len(frame.network_id) > _MAX_NETWORK_CHARS:
            return self._bad(client, "this is no network id")
        peer_id = frame.peer_id.lower()
        incumbent = self._networks.get(frame.network_id, {}).get(peer_id)
        text = self._hosts.may_register(client.address.host)
        if text is not None:
            self._tripped(client, "registrations")
            return self._refuse(client, RelayErrorCode.RATE_LIMITED, text)
        if client.verified is not None and peer_id != client.verified.hex():
            text = "peer_id does not match the client certificate presented"
            return self._refuse(client, RelayErrorCode.IDENTITY_MISMATCH, text)
        effects: list[RelayEffect] = []
        if incumbent is not None:
            if self._now() - incumbent.heard < SILENCE_SECS and not incumbent.is_leaving:
                text = "peer_id already registered by a live connection"
                return self._refuse(client, RelayErrorCode.ID_IN_USE, text)
            effects += self._unregister(incumbent)
            effects.append(self._hang_up(incumbent, 1001, "replaced"))
        unix = int(self._unix())
        client.record = PeerRecord(
            peer_id=peer_id,
            network_id=frame.network_id,
            protocol_version=frame.protocol_version,
            connected_at=unix,
            last_seen=unix,
            addresses=tuple(published(frame.listen_addrs, client.address.host)),
        )
        client.is_binary = frame.binary and _is_hex_id(peer_id)
        self._hosts.registered(client.address.host)
        network = self._networks.setdefault(frame.network_id, {})
        others = tuple(other.number for other in network.values())
        network[peer_id] = client
        self._lists.clear()
        self.counters["registrations"] += 1
        ack = relay.RegisterAck(
            success=True,
            message="registered",
            connected_peers=self.registered,
            binary=client.is_binary,
            observed=client.address,
        )
        effects.append(_to(client, ack))
        if others:
            effects.append(Transmit(others, relay.PeerConnected(peer=client.record).encode()))
        return effects

    def _refuse(self, client: _Client, code: RelayErrorCode, text: str) -> list[RelayEffect]:
        self.counters[f"refused.{code.name.lower()}"] += 1
        refusal = relay.RegisterAck(success=False, message=text, connected_peers=self.registered)
        return [
            _to(client, refusal),
            *self._fault(client, code, text),
            self._hang_up(client, 1008, text),
        ]

    def _unregister(self, client: _Client) -> list[RelayEffect]:
        record, client.record = client.record, None
        if record is None:
            return []
        self._hosts.unregistered(client.address.host)
        network = self._networks[record.network_id]
        del network[record.peer_id]
        if not network:
            del self._networks[record.network_id]
        self._lists.clear()
        others = tuple(other.number for other in network.values())
        gone = relay.PeerDisconnected(peer_id=record.peer_id)
        return [Transmit(others, gone.encode())] if others else []

    def _get_peers(self, client: _Client, frame: relay.GetPeers) -> list[RelayEffect]:
        network = frame.network_id
        if client.record is not None:
            if network not in (None, client.record.network_id):
                return [_to(client, relay.Peers(peers=()))]
            network = client.record.network_id
        now = self._now()
        made, text = self._lists.get(network, (0.0, ""))
        if not text or now - made >= RECORDS_TTL_SECS:
            text = relay.Peers(peers=self._records(network, now)).encode()
            if network is None or network in self._networks:
                self._lists[network] = (now, text)
        return [Transmit((client.number,), text)]

    def _records(self, network: str | None, now: float) -> tuple[PeerRecord, ...]:
        if network is None:
            clients: Iterable[_Client] = (
                client for peers in self._networks.values() for client in peers.values()
            )
        else:
            clients = self._networks.get(network, {}).values()
        unix = self._unix()
        records = [
            attrs.evolve(client.record, last_seen=int(unix - (now - client.heard)))
            for client in clients
            if client.record is not None
        ]
        # The youngest, if there are too many: everybody has heard of the older ones.
        records = records[-MAX_RECORDS:]
        return tuple(sorted(records, key=lambda record: (record.peer_id, record.network_id)))

    # -- traffic

    def _binary(self, client: _Client, data: bytes) -> list[RelayEffect]:
        if client.record is None or not client.is_binary:
            return self._fault(client, RelayErrorCode.NOT_REGISTERED, "binary was not agreed")
        try:
            recipient, seq, payload = relay.parse_binary_message(data)
        except ClientError as error:
            return self._bad(client, error.text)
        return self._relay(client, recipient.hex(), seq, payload)

    def _relay(
        self, client: _Client, recipient: str, seq: int, payload: bytes
    ) -> list[RelayEffect]:
        record = client.record
        assert record is not None
        other = self._networks[record.network_id].get(recipient.lower())
        if other is None or other is client:
            self.counters["not_found"] += 1
            text = f"peer {recipient[:_MAX_ID_CHARS]} not connected to this relay"
            return self._fault(client, RelayErrorCode.PEER_NOT_FOUND, text)
        self.counters["relayed"] += 1
        self.counters["relayed_bytes"] += len(payload)
        if other.is_binary and _is_hex_id(record.peer_id):
            binary = relay.binary_message(bytes.fromhex(record.peer_id), seq, payload)
            return [Transmit((other.number,), binary)]
        message = relay.RelayMessage(
            sender=record.peer_id, recipient=recipient, payload=payload, seq=seq
        )
        return [_to(other, message)]

    def _broadcast(self, client: _Client, frame: relay.Broadcast) -> list[RelayEffect]:
        record = client.record
        assert record is not None
        left_out = {record.peer_id, *(peer_id.lower() for peer_id in frame.exclude)}
        others = tuple(
            other.number
            for peer_id, other in self._networks[record.network_id].items()
            if peer_id not in left_out
        )
        if not others:
            return []
        self.counters["broadcasts"] += 1
        self.counters["relayed_bytes"] += len(frame.payload) * len(others)
        message = relay.Broadcast(sender=record.peer_id, payload=frame.payload)
        return [Transmit(others, message.encode())]

    # -- hole punching

    def _punch(
        self, client: _Client, record: PeerRecord, frame: relay.HolePunchRequest
    ) -> list[RelayEffect]:
        target = self._networks[record.network_id].get(frame.target_peer_id.lower())
        if target is None or target.record is None or target is client:
            text = f"peer {frame.target_peer_id[:_MAX_ID_CHARS]} not connected to this relay"
            return self._fault(client, RelayErrorCode.PEER_NOT_FOUND, text)
        # Nobody is sent to dial a stranger: only the address that we see is passed on.
        told = next(iter(published((frame.external_addr,), client.address.host)))
        effects = self._coordinate(record.peer_id, target, told)
        candidate = next(iter(target.record.addresses), None)
        if candidate is not None:
            effects += self._coordinate(target.record.peer_id, client, candidate)
        return effects

    def _coordinate(self, peer_id: str, to: _Client, address: PeerAddress) -> list[RelayEffect]:
        assert to.record is not None
        now = self._now()
        key = (peer_id, to.record.peer_id, address)
        told = self._punches.get(key)
        if told is not None and now - told < PUNCH_MERGE_SECS:
            self.counters["punches_merged"] += 1
            return []
        self._punches.pop(key, None)
        if len(self._punches) >= MAX_PUNCHES:
            del self._punches[next(iter(self._punches))]
        self._punches[key] = now
        self.counters["punches"] += 1
        return [_to(to, relay.HolePunchCoordinate(peer_id=peer_id, external_addr=address))]

    def _punched(self, record: PeerRecord, frame: relay.HolePunchResult) -> list[RelayEffect]:
        self.counters["punches_ok" if frame.success else "punches_failed"] += 1
        other = self._networks[record.network_id].get(frame.peer_id.lower())
        return [] if other is None else [_to(other, frame)]

    # -- faults

    def _bad(self, client: _Client, text: str) -> list[RelayEffect]:
        self.counters["bad_messages"] += 1
        return self._fault(client, RelayErrorCode.BAD_MESSAGE, text)

    def _fault(self, client: _Client, code: RelayErrorCode, text: str) -> list[RelayEffect]:
        return [_to(client, RelayFault(code=code, message=text))]

    def _limited(self, client: _Client, limit: str) -> list[RelayEffect]:
        self._tripped(client, limit)
        return [
            *self._fault(client, RelayErrorCode.RATE_LIMITED, limit),
            self._hang_up(client, 1008, limit),
        ]

    def _tripped(self, client: _Client, limit: str) -> None:
        self.counters[f"tripped.{limit}"] += 1
        self._hosts.strike(client.address.host)

    def _hang_up(self, client: _Client, code: int, reason: str) -> HangUp:
        client.is_leaving = True
        return HangUp(client.number, code, reason)


def published(addresses: Iterable[PeerAddress], observed: str) -> list[PeerAddress]:
    """The addresses that may be told to others: at most 8, IPv6 first.

    A port is believed. A host only if it is the one that the connection came from, or in the same
    IPv6 /64; otherwise the observed host takes its place, so nobody can have others dialed.

    Source: behaviour RSV-106-X.
    """
    prefix = host_prefix(observed)
    found: dict[PeerAddress, None] = {}
    for address in list(addresses)[: relay.MAX_LISTEN_ADDRS]:
        host = address.host if host_prefix(address.host) == prefix else observed
        found[PeerAddress(host, address.port)] = None
    return sorted(found, key=lambda address: ipaddress.ip_address(address.host).version != 6)


def _to(client: _Client, frame: relay.RelayFrame) -> Transmit:
    return Transmit((client.number,), frame.encode())


def _is_hex_id(peer_id: str) -> bool:
    try:
        return len(bytes.fromhex(peer_id)) == 32
    except ValueError:
        return False
