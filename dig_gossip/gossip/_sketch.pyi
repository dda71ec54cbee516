"""Sketch arithmetic, compiled; see sketch_pure."""

from collections.abc import Iterable

CARRYLESS: int
"""Whether the processor multiplies without carries; if not, the portable form is used."""

def encode(elements: Iterable[int], capacity: int, portable: bool = False, /) -> bytes: ...
def decode(data: bytes, max_elements: int, portable: bool = False, /) -> list[int] | None: ...
