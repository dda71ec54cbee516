"""A Twisted application with a node in it: a service that handles what arrives."""

from __future__ import annotations

from twisted.application.service import Application, MultiService, Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from dig_gossip import DigMessageType, GossipConfig, GossipHandle, GossipService


class Attestations(Service):
    """Counts the attestations that the network spreads."""

    _log = Logger()

    def __init__(self, handle: GossipHandle) -> None:
        self.count = 0
        self._handle = handle
        self._reading: Deferred[None] = succeed(None)

    def startService(self) -> None:
        super().startService()
        self._reading = Deferred.fromCoroutine(self._read()).addErrback(self._failed)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._reading  # the loop below ends when the node has stopped

    def _failed(self, failure: Failure) -> None:
        self._log.failure("reading failed", failure)

    async def _read(self) -> None:
        async for _peer_id, message in self._handle.inbound_receiver():
            if message.type == DigMessageType.NEW_ATTESTATION:
                self.count += 1


def make_service(config: GossipConfig) -> MultiService:
    """Children start in the order in which they were added: the node first."""
    parent = MultiService()
    node = GossipService(config)
    node.setServiceParent(parent)
    Attestations(node.handle).setServiceParent(parent)
    return parent


# For «twistd -n --python examples/application.py».
application = Application("attestations")
make_service(GossipConfig(listen_addr="127.0.0.1:0", peers_file_path="")).setServiceParent(
    application
)
