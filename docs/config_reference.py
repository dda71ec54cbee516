"""Write the configuration reference from the configuration classes.

Usage: ``python docs/config_reference.py OUT.rst``
"""

from __future__ import annotations

import sys
from pathlib import Path

import attrs

from dig_gossip.config_file import toml_literal
from dig_gossip.types.config import FEATURES_NOT_YET, GossipConfig
from dig_gossip.types.network import Network
from dig_gossip.types.options import Option, options_of

INTRODUCTION = """\
Every option is a keyword of ``GossipConfig`` or of one of its parts, and a key of the TOML file
that ``--config`` names, where the parts are tables::

    network = "chia-mainnet"
    bootstrap_peers = ["node.example.net:8444"]

    [plumtree]
    announce_flush_ms = 20

Defaults give way to the file, and the file to the command line. A value that cannot be used, or a
key that does not exist, ends the start with a message that names it.
"""


def generate_for(table: type, prefix: str) -> str:
    """Describe the options of a server's configuration, for a section of its own page."""
    parts = []
    for option in options_of(table):
        parts += _option(f"{prefix}.{option.name}", option)
    return "\n".join(parts)


def generate() -> str:
    """Build the page as reStructuredText for Sphinx."""
    title = "Configuration reference"
    parts = [f"{title}\n{'=' * len(title)}\n", INTRODUCTION, *_section("General", GossipConfig)]
    for option in options_of(GossipConfig):
        if option.table is not None:
            parts += _section(f"[{option.name}]", option.table, option.name)
    return "\n".join(parts)


def _section(heading: str, table: type, name: str = "") -> list[str]:
    parts = [f"{heading}\n{'-' * len(heading)}\n"]
    if name:
        parts.append(f"{_paragraph(table.__doc__)}\n")
        parts += _availability(name)
    for option in options_of(table):
        # Tables have sections of their own; a network may also be a plain name.
        if option.table is None or option.table is Network:
            parts += _option(f"{name}.{option.name}" if name else option.name, option)
    return parts


def _option(path: str, option: Option) -> list[str]:
    kind = f"{option.kind} of {option.unit}" if option.unit else option.kind
    lines = [f".. confval:: {path}", f"   :type: {kind}"]
    if option.default is attrs.NOTHING:
        lines.append("   :default: none, it must be set")
    elif isinstance(option.default, Network):
        lines.append(f'   :default: ``"{option.default.name}"``')
    else:
        is_set = option.default is not None
        lines.append(
            f"   :default: ``{toml_literal(option.default)}``" if is_set else "   :default: not set"
        )
    lines += ["", f"   {option.doc}", ""]
    if option.range:
        lines += [f"   Accepted: {option.range}.", ""]
    if "." not in path:
        lines += [f"   {line}".rstrip() for line in _availability(option.name)]
    return ["\n".join(lines)]


def _availability(name: str) -> list[str]:
    if name not in FEATURES_NOT_YET:
        return []
    return [".. note:: Not available yet: a service that is asked for it refuses to start.\n"]


def _paragraph(doc: str | None) -> str:
    return " ".join((doc or "").split("\n\n")[0].split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
