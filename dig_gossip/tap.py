"""The ``dig-gossip`` plugin of ``twistd`` and ``twist``: options, and the service they make.

Source: design §4, style §6.5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python import usage
from zope.interface import implementer

from dig_gossip.config_file import load_config
from dig_gossip.constants import PROGRESS_INTERVAL_SECS
from dig_gossip.errors import GossipError
from dig_gossip.service.gossip_service import GossipService
from dig_gossip.types.config import GossipConfig
from dig_gossip.util.clock import Timer


class Options(usage.Options):
    """Command line of a node: defaults, then the file, then what is said here."""

    synopsis = "[options]"
    longdesc = (
        "Run a node of the DIG Network's gossip layer. Works without any option: it listens on "
        "0.0.0.0:9444 with an identity that lasts as long as the process. Give --data-dir to "
        "keep the identity, and --peer to find others."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["config", None, None, "TOML file with any of the options of GossipConfig."],
        ["listen", None, None, "Address to listen on, host:port; port 0 chooses one."],
        ["introducer", None, None, "URL of an introducer, ws://host:9448."],
        ["relay", None, None, "URL of a relay, ws://host:9450."],
        ["port-mapping", None, None, "Ask the gateway for a port: auto, pcp, nat-pmp, upnp, off."],
        ["tor", None, None, "Use the Tor whose SOCKS5 port is at host:port, for onion services."],
        ["tor-control", None, None, "Its control port: make an onion service of our own."],
        ["onion", None, None, "Our onion service, if Tor's own configuration makes it."],
        ["network", None, None, "dig-mainnet, chia-mainnet or chia-testnet11."],
        ["data-dir", None, None, "Directory for the identity and the address book."],
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        ["tor-only", None, "Use Tor (127.0.0.1:9050 without --tor) for everything."],
    ]
    compData = usage.Completions(
        optActions={
            "config": usage.CompleteFiles("*.toml"),
            "data-dir": usage.CompleteDirs(),
            "network": usage.CompleteList(["dig-mainnet", "chia-mainnet", "chia-testnet11"]),
            "port-mapping": usage.CompleteList(["auto", "pcp", "nat-pmp", "upnp", "off"]),
        }
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["peers"] = []

    def opt_peer(self, address: str) -> None:
        """A peer to stay connected to, host:port; may be given several times."""
        self["peers"].append(address)

    def postOptions(self) -> None:
        # twistd changes the directory before makeService: paths are meant from here.
        for name in ("config", "data-dir"):
            if self[name] is not None:
                self[name] = str(Path(self[name]).expanduser().absolute())
        try:
            self["gossip_config"] = self._config()
        except GossipError as error:
            raise usage.UsageError(str(error)) from None

    def _config(self) -> GossipConfig:
        said: dict[str, Any] = {}  # Any: raw option values, checked by GossipConfig
        if self["listen"] is not None:
            said["listen_addr"] = self["listen"]
        if self["network"] is not None:
            said["network"] = self["network"]
        if self["introducer"] is not None:
            said["introducer"] = {"endpoint": self["introducer"]}
        if self["relay"] is not None:
            said["relay"] = {"endpoint": self["relay"]}
        if self["port-mapping"] is not None:
            said["port_mapping"] = self["port-mapping"]
        tor = {
            "socks5_proxy": self["tor"],
            "control_address": self["tor-control"],
            "onion_address": self["onion"],
            "prefer_tor": True if self["tor-only"] else None,
        }
        if any(tor.values()):
            chosen = {name: value for name, value in tor.items() if value is not None}
            said["tor"] = {"enabled": True, **chosen}
        if self["peers"]:
            said["bootstrap_peers"] = self["peers"]
        if self["data-dir"] is not None:
            base = Path(self["data-dir"])
            said["cert_path"] = str(base / "node.crt")
            said["key_path"] = str(base / "node.key")
            said["peers_file_path"] = str(base / "peers.dat")
        return load_config(self["config"], said)


@implementer(IService)
class NodeService(MultiService):
    """A node that introduces itself and says, every minute, how it is."""

    _log = Logger(namespace="dig_gossip.node")

    def __init__(self, gossip: GossipService) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gossip = gossip
        self._timer: Timer | None = None

    def startService(self) -> None:
        try:
            self.gossip.startService()
        except GossipError as error:
            raise SystemExit(f"dig-gossip: {error}") from None
        super().startService()  # type: ignore[no-untyped-call]
        # Once the reactor runs: whoever waits for this line may send a signal right away.
        self._timer = self.gossip.node.clock.call_later(0, self._introduce)

    def stopService(self) -> Deferred[None]:
        if self._timer is not None:
            self._timer.cancel()
        super().stopService()  # type: ignore[no-untyped-call]
        return self.gossip.stopService()

    def _introduce(self) -> None:
        config = self.gossip.config
        off = [
            name
            for name in ("introducer", "relay", "erlay", "dandelion", "tor", "peer_id_rotation")
            if getattr(config, name) is None
        ]
        if config.used_port_mapping is None:
            off.append("port_mapping")
        self._log.info(
            "{version}: PeerId {peer_id}, listening on {address}, network {network} "
            "({network_id}), {identity} identity; on: plumtree, {peers} bootstrap peers; "
            "off: {off}",
            event="node_introduced",
            version=config.software_version,
            peer_id=self.gossip.peer_id.hex(),
            address=str(self.gossip.listen_address),
            network=config.network.name,
            network_id=config.effective_network_id.hex(),
            identity="permanent" if config.cert_path else "temporary",
            peers=len(config.bootstrap_peers),
            off=", ".join(off) or "nothing",
        )
        self._wait()

    def _wait(self) -> None:
        self._timer = self.gossip.node.clock.call_later(PROGRESS_INTERVAL_SECS, self._progress)

    def _progress(self) -> None:
        stats = self.gossip.handle._stats()
        self._log.info(
            "{peers} peers ({outbound} out, {inbound} in), {known} addresses known; messages "
            "{sent} sent, {received} received; {seen} seen, {duplicates} duplicates",
            event="progress",
            peers=stats.connected_peers,
            outbound=stats.outbound_connections,
            inbound=stats.inbound_connections,
            known=stats.known_addresses,
            sent=stats.messages_sent,
            received=stats.messages_received,
            seen=stats.seen_messages,
            duplicates=stats.extra.get("duplicates", 0),
        )
        self._wait()


def makeService(options: Options) -> IService:
    """Make the node; nothing is opened before it starts.

    An identity that cannot be read or made ends the program with a sentence.
    """
    try:
        return NodeService(GossipService(options["gossip_config"]))
    except GossipError as error:
        raise SystemExit(f"dig-gossip: {error}") from None
