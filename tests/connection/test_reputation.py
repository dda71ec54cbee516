"""Tests of :mod:`dig_gossip.connection.reputation`."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.reputation import PenaltyOutcome, Reputations
from dig_gossip.types.reputation import PeerReputation, PenaltyReason
from tests.connection import ManualTime, peer

SPAM = PenaltyReason.SPAM  # 25
VIOLATION = PenaltyReason.PROTOCOL_VIOLATION  # 50
ISSUE = PenaltyReason.CONNECTION_ISSUE  # 10
FATAL = PenaltyReason.INVALID_BLOCK  # 100
HOST = "192.0.2.1"
A, B, C, D = (peer(number) for number in range(1, 5))


class ReputationsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = ManualTime()
        self.reputations = Reputations(unix=self.time)


class PeerBanTests(ReputationsTestCase):
    """Points and bans of one peer."""

    def test_unknown_peer_has_a_clean_slate(self) -> None:
        """Nobody is banned by default; asking creates nothing.  API-006"""
        self.assertEqual(self.reputations.get(A), PeerReputation())
        self.assertFalse(self.reputations.is_banned(A))
        self.assertFalse(self.reputations.unban(A))

    def test_every_reason_costs_its_points(self) -> None:
        """Each reason adds its points to the total.  CON-007"""
        for number, reason in enumerate(PenaltyReason):
            outcome = self.reputations.penalize(peer(number), reason)
            self.assertEqual(outcome.points, reason.points)

    def test_points_add_up_to_a_ban(self) -> None:
        """75 points are not a ban, 100 are.  CON-007"""
        for points in (25, 50, 75):
            self.assertEqual(
                self.reputations.penalize(A, SPAM), PenaltyOutcome(points, False, False)
            )
            self.assertFalse(self.reputations.is_banned(A))
        self.assertEqual(self.reputations.penalize(A, SPAM), PenaltyOutcome(100, True, False))
        self.assertTrue(self.reputations.is_banned(A))
        self.assertFalse(self.reputations.is_banned(B))

    def test_threshold_is_inclusive(self) -> None:
        """One point below the threshold is no ban, the threshold and above is.  CON-007"""
        for threshold, banned in ((24, True), (25, True), (26, False)):
            reputations = Reputations(unix=self.time, threshold=threshold)
            self.assertIs(reputations.penalize(A, SPAM).newly_banned, banned)
            self.assertIs(reputations.is_banned(A), banned)

    def test_snapshot_shows_the_ban(self) -> None:
        """Points, expiry, count and reason, with what the session measured.  API-006"""
        self.reputations.penalize(A, ISSUE)
        self.assertEqual(
            self.reputations.get(A, rtt_history=(0.25,), avg_rtt_ms=250),
            PeerReputation(
                penalty_points=10, last_penalty_reason=ISSUE, rtt_history=(0.25,), avg_rtt_ms=250
            ),
        )
        self.reputations.penalize(A, FATAL)
        self.assertEqual(
            self.reputations.get(A),
            PeerReputation(
                penalty_points=110,
                is_banned=True,
                ban_expiry=4600,
                ban_count=1,
                last_penalty_reason=FATAL,
            ),
        )

    def test_ban_is_over_at_its_expiry(self) -> None:
        """3599 s after a ban the peer is banned, 3600 s after it is not.  CON-007"""
        self.reputations.penalize(A, FATAL)
        for seconds, banned in ((4599.0, True), (4599.9, True), (4600.0, False), (4601.0, False)):
            self.time.seconds = seconds
            self.assertIs(self.reputations.is_banned(A), banned)
            self.assertIs(self.reputations.get(A).is_banned, banned)
            self.assertEqual(self.reputations.active_bans, int(banned))
        self.assertEqual(
            self.reputations.get(A), PeerReputation(ban_count=1, last_penalty_reason=FATAL)
        )

    def test_ban_lasts_at_least_its_time(self) -> None:
        """Whole seconds in the snapshot do not shorten a ban.  CON-007"""
        self.time.seconds = 1000.5
        self.reputations.penalize(A, FATAL)
        self.assertEqual(self.reputations.get(A).ban_expiry, 4601)
        self.time.seconds = 4600.5
        self.assertTrue(self.reputations.is_banned(A))

    def test_penalty_while_banned_changes_only_the_points(self) -> None:
        """A ban is neither counted again nor prolonged.  API-002.10"""
        self.reputations.penalize(A, FATAL)
        self.time.seconds += 60
        self.assertEqual(self.reputations.penalize(A, FATAL), PenaltyOutcome(200, False, False))
        self.reputations.penalize(A, SPAM)
        self.assertEqual(
            self.reputations.get(A),
            PeerReputation(
                penalty_points=225,
                is_banned=True,
                ban_expiry=4600,
                ban_count=1,
                last_penalty_reason=SPAM,
            ),
        )

    def test_penalty_after_a_ban_starts_from_zero(self) -> None:
        """The end of a ban clears the points even before a cleanup; bans are counted.  CON-007"""
        self.reputations.penalize(A, FATAL)
        self.time.seconds += 3600
        self.assertEqual(self.reputations.penalize(A, SPAM), PenaltyOutcome(25, False, False))
        self.assertEqual(self.reputations.get(A).ban_count, 1)
        self.assertTrue(self.reputations.penalize(A, FATAL).newly_banned)
        self.assertEqual(self.reputations.get(A).ban_count, 2)
        self.assertEqual(self.reputations.get(A).ban_expiry, 8200)

    def test_expire_names_the_peers_that_are_free_again(self) -> None:
        """Cleanup returns each expired ban once.  CON-007.3"""
        self.reputations.penalize(A, FATAL, HOST)
        self.time.seconds += 1
        self.reputations.penalize(B, FATAL)
        self.assertEqual(self.reputations.expire(), [])
        self.time.seconds = 4600
        # A check at the same moment does not swallow the news.
        self.assertFalse(self.reputations.is_banned(A))
        self.assertEqual(self.reputations.expire(), [A])
        self.assertEqual(self.reputations.expire(), [])
        self.time.seconds = 4601
        self.assertEqual(self.reputations.expire(), [B])
        self.assertEqual(self.reputations.get(A).penalty_points, 0)

    def test_unban_frees_a_peer_and_its_host(self) -> None:
        """The operator's pardon lifts both parts of a ban.  CON-007.1"""
        self.reputations.penalize(A, FATAL, HOST)
        self.assertTrue(self.reputations.unban(A))
        self.assertFalse(self.reputations.is_banned(A))
        self.assertFalse(self.reputations.is_host_banned(HOST))
        self.assertFalse(self.reputations.unban(A))
        self.assertEqual(
            self.reputations.get(A), PeerReputation(ban_count=1, last_penalty_reason=FATAL)
        )

    def test_unban_of_two_peers_of_one_host(self) -> None:
        """The second pardon finds the host free already.  CON-007.1"""
        self.reputations.ban(A, HOST)
        self.reputations.ban(B, HOST)
        self.assertTrue(self.reputations.unban(A))
        self.assertFalse(self.reputations.is_host_banned(HOST))
        self.assertTrue(self.reputations.is_banned(B))
        self.assertTrue(self.reputations.unban(B))
        self.assertFalse(self.reputations.is_host_banned(HOST))

    def test_unban_after_the_ban_is_over_says_so(self) -> None:
        """An expired ban is no ban, and the cleanup still reports it.  CON-007.3"""
        self.reputations.penalize(A, FATAL)
        self.time.seconds += 3600
        self.assertFalse(self.reputations.unban(A))
        self.assertEqual(self.reputations.expire(), [A])

    def test_unban_leaves_hosts_of_other_bans_alone(self) -> None:
        """A second ban without a host does not remember the first one's host.  CON-007.1"""
        self.reputations.penalize(A, FATAL, HOST)
        self.time.seconds += 3600
        self.reputations.penalize(A, FATAL)
        self.reputations.penalize(B, FATAL, HOST)
        self.assertTrue(self.reputations.unban(A))
        self.assertTrue(self.reputations.is_host_banned(HOST))

    def test_penalties_are_counted_by_reason(self) -> None:
        """Every applied penalty counts, also on a banned peer.  REP-103-X"""
        self.assertEqual(set(self.reputations.penalties_by_reason), set(PenaltyReason))
        self.reputations.penalize(A, FATAL)
        self.reputations.penalize(A, FATAL)
        self.reputations.penalize(B, SPAM)
        self.reputations.ban(C, reason=SPAM)
        self.reputations.ban(D)
        counts = {r: n for r, n in self.reputations.penalties_by_reason.items() if n}
        self.assertEqual(counts, {FATAL: 2, SPAM: 2})
        self.assertEqual(self.reputations.active_bans, 3)


