"""Frozen values without behavior: configuration, peers, reputation, statistics."""

from __future__ import annotations

from dig_gossip.types.config import (
    BackpressureConfig,
    CompactBlockConfig,
    DandelionConfig,
    ErlayConfig,
    GossipConfig,
    IntroducerConfig,
    PeerIdRotationConfig,
    PeerOptions,
    PlumtreeConfig,
    RelayConfig,
    TorConfig,
)
from dig_gossip.types.network import Network
from dig_gossip.types.peer import (
    AddressLike,
    Bytes32,
    NodeType,
    PeerAddress,
    PeerConnection,
    PeerId,
    PlumtreeRole,
    TransportKind,
    parse_peer_id,
)
from dig_gossip.types.reputation import PeerReputation, PenaltyReason
from dig_gossip.types.stats import GossipStats, RelayStats

__all__ = [
    "GossipConfig",
    "BackpressureConfig",
    "CompactBlockConfig",
    "DandelionConfig",
    "ErlayConfig",
    "IntroducerConfig",
    "Network",
    "PeerIdRotationConfig",
    "PeerOptions",
    "PlumtreeConfig",
    "RelayConfig",
    "TorConfig",
    "AddressLike",
    "Bytes32",
    "NodeType",
    "PeerAddress",
    "PeerConnection",
    "PeerId",
    "PlumtreeRole",
    "TransportKind",
    "parse_peer_id",
    "PeerReputation",
    "PenaltyReason",
    "GossipStats",
    "RelayStats",
]
