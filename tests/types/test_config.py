"""The configuration object: defaults, ranges, conversions, effective values."""

from __future__ import annotations

import ipaddress
import math
import random
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip._version import __version__
from dig_gossip.errors import InvalidConfig
from dig_gossip.types.config import (
    FEATURES_NOT_YET,
    BackpressureConfig,
    CompactBlockConfig,
    DandelionConfig,
    ErlayConfig,
    GossipConfig,
    IntroducerConfig,
    PeerIdRotationConfig,
    PeerOptions,
    PlumtreeConfig,
    RelayConfig,
    TorConfig,
    check_available,
    unavailable_features,
)
from dig_gossip.types.network import Network
from dig_gossip.types.options import options_of
from dig_gossip.types.peer import PeerAddress

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

DEFAULTS: dict[type, dict[str, object]] = {
    GossipConfig: {
        "listen_addr": PeerAddress("0.0.0.0", 9444),
        "external_addr": None,
        "port_mapping": "off",
        "cert_path": "",
        "key_path": "",
        "peer_id": None,
        "software_version": f"dig-gossip-py/{__version__}",
        "network": Network.DIG_MAINNET,
        "network_id": None,
        "handshake_network_id": None,
        "bootstrap_peers": (),
        "max_connections": 50,
        "target_outbound_count": 8,
        "max_connections_per_ip": 8,
        "max_inflight_handshakes": None,
        "peer_connect_interval": 30,
        "keepalive_ping_interval_secs": None,
        "keepalive_peer_timeout_secs": None,
        "discovery": True,
        "dns_seed_timeout": 30,
        "dns_seed_batch_size": 2,
        "dns_servers": (),
        "dns_over_https": "",
        "peers_file_path": "peers.dat",
        "allow_private_addresses": None,
        "diversity_exempt_networks": LOOPBACK,
        "as_table_path": None,
        "gossip_fanout": 8,
        "max_seen_messages": 100_000,
        "plumtree": PlumtreeConfig(),
        "peer_options": PeerOptions(),
        "compact_blocks": CompactBlockConfig(),
        "introducer": None,
        "relay": None,
        "dandelion": None,
        "peer_id_rotation": None,
        "tor": None,
        "erlay": None,
        "backpressure": None,
        "reactor": None,
        "rng": None,
        "resolver": None,
    },
    PeerOptions: {
        "rate_limit_factor": 0.6,
        "enforce_rate_limits": True,
        "receive_budget_bytes": 268_435_456,
        "send_budget_bytes": 268_435_456,
    },
    PlumtreeConfig: {
        "lazy_timeout_ms": 500,
        "adaptive_timers": True,
        "graft_timeout_floor_ms": 60,
        "graft_timeout_ceiling_ms": 2000,
        "graft_retry_ms": 250,
        "announce_flush_ms": 50,
        "tagged_trees": True,
        "announce_gather_ms": 250,
        "two_wave_announce": True,
        "first_wave_peers": 4,
        "second_wave_delay_ms": 250,
        "cache_messages": 1000,
        "cache_bytes": 64 * 1024 * 1024,
        "cache_ttl_secs": 60,
        "optimize_interval_secs": 10,
    },
    IntroducerConfig: {
        "endpoint": "",
        "connection_timeout_secs": 10,
        "request_timeout_secs": 30,
        "network_id": "DIG_MAINNET",
    },
    RelayConfig: {
        "endpoint": "",
        "enabled": True,
        "connection_timeout_secs": 10,
        "reconnect_delay_secs": 5,
        "max_reconnect_attempts": 10,
        "ping_interval_secs": 30,
        "prefer_relay": False,
        "advertise": True,
        "hole_punching": True,
        "is_paced": True,
    },
    DandelionConfig: {
        "enabled": True,
        "fluff_probability": 0.1,
        "stem_timeout_secs": 30,
        "epoch_secs": 600,
    },
    PeerIdRotationConfig: {
        "enabled": True,
        "rotation_interval_secs": 86_400,
        "reconnect_on_rotation": True,
    },
    TorConfig: {
        "enabled": False,
        "socks5_proxy": "127.0.0.1:9050",
        "onion_address": None,
        "onion_port": None,
        "control_address": None,
        "control_password": "",
        "prefer_tor": False,
    },
    ErlayConfig: {
        "policy": "reconcile",
        "flood_peer_count": 1,
        "reconciliation_interval_ms": 2000,
        "sketch_capacity": 8,
    },
    CompactBlockConfig: {
        "max_missing_transactions": 5,
        "fetch_by_bytes": True,
        "prefill_bytes": 10_000,
    },
    BackpressureConfig: {
        "tx_dedup_threshold": 25,
        "bulk_drop_threshold": 50,
        "normal_delay_threshold": 100,
    },
}

