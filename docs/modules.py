"""Write the list of modules: what each is for, as its docstring says.

Usage: ``python docs/modules.py OUT.rst``.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

INTRODUCTION = """\
For whoever changes this package. Applications need :doc:`api` only.
"""


def documented_modules() -> list[str]:
    """All modules that say what they are for, in order; the package itself left out."""
    names = []
    for path in sorted((ROOT / "dig_gossip").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "dig_gossip" and ast.get_docstring(ast.parse(path.read_bytes())):
            names.append(name)
    return sorted(names)


def generate() -> str:
    """Build the page as reStructuredText."""
    title = "Modules"
    lines = [title, "=" * len(title), "", INTRODUCTION]
    for name in documented_modules():
        heading = name.removeprefix("dig_gossip.")
        lines += [heading, "-" * len(heading), "", f".. automodule:: {name}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