class ForcedBanTests(ReputationsTestCase):
    """Bans whatever the points."""

    def test_forced_ban_needs_no_points(self) -> None:
        """A peer without points is banned, with its host.  API-002.10"""
        self.reputations.ban(A, HOST)
        self.assertEqual(
            self.reputations.get(A), PeerReputation(is_banned=True, ban_expiry=4600, ban_count=1)
        )
        self.assertTrue(self.reputations.is_host_banned(HOST))
        self.assertTrue(self.reputations.unban(A))
        self.assertFalse(self.reputations.is_host_banned(HOST))

    def test_forced_ban_charges_its_reason_first(self) -> None:
        """The reason's points appear; the ban counts once.  API-002.10"""
        for reason, points in ((SPAM, 25), (FATAL, 100)):
            reputations = Reputations(unix=self.time)
            reputations.ban(A, HOST, reason)
            reputation = reputations.get(A)
            self.assertEqual(
                (reputation.penalty_points, reputation.ban_count, reputation.last_penalty_reason),
                (points, 1, reason),
            )

    def test_forced_ban_restarts_a_running_one(self) -> None:
        """Only force prolongs a ban; it is still one ban.  API-002.10"""
        self.reputations.ban(A, HOST)
        self.time.seconds += 100
        self.reputations.ban(A, HOST)
        self.assertEqual(self.reputations.get(A).ban_expiry, 4700)
        self.assertEqual(self.reputations.get(A).ban_count, 1)
        self.time.seconds = 4650
        self.assertTrue(self.reputations.is_host_banned(HOST))

    def test_forced_ban_after_an_expired_one_counts_again(self) -> None:
        """An expired ban that was not cleaned up is not prolonged.  CON-007.3"""
        self.reputations.penalize(A, FATAL)
        self.time.seconds += 3600
        self.reputations.ban(A)
        self.assertEqual(
            self.reputations.get(A),
            PeerReputation(is_banned=True, ban_expiry=8200, ban_count=2, last_penalty_reason=FATAL),
        )

    def test_forced_ban_on_loopback_spares_the_host(self) -> None:
        """Only the id is banned.  RL-105-X"""
        self.reputations.ban(A, "127.0.0.1")
        self.assertTrue(self.reputations.is_banned(A))
        self.assertFalse(self.reputations.is_host_banned("127.0.0.1"))


