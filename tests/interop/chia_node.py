"""Run chia-blockchain's own full node on loopback and report every event as a line of JSON.

Everything that speaks is chia-blockchain's: ``FullNode``, ``FullNodeAPI``, ``ChiaServer``,
``WSChiaConnection``, the address manager, its certificates and TLS contexts, with its default
configuration for the chosen network and an empty blockchain. This program imports nothing but
chia-blockchain and the standard library; run it by path, with the Python of
``tests.interop.environment``.

What differs from a node in the wild:

* it listens on the given host instead of on every interface;
* it dials only what ``--dial`` says: the discovery loop, the DNS introducers, UPnP, the RPC
  server and the look-up of the public address are off, so nothing leaves the machine. With
  ``--introducer`` the discovery loop runs, knows that introducer and nothing else, and takes
  private addresses;
* loopback counts as a foreign address. chia-blockchain never bans 127.0.0.1, never limits its
  rate and sets it no handshake deadline, which would hide every consequence this program exists
  to show. ``--spare-loopback`` restores the exemption. Bans are per host, so a banned peer on
  loopback shuts out every other peer on loopback until the ban ends.

Everything observed is observed by wrapping methods; no wrapper changes an argument or a result.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import os
import secrets
import signal
import sys
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import chia.full_node.full_node_api
import chia.server.server
import chia.server.ws_connection
import chia.util.network
from aiohttp import web
from aiohttp._websocket.writer import WebSocketWriter
from chia.consensus.constants import replace_str_to_bytes
from chia.consensus.default_constants import DEFAULT_CONSTANTS, update_testnet_overrides
from chia.full_node.start_full_node import create_full_node_service
from chia.protocols.full_node_protocol import NewPeak, NewTransaction, RespondPeers
from chia.protocols.outbound_message import NodeType, make_msg
from chia.protocols.protocol_message_types import ProtocolMessageTypes
from chia.protocols.shared_protocol import Handshake
from chia.server.node_discovery import FullNodeDiscovery
from chia.server.server import ChiaServer
from chia.server.ws_connection import WSChiaConnection
from chia.ssl.create_ssl import create_all_ssl
from chia.types.peer_info import PeerInfo, TimestampedPeerInfo
from chia.util.chia_version import chia_short_version
from chia.util.config import create_default_chia_config, load_config
from chia.util.network import WebServer
from chia_rs.sized_bytes import bytes32
from chia_rs.sized_ints import uint16, uint32, uint64, uint128
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# chia-blockchain has no type stubs: its objects are Any throughout this module.

DIAL_RETRY_SECS = 3.0
"""What chia-blockchain's own service waits between attempts at a configured peer."""


