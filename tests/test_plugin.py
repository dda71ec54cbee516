"""The ``dig-gossip`` plugin of ``twistd`` and ``twist``, and its command line."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from twisted.application.service import IServiceMaker, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.plugin import IPlugin, getPlugins
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from dig_gossip import GossipConfig, Network, PeerAddress
from dig_gossip.tap import NodeService, Options, makeService
from twisted.plugins.dig_gossip_plugin import dig_gossip as plugin

PROJECT = Path(__file__).resolve().parents[1]
_TWISTD = "from twisted.scripts.twistd import run; run()"


def parse(*arguments: str) -> GossipConfig:
    """The configuration that a command line means."""
    options = Options()
    options.parseOptions(arguments)
    config = options["gossip_config"]
    assert isinstance(config, GossipConfig)
    return config


class PluginTests(SynchronousTestCase):
    """The plugin file."""

    def test_plugin_says_what_it_is(self) -> None:
        """Name, module and description are those of the node.  design §4"""
        verifyObject(IServiceMaker, plugin)
        verifyObject(IPlugin, plugin)
        self.assertEqual((plugin.tapname, plugin.module), ("dig-gossip", "dig_gossip.tap"))
        self.assertIn("DIG Network", plugin.description)

    def test_plugin_leads_to_our_options_and_service(self) -> None:
        """What twistd loads from the module is what the module has.  design §4"""
        self.assertIs(plugin.options, Options)
        self.assertIs(plugin.makeService, makeService)

    def test_twisted_finds_the_plugin_once(self) -> None:
        """An editable installation is found too, and not twice.  style §9"""
        found = [p for p in getPlugins(IServiceMaker) if p.tapname == "dig-gossip"]
        self.assertEqual(found, [plugin])


class OptionsTests(SynchronousTestCase):
    """The command line of a node."""

    def test_tor(self) -> None:
        """Each of its options switches Tor on.  PRV-009"""
        self.assertIsNone(parse().tor)
        proxy = parse("--tor", "127.0.0.1:9150").used_tor
        assert proxy is not None
        self.assertEqual((proxy.socks5_proxy, proxy.prefer_tor), ("127.0.0.1:9150", False))
        only = parse("--tor-only", "--tor-control", "unix:/run/tor/control").used_tor
        assert only is not None
        self.assertEqual(only.socks5_proxy, "127.0.0.1:9050")
        self.assertEqual(only.control_address, "unix:/run/tor/control")
        self.assertTrue(only.prefer_tor)
        onion = parse("--onion", "a" * 56 + ".onion").used_tor
        assert onion is not None
        self.assertTrue(onion.has_onion)

    def test_port_mapping(self) -> None:
        """Off unless it is wanted; a protocol that does not exist is refused.  behaviour §29"""
        self.assertEqual(parse().port_mapping, "off")
        for method in ("auto", "pcp", "nat-pmp", "upnp", "off"):
            self.assertEqual(parse("--port-mapping", method).port_mapping, method)
        self.assertIn("port_mapping", self.refused("--port-mapping", "yes"))

    def file(self, text: str) -> str:
        """A configuration file."""
        path = Path(self.mktemp())
        path.write_text(text, encoding="utf-8")
        return str(path)

    def refused(self, *arguments: str) -> str:
        """Parse what must be refused; return the sentence that says why."""
        return str(self.assertRaises(UsageError, parse, *arguments))

    def test_no_option_gives_the_defaults(self) -> None:
        """A node starts without being told anything.  design §4"""
        self.assertEqual(parse(), GossipConfig())

    def test_options_reach_the_configuration(self) -> None:
        """Each option sets what its name says; --peer adds up.  design §4"""
        config = parse(
            "--listen", "127.0.0.1:9555",
            "--network", "chia-mainnet",
            "--peer", "10.0.0.1:1000",
            "--peer", "[2001:db8::1]",
        )  # fmt: skip
        self.assertEqual(config.listen_addr, PeerAddress("127.0.0.1", 9555))
        self.assertEqual(config.network, Network.CHIA_MAINNET)
        self.assertEqual(
            config.bootstrap_peers,
            (PeerAddress("10.0.0.1", 1000), PeerAddress("2001:db8::1", 8444)),
        )

    def test_endpoints_reach_the_configuration(self) -> None:
        """The introducer and the relay are given as URLs.  design §4"""
        config = parse("--introducer", "ws://one.example", "--relay", "wss://two.example:1")
        assert config.introducer is not None
        assert config.relay is not None
        self.assertEqual(config.introducer.endpoint, "ws://one.example:9448")
        self.assertEqual(config.relay.endpoint, "wss://two.example:1")

    def test_file_beats_defaults_and_command_line_beats_file(self) -> None:
        """Defaults give way to the file, and the file to the command line.  design §4"""
        path = self.file('listen_addr = "127.0.0.1:1111"\nmax_connections = 17\n')
        config = parse("--config", path, "--listen", "127.0.0.1:2222")
        self.assertEqual(config.listen_addr.port, 2222)
        self.assertEqual(config.max_connections, 17)
        self.assertEqual(config.gossip_fanout, GossipConfig().gossip_fanout)

    def test_peers_of_the_command_line_replace_those_of_the_file(self) -> None:
        """--peer says whom to dial, all of them.  design §4"""
        path = self.file('bootstrap_peers = ["10.0.0.1:1"]\n')
        config = parse("--config", path, "--peer", "10.0.0.2:2")
        self.assertEqual(config.bootstrap_peers, (PeerAddress("10.0.0.2", 2),))

    def test_data_directory_holds_identity_and_address_book(self) -> None:
        """--data-dir makes the identity permanent; paths are absolute.  style §6.5"""
        config = parse("--data-dir", "some/where")
        base = Path.cwd() / "some" / "where"
        self.assertEqual(config.cert_path, str(base / "node.crt"))
        self.assertEqual(config.key_path, str(base / "node.key"))
        self.assertEqual(config.peers_file_path, str(base / "peers.dat"))
        self.assertFalse(base.exists())

    def test_home_directory_is_spelled_out(self) -> None:
        """A service manager passes ~ on as it is.  style §6.5"""
        self.patch(os, "environ", {**os.environ, "HOME": "/home/of/nobody"})
        self.assertEqual(parse("--data-dir", "~/node").key_path, "/home/of/nobody/node/node.key")

    def test_bad_values_are_refused_with_the_name_of_the_option(self) -> None:
        """The sentence names the setting, and the value.  API-004"""
        self.assertIn("listen_addr", self.refused("--listen", "localhost:1"))
        self.assertIn("listen_addr", self.refused("--listen", "127.0.0.1:99999"))
        self.assertIn("bootstrap_peers", self.refused("--peer", "10.0.0.1:0"))
        self.assertIn("atlantis", self.refused("--network", "atlantis"))
        self.assertIn("introducer.endpoint", self.refused("--introducer", "http://x"))
        self.assertIn("relay.endpoint", self.refused("--relay", "x:1"))

    def test_bad_files_are_refused_with_the_place(self) -> None:
        """The sentence names the file, and the key or the line.  design §4"""
        missing = self.mktemp()
        self.assertIn(missing, self.refused("--config", missing))
        unknown = self.refused("--config", self.file("max_connection = 7\n"))
        self.assertIn("max_connection", unknown)
        self.assertIn("max_connections", unknown)
        self.assertIn("line 2", self.refused("--config", self.file("network_id = ''\n= 7\n")))

    def test_extra_arguments_are_refused(self) -> None:
        """A forgotten dash is an error, not a node with defaults.  design §4"""
        self.refused("listen")

    def test_service_is_made_and_nothing_is_opened(self) -> None:
        """makeService returns a node that rests.  style §6.5"""
        options = Options()
        options.parseOptions(["--listen", "127.0.0.1:0"])
        service = makeService(options)
        assert isinstance(service, NodeService)
        self.assertIsInstance(service, MultiService)
        self.assertFalse(service.running)
        self.assertEqual(service.gossip.lifecycle.value, "constructed")


class TwistdTests(TestCase):
    """``twistd -n dig-gossip`` as a process, where it must not go on."""

    timeout = 60

    def twistd(self, *arguments: str) -> Deferred[tuple[bytes, bytes, int]]:
        """Run a node in a folder of its own; it is expected to end by itself."""
        folder = Path(self.mktemp())
        folder.mkdir()
        command = ["-c", _TWISTD, "-n", "--pidfile=", "dig-gossip", *arguments]
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        running: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(
            sys.executable, command, env, str(folder)
        )
        return running

    async def test_port_in_use_ends_the_program(self) -> None:
        """Status 1, and a sentence that says what to do.  API-001.1"""
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = f"127.0.0.1:{other.getsockname()[1]}"
            out, err, status = await self.twistd("--listen", address)
        text = (out + err).decode()
        self.assertEqual(status, 1, text)
        self.assertIn(f"cannot listen on {address}", text)
        self.assertIn("--listen", text)

    async def test_bad_key_file_ends_the_program(self) -> None:
        """Status 1, and a sentence that says which file and what to do.  CON-009.3"""
        folder = Path(self.mktemp())
        folder.mkdir()
        for name in ("node.crt", "node.key"):
            (folder / name).write_text("nonsense")
        out, err, status = await self.twistd(
            "--listen", "127.0.0.1:0", "--data-dir", str(folder.absolute())
        )
        text = (out + err).decode()
        self.assertEqual(status, 1, text)
        self.assertIn(str(folder.absolute() / "node.crt"), text)
        self.assertIn("backup", text)
        self.assertNotIn("Traceback", text)
        self.assertEqual((folder / "node.key").read_text(), "nonsense")
