"""A small server on a stock WebSocket library, to check the driver in ``raw_cases`` itself.

Speaks just enough of the protocol: answers a handshake with the same handshake and a request for
peers with an empty list, and closes with 1003 on text. Where its reactions differ from what a
case expects, either the library or the driver is lenient; README.rst lists the known differences.

``python -m tests.interop.reference_server websockets`` (or ``autobahn``) prints its port and
runs until it is terminated.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import websockets.asyncio.server
from websockets.exceptions import ConnectionClosed

from tests.interop.raw_link import (
    HANDSHAKE,
    REQUEST_PEERS,
    RESPOND_PEERS,
    Unexpected,
    make_certificate,
    pack_message,
    unpack_message,
)

MAX_MESSAGE = 8 * 1024 * 1024


def reply_to(raw: bytes) -> bytes | None:
    """Answer one message; None if there is nothing to say, as for a malformed one."""
    try:
        message = unpack_message(raw)
    except Unexpected:
        return None
    if message.type == HANDSHAKE:
        return raw
    if message.type == REQUEST_PEERS:
        return pack_message(RESPOND_PEERS, message.id, bytes(4))
    return None


def server_context() -> ssl.SSLContext:
    """A context with a throw-away certificate; it does not ask for the client's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="reference-") as folder:
        files = Path(folder, "cert.pem"), Path(folder, "key.pem")
        for path, content in zip(files, make_certificate(), strict=True):
            path.write_bytes(content)
        context.load_cert_chain(*files)
    return context


async def run_websockets() -> None:
    """Serve with the ``websockets`` library."""

    async def converse(connection: websockets.asyncio.server.ServerConnection) -> None:
        try:
            async for raw in connection:
                if isinstance(raw, str):
                    await connection.close(1003)
                    return
                answer = reply_to(raw)
                if answer is not None:
                    await connection.send(answer)
        except ConnectionClosed:
            pass

    serving = websockets.asyncio.server.serve(
        converse,
        "127.0.0.1",
        0,
        ssl=server_context(),
        compression=None,
        max_size=MAX_MESSAGE,
        ping_interval=None,
    )
    async with serving as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


def run_autobahn() -> None:
    """Serve with Autobahn on Twisted; the client must present a certificate, any certificate."""
    from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
    from OpenSSL import SSL
    from twisted.internet import reactor
    from twisted.internet.ssl import CertificateOptions, PrivateCertificate

    certificate, key = make_certificate()
    identity = PrivateCertificate.loadPEM(certificate + key)
    options = CertificateOptions(
        privateKey=identity.privateKey.original, certificate=identity.original
    )
    context = options.getContext()
    demand = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context.set_verify(demand, lambda *_: True)

    class Protocol(WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn is untyped
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            answer = reply_to(payload)
            if not isBinary:
                self.sendCloseFrame(1003, reasonUtf8=b"")
            elif answer is not None:
                self.sendMessage(answer, isBinary=True)

    factory = WebSocketServerFactory()
    factory.protocol = Protocol
    factory.setProtocolOptions(
        maxMessagePayloadSize=MAX_MESSAGE, maxFramePayloadSize=MAX_MESSAGE, failByDrop=False
    )
    running: Any = reactor  # its type depends on which reactor is installed
    port = running.listenSSL(0, factory, options, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    running.run()


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", choices=["websockets", "autobahn"])
    if parser.parse_args(arguments).library == "autobahn":
        run_autobahn()
    else:
        asyncio.run(run_websockets())
    return 0


if __name__ == "__main__":
    sys.exit(main())
