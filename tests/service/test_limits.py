"""Lanes, backpressure and rate limits as whole nodes apply them."""

from __future__ import annotations

from typing import Any

from dig_gossip import BackpressureConfig, Backpressured, Message, PeerOptions
from dig_gossip.testing.hostile import BINARY, PONG, HostilePeer, make_frame
from dig_gossip.testing.network import MemoryNode
from tests.network_case import NetworkCase
from tests.vectors import load

NEW_PEAK, RESPOND_BLOCKS, REQUEST_PEERS, RESPOND_PEERS = 20, 30, 43, 44
UNLIMITED = PeerOptions(enforce_rate_limits=False)


class InboundLimitTests(NetworkCase):
    """What a peer may send us, charged to the live reader."""

    def setUp(self) -> None:
        super().setUp()
        (self.node,) = self.nodes(1)
        self.peer = HostilePeer(self.network)
        self.peer.join(self.node.address)
        self.network.advance(1)
        self.addCleanup(self.peer.drop)

    def points(self) -> int:
        peers = self.node.service.node.peers
        return peers.reputation(self.peer.peer_id).penalty_points

    def test_excess_is_dropped_then_charged(self) -> None:
        """Ten a minute are answered, up to 12 are dropped, then it costs.  CON-005.2, RL-103-X"""
        for count, answered, points in ((10, 10, 0), (2, 10, 0), (1, 10, 15)):
            for _ in range(count):
                self.peer.send_message(Message(REQUEST_PEERS, None, b""))
            self.network.advance(0.1)
            answers = [m for m in self.peer.messages if m.type == RESPOND_PEERS]
            self.assertEqual((len(answers), self.points()), (answered, points))
        self.assertEqual(self.counter(self.node, "rate_dropped.request_peers"), 3)
        self.network.advance(61)
        self.peer.send_message(Message(REQUEST_PEERS, None, b""))
        self.network.advance(0.1)
        answers = [m for m in self.peer.messages if m.type == RESPOND_PEERS]
        self.assertEqual(len(answers), 11)

    def test_seven_violations_ban(self) -> None:
        """A hundred points and out.  CON-005.2"""
        for _ in range(12 + 7):
            self.peer.send_message(Message(REQUEST_PEERS, None, b""))
        self.network.advance(1)
        self.assertEqual(self.peer_ids(self.node), set())
        assert self.peer.closed is not None
        self.assertEqual(self.peer.closed.code, 1008)

    def test_a_forwarder_is_not_charged_for_a_flood(self) -> None:
        """Dropped, not delivered, not seen, and no points.  RL-104-X, CON-005.2"""
        receiver = self.node.handle.inbound_receiver()
        for number in range(150):
            self.peer.send_message(Message(200, None, number.to_bytes(2, "big")))
        self.network.advance(1)
        self.assertEqual((len(receiver), self.points()), (100, 0))
        self.assertEqual(self.node.service.node.router.plumtree.seen_count, 100)
        self.assertEqual(self.counter(self.node, "rate_dropped.new_attestation"), 50)

    def test_an_oversized_message_is_charged(self) -> None:
        """A peak has 88 bytes; 512 pass, 513 do not.  RL-104-X"""
        receiver = self.node.handle.inbound_receiver()
        self.peer.send_message(Message(NEW_PEAK, None, bytes(512)))
        self.network.advance(0.1)
        self.assertEqual((len(receiver), self.points()), (1, 0))
        self.peer.send_message(Message(NEW_PEAK, None, bytes(513)))
        self.network.advance(0.1)
        self.assertEqual((len(receiver), self.points()), (1, 15))
        self.assertEqual(self.counter(self.node, "size_dropped.new_peak"), 1)
        self.assertEqual(self.counter(self.node, "rate_dropped.new_peak"), 0)

    def test_fifty_windows_of_excess_end_the_session_without_a_ban(self) -> None:
        """A forwarder of an endless flood.  RL-104-X"""
        for window in range(50):
            self.assertEqual(self.peer_ids(self.node), {bytes(self.peer.peer_id)}, window)
            for number in range(101):
                data = (1000 * window + number).to_bytes(4, "big")
                self.peer.send_message(Message(200, None, data))
            if window < 49:
                self.peer.send_frame(b"", PONG)
                self.network.advance(30)
                self.peer.send_frame(b"", PONG)
                self.network.advance(30)
        self.network.advance(1)
        self.assertEqual((self.peer_ids(self.node), self.points()), (set(), 0))
        self.assertEqual(self.counter(self.node, "removed.disconnected"), 1)

    def test_the_aggregate_is_charged_to_the_reader(self) -> None:
        """A thousand messages a minute of all Chia's rows that share it.  CON-005"""
        # Within their own rows, but a hundred more than the aggregate.
        for opcode, count in ((29, 500), (26, 200), (33, 200), (36, 200)):
            for _ in range(count):
                self.peer.send_message(Message(opcode, None, b""))
        self.network.advance(1)
        dropped = self.counter(self.node, "rate_dropped.request_signage_point_or_end_of_sub_slot")
        self.assertEqual((dropped, self.points()), (100, 0))

    def test_the_table_belongs_to_the_kind_of_peer(self) -> None:
        """Chia's own rows for a plain Chia peer, the older ones without capability 3.  wire 11"""
        for capabilities, admitted in (((1, 2), 1000), ((1, 2, 3), 5000)):
            chia = HostilePeer(self.network)
            chia.join(self.node.address, capabilities=capabilities)
            self.addCleanup(chia.drop)
            self.network.advance(60 - self.network.clock.seconds() % 60)
            before = self.counter(self.node, "rate_dropped.request_puzzle_solution")
            frame = make_frame(bytes(Message(45, None, b"")), BINARY, True, True, 0, None)
            chia.send(frame * (admitted + 7))
            self.network.advance(1)
            after = self.counter(self.node, "rate_dropped.request_puzzle_solution")
            self.assertEqual(after - before, 7)


