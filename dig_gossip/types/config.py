"""The configuration of a node: one frozen object, checked when it is made.

Valid is not the same as available: a configuration may ask for a feature that this version does
not have; :func:`check_available` refuses that when a service is made of it.

Source: behaviour §2, seed ``GossipConfig``.
"""
# ruff: noqa: RUF009 - section() declares a field, as attrs.field() does

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
from chia_rs.sized_bytes import bytes32
from twisted.internet.interfaces import IHostnameResolver, IReactorTime

from dig_gossip import constants as c
from dig_gossip._version import __version__
from dig_gossip.errors import InvalidConfig
from dig_gossip.types.network import PRESETS, Network
from dig_gossip.types.options import (
    IPNetwork,
    about,
    checked,
    choice,
    flag,
    https_url,
    integer,
    number,
    option,
    optional,
    read_address,
    read_bytes32,
    read_dns_servers,
    read_ip_address,
    read_list,
    read_networks,
    read_optional_path,
    read_path,
    read_software_version,
    section,
    show,
    text,
)
from dig_gossip.types.peer import AddressLike, PeerAddress, PeerId
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

__all__ = [
    "GossipConfig",
    "BackpressureConfig",
    "CompactBlockConfig",
    "DandelionConfig",
    "ErlayConfig",
    "IntroducerConfig",
    "PeerIdRotationConfig",
    "PeerOptions",
    "PlumtreeConfig",
    "RelayConfig",
    "TorConfig",
    "check_available",
    "unavailable_features",
]

MAX_BOOTSTRAP_PEERS = 1000
_MAX_CONNECTIONS = 10_000


def _read_listen_addr(value: AddressLike) -> PeerAddress:
    return read_ip_address(value, c.DEFAULT_P2P_PORT)


def _read_external_addr(value: AddressLike | None) -> PeerAddress | None:
    if value is None:
        return None
    address = read_ip_address(value)
    if address.port == 0 or address.ip is None or address.ip.is_unspecified:
        raise ValueError(f"must be an address that others can dial, not {address}")
    return address


def _read_network(value: Network | str) -> Network:
    return value if isinstance(value, Network) else Network.by_name(value)


def _read_network_id(value: bytes | str | None) -> bytes32 | None:
    network_id = read_bytes32(value)
    if network_id is not None and not any(network_id):
        raise ValueError("must not be all zero; leave it out to take the network's own id")
    return network_id


def _read_peer_id(value: bytes | str | None) -> PeerId | None:
    peer_id = read_bytes32(value)
    return peer_id if peer_id is not None and any(peer_id) else None


def _read_bootstrap_peers(
    value: Iterable[AddressLike], config: GossipConfig | None = None
) -> tuple[PeerAddress, ...]:
    port = config.network.default_port if config is not None else c.DEFAULT_P2P_PORT
    peers: dict[PeerAddress, None] = {}
    for item in read_list(value, MAX_BOOTSTRAP_PEERS):
        address = read_address(item, port)
        if address.port == 0:
            raise ValueError(f"the port of a peer must be 1 to 65535, not 0: {address}")
        peers[address] = None
    return tuple(peers)


def _read_rng(value: random.Random | None) -> random.Random | None:
    if value is not None and not isinstance(value, random.Random):
        raise ValueError(f"must be a random.Random or None, not {show(value)}")
    return value


def _read_reactor(value: Any) -> Any:  # Any: see GossipConfig.reactor
    if value is not None and not IReactorTime.providedBy(value):
        raise ValueError(f"must be a Twisted reactor or None, not {show(value)}")
    return value


def _read_resolver(value: Any) -> Any:  # Any: a zope interface, which only mypy-zope can name
    if value is not None and not IHostnameResolver.providedBy(value):
        raise ValueError(f"must provide IHostnameResolver or be None, not {show(value)}")
    return value


