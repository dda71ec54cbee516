"""An end that reaches its peer through a relay only; an environment variable says which.

Everything else is that of ``_dig_end.py``: the application sees no difference.
"""

from __future__ import annotations

import os
from typing import Any

from _dig_end import UNICAST, DigEnd
from _twisted_end import main, run

from dig_gossip import GossipConfig, GossipService, PeerOptions, RelayConfig

RELAY = "DIG_BENCHMARK_RELAY"


class RelayedEnd(DigEnd):
    """A node that nobody is to dial."""

    async def listen(self) -> dict[str, Any]:
        config = GossipConfig(
            listen_addr="127.0.0.1:0",
            peers_file_path=None,
            peer_options=PeerOptions(enforce_rate_limits=False),
            relay=RelayConfig(
                endpoint=os.environ[RELAY],
                prefer_relay=True,
                advertise=False,
                hole_punching=False,
                is_paced=False,
            ),
        )
        self._service = GossipService(config, identity=self.identity)
        self._handle = await self._service.start()
        run(self._deliver(self._handle.inbound_receiver()))
        return {"port": 0, "network": config.handshake_string, "answer": UNICAST}

    async def dial(self, port: int) -> None:
        while not await self._handle.peer_count():
            await self.pause(0.05)
        await self.meet()


if __name__ == "__main__":
    main(RelayedEnd)
