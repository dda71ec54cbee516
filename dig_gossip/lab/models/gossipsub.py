"""Gossipsub v1.1, and v1.2 with IDONTWANT: one topic, honest peers.

A model, in the programs row of the stage table. Every node keeps a mesh of about D links along
which new messages go in full; once a heartbeat it announces (IHAVE) what it has seen lately to
some of the others, who ask (IWANT) for what they lack. Degrees of the mesh stay within D_low and
D_high but between two heartbeats.

In favor of gossipsub: messages are not signed and name no author (StrictNoSign), ids have 20
bytes, the topic's name has 16. Left out, because with honest peers nothing depends on it: scores
and opportunistic grafting, peer exchange, several topics. Control messages are not piggybacked,
except that ids share frames.

Source: libp2p specs, pubsub/gossipsub/gossipsub-v1.0.md, v1.1.md, v1.2.md, and the RPC of
pubsub/README.md (Protocol Buffers, with a length before each).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Final

from dig_gossip.effects import Deliver, Effect, Send, SetTimer, TimerKey
from dig_gossip.lab.models.frame import field_bytes, frame, opened, varint_bytes
from dig_gossip.lab.scenario import Gossipsub
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

PRUNE_BACKOFF_SECS: Final = 60.0
D_OUT: Final = 2  # links that we dialed ourselves, kept when the mesh is cut back
MAX_RETRANSMISSIONS: Final = 3  # of a message to a peer that asks for it
MAX_IHAVE_LENGTH: Final = 5000  # ids in an announcement
_TOPIC_BYTES: Final = 16
_ID_BYTES: Final = 20

_PUBLISH, _IHAVE, _IWANT, _GRAFT, _PRUNE, _IDONTWANT = range(1, 7)
KINDS: Final[Mapping[int, str]] = {
    _PUBLISH: "payload",
    _IHAVE: "announcements",
    _IWANT: "control",
    _GRAFT: "grafts",
    _PRUNE: "prunes",
    _IDONTWANT: "control",
}
_HEARTBEAT: Final[TimerKey] = ("heartbeat", b"")
_TOPIC = field_bytes(_TOPIC_BYTES)
_ONE_ID = field_bytes(_ID_BYTES)


def _control_bytes(content: int) -> int:
    """Bytes of an RPC with one control message with one entry of ``content`` bytes."""
    control = field_bytes(content)
    rpc = field_bytes(control)
    return varint_bytes(rpc) + rpc


def _publish_bytes(size: int) -> int:
    """Bytes of an RPC with one message of ``size`` bytes."""
    rpc = field_bytes(field_bytes(size) + _TOPIC)
    return varint_bytes(rpc) + rpc


_GRAFT_FRAME = frame(_GRAFT, _control_bytes(_TOPIC))
_PRUNE_FRAME = frame(_PRUNE, _control_bytes(_TOPIC + 2))  # with the backoff in seconds


class GossipsubMachine:
    """One node. Seen messages are never forgotten (the specification: after two minutes).

    :param with_idontwant: v1.2.
    """

    def __init__(
        self,
        config: Gossipsub,
        *,
        with_idontwant: bool,
        now: Callable[[], float],
        rng: Random,
    ) -> None:
        self._config = config
        self._with_idontwant = with_idontwant
        self._now = now
        self._rng = rng
        #: peer -> whether we dialed it
        self._peers: dict[PeerId, bool] = {}
        self.mesh: dict[PeerId, None] = {}
        self._backoff: dict[PeerId, float] = {}
        self._seen: set[bytes] = set()
        #: messages of recent heartbeats, this one first
        self._windows: deque[dict[bytes, Message]] = deque([{}])
        self._asked: dict[tuple[PeerId, bytes], int] = {}
        self._unwanted: dict[PeerId, set[bytes]] = {}

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """Take a link in; the next heartbeat may graft it. The first one begins the beat."""
        is_first = not self._peers
        self._peers[peer] = dialed
        if not is_first:
            return []
        return [SetTimer(_HEARTBEAT, self._config.heartbeat_secs * self._rng.random())]

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a link; the next heartbeat replaces it."""
        self._peers.pop(peer, None)
        self.mesh.pop(peer, None)
        self._unwanted.pop(peer, None)
        return []

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Nothing depends on it."""
        return []

    def publish(self, message: Message) -> list[Effect]:
        """Send to all peers (flood publishing), or along the mesh."""
        self._keep(message)
        peers = self._peers if self._config.flood_publish else self.mesh
        return self._push(message, peers, None)

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Take a frame in."""
        got = opened(message)
        if got.type == _PUBLISH:
            assert got.payload is not None
            return self._arrived(peer, got.payload)
        if got.type == _IDONTWANT:
            self._unwanted.setdefault(peer, set()).update(got.content)
            return []
        if got.type == _IHAVE:
            wanted = [digest for digest in got.content if digest not in self._seen]
            return [self._ids(_IWANT, (peer,), wanted)] if wanted else []
        if got.type == _IWANT:
            return self._serve(peer, got.content)
        if got.type == _GRAFT:
            return self._grafted(peer)
        self.mesh.pop(peer, None)
        self._backoff[peer] = self._now() + PRUNE_BACKOFF_SECS
        return []

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """The heartbeat: mend the mesh, announce, and let the windows move on."""
        effects = [*self._mend(), *self._gossip()]
        self._windows.appendleft({})
        if len(self._windows) > self._config.history_length:
            for digest in self._windows.pop():
                for unwanted in self._unwanted.values():
                    unwanted.discard(digest)
        if len(self._asked) > 10_000:
            self._asked.clear()
        effects.append(SetTimer(_HEARTBEAT, self._config.heartbeat_secs))
        return effects

    def tree_links(self) -> int:
        """The mesh."""
        return len(self.mesh)

    # --- messages ---------------------------------------------------------------------------

    def _keep(self, message: Message) -> None:
        self._seen.add(message.data)
        self._windows[0][message.data] = message

    def _arrived(self, peer: PeerId, message: Message) -> list[Effect]:
        digest = message.data
        if digest in self._seen:
            return []
        self._keep(message)
        effects: list[Effect] = [Deliver(peer, message)]
        if self._with_idontwant and len(digest) >= self._config.idontwant_bytes:
            others = tuple([other for other in self.mesh if other != peer])
            if others:
                effects.append(self._ids(_IDONTWANT, others, [digest]))
        return effects + self._push(message, self.mesh, peer)

    def _push(
        self, message: Message, peers: Iterable[PeerId], source: PeerId | None
    ) -> list[Effect]:
        digest, unwanted = message.data, self._unwanted
        chosen = tuple(
            [peer for peer in peers if peer != source and digest not in unwanted.get(peer, ())]
        )
        if not chosen:
            return []
        return [Send(chosen, frame(_PUBLISH, _publish_bytes(len(digest)), payload=message))]

    def _serve(self, peer: PeerId, digests: Iterable[bytes]) -> list[Effect]:
        effects: list[Effect] = []
        for digest in digests:
            for window in self._windows:
                message = window.get(digest)
                if message is not None:
                    times = self._asked.get((peer, digest), 0) + 1
                    self._asked[peer, digest] = times
                    if times <= MAX_RETRANSMISSIONS:
                        effects += self._push(message, (peer,), None)
                    break
        return effects

    @staticmethod
    def _ids(kind: int, peers: tuple[PeerId, ...], digests: list[bytes]) -> Send:
        topic = _TOPIC if kind == _IHAVE else 0
        size = _control_bytes(topic + len(digests) * _ONE_ID)
        return Send(peers, frame(kind, size, digests))

    # --- the mesh ---------------------------------------------------------------------------

    def _grafted(self, peer: PeerId) -> list[Effect]:
        if peer in self.mesh or peer not in self._peers:
            return []
        is_full = len(self.mesh) >= self._config.d_high and not self._peers[peer]
        if is_full or self._backoff.get(peer, 0.0) > self._now():
            return [self._prune((peer,))]
        self.mesh[peer] = None
        return []

    def _prune(self, peers: tuple[PeerId, ...]) -> Send:
        until = self._now() + PRUNE_BACKOFF_SECS
        for peer in peers:
            self.mesh.pop(peer, None)
            self._backoff[peer] = until
        return Send(peers, _PRUNE_FRAME)

    def _mend(self) -> list[Effect]:
        config, mesh, now = self._config, self.mesh, self._now()
        if len(mesh) < config.d_low:
            candidates = [
                peer
                for peer in self._peers
                if peer not in mesh and self._backoff.get(peer, 0.0) <= now
            ]
            count = min(config.d - len(mesh), len(candidates))
            chosen = tuple(self._rng.sample(candidates, count))
            for peer in chosen:
                mesh[peer] = None
            return [Send(chosen, _GRAFT_FRAME)] if chosen else []
        if len(mesh) > config.d_high:
            order = self._rng.sample(list(mesh), len(mesh))
            dialed = [peer for peer in order if self._peers[peer]][:D_OUT]
            order = dialed + [peer for peer in order if peer not in dialed]
            return [self._prune(tuple(order[config.d :]))]
        return []

    def _gossip(self) -> list[Effect]:
        config = self._config
        recent = list(self._windows)[: config.history_gossip]
        digests = [digest for window in recent for digest in window][:MAX_IHAVE_LENGTH]
        others = [peer for peer in self._peers if peer not in self.mesh]
        if not digests or not others:
            return []
        count = max(config.d_lazy, int(config.gossip_factor * len(others)))
        chosen = tuple(self._rng.sample(others, min(count, len(others))))
        return [self._ids(_IHAVE, chosen, digests)]
