"""Tests of :mod:`dig_gossip.connection.peer_table`."""

from __future__ import annotations

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

from dig_gossip.connection.peer_table import PeerTable, Refused, Supersedes, Vacant
from dig_gossip.constants import DEFAULT_P2P_PORT, GLARE_WINDOW_SECS
from dig_gossip.types.peer import PeerAddress, PeerId, TransportKind
from tests.connection import ManualTime, peer

DIRECT, RELAY, TOR = TransportKind.DIRECT, TransportKind.RELAY, TransportKind.TOR
HERE = PeerAddress("192.0.2.1", DEFAULT_P2P_PORT)
OWN = peer(0)


@attrs.define(eq=False)
class FakeSession:
    """A slot that a test can fill in."""

    peer_id: PeerId
    address: PeerAddress = HERE
    is_outbound: bool = True
    opened_at: float = 1000.0
    is_live: bool = True
    transport: TransportKind = DIRECT
    own_id: PeerId = OWN


class PeerTableTests(SynchronousTestCase):
    """Sessions by id and by address."""

    def setUp(self) -> None:
        self.time = ManualTime()
        self.table: PeerTable[FakeSession] = PeerTable(now=self.time)

    def insert(
        self,
        number: int,
        address: PeerAddress = HERE,
        *,
        is_outbound: bool = True,
        is_live: bool = True,
    ) -> FakeSession:
        session = FakeSession(peer(number), address, is_outbound, is_live=is_live)
        self.table.insert(session)
        return session

    def test_empty_table_holds_nothing(self) -> None:
        """Questions to an empty table have empty answers.  API-002.11"""
        self.assertEqual(len(self.table), 0)
        self.assertEqual(list(self.table), [])
        self.assertIsNone(self.table.get(peer(1)))
        self.assertIsNone(self.table.at_address(HERE))
        self.assertFalse(self.table.holds(FakeSession(peer(1))))
        self.assertEqual((self.table.inbound_count, self.table.outbound_count), (0, 0))

    def test_inserted_session_is_found_and_counted(self) -> None:
        """By id, by address, by direction.  CON-105-X"""
        dialed = self.insert(1)
        accepted = self.insert(2, PeerAddress("192.0.2.2", 50000), is_outbound=False)
        self.assertIs(self.table.get(peer(1)), dialed)
        self.assertIs(self.table.at_address(PeerAddress("192.0.2.2", 50000)), accepted)
        self.assertIsNone(self.table.at_address(PeerAddress("192.0.2.2", 50001)))
        self.assertEqual(list(self.table), [dialed, accepted])
        self.assertEqual((self.table.inbound_count, self.table.outbound_count), (1, 1))

    def test_newer_session_replaces_the_older(self) -> None:
        """One slot for each id; the old address is forgotten.  CON-105-X"""
        old = self.insert(1)
        new = self.insert(1, PeerAddress("192.0.2.2", 50000), is_outbound=False)
        self.assertEqual(list(self.table), [new])
        self.assertTrue(self.table.holds(new))
        self.assertFalse(self.table.holds(old))
        self.assertIsNone(self.table.at_address(HERE))
        self.assertEqual((self.table.inbound_count, self.table.outbound_count), (1, 0))

    def test_end_of_a_superseded_session_leaves_its_successor(self) -> None:
        """Removal is by object: the ghost of a session cannot evict the reconnect.  CON-106-X"""
        old = self.insert(1)
        new = self.insert(1)
        self.assertFalse(self.table.remove(old))
        self.assertIs(self.table.get(peer(1)), new)
        self.assertIs(self.table.at_address(HERE), new)
        self.assertTrue(self.table.remove(new))
        self.assertFalse(self.table.remove(new))
        self.assertEqual(len(self.table), 0)
        self.assertIsNone(self.table.at_address(HERE))

    def test_iteration_survives_removal(self) -> None:
        """Whoever walks the table may empty it.  CON-115-X"""
        for number in range(5):
            self.insert(number)
        for session in self.table:
            self.table.remove(session)
        self.assertEqual(len(self.table), 0)

    def test_live_session_at_an_address_comes_first(self) -> None:
        """A silent session under an old id does not hide the live one.  CON-001.1"""
        silent = self.insert(1, is_live=False)
        self.assertIs(self.table.at_address(HERE), silent)
        live = self.insert(2)
        self.assertIs(self.table.at_address(HERE), live)
        self.table.remove(silent)
        self.assertIs(self.table.at_address(HERE), live)

    def test_relayed_session_has_no_address_of_its_own(self) -> None:
        """A relay's address does not stand for the peers behind it.  DIV-102-X"""
        relayed = FakeSession(peer(1), transport=RELAY)
        self.table.insert(relayed)
        self.assertIsNone(self.table.at_address(HERE))
        self.assertTrue(self.table.remove(relayed))
        self.assertEqual(len(self.table), 0)

    def test_random_use_agrees_with_a_naive_model(self) -> None:
        """Any sequence of insertions and removals matches a plain list.  CON-106-X"""
        run_state_machine_as_test(TableMachine)


