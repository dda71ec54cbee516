"""Write the options of an introducer from its configuration class.

Usage: ``python docs/introducer_reference.py OUT.rst``
"""

from __future__ import annotations

import sys
from pathlib import Path

from config_reference import generate_for

from dig_gossip.types.introducer import IntroducerServerConfig


def generate() -> str:
    """Build the entries as reStructuredText for Sphinx."""
    return generate_for(IntroducerServerConfig, "dig-introducer")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
