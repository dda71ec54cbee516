"""The file that remembers bans while the node does not run.

Read once, before the first connection; written at the cleanup and at the stop, if any ban began
or ended since. It is a convenience: whatever is wrong with it, the node runs.

Source: behaviour REP-104-X.
"""

from __future__ import annotations

from twisted.logger import Logger

from dig_gossip.connection.ban_list import MAX_BAN_FILE_BYTES, Bans
from dig_gossip.connection.reputation import Reputations
from dig_gossip.util.clock import Clock
from dig_gossip.util.files import quarantine, read_at_most, write_atomically


class BanFile:
    """Keeps the bans of ``reputations`` in a file.

    :param path: where; empty to keep them in memory only.
    """

    _log = Logger()

    def __init__(self, path: str, reputations: Reputations, clock: Clock) -> None:
        self._path = path
        self._reputations = reputations
        self._clock = clock
        self._saved = reputations.ban_changes
        self._failing = False

    def load(self) -> None:
        """Ban whoever was banned when the node stopped, and still is.

        A file that makes no sense is moved aside.
        """
        if not self._path:
            return
        try:
            data = read_at_most(self._path, MAX_BAN_FILE_BYTES)
            if data is None:
                return
            bans = Bans.from_bytes(data)
        except ValueError:
            self._move_aside()
        except OSError as error:
            self._failed(error)
        else:
            restored = self._reputations.restore(bans)
            self._saved = self._reputations.ban_changes
            self._log.info(
                "{count} bans of {path} are still in force",
                event="bans_restored",
                count=restored,
                path=self._path,
            )

    def save(self) -> None:
        """Write the bans down, unless the file says the same already.

        Cost: O(bans) and two waits for the disk, at most once every cleanup.
        """
        if not self._path or self._saved == self._reputations.ban_changes:
            return
        changes = self._reputations.ban_changes
        try:
            write_atomically(self._path, bytes(self._reputations.bans()))
        except OSError as error:
            self._failed(error)
        else:
            self._saved = changes
            self._failing = False

    def _move_aside(self) -> None:
        try:
            moved = quarantine(self._path, self._clock.unix())
        except OSError as error:
            self._failed(error)
            return
        self._log.info(
            "{path} is no list of bans; it is now {moved}, and nobody is banned",
            event="ban_file_spoiled",
            path=self._path,
            moved=moved,
        )

    def _failed(self, error: OSError) -> None:
        # Once, not with every attempt: the next one is 30 seconds away.
        if not self._failing:
            self._failing = True
            self._log.info(
                "bans cannot be kept in {path}: {error}",
                event="ban_file_failed",
                path=self._path,
                error=str(error.strerror),
            )
