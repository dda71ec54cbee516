"""The way from TCP to a session: every stage may fail, each once, and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs
from OpenSSL import SSL
from twisted.internet import error as tcp
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock as FakeReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.handshake import build
from dig_gossip.connection.opening import Opening
from dig_gossip.errors import (
    ChannelClosed,
    ClientError,
    ClientErrorKind,
    DuplicateConnection,
    GossipError,
    MaxConnectionsReached,
    PeerBanned,
)
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.clock import Clock
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType
from tests.connection import peer as peer_id
from tests.connection.hostile_case import AFTER_CLOSE, HostileCase

TIMEOUT_SECS = 30.0
NETWORK = "a network"


def greeting(network_id: str = NETWORK, node_type: int = 1) -> bytes:
    """A handshake as a frame's payload."""
    body = build(network_id=network_id, software_version="x", server_port=1)
    body = attrs.evolve(body, node_type=node_type)
    return bytes(Message(ChiaMessageType.HANDSHAKE, None, bytes(body)))


class FakeHost:
    """Decides what the test says; notes what it is asked."""

    network = NETWORK

    def __init__(self) -> None:
        self.session = object()
        self.greet_error: GossipError | None = None
        self.register_error: GossipError | None = None
        self.truer_error: GossipError | None = None
        self.calls: list[str] = []

    def own_handshake(self) -> bytes:
        return b"our handshake"

    def greet(self, opening: Opening) -> None:
        self.calls.append("greet")
        if self.greet_error is not None:
            raise self.greet_error

    def register(self, opening: Opening, remote: object) -> Any:  # Any: stands for a Session
        self.calls.append("register")
        if self.register_error is not None:
            raise self.register_error
        return self.session

    def opening_ended(self, opening: Opening, outcome: object) -> GossipError | None:
        self.calls.append("opening_ended")
        return self.truer_error


