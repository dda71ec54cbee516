"""A byte stream between two peers through a relay, and the table of all of them; pure.

What goes in at one end comes out at the other, whole and in order, or the tunnel ends: the relay
may drop, repeat or reorder, and each of that shows as a gap in the numbers of the DATA frames.
What it carries is TLS, so a relay that forges bytes achieves no more than one that drops them.

One tunnel, seen from one end::

    open ──OPEN──▶            ACCEPT │ 10 s: given up
    write ─▶ waiting bytes ─▶ DATA (≤ 48 KiB, ≤ 64 unacknowledged) ─▶ peer
    DATA ─▶ number expected? ─▶ Received ─▶ consumed ─▶ ACK, every 16
                    └ no: CLOSE gap
    120 s without DATA: CLOSE idle

Invariants: at most 64 DATA frames are unacknowledged each way; an ACK never covers what was not
sent; nothing is delivered before ACCEPT nor after CLOSE.

Source: wire §15; behaviour RLY-101-X, RLY-103-X.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from typing import Final, NamedTuple, TypeAlias

from dig_gossip.errors import ClientError
from dig_gossip.types.peer import PeerId
from dig_gossip.wire import tunnel as wire
from dig_gossip.wire.tunnel import Accept, Ack, Close, CloseReason, Data, Open

ACCEPT_TIMEOUT_SECS: Final = 10.0
IDLE_TIMEOUT_SECS: Final = 120.0
WINDOW_FRAMES: Final = 64
ACK_EVERY_FRAMES: Final = 16
MAX_TUNNELS: Final = 256
MAX_HELD_BYTES: Final = 33_554_432  # received and not yet consumed, all tunnels together
#: A writer is asked to pause when this much waits, and to go on when half of it is gone.
HIGH_WATER_BYTES: Final = 131_072


class TunnelState(enum.Enum):
    """Where a tunnel is in its life."""

    OPENING = "opening"
    OPEN = "open"
    CLOSED = "closed"


class Opened(NamedTuple):
    """Bytes may flow."""

    peer: PeerId


class Received(NamedTuple):
    """Bytes came out; say :meth:`Tunnel.consumed` when they are dealt with."""

    peer: PeerId
    data: bytes


class Drained(NamedTuple):
    """The writer may go on."""

    peer: PeerId


class Ended(NamedTuple):
    """The tunnel is over."""

    peer: PeerId
    reason: CloseReason


class Emit(NamedTuple):
    """Send a payload to the peer through the relay, before any DATA that waits."""

    peer: PeerId
    payload: bytes


TunnelEffect: TypeAlias = Opened | Received | Drained | Ended | Emit


class Tunnel:
    """One end of a tunnel.

    :param is_initiator: we sent OPEN: we are client of TLS and WebSocket, and greet first.
    Bounds: 64 frames in flight each way; what waits to be written is bounded by the writer, who is
    told to pause above 128 KiB.
    """

    def __init__(self, peer: PeerId, tunnel_id: int, *, is_initiator: bool, now: float) -> None:
        self.peer = peer
        self.tunnel_id = tunnel_id
        self.is_initiator = is_initiator
        self.state = TunnelState.OPENING
        self.waiting_bytes = 0
        self.held_bytes = 0
        self.last_data = now
        self._waiting: deque[bytes] = deque()
        self._next_out = 0
        self._acknowledged = 0
        self._next_in = 0
        self._consumed = 0
        self._acked_in = 0
        self._wants_drain = False

    # -- writing

    def write(self, data: bytes) -> bool:
        """Queue bytes of the stream.

        :returns: whether the writer may go on; if not, :class:`Drained` follows.
        """
        if self.state is TunnelState.CLOSED or not data:
            return True
        self._waiting.append(data)
        self.waiting_bytes += len(data)
        if self.waiting_bytes > HIGH_WATER_BYTES:
            self._wants_drain = True
        return not self._wants_drain

    @property
    def is_ready(self) -> bool:
        """Whether a DATA frame may go now."""
        return (
            self.state is TunnelState.OPEN
            and bool(self._waiting)
            and self._next_out - self._acknowledged < WINDOW_FRAMES
        )

    def next_data(self, largest: int) -> tuple[Data, bool]:
        """Cut the next DATA frame out of what waits; only if :attr:`is_ready`.

        :param largest: bytes of data it may have, 1..49152.
        :returns: the frame, and whether a paused writer may go on.
        """
        parts = []
        size = 0
        while self._waiting and size < largest:
            part = self._waiting.popleft()
            room = largest - size
            if len(part) > room:
                self._waiting.appendleft(part[room:])
                part = part[:room]
            parts.append(part)
            size += len(part)
        self.waiting_bytes -= size
        frame = Data(self.tunnel_id, self._next_out, b"".join(parts))
        self._next_out += 1
        drained = self._wants_drain and self.waiting_bytes <= HIGH_WATER_BYTES // 2
        if drained:
            self._wants_drain = False
        return frame, drained

    # -- receiving

    def accepted(self) -> list[TunnelEffect]:
        """The peer has agreed."""
        if self.state is not TunnelState.OPENING or not self.is_initiator:
            return []
        self.state = TunnelState.OPEN
        return [Opened(self.peer)]

    def data_received(self, frame: Data, now: float) -> list[TunnelEffect] | CloseReason:
        """Take one DATA frame.

        :returns: effects, or the reason for which the tunnel has to end.
        """
        if self.state is not TunnelState.OPEN:
            return CloseReason.PROTOCOL
        if frame.seq != self._next_in:
            return CloseReason.GAP
        if self._next_in - self._acked_in >= WINDOW_FRAMES:
            return CloseReason.PROTOCOL
        self._next_in += 1
        self.last_data = now
        self.held_bytes += len(frame.data)
        return [Received(self.peer, frame.data)]

    def consumed(self, size: int) -> list[TunnelEffect]:
        """The bytes of one :class:`Received` are dealt with."""
        self.held_bytes -= size
        self._consumed += 1
        if self.state is not TunnelState.OPEN or self._consumed - self._acked_in < ACK_EVERY_FRAMES:
            return []
        self._acked_in = self._consumed
        return [Emit(self.peer, bytes(Ack(self.tunnel_id, self._consumed)))]

    def ack_received(self, frame: Ack) -> CloseReason | None:
        """Move the window on; an ACK of what was not sent ends the tunnel."""
        if not self._acknowledged <= frame.next_seq <= self._next_out:
            return CloseReason.PROTOCOL
        self._acknowledged = frame.next_seq
        return None

    def closed(self) -> None:
        """Forget what waits."""
        self.state = TunnelState.CLOSED
        self._waiting.clear()
        self.waiting_bytes = 0


class Tunnels:
    """The tunnels of one registration, one for each peer at most.

    Feed it every payload of class TUNNEL and perform what comes back, in order; take DATA frames
    with :meth:`next_payload` whenever the relay takes one more. Tunnels take turns, so a bulky one
    does not hold up the others.

    Bounded: 256 tunnels; 32 MiB received and not consumed, beyond which the tunnel that exceeds it
    is closed.

    :ivar own_id: of this registration.
    :param may_accept: decides about a peer's wish for a tunnel.
    :param now: monotonic seconds.
    """

    def __init__(
        self,
        own_id: PeerId,
        *,
        may_accept: Callable[[PeerId], bool],
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self.own_id = own_id
        self._may_accept = may_accept
        self._now = now
        self._rng = rng
        self._tunnels: dict[PeerId, Tunnel] = {}
        self._opened_at: dict[PeerId, float] = {}
        self._turns: deque[PeerId] = deque()
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._tunnels)

    def __iter__(self) -> Iterator[Tunnel]:
        return iter(list(self._tunnels.values()))

    def get(self, peer: PeerId) -> Tunnel | None:
        """The tunnel with a peer."""
        return self._tunnels.get(peer)

    @property
    def has_ready(self) -> bool:
        """Whether :meth:`next_payload` has something to give."""
        for peer in self._turns:
            tunnel = self._tunnels.get(peer)
            if tunnel is not None and tunnel.is_ready:
                return True
        return False

    # -- what we want

    def open(self, peer: PeerId) -> list[TunnelEffect]:
        """Ask a peer for a tunnel; nothing if there is one, or no room for one."""
        if peer in self._tunnels or peer == self.own_id or len(self._tunnels) >= MAX_TUNNELS:
            return []
        tunnel = self._add(peer, self._rng.getrandbits(64), is_initiator=True)
        return [Emit(peer, bytes(Open(tunnel.tunnel_id)))]

    def write(self, peer: PeerId, data: bytes) -> bool:
        """Queue bytes for a peer; see :meth:`Tunnel.write`."""
        tunnel = self._tunnels.get(peer)
        if tunnel is None:
            return True
        idle = not tunnel.waiting_bytes
        goes_on = tunnel.write(data)
        if idle and tunnel.waiting_bytes:
            self._turns.append(peer)
        return goes_on

    def consumed(self, peer: PeerId, size: int) -> list[TunnelEffect]:
        """The bytes of one :class:`Received` are dealt with."""
        tunnel = self._tunnels.get(peer)
        if tunnel is None:
            return []
        self._held_bytes -= size
        return tunnel.consumed(size)

    def close(self, peer: PeerId, reason: CloseReason = CloseReason.NORMAL) -> list[TunnelEffect]:
        """End a tunnel from our side; what waits is lost."""
        tunnel = self._tunnels.get(peer)
        if tunnel is None:
            return []
        self._drop(tunnel)
        payload = bytes(Close(tunnel.tunnel_id, reason))
        return [Emit(peer, payload), Ended(peer, reason)]

    def next_payload(self, largest: int = wire.MAX_DATA_BYTES) -> list[TunnelEffect]:
        """The next DATA frame, of the tunnel whose turn it is; nothing if none may go."""
        for _ in range(len(self._turns)):
            peer = self._turns.popleft()
            tunnel = self._tunnels.get(peer)
            if tunnel is None or not tunnel.waiting_bytes:
                continue
            if not tunnel.is_ready:
                self._turns.append(peer)
                continue
            frame, drained = tunnel.next_data(largest)
            if tunnel.waiting_bytes:
                self._turns.append(peer)
            effects: list[TunnelEffect] = [Emit(peer, bytes(frame))]
            if drained:
                effects.append(Drained(peer))
            return effects
        return []

    # -- what happens

    def received(self, peer: PeerId, payload: bytes) -> list[TunnelEffect]:
        """Take one payload that a peer is said to have sent."""
        try:
            frame = wire.decode(payload)
        except ClientError:
            return self.close(peer, CloseReason.PROTOCOL)
        if isinstance(frame, Open):
            return self._open_received(peer, frame)
        tunnel = self._tunnels.get(peer)
        if tunnel is None or tunnel.tunnel_id != frame.tunnel_id:
            return []  # of a tunnel that is over
        if isinstance(frame, Accept):
            return tunnel.accepted()
        if isinstance(frame, Close):
            self._drop(tunnel)
            return [Ended(peer, _known(frame.reason))]
        if isinstance(frame, Ack):
            wrong = tunnel.ack_received(frame)
            return [] if wrong is None else self.close(peer, wrong)
        result = tunnel.data_received(frame, self._now())
        if isinstance(result, CloseReason):
            return self.close(peer, result)
        self._held_bytes += len(frame.data)
        if self._held_bytes > MAX_HELD_BYTES:
            return self.close(peer, CloseReason.BUSY)
        return result

    def peer_gone(self, peer: PeerId) -> list[TunnelEffect]:
        """The relay says that the peer is not there (any more)."""
        tunnel = self._tunnels.get(peer)
        if tunnel is None:
            return []
        self._drop(tunnel)
        return [Ended(peer, CloseReason.NORMAL)]

    def relay_lost(self) -> list[TunnelEffect]:
        """Our registration is over: so is every tunnel, without resumption."""
        return [effect for peer in list(self._tunnels) for effect in self.peer_gone(peer)]

    def tick(self) -> list[TunnelEffect]:
        """Give up what was not accepted in time, close what is idle; every second or so."""
        now = self._now()
        effects: list[TunnelEffect] = []
        for tunnel in self:
            if tunnel.state is TunnelState.OPENING:
                if now - self._opened_at[tunnel.peer] >= ACCEPT_TIMEOUT_SECS:
                    effects += self.close(tunnel.peer, CloseReason.NORMAL)
            elif now - tunnel.last_data >= IDLE_TIMEOUT_SECS:
                effects += self.close(tunnel.peer, CloseReason.IDLE)
        return effects

    # -- inside

    def _open_received(self, peer: PeerId, frame: Open) -> list[TunnelEffect]:
        ended: list[TunnelEffect] = []
        tunnel = self._tunnels.get(peer)
        if tunnel is not None:
            if tunnel.tunnel_id == frame.tunnel_id and not tunnel.is_initiator:
                return []  # repeated on the way
            if tunnel.state is TunnelState.OPENING and self.own_id < peer:
                return []  # both want one: ours counts, the peer knows it
            # The peer has forgotten the tunnel, or its wish comes before ours.
            self._drop(tunnel)
            ended = [Ended(peer, CloseReason.NORMAL)]
        if len(self._tunnels) >= MAX_TUNNELS:
            return [*ended, Emit(peer, bytes(Close(frame.tunnel_id, CloseReason.BUSY)))]
        if not self._may_accept(peer):
            return [*ended, Emit(peer, bytes(Close(frame.tunnel_id, CloseReason.REFUSED)))]
        tunnel = self._add(peer, frame.tunnel_id, is_initiator=False)
        tunnel.state = TunnelState.OPEN
        return [*ended, Emit(peer, bytes(Accept(frame.tunnel_id))), Opened(peer)]

    def _add(self, peer: PeerId, tunnel_id: int, *, is_initiator: bool) -> Tunnel:
        now = self._now()
        tunnel = Tunnel(peer, tunnel_id, is_initiator=is_initiator, now=now)
        self._tunnels[peer] = tunnel
        self._opened_at[peer] = now
        return tunnel

    def _drop(self, tunnel: Tunnel) -> None:
        tunnel.closed()
        self._held_bytes -= tunnel.held_bytes
        del self._tunnels[tunnel.peer]
        del self._opened_at[tunnel.peer]


def _known(reason: int) -> CloseReason:
    try:
        return CloseReason(reason)
    except ValueError:
        return CloseReason.PROTOCOL
