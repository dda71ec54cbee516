"""Write the table from requirements to the code that meets them and the tests that show it.

Code names requirements in ``Source:`` lines of docstrings and in comments, tests in their
docstrings. Usage: ``python docs/traceability.py OUT.rst``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

INTRODUCTION = """\
Requirements have ids: ``CON-002.1`` names a statement about connections, ``wire §4.1`` a section
about bytes, ``design D6`` a decision. An ``-X`` marks a requirement that the Rust implementation
does not have. Code and tests name the ids that they are about; this page is made from that.
"""

AREAS = {
    "ADR": "Address book",
    "API": "Life cycle and public interface",
    "BP": "Backpressure",
    "CBK": "Compact blocks",
    "CFG": "Configuration",
    "CNC": "Concurrency and shutdown",
    "CON": "Connections, identity, keepalive, bans",
    "DAN": "Dandelion++",
    "DIV": "Diversity of peers",
    "DSC": "Discovery",
    "ERL": "ERLAY",
    "FEE": "Feeler connections",
    "INT": "Integration of the engines",
    "INTR": "Introducer client",
    "ISV": "Introducer server",
    "MSG": "Message dispatch",
    "NAT": "NAT traversal",
    "PEX": "Peer exchange",
    "PLT": "Plumtree",
    "PRF": "Performance and peer scores",
    "PRI": "Priority lanes",
    "PRV": "Privacy",
    "REP": "Reputation",
    "RL": "Rate limits",
    "RLY": "Relay client",
    "ROT": "Peer id rotation",
    "RSV": "Relay server",
    "STA": "Statistics",
    "STR": "Structure of the package",
    "TLS": "TLS",
    "TOR": "Tor",
}
TEXTS = {
    "wire": "Bytes on the wire",
    "behaviour": "Other statements about behavior",
    "design": "Design decisions",
    "style": "House style",
}

_ID = re.compile(rf"\b(?:{'|'.join(AREAS)})-\d{{3}}(?:\.\d+)?(?:-X)?")
_NUMBER = r"§?\d+(?:\.\d+)*"
_SECTION = re.compile(rf"\b({'|'.join(TEXTS)}) ({_NUMBER}(?:(?:,| and) §{_NUMBER[2:]})*)")
_DECISION = re.compile(r"\bD\d{1,2}\b")


def ids(text: str) -> Iterator[str]:
    """The requirements that a text names."""
    text = " ".join(text.split())
    yield from _ID.findall(text)
    for name, places in _SECTION.findall(text):
        yield from (f"{name} §{place}" for place in re.findall(r"\d+(?:\.\d+)*", places))
    yield from (f"design {decision}" for decision in _DECISION.findall(text))


def code_references() -> Iterator[tuple[str, str]]:
    """Pairs of a requirement and the module that names it."""
    for path in sorted((ROOT / "dig_gossip").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for requirement in ids(path.read_text(encoding="utf-8")):
            yield requirement, module.removesuffix(".__init__")


def test_references() -> Iterator[tuple[str, str]]:
    """Pairs of a requirement and the test that names it, as trial calls it."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_bytes()).body:
            if not isinstance(node, ast.ClassDef):
                continue
            for method in node.body:
                if isinstance(
                    method, ast.FunctionDef | ast.AsyncFunctionDef
                ) and method.name.startswith("test_"):
                    for requirement in ids(ast.get_docstring(method) or ""):
                        yield requirement, f"{module}.{node.name}.{method.name}"


def collect(pairs: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Group by requirement; names in order, once each."""
    found: dict[str, dict[str, None]] = {}
    for requirement, name in pairs:
        found.setdefault(requirement, {})[name] = None
    return {requirement: list(names) for requirement, names in found.items()}


def sort_key(requirement: str) -> tuple[str, list[int], str]:
    """Numbers in numerical order: D10 after D9, §13 after §5."""
    area, number = re.split(r"[- ]", requirement, maxsplit=1)
    return area, [int(part) for part in re.findall(r"\d+", number)], requirement


def generate() -> str:
    """Build the page as reStructuredText."""
    code, tests = collect(code_references()), collect(test_references())
    title = "Requirements and tests"
    lines = [title, "=" * len(title), "", INTRODUCTION]
    requirements = sorted({*code, *tests}, key=sort_key)
    for prefix, heading in (AREAS | TEXTS).items():
        rows = [item for item in requirements if re.split(r"[- ]", item)[0] == prefix]
        if not rows:
            continue
        lines += [heading, "-" * len(heading), ""]
        lines += [".. list-table::", "   :header-rows: 1", "   :widths: 14 36 50", ""]
        lines += _row("Requirement", ["Code"], ["Tests"])
        for item in rows:
            lines += _row(
                item,
                [f"``{name}``" for name in code.get(item, [])],
                [f"``{name.removeprefix('tests.')}``" for name in tests.get(item, [])],
            )
        lines.append("")
    return "\n".join(lines)


def _row(first: str, *cells: list[str]) -> list[str]:
    lines = [f"   * - {first}"]
    for cell in cells:
        lines.append("     - " + "\n       ".join(f"| {entry}" for entry in cell))
    return lines


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
