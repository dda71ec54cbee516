"""The life of a service: construct, start, stop, in every order."""

from __future__ import annotations

import copy
from typing import Any

import attrs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from dig_gossip import (
    AlreadyStarted,
    ChannelClosed,
    GossipConfig,
    GossipService,
    IntroducerNotConfigured,
    InvalidConfig,
    Io,
    Lifecycle,
    Message,
    PeerNotConnected,
    PeerOptions,
    RequestTimeout,
    ServiceNotStarted,
    Verdict,
)
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.util.deferreds import handled
from tests.network_case import NetworkCase


def watch(deferred: Deferred[Any]) -> list[Any]:
    """What a Deferred came to."""
    outcome: list[Any] = []
    handled(deferred.addBoth(outcome.append))
    return outcome


class LifecycleTests(NetworkCase):
    """States go one way; a failed start may be repeated."""

    def test_constructing_opens_nothing(self) -> None:
        """No socket and no timer before start.  API-001"""
        node = self.network.node()
        self.assertEqual(self.network._ports, {})
        self.assertEqual(self.network.clock.getDelayedCalls(), [])
        self.assertIs(node.service.lifecycle, Lifecycle.CONSTRUCTED)

    def test_start_binds_and_gives_a_handle(self) -> None:
        """The handle is on this service.  API-001.1"""
        node = self.network.node()
        handle = self.network.run(node.service.start())
        self.assertEqual(handle, node.service.handle)
        self.assertEqual(node.service.listen_address, node.address)
        self.assertIsNone(self.network.run(handle.health_check()))

    def test_start_twice_is_an_error(self) -> None:
        """A running service cannot be started.  API-001.2"""
        (node,) = self.nodes(1)
        self.assertFires(AlreadyStarted, node.service.start())
        self.assertIs(node.service.lifecycle, Lifecycle.RUNNING)

    def test_start_after_stop_is_an_error(self) -> None:
        """Stopped is for good.  API-001.2"""
        (node,) = self.nodes(1)
        self.network.run(node.service.stop())
        error = self.assertFires(InvalidConfig, node.service.start())
        self.assertIn("cannot be restarted", str(error))

    def test_failed_bind_leaves_the_service_constructed(self) -> None:
        """The caller may free the port and try again; no timer was started.  API-001.1"""
        first = self.network.node()
        second = self.network.node(host=first.host, port=first.address.port)
        self.network.run(first.service.start())
        error = self.assertFires(Io, second.service.start())
        self.assertIn("--listen", str(error))
        self.assertIs(second.service.lifecycle, Lifecycle.CONSTRUCTED)
        self.network.run(first.service.stop())
        self.network.run(second.service.start())

    def test_stop_before_start_is_legal(self) -> None:
        """Stop is legal in every state.  API-001.3"""
        node = self.network.node()
        self.network.run(node.service.stop())
        self.assertIs(node.service.lifecycle, Lifecycle.STOPPED)

    def test_concurrent_stops_all_fire(self) -> None:
        """Each caller gets a Deferred of its own.  API-001.3"""
        one, _other = self.connected()
        outcomes = [watch(one.service.stop()) for _ in range(3)]
        self.network.advance(11)
        outcomes.append(watch(one.service.stop()))
        self.assertEqual(outcomes, [[None]] * 4)

    def test_stop_in_the_turn_of_start(self) -> None:
        """Both orders of start and stop in one turn.  CNC-004"""
        node = self.network.node(bootstrap_peers=["10.200.0.1:9444"])
        started = watch(node.service.start())
        stopped = watch(node.service.stop())
        self.network.advance(11)
        self.assertEqual((len(started), stopped), (1, [None]))
        other = self.network.node()
        stopped = watch(other.service.stop())
        started = watch(other.service.start())
        self.network.advance(11)
        self.assertEqual(stopped, [None])
        self.assertIsInstance(started[0], Failure)

    def test_stop_waits_for_dials_under_way_and_leaves_nothing(self) -> None:
        """Whatever stage a dial is in when the node stops.  CNC-004"""
        for moment in range(0, 100, 7):
            one, other = self.nodes(2)
            dialing = watch(one.handle.connect_to(other.address))
            self.network.advance(moment / 1000)
            stopped = watch(one.service.stop())
            self.network.advance(11)
            self.assertEqual(stopped, [None])
            self.assertEqual(len(dialing), 1)
            if isinstance(dialing[0], Failure):
                self.assertIsInstance(dialing[0].value, ChannelClosed)
            parts = one.service._node
            assert parts is not None
            self.assertEqual(parts.clock.pending, 0)
            self.assertEqual(len(parts.transports), 0)

    def test_stop_does_not_wait_for_a_peer_that_never_closes(self) -> None:
        """Ten seconds at most, then the transports are aborted.  CNC-004"""
        one, other = self.connected()
        self.network.kill(other)
        stopped = watch(one.service.stop())
        self.network.advance(10.1)
        self.assertEqual(stopped, [None])

    def test_stop_tells_the_peers(self) -> None:
        """Sessions close with 1001.  behaviour 32"""
        one, other = self.connected()
        session = self.session(other, one)
        websocket = session._websocket
        self.network.run(one.service.stop())
        self.network.advance(1)
        self.assertEqual(websocket.remote_close[0], 1001)
        self.assertEqual(self.peer_ids(other), set())

    def test_stop_inside_a_subscription_callback(self) -> None:
        """User code may stop the node from wherever it is called.  CNC-103-X"""
        one, other = self.connected()
        stopped: list[Any] = []

        def received(_item: object) -> None:
            stopped.append(watch(other.service.stop()))

        handled(other.handle.inbound_receiver().get().addCallback(received))
        self.network.run(one.handle.broadcast(Message(200, None, b"stop")))
        self.network.advance(12)
        self.assertEqual(stopped, [[None]])

    def test_stop_and_disconnect_inside_a_validator(self) -> None:
        """A validator may drop the sender or stop the node.  CNC-103-X"""
        for what in ("disconnect", "stop"):
            one, other = self.connected()

            def validator(
                peer_id: Any, _message: Message, what: str = what, node: Any = other
            ) -> Verdict:
                if what == "stop":
                    watch(node.service.stop())
                else:
                    watch(node.handle.disconnect(peer_id))
                return Verdict.ACCEPT

            other.handle.set_validator(200, validator)
            self.network.run(one.handle.broadcast(Message(200, None, what.encode())))
            self.network.advance(12)
            self.assertEqual(self.flushLoggedErrors(), [])
            self.assertEqual(self.peer_ids(one), set())

    def test_waiting_readers_learn_of_the_end(self) -> None:
        """Pending ``get()`` calls fail with ``ChannelClosed``.  API-002.3"""
        (node,) = self.nodes(1)
        waiting = watch(node.handle.inbound_receiver().get())
        self.network.run(node.service.stop())
        self.assertIs(waiting[0].type, ChannelClosed)

    def test_pending_requests_fail_at_stop(self) -> None:
        """Nobody waits for an answer of a stopped node.  behaviour 32"""
        one, other = self.connected()
        self.network.cut(one.host, other.host)
        waiting = watch(one.handle.request_peers_from(other.peer_id))
        self.network.run(one.service.stop())
        self.assertIs(waiting[0].type, ChannelClosed)

    def test_as_child_of_an_application(self) -> None:
        """``setServiceParent`` and ``service.handle``, Twisted's way.  design 3"""
        application = MultiService()
        node = self.network.node()
        node.service.setServiceParent(application)
        application.startService()
        self.assertIs(node.service.lifecycle, Lifecycle.RUNNING)
        self.assertEqual(self.network.run(node.service.handle.peer_count()), 0)
        self.network.run(succeed(None).addCallback(lambda _: application.stopService()))
        self.assertIs(node.service.lifecycle, Lifecycle.STOPPED)

    def test_bind_error_comes_out_of_start_service(self) -> None:
        """So that twistd ends with status 1.  style 6.5"""
        first = self.network.node()
        second = self.network.node(host=first.host, port=first.address.port)
        self.network.run(first.service.start())
        self.assertRaises(Io, second.service.startService)

    def test_a_task_that_keeps_failing_is_reported(self) -> None:
        """Logged, retried with growing delays, unhealthy after three failures.  API-101-X"""
        (node,) = self.nodes(1)

        def broken() -> None:
            raise RuntimeError("broken on purpose")

        node.service.node.tasks.every("broken", 1, broken, now=True)
        self.assertIsNone(self.network.run(node.handle.health_check()))
        self.network.advance(3.5)
        error = self.assertFires(Io, node.handle.health_check())
        self.assertIn("broken", str(error))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)


