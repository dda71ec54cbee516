"""Base class of tests with one WebSocket protocol of ours and nothing above or below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.connection.websocket import OpenTransports, PeerClientFactory, PeerServerFactory
from dig_gossip.constants import CLOSE_TIMEOUT_SECS
from dig_gossip.errors import GossipError
from dig_gossip.testing.hostile import HostilePeer
from dig_gossip.testing.network import MemoryNetwork
from dig_gossip.testing.transport import MemoryTransport
from dig_gossip.types.peer import PeerAddress, PeerId
from dig_gossip.util.clock import Clock


class Recorder:
    """A receiver that notes what it is told, and fails where it is asked to."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.fail_in: str | None = None
        self.then: Callable[[], object] = lambda: None

    def largest_frame(self, opcode: int) -> int | None:
        return None

    def _note(self, name: str, *args: Any) -> None:
        self.events.append((name, *args))
        if self.fail_in == name:
            self.fail_in = None
            raise RuntimeError(f"broken in {name}")
        self.then()

    def secured(self, peer_id: PeerId) -> None:
        self._note("secured")

    def opened(self) -> None:
        self._note("opened")

    def heard(self) -> None:
        """Too many to note."""

    def frame_received(self, payload: bytes) -> None:
        self._note("frame", payload)

    def text_received(self) -> None:
        self._note("text")

    def pong_received(self, payload: bytes) -> None:
        self._note("pong", payload)

    def closing(self, code: int | None, by_us: bool) -> None:
        self._note("closing", code, by_us)

    def lost(self, reason: Failure) -> None:
        self._note("lost")

    def broken(self, error: GossipError) -> None:
        self._note("broken")


class _Listening(Factory):
    noisy = False

    def __init__(self, case: WebSocketCase) -> None:
        self._case = case

    def buildProtocol(self, addr: IAddress | None) -> Any:  # Any: Autobahn has no types
        assert addr is not None
        return self._case.attach(self._case.servers.make(addr, self._case.receiver))


class _Dialing(ClientFactory):
    noisy = False

    def __init__(self, case: WebSocketCase, address: PeerAddress) -> None:
        self._case = case
        self._address = address

    def buildProtocol(self, addr: IAddress | None) -> Any:  # Any: Autobahn has no types
        return self._case.attach(self._case.clients.make(self._address, self._case.receiver))


class WebSocketCase(SynchronousTestCase):
    """One protocol of ours, without TLS, and a peer that we script."""

    def setUp(self) -> None:
        self.begin()
        self.addCleanup(self.end)

    def begin(self) -> None:
        """Begin anew; for tests with several cases."""
        self.network = MemoryNetwork(seed=1)
        self.reactor = self.network.reactor("10.9.9.9")
        self.clock = Clock(self.reactor)
        self.transports = OpenTransports()
        self.servers = PeerServerFactory(self.clock, self.transports)
        self.clients = PeerClientFactory(self.clock, self.transports)
        self.receiver = Recorder()
        self.peer = HostilePeer(self.network, tls=False)

    def end(self) -> None:
        """Nothing is left."""
        self.peer.drop()
        self.network.advance(CLOSE_TIMEOUT_SECS + 1)
        self.assertEqual(len(self.transports), 0)
        self.assertEqual(self.clock.pending, 0)

    def attach(self, protocol: Any) -> Any:  # Any: either protocol
        self.protocol: Any = protocol
        return protocol

    def listen(self) -> None:
        """Let the peer dial our server protocol; nothing is said yet."""
        self.reactor.listenTCP(1, _Listening(self))
        self.peer.connect(PeerAddress("10.9.9.9", 1))
        self.network.settle()

    def serve(self) -> None:
        """Let the peer dial our server protocol, up to an open WebSocket."""
        self.listen()
        self.peer.upgrade()
        self.network.settle()
        self.assertEqual(self.events, ["opened"])

    def dial(self, **script: Any) -> None:
        """Let our client protocol dial the peer, which answers the upgrade unless told else."""
        script = script or {"on_request": lambda peer: peer.accept_upgrade()}
        address = self.peer.listen(**script)
        self.reactor.connectTCP(address.host, address.port, _Dialing(self, address))
        self.network.settle()

    @property
    def events(self) -> list[Any]:
        """The names of what was noted, without arguments."""
        return [event[0] for event in self.receiver.events]

    @property
    def transport(self) -> MemoryTransport:
        """Our end of the connection."""
        return cast(MemoryTransport, self.protocol.transport)
