"""Where addresses lie, and the tables that they lie in."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.slots import BUCKET_SIZE, Placement, RandomWords, SlotTable
from dig_gossip.types.peer import PeerAddress
from tests.vectors import load


class PlacementTests(SynchronousTestCase):
    """Addresses to slots."""

    def test_golden_vectors(self) -> None:
        """Bucket and position in both tables are those of other implementations.  ADR-002"""
        seen = 0
        for vector in load("address_buckets.json"):
            if vector["type"] != "bucket":
                continue
            fields, expected = vector["fields"], vector["upstream"]
            placement = Placement(bytes.fromhex(fields["key"]))
            address = PeerAddress(fields["host"], fields["port"])
            source = PeerAddress(fields["src_host"], fields["src_port"])
            group, key = address.get_group(), address.get_key()
            new = placement.new_slot(group, key, source.get_group())
            tried = placement.tried_slot(group, key)
            self.assertEqual(
                (*divmod(new, BUCKET_SIZE), *divmod(tried, BUCKET_SIZE)),
                (
                    expected["new_bucket"], expected["new_position"],
                    expected["tried_bucket"], expected["tried_position"],
                ),
                vector["name"],
            )  # fmt: skip
            seen += 1
        self.assertGreaterEqual(seen, 30)

    def test_one_source_reaches_64_buckets(self) -> None:
        """One group may tell of any number, they share 1/16 of the new table.  ADR-002"""
        placement = Placement(bytes(32))
        source = PeerAddress("9.9.9.9", 1).get_group()
        buckets = {
            placement.new_slot(bytes((a, b)), bytes(6), source) // BUCKET_SIZE
            for a in range(1, 100)
            for b in range(100)
        }
        self.assertLessEqual(len(buckets), 64)
        self.assertGreater(len(buckets), 48)

    def test_one_group_reaches_8_tried_buckets(self) -> None:
        """We may meet any number of one group, they share 1/32 of the table.  ADR-002"""
        placement = Placement(bytes(32))
        buckets = {
            placement.tried_slot(b"\x08\x08", bytes((8, 8, a, b, 0, 1))) // BUCKET_SIZE
            for a in range(100)
            for b in range(100)
        }
        self.assertEqual(len(buckets), 8)

    def test_key_of_wrong_length_is_refused(self) -> None:
        """A key has 32 bytes, not one less or more.  DSC-001"""
        for length in (31, 33):
            self.assertRaises(ValueError, Placement, bytes(length))


class SlotTableTests(SynchronousTestCase):
    """Who lies where."""

    @given(st.lists(st.integers(0, 9), max_size=60))
    def test_table_agrees_with_a_dictionary(self, toggles: list[int]) -> None:
        """Filling and emptying in any order keeps every network's lists in step.  ADR-021-X"""
        table: SlotTable[str] = SlotTable(10)
        model: dict[int, str] = {}
        for slot in toggles:
            if slot in model:
                table.clear(slot)
                del model[slot]
            else:
                table.put(slot, f"node {slot}", slot % 3)
                model[slot] = f"node {slot}"
            self.assertEqual({s: table.get(s) for s in range(10) if table.get(s)}, model)
            self.assertEqual(sorted(table.used()), sorted(model))
            self.assertEqual(len(table), len(model))
            found = {network.key: network for network in table.networks}
            self.assertEqual(len(found), len(table.networks))
            self.assertEqual(set(found), {slot % 3 for slot in model})
            for key, network in found.items():
                self.assertEqual(sorted(network.slots), sorted(s for s in model if s % 3 == key))
                self.assertEqual(network.lying, [model[slot] for slot in network.slots])

    def test_misuse_is_an_error(self) -> None:
        """A slot is neither filled nor emptied twice.  ADR-021-X"""
        table: SlotTable[str] = SlotTable(10)
        table.put(3, "a", 1)
        self.assertRaises(ValueError, table.put, 3, "b", 1)
        table.clear(3)
        self.assertRaises(ValueError, table.clear, 3)


class RandomWordsTests(SynchronousTestCase):
    """Random numbers in bulk."""

    def test_numbers_do_not_repeat_when_refilled(self) -> None:
        """After 128 numbers there are 128 others, each of 64 bits.  ADR-010"""
        words = RandomWords(Random(1))
        drawn = [words.next() for _ in range(600)]
        self.assertGreater(len(set(drawn)), 590)
        self.assertTrue(all(0 <= word < 2**64 for word in drawn))
        self.assertGreater(max(drawn), 2**63)

    def test_every_number_below_a_limit_is_drawn_alike(self) -> None:
        """From 0 to one less, none more often than the others.  ADR-010"""
        words = RandomWords(Random(4))
        counts = Counter(words.below(4) for _ in range(4000))
        self.assertEqual(set(counts), {0, 1, 2, 3})
        self.assertLess(max(counts.values()) - min(counts.values()), 200)