#: Whole numbers: class, field, lowest, highest, and what else must be set for the ends to fit.
INTEGERS: list[tuple[type, str, int, int, dict[str, object]]] = [
    (GossipConfig, "max_connections", 1, 10_000, {"target_outbound_count": 0}),
    (GossipConfig, "target_outbound_count", 0, 10_000, {"max_connections": 10_000}),
    (GossipConfig, "max_connections_per_ip", 1, 10_000, {}),
    (GossipConfig, "max_inflight_handshakes", 1, 1_000_000, {}),
    (GossipConfig, "gossip_fanout", 1, 256, {}),
    (GossipConfig, "max_seen_messages", 1, 10_000_000, {}),
    (PeerOptions, "receive_budget_bytes", 67_108_864, 1 << 40, {}),
    (PeerOptions, "send_budget_bytes", 67_108_864, 1 << 40, {}),
    (PlumtreeConfig, "lazy_timeout_ms", 1, 60_000, {"adaptive_timers": False}),
    (PlumtreeConfig, "graft_timeout_floor_ms", 1, 60_000, {
        "adaptive_timers": False, "graft_timeout_ceiling_ms": 60_000,
    }),
    (PlumtreeConfig, "graft_timeout_ceiling_ms", 1, 60_000, {
        "adaptive_timers": False, "graft_timeout_floor_ms": 1,
    }),
    (PlumtreeConfig, "graft_retry_ms", 1, 60_000, {}),
    (PlumtreeConfig, "announce_flush_ms", 1, 10_000, {}),
    (PlumtreeConfig, "announce_gather_ms", 1, 10_000, {}),
    (PlumtreeConfig, "first_wave_peers", 1, 256, {}),
    (PlumtreeConfig, "second_wave_delay_ms", 1, 60_000, {}),
    (PlumtreeConfig, "cache_messages", 1, 1_000_000, {}),
    (PlumtreeConfig, "cache_bytes", 65_536, 17_179_869_184, {}),
    (TorConfig, "onion_port", 1, 65_535, {}),
    (RelayConfig, "max_reconnect_attempts", 0, 1_000_000_000, {}),
    (ErlayConfig, "flood_peer_count", 0, 256, {}),
    (ErlayConfig, "reconciliation_interval_ms", 100, 3_600_000, {}),
    (ErlayConfig, "sketch_capacity", 1, 256, {}),
    (CompactBlockConfig, "max_missing_transactions", 0, 64, {}),
    (CompactBlockConfig, "prefill_bytes", 0, 1_000_000, {}),
    (BackpressureConfig, "tx_dedup_threshold", 0, 1_000_000_000, {
        "bulk_drop_threshold": 1_000_000_000, "normal_delay_threshold": 1_000_000_000,
    }),
    (BackpressureConfig, "bulk_drop_threshold", 0, 1_000_000_000, {
        "tx_dedup_threshold": 0, "normal_delay_threshold": 1_000_000_000,
    }),
    (BackpressureConfig, "normal_delay_threshold", 0, 1_000_000_000, {
        "tx_dedup_threshold": 0, "bulk_drop_threshold": 0,
    }),
]  # fmt: skip

