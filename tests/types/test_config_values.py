"""The configuration object: the forms in which addresses, ids and paths are accepted."""

from __future__ import annotations

from pathlib import Path

from chia_rs.sized_bytes import bytes32

from dig_gossip.types.config import GossipConfig, IntroducerConfig, RelayConfig, TorConfig
from dig_gossip.types.network import Network
from dig_gossip.types.peer import PeerAddress
from tests.types.test_config import ConfigTestCase, path_of

ONION = "a2" * 28 + ".onion"


class AddressTests(ConfigTestCase):
    """Where we listen, what we claim, whom we dial."""

    def test_the_listening_address_has_several_forms(self) -> None:
        """Text, pairs and addresses are one and the same.  behaviour §2"""
        for form, host, port in (
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("127.0.0.1:0", "127.0.0.1", 0),
            ("127.0.0.1:65535", "127.0.0.1", 65535),
            ("127.0.0.1", "127.0.0.1", 9444),
            ("[::]:1", "::", 1),
            ("[::1]", "::1", 9444),
            ("::1", "::1", 9444),
            (("127.0.0.1", 7), "127.0.0.1", 7),
            (PeerAddress("::1", 8), "::1", 8),
            ("::ffff:1.2.3.4", "1.2.3.4", 9444),
        ):
            config = GossipConfig(listen_addr=form)
            self.assertEqual(config.listen_addr, PeerAddress(host, port))

    def test_what_is_no_listening_address_is_refused(self) -> None:
        """Names, absent hosts and impossible ports cannot be bound.  behaviour §2"""
        for bad in (
            "localhost:9444",
            "",
            ":9444",
            "1.2.3.4:65536",
            "1.2.3.4:-1",
            "1.2.3.4:x",
            "1.2.3:1",
            ("127.0.0.1",),
            ("127.0.0.1", "9444"),
            ("127.0.0.1", True),
            ("", 1),
            9444,
            None,
            b"127.0.0.1:1",
        ):
            self.refused("listen_addr", GossipConfig, listen_addr=bad)

    def test_bootstrap_peers_take_the_port_of_the_network(self) -> None:
        """A peer without a port is dialed at the network's default port.  behaviour §2"""
        config = GossipConfig(
            network=Network.CHIA_MAINNET,
            bootstrap_peers=["node.example", ("1.2.3.4", 5), PeerAddress("::1", 6), "NODE.example"],
        )
        self.assertEqual(
            config.bootstrap_peers,
            (PeerAddress("node.example", 8444), PeerAddress("1.2.3.4", 5), PeerAddress("::1", 6)),
        )

    def test_bootstrap_peers_are_a_copy(self) -> None:
        """Changing the caller's list changes nothing.  behaviour §2"""
        peers: list[str | PeerAddress | tuple[str, int]] = ["1.2.3.4:5"]
        config = GossipConfig(bootstrap_peers=peers)
        peers.append("1.2.3.5:6")
        self.assertEqual(config.bootstrap_peers, (PeerAddress("1.2.3.4", 5),))

    def test_bootstrap_peers_are_bounded(self) -> None:
        """1000 peers are accepted, 1001 are not.  behaviour §2"""
        peers = [f"10.0.{n // 250}.{n % 250}:1" for n in range(1001)]
        for count in (999, 1000):
            self.assertEqual(
                len(GossipConfig(bootstrap_peers=peers[:count]).bootstrap_peers), count
            )
        self.refused("bootstrap_peers", GossipConfig, bootstrap_peers=peers)

    def test_what_cannot_be_dialed_is_no_bootstrap_peer(self) -> None:
        """Port 0, malformed hosts and things that are no list are refused.  behaviour §2"""
        for bad in ("1.2.3.4:0", "300.1.2.3:1", "a b:1", "-a:1", "a..b:1", "ü.example:1", 5, None):
            self.refused("bootstrap_peers", GossipConfig, bootstrap_peers=[bad])
        for bad_list in ("1.2.3.4:5", 5, None, {"1.2.3.4:5": 1}, b"1.2.3.4:5"):
            self.refused("bootstrap_peers", GossipConfig, bootstrap_peers=bad_list)

    def test_an_external_address_can_be_dialed(self) -> None:
        """It is an IP literal with a port, or absent.  CFG-101-X"""
        config = GossipConfig(external_addr="203.0.113.5:1")
        self.assertEqual(config.external_addr, PeerAddress("203.0.113.5", 1))
        for bad in ("203.0.113.5", "203.0.113.5:0", "0.0.0.0:1", "[::]:1", "node.example:1", 5):
            self.refused("external_addr", GossipConfig, external_addr=bad)

    def test_endpoints_are_websocket_urls_with_a_port(self) -> None:
        """An absent port is filled in, everything else stays.  behaviour §2"""
        for form, stored in (
            ("", ""),
            ("ws://relay.example", "ws://relay.example:9450"),
            ("wss://relay.example/", "wss://relay.example:9450/"),
            ("WSS://Relay.example:1/p?q=1", "wss://relay.example:1/p?q=1"),
            ("ws://[2001:db8::1]", "ws://[2001:db8::1]:9450"),
            ("ws://1.2.3.4:65535", "ws://1.2.3.4:65535"),
        ):
            self.assertEqual(RelayConfig(endpoint=form).endpoint, stored)
        self.assertEqual(
            IntroducerConfig(endpoint="ws://a.example").endpoint, "ws://a.example:9448"
        )

    def test_other_endpoints_are_refused(self) -> None:
        """Other schemes, absent hosts, impossible ports, hidden characters.  behaviour §2"""
        for bad in (
            "http://relay.example",
            "relay.example:9450",
            "ws://",
            "ws://:9450",
            "ws://relay.example:0",
            "ws://relay.example:65536",
            "ws://relay.example:x",
            "ws://[::1",
            "ws://user:secret@relay.example",
            "ws://relay.example/#top",
            "ws://relay .example",
            "ws://relay\n.example",
            "ws://relay.example\n",
            "ws://ü.example",
            "ws://a..b",
            "ws://relay.example/" + "a" * 2048,
            5,
            None,
        ):
            for table in (RelayConfig, IntroducerConfig):
                self.refused(path_of(table, "endpoint"), table, endpoint=bad)


