"""Two nodes that cannot confer must decide alike: the duplicate rule seen from both ends."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from functools import partial

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.peer_table import PeerTable, Refused, Resolution, Supersedes
from dig_gossip.types.peer import PeerId, TransportKind
from tests.connection import ManualTime, peer
from tests.connection.test_peer_table import FakeSession

DIRECT, RELAY, TOR = TransportKind.DIRECT, TransportKind.RELAY, TransportKind.TOR


@attrs.define(eq=False)
class Wire:
    """One connection between the two nodes: a queue of messages each way."""

    dialer: Node
    acceptor: Node
    transport: TransportKind
    queues: dict[str, deque[tuple[float, str]]] = attrs.field(
        factory=lambda: {"to dialer": deque(), "to acceptor": deque()}
    )
    ends: dict[PeerId, FakeSession] = attrs.field(factory=dict)
    is_pending: bool = True

    def send(self, sender: Node, text: str, now: float) -> None:
        queue = "to acceptor" if sender is self.dialer else "to dialer"
        self.queues[queue].append((now, text))

    def close(self, closer: Node, now: float) -> None:
        self.ends.pop(closer.own_id, None)
        if closer is self.dialer:
            self.is_pending = False
        self.send(closer, "close", now)


@attrs.define(eq=False)
class Node:
    """The smallest shell around a table: greets, answers, closes.

    :ivar asks_early: whether it consults the table before it greets, and follows the acceptor.
    """

    own_id: PeerId
    now: Callable[[], float]
    asks_early: bool = True
    table: PeerTable[FakeSession] = attrs.field(init=False)
    wires: dict[FakeSession, Wire] = attrs.field(factory=dict)
    greeting: Wire | None = None

    def __attrs_post_init__(self) -> None:
        self.table = PeerTable(now=self.now)

    def resolve(
        self, other: Node, wire: Wire, *, is_outbound: bool, greeted: bool
    ) -> Resolution[FakeSession]:
        return self.table.resolve(
            own_id=self.own_id,
            peer_id=other.own_id,
            is_outbound=is_outbound,
            transport=wire.transport,
            greeted=greeted,
        )

    def dial(self, other: Node, transport: TransportKind) -> Wire | None:
        """The peer's id is verified; greet it unless that is pointless."""
        wire = Wire(self, other, transport)
        if self.asks_early:
            if self.greeting is not None:
                return None
            if self.resolve(other, wire, is_outbound=True, greeted=False) == Refused():
                return None
        self.greeting = wire
        wire.send(self, "hello", self.now())
        return wire

    def received(self, wire: Wire, text: str) -> None:
        """Take one message off a wire."""
        is_outbound = wire.dialer is self
        if text == "close":
            if is_outbound:
                self.finish(wire)
            session = wire.ends.pop(self.own_id, None)
            if session is not None:
                self.table.remove(session)
        elif text == "hello":
            if self.register(wire, wire.dialer, is_outbound=False):
                wire.send(self, "answer", self.now())
        elif wire.is_pending:
            self.finish(wire)
            self.register(wire, wire.acceptor, is_outbound=True)

    def finish(self, wire: Wire) -> None:
        """A dial is over, well or badly."""
        wire.is_pending = False
        if self.greeting is wire:
            self.greeting = None

    def register(self, wire: Wire, other: Node, *, is_outbound: bool) -> bool:
        resolution = self.resolve(
            other, wire, is_outbound=is_outbound, greeted=is_outbound and self.asks_early
        )
        if resolution == Refused():
            wire.close(self, self.now())
            return False
        session = FakeSession(
            other.own_id,
            is_outbound=is_outbound,
            opened_at=self.now(),
            transport=wire.transport,
            own_id=self.own_id,
        )
        wire.ends[self.own_id] = session
        self.wires[session] = wire
        self.table.insert(session)
        if isinstance(resolution, Supersedes):
            self.wires[resolution.old].close(self, self.now())
        return True

    def wire_with(self, other: Node) -> Wire | None:
        session = self.table.get(other.own_id)
        return None if session is None else self.wires[session]


