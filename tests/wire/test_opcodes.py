"""The table of opcodes."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.wire.opcodes import (
    CHIA_UNSOLICITED,
    ChiaMessageType,
    DigMessageType,
    MessagePriority,
    RoutingClass,
    is_dig,
    is_rejection,
    opcode_name,
    routing_class,
    valid_replies,
)
from tests.vectors import load

#: The vectors' strategies of the DIG band, as classes.
STRATEGIES = {
    "plumtree_eager": RoutingClass.FLOOD,
    "broadcast_flood": RoutingClass.FLOOD,
    "unicast_request": RoutingClass.REQUEST,
    "unicast_response": RoutingClass.RESPONSE,
    "erlay": RoutingClass.CONTROL,
    "dandelion_stem": RoutingClass.CONTROL,
    "plumtree_lazy": RoutingClass.CONTROL,
    "plumtree_control": RoutingClass.CONTROL,
    "plumtree_pull": RoutingClass.CONTROL,
    "introducer": RoutingClass.INTRODUCER,
}


def rows() -> dict[int, dict[str, Any]]:
    """The rows of the vectors' table by opcode."""
    return {row["opcode"]: row for row in load("message_types.json")}


class Names(SynchronousTestCase):
    """Opcodes and their names."""

    def test_enums_name_every_opcode_of_the_table(self) -> None:
        """Chia's and the DIG band's numbers are complete and have the table's names.  API-009"""
        chia = {m.value: m.name.lower() for m in ChiaMessageType}
        self.assertEqual(chia, {n: r["name"] for n, r in rows().items() if r["band"] == "chia"})
        dig = {m.value: m.name.replace("_", "").lower() for m in DigMessageType}
        expected = {n: r["name"].lower() for n, r in rows().items() if r["band"] in ("dig", "ours")}
        ours = {242: "treeopen", 243: "treeannounce", 244: "treeprune", 245: "treegraft"}
        self.assertEqual(dig, {**expected, **ours, 241: "messagechunk"})

    def test_every_opcode_has_a_name_for_logs(self) -> None:
        """Names are unique, and unknown opcodes have one too.  MSG-102-X"""
        self.assertEqual(len({opcode_name(opcode) for opcode in range(256)}), 256)
        self.assertEqual(opcode_name(20), "new_peak")
        self.assertEqual(opcode_name(200), "new_attestation")
        self.assertEqual(opcode_name(221), "store_melted")
        self.assertEqual(opcode_name(255), "error")
        self.assertEqual(opcode_name(199), "unknown_199")

    def test_dig_band_ends_before_chias_error(self) -> None:
        """The band is 200 to 254; 255 is Chia's.  wire §4"""
        self.assertEqual([n for n in range(256) if is_dig(n)], list(range(200, 255)))


