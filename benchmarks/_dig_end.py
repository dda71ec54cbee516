"""An end that is a node of this package, used as an application would."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from _twisted_end import TwistedEnd, main, run

from dig_gossip import GossipConfig, GossipService, Message, PeerOptions
from dig_gossip.service.gossip_handle import GossipHandle
from dig_gossip.service.subscriptions import Subscription
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType

#: For one peer, and delivered to the application as it is.
UNICAST = int(DigMessageType.RESPOND_STATUS)
#: Spreads through the tree.
GOSSIP = int(DigMessageType.NEW_ATTESTATION)

#: For an answer that waits for others before it.
PATIENCE_SECS = 120.0


class DigEnd(TwistedEnd):
    """A :class:`GossipService` with one subscription."""

    _service: GossipService
    _handle: GossipHandle
    _peer: PeerId
    _question: int | None = None

    async def listen(self) -> dict[str, Any]:
        config = GossipConfig(
            listen_addr="127.0.0.1:0",
            peers_file_path=None,
            max_connections=10_000,
            target_outbound_count=0,
            gossip_fanout=64,
            peer_options=PeerOptions(enforce_rate_limits=False),
        )
        self._service = GossipService(config, identity=self.identity)
        self._handle = await self._service.start()
        run(self._deliver(self._handle.inbound_receiver()))
        return {
            "port": self._service.listen_address.port,
            "network": config.handshake_string,
            "answer": UNICAST,
        }

    async def _deliver(self, inbound: Subscription) -> None:
        async for peer, message in inbound:
            self._question = message.id
            answer = self.receive(message.data)
            if answer is not None:
                await self._handle.send_to(peer, Message(UNICAST, None, answer))
            if inbound.lagged:
                raise RuntimeError(f"{inbound.lagged} messages were dropped")

    def send(self, data: bytes) -> Awaitable[object]:
        return self._handle.send_to(self._peer, Message(UNICAST, None, data))

    def spread(self, data: bytes) -> Awaitable[object]:
        return self._handle.broadcast(Message(GOSSIP, None, data))

    def send_urgent(self, data: bytes) -> Awaitable[object]:
        return self._handle.broadcast(Message(ChiaMessageType.NEW_PEAK, None, data))

    def send_bulk(self, data: bytes) -> Awaitable[object]:
        answer = Message(ChiaMessageType.RESPOND_BLOCKS, self._question, data)
        return self._handle.send_to(self._peer, answer)

    def ask(self, data: bytes) -> Awaitable[object]:
        return self._answer_to(data)

    async def _answer_to(self, data: bytes) -> None:
        # What the handle's request() does, except that it decodes the answer.
        session = self._service.node.peers.get(self._peer)
        replies = frozenset({int(ChiaMessageType.RESPOND_BLOCKS)})
        answer = await session.request(ChiaMessageType.REQUEST_BLOCKS, data, replies, PATIENCE_SECS)
        self.answered(answer.data)

    def frames(self) -> int:
        return self._service.node.peers.get(self._peer).messages_sent

    async def meet(self) -> None:
        (peer,) = await self._handle.connected_peers()
        self._peer = peer.peer_id

    async def dial(self, port: int) -> None:
        self._peer = await self._handle.connect_to(("127.0.0.1", port))

    async def hang_up(self) -> None:
        gone = self._service.node.transports.when_empty()
        await self._handle.disconnect(self._peer)
        await gone

    def sessions(self) -> int:
        return len(self._service.node.peers.table)


if __name__ == "__main__":
    main(DigEnd)
