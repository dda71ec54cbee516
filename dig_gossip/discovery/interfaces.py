"""Where strangers may plug in: how addresses are kept, and who owns a network.

Source: style §7.3.
"""

from __future__ import annotations

from zope.interface import Interface

from dig_gossip.discovery.values import AddressBook
from dig_gossip.types.peer import PeerAddress


class IAddressStore(Interface):
    """Keeps an address book between two runs of a node.

    All methods may wait for a disk, so the node calls them in a thread, one at a time.
    """

    def open() -> None:
        """Claim the store for this process.

        :raises Io: another process has it, or it cannot be reached.
        """

    def load() -> AddressBook | None:
        """The book that was saved last; None if there is none, or none that can be used.

        :raises Io: it is there and may not be read.
        """

    def set_aside(reason: str) -> None:
        """What :meth:`load` gave cannot be used; keep it for an operator and forget it.

        :raises Io: it cannot be moved.
        """

    def save(book: AddressBook) -> None:
        """Replace the saved book.

        :raises Io: it cannot be written; what was saved before is still there.
        """

    def close() -> None:
        """Give the store back; without effect if it is not open."""


class IAsLookup(Interface):
    """Knows which autonomous system announces an address."""

    def lookup(address: PeerAddress) -> int | None:
        """The number of the autonomous system, 1 and up; None where it is not known.

        Called for every candidate and every session before each dial: it must not wait.
        """
