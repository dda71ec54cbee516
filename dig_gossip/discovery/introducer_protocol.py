"""What a node says to an introducer, and what it makes of the answers.

Pure. Two errands: ask for peers (63 → 64), and register (218 → 219). An introducer is a stranger
like any other: what it says either decodes, within its limits, or fails the errand.

A Chia introducer takes the handshake for the registration, knows no 218, and bans whoever sends
one; it is told apart by what it says of itself: INTRODUCER, without capability 200.

Source: behaviour §17, wire §9.
"""

from __future__ import annotations

import ipaddress
import random
from typing import Final
from urllib.parse import urlsplit

from chia_rs import TimestampedPeerInfo

from dig_gossip.connection.errand import Ask, Done, Step
from dig_gossip.connection.handshake import RemoteHandshake
from dig_gossip.connection.requests import DIALER_IDS
from dig_gossip.constants import MAX_PEERS_RECEIVED_PER_REQUEST
from dig_gossip.errors import ClientError, IntroducerError
from dig_gossip.types.peer import NodeType, PeerAddress
from dig_gossip.wire import registry
from dig_gossip.wire.dig import (
    ErrorMessage,
    RegisterAck,
    RegisterPeer,
    RequestPeersIntroducer,
    RespondPeersIntroducer,
)
from dig_gossip.wire.message import Message
from dig_gossip.wire.opcodes import ChiaMessageType, DigMessageType, opcode_name

#: Chia's introducers say what they are; others say that they are full nodes.
INTRODUCER_NODE_TYPES: Final[frozenset[int]] = frozenset({NodeType.FULL_NODE, NodeType.INTRODUCER})
_REQUEST_ID: Final = DIALER_IDS[0]  # of a connection that sees one request
_MAX_HOST_CHARS: Final = 45
_REGISTRATION_SECS: Final = 1800.0
_BACKOFF_CAP_SECS: Final = 300.0
_MAX_DOUBLINGS: Final = 16


def endpoint_address(url: str) -> tuple[PeerAddress, str, bool]:
    """Take an endpoint apart.

    :param url: as the configuration keeps it: ``ws`` or ``wss``, with a port.
    :returns: the address, the path with its query (``/ws`` where there is none), and whether the
        connection is encrypted.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    path = (parts.path or "/ws") + (f"?{parts.query}" if parts.query else "")
    return PeerAddress(parts.hostname, parts.port), path, parts.scheme == "wss"


def is_implicit(remote: RemoteHandshake) -> bool:
    """Whether this introducer registers whoever greets it, and knows no other way."""
    return remote.node_type == NodeType.INTRODUCER and not remote.tolerates_dig


class Query:
    """Ask for peers. The result has at most 1000 usable rows, possibly none.

    A row is usable if its host is an IP literal and its port is not 0: nothing else can be dialed,
    and nothing else is worth showing anybody.
    """

    node_types = INTRODUCER_NODE_TYPES

    def greeted(self, remote: RemoteHandshake) -> Step[list[TimestampedPeerInfo]]:
        """Ask."""
        return Ask(registry.encode(RequestPeersIntroducer(), _REQUEST_ID))

    def received(self, message: Message) -> Step[list[TimestampedPeerInfo]]:
        """Take the answer.

        :raises IntroducerError: it is another one than was asked for, or none at all.
        """
        if not _is_answer(message, ChiaMessageType.RESPOND_PEERS_INTRODUCER):
            return None
        try:
            rows = RespondPeersIntroducer.from_bytes(message.data).peer_list
        except ClientError as error:
            raise IntroducerError(error.text) from error
        return Done([row for row in rows[:MAX_PEERS_RECEIVED_PER_REQUEST] if _is_usable(row)])


class Registration:
    """Register. The result is the introducer's answer; that it declines is one."""

    node_types = INTRODUCER_NODE_TYPES

    def __init__(self, body: RegisterPeer) -> None:
        self._body = body

    def greeted(self, remote: RemoteHandshake) -> Step[RegisterAck]:
        """Register, unless that has just happened."""
        if is_implicit(remote):
            return Done(RegisterAck(True))
        return Ask(registry.encode(self._body, _REQUEST_ID))

    def received(self, message: Message) -> Step[RegisterAck]:
        """Take the answer.

        :raises IntroducerError: it is another one than was asked for, or none at all.
        """
        if not _is_answer(message, DigMessageType.REGISTER_ACK):
            return None
        try:
            return Done(RegisterAck.from_bytes(message.data))
        except ClientError as error:
            raise IntroducerError(error.text) from error


class RegistrationPlan:
    """When to register again: after half an hour, or sooner and ever less soon after failures.

    The n-th failure in a row keeps us waiting for 2^(n-1) s, 300 s at most. All times vary by 20 %,
    so that nodes which start together do not come back together.

    :ivar failures: in a row.
    Source: behaviour DSC-005.1, DSC-006.3.
    """

    def __init__(self, *, rng: random.Random) -> None:
        self.failures = 0
        self._rng = rng

    def answered(self) -> float:
        """The introducer has answered, whatever it said; seconds to wait."""
        self.failures = 0
        return self._varied(_REGISTRATION_SECS)

    def failed(self) -> float:
        """It could not be reached or understood; seconds to wait."""
        delay = min(_BACKOFF_CAP_SECS, 2.0 ** min(self.failures, _MAX_DOUBLINGS))
        self.failures += 1
        return self._varied(delay)

    def _varied(self, seconds: float) -> float:
        return seconds * self._rng.uniform(0.8, 1.2)


def _is_answer(message: Message, expected: int) -> bool:
    """Tell the answer from what an introducer may say besides.

    :raises IntroducerError: it answers our request with something else.
    """
    if message.type == expected and message.id in (_REQUEST_ID, None):
        return True
    if message.id != _REQUEST_ID:
        return False
    if message.type == ChiaMessageType.ERROR:
        try:
            error = ErrorMessage.from_bytes(message.data)
        except ClientError:
            raise IntroducerError("the introducer answered with an error") from None
        raise IntroducerError(f"the introducer answered with error {error.code}: {error.message}")
    raise IntroducerError(f"the introducer answered with {opcode_name(message.type)}")


def _is_usable(row: TimestampedPeerInfo) -> bool:
    # The scope of an IPv6 address may be any text.
    if not row.port or len(row.host) > _MAX_HOST_CHARS or "%" in row.host:
        return False
    try:
        ipaddress.ip_address(row.host)
    except ValueError:
        return False
    return True
