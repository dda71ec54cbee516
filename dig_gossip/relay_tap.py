"""The ``dig-relay`` plugin of ``twistd`` and ``twist``: options, and the server they make.

Source: design D13, §4; behaviour §28.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.python import usage
from zope.interface import implementer

from dig_gossip.config_file import load_settings
from dig_gossip.errors import GossipError
from dig_gossip.relay.server import RelayServer
from dig_gossip.tls.identity import load_or_create_identity
from dig_gossip.types.relay import RelayServerConfig
from dig_gossip.util.clock import Clock


class Options(usage.Options):
    """Command line of a relay: defaults, then the file, then what is said here."""

    synopsis = "[options]"
    longdesc = (
        "Run a relay of the DIG Network: nodes that cannot be dialed reach each other through it. "
        "Works without any option: it listens on 0.0.0.0:9450 for ws:// and tells its health on "
        "http://127.0.0.1:9451/health. Give --data-dir for a certificate, and so for wss://."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", None, None, "TOML file with any of the options of RelayServerConfig."],
        ["listen", None, None, "Address to listen on, host:port; port 0 chooses one."],
        ["health", None, None, "Address of the health page; empty for none."],
        ["stun", None, None, "UDP address of a STUN responder, as 0.0.0.0:3478; empty for none."],
        ["data-dir", None, None, "Directory for the certificate."],
        ["max-connections", None, None, "The most connections at a time.", int],
    ]
    compData = usage.Completions(
        optActions={"config": usage.CompleteFiles("*.toml"), "data-dir": usage.CompleteDirs()}
    )

    def postOptions(self) -> None:
        # twistd changes the directory before makeService: paths are meant from here.
        for name in ("config", "data-dir"):
            if self[name] is not None:
                self[name] = str(Path(self[name]).expanduser().absolute())
        try:
            self["relay_config"] = self._config()
        except GossipError as error:
            raise usage.UsageError(str(error)) from None

    def _config(self) -> RelayServerConfig:
        said: dict[str, Any] = {}  # Any: raw values, checked by RelayServerConfig
        for option, field in (
            ("listen", "listen_addr"),
            ("health", "health_addr"),
            ("stun", "stun_addr"),
        ):
            if self[option] is not None:
                said[field] = self[option]
        if self["max-connections"] is not None:
            said["limits"] = {"max_connections": self["max-connections"]}
        if self["data-dir"] is not None:
            base = Path(self["data-dir"])
            said["cert_path"] = str(base / "relay.crt")
            said["key_path"] = str(base / "relay.key")
        return load_settings(RelayServerConfig, self["config"], said)


@implementer(IService)
class RelayService(MultiService):
    """A relay whose failure to start ends the program with a sentence."""

    def __init__(self, config: RelayServerConfig) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.config = config
        self._identity = None
        if config.is_secure:
            self._identity = load_or_create_identity(config.cert_path, config.key_path)
        self.server: RelayServer | None = None

    def startService(self) -> None:
        # Importing the reactor where the plugin is made would choose one for everybody.
        from twisted.internet import reactor

        made: Any = reactor  # Any: the reactor module has no type
        self.server = RelayServer(self.config, Clock(made), self._identity)
        try:
            self.server.startService()
        except GossipError as error:
            raise SystemExit(f"dig-relay: {error}") from None
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        return None if self.server is None else self.server.stopService()


def makeService(options: Options) -> IService:
    """Make the relay; nothing is opened before it starts.

    A certificate that cannot be read or made ends the program with a sentence.
    """
    try:
        return RelayService(options["relay_config"])
    except GossipError as error:
        raise SystemExit(f"dig-relay: {error}") from None
