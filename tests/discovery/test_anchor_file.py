"""The anchors on disk."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.anchor_file import AnchorFile
from dig_gossip.types.peer import PeerAddress

A, B = PeerAddress("192.0.2.1", 9444), PeerAddress("2001:db8::1", 9444)


class AnchorFileTests(SynchronousTestCase):
    """A convenience that never fails a node."""

    def test_what_is_saved_is_loaded(self) -> None:
        """In a file that only its owner reads.  DSC-006"""
        path = self.mktemp()
        AnchorFile(path).save((A, B))
        self.assertEqual(AnchorFile(path).load(), (A, B))
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)

    def test_without_a_path_they_live_in_memory(self) -> None:
        """Nothing is written.  DSC-006"""
        file = AnchorFile("")
        self.assertEqual(file.load(), ())
        file.save((A,))
        self.assertEqual((file.anchors, file.load()), ((A,), (A,)))

    def test_nothing_is_written_twice(self) -> None:
        """The same anchors leave the file alone.  DSC-006"""
        path = Path(self.mktemp())
        file = AnchorFile(str(path))
        file.save((A,))
        path.unlink()
        file.save((A,))
        self.assertFalse(path.exists())
        file.save((B,))
        self.assertTrue(path.exists())

    def test_a_spoiled_or_absent_file_is_none(self) -> None:
        """It is said once, and nothing more.  DSC-006"""
        path = Path(self.mktemp())
        self.assertEqual(AnchorFile(str(path)).load(), ())
        for content in (b"", b"\xff", b"{}", bytes(5000)):
            path.write_bytes(content)
            with capturedLogs() as logs:
                self.assertEqual(AnchorFile(str(path)).load(), ())
            self.assertEqual([log["event"] for log in logs], ["anchor_file_failed"])
            self.assertEqual([log["log_level"] for log in logs], [LogLevel.info])

    def test_a_disk_that_does_not_take_it_is_reported_once(self) -> None:
        """Until it works again.  DSC-006"""
        folder = Path(self.mktemp())
        folder.write_bytes(b"")  # no folder can be made here
        file = AnchorFile(str(folder / "anchors"))
        with capturedLogs() as logs:
            file.save((A,))
            file.save((B,))
        self.assertEqual(len(logs), 1)
        folder.unlink()
        file.save((A, B))
        self.assertEqual(AnchorFile(str(folder / "anchors")).load(), (A, B))
