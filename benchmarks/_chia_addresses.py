"""chia-blockchain's ``AddressManager`` at the workload of ``address_manager.py``.

Imports chia-blockchain and the standard library only; run it by path, with the Python that
``tests.interop.environment`` makes. Reads rows as JSON from standard input, writes seconds of the
processor as JSON.
Its coroutines are driven to the end of the work in one event loop, without anything else in it.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import asyncio
import io
import json
import sys
from time import process_time
from typing import Any

from chia.server.address_manager import AddressManager
from chia.types.peer_info import PeerInfo, TimestampedPeerInfo
from chia_rs.sized_ints import uint16, uint64


async def measure(work: dict[str, Any]) -> dict[str, float]:
    """Add, select, save, load."""
    manager = AddressManager()
    batches = [
        (
            PeerInfo(batch["source"], uint16(8444)),
            [TimestampedPeerInfo(host, uint16(8444), uint64(when)) for host, when in batch["rows"]],
        )
        for batch in work["batches"]
    ]
    began = process_time()
    for source, rows in batches:
        await manager.add_to_new_table(rows, source, 0)
    added = process_time()
    for _ in range(work["selections"]):
        await manager.select_peer()
    selected = process_time()
    for host in work["good"]:
        await manager.mark_good(PeerInfo(host, uint16(8444)))
    marked = process_time()
    data = manager.serialize_bytes()
    saved = process_time()
    AddressManager.deserialize_bytes(io.BytesIO(data))
    loaded = process_time()
    return {
        "add": added - began,
        "select": selected - added,
        "mark_good": marked - selected,
        "save": saved - marked,
        "load": loaded - saved,
        "bytes": len(data),
        "entries": len(manager.map_info),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(json.load(sys.stdin)))))
