"""An introducer: how its server is configured, and what it knows of each node.

Source: behaviour §18, API-011.
"""

from __future__ import annotations

import enum
import random
from typing import Any

import attrs

from dig_gossip import constants as c
from dig_gossip.errors import InvalidConfig
from dig_gossip.types.network import PRESETS, Network
from dig_gossip.types.options import (
    about,
    checked,
    flag,
    integer,
    number,
    option,
    optional,
    read_ip_address,
    read_optional_path,
    read_path,
    show,
    text,
)
from dig_gossip.types.peer import AddressLike, PeerAddress, PeerId


@attrs.frozen(kw_only=True)
class VettedPeer:
    """A node as an introducer knows it; equal to any other record of the same address.

    Times are Unix seconds, 0 for never.

    :ivar vetted: 0 not known, n > 0 that many successful probes in a row, -n as many failures.
    :ivar vetted_timestamp: the last success.
    :ivar last_attempt: the last probe.
    :ivar time_added: when the node was last heard of, from itself.
    :ivar peer_id: who answered the last successful probe.
    Source: behaviour ISV-103-X, DSC-012, API-011.
    """

    address: PeerAddress
    vetted: int = attrs.field(default=0, eq=False)
    vetted_timestamp: float = attrs.field(default=0.0, eq=False)
    last_attempt: float = attrs.field(default=0.0, eq=False)
    time_added: float = attrs.field(default=0.0, eq=False)
    peer_id: PeerId | None = attrs.field(default=None, eq=False)

    def succeeded(self, unix_time: float, peer_id: PeerId | None) -> VettedPeer:
        """The record after a probe that found a node."""
        return attrs.evolve(
            self,
            vetted=max(self.vetted, 0) + 1,
            vetted_timestamp=unix_time,
            last_attempt=unix_time,
            peer_id=peer_id,
        )

    def failed(self, unix_time: float) -> VettedPeer:
        """The record after a probe that found none."""
        return attrs.evolve(self, vetted=min(self.vetted, 0) - 1, last_attempt=unix_time)


class Encryption(enum.StrEnum):
    """Which connections an introducer takes on its port."""

    BOTH = "both"
    WS = "ws"
    WSS = "wss"


def _read_encryption(value: object) -> Encryption:
    for encryption in Encryption:
        if value == encryption:
            return encryption
    raise ValueError(f"must be both, ws or wss, not {show(value)}")


def _read_listen_addr(value: AddressLike) -> PeerAddress:
    return read_ip_address(value, c.DEFAULT_INTRODUCER_PORT)


def _read_network(value: Network | str) -> Network:
    return value if isinstance(value, Network) else Network.by_name(value)


def _injected(value: Any) -> Any:  # Any: whatever is injected
    return value