#: Numbers: class, field, values at and inside the ends, values just outside.
NUMBERS: list[tuple[type, str, tuple[float, ...], tuple[float, ...]]] = [
    (GossipConfig, "peer_connect_interval", (1, 1.01, 3599.9, 3600), (0.99, 0, -1, 3600.1)),
    (GossipConfig, "dns_seed_timeout", (0.1, 0.11, 299.9, 300), (0.099, 0, 300.1)),
    (GossipConfig, "keepalive_ping_interval_secs", (0.001, 1, 1e6), (0, -0.001)),
    (GossipConfig, "keepalive_peer_timeout_secs", (0.001, 1, 1e6), (0, -0.001)),
    (PeerOptions, "rate_limit_factor", (0.001, 0.6, 99.9, 100), (0, -0.1, 100.1)),
    (PlumtreeConfig, "cache_ttl_secs", (1, 1.1, 3599.9, 3600), (0.99, 3600.1)),
    (PlumtreeConfig, "optimize_interval_secs", (1, 1.1, 3599.9, 3600), (0.99, 3600.1)),
    (IntroducerConfig, "connection_timeout_secs", (1, 1.1, 299.9, 300), (0.99, 300.1)),
    (IntroducerConfig, "request_timeout_secs", (1, 1.1, 299.9, 300), (0.99, 300.1)),
    (RelayConfig, "connection_timeout_secs", (1, 1.1, 299.9, 300), (0.99, 300.1)),
    (RelayConfig, "reconnect_delay_secs", (0.1, 0.11, 3599.9, 3600), (0.099, 3600.1)),
    (RelayConfig, "ping_interval_secs", (0.001, 89.999), (0, 90, 90.001)),
    (DandelionConfig, "fluff_probability", (0, 0.001, 0.999, 1), (-0.001, 1.001)),
    (DandelionConfig, "stem_timeout_secs", (1, 1.1, 1e6), (0.99,)),
    (DandelionConfig, "epoch_secs", (1, 1.1, 1e6), (0.99,)),
    (PeerIdRotationConfig, "rotation_interval_secs", (0, 60, 60.1, 1e9), (-1, 0.1, 59.99)),
]

SECTIONS = {option.table: option.name for option in options_of(GossipConfig) if option.table}


def path_of(table: type, field: str) -> str:
    """The name of a field as errors spell it."""
    return f"{SECTIONS[table]}.{field}" if table in SECTIONS else field


class ConfigTestCase(SynchronousTestCase):
    """Assertions about refused configurations."""

    def refused(self, path: str, table: type, **settings: Any) -> str:
        """Assert that ``table(**settings)`` is refused because of the field at ``path``."""
        error = self.assertRaises(InvalidConfig, table, **settings)
        self.assertTrue(str(error).startswith(f"{path}: "), f"{path}: {error}")
        return str(error)


class DefaultTests(SynchronousTestCase):
    """What a node does that was told nothing."""

    def test_every_default_is_the_documented_one(self) -> None:
        """Each class has exactly these fields with these defaults.  API-003 API-010 CFG-101-X"""
        for table, defaults in DEFAULTS.items():
            actual = attrs.asdict(table(), recurse=False)
            self.assertEqual(actual, defaults, table.__name__)

    def test_the_tables_of_this_module_are_complete(self) -> None:
        """Every number among the fields has a row of range tests.  API-003"""
        numeric = {
            (table, option.name)
            for table in (GossipConfig, *SECTIONS)
            if table is not Network
            for option in options_of(table)
            if option.kind in ("whole number", "number")
        }
        tested = {row[:2] for row in INTEGERS} | {row[:2] for row in NUMBERS}
        self.assertEqual(numeric - tested, {(GossipConfig, "dns_seed_batch_size")})

    def test_every_field_explains_itself(self) -> None:
        """Documentation, kind and converter stand with the field.  style §7.1"""
        for table in (GossipConfig, *SECTIONS):
            for field in attrs.fields(table):
                self.assertTrue(field.metadata["doc"].endswith("."), field)
                self.assertTrue(field.metadata["kind"], field)

    def test_the_version_is_advertised_and_never_zero(self) -> None:
        """The default software version names this package.  CFG-101-X"""
        version = GossipConfig().software_version
        self.assertTrue(version.startswith("dig-gossip-py/"), version)
        self.assertNotIn("0.0.0", version)