class ConfigurationTests(NetworkCase):
    """What the constructor refuses."""

    def test_peer_id_must_be_the_certificates(self) -> None:
        """A given id that is not ours is a mistake.  behaviour 2"""
        identity = throwaway_identity()
        other = throwaway_identity()
        config = GossipConfig(peer_id=other.peer_id)
        error = self.assertRaises(InvalidConfig, GossipService, config, identity=identity)
        self.assertIn("peer_id", str(error))
        GossipService(attrs.evolve(config, peer_id=identity.peer_id), identity=identity)

    def test_introducer_verbs_without_an_introducer(self) -> None:
        """The documented error, not a pretence.  API-002.12"""
        (node,) = self.nodes(1)
        self.assertFires(IntroducerNotConfigured, node.handle.discover_from_introducer())
        self.assertFires(IntroducerNotConfigured, node.handle.register_with_introducer())
        self.assertIsNone(self.network.run(node.handle.relay_stats()))


class HandleTests(NetworkCase):
    """The handle's methods between two nodes."""

    def test_handles_are_cheap_and_equal(self) -> None:
        """Any number, copies share the node.  API-002"""
        one, other = self.nodes(2)
        handle = one.service.handle
        self.assertEqual(copy.copy(handle), handle)
        self.assertEqual(len({handle, one.service.handle}), 1)
        self.assertNotEqual(handle, other.service.handle)

    def test_every_method_needs_a_running_service(self) -> None:
        """Before start.  API-002.1"""
        handle = self.network.node().handle
        peer = throwaway_identity().peer_id
        from dig_gossip import PenaltyReason

        for deferred in (
            handle.health_check(),
            handle.stats(),
            handle.relay_stats(),
            handle.broadcast(Message(200, None, b"")),
            handle.send_to(peer, Message(200, None, b"")),
            handle.disconnect(peer),
            handle.ban_peer(peer, PenaltyReason.SPAM),
            handle.penalize_peer(peer, PenaltyReason.SPAM),
            handle.connected_peers(),
            handle.peer_count(),
            handle.request_peers_from(peer),
            handle.discover_from_introducer(),
            handle.register_with_introducer(),
            handle.get_connections(),
        ):
            self.assertFires(ServiceNotStarted, deferred)
        self.assertRaises(ServiceNotStarted, handle.inbound_receiver)

    def test_request_peers_is_answered(self) -> None:
        """With an empty list until peer exchange exists.  CON-004.2, API-002.12"""
        one, other = self.connected()
        answer = self.network.run(one.handle.request_peers_from(other.peer_id))
        self.assertEqual(list(answer.peer_list), [])

    def test_application_answers_a_request(self) -> None:
        """A request is delivered, ``respond`` echoes its id.  API-002.7, MSG-105-X"""
        from dig_gossip.wire.dig import RequestStatus, RespondStatus

        one, other = self.connected()
        receiver = other.handle.inbound_receiver()
        waiting = watch(one.handle.request(other.peer_id, RequestStatus()))
        peer_id, request = self.network.run(receiver.get())
        status = RespondStatus(
            network_id=bytes(32),
            peak_hash=bytes(32),
            peak_height=7,
            finalized_height=6,
            epoch=5,
            timestamp=4,
        )
        self.network.run(other.handle.respond(peer_id, request, status))
        self.network.advance(1)
        self.assertEqual(waiting, [status])

    def test_unanswered_request_times_out_and_a_late_answer_is_dropped(self) -> None:
        """Nobody else gets the late answer.  API-002.7"""
        from dig_gossip.wire.dig import RequestStatus

        one, other = self.connected()
        receiver = other.handle.inbound_receiver()
        mine = one.handle.inbound_receiver()
        waiting = watch(one.handle.request(other.peer_id, RequestStatus(), timeout=2))
        self.network.advance(2.1)
        self.assertIs(waiting[0].type, RequestTimeout)
        peer_id, request = self.network.run(receiver.get())
        self.network.run(other.handle.send_to(peer_id, Message(206, request.id, bytes(96))))
        self.network.advance(1)
        self.assertEqual(len(mine), 0)

    def test_losing_the_peer_fails_its_requests_at_once(self) -> None:
        """Not after the timeout.  API-002.7"""
        from dig_gossip.wire.dig import RequestStatus

        one, other = self.connected()
        waiting = watch(one.handle.request(other.peer_id, RequestStatus()))
        self.network.run(other.handle.disconnect(one.peer_id))
        self.network.advance(1)
        self.assertIs(waiting[0].type, PeerNotConnected)

    def test_cancelled_request_leaves_nothing(self) -> None:
        """No timer, no id.  style 6.4"""
        from dig_gossip.wire.dig import RequestStatus

        one, other = self.connected()
        before = one.service.node.clock.pending
        request = one.handle.request(other.peer_id, RequestStatus())
        watch(request)
        self.assertEqual(one.service.node.clock.pending, before + 1)
        request.cancel()
        self.assertEqual(one.service.node.clock.pending, before)
        self.assertEqual(len(self.session(one, other)._requests), 0)

    def test_subscriptions_are_independent_and_bounded(self) -> None:
        """The oldest is lost and counted; the other subscriber is not affected.  API-002.3"""
        one, other = self.connected(peer_options=PeerOptions(enforce_rate_limits=False))
        slow, quick = other.handle.inbound_receiver(), other.handle.inbound_receiver()
        got: list[bytes] = []

        async def read() -> None:
            async for _peer, message in quick:
                got.append(message.data)

        reading = Deferred.fromCoroutine(read())
        for number in range(300):
            data = number.to_bytes(2, "big")
            self.network.run(one.handle.broadcast(Message(200, None, data)))
        self.network.advance(5)
        self.assertEqual(len(got), 300)
        self.assertEqual(slow.lagged, 44)
        self.assertEqual(quick.lagged, 0)
        first = self.network.run(slow.get())
        self.assertEqual(first[1].data, (44).to_bytes(2, "big"))
        self.network.run(other.service.stop())
        self.assertIsNone(self.successResultOf(reading))