@attrs.frozen(kw_only=True, field_transformer=checked())
class IntroducerServerConfig:
    """Everything an introducer can be told. ``IntroducerServerConfig()`` alone is startable."""

    listen_addr: PeerAddress = attrs.field(
        default=PeerAddress("0.0.0.0", c.DEFAULT_INTRODUCER_PORT),
        converter=_read_listen_addr,
        metadata=about(
            "The address to listen on: an IP literal and a port.",
            kind="host:port",
            range=f"port 0 to 65535, {c.DEFAULT_INTRODUCER_PORT} unless given",
        ),
    )
    encryption: Encryption = attrs.field(
        default=Encryption.BOTH,
        converter=_read_encryption,
        metadata=about(
            """Which connections are taken: ``wss``, with certificates on both sides, as Chia's
            nodes insist; ``ws``, without encryption; or ``both`` on the same port.""",
            kind="text",
            range="both, ws or wss",
        ),
    )
    network: Network = attrs.field(
        default=Network.DIG_MAINNET,
        converter=_read_network,
        metadata=about(
            "The network whose nodes are introduced: a preset by name, or a table of your own.",
            kind="name or table",
            range=" or ".join(PRESETS),
            table=Network,
        ),
    )
    handshake_network_id: str | None = option(
        None,
        optional(text(1, 64)),
        "The network id to send in the handshake and to expect there, if not the network's own.",
        example="mainnet",
    )
    cert_path: str = attrs.field(
        default="",
        converter=read_path,
        metadata=about(
            """The TLS certificate as a PEM file; made at the first start if neither it nor the key
            exists. Empty, together with key_path: a new one at every start.""",
            kind="path",
        ),
    )
    key_path: str = attrs.field(
        default="",
        converter=read_path,
        metadata=about(
            "The private key of that certificate as a PEM file.",
            kind="path",
            range="set together with cert_path",
        ),
    )
    nodes_path: str | None = attrs.field(
        default=None,
        converter=read_optional_path,
        metadata=about(
            "The file that remembers the nodes. Not set: memory only.",
            kind="path",
            example="/var/lib/dig-introducer/nodes.json",
        ),
    )
    allow_private_addresses: bool | None = option(
        None,
        optional(flag),
        """Whether nodes at private and loopback addresses are introduced. Not set: only if
        listen_addr is such an address.""",
        example=True,
    )

    # --- what is known, and for how long -----------------------------------------------------
    max_nodes: int = option(
        100_000, integer(1, 1_000_000), "The most nodes to remember.", unit="nodes"
    )
    max_nodes_per_ip: int = option(
        8,
        integer(1, 65_535),
        "The most nodes to remember of one IPv4 address or one IPv6 /64.",
        unit="nodes",
    )
    expire_secs: float = option(
        86_400,
        number(60, 31_536_000),
        "How long a node is remembered that does not register again.",
        unit="seconds",
    )
    answer_nodes: int = option(20, integer(1, 500), "The most nodes in one answer.", unit="nodes")
    recent_secs: float = option(
        21_600,
        number(60, 31_536_000),
        "How recently a node must have registered to be in an answer.",
        unit="seconds",
    )

    # --- vetting -----------------------------------------------------------------------------
    vetting_interval_secs: float = option(
        60, number(1, 3600), "The time between two rounds of probes.", unit="seconds"
    )
    vetting_batch: int = option(
        100, integer(1, 100_000), "The most probes in one round.", unit="nodes"
    )
    vetting_parallel: int = option(
        16, integer(1, 1000), "The most probes at a time.", unit="connections"
    )
    vetting_connect_secs: float = option(
        3, number(0.1, 60), "How long connecting to a node may take.", unit="seconds"
    )
    vetting_total_secs: float = option(
        10, number(0.1, 300), "How long a whole probe may take.", unit="seconds"
    )
    vetting_pause_secs: float = option(
        500, number(1, 86_400), "The least time between two probes of a node.", unit="seconds"
    )
    vetted_secs: float = option(
        3600,
        number(60, 31_536_000),
        "How long a successful probe counts.",
        unit="seconds",
    )

    # --- who may ask, and how often ----------------------------------------------------------
    max_connections: int = option(
        1000, integer(1, 100_000), "The most connections at a time.", unit="connections"
    )
    max_connections_per_ip: int = option(
        8,
        integer(1, 100_000),
        "The most connections at a time from one IPv4 address or one IPv6 /64.",
        unit="connections",
    )
    connections_per_minute: int = option(
        30,
        integer(1, 1_000_000),
        "How many connections one IPv4 address, or one IPv6 /64, may open in a minute.",
        unit="connections",
    )
    queries_per_minute: int = option(
        10, integer(1, 1_000_000), "How often it may ask for nodes.", unit="requests"
    )
    registrations_per_minute: int = option(
        4, integer(1, 1_000_000), "How often it may register a node.", unit="requests"
    )
    connection_secs: float = option(
        30, number(1, 3600), "How long a connection may last.", unit="seconds"
    )
    max_requests: int = option(
        10, integer(1, 1000), "The most requests on one connection.", unit="requests"
    )

    # --- injected, for tests and embedders ---------------------------------------------------
    reactor: Any = attrs.field(  # Any: several reactor interfaces at once
        default=None,
        converter=_injected,
        eq=False,
        repr=False,
        metadata=about("The reactor. Not set: the global one.", kind="reactor", in_file=False),
    )
    rng: random.Random | None = attrs.field(
        default=None,
        converter=_injected,
        eq=False,
        repr=False,
        metadata=about(
            "The source of randomness. Not set: the system's.", kind="random.Random", in_file=False
        ),
    )

    def __attrs_post_init__(self) -> None:
        if bool(self.cert_path) != bool(self.key_path):
            empty = "key_path" if self.cert_path else "cert_path"
            raise InvalidConfig(f"{empty}: must be set as well, or neither of the two")
        if self.vetting_connect_secs > self.vetting_total_secs:
            raise InvalidConfig(
                "vetting_connect_secs: must not exceed vetting_total_secs "
                f"({self.vetting_total_secs:g}), not {self.vetting_connect_secs:g}"
            )

    @property
    def handshake_string(self) -> str:
        """The network id as handshakes carry it."""
        return self.handshake_network_id or self.network.handshake

    @property
    def allows_private_addresses(self) -> bool:
        """Whether addresses that are not globally routable are introduced."""
        if self.allow_private_addresses is not None:
            return self.allow_private_addresses
        ip = self.listen_addr.ip
        return ip is not None and not (ip.is_global or ip.is_unspecified)
