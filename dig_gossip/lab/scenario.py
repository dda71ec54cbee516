"""Scenarios: what is simulated, read from TOML.

Programs row of the stage table; nothing here depends on a protocol. The keys are the fields of
the classes below; ``[[phase]]`` and ``[[adversary]]`` may occur several times. Everything random
in a run follows from its seed, so that a scenario and a seed are a complete description.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import attrs

from dig_gossip.errors import InvalidConfig, Io
from dig_gossip.lab.engine_options import Addresses, Bulk, Mempools
from dig_gossip.lab.values import WARMUP
from dig_gossip.types.options import (
    about,
    checked,
    choice,
    flag,
    integer,
    list_of,
    nearest,
    number,
    option,
    options_of,
    prose,
    show,
    text,
)
from dig_gossip.types.sections import (
    BackpressureConfig,
    CompactBlockConfig,
    DandelionConfig,
    ErlayConfig,
    PlumtreeConfig,
)

MAX_SCENARIO_BYTES: Final = 262_144
MAX_PHASES: Final = 32
MAX_REGIONS: Final = 64

#: Everything that can be run, in the order in which reports show it.
PROTOCOLS: Final = (
    "plumtree",
    "flood",
    "flood-unlimited",
    "announce",
    "gossipsub-1.1",
    "gossipsub-1.2",
    "plumtree-paper",
    "erlay",
    "erlay-safety-net",
    "dandelion",
    "dandelion-safety-net",
    "compact-blocks",
    "plumtree-lanes",
    "address-books",
    "address-books-uniform",
)
#: Those that spread nothing.
BOOKS: Final = frozenset({"address-books", "address-books-uniform"})
ADVERSARIES: Final = (
    "spy",
    "black-hole",
    "prune-storm",
    "liar",
    "slow-drip",
    "sketch-bomb",
    "eclipse",
)


_NUMBERS: Final = list_of(number(0, 1_000_000), MAX_REGIONS)


def _read_protocols(value: object) -> tuple[str, ...]:
    names = list_of(choice(*PROTOCOLS), len(PROTOCOLS), least=1).read(value)
    if len(set(names)) != len(names):
        raise ValueError("must name no protocol twice")
    return names


@attrs.frozen(kw_only=True, field_transformer=checked("overlay"))
class Overlay:
    """Who is linked to whom when the run begins."""

    nodes: int = option(100, integer(2, 100_000), "How many nodes there are.", unit="nodes")
    kind: str = option(
        "dials",
        choice("dials", "rings", "full"),
        """``dials``: every node dials that many others, as the node's discovery does, so that it
        has about twice as many links. ``rings``: the union of random rings, so that every node
        has that many links, or a few less. ``full``: everybody to everybody.""",
    )
    links: int = option(
        8, integer(1, 1000), "How many peers a node dials, or how many links it has.", unit="links"
    )
    nat: float = option(
        0.0,
        number(0, 0.95),
        "The share of nodes that nobody can dial; with ``dials`` only.",
    )
    treeless: float = option(
        0.0,
        number(0, 1),
        """The share of nodes that do not know trees with tags, as while a network is brought up to
        date; for ``plumtree``.""",
    )


@attrs.frozen(kw_only=True, field_transformer=checked("network"))
class Network:
    """What links do to frames. Without regions latencies are drawn for each link."""

    latency_ms: tuple[float, ...] = option(
        (10.0, 100.0),
        _NUMBERS,
        """Least and greatest one-way latency of a link, drawn evenly; with regions, what each link
        adds to the latency between its regions.""",
        unit="milliseconds",
    )
    regions: tuple[str, ...] = option(
        (), list_of(text(1, 40), MAX_REGIONS), "Names of the regions."
    )
    shares: tuple[float, ...] = option((), _NUMBERS, "The weight of each region.")
    between_ms: tuple[tuple[float, ...], ...] = option(
        (),
        list_of(_NUMBERS, MAX_REGIONS),
        "One-way latency between regions, a row a region.",
        unit="milliseconds",
    )
    uplink_mbit: float = option(
        0.0,
        number(0, 1_000_000),
        """What a node can send in a second; frames wait for their turn, first come, first served.
        0: no limit.""",
        unit="Mbit/s",
    )
    slow_share: float = option(0.0, number(0, 1), "The share of nodes with a slower uplink.")
    slow_uplink_mbit: float = option(
        1.0, number(0.001, 1_000_000), "The slower uplink.", unit="Mbit/s"
    )
    loss: float = option(
        0.0,
        number(0, 0.5),
        """The share of frames that TCP has to send again. Nothing is lost, but the frame, and
        those behind it on the same link, are late by ``retransmit_ms``.""",
    )
    retransmit_ms: float = option(
        200.0, number(0, 60_000), "How late a lost frame is.", unit="milliseconds"
    )
    pings: bool = option(
        True,
        flag,
        """Whether links measure their round trip every 30 seconds, as the node's do. The pings
        count as control bytes for those protocols that use them.""",
    )

    def __attrs_post_init__(self) -> None:
        if len(self.latency_ms) != 2 or self.latency_ms[0] > self.latency_ms[1]:
            raise InvalidConfig("network.latency_ms: must be two numbers that do not fall")
        count = len(self.regions)
        if len(self.shares) != count or (count and sum(self.shares) <= 0):
            raise InvalidConfig("network.shares: must have one weight for each of the regions")
        if len(self.between_ms) != count or any(len(row) != count for row in self.between_ms):
            raise InvalidConfig("network.between_ms: must have a row and a column for each region")
        for i in range(count):
            for j in range(i):
                if self.between_ms[i][j] != self.between_ms[j][i]:
                    raise InvalidConfig("network.between_ms: must be the same both ways")


@attrs.frozen(kw_only=True, field_transformer=checked("churn"))
class Churn:
    """Nodes that leave and come back, at random, during all phases after the warm-up."""

    per_minute: float = option(
        0.0, number(0, 100), "The share of all nodes that leave in a minute; 0: none."
    )
    silent: float = option(
        0.0,
        number(0, 1),
        """The share of leavers that say nothing, so that their neighbors notice only after
        ``detect_secs``.""",
    )
    detect_secs: float = option(
        90.0, number(0, 3600), "How long a silent leaver goes unnoticed.", unit="seconds"
    )
    away_secs: float = option(
        60.0, number(1, 86_400), "How long a leaver stays away, on average.", unit="seconds"
    )
    redial_secs: float = option(
        2.0,
        number(0, 3600),
        "How long a node takes to replace a peer that it had dialed.",
        unit="seconds",
    )


@attrs.frozen(kw_only=True, field_transformer=checked("phase"))
class Phase:
    """A stretch of time with messages of one kind. Figures are given for each phase."""

    name: str = option(
        "measured",
        text(1, 40),
        f"""What reports call it. ``{WARMUP}`` is left out of the figures of the run, and what it
        costs is shown apart.""",
    )
    messages: int = option(100, integer(0, 1_000_000), "How many are sent.", unit="messages")
    rate: float = option(10.0, number(0.001, 100_000), "How many a second.")
    arrivals: str = option(
        "poisson",
        choice("poisson", "regular", "burst"),
        """``poisson``: at random, independent of each other. ``regular``: at equal distances.
        ``burst``: all at once.""",
    )
    origins: int = option(
        0,
        integer(0, 100_000),
        "How many nodes take turns, at random, as the origin; 0: all of them.",
        unit="nodes",
    )
    sizes: tuple[int, ...] = option(
        (1024,),
        list_of(integer(16, 1_048_576), 1000, least=1),
        "Payload sizes, drawn evenly from this list.",
        unit="bytes",
    )
    kill: float = option(
        0.0,
        number(0, 0.99),
        "The share of the living nodes that fall silent for good as the phase begins.",
    )
    detect_secs: float = option(
        90.0, number(0, 3600), "How long that goes unnoticed by their peers.", unit="seconds"
    )
    lead_secs: float = option(
        1.0, number(0, 3600), "The time before the first message.", unit="seconds"
    )
    quiet_secs: float = option(
        10.0, number(0, 3600), "The time after the last message.", unit="seconds"
    )


@attrs.frozen(kw_only=True, field_transformer=checked("gossipsub"))
class Gossipsub:
    """Parameters of the gossipsub models; the specification's defaults but for D.

    Source: libp2p specs, pubsub/gossipsub/gossipsub-v1.0.md, v1.1.md and v1.2.md.
    """

    d: int = option(8, integer(1, 100), "The degree of the mesh that is aimed at.")
    d_low: int = option(6, integer(1, 100), "Below this a node grafts.")
    d_high: int = option(12, integer(1, 1000), "Above this a node prunes.")
    d_lazy: int = option(6, integer(0, 1000), "To how many peers messages are announced.")
    gossip_factor: float = option(0.25, number(0, 1), "Or to this share of them, if that is more.")
    heartbeat_secs: float = option(1.0, number(0.05, 60), "The heartbeat.", unit="seconds")
    history_gossip: int = option(3, integer(1, 100), "Heartbeats for which messages are announced.")
    history_length: int = option(5, integer(1, 100), "Heartbeats for which messages are kept.")
    flood_publish: bool = option(True, flag, "Whether an origin sends to all peers.")
    idontwant_bytes: int = option(
        1024, integer(0, 1_048_576), "From what size on IDONTWANT is sent (v1.2).", unit="bytes"
    )


@attrs.frozen(kw_only=True, field_transformer=checked("adversary"))
class Adversary:
    """Nodes that do not what they should."""

    kind: str = option(
        "spy",
        choice(*ADVERSARIES),
        """``spy`` records who sends it what first and guesses origins. ``black-hole`` takes part
        but forwards nothing. ``prune-storm`` prunes every peer all the time. ``liar`` announces
        messages that do not exist. ``slow-drip`` forwards everything, but late. ``sketch-bomb``
        sends the largest sketches that nobody can decode, to all that it dialed. ``eclipse`` tells
        of nobody but its own kind, and sits in inbound slots.""",
    )
    share: float = option(0.1, number(0, 0.9), "The share of nodes.")
    delay_secs: float = option(
        2.0,
        number(0, 600),
        "How late ``slow-drip`` is, and how often the noisy act.",
        unit="seconds",
    )


@attrs.frozen(kw_only=True, field_transformer=checked())
class Settings:
    """The keys outside of any table."""

    title: str = option("", text(0, 200), "One line for lists and headings.")
    description: str = option("", prose(10_000), "What the scenario shows, and what it assumes.")
    protocols: tuple[str, ...] = attrs.field(
        default=("plumtree", "flood"),
        converter=_read_protocols,
        metadata=about(f"What to run: any of {', '.join(PROTOCOLS)}.", kind="list of text"),
    )
    fanout: int = option(8, integer(1, 256), "``gossip_fanout`` of the node.", unit="peers")
    sample_secs: float = option(
        1.0, number(0.01, 3600), "The distance between two points of a series.", unit="seconds"
    )


@attrs.frozen(kw_only=True)
class Scenario:
    """What is simulated, but for protocol and seed.

    :ivar name: the file's name without ``.toml``.
    :ivar text: the whole file, so that a result can carry it.
    """

    name: str
    text: str
    settings: Settings
    overlay: Overlay
    network: Network
    churn: Churn
    phases: tuple[Phase, ...]
    plumtree: PlumtreeConfig
    erlay: ErlayConfig
    dandelion: DandelionConfig
    compact_blocks: CompactBlockConfig
    mempools: Mempools
    addresses: Addresses
    backpressure: BackpressureConfig
    bulk: Bulk
    gossipsub: Gossipsub
    adversaries: tuple[Adversary, ...]

    @property
    def title(self) -> str:
        """One line."""
        return self.settings.title or self.name

    @property
    def protocols(self) -> tuple[str, ...]:
        """The names of what is to be run."""
        return self.settings.protocols


#: The tables of a file, and their classes. Those of ``_LISTS`` may occur several times.
_TABLES: Final[Mapping[str, type]] = {
    "overlay": Overlay,
    "network": Network,
    "churn": Churn,
    "plumtree": PlumtreeConfig,
    "erlay": ErlayConfig,
    "dandelion": DandelionConfig,
    "compact_blocks": CompactBlockConfig,
    "mempools": Mempools,
    "addresses": Addresses,
    "backpressure": BackpressureConfig,
    "bulk": Bulk,
    "gossipsub": Gossipsub,
}
_LISTS: Final[Mapping[str, type]] = {"phase": Phase, "adversary": Adversary}


def tables() -> dict[str, type]:
    """Every table of a scenario file with its class, for the documentation; "" is the top."""
    return {"": Settings, **_TABLES, **_LISTS}


def parse(source: str, name: str = "scenario") -> Scenario:
    """Read a scenario.

    :param source: TOML.
    :raises InvalidConfig: it is no TOML, has a key that does not exist, or a value that cannot be
        used; the message names the key.
    """
    try:
        data = tomllib.loads(source)
    except RecursionError as exc:
        raise InvalidConfig(f"{name}: nested too deeply") from exc
    except ValueError as exc:  # TOMLDecodeError, and integers of thousands of digits
        raise InvalidConfig(f"{name}: {exc}") from exc
    parts: dict[str, Any] = {}  # Any: of the classes above
    top: dict[str, object] = {}
    for key, value in data.items():
        if key in _TABLES:
            if not isinstance(value, dict):
                raise InvalidConfig(f"{name}: {key} must be a table [{key}]")
            parts[key] = _build(_TABLES[key], value, f"{name}: [{key}]")
        elif key in _LISTS:
            if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                raise InvalidConfig(f"{name}: {key} must be tables [[{key}]]")
            parts[key] = tuple(_build(_LISTS[key], item, f"{name}: [[{key}]]") for item in value)
        else:
            top[key] = value
    settings = _build(Settings, top, name, also=[*_TABLES, *_LISTS])
    scenario = Scenario(
        name=name,
        text=source,
        settings=settings,
        **{key: parts[key] if key in parts else kind() for key, kind in _TABLES.items()},
        phases=parts.get("phase", (Phase(),)),
        adversaries=parts.get("adversary", ()),
    )
    _check(scenario)
    return scenario


def load(path: str | Path) -> Scenario:
    """Read a scenario from a file.

    :raises Io: it cannot be read.
    :raises InvalidConfig: as :func:`parse`; also above 256 KiB, or if it is not UTF-8.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCENARIO_BYTES + 1)
    except OSError as exc:
        raise Io(f"cannot read the scenario {path}: {exc.strerror or exc}") from exc
    if len(data) > MAX_SCENARIO_BYTES:
        raise InvalidConfig(f"{path}: larger than {MAX_SCENARIO_BYTES} bytes")
    try:
        return parse(data.decode("utf-8"), path.stem)
    except UnicodeDecodeError as exc:
        raise InvalidConfig(f"{path}: not UTF-8 text") from exc


