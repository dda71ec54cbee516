"""Tests of :mod:`dig_gossip.connection.admission`."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.admission import (
    AcceptFacts,
    DialFacts,
    SessionFacts,
    refuse_accept,
    refuse_dial,
    refuse_session,
)
from dig_gossip.connection.peer_table import Refused, Supersedes, Vacant
from dig_gossip.errors import (
    ClientError,
    ClientErrorKind,
    DuplicateConnection,
    GossipError,
    MaxConnectionsReached,
    PeerBanned,
    SelfConnection,
    ServiceNotStarted,
)
from tests.connection import peer
from tests.connection.test_peer_table import FakeSession


class RefuseAcceptTests(SynchronousTestCase):
    """Gates before TLS."""

    fine = AcceptFacts(
        running=True,
        host_banned=False,
        is_loopback=False,
        connections_from_host=0,
        max_connections_per_ip=8,
        inbound_sessions=0,
        inbound_openings=0,
        max_inbound=42,
        total_sessions=8,
        max_connections=50,
        max_inflight_handshakes=200,
    )

    def refusal(self, **changes: Any) -> str | None:  # Any: fields of several types
        return refuse_accept(attrs.evolve(self.fine, **changes))

    def test_nothing_wrong_is_let_in(self) -> None:
        """A first connection passes every gate.  CON-002.1"""
        self.assertIsNone(self.refusal())

    def test_a_few_contend_for_a_slot_when_all_are_taken(self) -> None:
        """From hosts without a connection; the other gates hold as ever.  CON-114-X"""
        full = {"inbound_sessions": 42, "total_sessions": 50, "max_contenders": 8}
        self.assertIsNone(self.refusal(**full, inbound_openings=7))
        self.assertEqual(self.refusal(**full, inbound_openings=8), "inbound_full")
        self.assertEqual(self.refusal(**full, connections_from_host=1), "inbound_full")
        self.assertIsNone(self.refusal(**full, connections_from_host=1, is_loopback=True))
        self.assertEqual(self.refusal(**full, host_banned=True), "ip_banned")
        few = {"max_inflight_handshakes": 3, "inbound_openings": 3}
        self.assertEqual(self.refusal(**full, **few), "handshakes_full")
        outbound = {"total_sessions": 50, "max_contenders": 8}
        self.assertIsNone(self.refusal(**outbound, inbound_openings=7))
        self.assertEqual(self.refusal(**outbound, inbound_openings=8), "all_full")

    def test_gates_come_in_the_stated_order(self) -> None:
        """With everything wrong, curing gate after gate shows them in order.  CON-002.1"""
        cures: list[tuple[str, dict[str, Any]]] = [  # Any: fields of several types
            ("not_running", {"running": True}),
            ("ip_banned", {"host_banned": False}),
            ("ip_limit", {"connections_from_host": 7}),
            ("inbound_full", {"inbound_sessions": 0, "max_inbound": 1000}),
            ("all_full", {"total_sessions": 0, "max_connections": 1000}),
            ("handshakes_full", {"inbound_openings": 199}),
        ]
        facts = attrs.evolve(
            self.fine,
            running=False,
            host_banned=True,
            connections_from_host=8,
            inbound_sessions=42,
            inbound_openings=200,
            total_sessions=50,
        )
        for reason, cure in cures:
            self.assertEqual(refuse_accept(facts), reason)
            facts = attrs.evolve(facts, **cure)
        self.assertIsNone(refuse_accept(facts))

    def test_limit_per_ip_is_exclusive(self) -> None:
        """With 7 connections an eighth comes in, with 8 no ninth.  CON-002.1"""
        for count, expected in ((7, None), (8, "ip_limit"), (9, "ip_limit")):
            self.assertEqual(self.refusal(connections_from_host=count), expected)

    def test_loopback_is_exempt_from_the_limit_per_ip_only(self) -> None:
        """Local clusters share one address; every other gate holds for them.  CFG-101-X"""
        self.assertIsNone(self.refusal(connections_from_host=8, is_loopback=True))
        self.assertEqual(self.refusal(inbound_sessions=42, is_loopback=True), "inbound_full")

    def test_what_comes_through_the_onion_service_is_limited_together(self) -> None:
        """Half of all slots, one at least; others are not affected.  TOR-102-X"""
        for count, slots, expected in (
            (24, 50, None),
            (25, 50, "onion_full"),
            (0, 1, None),
            (1, 1, "onion_full"),
        ):
            refusal = self.refusal(
                is_loopback=True, through_onion=count, max_connections=slots, total_sessions=0
            )
            self.assertEqual(refusal, expected)

    def test_unfinished_handshakes_count_as_inbound(self) -> None:
        """Registered plus in-flight stays below the slots for inbound peers.  CON-110-X"""
        for sessions, openings, expected in (
            (41, 0, None),
            (42, 0, "inbound_full"),
            (21, 20, None),
            (21, 21, "inbound_full"),
            (0, 42, "inbound_full"),
        ):
            self.assertEqual(
                self.refusal(inbound_sessions=sessions, inbound_openings=openings), expected
            )

    def test_outbound_beyond_the_reserve_takes_slots_from_inbound(self) -> None:
        """All slots together are a limit of their own.  CON-111-X"""
        for total, openings, expected in ((49, 0, None), (50, 0, "all_full"), (48, 2, "all_full")):
            self.assertEqual(
                self.refusal(total_sessions=total, inbound_openings=openings), expected
            )

    def test_handshakes_in_flight_have_their_own_cap(self) -> None:
        """The cap on unfinished handshakes is a separate gate.  CON-111-X"""
        for openings, expected in ((3, None), (4, "handshakes_full"), (5, "handshakes_full")):
            self.assertEqual(
                self.refusal(inbound_openings=openings, max_inflight_handshakes=4), expected
            )


class RefuseDialTests(SynchronousTestCase):
    """Checks before an address is dialed."""

    fine = DialFacts(
        running=True,
        is_own_address=False,
        host_banned=False,
        existing_peer_id=None,
        existing_is_live=False,
        sessions=0,
        dials=0,
        max_connections=50,
    )

    def refusal(self, **changes: Any) -> GossipError | None:  # Any: fields of several types
        return refuse_dial(attrs.evolve(self.fine, **changes))

    def test_nothing_wrong_is_dialed(self) -> None:
        """A new address on an idle node may be dialed.  CON-001.1"""
        self.assertIsNone(self.refusal())

    def test_checks_come_in_the_stated_order(self) -> None:
        """With everything wrong, curing check after check shows them in order.  CON-001.1"""
        cures: list[tuple[type[GossipError], dict[str, Any]]] = [  # Any: fields of several types
            (ServiceNotStarted, {"running": True}),
            (SelfConnection, {"is_own_address": False}),
            (PeerBanned, {"host_banned": False}),
            (DuplicateConnection, {"existing_is_live": False, "existing_peer_id": None}),
            (MaxConnectionsReached, {"sessions": 49}),
        ]
        facts = attrs.evolve(
            self.fine,
            running=False,
            is_own_address=True,
            host_banned=True,
            existing_peer_id=peer(1),
            existing_is_live=True,
            sessions=50,
        )
        for error, cure in cures:
            self.assertIs(type(refuse_dial(facts)), error)
            facts = attrs.evolve(facts, **cure)
        self.assertIsNone(refuse_dial(facts))

    def test_errors_carry_what_they_are_about(self) -> None:
        """The duplicate names the peer, the full table its size.  API-004"""
        duplicate = self.refusal(existing_peer_id=peer(1), existing_is_live=True)
        assert isinstance(duplicate, DuplicateConnection)
        self.assertEqual(duplicate.peer_id, peer(1))
        full = self.refusal(sessions=50)
        assert isinstance(full, MaxConnectionsReached)
        self.assertEqual(full.limit, 50)

    def test_dials_under_way_take_slots(self) -> None:
        """Sessions plus dials stay within the limit.  CON-001.1"""
        for sessions, dials, refused in ((49, 0, False), (50, 0, True), (40, 9, False)):
            self.assertIs(self.refusal(sessions=sessions, dials=dials) is not None, refused)
        for dials in (10, 11):
            self.assertIsInstance(self.refusal(sessions=40, dials=dials), MaxConnectionsReached)

    def test_redial_of_a_silent_session_needs_no_slot(self) -> None:
        """A full node can replace a suspect session.  CON-101-X"""
        self.assertIsNone(self.refusal(existing_peer_id=peer(1), sessions=50, dials=3))


class RefuseSessionTests(SynchronousTestCase):
    """Checks on the verified id."""

    fine = SessionFacts(
        peer_id=peer(1),
        is_own_id=False,
        is_banned=False,
        resolution=Vacant(),
        expected_id=None,
        is_outbound=True,
        sessions=0,
        inbound_sessions=0,
        max_connections=50,
        max_inbound=42,
    )

    def refusal(self, **changes: Any) -> GossipError | None:  # Any: fields of several types
        return refuse_session(attrs.evolve(self.fine, **changes))

    def test_nothing_wrong_is_inserted(self) -> None:
        """A stranger gets a session, whoever dialed.  CON-001.5"""
        self.assertIsNone(self.refusal())
        self.assertIsNone(self.refusal(is_outbound=False))
        self.assertIsNone(self.refusal(expected_id=peer(1)))

    def test_checks_come_in_the_stated_order(self) -> None:
        """With everything wrong, curing check after check shows them in order.  CON-001.5"""
        cures: list[tuple[type[GossipError], dict[str, Any]]] = [  # Any: fields of several types
            (SelfConnection, {"is_own_id": False}),
            (PeerBanned, {"is_banned": False}),
            (DuplicateConnection, {"resolution": Vacant()}),
            (ClientError, {"expected_id": peer(1)}),
            (MaxConnectionsReached, {"sessions": 49}),
        ]
        for is_outbound in (True, False):
            facts = attrs.evolve(
                self.fine,
                is_own_id=True,
                is_banned=True,
                resolution=Refused(),
                expected_id=peer(2),
                is_outbound=is_outbound,
                sessions=50,
            )
            for error, cure in cures:
                self.assertIs(type(refuse_session(facts)), error)
                facts = attrs.evolve(facts, **cure)
            self.assertIsNone(refuse_session(facts))

    def test_errors_carry_the_peer(self) -> None:
        """Ban and duplicate name the verified id.  API-004"""
        for changes, expected in (
            ({"is_banned": True}, PeerBanned),
            ({"resolution": Refused()}, DuplicateConnection),
        ):
            error = self.refusal(**changes)
            assert isinstance(error, (PeerBanned, DuplicateConnection))
            self.assertIs(type(error), expected)
            self.assertEqual(error.peer_id, peer(1))

    def test_another_identity_than_expected_is_a_tls_error(self) -> None:
        """A pinned dial that finds somebody else fails, retryable.  CON-001.5"""
        error = self.refusal(expected_id=peer(2))
        assert isinstance(error, ClientError)
        self.assertIs(error.kind, ClientErrorKind.TLS)
        self.assertTrue(error.retryable)
        self.assertIn(peer(1).hex(), str(error))
        self.assertIn(peer(2).hex(), str(error))

    def test_last_slot_is_checked_again_at_insertion(self) -> None:
        """A burst that finishes together cannot exceed the limit.  CON-111-X"""
        for sessions, refused in ((49, False), (50, True), (51, True)):
            for is_outbound in (True, False):
                error = self.refusal(sessions=sessions, is_outbound=is_outbound)
                self.assertIs(isinstance(error, MaxConnectionsReached), refused)

    def test_inbound_is_limited_to_its_share(self) -> None:
        """Inbound peers cannot take the slots reserved for outbound.  CON-110-X"""
        for inbound, refused in ((41, False), (42, True), (43, True)):
            error = self.refusal(is_outbound=False, sessions=inbound, inbound_sessions=inbound)
            self.assertIs(error is not None, refused)
            if refused:
                assert isinstance(error, MaxConnectionsReached)
                self.assertEqual(error.limit, 42)
            self.assertIsNone(self.refusal(sessions=inbound, inbound_sessions=inbound))

    def test_replacing_a_session_needs_no_slot(self) -> None:
        """A full node lets a peer replace its own session, in either direction.  CON-105-X"""
        for old_is_outbound, is_outbound in ((True, True), (False, False), (False, True)):
            old = FakeSession(peer(1), is_outbound=old_is_outbound)
            error = self.refusal(
                resolution=Supersedes(old),
                is_outbound=is_outbound,
                sessions=50,
                inbound_sessions=42,
            )
            self.assertIsNone(error)

    def test_inbound_in_place_of_outbound_needs_an_inbound_slot(self) -> None:
        """Peers that dial back cannot eat the reserve of outbound slots.  CON-110-X"""
        resolution = Supersedes(FakeSession(peer(1), is_outbound=True))
        for inbound, refused in ((41, False), (42, True)):
            error = self.refusal(
                resolution=resolution,
                is_outbound=False,
                sessions=50,
                inbound_sessions=inbound,
            )
            self.assertIs(isinstance(error, MaxConnectionsReached), refused)
