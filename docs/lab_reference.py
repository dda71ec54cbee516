"""Write the reference of scenario files from the classes that read them.

Usage: ``python docs/lab_reference.py OUT.rst``
"""

from __future__ import annotations

import sys
from pathlib import Path

from config_reference import generate_for

from dig_gossip.lab.scenario import tables
from dig_gossip.types import sections


def generate() -> str:
    """Build the sections as reStructuredText; those of other pages are named there."""
    parts = []
    for name, table in tables().items():
        if table.__module__ == sections.__name__:
            continue
        heading = f"[{name}]" if name else "Outside of tables"
        heading = f"[[{name}]]" if name in ("phase", "adversary") else heading
        parts.append(f"{heading}\n{'-' * len(heading)}\n\n{table.__doc__}\n")
        parts.append(generate_for(table, f"scenario.{name}" if name else "scenario"))
    return "\n".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
