"""The address book's life beside the node: opened, loaded, saved, given back.

What takes long happens in a thread, one thing at a time. A save that fails is tried again at the
next occasion. Source: behaviour DSC-002.3, DSC-002.4.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from twisted.internet.defer import DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.address_store import (
    FileAddressStore,
    MemoryAddressStore,
    load_address_manager,
)
from dig_gossip.discovery.interfaces import IAddressStore
from dig_gossip.errors import GossipError, Io
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import Observers, handled, returns_deferred
from dig_gossip.util.threads import in_thread

T = TypeVar("T")
P = ParamSpec("P")


class BookFile:
    """Keeps one address book.

    :param path: empty for memory only.
    """

    _log = Logger()

    def __init__(
        self,
        path: str,
        clock: Clock,
        rng: random.Random,
        *,
        allow_private: bool,
        allow_onion: bool,
        is_excluded: Callable[[PeerAddress], bool],
    ) -> None:
        self._path = path
        self._clock = clock
        self._rng = rng
        self._allow_private = allow_private
        self._allow_onion = allow_onion
        self._is_excluded = is_excluded
        self._store: IAddressStore = (
            FileAddressStore(path, clock.unix) if path else MemoryAddressStore()
        )
        self._turn = DeferredLock()

    def open(self) -> None:
        """Claim the file.

        :raises Io: another node has it, or it may not be read.
        """
        self._store.open()
        if not self._path:
            return
        try:
            with open(self._path, "rb"):
                pass
        except FileNotFoundError:
            pass
        except OSError as error:
            self._store.close()
            raise Io(f"{self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Give the file back."""
        self._store.close()

    @returns_deferred
    async def load(self) -> AddressManager:
        """Make a manager of what the file holds, or a new one."""
        return await self._in_turn(self._load)

    def _load(self) -> AddressManager:
        return load_address_manager(
            self._store,
            rng=self._rng,
            unix=self._clock.unix,
            allow_private=self._allow_private,
            allow_onion=self._allow_onion,
            is_excluded=self._is_excluded,
        )

    @returns_deferred
    async def save(self, book: AddressManager) -> None:
        """Write the book down; a failure is logged."""
        snapshot = book.snapshot()
        try:
            await self._in_turn(self._store.save, snapshot)
        except GossipError as error:
            self._log.warn(
                "the address book was not saved: {error}",
                event="address_book_not_saved",
                error=str(error),
            )

    async def _in_turn(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread, after whatever was called before it.

        A thread cannot be stopped, so whoever waits for it may give up, but the next one has to
        wait all the same.
        """
        lock = await self._turn.acquire()
        done: Observers[T] = Observers()

        def finished(result: T) -> None:
            lock.release()
            done.succeed(result)

        def failed(failure: Failure) -> None:
            lock.release()
            assert failure.value is not None
            done.fail(failure.value)

        calling = in_thread(self._clock.reactor, function, *args, **kwargs)
        handled(calling.addCallbacks(finished, failed))
        return await done.when()
