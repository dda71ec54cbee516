"""What may be said to a plain Chia peer, so that it neither drops nor bans us; pure.

A Chia node ends the connection, and bans the host for 10 to 300 seconds, when a message

* has an opcode that it does not know, or that a node of its kind does not take;
* has an opcode that only nodes of another kind than ours may send (we are a full node to it);
* is a block, or the refusal of one, that it did not ask for.

So each message is checked here against the peer's kind, and each answer against the requests that
the peer has made. What is not said is refused where it is sent (``WrongDispatch``), or left out of
a broadcast.

Source: design D5, D6, D15; wire §4.2, §6, §7; chia-blockchain 2.7.5 ``full_node_api.py``,
``wallet_node_api.py``, ``ws_connection.py``.
"""

from __future__ import annotations

from typing import Final

from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.types.peer import NodeType
from dig_gossip.wire.handshake import Capability
from dig_gossip.wire.opcodes import ChiaMessageType as _C
from dig_gossip.wire.opcodes import RoutingClass, routing_class

#: Requests of a peer that we remember; an answer to an older one is not sent.
MAX_ASKED: Final = 1024

#: Answers that a full node bans for unless they carry the id of its request.
_NEVER_UNASKED: Final = frozenset(
    {_C.RESPOND_BLOCK, _C.REJECT_BLOCK, _C.RESPOND_BLOCKS, _C.REJECT_BLOCKS}
)
#: What a full node takes from a full node.
TO_FULL_NODE: Final = frozenset(
    {
        *range(_C.NEW_PEAK, _C.RESPOND_PEERS + 1),
        _C.NEW_UNFINISHED_BLOCK2,
        _C.REQUEST_UNFINISHED_BLOCK2,
    }
)
#: What a wallet takes from a full node without a request.
TO_WALLET: Final = frozenset(
    {_C.NEW_PEAK_WALLET, _C.COIN_STATE_UPDATE, _C.TRANSACTION_ACK, _C.RESPOND_PEERS}
)
_MEMPOOL_UPDATES: Final = frozenset({_C.MEMPOOL_ITEMS_ADDED, _C.MEMPOOL_ITEMS_REMOVED})

_IS_ANSWER: Final = tuple(
    routing_class(opcode, True) is RoutingClass.RESPONSE for opcode in range(256)
)


class Etiquette:
    """The manners of one plain Chia session.

    Bounds: 1024 remembered requests of the peer, the oldest goes first. Cost of each call: O(1).

    :param remote: the peer's handshake.
    """

    __slots__ = ("_asked", "_unasked", "_with_id")

    def __init__(self, remote: RemoteHandshake) -> None:
        self._asked: dict[int, None] = {}
        if remote.node_type == NodeType.WALLET:
            self._unasked = TO_WALLET
            if remote.has(Capability.MEMPOOL_UPDATES):
                self._unasked |= _MEMPOOL_UPDATES
            self._with_id = self._unasked
        else:
            self._unasked = TO_FULL_NODE - _NEVER_UNASKED
            self._with_id = frozenset(op for op in TO_FULL_NODE if not _IS_ANSWER[op])

    def asked(self, message_id: int) -> None:
        """The peer has sent a request of its own with this id."""
        asked = self._asked
        asked.pop(message_id, None)  # ids wrap
        if len(asked) >= MAX_ASKED:
            del asked[next(iter(asked))]
        asked[message_id] = None

    def may_send(self, opcode: int, message_id: int | None) -> bool:
        """Whether the peer puts up with a message.

        An answer to a request is taken to be sent: it may be sent once.

        :param opcode: 0..255.
        :param message_id: its correlation id, if it has one.
        """
        if message_id is None:
            return opcode in self._unasked
        if not _IS_ANSWER[opcode]:
            return opcode in self._with_id
        if message_id not in self._asked:
            return False
        del self._asked[message_id]
        return True