class TraceTests(NetworkCase):
    """Traces of Chia's and the Rust SDK's limiters, through TLS, WebSocket and the reader."""

    def test_the_reader_judges_like_the_traces(self) -> None:
        """What they admit is admitted, what they reject is dropped.  CON-005, wire 11"""
        (self.node,) = self.nodes(1)
        # Two hundred messages that are too large would end the trace with a ban.
        self.patch(self.node.service.node.peers, "misbehaved", lambda *_: None)
        replayed = 0
        for vector in load("rate_limiter_sim.json"):
            size = sum(step["size"] * step["repeat"] for step in vector["steps"])
            # Ours admits all of a row; and 600 MB are a matter of another test.
            if vector["incoming"] and vector["factor"] == 1.0 and size < 2**25:
                self.replay(vector)
                replayed += 1
        self.assertEqual(replayed, 9)

    def replay(self, vector: dict[str, Any]) -> None:
        peer = HostilePeer(self.network)
        self.addCleanup(peer.drop)
        self.network.advance(60 - self.network.clock.seconds() % 60 - 2)
        dig = () if vector["algorithm"] == "chia" else (200,)
        peer.join(self.node.address, capabilities=(*vector["capabilities"], *dig))
        self.network.advance(2.001)
        start = self.network.clock.seconds()
        for step in vector["steps"]:
            self.network.advance(start + step["t"] - self.network.clock.seconds())
            before = self.dropped()
            message = bytes(Message(step["opcode"], None, bytes(step["size"])))
            peer.send(make_frame(message, BINARY, True, True, 0, None) * step["repeat"])
            self.network.settle(0.05)
            rejected = sum(run for allowed, run in step["allowed_runs"] if not allowed)
            if peer.closed is not None:  # refused before it was received
                self.assertEqual((peer.closed.code, rejected), (1009, 1), vector["name"])
                return
            self.assertEqual(self.dropped() - before, rejected, vector["name"])

    def dropped(self) -> int:
        counters = self.node.service.node.peers.counters
        return sum(
            count
            for name, count in counters.items()
            if name.startswith(("rate_dropped.", "size_dropped."))
        )


