"""Datagrams on real sockets; the gateway is another socket of this machine."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.trial.unittest import TestCase

from dig_gossip.errors import ClientError
from dig_gossip.portmap.gateway_link import GatewayLink
from dig_gossip.portmap.values import MappingFailed
from dig_gossip.util.clock import Clock
from dig_gossip.wire.streamable import malformed


class Socket(DatagramProtocol):
    """A socket that answers as it is told.

    :ivar answers: what to answer to a datagram, one after the other.
    """

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.heard: Deferred[tuple[str, int]] = Deferred()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        for answer in self.answers:
            assert self.transport is not None
            self.transport.write(answer, addr)
        if not self.heard.called:
            self.heard.callback(addr)


def yes(datagram: bytes) -> bytes:
    """Take what is an answer."""
    if datagram == b"no":
        raise MappingFailed("no")
    if not datagram.startswith(b"yes"):
        raise malformed("no answer")
    return datagram


class LinkTests(TestCase):
    """One question at a time, and whom to believe."""

    timeout = 30

    def link(self, port: int, **options: Any) -> GatewayLink:
        """A link to a port of this machine."""
        made = GatewayLink("127.0.0.1", Clock(reactor), port=port, **options)
        self.addCleanup(made.close)
        return made

    def listen(self, *answers: bytes) -> tuple[Socket, int]:
        """A gateway, and its port."""
        socket = Socket(list(answers))
        port = reactor.listenUDP(0, socket, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return socket, port.getHost().port

    async def test_an_answer_is_read(self) -> None:
        """What is none is passed on, before and after the question.  behaviour §29"""
        heard: list[bytes] = []
        _, port = self.listen(b"late", b"yes, first", b"news")
        link = self.link(port, unasked=heard.append)
        self.assertEqual(link.host, "127.0.0.1")
        self.assertEqual(await link.ask(b"?", yes), b"yes, first")
        self.assertEqual(await link.ask(b"?", yes), b"yes, first")
        self.assertEqual(heard, [b"late", b"news", b"late"])

    async def test_strangers_are_not_heard(self) -> None:
        """Another socket of the same machine is another port.  behaviour §29"""
        gateway, port = self.listen()
        stranger, _ = self.listen()
        unasked: list[bytes] = []
        link = self.link(port, unasked=unasked.append)
        asking = link.ask(b"?", yes)
        address = await gateway.heard
        assert stranger.transport is not None
        assert gateway.transport is not None
        stranger.transport.write(b"yes, of a stranger", address)
        gateway.transport.write(b"yes, of the gateway", address)
        self.assertEqual(await asking, b"yes, of the gateway")
        self.assertEqual(unasked, [])

    async def test_a_closed_port_is_an_answer(self) -> None:
        """The system says so, and the reactor may close our socket: the next question gets
        another.  behaviour §29"""
        gone = reactor.listenUDP(0, Socket([]), interface="127.0.0.1")  # type: ignore[attr-defined]
        port = gone.getHost().port
        await gone.stopListening()
        link = self.link(port)
        for _ in range(3):
            with self.assertRaisesRegex(MappingFailed, "nothing listens there"):
                await link.ask(b"?", yes)

    async def test_a_refusal_is_an_answer(self) -> None:
        """The question is over.  behaviour §29"""
        _, port = self.listen(b"no")
        link = self.link(port)
        with self.assertRaisesRegex(MappingFailed, "no"):
            await link.ask(b"?", yes)

    async def test_a_question_ends_with_its_asker_and_with_the_socket(self) -> None:
        """No timer is left, and the next one may be asked.  CNC-101-X"""
        _, port = self.listen()
        link = self.link(port)
        asking = link.ask(b"?", yes)
        asking.cancel()
        with self.assertRaises(CancelledError):
            await asking
        asking = link.ask(b"?", yes)
        closing = link.close()
        with self.assertRaisesRegex(MappingFailed, "the socket is closed"):
            await asking
        await closing

    def test_no_way_there_is_a_failure(self) -> None:
        """A source that this machine does not have; an error, and no socket left.  behaviour §29"""
        self.assertRaises(
            MappingFailed, GatewayLink, "127.0.0.1", Clock(reactor), interface="192.0.2.1"
        )

    def test_only_what_is_no_answer_is_ignored(self) -> None:
        """A mistake of ours is not taken for a datagram of somebody else.  behaviour §29"""
        self.assertRaises(ClientError, yes, b"")
