"""Bans across restarts: the values, the text, the file."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock as FakeReactor
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import PenaltyReason
from dig_gossip.connection.ban_file import BanFile
from dig_gossip.connection.ban_list import Bans, HostBan, PeerBan
from dig_gossip.connection.reputation import Reputations
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.util.clock import Clock
from tests.connection import ManualTime, peer
from tests.network_case import NetworkCase

FATAL = PenaltyReason.INVALID_BLOCK
A, B, C, D = (peer(number) for number in range(1, 5))

hosts = st.ip_addresses(v=4).map(str) | st.sampled_from(("2001:db8::/64", "node.example"))
numbers = st.integers(0, 10**15 - 1)
bans = st.builds(
    Bans,
    peers=st.lists(
        st.builds(
            PeerBan,
            peer_id=st.integers(0, 50).map(peer),
            expiry=numbers,
            count=numbers,
            reason=st.none() | st.sampled_from(PenaltyReason),
            host=st.none() | hosts,
        ),
        max_size=5,
    ).map(tuple),
    hosts=st.lists(st.builds(HostBan, host=hosts, expiry=numbers), max_size=5).map(tuple),
)
LINES = bytes(
    Bans(
        peers=(PeerBan(peer_id=A, expiry=4600, reason=FATAL, host="192.0.2.1"),),
        hosts=(HostBan(host="192.0.2.1", expiry=4600),),
    )
)


class TextTests(SynchronousTestCase):
    """What stands in the file."""

    def test_a_ban_is_a_line(self) -> None:
        """An operator can read it.  REP-104-X"""
        self.assertEqual(
            LINES.decode().splitlines(),
            [
                "dig-gossip bans 1",
                f"peer {A.hex()} 4600 1 invalid_block 192.0.2.1",
                "host 192.0.2.1 4600",
                "end",
            ],
        )

    @given(bans)
    def test_what_is_written_is_read(self, written: Bans) -> None:
        """Nothing is lost on the way.  REP-104-X"""
        self.assertEqual(Bans.from_bytes(bytes(written)), written)

    @given(st.binary(max_size=300))
    def test_anything_else_is_refused(self, data: bytes) -> None:
        """Bytes of any kind decode or are spoiled, nothing else happens.  design D14"""
        for text in (data, b"dig-gossip bans 1\n" + data + b"\nend\n"):
            try:
                again = Bans.from_bytes(text)
            except ValueError:
                continue
            self.assertEqual(Bans.from_bytes(bytes(again)), again)

    @given(st.integers(0, len(LINES) - 1), st.binary(max_size=3))
    def test_a_damaged_file_is_refused_or_says_something_else(self, at: int, noise: bytes) -> None:
        """One that was cut off is never half a list.  REP-104-X"""
        with self.assertRaises(ValueError):
            Bans.from_bytes(LINES[:at])
        try:
            Bans.from_bytes(LINES[:at] + noise + LINES[at + 1 :])
        except ValueError:
            pass

    def test_a_host_that_is_no_word_is_left_out(self) -> None:
        """It could not be read again.  REP-104-X"""
        written = Bans(
            peers=(PeerBan(peer_id=A, expiry=1, host="a b"),),
            hosts=(HostBan(host="a\nb", expiry=1), HostBan(host="-", expiry=1)),
        )
        self.assertEqual(
            Bans.from_bytes(bytes(written)), Bans(peers=(PeerBan(peer_id=A, expiry=1),))
        )


class RestoreTests(SynchronousTestCase):
    """``Reputations.bans`` and ``restore``."""

    def setUp(self) -> None:
        self.time = ManualTime()
        self.before = Reputations(unix=self.time)
        self.after = Reputations(unix=self.time)

    def restart(self) -> int:
        return self.after.restore(Bans.from_bytes(bytes(self.before.bans())))

    def test_a_ban_goes_on_until_its_time(self) -> None:
        """Of the id and of the host, IPv6 by /64.  REP-104-X, CON-007.1"""
        self.before.penalize(A, FATAL, "2001:db8::1")
        self.time.seconds += 1000
        self.assertEqual(self.restart(), 2)
        self.assertTrue(self.after.is_banned(A))
        self.assertTrue(self.after.is_host_banned("2001:db8::ffff"))
        self.assertEqual(self.after.get(A).ban_expiry, 4600)
        self.assertEqual(self.after.get(A).last_penalty_reason, FATAL)
        self.time.seconds = 4600
        self.assertFalse(self.after.is_banned(A))
        self.assertFalse(self.after.is_host_banned("2001:db8::1"))
        self.assertEqual(self.after.expire(), [A])
        self.after.penalize(A, FATAL)
        self.assertEqual(self.after.get(A).ban_count, 2)

    def test_what_is_over_stays_over(self) -> None:
        """Neither ids nor hosts; and points alone are not kept.  REP-104-X"""
        self.before.penalize(A, FATAL, "192.0.2.1")
        self.before.penalize(B, PenaltyReason.SPAM, "192.0.2.2")
        stored = self.before.bans()
        self.time.seconds = 4600
        self.assertEqual((self.after.restore(stored), self.restart()), (0, 0))
        self.assertEqual(len(self.after), 0)

    def test_unbanning_after_a_restart_frees_the_host(self) -> None:
        """It is remembered which host was banned with whom.  API-002.10"""
        self.before.penalize(A, FATAL, "192.0.2.1")
        self.restart()
        self.assertTrue(self.after.unban(A))
        self.assertFalse(self.after.is_host_banned("192.0.2.1"))

    def test_no_stored_ban_outlasts_a_new_one(self) -> None:
        """A clock that was wrong, or a file that was edited.  REP-104-X"""
        self.after.restore(Bans(peers=(PeerBan(peer_id=A, expiry=10**14),)))
        self.assertEqual(self.after.get(A).ban_expiry, 4600)

    def test_loopback_is_never_banned(self) -> None:
        """Whatever the file says.  CON-007.1"""
        stored = [HostBan(host=host, expiry=4000) for host in ("127.0.0.1", "::1", "localhost")]
        self.assertEqual(self.after.restore(Bans(hosts=tuple(stored))), 0)
        self.assertEqual(self.after.active_host_bans, 0)

    def test_the_table_keeps_its_bound(self) -> None:
        """Of a longer list those that last longest.  REP-101-X"""
        after = Reputations(unix=self.time, capacity=2)
        stored = [PeerBan(peer_id=peer(n), expiry=4000 - n) for n in range(5)]
        self.assertEqual(after.restore(Bans(peers=tuple(stored))), 2)
        self.assertEqual([after.is_banned(peer(n)) for n in range(5)], [True] * 2 + [False] * 3)

    @given(bans)
    def test_restoring_anything_keeps_the_invariants(self, stored: Bans) -> None:
        """Nobody is banned for longer than an hour, nor twice.  REP-101-X"""
        after = Reputations(unix=self.time)
        after.restore(stored)
        after.restore(stored)
        again = after.bans()
        self.assertLessEqual(len(again.peers), len({ban.peer_id for ban in stored.peers}))
        expiries = [ban.expiry for ban in again.peers] + [ban.expiry for ban in again.hosts]
        self.assertTrue(all(1000 < expiry <= 4600 for expiry in expiries))
        self.time.seconds, was = 4601, self.time.seconds
        after.expire()
        self.assertEqual(after.bans(), Bans())
        self.time.seconds = was


class FileTests(SynchronousTestCase):
    """``BanFile``."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.reactor.monotonic = self.reactor.unix = self.reactor.seconds  # type: ignore[attr-defined]
        self.reactor.advance(1000)
        self.path = Path(self.mktemp()) / "peers.dat.bans"
        self.reputations, self.file = self.made()

    def made(self, path: str | None = None) -> tuple[Reputations, BanFile]:
        reputations = Reputations(unix=self.reactor.seconds)
        where = str(self.path) if path is None else path
        return reputations, BanFile(where, reputations, Clock(self.reactor))

    def test_a_file_is_written_when_there_is_something_to_say(self) -> None:
        """Not before the first ban, and not again until something changes.  REP-104-X"""
        self.file.load()
        self.file.save()
        self.assertFalse(self.path.exists())
        self.reputations.penalize(A, FATAL)
        self.file.save()
        written = self.path.stat().st_ino
        self.file.save()
        self.assertEqual(self.path.stat().st_ino, written)
        self.reactor.advance(3600)
        self.reputations.expire()
        self.file.save()
        self.assertEqual(self.path.read_text(), "dig-gossip bans 1\nend\n")

    def test_a_ban_survives(self) -> None:
        """Written by one life, enforced by the next, not written again.  REP-104-X"""
        self.reputations.penalize(A, FATAL, "192.0.2.1")
        self.file.save()
        written = self.path.stat().st_ino
        reputations, file = self.made()
        file.load()
        self.assertTrue(reputations.is_banned(A))
        self.assertTrue(reputations.is_host_banned("192.0.2.1"))
        file.save()
        self.assertEqual(self.path.stat().st_ino, written)

    def test_without_a_path_nothing_is_written(self) -> None:
        """Memory only.  REP-104-X"""
        reputations, file = self.made("")
        file.load()
        reputations.penalize(A, FATAL)
        file.save()
        self.assertFalse(self.path.parent.exists())

    def test_a_spoiled_file_is_moved_aside(self) -> None:
        """The node starts, nobody is banned, and the file can be looked at.  REP-104-X"""
        self.path.parent.mkdir()
        for content in (b"\xff", b"dig-gossip bans 2\nend\n", b"dig-gossip bans 1\nhost a\nend\n"):
            self.path.write_bytes(content)
            self.file.load()
            self.assertEqual([path.read_bytes() for path in self.path.parent.iterdir()], [content])
            self.assertFalse(self.path.exists())
        self.assertEqual(self.reputations.bans(), Bans())

    def test_a_disk_that_fails_is_no_reason_to_stop(self) -> None:
        """Saving is tried again, loading goes on without.  REP-104-X"""
        self.reputations.penalize(A, FATAL)
        with mock.patch.object(os, "replace", side_effect=OSError(28, "No space left")):
            self.file.save()
            self.file.save()
        self.assertFalse(self.path.exists())
        self.file.save()
        self.assertTrue(self.path.exists())
        self.path.unlink()
        self.path.mkdir()
        reputations, file = self.made()
        file.load()
        self.assertEqual(reputations.bans(), Bans())


