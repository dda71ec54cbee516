"""Who is at the other end: ids, addresses, and what a session looks like from outside."""

from __future__ import annotations

import enum
import functools
import hashlib
import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import attrs
from chia_rs.sized_bytes import bytes32

from dig_gossip.types.ip import is_canonical_ipv4, packed_ip

if TYPE_CHECKING:
    from dig_gossip.types.reputation import PeerReputation

#: SHA-256 of the peer's public key (SubjectPublicKeyInfo), 32 bytes; ``str()`` is 64 hex digits.
PeerId: TypeAlias = bytes32
Bytes32: TypeAlias = bytes32


def parse_peer_id(text: str | bytes) -> PeerId:
    """Read a peer id from 32 bytes or from hex digits of any case, with or without ``0x``.

    :raises ValueError: anything else.
    """
    if isinstance(text, bytes):
        return bytes32(text)
    return bytes32(bytes.fromhex(text[2:] if text[:2] in ("0x", "0X") else text))


class NodeType(enum.IntEnum):
    """Chia's node types as they appear in a handshake."""

    FULL_NODE = 1
    HARVESTER = 2
    FARMER = 3
    TIMELORD = 4
    INTRODUCER = 5
    WALLET = 6
    DATA_LAYER = 7
    SOLVER = 8


class TransportKind(enum.Enum):
    """How a session reaches its peer."""

    DIRECT = "direct"
    RELAY = "relay"
    TOR = "tor"


class PlumtreeRole(enum.Enum):
    """What a session gets of a gossiped message: the message, or only its hash."""

    EAGER = "eager"
    LAZY = "lazy"


#: Characters of an IPv6 address that ends in an IPv4 address.
_LONGEST_IP: Final = 45


@functools.lru_cache(maxsize=256)  # several ask about each peer that connects
def _ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def canonical_host(host: str) -> str:
    """Write an IP literal in its one canonical form; a name becomes lower case.

    IPv4-mapped IPv6 becomes IPv4 and a scope is dropped, so that two spellings of one address
    never count as two. Source: behaviour CON-103-X.
    """
    if is_canonical_ipv4(host):
        return host
    text = host.strip().removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text.lower()
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def host_prefix(host: str) -> str:
    """What one customer has of the address space: an IPv4 address, an IPv6 /64; a name as it is.

    Limits that count by source count by this.
    """
    canonical = canonical_host(host)
    try:
        ip = ipaddress.ip_address(canonical)
    except ValueError:
        return canonical
    if ip.version == 4:
        return canonical
    return str(ipaddress.ip_network((ip, 64), strict=False))


@attrs.frozen(order=True)
class PeerAddress:
    """A host (IP literal or name, canonical) and a TCP port, 0..65535."""

    host: str = attrs.field(converter=canonical_host)
    port: int = attrs.field()

    @port.validator
    def _check_port(self, _attribute: object, value: object) -> None:
        # Numbers of chia_rs, such as the port of a row of a list, are subclasses of int.
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
            raise ValueError(f"port must be 0..65535, not {value!r}")

    @classmethod
    def parse(cls, value: AddressLike, default_port: int | None = None) -> PeerAddress:
        """Read ``"host:port"``, ``"[v6]:port"``, ``(host, port)`` or an address.

        :param default_port: used where the text names none; without it a port is required.
        :raises ValueError: a form that none of these matches.
        """
        if isinstance(value, PeerAddress):
            return value
        if isinstance(value, tuple):
            host, port = value
            if not host or not isinstance(host, str):
                raise ValueError(f"host must be text, not {host!r}")
            return cls(host, port)
        if not isinstance(value, str):
            raise ValueError(f"an address is host:port, not {value!r}")
        text = value.strip()
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError(f"an IPv6 address is written [address]:port, not {value!r}")
            port_text = rest[1:]
        elif text.count(":") > 1:
            host, port_text = text, ""  # a bare IPv6 literal
        else:
            host, _, port_text = text.partition(":")
        if not host:
            raise ValueError(f"an address is host:port, not {value!r}")
        if not port_text:
            if default_port is None:
                raise ValueError(f"{value!r} names no port")
            return cls(host, default_port)
        if not (port_text.isascii() and port_text.isdigit()):
            raise ValueError(f"port must be a number, not {port_text!r}")
        return cls(host, int(port_text))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address; None for a name."""
        return _ip_of(self.host) if len(self.host) <= _LONGEST_IP else None

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a loopback address."""
        ip = self.ip
        return ip is not None and ip.is_loopback

    def get_group(self) -> bytes:
        """The network that the address counts to: what one operator can own many of.

        :returns: 2 octets for IPv4, 4 for IPv6, 4 bytes of the SHA-256 of a name.
        Divergence: no family tag (ADR-001). The length tells IPv4 from the rest, and whoever
        finds a name whose hash equals an IPv6 group has only put two of its own into one.
        Source: behaviour ADR-001, API-007; wire §17.1.
        """
        return group_and_key(self, packed_ip(self.host))[0]

    def get_key(self) -> bytes:
        """The bytes that stand for the address: 6 for IPv4, 18 for IPv6, 34 for a name.

        Source: behaviour ADR-001, API-007; wire §17.1.
        """
        return group_and_key(self, packed_ip(self.host))[1]

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_COMPATIBLE = bytes(12)


