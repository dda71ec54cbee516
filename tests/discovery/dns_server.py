"""A real DNS server, dnslib's, on loopback: UDP and TCP at one port, one behavior a name."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import dnslib
from dnslib.server import DNSHandler, DNSLogger, DNSServer

from dig_gossip.types.peer import PeerAddress

#: Makes the answer to a request, given ``"udp"`` or ``"tcp"``: a record, bytes, or None for none.
Behavior = Callable[[dnslib.DNSRecord, str], "dnslib.DNSRecord | bytes | None"]


class _Handler(DNSHandler):  # type: ignore[misc]  # dnslib has no types
    def get_reply(self, data: bytes) -> bytes:
        server: SeedServer = self.server.resolver
        request = dnslib.DNSRecord.parse(data)
        server.asked.append(
            (str(request.q.qname).rstrip("."), dnslib.QTYPE[request.q.qtype], self.protocol)
        )
        answer = server.answer(request, self.protocol)
        if answer is None:
            raise dnslib.DNSError("says nothing")
        return bytes(answer) if isinstance(answer, bytes) else bytes(answer.pack())


class SeedServer:
    """Serves names; :meth:`stop` ends its threads.

    :ivar asked: name, type and protocol of every question, in order.
    """

    def __init__(self) -> None:
        self.names: dict[str, Behavior] = {}
        self.asked: list[tuple[str, str, str]] = []
        self._udp: Any
        self._tcp: Any
        self._udp, self._tcp = self._servers()
        self._port: int = self._udp.server.server_address[1]
        self._threads = [
            Thread(target=server.server.serve_forever, args=(0.01,))
            for server in (self._udp, self._tcp)
        ]
        for thread in self._threads:
            thread.start()

    def _servers(self) -> tuple[Any, Any]:
        """One for UDP and one for TCP, on a port that is free for both."""
        quiet = DNSLogger(logf=lambda _line: None)
        taken = []  # kept until there is one, so that the system names another each time
        try:
            while True:
                udp: Any = DNSServer(self, "127.0.0.1", 0, logger=quiet, handler=_Handler)
                port = udp.server.server_address[1]
                try:
                    return udp, DNSServer(
                        self, "127.0.0.1", port, tcp=True, logger=quiet, handler=_Handler
                    )
                except OSError:
                    taken.append(udp)
                    if len(taken) == 100:
                        raise
        finally:
            for udp in taken:
                udp.server.server_close()

    @property
    def address(self) -> PeerAddress:
        """Where the server listens."""
        return PeerAddress("127.0.0.1", self._port)

    def stop(self) -> None:
        """End the threads, close the sockets."""
        for server, thread in zip((self._udp, self._tcp), self._threads, strict=True):
            server.stop()
            thread.join()
            server.server.server_close()

    def answer(self, request: dnslib.DNSRecord, protocol: str) -> dnslib.DNSRecord | bytes | None:
        """Let the name behave."""
        behavior = self.names.get(str(request.q.qname).rstrip(".").lower())
        if behavior is None:
            reply = request.reply()
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
            return reply
        return behavior(request, protocol)


def zone(*records: str) -> Behavior:
    """Answer with the records whose type is asked for, CNAME always, as a zone file writes them."""

    def behave(request: dnslib.DNSRecord, _protocol: str) -> dnslib.DNSRecord:
        reply = request.reply()
        for record in dnslib.RR.fromZone("\n".join(records)):
            if record.rtype in (request.q.qtype, dnslib.QTYPE.CNAME):
                reply.add_answer(record)
        return reply

    return behave


def truncated(full: Behavior) -> Behavior:
    """Answer in full over TCP only."""

    def behave(request: dnslib.DNSRecord, protocol: str) -> dnslib.DNSRecord | bytes | None:
        if protocol == "tcp":
            return full(request, protocol)
        reply = request.reply()
        reply.header.tc = 1
        return reply

    return behave


def code(name: str) -> Behavior:
    """Answer with an error."""

    def behave(request: dnslib.DNSRecord, _protocol: str) -> dnslib.DNSRecord:
        reply = request.reply()
        reply.header.rcode = getattr(dnslib.RCODE, name)
        return reply

    return behave


def silent(_request: dnslib.DNSRecord, _protocol: str) -> None:
    """Answer nothing."""
