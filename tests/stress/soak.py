"""Many nodes, random churn and faults from a seed, over real sockets; then nothing may be left.

``python -m tests.stress.soak [--seconds 600] [--seed N]``; ``make soak``.

Real sockets on loopback and the real reactor, because what a soak looks for exists only there:
descriptors, timers and errors that nobody handles. (The order of events under a simulated clock is
explored by the tests of whole networks in memory.) The seed decides who does what and when; how
the events of two sockets interleave is the kernel's business, so a run can be repeated in kind, not
to the byte.

The run fails if anything is logged at error level, if a call fails with anything but the errors
that it documents, if a collection exceeds its bound (``sizes``) or has grown between two moments of
rest, or if a timer, a descriptor or a node is left when everything has stopped.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import resource
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater, react
from twisted.logger import ILogObserver, LogLevel, eventAsText, globalLogBeginner
from twisted.python.failure import Failure

from dig_gossip import DigMessageType, GossipConfig, GossipError, GossipService, Message
from dig_gossip.connection.session import Session
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.types.reputation import PenaltyReason
from dig_gossip.util.deferreds import handled
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.stress.sizes import Sizes, caps, excess, is_buffer, sizes

NODES = 8
ANCHORS = 3  # nodes that live through the whole run
HOSTILE = 12
ACTIONS_A_SECOND = 60
CHECK_SECS = 1.0
REST_SECS = 4.0
#: Of what has no bound of its own: everything that comes once for each session or kind of event.
OTHERWISE = 600
#: Longer than every close and every dial of the run.
END_SECS = 20.0

OPCODES = (200, 201, 202, 20, 21)  # all of them spread


class Soak:
    """One run."""

    def __init__(
        self,
        reactor: Any,  # Any: all interfaces
        seconds: float,
        seed: int,
        rest: float,
    ) -> None:
        self.reactor = reactor
        self.seconds = seconds
        self.rest_secs = rest
        self.rng = random.Random(seed)
        self.nodes: list[GossipService] = []
        self.hostile: list[HostilePeer] = []
        self.subscriptions: list[Subscription] = []
        self.under_way: set[Deferred[Any]] = set()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.own_timers: list[Any] = []  # Any: delayed calls
        self.alive: weakref.WeakSet[GossipService] = weakref.WeakSet()
        self.largest: Sizes = {}
        self._actions: list[tuple[Callable[[], object], int]] = [
            (self.broadcast, 30),
            (self.send_bulk, 6),
            (self.ask, 8),
            (self.ask_and_give_up, 3),
            (self.connect, 10),
            (self.disconnect, 3),
            (self.abort, 3),
            (self.stall, 2),
            (self.replace, 1),
            (self.ban, 1),
            (self.subscribe, 2),
            (self.attack, 10),
            (self.hang_up, 6),
        ]

    # -- the run

    async def run(self) -> None:
        """Everything from the first node to the last look around."""
        # Twisted opens some things once, when it runs and when it first listens.
        await deferLater(self.reactor, 0)
        await (await self.start()).stop()
        self.nodes.clear()
        descriptors = self.descriptors()
        readers = set(self.reactor.getReaders())
        for _ in range(NODES):
            await self.start()
        # Half of it, a rest, the other half, a rest: what has grown in between leaks.
        rests = []
        for _ in range(2):
            await self.churn(self.seconds / 2)
            rests.append(await self.rest())
        self.compare(*rests)
        await self.finish()
        self.look_around(descriptors, readers)

    async def churn(self, seconds: float) -> None:
        """Do things at random."""
        actions, weights = zip(*self._actions, strict=True)
        end = time.monotonic() + seconds
        checked = shown = time.monotonic()
        while time.monotonic() < end:
            for _ in range(self.rng.randint(1, 5)):
                action: Callable[[], Any] = self.rng.choices(actions, weights)[0]
                self.perform(action)
            await deferLater(self.reactor, self.rng.expovariate(ACTIONS_A_SECOND / 3))
            now = time.monotonic()
            if now - checked >= CHECK_SECS:
                checked = now
                self.check()
            if now - shown >= min(30.0, seconds / 3):
                shown = now
                self.show(end - now)

    async def rest(self) -> Sizes:
        """Let everything come to an end that can; what is kept then.

        Hostile peers leave, nobody sends.
        """
        for peer in self.hostile:
            peer.drop()
        self.hostile.clear()
        for subscription in self.subscriptions:
            subscription.close()
        self.subscriptions.clear()
        await deferLater(self.reactor, self.rest_secs)
        self.check()
        found: Sizes = {}
        for node in self.nodes[:ANCHORS]:
            for name, size in sizes(node.node).items():
                found[name] = max(found.get(name, 0), size)
        return found

    def compare(self, before: Sizes, after: Sizes) -> None:
        """Nothing but what has a bound of its own may have grown from one rest to the next."""
        bounded = caps(self.nodes[0].config)
        for name, size in after.items():
            # A few sessions, or kinds of events, more than last time are no growth.
            if name in bounded or is_buffer(name):
                continue
            if size > 2 * before.get(name, 0) + 40:
                self.fault(f"{name} has grown from {before.get(name, 0)} to {size}")

    async def finish(self) -> None:
        """Stop all nodes and wait for what is under way."""
        for node in self.nodes:
            await node.stop()
        self.nodes.clear()
        for peer in self.hostile:
            peer.drop()
        self.hostile.clear()
        end = time.monotonic() + END_SECS
        while self.under_way and time.monotonic() < end:
            await deferLater(self.reactor, 0.1)
        if self.under_way:
            self.fault(f"{len(self.under_way)} calls never ended")
        self.under_way.clear()
        for call in self.own_timers:
            if call.active():
                call.cancel()
        self.own_timers.clear()  # a call that was made still refers to its transport
        await deferLater(self.reactor, 0.5)

    def look_around(self, descriptors: set[str], readers: set[Any]) -> None:
        """After everything has stopped, everything is as it was."""
        gc.collect()
        for call in self.reactor.getDelayedCalls():
            self.fault(f"a timer is left: {call}")
        for reader in {*self.reactor.getReaders(), *self.reactor.getWriters()} - readers:
            self.fault(f"a socket is left: {reader!r}")
        for left in self.descriptors() - descriptors:
            self.fault(f"a descriptor is left: {left}")
        if len(self.alive):
            self.fault(f"{len(self.alive)} stopped nodes are still referred to")

    # -- what may happen

    def perform(self, action: Callable[[], Any]) -> None:
        """Do one thing; only documented errors may come of it, now or later."""
        name = action.__name__
        self.counts[name] += 1
        try:
            result = action()
        except GossipError as error:
            self.counts[f"{name}: {type(error).__name__}"] += 1
            return
        if isinstance(result, Deferred):
            self.watch(name, result)

    def watch(self, name: str, deferred: Deferred[Any]) -> None:
        """Follow something that takes its time."""
        self.under_way.add(deferred)

        def ended(result: object) -> None:
            self.under_way.discard(deferred)
            if isinstance(result, Failure):
                self.counts[f"{name}: {type(result.value).__name__}"] += 1
                if not result.check(GossipError, CancelledError):
                    self.fault(f"{name} failed: {result.getTraceback()}")

        handled(deferred.addBoth(ended))

    def later(self, seconds: float, function: Callable[..., object], *args: object) -> None:
        """Do something of the run's own."""
        self.own_timers = [call for call in self.own_timers if call.active()]
        self.own_timers.append(self.reactor.callLater(seconds, function, *args))

    async def start(self) -> GossipService:
        """One more node."""
        config = GossipConfig(
            listen_addr="127.0.0.1:0",
            peers_file_path=None,
            max_connections=24,
            target_outbound_count=8,
            keepalive_ping_interval_secs=2.0,
            rng=random.Random(self.rng.random()),
        )
        node = GossipService(config, identity=throwaway_identity(self.rng.getrandbits(64)))
        await node.start()
        self.nodes.append(node)
        self.alive.add(node)
        return node

    def any_node(self) -> GossipService:
        return self.rng.choice(self.nodes)

    def any_session(self) -> Session | None:
        sessions = list(self.any_node().node.peers.table)
        return self.rng.choice(sessions) if sessions else None

    def broadcast(self) -> Deferred[int]:
        opcode = self.rng.choice(OPCODES)
        size = self.rng.choice((32, 200, 500, 900))
        return self.any_node().handle.broadcast(Message(opcode, None, self.rng.randbytes(size)))

    def send_bulk(self) -> Deferred[None] | None:
        node = self.any_node()
        sessions = list(node.node.peers.table)
        if not sessions:
            return None
        peer = self.rng.choice(sessions).peer_id
        size = self.rng.choice((1000, 70_000, 500_000, 2_000_000))
        message = Message(ChiaMessageType.RESPOND_BLOCKS, None, bytes(size))
        return node.handle.send_to(peer, message)

    def ask(self) -> Deferred[Any] | None:
        node = self.any_node()
        sessions = list(node.node.peers.table)
        if not sessions:
            return None
        return node.handle.request_peers_from(self.rng.choice(sessions).peer_id)

    def ask_and_give_up(self) -> Deferred[Any] | None:
        asking = self.ask()
        if asking is not None:
            self.later(self.rng.random() * 0.02, asking.cancel)
        return asking

    def connect(self) -> Deferred[Any]:
        one, other = self.rng.sample(self.nodes, 2)
        dialing = one.handle.connect_to(other.listen_address)
        if self.rng.random() < 0.1:
            self.later(self.rng.random() * 0.05, dialing.cancel)
        return dialing

    def disconnect(self) -> Deferred[None] | None:
        node = self.any_node()
        sessions = list(node.node.peers.table)
        if not sessions:
            return None
        return node.handle.disconnect(self.rng.choice(sessions).peer_id)

    def abort(self) -> None:
        """The link breaks."""
        session = self.any_session()
        if session is not None:
            session.abort()

    def stall(self) -> None:
        """One end does not read for a while."""
        session = self.any_session()
        if session is not None:
            transport: Any = session._websocket.transport  # type: ignore[attr-defined]
            transport.pauseProducing()
            self.later(self.rng.uniform(0.1, 3.0), _resume, transport)

    def replace(self) -> Deferred[None]:
        """A node goes, another comes."""
        node = self.nodes.pop(self.rng.randrange(ANCHORS, len(self.nodes)))

        async def both() -> None:
            await self.start()
            await node.stop()

        return Deferred.fromCoroutine(both())

    def ban(self) -> Deferred[None] | None:
        """Only strangers, or in the end nobody would be left."""
        strangers = {peer.peer_id for peer in self.hostile if peer.identity is not None}
        node = self.any_node()
        for session in node.node.peers.table:
            if session.peer_id in strangers:
                reason = self.rng.choice(list(PenaltyReason))
                return node.handle.ban_peer(session.peer_id, reason)
        return None

    def subscribe(self) -> None:
        """An application that never looks at what it gets, and leaves at some time."""
        if len(self.subscriptions) >= 10:
            self.subscriptions.pop(0).close()
        self.subscriptions.append(self.any_node().handle.inbound_receiver())

    def attack(self) -> None:
        """Somebody comes who knows no manners."""
        if len(self.hostile) >= HOSTILE:
            self.hang_up()
        peer = HostilePeer(_RealNetwork(self.reactor), tls=self.rng.random() < 0.9)  # type: ignore[arg-type]
        self.hostile.append(peer)
        address = self.any_node().listen_address
        rng = self.rng
        how = rng.randrange(9)
        self.counts[f"attack {how}"] += 1
        if how < 3:
            peer.connect(address)
            if how:
                peer.send(rng.randbytes(rng.randrange(1, 5000)))
        elif how == 3:
            peer.connect(address)
            peer.upgrade()
            peer.send_frame(rng.randbytes(20), length_override=rng.choice((60_000, 2**31, 2**62)))
        else:
            peer.join(address)
            if how == 4:
                peer.stop_reading()
            elif how == 5:
                for _ in range(8):  # half a message each
                    head = rng.randbytes(4) + (200_000).to_bytes(4, "big") + bytes(4)
                    body = head + b"\x1e" + bytes(32_767)
                    peer.send_message(Message(DigMessageType.MESSAGE_CHUNK, None, body))
            elif how == 6:
                peer.send_frame(rng.randbytes(100), length_override=rng.choice((5000, 2**20)))
            elif how == 7:
                for _ in range(rng.randrange(1, 200)):
                    opcode, size = rng.choice((*OPCODES, 210, 211, 250)), rng.randrange(300)
                    peer.send_message(Message(opcode, None, rng.randbytes(size)))
            else:
                peer.send_frame(
                    rng.randbytes(rng.randrange(50)), rng.randrange(16), rsv=rng.randrange(2)
                )

    def hang_up(self) -> None:
        """Somebody hostile goes, politely or not."""
        if self.hostile:
            peer = self.hostile.pop(self.rng.randrange(len(self.hostile)))
            self.rng.choice((peer.drop, peer.hang_up, peer.drop))()
            peer.drop()

    # -- what is watched

    def check(self) -> None:
        """Nothing is larger than it may be."""
        for service in self.nodes:
            node = service.node
            found = sizes(node)
            for name, size in found.items():
                self.largest[name] = max(self.largest.get(name, 0), size)
            for name, size in excess(found, caps(service.config), OTHERWISE).items():
                self.fault(f"{name} holds {size}")
            if len(node.peers.table) > service.config.max_connections:
                self.fault(f"{len(node.peers.table)} sessions")
            if node.router.counters["engine_errors"]:
                self.fault("an engine has failed")

    def logged(self, event: Any) -> None:  # Any: a log event
        """Nothing that peers or the network do is an error of ours."""
        if event.get("log_level", LogLevel.info) >= LogLevel.error or event.get("isError"):
            self.fault(f"logged: {eventAsText(event, includeTimestamp=False)}")

    def fault(self, text: str) -> None:
        """Note what must not be; the same is shown once."""
        if text not in self.faults:
            self.faults.append(text)
            print(f"FAULT {text}", flush=True)

    def show(self, left: float) -> None:
        """Tell whoever waits."""
        sessions = sum(len(node.node.peers.table) for node in self.nodes)
        mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{left:5.0f} s left, {sum(self.counts.values())} actions, {sessions} sessions,"
            f" {len(self.hostile)} hostile, {len(self.descriptors())} descriptors, {mib} MiB",
            flush=True,
        )

    @staticmethod
    def descriptors() -> set[str]:
        """The open descriptors of this process, each with what it leads to."""
        found = set()
        for number in os.listdir("/proc/self/fd"):
            try:
                found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
            except OSError:  # the directory itself
                pass
        return found