class FakeWebSocket:
    """Notes what it is told to do."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.sent: list[Message] = []
        self.writer = self
        self.remote_close: tuple[int | None, str] = (None, "")

    def send(self, frame: OutboundFrame) -> bool:
        self.sent.append(frame.message)
        return True

    def close(self, code: int, reason: str = "") -> None:
        self.done.append(("close", code, reason))

    def abort(self) -> None:
        self.done.append(("abort",))


class OpeningCase(SynchronousTestCase):
    """An opening whose surroundings are made of paper."""

    def setUp(self) -> None:
        self.begin()

    def begin(self, *, is_outbound: bool = True) -> None:
        """Begin a new one."""
        self.reactor = FakeReactor()
        # This reactor's time is the only one.
        cast(Any, self.reactor).monotonic = self.reactor.seconds
        self.clock = Clock(self.reactor)
        self.host = FakeHost()
        self.websocket = FakeWebSocket()
        self.outcomes: list[Any] = []
        self.opening = Opening(
            self.host,
            self.clock,
            is_outbound=is_outbound,
            address=PeerAddress("10.1.2.3", 9444),
            timeout=TIMEOUT_SECS,
            ended=self.ended,
        )

    def ended(self, outcome: object) -> None:
        self.host.calls.append("ended")
        self.outcomes.append(outcome)

    def reach(self, stage: str, *, is_outbound: bool = True) -> None:
        """Begin a new one and bring it as far as ``stage``."""
        self.begin(is_outbound=is_outbound)
        stages = ["tcp", "tls", "websocket", "handshake"]
        steps: list[Callable[[], object]] = [
            lambda: None,
            lambda: self.opening.attach(cast(Any, self.websocket)),
            lambda: self.opening.secured(peer_id(7)),
            self.opening.opened,
        ]
        for step in steps[: stages.index(stage) + 1]:
            step()

    def the_error(self) -> GossipError:
        """The one outcome, which is an error; and nothing is left of the opening."""
        self.assertEqual(len(self.outcomes), 1, self.outcomes)
        self.assertEqual(self.host.calls[-2:], ["opening_ended", "ended"])
        self.assertEqual(self.clock.pending, 0, "the deadline is still there")
        error = self.outcomes[0]
        assert isinstance(error, GossipError)
        return error

    def assert_error(self, kind: ClientErrorKind, text: str = "") -> None:
        error = self.the_error()
        assert isinstance(error, ClientError)
        self.assertIs(error.kind, kind, str(error))
        self.assertIn(text, str(error))


class DeadlineTests(OpeningCase):
    """One deadline for all stages; its error names the stage."""

    def test_each_stage_is_named(self) -> None:
        """An operator sees where a peer hangs.  CON-001.2, CON-002.2"""
        for stage, text in {
            "tcp": "10.1.2.3:9444: gave up connecting",
            "tls": "10.1.2.3:9444: gave up waiting for TLS",
            "websocket": "10.1.2.3:9444: gave up waiting for the WebSocket",
            "handshake": "10.1.2.3:9444: gave up waiting for the handshake",
        }.items():
            self.reach(stage)
            self.reactor.advance(TIMEOUT_SECS - 0.001)
            self.assertEqual(self.outcomes, [], stage)
            self.reactor.advance(0.001)
            self.assert_error(ClientErrorKind.TIMEOUT, text)
            expected = [] if stage == "tcp" else [("abort",)]
            self.assertEqual(self.websocket.done, expected, "a slow peer gets no polite close")

    def test_progress_and_bytes_do_not_move_it(self) -> None:
        """It is one deadline, not one for each stage.  CON-002.2"""
        self.reactor.advance(20)
        self.opening.attach(cast(Any, self.websocket))
        self.opening.secured(peer_id(7))
        self.opening.opened()
        self.opening.heard()
        self.reactor.advance(9.9)
        self.opening.heard()
        self.assertEqual(self.outcomes, [])
        self.reactor.advance(0.1)
        self.assert_error(ClientErrorKind.TIMEOUT)

    def test_a_session_has_no_deadline(self) -> None:
        """It is cancelled with the success, too.  CON-002.2"""
        self.reach("handshake")
        self.opening.frame_received(greeting())
        self.assertEqual(self.clock.pending, 0)
        self.reactor.advance(TIMEOUT_SECS)
        self.assertEqual(self.outcomes, [self.host.session])


class StageTests(OpeningCase):
    """What can go wrong, stage by stage."""

    def test_tcp_refused(self) -> None:
        """Nobody listens.  API-004.1"""
        self.opening.not_connected(Failure(tcp.ConnectionRefusedError()))
        self.assert_error(ClientErrorKind.REFUSED, "10.1.2.3:9444")

    def test_tcp_timeout(self) -> None:
        """Nobody answers.  CON-001.2"""
        self.opening.not_connected(Failure(tcp.TimeoutError()))
        self.assert_error(ClientErrorKind.TIMEOUT)

    def test_tcp_too_late(self) -> None:
        """A connection that arrives after the end is dropped, in a turn of its own.  CON-001.2"""
        self.opening.fail(ChannelClosed())
        self.opening.attach(cast(Any, self.websocket))
        self.assertEqual(self.websocket.done, [])
        self.reactor.advance(0)
        self.assertEqual(self.websocket.done, [("abort",)])
        self.assertEqual(len(self.outcomes), 1)

    def test_tls_error(self) -> None:
        """OpenSSL's words, without its grammar.  API-004.1"""
        self.reach("tls")
        self.opening.lost(
            Failure(SSL.Error([("SSL routines", "", "no shared cipher"), ("", "", "x")]))
        )
        self.assert_error(ClientErrorKind.TLS, "no shared cipher; x")

    def test_tls_error_without_words(self) -> None:
        """Some OpenSSL versions have nothing to say.  API-004.1"""
        for error in (SSL.Error(), SSL.Error([]), SSL.ZeroReturnError()):
            self.reach("tls")
            self.opening.lost(Failure(error))
            self.assert_error(ClientErrorKind.TLS, "TLS failed")

    def test_tls_error_of_the_system(self) -> None:
        """Its arguments are a number and a text, not a list.  API-004.1"""
        self.reach("tls")
        self.opening.lost(Failure(SSL.SysCallError(104, "Connection reset")))
        self.assert_error(ClientErrorKind.TLS)

    def test_lost_before_tls(self) -> None:
        """As by a gate that refuses us.  API-004.1"""
        self.reach("tls")
        self.opening.lost(Failure(ConnectionLost()))
        self.assert_error(ClientErrorKind.TLS, "before TLS was done")

    def test_lost_after_tls(self) -> None:
        """As by a listener that does not like our certificate.  API-004.1"""
        for stage in ("websocket", "handshake"):
            self.reach(stage)
            self.opening.lost(Failure(ConnectionDone()))
            self.assert_error(ClientErrorKind.WS, "before the handshake")

    def test_unreadable_certificate(self) -> None:
        """No identity, no peer.  CON-009.1"""
        self.reach("tls")
        self.opening.broken(ClientError(ClientErrorKind.TLS, "not a certificate"))
        self.assert_error(ClientErrorKind.TLS, "not a certificate")
        self.assertEqual(self.websocket.done, [("abort",)])

    def test_dialer_greets_first(self) -> None:
        """As soon as the WebSocket is open, once the id may be greeted.  CON-001.3"""
        self.reach("websocket")
        self.assertEqual(self.websocket.sent, [])
        self.opening.opened()
        self.assertEqual(self.host.calls, ["greet"])
        self.assertEqual(
            self.websocket.sent, [Message(ChiaMessageType.HANDSHAKE, None, b"our handshake")]
        )

    def test_listener_waits(self) -> None:
        """Our handshake is not for strangers.  CON-002.3"""
        self.reach("handshake", is_outbound=False)
        self.assertEqual(self.websocket.sent, [])
        self.assertEqual(self.host.calls, [])

    def test_peer_that_is_not_to_be_greeted(self) -> None:
        """It is told why, and hears no handshake.  CON-001.5"""
        self.reach("websocket")
        self.host.greet_error = PeerBanned(peer_id(7))
        self.opening.opened()
        self.assertIs(self.the_error(), self.host.greet_error)
        self.assertEqual(self.websocket.sent, [])
        self.assertEqual(self.websocket.done, [("close", 1008, "1")])

    def test_first_frame_is_judged(self) -> None:
        """By what it is, by what it says, by who may come in, in this order.  CON-001.4, CON-003"""
        for payload, close, check in (
            (b"", (1002, "-6"), ClientErrorKind.MISSING_HANDSHAKE),
            (bytes(Message(43, None, b"")), (1002, "-6"), ClientErrorKind.MISSING_HANDSHAKE),
            (greeting("another"), (1002, "110"), ClientErrorKind.WRONG_NETWORK),
            (greeting(node_type=6), (1008, "-6"), ClientErrorKind.WRONG_NODE_TYPE),
        ):
            self.reach("handshake")
            self.opening.frame_received(payload)
            self.assert_error(check)
            self.assertEqual(self.websocket.done, [("close", *close)])
            self.assertNotIn("register", self.host.calls)

    def test_wallets_may_dial_us(self) -> None:
        """The node types that are welcome depend on who dialed.  CON-003.6"""
        self.reach("handshake", is_outbound=False)
        self.opening.frame_received(greeting(node_type=6))
        self.assertEqual(self.outcomes, [self.host.session])

    def test_peer_that_is_not_admitted(self) -> None:
        """The table's verdict is the error, and the close says so.  CON-001.5, CON-002.5"""
        for error, close in (
            (PeerBanned(peer_id(7)), (1008, "1")),
            (DuplicateConnection(peer_id(7)), (1000, "1")),
            (MaxConnectionsReached(50), (1013, "1")),
        ):
            self.reach("handshake", is_outbound=False)
            self.host.register_error = error
            self.opening.frame_received(greeting())
            self.assertIs(self.the_error(), error)
            self.assertEqual(self.websocket.done, [("close", *close)])

    def test_registered_peer_is_the_outcome(self) -> None:
        """The permit is back before anybody learns of the session.  CON-002.2, CON-002.4"""
        self.reach("handshake", is_outbound=False)
        self.opening.frame_received(greeting())
        self.assertEqual(self.host.calls, ["register", "opening_ended", "ended"])
        self.assertEqual(self.outcomes, [self.host.session])
        self.assertEqual(self.websocket.done, [])

    def test_text_is_no_handshake(self) -> None:
        """It is refused as text, and counts as no handshake.  CON-002.3, MSG-102-X"""
        self.reach("handshake", is_outbound=False)
        self.opening.text_received()
        self.assert_error(ClientErrorKind.MISSING_HANDSHAKE, "text")
        self.assertEqual(self.websocket.done, [("close", 1003, "binary messages only")])

    def test_pongs_are_nothing(self) -> None:
        """Nobody has asked yet.  CON-004.1"""
        self.reach("handshake")
        self.opening.pong_received(b"pong")
        self.assertEqual(self.outcomes, [])

    def test_closed_by_the_peer(self) -> None:
        """Its code and reason are the error, cleaned; Chia's numbers have a meaning.  API-004.1"""
        for code, reason, kind, text in (
            (1000, "", ClientErrorKind.REFUSED, "closed by the peer: 1000"),
            (None, "", ClientErrorKind.REFUSED, "closed by the peer: None"),
            (1008, "go\r\naway", ClientErrorKind.REFUSED, "1008 goaway"),
            (1002, "110", ClientErrorKind.WRONG_NETWORK, "1002 110"),
        ):
            self.reach("handshake")
            self.websocket.remote_close = (code, reason)
            self.opening.closing(code, False)
            self.assert_error(kind, text)

    def test_closed_by_autobahn(self) -> None:
        """A violation before the handshake.  CON-112-X"""
        self.reach("handshake")
        self.opening.closing(1009, True)
        self.assert_error(ClientErrorKind.WS, "closed with 1009")

    def test_the_host_may_know_better(self) -> None:
        """What looks like a refusal may be the loser of a glare.  CON-105-X"""
        self.reach("handshake")
        self.host.truer_error = DuplicateConnection(peer_id(7))
        self.opening.closing(1000, False)
        self.assertIs(self.the_error(), self.host.truer_error)