@attrs.frozen(kw_only=True, field_transformer=checked())
class GossipConfig:
    """Everything a node can be told. ``GossipConfig()`` alone is valid and startable.

    :raises InvalidConfig: ``field: reason`` of the first setting that cannot be used.
    :raises TypeError: an unknown keyword.

    Values are converted and copied; ``attrs.evolve`` makes a changed copy.
    Source: behaviour §2, API-003, CFG-101-X, CFG-102-X.
    """

    # --- who we are, and where ---------------------------------------------------------------
    listen_addr: PeerAddress = attrs.field(
        default=PeerAddress("0.0.0.0", c.DEFAULT_P2P_PORT),
        converter=_read_listen_addr,
        metadata=about(
            """The address to listen on: an IP literal and a port. Port 0 lets the system choose;
            ``[::]:9444`` takes IPv4 and IPv6. If it is one address, connections that we open come
            from it too.""",
            kind="host:port",
            range=f"port 0 to 65535, {c.DEFAULT_P2P_PORT} unless given",
        ),
    )
    external_addr: PeerAddress | None = attrs.field(
        default=None,
        converter=_read_external_addr,
        metadata=about(
            "The address under which others reach us, where it differs from listen_addr (NAT).",
            kind="host:port",
            range="an IP literal with a port",
            example="203.0.113.5:9444",
        ),
    )
    cert_path: str = attrs.field(
        default="",
        converter=read_path,
        metadata=about(
            """The TLS certificate as a PEM file; made at the first start if neither it nor the key
            exists. Empty, together with key_path: a new identity at every start, in memory
            only.""",
            kind="path",
            example="/var/lib/dig-gossip/node.crt",
        ),
    )
    key_path: str = attrs.field(
        default="",
        converter=read_path,
        metadata=about(
            "The private key of that certificate as a PEM file.",
            kind="path",
            range="set together with cert_path",
            example="/var/lib/dig-gossip/node.key",
        ),
    )
    peer_id: PeerId | None = attrs.field(
        default=None,
        converter=_read_peer_id,
        metadata=about(
            """The peer id that the certificate must have; a guard against the wrong key file.
            Not set, or all zero: whatever the certificate says.""",
            kind="32 bytes in hex",
            example="ab" * 32,
        ),
    )
    software_version: str = attrs.field(
        default=f"dig-gossip-py/{__version__}",
        converter=read_software_version,
        metadata=about(
            "What we tell peers that we run. Empty: nothing.",
            kind="text",
            range="at most 128 bytes of UTF-8, not 0.0.0",
        ),
    )

    # --- the network -------------------------------------------------------------------------
    network: Network = attrs.field(
        default=Network.DIG_MAINNET,
        converter=_read_network,
        metadata=about(
            """The network to join: its id, its greeting, the default port of peers, the DNS names
            that list nodes. Either a preset by name, or a table of your own.""",
            kind="name or table",
            range=" or ".join(PRESETS),
            table=Network,
        ),
    )
    network_id: bytes32 | None = attrs.field(
        default=None,
        converter=_read_network_id,
        metadata=about(
            """Another 32-byte id than that of network. The handshake then sends its 64 hex
            digits, unless handshake_network_id says otherwise.""",
            kind="32 bytes in hex",
            range="not all zero",
            example=Network.DIG_MAINNET.network_id,
        ),
    )
    handshake_network_id: str | None = option(
        None,
        optional(text(1, 64)),
        "The network id to send in the handshake and to expect there, verbatim.",
        example="mainnet",
    )

    # --- connections -------------------------------------------------------------------------
    bootstrap_peers: tuple[PeerAddress, ...] = attrs.field(
        default=(),
        converter=_read_bootstrap_peers,
        metadata=about(
            """Peers to stay connected to, as far as target_outbound_count allows. A port that is
            not given is the network's default port.""",
            kind="list of host:port",
            range=f"at most {MAX_BOOTSTRAP_PEERS}",
            example=(PeerAddress("node.example.net", 9444), PeerAddress("2001:db8::1", 9444)),
            takes_config=True,
        ),
    )
    max_connections: int = option(
        c.DEFAULT_MAX_CONNECTIONS,
        integer(1, _MAX_CONNECTIONS),
        "The most sessions at a time, inbound and outbound together.",
        unit="sessions",
    )
    target_outbound_count: int = option(
        c.DEFAULT_TARGET_OUTBOUND_COUNT,
        integer(0, _MAX_CONNECTIONS),
        """How many outbound sessions to keep up; at most max_connections. The rest of
        max_connections is for inbound ones. 0: never dial of our own accord.""",
        unit="sessions",
    )
    max_connections_per_ip: int = option(
        c.DEFAULT_MAX_CONNECTIONS_PER_IP,
        integer(1, _MAX_CONNECTIONS),
        "The most inbound connections from one IP address; loopback is exempt.",
        unit="connections",
    )
    max_inflight_handshakes: int | None = option(
        None,
        optional(integer(1, 100 * _MAX_CONNECTIONS)),
        """The most inbound connections that have not finished their handshake yet. Not set: four
        times max_connections.""",
        unit="connections",
        example=200,
    )
    peer_connect_interval: float = option(
        c.DEFAULT_PEER_CONNECT_INTERVAL_SECS,
        number(1, 3600),
        "The time between two rounds of automatic dialing.",
        unit="seconds",
    )
    keepalive_ping_interval_secs: float | None = option(
        None,
        optional(number(0, open_ends="<")),
        f"The time between two pings of a session. Not set: {c.PING_INTERVAL_SECS}.",
        unit="seconds",
        example=c.PING_INTERVAL_SECS,
    )
    keepalive_peer_timeout_secs: float | None = option(
        None,
        optional(number(0, open_ends="<")),
        f"""How long a peer may be silent before its session is closed. Not set:
        {c.PEER_TIMEOUT_SECS}. If it is not above the ping interval, pings are sent every third
        of it instead.""",
        unit="seconds",
        example=c.PEER_TIMEOUT_SECS,
    )

    port_mapping: str = option(
        "off",
        choice("off", "auto", "pcp", "nat-pmp", "upnp"),
        """Whether to ask the gateway of the local network for a port through which others reach
        this node, and by what protocol; auto tries them in this order. upnp needs the extra
        ``upnp``. With tor.prefer_tor nothing is asked.""",
        example="auto",
    )

    # --- finding peers -----------------------------------------------------------------------
    discovery: bool = option(
        True,
        flag,
        """Whether to look for peers: keep an address book, exchange addresses with peers, ask the
        seeds. If not, only bootstrap_peers are dialed, and nobody is told about anybody.""",
    )
    dns_seed_timeout: float = option(
        c.DEFAULT_DNS_SEED_TIMEOUT_SECS,
        number(0.1, 300),
        "How long the look-up of one DNS name may take.",
        unit="seconds",
    )
    dns_seed_batch_size: int = option(
        c.DEFAULT_DNS_SEED_BATCH_SIZE,
        integer(1, 64, clamp_low=True),
        "How many of the network's DNS names are asked in one round.",
        unit="names",
    )
    dns_servers: tuple[PeerAddress, ...] = attrs.field(
        default=(),
        converter=read_dns_servers,
        metadata=about(
            "DNS servers to ask instead of those of the system.",
            kind="list of host:port",
            range="IP addresses, at most 8; port 53 unless given",
            example=(PeerAddress("192.0.2.53", 53),),
        ),
    )
    dns_over_https: str = option(
        "",
        https_url,
        """A DNS-over-HTTPS server to ask instead of DNS servers. Empty: none. With
        tor.prefer_tor it is the only way to ask the network's DNS names.""",
        example="https://dns.example/dns-query",
    )
    peers_file_path: str | None = attrs.field(
        default="peers.dat",
        converter=read_optional_path,
        metadata=about(
            """The address book: the file that remembers addresses of peers. Beside it, under the
            same name with .anchors and .bans added, are kept the two peers to come back to first,
            and the bans in force. Empty: memory only.""",
            kind="path",
        ),
    )
    allow_private_addresses: bool | None = option(
        None,
        optional(flag),
        """Whether private and loopback addresses count as addresses of peers. Not set: only if
        listen_addr or a bootstrap peer is such an address.""",
        example=True,
    )
    diversity_exempt_networks: tuple[IPNetwork, ...] = attrs.field(
        default=("127.0.0.0/8", "::1/128"),
        converter=read_networks,
        metadata=about(
            """Networks in which we may dial any number of peers. Elsewhere it is one for each IPv4
            /16 and each IPv6 /32.""",
            kind="list of networks",
            range="at most 1000, in CIDR form",
        ),
    )
    as_table_path: str | None = attrs.field(
        default=None,
        converter=read_optional_path,
        metadata=about(
            """A file that says which autonomous system an IP address belongs to: lines of a prefix
            and a number, or Bitcoin Core's asmap. We then dial at most one peer of each. A file
            that changes is read again.""",
            kind="path",
            example="/var/lib/dig-gossip/as.txt",
        ),
    )

    # --- gossip ------------------------------------------------------------------------------
    gossip_fanout: int = option(
        c.DEFAULT_GOSSIP_FANOUT,
        integer(1, 256),
        "To how many peers a message is sent in full; the others get an announcement.",
        unit="peers",
    )
    max_seen_messages: int = option(
        c.DEFAULT_MAX_SEEN_MESSAGES,
        integer(1, 10_000_000),
        "How many messages are remembered in order not to deliver one twice.",
        unit="messages",
    )
    plumtree: PlumtreeConfig = section(
        PlumtreeConfig, "Timers, waves and cache of the gossip tree.", optional=False
    )
    peer_options: PeerOptions = section(
        PeerOptions, "How each session treats its peer.", optional=False
    )
    compact_blocks: CompactBlockConfig = section(
        CompactBlockConfig,
        "Blocks without the transactions that a peer has already.",
        optional=False,
    )

    # --- parts that are off unless configured ------------------------------------------------
    introducer: IntroducerConfig | None = section(IntroducerConfig, "The introducer to ask.")
    relay: RelayConfig | None = section(RelayConfig, "The relay to use.")
    dandelion: DandelionConfig | None = section(DandelionConfig, "Hide the origin of transactions.")
    peer_id_rotation: PeerIdRotationConfig | None = section(
        PeerIdRotationConfig, "Change the peer id from time to time."
    )
    tor: TorConfig | None = section(TorConfig, "Reach peers through Tor.")
    erlay: ErlayConfig | None = section(ErlayConfig, "Reconcile sets of transactions.")
    backpressure: BackpressureConfig | None = section(
        BackpressureConfig, "Shed load when a peer is slow."
    )

    # --- injected, for tests and embedders ---------------------------------------------------
    # Any: which reactor interfaces are needed depends on what is switched on.
    reactor: Any = attrs.field(
        default=None,
        converter=_read_reactor,
        eq=False,
        repr=False,
        metadata=about("The reactor. Not set: the global one.", kind="reactor", in_file=False),
    )
    rng: random.Random | None = attrs.field(
        default=None,
        converter=_read_rng,
        eq=False,
        repr=False,
        metadata=about(
            "The source of randomness. Not set: the system's.", kind="random.Random", in_file=False
        ),
    )
    resolver: Any = attrs.field(
        default=None,
        converter=_read_resolver,
        eq=False,
        repr=False,
        metadata=about(
            "What resolves the network's DNS names. Not set: twisted.names.",
            kind="IHostnameResolver",
            in_file=False,
        ),
    )

    def __attrs_post_init__(self) -> None:
        if bool(self.cert_path) != bool(self.key_path):
            empty = "key_path" if self.cert_path else "cert_path"
            raise InvalidConfig(
                f"{empty}: must be set as well: give cert_path and key_path, or neither for an "
                "identity that lives in memory"
            )
        if self.target_outbound_count > self.max_connections:
            raise InvalidConfig(
                f"target_outbound_count: must not exceed max_connections ({self.max_connections}), "
                f"not {self.target_outbound_count}; lower the one or raise the other"
            )

    # --- effective values --------------------------------------------------------------------

    @property
    def effective_network_id(self) -> bytes32:
        """The 32-byte id of the network: ``network_id``, else the network's own."""
        return self.network.network_id if self.network_id is None else self.network_id

    @property
    def handshake_string(self) -> str:
        """The network id as handshakes carry it.

        ``handshake_network_id``, else the hex digits of a ``network_id`` that differs from the
        network's own, else the network's greeting. Source: wire §5.5.
        """
        if self.handshake_network_id is not None:
            return self.handshake_network_id
        if self.effective_network_id != self.network.network_id:
            return self.effective_network_id.hex()
        return self.network.handshake

    @property
    def peer_timeout(self) -> float:
        """Seconds of silence after which a session is closed."""
        if self.keepalive_peer_timeout_secs is None:
            return c.PEER_TIMEOUT_SECS
        return self.keepalive_peer_timeout_secs

    @property
    def ping_interval(self) -> float:
        """Seconds between pings; always below :attr:`peer_timeout`."""
        interval = self.keepalive_ping_interval_secs
        if interval is None:
            interval = c.PING_INTERVAL_SECS
        return interval if interval < self.peer_timeout else self.peer_timeout / 3

    @property
    def ban_file_path(self) -> str:
        """Where bans are kept; empty for memory only."""
        return f"{self.peers_file_path}.bans" if self.peers_file_path else ""

    @property
    def anchor_file_path(self) -> str:
        """Where anchors are kept; empty for memory only."""
        return f"{self.peers_file_path}.anchors" if self.peers_file_path else ""

    @property
    def max_inbound(self) -> int:
        """Slots for inbound sessions, at least 1: the others are for the target and the anchors."""
        target = self.target_outbound_count
        return max(1, self.max_connections - target - (c.MAX_ANCHORS if target else 0))

    @property
    def inflight_limit(self) -> int:
        """Inbound connections that may be in their handshake at a time, at least 1."""
        return self.max_inflight_handshakes or 4 * self.max_connections

    @property
    def used_relay(self) -> RelayConfig | None:
        """The relay to register at; None if there is none, or it is switched off."""
        relay = self.relay
        return relay if relay is not None and relay.enabled and relay.endpoint else None

    @property
    def used_tor(self) -> TorConfig | None:
        """The Tor to use; None if there is none, or it is switched off."""
        return self.tor if self.tor is not None and self.tor.is_active else None

    @property
    def is_tor_only(self) -> bool:
        """Whether nothing may leave but through Tor."""
        return self.used_tor is not None and self.used_tor.prefer_tor

    @property
    def used_port_mapping(self) -> str | None:
        """How to ask the gateway for a port; None if it is not to be asked."""
        return None if self.port_mapping == "off" or self.is_tor_only else self.port_mapping

    @property
    def bind_addr(self) -> PeerAddress:
        """Where to listen: ``listen_addr``; only on loopback instead of everywhere if Tor alone
        is to lead here (behaviour PRV-010.2)."""
        ip = self.listen_addr.ip
        if not self.is_tor_only or ip is None or not ip.is_unspecified:
            return self.listen_addr
        return PeerAddress("127.0.0.1" if ip.version == 4 else "::1", self.listen_addr.port)

    @property
    def allows_private_addresses(self) -> bool:
        """Whether addresses that are not globally routable count as addresses of peers."""
        if self.allow_private_addresses is not None:
            return self.allow_private_addresses
        return any(map(_is_private, (self.listen_addr, *self.bootstrap_peers)))


def _is_private(address: PeerAddress) -> bool:
    if address.ip is None:
        return address.host == "localhost"
    return not (address.ip.is_global or address.ip.is_unspecified)


#: Features that can be configured and do not exist yet, with the test whether one is asked for.
_NOT_YET: Final[Mapping[str, Callable[[GossipConfig], bool]]] = {}

#: Their names, for documentation.
FEATURES_NOT_YET: Final[frozenset[str]] = frozenset(_NOT_YET)


def unavailable_features(config: GossipConfig) -> list[str]:
    """Name the options of ``config`` that ask for something this version does not have."""
    return [name for name, is_wanted in _NOT_YET.items() if is_wanted(config)]


def check_available(config: GossipConfig) -> None:
    """Refuse a configuration that asks for something this version does not have.

    :raises InvalidConfig: ``name: not available yet``, for the first such option.
    """
    for name in unavailable_features(config):
        raise InvalidConfig(f"{name}: not available yet")
    if config.tor is not None and config.tor.prefer_tor and not config.tor.is_active:
        raise InvalidConfig(
            "tor.prefer_tor: Tor is off, and nothing else may be used: set tor.enabled (and "
            "tor.socks5_proxy), or leave prefer_tor out"
        )
