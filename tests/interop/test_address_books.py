"""Address books that go from one program to the other."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.discovery.chia_peers import build_chia_book, parse_foreign_book
from dig_gossip.discovery.values import KnownAddress
from dig_gossip.types.peer import PeerAddress
from tests.interop.environment import chia_python

_LOAD = """
import asyncio, json, sys
from pathlib import Path
from chia.server.address_manager import AddressManager
async def main():
    manager = await AddressManager.create_address_manager(Path(sys.argv[1]))
    rows = [
        (info.peer_info.host, info.peer_info.port, info.timestamp, info.is_tried, info.src.host)
        for info in manager.map_info.values()
    ]
    Path(sys.argv[2]).write_bytes(manager.serialize_bytes())
    print(json.dumps([manager.new_count, manager.tried_count, rows]))
asyncio.run(main())
"""


class ChiaBookTests(SynchronousTestCase):
    """chia-blockchain's own ``AddressManager``."""

    def test_chia_loads_what_we_export_and_we_load_what_it_writes(self) -> None:
        """All entries but those that its tables have no room for.  wire §17.3"""
        python = chia_python()
        now = int(time.time())
        manager = AddressManager(rng=Random(3), unix=lambda: now, key=bytes(range(32)))
        addresses = [PeerAddress(f"20.{n % 250}.{n // 250}.1", 8444) for n in range(2000)]
        for n, address in enumerate(addresses):
            source = PeerAddress(f"21.{n % 100}.1.1", 8444)
            manager.add_to_new_table([KnownAddress(address, now - n)], source)
        for address in addresses[:50]:
            manager.mark_good(address)
        ours = {info.address.host: info for info in manager.snapshot().entries}

        exported, rewritten = Path(self.mktemp()), Path(self.mktemp())
        exported.write_bytes(build_chia_book(ours.values(), bytes(range(1, 33))))
        command = [str(python), "-c", _LOAD, str(exported), str(rewritten)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        new, tried, rows = json.loads(done.stdout)
        self.assertGreater(tried, 40)
        self.assertGreater(new, 0.95 * manager.size_new)
        for host, port, timestamp, is_tried, source in rows:
            info = ours[host]
            self.assertEqual(
                (port, timestamp, is_tried, source),
                (info.address.port, info.timestamp, info.is_tried, info.source.host),
            )

        again = parse_foreign_book(rewritten.read_bytes())
        self.assertEqual(
            {(row.known.address.host, row.known.timestamp) for row in again},
            {(host, timestamp) for host, _, timestamp, _, _ in rows},
        )
