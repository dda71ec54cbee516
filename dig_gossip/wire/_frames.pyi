"""Frames and hashes of messages, compiled; see frames_pure."""

from collections.abc import Callable

from dig_gossip.wire.message import Message

def prepare(message_class: type[Message], /) -> None: ...
def take(
    memory: bytes | memoryview,
    at: int,
    end: int,
    is_masked: bool,
    into: list[Message | None],
    /,
) -> tuple[int, int]: ...

class Run:
    def __init__(self, new_key: Callable[[], int] | None, /) -> None: ...
    @property
    def size(self) -> int: ...
    def add(self, message: Message, /) -> None: ...
    def add_divided(self, opcode: int, begin: bytes, data: memoryview, /) -> None: ...
    def take(self) -> list[bytes | memoryview]: ...
    def clear(self) -> None: ...

def message_hash(message: Message, /) -> bytes:
    """Missing where the processor has no instructions for it."""
