"""Make text from outside harmless before it reaches a log line, an error or a screen."""

from __future__ import annotations

import unicodedata

_UNWANTED = frozenset({"Cc", "Cf"})


def strip_control(text: str) -> str:
    """Remove control and format characters (Unicode categories Cc and Cf).

    Newlines forge log lines, escape sequences steer terminals, bidi overrides reorder text.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char for char in text if unicodedata.category(char) not in _UNWANTED)


def sanitize_text(text: str, limit: int = 256) -> str:
    """Strip control characters and cut to ``limit`` characters (an ellipsis marks the cut).

    Source: behaviour API-102-X.
    """
    # Cut generously first, so that a megabyte of junk costs nothing.
    clean = strip_control(text[: 4 * limit])
    # Lone surrogates cannot be encoded, so they could still break a log file.
    clean = clean.encode("utf-8", "replace").decode("utf-8")
    if len(clean) <= limit:
        return clean
    return clean[: limit - 1] + "…"
