"""Where the nodes of ``localnet`` find each other: at an introducer, or at a relay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred

from dig_gossip.discovery.introducer_server import IntroducerServer
from dig_gossip.relay.server import RelayServer
from dig_gossip.service.gossip_service import GossipService
from dig_gossip.types.introducer import IntroducerServerConfig
from dig_gossip.types.peer import PeerAddress, TransportKind
from dig_gossip.types.relay import RelayLimits, RelayServerConfig
from dig_gossip.types.sections import IntroducerConfig, RelayConfig
from dig_gossip.util.clock import Clock

_NO_LIMIT = 65_535
_LOOPBACK = PeerAddress("127.0.0.1", 0)


class Place(Protocol):
    """Where nodes find each other."""

    def start(self) -> None:
        """Open it."""

    def stop(self) -> Deferred[None]:
        """Close it."""

    def options(self) -> dict[str, Any]:  # Any: fields of GossipConfig
        """What a node has to know of it."""

    def state(self, nodes: Iterable[GossipService]) -> str:
        """How it is, in words."""

    def is_settled(self, nodes: Iterable[GossipService]) -> bool:
        """Whether everything that is to be shown before the first message has been."""


class AtIntroducer:
    """Nodes learn of each other from an introducer, and dial each other."""

    def __init__(self, reactor: Any) -> None:
        # Everybody here has one address, and is in a hurry.
        self._server = IntroducerServer(
            IntroducerServerConfig(
                listen_addr=_LOOPBACK,
                max_nodes_per_ip=_NO_LIMIT,
                max_connections=_NO_LIMIT,
                max_connections_per_ip=_NO_LIMIT,
                connections_per_minute=_NO_LIMIT,
                queries_per_minute=_NO_LIMIT,
                registrations_per_minute=_NO_LIMIT,
                vetting_batch=_NO_LIMIT,
                vetting_connect_secs=30,
                vetting_total_secs=60,
                reactor=reactor,
            )
        )

    def start(self) -> None:
        self._server.startService()

    def stop(self) -> Deferred[None]:
        return self._server.stopService()

    def options(self) -> dict[str, Any]:
        return {"introducer": IntroducerConfig(endpoint=self._server.url)}

    def state(self, nodes: Iterable[GossipService]) -> str:
        size = self._server.size
        return f"introducer {self._server.url}: {size.nodes} nodes registered, {size.vetted} vetted"

    def is_settled(self, nodes: Iterable[GossipService]) -> bool:
        return True


class AtRelay:
    """Nodes tell nobody where they listen, as behind NATs: they meet in a relay's tunnels.

    Then both ends of each session dial at the same moment, and leave the relay.
    """

    def __init__(self, reactor: Any) -> None:
        lifted = {field.name: 0 for field in attrs.fields(RelayLimits)}
        config = RelayServerConfig(
            listen_addr=_LOOPBACK, health_addr=None, limits=RelayLimits(**lifted)
        )
        self._server = RelayServer(config, Clock(reactor))

    def start(self) -> None:
        self._server.startService()

    def stop(self) -> Deferred[None]:
        return self._server.stopService()

    def options(self) -> dict[str, Any]:
        return {"relay": RelayConfig(endpoint=f"ws://{self._server.bound}", advertise=False)}

    def state(self, nodes: Iterable[GossipService]) -> str:
        ways = [way for node in nodes for way in _ways(node)]
        relayed = ways.count(TransportKind.RELAY)
        return (
            f"relay ws://{self._server.bound}: {self._server.registry.registered} nodes "
            f"registered, {relayed // 2} sessions through it, {(len(ways) - relayed) // 2} direct"
        )

    def is_settled(self, nodes: Iterable[GossipService]) -> bool:
        return all(TransportKind.RELAY not in _ways(node) for node in nodes)


def _ways(node: GossipService) -> list[TransportKind]:
    return [session.transport for session in node.node.peers.table]
