"""Where the first addresses come from: one interface for DNS, introducers and whatever else.

Source: behaviour §13; style §7.3.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from dig_gossip.discovery.values import KnownAddress


class IPeerSource(Interface):
    """Somebody who can be asked for addresses of nodes.

    The discovery loop asks its sources in order, one question at a time, when the address book
    has nothing to offer. It caps what a source says (``MAX_PEERS_RECEIVED_PER_REQUEST`` an answer,
    ``MAX_TOTAL_PEERS_RECEIVED`` a day) and remembers who said it, so that one source cannot fill
    the book.
    """

    name: str = Attribute(
        """What logs and counters call it, snake_case: ``dns``, ``introducer``."""
    )

    def fetch() -> Deferred[list[KnownAddress]]:
        """Ask once.

        :returns: fires with what was found, possibly nothing. A failure of any kind means the
            same as an empty answer to the loop, which logs it; it never ends the node.

        The source bounds the time it takes. Cancelling the Deferred drops the question and leaves
        no timer, socket or thread behind.
        """
