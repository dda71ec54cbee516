"""Being a client of one relay: registration, who else is there, and whose bytes are these; pure.

::

    begin ──register──▶ REGISTERING ──ack──▶ REGISTERED ──ping, get_peers──▶ …
                             │ refused, silent    │ 90 s of silence, error 1, 4, 5, 6, 7
                             └────────────────────┴──────▶ Failed: the client hangs up, comes again

One object serves a client for its whole life, because the numbers of what it sends go on across
connections: :meth:`begin` starts a registration, :meth:`lost` ends it. With another id the numbers
begin anew, in both directions: that is another client.

The relay is not trusted. What it says about others is a hint of where somebody may be; who is
really there is found out inside the tunnel.

Source: behaviour §27; wire §14.
"""

from __future__ import annotations

import enum
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import attrs

from dig_gossip.constants import PEER_TIMEOUT_SECS
from dig_gossip.errors import ClientError, RelayError
from dig_gossip.relay.registry import RelayErrorCode
from dig_gossip.types.peer import PeerAddress, PeerId, parse_peer_id
from dig_gossip.util.sanitize import sanitize_text
from dig_gossip.wire import relay
from dig_gossip.wire.relay import PeerRecord, RelayFrame
from dig_gossip.wire.tunnel import PayloadClass, classify

GET_PEERS_INTERVAL_SECS: Final = 60.0
MAX_PEERS: Final = 1000
MAX_SEQUENCES: Final = 4096
SEQUENCE_RESET_SECS: Final = 60.0
MAX_COORDINATES_PER_MINUTE: Final = 10

#: The only place where an error of that kind says whom it is about.
_HEX_ID: Final = re.compile(r"\b[0-9a-fA-F]{64}\b")

_ENDS_SESSION = frozenset(
    {
        RelayErrorCode.NOT_REGISTERED,
        RelayErrorCode.CAPACITY,
        RelayErrorCode.ID_IN_USE,
        RelayErrorCode.IDENTITY_MISMATCH,
        RelayErrorCode.RATE_LIMITED,
    }
)


class Stage(enum.Enum):
    """How far the registration is."""

    IDLE = "idle"
    REGISTERING = "registering"
    REGISTERED = "registered"


class Say(NamedTuple):
    """Send one WebSocket message to the relay: text as ``str``, binary as ``bytes``."""

    data: str | bytes


class Registered(NamedTuple):
    """The relay has taken us in.

    :ivar observed: where it sees us, if it says so.
    """

    observed: PeerAddress | None


class PeerArrived(NamedTuple):
    """Somebody of our network is there; said again when its addresses change."""

    peer: PeerId
    addresses: tuple[PeerAddress, ...]


class PeerLeft(NamedTuple):
    """Somebody is not there any more."""

    peer: PeerId


class Tunneled(NamedTuple):
    """A frame of a tunnel came, said to be from ``peer``."""

    peer: PeerId
    payload: bytes


class Unvouched(NamedTuple):
    """A whole message outside of any tunnel: nobody vouches for its sender (RLY-102-X)."""

    payload: bytes


class Coordinate(NamedTuple):
    """Dial ``address`` now: ``peer`` does the same."""

    peer: PeerId
    address: PeerAddress


class Failed(NamedTuple):
    """The registration is over; hang up.

    :ivar is_final: coming again is useless, the configuration is wrong.
    """

    error: RelayError
    is_final: bool = False


MembershipEffect: TypeAlias = (
    Say | Registered | PeerArrived | PeerLeft | Tunneled | Unvouched | Coordinate | Failed
)


@attrs.define
class _Sequence:
    last: int
    at: float
    may_restart: bool = False