class IdentityTests(ConfigTestCase):
    """Ids, names and versions that others see."""

    def test_the_network_decides_unless_told_otherwise(self) -> None:
        """Id and greeting come from the preset.  design D15"""
        config = GossipConfig(network="chia-mainnet")
        self.assertIs(config.network, Network.CHIA_MAINNET)
        self.assertEqual(config.effective_network_id, Network.CHIA_MAINNET.network_id)
        self.assertEqual(config.handshake_string, "mainnet")
        self.refused("network", GossipConfig, network="mainnet")

    def test_an_own_id_is_greeted_in_hex(self) -> None:
        """network_id overrides the preset, also its greeting.  wire §5.5"""
        for form in (b"\xab" * 32, "ab" * 32, "0xAB" + "ab" * 31, bytes32(b"\xab" * 32)):
            config = GossipConfig(network="chia-mainnet", network_id=form)
            self.assertEqual(config.effective_network_id, b"\xab" * 32)
            self.assertEqual(config.handshake_string, "ab" * 32)
            self.assertEqual(config.network.default_port, 8444)

    def test_repeating_the_id_of_the_network_changes_nothing(self) -> None:
        """The preset's own id keeps the preset's greeting.  wire §5.5"""
        chia = Network.CHIA_MAINNET
        config = GossipConfig(network=chia, network_id=chia.network_id)
        self.assertEqual(config.handshake_string, "mainnet")

    def test_a_greeting_is_taken_verbatim(self) -> None:
        """handshake_network_id wins over everything.  wire §5.5"""
        for greeting in ("m", "Some Net", "x" * 63, "x" * 64):
            config = GossipConfig(network_id="ab" * 32, handshake_network_id=greeting)
            self.assertEqual(config.handshake_string, greeting)
            self.assertEqual(config.effective_network_id, b"\xab" * 32)
        for bad in ("", "x" * 65, "tab\t", "ü", 5):
            self.refused("handshake_network_id", GossipConfig, handshake_network_id=bad)

    def test_impossible_network_ids_are_refused(self) -> None:
        """All zero, a wrong length or no hex is no id.  behaviour §2"""
        for bad in (bytes(32), "00" * 32, bytes(31), b"\x01" * 33, "ab" * 31, "zz" * 32, 5, b""):
            self.refused("network_id", GossipConfig, network_id=bad)
        self.assertIsNone(GossipConfig(network_id="").network_id)

    def test_a_zero_peer_id_means_none(self) -> None:
        """None and zero leave the id to the certificate.  behaviour §2"""
        for form in (None, "", bytes(32), "00" * 32):
            self.assertIsNone(GossipConfig(peer_id=form).peer_id)
        self.assertEqual(GossipConfig(peer_id="0x" + "AB" * 32).peer_id, b"\xab" * 32)
        for bad in (bytes(31), "ab", 5, True):
            self.refused("peer_id", GossipConfig, peer_id=bad)

    def test_a_software_version_fits_the_handshake(self) -> None:
        """At most 128 bytes, printable, never 0.0.0; empty tells nothing.  CFG-101-X"""
        for good in ("", "x", "x" * 127, "x" * 128, "ü" * 64, "0.0.1"):
            self.assertEqual(GossipConfig(software_version=good).software_version, good)
        for bad in ("0.0.0", "x" * 129, "ü" * 64 + "x", "a\nb", "a\x1bb", "\u202e", "\ud800", 5):
            self.refused("software_version", GossipConfig, software_version=bad)

    def test_the_introducer_knows_a_network_by_name(self) -> None:
        """1 to 64 printable ASCII characters.  behaviour §2"""
        for good in ("x", "x" * 63, "x" * 64):
            self.assertEqual(IntroducerConfig(network_id=good).network_id, good)
        for bad in ("", "x" * 65, "a\n", "ü", None, b"x"):
            self.refused("introducer.network_id", IntroducerConfig, network_id=bad)

    def test_an_onion_address_has_56_characters(self) -> None:
        """Version 3 onion addresses only.  behaviour §2"""
        self.assertEqual(TorConfig(onion_address=ONION.upper()).onion_address, ONION)
        for bad in (ONION[1:], "a" + ONION, ONION[:-1], "1" + ONION[1:], ONION + ".", "", 5):
            self.refused("tor.onion_address", TorConfig, onion_address=bad)


class PathTests(ConfigTestCase):
    """Files."""

    def test_an_empty_path_means_memory_only(self) -> None:
        """ "" and None switch files off; a bare name is legal.  behaviour §2"""
        for form, stored in (("", None), (None, None), ("p.dat", "p.dat"), (Path("d/p"), "d/p")):
            self.assertEqual(GossipConfig(peers_file_path=form).peers_file_path, stored)
            self.assertEqual(GossipConfig(as_table_path=form).as_table_path, stored)

    def test_unusable_paths_are_refused(self) -> None:
        """No file can have such a name.  CFG-102-X"""
        for field in ("peers_file_path", "as_table_path", "cert_path", "key_path"):
            for bad in (5, b"p.dat", "a\0b", "x" * 4097, "\udcff", ["p"]):
                self.refused(field, GossipConfig, **{field: bad})
        for field in ("cert_path", "key_path"):
            self.refused(field, GossipConfig, **{field: None})
