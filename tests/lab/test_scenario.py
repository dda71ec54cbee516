"""Scenario files: what is read, and what is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.protocols import KINDS_BY_PROTOCOL
from dig_gossip.lab.scenario import PROTOCOLS, parse, shipped, shipped_names, tables
from dig_gossip.types.options import options_of

_KEYS = [item.name for kind in tables().values() for item in options_of(kind)]
_VALUES = st.sampled_from(["0", "-1", "1.5", "nan", "true", '"x"', "[]", "[1, 2]", "{}", "9e99"])


class ScenarioTests(SynchronousTestCase):
    """Reading."""

    def test_shipped_scenarios_are_good(self) -> None:
        """Each is read, and says what it is for.  design §4"""
        names = shipped_names()
        self.assertGreaterEqual(len(names), 12)
        for name in names:
            scenario = shipped(name)
            self.assertTrue(scenario.settings.title and scenario.settings.description, name)

    def test_every_protocol_can_be_built(self) -> None:
        """The list of names and the table of machines agree.  design §4"""
        self.assertEqual(set(PROTOCOLS), set(KINDS_BY_PROTOCOL))

    def test_mistakes_are_named(self) -> None:
        """The message has the key, and the nearest one that exists.  CFG-102-X"""
        for text, words in {
            "[overlay]\nnode = 5": "did you mean nodes?",
            "overlay = 5": "must be a table",
            "phase = 5": r"\[\[phase\]\]",
            "[overlay]\nnodes = 1": "overlay.nodes",
            "[overlay]\nnodes = 8\nlinks = 8": "below overlay.nodes",
            "[[phase]]\n[[phase]]": "same name",
            '[network]\nregions = ["a"]': "network.shares",
            "[gossipsub]\nd = 3": "d_low",
            'protocols = ["flod"]': "protocols",
            "= 1": "scenario:",
        }.items():
            with self.assertRaisesRegex(InvalidConfig, words):
                parse(text)
        with self.assertRaisesRegex(InvalidConfig, "did you mean churn"):
            shipped("chrun")

    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        """There is no other error.  CFG-102-X"""
        try:
            parse(text)
        except InvalidConfig:
            pass

    @given(st.sampled_from(list(tables())), st.sampled_from(_KEYS), _VALUES)
    def test_any_value_is_read_or_refused(self, table: str, key: str, value: str) -> None:
        """There is no other error.  CFG-102-X"""
        head = f"[[{table}]]" if table in ("phase", "adversary") else f"[{table}]"
        try:
            parse(f"{head if table else ''}\n{key} = {value}")
        except InvalidConfig:
            pass
