"""An end that is chia-blockchain: its ``ChiaServer`` and ``WSChiaConnection``, with its TLS.

Imports chia-blockchain and the standard library only; run it by path, with the Python that
``tests.interop.environment`` makes. The node behind the server is a stub without a blockchain.

What is done in chia-blockchain's favor, so that its transport is measured and nothing else:

* the limits are lifted: its rate limiter lets everything pass without counting anything;
* the body of a message is not parsed: its API method gets the bytes;
* the log is at WARNING, its default.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, ClassVar

from _flow import End, tell
from chia.protocols.outbound_message import Message, NodeType
from chia.protocols.protocol_message_types import ProtocolMessageTypes
from chia.protocols.shared_protocol import default_capabilities
from chia.server.api_protocol import ApiMetadata
from chia.server.rate_limits import RateLimiter
from chia.server.server import ChiaServer
from chia.types.peer_info import PeerInfo
from chia.util.network import WebServer
from chia_rs.sized_ints import uint8, uint16

# chia-blockchain has no type stubs: its objects are Any throughout this module.

OPCODE = uint8(ProtocolMessageTypes.respond_block.value)
NETWORK = "mainnet"


class Opaque:
    """A body that is not looked into."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @classmethod
    def from_bytes(cls, data: bytes) -> Opaque:
        """Take the body as it is."""
        return cls(data)


class Api:
    """The API that chia-blockchain's connections call: one kind of message."""

    log = logging.getLogger("benchmark")
    metadata: ClassVar[ApiMetadata] = ApiMetadata()

    def __init__(self, end: End) -> None:
        self._end = end

    def ready(self) -> bool:
        return True

    @metadata.request()  # type: ignore[untyped-decorator]
    async def respond_block(self, body: Opaque) -> Message | None:
        answer = self._end.receive(body.data)
        return None if answer is None else Message(OPCODE, None, answer)


class Node:
    """As much of a full node as the server asks for."""

    class blockchain:
        @staticmethod
        def get_peak_height() -> None:
            return None


class ChiaEnd(End):
    """A ``ChiaServer`` on loopback."""

    def __init__(self, certificate: Path) -> None:
        super().__init__()
        self._tasks: set[asyncio.Future[object]] = set()
        authority = certificate.with_name("ca.crt")
        private = certificate.with_suffix(".key")
        self._server = ChiaServer.create(
            port=0,
            node=Node(),
            api=Api(self),
            local_type=NodeType.FULL_NODE,
            ping_interval=120,
            network_id=NETWORK,
            inbound_rate_limit_percent=100,
            outbound_rate_limit_percent=100,
            capabilities=default_capabilities[NodeType.FULL_NODE],
            root_path=certificate.parent,
            config={
                "ssl": {"public_crt": certificate.name, "public_key": private.name},
                "target_peer_count": 10_000,
                "target_outbound_peer_count": 0,
            },
            private_ca_crt_key=(authority, authority.with_suffix(".key")),
            chia_ca_crt_key=(authority, authority.with_suffix(".key")),
            stub_metadata_for_type={},
        )

    async def listen(self) -> dict[str, Any]:
        await self._server.start(prefer_ipv6=False)
        port = int(self._server.get_port())
        return {"port": port, "network": NETWORK, "answer": int(OPCODE)}

    def send(self, data: bytes) -> Awaitable[object]:
        sending: Awaitable[object] = self._peer.send_message(Message(OPCODE, None, data))
        return sending

    def spread(self, data: bytes) -> Awaitable[object]:
        sending: Awaitable[object] = self._server.send_to_all(
            [Message(OPCODE, None, data)], NodeType.FULL_NODE
        )
        return sending

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def start(self, sending: Awaitable[object] | None) -> None:
        if sending is not None:
            task = asyncio.ensure_future(sending)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def meet(self) -> None:
        (self._peer,) = self._server.get_connections()

    async def dial(self, port: int) -> None:
        if not await self._server.start_client(PeerInfo("127.0.0.1", uint16(port))):
            raise RuntimeError("the dial failed")

    async def hang_up(self) -> None:
        for connection in self._server.get_connections():
            await connection.close()

    def sessions(self) -> int:
        return len(self._server.all_connections)

    async def close(self) -> None:
        """Leave nothing open, lest asyncio complain."""
        self._server.close_all()
        await self._server.await_closed()

    def waiter(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def wake(self, waiter: asyncio.Future[None]) -> None:
        waiter.set_result(None)


def lift_limits() -> None:
    """Let everything pass, at no cost."""
    RateLimiter.process_msg_and_check = lambda *_arguments: None


def stay_on_loopback() -> None:
    """Listen on 127.0.0.1 instead of everywhere."""
    create = WebServer.create

    async def create_on_loopback(**kwargs: Any) -> Any:
        return await create(**(kwargs | {"hostname": "127.0.0.1"}))

    WebServer.create = create_on_loopback


async def serve(certificate: Path) -> None:
    """Listen, say where, and obey until standard input ends."""
    end = ChiaEnd(certificate)
    tell(await end.listen())
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while line := await commands.readline():
        await end.perform(line)
    await end.close()


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificate", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    lift_limits()
    stay_on_loopback()
    asyncio.run(serve(options.certificate))


if __name__ == "__main__":
    main()
