"""The ``dig-introducer`` plugin of ``twistd`` and ``twist``, and its command line."""

from __future__ import annotations

from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin, getPlugins
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from dig_gossip import Network, PeerAddress
from dig_gossip.introducer_tap import IntroducerService, Options, makeService
from dig_gossip.types.introducer import Encryption, IntroducerServerConfig
from twisted.plugins.dig_gossip_plugin import dig_introducer as plugin


def parse(*arguments: str) -> IntroducerServerConfig:
    """The configuration that a command line means."""
    options = Options()
    options.parseOptions(arguments)
    config = options["introducer_config"]
    assert isinstance(config, IntroducerServerConfig)
    return config


class PluginTests(SynchronousTestCase):
    """The plugin."""

    def test_plugin_says_what_it_is(self) -> None:
        """Name and module are those of the introducer.  design §4"""
        verifyObject(IServiceMaker, plugin)
        verifyObject(IPlugin, plugin)
        self.assertEqual(plugin.tapname, "dig-introducer")
        self.assertIs(plugin.options, Options)
        self.assertIs(plugin.makeService, makeService)
        found = [p for p in getPlugins(IServiceMaker) if p.tapname == "dig-introducer"]
        self.assertEqual(found, [plugin])


class OptionsTests(SynchronousTestCase):
    """The command line."""

    def refused(self, *arguments: str) -> str:
        """Parse what must be refused; return the sentence that says why."""
        return str(self.assertRaises(UsageError, parse, *arguments))

    def test_no_option_gives_the_defaults(self) -> None:
        """An introducer starts without being told anything.  design §4"""
        self.assertEqual(parse(), IntroducerServerConfig())

    def test_options_reach_the_configuration(self) -> None:
        """Each sets what its name says.  design §4"""
        config = parse(
            "--listen", "127.0.0.1:7",
            "--network", "chia-mainnet",
            "--wss",
            "--max-nodes", "5",
            "--max-connections", "6",
            "--queries-per-minute", "7",
            "--registrations-per-minute", "8",
        )  # fmt: skip
        self.assertEqual(config.listen_addr, PeerAddress("127.0.0.1", 7))
        self.assertEqual(config.network, Network.CHIA_MAINNET)
        self.assertEqual(config.encryption, Encryption.WSS)
        limits = (
            config.max_nodes, config.max_connections, config.queries_per_minute,
            config.registrations_per_minute,
        )  # fmt: skip
        self.assertEqual(limits, (5, 6, 7, 8))
        self.assertEqual(parse("--ws").encryption, Encryption.WS)

    def test_data_directory_holds_certificate_and_nodes(self) -> None:
        """Paths are absolute, nothing is made yet.  style §6.5"""
        config = parse("--data-dir", "some/where")
        base = Path.cwd() / "some" / "where"
        self.assertEqual(config.cert_path, str(base / "introducer.crt"))
        self.assertEqual(config.key_path, str(base / "introducer.key"))
        self.assertEqual(config.nodes_path, str(base / "nodes.json"))
        self.assertFalse(base.exists())

    def test_file_beats_defaults_and_command_line_beats_file(self) -> None:
        """As for a node.  design §4"""
        path = Path(self.mktemp())
        path.write_text('max_nodes = 17\nencryption = "ws"\nlisten_addr = "127.0.0.1:1"\n')
        config = parse("--config", str(path), "--listen", "127.0.0.1:2")
        self.assertEqual((config.max_nodes, config.encryption), (17, Encryption.WS))
        self.assertEqual(config.listen_addr.port, 2)

    def test_bad_values_are_refused_with_the_name_of_the_option(self) -> None:
        """The sentence names the setting.  API-004"""
        path = Path(self.mktemp())
        path.write_text("max_node = 17\n")
        self.assertIn("max_nodes", self.refused("--config", str(path)))
        self.assertIn("listen_addr", self.refused("--listen", "localhost:1"))
        self.assertIn("max_nodes", self.refused("--max-nodes", "0"))
        self.assertIn("--wss", self.refused("--ws", "--wss"))
        self.refused("--max-nodes", "many")
        self.refused("listen")


class ServiceTests(TestCase):
    """The service that twistd runs."""

    def make(self, *arguments: str) -> IntroducerService:
        """The service of a command line."""
        options = Options()
        options.parseOptions(arguments)
        service = makeService(options)
        assert isinstance(service, IntroducerService)
        return service

    async def test_it_starts_and_stops(self) -> None:
        """On a free port, with a certificate of its own.  design D13"""
        service = self.make("--listen", "127.0.0.1:0")
        service.startService()
        self.assertNotEqual(service.server.address.port, 0)
        await service.stopService()

    async def test_a_port_in_use_ends_the_program_with_a_sentence(self) -> None:
        """Not with a traceback, and not as a zombie.  style §6.5"""
        first = self.make("--listen", "127.0.0.1:0")
        first.startService()
        second = self.make("--listen", str(first.server.address))
        with self.assertRaisesRegex(SystemExit, "dig-introducer: cannot listen on"):
            second.startService()
        await first.stopService()

    def test_a_bad_certificate_ends_the_program_with_a_sentence(self) -> None:
        """It says which file.  style §6.5"""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "introducer.key").write_text("no key")
        with self.assertRaisesRegex(SystemExit, "introducer"):
            self.make("--data-dir", str(folder))
