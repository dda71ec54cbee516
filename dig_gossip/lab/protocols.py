"""The protocols that can be simulated, by name.

Programs row of the stage table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

from dig_gossip.discovery.address_manager import AddressManager
from dig_gossip.lab import blocks, books, stems, transactions
from dig_gossip.lab.machine import DIG_KINDS, Kind, Machine, PlumtreeMachine
from dig_gossip.lab.models import announce, gossipsub, paper_plumtree
from dig_gossip.lab.models.flood import Flood
from dig_gossip.lab.scenario import Scenario


def _gossipsub(*, with_idontwant: bool) -> Kind:
    def build(scenario: Scenario, node: int, now: Callable[[], float], rng: Random) -> Machine:
        return gossipsub.GossipsubMachine(
            scenario.gossipsub, with_idontwant=with_idontwant, now=now, rng=rng
        )

    return Kind(build=build, kinds=gossipsub.KINDS)


def _books(manager: type[AddressManager]) -> Kind:
    return Kind(build=lambda *_: Flood(), kinds=books.KINDS, manager=manager)


#: See :data:`dig_gossip.lab.scenario.PROTOCOLS` for the order.
KINDS_BY_PROTOCOL: Final[Mapping[str, Kind]] = {
    "plumtree": Kind(build=PlumtreeMachine, kinds=DIG_KINDS, pings=True),
    "flood": Kind(build=lambda *_: Flood(), kinds=DIG_KINDS),
    "flood-unlimited": Kind(build=lambda *_: Flood(), kinds=DIG_KINDS, unlimited=True),
    "announce": Kind(build=lambda *_: announce.AnnounceRequest(), kinds=announce.KINDS),
    "gossipsub-1.1": _gossipsub(with_idontwant=False),
    "gossipsub-1.2": _gossipsub(with_idontwant=True),
    "plumtree-paper": Kind(
        build=lambda *_: paper_plumtree.PaperPlumtree(), kinds=paper_plumtree.KINDS
    ),
    "erlay": Kind(build=transactions.erlay, kinds=transactions.KINDS),
    "erlay-safety-net": Kind(build=transactions.safety_net, kinds=transactions.KINDS, pings=True),
    "dandelion": Kind(build=stems.dandelion, kinds=stems.STEM_KINDS),
    "dandelion-safety-net": Kind(build=stems.dandelion_tree, kinds=stems.STEM_KINDS, pings=True),
    "compact-blocks": Kind(build=blocks.BlockMachine, kinds=blocks.KINDS, pings=True),
    "plumtree-lanes": Kind(build=PlumtreeMachine, kinds=DIG_KINDS, pings=True, laned=True),
    "address-books": _books(AddressManager),
    "address-books-uniform": _books(books.UniformAddressManager),
}
