"""An onion service through the control port: txtorcon against a scripted Tor, in memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver

from dig_gossip.errors import InvalidConfig
from dig_gossip.privacy import onion_service
from dig_gossip.privacy.onion_service import OnionService
from dig_gossip.types.config import TorConfig
from dig_gossip.types.peer import PeerAddress
from dig_gossip.util.clock import Clock
from dig_gossip.util.deferreds import handled
from tests.discovery.onions import onion
from tests.network_case import NetworkCase

KEY = "ED25519-V3:" + "A" * 86 + "=="


class ScriptedTor(Factory):
    """Speaks as much of Tor's control protocol as an onion service takes.

    :ivar commands: all that were received.
    :ivar clients: the open connections.
    """

    noisy = False

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.clients: list[Any] = []
        self.key = KEY
        self.host = onion(1)
        self.refuses = False
        self.password = ""

    def buildProtocol(self, addr: object) -> Any:
        client = _Client()
        client.factory = self
        self.clients.append(client)
        return client

    @property
    def added(self) -> list[str]:
        """The services that were asked for."""
        return [command for command in self.commands if command.startswith("ADD_ONION")]


class _Client(LineOnlyReceiver):
    factory: Any

    def lineReceived(self, line: bytes) -> None:
        command = line.decode()
        tor = self.factory
        tor.commands.append(command)
        verb, _, rest = command.partition(" ")
        lines = ["250 OK"]
        if verb == "PROTOCOLINFO":
            methods = "HASHEDPASSWORD" if tor.password else "NULL"
            lines = ["250-PROTOCOLINFO 1", f"250-AUTH METHODS={methods}"]
            lines += ['250-VERSION Tor="0.4.8.1"', "250 OK"]
        elif verb == "AUTHENTICATE" and tor.password:
            if tor.password.encode().hex() not in rest and tor.password not in rest:
                lines = ["515 Bad authentication"]
        elif verb == "GETINFO":
            value = {"version": "0.4.8.1", "signal/names": "RELOAD", "events/names": "CIRC"}[rest]
            lines = [f"250-{rest}={value}", "250 OK"]
        elif verb == "ADD_ONION":
            lines = [f"250-ServiceID={tor.host.removesuffix('.onion')}"]
            if rest.startswith("NEW:"):
                lines.append(f"250-PrivateKey={tor.key}")
            lines.append("250 OK")
            if tor.refuses:
                lines = ["550 Onion address collision"]
        for text in lines:
            self.sendLine(text.encode())


class OnionServiceTests(NetworkCase):
    """A node whose Tor has a control port."""

    def setUp(self) -> None:
        super().setUp()
        self.tor = ScriptedTor()
        self.reactor = self.network.reactor()
        self.reactor.listenTCP(9051, self.tor)
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def started(self, **options: Any) -> Any:
        """A started node that wants an onion service."""
        tor = TorConfig(
            enabled=True, control_address=f"{self.reactor.host}:9051", **options.pop("tor", {})
        )
        node = self.network.node(tor=tor, **options)
        self.network.start()
        return node

    def make(self, name: str = "node.key.onion") -> tuple[OnionService, list[str | None]]:
        """A service alone, with its key in a file."""
        told: list[str | None] = []
        path = str(self.folder / name) if name else ""
        clock: Any = Clock(self.reactor)
        service = OnionService(f"{self.reactor.host}:9051", "", path, clock, told.append)
        self.addCleanup(clock.cancel_all)
        return service, told

    def test_a_node_gets_a_service_and_tells_of_it(self) -> None:
        """Virtual port and target are those we listen on.  PRV-010.2"""
        node = self.started()
        self.network.advance(2)
        peers = node.service.node.peers
        self.assertEqual(peers.onion, PeerAddress(onion(1), 9444))
        self.assertEqual(self.tor.added, [f"ADD_ONION NEW:ED25519-V3 Port=9444,{node.host}:9444"])
        self.network.stop()
        self.network.advance(5)
        self.assertFalse(self.tor.clients[0].transport.connected)

    def test_the_port_may_be_another_one(self) -> None:
        """As configured.  PRV-010.2"""
        node = self.started(tor={"onion_port": 80})
        self.network.advance(2)
        self.assertEqual(node.service.node.peers.onion, PeerAddress(onion(1), 80))
        self.assertIn("Port=80,", self.tor.added[0])

    def test_the_key_is_kept_for_the_owner_alone(self) -> None:
        """The address stays over restarts.  PRV-010.2"""
        for expected in ("NEW:ED25519-V3", KEY):
            service, told = self.make()
            service.start(9444, PeerAddress("127.0.0.1", 9444))
            self.network.advance(2)
            self.assertEqual(told, [onion(1)])
            self.assertEqual(self.tor.added[-1].split()[1], expected)
            handled(service.stop())
            self.network.advance(2)
        path = self.folder / "node.key.onion"
        self.assertEqual(path.read_text(), KEY)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def test_a_spoiled_key_is_not_replaced(self) -> None:
        """Another key would be another address.  PRV-010.2"""
        path = self.folder / "node.key.onion"
        for content in ("", "RSA1024:abc", "ED25519-V3:short", "x" * 5000, KEY + "\nPort=1"):
            path.write_text(content)
            service, told = self.make()
            service.start(9444, PeerAddress("127.0.0.1", 9444))
            self.network.advance(2)
            self.assertEqual((told, self.tor.added), ([], []))
            self.assertEqual(path.read_text(), content)
            handled(service.stop())

    def test_a_tor_that_restarts_gets_the_service_again(self) -> None:
        """With the same key.  PRV-010.2"""
        service, told = self.make("")
        service.start(9444, PeerAddress("127.0.0.1", 9444))
        self.network.advance(2)
        self.tor.clients[0].transport.abortConnection()
        self.network.advance(2)
        self.assertEqual(told, [onion(1), None])
        self.network.advance(10)
        self.assertEqual(told, [onion(1), None, onion(1)])
        self.assertEqual(self.tor.added[-1].split()[1], KEY)
        handled(service.stop())

    def test_a_refusal_is_tried_again_less_and_less_often(self) -> None:
        """After 5, 10, 20 s and so on, at most 300.  PRV-010.2"""
        self.tor.refuses = True
        service, told = self.make()
        service.start(9444, PeerAddress("127.0.0.1", 9444))
        self.network.advance(3600)
        self.assertEqual(told, [])
        self.assertIn(len(self.tor.added), range(15, 19))
        self.tor.refuses = False
        self.network.advance(400)
        self.assertEqual(told, [onion(1)])
        handled(service.stop())

    def test_answers_that_name_no_service(self) -> None:
        """What Tor says is checked as well.  PRV-010.2"""
        for host, key in (("a" * 56 + ".onion", KEY), ("", KEY), (onion(1), "ED25519-V3:x")):
            self.tor.host, self.tor.key = host, key
            service, told = self.make("")
            service.start(9444, PeerAddress("127.0.0.1", 9444))
            self.network.advance(2)
            self.assertEqual(told, [])
            handled(service.stop())
            self.network.advance(5)

    def test_stopping_at_any_moment(self) -> None:
        """Nothing is left, whatever is under way.  behaviour §32"""
        for moment in (0.0, 0.015, 0.025, 0.05, 0.1, 0.2):
            service, told = self.make("")
            service.start(9444, PeerAddress("127.0.0.1", 9444))
            self.network.advance(moment)
            stopping = service.stop()
            self.network.advance(5)
            self.successResultOf(stopping)
            self.assertEqual(service._clock.pending, 0)
            before = list(told)
            self.network.advance(1000)
            self.assertEqual(told, before)

    def test_without_txtorcon(self) -> None:
        """The extra is named.  design D17"""
        self.patch(onion_service, "find_spec", lambda name: None)
        error = self.assertRaises(InvalidConfig, self.make)
        self.assertIn("dig-gossip[tor]", str(error))