class OnceTests(OpeningCase):
    """An opening ends exactly once, whatever comes afterwards."""

    def everything(self) -> None:
        """All that a connection can still report."""
        self.opening.opened()
        self.opening.frame_received(greeting())
        self.opening.frame_received(b"")
        self.opening.text_received()
        self.opening.pong_received(b"")
        self.opening.closing(1000, False)
        self.opening.closing(1002, True)
        self.opening.broken(ClientError(ClientErrorKind.TLS))
        self.opening.not_connected(Failure(tcp.TimeoutError()))
        self.opening.lost(Failure(ConnectionLost()))
        self.opening.fail(ChannelClosed())
        self.reactor.advance(2 * TIMEOUT_SECS)

    def test_nothing_counts_after_a_failure(self) -> None:
        """At each stage; nor is anything sent.  CON-002.2"""
        for stage in ("tcp", "tls", "websocket", "handshake"):
            self.reach(stage)
            error = ChannelClosed()
            self.opening.fail(error)
            sent, calls = list(self.websocket.sent), list(self.host.calls)
            done = list(self.websocket.done)
            self.everything()
            self.assertEqual(self.outcomes, [error])
            self.assertEqual(self.host.calls, calls, stage)
            self.assertEqual(self.websocket.sent, sent, stage)
            self.assertEqual(self.websocket.done, done, stage)

    def test_nothing_counts_after_success(self) -> None:
        """The session is the receiver now; a straggler changes nothing.  CON-106-X"""
        self.reach("handshake", is_outbound=False)
        self.opening.frame_received(greeting())
        self.everything()
        self.assertEqual(self.outcomes, [self.host.session])
        self.assertEqual(self.websocket.done, [])

    def test_failure_that_is_reported_while_failing(self) -> None:
        """Closing a WebSocket tells its receiver about it at once.  CON-002.2"""
        self.reach("handshake")
        close = self.websocket.close

        def close_and_tell(code: int, reason: str = "") -> None:
            close(code, reason)
            self.opening.closing(code, True)

        self.patch(self.websocket, "close", close_and_tell)
        self.opening.frame_received(b"")
        self.assert_error(ClientErrorKind.MISSING_HANDSHAKE)