class HostBanTests(ReputationsTestCase):
    """The second account, by host."""

    def test_ban_of_a_peer_covers_its_host(self) -> None:
        """Id and address are banned together.  CON-007.1"""
        for _ in range(3):
            self.reputations.penalize(A, SPAM, "192.0.2.7")
        self.assertEqual(self.reputations.penalize(A, SPAM, HOST), PenaltyOutcome(100, True, True))
        self.assertTrue(self.reputations.is_host_banned(HOST))
        self.assertFalse(self.reputations.is_host_banned("192.0.2.7"))

    def test_identities_of_one_host_add_up(self) -> None:
        """Four strangers with 25 points each get their common host banned.  REP-102-X"""
        for number in range(3):
            outcome = self.reputations.penalize(peer(number), SPAM, HOST)
            self.assertEqual(outcome, PenaltyOutcome(25, False, False))
            self.assertFalse(self.reputations.is_host_banned(HOST))
        self.assertEqual(self.reputations.penalize(D, SPAM, HOST), PenaltyOutcome(25, False, True))
        self.assertTrue(self.reputations.is_host_banned(HOST))
        self.assertFalse(self.reputations.is_banned(D))
        self.assertEqual(self.reputations.penalize(D, SPAM, HOST), PenaltyOutcome(50, False, False))

    def test_ban_of_a_peer_on_a_banned_host_does_not_prolong_the_hosts(self) -> None:
        """A host's running ban is left as it is.  API-002.10"""
        self.reputations.penalize(A, FATAL, HOST)
        self.time.seconds += 100
        self.assertEqual(
            self.reputations.penalize(B, FATAL, HOST), PenaltyOutcome(100, True, False)
        )
        self.time.seconds = 4600
        self.assertFalse(self.reputations.is_host_banned(HOST))
        self.assertTrue(self.reputations.is_banned(B))

    def test_host_ban_is_over_at_its_expiry(self) -> None:
        """Inclusive, like that of a peer, and its points are gone.  CON-007.3"""
        self.reputations.penalize(A, FATAL, HOST)
        self.time.seconds = 4599
        self.reputations.expire()
        self.assertTrue(self.reputations.is_host_banned(HOST))
        self.time.seconds = 4600
        self.assertFalse(self.reputations.is_host_banned(HOST))
        self.reputations.expire()
        self.assertEqual(self.reputations.penalize(B, VIOLATION, HOST).ip_newly_banned, False)

    def test_every_spelling_of_a_host_is_the_same_host(self) -> None:
        """IPv4-mapped IPv6 is IPv4.  CON-103-X"""
        self.reputations.penalize(A, FATAL, "::ffff:192.0.2.1")
        self.assertTrue(self.reputations.is_host_banned(HOST))
        self.assertTrue(self.reputations.is_host_banned("::FFFF:c000:0201"))
        self.assertFalse(self.reputations.is_host_banned("192.0.2.2"))

    def test_ipv6_hosts_are_whole_64s(self) -> None:
        """One customer's addresses count together, the neighbor's do not.  REP-102-X"""
        self.reputations.penalize(A, VIOLATION, "2001:db8:0:1::1")
        outcome = self.reputations.penalize(B, VIOLATION, "2001:db8:0:1:ffff:ffff:ffff:ffff")
        self.assertTrue(outcome.ip_newly_banned)
        self.assertTrue(self.reputations.is_host_banned("2001:db8:0:1:8000::"))
        self.assertFalse(self.reputations.is_host_banned("2001:db8::ffff:0:0:1"))
        self.assertFalse(self.reputations.is_host_banned("2001:db8:0:2::1"))

    def test_names_are_hosts_too(self) -> None:
        """A hidden service is banned by its name, in any case.  CON-007.1"""
        self.reputations.penalize(A, FATAL, "Example.ONION")
        self.assertTrue(self.reputations.is_host_banned("example.onion"))

    def test_loopback_is_never_banned(self) -> None:
        """A local cluster cannot ban itself; the id is banned all the same.  CON-007.1"""
        for number, host in enumerate(("127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST")):
            outcome = self.reputations.penalize(peer(number), FATAL, host)
            self.assertEqual(outcome, PenaltyOutcome(100, True, False))
            self.assertFalse(self.reputations.is_host_banned(host))

    def test_exempt_host_is_never_banned(self) -> None:
        """A relay's address is shared by strangers.  CON-007.1"""
        outcome = self.reputations.penalize(A, FATAL, HOST, ip_exempt=True)
        self.assertEqual(outcome, PenaltyOutcome(100, True, False))
        self.assertFalse(self.reputations.is_host_banned(HOST))
        self.assertFalse(self.reputations.penalize(B, VIOLATION, HOST).ip_newly_banned)


