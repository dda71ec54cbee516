"""Tell ``twistd`` and ``twist`` about the node. Nothing else is imported here."""

from twisted.application.service import ServiceMaker

dig_gossip = ServiceMaker(
    "dig-gossip",
    "dig_gossip.tap",
    "A node of the DIG Network's peer-to-peer gossip layer.",
    "dig-gossip",
)
