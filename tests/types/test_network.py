"""Networks and their presets."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.errors import InvalidConfig
from dig_gossip.types.network import PRESETS, Network

NETWORK_ID = bytes(range(32))


class PresetTests(SynchronousTestCase):
    """The networks that need no configuration."""

    def test_dig_mainnet_greets_with_its_hex_id(self) -> None:
        """DIG mainnet sends the 64 hex digits of its id.  wire §5.5"""
        network = Network.DIG_MAINNET
        self.assertEqual(
            network.network_id.hex(),
            "0af981862a4df51f51ec59c312315d959931d917c375730b89b9e2b0854d1abf",
        )
        self.assertEqual(network.handshake, network.network_id.hex())
        self.assertEqual(network.default_port, 9444)

    def test_chia_mainnet_greets_by_name(self) -> None:
        """Chia mainnet has its genesis challenge, its name and its port.  design D15"""
        network = Network.CHIA_MAINNET
        self.assertEqual(
            network.network_id.hex(),
            "ccd5bb71183532bff220ba46c268991a3ff07eb358e8255a65c30a2dce0e5fbb",
        )
        self.assertEqual((network.handshake, network.default_port), ("mainnet", 8444))
        self.assertEqual(
            network.dns_introducers,
            (
                "dns-introducer.chia.net",
                "chia.ctrlaltdel.ch",
                "seeder.dexie.space",
                "chia.hoffmang.com",
            ),
        )

    def test_chia_testnet11_has_its_own_port(self) -> None:
        """Testnet 11 listens on 58444.  design D15"""
        network = Network.CHIA_TESTNET11
        self.assertEqual(
            network.network_id.hex(),
            "37a90eb5185a9c4439a91ddc98bbadce7b4feba060d50116a067de66bf236615",
        )
        self.assertEqual((network.handshake, network.default_port), ("testnet11", 58444))
        self.assertEqual(network.dns_introducers, ("dns-introducer-testnet11.chia.net",))

    def test_command_line_names_find_the_presets(self) -> None:
        """Each name of the command line is one preset.  design D15"""
        self.assertEqual(
            PRESETS,
            {
                "dig-mainnet": Network.DIG_MAINNET,
                "chia-mainnet": Network.CHIA_MAINNET,
                "chia-testnet11": Network.CHIA_TESTNET11,
            },
        )
        for name, network in PRESETS.items():
            self.assertIs(Network.by_name(name), network)

    def test_an_unknown_name_lists_the_known_ones(self) -> None:
        """Asking for a network that does not exist says which do.  CFG-102-X"""
        for name in ("mainnet", "", "DIG-MAINNET"):
            error = self.assertRaises(InvalidConfig, Network.by_name, name)
            self.assertIn("dig-mainnet, chia-mainnet, chia-testnet11", str(error))
        self.assertRaises(InvalidConfig, Network.by_name, [])


class OwnNetworkTests(SynchronousTestCase):
    """Networks that an operator defines."""

    def test_only_name_and_id_are_needed(self) -> None:
        """A DIG-like network follows from its id.  design D15"""
        network = Network("lab", NETWORK_ID)
        self.assertEqual(network.handshake, NETWORK_ID.hex())
        self.assertEqual(network.default_port, 9444)
        self.assertEqual(network.dns_introducers, ())
        self.assertEqual(network, Network("lab", NETWORK_ID.hex()))

    def test_a_network_cannot_change(self) -> None:
        """A network is a frozen value.  style §7.1"""
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            Network.DIG_MAINNET.default_port = 1  # type: ignore[misc]

    def test_ports_outside_1_to_65535_are_refused(self) -> None:
        """The default port is a real port.  behaviour §2"""
        for port in (1, 2, 65534, 65535):
            self.assertEqual(Network("lab", NETWORK_ID, default_port=port).default_port, port)
        for bad in (0, -1, 65536, True, "9444", 9444.0):
            error = self.assertRaises(InvalidConfig, Network, "lab", NETWORK_ID, default_port=bad)
            self.assertTrue(str(error).startswith("network.default_port: "), str(error))

    def test_ids_other_than_32_bytes_are_refused(self) -> None:
        """The id has 32 bytes, not all of them zero.  behaviour §2"""
        for bad in (b"", bytes(31), bytes(33), bytes(32), "", "zz" * 32, "ab" * 31, None, 5):
            error = self.assertRaises(InvalidConfig, Network, "lab", bad)
            self.assertTrue(str(error).startswith("network.network_id: "), str(error))

    def test_dns_names_are_limited_in_number_and_length(self) -> None:
        """At most 64 names of at most 253 characters each.  behaviour §2"""
        longest = ".".join(["a" * 63] * 3 + ["b" * 61])
        self.assertEqual(len(longest), 253)
        names = [f"seed{number}.example" for number in range(64)]
        for good in ([longest], names, names[:63], (), ["seed.example."]):
            network = Network("lab", NETWORK_ID, dns_introducers=good)
            self.assertEqual(network.dns_introducers, tuple(good))
        for bad in (
            [*names, "one.more.example"],
            [longest + "b"],
            ["a" * 64 + ".example"],
            "seed.example",
            [""],
            ["spaced name"],
            ["under\nline"],
            [5],
            5,
            {"seed.example": 1},
        ):
            error = self.assertRaises(
                InvalidConfig, Network, "lab", NETWORK_ID, dns_introducers=bad
            )
            self.assertTrue(str(error).startswith("network.dns_introducers: "), str(error))

    def test_repeated_dns_names_collapse(self) -> None:
        """A name given twice is asked once.  behaviour §2"""
        network = Network("lab", NETWORK_ID, dns_introducers=["b.example", "a.example"] * 2)
        self.assertEqual(network.dns_introducers, ("b.example", "a.example"))

    def test_names_and_greetings_are_short_printable_ascii(self) -> None:
        """Name and handshake string have 1 to 64 printable characters.  behaviour §2"""
        for good in ("x", "y" * 63, "z" * 64):
            network = Network(good, NETWORK_ID, good)
            self.assertEqual((network.name, network.handshake), (good, good))
        for bad in ("", "z" * 65, "tab\t", "ü", 5):
            for field, arguments in (
                ("name", (bad, NETWORK_ID)),
                ("handshake", ("x", NETWORK_ID, bad)),
            ):
                error = self.assertRaises(InvalidConfig, Network, *arguments)
                self.assertTrue(str(error).startswith(f"network.{field}: "), str(error))
