"""The body of the handshake, opcode 1.

Own code because ``chia_rs.Handshake`` refuses node type 8, which Chia nodes may send, and reads
any number of capabilities. What a body must say to be accepted is judged in
:mod:`dig_gossip.connection.handshake`. Source: wire §5.1, §5.4.
"""

from __future__ import annotations

import enum

import attrs

from dig_gossip.constants import MAX_CAPABILITIES
from dig_gossip.types.peer import NodeType
from dig_gossip.wire import streamable
from dig_gossip.wire.streamable import Reader, malformed


class Capability(enum.IntEnum):
    """What a node says it can do; from 200 up they are the DIG network's."""

    BASE = 1
    BLOCK_HEADERS = 2
    RATE_LIMITS_V2 = 3
    NONE_RESPONSE = 4
    MEMPOOL_UPDATES = 5
    HARD_FORK_2 = 6
    RATE_LIMITS_V3 = 7
    DIG_OPCODES = 200
    DIG_PLUMTREE = 201
    DIG_ERLAY = 202
    DIG_STEM = 203
    DIG_COMPACT = 204
    DIG_CHUNK = 205
    DIG_ONION = 206
    DIG_TREES = 207


@attrs.frozen(kw_only=True)
class Handshake:
    """What each side says first.

    :ivar network_id: name of the network; must be the same text on both sides.
    :ivar protocol_version: such as ``0.0.37``.
    :ivar software_version: free text, as the peer wrote it.
    :ivar server_port: where the node listens; 0 for nowhere.
    :ivar node_type: 1..8, see :class:`~dig_gossip.types.peer.NodeType`.
    :ivar capabilities: (id u16, value) pairs; only the value ``"1"`` enables.
    """

    network_id: str
    protocol_version: str
    software_version: str
    server_port: int
    node_type: int
    capabilities: tuple[tuple[int, str], ...]

    def __bytes__(self) -> bytes:
        return b"".join(
            (
                streamable.text(self.network_id),
                streamable.text(self.protocol_version),
                streamable.text(self.software_version),
                streamable.uint(self.server_port, 2),
                streamable.uint(self.node_type, 1),
                streamable.items(
                    self.capabilities,
                    lambda pair: streamable.uint(pair[0], 2) + streamable.text(pair[1]),
                ),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Handshake:
        """Decode a body.

        :raises ClientError: (malformed) also for a node type outside 1..8 and for more than
            ``MAX_CAPABILITIES`` capabilities.
        """
        reader = Reader(data)
        body = cls(
            network_id=reader.text(),
            protocol_version=reader.text(),
            software_version=reader.text(),
            server_port=reader.uint(2),
            node_type=read_node_type(reader),
            capabilities=reader.items(
                lambda: (reader.uint(2), reader.text()), min_size=6, max_count=MAX_CAPABILITIES
            ),
        )
        reader.finish()
        return body


def read_node_type(reader: Reader) -> int:
    """Take a node type, 1..8."""
    value = reader.uint(1)
    if not NodeType.FULL_NODE <= value <= NodeType.SOLVER:
        raise malformed(f"{value} is not a node type")
    return value