class RangeTests(ConfigTestCase):
    """Each number at the ends of its range, and just outside."""

    def test_integers_at_and_beyond_their_ends(self) -> None:
        """n is accepted where n - 1 or n + 1 is refused.  behaviour §2"""
        for table, field, low, high, others in INTEGERS:
            path = path_of(table, field)
            for value in (low, low + 1, high - 1, high):
                config = table(**{**others, field: value})
                self.assertEqual(getattr(config, field), value, path)
            for value in (low - 1, high + 1):
                self.refused(path, table, **{**others, field: value})

    def test_numbers_at_and_beyond_their_ends(self) -> None:
        """The ends belong to the range exactly where the table says so.  behaviour §2"""
        for table, field, good, bad in NUMBERS:
            path = path_of(table, field)
            for value in good:
                self.assertEqual(getattr(table(**{field: value}), field), value, path)
            for value in bad:
                self.refused(path, table, **{field: value})

    def test_numbers_that_are_not_finite_are_refused(self) -> None:
        """NaN, infinity and what no float can hold are no durations.  behaviour §2"""
        for table, field, _good, _bad in NUMBERS:
            for value in (math.nan, math.inf, -math.inf, 10**400):
                self.refused(path_of(table, field), table, **{field: value})

    def test_a_wrong_type_is_refused(self) -> None:
        """Text, booleans and None are no numbers; a float is no whole number.  CFG-102-X"""
        optional = {
            "max_inflight_handshakes",
            "keepalive_ping_interval_secs",
            "keepalive_peer_timeout_secs",
            "onion_port",
        }
        for table, field in [row[:2] for row in INTEGERS] + [row[:2] for row in NUMBERS]:
            for value in ("1", True, False, [1], b"1"):
                self.refused(path_of(table, field), table, **{field: value})
            if field not in optional:
                self.refused(path_of(table, field), table, **{field: None})
        for table, field, low, _high, _others in INTEGERS:
            self.refused(path_of(table, field), table, **{field: float(low)})

    def test_durations_become_floats(self) -> None:
        """A whole number of seconds is stored as a float.  style §7.1"""
        self.assertIs(type(GossipConfig(peer_connect_interval=5).peer_connect_interval), float)

    def test_small_dns_batches_count_as_one(self) -> None:
        """Batch sizes below 1 are clamped, those above 64 refused.  behaviour §2"""
        for given_size, size in ((-5, 1), (0, 1), (1, 1), (2, 2), (63, 63), (64, 64)):
            config = GossipConfig(dns_seed_batch_size=given_size)
            self.assertEqual(config.dns_seed_batch_size, size)
        for bad in (65, True, "2", 2.0, None):
            self.refused("dns_seed_batch_size", GossipConfig, dns_seed_batch_size=bad)

    def test_flags_are_booleans_only(self) -> None:
        """0, 1 and text are neither yes nor no.  CFG-102-X"""
        flags = [
            (table, option.name)
            for table in (GossipConfig, *SECTIONS)
            if table is not Network
            for option in options_of(table)
            if option.kind == "boolean"
        ]
        self.assertGreaterEqual(len(flags), 9)
        for table, field in flags:
            for value in (0, 1, "yes", ""):
                self.refused(path_of(table, field), table, **{field: value})
            for value in (True, False):
                self.assertIs(getattr(table(**{field: value}), field), value)

    def test_parts_must_be_of_their_class(self) -> None:
        """A part is its configuration object, or None where it may be off.  CFG-102-X"""
        for table, field in SECTIONS.items():
            for bad in (5, {"enabled": True}, ["x"], table):
                self.refused(field, GossipConfig, **{field: bad})
        for field in ("plumtree", "peer_options", "network"):
            self.refused(field, GossipConfig, **{field: None})

    def test_an_unknown_keyword_is_a_type_error(self) -> None:
        """A misspelled keyword does not pass silently.  CFG-102-X"""
        for table in DEFAULTS:
            with self.assertRaises(TypeError):
                table(no_such_option=1)

    def test_the_first_failing_field_is_named(self) -> None:
        """Of two wrong fields the one defined first is reported.  behaviour §2"""
        self.refused("max_connections", GossipConfig, gossip_fanout=0, max_connections=0)

    def test_refusals_are_short_and_say_what_to_do(self) -> None:
        """A monstrous value gives a readable sentence.  API-004"""
        text = self.refused("max_connections", GossipConfig, max_connections=10**5000)
        self.assertEqual(text, "max_connections: must be 1 to 10000, not a huge int")
        text = self.refused("gossip_fanout", GossipConfig, gossip_fanout="x" * 10_000)
        self.assertLess(len(text), 160)


