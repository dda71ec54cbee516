"""Traces: what one node was told, played again."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Effect
from dig_gossip.errors import InvalidConfig
from dig_gossip.lab.models.flood import Flood
from dig_gossip.lab.results import DamagedResults
from dig_gossip.lab.scenario import parse
from dig_gossip.lab.traces import record, replay, replay_bytes, write
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

SMALL = """
[overlay]
nodes = 15
links = 3
[churn]
per_minute = 6
away_secs = 3
detect_secs = 2
[[phase]]
messages = 30
sizes = [500]
"""
#: Every form of message and effect that machines have.
PROTOCOLS = ("plumtree", "erlay-safety-net", "dandelion", "compact-blocks", "gossipsub-1.2")
_FLOOD = record(parse(SMALL), "flood", 1, 3)


def lines_of(text: str) -> list[object]:
    """The lines of a trace, read."""
    return [json.loads(line) for line in text.splitlines()]


class TraceTests(SynchronousTestCase):
    """Recording and playing."""

    def test_a_trace_comes_out_as_it_was_recorded(self) -> None:
        """Of every kind of machine, over several of its lives.  design D1"""
        for protocol in PROTOCOLS:
            text = record(parse(SMALL), protocol, 2, 4)
            replayed = replay_bytes(text.encode())
            self.assertEqual((replayed.difference, replayed.raised), ("", ""), protocol)
            self.assertGreater(replayed.events, 50)
        starts = [line for line in lines_of(text) if isinstance(line, list) and line[0] == "start"]
        self.assertGreater(len(starts), 1)

    def test_same_run_same_trace(self) -> None:
        """A trace is as determined as a run.  design D1"""
        self.assertEqual(record(parse(SMALL), "flood", 1, 3), _FLOOD)
        self.assertNotEqual(record(parse(SMALL), "flood", 1, 4), _FLOOD)

    def test_an_engine_that_changes_is_noticed(self) -> None:
        """With the first event that comes out otherwise.  design D1"""
        received = Flood.received

        def silent(machine: Flood, peer: PeerId, message: Message) -> list[Effect]:
            return received(machine, peer, message)[:1]

        self.patch(Flood, "received", silent)
        replayed = replay_bytes(_FLOOD.encode())
        self.assertRegex(replayed.difference, r"^event \d+, received at .*Send.* became nothing$")
        self.assertEqual(replayed.raised, "")

    def test_what_breaks_an_engine_is_kept(self) -> None:
        """The node whose engine raises is found; once mended, the trace shows it.  design D1"""
        received = Flood.received

        def broken(machine: Flood, peer: PeerId, message: Message) -> list[Effect]:
            if message.data.startswith(bytes(7) + b"\x05"):
                raise ZeroDivisionError("five")
            return received(machine, peer, message)

        self.patch(Flood, "received", broken)
        text = record(parse(SMALL), "flood", 1)
        last = lines_of(text)[-1]
        assert isinstance(last, list)
        self.assertEqual((last[0], last[3]), ("received", {"raised": "ZeroDivisionError: five"}))
        again = replay_bytes(text.encode())
        self.assertEqual((again.difference, again.raised), ("", "ZeroDivisionError: five"))
        self.patch(Flood, "received", received)
        mended = replay_bytes(text.encode())
        self.assertEqual(mended.raised, "")
        self.assertIn("ZeroDivisionError", mended.difference)

    def test_only_what_can_be_traced_is(self) -> None:
        """Honest nodes that exist, and whose machines are told everything in frames.  design D1"""
        liars = SMALL + '[[adversary]]\nkind = "spy"\nshare = 0.9\n'
        for text, protocol, node, words in (
            (SMALL, "flood", None, "nothing was raised"),
            (SMALL, "flood", 15, "no node 15"),
            (SMALL, "address-books", 1, "cannot be traced"),
        ):
            with self.assertRaisesRegex(InvalidConfig, words):
                record(parse(text), protocol, 1, node)
        refused = 0
        for node in range(15):
            try:
                record(parse(liars), "flood", 1, node)
            except InvalidConfig:
                refused += 1
        self.assertEqual(refused, 14)


class FileTests(SynchronousTestCase):
    """What is read may be anything."""

    def test_files(self) -> None:
        """Written, read, and missing.  design D14"""
        path = self.mktemp()
        write(path, _FLOOD)
        self.assertEqual(replay(path).difference, "")
        with self.assertRaisesRegex(DamagedResults, "no such file"):
            replay(path + "x")
        with self.assertRaisesRegex(DamagedResults, "cannot be read"):
            replay(str(Path(path).parent))

    def test_damage_is_named_with_its_line(self) -> None:
        """And nothing is played that does not fit.  design D14"""
        head, *rest = _FLOOD.splitlines()
        for line, words in {
            "{": "no JSON",
            "{}": "no list",
            '["what"]': "no event",
            '["message", 5]': "no message",
            '["message", ["m", 300, null, ""]]': "type|range|255",
            '["message", ["m", 3, null, "xy"]]': "hexadecimal",
            '["message", ["f", 3, 4, null, 5]]': "carries a message",
            '["start", 1, -1]': "no time",
            '["peer_down", 0, [-1], []]': "no peer",
            '["peer_down", 0, [true], []]': "no peer",
            '["peer_down", 0, 5, []]': "no arguments",
            '["received", 0, [1], []]': "does not take",
            '["received", 0, [1, {"m": 10000}], []]': "no bytes",
            '["timer_fired", 0, [["a"]], []]': "no timer",
            '["peer_down", 0, [1], [{"m": 10000}]]': "no message 10000",
        }.items():
            text = "\n".join([head, rest[0], line])
            with self.assertRaisesRegex(DamagedResults, f"line 3: .*({words})"):
                replay_bytes(text.encode())
        with self.assertRaisesRegex(DamagedResults, "before the node has started"):
            replay_bytes(f'{head}\n["peer_down", 0, [1], []]'.encode())
        for wrong in ("{}", '{"trace": 1}', head.replace('"flood"', '"address-books"'), "[]"):
            with self.assertRaisesRegex(DamagedResults, "line 1"):
                replay_bytes(wrong.encode())

    def test_messages_that_hold_themselves(self) -> None:
        """Are nested too deeply.  design D14"""
        head, start, *_ = _FLOOD.splitlines()
        loop = '["message", ["f", 1, 1, null, null]]\n["peer_down", 0, [1], [' + "[" * 50 + "]" * 52
        with self.assertRaisesRegex(DamagedResults, "too deeply"):
            replay_bytes(f"{head}\n{start}\n{loop}".encode())

    @given(st.binary())
    def test_any_bytes_are_played_or_refused(self, data: bytes) -> None:
        """There is no other error.  design D14"""
        try:
            replay_bytes(data)
        except DamagedResults:
            pass

    @given(st.data())
    def test_any_change_is_played_or_refused(self, data: st.DataObject) -> None:
        """Also where most of it is a trace.  design D14"""
        lines = _FLOOD.splitlines()[:60]
        place = data.draw(st.integers(0, len(lines) - 1))
        value: object = json.loads(lines[place])
        other = data.draw(
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["b", "m", "raised"]), inner, max_size=2)
                ),
                max_leaves=6,
            )
        )
        if isinstance(value, list):
            value[data.draw(st.integers(0, len(value) - 1))] = other
        elif isinstance(value, dict):
            value[data.draw(st.sampled_from(sorted(value)))] = other
        lines[place] = json.dumps(value)
        try:
            replay_bytes("\n".join(lines).encode())
        except DamagedResults:
            pass
