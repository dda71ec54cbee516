"""Tests of ``dig_gossip.connection``, and what several of them need."""

from __future__ import annotations

from dig_gossip.types.peer import PeerId


class ManualTime:
    """A clock that a test moves by assigning ``seconds``; pass it as ``now`` or ``unix``."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def peer(number: int) -> PeerId:
    """A peer id; a greater number makes a greater id."""
    return PeerId(number.to_bytes(32, "big"))
