"""Golden vectors made by independent implementations; they live beside the project."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any
from unittest import SkipTest

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"


@cache
def document(name: str) -> dict[str, Any]:  # Any: JSON
    """Read one whole vector file.

    :raises SkipTest: the vectors are not on this machine.
    """
    path = VECTORS / name
    if not path.exists():
        raise SkipTest(f"golden vectors are absent: {path}")
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def load(name: str) -> list[dict[str, Any]]:  # Any: JSON
    """The vectors of one file."""
    vectors: list[dict[str, Any]] = document(name)["vectors"]
    return vectors