def shipped_names() -> list[str]:
    """The scenarios that come with the package, in order."""
    folder = resources.files("dig_gossip.lab") / "scenarios"
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return sorted(name.removesuffix(".toml") for name in names)


def shipped(name: str) -> Scenario:
    """Read a scenario that comes with the package.

    :raises InvalidConfig: there is none of that name; the message has the nearest one.
    """
    names = shipped_names()
    if name not in names:
        raise InvalidConfig(f"no scenario is called {show(name)}{nearest(name, names)}")
    file = resources.files("dig_gossip.lab") / "scenarios" / f"{name}.toml"
    return parse(file.read_text(encoding="utf-8"), name)


def _build(
    kind: type, values: Mapping[str, object], where: str, also: list[str] | None = None
) -> Any:  # Any: an instance of kind
    known = [item.name for item in options_of(kind)]
    for key in values:
        if key not in known:
            hint = nearest(key, [*known, *(also or ())])
            raise InvalidConfig(f"{where}: there is no key {show(key)}{hint}")
    try:
        return kind(**values)
    except InvalidConfig as exc:
        raise InvalidConfig(f"{where}: {exc.text}") from exc


def _check(scenario: Scenario) -> None:
    """Check what no single table can."""
    name, overlay, phases = scenario.name, scenario.overlay, scenario.phases
    if not 1 <= len(phases) <= MAX_PHASES:
        raise InvalidConfig(f"{name}: there must be 1 to {MAX_PHASES} phases")
    if len({phase.name for phase in phases}) != len(phases):
        raise InvalidConfig(f"{name}: two phases have the same name")
    if overlay.kind == "rings" and overlay.links % 2:
        raise InvalidConfig(f"{name}: overlay.links must be even with rings")
    if overlay.links >= overlay.nodes and overlay.kind != "full":
        raise InvalidConfig(f"{name}: overlay.links must be below overlay.nodes")
    if overlay.nat and overlay.kind != "dials":
        raise InvalidConfig(f"{name}: overlay.nat needs the kind dials")
    if sum(item.share for item in scenario.adversaries) > 0.9:
        raise InvalidConfig(f"{name}: adversaries are more than 0.9 of the nodes")
    if scenario.bulk.share and not scenario.network.uplink_mbit:
        raise InvalidConfig(f"{name}: bulk.share needs a network.uplink_mbit")
    if scenario.erlay.policy != ErlayConfig().policy:
        raise InvalidConfig(f"{name}: erlay.policy follows from the protocol's name")
    gossipsub = scenario.gossipsub
    if not gossipsub.d_low <= gossipsub.d <= gossipsub.d_high:
        raise InvalidConfig(f"{name}: gossipsub needs d_low <= d <= d_high")
