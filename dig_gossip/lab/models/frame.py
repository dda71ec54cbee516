"""Frames of protocols that are modeled, not spoken: a type, a content, and an exact size.

Programs row of the stage table. A model need not encode what nobody decodes, but it must know how
many bytes that would be.
"""

from __future__ import annotations

from typing import Any, cast

from dig_gossip.wire.message import Message


class ModelFrame:
    """One frame.

    :ivar type: the model's own number for what it is.
    :ivar content: whatever the model puts there.
    :ivar payload: the message it carries in full, if any; the simulator looks for it here.
    """

    __slots__ = ("content", "payload", "size", "type")

    def __init__(
        self, kind: int, size: int, content: Any = None, payload: Message | None = None
    ) -> None:  # Any: see above
        self.type = kind
        self.size = size
        self.content = content
        self.payload = payload

    def __len__(self) -> int:
        """Bytes, without framing."""
        return self.size


def frame(kind: int, size: int, content: Any = None, payload: Message | None = None) -> Message:
    """Make a frame that passes for a message in the effects of a machine."""
    return cast(Message, ModelFrame(kind, size, content, payload))


def opened(message: Message) -> ModelFrame:
    """Undo :func:`frame`."""
    return cast(ModelFrame, message)


def varint_bytes(value: int) -> int:
    """How long Protocol Buffers' encoding of a number is."""
    return max(1, (value.bit_length() + 6) // 7)


def field_bytes(content: int) -> int:
    """How long a Protocol Buffers field with a number below 16 and ``content`` bytes is."""
    return 1 + varint_bytes(content) + content
