"""All tunnels of a node: each becomes a transport, and the transport a peer's connection.

What a session has to send waits in its own lanes, above TLS; here at most 128 KiB of each tunnel
wait, and their frames leave in turns, no faster than the relay allows.

Source: behaviour RLY-101-X, RLY-103-X; wire §15.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final, Protocol, cast

from dig_gossip.connection.opening import Opening
from dig_gossip.connection.stack import PeerStack
from dig_gossip.relay.limits import Bucket
from dig_gossip.relay.transport import TunnelTransport
from dig_gossip.relay.tunnel import (
    Drained,
    Emit,
    Ended,
    Opened,
    Received,
    TunnelEffect,
    Tunnels,
    TunnelState,
)
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.clock import Clock, Timer
from dig_gossip.wire.tunnel import CloseReason

FRAMES_PER_SECOND: Final = 200.0
BYTES_PER_SECOND: Final = 900_000.0
_SOONEST_SECS: Final = 0.005
#: Characters of JSON that a byte of payload costs at most; what the relay counts.
_JSON_CHARS: Final = 4


class TunnelHost(Protocol):
    """The node, as its tunnels see it."""

    def may_accept_tunnel(self, peer: PeerId) -> bool:
        """Whether a peer may open a tunnel to us."""

    def tunnel_opening(self, peer: PeerId, is_outbound: bool) -> Opening | None:
        """Make the opening of the connection inside a new tunnel; None closes it."""

    def tunnel_failed(self, peer: PeerId) -> None:
        """A tunnel that we asked for did not come about."""


class Carrier(Protocol):
    """What carries the payloads: the registration at the relay."""

    @property
    def is_writable(self) -> bool:
        """Whether what is sent now leaves at once."""

    @property
    def is_binary(self) -> bool:
        """Whether payloads travel as they are, not as JSON."""

    def carry(self, peer: PeerId, payload: bytes) -> None:
        """Send a payload to a peer."""


class TunnelHub:
    """Opens tunnels, takes those of others, and runs a peer's connection in each.

    :param address: the relay's, which is all that can be said of where a peer is.
    :param is_paced: whether to keep within the limits that relays have by default.
    Bounds: as :class:`~dig_gossip.relay.tunnel.Tunnels`; one transport for each.
    """

    def __init__(
        self,
        host: TunnelHost,
        carrier: Carrier,
        stack: PeerStack,
        clock: Clock,
        rng: Random,
        *,
        address: PeerAddress,
        is_paced: bool = True,
    ) -> None:
        self._host = host
        self._carrier = carrier
        self._stack = stack
        self._clock = clock
        self._address = address
        self._tunnels = Tunnels(
            stack.tls.identity.peer_id,
            may_accept=lambda peer: self._host.may_accept_tunnel(peer),
            now=clock.monotonic,
            rng=rng,
        )
        self._ends: dict[PeerId, TunnelTransport] = {}
        now = clock.monotonic()
        self._frames = Bucket(FRAMES_PER_SECOND if is_paced else 0.0, now)
        self._bytes = Bucket(BYTES_PER_SECOND if is_paced else 0.0, now)
        self._wake: Timer | None = None
        self._pumping: Timer | None = None

    def __len__(self) -> int:
        return len(self._tunnels)

    @property
    def is_opening(self) -> bool:
        """Whether a tunnel is on its way to being open."""
        return any(tunnel.state is TunnelState.OPENING for tunnel in self._tunnels)

    def retire(self, host: TunnelHost) -> None:
        """Carry on what is open, and give up what is not: the id of this registration is over.

        :param host: is asked and told from now on.
        """
        self._host = host
        for tunnel in self._tunnels:
            if tunnel.state is TunnelState.OPENING:
                self._perform(self._tunnels.close(tunnel.peer))

    def begin(self) -> None:
        """A registration begins, perhaps under another id than the last one."""
        self._tunnels.own_id = self._stack.tls.identity.peer_id

    def __contains__(self, peer: PeerId) -> bool:
        return self._tunnels.get(peer) is not None

    # -- for the client

    def open(self, peer: PeerId) -> None:
        """Ask a peer for a tunnel, unless there is one."""
        self._perform(self._tunnels.open(peer))

    def received(self, peer: PeerId, payload: bytes) -> None:
        """A frame came that is said to be from a peer."""
        self._perform(self._tunnels.received(peer, payload))
        self.pump()

    def peer_gone(self, peer: PeerId) -> None:
        """The relay says that a peer has left."""
        self._perform(self._tunnels.peer_gone(peer))

    def relay_lost(self) -> None:
        """Every tunnel is over."""
        self._perform(self._tunnels.relay_lost())
        for timer in (self._wake, self._pumping):
            if timer is not None:
                timer.cancel()

    def tick(self) -> None:
        """Once a second."""
        self._perform(self._tunnels.tick())

    def pump(self) -> None:
        """Send DATA while the relay takes it and the rate allows."""
        while self._carrier.is_writable and self._tunnels.has_ready:
            now = self._clock.monotonic()
            wait = max(self._frames.wait(now), self._bytes.wait(now))
            if wait > 0:
                self._wake_in(max(wait, _SOONEST_SECS))
                return
            effects = self._tunnels.next_payload()
            for effect in effects:
                if isinstance(effect, Emit):
                    size = len(effect.payload)
                    self._frames.charge(1, now)
                    self._bytes.charge(size if self._carrier.is_binary else size * _JSON_CHARS, now)
            self._perform(effects)
            for effect in effects:
                if isinstance(effect, Emit):
                    self._flush(effect.peer)

    # -- for the transports

    def tunnel_write(self, peer: PeerId, data: bytes) -> bool:
        """Queue bytes; returns whether the writer may go on."""
        goes_on = self._tunnels.write(peer, data)
        if self._pumping is None or not self._pumping.active:
            # What is written in one turn leaves in one frame.
            self._pumping = self._clock.call_later(0, self.pump)
        return goes_on

    def tunnel_waiting(self, peer: PeerId) -> int:
        """Bytes that wait to be sent."""
        tunnel = self._tunnels.get(peer)
        return 0 if tunnel is None else tunnel.waiting_bytes

    def tunnel_consumed(self, peer: PeerId, size: int) -> None:
        """Received bytes are dealt with."""
        self._perform(self._tunnels.consumed(peer, size))

    def tunnel_close(self, peer: PeerId) -> None:
        """End a tunnel."""
        self._perform(self._tunnels.close(peer))

    # -- inside

    def _perform(self, effects: list[TunnelEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Emit):
                self._carrier.carry(effect.peer, effect.payload)
            elif isinstance(effect, Received):
                end = self._ends.get(effect.peer)
                if end is not None:
                    end.received(effect.data)
            elif isinstance(effect, Opened):
                self._opened(effect.peer)
            elif isinstance(effect, Drained):
                end = self._ends.get(effect.peer)
                if end is not None:
                    end.drained()
            elif isinstance(effect, Ended):
                self._ended(effect)

    def _opened(self, peer: PeerId) -> None:
        tunnel = self._tunnels.get(peer)
        if tunnel is None:
            return
        opening = self._host.tunnel_opening(peer, tunnel.is_initiator)
        if opening is None:
            self._perform(self._tunnels.close(peer, CloseReason.REFUSED))
            return
        end = self._ends[peer] = TunnelTransport(self, peer, self._address)
        protocol = self._stack.factory(opening).buildProtocol(cast(Any, end.getPeer()))
        end.protocol = protocol
        protocol.makeConnection(cast(Any, end))

    def _ended(self, effect: Ended) -> None:
        end = self._ends.pop(effect.peer, None)
        if end is None:
            self._host.tunnel_failed(effect.peer)
        else:
            end.ended(effect.reason is CloseReason.NORMAL)

    def _flush(self, peer: PeerId) -> None:
        end = self._ends.get(peer)
        if end is not None:
            end.flushed()

    def _wake_in(self, seconds: float) -> None:
        if self._wake is None or not self._wake.active:
            self._wake = self._clock.call_later(seconds, self.pump)
