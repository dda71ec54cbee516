"""Peer-to-peer networking and gossip for the DIG Network, on Twisted::

    service = GossipService(GossipConfig(listen_addr="0.0.0.0:9444"))
    handle = await service.start()
    await handle.broadcast(Message(DigMessageType.NEW_ATTESTATION, None, b"..."))

Everything public is here; importing it installs no reactor.
"""

from __future__ import annotations

from dig_gossip._version import __version__
from dig_gossip.discovery.introducer_server import IntroducerServer
from dig_gossip.discovery.values import ExtendedPeerInfo
from dig_gossip.errors import (
    AddressManagerStore,
    AlreadyStarted,
    Backpressured,
    ChannelClosed,
    ClientError,
    ClientErrorKind,
    ConnectionFiltered,
    DiscoveryError,
    DuplicateConnection,
    GossipError,
    IntroducerError,
    IntroducerNotConfigured,
    InvalidConfig,
    Io,
    MaxConnectionsReached,
    PeerBanned,
    PeerNotConnected,
    ProxyError,
    RelayError,
    RelayNotConfigured,
    RequestRejected,
    RequestTimeout,
    SelfConnection,
    ServiceNotStarted,
    SketchDecodeFailed,
    SketchError,
    WrongDispatch,
)
from dig_gossip.gossip.compact_provider import ICompactBlockProvider, SplitBlock
from dig_gossip.gossip.values import Verdict
from dig_gossip.service.gossip_handle import GossipHandle
from dig_gossip.service.gossip_service import GossipService, Lifecycle
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.tls.identity import Identity
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.introducer import IntroducerServerConfig, VettedPeer
from dig_gossip.types.network import Network
from dig_gossip.types.peer import (
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
from dig_gossip.types.sections import (
    BackpressureConfig,
    CompactBlockConfig,
    DandelionConfig,
    ErlayConfig,
    IntroducerConfig,
    PeerIdRotationConfig,
    PeerOptions,
    PlumtreeConfig,
    RelayConfig,
    TorConfig,
)
from dig_gossip.types.stats import GossipStats, RelayStats
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.message import Message, message_hash
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType, MessagePriority

#: Upstream's name for a peer's address.
PeerInfo = PeerAddress

__all__ = [
    "__version__",
    # the node
    "GossipService",
    "GossipHandle",
    "Lifecycle",
    "Subscription",
    "Verdict",
    "Identity",
    # what an application may supply
    "ICompactBlockProvider",
    "SplitBlock",
    # configuration
    "GossipConfig",
    "Network",
    "PlumtreeConfig",
    "PeerOptions",
    "CompactBlockConfig",
    "IntroducerConfig",
    "RelayConfig",
    "DandelionConfig",
    "PeerIdRotationConfig",
    "TorConfig",
    "ErlayConfig",
    "BackpressureConfig",
    # an introducer
    "IntroducerServer",
    "IntroducerServerConfig",
    "VettedPeer",
    # peers
    "Bytes32",
    "ExtendedPeerInfo",
    "NodeType",
    "PeerAddress",
    "PeerConnection",
    "PeerId",
    "PeerInfo",
    "PeerReputation",
    "PenaltyReason",
    "PlumtreeRole",
    "TransportKind",
    "parse_peer_id",
    # messages
    "Message",
    "message_hash",
    "Capability",
    "ChiaMessageType",
    "DigMessageType",
    "MessagePriority",
    # statistics
    "GossipStats",
    "RelayStats",
    # errors
    "GossipError",
    "AddressManagerStore",
    "AlreadyStarted",
    "Backpressured",
    "ChannelClosed",
    "ClientError",
    "ClientErrorKind",
    "ConnectionFiltered",
    "DiscoveryError",
    "DuplicateConnection",
    "IntroducerError",
    "IntroducerNotConfigured",
    "InvalidConfig",
    "Io",
    "MaxConnectionsReached",
    "PeerBanned",
    "PeerNotConnected",
    "ProxyError",
    "RelayError",
    "RelayNotConfigured",
    "RequestRejected",
    "RequestTimeout",
    "SelfConnection",
    "ServiceNotStarted",
    "SketchDecodeFailed",
    "SketchError",
    "WrongDispatch",
]
