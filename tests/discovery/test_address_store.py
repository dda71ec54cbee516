"""The file of the address book."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.address_store import (
    MAX_BOOK_BYTES,
    FileAddressStore,
    MemoryAddressStore,
    load_address_manager,
)
from dig_gossip.discovery.book_bytes import build_address_book
from dig_gossip.discovery.interfaces import IAddressStore
from dig_gossip.discovery.values import AddressBook, KnownAddress
from dig_gossip.errors import Io
from dig_gossip.types.peer import PeerAddress

NOW = 1_700_000_000
PROJECT = Path(__file__).resolve().parents[2]


def manager(count: int = 100) -> AddressManager:
    """A book with some entries."""
    made = AddressManager(rng=Random(4), unix=lambda: NOW, key=bytes(range(32)))
    made.add_to_new_table(
        (KnownAddress(PeerAddress(f"20.{n % 250}.{n // 250}.1", 9444), NOW) for n in range(count)),
        PeerAddress("9.9.9.9", 9444),
    )
    made.mark_good(PeerAddress("20.1.0.1", 9444))
    return made


class StoreCase(SynchronousTestCase):
    """A folder of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.path = self.folder / "deep" / "peers.dat"
        self.store = self.make()

    def make(self) -> FileAddressStore:
        """Another store of the same file."""
        store = FileAddressStore(str(self.path), lambda: NOW)
        self.addCleanup(store.close)
        return store

    def names(self) -> list[str]:
        """What is in the folder, but for the lock."""
        return sorted(name for name in os.listdir(self.path.parent) if not name.endswith(".lock"))

    def write(self, data: bytes) -> None:
        """Put something where the book belongs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(data)

    def load_manager(self, store: IAddressStore | None = None) -> AddressManager:
        """The manager that a node would have."""
        return load_address_manager(store or self.store, rng=Random(4), unix=lambda: NOW)


class SavingTests(StoreCase):
    """What is saved is found again."""

    def test_saved_book_is_loaded(self) -> None:
        """Across two lives of a node, exactly.  DSC-002, DSC-002.2"""
        self.store.open()
        book = manager().snapshot()
        self.store.save(book)
        self.store.close()
        again = self.make()
        again.open()
        self.assertEqual(again.load(), book)
        self.assertEqual(self.load_manager(again).snapshot(), book)
        self.assertEqual(self.names(), ["peers.dat"])

    def test_missing_or_empty_file_begins_anew(self) -> None:
        """Without a warning, and without moving anything.  DSC-002.1"""
        with capturedLogs() as logs:
            self.assertIsNone(self.store.load())
            self.write(b"")
            self.assertIsNone(self.store.load())
            self.assertEqual(self.load_manager().size(), 0)
        self.assertEqual((list(logs), self.names()), ([], ["peers.dat"]))

    def test_collector_is_as_it_was(self) -> None:
        """Loading turns it off for a moment, also when it fails.  DSC-002.3"""
        self.addCleanup(gc.enable)
        self.write(b"")
        for is_on in (True, False):
            (gc.enable if is_on else gc.disable)()
            self.load_manager()
            self.assertEqual(gc.isenabled(), is_on)
        gc.enable()
        with mock.patch.object(self.store, "load", side_effect=Io("broken disk")):
            self.assertRaises(Io, self.load_manager)
        self.assertTrue(gc.isenabled())

    def test_failed_save_keeps_the_old_file(self) -> None:
        """A full disk costs the new book only.  DSC-002.3"""
        book = manager().snapshot()
        self.store.save(book)
        with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
            error = self.assertRaises(Io, self.store.save, manager(3).snapshot())
        self.assertIn("No space left", str(error))
        self.assertEqual(self.store.load(), book)
        self.assertEqual(self.names(), ["peers.dat"])

    def test_both_stores_keep_the_contract(self) -> None:
        """Without a path nothing touches a disk.  DSC-002.4"""
        memory = MemoryAddressStore()
        for store in (self.store, memory):
            self.assertTrue(verifyObject(IAddressStore, store))
            store.open()
            self.assertIsNone(store.load())
            book = manager().snapshot()
            store.save(book)
            self.assertEqual(store.load(), book)
            store.set_aside("no reason")
            self.assertIsNone(store.load())
            store.close()
        with (
            mock.patch("builtins.open", side_effect=AssertionError),
            mock.patch("os.open", side_effect=AssertionError),
        ):
            memory.open()
            memory.save(manager().snapshot())
            self.assertEqual(self.load_manager(memory).size_tried, 1)


class SpoiledFileTests(StoreCase):
    """A file that cannot be used never keeps a node from starting."""

    def spoiled(self, data: bytes) -> None:
        """Loading moves the file aside, says so, and begins anew."""
        self.write(data)
        with capturedLogs() as logs:
            self.assertEqual(self.load_manager().size(), 0)
        self.assertEqual([log["log_namespace"].rpartition(".")[2] for log in logs],
                         ["FileAddressStore"])  # fmt: skip
        self.assertEqual([log["event"] for log in logs], ["address_book_spoiled"])
        self.assertFalse(self.path.exists())
        moved = self.path.parent / f"peers.dat.corrupt-{NOW}"
        self.assertEqual(moved.stat().st_size, len(data))
        moved.unlink()

    def test_spoiled_files_are_moved_aside(self) -> None:
        """Junk, a cut, a flipped bit, a newer version, another program's file.  DSC-002.1"""
        data = build_address_book(manager().snapshot())
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        newer = data[:8] + b"\x00\x02" + data[10:]
        for content in (b"x", data[:-1], data[: len(data) // 2], bytes(flipped), newer, bytes(500)):
            self.spoiled(content)

    def test_broken_invariants_are_found(self) -> None:
        """The checksum is right, but two entries claim one slot.  DSC-002.1, ADR-021-X"""
        book = manager().snapshot()
        entries = list(book.entries)
        entries[3] = entries[3]._replace(slots=entries[4].slots)
        self.spoiled(build_address_book(book._replace(entries=tuple(entries))))

    def test_file_that_is_too_large_is_not_read(self) -> None:
        """64 MiB and a byte.  DSC-002.1"""
        self.write(b"")
        os.truncate(self.path, MAX_BOOK_BYTES + 1)
        self.assertIsNone(self.store.load())
        self.assertEqual(self.names(), [f"peers.dat.corrupt-{NOW}"])

    def test_file_that_may_not_be_read_is_an_error(self) -> None:
        """An operator has to know; nothing is moved.  DSC-002.1"""
        self.path.mkdir(parents=True)
        self.assertRaises(Io, self.store.load)
        self.assertTrue(self.path.exists())
        with mock.patch("os.replace", side_effect=PermissionError(13, "Permission denied")):
            self.assertRaises(Io, self.store.set_aside, "spoiled")

    def test_folder_that_cannot_be_made_is_an_error(self) -> None:
        """With the reason.  DSC-002.4"""
        self.write(b"")
        store = FileAddressStore(str(self.path / "below" / "peers.dat"), lambda: NOW)
        error = self.assertRaises(Io, store.open)
        self.assertIn("Not a directory", str(error))


class ClaimTests(StoreCase):
    """One process a file."""

    def test_second_claim_is_refused(self) -> None:
        """Two services must not overwrite each other.  DSC-002.4"""
        other = self.make()
        self.store.open()
        self.store.open()
        error = self.assertRaises(Io, other.open)
        self.assertIn("in use by another process", str(error))
        self.store.close()
        self.store.close()
        other.open()

    def test_claim_ends_with_the_process(self) -> None:
        """A killed node leaves no stale lock and no half-written files.  DSC-002.4, DSC-002"""
        self.path.parent.mkdir(parents=True)
        program = (
            "import os, signal, sys\n"
            "from dig_gossip.discovery.address_store import FileAddressStore\n"
            "FileAddressStore(sys.argv[1], lambda: 0.0).open()\n"
            "open(os.path.join(os.path.dirname(sys.argv[1]), '.peers.dat.abcdefgh'), 'w').close()\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        command = [sys.executable, "-c", program, str(self.path.absolute())]
        subprocess.run(command, cwd=PROJECT, check=False)
        bystander = self.path.parent / ".peers.dat.backup"
        bystander.touch()
        self.assertEqual(self.names(), [".peers.dat.abcdefgh", ".peers.dat.backup"])
        self.store.open()
        self.assertEqual(self.names(), [".peers.dat.backup"])


class KilledTests(SynchronousTestCase):
    """SIGKILL in the middle of a save."""

    def test_old_or_new_book_is_there(self) -> None:
        """A few kills; «make kill-saves» does a thousand.  DSC-002"""
        command = [sys.executable, "-m", "tests.discovery.kill_saves", "25"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("25 kills", done.stdout)


class ThreadTests(TestCase):
    """The node does all of it in a thread."""

    async def test_save_and_load_beside_the_reactor(self) -> None:
        """The snapshot is a value: the book goes on changing meanwhile.  DSC-002.3"""
        store = FileAddressStore(str(Path(self.mktemp()) / "peers.dat"), lambda: NOW)
        store.open()
        self.addCleanup(store.close)
        book = manager()
        snapshot = book.snapshot()
        saving: Deferred[None] = deferToThread(store.save, snapshot)
        book.mark_good(PeerAddress("20.2.0.1", 9444))
        await saving
        loaded: AddressBook | None = await deferToThread(store.load)
        self.assertEqual(loaded, snapshot)
        self.assertNotEqual(book.snapshot(), snapshot)