class Membership:
    """What one client knows of its relay.

    Bounded: 1000 peers, 4096 sequence numbers (the longest unused go first).

    :param network_id: as the relay knows the network.
    :param own_ids: all ids that are, or lately were, ours; asked at each use.
    :param ping_interval: seconds.
    :param now: monotonic seconds.
    """

    def __init__(
        self,
        network_id: str,
        *,
        own_ids: Callable[[], frozenset[PeerId]],
        ping_interval: float,
        now: Callable[[], float],
    ) -> None:
        self.stage = Stage.IDLE
        self.latency_ms: int | None = None
        self.dropped = 0
        self._network_id = network_id
        self._own_ids = own_ids
        self._ping_interval = ping_interval
        self._now = now
        self._own_id: PeerId | None = None
        self._is_binary = False
        self._peers: dict[PeerId, tuple[PeerAddress, ...]] = {}
        self._sent: OrderedDict[PeerId, int] = OrderedDict()
        self._heard: OrderedDict[PeerId, _Sequence] = OrderedDict()
        self._last_frame = 0.0
        self._next_ping = 0.0
        self._next_list = 0.0
        self._coordinates: list[float] = []

    @property
    def peers(self) -> dict[PeerId, tuple[PeerAddress, ...]]:
        """Who else is registered in our network, and where each says it can be dialed."""
        return dict(self._peers)

    @property
    def is_binary(self) -> bool:
        """Whether the relay takes payloads as they are."""
        return self._is_binary

    def has(self, peer: PeerId) -> bool:
        """Whether the relay lists a peer."""
        return peer in self._peers

    # -- the registration

    def begin(
        self, own_id: PeerId, listen_addrs: tuple[PeerAddress, ...]
    ) -> list[MembershipEffect]:
        """The connection is open: introduce ourselves."""
        self.stage = Stage.REGISTERING
        self._own_id = own_id
        self._last_frame = self._now()
        register = relay.Register(
            peer_id=own_id.hex(),
            network_id=self._network_id,
            listen_addrs=listen_addrs[: relay.MAX_LISTEN_ADDRS],
            binary=True,
        )
        return [Say(register.encode())]

    def list_no_more(self) -> None:
        """Ask no more who else is there; what the relay says unasked is still taken."""
        self._next_list = math.inf

    def leave(self) -> list[MembershipEffect]:
        """Say goodbye; the relay closes."""
        if self.stage is not Stage.REGISTERED or self._own_id is None:
            return []
        return [Say(relay.Unregister(peer_id=self._own_id.hex()).encode())]

    def lost(self) -> list[MembershipEffect]:
        """The connection is gone: nobody is there any more."""
        self.stage = Stage.IDLE
        self.latency_ms = None
        self._is_binary = False
        left: list[MembershipEffect] = [PeerLeft(peer) for peer in self._peers]
        self._peers.clear()
        return left

    def tick(self) -> list[MembershipEffect]:
        """Ping, ask for the list, notice silence; every second or so."""
        if self.stage is not Stage.REGISTERED:
            return []
        now = self._now()
        if now - self._last_frame >= PEER_TIMEOUT_SECS:
            return [Failed(RelayError("the relay has fallen silent"))]
        effects: list[MembershipEffect] = []
        if now >= self._next_ping:
            self._next_ping = now + self._ping_interval
            effects.append(Say(relay.Ping(timestamp=int(now * 1000)).encode()))
        if now >= self._next_list:
            self._next_list = now + GET_PEERS_INTERVAL_SECS
            effects.append(Say(relay.GetPeers(network_id=self._network_id).encode()))
        return effects

    # -- what we send

    def message(self, peer: PeerId, payload: bytes) -> list[MembershipEffect]:
        """Send a payload to one peer; nothing unless we are registered."""
        if self.stage is not Stage.REGISTERED or self._own_id is None:
            return []
        seq = self._sent.pop(peer, 0) + 1
        self._sent[peer] = seq
        if len(self._sent) > MAX_SEQUENCES:
            self._sent.popitem(last=False)
        if self._is_binary:
            return [Say(relay.binary_message(peer, seq, payload))]
        frame = relay.RelayMessage(
            sender=self._own_id.hex(), recipient=peer.hex(), payload=payload, seq=seq
        )
        return [Say(frame.encode())]

    def request_punch(self, peer: PeerId, external: PeerAddress) -> list[MembershipEffect]:
        """Ask that a peer dials us."""
        if self.stage is not Stage.REGISTERED or self._own_id is None:
            return []
        request = relay.HolePunchRequest(
            peer_id=self._own_id.hex(), target_peer_id=peer.hex(), external_addr=external
        )
        return [Say(request.encode())]

    def report_punch(self, peer: PeerId, success: bool) -> list[MembershipEffect]:
        """Tell the peer, through the relay, how it went."""
        if self.stage is not Stage.REGISTERED:
            return []
        return [Say(relay.HolePunchResult(peer_id=peer.hex(), success=success).encode())]

    # -- what we receive

    def received(self, data: bytes, is_binary: bool) -> list[MembershipEffect]:
        """Take one WebSocket message of the relay's."""
        self._last_frame = self._now()
        if is_binary and data[:1] == b"\x02":
            return self._binary(data)
        try:
            frame = relay.decode(data)
        except ClientError:
            self.dropped += 1
            return []
        if isinstance(frame, relay.Unsupported):
            return []
        if self.stage is Stage.REGISTERING:
            return self._acknowledged(frame)
        if self.stage is not Stage.REGISTERED:
            return []
        return self._frame(frame)

    def _acknowledged(self, frame: RelayFrame) -> list[MembershipEffect]:
        if not isinstance(frame, relay.RegisterAck):
            return [Failed(RelayError("the relay did not acknowledge the registration"))]
        if not frame.success:
            text = sanitize_text(frame.message)
            # The error that follows a refusal says the same with a number; texts decide nothing.
            return [Failed(RelayError(f"the relay refused us: {text}"))]
        now = self._now()
        self.stage = Stage.REGISTERED
        self._is_binary = frame.binary
        self._next_ping = now + self._ping_interval
        self._next_list = now
        return [Registered(frame.observed), *self.tick()]

    def _frame(self, frame: RelayFrame) -> list[MembershipEffect]:
        if isinstance(frame, relay.RelayMessage):
            peer = _peer_id(frame.sender)
            if peer is None or _peer_id(frame.recipient) not in self._own_ids():
                self.dropped += 1
                return []
            return self._payload(peer, frame.seq, frame.payload)
        if isinstance(frame, relay.Broadcast):
            return self._unvouched(frame.payload)
        if isinstance(frame, relay.PeerConnected):
            return self._arrived(frame.peer, has_registered=True)
        if isinstance(frame, relay.PeerDisconnected):
            peer = _peer_id(frame.peer_id)
            return [] if peer is None else self._left(peer)
        if isinstance(frame, relay.Peers):
            return self._listed(frame.peers)
        if isinstance(frame, relay.Ping):
            return [Say(relay.Pong(timestamp=frame.timestamp).encode())]
        if isinstance(frame, relay.Pong):
            elapsed = int(self._now() * 1000) - frame.timestamp
            if 0 <= elapsed <= PEER_TIMEOUT_SECS * 1000:
                self.latency_ms = elapsed
            return []
        if isinstance(frame, relay.HolePunchCoordinate):
            return self._coordinate(frame)
        if isinstance(frame, relay.RelayFault):
            return self._fault(frame)
        return []  # what only clients say, and results that change nothing

    def _binary(self, data: bytes) -> list[MembershipEffect]:
        if self.stage is not Stage.REGISTERED:
            return []
        try:
            peer, seq, payload = relay.parse_binary_message(data)
        except ClientError:
            self.dropped += 1
            return []
        return self._payload(PeerId(peer), seq, payload)

    def _payload(self, peer: PeerId, seq: int, payload: bytes) -> list[MembershipEffect]:
        if peer in self._own_ids() or not self._is_next(peer, seq):
            self.dropped += 1
            return []
        kind = classify(payload)
        if kind is PayloadClass.TUNNEL:
            return [Tunneled(peer, payload)]
        if kind is PayloadClass.ENVELOPE:
            return self._unvouched(payload)
        self.dropped += 1
        return []

    def _unvouched(self, payload: bytes) -> list[MembershipEffect]:
        if classify(payload) is PayloadClass.ENVELOPE:
            return [Unvouched(payload)]
        self.dropped += 1
        return []

    def _is_next(self, peer: PeerId, seq: int) -> bool:
        """Refuse what is repeated; a peer that started over may start its numbers over."""
        now = self._now()
        known = self._heard.pop(peer, None)
        if known is not None and seq <= known.last:
            restarted = seq == 1 and (known.may_restart or now - known.at >= SEQUENCE_RESET_SECS)
            if not restarted:
                self._heard[peer] = known
                return False
        self._heard[peer] = _Sequence(seq, now)
        if len(self._heard) > MAX_SEQUENCES:
            self._heard.popitem(last=False)
        return True

    def _arrived(self, record: PeerRecord, *, has_registered: bool) -> list[MembershipEffect]:
        peer = _peer_id(record.peer_id)
        if peer is None or peer in self._own_ids() or record.network_id != self._network_id:
            return []
        known = self._heard.get(peer)
        if has_registered and known is not None:
            known.may_restart = True
        if peer not in self._peers and len(self._peers) >= MAX_PEERS:
            return []
        addresses = record.addresses[: relay.MAX_LISTEN_ADDRS]
        if self._peers.get(peer) == addresses:
            return []
        self._peers[peer] = addresses
        return [PeerArrived(peer, addresses)]

    def _left(self, peer: PeerId) -> list[MembershipEffect]:
        if self._peers.pop(peer, None) is None:
            return []
        return [PeerLeft(peer)]

    def _listed(self, records: tuple[PeerRecord, ...]) -> list[MembershipEffect]:
        effects: list[MembershipEffect] = []
        if len(records) < MAX_PEERS:  # a full list may have left somebody out
            present = {_peer_id(record.peer_id) for record in records}
            for peer in [peer for peer in self._peers if peer not in present]:
                effects += self._left(peer)
        for record in records[:MAX_PEERS]:
            effects += self._arrived(record, has_registered=False)
        return effects

    def _coordinate(self, frame: relay.HolePunchCoordinate) -> list[MembershipEffect]:
        peer = _peer_id(frame.peer_id)
        now = self._now()
        self._coordinates = [at for at in self._coordinates if now - at < 60]
        if peer is None or not self.has(peer):
            self.dropped += 1
            return []
        if len(self._coordinates) >= MAX_COORDINATES_PER_MINUTE:
            self.dropped += 1
            return []
        self._coordinates.append(now)
        return [Coordinate(peer, frame.external_addr)]

    def _fault(self, frame: relay.RelayFault) -> list[MembershipEffect]:
        text = sanitize_text(frame.message)
        if frame.code == RelayErrorCode.PEER_NOT_FOUND:
            named = _HEX_ID.search(text)
            peer = None if named is None else _peer_id(named[0])
            if peer is None or peer not in self._sent:
                return []
            self._peers.pop(peer, None)
            return [PeerLeft(peer)]
        if frame.code not in _ENDS_SESSION:
            return []
        is_final = frame.code == RelayErrorCode.IDENTITY_MISMATCH
        return [Failed(RelayError(f"the relay says {frame.code}: {text}"), is_final)]


def _peer_id(text: str) -> PeerId | None:
    try:
        return parse_peer_id(text)
    except ValueError:
        return None
