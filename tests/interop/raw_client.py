"""Greet a node as a stranger would, and try its WebSocket framing, with none of our code.

Uses the ``websockets`` library, the ``ssl`` module and a certificate made on the spot.

``python -m tests.interop.raw_client HOST:PORT`` connects, greets, asks for peers and prints the
answers. With ``--cases`` it does what libraries refuse to do: after an honest greeting it sends
frames built byte by byte, valid and invalid, and judges the reaction (``raw_cases``).

Output is one JSON object a line; the exit status is 1 if anything was not as expected.
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import json
import sys
from pathlib import Path

import websockets.asyncio.client
from websockets.exceptions import WebSocketException

from tests.interop.raw_cases import cases, perform
from tests.interop.raw_link import (
    HANDSHAKE,
    REQUEST_PEERS,
    RESPOND_PEERS,
    Target,
    Unexpected,
    describe_handshake,
    describe_peers,
    pack_handshake,
    pack_message,
    spki_id,
    tls_context,
    unpack_message,
)


def report(**fields: object) -> None:
    """Print one JSON object."""
    print(json.dumps(fields), flush=True)


async def greet(target: Target) -> int:
    """Greet the node, ask it for peers, print both answers.

    With asyncio: the library's client for threads reads and writes one TLS session in two threads,
    which OpenSSL does not allow and Python 3.11 does not prevent.
    """
    shown = f"[{target.host}]" if ":" in target.host else target.host
    try:
        async with websockets.asyncio.client.connect(
            f"wss://{shown}:{target.port}/ws",
            ssl=tls_context(target),
            compression=None,
            proxy=None,
            ping_interval=None,
            open_timeout=target.timeout,
        ) as link:
            session = link.transport.get_extra_info("ssl_object")
            certificate = session.getpeercert(True)
            assert certificate is not None
            report(event="tls", version=session.version(), peer_id=spki_id(certificate))
            await link.send(pack_handshake(target.network, target.node_type))
            answer = await _wait_for(link, HANDSHAKE, None, target.timeout)
            report(event="handshake", **describe_handshake(answer))
            await link.send(pack_message(REQUEST_PEERS, 7))
            peers = describe_peers(await _wait_for(link, RESPOND_PEERS, 7, target.timeout))
            report(event="peers", id=7, count=len(peers), peers=peers[:20])
    except (WebSocketException, OSError, Unexpected) as error:
        report(event="failed", reason=f"{type(error).__name__}: {error}")
        return 1
    return 0


async def _wait_for(
    link: websockets.asyncio.client.ClientConnection, kind: int, ident: int | None, timeout: float
) -> bytes:
    async with asyncio.timeout(timeout):
        while True:
            raw = await link.recv()
            if isinstance(raw, str):
                raise Unexpected("text frame")
            message = unpack_message(raw)
            if (message.type, message.id) == (kind, ident):
                return message.data
            report(event="message", type=message.type, id=message.id, size=len(message.data))


def run_cases(target: Target, pattern: str, skipped: list[str]) -> int:
    """Run the chosen cases; print a line for each and one for all."""
    chosen = [
        case for case in cases() if fnmatch.fnmatch(case.name, pattern) and case.name not in skipped
    ]
    failed = []
    for number, case in enumerate(chosen, 1):
        observed = perform(case, target, number)
        ok = observed in case.expected
        if not ok:
            failed.append(case.name)
        report(case=case.name, expected=" or ".join(case.expected), observed=observed, ok=ok)
    report(cases=len(chosen), failed=failed)
    return 1 if failed or not chosen else 0


def address(text: str) -> tuple[str, int]:
    """Read ``host:port``; the host may be a bracketed IPv6 address."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"not host:port: {text}")
    return host.strip("[]"), int(port)


def main(arguments: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("target", type=address, metavar="HOST:PORT")
    add("--network", default="mainnet", help="network id of the handshake")
    add("--node-type", type=int, default=1, help="node type of the greeting: 1 or 6")
    add("--cert", type=Path, help="PEM certificate to present instead of a self-made one")
    add("--key", type=Path, help="PEM key of --cert")
    add("--timeout", type=float, default=5.0, help="seconds to wait for any one thing")
    add("--cases", action="store_true", help="try the WebSocket framing")
    add("--only", default="*", metavar="PATTERN", help="cases whose name matches")
    add("--skip", default=[], action="append", metavar="CASE", help="all but this case")
    options = parser.parse_args(arguments)
    host, port = options.target
    target = Target(
        host,
        port,
        network=options.network,
        node_type=options.node_type,
        timeout=options.timeout,
        certificate=options.cert,
        key=options.key,
    )
    if options.cases:
        return run_cases(target, options.only, options.skip)
    return asyncio.run(greet(target))


if __name__ == "__main__":
    sys.exit(main())