class CrossFieldTests(ConfigTestCase):
    """Rules about more than one field."""

    def test_certificate_and_key_come_together(self) -> None:
        """Exactly one of the two paths is an error.  behaviour §2"""
        self.refused("key_path", GossipConfig, cert_path="node.crt")
        self.refused("cert_path", GossipConfig, key_path="node.key")
        config = GossipConfig(cert_path=Path("node.crt"), key_path="node.key")
        self.assertEqual((config.cert_path, config.key_path), ("node.crt", "node.key"))

    def test_outbound_sessions_fit_into_all_sessions(self) -> None:
        """The outbound target is at most max_connections.  behaviour §2"""
        for target in (0, 3, 4):
            GossipConfig(max_connections=4, target_outbound_count=target)
        text = self.refused(
            "target_outbound_count", GossipConfig, max_connections=4, target_outbound_count=5
        )
        self.assertIn("max_connections (4)", text)

    def test_backpressure_thresholds_ascend(self) -> None:
        """tx <= bulk <= normal.  behaviour §2"""
        BackpressureConfig(tx_dedup_threshold=7, bulk_drop_threshold=7, normal_delay_threshold=7)
        self.refused(
            "backpressure.tx_dedup_threshold",
            BackpressureConfig,
            tx_dedup_threshold=8,
            bulk_drop_threshold=7,
            normal_delay_threshold=9,
        )
        self.refused(
            "backpressure.bulk_drop_threshold",
            BackpressureConfig,
            tx_dedup_threshold=7,
            bulk_drop_threshold=8,
            normal_delay_threshold=7,
        )

    def test_the_first_graft_timer_lies_between_floor_and_ceiling(self) -> None:
        """Adaptive timers start within their own limits.  behaviour PLT-005"""
        PlumtreeConfig(lazy_timeout_ms=60)
        PlumtreeConfig(lazy_timeout_ms=2000)
        for outside in (59, 2001):
            self.refused("plumtree.lazy_timeout_ms", PlumtreeConfig, lazy_timeout_ms=outside)
            PlumtreeConfig(lazy_timeout_ms=outside, adaptive_timers=False)
        self.refused(
            "plumtree.graft_timeout_floor_ms",
            PlumtreeConfig,
            graft_timeout_floor_ms=601,
            graft_timeout_ceiling_ms=600,
            adaptive_timers=False,
        )

    def test_the_proxy_of_tor_is_checked_once_tor_is_on(self) -> None:
        """An enabled Tor needs IP address and port of its proxy; no proxy, no Tor.  PRV-009"""
        for proxy in ("127.0.0.1:1", "[::1]:9050"):
            tor = TorConfig(enabled=True, socks5_proxy=proxy)
            self.assertEqual((tor.socks5_proxy, tor.is_active), (proxy, True))
        self.assertFalse(TorConfig(enabled=True, socks5_proxy="").is_active)
        for proxy in ("127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", ":9050", "tor:1", "a b:1"):
            self.refused("tor.socks5_proxy", TorConfig, enabled=True, socks5_proxy=proxy)
            self.assertFalse(TorConfig(socks5_proxy=proxy).enabled)
        self.refused("tor.socks5_proxy", TorConfig, socks5_proxy=9050)

    def test_the_control_port_of_tor(self) -> None:
        """An IP address and a port, or the path of a socket.  PRV-010.2"""
        for address in ("127.0.0.1:9051", "[::1]:9051", "unix:/run/tor/control", None):
            self.assertEqual(TorConfig(control_address=address).control_address, address)
        for wrong in ("127.0.0.1", "tor:9051", "127.0.0.1:0", "unix:control", "/run/tor", 9051):
            self.refused("tor.control_address", TorConfig, control_address=wrong)