class BoundsTests(ReputationsTestCase):
    """Nothing grows without limit."""

    def setUp(self) -> None:
        super().setUp()
        self.reputations = Reputations(unix=self.time, capacity=3)

    def test_least_recently_charged_peer_is_forgotten(self) -> None:
        """The record that was charged the longest time ago makes room.  REP-101-X"""
        for who in (A, B, C, A, D):
            self.reputations.penalize(who, ISSUE)
        points = [self.reputations.get(who).penalty_points for who in (A, B, C, D)]
        self.assertEqual(points, [20, 0, 10, 10])

    def test_banned_peer_is_not_evicted_by_charges(self) -> None:
        """Fresh identities cannot wash away a ban.  REP-101-X"""
        self.reputations.penalize(A, FATAL)
        for number in range(10, 20):
            self.reputations.penalize(peer(number), ISSUE)
        self.assertTrue(self.reputations.is_banned(A))

    def test_ban_that_ends_soonest_makes_room(self) -> None:
        """The table of bans is bounded too; a restarted ban is a long one.  REP-101-X"""
        for who in (A, B, C):
            self.reputations.penalize(who, FATAL)
            self.time.seconds += 1
        self.reputations.ban(A)
        self.reputations.penalize(D, FATAL)
        banned = [self.reputations.is_banned(who) for who in (A, B, C, D)]
        self.assertEqual(banned, [True, False, True, True])
        self.assertEqual(self.reputations.active_bans, 3)
        self.assertEqual(self.reputations.get(B).penalty_points, 0)

    def test_hosts_are_bounded_like_peers(self) -> None:
        """Charged hosts and banned hosts each have the same limit.  REP-102-X"""
        for number in range(1, 5):
            self.reputations.penalize(peer(number), FATAL, f"192.0.2.{number}")
        hosts = [self.reputations.is_host_banned(f"192.0.2.{n}") for n in range(1, 5)]
        self.assertEqual(hosts, [False, True, True, True])
        for number in range(10, 14):
            self.reputations.penalize(peer(number), VIOLATION, f"192.0.2.{number}")
        # The first of the four was forgotten, the last was not.
        self.assertFalse(self.reputations.penalize(A, VIOLATION, "192.0.2.10").ip_newly_banned)
        self.assertTrue(self.reputations.penalize(A, VIOLATION, "192.0.2.13").ip_newly_banned)

    def test_free_host_is_forgotten(self) -> None:
        """A ban that ended leaves nothing of the host, and the history of the peer.  CON-007.3"""
        self.reputations.penalize(A, FATAL, HOST)
        self.assertEqual(len(self.reputations), 2)
        self.time.seconds += 3600
        self.reputations.expire()
        self.assertEqual(len(self.reputations), 1)
        self.assertEqual(self.reputations.get(A).ban_count, 1)

    def test_default_capacity_is_ten_thousand(self) -> None:
        """10 000 records and 10 000 bans, and not one more.  REP-101-X"""
        reputations = Reputations(unix=self.time)
        for number in range(10_001):
            reputations.penalize(peer(number), ISSUE)
            reputations.penalize(peer(20_000 + number), FATAL)
        self.assertEqual(reputations.active_bans, 10_000)
        self.assertFalse(reputations.is_banned(peer(20_000)))
        self.assertTrue(reputations.is_banned(peer(20_001)))
        # The pardoned peer of the line before last took a place among the records.
        known = sum(reputations.get(peer(n)).penalty_points > 0 for n in range(10_001))
        self.assertEqual(known, 9_999)

    def test_random_use_agrees_with_a_naive_model(self) -> None:
        """Bans, points and limits as in a model that keeps plain lists.  CON-007"""
        run_state_machine_as_test(ReputationsMachine)


