"""The relay on real sockets, with a client that is not ours."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, readBody
from websockets.asyncio.client import connect as secure_connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from dig_gossip.errors import Io
from dig_gossip.relay.limits import MAX_TRACKED_HOSTS
from dig_gossip.relay.server import RelayServer
from dig_gossip.relay.stun_responder import StunResponder
from dig_gossip.testing.certificates import throwaway_identity
from dig_gossip.tls.identity import Identity
from dig_gossip.types.peer import PeerAddress
from dig_gossip.types.relay import RelayLimits, RelayServerConfig
from dig_gossip.util.clock import Clock
from dig_gossip.wire import relay, stun

LOOPBACK = PeerAddress("127.0.0.1", 0)


class RelayServerTests(TestCase):
    """Clients made with the ``websockets`` package, each call in a thread."""

    timeout = 60

    async def serve(
        self,
        limits: RelayLimits | None = None,
        identity: Identity | None = None,
        requires_certificate: bool = False,
    ) -> RelayServer:
        """Start a relay on ports of the system's choice."""
        certificate: dict[str, Any] = {}
        if requires_certificate:
            certificate = {"cert_path": "x", "key_path": "x", "requires_certificate": True}
        config = RelayServerConfig(
            listen_addr=LOOPBACK,
            health_addr=LOOPBACK,
            stun_addr=LOOPBACK,
            limits=limits or RelayLimits(),
            **certificate,
        )
        clock: Any = reactor  # Any: the reactor module has no type
        server = RelayServer(config, Clock(clock), identity)
        server.startService()
        self.addCleanup(server.stopService)
        return server

    def client(self, server: RelayServer, **options: Any) -> ClientConnection:
        """Open a connection; in a thread."""
        assert server.bound is not None
        made: ClientConnection = connect(f"ws://127.0.0.1:{server.bound.port}/", **options)
        return made

    @staticmethod
    def secure_client(server: RelayServer, certificate: str | None = None) -> secure_connect:
        """Open a connection with TLS; for asyncio, in a thread.

        The client for threads reads and writes one TLS session in two threads, which OpenSSL does
        not allow and Python 3.11 does not prevent: one connection in a thousand hung.

        :param certificate: the file with certificate and key.
        """
        assert server.bound is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(certificate)
        return secure_connect(f"wss://127.0.0.1:{server.bound.port}/", ssl=context)

    @staticmethod
    def register(client: ClientConnection, peer_id: str) -> dict[str, Any]:
        """Register; in a thread."""
        client.send(relay.Register(peer_id=peer_id, network_id="N").encode())
        answer: dict[str, Any] = json.loads(client.recv())
        return answer

    async def test_two_strangers_talk(self) -> None:
        """JSON in text and in binary messages; presence, messages, goodbye.  RSV-104-X"""
        server = await self.serve()

        def talk() -> list[Any]:
            with self.client(server) as a, self.client(server) as b:
                acks = [self.register(a, "aa"), self.register(b, "bb")]
                arrived = json.loads(a.recv())
                message = relay.RelayMessage(
                    sender="x", recipient="bb", payload=bytes(range(200)), seq=3
                )
                a.send(message.encode().encode())  # a binary message
                got = json.loads(b.recv())
                b.send(relay.Unregister(peer_id="bb").encode())
                left = json.loads(a.recv())
                try:
                    b.recv()
                    code = 0
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else -1
                return [acks, arrived, got, left, code]

        acks, arrived, got, left, code = await deferToThread(talk)
        self.assertEqual([ack["success"] for ack in acks], [True, True])
        self.assertEqual(arrived["peer"]["peer_id"], "bb")
        self.assertEqual((got["from"], got["payload"]), ("aa", list(range(200))))
        self.assertEqual((left["type"], code), ("peer_disconnected", 1000))

    async def test_over_tls_with_and_without_a_certificate(self) -> None:
        """``wss`` takes a client without a certificate, and judges one that has.  RSV-102-X"""
        own, other = throwaway_identity(1), throwaway_identity(2)
        server = await self.serve(identity=own)
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(other.certificate_pem + other.key_pem)

        async def talk() -> list[int]:
            found = []
            for peer_id, certified in (("aa", False), (other.peer_id.hex(), True), ("cc", True)):
                async with self.secure_client(server, path if certified else None) as client:
                    register = relay.Register(peer_id=peer_id, network_id="N")
                    await client.send(register.encode())
                    answer = json.loads(await client.recv())
                    if not answer["success"]:
                        answer = json.loads(await client.recv())
                    found.append(answer.get("code", 0))
            return found

        self.assertEqual(await deferToThread(asyncio.run, talk()), [0, 0, 6])

    async def test_a_certificate_can_be_required(self) -> None:
        """Then TLS fails without one.  RSV-102-X"""
        server = await self.serve(identity=throwaway_identity(1), requires_certificate=True)

        async def talk() -> str:
            try:
                async with self.secure_client(server):
                    return "taken"
            except TimeoutError:
                return "silence"
            except (OSError, WebSocketException):
                return "refused"

        self.assertEqual(await deferToThread(asyncio.run, talk()), "refused")

    async def test_a_frame_above_the_limit_is_refused_at_its_header(self) -> None:
        """Close 1009 and a strike; the largest that is allowed passes.  RSV-109-X"""
        server = await self.serve(RelayLimits(frame_bytes=5000, bytes_per_second=0))

        def talk() -> tuple[str, int]:
            with self.client(server) as client:
                self.register(client, "aa")
                frame = relay.Ping(timestamp=5).encode()
                client.send(frame + " " * (5000 - len(frame)))
                answer = client.recv()
                client.send(frame + " " * (5001 - len(frame)))
                try:
                    client.recv()
                except ConnectionClosed as closed:
                    return str(answer), closed.rcvd.code if closed.rcvd else -1
            return str(answer), 0

        answer, code = await deferToThread(talk)
        self.assertEqual((answer, code), (relay.Pong(timestamp=5).encode(), 1009))
        self.assertEqual(server.registry.counters["tripped.frame_bytes"], 1)

    async def test_connections_beyond_the_limit_are_refused_before_a_byte(self) -> None:
        """Of one address; when one ends another may come.  RSV-109-X"""
        server = await self.serve(RelayLimits(connections_per_host=1))

        def talk() -> list[bool]:
            found = []
            for _ in range(2):
                with self.client(server) as first:
                    self.register(first, "aa")
                    try:
                        self.client(server).close()
                        found.append(True)
                    except (OSError, WebSocketException):
                        found.append(False)
                    first.send(relay.Unregister(peer_id="aa").encode())
                    try:
                        first.recv()
                    except ConnectionClosed:
                        pass
            return found

        self.assertEqual(await deferToThread(talk), [False, False])

    async def test_health_and_stun(self) -> None:
        """The page says how it goes; a STUN request is answered with its source.  RSV-111-X"""
        server = await self.serve()
        assert server.health_bound is not None
        assert server.stun_bound is not None
        url = f"http://127.0.0.1:{server.health_bound.port}/health".encode()
        response = await Agent(reactor).request(b"GET", url)
        health = json.loads(await readBody(response))
        self.assertEqual((health["status"], health["connected_peers"]), ("ok", 0))
        self.assertIn("version", health)

        request = stun.build_request(b"abcdefghijkl")
        asker = _Asker(("127.0.0.1", server.stun_bound.port), request)
        port: Any = reactor.listenUDP(0, asker, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        answer = await asker.answer
        self.assertEqual(
            answer,
            stun.build_response(b"abcdefghijkl", PeerAddress("127.0.0.1", port.getHost().port)),
        )

    async def test_stopping_says_goodbye(self) -> None:
        """Every client gets 1001, and nothing is left open.  RSV-113-X"""
        server = await self.serve()
        registered: Deferred[None] = Deferred()

        def talk(ready: Callable[[], None]) -> int:
            with self.client(server) as client:
                self.register(client, "aa")
                ready()
                try:
                    client.recv()
                except ConnectionClosed as closed:
                    return closed.rcvd.code if closed.rcvd else -1
            return 0

        loop: Any = reactor
        talking = deferToThread(talk, lambda: loop.callFromThread(registered.callback, None))
        await registered
        stopping = server.stopService()
        self.assertEqual(await talking, 1001)
        await stopping
        self.assertEqual(len(server.transports), 0)

    async def test_an_address_in_use_ends_the_start(self) -> None:
        """The error names the address, and nothing stays bound.  style §6.5"""
        server = await self.serve()
        assert server.health_bound is not None
        config = RelayServerConfig(listen_addr=LOOPBACK, health_addr=server.health_bound)
        clock: Any = reactor
        second = RelayServer(config, Clock(clock))
        error = self.assertRaises(Io, second.startService)
        self.assertIn(str(server.health_bound), str(error))


class _Asker(DatagramProtocol):
    """Sends one datagram and waits for an answer."""

    def __init__(self, target: tuple[str, int], request: bytes) -> None:
        self.answer: Deferred[bytes] = Deferred()
        self._target = target
        self._request = request

    def startProtocol(self) -> None:
        transport: Any = self.transport
        transport.write(self._request, self._target)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.answer.callback(datagram)


class StunResponderTests(SynchronousTestCase):
    """Silence is the rule."""

    def test_five_a_second_for_one_address(self) -> None:
        """Others get theirs meanwhile; garbage gets nothing.  RSV-111-X"""
        time = 0.0
        responder = StunResponder(now=lambda: time)
        request = stun.build_request(b"abcdefghijkl")

        def count(host: str, tries: int) -> int:
            address = PeerAddress(host, 5)
            return sum(responder.answer(request, address) is not None for _ in range(tries))

        self.assertEqual((count("192.0.2.1", 9), count("192.0.2.2", 9)), (5, 5))
        time = 1.0
        self.assertEqual(count("192.0.2.1", 9), 5)
        self.assertIsNone(responder.answer(b"\0\1" + bytes(18), PeerAddress("192.0.2.3", 5)))

    def test_a_thousand_a_second_in_all(self) -> None:
        """Whatever the number of addresses, which are bounded too.  RSV-111-X, design D14"""
        responder = StunResponder(now=lambda: 0.0)
        request = stun.build_request(b"abcdefghijkl")
        answered = sum(
            responder.answer(request, PeerAddress(f"10.{n >> 8}.{n & 255}.1", 5)) is not None
            for n in range(2000)
        )
        self.assertEqual(answered, 1000)
        self.assertLessEqual(len(responder._hosts), MAX_TRACKED_HOSTS)
