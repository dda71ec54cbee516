"""Tests of the wire layer; most of them read the golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import ClientError, ClientErrorKind


class WireTestCase(SynchronousTestCase):
    """Assertions that every codec's tests need."""

    def assert_malformed(
        self, call: Callable[..., object], *arguments: Any, hint: object = None
    ) -> None:
        """Require ``ClientError(malformed)`` and no other outcome."""
        try:
            value = call(*arguments)
        except ClientError as error:
            self.assertIs(error.kind, ClientErrorKind.MALFORMED, hint)
        else:
            self.fail(f"{hint}: accepted as {value!r}")

    def decodes_or_malformed(self, call: Callable[[bytes], Any], data: bytes) -> None:
        """Require that ``data`` is refused as malformed, or decodes to what encodes to it."""
        try:
            value = call(data)
        except ClientError as error:
            self.assertIs(error.kind, ClientErrorKind.MALFORMED)
        else:
            self.assertEqual(bytes(value), data)
