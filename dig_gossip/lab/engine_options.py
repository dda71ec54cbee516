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


@attrs.frozen(kw_only=True, field_transformer=checked("addresses"))
class Addresses:
    """Where nodes are, and what they begin with; for ``address-books``."""

    networks: int = option(
        200,
        integer(1, 20_000),
        "Over how many networks (IPv4 /16) honest nodes are spread.",
        unit="networks",
    )
    attacker_networks: int = option(
        20,
        integer(1, 20_000),
        "Over how many networks all nodes of an attacker's are spread.",
        unit="networks",
    )
    known: int = option(
        20,
        integer(1, 1000),
        "How many living nodes an introducer names to whoever asks.",
        unit="nodes",
    )
    inbound: int = option(
        40,
        integer(1, 1000),
        "How many inbound sessions an honest node has room for.",
        unit="sessions",
    )
    attacker_dials: int = option(
        4,
        integer(0, 1000),
        "To how many honest nodes each node of an attacker's keeps a session.",
        unit="sessions",
    )


@attrs.frozen(kw_only=True, field_transformer=checked("bulk"))
class Bulk:
    """Answers with old blocks that keep uplinks busy, beside what is spread.

    They are in no count of bytes; needs ``network.uplink_mbit``.
    """

    share: float = option(
        0.0, number(0, 1), "The share of nodes that always have such an answer to send; 0: none."
    )
    bytes: int = option(
        1_048_576, integer(1024, 50_000_000), "The size of an answer.", unit="bytes"
    )
    outstanding: int = option(
        2, integer(1, 100), "How many are asked for at a time.", unit="answers"
    )