class _Model:
    """What the requirements say about one peer or one host."""

    def __init__(self) -> None:
        self.points = 0
        self.until = 0.0
        self.bans = 0


class ReputationsMachine(RuleBasedStateMachine):
    """Few peers on few hosts, without evictions, against the sentences of the requirements."""

    peers = [peer(number) for number in range(4)]
    hosts = ["192.0.2.1", "2001:db8::1", "127.0.0.1"]

    @initialize()
    def start(self) -> None:
        self.time = ManualTime()
        self.reputations = Reputations(unix=self.time, ban_seconds=100)
        self.peer_models = {who: _Model() for who in self.peers}
        self.host_models = {host: _Model() for host in self.hosts}

    def is_banned(self, model: _Model) -> bool:
        return self.time() < model.until

    def settle(self, model: _Model) -> None:
        if model.until and not self.is_banned(model):
            model.points, model.until = 0, 0.0

    def ban(self, model: _Model) -> None:
        model.bans += not self.is_banned(model)
        model.until = self.time() + 100

    def charge(self, model: _Model, reason: PenaltyReason) -> bool:
        self.settle(model)
        model.points += reason.points
        if model.points < 100 or self.is_banned(model):
            return False
        self.ban(model)
        return True

    @rule(
        who=st.sampled_from(peers),
        host=st.sampled_from([None, *hosts]),
        reason=st.sampled_from(PenaltyReason),
    )
    def penalize(self, who: bytes, host: str | None, reason: PenaltyReason) -> None:
        peer_id = peer(int.from_bytes(who, "big"))
        model = self.peer_models[peer_id]
        newly = self.charge(model, reason)
        ip_newly = False
        if host is not None and host != "127.0.0.1":
            host_model = self.host_models[host]
            ip_newly = self.charge(host_model, reason)
            if newly and not self.is_banned(host_model):
                self.ban(host_model)
                ip_newly = True
        assert self.reputations.penalize(peer_id, reason, host) == (model.points, newly, ip_newly)

    @rule(who=st.sampled_from(peers), host=st.sampled_from([None, *hosts]))
    def force(self, who: bytes, host: str | None) -> None:
        peer_id = peer(int.from_bytes(who, "big"))
        self.settle(self.peer_models[peer_id])
        self.ban(self.peer_models[peer_id])
        if host is not None and host != "127.0.0.1":
            self.settle(self.host_models[host])
            self.ban(self.host_models[host])
        self.reputations.ban(peer_id, host)

    @rule(seconds=st.sampled_from([1, 50, 99, 100]))
    def wait(self, seconds: int) -> None:
        self.time.seconds += seconds

    @rule()
    def expire(self) -> None:
        over = {
            who for who, model in self.peer_models.items() if 0 < model.until <= self.time.seconds
        }
        assert set(self.reputations.expire()) == over
        for model in (*self.peer_models.values(), *self.host_models.values()):
            self.settle(model)

    @invariant()
    def agrees(self) -> None:
        for who, model in self.peer_models.items():
            reputation = self.reputations.get(who)
            banned = self.is_banned(model)
            assert self.reputations.is_banned(who) == reputation.is_banned == banned
            assert reputation.ban_count == model.bans
            assert reputation.ban_expiry == (model.until if banned else None)
            assert reputation.penalty_points == (0 if model.until and not banned else model.points)
        for host, model in self.host_models.items():
            assert self.reputations.is_host_banned(host) == self.is_banned(model)
        assert self.reputations.active_bans == sum(map(self.is_banned, self.peer_models.values()))
