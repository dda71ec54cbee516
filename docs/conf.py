"""Sphinx configuration; nothing is fetched from the network.

Some pages are generated from the code whenever the documentation is built: a ``generated``
directive names the program beside this file whose ``generate()`` returns the page.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from dig_gossip import __version__  # noqa: E402

project = "dig_gossip"
author = "The dig_gossip developers"
copyright = author
version = release = __version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = False
highlight_language = "text"
pygments_style = "friendly"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
autodoc_class_signature = "separated"
autodoc_preserve_defaults = True
autodoc_default_options = {"exclude-members": "__new__"}

html_theme = "alabaster"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "description": "Peers that meet over mutual TLS and gossip along a tree.",
    "fixed_sidebar": True,
    "page_width": "1080px",
    "sidebar_width": "240px",
    "font_family": "Charter, 'Bitstream Charter', 'Source Serif Pro', Georgia, serif",
    "head_font_family": "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif",
    "show_powered_by": False,
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}


class Generated(SphinxDirective):
    """``.. generated:: NAME`` stands for what ``NAME.generate()`` returns."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        self.env.note_reread()  # the code may have changed, the page never does
        return self.parse_text_to_nodes(module.generate(), allow_section_headings=True)


#: Remarks at the end of docstrings, right below the fields.
REMARK = re.compile(r"(Source|Cost|Cancellation|Bounds|Bounded|Divergence): ")


def separate_remarks(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Put an empty line before each remark, as reStructuredText wants it below a field list."""
    for index in range(len(lines) - 1, 0, -1):
        if REMARK.match(lines[index]) and lines[index - 1]:
            lines.insert(index, "")


def show_deferreds(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None] | None:
    """Show what callers get from a coroutine that a decorator turns into a Deferred."""
    if inspect.iscoroutinefunction(getattr(obj, "__wrapped__", None)):
        return signature, f"Deferred[{returns}]"
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what the pages use."""
    app.add_directive("generated", Generated)
    app.connect("autodoc-process-docstring", separate_remarks)
    app.connect("autodoc-process-signature", show_deferreds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