class OutboundLimitTests(NetworkCase):
    """We keep within what our peers allow."""

    def test_what_is_too_much_now_goes_later(self) -> None:
        """Never more than 0.6 of the row in 60 s; nothing is lost.  CON-005.3, RL-103-X"""
        one, other = self.connected()
        receiver = other.handle.inbound_receiver()
        for number in range(150):
            data = number.to_bytes(2, "big")
            self.network.run(one.handle.broadcast(Message(200, None, data)))
        self.network.advance(1)
        self.assertEqual(len(receiver), 60)
        self.network.advance(240)
        got = [self.network.run(receiver.get())[1].data for _ in range(150)]
        self.assertEqual(got, [number.to_bytes(2, "big") for number in range(150)])
        self.assertEqual(self.counter(other, "rate_dropped.new_attestation"), 0)

    def test_a_flood_does_not_hold_up_a_peak(self) -> None:
        """Both are critical, and only one has spent its budget.  CON-005.3"""
        one, other = self.connected()
        receiver = other.handle.inbound_receiver()
        for number in range(100):
            data = number.to_bytes(2, "big")
            self.network.run(one.handle.broadcast(Message(200, None, data)))
        self.network.run(one.handle.broadcast(Message(NEW_PEAK, None, bytes(88))))
        self.network.advance(1)
        got = [self.network.run(receiver.get())[1].type for _ in range(len(receiver))]
        self.assertEqual((len(got), got[-1]), (61, NEW_PEAK))

    def test_what_can_never_go_is_refused_at_once(self) -> None:
        """Larger than its row: the caller is told.  CON-005.3"""
        one, other = self.connected()
        error = self.assertFires(
            Backpressured, one.handle.send_to(other.peer_id, Message(NEW_PEAK, None, bytes(513)))
        )
        self.assertIn(other.peer_id.hex(), str(error))
        self.assertEqual(self.counter(one, "unsent.too_large.new_peak"), 1)

    def test_a_broadcast_that_nobody_may_be_sent_is_refused(self) -> None:
        """Neither pushed nor announced: it could not be pulled either.  CON-005.3"""
        one, _other = self.connected()
        largest = Message(200, None, bytes(4096))
        self.assertEqual(self.network.run(one.handle.broadcast(largest)), 1)
        too_large = Message(200, None, bytes(4097))
        self.assertFires(Backpressured, one.handle.broadcast(too_large))

    def test_our_own_limits_never_cost_a_peer_its_session(self) -> None:
        """A full lane refuses what is new; whoever waits for it is innocent.  BP-101-X"""
        one, other = self.connected()
        counts = [
            self.network.run(one.handle.broadcast(Message(200, None, number.to_bytes(4, "big"))))
            for number in range(4200)
        ]
        self.assertEqual((counts[0], counts[-1]), (1, 0))
        self.assertEqual(self.peer_ids(one), {bytes(other.peer_id)})
        self.assertEqual(self.counter(one, "penalty.connection_issue"), 0)
        self.assertEqual(
            self.counter(one, "unsent.over_budget.new_attestation"),
            self.counter(one, "budget_dropped"),
        )
        self.assertEqual(self.counter(one, "budget_dropped"), counts.count(0))


