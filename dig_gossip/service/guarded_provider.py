"""The application's compact block provider, with its exceptions caught.

Source: behaviour §23, CNC-103-X.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.logger import Logger
from zope.interface import implementer

from dig_gossip.errors import InvalidConfig
from dig_gossip.gossip.compact_provider import ICompactBlockProvider, SplitBlock
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import RoutingClass, opcode_name, routing_class

T = TypeVar("T")


@implementer(ICompactBlockProvider)
class GuardedProvider:
    """A provider that never raises: what goes wrong is logged and counts as None.

    :raises InvalidConfig: it does not implement the interface, or names opcodes that are neither
        spread nor an answer.
    """

    _log = Logger()

    def __init__(self, provider: ICompactBlockProvider) -> None:
        if not ICompactBlockProvider.providedBy(provider):
            raise InvalidConfig("provider: must implement ICompactBlockProvider")
        self._provider = provider
        self.opcodes = frozenset(provider.opcodes)
        for opcode in self.opcodes:
            if routing_class(opcode, False) is not RoutingClass.FLOOD:
                raise InvalidConfig(f"provider: {opcode_name(opcode)} does not spread")

    def split(self, message: Message) -> SplitBlock | None:
        return self._ask(self._provider.split, message)

    def join(
        self, header_hash: bytes, height: int, header: bytes, txs: Sequence[bytes]
    ) -> Message | None:
        return self._ask(self._provider.join, header_hash, height, header, txs)

    def header_hash(self, header: bytes) -> bytes | None:
        return self._ask(self._provider.header_hash, header)

    def tx_id(self, transaction: bytes) -> bytes | None:
        return self._ask(self._provider.tx_id, transaction)

    def mempool(self) -> tuple[bytes, ...]:
        # A copy: what the application yields may depend on what it does meanwhile.
        return self._ask(lambda: tuple(self._provider.mempool())) or ()

    def transaction(self, tx_id: bytes) -> bytes | None:
        return self._ask(self._provider.transaction, tx_id)

    def block_request(self, header_hash: bytes, height: int) -> Any:
        return self._ask(self._provider.block_request, header_hash, height)

    def _ask(self, function: Callable[..., T | None], *arguments: Any) -> T | None:
        try:
            return function(*arguments)
        except Exception:
            self._log.failure("a compact block provider failed", event="provider_failed")
            return None
