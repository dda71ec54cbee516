"""Connections that lead to nothing, of five kinds in turn, each from another loopback address.

========== ========================================================================
silence    TCP and nothing else
half TLS   a ClientHello, then nothing
no hello   TLS and the WebSocket, then nothing
slow bytes a ClientHello, a byte at a time
garbage    random bytes
========== ========================================================================

Most hang up after up to two seconds; one in twenty stays until the node ends it. The standard
library's asyncio and OpenSSL, none of the package's code.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.interop.raw_link import make_certificate

KINDS = ("silence", "half TLS", "no hello", "slow bytes", "garbage")
STAYS = 1 / 20
LONGEST_SECS = 40.0
REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Attacker:
    """All attempts."""

    def __init__(self, port: int, attempts: int, rate: float, *, stay: bool) -> None:
        self._port = port
        self._attempts = attempts
        self._gap = 1 / rate
        self._stays = STAYS if stay else 0.0
        self._rng = random.Random(attempts)
        self._context = self._make_context()
        self.counts: Counter[str] = Counter()

    @staticmethod
    def _make_context() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with tempfile.TemporaryDirectory(prefix="attacker-") as folder:
            files = Path(folder, "cert.pem"), Path(folder, "key.pem")
            for path, content in zip(files, make_certificate(), strict=True):
                path.write_bytes(content)
            context.load_cert_chain(*files)
        return context

    async def run(self) -> None:
        """Open connections at the given rate; wait until the last is gone."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        tasks = []
        for number in range(self._attempts):
            await asyncio.sleep(max(0.0, began + number * self._gap - loop.time()))
            tasks.append(asyncio.create_task(self._attempt(number)))
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, BaseException):
                self.counts[type(outcome).__name__] += 1

    async def _attempt(self, number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        self.counts[kind] += 1
        stays = self._rng.random() < self._stays
        patience = LONGEST_SECS if stays else self._rng.uniform(0.1, 2.0)
        host = 1 + number % 250, number // 250 % 250
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(
                "127.0.0.1",
                self._port,
                local_addr=(f"127.{7 + number // 62_500}.{host[1]}.{host[0]}", 0),
                ssl=self._context if kind == "no hello" else None,
            ),
            LONGEST_SECS,
        )
        try:
            await asyncio.wait_for(self._behave(kind, reader, writer), patience)
            self.counts["ended by the node"] += 1
        except TimeoutError:
            pass
        finally:
            writer.transport.abort()

    async def _behave(
        self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if kind == "half TLS":
            writer.write(self._client_hello())
        elif kind == "no hello":
            writer.write(REQUEST)
        elif kind == "slow bytes":
            for byte in self._client_hello():
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
        elif kind == "garbage":
            writer.write(self._rng.randbytes(self._rng.randrange(1, 4096)))
        while await reader.read(65536):
            pass

    def _client_hello(self) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        half = self._context.wrap_bio(incoming, outgoing)
        try:
            half.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return outgoing.read()


def main() -> None:
    """Say that we are ready, wait for the word, attack, tell what came of it."""
    port, attempts, rate, stay = sys.argv[1:5]
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    attacker = Attacker(int(port), int(attempts), float(rate), stay=bool(int(stay)))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every end by the node
    if sys.stdin.readline():
        asyncio.run(attacker.run())
        print(json.dumps(attacker.counts), file=answers, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
