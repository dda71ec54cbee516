"""Write the options of a relay from its configuration class.

Usage: ``python docs/relay_reference.py OUT.rst``
"""

from __future__ import annotations

import sys
from pathlib import Path

from config_reference import generate_for

from dig_gossip.types.relay import RelayServerConfig


def generate() -> str:
    """Build the entries as reStructuredText for Sphinx."""
    return generate_for(RelayServerConfig, "dig-relay")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
