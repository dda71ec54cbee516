"""The configuration objects inside :class:`~dig_gossip.types.config.GossipConfig`.

Each is a table of the configuration file. Source: behaviour §2, seed.
"""

from __future__ import annotations

import re

import attrs

from dig_gossip import constants as c
from dig_gossip.errors import InvalidConfig
from dig_gossip.types.options import (
    Rule,
    checked,
    choice,
    endpoint,
    flag,
    integer,
    number,
    option,
    optional,
    read_address,
    show,
    text,
)

#: What upstream has as the default and sends to nobody.
_OWN_NETWORK = "DIG_MAINNET"
_ONION = re.compile(r"[a-z2-7]{56}\.onion")


def _read_onion(value: object) -> str:
    if not isinstance(value, str) or not _ONION.fullmatch(value.lower()):
        raise ValueError(f"must be 56 base32 characters and .onion, not {show(value)}")
    return value.lower()


def _read_control(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be host:port, or unix: and a path, not {show(value)}")
    if value.startswith("unix:"):
        if not value.removeprefix("unix:").startswith("/"):
            raise ValueError(f"the path must begin with a slash, not {show(value)}")
        return value
    address = read_address(value)
    if address.port == 0 or address.ip is None:
        raise ValueError(f"must be an IP address and a port, or unix: and a path, not {value}")
    return value


def _read_proxy(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be host:port, not {show(value)}")
    return value


@attrs.frozen(kw_only=True, field_transformer=checked("peer_options"))
class PeerOptions:
    """How each session treats its peer."""

    rate_limit_factor: float = option(
        0.6,
        number(0, 100, open_ends="<"),
        """The share of each rate limit that we allow ourselves to send. Below 1 it keeps us clear
        of a peer's limits although its clock and windows differ from ours.""",
    )
    enforce_rate_limits: bool = option(
        True,
        flag,
        """Whether rates are limited at all, in both directions. Off only among nodes that trust
        one another, or to measure: peers that do limit will drop what is too much.""",
    )
    receive_budget_bytes: int = option(
        268_435_456,
        integer(67_108_864, 1 << 40),
        """How much of messages that are received in part may be in memory, of all peers together.
        Beyond it nothing more is read from the peers that hold most of it, and after half a minute
        the first of them is dropped. A message has 50 MiB at most.""",
        unit="bytes",
    )
    send_budget_bytes: int = option(
        268_435_456,
        integer(67_108_864, 1 << 40),
        """How much of messages that wait to be sent may be in memory, for all peers together; one
        that waits for many counts once. Beyond it, bulk that nobody asked for is not taken, and
        for anything else the peer for which most is waiting is dropped.""",
        unit="bytes",
    )

    @property
    def enforced_factor(self) -> float | None:
        """``rate_limit_factor``; None where rates are not limited."""
        return self.rate_limit_factor if self.enforce_rate_limits else None


@attrs.frozen(kw_only=True, field_transformer=checked("plumtree"))
class PlumtreeConfig:
    """How messages spread: along a tree at once, and as announcements to everybody else."""

    lazy_timeout_ms: int = option(
        c.PLUMTREE_LAZY_TIMEOUT_MS,
        integer(1, 60_000),
        """How long an announced message may stay away before we fetch it from an announcer. With
        adaptive_timers it is where the timers start.""",
        unit="milliseconds",
    )
    adaptive_timers: bool = option(
        True,
        flag,
        """Fit that time to the measured gap between announcement and message, within
        graft_timeout_floor_ms and graft_timeout_ceiling_ms.""",
    )
    graft_timeout_floor_ms: int = option(
        60,
        integer(1, 60_000),
        "The shortest time that adaptive timers choose.",
        unit="milliseconds",
    )
    graft_timeout_ceiling_ms: int = option(
        2000,
        integer(1, 60_000),
        "The longest time that adaptive timers choose.",
        unit="milliseconds",
    )
    graft_retry_ms: int = option(
        c.PLUMTREE_GRAFT_RETRY_MS,
        integer(1, 60_000),
        "How long one announcer may take to answer before the next one is asked.",
        unit="milliseconds",
    )
    announce_flush_ms: int = option(
        c.PLUMTREE_ANNOUNCE_FLUSH_MS,
        integer(1, 10_000),
        "How long announcements to a peer are gathered before they are sent together.",
        unit="milliseconds",
    )
    tagged_trees: bool = option(
        True,
        flag,
        """Spread messages of origins that need not be hidden along trees of their own, one for each
        part of the network that sends, and announce them in short; with peers that do so, too.""",
    )
    announce_gather_ms: int = option(
        250,
        integer(1, 10_000),
        """The same for announcements of messages in trees of their own, while there are many of
        them.""",
        unit="milliseconds",
    )
    two_wave_announce: bool = option(
        True,
        flag,
        """Announce to a few peers first, and to the rest only if the message is not known to have
        spread meanwhile. Off: announce to all at once.""",
    )
    first_wave_peers: int = option(
        4, integer(1, 256), "How many peers the first wave of announcements reaches.", unit="peers"
    )
    second_wave_delay_ms: int = option(
        250,
        integer(1, 60_000),
        "The time between the first and the second wave.",
        unit="milliseconds",
    )
    cache_messages: int = option(
        c.PLUMTREE_MESSAGE_CACHE_SIZE,
        integer(1, 1_000_000),
        "How many recent messages are kept for peers that fetch them.",
        unit="messages",
    )
    cache_bytes: int = option(
        c.PLUMTREE_MESSAGE_CACHE_BYTES,
        integer(65_536, 17_179_869_184),
        "How much memory these messages may take together.",
        unit="bytes",
    )
    cache_ttl_secs: float = option(
        c.PLUMTREE_MESSAGE_CACHE_TTL_SECS,
        number(1, 3600),
        "How long a message is kept.",
        unit="seconds",
    )
    optimize_interval_secs: float = option(
        10,
        number(1, 3600),
        "The least time between two swaps of a slow tree link for a fast one.",
        unit="seconds",
    )

    def __attrs_post_init__(self) -> None:
        floor, ceiling = self.graft_timeout_floor_ms, self.graft_timeout_ceiling_ms
        if floor > ceiling:
            raise InvalidConfig(
                "plumtree.graft_timeout_floor_ms: must not exceed graft_timeout_ceiling_ms "
                f"({ceiling}), not {floor}"
            )
        if self.adaptive_timers and not floor <= self.lazy_timeout_ms <= ceiling:
            raise InvalidConfig(
                f"plumtree.lazy_timeout_ms: must be {floor} to {ceiling} (graft_timeout_floor_ms "
                f"to graft_timeout_ceiling_ms), not {self.lazy_timeout_ms}; widen these two, or "
                "set adaptive_timers = false"
            )


@attrs.frozen(kw_only=True, field_transformer=checked("introducer"))
class IntroducerConfig:
    """A server that knows addresses of nodes, and learns ours."""

    endpoint: str = option(
        "",
        endpoint(c.DEFAULT_INTRODUCER_PORT),
        "Where the introducer is. Empty: none.",
        example="wss://introducer.example.net:9448",
    )
    connection_timeout_secs: float = option(
        10, number(1, 300), "How long connecting may take.", unit="seconds"
    )
    request_timeout_secs: float = option(
        30, number(1, 300), "How long an answer may take.", unit="seconds"
    )
    network_id: str = option(
        _OWN_NETWORK,
        text(1, 64),
        f"""The network's name as this introducer spells it. {_OWN_NETWORK}: as the node's own
        handshakes spell it.""",
    )

    @property
    def network_name(self) -> str | None:
        """The network's name on this link; None for the node's own."""
        return None if self.network_id == _OWN_NETWORK else self.network_id


@attrs.frozen(kw_only=True, field_transformer=checked("relay"))
class RelayConfig:
    """A server that forwards messages between nodes that cannot reach each other directly."""

    endpoint: str = option(
        "",
        endpoint(c.DEFAULT_RELAY_PORT),
        "Where the relay is. Empty: none.",
        example="wss://relay.example.net:9450",
    )
    enabled: bool = option(True, flag, "Off: never connect to the relay.")
    connection_timeout_secs: float = option(
        10, number(1, 300), "How long connecting may take.", unit="seconds"
    )
    reconnect_delay_secs: float = option(
        5,
        number(0.1, 3600),
        "The wait before the first reconnection; it doubles with every failure.",
        unit="seconds",
    )
    max_reconnect_attempts: int = option(
        10,
        integer(0, 1_000_000_000),
        "How often to reconnect in a row. 0: one attempt only.",
        unit="attempts",
    )
    ping_interval_secs: float = option(
        30,
        number(0, c.PEER_TIMEOUT_SECS, open_ends="<>"),
        "The time between two pings that keep the connection alive.",
        unit="seconds",
    )
    prefer_relay: bool = option(
        False, flag, "Reach peers through the relay even where a direct connection would work."
    )
    advertise: bool = option(
        True,
        flag,
        """Whether to tell the relay, and so everybody there, where this node can be dialed, if it
        has a public address. Off: peers come through the relay at once.""",
    )
    hole_punching: bool = option(
        True,
        flag,
        """Whether to replace relayed sessions by direct ones where the NATs allow it. The listening
        port is then shared with the connections that go out from it (``SO_REUSEPORT``).""",
    )
    is_paced: bool = option(
        True,
        flag,
        """Whether to keep below 200 frames and 900 kB a second, as relays demand by default. Off
        only where the relay is known to allow more.""",
    )


@attrs.frozen(kw_only=True, field_transformer=checked("dandelion"))
class DandelionConfig:
    """Dandelion++: hide which node a transaction comes from."""

    enabled: bool = option(True, flag, "Off: as if this table were absent.")
    fluff_probability: float = option(
        c.DANDELION_FLUFF_PROBABILITY,
        number(0, 1),
        "The chance at each hop that a transaction leaves its stem and is spread.",
    )
    stem_timeout_secs: float = option(
        c.DANDELION_STEM_TIMEOUT_SECS,
        number(1),
        "The mean time after which a transaction that did not come back is spread anyway.",
        unit="seconds",
    )
    epoch_secs: float = option(
        c.DANDELION_EPOCH_SECS,
        number(1),
        "How long the stem relays stay the same.",
        unit="seconds",
    )


def _read_rotation_interval(value: object) -> float:
    seconds = number(0).read(value)
    if 0 < seconds < 60:
        raise ValueError(f"must be 0 (never), or 60 or more, not {show(value)}")
    return seconds


@attrs.frozen(kw_only=True, field_transformer=checked("peer_id_rotation"))
class PeerIdRotationConfig:
    """Take a new certificate, and so a new peer id, from time to time."""

    enabled: bool = option(True, flag, "Off: as if this table were absent.")
    rotation_interval_secs: float = option(
        c.DEFAULT_PEER_ID_ROTATION_SECS,
        Rule(_read_rotation_interval, "number", "0, or 60 or more"),
        "The life of a peer id. 0: forever.",
        unit="seconds",
    )
    reconnect_on_rotation: bool = option(
        True, flag, "Move open sessions to the new id. Off: they keep the old one until they end."
    )

    @property
    def is_active(self) -> bool:
        """Whether ids rotate at all."""
        return self.enabled and self.rotation_interval_secs > 0


@attrs.frozen(kw_only=True, field_transformer=checked("tor"))
class TorConfig:
    """Reach peers through Tor."""

    enabled: bool = option(False, flag, "Whether Tor is used.")
    socks5_proxy: str = option(
        c.DEFAULT_TOR_SOCKS5_PROXY,
        Rule(_read_proxy, "host:port"),
        "The SOCKS5 port of the local Tor, by its IP address. Empty: Tor is not used.",
    )
    onion_address: str | None = option(
        None,
        optional(Rule(_read_onion, "text", "56 base32 characters and .onion")),
        """The onion service that leads to our listening port, if it is one of Tor's own
        configuration; peers learn it.""",
        example="a" * 56 + ".onion",
    )
    onion_port: int | None = option(
        None,
        optional(integer(1, 65535)),
        "The port of the onion service. Not set: the port on which we listen.",
        example=c.DEFAULT_P2P_PORT,
    )
    control_address: str | None = option(
        None,
        optional(Rule(_read_control, "text", "host:port, or unix: and a path")),
        """The control port of the local Tor. With it, and without onion_address, the node makes an
        onion service of its own; its key is kept beside the node's key, with .onion added. Needs
        the extra ``tor``.""",
        example="127.0.0.1:9051",
    )
    control_password: str = option(
        "",
        text(0, 256),
        "The password of the control port. Empty: its cookie file, or none.",
    )
    prefer_tor: bool = option(
        False,
        flag,
        """Use Tor for everything, not only for onion addresses: nothing else is dialed, resolved
        or advertised. A wildcard in listen_addr then means loopback.""",
    )

    def __attrs_post_init__(self) -> None:
        if not self.is_active:
            return
        try:
            proxy = read_address(self.socks5_proxy)
        except ValueError as exc:
            raise InvalidConfig(f"tor.socks5_proxy: {exc}") from exc
        if proxy.port == 0:
            raise InvalidConfig("tor.socks5_proxy: the port must be 1 to 65535, not 0")
        if proxy.ip is None:
            raise InvalidConfig(
                f"tor.socks5_proxy: must be an IP address, not a name that would have to be "
                f"looked up: {proxy.host}"
            )

    @property
    def is_active(self) -> bool:
        """Whether Tor is used at all (behaviour PRV-009)."""
        return self.enabled and self.socks5_proxy != ""

    @property
    def has_onion(self) -> bool:
        """Whether an onion service leads to this node, or is to."""
        return self.is_active and bool(self.onion_address or self.control_address)


@attrs.frozen(kw_only=True, field_transformer=checked("erlay"))
class ErlayConfig:
    """ERLAY: learn of transactions by comparing sets instead of announcing each one."""

    policy: str = option(
        c.ERLAY_RECONCILE,
        choice(c.ERLAY_RECONCILE, c.ERLAY_SAFETY_NET),
        """What carries transactions. "reconcile": few peers are told at once, all others by
        comparing sets; fewest bytes where a node has many peers. "safety_net": Plumtree carries
        them as it carries everything else, and comparing sets finds what got lost; fastest.""",
    )
    flood_peer_count: int = option(
        c.ERLAY_FLOOD_PEER_COUNT,
        integer(0, 256),
        """How many outbound peers are told of a transaction at once; with the policy
        "reconcile".""",
        unit="peers",
    )
    reconciliation_interval_ms: int = option(
        c.ERLAY_RECONCILIATION_INTERVAL_MS,
        integer(100, 3_600_000),
        """The time between two comparisons with a peer. It is stretched so that this node begins
        no more than four in such a time, and to 1250 at least, because a peer need not answer
        more often.""",
        unit="milliseconds",
    )
    sketch_capacity: int = option(
        c.ERLAY_SKETCH_CAPACITY,
        integer(1, 256),
        """The smallest number of differences that a sketch can carry; more than 127 counts
        as 127.""",
        unit="transactions",
    )


@attrs.frozen(kw_only=True, field_transformer=checked("compact_blocks"))
class CompactBlockConfig:
    """Blocks without the transactions that a peer has already; needs a provider."""

    max_missing_transactions: int = option(
        c.COMPACT_BLOCK_MAX_MISSING_TXS,
        integer(0, 64),
        """Up to this many missing transactions are asked for in any case. With fetch_by_bytes off,
        the whole block is asked for when more are missing.""",
        unit="transactions",
    )
    fetch_by_bytes: bool = option(
        True,
        flag,
        """Ask for the missing transactions, however many, whenever that takes fewer bytes than the
        whole block.""",
    )
    prefill_bytes: int = option(
        c.COMPACT_PREFILL_BYTES,
        integer(0, 1_000_000),
        """How many bytes of transactions to send along unasked: those that we had to ask for
        ourselves, and those that are younger than two seconds.""",
        unit="bytes",
    )


@attrs.frozen(kw_only=True, field_transformer=checked("backpressure"))
class BackpressureConfig:
    """What to do when a peer takes messages more slowly than we have them."""

    tx_dedup_threshold: int = option(
        c.BACKPRESSURE_TX_DEDUP_THRESHOLD,
        integer(0, 1_000_000_000),
        "Queue length from which on repeated transactions are dropped.",
        unit="messages",
    )
    bulk_drop_threshold: int = option(
        c.BACKPRESSURE_BULK_DROP_THRESHOLD,
        integer(0, 1_000_000_000),
        "Queue length from which on bulk messages are dropped.",
        unit="messages",
    )
    normal_delay_threshold: int = option(
        c.BACKPRESSURE_NORMAL_DELAY_THRESHOLD,
        integer(0, 1_000_000_000),
        "Queue length from which on normal messages are delayed.",
        unit="messages",
    )

    def __attrs_post_init__(self) -> None:
        tx, bulk = self.tx_dedup_threshold, self.bulk_drop_threshold
        if tx > bulk:
            raise InvalidConfig(
                f"backpressure.tx_dedup_threshold: must not exceed bulk_drop_threshold ({bulk}), "
                f"not {tx}"
            )
        if bulk > self.normal_delay_threshold:
            raise InvalidConfig(
                "backpressure.bulk_drop_threshold: must not exceed normal_delay_threshold "
                f"({self.normal_delay_threshold}), not {bulk}"
            )
