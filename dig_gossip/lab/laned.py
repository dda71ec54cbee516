"""A simulator whose uplinks have the lanes of the node, and bulk to keep them busy.

Programs row of the stage table. Each session has its :class:`~dig_gossip.connection.lanes.Lanes`,
with levels of backpressure and without rate limits. Below them the transport holds what it was
handed, at most one frame or 64 KiB more than it has sent, which nothing overtakes (design D9). A
node's uplink sends one frame at a time, and serves its sessions in turns, as TCP does about::

    send() ──▶ lanes of the session ──▶ 64 KiB of the transport ──▶ uplink of the node ──▶ link

Source: design D9; behaviour §25 to §27.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Final

from dig_gossip.connection.lanes import Lanes, Offer, Waits
from dig_gossip.connection.transfers import Reassembly
from dig_gossip.constants import NORMAL_DELAY_FLUSH_INTERVAL_MS
from dig_gossip.lab.engine_options import Bulk
from dig_gossip.lab.recorder import FRAMING_BYTES, quantile
from dig_gossip.lab.simulator import Simulator
from dig_gossip.types.peer import PeerId
from dig_gossip.types.sections import BackpressureConfig
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType, MessagePriority

TRANSPORT_BYTES: Final = 65_536
NORMAL_DELAY_SECS: Final = NORMAL_DELAY_FLUSH_INTERVAL_MS / 1000  # as in the node's writer
_BULK: Final = int(ChiaMessageType.RESPOND_BLOCKS)
_CHUNK: Final = int(DigMessageType.MESSAGE_CHUNK)
_MAX_BULK_BYTES: Final = 64 * 1024 * 1024


class _Session:
    """One direction of a link.

    :ivar below: what the transport was handed and the uplink has not sent; ``below_bytes`` of it.
    :ivar has_turn: whether it stands in the uplink's queue.
    :ivar arriving: at the other end, what has come of bulk.
    :ivar ended: whom to call when bulk has come, in order.
    """

    __slots__ = ("arriving", "below", "below_bytes", "ended", "has_turn", "lanes")

    def __init__(self, lanes: Lanes) -> None:
        self.lanes = lanes
        self.below: deque[OutboundFrame] = deque()
        self.below_bytes = 0
        self.has_turn = False
        self.arriving = Reassembly(lambda _: _MAX_BULK_BYTES)
        self.ended: deque[Callable[[], None]] = deque()

    def next_frame(self) -> OutboundFrame | None:
        """Refill the transport from the lanes, and take the first frame out."""
        while self.below_bytes < TRANSPORT_BYTES:
            frame = self.lanes.take()
            if frame is None:
                break
            self.below.append(frame)
            self.below_bytes += frame.size
        if not self.below:
            return None
        frame = self.below.popleft()
        self.below_bytes -= frame.size
        return frame


class LanedSimulator(Simulator):
    """See the module; for machines that send nothing but real messages, on links without losses.

    :ivar outcomes: what became of messages that were offered, by name.
    """

    def __init__(self, *, levels: BackpressureConfig, **options: Any) -> None:  # Any: as the base
        super().__init__(**options)
        nodes = range(len(self.links))
        self.outcomes: Counter[str] = Counter()
        self._levels = levels
        self._sessions: list[dict[PeerId, _Session]] = [{} for _ in nodes]
        self._turns: list[deque[PeerId]] = [deque() for _ in nodes]
        self._busy = bytearray(len(self.links))

    def send(self, node: int, peers: tuple[PeerId, ...], message: Message) -> None:
        """Offer a frame to the lanes of sessions."""
        kind = self._kinds[message.type]
        self.count(kind, len(peers), len(message))
        if kind == "payload":
            self.payload_frames += len(peers)
            record = self.records.get(id(message))
            if record is not None:
                record.copies += len(peers)
        for peer in peers:
            self._offer(node, peer, message, is_reply=False)
        self._pump(node)

    def occupy(self, node: int, peer: int, message: Message, done: Callable[[], None]) -> None:
        """Offer bulk to the lanes of a session."""
        name: Any = peer  # Any: a number in the place of an id
        session = self._offer(node, name, message, is_reply=True)
        if session is not None:
            session.ended.append(done)
        self._pump(node)

    def disconnect(self, a: int, b: int) -> None:
        """Close a link; what waited for it is gone."""
        for node, peer in ((a, b), (b, a)):
            name: Any = peer  # Any: as above
            self._sessions[node].pop(name, None)
        super().disconnect(a, b)

    def waits(self) -> list[Waits]:
        """How long messages waited, by lane, all sessions together."""
        totals = [Waits(), Waits(), Waits()]
        for sessions in self._sessions:
            for session in sessions.values():
                for total, waited in zip(totals, session.lanes.waited, strict=True):
                    total.merge(waited)
        return totals

    # --- inside -----------------------------------------------------------------------------

    def _offer(
        self, node: int, peer: PeerId, message: Message, *, is_reply: bool
    ) -> _Session | None:
        """Put a message into the lanes of a session; None if that cannot take it."""
        if self.links[node].get(peer) is None:  # type: ignore[call-overload]
            return None
        session = self._sessions[node].get(peer)
        if session is None:
            lanes = Lanes(self._levels, cuts=True, now=lambda: self.now)
            session = self._sessions[node][peer] = _Session(lanes)
        offer = session.lanes.offer(OutboundFrame(message), is_reply=is_reply)
        self.outcomes[offer.value] += 1
        if offer is Offer.DELAYED:
            self.at(self.now + NORMAL_DELAY_SECS, partial(self._release, node, peer, session))
        if not offer:
            return None
        self._stand_in_line(node, peer, session)
        return session

    def _stand_in_line(self, node: int, peer: PeerId, session: _Session) -> None:
        if not session.has_turn:
            session.has_turn = True
            self._turns[node].append(peer)

    def _release(self, node: int, peer: PeerId, session: _Session) -> None:
        if self._is_open(node, peer, session):
            session.lanes.release()
            self._stand_in_line(node, peer, session)
            self._pump(node)

    def _pump(self, node: int) -> None:
        """Let the uplink send the next frame, unless it is sending one."""
        if self._busy[node]:
            return
        turns, sessions = self._turns[node], self._sessions[node]
        uplink = self._uplinks[node] if self._uplinks is not None else 0.0
        while turns:
            peer = turns.popleft()
            session = sessions.get(peer)
            if session is None:
                continue  # the link is gone
            frame = session.next_frame()
            if frame is None:
                session.has_turn = False
                continue
            turns.append(peer)
            if uplink:
                self._busy[node] = 1
                duration = (frame.size + FRAMING_BYTES) / uplink
                self.at(
                    self.now + duration, partial(self._sent, node, peer, session, frame.message)
                )
                return
            self._leave(node, peer, session, frame.message)

    def _sent(self, node: int, peer: PeerId, session: _Session, message: Message) -> None:
        self._busy[node] = 0
        self._leave(node, peer, session, message)
        self._pump(node)

    def _leave(self, node: int, peer: PeerId, session: _Session, message: Message) -> None:
        latency = self.links[node].get(peer)  # type: ignore[call-overload]
        if latency is None or not self.alive[node] or not self._is_open(node, peer, session):
            return
        if message.type in (_CHUNK, _BULK):
            self.at(self.now + latency, partial(self._bulk_came, node, peer, session, message))
        else:
            self.deliver_at(self.now + latency, node, peer, message)

    def _is_open(self, node: int, peer: PeerId, session: _Session) -> bool:
        """Whether a session is not one of an earlier link."""
        return self._sessions[node].get(peer) is session

    def _bulk_came(self, node: int, peer: PeerId, session: _Session, message: Message) -> None:
        if not self._is_open(node, peer, session):
            return
        if message.type == _BULK or session.arriving.received(message.data) is not None:
            session.ended.popleft()()


class BulkLoad:
    """Some nodes that always have an answer to send to one of their peers.

    :param rng: chooses them, and whom they answer.
    :ivar took: seconds that each answer took, from being asked for to having arrived.
    """

    def __init__(self, simulator: Simulator, options: Bulk, rng: Random) -> None:
        self.took: list[float] = []
        self.nodes: list[int] = []
        self._simulator = simulator
        self._options = options
        self._message = Message(_BULK, 1, bytes(options.bytes))
        self._rng = rng

    def start(self) -> None:
        """Let the first answers be asked for."""
        nodes = range(len(self._simulator.links))
        self.nodes = self._rng.sample(nodes, round(self._options.share * len(nodes)))
        for node in self.nodes:
            peers = list(self._simulator.links[node])
            if peers:
                peer = self._rng.choice(peers)
                for _ in range(self._options.outstanding):
                    self._ask(node, peer)

    def _ask(self, node: int, peer: int) -> None:
        simulator = self._simulator
        if peer in simulator.links[node] and simulator.alive[node]:
            came = partial(self._came, node, peer, simulator.now)
            simulator.occupy(node, peer, self._message, came)

    def _came(self, node: int, peer: int, asked: float) -> None:
        self.took.append(self._simulator.now - asked)
        self._ask(node, peer)

    def facts(self) -> dict[str, float]:
        """What came of it: answers, how long they took, and what they filled of uplinks."""
        took = sorted(self.took)
        seconds = self._simulator.now * max(1, len(self.nodes))
        mbit = len(took) * len(self._message) * 8e-6 / seconds if seconds else 0.0
        return {
            "bulk.messages": float(len(took)),
            "bulk.latency_p50": quantile(took, 0.5),
            "bulk.mbit_a_node": round(mbit, 6),
        }


def lane_facts(simulator: LanedSimulator) -> dict[str, float]:
    """How long messages waited in each lane, and what became of them."""
    facts = {f"lanes.{name}": float(count) for name, count in sorted(simulator.outcomes.items())}
    for lane, waits in zip(MessagePriority, simulator.waits(), strict=True):
        if waits.total:
            facts[f"lanes.{lane.name.lower()}_wait_p99"] = round(waits.percentile(0.99), 6)
    return facts
