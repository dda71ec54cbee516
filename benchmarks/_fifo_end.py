"""An end that is a node of this package in which an urgent message waits like any other.

It goes into the lane of the large answers, which is first in, first out.
"""

from __future__ import annotations

from collections.abc import Awaitable

from _dig_end import DigEnd
from _twisted_end import main

from dig_gossip import Message
from dig_gossip.wire.opcodes import ChiaMessageType


class FifoEnd(DigEnd):
    """One queue instead of three."""

    def send_urgent(self, data: bytes) -> Awaitable[object]:
        return self._handle.send_to(self._peer, Message(ChiaMessageType.RESPOND_BLOCKS, None, data))


if __name__ == "__main__":
    main(FifoEnd)
