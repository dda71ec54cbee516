"""Tables of a scenario about the world around engines other than Plumtree.

Programs row of the stage table. What is a setting of the node has the node's own class; here is
what a scenario must say besides: what is in mempools, and so on.
"""

from __future__ import annotations

import attrs

from dig_gossip.types.options import checked, flag, integer, number, option


@attrs.frozen(kw_only=True, field_transformer=checked("mempools"))
class Mempools:
    """What nodes know of a block before it comes; for ``compact-blocks``."""

    transaction_bytes: int = option(
        450,
        integer(1, 100_000),
        "The size of each transaction. A block has as many as fit into its payload size.",
        unit="bytes",
    )
    lacking: float = option(
        0.02,
        number(0, 1),
        "The share of a block's transactions that a node does not have.",
    )
    same: bool = option(
        False,
        flag,
        """Whether all nodes lack the same transactions, which only the block's maker has. Off: each
        lacks others.""",
    )
    others: int = option(
        0,
        integer(0, 1_000_000),
        "How many transactions a mempool has that are in no block.",
        unit="transactions",
    )
