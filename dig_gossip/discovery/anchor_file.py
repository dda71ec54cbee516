"""The file that remembers the anchors while the node does not run.

Written when they change, so that a crash keeps them too. It is a convenience: whatever is wrong
with it, the node runs.
"""

from __future__ import annotations

from twisted.logger import Logger

from dig_gossip.discovery.anchors import MAX_FILE_BYTES, decode_anchors, encode_anchors
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.files import read_at_most, write_atomically


class AnchorFile:
    """Keeps two addresses in a file.

    :param path: where; empty to keep them in memory only.
    :ivar anchors: as they were last loaded or saved.
    """

    _log = Logger()

    def __init__(self, path: str) -> None:
        self.anchors: tuple[PeerAddress, ...] = ()
        self._path = path
        self._failing = False

    def load(self) -> tuple[PeerAddress, ...]:
        """Read the file; a file that makes no sense is as good as none."""
        if self._path:
            try:
                data = read_at_most(self._path, MAX_FILE_BYTES)
                if data is not None:
                    self.anchors = decode_anchors(data)
            except (OSError, ValueError) as error:
                self._failed(error)
        return self.anchors

    def save(self, anchors: tuple[PeerAddress, ...]) -> None:
        """Write the file, unless it says the same already.

        Cost: two waits for the disk when an anchor has changed.
        """
        if anchors == self.anchors:
            return
        self.anchors = anchors
        if not self._path:
            return
        try:
            write_atomically(self._path, encode_anchors(anchors))
        except OSError as error:
            self._failed(error)
        else:
            self._failing = False

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            self._log.info(
                "anchors cannot be kept in {path}: {error}",
                event="anchor_file_failed",
                path=self._path,
                error=str(error),
            )