class EffectiveValueTests(ConfigTestCase):
    """What the settings amount to."""

    def test_keepalive_follows_the_constants_unless_set(self) -> None:
        """30 and 90 seconds are the defaults.  behaviour §2"""
        config = GossipConfig()
        self.assertEqual((config.ping_interval, config.peer_timeout), (30, 90))
        config = GossipConfig(keepalive_ping_interval_secs=7, keepalive_peer_timeout_secs=7.5)
        self.assertEqual((config.ping_interval, config.peer_timeout), (7, 7.5))

    def test_a_short_timeout_shortens_the_ping_interval(self) -> None:
        """A timeout not above the interval gives pings every third of it.  behaviour §2"""
        for timeout, interval in ((29, 29 / 3), (30, 10), (30.01, 30)):
            config = GossipConfig(keepalive_peer_timeout_secs=timeout)
            self.assertEqual(config.ping_interval, interval)
        self.assertEqual(GossipConfig(keepalive_ping_interval_secs=90).ping_interval, 30)

    def test_inbound_slots_are_what_outbound_leaves(self) -> None:
        """At least one inbound slot is left.  CON-110-X"""
        self.assertEqual(GossipConfig().max_inbound, 40)
        self.assertEqual(GossipConfig(max_connections=8).max_inbound, 1)
        self.assertEqual(GossipConfig(max_connections=11).max_inbound, 1)
        self.assertEqual(GossipConfig(max_connections=12).max_inbound, 2)
        self.assertEqual(GossipConfig(target_outbound_count=0).max_inbound, 50)

    def test_unfinished_handshakes_are_limited_by_the_slots(self) -> None:
        """Four times max_connections unless set.  CFG-101-X"""
        self.assertEqual(GossipConfig().inflight_limit, 200)
        self.assertEqual(GossipConfig(max_inflight_handshakes=1).inflight_limit, 1)

    def test_private_addresses_count_where_we_are_private(self) -> None:
        """Unless told, it depends on where we listen and whom we dial.  CFG-101-X"""
        self.assertFalse(GossipConfig().allows_private_addresses)
        self.assertFalse(GossipConfig(listen_addr="[::]:1").allows_private_addresses)
        self.assertFalse(
            GossipConfig(bootstrap_peers=["8.8.8.8:1", "node.example:1"]).allows_private_addresses
        )
        for listen in ("127.0.0.1:0", "[::1]:0", "192.168.0.1:1", "10.1.2.3:1", "[fd00::1]:1"):
            self.assertTrue(GossipConfig(listen_addr=listen).allows_private_addresses, listen)
        for peer in ("127.0.0.1:1", "localhost:1", "172.16.0.1:1"):
            self.assertTrue(GossipConfig(bootstrap_peers=[peer]).allows_private_addresses, peer)
        for choice in (True, False):
            config = GossipConfig(listen_addr="127.0.0.1:0", allow_private_addresses=choice)
            self.assertIs(config.allows_private_addresses, choice)

    def test_exempt_networks_are_read_from_text(self) -> None:
        """CIDR text and network objects, IPv4 and IPv6.  CFG-101-X"""
        config = GossipConfig(diversity_exempt_networks=["10.1.2.3/8", LOOPBACK[1], "10.0.0.0/8"])
        self.assertEqual(
            config.diversity_exempt_networks, (ipaddress.ip_network("10.0.0.0/8"), LOOPBACK[1])
        )
        self.assertEqual(GossipConfig(diversity_exempt_networks=()).diversity_exempt_networks, ())
        for bad in (["10.0.0.0/33"], ["x"], [5], "10.0.0.0/8", None, ["1.2.3.4"] * 1001):
            self.refused("diversity_exempt_networks", GossipConfig, diversity_exempt_networks=bad)

    def test_dns_servers_are_addresses(self) -> None:
        """IP literals, port 53 unless given, eight at most.  DSC-003"""
        config = GossipConfig(dns_servers=["192.0.2.1", "[::1]:5353", ("192.0.2.1", 53)])
        self.assertEqual(
            config.dns_servers, (PeerAddress("192.0.2.1", 53), PeerAddress("::1", 5353))
        )
        self.assertEqual(
            len(GossipConfig(dns_servers=[f"192.0.2.{n}" for n in range(8)]).dns_servers), 8
        )
        for bad in (["dns.example"], ["192.0.2.1:0"], "192.0.2.1", [5], ["192.0.2.1"] * 9):
            self.refused("dns_servers", GossipConfig, dns_servers=bad)

    def test_a_dns_over_https_server_is_a_url(self) -> None:
        """Over TLS, without secrets in it.  DSC-003"""
        for good in (
            "",
            "https://dns.example/dns-query",
            "https://[::1]:8443/q?x=1",
            "https://1.1.1.1",
        ):
            self.assertEqual(GossipConfig(dns_over_https=good).dns_over_https, good)
        for bad in (
            "http://dns.example/", "dns.example", "https://", "https://u:p@dns.example/", None, 5,
            "https://dns.example/#x", "https://dns.example:0/", "https://dns.example:x/",
            "https://a b/", "https://dns.example/\n", "https://-x/", "https://" + "x" * 3000,
        ):  # fmt: skip
            self.refused("dns_over_https", GossipConfig, dns_over_https=bad)

    def test_a_configuration_is_a_value(self) -> None:
        """It cannot change, compares by content, and evolves.  style §7.1"""
        config = GossipConfig(bootstrap_peers=["1.2.3.4:5"], relay=RelayConfig())
        for table in DEFAULTS:
            field = attrs.fields(table)[0].name
            with self.assertRaises(attrs.exceptions.FrozenInstanceError):
                setattr(table(), field, None)
        self.assertEqual(attrs.evolve(config), config)
        self.assertEqual(hash(attrs.evolve(config)), hash(config))
        self.assertNotEqual(attrs.evolve(config, gossip_fanout=9), config)
        with self.assertRaises(InvalidConfig):
            attrs.evolve(config, gossip_fanout=0)

    def test_injected_objects_are_checked_and_not_compared(self) -> None:
        """A clock and a seeded generator pass; other things do not.  CFG-101-X"""
        clock, rng = Clock(), random.Random(1)
        config = GossipConfig(reactor=clock, rng=rng)
        self.assertIs(config.reactor, clock)
        self.assertIs(config.rng, rng)
        self.assertEqual(config, GossipConfig())
        for field in ("reactor", "rng", "resolver"):
            self.refused(field, GossipConfig, **{field: object()})


