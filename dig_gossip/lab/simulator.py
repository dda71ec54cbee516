"""The discrete-event simulator: links, uplinks, timers, and the order in which things happen.

Programs row of the stage table. A calendar of plain tuples holds all that is to come; ties are
broken by the order in which events were made, so that a run depends on nothing but its inputs.
This loop is where the time goes that engines do not take: whatever is done for each frame is
done here and in place.

The calendar has a list for each millisecond in which something happens, which is sorted when its
turn comes. One heap of everything costs several times as much: each step down such a heap of ten
thousands looks at tuples that lie anywhere in memory.

What is simulated of a link: its latency, the sender's uplink (one queue, first come, first
served), and frames that TCP has to send again. Frames on one link arrive in the order in which
they were sent. What is not: a receiver's downlink and processing time, TCP's windows.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right, insort
from collections.abc import Callable, Mapping
from itertools import islice
from operator import itemgetter
from random import Random
from typing import Any, Final

from dig_gossip.effects import ClearTimer, Deliver, Effect, Ping, Send, SetTimer, TimerKey
from dig_gossip.lab.machine import Machine
from dig_gossip.lab.recorder import FRAMING_BYTES, Record, Traffic
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

# In the second place of an event: a node's number for a frame, or one of these.
_TIMER: Final = -1
_CALL: Final = -2

#: Time, receiver or one of the above, and two things more, by that: sender and frame; node and key;
#: nothing and what to call.
_Event = tuple[float, int, Any, Any]

_PAGES_A_SEC: Final = 1000
_time_of = itemgetter(0)


class Simulator:
    """Nodes with their machines, and all events between them.

    :param nodes: how many; :attr:`machines` must get one for each before anything happens.
    :param kinds: opcode -> kind of traffic.
    :param uplinks: of each node, bytes a second, 0.0 if unlimited.
    :param loss: share of frames that arrive ``retransmit`` seconds late.
    :param rng: for losses only.
    :ivar now: simulated seconds.
    :ivar links: of each node, its peers with the one-way latency in seconds.
    :ivar alive: of each node, whether it sends and receives.
    :ivar delays: of each node, seconds by which it sends late; empty for nobody.
    :ivar on_frame: called for every frame that arrives with (receiver, sender, message), if set.
    :ivar on_ping: called when a node wants to measure a round trip, of (node, peer), if set.
    :ivar on_other: called with (node, effect) for effects that are none of the simulator's, if set.
    :ivar events: how many there have been.
    """

    def __init__(
        self,
        *,
        nodes: int,
        kinds: Mapping[int, str],
        uplinks: list[float] | None = None,
        loss: float = 0.0,
        retransmit: float = 0.2,
        rng: Random,
    ) -> None:
        self.now = 0.0
        self.machines: list[Machine] = []
        self.links: list[dict[int, float]] = [{} for _ in range(nodes)]
        self.alive = bytearray(b"\x01" * nodes)
        self._life = bytearray(b"\x01" * nodes)
        self.traffic = Traffic()
        self.records: dict[int, Record] = {}
        self.delays: dict[int, float] = {}
        self.on_frame: Callable[[int, int, Message], None] | None = None
        self.on_ping: Callable[[int, PeerId], None] | None = None
        self.on_other: Callable[[int, Effect], None] | None = None
        self.deliveries = 0
        self.payload_frames = 0
        self.events = 0
        self._kinds = kinds
        self._uplinks = uplinks
        self._free = [0.0] * nodes
        self._loss = loss
        self._retransmit = retransmit
        self._rng = rng
        self._latest: dict[tuple[int, PeerId], float] = {}
        #: number of each page to come -> its events, in the order in which they were made
        self._pages: dict[int, list[_Event]] = {}
        self._page_numbers: list[int] = []  # a heap
        self._page: list[_Event] = []  # the present one, in order
        self._page_number = -1
        self._done = 0  # how many events of the present page have happened
        self._timers: list[dict[TimerKey, _Event]] = [{} for _ in range(nodes)]
        self._is_simple = not loss and (uplinks is None or not any(uplinks))

    # --- links and nodes --------------------------------------------------------------------

    def connect(self, dialer: int, dialed: int, latency: float) -> None:
        """Open a link; both ends know at once."""
        self.links[dialer][dialed] = latency
        self.links[dialed][dialer] = latency
        for node, peer in ((dialer, dialed), (dialed, dialer)):
            machine = self.machines[node]
            self.perform(node, machine.peer_up(_peer(peer), dialed=node == dialer, rtt=2 * latency))

    def disconnect(self, a: int, b: int) -> None:
        """Close a link, if there is one; living ends know at once, frames under way are lost."""
        for node, peer in ((a, b), (b, a)):
            if self.links[node].pop(peer, None) is not None and self.alive[node]:
                self.perform(node, self.machines[node].peer_down(_peer(peer)))

    def silence(self, node: int) -> None:
        """Let a node fall silent; nobody notices."""
        self.alive[node] = 0
        self._timers[node].clear()

    def revive(self, node: int, machine: Machine) -> None:
        """Start a node afresh; it has no links."""
        self.machines[node] = machine
        self.alive[node] = 1
        self._life[node] = self._life[node] % 255 + 1
        self.links[node].clear()

    # --- time -------------------------------------------------------------------------------

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Have something called at a time."""
        self._plan((time, _CALL, None, call))

    def _plan(self, event: _Event) -> None:
        """Put an event on the calendar, behind those of the same time."""
        number = int(event[0] * _PAGES_A_SEC)
        if number <= self._page_number:
            insort(self._page, event, self._done, key=_time_of)  # behind the present one, too
            return
        page = self._pages.get(number)
        if page is None:
            self._pages[number] = [event]
            heapq.heappush(self._page_numbers, number)
        else:
            page.append(event)

    def _turn(self, end: float) -> bool:
        """Turn to the next page, if there is one that begins before the end."""
        numbers = self._page_numbers
        if not numbers or numbers[0] > end * _PAGES_A_SEC:
            return False
        self._page_number = heapq.heappop(numbers)
        self._page = self._pages.pop(self._page_number)
        self._page.sort(key=_time_of)
        self._done = 0
        return True

    def run_until(self, end: float) -> None:
        """Let everything happen that happens until then."""
        happened = self._happen(end)
        while self._done == len(self._page) and self._turn(end):
            happened += self._happen(end)
        self.events += happened
        self.now = end

    def _happen(self, end: float) -> int:
        """Let what is left of the present page happen, including what is added meanwhile.

        :returns: how many events there were.
        """
        alive, links, machines, timers = self.alive, self.links, self.machines, self._timers
        perform, on_frame, first = self.perform, self.on_frame, self._done
        for event in islice(self._page, first, None):
            time, node, who, what = event
            if time > end:
                break
            self.now = time
            if node >= 0:
                if not alive[node] or who not in links[node]:
                    continue
                if on_frame is not None:
                    on_frame(node, who, what)
                effects = machines[node].received(who, what)
                if effects:
                    perform(node, effects)
            elif node == _TIMER:
                armed = timers[who]
                if armed.get(what) is event:
                    del armed[what]
                    effects = machines[who].timer_fired(what)
                    if effects:
                        perform(who, effects)
            else:
                what()
        self._done = bisect_right(self._page, end, first, key=_time_of)
        return self._done - first

    # --- messages ---------------------------------------------------------------------------

    def publish(self, record: Record) -> None:
        """Let a message's origin spread it."""
        self.records[id(record.message.data)] = record
        self.perform(record.origin, self.machines[record.origin].publish(record.message))

    def perform(self, node: int, effects: list[Effect]) -> None:
        """Do what a machine wants done."""
        for effect in effects:
            kind = effect.__class__
            if kind is Send:
                self.send(node, effect.peers, effect.message)  # type: ignore[union-attr]
            elif kind is SetTimer:
                key = effect.key  # type: ignore[union-attr]
                event = (self.now + effect.delay, _TIMER, node, key)  # type: ignore[union-attr]
                self._timers[node][key] = event
                self._plan(event)
            elif kind is Deliver:
                self._delivered(node, effect.peer, effect.message)  # type: ignore[union-attr]
            elif kind is Ping:
                if self.on_ping is not None:
                    self.on_ping(node, effect.peer)  # type: ignore[union-attr]
            elif kind is ClearTimer:
                self._timers[node].pop(effect.key, None)  # type: ignore[union-attr]
            elif self.on_other is not None:
                self.on_other(node, effect)

    def send(self, node: int, peers: tuple[PeerId, ...], message: Message) -> None:
        """Put a frame on links; those that are gone get none."""
        links = self.links[node]
        size, frames = len(message), len(peers)
        kind = self._kinds[message.type]
        count = self.traffic.current[kind]
        count[0] += frames
        count[1] += frames * size
        if kind == "payload":
            self.payload_frames += frames
            carried = message if message.__class__ is Message else message.payload  # type: ignore[attr-defined]
            record = self.records.get(id(carried.data))
            if record is not None:
                record.copies += frames
        now = self.now
        if self.delays:
            now += self.delays.get(node, 0.0)
        plan = self._plan
        if self._is_simple:
            pages, present = self._pages, self._page_number
            for peer in peers:
                latency = links.get(peer)  # type: ignore[call-overload]
                if latency is None:
                    continue
                arrival = now + latency
                number = int(arrival * _PAGES_A_SEC)
                if number > present and number in pages:  # nearly always: without a call
                    pages[number].append((arrival, peer, node, message))  # type: ignore[arg-type]
                else:
                    plan((arrival, peer, node, message))  # type: ignore[arg-type]
            return
        uplink = self._uplinks[node] if self._uplinks is not None else 0.0
        time = (size + FRAMING_BYTES) / uplink if uplink else 0.0
        free = max(self._free[node], now)
        for peer in peers:
            latency = links.get(peer)  # type: ignore[call-overload]
            if latency is None:
                continue
            free += time
            arrival = free + latency
            if self._loss:
                if self._rng.random() < self._loss:
                    arrival += self._retransmit
                key = (node, peer)
                arrival = max(arrival, self._latest.get(key, -math.inf))
                self._latest[key] = arrival
            plan((arrival, peer, node, message))  # type: ignore[arg-type]
        self._free[node] = free

    def deliver_at(self, time: float, node: int, peer: PeerId, message: Message) -> None:
        """Have a frame of a node's arrive at a peer."""
        self._plan((time, peer, node, message))  # type: ignore[arg-type]

    def occupy(self, node: int, peer: int, message: Message, done: Callable[[], None]) -> None:
        """Send something that no machine takes in: it takes its turn, and is not counted.

        :param done: called when it has arrived.
        """
        uplink = self._uplinks[node] if self._uplinks is not None else 0.0
        free = max(self._free[node], self.now)
        free += (len(message) + FRAMING_BYTES) / uplink if uplink else 0.0
        self._free[node] = free
        self.at(free + self.links[node][peer], done)

    def count(self, kind: str, frames: int, size: int) -> None:
        """Count frames that are not simulated one by one, of ``size`` bytes each."""
        count = self.traffic.current[kind]
        count[0] += frames
        count[1] += frames * size

    def _delivered(self, node: int, sender: PeerId, message: Message) -> None:
        record = self.records.get(id(message.data))
        if record is None:
            return
        got, life = record.got[node], self._life[node]
        if got:
            # A node that was started afresh may well get what it got in an earlier life.
            record.repeated += got == life
            return
        record.got[node] = life
        record.delays.append(self.now - record.sent)
        self.deliveries += 1
        if record.depth:
            record.depth[node] = record.depth.get(sender, 0) + 1  # type: ignore[call-overload]


def _peer(node: int) -> PeerId:
    return node  # type: ignore[return-value]
