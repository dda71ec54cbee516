"""Write the list of divergences: every ``Divergence:`` paragraph of the code's docstrings.

Usage: ``python docs/divergences.py OUT.rst``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "Divergence:"

INTRODUCTION = """\
Where this implementation does otherwise than the requirements that it follows, or than the Rust
and Chia nodes that it talks to, the code says so beside the place, and why. This page collects
those paragraphs.
"""


def paragraphs() -> Iterator[tuple[str, str]]:
    """Pairs of a qualified name and what its docstring says after the mark."""
    for path in sorted((ROOT / "dig_gossip").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_bytes())
        for name, docstring in _docstrings(tree, module.removesuffix(".__init__")):
            for paragraph in docstring.split("\n\n"):
                before, mark, after = paragraph.partition(MARK)
                if mark:
                    # What stands before the mark is the rule that does not hold here.
                    yield name, " ".join(f"{before} {after}".split())


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[tuple[str, str]]:
    if docstring := ast.get_docstring(node):
        yield name, docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")


def generate() -> str:
    """Build the page as reStructuredText."""
    title = "Divergences"
    lines = [title, "=" * len(title), "", INTRODUCTION]
    for name, text in paragraphs():
        lines += [f"``{name}``", f"   {text}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
