"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.util.files import quarantine, read_at_most, write_atomically


class FileTests(SynchronousTestCase):
    """A folder of its own for each test."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.path = self.folder / "deep" / "peers.dat"

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path.parent))


class WriteTests(FileTests):
    """``write_atomically``."""

    def test_a_file_is_made_with_its_folders(self) -> None:
        """For nobody else to read.  CNC-004.1"""
        write_atomically(str(self.path), b"one")
        self.assertEqual(self.path.read_bytes(), b"one")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_a_file_can_be_for_everybody(self) -> None:
        """Also if it replaces a private one.  CNC-004.1"""
        write_atomically(str(self.path), b"one")
        write_atomically(str(self.path), b"two", mode=0o644)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o644)

    def test_a_file_is_replaced(self) -> None:
        """Nothing else is left in the folder.  CNC-004.1"""
        write_atomically(str(self.path), b"one")
        write_atomically(str(self.path), b"two")
        self.assertEqual((self.path.read_bytes(), self.names()), (b"two", ["peers.dat"]))

    def test_a_bare_name_is_a_file_here(self) -> None:
        """As the default of ``peers_file_path`` is.  CFG-101-X"""
        self.folder.mkdir(parents=True)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        write_atomically("peers.dat", b"here")
        self.assertEqual(read_at_most("peers.dat", 4), b"here")

    def test_a_failure_leaves_the_old_file_and_no_other(self) -> None:
        """A full disk costs nothing that was there.  CNC-004.1"""
        write_atomically(str(self.path), b"old")
        for step in ("fsync", "replace"):
            with mock.patch.object(os, step, side_effect=OSError(28, "No space left on device")):
                with self.assertRaises(OSError):
                    write_atomically(str(self.path), b"new")
            self.assertEqual((self.path.read_bytes(), self.names()), (b"old", ["peers.dat"]))


class ReadTests(FileTests):
    """``read_at_most``."""

    def test_no_file_is_no_error(self) -> None:
        """The first start.  REP-104-X"""
        self.assertIsNone(read_at_most(str(self.path), 10))

    def test_a_file_that_is_too_large_is_refused(self) -> None:
        """Before it is in memory.  design D14"""
        write_atomically(str(self.path), bytes(11))
        self.assertEqual(read_at_most(str(self.path), 11), bytes(11))
        with self.assertRaises(ValueError):
            read_at_most(str(self.path), 10)


class QuarantineTests(FileTests):
    """``quarantine``."""

    def test_a_spoiled_file_is_moved_aside(self) -> None:
        """For whoever wants to know what happened.  REP-104-X"""
        write_atomically(str(self.path), b"spoiled")
        moved = quarantine(str(self.path), 1700000000.9)
        self.assertEqual(Path(moved).read_bytes(), b"spoiled")
        self.assertEqual(self.names(), ["peers.dat.corrupt-1700000000"])

    def test_the_newest_three_are_kept(self) -> None:
        """By their number, not by their spelling; other files stay.  design D14"""
        self.path.parent.mkdir(parents=True)
        for name in ("peers.dat.corrupt-me", "peers.dat.corrupt-"):
            (self.path.parent / name).touch()
        for unix in (9, 100, 20, 3000):
            write_atomically(str(self.path), b"spoiled")
            quarantine(str(self.path), unix)
        self.assertEqual(
            self.names(),
            [
                "peers.dat.corrupt-",
                *(f"peers.dat.corrupt-{unix}" for unix in (100, 20, 3000)),
                "peers.dat.corrupt-me",
            ],
        )
