"""What may be sent, and what may be broadcast: opcodes and sizes.

Whether a message may be broadcast is one look into a table; only when it may not, somebody finds
out why. Source: behaviour API-002.4, MSG-105-X; design D7.
"""

from __future__ import annotations

import math
from typing import Final, NoReturn

from dig_gossip.connection.rate_table import ENVELOPE_BYTES, send_rows
from dig_gossip.connection.websocket import LARGEST_MESSAGE_BYTES
from dig_gossip.constants import WS_MAX_MESSAGE_BYTES
from dig_gossip.errors import Backpressured, ClientError, ClientErrorKind, WrongDispatch
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import RoutingClass, opcode_name, routing_class

GOSSIPED: Final = frozenset({RoutingClass.FLOOD, RoutingClass.TX})

_PLAIN_ENVELOPE_BYTES: Final = ENVELOPE_BYTES - 2  # without an id


def largest_broadcasts(*, limited: bool) -> tuple[float, ...]:
    """How much data a message that is broadcast may have, bytes, by opcode; -1 where none may be.

    :param limited: the rate limits of peers hold.
    """
    rows = send_rows(both_v2=True, is_rust=False)
    return tuple(
        min(
            WS_MAX_MESSAGE_BYTES - _PLAIN_ENVELOPE_BYTES,
            rows[opcode].max_size if limited else math.inf,
        )
        if routing_class(opcode, False) in GOSSIPED
        else -1
        for opcode in range(256)
    )


def refuse_broadcast(message: Message) -> NoReturn:
    """Say why a message cannot be broadcast.

    :param message: one with an id, or with more data than :func:`largest_broadcasts` says.
    :raises WrongDispatch: the opcode is not one that spreads, or there is an id.
    :raises ClientError: no peer would take a message this large.
    :raises Backpressured: it is larger than its opcode may be.
    """
    if routing_class(message.type, False) not in GOSSIPED:
        raise WrongDispatch(f"{opcode_name(message.type)} is not a message that spreads")
    if message.id is not None:
        raise WrongDispatch("a message with a correlation id is for one peer")
    check_size(message)
    raise Backpressured(f"no peer takes a {opcode_name(message.type)} this large")


def check_size(message: Message, *, is_answer: bool = False) -> None:
    """:raises ClientError: no peer would take a message this large.

    :param is_answer: the peer has asked for it, and takes more (design D7).
    """
    limit = LARGEST_MESSAGE_BYTES if is_answer else WS_MAX_MESSAGE_BYTES
    if len(message) > limit:
        raise ClientError(
            ClientErrorKind.MALFORMED,
            f"{len(message)} bytes are more than the {limit} a message may have",
            retryable=False,
        )