class TableMachine(RuleBasedStateMachine):
    """Compared with the list of sessions that should be there."""

    @initialize()
    def start(self) -> None:
        self.table: PeerTable[FakeSession] = PeerTable(now=ManualTime())
        self.model: list[FakeSession] = []
        self.all: list[FakeSession] = []

    @rule(
        number=st.integers(0, 3),
        port=st.integers(1, 3),
        is_outbound=st.booleans(),
        is_live=st.booleans(),
        transport=st.sampled_from(TransportKind),
    )
    def insert(
        self, number: int, port: int, is_outbound: bool, is_live: bool, transport: TransportKind
    ) -> None:
        session = FakeSession(
            peer(number),
            PeerAddress("192.0.2.1", port),
            is_outbound,
            is_live=is_live,
            transport=transport,
        )
        self.table.insert(session)
        self.model = [s for s in self.model if s.peer_id != session.peer_id] + [session]
        self.all.append(session)

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.all))
        assert self.table.remove(session) is (session in self.model)
        self.model = [s for s in self.model if s is not session]

    @invariant()
    def agrees(self) -> None:
        assert list(self.table) == self.model
        assert len(self.table) == len(self.model)
        assert self.table.outbound_count == sum(s.is_outbound for s in self.model)
        assert self.table.inbound_count == sum(not s.is_outbound for s in self.model)
        for session in self.all:
            assert self.table.holds(session) is (session in self.model)
        for port in (1, 2, 3):
            address = PeerAddress("192.0.2.1", port)
            there = [s for s in self.model if s.address == address and s.transport is not RELAY]
            found = self.table.at_address(address)
            assert (found in there) if there else found is None
            assert found is None or found.is_live or not any(s.is_live for s in there)


