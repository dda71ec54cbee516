"""Answers STUN Binding requests, sparingly: an open responder is an amplifier for others.

Source: behaviour RSV-111-X.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from dig_gossip.errors import ClientError
from dig_gossip.relay.limits import MAX_TRACKED_HOSTS, Bucket
from dig_gossip.types.peer import PeerAddress, host_prefix
from dig_gossip.wire import stun

REPLIES_PER_HOST: Final = 5.0  # a second
REPLIES: Final = 1000.0  # a second


class StunResponder:
    """Says where a datagram came from.

    Bounds: 65 536 addresses, the longest unused go first. Silent towards everything but a
    well-formed Binding request.

    :param now: monotonic seconds.
    """

    def __init__(self, *, now: Callable[[], float]) -> None:
        self.answered = 0
        self.ignored = 0
        self._now = now
        self._all = Bucket(REPLIES, now())
        self._hosts: OrderedDict[str, Bucket] = OrderedDict()

    def answer(self, datagram: bytes, source: PeerAddress) -> bytes | None:
        """Make the answer to a datagram; None for none."""
        try:
            transaction_id = stun.parse_request(datagram)
        except ClientError:
            self.ignored += 1
            return None
        now = self._now()
        prefix = host_prefix(source.host)
        bucket = self._hosts.pop(prefix, None) or Bucket(REPLIES_PER_HOST, now)
        self._hosts[prefix] = bucket
        if len(self._hosts) > MAX_TRACKED_HOSTS:
            self._hosts.popitem(last=False)
        if not (bucket.take(1, now) and self._all.take(1, now)):
            self.ignored += 1
            return None
        self.answered += 1
        return stun.build_response(transaction_id, source)