class NodeTests(NetworkCase):
    """Whole nodes."""

    def test_a_banned_peer_stays_out_after_a_restart(self) -> None:
        """Before TLS from its address, and by its id from any other.  REP-104-X, CON-007.1"""
        path = self.mktemp()
        first = self.network.node(peers_file_path=path)
        self.network.start()
        culprit = HostilePeer(self.network)
        culprit.join(first.address)
        self.network.advance(1)
        self.network.run(first.handle.ban_peer(culprit.peer_id, FATAL))
        self.assertFalse(Path(f"{path}.bans").exists())
        self.network.run(first.service.stop())
        second = self.network.node(peers_file_path=path)
        self.network.start()
        culprit.join(second.address)
        self.network.advance(1)
        self.assertEqual(self.counter(second, "accept_refused.ip_banned"), 1)
        elsewhere = HostilePeer(self.network, identity=culprit.identity)
        elsewhere.join(second.address)
        self.network.advance(1)
        assert elsewhere.closed is not None
        self.assertEqual((elsewhere.closed.code, self.peer_ids(second)), (1008, set()))

    def test_bans_are_saved_while_the_node_runs(self) -> None:
        """With the cleanup, so that a crash forgets half a minute at most.  REP-104-X"""
        path = self.mktemp()
        node = self.network.node(peers_file_path=path)
        self.network.start()
        self.network.run(node.handle.ban_peer(A, FATAL))
        self.network.advance(31)
        self.assertIn(A.hex(), Path(f"{path}.bans").read_text())
