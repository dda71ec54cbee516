"""The ``dig-relay`` plugin of ``twistd`` and ``twist``, and its command line."""

from __future__ import annotations

from pathlib import Path

from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin, getPlugins
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from dig_gossip import PeerAddress
from dig_gossip.errors import InvalidConfig
from dig_gossip.relay_tap import Options, RelayService, makeService
from dig_gossip.types.relay import RelayLimits, RelayServerConfig
from twisted.plugins.dig_gossip_plugin import dig_relay as plugin


def parse(*arguments: str) -> RelayServerConfig:
    """The configuration that a command line means."""
    options = Options()
    options.parseOptions(arguments)
    config = options["relay_config"]
    assert isinstance(config, RelayServerConfig)
    return config


class PluginTests(SynchronousTestCase):
    """The plugin and its options."""

    def test_plugin_says_what_it_is(self) -> None:
        """Name and module are those of the relay.  design §4"""
        verifyObject(IServiceMaker, plugin)
        verifyObject(IPlugin, plugin)
        self.assertIs(plugin.options, Options)
        self.assertIs(plugin.makeService, makeService)
        found = [p for p in getPlugins(IServiceMaker) if p.tapname == "dig-relay"]
        self.assertEqual(found, [plugin])

    def test_no_option_gives_the_defaults(self) -> None:
        """A relay starts without being told anything.  design §4, RSV-109-X"""
        config = parse()
        self.assertEqual(config, RelayServerConfig())
        self.assertEqual(config.listen_addr, PeerAddress("0.0.0.0", 9450))
        self.assertEqual(config.health_addr, PeerAddress("127.0.0.1", 9451))
        self.assertIsNone(config.stun_addr)
        self.assertFalse(config.is_secure)

    def test_options_reach_the_configuration(self) -> None:
        """Each sets what its name says; the file holds the rest.  design §4"""
        file = Path(self.mktemp())
        file.write_text("[limits]\nframes_per_second = 5\nmax_connections = 7\n")
        config = parse(
            "--config", str(file), "--listen", "127.0.0.1:7", "--health", "", "--stun",
            "127.0.0.1:8", "--data-dir", "there", "--max-connections", "6",
        )  # fmt: skip
        self.assertEqual(config.listen_addr, PeerAddress("127.0.0.1", 7))
        self.assertIsNone(config.health_addr)
        self.assertEqual(config.stun_addr, PeerAddress("127.0.0.1", 8))
        self.assertEqual(config.cert_path, str(Path("there").absolute() / "relay.crt"))
        self.assertTrue(config.is_secure)
        self.assertEqual(config.limits, RelayLimits(frames_per_second=5, max_connections=6))

    def test_what_cannot_be_used_is_refused_in_a_sentence(self) -> None:
        """The option is named.  CFG-102-X"""
        for arguments, word in (
            (("--listen", "nowhere"), "listen_addr"),
            (("--config", "absent.toml"), "absent.toml"),
            (("--max-connections", "-1"), "max_connections"),
        ):
            self.assertIn(word, str(self.assertRaises(UsageError, parse, *arguments)))
        for options in ({"cert_path": "a"}, {"requires_certificate": True}):
            self.assertRaises(InvalidConfig, RelayServerConfig, **options)


class RunningTests(TestCase):
    """The service, on the real reactor."""

    timeout = 60

    async def test_a_relay_starts_and_stops(self) -> None:
        """With a certificate of its own, which it keeps.  design D13"""
        folder = self.mktemp()
        Path(folder).mkdir()
        ids = []
        for _ in range(2):
            options = Options()
            options.parseOptions(
                ["--listen", "127.0.0.1:0", "--health", "127.0.0.1:0", "--data-dir", folder]
            )
            service = makeService(options)
            assert isinstance(service, RelayService)
            service.startService()
            assert service.server is not None
            assert service.server.bound is not None
            self.assertGreater(service.server.bound.port, 0)
            assert service._identity is not None
            ids.append(service._identity.peer_id)
            stopping = service.stopService()
            assert stopping is not None
            await stopping
        self.assertEqual(ids[0], ids[1])

    def test_a_taken_port_ends_the_program(self) -> None:
        """With the sentence that says so.  style §6.5"""
        first = RelayService(RelayServerConfig(listen_addr="127.0.0.1:0", health_addr=None))
        first.startService()
        assert first.server is not None
        assert first.server.bound is not None
        self.addCleanup(first.stopService)
        second = RelayService(RelayServerConfig(listen_addr=first.server.bound, health_addr=None))
        error = self.assertRaises(SystemExit, second.startService)
        self.assertIn("cannot listen on", str(error))
