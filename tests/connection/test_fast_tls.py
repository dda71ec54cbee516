"""The fast TLS transport beside Twisted's own: same scripts, same outcome."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import _producer_helpers, tcp
from twisted.internet.endpoints import _WrappingProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, Cooperator
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection import fast_tls, tls_inside, tls_sending
from dig_gossip.connection.fast_tls import FastTLS, FastTLSFactory
from tests.connection.tls_link import (
    CLIENT,
    CREATORS,
    FAST,
    SERVER,
    App,
    Buffered,
    FakeTCP,
    Link,
    Producer,
    Quiet,
    Unbuffered,
    connect,
    established,
)

_sizes = st.lists(st.sampled_from([0, 1, 100, 16_385, 70_000]), max_size=3)
_side = st.sampled_from([CLIENT, SERVER])


def _operations(*names: str) -> st.SearchStrategy[tuple[str, int, list[int]]]:
    return st.tuples(st.sampled_from(names), _side, _sizes)


#: Operations of one reactor turn, after which everything settles.
_bursts = st.lists(
    st.lists(
        _operations(
            "write", "write", "sequence", "producer", "unregister", "full", "empty", "stall", "read"
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=5,
)
_ending = st.lists(
    _operations("write", "lose", "unregister", "half", "read", "abort", "cut"), max_size=5
)
_reacts = st.tuples(
    *[st.sampled_from(["", "early", "greet", "reply", "close", "greet reply", "reply close"])] * 2
)
_seed = st.integers(0, 2**32)


class SameAsTwistedTests(SynchronousTestCase):
    """Twisted's transport, ours, and one of each, driven by the same script."""

    def compare(
        self,
        script: Callable[[Link], None],
        *reacts: str,
    ) -> None:
        """Check that the applications see the same, whoever carries their bytes."""
        expected = connect([Unbuffered, Unbuffered], *reacts)
        script(expected)
        for factories in (FAST, [Unbuffered, FastTLSFactory], [FastTLSFactory, Unbuffered]):
            link = connect(factories, *reacts)
            script(link)
            self.assertEqual(link.outcome(), expected.outcome(), factories)

    @given(_reacts, _bursts, _ending, _seed)
    def test_any_script_has_the_same_events_and_bytes(
        self, reacts: Any, bursts: Any, ending: Any, seed: int
    ) -> None:
        """Writes, pauses, stalls and closes, in any order and in chunks of any size.  D4"""

        def script(link: Link) -> None:
            rng = random.Random(seed)
            link.settle(rng)
            for burst in [*bursts, ending]:
                for operation in burst:
                    link.perform(*operation)
                link.settle(rng)

        self.compare(script, *reacts)

    @given(_reacts, _bursts, _seed)
    def test_bytes_survive_any_interleaving(self, reacts: Any, bursts: Any, seed: int) -> None:
        """Turns and deliveries fall anywhere between the operations; no byte is lost.  D4"""
        reacts = [react.replace("close", "") for react in reacts]
        for factories in (FAST, [Buffered, FastTLSFactory], [FastTLSFactory, Buffered]):
            link = connect(factories, *reacts)
            rng = random.Random(seed)
            for burst in bursts:
                for operation in burst:
                    link.perform(*operation)
                    if rng.random() < 0.5:
                        link.turn()
                    for end in link.tcp:
                        end.move(rng.choice([0, 1, 300, 20_000]))
            for side in (CLIENT, SERVER):
                link.perform("read", side, [])
            link.settle(rng)
            client, server = link.apps
            self.assertEqual(bytes(client.received), bytes(server.written))
            self.assertEqual(bytes(server.received), bytes(client.written))

    def test_pull_producer(self) -> None:
        """A producer that wants to be asked is asked as often, and its bytes arrive.  D4"""

        def script(link: Link) -> None:
            cooperator = Cooperator(scheduler=lambda call: link.clock.callLater(0, call))
            self.patch(_producer_helpers, "cooperate", cooperator.cooperate)
            link.settle()
            link.tls[CLIENT].registerProducer(Producer(link.apps[CLIENT]), False)
            link.tls[CLIENT].loseConnection()
            link.settle()

        self.compare(script)
        link = connect(FAST)
        script(link)
        self.assertEqual(len(link.apps[SERVER].received), 3000)

    def test_cut_during_the_handshake(self) -> None:
        """Ends that come before TLS is complete are reported alike.  D4"""
        for operation in ("lose", "abort", "cut", "half"):
            for side in (CLIENT, SERVER):

                def script(link: Link, operation: str = operation, side: int = side) -> None:
                    link.turn()
                    link.tcp[CLIENT].move(100)
                    link.perform(operation, side, [])
                    link.settle()

                self.compare(script)
                self.compare(script, "early", "early")

    def test_garbage(self) -> None:
        """A broken record ends the connection with the same error.  D4"""
        for side in (CLIENT, SERVER):
            for early in (True, False):

                def script(link: Link, side: int = side, early: bool = early) -> None:
                    if not early:
                        link.settle()
                        link.perform("write", 1 - side, [100])
                        link.turn()
                    link.tcp[1 - side].outgoing += b"\x17\x03\x03\x00\x20" + bytes(32)
                    link.settle()

                self.compare(script)


