"""Announce and request, as Chia's full nodes spread transactions.

A model, in the programs row of the stage table. What is new is announced to every peer but the one
it came from (``new_transaction``: id, cost and fees, 48 bytes). Who lacks it asks one announcer
(``request_transaction``, 32 bytes), and the next one if nothing has come after five seconds.

Known properties, without losses and failures: a message takes N - 1 full copies and, as a flood
does, 2E - N + 1 announcements.

Source: chia-blockchain, ``chia/full_node/full_node_api.py``: ``new_transaction``,
``request_transaction``; ``chia/full_node/full_node.py``: ``add_transaction``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from dig_gossip.effects import ClearTimer, Deliver, Effect, Send, SetTimer, TimerKey
from dig_gossip.lab.models.frame import frame, opened
from dig_gossip.types.peer import PeerId
from dig_gossip.wire.message import Message

REQUEST_SECS: Final = 5.0  # before the next announcer is asked
_ANNOUNCE: Final = 1
_REQUEST: Final = 2
_RESPOND: Final = 3
_ANNOUNCE_BYTES: Final = 6 + 32 + 8 + 8
REQUEST_BYTES: Final = 8 + 32
ID_BYTES: Final = 2  # an answer's correlation id

KINDS: Final[Mapping[int, str]] = {
    _ANNOUNCE: "announcements",
    _REQUEST: "control",
    _RESPOND: "payload",
}


class AnnounceRequest:
    """One node. What it has seen is never forgotten."""

    def __init__(self) -> None:
        self._peers: dict[PeerId, None] = {}
        self._have: dict[bytes, Message] = {}
        #: what was asked for -> announcers that were not asked yet
        self._asked: dict[bytes, deque[PeerId]] = {}

    def peer_up(self, peer: PeerId, *, dialed: bool, rtt: float) -> list[Effect]:
        """Take a link in."""
        self._peers[peer] = None
        return []

    def peer_down(self, peer: PeerId) -> list[Effect]:
        """Forget a link; what it was asked for is asked of others when the time is up."""
        self._peers.pop(peer, None)
        return []

    def measured(self, peer: PeerId, rtt: float) -> list[Effect]:
        """Nothing depends on it."""
        return []

    def publish(self, message: Message) -> list[Effect]:
        """Announce to everybody."""
        self._have[message.data] = message
        return self._announce(message, None)

    def received(self, peer: PeerId, message: Message) -> list[Effect]:
        """Take a frame in."""
        got = opened(message)
        if got.type == _ANNOUNCE:
            return self._announced(peer, got.content)
        if got.type == _REQUEST:
            found = self._have.get(got.content)
            if found is None:
                return []
            answer = frame(_RESPOND, len(found) + ID_BYTES, payload=found)
            return [Send((peer,), answer)]
        assert got.payload is not None
        return self._arrived(peer, got.payload)

    def timer_fired(self, key: TimerKey) -> list[Effect]:
        """The announcer that was asked does not answer."""
        digest = key[1]
        return self._ask(digest) if digest in self._asked else []

    def tree_links(self) -> int:
        """A message goes on along all links, though as an announcement."""
        return len(self._peers)

    def _announced(self, peer: PeerId, digest: bytes) -> list[Effect]:
        if digest in self._have:
            return []
        waiting = self._asked.get(digest)
        if waiting is not None:
            waiting.append(peer)
            return []
        self._asked[digest] = deque((peer,))
        return self._ask(digest)

    def _ask(self, digest: bytes) -> list[Effect]:
        waiting = self._asked[digest]
        if not waiting:
            del self._asked[digest]
            return []
        request = frame(_REQUEST, REQUEST_BYTES, digest)
        return [
            Send((waiting.popleft(),), request),
            SetTimer(("request", digest), REQUEST_SECS),
        ]

    def _arrived(self, peer: PeerId, message: Message) -> list[Effect]:
        digest = message.data
        if digest in self._have:
            return []
        self._have[digest] = message
        self._asked.pop(digest, None)
        return [
            ClearTimer(("request", digest)),
            Deliver(peer, message),
            *self._announce(message, peer),
        ]

    def _announce(self, message: Message, source: PeerId | None) -> list[Effect]:
        others = tuple([peer for peer in self._peers if peer != source])
        return [Send(others, frame(_ANNOUNCE, _ANNOUNCE_BYTES, message.data))]
