"""The provider of ``examples/chia_blocks.py`` on real block bytes."""

from __future__ import annotations

import runpy
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import SkipTest

import chia_rs
from chia_rs import FullBlock, Program, SpendBundle
from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint64
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from dig_gossip import ICompactBlockProvider, Message
from dig_gossip.service.guarded_provider import GuardedProvider
from dig_gossip.wire.chia import RespondBlock, RespondTransaction
from tests.network_case import NetworkCase
from tests.vectors import load

_EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "chia_blocks.py"


def vector(name: str) -> bytes:
    """A message's body from the golden vectors."""
    (found,) = (each for each in load("chia_messages.json") if each["name"] == name)
    return bytes.fromhex(found["hex"])


def example() -> dict[str, Any]:
    """The example's names."""
    if not _EXAMPLE.exists():
        raise SkipTest("the examples are absent")
    return runpy.run_path(str(_EXAMPLE), run_name="chia_blocks")


def bundles(count: int) -> list[SpendBundle]:
    """Variants of mainnet's bundle in the vectors, each of other coins."""
    bundle = RespondTransaction.from_bytes(vector("respond_transaction_mainnet_bundle")).transaction
    (spend,) = bundle.coin_spends
    return [
        bundle.replace(
            coin_spends=[
                spend.replace(
                    coin=chia_rs.Coin(
                        bytes32(sha256(bytes([number])).digest()),
                        spend.coin.puzzle_hash,
                        spend.coin.amount,
                    )
                )
            ]
        )
        for number in range(count)
    ]


def block_with(generator: bytes) -> FullBlock:
    """The vectors' block, with this generator and the root that goes with it."""
    block = RespondBlock.from_bytes(vector("respond_block_generator")).block
    info = chia_rs.TransactionsInfo(
        bytes32(sha256(generator).digest()),
        bytes32(bytes(32)),
        chia_rs.G2Element(),
        uint64(0),
        uint64(len(generator)),
        [],
    )
    return block.replace(
        transactions_generator=Program.from_bytes(generator),
        transactions_generator_ref_list=[],
        transactions_info=info,
    )


class ChiaProviderTests(SynchronousTestCase):
    """Cutting and putting together."""

    def setUp(self) -> None:
        self.names = example()
        self.provider = self.names["ChiaBlockProvider"]()
        self.bundles = bundles(20)
        spends = [spend for bundle in self.bundles for spend in self.names["spends_of"](bundle)]
        self.block = block_with(self.names["generator_of"](spends))
        self.message = Message(27, None, bytes(RespondBlock(self.block)))

    def test_contract(self) -> None:
        """All methods are there.  CBK-103-X"""
        self.assertTrue(verifyObject(ICompactBlockProvider, self.provider))

    def test_generator_is_chias_own(self) -> None:
        """What is put together is what chia_rs makes of the same spends.  CBK-001"""
        made = chia_rs.solution_generator(
            [
                (spend.coin, bytes(spend.puzzle_reveal), bytes(spend.solution))
                for bundle in reversed(self.bundles)
                for spend in bundle.coin_spends
            ]
        )
        spends = self.names["cut"](made)
        self.assertEqual(len(spends), 20)
        self.assertEqual(self.names["generator_of"](spends), made)

    def test_block_is_the_same_after_all(self) -> None:
        """Byte for byte.  CBK-103-X"""
        split = self.provider.split(self.message)
        self.assertEqual(len(split.transactions), 20)
        self.assertEqual(split.header_hash, self.block.header_hash)
        self.assertEqual(self.provider.header_hash(split.header), split.header_hash)
        arguments = (split.header_hash, split.height, split.header)
        self.assertEqual(self.provider.join(*arguments, split.transactions), self.message)
        self.assertIsNone(self.provider.join(*arguments, split.transactions[:-1]))

    def test_other_blocks_go_in_full(self) -> None:
        """No generator, references to earlier blocks, compressed, not a list.  CBK-103-X"""
        spends = [
            (spend.coin, bytes(spend.puzzle_reveal), bytes(spend.solution))
            for bundle in self.bundles
            for spend in bundle.coin_spends
        ]
        compressed = block_with(chia_rs.solution_generator_backrefs(spends))
        for block in (
            RespondBlock.from_bytes(vector("respond_block_minimal")).block,
            RespondBlock.from_bytes(vector("respond_block_generator")).block,
            block_with(b"\xff\x01\x80"),
            compressed,
        ):
            message = Message(27, None, bytes(RespondBlock(block)))
            self.assertIsNone(self.provider.split(message))

    @given(st.binary(max_size=80), st.booleans())
    def test_arbitrary_bytes(self, data: bytes, prefixed: bool) -> None:
        """None, or what gives the same bytes again; and nothing gets past the guard.  CNC-103-X"""
        if prefixed:
            data = b"\xff\x01\xff\xff" + data
        spends = self.names["cut"](data)
        if spends is not None:
            self.assertEqual(self.names["generator_of"](spends), data)
        guarded = GuardedProvider(self.provider)
        self.assertIsNone(guarded.split(Message(27, None, data)))
        self.assertIsNone(guarded.header_hash(data))
        self.assertIsNone(guarded.join(bytes(32), 0, data, [data]))
        self.flushLoggedErrors()


class ChiaBlockNetworkTests(NetworkCase):
    """Between two nodes."""

    def test_block_travels_as_spends_of_the_mempool(self) -> None:
        """A tenth of the bytes; a spend that is missing is fetched.  CBK-003, CBK-004"""
        names = example()
        all_bundles = bundles(40)
        spends = [spend for bundle in all_bundles for spend in names["spends_of"](bundle)]
        block = block_with(names["generator_of"](spends))
        message = Message(27, None, bytes(RespondBlock(block)))
        one, other = self.nodes(2)
        for node in (one, other):
            provider = names["ChiaBlockProvider"]()
            for bundle in all_bundles[: 39 if node is other else 40]:
                provider.add(bundle)
            node.handle.set_compact_block_provider(provider)
        self.connect(one, other)
        receiver = other.handle.inbound_receiver()
        before = self.network.run(other.handle.stats()).bytes_received
        self.network.run(one.handle.broadcast(message))
        self.network.advance(1)
        self.assertEqual(self.network.run(receiver.get()), (one.peer_id, message))
        received = self.network.run(other.handle.stats()).bytes_received - before
        self.assertLess(received, len(message) / 5)
        self.assertEqual(self.counter(other, "compact_partial"), 1)
