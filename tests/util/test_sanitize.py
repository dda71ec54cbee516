"""Text from outside."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip import errors
from dig_gossip.errors import ClientError, ClientErrorKind, GossipError
from dig_gossip.util.sanitize import sanitize_text


class SanitizeTests(SynchronousTestCase):
    """``sanitize_text`` and the errors that use it."""

    def test_newlines_escapes_and_bidi_overrides_vanish(self) -> None:
        """What forges log lines.  API-102-X"""
        self.assertEqual(sanitize_text("a\nb\x1b[31mc\u202ed\u200be"), "ab[31mcde")

    def test_long_text_is_cut_with_a_mark(self) -> None:
        """At the limit, and one beyond.  API-102-X"""
        self.assertEqual(sanitize_text("x" * 256), "x" * 256)
        self.assertEqual(sanitize_text("x" * 257), "x" * 255 + "…")

    @given(st.text(), st.integers(1, 50))
    def test_any_text_becomes_harmless(self, text: str, limit: int) -> None:
        """Bounded, one line, encodable, and unchanged by a second pass.  API-102-X"""
        clean = sanitize_text(text, limit)
        self.assertLessEqual(len(clean), limit)
        self.assertFalse({unicodedata.category(c) for c in clean} & {"Cc", "Cf"})
        clean.encode("utf-8")
        self.assertEqual(sanitize_text(clean, limit), clean)

    @given(st.text())
    def test_every_error_is_one_clean_line(self, text: str) -> None:
        """Both ``str()`` and ``repr()``, and the diagnostic survives.  API-102-X"""
        for error in (
            GossipError(text),
            ClientError(ClientErrorKind.TLS, text),
            errors.PeerBanned(b"\x01" * 32, text),
            errors.RequestRejected(object(), text),
        ):
            for shown in (str(error), repr(error)):
                self.assertEqual(len(shown.splitlines()), 1)
                self.assertTrue(shown)
        self.assertIn("01" * 32, str(errors.PeerBanned(b"\x01" * 32, text)))

    def test_policy_refusals_are_not_retryable(self) -> None:
        """The dialer gives up on them, and only on them.  API-004.1"""
        hopeless = {kind for kind in ClientErrorKind if not ClientError(kind).retryable}
        self.assertEqual(
            hopeless,
            {
                ClientErrorKind.WRONG_NETWORK,
                ClientErrorKind.WRONG_NODE_TYPE,
                ClientErrorKind.BAD_VERSION,
            },
        )
        self.assertFalse(ClientError(ClientErrorKind.MALFORMED, retryable=False).retryable)
