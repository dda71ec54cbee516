"""Byte streams through a relay that need not be honest."""

from __future__ import annotations

from collections import deque
from random import Random

from chia_rs.sized_bytes import bytes32
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.relay import tunnel as tunnels
from dig_gossip.relay.tunnel import (
    Drained,
    Emit,
    Ended,
    Opened,
    Received,
    TunnelEffect,
    Tunnels,
    TunnelState,
)
from dig_gossip.types.peer import PeerId
from dig_gossip.wire import tunnel as wire
from dig_gossip.wire.tunnel import Accept, Ack, Close, CloseReason, Data, Open

SMALL, LARGE = bytes32(b"\1" * 32), bytes32(b"\2" * 32)


class End:
    """One node's tunnels, and everything that came of them."""

    def __init__(self, own_id: PeerId, other: PeerId) -> None:
        self.time = 0.0
        self.accepts = True
        self.other = other
        self.tunnels = Tunnels(
            own_id, may_accept=lambda peer: self.accepts, now=lambda: self.time, rng=Random(1)
        )
        self.out: deque[bytes] = deque()
        self.stream = bytearray()
        self.ended: list[CloseReason] = []
        self.opened = 0
        self.drained = 0
        self.consumes = True

    def perform(self, effects: list[TunnelEffect]) -> None:
        """Do what a client does."""
        for effect in effects:
            if isinstance(effect, Emit):
                self.out.append(effect.payload)
            elif isinstance(effect, Received):
                self.stream += effect.data
                if self.consumes:
                    self.perform(self.tunnels.consumed(effect.peer, len(effect.data)))
            elif isinstance(effect, Opened):
                self.opened += 1
            elif isinstance(effect, Drained):
                self.drained += 1
            elif isinstance(effect, Ended):
                self.ended.append(effect.reason)

    def open(self) -> None:
        """Ask the other end for a tunnel."""
        self.perform(self.tunnels.open(self.other))

    def take(self, payload: bytes) -> None:
        """A payload arrives, as if from the other end."""
        self.perform(self.tunnels.received(self.other, payload))

    def fill(self) -> None:
        """Send all DATA that may go."""
        while effects := self.tunnels.next_payload():
            self.perform(effects)


def pair() -> tuple[End, End]:
    """Two ends of one relay."""
    return End(SMALL, LARGE), End(LARGE, SMALL)


def settle(one: End, two: End) -> None:
    """Deliver everything, in order, until nothing moves."""
    while True:
        one.fill()
        two.fill()
        if not one.out and not two.out:
            return
        for sender, receiver in ((one, two), (two, one)):
            while sender.out:
                receiver.take(sender.out.popleft())