class Journal:
    """Write events as lines of JSON and keep the counts for the summary."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self.counts: dict[str, Counter[str]] = {
            "received": Counter(),
            "sent": Counter(),
            "frames_sent": Counter(),
            "closed": Counter(),
        }
        self.totals: Counter[str] = Counter()

    def event(self, name: str, **fields: Any) -> None:
        """Write one event.

        :param name: value of the key ``event``.
        :param fields: anything JSON can hold; other values are written as their ``str()``.
        """
        self.totals[name] += 1
        record = {"event": name, "at": self.seconds(), **fields}
        print(json.dumps(record, default=str), file=self._stream, flush=True)

    def seconds(self) -> float:
        """Seconds since the program started, to the millisecond."""
        return round(time.monotonic() - self._started, 3)


class JournalHandler(logging.Handler):
    """Turn chia-blockchain's log records into events."""

    def __init__(self, journal: Journal, level: int) -> None:
        super().__init__(level)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, first 600 characters of it."""
        text = record.getMessage()[:600]
        self._journal.event("log", level=record.levelname, logger=record.name, text=text)


class Observer:
    """Wrap the methods of chia-blockchain and aiohttp that show what happens on the wire."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._ends: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Put every wrapper in place; they stay for the life of the process."""
        wrap(WSChiaConnection, "_read_one_message", self._read)
        wrap(WSChiaConnection, "_send_message", self._send)
        wrap(WSChiaConnection, "close", self._close)
        wrap(ChiaServer, "connection_added", self._added)
        wrap(ChiaServer, "connection_closed", self._closed)
        wrap(ChiaServer, "incoming_connection", self._incoming)
        wrap(ChiaServer, "start_client", self._dialed)
        for websocket in (aiohttp.ClientWebSocketResponse, web.WebSocketResponse):
            wrap(websocket, "receive", self._receive)
        wrap(WebSocketWriter, "send_frame", self._frame)
        original = ChiaServer.ban_peer

        @functools.wraps(original)
        def ban_peer(server: Any, host: str, ban_time: int) -> None:
            self.journal.event("banned", host=host, seconds=ban_time)
            original(server, host, ban_time)

        ChiaServer.ban_peer = ban_peer

    async def _read(self, original: Any, connection: Any) -> Any:
        message = await original(connection)
        if message is None:
            return None
        name = message_name(message.type)
        self.journal.counts["received"][name] += 1
        peer = str(connection.peer_node_id)
        size = len(message.data)
        self.journal.event("received", message=name, id=message.id, size=size, peer_node_id=peer)
        with contextlib.suppress(ValueError):  # malformed: chia-blockchain judges it next
            if name == "handshake":
                self._handshake(connection, Handshake.from_bytes(message.data))
            elif name == "respond_peers":
                rows = RespondPeers.from_bytes(message.data).peer_list
                peers = [{"host": r.host, "port": r.port, "timestamp": r.timestamp} for r in rows]
                self.journal.event(
                    "peers_answer",
                    peer_node_id=peer,
                    id=message.id,
                    count=len(rows),
                    peers=peers[:20],
                )
        return message

    def _handshake(self, connection: Any, handshake: Any) -> None:
        self.journal.event(
            "handshake",
            peer_node_id=str(connection.peer_node_id),
            direction=direction(connection),
            network_id=handshake.network_id,
            protocol_version=handshake.protocol_version,
            software_version=handshake.software_version,
            server_port=handshake.server_port,
            node_type=handshake.node_type,
            capabilities=[[int(code), value] for code, value in handshake.capabilities],
        )

    async def _send(self, original: Any, connection: Any, message: Any, **kwargs: Any) -> Any:
        name = message_name(message.type)
        before = connection.bytes_written
        result = await original(connection, message, **kwargs)
        if connection.bytes_written == before:
            self.journal.event("held_back", message=name, peer_node_id=str(connection.peer_node_id))
        else:
            self.journal.counts["sent"][name] += 1
            self.journal.event(
                "sent", message=name, id=message.id, peer_node_id=str(connection.peer_node_id)
            )
        return result

    async def _receive(self, original: Any, ws: Any, *args: Any, **kwargs: Any) -> Any:
        message = await original(ws, *args, **kwargs)
        if message.type is aiohttp.WSMsgType.CLOSE:
            self._ends.setdefault(ws, {"by": "peer", "code": message.data, "reason": message.extra})
        elif message.type is aiohttp.WSMsgType.ERROR:
            self._ends.setdefault(ws, {"by": "error", "reason": repr(message.data)})
        elif message.type is aiohttp.WSMsgType.CLOSED:
            self._ends.setdefault(ws, {"by": "peer", "code": None, "reason": "no close frame"})
        elif message.type is aiohttp.WSMsgType.TEXT:
            self.journal.event("text_frame", size=len(message.data))
        return message

    async def _frame(
        self, original: Any, writer: Any, message: Any, opcode: Any, *args: Any, **kwargs: Any
    ) -> Any:
        result = await original(writer, message, opcode, *args, **kwargs)
        name = aiohttp.WSMsgType(opcode).name.lower()
        self.journal.counts["frames_sent"][name] += 1
        if name == "pong":
            self.journal.event("ping_answered", size=len(message))
        elif name == "ping":
            self.journal.event("ping_sent")
        return result

    async def _close(
        self,
        original: Any,
        connection: Any,
        ban_time: int = 0,
        ws_close_code: Any = aiohttp.WSCloseCode.OK,
        error: Any = None,
    ) -> None:
        reason = "" if error is None else f"{error.value} {error.name}"
        self._ends.setdefault(
            connection.ws, {"by": "us", "code": int(ws_close_code), "reason": reason}
        )
        self._ends[connection.ws].setdefault("ban_asked", ban_time)
        await original(connection, ban_time, ws_close_code, error)

    async def _added(self, original: Any, server: Any, connection: Any, on_connect: Any) -> None:
        certificate = connection._get_extra_info("ssl_object").getpeercert(True)
        self.journal.event(
            "connected",
            peer_node_id=str(connection.peer_node_id),
            peer_id=spki_id(x509.load_der_x509_certificate(certificate)),
            direction=direction(connection),
            host=connection.peer_info.host,
            port=connection.peer_info.port,
            server_port=connection.peer_server_port,
            peer_version=connection.version,
            protocol_version=str(connection.protocol_version),
            type=connection.connection_type.name,
            tls=connection.get_tls_version(),
            capabilities=[capability.name for capability in connection.peer_capabilities],
            replaces=connection.peer_node_id in server.all_connections,
        )
        await original(server, connection, on_connect)

    async def _closed(
        self, original: Any, server: Any, connection: Any, ban_time: int, **kwargs: Any
    ) -> None:
        await original(server, connection, ban_time, **kwargs)
        if kwargs.get("closed_connection"):
            return
        end = self._ends.get(connection.ws, {})
        self.journal.counts["closed"][str(end.get("by"))] += 1
        self.journal.event(
            "closed",
            peer_node_id=str(connection.peer_node_id),
            direction=direction(connection),
            type=None if connection.connection_type is None else connection.connection_type.name,
            final_code=connection.ws.close_code,
            exception=None if (failed := connection.ws.exception()) is None else repr(failed),
            lasted=round(time.time() - connection.creation_time, 3),
            **end,
        )

    async def _incoming(self, original: Any, server: Any, request: Any) -> Any:
        try:
            return await original(server, request)
        except web.HTTPException as refusal:
            self.journal.event(
                "refused", host=request.remote, status=refusal.status, reason=refusal.reason
            )
            raise

    async def _dialed(
        self, original: Any, server: Any, target: Any, *args: Any, **kwargs: Any
    ) -> bool:
        ok = bool(await original(server, target, *args, **kwargs))
        self.journal.event("dialed", host=target.host, port=target.port, ok=ok)
        return ok


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a coroutine method by ``wrapper(original, self, ...)``."""
    original = getattr(owner, name)

    @functools.wraps(original)
    async def replacement(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await wrapper(original, self, *args, **kwargs)

    setattr(owner, name, replacement)


def message_name(number: int) -> str:
    """The protocol's name of an opcode, or its number."""
    try:
        return str(ProtocolMessageTypes(number).name)
    except ValueError:
        return str(number)