class FastTLSTests(SynchronousTestCase):
    """What is different from Twisted's transport, on purpose."""

    def test_first_write_of_a_turn_leaves_at_once(self) -> None:
        """A single write waits for nothing.  D9"""
        link = established(FAST)
        link.apps[CLIENT].write(100)
        self.assertEqual(link.tcp[CLIENT].writes, [122])

    def test_other_writes_of_a_turn_leave_together(self) -> None:
        """What follows shares one record.  D9"""
        link = established(FAST)
        for _ in range(10):
            link.apps[CLIENT].write(100)
        self.assertEqual(link.tcp[CLIENT].writes, [122])
        link.turn()
        self.assertEqual(link.tcp[CLIENT].writes, [122, 922])
        link.apps[CLIENT].write(100)
        self.assertEqual(link.tcp[CLIENT].writes, [122, 922, 122])
        link.settle()
        self.assertEqual(len(link.apps[SERVER].received), 1100)

    def test_sixty_four_kibibytes_do_not_wait(self) -> None:
        """The buffer of a turn is bounded.  D14"""
        link = established(FAST)
        link.perform("write", CLIENT, [1, 65_535])
        self.assertEqual(len(link.tcp[CLIENT].writes), 1)
        link.perform("write", CLIENT, [1])
        self.assertEqual(len(link.tcp[CLIENT].writes), 2)
        link.turn()
        self.assertEqual(len(link.tcp[CLIENT].writes), 2)

    def test_large_pieces_are_handed_over_in_one_call(self) -> None:
        """A transport that pauses its producer finds no half of a write outside.  D9"""
        link = established(FAST)
        link.perform("write", CLIENT, [1, 1])
        link.perform("sequence", CLIENT, [20, 300_000])
        self.assertEqual(len(link.tcp[CLIENT].writes), 3)
        link.settle()
        self.assertEqual(len(link.apps[SERVER].received), 300_022)

    def test_one_read_is_one_delivery(self) -> None:
        """All records that came together are delivered together.  D4"""
        link = established(FAST)
        link.perform("write", CLIENT, [100, 60_000])
        link.settle()
        self.assertEqual(link.apps[SERVER].deliveries, 1)

    def test_more_than_the_buffer_holds(self) -> None:
        """A read of any size is delivered completely.  D4"""
        link = established(FAST)
        size = 2 * tls_inside.SCRATCH_BYTES + 5
        link.perform("write", CLIENT, [size])
        link.tcp[CLIENT].move(2 * size)
        self.assertEqual(len(link.apps[SERVER].received), size)
        self.assertEqual(link.apps[SERVER].deliveries, 3)

    def test_one_timer_for_all_connections(self) -> None:
        """Writing to many peers costs one timer, which goes when they do.  D9"""
        clock = Clock()
        links = [established(FAST, clock=clock) for _ in range(3)]
        for link in links:
            link.perform("write", CLIENT, [1, 1])
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        for link in links:
            self.assertEqual(len(clock.getDelayedCalls()), 1)
            link.perform("cut", CLIENT, [])
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_failing_connection_does_not_hold_up_others(self) -> None:
        """When a turn is over every connection gets its chance.  D14"""
        clock = Clock()
        links = [established(FAST, clock=clock) for _ in range(2)]
        for link in links:
            link.perform("write", CLIENT, [1, 1])
        self.patch(links[0].tcp[CLIENT], "write", mock.Mock(side_effect=ZeroDivisionError))
        clock.advance(0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(links[1].tcp[CLIENT].writes), 2)

    def test_order_is_kept_across_the_handshake(self) -> None:
        """A write from ``handshakeCompleted`` does not overtake earlier ones.  D4"""
        link = connect(FAST, "early greet", "")
        link.settle()
        self.assertEqual(bytes(link.apps[SERVER].received), random.Random(7).randbytes(40_600))

    def test_write_in_the_turn_of_the_close_is_sent(self) -> None:
        """Neither our own close nor the peer's loses what was written before.  D4"""
        link = established(FAST, "", "reply")
        link.perform("write", CLIENT, [1, 1])
        link.perform("lose", CLIENT, [])
        link.settle()
        self.assertEqual(len(link.apps[SERVER].received), 2)
        self.assertEqual(len(link.apps[CLIENT].received), 700)

    def test_write_before_the_producer_goes_is_sent(self) -> None:
        """A close that waits for the producer takes along what that wrote last.  D4"""
        link = established(FAST)
        link.perform("producer", CLIENT, [])
        link.perform("lose", CLIENT, [])
        link.perform("write", CLIENT, [1, 1])
        link.perform("unregister", CLIENT, [])
        link.settle()
        self.assertEqual(len(link.apps[SERVER].received), 2)

    def test_write_after_the_end_is_dropped(self) -> None:
        """After close, abort or loss nothing is written, and no timer starts.  D4"""
        for end in ("lose", "abort", "cut"):
            link = established(FAST)
            link.perform("producer", CLIENT, [])
            link.perform("write", CLIENT, [1, 1])
            if end == "lose":
                link.perform("unregister", CLIENT, [])
            link.perform(end, CLIENT, [])
            written = list(link.tcp[CLIENT].writes)
            link.tls[CLIENT].write(b"x")
            link.tls[CLIENT].writeSequence([b"x" * 70_000])
            link.settle()
            self.assertEqual(link.tcp[CLIENT].writes, written, end)
            reason = "ConnectionDone" if end == "lose" else "ConnectionLost"
            self.assertEqual(link.apps[CLIENT].log[-1], reason)
            link.tls[CLIENT].write(b"x")
            link.tls[CLIENT].abortConnection()
            self.assertEqual(link.clock.getDelayedCalls(), [])

    def test_only_bytes_can_be_written(self) -> None:
        """What is not bytes is refused where it is written.  D4"""
        link = established(FAST)
        self.assertRaises(TypeError, link.tls[CLIENT].write, "text")
        self.assertRaises(TypeError, link.tls[CLIENT].writeSequence, ["text"])
        data = bytearray(b"ab")
        link.tls[CLIENT].write(b"")
        link.tls[CLIENT].write(data)
        data[:] = b"cd"
        link.settle()
        self.assertEqual(bytes(link.apps[SERVER].received), b"ab")

    def test_whole_part_of_a_broken_read_is_delivered(self) -> None:
        """Data before a broken record arrives; the error is that of the record.  D14"""
        link = established(FAST, "", "reply")
        link.perform("write", CLIENT, [100])
        link.tcp[CLIENT].outgoing += b"\x17\x03\x03\x00\x20" + bytes(32)
        link.settle()
        self.assertEqual(len(link.apps[SERVER].received), 100)
        self.assertEqual(link.apps[SERVER].log[-2:], ["data", "Error"])

    def test_what_was_gathered_for_a_broken_connection_is_dropped(self) -> None:
        """Nothing is encrypted after TLS has failed.  D14"""
        link = established(FAST)
        link.tcp[CLIENT].outgoing += b"\x17\x03\x03\x00\x20" + bytes(32)
        link.perform("write", SERVER, [1, 1])
        link.tcp[CLIENT].move(100)
        written = list(link.tcp[SERVER].writes)
        link.settle()
        self.assertEqual(link.tcp[SERVER].writes, written)
        self.assertEqual(link.apps[SERVER].log[-1], "Error")

    def test_openssl_that_wants_to_read_first(self) -> None:
        """What it does not take waits, the rest of a piece and the next ones, in order.  D4"""
        link = established(FAST)
        tls, app = link.tls[CLIENT], link.apps[CLIENT]
        link.perform("producer", CLIENT, [])
        connection = tls._tlsConnection
        real = tls_inside.SSL_write

        def once(ssl: Any, data: Any, size: int) -> Any:
            return real(ssl, data, 5) if write.call_count == 1 else -1

        with (
            mock.patch.object(connection, "_raise_ssl_error", side_effect=SSL.WantReadError),
            mock.patch.object(tls_sending, "SSL_write", side_effect=once) as write,
        ):
            link.perform("sequence", CLIENT, [50_000, 30_000])
            link.perform("write", CLIENT, [10])
        self.assertEqual(link.tcp[CLIENT].writes, [27])
        self.assertEqual(app.log[-1], "pause")
        link.perform("write", SERVER, [1])
        link.settle()
        self.assertEqual(app.log[-2:], ["resume", "data"])
        self.assertEqual(bytes(link.apps[SERVER].received), bytes(app.written))

    def test_nothing_is_delivered_after_an_abort(self) -> None:
        """Bytes that the transport had read already stay unread.  D4"""
        link = established(FAST)
        link.perform("write", CLIENT, [100])
        link.perform("abort", SERVER, [])
        link.tls[SERVER].dataReceived(bytes(link.tcp[CLIENT].outgoing))
        self.assertEqual(len(link.apps[SERVER].received), 0)
        link.settle()

    def test_loss_inside_a_delivery(self) -> None:
        """A transport that reports the loss at once, from within, does no harm.  D14"""
        link = established(FAST)
        app = link.apps[SERVER]
        self.patch(app, "dataReceived", lambda data: link.perform("cut", SERVER, []))
        link.perform("write", CLIENT, [100])
        link.settle()
        self.assertEqual(app.log[-1], "ConnectionLost")

    def test_large_write_that_meets_an_error(self) -> None:
        """A write after the peer broke TLS ends the connection once.  D14"""
        link = established(FAST)
        link.tls[CLIENT]._tlsConnection.shutdown()
        link.perform("write", CLIENT, [100])
        link.settle()
        self.assertEqual(link.apps[CLIENT].log[-1], "Error")