class World:
    """Two nodes, and the messages between them."""

    def __init__(self, *, asks_early: bool = True, a: int = 1, b: int = 2) -> None:
        self.time = ManualTime()
        self.a = Node(peer(a), self.time, asks_early)
        self.b = Node(peer(b), self.time, asks_early)
        self.wires: list[Wire] = []

    def dial(self, dialer: Node, transport: TransportKind = DIRECT) -> None:
        other = self.b if dialer is self.a else self.a
        wire = dialer.dial(other, transport)
        if wire is not None:
            self.wires.append(wire)

    def under_way(self) -> list[tuple[float, Wire, str]]:
        """The queues that have something to deliver, the longest waiting first."""
        return sorted(
            (
                (queue[0][0], wire, name)
                for wire in self.wires
                for name, queue in wire.queues.items()
                if queue
            ),
            key=lambda entry: entry[0],
        )

    def deliver(self, wire: Wire, name: str) -> None:
        _, text = wire.queues[name].popleft()
        receiver = wire.dialer if name == "to dialer" else wire.acceptor
        receiver.received(wire, text)

    def settle(self, before: float = float("inf")) -> None:
        """Deliver everything that was sent before a moment, oldest first."""
        while (waiting := self.under_way()) and waiting[0][0] <= before:
            self.deliver(*waiting[0][1:])

    def the_wire(self) -> Wire | None:
        """The connection that both nodes are left with.

        :raises AssertionError: they do not agree.
        """
        wire = self.a.wire_with(self.b)
        assert wire is self.b.wire_with(self.a), "each node holds another session"
        return wire


class Choices:
    """Answers ``choose(n)`` with each of 0..n-1, over as many runs as that takes."""

    def __init__(self) -> None:
        self._script: list[int] = []
        self._taken: list[tuple[int, int]] = []

    def choose(self, count: int) -> int:
        step = len(self._taken)
        choice = self._script[step] if step < len(self._script) else 0
        self._taken.append((choice, count))
        return choice

    def next_run(self) -> bool:
        """Begin the next run; False when every combination has been tried."""
        while self._taken and self._taken[-1][0] + 1 == self._taken[-1][1]:
            self._taken.pop()
        self._script = [choice for choice, _ in self._taken]
        self._taken = []
        if self._script:
            self._script[-1] += 1
        return bool(self._script)


