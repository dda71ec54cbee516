"""The file of the address book: the old one or the new one is there, whatever happens.

A shell; everything here may wait for the disk, so the node calls it in a thread.

A file that cannot be used (cut off, spoiled, of another version, larger than 64 MiB) is moved
aside and the node begins anew: it never keeps a node from starting. Only what an operator has to
mend is an error: no permission, a broken disk, another process that uses the same file.

Source: behaviour DSC-002 to DSC-002.4.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
from collections.abc import Callable
from random import Random
from typing import Final

from twisted.logger import Logger
from zope.interface import implementer

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.book_bytes import build_address_book, parse_address_book
from dig_gossip.discovery.interfaces import IAddressStore
from dig_gossip.discovery.values import AddressBook
from dig_gossip.errors import AddressManagerStore, Io
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.files import quarantine, read_at_most, write_atomically

#: Fewer entries than these cost the collector less than a millisecond.
_WORTH_EXEMPTING: Final = 5000
MAX_BOOK_BYTES: Final = 64 * 1024 * 1024


def load_address_manager(
    store: IAddressStore,
    *,
    rng: Random,
    unix: Callable[[], float],
    allow_private: bool = False,
    allow_onion: bool = False,
    is_excluded: Callable[[PeerAddress], bool] | None = None,
) -> AddressManager:
    """The manager that continues where the stored book ends, or one that begins anew.

    For the parameters see :class:`~dig_gossip.discovery.address_manager.AddressManager`.

    :raises Io: the store cannot be read.
    Cost: a second for a full book; nothing in it belongs to a thread. The garbage collector is off
    meanwhile, and a book of some size is exempt from it afterwards: it holds no cycles, and walking
    a quarter of a million objects again and again would stop the reactor for longer than all else.
    """
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        manager = _load(
            store,
            rng=rng,
            unix=unix,
            allow_private=allow_private,
            allow_onion=allow_onion,
            is_excluded=is_excluded,
        )
        # This exempts everything else as well, cycles included, so it must be worth it.
        if manager.size() >= _WORTH_EXEMPTING:
            gc.freeze()
    finally:
        if is_collecting:
            gc.enable()
    return manager


def _load(
    store: IAddressStore,
    *,
    rng: Random,
    unix: Callable[[], float],
    allow_private: bool,
    allow_onion: bool,
    is_excluded: Callable[[PeerAddress], bool] | None,
) -> AddressManager:
    book = store.load()
    if book is not None:
        try:
            return AddressManager.restore(
                book,
                rng=rng,
                unix=unix,
                allow_private=allow_private,
                allow_onion=allow_onion,
                is_excluded=is_excluded,
            )
        except AddressManagerStore as error:
            store.set_aside(str(error))
    return AddressManager(
        rng=rng,
        unix=unix,
        allow_private=allow_private,
        allow_onion=allow_onion,
        is_excluded=is_excluded,
    )


@implementer(IAddressStore)
class FileAddressStore:
    """An address book in one file, for one process at a time.

    The claim is a lock on ``<path>.lock``, which ends with the process, however it ends.

    :param path: of the file; missing folders are made.
    :param unix: Unix seconds, for the name of a file that is moved aside.
    Bounded: files of 64 MiB; three spoiled files are kept.
    """

    _log = Logger()

    def __init__(self, path: str, unix: Callable[[], float]) -> None:
        self._path = os.path.abspath(path)
        self._unix = unix
        self._lock: int | None = None

    def open(self) -> None:
        """Claim the file, and clear away what a killed process left half-written.

        :raises Io: another process has it, or its folder cannot be written.
        """
        if self._lock is not None:
            return
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Io(f"{self._path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise Io(f"{self._path} is in use by another process") from error
        self._lock = lock
        self._remove_leftovers()

    def close(self) -> None:
        """Give the file back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> AddressBook | None:
        """Read the book; None if there is no file, an empty one, or one that is of no use.

        :raises Io: the file may not be read.
        Cost: a third of a second for a full book.
        """
        try:
            data = read_at_most(self._path, MAX_BOOK_BYTES)
            if not data:
                return None
            return parse_address_book(data)
        except (AddressManagerStore, ValueError) as error:
            self.set_aside(str(error))
        except OSError as error:
            raise Io(f"{self._path}: {error.strerror}") from error
        return None

    def set_aside(self, reason: str) -> None:
        """Move a file that cannot be used out of the way, and say so.

        :raises Io: it cannot be moved.
        """
        try:
            moved = quarantine(self._path, self._unix())
        except OSError as error:
            raise Io(f"{self._path}: {error.strerror}") from error
        self._log.warn(
            "address book {path} is of no use, moved to {moved}: {reason}",
            event="address_book_spoiled",
            path=self._path,
            moved=moved,
            reason=reason,
        )

    def save(self, book: AddressBook) -> None:
        """Replace the file.

        :raises Io: it cannot be written; the old file is as it was.
        Cost: a quarter of a second for a full book, and the disk's time.
        """
        try:
            write_atomically(self._path, build_address_book(book))
        except OSError as error:
            raise Io(f"{self._path}: {error.strerror}") from error

    def _remove_leftovers(self) -> None:
        folder, name = os.path.split(self._path)
        for entry in os.listdir(folder):
            # As tempfile names them, in write_atomically.
            if entry.startswith(f".{name}.") and len(entry) == len(name) + 10:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(folder, entry))


@implementer(IAddressStore)
class MemoryAddressStore:
    """No file at all: ``peers_file_path`` is empty. What is saved is there until the end."""

    def __init__(self) -> None:
        self._book: AddressBook | None = None

    def open(self) -> None:
        """Nothing to claim."""

    def close(self) -> None:
        """Nothing to give back."""

    def load(self) -> AddressBook | None:
        """What was saved last."""
        return self._book

    def set_aside(self, reason: str) -> None:
        """Forget it."""
        self._book = None

    def save(self, book: AddressBook) -> None:
        """Keep the book."""
        self._book = book
