"""Print what Chia's own code says about its messages, as one JSON object.

Run with the Python of ``.envs/chia``; none of our code is imported. ``full_node`` and ``wallet``
list the opcodes for which such a node has a handler and which a full node may send.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json

from chia.full_node.full_node_api import FullNodeAPI
from chia.protocols.outbound_message import NodeType
from chia.protocols.protocol_message_type_to_node_type import ProtocolMessageTypeToNodeType
from chia.wallet.wallet_node_api import WalletNodeAPI


def taken(api: type) -> list[int]:
    """Opcodes that a node takes from a full node."""
    return sorted(
        kind.value
        for kind in api.metadata.message_type_to_request  # type: ignore[attr-defined]
        if NodeType.FULL_NODE in ProtocolMessageTypeToNodeType.get(kind, ())
    )


print(
    json.dumps({"event": "tables", "full_node": taken(FullNodeAPI), "wallet": taken(WalletNodeAPI)})
)
