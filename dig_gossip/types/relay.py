"""How a relay's server is configured.

Source: behaviour RSV-109-X; design D13.
"""
# ruff: noqa: RUF009 - section() declares a field, as attrs.field() does

from __future__ import annotations

import attrs

from dig_gossip import constants as c
from dig_gossip.errors import InvalidConfig
from dig_gossip.types.options import (
    about,
    checked,
    flag,
    integer,
    number,
    option,
    read_ip_address,
    read_path,
    section,
)
from dig_gossip.types.peer import AddressLike, PeerAddress


@attrs.frozen(kw_only=True, field_transformer=checked("limits"))
class RelayLimits:
    """The limits of a relay; 0 lifts one."""

    max_connections: int = option(
        4096, integer(0, 1_000_000), "Open connections, counted from TCP on.", unit="connections"
    )
    connections_per_host: int = option(
        64, integer(0, 1_000_000), "Connections of one address (IPv6: /64).", unit="connections"
    )
    registrations_per_second: float = option(
        10, number(0, 1_000_000), "Registrations of one address, a second."
    )
    registrations_per_host: int = option(
        128, integer(0, 1_000_000), "Registered peers of one address.", unit="peers"
    )
    frame_bytes: int = option(
        262_144, integer(0, 67_108_864), "The largest frame a client may send.", unit="bytes"
    )
    frames_per_second: float = option(
        256, number(0, 1_000_000), "Frames of one connection, a second."
    )
    bytes_per_second: float = option(
        1_048_576, number(0, 1e12), "Bytes of one connection, a second."
    )
    bytes_per_connection: int = option(
        1_073_741_824,
        integer(0, 2**62),
        "Bytes of one connection in its life; then it is closed, and the client comes again.",
        unit="bytes",
    )
    queue_frames: int = option(
        1024,
        integer(0, 1_000_000),
        "Frames that wait for a slow client; what comes then is dropped.",
        unit="frames",
    )


def _read_listen_addr(value: AddressLike) -> PeerAddress:
    return read_ip_address(value, c.DEFAULT_RELAY_PORT)


def _read_health_addr(value: AddressLike | None) -> PeerAddress | None:
    return None if value is None or value == "" else read_ip_address(value, HEALTH_PORT)


def _read_stun_addr(value: AddressLike | None) -> PeerAddress | None:
    return None if value is None or value == "" else read_ip_address(value, STUN_PORT)


HEALTH_PORT = 9451
STUN_PORT = 3478


@attrs.frozen(kw_only=True, field_transformer=checked())
class RelayServerConfig:
    """Everything a relay can be told. ``RelayServerConfig()`` alone is startable."""

    listen_addr: PeerAddress = attrs.field(
        default=PeerAddress("0.0.0.0", c.DEFAULT_RELAY_PORT),
        converter=_read_listen_addr,
        metadata=about(
            "The address to listen on: an IP literal and a port.",
            kind="host:port",
            range=f"port 0 to 65535, {c.DEFAULT_RELAY_PORT} unless given",
        ),
    )
    health_addr: PeerAddress | None = attrs.field(
        default=PeerAddress("127.0.0.1", HEALTH_PORT),
        converter=_read_health_addr,
        metadata=about(
            "The address of the page ``/health``. Empty: none.",
            kind="host:port",
            range=f"port 0 to 65535, {HEALTH_PORT} unless given; or empty",
        ),
    )
    stun_addr: PeerAddress | None = attrs.field(
        default=None,
        converter=_read_stun_addr,
        metadata=about(
            "The UDP address of the STUN responder. Empty: none.",
            kind="host:port",
            range=f"port 0 to 65535, {STUN_PORT} unless given; or empty",
            example=f"0.0.0.0:{STUN_PORT}",
        ),
    )
    cert_path: str = attrs.field(
        default="",
        converter=read_path,
        metadata=about(
            "The certificate; made where there is none. With it the relay speaks wss, else ws.",
            kind="path",
        ),
    )
    key_path: str = attrs.field(
        default="", converter=read_path, metadata=about("The certificate's key.", kind="path")
    )
    requires_certificate: bool = option(
        False, flag, "With TLS: refuse clients that show no certificate."
    )
    limits: RelayLimits = section(
        RelayLimits, "What one relay gives to everybody, and to each.", optional=False
    )

    def __attrs_post_init__(self) -> None:
        if bool(self.cert_path) != bool(self.key_path):
            raise InvalidConfig("cert_path: goes with key_path; give both or neither")
        if self.requires_certificate and not self.cert_path:
            raise InvalidConfig("requires_certificate: needs TLS; give cert_path and key_path")

    @property
    def is_secure(self) -> bool:
        """Whether the relay speaks wss."""
        return bool(self.cert_path)