_fast: Any = FastTLS  # Twisted's part has no types here


class DirectTests(SynchronousTestCase):
    """Sockets that are written to without waiting for the reactor."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
        self.addCleanup(theirs.close)
        theirs.setblocking(False)
        self.far_end = theirs
        self.app: Any = App()
        factory = FastTLSFactory(CREATORS[CLIENT], True, Factory.forProtocol(App), self.reactor)
        self.tls: Any = _fast(factory, self.app)
        self.tcp: Any = tcp.Connection(ours, self.tls, self.reactor)
        self.tcp.connected = 1
        self.addCleanup(ours.close)
        peer = FastTLSFactory(CREATORS[SERVER], False, Factory.forProtocol(App), self.reactor)
        self.peer_app = App()
        self.peer_tcp = FakeTCP(self.reactor)
        self.peer: Any = _fast(peer, self.peer_app)
        self.peer_tcp.protocol = self.peer
        self.peer.makeConnection(self.peer_tcp)
        self.tls.makeConnection(self.tcp)
        for _ in range(3):
            self.carry()
        self.assertEqual(self.peer_app.log[-1], "handshake")

    def carry(self) -> int:
        """Move what is in the sockets; bytes of ours."""
        moved = 0
        with contextlib.suppress(BlockingIOError):
            while data := self.far_end.recv(1 << 20):
                moved += len(data)
                self.peer.dataReceived(data)
        if self.peer_tcp.outgoing:
            self.tls.dataReceived(bytes(self.peer_tcp.outgoing))
            self.peer_tcp.outgoing.clear()
        return moved

    def test_bytes_are_in_the_socket_at_once(self) -> None:
        """Nothing waits for the reactor, which is not even asked.  D9"""
        self.assertTrue(tls_inside.DIRECT)
        self.app.write(1000)
        self.assertEqual(self.tcp.dataBuffer, b"")
        self.assertNotIn(self.tcp, self.reactor.getWriters())
        self.carry()
        self.assertEqual(len(self.peer_app.received), 1000)

    def test_what_the_socket_does_not_take_pauses_the_producer(self) -> None:
        """However little that is; and it goes first when there is room.  D9"""
        self.tls.registerProducer(Quiet(self.app), True)
        while self.app.log[-1] != "pause":
            self.tls.write_now([self.app.content(10_000)])
        self.assertIn(self.tcp, self.reactor.getWriters())
        self.assertLessEqual(self.tcp._tempDataLen, 10_100)
        self.tls.write_now([self.app.content(50)])  # who writes nevertheless comes after it
        while self.app.log[-1] != "resume":
            self.carry()
            self.tcp.doWrite()
        self.assertEqual(self.app.log.count("pause"), 1)
        self.app.write(10)
        self.carry()
        self.assertEqual(bytes(self.peer_app.received), bytes(self.app.written))

    @given(st.lists(st.sampled_from([1, 100, 16_385, 70_000, 0, -1]), max_size=12))
    def test_any_order_of_writing_and_draining(self, script: list[int]) -> None:
        """No byte is lost or overtaken.  D9"""
        self.setUp()
        for size in script:
            if size > 0:
                self.tls.write_now([self.app.content(size)])
            elif size == 0:
                self.carry()
            elif self.tcp in self.reactor.getWriters():
                self.tcp.doWrite()
        self.reactor.advance(0)
        while self.carry() or self.tcp in self.reactor.getWriters():
            self.tcp.doWrite()
        self.assertEqual(bytes(self.peer_app.received), bytes(self.app.written))

    def test_a_broken_socket_is_the_reactors_to_find(self) -> None:
        """Writing never raises, and never ends the connection from within.  D14"""
        self.far_end.close()
        self.app.write(1000)
        self.reactor.advance(0)
        self.app.write(1000)
        self.assertIn(self.tcp, self.reactor.getWriters())
        self.assertEqual(self.app.log[-1], "handshake")
        self.assertIsInstance(self.tcp.doWrite(), Exception)

    def test_reads_grow_and_shrink(self) -> None:
        """Who sends large messages is read in larger pieces.  design §5"""
        sizes = []
        for size, is_bulky in (
            *((65_536, False), (65_535, True), (65_536, True), (131_072, True), (262_144, True)),
            *((100, True), (262_144, False), (65_536, False)),
        ):
            self.app.is_bulky = is_bulky
            self.tls._fit_reads(size)
            sizes.append(self.tcp.bufferSize >> 10)
        self.assertEqual(sizes, [64, 64, 128, 256, 256, 256, 64, 64])

    def send(self, size: int) -> None:
        """Let the far end send so many bytes."""
        self.peer_app.write(size)
        self.reactor.advance(0)
        self.far_end.sendall(self.peer_tcp.outgoing)
        self.peer_tcp.outgoing.clear()

    def test_bytes_are_read_from_the_socket(self) -> None:
        """From the second read on, by ourselves; none is lost, and the end is noticed.  D4"""
        self.peer_app.write(5)
        self.carry()
        for size in (100, 60_000, 1):
            self.send(size)
            with mock.patch.object(self.tls, "dataReceived", None):
                self.assertIsNone(self.tcp.doRead())
        self.assertIsNone(self.tcp.doRead())  # there is nothing
        self.assertEqual(bytes(self.app.received), bytes(self.peer_app.written))
        self.far_end.close()
        self.assertIs(self.tcp.doRead(), CONNECTION_DONE)
        self.tcp.socket.close()
        self.assertIs(self.tcp.doRead(), CONNECTION_LOST)
        self.tls.connectionLost(Failure(ConnectionDone()))
        self.assertNotIn("doRead", vars(self.tcp))
        self.assertEqual(fast_tls._inputs[0].view.nbytes, 262_144)
        self.assertEqual(len(fast_tls._inputs), 1)

    def test_somebody_between_reads_as_ever(self) -> None:
        """Nobody who wants to see the bytes is passed over, except Twisted's endpoints.  D4"""
        for between, is_direct in ((_WrappingProtocol(None, self.tls), True), (Factory(), False)):
            self.tls._reads = False
            self.tcp.protocol = between
            self.peer_app.write(5)
            self.carry()
            self.assertEqual("doRead" in vars(self.tcp), is_direct)
            vars(self.tcp).pop("doRead", None)

    def test_bulky_reader_gets_memory(self) -> None:
        """A protocol in whose reads there are large messages is spared a copy.  design §5"""
        seen = []

        def received(memory: memoryview, start: int, stop: int) -> None:
            seen.append(bytes(memory[start:stop]))
            memory[:] = bytes(len(memory))

        self.app.plaintext_received = received
        self.app.is_bulky = True
        self.peer_app.write(70_000)
        self.carry()
        self.app.is_bulky = False
        self.reactor.advance(0)
        self.peer_app.write(5)
        self.carry()
        self.assertEqual(b"".join(seen) + self.app.received, bytes(self.peer_app.written))
        self.assertEqual(len(self.app.received), 5)

    def test_reading_that_leads_to_reading(self) -> None:
        """Each has memory of its own, and gives it back.  D14"""
        other = established(FAST)
        other.apps[CLIENT].write(300)
        stream = bytes(other.tcp[CLIENT].outgoing)
        seen = []

        def received(memory: memoryview, start: int, stop: int) -> None:
            other.tls[SERVER].dataReceived(stream)
            seen.append(bytes(memory[start:stop]))

        self.app.plaintext_received = received
        self.app.is_bulky = True
        self.peer_app.write(500)
        self.carry()
        self.assertEqual(seen, [bytes(self.peer_app.written)])
        self.assertEqual(other.apps[SERVER].received, other.apps[CLIENT].written)

    def test_failure_in_the_middle_of_a_read(self) -> None:
        """What OpenSSL has not read stays, for whoever reads next.  D14"""
        with mock.patch.object(self.app, "dataReceived", side_effect=ZeroDivisionError):
            self.peer_app.write(tls_inside.SCRATCH_BYTES + 700)
            data = bytes(self.peer_tcp.outgoing)
            self.peer_tcp.outgoing.clear()
            self.assertRaises(ZeroDivisionError, self.tls.dataReceived, data)
        self.assertFalse(self.tls._is_lent)
        for _ in range(2):
            self.reactor.advance(0)
            self.peer_app.write(30)
            self.carry()
        self.assertEqual(
            bytes(self.app.received), bytes(self.peer_app.written[tls_inside.SCRATCH_BYTES :])
        )
        self.assertTrue(self.tls._is_lent)

    def test_other_transports_are_left_alone(self) -> None:
        """What is not a socket of Twisted's gets its bytes as ever.  D4"""
        self.assertFalse(self.peer._is_direct)
        for changed in ({"bufferSize": 1}, {"writeSomeData": None}, {"dataBuffer": None}):
            self.assertFalse(tls_inside.can_be_direct(type("Changed", (tcp.Connection,), changed)))
        self.assertFalse(tls_inside.can_be_direct(object))


