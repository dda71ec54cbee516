"""The public test kit: time, transports, networks and hostile peers are what they claim to be."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import (
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import TimeoutError as TimedOut
from twisted.internet.interfaces import IReactorTCP, IReactorTime, ITCPTransport
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dig_gossip.testing.clock import EPOCH, SimulatedClock
from dig_gossip.testing.hostile import (
    BINARY,
    CLOSE,
    NO_STATUS,
    PING,
    Frame,
    HostilePeer,
    make_frame,
    take_frame,
)
from dig_gossip.testing.network import MemoryNetwork
from dig_gossip.testing.transport import WINDOW, MemoryTransport
from dig_gossip.types.peer import PeerAddress
from dig_gossip.wire.message import Message


class SimulatedClockTests(SynchronousTestCase):
    """Time moves when it is told to."""

    def setUp(self) -> None:
        self.clock = SimulatedClock()
        self.called: list[Any] = []

    def test_provides_time(self) -> None:
        """Twisted takes it for a reactor's time; Unix time is shifted.  CNC-002"""
        self.assertTrue(verifyObject(IReactorTime, self.clock))
        self.assertEqual(self.clock.seconds(), 0)
        self.clock.advance(1.5)
        self.assertEqual(self.clock.monotonic(), 1.5)
        self.assertEqual(self.clock.unix(), EPOCH + 1.5)

    def test_calls_come_in_the_order_of_their_times(self) -> None:
        """Ties in the order in which they were made; each sees its own time.  CNC-002"""
        for delay in (2.0, 1.0, 2.0, 0.0, 1.0):
            number = len(self.clock.getDelayedCalls())
            self.clock.callLater(
                delay, lambda number: self.called.append((number, self.clock.seconds())), number
            )
        self.clock.advance(1.5)
        self.assertEqual(self.called, [(3, 0.0), (1, 1.0), (4, 1.0)])
        self.assertEqual(self.clock.seconds(), 1.5)
        self.clock.advance(1)
        self.assertEqual(self.called[3:], [(0, 2.0), (2, 2.0)])

    def test_calls_made_by_calls_are_run_when_due(self) -> None:
        """Within the same advance, if their time falls into it.  CNC-002"""

        def again(left: int) -> None:
            self.called.append(self.clock.seconds())
            if left:
                self.clock.callLater(1, again, left - 1)

        self.clock.callLater(1, again, 5)
        self.clock.advance(3)
        self.assertEqual(self.called, [1, 2, 3])

    def test_cancelled_and_moved_calls(self) -> None:
        """Cancelled ones never come, moved ones once, at their new time.  CNC-002"""
        cancelled = self.clock.callLater(1, self.called.append, "cancelled")
        later = self.clock.callLater(1, self.called.append, "later")
        sooner = self.clock.callLater(9, self.called.append, "sooner")
        cancelled.cancel()
        later.reset(5)
        sooner.reset(2)
        self.assertEqual(self.clock.next_due, 2)
        self.clock.advance(4)
        self.assertEqual(self.called, ["sooner"])
        self.clock.advance(4)
        self.assertEqual(self.called, ["sooner", "later"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIsNone(self.clock.next_due)

    def test_step_runs_one_call(self) -> None:
        """And says when there is none.  CNC-002"""
        self.clock.callLater(3, self.called.append, 1)
        self.clock.callLater(3, self.called.append, 2)
        self.clock.callLater(1, self.called.append, 0).cancel()
        self.assertTrue(self.clock.step())
        self.assertEqual((self.called, self.clock.seconds()), ([1], 3))
        self.assertTrue(self.clock.step())
        self.assertFalse(self.clock.step())


class Endpoint(Protocol):
    """One end of a bare connection; notes everything."""

    def __init__(self) -> None:
        self.received: list[tuple[float, bytes]] = []
        self.lost: Any = None
        self.paused: list[str] = []

    @property
    def wire(self) -> MemoryTransport:
        transport = self.transport
        assert isinstance(transport, MemoryTransport)
        return transport

    @property
    def data(self) -> bytes:
        return b"".join(data for _, data in self.received)

    def dataReceived(self, data: bytes) -> None:
        self.received.append((self.wire._network.clock.seconds(), data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason.type

    def pauseProducing(self) -> None:
        self.paused.append("pause")

    def resumeProducing(self) -> None:
        self.paused.append("resume")

    def stopProducing(self) -> None:
        self.paused.append("stop")


class _Connecting(ClientFactory):
    noisy = False

    def __init__(self) -> None:
        self.protocols: list[Endpoint] = []
        self.failed: Any = None

    def buildProtocol(self, addr: object) -> Endpoint:
        self.protocols.append(Endpoint())
        return self.protocols[-1]

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self.failed = reason.type


class TransportTests(SynchronousTestCase):
    """In-memory TCP behaves as TCP does."""

    def setUp(self) -> None:
        self.network = MemoryNetwork(latency=0.25)
        self.here, self.there = self.network.reactor("10.1.0.1"), self.network.reactor("10.2.0.1")
        self.accepted = _Connecting()
        self.there.listenTCP(80, self.accepted)

    def connected(self) -> tuple[Endpoint, Endpoint]:
        """Both ends of a new connection."""
        dialed = _Connecting()
        self.here.connectTCP("10.2.0.1", 80, dialed)
        self.network.advance(0.5)
        return dialed.protocols[-1], self.accepted.protocols[-1]

    def test_provides_what_twisted_expects(self) -> None:
        """Transports and reactors have the whole interface.  STR-005"""
        one, _ = self.connected()
        self.assertTrue(verifyObject(ITCPTransport, one.wire))
        self.assertTrue(verifyObject(IReactorTCP, self.here))
        self.assertTrue(verifyObject(IReactorTime, self.here))

    def test_connecting_takes_a_round_trip(self) -> None:
        """And addresses are those of the hosts.  STR-005"""
        dialed = _Connecting()
        self.here.connectTCP("10.2.0.1", 80, dialed)
        self.network.advance(0.49)
        self.assertEqual(dialed.protocols, [])
        self.network.advance(0.02)
        wire = dialed.protocols[0].wire
        self.assertEqual(wire.getPeer(), self.accepted.protocols[0].wire.getHost())
        self.assertEqual((wire.getPeer().host, wire.getPeer().port), ("10.2.0.1", 80))
        self.assertEqual(wire.getHost().host, "10.1.0.1")

    def test_nobody_listening_refuses(self) -> None:
        """A host that is there says no.  STR-005"""
        dialed = _Connecting()
        self.here.connectTCP("10.2.0.1", 81, dialed)
        self.network.advance(1)
        self.assertIs(dialed.failed, Refused)

    def test_a_cut_link_says_nothing(self) -> None:
        """Until the dialer loses patience.  STR-005"""
        self.network.cut("10.1.0.1", "10.2.0.1")
        dialed = _Connecting()
        self.here.connectTCP("10.2.0.1", 80, dialed, timeout=10)
        self.network.advance(9.9)
        self.assertIsNone(dialed.failed)
        self.network.advance(0.2)
        self.assertIs(dialed.failed, TimedOut)

    def test_bytes_arrive_in_order_after_the_latency(self) -> None:
        """Not a moment before, and none is lost.  STR-005"""
        one, other = self.connected()
        began = self.network.clock.seconds()
        one.wire.write(b"a")
        one.wire.writeSequence([b"b", b"c"])
        self.network.advance(0.24)
        self.assertEqual(other.received, [])
        self.network.advance(0.02)
        self.assertEqual(other.data, b"abc")
        self.assertEqual(other.received[0][0], began + 0.25)

    def test_lossy_links_lose_time_and_keep_the_order(self) -> None:
        """As TCP does.  STR-005"""
        self.network.loss = 0.5
        one, other = self.connected()
        for number in range(100):
            one.wire.write(bytes((number,)))
        self.network.advance(5)
        self.assertEqual(other.data, bytes(range(100)))
        times = {when for when, _ in other.received}
        self.assertEqual(len(times), 2, "some were late")

    def test_what_is_cut_arrives_when_it_is_healed(self) -> None:
        """In order, and neither end knows.  STR-005"""
        one, other = self.connected()
        self.network.cut("10.2.0.1", "10.1.0.1")
        one.wire.write(b"before")
        self.network.advance(100)
        self.assertEqual((other.data, other.lost, one.lost), (b"", None, None))
        one.wire.write(b" and after")
        self.network.heal()
        self.network.advance(1)
        self.assertEqual(other.data, b"before and after")

    def test_losing_a_connection_lets_the_last_bytes_through(self) -> None:
        """Written, closed: the other end gets both, in this order.  STR-005"""
        one, other = self.connected()
        one.wire.write(b"good bye")
        one.wire.loseConnection()
        self.network.advance(0.2)
        self.assertIs(one.lost, ConnectionDone)
        self.network.advance(0.1)
        self.assertEqual((other.data, other.lost), (b"good bye", ConnectionDone))

    def test_aborting_tells_both_ends(self) -> None:
        """Never within the call that aborts.  STR-005"""
        one, other = self.connected()
        one.wire.abortConnection()
        self.assertIsNone(one.lost)
        self.network.advance(0)
        self.assertIs(one.lost, ConnectionAborted)
        self.network.advance(0.3)
        self.assertIs(other.lost, ConnectionLost)

    def test_nothing_is_received_after_the_end_was_ordered(self) -> None:
        """A real socket stops reading when it is told to close, or to abort.  STR-005"""
        for order in ("loseConnection", "abortConnection"):
            one, other = self.connected()
            received = other.dataReceived

            def end_at_once(
                data: bytes, received: Any = received, other: Any = other, order: str = order
            ) -> None:
                received(data)
                getattr(other.wire, order)()

            self.patch(other, "dataReceived", end_at_once)
            one.wire.write(b"first")
            one.wire.write(b"second")
            self.network.advance(1)
            self.assertEqual(other.data, b"first", order)

    def test_a_pause_leaves_bytes_where_they_are(self) -> None:
        """And resuming delivers them, in order.  BP-101-X"""
        one, other = self.connected()
        other.wire.pauseProducing()
        one.wire.write(b"1")
        self.network.advance(1)
        one.wire.write(b"2")
        self.network.advance(1)
        self.assertEqual(other.data, b"")
        other.wire.resumeProducing()
        self.network.advance(1)
        self.assertEqual(other.data, b"12")

    def test_a_full_window_pauses_the_producer(self) -> None:
        """At the limit not yet, beyond it at once; resumed when there is room.  BP-101-X"""
        one, other = self.connected()
        one.wire.registerProducer(one, True)
        other.wire.pauseProducing()
        one.wire.write(bytes(WINDOW))
        self.assertEqual(one.paused, [])
        one.wire.write(b"x")
        self.assertEqual(one.paused, ["pause"])
        self.network.advance(10)
        self.assertEqual(one.paused, ["pause"])
        other.wire.resumeProducing()
        self.network.advance(1)
        self.assertEqual(one.paused, ["pause", "resume"])
        self.assertEqual(len(other.data), WINDOW + 1)

    def test_a_paused_producer_holds_up_the_end(self) -> None:
        """As with a real socket, whose buffer is full; one that is not paused does not.  STR-005"""
        for size, holds in ((WINDOW + 1, True), (WINDOW, False)):
            one, other = self.connected()
            one.wire.registerProducer(one, True)
            self.assertRaises(RuntimeError, one.wire.registerProducer, one, True)
            one.wire.write(bytes(size))
            one.wire.loseConnection()
            self.network.advance(1)
            self.assertIs(other.lost, None if holds else ConnectionDone)
            one.wire.unregisterProducer()
            self.network.advance(1)
            self.assertIs(other.lost, ConnectionDone)
            self.assertEqual(len(other.data), size)

    def test_a_lost_transport_stops_its_producer(self) -> None:
        """Whether it was registered before or comes too late.  STR-005"""
        one, other = self.connected()
        one.wire.registerProducer(one, True)
        other.wire.abortConnection()
        self.network.advance(1)
        self.assertEqual(one.paused, ["stop"])
        other.wire.registerProducer(other, True)
        self.assertEqual(other.paused, ["stop"])

    def test_a_dead_host_is_silent(self) -> None:
        """It neither closes nor receives; the other end is left to wonder.  STR-005"""
        self.network.node(host="10.3.0.1")
        self.network.start()
        dialed = _Connecting()
        self.here.connectTCP("10.3.0.1", 9444, dialed)
        self.network.advance(1)
        self.network.kill(self.network.nodes[0])
        dialed.protocols[0].wire.write(b"anybody?")
        self.network.advance(100)
        self.assertEqual(dialed.protocols[0].received, [])
        self.assertIsNone(dialed.protocols[0].lost)


class NetworkTests(SynchronousTestCase):
    """Many nodes, one clock."""

    def test_the_example_works(self) -> None:
        """Two nodes, one message.  STR-005"""
        network = MemoryNetwork(seed=1, latency=0.05)
        alice, bob = network.node(), network.node()
        network.start()
        network.run(alice.handle.connect_to(bob.address))
        inbound = bob.handle.inbound_receiver()
        network.run(alice.handle.broadcast(Message(200, None, b"hello")))
        network.advance(1.0)
        sender, message = network.run(inbound.get())
        self.assertEqual((sender, message.data), (alice.peer_id, b"hello"))
        network.stop()
        network.advance(60)
        self.assertEqual(network.clock.getDelayedCalls(), [])

    def test_the_same_seed_is_the_same_run(self) -> None:
        """Peer ids, addresses, and every moment.  STR-005"""

        def story(seed: int) -> list[Any]:
            network = MemoryNetwork(seed=seed, latency=0.05, loss=0.3)
            nodes = [network.node() for _ in range(3)]
            network.start()
            told: list[Any] = []
            for one, other in ((0, 1), (1, 2), (2, 0)):
                peer_id = network.run(nodes[one].handle.connect_to(nodes[other].address))
                told.append((peer_id, network.clock.seconds()))
            network.advance(100)
            told += [
                [c.reputation.rtt_history for c in network.run(node.handle.connected_peers())]
                for node in nodes
            ]
            network.stop()
            return told

        self.assertEqual(story(7), story(7))
        self.assertNotEqual(story(7)[3:], story(8)[3:])

    def test_hosts_are_apart(self) -> None:
        """Each in a group of its own, for rules about networks.  STR-005"""
        network = MemoryNetwork()
        hosts = [network.host() for _ in range(600)]
        self.assertEqual(len({host.rpartition(".")[0] for host in hosts}), 600)

    def test_run_gives_up(self) -> None:
        """A Deferred that never fires is a failure, not a hang.  STR-005"""
        network = MemoryNetwork()
        never: Deferred[None] = Deferred()
        self.assertRaises(AssertionError, network.run, never, 5)

    def test_run_raises_what_failed(self) -> None:
        """As ``await`` would.  STR-005"""
        network = MemoryNetwork()
        failing: Deferred[None] = Deferred()
        network.clock.callLater(3, failing.errback, ZeroDivisionError())
        self.assertRaises(ZeroDivisionError, network.run, failing)
        self.assertEqual(network.clock.seconds(), 3)

    def test_latency_may_depend_on_the_link(self) -> None:
        """Far is far.  STR-005"""
        network = MemoryNetwork(latency=lambda one, other: 1.0 if "10.0.3.1" in other else 0.1)
        self.assertEqual(network.latency("10.0.1.1", "10.0.2.1"), 0.1)
        self.assertEqual(network.latency("10.0.1.1", "10.0.3.1"), 1.0)

    def test_partition_cuts_every_link_across(self) -> None:
        """And none within.  STR-005"""
        network = MemoryNetwork()
        nodes = [network.node() for _ in range(4)]
        network.partition({nodes[0].host, nodes[1].host})
        flows = [[network.flows(one.host, other.host) for other in nodes] for one in nodes]
        two, none = [True, True, False, False], [False, False, True, True]
        self.assertEqual(flows, [two, two, none, none])
        network.heal()
        self.assertTrue(network.flows(nodes[0].host, nodes[3].host))


class FrameTests(SynchronousTestCase):
    """The kit's own WebSocket frames."""

    @given(
        st.integers(0, 15),
        st.one_of(st.binary(max_size=300), st.sampled_from([bytes(65_535), bytes(65_536)])),
        st.booleans(),
        st.booleans(),
        st.integers(0, 7),
        st.binary(max_size=5),
    )
    def test_what_is_made_is_taken(
        self, opcode: int, payload: bytes, fin: bool, masked: bool, rsv: int, rest: bytes
    ) -> None:
        """Round trip; nothing before it is complete, not one byte too much.  wire §2"""
        encoded = make_frame(payload, opcode, fin, masked, rsv)
        frame = Frame(opcode, payload, fin, rsv, masked)
        self.assertEqual(take_frame(encoded + rest), (frame, len(encoded)))
        for cut in {0, 1, 2, 3, 5, len(encoded) - 1}:
            if cut < len(encoded):
                self.assertIsNone(take_frame(encoded[:cut]))

    def test_announced_lengths(self) -> None:
        """Any length may be announced, up to what the field holds.  wire §2"""
        for length, header in ((125, 2), (126, 4), (65_535, 4), (65_536, 10), (2**64 - 1, 10)):
            encoded = make_frame(b"", masked=False, length_override=length)
            self.assertEqual(len(encoded), header)
            self.assertIsNone(take_frame(encoded))


class HostilePeerTests(SynchronousTestCase):
    """It says what it is told, and remembers what it is told."""

    def setUp(self) -> None:
        self.network = MemoryNetwork(seed=1)
        self.one = HostilePeer(self.network, tls=False)
        self.other = HostilePeer(self.network, tls=False)

    def upgraded(self) -> None:
        """Two peers of whom one has dialed the other."""
        address = self.other.listen(on_request=lambda peer: peer.accept_upgrade())
        self.one.connect(address)
        self.one.upgrade()
        self.network.settle()

    def test_raw_bytes_pass_unchanged(self) -> None:
        """Also those that are sent before there is a connection.  STR-005"""
        self.other.listen()
        self.one.connect(PeerAddress(self.other.host, 9444))
        self.one.send(b"early ")
        self.network.settle()
        self.one.send(b"late")
        self.other.send(b"answer")
        self.network.settle()
        self.assertEqual(self.other.received, b"early late")
        self.assertEqual(self.one.received, b"answer")

    def test_requests_and_responses_are_kept(self) -> None:
        """Whole heads, whatever follows them.  STR-005"""
        self.upgraded()
        self.assertTrue((self.other.http_request or b"").startswith(b"GET /ws HTTP/1.1\r\n"))
        self.assertIn(b"\r\nSec-WebSocket-Accept: s3pPLMBi", self.one.http_response or b"")
        self.assertIsNone(self.one.http_request)
        self.assertIsNone(self.other.http_response)

    def test_frames_and_messages_are_kept(self) -> None:
        """Dialers mask, listeners do not; only whole messages are messages.  STR-005"""
        self.upgraded()
        message = Message(200, None, b"x")
        self.one.send_message(message)
        self.one.send_frame(b"no message")
        self.one.send_frame(b"ping", PING)
        self.other.send_frame(b"", BINARY, fin=False, rsv=2)
        self.network.settle()
        self.assertEqual(self.other.messages, [message])
        self.assertEqual([frame.opcode for frame in self.other.frames], [BINARY, BINARY, PING])
        self.assertTrue(all(frame.masked for frame in self.other.frames))
        self.assertEqual(self.one.frames, [Frame(BINARY, b"", False, 2, False)])

    def test_nothing_is_answered(self) -> None:
        """Neither ping nor close.  STR-005"""
        self.upgraded()
        self.one.send_frame(b"", PING)
        self.one.send_close(1000, "bye")
        self.network.settle()
        self.assertEqual(self.one.frames, [])
        assert self.other.closed is not None
        self.assertEqual((self.other.closed.code, self.other.closed.reason), (1000, "bye"))
        self.assertIsNone(self.other.closed.lost)
        self.assertTrue(self.other.is_connected)

    def test_how_it_ended_is_kept(self) -> None:
        """The close frame, and how the transport went.  STR-005"""
        self.upgraded()
        self.one.send_frame(b"", CLOSE)
        self.one.hang_up()
        self.network.settle()
        assert self.other.closed is not None
        self.assertEqual(self.other.closed.code, NO_STATUS)
        self.assertIs(self.other.closed.lost, ConnectionDone)
        self.assertFalse(self.other.is_connected)

    def test_a_new_connection_starts_anew(self) -> None:
        """Records are those of one connection.  STR-005"""
        self.upgraded()
        self.one.send_close(1000)
        self.one.drop()
        self.network.settle()
        self.one.connect(PeerAddress(self.other.host, 9444))
        self.one.upgrade("/again")
        self.network.settle()
        self.assertEqual(self.other.connections, 2)
        self.assertIsNone(self.other.closed)
        self.assertTrue((self.other.http_request or b"").startswith(b"GET /again "))

    def test_a_refused_connection_is_an_end(self) -> None:
        """Nobody listens, or nobody listens any more.  STR-005"""
        self.other.listen()
        self.other.stop_listening()
        self.one.connect(PeerAddress(self.other.host, 9444))
        self.network.settle()
        assert self.one.closed is not None
        self.assertIs(self.one.closed.lost, Refused)
        self.assertFalse(self.one.is_connected)

    def test_stopping_to_read(self) -> None:
        """What comes meanwhile is there afterwards.  STR-005"""
        self.upgraded()
        self.one.stop_reading()
        self.other.send_frame(b"waits")
        self.network.settle()
        self.assertEqual(self.one.frames, [])
        self.one.resume_reading()
        self.network.settle()
        self.assertEqual([frame.payload for frame in self.one.frames], [b"waits"])

    def test_identities(self) -> None:
        """One of its own, the one it is given, or none.  STR-005"""
        self.assertNotEqual(self.one.peer_id, self.other.peer_id)
        same = HostilePeer(self.network, identity=self.one.identity)
        self.assertEqual(same.peer_id, self.one.peer_id)
        anonymous = HostilePeer(self.network, identity=None)
        self.assertRaises(ValueError, lambda: anonymous.peer_id)

    def test_tls_with_a_node(self) -> None:
        """It can do everything right, too: otherwise its failures prove nothing.  STR-005"""
        node = self.network.node()
        self.network.start()
        good = HostilePeer(self.network)
        good.join(node.address, software_version="good")
        self.network.settle()
        self.assertTrue(good.secured)
        [connection] = self.network.run(node.handle.connected_peers())
        self.assertEqual(connection.peer_id, good.peer_id)
        self.assertEqual(connection.software_version, "good")
        self.assertEqual(connection.address.host, good.host)
        self.network.stop()


class ListeningFactoryTests(SynchronousTestCase):
    """Ports."""

    def test_a_port_is_taken_once(self) -> None:
        """Until it is free again; port 0 chooses.  STR-005"""
        network = MemoryNetwork()
        reactor = network.reactor()
        port = reactor.listenTCP(80, Factory())
        self.assertRaises(CannotListenError, reactor.listenTCP, 80, Factory())
        self.successResultOf(maybeDeferred(port.stopListening))
        reactor.listenTCP(80, Factory())
        chosen: Any = reactor.listenTCP(0, Factory()).getHost()
        self.assertGreater(chosen.port, 0)
