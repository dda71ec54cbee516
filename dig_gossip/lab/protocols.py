"""The protocols that can be simulated, by name.

Programs row of the stage table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dig_gossip.lab.machine import DIG_KINDS, Kind, PlumtreeMachine
from dig_gossip.lab.models.flood import Flood

KINDS_BY_PROTOCOL: Final[Mapping[str, Kind]] = {
    "plumtree": Kind(build=PlumtreeMachine, kinds=DIG_KINDS, pings=True),
    "flood": Kind(build=lambda *_: Flood(), kinds=DIG_KINDS),
    "flood-unlimited": Kind(build=lambda *_: Flood(), kinds=DIG_KINDS, unlimited=True),
}