class Routing(SynchronousTestCase):
    """Classes of messages."""

    def test_every_opcode_has_exactly_one_class(self) -> None:
        """All 256 opcodes have a class, which only two owe to the id.  MSG-106-X"""
        changed = []
        for opcode in range(256):
            with_id, without = routing_class(opcode, True), routing_class(opcode, False)
            self.assertIsInstance(with_id, RoutingClass)
            if with_id is not without:
                changed.append(opcode)
                self.assertEqual((with_id, without), (RoutingClass.RESPONSE, RoutingClass.FLOOD))
        self.assertEqual(changed, [27, 34])

    def test_dig_classes_follow_the_strategies(self) -> None:
        """The DIG band is routed as the table says.  MSG-106-X"""
        checked = 0
        for opcode, row in rows().items():
            if "strategy" in row:
                expected = STRATEGIES[row["strategy"]]
                self.assertIs(routing_class(opcode, False), expected, row["name"])
                checked += 1
        self.assertEqual(checked, 21)
        self.assertIs(routing_class(241, False), RoutingClass.CONTROL)

    def test_flood_tx_and_handshake_classes_are_these(self) -> None:
        """Nothing floods by accident.  MSG-106-X"""

        def members(wanted: RoutingClass) -> set[int]:
            return {n for n in range(256) if routing_class(n, False) is wanted}

        self.assertEqual(
            members(RoutingClass.FLOOD), {20, 27, 32, 34, 92, 200, 201, 202, 207, 208, 240}
        )
        self.assertEqual(members(RoutingClass.TX), {21})
        self.assertEqual(members(RoutingClass.HANDSHAKE), {1})

    def test_chia_requests_and_answers_are_unicast(self) -> None:
        """Requests are what asks or has valid replies; answers are the rest.  MSG-106-X"""
        answers = {reply for row in rows().values() for reply in row.get("valid_replies") or ()}
        for opcode, row in rows().items():
            if row["band"] != "chia":
                continue
            verb = row["name"].split("_")[0]
            if verb == "request" or row["valid_replies"]:
                expected = RoutingClass.REQUEST
            elif verb in ("respond", "reject") or opcode in answers or opcode in (91, 255):
                expected = RoutingClass.RESPONSE
            else:
                continue
            self.assertIs(routing_class(opcode, True), expected, row["name"])

    def test_unclassified_opcodes_are_delivered_only(self) -> None:
        """What no table classifies is neither forwarded nor answered.  MSG-106-X"""
        for opcode in (0, 2, 4, 3, 5, 35, 42, 69, 108, 111, 114, 199, 220, 226, 239, 246, 254):
            self.assertIs(routing_class(opcode, False), RoutingClass.UNKNOWN, opcode)

    def test_chia_accepts_these_unasked(self) -> None:
        """The list of wire §7; never a block, for which Chia bans.  wire §7"""
        self.assertEqual(CHIA_UNSOLICITED, {20, 21, 32, 92, 34, 35, 42})


class Replies(SynchronousTestCase):
    """What answers what."""

    def test_replies_are_those_of_the_table(self) -> None:
        """Valid replies equal Chia's table, and are empty elsewhere.  MSG-104-X, wire §6"""
        table = rows()
        for opcode in range(256):
            expected = frozenset(table.get(opcode, {}).get("valid_replies") or ())
            self.assertEqual(valid_replies(opcode), expected, opcode)

    def test_replies_are_of_the_response_class(self) -> None:
        """Whatever answers a request is itself unicast, ERLAY and introducer aside.  MSG-106-X"""
        for opcode in range(256):
            for reply in valid_replies(opcode) - {212, 219}:
                self.assertIs(routing_class(reply, True), RoutingClass.RESPONSE, reply)

    def test_rejections_are_chias_rejects_and_error(self) -> None:
        """An answer that says no is recognized by its opcode.  API-002.7"""
        rejections = {n for n in range(256) if is_rejection(n)}
        self.assertEqual(rejections, {28, 31, 47, 53, 56, 59, 61, 87, 100, 103, 255})


class Lanes(SynchronousTestCase):
    """Priority lanes."""

    def test_lanes_are_those_of_the_table(self) -> None:
        """Every opcode has its lane; what the table does not list is normal.  PRI-001"""
        table = rows()
        for opcode in range(256):
            row = table.get(opcode, {"lane": "normal"})
            expected = MessagePriority[row["lane"].upper()]
            self.assertIs(MessagePriority.of(opcode), expected, opcode)

    def test_lanes_are_ordered(self) -> None:
        """Critical goes first, bulk last.  PRI-003"""
        lanes = sorted((MessagePriority.BULK, MessagePriority.CRITICAL, MessagePriority.NORMAL))
        self.assertEqual([lane.name for lane in lanes], ["CRITICAL", "NORMAL", "BULK"])
        self.assertEqual([lane.value for lane in lanes], [0, 1, 2])

    def test_chia_lookup_ignores_the_dig_band(self) -> None:
        """The two look-ups of the seed cover their own band and are total.  PRI-001"""
        for opcode in range(256):
            lane, normal = MessagePriority.of(opcode), MessagePriority.NORMAL
            chia, dig = (normal, lane) if is_dig(opcode) else (lane, normal)
            self.assertIs(MessagePriority.from_chia_type(opcode), chia, opcode)
            self.assertIs(MessagePriority.from_dig_type(opcode), dig, opcode)
        for beyond in (-1, 256, 70000):
            self.assertIs(MessagePriority.from_chia_type(beyond), MessagePriority.NORMAL)
            self.assertIs(MessagePriority.from_dig_type(beyond), MessagePriority.NORMAL)
