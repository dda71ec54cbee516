"""The AS table beside a node: loaded in a thread, and again when it changes."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from dig_gossip.discovery.as_table_file import AsTableFile
from dig_gossip.discovery.diversity import Diversity
from dig_gossip.errors import Io
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock


class AsTableFileTests(TestCase):
    """With the reactor's own threads."""

    timeout = 60

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text("20.0.0.0/8 7\n")
        self.diversity = Diversity(target=8)
        self.file = AsTableFile(str(self.path), Clock(reactor), self.diversity)

    def number(self, host: str = "20.1.0.1") -> int | None:
        """What the table in use says."""
        lookup = self.diversity.as_lookup
        assert lookup is not None
        return lookup(PeerAddress(host, 1))

    async def test_the_table_is_loaded_once(self) -> None:
        """A file that stays as it is stays unread.  DSC-010"""
        self.file.check()
        with capturedLogs() as logs:
            await self.file.refresh()
            await self.file.refresh()
        self.assertEqual([log["event"] for log in logs], ["as_table_loaded"])
        self.assertEqual((self.number(), self.number("21.0.0.1")), (7, None))

    async def test_a_file_that_changes_is_read_again(self) -> None:
        """Without a restart.  DSC-010"""
        await self.file.refresh()
        self.path.write_text("20.0.0.0/8 77\n")
        await self.file.refresh()
        self.assertEqual(self.number(), 77)

    async def test_a_bad_file_leaves_the_table_that_there_was(self) -> None:
        """It is reported once, not every half minute.  DSC-010"""
        await self.file.refresh()
        self.path.write_text("this is no table\n")
        with capturedLogs() as logs:
            await self.file.refresh()
            await self.file.refresh()
        self.assertEqual([log["event"] for log in logs], ["as_table_not_loaded"])
        self.assertEqual(self.number(), 7)

    async def test_a_file_that_is_gone_leaves_it_too(self) -> None:
        """Somebody may be about to replace it.  DSC-010"""
        await self.file.refresh()
        self.path.unlink()
        await self.file.refresh()
        self.assertEqual(self.number(), 7)

    async def test_a_file_that_is_not_there_is_an_error_at_the_start(self) -> None:
        """A typing error is noticed at once; no path is none.  DSC-010"""
        self.path.unlink()
        self.assertRaises(Io, self.file.check)
        none = AsTableFile("", Clock(reactor), self.diversity)
        none.check()
        await none.refresh()
        self.assertIsNone(self.diversity.as_lookup)
