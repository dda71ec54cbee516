"""Who waits for the answer to a request, and until when.

Protocols row of the stage table.
"""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred

from dig_gossip.util.clock import Timer
from dig_gossip.wire.message import Message


@attrs.define(eq=False)
class Waiter:
    """One request under way.

    :ivar timer: set when the request is written.
    """

    deferred: Deferred[Message]
    timer: Timer | None = None
