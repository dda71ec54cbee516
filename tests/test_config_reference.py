"""The configuration reference of the documentation."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.types.config import FEATURES_NOT_YET, GossipConfig
from dig_gossip.types.options import options_of

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "config_reference.py"


class ReferenceTests(SynchronousTestCase):
    """``docs/config_reference.py``."""

    def setUp(self) -> None:
        if not SCRIPT.exists():
            raise SkipTest("the documentation's sources are absent")

    def generate(self) -> str:
        """The page."""
        namespace: dict[str, Any] = runpy.run_path(str(SCRIPT))
        page: str = namespace["generate"]()
        return page

    def test_every_option_has_an_entry(self) -> None:
        """Each option and each setting of each table is described once.  style §9"""
        entries = [
            line.removeprefix(".. confval:: ")
            for line in self.generate().splitlines()
            if line.startswith(".. confval:: ")
        ]
        expected = set()
        for option in options_of(GossipConfig):
            if option.table is None or option.name == "network":
                expected.add(option.name)
            if option.table is not None:
                expected |= {f"{option.name}.{inner.name}" for inner in options_of(option.table)}
        self.assertEqual(len(entries), len(set(entries)))
        self.assertEqual(set(entries), expected)

    def test_an_entry_tells_type_unit_range_default_and_meaning(self) -> None:
        """One entry in full.  style §9"""
        self.assertIn(
            """\
.. confval:: max_connections_per_ip
   :type: whole number of connections
   :default: ``8``

   The most inbound connections from one IP address; loopback is exempt.

   Accepted: 1 to 10000.
""",
            self.generate(),
        )

    def test_absent_features_are_marked(self) -> None:
        """What cannot be used yet says so.  CFG-103-X"""
        self.assertEqual(self.generate().count("Not available yet"), len(FEATURES_NOT_YET))

    def test_the_script_writes_the_page(self) -> None:
        """``python docs/config_reference.py OUT.rst``.  style §9"""
        out = self.mktemp()
        self.patch(sys, "argv", [str(SCRIPT), out])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        self.assertEqual(Path(out).read_text(encoding="utf-8"), self.generate())