class _RealNetwork:
    """Lets a hostile peer use real sockets."""

    def __init__(self, reactor: Any) -> None:  # Any: all interfaces
        self._reactor = reactor

    def reactor(self, host: str | None) -> Any:
        return self._reactor


def _resume(transport: Any) -> None:  # Any: TLS over TCP
    if transport.connected and not transport.disconnecting:
        transport.resumeProducing()


def soak(reactor: Any, seconds: float, seed: int, rest: float) -> Deferred[None]:
    """Run, and say how it went.

    :raises SystemExit: something is wrong.
    """
    run = Soak(reactor, seconds, seed, rest)

    async def all_of_it() -> None:
        print(f"seed {seed}, {seconds:g} s", flush=True)
        # Until logging begins, everything logged is kept, with the nodes that logged it.
        globalLogBeginner.beginLoggingTo([cast(ILogObserver, run.logged)], redirectStandardIO=False)
        await run.run()
        for name, count in sorted(run.counts.items()):
            print(f"  {name}: {count}")
        for name, size in sorted(run.largest.items(), key=lambda item: -item[1])[:15]:
            print(f"  largest {name}: {size}")
        if run.faults:
            raise SystemExit(f"{len(run.faults)} faults with seed {seed}")
        print(f"nothing is left; seed {seed}")

    return Deferred.fromCoroutine(all_of_it())


def main(arguments: list[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="by default another each time")
    parser.add_argument("--rest", type=float, default=REST_SECS, help="seconds to come to rest")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    react(soak, (options.seconds, seed, options.rest))


if __name__ == "__main__":
    main()