class LaneTests(NetworkCase):
    """Order under load, over a link that is full."""

    sent = 0

    def full_link(self, **options: Any) -> tuple[MemoryNode, MemoryNode]:
        one, other = self.connected(peer_options=UNLIMITED, **options)
        self.network.cut(one.host, other.host)
        while self.session(one, other)._writer.is_writable:
            self.send(one, other, RESPOND_BLOCKS, 60_000)
        return one, other

    def send(self, one: MemoryNode, other: MemoryNode, opcode: int, size: int = 40) -> None:
        self.sent += 1  # no two messages are the same
        data = self.sent.to_bytes(4, "big") + bytes(size - 4)
        self.network.run(one.handle.send_to(other.peer_id, Message(opcode, None, data)))

    def received(self, node: MemoryNode) -> list[int]:
        receiver = node.handle.inbound_receiver()
        self.network.heal()
        self.network.advance(5)
        return [self.network.run(receiver.get())[1].type for _ in range(len(receiver))]

    def test_critical_overtakes_everything_that_waits(self) -> None:
        """Then normal, then bulk.  PRI-003"""
        one, other = self.full_link()
        for opcode in (RESPOND_BLOCKS, 32, NEW_PEAK):
            self.send(one, other, opcode)
        self.assertEqual(self.received(other)[-3:], [NEW_PEAK, 32, RESPOND_BLOCKS])

    def test_critical_overtakes_the_rest_of_a_large_message(self) -> None:
        """Between peers that agree it leaves in chunks.  design D9"""
        one, other = self.full_link()
        self.send(one, other, RESPOND_BLOCKS, 1_000_000)
        self.send(one, other, NEW_PEAK)
        received = self.received(other)
        self.assertEqual(received[-2:], [NEW_PEAK, RESPOND_BLOCKS])
        self.assertEqual(self.counter(other, "penalty.protocol_violation"), 0)

    def test_large_messages_arrive_whole(self) -> None:
        """Whatever their size.  design D9"""
        one, other = self.connected(peer_options=UNLIMITED)
        receiver = other.handle.inbound_receiver()
        for size in (65_530, 65_531, 300_000, 5_000_000):
            data = bytes(range(256)) * (size // 256) + bytes(size % 256)
            self.network.run(one.handle.send_to(other.peer_id, Message(RESPOND_BLOCKS, None, data)))
            self.assertEqual(self.network.run(receiver.get())[1].data, data)

    def test_levels_shed_what_they_should(self) -> None:
        """Bulk is refused, normal is delayed, critical passes.  PRI-005, PRI-007, PRI-008"""
        levels = BackpressureConfig(
            tx_dedup_threshold=1, bulk_drop_threshold=2, normal_delay_threshold=3
        )
        one, other = self.full_link(backpressure=levels)
        for _ in range(3):
            self.send(one, other, NEW_PEAK)
        bulk = Message(RESPOND_BLOCKS, None, b"")
        self.assertFires(Backpressured, one.handle.send_to(other.peer_id, bulk))
        reply = Message(RESPOND_BLOCKS, 7, b"")
        self.network.run(one.handle.send_to(other.peer_id, reply))
        self.send(one, other, 32)
        self.assertEqual(self.counter(one, "bulk_dropped"), 1)
        self.assertEqual(self.counter(one, "unsent.dropped.respond_blocks"), 1)
        self.assertEqual(self.counter(one, "normal_delayed"), 1)
        self.assertEqual(self.received(other)[-5:], [NEW_PEAK] * 3 + [32, RESPOND_BLOCKS])

    def test_a_request_does_not_time_out_in_our_own_queue(self) -> None:
        """Its time begins when it is written.  PRI-103-X"""
        one, other = self.full_link()
        waiting = one.handle.request_peers_from(other.peer_id)
        self.network.advance(40)
        self.assertFalse(waiting.called)
        self.network.heal()
        self.assertEqual(list(self.network.run(waiting).peer_list), [])

    def test_waits_are_shown_per_lane(self) -> None:
        """So that an operator sees who holds up whom.  STA-101-X"""
        one, other = self.full_link()
        self.send(one, other, NEW_PEAK)
        self.network.advance(2)
        self.received(other)
        self.assertGreaterEqual(self.counter(one, "queue_us_p99.critical"), 2_000_000)
        self.assertEqual(self.counter(one, "queue_us_p99.normal"), 0)
        self.assertGreaterEqual(self.counter(one, "wire_us_p99.critical"), 2_000_000)
        self.assertEqual(self.counter(one, "queued.critical"), 1)

    def test_a_peer_that_holds_us_up_can_be_told_from_the_others(self) -> None:
        """Its snapshot says what waits, for how long, and what has waited.  API-005, STA-101-X"""
        one, other = self.full_link()
        third = self.network.node(peer_options=UNLIMITED)
        self.network.start()
        self.connect(one, third)
        waiting = self.session(one, other).queued_messages
        self.send(one, other, NEW_PEAK)
        self.send(one, third, NEW_PEAK)
        self.network.advance(3)
        slow, fast = (
            next(c for c in self.network.run(one.handle.connected_peers()) if c.peer_id == peer)
            for peer in (other.peer_id, third.peer_id)
        )
        self.assertEqual((slow.queued_messages, fast.queued_messages), (waiting + 1, 0))
        self.assertGreaterEqual(slow.queued_bytes, 46)
        self.assertGreaterEqual(slow.oldest_wait, 3)
        self.assertEqual((fast.oldest_wait, fast.queued_bytes), (0.0, 0))
        self.received(other)
        slow = next(
            c for c in self.network.run(one.handle.connected_peers()) if c.peer_id == other.peer_id
        )
        self.assertGreaterEqual(slow.queue_wait_p99.critical, 3)
        self.assertGreaterEqual(slow.wire_wait_p99.critical, slow.queue_wait_p99.critical)
        self.assertEqual((slow.oldest_wait, slow.queued_messages), (0.0, 0))


class SizeGateTests(NetworkCase):
    """How large a message may be is decided at its header, by its opcode."""

    def setUp(self) -> None:
        super().setUp()
        (self.node,) = self.nodes(1)
        self.peer = HostilePeer(self.network)
        self.peer.join(self.node.address)
        self.network.advance(1)
        self.addCleanup(self.peer.drop)

    def claim(self, opcode: int, size: int) -> int | None:
        """Announce a message of this size; the close code that follows, if any."""
        self.peer.send_frame(bytes([opcode]), length_override=size)
        self.network.advance(1)
        return None if self.peer.closed is None else self.peer.closed.code

    def test_an_unasked_answer_gets_no_more_than_8_mib(self) -> None:
        """RespondBlocks may have 50 MiB, but not unasked.  design D7"""
        self.assertIsNone(self.claim(RESPOND_BLOCKS, 8 * 2**20))

    def test_one_byte_more_is_refused_before_it_is_buffered(self) -> None:
        """With 1009 and a charge.  design D7"""
        self.assertEqual(self.claim(RESPOND_BLOCKS, 8 * 2**20 + 1), 1009)
        peers = self.node.service.node.peers
        self.assertEqual(peers.reputation(self.peer.peer_id).penalty_points, 25)
        self.assertEqual(self.counter(self.node, "size_refused.respond_blocks"), 1)

    def test_an_answer_that_we_asked_for_may_be_larger(self) -> None:
        """Up to its row.  design D7"""
        from chia_rs.sized_ints import uint32

        from dig_gossip.wire.chia import RequestBlocks

        request = RequestBlocks(uint32(0), uint32(1), True)
        waiting = self.node.handle.request(self.peer.peer_id, request)
        self.network.advance(0.1)
        self.assertIsNone(self.claim(RESPOND_BLOCKS, 8 * 2**20 + 1))
        self.peer.drop()
        self.network.advance(1)
        self.failureResultOf(waiting)

    def test_what_has_a_small_row_is_refused_at_64_kib(self) -> None:
        """A peak of 65 537 bytes is not even received.  design D7"""
        self.assertEqual(self.claim(NEW_PEAK, 65_537), 1009)
