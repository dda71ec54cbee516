"""A run that remembers what lanes have put into it."""

from __future__ import annotations

from dig_gossip.connection.lanes import Lanes
from dig_gossip.wire.frames import OutboundFrame
from dig_gossip.wire.frames_pure import FrameRun
from dig_gossip.wire.message import Message


class LaneRun(FrameRun):
    """A run whose messages can be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[OutboundFrame] = []

    def add(self, message: Message) -> None:
        super().add(message)
        self.frames.append(OutboundFrame(message))


def take_small(lanes: Lanes, room: int) -> list[OutboundFrame]:
    """Take small messages; what lanes say they were must be what they were."""
    run = LaneRun()
    said = lanes.take_small(run, room)
    assert said == (len(run.frames), sum(frame.size for frame in run.frames)), said
    return run.frames