class AvailabilityTests(SynchronousTestCase):
    """Valid settings whose feature does not exist yet."""

    WANTED: dict[str, object] = {}

    def test_the_default_asks_for_nothing_that_is_missing(self) -> None:
        """GossipConfig() alone can be started.  API-003"""
        self.assertEqual(unavailable_features(GossipConfig()), [])
        check_available(GossipConfig())

    def test_a_missing_feature_is_refused_by_name(self) -> None:
        """Enabling an absent feature never passes silently.  CFG-103-X"""
        self.assertEqual(set(self.WANTED), FEATURES_NOT_YET)
        for name, value in self.WANTED.items():
            config = GossipConfig(**{name: value})  # type: ignore[arg-type]
            self.assertEqual(unavailable_features(config), [name])
            error = self.assertRaises(InvalidConfig, check_available, config)
            self.assertEqual(str(error), f"{name}: not available yet")

    def test_every_missing_feature_is_listed(self) -> None:
        """All that is asked for is reported together.  CFG-103-X"""
        config = GossipConfig(**self.WANTED)  # type: ignore[arg-type]
        self.assertEqual(set(unavailable_features(config)), FEATURES_NOT_YET)

    def test_a_feature_that_is_switched_off_is_no_obstacle(self) -> None:
        """A present but inactive part does not keep a node from starting.  behaviour §2"""
        check_available(
            GossipConfig(
                introducer=IntroducerConfig(),
                relay=RelayConfig(),
                dandelion=DandelionConfig(enabled=False),
                peer_id_rotation=PeerIdRotationConfig(rotation_interval_secs=0),
                tor=TorConfig(),
            )
        )
        check_available(
            GossipConfig(
                relay=RelayConfig(endpoint="ws://a.example", enabled=False),
                peer_id_rotation=PeerIdRotationConfig(enabled=False),
            )
        )


class AnyValueTests(SynchronousTestCase):
    """Whatever is handed in, the answer is a configuration or InvalidConfig."""

    @given(
        st.sampled_from(sorted(DEFAULTS[GossipConfig])),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.binary()
            | st.just(b"\x01" * 32),
            lambda inner: st.lists(inner) | st.tuples(inner, inner),
        ),
    )
    def test_any_value_is_accepted_or_refused_in_words(self, field: str, value: object) -> None:
        """No value of any type gives another exception.  CFG-102-X"""
        try:
            config = GossipConfig(**{field: value})  # type: ignore[arg-type]
        except InvalidConfig as error:
            self.assertTrue(str(error).split(":")[0] in DEFAULTS[GossipConfig], str(error))
        else:
            self.assertEqual(attrs.evolve(config), config)
