"""Blocks as large as blocks may be; not valid ones, but both sides decode and encode them.

Imports ``chia_rs`` only: chia-blockchain's environment has it as well as ours.
"""

from __future__ import annotations

from chia_rs import FullBlock, Program

ANSWER_BYTES = 50 * 1024 * 1024
"""What chia-blockchain lets an answer have."""

BLOCKS_AN_ANSWER = 32
"""What it lets one ask for at a time, and then as many as fill an answer."""


def big_block(template: str) -> FullBlock:
    """A block of which 32 fill an answer, but for some hundred bytes.

    :param template: any block, in hex.
    """
    block = FullBlock.from_bytes(bytes.fromhex(template))
    size = ANSWER_BYTES // BLOCKS_AN_ANSWER - len(bytes(block)) - 16
    # One atom: CLVM's longest form of a length below 2^27, and so many bytes.
    generator = (0xF0_00_00_00 + size).to_bytes(4, "big") + bytes(size)
    return block.replace(transactions_generator=Program.from_bytes(generator))
