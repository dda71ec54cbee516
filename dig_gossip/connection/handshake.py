"""Whom we greet: what a handshake must say, what it tells about the peer, how a refusal ends.

Pure: bodies in, facts or errors out. Source: wire §4.1, §4.2, §5; behaviour §6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import attrs

from dig_gossip.constants import (
    MAX_RAW_SOFTWARE_VERSION_BYTES,
    MAX_SOFTWARE_VERSION_BYTES,
    MIN_COMPATIBLE_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
)
from dig_gossip.errors import (
    ChannelClosed,
    ClientError,
    ClientErrorKind,
    ConnectionFiltered,
    DuplicateConnection,
    GossipError,
    MaxConnectionsReached,
    PeerBanned,
    SelfConnection,
    ServiceNotStarted,
)
from dig_gossip.types.config import GossipConfig
from dig_gossip.types.peer import NodeType, PeerAddress
from dig_gossip.util.sanitize import sanitize_text, strip_control
from dig_gossip.wire.handshake import Capability, Handshake
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType

#: Who may dial us: full nodes, and Rust dialers, which say that they are wallets.
LISTENER_NODE_TYPES: Final[frozenset[int]] = frozenset({NodeType.FULL_NODE, NodeType.WALLET})
#: Whom we want to have dialed.
DIALER_NODE_TYPES: Final[frozenset[int]] = frozenset({NodeType.FULL_NODE})

DEFAULT_CAPABILITIES: Final[tuple[Capability, ...]] = (
    Capability.BASE,
    Capability.BLOCK_HEADERS,
    Capability.RATE_LIMITS_V2,
    Capability.HARD_FORK_2,
    Capability.DIG_OPCODES,
    Capability.DIG_PLUMTREE,
    Capability.DIG_CHUNK,
)


def offered_capabilities(config: GossipConfig) -> frozenset[int]:
    """What a node of this configuration offers; a compact block provider adds its own later.

    Source: wire §5.4. Divergence: 206, not in the texts: the peer takes addresses of onion
    services, which others would have to refuse one by one; and 207, trees with tags.
    """
    offered = set(DEFAULT_CAPABILITIES)
    if config.used_tor is not None:
        offered.add(Capability.DIG_ONION)
    if config.dandelion is not None and config.dandelion.enabled:
        offered.add(Capability.DIG_STEM)
    if config.plumtree.tagged_trees:
        offered.add(Capability.DIG_TREES)
    if config.erlay is not None:
        offered.add(Capability.DIG_ERLAY)
    return frozenset(offered)


_ENABLED = "1"
_MIN_VERSION: Final = tuple(int(part) for part in MIN_COMPATIBLE_PROTOCOL_VERSION.split("."))
_MAX_VERSION_PART = 2**32 - 1
_MAX_VERSION_PART_DIGITS = 10
_SHOWN_PROTOCOL_VERSION_CHARS = 32

#: The Rust crate's name for itself; ours is dig-gossip-py and does not match.
_RUST_PREFIX = "dig-gossip/"
_RUST_VERSION = re.compile(r"dig-gossip/([0-9]{1,9})\.([0-9]{1,9})(?![0-9])")
#: From here on the Rust crate lives with opcodes and ids that it does not know.
_RUST_TOLERANT = (0, 23)
_RUST_DIALER_VERSION = "0.0.0"

_INVALID_HANDSHAKE: Final = (1002, "-6")
_CLIENT_ERROR_CLOSE: Final[dict[ClientErrorKind, tuple[int, str]]] = {
    ClientErrorKind.WRONG_NETWORK: (1002, "110"),
    ClientErrorKind.WRONG_NODE_TYPE: (1008, "-6"),
    ClientErrorKind.MALFORMED: (1002, "-4"),
    ClientErrorKind.INVALID_RESPONSE: (1002, "-4"),
}
#: Chia has no number for most of these: 1 is "unknown".
_CLOSE: Final[dict[type[GossipError], tuple[int, str]]] = {
    SelfConnection: (1002, "-5"),
    PeerBanned: (1008, "1"),
    ConnectionFiltered: (1008, "1"),
    MaxConnectionsReached: (1013, "1"),
    DuplicateConnection: (1000, "1"),
    ServiceNotStarted: (1001, "1"),
    ChannelClosed: (1001, "1"),
}


@attrs.frozen(kw_only=True)
class RemoteHandshake:
    """What an accepted handshake says about the peer.

    :ivar node_type: one of those that :func:`validate` was told to accept.
    :ivar protocol_version: clean text, at most 32 characters.
    :ivar software_version: stripped of control characters, at most 128 bytes, may be empty.
    :ivar server_port: where the peer says it listens, 0..65535; 0 for nowhere.
    :ivar capabilities: the ids whose value was ``"1"``, at most 64.
    """

    node_type: int
    protocol_version: str
    software_version: str
    server_port: int
    capabilities: frozenset[int]

    def has(self, capability: int) -> bool:
        """Whether the peer advertises the capability."""
        return capability in self.capabilities

    @property
    def tolerates_dig(self) -> bool:
        """Whether opcodes 200..254 may be sent to the peer from the start.

        Source: wire §4.2.
        """
        if self.has(Capability.DIG_OPCODES):
            return True
        match = _RUST_VERSION.match(self.software_version)
        return match is not None and (int(match[1]), int(match[2])) >= _RUST_TOLERANT

    @property
    def accepts_correlated_requests(self) -> bool:
        """Whether requests other than ``RequestPeers`` may carry an id.

        Early versions of the Rust crate drop the link on them. They dial as ``0.0.0``, listen as
        ``dig-gossip/0.1``, and never advertise capability 200. Source: wire §4.1.
        """
        return self.tolerates_dig or not self.is_rust

    @property
    def is_rust(self) -> bool:
        """Whether the peer may be a node of the Rust crate."""
        return not self.has(Capability.DIG_OPCODES) and (
            self.software_version == _RUST_DIALER_VERSION
            or self.software_version.startswith(_RUST_PREFIX)
        )


def build(
    *,
    network_id: str,
    software_version: str,
    server_port: int,
    capabilities: Iterable[int] = DEFAULT_CAPABILITIES,
    node_type: NodeType = NodeType.FULL_NODE,
) -> Handshake:
    """Make our own handshake, the same in both directions.

    :param network_id: as the handshake spells it.
    :param server_port: where we listen, 0 for nowhere.
    """
    return Handshake(
        network_id=network_id,
        protocol_version=PROTOCOL_VERSION,
        software_version=software_version,
        server_port=server_port,
        node_type=node_type.value,
        capabilities=tuple((int(capability), _ENABLED) for capability in capabilities),
    )


def introduce(
    config: GossipConfig, network: str, bound: PeerAddress | None, capabilities: Iterable[int]
) -> Handshake:
    """Make a node's handshake.

    :param network: as the handshake spells it.
    :param bound: where the node listens, if anywhere, or what leads there.
    Source: behaviour CON-001.3; TOR-101-X: through Tor alone no port, because the address that a
    peer sees is an exit's.
    """
    advertised = None if config.is_tor_only else config.external_addr or bound
    return build(
        network_id=network,
        software_version=config.software_version,
        server_port=advertised.port if advertised is not None else 0,
        capabilities=sorted(capabilities),
    )


def decode(frame: bytes) -> Handshake:
    """Read the first frame of a connection.

    :raises ClientError: (missing_handshake) it is anything but a handshake that decodes.
    Source: behaviour CON-002.3.
    """
    try:
        message = Message.from_bytes(frame)
        if message.type == ChiaMessageType.HANDSHAKE:
            return Handshake.from_bytes(message.data)
        text = f"the first message has opcode {message.type}"
    except ClientError as error:
        text = str(error)
    raise ClientError(ClientErrorKind.MISSING_HANDSHAKE, text)


def validate(body: Handshake, *, network_id: str, node_types: frozenset[int]) -> RemoteHandshake:
    """Judge a handshake; the first rule that it breaks is the one reported.

    :param network_id: ours, compared verbatim.
    :param node_types: those to accept, such as :data:`LISTENER_NODE_TYPES`.
    :raises ClientError: wrong_network, bad_version or wrong_node_type.
    Source: wire §5.3; behaviour CON-003, CON-003.1 to CON-003.6, CON-008.
    """
    if not body.network_id:
        raise ClientError(ClientErrorKind.WRONG_NETWORK, "the peer names no network")
    if not body.protocol_version:
        raise ClientError(ClientErrorKind.BAD_VERSION, "the peer names no protocol version")
    if body.network_id != network_id:
        raise ClientError(ClientErrorKind.WRONG_NETWORK, f"the peer is on {body.network_id}")
    if not protocol_version_compatible(body.protocol_version):
        raise ClientError(
            ClientErrorKind.BAD_VERSION, f"protocol version {body.protocol_version} is not usable"
        )
    software_version = sanitize_software_version(body.software_version)
    if body.node_type not in node_types:
        raise ClientError(
            ClientErrorKind.WRONG_NODE_TYPE, f"node type {body.node_type} is not welcome here"
        )
    return RemoteHandshake(
        node_type=body.node_type,
        # What follows the third part is free text, so this is no cleaner than any other text.
        protocol_version=sanitize_text(
            body.protocol_version.strip(), _SHOWN_PROTOCOL_VERSION_CHARS
        ),
        software_version=software_version,
        server_port=body.server_port,
        capabilities=frozenset(code for code, value in body.capabilities if value == _ENABLED),
    )


def protocol_version_compatible(text: str) -> bool:
    """Whether a protocol version is at least ``MIN_COMPATIBLE_PROTOCOL_VERSION``.

    Compared as numbers, up to three parts, missing ones 0, further ones ignored; what is not
    numbers is not compatible. Source: behaviour CON-003.1.
    """
    version = _version_triple(text)
    return version is not None and version >= _MIN_VERSION


def sanitize_software_version(text: str) -> str:
    """Strip control and format characters, and refuse what is too long to keep.

    :returns: at most 128 UTF-8 bytes; may be empty. Idempotent.
    :raises ClientError: (bad_version) more than 1024 bytes before stripping or 128 after.
    Source: behaviour CON-008.
    """
    # A character has at least one byte, so a long text need not be encoded to be measured.
    if len(text) > MAX_RAW_SOFTWARE_VERSION_BYTES or (
        _utf8_length(text) > MAX_RAW_SOFTWARE_VERSION_BYTES
    ):
        raise ClientError(ClientErrorKind.BAD_VERSION, "the software version is too long")
    clean = strip_control(text)
    if _utf8_length(clean) > MAX_SOFTWARE_VERSION_BYTES:
        raise ClientError(ClientErrorKind.BAD_VERSION, "the software version is too long")
    return clean


def close_code_and_reason(error: GossipError) -> tuple[int, str]:
    """How to tell the other side over the WebSocket that the connection is refused.

    :returns: a close code, and as its text the number of Chia's error, which Chia's nodes log.
    Source: wire §2; behaviour CON-002.5, CON-003.6.
    """
    if isinstance(error, ClientError):
        return _CLIENT_ERROR_CLOSE.get(error.kind, _INVALID_HANDSHAKE)
    for error_class, close in _CLOSE.items():
        if isinstance(error, error_class):
            return close
    return 1011, "125"  # internal protocol error: ours


def _version_triple(text: str) -> tuple[int, ...] | None:
    parts = text.strip().split(".", 3)[:3]
    numbers = []
    for part in parts:
        digits = part.lstrip("0")
        if not (part.isascii() and part.isdigit()) or len(digits) > _MAX_VERSION_PART_DIGITS:
            return None
        number = int(digits or "0")
        if number > _MAX_VERSION_PART:
            return None
        numbers.append(number)
    return (*numbers, 0, 0)[:3]


def _utf8_length(text: str) -> int:
    # Text from the wire has no lone surrogates; text from elsewhere must not raise either.
    return len(text.encode("utf-8", "replace"))
