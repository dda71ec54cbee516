"""What the node counts."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class GossipStats:
    """One consistent snapshot of a node; totals never decrease.

    Source: seed, behaviour API-008, STA-101-X (``extra``).
    """

    total_connections: int = 0
    connected_peers: int = 0
    inbound_connections: int = 0
    outbound_connections: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    known_addresses: int = 0
    seen_messages: int = 0
    relay_connected: bool = False
    relay_peer_count: int = 0
    extra: Mapping[str, int] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class RelayStats:
    """The registered relay session; absent while there is none.

    Source: seed, behaviour API-008.1.
    """

    connected: bool = False
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    reconnect_attempts: int = 0
    last_connected_at: int | None = None
    relay_peer_count: int = 0
    latency_ms: int | None = None