def group_and_key(address: PeerAddress, packed: bytes | None) -> tuple[bytes, bytes]:
    """Both at once.

    :param packed: what :func:`~dig_gossip.types.ip.packed_ip` makes of the host.
    """
    port = address.port.to_bytes(2, "big")
    if packed is None:
        digest = hashlib.sha256(address.host.encode("utf-8", "surrogatepass")).digest()
        return digest[:4], digest + port
    if packed[:12] == _COMPATIBLE:
        packed = packed[12:]
    return packed[: 2 if len(packed) == 4 else 4], packed + port


def shown_host(address: PeerAddress, transport: TransportKind, *, is_outbound: bool) -> str | None:
    """The host that a connection with ``address`` shows to be the peer's.

    :returns: None for one through a relay, whose address it is, and for one that came through our
        onion service, from the Tor of this machine.
    """
    through_onion = transport is TransportKind.TOR and not is_outbound
    return None if through_onion or transport is TransportKind.RELAY else address.host


AddressLike: TypeAlias = PeerAddress | str | tuple[str, int]


class LaneWaits(NamedTuple):
    """Seconds for each lane."""

    critical: float = 0.0
    normal: float = 0.0
    bulk: float = 0.0


@attrs.frozen(kw_only=True)
class PeerConnection:
    """A live session as it was when asked; later changes do not show.

    Byte counters count serialized messages, without WebSocket and TLS overhead. Times are Unix
    seconds.

    :ivar queued_messages: messages that wait for the peer now, and ``queued_bytes`` their size.
    :ivar oldest_wait: seconds for which the first of any lane has waited.
    :ivar queue_wait_p99: within how many seconds 99 % of the messages that had to wait were handed
        to the transport; 0.0 if none had to.
    :ivar wire_wait_p99: the same until the transport had passed them on to the system.
    :ivar is_held: whether we read nothing from the peer, because we cannot keep up with it.
    Source: behaviour API-005, CON-006.
    """

    peer_id: PeerId
    address: PeerAddress
    is_outbound: bool
    node_type: int
    protocol_version: str
    software_version: str
    peer_server_port: int
    capabilities: frozenset[int]
    creation_time: float
    last_message_time: float
    messages_sent: int
    messages_received: int
    bytes_sent: int
    bytes_received: int
    reputation: PeerReputation
    transport: TransportKind
    plumtree: PlumtreeRole | None
    queued_messages: int = 0
    queued_bytes: int = 0
    oldest_wait: float = 0.0
    queue_wait_p99: LaneWaits = attrs.field(factory=LaneWaits)
    wire_wait_p99: LaneWaits = attrs.field(factory=LaneWaits)
    is_held: bool = False

    @property
    def bytes_written(self) -> int:
        """Alias of :attr:`bytes_sent`."""
        return self.bytes_sent

    @property
    def bytes_read(self) -> int:
        """Alias of :attr:`bytes_received`."""
        return self.bytes_received
