"""Networks: which one a node belongs to, and how it greets.

Source: wire §5.5, design D15, behaviour §2.
"""

from __future__ import annotations

from typing import ClassVar

import attrs
from chia_rs.sized_bytes import bytes32

from dig_gossip.constants import DEFAULT_P2P_PORT
from dig_gossip.errors import InvalidConfig
from dig_gossip.types.options import (
    about,
    checked,
    integer,
    option,
    read_bytes32,
    read_host_names,
    show,
    text,
)

_NAME = text(1, 64)


def _read_network_id(value: bytes | str) -> bytes32:
    network_id = read_bytes32(value)
    if network_id is None or not any(network_id):
        raise ValueError("must be 32 bytes, not all of them zero")
    return network_id


def _read_handshake(value: str | None, network: Network | None = None) -> str:
    return network.network_id.hex() if value is None and network else _NAME.read(value)


def _read_name(value: str) -> str:
    return _NAME.read(value)


@attrs.frozen(field_transformer=checked("network"))
class Network:
    """A network that nodes belong to; a preset, or one of your own.

    Two nodes talk to each other only if they send the same handshake string.
    """

    DIG_MAINNET: ClassVar[Network]
    CHIA_MAINNET: ClassVar[Network]
    CHIA_TESTNET11: ClassVar[Network]

    name: str = attrs.field(
        converter=_read_name,
        metadata=about("The name shown to people.", kind=_NAME.kind, range=_NAME.range),
    )
    network_id: bytes32 = attrs.field(
        converter=_read_network_id,
        metadata=about(
            "The id of the network; Chia's genesis challenge.",
            kind="32 bytes in hex",
            range="not all zero",
        ),
    )
    handshake: str = attrs.field(
        default=None,
        converter=_read_handshake,
        metadata=about(
            """The network id as the handshake spells it, compared verbatim. DIG networks send
            the 64 hex digits of network_id, which is the default; Chia sends a name.""",
            kind=_NAME.kind,
            range=_NAME.range,
            takes_config=True,
        ),
    )
    default_port: int = option(
        DEFAULT_P2P_PORT, integer(1, 65535), "The port of a peer whose address names none."
    )
    dns_introducers: tuple[str, ...] = attrs.field(
        default=(),
        converter=read_host_names,
        metadata=about(
            "DNS names that resolve to addresses of nodes.",
            kind="list of names",
            range="at most 64 names of at most 253 characters",
        ),
    )

    @classmethod
    def by_name(cls, name: str) -> Network:
        """Look up a preset by the name that the command line uses.

        :raises InvalidConfig: no preset has this name.
        """
        try:
            return PRESETS[name]
        except (KeyError, TypeError):
            known = ", ".join(PRESETS)
            raise InvalidConfig(f"network: must be one of {known}, not {show(name)}") from None


Network.DIG_MAINNET = Network(
    "dig-mainnet",
    bytes32.fromhex("0af981862a4df51f51ec59c312315d959931d917c375730b89b9e2b0854d1abf"),
)
Network.CHIA_MAINNET = Network(
    "chia-mainnet",
    bytes32.fromhex("ccd5bb71183532bff220ba46c268991a3ff07eb358e8255a65c30a2dce0e5fbb"),
    "mainnet",
    8444,
    (
        "dns-introducer.chia.net",
        "chia.ctrlaltdel.ch",
        "seeder.dexie.space",
        "chia.hoffmang.com",
    ),
)
Network.CHIA_TESTNET11 = Network(
    "chia-testnet11",
    bytes32.fromhex("37a90eb5185a9c4439a91ddc98bbadce7b4feba060d50116a067de66bf236615"),
    "testnet11",
    58444,
    ("dns-introducer-testnet11.chia.net",),
)

#: The presets by the name that the command line and the configuration file use.
PRESETS = {
    network.name: network
    for network in (Network.DIG_MAINNET, Network.CHIA_MAINNET, Network.CHIA_TESTNET11)
}
