"""When two peers dial each other to leave the relay."""

from __future__ import annotations

from random import Random

from chia_rs.sized_bytes import bytes32
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.relay import punching as module
from dig_gossip.relay.punching import (
    GiveUp,
    Punch,
    PunchEffect,
    Punching,
    PunchState,
    Report,
    Request,
)
from dig_gossip.types.peer import PeerAddress, PeerId

SMALL, OWN, LARGE = (bytes32(bytes([number]) * 32) for number in (1, 5, 9))
ADDRESS = PeerAddress("198.51.100.1", 9444)


class PunchingTests(SynchronousTestCase):
    """One node's side."""

    def setUp(self) -> None:
        self.time = 0.0
        self.punching = Punching(OWN, now=lambda: self.time, rng=Random(1))

    def at(self, time: float) -> list[PunchEffect]:
        """What is to be done at a moment."""
        self.time = time
        return self.punching.tick()

    def test_the_smaller_id_asks(self) -> None:
        """One second after the relayed session began; the larger one waits.  RLY-007"""
        self.punching.relayed(LARGE)
        self.punching.relayed(SMALL)
        self.assertEqual(self.at(0.9), [])
        self.assertEqual(self.at(1.0), [Request(LARGE)])
        self.assertIs(self.punching.state(SMALL), PunchState.IDLE)

    def test_both_dial_and_the_direct_session_ends_it(self) -> None:
        """Asked, told, dialed, reported.  RLY-007.1, RLY-007.2"""
        self.punching.relayed(LARGE)
        self.at(1.0)
        self.assertEqual(self.punching.coordinate(LARGE, ADDRESS), [Punch(LARGE, ADDRESS)])
        self.assertEqual(self.punching.coordinate(LARGE, ADDRESS), [])
        self.assertEqual(self.punching.direct(LARGE), [GiveUp(LARGE), Report(LARGE, True)])
        self.assertEqual((self.punching.succeeded, len(self.punching)), (1, 0))
        self.assertEqual(self.at(1000.0), [])

    def test_whoever_is_told_without_asking_asks_in_kind(self) -> None:
        """Once in ten seconds: relays tell an address only to whom is named.  RLY-007.0"""
        self.punching.relayed(SMALL)
        self.assertEqual(
            self.punching.coordinate(SMALL, ADDRESS), [Request(SMALL), Punch(SMALL, ADDRESS)]
        )

    def test_silence_and_failure_are_retried(self) -> None:
        """10 s for an answer, 15 s to dial, 300 s ± 10 % until the next time.  RLY-007.3"""
        self.punching.relayed(LARGE)
        self.at(1.0)
        self.assertEqual(self.at(10.9), [])
        self.assertEqual(self.at(11.0), [])
        self.assertIs(self.punching.state(LARGE), PunchState.FAILED)
        self.assertEqual(self.at(11 + 269), [])
        self.assertEqual(self.at(11 + 331), [Request(LARGE)])
        self.punching.coordinate(LARGE, ADDRESS)
        self.assertEqual(self.at(342 + 14.9), [])
        self.assertEqual(self.at(342 + 15), [GiveUp(LARGE), Report(LARGE, False)])
        self.assertEqual((self.punching.failed, self.punching.succeeded), (2, 0))

    def test_strangers_are_not_dialed(self) -> None:
        """Only peers with a relayed session.  NAT-101-X"""
        self.assertEqual(self.punching.coordinate(LARGE, ADDRESS), [])

    def test_a_lost_session_ends_its_upgrade(self) -> None:
        """Nothing is dialed for a peer that has left.  RLY-007.3"""
        self.punching.relayed(LARGE)
        self.at(1.0)
        self.punching.coordinate(LARGE, ADDRESS)
        self.assertEqual(self.punching.lost(LARGE), [GiveUp(LARGE)])
        self.assertEqual(self.punching.lost(LARGE), [])
        self.assertEqual(self.punching.direct(LARGE), [])

    def test_with_another_id_all_upgrades_end(self) -> None:
        """Whoever has a relayed session with us expects the former one.  TLS-102-X"""
        self.punching.relayed(LARGE)
        self.punching.relayed(SMALL)
        self.at(1.0)
        self.punching.coordinate(LARGE, ADDRESS)
        self.assertEqual(self.punching.forget(), [GiveUp(LARGE)])
        self.assertEqual((len(self.punching), self.at(1000.0)), (0, []))

    def test_four_at_once(self) -> None:
        """The others wait their turn.  NAT-101-X"""
        peers = [bytes32(bytes([100 + number]) * 32) for number in range(6)]
        for peer in peers:
            self.punching.relayed(peer)
        self.assertEqual(len(self.at(1.0)), module.MAX_PUNCHES)
        self.assertEqual(self.punching.under_way, module.MAX_PUNCHES)
        self.assertEqual(self.punching.coordinate(peers[5], ADDRESS), [])
        self.punching.direct(peers[0])
        self.assertEqual(self.at(2.0), [Request(peers[4])])

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["relayed", "lost", "direct", "coordinate", "tick"]),
                st.integers(0, 9),
                st.floats(0, 20),
            ),
            max_size=80,
        )
    )
    def test_dialing_always_ends_and_never_exceeds_the_bound(
        self, steps: list[tuple[str, int, float]]
    ) -> None:
        """Every Punch is followed by its GiveUp, whatever happens.  NAT-101-X"""
        self.time = 0.0
        punching = Punching(OWN, now=lambda: self.time, rng=Random(1))
        dialing: set[PeerId] = set()
        for what, which, wait in steps:
            peer = bytes32(bytes([which + 1]) * 32)
            if peer == OWN:
                continue
            effects: list[PunchEffect] = []
            if what == "relayed" and punching.state(peer) is None:
                punching.relayed(peer)
            elif what == "lost":
                effects = punching.lost(peer)
            elif what == "direct":
                effects = punching.direct(peer)
            elif what == "coordinate":
                effects = punching.coordinate(peer, ADDRESS)
            else:
                self.time += wait
                effects = punching.tick()
            for effect in effects:
                if isinstance(effect, Punch):
                    self.assertNotIn(effect.peer, dialing)
                    dialing.add(effect.peer)
                elif isinstance(effect, GiveUp):
                    dialing.remove(effect.peer)
            self.assertLessEqual(len(dialing), module.MAX_PUNCHES)
            self.assertLessEqual(punching.under_way, module.MAX_PUNCHES)
        self.time += 100
        for effect in punching.tick():
            if isinstance(effect, GiveUp):
                dialing.remove(effect.peer)
        self.assertEqual(dialing, set())