class FallbackTests(SynchronousTestCase):
    """What happens when the insides of others are not as they were."""

    def test_all_is_as_we_know_it_here(self) -> None:
        """With the versions installed the fast class is used.  D4"""
        self.assertTrue(tls_inside.FAST_TLS)
        self.assertIs(FastTLSFactory.protocol, FastTLS)

    def test_every_part_is_examined(self) -> None:
        """Whatever is missing or different is noticed.  D4"""
        names = [*tls_inside.TWISTED_METHODS, *tls_inside.TWISTED_FLAGS]

        def twisted(**changes: Any) -> Any:
            known = {name: getattr(TLSMemoryBIOProtocol, name) for name in names}
            known["makeConnection"] = TLSMemoryBIOProtocol.makeConnection
            return mock.Mock(spec_set=list(known), **{**known, **changes})

        def openssl(**changes: Any) -> Any:
            names = (
                *("SSL_read", "SSL_write", "SSL_get_error", "SSL_ERROR_WANT_READ"),
                *("BIO_read", "BIO_write", "BIO_new", "BIO_s_mem", "BIO_new_mem_buf"),
                *("BIO_set_mem_eof_return", "BIO_get_mem_data", "SSL_set_bio"),
            )
            known = {name: getattr(SSL._lib, name) for name in names}
            return SimpleNamespace(
                Connection=SSL.Connection,
                Context=SSL.Context,
                TLS_CLIENT_METHOD=SSL.TLS_CLIENT_METHOD,
                WantReadError=SSL.WantReadError,
                Error=SSL.Error,
                _ffi=SSL._ffi,
                _lib=SimpleNamespace(**{**known, **changes}),
            )

        self.assertEqual(len(tls_inside.inside(openssl(), twisted())), 11)
        for name in ("_ffi", "_lib", "WantReadError", "Error"):
            fake = openssl()
            delattr(fake, name)
            self.assertRaises(AttributeError, tls_inside.inside, fake, twisted())
        for changes in (
            {"BIO_read": lambda *_: 0},
            {"BIO_read": lambda *_: 5},
            {"SSL_read": lambda *_: 1},
            {"SSL_write": lambda *_: 1},
            {"SSL_get_error": lambda *_: 5},
            {"BIO_write": lambda *_: -1},
            {"BIO_get_mem_data": lambda *_: 3},
            {"SSL_set_bio": lambda *_: None},
        ):
            self.assertRaises(ValueError, tls_inside.inside, openssl(**changes), twisted())
        null = {"BIO_new_mem_buf": lambda *_: SSL._ffi.NULL}
        self.assertRaises(MemoryError, tls_inside.inside, openssl(**null), twisted())
        for name in tls_inside.TWISTED_METHODS:
            self.assertRaises(TypeError, tls_inside.inside, SSL, twisted(**{name: None}))
        for name in tls_inside.TWISTED_FLAGS:
            self.assertRaises(ValueError, tls_inside.inside, SSL, twisted(**{name: True}))
        self.assertRaises(
            ValueError, tls_inside.inside, SSL, twisted(makeConnection=lambda transport: None)
        )

    def test_without_them_the_stock_class_does_the_work(self) -> None:
        """The factory then makes Twisted's own transport.  D4"""
        with mock.patch.object(SSL, "_lib", None):
            inside = _imported("dig_gossip.connection.tls_inside")
        self.assertFalse(inside.FAST_TLS)
        with mock.patch.dict(sys.modules, {inside.__name__: inside}):
            sending = _imported("dig_gossip.connection.tls_sending")
            with mock.patch.dict(sys.modules, {sending.__name__: sending}):
                module = _imported("dig_gossip.connection.fast_tls")
        self.assertIs(module.FastTLSFactory.protocol, BufferingTLSTransport)
        link = established([module.FastTLSFactory, FastTLSFactory])
        link.perform("write", CLIENT, [100_000])
        link.settle()
        self.assertEqual(len(link.apps[SERVER].received), 100_000)


def _imported(name: str) -> Any:  # Any: a module
    """A copy of a module, imported once more."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
