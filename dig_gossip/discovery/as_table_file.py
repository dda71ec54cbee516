"""The AS table's life beside the node: loaded in a thread, and again when the file changes.

Source: behaviour DSC-010, CNC-102-X.
"""

from __future__ import annotations

import os

from twisted.logger import Logger

from dig_gossip.discovery.as_table import load_as_table
from dig_gossip.discovery.diversity import Diversity
from dig_gossip.errors import GossipError, Io
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import returns_deferred
from dig_gossip.util.threads import in_thread


class AsTableFile:
    """Keeps one AS table up to date.

    A file that can no longer be used, or is gone, leaves the table that was loaded last.

    :param path: empty for none.
    """

    _log = Logger()

    def __init__(self, path: str, clock: Clock, diversity: Diversity) -> None:
        self._path = path
        self._clock = clock
        self._diversity = diversity
        self._seen: tuple[int, int, int] | None = None

    def check(self) -> None:
        """Make sure that there is a file to read.

        :raises Io: there is none.
        """
        if not self._path:
            return
        try:
            with open(self._path, "rb"):
                pass
        except OSError as error:
            raise Io(f"{self._path}: {error.strerror}") from error

    @returns_deferred
    async def refresh(self) -> None:
        """Load the file if it is not the one that was loaded last."""
        if not self._path:
            return
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            self._seen = seen  # a file that cannot be used is not read again and again
            table = await in_thread(self._clock.reactor, load_as_table, self._path)
        except (GossipError, OSError, ValueError) as error:
            self._log.warn(
                "the AS table {path} was not loaded: {error}",
                event="as_table_not_loaded",
                path=self._path,
                error=str(error),
            )
            return
        self._diversity.as_lookup = table.lookup
        self._log.info(
            "the AS table {path} has {ranges} ranges",
            event="as_table_loaded",
            path=self._path,
            ranges=len(table),
        )