def direction(connection: Any) -> str:
    """Say who dialed, as seen from this node."""
    return "outbound" if connection.is_outbound else "inbound"


def spki_id(certificate: x509.Certificate) -> str:
    """The id that the other side of the project uses: SHA-256 of the public key's DER, in hex."""
    key = certificate.public_key()
    return hashlib.sha256(
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def stop_sparing_loopback() -> None:
    """Make every loaded module of chia-blockchain treat 127.0.0.1 as any other address."""
    original = chia.util.network.is_localhost
    for name, module in list(sys.modules.items()):
        if name.startswith("chia.") and getattr(module, "is_localhost", None) is original:
            vars(module)["is_localhost"] = lambda host: False


def stay_on_loopback(host: str, *, discover: bool = False) -> None:
    """Listen on one host only, and let nothing dial but ``--dial``.

    :param discover: let the discovery loop run.
    """
    create = WebServer.create

    async def create_on_host(**kwargs: Any) -> Any:
        return await create(**(kwargs | {"hostname": host}))

    WebServer.create = create_on_host

    async def connect_to_peers(discovery: Any, random: Any) -> None:
        await asyncio.Event().wait()

    async def get_peer_info(server: Any) -> None:
        return None

    ChiaServer.get_peer_info = get_peer_info  # it would ask web servers for our address
    if not discover:
        FullNodeDiscovery._connect_to_peers = connect_to_peers


class Node:
    """One full node of chia-blockchain in a root directory of its own.

    :param root: empty or made by an earlier run; keeps certificates and databases.
    :param network: name of the network in chia-blockchain's configuration, ``mainnet`` for one.
    :param port: TCP port, 0 for any free one.
    :param introducer: host and port of the only introducer it knows.
    """

    def __init__(
        self,
        journal: Journal,
        root: Path,
        network: str,
        port: int,
        introducer: tuple[str, int] | None = None,
    ) -> None:
        self._introducer = introducer
        self.journal = journal
        self._root = root
        self._network = network
        self._port = port
        self._service: Any = None

    @property
    def server(self) -> Any:
        """The running ``ChiaServer``."""
        return self._service._server

    @property
    def _node(self) -> Any:
        return self._service._node

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the node, report where it listens, and stop it on leaving."""
        if not (self._root / "config" / "config.yaml").exists():
            create_default_chia_config(self._root)
            create_all_ssl(
                self._root, private_node_names=["full_node"], public_node_names=["full_node"]
            )
        config = load_config(self._root, "config.yaml")
        settings = config["full_node"]
        settings |= {
            "port": self._port,
            "selected_network": self._network,
            "start_rpc_server": False,
            "enable_upnp": False,
            "dns_servers": [],
            "introducer_peer": self._introducer_peer(),
            "single_threaded": True,
        }
        overrides = settings["network_overrides"]["constants"][self._network]
        update_testnet_overrides(self._network, overrides)
        constants = replace_str_to_bytes(DEFAULT_CONSTANTS, **overrides)
        self._service = await create_full_node_service(
            self._root, config, constants, connect_to_daemon=False
        )
        async with self._service.manage():
            certificate = x509.load_pem_x509_certificate(
                (self._root / settings["ssl"]["public_crt"]).read_bytes()
            )
            self.journal.event(
                "listening",
                port=int(self.server.get_port()),
                node_id=str(self.server.node_id),
                peer_id=spki_id(certificate),
                network_id=self._network,
                version=chia_short_version(),
                pid=os.getpid(),
            )
            yield

    def _introducer_peer(self) -> dict[str, Any] | None:
        if self._introducer is None:
            return None
        host, port = self._introducer
        return {"host": host, "port": port, "enable_private_networks": True}

    async def dial(self, host: str, port: int, *, feeler: bool) -> None:
        """Dial as the discovery loop does, again and again until it succeeds once."""
        peers = self._node.full_node_peers
        target = PeerInfo(host, uint16(port))
        while not await self.server.start_client(
            target, on_connect=peers.on_connect_callback, is_feeler=feeler
        ):
            await asyncio.sleep(DIAL_RETRY_SECS)
        await peers.address_manager.mark_good(target)
        await peers.address_manager.connect(target)

    async def remember(self, host: str, port: int) -> None:
        """Put an address into the address manager, as if a peer had told it."""
        row = TimestampedPeerInfo(host, uint16(port), uint64(int(time.time())))
        await self._node.full_node_peers.address_manager.add_to_new_table([row], None, 0)

    def pretend_to_sync(self) -> None:
        """Enter sync mode: peaks that peers announce are noted and not fetched."""
        self._node.sync_store.set_sync_mode(True)

    async def announce(self, kind: str, every: float) -> None:
        """Send an invented peak or transaction to every full node, periodically.

        :param kind: ``peak`` or ``transaction``.
        :param every: seconds between two announcements.
        """
        height = 5_000_000
        while True:
            await asyncio.sleep(every)
            height += 1
            if kind == "peak":
                body = NewPeak(
                    bytes32(secrets.token_bytes(32)),
                    uint32(height),
                    uint128(height * 1000),
                    uint32(height - 1),
                    bytes32(secrets.token_bytes(32)),
                )
                message = make_msg(ProtocolMessageTypes.new_peak, body)
            else:
                notice = NewTransaction(
                    bytes32(secrets.token_bytes(32)), uint64(10_000_000), uint64(1_000_000)
                )
                message = make_msg(ProtocolMessageTypes.new_transaction, notice)
            await self.server.send_to_all([message], NodeType.FULL_NODE)

    def connections(self) -> list[dict[str, Any]]:
        """What the server holds now, one row a connection."""
        return [
            {
                "peer_node_id": str(node_id),
                "direction": direction(connection),
                "type": connection.connection_type.name,
                "age": round(time.time() - connection.creation_time, 3),
                "bytes_read": connection.bytes_read,
                "bytes_written": connection.bytes_written,
            }
            for node_id, connection in self.server.all_connections.items()
        ]


def address(text: str) -> tuple[str, int]:
    """Read ``host:port``; the host may be a bracketed IPv6 address."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"not host:port: {text}")
    return host.strip("[]"), int(port)


def parse_options(extend: Callable[[argparse.ArgumentParser], None]) -> argparse.Namespace:
    """Read the command line.

    :param extend: adds options.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--listen", type=address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    add("--dial", type=address, action="append", default=[], metavar="HOST:PORT")
    add("--feeler", action="store_true", help="dial as a feeler: leave after the handshake")
    add("--introducer", type=address, metavar="HOST:PORT",
        help="where its discovery loop, off otherwise, finds nodes; not on mainnet, where it would"
        " ask DNS servers first")  # fmt: skip
    add("--know", type=address, action="append", default=[], metavar="HOST:PORT",
        help="an address that the node hands out when asked for peers")  # fmt: skip
    add("--network", default="mainnet", help="mainnet, testnet11, ...")
    add("--seconds", type=float, default=0.0, help="stop after this long; 0: on SIGTERM")
    add("--send-peak-every", type=float, default=0.0, metavar="SECONDS")
    add("--send-transaction-every", type=float, default=0.0, metavar="SECONDS")
    add("--syncing", action="store_true", help="note peaks of peers without fetching blocks")
    add("--spare-loopback", action="store_true", help="never ban or limit 127.0.0.1")
    add("--root", type=Path, help="root directory to keep; a temporary one otherwise")
    add("--log-level", default="WARNING", help="lowest level of chia's log shown as events")
    extend(parser)
    return parser.parse_args()


async def serve(options: argparse.Namespace, journal: Journal, root: Path) -> None:
    """Run one node until a signal or the deadline."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    host, port = options.listen
    stay_on_loopback(host, discover=options.introducer is not None)
    if not options.spare_loopback:
        stop_sparing_loopback()
    Observer(journal).install()
    node = Node(journal, root, options.network, port, options.introducer)
    async with node.running():
        if options.syncing:
            node.pretend_to_sync()
        for known in options.know:
            await node.remember(*known)
        work = [node.dial(*target, feeler=options.feeler) for target in options.dial]
        if options.send_peak_every:
            work.append(node.announce("peak", options.send_peak_every))
        if options.send_transaction_every:
            work.append(node.announce("transaction", options.send_transaction_every))
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        for task in tasks:
            task.add_done_callback(functools.partial(report_failure, journal))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), options.seconds or None)
        for task in tasks:
            task.cancel()
        journal.event(
            "summary",
            connections=node.connections(),
            counts=journal.counts,
            totals=dict(journal.totals),
        )
    journal.event("stopped")


def report_failure(journal: Journal, task: asyncio.Task[None]) -> None:
    """Say so when a task of this program has failed."""
    if not task.cancelled() and (error := task.exception()) is not None:
        journal.event("failure", error=repr(error))


Serve = Callable[[argparse.Namespace, Journal, Path], Coroutine[Any, Any, None]]


def main(
    serve: Serve = serve, extend: Callable[[argparse.ArgumentParser], None] = lambda parser: None
) -> int:
    """Run the program, or another of its kind; standard output carries events only.

    :param serve: what it does.
    :param extend: adds options to its command line.
    """
    options = parse_options(extend)
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    journal = Journal(stream)
    level = logging.getLevelName(options.log_level)
    logging.basicConfig(level=level, handlers=[JournalHandler(journal, level)], force=True)
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        root = options.root or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="chia-node-"))
        )
        asyncio.run(serve(options, journal, root.resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