class CancellationTests(HostileCase):
    """``connect_to`` may be cancelled at any moment."""

    def setUp(self) -> None:
        super().setUp()
        self.timers = self.parts.clock.pending

    def assert_nothing_is_left(self) -> None:
        self.assertEqual(self.parts.peers.openings, 0)
        self.assertEqual(self.parts.dialer.dials, 0)
        self.network.advance(AFTER_CLOSE)
        self.assertEqual(len(self.parts.transports), 0)
        self.assertEqual(len(self.parts.peers.table), 0)
        self.assertEqual(self.parts.clock.pending, self.timers)

    def cancel(self, dialed: Deferred[PeerId]) -> None:
        dialed.cancel()
        self.failureResultOf(dialed, CancelledError)

    def test_while_tcp_is_being_connected(self) -> None:
        """The attempt ends; the address is not blamed.  CON-001.2, style §6.4"""
        nowhere = PeerAddress("10.200.0.1", 9444)
        self.network.cut(self.node.host, nowhere.host)
        dialed = self.node.handle.connect_to(nowhere)
        self.network.advance(5)
        self.cancel(dialed)
        self.assert_nothing_is_left()
        self.assertEqual(self.parts.dialer.backoff.failures(nowhere), 0)
        self.assertEqual(self.count("opening_failed.outbound.ChannelClosed"), 1)

    def test_at_each_stage_with_a_peer_that_hangs(self) -> None:
        """The transport is dropped, or told, and the peer sees it.  CON-001.2, style §6.4"""
        for stage, options, script in (
            ("tls", {"tls": False}, {}),
            ("websocket", {}, {}),
            ("handshake", {}, {"on_request": lambda peer: peer.accept_upgrade()}),
        ):
            peer = self.hostile(**cast("dict[str, Any]", options))
            address = peer.listen(**cast("dict[str, Any]", script))
            dialed = self.node.handle.connect_to(address)
            self.network.advance(5)
            self.assertTrue(peer.is_connected, stage)
            self.cancel(dialed)
            self.network.settle()
            assert peer.closed is not None
            self.assertEqual(peer.closed.code, 1001 if stage == "handshake" else None, stage)
            self.assert_nothing_is_left()
            self.assertFalse(peer.is_connected, stage)
            self.assertEqual(self.parts.dialer.backoff.failures(address), 0, stage)

    def test_after_each_event_of_a_dial_that_would_succeed(self) -> None:
        """Both ends, after 0, 1, 2 … events: nothing is left anywhere.  style §6.4"""
        [other] = self.nodes(1)
        theirs = other.service.node
        their_timers = theirs.clock.pending
        for events in range(1000):
            dialed = self.node.handle.connect_to(other.address)
            for _ in range(events):
                self.network.clock.step()
            if dialed.called:
                break
            self.cancel(dialed)
            self.assert_nothing_is_left()
            self.assertEqual(theirs.peers.openings, 0, events)
            self.assertEqual(len(theirs.transports), 0, events)
            self.assertEqual(len(theirs.peers.table), 0, events)
            self.assertEqual(theirs.clock.pending, their_timers, events)
        self.assertGreater(events, 5, "a dial has more than a few events")
        self.assertEqual(self.successResultOf(dialed), other.peer_id)

    def test_one_of_two_callers_cancels(self) -> None:
        """The attempt goes on for the other.  CON-001.1"""
        peer = self.hostile()
        address = peer.listen(
            on_request=lambda peer: peer.accept_upgrade(),
            on_message=lambda peer: peer.greet() if len(peer.messages) == 1 else None,
        )
        first = self.node.handle.connect_to(address)
        second = self.node.handle.connect_to(address)
        self.network.clock.step()
        self.cancel(first)
        self.assertEqual(self.network.run(second), peer.peer_id)

    def test_stopping_at_each_stage(self) -> None:
        """A service that stops fails its dials, whatever they wait for.  API-001.3"""
        stages: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"tls": False}, {}),
            ({}, {}),
            ({}, {"on_request": lambda peer: peer.accept_upgrade()}),
        ]
        for options, script in stages:
            [node] = self.nodes(1)
            peer = HostilePeer(self.network, **options)
            dialed = node.handle.connect_to(peer.listen(**script))
            self.network.advance(5)
            parts = node.service.node
            self.network.run(node.service.stop())
            self.failureResultOf(dialed, ChannelClosed)
            self.network.settle()
            self.assertFalse(peer.is_connected)
            self.assertEqual(len(parts.transports), 0)
            self.assertEqual(parts.clock.pending, 0)
