"""Where simulated nodes are: addresses in networks, and who has which.

Programs row of the stage table; pure. ``benchmarks/eclipse.py`` draws its addresses here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Final

from dig_gossip.lab.engine_options import Addresses
from dig_gossip.types.ip import is_routable_ip
from dig_gossip.types.peer import PeerAddress

PORT: Final = 9444


def networks(rng: Random) -> Iterator[int]:
    """Routable IPv4 /16, each as a number of 16 bits and once, in random order."""
    routable = [n for n in range(1 << 16) if is_routable_ip(n.to_bytes(2, "big") + b"\x07\x07")]
    rng.shuffle(routable)
    return iter(routable)


def draw_addresses(rng: Random, homes: Iterable[Sequence[int]]) -> list[PeerAddress]:
    """Draw a different address for each of the homes, lists of networks."""
    found: dict[PeerAddress, None] = {}
    for home in homes:
        while True:
            group = rng.choice(home)
            host = f"{group >> 8}.{group & 255}.{rng.randrange(256)}.{rng.randrange(256)}"
            address = PeerAddress(host, PORT)
            if address not in found:
                found[address] = None
                break
    return list(found)


class AddressPlan:
    """The addresses of all nodes of a run.

    :param hostile: nodes of the attacker's; they share ``attacker_networks``.
    :ivar of: of each node.
    :ivar owner: node by address.
    """

    def __init__(self, options: Addresses, nodes: int, hostile: Iterable[int], rng: Random) -> None:
        groups = networks(rng)
        honest_homes = [next(groups) for _ in range(options.networks)]
        hostile_homes = [next(groups) for _ in range(options.attacker_networks)]
        bad = frozenset(hostile)
        self.of = draw_addresses(
            rng, [hostile_homes if node in bad else honest_homes for node in range(nodes)]
        )
        self.owner = {address: node for node, address in enumerate(self.of)}
        self.hostile = frozenset(self.of[node] for node in bad)
