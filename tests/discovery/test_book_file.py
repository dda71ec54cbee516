"""The address book beside a node: claimed, loaded, saved in threads, given back."""

from __future__ import annotations

import os
import random
from pathlib import Path
from threading import Event
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.book_file import BookFile
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.errors import Io
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock


class BookFileTests(TestCase):
    """With the reactor's own threads."""

    timeout = 60

    def file(self, path: str) -> BookFile:
        """A claim on a path."""
        return BookFile(
            path,
            Clock(reactor),
            random.Random(1),
            allow_private=False,
            allow_onion=False,
            is_excluded=lambda _address: False,
        )

    async def filled(self, file: BookFile, count: int) -> AddressManager:
        """A loaded book with addresses."""
        book = await file.load()
        book.add_to_new_table(
            [KnownAddress(PeerAddress(f"20.{n}.0.1", 9444), 0) for n in range(count)], "seed"
        )
        return book

    async def test_what_is_saved_is_loaded(self) -> None:
        """Entries and their tables.  DSC-002.2"""
        path = self.mktemp()
        file = self.file(path)
        file.open()
        book = await self.filled(file, 50)
        book.mark_good(PeerAddress("20.7.0.1", 9444))
        await file.save(book)
        file.close()
        again = self.file(path)
        again.open()
        loaded = await again.load()
        again.close()
        self.assertEqual(loaded.size(), book.size())
        self.assertEqual(loaded.size_tried, 1)

    async def test_without_a_path_nothing_is_written(self) -> None:
        """The book lives in memory.  DSC-002.4"""
        before = set(os.listdir("."))
        file = self.file("")
        file.open()
        book = await self.filled(file, 5)
        await file.save(book)
        file.close()
        self.assertEqual(set(os.listdir(".")), before)

    async def test_one_node_at_a_time(self) -> None:
        """The second is told, and may have it afterwards.  DSC-002.4"""
        path = self.mktemp()
        one, two = self.file(path), self.file(path)
        one.open()
        error = self.assertRaises(Io, two.open)
        self.assertIn("in use", str(error))
        one.close()
        two.open()
        two.close()

    async def test_a_file_that_may_not_be_read_is_an_error(self) -> None:
        """The node does not start, and does not keep the claim.  DSC-002.1"""
        path = Path(self.mktemp())
        path.mkdir()
        file = self.file(str(path))
        self.assertRaises(Io, file.open)
        path.rmdir()
        file.open()
        file.close()

    async def test_a_spoiled_file_is_moved_aside(self) -> None:
        """And the book begins anew.  DSC-002.1"""
        path = Path(self.mktemp())
        path.write_bytes(b"what is this?")
        file = self.file(str(path))
        file.open()
        with capturedLogs() as logs:
            book = await file.load()
        file.close()
        self.assertEqual(book.size(), 0)
        self.assertIn("address_book_spoiled", [log.get("event") for log in logs])

    async def test_a_save_that_fails_is_reported(self) -> None:
        """The node goes on, and tries again later.  DSC-002.3"""
        file = self.file("")
        book = await self.filled(file, 1)

        def full(_book: object) -> None:
            raise Io("no space left")

        self.patch(file._store, "save", full)
        with capturedLogs() as logs:
            await file.save(book)
        self.assertEqual([log.get("event") for log in logs], ["address_book_not_saved"])

    async def test_a_mistake_of_ours_is_not_hidden(self) -> None:
        """Whoever waits hears of it.  style §7.2"""
        file = self.file("")
        book = await self.filled(file, 1)
        self.patch(file._store, "save", lambda _book: 1 / 0)
        with self.assertRaises(ZeroDivisionError):
            await file.save(book)

    async def test_whoever_gives_up_holds_up_the_next(self) -> None:
        """A thread cannot be stopped: two never write at once.  CNC-102-X"""
        file = self.file("")
        book = await self.filled(file, 1)
        may_go, running, most = Event(), [0], [0]

        def slow(_book: Any) -> None:
            running[0] += 1
            most[0] = max(most[0], running[0])
            may_go.wait(30)
            running[0] -= 1

        self.patch(file._store, "save", slow)
        first, second = file.save(book), file.save(book)
        first.cancel()
        with self.assertRaises(CancelledError):
            await first
        may_go.set()
        await second
        self.assertEqual((running, most), ([0], [1]))
