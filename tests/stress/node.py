"""The node under attack, in a process of its own, with its default limits."""

from __future__ import annotations

import gc
from typing import Any

from dig_gossip import GossipConfig, GossipService
from tests.stress.obeying import Answer, obey, resident, run, say


async def main(reactor: Any) -> None:  # Any: all interfaces
    """Listen; tell what there is when asked."""
    service = GossipService(GossipConfig(listen_addr="127.0.0.1:0", peers_file_path=None))
    handle = await service.start()

    async def look(do: str) -> Answer:
        gc.collect()
        stats = await handle.stats()
        removed = sum(count for name, count in stats.extra.items() if name.startswith("removed."))
        return {
            "resident": resident(),
            "sessions": stats.connected_peers,
            "openings": stats.extra["openings"],
            "removed": removed,
            "counters": {
                name: count
                for name, count in stats.extra.items()
                if name.startswith(("accept_refused", "opening_failed", "penalty", "removed"))
            },
        }

    say(port=service.listen_address.port)
    await obey(look)
    await service.stop()


if __name__ == "__main__":
    run(main)