class TwoNodesTests(SynchronousTestCase):
    """Both ends of one decision: they cannot confer and must agree."""

    def every_order(
        self,
        make: Callable[[], World],
        begin: Callable[[World], None],
        check: Callable[[World], None],
    ) -> int:
        """Run the messages of a scenario in every possible order; return how many there are."""
        choices = Choices()
        for runs in itertools.count(1):
            world = make()
            begin(world)
            while waiting := world.under_way():
                world.deliver(*waiting[choices.choose(len(waiting))][1:])
            check(world)
            if not choices.next_run():
                return runs
        raise AssertionError("unreachable")

    def test_simultaneous_dials_end_with_the_one_of_the_smaller_id(self) -> None:
        """Any order of any message, either id smaller, early question or not.  CON-105-X (a)"""

        def begin(world: World) -> None:
            world.dial(world.a)
            world.dial(world.b)

        def check(world: World) -> None:
            wire = world.the_wire()
            assert wire is not None
            self.assertEqual(wire.dialer.own_id, peer(1))
            self.assertEqual(len(wire.ends), 2)

        for a, b in ((1, 2), (2, 1)):
            for early in (True, False):
                make = partial(World, a=a, b=b, asks_early=early)
                self.assertGreater(self.every_order(make, begin, check), 10)

    def test_simultaneous_direct_and_relayed_dials_end_with_the_direct_one(self) -> None:
        """Any order of any message, either id smaller, either node on the relay.  CON-105-X"""

        def begin(world: World) -> None:
            world.dial(world.a, RELAY)
            world.dial(world.b, DIRECT)

        def check(world: World) -> None:
            wire = world.the_wire()
            assert wire is not None
            self.assertIs(wire.transport, DIRECT)

        for a, b in ((1, 2), (2, 1)):
            self.assertGreater(self.every_order(partial(World, a=a, b=b), begin, check), 10)

    def test_second_way_to_a_live_peer_leaves_the_first(self) -> None:
        """A dial to another address of a connected peer costs no session.  CON-105-X (b)"""

        def begin(world: World) -> None:
            world.dial(world.a)
            world.settle()
            world.time.seconds += 100
            world.dial(world.a)
            world.dial(world.b)

        def check(world: World) -> None:
            self.assertIs(world.the_wire(), world.wires[0])
            self.assertEqual(len(world.wires), 1)

        self.assertEqual(self.every_order(World, begin, check), 1)

    def test_silent_session_that_speaks_up_again_gives_way(self) -> None:
        """A dial that the acceptor took is followed through.  CON-105-X"""

        def begin(transport: TransportKind, world: World) -> None:
            world.dial(world.a)
            world.settle()
            world.time.seconds += 100
            old = world.a.table.get(world.b.own_id)
            theirs = world.b.table.get(world.a.own_id)
            assert old is not None
            assert theirs is not None
            old.is_live = theirs.is_live = False
            world.dial(world.a, transport)
            old.is_live = True

        def check(world: World) -> None:
            self.assertIs(world.the_wire(), world.wires[1])

        for transport in (DIRECT, RELAY):
            orders = self.every_order(World, partial(begin, transport), check)
            self.assertGreater(orders, 1)

    def test_random_histories_leave_both_nodes_with_the_same_session(self) -> None:
        """Dials, delays, silence and waiting in any mix: never one session each.  CON-105-X"""
        run_state_machine_as_test(TwoNodesMachine)


class TwoNodesMachine(RuleBasedStateMachine):
    """Two nodes that dial each other whenever they like; no message takes over five seconds."""

    @initialize(swap=st.booleans())
    def start(self, swap: bool) -> None:
        self.world = World(a=2, b=1) if swap else World()

    @rule(by_a=st.booleans(), transport=st.sampled_from([DIRECT, RELAY, TOR]))
    def dial(self, by_a: bool, transport: TransportKind) -> None:
        self.world.dial(self.world.a if by_a else self.world.b, transport)

    @precondition(lambda self: self.world.under_way())
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        _, wire, name = data.draw(st.sampled_from(self.world.under_way()))
        self.world.deliver(wire, name)

    @rule(by_a=st.booleans(), is_live=st.booleans())
    def change_liveness(self, by_a: bool, is_live: bool) -> None:
        """What one end thinks of a session says nothing about the other end."""
        node, other = (self.world.a, self.world.b) if by_a else (self.world.b, self.world.a)
        session = node.table.get(other.own_id)
        if session is not None:
            session.is_live = is_live

    @rule(seconds=st.sampled_from([0.1, 1, 4, 29, 30, 31]))
    def wait(self, seconds: float) -> None:
        self.world.settle(self.world.time.seconds + seconds - 5)
        self.world.time.seconds += seconds

    @rule()
    def settle(self) -> None:
        self.world.settle()
        wire = self.world.the_wire()
        assert wire is None or len(wire.ends) == 2
        if any(wire.ends for wire in self.world.wires):
            assert wire is not None, "a session is open that no table holds"

    @invariant()
    def one_slot(self) -> None:
        assert len(self.world.a.table) <= 1
        assert len(self.world.b.table) <= 1

    def teardown(self) -> None:
        had_dials = bool(self.world.wires)
        self.settle()
        assert (self.world.the_wire() is not None) == had_dials, "both sessions were closed"
