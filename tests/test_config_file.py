"""Configuration files: what is read, what is refused, what is written."""

from __future__ import annotations

import math
import os
import random
import re
import tomllib
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.config_file import (
    MAX_FILE_BYTES,
    build_config,
    load_config,
    parse_config,
    to_toml,
)
from dig_gossip.errors import InvalidConfig, Io
from dig_gossip.types.config import (
    FEATURES_NOT_YET,
    BackpressureConfig,
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
from dig_gossip.types.network import PRESETS, Network
from dig_gossip.types.options import options_of
from dig_gossip.types.peer import PeerAddress

EVERYTHING = """
listen_addr = "[::]:9555"
bootstrap_peers = ["node.example", "1.2.3.4:5"]
network = "chia-testnet11"
target_outbound_count = 4
peer_connect_interval = 2.5

[plumtree]
two_wave_announce = false
[relay]
endpoint = "wss://relay.example"
enabled = false
[erlay]
"""


class ReadingTests(SynchronousTestCase):
    """TOML becomes a configuration."""

    def write(self, content: str | bytes) -> str:
        """Put ``content`` into a new file and return its path."""
        path: str = self.mktemp()
        with open(path, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return path

    def test_keys_are_fields_and_tables_are_parts(self) -> None:
        """Every kind of setting arrives.  design §4"""
        self.assertEqual(
            load_config(self.write(EVERYTHING)),
            GossipConfig(
                listen_addr="[::]:9555",
                bootstrap_peers=[("node.example", 58444), ("1.2.3.4", 5)],
                network=Network.CHIA_TESTNET11,
                target_outbound_count=4,
                peer_connect_interval=2.5,
                plumtree=PlumtreeConfig(two_wave_announce=False),
                relay=RelayConfig(endpoint="wss://relay.example:9450", enabled=False),
                erlay=ErlayConfig(),
            ),
        )

    def test_nothing_gives_the_defaults(self) -> None:
        """No file, an empty file and a comment are the same.  API-003"""
        self.assertEqual(load_config(), GossipConfig())
        for content in ("", "# nothing\n", b"\xef\xbb\xbf"):
            self.assertEqual(load_config(self.write(content)), GossipConfig())

    def test_the_command_line_wins_over_the_file(self) -> None:
        """defaults < file < overrides, setting by setting.  design §4"""
        path = self.write("max_connections = 20\ngossip_fanout = 3\n[relay]\nenabled = false\n")
        config = load_config(
            path, {"max_connections": 30, "relay": {"endpoint": "ws://relay.example"}}
        )
        self.assertEqual(config.max_connections, 30)
        self.assertEqual(config.gossip_fanout, 3)
        self.assertEqual(config.max_seen_messages, 100_000)
        self.assertEqual(
            config.relay, RelayConfig(enabled=False, endpoint="ws://relay.example:9450")
        )

    def test_an_override_can_make_replace_and_remove_a_table(self) -> None:
        """A mapping makes one, an object replaces one, None removes one.  design §4"""
        text = "[relay]\nenabled = false\n[erlay]\n"
        tor = TorConfig(prefer_tor=True)
        config = parse_config(
            text,
            {
                "introducer": {"endpoint": "ws://intro.example"},
                "relay": RelayConfig(prefer_relay=True),
                "erlay": None,
                "tor": tor,
            },
        )
        self.assertEqual(config.introducer, IntroducerConfig(endpoint="ws://intro.example:9448"))
        self.assertEqual(config.relay, RelayConfig(prefer_relay=True))
        self.assertIsNone(config.erlay)
        self.assertIs(config.tor, tor)

    def test_an_override_of_the_network_replaces_it(self) -> None:
        """A name on the command line beats a table in the file, and the other way.  design D15"""
        table = f'[network]\nname = "lab"\nnetwork_id = "{"ab" * 32}"\n'
        lab = Network("lab", b"\xab" * 32)
        self.assertEqual(parse_config(table).network, lab)
        self.assertIs(
            parse_config(table, {"network": "chia-mainnet"}).network, Network.CHIA_MAINNET
        )
        config = parse_config('network = "chia-mainnet"', {"network": lab})
        self.assertIs(config.network, lab)
        config = parse_config(table, {"network": {"default_port": 1}})
        self.assertEqual(config.network, attrs.evolve(lab, default_port=1))

    def test_inputs_stay_as_they_are(self) -> None:
        """Neither mapping is changed.  behaviour §2"""
        settings: dict[str, Any] = {"relay": {"enabled": False}}
        overrides: dict[str, Any] = {"relay": {"endpoint": ""}}
        build_config(settings, overrides)
        self.assertEqual(settings, {"relay": {"enabled": False}})
        self.assertEqual(overrides, {"relay": {"endpoint": ""}})

    def test_objects_are_injected_by_overrides_only(self) -> None:
        """A generator can be handed over, and never named in a file.  CFG-101-X"""
        rng = random.Random(1)
        self.assertIs(build_config({}, {"rng": rng}).rng, rng)
        self.assertRaises(InvalidConfig, parse_config, 'rng = "fair"')


class RefusalTests(SynchronousTestCase):
    """Files that cannot be used, and what the operator reads."""

    def refusal(self, text: str, **overrides: object) -> str:
        """The message about ``text``."""
        error = self.assertRaises(InvalidConfig, parse_config, text, overrides, source="node.toml")
        message: str = str(error)
        return message

    def test_an_unknown_key_is_answered_with_the_nearest_one(self) -> None:
        """Key, file and a suggestion are named.  CFG-102-X"""
        self.assertEqual(
            self.refusal("max_conections = 5"),
            "max_conections: no such option; did you mean max_connections? (in node.toml)",
        )
        self.assertEqual(
            self.refusal("[intorducer]"),
            "intorducer: no such option; did you mean introducer? (in node.toml)",
        )
        self.assertEqual(
            self.refusal("[relay]\nendpont = ''"),
            "relay.endpont: no such option; did you mean endpoint? (in node.toml)",
        )
        self.assertEqual(self.refusal("zzz = 5"), "zzz: no such option (in node.toml)")

    def test_a_key_in_the_wrong_table_is_sent_to_the_right_one(self) -> None:
        """TOML puts every key after a header into that table.  CFG-102-X"""
        self.assertEqual(
            self.refusal("[relay]\nmax_connections = 5"),
            "relay.max_connections: no such option; it belongs above the first [table]"
            " (in node.toml)",
        )
        self.assertEqual(
            self.refusal("cache_bytes = 5"),
            "cache_bytes: no such option; it belongs into [plumtree] (in node.toml)",
        )
        self.assertIn("it belongs into [introducer] or [relay]", self.refusal("endpoint = ''"))

    def test_odd_keys_are_quoted_and_cut(self) -> None:
        """No key forges a second line or floods the screen.  API-102-X"""
        text = self.refusal('"a\\nb" = 1')
        self.assertTrue(text.startswith("'a\\nb': no such option"), text)
        self.assertLess(len(self.refusal(f'"{"k" * 5000}" = 1')), 160)

    def test_an_unusable_value_names_field_and_file(self) -> None:
        """The file is named where the value comes from it.  CFG-102-X"""
        self.assertEqual(
            self.refusal("max_connections = 0"),
            "max_connections: must be 1 to 10000, not 0 (in node.toml)",
        )
        self.assertEqual(
            self.refusal("[relay]\nping_interval_secs = 90"),
            "relay.ping_interval_secs: must be above 0 and below 90, not 90 (in node.toml)",
        )
        self.assertEqual(
            self.refusal("max_connections = 5", max_connections=0),
            "max_connections: must be 1 to 10000, not 0",
        )

    def test_an_unknown_override_is_refused(self) -> None:
        """A wrong name in the program does not pass either.  CFG-102-X"""
        self.assertEqual(self.refusal("", no_such=1), "no_such: no such option (in overrides)")
        self.assertIn("relay.no_such", self.refusal("", relay={"no_such": 1}))

    def test_a_syntax_error_names_the_line(self) -> None:
        """The place is named, also at the end of the file.  design §4"""
        self.assertEqual(
            self.refusal("gossip_fanout = 8\n[relay\n"),
            "node.toml: Expected ']' at the end of a table declaration (at line 2, column 7)",
        )
        self.assertEqual(
            self.refusal("gossip_fanout = 8\nmax_connections ="),
            "node.toml: Invalid value (at line 2, the last one)",
        )

    def test_a_network_of_ones_own_needs_name_and_id(self) -> None:
        """An incomplete network table says what is missing.  design D15"""
        self.assertEqual(
            self.refusal("[network]\nname = 'lab'"),
            "network.network_id: must be set in [network] (in node.toml)",
        )

    def test_a_table_is_a_table(self) -> None:
        """A plain value or an array of tables in its place is refused.  CFG-102-X"""
        for text in ("relay = 5", "relay = true", "[[relay]]", "plumtree = ''", "network = 5"):
            self.assertRegex(self.refusal(text), r"^(relay|plumtree|network): must be ")
        for text in ("max_connections = {}", "[max_connections]", "listen_addr = 1979-05-27"):
            self.assertRegex(self.refusal(text), r"^(max_connections|listen_addr): must be ")

    def test_monstrous_toml_is_refused_in_words(self) -> None:
        """Depth and digits beyond Python's limits are no crash.  CFG-102-X"""
        depth = 5000
        self.assertEqual(
            self.refusal("relay = " + "[" * depth + "]" * depth), "node.toml: nested too deeply"
        )
        self.assertEqual(
            self.refusal("gossip_fanout = " + "1" * 5000), "node.toml: a number has too many digits"
        )
        self.assertEqual(
            self.refusal("gossip_fanout = 0x" + "f" * 5000),
            "gossip_fanout: must be 1 to 256, not a huge int (in node.toml)",
        )

    def test_an_unreadable_file_is_an_io_error(self) -> None:
        """A missing file, a directory and an impossible name.  API-001"""
        directory = self.mktemp()
        os.mkdir(directory)
        for path in (self.mktemp(), directory, "a\0b"):
            error = self.assertRaises(Io, load_config, path)
            self.assertIn("cannot read the configuration file", str(error))

    def test_a_file_of_other_things_is_refused(self) -> None:
        """Binary and oversized files are not parsed.  CFG-102-X"""
        path = self.mktemp()
        for content, reason in (
            (b"# ok\n\xff", "not UTF-8 text (at line 2)"),
            (b"#" * (MAX_FILE_BYTES + 1), f"larger than {MAX_FILE_BYTES} bytes"),
        ):
            with open(path, "wb") as file:
                file.write(content)
            error = self.assertRaises(InvalidConfig, load_config, path)
            self.assertEqual(str(error), f"{path}: {reason}")
        with open(path, "wb") as file:
            file.write(b"#" * MAX_FILE_BYTES)
        self.assertEqual(load_config(path), GossipConfig())


def uncommented(text: str) -> str:
    """The file with every option and table switched on."""
    return re.sub(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)


class WritingTests(SynchronousTestCase):
    """A configuration becomes TOML."""

    def test_the_default_file_sets_nothing(self) -> None:
        """Options at their default are commented out.  design §4"""
        text = to_toml(GossipConfig())
        self.assertEqual(
            tomllib.loads(text), {"plumtree": {}, "peer_options": {}, "compact_blocks": {}}
        )
        self.assertEqual(parse_config(text), GossipConfig())

    def test_every_option_is_shown_with_its_meaning_and_default(self) -> None:
        """Nothing is left out, and what is shown as default is the default.  design §4"""
        text = to_toml(GossipConfig())
        shown = tomllib.loads(uncommented(text))
        for option in options_of(GossipConfig):
            self.assertIn(option.name, shown)
            if option.table is None or option.table is Network:
                continue
            for inner in options_of(option.table):
                self.assertIn(inner.name, shown[option.name])
                self.assertIn(" ".join(inner.doc.split()[:4]), text)
        self.assertIn("#max_connections = 50\n", text)
        self.assertIn("(whole number of sessions, 1 to 10000; default 50)\n", text)
        self.assertIn('#listen_addr = "0.0.0.0:9444"\n', text)
        self.assertEqual(text.count("Not available yet."), len(FEATURES_NOT_YET))

    def test_every_commented_line_can_be_used(self) -> None:
        """Removing each # gives a valid file; defaults shown are defaults.  design §4"""
        config = parse_config(uncommented(to_toml(GossipConfig())))
        self.assertEqual(config.plumtree, PlumtreeConfig())
        self.assertEqual(config.erlay, ErlayConfig())
        self.assertEqual(config.dandelion, DandelionConfig())
        self.assertEqual(config.backpressure, BackpressureConfig())
        self.assertEqual(config.peer_id_rotation, PeerIdRotationConfig())
        self.assertEqual(config.max_connections, 50)

    def test_lines_stay_narrow(self) -> None:
        """Comments are wrapped.  design §4"""
        self.assertLess(max(map(len, to_toml(GossipConfig()).splitlines())), 100)

    def test_settings_are_written_plainly(self) -> None:
        """What differs from the default stands without a #.  design §4"""
        text = to_toml(
            GossipConfig(
                network="chia-mainnet",
                peers_file_path=None,
                bootstrap_peers=["[::1]:5"],
                relay=RelayConfig(reconnect_delay_secs=0.25),
            )
        )
        for line in (
            'network = "chia-mainnet"',
            'peers_file_path = ""',
            'bootstrap_peers = ["[::1]:5"]',
            "[relay]",
            "reconnect_delay_secs = 0.25",
            "#[tor]",
        ):
            self.assertIn(f"\n{line}\n", text)

    def test_a_network_of_ones_own_becomes_a_table(self) -> None:
        """A network that is no preset is written in full.  design D15"""
        for network in (
            Network("lab", b"\xab" * 32, "lab-net", 7, ["seed.example"]),
            attrs.evolve(Network.CHIA_MAINNET, default_port=7),
        ):
            config = GossipConfig(network=network)
            self.assertEqual(parse_config(to_toml(config)), config)

    def test_odd_text_survives(self) -> None:
        """Quotes, backslashes, DEL and other scripts are escaped as TOML wants.  design §4"""
        for path in ('a"b\\c', "tab\tnewline\n", "\x7f\x1f", "ключ 🔑", "#", "'", "\u2028"):
            config = GossipConfig(peers_file_path=path)
            self.assertEqual(parse_config(to_toml(config)).peers_file_path, path)


# --- properties ------------------------------------------------------------------------------

HOSTS = st.sampled_from(["node.example", "10.1.2.3", "2001:db8::1", "localhost", "8.8.8.8"])
IDS = st.binary(min_size=32, max_size=32).filter(any)
NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)
PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers of a closed range."""
    return st.floats(low, high, allow_nan=False) | st.integers(
        math.ceil(low), math.floor(high)
    ).map(float)


NETWORKS = st.sampled_from(list(PRESETS.values())) | st.builds(
    Network, NAMES, IDS, NAMES, st.integers(1, 65535), st.lists(HOSTS, max_size=3)
)
CONFIGS = st.builds(
    GossipConfig,
    listen_addr=st.builds(PeerAddress, st.just("::1"), st.integers(0, 65535)),
    peer_id=st.none() | IDS,
    network=NETWORKS,
    network_id=st.none() | IDS,
    handshake_network_id=st.none() | NAMES,
    bootstrap_peers=st.lists(st.builds(PeerAddress, HOSTS, st.integers(1, 65535)), max_size=3),
    max_connections=st.integers(100, 10_000),
    target_outbound_count=st.integers(0, 100),
    peer_connect_interval=numbers(1, 3600),
    keepalive_ping_interval_secs=st.none() | numbers(1e-300, 1e300),
    peers_file_path=st.none() | PATHS,
    discovery=st.booleans(),
    dns_servers=st.lists(
        st.builds(PeerAddress, st.just("192.0.2.1"), st.integers(1, 65535)), max_size=3
    ),
    dns_over_https=st.sampled_from(["", "https://dns.example/dns-query"]),
    allow_private_addresses=st.none() | st.booleans(),
    diversity_exempt_networks=st.just(()) | st.just(["10.0.0.0/8", "fd00::/8"]),
    peer_options=st.builds(PeerOptions, rate_limit_factor=numbers(0.001, 100)),
    plumtree=st.builds(
        PlumtreeConfig, adaptive_timers=st.booleans(), cache_bytes=st.integers(65_536, 2**34)
    ),
    introducer=st.none() | st.builds(IntroducerConfig, network_id=NAMES),
    relay=st.none()
    | st.builds(
        RelayConfig,
        endpoint=st.sampled_from(["", "ws://relay.example", "wss://[::1]:7/x"]),
        enabled=st.booleans(),
        reconnect_delay_secs=numbers(0.1, 3600),
    ),
    dandelion=st.none() | st.builds(DandelionConfig, fluff_probability=numbers(0, 1)),
    tor=st.none() | st.builds(TorConfig, enabled=st.booleans()),
    erlay=st.none()
    | st.builds(
        ErlayConfig,
        policy=st.sampled_from(["reconcile", "safety_net"]),
        sketch_capacity=st.integers(1, 256),
    ),
)

KEYS = st.sampled_from(
    [option.name for option in options_of(GossipConfig)]
    + [inner.name for option in options_of(GossipConfig) if option.table
       for inner in options_of(option.table)]
    + ["", "x"]
)  # fmt: skip
VALUES = st.sampled_from(
    [
        "0", "1", "-1", "8", "0.5", "1e400", "nan", "-inf", "true", "''", "'ws://a.example'",
        "'1.2.3.4:5'", "[]", "['a:1']", "[[]]", "{}", "{enabled = true}", "1979-05-27",
        "07:32:00", '"\\u0000"', f"'{'ab' * 32}'", "'dig-mainnet'", "0x" + "f" * 5000, "1" * 5000,
    ]
)  # fmt: skip
LINES = (
    st.builds("{} = {}".format, KEYS, VALUES)
    | st.builds("{}.{} = {}".format, KEYS, KEYS, VALUES)
    | st.builds("[{}]".format, KEYS)
    | st.builds("[[{}]]".format, KEYS)
    | st.text(max_size=20)
)


class PropertyTests(SynchronousTestCase):
    """What holds for every file and every configuration."""

    @given(CONFIGS)
    def test_what_is_written_reads_back(self, config: GossipConfig) -> None:
        """parse(write(config)) is config.  design §4"""
        self.assertEqual(parse_config(to_toml(config)), config)

    @given(st.lists(LINES, max_size=8).map("\n".join) | st.text())
    def test_any_text_loads_or_is_refused(self, text: str) -> None:
        """TOML of any kind gives a configuration or InvalidConfig.  CFG-102-X"""
        try:
            config = parse_config(text)
        except InvalidConfig as error:
            self.assertNotIn("\n", str(error))
        else:
            self.assertEqual(parse_config(to_toml(config)), config)

    @given(st.binary())
    def test_any_file_loads_or_is_refused(self, content: bytes) -> None:
        """Bytes of any kind give a configuration or InvalidConfig.  CFG-102-X"""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(content)
        try:
            load_config(path)
        except InvalidConfig as error:
            self.assertTrue(str(error).startswith((path, "configuration")) or ":" in str(error))
