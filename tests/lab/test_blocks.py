"""Compact blocks in the lab: what they cost, and what mempools have."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.effects import Send
from dig_gossip.lab.blocks import BlockMachine, Mempool, block_of, count_of, transactions_of
from dig_gossip.lab.engine_options import Mempools
from dig_gossip.lab.machine import PAYLOAD, as_peer
from dig_gossip.lab.models.frame import ModelFrame
from dig_gossip.lab.run import run
from dig_gossip.lab.scenario import parse
from dig_gossip.lab.values import RunResult
from dig_gossip.testing.blocks import tx_id_of
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import DigMessageType

CHAIN = """
[overlay]
nodes = 25
links = 3
[[phase]]
name = "warmup"
messages = 6
rate = 0.5
sizes = [50000]
[[phase]]
name = "measured"
messages = 4
rate = 0.5
sizes = [50000]
"""


def simulate(protocol: str, extra: str = "") -> RunResult:
    """Run the scenario with blocks."""
    return run(parse(CHAIN + extra), protocol, 1)


def payload(number: int, size: int) -> Message:
    """A message as a run publishes it."""
    return Message(PAYLOAD, None, number.to_bytes(8, "big").ljust(size, b"\0"))


class BlockTests(SynchronousTestCase):
    """Whole runs."""

    def test_compact_blocks_cost_a_fraction(self) -> None:
        """Everybody still gets every block.  CBK-001"""
        compact, full = simulate("compact-blocks"), simulate("plumtree")
        self.assertEqual(compact.facts["delivered_share"], 1.0)
        self.assertEqual(compact.facts["repeated_deliveries"], 0.0)
        self.assertGreater(full.facts["bytes_over_ideal"], 1.0)
        self.assertLess(compact.facts["bytes_over_ideal"], 0.2)

    def test_full_mempools_need_no_round_trip(self) -> None:
        """Nothing is asked for.  CBK-003"""
        facts = simulate("compact-blocks", "[mempools]\nlacking = 0\n").facts
        self.assertEqual(facts["engine.compact_complete"], facts["engine.compact_received"])
        self.assertEqual(facts["engine.compact_missing"], 0.0)

    def test_what_nobody_has_is_asked_for(self) -> None:
        """Or comes along, once others were seen to lack it.  CBK-004"""
        extra = "[mempools]\nlacking = 0.1\nsame = true\n"
        facts = simulate("compact-blocks", extra).facts
        self.assertGreater(facts["engine.compact_missing"], 0.0)
        self.assertEqual(facts["delivered_share"], 1.0)

    def test_empty_mempools(self) -> None:
        """The whole block is asked for.  CBK-004"""
        facts = simulate("compact-blocks", "[mempools]\nlacking = 1\n").facts
        self.assertEqual(facts["delivered_share"], 1.0)
        self.assertGreater(facts["bytes_over_ideal"], 1.0)


class PartTests(SynchronousTestCase):
    """Blocks, mempools, one node."""

    def test_a_block_has_the_size_of_its_payload(self) -> None:
        """So that full and compact ones are compared with the same ideal.  design §6"""
        options = Mempools(transaction_bytes=100)
        for size in (48, 49, 151, 152, 153, 5000):
            block = block_of(payload(7, size), options)
            self.assertEqual(len(block.data), size)
        self.assertEqual(count_of(151, options), 0)
        self.assertEqual(count_of(152, options), 1)
        self.assertEqual(count_of(16, options), 0)

    def test_a_mempool_lacks_its_share(self) -> None:
        """Each node another one, unless all lack the same.  CBK-003"""
        for same in (False, True):
            options = Mempools(lacking=0.5, same=same, others=3)
            pools = [Mempool(options, Random(seed)) for seed in (1, 2)]
            for pool in pools:
                pool.expect(1, 20)
                pool.expect(1, 20)
            found = [set(pool.pool) for pool in pools]
            self.assertEqual([len(ids) for ids in found], [13, 13])
            common = found[0] & found[1]
            self.assertEqual(len(common) == 10, same)
            ids = set(map(tx_id_of, transactions_of(1, 20, 450)))
            self.assertLessEqual(common, ids)
            pools[0].confirmed(1)
            self.assertEqual(len(pools[0].pool), 3)
            pools[0].expect(1, 20)
            self.assertEqual(len(pools[0].pool), 3)

    def test_what_is_pulled_by_its_hash_comes_in_full(self) -> None:
        """And what is pushed, compact.  CBK-104-X"""
        machine = BlockMachine(parse(""), 0, lambda: 0.0, Random(1))
        machine.peer_up(as_peer(1), dialed=True, rtt=0.1)
        message = payload(1, 5000)
        block = block_of(message, Mempools())
        (pushed,) = [e for e in machine.publish(message) if isinstance(e, Send)]
        self.assertEqual(pushed.message.type, DigMessageType.NEW_COMPACT_BLOCK)
        assert isinstance(pushed.message, ModelFrame)
        self.assertIs(pushed.message.payload, message)
        (peer,) = machine.tree.snapshot().eager
        (pulled,) = machine.done([Send((peer,), block, verbatim=True)])
        assert isinstance(pulled, Send)
        self.assertEqual((pulled.message.type, len(pulled.message)), (block.type, len(block)))
