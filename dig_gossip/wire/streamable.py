"""Field codecs of Chia's Streamable encoding: strict, and bounded by the input's own length.

Every failure, in either direction, is a :class:`~dig_gossip.errors.ClientError` of kind
``malformed``. Values have exactly one encoding, so there is no canonical form to check.

Source: wire §3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from dig_gossip.errors import ClientError, ClientErrorKind

T = TypeVar("T")

_SHOWN_BYTES = 32


def malformed(text: str) -> ClientError:
    """Make the error of this layer."""
    return ClientError(ClientErrorKind.MALFORMED, text)


def preview(data: bytes) -> str:
    """Show the first bytes in hex; payloads of megabytes must not end up in a log."""
    if len(data) <= _SHOWN_BYTES:
        return f"<{data.hex()}>"
    return f"<{data[:_SHOWN_BYTES].hex()}… {len(data)} bytes>"


class Reader:
    """Takes fields from the front of ``data``; call :meth:`finish` after the last one."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._position

    def raw(self, size: int) -> bytes:
        """Take ``size`` bytes as they are."""
        start = self._position
        end = start + size
        if end > len(self._data):
            raise malformed("unexpected end of input")
        self._position = end
        return self._data[start:end]

    def uint(self, size: int) -> int:
        """Take an unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.raw(size), "big")

    def sint(self, size: int) -> int:
        """Take a signed integer of ``size`` bytes."""
        return int.from_bytes(self.raw(size), "big", signed=True)

    def flag(self, what: str = "bool") -> bool:
        """Take a byte that must be 0 or 1."""
        value = self.raw(1)[0]
        if value > 1:
            raise malformed(f"{what} must be 0 or 1, not {value}")
        return value == 1

    def blob(self) -> bytes:
        """Take bytes that follow their u32 length."""
        return self.raw(self.uint(4))

    def text(self) -> str:
        """Take UTF-8 text that follows its u32 length in bytes."""
        try:
            return self.blob().decode("utf-8")
        except UnicodeDecodeError:
            raise malformed("text is not UTF-8") from None

    def optional(self, read: Callable[[], T]) -> T | None:
        """Take a presence byte and, if it is 1, a value."""
        return read() if self.flag("tag of an optional") else None

    def items(
        self, read: Callable[[], T], min_size: int, max_count: int | None = None
    ) -> tuple[T, ...]:
        """Take a u32 count and that many values.

        :param min_size: fewest bytes a value can take, at least 1. A count that cannot fit in the
            rest of the input is refused before anything is allocated.
        :param max_count: most values allowed; None for as many as fit.
        """
        count = self.uint(4)
        if count * min_size > self.remaining:
            raise malformed(f"{count} list items do not fit in {self.remaining} bytes")
        if max_count is not None and count > max_count:
            raise malformed(f"{count} list items, at most {max_count} are allowed")
        return tuple([read() for _ in range(count)])

    def finish(self) -> None:
        """Require that everything has been read."""
        if self._position != len(self._data):
            raise malformed(f"{self.remaining} bytes too many")


def uint(value: int, size: int) -> bytes:
    """Encode an unsigned integer in ``size`` bytes."""
    try:
        return value.to_bytes(size, "big")
    except OverflowError:
        raise malformed(f"{value} does not fit in u{8 * size}") from None


def sint(value: int, size: int) -> bytes:
    """Encode a signed integer in ``size`` bytes."""
    try:
        return value.to_bytes(size, "big", signed=True)
    except OverflowError:
        raise malformed(f"{value} does not fit in i{8 * size}") from None


def flag(value: bool) -> bytes:
    """Encode a truth value."""
    return b"\x01" if value else b"\x00"


def raw(value: bytes, size: int) -> bytes:
    """Pass bytes whose length is fixed."""
    if len(value) != size:
        raise malformed(f"{size} bytes are needed, not {len(value)}")
    return value


def blob(value: bytes) -> bytes:
    """Encode bytes after their u32 length."""
    return uint(len(value), 4) + value


def text(value: str) -> bytes:
    """Encode text as UTF-8 after its u32 length in bytes."""
    try:
        return blob(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise malformed("text holds a lone surrogate") from None


def optional(value: T | None, write: Callable[[T], bytes]) -> bytes:
    """Encode a presence byte and the value, if there is one."""
    return b"\x00" if value is None else b"\x01" + write(value)


def items(values: Iterable[T], write: Callable[[T], bytes]) -> bytes:
    """Encode a u32 count and the values."""
    parts = [write(value) for value in values]
    return uint(len(parts), 4) + b"".join(parts)