class ResolveTests(SynchronousTestCase):
    """One node's decision between the old session and the new one."""

    small, large = peer(1), peer(2)

    def resolve(
        self,
        *,
        own_id: PeerId = small,
        old_is_outbound: bool,
        is_outbound: bool,
        age: float = GLARE_WINDOW_SECS,
        is_live: bool = True,
        old_transport: TransportKind = DIRECT,
        transport: TransportKind = DIRECT,
        greeted: bool = False,
        former_id: PeerId | None = None,
    ) -> str:
        """Put a session in, resolve another one against it; return which one stays."""
        time = ManualTime()
        table: PeerTable[FakeSession] = PeerTable(now=time)
        other = self.large if own_id == self.small else self.small
        old = FakeSession(
            other,
            is_outbound=old_is_outbound,
            opened_at=time.seconds,
            is_live=is_live,
            transport=old_transport,
            own_id=former_id or own_id,
        )
        table.insert(old)
        time.seconds += age
        resolution = table.resolve(
            own_id=own_id,
            peer_id=other,
            is_outbound=is_outbound,
            transport=transport,
            greeted=greeted,
        )
        self.assertTrue(table.holds(old))
        if resolution == Refused():
            return "old"
        self.assertEqual(resolution, Supersedes(old))
        return "new"

    def test_stranger_finds_a_vacant_slot(self) -> None:
        """Sessions with other peers do not matter.  CON-105-X"""
        table: PeerTable[FakeSession] = PeerTable(now=ManualTime())
        table.insert(FakeSession(peer(3)))
        for is_outbound in (True, False):
            resolution = table.resolve(
                own_id=peer(1), peer_id=peer(2), is_outbound=is_outbound, transport=DIRECT
            )
            self.assertEqual(resolution, Vacant())

    def test_session_under_another_id_of_ours_is_replaced(self) -> None:
        """For the other end the two are with different peers: it closes neither.  PRV-007.1"""
        for is_outbound in (True, False):
            for old_is_outbound in (True, False):
                for age in (1, GLARE_WINDOW_SECS):
                    self.assertEqual(
                        self.resolve(
                            former_id=peer(9),
                            is_outbound=is_outbound,
                            old_is_outbound=old_is_outbound,
                            age=age,
                        ),
                        "new",
                    )
        self.assertEqual(
            self.resolve(
                former_id=peer(9), is_outbound=False, old_is_outbound=True, transport=RELAY
            ),
            "old",
        )

    def test_glare_keeps_the_session_of_the_smaller_dialer(self) -> None:
        """In all four positions the session dialed by the smaller id stays.  CON-105-X (a)"""
        for own_id, is_outbound, stays in (
            (self.small, True, "new"),
            (self.small, False, "old"),
            (self.large, True, "old"),
            (self.large, False, "new"),
        ):
            for is_live in (True, False):
                self.assertEqual(
                    self.resolve(
                        own_id=own_id,
                        is_outbound=is_outbound,
                        old_is_outbound=not is_outbound,
                        age=1,
                        is_live=is_live,
                    ),
                    stays,
                )

    def test_glare_ends_after_thirty_seconds(self) -> None:
        """At 30 s the old session is no longer part of a simultaneous dial.  CON-105-X (a)"""
        for age, stays in ((29.9, "old"), (30.0, "new"), (30.1, "new")):
            self.assertEqual(
                self.resolve(own_id=self.small, is_outbound=False, old_is_outbound=True, age=age),
                stays,
            )
        for age, stays in ((29.9, "new"), (30.0, "old"), (30.1, "old")):
            self.assertEqual(
                self.resolve(own_id=self.small, is_outbound=True, old_is_outbound=False, age=age),
                stays,
            )

    def test_dial_does_not_replace_a_live_session(self) -> None:
        """A second way to a peer that answers is a duplicate.  CON-105-X (b)"""
        for own_id in (self.small, self.large):
            for age in (1, 1000):
                self.assertEqual(
                    self.resolve(own_id=own_id, is_outbound=True, old_is_outbound=True, age=age),
                    "old",
                )
            self.assertEqual(
                self.resolve(own_id=own_id, is_outbound=True, old_is_outbound=False), "old"
            )

    def test_dial_replaces_a_silent_session(self) -> None:
        """A suspect session never blocks a reconnect.  CON-101-X"""
        for old_is_outbound in (True, False):
            self.assertEqual(
                self.resolve(is_outbound=True, old_is_outbound=old_is_outbound, is_live=False),
                "new",
            )

    def test_peer_that_dials_again_replaces_its_session(self) -> None:
        """Inbound, the newest wins, even over a live session.  CON-105-X (c)"""
        for own_id in (self.small, self.large):
            for is_live in (True, False):
                for age in (1, 1000):
                    self.assertEqual(
                        self.resolve(
                            own_id=own_id,
                            is_outbound=False,
                            old_is_outbound=False,
                            is_live=is_live,
                            age=age,
                        ),
                        "new",
                    )
                self.assertEqual(
                    self.resolve(
                        own_id=own_id, is_outbound=False, old_is_outbound=True, is_live=is_live
                    ),
                    "new",
                )

    def test_greeted_dial_follows_the_acceptor(self) -> None:
        """Once the other end has replaced its session, so does the dialer.  CON-105-X (c)"""
        for old_is_outbound in (True, False):
            self.assertEqual(
                self.resolve(is_outbound=True, old_is_outbound=old_is_outbound, greeted=True),
                "new",
            )

    def test_greeted_dial_still_loses_a_glare(self) -> None:
        """Both ends know the smaller id without asking.  CON-105-X (a)"""
        for own_id, stays in ((self.small, "new"), (self.large, "old")):
            self.assertEqual(
                self.resolve(
                    own_id=own_id, is_outbound=True, old_is_outbound=False, age=1, greeted=True
                ),
                stays,
            )

    def test_relayed_session_never_replaces_a_live_direct_one(self) -> None:
        """Whoever dialed, whatever the age; Tor counts as direct.  CON-105-X"""
        for old_transport in (DIRECT, TOR):
            for own_id in (self.small, self.large):
                for is_outbound in (True, False):
                    for old_is_outbound in (True, False):
                        for age in (1, 1000):
                            self.assertEqual(
                                self.resolve(
                                    own_id=own_id,
                                    is_outbound=is_outbound,
                                    old_is_outbound=old_is_outbound,
                                    old_transport=old_transport,
                                    transport=RELAY,
                                    age=age,
                                ),
                                "old",
                            )

    def test_relayed_session_replaces_a_silent_direct_one(self) -> None:
        """The relay is the way around a path that died.  CON-101-X"""
        for is_outbound in (True, False):
            for old_is_outbound in (True, False):
                self.assertEqual(
                    self.resolve(
                        is_outbound=is_outbound,
                        old_is_outbound=old_is_outbound,
                        transport=RELAY,
                        is_live=False,
                    ),
                    "new",
                )

    def test_relayed_session_in_a_glare_waits_even_for_a_silent_direct_one(self) -> None:
        """Liveness looks different from both ends, the transport does not.  CON-105-X (a)"""
        for is_outbound in (True, False):
            self.assertEqual(
                self.resolve(
                    is_outbound=is_outbound,
                    old_is_outbound=not is_outbound,
                    transport=RELAY,
                    is_live=False,
                    age=1,
                    greeted=is_outbound,
                ),
                "old",
            )

    def test_relayed_dial_that_was_accepted_replaces_the_direct_one(self) -> None:
        """The acceptor found the direct session silent and has dropped it.  CON-105-X (c)"""
        self.assertEqual(
            self.resolve(is_outbound=True, old_is_outbound=True, transport=RELAY, greeted=True),
            "new",
        )

    def test_direct_session_replaces_a_relayed_one(self) -> None:
        """The upgrade works in every position, glare and liveness included.  RLY-007.2"""
        for own_id in (self.small, self.large):
            for is_outbound in (True, False):
                for old_is_outbound in (True, False):
                    for age in (1, 1000):
                        self.assertEqual(
                            self.resolve(
                                own_id=own_id,
                                is_outbound=is_outbound,
                                old_is_outbound=old_is_outbound,
                                old_transport=RELAY,
                                age=age,
                            ),
                            "new",
                        )

    def test_relayed_sessions_among_themselves_follow_the_common_rules(self) -> None:
        """Two relayed sessions are decided like two direct ones.  CON-105-X"""
        for is_outbound, stays in ((True, "new"), (False, "old")):
            self.assertEqual(
                self.resolve(
                    is_outbound=is_outbound,
                    old_is_outbound=not is_outbound,
                    old_transport=RELAY,
                    transport=RELAY,
                    age=1,
                ),
                stays,
            )
        self.assertEqual(
            self.resolve(
                is_outbound=True, old_is_outbound=True, old_transport=RELAY, transport=RELAY
            ),
            "old",
        )
