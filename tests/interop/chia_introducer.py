"""Run chia-blockchain's own introducer on loopback and report every event as a line of JSON.

Everything that speaks is chia-blockchain's: ``Introducer``, ``IntroducerAPI``, ``ChiaServer``, its
certificates, its vetting. Run it by path, with the Python of ``tests.interop.environment``. What
differs from an introducer in the wild is what ``chia_node.py`` says of full nodes: it stays on
loopback, and loopback counts as a foreign address. It asks no DNS server for more nodes.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import chia_node
from chia.introducer.start_introducer import create_introducer_service
from chia.server.introducer_peers import IntroducerPeers
from chia.ssl.create_ssl import create_all_ssl
from chia.types.peer_info import PeerInfo
from chia.util.config import create_default_chia_config, load_config
from chia_rs.sized_ints import uint16, uint64

# chia-blockchain has no type stubs: its objects are Any throughout this module.


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    address = chia_node.address
    add("--listen", type=address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    add("--know", type=address, action="append", default=[], metavar="HOST:PORT",
        help="a node that counts as vetted")  # fmt: skip
    add("--network", default="testnet11", help="not mainnet, where it would ask DNS servers")
    add("--root", type=Path, help="root directory to keep; a temporary one otherwise")
    return parser.parse_args(arguments)


def report_registrations(journal: chia_node.Journal) -> None:
    """Write an event for each node that the introducer takes note of."""
    add = IntroducerPeers.add

    def reporting(peers: Any, peer: Any) -> bool:
        taken = bool(add(peers, peer))
        journal.event(
            "registered", taken=taken, host=peer and peer.host, port=peer and int(peer.port)
        )
        return taken

    IntroducerPeers.add = reporting


def know(peers: Any, host: str, port: int) -> None:
    """Let a node count as vetted, as after a probe."""
    peers.add(PeerInfo(host, uint16(port)))
    for peer in peers.get_peers():
        if (peer.host, peer.port) == (host, port):
            peer.vetted, peer.vetted_timestamp = 1, uint64(int(time.time()))


async def serve(options: argparse.Namespace, journal: chia_node.Journal, root: Path) -> None:
    """Run one introducer until a signal."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    host, port = options.listen
    chia_node.stay_on_loopback(host)
    chia_node.stop_sparing_loopback()
    chia_node.Observer(journal).install()
    report_registrations(journal)
    create_default_chia_config(root)
    create_all_ssl(root, private_node_names=["full_node"], public_node_names=["full_node"])
    config = load_config(root, "config.yaml")
    config["introducer"] |= {
        "port": port,
        "selected_network": options.network,
        "dns_servers": [],
    }
    service = create_introducer_service(root, config, connect_to_daemon=False)
    async with service.manage():
        for known in options.know:
            know(service._server.introducer_peers, *known)
        journal.event("listening", port=int(service._server.get_port()), pid=os.getpid())
        await stopped.wait()
        journal.event("summary", counts=journal.counts, totals=dict(journal.totals))
    journal.event("stopped")


def main() -> int:
    """Run the program; standard output carries events only."""
    options = parse_options()
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    journal = chia_node.Journal(stream)
    handler = chia_node.JournalHandler(journal, logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        root = options.root or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="chia-introducer-"))
        )
        asyncio.run(serve(options, journal, root.resolve()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