class TunnelTests(SynchronousTestCase):
    """Opening, streaming, closing."""

    def opened_pair(self) -> tuple[End, End]:
        """Two ends with a tunnel between them."""
        one, two = pair()
        one.open()
        settle(one, two)
        self.assertEqual((one.opened, two.opened), (1, 1))
        return one, two

    def test_a_stream_comes_out_as_it_went_in(self) -> None:
        """Megabytes pass in both directions, through a window of 64 frames.  RLY-101-X"""
        one, two = self.opened_pair()
        first, second = Random(3).randbytes(6_000_000), Random(4).randbytes(200_001)
        one.tunnels.write(LARGE, first)
        two.tunnels.write(SMALL, second)
        settle(one, two)
        self.assertEqual((bytes(two.stream), bytes(one.stream)), (first, second))

    def test_no_frame_is_larger_than_the_relay_takes(self) -> None:
        """DATA has 48 KiB at most, and small writes leave together.  RLY-103-X"""
        one, _two = self.opened_pair()
        for _ in range(1000):
            one.tunnels.write(LARGE, bytes(100))
        one.fill()
        sizes = [len(wire.decode(payload).data) for payload in one.out]  # type: ignore[union-attr]
        self.assertEqual(sizes, [49_152, 49_152, 100_000 - 2 * 49_152])

    def test_the_window_holds_at_64_frames(self) -> None:
        """Without an ACK the 65th frame waits; with one it goes.  wire §15"""
        one, two = self.opened_pair()
        one.tunnels.write(LARGE, bytes(70 * wire.MAX_DATA_BYTES))
        one.fill()
        self.assertEqual(len(one.out), 64)
        one.take(bytes(Ack(wire.decode(one.out[0]).tunnel_id, 16)))
        one.fill()
        self.assertEqual(len(one.out), 70)
        while one.out:
            two.take(one.out.popleft())
        self.assertEqual(two.ended, [])

    def test_whoever_ignores_the_window_is_cut_off(self) -> None:
        """A 65th frame without an ACK ends the tunnel.  wire §15"""
        one, two = self.opened_pair()
        two.consumes = False
        tunnel = one.tunnels.get(LARGE)
        assert tunnel is not None
        for seq in range(65):
            two.take(bytes(Data(tunnel.tunnel_id, seq, b"x")))
        self.assertEqual(two.ended, [CloseReason.PROTOCOL])

    def test_unconsumed_bytes_are_bounded_over_all_tunnels(self) -> None:
        """The tunnel that exceeds 32 MiB is closed.  design D14"""
        two = End(LARGE, SMALL)
        two.consumes = False
        sent = 0
        for number in range(40):
            peer = bytes32(bytes([3, number]) + bytes(30))
            two.perform(two.tunnels.received(peer, bytes(Open(number))))
            for seq in range(20):
                frame = bytes(Data(number, seq, bytes(wire.MAX_DATA_BYTES)))
                two.perform(two.tunnels.received(peer, frame))
                sent += wire.MAX_DATA_BYTES
        self.assertGreater(sent, tunnels.MAX_HELD_BYTES)
        self.assertIn(CloseReason.BUSY, two.ended)
        held = sum(tunnel.held_bytes for tunnel in two.tunnels)
        self.assertLessEqual(held, tunnels.MAX_HELD_BYTES)

    def test_an_ack_of_what_was_not_sent_ends_the_tunnel(self) -> None:
        """Neither the future nor the past can be acknowledged.  wire §15"""
        for wrong in (1, 2**32 - 1):
            one, _two = self.opened_pair()
            tunnel = one.tunnels.get(LARGE)
            assert tunnel is not None
            one.take(bytes(Ack(tunnel.tunnel_id, wrong)))
            self.assertEqual(one.ended, [CloseReason.PROTOCOL])

    def test_when_both_open_the_smaller_id_leads(self) -> None:
        """One tunnel remains, and both know who dialed, whoever is faster.  wire §15"""
        for first in (0, 1):
            one, two = pair()
            one.open()
            two.open()
            ends = (one, two)
            ends[1 - first].take(ends[first].out.popleft())
            settle(one, two)
            left, right = one.tunnels.get(LARGE), two.tunnels.get(SMALL)
            assert left is not None
            assert right is not None
            self.assertEqual(left.tunnel_id, right.tunnel_id)
            self.assertEqual((left.is_initiator, right.is_initiator), (True, False))
            self.assertEqual((left.state, right.state), (TunnelState.OPEN, TunnelState.OPEN))

    def test_a_peer_that_never_accepts_is_given_up(self) -> None:
        """Ten seconds, to the moment.  wire §15"""
        one, _two = pair()
        one.open()
        one.time = 9.9
        one.perform(one.tunnels.tick())
        self.assertEqual(one.ended, [])
        one.time = 10.0
        one.perform(one.tunnels.tick())
        self.assertEqual((one.ended, len(one.tunnels)), ([CloseReason.NORMAL], 0))

    def test_an_idle_tunnel_is_closed(self) -> None:
        """After 120 s without DATA; DATA in between counts.  wire §15"""
        one, two = self.opened_pair()
        one.time = two.time = 100.0
        two.tunnels.write(SMALL, b"x")
        settle(one, two)
        one.time = 219.9
        one.perform(one.tunnels.tick())
        self.assertEqual(one.ended, [])
        one.time = 220.0
        one.perform(one.tunnels.tick())
        self.assertEqual(one.ended, [CloseReason.IDLE])

    def test_a_refusal_says_so(self) -> None:
        """A node that takes nobody answers CLOSE 1; a full one CLOSE 2.  wire §15"""
        one, two = pair()
        two.accepts = False
        one.open()
        settle(one, two)
        self.assertEqual(one.ended, [CloseReason.REFUSED])
        two.accepts = True
        for number in range(tunnels.MAX_TUNNELS):
            two.perform(
                two.tunnels.received(bytes32(number.to_bytes(32, "big")), bytes(Open(number)))
            )
        two.out.clear()
        one.open()
        settle(one, two)
        self.assertEqual(one.ended, [CloseReason.REFUSED, CloseReason.BUSY])
        self.assertEqual(len(two.tunnels), tunnels.MAX_TUNNELS)

    def test_loss_of_the_relay_or_the_peer_ends_tunnels(self) -> None:
        """There is no resumption, and a new tunnel works.  wire §15"""
        one, two = self.opened_pair()
        one.perform(one.tunnels.relay_lost())
        two.perform(two.tunnels.peer_gone(SMALL))
        self.assertEqual((len(one.ended), len(two.ended)), (1, 1))
        one.open()
        one.tunnels.write(LARGE, b"again")
        settle(one, two)
        self.assertEqual(bytes(two.stream), b"again")

    def test_frames_of_a_tunnel_that_is_over_change_nothing(self) -> None:
        """Late DATA, ACK, ACCEPT and CLOSE of another tunnel id are ignored.  wire §15"""
        one, two = self.opened_pair()
        for frame in (Data(5, 0, b"x"), Ack(5, 1), Accept(5), Close(5, 0)):
            two.take(bytes(frame))
        self.assertEqual((two.ended, bytes(two.stream)), ([], b""))
        one.tunnels.write(LARGE, b"y")
        settle(one, two)
        self.assertEqual(bytes(two.stream), b"y")

    def test_a_slow_writer_is_paused_and_woken(self) -> None:
        """Above 128 KiB a writer pauses; it goes on when half is gone.  style §5.5"""
        one, two = self.opened_pair()
        self.assertTrue(one.tunnels.write(LARGE, bytes(tunnels.HIGH_WATER_BYTES)))
        self.assertFalse(one.tunnels.write(LARGE, b"x"))
        settle(one, two)
        self.assertEqual(one.drained, 1)
        self.assertTrue(one.tunnels.write(LARGE, b"x"))

    def test_tunnels_take_turns(self) -> None:
        """A bulky stream does not hold up another one's first frame.  RLY-103-X"""
        one, _two = self.opened_pair()
        third = bytes32(b"\3" * 32)
        one.perform(one.tunnels.open(third))
        tunnel = one.tunnels.get(third)
        assert tunnel is not None
        one.perform(one.tunnels.received(third, bytes(Accept(tunnel.tunnel_id))))
        one.out.clear()
        one.tunnels.write(LARGE, bytes(10 * wire.MAX_DATA_BYTES))
        one.tunnels.write(third, b"small")
        peers = []
        for _ in range(3):
            emit = one.tunnels.next_payload()[0]
            assert isinstance(emit, Emit)
            peers.append(emit.peer)
        self.assertEqual(peers, [LARGE, third, LARGE])

    @given(st.lists(st.binary(max_size=40), max_size=8), st.booleans())
    def test_any_payloads_are_taken_without_harm(self, payloads: list[bytes], ours: bool) -> None:
        """No exception, and never a byte delivered that TLS would not see.  style §4"""
        one, _two = self.opened_pair()
        tunnel = one.tunnels.get(LARGE)
        assert tunnel is not None
        for payload in payloads:
            if ours:
                head = b"\0\1" + payload[:1] + tunnel.tunnel_id.to_bytes(8, "big")
                payload = head + payload[1:]
            one.take(payload)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["deliver", "drop", "repeat", "swap", "corrupt"]), st.booleans()
            ),
            max_size=60,
        )
    )
    def test_a_lying_relay_shortens_the_stream_and_nothing_else(
        self, faults: list[tuple[str, bool]]
    ) -> None:
        """What comes out is a prefix of what went in, unless bytes were forged.  RLY-101-X"""
        one, two = self.opened_pair()
        stream = Random(5).randbytes(3_000_000)
        one.tunnels.write(LARGE, stream)
        for fault, backwards in faults:
            sender, receiver = (two, one) if backwards else (one, two)
            sender.fill()
            if not sender.out:
                continue
            if fault == "drop":
                sender.out.popleft()
                continue
            if fault == "repeat":
                sender.out.appendleft(sender.out[0])
            elif fault == "swap" and len(sender.out) > 1:
                sender.out[0], sender.out[1] = sender.out[1], sender.out[0]
            elif fault == "corrupt":
                sender.out[0] = sender.out[0][:11]  # the header survives
            receiver.take(sender.out.popleft())
        settle(one, two)
        self.assertTrue(stream.startswith(bytes(two.stream)))
        if not two.ended and not one.ended:
            self.assertEqual(bytes(two.stream), stream)
