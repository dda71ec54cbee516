"""The ``dig-introducer`` plugin of ``twistd`` and ``twist``: options, and the server they make.

Source: design D13, §4; behaviour §18.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.python import usage
from zope.interface import implementer

from dig_gossip.config_file import load_settings
from dig_gossip.discovery.introducer_server import IntroducerServer
from dig_gossip.errors import GossipError
from dig_gossip.types.introducer import IntroducerServerConfig


class Options(usage.Options):
    """Command line of an introducer: defaults, then the file, then what is said here."""

    synopsis = "[options]"
    longdesc = (
        "Run an introducer of the DIG Network: nodes register with it and ask it for other nodes. "
        "Works without any option: it listens on 0.0.0.0:9448, for wss:// and ws:// alike, and "
        "remembers nothing across restarts. Give --data-dir to keep what it knows."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", None, None, "TOML file with any of the options of IntroducerServerConfig."],
        ["listen", None, None, "Address to listen on, host:port; port 0 chooses one."],
        ["network", None, None, "dig-mainnet, chia-mainnet or chia-testnet11."],
        ["data-dir", None, None, "Directory for the certificate and the nodes."],
        ["max-nodes", None, None, "The most nodes to remember.", int],
        ["max-connections", None, None, "The most connections at a time.", int],
        ["queries-per-minute", None, None, "How often one IP may ask for nodes.", int],
        ["registrations-per-minute", None, None, "How often one IP may register.", int],
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        ["ws", None, "Take connections without encryption only."],
        ["wss", None, "Take encrypted connections only."],
    ]
    compData = usage.Completions(
        optActions={
            "config": usage.CompleteFiles("*.toml"),
            "data-dir": usage.CompleteDirs(),
            "network": usage.CompleteList(["dig-mainnet", "chia-mainnet", "chia-testnet11"]),
        }
    )

    def postOptions(self) -> None:
        # twistd changes the directory before makeService: paths are meant from here.
        for name in ("config", "data-dir"):
            if self[name] is not None:
                self[name] = str(Path(self[name]).expanduser().absolute())
        try:
            self["introducer_config"] = self._config()
        except GossipError as error:
            raise usage.UsageError(str(error)) from None

    def _config(self) -> IntroducerServerConfig:
        said: dict[str, Any] = {}  # Any: raw values, checked by IntroducerServerConfig
        if self["ws"] and self["wss"]:
            raise usage.UsageError("--ws and --wss: give one of them, or neither for both")
        if self["ws"] or self["wss"]:
            said["encryption"] = "ws" if self["ws"] else "wss"
        for option, field in (
            ("listen", "listen_addr"),
            ("network", "network"),
            ("max-nodes", "max_nodes"),
            ("max-connections", "max_connections"),
            ("queries-per-minute", "queries_per_minute"),
            ("registrations-per-minute", "registrations_per_minute"),
        ):
            if self[option] is not None:
                said[field] = self[option]
        if self["data-dir"] is not None:
            base = Path(self["data-dir"])
            said["cert_path"] = str(base / "introducer.crt")
            said["key_path"] = str(base / "introducer.key")
            said["nodes_path"] = str(base / "nodes.json")
        return load_settings(IntroducerServerConfig, self["config"], said)


@implementer(IService)
class IntroducerService(MultiService):
    """An introducer whose failure to start ends the program with a sentence."""

    def __init__(self, server: IntroducerServer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.server = server

    def startService(self) -> None:
        try:
            self.server.startService()
        except GossipError as error:
            raise SystemExit(f"dig-introducer: {error}") from None
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return self.server.stopService()


def makeService(options: Options) -> IService:
    """Make the introducer; nothing is opened before it starts.

    A certificate that cannot be read or made ends the program with a sentence.
    """
    try:
        return IntroducerService(IntroducerServer(options["introducer_config"]))
    except GossipError as error:
        raise SystemExit(f"dig-introducer: {error}") from None
